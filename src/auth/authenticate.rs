//! From what a request shows to a caller of the configuration: once a request, before anything else looks at it.
//!
//! A request that carries a token is judged by the token alone; else the connection's client certificate counts; else
//! the caller is anonymous, whom only `dev` lets in. What was wrong with credentials is logged and never told: an answer
//! must not help to guess.

use std::sync::Arc;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};

use super::{
    access::Access,
    callers::Callers,
    jwt::{JwtRefused, JwtVerifier, VerifiedJwt},
    peer::{Peer, PeerCertificate},
};

/// Knows callers by their credentials.
#[derive(Debug)]
pub struct Authenticator {
    callers: ArcSwap<Callers>,
    jwts: ArcSwap<JwtVerifier>,
}

/// Who calls, and by what it was told.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// What the caller may do.
    pub access: Arc<Access>,
    /// What was shown.
    pub credential: Credential,
}

/// A credential that was shown, without what is secret of it.
#[derive(Clone, Debug)]
pub enum Credential {
    /// None.
    None,
    /// A static token, by its SHA-256.
    Token([u8; 32]),
    /// A JWT, by its SHA-256, with what it says.
    Jwt([u8; 32], Arc<VerifiedJwt>),
    /// A client certificate.
    Certificate(Arc<PeerCertificate>),
}

impl Credential {
    /// For records of who did what: the kind, and the first 16 hexadecimal digits of the hash: `token:1f2e…`.
    pub fn shown(&self) -> String {
        let (kind, hash) = match self {
            Self::None => return "none".to_owned(),
            Self::Token(hash) => ("token", hash),
            Self::Jwt(hash, _) => ("jwt", hash),
            Self::Certificate(certificate) => ("certificate", &certificate.sha256),
        };
        let mut text = format!("{kind}:{}", HEXLOWER.encode(hash));
        text.truncate(kind.len() + 1 + 16);
        text
    }
}

/// Why a request has no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It shows nothing.
    Missing,
    /// What it shows names no caller; the reason is for the log.
    Invalid(&'static str),
    /// It shows a JWT, and the keys of its issuer cannot be had.
    Unavailable,
}

impl Authenticator {
    /// Knows these callers, and these issuers of JWTs.
    pub fn new(callers: Arc<Callers>, jwts: Arc<JwtVerifier>) -> Self {
        Self {
            callers: ArcSwap::new(callers),
            jwts: ArcSwap::new(jwts),
        }
    }

    /// Knows these from now on; what each caller has under way goes on to count.
    pub fn replace(&self, callers: Arc<Callers>, jwts: Arc<JwtVerifier>) {
        callers.go_on_from(&self.callers.load());
        self.callers.store(callers);
        self.jwts.store(jwts);
    }

    /// The callers.
    pub fn callers(&self) -> Arc<Callers> {
        self.callers.load_full()
    }

    /// Finds out who calls. Waits only for the keys of a JWT's issuer, at most 5 s.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        now_unix_seconds: i64,
    ) -> Result<Authenticated, Unauthenticated> {
        let mut tokens = headers.get_all(AUTHORIZATION).iter();
        match (tokens.next(), tokens.next()) {
            (Some(value), None) => self.by_bearer(value.as_bytes(), now_unix_seconds).await,
            (Some(_), Some(_)) => Err(Unauthenticated::Invalid("two authorization headers")),
            (None, _) => self.by_connection(peer, now_unix_seconds),
        }
    }

    async fn by_bearer(&self, value: &[u8], now_unix_seconds: i64) -> Result<Authenticated, Unauthenticated> {
        let token = bearer(value).ok_or(Unauthenticated::Invalid("not a bearer token"))?;
        let sha256 = Sha256::digest(token).into();
        let static_token = self.callers.load().by_token(&sha256).cloned();
        if let Some(access) = static_token {
            return Ok(Authenticated {
                access,
                credential: Credential::Token(sha256),
            });
        }
        let jwts = self.jwts.load_full();
        let verified = jwts.verify(token, now_unix_seconds).await;
        let verified = verified.map_err(|refused| {
            if refused == JwtRefused::KeysUnavailable {
                return Unauthenticated::Unavailable;
            }
            Unauthenticated::Invalid(refused.cause())
        })?;
        self.by_credential(Credential::Jwt(sha256, Arc::new(verified)), now_unix_seconds)
    }

    fn by_connection(
        &self,
        peer: Option<&Peer>,
        now_unix_seconds: i64,
    ) -> Result<Authenticated, Unauthenticated> {
        let certificate = peer.and_then(|peer| peer.certificate.clone());
        let credential = certificate.map_or(Credential::None, Credential::Certificate);
        self.by_credential(credential, now_unix_seconds)
    }

    /// Finds out who calls now by a credential that was verified before: for what stays open while callers, grants and
    /// time go on.
    pub fn by_credential(
        &self,
        credential: Credential,
        now_unix_seconds: i64,
    ) -> Result<Authenticated, Unauthenticated> {
        let callers = self.callers.load();
        let access = match &credential {
            Credential::None => callers.anonymous().ok_or(Unauthenticated::Missing),
            Credential::Token(sha256) => {
                let access = callers.by_token(sha256);
                access.ok_or(Unauthenticated::Invalid("the token is no longer a caller's"))
            }
            Credential::Jwt(_, jwt) if jwt.ends_unix_seconds <= now_unix_seconds => {
                Err(Unauthenticated::Invalid("the token has ended"))
            }
            Credential::Jwt(_, jwt) => {
                let access = callers.by_jwt(&jwt.issuer, &jwt.claims);
                access.ok_or(Unauthenticated::Invalid("no one caller fits the token"))
            }
            // It was verified when the connection began, which may be long ago.
            Credential::Certificate(certificate) if certificate.not_after_unix_seconds < now_unix_seconds => {
                Err(Unauthenticated::Invalid("the client certificate has ended"))
            }
            Credential::Certificate(certificate) => {
                let access = callers.by_certificate(&certificate.names);
                access.ok_or(Unauthenticated::Invalid(
                    "no one caller has the certificate's names",
                ))
            }
        };
        let access = Arc::clone(access?);
        Ok(Authenticated { access, credential })
    }
}

/// The token of `Bearer <token>` (RFC 6750, 2.1; the scheme in any case, RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&str> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let is_token = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    let token = str::from_utf8(token).ok()?;
    (scheme.eq_ignore_ascii_case(SCHEME) && is_token).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_one_graphic_text_behind_its_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some("abc"));
        assert_eq!(bearer(b"bEARER abc"), Some("abc"));
        for hostile in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer  abc",
            b"Bearer a b",
            b"Basic abc",
            b"abc",
            b"Bearer \xff",
        ] {
            assert_eq!(bearer(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn a_credential_is_shown_by_the_beginning_of_its_hash() {
        assert_eq!(Credential::None.shown(), "none");
        assert_eq!(Credential::Token([0xab; 32]).shown(), "token:abababababababab");
        let certificate = PeerCertificate {
            names: Vec::new(),
            sha256: [1; 32],
            not_after_unix_seconds: 0,
        };
        assert_eq!(
            Credential::Certificate(Arc::new(certificate)).shown(),
            "certificate:0101010101010101"
        );
    }
}
