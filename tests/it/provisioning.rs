//! Provisioning, on one server and on three: what is made is what hosts make, what is there is found, told and left alone, and
//! changed in what was asked for alone.

mod limits;
mod wadm;

use std::time::Duration;

use futures_util::future::join_all;
use lattice_gateway::proto::{
    ErrorReason, Layout, Placement, ProvisionLatticeRequest, Storage, StreamAction, StreamPlan,
};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::{
    harness::{
        Nats, TestGateway, Told,
        api::{ACTOR, PROVIDER},
        link, put_link, told, until,
    },
    lattice::provisioned,
};

/// Each layout, with the streams that it has, in the order in which they are created.
const LAYOUTS: [(Layout, &[&str]); 3] = [
    (Layout::CacheStream, &["LATTICECACHE"]),
    (Layout::Kv, &["KV_LATTICEDATA"]),
    (Layout::Component, &["KV_CONFIGDATA", "KV_LATTICEDATA"]),
];

/// A gateway that reaches all these servers.
async fn gateway_of(nodes: &[Nats]) -> TestGateway {
    TestGateway::at(&nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")).await
}

fn of(lattice: &str, layout: Layout) -> ProvisionLatticeRequest {
    ProvisionLatticeRequest {
        lattice: lattice.to_owned(),
        layout: layout.into(),
        ..Default::default()
    }
}

/// The configuration of a stream and when it was created; nulls where there is none.
async fn info(nats: &Nats, stream: &str) -> (Value, Value) {
    let info = nats.api(&format!("STREAM.INFO.{stream}"), Value::Null).await;
    (info["config"].clone(), info["created"].clone())
}

async fn infos(nats: &Nats, streams: &[String]) -> Vec<(Value, Value)> {
    join_all(streams.iter().map(|stream| info(nats, stream))).await
}

async fn streams(nats: &Nats) -> Value {
    nats.api("STREAM.NAMES", Value::Null).await["streams"].clone()
}

fn actions(plans: &[StreamPlan]) -> Vec<(&str, StreamAction)> {
    plans.iter().map(|plan| (&*plan.stream, plan.action())).collect()
}

/// Every difference: field, want, have, and whether it is changed.
fn differences(plan: &StreamPlan) -> Vec<(&str, &str, &str, bool)> {
    let differences = plan.differences.iter();
    differences
        .map(|it| (&*it.field, &*it.want, &*it.have, it.changed))
        .collect()
}

fn is_refused(told: &Told, field: &str) {
    assert_eq!(
        (told.code, told.reason),
        (Code::FailedPrecondition, ErrorReason::StreamConfigDrift),
        "{told:?}"
    );
    assert_eq!(told.metadata["field"], field, "{told:?}");
}

/// Has hosts of the layout create another lattice, with as many replicas; gives the configurations of its streams.
async fn created_by_hosts(nats: &Nats, layout: Layout, lattice: &str, replicas: usize) -> Vec<Value> {
    let changes = json!({"num_replicas": replicas});
    match layout {
        Layout::CacheStream => vec![nats.create_stream(lattice, changes).await],
        Layout::Kv => vec![nats.create_bucket("LATTICEDATA", lattice, changes).await],
        Layout::Component | Layout::Unspecified | Layout::Undecided => {
            let configs = nats.create_bucket("CONFIGDATA", lattice, changes.clone()).await;
            vec![configs, nats.create_bucket("LATTICEDATA", lattice, changes).await]
        }
    }
    .into_iter()
    .map(|created| created["config"].clone())
    .collect()
}

async fn lattices_are_made_as_hosts_make_them_once(nodes: &[Nats]) {
    let (nats, replicas) = (&nodes[0], nodes.len());
    let gateway = gateway_of(nodes).await;
    for (layout, kinds) in LAYOUTS {
        let ours = format!("ours-{}", i32::from(layout));
        let theirs = ours.replace("ours", "theirs");
        let names = kinds
            .iter()
            .map(|kind| format!("{kind}_{ours}"))
            .collect::<Vec<_>>();
        let request = ProvisionLatticeRequest {
            replicas: u32::try_from(replicas).unwrap(),
            ..of(&ours, layout)
        };
        let dry = ProvisionLatticeRequest {
            validate_only: true,
            ..request.clone()
        };
        let hosts = created_by_hosts(nats, layout, &theirs, replicas).await;
        let before = streams(nats).await;
        let planned = provisioned(&gateway, dry.clone()).await.unwrap();
        assert!(planned.created);
        assert_eq!(streams(nats).await, before, "a dry run makes nothing");
        let answer = provisioned(&gateway, request.clone()).await.unwrap();
        assert_eq!(answer.streams, planned.streams);
        let all = |action| {
            names
                .iter()
                .map(|name| (name.as_str(), action))
                .collect::<Vec<_>>()
        };
        assert_eq!(actions(&answer.streams), all(StreamAction::Created));
        let durability = answer.lattice.unwrap().durability.unwrap();
        assert_eq!(usize::try_from(durability.replicas).unwrap(), replicas);

        let made = infos(nats, &names).await;
        for ((config, _), hosts) in made.iter().zip(hosts) {
            let text = hosts.to_string().replace(&theirs, &ours);
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            let mut config = config.clone();
            if layout != Layout::CacheStream {
                config["metadata"]
                    .as_object_mut()
                    .unwrap()
                    .remove("lattice-gateway.layout")
                    .expect("the note of the layout");
                // Servers before 2.11 note nothing there themselves.
                if config["metadata"] == json!({}) {
                    expected["metadata"] = json!({});
                }
            }
            assert_eq!(config, expected);
        }
        for again in [request, dry] {
            let answer = provisioned(&gateway, again).await.unwrap();
            assert!(!answer.created);
            assert_eq!(actions(&answer.streams), all(StreamAction::Unchanged));
            assert!(answer.streams.iter().all(|plan| plan.differences.is_empty()));
        }
        assert_eq!(infos(nats, &names).await, made);
    }
}

#[tokio::test]
async fn lattices_are_made_as_hosts_make_them_once_on_one_server() {
    let nats = Nats::start().await;
    lattices_are_made_as_hosts_make_them_once(std::slice::from_ref(&nats)).await;
}

#[tokio::test]
async fn lattices_are_made_as_hosts_make_them_once_on_three_servers() {
    lattices_are_made_as_hosts_make_them_once(&Nats::start_cluster().await).await;
}

#[tokio::test]
async fn a_stream_is_scaled_where_that_is_asked_for_and_not_otherwise_touched() {
    let nodes = Nats::start_cluster().await;
    let nats = &nodes[0];
    let gateway = gateway_of(&nodes).await;
    let own = json!({"description": "mine", "duplicate_window": 60_000_000_000_u64});
    until("the cluster takes a stream of three", async || {
        Some(nats.create_stream("three", json!({"num_replicas": 3})).await)
    })
    .await;
    nats.create_stream("default", own).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let name = ["LATTICECACHE_default".to_owned()];
    let before = infos(nats, &name).await;

    let scale = ProvisionLatticeRequest {
        replicas: 3,
        ..of("default", Layout::CacheStream)
    };
    for validate_only in [true, false] {
        assert_eq!(infos(nats, &name).await, before);
        let request = ProvisionLatticeRequest {
            validate_only,
            ..scale.clone()
        };
        let answer = provisioned(&gateway, request).await.unwrap();
        assert!(!answer.created);
        assert_eq!(actions(&answer.streams), [(&*name[0], StreamAction::Updated)]);
        assert_eq!(
            differences(&answer.streams[0]),
            [
                ("description", "null", "\"mine\"", false),
                ("duplicate_window", "120000000000", "60000000000", false),
                ("num_replicas", "3", "1", true),
            ]
        );
    }
    let mut expected = before[0].clone();
    expected.0["num_replicas"] = json!(3);
    let scaled = infos(nats, &name).await;
    assert_eq!(scaled, [expected]);
    until("every replica has caught up", async || {
        let info = nats.api("STREAM.INFO.LATTICECACHE_default", Value::Null).await;
        let replicas = info["cluster"]["replicas"].as_array()?.iter();
        (replicas.filter(|replica| replica["current"] == true).count() == 2).then_some(())
    })
    .await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "later")))
        .await
        .unwrap();
    assert_eq!(nats.state("default").await.0, 1);

    // Nothing more comes of the same call, nor of one that asks for nothing, nor of one that cannot be.
    let unasked = provisioned(&gateway, of("default", Layout::CacheStream))
        .await
        .unwrap();
    assert_eq!(actions(&unasked.streams), [(&*name[0], StreamAction::Unchanged)]);
    assert!(differences(&unasked.streams[0]).contains(&("num_replicas", "1", "3", false)));
    let again = provisioned(&gateway, scale.clone()).await.unwrap();
    assert_eq!(actions(&again.streams), [(&*name[0], StreamAction::Unchanged)]);
    what_a_cluster_cannot_do_is_refused(&gateway).await;
    assert_eq!(infos(nats, &name).await, scaled);
    assert_eq!(info(nats, "LATTICECACHE_new").await, (Value::Null, Value::Null));
}

/// Of the lattice `default`, which is being scaled to three replicas, and of one that there is not.
async fn what_a_cluster_cannot_do_is_refused(gateway: &TestGateway) {
    let nowhere = Placement {
        tags: vec!["nowhere".into()],
        ..Placement::default()
    };
    for (lattice, replicas, placement, storage, field) in [
        ("default", 5, None, Storage::Unspecified, "num_replicas"),
        (
            "default",
            0,
            Some(nowhere.clone()),
            Storage::Unspecified,
            "placement",
        ),
        (
            "default",
            1,
            Some(nowhere.clone()),
            Storage::Unspecified,
            "num_replicas",
        ),
        ("default", 1, None, Storage::File, "storage"),
        ("new", 5, None, Storage::Unspecified, "num_replicas"),
        ("new", 1, Some(nowhere), Storage::Unspecified, "placement"),
    ] {
        let request = ProvisionLatticeRequest {
            replicas,
            placement,
            storage: storage.into(),
            ..of(lattice, Layout::CacheStream)
        };
        // While it is still being scaled it is neither scaled nor moved again.
        let told = until("it is refused for good", async || {
            let told = provisioned(gateway, request.clone()).await.unwrap_err();
            (told.reason != ErrorReason::BackendUnavailable).then_some(told)
        })
        .await;
        is_refused(&told, field);
        assert!(
            told.message.contains(&format!("LATTICECACHE_{lattice}")),
            "{}",
            told.message
        );
    }
}

#[tokio::test]
async fn without_a_quorum_it_is_unavailable_or_unknown_and_completed_once_there_is_one() {
    let mut nodes = Nats::start_cluster().await;
    let gateway = gateway_of(&nodes[..1]).await;
    for node in &mut nodes[1..] {
        node.down("KILL");
    }
    let provision = async |patience: Duration| {
        let mut request = Request::new(of("default", Layout::Component));
        request.set_timeout(patience);
        told(gateway.lattices().provision_lattice(request).await)
    };
    let told = provision(Duration::from_secs(2)).await.unwrap_err();
    // A leader that has not noticed yet takes a creation.
    let expected = [ErrorReason::BackendUnavailable, ErrorReason::OutcomeUnknown];
    assert!(expected.contains(&told.reason), "{told:?}");
    for node in &mut nodes[1..] {
        node.launch().await;
    }
    until("it is provisioned", async || {
        provision(Duration::from_secs(5)).await.ok()
    })
    .await;
    assert_eq!(
        streams(&nodes[0]).await,
        json!(["KV_CONFIGDATA_default", "KV_LATTICEDATA_default"])
    );
}

#[tokio::test]
async fn another_storage_is_refused_before_anything_is_touched() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let noted = json!({"storage": "memory", "metadata": {"lattice-gateway.layout": "component"}});
    nats.create_bucket("LATTICEDATA", "default", noted).await;
    let before = info(&nats, "KV_LATTICEDATA_default").await;
    let request = ProvisionLatticeRequest {
        storage: Storage::File.into(),
        max_bytes: 1 << 20,
        ..of("default", Layout::Component)
    };
    for validate_only in [true, false] {
        let request = ProvisionLatticeRequest {
            validate_only,
            ..request.clone()
        };
        let told = provisioned(&gateway, request).await.unwrap_err();
        is_refused(&told, "storage");
        assert_eq!(
            (&*told.metadata["want"], &*told.metadata["have"]),
            ("\"file\"", "\"memory\"")
        );
        for word in [
            "KV_LATTICEDATA_default",
            "ask for the one that it has",
            "back it up",
        ] {
            assert!(told.message.contains(word), "{}", told.message);
        }
    }
    assert_eq!(streams(&nats).await, json!(["KV_LATTICEDATA_default"]));
    assert_eq!(info(&nats, "KV_LATTICEDATA_default").await, before);
    // Without it the other bucket is made, and the bound is given to both.
    let request = ProvisionLatticeRequest {
        storage: Storage::Unspecified.into(),
        ..request
    };
    let answer = provisioned(&gateway, request).await.unwrap();
    assert_eq!(
        actions(&answer.streams),
        [
            ("KV_CONFIGDATA_default", StreamAction::Created),
            ("KV_LATTICEDATA_default", StreamAction::Updated)
        ]
    );
    let (config, created) = info(&nats, "KV_LATTICEDATA_default").await;
    assert_eq!((&config["max_bytes"], &created), (&json!(1 << 20), &before.1));
    let drift = answer.lattice.unwrap().drift;
    assert!(drift.iter().all(|drift| !drift.blocks_writes), "{drift:?}");
}

#[tokio::test]
async fn a_stream_that_is_unsafe_is_told_as_wrong_and_not_touched() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let expired = json!({"max_age": 3_600_000_000_000_u64, "metadata": {"lattice-gateway.layout": "kv"}});
    nats.create_bucket("LATTICEDATA", "default", expired).await;
    let before = info(&nats, "KV_LATTICEDATA_default").await;
    let request = ProvisionLatticeRequest {
        max_bytes: 1 << 20,
        ..of("default", Layout::Kv)
    };
    let answer = provisioned(&gateway, request).await.unwrap();
    assert_eq!(
        actions(&answer.streams),
        [("KV_LATTICEDATA_default", StreamAction::Wrong)]
    );
    assert!(answer.streams[0].consequence.contains("max_age"), "{answer:?}");
    assert!(answer.streams[0].differences.iter().all(|it| !it.changed));
    assert_eq!(info(&nats, "KV_LATTICEDATA_default").await, before);
}

#[tokio::test]
async fn what_is_asked_for_and_cannot_be_is_named_by_its_field() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let tags = |count: usize, tag: &str| {
        Some(Placement {
            tags: vec![tag.to_owned(); count],
            ..Placement::default()
        })
    };
    for (replicas, placement, max_bytes, fields) in [
        (6, None, u64::MAX, &["replicas", "max_bytes"][..]),
        (0, Some(Placement::default()), 0, &["placement"]),
        (0, tags(17, "a"), 0, &["placement.tags"]),
        (0, tags(2, "a b"), 0, &["placement.tags[0]", "placement.tags[1]"]),
        (0, tags(1, &"a".repeat(129)), 0, &["placement.tags[0]"]),
        (0, tags(1, ""), 0, &["placement.tags[0]"]),
    ] {
        let request = ProvisionLatticeRequest {
            replicas,
            placement,
            max_bytes,
            ..of("default", Layout::Kv)
        };
        let told = provisioned(&gateway, request).await.unwrap_err();
        assert_eq!(told.reason, ErrorReason::InvalidField, "{told:?}");
        assert_eq!(told.fields, fields);
    }
    // A full stream of this layout would lose entries.
    let request = ProvisionLatticeRequest {
        max_bytes: 1 << 20,
        ..of("default", Layout::Unspecified)
    };
    let told = provisioned(&gateway, request).await.unwrap_err();
    assert_eq!(
        (told.reason, &*told.fields),
        (ErrorReason::InvalidField, &["max_bytes".to_owned()][..])
    );
    // Where there is no cluster, for one that is there and for one that is not.
    nats.create_bucket(
        "LATTICEDATA",
        "there",
        json!({"metadata": {"lattice-gateway.layout": "kv"}}),
    )
    .await;
    for lattice in ["there", "new"] {
        let request = ProvisionLatticeRequest {
            replicas: 3,
            ..of(lattice, Layout::Kv)
        };
        is_refused(&provisioned(&gateway, request).await.unwrap_err(), "num_replicas");
    }
    assert_eq!(streams(&nats).await, json!(["KV_LATTICEDATA_there"]));
}

#[tokio::test]
async fn at_start_a_stream_in_another_storage_is_used_as_it_is() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({"storage": "file"})).await;
    let before = info(&nats, "LATTICECACHE_default").await;
    let text = "[lattices.default]\ntrusted_issuers = [\"*\"]\nprovision = \"memory\"\n\
                [lattices.later]\ntrusted_issuers = [\"*\"]\nprovision = \"file\"\n";
    let gateway = TestGateway::serving(&nats, text).await;
    // They are provisioned in the order of their names.
    let later = until("the later one is provisioned", async || {
        let (config, _) = info(&nats, "LATTICECACHE_later").await;
        (!config.is_null()).then_some(config)
    })
    .await;
    assert_eq!(later["storage"], "file");
    assert_eq!(info(&nats, "LATTICECACHE_default").await, before);
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
}
