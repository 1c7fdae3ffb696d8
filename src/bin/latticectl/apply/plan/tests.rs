use lattice_gateway::proto::{InterfaceLink, LinkDefinition, NamedConfig};

use super::*;
use crate::apply::manifest::Origin;

fn desired(entry: Entry) -> Desired {
    Desired {
        entry,
        token: None,
        origin: Origin {
            file: "a.yaml".into(),
            line: 1,
            document: 1,
        },
    }
}

fn held(entries: impl IntoIterator<Item = Entry>) -> Held {
    let entries = entries.into_iter().map(|entry| (entry::identity(&entry), entry));
    Held {
        entries: entries.collect(),
        unreadable: BTreeSet::new(),
    }
}

fn config(name: &str, values: &[(&str, &str)]) -> Entry {
    let value = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Entry::NamedConfig(NamedConfig {
        name: name.to_owned(),
        values: values.iter().map(value).collect(),
        etag: format!("\"{name}\""),
        ..NamedConfig::default()
    })
}

fn iface(source: &str, target: &str) -> Entry {
    Entry::InterfaceLink(InterfaceLink {
        source_id: source.to_owned(),
        target: target.to_owned(),
        name: "default".to_owned(),
        wit_namespace: "wasi".to_owned(),
        wit_package: "http".to_owned(),
        interfaces: vec!["incoming-handler".to_owned()],
        ..InterfaceLink::default()
    })
}

fn text(text: &str) -> Said {
    Said::Text(text.to_owned())
}

/// The changes of a plan, shortly.
fn shown(plan: &Plan) -> Vec<String> {
    let change = |change: &Change| {
        let step = match &change.step {
            Step::Create(_) => "create".to_owned(),
            Step::Update { etag, .. } => format!("update {etag}"),
            Step::Delete { etag } => format!("delete {etag}"),
        };
        format!("{step} {}", entry::name(&change.identity))
    };
    plan.changes.iter().map(change).collect()
}

#[test]
fn what_is_missing_is_created_what_differs_updated_and_the_rest_left_alone() {
    let wanted = vec![
        desired(config("new", &[])),
        desired(config("same", &[("a", "1")])),
        desired(config("other", &[("a", "1"), ("b", "2")])),
    ];
    let held = held([
        config("same", &[("a", "1")]),
        config("other", &[("a", "0"), ("c", "3")]),
        config("surplus", &[]),
    ]);
    let plan = Plan::new(wanted, held, &BTreeSet::new());
    assert_eq!(shown(&plan), ["create new", "update \"other\" other"]);
    assert_eq!(plan.unchanged, 1);
    let Step::Update { differences, .. } = &plan.changes[1].step else {
        panic!("{plan:?}");
    };
    let difference = |field: &str, before, after| Difference {
        field: field.to_owned(),
        before,
        after,
    };
    assert_eq!(
        *differences,
        [
            difference("values.a", text("0"), text("1")),
            difference("values.b", Said::Nothing, text("2")),
            difference("values.c", text("3"), Said::Nothing),
        ]
    );
}

#[test]
fn only_kinds_that_are_named_are_pruned() {
    let held = || held([config("b", &[]), config("a", &[]), iface("web", "echo")]);
    let pruned = BTreeSet::from([Kind::Config]);
    let plan = Plan::new(vec![desired(config("c", &[]))], held(), &pruned);
    assert_eq!(shown(&plan), ["create c", "delete \"a\" a", "delete \"b\" b"]);
    assert_eq!(plan.deletes(), 2);
    let plan = Plan::new(vec![desired(config("c", &[]))], held(), &BTreeSet::new());
    assert_eq!(plan.deletes(), 0);
}

#[test]
fn values_that_cannot_be_read_are_put_again() {
    let mut held = held([config("a", &[]), config("b", &[])]);
    held.unreadable.insert(Kind::Config);
    let wanted = vec![desired(config("a", &[])), desired(config("b", &[("k", "v")]))];
    let plan = Plan::new(wanted, held, &BTreeSet::new());
    assert_eq!(shown(&plan), ["update \"a\" a", "update \"b\" b"]);
    let Step::Update { differences, .. } = &plan.changes[1].step else {
        panic!("{plan:?}");
    };
    assert_eq!(differences[0].before, Said::Unreadable);
    assert_eq!(differences[0].after, text("k=v"));
}

#[test]
fn a_contract_that_a_layout_does_not_keep_is_no_difference_to_a_token() {
    let claims = |contract: &str| {
        Entry::Claims(lattice_gateway::proto::Claims {
            public_key: "V".to_owned(),
            contract_id: contract.to_owned(),
            ..lattice_gateway::proto::Claims::default()
        })
    };
    let of_token = || Desired {
        token: Some("a.b.c".to_owned()),
        ..desired(claims("wasmcloud:keyvalue"))
    };
    let differ = |standing: Entry, wanted: Desired| {
        let plan = Plan::new(vec![wanted], held([standing]), &BTreeSet::new());
        plan.unchanged == 0
    };
    assert!(!differ(claims(""), of_token()));
    assert!(!differ(claims("wasmcloud:keyvalue"), of_token()));
    assert!(differ(claims("other"), of_token()));
    assert!(differ(claims(""), desired(claims("wasmcloud:keyvalue"))));
}

#[test]
fn configs_come_before_the_links_that_name_them_and_go_after() {
    let wanted = vec![
        desired(iface("web", "new")),
        desired(config("port", &[])),
        desired(Entry::LinkDefinition(LinkDefinition::default())),
    ];
    let held = held([iface("web", "old"), iface("other", "old"), config("unused", &[])]);
    let pruned = BTreeSet::from([Kind::Iface, Kind::Config]);
    let plan = Plan::new(wanted, held, &pruned);
    let phases: Vec<_> = shown(&plan).into_iter().zip(plan.phases()).collect();
    let expected = [
        ("create web -> new wasi:http default", Phase::Links),
        ("create port", Phase::Groundwork),
        ("create   ", Phase::Groundwork),
        ("delete  other -> old wasi:http default", Phase::Deletes),
        // Its place is another's now, who could not be put before.
        ("delete  web -> old wasi:http default", Phase::Groundwork),
        ("delete \"unused\" unused", Phase::ConfigDeletes),
    ];
    assert_eq!(phases, expected.map(|(change, phase)| (change.to_owned(), phase)));
}
