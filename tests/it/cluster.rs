//! A stream with three replicas: what changes of its leader, and its loss, may never do.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, future::join_all};
use lattice_gateway::proto::{
    Consistency, ErrorReason, GetLinkDefinitionRequest, Outcome, PutLinkDefinitionRequest,
    consistency::Requirement,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Nats, TestGateway, keys, link, put_link, until};

const LEADER_STEPDOWN: &str = "STREAM.LEADER.STEPDOWN.LATTICECACHE_default";
const STREAM_INFO: &str = "STREAM.INFO.LATTICECACHE_default";

async fn gateway_of(nodes: &[Nats]) -> TestGateway {
    TestGateway::at(&nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")).await
}

/// Puts until it is acknowledged, each attempt a new call on the next gateway; gives the sequence where it stands.
async fn put_surely(gateways: &[TestGateway], mut put: PutLinkDefinitionRequest, first: usize) -> u64 {
    let mut doubtful_since = None;
    for attempt in first.. {
        put.retry_age = doubtful_since.map(|since: Instant| since.elapsed().into());
        let sent = Instant::now();
        match gateways[attempt % gateways.len()].put(put.clone()).await {
            Ok(answer) => return answer.result.unwrap().revision.unwrap().sequence,
            Err(told) if told.reason == ErrorReason::OutcomeUnknown => {
                doubtful_since = doubtful_since.or(Some(sent));
            }
            Err(told) => {
                let not_applied = [ErrorReason::BackendUnavailable, ErrorReason::Contention];
                assert!(not_applied.contains(&told.reason), "{told:?}");
            }
        }
    }
    unreachable!("attempts do not end")
}

async fn fresh_value(gateway: &TestGateway, actor: &str) -> String {
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        ..Default::default()
    };
    let answer = gateway.links().get_link_definition(get).await.unwrap();
    answer.into_inner().link_definition.unwrap().values["value"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_stands_once_through_changes_and_losses_of_the_leader() {
    const WRITERS: usize = 4;
    const WRITES: usize = 60;
    let mut nodes = Nats::start_cluster().await;
    let replicated =
        json!({"num_replicas": 3, "storage": "file", "republish": {"src": ">", "dest": "tap.>"}});
    nodes[0].create_stream("default", replicated).await;
    let tap_client = nodes[0].client().await;
    let mut tap = tap_client.subscribe("tap.>").await.unwrap();
    tap_client.flush().await.unwrap();
    let gateways = [gateway_of(&nodes).await, gateway_of(&nodes).await];

    // Two writers an entry, so that they race, on two entries.
    let actors = [keys::actor(), keys::actor()];
    let provider = keys::provider();
    for actor in &actors {
        put_surely(&gateways, put_link(link(actor, &provider, "begun")), 0).await;
    }
    // Time itself is under test: a record begins with its entry, and a retry that may be older cannot be told.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let writing = join_all((0..WRITERS).map(|writer| {
        let (actors, provider, gateways) = (&actors, &provider, &gateways);
        async move {
            let mut acknowledged = Vec::new();
            for number in 0..WRITES {
                let value = format!("{writer}-{number}");
                let mut put = put_link(link(&actors[writer % 2], provider, &value));
                put.request_id = format!("request-{value}");
                acknowledged.push((put_surely(gateways, put, writer + number).await, value));
            }
            acknowledged
        }
    }));
    let breaking = async {
        for round in 0..3 {
            nodes[0].api(LEADER_STEPDOWN, Value::Null).await;
            until("the stream has a leader", async || {
                let info = nodes[round % 3].api(STREAM_INFO, Value::Null).await;
                info["cluster"]["leader"].as_str().map(drop)
            })
            .await;
        }
    };
    let (acknowledged, ()) = tokio::join!(writing, breaking);
    let acknowledged = acknowledged.into_iter().flatten().collect::<BTreeMap<_, _>>();
    assert_eq!(
        acknowledged.len(),
        WRITERS * WRITES,
        "each write has its own sequence"
    );

    // What the tap saw: nothing that was not acknowledged, and nothing twice. (A leader that steps down may leave a stored
    // message unpublished, so that the tap need not have seen every one.)
    let end = put_surely(&gateways, put_link(link(&keys::actor(), &provider, "end")), 0).await;
    let mut seen = BTreeMap::new();
    loop {
        let message = tokio::time::timeout(Duration::from_secs(10), tap.next()).await;
        let message = message.expect("the tap sees the last write").unwrap();
        let headers = message.headers.unwrap();
        let sequence: u64 = headers.get("Nats-Sequence").unwrap().as_str().parse().unwrap();
        if sequence == end {
            break;
        }
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        let value = body["values"]["value"].as_str().unwrap().to_owned();
        if value != "begun" {
            assert_eq!(
                acknowledged.get(&sequence),
                Some(&value),
                "stored where it was acknowledged"
            );
            assert_eq!(seen.insert(sequence, value), None);
        }
    }
    // The last one acknowledged on each entry stands.
    for (place, actor) in actors.iter().enumerate() {
        let of_entry = acknowledged.iter().rev().find(|(_, value)| {
            let writer = value.split('-').next().unwrap().parse::<usize>().unwrap();
            writer % 2 == place
        });
        let standing = fresh_value(&gateways[0], actor).await;
        assert_eq!(Some(&standing), of_entry.map(|(_, value)| value));
    }

    // A node that held the leader is killed: writes go on once JetStream has another.
    let leader = nodes[0].api(STREAM_INFO, Value::Null).await["cluster"]["leader"].clone();
    let place = nodes.iter().position(|node| leader == node.name()).unwrap();
    nodes[place].down("KILL");
    let mut last = put_link(link(&actors[0], &provider, "last"));
    last.request_id = "request-last".into();
    let sequence = put_surely(&gateways, last.clone(), 0).await;
    nodes[place].up().await;
    // Its retry, once the killed node is back, on every gateway.
    last.retry_age = Some(Duration::from_secs(30).into());
    for gateway in &gateways {
        let again = until("it can be told", async || gateway.put(last.clone()).await.ok()).await;
        let result = again.result.unwrap();
        assert_eq!(result.outcome(), Outcome::AlreadyApplied);
        assert_eq!(
            (result.revision.unwrap().sequence, result.superseded),
            (sequence, false)
        );
    }
}
