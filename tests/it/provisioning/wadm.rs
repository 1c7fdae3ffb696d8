//! `ProvisionWadm`: what it makes is what wadm 0.21.1 makes, and what wadm would delete or be deaf with is told.

use std::{fs, slice};

use futures_util::future::join_all;
use lattice_gateway::proto::{
    ErrorReason, GetServerInfoRequest, ProvisionWadmRequest, ProvisionWadmResponse, Storage, StreamAction,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{actions, differences, gateway_of, infos, is_refused, streams};
use crate::harness::{Nats, TestGateway, Told, gateway::caller, told, until};

/// The streams as a server tells them once wadm 0.21.1 has created them, in that order.
const OF_WADM: &str = include_str!("wadm-0.21.1.json");

fn of_wadm() -> Vec<Value> {
    serde_json::from_str(OF_WADM).unwrap()
}

fn names() -> Vec<String> {
    let name = |config: &Value| config["name"].as_str().unwrap().to_owned();
    of_wadm().iter().map(name).collect()
}

async fn create_as_wadm(nats: &Nats, changes: impl Fn(&mut Value)) {
    for mut config in of_wadm() {
        changes(&mut config);
        nats.create(config).await;
    }
}

pub(super) async fn provisioned(
    gateway: &TestGateway,
    request: ProvisionWadmRequest,
) -> Result<ProvisionWadmResponse, Told> {
    told(gateway.lattices().provision_wadm(request).await)
}

fn replicated(nodes: &[Nats]) -> ProvisionWadmRequest {
    ProvisionWadmRequest {
        replicas: u32::try_from(nodes.len()).unwrap(),
        ..Default::default()
    }
}

fn all(names: &[String], action: StreamAction) -> Vec<(&str, StreamAction)> {
    names.iter().map(|name| (name.as_str(), action)).collect()
}

async fn the_streams_are_made_as_wadm_makes_them_once(nodes: &[Nats]) {
    let nats = &nodes[0];
    let gateway = gateway_of(nodes).await;
    let names = names();
    let theirs = Nats::start().await;
    create_as_wadm(&theirs, |_| {}).await;
    let dry = ProvisionWadmRequest {
        validate_only: true,
        ..replicated(nodes)
    };
    let planned = provisioned(&gateway, dry.clone()).await.unwrap();
    assert_eq!(streams(nats).await, Value::Null, "a dry run makes nothing");
    // A cluster that was started just now may not know all its servers.
    let answer = until("the cluster knows its servers", async || {
        match provisioned(&gateway, replicated(nodes)).await {
            Ok(answer) => Some(answer),
            Err(told)
                if told
                    .metadata
                    .get("field")
                    .is_some_and(|field| field == "num_replicas") =>
            {
                None
            }
            Err(told) => panic!("{told:?}"),
        }
    })
    .await;
    assert_eq!(answer, planned);
    assert_eq!(actions(&answer.streams), all(&names, StreamAction::Created));

    let made = infos(nats, &names).await;
    for ((config, _), (mut expected, _)) in made.iter().zip(infos(&theirs, &names).await) {
        expected["num_replicas"] = json!(nodes.len());
        assert_eq!(*config, expected);
    }
    for again in [replicated(nodes), dry] {
        let answer = provisioned(&gateway, again).await.unwrap();
        assert_eq!(actions(&answer.streams), all(&names, StreamAction::Unchanged));
        assert!(
            answer.streams.iter().all(|plan| plan.differences.is_empty()),
            "{answer:?}"
        );
    }
    assert_eq!(infos(nats, &names).await, made);

    // Events come to where wadm reads them.
    for subject in [
        "wasmbus.evt.default.host_started",
        "wadm.evt.default.manifest_published",
    ] {
        nats.publish_raw(subject, "{}").await;
    }
    until("both are sourced", async || {
        let filter = json!({"subjects_filter": "wadm_event_consumer.evt.default.>"});
        let info = nats.api("STREAM.INFO.wadm_event_consumer", filter).await;
        (info["state"]["subjects"].as_object()?.len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_streams_are_made_as_wadm_makes_them_once_on_one_server() {
    let nats = Nats::start().await;
    the_streams_are_made_as_wadm_makes_them_once(slice::from_ref(&nats)).await;
}

#[tokio::test]
async fn the_streams_are_made_as_wadm_makes_them_once_on_three_servers() {
    the_streams_are_made_as_wadm_makes_them_once(&Nats::start_cluster().await).await;
}

#[tokio::test]
async fn what_wadm_made_itself_is_found_as_it_is_and_scaled_where_asked() {
    let nodes = Nats::start_cluster().await;
    let nats = &nodes[0];
    let gateway = gateway_of(&nodes).await;
    until("the cluster takes a stream of three", async || {
        Some(nats.create_stream("three", json!({"num_replicas": 3})).await)
    })
    .await;
    create_as_wadm(nats, |_| {}).await;
    let names = names();
    let before = infos(nats, &names).await;
    let answer = provisioned(&gateway, ProvisionWadmRequest::default())
        .await
        .unwrap();
    assert_eq!(actions(&answer.streams), all(&names, StreamAction::Unchanged));
    let answer = provisioned(&gateway, replicated(&nodes)).await.unwrap();
    assert_eq!(actions(&answer.streams), all(&names, StreamAction::Updated));
    for plan in &answer.streams {
        assert_eq!(
            differences(plan),
            [("num_replicas", "3", "1", true)],
            "{}",
            plan.stream
        );
    }
    let scaled = infos(nats, &names).await;
    for ((config, created), (mut expected, at)) in scaled.iter().zip(before) {
        expected["num_replicas"] = json!(3);
        assert_eq!((config, created), (&expected, &at));
    }
    let answer = provisioned(&gateway, replicated(&nodes)).await.unwrap();
    assert_eq!(actions(&answer.streams), all(&names, StreamAction::Unchanged));
    assert_eq!(infos(nats, &names).await, scaled);
}

/// A stream that is otherwise, what of it is, and what comes of it; nothing where wadm uses it as it is (measured on wadm 0.21.1).
fn otherwise() -> Vec<(&'static str, Value, &'static str)> {
    let host_events = json!({
        "name": "wasmbus_events",
        "subject_transforms": [{"src": "wasmbus.evt.*.>", "dest": "wadm_event_consumer.evt.{{wildcard(1)}}.>"}],
    });
    let (anew, deaf) = ("makes it anew: what it holds is lost", "hears of no event");
    vec![
        ("wadm_events", json!({"subjects": ["wadm.evt.>"]}), anew),
        ("wadm_commands", json!({"subjects": ["wadm.cmd.*", "mine"]}), anew),
        ("wasmbus_events", json!({"subjects": ["wasmbus.evt.>"]}), anew),
        ("wadm_event_consumer", json!({"retention": "limits"}), anew),
        (
            "wadm_event_consumer",
            json!({"sources": null, "subjects": ["mine"]}),
            deaf,
        ),
        (
            "wadm_event_consumer",
            json!({"sources": [{"name": "wasmbus_events"}, {"name": "wadm_events"}]}),
            deaf,
        ),
        (
            "wadm_event_consumer",
            json!({"sources": [host_events]}),
            "hears of the events of these sources alone",
        ),
        ("wadm_status", json!({"subjects": ["mine"]}), "kept nowhere"),
        (
            "KV_wadm_state",
            json!({"max_msgs_per_subject": -1}),
            "no key-value bucket",
        ),
        (
            "KV_wadm_manifests",
            json!({"max_msgs_per_subject": 5, "allow_direct": false}),
            "",
        ),
        (
            "wadm_events",
            json!({"description": "mine", "max_age": 3_600_000_000_000_u64}),
            "",
        ),
        (
            "wadm_notify",
            json!({"storage": "memory", "subjects": ["wadm.notify.*", "mine"]}),
            "",
        ),
    ]
}

#[tokio::test]
async fn a_stream_that_is_otherwise_is_told_with_what_wadm_does_and_not_touched() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let names = names();
    for (stream, changes, harm) in otherwise() {
        for name in &names {
            nats.api(&format!("STREAM.DELETE.{name}"), Value::Null).await;
        }
        let mut config = of_wadm()
            .into_iter()
            .find(|config| config["name"] == stream)
            .unwrap();
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        nats.create(config).await;
        let own = [stream.to_owned()];
        let before = infos(&nats, &own).await;
        for validate_only in [true, false] {
            let request = ProvisionWadmRequest {
                validate_only,
                ..Default::default()
            };
            let answer = provisioned(&gateway, request).await.unwrap();
            for plan in &answer.streams {
                if plan.stream != stream {
                    assert_eq!(plan.action(), StreamAction::Created, "{stream} {changes}");
                    continue;
                }
                let expected = match harm {
                    "" => StreamAction::Unchanged,
                    _ => StreamAction::Wrong,
                };
                assert_eq!(plan.action(), expected, "{stream} {changes}");
                assert!(
                    plan.consequence.contains(harm),
                    "{stream} {changes}: {}",
                    plan.consequence
                );
                let told = plan.differences.iter().map(|it| &it.field);
                let mut changed = changes.as_object().unwrap().keys().collect::<Vec<_>>();
                changed.sort_unstable();
                assert_eq!(told.collect::<Vec<_>>(), changed, "{stream} {changes}");
            }
        }
        assert_eq!(infos(&nats, &own).await, before, "{stream} {changes}");
    }
    // Not even where a change is asked for.
    let mut wrong = of_wadm().remove(2);
    wrong["subjects"] = json!(["wadm.evt.>"]);
    nats.api("STREAM.DELETE.wadm_events", Value::Null).await;
    nats.create(wrong).await;
    let before = infos(&nats, &names).await;
    let bounded = ProvisionWadmRequest {
        max_bytes: 1 << 20,
        ..Default::default()
    };
    let answer = provisioned(&gateway, bounded).await.unwrap();
    for (plan, (before, after)) in answer
        .streams
        .iter()
        .zip(before.iter().zip(infos(&nats, &names).await))
    {
        if plan.stream == "wadm_events" {
            assert_eq!(plan.action(), StreamAction::Wrong);
            assert_eq!(*before, after);
        } else {
            assert_eq!(plan.action(), StreamAction::Updated);
            assert_eq!((&before.1, &after.0["max_bytes"]), (&after.1, &json!(1 << 20)));
        }
    }
}

#[tokio::test]
async fn a_subject_that_another_stream_takes_is_found_out_before_anything_is_made() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    nats.create(json!({"name": "mine", "subjects": ["wasmbus.>"], "storage": "memory"}))
        .await;
    for validate_only in [true, false] {
        let request = ProvisionWadmRequest {
            validate_only,
            ..Default::default()
        };
        let told = provisioned(&gateway, request).await.unwrap_err();
        is_refused(&told, "subjects");
        assert_eq!(told.metadata["have"], "\"taken by the stream mine\"");
        for word in ["wasmbus_events", "take them from that stream"] {
            assert!(told.message.contains(word), "{}", told.message);
        }
    }
    assert_eq!(streams(&nats).await, json!(["mine"]));
}

#[tokio::test]
async fn streams_for_many_tenants_are_made_where_the_server_takes_them_and_else_nothing_is() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let server = told(gateway.lattices().get_server_info(GetServerInfoRequest {}).await).unwrap();
    let request = ProvisionWadmRequest {
        multitenant: true,
        ..Default::default()
    };
    if !server.nats_version.starts_with("2.10.") {
        for validate_only in [true, false] {
            let request = ProvisionWadmRequest {
                validate_only,
                ..request.clone()
            };
            let told = provisioned(&gateway, request).await.unwrap_err();
            is_refused(&told, "subjects");
            assert_eq!(told.metadata["want"], "[\"*.wasmbus.evt.*.>\"]");
            for word in ["wasmbus_events", "overlap with jetstream api", "run it without"] {
                assert!(told.message.contains(word), "{}", told.message);
            }
        }
        assert_eq!(streams(&nats).await, Value::Null);
        return;
    }
    provisioned(&gateway, request.clone()).await.unwrap();
    let made = infos(&nats, &names()).await;
    assert_eq!(made[5].0["subjects"], json!(["*.wasmbus.evt.*.>"]));
    nats.publish_raw("account.wasmbus.evt.default.host_started", "{}")
        .await;
    until("it is sourced by its lattice", async || {
        let filter = json!({"subjects_filter": "wadm_event_consumer.evt.default.>"});
        let info = nats.api("STREAM.INFO.wadm_event_consumer", filter).await;
        (info["state"]["subjects"].as_object()?.len() == 1).then_some(())
    })
    .await;
    // What the other kind of wadm would do with them is told.
    let answer = provisioned(&gateway, ProvisionWadmRequest::default())
        .await
        .unwrap();
    let wrong = answer
        .streams
        .iter()
        .filter(|plan| plan.action() == StreamAction::Wrong);
    assert_eq!(
        wrong.map(|plan| &*plan.stream).collect::<Vec<_>>(),
        ["wasmbus_events", "wadm_event_consumer"]
    );
    assert_eq!(infos(&nats, &names()).await, made);
}

#[tokio::test]
async fn many_that_provision_at_once_all_find_them_as_wadm_makes_them() {
    let nats = Nats::start().await;
    let gateways = [
        TestGateway::at(&nats.url()).await,
        TestGateway::at(&nats.url()).await,
    ];
    let calls = (0..8).map(|number| provisioned(&gateways[number % 2], ProvisionWadmRequest::default()));
    let answers = join_all(calls).await;
    // JetStream may tell each of several at once that it was the one.
    for answer in answers {
        let expected = [StreamAction::Created, StreamAction::Unchanged];
        let plans = answer.unwrap().streams;
        assert!(plans.iter().all(|plan| expected.contains(&plan.action())));
    }
    let theirs = Nats::start().await;
    create_as_wadm(&theirs, |_| {}).await;
    let configs = async |nats: &Nats| {
        let infos = infos(nats, &names()).await.into_iter();
        infos.map(|(config, _)| config).collect::<Vec<_>>()
    };
    assert_eq!(configs(&nats).await, configs(&theirs).await);
}

#[tokio::test]
async fn storage_and_bounds_are_chosen_for_all_of_them() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let request = ProvisionWadmRequest {
        storage: Storage::Memory.into(),
        max_bytes: 1 << 20,
        ..Default::default()
    };
    provisioned(&gateway, request).await.unwrap();
    let made = infos(&nats, &names()).await;
    for (config, _) in &made {
        assert_eq!(
            (&config["storage"], &config["max_bytes"]),
            (&json!("memory"), &json!(1 << 20)),
            "{config}"
        );
    }
    let request = ProvisionWadmRequest {
        storage: Storage::File.into(),
        max_bytes: 1 << 21,
        ..Default::default()
    };
    is_refused(&provisioned(&gateway, request).await.unwrap_err(), "storage");
    assert_eq!(infos(&nats, &names()).await, made);
}

#[tokio::test]
async fn it_takes_the_verb_on_every_lattice_and_is_recorded() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let text = format!(
        "[audit]\nto = {file:?}\n[lattices.default]\ntrusted_issuers = [\"*\"]\n{}{}{}",
        caller("some", "some-token", &["default", "d*", "*t"], "read provision"),
        caller("reader", "reader-token", &["*"], "read links:write"),
        caller("all", "all-token", &["*"], "provision"),
    );
    let mut gateway = TestGateway::serving_callers(&nats, &text).await;
    let nobody = provisioned(&gateway, ProvisionWadmRequest::default())
        .await
        .unwrap_err();
    assert_eq!(nobody.reason, ErrorReason::CredentialsMissing);
    for token in ["some-token", "reader-token"] {
        gateway = gateway.showing(token);
        // Whether there is such an upstream is not told either.
        for upstream in ["", "elsewhere"] {
            let request = ProvisionWadmRequest {
                upstream: upstream.into(),
                ..Default::default()
            };
            let told = provisioned(&gateway, request).await.unwrap_err();
            assert_eq!(
                (told.code, told.reason),
                (Code::PermissionDenied, ErrorReason::LatticeNotGranted)
            );
            assert_eq!(
                (&*told.metadata["lattice"], &*told.metadata["verb"]),
                ("*", "provision")
            );
        }
    }
    assert_eq!(streams(&nats).await, Value::Null);
    gateway = gateway.showing("all-token");
    for _ in 0..2 {
        provisioned(&gateway, ProvisionWadmRequest::default())
            .await
            .unwrap();
    }
    let recorded = fs::read_to_string(&file).unwrap();
    let recorded = recorded.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["method"], "ProvisionWadm");
        let caller = record["caller"].as_str().map(str::to_owned);
        if caller.is_some() {
            assert_eq!(
                (&record["lattice"], &record["verb"]),
                (&json!("*"), &json!("provision"))
            );
        }
        (
            caller.unwrap_or_default(),
            record["outcome"].as_str().unwrap().to_owned(),
        )
    });
    let denied = "LATTICE_NOT_GRANTED";
    let expected = [
        ("", "CREDENTIALS_MISSING"),
        ("some", denied),
        ("some", denied),
        ("reader", denied),
        ("reader", denied),
        ("all", "OUTCOME_APPLIED"),
        ("all", "OUTCOME_UNCHANGED"),
    ];
    assert_eq!(
        recorded.collect::<Vec<_>>(),
        expected.map(|(caller, outcome)| (caller.to_owned(), outcome.to_owned()))
    );
}

#[tokio::test]
async fn they_are_on_the_upstream_that_is_named() {
    let (first, edge) = (Nats::start().await, Nats::start().await);
    let text = format!(
        "[upstreams.edge]\nservers = {:?}\n[lattices.default]\ntrusted_issuers = [\"*\"]\n",
        edge.url()
    );
    let gateway = TestGateway::serving(&first, &text).await;
    let on = |upstream: &str| ProvisionWadmRequest {
        upstream: upstream.to_owned(),
        ..Default::default()
    };
    let told = provisioned(&gateway, on("elsewhere")).await.unwrap_err();
    assert_eq!(
        (told.reason, &*told.fields),
        (ErrorReason::InvalidField, &["upstream".to_owned()][..])
    );
    provisioned(&gateway, on("edge")).await.unwrap();
    assert_eq!(streams(&first).await, Value::Null);
    assert_eq!(streams(&edge).await.as_array().unwrap().len(), 8);
    provisioned(&gateway, on("")).await.unwrap();
    assert_eq!(streams(&first).await.as_array().unwrap().len(), 8);
}
