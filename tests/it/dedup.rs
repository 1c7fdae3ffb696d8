//! What a retry, a race and a restart may never do: lose a write, apply one twice, or bring an old value back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lattice_gateway::proto::{
    DeleteLinkDefinitionRequest, ErrorReason, GetLinkDefinitionRequest, Outcome, PutLinkDefinitionRequest,
    put_link_definition_request::Precondition,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::{Nats, TestGateway, Told, keys, link, put_link, until};

const STREAM: &str = "LATTICECACHE_default";

fn retried(
    mut request: PutLinkDefinitionRequest,
    id: &str,
    age: Option<Duration>,
) -> PutLinkDefinitionRequest {
    request.request_id = id.into();
    request.retry_age = age.map(Into::into);
    request
}

async fn value_of(gateway: &TestGateway, actor: &str) -> Option<String> {
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    };
    let answer = gateway.links().get_link_definition(get).await.ok()?;
    answer.into_inner().link_definition?.values.remove("value")
}

fn delete_link(actor: &str) -> DeleteLinkDefinitionRequest {
    DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_then_b_then_a_within_the_window_ends_at_a() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    for value in ["a", "b", "a"] {
        let answer = gateway
            .put(put_link(link(&actor, &provider, value)))
            .await
            .unwrap();
        assert_eq!(answer.result.unwrap().outcome(), Outcome::Applied);
    }
    assert_eq!(value_of(&gateway, &actor).await.as_deref(), Some("a"));

    gateway
        .links()
        .delete_link_definition(delete_link(&actor))
        .await
        .unwrap();
    assert_eq!(value_of(&gateway, &actor).await, None);
    gateway.put(put_link(link(&actor, &provider, "a"))).await.unwrap();
    assert_eq!(value_of(&gateway, &actor).await.as_deref(), Some("a"));
}

#[tokio::test]
async fn one_id_retried_a_hundred_times_over_a_restart_and_two_gateways_is_applied_once() {
    let mut nats = Nats::start().await;
    let gateways = [
        TestGateway::dev_on_files(&nats).await,
        TestGateway::dev_on_files(&nats).await,
    ];
    let (actor, provider) = (keys::actor(), keys::provider());
    let request = put_link(link(&actor, &provider, "once"));
    let first = gateways[0]
        .put(retried(request.clone(), "request-0001", None))
        .await
        .unwrap();
    let applied_at = first.result.unwrap().revision.unwrap();
    for attempt in 0..100_usize {
        if attempt == 50 {
            nats.down("KILL");
            nats.up().await;
            for gateway in &gateways {
                gateway.running.connected().await;
            }
        }
        let gateway = &gateways[attempt % 2];
        let age = (attempt % 3 > 0).then_some(Duration::from_secs(5));
        let again = until("the gateway is back", async || {
            gateway
                .put(retried(request.clone(), "request-0001", age))
                .await
                .ok()
        })
        .await;
        let result = again.result.unwrap();
        assert_eq!(result.outcome(), Outcome::AlreadyApplied, "attempt {attempt}");
        assert_eq!(result.revision.unwrap(), applied_at, "attempt {attempt}");
    }
    assert_eq!(nats.state("default").await, (1, 1), "one message was ever stored");
}

#[tokio::test]
async fn the_retry_of_an_overwritten_put_does_not_bring_it_back() {
    let mut nats = Nats::start().await;
    let gateway = TestGateway::dev_on_files(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let old = retried(put_link(link(&actor, &provider, "old")), "request-0001", None);
    gateway.put(old.clone()).await.unwrap();
    gateway
        .put(put_link(link(&actor, &provider, "new")))
        .await
        .unwrap();

    // After a restart JetStream knows only the ids of messages that it still stores: not the old one's.
    nats.down("KILL");
    nats.up().await;
    gateway.running.connected().await;
    let again = until("the gateway is back", async || {
        gateway.put(old.clone()).await.ok()
    })
    .await;
    let result = again.result.unwrap();
    assert_eq!(result.outcome(), Outcome::AlreadyApplied);
    assert!(result.superseded && result.etag.is_empty());
    assert_eq!(again.link_definition.unwrap().values["value"], "new");
    assert_eq!(value_of(&gateway, &actor).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_retry_that_never_landed_is_applied_though_the_ring_is_long_full() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    for number in 0..80 {
        let put = put_link(link(&actor, &provider, &number.to_string()));
        gateway
            .put(retried(put, &format!("request-{number:04}"), None))
            .await
            .unwrap();
    }
    // A put that never landed, first attempted 2.1 s after the last id went out of the ring.
    let evicted = Duration::from_millis(2_100);
    let began = Instant::now();
    let late = put_link(link(&actor, &provider, "late"));
    let answer = until("the record is old enough to be complete", async || {
        let age = began.elapsed().saturating_sub(evicted);
        let retry = retried(late.clone(), "request-late", Some(age));
        match gateway.put(retry).await {
            Ok(answer) => Some(answer),
            Err(told) => {
                assert_eq!(told.reason, ErrorReason::OutcomeSuperseded);
                None
            }
        }
    })
    .await;
    assert_eq!(answer.result.unwrap().outcome(), Outcome::Applied);
    assert_eq!(value_of(&gateway, &actor).await.as_deref(), Some("late"));
}

#[tokio::test]
async fn a_retry_grows_no_older_while_the_mirror_catches_up() {
    let nats = Nats::start().await;
    let (gateway, other) = (TestGateway::dev(&nats).await, TestGateway::at(&nats.url()).await);
    let (actor, provider) = (keys::actor(), keys::provider());
    let first = gateway.put(put_link(link(&actor, &provider, "first"))).await;
    first.unwrap();
    // Time itself is under test: the record, which begins with the entry, is just old enough for what is retried.
    sleep(Duration::from_millis(2_500)).await;
    for consumer in nats.consumers(STREAM).await {
        nats.delete_consumer(STREAM, &consumer).await;
    }
    let elsewhere = put_link(link(&keys::actor(), &provider, "elsewhere"));
    other.put(elsewhere).await.unwrap();
    let put = put_link(link(&actor, &provider, "second"));
    let retry = retried(put, "request-0001", Some(Duration::from_millis(100)));
    let began = Instant::now();
    let result = gateway.put(retry).await.unwrap().result.unwrap();
    assert_eq!(result.outcome(), Outcome::Applied);
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(500), "it waited only {waited:?}");
}

#[tokio::test]
async fn a_retry_whose_id_left_the_ring_is_never_applied_again() {
    let mut nats = Nats::start().await;
    let gateway = TestGateway::dev_on_files(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let first = retried(put_link(link(&actor, &provider, "first")), "request-first", None);
    let applied_at = gateway.put(first.clone()).await.unwrap().result.unwrap().revision;
    for number in 0..40 {
        let put = put_link(link(&actor, &provider, &number.to_string()));
        gateway
            .put(retried(put, &format!("request-{number:04}"), None))
            .await
            .unwrap();
    }
    // Within the window JetStream still knows the id: the probe tells.
    let retry = retried(first, "request-first", Some(Duration::from_secs(30)));
    let answer = gateway.put(retry.clone()).await.unwrap();
    let result = answer.result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, true)
    );
    assert_eq!(result.revision, applied_at);

    // After a restart only who saw it knows it.
    nats.down("KILL");
    nats.up().await;
    let newcomer = TestGateway::at(&nats.url()).await;
    let told = newcomer.put(retry.clone()).await.unwrap_err();
    assert_eq!(told.reason, ErrorReason::OutcomeSuperseded);
    gateway.running.connected().await;
    let again = until("the gateway is back", async || {
        gateway.put(retry.clone()).await.ok()
    })
    .await;
    assert_eq!(again.result.unwrap().revision, applied_at);
    assert_eq!(value_of(&gateway, &actor).await.as_deref(), Some("39"));
}

#[tokio::test]
async fn two_hundred_racing_puts_from_two_gateways_all_stand_in_order() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({"republish": {"src": ">", "dest": "tap.>"}}))
        .await;
    let tap_client = nats.client().await;
    let mut tap = tap_client.subscribe("tap.>").await.unwrap();
    tap_client.flush().await.unwrap();
    let gateways = [
        TestGateway::at(&nats.url()).await,
        TestGateway::at(&nats.url()).await,
    ];
    let (actor, provider) = (keys::actor(), keys::provider());

    let mut puts = (0..200)
        .map(|number| gateways[number % 2].put(put_link(link(&actor, &provider, &number.to_string()))))
        .collect::<FuturesUnordered<_>>();
    let mut acknowledged = BTreeSet::new();
    while let Some(answer) = puts.next().await {
        let answer = answer.unwrap();
        let result = answer.result.unwrap();
        assert_eq!(result.outcome(), Outcome::Applied);
        acknowledged.insert(result.revision.unwrap().sequence);
    }
    assert_eq!(acknowledged.len(), 200, "each put has its own revision");

    let mut seen = BTreeMap::new();
    while seen.len() < 200 {
        let message = tokio::time::timeout(Duration::from_secs(5), tap.next())
            .await
            .expect("the tap sees every write")
            .unwrap();
        let sequence: u64 = message
            .headers
            .as_ref()
            .unwrap()
            .get("Nats-Sequence")
            .unwrap()
            .as_str()
            .parse()
            .unwrap();
        seen.insert(sequence, message.payload);
    }
    assert_eq!(
        seen.keys().collect::<Vec<_>>(),
        acknowledged.iter().collect::<Vec<_>>()
    );
    let last = seen.last_entry().unwrap();
    let standing = nats.last("default", &subject_of(&nats).await).await.unwrap();
    assert_eq!(standing.body.as_bytes(), &last.get()[..]);
}

async fn subject_of(nats: &Nats) -> String {
    let info = nats
        .api(
            "STREAM.INFO.LATTICECACHE_default",
            json!({"subjects_filter": ">"}),
        )
        .await;
    let subjects = info["state"]["subjects"].as_object().unwrap();
    assert_eq!(subjects.len(), 1);
    subjects.keys().next().unwrap().clone()
}

#[tokio::test]
async fn a_reused_id_with_other_content_is_refused_and_scoped_to_its_entry() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, other, provider) = (keys::actor(), keys::actor(), keys::provider());
    let put = retried(put_link(link(&actor, &provider, "one")), "request-0001", None);
    gateway.put(put).await.unwrap();
    let reused = retried(put_link(link(&actor, &provider, "two")), "request-0001", None);
    assert_eq!(
        gateway.put(reused).await.unwrap_err().reason,
        ErrorReason::RequestIdReused
    );
    let elsewhere = retried(put_link(link(&other, &provider, "two")), "request-0001", None);
    let answer = gateway.put(elsewhere).await.unwrap();
    assert_eq!(answer.result.unwrap().outcome(), Outcome::Applied);
}

#[tokio::test]
async fn a_stale_etag_after_a_reset_is_refused() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let before = gateway
        .put(put_link(link(&actor, &provider, "before")))
        .await
        .unwrap();
    let etag = before.result.unwrap().etag;
    nats.api("STREAM.DELETE.LATTICECACHE_default", json!(null)).await;
    nats.create_stream("default", json!({})).await;
    // Somebody else writes the same entry at the same sequence of the new stream.
    let other = TestGateway::dev(&nats).await;
    other
        .put(put_link(link(&actor, &provider, "other")))
        .await
        .unwrap();

    let mut stale = put_link(link(&actor, &provider, "stale"));
    stale.precondition = Some(Precondition::Etag(etag));
    let told: Told = until("the gateway has seen the new stream", async || {
        match gateway.put(stale.clone()).await {
            Err(told) if told.reason == ErrorReason::EtagMismatch => Some(told),
            Err(_) => None,
            Ok(answer) => panic!("a stale etag was accepted: {answer:?}"),
        }
    })
    .await;
    assert_eq!(told.reason, ErrorReason::EtagMismatch);
    assert_eq!(value_of(&other, &actor).await.as_deref(), Some("other"));
}

#[tokio::test]
async fn what_grpc_repeats_by_itself_counts_as_minutes_old() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let again = |request: PutLinkDefinitionRequest| {
        let mut request = tonic::Request::new(request);
        let attempts = request.metadata_mut();
        attempts.insert("grpc-previous-rpc-attempts", "1".parse().unwrap());
        request
    };
    let put = |value: &str, id: &str| retried(put_link(link(&actor, &provider, value)), id, None);
    gateway.put(put("first", "request-first")).await.unwrap();
    // Its answer was lost.
    let answer = gateway
        .links()
        .put_link_definition(again(put("first", "request-first")))
        .await;
    assert_eq!(
        answer.unwrap().into_inner().result.unwrap().outcome(),
        Outcome::AlreadyApplied
    );
    // The first attempt was refused, which the repetition does not tell: it might be one of minutes ago.
    let answer = gateway
        .links()
        .put_link_definition(again(put("second", "request-second")))
        .await;
    assert_eq!(
        Told::from(answer.unwrap_err()).reason,
        ErrorReason::OutcomeSuperseded
    );
}
