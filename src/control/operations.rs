//! What a caller can do, each operation with the grant it needs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{
    Clock, ControlError, Deadline, Lattices,
    decide::{self, Desired, Known, Mode, Mutation, Precondition, Retry, Step},
    intent::{Intent, IntentParts},
    lattice::{Lattice, WriteAtRisk},
    lattices::{Found, Layout, Named, Storage},
    mutate::{BODY_BYTES_MAX, Written, answered, no_message, note, nothing_written},
    page::Filter,
    sweep,
};
use crate::{
    audit::Trail,
    auth::{ClaimsWrite, ClaimsWriteUnsigned, Grant, LinksWrite, Names, Provision, Read, RefsWrite, Verb},
    domain::{
        Claims, Entry, EntryKey, Kind, LatticeName, LinkDefinition, LinkId, OciReference, RequestId,
        Revision,
        claims_token::VerifiedToken,
        hash::{LengthPrefixed, first_8},
        nkey::Nkey,
    },
    store::{
        drift::Drift,
        feed,
        layout::cache_stream,
        mirror::{Malformed, Standing, View},
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
#[derive(Clone, Debug)]
pub struct Description {
    /// The layout; `None` where it cannot be told.
    pub layout: Option<Layout>,
    /// The stream.
    pub stream: String,
    /// The stream's configuration, as JetStream shows it.
    pub config: serde_json::Value,
    /// How it differs from what hosts create.
    pub drift: Vec<Drift>,
    /// How many malformed messages there are.
    pub malformed_count: usize,
    /// The first of them, with whole subjects.
    pub malformed: Vec<(String, Malformed)>,
    /// Entries that stand, by kind.
    pub counts: BTreeMap<Kind, usize>,
    /// Where the mirror is.
    pub revision: Option<Revision>,
    /// What a migration may have missed.
    pub at_risk: Vec<WriteAtRisk>,
    /// Superseded copies that cannot be removed.
    pub stale_copies: usize,
}

/// The operations.
#[derive(Clone, Debug)]
pub struct Control {
    lattices: Arc<Lattices>,
    clock: Clock,
}

impl Control {
    /// Over these lattices.
    pub fn new(lattices: Arc<Lattices>, clock: Clock) -> Self {
        Self { lattices, clock }
    }

    /// The lattices.
    pub fn lattices(&self) -> &Lattices {
        &self.lattices
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

    /// Refuses to delete claims: hosts of this layout have no such form.
    pub async fn delete_claims(
        &self,
        grant: &Grant<ClaimsWrite>,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        self.unsupported(grant, "delete claims", deadline).await
    }

    /// Refuses to delete a reference: hosts of no layout have such a form.
    pub async fn delete_oci_reference(
        &self,
        grant: &Grant<RefsWrite>,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        self.unsupported(grant, "delete OCI references", deadline).await
    }

    /// Gets one entry.
    pub async fn get(
        &self,
        grant: &Grant<Read>,
        key: &EntryKey,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Standing, ControlError> {
        let lattice = self.open_at(grant, consistency, deadline).await?;
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
        let lattice = self.open_at(grant, query.consistency, deadline).await?;
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
            let mut wanted = contents
                .standing(query.filter.kind(), after)
                .filter(|(key, _)| query.filter.wants(key))
                .peekable();
            let mut entries = Vec::new();
            let mut bytes = 0;
            while entries.len() < query.page_size
                && bytes < PAGE_BYTES_MAX
                && let Some((key, standing)) = wanted.next()
            {
                bytes += key.text_bytes() + standing.entry.text_bytes();
                entries.push((key.clone(), standing));
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
        let at_risk = self.lattices.at_risk(name);
        match found {
            Found::Nothing => Err(ControlError::NotProvisioned {
                lattice: name.to_string(),
            }),
            Found::Bucket(_) | Found::Ambiguous => Ok(Description {
                layout: layout_of(&found),
                stream: feed::bucket_stream(name),
                config: serde_json::Value::Null,
                drift: Vec::new(),
                malformed_count: 0,
                malformed: Vec::new(),
                counts: BTreeMap::new(),
                revision: None,
                at_risk,
                stale_copies: 0,
            }),
            Found::Stream(_) => {
                let lattice = self.lattices.open(name, deadline).await?;
                lattice.ready(deadline).await?;
                describe_open(&lattice, at_risk)
            }
        }
    }

    /// Creates a lattice's stream unless it is there. Tells whether this call did (or would).
    pub async fn provision(
        &self,
        grant: &Grant<Provision>,
        storage: Storage,
        mode: Mode,
        deadline: Deadline,
    ) -> Result<bool, ControlError> {
        let is_dry_run = mode == Mode::ValidateOnly;
        deadline
            .bound(self.lattices.provision(grant.lattice(), storage, is_dry_run))
            .await
            .ok_or(ControlError::ProvisionUnknown)?
    }

    async fn mutate(&self, asked: Asked<'_>, deadline: Deadline) -> Result<Written, ControlError> {
        let name = asked.lattice;
        let mutation = asked.into_mutation()?;
        let trail = mutation.trail.clone();
        trail.note(|record| {
            record.request_id = Some(mutation.intent.request_id.clone());
            record.fingerprint = Some(HEXLOWER.encode(&mutation.intent.stamp.fingerprint));
        });
        let lattice = match self.lattices.open(name, deadline).await {
            Err(ControlError::NotProvisioned { .. }) if self.lattices.creates_on_write() => {
                if let Some(result) = self.without_a_stream(name, &mutation) {
                    return result;
                }
                self.lattices.create(name, deadline).await?
            }
            opened => opened.map_err(nothing_written)?,
        };
        let result = lattice.mutate(mutation, self.lattices.tasks(), deadline).await;
        // Where it joined another call, that one noted it for itself alone.
        note(&trail, &result);
        result
    }

    /// What a mutation comes to while its lattice does not exist; `None` where it would write, and so create it.
    fn without_a_stream(
        &self,
        name: &LatticeName,
        mutation: &Mutation,
    ) -> Option<Result<Written, ControlError>> {
        let settings = self.lattices.settings(name)?;
        let view = View::of_nothing();
        let known = Known {
            fresh: Some(0),
            first_attempt_age: None,
            unknown_publish: None,
            now_unix_seconds: self.clock.unix_seconds(),
            trusted_issuers: &settings.trusted_issuers,
        };
        match decide::decide(mutation, &view, known) {
            Step::Publish(_) | Step::Refresh | Step::Probe => None,
            Step::Answer(answer) => Some(Ok(answered(&answer, mutation, &view))),
            Step::Refuse(refusal) => Some(Err(ControlError::of_refusal(&refusal, &mutation.key))),
        }
    }

    async fn unsupported<V: Verb>(
        &self,
        grant: &Grant<V>,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        self.lattices.open(grant.lattice(), deadline).await?.readable()?;
        Err(ControlError::LayoutUnsupported {
            layout: Layout::CacheStream.as_str(),
            operation,
        })
    }

    /// Opens a lattice for a read that is this fresh.
    async fn open_at(
        &self,
        grant: &Grant<Read>,
        consistency: Consistency,
        deadline: Deadline,
    ) -> Result<Arc<Lattice>, ControlError> {
        let lattice = self.lattices.open(grant.lattice(), deadline).await?;
        lattice.readable()?;
        lattice.ready(deadline).await?;
        match consistency {
            Consistency::MinimizeLatency => {}
            Consistency::FullyConsistent => {
                lattice.fresh(deadline).await?;
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

fn describe_open(lattice: &Lattice, at_risk: Vec<WriteAtRisk>) -> Result<Description, ControlError> {
    let inspection = lattice.inspection();
    let can_sweep = sweep::may_delete(lattice);
    lattice.look(|contents| {
        let kinds = [Kind::Claims, Kind::LinkDefinition, Kind::OciReference];
        Description {
            layout: Some(Layout::CacheStream),
            stream: lattice.stream.clone(),
            config: inspection.config,
            drift: inspection.drift,
            malformed_count: contents.malformed().len(),
            malformed: contents
                .malformed()
                .take(MALFORMED_LISTED_MAX)
                .map(|malformed| {
                    (
                        format!("{}{}", lattice.subject_prefix, malformed.tokens),
                        malformed.clone(),
                    )
                })
                .collect(),
            counts: kinds
                .into_iter()
                .map(|kind| (kind, contents.standing(kind, None).count()))
                .collect(),
            revision: Some(contents.position()),
            at_risk,
            stale_copies: if can_sweep { 0 } else { contents.stale().count() },
        }
    })
}

fn layout_of(found: &Found) -> Option<Layout> {
    match found {
        Found::Stream(_) => Some(Layout::CacheStream),
        Found::Bucket(layout) => Some(*layout),
        Found::Nothing | Found::Ambiguous => None,
    }
}

/// A mutation before it is recognised.
struct Asked<'a> {
    caller: &'a crate::auth::Caller,
    lattice: &'a LatticeName,
    entries_max: Option<u64>,
    method: &'static str,
    key: EntryKey,
    desired: Desired,
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
            terms,
            token: None,
        }
    }

    /// Refuses an entry that is too large for any stream.
    fn into_mutation(self) -> Result<Mutation, ControlError> {
        let body = match &self.desired {
            Desired::Entry(entry) => {
                cache_stream::put_body(&self.key, entry).ok_or_else(|| no_message(&self.key))?
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
            trail: self.terms.trail,
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
