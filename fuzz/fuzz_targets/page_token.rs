//! Page tokens: a list reads its own, each of them in one form only, and no other's.
//!
//! An input is the kind of the list (a byte) and what stands behind a token's binding; or a token; or a key.

#![no_main]

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::{
    control::page::Filter,
    domain::{EntryKey, Epoch, InterfaceLinkId, Kind, LatticeName, LinkId},
    support::fields,
};
use libfuzzer_sys::fuzz_target;

/// Version and binding.
const HEAD: usize = 9;

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    let filter = match kind % 5 {
        0 => Filter::new(Kind::Claims, &[""]),
        1 => Filter::new(Kind::OciReference, &["echo"]),
        2 => Filter::new(Kind::InterfaceLink, &["", "", "wasi", "http", ""]),
        3 => Filter::new(Kind::Config, &[""]),
        _ => Filter::new(Kind::LinkDefinition, &["M", "", "default"]),
    };
    let lattice = LatticeName::parse("default").expect("a name");
    let epoch = Epoch::from_number(5_565_915_333_644_390_046);
    let read = |token: &str| {
        let key = filter.parse(&lattice, epoch, token)?;
        assert_eq!(filter.token(&lattice, epoch, &key), token);
        assert_eq!(filter.parse(&lattice, Epoch::from_number(1), token), None);
        Some(key)
    };

    let own = filter.token(&lattice, epoch, &EntryKey::first_of(filter.kind()));
    let mut bound = BASE64URL_NOPAD.decode(own.as_bytes()).expect("a token");
    bound.truncate(HEAD);
    bound.extend(input);
    read(&BASE64URL_NOPAD.encode(&bound));
    if let Ok(text) = str::from_utf8(input) {
        read(text);
        let key = key(filter.kind(), text);
        assert_eq!(read(&filter.token(&lattice, epoch, &key)), Some(key));
    }
});

fn key(kind: Kind, text: &str) -> EntryKey {
    match kind {
        Kind::Claims => EntryKey::Claims(text.into()),
        Kind::OciReference => EntryKey::OciReference(text.into()),
        Kind::LinkDefinition => {
            let [actor, contract, name] = fields(text);
            EntryKey::LinkDefinition(LinkId::new(actor, contract, name))
        }
        Kind::InterfaceLink => {
            let [source_id, name, wit_namespace, wit_package, target] = fields(text).map(Into::into);
            EntryKey::InterfaceLink(InterfaceLinkId {
                source_id,
                name,
                wit_namespace,
                wit_package,
                target,
            })
        }
        Kind::Config => EntryKey::Config(text.into()),
        Kind::Component => EntryKey::Component(text.into()),
    }
}
