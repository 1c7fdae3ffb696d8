//! What NATS refuses to provisioning: permissions, and the limits of the account.

use lattice_gateway::proto::{
    ErrorReason, Layout, ProvisionLatticeRequest, ProvisionWadmRequest, StreamAction,
};
use serde_json::json;
use tonic::Code;

use super::{actions, is_refused, of, streams, wadm};
use crate::{
    harness::{Nats, TestGateway, until},
    lattice::provisioned,
};

/// An account with these limits of JetStream, for who names no user.
fn account(limits: &str) -> String {
    format!(
        "accounts {{ A {{ users: [{{user: a, password: b}}], jetstream {{ {limits} }} }} }}\nno_auth_user: a\n"
    )
}

#[tokio::test]
async fn what_was_made_before_the_account_was_full_stays_and_is_completed() {
    let mut nats = Nats::start_with(&account("max_streams: 5")).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let provision = async || wadm::provisioned(&gateway, ProvisionWadmRequest::default()).await;
    let told = provision().await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::ResourceExhausted, ErrorReason::BackendFull)
    );
    for word in [
        "wasmbus_events",
        "maximum number of streams",
        "limits of the NATS account",
    ] {
        assert!(told.message.contains(word), "{}", told.message);
    }
    assert_eq!(streams(&nats).await.as_array().unwrap().len(), 5);

    nats.down("TERM");
    nats.set_extra(&account("max_streams: 8"));
    nats.up().await;
    let answer = until("it is completed", async || provision().await.ok()).await;
    let of = |action| {
        let plans = answer.streams.iter();
        plans.filter(|plan| plan.action() == action).count()
    };
    assert_eq!((of(StreamAction::Unchanged), of(StreamAction::Created)), (5, 3));
}

#[tokio::test]
async fn a_bound_that_the_account_wants_or_has_no_room_for_is_told() {
    let nats = Nats::start_with(&account("max_file: 1MB, max_bytes_required: true")).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let bounded = |max_bytes| ProvisionLatticeRequest {
        max_bytes,
        ..of("default", Layout::Component)
    };
    let told = provisioned(&gateway, bounded(0)).await.unwrap_err();
    is_refused(&told, "max_bytes");
    assert!(told.message.contains("give `max_bytes`"), "{}", told.message);
    // Found out before anything is made.
    let dry = ProvisionLatticeRequest {
        validate_only: true,
        ..bounded(0)
    };
    is_refused(&provisioned(&gateway, dry).await.unwrap_err(), "max_bytes");
    let told = provisioned(&gateway, bounded(1 << 30)).await.unwrap_err();
    assert_eq!(told.reason, ErrorReason::BackendFull, "{told:?}");
    assert!(told.message.contains("KV_CONFIGDATA_default"), "{}", told.message);
    assert_eq!(streams(&nats).await, json!(null));
    let answer = provisioned(&gateway, bounded(400_000)).await.unwrap();
    assert_eq!(
        actions(&answer.streams),
        [
            ("KV_CONFIGDATA_default", StreamAction::Created),
            ("KV_LATTICEDATA_default", StreamAction::Created)
        ]
    );
}

#[tokio::test]
async fn a_call_that_nats_refuses_is_named_and_what_was_made_is_completed_once_it_is_allowed() {
    let denied = "authorization { users: [ { user: restricted, password: secret, permissions: { publish: { \
                  deny: \"$JS.API.STREAM.CREATE.wadm_status\" } } } ] }\nno_auth_user: restricted\n";
    let mut nats = Nats::start_with(denied).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let provision = async || wadm::provisioned(&gateway, ProvisionWadmRequest::default()).await;
    let told = provision().await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::FailedPrecondition, ErrorReason::BackendForbidden)
    );
    assert_eq!(told.metadata["subject"], "$JS.API.STREAM.CREATE.wadm_status");
    let made = [
        "KV_wadm_manifests",
        "KV_wadm_state",
        "wadm_commands",
        "wadm_events",
    ];
    assert_eq!(streams(&nats).await, json!(made));

    nats.down("TERM");
    nats.set_extra("");
    nats.up().await;
    let answer = until("it is completed", async || provision().await.ok()).await;
    let created = answer
        .streams
        .iter()
        .filter(|plan| plan.action() == StreamAction::Created);
    assert_eq!(created.count(), 4);
}

#[tokio::test]
async fn without_jetstream_there_is_nothing_to_provision() {
    let nats = Nats::start_without_jetstream().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let lattice = provisioned(&gateway, of("default", Layout::Kv))
        .await
        .unwrap_err();
    let wadm = wadm::provisioned(&gateway, ProvisionWadmRequest::default())
        .await
        .unwrap_err();
    for told in [lattice, wadm] {
        assert_eq!(told.reason, ErrorReason::JetstreamDisabled);
    }
}
