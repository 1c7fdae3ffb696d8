//! Resume tokens: up to where each stream of a watch was told, bound to what it watches. They carry no authority.

use data_encoding::BASE64URL_NOPAD;

use super::group::Common;
use crate::{
    domain::{Epoch, Revision},
    store::{changes::Place, mirror::Contents},
};

const VERSION: u8 = 1;
/// Streams of a lattice, at most.
const STREAMS_MAX: usize = 2;

/// Up to where a stream was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// The revision.
    pub(super) revision: Revision,
    /// The place in the change log.
    pub(super) place: Place,
}

impl At {
    /// All that a stream holds now.
    pub(super) fn end_of(contents: &Contents) -> Self {
        Self {
            revision: contents.position(),
            place: contents.changes().end(),
        }
    }
}

/// Up to where each stream was told, in the order of the layout's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whereabouts(pub(super) Vec<At>);

impl Whereabouts {
    /// The places in the change logs.
    pub(super) fn places(&self) -> Vec<Place> {
        self.0.iter().map(|at| at.place).collect()
    }

    /// Notes up to where a stream was told.
    pub(super) fn set(&mut self, stream: usize, at: At) {
        if let Some(place) = self.0.get_mut(stream) {
            *place = at;
        }
    }

    /// Writes the token.
    pub(super) fn token(&self, common: &Common) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(common.binding());
        for At { revision, place } in &self.0 {
            let numbers = [revision.epoch.number(), revision.sequence, place.log, place.index];
            bytes.extend(numbers.into_iter().flat_map(u64::to_be_bytes));
        }
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Reads a token of a watch of the same; `None` for any other text.
    pub(super) fn parse(token: &str, common: &Common) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (binding, rest) = rest.split_first_chunk()?;
        if *version != VERSION || *binding != common.binding() {
            return None;
        }
        let (numbers, rest) = rest.as_chunks();
        let (streams, uneven) = numbers.as_chunks();
        let is_whole = rest.is_empty() && uneven.is_empty() && streams.len() <= STREAMS_MAX;
        is_whole.then(|| {
            let of_stream = |numbers: &[[u8; 8]; 4]| {
                let [epoch, sequence, log, index] = numbers.map(u64::from_be_bytes);
                At {
                    revision: Revision {
                        epoch: Epoch::from_number(epoch),
                        sequence,
                    },
                    place: Place { log, index },
                }
            };
            Self(streams.iter().map(of_stream).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        control::{page::Filter, watch::Selection},
        domain::{Kind, LatticeName},
    };

    fn watching(lattice: &str, kinds: &[Kind], actor: &str) -> Common {
        let filter = Filter::new(Kind::LinkDefinition, &[actor, "", ""]);
        Common {
            lattice: LatticeName::parse(lattice).unwrap(),
            selection: Arc::new(Selection::new(kinds.iter().copied().collect(), vec![filter])),
            reads_values: true,
        }
    }

    fn links() -> Common {
        watching("default", &[], "M")
    }

    fn whereabouts(streams: u64) -> Whereabouts {
        let at = |number| At {
            revision: Revision {
                epoch: Epoch::from_number(number),
                sequence: 7,
            },
            place: Place { log: 9, index: 3 },
        };
        Whereabouts((0..streams).map(at).collect())
    }

    #[test]
    fn a_token_is_bound_to_lattice_and_selection() {
        let at = whereabouts(2);
        let token = at.token(&links());
        assert_eq!(Whereabouts::parse(&token, &links()), Some(at));
        for other in [
            watching("default", &[], "N"),
            watching("other", &[], "M"),
            watching("default", &[Kind::LinkDefinition, Kind::Claims], "M"),
        ] {
            assert_eq!(Whereabouts::parse(&token, &other), None, "{other:?}");
        }
        let without_values = Common {
            reads_values: false,
            ..links()
        };
        assert!(Whereabouts::parse(&token, &without_values).is_some());
    }

    #[test]
    fn a_token_that_is_cut_or_too_long_is_none() {
        let token = whereabouts(1).token(&links());
        for end in 0..token.len() {
            let parsed = Whereabouts::parse(token.get(..end).unwrap(), &links());
            // With its head alone it tells of no stream.
            assert!(parsed.is_none_or(|at| at.0.is_empty()), "{end}");
        }
        assert_eq!(
            Whereabouts::parse(&whereabouts(3).token(&links()), &links()),
            None
        );
    }

    proptest! {
        #[test]
        fn foreign_tokens_never_panic(token in ".{0,100}") {
            prop_assert_eq!(Whereabouts::parse(&token, &links()), None);
        }
    }
}
