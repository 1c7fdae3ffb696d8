//! What a caller can do, each operation with the grant it needs.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio_util::sync::CancellationToken;

use super::{
    Clock, ControlError, Deadline, Lattices,
    decide::{self, Condition, Desired, Known, Mode, Mutation, Precondition, Retry, Step},
    gate::Patience,
    intent::{Intent, IntentParts},
    lattice::{Lattice, WriteAtRisk},
    lattices::{Found, LatticeSettings, Layout, MigrationDifference, Named},
    links::UndoneEdit,
    mutate::{BODY_BYTES_MAX, Written, answered, no_message, nothing_written, unmet},
    page::Filter,
    sweep,
    watch::Watches,
};
use crate::{
    audit::Trail,
    auth::{ClaimsWrite, ClaimsWriteUnsigned, ConfigWrite, Grant, LinksWrite, Names, Read, RefsWrite, Verb},
    domain::{
        Claims, Entry, EntryKey, InterfaceLink, InterfaceLinkId, Kind, LatticeName, LinkDefinition, LinkId,
        NamedConfig, OciReference, RequestId, Revision,
        claims_token::VerifiedToken,
        hash::{LengthPrefixed, first_8},
        nkey::Nkey,
    },
    store::{
        consumers::HOST_WATCH,
        drift::Drift,
        layout::{Part, kv},
        mirror::{Contents, Malformed, Standing, View},
    },
};

/// Malformed messages that a description lists, at most.
pub const MALFORMED_LISTED_MAX: usize = 100;

/// A page ends behind the entry that brings its texts to this many bytes, so that no answer is larger than clients take.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The terms that every mutation has.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The caller's name for the intent.
    pub request_id: Option<RequestId>,
    /// Where the call is a retry.
    pub retry: Option<Retry>,
    /// What must hold.
    pub precondition: Precondition,
    /// Whether to write at all.
    pub mode: Mode,
    /// How it waits for its turn.
    pub patience: Patience,
    /// Where the call is recorded.
    pub trail: Trail,
}

/// Claims that are to be put, with the grant that their kind of proof needs.
#[derive(Clone, Debug)]
pub enum ClaimsSource {
    /// From a verified token.
    Signed {
        /// The grant.
        grant: Grant<ClaimsWrite>,
        /// The token.
        token: Box<VerifiedToken>,
        /// Its text, which is what was asked for.
        text: String,
    },
    /// Without a signature.
    Unsigned {
        /// The grant.
        grant: Grant<ClaimsWriteUnsigned>,
        /// The key.
        key: Nkey,
        /// The claims.
        claims: Claims,
    },
}

/// Which interface link is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSelector {
    /// What identifies it.
    pub id: InterfaceLinkId,
    /// Whether its target may be any, and is left out of the id.
    pub any_target: bool,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As the mirror has it.
    MinimizeLatency,
    /// At least this.
    AtLeastAsFresh(Revision),
    /// As the stream's leader tells now.
    FullyConsistent,
}

/// A list's question.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which entries.
    pub filter: Filter,
    /// How many at most.
    pub page_size: usize,
    /// Where to go on; empty at the beginning.
    pub page_token: String,
    /// How fresh.
    pub consistency: Consistency,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<(EntryKey, Standing)>,
    /// Where the next page begins; empty on the last one.
    pub next_page_token: String,
    /// Where the page is consistent.
    pub revision: Revision,
}

/// How a lattice is kept.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The layout; `None` where it cannot be told.
    pub layout: Option<Layout>,
    /// The stream.
    pub stream: String,
    /// The stream's configuration, as JetStream shows it.
    pub config: serde_json::Value,
    /// How it differs from what hosts create.
    pub drift: Vec<Drift>,
    /// How many malformed messages there are, those of its configs included.
    pub malformed_count: usize,
    /// The first of them, with whole subjects; those of its configs last.
    pub malformed: Vec<(String, Malformed)>,
    /// Entries that stand, by kind.
    pub counts: BTreeMap<Kind, usize>,
    /// Where the mirror is.
    pub revision: Option<Revision>,
    /// What a migration may have missed.
    pub at_risk: Vec<WriteAtRisk>,
    /// Superseded copies that cannot be removed.
    pub stale_copies: usize,
    /// What a migrating host's copy lacks or has otherwise.
    pub migration_differences: Vec<MigrationDifference>,
    /// Acknowledged edits of interface links that a host undid.
    pub undone_edits: Vec<UndoneEdit>,
    /// Hosts' watches of the bucket that receive nothing more.
    pub deaf_watches: Vec<DeafWatch>,
    /// For how long an edit of an interface link stands before it is acknowledged, where there are some.
    pub settle: Option<Duration>,
}

/// A host's watch of a bucket that receives nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeafWatch {
    /// The consumer's name.
    pub consumer: String,
    /// Messages that it was not delivered.
    pub pending: u64,
}

/// The operations.
#[derive(Clone, Debug)]
pub struct Control {
    lattices: Arc<Lattices>,
    watches: Arc<Watches>,
    clock: Clock,
}

impl Control {
    /// Over these lattices.
    pub fn new(lattices: Arc<Lattices>, clock: Clock) -> Self {
        Self {
            lattices,
            watches: Arc::default(),
            clock,
        }
    }

    /// The lattices.
    pub fn lattices(&self) -> &Lattices {
        &self.lattices
    }

    /// What watches share.
    pub(super) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// The wall clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Puts claims. What ages of a token is judged by the write protocol, so that the retry of an applied put is
    /// not refused for having aged.
    pub async fn put_claims(
        &self,
        source: ClaimsSource,
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        const METHOD: &str = "PutClaims";
        match source {
            ClaimsSource::Signed { grant, token, text } => {
                let key = EntryKey::Claims(token.subject.as_str().into());
                let desired = Desired::Entry(Arc::new(Entry::Claims(Box::new(token.claims))));
                let mut asked = Asked::new(&grant, METHOD, key, desired, terms);
                asked.token = Some((token.validity, text));
                self.mutate(asked, deadline).await
            }
            ClaimsSource::Unsigned { grant, key, claims } => {
                let key = EntryKey::Claims(key.as_str().into());
                let desired = Desired::Entry(Arc::new(Entry::Claims(Box::new(claims))));
                self.mutate(Asked::new(&grant, METHOD, key, desired, terms), deadline)
                    .await
            }
        }
    }

    /// Puts a link definition.
    pub async fn put_link_definition(
        &self,
        grant: &Grant<LinksWrite>,
        (id, link): (LinkId, LinkDefinition),
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let key = EntryKey::LinkDefinition(id);
        let desired = Desired::Entry(Arc::new(Entry::LinkDefinition(link)));
        self.mutate(
            Asked::new(grant, "PutLinkDefinition", key, desired, terms),
            deadline,
        )
        .await
    }

    /// Deletes a link definition.
    pub async fn delete_link_definition(
        &self,
        grant: &Grant<LinksWrite>,
        id: LinkId,
        allow_missing: bool,
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let key = EntryKey::LinkDefinition(id);
        let desired = Desired::Absent { allow_missing };
        self.mutate(
            Asked::new(grant, "DeleteLinkDefinition", key, desired, terms),
            deadline,
        )
        .await
    }

    /// Sets an OCI reference.
    pub async fn set_oci_reference(
        &self,
        grant: &Grant<RefsWrite>,
        (url, reference): (Box<str>, OciReference),
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let key = EntryKey::OciReference(url);
        let desired = Desired::Entry(Arc::new(Entry::OciReference(reference)));
        self.mutate(
            Asked::new(grant, "SetOciReference", key, desired, terms),
            deadline,
        )
        .await
    }

    /// Deletes claims, where hosts have a form for it.
    pub async fn delete_claims(
        &self,
        grant: &Grant<ClaimsWrite>,
        key: Box<str>,
        allow_missing: bool,
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let key = EntryKey::Claims(key);
        let desired = Desired::Absent { allow_missing };
        self.mutate(Asked::new(grant, "DeleteClaims", key, desired, terms), deadline)
            .await
    }

    /// Refuses to delete a reference: hosts of no layout have such a form.
    pub async fn delete_oci_reference(
        &self,
        grant: &Grant<RefsWrite>,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let lattice = self.lattices.open(grant.lattice(), deadline).await?;
        lattice.readable()?;
        Err(unsupported(lattice.part.layout(), Kind::OciReference, true))
    }

    /// Puts an interface link.
    pub async fn put_interface_link(
        &self,
        grant: &Grant<LinksWrite>,
        (id, link): (InterfaceLinkId, InterfaceLink),
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let condition = match link.configs().next() {
            None => Condition::None,
            Some(_) => Condition::ConfigsExist(Box::pin(self.fresh_configs(grant, deadline)).await?),
        };
        let key = EntryKey::InterfaceLink(id);
        let desired = Desired::Entry(Arc::new(Entry::InterfaceLink(link)));
        let mut asked = Asked::new(grant, "PutInterfaceLink", key, desired, terms);
        asked.condition = condition;
        self.mutate(asked, deadline).await
    }

    /// Deletes an interface link; of whichever target, where none is named and exactly one matches.
    pub async fn delete_interface_link(
        &self,
        grant: &Grant<LinksWrite>,
        selector: LinkSelector,
        allow_missing: bool,
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let desired = Desired::Absent { allow_missing };
        let method = match selector.any_target {
            false => "DeleteInterfaceLink",
            true => "DeleteInterfaceLink of any target",
        };
        let mut asked = Asked::new(
            grant,
            method,
            EntryKey::InterfaceLink(selector.id),
            desired,
            terms,
        );
        asked.any_target = selector.any_target;
        self.mutate(asked, deadline).await
    }

    /// Gets an interface link; of whichever target, where none is named and exactly one matches.
    pub async fn get_interface_link(
        &self,
        grant: &Grant<Read>,
        selector: &LinkSelector,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<(EntryKey, Standing), ControlError> {
        let lattice = self
            .open_at(grant, Kind::InterfaceLink, consistency, deadline)
            .await?;
        let id = &selector.id;
        let mut links = lattice.look(|contents| match selector.any_target {
            true => contents.links_to_any_target(id),
            false => contents
                .interface_link(id)
                .map(|link| (id.clone(), link))
                .into_iter()
                .collect(),
        })?;
        if links.len() > 1 {
            let targets = links.iter().map(|(id, _)| &*id.target).collect::<Vec<_>>();
            return Err(ControlError::AmbiguousLink {
                targets: targets.join(", "),
            });
        }
        match links.pop() {
            Some((id, standing)) => Ok((EntryKey::InterfaceLink(id), standing)),
            None => Err(ControlError::NotFound {
                entry: EntryKey::InterfaceLink(id.clone()).to_string(),
            }),
        }
    }

    /// Puts a named config.
    pub async fn put_config(
        &self,
        grant: &Grant<ConfigWrite>,
        (name, config): (Box<str>, NamedConfig),
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let desired = Desired::Entry(Arc::new(Entry::Config(config)));
        self.mutate(
            Asked::new(grant, "PutConfig", EntryKey::Config(name), desired, terms),
            deadline,
        )
        .await
    }

    /// Deletes a named config; one that links name only with `force`.
    pub async fn delete_config(
        &self,
        grant: &Grant<ConfigWrite>,
        name: Box<str>,
        (allow_missing, force): (bool, bool),
        terms: Terms,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let desired = Desired::Absent { allow_missing };
        let method = match force {
            false => "DeleteConfig",
            true => "DeleteConfig by force",
        };
        let mut asked = Asked::new(grant, method, EntryKey::Config(name), desired, terms);
        if !force {
            match self.lattices.open(grant.lattice(), deadline).await {
                Ok(links) => {
                    links.ready(deadline).await.map_err(nothing_written)?;
                    links.fresh(deadline).await.map_err(nothing_written)?;
                    asked.condition = Condition::ConfigUnused(links);
                }
                // Nothing names it, and what there is to answer is as of any delete.
                Err(ControlError::NotProvisioned { .. }) => {}
                Err(error) => return Err(nothing_written(error)),
            }
        }
        self.mutate(asked, deadline).await
    }

    /// The stream of the configs, as its leader has it now; `None` where there is none.
    async fn fresh_configs<V: Verb>(
        &self,
        grant: &Grant<V>,
        deadline: Deadline,
    ) -> Result<Option<Arc<Lattice>>, ControlError> {
        let configs = match self.lattices.open_configs(grant.lattice(), deadline).await {
            Ok(configs) => configs,
            Err(ControlError::NotProvisioned { .. }) => return Ok(None),
            Err(error) => return Err(nothing_written(error)),
        };
        configs.ready(deadline).await.map_err(nothing_written)?;
        configs.fresh(deadline).await.map_err(nothing_written)?;
        Ok(Some(configs))
    }

    /// Gets one entry.
    pub async fn get(
        &self,
        grant: &Grant<Read>,
        key: &EntryKey,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Standing, ControlError> {
        let lattice = self.open_at(grant, key.kind(), consistency, deadline).await?;
        let winner = lattice.look(|contents| contents.winner(key))?;
        let standing = winner.and_then(|winner| winner.standing());
        standing.ok_or_else(|| ControlError::NotFound {
            entry: key.to_string(),
        })
    }

    /// Lists entries.
    pub async fn list(
        &self,
        grant: &Grant<Read>,
        query: ListQuery,
        deadline: Deadline,
    ) -> Result<Page, ControlError> {
        let kind = query.filter.kind();
        let lattice = self.open_at(grant, kind, query.consistency, deadline).await?;
        lattice.look(|contents| {
            let revision = contents.position();
            let after = match query.page_token.as_str() {
                "" => None,
                token => Some(
                    query
                        .filter
                        .parse(grant.lattice(), revision.epoch, token)
                        .ok_or(ControlError::PageTokenInvalid)?,
                ),
            };
            let mut wanted = in_order(contents, kind, after)
                .filter(|(key, _)| query.filter.wants(key))
                .peekable();
            let mut entries = Vec::new();
            let mut bytes = 0;
            while entries.len() < query.page_size
                && bytes < PAGE_BYTES_MAX
                && let Some((key, standing)) = wanted.next()
            {
                bytes += key.text_bytes() + standing.entry.text_bytes();
                entries.push((key.into_owned(), standing));
            }
            let next_page_token = match (wanted.peek(), entries.last()) {
                (Some(_), Some((last, _))) => query.filter.token(grant.lattice(), revision.epoch, last),
                _ => String::new(),
            };
            Ok(Page {
                entries,
                next_page_token,
                revision,
            })
        })?
    }

    /// Names the lattices that exist and that `visible` grants, by name. Looks for them only on upstreams that may have some
    /// that the caller may see.
    pub async fn list_lattices(
        &self,
        visible: impl Fn(&LatticeName) -> Option<Grant<Read>>,
        may_see_some_of: impl Fn(&Names) -> bool,
        deadline: Deadline,
    ) -> Result<Vec<(Grant<Read>, Named)>, ControlError> {
        let names = deadline
            .bound(self.lattices.names(may_see_some_of))
            .await
            .ok_or(ControlError::ReadTimedOut)??;
        Ok(names
            .into_iter()
            .filter_map(|(name, named)| Some((visible(&name)?, named)))
            .collect())
    }

    /// Describes how a lattice is kept.
    pub async fn describe<V: Verb>(
        &self,
        grant: &Grant<V>,
        deadline: Deadline,
    ) -> Result<Description, ControlError> {
        let name = grant.lattice();
        let found = deadline
            .bound(self.lattices.find(name))
            .await
            .ok_or(ControlError::ReadTimedOut)??;
        let (at_risk, migration_differences) = self.lattices.migration(name);
        match found {
            Found::Nothing => Err(ControlError::NotProvisioned {
                lattice: name.to_string(),
            }),
            Found::Ambiguous => Ok(Description {
                stream: Part::Kv.stream_name(name),
                at_risk,
                migration_differences,
                ..Description::default()
            }),
            Found::At(layout, _) => {
                let lattice = self.lattices.open(name, deadline).await?;
                lattice.ready(deadline).await?;
                let mut described = describe_open(&lattice)?;
                let (configs_count, malformed_configs) = match layout.part_of(Kind::Config) {
                    None => (0, Vec::new()),
                    Some(_) => match self.lattices.open_configs(name, deadline).await {
                        Ok(configs) => {
                            configs.ready(deadline).await?;
                            configs.look(|contents| {
                                let count = contents.standing(Kind::Config, None).count();
                                (count, malformed(&configs, contents.malformed().cloned()))
                            })?
                        }
                        Err(ControlError::NotProvisioned { .. }) => (0, Vec::new()),
                        Err(error) => return Err(error),
                    },
                };
                described.malformed_count += malformed_configs.len();
                described.malformed.extend(malformed_configs);
                described.malformed.truncate(MALFORMED_LISTED_MAX);
                let deaf_watches = match layout {
                    Layout::Component => deaf_watches(&lattice, deadline).await?,
                    Layout::CacheStream | Layout::Kv => Vec::new(),
                };
                let mut counts = described.counts;
                counts.insert(Kind::Config, configs_count);
                Ok(Description {
                    counts,
                    at_risk,
                    migration_differences,
                    deaf_watches,
                    ..described
                })
            }
        }
    }

    async fn mutate(&self, asked: Asked<'_>, deadline: Deadline) -> Result<Written, ControlError> {
        let name = asked.lattice;
        let kind = asked.key.kind();
        let is_delete = matches!(asked.desired, Desired::Absent { .. });
        let trail = asked.terms.trail.clone();
        let mutation = |layout: Layout, settings: &LatticeSettings| {
            let part = layout
                .part_of(kind)
                .filter(|_| !is_delete || layout.deletes(kind));
            let part = part.ok_or_else(|| unsupported(layout, kind, is_delete))?;
            let mutation = asked.into_mutation(part, settings)?;
            trail.note(|record| {
                record.request_id = Some(mutation.intent.request_id.clone());
                record.fingerprint = Some(HEXLOWER.encode(&mutation.intent.stamp.fingerprint));
            });
            Ok::<_, ControlError>(mutation)
        };
        let (lattice, mutation) = match (
            self.lattices.open(name, deadline).await,
            self.lattices.created_on_write(),
        ) {
            (Err(ControlError::NotProvisioned { .. }), Some(new)) => {
                let settings = self.lattices.settings(name);
                let settings = settings.ok_or_else(|| super::lattice::not_provisioned(name))?;
                let mutation = mutation(new.layout, &settings)?;
                if let Some(result) = self.without_a_stream(&settings, &mutation) {
                    return result;
                }
                (Box::pin(self.lattices.create(name, deadline)).await?, mutation)
            }
            (opened, _) => {
                let lattice = opened.map_err(nothing_written)?;
                let mutation = mutation(lattice.part.layout(), &lattice.settings)?;
                (lattice, mutation)
            }
        };
        let lattice = match kind {
            Kind::Config => {
                lattice.readable()?;
                let configs = self.lattices.open_configs(name, deadline).await;
                configs.map_err(nothing_written)?
            }
            Kind::Claims
            | Kind::LinkDefinition
            | Kind::OciReference
            | Kind::InterfaceLink
            | Kind::Component => lattice,
        };
        let tasks = self.lattices.tasks();
        lattice.mutate(mutation, trail, tasks, deadline).await
    }

    /// What a mutation comes to while its lattice does not exist; `None` where it would write, and so create it.
    fn without_a_stream(
        &self,
        settings: &LatticeSettings,
        mutation: &Mutation,
    ) -> Option<Result<Written, ControlError>> {
        let view = View::of_nothing();
        let unmet = unmet(mutation).ok().flatten();
        let known = Known {
            fresh: Some(0),
            first_attempt_age: None,
            unknown_publish: None,
            now_unix_seconds: self.clock.unix_seconds(),
            trusted_issuers: &settings.trusted_issuers,
            unmet: unmet.as_ref(),
        };
        match decide::decide(mutation, &view, known) {
            Step::Publish(_) | Step::Refresh | Step::Probe => None,
            Step::Answer(answer) => Some(Ok(answered(&answer, mutation, &view))),
            Step::Refuse(refusal) => Some(Err(ControlError::of_refusal(&refusal, &mutation.key))),
        }
    }

    /// Opens a lattice for a read that is this fresh.
    async fn open_at(
        &self,
        grant: &Grant<Read>,
        kind: Kind,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Arc<Lattice>, ControlError> {
        let lattice = self.lattices.open(grant.lattice(), deadline).await?;
        lattice.readable()?;
        let layout = lattice.part.layout();
        let lattice = match layout.part_of(kind) {
            None => return Err(unsupported(layout, kind, false)),
            Some(Part::Configs) => self.lattices.open_configs(grant.lattice(), deadline).await?,
            Some(Part::CacheStream | Part::Kv | Part::Component) => lattice,
        };
        lattice.ready(deadline).await?;
        match consistency {
            Consistency::MinimizeLatency => {}
            Consistency::FullyConsistent => {
                let place = lattice.gate.enter(Patience::Short, deadline).await?;
                let fresh = lattice.fresh(deadline).await;
                place.ended(&fresh);
                fresh?;
            }
            Consistency::AtLeastAsFresh(revision) => reach(&lattice, revision, deadline).await?,
        }
        Ok(lattice)
    }
}

/// Waits for a revision that the caller has seen somewhere. It may be of a stream that is gone, or of an incarnation
/// that the mirror has not noticed yet: the leader tells.
async fn reach(lattice: &Lattice, revision: Revision, deadline: Deadline) -> Result<(), ControlError> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let has_reached = || {
        lattice
            .mirror()
            .position()
            .is_some_and(|at| at.epoch == revision.epoch && at.sequence >= revision.sequence)
    };
    let soon = Deadline::within(PATIENCE.min(deadline.left()));
    if has_reached() || soon.bound(lattice.mirror().reached(revision)).await.is_some() {
        return Ok(());
    }
    let fresh = lattice.fresh(deadline).await?;
    match fresh.last.epoch == revision.epoch && fresh.last.sequence >= revision.sequence {
        true => Ok(()),
        false => Err(ControlError::RevisionUnavailable),
    }
}

/// The entries of a kind that stand, in the order of their keys, behind `after` where given.
pub(super) fn in_order(
    contents: &Contents,
    kind: Kind,
    after: Option<EntryKey>,
) -> Box<dyn Iterator<Item = (Cow<'_, EntryKey>, Standing)> + '_> {
    if kind != Kind::InterfaceLink {
        let entries = contents.standing(kind, after);
        return Box::new(entries.map(|(key, standing)| (Cow::Borrowed(key), standing)));
    }
    let after = match after {
        Some(EntryKey::InterfaceLink(id)) => Some(id),
        _ => None,
    };
    let links = contents.interface_links(after);
    Box::new(links.map(|(id, standing)| (Cow::Owned(EntryKey::InterfaceLink(id)), standing)))
}

/// The refusal of what hosts of a layout do not have.
pub(super) fn unsupported(layout: Layout, kind: Kind, is_delete: bool) -> ControlError {
    ControlError::LayoutUnsupported {
        layout: layout.as_str(),
        operation: match (kind, is_delete) {
            (Kind::Claims, true) => "delete claims",
            (Kind::OciReference, true) => "delete OCI references",
            (Kind::LinkDefinition, _) => "link definitions; it has interface links",
            (Kind::OciReference, false) => "OCI references",
            (Kind::InterfaceLink, _) => "interface links; it has link definitions",
            (Kind::Config, _) => "named configs",
            (Kind::Claims, false) | (Kind::Component, _) => "this",
        },
    }
}

fn describe_open(lattice: &Lattice) -> Result<Description, ControlError> {
    let inspection = lattice.inspection();
    let can_sweep = sweep::may_delete(lattice);
    let layout = lattice.part.layout();
    let settle = (layout == Layout::Component).then_some(lattice.settings.settle);
    let undone_edits = lattice.undone_edits();
    lattice.look(|contents| {
        let misfiled = contents.misfiled_links().map(|(source, sequence)| Malformed {
            tokens: format!("{}{source}", kv::COMPONENTS).into(),
            sequence,
            reason: "links in the record are of another source, and hosts never find them by it",
        });
        let mut malformed = malformed(lattice, contents.malformed().cloned().chain(misfiled));
        malformed.sort_by_key(|(_, malformed)| malformed.sequence);
        let malformed_count = malformed.len();
        malformed.truncate(MALFORMED_LISTED_MAX);
        Description {
            layout: Some(layout),
            stream: lattice.stream.clone(),
            config: inspection.config,
            drift: inspection.drift,
            malformed_count,
            malformed,
            counts: Kind::SHOWN
                .into_iter()
                .map(|kind| (kind, in_order(contents, kind, None).count()))
                .collect(),
            revision: Some(contents.position()),
            stale_copies: if can_sweep { 0 } else { contents.stale().count() },
            undone_edits,
            settle,
            ..Description::default()
        }
    })
}

/// Names the messages by their subjects.
fn malformed(lattice: &Lattice, malformed: impl Iterator<Item = Malformed>) -> Vec<(String, Malformed)> {
    let named = malformed.map(|malformed| {
        let subject = format!("{}{}", lattice.subject_prefix, malformed.tokens);
        (subject, malformed)
    });
    named.collect()
}

/// Watches by which hosts follow a bucket, and that nobody listens to or that receive nothing.
async fn deaf_watches(lattice: &Lattice, deadline: Deadline) -> Result<Vec<DeafWatch>, ControlError> {
    let consumers = deadline.bound(lattice.api.consumers(&lattice.stream)).await;
    let consumers = consumers
        .ok_or(ControlError::ReadTimedOut)?
        .map_err(|error| ControlError::of_api(error, lattice.name.as_str()))?;
    Ok(consumers
        .into_iter()
        .filter(|consumer| consumer.description == HOST_WATCH && (!consumer.is_bound || consumer.pending > 0))
        .map(|consumer| DeafWatch {
            consumer: consumer.name,
            pending: consumer.pending,
        })
        .collect())
}

/// A mutation before it is recognised.
struct Asked<'a> {
    caller: &'a crate::auth::Caller,
    lattice: &'a LatticeName,
    entries_max: Option<u64>,
    method: &'static str,
    key: EntryKey,
    desired: Desired,
    any_target: bool,
    condition: Condition,
    terms: Terms,
    token: Option<(crate::domain::claims_token::Validity, String)>,
}

impl<'a> Asked<'a> {
    fn new<V: Verb>(
        grant: &'a Grant<V>,
        method: &'static str,
        key: EntryKey,
        desired: Desired,
        terms: Terms,
    ) -> Self {
        Self {
            caller: grant.caller(),
            lattice: grant.lattice(),
            entries_max: grant.entries_max(),
            method,
            key,
            desired,
            any_target: false,
            condition: Condition::None,
            terms,
            token: None,
        }
    }

    /// Refuses what the layout does not keep, and an entry that is too large for any stream.
    fn into_mutation(mut self, part: Part, settings: &LatticeSettings) -> Result<Mutation, ControlError> {
        let body = match &mut self.desired {
            Desired::Entry(entry) => {
                let kept = part
                    .kept(
                        &self.key,
                        Arc::unwrap_or_clone(Arc::clone(entry)),
                        self.token.is_some(),
                    )
                    .map_err(ControlError::NotKept)?;
                let body = part.put_body(&self.key, &kept, settings.claims_form);
                *entry = Arc::new(kept);
                body.ok_or_else(|| no_message(&self.key))?
            }
            Desired::Absent { .. } => Bytes::new(),
        };
        if body.len() > BODY_BYTES_MAX {
            return Err(ControlError::BodyTooLarge {
                max: BODY_BYTES_MAX,
                actual: body.len(),
            });
        }
        let intent = Intent::of(IntentParts {
            caller: self.caller,
            lattice: self.lattice,
            method: self.method,
            key: &self.key,
            request_id: self.terms.request_id.as_ref(),
            fingerprint: self.fingerprint(&body),
        });
        Ok(Mutation {
            key: Arc::new(self.key),
            desired: self.desired,
            body,
            intent,
            precondition: self.terms.precondition,
            mode: self.terms.mode,
            retry: self.terms.retry,
            validity: self.token.map(|(validity, _)| validity),
            entries_max: self.entries_max,
            any_target: self.any_target,
            condition: self.condition,
            patience: self.terms.patience,
            abandoned: CancellationToken::new(),
        })
    }

    /// The hash of what is asked, without what may differ between attempts.
    fn fingerprint(&self, body: &[u8]) -> [u8; 8] {
        let mut hash = LengthPrefixed::default();
        match &self.desired {
            Desired::Entry(_) => {
                hash.text("put");
                hash.bytes(body);
            }
            Desired::Absent { allow_missing } => {
                hash.text("delete");
                hash.bytes(&[u8::from(*allow_missing)]);
            }
        }
        match &self.terms.precondition {
            Precondition::None => hash.text("none"),
            Precondition::Etag(etag) => hash.text(&etag.encode()),
            Precondition::MustExist => hash.text("must_exist"),
            Precondition::MustNotExist => hash.text("must_not_exist"),
        }
        if let Some((_, text)) = &self.token {
            hash.text(text);
        }
        first_8(&hash.finish())
    }
}
