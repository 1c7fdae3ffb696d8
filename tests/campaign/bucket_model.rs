//! What hosts since 0.60 make of a bucket, told without any of the gateway's code: the last message of a key counts, and
//! one whose operation is `DEL` or `PURGE` says that the key is gone.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde_json::{Value, json};

/// The bodies of the keys that stand, by subject. `ask` makes a call of `STREAM.MSG.GET` on the bucket's stream.
pub async fn standing(ask: impl AsyncFn(Value) -> Value) -> BTreeMap<String, Vec<u8>> {
    const NO_MESSAGE_FOUND: u64 = 10037;
    let mut standing = BTreeMap::new();
    let mut from = 1_u64;
    loop {
        let answer = ask(json!({"seq": from, "next_by_subj": ">"})).await;
        let Some(message) = answer.get("message") else {
            assert_eq!(answer["error"]["err_code"], NO_MESSAGE_FOUND, "{answer}");
            return standing;
        };
        let decoded = |member: &str| {
            let text = message.get(member).and_then(Value::as_str).unwrap_or_default();
            BASE64.decode(text.as_bytes()).unwrap()
        };
        let headers = String::from_utf8(decoded("hdrs")).unwrap();
        let operation = headers
            .lines()
            .find_map(|line| line.strip_prefix("KV-Operation:"));
        let subject = message["subject"].as_str().unwrap().to_owned();
        match operation.map(str::trim) {
            Some("DEL" | "PURGE") => drop(standing.remove(&subject)),
            _ => drop(standing.insert(subject, decoded("data"))),
        }
        from = message["seq"].as_u64().unwrap() + 1;
    }
}
