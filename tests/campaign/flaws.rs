//! A checker that lets everything pass proves nothing: histories with known flaws, and what the checkers say of them.

use std::sync::OnceLock;

use crate::{
    audit::{Attempt, Learned, Record},
    check,
    history::{Action, Call, Condition, History, How, Kind, Op, OpId, Open, Outcome, Stored},
    world::{LATTICE, Layout},
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
    [sound_in_general(), sound_of_one_writer(), sound_audits()].concat()
}

fn sound_in_general() -> Vec<(&'static str, History)> {
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
            "refused, and then stored by the first attempt",
            refused_while_open(35),
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
        (
            "an edit of one link",
            of_records(vec![edit(5, 0, 0, &[(0, 1)]), edit(6, 5, 1, &[(0, 1), (1, 2)])]),
        ),
        (
            "an edit that brings a purged record back in a cluster",
            purged_beside_an_edit("R3File"),
        ),
        (
            "an entry that was replaced beside a purge in a cluster",
            replaced_beside_a_purge("R3File"),
        ),
        (
            "undone late",
            of_records(vec![edit(5, 0, 0, &[(0, 1)]), by_host(6, 5, 21, &[])]),
        ),
        (
            "undone and brought back",
            of_records(vec![
                edit(5, 0, 0, &[(0, 1)]),
                by_host(6, 5, 3, &[]),
                by_host(7, 6, 5, &[(0, 1)]),
            ]),
        ),
        (
            "undone and applied again",
            of_records(vec![
                edit(3, 0, 0, &[(0, 1)]),
                by_host(4, 3, 0, &[]),
                edit(5, 4, 0, &[(0, 1)]),
            ]),
        ),
    ]
}

/// An entry was replaced beside a purge, by its etag, and stays.
fn replaced_beside_a_purge(topology: &str) -> History {
    let purge = op(9, Action::Loss, Condition::None, (20, 30), Outcome::Done);
    let replaced = Op {
        condition: Condition::Is(1),
        ..put(2, (21, 29), 6)
    };
    let stored = [(1, 5, 0, 5), (2, 6, 5, 25)].map(|(op, sequence, previous, heard)| Stored {
        op: Some(op),
        sequence,
        previous,
        heard,
        ..Stored::default()
    });
    let ops = vec![
        put(1, (0, 10), 5),
        purge,
        replaced,
        get(3, (40, 50), Some((2, 6))),
    ];
    History {
        topology: topology.to_owned(),
        stored: stored.into(),
        ..history(ops, Some((2, 6)))
    }
}

/// Link 0 stood; an edit of link 1 that was under way beside a purge has it in its record.
fn purged_beside_an_edit(topology: &str) -> History {
    let purge = op(9, Action::Loss, Condition::None, (20, 22), Outcome::Done);
    let of_other_link = Op {
        key: 1,
        ..put(2, (18, 30), 6)
    };
    let brings_back = Stored {
        heard: 21,
        ..edit(6, 0, 1, &[(0, 1), (1, 2)])
    };
    History {
        topology: topology.to_owned(),
        has_hosts: false,
        ops: vec![
            put(1, (0, 10), 5),
            of_other_link,
            purge,
            get(3, (40, 50), Some((1, 6))),
        ],
        folded: vec![Some(1), Some(2)],
        ..of_records(vec![edit(5, 0, 0, &[(0, 1)]), brings_back])
    }
}

/// Two links of one record beside hosts: the first one was put at 5 by op 1.
fn of_records(stored: Vec<Stored>) -> History {
    History {
        layout: Layout::Component,
        has_hosts: true,
        kinds: vec![Kind::InterfaceLink; 2],
        short_hashes: vec![Some("0".to_owned()), Some("1".to_owned())],
        standing: Vec::new(),
        stored,
        ..history(vec![put(1, (0, 10), 5)], Some((1, 5)))
    }
}

fn edit(sequence: u64, previous: u64, key: usize, record: &[(usize, OpId)]) -> Stored {
    let call = Call {
        id: format!("call-{key}"),
        entry: key.to_string(),
    };
    Stored {
        calls: vec![call],
        ..by_host(sequence, previous, 0, record)
    }
}

/// Stored so many milliseconds after the round began.
fn by_host(sequence: u64, previous: u64, millis: u8, record: &[(usize, OpId)]) -> Stored {
    Stored {
        subject: "record".to_owned(),
        sequence,
        previous,
        unix_nanos: i128::from(millis) * 1_000_000,
        record: Some(record.iter().copied().collect()),
        heard: sequence,
        ..Stored::default()
    }
}

/// A put that another gateway refused from 20 to 30 while its first attempt might go on until 40, and that was stored.
fn refused_while_open(heard: u64) -> History {
    let open = Some(Open { from: 20, until: 40 });
    let stored = Stored {
        sequence: 6,
        op: Some(2),
        heard,
        ..Stored::default()
    };
    let ops = vec![put(1, (0, 10), 5), Op { open, ..unknown(2) }];
    History {
        stored: vec![stored],
        ..history(ops, Some((2, 6)))
    }
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
        ("refused though it was stored", refused_while_open(19)),
        ("applied behind its deadline", refused_while_open(60_000_000)),
        ("applied twice", twice),
        (
            "hosts hold another",
            History {
                folded: vec![Some(7)],
                ..history(vec![first], Some((1, 5)))
            },
        ),
    ];
    [
        flawed_in_any_order(),
        flawed_records(),
        flawed_of_one_writer(),
        flawed_audits(),
        others,
    ]
    .concat()
}

/// Of one writer, which no search looks at; after a loss, which the stream's order does not reach across.
fn of_one_writer(ops: Vec<Op>, standing: Option<(OpId, u64)>) -> History {
    let lost = op(99, Action::Loss, Condition::None, (1, 2), Outcome::Done);
    History {
        contended: 0,
        ..history([vec![lost], ops].concat(), standing)
    }
}

fn sound_of_one_writer() -> Vec<(&'static str, History)> {
    let (first, second) = (put(1, (10, 20), 5), put(3, (40, 50), 7));
    let lost = op(9, Action::Loss, Condition::None, (31, 32), Outcome::Done);
    let absent = |op| Op {
        condition: Condition::Absent,
        ..op
    };
    vec![
        (
            "of one writer, unknown and applied",
            of_one_writer(
                vec![first.clone(), unknown(2), replacing(2, second.clone())],
                Some((3, 7)),
            ),
        ),
        (
            "of one writer, unknown and applied last",
            of_one_writer(vec![first.clone(), unknown(2), second.clone()], Some((2, 8))),
        ),
        (
            "of one writer, lost",
            of_one_writer(vec![first.clone(), lost, absent(second)], Some((3, 7))),
        ),
        (
            "of one writer, refused",
            of_one_writer(
                vec![
                    first,
                    absent(op(2, Action::Put, Condition::None, (21, 22), Outcome::Refused)),
                ],
                Some((1, 5)),
            ),
        ),
    ]
}

fn flawed_of_one_writer() -> Vec<(&'static str, History)> {
    let first = put(1, (10, 20), 5);
    let refused = op(2, Action::Put, Condition::Exists, (21, 22), Outcome::Refused);
    let in_line = |place, op| Op {
        line: Some((1, place)),
        ..op
    };
    let behind = [in_line(0, put(1, (0, 10), 6)), in_line(1, put(2, (0, 10), 5))];
    vec![
        (
            "of one writer, lost without a loss",
            of_one_writer(vec![first.clone(), put(2, (21, 30), 6)], Some((1, 5))),
        ),
        (
            "of one writer, refused for nothing",
            of_one_writer(vec![first.clone(), refused], Some((1, 5))),
        ),
        (
            "of one writer, a condition that did not hold",
            of_one_writer(vec![first, replacing(7, put(2, (21, 30), 6))], Some((2, 6))),
        ),
        (
            "sent before and applied behind",
            history(behind.into(), Some((1, 6))),
        ),
    ]
}

/// A put by op 1, which was attempted and recorded so.
fn of_attempts(learned: &[Learned], records: &[Record]) -> History {
    let attempt = |learned: &Learned| Attempt {
        gateway: 0,
        method: "PutConfig".to_owned(),
        entry: "config a".to_owned(),
        request_id: "request-1".to_owned(),
        learned: learned.clone(),
    };
    History {
        attempts: learned.iter().map(attempt).collect(),
        audited: vec![records.to_vec()],
        ..history(vec![put(1, (0, 10), 5)], Some((1, 5)))
    }
}

fn applied() -> Learned {
    Learned::Told(("OUTCOME_APPLIED".to_owned(), Some(5)))
}

fn leaving() -> Learned {
    Learned::Told(("SHUTTING_DOWN".to_owned(), None))
}

fn recorded(outcome: &str, sequence: Option<u64>) -> Record {
    Record {
        method: "PutConfig".to_owned(),
        lattice: Some(LATTICE.to_owned()),
        entry: Some("config a".to_owned()),
        request_id: Some("request-1".to_owned()),
        outcome: Some(outcome.to_owned()),
        revision: sequence.map(|sequence| (1, sequence)),
    }
}

/// Of what was refused before it was read.
fn unnamed(outcome: &str) -> Record {
    Record {
        lattice: None,
        entry: None,
        request_id: None,
        ..recorded(outcome, None)
    }
}

fn sound_audits() -> Vec<(&'static str, History)> {
    let record = recorded("OUTCOME_APPLIED", Some(5));
    vec![
        (
            "recorded",
            of_attempts(&[applied()], std::slice::from_ref(&record)),
        ),
        ("no answer, recorded", of_attempts(&[Learned::Nothing], &[record])),
        (
            "no answer, not recorded",
            of_attempts(&[Learned::Nothing, Learned::Unread], &[]),
        ),
        (
            "refused before it was read",
            of_attempts(
                &[leaving(), Learned::Nothing],
                &[unnamed("CANCELLED"), unnamed("SHUTTING_DOWN")],
            ),
        ),
    ]
}

fn flawed_audits() -> Vec<(&'static str, History)> {
    let record = recorded("OUTCOME_APPLIED", Some(5));
    let twice = [record.clone(), record.clone()];
    let of_another = |record: &Record| Record {
        entry: Some("config b".to_owned()),
        ..record.clone()
    };
    let of_nobody = Record {
        request_id: Some("request-2".to_owned()),
        ..record.clone()
    };
    vec![
        ("answered and not recorded", of_attempts(&[applied()], &[])),
        (
            "answered once and recorded twice",
            of_attempts(&[applied()], &twice),
        ),
        (
            "no answer, recorded twice",
            of_attempts(&[Learned::Nothing], &twice),
        ),
        (
            "not read, and recorded",
            of_attempts(&[Learned::Unread], &twice[..1]),
        ),
        (
            "recorded at another place",
            of_attempts(&[applied()], &[recorded("OUTCOME_APPLIED", Some(6))]),
        ),
        (
            "recorded with another outcome",
            of_attempts(&[applied()], &[recorded("OUTCOME_UNKNOWN", None)]),
        ),
        (
            "recorded of another entry",
            of_attempts(&[applied()], &[of_another(&record)]),
        ),
        (
            "recorded of nobody",
            of_attempts(&[applied()], &[record, of_nobody]),
        ),
        (
            "refused before it was read, and recorded twice",
            of_attempts(
                &[leaving()],
                &[unnamed("SHUTTING_DOWN"), unnamed("SHUTTING_DOWN")],
            ),
        ),
    ]
}

fn flawed_records() -> Vec<(&'static str, History)> {
    vec![
        (
            "an edit that brings a purged record back on one server",
            purged_beside_an_edit("R1File"),
        ),
        (
            "an entry that was replaced beside a purge on one server",
            replaced_beside_a_purge("R1File"),
        ),
        (
            "another link lost by an edit",
            of_records(vec![edit(5, 0, 0, &[(0, 1), (1, 2)]), edit(6, 5, 0, &[(0, 1)])]),
        ),
        (
            "acknowledged and not there",
            of_records(vec![edit(5, 0, 0, &[(0, 9)])]),
        ),
        (
            "undone too soon",
            of_records(vec![edit(5, 0, 0, &[(0, 1)]), by_host(6, 5, 3, &[])]),
        ),
        (
            "applied twice without an undoing",
            of_records(vec![
                edit(3, 0, 0, &[(0, 1)]),
                by_host(4, 3, 0, &[(0, 1)]),
                edit(5, 4, 0, &[(0, 1)]),
            ]),
        ),
        (
            "another value in the end",
            History {
                folded: vec![Some(2)],
                ..of_records(vec![edit(5, 0, 0, &[(0, 1)])])
            },
        ),
    ]
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
        contended: usize::MAX,
        attempts: Vec::new(),
        audited: Vec::new(),
        losses: OnceLock::new(),
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
        line: None,
        outcome,
        open: None,
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
