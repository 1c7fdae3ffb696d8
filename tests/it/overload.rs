//! More calls than a lattice's stream takes, and a stream that does not answer: who is refused, how, and who is not.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use lattice_gateway::proto::{
    Consistency, ErrorReason, GetLinkDefinitionRequest, ListLinkDefinitionsRequest, PutLinkDefinitionRequest,
    consistency::Requirement,
};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{
    Nats, TestGateway, Told,
    api::{ACTOR, PROVIDER},
    link, put_link, told, until,
    wire::Wire,
};

const CONFIG: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\neffects = false\n[server]\n";

/// A gateway with these settings of its server, a wire between it and NATS, and one link that stands.
async fn start(server: &str) -> (Nats, Wire, TestGateway) {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::serving_at(wire.url(), &format!("{CONFIG}{server}\n")).await;
    gateway.put(put("stands")).await.unwrap();
    (nats, wire, gateway)
}

fn put(link_name: &str) -> PutLinkDefinitionRequest {
    let mut link = link(ACTOR, PROVIDER, "value");
    link_name.clone_into(&mut link.link_name);
    put_link(link)
}

async fn put_within(gateway: &TestGateway, link_name: &str, time: Duration) -> Result<(), Status> {
    let mut request = Request::new(put(link_name));
    request.set_timeout(time);
    gateway.links().put_link_definition(request).await.map(drop)
}

/// What reads from memory, and asks for health, is served.
async fn others_are_served(gateway: &TestGateway) {
    reads_are_served(gateway).await;
    let health = HealthClient::new(gateway.channel.clone())
        .check(HealthCheckRequest::default())
        .await;
    assert_eq!(health.unwrap().into_inner().status(), ServingStatus::Serving);
}

async fn reads_are_served(gateway: &TestGateway) {
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        link_name: Some("stands".into()),
        consistency: None,
    };
    gateway.links().get_link_definition(get).await.unwrap();
}

async fn names_that_stand(gateway: &TestGateway) -> Vec<String> {
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let list = || ListLinkDefinitionsRequest {
            lattice: "default".into(),
            page_size: 1_000,
            page_token: page_token.clone(),
            consistency: Some(Consistency {
                requirement: Some(Requirement::FullyConsistent(true)),
            }),
            ..ListLinkDefinitionsRequest::default()
        };
        let page = until("the stream is read", async || {
            gateway.links().list_link_definitions(list()).await.ok()
        });
        let page = page.await.into_inner();
        names.extend(page.link_definitions.into_iter().map(|link| link.link_name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

/// Of a metric, as it is scraped.
async fn metric(gateway: &TestGateway, name: &str) -> u64 {
    let metrics = gateway.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |number| number.trim().parse().unwrap())
}

#[tokio::test]
async fn what_a_slow_stream_does_not_take_in_time_is_refused_and_never_stored() {
    const WRITERS: usize = 150;
    /// For so long one would wait, where nothing told that it is in vain.
    const WAITED_FOR: Duration = Duration::from_millis(900);
    let (_nats, wire, gateway) = start("queue_time = \"1ms\"").await;
    let is_enough = AtomicBool::new(false);
    let slow = async {
        while !is_enough.load(Ordering::Relaxed) {
            wire.stall_answers(true);
            sleep(Duration::from_millis(40)).await;
            wire.stall_answers(false);
            sleep(Duration::from_millis(2)).await;
        }
    };
    let writing = join_all((0..WRITERS).map(async |writer| {
        for number in 0.. {
            let name = format!("link-{writer}-{number}");
            let began = Instant::now();
            match gateway.put(put(&name)).await {
                Err(told) if told.reason == ErrorReason::Overloaded => {
                    return Some((name, told, began.elapsed()));
                }
                _ if is_enough.load(Ordering::Relaxed) => return None,
                Ok(_) => {}
                Err(told) => panic!("{told:?}"),
            }
        }
        None
    }));
    let watching = async {
        // The first of them says that all are refused from now on.
        until("some are refused", async || {
            (metric(&gateway, "lattice_gateway_turned_away_total{why=\"overloaded\"}").await > 0)
                .then_some(())
        })
        .await;
        others_are_served(&gateway).await;
        is_enough.store(true, Ordering::Relaxed);
    };
    let ((), refused, ()) = tokio::join!(slow, writing, watching);
    let refused = refused.into_iter().flatten().collect::<Vec<_>>();
    let soonest = refused.iter().map(|(_, _, took)| *took).min();
    assert!(soonest.is_some_and(|took| took < WAITED_FOR), "{soonest:?}");
    let stands = names_that_stand(&gateway).await;
    for (name, told, _) in refused {
        assert_eq!(told.code, Code::ResourceExhausted);
        assert!(told.retry_after.is_some_and(|pause| !pause.is_zero()), "{told:?}");
        assert!(!stands.contains(&name), "{name} was refused");
    }
}

#[tokio::test]
async fn reads_and_health_have_places_that_writers_cannot_take() {
    let (_nats, wire, gateway) = start("in_flight_max = 4").await;
    wire.stall_answers(true);
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let mut links = gateway.links();
        writers.spawn(async move { told(links.put_link_definition(put(&format!("link-{writer}"))).await) });
    }
    until("all places of writers are taken", async || {
        (metric(&gateway, "lattice_gateway_rpc_in_flight").await == 3).then_some(())
    })
    .await;
    let refused = gateway.put(put("one-too-many")).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.reason),
        (Code::ResourceExhausted, ErrorReason::Overloaded)
    );
    assert!(refused.retry_after.is_some());
    others_are_served(&gateway).await;
    wire.stall_answers(false);
    for written in writers.join_all().await {
        written.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_does_not_answer_is_not_waited_for_until_it_answers_again() {
    const SILENT: &str = "lattice_gateway_streams_silent";
    let (_nats, wire, gateway) = start("").await;
    wire.stall(true);
    let mut writers = JoinSet::new();
    let mut links = gateway.links();
    writers.spawn(async move { told(links.put_link_definition(put("in-flight")).await) });

    let mut attempts = 0;
    let mut refused = Vec::new();
    until("calls are turned away", async || {
        attempts += 1;
        let name = format!("attempt-{attempts}");
        let status = put_within(&gateway, &name, Duration::from_millis(500))
            .await
            .unwrap_err();
        if status.code() == Code::Cancelled {
            // By the client's own clock, which a busy machine may let end first.
            return None;
        }
        let told = Told::from(status);
        if told.reason == ErrorReason::BackendUnavailable {
            assert_eq!(told.code, Code::Unavailable);
            assert!(told.retry_after.is_some());
            refused.push(name);
        } else {
            assert_eq!(
                told.reason,
                ErrorReason::OutcomeUnknown,
                "it was let through, and nobody knows"
            );
        }
        (metric(&gateway, "lattice_gateway_turned_away_total{why=\"silent\"}").await > 0).then_some(())
    })
    .await;
    assert_eq!(metric(&gateway, SILENT).await, 1);
    // By now the connection may be known to be a black hole, which health tells.
    reads_are_served(&gateway).await;

    wire.stall(false);
    wire.cut();
    until("it is written again", async || {
        gateway.put(put("after")).await.ok()
    })
    .await;
    until("it is told", async || {
        (metric(&gateway, SILENT).await == 0).then_some(())
    })
    .await;
    writers.join_all().await;
    let stands = names_that_stand(&gateway).await;
    assert!(!refused.is_empty());
    for name in refused {
        assert!(!stands.contains(&name), "{name} was told as not applied");
    }
}
