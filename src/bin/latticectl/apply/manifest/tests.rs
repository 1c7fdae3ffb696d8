use lattice_gateway::proto::{LinkDefinition, NamedConfig};

use super::*;

const ACTOR: &str = "MAMGG625Q4CNQQ2ZUJZH2FMRYT4XPXWS66SDDXVVCCFNYWGZ2VWYKPT5";
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lattice");

fn entries(text: &str) -> Vec<Entry> {
    let mut reader = Reader::default();
    reader.file(Path::new("a.yaml"), text.into());
    let entries = reader
        .finish()
        .unwrap_or_else(|error| panic!("{}", error.message()));
    entries.entries.into_iter().map(|desired| desired.entry).collect()
}

fn problems(text: &str) -> Vec<String> {
    let mut reader = Reader::default();
    reader.file(Path::new("a.yaml"), text.into());
    match reader.finish() {
        Err(CommandError::Manifest(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

fn link(values: &[(&str, &str)]) -> LinkDefinition {
    let value = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    LinkDefinition {
        actor_id: "M".to_owned(),
        provider_id: "V".to_owned(),
        contract_id: "c".to_owned(),
        link_name: "default".to_owned(),
        values: values.iter().map(value).collect(),
        ..LinkDefinition::default()
    }
}

#[test]
fn entries_are_documents_lists_or_what_a_list_command_answers() {
    let expected = [
        Entry::LinkDefinition(link(&[("port", "8080"), ("tls", "no")])),
        Entry::NamedConfig(NamedConfig {
            name: "port".to_owned(),
            ..NamedConfig::default()
        }),
    ];
    for text in [
        "kind: LinkDefinition\napiVersion: lattice.control.v1\nactor_id: M\nprovider_id: V\ncontract_id: c\n\
         values:\n  port: 8080\n  tls: no\n---\nkind: NamedConfig\nname: port\n",
        "- {kind: LinkDefinition, actorId: M, providerId: V, contractId: c, values: {port: 8080, tls: no}}\n\
         - {kind: NamedConfig, name: port}\n",
        "kind: List\nitems:\n\
         - {kind: LinkDefinition, actorId: M, providerId: V, contractId: c, values: {port: 8080, tls: no}}\n\
         - {kind: NamedConfig, name: port}\n",
        r#"{"linkDefinitions": [{"actorId": "M", "providerId": "V", "contractId": "c", "linkName": "default",
            "values": {"port": "8080", "tls": "no"}, "etag": "\"x\"", "revision": {"epoch": "1"},
            "updateTime": "2026-01-01T00:00:00Z"}],
            "namedConfigs": [{"name": "port"}], "revision": {"epoch": "1", "sequence": "2"}}"#,
    ] {
        assert_eq!(entries(text), expected, "{text}");
    }
}

#[test]
fn all_problems_are_told_together_where_they_are() {
    let text = "kind: LinkDefinition\nactor_id: M\nprovider_id: V\ncontract_id: c\nvaluess: {}\n---\n\
                kind: InterfaceLink\nsource_id: a\nsourceId: b\ninterfaces: x\nwit_namespace: [w]\n---\n\
                kind: Linkdefinition\n---\nname: port\n---\nkind: NamedConfig\nname: port\nvalues: {a: ~, b: {}}\n---\n\
                just text\n---\nkind: NamedConfig\nname: x\napi_version: v2\n";
    assert_eq!(
        problems(text),
        [
            "a.yaml:5:1: document 1: link_definition.valuess: unknown field; did you mean values?",
            "a.yaml:9:1: document 2: interface_link.sourceId: stands there already as source_id",
            "a.yaml:7:1: document 2: interface_link.target: is missing",
            "a.yaml:11:16: document 2: interface_link.wit_namespace: is a list, not a text",
            "a.yaml:7:1: document 2: interface_link.wit_package: is missing",
            "a.yaml:10:13: document 2: interface_link.interfaces: is a text, not a list",
            "a.yaml:13:1: document 3: `kind` is \"Linkdefinition\", and there are Claims, LinkDefinition, \
             InterfaceLink, OciReference, NamedConfig, List and Lattice; did you mean LinkDefinition?",
            "a.yaml:15:1: document 4: says no `kind`: give one, such as LinkDefinition, or lists of entries as \
             claims, link_definitions, interface_links, oci_references, named_configs",
            "a.yaml:19:13: document 5: named_config.values.a: has no value; write \"\" for an empty text",
            "a.yaml:19:19: document 5: named_config.values.b: is a mapping, not a text",
            "a.yaml:21:1: document 6: is a text, not an entry or a list of entries",
            "a.yaml:25:1: document 7: api_version: is \"v2\", and only lattice.control.v1 is known",
        ]
    );
}

#[test]
fn an_entry_stands_once_in_all_files() {
    let text = "kind: NamedConfig\nname: port\n---\n- {kind: NamedConfig, name: other}\n- {kind: NamedConfig, name: port}\n";
    assert_eq!(
        problems(text),
        ["a.yaml:5:3: document 2: config port stands at a.yaml:1 (document 1) already"]
    );
    let links = "link_definitions:\n- {actor_id: M, provider_id: V, contract_id: c}\n\
                 - {actor_id: M, provider_id: W, contract_id: c, link_name: default}\n";
    assert_eq!(
        problems(links),
        ["a.yaml:3:3: document 1: link M c default stands at a.yaml:2 (document 1) already"]
    );
}

#[test]
fn many_problems_are_counted() {
    let problems = problems(&"kind: NamedConfig\n---\n".repeat(30));
    assert_eq!(problems.len(), PROBLEMS_TOLD_MAX + 1);
    assert_eq!(problems.last().unwrap(), "and 10 problems more");
}

#[test]
fn a_part_of_a_list_is_not_taken_for_all_of_it() {
    assert_eq!(
        problems("{\"namedConfigs\": [{\"name\": \"port\"}], \"nextPageToken\": \"x\"}"),
        ["a.yaml:1:1: document 1: is a part of a list, since it has a next_page_token; list all of it"]
    );
}

#[test]
fn claims_come_from_a_token_beside_the_manifest_or_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let token = fs::read_to_string(Path::new(EXAMPLE).join("echo.jwt")).unwrap();
    fs::create_dir(folder.path().join("tokens")).unwrap();
    fs::write(folder.path().join("tokens/echo.jwt"), &token).unwrap();
    let file = folder.path().join("claims.yaml");
    fs::write(&file, "kind: Claims\njwt_file: tokens/echo.jwt\n").unwrap();
    let [desired] = &read(&[file]).unwrap()[..] else {
        panic!("one entry");
    };
    assert_eq!(desired.token.as_deref(), Some(token.trim()));
    let Entry::Claims(claims) = &desired.entry else {
        panic!("{desired:?}");
    };
    assert_eq!(claims.public_key, ACTOR);
    assert_eq!(claims.call_alias, "echo");
    assert_eq!(
        claims.capabilities,
        ["wasmcloud:httpserver", "wasmcloud:builtin:logging"]
    );
    assert_eq!(
        entries(&format!("kind: Claims\njwt: {token}")),
        std::slice::from_ref(&desired.entry)
    );
}

#[test]
fn a_token_that_is_none_is_told_with_the_place_that_names_it() {
    let told = problems("kind: Claims\njwt: a.b.c\n---\nkind: Claims\njwt_file: none.jwt\n");
    assert!(told[0].starts_with("a.yaml:2:1: document 1: claims."), "{told:?}");
    assert!(
        told[1].starts_with("a.yaml:5:1: document 2: claims.jwt_file: cannot read none.jwt"),
        "{told:?}"
    );
    let told = problems("kind: Claims\njwt: a.b.c\nname: Echo\n");
    assert!(told[1].contains("claims.name: unknown field"), "{told:?}");
}

#[test]
fn a_folder_gives_its_manifests_by_path_and_nothing_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, name: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("kind: NamedConfig\nname: {name}\n")).unwrap();
    };
    write("b.yml", "second");
    write("a/z.json", "first");
    write("c.yaml", "third");
    write(".hidden.yaml", "hidden");
    write("..data/c.yaml", "hidden");
    write("notes.txt", "other");
    let names = |entries: Vec<Desired>| -> Vec<_> {
        let entries = entries
            .into_iter()
            .map(|it| entry::name(&entry::identity(&it.entry)));
        entries.collect()
    };
    let entries = read(&[folder.path().to_owned()]).unwrap();
    assert_eq!(names(entries), ["first", "second", "third"]);
    let empty = tempfile::tempdir().unwrap();
    assert!(read(&[empty.path().to_owned()]).is_err());
}

#[test]
fn a_manifest_without_entries_is_refused() {
    for text in ["", "---\n", "[]", "link_definitions: []"] {
        let mut reader = Reader::default();
        reader.file(Path::new("a.yaml"), text.into());
        let error = reader.finish().unwrap().not_nothing().unwrap_err();
        assert_eq!(error.message(), "there are no entries in what -f names", "{text}");
    }
}

#[test]
fn an_export_is_lists_of_entries_that_say_where_they_are_from() {
    let read = |text: &str| {
        let mut reader = Reader::default();
        reader.file(Path::new("a.json"), text.into());
        reader.finish().unwrap()
    };
    let export = r#"{"kind": "Lattice", "format": 1, "lattice": "blue", "layout": "kv",
        "linkDefinitions": [{"actorId": "M", "providerId": "V", "contractId": "c", "linkName": "default"}]}"#;
    let manifests = read(export);
    let header = Header {
        lattice: "blue".to_owned(),
        layout: Layout::Kv,
    };
    assert_eq!(manifests.headers, [header]);
    assert_eq!(entries(export), [Entry::LinkDefinition(link(&[]))]);
    let of_nothing = read("{kind: Lattice, format: 1, lattice: a, layout: component}");
    assert_eq!((of_nothing.entries.len(), of_nothing.headers.len()), (0, 1));
    assert_eq!(
        problems("{kind: Lattice, format: 2, layout: flat, revision: 3}"),
        [
            "a.yaml:1:1: document 1: format: is \"2\", and only 1 is known",
            "a.yaml:1:1: document 1: lattice: is missing",
            "a.yaml:1:1: document 1: layout: is \"flat\", and there are cache-stream, kv, component",
            "a.yaml:1:42: document 1: revision: unknown field",
        ]
    );
}

#[test]
fn a_list_whose_values_are_left_out_is_no_manifest() {
    let told = problems(r#"{"namedConfigs": [{"name": "a"}], "valuesOmitted": true}"#);
    assert!(told[0].contains("values:read"), "{told:?}");
}
