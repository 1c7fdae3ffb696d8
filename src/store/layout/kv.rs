//! Layout `kv`: wasmCloud hosts 0.60 to 0.82.
//!
//! One bucket a lattice, `LATTICEDATA_<lattice>`:
//!
//! | entry | key | body |
//! |---|---|---|
//! | claims | `CLAIMS_<public key>` | 9 members, texts only; deleted by a DEL with the stored body in it |
//! | link | `LINKDEF_<hash>` | 6 members; deleted by an empty DEL |
//! | reference | `REFMAP_<base64url of the URL>` | 2 members; never deleted |
//!
//! The hash is upper-case hexadecimal SHA-256 of actor, contract and link name with nothing in between, so that two links
//! can have one key: the second is refused. A purge is never written: hosts 0.78 to 0.82 ignore it.
//!
//! Source: wasmCloud OTP v0.60.0 to v0.63.2, `jetstream/client.ex`, `jetstream/cache_loader.ex`; wasmCloud v0.78.0 to
//! v0.82.0, `crates/host`; the control interface's crates 0.23 to 0.30, which fail as a whole over one record of claims
//! with a member that is no text.

use bytes::Bytes;
use data_encoding::{BASE64URL_NOPAD, HEXUPPER};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{ClaimsForm, Decoded, cache_stream, members::Members};
use crate::domain::{Claims, Entry, EntryKey, LinkDefinition, LinkId, json, link_definition::Values};

pub(super) const CLAIMS: &str = "CLAIMS_";
const LINKS: &str = "LINKDEF_";
const REFERENCES: &str = "REFMAP_";
/// Only hosts of the next era write such keys.
pub const COMPONENTS: &str = "COMPONENT_";

/// What the keys of this layout begin with, claims apart: they are of the next era too.
pub const OWN_KEYS: [&str; 2] = [LINKS, REFERENCES];

/// The entry's key.
pub(super) fn home(key: &EntryKey) -> Option<String> {
    match key {
        EntryKey::Claims(public_key) => {
            super::bucket::is_key(public_key).then(|| format!("{CLAIMS}{public_key}"))
        }
        EntryKey::LinkDefinition(id) => Some(format!("{LINKS}{}", link_hash(id))),
        EntryKey::OciReference(url) => {
            (!url.is_empty()).then(|| format!("{REFERENCES}{}", BASE64URL_NOPAD.encode(url.as_bytes())))
        }
        EntryKey::InterfaceLink(_) | EntryKey::Config(_) | EntryKey::Component(_) => None,
    }
}

fn link_hash(id: &LinkId) -> String {
    let mut hash = Sha256::new();
    for part in [&id.actor_id, &id.contract_id, &id.link_name] {
        hash.update(part.as_bytes());
    }
    HEXUPPER.encode(&hash.finalize())
}

#[derive(Serialize)]
struct ShortClaims<'a> {
    call_alias: &'a str,
    caps: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    config_schema: &'a str,
    contract_id: &'a str,
    iss: &'a str,
    name: &'a str,
    rev: &'a str,
    sub: &'a str,
    tags: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct LongActorClaims<'a> {
    call_alias: &'a str,
    capabilities: &'a str,
    issuer: &'a str,
    name: &'a str,
    revision: &'a str,
    subject: &'a str,
    tags: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct LongProviderClaims<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    config_schema: &'a str,
    contract_id: &'a str,
    issuer: &'a str,
    name: &'a str,
    revision: &'a str,
    subject: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct LinkBody<'a> {
    actor_id: &'a str,
    contract_id: &'a str,
    id: &'a str,
    link_name: &'a str,
    provider_id: &'a str,
    values: &'a Values,
}

/// Writes the body of an entry that stands.
pub(super) fn put_body(key: &EntryKey, entry: &Entry, claims_form: ClaimsForm) -> Option<Bytes> {
    match (key, entry) {
        (EntryKey::Claims(public_key), Entry::Claims(claims)) => {
            claims_body(public_key, claims, claims_form).map(Bytes::from)
        }
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) => {
            let body = LinkBody {
                actor_id: &id.actor_id,
                contract_id: &id.contract_id,
                id: &link_hash(id),
                link_name: &id.link_name,
                provider_id: &link.provider_id,
                values: &link.values,
            };
            serde_json::to_vec(&body).ok().map(Bytes::from)
        }
        (EntryKey::OciReference(_), Entry::OciReference(_)) => cache_stream::put_body(key, entry),
        (_, _) => None,
    }
}

fn claims_body(public_key: &str, claims: &Claims, form: ClaimsForm) -> Option<Vec<u8>> {
    let version = claims.version.as_deref().unwrap_or_default();
    let body = match (form, public_key.starts_with('V')) {
        (ClaimsForm::Short, _) => serde_json::to_vec(&ShortClaims {
            call_alias: &claims.call_alias,
            caps: &claims.capabilities,
            config_schema: &claims.config_schema,
            contract_id: &claims.contract_id,
            iss: &claims.issuer,
            name: &claims.name,
            rev: &claims.revision,
            sub: public_key,
            tags: &claims.tags,
            version,
        }),
        (ClaimsForm::Long, false) => serde_json::to_vec(&LongActorClaims {
            call_alias: &claims.call_alias,
            capabilities: &claims.capabilities,
            issuer: &claims.issuer,
            name: &claims.name,
            revision: &claims.revision,
            subject: public_key,
            tags: &claims.tags,
            version,
        }),
        (ClaimsForm::Long, true) => serde_json::to_vec(&LongProviderClaims {
            config_schema: &claims.config_schema,
            contract_id: &claims.contract_id,
            issuer: &claims.issuer,
            name: &claims.name,
            revision: &claims.revision,
            subject: public_key,
            version,
        }),
    };
    body.ok()
}

/// Reads what stands under a key.
pub(super) fn decode(tokens: &str, is_marker: bool, body: &[u8]) -> Decoded {
    let read = if let Some(key) = tokens.strip_prefix(CLAIMS) {
        match is_marker {
            true => Ok(deleted(EntryKey::Claims(key.into()))),
            false => read_claims(key, body),
        }
    } else if let Some(hash) = tokens.strip_prefix(LINKS) {
        match is_marker {
            true => Ok(Decoded::DeletedUnnamed),
            false => read_link(hash, body),
        }
    } else if tokens.starts_with(REFERENCES) {
        match is_marker {
            // Hosts know no deletion of a reference: the key tells of none any longer, and another may.
            true => Ok(Decoded::Nothing),
            false => cache_stream::read_reference(body),
        }
    } else {
        foreign(is_marker)
    };
    read.unwrap_or_else(Decoded::Malformed)
}

pub(super) fn deleted(key: EntryKey) -> Decoded {
    Decoded::Deleted { key, entry: None }
}

/// Why a message under a key of no kind is malformed: hosts log it, and do nothing with it.
pub const FOREIGN_KEY: &str = "the key is none of this layout's";

/// What stands under a key of no kind.
pub(super) fn foreign(is_marker: bool) -> Result<Decoded, &'static str> {
    match is_marker {
        true => Ok(Decoded::Nothing),
        false => Err(FOREIGN_KEY),
    }
}

/// A provider's claims as hosts 0.81 and 0.82 read them.
#[derive(Deserialize)]
struct StoredProvider {
    contract_id: Box<str>,
    #[serde(alias = "iss")]
    issuer: Box<str>,
    name: Box<str>,
    #[serde(alias = "rev")]
    revision: Box<str>,
    #[serde(alias = "sub")]
    subject: Box<str>,
    version: Box<str>,
    config_schema: Option<Box<str>>,
}

/// Hosts and clients read short or long names, and lists as texts or arrays. What not one host reads is malformed: those
/// before 0.78 need `call_alias` alone, and only those since 0.81 do without. Plain are claims as the gateway writes them:
/// others not every reader reads, or not as they are shown.
fn read_claims(key: &str, body: &[u8]) -> Result<Decoded, &'static str> {
    let members = Members::read(body)?;
    let object = members.object.clone();
    let claims = match object.get("call_alias") {
        Some(Value::String(_) | Value::Null) => loose_claims(members),
        None | Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            provider_claims(key, body)?
        }
    };
    let is_own = |form| {
        let own = claims_body(key, &claims, form).and_then(|own| serde_json::from_slice(&own).ok());
        own.is_some_and(|own: Value| own.as_object() == Some(&object))
    };
    let is_plain = [ClaimsForm::Short, ClaimsForm::Long].into_iter().any(is_own) && is_unambiguous(body);
    Ok(Decoded::Put {
        key: EntryKey::Claims(key.into()),
        entry: Entry::Claims(Box::new(claims)),
        is_plain,
    })
}

fn loose_claims(mut members: Members) -> Claims {
    let version = match members.object.get("version") {
        None | Some(Value::Null) => None,
        Some(_) => Some(members.text("version")),
    };
    Claims {
        issuer: members.either("iss", "issuer"),
        name: members.either("name", ""),
        call_alias: members.either("call_alias", ""),
        capabilities: members.list("caps", "capabilities"),
        tags: members.list("tags", ""),
        revision: members.either("rev", "revision"),
        version,
        contract_id: members.either("contract_id", ""),
        config_schema: members.either("config_schema", ""),
    }
}

fn provider_claims(key: &str, body: &[u8]) -> Result<Claims, &'static str> {
    let stored = serde_json::from_slice::<StoredProvider>(body)
        .ok()
        .filter(|stored| &*stored.subject == key)
        .ok_or("claims have no call_alias that is a text, nor all that a provider's have")?;
    Ok(Claims {
        issuer: stored.issuer,
        name: stored.name,
        revision: stored.revision,
        version: Some(stored.version),
        contract_id: stored.contract_id,
        config_schema: stored.config_schema.unwrap_or_default(),
        ..Claims::default()
    })
}

/// Whether no member stands twice: of those that do hosts before 0.78 take the first, and others take none.
fn is_unambiguous(body: &[u8]) -> bool {
    json::unambiguous_object(body).is_some()
}

fn read_link(hash: &str, body: &[u8]) -> Result<Decoded, &'static str> {
    let mut members = Members::read(body)?;
    let id = LinkId {
        actor_id: members.identity("actor_id", "a link's actor_id is missing or no text")?,
        contract_id: members.identity("contract_id", "a link's contract_id is missing or no text")?,
        link_name: members.identity("link_name", "a link's link_name is missing or no text")?,
    };
    if link_hash(&id) != hash {
        return Err("the key is not the hash of the link in it");
    }
    if !members.object.contains_key("provider_id") {
        return Err("a link lacks provider_id");
    }
    let values = members.object.remove("values").ok_or("a link lacks values")?;
    let link = LinkDefinition {
        provider_id: members.text("provider_id"),
        values: members.values(values),
    };
    Ok(Decoded::Put {
        key: EntryKey::LinkDefinition(id),
        entry: Entry::LinkDefinition(link),
        is_plain: members.is_plain && is_unambiguous(body),
    })
}

/// The stored body of claims with an empty `call_alias`: hosts 0.78 to 0.82 forget the alias of deleted claims, whosever
/// it is by then.
pub fn without_alias(body: &[u8]) -> Option<Bytes> {
    let mut object = super::first_wins::object(body).ok()?;
    *object.get_mut("call_alias")? = Value::String(String::new());
    serde_json::to_vec(&object).ok().map(Bytes::from)
}
