//! Lattices of hosts 1.0 to 1.9.

use std::collections::BTreeMap;

use lattice_gateway::{
    control::lattices::Layout,
    domain::Entry as Stored,
    proto::{
        self, DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest, ErrorReason,
        GetClaimsRequest, GetConfigRequest, GetInterfaceLinkRequest, InterfaceLink, NamedConfig, Outcome,
        PutClaimsRequest, PutConfigRequest, PutInterfaceLinkRequest, WriteResult, put_claims_request::Source,
    },
    store::layout::{Decoded, Part},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::stand::{
    CONFIGS, DATA, Marking, Stand, Write, check, describe, fully_consistent, list_all, malformed,
};
use crate::{
    bucket_model::{Entry, Operation, list, news},
    component_model::{self as model, LinkId, Record},
    harness::{TestGateway, Told, gateway::told},
    model::{
        script::world,
        shown::{Fields, Shown, fields},
    },
};

/// What identifies an entry, in the order of kinds here and of the API's lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Claims(String),
    Link(LinkId),
    Config(String),
}

type State = BTreeMap<Key, Shown>;

/// The two buckets, and what hosts make of them.
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    data: Vec<Entry>,
    configs: Vec<Entry>,
    state: State,
    /// By subject and sequence.
    malformed: Vec<(String, u64)>,
}

impl Picture {
    async fn take(stand: &Stand, lattice: &str) -> Self {
        let mut picture = Self {
            data: stand.entries(&format!("{DATA}{lattice}")).await,
            configs: stand.entries(&format!("{CONFIGS}{lattice}")).await,
            state: State::new(),
            malformed: Vec::new(),
        };
        for entry in picture.data.clone() {
            if picture.take_data(&entry) {
                let subject = format!("$KV.{DATA}{lattice}.{}", entry.key);
                picture.malformed.push((subject, entry.sequence));
            }
        }
        for entry in picture.configs.clone() {
            if picture.take_config(&entry) {
                let subject = format!("$KV.{CONFIGS}{lattice}.{}", entry.key);
                picture.malformed.push((subject, entry.sequence));
            }
        }
        picture.malformed.sort();
        picture
    }

    /// Whether there is something wrong with it.
    ///
    /// A key that no host could read back at its start counts like another: hosts that run were delivered it.
    fn take_data(&mut self, entry: &Entry) -> bool {
        if entry.operation != Operation::Put {
            return false;
        }
        match model::key(&entry.key) {
            model::Key::Old => false,
            model::Key::Unknown => true,
            model::Key::Component(id) => match record_of(entry) {
                None => true,
                // Hosts list a link of another source too, and find it by nothing; the gateway tells of it alone.
                Some(record) => {
                    for link in record.links.iter().filter(|link| link.source_id == id) {
                        let shown = Shown {
                            sequence: entry.sequence,
                            fields: link.fields(),
                        };
                        // Hosts list one that stands twice twice, and take the first.
                        self.state.entry(Key::Link(link.id())).or_insert(shown);
                    }
                    record.links.iter().any(|link| link.source_id != id)
                }
            },
            model::Key::Claims(key) => {
                let claims = model::claims(key, &entry.body);
                match claims.filter(|_| !model::is_unkeepable(&entry.body)) {
                    None => true,
                    Some(fields) => {
                        let sequence = entry.sequence;
                        self.state
                            .insert(Key::Claims(key.to_owned()), Shown { sequence, fields });
                        false
                    }
                }
            }
        }
    }

    fn take_config(&mut self, entry: &Entry) -> bool {
        if entry.operation != Operation::Put {
            return false;
        }
        match model::config(&entry.body) {
            None => true,
            Some(fields) => {
                let sequence = entry.sequence;
                self.state
                    .insert(Key::Config(entry.key.clone()), Shown { sequence, fields });
                false
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.data.iter().find(|entry| entry.key == key)
    }

    /// The record of a source; `Err` where it cannot be read.
    fn record(&self, source: &str) -> Result<Record, ()> {
        match self.entry(&format!("COMPONENT_{source}")) {
            Some(entry) if entry.operation == Operation::Put => record_of(entry).ok_or(()),
            Some(_) | None => Ok(Record {
                url: String::new(),
                links: Vec::new(),
            }),
        }
    }

    fn says(&self) -> BTreeMap<&Key, &Fields> {
        self.state
            .iter()
            .map(|(key, shown)| (key, &shown.fields))
            .collect()
    }

    fn fields(&self, key: &Key) -> Option<&Fields> {
        self.state.get(key).map(|shown| &shown.fields)
    }

    /// Whether hosts take a link that names it: of secret references they look only whether they are there.
    fn has_config(&self, name: &str) -> bool {
        let is_there = || {
            self.configs
                .iter()
                .any(|message| message.key == name && message.operation == Operation::Put)
        };
        self.state.contains_key(&Key::Config(name.to_owned())) || (name.starts_with("SECRET") && is_there())
    }

    /// Whether a link that is shown names a config.
    fn uses(&self, name: &str) -> bool {
        let named = format!("{name:?}");
        self.state.iter().any(|(key, shown)| {
            let lists = ["source_config", "target_config"].map(|list| shown.fields.get(list));
            matches!(key, Key::Link(_)) && lists.into_iter().flatten().any(|list| list.contains(&named))
        })
    }

    fn news_since(&self, before: &Self) -> usize {
        news(&self.data, &before.data) + news(&self.configs, &before.configs)
    }
}

fn record_of(entry: &Entry) -> Option<Record> {
    model::record(&entry.body).filter(|_| !model::is_unkeepable(&entry.body))
}

/// A mutation.
#[derive(Clone, Debug)]
enum What {
    PutLink {
        id: LinkId,
        interfaces: Vec<&'static str>,
        source_config: Vec<&'static str>,
        target_config: Vec<&'static str>,
    },
    DeleteLink {
        id: LinkId,
        any_target: bool,
    },
    PutConfig {
        name: &'static str,
        value: &'static str,
    },
    DeleteConfig {
        name: &'static str,
        force: bool,
    },
    PutClaims {
        key: String,
        revision: u8,
    },
    DeleteClaims {
        key: String,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Call { gateway: usize, what: What },
    Data(Write),
    Config(Write),
}

fn is_provider(key: &str) -> bool {
    key.starts_with('V')
}

impl What {
    /// The entry that it is about, as long as that does not depend on what stands.
    fn key(&self) -> Key {
        match self {
            Self::PutLink { id, .. } | Self::DeleteLink { id, .. } => Key::Link(id.clone()),
            Self::PutConfig { name, .. } | Self::DeleteConfig { name, .. } => Key::Config((*name).to_owned()),
            Self::PutClaims { key, .. } | Self::DeleteClaims { key } => Key::Claims(key.clone()),
        }
    }

    /// What the entry shall say; `None` for a delete.
    fn desired(&self) -> Option<Fields> {
        match self {
            Self::PutLink {
                interfaces,
                source_config,
                target_config,
                ..
            } => {
                let list = |items: &[&str]| serde_json::to_string(items).unwrap();
                Some(fields([
                    ("interfaces", list(interfaces)),
                    ("source_config", list(source_config)),
                    ("target_config", list(target_config)),
                ]))
            }
            Self::PutConfig { value, .. } => Some(fields([("value", (*value).to_owned())])),
            Self::PutClaims { key, revision } => {
                let only = |of_provider: bool, text: &str| match is_provider(key) == of_provider {
                    true => text.to_owned(),
                    false => String::new(),
                };
                Some(fields([
                    ("issuer", world().account.public_key()),
                    ("name", "Echo".to_owned()),
                    ("call_alias", only(false, "echo")),
                    ("capabilities", String::new()),
                    ("tags", only(false, "a,b")),
                    ("revision", revision.to_string()),
                    ("version", "0.3.4".to_owned()),
                    ("contract_id", String::new()),
                    ("config_schema", only(true, r#"{"a":1}"#)),
                ]))
            }
            Self::DeleteLink { .. } | Self::DeleteConfig { .. } | Self::DeleteClaims { .. } => None,
        }
    }
}

fn claims_of(key: &str, mut says: Fields) -> proto::Claims {
    let mut text = |name: &str| says.remove(name).unwrap();
    let tags = text("tags");
    proto::Claims {
        public_key: key.to_owned(),
        issuer: text("issuer"),
        name: text("name"),
        call_alias: text("call_alias"),
        tags: tags
            .split(',')
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        claims_revision: text("revision"),
        version: text("version"),
        config_schema: text("config_schema"),
        ..proto::Claims::default()
    }
}

async fn send(gateway: &TestGateway, lattice: &str, what: &What) -> Result<WriteResult, Told> {
    let lattice = lattice.to_owned();
    let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let result = match what {
        What::PutLink {
            id,
            interfaces,
            source_config,
            target_config,
        } => {
            let [source_id, name, wit_namespace, wit_package, target] = id.clone();
            let link = InterfaceLink {
                source_id,
                target,
                name,
                wit_namespace,
                wit_package,
                interfaces: owned(interfaces),
                source_config: owned(source_config),
                target_config: owned(target_config),
                ..InterfaceLink::default()
            };
            let request = PutInterfaceLinkRequest {
                lattice,
                interface_link: Some(link),
                ..PutInterfaceLinkRequest::default()
            };
            told(gateway.interface_links().put_interface_link(request).await)?.result
        }
        What::DeleteLink { id, any_target } => {
            let [source_id, name, wit_namespace, wit_package, target] = id.clone().map(Some);
            let request = DeleteInterfaceLinkRequest {
                lattice,
                source_id,
                name,
                wit_namespace,
                wit_package,
                target: target.filter(|_| !any_target),
                ..DeleteInterfaceLinkRequest::default()
            };
            told(gateway.interface_links().delete_interface_link(request).await)?.result
        }
        What::PutConfig { name, value } => {
            let config = NamedConfig {
                name: (*name).to_owned(),
                values: [("value".to_owned(), (*value).to_owned())].into(),
                ..NamedConfig::default()
            };
            let request = PutConfigRequest {
                lattice,
                named_config: Some(config),
                ..PutConfigRequest::default()
            };
            told(gateway.configs().put_config(request).await)?.result
        }
        What::DeleteConfig { name, force } => {
            let request = DeleteConfigRequest {
                lattice,
                name: (*name).to_owned(),
                force: *force,
                ..DeleteConfigRequest::default()
            };
            told(gateway.configs().delete_config(request).await)?.result
        }
        What::PutClaims { key, .. } => {
            let claims = claims_of(key, what.desired().unwrap());
            let request = PutClaimsRequest {
                lattice,
                source: Some(Source::Claims(claims)),
                ..PutClaimsRequest::default()
            };
            told(gateway.claims().put_claims(request).await)?.result
        }
        What::DeleteClaims { key } => {
            let request = DeleteClaimsRequest {
                lattice,
                public_key: key.clone(),
                ..DeleteClaimsRequest::default()
            };
            told(gateway.claims().delete_claims(request).await)?.result
        }
    };
    Ok(result.expect("a mutation has a result"))
}

type Answered = (Key, Shown, String);

fn shown(revision: Option<proto::Revision>, fields: Fields) -> Shown {
    Shown {
        sequence: revision.map_or(0, |revision| revision.sequence),
        fields,
    }
}

fn of_link(link: InterfaceLink) -> Answered {
    let list = |items: &[String]| serde_json::to_string(items).unwrap();
    let fields = fields([
        ("interfaces", list(&link.interfaces)),
        ("source_config", list(&link.source_config)),
        ("target_config", list(&link.target_config)),
    ]);
    let id = [
        link.source_id,
        link.name,
        link.wit_namespace,
        link.wit_package,
        link.target,
    ];
    (Key::Link(id), shown(link.revision, fields), link.etag)
}

fn of_claims(claims: proto::Claims) -> Answered {
    let fields = fields([
        ("issuer", claims.issuer),
        ("name", claims.name),
        ("call_alias", claims.call_alias),
        ("capabilities", list(claims.capabilities)),
        ("tags", list(claims.tags)),
        ("revision", claims.claims_revision),
        ("version", claims.version),
        ("contract_id", claims.contract_id),
        // The gateway shows a schema as it is written, hosts show it written anew.
        ("config_schema", model::schema(&claims.config_schema)),
    ]);
    (
        Key::Claims(claims.public_key),
        shown(claims.revision, fields),
        claims.etag,
    )
}

fn of_config(config: NamedConfig) -> Answered {
    let fields = config.values.into_iter().collect();
    (
        Key::Config(config.name),
        shown(config.revision, fields),
        config.etag,
    )
}

async fn list_of(gateway: &TestGateway, lattice: &str) -> Vec<Answered> {
    let links = gateway.interface_links();
    let (mut claims, mut links, mut configs) = (gateway.claims(), links, gateway.configs());
    [
        list_all!(claims, list_claims, ListClaimsRequest, claims, lattice, of_claims),
        list_all!(
            links,
            list_interface_links,
            ListInterfaceLinksRequest,
            interface_links,
            lattice,
            of_link
        ),
        list_all!(
            configs,
            list_configs,
            ListConfigsRequest,
            named_configs,
            lattice,
            of_config
        ),
    ]
    .concat()
}

async fn get(gateway: &TestGateway, lattice: &str, key: &Key) -> Option<Answered> {
    let (lattice, consistency) = (lattice.to_owned(), Some(fully_consistent()));
    let answer = match key.clone() {
        // An empty key cannot be asked for.
        Key::Claims(public_key) => {
            let request = GetClaimsRequest {
                lattice,
                public_key,
                consistency,
            };
            told(gateway.claims().get_claims(request).await).map(|answer| answer.claims.map(of_claims))
        }
        Key::Link(id) => {
            let [source_id, name, wit_namespace, wit_package, target] = id.map(Some);
            let request = GetInterfaceLinkRequest {
                lattice,
                source_id,
                name,
                wit_namespace,
                wit_package,
                target,
                consistency,
            };
            told(gateway.interface_links().get_interface_link(request).await)
                .map(|answer| answer.interface_link.map(of_link))
        }
        Key::Config(name) => {
            let request = GetConfigRequest {
                lattice,
                name,
                consistency,
            };
            told(gateway.configs().get_config(request).await).map(|answer| answer.named_config.map(of_config))
        }
    };
    match answer {
        Ok(entry) => Some(entry.expect("an answer has its entry")),
        Err(told) => {
            assert_eq!(told.reason, ErrorReason::EntryNotFound, "{told:?}");
            None
        }
    }
}

/// Compares what a gateway lists with what hosts hold.
async fn compare_lists(gateway: &TestGateway, lattice: &str, picture: &Picture) -> Vec<Answered> {
    let listed = list_of(gateway, lattice).await;
    let entries = listed
        .iter()
        .map(|(key, shown, _)| (key.clone(), shown.clone()))
        .collect::<Vec<_>>();
    let expected = picture.state.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(entries, expected, "{:#?}", picture.data);
    listed
}

async fn call(stand: &Stand, lattice: &str, gateway: usize, what: &What) {
    let gateway = &stand.gateways[gateway];
    let before = Picture::take(stand, lattice).await;
    compare_lists(gateway, lattice, &before).await;
    let answer = send(gateway, lattice, what).await;
    let after = Picture::take(stand, lattice).await;
    let context = format!("{what:?} answered {answer:?}\nbefore: {before:#?}\nafter: {after:#?}");
    let refusals = refusals(what, &before);
    let result = match answer {
        Err(told) => {
            assert!(refusals.contains(&told.reason), "{refusals:?}: {context}");
            assert_eq!(after, before, "{context}");
            return;
        }
        Ok(result) => result,
    };
    assert_eq!(refusals, [], "{context}");
    let key = resolved(what, &before);
    let mut expected = before.says();
    let desired = what.desired();
    match &desired {
        Some(desired) => drop(expected.insert(&key, desired)),
        None => drop(expected.remove(&key)),
    }
    assert_eq!(after.says(), expected, "{context}");
    match result.outcome() {
        Outcome::Applied => {}
        Outcome::Unchanged => {
            assert_eq!(after, before, "{context}");
            assert_eq!(before.fields(&key), desired.as_ref(), "{context}");
            return;
        }
        Outcome::Unspecified | Outcome::AlreadyApplied | Outcome::Validated => panic!("{context}"),
    }
    assert_eq!(after.news_since(&before), 1, "{context}");
    match what {
        What::PutLink { .. } | What::DeleteLink { .. } => compare_records(&key, &before, &after),
        What::DeleteClaims { key } => {
            // From the body hosts that run know what to forget.
            let key = format!("CLAIMS_{key}");
            let (before, after) = (before.entry(&key).unwrap(), after.entry(&key).unwrap());
            assert_eq!(after.operation, Operation::Delete, "{context}");
            assert_eq!(after.body, before.body, "{context}");
        }
        What::DeleteConfig { name, .. } => {
            let marker = after.configs.iter().find(|entry| entry.key == *name).unwrap();
            assert_eq!(marker.operation, Operation::Purge, "{context}");
        }
        What::PutConfig { .. } | What::PutClaims { .. } => {}
    }
}

/// The entry that a mutation is of.
fn resolved(what: &What, before: &Picture) -> Key {
    match what {
        What::DeleteLink { id, any_target: true } => matching(id, before).into_iter().next().unwrap(),
        What::PutLink { .. }
        | What::DeleteLink { .. }
        | What::PutConfig { .. }
        | What::DeleteConfig { .. }
        | What::PutClaims { .. }
        | What::DeleteClaims { .. } => what.key(),
    }
}

/// The links that are this one but for the target.
fn matching(id: &LinkId, before: &Picture) -> Vec<Key> {
    let matches = before
        .state
        .keys()
        .filter(|key| matches!(key, Key::Link(other) if other[..4] == id[..4]));
    matches.cloned().collect()
}

/// Why a mutation must be refused, by what hosts hold.
fn refusals(what: &What, before: &Picture) -> Vec<ErrorReason> {
    let is_absent = !before.state.contains_key(&what.key());
    let reasons = match what {
        What::PutLink {
            id,
            interfaces,
            source_config,
            target_config,
        } => {
            let record = before.record(&id[0]);
            let is_conflict = record.iter().flat_map(|record| &record.links).any(|link| {
                let other = link.id();
                let overlaps = link
                    .interfaces
                    .iter()
                    .any(|interface| interfaces.contains(&&**interface));
                other[..4] == id[..4] && other[4] != id[4] && overlaps
            });
            let mut configs = source_config.iter().chain(target_config);
            vec![
                (ErrorReason::Internal, record.is_err()),
                (
                    ErrorReason::ConfigNotFound,
                    configs.any(|name| !before.has_config(name)),
                ),
                (ErrorReason::LinkConflict, is_conflict),
            ]
        }
        What::DeleteLink { id, any_target } => {
            let matching = matching(id, before).len();
            vec![
                (ErrorReason::Internal, before.record(&id[0]).is_err()),
                (
                    ErrorReason::EntryNotFound,
                    if *any_target { matching == 0 } else { is_absent },
                ),
                (ErrorReason::AmbiguousLink, *any_target && matching > 1),
            ]
        }
        What::DeleteConfig { name, force } => vec![
            (ErrorReason::EntryNotFound, is_absent),
            (ErrorReason::ConfigInUse, !force && before.uses(name)),
        ],
        What::DeleteClaims { .. } => vec![(ErrorReason::EntryNotFound, is_absent)],
        What::PutConfig { .. } | What::PutClaims { .. } => Vec::new(),
    };
    let holding = reasons.into_iter().filter(|(_, holds)| *holds);
    holding.map(|(reason, _)| reason).collect()
}

/// An edit of a link leaves all else of the record as it is, what hosts do not know included.
fn compare_records(key: &Key, before: &Picture, after: &Picture) {
    let Key::Link(id) = key else {
        return;
    };
    let record_key = format!("COMPONENT_{}", id[0]);
    let parsed = |picture: &Picture| {
        let entry = picture.entry(&record_key);
        let body = entry.filter(|entry| entry.operation == Operation::Put);
        let record = body.map_or_else(
            || json!({"url": "", "links": []}),
            |entry| serde_json::from_slice::<Value>(&entry.body).unwrap(),
        );
        let mut record = record.as_object().unwrap().clone();
        let links = record.remove("links").unwrap_or_else(|| json!([]));
        let links = links.as_array().unwrap().iter().map(|link| {
            let mut link = link.clone();
            for (name, default) in [
                ("name", json!("default")),
                ("source_config", json!([])),
                ("target_config", json!([])),
            ] {
                let member = link.as_object_mut().unwrap().entry(name);
                member.or_insert(default);
            }
            link
        });
        (record, links.collect::<Vec<_>>())
    };
    let is_own = |link: &Value| {
        let parts = ["source_id", "name", "wit_namespace", "wit_package", "target"];
        parts.iter().zip(id).all(|(name, part)| link[*name] == **part)
    };
    let others = |links: &[Value]| {
        let others = links.iter().filter(|link| !is_own(link));
        others.cloned().collect::<Vec<_>>()
    };
    let unknown = |links: &[Value]| {
        let own = links.iter().find(|link| is_own(link))?;
        Some(own["unknown"].clone())
    };
    let ((rest_before, links_before), (rest, links)) = (parsed(before), parsed(after));
    assert_eq!(rest, rest_before, "all but the links");
    assert_eq!(
        others(&links),
        others(&links_before),
        "the other links, in their order"
    );
    let own = links.iter().filter(|link| is_own(link)).count();
    assert!(own <= 1, "{links:?}");
    if let (Some(was), Some(is)) = (unknown(&links_before), unknown(&links)) {
        assert_eq!(is, was, "what hosts do not know of the link");
    }
}

async fn play(stand: &Stand, script: Vec<Step>) {
    let lattice = &stand.lattice("component-").await;
    for step in &script {
        match step {
            Step::Call { gateway, what } => call(stand, lattice, *gateway, what).await,
            Step::Data(write) => stand.write(&format!("{DATA}{lattice}"), write).await,
            Step::Config(write) => stand.write(&format!("{CONFIGS}{lattice}"), write).await,
        }
    }
    let picture = Picture::take(stand, lattice).await;
    let mut told = Vec::new();
    for gateway in &stand.gateways {
        let listed = compare_lists(gateway, lattice, &picture).await;
        for key in addressable_keys() {
            let expected = listed.iter().find(|(listed, ..)| *listed == key);
            assert_eq!(get(gateway, lattice, &key).await.as_ref(), expected);
        }
        let description = describe(gateway, lattice).await;
        assert_eq!(malformed(&description), picture.malformed);
        let count = |is_kind: fn(&Key) -> bool| {
            let keys = picture.state.keys().filter(|key| is_kind(key));
            u64::try_from(keys.count()).unwrap()
        };
        let counts = [
            description.claims_count,
            description.interface_link_count,
            description.named_config_count,
        ];
        let expected = [
            count(|key| matches!(key, Key::Claims(_))),
            count(|key| matches!(key, Key::Link(_))),
            count(|key| matches!(key, Key::Config(_))),
        ];
        assert_eq!(counts, expected, "claims, links, configs");
        told.push(listed);
    }
    assert_eq!(told[0], told[1], "both gateways tell the same etags");
    stand.remove(lattice).await;
}

#[test]
fn reads_of_a_component_lattice_tell_what_hosts_hold() {
    check(Layout::Component, 40, &script(), play);
}

const SOURCES: [&str; 3] = ["http-server", "hello", "a_b"];
const TARGETS: [&str; 2] = ["hello", "store"];
const NAMES: [&str; 2] = ["default", "backup"];
const INTERFACES: [&str; 3] = ["incoming-handler", "types", "x"];
const CONFIG_NAMES: [&str; 4] = ["c1", "c2", "SECRET_s", "a=/b"];

fn claims_keys() -> Vec<String> {
    let world = world();
    world.actors.iter().chain(&world.providers).cloned().collect()
}

fn addressable_keys() -> Vec<Key> {
    let mut links = Vec::new();
    for source in SOURCES {
        for (name, target) in NAMES
            .into_iter()
            .flat_map(|name| TARGETS.map(|target| (name, target)))
        {
            links.push(Key::Link(
                [source, name, "wasi", "http", target].map(str::to_owned),
            ));
        }
    }
    let configs = CONFIG_NAMES.map(|name| Key::Config(name.to_owned()));
    let claims = claims_keys().into_iter().map(Key::Claims);
    links.into_iter().chain(configs).chain(claims).collect()
}

fn select<T: Clone + std::fmt::Debug + 'static>(items: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(items.to_vec())
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..2_usize, what()).prop_map(|(gateway, what)| Step::Call { gateway, what }),
        4 => data_write().prop_map(Step::Data),
        2 => config_write().prop_map(Step::Config),
    ];
    prop::collection::vec(step, 1..14)
}

fn link_id() -> impl Strategy<Value = LinkId> {
    (select(&SOURCES), select(&NAMES), select(&TARGETS))
        .prop_map(|(source, name, target)| [source, name, "wasi", "http", target].map(str::to_owned))
}

fn what() -> impl Strategy<Value = What> {
    let interfaces = prop::sample::subsequence(INTERFACES.to_vec(), 1..=2);
    let configs = || prop::sample::subsequence(CONFIG_NAMES[..3].to_vec(), 0..=1);
    prop_oneof![
        6 => (link_id(), interfaces, configs(), configs()).prop_map(
            |(id, interfaces, source_config, target_config)| What::PutLink {
                id, interfaces, source_config, target_config
            }
        ),
        3 => (link_id(), any::<bool>()).prop_map(|(id, any_target)| What::DeleteLink { id, any_target }),
        3 => (select(&CONFIG_NAMES), select(&["1", "2"]))
            .prop_map(|(name, value)| What::PutConfig { name, value }),
        1 => (select(&CONFIG_NAMES), any::<bool>())
            .prop_map(|(name, force)| What::DeleteConfig { name, force }),
        2 => (select(&claims_keys()), 1..3_u8)
            .prop_map(|(key, revision)| What::PutClaims { key, revision }),
        1 => select(&claims_keys()).prop_map(|key| What::DeleteClaims { key }),
    ]
}

fn marking() -> impl Strategy<Value = Marking> {
    prop_oneof![
        8 => Just(Marking::None),
        1 => Just(Marking::Unknown),
        1 => Just(Marking::Delete),
        1 => Just(Marking::Purge),
        1 => Just(Marking::PurgeWithRollup),
    ]
}

fn data_write() -> impl Strategy<Value = Write> {
    let keyed = prop_oneof![
        5 => (select(&[&SOURCES[..], &["a.b", "a:b", ""]].concat()), record_body())
            .prop_map(|(id, body)| (format!("COMPONENT_{id}"), body)),
        3 => claims_write(),
        1 => (
            select(&["FOO", "COMPONENT", "component_g", "foo.bar", "LINKDEF_x", "REFMAP_x", "LINKDEF", "CLAIMS"]),
            record_body()
        )
            .prop_map(|(key, body)| (key.to_owned(), body)),
    ];
    (keyed, marking(), any::<bool>()).prop_map(|((key, body), operation, is_empty)| Write {
        key,
        // Markers come with the body or without, and sometimes a put without.
        body: if is_empty && operation != Marking::None {
            String::new()
        } else {
            body
        },
        operation,
    })
}

/// A record as hosts write it, as others may, or as none can be read.
fn record_body() -> impl Strategy<Value = String> {
    let url = select(&[r#""url":"","#, r#""url":"file:///a.wasm","#]);
    let links = prop::collection::vec(link_body(), 0..4);
    let unknown = select(&["", r#","digest":{"a":[1,null]}"#, r#","x":1,"x":2"#]);
    let whole = (url, links, unknown)
        .prop_map(|(url, links, unknown)| format!("{{{url}\"links\":[{}]{unknown}}}", links.join(",")));
    prop_oneof![
        12 => whole,
        1 => select(&[
            r#"{"url":"u"}"#, r#" {"links":[],"url":"u"}  "#, r#"["u",[]]"#, r#"{"url":null,"links":[]}"#,
            r#"{"links":[]}"#, r#"{"url":"u","links":null}"#, r#"{"url":"u","url":"u"}"#, "", "null", "{}",
            r#"{"url":"u","links":{}}"#, "\u{feff}{\"url\":\"\"}", r#"{"url":""}x"#, r#"{"url":"","n":1e999}"#,
        ]).prop_map(str::to_owned),
    ]
}

fn link_body() -> impl Strategy<Value = String> {
    let source = select(&[SOURCES[0], SOURCES[0], SOURCES[1], SOURCES[2], "a.b", "a:b", ""]);
    let name = select(&["", r#""name":"default","#, r#""name":"backup","#]);
    let interfaces = prop::sample::subsequence(INTERFACES.to_vec(), 0..=2);
    let configs = select(&[
        "",
        r#","source_config":[],"target_config":[]"#,
        r#","source_config":["c1"],"target_config":["c2","c1"]"#,
        r#","source_config":["missing"]"#,
    ]);
    let oddity = prop_oneof![
        12 => Just(""),
        2 => Just(r#","unknown":{"b":1,"a":[2]}"#),
        1 => select(&[
            r#","source_secrets":null"#, r#","name":null"#, r#","interfaces":["a"]"#, r#","source_config":null"#,
            r#","target_config":[1]"#, r#","x":1,"x":1"#,
        ]),
    ];
    (source, name, select(&TARGETS), interfaces, configs, oddity).prop_map(
        |(source, name, target, interfaces, configs, oddity)| {
            let interfaces = serde_json::to_string(&interfaces).unwrap();
            format!(
                r#"{{"source_id":"{source}","target":"{target}",{name}"wit_namespace":"wasi","wit_package":"http","interfaces":{interfaces}{configs}{oddity}}}"#
            )
        },
    )
}

fn claims_write() -> impl Strategy<Value = (String, String)> {
    let subject =
        prop_oneof![8 => select(&claims_keys()), 1 => select(&["my-component".to_owned(), String::new()])];
    (subject, claims_body())
        .prop_map(|(subject, body)| (format!("CLAIMS_{subject}"), body.replace("<sub>", &subject)))
}

/// Claims in every form that some host wrote, a member of them changed at times. The subject is left out.
fn claims_body() -> impl Strategy<Value = String> {
    let forms = select(&[
        // 1.0 to 1.9, both shapes.
        r#"{"call_alias":"al","issuer":"A","name":"Echo","revision":"4","subject":"<sub>","tags":["a","b,c",""],"version":"1"}"#,
        r#"{"issuer":"A","name":"Echo","revision":"4","subject":"<sub>","version":"1"}"#,
        r#"{"issuer":"A","name":"Echo","revision":"4","subject":"<sub>","version":"1","config_schema":"{\"b\": 1, \"a\": 2}"}"#,
        // 0.81, both shapes.
        r#"{"call_alias":"","capabilities":["c"],"issuer":"A","name":"Echo","revision":"4","subject":"<sub>","tags":[],"version":"1"}"#,
        r#"{"contract_id":"c","issuer":"A","name":"Echo","revision":"4","subject":"<sub>","version":"1"}"#,
        // OTP, and 0.78.
        r#"{"call_alias":"","caps":"c","iss":"A","name":"Echo","rev":"4","sub":"<sub>","tags":"a,b","version":"1"}"#,
        r#"{"call_alias":"","caps":"","contract_id":"c","iss":"A","name":"Echo","rev":"4","sub":"<sub>","tags":"","version":"1"}"#,
        // As `claims.get` answers.
        r#"{"call_alias":"","iss":"A","issuer":"A","name":"Echo","rev":"4","revision":"4","sub":"<sub>","subject":"<sub>","tags":"","version":"1"}"#,
    ]);
    let change = prop_oneof![
        8 => Just(("", "")),
        8 => select(&[
            (r#""version":"1""#, r#""version":null"#),
            (r#""version":"1""#, r#""version":"1","version":"2""#),
            (r#""version":"1""#, r#""version":"1","config_schema":"no JSON""#),
            (r#""version":"1""#, r#""version":"1","config_schema":{}"#),
            (r#""version":"1""#, r#""version":"1","config_schema":null"#),
            (r#""version":"1""#, r#""version":"1","unknown":[{"a":null}]"#),
            (r#""name":"Echo","#, ""),
            (r#""4""#, "4"),
            (r#""4""#, r#""-3""#),
            (r#""4""#, r#""+7""#),
            (r#""4""#, r#""007""#),
            (r#""4""#, r#""abc""#),
            (r#""4""#, r#""99999999999""#),
            ("<sub>", "other"),
            (r#""call_alias":"""#, r#""call_alias":7"#),
            (r#""call_alias":"","#, ""),
            (r#""tags":"a,b""#, r#""tags":null"#),
            (r#""tags":[]"#, r#""tags":[1]"#),
            ("{", "[{"),
            ("}", ""),
        ]),
    ];
    (forms, change).prop_map(|(form, (from, to))| match from {
        "" => form.to_owned(),
        from => form.replacen(from, to, 1),
    })
}

fn config_write() -> impl Strategy<Value = Write> {
    let key = prop_oneof![6 => select(&CONFIG_NAMES), 1 => select(&["a.b", "-"])];
    let body = select(&[
        r#"{"value":"1"}"#,
        r#" {"value" : "1", "value":"2"} "#,
        "{}",
        "[]",
        "",
        "null",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":"1"}x"#,
        r#"{"name":"s","backend":"b","type":"secret.wasmcloud.dev/v1alpha1"}"#,
    ]);
    (key, marking(), body).prop_map(|(key, operation, body)| Write {
        key: key.to_owned(),
        operation,
        body: body.to_owned(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_of_a_component_lattice_is_read_as_hosts_read_it(write in data_write(), is_marker: bool) {
        let decoded = Part::Component.decode(&write.key, is_marker, write.body.as_bytes());
        let body = write.body.as_bytes();
        let is_keepable = !model::is_unkeepable(body);
        match (model::key(&write.key), is_marker) {
            (model::Key::Old, _) | (model::Key::Unknown, true) => prop_assert_eq!(decoded, Decoded::Nothing),
            (model::Key::Unknown, false) => prop_assert!(matches!(decoded, Decoded::Malformed(_))),
            (model::Key::Component(id), true) => {
                prop_assert!(super::deletes(&decoded, ["component", id]), "{:?}", decoded);
            }
            (model::Key::Claims(subject), true) => {
                prop_assert!(super::deletes(&decoded, ["claims", subject]), "{:?}", decoded);
            }
            (model::Key::Component(id), false) => match model::record(body).filter(|_| is_keepable) {
                None => prop_assert!(matches!(decoded, Decoded::Malformed(_)), "{:?}", decoded),
                Some(record) => {
                    let Decoded::Put { key, entry: Stored::Component(read), .. } = decoded else {
                        return Err(TestCaseError::fail(format!("{decoded:?}")));
                    };
                    prop_assert_eq!(key.parts(), ["component", id]);
                    prop_assert_eq!(&*read.url, &record.url);
                    let list = |items: &[Box<str>]| serde_json::to_string(items).unwrap();
                    let read = read.links.iter().map(|stored| {
                        let says = fields([
                            ("interfaces", list(&stored.link.interfaces)),
                            ("source_config", list(&stored.link.source_config)),
                            ("target_config", list(&stored.link.target_config)),
                        ]);
                        (stored.id.parts().map(str::to_owned), says)
                    });
                    let links = record.links.iter().map(|link| (link.id(), link.fields()));
                    prop_assert_eq!(read.collect::<Vec<_>>(), links.collect::<Vec<_>>());
                }
            },
            (model::Key::Claims(subject), false) => match model::claims(subject, body).filter(|_| is_keepable) {
                None => prop_assert!(matches!(decoded, Decoded::Malformed(_)), "{:?}", decoded),
                Some(says) => {
                    let Decoded::Put { key, entry: Stored::Claims(read), .. } = decoded else {
                        return Err(TestCaseError::fail(format!("{decoded:?}")));
                    };
                    prop_assert_eq!(key.parts(), ["claims", subject]);
                    prop_assert_eq!(super::stored_claims(&read, model::schema), says);
                }
            },
        }
    }

    #[test]
    fn any_config_is_read_as_hosts_read_it(write in config_write(), is_marker: bool) {
        let decoded = Part::Configs.decode(&write.key, is_marker, write.body.as_bytes());
        match (model::config(write.body.as_bytes()), is_marker) {
            (_, true) => {
                prop_assert!(super::deletes(&decoded, ["config", &write.key]), "{:?}", decoded);
            }
            (None, false) => prop_assert!(matches!(decoded, Decoded::Malformed(_)), "{:?}", decoded),
            (Some(values), false) => {
                let Decoded::Put { key, entry: Stored::Config(read), .. } = decoded else {
                    return Err(TestCaseError::fail(format!("{decoded:?}")));
                };
                prop_assert_eq!(key.parts(), ["config", &write.key]);
                let read = read.values.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), values);
            }
        }
    }
}
