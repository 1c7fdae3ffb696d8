//! What a host tells others of a write that it was asked for: the notice by which a running provider learns of a link,
//! and the lattice's events, which dashboards and wadm read. The hosts that only load the write tell nobody.
//!
//! A notice is a MessagePack map on `wasmbus.rpc.<lattice>.<provider>.<link name>.linkdefs.put` or `.del`; an event is
//! a CloudEvent in JSON on `wasmbus.evt.<lattice>`. Source: wasmCloud OTP v0.50.2 to v0.59.0, `linkdefs/manager.ex`,
//! `refmaps/manager.ex`, `cloud_event.ex`.

use bytes::Bytes;
use serde::Serialize;

use super::cache_stream::link_token;
use crate::domain::{LatticeName, LinkDefinition, LinkId, OciReference, link_definition::Values};

/// A message that nobody answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub subject: String,
    /// What.
    pub body: Bytes,
}

/// What became of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// It stands as told.
    Put,
    /// It is gone.
    Deleted,
}

/// What every event says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The same for the same write, so that one that comes again is recognised.
    pub id: &'a str,
    /// Who says so: a host's nkey.
    pub source: &'a str,
    /// When the write was stored, RFC 3339.
    pub time: &'a str,
}

/// The subjects of all notices and events, as patterns.
pub fn patterns(lattice: &LatticeName) -> [String; 3] {
    let notices = |change| notice_subject(change, lattice, "*", "*");
    [
        notices(LinkChange::Put),
        notices(LinkChange::Deleted),
        event_subject(lattice),
    ]
}

fn notice_subject(change: LinkChange, lattice: &LatticeName, provider: &str, link_name: &str) -> String {
    let verb = match change {
        LinkChange::Put => "put",
        LinkChange::Deleted => "del",
    };
    format!("wasmbus.rpc.{lattice}.{provider}.{link_name}.linkdefs.{verb}")
}

fn event_subject(lattice: &LatticeName) -> String {
    format!("wasmbus.evt.{lattice}")
}

/// Tells a provider of a link. `None` where the provider or the name is not one subject token: hosts can have stored
/// such a link, and none could tell a provider of it either.
pub fn link_notice(
    change: LinkChange,
    lattice: &LatticeName,
    id: &LinkId,
    link: &LinkDefinition,
) -> Option<Message> {
    let deleted = match change {
        LinkChange::Put => Some(false),
        LinkChange::Deleted => None,
    };
    let (provider, name) = (token(&link.provider_id)?, token(&id.link_name)?);
    let notice = LinkNotice {
        link: LinkData::new(id, link),
        deleted,
    };
    Some(Message {
        subject: notice_subject(change, lattice, provider, name),
        // Texts, maps of texts and booleans always pack.
        body: rmp_serde::to_vec_named(&notice).ok()?.into(),
    })
}

/// The event `linkdef_set` or `linkdef_deleted`.
pub fn link_event(
    change: LinkChange,
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    id: &LinkId,
    link: &LinkDefinition,
) -> Option<Message> {
    let name = match change {
        LinkChange::Put => "com.wasmcloud.lattice.linkdef_set",
        LinkChange::Deleted => "com.wasmcloud.lattice.linkdef_deleted",
    };
    event(lattice, envelope, name, LinkData::new(id, link))
}

/// The event `refmap_set`.
pub fn reference_event(
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    oci_url: &str,
    reference: &OciReference,
) -> Option<Message> {
    #[derive(Serialize)]
    struct ReferenceData<'a> {
        oci_url: &'a str,
        public_key: &'a str,
    }
    let data = ReferenceData {
        oci_url,
        public_key: &reference.public_key,
    };
    event(lattice, envelope, "com.wasmcloud.lattice.refmap_set", data)
}

fn event(
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    name: &'static str,
    data: impl Serialize,
) -> Option<Message> {
    #[derive(Serialize)]
    struct CloudEvent<'a, D> {
        specversion: &'static str,
        id: &'a str,
        r#type: &'static str,
        source: &'a str,
        time: &'a str,
        datacontenttype: &'static str,
        data: D,
    }
    let event = CloudEvent {
        specversion: "1.0",
        id: envelope.id,
        r#type: name,
        source: envelope.source,
        time: envelope.time,
        datacontenttype: "application/json",
        data,
    };
    Some(Message {
        subject: event_subject(lattice),
        body: serde_json::to_vec(&event).ok()?.into(),
    })
}

/// Whether a text is one subject token.
pub(super) fn token(text: &str) -> Option<&str> {
    let is_token = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte));
    is_token.then_some(text)
}

#[derive(Serialize)]
struct LinkNotice<'a> {
    #[serde(flatten)]
    link: LinkData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
}

#[derive(Serialize)]
struct LinkData<'a> {
    actor_id: &'a str,
    contract_id: &'a str,
    id: String,
    link_name: &'a str,
    provider_id: &'a str,
    values: &'a Values,
}

impl<'a> LinkData<'a> {
    fn new(id: &'a LinkId, link: &'a LinkDefinition) -> Self {
        Self {
            actor_id: &id.actor_id,
            contract_id: &id.contract_id,
            id: link_token(id),
            link_name: &id.link_name,
            provider_id: &link.provider_id,
            values: &link.values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> (LinkId, LinkDefinition) {
        let link = LinkDefinition {
            provider_id: "Vredis".into(),
            values: [("URL", "redis://")].into_iter().collect(),
        };
        (LinkId::new("Mbob", "wasmcloud:httpserver", "default"), link)
    }

    fn lattice() -> LatticeName {
        LatticeName::parse("prod").unwrap()
    }

    /// What a provider's MessagePack reader makes of it.
    fn unpacked(message: &Message) -> serde_json::Value {
        rmp_serde::from_slice(&message.body).unwrap()
    }

    #[test]
    fn providers_are_told_as_hosts_tell_them() {
        let (id, link) = link();
        let common = serde_json::json!({
            "actor_id": "Mbob", "contract_id": "wasmcloud:httpserver", "id": "jDhpbpfySOwDfsGe_l7Dgt",
            "link_name": "default", "provider_id": "Vredis", "values": {"URL": "redis://"},
        });
        let put = link_notice(LinkChange::Put, &lattice(), &id, &link).unwrap();
        assert_eq!(put.subject, "wasmbus.rpc.prod.Vredis.default.linkdefs.put");
        let mut expected = common.clone();
        expected["deleted"] = false.into();
        assert_eq!(unpacked(&put), expected);
        let deleted = link_notice(LinkChange::Deleted, &lattice(), &id, &link).unwrap();
        assert_eq!(deleted.subject, "wasmbus.rpc.prod.Vredis.default.linkdefs.del");
        assert_eq!(unpacked(&deleted), common);
    }

    #[test]
    fn events_are_golden() {
        let envelope = Envelope {
            id: "one",
            source: "Nhost",
            time: "2026-01-02T03:04:05Z",
        };
        let (id, link) = link();
        let event = link_event(LinkChange::Deleted, &lattice(), envelope, &id, &link).unwrap();
        assert_eq!(event.subject, "wasmbus.evt.prod");
        assert_eq!(
            event.body,
            r#"{"specversion":"1.0","id":"one","type":"com.wasmcloud.lattice.linkdef_deleted","source":"Nhost","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":{"actor_id":"Mbob","contract_id":"wasmcloud:httpserver","id":"jDhpbpfySOwDfsGe_l7Dgt","link_name":"default","provider_id":"Vredis","values":{"URL":"redis://"}}}"#
        );
        let reference = OciReference {
            public_key: "Mbob".into(),
        };
        let event = reference_event(&lattice(), envelope, "r.io/echo:1", &reference).unwrap();
        assert_eq!(
            event.body,
            r#"{"specversion":"1.0","id":"one","type":"com.wasmcloud.lattice.refmap_set","source":"Nhost","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":{"oci_url":"r.io/echo:1","public_key":"Mbob"}}"#
        );
    }

    #[test]
    fn nobody_is_told_on_a_subject_that_is_none() {
        for hostile in ["", "a.b", "*", ">", "a b", "a\r\nPUB x", "é"] {
            let (id, mut link) = link();
            link.provider_id = hostile.into();
            assert_eq!(
                link_notice(LinkChange::Put, &lattice(), &id, &link),
                None,
                "{hostile:?}"
            );
        }
    }
}
