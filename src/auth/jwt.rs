//! Bearer tokens: callers whom an issuer names in a signed JWT (RFC 7519).
//!
//! A token goes through [`JwtVerifier::verify`], in this order: its form and header ([`token`]), its issuer,
//! the issuer's list of algorithms, one key of the issuer, the signature, and only then what it says: for
//! whom it is and when. RFC 8725 is the source of the rules. The checks that matter most are types: there is
//! no [`Algorithm`] for `none` and shared secrets, and a key checks signatures only with what it is for.
//!
//! Keys come from a file or a URL that the configuration names, and from nowhere else. A URL is fetched when
//! a token of the issuer first comes, again for a key that is not known, and every ten minutes of use; see
//! [`KeySource::Url`].
//!
//! The requirements of OWASP ASVS 5.0, V9, and the tests that hold them (`jwt/tests.rs`):
//!
//! | | requirement | held by |
//! |---|---|---|
//! | 9.1.1 | the signature is checked before anything that the token says counts | `a_signature_proves_something` |
//! | 9.1.2 | algorithms are on a list, and never `none` | `none_and_shared_secrets_are_no_algorithms`, `an_algorithm_has_to_be_on_the_issuers_list` |
//! | 9.1.3 | keys come from where the configuration says | `keys_that_a_token_brings_along_are_not_read`, `the_issuer_is_one_that_is_trusted_and_its_keys_are_its_own` |
//! | 9.2.1 | the time of validity is kept | `times_are_kept_give_or_take_the_leeway` |
//! | 9.2.2 | the token is of the right kind | `extensions_and_other_kinds_of_tokens_are_refused` |
//! | 9.2.3 | the token is for this service | `the_audience_is_this_gateway` |
//! | 9.2.4 | an issuer with one key for many services tells them apart | the same: an audience is required, to the letter |
//!
//! Tokens are read here, and their signatures checked by *ring*, the crypto provider that TLS brings along
//! anyway; not by the `jsonwebtoken` crate. Its verifiers come from aws-lc, from the `rsa` crate
//! (RUSTSEC-2023-0071), or from whoever registers some for the whole process: the same calls of *ring* would
//! be written here. It takes one key and knows no issuers, so that `kid` and `iss` would be read beforehand
//! anyway; and it reads claims as serde does, where the last of two members with one name counts. What it
//! would save is less than what would be written around it.

use std::{
    collections::HashMap,
    error::Error,
    fmt, iter,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use tokio::time::Instant;

mod algorithm;
mod fetch;
mod keys;
mod refused;
mod remote;
pub mod token;

pub use algorithm::Algorithm;
pub use refused::JwtRefused;

use fetch::{KeysUrl, Tls};
use keys::KeySet;
use remote::RemoteKeys;
use token::Unverified;

/// By how much the clocks of an issuer and of the gateway may differ, if nothing else is configured.
pub const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);
/// By how much they may differ at most.
pub const LEEWAY_MAX: Duration = Duration::from_mins(1);

/// An issuer that is trusted to name callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtIssuer {
    /// What the configuration calls it.
    pub name: String,
    /// What it calls itself in `iss`, to the letter.
    pub issuer: String,
    /// What it calls this gateway: a token is for it if one of these is in `aud`. At least one.
    pub audiences: Vec<String>,
    /// With what it may sign. At least one.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: KeySource,
    /// By how much its clock may differ, in whole seconds: [`LEEWAY_DEFAULT`], at most [`LEEWAY_MAX`].
    pub leeway: Duration,
}

/// Where the keys of an issuer are: a JWK set (RFC 7517) of at most 1 MiB.
///
/// Of its keys those are used that are RSA of 2048 to 8192 bits, P-256, P-384 or Ed25519, and meant for
/// signatures; others are left out, private ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file with at least one usable key, which is read at start and by [`JwtVerifier::reload_files`].
    File(PathBuf),
    /// At an `https` URL, or an `http` one on a loopback address.
    ///
    /// Fetched at first use, within 5 seconds; again for a key that is not known, at most every 30 seconds;
    /// and behind the back of callers once the keys are older than 10 minutes. Redirects are not followed,
    /// proxies are not used. When a fetch fails, the keys that are held stay, for as long as it takes.
    Url(String),
}

/// Verifies bearer tokens. Meant to be shared by all calls. By default of no issuer, so that none is accepted.
#[derive(Debug, Default)]
pub struct JwtVerifier {
    /// By `iss`.
    issuers: HashMap<String, Issuer>,
}

#[derive(Debug)]
struct Issuer {
    name: Arc<str>,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    keys: Keys,
    leeway: Duration,
}

#[derive(Debug)]
enum Keys {
    File(PathBuf, ArcSwap<KeySet>),
    Url(Arc<RemoteKeys>),
}

/// A token of a trusted issuer, for this gateway and in time.
#[derive(Clone, PartialEq)]
pub struct VerifiedJwt {
    /// The issuer, as the configuration calls it.
    pub issuer: Arc<str>,
    /// All that the token says.
    pub claims: Map<String, Value>,
    /// From when on it is no longer valid (`exp` and the issuer's leeway), in Unix seconds.
    pub ends_unix_seconds: i64,
}

/// Does not show the claims.
impl fmt::Debug for VerifiedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedJwt")
            .field("issuer", &self.issuer)
            .field("ends_unix_seconds", &self.ends_unix_seconds)
            .finish_non_exhaustive()
    }
}

impl JwtVerifier {
    /// Trusts these issuers and reads their files; nothing is fetched yet. Gives every mistake at once, each
    /// beginning with the issuer's name and the setting.
    pub fn new(issuers: Vec<JwtIssuer>) -> Result<Self, Vec<String>> {
        Self::with_tls(issuers, Tls::of_this_machine)
    }

    fn with_tls(
        issuers: Vec<JwtIssuer>,
        tls: impl FnOnce() -> Result<Tls, String>,
    ) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let tls = match issuers.iter().any(|issuer| issuer.keys.is_encrypted()) {
            true => tls().map_err(|mistake| mistakes.push(mistake)).ok(),
            false => None,
        };
        let mut names = HashMap::new();
        for JwtIssuer { name, issuer, .. } in &issuers {
            if let Some(other) = names.insert(issuer.clone(), name.clone()) {
                mistakes.push(format!(
                    "{name}.issuer: is the same as that of {other}; make one of the two"
                ));
            }
        }
        let mut by_issuer = HashMap::new();
        for issuer in issuers {
            let (name, iss) = (issuer.name.clone(), issuer.issuer.clone());
            match Issuer::new(issuer, tls.as_ref()) {
                Ok(issuer) => drop(by_issuer.insert(iss, issuer)),
                Err(own) => mistakes.extend(own.into_iter().map(|mistake| format!("{name}.{mistake}"))),
            }
        }
        match mistakes.is_empty() {
            true => Ok(Self { issuers: by_issuer }),
            false => Err(mistakes),
        }
    }

    /// Verifies a token, at a time in Unix seconds.
    ///
    /// Waits only where the keys of the issuer are at a URL and the token's is not among those that are held:
    /// until they are fetched, 5 seconds at most. May be dropped at any time. The tasks are tokio's.
    pub async fn verify(&self, token: &str, now_unix_seconds: i64) -> Result<VerifiedJwt, JwtRefused> {
        self.verify_at(token, now_unix_seconds, Instant::now()).await
    }

    async fn verify_at(
        &self,
        token: &str,
        now_unix_seconds: i64,
        now: Instant,
    ) -> Result<VerifiedJwt, JwtRefused> {
        let token = Unverified::parse(token)?;
        let issuer = token
            .issuer()
            .and_then(|iss| self.issuers.get(iss))
            .ok_or(JwtRefused::IssuerNotTrusted)?;
        if !issuer.algorithms.contains(&token.algorithm) {
            return Err(JwtRefused::AlgorithmNotAllowed);
        }
        issuer.keys.check_signature(&token, now).await?;
        token::check_audience(&token.claims, &issuer.audiences)?;
        let expires = token::check_times(&token.claims, now_unix_seconds, issuer.leeway)?;
        Ok(VerifiedJwt {
            issuer: Arc::clone(&issuer.name),
            claims: token.claims,
            ends_unix_seconds: expires.saturating_add_unsigned(issuer.leeway.as_secs()),
        })
    }

    /// Reads the files anew. Gives every mistake at once; whoever has one keeps the keys of before.
    pub fn reload_files(&self) -> Result<(), Vec<String>> {
        let mut mistakes = Vec::new();
        for issuer in self.issuers.values() {
            let Keys::File(file, held) = &issuer.keys else {
                continue;
            };
            match read(file) {
                Ok(keys) => held.store(Arc::new(keys)),
                Err(mistake) => mistakes.push(format!("{}.{mistake}", issuer.name)),
            }
        }
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(mistakes),
        }
    }
}

impl Issuer {
    fn new(issuer: JwtIssuer, tls: Option<&Tls>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        if issuer.issuer.is_empty() {
            mistakes.push("issuer: is empty; write what its tokens have as `iss`".to_owned());
        }
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            mistakes.push(
                "audiences: none is named, or one is empty; write what its tokens have as `aud`".to_owned(),
            );
        }
        if issuer.algorithms.is_empty() {
            mistakes.push(
                "algorithms: none is named; write those that it signs with, such as `ES256`".to_owned(),
            );
        }
        if issuer.leeway > LEEWAY_MAX {
            mistakes.push(format!("leeway: is over {} seconds", LEEWAY_MAX.as_secs()));
        }
        let name: Arc<str> = issuer.name.into();
        match Keys::new(issuer.keys, &name, tls) {
            Ok(keys) if mistakes.is_empty() => Ok(Self {
                name,
                audiences: issuer.audiences,
                algorithms: issuer.algorithms,
                keys,
                leeway: issuer.leeway,
            }),
            Ok(_) => Err(mistakes),
            Err(mistake) => {
                mistakes.push(mistake);
                Err(mistakes)
            }
        }
    }
}

impl KeySource {
    fn is_encrypted(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Url(url) => KeysUrl::parse(url).is_ok_and(|url| url.is_encrypted()),
        }
    }
}

impl Keys {
    fn new(source: KeySource, issuer: &Arc<str>, tls: Option<&Tls>) -> Result<Self, String> {
        match source {
            KeySource::File(file) => {
                let keys = read(&file)?;
                Ok(Self::File(file, ArcSwap::from_pointee(keys)))
            }
            KeySource::Url(url) => {
                let url = KeysUrl::parse(&url).map_err(|mistake| format!("keys: {url:?} {mistake}"))?;
                Ok(Self::Url(RemoteKeys::new(Arc::clone(issuer), url, tls.cloned())))
            }
        }
    }

    async fn check_signature(&self, token: &Unverified<'_>, now: Instant) -> Result<(), JwtRefused> {
        let wanted = |keys: &KeySet| keys.select(token.key_id.as_deref(), token.algorithm).map(drop);
        let keys = match self {
            Self::File(_, held) => held.load_full(),
            Self::Url(remote) => remote
                .with(now, |keys| wanted(keys) != Err(JwtRefused::UnknownKey))
                .await
                .filter(|keys| !keys.is_empty())
                .ok_or(JwtRefused::KeysUnavailable)?,
        };
        let check = keys.select(token.key_id.as_deref(), token.algorithm)?;
        match check.holds(token.signed.as_bytes(), &token.signature) {
            true => Ok(()),
            false => Err(JwtRefused::Signature),
        }
    }
}

fn read(file: &Path) -> Result<KeySet, String> {
    KeySet::read(file).map_err(|invalid| format!("keys: {}: {}", file.display(), chain(&invalid)))
}

/// An error and its causes, which their `Display` leaves out.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
