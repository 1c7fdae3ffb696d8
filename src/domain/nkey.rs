//! Public nkeys: 56 characters of base32 over a kind, an Ed25519 key and a CRC.
//!
//! Decoded by the `nkeys` crate (alphabet, length, CRC); on top, the kind is pinned and keys on which
//! signatures prove nothing are refused. That a key is on the curve at all shows where a signature is verified.
//! Source: wascap 0.6–0.16 and NATS' nkeys; RFC 8032 for the curve.

use std::fmt;

use ed25519_dalek::VerifyingKey;

use super::invalid::Invalid;

/// What an nkey stands for, by its first letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NkeyKind {
    /// `A…`: an account, which signs modules.
    Account,
    /// `M…`: an actor's module.
    Module,
    /// `V…`: a capability provider.
    Provider,
    /// `N…`: a host.
    Host,
}

impl NkeyKind {
    fn prefix_byte(self) -> u8 {
        match self {
            Self::Account => 0,
            Self::Module => 12 << 3,
            Self::Provider => 21 << 3,
            Self::Host => 13 << 3,
        }
    }
}

/// A public nkey that decodes, has its CRC right and is not weak.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nkey(Box<str>);

impl Nkey {
    /// Parses a key of one of `kinds`.
    pub fn parse(text: &str, kinds: &[NkeyKind]) -> Result<Self, Invalid> {
        decode(text, kinds).map(|_bytes| Self(text.into()))
    }

    /// Parses a key of one of `kinds`, and gives the Ed25519 key in it as well.
    pub fn parse_with_key(text: &str, kinds: &[NkeyKind]) -> Result<(Self, VerifyingKey), Invalid> {
        let bytes = decode(text, kinds)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_off_the_curve| Invalid::Rule(UNUSABLE))?;
        Ok((Self(text.into()), key))
    }

    /// A new host's key, whose secret half nobody keeps.
    pub fn new_host() -> Self {
        Self(nkeys::KeyPair::new_server().public_key().into())
    }

    /// The 56 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const UNUSABLE: &str = "is not a usable public key: signatures on it would prove nothing";

fn decode(text: &str, kinds: &[NkeyKind]) -> Result<[u8; 32], Invalid> {
    const LENGTH: usize = 56;
    const SEED_LENGTH: usize = 58;
    match text.len() {
        0 => return Err(Invalid::Missing),
        LENGTH => {}
        SEED_LENGTH if text.starts_with('S') => {
            return Err(Invalid::Rule(
                "looks like a seed, which is a secret; give the public key",
            ));
        }
        _ => return Err(Invalid::Rule("must be a public nkey of 56 characters")),
    }
    let (prefix, bytes) = nkeys::from_public_key(text).map_err(|_malformed| {
        Invalid::Rule("is not a public nkey: its characters or its checksum are wrong")
    })?;
    if !kinds.iter().any(|kind| kind.prefix_byte() == prefix) {
        return Err(Invalid::Rule(wrong_kind(kinds)));
    }
    match is_of_small_order(bytes) {
        true => Err(Invalid::Rule(UNUSABLE)),
        false => Ok(bytes),
    }
}

/// Whether it encodes one of the eight points of small order, on which anyone can sign. Told by the y coordinate alone,
/// without the square root that a decompression takes.
fn is_of_small_order(mut key: [u8; 32]) -> bool {
    const P_LAST: [u8; 30] = [0xff; 30];
    let [first, middle @ .., last] = &mut key;
    // The sign of x.
    *last &= 0x7f;
    match (*first, *last) {
        // y = 0 and y = 1.
        (0 | 1, 0) => middle.iter().all(|byte| *byte == 0),
        // y = -1; p and p + 1 are 0 and 1 written another way.
        (0xec..=0xee, 0x7f) => *middle == P_LAST,
        _ => ORDER_EIGHT.contains(&key),
    }
}

/// The y coordinates of the four points of order eight, little-endian.
const ORDER_EIGHT: [[u8; 32]; 2] = [
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

fn wrong_kind(kinds: &[NkeyKind]) -> &'static str {
    match kinds {
        [NkeyKind::Account] => "must be the public key of an account (`A…`)",
        [NkeyKind::Module] => "must be the public key of an actor (`M…`)",
        [NkeyKind::Provider] => "must be the public key of a provider (`V…`)",
        [NkeyKind::Host] => "must be the public key of a host (`N…`)",
        _ => "must be the public key of an actor (`M…`) or a provider (`V…`)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Real keys of the wasmCloud echo example.
    const MODULE: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
    const ACCOUNT: &str = "ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW";

    #[test]
    fn real_keys_parse_by_kind() {
        assert!(Nkey::parse(MODULE, &[NkeyKind::Module]).is_ok());
        assert!(Nkey::parse(ACCOUNT, &[NkeyKind::Account]).is_ok());
        assert!(Nkey::parse(ACCOUNT, &[NkeyKind::Module]).is_err());
    }

    #[test]
    fn a_wrong_character_fails_the_checksum() {
        let damaged = MODULE.replace("JW2", "JW3");
        assert!(Nkey::parse(&damaged, &[NkeyKind::Module]).is_err());
        assert!(Nkey::parse(&MODULE.to_lowercase(), &[NkeyKind::Module]).is_err());
    }

    #[test]
    fn weak_keys_are_refused() {
        // All 'A': prefix 0, key 0, CRC 0. A small-order point on which anyone can sign.
        assert!(Nkey::parse(&"A".repeat(56), &[NkeyKind::Account]).is_err());
    }

    #[test]
    fn small_order_is_told_as_the_curve_library_tells_it() {
        let of = |first: u8, middle: u8, last: u8| {
            let mut key = [middle; 32];
            (key[0], key[31]) = (first, last);
            key
        };
        let mut weak = ORDER_EIGHT.to_vec();
        weak.extend([of(0, 0, 0), of(1, 0, 0)]);
        weak.extend([0xec, 0xed, 0xee].map(|first| of(first, 0xff, 0x7f)));
        for mut key in weak {
            for sign in [0, 0x80] {
                key[31] |= sign;
                assert!(is_of_small_order(key));
                assert!(
                    VerifyingKey::from_bytes(&key).is_ok_and(|key| key.is_weak()),
                    "{key:?}"
                );
            }
        }
        for first in 0..=255 {
            for key in [of(first, 0, 0), of(first, 0xff, 0x7f), of(first, 7, 7)] {
                let is_weak = VerifyingKey::from_bytes(&key).is_ok_and(|key| key.is_weak());
                assert_eq!(is_of_small_order(key), is_weak, "{key:?}");
            }
        }
    }

    #[test]
    fn a_seed_is_recognised_and_not_repeated() {
        let seed = format!("SM{}", "A".repeat(56));
        let refusal = Nkey::parse(&seed, &[NkeyKind::Module]).unwrap_err().to_string();
        assert!(refusal.contains("seed") && !refusal.contains(&seed));
    }
}
