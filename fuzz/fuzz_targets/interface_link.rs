//! Interface links as callers give them: what passes is stored in its source's record so that it reads the same, beside
//! another link of the record.
//!
//! An input is the fields, separated by U+001F; the items of a list are separated by U+001E.

#![no_main]

use lattice_gateway::{
    domain::{
        ComponentRecord, Entry, EntryKey, InterfaceLink, InterfaceLinkId, Violations,
        interface_link::Unchecked,
    },
    store::layout::{ClaimsForm, Decoded, Part},
    support::{assert_bucket_key, assert_subject, assert_told, fields},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let [
        source_id,
        target,
        name,
        wit_namespace,
        wit_package,
        interfaces,
        source_config,
        target_config,
    ] = fields(input);
    let [interfaces, source_config, target_config] = [interfaces, source_config, target_config].map(items);
    let mut violations = Violations::new();
    let unchecked = Unchecked {
        source_id,
        target,
        name,
        wit_namespace,
        wit_package,
        interfaces: &interfaces,
        source_config: &source_config,
        target_config: &target_config,
    };
    let checked = unchecked.check("interface_link", &mut violations);
    assert_told(checked.as_ref(), &violations);
    let Some((id, link)) = checked else {
        return;
    };
    for part in id.parts() {
        assert_subject(part, 1);
    }
    let mut record = ComponentRecord::default();
    let other = InterfaceLinkId {
        name: "of another name that is longer than a link's can be"
            .repeat(3)
            .into(),
        ..id.clone()
    };
    record.put(&other, &InterfaceLink::default());
    record.put(&id, &link);
    assert_eq!(record.find(&id).map(|stored| &stored.link), Some(&link));
    assert!(record.conflict(&id, &link).is_none());
    let key = EntryKey::Component(id.source_id.clone());
    let entry = Entry::Component(Box::new(record));
    let home = Part::Component
        .home(&key)
        .expect("a strictly parsed source has a home");
    assert_bucket_key(&home);
    let body = Part::Component
        .put_body(&key, &entry, ClaimsForm::Short)
        .expect("a record");
    let stored = Part::Component.decode(&home, false, &body);
    let is_plain = true;
    assert_eq!(stored, Decoded::Put { key, entry, is_plain });
});

fn items(list: &str) -> Vec<String> {
    list.split_terminator('\u{1e}').map(str::to_owned).collect()
}
