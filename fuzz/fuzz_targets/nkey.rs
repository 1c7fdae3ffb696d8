//! Public nkeys: the kind is the one asked for, and weak keys are told as the curve's library tells them.

#![no_main]

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::VerifyingKey;
use lattice_gateway::domain::nkey::{Nkey, NkeyKind};
use libfuzzer_sys::fuzz_target;

const KINDS: [NkeyKind; 4] = [
    NkeyKind::Account,
    NkeyKind::Module,
    NkeyKind::Provider,
    NkeyKind::Host,
];
const PREFIXES: [u8; 4] = [0, 12 << 3, 21 << 3, 13 << 3];

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = str::from_utf8(input) {
        any_text(text);
    }
    if let Some((prefix, key)) = input.split_first_chunk()
        && let Ok(key) = key.try_into()
    {
        well_formed(*prefix, key);
    }
});

fn any_text(text: &str) {
    let accepting = KINDS.map(|kind| Nkey::parse(text, &[kind]));
    let accepted = accepting.iter().flatten().count();
    assert!(accepted <= 1);
    match Nkey::parse(text, &KINDS) {
        Err(_) => assert_eq!(accepted, 0),
        Ok(key) => {
            assert_eq!(accepted, 1);
            assert_eq!(key.as_str(), text);
            let bytes = BASE32_NOPAD.decode(text.as_bytes()).expect("one encoding only");
            assert_eq!(BASE32_NOPAD.encode(&bytes), text);
        }
    }
    if let Ok((key, point)) = Nkey::parse_with_key(text, &KINDS) {
        assert_eq!(Ok(key), Nkey::parse(text, &KINDS));
        assert!(!point.is_weak());
    }
}

fn well_formed([prefix]: [u8; 1], key: [u8; 32]) {
    let mut bytes = vec![prefix];
    bytes.extend(key);
    bytes.extend(crc16(&bytes).to_le_bytes());
    let text = BASE32_NOPAD.encode(&bytes);
    any_text(&text);
    let point = VerifyingKey::from_bytes(&key);
    let is_weak = point.as_ref().is_ok_and(VerifyingKey::is_weak);
    let is_kind = PREFIXES.contains(&prefix);
    assert_eq!(Nkey::parse(&text, &KINDS).is_ok(), is_kind && !is_weak, "{text}");
    assert_eq!(
        Nkey::parse_with_key(&text, &KINDS).is_ok(),
        is_kind && !is_weak && point.is_ok(),
        "{text}"
    );
}

/// XMODEM's, as nkeys use it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            }
        })
    })
}
