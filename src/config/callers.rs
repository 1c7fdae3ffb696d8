//! The callers of the configuration: who they are known by, and what they may do.

use std::{collections::BTreeMap, num::NonZeroU32};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;

use crate::{
    auth::{
        VerbName,
        access::Rule,
        callers::{CallerConfig, Callers, JwtMatch},
        limits::Limits,
        peer::CertificateName,
    },
    domain::LatticeName,
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
        let tokens = self.token_sha256.iter().filter_map(|text| {
            let sha256 = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
            let sha256 = sha256.and_then(|bytes| bytes.try_into().ok());
            if sha256.is_none() {
                mistakes.push(
                    ".token_sha256: is not a SHA-256 in 64 hexadecimal digits; `lattice-gateway token` prints both"
                        .to_owned(),
                );
            }
            sha256
        });
        let tokens = tokens.collect();
        let certificates = self.certificates.iter().filter_map(|text| {
            let name = CertificateName::parse(text);
            if name.is_none() {
                mistakes.push(format!(
                    ".certificates: {text:?} is neither a URI such as spiffe://domain/path nor dns:name"
                ));
            }
            name
        });
        let certificates = certificates.collect();
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
            if LatticeName::parse(&name.replace('*', "x")).is_err() {
                mistakes.push(format!(
                    ".grants: number {number}: {name:?} is neither a lattice's name nor a glob of one"
                ));
            }
        }
        let verbs = self.verbs.iter().filter_map(|text| {
            let verb = VerbName::parse(text);
            if verb.is_none() {
                let known = VerbName::ALL.map(VerbName::as_str).join(", ");
                mistakes.push(format!(
                    ".grants: number {number}: {text:?} is no verb; there are {known}"
                ));
            }
            verb
        });
        let verbs = verbs.collect();
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
            entries_per_lattice: self.entries_per_lattice,
        }
    }
}
