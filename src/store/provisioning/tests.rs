use serde_json::json;

use super::*;
use crate::store::wadm::{Stream, Tenancy};

fn lattice() -> LatticeName {
    LatticeName::parse("default").unwrap()
}

fn options(replicas: Option<u8>, max_bytes: Option<i64>) -> StreamOptions {
    StreamOptions {
        replicas,
        max_bytes,
        ..StreamOptions::default()
    }
}

/// A stream as a server of a cluster, or one alone, tells it.
fn found(config: &Value, is_clustered: bool) -> StreamInfo {
    let cluster = match is_clustered {
        true => json!({"name": "c", "leader": "a"}),
        false => json!({"leader": "a"}),
    };
    let info = json!({"config": config, "created": "2024-01-01T00:00:00Z", "state": {"last_seq": 0}, "cluster": cluster});
    serde_json::from_value(info).unwrap()
}

fn wanted(stream: Stream, options: &StreamOptions) -> Wanted {
    Wanted::of_wadm(stream, Tenancy::Single, options)
}

fn changed(mut config: Value, changes: &Value) -> Value {
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

#[test]
fn what_is_as_its_users_create_it_stays() {
    for stream in Stream::ALL {
        let wanted = wanted(stream, &StreamOptions::default());
        // With what servers fill in.
        let told = changed(
            stream.config(Tenancy::Single),
            &json!({"allow_msg_ttl": false, "compression": "none", "consumer_limits": {}, "metadata": {"_nats.level": "5"}}),
        );
        let plan = wanted.plan(Some(&found(&told, false))).unwrap();
        assert_eq!((plan.step, plan.differences), (Step::Leave, vec![]), "{stream:?}");
    }
    let derived = changed(
        Stream::EventConsumer.config(Tenancy::Single),
        &json!({"duplicate_window": 70_000_000_000_u64}),
    );
    let plan = wanted(Stream::EventConsumer, &StreamOptions::default()).plan(Some(&found(&derived, false)));
    assert_eq!(plan.unwrap().differences, []);
}

#[test]
fn what_is_not_there_is_created_as_its_users_would_but_for_what_was_chosen() {
    let chosen = StreamOptions {
        storage: Some(Storage::Memory),
        replicas: Some(3),
        placement: Some(Placement {
            cluster: Some("east".into()),
            tags: vec!["ssd".into()],
        }),
        max_bytes: Some(1024),
    };
    let config = Stream::Events.config(Tenancy::Single);
    let expected = changed(
        config,
        &json!({
            "storage": "memory", "num_replicas": 3, "placement": {"cluster": "east", "tags": ["ssd"]}, "max_bytes": 1024,
        }),
    );
    let plan = wanted(Stream::Events, &chosen).plan(None).unwrap();
    assert_eq!(plan.step, Step::Create(expected));

    let bucket = Wanted::of_lattice(Part::Component, &lattice(), None, &StreamOptions::default());
    let Step::Create(config) = bucket.plan(None).unwrap().step else {
        panic!("not created");
    };
    assert_eq!(config["metadata"], json!({"lattice-gateway.layout": "component"}));
}

#[test]
fn only_what_was_chosen_is_changed_and_everything_is_told() {
    let own = json!({"num_replicas": 1, "description": "mine", "max_age": 3_600_000_000_000_u64});
    let own = changed(Stream::Events.config(Tenancy::Single), &own);
    let chosen = options(Some(3), None);
    let plan = wanted(Stream::Events, &chosen)
        .plan(Some(&found(&own, true)))
        .unwrap();
    assert_eq!(
        plan.step,
        Step::Update(changed(own.clone(), &json!({"num_replicas": 3})))
    );
    let told = plan.differences.iter().map(|it| (&*it.field, it.is_changed));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("description", false), ("max_age", false), ("num_replicas", true)]
    );
    let scaled = changed(own, &json!({"num_replicas": 3}));
    let again = wanted(Stream::Events, &chosen)
        .plan(Some(&found(&scaled, true)))
        .unwrap();
    assert_eq!(again.step, Step::Leave);
    let unasked = wanted(Stream::Events, &options(None, None)).plan(Some(&found(&scaled, true)));
    assert_eq!(unasked.unwrap().step, Step::Leave);
}

#[test]
fn what_jetstream_cannot_change_is_refused_and_what_it_must_not_be_told_too() {
    let own = Stream::Events.config(Tenancy::Single);
    let memory = StreamOptions {
        storage: Some(Storage::Memory),
        ..StreamOptions::default()
    };
    let refused = wanted(Stream::Events, &memory)
        .plan(Some(&found(&own, true)))
        .unwrap_err();
    assert_eq!(
        (&*refused.stream, &*refused.field, &refused.want, &refused.have),
        ("wadm_events", "storage", &json!("memory"), &json!("file"))
    );
    // Servers before 2.14 that are in no cluster would take it, and hold one copy.
    let refused = wanted(Stream::Events, &options(Some(3), None)).plan(Some(&found(&own, false)));
    assert_eq!(refused.unwrap_err().field, "num_replicas");
    // A cluster does one of both at a time.
    let both = StreamOptions {
        placement: Some(Placement {
            cluster: None,
            tags: vec!["ssd".into()],
        }),
        ..options(Some(3), None)
    };
    let refused = wanted(Stream::Events, &both).plan(Some(&found(&own, true)));
    assert_eq!(refused.unwrap_err().field, "num_replicas");
    let moved = changed(own.clone(), &json!({"placement": {"tags": ["ssd"]}}));
    let scaled = wanted(Stream::Events, &both).plan(Some(&found(&moved, true)));
    assert!(matches!(scaled.unwrap().step, Step::Update(_)));
    let told_three = changed(own, &json!({"num_replicas": 3}));
    let back = wanted(Stream::Events, &options(Some(1), None)).plan(Some(&found(&told_three, false)));
    assert!(matches!(back.unwrap().step, Step::Update(_)));
}

#[test]
fn what_is_wrong_is_told_with_what_comes_of_it_and_not_touched() {
    let step = |stream: Stream, changes: &Value| {
        let own = changed(stream.config(Tenancy::Single), changes);
        let plan = wanted(stream, &options(Some(3), None)).plan(Some(&found(&own, true)));
        match plan.unwrap().step {
            Step::LeaveWrong(harm) => harm,
            step @ (Step::Create(_) | Step::Update(_) | Step::Leave) => format!("{step:?}"),
        }
    };
    for (stream, change, harm) in [
        (
            Stream::Events,
            json!({"subjects": ["wadm.evt.>"]}),
            "makes it anew",
        ),
        (
            Stream::Commands,
            json!({"subjects": ["wadm.cmd.*", "x"]}),
            "makes it anew",
        ),
        (
            Stream::HostEvents,
            json!({"subjects": ["*.wasmbus.evt.*.>"]}),
            "makes it anew",
        ),
        (
            Stream::EventConsumer,
            json!({"retention": "limits"}),
            "makes it anew",
        ),
        (
            Stream::EventConsumer,
            json!({"sources": null}),
            "hears of no event",
        ),
        (
            Stream::EventConsumer,
            json!({"sources": [{"name": "wasmbus_events"}]}),
            "hears of no event",
        ),
        (
            Stream::EventConsumer,
            json!({"sources": [Stream::EventConsumer.config(Tenancy::Single)["sources"][0]]}),
            "of these sources alone",
        ),
        (Stream::Status, json!({"subjects": ["x"]}), "kept nowhere"),
        (
            Stream::State,
            json!({"max_msgs_per_subject": -1}),
            "no key-value bucket",
        ),
        // Taken as it is, and works: changed where that was chosen.
        (
            Stream::Status,
            json!({"subjects": ["x", "wadm.status.*.*"]}),
            "Update",
        ),
        (Stream::State, json!({"max_msgs_per_subject": 5}), "Update"),
        (Stream::EventConsumer, json!({"subjects": ["x"]}), "Update"),
        (Stream::Notify, json!({"retention": "limits"}), "Update"),
    ] {
        let told = step(stream, &change);
        assert!(told.contains(harm), "{stream:?} {change}: {told}");
    }
    let sources = Stream::EventConsumer.config(Tenancy::Single)["sources"].clone();
    let turned = json!({"sources": [sources[1], sources[0]], "num_replicas": 3});
    assert!(
        step(Stream::EventConsumer, &turned).contains("Leave"),
        "their order does not matter"
    );

    let cache = Part::CacheStream.stream_config(&lattice(), "memory");
    let five = changed(cache, &json!({"max_msgs_per_subject": 5}));
    let wanted = Wanted::of_lattice(Part::CacheStream, &lattice(), None, &options(Some(3), None));
    let plan = wanted.plan(Some(&found(&five, true))).unwrap();
    assert!(matches!(plan.step, Step::LeaveWrong(harm) if harm.contains("max_msgs_per_subject")));
    assert!(plan.differences.iter().all(|it| !it.is_changed));
}
