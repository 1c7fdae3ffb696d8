//! A checker that lets everything pass proves nothing: histories with known flaws, and what the checkers say of them.

use crate::{
    check,
    history::{Action, Condition, History, How, Op, OpId, Outcome, Stored},
    world::Layout,
};

type Time = (u64, u64);

/// Tells where a checker is wrong.
pub fn are_found() -> Result<(), String> {
    for (what, history) in sound() {
        let (violations, undecided) = check::all(&history);
        if !violations.is_empty() || undecided > 0 {
            return Err(format!("a sound history ({what}) was refused: {violations:?}"));
        }
    }
    for (what, history) in flawed() {
        if check::all(&history).0.is_empty() {
            return Err(format!("a flawed history ({what}) passed"));
        }
    }
    // The search alone, too: it is all there is across a loss.
    for (what, history) in flawed_in_any_order() {
        if check::linearizable(&history, 0) != Some(false) {
            return Err(format!("the search let a flawed history ({what}) pass"));
        }
    }
    Ok(())
}

fn sound() -> Vec<(&'static str, History)> {
    let lost = op(9, Action::Loss, Condition::None, (11, 12), Outcome::Done);
    let first = put(1, (0, 10), 5);
    vec![
        (
            "in order",
            history(
                vec![first.clone(), put(2, (20, 30), 6), get(3, (40, 50), Some((2, 6)))],
                Some((2, 6)),
            ),
        ),
        (
            "unknown, applied",
            history(
                vec![first.clone(), unknown(2), get(3, (40, 50), Some((2, 6)))],
                Some((2, 6)),
            ),
        ),
        (
            "unknown, applied later",
            history(
                vec![first.clone(), unknown(2), get(3, (40, 50), Some((1, 5)))],
                Some((2, 6)),
            ),
        ),
        (
            "condition",
            history(
                vec![first.clone(), replacing(1, put(2, (20, 30), 6))],
                Some((2, 6)),
            ),
        ),
        ("loss", history(vec![first, lost, get(3, (40, 50), None)], None)),
    ]
}

fn flawed() -> Vec<(&'static str, History)> {
    let first = put(1, (0, 10), 5);
    let second = put(2, (20, 30), 6);
    let not_applied = op(2, Action::Put, Condition::None, (20, 30), Outcome::NotApplied);
    let twice = History {
        stored: [(5, 1), (7, 3)]
            .map(|(sequence, heard)| Stored {
                sequence,
                message_id: Some("lg1-x".to_owned()),
                op: Some(1),
                heard,
                ..Stored::default()
            })
            .into(),
        ..history(vec![first.clone()], Some((1, 5)))
    };
    let others = vec![
        ("lost", history(vec![first.clone(), second.clone()], Some((1, 5)))),
        (
            "resurrected",
            history(
                vec![first.clone(), second, get(3, (40, 50), Some((1, 7)))],
                Some((1, 7)),
            ),
        ),
        (
            "out of order",
            history(vec![put(1, (0, 10), 6), put(2, (20, 30), 5)], Some((1, 6))),
        ),
        (
            "dishonest",
            history(
                vec![first.clone(), not_applied, get(3, (40, 50), Some((2, 6)))],
                Some((2, 6)),
            ),
        ),
        ("applied twice", twice),
        (
            "hosts hold another",
            History {
                folded: vec![Some(7)],
                ..history(vec![first], Some((1, 5)))
            },
        ),
    ];
    [flawed_in_any_order(), others].concat()
}

fn flawed_in_any_order() -> Vec<(&'static str, History)> {
    let (first, second) = (put(1, (0, 10), 5), put(2, (20, 30), 6));
    vec![
        (
            "stale read",
            history(
                vec![first.clone(), second.clone(), get(3, (40, 50), Some((1, 5)))],
                Some((2, 6)),
            ),
        ),
        (
            "condition that did not hold",
            history(
                vec![first, second, replacing(1, put(3, (40, 50), 7))],
                Some((3, 7)),
            ),
        ),
    ]
}

fn history(ops: Vec<Op>, standing: Option<(OpId, u64)>) -> History {
    History {
        seed: 0,
        topology: String::new(),
        layout: Layout::default(),
        has_hosts: false,
        host_writes: 0,
        kinds: Vec::new(),
        short_hashes: Vec::new(),
        faults: Vec::new(),
        ops,
        stored: Vec::new(),
        standing: vec![vec![standing]],
        folded: vec![standing.map(|(op, _)| op)],
    }
}

fn op(id: OpId, action: Action, condition: Condition, (began, ended): Time, outcome: Outcome) -> Op {
    Op {
        id,
        key: 0,
        action,
        value: None,
        condition,
        began,
        ended,
        attempts: 1,
        outcome,
    }
}

fn put(id: OpId, time: Time, sequence: u64) -> Op {
    let how = How::Applied;
    op(
        id,
        Action::Put,
        Condition::None,
        time,
        Outcome::Wrote {
            sequence,
            how,
            is_superseded: false,
        },
    )
}

fn unknown(id: OpId) -> Op {
    op(id, Action::Put, Condition::None, (20, 30), Outcome::Unknown)
}

fn get(id: OpId, time: Time, read: Option<(OpId, u64)>) -> Op {
    op(id, Action::Get, Condition::None, time, Outcome::Read(read))
}

fn replacing(writer: OpId, op: Op) -> Op {
    Op {
        condition: Condition::Is(writer),
        ..op
    }
}
