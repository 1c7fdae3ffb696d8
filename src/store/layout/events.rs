//! What a host of wasmCloud 1.0 to 1.9 tells others of a write that it was asked for. The hosts that only see the bucket
//! change tell no one, but that they push links which are new to them to the providers that they run (since 1.1.0).
//!
//! An event is a CloudEvent in JSON on `wasmbus.evt.<lattice>.<name>`; a notice, JSON on
//! `wasmbus.rpc.<lattice>.<component>.linkdefs.del`. Measured on wasmCloud 1.9.2. Hosts of 1.0 never tell providers of a
//! link that somebody else wrote: there a provider learns of it when it starts.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::effects::{Envelope, Message};
use crate::domain::{InterfaceLink, InterfaceLinkId, LatticeName};

/// The subjects of all events and notices, as patterns.
pub fn patterns(lattice: &LatticeName) -> [String; 5] {
    [
        event_subject(lattice, LINK_SET),
        event_subject(lattice, LINK_DELETED),
        event_subject(lattice, CONFIG_SET),
        event_subject(lattice, CONFIG_DELETED),
        notice_subject(lattice, "*"),
    ]
}

const LINK_SET: &str = "linkdef_set";
const LINK_DELETED: &str = "linkdef_deleted";
const CONFIG_SET: &str = "config_set";
const CONFIG_DELETED: &str = "config_deleted";

fn event_subject(lattice: &LatticeName, name: &str) -> String {
    format!("wasmbus.evt.{lattice}.{name}")
}

fn notice_subject(lattice: &LatticeName, component: &str) -> String {
    format!("wasmbus.rpc.{lattice}.{component}.linkdefs.del")
}

/// Tells both ends of a link that it is gone, with nothing of what configured them.
pub fn deleted_notices(
    lattice: &LatticeName,
    id: &InterfaceLinkId,
    link: &InterfaceLink,
) -> Vec<Option<Message>> {
    #[derive(Serialize)]
    struct Notice<'a> {
        source_id: &'a str,
        target: &'a str,
        name: &'a str,
        wit_namespace: &'a str,
        wit_package: &'a str,
        interfaces: &'a [Box<str>],
        source_config: Map<String, Value>,
        target_config: Map<String, Value>,
        source_secrets: Option<()>,
        target_secrets: Option<()>,
    }
    let notice = Notice {
        source_id: &id.source_id,
        target: &id.target,
        name: &id.name,
        wit_namespace: &id.wit_namespace,
        wit_package: &id.wit_package,
        interfaces: &link.interfaces,
        source_config: Map::new(),
        target_config: Map::new(),
        source_secrets: None,
        target_secrets: None,
    };
    let to = |component: &str| {
        let component = super::effects::token(component)?;
        Some(Message {
            subject: notice_subject(lattice, component),
            body: Bytes::from(serde_json::to_vec(&notice).ok()?),
        })
    };
    vec![to(&id.source_id), to(&id.target)]
}

/// The event `linkdef_set`.
pub fn link_set(
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    id: &InterfaceLinkId,
    link: &InterfaceLink,
) -> Option<Message> {
    #[derive(Serialize)]
    struct Data<'a> {
        interfaces: &'a [Box<str>],
        name: &'a str,
        source_config: &'a [Box<str>],
        source_id: &'a str,
        target: &'a str,
        target_config: &'a [Box<str>],
        wit_namespace: &'a str,
        wit_package: &'a str,
    }
    let data = Data {
        interfaces: &link.interfaces,
        name: &id.name,
        source_config: &link.source_config,
        source_id: &id.source_id,
        target: &id.target,
        target_config: &link.target_config,
        wit_namespace: &id.wit_namespace,
        wit_package: &id.wit_package,
    };
    event(lattice, envelope, LINK_SET, data)
}

/// The event `linkdef_deleted`.
pub fn link_deleted(
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    id: &InterfaceLinkId,
    link: &InterfaceLink,
) -> Option<Message> {
    #[derive(Serialize)]
    struct Data<'a> {
        interfaces: &'a [Box<str>],
        name: &'a str,
        source_id: &'a str,
        target: &'a str,
        wit_namespace: &'a str,
        wit_package: &'a str,
    }
    let data = Data {
        interfaces: &link.interfaces,
        name: &id.name,
        source_id: &id.source_id,
        target: &id.target,
        wit_namespace: &id.wit_namespace,
        wit_package: &id.wit_package,
    };
    event(lattice, envelope, LINK_DELETED, data)
}

/// The event `config_set`, or `config_deleted`.
pub fn config_event(
    lattice: &LatticeName,
    envelope: Envelope<'_>,
    is_deleted: bool,
    config_name: &str,
) -> Option<Message> {
    #[derive(Serialize)]
    struct Data<'a> {
        config_name: &'a str,
    }
    let name = match is_deleted {
        true => CONFIG_DELETED,
        false => CONFIG_SET,
    };
    event(lattice, envelope, name, Data { config_name })
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
        r#type: String,
        source: &'a str,
        datacontenttype: &'static str,
        time: &'a str,
        data: D,
    }
    let event = CloudEvent {
        specversion: "1.0",
        id: envelope.id,
        r#type: format!("com.wasmcloud.lattice.{name}"),
        source: envelope.source,
        datacontenttype: "application/json",
        time: envelope.time,
        data,
    };
    Some(Message {
        subject: event_subject(lattice, name),
        body: serde_json::to_vec(&event).ok()?.into(),
    })
}
