//! The header of a message: what is read is written again the same, and a call that is added is found.

#![no_main]

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::store::evidence::{Evidence, SHARED_RING_MAX, Stamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    header(input);
    header(BASE64URL_NOPAD.encode(input).as_bytes());
});

fn header(text: &[u8]) {
    const BYTES_MAX: usize = 22 + SHARED_RING_MAX * (25 + 24 + 10 + 10);
    let Some(evidence) = Evidence::decode(text) else {
        return;
    };
    let written = evidence.encode();
    assert!(written.len() <= BYTES_MAX * 4 / 3 + 1);
    assert_eq!(Evidence::decode(written.as_bytes()).as_ref(), Some(&evidence));

    // As the next write on the entry carries it.
    let (sequence, unix_millis) = (4_000_000_000, 1_790_000_000_000);
    let next = Evidence {
        own: Stamp {
            id: *b"the next",
            fingerprint: *b"another ",
            generated: evidence.own.generated,
            entry: evidence.own.entry,
        },
        others: Vec::new(),
        past: evidence.clone().into_past(sequence, unix_millis),
        began: false,
    };
    let found = next.past.find(evidence.own.id);
    match found {
        Some(found) => assert_eq!((found.stamp, found.sequence), (evidence.own, sequence)),
        None => assert!(
            evidence.own.generated,
            "only an id that the gateway made may go at once"
        ),
    }
    // Its text and not all of it: a horizon of 1970 is written as none.
    let written = next.encode();
    let again = Evidence::decode(written.as_bytes()).expect("the gateway's own");
    assert_eq!((again.own, again.past.find(evidence.own.id)), (next.own, found));
    assert_eq!(again.encode(), written);
}
