//! What a stream holds, folded into entries as hosts fold it, kept in memory.
//!
//! Several messages can carry one entry, since hosts put links on random subjects: the highest sequence wins.
//! The mirror keeps all carriers, so that the fold is exact when one goes, and the evidence of a home message
//! that a host overwrote, until the next write carries it on. Invariant: `entries`, `held` and `crowded` tell
//! the same story; only [`Contents::put`] and [`Contents::remove`] change them. What they change of an entry as the API
//! shows it is noted in the [change log](super::changes), and so is what differs where the stream was read anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::sleep,
};

use super::{
    changes::{ChangeLog, Place},
    evidence::{Applied, Packed, Past, Stamp, is_behind},
    layout::{Decoded, Part},
    witness::Witness,
};
use crate::{
    domain::{
        ComponentRecord, Entry, EntryKey, Epoch, Etag, InterfaceLink, InterfaceLinkId, Kind, Revision,
        component::StoredLink, revision::Tag,
    },
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
    /// Whether it is the marker of a bucket that its key is gone.
    pub is_marker: bool,
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
    state: State,
    tag: Tag,
    evidence: Option<Packed>,
}

impl Carrier {
    fn unix_millis(&self) -> i64 {
        millis_rounded_up(self.unix_nanos)
    }

    /// The calls on record once this message is the home's; `None` for a foreign one.
    fn past(&self) -> Option<Past> {
        let evidence = self.evidence.as_ref()?.evidence()?;
        Some(evidence.into_past(self.sequence, self.unix_millis()))
    }
}

/// What a message makes of its entry.
#[derive(Clone, Debug)]
pub enum State {
    /// It stands.
    Stands {
        /// What it says.
        entry: Arc<Entry>,
        /// Whether the message says just that, see [`Decoded::Put`].
        is_plain: bool,
    },
    /// It is absent.
    Gone {
        /// What it said, as far as that is known.
        entry: Option<Arc<Entry>>,
    },
}

impl State {
    /// Whether the entry is absent.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// What the entry says, or said.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Stands { entry, .. } => Some(entry),
            Self::Gone { entry } => entry.as_ref(),
        }
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
    /// What is on the home and says nothing of the entry.
    pub squatter: Option<Squatter>,
    /// The calls on record.
    pub past: Past,
    /// Where the call was applied before, by the record or by what this mirror has seen.
    pub applied: Option<Applied>,
    /// Since when (stream time, Unix milliseconds) the mirror has seen every call, whatever the record says.
    pub witnessed_since: Option<i64>,
}

/// What is on an entry's home in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Squatter {
    /// A message that hosts cannot use, or that says nothing.
    Unusable,
    /// Another entry, which stands.
    Entry(Arc<EntryKey>),
}

/// What came after a call on an entry of a shared record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// No call of any gateway. What else changed the entry was a host.
    NoCall,
    /// Another call.
    Call,
    /// Nobody can tell: a host overwrote the record, and this mirror has not followed the stream since.
    Unknown,
}

/// The message that wins the fold of an entry.
#[derive(Clone, Debug)]
pub struct Winner {
    /// Where it is.
    pub revision: Revision,
    /// Identifies what it made of the entry.
    pub etag: Etag,
    /// When the stream stored it, Unix nanoseconds; `None` where the mirror has not seen it yet.
    pub unix_nanos: Option<i64>,
    /// What it made of the entry.
    pub state: State,
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
            squatter: None,
            past: Past::default(),
            applied: None,
            witnessed_since: None,
        }
    }

    /// Whether nothing tells of the entry: it never was, or its record went with it, by a purge or with the stream.
    pub fn is_void(&self) -> bool {
        self.winner.is_none() && self.home_sequence == 0
    }

    /// Whether the call, if it was applied since `unix_millis` (stream time), is known to have been.
    pub fn is_complete_since(&self, unix_millis: i64) -> bool {
        let is_witnessed = self
            .witnessed_since
            .is_some_and(|since| is_behind(since, unix_millis));
        let is_on_record = !self.is_void() && self.past.is_complete_since(unix_millis);
        is_witnessed || is_on_record
    }

    /// The entry, where it stands.
    pub fn standing(&self) -> Option<Standing> {
        self.winner.as_ref()?.standing()
    }
}

impl Winner {
    /// A message that makes its whole entry, of which the etag tells place and write.
    pub fn of_message(revision: Revision, tag: Tag, unix_nanos: Option<i64>, state: State) -> Self {
        let etag = Etag { revision, tag };
        Self {
            revision,
            etag,
            unix_nanos,
            state,
        }
    }

    /// The entry, where it stands.
    pub fn standing(&self) -> Option<Standing> {
        match &self.state {
            State::Stands { entry, is_plain } => Some(Standing {
                entry: Arc::clone(entry),
                is_plain: *is_plain,
                etag: self.etag,
                revision: self.revision,
                unix_nanos: self.unix_nanos,
            }),
            State::Gone { .. } => None,
        }
    }
}

impl From<Standing> for Winner {
    fn from(standing: Standing) -> Self {
        Self {
            revision: standing.revision,
            etag: standing.etag,
            unix_nanos: standing.unix_nanos,
            state: State::Stands {
                entry: standing.entry,
                is_plain: standing.is_plain,
            },
        }
    }
}

/// An entry that stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it says.
    pub entry: Arc<Entry>,
    /// Whether the message says just that, see [`Decoded::Put`].
    pub is_plain: bool,
    /// Identifies this state.
    pub etag: Etag,
    /// Where it was last written.
    pub revision: Revision,
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

/// An entry that several messages say something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// The entry.
    pub key: Arc<EntryKey>,
    /// The messages, the newest first: what it says is what the entry is.
    pub copies: Vec<Copied>,
}

/// One message of several that say something of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its subject behind the lattice's prefix.
    pub tokens: Arc<str>,
    /// Its sequence.
    pub sequence: u64,
    /// Whether it says that the entry is absent.
    pub is_gone: bool,
}

/// What a stream's leader told of it.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The last sequence.
    pub last: Revision,
    /// How many subjects have a message.
    pub subjects: u64,
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
    /// That an entry is gone whose name is not known.
    Unnamed,
    Malformed,
    Nothing,
}

/// Everything one incarnation of a stream holds.
#[derive(Debug)]
pub struct Contents {
    part: Part,
    epoch: Epoch,
    position: u64,
    entries: BTreeMap<Arc<EntryKey>, Slot>,
    /// What tells that an entry is gone whose name is not known, by the subject behind the lattice's prefix.
    unnamed: HashMap<Arc<str>, Slot>,
    held: HashMap<Arc<str>, Held>,
    malformed: BTreeMap<u64, Malformed>,
    /// Entries with more than one carrier.
    crowded: BTreeSet<Arc<EntryKey>>,
    witness: Witness,
    /// What changed since a mirror first had these contents.
    changes: ChangeLog,
}

/// What is told of a message, which may be overwritten by now.
#[derive(Debug, Default)]
struct ToldMessage {
    unix_millis: i64,
    calls: Vec<Stamp>,
}

/// What was on a subject, and was taken out.
#[derive(Debug, Default)]
struct Vacated {
    /// The entry of which it said something.
    key: Option<Arc<EntryKey>>,
    /// What it made of that, where it won the fold.
    won: Option<State>,
    /// The message itself, where it was a home message.
    home: Option<Carrier>,
    /// Where that was foreign, the calls on record of the gateway's message before.
    kept: Option<Box<Past>>,
}

impl Vacated {
    /// Of a home message, the calls on record.
    fn past(self) -> Option<Box<Past>> {
        let own = self.home.as_ref().and_then(Carrier::past);
        own.map(Box::new).or(self.kept)
    }
}

impl Contents {
    /// Nothing yet of an incarnation.
    pub fn new(part: Part, epoch: Epoch) -> Self {
        Self {
            part,
            epoch,
            position: 0,
            entries: BTreeMap::new(),
            unnamed: HashMap::new(),
            held: HashMap::new(),
            malformed: BTreeMap::new(),
            crowded: BTreeSet::new(),
            witness: Witness::default(),
            changes: ChangeLog::new(),
        }
    }

    /// Takes a message in.
    pub fn put(&mut self, delivery: &Delivery<'_>) {
        self.position = self.position.max(delivery.sequence);
        let tokens: Arc<str> = delivery.tokens.into();
        let (evidence, own, others) = match delivery.evidence.and_then(Packed::decode) {
            Some((evidence, own, others)) => (Some(evidence), Some(own), others),
            None => (None, None, Vec::new()),
        };
        let calls = others.into_iter().chain(own);
        self.witness.see(delivery.sequence, delivery.unix_millis(), calls);
        let decoded = self
            .part
            .decode(delivery.tokens, delivery.is_marker, delivery.body);
        let (key, state) = match decoded {
            Decoded::Put { key, entry, is_plain } => {
                let entry = Arc::new(entry);
                (Some(Arc::new(key)), State::Stands { entry, is_plain })
            }
            Decoded::Deleted { key, entry } => {
                let entry = entry.map(Arc::new).or_else(|| self.said(&key));
                (Some(Arc::new(key)), State::Gone { entry })
            }
            Decoded::DeletedUnnamed => {
                let key = self.named(delivery.tokens);
                let entry = key.as_ref().and_then(|key| self.said(key));
                (key, State::Gone { entry })
            }
            Decoded::Malformed(reason) => return self.put_useless(&tokens, delivery, Some(reason)),
            Decoded::Nothing => return self.put_useless(&tokens, delivery, None),
        };
        let mut vacated = self.vacate(delivery.tokens);
        let (before, won) = (vacated.key.take(), vacated.won.take());
        let is_home = key
            .as_ref()
            .is_none_or(|key| self.part.home(key).is_some_and(|home| home == delivery.tokens));
        let tag = match own {
            Some(own) => Tag(own.id),
            None => Tag::of_foreign(delivery.unix_nanos.into(), delivery.body),
        };
        let (says, slot) = match key {
            Some(key) => {
                let place = self.entries.entry(key);
                let key = Arc::clone(place.key());
                (Says::Entry(key), place.or_default())
            }
            None => (
                Says::Unnamed,
                self.unnamed.entry(Arc::clone(&tokens)).or_default(),
            ),
        };
        if is_home {
            slot.kept = match evidence {
                Some(_) => None,
                None => vacated.past().or_else(|| slot.kept.take()),
            };
        }
        // One is the rule; room for four would be the largest part of an entry.
        slot.carriers.reserve_exact(1);
        slot.carriers.push(Carrier {
            tokens: Arc::clone(&tokens),
            is_home,
            sequence: delivery.sequence,
            unix_nanos: delivery.unix_nanos,
            state: state.clone(),
            tag,
            evidence,
        });
        let key = match &says {
            Says::Entry(key) => Some(Arc::clone(key)),
            Says::Unnamed | Says::Malformed | Says::Nothing => None,
        };
        if let Some(key) = key.as_ref().filter(|_| slot.carriers.len() > 1) {
            self.crowded.insert(Arc::clone(key));
        }
        let held = Held {
            sequence: delivery.sequence,
            unix_millis: delivery.unix_millis(),
            says,
        };
        self.held.insert(tokens, held);
        match before.filter(|before| Some(before) != key.as_ref()) {
            None => self.note(key.as_ref(), won.as_ref(), Some(&state)),
            Some(before) => {
                self.forget_if_empty(&before);
                self.note(Some(&before), won.as_ref(), None);
                self.note(key.as_ref(), None, Some(&state));
            }
        }
    }

    /// Notes what changed of an entry by what wins its fold now, and what won it before; for a record of links both.
    fn note(&mut self, key: Option<&Arc<EntryKey>>, before: Option<&State>, after: Option<&State>) {
        let Some(key) = key else {
            return;
        };
        if let EntryKey::Component(source) = &**key {
            for id in changed_links(source, before, after) {
                self.changes.note(Arc::new(EntryKey::InterfaceLink(id)));
            }
        } else if before.is_some() || after.is_some() {
            self.changes.note(Arc::clone(key));
        }
    }

    /// Takes in a message that says nothing of any entry.
    fn put_useless(&mut self, tokens: &Arc<str>, delivery: &Delivery<'_>, reason: Option<&'static str>) {
        self.take_out(tokens);
        let sequence = delivery.sequence;
        let held = Held {
            sequence,
            unix_millis: delivery.unix_millis(),
            says: if reason.is_some() {
                Says::Malformed
            } else {
                Says::Nothing
            },
        };
        self.held.insert(Arc::clone(tokens), held);
        if let Some(reason) = reason {
            let tokens = Arc::clone(tokens);
            let malformed = Malformed {
                tokens,
                sequence,
                reason,
            };
            self.malformed.insert(sequence, malformed);
        }
    }

    /// What an entry that stands says.
    fn said(&self, key: &EntryKey) -> Option<Arc<Entry>> {
        match &self.entries.get(key)?.winner()?.state {
            State::Stands { entry, .. } => Some(Arc::clone(entry)),
            State::Gone { .. } => None,
        }
    }

    /// Which entry is on a subject.
    fn named(&self, tokens: &str) -> Option<Arc<EntryKey>> {
        match &self.held.get(tokens)?.says {
            Says::Entry(key) => Some(Arc::clone(key)),
            Says::Unnamed | Says::Malformed | Says::Nothing => None,
        }
    }

    /// Takes a message out that the stream no longer holds; nothing where another is on its subject by now.
    pub fn remove(&mut self, tokens: &str, sequence: u64) {
        let Some(held) = self.held.get(tokens).filter(|held| held.sequence == sequence) else {
            return;
        };
        let key = match &held.says {
            Says::Entry(key) => Some(Arc::clone(key)),
            Says::Unnamed | Says::Malformed | Says::Nothing => None,
        };
        let past = self.take_out(tokens);
        if let Some(slot) = key.and_then(|key| self.entries.get_mut(&key)) {
            slot.kept = past.or_else(|| slot.kept.take());
        }
    }

    /// Takes out what is on the subject; gives the calls on record, where that was a home message.
    fn take_out(&mut self, tokens: &str) -> Option<Box<Past>> {
        let vacated = self.vacate(tokens);
        if let Some(key) = &vacated.key {
            self.forget_if_empty(key);
        }
        self.note(vacated.key.as_ref(), vacated.won.as_ref(), None);
        vacated.past()
    }

    /// As [`Self::take_out`], but the slot of the entry stays even where it is empty now.
    fn vacate(&mut self, tokens: &str) -> Vacated {
        let Some(held) = self.held.remove(tokens) else {
            return Vacated::default();
        };
        let key = match held.says {
            Says::Entry(key) => key,
            Says::Unnamed => {
                let slot = self.unnamed.remove(tokens).unwrap_or_default();
                return Vacated {
                    home: slot.carriers.into_iter().find(|carrier| carrier.is_home),
                    kept: slot.kept,
                    ..Vacated::default()
                };
            }
            Says::Malformed => {
                self.malformed.remove(&held.sequence);
                return Vacated::default();
            }
            Says::Nothing => return Vacated::default(),
        };
        let Some(slot) = self.entries.get_mut(&key) else {
            return Vacated::default();
        };
        let place = slot
            .carriers
            .iter()
            .position(|carrier| &*carrier.tokens == tokens);
        let Some(place) = place else {
            return Vacated::default();
        };
        let carrier = slot.carriers.swap_remove(place);
        let is_foreign_home = carrier.is_home && carrier.evidence.is_none();
        let kept = slot.kept.take_if(|_past| is_foreign_home);
        let did_win = slot
            .winner()
            .is_none_or(|winner| winner.sequence < carrier.sequence);
        if slot.carriers.len() == 1 {
            self.crowded.remove(&key);
        }
        Vacated {
            key: Some(key),
            won: did_win.then(|| carrier.state.clone()),
            home: carrier.is_home.then_some(carrier),
            kept,
        }
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

    /// Subjects on which a message is held.
    pub fn subjects(&self) -> u64 {
        u64::try_from(self.held.len()).unwrap_or(u64::MAX)
    }

    /// Whether messages are held, at or below the last sequence that the leader told, that it no longer has. What came
    /// since may have overwritten others: then a few that were removed may go unnoticed, and never all.
    pub fn holds_more_than(&self, told: Told) -> bool {
        let newer = self.position.saturating_sub(told.last.sequence);
        if self.epoch != told.last.epoch || self.subjects() <= told.subjects {
            return false;
        }
        let is_surplus_old = || {
            let old = |held: &&Held| held.sequence <= told.last.sequence;
            let count = self.held.values().filter(old).count();
            u64::try_from(count).is_ok_and(|count| count > told.subjects)
        };
        self.subjects() > told.subjects + newer || is_surplus_old()
    }

    /// Looks at one entry, for the call of this id.
    pub fn view(&self, key: &EntryKey, id: [u8; 8]) -> View {
        let slot = self.entries.get(key);
        let home = slot.and_then(Slot::home).map(|home| home.sequence);
        // What is on the home and is no carrier of the entry: it tells that something unnamed is gone, which can only be
        // this entry; or it is malformed, or another entry's. Then it has to be replaced, and may have overwritten the
        // entry's record.
        let tokens = match home {
            Some(_) => None,
            None => self.part.home(key),
        };
        let unnamed = tokens.as_deref().and_then(|tokens| self.unnamed.get(tokens));
        let slot = unnamed.or(slot);
        let squatter = match unnamed {
            Some(_) => None,
            None => tokens.as_deref().and_then(|tokens| self.held.get(tokens)),
        };
        let home = slot.and_then(Slot::home).map(|home| home.sequence);
        let past = slot.map(Slot::past).unwrap_or_default();
        let past = match squatter {
            Some(held) => past.forgotten_until(held.unix_millis),
            None => past,
        };
        let view = View {
            position: self.position(),
            winner: slot.and_then(Slot::winner).map(|carrier| self.won(carrier)),
            home_sequence: home.or_else(|| squatter.map(|held| held.sequence)).unwrap_or(0),
            squatter: squatter.map(|held| self.squatter(held)),
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

    fn squatter(&self, held: &Held) -> Squatter {
        match &held.says {
            // Elsewhere it is no other entry's home too, and can be taken.
            Says::Entry(other) if self.part == Part::Kv && self.said(other).is_some() => {
                Squatter::Entry(Arc::clone(other))
            }
            Says::Entry(_) | Says::Unnamed | Says::Malformed | Says::Nothing => Squatter::Unusable,
        }
    }

    /// Where a call was applied, as far as this mirror has seen it.
    pub fn witnessed(&self, id: [u8; 8]) -> Option<Applied> {
        self.witness.find(id)
    }

    /// What came after a call on a link that was applied at a sequence: by the record or, where a host overwrote that, by
    /// what this mirror has seen.
    pub fn after(&self, id: &InterfaceLinkId, call: [u8; 8], sequence: u64) -> After {
        let slot = self.entries.get(&EntryKey::Component(id.source_id.clone()));
        let is_on_record = slot.is_some_and(|slot| slot.past().is_overtaken(call));
        if is_on_record || self.witness.has_later(id.short_hash(), sequence) {
            return After::Call;
        }
        match self.witness.is_gapless_from(sequence, self.position) {
            true => After::NoCall,
            false => After::Unknown,
        }
    }

    /// Looks at what wins the fold of one entry.
    pub fn winner(&self, key: &EntryKey) -> Option<Winner> {
        Some(self.won(self.entries.get(key)?.winner()?))
    }

    fn won(&self, carrier: &Carrier) -> Winner {
        let revision = self.at(carrier.sequence);
        Winner::of_message(
            revision,
            carrier.tag,
            Some(carrier.unix_nanos),
            carrier.state.clone(),
        )
    }

    /// The entries of a kind that stand, in the order of their keys, behind `after` where given. Not of interface links,
    /// which [`Self::interface_links`] gives.
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

    /// The interface links, in the order of their keys, behind `after` where given.
    pub fn interface_links(
        &self,
        after: Option<InterfaceLinkId>,
    ) -> impl Iterator<Item = (InterfaceLinkId, Standing)> {
        let first = after.as_ref().map_or("", |after| &after.source_id);
        let start = EntryKey::Component(first.into());
        self.entries
            .range::<EntryKey, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| key.kind() == Kind::Component)
            .filter_map(|(key, slot)| {
                let EntryKey::Component(source) = &**key else {
                    return None;
                };
                Some((source, self.won(slot.winner()?).standing()?))
            })
            .flat_map(|(source, of_record)| links_of(source, &of_record))
            .skip_while(move |(id, _)| after.as_ref().is_some_and(|after| id <= after))
    }

    /// One interface link, where it stands.
    pub fn interface_link(&self, id: &InterfaceLinkId) -> Option<Standing> {
        let winner = self.winner(&EntryKey::Component(id.source_id.clone()))?;
        let of_record = winner.standing()?;
        let record = as_record(&of_record.entry)?;
        Some(standing_link(record, record.find(id)?, &of_record))
    }

    /// The links of one source that match all but the target.
    pub fn links_to_any_target(&self, id: &InterfaceLinkId) -> Vec<(InterfaceLinkId, Standing)> {
        let of_record = self
            .winner(&EntryKey::Component(id.source_id.clone()))
            .and_then(|winner| winner.standing());
        let Some(of_record) = of_record else {
            return Vec::new();
        };
        let mut links = links_of(&id.source_id, &of_record);
        links.retain(|(stored, _)| stored.is_same_but_target(id));
        links
    }

    /// Records with links of another source, where no host finds them by their own: which, and where.
    pub fn misfiled_links(&self) -> impl Iterator<Item = (&str, u64)> {
        self.standing(Kind::Component, None)
            .filter_map(|(key, standing)| {
                let (EntryKey::Component(source), record) = (key, as_record(&standing.entry)?) else {
                    return None;
                };
                let is_misfiled = |stored: &StoredLink| stored.id.source_id != *source;
                let is_any = record.links.iter().any(is_misfiled);
                is_any.then_some((&**source, standing.revision.sequence))
            })
    }

    /// A link that names a config; of a lattice whose links these are.
    pub fn link_with_config(&self, name: &str) -> Option<InterfaceLinkId> {
        // Over the records as they are: every delete of a config looks through all links.
        self.standing(Kind::Component, None).find_map(|(key, standing)| {
            let mut links = as_record(&standing.entry)?.links.iter();
            let names_it = |stored: &&StoredLink| {
                let is_own = matches!(key, EntryKey::Component(source) if *source == stored.id.source_id);
                is_own && stored.link.configs().any(|config| config == name)
            };
            Some(links.find(names_it)?.id.clone())
        })
    }

    /// Whether at least so many entries stand.
    pub fn has_standing(&self, count: u64) -> bool {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut found = 0;
        self.entries.values().any(|slot| {
            let winner = slot.winner().filter(|winner| !winner.state.is_gone());
            let entry = winner.and_then(|winner| winner.state.entry());
            found += entry.map_or(0, |entry| entry.count());
            found >= count
        }) || count == 0
    }

    /// Whether a key stands that only hosts of another era write.
    pub fn has_key_of(&self, prefix: &str) -> bool {
        self.held.keys().any(|tokens| tokens.starts_with(prefix))
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

    /// The entries that several messages say something of.
    pub fn crowds(&self) -> impl Iterator<Item = Crowd> {
        self.crowded.iter().filter_map(|key| {
            let carriers = self.entries.get(key)?.carriers.iter();
            let copy = |carrier: &Carrier| Copied {
                tokens: Arc::clone(&carrier.tokens),
                sequence: carrier.sequence,
                is_gone: carrier.state.is_gone(),
            };
            let mut copies = carriers.map(copy).collect::<Vec<_>>();
            copies.sort_by_key(|copy| std::cmp::Reverse(copy.sequence));
            let key = Arc::clone(key);
            Some(Crowd { key, copies })
        })
    }

    /// What is held on subjects that begin so, behind the lattice's prefix: the subject and the sequence, by sequence.
    pub fn held_under(&self, prefix: &str) -> Vec<(&str, u64)> {
        let held = self
            .held
            .iter()
            .filter(|(tokens, _)| tokens.starts_with(prefix))
            .map(|(tokens, held)| (&**tokens, held.sequence));
        let mut held = held.collect::<Vec<_>>();
        held.sort_by_key(|(_, sequence)| *sequence);
        held
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
    fn inherit(&mut self, earlier: &mut Self) {
        if earlier.epoch != self.epoch || earlier.position > self.position {
            return;
        }
        if self.is_same_life(earlier) {
            let mut witness = std::mem::take(&mut earlier.witness);
            for (sequence, told) in self.told_behind(witness.lacks_behind(self.position)) {
                witness.see(sequence, told.unix_millis, told.calls);
            }
            self.witness = witness;
        }
        for (key, old) in &earlier.entries {
            self.name(key);
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

    /// By sequence, what is told of every message behind one: by itself, or by the record of what overwrote it.
    fn told_behind(&self, sequence: u64) -> BTreeMap<u64, ToldMessage> {
        let mut told = BTreeMap::<u64, ToldMessage>::new();
        for held in self.held.values().filter(|held| held.sequence > sequence) {
            told.entry(held.sequence).or_default().unix_millis = held.unix_millis;
        }
        let slots = self.entries.values().chain(self.unnamed.values());
        for carrier in slots.flat_map(|slot| &slot.carriers) {
            let evidence = carrier.evidence.as_ref().filter(|_| carrier.sequence > sequence);
            let Some(evidence) = evidence.and_then(Packed::evidence) else {
                continue;
            };
            let calls = evidence.whole_messages(carrier.sequence, carrier.unix_millis());
            for applied in calls.filter(|call| call.sequence > sequence) {
                let message = told.entry(applied.sequence).or_default();
                message.unix_millis = applied.unix_millis;
                message.calls.push(applied.stamp);
            }
        }
        told
    }

    /// Names what tells that this entry is gone.
    fn name(&mut self, key: &Arc<EntryKey>) {
        if self.unnamed.is_empty() {
            return;
        }
        let Some((tokens, slot)) = self
            .part
            .home(key)
            .and_then(|home| self.unnamed.remove_entry(&*home))
        else {
            return;
        };
        if let Some(held) = self.held.get_mut(&tokens) {
            held.says = Says::Entry(Arc::clone(key));
        }
        self.entries.insert(Arc::clone(key), slot);
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

    /// What changed, as far back as it is remembered.
    pub fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    /// One entry as the API shows it, where it stands.
    pub fn shown(&self, key: &EntryKey) -> Option<Standing> {
        if let EntryKey::InterfaceLink(id) = key {
            return self.interface_link(id);
        }
        self.winner(key)?.standing()
    }

    /// Goes on with the log of an earlier look at the same life of the stream, and with what changed in between.
    fn go_on_telling(&mut self, earlier: &mut Self) {
        let is_later = earlier.epoch == self.epoch && earlier.position <= self.position;
        let is_same = is_later && (earlier.held.is_empty() || self.is_same_life(earlier));
        self.changes = ChangeLog::new();
        if !is_same {
            return;
        }
        std::mem::swap(&mut self.changes, &mut earlier.changes);
        let keys = earlier.entries.keys().chain(self.entries.keys());
        let mut changed = Vec::new();
        for key in keys.collect::<BTreeSet<_>>() {
            let [before, after] = [&*earlier, &*self].map(|contents| {
                let winner = contents.entries.get(key).and_then(Slot::winner);
                winner.map(|winner| (winner.sequence, &winner.state))
            });
            if before.map(|(sequence, _)| sequence) != after.map(|(sequence, _)| sequence) {
                let state = |winner: Option<(u64, &State)>| winner.map(|(_, state)| state.clone());
                let sequence = after.map(|(sequence, _)| sequence);
                changed.push((sequence, Arc::clone(key), state(before), state(after)));
            }
        }
        changed.sort_by_key(|(sequence, ..)| *sequence);
        for (_, key, before, after) in changed {
            self.note(Some(&key), before.as_ref(), after.as_ref());
        }
    }

    fn at(&self, sequence: u64) -> Revision {
        Revision {
            epoch: self.epoch,
            sequence,
        }
    }
}

/// The record that an entry is.
pub fn as_record(entry: &Entry) -> Option<&ComponentRecord> {
    match entry {
        Entry::Component(record) => Some(record),
        Entry::Claims(_)
        | Entry::LinkDefinition(_)
        | Entry::OciReference(_)
        | Entry::InterfaceLink(_)
        | Entry::Config(_) => None,
    }
}

/// The links of a source's record as entries, each once, in the order of their keys.
fn links_of(source: &str, of_record: &Standing) -> Vec<(InterfaceLinkId, Standing)> {
    let Some(record) = as_record(&of_record.entry) else {
        return Vec::new();
    };
    stored_links(source, record)
        .into_values()
        .map(|stored| (stored.id.clone(), standing_link(record, stored, of_record)))
        .collect()
}

/// The links of a source's record, each once: of two with one identity hosts find the first.
fn stored_links<'a>(
    source: &str,
    record: &'a ComponentRecord,
) -> BTreeMap<&'a InterfaceLinkId, &'a StoredLink> {
    let own = record.links.iter().rev();
    own.filter(|stored| *stored.id.source_id == *source)
        .map(|stored| (&stored.id, stored))
        .collect()
}

/// The links that a source's record has in one state and not, or otherwise, in the other.
fn changed_links(source: &str, before: Option<&State>, after: Option<&State>) -> Vec<InterfaceLinkId> {
    let [before, after] = [before, after].map(|state| match state {
        Some(State::Stands { entry, .. }) => {
            as_record(entry).map_or_else(BTreeMap::new, |record| stored_links(source, record))
        }
        Some(State::Gone { .. }) | None => BTreeMap::new(),
    });
    let ids = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
    ids.into_iter()
        .filter(|id| {
            let [before, after] = [&before, &after].map(|links| links.get(*id).map(|stored| &stored.link));
            before != after
        })
        .map(|id| (*id).clone())
        .collect()
}

fn standing_link(record: &ComponentRecord, stored: &StoredLink, of_record: &Standing) -> Standing {
    let StoredLink { id, link, .. } = stored;
    Standing {
        entry: Arc::new(Entry::InterfaceLink(link.clone())),
        is_plain: !record.is_doubled(id),
        etag: link_etag(of_record.revision.epoch, link),
        revision: of_record.revision,
        unix_nanos: of_record.unix_nanos,
    }
}

/// Identifies the content of an interface link, wherever its record was last written.
pub fn link_etag(epoch: Epoch, link: &InterfaceLink) -> Etag {
    Etag {
        revision: Revision { epoch, sequence: 0 },
        tag: link.tag(),
    }
}

/// The mirror of one stream: read by calls, written by the one [feed](super::feed).
#[derive(Debug)]
pub struct Mirror {
    inner: RwLock<Inner>,
    /// Counts how often the contents were read anew.
    exchanges: watch::Sender<u64>,
    /// Woken where there may be something to tell to watches.
    stirred: Notify,
    /// The end of the change log, as it is told to watches: not more often than they can all be served.
    told: watch::Sender<Option<Place>>,
}

/// What it costs to serve one more watch, about: the time between two rounds grows by as much.
const SERVING_A_WATCH: Duration = Duration::from_micros(25);
/// The time between two rounds, at most.
const ROUND_MAX: Duration = Duration::from_millis(250);
/// The timer's grain.
const ROUND_MIN: Duration = Duration::from_millis(1);

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
            stirred: Notify::new(),
            told: watch::Sender::new(None),
        }
    }

    /// Follows where the change log ends. Resolves as well where something else may have to be told.
    pub fn follow(&self) -> watch::Receiver<Option<Place>> {
        self.told.subscribe()
    }

    /// Wakes the watches, to look at what is not in the change log.
    pub(super) fn stir(&self) {
        // Who begins to watch later sees in the contents what there was to tell.
        if self.told.receiver_count() > 0 {
            self.stirred.notify_one();
        }
    }

    /// Wakes the watches for the last time.
    pub(super) fn tell_end(&self) {
        self.told.send_modify(|_end| {});
    }

    /// Tells the watches where the change log ends, for ever: at once where that is seldom or they are few, and else in
    /// rounds, in which each is served once with all that changed.
    pub(super) async fn tell_for_ever(&self) {
        loop {
            self.stirred.notified().await;
            let end = self.read(|contents| contents.changes().end());
            self.told.send_replace(end);
            let watches = u32::try_from(self.told.receiver_count()).unwrap_or(u32::MAX);
            let round = SERVING_A_WATCH.saturating_mul(watches).min(ROUND_MAX);
            if round >= ROUND_MIN {
                sleep(round).await;
            }
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
        match &mut inner.contents {
            Some(earlier) => {
                contents.inherit(earlier);
                contents.go_on_telling(earlier);
            }
            None => contents.changes = ChangeLog::new(),
        }
        inner.contents = Some(contents);
        inner.waiters.clear();
        drop(inner);
        self.exchanges.send_modify(|exchanges| *exchanges += 1);
        self.stir();
    }

    /// Changes the contents, and wakes who waited for the position.
    pub(super) fn change(&self, change: impl FnOnce(&mut Contents)) {
        let mut inner = self.inner.write();
        let Inner { contents, waiters } = &mut *inner;
        let Some(contents) = contents else {
            return;
        };
        let end = contents.changes().end();
        change(contents);
        if contents.changes().end() != end {
            self.stir();
        }
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

#[cfg(test)]
mod tests;
