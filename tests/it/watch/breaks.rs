//! What a watch survives, and what it says where it cannot go on: resumed, read anew, reset, moved.

use async_nats::jetstream;
use futures_util::future::join_all;
use lattice_gateway::proto::{EntryKind, ErrorReason, GetLinkDefinitionRequest, ResyncReason, WatchRequest};
use serde_json::{Value, json};

use super::{link_of, links, listed, value_of};
use crate::errors::is_as_its_row_says;
use crate::harness::{
    Bucket, Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    interface_link, keys, link, named_config, put_config, put_interface_link, put_link, until,
    view::View,
    watch::watch_all,
};

/// Changes that a gateway remembers.
const REMEMBERED: usize = 65_536;

fn is(actor: &str, value: &str) -> impl Fn(&View) -> bool {
    move |view| value_of(view, actor).as_deref() == Some(value)
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_token_without_a_snapshot() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let [gone, changed, new, same] = [(); 4].map(|()| keys::actor());
    for actor in [&gone, &changed, &same] {
        gateway
            .put(put_link(link(actor, PROVIDER, "before")))
            .await
            .unwrap();
    }
    let mut watching = gateway.watch_from_now(watch_all()).await;
    gateway
        .put(put_link(link(&changed, PROVIDER, "seen")))
        .await
        .unwrap();
    watching.until("a change", is(&changed, "seen")).await;
    let before = watching.view.changes;

    gateway
        .put(put_link(link(&changed, PROVIDER, "meanwhile")))
        .await
        .unwrap();
    gateway
        .put(put_link(link(&new, PROVIDER, "meanwhile")))
        .await
        .unwrap();
    let delete = super::delete(&gone);
    gateway.links().delete_link_definition(delete).await.unwrap();
    let mut watching = gateway.resume(watching, watch_all()).await.unwrap();
    watching
        .until("what changed meanwhile", |view| {
            view.get(link_of(&gone)).is_none()
        })
        .await;
    assert_eq!(watching.view.changes - before, 3, "the rest is not told again");
    assert_eq!(watching.view.resyncs, []);
    assert_eq!(links(&watching.view), listed(&gateway).await.0);

    let bookmarks = watching.view.bookmarks;
    let mut watching = gateway.resume(watching, watch_all()).await.unwrap();
    watching
        .until("that nothing changed", |view| view.bookmarks > bookmarks)
        .await;
    assert_eq!(watching.view.changes - before, 3);
}

#[tokio::test]
async fn a_token_of_something_else_is_refused() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let mut other = put_link(link(ACTOR, PROVIDER, "value"));
    other.lattice = "other".into();
    gateway.put(other).await.unwrap();
    let resume_token = gateway.watch_from_now(watch_all()).await.view.resume_token;
    let of_kind = WatchRequest {
        kinds: vec![EntryKind::LinkDefinition.into()],
        ..watch_all()
    };
    let of_other = WatchRequest {
        lattice: "other".into(),
        ..watch_all()
    };
    for request in [
        WatchRequest {
            resume_token: resume_token.clone(),
            ..of_kind
        },
        WatchRequest {
            resume_token: resume_token.clone(),
            ..of_other
        },
        WatchRequest {
            resume_token: resume_token.replacen('A', "B", 1),
            ..watch_all()
        },
        WatchRequest {
            resume_token: "no token".to_owned(),
            ..watch_all()
        },
    ] {
        let refused = gateway.watch(request).await.err().unwrap();
        assert_eq!(refused.reason, ErrorReason::ResumeTokenInvalid);
    }
}

#[tokio::test]
async fn on_another_gateway_it_begins_anew_and_says_so() {
    let nats = Nats::start().await;
    let gateways = [TestGateway::dev(&nats).await, TestGateway::dev(&nats).await];
    gateways[0]
        .put(put_link(link(ACTOR, PROVIDER, "one")))
        .await
        .unwrap();
    let watching = gateways[0].watch_from_now(watch_all()).await;
    gateways[1]
        .put(put_link(link(ACTOR, PROVIDER, "two")))
        .await
        .unwrap();
    let mut watching = gateways[1].resume(watching, watch_all()).await.unwrap();
    watching.until("the present value", is(ACTOR, "two")).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::TokenForeign]);
}

/// Has more changes than a gateway remembers, the last of them of `ACTOR`'s link. Each of another link: of one the
/// stream would keep the last, and the gateway see few.
async fn flood(nats: &Nats, value: &str) {
    const AT_ONCE: usize = 4_096;
    let context = jetstream::new(nats.client().await);
    let publish = async |name: &str, value: &str| {
        let body = json!({
            "actor_id": ACTOR, "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": "x", "link_name": name,
            "provider_id": PROVIDER, "values": {"value": value},
        });
        let subject = format!("lc.default.linkdefs.flood-{name}");
        let published = context.publish(subject, body.to_string().into()).await;
        published.unwrap().await.unwrap();
    };
    for batch in 0..=REMEMBERED / AT_ONCE {
        let names = (0..AT_ONCE).map(|number| format!("{batch}-{number}"));
        join_all(names.map(async |name| publish(&name, "flood").await)).await;
    }
    publish("default", value).await;
}

/// Whether the gateway has seen a value.
async fn has_seen(gateway: &TestGateway, value: &str) {
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..GetLinkDefinitionRequest::default()
    };
    until("the gateway has seen it", async || {
        let answer = gateway.links().get_link_definition(get.clone()).await.ok()?;
        let link = answer.into_inner().link_definition?;
        (link.values["value"] == value).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_too_old_begins_anew_and_says_so() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let watching = gateway.watch_from_now(watch_all()).await;
    flood(&nats, "after").await;
    has_seen(&gateway, "after").await;
    let mut watching = gateway.resume(watching, watch_all()).await.unwrap();
    watching.until("the present value", is(ACTOR, "after")).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::TokenExpired]);
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_and_holds_up_nobody() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let mut slow = gateway.watch_beside(watch_all()).await;
    let mut quick = gateway.watch_from_now(watch_all()).await;
    let writing = async {
        for number in 0..40 {
            let mut put = put_link(link(ACTOR, PROVIDER, &number.to_string()));
            let values = &mut put.link_definition.as_mut().unwrap().values;
            values.insert("padding".to_owned(), "x".repeat(50_000));
            gateway.put(put).await.unwrap();
        }
        flood(&nats, "after").await;
    };
    tokio::join!(writing, quick.until("all of it", is(ACTOR, "after")));
    assert!(quick.view.changes > 40, "{}", quick.view.changes);

    let ended = slow.end().await;
    assert_eq!(ended.reason, ErrorReason::WatchLagged);
    is_as_its_row_says(&ended);
    assert_eq!(ended.metadata["resume_token"], slow.view.resume_token);
    assert!(
        gateway
            .metrics()
            .await
            .contains("lattice_gateway_watches_lagged_total 1")
    );
    let mut resumed = gateway.resume(slow, watch_all()).await.unwrap();
    resumed.until("the present value", is(ACTOR, "after")).await;
    assert_eq!(resumed.view.resyncs, [ResyncReason::TokenExpired]);
}

#[tokio::test]
async fn a_restart_of_nats_that_loses_nothing_is_not_felt() {
    let mut nats = Nats::start().await;
    let gateway = TestGateway::dev_on_files(&nats).await;
    let [one, two] = [keys::actor(), keys::actor()];
    gateway
        .put(put_link(link(&one, PROVIDER, "before")))
        .await
        .unwrap();
    gateway
        .put(put_link(link(&two, PROVIDER, "before")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    for round in 0..3 {
        nats.down("KILL");
        nats.up().await;
        let value = format!("after {round}");
        // Before the gateway is back, as far as it takes any time.
        nats.publish_raw(
            "lc.default.linkdefs.fb30deff-bbe7-4a28-a525-e53ebd4e8228",
            json!({
                "actor_id": one, "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": "x",
                "link_name": "default", "provider_id": PROVIDER, "values": {"value": value},
            })
            .to_string(),
        )
        .await;
        watching.until("a write meanwhile", is(&one, &value)).await;
    }
    assert_eq!(watching.view.resyncs, []);
    assert_eq!(links(&watching.view), listed(&gateway).await.0);
}

#[tokio::test]
async fn a_stream_that_loses_what_it_held_is_a_reset() {
    let mut nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    nats.down("KILL");
    nats.up().await;
    nats.create_stream("default", Value::Null).await;
    watching.until("a reset", |view| !view.resyncs.is_empty()).await;
    watching.until("nothing is left", |view| view.is_consistent).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::StreamReset]);
    assert_eq!(watching.view.entries().len(), 0);
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "after")))
        .await
        .unwrap();
    watching.until("what is put then", is(ACTOR, "after")).await;
}

#[tokio::test]
async fn a_stream_made_again_is_a_reset_and_one_that_stays_away_ends_the_watch() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let gateway = TestGateway::at(&nats.url()).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    nats.create_stream("default", Value::Null).await;
    watching.until("a reset", |view| !view.resyncs.is_empty()).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::StreamReset]);
    watching.until("nothing is left", |view| view.is_consistent).await;
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    assert_eq!(watching.end().await.reason, ErrorReason::NotProvisioned);
    nats.create_stream("default", Value::Null).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "after")))
        .await
        .unwrap();
    let mut watching = gateway.resume(watching, watch_all()).await.unwrap();
    watching.until("what is put then", is(ACTOR, "after")).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::StreamReset; 2]);
}

#[tokio::test]
async fn a_migration_ends_in_a_watch_of_the_new_layout() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let gateway = TestGateway::at(&nats.url()).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    nats.create_bucket(
        "LATTICEDATA",
        "default",
        json!({"metadata": {"lattice-gateway.layout": "kv"}}),
    )
    .await;
    let ended = watching.end().await;
    assert_eq!(ended.reason, ErrorReason::LayoutAmbiguous);

    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    until("the layout can be told", async || {
        gateway.put(put_link(link(ACTOR, PROVIDER, "after"))).await.ok()
    })
    .await;
    let mut watching = gateway.resume(watching, watch_all()).await.unwrap();
    watching.until("the bucket's", is(ACTOR, "after")).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::StreamReset]);

    // Straight from one to the other.
    nats.api("STREAM.DELETE.KV_LATTICEDATA_default", Value::Null)
        .await;
    nats.create_stream("default", Value::Null).await;
    watching
        .until("the stream's", |view| {
            view.resyncs.len() == 2 && view.is_consistent
        })
        .await;
    assert_eq!(watching.view.resyncs[1], ResyncReason::LayoutChanged);
    assert_eq!(watching.view.entries().len(), 0);
}

#[tokio::test]
async fn configs_that_come_later_are_watched_too() {
    let nats = Nats::start().await;
    nats.create_bucket(
        "LATTICEDATA",
        "default",
        json!({"metadata": {"lattice-gateway.layout": "component"}}),
    )
    .await;
    let gateway = TestGateway::at(&nats.url()).await;
    gateway
        .put_interface_link(put_interface_link(interface_link("hello")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    assert_eq!(watching.view.entries().len(), 1);
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    gateway
        .put_config(put_config(named_config("http-cfg", "value")))
        .await
        .unwrap();
    watching
        .until("the config", |view| view.entries().len() == 2)
        .await;
    assert_eq!(watching.view.resyncs, [ResyncReason::StreamReset]);
    let configs = Bucket::configs(&nats, "default").await;
    configs.put("other", json!({"value": "host's"}).to_string()).await;
    watching.until("a host's", |view| view.entries().len() == 3).await;
    assert_eq!(watching.view.resyncs.len(), 1);
}
