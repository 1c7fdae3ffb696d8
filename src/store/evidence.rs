//! What a value carries about the calls that made it: the evidence by which a retry is recognised.
//!
//! JetStream forgets a message id when its window ends, when a server restarts, or when the message is
//! overwritten. So every message of the gateway carries, in one header, its own id and fingerprint, a ring of
//! the last [`RING_MAX`] calls applied to the entry, and a *horizon*: the stream time up to which client ids
//! may have been lost. It is stored atomically with the value and survives whatever the value survives. A value that
//! *began* on an empty home moves the horizon to its own time: what stood there before may have been purged.
//!
//! A record that holds many entries (all links of a source) remembers [`SHARED_RING_MAX`] calls, each with the entry that
//! it was for, and one message of it can be made by several calls.
//!
//! Wire form, base64url: version 1, flags (1 made id, 2 began), id (8), fingerprint (8), horizon; then per ring item, oldest
//! first: id (8), fingerprint (8), `sequence delta << 1 | generated`, time delta. Of a shared record: version 2, flags,
//! horizon, number of own calls and for each flags, id, fingerprint, entry (8); ring items have the entry behind the
//! fingerprint. Numbers are LEB128, deltas and times zigzag, times are milliseconds rounded up. A sequence of 2^62 or
//! more, which no stream reaches, is none of the gateway's.

use data_encoding::BASE64URL_NOPAD;

/// Calls remembered besides the value's own.
pub const RING_MAX: usize = 32;

/// Calls remembered of a record that holds many entries, its own included: about 6 KiB.
pub const SHARED_RING_MAX: usize = 160;

/// The header that carries the evidence.
pub const HEADER: &str = "Lattice-Gateway-Evidence";

/// Where the delta of two sequences, beside its flag, would no longer fit.
const SEQUENCE_END: u64 = 1 << 62;

/// An id, a fingerprint and two numbers.
const ITEM_BYTES_MIN: usize = 8 + 8 + 1 + 1;

const VERSION: u8 = 1;
const SHARED_VERSION: u8 = 2;
const FLAG_GENERATED: u8 = 1;
const FLAG_BEGAN: u8 = 2;

/// A call, as evidence names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The first 8 bytes of the hash behind the message id.
    pub id: [u8; 8],
    /// The first 8 bytes of the hash of what was asked.
    pub fingerprint: [u8; 8],
    /// True where the gateway made the request id, so that no client can retry it.
    pub generated: bool,
    /// In a record that holds many entries: which one, by the first 8 bytes of its hash; else zero.
    pub entry: [u8; 8],
}

impl Stamp {
    fn is_shared(&self) -> bool {
        self.entry != NO_ENTRY
    }

    fn ring_max(&self) -> usize {
        match self.is_shared() {
            true => SHARED_RING_MAX,
            false => RING_MAX,
        }
    }
}

/// What a stamp in a record of one entry says of the entry.
pub const NO_ENTRY: [u8; 8] = [0; 8];

/// A call that was applied to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The call.
    pub stamp: Stamp,
    /// Where.
    pub sequence: u64,
    /// When, by the stream's clock, Unix milliseconds rounded up.
    pub unix_millis: i64,
}

/// The calls applied to an entry, as far as they are on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Oldest first.
    ring: Vec<Applied>,
    /// Ids of calls applied at or before this stream time (Unix milliseconds) may have been lost.
    horizon: Option<i64>,
}

impl Past {
    /// Finds a call by its id.
    pub fn find(&self, id: [u8; 8]) -> Option<Applied> {
        self.ring
            .iter()
            .rev()
            .find(|applied| applied.stamp.id == id)
            .copied()
    }

    /// Whether a call first attempted at `unix_millis` (stream time) would be on record if it had been applied.
    pub fn is_complete_since(&self, unix_millis: i64) -> bool {
        self.horizon.is_none_or(|horizon| is_behind(horizon, unix_millis))
    }

    /// Adds a call. Over the bound, made ids go first, since no client retries them; a client's id that goes
    /// moves the horizon.
    #[must_use]
    pub fn with(mut self, applied: Applied) -> Self {
        let max = applied.stamp.ring_max();
        self.ring.push(applied);
        self.at_most(max)
    }

    /// Makes room for so many calls in a record that holds many entries.
    #[must_use]
    pub fn with_room_for(self, calls: usize) -> Self {
        self.at_most(SHARED_RING_MAX.saturating_sub(calls))
    }

    fn at_most(mut self, max: usize) -> Self {
        while self.ring.len() > max {
            let victim = self
                .ring
                .iter()
                .position(|applied| applied.stamp.generated)
                .unwrap_or(0);
            let evicted = self.ring.remove(victim);
            if !evicted.stamp.generated {
                self = self.forgotten_until(evicted.unix_millis);
            }
        }
        self
    }

    /// How far back it reaches, without the calls.
    #[must_use]
    pub fn horizon_alone(&self) -> Self {
        Self {
            ring: Vec::new(),
            horizon: self.horizon,
        }
    }

    /// Whether a call on record was followed by another one for the same entry.
    pub fn is_overtaken(&self, id: [u8; 8]) -> bool {
        let Some(place) = self.ring.iter().rposition(|applied| applied.stamp.id == id) else {
            return false;
        };
        let Some((of_call, behind)) = self.ring.get(place..).and_then(<[_]>::split_first) else {
            return false;
        };
        behind
            .iter()
            .any(|later| later.stamp.entry == of_call.stamp.entry)
    }

    /// Notes that ids applied at or before `unix_millis` may have been lost.
    #[must_use]
    pub fn forgotten_until(mut self, unix_millis: i64) -> Self {
        self.horizon = self.horizon.max(Some(unix_millis));
        self
    }
}

/// Whether a horizon lies so far before a moment (both Unix milliseconds) that the clocks of servers make no difference.
pub(super) fn is_behind(horizon: i64, unix_millis: i64) -> bool {
    const CLOCK_MARGIN_MILLIS: i64 = 2_000;
    horizon.saturating_add(CLOCK_MARGIN_MILLIS) <= unix_millis
}

/// What one message of the gateway carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The call that made the value.
    pub own: Stamp,
    /// The others that made it, where several did: before `own`, in the order in which they count.
    pub others: Vec<Stamp>,
    /// The calls before.
    pub past: Past,
    /// True where the home was empty before: what was there earlier and was removed is on no record.
    pub began: bool,
}

impl Evidence {
    /// Writes the header's value.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(24 + self.past.ring.len() * 30);
        let is_shared = self.own.is_shared();
        let began = if self.began { FLAG_BEGAN } else { 0 };
        let generated = |stamp: &Stamp| if stamp.generated { FLAG_GENERATED } else { 0 };
        let horizon = zigzag(self.past.horizon.unwrap_or(0));
        if is_shared {
            bytes.extend([SHARED_VERSION, began]);
            push_number(&mut bytes, horizon);
            push_number(
                &mut bytes,
                u64::try_from(self.others.len() + 1).unwrap_or(u64::MAX),
            );
            for stamp in self.others.iter().chain([&self.own]) {
                bytes.push(generated(stamp));
                bytes.extend(stamp.id);
                bytes.extend(stamp.fingerprint);
                bytes.extend(stamp.entry);
            }
        } else {
            bytes.extend([VERSION, generated(&self.own) | began]);
            bytes.extend(self.own.id);
            bytes.extend(self.own.fingerprint);
            push_number(&mut bytes, horizon);
        }
        let (mut sequence, mut time) = (0, 0);
        for applied in &self.past.ring {
            bytes.extend(applied.stamp.id);
            bytes.extend(applied.stamp.fingerprint);
            if is_shared {
                bytes.extend(applied.stamp.entry);
            }
            let delta = zigzag(applied.sequence.wrapping_sub(sequence).cast_signed());
            push_number(&mut bytes, delta << 1 | u64::from(applied.stamp.generated));
            push_number(&mut bytes, zigzag(applied.unix_millis.wrapping_sub(time)));
            (sequence, time) = (applied.sequence, applied.unix_millis);
        }
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a header's value; `None` where it is not the gateway's, which makes the message a foreign one.
    pub fn decode(text: &[u8]) -> Option<Self> {
        Self::read(&BASE64URL_NOPAD.decode(text).ok()?)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let head = rest.head()?;
        // No item is shorter.
        let mut ring = Vec::with_capacity(rest.0.len() / ITEM_BYTES_MIN);
        rest.ring(head.is_shared, |applied| ring.push(applied))?;
        Some(Self {
            own: head.own,
            others: head.others,
            past: Past {
                ring,
                horizon: head.horizon,
            },
            began: head.began,
        })
    }

    /// The calls that made the value, in the order in which they count.
    pub fn calls(&self) -> impl Iterator<Item = Stamp> {
        self.others.iter().chain([&self.own]).copied()
    }

    /// The calls of the value, which is stored so, and of every earlier message of which all are on record.
    pub fn whole_messages(&self, sequence: u64, unix_millis: i64) -> impl Iterator<Item = Applied> {
        let oldest = self.past.ring.first().map(|applied| applied.sequence);
        // Several calls share a message of a shared record: of the oldest some may have been evicted.
        let is_whole =
            move |applied: &&Applied| !applied.stamp.is_shared() || Some(applied.sequence) != oldest;
        let own = self.calls().map(move |stamp| Applied {
            stamp,
            sequence,
            unix_millis,
        });
        self.past.ring.iter().filter(is_whole).copied().chain(own)
    }

    /// The calls on record once this value has been stored: its past and itself.
    pub fn into_past(self, sequence: u64, unix_millis: i64) -> Past {
        let past = match self.began {
            true => self.past.forgotten_until(unix_millis),
            false => self.past,
        };
        self.others
            .into_iter()
            .chain([self.own])
            .fold(past, |past, stamp| {
                past.with(Applied {
                    stamp,
                    sequence,
                    unix_millis,
                })
            })
    }
}

/// Evidence as it is kept of a message: smaller than what it says, which is seldom looked at.
#[derive(Clone, Debug)]
pub struct Packed(Box<[u8]>);

impl Packed {
    /// Reads a header's value, and tells the call that made the value and the others that did, before it. `None` where
    /// [`Evidence::decode`] gives none.
    pub fn decode(text: &[u8]) -> Option<(Self, Stamp, Vec<Stamp>)> {
        let bytes = BASE64URL_NOPAD.decode(text).ok()?;
        let mut rest = Reader(&bytes);
        let head = rest.head()?;
        rest.ring(head.is_shared, |_applied| {})?;
        Some((Self(bytes.into()), head.own, head.others))
    }

    /// What it says.
    pub fn evidence(&self) -> Option<Evidence> {
        Evidence::read(&self.0)
    }
}

/// What stands before the ring.
struct Head {
    is_shared: bool,
    own: Stamp,
    others: Vec<Stamp>,
    horizon: Option<i64>,
    began: bool,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn eight(&mut self) -> Option<[u8; 8]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn stamp(&mut self, flags: u8, is_shared: bool) -> Option<Stamp> {
        Some(Stamp {
            id: self.eight()?,
            fingerprint: self.eight()?,
            generated: flags & FLAG_GENERATED != 0,
            entry: match is_shared {
                true => self.eight().filter(|entry| *entry != NO_ENTRY)?,
                false => NO_ENTRY,
            },
        })
    }

    fn head(&mut self) -> Option<Head> {
        let version = self.byte()?;
        let flags = self.byte()?;
        let (own, others, horizon) = match version {
            VERSION => {
                let own = self.stamp(flags, false)?;
                (own, Vec::new(), self.number()?)
            }
            SHARED_VERSION => {
                let horizon = self.number()?;
                let count = usize::try_from(self.number()?).ok();
                let count = count.filter(|count| *count <= SHARED_RING_MAX)?;
                let mut stamps = Vec::new();
                for _ in 0..count {
                    let flags = self.byte()?;
                    stamps.push(self.stamp(flags, true)?);
                }
                (stamps.pop()?, stamps, horizon)
            }
            _ => return None,
        };
        Some(Head {
            is_shared: version == SHARED_VERSION,
            own,
            others,
            horizon: Some(unzigzag(horizon)).filter(|horizon| *horizon != 0),
            began: flags & FLAG_BEGAN != 0,
        })
    }

    /// Reads all that is left.
    fn ring(&mut self, is_shared: bool, mut each: impl FnMut(Applied)) -> Option<()> {
        let (mut sequence, mut time) = (0_u64, 0_i64);
        let max = if is_shared { SHARED_RING_MAX } else { RING_MAX };
        let mut count = 0;
        while !self.0.is_empty() {
            if count == max {
                return None;
            }
            count += 1;
            let stamp = self.stamp(0, is_shared)?;
            let delta = self.number()?;
            sequence = sequence.wrapping_add_signed(unzigzag(delta >> 1));
            if sequence >= SEQUENCE_END {
                return None;
            }
            time = time.wrapping_add(unzigzag(self.number()?));
            let generated = delta & 1 != 0;
            each(Applied {
                stamp: Stamp { generated, ..stamp },
                sequence,
                unix_millis: time,
            });
        }
        Some(())
    }
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(name: u64, generated: bool) -> Stamp {
        Stamp {
            id: name.to_be_bytes(),
            fingerprint: (!name).to_be_bytes(),
            generated,
            entry: NO_ENTRY,
        }
    }

    fn applied(name: u64, generated: bool) -> Applied {
        Applied {
            stamp: stamp(name, generated),
            sequence: name,
            unix_millis: i64::try_from(name).unwrap() * 1_000,
        }
    }

    #[test]
    fn made_ids_are_evicted_first_and_do_not_move_the_horizon() {
        let mut past = Past::default();
        for name in 0..u64::try_from(RING_MAX).unwrap() {
            past = past.with(applied(name, name == 7));
        }
        let past = past.with(applied(100, false));
        assert_eq!(past.find(7_u64.to_be_bytes()), None);
        assert!(past.is_complete_since(0), "no client id was lost");

        let past = past.with(applied(101, false));
        assert_eq!(past.find(0_u64.to_be_bytes()), None, "the oldest client id went");
        assert!(!past.is_complete_since(1_999));
        assert!(past.is_complete_since(2_000), "2 s after the lost id's time");
    }

    #[test]
    fn a_full_ring_stays_small() {
        let mut past = Past::default();
        for name in 0..u64::try_from(RING_MAX).unwrap() {
            past = past.with(Applied {
                stamp: stamp(name, false),
                sequence: 4_000_000_000 + name * 1_000,
                unix_millis: 1_790_000_000_000 + i64::try_from(name).unwrap() * 60_000,
            });
        }
        let evidence = Evidence {
            own: stamp(99, false),
            others: Vec::new(),
            past,
            began: false,
        };
        assert!(evidence.encode().len() <= 960, "{}", evidence.encode().len());
        assert_eq!(Evidence::decode(evidence.encode().as_bytes()), Some(evidence));
    }

    #[test]
    fn a_sequence_that_could_not_be_written_again_is_not_read() {
        let of = |sequences: &[u64]| {
            let past = sequences.iter().fold(Past::default(), |past, sequence| {
                past.with(Applied {
                    sequence: *sequence,
                    ..applied(1, false)
                })
            });
            let evidence = Evidence {
                own: stamp(2, false),
                others: Vec::new(),
                past,
                began: false,
            };
            Evidence::decode(evidence.encode().as_bytes())
        };
        assert_eq!(of(&[SEQUENCE_END - 1, SEQUENCE_END]), None);
        let last = of(&[SEQUENCE_END - 2, SEQUENCE_END - 1]).unwrap();
        let next = Evidence {
            own: stamp(3, false),
            others: Vec::new(),
            past: last.into_past(4, 5),
            began: false,
        };
        assert_eq!(Evidence::decode(next.encode().as_bytes()), Some(next));
    }

    fn shared(name: u64, entry: u64) -> Stamp {
        Stamp {
            entry: entry.to_be_bytes(),
            ..stamp(name, false)
        }
    }

    #[test]
    fn a_shared_record_knows_which_call_overtook_which() {
        let evidence = Evidence {
            own: shared(3, 1),
            others: vec![shared(1, 1), shared(2, 2)],
            past: Past::default(),
            began: false,
        };
        let read = Evidence::decode(evidence.encode().as_bytes()).unwrap();
        assert_eq!(read, evidence);
        let past = read.into_past(7, 1_000);
        let overtaken = [1_u64, 2, 3].map(|name| past.is_overtaken(name.to_be_bytes()));
        assert_eq!(overtaken, [true, false, false]);
    }

    #[test]
    fn a_full_shared_record_stays_within_what_headers_take() {
        let count = u64::try_from(SHARED_RING_MAX).unwrap();
        let past = (0..2 * count).fold(Past::default(), |past, name| {
            past.with(Applied {
                stamp: shared(name, name + 1),
                sequence: 4_000_000_000 + name * 1_000,
                unix_millis: 1_790_000_000_000 + i64::try_from(name).unwrap() * 60_000,
            })
        });
        assert_eq!(past.ring.len(), SHARED_RING_MAX);
        let evidence = Evidence {
            own: shared(1, 1),
            others: (2..65).map(|name| shared(name, name)).collect(),
            past: past.with_room_for(64),
            began: false,
        };
        assert!(evidence.encode().len() <= 6_600, "{}", evidence.encode().len());
        assert_eq!(Evidence::decode(evidence.encode().as_bytes()), Some(evidence));
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back(
            calls in prop::collection::vec((any::<u64>(), any::<bool>(), 0_u64..SEQUENCE_END, -1_i64 << 40..1 << 44), 0..50),
            horizon in proptest::option::of(1_i64..1 << 44),
        ) {
            let mut past = Past { ring: Vec::new(), horizon };
            for (name, generated, sequence, unix_millis) in calls {
                past = past.with(Applied { stamp: stamp(name, generated), sequence, unix_millis });
            }
            let evidence = Evidence { own: stamp(1, true), others: Vec::new(), past, began: true };
            prop_assert_eq!(Evidence::decode(evidence.encode().as_bytes()), Some(evidence));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Evidence::decode(&bytes));
            drop(Evidence::decode(BASE64URL_NOPAD.encode(&bytes).as_bytes()));
        }
    }
}
