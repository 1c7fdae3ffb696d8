//! What is put, got and deleted: made anew for each turn, so that no turn touches what another wrote.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use lattice_gateway::{
    domain::{self, Entry, EntryKey, LinkId},
    proto::{InterfaceLink, LinkDefinition, PutLinkDefinitionRequest},
    store::layout::cache_stream,
};
use serde_json::json;

use super::keys;

pub(crate) const CONTRACT: &str = "wasmcloud:keyvalue";
pub(crate) const TARGET: &str = "target";

/// Something that is put again and again, with another value each time where its kind has values.
#[derive(Clone, Debug)]
pub(crate) enum Thing {
    Link(Link),
    Claims {
        token: String,
        key: String,
    },
    Reference {
        url: String,
        key: String,
    },
    Interface {
        source: String,
        name: String,
        writes: usize,
    },
    Config {
        name: String,
        writes: usize,
    },
}

/// A link definition.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) actor: Arc<str>,
    pub(crate) provider: Arc<str>,
    pub(crate) name: String,
    pub(crate) writes: usize,
    /// The subject behind the lattice's prefix and the body, for who publishes by himself.
    pub(crate) home: String,
    pub(crate) body: Bytes,
}

impl Link {
    fn new(actor: &Arc<str>, provider: &Arc<str>, name: String) -> Option<Self> {
        let key = EntryKey::LinkDefinition(LinkId::new(actor, CONTRACT, &name));
        let entry = Entry::LinkDefinition(domain::LinkDefinition {
            provider_id: (&**provider).into(),
            values: values(0)
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
        });
        Some(Self {
            actor: Arc::clone(actor),
            provider: Arc::clone(provider),
            name,
            writes: 0,
            home: cache_stream::home(&key)?,
            body: cache_stream::put_body(&key, &entry)?,
        })
    }

    pub(crate) fn put(&self, lattice: &str) -> PutLinkDefinitionRequest {
        PutLinkDefinitionRequest {
            lattice: lattice.to_owned(),
            link_definition: Some(LinkDefinition {
                actor_id: self.actor.to_string(),
                provider_id: self.provider.to_string(),
                contract_id: CONTRACT.to_owned(),
                link_name: self.name.clone(),
                values: values(self.writes),
                ..LinkDefinition::default()
            }),
            request_id: request_id(),
            ..PutLinkDefinitionRequest::default()
        }
    }
}

pub(crate) fn values(version: usize) -> BTreeMap<String, String> {
    [
        ("URL".to_owned(), "redis://127.0.0.1:6379".to_owned()),
        ("VERSION".to_owned(), format!("{version:08}")),
    ]
    .into()
}

pub(crate) fn interface_link(source: &str, name: &str, version: usize) -> InterfaceLink {
    InterfaceLink {
        source_id: source.to_owned(),
        target: TARGET.to_owned(),
        name: name.to_owned(),
        wit_namespace: "wasi".to_owned(),
        wit_package: "keyvalue".to_owned(),
        interfaces: vec!["store".to_owned(), format!("version-{version:08}")],
        ..InterfaceLink::default()
    }
}

/// Links whose names begin so.
pub(crate) fn links(turn: &str, count: usize) -> Vec<Link> {
    const ACTORS: usize = 200;
    let pairs = (0..ACTORS.min(count))
        .map(|_| (Arc::from(keys::actor()), Arc::from(keys::provider())))
        .collect::<Vec<_>>();
    (0..count)
        .zip(pairs.iter().cycle())
        .filter_map(|(number, (actor, provider))| Link::new(actor, provider, format!("{turn}-{number:06}")))
        .collect()
}

/// Claims of fresh actors, signed by one account.
pub(crate) fn claims(count: usize) -> Vec<Thing> {
    let account = nkeys::KeyPair::new_account();
    let tokens = (0..count).map(|_| keys::actor_token(&account, json!({})));
    tokens.map(|(token, key)| Thing::Claims { token, key }).collect()
}

/// References whose names begin so.
pub(crate) fn references(turn: &str, count: usize) -> Vec<Thing> {
    let key = keys::actor();
    let url = |number| format!("registry.example.com/{turn}/echo:{number}");
    (0..count)
        .map(|number| Thing::Reference {
            url: url(number),
            key: key.clone(),
        })
        .collect()
}

/// Interface links, each on a source of its own whose name begins so.
pub(crate) fn interfaces(turn: &str, count: usize) -> Vec<Thing> {
    let source = |number| format!("{turn}-{number}");
    (0..count)
        .map(|number| Thing::Interface {
            source: source(number),
            name: "default".to_owned(),
            writes: 0,
        })
        .collect()
}

/// Interface links, all on one source: what it calls is one record, which every put edits.
pub(crate) fn interfaces_of_one_source(turn: &str, count: usize) -> Vec<Thing> {
    (0..count)
        .map(|number| Thing::Interface {
            source: turn.to_owned(),
            name: format!("n{number}"),
            writes: 0,
        })
        .collect()
}

/// Configs whose names begin so.
pub(crate) fn configs(turn: &str, count: usize) -> Vec<Thing> {
    (0..count)
        .map(|number| Thing::Config {
            name: format!("{turn}-{number}"),
            writes: 0,
        })
        .collect()
}

/// Names a write; never the same twice in a run.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An id of the length of a UUID.
pub(crate) fn request_id() -> String {
    format!("bench-{:030}", unique())
}
