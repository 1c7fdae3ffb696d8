//! What a client of a watch keeps, with every promise of `watch_service.proto` checked on the way.

use std::collections::BTreeMap;

use lattice_gateway::proto::{
    ClaimsIdentity, Entry, EntryIdentity, InterfaceLinkIdentity, LinkDefinitionIdentity, NamedConfigIdentity,
    OciReferenceIdentity, ResyncReason, Revision, WatchResponse, entry,
    entry_identity::Identity,
    watch_response::{Changes, Event, change},
};
use prost::Message;

/// An identity, encoded: it has an order, and a hash.
type Key = Vec<u8>;

/// The entries that a client was told.
#[derive(Debug, Default)]
pub struct View {
    entries: BTreeMap<Key, Entry>,
    /// The last one.
    pub resume_token: String,
    /// Why it began anew, each time.
    pub resyncs: Vec<ResyncReason>,
    /// Changes that were told, of each entry and message one.
    pub changes: usize,
    /// Bookmarks that were told.
    pub bookmarks: usize,
    /// Whether it stands for one revision.
    pub is_consistent: bool,
    /// Whether the gateway was last said to be cut off from NATS.
    pub is_stale: bool,
    phase: Phase,
    /// The last revision by epoch.
    revisions: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing was told yet.
    #[default]
    Begun,
    Snapshot,
    /// Just behind a snapshot.
    Complete,
    Following,
}

impl View {
    /// Goes on with what is kept, for a watch that resumes.
    pub fn resumed(&mut self) {
        self.phase = Phase::Begun;
    }

    /// Takes a message in; what breaks a promise is told.
    pub fn take(&mut self, message: WatchResponse) -> Result<(), String> {
        match message.event.ok_or("a message of nothing")? {
            Event::Resync(resync) => {
                if resync.reason() == ResyncReason::Unspecified {
                    return Err("a resync without a reason".to_owned());
                }
                self.resyncs.push(resync.reason());
                self.entries.clear();
                self.revisions.clear();
                (self.phase, self.is_consistent) = (Phase::Snapshot, false);
            }
            Event::Snapshot(part) => {
                if self.phase == Phase::Begun {
                    self.entries.clear();
                    self.phase = Phase::Snapshot;
                }
                if self.phase != Phase::Snapshot {
                    return Err(format!("a snapshot in phase {:?}", self.phase));
                }
                for entry in part.entries {
                    if self.entries.insert(key_of(&entry)?, entry).is_some() {
                        return Err("an entry twice in a snapshot".to_owned());
                    }
                }
            }
            Event::SnapshotComplete(_) => {
                if self.phase == Phase::Begun {
                    self.entries.clear();
                } else if self.phase != Phase::Snapshot {
                    return Err(format!("a snapshot ends in phase {:?}", self.phase));
                }
                self.phase = Phase::Complete;
            }
            Event::Changes(changes) => self.take_changes(changes)?,
            Event::Bookmark(bookmark) => {
                if self.phase == Phase::Snapshot {
                    return Err("a bookmark within a snapshot".to_owned());
                }
                for revision in bookmark.revisions {
                    self.goes_on(revision)?;
                }
                self.bookmarks += 1;
                self.is_stale = bookmark.is_stale;
                self.resume_token = bookmark.resume_token;
                (self.phase, self.is_consistent) = (Phase::Following, true);
            }
        }
        Ok(())
    }

    fn take_changes(&mut self, changes: Changes) -> Result<(), String> {
        if self.phase == Phase::Snapshot {
            return Err("changes within a snapshot".to_owned());
        }
        if changes.changes.is_empty() {
            return Err("changes of nothing".to_owned());
        }
        let revision = changes.revision.ok_or("changes without a revision")?;
        self.goes_on(revision)?;
        self.changes += changes.changes.len();
        for change in changes.changes {
            match change.change.ok_or("a change of nothing")? {
                change::Change::Put(entry) => self.put(entry, revision)?,
                change::Change::Delete(identity) => {
                    self.entries.remove(&identity.encode_to_vec());
                }
            }
        }
        self.resume_token = changes.resume_token;
        self.is_consistent = !changes.is_partial;
        if self.is_consistent {
            self.phase = Phase::Following;
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry, upto: Revision) -> Result<(), String> {
        let revision = revision_of(&entry)?;
        if revision.epoch != upto.epoch || revision.sequence > upto.sequence {
            return Err(format!("an entry of {revision:?} in changes up to {upto:?}"));
        }
        let is_known = self.entries.get(&key_of(&entry)?) == Some(&entry);
        if is_known && self.phase == Phase::Following {
            return Err(format!("an entry is told again: {entry:?}"));
        }
        self.entries.insert(key_of(&entry)?, entry);
        Ok(())
    }

    fn goes_on(&mut self, revision: Revision) -> Result<(), String> {
        let last = self.revisions.entry(revision.epoch).or_default();
        if revision.sequence < *last {
            return Err(format!("back to {revision:?} from {last}"));
        }
        *last = revision.sequence;
        Ok(())
    }

    /// The entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// One entry.
    pub fn get(&self, identity: Identity) -> Option<&Entry> {
        let identity = EntryIdentity {
            identity: Some(identity),
        };
        self.entries.get(&identity.encode_to_vec())
    }
}

fn key_of(entry: &Entry) -> Result<Key, String> {
    let identity = match entry.entry.as_ref().ok_or("an entry of nothing")? {
        entry::Entry::Claims(claims) => Identity::Claims(ClaimsIdentity {
            public_key: claims.public_key.clone(),
        }),
        entry::Entry::LinkDefinition(link) => Identity::LinkDefinition(LinkDefinitionIdentity {
            actor_id: link.actor_id.clone(),
            contract_id: link.contract_id.clone(),
            link_name: link.link_name.clone(),
        }),
        entry::Entry::InterfaceLink(link) => Identity::InterfaceLink(InterfaceLinkIdentity {
            source_id: link.source_id.clone(),
            name: link.name.clone(),
            wit_namespace: link.wit_namespace.clone(),
            wit_package: link.wit_package.clone(),
            target: link.target.clone(),
        }),
        entry::Entry::OciReference(reference) => Identity::OciReference(OciReferenceIdentity {
            oci_url: reference.oci_url.clone(),
        }),
        entry::Entry::NamedConfig(config) => Identity::NamedConfig(NamedConfigIdentity {
            name: config.name.clone(),
        }),
    };
    let identity = Some(identity);
    Ok(EntryIdentity { identity }.encode_to_vec())
}

fn revision_of(entry: &Entry) -> Result<Revision, String> {
    let revision = match entry.entry.as_ref().ok_or("an entry of nothing")? {
        entry::Entry::Claims(claims) => claims.revision,
        entry::Entry::LinkDefinition(link) => link.revision,
        entry::Entry::InterfaceLink(link) => link.revision,
        entry::Entry::OciReference(reference) => reference.revision,
        entry::Entry::NamedConfig(config) => config.revision,
    };
    revision.ok_or_else(|| "an entry without a revision".to_owned())
}
