//! An entry that one writer has for itself, one operation after the other: what may stand is known after each, so that
//! every answer can be judged at once, however many there are.

use std::collections::BTreeSet;

use crate::{
    check::Violation,
    history::{Action, Condition, History, Kind, Op, OpId, Outcome},
};

/// What an entry may hold.
#[derive(Debug)]
pub struct Alone {
    /// One of these was left by the operations that were answered.
    possible: BTreeSet<Option<OpId>>,
    /// These may come at any time: of operations of which nobody could tell.
    pending: BTreeSet<Option<OpId>>,
}

impl Default for Alone {
    fn default() -> Self {
        Self {
            possible: BTreeSet::from([None]),
            pending: BTreeSet::new(),
        }
    }
}

impl Alone {
    /// The stream was lost, or purged, or perhaps not.
    fn lost(&mut self) {
        self.possible.insert(None);
    }

    /// Takes the next operation in; tells what cannot be.
    pub fn take(&mut self, op: &Op) -> Result<(), Violation> {
        let holds = |state: &Option<OpId>| match op.condition {
            Condition::None => true,
            Condition::Is(writer) => *state == Some(writer),
            Condition::Exists => state.is_some(),
            Condition::Absent => state.is_none(),
        };
        let states = self.possible.union(&self.pending).copied();
        let explaining = match &op.outcome {
            Outcome::Wrote { .. } => states.filter(holds).collect::<BTreeSet<_>>(),
            Outcome::Unchanged => states
                .filter(|state| holds(state) && *state == op.written())
                .collect(),
            Outcome::Refused => states.filter(|state| !holds(state)).collect(),
            Outcome::Read(read) => states.filter(|state| *state == read.map(|(op, _)| op)).collect(),
            Outcome::Superseded | Outcome::Unknown => {
                self.pending.insert(op.written());
                return Ok(());
            }
            Outcome::NotApplied | Outcome::Done | Outcome::Absurd(_) => return Ok(()),
        };
        if explaining.is_empty() {
            return Err(format!(
                "op {} ({:?}, {:?}) was answered {:?}, where one of {:?} stood",
                op.id, op.action, op.condition, op.outcome, self.possible
            ));
        }
        self.possible = match op.outcome {
            Outcome::Wrote { .. } => BTreeSet::from([op.written()]),
            _ => explaining,
        };
        Ok(())
    }

    fn may_hold(&self, value: Option<OpId>) -> bool {
        self.possible.contains(&value) || self.pending.contains(&value)
    }
}

/// Every answer on such a key is what its writer could expect, and so is what stands in the end.
pub fn check(history: &History) -> Vec<Violation> {
    let mut of_keys = vec![Vec::new(); history.folded.len()];
    for op in &history.ops {
        let is_alone = op.key >= history.contended && op.action != Action::Loss;
        if let Some(of_key) = of_keys.get_mut(op.key).filter(|_| is_alone) {
            of_key.push(op);
        }
    }
    let of_keys = of_keys.into_iter().enumerate().skip(history.contended);
    of_keys.flat_map(|(key, ops)| of_key(history, key, ops)).collect()
}

fn of_key(history: &History, key: usize, mut ops: Vec<&Op>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut alone = Alone::default();
    let mut since = 0;
    ops.sort_by_key(|op| op.began);
    for op in ops {
        if history.is_lost_between(since, op.ended) {
            alone.lost();
        }
        let is_refused_by_content = history.kind(key) == Kind::InterfaceLink
            && history.has_loss()
            && op.outcome == Outcome::Refused
            && matches!(op.condition, Condition::Is(_));
        // An etag of content from before a loss is refused though the same content stands.
        if !is_refused_by_content && let Err(wrong) = alone.take(op) {
            violations.push(format!("key {key}: {wrong}"));
        }
        if history.is_lost_between(op.began, op.ended) {
            alone.lost();
        }
        since = op.ended;
    }
    if history.is_lost_between(since, u64::MAX) {
        alone.lost();
    }
    let standing = history
        .standing
        .iter()
        .map(|standing| standing.get(key).copied().flatten());
    let standing = standing.map(|standing| standing.map(|(op, _)| op));
    let stands = standing
        .chain([history.folded[key]])
        .find(|stands| !alone.may_hold(*stands));
    if let Some(stands) = stands {
        violations.push(format!(
            "key {key}: {stands:?} stands, where one of {alone:?} should"
        ));
    }
    violations
}
