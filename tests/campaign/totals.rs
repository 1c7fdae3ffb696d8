//! What a campaign comes to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    history::{Action, How, Outcome},
    round::Played,
    watchers::Watched,
};

/// What a release has to stand, at least.
const RELEASE_FAULTS: u64 = 1_000;
const RELEASE_WRITES: u64 = 1_000_000;

/// Counts over all rounds.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Totals {
    first_seed: u64,
    /// Of rounds with violations.
    failed: Vec<u64>,
    rounds: u64,
    time: Duration,
    by_topology: BTreeMap<String, u64>,
    by_layout: BTreeMap<String, u64>,
    by_fault: BTreeMap<String, u64>,
    acknowledged: u64,
    already_applied: u64,
    retried: u64,
    attempts: usize,
    by_calls_of_several: u64,
    audited: usize,
    reads: u64,
    refused: u64,
    not_applied: u64,
    unknown: u64,
    superseded: u64,
    foreign: u64,
    host_writes: u64,
    stored: u64,
    shared: u64,
    shared_edits: usize,
    losses: u64,
    watched: Watched,
    undecided: usize,
    violations: usize,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("totals.json")
}

impl Totals {
    pub fn from(first_seed: u64) -> Self {
        Self {
            first_seed,
            ..Self::default()
        }
    }

    /// Those of a campaign that was broken off.
    pub fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(file(folder)).expect("a campaign was begun there");
        serde_json::from_str(&text).expect("the totals of a campaign")
    }

    pub fn keep(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(file(folder), serde_json::to_string(self).unwrap()).unwrap();
    }

    pub fn next_seed(&self) -> u64 {
        self.first_seed + self.rounds
    }

    pub fn minutes(&self) -> f64 {
        self.time.as_secs_f64() / 60.0
    }

    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Adds a round, which took so long.
    pub fn add(&mut self, played: &Played, time: Duration) {
        let history = &played.history;
        if !played.violations.is_empty() {
            self.failed.push(self.next_seed());
        }
        self.time += time;
        self.rounds += 1;
        *self.by_topology.entry(history.topology.clone()).or_default() += 1;
        let layout = match history.has_hosts {
            true => format!("{:?} beside hosts", history.layout),
            false => format!("{:?}", history.layout),
        };
        *self.by_layout.entry(layout).or_default() += 1;
        self.host_writes += history.host_writes;
        for stored in history.stored_once_each() {
            let edits = stored.calls.len();
            self.shared += u64::from(edits > 1);
            self.shared_edits += if edits > 1 { edits } else { 0 };
        }
        self.attempts += history.attempts.len();
        self.audited += history.audited.iter().map(Vec::len).sum::<usize>();
        for fault in &history.faults {
            *self.by_fault.entry(fault.clone()).or_default() += 1;
        }
        self.stored += u64::try_from(history.stored.len()).unwrap();
        self.watched.reconnects += played.watched.reconnects;
        self.watched.resyncs += played.watched.resyncs;
        self.watched.messages += played.watched.messages;
        self.undecided += played.undecided;
        self.violations += played.violations.len();
        for op in &history.ops {
            let count = match (op.action, &op.outcome) {
                (Action::Loss, _) => &mut self.losses,
                (Action::ForeignPut | Action::ForeignDelete, _) => &mut self.foreign,
                (Action::Get, _) => &mut self.reads,
                (_, Outcome::Refused) => &mut self.refused,
                (_, Outcome::NotApplied) => &mut self.not_applied,
                (_, Outcome::Unknown) => &mut self.unknown,
                (_, Outcome::Superseded) => &mut self.superseded,
                _ => &mut self.acknowledged,
            };
            *count += 1;
            self.retried += u64::from(op.attempts > 1);
            self.by_calls_of_several += u64::from(op.line.is_some());
            let how = matches!(
                op.outcome,
                Outcome::Wrote {
                    how: How::AlreadyApplied,
                    ..
                }
            );
            self.already_applied += u64::from(how);
        }
    }

    /// Operations that callers asked for to change something, whatever became of them.
    fn writes(&self) -> u64 {
        self.acknowledged + self.refused + self.not_applied + self.unknown + self.superseded
    }

    fn faults(&self) -> u64 {
        self.by_fault.values().sum()
    }

    /// Whether it is as much as a release has to stand.
    pub fn is_enough_for_a_release(&self) -> bool {
        self.faults() >= RELEASE_FAULTS && self.writes() >= RELEASE_WRITES
    }

    /// Tells how far it is from what a release has to stand.
    pub fn report_release(&self) {
        let verdict = match self.is_enough_for_a_release() {
            true => "reached",
            false => "not reached",
        };
        println!();
        let seconds = self.time.as_secs_f64();
        for (what, count, goal) in [
            ("faults", self.faults(), RELEASE_FAULTS),
            ("writes asked for", self.writes(), RELEASE_WRITES),
        ] {
            let rate = per(count, 1) / seconds;
            let hours = per(goal, 1) / rate / 3600.0;
            println!("{what}: {count} of {goal}, {rate:.2} a second: all of them take {hours:.2} hours");
        }
        println!("release figures: {verdict}");
    }

    pub fn report(&self) {
        let writes = self.writes();
        let share = |count: u64| format!("{count} ({:.2} %)", 100.0 * per(count, writes));
        println!(
            "\ncampaign of {:.1} minutes from seed {}: {} rounds",
            self.minutes(),
            self.first_seed,
            self.rounds
        );
        println!("topologies: {}", list(&self.by_topology));
        println!("layouts: {}", list(&self.by_layout));
        println!("faults: {}", list(&self.by_fault));
        println!("losses of the stream, as its durability allows: {}", self.losses);
        println!();
        for (what, count) in [
            ("writes asked for", writes.to_string()),
            ("  acknowledged", self.acknowledged.to_string()),
            (
                "  of these by a later attempt (ALREADY_APPLIED)",
                self.already_applied.to_string(),
            ),
            ("  refused by their condition", self.refused.to_string()),
            ("  given up on, not applied", self.not_applied.to_string()),
            ("  given up on, unknown", share(self.unknown)),
            ("  OUTCOME_SUPERSEDED", share(self.superseded)),
            ("operations with a retry", self.retried.to_string()),
            (
                "operations by one Apply call or manifest with others",
                self.by_calls_of_several.to_string(),
            ),
            ("attempts to change something", self.attempts.to_string()),
            ("  audit records of them", self.audited.to_string()),
            ("fully consistent reads", self.reads.to_string()),
            ("foreign raw writes", self.foreign.to_string()),
            ("writes of stand-ins for hosts", self.host_writes.to_string()),
            ("publishes of several edits", self.shared.to_string()),
            ("  edits in them", self.shared_edits.to_string()),
            ("messages heard from the streams", self.stored.to_string()),
            ("messages of watches", self.watched.messages.to_string()),
            ("  reconnects of watchers", self.watched.reconnects.to_string()),
            ("  watches that began anew", self.watched.resyncs.to_string()),
            ("keys whose search was given up", self.undecided.to_string()),
            ("violations", self.violations.to_string()),
        ] {
            println!("{what:<50} {count}");
        }
        if self.has_failed() {
            println!("failed seeds: {:?}", self.failed);
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a figure for people"
)]
fn per(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}
