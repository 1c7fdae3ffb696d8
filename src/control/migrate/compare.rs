//! What of a stream the bucket lacks or has otherwise. Pure.
//!
//! Whatever is younger in the bucket than in the stream was not put there by a migration, and is never touched.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use crate::{
    control::decide::{Desired, Precondition},
    domain::{Entry, EntryKey, Etag, Kind},
    store::{
        layout::{ClaimsForm, Decoded, Part},
        mirror::{Contents, Squatter, Standing, View, Winner},
    },
};

/// The kinds that both layouts keep.
const KINDS: [Kind; 3] = [Kind::Claims, Kind::LinkDefinition, Kind::OciReference];

/// What is to become of an entry in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is put.
    Create,
    /// It is put in the place of an older state.
    Replace,
    /// It is deleted, since it was deleted from the stream after it was moved.
    Delete,
}

impl Action {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

/// Why an entry that differs is not touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The bucket's is younger.
    Younger,
    /// The bucket alone has it, and nobody deleted it from the stream since.
    BucketAlone,
    /// Something that hosts cannot use is in its place.
    Unusable,
    /// Another link has the same key in a bucket.
    SameKey,
    /// Its key cannot be one of a bucket.
    NoKey,
    /// It is larger than what the bucket takes.
    TooLarge,
}

impl Kept {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Younger => "was written or deleted in the bucket after it was written in the stream",
            Self::BucketAlone => {
                "is in the bucket alone, and was not deleted from the stream since it was put there"
            }
            Self::Unusable => "what is under its key in the bucket cannot be used by hosts",
            Self::SameKey => "another link has the same key in a bucket; delete one of them from the stream",
            Self::NoKey => "its key cannot be the key of an entry in a bucket",
            Self::TooLarge => "is larger than what the bucket takes",
        }
    }
}

/// One write to the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: EntryKey,
    pub(super) action: Action,
    pub(super) desired: Desired,
    pub(super) body: Bytes,
    /// The bucket is as it was compared.
    pub(super) precondition: Precondition,
}

/// The differences.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) changes: Vec<Change>,
    pub(super) kept: Vec<(EntryKey, Kept)>,
    pub(super) unchanged: usize,
}

impl Compared {
    /// What is to become of each entry.
    pub(super) fn actions(&self) -> Vec<(EntryKey, Action)> {
        let changes = self.changes.iter();
        changes
            .map(|change| (change.key.clone(), change.action))
            .collect()
    }

    /// Leaves alone what the bucket refused.
    pub(super) fn keep(&mut self, refused: &BTreeMap<EntryKey, Kept>) {
        self.changes.retain(|change| !refused.contains_key(&change.key));
        self.kept
            .extend(refused.iter().map(|(key, kept)| (key.clone(), *kept)));
    }

    fn note(&mut self, key: &EntryKey, judged: Judged) {
        match judged {
            Judged::Same => self.unchanged += 1,
            Judged::Kept(kept) => self.kept.push((key.clone(), kept)),
            Judged::Change(change) => self.changes.push(change),
        }
    }
}

enum Judged {
    Same,
    Kept(Kept),
    Change(Change),
}

/// Compares a stream with the bucket; with one that is empty where there is none.
pub(super) fn compare(source: &Contents, target: Option<&Contents>, form: ClaimsForm) -> Compared {
    let mut compared = Compared::default();
    let mut homes = HashSet::new();
    let standing = || KINDS.into_iter().flat_map(|kind| source.standing(kind, None));
    for (key, standing) in standing() {
        let view = target.map_or_else(View::of_nothing, |target| target.view(key, [0; 8]));
        let judged = match InBucket::of(key, &standing.entry, form) {
            None => Judged::Kept(Kept::NoKey),
            Some(wanted) if !homes.insert(wanted.home.clone()) => Judged::Kept(Kept::SameKey),
            Some(wanted) => judge(key, &wanted, &standing, &view),
        };
        compared.note(key, judged);
    }
    let held = target.into_iter();
    let held = held.flat_map(|target| KINDS.into_iter().flat_map(|kind| target.standing(kind, None)));
    for (key, standing) in held {
        let winner = source.winner(key);
        if winner.as_ref().and_then(Winner::standing).is_none() {
            compared.note(key, judge_surplus(key, winner.as_ref(), &standing));
        }
    }
    compared
}

/// An entry as a bucket keeps it.
struct InBucket {
    home: String,
    body: Bytes,
    /// What is read of the body.
    entry: Entry,
}

impl InBucket {
    fn of(key: &EntryKey, entry: &Entry, form: ClaimsForm) -> Option<Self> {
        let home = Part::Kv.home(key)?;
        let body = Part::Kv.put_body(key, entry, form)?;
        match Part::Kv.decode(&home, false, &body) {
            Decoded::Put { key: read, entry, .. } if read == *key => Some(Self { home, body, entry }),
            Decoded::Put { .. }
            | Decoded::Deleted { .. }
            | Decoded::DeletedUnnamed
            | Decoded::Nothing
            | Decoded::Malformed(_) => None,
        }
    }
}

/// Judges an entry that stands in the stream.
fn judge(key: &EntryKey, wanted: &InBucket, standing: &Standing, view: &View) -> Judged {
    match &view.squatter {
        Some(Squatter::Entry(_)) => return Judged::Kept(Kept::SameKey),
        Some(Squatter::Unusable) => return Judged::Kept(Kept::Unusable),
        None => {}
    }
    let put = |action, precondition| {
        Judged::Change(Change {
            key: key.clone(),
            action,
            desired: Desired::Entry(wanted.entry.clone().into()),
            body: wanted.body.clone(),
            precondition,
        })
    };
    let Some(winner) = &view.winner else {
        return put(Action::Create, Precondition::MustNotExist);
    };
    match winner.standing() {
        Some(held) if *held.entry == wanted.entry => Judged::Same,
        _ if !is_younger(standing.unix_nanos, winner.unix_nanos) => Judged::Kept(Kept::Younger),
        Some(held) => put(Action::Replace, Precondition::Etag(held.etag)),
        None => put(Action::Create, Precondition::MustNotExist),
    }
}

/// Judges an entry that stands in the bucket alone.
fn judge_surplus(key: &EntryKey, in_stream: Option<&Winner>, held: &Standing) -> Judged {
    let was_deleted = in_stream.is_some_and(|gone| is_younger(gone.unix_nanos, held.unix_nanos));
    if !was_deleted {
        return Judged::Kept(Kept::BucketAlone);
    }
    let etag: Etag = held.etag;
    Judged::Change(Change {
        key: key.clone(),
        action: Action::Delete,
        desired: Desired::Absent { allow_missing: true },
        body: Bytes::new(),
        precondition: Precondition::Etag(etag),
    })
}

/// By the times at which both were stored. Where one is not known it is not.
fn is_younger(in_stream: Option<i64>, in_bucket: Option<i64>) -> bool {
    in_stream
        .zip(in_bucket)
        .is_some_and(|(stream, bucket)| stream > bucket)
}

#[cfg(test)]
mod tests;
