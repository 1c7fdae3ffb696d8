//! Every reason of an error, really reached once: its code, its metadata, and whether to come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::StreamExt;
use lattice_gateway::{
    config::Config,
    control::lattices::Storage,
    proto::{
        Consistency, DeleteConfigRequest, DeleteOciReferenceRequest, ErrorReason, GetInterfaceLinkRequest,
        GetLinkDefinitionRequest, Layout, ListClaimsRequest, ListLatticesRequest, ProvisionLatticeRequest,
        PutClaimsRequest, PutLinkDefinitionRequest, Revision, WatchRequest, consistency::Requirement,
        put_claims_request::Source, put_link_definition_request::Precondition,
    },
};
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACTOR, PROVIDER},
    gateway::{self, caller},
    http2, interface_link, keys, link, named_config, put_config, put_interface_link, put_link, told, until,
    wire::Wire,
};

/// A reason's code, the keys of its metadata, and whether it says when to try again.
type Row = (ErrorReason, Code, &'static [&'static str], Retry);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Retry {
    Advised,
    NotAdvised,
}
use Retry::{Advised, NotAdvised};

const ROWS: [Row; 35] = [
    (ErrorReason::InvalidField, Code::InvalidArgument, &[], NotAdvised),
    (
        ErrorReason::LimitExceeded,
        Code::InvalidArgument,
        &["actual", "limit", "max"],
        NotAdvised,
    ),
    (
        ErrorReason::ClaimsInvalid,
        Code::InvalidArgument,
        &["cause"],
        NotAdvised,
    ),
    (
        ErrorReason::RequestIdReused,
        Code::InvalidArgument,
        &[],
        NotAdvised,
    ),
    (
        ErrorReason::PageTokenInvalid,
        Code::InvalidArgument,
        &[],
        NotAdvised,
    ),
    (
        ErrorReason::ResumeTokenInvalid,
        Code::InvalidArgument,
        &[],
        NotAdvised,
    ),
    (
        ErrorReason::WatchLagged,
        Code::ResourceExhausted,
        &["resume_token"],
        Advised,
    ),
    (
        ErrorReason::LatticeNotGranted,
        Code::PermissionDenied,
        &["lattice", "verb"],
        NotAdvised,
    ),
    (ErrorReason::EntryNotFound, Code::NotFound, &["entry"], NotAdvised),
    (
        ErrorReason::EntryExists,
        Code::AlreadyExists,
        &["entry"],
        NotAdvised,
    ),
    (ErrorReason::EtagMismatch, Code::Aborted, &["entry"], NotAdvised),
    (ErrorReason::Contention, Code::Aborted, &[], NotAdvised),
    (ErrorReason::OutcomeSuperseded, Code::Aborted, &[], NotAdvised),
    (
        ErrorReason::NotProvisioned,
        Code::FailedPrecondition,
        &["lattice"],
        NotAdvised,
    ),
    (
        ErrorReason::StreamConfigDrift,
        Code::FailedPrecondition,
        &["field", "have", "want"],
        NotAdvised,
    ),
    (
        ErrorReason::LayoutUnsupported,
        Code::FailedPrecondition,
        &["layout"],
        NotAdvised,
    ),
    (
        ErrorReason::LayoutAmbiguous,
        Code::FailedPrecondition,
        &["lattice", "setting"],
        NotAdvised,
    ),
    (
        ErrorReason::JetstreamDisabled,
        Code::FailedPrecondition,
        &[],
        NotAdvised,
    ),
    (
        ErrorReason::BackendForbidden,
        Code::FailedPrecondition,
        &["subject"],
        NotAdvised,
    ),
    (
        ErrorReason::RevisionUnavailable,
        Code::FailedPrecondition,
        &[],
        NotAdvised,
    ),
    (ErrorReason::BackendFull, Code::ResourceExhausted, &[], NotAdvised),
    (ErrorReason::Overloaded, Code::ResourceExhausted, &[], Advised),
    (ErrorReason::BackendUnavailable, Code::Unavailable, &[], Advised),
    (ErrorReason::ShuttingDown, Code::Unavailable, &[], Advised),
    (
        ErrorReason::OutcomeUnknown,
        Code::DeadlineExceeded,
        &["request_id"],
        NotAdvised,
    ),
    (ErrorReason::ReadTimedOut, Code::DeadlineExceeded, &[], NotAdvised),
    (ErrorReason::Internal, Code::Internal, &["call_id"], NotAdvised),
    (
        ErrorReason::CredentialsMissing,
        Code::Unauthenticated,
        &[],
        NotAdvised,
    ),
    (
        ErrorReason::CredentialsInvalid,
        Code::Unauthenticated,
        &[],
        NotAdvised,
    ),
    (ErrorReason::RateLimited, Code::ResourceExhausted, &[], Advised),
    (ErrorReason::QuotaExceeded, Code::ResourceExhausted, &[], Advised),
    (
        ErrorReason::LinkConflict,
        Code::FailedPrecondition,
        &["entry"],
        NotAdvised,
    ),
    (
        ErrorReason::AmbiguousLink,
        Code::FailedPrecondition,
        &["targets"],
        NotAdvised,
    ),
    (
        ErrorReason::ConfigNotFound,
        Code::FailedPrecondition,
        &["configs"],
        NotAdvised,
    ),
    (
        ErrorReason::ConfigInUse,
        Code::FailedPrecondition,
        &["link"],
        NotAdvised,
    ),
];

#[tokio::test]
async fn every_reason_is_reached_and_says_what_the_contract_promises() {
    let (callers, requests, links, waits, refusals, full, absent, drained) = tokio::join!(
        of_callers(),
        of_requests(),
        of_later_links(),
        of_a_broken_wire(),
        of_a_restricted_user(),
        of_a_full_server(),
        without_jetstream(),
        while_draining()
    );
    let reached = [callers, requests, links, waits, refusals, full, absent, drained]
        .into_iter()
        .flatten();
    let reached = reached
        .map(|told| (told.reason.as_str_name(), told))
        .collect::<BTreeMap<_, _>>();

    let enums = api::files().into_iter().flat_map(|file| file.enum_type);
    let reasons = enums
        .filter(|of| of.name() == "ErrorReason")
        .flat_map(|of| of.value);
    let defined = reasons
        .filter(|value| value.number() != 0)
        .map(|value| value.name().to_owned())
        .collect::<BTreeSet<_>>();
    let with_row = ROWS.map(|(reason, ..)| reason.as_str_name().to_owned());
    assert_eq!(
        defined,
        with_row.into(),
        "every reason has a row here, and no other"
    );
    // It takes more changes than a gateway remembers: `watch/breaks.rs` has them.
    let here = ROWS
        .iter()
        .filter(|(reason, ..)| *reason != ErrorReason::WatchLagged);
    for (reason, ..) in here {
        let reason = reason.as_str_name();
        let told = reached.get(reason);
        is_as_its_row_says(told.unwrap_or_else(|| panic!("{reason} was never reached")));
    }
    assert_eq!(
        reached["OUTCOME_UNKNOWN"].metadata["request_id"],
        "request-unknown"
    );
    assert_eq!(
        reached["LAYOUT_AMBIGUOUS"].metadata["setting"],
        "lattices.both.layout"
    );
    assert_eq!(reached["INTERNAL"].message, "internal error", "a fixed text");
    for (reason, key, value) in [
        (
            "LINK_CONFLICT",
            "entry",
            "interface_link http-server default wasi http hello",
        ),
        ("AMBIGUOUS_LINK", "targets", "hello, other"),
        ("CONFIG_NOT_FOUND", "configs", "absent, missing"),
        (
            "CONFIG_IN_USE",
            "link",
            "interface_link http-server default wasi http hello",
        ),
    ] {
        assert_eq!(reached[reason].metadata[key], value, "{reason}");
    }
    assert!(reached["BACKEND_FORBIDDEN"].metadata["subject"].starts_with("lc.default.linkdefs."));
}

async fn refused(gateway: &TestGateway, method: &str, request: impl Message + std::fmt::Debug) -> Told {
    match gateway.call(method, request.encode_to_vec()).await {
        Err(status) => Told::from(status),
        Ok(_) => panic!("{method} was accepted: {request:?}"),
    }
}

async fn put_is_refused(gateway: &TestGateway, change: impl FnOnce(&mut PutLinkDefinitionRequest)) -> Told {
    let mut put = put_link(link(ACTOR, PROVIDER, "value"));
    change(&mut put);
    gateway.put(put).await.unwrap_err()
}

/// Holds an error against the row of its reason.
pub fn is_as_its_row_says(told: &Told) {
    let row = ROWS.iter().find(|(reason, ..)| *reason == told.reason);
    let (_, code, metadata, retry) = row.unwrap();
    assert_eq!(told.code, *code, "{told:?}");
    let keys = told.metadata.keys().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(keys, metadata.iter().copied().collect(), "{told:?}");
    assert!(told.metadata.values().all(|value| !value.is_empty()), "{told:?}");
    assert_eq!(told.retry_after.is_some(), *retry == Advised, "{told:?}");
    assert!(told.retry_after.is_none_or(|time| !time.is_zero()), "{told:?}");
    assert!(!told.message.is_empty(), "{told:?}");
}

/// What a caller is refused for, whatever is asked.
async fn of_callers() -> Vec<Told> {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let limits = "limits = { requests_per_second = 1, burst = 1, entries_per_lattice = 0 }";
    let limited = caller("limited", "limited", &["default"], "links:write");
    let config = format!("[lattices.default]\ntrusted_issuers = [\"*\"]\n{limited}{limits}\n");
    let mut gateway = TestGateway::serving_callers(&nats, &config).await;
    let mut told = vec![put_is_refused(&gateway, |_| {}).await];
    for token in ["wrong", "limited", "limited"] {
        gateway = gateway.showing(token);
        told.push(put_is_refused(&gateway, |_| {}).await);
    }
    told
}

/// What the request alone, or what stands, is refused for.
async fn of_requests() -> Vec<Told> {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let restricted = TestGateway::serving(&nats, "[lattices.mine]\ntrusted_issuers = [\"*\"]\n").await;
    let mut first = put_link(link(ACTOR, PROVIDER, "first"));
    first.request_id = "request-0001".into();
    let written = gateway.put(first).await.unwrap().result.unwrap();
    let bucket = json!({
        "name": "KV_LATTICEDATA_both", "subjects": ["$KV.LATTICEDATA_both.>"], "max_msgs_per_subject": 1,
    });
    nats.api("STREAM.CREATE.KV_LATTICEDATA_both", bucket).await;
    nats.create_stream("both", Value::Null).await;
    nats.create_stream("drifted", json!({"max_msgs_per_subject": 2}))
        .await;
    // A host's link, at a time at which a first attempt may have come before it.
    let foreign = keys::actor();
    let body = json!({
        "actor_id": foreign, "contract_id": "wasmcloud:keyvalue", "link_name": "default", "provider_id": PROVIDER,
        "values": {},
    });
    nats.publish_raw("lc.default.linkdefs.foreign", body.to_string())
        .await;

    let mut told = of_puts(&gateway, &foreign, &written.etag).await;
    told.push(put_is_refused(&restricted, |_| {}).await);
    told.extend(of_other_calls(&gateway).await);
    told
}

async fn of_puts(gateway: &TestGateway, foreign: &str, etag: &str) -> Vec<Told> {
    let of_absent = |precondition| {
        move |put: &mut PutLinkDefinitionRequest| {
            put.link_definition.as_mut().unwrap().link_name = "absent".into();
            put.precondition = Some(precondition);
        }
    };
    let mut lost = put_link(link(foreign, PROVIDER, "value"));
    lost.request_id = "request-lost".into();
    lost.retry_age = Some(Duration::from_mins(1).into());
    vec![
        put_is_refused(gateway, |put| put.lattice = "a.b".into()).await,
        put_is_refused(gateway, |put| put.lattice = "l".repeat(64)).await,
        put_is_refused(gateway, |put| put.lattice = "drifted".into()).await,
        put_is_refused(gateway, |put| put.request_id = "request-0001".into()).await,
        put_is_refused(gateway, of_absent(Precondition::MustExist(true))).await,
        put_is_refused(gateway, of_absent(Precondition::Etag(etag.to_owned()))).await,
        put_is_refused(gateway, |put| {
            put.precondition = Some(Precondition::MustNotExist(true));
        })
        .await,
        gateway.put(lost).await.unwrap_err(),
    ]
}

async fn of_other_calls(gateway: &TestGateway) -> Vec<Told> {
    let listed = |lattice: &str, page_token: &str| {
        let request = ListClaimsRequest {
            lattice: lattice.into(),
            page_token: page_token.into(),
            ..Default::default()
        };
        refused(gateway, "ClaimsService/ListClaims", request)
    };
    let bad_token = PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Jwt("garbage".into())),
        ..Default::default()
    };
    let delete = DeleteOciReferenceRequest {
        lattice: "default".into(),
        oci_url: Some("echo".into()),
        ..Default::default()
    };
    let other_stream = Revision {
        epoch: 1,
        sequence: 1,
    };
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(Consistency {
            requirement: Some(Requirement::AtLeastAsFresh(other_stream)),
        }),
        ..Default::default()
    };
    let resume = WatchRequest {
        lattice: "default".into(),
        resume_token: "garbage".into(),
        ..Default::default()
    };
    vec![
        listed("default", "garbage").await,
        listed("absent", "").await,
        listed("both", "").await,
        refused(gateway, "ClaimsService/PutClaims", bad_token).await,
        refused(gateway, "OciReferenceService/DeleteOciReference", delete).await,
        refused(gateway, "LinkDefinitionService/GetLinkDefinition", get).await,
        refused(gateway, "WatchService/Watch", resume).await,
    ]
}

/// What links of wasmCloud 1.x and their configs are refused for.
async fn of_later_links() -> Vec<Told> {
    let nats = Nats::start().await;
    let lattice = "[lattices.default]\ntrusted_issuers = [\"*\"]\nlayout = \"component\"\nsettle = \"0s\"\n";
    let gateway = TestGateway::serving(&nats, lattice).await;
    let provision = ProvisionLatticeRequest {
        lattice: "default".into(),
        layout: Layout::Component.into(),
        ..Default::default()
    };
    told(gateway.lattices().provision_lattice(provision).await).unwrap();
    gateway
        .put_config(put_config(named_config("http-cfg", "value")))
        .await
        .unwrap();
    let put = async |target: &str, interface: &str, configs: &[&str]| {
        let mut link = interface_link(target);
        link.interfaces = vec![interface.to_owned()];
        link.source_config = configs.iter().map(|name| (*name).to_owned()).collect();
        gateway.put_interface_link(put_interface_link(link)).await
    };
    put("hello", "incoming-handler", &["http-cfg"]).await.unwrap();
    put("other", "outgoing-handler", &[]).await.unwrap();
    let get = GetInterfaceLinkRequest {
        lattice: "default".into(),
        source_id: Some("http-server".into()),
        wit_namespace: Some("wasi".into()),
        wit_package: Some("http".into()),
        ..Default::default()
    };
    let delete = DeleteConfigRequest {
        lattice: "default".into(),
        name: "http-cfg".into(),
        ..Default::default()
    };
    vec![
        put("third", "incoming-handler", &[]).await.unwrap_err(),
        put("hello", "incoming-handler", &["absent", "http-cfg", "missing"])
            .await
            .unwrap_err(),
        refused(&gateway, "InterfaceLinkService/GetInterfaceLink", get).await,
        refused(&gateway, "ConfigService/DeleteConfig", delete).await,
    ]
}

/// What comes of NATS that does not answer, or is away.
async fn of_a_broken_wire() -> Vec<Told> {
    let nats = Nats::start().await;
    let wire = Wire::to(nats.port()).await;
    let gateway = TestGateway::with(Config::dev(
        wire.url(),
        Some(gateway::new_lattice(Storage::Memory)),
    ))
    .await;
    let mut narrow = Config::dev(wire.url(), Some(gateway::new_lattice(Storage::Memory)));
    narrow.calls.in_flight_max = 1;
    let narrow = TestGateway::with(narrow).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();

    wire.stall_answers(true);
    let unknown = async {
        let mut put = put_link(link(ACTOR, PROVIDER, "unknown"));
        put.request_id = "request-unknown".into();
        let mut put = Request::new(put);
        put.set_timeout(Duration::from_millis(1_500));
        told(gateway.links().put_link_definition(put).await).unwrap_err()
    };
    let contention = async {
        until("the first put is on its way", async || {
            (nats.state("default").await.1 == 2).then_some(())
        })
        .await;
        let mut put = Request::new(put_link(link(ACTOR, PROVIDER, "second")));
        put.set_timeout(Duration::from_secs(1));
        told(gateway.links().put_link_definition(put).await).unwrap_err()
    };
    let late = async {
        let mut list = Request::new(ListLatticesRequest::default());
        list.set_timeout(Duration::from_millis(1_500));
        told(narrow.lattices().list_lattices(list).await).unwrap_err()
    };
    let overloaded = async {
        narrow.are_under_way(1).await;
        told(
            narrow
                .lattices()
                .list_lattices(ListLatticesRequest::default())
                .await,
        )
        .unwrap_err()
    };
    let (unknown, contention, late, overloaded) = tokio::join!(unknown, contention, late, overloaded);

    wire.refuse(true);
    wire.cut();
    wire.stall_answers(false);
    until("the gateway knows that NATS is away", async || {
        gateway
            .metrics()
            .await
            .contains("nats_connected{upstream=\"default\"} 0\n")
            .then_some(())
    })
    .await;
    let away = put_is_refused(&gateway, |_| {}).await;
    vec![unknown, contention, late, overloaded, away]
}

async fn of_a_restricted_user() -> Vec<Told> {
    let user = "authorization { users: [ { user: restricted, password: secret, \
                permissions: { publish: { deny: \"lc.>\" } } } ] }\nno_auth_user: restricted\n";
    let nats = Nats::start_with(user).await;
    let gateway = TestGateway::dev(&nats).await;
    vec![put_is_refused(&gateway, |_| {}).await]
}

async fn of_a_full_server() -> Vec<Told> {
    let nats = Nats::start_bounded("max_memory_store: 1MB").await;
    let gateway = TestGateway::dev(&nats).await;
    for number in 0..10 {
        let mut put = put_link(link(ACTOR, PROVIDER, &"x".repeat(400_000)));
        put.link_definition.as_mut().unwrap().link_name = number.to_string();
        if let Err(told) = gateway.put(put).await {
            return vec![told];
        }
    }
    panic!("4 MB fitted into 1 MB");
}

async fn without_jetstream() -> Vec<Told> {
    let nats = Nats::start_without_jetstream().await;
    let gateway = TestGateway::dev(&nats).await;
    let disabled = put_is_refused(&gateway, |_| {}).await;
    // Somebody who is not JetStream answers in its place.
    let client = nats.client().await;
    let mut asked = client.subscribe("$JS.API.STREAM.NAMES").await.unwrap();
    let answering = async {
        while let Some(asked) = asked.next().await {
            client
                .publish(asked.reply.unwrap(), "not JSON".into())
                .await
                .unwrap();
        }
    };
    // A flush does not tell that the server knows of the subscription by now.
    let internal = until("it is answered in JetStream's place", async || {
        let list = ListLatticesRequest::default();
        let told = refused(&gateway, "LatticeService/ListLattices", list).await;
        (told.reason == ErrorReason::Internal).then_some(told)
    });
    let internal = tokio::select! {
        internal = internal => internal,
        () = answering => panic!("the subscription ended"),
    };
    vec![disabled, internal]
}

/// A call that reaches the server after it began to drain, before the client hears of it.
async fn while_draining() -> Vec<Told> {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (grpc, admin) = (gateway.running.grpc, gateway.running.admin);
    let wire = Wire::to(grpc.port()).await;
    let channel = tonic::transport::Endpoint::from_shared(wire.url().replace("nats", "http"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = lattice_gateway::proto::lattice_service_client::LatticeServiceClient::new(channel);
    client
        .list_lattices(ListLatticesRequest::default())
        .await
        .unwrap();
    // As long as one call is under way, the server does not come to its end.
    let mut held = http2::Connection::open(grpc, 65_535).await.unwrap();
    held.send(&http2::call(1, "LatticeService/ListLattices"))
        .await
        .unwrap();
    gateway.are_under_way(1).await;
    wire.stall_answers(true);
    let refusal = async {
        until("the server drains", async || {
            tokio::net::TcpStream::connect(grpc).await.is_err().then_some(())
        })
        .await;
        let call = client.list_lattices(ListLatticesRequest::default());
        let refused = async {
            until("the call was refused", async || {
                gateway::metrics(admin)
                    .await
                    .contains("code=\"UNAVAILABLE\"")
                    .then_some(())
            })
            .await;
            wire.stall_answers(false);
        };
        let (answer, ()) = tokio::join!(call, refused);
        drop(held);
        told(answer).unwrap_err()
    };
    let ((), refusal) = tokio::join!(gateway.running.shut_down(), refusal);
    vec![refusal]
}
