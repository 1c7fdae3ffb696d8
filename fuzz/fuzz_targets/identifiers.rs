//! Names that callers choose: what parses is kept as it is, within its alphabet and its length.

#![no_main]

use lattice_gateway::domain::{
    Invalid, LatticeName, RequestId,
    identifier::{
        CONTRACT_ID_BYTES_MAX, LATTICE_BYTES_MAX, LINK_NAME_BYTES_MAX, REQUEST_ID_BYTES, contract_id,
        link_name,
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lattice = LatticeName::parse(text);
    let request = RequestId::parse(text);
    check(
        text,
        lattice.as_ref().map(LatticeName::as_str),
        1..=LATTICE_BYTES_MAX,
        "",
    );
    check(
        text,
        request.as_ref().map(RequestId::as_str),
        REQUEST_ID_BYTES,
        "",
    );
    check(text, link_name(text).as_deref(), 1..=LINK_NAME_BYTES_MAX, "");
    check(text, contract_id(text).as_deref(), 1..=CONTRACT_ID_BYTES_MAX, ":");
});

fn check(given: &str, parsed: Result<&str, &Invalid>, bytes: std::ops::RangeInclusive<usize>, also: &str) {
    let is_within = given
        .chars()
        .all(|found| found.is_ascii_alphanumeric() || "_-".contains(found) || also.contains(found));
    match parsed {
        Ok(kept) => {
            assert_eq!(kept, given);
            assert!(is_within && bytes.contains(&given.len()));
        }
        Err(invalid) => {
            assert!(!is_within || !bytes.contains(&given.len()));
            assert!(invalid.to_string().len() < 200);
            if let Invalid::Character { at, found, .. } = invalid {
                assert!(given[*at..].starts_with(*found));
            }
        }
    }
}
