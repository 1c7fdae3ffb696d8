//! Watches: every promise of `watch_service.proto`. The client's view is folded and checked message by message in
//! `harness/view.rs`, and compared with what the gateway and the stream hold.

mod breaks;
mod endings;

use futures_util::future::join_all;
use lattice_gateway::{
    control::lattices::Layout,
    proto::{
        DeleteLinkDefinitionRequest, Entry, EntryIdentity, EntryKind, ErrorReason, InterfaceLink,
        LinkDefinition, LinkDefinitionIdentity, ListLinkDefinitionsRequest, NamedConfigIdentity,
        OciReferenceIdentity, Revision, WatchRequest, entry, entry_identity::Identity,
    },
};
use serde_json::{Value, json};

use crate::harness::{
    Bucket, Nats, TestGateway,
    api::{self, ACTOR, PROVIDER},
    interface_link, keys, link, named_config, put_config, put_interface_link, put_link, told, until,
    view::View,
    watch::watch_all,
};

/// The identity of the link between two.
fn link_of(actor: &str) -> Identity {
    Identity::LinkDefinition(LinkDefinitionIdentity {
        actor_id: actor.to_owned(),
        contract_id: "wasmcloud:keyvalue".to_owned(),
        link_name: "default".to_owned(),
    })
}

/// The value of an actor's link, where the view has it.
fn value_of(view: &View, actor: &str) -> Option<String> {
    as_link(view.get(link_of(actor))?)?.values.remove("value")
}

fn as_link(entry: &Entry) -> Option<LinkDefinition> {
    if let entry::Entry::LinkDefinition(link) = entry.entry.clone()? {
        return Some(link);
    }
    None
}

fn delete(actor: &str) -> DeleteLinkDefinitionRequest {
    DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.to_owned()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..DeleteLinkDefinitionRequest::default()
    }
}

/// The links of a view.
fn links(view: &View) -> Vec<LinkDefinition> {
    let mut links = view.entries().filter_map(as_link).collect::<Vec<_>>();
    links.sort_by(|one, other| one.actor_id.cmp(&other.actor_id));
    links
}

/// The links that a list tells.
async fn listed(gateway: &TestGateway) -> (Vec<LinkDefinition>, Revision) {
    let request = ListLinkDefinitionsRequest {
        lattice: "default".into(),
        page_size: 1_000,
        ..ListLinkDefinitionsRequest::default()
    };
    let page = told(gateway.links().list_link_definitions(request).await).unwrap();
    assert_eq!(page.next_page_token, "");
    (page.link_definitions, page.revision.unwrap())
}

#[tokio::test]
async fn what_stands_comes_first_and_then_every_change() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let [one, two] = [keys::actor(), keys::actor()];
    gateway
        .put(put_link(link(&one, PROVIDER, "first")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    assert_eq!(value_of(&watching.view, &one).as_deref(), Some("first"));

    gateway
        .put(put_link(link(&one, PROVIDER, "second")))
        .await
        .unwrap();
    watching
        .until("the second value", |view| {
            value_of(view, &one).as_deref() == Some("second")
        })
        .await;
    gateway
        .put(put_link(link(&two, PROVIDER, "other")))
        .await
        .unwrap();
    watching
        .until("the other link", |view| value_of(view, &two).is_some())
        .await;
    told(gateway.links().delete_link_definition(delete(&one)).await).unwrap();
    watching
        .until("the delete", |view| value_of(view, &one).is_none())
        .await;
    assert_eq!(links(&watching.view), listed(&gateway).await.0);
    assert_eq!(watching.view.resyncs, []);
}

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_while_the_lattice_changes() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let actors = (0..600).map(|_| keys::actor()).collect::<Vec<_>>();
    let put = |actor: &str, value: &str| {
        let mut put = put_link(link(actor, PROVIDER, value));
        let values = &mut put.link_definition.as_mut().unwrap().values;
        values.insert("padding".to_owned(), "x".repeat(1_000));
        gateway.put(put)
    };
    for answer in join_all(actors.iter().map(|actor| put(actor, "before"))).await {
        answer.unwrap();
    }
    let mut watching = gateway.watch(watch_all()).await.unwrap();
    watching.next().await.unwrap();
    let told_at_first = watching.view.entries().len();
    assert!((1..600).contains(&told_at_first), "{told_at_first}");
    for answer in join_all(actors.iter().step_by(3).map(|actor| put(actor, "meanwhile"))).await {
        answer.unwrap();
    }
    told(gateway.links().delete_link_definition(delete(&actors[0])).await).unwrap();
    watching.until("the view stands", |view| view.is_consistent).await;
    watching
        .until("all of it", |view| {
            value_of(view, &actors[0]).is_none() && view.is_consistent
        })
        .await;
    assert_eq!(links(&watching.view), listed(&gateway).await.0);
}

#[tokio::test]
async fn behind_a_snapshot_of_two_streams_the_view_is_whole_once_both_are_told() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let put_configs = |value: &str| {
        let value = format!("{value}{}", "x".repeat(32_000));
        let configs = (0..200).map(|number| named_config(&format!("config-{number}"), &value));
        let puts = configs.map(|config| gateway.put_config(put_config(config)));
        join_all(puts.collect::<Vec<_>>())
    };
    for answer in put_configs("before").await {
        answer.unwrap();
    }
    let put_link = async |name: &str| {
        let link = InterfaceLink {
            name: name.to_owned(),
            ..interface_link("hello")
        };
        gateway
            .put_interface_link(put_interface_link(link))
            .await
            .unwrap();
    };
    put_link("first").await;
    let mut watching = gateway.watch(watch_all()).await.unwrap();
    watching.next().await.unwrap();
    // Of the snapshot more is still to come than the client's window takes. Both streams change, and the rest says so.
    put_link("second").await;
    for answer in put_configs("meanwhile").await {
        answer.unwrap();
    }
    watching.until("the view stands", |view| view.is_consistent).await;
    let says_so = |entry: &Entry| match &entry.entry {
        Some(entry::Entry::NamedConfig(config)) => config.values["value"].starts_with("meanwhile"),
        _ => true,
    };
    assert_eq!(watching.view.entries().len(), 202);
    assert!(
        watching.view.entries().all(says_so),
        "whole once it is said to be"
    );
    put_link("third").await;
    watching
        .until("a change", |view| {
            view.is_consistent && view.entries().len() == 203
        })
        .await;
}

#[tokio::test]
async fn what_a_watch_missed_of_its_snapshot_is_told_once_whatever_others_were_told_from_there() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut actors = (0..400).map(|_| keys::actor()).collect::<Vec<_>>();
    actors.sort();
    let put = async |actor: &str, value: &str| {
        let mut put = put_link(link(actor, PROVIDER, value));
        let values = &mut put.link_definition.as_mut().unwrap().values;
        values.insert("padding".to_owned(), "x".repeat(16_000));
        gateway.put(put).await.unwrap();
    };
    join_all(actors.iter().map(|actor| put(actor, "before"))).await;
    let [mut quick, mut slow] = [
        gateway.watch(watch_all()).await.unwrap(),
        gateway.watch(watch_all()).await.unwrap(),
    ];
    slow.next().await.unwrap();
    quick.until("the view stands", |view| view.is_consistent).await;
    let [first, .., last] = &*actors else {
        unreachable!("there are hundreds");
    };
    put(first, "meanwhile").await;
    let has = |view: &View, actor: &str| value_of(view, actor).as_deref() == Some("meanwhile");
    quick.until("the change", |view| has(view, first)).await;
    // Of the slow one's snapshot more is still to come than its window takes, this one at its end.
    put(last, "meanwhile").await;
    slow.until("the view stands", |view| view.is_consistent).await;
    assert!(has(&slow.view, first) && has(&slow.view, last));
    put(first, "afterwards").await;
    slow.until("a change", |view| {
        value_of(view, first).as_deref() == Some("afterwards")
    })
    .await;
}

#[tokio::test]
async fn what_is_told_in_part_is_told_to_its_end_before_another_stream() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let value = "x".repeat(32_000);
    let first = put_config(named_config("config-0", "the lattice is made"));
    gateway.put_config(first).await.unwrap();
    let mut watching = gateway.watch(watch_all()).await.unwrap();
    watching.until("what stands", |view| view.is_consistent).await;
    // More than the client's window takes: what comes behind it is told in parts.
    let configs = (0..300).map(|number| named_config(&format!("config-{number}"), &value));
    let puts = configs.map(async |config| {
        let put = put_config(config);
        until("it is put", async || {
            match gateway.put_config(put.clone()).await {
                // So many at once may be more than the stream takes on a busy machine.
                Err(told) if told.reason == ErrorReason::BackendUnavailable => None,
                answer => Some(answer.unwrap()),
            }
        })
        .await;
    });
    join_all(puts.collect::<Vec<_>>()).await;
    watching
        .until("a part of the rest", |view| {
            !view.is_consistent && view.entries().len() > 150
        })
        .await;
    gateway
        .put_interface_link(put_interface_link(interface_link("hello")))
        .await
        .unwrap();
    watching.until("the view stands", |view| view.is_consistent).await;
    assert!(
        watching.view.entries().len() >= 300,
        "whole once it is said to be"
    );
    watching
        .until("the link", |view| {
            view.is_consistent && view.entries().len() == 301
        })
        .await;
}

#[tokio::test]
async fn many_writers_and_watches_end_with_one_view() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let actors = (0..20).map(|_| keys::actor()).collect::<Vec<_>>();
    gateway
        .put(put_link(link(&actors[0], PROVIDER, "first")))
        .await
        .unwrap();
    let mut watches = join_all((0..30).map(|_| gateway.watch_from_now(watch_all()))).await;
    let writes = actors.iter().map(async |actor| {
        for number in 0..25 {
            let value = number.to_string();
            gateway
                .put(put_link(link(actor, PROVIDER, &value)))
                .await
                .unwrap();
            if number % 5 == 4 {
                told(gateway.links().delete_link_definition(delete(actor)).await).unwrap();
            }
        }
        gateway
            .put(put_link(link(actor, PROVIDER, "last")))
            .await
            .unwrap();
    });
    let following = watches.iter_mut().map(async |watching| {
        let all_last = |view: &View| {
            let is_last = |actor| value_of(view, actor).as_deref() == Some("last");
            actors.iter().all(|actor| is_last(actor))
        };
        watching.until("the last values", all_last).await;
    });
    let (_, _) = tokio::join!(join_all(writes), join_all(following));
    let (expected, _) = listed(&gateway).await;
    for watching in &watches {
        assert_eq!(links(&watching.view), expected);
        assert_eq!(watching.view.resyncs, []);
    }
    let consumers = nats.consumers("LATTICECACHE_default").await;
    assert_eq!(consumers.len(), 1, "{consumers:?}");
    assert!(gateway.metrics().await.contains("lattice_gateway_watches 30"));
    drop(watches);
    until("the watches are gone", async || {
        gateway
            .metrics()
            .await
            .contains("lattice_gateway_watches 0")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_tells_what_it_was_asked_for_and_nothing_else() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let other = keys::actor();
    let narrowed = WatchRequest {
        filters: vec![EntryIdentity {
            identity: Some(Identity::LinkDefinition(LinkDefinitionIdentity {
                actor_id: ACTOR.to_owned(),
                ..LinkDefinitionIdentity::default()
            })),
        }],
        ..watch_all()
    };
    let references = WatchRequest {
        kinds: vec![EntryKind::OciReference.into()],
        ..watch_all()
    };
    let both = WatchRequest {
        kinds: vec![EntryKind::LinkDefinition.into(), EntryKind::OciReference.into()],
        filters: narrowed.filters.clone(),
        ..watch_all()
    };
    gateway
        .put(put_link(link(&other, PROVIDER, "before")))
        .await
        .unwrap();
    let requests = [narrowed, references, both, watch_all()];
    let mut watches = join_all(requests.map(|request| gateway.watch_from_now(request))).await;
    let set = api::valid_request("OciReferenceService/SetOciReference", "default");
    gateway
        .call("OciReferenceService/SetOciReference", set)
        .await
        .unwrap();
    gateway
        .put(put_link(link(&other, PROVIDER, "after")))
        .await
        .unwrap();
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "mine")))
        .await
        .unwrap();
    let reference = || {
        Identity::OciReference(OciReferenceIdentity {
            oci_url: "registry.example/echo:0.3.4".to_owned(),
        })
    };
    for (watching, (has_mine, has_other, has_reference)) in watches.iter_mut().zip([
        (true, false, false),
        (false, false, true),
        (true, false, true),
        (true, true, true),
    ]) {
        let is_so = |view: &View| {
            (value_of(view, ACTOR).is_some(), view.get(reference()).is_some()) == (has_mine, has_reference)
        };
        watching.until("what it asked for", is_so).await;
        assert_eq!(value_of(&watching.view, &other).is_some(), has_other);
        let expected = usize::from(has_mine) + usize::from(has_other) + usize::from(has_reference);
        assert_eq!(watching.view.entries().len(), expected);
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_by_its_field() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let of_link = EntryIdentity {
        identity: Some(link_of(ACTOR)),
    };
    for (request, fields) in [
        (WatchRequest::default(), &["lattice"][..]),
        (
            WatchRequest {
                kinds: vec![EntryKind::Claims.into(), 0, 77],
                ..watch_all()
            },
            &["kinds[1]", "kinds[2]"],
        ),
        (
            WatchRequest {
                kinds: vec![EntryKind::Claims.into()],
                filters: vec![of_link.clone(), EntryIdentity::default()],
                ..watch_all()
            },
            &["filters[0]", "filters[1]"],
        ),
        (
            WatchRequest {
                filters: vec![of_link; 65],
                ..watch_all()
            },
            &["filters"],
        ),
    ] {
        let refused = gateway.watch(request).await.err().unwrap();
        assert_eq!(refused.fields, fields);
    }
    let unsupported = WatchRequest {
        kinds: vec![EntryKind::InterfaceLink.into()],
        ..watch_all()
    };
    let refused = gateway.watch(unsupported).await.err().unwrap();
    assert_eq!(refused.reason, ErrorReason::LayoutUnsupported);
    let nowhere = WatchRequest {
        lattice: "nowhere".into(),
        ..WatchRequest::default()
    };
    let refused = gateway.watch(nowhere).await.err().unwrap();
    assert_eq!(refused.reason, ErrorReason::NotProvisioned);
}

#[tokio::test]
async fn hosts_writes_and_what_they_beat_are_told() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let mut watching = gateway.watch_from_now(watch_all()).await;
    let body = |value: &str, deleted: bool| {
        json!({
            "actor_id": ACTOR, "contract_id": "wasmcloud:keyvalue", "deleted": deleted, "id": "x",
            "link_name": "default", "provider_id": PROVIDER, "values": {"value": value},
        })
        .to_string()
    };
    let [first, second] = [
        "fb30deff-bbe7-4a28-a525-e53ebd4e8228",
        "0d3cc1a6-3cbf-4a0f-8a36-1f8f1a9c1a01",
    ]
    .map(|id| format!("lc.default.linkdefs.{id}"));
    let is = |wanted: Option<&'static str>| move |view: &View| value_of(view, ACTOR).as_deref() == wanted;
    nats.publish_raw(&first, body("one", false)).await;
    watching.until("a host's link", is(Some("one"))).await;
    nats.publish_raw(&second, body("two", false)).await;
    watching.until("its other subject", is(Some("two"))).await;
    nats.publish_raw(&first, body("", true)).await;
    watching.until("its tombstone", is(None)).await;
    nats.publish_raw(&second, "{").await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "ours")))
        .await
        .unwrap();
    watching.until("the gateway's", is(Some("ours"))).await;
    assert_eq!(links(&watching.view), listed(&gateway).await.0);
}

#[tokio::test]
async fn removals_from_the_stream_itself_are_told() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let others = [keys::actor(), keys::actor()];
    for actor in others.iter().map(String::as_str).chain([ACTOR]) {
        gateway
            .put(put_link(link(actor, PROVIDER, "value")))
            .await
            .unwrap();
    }
    let mut watching = gateway.watch_from_now(watch_all()).await;
    let sequence = links(&watching.view)
        .iter()
        .find(|link| link.actor_id == ACTOR)
        .map(|link| link.revision.unwrap().sequence);
    let gone = nats
        .api("STREAM.MSG.DELETE.LATTICECACHE_default", json!({"seq": sequence}))
        .await;
    assert_eq!(gone["success"], true, "{gone}");
    watching
        .until("one is removed", |view| value_of(view, ACTOR).is_none())
        .await;
    assert_eq!(watching.view.entries().len(), 2);
    nats.api("STREAM.PURGE.LATTICECACHE_default", json!({})).await;
    watching
        .until("all are removed", |view| view.entries().len() == 0)
        .await;
    assert_eq!(watching.view.resyncs, []);
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "again")))
        .await
        .unwrap();
    watching
        .until("it is put again", |view| value_of(view, ACTOR).is_some())
        .await;
}

#[tokio::test]
async fn buckets_of_hosts_0_60_are_watched() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Kv).await;
    gateway.put(put_link(link(ACTOR, PROVIDER, "one"))).await.unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    assert_eq!(value_of(&watching.view, ACTOR).as_deref(), Some("one"));
    gateway.put(put_link(link(ACTOR, PROVIDER, "two"))).await.unwrap();
    watching
        .until("a change", |view| value_of(view, ACTOR).as_deref() == Some("two"))
        .await;
    // A host's delete names the key alone.
    told(gateway.links().delete_link_definition(delete(ACTOR)).await).unwrap();
    watching
        .until("a delete", |view| value_of(view, ACTOR).is_none())
        .await;
}

#[tokio::test]
async fn of_a_record_that_hosts_rewrite_the_links_that_changed_are_told() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let config = named_config("http-cfg", "value");
    gateway.put_config(put_config(config)).await.unwrap();
    gateway
        .put_interface_link(put_interface_link(interface_link("hello")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    assert_eq!(watching.view.entries().len(), 2);

    let data = Bucket::data(&nats, "default").await;
    let mut record = data.value("COMPONENT_http-server").await;
    let mut second = record["links"][0].clone();
    second["target"] = json!("other");
    second["name"] = json!("other");
    record["links"].as_array_mut().unwrap().push(second);
    data.put("COMPONENT_http-server", record.to_string()).await;
    watching
        .until("a host's link", |view| view.entries().len() == 3)
        .await;
    assert_eq!(watching.view.changes, 1, "the other link says what it said");
    record["links"].as_array_mut().unwrap().remove(0);
    data.put("COMPONENT_http-server", record.to_string()).await;
    watching
        .until("a host's delete", |view| view.entries().len() == 2)
        .await;
    assert_eq!(watching.view.changes, 2);

    let configs = Bucket::configs(&nats, "default").await;
    configs
        .put("http-cfg", json!({"value": "changed"}).to_string())
        .await;
    let identity = || {
        Identity::NamedConfig(NamedConfigIdentity {
            name: "http-cfg".to_owned(),
        })
    };
    let says_changed = |view: &View| match view.get(identity()).and_then(|entry| entry.entry.clone()) {
        Some(entry::Entry::NamedConfig(config)) => config.values["value"] == "changed",
        _ => false,
    };
    watching.until("a config", says_changed).await;
    assert_eq!(watching.view.resyncs, []);
}
