//! A message of a stream or a bucket, from anyone: what is read is written again, and then reads the same; and what of it
//! goes out on other subjects makes no others of them.
//!
//! An input is the subject's tokens, a newline and the body. It is read in every layout.

#![no_main]

use lattice_gateway::{
    domain::{Entry, EntryKey, LatticeName},
    store::layout::{
        ClaimsForm, Decoded, Part, Removal,
        effects::{self, Envelope, LinkChange},
    },
    support::{assert_bucket_key, assert_subject},
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
    let body = body.get(1..).unwrap_or_default();
    for part in [Part::CacheStream, Part::Kv, Part::Component, Part::Configs] {
        match part.decode(tokens, false, body) {
            Decoded::Malformed(why) => assert!(!why.is_empty()),
            Decoded::Put { key, entry, .. } => put(part, tokens, key, entry),
            Decoded::Deleted { key, entry } => deleted(part, tokens, key, entry),
            Decoded::DeletedUnnamed => panic!("only a marker does not name its entry"),
            Decoded::Nothing => {}
        }
        if part.is_bucket() {
            let marker = part.decode(tokens, true, body);
            assert!(!matches!(marker, Decoded::Put { .. } | Decoded::Malformed(_)));
        }
    }
});

fn put(part: Part, tokens: &str, key: EntryKey, mut entry: Entry) {
    let body = part.put_body(&key, &entry, ClaimsForm::Short);
    let body = body.expect("key and entry are of one kind");
    // Hosts may have none; the gateway always writes one.
    if let Entry::Claims(claims) = &mut entry {
        claims.version.get_or_insert_default();
    }
    if part == Part::CacheStream {
        tell(&key, &entry, LinkChange::Put);
    }
    // Whose claims they are, later hosts tell by their members, and the gateway writes by their key.
    if part == Part::Component && key.parts().first() == Some(&"claims") {
        return;
    }
    let home = home(part, &key, tokens);
    let again = Decoded::Put {
        key,
        entry,
        is_plain: true,
    };
    assert_eq!(part.decode(&home, false, &body), again);
}

fn deleted(part: Part, tokens: &str, key: EntryKey, entry: Option<Entry>) {
    let entry = entry.expect("a tombstone tells what it ended");
    let Some(Removal::Tombstone(body)) = part.removal(&key, &entry) else {
        panic!("only links of the stream are deleted by a body");
    };
    tell(&key, &entry, LinkChange::Deleted);
    let home = home(part, &key, tokens);
    let entry = Some(entry);
    assert_eq!(part.decode(&home, false, &body), Decoded::Deleted { key, entry });
}

/// Its home, or where it was found: a key that no caller could send may have none.
fn home(part: Part, key: &EntryKey, found: &str) -> String {
    match part.home(key) {
        None => found.to_owned(),
        Some(home) => {
            match part.is_bucket() {
                true => assert_bucket_key(&home),
                false => assert_subject(&home, 2),
            }
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
