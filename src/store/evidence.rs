//! What a value carries about the calls that made it: the evidence by which a retry is recognised.
//!
//! JetStream forgets a message id when its window ends, when a server restarts, or when the message is
//! overwritten. So every message of the gateway carries, in one header, its own id and fingerprint, a ring of
//! the last [`RING_MAX`] calls applied to the entry, and a *horizon*: the stream time up to which client ids
//! may have been lost. It is stored atomically with the value and survives whatever the value survives. A value that
//! *began* on an empty home moves the horizon to its own time: what stood there before may have been purged.
//!
//! Wire form, base64url: version, flags (1 made id, 2 began), id (8), fingerprint (8), horizon; then per ring item, oldest first:
//! id (8), fingerprint (8), `sequence delta << 1 | generated`, time delta. Numbers are LEB128, deltas and times zigzag, times
//! are milliseconds rounded up. A sequence of 2^62 or more, which no stream reaches, is none of the gateway's.

use data_encoding::BASE64URL_NOPAD;

/// Calls remembered besides the value's own.
pub const RING_MAX: usize = 32;

/// The header that carries the evidence.
pub const HEADER: &str = "Lattice-Gateway-Evidence";

/// Where the delta of two sequences, beside its flag, would no longer fit.
const SEQUENCE_END: u64 = 1 << 62;

const VERSION: u8 = 1;
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
}

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
        self.ring.push(applied);
        if self.ring.len() > RING_MAX {
            let victim = self
                .ring
                .iter()
                .position(|applied| applied.stamp.generated)
                .unwrap_or(0);
            let evicted = self.ring.remove(victim);
            if !evicted.stamp.generated {
                return self.forgotten_until(evicted.unix_millis);
            }
        }
        self
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
    /// The calls before.
    pub past: Past,
    /// True where the home was empty before: what was there earlier and was removed is on no record.
    pub began: bool,
}

impl Evidence {
    /// Writes the header's value.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(24 + self.past.ring.len() * 22);
        bytes.push(VERSION);
        let generated = if self.own.generated { FLAG_GENERATED } else { 0 };
        bytes.push(generated | if self.began { FLAG_BEGAN } else { 0 });
        bytes.extend(self.own.id);
        bytes.extend(self.own.fingerprint);
        push_number(&mut bytes, zigzag(self.past.horizon.unwrap_or(0)));
        let (mut sequence, mut time) = (0, 0);
        for applied in &self.past.ring {
            bytes.extend(applied.stamp.id);
            bytes.extend(applied.stamp.fingerprint);
            let delta = zigzag(applied.sequence.wrapping_sub(sequence).cast_signed());
            push_number(&mut bytes, delta << 1 | u64::from(applied.stamp.generated));
            push_number(&mut bytes, zigzag(applied.unix_millis.wrapping_sub(time)));
            (sequence, time) = (applied.sequence, applied.unix_millis);
        }
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a header's value; `None` where it is not the gateway's, which makes the message a foreign one.
    pub fn decode(text: &[u8]) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(text).ok()?;
        let mut rest = Reader(&bytes);
        if rest.byte()? != VERSION {
            return None;
        }
        let flags = rest.byte()?;
        let own = Stamp {
            id: rest.eight()?,
            fingerprint: rest.eight()?,
            generated: flags & FLAG_GENERATED != 0,
        };
        let horizon = Some(unzigzag(rest.number()?)).filter(|horizon| *horizon != 0);
        let ring = rest.ring()?;
        Some(Self {
            own,
            past: Past { ring, horizon },
            began: flags & FLAG_BEGAN != 0,
        })
    }

    /// The calls on record once this value has been stored: its past and itself.
    pub fn into_past(self, sequence: u64, unix_millis: i64) -> Past {
        let past = match self.began {
            true => self.past.forgotten_until(unix_millis),
            false => self.past,
        };
        past.with(Applied {
            stamp: self.own,
            sequence,
            unix_millis,
        })
    }
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

    fn ring(&mut self) -> Option<Vec<Applied>> {
        let mut ring = Vec::new();
        let (mut sequence, mut time) = (0_u64, 0_i64);
        while !self.0.is_empty() {
            if ring.len() == RING_MAX {
                return None;
            }
            let (id, fingerprint) = (self.eight()?, self.eight()?);
            let delta = self.number()?;
            sequence = sequence.wrapping_add_signed(unzigzag(delta >> 1));
            if sequence >= SEQUENCE_END {
                return None;
            }
            time = time.wrapping_add(unzigzag(self.number()?));
            let generated = delta & 1 != 0;
            ring.push(Applied {
                stamp: Stamp {
                    id,
                    fingerprint,
                    generated,
                },
                sequence,
                unix_millis: time,
            });
        }
        Some(ring)
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
                past,
                began: false,
            };
            Evidence::decode(evidence.encode().as_bytes())
        };
        assert_eq!(of(&[SEQUENCE_END - 1, SEQUENCE_END]), None);
        let last = of(&[SEQUENCE_END - 2, SEQUENCE_END - 1]).unwrap();
        let next = Evidence {
            own: stamp(3, false),
            past: last.into_past(4, 5),
            began: false,
        };
        assert_eq!(Evidence::decode(next.encode().as_bytes()), Some(next));
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
            let evidence = Evidence { own: stamp(1, true), past, began: true };
            prop_assert_eq!(Evidence::decode(evidence.encode().as_bytes()), Some(evidence));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Evidence::decode(&bytes));
            drop(Evidence::decode(BASE64URL_NOPAD.encode(&bytes).as_bytes()));
        }
    }
}
