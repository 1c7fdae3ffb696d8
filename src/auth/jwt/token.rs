//! What a bearer token says, before and apart from who signed it.
//!
//! Pure: no keys, no clock, no I/O. The text comes from anyone, so whatever two readers could understand
//! differently is refused: other encodings of the same bytes, members that stand twice, times that are no
//! times.

use std::{fmt, time::Duration};

use serde_json::{Map, Value};

use super::{algorithm::Algorithm, refused::JwtRefused};
use crate::domain::{
    json,
    jws::{self, Segments},
};

/// Bytes in a token, at most.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The last second of the year 9999. Whatever claims to be later is no time.
pub const UNIX_SECONDS_MAX: i64 = 253_402_300_799;

/// A well-formed token. Nothing in it is proven.
pub struct Unverified<'a> {
    /// What the signature covers.
    pub signed: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
    /// With what it is said to be made.
    pub algorithm: Algorithm,
    /// Which of the issuer's keys it is said to be made with. A text to compare, whatever it looks like.
    pub key_id: Option<String>,
    /// What the token says.
    pub claims: Map<String, Value>,
}

/// Shows nothing that the token says.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").finish_non_exhaustive()
    }
}

impl<'a> Unverified<'a> {
    /// Reads a token: its size first, then its form, then its header, then its body.
    pub fn parse(token: &'a str) -> Result<Self, JwtRefused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtRefused::TooLarge);
        }
        let segments = Segments::split(token).ok_or(JwtRefused::Segments)?;
        let header = json::unambiguous_object(&decode(segments.header)?).ok_or(JwtRefused::Header)?;
        let (algorithm, key_id) = read_header(&header)?;
        Ok(Self {
            signed: segments.signed,
            signature: decode(segments.signature)?,
            algorithm,
            key_id,
            claims: json::unambiguous_object(&decode(segments.body)?).ok_or(JwtRefused::Claims)?,
        })
    }

    /// Who is said to have signed (`iss`).
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

fn decode(segment: &str) -> Result<Vec<u8>, JwtRefused> {
    jws::decode(segment).ok_or(JwtRefused::Encoding)
}

/// Reads `alg` and `kid`, and makes sure that the token is one to look at. Keys, and places to get them from,
/// that a token brings along (`jwk`, `jku`, `x5c`, `x5u`) are like everything else in a header not read.
fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), JwtRefused> {
    if header.contains_key("crit") {
        return Err(JwtRefused::Critical);
    }
    if !text(header, "typ")?.is_none_or(is_access_token) {
        return Err(JwtRefused::Type);
    }
    let algorithm = text(header, "alg")?.ok_or(JwtRefused::Header)?;
    let algorithm = Algorithm::parse(algorithm).ok_or(JwtRefused::AlgorithmUnknown)?;
    Ok((algorithm, text(header, "kid")?.map(str::to_owned)))
}

fn text<'a>(header: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, JwtRefused> {
    match header.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(JwtRefused::Header),
    }
}

/// Media types are compared without regard to case, and their `application/` may be left out (RFC 7515,
/// section 4.1.9; RFC 9068, section 4).
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    ["jwt", "at+jwt"].contains(&kind.strip_prefix("application/").unwrap_or(&kind))
}

/// Makes sure that a token is for one of `audiences` (RFC 7519, section 4.1.3).
pub fn check_audience(claims: &Map<String, Value>, audiences: &[String]) -> Result<(), JwtRefused> {
    let named = match claims.get("aud") {
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => several,
        _ => return Err(JwtRefused::Audience),
    };
    let mut named = named.iter().filter_map(Value::as_str);
    match named.any(|name| audiences.iter().any(|audience| audience == name)) {
        true => Ok(()),
        false => Err(JwtRefused::Audience),
    }
}

/// Makes sure that a token is in time, give or take `leeway`, and gives its `exp` in Unix seconds, without
/// leeway (RFC 7519, sections 4.1.4 to 4.1.6). Fractions of seconds count against the token.
pub fn check_times(
    claims: &Map<String, Value>,
    now_unix_seconds: i64,
    leeway: Duration,
) -> Result<i64, JwtRefused> {
    let expires = time(claims, "exp", f64::floor)?.ok_or(JwtRefused::ExpiryMissing)?;
    let not_before = time(claims, "nbf", f64::ceil)?;
    let issued = time(claims, "iat", f64::ceil)?;
    let leeway_seconds = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
    let earliest = now_unix_seconds.saturating_sub(leeway_seconds);
    let latest = now_unix_seconds.saturating_add(leeway_seconds);
    if expires <= earliest {
        return Err(JwtRefused::Expired);
    }
    if not_before.is_some_and(|from| latest < from) {
        return Err(JwtRefused::NotYetValid);
    }
    if issued.is_some_and(|at| latest < at) {
        return Err(JwtRefused::IssuedInFuture);
    }
    Ok(expires)
}

fn time(claims: &Map<String, Value>, name: &str, rounded: fn(f64) -> f64) -> Result<Option<i64>, JwtRefused> {
    claims
        .get(name)
        .map(|value| unix_seconds(value, rounded).ok_or(JwtRefused::Time))
        .transpose()
}

fn unix_seconds(value: &Value, rounded: fn(f64) -> f64) -> Option<i64> {
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(fraction)) if fraction >= 0.0 => whole_seconds(rounded(fraction))?,
        (None, _) => return None,
    };
    (0..=UNIX_SECONDS_MAX).contains(&seconds).then_some(seconds)
}

fn whole_seconds(number: f64) -> Option<i64> {
    let since_1970 = Duration::try_from_secs_f64(number).ok()?;
    i64::try_from(since_1970.as_secs()).ok()
}
