//! The calls that a mirror has itself seen applied.
//!
//! The record that travels with an entry ([`evidence`](super::evidence)) ends where a host overwrote the entry, where
//! somebody purged it, or where it is full. Whoever follows the stream without a gap knows more: a call that is not
//! among the sequences of its run was not applied during the run, whatever became of the entry since. Of what was
//! overwritten before it could be seen, the record of its successor tells. This is what one process knows; it is bounded
//! and never written down.

use std::collections::{HashMap, VecDeque};

use super::evidence::{Applied, Stamp};
use crate::safeguard::Safeguard;

/// Calls kept at most: about a megabyte.
const CALLS_MAX: u16 = 16_384;

/// What was seen of one incarnation of a stream.
#[derive(Debug, Default)]
pub struct Witness {
    /// The last sequence that was seen.
    position: u64,
    /// Since when no sequence is missing; `None` before the first.
    run: Option<Run>,
    calls: HashMap<[u8; 8], Applied>,
    /// Their ids, oldest first.
    order: VecDeque<[u8; 8]>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first_sequence: u64,
    /// Calls applied at or before this stream time (Unix milliseconds) may not have been seen.
    since: i64,
}

impl Witness {
    /// Sees a message; in the order of the sequences.
    pub fn see(&mut self, sequence: u64, unix_millis: i64, calls: impl IntoIterator<Item = Stamp>) {
        if sequence <= self.position {
            return;
        }
        let is_gapless = sequence == self.position + 1 || !Safeguard::GaplessWitness.holds();
        if self.run.is_none() || !is_gapless {
            self.run = Some(Run {
                first_sequence: sequence,
                since: unix_millis,
            });
        }
        self.position = sequence;
        for stamp in calls.into_iter().filter(|stamp| !stamp.generated) {
            self.keep(Applied {
                stamp,
                sequence,
                unix_millis,
            });
        }
    }

    fn keep(&mut self, applied: Applied) {
        let id = applied.stamp.id;
        if self.calls.insert(id, applied).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > usize::from(CALLS_MAX)
            && let Some(oldest) = self.order.pop_front()
            && let Some(forgotten) = self.calls.remove(&oldest)
            && let Some(run) = &mut self.run
        {
            run.since = run.since.max(forgotten.unix_millis);
        }
    }

    /// Behind which sequence it is worth telling, of the messages up to another one: it has seen the others, or would forget
    /// them.
    pub fn lacks_behind(&self, up_to: u64) -> u64 {
        self.position.max(up_to.saturating_sub(CALLS_MAX.into()))
    }

    /// Whether a call for an entry of a shared record was applied behind a sequence.
    pub fn has_later(&self, entry: [u8; 8], sequence: u64) -> bool {
        let newest_first = self.order.iter().rev().filter_map(|id| self.calls.get(id));
        newest_first
            .take_while(|applied| applied.sequence > sequence)
            .any(|applied| applied.stamp.entry == entry)
    }

    /// Whether every message was seen from a sequence up to another one.
    pub fn is_gapless_from(&self, sequence: u64, up_to: u64) -> bool {
        let reaches_back = self.run.is_some_and(|run| run.first_sequence <= sequence);
        reaches_back && self.position >= up_to
    }

    /// Finds a call by its id.
    pub fn find(&self, id: [u8; 8]) -> Option<Applied> {
        self.calls.get(&id).copied()
    }

    /// Since when (stream time, Unix milliseconds) every call was seen that was applied up to this sequence.
    pub fn complete_since(&self, up_to: u64) -> Option<i64> {
        self.run.filter(|_| self.position >= up_to).map(|run| run.since)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::evidence::NO_ENTRY, *};

    const OLD: i64 = 1_000;

    fn call(name: u8) -> Stamp {
        Stamp {
            id: [name; 8],
            fingerprint: [0; 8],
            generated: false,
            entry: NO_ENTRY,
        }
    }

    /// What saw these sequences, each a call of that name at so many milliseconds.
    fn witness(sequences: impl IntoIterator<Item = u8>) -> Witness {
        let mut witness = Witness::default();
        for sequence in sequences {
            witness.see(sequence.into(), at(sequence), Some(call(sequence)));
        }
        witness
    }

    fn at(sequence: u8) -> i64 {
        OLD * i64::from(sequence)
    }

    #[test]
    fn a_run_begins_behind_its_last_gap() {
        assert_eq!(witness([]).complete_since(0), None);
        assert_eq!(witness([5, 6, 7]).complete_since(7), Some(at(5)));
        assert_eq!(witness([5, 6, 8, 9]).complete_since(9), Some(at(8)));
    }

    #[test]
    fn nothing_is_told_beyond_what_was_seen() {
        let witness = witness([5, 6]);
        assert_eq!(
            witness.complete_since(7),
            None,
            "7 was removed before it was delivered"
        );
    }

    #[test]
    fn what_came_later_is_told_by_entry_and_only_without_a_gap() {
        let mut witness = Witness::default();
        let of = |name: u8, entry: u8| Stamp {
            entry: [entry; 8],
            ..call(name)
        };
        witness.see(5, at(5), [of(1, 1), of(2, 2)]);
        witness.see(6, at(6), [of(3, 1)]);
        assert!(witness.has_later([1; 8], 5));
        assert!(!witness.has_later([2; 8], 5) && !witness.has_later([1; 8], 6));
        assert!(witness.is_gapless_from(5, 6));
        assert!(!witness.is_gapless_from(5, 7), "7 was not seen");
        witness.see(8, at(8), [of(4, 2)]);
        assert!(!witness.is_gapless_from(5, 8) && witness.is_gapless_from(8, 8));
    }

    #[test]
    fn made_ids_are_not_kept_and_what_is_forgotten_ends_the_run() {
        let mut witness = Witness::default();
        let count = u64::from(CALLS_MAX);
        for sequence in 1..=count + 2 {
            let stamp = Stamp {
                id: sequence.to_be_bytes(),
                generated: sequence == 1,
                ..call(0)
            };
            witness.see(sequence, i64::try_from(sequence).unwrap() * 10, Some(stamp));
        }
        let last = count + 2;
        assert!(
            witness.find(1_u64.to_be_bytes()).is_none(),
            "no client retries it"
        );
        assert!(witness.find(2_u64.to_be_bytes()).is_none(), "the oldest");
        assert!(witness.find(3_u64.to_be_bytes()).is_some());
        assert_eq!(witness.complete_since(last), Some(20));
    }
}
