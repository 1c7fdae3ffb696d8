//! HTTP/JSON, server-sent events and gRPC-Web: the calls of gRPC in other clothes, under the same rules.

use std::{collections::BTreeSet, process::Command, time::Duration};

use data_encoding::BASE64;
use http::Method;
use lattice_gateway::{
    control::lattices::Layout,
    proto::{EntryIdentity, ErrorReason, PutLinkDefinitionRequest, WatchRequest},
};
use prost::Message;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACTOR, PROVIDER},
    gateway::{TOKEN, caller},
    http::{self as client, Reading, annotated, json_of, rpc, status_of, translated, without},
    link,
    nats::PATIENCE,
    put_link, until,
};

const LINK: &str = "/v1/lattices/default/link-definition";
const DEFAULT: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\n";
const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("accept", "text/event-stream");

fn told(answer: &client::Answer) -> Told {
    status_of(answer.status, answer.json()).into()
}

/// What a call comes to, as far as it does not tell the time.
fn shown(method: &str, answer: Result<Vec<u8>, tonic::Status>) -> Value {
    match answer {
        Ok(answer) => without(
            json_of(rpc(method).output().full_name(), &answer),
            // Of the server's clock, and of the moment.
            &["serverTime", "findings", "counts", "skipped"],
        ),
        Err(status) => {
            let told = Told::from(status);
            json!([
                told.code.to_string(),
                format!("{:?}", told.reason),
                told.message,
                told.metadata,
                told.fields
            ])
        }
    }
}

#[tokio::test]
async fn every_rpc_answers_over_http_as_over_grpc() {
    for layout in [Layout::CacheStream, Layout::Component] {
        let nats = Nats::start().await;
        let gateway = TestGateway::dev_with(&nats, layout).await;
        let methods = api::methods()
            .into_iter()
            .filter(|method| method != "ApplyService/Apply");
        for method in methods {
            let request = api::valid_request(&method, "default");
            let over_http = async || {
                let answer = client::call(gateway.running.grpc, &method, &request, &[]).await?;
                api::of_its_operations(&method, answer)
            };
            // Once, so that those that change something find it changed.
            over_http().await.ok();
            let by_grpc = shown(&method, gateway.call(&method, request.clone()).await);
            let by_http = shown(&method, over_http().await);
            assert_eq!(by_http, by_grpc, "{method} of {layout:?}");
        }
    }
}

#[tokio::test]
async fn a_link_is_put_read_listed_and_deleted_in_canonical_json() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let body = json!({
        "link_definition": {
            "actorId": ACTOR, "provider_id": PROVIDER, "contractId": "wasmcloud:keyvalue",
            "values": {"url": "redis://é", "b": "2"},
        },
        "retryAge": "1.5s",
        "requestId": "request-0001",
    });
    let put = gateway.http(Method::PUT, LINK, &[JSON], body.to_string()).await;
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(put.header("content-type"), "application/json");
    assert_eq!(put.header("cache-control"), "no-store");
    let put = put.json();
    assert_eq!(put["result"]["outcome"], "OUTCOME_APPLIED");
    assert_eq!(
        put["result"]["revision"]["sequence"], "1",
        "64-bit numbers are texts"
    );

    let query = format!(
        "actor_id={ACTOR}&contractId=wasmcloud%3Akeyvalue&consistency.atLeastAsFresh.epoch={}\
         &consistency.at_least_as_fresh.sequence=1",
        put["result"]["revision"]["epoch"].as_str().unwrap()
    );
    let got = gateway
        .http(Method::GET, &format!("{LINK}?{query}"), &[], "")
        .await
        .json();
    assert_eq!(got["linkDefinition"], put["linkDefinition"]);
    assert_eq!(
        got["linkDefinition"]["values"],
        json!({"b": "2", "url": "redis://é"})
    );
    let list = format!("{LINK}s?page_size=1&consistency.fully_consistent=true");
    let list = gateway.http(Method::GET, &list, &[], "").await.json();
    assert_eq!(list["linkDefinitions"], json!([put["linkDefinition"]]));

    let query = format!("actorId={ACTOR}&contractId=wasmcloud:keyvalue&linkName=default");
    let etag = "%22nobodys%22";
    let refused = gateway
        .http(Method::DELETE, &format!("{LINK}?{query}&etag={etag}"), &[], "")
        .await;
    assert_eq!(
        (refused.status.as_u16(), told(&refused).reason),
        (400, ErrorReason::InvalidField)
    );
    let deleted = gateway
        .http(Method::DELETE, &format!("{LINK}?{query}"), &[], "")
        .await;
    assert_eq!(deleted.json()["result"]["outcome"], "OUTCOME_APPLIED");
    let missing = gateway
        .http(Method::GET, &format!("{LINK}?{query}"), &[], "")
        .await;
    assert_eq!(
        (missing.status.as_u16(), told(&missing).reason),
        (404, ErrorReason::EntryNotFound)
    );
}

#[tokio::test]
async fn a_manifest_tells_the_errors_of_its_operations_in_json() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let put = |id: &str| {
        let link = json!({"actorId": ACTOR, "providerId": PROVIDER, "contractId": format!("a:{id}")});
        json!({"id": id, "putLinkDefinition": {"lattice": "default", "linkDefinition": link}})
    };
    let mut missing = put("missing");
    missing["putLinkDefinition"]["mustExist"] = true.into();
    let body = json!({"operations": [put("new"), missing]});
    let answer = gateway
        .http(Method::POST, "/v1/manifest:apply", &[JSON], body.to_string())
        .await
        .json();
    let results = answer["results"].as_array();
    let results = results.unwrap_or_else(|| panic!("{answer}"));
    let of = |id: &str| {
        let found = results.iter().find(|result| result["id"] == id);
        found.unwrap_or_else(|| panic!("{id} is not in {answer}"))
    };
    assert_eq!(of("new")["result"]["outcome"], "OUTCOME_APPLIED", "{answer}");
    let details = &of("missing")["status"]["details"];
    assert_eq!(
        details[0]["@type"], "type.googleapis.com/google.rpc.ErrorInfo",
        "{answer}"
    );
    assert_eq!(details[0]["reason"], "ENTRY_NOT_FOUND", "{answer}");
}

#[tokio::test]
async fn what_is_no_call_is_told_in_the_form_of_errors() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let put = translated(
        "LinkDefinitionService/PutLinkDefinition",
        &put_link(link(ACTOR, PROVIDER, "v")).encode_to_vec(),
    );
    let body = put.2.unwrap().to_string();
    for (method, path, headers, code, status, said) in [
        (Method::GET, "/", &[][..], 404, "UNIMPLEMENTED", "/openapi.json"),
        (
            Method::GET,
            "/v1/lattices//claims",
            &[],
            404,
            "UNIMPLEMENTED",
            "/v1/lattices//claims",
        ),
        (Method::GET, "/v1/../v1/lattices", &[], 404, "UNIMPLEMENTED", ""),
        (
            Method::POST,
            "/lattice.control.v1.LatticeService/ListLattices",
            &[JSON],
            404,
            "UNIMPLEMENTED",
            "",
        ),
        (
            Method::PATCH,
            LINK,
            &[JSON],
            405,
            "UNIMPLEMENTED",
            "PUT, GET, DELETE",
        ),
        (Method::OPTIONS, LINK, &[], 405, "UNIMPLEMENTED", ""),
        (
            Method::PUT,
            LINK,
            &[],
            415,
            "INVALID_ARGUMENT",
            "application/json",
        ),
        (
            Method::PUT,
            LINK,
            &[("content-type", "text/plain")],
            415,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            Method::PUT,
            LINK,
            &[("content-type", "application/x-www-form-urlencoded")],
            415,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            Method::PUT,
            LINK,
            &[("content-type", "application/jsonp")],
            415,
            "INVALID_ARGUMENT",
            "",
        ),
        (
            Method::PUT,
            LINK,
            &[JSON, ("content-encoding", "gzip")],
            415,
            "INVALID_ARGUMENT",
            "content-encoding",
        ),
    ] {
        let answer = gateway.http(method.clone(), path, headers, body.clone()).await;
        assert_eq!(answer.status, code, "{method} {path}: {answer:?}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["status"]),
            (&json!(code), &json!(status)),
            "{method} {path}"
        );
        assert!(
            error["message"].as_str().unwrap().contains(said),
            "{method} {path}: {error}"
        );
        assert_eq!(answer.header("allow").is_empty(), code != 405, "{method} {path}");
    }
    let with_charset = ("content-type", "Application/JSON; charset=utf-8");
    let answer = gateway.http(Method::PUT, LINK, &[with_charset], body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Of each request: where it is refused, and what is said of it.
#[tokio::test]
async fn hostile_requests_are_refused_by_name_and_change_nothing() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    bodies_are_refused(&gateway).await;
    queries_are_refused(&gateway).await;
    others_are_refused(&gateway).await;
    // Nothing of all this made the lattice's stream.
    assert_eq!(
        gateway.http(Method::GET, "/v1/lattices", &[], "").await.json(),
        json!({})
    );
}

async fn bodies_are_refused(gateway: &TestGateway) {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = r#"{"linkDefinition":"#.repeat(200) + "{}" + &"}".repeat(200);
    let many = (0..50_000)
        .map(|number| format!("\"f{number}\":1"))
        .collect::<Vec<_>>()
        .join(",");
    let of_body = [
        ("", "request", "JSON"),
        ("{", "request", "JSON"),
        ("[]", "request", "no JSON object"),
        ("null", "request", "no JSON object"),
        ("\u{feff}{}", "request", "JSON"),
        ("{} {}", "request", "JSON"),
        (r#"{"link_definition":"\ud800"}"#, "request", "JSON"),
        (&deep, "request", "recursion"),
        (&deep_object, "request", "recursion"),
        (r#"{"requestId":"a","requestId":"b"}"#, "request", "twice"),
        (r#"{"requestId":"a","request_id":"a"}"#, "request_id", "twice"),
        (
            r#"{"linkDefinition":{"values":{"a":"1","a":"2"}}}"#,
            "request",
            "twice",
        ),
        (
            r#"{"linkDefinition":{"actor":"M"}}"#,
            "linkDefinition.actor",
            "actorId, providerId",
        ),
        (r#"{"linkDefinition":7}"#, "linkDefinition", "refused"),
        (
            r#"{"linkDefinition":{"values":{"a":1}}}"#,
            "linkDefinition.values.a",
            "refused",
        ),
        (r#"{"validateOnly":"true"}"#, "validateOnly", "boolean"),
        (r#"{"retryAge":"soon"}"#, "retryAge", "refused"),
        (r#"{"etag":"\"a\"","mustExist":true}"#, "", "precondition"),
        (r#"{"lattice":"other","linkDefinition":{}}"#, "lattice", "path"),
        (&format!("{{{many}}}"), "f0", "is no field here"),
    ];
    for (body, field, said) in of_body {
        let answer = gateway.http(Method::PUT, LINK, &[JSON], body.to_owned()).await;
        let start = body.chars().take(80).collect::<String>();
        assert_eq!(answer.status, 400, "{start}: {answer:?}");
        let told = told(&answer);
        assert_eq!(told.reason, ErrorReason::InvalidField, "{start}: {told:?}");
        assert!(
            field.is_empty() || told.fields.contains(&field.to_owned()),
            "{start}: {told:?}"
        );
        assert!(told.fields.len() <= 16, "{start}");
        let error = answer.json()["error"].to_string();
        assert!(error.contains(said), "{start}: {error}");
    }
}

async fn queries_are_refused(gateway: &TestGateway) {
    for (query, field, said) in [
        ("actor=M", "actor", "actorId, contractId"),
        ("pageSize=1&page_size=1", "page_size", "twice"),
        ("pageSize=many", "page_size", "refused"),
        ("consistency=x", "consistency", "message"),
        (
            "consistency.fullyConsistent=yes",
            "consistency.fullyConsistent",
            "true or false",
        ),
        (
            "consistency.fullyConsistent.x=true",
            "consistency.fullyConsistent.x",
            "no fields",
        ),
        (
            "consistency.nothing=true",
            "consistency.nothing",
            "minimizeLatency",
        ),
        ("lattice=other", "lattice", "path"),
        ("=", "request", "is no field"),
    ] {
        let answer = gateway
            .http(Method::GET, &format!("{LINK}s?{query}"), &[], "")
            .await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        let told = told(&answer);
        assert_eq!(told.fields, [field], "{query}: {told:?}");
        assert!(
            answer.json()["error"].to_string().contains(said),
            "{query}: {answer:?}"
        );
    }
}

async fn others_are_refused(gateway: &TestGateway) {
    for (method, path, headers, body) in [
        (Method::GET, format!("{LINK}s"), &[][..], "{}"),
        (Method::PUT, format!("{LINK}?validateOnly=true"), &[JSON], "{}"),
        (
            Method::GET,
            "/v1/lattices/default:watch?filters.claims.publicKey=M".to_owned(),
            &[],
            "",
        ),
        (Method::GET, "/v1/lattices/a%2Fb/claims".to_owned(), &[], ""),
        (Method::GET, "/v1/lattices/%2E%2E".to_owned(), &[], ""),
        (Method::GET, "/v1/lattices/a%00".to_owned(), &[], ""),
    ] {
        let answer = gateway.http(method.clone(), &path, headers, body).await;
        assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        assert_eq!(told(&answer).reason, ErrorReason::InvalidField, "{method} {path}");
    }
    let long = format!("{{}}{}", " ".repeat(1024 * 1024));
    let answer = gateway.http(Method::PUT, LINK, &[JSON], long).await;
    let told = told(&answer);
    assert_eq!(
        (answer.status.as_u16(), told.reason),
        (400, ErrorReason::LimitExceeded)
    );
    assert_eq!(told.metadata["limit"], "message_bytes_max");
}

#[tokio::test]
async fn credentials_limits_records_and_counts_are_those_of_grpc() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let slow = caller("slow", "slow", &["default"], "read").replace(
        "grants",
        "limits = { requests_per_second = 1, burst = 1 }\ngrants",
    );
    let config = format!(
        "[audit]\nto = {file:?}\n{DEFAULT}{}{slow}",
        caller("writer", "canary", &["default"], "read links:write")
    );
    let mut gateway = TestGateway::serving_callers(&nats, &config).await;
    let message = put_link(link(ACTOR, PROVIDER, "value")).encode_to_vec();
    let put = "LinkDefinitionService/PutLinkDefinition";

    for (credentials, reason) in [
        (&[][..], ErrorReason::CredentialsMissing),
        (&[("authorization", "Basic abc")], ErrorReason::CredentialsInvalid),
        (&[("cookie", "token=canary")], ErrorReason::CredentialsMissing),
    ] {
        let (method, path, body) = translated(put, &message);
        let headers = [&[JSON], credentials].concat();
        let answer = gateway
            .http(method, &path, &headers, body.unwrap().to_string())
            .await;
        assert_eq!((answer.status.as_u16(), told(&answer).reason), (401, reason));
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    gateway = gateway.showing("canary");
    let by_grpc = gateway.call(put, message.clone()).await;
    gateway = gateway.by_http();
    let by_http = gateway.call(put, message).await;
    assert!(by_grpc.is_ok() && by_http.is_ok(), "{by_grpc:?}, {by_http:?}");
    let text = until("all is recorded", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.lines().count() == 5).then_some(text)
    })
    .await;
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let [.., of_grpc, of_http] = &records.collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    for same in [
        "caller",
        "credential",
        "lattice",
        "method",
        "verb",
        "entry",
        "fingerprint",
    ] {
        assert_eq!(of_http[same], of_grpc[same], "{same}");
    }
    assert_eq!(of_http["outcome"], "OUTCOME_UNCHANGED", "{text}");
    let counted = r#"method="PutLinkDefinition",code="OK""#;
    let metrics = gateway.metrics().await;
    let count = metrics.lines().find(|line| line.contains(counted)).unwrap();
    assert!(count.ends_with(" 2"), "{count}");

    gateway = gateway.showing("slow");
    let list = format!("{LINK}s");
    gateway.http(Method::GET, &list, &[], "").await;
    let limited = gateway.http(Method::GET, &list, &[], "").await;
    assert_eq!(
        (limited.status.as_u16(), told(&limited).reason),
        (429, ErrorReason::RateLimited)
    );
    assert_eq!(limited.header("retry-after"), "1");
    assert!(told(&limited).retry_after.is_some());
}

#[tokio::test]
async fn a_watch_is_sent_as_events_and_goes_on_by_the_last_events_id() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "first")))
        .await
        .unwrap();
    let watch = async |headers: &[(&str, &str)]| {
        let path = "/v1/lattices/default:watch?kinds=ENTRY_KIND_LINK_DEFINITION";
        let request = client::request(&Method::GET, path, &[&[EVENTS], headers].concat(), "");
        let answer = client::open(gateway.running.grpc, request).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Reading::of(answer.into_body())
    };
    let value_of = |event: &Value| {
        let link = &event["changes"]["changes"][0]["put"]["linkDefinition"];
        link["values"]["value"].as_str().unwrap_or_default().to_owned()
    };
    let mut watching = watch(&[]).await;
    let (name, id, data) = watching.event().await.unwrap();
    assert_eq!((name.as_str(), id), ("snapshot", None));
    assert_eq!(data["snapshot"]["entries"][0]["linkDefinition"]["actorId"], ACTOR);
    assert_eq!(watching.event().await.unwrap().0, "snapshotComplete");
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "second")))
        .await
        .unwrap();
    let mut last = None;
    while last.is_none() {
        let (_, id, data) = watching.event().await.unwrap();
        last = id.filter(|_| value_of(&data) == "second");
    }
    drop(watching);

    gateway
        .put(put_link(link(ACTOR, PROVIDER, "third")))
        .await
        .unwrap();
    let mut watching = watch(&[("last-event-id", &last.unwrap())]).await;
    let (name, id, data) = watching.event().await.unwrap();
    assert_eq!((name.as_str(), value_of(&data).as_str()), ("changes", "third"));
    let foreign = [EVENTS, ("last-event-id", "anothers")];
    let foreign = gateway
        .http(Method::GET, "/v1/lattices/default:watch", &foreign, "")
        .await;
    assert_eq!(told(&foreign).reason, ErrorReason::ResumeTokenInvalid);

    // The end is told, with where to go on before it.
    let ending = tokio::spawn(async move {
        let (mut last, mut id) = (None, id);
        while let Some((name, next, data)) = watching.event().await {
            id = next.or(id);
            last = Some((name, data));
        }
        (last.unwrap(), id)
    });
    gateway.running.shut_down().await;
    let ((name, data), id) = timeout(PATIENCE, ending).await.unwrap().unwrap();
    assert_eq!(name, "end");
    let told = Told::from(status_of(http::StatusCode::SERVICE_UNAVAILABLE, data));
    assert_eq!(told.reason, ErrorReason::ShuttingDown);
    assert!(id.is_some());
}

#[tokio::test]
async fn a_watch_takes_its_filters_in_a_body_and_is_refused_before_it_begins() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let wanted = WatchRequest {
        filters: vec![EntryIdentity::default()],
        ..WatchRequest::default()
    };
    let mut body = json_of("lattice.control.v1.WatchRequest", &wanted.encode_to_vec());
    let path = "/v1/lattices/default:watch";
    let refused = gateway
        .http(Method::POST, path, &[JSON, EVENTS], body.to_string())
        .await;
    assert_eq!(told(&refused).fields, ["filters[0]"]);
    body["filters"] = json!([{"linkDefinition": {"actorId": PROVIDER}}]);
    let request = client::request(&Method::POST, path, &[JSON], body.to_string());
    let answer = client::open(gateway.running.grpc, request).await;
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let mut lines = Reading::of(answer.into_body());
    let first = serde_json::from_str::<Value>(&lines.to("\n").await.unwrap()).unwrap();
    assert_eq!(first, json!({"snapshotComplete": {}}), "no link is of that actor");
}

/// A message or trailers as gRPC-Web frames them.
fn web_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], payload].concat()
}

fn web_frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(([kind, length @ ..], rest)) = bytes.split_first_chunk::<5>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes(*length).try_into().unwrap());
        frames.push((*kind, payload.to_vec()));
        bytes = rest;
    }
    frames
}

#[tokio::test]
async fn grpc_web_is_served_in_both_of_its_forms() {
    const TRAILERS: u8 = 0x80;
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let gateway = TestGateway::serving(&nats, DEFAULT).await;
    let put = put_link(link(ACTOR, PROVIDER, "value"));
    let path = "/lattice.control.v1.LinkDefinitionService/PutLinkDefinition";
    let framed = web_frame(0, &put.encode_to_vec());
    let binary = ("content-type", "application/grpc-web+proto");
    let answer = gateway.http(Method::POST, path, &[binary], framed.clone()).await;
    let [(0, message), (TRAILERS, trailers)] = &web_frames(&answer.body)[..] else {
        panic!("{answer:?}");
    };
    assert!(!message.is_empty());
    assert!(
        String::from_utf8_lossy(trailers).contains("grpc-status:0"),
        "{trailers:?}"
    );

    let text = [
        ("content-type", "application/grpc-web-text+proto"),
        ("accept", "application/grpc-web-text+proto"),
    ];
    let answer = gateway
        .http(Method::POST, path, &text, BASE64.encode(&framed))
        .await;
    let decoded = BASE64.decode(&answer.body).unwrap();
    assert_eq!(web_frames(&decoded).last().unwrap().0, TRAILERS);

    let empty = web_frame(0, &PutLinkDefinitionRequest::default().encode_to_vec());
    let refused = gateway.http(Method::POST, path, &[binary], empty).await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("grpc-status")),
        (200, "3")
    );
    assert!(!refused.header("grpc-status-details-bin").is_empty());
    let known = caller("known", TOKEN, &["default"], "read");
    let nobody = TestGateway::serving_callers(&nats, &format!("{DEFAULT}{known}")).await;
    let refused = nobody.http(Method::POST, path, &[binary], framed).await;
    assert_eq!(refused.header("grpc-status"), "16");
}

#[tokio::test]
async fn pages_of_configured_origins_alone_may_call() {
    const OWN: &str = "https://console.example.org";
    let nats = Nats::start().await;
    let open = format!("[server]\ncors_origins = \"{OWN}, http://localhost:5173\"\n{DEFAULT}");
    let (open, closed) = (
        TestGateway::serving(&nats, &open).await,
        TestGateway::serving(&nats, DEFAULT).await,
    );
    let preflight = async |gateway: &TestGateway, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        gateway.http(Method::OPTIONS, LINK, &headers, "").await
    };
    let allowed = preflight(&open, OWN).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), OWN);
    assert!(allowed.header("access-control-allow-methods").contains("PUT"));
    assert!(
        allowed
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    for (gateway, origin) in [
        (&open, "https://evil.example"),
        (&open, "https://console.example.org.evil.example"),
        (&open, "null"),
        (&closed, OWN),
    ] {
        let refused = preflight(gateway, origin).await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
        let plain = gateway
            .http(Method::GET, "/v1/lattices", &[("origin", origin)], "")
            .await;
        assert_eq!(plain.header("access-control-allow-origin"), "", "{origin}");
    }
    let read = open
        .http(Method::GET, "/v1/lattices", &[("origin", OWN)], "")
        .await;
    assert_eq!(read.header("access-control-allow-origin"), OWN);
    assert!(
        read.header("access-control-expose-headers")
            .contains("grpc-status")
    );
    assert_eq!(read.header("vary"), "origin");
    let refused = open
        .http(Method::GET, "/v1/lattices/other", &[("origin", OWN)], "")
        .await;
    assert_eq!(
        (
            refused.status.as_u16(),
            refused.header("access-control-allow-origin")
        ),
        (403, OWN)
    );
}

#[tokio::test]
async fn a_gateway_that_lets_in_whoever_comes_is_spoken_to_as_this_machine_alone() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    for (host, status) in [
        ("localhost:7400", 200),
        ("127.0.0.1", 200),
        ("[::1]:7400", 200),
        ("evil.example", 403),
        ("localhost.evil.example:7400", 403),
        ("192.0.2.1", 403),
        ("", 403),
    ] {
        let mut request = client::request(&Method::GET, "/v1/lattices", &[], "");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = client::send(gateway.running.grpc, request).await;
        assert_eq!(answer.status, status, "{host}");
    }
}

#[tokio::test]
async fn without_http_grpc_alone_is_served() {
    let nats = Nats::start().await;
    let gateway = TestGateway::serving(&nats, &format!("[server]\nhttp = false\n{DEFAULT}")).await;
    let request = api::valid_request("LatticeService/ListLattices", "");
    gateway
        .call("LatticeService/ListLattices", request)
        .await
        .unwrap();
    let mut stream = TcpStream::connect(gateway.running.grpc).await.unwrap();
    stream
        .write_all(b"GET /v1/lattices HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // It may be closed, or reset.
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .ok();
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// A connection of HTTP/1 that says what it likes.
async fn raw(gateway: &TestGateway, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.running.grpc).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("it is closed")
        .ok();
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn connections_of_http_1_are_bounded_as_those_of_http_2() {
    let nats = Nats::start().await;
    let short = format!("[server]\nfirst_call_within = \"300ms\"\n{DEFAULT}");
    let gateway = TestGateway::serving(&nats, &short).await;
    let head = format!("authorization: Bearer {TOKEN}\r\nhost: localhost\r\n");
    let whole = format!("GET /v1/lattices HTTP/1.1\r\n{head}\r\n");
    for (what, said, answered) in [
        (
            "a head that never ends",
            "GET / HTTP/1.1\r\nhost: localhost\r\n".to_owned(),
            "",
        ),
        ("no other call", whole.clone(), "HTTP/1.1 200"),
        (
            "a second head that never ends",
            format!("{whole}GET /v1"),
            "HTTP/1.1 200",
        ),
        (
            "a head beyond all bounds",
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024)),
            "HTTP/1.1 431",
        ),
        ("no HTTP", "EHLO gateway\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (
            "two lengths",
            format!(
                "PUT {LINK} HTTP/1.1\r\n{head}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{{}}"
            ),
            "HTTP/1.1 ",
        ),
        (
            "a body that does not arrive",
            format!(
                "PUT {LINK} HTTP/1.1\r\n{head}grpc-timeout: 300m\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
            ),
            "HTTP/1.1 504",
        ),
        (
            "a body that is cut off",
            format!(
                "PUT {LINK} HTTP/1.1\r\n{head}content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            ),
            "HTTP/1.1 400",
        ),
    ] {
        let mut stream = raw(&gateway, &said).await;
        let told = rest(&mut stream).await;
        assert!(
            told.starts_with(answered) && (!answered.is_empty() || told.is_empty()),
            "{what}: {told}"
        );
    }
}

#[tokio::test]
async fn idle_connections_of_http_1_hold_no_shutdown_up() {
    let nats = Nats::start().await;
    let gateway = TestGateway::serving(&nats, DEFAULT).await;
    let said =
        format!("GET /v1/lattices HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\nhost: localhost\r\n\r\n");
    let mut stream = raw(&gateway, &said).await;
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let stopping = timeout(Duration::from_secs(20), gateway.running.shut_down());
    let (stopped, _) = tokio::join!(stopping, rest(&mut stream));
    stopped.expect("it stops before its connections are cut");
}

/// As the program writes it where no gateway runs.
fn written_document() -> Value {
    let program = env!("CARGO_BIN_EXE_lattice-gateway");
    let written = Command::new(program).arg("openapi").output().unwrap();
    serde_json::from_slice(&written.stdout).unwrap()
}

#[tokio::test]
async fn the_document_names_every_route_and_all_that_it_refers_to() {
    let nats = Nats::start().await;
    let known = caller("known", TOKEN, &["default"], "read");
    let gateway = TestGateway::serving_callers(&nats, &format!("{DEFAULT}{known}")).await;
    // It is told to whoever asks.
    let answer = gateway.http(Method::GET, "/openapi.json", &[], "").await;
    let document = answer.json();
    assert_eq!(written_document(), document);
    assert_eq!(document["openapi"], "3.1.0");
    let methods = api::methods()
        .into_iter()
        .filter(|method| method != "ApplyService/Apply");
    for method in methods {
        let rpc = rpc(&method);
        let (verb, path, has_body) = annotated(&rpc);
        let operation = &document["paths"][&path][verb.as_str().to_lowercase()];
        assert_eq!(operation["operationId"], rpc.name(), "{method}");
        assert!(!operation["description"].as_str().unwrap().is_empty(), "{method}");
        assert_eq!(operation["requestBody"].is_object(), has_body, "{method}");
        let parameters = operation["parameters"].as_array().unwrap();
        let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        assert_eq!(in_path.count(), path.matches('{').count(), "{method}");
    }
    let mut ids = BTreeSet::new();
    let mut refers_to = Vec::new();
    walk(&document, &mut |name, value| match name {
        "operationId" => assert!(ids.insert(value.as_str().unwrap().to_owned()), "{value} twice"),
        "$ref" => refers_to.push(value.as_str().unwrap().to_owned()),
        _ => {}
    });
    for reference in refers_to {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference}");
    }
}

#[test]
fn the_document_has_the_rules_of_what_is_sent_and_none_of_what_is_answered() {
    let document = written_document();
    let schema = |message: &str| &document["components"]["schemas"][format!("lattice.control.v1.{message}")];
    let sent = schema("InterfaceLink-Input");
    assert_eq!(
        sent["required"],
        json!(["sourceId", "target", "witNamespace", "witPackage", "interfaces"])
    );
    let properties = &sent["properties"];
    assert_eq!(properties["sourceId"]["pattern"], "^[A-Za-z0-9_-]{1,128}$");
    let interfaces = &properties["interfaces"];
    let rules = ["minItems", "maxItems", "uniqueItems"].map(|rule| &interfaces[rule]);
    assert_eq!(rules, [&json!(1), &json!(64), &json!(true)]);
    assert_eq!(interfaces["items"]["pattern"], "^[A-Za-z0-9-]{1,128}$");
    let values = &schema("NamedConfig-Input")["properties"]["values"];
    assert_eq!(values["maxProperties"], 256);
    assert_eq!(values["propertyNames"], json!({"minLength": 1, "maxLength": 255}));
    // It may stand in the path.
    let put = schema("PutInterfaceLinkRequest-Input");
    assert_eq!(put["required"], json!(["interfaceLink"]));

    let answered = schema("InterfaceLink");
    assert!(answered["required"].is_null(), "{answered}");
    assert!(
        answered["properties"]["sourceId"]["pattern"].is_null(),
        "{answered}"
    );
    let get = &document["paths"]["/v1/lattices/{lattice}/link-definition"]["get"];
    let parameters = get["parameters"].as_array().unwrap();
    let required = parameters
        .iter()
        .filter(|parameter| parameter["required"] == true);
    let required = required.map(|parameter| parameter["name"].as_str().unwrap());
    assert_eq!(required.collect::<Vec<_>>(), ["lattice", "actorId", "contractId"]);
}

fn walk(value: &Value, seen: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if value.is_string() {
                    seen(name, value);
                }
                walk(value, seen);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, seen)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
