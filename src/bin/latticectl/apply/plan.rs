//! What has to change for a lattice to hold what a manifest says. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lattice_gateway::proto::{InterfaceLinkIdentity, entry::Entry, entry_identity::Identity};

use super::{held::Held, manifest::Desired};
use crate::entry::{self, Content, Kind};

/// Everything that has to change, in the order in which it is told.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) unchanged: usize,
}

/// What has to become of one entry.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) identity: Identity,
    pub(crate) step: Step,
}

#[derive(Debug)]
pub(crate) enum Step {
    Create(Desired),
    Update {
        desired: Desired,
        /// Of the entry as it was compared.
        etag: String,
        differences: Vec<Difference>,
    },
    Delete {
        etag: String,
    },
}

/// A field that is to say something else.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) field: String,
    pub(crate) before: Said,
    pub(crate) after: Said,
}

impl Difference {
    /// True for a value, which may be a secret.
    pub(crate) fn is_of_values(&self) -> bool {
        self.field.starts_with("values")
    }
}

/// What a field says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    Text(String),
    /// The caller is not shown it.
    Unreadable,
}

/// When a change is made: after all of the phases before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Puts of what names nothing else, and deletes of interface links whose place another one takes.
    Groundwork,
    /// Puts of interface links, which name configs.
    Links,
    /// Deletes, but of configs.
    Deletes,
    /// Deletes of configs, which links may have named.
    ConfigDeletes,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [Self::Groundwork, Self::Links, Self::Deletes, Self::ConfigDeletes];

    /// True where it is made only if all before it went well.
    pub(crate) fn is_cautious(self) -> bool {
        match self {
            Self::Groundwork | Self::Links => false,
            Self::Deletes | Self::ConfigDeletes => true,
        }
    }
}

impl Plan {
    /// Compares what shall be with what is. Of the kinds in `pruned` everything else is to be deleted.
    pub(crate) fn new(desired: Vec<Desired>, mut held: Held, pruned: &BTreeSet<Kind>) -> Self {
        let mut plan = Self::default();
        for desired in desired {
            let identity = entry::identity(&desired.entry);
            let step = match held.entries.remove(&identity) {
                None => Step::Create(desired),
                Some(standing) => {
                    let unreadable = held.unreadable.contains(&Kind::of(&standing));
                    let differences = differences(&standing, &desired, unreadable);
                    if differences.is_empty() {
                        plan.unchanged = plan.unchanged.saturating_add(1);
                        continue;
                    }
                    Step::Update {
                        desired,
                        etag: entry::etag(&standing).to_owned(),
                        differences,
                    }
                }
            };
            plan.changes.push(Change { identity, step });
        }
        plan.prune(held, pruned);
        plan
    }

    fn prune(&mut self, held: Held, pruned: &BTreeSet<Kind>) {
        let surplus = held
            .entries
            .into_iter()
            .filter(|(identity, _)| pruned.contains(&Kind::of_identity(identity)));
        // By name, since a map has no order.
        let deletes: BTreeMap<_, _> = surplus
            .map(|(identity, entry)| {
                let place = (Kind::of_identity(&identity), entry::name(&identity));
                let etag = entry::etag(&entry).to_owned();
                let step = Step::Delete { etag };
                (place, Change { identity, step })
            })
            .collect();
        self.changes.extend(deletes.into_values());
    }

    pub(crate) fn deletes(&self) -> usize {
        let is_delete = |change: &&Change| matches!(change.step, Step::Delete { .. });
        self.changes.iter().filter(is_delete).count()
    }

    /// When each change is made.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        let taken: HashSet<_> = self.changes.iter().filter_map(Change::place_taken).collect();
        let phase = |change: &Change| match (&change.step, &change.identity) {
            (Step::Create(_) | Step::Update { .. }, Identity::InterfaceLink(_)) => Phase::Links,
            (Step::Create(_) | Step::Update { .. }, _) => Phase::Groundwork,
            (Step::Delete { .. }, Identity::InterfaceLink(id)) if taken.contains(&place(id)) => {
                Phase::Groundwork
            }
            (Step::Delete { .. }, Identity::NamedConfig(_)) => Phase::ConfigDeletes,
            (Step::Delete { .. }, _) => Phase::Deletes,
        };
        self.changes.iter().map(phase).collect()
    }
}

impl Change {
    pub(crate) fn kind(&self) -> Kind {
        Kind::of_identity(&self.identity)
    }

    /// The entry as it shall be; none for a delete.
    pub(crate) fn desired(&self) -> Option<&Desired> {
        match &self.step {
            Step::Create(desired) | Step::Update { desired, .. } => Some(desired),
            Step::Delete { .. } => None,
        }
    }

    fn place_taken(&self) -> Option<[&str; 4]> {
        match (&self.step, &self.identity) {
            (Step::Create(_) | Step::Update { .. }, Identity::InterfaceLink(id)) => Some(place(id)),
            _ => None,
        }
    }
}

/// Links that agree in these may not serve one interface with two targets.
fn place(id: &InterfaceLinkIdentity) -> [&str; 4] {
    [&id.source_id, &id.name, &id.wit_namespace, &id.wit_package].map(String::as_str)
}

fn differences(standing: &Entry, desired: &Desired, unreadable: bool) -> Vec<Difference> {
    let mut differences = Vec::new();
    let pairs = entry::contents(standing)
        .into_iter()
        .zip(entry::contents(&desired.entry));
    for ((field, before), (_, after)) in pairs {
        match (before, after) {
            (Content::Values(_), Content::Values(_)) if unreadable => differences.push(Difference {
                field: field.to_owned(),
                before: Said::Unreadable,
                after: said(after),
            }),
            (Content::Values(before), Content::Values(after)) => {
                differences.extend(differences_of_values(field, before, after));
            }
            // Not every layout keeps what a token says of it.
            (Content::Text(""), Content::Text(_)) if desired.token.is_some() && field == "contract_id" => {}
            (before, after) if before == after => {}
            (before, after) => differences.push(Difference {
                field: field.to_owned(),
                before: said(before),
                after: said(after),
            }),
        }
    }
    differences
}

fn differences_of_values(
    field: &str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let said = |value: Option<&String>| value.map_or(Said::Nothing, |text| Said::Text(text.clone()));
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| Difference {
            field: format!("{field}.{key}"),
            before: said(before.get(key)),
            after: said(after.get(key)),
        })
        .collect()
}

fn said(content: Content<'_>) -> Said {
    match content {
        Content::Text("") | Content::List([]) => Said::Nothing,
        Content::Values(values) if values.is_empty() => Said::Nothing,
        Content::Text(text) => Said::Text(text.to_owned()),
        Content::List(list) => Said::Text(list.join(", ")),
        Content::Values(values) => Said::Text(crate::output::values(values)),
    }
}

#[cfg(test)]
mod tests;
