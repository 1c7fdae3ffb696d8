//! Which entries of a stream changed, in order, as far back as it is remembered: what watches are fed from.
//!
//! A watch holds a [`Place`] in the log and no more. One that is behind reads which entries changed since, each once, and
//! how they stand now; so nobody waits for a slow one, and its memory does not grow.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::domain::EntryKey;

/// Changes that are remembered, of one stream.
pub const REMEMBERED_MAX: usize = 65_536;

/// A place in a log: what stands behind it was not told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Of which log: a stream that is made anew, or a gateway that is started again, has another.
    pub log: u64,
    /// How many changes are before it.
    pub index: u64,
}

/// Why a watch cannot go on from a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is no place of this log.
    OtherLog,
    /// What came behind it is forgotten.
    Forgotten,
}

/// The log of one stream.
#[derive(Debug)]
pub struct ChangeLog {
    id: u64,
    /// How many changes came before the first that is remembered.
    forgotten: u64,
    keys: VecDeque<Arc<EntryKey>>,
    /// How often each is among them: whoever names an entry anew, as each record of links does, shares the name of the last time.
    names: HashMap<Arc<EntryKey>, u32>,
}

impl ChangeLog {
    /// Empty.
    pub fn new() -> Self {
        Self {
            // Random, to be told from other logs'; nothing hangs on who guesses it.
            id: RandomState::new().hash_one(()),
            forgotten: 0,
            keys: VecDeque::new(),
            names: HashMap::new(),
        }
    }

    /// Notes a change.
    pub fn note(&mut self, key: Arc<EntryKey>) {
        if self.keys.len() >= REMEMBERED_MAX {
            self.forget_first();
        }
        let known = self.names.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        let key = known.unwrap_or(key);
        *self.names.entry(Arc::clone(&key)).or_default() += 1;
        self.keys.push_back(key);
    }

    fn forget_first(&mut self) {
        let Some(first) = self.keys.pop_front() else {
            return;
        };
        self.forgotten += 1;
        if let Entry::Occupied(mut name) = self.names.entry(first) {
            match *name.get() {
                1 => drop(name.remove_entry()),
                count => *name.get_mut() = count - 1,
            }
        }
    }

    /// The place behind the last change.
    pub fn end(&self) -> Place {
        Place {
            log: self.id,
            index: self.forgotten + count(self.keys.len()),
        }
    }

    /// The entries that changed behind a place, each once, in the order of their last changes, with the places behind
    /// those.
    pub fn since(&self, place: Place) -> Result<Vec<(Place, &Arc<EntryKey>)>, Lost> {
        if place.log != self.id || place.index > self.end().index {
            return Err(Lost::OtherLog);
        }
        let behind = place.index.checked_sub(self.forgotten).ok_or(Lost::Forgotten)?;
        let behind = usize::try_from(behind).unwrap_or(usize::MAX);
        let mut seen = HashSet::new();
        let ends = (1..=self.end().index)
            .rev()
            .map(|index| Place { log: self.id, index });
        let mut latest = ends
            .zip(self.keys.range(behind..).rev())
            .filter(|(_, key)| seen.insert(*key))
            .collect::<Vec<_>>();
        latest.reverse();
        Ok(latest)
    }
}

impl Default for ChangeLog {
    fn default() -> Self {
        Self::new()
    }
}

fn count(keys: usize) -> u64 {
    u64::try_from(keys).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<EntryKey> {
        Arc::new(EntryKey::Config(name.into()))
    }

    fn names<'a>(since: &[(Place, &'a Arc<EntryKey>)]) -> Vec<&'a str> {
        since.iter().map(|(_, key)| key.parts()[1]).collect()
    }

    #[test]
    fn what_changed_is_told_once_and_in_the_order_of_the_last_changes() {
        let mut log = ChangeLog::new();
        let start = log.end();
        for name in ["a", "b", "a", "c"] {
            log.note(key(name));
        }
        let since = log.since(start).unwrap();
        assert_eq!(names(&since), ["b", "a", "c"]);
        // Behind "b" the rest is told in turn, and nothing twice.
        assert_eq!(names(&log.since(since[0].0).unwrap()), ["a", "c"]);
        let end = log.end();
        assert_eq!(end.index, 4);
        assert_eq!(names(&log.since(end).unwrap()), [""; 0]);
        log.note(key("b"));
        assert_eq!(names(&log.since(end).unwrap()), ["b"]);
    }

    #[test]
    fn an_entry_that_is_named_anew_costs_a_place_alone() {
        let mut log = ChangeLog::new();
        for name in ["a", "b", "a"] {
            log.note(key(name));
        }
        assert!(Arc::ptr_eq(&log.keys[0], &log.keys[2]));
        log.forget_first();
        log.forget_first();
        assert_eq!(log.names, HashMap::from([(key("a"), 1)]));
        log.forget_first();
        assert!(log.names.is_empty() && log.keys.is_empty());
    }

    #[test]
    fn a_place_elsewhere_or_too_far_back_is_lost() {
        let mut log = ChangeLog::new();
        let start = log.end();
        let ahead = Place {
            index: 1,
            ..log.end()
        };
        assert_eq!(log.since(ahead).unwrap_err(), Lost::OtherLog);
        assert_eq!(log.since(ChangeLog::new().end()).unwrap_err(), Lost::OtherLog);
        for _ in 0..REMEMBERED_MAX {
            log.note(key("a"));
        }
        assert_eq!(log.since(start).unwrap().len(), 1);
        log.note(key("a"));
        assert_eq!(log.since(start).unwrap_err(), Lost::Forgotten);
    }
}
