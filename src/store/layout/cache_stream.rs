//! Layout `cache-stream`: wasmCloud hosts 0.50 to 0.59 (references from 0.50.2).
//!
//! One stream a lattice, `LATTICECACHE_<lattice>`, with one message a subject:
//!
//! | entry | home subject | body |
//! |---|---|---|
//! | claims | `lc.<lattice>.claims.<public key>` | 8 members; never deleted |
//! | link | `lc.<lattice>.linkdefs.<token>` | 7 members; a delete is the same with `"deleted": true` |
//! | reference | `lc.<lattice>.refmap.<base64url of the URL>` | 2 members; never deleted |
//!
//! Hosts put a link on a new random token each time and fold by (actor, contract, link name), highest sequence
//! wins, whatever the token. The gateway's token is `base64url(SHA-256(actor, contract, link name))[..22]`, each
//! part behind its length, so that one link has one home. References too are folded by the URL in the body.
//!
//! Source: wasmCloud OTP v0.50.0 to v0.59.0, `jetstream/client.ex`, `jetstream/cache_loader.ex`,
//! `claims/manager.ex`, `linkdefs/manager.ex`, `refmaps/manager.ex`. Members are in the alphabetical order in
//! which Elixir writes them.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Decoded, members::Members};
use crate::domain::{
    Claims, Entry, EntryKey, LatticeName, LinkDefinition, LinkId, OciReference, hash::LengthPrefixed,
    link_definition::Values,
};

/// The stream of a lattice.
pub fn stream_name(lattice: &LatticeName) -> String {
    format!("{STREAM_PREFIX}{lattice}")
}

/// What stream names of this layout begin with.
pub const STREAM_PREFIX: &str = "LATTICECACHE_";

/// What every subject of the lattice begins with, before an entry's own two tokens.
pub fn subject_prefix(lattice: &LatticeName) -> String {
    format!("lc.{lattice}.")
}

/// The subjects that entries are kept on, as patterns, one a kind.
pub fn home_patterns(lattice: &LatticeName) -> [String; 3] {
    [CLAIMS, LINKS, REFERENCES].map(|kind| format!("{}{kind}.*", subject_prefix(lattice)))
}

/// The stream's configuration, exactly as hosts ask for it (`client.ex`, the same in every version). JetStream
/// answers a host's own create with success only while the existing stream is equal to this.
pub fn stream_config(lattice: &LatticeName, storage: &str) -> Value {
    json!({
        "name": stream_name(lattice),
        "subjects": [format!("lc.{lattice}.>")],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "storage": storage,
        "discard": "old",
        "num_replicas": 1,
        "duplicate_window": 120_000_000_000_u64,
    })
}

/// The two tokens of the entry's home subject; `None` for a key that is not one subject token, which no strictly
/// parsed key is.
pub fn home(key: &EntryKey) -> Option<String> {
    match key {
        EntryKey::Claims(public_key) => is_token(public_key).then(|| format!("{CLAIMS}.{public_key}")),
        EntryKey::LinkDefinition(id) => Some(format!("{LINKS}.{}", link_token(id))),
        EntryKey::OciReference(url) => {
            (!url.is_empty()).then(|| format!("{REFERENCES}.{}", BASE64URL_NOPAD.encode(url.as_bytes())))
        }
        EntryKey::InterfaceLink(_) | EntryKey::Config(_) | EntryKey::Component(_) => None,
    }
}

/// Writes the body of an entry that stands.
pub fn put_body(key: &EntryKey, entry: &Entry) -> Option<Bytes> {
    let body = match (key, entry) {
        (EntryKey::Claims(public_key), Entry::Claims(claims)) => to_json(&ClaimsBody {
            call_alias: &claims.call_alias,
            caps: &claims.capabilities,
            iss: &claims.issuer,
            name: &claims.name,
            rev: &claims.revision,
            sub: public_key,
            tags: &claims.tags,
            version: claims.version.as_deref().unwrap_or_default(),
        }),
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) => {
            link_body(id, &link.provider_id, Some(&link.values))
        }
        (EntryKey::OciReference(oci_url), Entry::OciReference(reference)) => to_json(&ReferenceBody {
            oci_url,
            public_key: &reference.public_key,
        }),
        (_, _) => None,
    };
    body.map(Bytes::from)
}

/// Writes the body that deletes an entry: the full link without its values. Claims and references have no such
/// form.
pub fn delete_body(key: &EntryKey, current: &Entry) -> Option<Bytes> {
    match (key, current) {
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) => {
            link_body(id, &link.provider_id, None).map(Bytes::from)
        }
        (_, _) => None,
    }
}

/// Reads a stored message as hosts do, rejecting only what makes a host fail.
///
/// `tokens` is the subject behind [`subject_prefix`]. A link or reference whose identity is not made of texts is
/// malformed here, since nobody could address it.
pub fn decode(tokens: &str, body: &[u8]) -> Decoded {
    let Some((kind, key)) = tokens.split_once('.').filter(|(_, key)| !key.contains('.')) else {
        return Decoded::Malformed("the subject has not exactly two tokens behind the lattice");
    };
    let read = match kind {
        CLAIMS => read_claims(key, body),
        LINKS => read_link(body),
        REFERENCES => read_reference(body),
        _ => Err("the subject's type is none of claims, linkdefs, refmap"),
    };
    read.unwrap_or_else(Decoded::Malformed)
}

const CLAIMS: &str = "claims";
const LINKS: &str = "linkdefs";
const REFERENCES: &str = "refmap";

pub(super) fn link_token(id: &LinkId) -> String {
    const TOKEN_CHARACTERS: usize = 22;
    let mut hash = LengthPrefixed::default();
    for part in [&id.actor_id, &id.contract_id, &id.link_name] {
        hash.text(part);
    }
    let mut token = BASE64URL_NOPAD.encode(&hash.finish());
    token.truncate(TOKEN_CHARACTERS);
    token
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[derive(Serialize)]
struct ClaimsBody<'a> {
    call_alias: &'a str,
    caps: &'a str,
    iss: &'a str,
    name: &'a str,
    rev: &'a str,
    sub: &'a str,
    tags: &'a str,
    version: &'a str,
}

#[derive(Serialize)]
struct LinkBody<'a> {
    actor_id: &'a str,
    contract_id: &'a str,
    deleted: bool,
    id: &'a str,
    link_name: &'a str,
    provider_id: &'a str,
    values: &'a Values,
}

#[derive(Serialize)]
struct ReferenceBody<'a> {
    oci_url: &'a str,
    public_key: &'a str,
}

/// Without values it is a tombstone, whose values are an empty object.
fn link_body(id: &LinkId, provider_id: &str, values: Option<&Values>) -> Option<Vec<u8>> {
    let nothing = Values::default();
    to_json(&LinkBody {
        actor_id: &id.actor_id,
        contract_id: &id.contract_id,
        deleted: values.is_none(),
        id: &link_token(id),
        link_name: &id.link_name,
        provider_id,
        values: values.unwrap_or(&nothing),
    })
}

/// Texts, maps of texts and booleans always serialize.
fn to_json(body: &impl Serialize) -> Option<Vec<u8>> {
    serde_json::to_vec(body).ok()
}

fn read_claims(key: &str, body: &[u8]) -> Result<Decoded, &'static str> {
    let mut body = Members::read(body)?;
    match body.object.get("call_alias") {
        Some(Value::String(_) | Value::Null) => {}
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return Err("the call_alias of claims is no text");
        }
        None => return Err("claims lack call_alias"),
    }
    let version = match body.object.get("version") {
        None | Some(Value::Null) => None,
        Some(_) => Some(body.text("version")),
    };
    let claims = Claims {
        issuer: body.text("iss"),
        name: body.text("name"),
        call_alias: body.text("call_alias"),
        capabilities: body.text("caps"),
        tags: body.text("tags"),
        revision: body.text("rev"),
        version,
        ..Claims::default()
    };
    Ok(Decoded::Put {
        key: EntryKey::Claims(key.into()),
        entry: Entry::Claims(Box::new(claims)),
        is_plain: body.is_plain,
    })
}

fn read_link(body: &[u8]) -> Result<Decoded, &'static str> {
    let mut body = Members::read(body)?;
    let key = EntryKey::LinkDefinition(LinkId {
        actor_id: body.identity("actor_id", "a link's actor_id is missing or no text")?,
        contract_id: body.identity("contract_id", "a link's contract_id is missing or no text")?,
        link_name: body.identity("link_name", "a link's link_name is missing or no text")?,
    });
    // Of a tombstone hosts read no more than that.
    if body.object.get("deleted") == Some(&Value::Bool(true)) {
        let entry = Entry::LinkDefinition(LinkDefinition {
            provider_id: body.text("provider_id"),
            values: Values::default(),
        });
        return Ok(Decoded::Deleted {
            key,
            entry: Some(entry),
        });
    }
    if !body.object.contains_key("provider_id") {
        return Err("a link lacks provider_id");
    }
    let values = body.object.remove("values").ok_or("a link lacks values")?;
    let link = LinkDefinition {
        provider_id: body.text("provider_id"),
        values: body.values(values),
    };
    Ok(Decoded::Put {
        key,
        entry: Entry::LinkDefinition(link),
        is_plain: body.is_plain,
    })
}

pub(super) fn read_reference(body: &[u8]) -> Result<Decoded, &'static str> {
    let mut body = Members::read(body)?;
    let url = body.identity("oci_url", "a reference's oci_url is missing or no text")?;
    if !body.object.contains_key("public_key") {
        return Err("a reference lacks public_key");
    }
    let reference = OciReference {
        public_key: body.text("public_key"),
    };
    Ok(Decoded::Put {
        key: EntryKey::OciReference(url),
        entry: Entry::OciReference(reference),
        is_plain: body.is_plain,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTOR: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
    const ISSUER: &str = "ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW";

    fn link(actor: &str, contract: &str, name: &str) -> EntryKey {
        EntryKey::LinkDefinition(LinkId::new(actor, contract, name))
    }

    fn body_of(key: &EntryKey, entry: &Entry) -> String {
        String::from_utf8(put_body(key, entry).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn claims_are_written_as_hosts_write_them() {
        let key = EntryKey::Claims(ACTOR.into());
        let claims = Entry::Claims(Box::new(Claims {
            issuer: ISSUER.into(),
            name: "Echo".into(),
            call_alias: "".into(),
            capabilities: "wasmcloud:httpserver,wasmcloud:builtin:logging".into(),
            tags: "".into(),
            revision: "4".into(),
            version: Some("0.3.4".into()),
            ..Claims::default()
        }));
        assert_eq!(home(&key).unwrap(), format!("claims.{ACTOR}"));
        assert_eq!(
            body_of(&key, &claims),
            format!(
                r#"{{"call_alias":"","caps":"wasmcloud:httpserver,wasmcloud:builtin:logging","iss":"{ISSUER}","name":"Echo","rev":"4","sub":"{ACTOR}","tags":"","version":"0.3.4"}}"#
            )
        );
    }

    #[test]
    fn a_link_and_its_tombstone_are_full_bodies_on_one_home() {
        let key = link("Mbob", "wasmcloud:httpserver", "default");
        let entry = Entry::LinkDefinition(LinkDefinition {
            provider_id: "Vprovider".into(),
            values: [("z", "2"), ("address", "0.0.0.0:8080")].into_iter().collect(),
        });
        assert_eq!(home(&key).unwrap(), "linkdefs.jDhpbpfySOwDfsGe_l7Dgt");
        assert_eq!(
            body_of(&key, &entry),
            r#"{"actor_id":"Mbob","contract_id":"wasmcloud:httpserver","deleted":false,"id":"jDhpbpfySOwDfsGe_l7Dgt","link_name":"default","provider_id":"Vprovider","values":{"address":"0.0.0.0:8080","z":"2"}}"#
        );
        assert_eq!(
            delete_body(&key, &entry).unwrap(),
            r#"{"actor_id":"Mbob","contract_id":"wasmcloud:httpserver","deleted":true,"id":"jDhpbpfySOwDfsGe_l7Dgt","link_name":"default","provider_id":"Vprovider","values":{}}"#
        );
    }

    #[test]
    fn a_reference_is_written_on_its_encoded_url() {
        let key = EntryKey::OciReference("wasmcloud.azurecr.io/echo:0.3.4".into());
        let entry = Entry::OciReference(OciReference {
            public_key: ACTOR.into(),
        });
        assert_eq!(
            home(&key).unwrap(),
            "refmap.d2FzbWNsb3VkLmF6dXJlY3IuaW8vZWNobzowLjMuNA"
        );
        assert_eq!(
            body_of(&key, &entry),
            format!(r#"{{"oci_url":"wasmcloud.azurecr.io/echo:0.3.4","public_key":"{ACTOR}"}}"#)
        );
        assert_eq!(delete_body(&key, &entry), None);
    }

    #[test]
    fn parts_of_links_never_run_into_each_other() {
        let one = link(ACTOR, "wasmcloud:http", "serverdefault");
        let other = link(ACTOR, "wasmcloud:httpserver", "default");
        assert_ne!(home(&one), home(&other));
    }

    #[test]
    fn hostile_claims_keys_have_no_home() {
        for hostile in ["", "a.b", "*", ">", "a b", "é", "a\r\n"] {
            assert_eq!(home(&EntryKey::Claims(hostile.into())), None, "{hostile:?}");
        }
    }

    #[test]
    fn what_hosts_read_is_read() {
        let legacy = br#"{"actor_id":"M","contract_id":"c","link_name":"n","provider_id":"V","values":null,"deleted":null}"#;
        assert_eq!(
            decode("linkdefs.fb30deff-bbe7-4a28-a525-e53ebd4e8228", legacy),
            Decoded::Put {
                key: link("M", "c", "n"),
                entry: Entry::LinkDefinition(LinkDefinition {
                    provider_id: "V".into(),
                    values: Values::default(),
                }),
                is_plain: false,
            }
        );
        let doubled = br#"{"actor_id":"M","contract_id":"c","link_name":"n","provider_id":"V","values":{},"deleted":true,"deleted":false}"#;
        assert_eq!(
            decode("linkdefs.x", doubled),
            Decoded::Deleted {
                key: link("M", "c", "n"),
                entry: Some(Entry::LinkDefinition(LinkDefinition {
                    provider_id: "V".into(),
                    values: Values::default(),
                })),
            }
        );
        let null_version = br#"{"call_alias":"","version":null,"rev":7}"#;
        let Decoded::Put {
            entry: Entry::Claims(claims),
            ..
        } = decode("claims.M", null_version)
        else {
            panic!("not read");
        };
        assert_eq!((claims.version, &*claims.revision), (None, "7"));
    }

    #[test]
    fn what_breaks_hosts_is_malformed() {
        for (tokens, body) in [
            ("claims.M", &br#"{"name":"no alias"}"#[..]),
            ("claims.M.x", br#"{"call_alias":""}"#),
            ("claims", br#"{"call_alias":""}"#),
            ("ocimap.x", br#"{"oci_url":"u","public_key":"M"}"#),
            ("refmap.x", br#"{"oci_url":"u"}"#),
            (
                "linkdefs.x",
                br#"{"actor_id":"M","contract_id":"c","link_name":"n","provider_id":"V"}"#,
            ),
            (
                "linkdefs.x",
                br#"{"actor_id":1,"contract_id":"c","link_name":"n","provider_id":"V","values":{}}"#,
            ),
            ("linkdefs.x", b""),
        ] {
            assert!(matches!(decode(tokens, body), Decoded::Malformed(_)), "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn links_read_back_as_written(
            actor in ".{0,60}", contract in ".{0,40}", name in ".{0,20}", provider in ".{0,60}",
            values in prop::collection::btree_map(".{1,20}", ".{0,40}", 0..5),
        ) {
            let id = LinkId {
                actor_id: actor.into(),
                contract_id: contract.into(),
                link_name: name.into(),
            };
            let key = EntryKey::LinkDefinition(id);
            let entry = Entry::LinkDefinition(LinkDefinition {
                provider_id: provider.as_str().into(),
                values: values.into_iter().collect(),
            });
            let tokens = home(&key).unwrap();
            prop_assert_eq!(
                decode(&tokens, &put_body(&key, &entry).unwrap()),
                Decoded::Put { key: key.clone(), entry: entry.clone(), is_plain: true }
            );
            prop_assert_eq!(
                decode(&tokens, &delete_body(&key, &entry).unwrap()),
                Decoded::Deleted {
                    key,
                    entry: Some(Entry::LinkDefinition(LinkDefinition { provider_id: provider.into(), values: Values::default() })),
                }
            );
        }

        #[test]
        fn foreign_messages_never_panic(tokens in ".{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&tokens, &body));
        }
    }
}
