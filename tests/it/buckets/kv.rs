//! Lattices of hosts 0.60 to 0.82.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::{
    control::lattices::Layout,
    domain::Entry as Stored,
    proto::{
        self, DeleteClaimsRequest, DeleteLinkDefinitionRequest, ErrorReason, LinkDefinition, OciReference,
        Outcome, PutClaimsRequest, PutLinkDefinitionRequest, SetOciReferenceRequest, WriteResult,
        put_claims_request::Source,
    },
    store::layout::{Decoded, Part},
};
use proptest::prelude::*;

use super::stand::{DATA, LONG, Marking, Stand, Write, check, describe, list_all, malformed};
use crate::{
    bucket_model::{Entry, Json, Operation, list, news},
    harness::{TestGateway, Told, gateway::told},
    host_model::Triple,
    kv_model::{self as model, CLAIMS, LINKS, REFERENCES, clients, flat, link_hash, otp, tagged},
    model::{
        script::{triple, url, world},
        shown::{Fields, Key, Shown, State, fields, of_link, of_reference},
    },
};

/// The bucket, and what its readers make of it.
#[derive(Clone, Debug, PartialEq)]
struct Picture {
    entries: Vec<Entry>,
    state: State,
    /// By subject and sequence.
    malformed: Vec<(String, u64)>,
}

/// What a message says to the readers of the era.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Entry(Key, Fields),
    Nothing,
    Malformed,
}

/// What the gateway has to make of a message, whose readers differ:
///
/// * OTP counts where it reads: its is the first of doubled members, and whatever it keeps is shown. What Jason cannot
///   read at all is malformed, also where others pass over the member at fault.
/// * Claims that OTP does not read are shown as 0.81 reads a provider's. Clients, to which any object of texts is
///   claims, do not count.
/// * A link under another key than its hash is malformed: hosts 0.78 to 0.82 refuse it. So is one without all of its
///   members, over which OTP fails, though those others read an empty text.
fn said(entry: &Entry) -> Said {
    let Entry { key, body, .. } = entry;
    let is_put = entry.operation == Operation::Put;
    let read = if let Some(key) = key.strip_prefix(CLAIMS) {
        claims(key, body).map(|fields| (Key::Claims(key.to_owned()), fields))
    } else if let Some(hash) = key.strip_prefix(LINKS) {
        let link = otp::link(body)
            .ok()
            .filter(|(triple, _)| link_hash(triple) == hash);
        link.map(|(triple, fields)| (Key::Link(triple), fields))
    } else if key.starts_with(REFERENCES) {
        let reference = otp::reference(body).ok();
        reference.map(|(url, fields)| (Key::Reference(url), fields))
    } else {
        None
    };
    match read {
        // Also a purge, which hosts 0.78 to 0.82 pass over while they run: OTP and clients take it for a deletion.
        _ if !is_put => Said::Nothing,
        Some((key, fields)) => Said::Entry(key, fields),
        None => Said::Malformed,
    }
}

fn claims(key: &str, body: &[u8]) -> Option<Fields> {
    let by_otp = otp::claims(body);
    if by_otp == Err(otp::Trouble::NoObject) {
        return None;
    }
    let by_tagged = || Some(tagged::claims(key, body)?.1);
    by_otp.ok().or_else(by_tagged)
}

impl Picture {
    async fn take(stand: &Stand, lattice: &str) -> Self {
        let entries = stand.entries(&format!("{DATA}{lattice}")).await;
        let mut state = State::new();
        let mut malformed = Vec::new();
        for entry in &entries {
            match said(entry) {
                Said::Entry(key, fields) => {
                    let sequence = entry.sequence;
                    state.insert(key, Shown { sequence, fields });
                }
                Said::Nothing => {}
                Said::Malformed => {
                    malformed.push((format!("$KV.{DATA}{lattice}.{}", entry.key), entry.sequence));
                }
            }
        }
        malformed.sort();
        Self {
            entries,
            state,
            malformed,
        }
    }

    fn says(&self) -> BTreeMap<&Key, &Fields> {
        self.state
            .iter()
            .map(|(key, shown)| (key, &shown.fields))
            .collect()
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Another entry that stands in this one's place.
    fn has_other_in_place_of(&self, key: &Key) -> bool {
        let said = self.entry(&home(key)).map(said);
        matches!(said, Some(Said::Entry(other, _)) if other != *key)
    }
}

/// Where hosts file an entry.
fn home(key: &Key) -> String {
    match key {
        Key::Claims(key) => format!("{CLAIMS}{key}"),
        Key::Link(triple) => format!("{LINKS}{}", link_hash(triple)),
        Key::Reference(url) => format!("{REFERENCES}{}", BASE64URL_NOPAD.encode(url.as_bytes())),
    }
}

/// A mutation.
#[derive(Clone, Debug)]
enum What {
    PutLink {
        triple: usize,
        provider: usize,
        value: &'static str,
    },
    DeleteLink {
        triple: usize,
    },
    PutClaims {
        key: String,
        alias: &'static str,
        revision: u8,
    },
    DeleteClaims {
        key: String,
    },
    SetReference {
        url: usize,
        actor: usize,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Call { gateway: usize, what: What },
    Write(Write),
}

fn is_provider(key: &str) -> bool {
    key.starts_with('V')
}

impl What {
    fn key(&self) -> Key {
        match self {
            Self::PutLink { triple: number, .. } | Self::DeleteLink { triple: number } => {
                Key::Link(triple(*number))
            }
            Self::PutClaims { key, .. } | Self::DeleteClaims { key } => Key::Claims(key.clone()),
            Self::SetReference { url: number, .. } => Key::Reference(url(*number)),
        }
    }

    /// What the entry shall say; `None` for a delete.
    fn desired(&self) -> Option<Fields> {
        match self {
            Self::PutLink { provider, value, .. } => Some(fields([
                ("provider_id", world().providers[*provider].clone()),
                ("values.value", (*value).to_owned()),
            ])),
            Self::PutClaims { key, alias, revision } => {
                let only = |of_provider: bool, text: &str| match is_provider(key) == of_provider {
                    true => text.to_owned(),
                    false => String::new(),
                };
                Some(fields([
                    ("issuer", world().account.public_key()),
                    ("name", "Echo".to_owned()),
                    ("call_alias", only(false, alias)),
                    ("capabilities", only(false, "wasmcloud:httpserver")),
                    ("tags", only(false, "a,b")),
                    ("revision", revision.to_string()),
                    ("version", "0.3.4".to_owned()),
                    ("contract_id", only(true, "wasmcloud:keyvalue")),
                    ("config_schema", only(true, r#"{"a":1}"#)),
                ]))
            }
            Self::SetReference { actor, .. } => {
                Some(fields([("public_key", world().actors[*actor].clone())]))
            }
            Self::DeleteLink { .. } | Self::DeleteClaims { .. } => None,
        }
    }
}

async fn send(gateway: &TestGateway, lattice: &str, what: &What) -> Result<WriteResult, Told> {
    let lattice = lattice.to_owned();
    let result = match what {
        What::PutLink {
            triple: number,
            provider,
            value,
        } => {
            let triple = triple(*number);
            let link = LinkDefinition {
                actor_id: triple.actor_id,
                contract_id: triple.contract_id,
                link_name: triple.link_name,
                provider_id: world().providers[*provider].clone(),
                values: [("value".to_owned(), (*value).to_owned())].into(),
                ..LinkDefinition::default()
            };
            let request = PutLinkDefinitionRequest {
                lattice,
                link_definition: Some(link),
                ..PutLinkDefinitionRequest::default()
            };
            told(gateway.links().put_link_definition(request).await)?.result
        }
        What::DeleteLink { triple: number } => {
            let triple = triple(*number);
            let request = DeleteLinkDefinitionRequest {
                lattice,
                actor_id: Some(triple.actor_id),
                contract_id: Some(triple.contract_id),
                link_name: Some(triple.link_name),
                ..DeleteLinkDefinitionRequest::default()
            };
            told(gateway.links().delete_link_definition(request).await)?.result
        }
        What::PutClaims { key, .. } => {
            let mut says = what.desired().unwrap();
            let mut text = |name: &str| says.remove(name).unwrap();
            let items = |text: String| {
                let items = text.split(',').filter(|item| !item.is_empty());
                items.map(str::to_owned).collect()
            };
            let claims = proto::Claims {
                public_key: key.clone(),
                issuer: text("issuer"),
                name: text("name"),
                call_alias: text("call_alias"),
                capabilities: items(text("capabilities")),
                tags: items(text("tags")),
                claims_revision: text("revision"),
                version: text("version"),
                contract_id: text("contract_id"),
                config_schema: text("config_schema"),
                ..proto::Claims::default()
            };
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
        What::SetReference { url: number, actor } => {
            let reference = OciReference {
                oci_url: url(*number),
                public_key: world().actors[*actor].clone(),
                ..OciReference::default()
            };
            let request = SetOciReferenceRequest {
                lattice,
                oci_reference: Some(reference),
                ..SetOciReferenceRequest::default()
            };
            told(gateway.references().set_oci_reference(request).await)?.result
        }
    };
    Ok(result.expect("a mutation has a result"))
}

type Answered = (Key, Shown, String);

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
        ("config_schema", claims.config_schema),
    ]);
    let sequence = claims.revision.map_or(0, |revision| revision.sequence);
    let shown = Shown { sequence, fields };
    (Key::Claims(claims.public_key), shown, claims.etag)
}

async fn compare_lists(gateway: &TestGateway, lattice: &str, picture: &Picture) -> Vec<Answered> {
    let (mut claims, mut links, mut references) = (gateway.claims(), gateway.links(), gateway.references());
    let listed = [
        list_all!(claims, list_claims, ListClaimsRequest, claims, lattice, of_claims),
        list_all!(
            links,
            list_link_definitions,
            ListLinkDefinitionsRequest,
            link_definitions,
            lattice,
            of_link
        ),
        list_all!(
            references,
            list_oci_references,
            ListOciReferencesRequest,
            oci_references,
            lattice,
            of_reference
        ),
    ]
    .concat();
    let entries = listed
        .iter()
        .map(|(key, shown, _)| (key.clone(), shown.clone()))
        .collect::<Vec<_>>();
    let expected = picture.state.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(entries, expected, "{:#?}", picture.entries);
    listed
}

async fn call(stand: &Stand, lattice: &str, gateway: usize, what: &What) {
    let gateway = &stand.gateways[gateway];
    let before = Picture::take(stand, lattice).await;
    compare_lists(gateway, lattice, &before).await;
    let answer = send(gateway, lattice, what).await;
    let after = Picture::take(stand, lattice).await;
    let context = format!("{what:?} answered {answer:?}\nbefore: {before:#?}\nafter: {after:#?}");
    let key = what.key();
    let desired = what.desired();
    let is_absent = !before.state.contains_key(&key);
    let refusals = [
        (ErrorReason::EntryNotFound, desired.is_none() && is_absent),
        // Two links can have one hash, and a reference can stand where another belongs.
        (
            ErrorReason::LinkConflict,
            desired.is_some() && before.has_other_in_place_of(&key),
        ),
    ];
    let result = match answer {
        Err(told) => {
            assert!(refusals.contains(&(told.reason, true)), "{context}");
            assert_eq!(after, before, "{context}");
            return;
        }
        Ok(result) => result,
    };
    assert!(refusals.iter().all(|(_, holds)| !holds), "{context}");
    let mut expected = before.says();
    match &desired {
        Some(desired) => drop(expected.insert(&key, desired)),
        None => drop(expected.remove(&key)),
    }
    assert_eq!(after.says(), expected, "{context}");
    let stood = before.state.get(&key).map(|shown| &shown.fields);
    match result.outcome() {
        Outcome::Applied => {}
        Outcome::Unchanged => {
            assert_eq!(after, before, "{context}");
            assert_eq!(stood, desired.as_ref(), "{context}");
            // What stands as asked stands so for every reader.
            compare_readers(
                &key,
                before.entry(&home(&key)).unwrap(),
                &before.state[&key].fields,
            );
            return;
        }
        Outcome::Unspecified | Outcome::AlreadyApplied | Outcome::Validated => panic!("{context}"),
    }
    assert_eq!(news(&after.entries, &before.entries), 1, "{context}");
    let (was, is) = (before.entry(&home(&key)), after.entry(&home(&key)).unwrap());
    match what {
        What::DeleteLink { .. } => {
            assert_eq!(
                (is.operation, &*is.body),
                (Operation::Delete, &b""[..]),
                "{context}"
            );
        }
        What::DeleteClaims { key } => {
            // From the body hosts that run know what to forget: not the alias, where it is another's too.
            assert_eq!(is.operation, Operation::Delete, "{context}");
            let alias = |fields: &Fields| fields["call_alias"].clone();
            let own = alias(stood.unwrap());
            let is_shared = !own.is_empty()
                && after
                    .state
                    .iter()
                    .any(|(key, shown)| matches!(key, Key::Claims(_)) && alias(&shown.fields) == own);
            let was = &was.unwrap().body;
            if is_shared {
                assert_eq!(alias(&claims(key, &is.body).unwrap()), "", "{context}");
                let whose = |body: &[u8]| tagged::claims(key, body).map(|(whose, _)| whose);
                // One that they refuse for a doubled member they may read now, which loses nothing.
                assert!(whose(was).is_none() || whose(&is.body) == whose(was), "{context}");
            } else {
                assert_eq!(&is.body, was, "{context}");
            }
        }
        What::PutLink { .. } | What::PutClaims { .. } | What::SetReference { .. } => {
            compare_readers(&key, is, desired.as_ref().unwrap());
            let is_long = matches!(what, What::PutClaims { .. }).then(|| is_long(&is.body));
            assert!(
                is_long.is_none_or(|is_long| is_long == lattice.starts_with(LONG)),
                "{context}"
            );
        }
    }
}

/// What a gateway wrote every reader of the era reads, and as it was meant.
fn compare_readers(key: &Key, entry: &Entry, says: &Fields) {
    let body = &*entry.body;
    match key {
        Key::Link(triple) => {
            let read = (triple.clone(), says.clone());
            assert_eq!(otp::link(body), Ok(read.clone()));
            assert_eq!(model::link(&link_hash(triple), body), Some(read));
            let by_clients = clients::links(std::slice::from_ref(entry));
            assert_eq!(by_clients.unwrap().get(triple), Some(says));
        }
        Key::Reference(url) => assert_eq!(otp::reference(body), Ok((url.clone(), says.clone()))),
        Key::Claims(key) => {
            let by_clients = clients::claims(std::slice::from_ref(entry)).unwrap();
            assert_eq!(clients::shown(&by_clients[&**key]), *says);
            let (whose, tagged) = tagged::claims(key, body).unwrap();
            match (is_long(body), is_provider(key)) {
                (true, true) => {
                    assert_eq!((whose, &tagged), (tagged::Whose::Provider, says));
                    // OTP hosts skip it, and so do 0.78 to 0.80.
                    assert_eq!(otp::claims(body), Err(otp::Trouble::Missing("call_alias")));
                }
                (true, false) => {
                    assert_eq!((whose, &tagged), (tagged::Whose::Actor, says));
                    assert_eq!(otp::claims(body).as_ref(), Ok(says));
                }
                (false, is_provider) => {
                    assert_eq!(otp::claims(body).as_ref(), Ok(says));
                    assert_eq!(flat::claims(key, body).as_ref(), Some(says));
                    assert_eq!(says["contract_id"].is_empty(), !is_provider);
                    // Whoever looks at the shape takes a provider's for an actor's, and knows no contract.
                    assert_eq!(whose, tagged::Whose::Actor);
                    for name in [
                        "issuer",
                        "name",
                        "call_alias",
                        "capabilities",
                        "tags",
                        "revision",
                        "version",
                    ] {
                        assert_eq!(tagged[name], says[name], "{name}");
                    }
                }
            }
        }
    }
}

/// Whether claims are in the long names of 0.81.
fn is_long(body: &[u8]) -> bool {
    Json::read(body).unwrap().member("issuer").is_some()
}

async fn play(stand: &Stand, (prefix, script): (&str, Vec<Step>)) {
    let lattice = &stand.lattice(prefix).await;
    for step in &script {
        match step {
            Step::Call { gateway, what } => call(stand, lattice, *gateway, what).await,
            Step::Write(write) => stand.write(&format!("{DATA}{lattice}"), write).await,
        }
    }
    let picture = Picture::take(stand, lattice).await;
    let mut told = Vec::new();
    for gateway in &stand.gateways {
        let listed = compare_lists(gateway, lattice, &picture).await;
        let description = describe(gateway, lattice).await;
        assert_eq!(malformed(&description), picture.malformed);
        told.push(listed);
    }
    assert_eq!(told[0], told[1], "both gateways tell the same etags");
    for entry in picture.entries.iter().filter(|entry| entry.is_by_gateway) {
        if let Said::Entry(key, fields) = said(entry) {
            compare_readers(&key, entry, &fields);
        }
    }
    stand.remove(lattice).await;
}

#[test]
fn reads_of_a_kv_lattice_tell_what_its_readers_hold() {
    check(Layout::Kv, 50, &(select(&["short-", LONG]), script()), play);
}

const TRIPLES: std::ops::Range<usize> = 0..4;
const URLS: std::ops::Range<usize> = 0..3;

fn claims_keys() -> Vec<String> {
    let world = world();
    world.actors.iter().chain(&world.providers).cloned().collect()
}

fn select<T: Clone + std::fmt::Debug + 'static>(items: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(items.to_vec())
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0..2_usize, what()).prop_map(|(gateway, what)| Step::Call { gateway, what }),
        1 => write().prop_map(Step::Write),
    ];
    prop::collection::vec(step, 1..14)
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        4 => (TRIPLES, 0..2_usize, select(&["1", "2"]))
            .prop_map(|(triple, provider, value)| What::PutLink { triple, provider, value }),
        2 => TRIPLES.prop_map(|triple| What::DeleteLink { triple }),
        4 => (select(&claims_keys()), select(&["", "al"]), 1..3_u8)
            .prop_map(|(key, alias, revision)| What::PutClaims { key, alias, revision }),
        2 => select(&claims_keys()).prop_map(|key| What::DeleteClaims { key }),
        2 => (URLS, 0..2_usize).prop_map(|(url, actor)| What::SetReference { url, actor }),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let marking = prop_oneof![
        8 => Just(Marking::None),
        1 => Just(Marking::Unknown),
        1 => Just(Marking::Delete),
        1 => Just(Marking::Purge),
        1 => Just(Marking::PurgeWithRollup),
    ];
    let keyed = prop_oneof![
        4 => link_write(),
        5 => claims_write(),
        3 => reference_write(),
        1 => (select(&["FOO", "LINKDEF", "CLAIMS", "claims_x", "foo.bar", "REFMAP"]), claims_body())
            .prop_map(|(key, body)| (key.to_owned(), body)),
    ];
    (keyed, marking, any::<bool>()).prop_map(|((key, body), operation, is_empty)| Write {
        key,
        body: if is_empty && operation != Marking::None {
            String::new()
        } else {
            body
        },
        operation,
    })
}

/// Changes a body at times, once, where it has what is to be changed.
fn changed(
    body: impl Strategy<Value = String>,
    changes: &'static [(&'static str, &'static str)],
) -> impl Strategy<Value = String> {
    let change = prop_oneof![1 => Just(None), 1 => select(changes).prop_map(Some)];
    (body, change).prop_map(|(body, change)| match change {
        Some((from, to)) => body.replacen(from, to, 1),
        None => body,
    })
}

fn link_write() -> impl Strategy<Value = (String, String)> {
    const CHANGES: &[(&str, &str)] = &[
        (r#""values":{"#, r#""values":{"value":"first","#),
        (r#""values":{}"#, r#""values":null"#),
        (r#""values":{}"#, r#""values":["a"]"#),
        (r#""1""#, "1"),
        (r#""1""#, "null"),
        (r#""1""#, r#"{"a":"b"}"#),
        (r#""VA""#, "7"),
        (r#""VA""#, "null"),
        (r#""provider_id":"VA","#, ""),
        (
            r#""provider_id":"VA""#,
            r#""provider_id":"VB","provider_id":"VA""#,
        ),
        (r#""actor_id":"<actor>","#, ""),
        (r#""<name>""#, "null"),
        (
            r#""link_name":"<name>""#,
            r#""link_name":"<name>","link_name":"x""#,
        ),
        (r#""<contract>""#, r#""other""#),
        (r#""deleted":false"#, r#""deleted":true"#),
        ("{", r#"{"unknown":{"a":[null]},"#),
        ("{", r#"{"unknown":1e999,"#),
        ("{", "[{"),
        ("}", ""),
    ];
    // As OTP writes it, as migrated, and as clients send it.
    let body = select(&[
        r#"{"actor_id":"<actor>","contract_id":"<contract>","id":"<hash>","link_name":"<name>","provider_id":"VA","values":{"value":"1"}}"#,
        r#"{"actor_id":"<actor>","contract_id":"<contract>","deleted":false,"id":"<hash>","link_name":"<name>","provider_id":"VA","values":{}}"#,
        r#"{"actor_id":"<actor>","provider_id":"VA","link_name":"<name>","contract_id":"<contract>","values":{"value":"1","b":""}}"#,
    ]);
    (
        0..5_usize,
        changed(body.prop_map(str::to_owned), CHANGES),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(number, body, is_elsewhere)| {
            let triple = triple(number);
            let hash = link_hash(&triple);
            let Triple {
                actor_id,
                contract_id,
                link_name,
            } = &triple;
            let body = body
                .replace("<actor>", actor_id)
                .replace("<contract>", contract_id)
                .replace("<name>", link_name)
                .replace("<hash>", &hash);
            let key = if is_elsewhere { "elsewhere" } else { &hash };
            (format!("{LINKS}{key}"), body)
        })
}

fn claims_write() -> impl Strategy<Value = (String, String)> {
    let key = prop_oneof![8 => select(&claims_keys()), 1 => select(&["a.b".to_owned(), String::new()])];
    (key, claims_body()).prop_map(|(key, body)| {
        let body = body
            .replace("<sub>", &key)
            .replace("<account>", &world().account.public_key());
        (format!("{CLAIMS}{key}"), body)
    })
}

/// Claims in every form that some host wrote, a member of them changed at times.
fn claims_body() -> impl Strategy<Value = String> {
    const FORMS: &[&str] = &[
        // OTP 0.60 to 0.63, an actor's and a provider's; migrated.
        r#"{"call_alias":"al","caps":"wasmcloud:httpserver","contract_id":"","iss":"<account>","name":"Echo","rev":"1","sub":"<sub>","tags":"a,b","version":"0.3.4"}"#,
        r#"{"call_alias":"","caps":"","contract_id":"wasmcloud:keyvalue","iss":"<account>","name":"Echo","rev":"1","sub":"<sub>","tags":"","version":"0.3.4"}"#,
        r#"{"call_alias":"al","caps":"wasmcloud:httpserver","iss":"<account>","name":"Echo","rev":"1","sub":"<sub>","tags":"a,b","version":"0.3.4"}"#,
        // 0.78 to 0.80, and OTP 0.63.2.
        r#"{"call_alias":"","caps":"","config_schema":"{\"a\":1}","contract_id":"wasmcloud:keyvalue","iss":"<account>","name":"Echo","rev":"1","sub":"<sub>","tags":"","version":"0.3.4"}"#,
        // 0.81, both shapes.
        r#"{"call_alias":"al","capabilities":["wasmcloud:httpserver"],"issuer":"<account>","name":"Echo","revision":"1","subject":"<sub>","tags":["a","b"],"version":"0.3.4"}"#,
        r#"{"contract_id":"wasmcloud:keyvalue","issuer":"<account>","name":"Echo","revision":"1","subject":"<sub>","version":"0.3.4"}"#,
        r#"{"contract_id":"wasmcloud:keyvalue","issuer":"<account>","name":"Echo","revision":"1","subject":"<sub>","version":"0.3.4","config_schema":"{\"a\":1}"}"#,
        // 1.0.
        r#"{"issuer":"<account>","name":"Echo","revision":"1","subject":"<sub>","version":"0.3.4"}"#,
    ];
    const CHANGES: &[(&str, &str)] = &[
        (r#""0.3.4""#, "null"),
        (r#""0.3.4""#, "7"),
        (r#","version":"0.3.4""#, ""),
        (r#""call_alias":"al""#, r#""call_alias":null"#),
        (r#""call_alias":"al""#, r#""call_alias":7"#),
        (r#""call_alias":"","#, r#""call_alias":[],"#),
        (r#""call_alias":"al","#, ""),
        (r#""1""#, "1"),
        (r#""Echo""#, r#"["Echo"]"#),
        (r#""name":"Echo""#, r#""name":"Echo","name":"Last""#),
        (r#""name":"Echo","#, ""),
        (r#""iss":"#, r#""issuer":"other","iss":"#),
        (r#""issuer":"#, r#""iss":"other","issuer":"#),
        (r#""tags":"a,b""#, r#""tags":["a","b"]"#),
        (r#""tags":"a,b""#, r#""tags":null"#),
        (r#"["a","b"]"#, "[1]"),
        (r#""contract_id":"wasmcloud:keyvalue""#, r#""contract_id":7"#),
        (r#""{\"a\":1}""#, "{}"),
        (r#""{\"a\":1}""#, "null"),
        ("<sub>", "other"),
        ("{", r#"{"unknown":{"a":[null]},"#),
        ("{", r#"{"unknown":1,"unknown":2,"#),
        ("{", r#"{"unknown":1e999,"#),
        ("{", "[{"),
        ("}", ""),
    ];
    changed(select(FORMS).prop_map(str::to_owned), CHANGES)
}

fn reference_write() -> impl Strategy<Value = (String, String)> {
    const CHANGES: &[(&str, &str)] = &[
        (r#""MA""#, "null"),
        (r#""MA""#, r#""MA","public_key":"MB""#),
        (r#","public_key":"MA""#, ""),
        (r#""oci_url":"#, r#""oci_url":null,"url":"#),
        ("}", ""),
    ];
    let body = Just(r#"{"oci_url":"<url>","public_key":"MA"}"#.to_owned());
    (URLS, URLS, changed(body, CHANGES), prop::bool::weighted(0.3)).prop_map(
        |(number, other, body, is_elsewhere)| {
            let place = url(if is_elsewhere { other } else { number });
            (home(&Key::Reference(place)), body.replace("<url>", &url(number)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_of_a_kv_lattice_is_read_as_its_readers_read_it(write in write(), is_marker: bool) {
        let decoded = Part::Kv.decode(&write.key, is_marker, write.body.as_bytes());
        let entry = Entry {
            sequence: 1,
            key: write.key.clone(),
            operation: if is_marker { Operation::Delete } else { Operation::Put },
            is_by_gateway: false,
            body: write.body.clone().into(),
        };
        match said(&entry) {
            Said::Nothing => {
                let is_told = match (write.key.strip_prefix(CLAIMS), write.key.starts_with(LINKS)) {
                    (Some(key), _) => super::deletes(&decoded, ["claims", key]),
                    (None, true) => decoded == Decoded::DeletedUnnamed,
                    (None, false) => decoded == Decoded::Nothing,
                };
                prop_assert!(is_told, "{:?}", decoded);
            }
            Said::Malformed => prop_assert!(matches!(decoded, Decoded::Malformed(_)), "{:?}", decoded),
            Said::Entry(key, says) => {
                let Decoded::Put { key: read_key, entry: read, .. } = decoded else {
                    return Err(TestCaseError::fail(format!("{decoded:?}")));
                };
                prop_assert_eq!(read_key.parts(), parts(&key));
                let read = match read {
                    Stored::Claims(claims) => super::stored_claims(&claims, str::to_owned),
                    Stored::LinkDefinition(link) => {
                        let values = link.values.iter();
                        let values = values.map(|(name, value)| (format!("values.{name}"), value.to_owned()));
                        let provider = ("provider_id".to_owned(), link.provider_id.to_string());
                        values.chain([provider]).collect()
                    }
                    Stored::OciReference(reference) => {
                        fields([("public_key", reference.public_key.to_string())])
                    }
                    Stored::InterfaceLink(_) | Stored::Config(_) | Stored::Component(_) => {
                        return Err(TestCaseError::fail("of later hosts alone"));
                    }
                };
                prop_assert_eq!(read, says);
            }
        }
    }
}

/// The identity as the gateway writes it in parts.
fn parts(key: &Key) -> Vec<&str> {
    match key {
        Key::Claims(key) => vec!["claims", key],
        Key::Link(triple) => vec![
            "link_definition",
            &triple.actor_id,
            &triple.contract_id,
            &triple.link_name,
        ],
        Key::Reference(url) => vec!["oci_reference", url],
    }
}
