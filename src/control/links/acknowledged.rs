//! Edits that were acknowledged lately, to notice which of them a host undoes.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    control::{decide::Mutation, mutate::Written},
    domain::{EntryKey, InterfaceLinkId, Revision, revision::Tag},
    store::mirror::{After, Contents},
};

/// Acknowledged edits that are remembered, at most, and for how long.
const REMEMBERED_MAX: usize = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
/// Undone edits that are listed, at most.
const UNDONE_MAX: usize = 1_000;

/// Edits that were acknowledged lately, by link, to notice which of them a host undoes.
#[derive(Debug, Default)]
pub(in crate::control) struct Acknowledged {
    by_link: HashMap<InterfaceLinkId, Remembered>,
    /// Oldest first.
    order: VecDeque<(Instant, InterfaceLinkId, [u8; 8])>,
    /// Which have been undone, newest last.
    pub(super) undone: VecDeque<UndoneEdit>,
}

#[derive(Debug)]
struct Remembered {
    call: [u8; 8],
    revision: Revision,
    before: Option<Tag>,
    after: Option<Tag>,
}

/// An acknowledged edit that a host undid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoneEdit {
    /// The link.
    pub key: EntryKey,
    /// Where the edit was applied.
    pub revision: Revision,
    /// Where it was undone, or later.
    pub undone_at: Revision,
}

impl Acknowledged {
    /// Remembers an edit that is acknowledged now.
    pub(super) fn remember(&mut self, mutation: &Mutation, written: &Written) {
        let EntryKey::InterfaceLink(id) = &*written.key else {
            return;
        };
        let remembered = Remembered {
            call: mutation.intent.stamp.id,
            revision: written.revision,
            before: written.before.map(|etag| etag.tag),
            after: written.standing().map(|standing| standing.etag.tag),
        };
        let now = Instant::now();
        self.order.push_back((now, id.clone(), remembered.call));
        self.by_link.insert(id.clone(), remembered);
        while self.order.len() > REMEMBERED_MAX
            || self
                .order
                .front()
                .is_some_and(|(at, ..)| now.duration_since(*at) > REMEMBERED_FOR)
        {
            let Some((_, id, call)) = self.order.pop_front() else {
                return;
            };
            if self
                .by_link
                .get(&id)
                .is_some_and(|remembered| remembered.call == call)
            {
                self.by_link.remove(&id);
            }
        }
    }

    /// Looks which have been undone, and forgets what was changed by somebody else.
    pub(super) fn check(&mut self, contents: &Contents) -> Vec<UndoneEdit> {
        let mut undone = Vec::new();
        self.by_link.retain(|id, remembered| {
            let now = contents.interface_link(id);
            let tag = now.as_ref().map(|now| now.etag.tag);
            if tag == remembered.after {
                return true;
            }
            let record = EntryKey::Component(id.source_id.clone());
            let view = contents.view(&record, remembered.call);
            let is_undone = view.position.epoch == remembered.revision.epoch
                && tag == remembered.before
                && contents.after(id, remembered.call, remembered.revision.sequence) == After::NoCall;
            if is_undone {
                undone.push(UndoneEdit {
                    key: EntryKey::InterfaceLink(id.clone()),
                    revision: remembered.revision,
                    undone_at: view.winner.map_or(view.position, |winner| winner.revision),
                });
            }
            false
        });
        self.undone.extend(undone.iter().cloned());
        while self.undone.len() > UNDONE_MAX {
            self.undone.pop_front();
        }
        undone
    }
}
