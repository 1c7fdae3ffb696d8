//! What was asked for and what was answered, one record an operation; kept as JSON where a check fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{
    audit::{Attempt, Record},
    calls::Line,
    world::Layout,
};

/// Names an operation; what it writes holds it, so that a value tells who wrote it.
pub type OpId = u64;

/// One operation on one key, all its attempts together.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Op {
    pub id: OpId,
    pub key: usize,
    pub action: Action,
    /// What it writes, where that is not its own id: what another operation wrote, once more.
    #[serde(default)]
    pub value: Option<OpId>,
    pub condition: Condition,
    /// When the first attempt began, microseconds since the round did.
    pub began: u64,
    /// When the last one was answered.
    pub ended: u64,
    pub attempts: u32,
    /// Where it was sent, if by a call of several and just once.
    #[serde(default)]
    pub line: Option<Line>,
    pub outcome: Outcome,
    /// Of a refusal behind an attempt whose caller hung up: that one may have been under way elsewhere, and been applied
    /// then, which makes the outcome unknown.
    #[serde(default)]
    pub open: Option<Open>,
}

/// When an attempt that nobody waits for may be applied.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Open {
    /// Since the attempt that was refused began: it knew of all that had been stored by then.
    pub from: u64,
    /// Until its own deadline.
    pub until: u64,
}

impl Op {
    /// What the key holds once it is applied.
    pub fn written(&self) -> Option<OpId> {
        match self.action {
            Action::Put | Action::ForeignPut => Some(self.value.unwrap_or(self.id)),
            Action::Delete | Action::ForeignDelete | Action::Loss | Action::Get => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Action {
    Put,
    Delete,
    /// A fully consistent read.
    Get,
    /// A raw publish to the home subject, as a host's overwrites. Not of a link that shares a record.
    ForeignPut,
    ForeignDelete,
    /// The stream was lost, purged or deleted by a fault.
    Loss,
}

/// What a write asked of the state before it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Condition {
    None,
    /// The etag of what this operation wrote. Of a link in a shared record it is of its content: it holds whoever wrote
    /// that.
    Is(OpId),
    Exists,
    Absent,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Acknowledged, at this sequence.
    Wrote {
        sequence: u64,
        how: How,
        /// Told that something else was written to the entry since.
        #[serde(default)]
        is_superseded: bool,
    },
    /// The state was as asked already.
    Unchanged,
    /// What stood, and at which sequence.
    Read(Option<(OpId, u64)>),
    /// The condition did not hold.
    Refused,
    /// `OUTCOME_SUPERSEDED`.
    Superseded,
    /// Given up on while it may have been applied.
    Unknown,
    /// Given up on, every attempt answered with a reason that says *not applied*.
    NotApplied,
    /// It happened, between its beginning and its end.
    Done,
    /// An answer that nothing explains.
    Absurd(String),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum How {
    Applied,
    AlreadyApplied,
}

/// What is known of the entries of a kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub enum Kind {
    #[default]
    Link,
    /// Several are one record, with one revision.
    InterfaceLink,
    Config,
    Claims,
    Reference,
}

/// A message that a stream took, as its tap told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Stored {
    #[serde(default)]
    pub subject: String,
    pub sequence: u64,
    /// Where the message before it on its subject is; 0 for none.
    #[serde(default)]
    pub previous: u64,
    /// When the stream stored it, Unix nanoseconds.
    #[serde(default)]
    pub unix_nanos: i128,
    pub message_id: Option<String>,
    /// The calls that made it, as its evidence tells; none of a foreign one.
    #[serde(default)]
    pub calls: Vec<Call>,
    /// Who wrote it, where the value tells.
    pub op: Option<OpId>,
    /// Of a shared record: what it holds, by key.
    #[serde(default)]
    pub record: Option<BTreeMap<usize, OpId>>,
    /// Microseconds since the round began.
    pub heard: u64,
}

/// A call as evidence names it, in hexadecimal.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Call {
    pub id: String,
    /// In a shared record: which entry it was for.
    pub entry: String,
}

pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Everything that one round left behind.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct History {
    pub seed: u64,
    pub topology: String,
    #[serde(default)]
    pub layout: Layout,
    /// Whether stand-ins for hosts wrote shared records.
    #[serde(default)]
    pub has_hosts: bool,
    /// Their writes.
    #[serde(default)]
    pub host_writes: u64,
    /// By key.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// How evidence in a shared record names the entry, by key.
    #[serde(default)]
    pub short_hashes: Vec<Option<String>>,
    pub faults: Vec<String>,
    pub ops: Vec<Op>,
    pub stored: Vec<Stored>,
    /// What stands in the end, by key, as each gateway tells it.
    pub standing: Vec<Vec<Option<(OpId, u64)>>>,
    /// The same as the hosts' loader folds the stream.
    pub folded: Vec<Option<OpId>>,
    /// The keys behind the first so many have one writer each.
    #[serde(default = "all")]
    pub contended: usize,
    /// What callers tried to change.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What was recorded of that, by gateway.
    #[serde(default)]
    pub audited: Vec<Vec<Record>>,
    #[serde(skip)]
    pub losses: OnceLock<Vec<Op>>,
}

fn all() -> usize {
    usize::MAX
}

/// Whether a message was stored while the stream was being lost, or shortly before or after.
fn is_heard_during(loss: &Op, message: &Stored) -> bool {
    const HEARD_WITHIN: u64 = 1_000_000;
    (loss.began..=loss.ended + HEARD_WITHIN).contains(&message.heard)
}

impl History {
    pub fn kind(&self, key: usize) -> Kind {
        self.kinds.get(key).copied().unwrap_or_default()
    }

    pub fn losses(&self) -> impl Iterator<Item = &Op> {
        let losses = || self.ops.iter().filter(|op| op.action == Action::Loss);
        self.losses.get_or_init(|| losses().cloned().collect()).iter()
    }

    /// Whether the stream may have been lost at some time between two moments.
    pub fn is_lost_between(&self, from: u64, to: u64) -> bool {
        self.losses().any(|loss| from <= loss.ended && loss.began <= to)
    }

    /// Whether what stood on a key, or came just then, outlived a purge, which only a cluster lets happen.
    pub fn outlives(&self, loss: &Op, key: usize) -> bool {
        match self.kind(key) {
            Kind::InterfaceLink => self.comes_back(loss, key),
            Kind::Link | Kind::Config | Kind::Claims | Kind::Reference => self.is_spared(loss, key),
        }
    }

    /// Whether an entry was replaced while a purge was under way, and what replaced it stayed. In a cluster a purge takes
    /// what was there when it was proposed, and what is stored before it is applied still finds that.
    fn is_spared(&self, loss: &Op, key: usize) -> bool {
        let puts = self
            .ops
            .iter()
            .filter(|op| op.key == key)
            .map(|op| op.id)
            .collect::<BTreeSet<_>>();
        let is_put = |message: &&Stored| message.op.is_some_and(|op| puts.contains(&op));
        let put = self.stored.iter().filter(is_put);
        // Deletes are on them too.
        let subjects = put.map(|message| &message.subject).collect::<BTreeSet<_>>();
        let stays = |message: &Stored| {
            let stands = self.standing.first().and_then(|standing| *standing.get(key)?);
            let is_replaced = |later: &Stored| {
                (&later.subject, later.previous) == (&message.subject, message.sequence)
                    && later.unix_nanos > message.unix_nanos
            };
            stands.is_some_and(|(_, sequence)| sequence == message.sequence)
                || self.stored.iter().any(is_replaced)
        };
        let heard = self
            .stored
            .iter()
            .filter(|message| is_heard_during(loss, message));
        let meanwhile = heard
            .filter(|message| subjects.contains(&message.subject))
            .collect::<Vec<_>>();
        let last = meanwhile.iter().max_by_key(|message| message.unix_nanos);
        self.is_of_a_cluster()
            && meanwhile.iter().all(|message| message.previous != 0)
            && last.is_some_and(|message| stays(message))
    }

    /// Whether a link is in a record that an edit of another link wrote while a purge was under way. In a cluster the leader
    /// checks what a publish expects before a purge that is under way has been applied (`tests/it/facts.rs`), so that the
    /// record comes back with all its links.
    fn comes_back(&self, loss: &Op, key: usize) -> bool {
        let brings_back = |message: &Stored| {
            self.is_written_over_nothing(message)
                && is_heard_during(loss, message)
                && message
                    .record
                    .as_ref()
                    .is_some_and(|record| record.contains_key(&key))
                && message
                    .calls
                    .iter()
                    .all(|call| Some(&call.entry) != self.short_hashes[key].as_ref())
        };
        self.stored.iter().any(brings_back)
    }

    /// Whether a gateway's publish found nothing on its subject in a cluster.
    fn is_written_over_nothing(&self, message: &Stored) -> bool {
        self.is_of_a_cluster() && message.previous == 0 && !message.calls.is_empty()
    }

    fn is_of_a_cluster(&self) -> bool {
        self.topology.starts_with("R3")
    }

    /// What the streams took, each message once, in the order of its subject.
    pub fn stored_once_each(&self) -> Vec<&Stored> {
        let mut seen = BTreeSet::new();
        let mut stored = self.stored.iter().collect::<Vec<_>>();
        stored.sort_by_key(|stored| stored.heard);
        stored.retain(|stored| seen.insert((&stored.subject, stored.sequence, stored.unix_nanos)));
        stored.sort_by_key(|stored| (&stored.subject, stored.unix_nanos, stored.sequence));
        stored
    }

    /// Whether an earlier attempt may have been applied to a stream that was lost before the last one was answered: with
    /// the stream went every trace of it. What is refused is known not to have been.
    pub fn may_be_lost(&self, op: &Op) -> bool {
        op.attempts > 1 && op.outcome != Outcome::Refused && self.is_lost_between(op.began, op.ended)
    }

    /// Whether the stream was lost during the round, so that sequences begin anew.
    pub fn has_loss(&self) -> bool {
        self.losses().next().is_some()
    }
}
