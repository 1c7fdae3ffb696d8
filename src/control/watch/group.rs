//! Watches that want the same: what one of them was told is kept for the others, so that it is written once.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Selection, token::At};
use crate::{
    domain::{
        LatticeName,
        hash::{LengthPrefixed, first_8},
    },
    store::changes::Place,
};

/// Messages that a group keeps.
const KEPT_MAX: usize = 8;

/// What the watches of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Common {
    /// The lattice.
    pub(super) lattice: LatticeName,
    /// What of it.
    pub(super) selection: Arc<Selection>,
    /// Whether with values.
    pub(super) reads_values: bool,
}

impl Common {
    /// What a resume token is bound to: not to whether values are seen, which may change under a watch.
    pub(super) fn binding(&self) -> [u8; 8] {
        let mut hash = LengthPrefixed::default();
        hash.text("watch");
        hash.text(self.lattice.as_str());
        self.selection.add_to(&mut hash);
        first_8(&hash.finish())
    }
}

/// Every group that has a watch.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<Common, Weak<Group>>>);

impl Groups {
    /// The group of those that have this in common.
    pub(super) fn of(&self, common: &Common) -> Arc<Group> {
        let mut groups = self.0.lock();
        if let Some(group) = groups.get(common).and_then(Weak::upgrade) {
            return group;
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::default();
        groups.insert(common.clone(), Arc::downgrade(&group));
        group
    }
}

/// What is told of one stream from one place on.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Up to where.
    pub(super) to: At,
    /// The message; none where nothing that is wanted changed.
    pub(super) message: Option<Bytes>,
    /// Whether it is not all that changed.
    pub(super) is_partial: bool,
}

/// Of which stream, and where each stream was told before.
type From = (usize, Vec<Place>);

/// A group.
#[derive(Debug, Default)]
pub(super) struct Group(Mutex<VecDeque<(From, Batch)>>);

impl Group {
    /// What is told from there: as another watch was told it, or as it is read now. The others wait for the one that
    /// reads, which is quicker than if each read it.
    pub(super) fn batch<E>(&self, from: From, read: impl FnOnce() -> Result<Batch, E>) -> Result<Batch, E> {
        let mut kept = self.0.lock();
        if let Some((_, batch)) = kept.iter().find(|(other, _)| *other == from) {
            return Ok(batch.clone());
        }
        let batch = read()?;
        let (stream, places) = &from;
        // Where nothing changed yet something may later.
        if places.get(*stream) != Some(&batch.to.place) {
            kept.truncate(KEPT_MAX - 1);
            kept.push_front((from, batch.clone()));
        }
        Ok(batch)
    }
}
