//! What `/metrics` tells, and that `docs/metrics.md` has all of it.

use std::collections::BTreeSet;

use lattice_gateway::proto::{Outcome, put_link_definition_request::Precondition};
use serde_json::json;

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    link, put_link, until,
};

/// Waits until a scrape has a line.
async fn is_told(gateway: &TestGateway, line: &str) {
    let line = format!("\nlattice_gateway_{line}\n");
    until(&line, async || {
        gateway.metrics().await.contains(&line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn writes_publishes_and_streams_are_told() {
    let nats = Nats::start().await;
    let created = nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let mut put = put_link(link(ACTOR, PROVIDER, "value"));
    put.request_id = "request-0001".to_owned();
    gateway.put(put.clone()).await.unwrap();
    let again = gateway.put(put.clone()).await.unwrap();
    assert_eq!(again.result.unwrap().outcome(), Outcome::AlreadyApplied);
    put.request_id = "request-0002".to_owned();
    put.precondition = Some(Precondition::MustNotExist(true));
    gateway.put(put).await.unwrap_err();
    nats.publish_raw("lc.default.linkdefs.by-hand", "not JSON").await;

    for line in [
        r#"writes_total{outcome="OUTCOME_APPLIED"} 1"#,
        r#"writes_total{outcome="OUTCOME_ALREADY_APPLIED"} 1"#,
        r#"writes_total{outcome="REFUSED"} 1"#,
        r#"publishes_total{result="stored"} 1"#,
        "publish_duration_seconds_count 1",
        r#"stream_sequence{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_last_sequence{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_subjects{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_malformed_messages{lattice="default",stream="LATTICECACHE_default"} 1"#,
        r#"stream_config_differences{lattice="default",stream="LATTICECACHE_default"} 0"#,
        r#"stream_is_writable{lattice="default",stream="LATTICECACHE_default"} 1"#,
    ] {
        is_told(&gateway, line).await;
    }
    let told = told(&gateway.metrics().await);
    let undocumented = told.iter().filter(|name| !documented().contains(name.as_str()));
    assert_eq!(undocumented.count(), 0, "of {told:?}");

    let mut config = created["config"].clone();
    config["max_msgs_per_subject"] = json!(5);
    nats.api("STREAM.UPDATE.LATTICECACHE_default", config).await;
    is_told(
        &gateway,
        r#"stream_is_writable{lattice="default",stream="LATTICECACHE_default"} 0"#,
    )
    .await;
    nats.api("STREAM.DELETE.LATTICECACHE_default", json!(null)).await;
    until("the stream is no longer told of", async || {
        (!gateway.metrics().await.contains("LATTICECACHE_default")).then_some(())
    })
    .await;
}

/// A metric of which nothing was counted yet is not scraped.
#[test]
fn what_is_documented_is_there() {
    let source = include_str!("../../src/telemetry.rs");
    for name in documented() {
        let name = name.strip_prefix("lattice_gateway_").unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}

/// The metrics that `docs/metrics.md` has.
pub(crate) fn documented() -> BTreeSet<&'static str> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').unwrap().0).collect()
}

/// What a scrape tells, by the names that its samples have.
fn told(scraped: &str) -> BTreeSet<String> {
    let types = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.map(|of| match of.split_once(' ').unwrap() {
        (name, "counter") => format!("{name}_total"),
        (name, _) => name.to_owned(),
    });
    names.collect()
}
