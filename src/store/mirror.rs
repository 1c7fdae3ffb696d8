//! What a stream holds, folded into entries as hosts fold it, kept in memory.
//!
//! Several messages can carry one entry, since hosts put links on random subjects: the highest sequence wins.
//! The mirror keeps all carriers, so that the fold is exact when one goes, and the evidence of a home message
//! that a host overwrote, until the next write carries it on. Invariant: `entries`, `held` and `crowded` tell
//! the same story; only [`Contents::put`] and [`Contents::remove`] change them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};

use super::{
    evidence::{Applied, Evidence, Past, is_behind},
    layout::{Decoded, cache_stream},
    witness::Witness,
};
use crate::{
    domain::{Entry, EntryKey, Epoch, Etag, Kind, Revision, revision::Tag},
    safeguard::Safeguard,
};

/// A message of the stream, as the feed delivers it.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// The subject behind the lattice's prefix.
    pub tokens: &'a str,
    /// The stream sequence.
    pub sequence: u64,
    /// When the stream stored it, Unix nanoseconds.
    pub unix_nanos: i64,
    /// The body.
    pub body: &'a [u8],
    /// The value of the evidence header.
    pub evidence: Option<&'a [u8]>,
}

impl Delivery<'_> {
    fn unix_millis(&self) -> i64 {
        millis_rounded_up(self.unix_nanos)
    }
}

/// A horizon must not be too old.
fn millis_rounded_up(unix_nanos: i64) -> i64 {
    unix_nanos.div_euclid(1_000_000) + 1
}

/// One message that says something about an entry.
#[derive(Debug)]
struct Carrier {
    /// Its subject behind the lattice's prefix.
    tokens: Arc<str>,
    is_home: bool,
    sequence: u64,
    unix_nanos: i64,
    /// Of a tombstone: what it tells of the entry that it ended.
    entry: Arc<Entry>,
    is_tombstone: bool,
    is_plain: bool,
    tag: Tag,
    /// Encoded, since it is small that way and seldom looked at.
    evidence: Option<Box<[u8]>>,
}

impl Carrier {
    fn unix_millis(&self) -> i64 {
        millis_rounded_up(self.unix_nanos)
    }

    /// The calls on record once this message is the home's; `None` for a foreign one.
    fn past(&self) -> Option<Past> {
        let evidence = Evidence::decode(self.evidence.as_deref()?)?;
        Some(evidence.into_past(self.sequence, self.unix_millis()))
    }
}

#[derive(Debug, Default)]
struct Slot {
    carriers: Vec<Carrier>,
    /// The calls on record of a home message that a host overwrote or removed.
    kept: Option<Box<Past>>,
}

impl Slot {
    fn winner(&self) -> Option<&Carrier> {
        self.carriers.iter().max_by_key(|carrier| carrier.sequence)
    }

    fn home(&self) -> Option<&Carrier> {
        self.carriers.iter().find(|carrier| carrier.is_home)
    }

    /// The calls on record, and how far back the record reaches.
    fn past(&self) -> Past {
        let kept = || self.kept.as_deref().cloned().unwrap_or_default();
        match (self.home(), self.winner()) {
            (Some(home), _) => home
                .past()
                .unwrap_or_else(|| kept().forgotten_until(home.unix_millis())),
            // A home message that was swept had been beaten by a foreign one that is not younger than this.
            (None, Some(winner)) => kept().forgotten_until(winner.unix_millis()),
            (None, None) => Past::default(),
        }
    }
}

/// One entry, as it stands at a position of the stream, for one call.
#[derive(Clone, Debug)]
pub struct View {
    /// The mirror's position when it was looked at.
    pub position: Revision,
    /// The message that wins the fold.
    pub winner: Option<Winner>,
    /// The sequence of the home message; 0 for none.
    pub home_sequence: u64,
    /// The calls on record.
    pub past: Past,
    /// Where the call was applied before, by the record or by what this mirror has seen.
    pub applied: Option<Applied>,
    /// Since when (stream time, Unix milliseconds) the mirror has seen every call, whatever the record says.
    pub witnessed_since: Option<i64>,
}

/// The message that wins the fold of an entry.
#[derive(Clone, Debug)]
pub struct Winner {
    /// Where it is.
    pub revision: Revision,
    /// When the stream stored it, Unix nanoseconds; `None` where the mirror has not seen it yet.
    pub unix_nanos: Option<i64>,
    /// Which write it was.
    pub tag: Tag,
    /// What it says; of a tombstone, what that tells of the entry that it ended.
    pub entry: Arc<Entry>,
    /// Whether the entry is absent since.
    pub is_tombstone: bool,
    /// Whether the message says just that, see [`Decoded::Put`].
    pub is_plain: bool,
}

impl View {
    /// An entry of a stream that does not exist.
    pub fn of_nothing() -> Self {
        Self {
            position: Revision {
                epoch: Epoch::from_number(0),
                sequence: 0,
            },
            winner: None,
            home_sequence: 0,
            past: Past::default(),
            applied: None,
            witnessed_since: None,
        }
    }

    /// Whether the call, if it was applied since `unix_millis` (stream time), is known to have been.
    pub fn is_complete_since(&self, unix_millis: i64) -> bool {
        let is_witnessed = self
            .witnessed_since
            .is_some_and(|since| is_behind(since, unix_millis));
        is_witnessed || self.past.is_complete_since(unix_millis)
    }

    /// The entry, where it stands.
    pub fn standing(&self) -> Option<Standing> {
        self.winner.as_ref()?.standing()
    }
}

impl Winner {
    /// The entry, unless this is a tombstone.
    pub fn standing(&self) -> Option<Standing> {
        (!self.is_tombstone).then(|| Standing {
            entry: Arc::clone(&self.entry),
            is_plain: self.is_plain,
            etag: Etag {
                revision: self.revision,
                tag: self.tag,
            },
            unix_nanos: self.unix_nanos,
        })
    }
}

/// An entry that stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it says.
    pub entry: Arc<Entry>,
    /// Whether the message says just that, see [`Decoded::Put`].
    pub is_plain: bool,
    /// Identifies this state; holds the revision.
    pub etag: Etag,
    /// When the stream stored it, Unix nanoseconds; `None` where that is not known yet.
    pub unix_nanos: Option<i64>,
}

/// A message that hosts cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Its subject behind the lattice's prefix.
    pub tokens: Arc<str>,
    /// Its sequence.
    pub sequence: u64,
    /// Why.
    pub reason: &'static str,
}

/// A message that is a superseded copy of an entry, which a migration by a 0.60 host would revive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Its subject behind the lattice's prefix.
    pub tokens: Arc<str>,
    /// Its sequence.
    pub sequence: u64,
    /// When the stream stored it, Unix milliseconds.
    pub unix_millis: i64,
    /// Whether it is the home message, which holds the entry's evidence.
    pub is_home: bool,
}

/// What a stream's leader told of it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The last sequence.
    pub last: Revision,
    /// How many messages there are.
    pub messages: u64,
}

/// What is on a subject.
#[derive(Debug)]
struct Held {
    sequence: u64,
    unix_millis: i64,
    says: Says,
}

#[derive(Debug)]
enum Says {
    Entry(Arc<EntryKey>),
    Malformed,
}

/// Everything one incarnation of a stream holds.
#[derive(Debug)]
pub struct Contents {
    epoch: Epoch,
    position: u64,
    entries: BTreeMap<Arc<EntryKey>, Slot>,
    held: HashMap<Arc<str>, Held>,
    malformed: BTreeMap<u64, Malformed>,
    /// Entries with more than one carrier.
    crowded: BTreeSet<Arc<EntryKey>>,
    witness: Witness,
}

impl Contents {
    /// Nothing yet of an incarnation.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            position: 0,
            entries: BTreeMap::new(),
            held: HashMap::new(),
            malformed: BTreeMap::new(),
            crowded: BTreeSet::new(),
            witness: Witness::default(),
        }
    }

    /// Takes a message in.
    pub fn put(&mut self, delivery: &Delivery<'_>) {
        self.position = self.position.max(delivery.sequence);
        let tokens: Arc<str> = delivery.tokens.into();
        let evidence = delivery.evidence.and_then(Evidence::decode);
        self.witness.see(
            delivery.sequence,
            delivery.unix_millis(),
            evidence.as_ref().map(|evidence| evidence.own),
        );
        let (key, entry, is_tombstone, is_plain) = match cache_stream::decode(delivery.tokens, delivery.body)
        {
            Decoded::Put { key, entry, is_plain } => (key, Arc::new(entry), false, is_plain),
            Decoded::Deleted { key, entry } => (key, Arc::new(entry), true, true),
            Decoded::Malformed(reason) => {
                self.take_out(delivery.tokens);
                let held = Held {
                    sequence: delivery.sequence,
                    unix_millis: delivery.unix_millis(),
                    says: Says::Malformed,
                };
                self.held.insert(Arc::clone(&tokens), held);
                let malformed = Malformed {
                    tokens,
                    sequence: delivery.sequence,
                    reason,
                };
                self.malformed.insert(delivery.sequence, malformed);
                return;
            }
        };
        let vacated = self.vacate(delivery.tokens);
        let is_home = cache_stream::home(&key).is_some_and(|home| home == delivery.tokens);
        let tag = match &evidence {
            Some(evidence) => Tag(evidence.own.id),
            None => Tag::of_foreign(delivery.unix_nanos.into(), delivery.body),
        };
        let place = self.entries.entry(Arc::new(key));
        let key = Arc::clone(place.key());
        let slot = place.or_default();
        let (before, overwritten) = vacated.unzip();
        let overwritten = overwritten.flatten();
        if is_home {
            match evidence {
                Some(_) => slot.kept = None,
                None => slot.kept = overwritten.or_else(|| slot.kept.take()),
            }
        }
        let held = Held {
            sequence: delivery.sequence,
            unix_millis: delivery.unix_millis(),
            says: Says::Entry(Arc::clone(&key)),
        };
        self.held.insert(Arc::clone(&tokens), held);
        // One is the rule; room for four would be the largest part of an entry.
        slot.carriers.reserve_exact(1);
        slot.carriers.push(Carrier {
            tokens,
            is_home,
            sequence: delivery.sequence,
            unix_nanos: delivery.unix_nanos,
            entry,
            is_tombstone,
            is_plain,
            tag,
            evidence: evidence.and(delivery.evidence).map(Into::into),
        });
        if slot.carriers.len() > 1 {
            self.crowded.insert(Arc::clone(&key));
        }
        if let Some(before) = before.filter(|before| *before != key) {
            self.forget_if_empty(&before);
        }
    }

    /// Takes a message out that the stream no longer holds; nothing where another is on its subject by now.
    pub fn remove(&mut self, tokens: &str, sequence: u64) {
        let Some(held) = self.held.get(tokens).filter(|held| held.sequence == sequence) else {
            return;
        };
        let key = match &held.says {
            Says::Entry(key) => Some(Arc::clone(key)),
            Says::Malformed => None,
        };
        let past = self.take_out(tokens);
        if let Some(slot) = key.and_then(|key| self.entries.get_mut(&key)) {
            slot.kept = past.or_else(|| slot.kept.take());
        }
    }

    /// Takes out what is on the subject. Where it was a home message, gives the calls on record: its own or, of
    /// a foreign one, those kept of the gateway's message before.
    fn take_out(&mut self, tokens: &str) -> Option<Box<Past>> {
        let (key, past) = self.vacate(tokens)?;
        self.forget_if_empty(&key);
        past
    }

    /// As [`Self::take_out`], with the entry that was on the subject, whose slot stays even where it is empty now.
    fn vacate(&mut self, tokens: &str) -> Option<(Arc<EntryKey>, Option<Box<Past>>)> {
        let held = self.held.remove(tokens)?;
        let Says::Entry(key) = held.says else {
            self.malformed.remove(&held.sequence);
            return None;
        };
        let slot = self.entries.get_mut(&key)?;
        let place = slot
            .carriers
            .iter()
            .position(|carrier| &*carrier.tokens == tokens)?;
        let carrier = slot.carriers.swap_remove(place);
        let past = if carrier.is_home {
            carrier.past().map(Box::new).or_else(|| slot.kept.take())
        } else {
            None
        };
        if slot.carriers.len() == 1 {
            self.crowded.remove(&key);
        }
        Some((key, past))
    }

    fn forget_if_empty(&mut self, key: &EntryKey) {
        if self.entries.get(key).is_some_and(|slot| slot.carriers.is_empty()) {
            self.entries.remove(key);
        }
    }

    /// Notes that the stream holds nothing more up to this revision.
    pub fn reached(&mut self, revision: Revision) {
        if revision.epoch == self.epoch {
            self.position = self.position.max(revision.sequence);
        }
    }

    /// Where the mirror is.
    pub fn position(&self) -> Revision {
        Revision {
            epoch: self.epoch,
            sequence: self.position,
        }
    }

    /// Messages held.
    pub fn messages(&self) -> u64 {
        u64::try_from(self.held.len()).unwrap_or(u64::MAX)
    }

    /// Whether messages are held, at or below the last sequence that the leader told, that it no longer has. What came
    /// since may have overwritten others: then a few that were removed may go unnoticed, and never all.
    pub fn holds_more_than(&self, told: Told) -> bool {
        let newer = self.position.saturating_sub(told.last.sequence);
        if self.epoch != told.last.epoch || self.messages() <= told.messages {
            return false;
        }
        let is_surplus_old = || {
            let old = |held: &&Held| held.sequence <= told.last.sequence;
            let count = self.held.values().filter(old).count();
            u64::try_from(count).is_ok_and(|count| count > told.messages)
        };
        self.messages() > told.messages + newer || is_surplus_old()
    }

    /// Looks at one entry, for the call of this id.
    pub fn view(&self, key: &EntryKey, id: [u8; 8]) -> View {
        let slot = self.entries.get(key);
        let home = slot.and_then(Slot::home).map(|home| home.sequence);
        // What is on the home and is no carrier of the entry: malformed, or another entry's. It has to be replaced, and
        // may have overwritten the entry's record.
        let squatter = match home {
            Some(_) => None,
            None => cache_stream::home(key).and_then(|tokens| self.held.get(&*tokens)),
        };
        let past = slot.map(Slot::past).unwrap_or_default();
        let past = match squatter {
            Some(held) => past.forgotten_until(held.unix_millis),
            None => past,
        };
        let view = View {
            position: self.position(),
            winner: slot.and_then(Slot::winner).map(|carrier| self.won(carrier)),
            home_sequence: home.or_else(|| squatter.map(|held| held.sequence)).unwrap_or(0),
            applied: past.find(id).or_else(|| self.witness.find(id)),
            witnessed_since: self.witness.complete_since(self.position),
            past,
        };
        if Safeguard::RingAndHorizon.holds() {
            return view;
        }
        View {
            past: Past::default(),
            applied: None,
            ..view
        }
    }

    /// Looks at what wins the fold of one entry.
    pub fn winner(&self, key: &EntryKey) -> Option<Winner> {
        Some(self.won(self.entries.get(key)?.winner()?))
    }

    fn won(&self, carrier: &Carrier) -> Winner {
        Winner {
            revision: self.at(carrier.sequence),
            unix_nanos: Some(carrier.unix_nanos),
            tag: carrier.tag,
            entry: Arc::clone(&carrier.entry),
            is_tombstone: carrier.is_tombstone,
            is_plain: carrier.is_plain,
        }
    }

    /// The entries of a kind that stand, in the order of their keys, behind `after` where given.
    pub fn standing(
        &self,
        kind: Kind,
        after: Option<EntryKey>,
    ) -> impl Iterator<Item = (&EntryKey, Standing)> {
        let start = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(EntryKey::first_of(kind)),
        };
        self.entries
            .range::<EntryKey, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.kind() == kind)
            .filter_map(|(key, slot)| {
                let winner = self.won(slot.winner()?);
                Some((&**key, winner.standing()?))
            })
    }

    /// Whether at least so many entries stand.
    pub fn has_standing(&self, count: u64) -> bool {
        let stands = |slot: &&Slot| slot.winner().is_some_and(|winner| !winner.is_tombstone);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.entries.values().filter(stands).take(count).count() == count
    }

    /// The messages that no host can use, by sequence.
    pub fn malformed(&self) -> impl ExactSizeIterator<Item = &Malformed> {
        self.malformed.values()
    }

    /// The superseded copies of entries.
    pub fn stale(&self) -> impl Iterator<Item = Stale> {
        self.crowded
            .iter()
            .filter_map(|key| self.entries.get(key))
            .flat_map(|slot| {
                let winner = slot.winner().map_or(0, |winner| winner.sequence);
                slot.carriers
                    .iter()
                    .filter(move |carrier| carrier.sequence < winner)
                    .map(|carrier| Stale {
                        tokens: Arc::clone(&carrier.tokens),
                        sequence: carrier.sequence,
                        unix_millis: carrier.unix_millis(),
                        is_home: carrier.is_home,
                    })
            })
    }

    /// Whether some entry has more than one carrier.
    pub fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// The messages, at or below `sequence`, that `subjects` lacks: what somebody purged or deleted.
    pub fn missing(&self, sequence: u64, is_held: impl Fn(&str) -> bool) -> Vec<(Arc<str>, u64)> {
        self.held
            .iter()
            .filter(|(tokens, held)| held.sequence <= sequence && !is_held(tokens))
            .map(|(tokens, held)| (Arc::clone(tokens), held.sequence))
            .collect()
    }

    /// Takes over the kept evidence of an earlier look at the same incarnation, and what was seen.
    fn inherit(&mut self, earlier: &Self) {
        if earlier.epoch != self.epoch || earlier.position > self.position {
            return;
        }
        if self.is_same_life(earlier) {
            self.witness.go_on_from(&earlier.witness);
        }
        for (key, old) in &earlier.entries {
            let Some(slot) = self.entries.get_mut(key) else {
                continue;
            };
            let is_foreign = slot.home().is_none_or(|home| home.evidence.is_none());
            if is_foreign {
                let past = old.home().and_then(Carrier::past).map(Box::new);
                slot.kept = past.or_else(|| old.kept.clone());
            }
        }
    }

    /// Whether a message stands that stood then. A memory stream whose servers all restarted begins anew with the same
    /// creation time, hence the same epoch.
    fn is_same_life(&self, earlier: &Self) -> bool {
        self.held.iter().any(|(tokens, held)| {
            let before = earlier.held.get(tokens);
            before.is_some_and(|before| {
                (before.sequence, before.unix_millis) == (held.sequence, held.unix_millis)
            })
        })
    }

    fn at(&self, sequence: u64) -> Revision {
        Revision {
            epoch: self.epoch,
            sequence,
        }
    }
}

/// The mirror of one stream: read by calls, written by the one [feed](super::feed).
#[derive(Debug)]
pub struct Mirror {
    inner: RwLock<Inner>,
    /// Counts how often the contents were read anew.
    exchanges: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    contents: Option<Contents>,
    /// Who waits for which position of the present contents.
    waiters: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
}

impl Mirror {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self {
            inner: RwLock::default(),
            exchanges: watch::Sender::new(0),
        }
    }

    /// Looks at what the stream holds; `None` until it was read once.
    pub fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> Option<T> {
        self.inner.read().contents.as_ref().map(look)
    }

    /// Where the mirror is.
    pub fn position(&self) -> Option<Revision> {
        self.read(Contents::position)
    }

    /// Resolves once the stream was read.
    pub async fn ready(&self) {
        if self.position().is_some() {
            return;
        }
        let mut exchanges = self.exchanges.subscribe();
        while self.position().is_none() {
            if exchanges.changed().await.is_err() {
                return;
            }
        }
    }

    /// How often the stream was read anew.
    pub fn exchanges(&self) -> u64 {
        *self.exchanges.borrow()
    }

    /// Resolves once the stream was read anew more often than that.
    pub async fn exchanged_since(&self, exchanges: u64) {
        let mut receiver = self.exchanges.subscribe();
        // The sender lives as long as `self`.
        drop(receiver.wait_for(|now| *now > exchanges).await);
    }

    /// Resolves once the mirror is of the target's epoch and has reached it.
    pub async fn reached(&self, target: Revision) {
        loop {
            let exchanges = self.exchanges();
            match self.arrival(target) {
                Arrival::Here => return,
                // The sender is dropped where the contents are exchanged: look again.
                Arrival::Ahead(arrival) => drop(arrival.await),
                Arrival::OtherEpoch => self.exchanged_since(exchanges).await,
            }
        }
    }

    fn arrival(&self, target: Revision) -> Arrival {
        let mut inner = self.inner.write();
        match inner.contents.as_ref().map(Contents::position) {
            Some(at) if at.epoch != target.epoch => Arrival::OtherEpoch,
            None => Arrival::OtherEpoch,
            Some(at) if at.sequence >= target.sequence => Arrival::Here,
            Some(_) => {
                let (sender, receiver) = oneshot::channel();
                inner.waiters.entry(target.sequence).or_default().push(sender);
                Arrival::Ahead(receiver)
            }
        }
    }

    /// Puts what was read anew in the place of what was known.
    pub(super) fn exchange(&self, mut contents: Contents) {
        let mut inner = self.inner.write();
        if let Some(earlier) = &inner.contents {
            contents.inherit(earlier);
        }
        inner.contents = Some(contents);
        inner.waiters.clear();
        drop(inner);
        self.exchanges.send_modify(|exchanges| *exchanges += 1);
    }

    /// Changes the contents, and wakes who waited for the position.
    pub(super) fn change(&self, change: impl FnOnce(&mut Contents)) {
        let mut inner = self.inner.write();
        let Inner { contents, waiters } = &mut *inner;
        let Some(contents) = contents else {
            return;
        };
        change(contents);
        while let Some(first) = waiters.first_entry()
            && *first.key() <= contents.position
        {
            for waiter in first.remove() {
                if waiter.send(()).is_err() {
                    // Whoever waited has given up.
                }
            }
        }
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

enum Arrival {
    Here,
    Ahead(oneshot::Receiver<()>),
    OtherEpoch,
}
