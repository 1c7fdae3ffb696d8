//! The callers of the configuration, found by what they show.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::{
    Caller,
    access::{Access, Rule},
    limits::Limits,
    peer::CertificateName,
};

/// One caller, as the configuration has it.
#[derive(Clone, Debug)]
pub struct CallerConfig {
    /// The name.
    pub name: String,
    /// SHA-256 of static tokens.
    pub tokens: Vec<[u8; 32]>,
    /// Names in client certificates.
    pub certificates: Vec<CertificateName>,
    /// What a JWT must say.
    pub jwts: Vec<JwtMatch>,
    /// What is granted.
    pub rules: Vec<Rule>,
    /// How much.
    pub limits: Limits,
}

/// What a JWT must say to be a caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtMatch {
    /// Which of the configured issuers signed it.
    pub issuer: String,
    /// Members of its payload: each a text that is equal, or a list that holds it.
    pub claims: BTreeMap<String, String>,
}

impl JwtMatch {
    fn fits(&self, claims: &Map<String, Value>) -> bool {
        self.claims.iter().all(|(name, wanted)| match claims.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(list)) => list.iter().any(|item| item.as_str() == Some(wanted)),
            _ => false,
        })
    }
}

/// All callers.
#[derive(Debug, Default)]
pub struct Callers {
    by_name: BTreeMap<Caller, Arc<Access>>,
    by_token: HashMap<[u8; 32], Arc<Access>>,
    by_certificate: HashMap<CertificateName, Arc<Access>>,
    /// By issuer and subject where both are asked for, else by issuer alone.
    by_jwt: HashMap<(String, Option<String>), JwtCallers>,
    anonymous: Option<Arc<Access>>,
}

type JwtCallers = Vec<(JwtMatch, Arc<Access>)>;

const SUBJECT: &str = "sub";

impl Callers {
    /// Whoever comes may do everything: what `dev` serves.
    pub fn anybody() -> Self {
        let access = Arc::new(Access::to_everything(Caller::anonymous()));
        Self {
            by_name: [(access.caller().clone(), Arc::clone(&access))].into(),
            anonymous: Some(access),
            ..Self::default()
        }
    }

    /// These callers. Each of two that share a credential is named in `mistakes`.
    pub fn new(configured: Vec<CallerConfig>, mistakes: &mut Vec<String>) -> Self {
        let mut callers = Self::default();
        for config in configured {
            let caller = Caller::named(&config.name);
            let access = Arc::new(Access::new(caller.clone(), config.rules, config.limits));
            let mut shared = |what: &str, with: Option<&Arc<Access>>| {
                if let Some(with) = with {
                    let other = with.caller().as_str();
                    mistakes.push(format!(
                        "callers.{}: {what} is also {other}'s; a credential names one caller",
                        config.name
                    ));
                }
            };
            for token in config.tokens {
                shared(
                    "a token",
                    callers.by_token.insert(token, Arc::clone(&access)).as_ref(),
                );
            }
            for name in config.certificates {
                shared(
                    "a certificate's name",
                    callers.by_certificate.insert(name, Arc::clone(&access)).as_ref(),
                );
            }
            for jwt in config.jwts {
                let place = (jwt.issuer.clone(), jwt.claims.get(SUBJECT).cloned());
                let there = callers.by_jwt.entry(place).or_default();
                let same = there.iter().find(|(other, _)| *other == jwt);
                shared("a jwt", same.map(|(_, access)| access));
                there.push((jwt, Arc::clone(&access)));
            }
            callers.by_name.insert(caller, access);
        }
        callers
    }

    /// Goes on with what each caller has under way in an earlier configuration.
    pub fn go_on_from(&self, earlier: &Self) {
        for (caller, access) in &self.by_name {
            if let Some(before) = earlier.by_name.get(caller) {
                access.go_on_from(before);
            }
        }
    }

    /// Finds a caller by its name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Access>> {
        self.by_name.get(&Caller::named(name))
    }

    /// The callers, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Access>> {
        self.by_name.values()
    }

    /// Who may come without credentials.
    pub fn anonymous(&self) -> Option<&Arc<Access>> {
        self.anonymous.as_ref()
    }

    /// Finds a caller by the hash of its token. What a look-up in a table tells by its time is about hashes, from which
    /// no token follows; the hash itself is compared in constant time all the same.
    pub fn by_token(&self, sha256: &[u8; 32]) -> Option<&Arc<Access>> {
        let (known, access) = self.by_token.get_key_value(sha256)?;
        bool::from(known.ct_eq(sha256)).then_some(access)
    }

    /// Finds the caller whom the names of a certificate name; none where they name several.
    pub fn by_certificate(&self, names: &[CertificateName]) -> Option<&Arc<Access>> {
        the_one(names.iter().filter_map(|name| self.by_certificate.get(name)))
    }

    /// Finds the caller to whom a verified JWT fits; none where it fits several.
    pub fn by_jwt(&self, issuer: &str, claims: &Map<String, Value>) -> Option<&Arc<Access>> {
        let subject = claims.get(SUBJECT).and_then(Value::as_str).map(str::to_owned);
        let places = [(issuer.to_owned(), None), (issuer.to_owned(), subject)];
        let [anybody, subject] = &places;
        let places = std::iter::once(anybody).chain((subject.1.is_some()).then_some(subject));
        the_one(
            places
                .filter_map(|place| self.by_jwt.get(place))
                .flatten()
                .filter(|(jwt, _)| jwt.fits(claims))
                .map(|(_, access)| access),
        )
    }
}

/// The one that all of them are.
fn the_one<'a>(mut found: impl Iterator<Item = &'a Arc<Access>>) -> Option<&'a Arc<Access>> {
    let first = found.next()?;
    found.all(|other| Arc::ptr_eq(first, other)).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(name: &str) -> CallerConfig {
        CallerConfig {
            name: name.to_owned(),
            tokens: Vec::new(),
            certificates: Vec::new(),
            jwts: Vec::new(),
            rules: Vec::new(),
            limits: Limits::default(),
        }
    }

    fn jwt(claims: &[(&str, &str)]) -> JwtMatch {
        JwtMatch {
            issuer: "main".to_owned(),
            claims: claims
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn name_of(found: Option<&Arc<Access>>) -> Option<&str> {
        found.map(|access| access.caller().as_str())
    }

    #[test]
    fn a_shared_credential_is_a_mistake() {
        let uri = CertificateName::Uri("spiffe://x/y".to_owned());
        let both = |name| CallerConfig {
            tokens: vec![[1; 32]],
            certificates: vec![uri.clone()],
            jwts: vec![jwt(&[("sub", "x")])],
            ..config(name)
        };
        let mut mistakes = Vec::new();
        Callers::new(vec![both("one"), both("two")], &mut mistakes);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(
            mistakes
                .iter()
                .all(|mistake| mistake.starts_with("callers.two: ") && mistake.contains("one's"))
        );
    }

    #[test]
    fn names_that_name_several_callers_name_none() {
        let dns = |name: &str| CertificateName::Dns(name.to_owned());
        let of = |name: &str| CallerConfig {
            certificates: vec![dns(name), dns(&format!("{name}-too"))],
            ..config(name)
        };
        let callers = Callers::new(vec![of("one"), of("two")], &mut Vec::new());
        for (names, found) in [
            (&["one"][..], Some("one")),
            (&["one", "one-too", "unknown"], Some("one")),
            (&["one", "two"], None),
            (&["unknown"], None),
            (&[], None),
        ] {
            let names = names.iter().copied().map(dns).collect::<Vec<_>>();
            assert_eq!(name_of(callers.by_certificate(&names)), found, "{names:?}");
        }
    }

    #[test]
    fn a_jwt_fits_by_its_issuer_and_every_claim() {
        let of = |name: &str, jwt| CallerConfig {
            jwts: vec![jwt],
            ..config(name)
        };
        let callers = Callers::new(
            vec![
                of("subject", jwt(&[("sub", "ci"), ("env", "prod")])),
                of("group", jwt(&[("groups", "operators")])),
            ],
            &mut Vec::new(),
        );
        for (issuer, claims, found) in [
            ("main", json!({"sub": "ci", "env": "prod"}), Some("subject")),
            ("other", json!({"sub": "ci", "env": "prod"}), None),
            ("main", json!({"sub": "ci", "env": "test"}), None),
            ("main", json!({"sub": "ci"}), None),
            (
                "main",
                json!({"sub": "me", "groups": ["x", "operators"]}),
                Some("group"),
            ),
            ("main", json!({"groups": [["operators"]]}), None),
            ("main", json!({"groups": 7}), None),
            (
                "main",
                json!({"sub": "ci", "env": "prod", "groups": "operators"}),
                None,
            ),
        ] {
            let claims_of = claims.as_object().unwrap();
            assert_eq!(
                name_of(callers.by_jwt(issuer, claims_of)),
                found,
                "{issuer} {claims}"
            );
        }
    }
}
