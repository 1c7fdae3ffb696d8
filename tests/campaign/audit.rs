//! Holds what gateways recorded of attempts to change something against what callers attempted.
//!
//! A record is written before the answer goes out, by one write to the file: nothing of it is lost with the process. So an
//! attempt that was answered has just one, whatever happened to the gateway since. Of one without an answer there may be
//! one: it may not have come, or the process may have been killed while it was under way.

use std::collections::BTreeMap;

use lattice_gateway::proto::Outcome;
use serde::{Deserialize, Serialize};

use crate::{
    calls::{Answer, reason},
    check::Violation,
    history::History,
    world::LATTICE,
};

/// An attempt of a caller.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Attempt {
    pub gateway: usize,
    pub method: String,
    pub entry: String,
    pub request_id: String,
    pub learned: Learned,
}

/// What its caller learned.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Learned {
    Told(Told),
    /// It was not even read.
    Unread,
    Nothing,
}

/// An outcome of the API or the reason of an error, and the sequence of the revision.
type Told = (String, Option<u64>);

impl Learned {
    pub fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Told(Ok(result)) => {
                let sequence = result.revision.map(|revision| revision.sequence);
                Self::Told((Outcome::as_str_name(&result.outcome()).to_owned(), sequence))
            }
            // Without a reason it is not of a gateway.
            Answer::Told(Err(status)) => match reason(status) {
                Some(reason) => Self::Told((reason.as_str_name().to_owned(), None)),
                None => Self::Nothing,
            },
            Answer::Unread => Self::Unread,
            Answer::Nothing | Answer::HungUp { .. } => Self::Nothing,
        }
    }
}

/// A record of a gateway, as far as a caller knows what it must say.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Record {
    pub method: String,
    pub lattice: Option<String>,
    pub entry: Option<String>,
    /// None of what was refused before it was read.
    pub request_id: Option<String>,
    pub outcome: Option<String>,
    pub revision: Option<(u64, u64)>,
}

impl Record {
    fn told(&self) -> Told {
        let sequence = self.revision.map(|(_epoch, sequence)| sequence);
        (self.outcome.clone().unwrap_or_default(), sequence)
    }
}

/// What a gateway has recorded.
pub fn read(file: &std::path::Path) -> Vec<Record> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The attempts of one request on a gateway by one method that have no record yet.
#[derive(Debug, Default)]
struct Open<'a> {
    entry: &'a str,
    told: BTreeMap<&'a Told, usize>,
    without_an_answer: usize,
}

/// Every attempt that was answered has one record, which says so; no record is of no attempt.
pub fn check(history: &History) -> Vec<Violation> {
    let of_gateways = history.audited.iter().enumerate();
    of_gateways
        .flat_map(|(gateway, records)| of_gateway(history, gateway, records))
        .collect()
}

fn of_gateway(history: &History, gateway: usize, records: &[Record]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut open = BTreeMap::<(&str, &str), Open<'_>>::new();
    for attempt in history
        .attempts
        .iter()
        .filter(|attempt| attempt.gateway == gateway)
    {
        let open = open.entry((&attempt.method, &attempt.request_id)).or_default();
        open.entry = &attempt.entry;
        match &attempt.learned {
            Learned::Told(told) => *open.told.entry(told).or_default() += 1,
            Learned::Nothing => open.without_an_answer += 1,
            Learned::Unread => {}
        }
    }
    // Of what was refused before it was read: its method and why is all that is known.
    let mut anonymous = BTreeMap::<(&str, Told), usize>::new();
    let mut unexplained = Vec::new();
    for record in records {
        let Some(request_id) = &record.request_id else {
            *anonymous.entry((&record.method, record.told())).or_default() += 1;
            continue;
        };
        let Some(open) = open.get_mut(&(&*record.method, &**request_id)) else {
            violations.push(format!(
                "audit: gateway {gateway} recorded what nobody attempted: {record:?}"
            ));
            continue;
        };
        if (record.lattice.as_deref(), record.entry.as_deref()) != (Some(LATTICE), Some(open.entry)) {
            violations.push(format!(
                "audit: gateway {gateway} recorded another entry than {}: {record:?}",
                open.entry
            ));
        }
        match open.told.get_mut(&record.told()).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => unexplained.push((record, request_id)),
        }
    }
    // Those that were answered come first: an attempt without an answer explains any record of its own.
    for (record, request_id) in unexplained {
        let open = open.get_mut(&(&*record.method, &**request_id));
        match open.filter(|open| open.without_an_answer > 0) {
            Some(open) => open.without_an_answer -= 1,
            None => violations.push(format!(
                "audit: gateway {gateway} has a record too many: {record:?}"
            )),
        }
    }
    let mut unanswered = BTreeMap::<&str, usize>::new();
    for ((method, request_id), open) in open {
        for (told, count) in open.told {
            let recorded = anonymous.get_mut(&(method, told.clone()));
            let missing = match recorded {
                Some(recorded) => {
                    let taken = count.min(*recorded);
                    *recorded -= taken;
                    count - taken
                }
                None => count,
            };
            if missing > 0 {
                violations.push(format!(
                    "audit: gateway {gateway} answered {method} of {request_id} with {told:?}, and recorded it {missing} times \
                     too few"
                ));
            }
        }
        *unanswered.entry(method).or_default() += open.without_an_answer;
    }
    for ((method, told), count) in anonymous {
        let open = unanswered.entry(method).or_default();
        match open.checked_sub(count) {
            Some(left) => *open = left,
            None => violations.push(format!(
                "audit: gateway {gateway} recorded {method} {told:?} of nobody"
            )),
        }
    }
    violations
}
