//! Names that callers choose, each with its one alphabet and length.

use std::fmt;

use super::invalid::Invalid;

/// Bytes in a lattice's name, at most.
pub const LATTICE_BYTES_MAX: usize = 63;
/// Bytes in a link's name, at most.
pub const LINK_NAME_BYTES_MAX: usize = 128;
/// Bytes in a contract id, at most.
pub const CONTRACT_ID_BYTES_MAX: usize = 256;
/// Bytes in the name of a NATS cluster or in a tag of its servers, at most.
const SERVER_WORD_BYTES_MAX: usize = 128;
/// Bytes in a client's request id.
pub const REQUEST_ID_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// A lattice's name: one subject token that is also valid in a bucket's name.
///
/// Hosts document the alphabet `[A-Za-z0-9_-]` (wasmCloud 0.82, "lattice protocols, names").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LatticeName(Box<str>);

impl LatticeName {
    /// Parses a name of 1 to [`LATTICE_BYTES_MAX`] bytes of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        bounded("lattice_bytes_max", LATTICE_BYTES_MAX, text)?;
        within("A-Z a-z 0-9 _ -", text, is_name_byte)?;
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LatticeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LatticeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A client's name for an intent, `[A-Za-z0-9_-]{8,64}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Parses an id of 8 to 64 bytes of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if !REQUEST_ID_BYTES.contains(&text.len()) {
            return Err(Invalid::Rule(
                "must be 8 to 64 bytes long, such as a UUID; leave it out to have one made",
            ));
        }
        within("A-Z a-z 0-9 _ -", text, is_name_byte)?;
        Ok(Self(text.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a link's name, `[A-Za-z0-9_-]{1,128}` (wasmCloud 0.82, "lattice protocols, names").
pub fn link_name(text: &str) -> Result<Box<str>, Invalid> {
    bounded("link_name_bytes_max", LINK_NAME_BYTES_MAX, text)?;
    within("A-Z a-z 0-9 _ -", text, is_name_byte)?;
    Ok(text.into())
}

/// Checks a contract id, `[A-Za-z0-9_:-]{1,256}` (same source).
pub fn contract_id(text: &str) -> Result<Box<str>, Invalid> {
    bounded("contract_id_bytes_max", CONTRACT_ID_BYTES_MAX, text)?;
    within("A-Z a-z 0-9 _ - :", text, |byte| {
        is_name_byte(byte) || byte == b':'
    })?;
    Ok(text.into())
}

/// Checks the name of a NATS cluster or the tag of a server, 1 to 128 visible ASCII characters.
pub fn server_word(text: &str) -> Result<Box<str>, Invalid> {
    if text.len() > SERVER_WORD_BYTES_MAX {
        return Err(Invalid::Rule("is longer than 128 bytes"));
    }
    if text.is_empty() {
        return Err(Invalid::Missing);
    }
    within("visible ASCII characters", text, |byte| byte.is_ascii_graphic())?;
    Ok(text.into())
}

/// Refuses an empty text and one over `max` bytes.
pub(super) fn bounded(limit: &'static str, max: usize, text: &str) -> Result<(), Invalid> {
    match text.len() {
        0 => Err(Invalid::Missing),
        actual if actual > max => Err(Invalid::TooLong { limit, max, actual }),
        _ => Ok(()),
    }
}

/// Refuses the first character that is not an ASCII byte accepted by `accepts`.
pub(super) fn within(allowed: &'static str, text: &str, accepts: impl Fn(u8) -> bool) -> Result<(), Invalid> {
    let stranger = text
        .char_indices()
        .find(|(_, found)| !u8::try_from(*found).is_ok_and(|byte| byte.is_ascii() && accepts(byte)));
    match stranger {
        Some((at, found)) => Err(Invalid::Character { at, found, allowed }),
        None => Ok(()),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lattice_name_is_one_subject_token() {
        assert_eq!(
            LatticeName::parse("wasm-cloud_1").unwrap().as_str(),
            "wasm-cloud_1"
        );
        for hostile in [
            "",
            "a.b",
            "*",
            ">",
            "a b",
            "a\r\nPUB x 0",
            "é",
            "a\0",
            &"a".repeat(64),
        ] {
            assert!(LatticeName::parse(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn a_request_id_is_never_short_and_never_hostile() {
        assert!(RequestId::parse("12345678").is_ok());
        for hostile in ["", "1234567", "12345678\n", "12345678.", &"a".repeat(65)] {
            assert!(RequestId::parse(hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn the_first_stranger_is_named_with_its_place() {
        assert_eq!(
            contract_id("wasmcloud:http/server"),
            Err(Invalid::Character {
                at: 14,
                found: '/',
                allowed: "A-Z a-z 0-9 _ - :"
            })
        );
    }
}
