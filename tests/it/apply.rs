//! Many changes over one call: each as if it had come alone, in the order of its entry, and none that stops another.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use futures_util::stream;
use lattice_gateway::{
    config::Config,
    control::lattices::Layout,
    proto::{
        ApplyManifestRequest, ApplyManifestResponse, ApplyRequest, ApplyResponse, Consistency,
        DeleteInterfaceLinkRequest, ErrorReason, GetLinkDefinitionRequest, Outcome, PutClaimsRequest,
        PutLinkDefinitionRequest, WriteResult, apply_request::Operation,
        apply_service_client::ApplyServiceClient, consistency::Requirement, put_claims_request::Source,
    },
};
use nkeys::KeyPair;
use prost::Message;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, IntoStreamingRequest, Streaming, transport::Endpoint};

use crate::harness::{
    Bucket, Nats, TestGateway, Told,
    api::{self, ACTOR, CHANGES, PROVIDER, outcome_of},
    gateway::caller,
    interface_link,
    issuer::Issuer,
    keys, link, put_interface_link, put_link, told, until,
};

const LATTICE: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\n";
const WRITER: &str = "read values:read claims:write links:write refs:write config:write";

fn request(id: impl Into<String>, operation: Operation) -> ApplyRequest {
    ApplyRequest {
        id: id.into(),
        operation: Some(operation),
    }
}

fn put(link: lattice_gateway::proto::LinkDefinition) -> Operation {
    Operation::PutLinkDefinition(put_link(link))
}

fn put_new(value: &str) -> Operation {
    put(link(&keys::actor(), PROVIDER, value))
}

/// A stream of operations that stays open.
struct Applying {
    operations: mpsc::Sender<ApplyRequest>,
    answers: Streaming<ApplyResponse>,
}

impl Applying {
    async fn open(gateway: &TestGateway) -> Self {
        Self::open_by(gateway.applying()).await.unwrap()
    }

    async fn open_by<T>(mut client: ApplyServiceClient<T>) -> Result<Self, Told>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<tonic::codegen::StdError>,
        T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
        <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
    {
        let (operations, sent) = mpsc::channel(1);
        let answers = told(client.apply(ReceiverStream::new(sent)).await)?;
        Ok(Self { operations, answers })
    }

    async fn send(&self, request: ApplyRequest) {
        self.operations.send(request).await.unwrap();
    }

    /// The next answer; an error of the call, or `None` where it ended well.
    async fn answer(&mut self) -> Result<Option<(String, Result<WriteResult, Told>)>, Told> {
        let next = self.answers.message().await.map_err(Told::from)?;
        Ok(next.map(|response| (response.id.clone(), outcome_of(response).map_err(Told::from))))
    }

    /// Sends one and waits for its answer.
    async fn apply(&mut self, operation: Operation) -> Result<WriteResult, Told> {
        self.send(request("the one", operation)).await;
        let (id, outcome) = self.answer().await.unwrap().unwrap();
        assert_eq!(id, "the one");
        outcome
    }
}

/// Applies all of them over one call; what became of each, by its id.
async fn apply(
    gateway: &TestGateway,
    operations: impl IntoIterator<Item = ApplyRequest, IntoIter: Send + 'static>,
) -> BTreeMap<String, Result<WriteResult, Told>> {
    let sent = stream::iter(operations).into_streaming_request();
    let mut answers = told(gateway.applying().apply(sent).await).unwrap();
    let mut outcomes = BTreeMap::new();
    while let Some(response) = answers.message().await.unwrap() {
        let id = response.id.clone();
        let outcome = outcome_of(response).map_err(Told::from);
        assert!(outcomes.insert(id.clone(), outcome).is_none(), "{id} twice");
    }
    outcomes
}

async fn manifest(
    gateway: &TestGateway,
    operations: impl IntoIterator<Item = Operation>,
    change: impl FnOnce(&mut ApplyManifestRequest),
) -> Result<Vec<Result<WriteResult, Told>>, Told> {
    let operations = operations.into_iter().enumerate();
    let mut asked = ApplyManifestRequest {
        operations: operations
            .map(|(number, operation)| request(number.to_string(), operation))
            .collect(),
        ..Default::default()
    };
    change(&mut asked);
    let ApplyManifestResponse { results } = told(gateway.applying().apply_manifest(asked).await)?;
    let ids = results.iter().map(|result| result.id.clone()).collect::<Vec<_>>();
    let expected = (0..results.len()).map(|number| number.to_string());
    assert_eq!(ids, expected.collect::<Vec<_>>());
    let results = results.into_iter();
    Ok(results
        .map(|result| outcome_of(result).map_err(Told::from))
        .collect())
}

/// A gateway on the lattice `default`, which exists, with these callers.
async fn gateway_for(nats: &Nats, callers: &str) -> TestGateway {
    nats.create_stream("default", Value::Null).await;
    TestGateway::serving_callers(nats, &format!("{LATTICE}{callers}")).await
}

fn reason(outcome: &Result<WriteResult, Told>) -> Option<ErrorReason> {
    outcome.as_ref().err().map(|told| told.reason)
}

/// A number from the metrics; 0 where it is not there.
async fn metric(gateway: &TestGateway, name: &str) -> u64 {
    let metrics = gateway.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

const LINKS_PUT: &str = "lattice_gateway_rpc_total{method=\"PutLinkDefinition\",code=\"OK\"} ";

#[test]
fn every_operation_is_a_method_of_its_service() {
    let files = api::files();
    let messages = files.iter().flat_map(|file| &file.message_type);
    let of_apply = messages.filter(|message| message.name() == "ApplyRequest");
    let fields = of_apply.flat_map(|message| &message.field);
    let operations = fields.filter_map(|field| field.type_name().rsplit('.').next()?.strip_suffix("Request"));
    let changes = CHANGES.map(|method| method.split_once('/').unwrap().1);
    assert_eq!(
        operations.collect::<BTreeSet<_>>(),
        changes.into_iter().collect::<BTreeSet<_>>()
    );
    let of_the_api = api::methods();
    let of_the_api = of_the_api.iter().filter(|method| {
        let (_, name) = method.split_once('/').unwrap();
        ["Put", "Set", "Delete"].iter().any(|verb| name.starts_with(verb))
    });
    assert_eq!(
        of_the_api.map(String::as_str).collect::<BTreeSet<_>>(),
        CHANGES.into_iter().collect()
    );
}

#[tokio::test]
async fn an_operation_comes_to_what_its_own_method_would() {
    for layout in [Layout::CacheStream, Layout::Kv, Layout::Component] {
        let nats = Nats::start().await;
        let gateway = TestGateway::dev_with(&nats, layout).await;
        let mut applying = Applying::open(&gateway).await;
        let mut answered = 0;
        for method in CHANGES {
            let alone = gateway.call(method, api::valid_request(method, "alone")).await;
            let alone = alone.map_err(Told::from).err();
            let applied = applying.apply(api::valid_operation(method, "applied")).await;
            let whole = manifest(&gateway, [api::valid_operation(method, "whole")], |_| {})
                .await
                .unwrap()
                .remove(0);
            for (how, outcome) in [("Apply", applied), ("ApplyManifest", whole)] {
                match (&alone, outcome) {
                    (None, Ok(result)) => {
                        answered += 1;
                        let is_delete = method.contains("/Delete");
                        assert_eq!(result.etag.is_empty(), is_delete, "{how}: {method}");
                    }
                    (Some(alone), Err(told)) => {
                        assert_eq!(
                            (alone.code, alone.reason, &alone.fields, &alone.metadata),
                            (told.code, told.reason, &told.fields, &told.metadata),
                            "{how}: {method}"
                        );
                        assert_eq!(alone.message, told.message, "{how}: {method}");
                    }
                    (alone, outcome) => panic!("{how}: {method}: {alone:?}, {outcome:?}"),
                }
            }
        }
        assert!(answered >= 6, "{layout:?}: {answered}");
    }
}

#[tokio::test]
async fn operations_on_one_entry_are_applied_as_they_were_sent() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let actors = (0..10).map(|_| keys::actor()).collect::<Vec<_>>();
    let operations = (0..1_000).map(|number| {
        let link = link(&actors[number % 10], PROVIDER, &number.to_string());
        request(format!("{number:04}"), put(link))
    });
    let outcomes = apply(&gateway, operations.collect::<Vec<_>>()).await;
    assert_eq!(outcomes.len(), 1_000);
    let mut latest = [0; 10];
    for (place, outcome) in outcomes.values().enumerate() {
        let result = outcome.as_ref().unwrap();
        assert_eq!(result.outcome(), Outcome::Applied);
        let sequence = result.revision.unwrap().sequence;
        assert!(sequence > latest[place % 10], "operation {place}");
        latest[place % 10] = sequence;
    }
    for (place, actor) in actors.iter().enumerate() {
        assert_eq!(value_of(&gateway, actor).await, (990 + place).to_string());
    }
}

async fn value_of(gateway: &TestGateway, actor: &str) -> String {
    let get = GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        ..Default::default()
    };
    let got = told(gateway.links().get_link_definition(get).await).unwrap();
    got.link_definition.unwrap().values["value"].clone()
}

#[tokio::test]
async fn a_delete_of_any_target_stands_in_the_line_of_every_target() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let delete = || {
        Operation::DeleteInterfaceLink(DeleteInterfaceLinkRequest {
            lattice: "default".into(),
            source_id: Some("http-server".into()),
            wit_namespace: Some("wasi".into()),
            wit_package: Some("http".into()),
            ..Default::default()
        })
    };
    let put = |target: &str| Operation::PutInterfaceLink(put_interface_link(interface_link(target)));
    let operations = (0..20).flat_map(|round| [put(&format!("target-{round}")), delete()]);
    let operations = operations.enumerate();
    let operations = operations.map(|(number, operation)| request(format!("{number:02}"), operation));
    let outcomes = apply(&gateway, operations.collect::<Vec<_>>()).await;
    for (id, outcome) in &outcomes {
        let result = outcome.as_ref().unwrap_or_else(|told| panic!("{id}: {told:?}"));
        assert_eq!(result.outcome(), Outcome::Applied, "{id}");
    }
    let record = Bucket::data(&nats, "default")
        .await
        .value("COMPONENT_http-server")
        .await;
    assert_eq!(record["links"], json!([]));
}

#[tokio::test]
async fn one_that_fails_fails_alone() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut bad = link("nobody", PROVIDER, "value");
    bad.contract_id = "no spaces".into();
    let mut absent = put_link(link(&keys::actor(), PROVIDER, "value"));
    absent.precondition =
        Some(lattice_gateway::proto::put_link_definition_request::Precondition::MustExist(true));
    let long = "x".repeat(129);
    let nothing = ApplyRequest {
        id: "nothing".into(),
        operation: None,
    };
    let forged = PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Jwt("a.b.c".into())),
        ..Default::default()
    };
    let outcomes = apply(
        &gateway,
        vec![
            request("bad", put(bad)),
            nothing,
            request(long.clone(), put_new("value")),
            request("forged", Operation::PutClaims(forged)),
            request("absent", Operation::PutLinkDefinition(absent)),
            request("good", put_new("value")),
            request("x".repeat(128), put_new("value")),
            request("", put_new("value")),
        ],
    )
    .await;
    let fields = |id: &str| outcomes[id].as_ref().unwrap_err().fields.clone();
    for (id, reason_of, fields_of) in [
        (
            "bad",
            ErrorReason::InvalidField,
            &["link_definition.actor_id", "link_definition.contract_id"][..],
        ),
        ("nothing", ErrorReason::InvalidField, &["operation"]),
        (&long, ErrorReason::InvalidField, &["id"]),
        ("forged", ErrorReason::ClaimsInvalid, &["jwt"]),
        ("absent", ErrorReason::EntryNotFound, &[]),
    ] {
        assert_eq!(reason(&outcomes[id]), Some(reason_of), "{id}");
        assert_eq!(fields(id), fields_of, "{id}");
    }
    assert_eq!(outcomes.values().filter(|outcome| outcome.is_ok()).count(), 3);
    // What is no message ends the call, with the reason that a single call would have.
    let unreadable = gateway.call("ApplyService/Apply", vec![0xff; 10]).await;
    assert_eq!(
        Told::from(unreadable.unwrap_err()).reason,
        ErrorReason::InvalidField
    );
    let large = request("large", put_new(&"x".repeat(1024 * 1024)));
    let large = gateway.call("ApplyService/Apply", large.encode_to_vec()).await;
    let large = Told::from(large.unwrap_err());
    assert_eq!(large.reason, ErrorReason::LimitExceeded);
    assert_eq!(large.metadata["limit"], "message_bytes_max");
}

#[tokio::test]
async fn a_retry_may_come_by_the_other_way() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut applying = Applying::open(&gateway).await;
    let mut first = put_link(link(ACTOR, PROVIDER, "first"));
    first.request_id = "request-0001".into();
    let applied = applying
        .apply(Operation::PutLinkDefinition(first.clone()))
        .await
        .unwrap();
    first.retry_age = Some(Duration::from_secs(1).into());
    let again = gateway.put(first.clone()).await.unwrap().result.unwrap();
    assert_eq!(again.outcome(), Outcome::AlreadyApplied);
    assert_eq!(again.revision, applied.revision);
    let other = applying
        .apply(Operation::PutLinkDefinition(PutLinkDefinitionRequest {
            link_definition: Some(link(ACTOR, PROVIDER, "other")),
            ..first.clone()
        }))
        .await;
    assert_eq!(reason(&other), Some(ErrorReason::RequestIdReused));

    let mut second = put_link(link(ACTOR, PROVIDER, "second"));
    second.request_id = "request-0002".into();
    let alone = gateway.put(second.clone()).await.unwrap().result.unwrap();
    second.retry_age = Some(Duration::from_secs(1).into());
    let again = applying
        .apply(Operation::PutLinkDefinition(second))
        .await
        .unwrap();
    assert_eq!(again.outcome(), Outcome::AlreadyApplied);
    assert_eq!(again.revision, alone.revision);
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_not_read_until_it_does() {
    const ALL: usize = 5_000;
    /// The bound, what one frame of answers holds, and a little.
    const TAKEN_MAX: u64 = 256 + 600;
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    // Room for about one answer on the way.
    let channel = Endpoint::from_shared(format!("http://{}", gateway.running.grpc))
        .unwrap()
        .initial_stream_window_size(64)
        .connect()
        .await
        .unwrap();
    let actors = (0..100).map(|_| keys::actor()).collect::<Vec<_>>();
    let (sent, mut count) = tokio::sync::watch::channel(0_usize);
    let operations = (0..ALL).map(move |number| {
        sent.send_replace(number);
        // Together more than HTTP/2 keeps on the way.
        let link = link(&actors[number % 100], PROVIDER, &format!("{number:01000}"));
        request(number.to_string(), put(link))
    });
    let mut client = ApplyServiceClient::new(channel);
    let mut answers = told(client.apply(stream::iter(operations)).await).unwrap();
    // It is stuck once neither side gets on while another call does.
    let (mut before, mut looks) = ((0, 0), 0);
    until("the stream is stuck", async || {
        gateway
            .put(put_link(link(ACTOR, PROVIDER, &looks.to_string())))
            .await
            .unwrap();
        looks += 1;
        let now = (
            metric(&gateway, LINKS_PUT).await - looks,
            *count.borrow_and_update(),
        );
        let is_stuck = now == before && now.0 >= 256;
        before = now;
        is_stuck.then_some(())
    })
    .await;
    let (taken, sent) = before;
    assert!(taken <= TAKEN_MAX, "{taken} were taken");
    assert!(sent < ALL - 1, "all were sent");
    let mut answered = BTreeSet::new();
    while let Some(response) = answers.message().await.unwrap() {
        let id = response.id.clone();
        outcome_of(response).unwrap();
        assert!(answered.insert(id));
    }
    assert_eq!(answered.len(), ALL);
}

#[tokio::test]
async fn of_a_client_that_goes_away_what_was_begun_ends_and_nothing_more_begins() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let actors = [keys::actor(), keys::actor()];
    for actor in &actors {
        gateway
            .put(put_link(link(actor, PROVIDER, "before")))
            .await
            .unwrap();
    }
    nats.hold().await;
    let applying = Applying::open(&gateway).await;
    for number in 0..20 {
        let link = link(&actors[number % 2], PROVIDER, &number.to_string());
        applying.send(request(number.to_string(), put(link))).await;
    }
    // The stream and one of each entry.
    gateway.are_under_way(3).await;
    drop(applying);
    gateway.are_under_way(0).await;
    nats.release();
    for (place, actor) in actors.iter().enumerate() {
        // In line behind what was begun.
        gateway
            .put(put_link(link(actor, PROVIDER, "after")))
            .await
            .unwrap();
        assert_eq!(value_of(&gateway, actor).await, "after", "{place}");
    }
    assert_eq!(nats.state("default").await.1, 2 + 2 + 2, "before, begun, after");
}

#[tokio::test]
async fn a_server_that_drains_answers_what_it_took_and_says_so() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "before")))
        .await
        .unwrap();
    let mut busy = Applying::open(&gateway).await;
    let mut idle = Applying::open(&gateway).await;
    busy.apply(put_new("value")).await.unwrap();
    nats.hold().await;
    for number in 0..20 {
        let link = link(ACTOR, PROVIDER, &number.to_string());
        busy.send(request(number.to_string(), put(link))).await;
    }
    // Two streams, and the first operation of the line.
    gateway.are_under_way(3).await;
    let began = Instant::now();
    let shut_down = gateway.running.shut_down();
    let told = async {
        let idle = idle.answer().await.unwrap_err();
        nats.release();
        let mut answered = 0;
        let end = loop {
            match busy.answer().await {
                Ok(Some((id, outcome))) => {
                    assert_eq!(id, answered.to_string());
                    assert_eq!(outcome.unwrap().outcome(), Outcome::Applied);
                    answered += 1;
                }
                Ok(None) => panic!("the call ended well"),
                Err(told) => break told,
            }
        };
        (idle, answered, end)
    };
    let ((), (idle, answered, end)) = tokio::join!(shut_down, told);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    for told in [idle, end] {
        assert_eq!(
            (told.code, told.reason),
            (Code::Unavailable, ErrorReason::ShuttingDown)
        );
        assert!(told.retry_after.is_some());
    }
    // What was not answered was not begun.
    assert!((1..=20).contains(&answered), "{answered}");
    let stored = nats.state("default").await.1;
    assert_eq!(stored, 2 + answered, "the two before, and the answered");
}

#[tokio::test]
async fn a_connection_that_is_old_ends_its_streams_in_good_order() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let text = format!(
        "{LATTICE}[server]\nconnection_age_max = \"300ms\"\n{}",
        caller("writer", "writes", &["default"], WRITER)
    );
    let gateway = TestGateway::serving_callers(&nats, &text).await.showing("writes");
    let mut applied = 0_u64;
    let mut reopened = 0;
    while reopened < 3 {
        let mut applying = Applying::open(&gateway).await;
        let end = loop {
            // The next one may be on its way when the stream ends.
            let sent = applying.operations.try_send(request("", put_new("value")));
            match applying.answer().await {
                Ok(Some((_, outcome))) => {
                    outcome.unwrap();
                    applied += 1;
                }
                Ok(None) => panic!("the call ended well"),
                Err(told) => break told,
            }
            drop(sent);
        };
        assert_eq!(end.reason, ErrorReason::ShuttingDown);
        reopened += 1;
    }
    assert!(applied > 0);
    assert_eq!(
        nats.state("default").await.1,
        applied,
        "what was not answered was not begun"
    );
}

#[tokio::test]
async fn a_stream_outlives_the_deadlines_of_calls_and_ends_with_its_own() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let text = format!(
        "{LATTICE}[server]\ndefault_deadline = \"300ms\"\ndeadline_max = \"400ms\"\n{}",
        caller("writer", "writes", &["default"], WRITER)
    );
    let gateway = TestGateway::serving_callers(&nats, &text).await.showing("writes");
    let mut applying = Applying::open(&gateway).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        applying.apply(put_new("value")).await.unwrap();
    }
    // An operation has the default from its turn on.
    nats.hold().await;
    let late = applying.apply(put_new("value")).await;
    assert_eq!(reason(&late), Some(ErrorReason::OutcomeUnknown));
    nats.release();
    applying.apply(put_new("value")).await.unwrap();

    let (operations, sent) = mpsc::channel(1);
    let mut call = tonic::Request::new(ReceiverStream::new(sent));
    call.set_timeout(Duration::from_millis(800));
    let mut answers = gateway.applying().apply(call).await.unwrap().into_inner();
    let began = Instant::now();
    let end = loop {
        drop(operations.try_send(request("", put_new("value"))));
        match answers.message().await {
            // One whose turn comes too late has no time left.
            Ok(Some(response)) => drop(outcome_of(response)),
            Ok(None) => panic!("the call ended well"),
            Err(status) => break status,
        }
    };
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(end.code(), Code::DeadlineExceeded);
    assert_eq!(Told::from(end).reason, ErrorReason::ReadTimedOut);
}

#[tokio::test]
async fn a_caller_that_may_have_one_request_in_flight_gets_on() {
    let nats = Nats::start().await;
    let limited = format!(
        "{}limits = {{ in_flight = 1 }}\n",
        caller("limited", "limited", &["default"], WRITER)
    );
    let gateway = gateway_for(&nats, &limited).await.showing("limited");
    let operations = (0..50).map(|number| request(number.to_string(), put_new("value")));
    let outcomes = apply(&gateway, operations.collect::<Vec<_>>()).await;
    assert_eq!(outcomes.values().filter(|outcome| outcome.is_ok()).count(), 50);
    let results = manifest(&gateway, (0..50).map(|_| put_new("value")), |_| {}).await;
    assert!(results.unwrap().iter().all(Result::is_ok));

    // A stream is a call: while it is open there is no place for another.
    let mut applying = Applying::open(&gateway).await;
    applying.apply(put_new("value")).await.unwrap();
    let alone = gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap_err();
    assert_eq!(alone.reason, ErrorReason::RateLimited);
    let second = Applying::open_by(gateway.applying()).await.err().unwrap();
    assert_eq!(second.reason, ErrorReason::RateLimited);
    applying.apply(put_new("value")).await.unwrap();
    drop(applying);
    until("its place is free again", async || {
        gateway.put(put_link(link(ACTOR, PROVIDER, "value"))).await.ok()
    })
    .await;
}

#[tokio::test]
async fn operations_wait_for_the_callers_rate() {
    let nats = Nats::start().await;
    let limited = format!(
        "{}limits = {{ requests_per_second = 50, burst = 5 }}\n",
        caller("limited", "limited", &["default"], WRITER)
    );
    let gateway = gateway_for(&nats, &limited).await.showing("limited");
    let began = Instant::now();
    let operations = (0..35).map(|number| request(number.to_string(), put_new("value")));
    let outcomes = apply(&gateway, operations.collect::<Vec<_>>()).await;
    assert_eq!(outcomes.values().filter(|outcome| outcome.is_ok()).count(), 35);
    // The call, and 35: 31 beyond the burst, 20 ms each.
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn streams_leave_places_to_other_calls() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let text = format!(
        "{LATTICE}[server]\nin_flight_max = 8\n{}",
        caller("writer", "writes", &["default"], WRITER)
    );
    let gateway = TestGateway::serving_callers(&nats, &text).await.showing("writes");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Applying::open(&gateway).await);
    }
    let fifth = Applying::open_by(gateway.applying()).await.err().unwrap();
    assert_eq!(
        (fifth.code, fifth.reason),
        (Code::ResourceExhausted, ErrorReason::Overloaded)
    );
    // All of their places are taken, and still each gets on, and so do calls.
    for applying in &mut open {
        applying.apply(put_new("value")).await.unwrap();
    }
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    open.pop();
    until("a place is free again", async || {
        Applying::open_by(gateway.applying()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn each_operation_needs_its_own_grant() {
    let nats = Nats::start().await;
    nats.create_stream("other", Value::Null).await;
    let callers = caller("writer", "writes", &["default"], "links:write");
    let gateway = gateway_for(
        &nats,
        &format!("[lattices.other]\ntrusted_issuers = [\"*\"]\n{callers}"),
    )
    .await
    .showing("writes");
    let mut foreign = put_link(link(ACTOR, PROVIDER, "value"));
    foreign.lattice = "other".into();
    let foreign = || Operation::PutLinkDefinition(foreign.clone());
    let unsigned = api::valid_operation("ClaimsService/PutClaims", "default");
    let outcomes = apply(
        &gateway,
        [
            request("foreign", foreign()),
            request("claims", unsigned),
            request("own", put_new("value")),
        ],
    )
    .await;
    assert!(outcomes["own"].is_ok());
    for (id, lattice, verb) in [
        ("foreign", "other", "links:write"),
        ("claims", "default", "claims:write"),
    ] {
        let told = outcomes[id].as_ref().unwrap_err();
        assert_eq!(
            (told.code, told.reason),
            (Code::PermissionDenied, ErrorReason::LatticeNotGranted)
        );
        assert_eq!(
            (&*told.metadata["lattice"], &*told.metadata["verb"]),
            (lattice, verb)
        );
    }
    // Of a manifest none is written.
    let before = nats.state("default").await;
    let refused = manifest(&gateway, [put_new("value"), foreign()], |_| {})
        .await
        .unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LatticeNotGranted);
    assert_eq!(nats.state("default").await, before);
    assert_eq!(nats.state("other").await.1, 0);
}

fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn each_operation_has_a_record_and_the_call_has_none() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let audited = format!(
        "{}[audit]\nto = {file:?}\n",
        caller("writer", "canary-token", &["default"], WRITER)
    );
    let gateway = gateway_for(&nats, &audited).await.showing("canary-token");
    let taken = || {
        let text = records(&file).into_iter();
        let shown = text.map(|record| {
            assert_eq!(record["caller"], "writer", "{record}");
            assert!(
                record["credential"].is_string() && record["address"].is_string(),
                "{record}"
            );
            let text = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            (text("method"), text("outcome"))
        });
        let mut shown = shown.collect::<Vec<_>>();
        shown.sort();
        std::fs::write(&file, "").unwrap();
        shown
    };
    let pair = |method: &str, outcome: &str| (method.to_owned(), outcome.to_owned());
    let reference = || api::valid_operation("OciReferenceService/SetOciReference", "default");
    let delete = || api::valid_operation("ClaimsService/DeleteClaims", "default");
    let bad = || put(link("nobody", PROVIDER, "value"));
    let operations = [put_new("canary-value"), reference(), delete(), bad()];
    let operations = operations.into_iter().enumerate();
    let operations = operations.map(|(number, operation)| request(number.to_string(), operation));
    apply(&gateway, operations.collect::<Vec<_>>()).await;
    assert_eq!(
        taken(),
        [
            pair("DeleteClaims", "LAYOUT_UNSUPPORTED"),
            pair("PutLinkDefinition", "INVALID_FIELD"),
            pair("PutLinkDefinition", "OUTCOME_APPLIED"),
            pair("SetOciReference", "OUTCOME_APPLIED"),
        ]
    );
    manifest(&gateway, [put_new("canary-value"), delete()], |_| {})
        .await
        .unwrap();
    assert_eq!(
        taken(),
        [
            pair("DeleteClaims", "LAYOUT_UNSUPPORTED"),
            pair("PutLinkDefinition", "OUTCOME_APPLIED")
        ]
    );
    // Of a manifest that is refused each is recorded with why.
    manifest(&gateway, [reference(), bad()], |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        taken(),
        [
            pair("PutLinkDefinition", "INVALID_FIELD"),
            pair("SetOciReference", "INVALID_FIELD")
        ]
    );
    assert!(!gateway.metrics().await.contains("canary"));
}

#[tokio::test]
async fn who_is_no_caller_any_more_is_shut_out_and_changed_grants_count_at_once() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let issuer = Issuer::in_folder(folder.path());
    let text = |callers: &str| {
        let jwt = issuer.section();
        let by_jwt = "[callers.by-jwt]\njwt = [{ issuer = \"corp\", claims = { sub = \"ci\" } }]\ngrants = [{ lattices = [\"default\"], verbs = [\"links:write\"] }]\n";
        let nats = format!(
            "[nats]\nservers = {:?}\n[server]\nlisten = \"127.0.0.1:0\"\n",
            nats.url()
        );
        std::fs::write(
            &file,
            format!("{LATTICE}{nats}{jwt}leeway = \"0s\"\n{by_jwt}{callers}"),
        )
        .unwrap();
    };
    let one = |verbs: &str| caller("one", "first-token", &["default"], verbs);
    text(&one("links:write"));
    let gateway = TestGateway::with(Config::read(&file).unwrap()).await;

    let gateway = gateway.showing(&issuer.token_for("ci", 2));
    let mut by_jwt = Applying::open(&gateway).await;
    by_jwt.apply(put_new("value")).await.unwrap();
    let gateway = gateway.showing("first-token");
    let mut by_token = Applying::open(&gateway).await;
    by_token.apply(put_new("value")).await.unwrap();

    let ended = by_jwt.answer().await.unwrap_err();
    assert_eq!(
        (ended.code, ended.reason),
        (Code::Unauthenticated, ErrorReason::CredentialsInvalid)
    );

    text(&one("refs:write"));
    let denied = until("the grant is gone", async || {
        by_token.apply(put_new("value")).await.err()
    })
    .await;
    assert_eq!(denied.reason, ErrorReason::LatticeNotGranted);
    text("");
    let ended = by_token.answer().await.unwrap_err();
    assert_eq!(ended.reason, ErrorReason::CredentialsInvalid);
}

#[tokio::test]
async fn a_manifest_is_refused_whole_with_every_path() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let forged = || {
        Operation::PutClaims(PutClaimsRequest {
            lattice: "default".into(),
            source: Some(Source::Jwt(
                keys::actor_token(&KeyPair::new_account(), json!({})).0 + "x",
            )),
            ..Default::default()
        })
    };
    let mut bad = put_link(link("nobody", PROVIDER, "value"));
    bad.request_id = "short".into();
    let bad = Operation::PutLinkDefinition(bad);
    let refused = manifest(
        &gateway,
        [put_new("value"), bad, forged(), put_new("value")],
        |asked| {
            asked.operations[0].id = "x".repeat(129);
            asked.operations[3].operation = None;
        },
    )
    .await
    .unwrap_err();
    assert_eq!(
        (refused.code, refused.reason),
        (Code::InvalidArgument, ErrorReason::InvalidField)
    );
    assert_eq!(
        refused.fields,
        [
            "operations[0].id",
            "operations[1].put_link_definition.link_definition.actor_id",
            "operations[1].put_link_definition.request_id",
            "operations[3].operation",
        ]
    );
    let refused = manifest(&gateway, [put_new("value"), forged(), forged()], |_| {})
        .await
        .unwrap_err();
    assert_eq!(refused.reason, ErrorReason::ClaimsInvalid);
    assert!(refused.metadata.contains_key("cause"));
    assert_eq!(
        refused.fields,
        ["operations[1].put_claims.jwt", "operations[2].put_claims.jwt"]
    );
    let refused = manifest(&gateway, (0..129).map(|_| put_new("value")), |_| {})
        .await
        .unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LimitExceeded);
    assert_eq!(refused.fields, ["operations"]);
    assert_eq!(
        (
            &*refused.metadata["limit"],
            &*refused.metadata["max"],
            &*refused.metadata["actual"]
        ),
        ("manifest_operations_max", "128", "129")
    );
    assert_eq!(
        nats.api("STREAM.NAMES", Value::Null).await["total"],
        0,
        "nothing was written"
    );
}

#[tokio::test]
async fn a_manifest_tells_of_each_operation_in_its_order() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let actors = [keys::actor(), keys::actor()];
    let operations = (0..128).map(|number: usize| {
        let mut put = put_link(link(&actors[number % 2], PROVIDER, &number.to_string()));
        if number % 10 == 9 {
            put.precondition =
                Some(lattice_gateway::proto::put_link_definition_request::Precondition::MustNotExist(true));
        }
        Operation::PutLinkDefinition(put)
    });
    let operations = operations.collect::<Vec<_>>();

    let rehearsed = manifest(&gateway, operations.clone(), |asked| asked.validate_only = true)
        .await
        .unwrap();
    assert_eq!(rehearsed.len(), 128);
    for result in rehearsed {
        assert_eq!(result.unwrap().outcome(), Outcome::Validated);
    }
    assert_eq!(
        nats.api("STREAM.NAMES", Value::Null).await["total"],
        0,
        "nothing was written"
    );

    let results = manifest(&gateway, operations, |_| {}).await.unwrap();
    assert_eq!(results.len(), 128);
    let mut latest = [0, 0];
    for (number, result) in results.iter().enumerate() {
        if number % 10 == 9 {
            assert_eq!(reason(result), Some(ErrorReason::EntryExists), "{number}");
            continue;
        }
        let sequence = result.as_ref().unwrap().revision.unwrap().sequence;
        assert!(sequence > latest[number % 2], "{number}");
        latest[number % 2] = sequence;
    }
    assert_eq!(value_of(&gateway, &actors[0]).await, "126");
    assert_eq!(value_of(&gateway, &actors[1]).await, "127");
    let nothing = manifest(&gateway, [], |_| {}).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn what_of_a_manifest_has_no_place_in_time_was_not_begun() {
    let nats = Nats::start().await;
    let limited = format!(
        "{}limits = {{ requests_per_second = 1, burst = 4 }}\n[server]\ndefault_deadline = \"500ms\"\n",
        caller("limited", "limited", &["default"], WRITER)
    );
    let gateway = gateway_for(&nats, &limited).await.showing("limited");
    let results = manifest(&gateway, (0..6).map(|_| put_new("value")), |_| {})
        .await
        .unwrap();
    let reasons = results.iter().map(reason).collect::<Vec<_>>();
    let late = Some(ErrorReason::RateLimited);
    assert_eq!(reasons, [None, None, None, late, late, late]);
    assert_eq!(nats.state("default").await.1, 3);
}
