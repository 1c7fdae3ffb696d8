//! Where an era's hosts keep an entry, and in which form.
//!
//! A layout is the only place where a subject is formatted or parsed and where a body is written or read. The
//! one layout so far is [`cache_stream`], of wasmCloud hosts 0.50 to 0.59; [`effects`] is what their hosts tell others
//! of a write.

pub mod cache_stream;
pub mod effects;
mod first_wins;

use crate::domain::{Entry, EntryKey};

/// What a stored message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An entry as it stands since this message.
    Put {
        /// What identifies it.
        key: EntryKey,
        /// What it says.
        entry: Entry,
        /// Whether the message says just that. Not where hosts hold something else than the texts shown here.
        is_plain: bool,
    },
    /// A tombstone: the entry is absent since this message.
    Deleted {
        /// What identifies it.
        key: EntryKey,
        /// What it said, as far as the tombstone tells.
        entry: Entry,
    },
    /// A message that hosts cannot use, and why.
    Malformed(&'static str),
}
