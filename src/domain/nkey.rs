//! Public nkeys: 56 characters of base32 over a kind, an Ed25519 key and a CRC.
//!
//! Decoded by the `nkeys` crate (alphabet, length, CRC); on top, the kind is pinned and keys on which
//! signatures prove nothing are refused. Source: wascap 0.6–0.16 and NATS' nkeys.

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
        Self::parse_with_key(text, kinds).map(|(nkey, _)| nkey)
    }

    /// Parses a key of one of `kinds`, and gives the Ed25519 key in it as well.
    pub fn parse_with_key(text: &str, kinds: &[NkeyKind]) -> Result<(Self, VerifyingKey), Invalid> {
        if text.is_empty() {
            return Err(Invalid::Missing);
        }
        let (prefix, bytes) = decode(text)?;
        if !kinds.iter().any(|kind| kind.prefix_byte() == prefix) {
            return Err(Invalid::Rule(wrong_kind(kinds)));
        }
        let key = VerifyingKey::from_bytes(&bytes)
            .ok()
            .filter(|key| !key.is_weak())
            .ok_or(Invalid::Rule(
                "is not a usable public key: signatures on it would prove nothing",
            ))?;
        Ok((Self(text.into()), key))
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

fn decode(text: &str) -> Result<(u8, [u8; 32]), Invalid> {
    const LENGTH: usize = 56;
    const SEED_LENGTH: usize = 58;
    match text.len() {
        LENGTH => {}
        SEED_LENGTH if text.starts_with('S') => {
            return Err(Invalid::Rule(
                "looks like a seed, which is a secret; give the public key",
            ));
        }
        _ => return Err(Invalid::Rule("must be a public nkey of 56 characters")),
    }
    nkeys::from_public_key(text)
        .map_err(|_malformed| Invalid::Rule("is not a public nkey: its characters or its checksum are wrong"))
}

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
    fn a_seed_is_recognised_and_not_repeated() {
        let seed = format!("SM{}", "A".repeat(56));
        let refusal = Nkey::parse(&seed, &[NkeyKind::Module]).unwrap_err().to_string();
        assert!(refusal.contains("seed") && !refusal.contains(&seed));
    }
}
