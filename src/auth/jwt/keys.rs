//! The keys of an issuer (JWK sets, RFC 7517), and what each of them proves.
//!
//! Invariant: a key checks a signature only with an algorithm that it is for, by its `kty` and `crv`, its
//! `alg`, its `use` and its `key_ops`. What a token says can choose among such pairs and never make another
//! one.

use std::{fmt, fs::File, io::Read, path::Path};

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};

use super::{algorithm::Algorithm, refused::JwtRefused};
use crate::domain::{json, jws};

/// Bytes in a set of keys, at most.
pub(super) const KEY_SET_BYTES_MAX: usize = 1024 * 1024;
/// Bits in the modulus of an RSA key, at least (RFC 7518, section 3.3) and at most (what is worth the time).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// How a point begins that is written with both of its coordinates (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// The keys of an issuer that can be used. Others are left out, as RFC 7517, section 5, has it.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<PublicKey>,
    /// Why keys were left out: the first is key 1.
    pub(super) left_out: Vec<LeftOut>,
}

/// A key that cannot be used.
#[derive(Debug)]
pub(super) struct LeftOut {
    number: usize,
    why: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} {}", self.number, self.why)
    }
}

/// Why there is no set of keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetInvalid {
    /// Over [`KEY_SET_BYTES_MAX`].
    #[error("the set of keys is over {KEY_SET_BYTES_MAX} bytes")]
    TooLarge,
    /// Not the JSON of one.
    #[error("it is not a JWK set, a JSON object with an array of objects as `keys`, and no member twice")]
    NotAKeySet,
    /// No file, or none that can be read.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// Nothing that would ever verify.
    #[error("no key in it can be used: {}", reasons(.0))]
    Unusable(Vec<LeftOut>),
}

fn reasons(left_out: &[LeftOut]) -> String {
    match left_out {
        [] => "there is none".to_owned(),
        keys => keys
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

impl KeySet {
    /// Reads a set, of which nothing may be usable: so an issuer withdraws its keys.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetInvalid> {
        if text.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetInvalid::TooLarge);
        }
        let set = json::unambiguous_object(text).ok_or(KeySetInvalid::NotAKeySet)?;
        let items = set
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetInvalid::NotAKeySet)?;
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (item, number) in items.iter().zip(1..) {
            match PublicKey::parse(item.as_object().ok_or(KeySetInvalid::NotAKeySet)?) {
                Ok(key) => keys.push(key),
                Err(why) => left_out.push(LeftOut { number, why }),
            }
        }
        Ok(Self { keys, left_out })
    }

    /// Reads a file with a set that has at least one usable key.
    pub(super) fn read(file: &Path) -> Result<Self, KeySetInvalid> {
        // One more than allowed, so that too many are noticed.
        let bytes_max = u64::try_from(KEY_SET_BYTES_MAX).unwrap_or(u64::MAX) + 1;
        let mut text = Vec::new();
        File::open(file)
            .and_then(|file| file.take(bytes_max).read_to_end(&mut text))
            .map_err(KeySetInvalid::Unreadable)?;
        let set = Self::parse(&text)?;
        match set.keys.is_empty() {
            true => Err(KeySetInvalid::Unusable(set.left_out)),
            false => Ok(set),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The one key that a token may be signed with. Without a `kid`, that is the only one for its algorithm.
    pub(super) fn select(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<Check<'_>, JwtRefused> {
        let mut named = self
            .keys
            .iter()
            .filter(|key| key_id.is_none() || key.id.as_deref() == key_id)
            .peekable();
        let is_known = key_id.is_some() && named.peek().is_some();
        let mut fitting = named.filter_map(|key| key.check(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(check), None) => Ok(check),
            (Some(_), Some(_)) => Err(JwtRefused::AmbiguousKey),
            (None, _) if is_known => Err(JwtRefused::KeyMismatch),
            (None, _) => Err(JwtRefused::UnknownKey),
        }
    }
}

/// A key and an algorithm that it is for.
#[derive(Clone, Copy)]
pub(super) enum Check<'a> {
    Rsa(&'static RsaParameters, &'a RsaPublicKeyComponents<Vec<u8>>),
    Point(&'static dyn VerificationAlgorithm, &'a [u8]),
}

impl Check<'_> {
    /// Whether the signature of `signed` is made with the key's other half.
    pub(super) fn holds(self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(parameters, key) => key.verify(parameters, signed, signature),
            Self::Point(algorithm, point) => {
                UnparsedPublicKey::new(algorithm, point).verify(signed, signature)
            }
        }
        .is_ok()
    }
}

#[derive(Debug)]
struct PublicKey {
    id: Option<Box<str>>,
    /// The one algorithm that the issuer wants it used with.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// Reads a key, or says why it cannot be used.
    fn parse(key: &Map<String, Value>) -> Result<Self, &'static str> {
        if key.contains_key("d") {
            // Whoever can read it can sign with it.
            return Err("is a private key (`d`)");
        }
        if text(key, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("is not for signatures (`use`)");
        }
        if key.get("key_ops").is_some_and(|operations| !verifies(operations)) {
            return Err("is not for verifying (`key_ops`)");
        }
        let only = text(key, "alg")?
            .map(|name| Algorithm::parse(name).ok_or("is for another algorithm (`alg`)"))
            .transpose()?;
        Ok(Self {
            id: text(key, "kid")?.map(Into::into),
            only,
            material: Material::parse(key)?,
        })
    }

    fn check(&self, algorithm: Algorithm) -> Option<Check<'_>> {
        match self.only.is_none_or(|only| only == algorithm) {
            true => self.material.check(algorithm),
            false => None,
        }
    }
}

fn verifies(operations: &Value) -> bool {
    operations
        .as_array()
        .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
}

impl Material {
    fn parse(key: &Map<String, Value>) -> Result<Self, &'static str> {
        let (kind, curve) = (text(key, "kty")?, text(key, "crv")?);
        match (kind, curve) {
            (Some("RSA"), _) => rsa(key).map(Self::Rsa),
            (Some("EC"), Some("P-256")) => point(key, 32).map(Self::P256),
            (Some("EC"), Some("P-384")) => point(key, 48).map(Self::P384),
            (Some("OKP"), Some("Ed25519")) => coordinate(key, "x", 32).map(Self::Ed25519),
            _ => Err("is of another kind (`kty`, `crv`)"),
        }
    }

    /// What the key checks with an algorithm: the only table of such pairs, and nothing where it has none.
    fn check(&self, algorithm: Algorithm) -> Option<Check<'_>> {
        match (self, algorithm) {
            (Self::P256(point), Algorithm::Es256) => Some(Check::Point(&ECDSA_P256_SHA256_FIXED, point)),
            (Self::P384(point), Algorithm::Es384) => Some(Check::Point(&ECDSA_P384_SHA384_FIXED, point)),
            (Self::Ed25519(point), Algorithm::EdDsa) => Some(Check::Point(&ED25519, point)),
            (Self::Rsa(key), algorithm) => rsa_parameters(algorithm).map(|with| Check::Rsa(with, key)),
            (Self::P256(_) | Self::P384(_) | Self::Ed25519(_), _) => None,
        }
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
    }
}

/// Numbers are big-endian and as short as can be (RFC 7518, section 2). An even exponent, and 1, are of no
/// RSA key.
fn rsa(key: &Map<String, Value>) -> Result<RsaPublicKeyComponents<Vec<u8>>, &'static str> {
    let (n, e) = (bytes(key, "n")?, bytes(key, "e")?);
    let bits = match n.first() {
        None | Some(0) => return Err("has a malformed modulus (`n`)"),
        Some(first) => n.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or(0),
    };
    if !RSA_BITS.contains(&bits) {
        return Err("has a modulus (`n`) of under 2048 or over 8192 bits");
    }
    let is_odd = e.last().is_some_and(|last| last % 2 == 1);
    if !is_odd || e == [1] || e.first() == Some(&0) {
        return Err("has a malformed exponent (`e`)");
    }
    Ok(RsaPublicKeyComponents { n, e })
}

fn point(key: &Map<String, Value>, coordinate_bytes: usize) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (
        coordinate(key, "x", coordinate_bytes)?,
        coordinate(key, "y", coordinate_bytes)?,
    );
    Ok([vec![UNCOMPRESSED], x, y].concat())
}

/// Coordinates have the full length of their curve (RFC 7518, section 6.2.1.2; RFC 8037, section 2).
fn coordinate(key: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, &'static str> {
    let coordinate = bytes(key, name)?;
    match coordinate.len() == length {
        true => Ok(coordinate),
        false => Err("has a coordinate (`x`, `y`) of another length than its curve's"),
    }
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    text(key, name)?
        .and_then(jws::decode)
        .ok_or("lacks a member, or has one that is not base64url")
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, &'static str> {
    match key.get(name) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .map(Some)
            .ok_or("has a member that is not the text that it should be"),
    }
}
