//! JSON as Elixir's Jason reads it: of members with one name, the *first* counts.
//!
//! serde takes the last, so a record with doubled members would read differently here and in a host. A name
//! over 255 characters is refused at any depth: hosts since 0.57.2 make an atom of it and fail.

use serde_json::{Map, Value};

use crate::domain::json::{self, MemberRule};

const NAME_CHARACTERS_MAX: usize = 255;
const LONG_NAME: &str = "a member's name is over 255 characters";

/// Parses an object; the error says what a host would stumble over.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, &'static str> {
    match json::object::<FirstWins>(bytes) {
        Ok(Some(object)) => Ok(object),
        Ok(None) => Err("not a JSON object"),
        Err(error) if error.to_string().starts_with(LONG_NAME) => Err(LONG_NAME),
        Err(_) => Err("not JSON"),
    }
}

struct FirstWins;

impl MemberRule for FirstWins {
    fn take(object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), &'static str> {
        if name.chars().count() > NAME_CHARACTERS_MAX {
            return Err(LONG_NAME);
        }
        object.entry(name).or_insert(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_doubled_members_counts_at_any_depth() {
        let object = object(br#"{"a":1,"b":{"x":"first","x":"last"},"a":2}"#).unwrap();
        assert_eq!(
            Value::Object(object),
            serde_json::json!({"a": 1, "b": {"x": "first"}})
        );
    }

    #[test]
    fn what_hosts_choke_on_is_refused() {
        let long = format!(r#"{{"values":{{"{}":"v"}}}}"#, "k".repeat(256));
        assert_eq!(object(long.as_bytes()), Err(LONG_NAME));
        for body in [
            &b""[..],
            b"null",
            b"[]",
            b"{",
            b"{} {}",
            b"\xff",
            b"\xef\xbb\xbf{}",
        ] {
            assert!(object(body).is_err());
        }
    }
}
