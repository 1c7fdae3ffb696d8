//! `LatticeService`: which lattices there are, how they are kept, and what the server tells of itself.

use futures_util::future::join_all;
use lattice_gateway::{
    control::lattices as control,
    proto::{
        ApplyManifestRequest, ApplyRequest, ErrorReason, GetLatticeRequest, GetServerInfoRequest,
        GetServerInfoResponse, InterfaceLink, Lattice, Layout, Limits, LinkDefinition, ListClaimsRequest,
        ListLatticesRequest, OciReference, ProvisionLatticeRequest, ProvisionLatticeResponse,
        PutClaimsRequest, SetOciReferenceRequest, Storage, put_claims_request::Source,
    },
};
use nkeys::KeyPair;
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACTOR, PROVIDER},
    interface_link, keys, link, named_config, put_config, put_interface_link, put_link, told, until,
};

async fn described(gateway: &TestGateway, lattice: &str) -> Result<Lattice, Told> {
    let request = GetLatticeRequest {
        lattice: lattice.to_owned(),
    };
    Ok(told(gateway.lattices().get_lattice(request).await)?
        .lattice
        .unwrap())
}

fn provision(lattice: &str) -> ProvisionLatticeRequest {
    ProvisionLatticeRequest {
        lattice: lattice.to_owned(),
        ..Default::default()
    }
}

pub async fn provisioned(
    gateway: &TestGateway,
    request: ProvisionLatticeRequest,
) -> Result<ProvisionLatticeResponse, Told> {
    told(gateway.lattices().provision_lattice(request).await)
}

async fn config_of(nats: &Nats, lattice: &str) -> Value {
    config_of_stream(nats, &format!("LATTICECACHE_{lattice}")).await
}

/// The stream's configuration; null where there is no such stream.
async fn config_of_stream(nats: &Nats, stream: &str) -> Value {
    let info = nats.api(&format!("STREAM.INFO.{stream}"), Value::Null).await;
    info["config"].clone()
}

/// Creates the bucket of a lattice, as hosts since 0.60 do.
async fn create_bucket(nats: &Nats, lattice: &str, changes: Value) {
    nats.create_bucket("LATTICEDATA", lattice, changes).await;
}

/// What a host of layout `cache-stream` asks for, in every version.
const HOSTS_OWN: &str = r#"{"name":"LATTICECACHE_default","subjects":["lc.default.>"],"retention":"limits","max_consumers":-1,"max_msgs_per_subject":1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msg_size":-1,"storage":"memory","discard":"old","num_replicas":1,"duplicate_window":120000000000}"#;

#[tokio::test]
async fn a_provisioned_stream_is_exactly_what_a_host_creates() {
    let (nats, hosts) = (Nats::start().await, Nats::start().await);
    let gateway = TestGateway::at(&nats.url()).await;
    let hosts_own: Value = serde_json::from_str(HOSTS_OWN).unwrap();
    let created_by_host = hosts
        .api("STREAM.CREATE.LATTICECACHE_default", hosts_own.clone())
        .await;
    assert_eq!(created_by_host["error"], Value::Null);

    let dry = ProvisionLatticeRequest {
        validate_only: true,
        ..provision("default")
    };
    let answer = provisioned(&gateway, dry.clone()).await.unwrap();
    assert_eq!((answer.created, answer.lattice), (true, None));
    let absent = described(&gateway, "default").await.unwrap_err();
    assert_eq!(
        (absent.code, absent.reason),
        (Code::FailedPrecondition, ErrorReason::NotProvisioned)
    );

    let answer = provisioned(&gateway, provision("default")).await.unwrap();
    assert!(answer.created);
    let lattice = answer.lattice.unwrap();
    assert_eq!(
        (lattice.name.as_str(), lattice.layout()),
        ("default", Layout::CacheStream)
    );
    assert_eq!(lattice.stream, "LATTICECACHE_default");
    assert_eq!(lattice.drift, []);
    assert_eq!(
        config_of(&nats, "default").await,
        config_of(&hosts, "default").await
    );
    // A host that starts afterwards is answered with success.
    let again = nats.api("STREAM.CREATE.LATTICECACHE_default", hosts_own).await;
    assert_eq!(again["error"], Value::Null, "{again}");

    for request in [dry, provision("default")] {
        let answer = provisioned(&gateway, request).await.unwrap();
        assert!(!answer.created);
        assert_eq!(answer.lattice.unwrap().name, "default");
    }
}

#[tokio::test]
async fn what_is_there_is_used_as_it_is() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    nats.create_stream(
        "replicated",
        json!({"storage": "file", "description": "mine", "max_msgs_per_subject": 5}),
    )
    .await;
    let before = config_of(&nats, "replicated").await;
    let answer = provisioned(&gateway, provision("replicated")).await.unwrap();
    assert!(!answer.created);
    let lattice = answer.lattice.unwrap();
    let drift = lattice
        .drift
        .iter()
        .map(|drift| {
            (
                drift.field.as_str(),
                drift.want.as_str(),
                drift.have.as_str(),
                drift.blocks_writes,
            )
        })
        .collect::<Vec<_>>();
    assert_eq!(
        drift,
        [
            ("max_msgs_per_subject", "1", "5", true),
            ("storage", "\"memory\"", "\"file\"", false),
        ]
    );
    assert_eq!(config_of(&nats, "replicated").await, before);

    create_bucket(&nats, "bucket", Value::Null).await;
    create_bucket(&nats, "both", Value::Null).await;
    nats.create_stream("both", Value::Null).await;
    for lattice in ["bucket", "both"] {
        for validate_only in [true, false] {
            let request = ProvisionLatticeRequest {
                validate_only,
                ..provision(lattice)
            };
            let told = provisioned(&gateway, request).await.unwrap_err();
            assert_eq!(
                (told.code, told.reason),
                (Code::FailedPrecondition, ErrorReason::LayoutAmbiguous)
            );
            assert_eq!(told.metadata["setting"], format!("lattices.{lattice}.layout"));
        }
    }
    // Another stream that takes the subjects.
    let greedy = json!({"name": "GREEDY", "subjects": ["lc.taken.>"], "storage": "memory"});
    nats.api("STREAM.CREATE.GREEDY", greedy).await;
    let told = provisioned(&gateway, provision("taken")).await.unwrap_err();
    assert_eq!(told.reason, ErrorReason::StreamConfigDrift);
    assert_eq!(told.metadata["field"], "subjects");

    for (layout, storage, field) in [
        (99, 0, "layout"),
        (Layout::Undecided.into(), 0, "layout"),
        (0, 99, "storage"),
    ] {
        let request = ProvisionLatticeRequest {
            layout,
            storage,
            ..provision("odd")
        };
        let told = provisioned(&gateway, request).await.unwrap_err();
        assert_eq!(told.reason, ErrorReason::InvalidField);
        assert_eq!(told.fields, [field]);
    }
}

/// What a host of layout `kv` asks for (wasmCloud OTP 0.60 to 0.63), and one of layout `component` has (wasmCloud 1.9.2);
/// that one has a second bucket besides, which is equal but for its name.
const HOSTS_OWN_BUCKETS: [(Layout, &str, &[&str], &str); 2] = [
    (
        Layout::Kv,
        "kv",
        &["LATTICEDATA"],
        r#"{"name":"KV_LATTICEDATA_default","subjects":["$KV.LATTICEDATA_default.>"],"retention":"limits","max_consumers":-1,"max_msgs_per_subject":1,"max_msgs":-1,"max_bytes":-1,"allow_direct":true,"mirror_direct":false,"deny_delete":true,"sealed":false,"deny_purge":false,"allow_rollup_hdrs":true,"max_age":0,"max_msg_size":-1,"storage":"file","discard":"new","num_replicas":1,"duplicate_window":120000000000}"#,
    ),
    (
        Layout::Component,
        "component",
        &["LATTICEDATA", "CONFIGDATA"],
        r#"{"allow_direct":true,"allow_msg_ttl":false,"allow_rollup_hdrs":true,"compression":"none","consumer_limits":{},"deny_delete":true,"deny_purge":false,"discard":"new","duplicate_window":120000000000,"max_age":0,"max_bytes":-1,"max_consumers":-1,"max_msg_size":-1,"max_msgs":-1,"max_msgs_per_subject":1,"mirror_direct":false,"name":"KV_LATTICEDATA_default","num_replicas":1,"retention":"limits","sealed":false,"storage":"file","subjects":["$KV.LATTICEDATA_default.>"]}"#,
    ),
];

fn provision_as(lattice: &str, layout: Layout) -> ProvisionLatticeRequest {
    ProvisionLatticeRequest {
        layout: layout.into(),
        ..provision(lattice)
    }
}

#[tokio::test]
async fn provisioned_buckets_are_exactly_what_hosts_create_and_say_the_layout_besides() {
    for (layout, noted, buckets, hosts_own) in HOSTS_OWN_BUCKETS {
        let (nats, hosts) = (Nats::start().await, Nats::start().await);
        let gateway = TestGateway::at(&nats.url()).await;
        let dry = ProvisionLatticeRequest {
            validate_only: true,
            ..provision_as("default", layout)
        };
        let answer = provisioned(&gateway, dry.clone()).await.unwrap();
        assert_eq!((answer.created, answer.lattice), (true, None));
        assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);

        let answer = provisioned(&gateway, provision_as("default", layout))
            .await
            .unwrap();
        assert!(answer.created);
        let lattice = answer.lattice.unwrap();
        assert_eq!((lattice.name.as_str(), lattice.layout()), ("default", layout));
        assert_eq!(lattice.stream, "KV_LATTICEDATA_default");
        assert_eq!(lattice.drift, []);
        assert_eq!(lattice.durability.unwrap().storage(), Storage::File);
        let names = nats.api("STREAM.NAMES", Value::Null).await;
        assert_eq!(names["total"], buckets.len());
        for bucket in buckets {
            let stream = format!("KV_{bucket}_default");
            let own = serde_json::from_str(&hosts_own.replace("LATTICEDATA", bucket)).unwrap();
            let created = hosts.api(&format!("STREAM.CREATE.{stream}"), own).await;
            assert_eq!(created["error"], Value::Null);
            let mut config = config_of_stream(&nats, &stream).await;
            let metadata = config["metadata"].take();
            let mut of_hosts = config_of_stream(&hosts, &stream).await;
            // The server notes something there too.
            let mut expected = of_hosts["metadata"].take();
            expected["lattice-gateway.layout"] = noted.into();
            assert_eq!(metadata, expected, "{stream}");
            assert_eq!(config, of_hosts, "{stream}");
        }

        let before = infos(&nats, buckets).await;
        for request in [dry, provision_as("default", layout)] {
            let answer = provisioned(&gateway, request).await.unwrap();
            assert!(!answer.created);
            assert_eq!(answer.lattice.unwrap().layout(), layout);
        }
        assert_eq!(infos(&nats, buckets).await, before);
        // A half is made whole.
        if layout == Layout::Component {
            nats.api("STREAM.DELETE.KV_CONFIGDATA_default", Value::Null).await;
            let answer = provisioned(&gateway, provision_as("default", layout)).await;
            assert!(answer.unwrap().created);
            assert_ne!(
                config_of_stream(&nats, "KV_CONFIGDATA_default").await,
                Value::Null
            );
        }
    }
}

/// The configurations of buckets, and when each was created.
async fn infos(nats: &Nats, buckets: &[&str]) -> Vec<(Value, Value)> {
    let infos = buckets.iter().map(async |bucket| {
        let info = nats
            .api(&format!("STREAM.INFO.KV_{bucket}_default"), Value::Null)
            .await;
        (info["config"].clone(), info["created"].clone())
    });
    join_all(infos).await
}

#[tokio::test]
async fn storage_of_buckets_is_chosen_and_what_hosts_made_is_used_as_it_is() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    for layout in [Layout::Kv, Layout::Component] {
        let request = ProvisionLatticeRequest {
            storage: Storage::Memory.into(),
            ..provision_as(&format!("memory-{}", i32::from(layout)), layout)
        };
        let lattice = provisioned(&gateway, request).await.unwrap().lattice.unwrap();
        assert_eq!(lattice.durability.unwrap().storage(), Storage::Memory);
        let drift = lattice
            .drift
            .iter()
            .map(|drift| (&*drift.field, drift.blocks_writes));
        assert_eq!(drift.collect::<Vec<_>>(), [("storage", false)]);
    }
    // A host of 1.x has made both, says nothing of the layout, and has a component.
    let changes = json!({"max_msgs_per_subject": 5, "description": "mine"});
    create_bucket(&nats, "default", changes.clone()).await;
    nats.create_bucket("CONFIGDATA", "default", changes).await;
    nats.publish_raw(
        "$KV.LATTICEDATA_default.COMPONENT_hello",
        r#"{"url":"","links":[]}"#,
    )
    .await;
    let before = infos(&nats, &["LATTICEDATA", "CONFIGDATA"]).await;
    let answer = provisioned(&gateway, provision_as("default", Layout::Component)).await;
    let answer = answer.unwrap();
    assert!(!answer.created);
    let drift = answer.lattice.unwrap().drift;
    let drift = drift.iter().map(|drift| (&*drift.field, drift.blocks_writes));
    assert_eq!(drift.collect::<Vec<_>>(), [("max_msgs_per_subject", false)]);
    assert_eq!(infos(&nats, &["LATTICEDATA", "CONFIGDATA"]).await, before);
}

#[tokio::test]
async fn beside_the_stream_or_bucket_of_another_layout_nothing_is_provisioned() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    nats.create_stream("stream", Value::Null).await;
    create_bucket(&nats, "empty", Value::Null).await;
    let layouts = [Layout::CacheStream, Layout::Kv, Layout::Component];
    for layout in [Layout::Kv, Layout::Component] {
        let name = format!("noted-{}", i32::from(layout));
        provisioned(&gateway, provision_as(&name, layout)).await.unwrap();
    }
    for (name, key) in [("keyed-2", "LINKDEF_X"), ("keyed-3", "COMPONENT_hello")] {
        create_bucket(&nats, name, Value::Null).await;
        nats.publish_raw(&format!("$KV.LATTICEDATA_{name}.{key}"), "{}")
            .await;
    }
    let streams = nats.api("STREAM.NAMES", Value::Null).await["streams"].clone();
    for (name, own) in [
        ("stream", Some(Layout::CacheStream)),
        ("empty", None),
        ("noted-2", Some(Layout::Kv)),
        ("noted-3", Some(Layout::Component)),
        ("keyed-2", Some(Layout::Kv)),
        ("keyed-3", Some(Layout::Component)),
    ] {
        for layout in layouts.into_iter().filter(|layout| Some(*layout) != own) {
            for validate_only in [true, false] {
                let request = ProvisionLatticeRequest {
                    validate_only,
                    ..provision_as(name, layout)
                };
                let told = provisioned(&gateway, request).await.unwrap_err();
                assert_eq!(
                    (told.code, told.reason),
                    (Code::FailedPrecondition, ErrorReason::LayoutAmbiguous),
                    "{name} as {layout:?}"
                );
                assert_eq!(told.metadata["setting"], format!("lattices.{name}.layout"));
            }
        }
    }
    assert_eq!(
        nats.api("STREAM.NAMES", Value::Null).await["streams"],
        streams,
        "nothing was made"
    );
}

/// What each layout serves, of a read and a write of every kind. Fits what [`api::valid_request`] asks for.
#[tokio::test]
async fn each_layout_serves_what_its_hosts_keep() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let later = ["InterfaceLinkService/", "ConfigService/"];
    for (layout, told, unsupported) in [
        (
            Layout::CacheStream,
            "cache-stream",
            [&later[..], &["/DeleteClaims", "/DeleteOciReference"]].concat(),
        ),
        (Layout::Kv, "kv", [&later[..], &["/DeleteOciReference"]].concat()),
        (
            Layout::Component,
            "component",
            vec!["LinkDefinitionService/", "OciReferenceService/"],
        ),
    ] {
        provisioned(&gateway, provision_as(told, layout)).await.unwrap();
        let of_entries = api::methods();
        let of_entries = of_entries
            .iter()
            .filter(|method| !method.starts_with("LatticeService/") && !method.starts_with("ApplyService/"));
        for method in of_entries {
            let is_served = !unsupported.iter().any(|part| method.contains(part));
            let answer = gateway.call(method, api::valid_request(method, told)).await;
            match answer.map_err(Told::from) {
                Ok(_) => assert!(is_served, "{told}: {method} was answered"),
                Err(refused) => {
                    let expected = match is_served {
                        // What is put has a key of its own.
                        true => ErrorReason::EntryNotFound,
                        false => ErrorReason::LayoutUnsupported,
                    };
                    assert_eq!(refused.reason, expected, "{told}: {method}");
                    if !is_served {
                        assert_eq!(refused.metadata["layout"], told, "{method}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn deletes_of_what_may_be_absent_create_nothing_in_dev() {
    for (layout, methods) in [
        (control::Layout::CacheStream, &["LinkDefinition"][..]),
        (control::Layout::Kv, &["Claims", "LinkDefinition"]),
        (control::Layout::Component, &["Claims", "Config", "InterfaceLink"]),
    ] {
        let nats = Nats::start().await;
        let gateway = TestGateway::dev_with(&nats, layout).await;
        for kind in methods {
            let method = format!("{kind}Service/Delete{kind}");
            let answer = gateway
                .call(&method, api::valid_request(&method, "default"))
                .await;
            match answer.map_err(Told::from) {
                Ok(_) => assert_ne!(*kind, "Claims"),
                Err(told) => assert_eq!(told.reason, ErrorReason::EntryNotFound, "{method}"),
            }
        }
        assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);
    }
}

/// A gateway on one lattice of which the layout is configured.
async fn configured(nats: &Nats, lattice: &str, layout: &str) -> TestGateway {
    let text =
        format!("[lattices.{lattice}]\ntrusted_issuers = [\"*\"]\nlayout = {layout:?}\nsettle = \"0s\"\n");
    TestGateway::serving(nats, &text).await
}

#[tokio::test]
async fn a_configured_layout_decides_where_nothing_contradicts_it() {
    let nats = Nats::start().await;
    let list = async |gateway: &TestGateway, lattice: &str| {
        let request = ListClaimsRequest {
            lattice: lattice.to_owned(),
            ..Default::default()
        };
        let told = told(gateway.claims().list_claims(request).await);
        told.map(drop).map_err(|told| told.reason)
    };
    let keyed = [
        ("empty", None, None),
        ("claims", None, Some("CLAIMS_X")),
        ("kv-noted", Some("kv"), None),
        ("kv-keyed", None, Some("LINKDEF_X")),
        ("component-noted", Some("component"), None),
        ("component-keyed", None, Some("COMPONENT_x")),
        // Left over from before the hosts were upgraded.
        ("component-left", Some("component"), Some("REFMAP_X")),
    ];
    for (name, noted, key) in keyed {
        let changes = match noted {
            None => Value::Null,
            Some(layout) => json!({"metadata": {"lattice-gateway.layout": layout}}),
        };
        create_bucket(&nats, name, changes).await;
        if let Some(key) = key {
            nats.publish_raw(&format!("$KV.LATTICEDATA_{name}.{key}"), "{}")
                .await;
        }
    }
    create_bucket(&nats, "both", Value::Null).await;
    nats.create_stream("both", Value::Null).await;
    nats.create_stream("stream", Value::Null).await;

    let ambiguous = Err(ErrorReason::LayoutAmbiguous);
    for (name, as_stream, as_kv, as_component) in [
        ("empty", ambiguous, Ok(()), Ok(())),
        ("claims", ambiguous, Ok(()), Ok(())),
        ("kv-noted", ambiguous, Ok(()), ambiguous),
        // Keys of earlier hosts may be left over.
        ("kv-keyed", ambiguous, Ok(()), Ok(())),
        ("component-noted", ambiguous, ambiguous, Ok(())),
        ("component-keyed", ambiguous, ambiguous, Ok(())),
        ("component-left", ambiguous, ambiguous, Ok(())),
        ("both", Ok(()), Ok(()), Ok(())),
        ("stream", Ok(()), ambiguous, ambiguous),
    ] {
        for (layout, expected) in [
            ("cache-stream", as_stream),
            ("kv", as_kv),
            ("component", as_component),
        ] {
            let gateway = configured(&nats, name, layout).await;
            assert_eq!(list(&gateway, name).await, expected, "{name} as {layout}");
            let described = described(&gateway, name).await.unwrap().layout();
            let is_told = described != Layout::Undecided;
            assert_eq!(is_told, expected.is_ok(), "{name} as {layout}: {described:?}");
            let provision = match layout {
                "cache-stream" => provision_as(name, Layout::CacheStream),
                "kv" => provision_as(name, Layout::Kv),
                _ => provision_as(name, Layout::Component),
            };
            let request = ProvisionLatticeRequest {
                validate_only: true,
                ..provision
            };
            let provisioned = provisioned(&gateway, request).await;
            let provisioned = provisioned.map(drop).map_err(|told| told.reason);
            assert_eq!(provisioned, expected, "{name} as {layout}");
            gateway.running.shut_down().await;
        }
    }
}

#[tokio::test]
async fn a_lattice_that_is_configured_otherwise_is_not_provisioned_as_asked() {
    let nats = Nats::start().await;
    let gateway = configured(&nats, "default", "component").await;
    for layout in [Layout::CacheStream, Layout::Kv] {
        let told = provisioned(&gateway, provision_as("default", layout))
            .await
            .unwrap_err();
        assert_eq!(told.reason, ErrorReason::LayoutAmbiguous);
    }
    assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);
    let answer = provisioned(&gateway, provision_as("default", Layout::Unspecified)).await;
    let answer = answer.unwrap();
    assert!(answer.created);
    assert_eq!(answer.lattice.unwrap().layout(), Layout::Component);
}

#[tokio::test]
async fn the_first_write_of_dev_creates_the_buckets() {
    for (layout, expected, buckets) in [
        (control::Layout::Kv, Layout::Kv, 1),
        (control::Layout::Component, Layout::Component, 2),
    ] {
        let nats = Nats::start().await;
        let gateway = TestGateway::dev_with(&nats, layout).await;
        let (token, _) = keys::actor_token(&KeyPair::new_account(), json!({}));
        let put = PutClaimsRequest {
            lattice: "default".into(),
            source: Some(Source::Jwt(token)),
            ..Default::default()
        };
        told(gateway.claims().put_claims(put).await).unwrap();
        let lattice = described(&gateway, "default").await.unwrap();
        assert_eq!(lattice.claims_count, 1);
        assert_eq!(lattice.layout(), expected);
        assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], buckets);
    }
}

#[tokio::test]
async fn durability_is_stated_as_the_stream_is_kept() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    for (storage, told_storage, promise) in [
        (Storage::Unspecified, Storage::Memory, "the whole stream is gone"),
        (Storage::Memory, Storage::Memory, "the whole stream is gone"),
        (
            Storage::File,
            Storage::File,
            "survives a stop or crash of the NATS server's process",
        ),
    ] {
        let name = format!("lattice-{}", i32::from(storage));
        let request = ProvisionLatticeRequest {
            storage: storage.into(),
            ..provision(&name)
        };
        provisioned(&gateway, request).await.unwrap();
        let lattice = described(&gateway, &name).await.unwrap();
        let durability = lattice.durability.unwrap();
        assert_eq!(durability.storage(), told_storage);
        assert_eq!(durability.replicas, 1);
        assert_eq!(durability.duplicate_window.unwrap().seconds, 120);
        assert!(durability.statement.contains(promise), "{}", durability.statement);
        let drift = lattice
            .drift
            .iter()
            .map(|drift| (drift.field.as_str(), drift.blocks_writes));
        let expected = (told_storage == Storage::File).then_some(("storage", false));
        assert_eq!(
            drift.collect::<Vec<_>>(),
            expected.into_iter().collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_lattice_is_described_with_what_stands_and_what_is_malformed() {
    const MALFORMED: usize = 105;
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let account = KeyPair::new_account();
    let provider = keys::provider();
    for _ in 0..2 {
        let request = PutClaimsRequest {
            lattice: "default".into(),
            source: Some(Source::Jwt(keys::actor_token(&account, json!({})).0)),
            ..Default::default()
        };
        told(gateway.claims().put_claims(request).await).unwrap();
    }
    for _ in 0..3 {
        gateway
            .put(put_link(link(&keys::actor(), &provider, "value")))
            .await
            .unwrap();
    }
    let reference = SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url: "echo".into(),
            public_key: provider.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    told(gateway.references().set_oci_reference(reference).await).unwrap();
    nats.publish_raw("lc.default.ocimap.x", "{}").await;
    nats.publish_raw("lc.default.claims.M.x", "{}").await;
    nats.publish_raw("lc.default.claims", "{}").await;
    for number in 3..MALFORMED {
        nats.publish_raw(&format!("lc.default.linkdefs.{number}"), "not JSON")
            .await;
    }
    let lattice = until("the malformed messages are seen", async || {
        let lattice = described(&gateway, "default").await.unwrap();
        (lattice.malformed_count == 105).then_some(lattice)
    })
    .await;
    assert_eq!(
        (
            lattice.claims_count,
            lattice.link_definition_count,
            lattice.oci_reference_count
        ),
        (2, 3, 1)
    );
    assert_eq!(lattice.revision.unwrap().sequence, 111);
    assert_eq!(lattice.malformed.len(), 100);
    let first = lattice.malformed[..4]
        .iter()
        .map(|entry| (entry.subject.as_str(), entry.sequence));
    assert_eq!(
        first.collect::<Vec<_>>(),
        [
            ("lc.default.ocimap.x", 7),
            ("lc.default.claims.M.x", 8),
            ("lc.default.claims", 9),
            ("lc.default.linkdefs.3", 10),
        ]
    );
    assert!(lattice.malformed.iter().all(|entry| !entry.reason.is_empty()));
    assert_eq!((lattice.writes_at_risk.len(), lattice.stale_copies), (0, 0));
    // One that is overwritten with something good is malformed no longer.
    let body =
        json!({"actor_id": "M", "contract_id": "c", "link_name": "n", "provider_id": "V", "values": {}});
    nats.publish_raw("lc.default.linkdefs.3", body.to_string()).await;
    until("it is no longer malformed", async || {
        (described(&gateway, "default").await.unwrap().malformed_count == 104).then_some(())
    })
    .await;
}

#[tokio::test]
async fn superseded_copies_that_may_not_be_removed_are_counted() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    nats.create_stream("default", json!({"deny_delete": true})).await;
    let body =
        json!({"actor_id": "M", "contract_id": "c", "link_name": "n", "provider_id": "V", "values": {}});
    for copy in ["one", "two", "three"] {
        nats.publish_raw(&format!("lc.default.linkdefs.{copy}"), body.to_string())
            .await;
    }
    until("two are superseded", async || {
        let lattice = described(&gateway, "default").await.unwrap();
        (lattice.stale_copies == 2 && lattice.link_definition_count == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_migration_is_noticed_and_what_it_may_miss_is_listed() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let put = put_link(link(&keys::actor(), &keys::provider(), "value"));
    let written = gateway.put(put.clone()).await.unwrap().result.unwrap();
    create_bucket(&nats, "default", Value::Null).await;
    until("calls are refused", async || {
        let told = gateway.put(put.clone()).await.err()?;
        (told.reason == ErrorReason::LayoutAmbiguous).then_some(())
    })
    .await;
    let request = ListClaimsRequest {
        lattice: "default".into(),
        ..Default::default()
    };
    let told = told(gateway.claims().list_claims(request).await).unwrap_err();
    assert_eq!(told.reason, ErrorReason::LayoutAmbiguous);
    let lattice = until("the write is listed", async || {
        let lattice = described(&gateway, "default").await.unwrap();
        (!lattice.writes_at_risk.is_empty()).then_some(lattice)
    })
    .await;
    assert_eq!(lattice.layout(), Layout::Undecided);
    let at_risk = &lattice.writes_at_risk[0];
    assert_eq!(at_risk.revision, written.revision);
    assert!(at_risk.entry.starts_with("link_definition M") && at_risk.acknowledge_time.is_some());
}

#[tokio::test]
async fn lattices_of_every_layout_are_listed_by_name_in_pages() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    for name in ["b-stream", "c-both", "A_stream"] {
        nats.create_stream(name, Value::Null).await;
    }
    let keyed = [
        ("c-both", None, Layout::Undecided),
        ("d-component", Some("COMPONENT_echo"), Layout::Component),
        ("e-kv", Some("LINKDEF_X"), Layout::Kv),
        ("f-kv", Some("REFMAP_X"), Layout::Kv),
        ("g-empty", None, Layout::Undecided),
        ("h-claims", Some("CLAIMS_X"), Layout::Undecided),
    ];
    for (name, key, _) in keyed {
        create_bucket(&nats, name, Value::Null).await;
        if let Some(key) = key {
            nats.publish_raw(&format!("$KV.LATTICEDATA_{name}.{key}"), "{}")
                .await;
        }
    }
    create_bucket(
        &nats,
        "i-noted",
        json!({"metadata": {"lattice-gateway.layout": "kv"}}),
    )
    .await;
    for (name, _, layout) in keyed.into_iter().chain([("i-noted", None, Layout::Kv)]) {
        let lattice = described(&gateway, name).await.unwrap();
        assert_eq!(lattice.layout(), layout, "{name}");
        assert_eq!(lattice.stream, format!("KV_LATTICEDATA_{name}"));
        assert_eq!(
            lattice.durability.is_some(),
            layout != Layout::Undecided,
            "{name}"
        );
        let request = ListClaimsRequest {
            lattice: name.to_owned(),
            ..Default::default()
        };
        let listed = told(gateway.claims().list_claims(request).await);
        let refused = listed.err().map(|told| told.reason);
        let expected = (layout == Layout::Undecided).then_some(ErrorReason::LayoutAmbiguous);
        assert_eq!(refused, expected, "{name}");
    }
    // Streams whose names are no lattice's.
    for name in ["LATTICECACHE_", "OTHER"] {
        let config = json!({"name": name, "subjects": [format!("other.{name}")], "storage": "memory"});
        nats.api(&format!("STREAM.CREATE.{name}"), config).await;
    }
    let expected = [
        ("A_stream", Layout::CacheStream),
        ("b-stream", Layout::CacheStream),
        ("c-both", Layout::Undecided),
        // In use by now, which tells.
        ("d-component", Layout::Component),
        ("e-kv", Layout::Kv),
        ("f-kv", Layout::Kv),
        ("g-empty", Layout::Unspecified),
        ("h-claims", Layout::Unspecified),
        ("i-noted", Layout::Kv),
    ];
    for page_size in [1, 4, 9, 10, 1_000, 0] {
        let mut request = ListLatticesRequest {
            page_size,
            ..Default::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = told(gateway.lattices().list_lattices(request.clone()).await).unwrap();
            assert!(page_size == 0 || page.lattices.len() <= usize::try_from(page_size).unwrap());
            seen.extend(
                page.lattices
                    .iter()
                    .map(|lattice| (lattice.name.clone(), lattice.layout())),
            );
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let seen = seen.iter().map(|(name, layout)| (name.as_str(), *layout));
        assert_eq!(seen.collect::<Vec<_>>(), expected, "page size {page_size}");
    }
    for (page_size, page_token, reason) in [
        (-1, "", ErrorReason::InvalidField),
        (1_001, "", ErrorReason::LimitExceeded),
        (0, "*", ErrorReason::PageTokenInvalid),
        (0, "AAAA", ErrorReason::PageTokenInvalid),
    ] {
        let request = ListLatticesRequest {
            page_size,
            page_token: page_token.into(),
        };
        let told = told(gateway.lattices().list_lattices(request).await).unwrap_err();
        assert_eq!((told.code, told.reason), (Code::InvalidArgument, reason));
    }
}

#[tokio::test]
async fn what_is_configured_to_be_provisioned_is_there_at_start() {
    let nats = Nats::start().await;
    let text = "[lattices.one]\ntrusted_issuers = [\"*\"]\nprovision = \"memory\"\n\
                [lattices.two]\ntrusted_issuers = [\"*\"]\nprovision = \"file\"\n";
    let gateway = TestGateway::serving(&nats, text).await;
    for (name, storage) in [("one", Storage::Memory), ("two", Storage::File)] {
        let lattice = until("it is provisioned", async || described(&gateway, name).await.ok()).await;
        assert_eq!(lattice.durability.unwrap().storage(), storage);
    }
}

#[tokio::test]
async fn many_that_provision_at_once_all_find_it_provisioned() {
    let nats = Nats::start().await;
    let gateways = [
        TestGateway::at(&nats.url()).await,
        TestGateway::at(&nats.url()).await,
    ];
    let calls = (0..8).map(|number| provisioned(&gateways[number % 2], provision("default")));
    let answers = join_all(calls).await;
    let created = answers
        .into_iter()
        .filter(|answer| answer.as_ref().unwrap().created);
    assert!(created.count() >= 1);
}

async fn server_info(gateway: &TestGateway) -> GetServerInfoResponse {
    told(gateway.lattices().get_server_info(GetServerInfoRequest {}).await).unwrap()
}

#[tokio::test]
async fn the_server_tells_what_it_is() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let info = server_info(&gateway).await;
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let layouts = [Layout::CacheStream, Layout::Kv, Layout::Component];
    assert_eq!(info.layouts, layouts.map(i32::from));
    assert_eq!(info.default_deadline.unwrap().seconds, 10);
    assert!(info.nats_version.starts_with("2."), "{}", info.nats_version);
    assert!(info.server_time.unwrap().seconds > 1_700_000_000);
    assert_eq!(info.caller, "anonymous");
}

/// A put that is refused for nothing but, perhaps, a limit.
fn put(change: impl FnOnce(&mut LinkDefinition)) -> Vec<u8> {
    let mut link = link(ACTOR, PROVIDER, "value");
    change(&mut link);
    put_link(link).encode_to_vec()
}

fn set_reference(oci_url: String) -> Vec<u8> {
    SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url,
            public_key: ACTOR.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

/// A token of one of these lengths; base64 leaves out one length in four.
fn token(lengths: std::ops::RangeInclusive<usize>) -> String {
    let account = KeyPair::new_account();
    let of = |padding: usize| keys::actor_token(&account, json!({"padding": "x".repeat(padding)})).0;
    let padding = (lengths.start() - of(0).len()) * 3 / 4;
    let mut near = (padding - 4..padding + 4).map(of);
    near.find(|token| lengths.contains(&token.len())).unwrap()
}

fn put_token(jwt: String) -> Vec<u8> {
    PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Jwt(jwt)),
        ..Default::default()
    }
    .encode_to_vec()
}

/// A request that reaches a limit to the last byte, character or item.
fn reaching(limit: &str, size: usize, link_overhead: usize) -> (&'static str, Vec<u8>) {
    let text = |letter: &str, size: usize| letter.repeat(size);
    let message = match limit {
        "lattice_bytes_max" => {
            let mut put = put_link(link(ACTOR, PROVIDER, "value"));
            put.lattice = text("l", size);
            put.encode_to_vec()
        }
        "link_name_bytes_max" => put(|link| link.link_name = text("n", size)),
        "contract_id_bytes_max" => put(|link| link.contract_id = text("c", size)),
        "values_max" => {
            let values = (0..size).map(|key| (key.to_string(), "value".to_owned()));
            put(|link| link.values = values.collect())
        }
        "value_key_characters_max" => put(|link| link.values = [(text("ü", size), "value".into())].into()),
        "body_bytes_max" => {
            put(|link| link.values = [("value".into(), text("x", size - link_overhead))].into())
        }
        "oci_url_bytes_max" => {
            let url = format!("bindle://{}/1.0.0", text("a", size - 15));
            return ("OciReferenceService/SetOciReference", set_reference(url));
        }
        "page_size_max" => {
            let request = ListClaimsRequest {
                lattice: "default".into(),
                page_size: i32::try_from(size).unwrap(),
                ..Default::default()
            };
            return ("ClaimsService/ListClaims", request.encode_to_vec());
        }
        "component_id_bytes_max" => return put_interface(|link| link.target = text("t", size)),
        "wit_name_bytes_max" => return put_interface(|link| link.wit_package = text("p", size)),
        "link_list_max" => {
            let interfaces = (0..size).map(|number| format!("i{number}"));
            return put_interface(|link| link.interfaces = interfaces.collect());
        }
        "manifest_operations_max" => {
            let operation = api::valid_operation(PUT_LINK, "default");
            let operation = ApplyRequest {
                operation: Some(operation),
                ..Default::default()
            };
            let request = ApplyManifestRequest {
                operations: vec![operation; size],
                ..Default::default()
            };
            return ("ApplyService/ApplyManifest", request.encode_to_vec());
        }
        "config_name_bytes_max" => {
            let mut put = put_config(named_config(&text("c", size), "value"));
            put.lattice = "later".into();
            return ("ConfigService/PutConfig", put.encode_to_vec());
        }
        other => panic!("{other} is not known here"),
    };
    (PUT_LINK, message)
}

/// In the lattice `later`, of wasmCloud 1.x.
fn put_interface(change: impl FnOnce(&mut InterfaceLink)) -> (&'static str, Vec<u8>) {
    let mut link = interface_link("target");
    change(&mut link);
    let mut put = put_interface_link(link);
    put.lattice = "later".into();
    ("InterfaceLinkService/PutInterfaceLink", put.encode_to_vec())
}

const PUT_LINK: &str = "LinkDefinitionService/PutLinkDefinition";

/// What a link stores besides the text of its one value.
async fn link_overhead(nats: &Nats, gateway: &TestGateway) -> usize {
    gateway.put(put_link(link(ACTOR, PROVIDER, ""))).await.unwrap();
    let info = nats
        .api(
            "STREAM.INFO.LATTICECACHE_default",
            json!({"subjects_filter": ">"}),
        )
        .await;
    let subjects = info["state"]["subjects"].as_object().unwrap();
    let subject = subjects.keys().next().unwrap();
    nats.last("default", subject).await.unwrap().body.len()
}

#[tokio::test]
async fn the_limits_it_tells_are_the_limits_it_enforces() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let overhead = link_overhead(&nats, &gateway).await;
    provisioned(&gateway, provision_as("later", Layout::Component))
        .await
        .unwrap();
    // Each by its name, so that a new one has to be looked at here.
    let Limits {
        lattice_bytes_max,
        link_name_bytes_max,
        contract_id_bytes_max,
        oci_url_bytes_max,
        values_max,
        value_key_characters_max,
        body_bytes_max,
        claims_token_bytes_max,
        message_bytes_max,
        page_size_max,
        component_id_bytes_max,
        wit_name_bytes_max,
        config_name_bytes_max,
        link_list_max,
        manifest_operations_max,
    } = server_info(&gateway).await.limits.unwrap();
    for (name, max) in [
        ("lattice_bytes_max", lattice_bytes_max),
        ("link_name_bytes_max", link_name_bytes_max),
        ("contract_id_bytes_max", contract_id_bytes_max),
        ("oci_url_bytes_max", oci_url_bytes_max),
        ("values_max", values_max),
        ("value_key_characters_max", value_key_characters_max),
        ("body_bytes_max", body_bytes_max),
        ("page_size_max", page_size_max),
        ("component_id_bytes_max", component_id_bytes_max),
        ("wit_name_bytes_max", wit_name_bytes_max),
        ("config_name_bytes_max", config_name_bytes_max),
        ("link_list_max", link_list_max),
        ("manifest_operations_max", manifest_operations_max),
    ] {
        let max = usize::try_from(max).unwrap();
        let (method, most) = reaching(name, max, overhead);
        let most = gateway.call(method, most).await;
        assert!(most.is_ok(), "{name}: {most:?}");
        let (method, over) = reaching(name, max + 1, overhead);
        let told = Told::from(gateway.call(method, over).await.unwrap_err());
        assert_eq!(
            (told.code, told.reason),
            (Code::InvalidArgument, ErrorReason::LimitExceeded),
            "{name}"
        );
        let expected = [
            ("limit", name.to_owned()),
            ("max", max.to_string()),
            ("actual", (max + 1).to_string()),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value));
        assert_eq!(told.metadata, expected.into(), "{name}");
    }
    a_token_may_be_this_long(&gateway, usize::try_from(claims_token_bytes_max).unwrap()).await;
    a_message_may_be_this_long(&gateway, usize::try_from(message_bytes_max).unwrap()).await;
}

async fn a_token_may_be_this_long(gateway: &TestGateway, max: usize) {
    const METHOD: &str = "ClaimsService/PutClaims";
    let most = gateway.call(METHOD, put_token(token(max - 1..=max))).await;
    assert!(most.is_ok(), "{most:?}");
    let over = gateway.call(METHOD, put_token(token(max + 1..=max + 2))).await;
    let told = Told::from(over.unwrap_err());
    assert_eq!(told.reason, ErrorReason::LimitExceeded);
    assert_eq!(told.metadata["limit"], "claims_token_bytes_max");
}

/// One that is as long as allowed is read, and refused for what is in it.
async fn a_message_may_be_this_long(gateway: &TestGateway, max: usize) {
    let of_message = |length: usize| {
        let of_value =
            |length: usize| put(|link| link.values = [("value".into(), "x".repeat(length))].into());
        let message = of_value(length - (of_value(length).len() - length));
        assert_eq!(message.len(), length);
        message
    };
    let told = Told::from(gateway.call(PUT_LINK, of_message(max)).await.unwrap_err());
    assert_eq!(told.metadata["limit"], "body_bytes_max");
    let told = Told::from(gateway.call(PUT_LINK, of_message(max + 1)).await.unwrap_err());
    assert_eq!(
        (told.code, told.reason),
        (Code::InvalidArgument, ErrorReason::LimitExceeded)
    );
    assert_eq!(told.metadata["limit"], "message_bytes_max");
    assert_eq!(told.metadata["actual"], (max + 1).to_string());
}
