//! What providers, dashboards and wadm hear of a write: what a host that is asked for it would tell them.

use std::time::Duration;

use futures_util::StreamExt;
use lattice_gateway::proto::{
    DeleteLinkDefinitionRequest, OciReference, Outcome, PutLinkDefinitionRequest, SetOciReferenceRequest,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Nats, TestGateway, keys, link, put_link, until};

const SOON: Duration = Duration::from_secs(10);

/// Hears everything under `wasmbus.`, on its own connection.
struct Listener(async_nats::Subscriber);

impl Listener {
    async fn on(nats: &Nats) -> Self {
        let client = nats.client().await;
        let all = client.subscribe("wasmbus.>").await.unwrap();
        client.flush().await.unwrap();
        Self(all)
    }

    /// The next message: what it is, and what it says.
    async fn next(&mut self) -> (String, Value) {
        let message = timeout(SOON, self.0.next()).await.unwrap().unwrap();
        let subject = message.subject.as_str();
        if subject.starts_with("wasmbus.evt.") {
            let event = serde_json::from_slice::<Value>(&message.payload).unwrap();
            let kind = event["type"].as_str().unwrap();
            return (kind.rsplit_once('.').unwrap().1.to_owned(), event);
        }
        let notice = rmp_serde::from_slice(&message.payload).unwrap();
        (subject.to_owned(), notice)
    }

    async fn expect(&mut self, what: &str) -> Value {
        let (heard, says) = self.next().await;
        assert_eq!(heard, what, "{says}");
        says
    }
}

fn put_notice(provider: &str) -> String {
    format!("wasmbus.rpc.default.{provider}.default.linkdefs.put")
}

fn delete_notice(provider: &str) -> String {
    format!("wasmbus.rpc.default.{provider}.default.linkdefs.del")
}

fn delete(actor: &str, request_id: &str) -> DeleteLinkDefinitionRequest {
    DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        request_id: request_id.into(),
        allow_missing: true,
        ..Default::default()
    }
}

fn named(request_id: &str, request: PutLinkDefinitionRequest) -> PutLinkDefinitionRequest {
    PutLinkDefinitionRequest {
        request_id: request_id.into(),
        ..request
    }
}

fn outcome_of(result: Option<lattice_gateway::proto::WriteResult>) -> (Outcome, bool) {
    let result = result.unwrap();
    (result.outcome(), result.superseded)
}

#[tokio::test]
async fn a_link_is_told_to_its_provider_and_in_an_event() {
    let nats = Nats::start().await;
    let host = nkeys::KeyPair::new_server().public_key();
    let text = format!("[server]\nhost_key = \"{host}\"\n[lattices.default]\ntrusted_issuers = [\"*\"]\n");
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::serving(&nats, &text).await;
    let mut listener = Listener::on(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());

    gateway.put(put_link(link(&actor, &provider, "a"))).await.unwrap();
    let notice = listener.expect(&put_notice(&provider)).await;
    assert_eq!(
        notice,
        json!({
            "actor_id": actor, "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": notice["id"],
            "link_name": "default", "provider_id": provider, "values": {"value": "a"},
        })
    );
    let event = listener.expect("linkdef_set").await;
    assert_eq!(event["source"], host.as_str());
    assert_eq!(event["data"]["values"], json!({"value": "a"}));
    assert_eq!(event["data"]["id"], notice["id"]);

    let deleted = gateway.links().delete_link_definition(delete(&actor, "")).await;
    deleted.unwrap();
    let notice = listener.expect(&delete_notice(&provider)).await;
    assert_eq!(
        notice["values"],
        json!({"value": "a"}),
        "a provider may need them to let go"
    );
    assert_eq!(notice.get("deleted"), None);
    let event = listener.expect("linkdef_deleted").await;
    assert_eq!(event["data"], notice);
}

#[tokio::test]
async fn putting_again_tells_again() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut listener = Listener::on(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let first = named("request-0001", put_link(link(&actor, &provider, "a")));
    let mut events = Vec::new();
    for (request, outcome) in [
        (first.clone(), Outcome::Applied),
        (first.clone(), Outcome::AlreadyApplied),
        (named("", first.clone()), Outcome::Unchanged),
        (named("request-0002", first.clone()), Outcome::Unchanged),
    ] {
        let answer = gateway.put(request).await.unwrap();
        assert_eq!(outcome_of(answer.result), (outcome, false));
        listener.expect(&put_notice(&provider)).await;
        events.push(listener.expect("linkdef_set").await);
    }
    assert_eq!(
        events[0], events[1],
        "one write, one event, however often it is told"
    );
    assert_ne!(events[0]["id"], events[2]["id"]);

    for (request_id, outcome) in [
        ("request-0003", Outcome::Applied),
        ("request-0003", Outcome::AlreadyApplied),
        ("", Outcome::Unchanged),
    ] {
        let answer = gateway
            .links()
            .delete_link_definition(delete(&actor, request_id))
            .await;
        assert_eq!(outcome_of(answer.unwrap().into_inner().result), (outcome, false));
        listener.expect(&delete_notice(&provider)).await;
        listener.expect("linkdef_deleted").await;
    }
}

#[tokio::test]
async fn a_provider_that_is_no_longer_meant_is_told_so_first() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut listener = Listener::on(&nats).await;
    let (actor, old, new) = (keys::actor(), keys::provider(), keys::provider());
    gateway.put(put_link(link(&actor, &old, "a"))).await.unwrap();
    listener.expect(&put_notice(&old)).await;
    listener.expect("linkdef_set").await;
    gateway.put(put_link(link(&actor, &new, "b"))).await.unwrap();
    let notice = listener.expect(&delete_notice(&old)).await;
    assert_eq!(notice["values"], json!({"value": "a"}));
    listener.expect(&put_notice(&new)).await;
    listener.expect("linkdef_set").await;
}

#[tokio::test]
async fn nobody_is_told_of_what_no_longer_stands() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let first = named("request-0001", put_link(link(&actor, &provider, "a")));
    gateway.put(first.clone()).await.unwrap();
    gateway.put(put_link(link(&actor, &provider, "b"))).await.unwrap();
    let mut listener = Listener::on(&nats).await;
    let answer = gateway.put(first).await.unwrap();
    assert_eq!(outcome_of(answer.result), (Outcome::AlreadyApplied, true));
    let rehearsal = PutLinkDefinitionRequest {
        validate_only: true,
        ..put_link(link(&actor, &provider, "c"))
    };
    gateway.put(rehearsal).await.unwrap();
    gateway.put(put_link(link(&actor, &provider, "d"))).await.unwrap();
    let notice = listener.expect(&put_notice(&provider)).await;
    assert_eq!(notice["values"], json!({"value": "d"}), "the first that is heard");
}

#[tokio::test]
async fn references_are_told_in_an_event_and_a_silent_lattice_tells_nothing() {
    let nats = Nats::start().await;
    for lattice in ["default", "silent"] {
        nats.create_stream(lattice, json!({})).await;
    }
    let text = "[lattices.default]\ntrusted_issuers = [\"*\"]\n\
                [lattices.silent]\ntrusted_issuers = [\"*\"]\neffects = false\n";
    let gateway = TestGateway::serving(&nats, text).await;
    let mut listener = Listener::on(&nats).await;
    let set = |lattice: &str| SetOciReferenceRequest {
        lattice: lattice.to_owned(),
        oci_reference: Some(OciReference {
            oci_url: "registry.example/echo:0.3.4".into(),
            public_key: "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    for lattice in ["silent", "default"] {
        gateway
            .references()
            .set_oci_reference(set(lattice))
            .await
            .unwrap();
    }
    let event = listener.expect("refmap_set").await;
    assert_eq!(event["data"]["oci_url"], "registry.example/echo:0.3.4");
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(r#"lattice_gateway_effects_total{result="sent"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_foreign_provider_that_is_no_token_is_counted_and_the_event_sent() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let body = json!({
        "actor_id": "Mforeign", "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": "x",
        "link_name": "default", "provider_id": "not.one token", "values": {},
    });
    nats.publish_raw("lc.default.linkdefs.x", body.to_string()).await;
    let gateway = TestGateway::dev(&nats).await;
    let mut listener = Listener::on(&nats).await;
    let answer = gateway
        .links()
        .delete_link_definition(delete("Mforeign", ""))
        .await;
    assert_eq!(
        outcome_of(answer.unwrap().into_inner().result),
        (Outcome::Applied, false)
    );
    listener.expect("linkdef_deleted").await;
    until("the count", async || {
        let metrics = gateway.metrics().await;
        metrics
            .contains(r#"lattice_gateway_effects_total{result="no_subject"} 1"#)
            .then_some(())
    })
    .await;
}
