//! Claims tokens: what an account signed about an actor or a provider.
//!
//! A token is a compact JWS: the header `{"typ":"jwt","alg":"Ed25519"}`, a body, and the Ed25519 signature of
//! the account in `iss` (wascap 0.6–0.16). It comes from anyone, so whatever two readers could understand
//! differently is refused: other encodings of the same bytes, members that stand twice, numbers that are not
//! integers, keys and signatures that prove nothing.
//!
//! Invariant: a [`VerifiedToken`] says what the account signed. Whether that is in time, and whether the
//! account has a say, is asked separately with [`Validity::check`].

use std::collections::BTreeSet;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    claims::Claims,
    invalid::Invalid,
    json,
    jws::{self, Segments},
    nkey::{Nkey, NkeyKind},
};

/// Bytes in a claims token, at most.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Seconds by which the clocks of a signer and of the gateway may differ.
pub const LEEWAY_SECONDS: i64 = 30;

/// A token whose signature, structure and key kinds are verified; not yet its times and its issuer's standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The actor or provider that the claims are about.
    pub subject: Nkey,
    /// The claims, flattened as hosts do.
    pub claims: Claims,
    /// What remains to be judged.
    pub validity: Validity,
}

/// What is judged later, against clock and trust: a retry of a call that was applied is answered even if its
/// token has expired since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The account that signed.
    pub issuer: Nkey,
    /// From when on the token is valid (`nbf`), in Unix seconds.
    pub not_before: Option<i64>,
    /// From when on it no longer is (`exp`), in Unix seconds.
    pub expires: Option<i64>,
}

impl Validity {
    /// Asks whether the issuer is trusted and the token in time, give or take [`LEEWAY_SECONDS`].
    pub fn check(&self, now_unix_seconds: i64, trusted: &TrustedIssuers) -> Result<(), TokenRefused> {
        if !trusted.includes(&self.issuer) {
            return Err(TokenRefused::IssuerNotTrusted);
        }
        let latest = now_unix_seconds.saturating_add(LEEWAY_SECONDS);
        if self.not_before.is_some_and(|from| latest < from) {
            return Err(TokenRefused::NotYetValid);
        }
        let earliest = now_unix_seconds.saturating_sub(LEEWAY_SECONDS);
        if self.expires.is_some_and(|until| until <= earliest) {
            return Err(TokenRefused::Expired);
        }
        Ok(())
    }
}

/// Which accounts may sign claims for a lattice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedIssuers {
    /// Every account.
    Any,
    /// These accounts; none of them trusts no one.
    Listed(BTreeSet<Nkey>),
}

impl TrustedIssuers {
    /// Parses a list of the public keys of accounts; `*` alone trusts any.
    pub fn parse(list: &[String]) -> Result<Self, Invalid> {
        match list {
            [any] if any == "*" => Ok(Self::Any),
            accounts => accounts
                .iter()
                .map(|account| listed(account))
                .collect::<Result<_, _>>()
                .map(Self::Listed),
        }
    }

    /// Whether claims that are stored with this issuer are of an account that is trusted.
    pub fn trust(&self, issuer: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(accounts) => accounts.iter().any(|account| account.as_str() == issuer),
        }
    }

    fn includes(&self, issuer: &Nkey) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(accounts) => accounts.contains(issuer),
        }
    }
}

fn listed(account: &str) -> Result<Nkey, Invalid> {
    match account {
        "*" => Err(Invalid::Rule(
            "must be `*` alone, which trusts any account, or the public keys of accounts (`A…`)",
        )),
        account => Nkey::parse(account, &[NkeyKind::Account]),
    }
}

/// Why a token is refused, and the way out. Never repeats anything of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenRefused {
    /// Over [`TOKEN_BYTES_MAX`].
    #[error("the claims token is over {TOKEN_BYTES_MAX} bytes; sign one that says less")]
    TooLarge,
    /// Not three parts.
    #[error(
        "a claims token has three parts joined by `.`, none of them empty; send it whole, and nothing around it"
    )]
    Segments,
    /// Not base64url, or not its one canonical form.
    #[error(
        "a part of the claims token is not base64url without padding; send the token exactly as it was written"
    )]
    Encoding,
    /// A header that is not the one of claims.
    #[error(
        "the header of a claims token is exactly `{{\"typ\":\"jwt\",\"alg\":\"Ed25519\"}}`; sign it as wasmCloud's tools do, not as those of NATS"
    )]
    Header,
    /// A body that is not the one of claims.
    #[error(
        "the body of a claims token is a JSON object with `iss`, `sub`, `iat` and `wascap`, every time and revision an integer and no member twice; sign it again with wasmCloud's tools"
    )]
    Body,
    /// An `iss` that is no account, or no usable key.
    #[error("the issuer (`iss`) of the claims token is not the key of an account (`A…`); sign it with one")]
    IssuerKind,
    /// A signature that is not the issuer's.
    #[error(
        "the signature of the claims token is not its issuer's; send the token unchanged, or sign it again"
    )]
    Signature,
    /// A `sub` that is neither actor nor provider, or no usable key.
    #[error(
        "the subject (`sub`) of the claims token is not the key of an actor (`M…`) or a provider (`V…`); send the token of one, since a lattice keeps no other claims"
    )]
    SubjectKind,
    /// A contract id that does not survive being comma-joined.
    #[error(
        "a capability (`caps`) in the claims token is empty or has a comma, and hosts keep them comma-joined; sign it again with one contract id an item"
    )]
    Capability,
    /// A tag that does not survive being comma-joined.
    #[error(
        "a tag in the claims token is empty or has a comma, and hosts keep them comma-joined; sign it again with one tag an item"
    )]
    Tag,
    /// Signed by an account that the lattice does not trust.
    #[error(
        "the issuer of the claims token is not trusted in this lattice; sign it with an account that is, or have the operator list this one in `trusted_issuers`"
    )]
    IssuerNotTrusted,
    /// Before its `nbf`.
    #[error("the claims token is not valid yet (`nbf`); wait, or sign it again after setting the clock")]
    NotYetValid,
    /// At or after its `exp`.
    #[error("the claims token has expired (`exp`); sign it again")]
    Expired,
}

impl TokenRefused {
    /// The cause, for programs.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Segments => "segments",
            Self::Encoding => "encoding",
            Self::Header => "header",
            Self::Body => "body",
            Self::IssuerKind => "issuer_kind",
            Self::Signature => "signature",
            Self::SubjectKind => "subject_kind",
            Self::Capability => "capability",
            Self::Tag => "tag",
            Self::IssuerNotTrusted => "issuer_not_trusted",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
        }
    }
}

/// Verifies a token: its size first, then its form, then its signature, and only then what it says.
pub fn verify(token: &str) -> Result<VerifiedToken, TokenRefused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenRefused::TooLarge);
    }
    let segments = Segments::split(token).ok_or(TokenRefused::Segments)?;
    check_header(&decode(segments.header)?)?;
    let body = Body::parse(&decode(segments.body)?)?;
    let (issuer, key) =
        Nkey::parse_with_key(&body.iss, &[NkeyKind::Account]).map_err(|_invalid| TokenRefused::IssuerKind)?;
    check_signature(&key, segments.signed, &decode(segments.signature)?)?;
    let subject = Nkey::parse(&body.sub, &[NkeyKind::Module, NkeyKind::Provider])
        .map_err(|_invalid| TokenRefused::SubjectKind)?;
    Ok(VerifiedToken {
        claims: body.flatten(&subject)?,
        subject,
        validity: Validity {
            issuer,
            not_before: body.nbf,
            expires: body.exp,
        },
    })
}

fn decode(segment: &str) -> Result<Vec<u8>, TokenRefused> {
    jws::decode(segment).ok_or(TokenRefused::Encoding)
}

fn check_header(json: &[u8]) -> Result<(), TokenRefused> {
    let expected = [("typ", "jwt"), ("alg", "Ed25519")].map(|(name, value)| (name.into(), value.into()));
    match json::unambiguous_object(json) {
        Some(header) if header == Map::from_iter(expected) => Ok(()),
        _ => Err(TokenRefused::Header),
    }
}

/// `verify_strict` also refuses a signature written with another scalar (`s` not below the group's order) and
/// points of small order.
fn check_signature(key: &VerifyingKey, signed: &str, signature: &[u8]) -> Result<(), TokenRefused> {
    Signature::from_slice(signature)
        .and_then(|signature| key.verify_strict(signed.as_bytes(), &signature))
        .map_err(|_mismatch| TokenRefused::Signature)
}

/// What is read of a body. Other members, such as `jti`, are ignored.
#[derive(Deserialize)]
struct Body {
    iss: String,
    sub: String,
    iat: i64,
    nbf: Option<i64>,
    exp: Option<i64>,
    /// A map and not a structure, since serde would read one from an array as well.
    wascap: Map<String, Value>,
}

impl Body {
    fn parse(json: &[u8]) -> Result<Self, TokenRefused> {
        json::unambiguous_object(json)
            .ok_or(TokenRefused::Body)
            .and_then(members)
    }

    /// Flattens as hosts do (wasmCloud OTP 0.50–0.59), but for two things: a version that is absent is empty
    /// and not `null`, and a time of issue never becomes a negative revision. The keys are verified before.
    fn flatten(&self, subject: &Nkey) -> Result<Claims, TokenRefused> {
        let described: Described = members(&self.wascap)?;
        let called = if is_actor(subject) {
            members(&self.wascap)?
        } else {
            Called::default()
        };
        Ok(Claims {
            issuer: self.iss.as_str().into(),
            name: described.name.unwrap_or_default(),
            call_alias: called.call_alias.unwrap_or_default(),
            capabilities: comma_joined(called.caps).ok_or(TokenRefused::Capability)?,
            tags: comma_joined(called.tags).ok_or(TokenRefused::Tag)?,
            revision: revision(described.rev, self.iat),
            version: Some(described.ver.unwrap_or_default()),
            contract_id: if is_actor(subject) {
                "".into()
            } else {
                described.capid.unwrap_or_default()
            },
            config_schema: "".into(),
        })
    }
}

/// What `wascap` says of actors and providers. Other members, such as `hash`, are ignored.
#[derive(Deserialize)]
struct Described {
    name: Option<Box<str>>,
    rev: Option<i32>,
    ver: Option<Box<str>>,
    /// A provider's contract; tools since wascap 0.14 sign none.
    capid: Option<Box<str>>,
}

/// What `wascap` says of actors alone: hosts leave it empty for providers.
#[derive(Default, Deserialize)]
struct Called {
    call_alias: Option<Box<str>>,
    caps: Option<Vec<String>>,
    tags: Option<Vec<String>>,
}

fn is_actor(subject: &Nkey) -> bool {
    subject.as_str().starts_with('M')
}

/// Gives none when the items would not read back as they were signed.
fn comma_joined(items: Option<Vec<String>>) -> Option<Box<str>> {
    let items = items.unwrap_or_default();
    let separable = items.iter().all(|item| !item.is_empty() && !item.contains(','));
    separable.then(|| items.join(",").into())
}

/// The module's revision if positive, else the time of issue. Hosts cut the time to 32 bits, so that it would
/// turn negative in 2038; here it stops at the largest revision instead.
fn revision(rev: Option<i32>, issued_at: i64) -> Box<str> {
    let number = match rev {
        Some(rev) if rev > 0 => rev.into(),
        _ => issued_at.clamp(0, i32::MAX.into()),
    };
    number.to_string().into()
}

/// Reads the members that a type names from an object in a body.
fn members<'de, T, O>(object: O) -> Result<T, TokenRefused>
where
    T: Deserialize<'de>,
    O: Deserializer<'de>,
{
    T::deserialize(object).map_err(|_mismatch| TokenRefused::Body)
}

#[cfg(test)]
mod tests;
