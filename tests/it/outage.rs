//! What breaks between the gateway and NATS, and what the gateway says of it.

use std::time::Duration;

use futures_util::future::join;
use lattice_gateway::proto::{
    Consistency, ErrorReason, GetLatticeRequest, GetLinkDefinitionRequest, Lattice, Outcome,
    PutLinkDefinitionRequest, PutLinkDefinitionResponse, consistency::Requirement,
    put_link_definition_request::Precondition,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::harness::{Nats, TestGateway, Told, keys, link, put_link, until, wire::Wire};

async fn put_within(
    gateway: &TestGateway,
    put: &PutLinkDefinitionRequest,
    time: Duration,
) -> Result<PutLinkDefinitionResponse, Told> {
    let mut request = Request::new(put.clone());
    request.set_timeout(time);
    let answer = gateway.links().put_link_definition(request).await;
    answer.map(tonic::Response::into_inner).map_err(Told::from)
}

async fn lattice(gateway: &TestGateway) -> Option<Lattice> {
    let get = GetLatticeRequest {
        lattice: "default".into(),
    };
    gateway
        .lattices()
        .get_lattice(get)
        .await
        .ok()?
        .into_inner()
        .lattice
}

fn named(mut put: PutLinkDefinitionRequest, id: &str, age: Option<Duration>) -> PutLinkDefinitionRequest {
    put.request_id = id.into();
    put.retry_age = age.map(Into::into);
    put
}

#[tokio::test]
async fn a_lost_acknowledgement_is_told_as_unknown_and_resolved_by_its_id() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    gateway
        .put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();

    let put = named(put_link(link(&actor, &provider, "second")), "request-0001", None);
    wire.stall_answers(true);
    let told = put_within(&gateway, &put, Duration::from_millis(700))
        .await
        .unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::DeadlineExceeded, ErrorReason::OutcomeUnknown)
    );
    assert_eq!(told.metadata["request_id"], "request-0001");

    wire.stall_answers(false);
    let retry = named(put, "request-0001", Some(Duration::from_secs(1)));
    let answer = gateway.put(retry).await.unwrap();
    let result = answer.result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, false)
    );
    assert_eq!(nats.state("default").await, (1, 2), "applied once");
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_publish_is_resolved_in_the_same_call() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    gateway
        .put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();

    wire.drop_answers(true);
    let put = put_link(link(&actor, &provider, "second"));
    let putting = gateway.put(put);
    tokio::pin!(putting);
    let breaking = async {
        until("the publish has landed", async || {
            (nats.state("default").await.1 == 2).then_some(())
        })
        .await;
        wire.drop_answers(false);
        wire.cut();
    };
    tokio::select! {
        biased;
        answer = &mut putting => panic!("answered without an acknowledgement: {answer:?}"),
        () = breaking => {}
    }
    let answer = putting.await.unwrap();
    assert_eq!(answer.result.unwrap().outcome(), Outcome::AlreadyApplied);
    assert_eq!(answer.link_definition.unwrap().values["value"], "second");
    assert_eq!(nats.state("default").await.1, 2, "published once");
}

#[tokio::test]
async fn a_publish_that_the_server_sits_on_lands_once_or_never() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    gateway
        .put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();

    let put = named(put_link(link(&actor, &provider, "second")), "request-0001", None);
    nats.hold().await;
    let told = put_within(&gateway, &put, Duration::from_millis(500))
        .await
        .unwrap_err();
    nats.release();
    assert_eq!(told.reason, ErrorReason::OutcomeUnknown);

    let answer = until("the gateway can tell", async || {
        let retry = named(put.clone(), "request-0001", Some(Duration::from_secs(1)));
        gateway.put(retry).await.ok()
    })
    .await;
    assert_eq!(answer.link_definition.unwrap().values["value"], "second");
    assert_eq!(nats.state("default").await.1, 2, "it landed once");
}

#[tokio::test]
async fn nothing_is_published_for_who_has_gone_away_before_but_for_who_has_joined_the_call() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = |value: &str| {
        let id = format!("request-{value}");
        named(put_link(link(&actor, &provider, value)), &id, None)
    };
    let sequence_of = |put: Result<PutLinkDefinitionResponse, Told>| {
        put.unwrap().result.unwrap().revision.unwrap().sequence
    };
    gateway.put(put("first")).await.unwrap();

    wire.stall_publishes(true);
    let second = gateway.put(put("second"));
    let behind = async {
        gateway.are_under_way(1).await;
        let joined = gateway.put(put("joined"));
        let gone = async {
            {
                let both = join(gateway.put(put("abandoned")), gateway.put(put("joined")));
                tokio::select! {
                    _ = both => panic!("answered by a server that got nothing"),
                    () = gateway.are_under_way(4) => {}
                }
            }
            gateway.are_under_way(2).await;
            wire.stall_publishes(false);
        };
        join(joined, gone).await.0
    };
    let (second, joined) = join(second, behind).await;
    assert_eq!(sequence_of(second), 2);
    assert_eq!(sequence_of(joined), 3);
    assert_eq!(sequence_of(gateway.put(put("last")).await), 4);
}

#[tokio::test]
async fn a_put_that_was_given_up_on_and_lands_late_does_not_bring_its_value_back() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let slow = TestGateway::at(&wire.url()).await;
    let quick = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    slow.put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();

    wire.stall_publishes(true);
    let late = put_link(link(&actor, &provider, "late"));
    let told = put_within(&slow, &late, Duration::from_millis(500))
        .await
        .unwrap_err();
    assert_eq!(told.reason, ErrorReason::OutcomeUnknown);
    quick
        .put(put_link(link(&actor, &provider, "newer")))
        .await
        .unwrap();
    wire.stall_publishes(false);

    // What the slow gateway asks now arrives behind its late publish.
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        ..Default::default()
    };
    let answer = until("the slow gateway can ask", async || {
        slow.links().get_link_definition(get.clone()).await.ok()
    })
    .await;
    assert_eq!(
        answer.into_inner().link_definition.unwrap().values["value"],
        "newer"
    );
    assert_eq!(nats.state("default").await.1, 2, "the late publish was refused");
}

#[tokio::test]
async fn while_nats_is_away_nothing_is_queued_for_later() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    gateway
        .put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();

    wire.refuse(true);
    wire.cut();
    let put = put_link(link(&actor, &provider, "lost"));
    let told = until("the loss is noticed", async || {
        match gateway.put(put.clone()).await {
            Err(told) if told.reason == ErrorReason::BackendUnavailable => Some(told),
            Err(_) => None,
            Ok(answer) => panic!("acknowledged without NATS: {answer:?}"),
        }
    })
    .await;
    assert_eq!(told.code, Code::Unavailable);
    assert!(told.retry_after.is_some());
    // Reads that ask for nothing more go on from the mirror.
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.clone()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    };
    let answer = gateway.links().get_link_definition(get.clone()).await.unwrap();
    assert_eq!(
        answer.into_inner().link_definition.unwrap().values["value"],
        "first"
    );
    let fresh = GetLinkDefinitionRequest {
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        ..get
    };
    let told = Told::from(gateway.links().get_link_definition(fresh).await.unwrap_err());
    assert_eq!(told.reason, ErrorReason::BackendUnavailable);

    wire.refuse(false);
    gateway.running.connected().await;
    let answer = until("writes go on", async || {
        gateway
            .put(put_link(link(&actor, &provider, "second")))
            .await
            .ok()
    })
    .await;
    assert_eq!(
        answer.result.unwrap().revision.unwrap().sequence,
        2,
        "nothing came in between"
    );
}

#[tokio::test]
async fn a_black_hole_is_noticed_within_three_seconds() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = put_link(link(&actor, &provider, "first"));
    gateway.put(put.clone()).await.unwrap();

    wire.stall(true);
    let began = Instant::now();
    until("the black hole is noticed", async || {
        let metrics = gateway.metrics().await;
        let is_away = metrics.contains("lattice_gateway_nats_connected{upstream=\"default\"} 0\n");
        is_away.then_some(())
    })
    .await;
    let noticed = began.elapsed();
    let told = gateway.put(put.clone()).await.unwrap_err();
    assert_eq!(told.reason, ErrorReason::BackendUnavailable);
    assert!(noticed <= Duration::from_millis(3_500), "{noticed:?}");
    wire.stall(false);
    wire.cut();
    until("writes go on", async || gateway.put(put.clone()).await.ok()).await;
}

#[tokio::test]
async fn a_stream_made_again_is_noticed_and_its_old_revisions_are_refused() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let answer = gateway
        .put(put_link(link(&actor, &provider, "first")))
        .await
        .unwrap();
    let old = answer.result.unwrap().revision.unwrap();

    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    nats.create_stream("default", json!({})).await;
    let began = Instant::now();
    until("the reset is noticed", async || {
        let lattice = lattice(&gateway).await?;
        (lattice.revision?.epoch != old.epoch && lattice.link_definition_count == 0).then_some(())
    })
    .await;
    let noticed = began.elapsed();
    assert!(noticed <= Duration::from_secs(2), "{noticed:?}");

    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(Consistency {
            requirement: Some(Requirement::AtLeastAsFresh(old)),
        }),
        ..Default::default()
    };
    let told = Told::from(gateway.links().get_link_definition(get).await.unwrap_err());
    assert_eq!(told.reason, ErrorReason::RevisionUnavailable);
}

#[tokio::test]
async fn a_write_to_a_stream_that_was_just_made_again_is_told_with_the_new_ones_etag() {
    const TIMES: usize = 3;
    let mut nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = |value| gateway.put(put_link(link(&actor, &provider, value)));
    for _ in 0..TIMES {
        put("before").await.unwrap();
        put("again").await.unwrap();
        nats.down("KILL");
        nats.up().await;
        nats.create_stream("default", json!({})).await;
        // On a subject that the mirror knows nothing of, so that nothing tells that the mirror is of the old stream.
        let other = keys::actor();
        let first = put_link(link(&other, &provider, "first"));
        let etag = until("it is put", async || gateway.put(first.clone()).await.ok()).await;
        let etag = etag.result.unwrap().etag;
        let second = PutLinkDefinitionRequest {
            precondition: Some(Precondition::Etag(etag)),
            ..put_link(link(&other, &provider, "second"))
        };
        gateway.put(second).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_went_with_its_stream_is_never_told_as_not_applied() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::at(&wire.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let begin_anew = async || {
        nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
        nats.create_stream("default", json!({})).await;
    };
    for retries in [false, true] {
        let first = gateway.put(put_link(link(&actor, &provider, "first"))).await;
        let first = first.unwrap().result.unwrap();
        until("the mirror is of the new stream", async || {
            (lattice(&gateway).await?.revision == first.revision).then_some(())
        })
        .await;
        let put = PutLinkDefinitionRequest {
            precondition: Some(Precondition::Etag(first.etag)),
            ..put_link(link(&actor, &provider, "second"))
        };
        let put = named(put, &format!("request-000{}", u8::from(retries)), None);
        wire.drop_answers(true);
        let time = match retries {
            true => Duration::from_millis(300),
            false => Duration::from_secs(10),
        };
        let putting = put_within(&gateway, &put, time);
        let breaking = async {
            until("the publish has landed", async || {
                (nats.state("default").await.1 == 2).then_some(())
            })
            .await;
            begin_anew().await;
            if !retries {
                wire.drop_answers(false);
                wire.cut();
            }
        };
        let (told, ()) = join(putting, breaking).await;
        let mut told = told.unwrap_err();
        if retries {
            assert_eq!(told.reason, ErrorReason::OutcomeUnknown);
            wire.drop_answers(false);
            wire.cut();
            let retry = named(put, "request-0001", Some(Duration::from_secs(1)));
            told = until("the gateway is connected again", async || {
                let told = gateway.put(retry.clone()).await.unwrap_err();
                (told.reason != ErrorReason::BackendUnavailable).then_some(told)
            })
            .await;
        }
        assert_eq!(
            told.reason,
            ErrorReason::OutcomeSuperseded,
            "{told:?}, retries: {retries}"
        );
        begin_anew().await;
    }
}

#[tokio::test]
async fn a_stream_that_vanishes_is_told_and_never_made_again_in_mid_run() {
    let mut nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = put_link(link(&actor, &provider, "first"));
    gateway.put(put.clone()).await.unwrap();

    // A memory stream goes with its only server.
    nats.down("TERM");
    nats.up().await;
    gateway.running.connected().await;
    until("the loss of the stream is told", async || {
        let told = gateway.put(put.clone()).await.unwrap_err();
        (told.reason == ErrorReason::NotProvisioned).then_some(())
    })
    .await;
    nats.create_stream("default", json!({})).await;
    until("the new stream is served", async || {
        gateway.put(put.clone()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn drift_in_mid_run_refuses_writes_within_five_seconds_and_lets_them_go_on_when_mended() {
    let nats = Nats::start().await;
    let created = nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = put_link(link(&actor, &provider, "first"));
    gateway.put(put.clone()).await.unwrap();

    let mut config = created["config"].clone();
    config["max_msgs_per_subject"] = json!(5);
    nats.api("STREAM.UPDATE.LATTICECACHE_default", config.clone())
        .await;
    let began = Instant::now();
    let told = until("the drift is noticed", async || {
        gateway.put(put.clone()).await.err()
    })
    .await;
    assert!(began.elapsed() <= Duration::from_secs(5));
    assert_eq!(told.reason, ErrorReason::StreamConfigDrift);
    let metadata = ["field", "want", "have"].map(|name| told.metadata[name].as_str());
    assert_eq!(metadata, ["max_msgs_per_subject", "1", "5"]);
    let drift = lattice(&gateway).await.unwrap().drift;
    assert!(drift.iter().any(|drift| drift.blocks_writes));

    config["max_msgs_per_subject"] = json!(1);
    nats.api("STREAM.UPDATE.LATTICECACHE_default", config).await;
    until("writes go on", async || gateway.put(put.clone()).await.ok()).await;
}

#[tokio::test]
async fn a_migration_stops_all_calls_and_the_writes_it_may_miss_are_listed() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let put = put_link(link(&actor, &provider, "first"));
    let revision = gateway.put(put.clone()).await.unwrap().result.unwrap().revision;

    let bucket = json!({"name": "KV_LATTICEDATA_default", "subjects": ["$KV.LATTICEDATA_default.>"]});
    nats.api("STREAM.CREATE.KV_LATTICEDATA_default", bucket).await;
    let told = until("the migration is noticed", async || {
        gateway.put(put.clone()).await.err()
    })
    .await;
    assert_eq!(told.reason, ErrorReason::LayoutAmbiguous);
    assert_eq!(told.metadata["setting"], "lattices.default.layout");
    let lattice = until("the writes at risk are listed", async || {
        lattice(&gateway)
            .await
            .filter(|lattice| !lattice.writes_at_risk.is_empty())
    })
    .await;
    assert!(
        lattice
            .writes_at_risk
            .iter()
            .any(|write| write.revision == revision)
    );
    let began = Instant::now();
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    let told = gateway.put(put).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(
        told.reason,
        ErrorReason::LayoutAmbiguous,
        "never made again beside a bucket"
    );
}
