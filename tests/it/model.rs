//! Whatever happens to a lattice, through gateways and past them: what the gateways tell is what hosts hold, every
//! answer is true, and a later migration finds nothing to revive.
//!
//! [`script`] makes up what happens, [`play`] plays it on a real nats-server with two gateways and judges every
//! answer, [`host_model`](crate::host_model) tells what hosts make of the stream.

mod play;
pub mod script;
pub mod shown;
mod stand;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use lattice_gateway::{
    domain::Entry,
    store::layout::{Decoded, cache_stream},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use self::{
    play::{Picture, Play},
    script::{Step, Uuids, script},
    shown::{Fields, Key, by_hosts, fields},
    stand::Stand,
};
use crate::{
    harness::until,
    host_model::{Bucket, Message, Migrated, Term, Triple, load, migrate},
};

/// Plays what a strategy makes up, all on one stand.
fn check<S: Strategy>(cases: u32, strategy: &S, play: impl AsyncFn(&Stand, S::Value)) {
    let runtime = Runtime::new().unwrap();
    let stand = runtime.block_on(Stand::start());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        runtime.block_on(play(&stand, value));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn reads_tell_what_hosts_hold_and_answers_are_true() {
    check(28, &script(), async |stand, script| {
        let mut play = Play::begin(stand, &stand.idle, Uuids::Reused).await;
        play.play(&script).await;
        play.compare(&stand.idle).await;
        stand.remove(&play.lattice).await;
    });
}

#[test]
fn the_sweep_removes_what_a_migration_would_revive_and_nothing_else() {
    let scripts = prop::collection::vec((any::<bool>(), script()), 5..8);
    check(5, &scripts, async |stand, scripts| {
        join_all(
            scripts
                .iter()
                .map(|(meanwhile, script)| sweep(stand, *meanwhile, script)),
        )
        .await;
    });
}

/// Sweeps meanwhile, beside hosts as they are, or afterwards, beside anything.
async fn sweep(stand: &Stand, meanwhile: bool, script: &[Step]) {
    let (gateways, uuids) = match meanwhile {
        true => (&stand.sweeping, Uuids::Kept),
        false => (&stand.idle, Uuids::Reused),
    };
    let mut play = Play::begin(stand, gateways, uuids).await;
    play.play(script).await;
    if !meanwhile {
        play.compare(&stand.idle).await;
    }
    let before = play.compare(&stand.sweeping).await;
    let removable = before.removable(&play.lattice);
    let kept = before
        .messages
        .iter()
        .filter(|message| !removable.contains(&message.sequence));
    let kept = kept.cloned().collect::<Vec<_>>();
    until("what may be removed is gone", async || {
        (stand.count(&play.lattice).await <= kept.len()).then_some(())
    })
    .await;

    if !meanwhile {
        play.compare(&stand.idle).await;
    }
    let after = play.compare(&stand.sweeping).await;
    assert_eq!(after.messages, kept, "what is left");
    assert_eq!(after.state, before.state, "what hosts hold");
    compare_migration(&play.lattice, &after);
    stand.remove(&play.lattice).await;
}

/// A migration gives the links that hosts hold, and those whose home message was beaten by a foreign tombstone less
/// than 10 minutes ago. Of links that it gives one id it keeps the last.
fn compare_migration(lattice: &str, picture: &Picture) {
    // What no host can use is told in `GetLattice`, and not the gateway's to remove.
    let troubles = &picture.cache.troubles;
    let usable = picture
        .messages
        .iter()
        .filter(|message| !troubles.contains_key(&message.sequence));
    let usable = usable.cloned().collect::<Vec<_>>();
    let bucket = migrate(&usable);
    assert_eq!(bucket.crashes, BTreeMap::new());

    let mut expected = BTreeMap::<String, (u64, Triple)>::new();
    let standing = picture
        .cache
        .links
        .iter()
        .map(|(triple, link)| (triple, link.sequence));
    let revived = picture.cache.removed.keys().filter_map(|triple| {
        let home = format!("lc.{lattice}.{}", Key::Link(triple.clone()).home());
        let message = usable.iter().find(|message| message.subject == home)?;
        let is_put = load(std::slice::from_ref(message)).links.contains_key(triple);
        is_put.then_some((triple, message.sequence))
    });
    for (triple, sequence) in standing.chain(revived) {
        let migrated = (sequence, triple.clone());
        let last = expected
            .entry(triple.migrated_id())
            .or_insert_with(|| migrated.clone());
        *last = migrated.max(last.clone());
    }
    assert_eq!(links_of(&bucket), expected);
    for (
        id,
        Migrated {
            sequence,
            triple,
            members,
        },
    ) in &bucket.links
    {
        assert_eq!(members.get("id"), Some(&Term::Text(id.clone())));
        if let Some(link) = picture
            .cache
            .links
            .get(triple)
            .filter(|link| link.sequence == *sequence)
        {
            assert_eq!(members.get("values"), Some(&link.values));
            assert_eq!(members.get("provider_id"), Some(&link.provider_id));
        }
    }
}

fn links_of(bucket: &Bucket) -> BTreeMap<String, (u64, Triple)> {
    let links = bucket.links.iter();
    links
        .map(|(id, migrated)| (id.clone(), (migrated.sequence, migrated.triple.clone())))
        .collect()
}

proptest! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_message_is_read_as_hosts_read_it((tokens, body) in any_message()) {
        let message = Message {
            sequence: 1,
            subject: format!("lc.default.{tokens}"),
            body: body.clone().into(),
        };
        let cache = load(std::slice::from_ref(&message));
        match cache_stream::decode(&tokens, body.as_bytes()) {
            Decoded::DeletedUnnamed | Decoded::Nothing => prop_assert!(false, "of a bucket alone"),
            Decoded::Malformed(reason) => prop_assert!(!cache.troubles.is_empty(), "{reason}"),
            Decoded::Deleted { key, .. } => {
                prop_assert!(cache.troubles.is_empty(), "{:?}", cache.troubles);
                let removed = cache.removed.keys().map(|triple| parts(&Key::Link(triple.clone())));
                prop_assert_eq!(removed.collect::<Vec<_>>(), [key.parts().join("\n")]);
            }
            Decoded::Put { key, entry, .. } => {
                prop_assert!(cache.troubles.is_empty(), "{:?}", cache.troubles);
                let state = by_hosts(&cache).into_iter();
                let state = state.map(|(key, shown)| (parts(&key), shown.fields));
                prop_assert_eq!(state.collect::<Vec<_>>(), [(key.parts().join("\n"), fields_of(&entry))]);
            }
        }
    }
}

/// The identity as the gateway writes it in parts.
fn parts(key: &Key) -> String {
    match key {
        Key::Claims(key) => ["claims", key].join("\n"),
        Key::Link(triple) => {
            let Triple {
                actor_id,
                contract_id,
                link_name,
            } = triple;
            ["link_definition", actor_id, contract_id, link_name].join("\n")
        }
        Key::Reference(url) => ["oci_reference", url].join("\n"),
    }
}

fn fields_of(entry: &Entry) -> Fields {
    match entry {
        Entry::Claims(claims) => fields([
            ("issuer", claims.issuer.to_string()),
            ("name", claims.name.to_string()),
            ("call_alias", claims.call_alias.to_string()),
            ("capabilities", claims.capabilities.to_string()),
            ("tags", claims.tags.to_string()),
            ("revision", claims.revision.to_string()),
            (
                "version",
                claims.version.as_deref().unwrap_or_default().to_owned(),
            ),
        ]),
        Entry::LinkDefinition(link) => {
            let mut fields = fields([("provider_id", link.provider_id.to_string())]);
            let values = link.values.iter();
            fields.extend(values.map(|(name, value)| (format!("values.{name}"), value.to_owned())));
            fields
        }
        Entry::OciReference(reference) => fields([("public_key", reference.public_key.to_string())]),
        Entry::InterfaceLink(_) | Entry::Config(_) | Entry::Component(_) => {
            unreachable!("of later hosts alone")
        }
    }
}

/// A message of any of the three kinds, or nearly: most members, in any order, a few again with another value.
fn any_message() -> impl Strategy<Value = (String, String)> {
    const OFTEN: [&str; 11] = [
        "provider_id",
        "values",
        "actor_id",
        "contract_id",
        "link_name",
        "deleted",
        "call_alias",
        "iss",
        "caps",
        "oci_url",
        "public_key",
    ];
    let tokens = prop::sample::select(vec![
        "linkdefs.x",
        "linkdefs.x",
        "claims.M",
        "refmap.x",
        "other.x",
        "linkdefs.x.y",
    ]);
    let often = OFTEN.map(|name| prop::option::weighted(0.95, member(name)));
    let members = often.prop_map(|often| often.into_iter().flatten().collect::<Vec<_>>());
    let again = prop::sample::select(&OFTEN[..]).prop_flat_map(member);
    let again = prop::collection::vec(again, 0..3);
    (tokens, members.prop_shuffle(), again).prop_map(|(tokens, members, again)| {
        let body = format!("{{{}}}", [members, again].concat().join(","));
        (tokens.to_owned(), body)
    })
}

fn member(name: &'static str) -> impl Strategy<Value = String> {
    let text = vec![r#""M""#, r#""default""#, r#""""#, r#""\ud83d\ude00""#];
    let no_json = ["1e400", "01", r#""\ud800""#];
    let other = match name {
        "call_alias" => vec!["null"],
        _other => vec![
            "null",
            "true",
            "false",
            "7",
            "-2.5",
            "[]",
            "{}",
            r#"{"a":"b","a":"c"}"#,
        ],
    };
    let value = prop_oneof![
        50 => prop::sample::select(text),
        20 => prop::sample::select(other),
        1 => prop::sample::select(no_json.to_vec()),
    ];
    value.prop_map(move |value| format!(r#""{name}":{value}"#))
}
