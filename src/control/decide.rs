//! What a mutation does next, decided purely from what is known. No I/O, no clock.
//!
//! The order is the protocol: the id first, so that the retry of an applied call is recognised whatever else has
//! changed; then, for a retry, whether its outcome can still be known; then what ages (a token's times); then the
//! preconditions; then whether there is anything to do. An answer that publishes nothing is given only from a
//! *fresh* look, one that reached the last sequence that the leader told during this call; a publish needs none,
//! since its expectation catches a stale look.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{gate::Patience, intent::Intent, lattice::Lattice};
use crate::{
    domain::{
        Entry, EntryKey, Etag,
        claims_token::{TokenRefused, TrustedIssuers, Validity},
    },
    safeguard::Safeguard,
    store::{
        evidence::{Applied, Evidence},
        mirror::{Squatter, Standing, View},
    },
};

/// A mutation, as its caller asked for it.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The entry.
    pub key: Arc<EntryKey>,
    /// What it shall be.
    pub desired: Desired,
    /// The body that puts it; empty for a delete, whose body tells what stood.
    pub body: Bytes,
    /// What it is recognised by.
    pub intent: Intent,
    /// What must hold.
    pub precondition: Precondition,
    /// Whether to write at all.
    pub mode: Mode,
    /// Where the call is a retry.
    pub retry: Option<Retry>,
    /// What ages, of a claims token.
    pub validity: Option<Validity>,
    /// With so many entries in the lattice the caller adds none.
    pub entries_max: Option<u64>,
    /// Of an interface link: whichever target it has, where exactly one matches.
    pub any_target: bool,
    /// What else must hold of the lattice.
    pub condition: Condition,
    /// How it waits for its turn at the stream.
    pub patience: Patience,
    /// Cancelled once its caller has gone away.
    pub abandoned: CancellationToken,
}

impl Mutation {
    /// Whether the same call that comes again meanwhile shares this one's result: only what has a client's id can come
    /// again, and a rehearsal has a result of its own.
    pub fn is_joinable(&self) -> bool {
        !self.intent.stamp.generated && self.mode == Mode::Live
    }
}

/// A call whose earlier attempt may have been applied.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The time since the first attempt was sent, when this call arrived.
    pub age_at_arrival: Duration,
    /// When this call arrived: waiting here makes the first attempt no younger.
    pub arrived: Instant,
}

impl Retry {
    /// The time from when the first attempt was sent to a moment.
    pub fn age(self, moment: Instant) -> Duration {
        let since_arrival = moment.saturating_duration_since(self.arrived);
        self.age_at_arrival.saturating_add(since_arrival)
    }
}

/// What an entry shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// This.
    Entry(Arc<Entry>),
    /// Absent.
    Absent {
        /// Whether it may be absent already.
        allow_missing: bool,
    },
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// The entry has this etag.
    Etag(Etag),
    /// The entry exists.
    MustExist,
    /// The entry does not exist.
    MustNotExist,
}

/// What must hold of other entries for a write to happen.
#[derive(Clone, Debug, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The configs that the link names exist; in that stream, where there is one.
    ConfigsExist(Option<Arc<Lattice>>),
    /// No link names the config; in that stream.
    ConfigUnused(Arc<Lattice>),
}

/// Whether to write at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Live,
    /// Make every check and write nothing.
    ValidateOnly,
}

/// What is known besides the view.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The leader's clock (Unix milliseconds) where the view is fresh.
    pub fresh: Option<i64>,
    /// Of a call that may have been applied before: the time from its first attempt to when the leader's clock was told.
    pub first_attempt_age: Option<Duration>,
    /// Of a publish of this very call whose outcome is unknown: the sequence it expected.
    pub unknown_publish: Option<u64>,
    /// The gateway's wall clock, Unix seconds; for tokens alone.
    pub now_unix_seconds: i64,
    /// Whose tokens are trusted.
    pub trusted_issuers: &'a TrustedIssuers,
    /// What of [`Mutation::condition`] does not hold.
    pub unmet: Option<&'a Refusal>,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Look at the leader's state, then decide again.
    Refresh,
    /// Ask JetStream whether it remembers the id. Known: applied and superseded. Not known: nobody can tell.
    Probe,
    /// Publish.
    Publish(Publish),
    /// Answer without a publish.
    Answer(Answer),
    /// Refuse without a publish.
    Refuse(Refusal),
}

/// A publish that is due.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The sequence of the home message that it replaces; 0 for none.
    pub expected_sequence: u64,
    /// The evidence that it carries.
    pub evidence: Evidence,
    /// Of a delete: what stands.
    pub current: Option<Standing>,
    /// Whether the entry already stands as asked.
    pub is_unchanged: bool,
    /// Whether an earlier attempt may have been applied and have gone with the entry's record: should this one be
    /// refused, nothing says *not applied*.
    pub may_be_forgotten: bool,
}

/// An answer that needs no publish.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The call was applied before.
    AlreadyApplied(Applied),
    /// The entry stands as asked.
    Unchanged,
    /// A live call would be accepted.
    Validated,
}

/// Why a mutation is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request id came before with other content.
    RequestIdReused,
    /// The token has aged, or its issuer is not trusted.
    Token(TokenRefused),
    /// The entry has another etag, or is absent.
    EtagMismatch,
    /// The entry is absent.
    NotFound,
    /// The entry exists.
    Exists,
    /// This other entry holds what is asked for.
    Conflict(EntryKey),
    /// Several links match, with these targets.
    Ambiguous(Vec<Box<str>>),
    /// These configs are missing or unreadable.
    ConfigsMissing(Vec<Box<str>>),
    /// This link names the config.
    ConfigUsed(EntryKey),
}

/// Decides.
pub fn decide(mutation: &Mutation, view: &View, known: Known<'_>) -> Step {
    let stamp = mutation.intent.stamp;
    if let Some(applied) = view.applied {
        return fresh(known, || match applied.stamp.fingerprint == stamp.fingerprint {
            true => Step::Answer(Answer::AlreadyApplied(applied)),
            false => Step::Refuse(Refusal::RequestIdReused),
        });
    }
    let mut may_be_forgotten = false;
    if let Some(age) = known.first_attempt_age
        && known.unknown_publish != Some(view.home_sequence)
    {
        let Some(stream_now) = known.fresh else {
            return Step::Refresh;
        };
        may_be_forgotten = !view.is_complete_since(before(stream_now, age)) && Safeguard::ProbeRule.holds();
        // What went with the record is written again.
        if may_be_forgotten && !view.is_void() {
            return Step::Probe;
        }
    }
    let standing = view.standing();
    if let Some(refusal) = refusal(mutation, view, standing.as_ref(), known) {
        return fresh(known, || match may_be_forgotten {
            true => Step::Probe,
            false => Step::Refuse(refusal),
        });
    }
    if mutation.mode == Mode::ValidateOnly {
        return fresh(known, || Step::Answer(Answer::Validated));
    }
    let is_unchanged = match (&mutation.desired, &standing) {
        (Desired::Entry(desired), Some(standing)) => standing.is_plain && *desired == standing.entry,
        (Desired::Entry(_), None) | (Desired::Absent { .. }, Some(_)) => false,
        // A delete of nothing leaves no record: there is nothing that it could be stored in.
        (Desired::Absent { .. }, None) => return fresh(known, || Step::Answer(Answer::Unchanged)),
    };
    if is_unchanged && stamp.generated {
        return fresh(known, || Step::Answer(Answer::Unchanged));
    }
    Step::Publish(Publish {
        expected_sequence: view.home_sequence,
        evidence: Evidence {
            own: stamp,
            others: Vec::new(),
            past: view.past.clone(),
            began: view.is_void(),
        },
        current: standing,
        is_unchanged,
        may_be_forgotten,
    })
}

fn refusal(
    mutation: &Mutation,
    view: &View,
    standing: Option<&Standing>,
    known: Known<'_>,
) -> Option<Refusal> {
    if let Some(validity) = &mutation.validity
        && let Err(refused) = validity.check(known.now_unix_seconds, known.trusted_issuers)
    {
        return Some(Refusal::Token(refused));
    }
    match (&mutation.precondition, standing) {
        (Precondition::Etag(etag), Some(standing)) if is_same(etag, &standing.etag) => {}
        (Precondition::Etag(_), _) => return Some(Refusal::EtagMismatch),
        (Precondition::MustExist, None) => return Some(Refusal::NotFound),
        (Precondition::MustNotExist, Some(_)) => return Some(Refusal::Exists),
        (Precondition::MustExist | Precondition::MustNotExist | Precondition::None, _) => {}
    }
    match (&mutation.desired, standing, &view.squatter) {
        (Desired::Absent { allow_missing: false }, None, _) => Some(Refusal::NotFound),
        // In a bucket of hosts 0.60 to 0.82 two links can have one key.
        (Desired::Entry(_), _, Some(Squatter::Entry(other))) => Some(Refusal::Conflict((**other).clone())),
        (Desired::Absent { .. }, None, _) => None,
        (Desired::Absent { .. } | Desired::Entry(_), _, _) => known.unmet.cloned(),
    }
}

fn fresh(known: Known<'_>, step: impl FnOnce() -> Step) -> Step {
    match known.fresh {
        None if Safeguard::FreshMirror.holds() => Step::Refresh,
        Some(_) | None => step(),
    }
}

/// The tag tells states apart that have the same place in two lives of a stream.
fn is_same(asked: &Etag, standing: &Etag) -> bool {
    asked.revision == standing.revision && (asked.tag == standing.tag || !Safeguard::EtagTag.holds())
}

/// A moment so long before `now`, Unix milliseconds.
pub(super) fn before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
