//! Who the hosts of a lattice are, and how much they answer when they are asked for all links.
//!
//! Source: wasmCloud OTP v0.50.0 to v0.63.2, `control_interface/server.ex`; the control interface's crates 0.23 to 0.33
//! (`ping.hosts`) and 1.0 to 3.0 (`host.ping`); answers of 1.9.2 were measured.

use serde::{Deserialize, Serialize};

use super::{Layout, Part, component};
use crate::domain::{Entry, EntryKey, LatticeName, component::StoredLink, link_definition::Values};

/// A host that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its public key.
    pub id: String,
    /// Its version, as it tells it.
    pub version: String,
    /// The JetStream domain that it was told to use.
    pub domain: Option<String>,
}

/// The subject on which every host of an era answers who is there.
pub fn ping_subject(layout: Layout, lattice: &LatticeName) -> String {
    match layout {
        Layout::CacheStream | Layout::Kv => format!("wasmbus.ctl.{lattice}.ping.hosts"),
        Layout::Component => format!("wasmbus.ctl.v1.{lattice}.host.ping"),
    }
}

/// Reads an answer; `None` for what is no host's.
pub fn read_answer(body: &[u8]) -> Option<Host> {
    #[derive(Deserialize)]
    struct Wrapped {
        response: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        id: String,
        #[serde(default)]
        version: String,
        #[serde(default)]
        js_domain: Option<String>,
    }
    let wrapped = serde_json::from_slice::<Wrapped>(body).map(|wrapped| wrapped.response);
    let told = wrapped.or_else(|_bare| serde_json::from_slice(body)).ok()?;
    Some(Host {
        id: told.id,
        version: told.version,
        domain: told.js_domain.filter(|domain| !domain.is_empty()),
    })
}

impl Host {
    /// Whether it is older than this; not where its version is not known.
    pub fn is_older_than(&self, version: [u64; 3]) -> bool {
        self.numbers().is_some_and(|numbers| numbers < version)
    }

    /// Whether it keeps a lattice in this layout. One whose version is not known may.
    pub fn is_of(&self, layout: Layout) -> bool {
        let Some(numbers) = self.numbers() else {
            return true;
        };
        let layout_of_it = match numbers {
            older if older < [0, 60, 0] => Layout::CacheStream,
            older if older < [1, 0, 0] => Layout::Kv,
            _ => Layout::Component,
        };
        layout_of_it == layout
    }

    fn numbers(&self) -> Option<[u64; 3]> {
        let mut parts = self.version.split(['.', '-', '+']);
        let mut number = || parts.next()?.parse().ok();
        Some([number()?, number()?, number()?])
    }
}

/// Bytes of the answer without any link: `{"success":true,"message":"","response":[]}` is the longest.
pub const LINKS_ANSWER_BYTES: usize = 43;

/// Bytes that a link takes in the answer of a host that is asked for all of them.
pub fn answered_link_bytes(part: Part, key: &EntryKey, entry: &Entry) -> usize {
    #[derive(Serialize)]
    struct Answered<'a> {
        actor_id: &'a str,
        contract_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        link_name: &'a str,
        provider_id: &'a str,
        values: &'a Values,
    }
    const COMMA: usize = 1;
    let bytes = match (key, entry) {
        (EntryKey::InterfaceLink(id), Entry::InterfaceLink(link)) => component::link_bytes(&StoredLink {
            id: id.clone(),
            link: link.clone(),
            rest: serde_json::Map::new(),
        }),
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) => {
            let hash = (part == Part::Kv).then(|| part.home(key)).flatten();
            let answered = Answered {
                actor_id: &id.actor_id,
                contract_id: &id.contract_id,
                // Of hosts since 0.60, without what the key begins with.
                id: hash.as_deref().and_then(|home| home.rsplit('_').next()),
                link_name: &id.link_name,
                provider_id: &link.provider_id,
                values: &link.values,
            };
            serde_json::to_vec(&answered).map_or(0, |body| body.len())
        }
        _ => return 0,
    };
    bytes + COMMA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_interfaces_are_read() {
        let old = br#"{"id":"N1","version":"0.63.2","js_domain":"","labels":{},"uptime_seconds":3}"#;
        let new =
            br#"{"success":true,"message":"","response":{"id":"N2","version":"1.9.2","js_domain":"hub"}}"#;
        let read = |body: &[u8]| read_answer(body).map(|host| (host.id, host.version, host.domain));
        assert_eq!(read(old), Some(("N1".into(), "0.63.2".into(), None)));
        assert_eq!(read(new), Some(("N2".into(), "1.9.2".into(), Some("hub".into()))));
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"hello"), None);
    }

    #[test]
    fn a_host_is_of_the_layout_that_its_version_keeps() {
        let host = |version: &str| Host {
            id: "N".into(),
            version: version.into(),
            domain: None,
        };
        for (version, layout) in [
            ("0.58.1", Layout::CacheStream),
            ("0.60.0-rc.3", Layout::Kv),
            ("0.82.0", Layout::Kv),
            ("1.0.0", Layout::Component),
        ] {
            let of = Layout::ALL.map(|layout| host(version).is_of(layout));
            assert_eq!(of, Layout::ALL.map(|other| other == layout), "{version}");
        }
        assert!(host("").is_of(Layout::Kv));
        assert!(host("0.58.1").is_older_than([0, 58, 2]));
        assert!(!host("0.58.2").is_older_than([0, 58, 2]));
        assert!(!host("new").is_older_than([9, 0, 0]));
    }

    #[test]
    fn an_empty_answer_is_counted_whole() {
        let empty = r#"{"success":true,"message":"","response":[]}"#;
        assert_eq!(empty.len(), LINKS_ANSWER_BYTES);
    }
}
