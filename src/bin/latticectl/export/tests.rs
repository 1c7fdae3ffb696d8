use std::fs;

use proptest::prelude::*;

use super::*;
use crate::apply::manifest;

fn link(values: impl IntoIterator<Item = (String, String)>) -> Entry {
    Entry::LinkDefinition(LinkDefinition {
        actor_id: "M".to_owned(),
        provider_id: "V".to_owned(),
        contract_id: "c".to_owned(),
        link_name: "default".to_owned(),
        values: values.into_iter().collect(),
        etag: "\"x\"".to_owned(),
        ..LinkDefinition::default()
    })
}

fn config(name: &str) -> Entry {
    Entry::NamedConfig(NamedConfig {
        name: name.to_owned(),
        ..NamedConfig::default()
    })
}

#[test]
fn an_export_is_one_document_without_etags() {
    let value = ("b".to_owned(), "2".to_owned());
    let other = ("a".to_owned(), "1".to_owned());
    let text = document("blue", "kv", vec![config("z"), link([value, other]), config("a")]).unwrap();
    let expected = r#"{
  "kind": "Lattice",
  "apiVersion": "lattice.control.v1",
  "format": 1,
  "lattice": "blue",
  "layout": "kv",
  "linkDefinitions": [
    {
      "actorId": "M",
      "providerId": "V",
      "contractId": "c",
      "linkName": "default",
      "values": {
        "a": "1",
        "b": "2"
      }
    }
  ],
  "namedConfigs": [
    {
      "name": "z"
    },
    {
      "name": "a"
    }
  ]
}
"#;
    assert_eq!(text, expected);
}

#[test]
fn what_only_a_host_can_store_is_not_written() {
    assert!(is_writable(&link([])));
    let Entry::LinkDefinition(whole) = link([]) else {
        panic!("a link");
    };
    assert!(!is_writable(&Entry::LinkDefinition(LinkDefinition {
        link_name: String::new(),
        ..whole
    })));
}

#[cfg(unix)]
#[test]
fn a_file_is_replaced_as_a_whole_and_only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    fs::write(&path, "before").unwrap();
    write(&path, b"after").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"after");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(write(&folder.path().join("nowhere/a.json"), b"").is_err());
}

proptest! {
    #[test]
    fn whatever_stands_is_read_back_as_it_was(values in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let entry = link(values.clone());
        fs::write(&path, document("blue", "kv", vec![entry.clone()]).unwrap()).unwrap();
        let read = manifest::read_all(&[path]).unwrap().entries;
        prop_assert_eq!(&read[0].entry, &entry::without_output(entry));
    }
}
