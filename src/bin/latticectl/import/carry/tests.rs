use lattice_gateway::proto::{LinkDefinition, NamedConfig, OciReference};

use super::*;
use crate::apply::manifest::Origin;

const ACTOR: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
const PROVIDER: &str = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N";

fn desired(entry: Entry) -> Desired {
    Desired {
        entry,
        token: None,
        origin: Origin {
            file: "a.json".into(),
            line: 1,
            document: 1,
        },
    }
}

fn claims(public_key: &str, capabilities: &[&str], contract_id: &str) -> Entry {
    Entry::Claims(Claims {
        public_key: public_key.to_owned(),
        capabilities: capabilities.iter().map(|it| (*it).to_owned()).collect(),
        contract_id: contract_id.to_owned(),
        ..Claims::default()
    })
}

/// What is carried of one entry, and what is lost.
fn carried(entry: Entry, layout: Layout) -> (Option<Entry>, Vec<String>) {
    let (mut carried, lost) = carry(vec![desired(entry)], layout);
    (carried.pop().map(|it| it.entry), lost)
}

#[test]
fn kinds_that_a_layout_does_not_keep_are_not_carried() {
    let of_each = || {
        [
            Entry::LinkDefinition(LinkDefinition::default()),
            Entry::OciReference(OciReference::default()),
            Entry::NamedConfig(NamedConfig::default()),
            claims(ACTOR, &[], ""),
        ]
    };
    let is_carried = |layout| of_each().map(|entry| carried(entry, layout).0.is_some());
    assert_eq!(is_carried(Layout::CacheStream), [true, true, false, true]);
    assert_eq!(is_carried(Layout::Kv), [true, true, false, true]);
    assert_eq!(is_carried(Layout::Component), [false, false, true, true]);
    let (_, lost) = carried(
        Entry::OciReference(OciReference {
            oci_url: "r/a:1".to_owned(),
            ..OciReference::default()
        }),
        Layout::Component,
    );
    assert_eq!(lost, ["ref r/a:1: layout component keeps no OciReference"]);
}

#[test]
fn fields_of_claims_that_a_layout_does_not_keep_are_named_and_taken_out() {
    let (kept, lost) = carried(claims(ACTOR, &["a", "b"], ""), Layout::Component);
    assert_eq!(kept, Some(claims(ACTOR, &[], "")));
    assert_eq!(lost, [format!("capabilities of claims {ACTOR}")]);
    let (kept, lost) = carried(claims(PROVIDER, &[], "wasmcloud:keyvalue"), Layout::CacheStream);
    assert_eq!(kept, Some(claims(PROVIDER, &[], "")));
    assert_eq!(lost, [format!("contract_id of claims {PROVIDER}")]);
    let (kept, lost) = carried(claims(PROVIDER, &[], "wasmcloud:keyvalue"), Layout::Kv);
    assert_eq!((kept.is_some(), lost), (true, Vec::new()));
}

#[test]
fn claims_of_a_provider_need_their_contract_where_hosts_tell_its_kind_by_it() {
    let (kept, lost) = carried(claims(PROVIDER, &[], ""), Layout::Kv);
    assert_eq!(kept, None);
    assert!(lost[0].contains("needs a contract_id"), "{lost:?}");
}
