//! What every history is held against.
//!
//! Two checks of order that know nothing of each other: the stream's own order ([`by_sequence`]), which is exact but
//! ends with the stream, and a search for any order at all that explains the answers ([`linearizable`], Wing and Gong's
//! with Lowe's cache), which holds across a loss of the stream too.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use todc_utils::{
    linearizability::{
        WGLChecker,
        history::{Action as Step, History as Steps},
    },
    specifications::Specification,
};
use tokio::time::Instant;

use crate::{
    alone, audit,
    history::{Action, Condition, History, How, Kind, Op, OpId, Outcome, Stored},
    world::SETTLE,
};

/// How long the search for one key may take, and how much memory.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
const SEARCH_BYTES_MAX: usize = 4 << 30;

/// What a check found wrong.
pub type Violation = String;

/// Every check; and the keys for which the search was given up.
pub fn all(history: &History) -> (Vec<Violation>, usize) {
    let mut violations = [
        absurd(history),
        not_applied_is_nowhere(history),
        refused_is_stored_by_open_attempts_alone(history),
        stored_once(history),
        standing_is_one(history),
        only_own_links_change(history),
        acknowledged_edits_stand(history),
        in_line(history),
        alone::check(history),
        audit::check(history),
    ]
    .concat();
    if !history.has_loss() {
        violations.extend(by_sequence(history));
    }
    let mut undecided = 0;
    // What hosts undo and is applied again takes effect twice: no order of single effects explains it.
    let is_one_effect = |key: &usize| !(history.has_hosts && history.kind(*key) == Kind::InterfaceLink);
    for key in (0..history.folded.len().min(history.contended)).filter(is_one_effect) {
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
        .filter(|op| op.value.is_none())
        .filter(|op| seen.contains(&op.id))
        .map(|op| format!("op {}: told as not applied ({:?}), and seen", op.id, op.outcome))
        .collect()
}

/// What was refused while an earlier attempt was under way is stored by that one, if at all: not before the refusal, which
/// would have known of it, nor after its deadline.
fn refused_is_stored_by_open_attempts_alone(history: &History) -> Vec<Violation> {
    const HEARD_WITHIN: u64 = 1_000_000;
    let mut violations = Vec::new();
    for (op, open) in history.ops.iter().filter_map(|op| Some((op, op.open?))) {
        let of_op = |stored: &&Stored| {
            let mut in_record = stored.record.iter().flat_map(BTreeMap::values);
            stored.op == Some(op.id) || in_record.any(|id| *id == op.id)
        };
        let first = history
            .stored
            .iter()
            .filter(of_op)
            .map(|stored| stored.heard)
            .min();
        let is_by_open = |heard: u64| (open.from..=open.until + HEARD_WITHIN).contains(&heard);
        if let Some(heard) = first.filter(|heard| !is_by_open(*heard)) {
            violations.push(format!(
                "op {}: refused, and stored at {heard} us, {open:?}",
                op.id
            ));
        }
    }
    violations
}

fn seen(history: &History) -> BTreeSet<OpId> {
    let read = history.ops.iter().filter_map(|op| match op.outcome {
        Outcome::Read(read) => Some(read?.0),
        _ => None,
    });
    let standing = history.standing.iter().flatten().flatten().map(|(op, _)| *op);
    let stored = history.stored.iter().flat_map(|stored| {
        let in_record = stored.record.iter().flat_map(BTreeMap::values).copied();
        in_record.chain(stored.op)
    });
    read.chain(standing).chain(stored).collect()
}

/// No call is stored twice, unless the stream was lost in between, or a host undid it.
fn stored_once(history: &History) -> Vec<Violation> {
    let stored = history.stored_once_each();
    let mut places = BTreeMap::<&str, Vec<&Stored>>::new();
    for message in &stored {
        let ids = message.calls.iter().map(|call| &call.id);
        let unnamed = message.message_id.iter().filter(|_| message.calls.is_empty());
        for id in ids.chain(unnamed) {
            places.entry(id).or_default().push(message);
        }
    }
    let is_excused = |id: &str, first: &Stored, second: &Stored| {
        history.is_lost_between(first.heard.min(second.heard), first.heard.max(second.heard))
            || (history.has_hosts && may_be_undone(history, &stored, id, first, second))
    };
    let is_twice = |(id, places): &(&&str, &Vec<&Stored>)| {
        let mut pairs = places.windows(2);
        pairs.any(|pair| !is_excused(id, pair[0], pair[1]))
    };
    let places = places.iter().filter(is_twice);
    places
        .map(|(id, places)| {
            let at = places.iter().map(|stored| stored.sequence).collect::<Vec<_>>();
            format!("{id}: applied twice, at {at:?}")
        })
        .collect()
}

/// Whether, between two messages with a call, a host changed its link, or something was not heard.
fn may_be_undone(history: &History, stored: &[&Stored], id: &str, first: &Stored, second: &Stored) -> bool {
    let call = second.calls.iter().find(|call| call.id == id);
    let is_of_call = |hash: &Option<String>| call.is_some_and(|call| hash.as_ref() == Some(&call.entry));
    let Some(key) = history.short_hashes.iter().position(is_of_call) else {
        return false;
    };
    let of = |message: &Stored| {
        message
            .record
            .as_ref()
            .and_then(|record| record.get(&key).copied())
    };
    let mut is_by_host = false;
    let Some(mut place) = stored.iter().position(|one| std::ptr::eq(*one, second)) else {
        return true;
    };
    while let Some(message) = before(stored, place) {
        if message.sequence <= first.sequence {
            return is_by_host;
        }
        place -= 1;
        if before(stored, place).is_some_and(|earlier| of(earlier) != of(message)) {
            is_by_host |= message.calls.is_empty();
        }
    }
    true
}

/// The message before on the same subject, where it was heard.
fn before<'a>(stored: &[&'a Stored], place: usize) -> Option<&'a Stored> {
    let (message, earlier) = (stored[place], stored[..place].last()?);
    let is_it = earlier.subject == message.subject && earlier.sequence == message.previous;
    is_it.then_some(earlier)
}

/// A publish of the gateway leaves every link alone that none of its edits is of.
fn only_own_links_change(history: &History) -> Vec<Violation> {
    let stored = history.stored_once_each();
    let mut violations = Vec::new();
    for (place, message) in stored.iter().enumerate() {
        let Some(record) = message.record.as_ref().filter(|_| !message.calls.is_empty()) else {
            continue;
        };
        let nothing = BTreeMap::new();
        let earlier = match (message.previous, before(&stored, place)) {
            (0, _) => &nothing,
            (_, Some(earlier)) if !history.is_lost_between(earlier.heard, message.heard) => {
                earlier.record.as_ref().unwrap_or(&nothing)
            }
            _ => continue,
        };
        for key in record
            .keys()
            .chain(earlier.keys())
            .copied()
            .collect::<BTreeSet<_>>()
        {
            let hash = history.short_hashes[key].as_deref();
            let is_own = message.calls.iter().any(|call| Some(&*call.entry) == hash);
            let is_back =
                || message.previous == 0 && history.losses().any(|loss| history.outlives(loss, key));
            if !is_own && record.get(&key) != earlier.get(&key) && !is_back() {
                violations.push(format!(
                    "key {key}: {} at {} changed it from {:?} to {:?} by an edit of another link",
                    message.subject,
                    message.sequence,
                    earlier.get(&key),
                    record.get(&key)
                ));
            }
        }
    }
    violations
}

/// An acknowledged edit of a link is in the record where it was applied, has stood for as long as it has to beside hosts,
/// and stands in the end unless another edit, or a host too late, replaced it.
fn acknowledged_edits_stand(history: &History) -> Vec<Violation> {
    let stored = history.stored_once_each();
    let mut places = BTreeMap::<u64, Vec<usize>>::new();
    for (place, message) in stored.iter().enumerate() {
        places.entry(message.sequence).or_default().push(place);
    }
    let stored = (&*stored, &places);
    let mut violations = Vec::new();
    for key in 0..history.kinds.len() {
        if history.kind(key) != Kind::InterfaceLink {
            continue;
        }
        let Some(hash) = history.short_hashes[key].as_deref() else {
            continue;
        };
        let since = history.losses().map(|loss| loss.ended).max().unwrap_or(0);
        let ops = history.ops.iter().filter(|op| op.key == key).collect::<Vec<_>>();
        let mut last = None;
        for op in &ops {
            let Outcome::Wrote {
                sequence,
                is_superseded: false,
                ..
            } = op.outcome
            else {
                continue;
            };
            if op.began >= since && last.as_ref().is_none_or(|(at, _, _)| *at <= sequence) {
                last = Some((sequence, *op, None));
            }
            let Some(fate) = fate(history, stored, key, hash, sequence, op) else {
                continue;
            };
            if let Fate::Wrong(why) = &fate {
                violations.push(format!(
                    "key {key}: op {} was acknowledged at {sequence}, and {why}",
                    op.id
                ));
            }
            if let Some((at, of, known)) = &mut last
                && *at == sequence
                && of.id == op.id
            {
                *known = Some(fate);
            }
        }
        if let Some((sequence, op, fate)) = last {
            let stands = history.folded[key];
            let may_stand = |other: &&Op| match other.outcome {
                Outcome::Unknown | Outcome::Superseded => true,
                // What replaced it may have been undone, and so have its own replacement.
                Outcome::Wrote { sequence: at, .. } => at >= sequence || other.id == op.id,
                _ => false,
            };
            let is_explained = ops
                .iter()
                .copied()
                .filter(may_stand)
                .any(|op| op.written() == stands);
            let is_excused =
                history.has_hosts && matches!(fate, None | Some(Fate::UndoneLate | Fate::Unheard));
            if !is_explained && !is_excused {
                violations.push(format!(
                    "key {key}: op {} was the last to be acknowledged, at {sequence}, and {stands:?} stands",
                    op.id
                ));
            }
        }
    }
    violations
}

/// What became of an edit after it was applied.
enum Fate {
    /// It stands, or another edit replaced it.
    Fine,
    /// A host undid it after it had stood for long enough.
    UndoneLate,
    /// Not everything was heard.
    Unheard,
    Wrong(String),
}

/// `None` where the message was not heard in which it was applied.
fn fate(
    history: &History,
    (stored, places): (&[&Stored], &BTreeMap<u64, Vec<usize>>),
    key: usize,
    hash: &str,
    sequence: u64,
    op: &Op,
) -> Option<Fate> {
    const HEARD_WITHIN: u64 = 1_000_000;
    // The clocks of two servers, and of a message on its way, are not the gateway's.
    const MARGIN: Duration = Duration::from_millis(2);
    let heard = op.began..op.ended + HEARD_WITHIN;
    if history.is_lost_between(heard.start, heard.end) {
        // With a stream went what stood in it, and sequences began anew.
        return None;
    }
    let place = places.get(&sequence)?.iter().copied().find(|place| {
        let message = stored[*place];
        message.calls.iter().any(|call| call.entry == hash) && heard.contains(&message.heard)
    })?;
    let (applied, later) = stored[place..].split_first()?;
    let of = |message: &Stored| {
        message
            .record
            .as_ref()
            .and_then(|record| record.get(&key).copied())
    };
    if of(applied) != op.written() {
        return Some(Fate::Wrong(format!("the record says {:?} there", of(applied))));
    }
    let mut at = applied;
    // Which of the hosts' messages undid it first, and whether that was soon.
    let mut undone: Option<(&Stored, Duration)> = None;
    for message in later
        .iter()
        .take_while(|message| message.subject == applied.subject)
    {
        let is_next = message.previous == at.sequence && !history.is_lost_between(at.heard, message.heard);
        let since = u64::try_from(message.unix_nanos - applied.unix_nanos).unwrap_or(0);
        let since = Duration::from_nanos(since);
        match undone {
            // Another host may bring it back before the gateway looks.
            Some((by, soon)) if !is_next || (message.heard > op.ended && since + MARGIN >= SETTLE) => {
                return Some(judged(by, soon, MARGIN));
            }
            None if !is_next => return Some(Fate::Unheard),
            Some(_) | None => {}
        }
        let is_there = of(message) == op.written();
        match (is_there, message.calls.is_empty()) {
            (true, _) => undone = None,
            (false, true) => undone = undone.or(Some((message, since))),
            (false, false) => return Some(Fate::Fine),
        }
        at = message;
    }
    Some(undone.map_or(Fate::Fine, |(by, soon)| judged(by, soon, MARGIN)))
}

fn judged(by: &Stored, after: Duration, margin: Duration) -> Fate {
    match after + margin < SETTLE {
        true => Fate::Wrong(format!(
            "a host undid it {:.1} ms later, at {}",
            after.as_secs_f64() * 1_000.0,
            by.sequence
        )),
        false => Fate::UndoneLate,
    }
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
    let mut of_keys = vec![Vec::new(); history.folded.len()];
    for op in &history.ops {
        if let Some(of_key) = of_keys.get_mut(op.key) {
            of_key.push(op);
        }
    }
    for (key, ops) in of_keys.into_iter().enumerate() {
        violations.extend(in_real_time(key, &ops));
        if !(history.has_hosts && history.kind(key) == Kind::InterfaceLink) {
            violations.extend(final_is_last(history, key, &ops));
        }
        if history.kind(key) == Kind::InterfaceLink {
            // Its sequences are the record's.
            continue;
        }
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
        for op in &ops {
            if let (
                Condition::Is(expected),
                Outcome::Wrote {
                    sequence,
                    how: How::Applied,
                    ..
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

/// Operations on one entry that were sent one behind the other over one call are applied in that order.
fn in_line(history: &History) -> Vec<Violation> {
    let sent = history.ops.iter().filter_map(|op| {
        let Outcome::Wrote {
            sequence,
            how: How::Applied,
            ..
        } = op.outcome
        else {
            return None;
        };
        let (call, place) = op.line?;
        Some(((op.key, call), place, sequence, op))
    });
    let mut sent = sent.collect::<Vec<_>>();
    sent.sort_by_key(|(line, place, ..)| (*line, *place));
    let is_wrong = |key, first: u64, second: u64| match history.kind(key) {
        // Edits of a record may share a publish, and beside hosts one that was undone is applied again.
        Kind::InterfaceLink => first > second && !history.has_hosts,
        Kind::Link | Kind::Config | Kind::Claims | Kind::Reference => first >= second,
    };
    let pairs = sent.windows(2).filter_map(|pair| match pair {
        [(one, _, at, first), (other, _, behind, second)]
            if one == other
                && is_wrong(one.0, *at, *behind)
                && !history.is_lost_between(first.began.min(second.began), first.ended.max(second.ended)) =>
        {
            Some(format!(
                "key {}: op {} was sent before op {} over one call, and is at {at}, the other at {behind}",
                one.0, first.id, second.id
            ))
        }
        _ => None,
    });
    pairs.collect()
}

/// What stands in the end is no older than any acknowledged write.
fn final_is_last(history: &History, key: usize, ops: &[&Op]) -> Vec<Violation> {
    let last = ops
        .iter()
        .filter_map(|op| match op.outcome {
            // Of two edits in one publish the later one tells.
            Outcome::Wrote {
                is_superseded: true, ..
            } if history.kind(key) == Kind::InterfaceLink => None,
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
        .filter(|op| op.action != Action::Loss || !history.outlives(op, key))
        .filter(|op| !matches!(op.outcome, Outcome::NotApplied | Outcome::Absurd(_)))
        // An etag of content from before a loss is refused though the same content stands.
        .filter(|op| {
            let is_of_content = history.kind(key) == Kind::InterfaceLink && history.has_loss();
            !(is_of_content && op.outcome == Outcome::Refused && matches!(op.condition, Condition::Is(_)))
        })
        .flat_map(|op| {
            // What may have been applied to a stream that was lost, and then again to the next one or not at all.
            let lost = history.may_be_lost(op).then(|| Op {
                outcome: Outcome::Unknown,
                ..op.clone()
            });
            let is_told = match op.outcome {
                Outcome::Unchanged | Outcome::Read(_) => lost.is_none(),
                _ => true,
            };
            lost.into_iter().chain(is_told.then(|| op.clone()))
        })
        .collect::<Vec<_>>();
    if ops.is_empty() {
        return Some(true);
    }
    let search = std::thread::spawn(move || {
        Search::begin(2 * ops.len());
        WGLChecker::<Register>::is_linearizable(steps(ops))
    });
    search.join().ok()
}

/// What a search on this thread has left. The checker knows no end of its own, so it is ended from within, where it applies
/// an operation: a search that nobody waits for any more would take all of the machine's memory.
struct Search {
    until: Instant,
    /// How many places it may keep, each of as many bytes as there are steps.
    places: usize,
}

thread_local! {
    static SEARCH: RefCell<Option<Search>> = const { RefCell::new(None) };
}

impl Search {
    fn begin(steps: usize) {
        let search = Self {
            until: Instant::now() + SEARCH_TIMEOUT,
            places: SEARCH_BYTES_MAX / steps,
        };
        SEARCH.replace(Some(search));
    }

    /// Ends the thread's search, with nothing decided, once it has nothing left.
    fn go_on() {
        let is_over = SEARCH.with_borrow_mut(|search| {
            search.as_mut().is_some_and(|search| {
                search.places = search.places.saturating_sub(1);
                search.places == 0 || (search.places.is_multiple_of(1_024) && Instant::now() > search.until)
            })
        });
        if is_over {
            std::panic::resume_unwind(Box::new("given up"));
        }
    }
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
        Search::go_on();
        let holds = match op.condition {
            Condition::None => true,
            Condition::Is(writer) => *state == Some(writer),
            Condition::Exists => state.is_some(),
            Condition::Absent => state.is_none(),
        };
        let written = match op.action {
            Action::Get => *state,
            _ => op.written(),
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
