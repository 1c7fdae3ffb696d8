//! The callers of the configuration: who they are known by, and what they may do.

use std::{collections::BTreeMap, num::NonZeroU32};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;

use crate::auth::{
    Pattern, VerbName,
    access::Rule,
    callers::{CallerConfig, Callers, JwtMatch},
    limits::Limits,
    peer::CertificateName,
};

/// What a file of its own may hold instead of `gateway.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCallers {
    callers: BTreeMap<String, RawCaller>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCaller {
    #[serde(default)]
    token_sha256: Vec<String>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    jwt: Vec<RawJwt>,
    grants: Vec<RawGrant>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwt {
    issuer: String,
    claims: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrant {
    lattices: Vec<String>,
    verbs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    requests_per_second: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    in_flight: Option<usize>,
    watches: Option<usize>,
    entries_per_lattice: Option<u64>,
}

impl RawCallers {
    pub(super) fn into_callers(self) -> BTreeMap<String, RawCaller> {
        self.callers
    }
}

const NAME_BYTES_MAX: usize = 63;

/// Reads callers. `issuers` are those of JWTs that are configured.
pub(super) fn callers(
    raw: BTreeMap<String, RawCaller>,
    issuers: &[&str],
    mistakes: &mut Vec<String>,
) -> Callers {
    if raw.is_empty() {
        mistakes.push(
            "callers: none is configured, so nobody could call; add a table such as [callers.ci], with a token \
             that `lattice-gateway token` makes"
                .to_owned(),
        );
    }
    let configured = raw
        .into_iter()
        .map(|(name, caller)| {
            let mut own = Vec::new();
            let config = caller.read(&name, issuers, &mut own);
            mistakes.extend(own.into_iter().map(|mistake| format!("callers.{name}{mistake}")));
            config
        })
        .collect();
    Callers::new(configured, mistakes)
}

/// Reads each text of a list; what does not parse is a mistake.
pub(super) fn each<T, C: FromIterator<T>>(
    texts: &[String],
    parse: impl Fn(&str) -> Option<T>,
    mistakes: &mut Vec<String>,
    mistake: impl Fn(&str) -> String,
) -> C {
    let parsed = texts.iter().filter_map(|text| {
        let parsed = parse(text);
        if parsed.is_none() {
            mistakes.push(mistake(text));
        }
        parsed
    });
    parsed.collect()
}

impl RawCaller {
    fn read(self, name: &str, issuers: &[&str], mistakes: &mut Vec<String>) -> CallerConfig {
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name || name == "anonymous" {
            mistakes.push(format!(
                ": a caller's name is 1 to {NAME_BYTES_MAX} of A-Z, a-z, 0-9, '-', '_' and '.', and not `anonymous`"
            ));
        }
        if self.token_sha256.is_empty() && self.certificates.is_empty() && self.jwt.is_empty() {
            mistakes.push(": is known by nothing; give token_sha256, certificates or jwt".to_owned());
        }
        let sha256 = |text: &str| HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok();
        let tokens = each(&self.token_sha256, sha256, mistakes, |_text| {
            ".token_sha256: is not a SHA-256 in 64 hexadecimal digits; `lattice-gateway token` prints both"
                .to_owned()
        });
        let certificates = each(&self.certificates, CertificateName::parse, mistakes, |text| {
            format!(".certificates: {text:?} is neither a URI such as spiffe://domain/path nor dns:name")
        });
        let jwts = self.jwt.into_iter().map(|jwt| {
            if !issuers.contains(&jwt.issuer.as_str()) {
                mistakes.push(format!(".jwt.issuer: there is no table [jwt.{}]", jwt.issuer));
            }
            if jwt.claims.is_empty() {
                mistakes.push(
                    ".jwt.claims: is empty, so that every token of the issuer would fit; ask for `sub` at least".to_owned(),
                );
            }
            JwtMatch {
                issuer: jwt.issuer,
                claims: jwt.claims,
            }
        });
        let jwts = jwts.collect();
        let mut rules = Vec::new();
        for (grant, number) in self.grants.iter().zip(1..) {
            rules.push(grant.read(number, mistakes));
        }
        CallerConfig {
            name: name.to_owned(),
            tokens,
            certificates,
            jwts,
            rules,
            limits: self.limits.read(mistakes),
        }
    }
}

impl RawGrant {
    fn read(&self, number: usize, mistakes: &mut Vec<String>) -> Rule {
        for name in &self.lattices {
            if !Pattern::is_of_lattices(name) {
                mistakes.push(format!(
                    ".grants: number {number}: {name:?} is neither a lattice's name nor a glob of one"
                ));
            }
        }
        let verbs = each(&self.verbs, VerbName::parse, mistakes, |text| {
            let known = VerbName::ALL.map(VerbName::as_str).join(", ");
            format!(".grants: number {number}: {text:?} is no verb; there are {known}")
        });
        if self.lattices.is_empty() || self.verbs.is_empty() {
            mistakes.push(format!(
                ".grants: number {number}: grants nothing; give lattices and verbs"
            ));
        }
        Rule {
            lattices: self.lattices.iter().map(String::as_str).collect(),
            verbs,
        }
    }
}

impl RawLimits {
    fn read(self, mistakes: &mut Vec<String>) -> Limits {
        if self.burst.is_some() && self.requests_per_second.is_none() {
            mistakes.push(".limits.burst: means nothing without requests_per_second".to_owned());
        }
        if self.in_flight == Some(0) {
            mistakes
                .push(".limits.in_flight: must be at least 1; to shut a caller out, remove it".to_owned());
        }
        Limits {
            requests_per_second: self.requests_per_second,
            burst: self.burst,
            in_flight: self.in_flight,
            watches: self.watches,
            entries_per_lattice: self.entries_per_lattice,
        }
    }
}
