//! References: what is accepted is kept exactly as given, and means the same to the parser of OCI's grammar after
//! it was printed.

#![no_main]

use lattice_gateway::{
    domain::{
        EntryKey, Violations,
        oci_reference::{OCI_URL_BYTES_MAX, Unchecked},
    },
    support::{ACTOR, assert_home, assert_told},
};
use libfuzzer_sys::fuzz_target;
use oci_spec::distribution::Reference;

fuzz_target!(|url: &str| {
    let check = |oci_url| {
        let mut violations = Violations::new();
        let unchecked = Unchecked {
            oci_url,
            public_key: ACTOR,
        };
        let checked = unchecked.check("oci_reference", &mut violations);
        assert_told(checked.as_ref(), &violations);
        checked
    };
    let Some((kept, reference)) = check(url) else {
        return;
    };
    assert_eq!((&*kept, &*reference.public_key), (url, ACTOR));
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(url.len() <= OCI_URL_BYTES_MAX);
    assert_home(&EntryKey::OciReference(kept));
    if url.starts_with("bindle://") {
        return;
    }
    let parsed = Reference::try_from(url).expect("what is accepted is in the grammar");
    let printed = parsed.to_string();
    assert_eq!(Reference::try_from(&*printed).as_ref(), Ok(&parsed));
    if printed.len() <= OCI_URL_BYTES_MAX {
        assert!(check(&printed).is_some(), "{printed:?}");
    }
});
