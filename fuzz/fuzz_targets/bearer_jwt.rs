//! Bearer tokens up to their signature: what is read from one is what any reader reads, and its times are
//! times.
//!
//! An input is a token, and also the header and the body of one that is put together here.

#![no_main]

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::{
    auth::jwt::token::{TOKEN_BYTES_MAX, UNIX_SECONDS_MAX, Unverified, check_audience, check_times},
    support::fields,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const NOW: i64 = 1_800_000_000;
const LEEWAY: Duration = Duration::from_secs(30);

fuzz_target!(|input: &str| {
    check(input);
    let [header, body] = fields(input).map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
    check(&format!("{header}.{body}.c2lnbmVk"));
});

fn check(token: &str) {
    let parsed = match Unverified::parse(token) {
        Ok(parsed) => parsed,
        Err(refused) => return assert!(!refused.cause().is_empty()),
    };
    assert!(token.len() <= TOKEN_BYTES_MAX);
    let segments: Vec<_> = token.split('.').collect();
    let [header, body, signature] = segments[..] else {
        panic!("{token} was read");
    };
    assert_eq!(format!("{header}.{body}"), parsed.signed);
    assert_eq!(signature, BASE64URL_NOPAD.encode(&parsed.signature));
    let (header, body) = (read(header), read(body));
    assert_eq!(header["alg"], parsed.algorithm.as_str());
    assert_eq!(header["kid"].as_str(), parsed.key_id.as_deref());
    assert_eq!(header.get("crit"), None);
    assert_eq!(body["iss"].as_str(), parsed.issuer());
    if let Ok(expires) = check_times(&parsed.claims, NOW, LEEWAY) {
        assert!((NOW - 30..=UNIX_SECONDS_MAX).contains(&expires));
        assert!(body["exp"].is_number());
    }
    if check_audience(&parsed.claims, &["gateway".to_owned()]).is_ok() {
        let names = body["aud"]
            .as_array()
            .map_or(vec![&body["aud"]], |names| names.iter().collect());
        assert!(names.contains(&&Value::from("gateway")));
    }
    assert_eq!(body, Value::Object(parsed.claims));
}

fn read(segment: &str) -> Value {
    serde_json::from_slice(&BASE64URL_NOPAD.decode(segment.as_bytes()).expect("base64url")).expect("JSON")
}
