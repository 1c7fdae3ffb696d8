//! Etags: every text that parses is the one text of that etag.

#![no_main]

use lattice_gateway::domain::{Epoch, Etag, Revision, revision::Tag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = str::from_utf8(input)
        && let Ok(etag) = Etag::parse(text)
    {
        assert_eq!(etag.encode(), text);
    }
    if let Some((numbers, [])) = input.as_chunks::<8>().0.split_first_chunk::<3>() {
        let [epoch, sequence, tag] = *numbers;
        let etag = Etag {
            revision: Revision {
                epoch: Epoch::from_number(u64::from_be_bytes(epoch)),
                sequence: u64::from_be_bytes(sequence),
            },
            tag: Tag(tag),
        };
        assert_eq!(Etag::parse(&etag.encode()), Ok(etag));
    }
});
