//! Why a bearer token is refused.

use thiserror::Error;

use super::token::TOKEN_BYTES_MAX;

/// Why a bearer token is refused, and the way out. Never repeats anything of the token.
///
/// All but [`KeysUnavailable`](Self::KeysUnavailable) are the token's fault, and trying again with it is in
/// vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JwtRefused {
    /// Over [`TOKEN_BYTES_MAX`].
    #[error("the token is over {TOKEN_BYTES_MAX} bytes; ask its issuer for one that says less")]
    TooLarge,
    /// Not three parts: an encrypted token has five, an unsigned one leaves the last one empty.
    #[error("a signed token has three parts joined by `.`, none of them empty; send it whole")]
    Segments,
    /// Not base64url, or not its one canonical form.
    #[error("a part of the token is not base64url without padding; send the token exactly as it was issued")]
    Encoding,
    /// A header that is no JSON object, names a member twice, or has an `alg`, `kid` or `typ` that is no
    /// text.
    #[error("the header of the token is not a JSON object with a text as `alg`, or says something twice")]
    Header,
    /// A header with `crit` (RFC 7515, section 4.1.11): no extension is understood.
    #[error("the token demands extensions (`crit`), and none is understood")]
    Critical,
    /// A `typ` of another kind of token (RFC 8725, section 3.11).
    #[error("the token is of another kind (`typ`) than `JWT` or `at+jwt`; send an access token")]
    Type,
    /// An `alg` that is never accepted, such as `none` and `HS256`.
    #[error(
        "the algorithm of the token (`alg`) is never accepted; have it signed with a public-key algorithm"
    )]
    AlgorithmUnknown,
    /// An `alg` that is not on the issuer's list.
    #[error("the algorithm of the token (`alg`) is not one that its issuer may use here")]
    AlgorithmNotAllowed,
    /// A body that is no JSON object, or names a member twice.
    #[error("the body of the token is not a JSON object, or says something twice")]
    Claims,
    /// An `iss` that is missing, no text, or of nobody who is trusted.
    #[error("the issuer of the token (`iss`) is not one that is trusted here")]
    IssuerNotTrusted,
    /// The keys of the issuer were never fetched, or it publishes none: nothing can be said about the token
    /// yet.
    #[error("the keys of the token's issuer cannot be had at present; try again later")]
    KeysUnavailable,
    /// A `kid` that no key of the issuer has; or none, and no key of the issuer is for the token's algorithm.
    #[error("the token is signed with a key (`kid`) that its issuer does not publish; get a new token")]
    UnknownKey,
    /// Several keys of the issuer may be meant.
    #[error("several keys of the token's issuer may be meant; have its issuer name one (`kid`)")]
    AmbiguousKey,
    /// The key that `kid` names is not for the token's algorithm.
    #[error("the key of the token (`kid`) is not for its algorithm (`alg`)")]
    KeyMismatch,
    /// A signature that is not the issuer's.
    #[error("the signature of the token is not its issuer's; send the token unchanged, or get a new one")]
    Signature,
    /// An `aud` that is missing, malformed, or names others.
    #[error("the token is meant for others (`aud`); ask its issuer for one for this gateway")]
    Audience,
    /// An `exp`, `nbf` or `iat` that is no number, or beyond the years 1970 to 9999.
    #[error("a time in the token (`exp`, `nbf`, `iat`) is not a number of seconds since 1970")]
    Time,
    /// No `exp`.
    #[error("the token never expires; ask its issuer for one that does (`exp`)")]
    ExpiryMissing,
    /// At or after its `exp`.
    #[error("the token has expired (`exp`); get a new one")]
    Expired,
    /// Before its `nbf`.
    #[error("the token is not valid yet (`nbf`); wait, or set the clocks")]
    NotYetValid,
    /// Before its `iat`.
    #[error("the token was issued in the future (`iat`); set the clocks")]
    IssuedInFuture,
}

impl JwtRefused {
    /// The cause, for programs.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Segments => "segments",
            Self::Encoding => "encoding",
            Self::Header => "header",
            Self::Critical => "critical",
            Self::Type => "type",
            Self::AlgorithmUnknown => "algorithm_unknown",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::Claims => "claims",
            Self::IssuerNotTrusted => "issuer_not_trusted",
            Self::KeysUnavailable => "keys_unavailable",
            Self::UnknownKey => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::KeyMismatch => "key_mismatch",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Time => "time",
            Self::ExpiryMissing => "expiry_missing",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
        }
    }
}
