use lattice_gateway::proto::{
    self, LinkDefinition, LinkDefinitionIdentity, NamedConfig,
    watch_response::{Change, Changes, Resync, Snapshot},
};

use super::*;

fn entry(entry: Entry) -> proto::Entry {
    proto::Entry { entry: Some(entry) }
}

fn link(value: &str) -> Entry {
    Entry::LinkDefinition(LinkDefinition {
        actor_id: "M1".to_owned(),
        provider_id: "V1".to_owned(),
        contract_id: "c".to_owned(),
        link_name: "default".to_owned(),
        values: [("k".to_owned(), value.to_owned())].into(),
        update_time: Some(Timestamp {
            seconds: 1_704_067_200,
            nanos: 5_000_000,
        }),
        ..LinkDefinition::default()
    })
}

fn told(event: Event) -> String {
    lines(&WatchResponse { event: Some(event) })
}

#[test]
fn entries_and_changes_are_a_line_each() {
    let config = Entry::NamedConfig(NamedConfig {
        name: "port".to_owned(),
        ..NamedConfig::default()
    });
    let snapshot = Snapshot {
        entries: vec![entry(link("1")), entry(config)],
    };
    assert_eq!(
        told(Event::Snapshot(snapshot)),
        "2024-01-01T00:00:00.005Z  SNAPSHOT  link    M1 c default  provider_id=V1 values.k=1\n\
         \x20                         SNAPSHOT  config  port\n"
    );
    let identity = proto::EntryIdentity {
        identity: Some(Identity::LinkDefinition(LinkDefinitionIdentity {
            actor_id: "M1".to_owned(),
            contract_id: "c".to_owned(),
            link_name: "default".to_owned(),
        })),
    };
    let changes = [
        change::Change::Put(entry(link("2"))),
        change::Change::Delete(identity),
    ];
    let told = told(Event::Changes(Changes {
        changes: changes.map(|change| Change { change: Some(change) }).into(),
        ..Changes::default()
    }));
    let (put, delete) = told.split_once('\n').unwrap();
    assert_eq!(
        put,
        "2024-01-01T00:00:00.005Z  PUT       link    M1 c default  provider_id=V1 values.k=2"
    );
    // When it was told, since a delete carries no time.
    assert!(delete.ends_with("  DELETE    link    M1 c default\n"), "{delete}");
}

#[test]
fn long_and_hostile_values_do_not_harm_a_terminal() {
    let long = "x".repeat(500);
    let line = stands("PUT", &link(&long));
    assert!(line.ends_with("x…\n") && line.chars().count() < 200, "{line}");
    assert!(stands("PUT", &link("\u{1b}[2J\n")).contains("values.k=\\u{1b}[2J\\n"));
}

#[test]
fn a_resync_says_why() {
    let resync = Resync {
        reason: ResyncReason::StreamReset.into(),
    };
    let told = told(Event::Resync(resync));
    assert!(
        told.ends_with("  RESYNC    the stream was made again, or lost what it held\n"),
        "{told}"
    );
}
