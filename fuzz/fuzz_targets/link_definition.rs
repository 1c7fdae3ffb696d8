//! Links as callers give them: what passes has one home and is stored so that it reads the same.
//!
//! An input is the fields, separated by U+001F, then keys and values in turn.

#![no_main]

use std::collections::BTreeMap;

use lattice_gateway::{
    domain::{Entry, EntryKey, Violations, link_definition::Unchecked},
    store::layout::{Decoded, cache_stream},
    support::{assert_home, assert_told, fields},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let [actor_id, provider_id, contract_id, link_name, rest] = fields(input);
    let mut values = BTreeMap::new();
    let mut texts = rest.split('\u{1f}');
    while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
        values.insert(key, value);
    }
    let mut violations = Violations::new();
    let unchecked = Unchecked {
        actor_id,
        provider_id,
        contract_id,
        link_name,
        values: values.iter().map(|(key, value)| (*key, *value)),
    };
    let checked = unchecked.check("link_definition", &mut violations);
    assert_told(checked.as_ref(), &violations);
    let Some((id, link)) = checked else {
        return;
    };
    assert!(link.values.iter().eq(values));
    let mut violations = Violations::new();
    let unchecked = Unchecked {
        actor_id: &id.actor_id,
        provider_id: &link.provider_id,
        contract_id: &id.contract_id,
        link_name: &id.link_name,
        values: link.values.iter().collect::<Vec<_>>().into_iter(),
    };
    let again = unchecked.check("link_definition", &mut violations);
    assert_eq!(again, Some((id.clone(), link.clone())));

    let (key, entry) = (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link));
    let body = cache_stream::put_body(&key, &entry).expect("a link");
    let stored = cache_stream::decode(&assert_home(&key), &body);
    assert_eq!(
        stored,
        Decoded::Put {
            key,
            entry,
            is_plain: true
        }
    );
});
