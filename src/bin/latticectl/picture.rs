//! Everything that a lattice holds, as it was at one moment.
//!
//! Lists come in pages, each as the stream holds it when it is read, and layout `component` has two streams. So all of them
//! are listed, and then each stream is asked once more where it is: where none has moved since its first page, all that was
//! listed stood together when that was asked. Else everything is listed again.

use std::num::NonZeroU32;

use lattice_gateway::{
    control::lattices::Layout,
    proto::{self, Revision, entry::Entry},
};
use tokio::time::Instant;

use crate::{
    Context,
    apply::held::{self, Listed},
    entry::Kind,
    failure::{CommandError, Exit},
    lattice,
};

/// The whole of a lattice.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) layout: Layout,
    /// By kind, and within a kind in the order of their keys.
    pub(crate) entries: Vec<Entry>,
    /// Messages that hosts cannot use, and that are no entries.
    pub(crate) malformed: u64,
}

impl Picture {
    /// Takes it, as the streams hold it now. Needs `values:read`: a picture without its values is none.
    pub(crate) async fn take(context: &Context<'_>) -> Result<Self, CommandError> {
        let described = lattice::get(context).await?.lattice.unwrap_or_default();
        let layout = layout(context, described.layout)?;
        let began = Instant::now();
        loop {
            if let Some(entries) = still(context, layout).await? {
                return Ok(Self {
                    layout,
                    entries,
                    malformed: described.malformed_count,
                });
            }
            if began.elapsed() >= context.gateway.timeout() {
                return Err(CommandError::Refused(
                    Exit::Unavailable,
                    format!(
                        "{} was written every time while it was read; run the command again when less is \
                         written, or with a longer --timeout",
                        context.lattice
                    ),
                ));
            }
        }
    }
}

/// How the lattice is kept, where that can be told.
pub(crate) fn layout(context: &Context<'_>, told: i32) -> Result<Layout, CommandError> {
    match proto::Layout::try_from(told) {
        Ok(proto::Layout::CacheStream) => Ok(Layout::CacheStream),
        Ok(proto::Layout::Kv) => Ok(Layout::Kv),
        Ok(proto::Layout::Component) => Ok(Layout::Component),
        Ok(proto::Layout::Undecided | proto::Layout::Unspecified) | Err(_) => Err(CommandError::Refused(
            Exit::Refused,
            format!(
                "the layout of {name} cannot be told; `latticectl lattice show {name}` shows what there is",
                name = context.lattice
            ),
        )),
    }
}

/// The kinds of entries that hosts of a layout keep.
pub(crate) fn kinds(layout: Layout) -> impl Iterator<Item = Kind> {
    Kind::ALL
        .into_iter()
        .filter(move |kind| layout.part_of((*kind).into()).is_some())
}

/// Lists everything; none where something was written meanwhile.
async fn still(context: &Context<'_>, layout: Layout) -> Result<Option<Vec<Entry>>, CommandError> {
    let mut entries = Vec::new();
    let mut at = Vec::new();
    for kind in kinds(layout) {
        let listed = held::list(context, kind, None).await?;
        check_values(context, &listed)?;
        at.push((kind, listed.revision));
        entries.extend(listed.entries);
    }
    for (kind, began_at) in at {
        if now_at(context, kind).await? != began_at {
            return Ok(None);
        }
    }
    Ok(Some(entries))
}

/// Where the stream is that holds entries of a kind.
async fn now_at(context: &Context<'_>, kind: Kind) -> Result<Option<Revision>, CommandError> {
    let listed = held::list(context, kind, Some(NonZeroU32::MIN)).await?;
    Ok(listed.revision)
}

fn check_values(context: &Context<'_>, listed: &Listed) -> Result<(), CommandError> {
    if listed.values_omitted && !listed.entries.is_empty() {
        return Err(CommandError::Refused(
            Exit::Refused,
            format!(
                "you may not read the values of {}, so they would be missing; that needs the verb `values:read`",
                context.lattice
            ),
        ));
    }
    Ok(())
}
