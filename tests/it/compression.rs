//! Compressed requests.

use lattice_gateway::proto::{ErrorReason, WatchRequest, watch_response::Event};
use serde_json::json;
use tonic::codec::CompressionEncoding;

use crate::harness::{Nats, TestGateway, Told, keys, link, put_link};

const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

#[tokio::test]
async fn requests_are_taken_compressed_and_no_answer_is() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let put = put_link(link(&keys::actor(), &keys::provider(), &"x".repeat(1_000)));
    let links = gateway.links().send_compressed(GZIP);
    let answer = links
        .accept_compressed(GZIP)
        .put_link_definition(put)
        .await
        .unwrap();
    assert!(!answer.metadata().contains_key("grpc-encoding"));

    let watch = WatchRequest {
        lattice: "default".into(),
        ..Default::default()
    };
    let mut watches = gateway.watches().send_compressed(GZIP);
    let mut told = watches.watch(watch).await.unwrap().into_inner();
    let first = told.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Snapshot(_))), "{first:?}");
}

#[tokio::test]
async fn a_request_may_be_no_longer_for_being_compressed() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    // In some 64 KiB.
    let mebibytes = "x".repeat(64 * 1024 * 1024);
    let bomb = put_link(link(&keys::actor(), &keys::provider(), &mebibytes));
    let mut links = gateway.links().send_compressed(GZIP);
    let told = Told::from(links.put_link_definition(bomb).await.unwrap_err());
    assert_eq!(told.reason, ErrorReason::LimitExceeded);
    assert_eq!(told.metadata["limit"], "message_bytes_max");

    let watch = WatchRequest {
        lattice: mebibytes,
        ..Default::default()
    };
    let mut watches = gateway.watches().send_compressed(GZIP);
    let told = Told::from(watches.watch(watch).await.unwrap_err());
    assert_eq!(told.reason, ErrorReason::LimitExceeded);
}
