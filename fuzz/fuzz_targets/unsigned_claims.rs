//! Claims without a signature, as callers of `dev` give them: what passes is stored so that it reads the same, and its
//! lists come apart as they were given.
//!
//! An input is the fields, separated by U+001F; the items of a list are separated by U+001E.

#![no_main]

use lattice_gateway::{
    domain::{Entry, EntryKey, Violations, claims::Unchecked},
    store::layout::{ClaimsForm, Decoded, Part},
    support::{assert_home, assert_told, fields},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let [
        public_key,
        issuer,
        name,
        call_alias,
        capabilities,
        tags,
        revision,
        version,
        contract_id,
        config_schema,
    ] = fields(input);
    let (capabilities, tags) = (items(capabilities), items(tags));
    let mut violations = Violations::new();
    let unchecked = Unchecked {
        public_key,
        issuer,
        name,
        call_alias,
        capabilities: &capabilities,
        tags: &tags,
        revision,
        version,
        contract_id,
        config_schema,
    };
    let checked = unchecked.check("claims", &mut violations);
    assert_told(checked.as_ref(), &violations);
    let Some((key, claims)) = checked else {
        return;
    };
    assert_eq!(key.as_str(), public_key);
    assert_eq!(apart(&claims.capabilities), capabilities);
    assert_eq!(apart(&claims.tags), tags);
    assert!(claims.revision.parse::<i32>().is_ok_and(|number| number >= 0));

    let key = EntryKey::Claims(key.as_str().into());
    let entry = Entry::Claims(Box::new(claims));
    assert_home(&key);
    for part in [Part::CacheStream, Part::Kv, Part::Component] {
        // Refused where the layout would not keep all of it; from a token it is kept as far as it can be.
        let as_given = part.kept(&key, entry.clone(), false);
        let entry = part
            .kept(&key, entry.clone(), true)
            .expect("nothing of a token is refused");
        if let Ok(as_given) = as_given {
            assert_eq!(as_given, entry);
        }
        for form in [ClaimsForm::Short, ClaimsForm::Long] {
            let body = part.put_body(&key, &entry, form).expect("claims");
            let home = part.home(&key).expect("a strictly parsed key has a home");
            let stored = Decoded::Put {
                key: key.clone(),
                entry: entry.clone(),
                is_plain: true,
            };
            let is_lossless = form == ClaimsForm::Short || public_key.starts_with('M');
            if is_lossless || part != Part::Kv {
                assert_eq!(part.decode(&home, false, &body), stored);
            }
        }
    }
});

fn items(list: &str) -> Vec<String> {
    list.split_terminator('\u{1e}').map(str::to_owned).collect()
}

fn apart(joined: &str) -> Vec<&str> {
    joined.split_terminator(',').collect()
}
