//! Hashes over several parts, and what is kept of them.

use sha2::{Digest, Sha256};

/// A SHA-256 over parts that cannot run into each other: each stands behind its length, 8 bytes big-endian.
#[derive(Clone, Debug, Default)]
pub struct LengthPrefixed(Sha256);

impl LengthPrefixed {
    /// Adds a part.
    pub fn bytes(&mut self, part: &[u8]) {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.0.update(length.to_be_bytes());
        self.0.update(part);
    }

    /// Adds a part.
    pub fn text(&mut self, part: &str) {
        self.bytes(part.as_bytes());
    }

    /// The hash.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The first 8 bytes of a hash.
pub fn first_8(hash: &[u8; 32]) -> [u8; 8] {
    let (first, _) = hash.split_first_chunk().unwrap_or((&[0; 8], &[]));
    *first
}
