//! Revisions and etags: where and what a write was.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::{
    hash::{LengthPrefixed, first_8},
    invalid::Invalid,
};

/// One incarnation of a stream: the first 8 bytes of SHA-256(stream name, creation time).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Tells the epoch of the stream of this name, created at `created` (as JetStream writes it).
    pub fn of_stream(name: &str, created: &str) -> Self {
        let mut hash = LengthPrefixed::default();
        hash.text(name);
        hash.text(created);
        Self(u64::from_be_bytes(first_8(&hash.finish())))
    }

    /// As it stands in the API.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As it stands in the API.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A sequence within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The incarnation of the stream.
    pub epoch: Epoch,
    /// The stream sequence, from 1; 0 stands for "before anything".
    pub sequence: u64,
}

/// What distinguishes one write from another at the same revision, for the stream that is reset while its
/// creation time stays (memory streams of a cluster whose servers all restarted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 8]);

impl Tag {
    /// Of a message that carries no evidence of the gateway: the first 8 bytes of SHA-256(time, body).
    pub fn of_foreign(unix_nanos: i128, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(unix_nanos.to_be_bytes());
        hash.update(body);
        Self(first_8(&hash.finalize().into()))
    }
}

/// Identifies one state of one entry. Opaque to clients: quoted base64url(version, epoch, sequence, tag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag {
    /// Where the state was written.
    pub revision: Revision,
    /// Which write it was.
    pub tag: Tag,
}

const ETAG_VERSION: u8 = 1;
const ETAG_BYTES: usize = 25;

impl Etag {
    /// Parses what [`Etag::encode`] wrote.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        const REFUSAL: Invalid = Invalid::Rule(
            "is not an etag of this service; give back one exactly as it was answered, quotes included",
        );
        let inner = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
            .ok_or(REFUSAL)?;
        let bytes = BASE64URL_NOPAD
            .decode(inner.as_bytes())
            .map_err(|_malformed| REFUSAL)?;
        let bytes: [u8; ETAG_BYTES] = bytes.try_into().map_err(|_length| REFUSAL)?;
        let [ETAG_VERSION, rest @ ..] = bytes else {
            return Err(REFUSAL);
        };
        let (epoch, rest) = split_8(&rest);
        let (sequence, rest) = split_8(rest);
        let (tag, _) = split_8(rest);
        Ok(Self {
            revision: Revision {
                epoch: Epoch(u64::from_be_bytes(epoch)),
                sequence: u64::from_be_bytes(sequence),
            },
            tag: Tag(tag),
        })
    }

    /// Writes it as clients see it.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(ETAG_BYTES);
        bytes.push(ETAG_VERSION);
        bytes.extend(self.revision.epoch.0.to_be_bytes());
        bytes.extend(self.revision.sequence.to_be_bytes());
        bytes.extend(self.tag.0);
        format!("\"{}\"", BASE64URL_NOPAD.encode(&bytes))
    }
}

fn split_8(bytes: &[u8]) -> ([u8; 8], &[u8]) {
    let mut first = [0; 8];
    let (head, tail) = bytes.split_at(8.min(bytes.len()));
    first.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
    (first, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_reads_back_and_nothing_else_does() {
        let etag = Etag {
            revision: Revision {
                epoch: Epoch(7),
                sequence: 42,
            },
            tag: Tag([1, 2, 3, 4, 5, 6, 7, 8]),
        };
        let text = etag.encode();
        assert_eq!(text, "\"AQAAAAAAAAAHAAAAAAAAACoBAgMEBQYHCA\"");
        assert_eq!(Etag::parse(&text), Ok(etag));
        for hostile in ["", "\"", "\"\"", text.trim_matches('"'), "\"AgAA\"", "\"*\""] {
            assert!(Etag::parse(hostile).is_err(), "{hostile}");
        }
    }
}
