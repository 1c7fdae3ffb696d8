//! The entries that a round works on: how a gateway is asked for them, and how others write and read them raw.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD, HEXUPPER};
use lattice_gateway::{
    domain::{EntryKey, InterfaceLinkId, LinkId},
    proto::{
        Claims, Consistency, DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest,
        DeleteLinkDefinitionRequest, GetClaimsRequest, GetConfigRequest, GetInterfaceLinkRequest,
        GetLinkDefinitionRequest, GetOciReferenceRequest, InterfaceLink, LinkDefinition, NamedConfig,
        OciReference, PutClaimsRequest, PutConfigRequest, PutInterfaceLinkRequest, PutLinkDefinitionRequest,
        Revision, SetOciReferenceRequest,
        apply_request::Operation,
        claims_service_client::ClaimsServiceClient,
        config_service_client::ConfigServiceClient,
        consistency::Requirement,
        delete_claims_request::Precondition as DeleteClaimsPrecondition,
        delete_config_request::Precondition as DeleteConfigPrecondition,
        delete_interface_link_request::Precondition as DeleteInterfaceLinkPrecondition,
        delete_link_definition_request::Precondition as DeleteLinkPrecondition,
        interface_link_service_client::InterfaceLinkServiceClient,
        link_definition_service_client::LinkDefinitionServiceClient,
        oci_reference_service_client::OciReferenceServiceClient,
        put_claims_request::{Precondition as PutClaimsPrecondition, Source},
        put_config_request::Precondition as PutConfigPrecondition,
        put_interface_link_request::Precondition as PutInterfaceLinkPrecondition,
        put_link_definition_request::Precondition as PutLinkPrecondition,
        set_oci_reference_request::Precondition as SetReferencePrecondition,
    },
    store::layout::cache_stream,
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::{
    harness::keys,
    history::{Action, Condition, Kind, OpId},
    host_model::{Cache, Triple},
    world::{Gate, LATTICE, Layout},
};

const CONTRACT: &str = "wasmcloud:keyvalue";
const LINK_NAME: &str = "default";
const NAMESPACE: &str = "wasi";
const PACKAGE: &str = "keyvalue";
/// The value that tells who wrote an entry.
const WRITER: &str = "writer";
/// What the one interface of a link begins with; who wrote it follows.
const INTERFACE: &str = "op-";

/// A write, whatever number of attempts it takes.
#[derive(Clone, Debug)]
pub struct Write {
    pub id: OpId,
    pub key: usize,
    pub action: Action,
    /// What a put writes.
    pub value: OpId,
    pub condition: Condition,
    /// Of the state that [`Condition::Is`] names.
    pub etag: Option<String>,
}

/// What a gateway tells of an entry.
#[derive(Debug)]
pub struct Shown {
    pub value: OpId,
    pub sequence: u64,
    pub etag: String,
}

/// An entry.
#[derive(Debug)]
pub struct Key {
    pub entry: Entry,
    /// The subject that it is kept on.
    pub subject: String,
}

#[derive(Debug)]
pub enum Entry {
    Link {
        layout: Layout,
        actor: String,
        provider: String,
    },
    InterfaceLink(InterfaceLinkId),
    Config(String),
    Claims {
        layout: Layout,
        key: String,
        issuer: String,
    },
    Reference(String),
}

/// The precondition of a write, in the type of its request.
macro_rules! precondition {
    ($write:expr, $precondition:ident) => {
        match ($write.condition, &$write.etag) {
            (Condition::Is(_), Some(etag)) => Some($precondition::Etag(etag.clone())),
            (Condition::Exists, _) => Some($precondition::MustExist(true)),
            (Condition::Absent, _) => Some($precondition::MustNotExist(true)),
            (Condition::None | Condition::Is(_), _) => None,
        }
    };
}

impl Key {
    /// The entry of a layout of this number.
    pub fn new(layout: Layout, number: usize, is_last: bool) -> Self {
        match layout {
            Layout::CacheStream | Layout::Kv if is_last => Self::link(layout),
            Layout::CacheStream | Layout::Kv => Self::of_an_older_layout(layout, number),
            Layout::Component if number % 8 == 5 && !is_last => Self::claims(layout),
            Layout::Component if number % 4 == 2 && !is_last => Self::config(&format!("config-{number}")),
            // Three of four share their source.
            Layout::Component => {
                Self::interface_link(if number % 4 == 3 { "other" } else { "source" }, number)
            }
        }
    }

    /// An entry of this number that one writer has for itself, in no record that others write.
    pub fn of_one_writer(layout: Layout, number: usize) -> Self {
        const OF_A_SOURCE: usize = 4;
        /// No number of an entry that many write.
        const ALONE_FROM: usize = 1_000;
        match layout {
            Layout::CacheStream | Layout::Kv => Self::of_an_older_layout(layout, ALONE_FROM + number),
            Layout::Component if number.is_multiple_of(2) => Self::config(&format!("of-one-{number}")),
            Layout::Component => {
                Self::interface_link(&format!("of-few-{}", number / 2 / OF_A_SOURCE), number)
            }
        }
    }

    fn of_an_older_layout(layout: Layout, number: usize) -> Self {
        match number % 4 {
            1 => Self::claims(layout),
            3 => Self::reference(layout, number),
            _ => Self::link(layout),
        }
    }

    fn link(layout: Layout) -> Self {
        let (actor, provider) = (keys::actor(), keys::provider());
        let subject = match layout {
            Layout::CacheStream => {
                let id = LinkId::new(&actor, CONTRACT, LINK_NAME);
                in_cache_stream(&EntryKey::LinkDefinition(id))
            }
            Layout::Kv | Layout::Component => {
                format!("$KV.LATTICEDATA_{LATTICE}.LINKDEF_{}", link_hash(&actor))
            }
        };
        Self {
            entry: Entry::Link {
                layout,
                actor,
                provider,
            },
            subject,
        }
    }

    fn claims(layout: Layout) -> Self {
        let (key, issuer) = (keys::actor(), KeyPair::new_account().public_key());
        let subject = match layout {
            Layout::CacheStream => in_cache_stream(&EntryKey::Claims(key.as_str().into())),
            Layout::Kv | Layout::Component => format!("$KV.LATTICEDATA_{LATTICE}.CLAIMS_{key}"),
        };
        Self {
            subject,
            entry: Entry::Claims { layout, key, issuer },
        }
    }

    fn reference(layout: Layout, number: usize) -> Self {
        let url = format!("registry.example/image:{number}");
        let subject = match layout {
            Layout::CacheStream => in_cache_stream(&EntryKey::OciReference(url.as_str().into())),
            Layout::Kv | Layout::Component => {
                let encoded = BASE64URL_NOPAD.encode(url.as_bytes());
                format!("$KV.LATTICEDATA_{LATTICE}.REFMAP_{encoded}")
            }
        };
        Self {
            subject,
            entry: Entry::Reference(url),
        }
    }

    fn interface_link(source: &str, number: usize) -> Self {
        Self {
            entry: Entry::InterfaceLink(InterfaceLinkId {
                source_id: source.into(),
                name: format!("link-{number}").into(),
                wit_namespace: NAMESPACE.into(),
                wit_package: PACKAGE.into(),
                target: format!("target-{number}").into(),
            }),
            subject: format!("$KV.LATTICEDATA_{LATTICE}.COMPONENT_{source}"),
        }
    }

    fn config(name: &str) -> Self {
        Self {
            subject: format!("$KV.CONFIGDATA_{LATTICE}.{name}"),
            entry: Entry::Config(name.to_owned()),
        }
    }

    pub fn kind(&self) -> Kind {
        match &self.entry {
            Entry::Link { .. } => Kind::Link,
            Entry::InterfaceLink(_) => Kind::InterfaceLink,
            Entry::Config(_) => Kind::Config,
            Entry::Claims { .. } => Kind::Claims,
            Entry::Reference(_) => Kind::Reference,
        }
    }

    /// Whether hosts of its layout have a form for its deletion.
    pub fn can_be_deleted(&self) -> bool {
        match &self.entry {
            Entry::Claims { layout, .. } => *layout != Layout::CacheStream,
            Entry::Reference(_) => false,
            Entry::Link { .. } | Entry::InterfaceLink(_) | Entry::Config(_) => true,
        }
    }

    /// What a host's cache was loaded with for this entry: the message of this sequence.
    pub fn loaded(&self, cache: &Cache) -> Option<u64> {
        match &self.entry {
            Entry::Link { actor, .. } => {
                let triple = Triple {
                    actor_id: actor.clone(),
                    contract_id: CONTRACT.to_owned(),
                    link_name: LINK_NAME.to_owned(),
                };
                cache.links.get(&triple).map(|link| link.sequence)
            }
            Entry::Claims { key, .. } => cache.claims.get(key).map(|claims| claims.sequence),
            Entry::Reference(url) => cache.references.get(url).map(|reference| reference.sequence),
            Entry::InterfaceLink(_) | Entry::Config(_) => None,
        }
    }

    /// Of a link that shares a record: the source, and the record's subject.
    pub fn source(&self) -> Option<(&str, &str)> {
        match &self.entry {
            Entry::InterfaceLink(id) => Some((&*id.source_id, &*self.subject)),
            Entry::Link { .. } | Entry::Config(_) | Entry::Claims { .. } | Entry::Reference(_) => None,
        }
    }

    /// How evidence in its record names it, in hexadecimal.
    pub fn short_hash(&self) -> Option<String> {
        match &self.entry {
            Entry::InterfaceLink(id) => Some(crate::history::hex(&id.short_hash())),
            Entry::Link { .. } | Entry::Config(_) | Entry::Claims { .. } | Entry::Reference(_) => None,
        }
    }

    /// A write as an operation, whichever way it goes.
    pub fn operation(
        &self,
        write: &Write,
        request_id: String,
        retry_age: Option<std::time::Duration>,
    ) -> Operation {
        let lattice = LATTICE.to_owned();
        let retry_age = retry_age.map(Into::into);
        match write.action {
            Action::Put => self.put(write, lattice, request_id, retry_age),
            _ => self.delete(write, lattice, request_id, retry_age),
        }
    }

    fn put(
        &self,
        write: &Write,
        lattice: String,
        request_id: String,
        retry_age: Option<pbjson_types::Duration>,
    ) -> Operation {
        let values = [(WRITER.to_owned(), write.value.to_string())].into();
        match &self.entry {
            Entry::Link { actor, provider, .. } => Operation::PutLinkDefinition(PutLinkDefinitionRequest {
                lattice,
                link_definition: Some(LinkDefinition {
                    actor_id: actor.clone(),
                    provider_id: provider.clone(),
                    contract_id: CONTRACT.to_owned(),
                    values,
                    ..LinkDefinition::default()
                }),
                request_id,
                retry_age,
                precondition: precondition!(write, PutLinkPrecondition),
                ..PutLinkDefinitionRequest::default()
            }),
            Entry::InterfaceLink(id) => Operation::PutInterfaceLink(PutInterfaceLinkRequest {
                lattice,
                interface_link: Some(InterfaceLink {
                    source_id: id.source_id.to_string(),
                    target: id.target.to_string(),
                    name: id.name.to_string(),
                    wit_namespace: id.wit_namespace.to_string(),
                    wit_package: id.wit_package.to_string(),
                    interfaces: vec![format!("{INTERFACE}{}", write.value)],
                    ..InterfaceLink::default()
                }),
                request_id,
                retry_age,
                precondition: precondition!(write, PutInterfaceLinkPrecondition),
                ..PutInterfaceLinkRequest::default()
            }),
            Entry::Config(name) => Operation::PutConfig(PutConfigRequest {
                lattice,
                named_config: Some(NamedConfig {
                    name: name.clone(),
                    values,
                    ..NamedConfig::default()
                }),
                request_id,
                retry_age,
                precondition: precondition!(write, PutConfigPrecondition),
                ..PutConfigRequest::default()
            }),
            Entry::Claims { key, issuer, .. } => Operation::PutClaims(PutClaimsRequest {
                lattice,
                source: Some(Source::Claims(Claims {
                    public_key: key.clone(),
                    issuer: issuer.clone(),
                    name: write.value.to_string(),
                    claims_revision: "1".to_owned(),
                    version: "0.1.0".to_owned(),
                    ..Claims::default()
                })),
                request_id,
                retry_age,
                precondition: precondition!(write, PutClaimsPrecondition),
                ..PutClaimsRequest::default()
            }),
            Entry::Reference(url) => Operation::SetOciReference(SetOciReferenceRequest {
                lattice,
                oci_reference: Some(OciReference {
                    oci_url: url.clone(),
                    public_key: key_of(write.value),
                    ..OciReference::default()
                }),
                request_id,
                retry_age,
                precondition: precondition!(write, SetReferencePrecondition),
                ..SetOciReferenceRequest::default()
            }),
        }
    }

    fn delete(
        &self,
        write: &Write,
        lattice: String,
        request_id: String,
        retry_age: Option<pbjson_types::Duration>,
    ) -> Operation {
        match &self.entry {
            Entry::Link { actor, .. } => Operation::DeleteLinkDefinition(DeleteLinkDefinitionRequest {
                lattice,
                actor_id: Some(actor.clone()),
                contract_id: Some(CONTRACT.to_owned()),
                request_id,
                retry_age,
                precondition: precondition!(write, DeleteLinkPrecondition),
                allow_missing: true,
                ..DeleteLinkDefinitionRequest::default()
            }),
            Entry::InterfaceLink(id) => Operation::DeleteInterfaceLink(DeleteInterfaceLinkRequest {
                lattice,
                source_id: Some(id.source_id.to_string()),
                name: Some(id.name.to_string()),
                wit_namespace: Some(id.wit_namespace.to_string()),
                wit_package: Some(id.wit_package.to_string()),
                target: Some(id.target.to_string()),
                request_id,
                retry_age,
                precondition: precondition!(write, DeleteInterfaceLinkPrecondition),
                allow_missing: true,
                ..DeleteInterfaceLinkRequest::default()
            }),
            Entry::Config(name) => Operation::DeleteConfig(DeleteConfigRequest {
                lattice,
                name: name.clone(),
                request_id,
                retry_age,
                precondition: precondition!(write, DeleteConfigPrecondition),
                allow_missing: true,
                ..DeleteConfigRequest::default()
            }),
            Entry::Claims { key, .. } => Operation::DeleteClaims(DeleteClaimsRequest {
                lattice,
                public_key: key.clone(),
                request_id,
                retry_age,
                precondition: precondition!(write, DeleteClaimsPrecondition),
                allow_missing: true,
                ..DeleteClaimsRequest::default()
            }),
            Entry::Reference(url) => panic!("no host can delete {url}"),
        }
    }

    /// How the audit names it.
    pub fn name(&self) -> String {
        let key = match &self.entry {
            Entry::Link { actor, .. } => EntryKey::LinkDefinition(LinkId::new(actor, CONTRACT, LINK_NAME)),
            Entry::InterfaceLink(id) => EntryKey::InterfaceLink(id.clone()),
            Entry::Config(name) => EntryKey::Config(name.as_str().into()),
            Entry::Claims { key, .. } => EntryKey::Claims(key.as_str().into()),
            Entry::Reference(url) => EntryKey::OciReference(url.as_str().into()),
        };
        key.to_string()
    }

    /// A fully consistent read.
    pub async fn look(&self, gate: Gate) -> Result<Option<Shown>, Status> {
        let lattice = LATTICE.to_owned();
        let consistency = Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        });
        match &self.entry {
            Entry::Link { actor, .. } => {
                let get = GetLinkDefinitionRequest {
                    lattice,
                    actor_id: Some(actor.clone()),
                    contract_id: Some(CONTRACT.to_owned()),
                    consistency,
                    ..GetLinkDefinitionRequest::default()
                };
                let mut client = LinkDefinitionServiceClient::new(gate);
                let link = client.get_link_definition(get).await?.into_inner();
                let shown = link.link_definition.and_then(|link| {
                    let value = link.values.get(WRITER)?.parse().ok();
                    shown(value, link.revision, link.etag)
                });
                Ok(shown)
            }
            Entry::InterfaceLink(id) => {
                let get = GetInterfaceLinkRequest {
                    lattice,
                    source_id: Some(id.source_id.to_string()),
                    name: Some(id.name.to_string()),
                    wit_namespace: Some(id.wit_namespace.to_string()),
                    wit_package: Some(id.wit_package.to_string()),
                    target: Some(id.target.to_string()),
                    consistency,
                };
                let mut client = InterfaceLinkServiceClient::new(gate);
                let link = client.get_interface_link(get).await?.into_inner();
                let shown = link.interface_link.and_then(|link| {
                    let value = value_of(link.interfaces.first()?);
                    shown(value, link.revision, link.etag)
                });
                Ok(shown)
            }
            Entry::Config(name) => {
                let get = GetConfigRequest {
                    lattice,
                    name: name.clone(),
                    consistency,
                };
                let mut client = ConfigServiceClient::new(gate);
                let config = client.get_config(get).await?.into_inner().named_config;
                let shown = config.and_then(|config| {
                    let value = config.values.get(WRITER)?.parse().ok();
                    shown(value, config.revision, config.etag)
                });
                Ok(shown)
            }
            Entry::Claims { key, .. } => {
                let get = GetClaimsRequest {
                    lattice,
                    public_key: key.clone(),
                    consistency,
                };
                let mut client = ClaimsServiceClient::new(gate);
                let claims = client.get_claims(get).await?.into_inner().claims;
                let shown =
                    claims.and_then(|claims| shown(claims.name.parse().ok(), claims.revision, claims.etag));
                Ok(shown)
            }
            Entry::Reference(url) => {
                let get = GetOciReferenceRequest {
                    lattice,
                    oci_url: Some(url.clone()),
                    consistency,
                };
                let mut client = OciReferenceServiceClient::new(gate);
                let reference = client.get_oci_reference(get).await?.into_inner();
                let shown = reference.oci_reference.and_then(|reference| {
                    let value = value_of_key(&reference.public_key);
                    shown(value, reference.revision, reference.etag)
                });
                Ok(shown)
            }
        }
    }

    /// What others publish to put or delete it: headers and body. Not for links that share a record.
    pub fn raw(&self, id: OpId, is_deleted: bool) -> (HeaderMap, String) {
        let mut headers = HeaderMap::new();
        let values = json!({WRITER: id.to_string()});
        let body = match &self.entry {
            Entry::Link {
                layout: Layout::CacheStream,
                actor,
                provider,
            } => json!({
                "actor_id": actor, "contract_id": CONTRACT, "deleted": is_deleted, "id": "foreign",
                "link_name": LINK_NAME, "provider_id": provider, "values": values,
            }),
            Entry::Link { .. } | Entry::Claims { .. } if is_deleted => {
                headers.insert("KV-Operation", "DEL");
                Value::Null
            }
            Entry::Link { actor, provider, .. } => {
                let mut body = json!({
                    "actor_id": actor, "contract_id": CONTRACT, "link_name": LINK_NAME,
                    "provider_id": provider, "values": values,
                });
                // Hosts up to 0.63 write it, those since 0.78 not.
                if id.is_multiple_of(2) {
                    body["id"] = link_hash(actor).into();
                }
                body
            }
            Entry::Config(_) if is_deleted => {
                headers.insert("KV-Operation", "PURGE");
                headers.insert("Nats-Rollup", "sub");
                Value::Null
            }
            Entry::Reference(url) => json!({"oci_url": url, "public_key": key_of(id)}),
            Entry::Claims { key, issuer, .. } => json!({
                "call_alias": "", "caps": "", "iss": issuer, "name": id.to_string(), "rev": "1", "sub": key, "tags": "",
                "version": "0.1.0",
            }),
            Entry::Config(_) | Entry::InterfaceLink(_) => values,
        };
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        (headers, body)
    }

    /// Which value a message on its subject gives it.
    pub fn said(&self, body: &[u8]) -> Option<OpId> {
        let body = serde_json::from_slice::<Value>(body).ok()?;
        match &self.entry {
            Entry::Link { .. } => body["values"][WRITER].as_str()?.parse().ok(),
            Entry::Config(_) => body[WRITER].as_str()?.parse().ok(),
            Entry::Claims { .. } => body["name"].as_str()?.parse().ok(),
            Entry::Reference(_) => value_of_key(body["public_key"].as_str()?),
            Entry::InterfaceLink(id) => {
                let is_it = |link: &&Value| {
                    let is = |member: &str, text: &str| link[member] == text;
                    is("source_id", &id.source_id)
                        && is("name", &id.name)
                        && is("wit_namespace", &id.wit_namespace)
                        && is("wit_package", &id.wit_package)
                        && is("target", &id.target)
                };
                let link = body["links"].as_array()?.iter().find(is_it)?;
                value_of(link["interfaces"][0].as_str()?)
            }
        }
    }
}

/// A link of the host's own in the record of a source; no link that a gateway is asked for.
pub fn host_link(source: &str, number: u64, value: u64) -> Value {
    json!({
        "source_id": source, "target": format!("host-{number}"), "name": format!("host-{number}"),
        "wit_namespace": NAMESPACE, "wit_package": PACKAGE, "interfaces": [format!("host-{value}")],
        "source_config": [], "target_config": [],
    })
}

/// Which entries are on a subject: one, or the links that share a record.
#[derive(Debug)]
pub struct Subjects(BTreeMap<String, Vec<usize>>);

/// What a message says of the entries on its subject.
#[derive(Debug)]
pub enum Said {
    /// Of one entry: who wrote it, where the value tells.
    One(Option<OpId>),
    /// Of a shared record: what it holds, by key.
    Record(BTreeMap<usize, OpId>),
}

impl Subjects {
    pub fn of(keys: &[Key]) -> Self {
        let mut subjects = BTreeMap::<String, Vec<usize>>::new();
        for (number, key) in keys.iter().enumerate() {
            subjects.entry(key.subject.clone()).or_default().push(number);
        }
        Self(subjects)
    }

    pub fn said(&self, keys: &[Key], subject: &str, body: &[u8]) -> Said {
        match self.0.get(subject).map(Vec::as_slice) {
            Some(on_it) if on_it.iter().any(|key| keys[*key].kind() == Kind::InterfaceLink) => {
                let said = on_it
                    .iter()
                    .filter_map(|key| Some((*key, keys[*key].said(body)?)));
                Said::Record(said.collect())
            }
            Some([key]) => Said::One(keys[*key].said(body)),
            Some(_) | None => Said::One(None),
        }
    }
}

fn shown(value: Option<OpId>, revision: Option<Revision>, etag: String) -> Option<Shown> {
    Some(Shown {
        value: value?,
        sequence: revision?.sequence,
        etag,
    })
}

/// The subject of an entry in layout `cache-stream`.
fn in_cache_stream(key: &EntryKey) -> String {
    format!("lc.{LATTICE}.{}", cache_stream::home(key).unwrap())
}

/// A public key of an actor that tells who wrote it: a value for entries that hold nothing else. Nobody can sign with it.
fn key_of(value: OpId) -> String {
    /// What nkeys of actors begin with, as a byte: `M`.
    const ACTOR: u8 = 12 << 3;
    let mut bytes = vec![ACTOR];
    bytes.extend(value.to_be_bytes());
    bytes.extend([b'k'; 24]);
    bytes.extend(crc16(&bytes).to_le_bytes());
    BASE32_NOPAD.encode(&bytes)
}

fn value_of_key(key: &str) -> Option<OpId> {
    let bytes = BASE32_NOPAD.decode(key.as_bytes()).ok()?;
    let value = bytes.get(1..1 + size_of::<OpId>())?;
    Some(OpId::from_be_bytes(value.try_into().ok()?))
}

/// The checksum of nkeys: CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _bit| {
            let carry = crc & 0x8000 != 0;
            (crc << 1) ^ if carry { POLYNOMIAL } else { 0 }
        })
    })
}

fn value_of(interface: &str) -> Option<OpId> {
    interface.strip_prefix(INTERFACE)?.parse().ok()
}

fn link_hash(actor: &str) -> String {
    HEXUPPER.encode(&Sha256::digest([actor, CONTRACT, LINK_NAME].concat()))
}
