//! Layout `component`: wasmCloud hosts 1.0 to 1.9.
//!
//! Two buckets a lattice, `LATTICEDATA_<lattice>` and `CONFIGDATA_<lattice>`:
//!
//! | entry | bucket and key | body |
//! |---|---|---|
//! | interface links | data, `COMPONENT_<source>` | all links of a source, and where it is from; never deleted |
//! | claims | data, `CLAIMS_<key>` | 7 members of a component, 5 of a provider; deleted by a DEL with the body in it |
//! | config | configs, its name | an object of texts; deleted by a purge |
//!
//! Hosts file links under the key, whatever `source_id` a link in it has; such a one is kept and not shown. What they
//! refuse in a link refuses the whole record. A record that is an array, which they could read and nobody writes, is
//! malformed here.
//!
//! Source: wasmCloud v1.0.0 to v1.9.2, `crates/host/src/wasmbus`; the rules of what is read were measured on 1.9.2.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Decoded, bucket,
    kv::{CLAIMS, COMPONENTS, OWN_KEYS, deleted, foreign},
};
use crate::domain::{
    Claims, ComponentRecord, Entry, EntryKey, InterfaceLink, InterfaceLinkId, NamedConfig,
    component::StoredLink, json,
};

/// The entry's key in the bucket of the data.
pub(super) fn home(key: &EntryKey) -> Option<String> {
    let (kind, name) = match key {
        EntryKey::Claims(public_key) => (CLAIMS, public_key),
        EntryKey::Component(id) => (COMPONENTS, id),
        EntryKey::LinkDefinition(_)
        | EntryKey::OciReference(_)
        | EntryKey::InterfaceLink(_)
        | EntryKey::Config(_) => return None,
    };
    Some(format!("{kind}{name}")).filter(|key| bucket::is_key(key))
}

/// The config's key in the bucket of the configs.
pub(super) fn config_home(key: &EntryKey) -> Option<String> {
    match key {
        EntryKey::Config(name) => Some(name.to_string()).filter(|name| bucket::is_key(name)),
        EntryKey::Claims(_)
        | EntryKey::LinkDefinition(_)
        | EntryKey::OciReference(_)
        | EntryKey::InterfaceLink(_)
        | EntryKey::Component(_) => None,
    }
}

#[derive(Serialize)]
struct ComponentClaims<'a> {
    call_alias: &'a str,
    issuer: &'a str,
    name: &'a str,
    revision: &'a str,
    subject: &'a str,
    tags: Vec<&'a str>,
    version: &'a str,
}

#[derive(Serialize)]
struct ProviderClaims<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    config_schema: &'a str,
    issuer: &'a str,
    name: &'a str,
    revision: &'a str,
    subject: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct RecordBody<'a> {
    url: &'a str,
    links: Vec<LinkBody<'a>>,
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct LinkBody<'a> {
    source_id: &'a str,
    target: &'a str,
    name: &'a str,
    wit_namespace: &'a str,
    wit_package: &'a str,
    interfaces: &'a [Box<str>],
    source_config: &'a [Box<str>],
    target_config: &'a [Box<str>],
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

impl<'a> LinkBody<'a> {
    fn new(stored: &'a StoredLink) -> Self {
        Self {
            source_id: &stored.id.source_id,
            target: &stored.id.target,
            name: &stored.id.name,
            wit_namespace: &stored.id.wit_namespace,
            wit_package: &stored.id.wit_package,
            interfaces: &stored.link.interfaces,
            source_config: &stored.link.source_config,
            target_config: &stored.link.target_config,
            rest: &stored.rest,
        }
    }
}

/// Writes the body of an entry that stands. Of an interface link alone: what a record says of it.
pub fn put_body(key: &EntryKey, entry: &Entry) -> Option<Bytes> {
    let body = match (key, entry) {
        (EntryKey::Claims(public_key), Entry::Claims(claims)) => claims_body(public_key, claims),
        (EntryKey::Component(_), Entry::Component(record)) => return record_body(record),
        (EntryKey::InterfaceLink(id), Entry::InterfaceLink(link)) => {
            let stored = StoredLink {
                id: id.clone(),
                link: link.clone(),
                rest: Map::new(),
            };
            serde_json::to_vec(&LinkBody::new(&stored))
        }
        (_, _) => return None,
    };
    body.ok().map(Bytes::from)
}

/// Bytes that a link takes in its record.
pub fn link_bytes(stored: &StoredLink) -> usize {
    serde_json::to_vec(&LinkBody::new(stored)).map_or(0, |body| body.len())
}

/// Writes a record, in the order in which hosts do; what they do not know comes last.
pub fn record_body(record: &ComponentRecord) -> Option<Bytes> {
    let body = RecordBody {
        url: &record.url,
        links: record.links.iter().map(LinkBody::new).collect(),
        rest: &record.rest,
    };
    serde_json::to_vec(&body).ok().map(Bytes::from)
}

fn claims_body(public_key: &str, claims: &Claims) -> serde_json::Result<Vec<u8>> {
    let version = claims.version.as_deref().unwrap_or_default();
    if public_key.starts_with('V') {
        return serde_json::to_vec(&ProviderClaims {
            config_schema: &claims.config_schema,
            issuer: &claims.issuer,
            name: &claims.name,
            revision: &claims.revision,
            subject: public_key,
            version,
        });
    }
    serde_json::to_vec(&ComponentClaims {
        call_alias: &claims.call_alias,
        issuer: &claims.issuer,
        name: &claims.name,
        revision: &claims.revision,
        subject: public_key,
        tags: claims.tags.split(',').filter(|tag| !tag.is_empty()).collect(),
        version,
    })
}

/// Writes the body of a config.
pub(super) fn config_body(key: &EntryKey, entry: &Entry) -> Option<Bytes> {
    let (EntryKey::Config(_), Entry::Config(config)) = (key, entry) else {
        return None;
    };
    let body = serde_json::to_vec(&config.values);
    body.ok().map(Bytes::from)
}

/// Reads what stands under a key of the data. A deleted record holds no links; what links the hosts that run still have
/// of it goes with their restart.
pub(super) fn decode(tokens: &str, is_marker: bool, body: &[u8]) -> Decoded {
    let read = if let Some(id) = tokens.strip_prefix(COMPONENTS) {
        match is_marker {
            true => Ok(deleted(EntryKey::Component(id.into()))),
            false => read_record(id, body),
        }
    } else if let Some(key) = tokens.strip_prefix(CLAIMS) {
        match is_marker {
            true => Ok(deleted(EntryKey::Claims(key.into()))),
            false => read_claims(key, body),
        }
    } else if OWN_KEYS.iter().any(|prefix| tokens.starts_with(prefix)) {
        // Left by hosts of the era before, in the same bucket.
        Ok(Decoded::Nothing)
    } else {
        foreign(is_marker)
    };
    read.unwrap_or_else(Decoded::Malformed)
}

fn read_record(id: &str, body: &[u8]) -> Result<Decoded, &'static str> {
    let mut object =
        json::unambiguous_object(body).ok_or("not a JSON object, or a member of it stands twice")?;
    let Some(Value::String(url)) = object.remove("url") else {
        return Err("a record's url is missing or no text");
    };
    let links = match object.remove("links") {
        None => Vec::new(),
        Some(Value::Array(links)) => links.into_iter().map(read_link).collect::<Result<_, _>>()?,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            return Err("a record's links are no array");
        }
    };
    let record = ComponentRecord {
        url: url.into(),
        links,
        rest: object,
    };
    Ok(Decoded::Put {
        key: EntryKey::Component(id.into()),
        entry: Entry::Component(Box::new(record)),
        is_plain: true,
    })
}

fn read_link(link: Value) -> Result<StoredLink, &'static str> {
    let Value::Object(mut link) = link else {
        return Err("a link is no object");
    };
    let mut text = |name: &str, default: Option<&str>, refusal: &'static str| match link.remove(name) {
        Some(Value::String(text)) => Ok(text.into()),
        None => default.map(Into::into).ok_or(refusal),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(refusal)
        }
    };
    let id = InterfaceLinkId {
        source_id: text("source_id", None, "a link's source_id is missing or no text")?,
        target: text("target", None, "a link's target is missing or no text")?,
        name: text("name", Some("default"), "a link's name is no text")?,
        wit_namespace: text(
            "wit_namespace",
            None,
            "a link's wit_namespace is missing or no text",
        )?,
        wit_package: text("wit_package", None, "a link's wit_package is missing or no text")?,
    };
    let mut list = |name: &str, is_required: bool, refusal: &'static str| match link.remove(name) {
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.into_boxed_str()),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    Err(refusal)
                }
            })
            .collect(),
        None if !is_required => Ok(Box::default()),
        None
        | Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Err(refusal)
        }
    };
    let interfaces = list(
        "interfaces",
        true,
        "a link's interfaces are missing or no array of texts",
    )?;
    let source_config = list(
        "source_config",
        false,
        "a link's source_config is no array of texts",
    )?;
    let target_config = list(
        "target_config",
        false,
        "a link's target_config is no array of texts",
    )?;
    Ok(StoredLink {
        id,
        link: InterfaceLink {
            interfaces,
            source_config,
            target_config,
        },
        rest: link,
    })
}

/// Short names of earlier hosts are read too. What has `call_alias` and usable tags is a component's, else a provider's,
/// whatever its key.
fn read_claims(key: &str, body: &[u8]) -> Result<Decoded, &'static str> {
    const NO_CLAIMS: &str = "claims lack issuer, name, revision, subject or version, or one is no text";
    const BOTH: &str = "claims have a member under its short and its long name";
    let mut object =
        json::unambiguous_object(body).ok_or("not a JSON object, or a member of it stands twice")?;
    let mut text = |short: &str, long: &str| match (object.remove(short), object.remove(long)) {
        (Some(Value::String(text)), None) | (None, Some(Value::String(text))) => Ok(text.into_boxed_str()),
        (Some(_), Some(_)) => Err(BOTH),
        (_, _) => Err(NO_CLAIMS),
    };
    let issuer = text("iss", "issuer")?;
    let subject = text("sub", "subject")?;
    let revision = text("rev", "revision")?;
    let name = text("name", "")?;
    let version = text("version", "")?;
    if &*subject != key {
        return Err("the subject of claims is not the one of their key");
    }
    let number = revision.parse::<i32>().unwrap_or(0).to_string().into_boxed_str();
    let mut is_plain = number == revision;
    let call_alias = match object.remove("call_alias") {
        Some(Value::String(alias)) => Some(alias.into_boxed_str()),
        None | Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            None
        }
    };
    let tags = object.remove("tags").and_then(|tags| tags_of(&tags));
    let config_schema = object.remove("config_schema").unwrap_or_default();
    let common = Claims {
        issuer,
        name,
        revision: number,
        version: Some(version),
        ..Claims::default()
    };
    let claims = if let (Some(call_alias), Some(tags)) = (call_alias, tags) {
        Claims {
            call_alias,
            tags,
            ..common
        }
    } else {
        let config_schema = match config_schema {
            Value::Null => "".into(),
            Value::String(schema) if is_json(&schema) => schema.into_boxed_str(),
            Value::String(schema) => {
                is_plain &= schema.is_empty();
                "".into()
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return Err("the config_schema of a provider's claims is no text");
            }
        };
        Claims {
            config_schema,
            ..common
        }
    };
    Ok(Decoded::Put {
        key: EntryKey::Claims(key.into()),
        entry: Entry::Claims(Box::new(claims)),
        is_plain,
    })
}

/// Hosts show a schema that is no JSON as an empty one.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

/// A text, or an array of texts, comma-joined.
fn tags_of(tags: &Value) -> Option<Box<str>> {
    match tags {
        Value::String(text) => Some(text.as_str().into()),
        Value::Array(items) => {
            let items = items.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
            Some(items.join(",").into())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Reads what stands under a key of the configs: an object of texts, of which the last of doubled members counts.
pub(super) fn decode_config(tokens: &str, is_marker: bool, body: &[u8]) -> Decoded {
    let key = EntryKey::Config(tokens.into());
    if is_marker {
        return deleted(key);
    }
    match serde_json::from_slice::<std::collections::BTreeMap<String, String>>(body) {
        Ok(values) => Decoded::Put {
            key,
            entry: Entry::Config(NamedConfig {
                values: values.into_iter().collect(),
            }),
            is_plain: true,
        },
        Err(_) => Decoded::Malformed("a config is no JSON object of texts"),
    }
}
