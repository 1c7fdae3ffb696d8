//! What the readers of a bucket `LATTICEDATA_<lattice>` of hosts 0.60 to 0.82 make of it when they start, told from their
//! source and without any of the gateway's code. They do not agree with each other:
//!
//! * [`otp`]: wasmCloud OTP v0.60.0 to v0.63.2 (`jetstream/metadata_cache_loader.ex`, `linkdefs/manager.ex`,
//!   `claims/manager.ex`, `refmaps/manager.ex`). JSON is read as Jason does: of doubled members the first.
//! * [`flat`]: wasmCloud 0.78 to 0.80 (`crates/host/src/wasmbus/mod.rs`): claims are one record of texts.
//! * [`tagged`]: wasmCloud 0.81 and 0.82: claims are an actor's or else a provider's, by their shape.
//! * [`clients`]: the control interface's crates 0.23 to 0.30 (`kv.rs`): one record they cannot read fails the whole list.

use std::collections::{BTreeMap, HashMap};

use data_encoding::HEXUPPER;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    bucket_model::{Entry, Messy, Operation},
    host_model::Triple,
    model::shown::{Fields, fields},
};

pub const CLAIMS: &str = "CLAIMS_";
pub const LINKS: &str = "LINKDEF_";
pub const REFERENCES: &str = "REFMAP_";

/// The hash under which everybody files a link.
pub fn link_hash(triple: &Triple) -> String {
    let text = [&*triple.actor_id, &*triple.contract_id, &*triple.link_name].concat();
    HEXUPPER.encode(&Sha256::digest(text))
}

/// What claims say, in the order of [`NAMES`].
fn claims_fields(texts: [String; 9]) -> Fields {
    NAMES.map(str::to_owned).into_iter().zip(texts).collect()
}

const NAMES: [&str; 9] = [
    "issuer",
    "name",
    "call_alias",
    "capabilities",
    "tags",
    "revision",
    "version",
    "contract_id",
    "config_schema",
];

fn link_fields(provider_id: String, values: impl IntoIterator<Item = (String, String)>) -> Fields {
    let mut shown = fields([("provider_id", provider_id)]);
    let values = values.into_iter();
    shown.extend(values.map(|(name, value)| (format!("values.{name}"), value)));
    shown
}

pub mod otp {
    use super::{Fields, Messy, Triple, claims_fields, fields, link_fields};
    use crate::{
        bucket_model::list,
        host_model::{Members, Names, Term, read},
        model::shown::text,
    };

    /// Why a host logs and goes on, or raises.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Trouble {
        NoObject,
        Missing(&'static str),
        NoText(&'static str),
    }

    fn object(body: &[u8]) -> Result<Members, Trouble> {
        match read(body, Names::Atoms) {
            Ok(Term::Map(members)) => Ok(members),
            Ok(Term::Null | Term::Bool(_) | Term::Number(_) | Term::Text(_) | Term::List(_)) | Err(_) => {
                Err(Trouble::NoObject)
            }
        }
    }

    fn identity(members: &Members, name: &'static str) -> Result<String, Trouble> {
        match members.get(name) {
            Some(Term::Text(text)) => Ok(text.clone()),
            Some(Term::Null | Term::Bool(_) | Term::Number(_) | Term::List(_) | Term::Map(_)) => {
                Err(Trouble::NoText(name))
            }
            None => Err(Trouble::Missing(name)),
        }
    }

    fn present<'a>(members: &'a Members, name: &'static str) -> Result<&'a Term, Trouble> {
        members.get(name).ok_or(Trouble::Missing(name))
    }

    /// Claims, filed under their key whatever `sub` is. All members are kept; only `call_alias` is looked at. They are
    /// shown by their short names, or by the long ones that 0.81 writes.
    pub fn claims(body: &[u8]) -> Result<Fields, Trouble> {
        let members = object(body)?;
        match present(&members, "call_alias")? {
            Term::Text(_) | Term::Null => {}
            Term::Bool(_) | Term::Number(_) | Term::List(_) | Term::Map(_) => {
                return Err(Trouble::NoText("call_alias"));
            }
        }
        let member = |short, long| members.get(short).or_else(|| members.get(long));
        let shown = |short, long| member(short, long).map(text).unwrap_or_default();
        let listed = |short, long| match member(short, long) {
            Some(Term::List(items)) => {
                let items = items.iter().map(text).collect::<Vec<_>>();
                Messy::List(items).shown()
            }
            Some(other) => list([&*text(other)]),
            None => String::new(),
        };
        Ok(claims_fields([
            shown("iss", "issuer"),
            shown("name", "name"),
            shown("call_alias", "call_alias"),
            listed("caps", "capabilities"),
            listed("tags", "tags"),
            shown("rev", "revision"),
            shown("version", "version"),
            shown("contract_id", "contract_id"),
            shown("config_schema", "config_schema"),
        ]))
    }

    /// A link. It is filed under the `id` in it, which is derived where there is none.
    pub fn link(body: &[u8]) -> Result<(Triple, Fields), Trouble> {
        let members = object(body)?;
        let triple = Triple {
            actor_id: identity(&members, "actor_id")?,
            contract_id: identity(&members, "contract_id")?,
            link_name: identity(&members, "link_name")?,
        };
        let provider_id = text(present(&members, "provider_id")?);
        let values = match present(&members, "values")? {
            Term::Map(values) => values.clone(),
            Term::Null | Term::Bool(_) | Term::Number(_) | Term::Text(_) | Term::List(_) => Members::new(),
        };
        let values = values.iter().map(|(name, value)| (name.clone(), text(value)));
        Ok((triple, link_fields(provider_id, values)))
    }

    /// A reference, filed under its URL.
    pub fn reference(body: &[u8]) -> Result<(String, Fields), Trouble> {
        let members = object(body)?;
        let url = identity(&members, "oci_url")?;
        let public_key = text(present(&members, "public_key")?);
        Ok((url, fields([("public_key", public_key)])))
    }
}

/// A link as hosts 0.78 to 0.82 and clients read it.
#[derive(Debug, Deserialize)]
struct LinkDefinition {
    #[serde(default)]
    actor_id: String,
    #[serde(default)]
    provider_id: String,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    contract_id: String,
    values: HashMap<String, String>,
}

impl LinkDefinition {
    fn shown(self) -> (Triple, Fields) {
        let triple = Triple {
            actor_id: self.actor_id,
            contract_id: self.contract_id,
            link_name: self.link_name,
        };
        (triple, link_fields(self.provider_id, self.values))
    }
}

/// Reads a link as hosts 0.78 to 0.82 do.
pub fn link(hash: &str, body: &[u8]) -> Option<(Triple, Fields)> {
    let link = serde_json::from_slice::<LinkDefinition>(body).ok()?.shown();
    (link_hash(&link.0) == hash).then_some(link)
}

pub mod flat {
    use super::{Deserialize, Fields, claims_fields};
    use crate::bucket_model::list;

    #[derive(Debug, Deserialize)]
    struct StoredClaims {
        call_alias: String,
        caps: String,
        contract_id: String,
        iss: String,
        name: String,
        rev: String,
        sub: String,
        tags: String,
        version: String,
        config_schema: Option<String>,
    }

    /// Reads claims; `None` where a host fails over them.
    pub fn claims(key: &str, body: &[u8]) -> Option<Fields> {
        let stored = serde_json::from_slice::<StoredClaims>(body).ok()?;
        let shown = claims_fields([
            stored.iss,
            stored.name,
            stored.call_alias,
            list([&*stored.caps]),
            list([&*stored.tags]),
            stored.rev,
            stored.version,
            stored.contract_id,
            stored.config_schema.unwrap_or_default(),
        ]);
        (stored.sub == key).then_some(shown)
    }
}

pub mod tagged {
    use super::{Deserialize, Fields, Messy, claims_fields};

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    enum StoredClaims {
        Actor {
            call_alias: String,
            #[serde(alias = "caps")]
            capabilities: Messy,
            #[serde(alias = "iss")]
            issuer: String,
            name: String,
            #[serde(alias = "rev")]
            revision: String,
            #[serde(alias = "sub")]
            subject: String,
            tags: Messy,
            version: String,
        },
        Provider {
            contract_id: String,
            #[serde(alias = "iss")]
            issuer: String,
            name: String,
            #[serde(alias = "rev")]
            revision: String,
            #[serde(alias = "sub")]
            subject: String,
            version: String,
            config_schema: Option<String>,
        },
    }

    /// For whose a host takes claims.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Whose {
        Actor,
        Provider,
    }

    /// Reads claims; `None` where a host fails over them.
    pub fn claims(key: &str, body: &[u8]) -> Option<(Whose, Fields)> {
        let none = String::new;
        let (whose, subject, shown) = match serde_json::from_slice(body).ok()? {
            StoredClaims::Actor {
                call_alias,
                capabilities,
                issuer,
                name,
                revision,
                subject,
                tags,
                version,
            } => {
                let (capabilities, tags) = (capabilities.shown(), tags.shown());
                let shown = [
                    issuer,
                    name,
                    call_alias,
                    capabilities,
                    tags,
                    revision,
                    version,
                    none(),
                    none(),
                ];
                (Whose::Actor, subject, shown)
            }
            StoredClaims::Provider {
                contract_id,
                issuer,
                name,
                revision,
                subject,
                version,
                config_schema,
            } => {
                let schema = config_schema.unwrap_or_default();
                let shown = [
                    issuer,
                    name,
                    none(),
                    none(),
                    none(),
                    revision,
                    version,
                    contract_id,
                    schema,
                ];
                (Whose::Provider, subject, shown)
            }
        };
        (subject == key).then(|| (whose, claims_fields(shown)))
    }
}

pub mod clients {
    use super::{
        BTreeMap, CLAIMS, Entry, Fields, HashMap, LINKS, LinkDefinition, Operation, Triple, claims_fields,
    };
    use crate::bucket_model::list;

    fn standing<'a>(entries: &'a [Entry], prefix: &'static str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let standing = entries.iter().filter(|entry| entry.operation == Operation::Put);
        standing.filter_map(move |entry| Some((entry.key.strip_prefix(prefix)?, &*entry.body)))
    }

    /// All claims, by the keys that they stand under; `None` where one record is no object of texts.
    pub fn claims(entries: &[Entry]) -> Option<BTreeMap<&str, HashMap<String, String>>> {
        standing(entries, CLAIMS)
            .map(|(key, body)| Some((key, serde_json::from_slice(body).ok()?)))
            .collect()
    }

    /// All links; `None` where one record cannot be read.
    pub fn links(entries: &[Entry]) -> Option<BTreeMap<Triple, Fields>> {
        standing(entries, LINKS)
            .map(|(_, body)| Some(serde_json::from_slice::<LinkDefinition>(body).ok()?.shown()))
            .collect()
    }

    /// Claims as `wash` shows them, short names or long ones.
    pub fn shown(claims: &HashMap<String, String>) -> Fields {
        let either = |short: &str, long: &str| {
            let text = claims.get(short).or_else(|| claims.get(long));
            text.cloned().unwrap_or_default()
        };
        let listed = |short, long| list([&*either(short, long)]);
        claims_fields([
            either("iss", "issuer"),
            either("name", "name"),
            either("call_alias", "call_alias"),
            listed("caps", "capabilities"),
            listed("tags", "tags"),
            either("rev", "revision"),
            either("version", "version"),
            either("contract_id", "contract_id"),
            either("config_schema", "config_schema"),
        ])
    }
}

#[test]
fn the_model_reads_as_each_reader_does() {
    let vector = Triple {
        actor_id: "Mbob".to_owned(),
        contract_id: "wasmcloud:testy".to_owned(),
        link_name: "default".to_owned(),
    };
    let hash = "B40411AD09B70A2C83D59923584F66BA2C5A3C274DC4F19416DA49CCD6531F9C";
    assert_eq!(link_hash(&vector), hash);
    let body = br#"{"actor_id":"Mbob","provider_id":"V","link_name":"default","contract_id":"wasmcloud:testy","values":{"a":"1"}}"#;
    assert_eq!(otp::link(body), Ok(link(hash, body).unwrap()));
    assert_eq!(link("other", body), None);

    let short = r#"{"call_alias":"","caps":"a,b","contract_id":"","iss":"A","name":"N","rev":"1","sub":"M","tags":"","version":"1"}"#;
    let by_otp = otp::claims(short.as_bytes()).unwrap();
    assert_eq!(flat::claims("M", short.as_bytes()).as_ref(), Some(&by_otp));
    assert_eq!(
        tagged::claims("M", short.as_bytes()),
        Some((tagged::Whose::Actor, by_otp))
    );
    // Migrated from the era before.
    let migrated = short.replace(r#""contract_id":"","#, "");
    assert_eq!(flat::claims("M", migrated.as_bytes()), None);
    let actor = br#"{"call_alias":"x","capabilities":["a","b"],"issuer":"A","name":"N","revision":"1","subject":"M","tags":[],"version":"1"}"#;
    assert_eq!(otp::claims(actor).unwrap()["capabilities"], "a,b");
    let provider =
        br#"{"contract_id":"c","issuer":"A","name":"N","revision":"1","subject":"V","version":"1"}"#;
    assert_eq!(otp::claims(provider), Err(otp::Trouble::Missing("call_alias")));
    assert_eq!(tagged::claims("V", provider).unwrap().0, tagged::Whose::Provider);
    // An OTP host's own provider is an actor for 0.81.
    let of_otp = short.replace(r#""contract_id":"""#, r#""contract_id":"c""#);
    assert_eq!(
        tagged::claims("M", of_otp.as_bytes()).unwrap().0,
        tagged::Whose::Actor
    );

    let entry = |key: &str, body: &[u8]| Entry {
        sequence: 1,
        key: key.to_owned(),
        operation: Operation::Put,
        is_by_gateway: false,
        body: body.to_owned(),
    };
    assert!(clients::claims(&[entry("CLAIMS_M", short.as_bytes()), entry("CLAIMS_V", provider)]).is_some());
    assert!(clients::claims(&[entry("CLAIMS_M", short.as_bytes()), entry("CLAIMS_N", actor)]).is_none());
    assert!(clients::links(&[entry(&format!("LINKDEF_{hash}"), body)]).is_some());
}
