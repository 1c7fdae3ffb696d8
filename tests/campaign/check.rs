//! What every history is held against.
//!
//! Two checks of order that know nothing of each other: the stream's own order ([`by_sequence`]), which is exact but
//! ends with the stream, and a search for any order at all that explains the answers ([`linearizable`], Wing and Gong's
//! with Lowe's cache), which holds across a loss of the stream too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    time::Duration,
};

use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action as Step, History as Steps},
    },
    specifications::Specification,
};

use crate::history::{Action, Condition, History, How, Op, OpId, Outcome};

/// How long the search may take for one key.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);

/// What a check found wrong.
pub type Violation = String;

/// Every check; and the keys for which the search was given up.
pub fn all(history: &History) -> (Vec<Violation>, usize) {
    let mut violations = [
        absurd(history),
        not_applied_is_nowhere(history),
        stored_once(history),
        standing_is_one(history),
    ]
    .concat();
    if !history.has_loss() {
        violations.extend(by_sequence(history));
    }
    let mut undecided = 0;
    for key in 0..history.folded.len() {
        match linearizable(history, key) {
            Some(true) => {}
            Some(false) => violations.push(format!(
                "key {key}: no order of the operations explains the answers"
            )),
            None => undecided += 1,
        }
    }
    (violations, undecided)
}

fn absurd(history: &History) -> Vec<Violation> {
    let told = |op: &Op| match &op.outcome {
        Outcome::Absurd(answer) => Some(format!("op {}: {answer}", op.id)),
        _ => None,
    };
    history.ops.iter().filter_map(told).collect()
}

/// What said *not applied* is never seen: not stored, not read, not standing.
fn not_applied_is_nowhere(history: &History) -> Vec<Violation> {
    let seen = seen(history);
    history
        .ops
        .iter()
        .filter(|op| matches!(op.outcome, Outcome::NotApplied | Outcome::Refused) && op.action == Action::Put)
        .filter(|op| seen.contains(&op.id) && !history.may_be_lost(op))
        .map(|op| format!("op {}: told as not applied ({:?}), and seen", op.id, op.outcome))
        .collect()
}

fn seen(history: &History) -> BTreeSet<OpId> {
    let read = history.ops.iter().filter_map(|op| match op.outcome {
        Outcome::Read(read) => Some(read?.0),
        _ => None,
    });
    let standing = history.standing.iter().flatten().flatten().map(|(op, _)| *op);
    let stored = history.stored.iter().filter_map(|stored| stored.op);
    read.chain(standing).chain(stored).collect()
}

/// No message id is stored twice, unless the stream was lost in between.
fn stored_once(history: &History) -> Vec<Violation> {
    let mut places = BTreeMap::<&str, BTreeMap<u64, u64>>::new();
    for stored in &history.stored {
        if let Some(id) = &stored.message_id {
            places
                .entry(id)
                .or_default()
                .entry(stored.sequence)
                .or_insert(stored.heard);
        }
    }
    let was_lost_between = |heard: &BTreeMap<u64, u64>| {
        let (first, last) = (heard.values().min(), heard.values().max());
        let mut losses = history.ops.iter().filter(|op| op.action == Action::Loss);
        losses.any(|loss| {
            first.is_some_and(|first| *first <= loss.ended) && last.is_some_and(|last| loss.began <= *last)
        })
    };
    places
        .iter()
        .filter(|(_, heard)| heard.len() > 1 && !was_lost_between(heard))
        .map(|(id, heard)| format!("{id}: applied twice, at {:?}", heard.keys().collect::<Vec<_>>()))
        .collect()
}

/// All gateways and the hosts' loader see the same in the end.
fn standing_is_one(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, folded) in history.folded.iter().enumerate() {
        for (gateway, standing) in history.standing.iter().enumerate() {
            let shown = standing.get(key).copied().flatten().map(|(op, _)| op);
            if shown != *folded {
                violations.push(format!(
                    "key {key}: gateway {gateway} shows {shown:?}, hosts hold {folded:?}"
                ));
            }
        }
    }
    violations
}

/// The stream's sequences are an order that explains everything: each write has one of its own, what began after
/// another's answer stands behind it, every read shows the last write before it, and every condition held where its
/// write stands.
fn by_sequence(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for key in 0..history.folded.len() {
        let ops = history.ops.iter().filter(|op| op.key == key).collect::<Vec<_>>();
        // Where each write is known to stand, from its answer or from a read of its value.
        let mut places = BTreeMap::<OpId, BTreeSet<u64>>::new();
        for op in &ops {
            match op.outcome {
                Outcome::Wrote { sequence, .. } => drop(places.entry(op.id).or_default().insert(sequence)),
                Outcome::Read(Some((writer, sequence))) => {
                    places.entry(writer).or_default().insert(sequence);
                }
                _ => {}
            }
        }
        for standing in &history.standing {
            if let Some(Some((writer, sequence))) = standing.get(key) {
                places.entry(*writer).or_default().insert(*sequence);
            }
        }
        for (op, sequences) in places.iter().filter(|(_, sequences)| sequences.len() > 1) {
            violations.push(format!(
                "key {key}: op {op} stands at {sequences:?}: applied twice, or wrongly told"
            ));
        }
        let mut writers = BTreeMap::<u64, OpId>::new();
        for (op, sequences) in &places {
            for sequence in sequences {
                if let Some(other) = writers.insert(*sequence, *op).filter(|other| other != op) {
                    violations.push(format!(
                        "key {key}: ops {op} and {other} both stand at {sequence}"
                    ));
                }
            }
        }
        violations.extend(in_real_time(key, &ops));
        violations.extend(final_is_last(history, key, &ops));
        for op in &ops {
            if let (
                Condition::Is(expected),
                Outcome::Wrote {
                    sequence,
                    how: How::Applied,
                },
            ) = (op.condition, &op.outcome)
            {
                let before = writers.range(..sequence).next_back().map(|(_, writer)| *writer);
                if before.is_some_and(|before| before != expected) {
                    violations.push(format!(
                        "key {key}: op {} at {sequence} wanted to replace {expected}, and replaced {before:?}",
                        op.id
                    ));
                }
            }
        }
    }
    violations
}

/// The sequence at which an operation took effect or looked; none where it tells none.
fn place(op: &Op) -> Option<u64> {
    match op.outcome {
        Outcome::Wrote { sequence, .. } | Outcome::Read(Some((_, sequence))) => Some(sequence),
        _ => None,
    }
}

/// What began after another's answer stands at or behind it.
fn in_real_time(key: usize, ops: &[&Op]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut ended = ops
        .iter()
        .filter_map(|op| Some((op.ended, place(op)?, op.id)))
        .collect::<Vec<_>>();
    ended.sort_unstable();
    let mut began = ops.to_vec();
    began.sort_unstable_by_key(|op| op.began);
    let mut ended = ended.into_iter().peekable();
    let mut latest = (0, 0);
    for op in began {
        while let Some((_, sequence, by)) = ended.next_if(|(ended, _, _)| *ended < op.began) {
            latest = latest.max((sequence, by));
        }
        if let Some(sequence) = place(op).filter(|sequence| *sequence < latest.0) {
            violations.push(format!(
                "key {key}: op {} ({:?}) is at {sequence}, though op {} at {} had been answered before it began",
                op.id, op.action, latest.1, latest.0
            ));
        }
    }
    violations
}

/// What stands in the end is no older than any acknowledged write.
fn final_is_last(history: &History, key: usize, ops: &[&Op]) -> Vec<Violation> {
    let last = ops
        .iter()
        .filter_map(|op| match op.outcome {
            Outcome::Wrote { sequence, .. } => Some((sequence, op.id, op.action)),
            _ => None,
        })
        .max_by_key(|(sequence, ..)| *sequence);
    let Some((sequence, op, action)) = last else {
        return Vec::new();
    };
    let is_delete = matches!(action, Action::Delete | Action::ForeignDelete);
    let stands = history
        .standing
        .first()
        .and_then(|standing| standing.get(key).copied().flatten());
    let is_lost = match stands {
        Some((_, at)) => at < sequence,
        None => !is_delete && !may_have_been_deleted(ops),
    };
    match is_lost {
        true => vec![format!(
            "key {key}: op {op} was acknowledged at {sequence} and is lost: {stands:?} stands"
        )],
        false => Vec::new(),
    }
}

/// Whether there is a delete whose place is not known.
fn may_have_been_deleted(ops: &[&Op]) -> bool {
    ops.iter().any(|op| {
        matches!(op.action, Action::Delete | Action::ForeignDelete)
            && matches!(op.outcome, Outcome::Unknown | Outcome::Superseded)
    })
}

/// Whether some order explains the answers on a key; `None` where the search takes too long.
pub fn linearizable(history: &History, key: usize) -> Option<bool> {
    let ops = history
        .ops
        .iter()
        .filter(|op| op.key == key || op.action == Action::Loss)
        .filter(|op| !matches!(op.outcome, Outcome::NotApplied | Outcome::Absurd(_)))
        .flat_map(|op| {
            // What may have been applied to a stream that was lost, and then again to the next one or not at all.
            let lost = history.may_be_lost(op).then(|| Op {
                outcome: Outcome::Unknown,
                ..op.clone()
            });
            let is_told = match op.outcome {
                Outcome::Refused | Outcome::Unchanged | Outcome::Read(_) => lost.is_none(),
                _ => true,
            };
            lost.into_iter().chain(is_told.then(|| op.clone()))
        })
        .collect::<Vec<_>>();
    if ops.is_empty() {
        return Some(true);
    }
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let decided = WGLChecker::<Register>::is_linearizable(steps(ops));
        // Whoever asked may have given up.
        sender.send(decided).unwrap_or_default();
    });
    receiver.recv_timeout(SEARCH_TIMEOUT).ok()
}

/// A call and an answer each; what may have been applied at any later time is answered at the end of time.
fn steps(ops: Vec<Op>) -> Steps<Op> {
    let mut steps = Vec::new();
    for (process, op) in ops.into_iter().enumerate() {
        let answered = match op.outcome {
            Outcome::Unknown | Outcome::Superseded => u64::MAX,
            _ => op.ended,
        };
        steps.push((op.began, 0, process, Step::Call(op.clone())));
        steps.push((answered, 1, process, Step::Response(op)));
    }
    steps.sort_by_key(|(at, kind, process, _)| (*at, *kind, *process));
    Steps::from_actions(
        steps
            .into_iter()
            .map(|(_, _, process, step)| (process, step))
            .collect(),
    )
}

/// One entry: who wrote what stands.
struct Register;

impl Specification for Register {
    type State = Option<OpId>;
    type Operation = Op;

    fn init() -> Self::State {
        None
    }

    fn apply(op: &Op, state: &Self::State) -> (bool, Self::State) {
        let holds = match op.condition {
            Condition::None => true,
            Condition::Is(writer) => *state == Some(writer),
            Condition::Exists => state.is_some(),
            Condition::Absent => state.is_none(),
        };
        let written = match op.action {
            Action::Put | Action::ForeignPut => Some(op.id),
            Action::Delete | Action::ForeignDelete | Action::Loss => None,
            Action::Get => *state,
        };
        match op.outcome {
            Outcome::Done => (true, written),
            Outcome::Wrote { .. } => (holds, written),
            Outcome::Unchanged => (holds && *state == written, *state),
            Outcome::Read(read) => (read.map(|(writer, _)| writer) == *state, *state),
            Outcome::Refused => (!holds, *state),
            Outcome::Superseded | Outcome::Unknown => (true, if holds { written } else { *state }),
            Outcome::NotApplied | Outcome::Absurd(_) => (true, *state),
        }
    }
}
