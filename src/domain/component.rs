//! The record of a component or provider in a lattice of wasmCloud 1.0 to 1.9: where it is from, and all links whose
//! source it is.

use serde_json::{Map, Value};

use super::interface_link::{InterfaceLink, InterfaceLinkId};

/// A record. Whatever it holds beside what is known is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentRecord {
    /// The image; empty until a host starts it.
    pub url: Box<str>,
    /// The links, as they are stored: hosts take the first that matches.
    pub links: Vec<StoredLink>,
    /// Members that are not known.
    pub rest: Map<String, Value>,
}

/// A link in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLink {
    /// What identifies it. Its source is the record's, or hosts never find it by its source.
    pub id: InterfaceLinkId,
    /// What it says.
    pub link: InterfaceLink,
    /// Members that are not known.
    pub rest: Map<String, Value>,
}

impl ComponentRecord {
    /// Finds a link.
    pub fn find(&self, id: &InterfaceLinkId) -> Option<&StoredLink> {
        self.links.iter().find(|stored| stored.id == *id)
    }

    /// Whether it stands more than once, which hosts never do and direct writes can.
    pub fn is_doubled(&self, id: &InterfaceLinkId) -> bool {
        self.links.iter().filter(|stored| stored.id == *id).count() > 1
    }

    /// Puts a link in the place of the first one like it, and takes out the others. Members that are not known stay.
    pub fn put(&mut self, id: &InterfaceLinkId, link: &InterfaceLink) {
        let mut is_put = false;
        self.links.retain_mut(|stored| {
            if stored.id != *id {
                return true;
            }
            stored.link.clone_from(link);
            !std::mem::replace(&mut is_put, true)
        });
        if !is_put {
            self.links.push(StoredLink {
                id: id.clone(),
                link: link.clone(),
                rest: Map::new(),
            });
        }
    }

    /// Takes a link out.
    pub fn delete(&mut self, id: &InterfaceLinkId) {
        self.links.retain(|stored| stored.id != *id);
    }

    /// Another target's link that serves one of the interfaces under the same name: what hosts since 1.3.0 refuse, also
    /// where a link is replaced.
    pub fn conflict(&self, id: &InterfaceLinkId, link: &InterfaceLink) -> Option<&StoredLink> {
        self.links.iter().find(|stored| {
            stored.id.is_same_but_target(id) && stored.id.target != id.target && stored.link.overlaps(link)
        })
    }
}
