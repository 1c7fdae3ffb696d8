//! Lattices of wasmCloud 1.0 to 1.9: interface links and named configs, in the buckets that hosts write too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{join, join_all},
};
use lattice_gateway::{
    config::Config,
    control::lattices::Layout,
    proto::{
        Consistency, DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest, ErrorReason,
        GetConfigRequest, GetInterfaceLinkRequest, GetLatticeRequest, InterfaceLink, Lattice,
        ListInterfaceLinksRequest, NamedConfig, Outcome, PutClaimsRequest, PutConfigRequest,
        PutInterfaceLinkRequest, PutInterfaceLinkResponse, WriteResult, consistency::Requirement,
        interface_link_service_client::InterfaceLinkServiceClient, put_claims_request::Source,
        put_interface_link_request::Precondition,
    },
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tonic::{Code, transport::Channel};

use crate::harness::{
    Bucket, Nats, TestGateway, Told, api, interface_link, process::Process, put_interface_link, told, until,
    wire::Wire,
};

const CALM: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\nsettle = \"0s\"\n";

/// A lattice that no host watches, and its buckets.
struct Stand {
    nats: Nats,
    gateway: TestGateway,
    data: Bucket,
    configs: Bucket,
}

impl Stand {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let gateway = calm(&nats).await;
        Self::of(nats, gateway).await
    }

    /// Beside hosts: edits settle, and wait after a reconnect.
    async fn beside_hosts() -> Self {
        let nats = Nats::start().await;
        let gateway = TestGateway::at(&nats.url()).await;
        Self::of(nats, gateway).await
    }

    async fn of(nats: Nats, gateway: TestGateway) -> Self {
        let data = Bucket::data(&nats, "default").await;
        let configs = Bucket::configs(&nats, "default").await;
        let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
        for bucket in ["LATTICEDATA", "CONFIGDATA"] {
            nats.create_bucket(bucket, "default", noted.clone()).await;
        }
        Self {
            nats,
            gateway,
            data,
            configs,
        }
    }

    async fn put(&self, link: InterfaceLink) -> Result<PutInterfaceLinkResponse, Told> {
        put(&self.gateway, put_interface_link(link)).await
    }

    async fn put_config(&self, name: &str, values: &[(&str, &str)]) -> Result<WriteResult, Told> {
        let put = PutConfigRequest {
            lattice: "default".into(),
            named_config: Some(NamedConfig {
                name: name.into(),
                values: values
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                ..NamedConfig::default()
            }),
            ..PutConfigRequest::default()
        };
        told(self.gateway.configs().put_config(put).await).map(|put| put.result.unwrap())
    }

    async fn delete(&self, link: &InterfaceLink, target: Option<&str>) -> Result<WriteResult, Told> {
        let delete = DeleteInterfaceLinkRequest {
            target: target.map(str::to_owned),
            ..delete(link)
        };
        told(self.gateway.interface_links().delete_interface_link(delete).await)
            .map(|deleted| deleted.result.unwrap())
    }

    /// What the API lists, as `target interfaces` by source and name.
    async fn listed(&self) -> Vec<InterfaceLink> {
        let list = ListInterfaceLinksRequest {
            lattice: "default".into(),
            consistency: Some(fully_consistent()),
            page_size: 1_000,
            ..ListInterfaceLinksRequest::default()
        };
        let page = told(self.gateway.interface_links().list_interface_links(list).await).unwrap();
        assert_eq!(page.next_page_token, "");
        page.interface_links
    }

    async fn described(&self) -> Lattice {
        let get = GetLatticeRequest {
            lattice: "default".into(),
        };
        told(self.gateway.lattices().get_lattice(get).await)
            .unwrap()
            .lattice
            .unwrap()
    }
}

/// A gateway for which no host watches the bucket.
async fn calm(nats: &Nats) -> TestGateway {
    calm_at(nats.url()).await
}

async fn calm_at(url: String) -> TestGateway {
    let mut config = Config::dev(url, None);
    let caller = "[callers.nobody]\ntoken_sha256 = [\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]\ngrants = []\n";
    config.lattices = Config::parse(&format!("{CALM}{caller}"), std::iter::empty())
        .unwrap()
        .lattices;
    TestGateway::with(config).await
}

async fn put(
    gateway: &TestGateway,
    request: PutInterfaceLinkRequest,
) -> Result<PutInterfaceLinkResponse, Told> {
    told(gateway.interface_links().put_interface_link(request).await)
}

fn fully_consistent() -> Consistency {
    Consistency {
        requirement: Some(Requirement::FullyConsistent(true)),
    }
}

fn link(source: &str, target: &str, interfaces: &[&str]) -> InterfaceLink {
    InterfaceLink {
        source_id: source.into(),
        target: target.into(),
        wit_namespace: "wasi".into(),
        wit_package: "http".into(),
        interfaces: interfaces.iter().map(|text| (*text).to_owned()).collect(),
        ..InterfaceLink::default()
    }
}

fn named(name: &str, link: InterfaceLink) -> InterfaceLink {
    InterfaceLink {
        name: name.into(),
        ..link
    }
}

fn delete(link: &InterfaceLink) -> DeleteInterfaceLinkRequest {
    DeleteInterfaceLinkRequest {
        lattice: "default".into(),
        source_id: Some(link.source_id.clone()),
        name: (!link.name.is_empty()).then(|| link.name.clone()),
        wit_namespace: Some(link.wit_namespace.clone()),
        wit_package: Some(link.wit_package.clone()),
        target: Some(link.target.clone()),
        ..DeleteInterfaceLinkRequest::default()
    }
}

/// As a host writes a link.
fn stored(link: &InterfaceLink) -> Value {
    let name = if link.name.is_empty() {
        "default"
    } else {
        &link.name
    };
    json!({
        "source_id": link.source_id, "target": link.target, "name": name, "wit_namespace": link.wit_namespace,
        "wit_package": link.wit_package, "interfaces": link.interfaces, "source_config": link.source_config,
        "target_config": link.target_config,
    })
}

#[tokio::test]
async fn a_link_is_written_as_hosts_write_it() {
    let stand = Stand::start().await;
    let put = stand
        .put(link("http-server", "hello", &["incoming-handler"]))
        .await
        .unwrap();
    assert_eq!(put.result.as_ref().unwrap().outcome(), Outcome::Applied);
    assert_eq!(put.interface_link.unwrap().name, "default");
    let last = stand.data.last("COMPONENT_http-server").await.unwrap();
    assert_eq!(
        last.body,
        r#"{"url":"","links":[{"source_id":"http-server","target":"hello","name":"default","wit_namespace":"wasi","wit_package":"http","interfaces":["incoming-handler"],"source_config":[],"target_config":[]}]}"#
    );
    let deleted = stand
        .delete(&link("http-server", "hello", &[]), None)
        .await
        .unwrap();
    assert_eq!(deleted.outcome(), Outcome::Applied);
    assert_eq!(
        stand.data.last("COMPONENT_http-server").await.unwrap().body,
        r#"{"url":"","links":[]}"#,
        "the key stays"
    );
}

#[tokio::test]
async fn what_the_gateway_does_not_know_stays_in_the_record() {
    let stand = Stand::start().await;
    let host = link("s", "t", &["a"]);
    let mut with_more = stored(&host);
    with_more["priority"] = json!({"level": 7});
    let record = json!({"url": "file:///s", "links": [with_more], "owner": "ops"});
    stand.data.put("COMPONENT_s", record.to_string()).await;
    stand.put(link("s", "t", &["b"])).await.unwrap();
    stand.put(named("other", link("s", "u", &["a"]))).await.unwrap();
    let now = stand.data.value("COMPONENT_s").await;
    assert_eq!((&now["url"], &now["owner"]), (&json!("file:///s"), &json!("ops")));
    assert_eq!(now["links"][0]["priority"], json!({"level": 7}));
    assert_eq!(now["links"][0]["interfaces"], json!(["b"]));
    assert_eq!(now["links"][1], stored(&named("other", link("s", "u", &["a"]))));
}

#[tokio::test]
async fn the_rules_of_hosts_hold() {
    let stand = Stand::start().await;
    stand.put(link("a", "b", &["i1", "i2"])).await.unwrap();
    stand.put(link("a", "c", &["i3"])).await.unwrap();
    for (refused, other) in [
        (link("a", "c", &["i1"]), "b"),
        (link("a", "d", &["i2", "x"]), "b"),
    ] {
        let conflict = stand.put(refused).await.unwrap_err();
        assert_eq!(
            (conflict.code, conflict.reason),
            (Code::FailedPrecondition, ErrorReason::LinkConflict)
        );
        assert!(conflict.metadata["entry"].ends_with(other), "{conflict:?}");
    }
    stand.put(named("second", link("a", "d", &["i1"]))).await.unwrap();
    stand.put(link("a", "a", &["self"])).await.unwrap();

    let ambiguous = stand.delete(&link("a", "", &[]), None).await.unwrap_err();
    assert_eq!(ambiguous.reason, ErrorReason::AmbiguousLink);
    let get = GetInterfaceLinkRequest {
        lattice: "default".into(),
        source_id: Some("a".into()),
        wit_namespace: Some("wasi".into()),
        wit_package: Some("http".into()),
        ..GetInterfaceLinkRequest::default()
    };
    let told_apart = told(
        stand
            .gateway
            .interface_links()
            .get_interface_link(get.clone())
            .await,
    );
    assert_eq!(told_apart.unwrap_err().reason, ErrorReason::AmbiguousLink);
    let one = GetInterfaceLinkRequest {
        target: Some("c".into()),
        ..get
    };
    let one = told(stand.gateway.interface_links().get_interface_link(one).await).unwrap();
    assert_eq!(one.interface_link.unwrap().interfaces, ["i3"]);

    stand.delete(&link("a", "b", &[]), Some("b")).await.unwrap();
    stand.delete(&link("a", "c", &[]), Some("c")).await.unwrap();
    stand.delete(&link("a", "", &[]), None).await.unwrap();
    let listed = stand.listed().await;
    let listed = listed
        .iter()
        .map(|link| (&*link.name, &*link.target))
        .collect::<Vec<_>>();
    assert_eq!(listed, [("second", "d")]);
}

#[tokio::test]
async fn a_link_needs_its_configs_and_a_config_is_kept_while_links_name_it() {
    let stand = Stand::start().await;
    let configured = InterfaceLink {
        source_config: vec!["http".into()],
        target_config: vec!["SECRET_token".into()],
        ..link("s", "t", &["a"])
    };
    let missing = stand.put(configured.clone()).await.unwrap_err();
    assert_eq!(missing.reason, ErrorReason::ConfigNotFound);
    assert_eq!(missing.metadata["configs"], "http, SECRET_token");
    stand.put_config("http", &[("port", "80")]).await.unwrap();
    // Of a secret reference hosts look only whether it is there.
    stand.configs.put("SECRET_token", "no secret reference").await;
    stand.configs.put("http", "no values").await;
    let unreadable = stand.put(configured.clone()).await.unwrap_err();
    assert_eq!(unreadable.metadata["configs"], "http");
    stand.put_config("http", &[("port", "80")]).await.unwrap();
    stand.put(configured.clone()).await.unwrap();
    assert_eq!(stand.configs.last("http").await.unwrap().body, r#"{"port":"80"}"#);

    let delete = DeleteConfigRequest {
        lattice: "default".into(),
        name: "http".into(),
        ..DeleteConfigRequest::default()
    };
    let used = told(stand.gateway.configs().delete_config(delete.clone()).await).unwrap_err();
    assert_eq!(used.reason, ErrorReason::ConfigInUse);
    let forced = DeleteConfigRequest {
        force: true,
        request_id: "delete-http".into(),
        ..delete
    };
    told(stand.gateway.configs().delete_config(forced).await).unwrap();
    let marker = stand.configs.last("http").await.unwrap();
    assert_eq!(marker.body, "");
    for header in ["KV-Operation: PURGE", "Nats-Rollup: sub"] {
        assert!(marker.headers.contains(header), "{}", marker.headers);
    }
    let get = GetConfigRequest {
        lattice: "default".into(),
        name: "http".into(),
        ..GetConfigRequest::default()
    };
    let gone = told(stand.gateway.configs().get_config(get).await).unwrap_err();
    assert_eq!(gone.reason, ErrorReason::EntryNotFound);
}

#[tokio::test]
async fn an_etag_covers_one_link() {
    let stand = Stand::start().await;
    let first = stand.put(link("s", "t", &["a"])).await.unwrap();
    let etag = first.result.unwrap().etag;
    stand.put(named("other", link("s", "u", &["a"]))).await.unwrap();
    let with = |etag: &str, interface: &str| PutInterfaceLinkRequest {
        precondition: Some(Precondition::Etag(etag.to_owned())),
        ..put_interface_link(link("s", "t", &[interface]))
    };
    let changed = put(&stand.gateway, with(&etag, "b")).await.unwrap();
    assert_ne!(changed.result.unwrap().etag, etag);
    let stale = put(&stand.gateway, with(&etag, "c")).await.unwrap_err();
    assert_eq!(stale.reason, ErrorReason::EtagMismatch);
}

#[tokio::test]
async fn a_retry_is_known_on_any_gateway() {
    let stand = Stand::start().await;
    let other = calm(&stand.nats).await;
    let first = PutInterfaceLinkRequest {
        request_id: "put-number-1".into(),
        ..put_interface_link(link("s", "t", &["a"]))
    };
    put(&stand.gateway, first.clone()).await.unwrap();
    stand.put(named("n2", link("s", "t", &["a"]))).await.unwrap();
    let again = PutInterfaceLinkRequest {
        retry_age: Some(Duration::from_secs(5).into()),
        ..first
    };
    let result = put(&other, again.clone()).await.unwrap().result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, false)
    );
    stand.put(link("s", "t", &["b"])).await.unwrap();
    let result = put(&other, again.clone()).await.unwrap().result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, true)
    );
    let reused = PutInterfaceLinkRequest {
        interface_link: Some(link("s", "t", &["z"])),
        ..again
    };
    assert_eq!(
        put(&other, reused).await.unwrap_err().reason,
        ErrorReason::RequestIdReused
    );

    let gone = DeleteInterfaceLinkRequest {
        request_id: "delete-number-1".into(),
        target: None,
        ..delete(&link("s", "t", &[]))
    };
    let deleting = async |gateway: &TestGateway, age: Option<u64>| {
        let delete = DeleteInterfaceLinkRequest {
            retry_age: age.map(|age| Duration::from_secs(age).into()),
            ..gone.clone()
        };
        let deleted = told(gateway.interface_links().delete_interface_link(delete).await);
        deleted.unwrap().result.unwrap().outcome()
    };
    assert_eq!(deleting(&stand.gateway, None).await, Outcome::Applied);
    assert_eq!(deleting(&other, Some(3)).await, Outcome::AlreadyApplied);
}

#[tokio::test]
async fn a_thousand_puts_on_one_source_from_three_gateways_are_all_stored() {
    let stand = Stand::start().await;
    let others = [calm(&stand.nats).await, calm(&stand.nats).await];
    let gateways = [&stand.gateway, &others[0], &others[1]];
    let began = Instant::now();
    let puts = (0..1_000).map(|number| {
        let request = PutInterfaceLinkRequest {
            request_id: format!("put-number-{number}"),
            ..put_interface_link(named(&format!("n{number}"), link("s", "t", &["a"])))
        };
        put(gateways[number % 3], request)
    });
    for answer in join_all(puts).await {
        assert_eq!(answer.unwrap().result.unwrap().outcome(), Outcome::Applied);
    }
    let record = stand.data.value("COMPONENT_s").await;
    assert_eq!(record["links"].as_array().unwrap().len(), 1_000);
    assert_eq!(stand.listed().await.len(), 1_000);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_record_that_would_be_too_large_is_refused_and_stays() {
    let stand = Stand::start().await;
    let interfaces = (0..64)
        .map(|number| format!("{number:a>128}"))
        .collect::<Vec<_>>();
    let large = |number: usize| InterfaceLink {
        interfaces: interfaces.clone(),
        ..named(&format!("n{number}"), link("s", "t", &[]))
    };
    let mut count = 0;
    let refused = loop {
        match stand.put(large(count)).await {
            Ok(_) => count += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.reason, ErrorReason::LimitExceeded);
    assert_eq!(refused.metadata["limit"], "body_bytes_max");
    let body = stand.data.last("COMPONENT_s").await.unwrap().body;
    assert!(
        body.len() <= 512 * 1024 && body.len() > 500 * 1024,
        "{}",
        body.len()
    );
    assert_eq!(stand.listed().await.len(), count);
    stand.put(named("n0", link("s", "t", &["small"]))).await.unwrap();
    assert!(stand.put(large(0)).await.is_ok());
}

#[tokio::test]
async fn claims_are_written_as_hosts_write_them_and_deleted_so_that_they_drop_them() {
    let stand = Stand::start().await;
    let (token, key) = crate::harness::keys::actor_token(&nkeys::KeyPair::new_account(), json!({}));
    let put = PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Jwt(token)),
        ..PutClaimsRequest::default()
    };
    told(stand.gateway.claims().put_claims(put).await).unwrap();
    let body = stand.data.value(&format!("CLAIMS_{key}")).await;
    assert_eq!(
        (
            &body["call_alias"],
            &body["tags"],
            &body["revision"],
            &body["subject"],
            &body["caps"]
        ),
        (
            &json!("echo"),
            &json!(["a", "b"]),
            &json!("4"),
            &json!(key),
            &Value::Null
        )
    );

    // In a form that the gateway never writes.
    let foreign = json!({
        "call_alias": "x", "iss": api::ACCOUNT, "name": "Old", "rev": "1", "sub": api::ACTOR, "tags": "", "version": "1",
    });
    stand
        .data
        .put(&format!("CLAIMS_{}", api::ACTOR), foreign.to_string())
        .await;
    let delete = DeleteClaimsRequest {
        lattice: "default".into(),
        public_key: api::ACTOR.into(),
        ..DeleteClaimsRequest::default()
    };
    until("the claims are seen", async || {
        told(stand.gateway.claims().delete_claims(delete.clone()).await).ok()
    })
    .await;
    let marker = stand.data.last(&format!("CLAIMS_{}", api::ACTOR)).await.unwrap();
    assert_eq!(marker.body, foreign.to_string(), "byte for byte");
    assert!(marker.headers.contains("KV-Operation: DEL"), "{}", marker.headers);
}

/// Hears everything under `wasmbus.`.
async fn heard(nats: &Nats, count: usize, act: impl AsyncFnOnce()) -> BTreeMap<String, Value> {
    let client = nats.client().await;
    let mut all = client.subscribe("wasmbus.>").await.unwrap();
    client.flush().await.unwrap();
    act().await;
    let mut heard = BTreeMap::new();
    for _ in 0..count {
        let message = timeout(Duration::from_secs(10), all.next())
            .await
            .unwrap()
            .unwrap();
        let says = serde_json::from_slice(&message.payload).unwrap();
        heard.insert(message.subject.to_string(), says);
    }
    heard
}

#[tokio::test]
async fn others_are_told_as_a_host_tells_them() {
    let stand = Stand::start().await;
    let set = heard(&stand.nats, 1, async || {
        stand.put(link("s", "t", &["a"])).await.unwrap();
    });
    let set = set.await;
    let event = &set["wasmbus.evt.default.linkdef_set"];
    assert_eq!(event["type"], "com.wasmcloud.lattice.linkdef_set");
    assert_eq!(event["data"], stored(&link("s", "t", &["a"])));

    let deleted = heard(&stand.nats, 3, async || {
        stand.delete(&link("s", "t", &[]), None).await.unwrap();
    });
    let deleted = deleted.await;
    let mut data = stored(&link("s", "t", &["a"]));
    let data = data.as_object_mut().unwrap();
    data.retain(|name, _| !name.ends_with("_config"));
    assert_eq!(
        deleted["wasmbus.evt.default.linkdef_deleted"]["data"],
        Value::Object(data.clone())
    );
    for component in ["s", "t"] {
        let mut notice = stored(&link("s", "t", &["a"]));
        for name in ["source_config", "target_config"] {
            notice[name] = json!({});
        }
        for name in ["source_secrets", "target_secrets"] {
            notice[name] = Value::Null;
        }
        assert_eq!(
            deleted[&format!("wasmbus.rpc.default.{component}.linkdefs.del")],
            notice
        );
    }

    let config = heard(&stand.nats, 1, async || {
        stand.put_config("http", &[]).await.unwrap();
    });
    let config = config.await;
    assert_eq!(
        config["wasmbus.evt.default.config_set"]["data"],
        json!({"config_name": "http"})
    );
}

#[tokio::test]
async fn what_no_host_can_read_is_listed_and_blocks_only_itself() {
    let stand = Stand::start().await;
    stand.data.put("COMPONENT_bad", r#"{"links":[]}"#).await;
    let misfiled = json!({"url": "", "links": [stored(&link("elsewhere", "t", &["a"]))]});
    stand.data.put("COMPONENT_mis", misfiled.to_string()).await;
    stand.data.put("FOO", "bar").await;
    stand.data.put("LINKDEF_AB", "of the era before").await;
    let blocked = stand.put(link("bad", "t", &["a"])).await.unwrap_err();
    assert_eq!(blocked.reason, ErrorReason::Internal);
    assert_eq!(
        stand.data.last("COMPONENT_bad").await.unwrap().body,
        r#"{"links":[]}"#
    );
    stand.put(link("mis", "t", &["a"])).await.unwrap();
    let record = stand.data.value("COMPONENT_mis").await;
    assert_eq!(
        record["links"].as_array().unwrap().len(),
        2,
        "the misfiled one stays"
    );
    let listed = stand.listed().await;
    assert_eq!(
        listed.iter().map(|link| &*link.source_id).collect::<Vec<_>>(),
        ["mis"]
    );
    let lattice = stand.described().await;
    let malformed = lattice.malformed.iter().map(|entry| &*entry.subject);
    assert_eq!(
        malformed.collect::<BTreeSet<_>>(),
        ["COMPONENT_bad", "COMPONENT_mis", "FOO"]
            .map(|key| format!("$KV.LATTICEDATA_default.{key}"))
            .iter()
            .map(String::as_str)
            .collect()
    );
}

/// Writes back what stood before, as a host does that read before the gateway wrote.
#[tokio::test]
async fn what_a_host_undoes_at_once_is_applied_again() {
    let stand = Stand::beside_hosts().await;
    let before = json!({"url": "file:///s", "links": [stored(&link("s", "host", &["h"]))]});
    stand.data.put("COMPONENT_s", before.to_string()).await;
    let undone = AtomicUsize::new(0);
    let is_done = AtomicBool::new(false);
    let host = async {
        let mut last = 0;
        while !is_done.load(Ordering::Relaxed) {
            let now = stand.data.last("COMPONENT_s").await.unwrap();
            let is_new = now.sequence > last && now.headers.contains("Lattice-Gateway-Evidence");
            if is_new && undone.load(Ordering::Relaxed) < 2 {
                last = stand.data.put("COMPONENT_s", before.to_string()).await;
                undone.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let edits = async {
        let put = stand.put(link("s", "t", &["a"])).await.unwrap();
        is_done.store(true, Ordering::Relaxed);
        put.result.unwrap()
    };
    let ((), result) = tokio::join!(host, edits);
    assert_eq!((result.outcome(), result.superseded), (Outcome::Applied, false));
    assert_eq!(undone.load(Ordering::Relaxed), 2);
    let record = stand.data.value("COMPONENT_s").await;
    assert_eq!(record["links"].as_array().unwrap().len(), 2);
    assert_eq!(record["url"], "file:///s");
    let metrics = stand.gateway.metrics().await;
    assert!(
        metrics.contains(r#"link_edits_undone_total{acknowledgement="before"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn what_a_host_undoes_later_is_listed_and_left() {
    let stand = Stand::start().await;
    let before = json!({"url": "", "links": []}).to_string();
    stand.put(link("s", "t", &["a"])).await.unwrap();
    stand.data.put("COMPONENT_s", &*before).await;
    let lattice = until("the undone edit is listed", async || {
        let lattice = stand.described().await;
        (!lattice.undone_edits.is_empty()).then_some(lattice)
    })
    .await;
    assert_eq!(
        lattice.undone_edits[0].entry,
        "interface_link s default wasi http t"
    );
    assert_eq!(stand.data.last("COMPONENT_s").await.unwrap().body, before);
}

#[tokio::test]
async fn after_nats_was_away_an_edit_waits_until_hosts_watch_again() {
    let mut stand = Stand::beside_hosts().await;
    stand.put(link("s", "t", &["a"])).await.unwrap();
    stand.nats.down("TERM");
    stand.nats.up().await;
    until("the gateway is back", async || {
        let get = GetInterfaceLinkRequest {
            consistency: Some(fully_consistent()),
            lattice: "default".into(),
            source_id: Some("s".into()),
            wit_namespace: Some("wasi".into()),
            wit_package: Some("http".into()),
            ..GetInterfaceLinkRequest::default()
        };
        stand.gateway.interface_links().get_interface_link(get).await.ok()
    })
    .await;
    let mut hurried = tonic::Request::new(put_interface_link(link("s", "u", &["b"])));
    hurried.set_timeout(Duration::from_millis(500));
    let refused = told(stand.gateway.interface_links().put_interface_link(hurried).await).unwrap_err();
    assert_eq!(refused.reason, ErrorReason::BackendUnavailable);
    assert!(
        refused
            .retry_after
            .is_some_and(|wait| wait <= Duration::from_secs(3))
    );
    stand.put(link("s", "u", &["b"])).await.unwrap();
}

#[tokio::test]
async fn a_watch_that_nobody_listens_to_is_listed() {
    let stand = Stand::start().await;
    stand.put(link("s", "t", &["a"])).await.unwrap();
    assert!(stand.described().await.deaf_watches.is_empty());
    let watch = json!({
        "stream_name": "KV_LATTICEDATA_default",
        "config": {
            "name": "deaf", "description": "kv watch consumer", "deliver_subject": "_INBOX.nobody",
            "deliver_policy": "all", "ack_policy": "none", "inactive_threshold": 30_000_000_000_u64,
        },
    });
    let call = "CONSUMER.CREATE.KV_LATTICEDATA_default.deaf";
    let answer = stand.nats.api(call, watch).await;
    assert_eq!(answer["error"], Value::Null, "{answer}");
    let deaf = stand.described().await.deaf_watches;
    assert_eq!(deaf.len(), 1);
    assert_eq!(&*deaf[0].consumer, "deaf");
}

#[tokio::test]
async fn an_edit_that_another_gateway_carried_out_and_replaced_shows_what_stands() {
    let nats = Nats::start().await;
    let wire = Wire::to(nats.port()).await;
    let slow = calm_at(wire.url()).await;
    let stand = Stand::of(nats, slow).await;
    let quick = calm(&stand.nats).await;
    let with = |interface: &str, request_id: &str| PutInterfaceLinkRequest {
        request_id: request_id.to_owned(),
        ..put_interface_link(InterfaceLink {
            interfaces: vec![interface.to_owned()],
            ..interface_link("echo")
        })
    };
    put(&stand.gateway, with("first", "request-0001")).await.unwrap();

    wire.stall_publishes(true);
    let twice = with("twice", "request-0002");
    let slowly = put(&stand.gateway, twice.clone());
    let meanwhile = async {
        stand.gateway.are_under_way(1).await;
        put(&quick, twice.clone()).await.unwrap();
        put(&quick, with("later", "request-0003")).await.unwrap();
        wire.stall_publishes(false);
    };
    let (slowly, ()) = join(slowly, meanwhile).await;
    let slowly = slowly.unwrap();
    assert!(slowly.result.unwrap().superseded);
    assert_eq!(slowly.interface_link.unwrap().interfaces, ["later"]);
}

#[tokio::test]
async fn an_edit_that_waits_for_who_has_gone_away_is_not_published() {
    let nats = Nats::start().await;
    let wire = Wire::to(nats.port()).await;
    let gateway = calm_at(wire.url()).await;
    let stand = Stand::of(nats, gateway).await;
    let link = |name: &str| InterfaceLink {
        name: name.to_owned(),
        ..interface_link("echo")
    };
    stand.put(link("first")).await.unwrap();

    wire.stall_publishes(true);
    let second = stand.put(link("second"));
    let gone = async {
        stand.gateway.are_under_way(1).await;
        tokio::select! {
            _ = stand.put(link("abandoned")) => panic!("answered by a server that got nothing"),
            () = stand.gateway.are_under_way(2) => {}
        }
        stand.gateway.are_under_way(1).await;
        wire.stall_publishes(false);
    };
    let (second, ()) = join(second, gone).await;
    second.unwrap();
    stand.put(link("last")).await.unwrap();
    let names = stand.listed().await.into_iter().map(|link| link.name);
    assert_eq!(names.collect::<Vec<_>>(), ["first", "last", "second"]);
}

/// A stand-in for a host: reads the record, pauses, changes what is its own, and writes the whole without a check. A real
/// one's overwrites came within 7 ms of what they undid, so one that was held up for longer begins anew.
async fn careless_host(stand: &Stand, edits: usize) {
    let mut random = fastrand::Rng::with_seed(5);
    let mut made = 0;
    while made < edits {
        let read_at = Instant::now();
        let mut record = match stand.data.last("COMPONENT_s").await {
            Some(last) => serde_json::from_str::<Value>(&last.body).unwrap(),
            None => json!({"url": "", "links": []}),
        };
        let own = named(&format!("host-{}", random.usize(0..5)), link("s", "t", &["a"]));
        let links = record["links"].as_array_mut().unwrap();
        links.retain(|link| link["name"] != *own.name);
        let is_delete = random.bool();
        if !is_delete {
            links.push(stored(&own));
        }
        tokio::time::sleep(Duration::from_micros(random.u64(1_000..7_000))).await;
        if read_at.elapsed() > Duration::from_millis(12) {
            continue;
        }
        stand.data.put("COMPONENT_s", record.to_string()).await;
        made += 1;
        if is_delete {
            let event = json!({"data": {"source_id": "s", "name": own.name}}).to_string();
            stand
                .nats
                .publish_raw("wasmbus.evt.default.linkdef_deleted", event)
                .await;
        }
    }
}

/// One caller's edits of its own links, each until it is acknowledged, on whichever gateway is there. Gives what each link
/// must be.
async fn edit_until_acknowledged(
    caller: usize,
    gateways: [Channel; 2],
    acknowledged: Arc<AtomicUsize>,
) -> Vec<(String, Option<String>)> {
    const EDITS: usize = 50;
    let mut random = fastrand::Rng::with_seed(u64::try_from(caller).unwrap());
    let mut expected = BTreeMap::new();
    for edit in 0..EDITS {
        let name = format!("gateway-{caller}-{}", random.usize(0..3));
        let interface = format!("v{edit}");
        let wanted = random.u8(0..4) > 0;
        let request_id = format!("caller-{caller}-edit-{edit}");
        let began = Instant::now();
        for attempt in 0.. {
            let mut client = InterfaceLinkServiceClient::new(gateways[(edit + attempt) % 2].clone());
            let retry_age = (attempt > 0).then(|| began.elapsed().into());
            let edited = named(&name, link("s", "t", &[&interface]));
            let answer = if wanted {
                let put = PutInterfaceLinkRequest {
                    request_id: request_id.clone(),
                    retry_age,
                    ..put_interface_link(edited)
                };
                client
                    .put_interface_link(put)
                    .await
                    .map(|put| put.into_inner().result)
            } else {
                let delete = DeleteInterfaceLinkRequest {
                    request_id: request_id.clone(),
                    retry_age,
                    allow_missing: true,
                    ..delete(&edited)
                };
                client
                    .delete_interface_link(delete)
                    .await
                    .map(|gone| gone.into_inner().result)
            };
            match answer {
                Ok(result) => {
                    // Nobody else edits this link: what was applied and then undone comes as superseded, and is not
                    // acknowledged as standing.
                    if result.unwrap().superseded {
                        expected.remove(&name);
                    } else {
                        expected.insert(name.clone(), wanted.then(|| interface.clone()));
                    }
                    break;
                }
                Err(status) if status.message().contains("superseded") => {
                    expected.remove(&name);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    expected.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_edit_stands_beside_a_careless_host() {
    const CALLERS: usize = 20;
    let stand = Stand::beside_hosts().await;
    let [one, other] = [Process::dev(&stand.nats), Process::dev(&stand.nats)];
    let channels = [one.channel(), other.channel()];
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let callers = (0..CALLERS).map(|caller| {
        tokio::spawn(edit_until_acknowledged(
            caller,
            channels.clone(),
            Arc::clone(&acknowledged),
        ))
    });
    let callers = callers.collect::<Vec<_>>();
    let killed = async {
        while acknowledged.load(Ordering::Relaxed) < 400 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(one);
    };
    let ((), (), expected) = tokio::join!(careless_host(&stand, 500), killed, join_all(callers));
    // What the issue asks: 2 s after the last write.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let record = stand.data.value("COMPONENT_s").await;
    let stands = record["links"].as_array().unwrap().iter();
    let stands = stands
        .map(|link| {
            (
                link["name"].as_str().unwrap(),
                link["interfaces"][0].as_str().unwrap(),
            )
        })
        .collect::<BTreeMap<_, _>>();
    let expected = expected.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>();
    // Of 60; the others' last edit a host undid, or may have.
    assert!(expected.len() > CALLERS, "{} links are known", expected.len());
    for (name, interface) in &expected {
        assert_eq!(stands.get(&**name).copied(), interface.as_deref(), "{name}");
    }
}

#[tokio::test]
async fn an_older_bucket_becomes_the_next_era_once_its_hosts_write_it() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Kv).await;
    let data = Bucket::data(&nats, "default").await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    data.put("REFMAP_dQ", r#"{"oci_url":"u","public_key":"M"}"#).await;
    let described = async || {
        let get = GetLatticeRequest {
            lattice: "default".into(),
        };
        told(gateway.lattices().get_lattice(get).await)
            .unwrap()
            .lattice
            .unwrap()
    };
    assert_eq!(described().await.layout(), lattice_gateway::proto::Layout::Kv);
    data.put("COMPONENT_s", r#"{"url":"u","links":[]}"#).await;
    until("the gateway follows", async || {
        (described().await.layout() == lattice_gateway::proto::Layout::Component).then_some(())
    })
    .await;
    let stand = Stand {
        configs: Bucket::configs(&nats, "default").await,
        nats,
        gateway,
        data,
    };
    let nats = &stand.nats;
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    stand.put(link("s", "t", &["a"])).await.unwrap();
    assert_eq!(stand.listed().await.len(), 1);
}
