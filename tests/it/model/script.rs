//! What may happen to a lattice, over so few keys that it collides.

use std::{sync::LazyLock, time::Duration};

use nkeys::{KeyPair, KeyPairType};
use proptest::{prelude::*, sample::Index};
use serde_json::json;

use super::shown::{Fields, Key, fields};
use crate::{harness::keys, host_model::Triple};

/// The keys of all lattices.
pub struct World {
    /// The last has claims from foreign messages alone.
    pub actors: [String; 3],
    pub providers: [String; 2],
    pub account: KeyPair,
}

pub fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| {
        let pair = |kind, seed| KeyPair::new_from_raw(kind, [seed; 32]).unwrap();
        World {
            actors: [1, 2, 3].map(|seed| pair(KeyPairType::Module, seed).public_key()),
            providers: [4, 5].map(|seed| pair(KeyPairType::Service, seed).public_key()),
            account: pair(KeyPairType::Account, 6),
        }
    });
    &WORLD
}

/// Actor, contract and name. A migration gives the first two one id. A gateway cannot put the last.
const TRIPLES: [(usize, &str, &str); 5] = [
    (0, "wasmcloud:http", "serverdefault"),
    (0, "wasmcloud:httpserver", "default"),
    (1, "wasmcloud:httpserver", "default"),
    (1, "wasmcloud:keyvalue", "backup"),
    (0, "wasmcloud:keyvalue", ""),
];
const URLS: [&str; 3] = [
    "echo",
    "registry.example/echo:0.3.4",
    "bindle://example.com/echo/1.0.0",
];
const UUIDS: [&str; 3] = [
    "fb30deff-bbe7-4a28-a525-e53ebd4e8228",
    "0d3cc1a6-3cbf-4a0f-8a36-1f8f1a9c1a01",
    "7e9f2c1b-64b0-4f0c-9f0e-2b6f0a3d5c77",
];

pub fn triple(number: usize) -> Triple {
    let (actor, contract_id, link_name) = TRIPLES[number];
    Triple {
        actor_id: world().actors[actor].clone(),
        contract_id: contract_id.to_owned(),
        link_name: link_name.to_owned(),
    }
}

pub fn url(number: usize) -> String {
    URLS[number].to_owned()
}

/// Every key that anything here writes and a read can name.
pub fn addressable_keys() -> Vec<Key> {
    let links = (0..TRIPLES.len()).map(|number| Key::Link(triple(number)));
    links
        .filter(|key| !matches!(key, Key::Link(triple) if triple.link_name.is_empty()))
        .chain(world().actors.iter().cloned().map(Key::Claims))
        .chain((0..URLS.len()).map(|number| Key::Reference(url(number))))
        .collect()
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A mutation through one of the gateways.
    Call {
        gateway: usize,
        what: What,
        terms: Terms,
        /// Whether the gateway reads the entry afresh before, so that it cannot lag behind a host.
        is_fresh: bool,
    },
    /// An earlier mutation with an id comes again as it was, through any gateway.
    Retry {
        which: Index,
        gateway: usize,
        retry_age: Option<Duration>,
    },
    /// Somebody publishes without a gateway.
    Foreign(Foreign),
}

/// What a mutation is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    PutLink {
        triple: usize,
        provider: usize,
        value: &'static str,
    },
    DeleteLink {
        triple: usize,
        allow_missing: bool,
    },
    PutClaims {
        actor: usize,
        revision: u8,
        is_signed: bool,
    },
    SetReference {
        url: usize,
        actor: usize,
    },
}

/// On which terms, before it is known how the lattice stands.
#[derive(Clone, Debug)]
pub struct Terms {
    pub request_id: Option<u8>,
    pub retry_age: Option<Duration>,
    pub condition: Wish,
    pub is_dry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    MustExist,
    MustNotExist,
    CurrentEtag,
    OldEtag,
}

impl What {
    pub fn key(&self) -> Key {
        match self {
            Self::PutLink { triple: number, .. } | Self::DeleteLink { triple: number, .. } => {
                Key::Link(triple(*number))
            }
            Self::PutClaims { actor, .. } => Key::Claims(world().actors[*actor].clone()),
            Self::SetReference { url: number, .. } => Key::Reference(url(*number)),
        }
    }

    /// What the entry shall say; `None` for a delete.
    pub fn desired(&self) -> Option<Fields> {
        match self {
            Self::PutLink { provider, value, .. } => Some(fields([
                ("provider_id", world().providers[*provider].clone()),
                ("values.value", (*value).to_owned()),
            ])),
            Self::DeleteLink { .. } => None,
            Self::PutClaims {
                revision, is_signed, ..
            } => Some(fields([
                ("issuer", world().account.public_key()),
                ("name", name_of(*is_signed).to_owned()),
                ("call_alias", "echo".to_owned()),
                ("capabilities", "wasmcloud:httpserver".to_owned()),
                ("tags", "a,b".to_owned()),
                ("revision", revision.to_string()),
                ("version", "0.3.4".to_owned()),
            ])),
            Self::SetReference { actor, .. } => {
                Some(fields([("public_key", world().actors[*actor].clone())]))
            }
        }
    }
}

pub fn name_of(is_signed: bool) -> &'static str {
    match is_signed {
        true => "Signed",
        false => "Unsigned",
    }
}

/// The token that signs an actor's claims. The same each time, as the retry of a put is.
pub fn token(actor: usize, revision: u8) -> String {
    let changes = json!({
        "sub": world().actors[actor],
        "wascap": {
            "name": name_of(true), "hash": "00", "tags": ["a", "b"], "caps": ["wasmcloud:httpserver"],
            "rev": revision, "ver": "0.3.4", "call_alias": "echo", "prov": false,
        },
    });
    keys::actor_token(&world().account, changes).0
}

/// What somebody publishes without a gateway.
#[derive(Clone, Debug)]
pub enum Foreign {
    Link {
        place: Place,
        triple: usize,
        provider: usize,
        values: Values,
        deleted: Deleted,
    },
    Claims {
        actor: usize,
        form: ClaimsForm,
    },
    Reference {
        url: usize,
        actor: usize,
        place: ReferencePlace,
    },
    /// One of [`unusable`].
    Unusable(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// As hosts do.
    Uuid(usize),
    /// Where the gateway keeps the link.
    Home,
}

#[derive(Clone, Copy, Debug)]
pub enum ReferencePlace {
    /// Where hosts keep it, and the gateway too.
    Encoded,
    Elsewhere,
}

#[derive(Clone, Copy, Debug)]
pub enum Values {
    Text(&'static str),
    Doubled(&'static str),
    /// No text, such as hosts keep too.
    Other(&'static str),
    Null,
    Empty,
}

#[derive(Clone, Copy, Debug)]
pub enum Deleted {
    No,
    Yes,
    Absent,
    Null,
    YesThenNo,
    NoThenYes,
    /// The text `"true"`.
    Text,
}

#[derive(Clone, Copy, Debug)]
pub enum ClaimsForm {
    Usual,
    NullVersion,
    NullAlias,
    NumberRevision,
    DoubledName,
    /// As wasmcloud-js publishes them (`src/actor.ts`, 2021): without `caps` and `version` where unknown.
    Scarce,
}

/// Whether a random subject may come to hold another link. With hosts it never does, and only then nothing that a
/// gateway has not noticed to be swept can ever count again.
#[derive(Clone, Copy, Debug)]
pub enum Uuids {
    Reused,
    Kept,
}

impl Foreign {
    /// The subject behind the lattice, and the body.
    pub fn message(&self, uuids: Uuids) -> (String, String) {
        match self {
            Self::Link {
                place,
                triple: number,
                provider,
                values,
                deleted,
            } => {
                let key = Key::Link(triple(*number));
                let tokens = match (place, uuids) {
                    (Place::Uuid(place), Uuids::Reused) => format!("linkdefs.{}", UUIDS[*place]),
                    (Place::Uuid(place), Uuids::Kept) => format!("linkdefs.{}-{number}", UUIDS[*place]),
                    (Place::Home, Uuids::Reused | Uuids::Kept) => key.home(),
                };
                let provider = &world().providers[*provider];
                (tokens, link_body(&triple(*number), provider, *values, *deleted))
            }
            Self::Claims { actor, form } => {
                let key = &world().actors[*actor];
                (format!("claims.{key}"), claims_body(key, *form))
            }
            Self::Reference {
                url: number,
                actor,
                place,
            } => {
                let tokens = match place {
                    ReferencePlace::Encoded => Key::Reference(url(*number)).home(),
                    ReferencePlace::Elsewhere => "refmap.elsewhere".to_owned(),
                };
                let body = json!({"oci_url": url(*number), "public_key": world().actors[*actor]});
                (tokens, body.to_string())
            }
            Self::Unusable(number) => unusable().swap_remove(*number),
        }
    }
}

fn link_body(triple: &Triple, provider: &str, values: Values, deleted: Deleted) -> String {
    let values = match values {
        Values::Text(value) => format!(r#"{{"value":"{value}"}}"#),
        Values::Doubled(value) => format!(r#"{{"value":"{value}","value":"last"}}"#),
        Values::Other(json) => format!(r#"{{"value":{json}}}"#),
        Values::Null => "null".to_owned(),
        Values::Empty => "{}".to_owned(),
    };
    let deleted = match deleted {
        Deleted::No => r#""deleted":false,"#,
        Deleted::Yes => r#""deleted":true,"#,
        Deleted::Absent => "",
        Deleted::Null => r#""deleted":null,"#,
        Deleted::YesThenNo => r#""deleted":true,"deleted":false,"#,
        Deleted::NoThenYes => r#""deleted":false,"deleted":true,"#,
        Deleted::Text => r#""deleted":"true","#,
    };
    let Triple {
        actor_id,
        contract_id,
        link_name,
    } = triple;
    format!(
        r#"{{"actor_id":"{actor_id}","contract_id":"{contract_id}",{deleted}"id":"x","link_name":"{link_name}","provider_id":"{provider}","values":{values}}}"#
    )
}

fn claims_body(key: &str, form: ClaimsForm) -> String {
    let issuer = world().account.public_key();
    let (alias, name, rev, others) = match form {
        ClaimsForm::Usual => (
            r#""echo""#,
            r#""name":"Host""#,
            r#""4""#,
            r#","caps":"a,b","version":"1""#,
        ),
        ClaimsForm::NullVersion => (
            r#""""#,
            r#""name":"Host""#,
            r#""4""#,
            r#","caps":"","version":null"#,
        ),
        ClaimsForm::NullAlias => (
            "null",
            r#""name":"Host""#,
            r#""4""#,
            r#","caps":"","version":"1""#,
        ),
        ClaimsForm::NumberRevision => (r#""""#, r#""name":"Host""#, "7", r#","caps":"","version":"1""#),
        ClaimsForm::DoubledName => (
            r#""""#,
            r#""name":"Host","name":"Last""#,
            r#""4""#,
            r#","caps":"a""#,
        ),
        ClaimsForm::Scarce => (r#""""#, r#""name":"Host""#, r#""1""#, ""),
    };
    format!(r#"{{"call_alias":{alias},"iss":"{issuer}",{name},"rev":{rev},"sub":"{key}","tags":""{others}}}"#)
}

/// What no host can use, or expects.
pub fn unusable() -> Vec<(String, String)> {
    let whole = link_body(&triple(2), &world().providers[0], Values::Text("a"), Deleted::No);
    let without = |member: &str| {
        let mut body: serde_json::Value = serde_json::from_str(&whole).unwrap();
        body.as_object_mut().unwrap().remove(member).unwrap();
        body.to_string()
    };
    let on_uuid = |body: String| (format!("linkdefs.{}", UUIDS[0]), body);
    let long_name = format!(r#"{{"{}":"x"}}"#, "k".repeat(256));
    let claims = claims_body(&world().actors[2], ClaimsForm::Usual);
    vec![
        on_uuid(String::new()),
        on_uuid(whole.replacen('{', "", 1)),
        on_uuid(format!("[{whole}]")),
        on_uuid(without("actor_id")),
        on_uuid(without("link_name")),
        on_uuid(without("provider_id")),
        on_uuid(without("values")),
        on_uuid(whole.replace(r#"{"value":"a"}"#, &long_name)),
        (format!("linkdefs.{}.more", UUIDS[1]), whole.clone()),
        ("linkdefs".to_owned(), whole.clone()),
        (
            "ocimap.ZWNobw".to_owned(),
            r#"{"oci_url":"echo","public_key":"M"}"#.to_owned(),
        ),
        (
            "refmap.ZWNobw".to_owned() + "x",
            r#"{"oci_url":"echo"}"#.to_owned(),
        ),
        (
            format!("claims.{}", world().actors[2]),
            claims.replace("call_alias", "callalias"),
        ),
        (format!("claims.{}", world().actors[2]), "{".to_owned()),
    ]
}

/// Something of everything.
pub fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (gateway(), what(), terms(), any::<bool>()).prop_map(|(gateway, what, terms, is_fresh)| {
            Step::Call { gateway, what, terms, is_fresh }
        }),
        3 => (any::<Index>(), gateway(), retry_age()).prop_map(|(which, gateway, retry_age)| {
            Step::Retry { which, gateway, retry_age }
        }),
        5 => foreign().prop_map(Step::Foreign),
    ];
    prop::collection::vec(step, 1..32)
}

fn gateway() -> impl Strategy<Value = usize> {
    0..2_usize
}

/// Of the links that a gateway can put; the first much more often.
fn put_triple() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 0, 0, 0, 1, 1, 2, 3])
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b"])
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        6 => (put_triple(), 0..2_usize, value())
            .prop_map(|(triple, provider, value)| What::PutLink { triple, provider, value }),
        3 => (put_triple(), any::<bool>())
            .prop_map(|(triple, allow_missing)| What::DeleteLink { triple, allow_missing }),
        2 => (0..2_usize, 1..3_u8, any::<bool>())
            .prop_map(|(actor, revision, is_signed)| What::PutClaims { actor, revision, is_signed }),
        1 => (0..3_usize, 0..2_usize).prop_map(|(url, actor)| What::SetReference { url, actor }),
    ]
}

fn retry_age() -> impl Strategy<Value = Option<Duration>> {
    let seconds = prop::sample::select(vec![0, 1, 30, 600]);
    prop::option::weighted(0.6, seconds.prop_map(Duration::from_secs))
}

fn terms() -> impl Strategy<Value = Terms> {
    let wishes = vec![
        Wish::Nothing,
        Wish::Nothing,
        Wish::Nothing,
        Wish::MustExist,
        Wish::MustNotExist,
        Wish::CurrentEtag,
        Wish::OldEtag,
    ];
    let request_id = prop::option::weighted(0.6, 0..3_u8);
    (
        request_id,
        retry_age(),
        prop::sample::select(wishes),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(request_id, retry_age, condition, is_dry)| Terms {
            request_id,
            // A call without an id of its own is no retry.
            retry_age: request_id.and(retry_age),
            condition,
            is_dry,
        })
}

fn foreign() -> impl Strategy<Value = Foreign> {
    let triple = prop_oneof![7 => put_triple(), 1 => Just(4)];
    let place = prop_oneof![3 => (0..3_usize).prop_map(Place::Uuid), 2 => Just(Place::Home)];
    let values = prop_oneof![
        4 => value().prop_map(Values::Text),
        1 => value().prop_map(Values::Doubled),
        1 => prop::sample::select(vec!["7", "true", "null"]).prop_map(Values::Other),
        1 => Just(Values::Null),
        1 => Just(Values::Empty),
    ];
    let deleted = prop::sample::select(vec![
        Deleted::No,
        Deleted::No,
        Deleted::No,
        Deleted::Yes,
        Deleted::Yes,
        Deleted::Absent,
        Deleted::Null,
        Deleted::YesThenNo,
        Deleted::NoThenYes,
        Deleted::Text,
    ]);
    let form = prop::sample::select(vec![
        ClaimsForm::Usual,
        ClaimsForm::NullVersion,
        ClaimsForm::NullAlias,
        ClaimsForm::NumberRevision,
        ClaimsForm::DoubledName,
        ClaimsForm::Scarce,
    ]);
    let reference_place = prop::sample::select(vec![ReferencePlace::Encoded, ReferencePlace::Elsewhere]);
    prop_oneof![
        8 => (place, triple, 0..2_usize, values, deleted).prop_map(
            |(place, triple, provider, values, deleted)| Foreign::Link { place, triple, provider, values, deleted }
        ),
        1 => (0..3_usize, form).prop_map(|(actor, form)| Foreign::Claims { actor, form }),
        1 => (0..3_usize, 0..2_usize, reference_place)
            .prop_map(|(url, actor, place)| Foreign::Reference { url, actor, place }),
        2 => (0..unusable().len()).prop_map(Foreign::Unusable),
    ]
}
