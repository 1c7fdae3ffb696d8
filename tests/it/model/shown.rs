//! A lattice's entries in one form, whoever tells them: hosts, by the model, or a gateway, by its reads.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::proto;
use sha2::{Digest, Sha256};

use crate::host_model::{Cache, Members, Message, Term, Triple, load};

/// What identifies an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Claims(String),
    Link(Triple),
    Reference(String),
}

impl Key {
    /// The two tokens of the subject on which a gateway writes the entry.
    pub fn home(&self) -> String {
        match self {
            Self::Claims(key) => format!("claims.{key}"),
            Self::Link(triple) => format!("linkdefs.{}", home_token(triple)),
            Self::Reference(url) => format!("refmap.{}", BASE64URL_NOPAD.encode(url.as_bytes())),
        }
    }
}

/// The first 22 characters of base64url(SHA-256(actor, contract, link name)), each part behind its length.
pub fn home_token(triple: &Triple) -> String {
    let mut hash = Sha256::new();
    for part in [&triple.actor_id, &triple.contract_id, &triple.link_name] {
        hash.update(u64::try_from(part.len()).unwrap().to_be_bytes());
        hash.update(part);
    }
    let mut token = BASE64URL_NOPAD.encode(&hash.finalize());
    token.truncate(22);
    token
}

/// What an entry says, by names; a link's values are named `values.<key>`.
pub type Fields = BTreeMap<String, String>;

pub fn fields<const N: usize>(pairs: [(&str, String); N]) -> Fields {
    pairs.map(|(name, text)| (name.to_owned(), text)).into()
}

/// An entry that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where it was last written; 0 where it only would be.
    pub sequence: u64,
    pub fields: Fields,
}

/// All entries that stand.
pub type State = BTreeMap<Key, Shown>;

/// What hosts hold. Claims over which a host raised are left out, though it keeps them: nobody should count on it.
pub fn by_hosts(cache: &Cache) -> State {
    let claims = cache
        .claims
        .iter()
        .filter(|(_, claims)| !cache.troubles.contains_key(&claims.sequence))
        .map(|(key, claims)| {
            (
                Key::Claims(key.clone()),
                claims_by_hosts(claims.sequence, &claims.members),
            )
        });
    let links = cache.links.iter().map(|(triple, link)| {
        let mut fields = fields([("provider_id", text(&link.provider_id))]);
        if let Term::Map(values) = &link.values {
            fields.extend(
                values
                    .iter()
                    .map(|(name, value)| (format!("values.{name}"), text(value))),
            );
        }
        (
            Key::Link(triple.clone()),
            Shown {
                sequence: link.sequence,
                fields,
            },
        )
    });
    let references = cache.references.iter().map(|(url, reference)| {
        let fields = fields([("public_key", text(&reference.public_key))]);
        (
            Key::Reference(url.clone()),
            Shown {
                sequence: reference.sequence,
                fields,
            },
        )
    });
    claims.chain(links).chain(references).collect()
}

fn claims_by_hosts(sequence: u64, members: &Members) -> Shown {
    let text = |name: &str| members.get(name).map(text).unwrap_or_default();
    let list = |name: &str| {
        let joined = text(name);
        let items = joined.split(',').filter(|item| !item.is_empty());
        items.collect::<Vec<_>>().join(",")
    };
    Shown {
        sequence,
        fields: fields([
            ("issuer", text("iss")),
            ("name", text("name")),
            ("call_alias", text("call_alias")),
            ("capabilities", list("caps")),
            ("tags", list("tags")),
            ("revision", text("rev")),
            ("version", text("version")),
        ]),
    }
}

/// A member as a text field shows it.
pub fn text(term: &Term) -> String {
    match term {
        Term::Null => String::new(),
        Term::Text(text) | Term::Number(text) => text.clone(),
        Term::Bool(value) => value.to_string(),
        Term::List(_) | Term::Map(_) => json(term),
    }
}

fn json(term: &Term) -> String {
    match term {
        Term::Null => "null".to_owned(),
        Term::Bool(value) => value.to_string(),
        Term::Number(written) => written.clone(),
        Term::Text(text) => serde_json::to_string(text).unwrap(),
        Term::List(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Term::Map(members) => {
            let member = |(name, value): (&String, &Term)| {
                format!("{}:{}", serde_json::to_string(name).unwrap(), json(value))
            };
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
    }
}

/// The entry that a message tells of, also where it removes it; `None` where hosts cannot use the message.
pub fn told_by(message: &Message) -> Option<Key> {
    let cache = load(std::slice::from_ref(message));
    if !cache.troubles.is_empty() {
        return None;
    }
    let removed = cache.removed.into_keys().map(Key::Link).next();
    removed.or_else(|| by_hosts(&load(std::slice::from_ref(message))).into_keys().next())
}

/// An entry as a gateway answers it: identity, content, etag.
pub type Answered = (Key, Shown, String);

pub fn of_link(link: proto::LinkDefinition) -> Answered {
    let mut fields = fields([("provider_id", link.provider_id)]);
    let values = link.values.into_iter();
    fields.extend(values.map(|(name, value)| (format!("values.{name}"), value)));
    let triple = Triple {
        actor_id: link.actor_id,
        contract_id: link.contract_id,
        link_name: link.link_name,
    };
    (Key::Link(triple), shown(link.revision, fields), link.etag)
}

pub fn of_claims(claims: proto::Claims) -> Answered {
    assert_eq!((&*claims.contract_id, &*claims.config_schema), ("", ""));
    let fields = fields([
        ("issuer", claims.issuer),
        ("name", claims.name),
        ("call_alias", claims.call_alias),
        ("capabilities", claims.capabilities.join(",")),
        ("tags", claims.tags.join(",")),
        ("revision", claims.claims_revision),
        ("version", claims.version),
    ]);
    (
        Key::Claims(claims.public_key),
        shown(claims.revision, fields),
        claims.etag,
    )
}

pub fn of_reference(reference: proto::OciReference) -> Answered {
    let fields = fields([("public_key", reference.public_key)]);
    (
        Key::Reference(reference.oci_url),
        shown(reference.revision, fields),
        reference.etag,
    )
}

fn shown(revision: Option<proto::Revision>, fields: Fields) -> Shown {
    Shown {
        sequence: revision.map_or(0, |revision| revision.sequence),
        fields,
    }
}
