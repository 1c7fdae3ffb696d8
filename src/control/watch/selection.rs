//! What of a lattice a watch wants.

use std::collections::BTreeSet;

use crate::{
    control::{ControlError, operations::unsupported, page::Filter},
    domain::{EntryKey, Kind, hash::LengthPrefixed},
    store::layout::Layout,
};

/// Kinds of entries, narrowed by filters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// None for all that the layout has.
    kinds: BTreeSet<Kind>,
    filters: Vec<Filter>,
}

impl Selection {
    /// These kinds, or those of the filters where none is named. A filter narrows its own kind.
    pub fn new(kinds: BTreeSet<Kind>, filters: Vec<Filter>) -> Self {
        let kinds = match kinds.is_empty() {
            true => filters.iter().map(Filter::kind).collect(),
            false => kinds,
        };
        Self { kinds, filters }
    }

    /// The kinds that a lattice of this layout can be asked for. Refuses one that was named and that hosts do not have.
    pub(super) fn kinds_of(&self, layout: Layout) -> Result<Vec<Kind>, ControlError> {
        let has = |kind: &Kind| layout.part_of(*kind).is_some();
        match self.kinds.iter().find(|kind| !has(kind)) {
            Some(kind) => Err(unsupported(layout, *kind, false)),
            None if self.kinds.is_empty() => Ok(Kind::SHOWN.into_iter().filter(has).collect()),
            None => Ok(self.kinds.iter().copied().collect()),
        }
    }

    /// Whether an entry is wanted.
    pub(super) fn wants(&self, key: &EntryKey) -> bool {
        let kind = key.kind();
        let mut filters = self
            .filters
            .iter()
            .filter(|filter| filter.kind() == kind)
            .peekable();
        let is_narrowed = filters.peek().is_some();
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (!is_narrowed || filters.any(|filter| filter.wants(key)))
    }

    /// Adds it to a hash.
    pub(super) fn add_to(&self, hash: &mut LengthPrefixed) {
        for kind in &self.kinds {
            hash.text(&format!("{kind:?}"));
        }
        hash.text("filters");
        for filter in &self.filters {
            filter.add_to(hash);
        }
    }
}
