//! A message of the stream, from anyone: what is read is written again, and then reads the same; and what of it goes
//! out on other subjects makes no others of them.
//!
//! An input is the subject's tokens, a newline and the body.

#![no_main]

use lattice_gateway::{
    domain::{Entry, EntryKey, LatticeName},
    store::layout::{
        Decoded, cache_stream,
        effects::{self, Envelope, LinkChange},
    },
    support::assert_subject,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let newline = input
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(input.len());
    let (tokens, body) = input.split_at(newline);
    let Ok(tokens) = str::from_utf8(tokens) else {
        return;
    };
    match cache_stream::decode(tokens, body.get(1..).unwrap_or_default()) {
        Decoded::Malformed(why) => assert!(!why.is_empty()),
        Decoded::Put { key, entry, .. } => put(tokens, key, entry),
        Decoded::Deleted { key, entry } => deleted(tokens, key, entry),
    }
});

fn put(tokens: &str, key: EntryKey, mut entry: Entry) {
    let body = cache_stream::put_body(&key, &entry).expect("key and entry are of one kind");
    // Hosts may have none; the gateway always writes one.
    if let Entry::Claims(claims) = &mut entry {
        claims.version.get_or_insert_default();
    }
    tell(&key, &entry, LinkChange::Put);
    let home = home(&key, tokens);
    let again = Decoded::Put {
        key,
        entry,
        is_plain: true,
    };
    assert_eq!(cache_stream::decode(&home, &body), again);
}

fn deleted(tokens: &str, key: EntryKey, entry: Entry) {
    let body = cache_stream::delete_body(&key, &entry).expect("only links are deleted");
    tell(&key, &entry, LinkChange::Deleted);
    let home = home(&key, tokens);
    assert_eq!(
        cache_stream::decode(&home, &body),
        Decoded::Deleted { key, entry }
    );
}

/// Its home, or where it was found: a key that no caller could send may have none.
fn home(key: &EntryKey, found: &str) -> String {
    match cache_stream::home(key) {
        None => found.to_owned(),
        Some(home) => {
            assert_subject(&home, 2);
            home
        }
    }
}

fn tell(key: &EntryKey, entry: &Entry, change: LinkChange) {
    let lattice = LatticeName::parse("default").expect("a name");
    let envelope = Envelope {
        id: "1",
        source: "N",
        time: "2026-01-01T00:00:00Z",
    };
    let (notice, event) = match (key, entry) {
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) => (
            effects::link_notice(change, &lattice, id, link),
            effects::link_event(change, &lattice, envelope, id, link),
        ),
        (EntryKey::OciReference(url), Entry::OciReference(reference)) => {
            (None, effects::reference_event(&lattice, envelope, url, reference))
        }
        _ => return,
    };
    assert_subject(&event.expect("an event can always be written").subject, 3);
    if let Some(notice) = notice {
        assert_subject(&notice.subject, 7);
    }
}
