//! Every attempt to change something leaves one record, and none where that cannot be kept.

use std::{collections::BTreeMap, path::Path, time::Duration};

use lattice_gateway::proto::{
    DeleteInterfaceLinkRequest, DeleteLinkDefinitionRequest, ErrorReason, GetLatticeRequest, InterfaceLink,
};
use serde_json::{Value, json};
use tokio::join;
use tonic::Request;

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACTOR, PROVIDER},
    gateway::caller,
    interface_link, link, named_config, put_config, put_interface_link, put_link, told, until,
    wire::Wire,
};

const WRITER: &str = "read links:write refs:write claims:write config:write provision";

async fn gateway_with(nats: &Nats, file: &Path, on_failure: &str) -> TestGateway {
    nats.create_stream("default", Value::Null).await;
    let config = format!(
        "[audit]\nto = {file:?}\non_failure = \"{on_failure}\"\n[lattices.default]\ntrusted_issuers = [\"*\"]\n{}{}",
        caller("writer", "canary-token", &["default"], WRITER),
        caller("reader", "other-token", &["default"], "read"),
    );
    TestGateway::serving_callers(nats, &config).await
}

fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn an_attempt_is_recorded_with_who_what_and_what_became_of_it() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let mut gateway = gateway_with(&nats, &file, "refuse").await;
    let mut put = put_link(link(ACTOR, PROVIDER, "canary-value"));
    put.request_id = "request-0001".into();

    gateway.put(put.clone()).await.unwrap_err();
    gateway = gateway.showing("other-token");
    gateway.put(put.clone()).await.unwrap_err();
    gateway = gateway.showing("canary-token");
    let first = gateway.put(put.clone()).await.unwrap().result.unwrap();
    gateway.put(put.clone()).await.unwrap();
    put.request_id.clear();
    put.link_definition.as_mut().unwrap().values.clear();
    let second = gateway.put(put.clone()).await.unwrap().result.unwrap();
    put.validate_only = true;
    gateway.put(put.clone()).await.unwrap();
    put.link_definition.as_mut().unwrap().actor_id = "nobody".into();
    gateway.put(put.clone()).await.unwrap_err();
    let delete = DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    };
    told(gateway.links().delete_link_definition(delete).await).unwrap();
    gateway
        .call("LinkDefinitionService/PutLinkDefinition", vec![0xff])
        .await
        .unwrap_err();
    let get = GetLatticeRequest {
        lattice: "default".into(),
    };
    told(gateway.lattices().get_lattice(get).await).unwrap();

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let records = records(&file);
    let of = |name: &str| {
        records
            .iter()
            .map(|record| record[name].clone())
            .collect::<Vec<_>>()
    };
    let texts = |name: &str| {
        let texts = of(name).into_iter();
        texts
            .map(|value| value.as_str().unwrap_or("-").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts("outcome"),
        [
            "CREDENTIALS_MISSING",
            "LATTICE_NOT_GRANTED",
            "OUTCOME_APPLIED",
            "OUTCOME_ALREADY_APPLIED",
            "OUTCOME_APPLIED",
            "OUTCOME_VALIDATED",
            "INVALID_FIELD",
            "OUTCOME_APPLIED",
            "INVALID_FIELD",
        ],
        "in their order, and none of a read"
    );
    assert_eq!(texts("caller")[..3], ["-", "reader", "writer"]);
    assert_eq!(texts("verb")[..3], ["-", "links:write", "links:write"]);
    assert_eq!(texts("lattice")[1..3], ["default", "default"]);
    assert!(texts("entry")[1..6].iter().all(|text| text.contains(ACTOR)));
    assert_eq!(texts("request_id")[1..4], ["request-0001"; 3]);
    assert_eq!(texts("fingerprint")[2], texts("fingerprint")[3]);
    assert_ne!(texts("fingerprint")[2], texts("fingerprint")[4]);
    let credentials = texts("credential");
    assert!(credentials[2].starts_with("token:") && credentials[2].len() == 22);
    assert_ne!(credentials[1], credentials[2]);
    let before_and_after = |place: usize| {
        let (before, after) = (texts("etag_before"), texts("etag_after"));
        (before[place].clone(), after[place].clone())
    };
    assert_eq!(before_and_after(2), ("-".to_owned(), first.etag.clone()));
    assert_eq!(before_and_after(4), (first.etag, second.etag.clone()));
    assert_eq!(before_and_after(7), (second.etag, "-".to_owned()));
    assert_eq!(of("revision")[2][1], 1);
    assert_eq!(of("validate_only")[4..6], [Value::Bool(false), Value::Bool(true)]);
    assert!(texts("time")[0].ends_with('Z'));
}

#[tokio::test]
async fn changes_of_links_that_share_a_record_and_of_configs_are_recorded_each() {
    let nats = Nats::start().await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let config = format!(
        "[audit]\nto = {file:?}\n[lattices.default]\ntrusted_issuers = [\"*\"]\nlayout = \"component\"\nsettle = \"0s\"\n{}",
        caller("writer", "canary-token", &["default"], WRITER),
    );
    let gateway = TestGateway::serving_callers(&nats, &config)
        .await
        .showing("canary-token");
    let put = gateway.put_config(put_config(named_config("http-cfg", "canary-value")));
    let config = put.await.unwrap().result.unwrap();
    let one = InterfaceLink {
        source_config: vec!["http-cfg".into()],
        ..interface_link("one")
    };
    let two = InterfaceLink {
        name: "second".into(),
        ..interface_link("two")
    };
    // One publish or two: each has a record of its own.
    let (one, two) = tokio::join!(
        gateway.put_interface_link(put_interface_link(one)),
        gateway.put_interface_link(put_interface_link(two)),
    );
    let (one, two) = (one.unwrap().result.unwrap(), two.unwrap().result.unwrap());
    let delete = DeleteInterfaceLinkRequest {
        lattice: "default".into(),
        source_id: Some("http-server".into()),
        wit_namespace: Some("wasi".into()),
        wit_package: Some("http".into()),
        ..Default::default()
    };
    told(gateway.interface_links().delete_interface_link(delete).await).unwrap();

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let records = records(&file);
    assert_eq!(records.len(), 4, "{text}");
    let written = |entry: &str, method: &str| {
        let of_entry = |record: &&Value| record["entry"] == entry && record["method"] == method;
        let record = records.iter().find(of_entry).unwrap();
        assert_eq!(record["outcome"], "OUTCOME_APPLIED", "{record}");
        assert!(
            record["fingerprint"].is_string() && record["request_id"].is_string(),
            "{record}"
        );
        (
            record["verb"].clone(),
            record["etag_before"].clone(),
            record["etag_after"].clone(),
        )
    };
    let (links, configs) = (Value::from("links:write"), Value::from("config:write"));
    assert_eq!(
        written("config http-cfg", "PutConfig"),
        (configs, Value::Null, config.etag.into())
    );
    assert_eq!(
        written(
            "interface_link http-server default wasi http one",
            "PutInterfaceLink"
        ),
        (links.clone(), Value::Null, one.etag.clone().into())
    );
    assert_eq!(
        written(
            "interface_link http-server second wasi http two",
            "PutInterfaceLink"
        ),
        (links.clone(), Value::Null, two.etag.into())
    );
    // Its target was left out: the record names it.
    assert_eq!(
        written(
            "interface_link http-server default wasi http one",
            "DeleteInterfaceLink"
        ),
        (links, one.etag.into(), Value::Null)
    );
}

/// Changes that are of no entry.
const OF_LATTICES: [&str; 3] = ["ProvisionLattice", "ProvisionWadm", "MigrateLattice"];

#[tokio::test]
async fn every_change_of_the_api_is_recorded_and_no_read() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let gateway = gateway_with(&nats, &file, "refuse").await.showing("canary-token");
    let mut expected = BTreeMap::new();
    for method in api::methods() {
        let name = method.split_once('/').unwrap().1.to_owned();
        let is_read = ["Get", "List", "Watch", "Diagnose"]
            .iter()
            .any(|verb| name.starts_with(verb));
        drop(
            gateway
                .call(&method, api::valid_request(&method, "default"))
                .await,
        );
        match name.as_str() {
            // Their operations are recorded, by their own methods.
            "Apply" | "ApplyManifest" => *expected.entry("PutLinkDefinition".to_owned()).or_insert(0) += 1,
            _ if is_read => {}
            _ => *expected.entry(name).or_insert(0) += 1,
        }
    }
    let mut recorded = BTreeMap::new();
    for record in records(&file) {
        let lattice = match record["method"].as_str() {
            Some("ProvisionWadm") => "*",
            _ => "default",
        };
        assert_eq!(record["lattice"], lattice, "{record}");
        assert!(
            record["outcome"].is_string() && record["caller"] == "writer",
            "{record}"
        );
        assert!(
            record["entry"].is_string() || OF_LATTICES.iter().any(|method| record["method"] == *method),
            "{record}"
        );
        *recorded
            .entry(record["method"].as_str().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    assert_eq!(recorded, expected);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_record_of_what_became_of_its_write() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let gateway = gateway_with(&nats, &file, "refuse").await.showing("canary-token");
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "first")))
        .await
        .unwrap();
    nats.hold().await;
    let put = gateway.put(put_link(link(ACTOR, PROVIDER, "second")));
    // Long enough to be sent, which is told by the metric.
    tokio::select! {
        _ = put => panic!("a held server answered"),
        () = gateway.are_under_way(1) => {}
    }
    nats.release();
    let recorded = until("the second record", async || records(&file).get(1).cloned()).await;
    assert_eq!(recorded["outcome"], "OUTCOME_APPLIED");
}

#[tokio::test]
async fn without_a_place_for_records_changes_are_refused_or_go_on_as_configured() {
    for (on_failure, is_refused) in [("refuse", true), ("continue", false)] {
        let nats = Nats::start().await;
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("logs");
        std::fs::create_dir(&place).unwrap();
        let file = place.join("audit.jsonl");
        let gateway = gateway_with(&nats, &file, on_failure)
            .await
            .showing("canary-token");
        let put = || put_link(link(ACTOR, PROVIDER, "value"));
        std::fs::remove_dir_all(&place).unwrap();
        // That the file is gone is noticed within a second.
        let refused: Option<Told> = match is_refused {
            false => None,
            true => Some(until("the loss is noticed", async || gateway.put(put()).await.err()).await),
        };
        if let Some(refused) = refused {
            assert_eq!(refused.reason, ErrorReason::BackendUnavailable);
            assert!(refused.message.contains("audit"), "{}", refused.message);
            let get = GetLatticeRequest {
                lattice: "default".into(),
            };
            told(gateway.lattices().get_lattice(get).await).unwrap();
            std::fs::create_dir(&place).unwrap();
            gateway.put(put()).await.unwrap();
            assert!(records(&file).len() >= 2, "what waited is written too");
        } else {
            until("a loss is counted", async || {
                gateway.put(put()).await.unwrap();
                let metrics = gateway.metrics().await;
                metrics
                    .contains("lattice_gateway_audit_records_total{result=\"failed\"}")
                    .then_some(())
            })
            .await;
        }
    }
}

/// Edits of one source share publishes, which end for all of them at once.
#[tokio::test]
async fn an_edit_that_is_answered_is_recorded_though_its_publish_goes_on_for_another() {
    let nats = Nats::start().await;
    let wire = Wire::to(nats.port()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
    for bucket in ["LATTICEDATA", "CONFIGDATA"] {
        nats.create_bucket(bucket, "default", noted.clone()).await;
    }
    let config =
        format!("[audit]\nto = {file:?}\n[lattices.default]\ntrusted_issuers = []\nsettle = \"0s\"\n");
    let gateway = TestGateway::serving_at(wire.url(), &config).await;
    let put = async |name: &str, time: Duration| {
        let link = InterfaceLink {
            name: name.to_owned(),
            ..interface_link("echo")
        };
        let mut request = Request::new(put_interface_link(link));
        request.set_timeout(time);
        told(gateway.interface_links().put_interface_link(request).await)
    };
    let long = Duration::from_secs(10);
    put("first", long).await.unwrap();
    let last = async || {
        let info = nats.api("STREAM.INFO.KV_LATTICEDATA_default", Value::Null).await;
        info["state"]["last_seq"].as_u64()
    };
    let before = last().await;
    wire.stall_answers(true);
    let first_publish = put("occupant", long);
    let second_publish = async {
        until("the first publish is stored", async || {
            (last().await > before).then_some(())
        })
        .await;
        let patient = put("patient", long);
        let short = async {
            let told = put("short", Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(told.reason, ErrorReason::OutcomeUnknown);
            let outcomes = records(&file).into_iter().map(|record| record["outcome"].clone());
            let outcomes = outcomes.collect::<Vec<_>>();
            assert_eq!(
                outcomes,
                ["OUTCOME_APPLIED", "OUTCOME_APPLIED", "OUTCOME_UNKNOWN"]
            );
            wire.stall_publishes(false);
        };
        let held_up = async {
            gateway.are_under_way(3).await;
            wire.stall_publishes(true);
            wire.stall_answers(false);
        };
        join!(patient, short, held_up).0
    };
    let (occupant, patient) = join!(first_publish, second_publish);
    occupant.unwrap();
    patient.unwrap();
}
