//! What was asked for and what was answered, one record an operation; kept as JSON where a check fails.

use serde::{Deserialize, Serialize};

/// Names an operation; what it writes holds it, so that a value tells who wrote it.
pub type OpId = u64;

/// One operation on one key, all its attempts together.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Op {
    pub id: OpId,
    pub key: usize,
    pub action: Action,
    pub condition: Condition,
    /// When the first attempt began, microseconds since the round did.
    pub began: u64,
    /// When the last one was answered.
    pub ended: u64,
    pub attempts: u32,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Action {
    Put,
    Delete,
    /// A fully consistent read.
    Get,
    /// A raw publish to the home subject, as a host's overwrites.
    ForeignPut,
    ForeignDelete,
    /// The stream was lost, purged or deleted by a fault.
    Loss,
}

/// What a write asked of the state before it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Condition {
    None,
    /// The etag of what this operation wrote.
    Is(OpId),
    Exists,
    Absent,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// Acknowledged, at this sequence.
    Wrote { sequence: u64, how: How },
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

/// A message that the stream took, as its tap told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stored {
    pub sequence: u64,
    pub message_id: Option<String>,
    /// Who wrote it, where the value tells.
    pub op: Option<OpId>,
    /// Microseconds since the round began.
    pub heard: u64,
}

/// Everything that one round left behind.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct History {
    pub seed: u64,
    pub topology: String,
    pub faults: Vec<String>,
    pub ops: Vec<Op>,
    pub stored: Vec<Stored>,
    /// What stands in the end, by key, as each gateway tells it.
    pub standing: Vec<Vec<Option<(OpId, u64)>>>,
    /// The same as the hosts' loader folds the stream.
    pub folded: Vec<Option<OpId>>,
}

impl History {
    /// Whether an earlier attempt may have been applied to a stream that was lost before the last one was answered: with
    /// the stream went every trace of it.
    pub fn may_be_lost(&self, op: &Op) -> bool {
        let mut losses = self.ops.iter().filter(|op| op.action == Action::Loss);
        op.attempts > 1 && losses.any(|loss| loss.began <= op.ended && op.began <= loss.ended)
    }

    /// Whether the stream was lost during the round, so that sequences begin anew.
    pub fn has_loss(&self) -> bool {
        self.ops.iter().any(|op| op.action == Action::Loss)
    }
}
