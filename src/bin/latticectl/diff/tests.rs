use lattice_gateway::proto::NamedConfig;

use super::*;

fn config(name: &str, value: &str) -> Desired {
    of_lattice(
        "default",
        Entry::NamedConfig(NamedConfig {
            name: name.to_owned(),
            values: [("key".to_owned(), value.to_owned())].into(),
            ..NamedConfig::default()
        }),
    )
}

fn plan() -> Plan {
    let a = vec![
        config("gone", "1"),
        config("same", "1"),
        config("other", "before"),
    ];
    let b = vec![config("other", "after"), config("new", "1"), config("same", "1")];
    compare(a, b)
}

#[test]
fn a_side_is_a_file_where_it_cannot_be_the_name_of_a_lattice() {
    let lattice = |name: &str| Ok(Side::Lattice(name.to_owned()));
    let file = |name: &str| Ok(Side::File(name.into()));
    assert_eq!(side("default"), lattice("default"));
    assert_eq!(side("a.json"), file("a.json"));
    assert_eq!(side("./default"), file("./default"));
    assert_eq!(side("-"), file("-"));
    assert!(side("").is_err());
}

#[test]
fn what_was_added_changed_and_removed_is_told_in_order_and_values_only_on_request() {
    let expected = |before: &str, after: &str| {
        format!(
            "added    config new\n\
             changed  config other\n\
             \x20         values.key  {before} -> {after}\n\
             removed  config gone\n\
             1 added, 1 removed, 1 changed, 1 equal\n"
        )
    };
    assert_eq!(table(&plan(), true), expected("(hidden)", "(hidden)"));
    assert_eq!(table(&plan(), false), expected("before", "after"));
}

#[test]
fn programs_are_told_the_same() {
    let told = json(&plan(), true);
    assert!(!told.to_string().contains("before"), "{told}");
    assert_eq!(
        told["changes"][1],
        json!({
            "change": "changed", "kind": "NamedConfig", "identity": { "namedConfig": { "name": "other" } },
            "fields": [{ "field": "values.key" }],
        })
    );
    assert_eq!(
        told["summary"],
        json!({ "added": 1, "removed": 1, "changed": 1, "equal": 1 })
    );
    let told = json(&plan(), false);
    assert_eq!(
        told["changes"][1]["fields"],
        json!([{ "field": "values.key", "before": "before", "after": "after" }])
    );
}
