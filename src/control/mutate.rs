//! Carries a mutation out: one publish, and an honest answer whatever becomes of it.
//!
//! A publish whose outcome is unknown is never repeated blindly. The leader's state is read again: the id is there →
//! it was applied; the home message has not moved → the same publish, with the same expectation, may go out again,
//! since only one of any number can land; it has moved → the record tells, or the probe, or nobody can. Every
//! reason that says *not applied* is given only while no publish of the call is unknown.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use super::{
    ControlError, Deadline,
    decide::{self, Answer, Condition, Desired, Known, Mutation, Publish, Refusal, Retry, Step},
    effects,
    intent::Intent,
    lattice::{Fresh, Lattice},
    unstoppable::Unstoppable,
};
use crate::{
    audit::Trail,
    domain::{Entry, EntryKey, Etag, Kind, Revision, revision::Tag},
    safeguard::Safeguard,
    store::{
        api::ApiError,
        connection::RequestFailed,
        drift::Drift,
        layout::{Marker, Part, Removal, kv},
        mirror::{Contents, Standing, State, View, Winner},
        publish::{self, Outgoing, Probed, Published, Refused},
    },
    telemetry::traces,
};

/// Bytes in a stored body, at most.
pub const BODY_BYTES_MAX: usize = 512 * 1024;

/// For how long an acknowledged write waits to be seen in the mirror, so that its answer tells the time of the write
/// and a read behind it sees it.
const SEEN_TIMEOUT: Duration = Duration::from_millis(250);

/// For how long the leader is asked where that takes longer.
const LEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// So much later than its task does a call give up on it.
const OWN_ANSWER_GRACE: Duration = Duration::from_millis(5);

/// Between two looks at a leader that does not answer, or is not ready.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What became of a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This call changed the entry.
    Applied,
    /// The entry stood as asked.
    Unchanged,
    /// An earlier call was applied.
    AlreadyApplied,
    /// A live call would be accepted.
    Validated,
}

impl Outcome {
    /// As the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "OUTCOME_APPLIED",
            Self::Unchanged => "OUTCOME_UNCHANGED",
            Self::AlreadyApplied => "OUTCOME_ALREADY_APPLIED",
            Self::Validated => "OUTCOME_VALIDATED",
        }
    }
}

/// The result of a mutation.
#[derive(Clone, Debug)]
pub struct Written {
    /// The entry.
    pub key: Arc<EntryKey>,
    /// What became of it.
    pub outcome: Outcome,
    /// Where this request was applied, or the revision it was judged at.
    pub revision: Revision,
    /// Whether something else was written to the entry since.
    pub superseded: bool,
    /// What wins the entry's fold now.
    pub winner: Option<Winner>,
    /// The entry's etag before, where it stood.
    pub before: Option<Etag>,
    /// Of [`Outcome::Validated`]: the entry as it would stand.
    pub would_stand: Option<Arc<Entry>>,
}

impl Written {
    /// The entry, where it stands.
    pub fn standing(&self) -> Option<Standing> {
        self.winner.as_ref()?.standing()
    }
}

type Outcomes = Result<Written, ControlError>;

/// The calls with a client's id that are under way, by message id: the same call that comes again joins.
#[derive(Debug, Default)]
pub(super) struct Joined(Mutex<HashMap<String, UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    fingerprint: [u8; 8],
    joined: Vec<oneshot::Sender<Outcomes>>,
}

impl Joined {
    /// Begins a call; where it is under way already, gives its result to come.
    fn begin(&self, intent: &Intent) -> Result<Option<oneshot::Receiver<Outcomes>>, ControlError> {
        let fingerprint = intent.stamp.fingerprint;
        match self.0.lock().entry(intent.message_id.clone()) {
            hash_map::Entry::Vacant(place) => {
                place.insert(UnderWay {
                    fingerprint,
                    joined: Vec::new(),
                });
                Ok(None)
            }
            hash_map::Entry::Occupied(place) if place.get().fingerprint != fingerprint => {
                Err(ControlError::RequestIdReused)
            }
            hash_map::Entry::Occupied(mut place) => {
                let (sender, receiver) = oneshot::channel();
                place.get_mut().joined.push(sender);
                Ok(Some(receiver))
            }
        }
    }

    /// Whether somebody joined a call and still waits for it.
    fn is_awaited(&self, message_id: &str) -> bool {
        let calls = self.0.lock();
        let mut joined = calls.get(message_id).into_iter().flat_map(|call| &call.joined);
        joined.any(|joined| !joined.is_closed())
    }

    fn is_under_way(&self, intent: &Intent) -> bool {
        self.0.lock().contains_key(&intent.message_id)
    }

    fn end(&self, message_id: &str) -> Vec<oneshot::Sender<Outcomes>> {
        let under_way = self.0.lock().remove(message_id);
        under_way.map_or_else(Vec::new, |under_way| under_way.joined)
    }
}

/// A call that others may join until it ends, whatever ends it.
struct Joinable<'a> {
    joined: &'a Joined,
    message_id: &'a str,
    did_end: bool,
}

impl Joinable<'_> {
    fn end(mut self, result: &Outcomes) {
        self.did_end = true;
        for joined in self.joined.end(self.message_id) {
            if joined.send(result.clone()).is_err() {
                // Whoever joined has given up.
            }
        }
    }
}

impl Drop for Joinable<'_> {
    fn drop(&mut self) {
        // By now the call may have come again.
        if !self.did_end {
            drop(self.joined.end(self.message_id));
        }
    }
}

impl Lattice {
    /// Carries a mutation out, or joins the same call that is running here already. Only who waits for it keeps `trail`, and
    /// whoever goes on in their place: the record is written once a call is answered.
    pub(super) async fn mutate(
        self: Arc<Self>,
        mutation: Mutation,
        trail: Trail,
        tasks: &TaskTracker,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        // Before it costs anything, and waits behind others of the entry that wait for a stream which does not answer.
        if let Err(refused) = self.gate.look(mutation.patience, deadline)
            && !(mutation.is_joinable() && self.joined.is_under_way(&mutation.intent))
        {
            return Err(refused);
        }
        if mutation.is_joinable()
            && let Some(result) = self.joined.begin(&mutation.intent)?
        {
            // The one that is under way may have more time than this call has.
            let result = deadline.plus(OWN_ANSWER_GRACE).bound(result).await;
            let result = result.and_then(Result::ok).unwrap_or_else(|| {
                let request_id = mutation.intent.request_id;
                Err(ControlError::OutcomeUnknown { request_id })
            });
            note(&trail, &result);
            return result;
        }
        self.start(mutation, trail, tasks, deadline).await
    }

    /// A caller that goes away must not leave a mutation half done: what was published is seen through. Nothing more is
    /// published for nobody: whoever went away may be back on another gateway, and be refused there.
    fn start(
        self: Arc<Self>,
        mutation: Mutation,
        trail: Trail,
        tasks: &TaskTracker,
        deadline: Deadline,
    ) -> Unstoppable<Outcomes> {
        let abandoned = mutation.abandoned.clone();
        let work = async move {
            let joinable = mutation.is_joinable().then(|| Joinable {
                joined: &self.joined,
                message_id: &mutation.intent.message_id,
                did_end: false,
            });
            let result = self.carry_out(&mutation, deadline).await;
            note(&trail, &result);
            self.effects.metrics.written(outcome_of(&result));
            if let Some(joinable) = joinable {
                joinable.end(&result);
            }
            result
        };
        Unstoppable::new(work, abandoned, tasks)
    }

    /// Whether nobody waits for a call any more.
    pub(super) fn is_abandoned(&self, mutation: &Mutation) -> bool {
        mutation.abandoned.is_cancelled() && !self.joined.is_awaited(&mutation.intent.message_id)
    }

    async fn carry_out(
        self: &Arc<Self>,
        mutation: &Mutation,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        self.ready(deadline).await.map_err(nothing_written)?;
        if mutation.key.kind() == Kind::InterfaceLink {
            return self.edit_link(mutation, deadline).await;
        }
        let turn = self.queues.turn(&mutation.key);
        let _turn = deadline.bound(turn).await.ok_or(ControlError::Contention)?;
        let place = self.gate.enter(mutation.patience, deadline).await?;
        let mut attempt = Attempt {
            lattice: self,
            mutation,
            deadline,
            fresh: None,
            unknown: None,
            may_be_forgotten: false,
            refused_ids: 0,
            replaced: None,
        };
        let result = attempt.run().await;
        place.ended(&result);
        let written = result?;
        let replaced = attempt.replaced.as_ref().map(|standing| &*standing.entry);
        effects::announce(self, mutation, &written, replaced, deadline).await;
        Ok(written)
    }
}

/// A publish of this call whose outcome is unknown.
#[derive(Clone, Copy, Debug)]
struct UnknownPublish {
    sent: Instant,
    expected_sequence: u64,
}

/// One call under way.
struct Attempt<'a> {
    lattice: &'a Lattice,
    mutation: &'a Mutation,
    deadline: Deadline,
    fresh: Option<Fresh>,
    unknown: Option<UnknownPublish>,
    /// As [`Publish`] tells of the last one.
    may_be_forgotten: bool,
    /// Of a cluster that keeps the ids it refused: how many of this call's it keeps.
    refused_ids: u32,
    /// What stood when the call last published.
    replaced: Option<Standing>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<Written, ControlError> {
        loop {
            if self.deadline.left().is_zero() {
                return Err(self.not_applied(ControlError::Contention));
            }
            if self.unknown.is_none() && self.lattice.is_abandoned(self.mutation) {
                return Err(abandoned());
            }
            self.lattice.writable().map_err(|error| self.not_applied(error))?;
            let view = self.look().map_err(|error| self.not_applied(error))?;
            self.settle(&view);
            let unmet = unmet(self.mutation).map_err(|error| self.not_applied(error))?;
            match decide::decide(self.mutation, &view, self.known(unmet.as_ref())) {
                Step::Refresh => self.refresh().await?,
                Step::Refuse(refusal) => {
                    return Err(self.not_applied(ControlError::of_refusal(&refusal, &self.mutation.key)));
                }
                Step::Answer(answer) => return Ok(answered(&answer, self.mutation, &view)),
                Step::Probe => {
                    if let Some(written) = self.probe(&view).await? {
                        return Ok(written);
                    }
                }
                Step::Publish(due) => {
                    if let Some(written) = self.publish(due, &view).await? {
                        return Ok(written);
                    }
                }
            }
        }
    }

    fn look(&self) -> Result<View, ControlError> {
        let Mutation { key, intent, .. } = self.mutation;
        self.lattice.look(|contents| contents.view(key, intent.stamp.id))
    }

    fn known<'a>(&'a self, unmet: Option<&'a Refusal>) -> Known<'a> {
        // What no message can hold was never applied.
        let may_be_applied = |_: &Retry| Safeguard::RetryRule.holds() && self.home().is_ok();
        let retry = self.mutation.retry.filter(may_be_applied);
        let told = Fresh::reckoned_at(self.fresh);
        let since_first = retry.map(|retry| retry.age(told));
        let since_publish = self
            .unknown
            .map(|publish| told.saturating_duration_since(publish.sent));
        Known {
            fresh: self.fresh.map(|fresh| fresh.unix_millis),
            first_attempt_age: since_first.max(since_publish),
            unknown_publish: self.unknown.map(|publish| publish.expected_sequence),
            now_unix_seconds: self.lattice.clock.unix_seconds(),
            trusted_issuers: &self.lattice.settings.trusted_issuers,
            unmet,
        }
    }

    /// Once the home message has moved and the record is complete without this call's id, a publish of it can no
    /// longer land: its expectation is stale.
    fn settle(&mut self, view: &View) {
        if let (Some(publish), Some(fresh)) = (self.unknown, self.fresh) {
            let has_moved = view.home_sequence != publish.expected_sequence;
            let is_complete = view.is_complete_since(fresh.at(publish.sent));
            if has_moved && view.applied.is_none() && is_complete {
                self.unknown = None;
            }
        }
    }

    /// Looks at the leader's state. While a publish is unknown it is worth waiting for.
    async fn refresh(&mut self) -> Result<(), ControlError> {
        loop {
            match self.lattice.fresh(self.deadline).await {
                Ok(fresh) => {
                    self.fresh = Some(fresh);
                    return Ok(());
                }
                Err(error) if self.unknown.is_none() => return Err(nothing_written(error)),
                Err(_) if self.deadline.left() <= RETRY_PAUSE => return Err(self.outcome_unknown()),
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn publish(&mut self, due: Publish, view: &View) -> Result<Option<Written>, ControlError> {
        let subject = self.home()?;
        self.may_be_forgotten = due.may_be_forgotten;
        let Some((marker, body)) = self
            .message(&due)
            .await
            .map_err(|error| self.not_applied(error))?
        else {
            // What was to be deleted is no longer there.
            self.fresh = None;
            self.refresh().await?;
            return Ok(None);
        };
        if due.current.is_none() {
            self.may_add().map_err(|error| self.not_applied(error))?;
        }
        #[cfg(feature = "campaign")]
        let due = self.tombstone_first(due, &subject).await;
        self.replaced.clone_from(&due.current);
        let expected_sequence = due.expected_sequence;
        let sent = Instant::now();
        let outgoing = Outgoing {
            stream: &self.lattice.stream,
            subject: &subject,
            message_id: &self.message_id(),
            expected_sequence,
            evidence: &due.evidence,
            marker,
            body,
        };
        let timeout = self.lattice.ack_timeout.min(self.deadline.left());
        let span = traces::publish(outgoing.subject);
        let published = self.lattice.publish(outgoing, timeout, span).await;
        self.fresh = None;
        match published {
            Published::Stored(sequence) => {
                let outcome = match due.is_unchanged {
                    true => Outcome::Unchanged,
                    false => Outcome::Applied,
                };
                Ok(Some(self.stored(outcome, sequence, view).await))
            }
            Published::Duplicate(sequence) => {
                self.refresh().await?;
                let view = self.look()?;
                match view.applied {
                    Some(_) => Ok(None),
                    // It was removed since.
                    None => Ok(Some(already_applied(sequence, &self.mutation.key, &view))),
                }
            }
            Published::Unknown => {
                self.unknown = Some(UnknownPublish {
                    sent: self.unknown.map_or(sent, |earlier| earlier.sent),
                    expected_sequence,
                });
                self.refresh().await?;
                Ok(None)
            }
            Published::Refused(Refused::Overtaken | Refused::InFlight) => {
                self.refresh().await?;
                if self.lattice.api.connection().clusters_keep_refused_ids() {
                    self.refused_ids += 1;
                }
                // In a cluster the write that is in flight may not be visible yet.
                if self.look()?.home_sequence == expected_sequence {
                    sleep(RETRY_PAUSE.min(self.deadline.left())).await;
                }
                Ok(None)
            }
            Published::Refused(refused) => {
                if self.unknown.is_some() {
                    sleep(RETRY_PAUSE.min(self.deadline.left())).await;
                    self.refresh().await?;
                    return Ok(None);
                }
                Err(self.not_applied(self.refused(refused, &subject).await))
            }
        }
    }

    /// The call's id, or one that follows from it where that cannot be published with again. Whichever it is, what
    /// fences a copy is the expectation, and what names the call in its record is its stamp.
    fn message_id(&self) -> Cow<'_, str> {
        let message_id = &self.mutation.intent.message_id;
        match self.refused_ids {
            0 => Cow::Borrowed(message_id),
            count => Cow::Owned(format!("{message_id}-{count}")),
        }
    }

    /// Whether the caller may add an entry to as many as there are.
    fn may_add(&self) -> Result<(), ControlError> {
        let Some(max) = self.mutation.entries_max else {
            return Ok(());
        };
        match self.lattice.look(|contents| contents.has_standing(max))? {
            true => Err(ControlError::TooManyEntries { max }),
            false => Ok(()),
        }
    }

    /// The body, and whether it is a marker; `None` where the stored body is asked for and gone.
    async fn message(&self, due: &Publish) -> Result<Option<(Option<Marker>, Bytes)>, ControlError> {
        let (lattice, key) = (self.lattice, &self.mutation.key);
        let removal = match (&self.mutation.desired, &due.current) {
            (Desired::Entry(_), _) => return Ok(Some((None, self.mutation.body.clone()))),
            (Desired::Absent { .. }, Some(current)) => lattice.part.removal(key, &current.entry),
            (Desired::Absent { .. }, None) => None,
        };
        match removal.ok_or_else(|| no_message(key))? {
            Removal::Tombstone(body) => Ok(Some((None, body))),
            Removal::Marker(marker) => Ok(Some((Some(marker), Bytes::new()))),
            Removal::MarkerAsStored(marker) => {
                let stored = lattice.api.message_body(&lattice.stream, due.expected_sequence);
                let stored = self.deadline.bound(stored).await;
                let stored = stored
                    .unwrap_or(Err(ApiError::Request(RequestFailed::Unknown)))
                    .map_err(|error| ControlError::of_api(error, lattice.name.as_str()))?;
                let Some(body) = stored else {
                    return Ok(None);
                };
                let without_alias = match self.shares_alias(due)? {
                    true => kv::without_alias(&body),
                    false => None,
                };
                Ok(Some((Some(marker), without_alias.unwrap_or(body))))
            }
        }
    }

    /// Whether hosts of the era would forget the alias of others' claims with these.
    fn shares_alias(&self, due: &Publish) -> Result<bool, ControlError> {
        let alias_of = |entry: &Entry| match entry {
            Entry::Claims(claims) => claims.call_alias.clone(),
            Entry::LinkDefinition(_)
            | Entry::OciReference(_)
            | Entry::InterfaceLink(_)
            | Entry::Config(_)
            | Entry::Component(_) => "".into(),
        };
        let alias = due.current.as_ref().map(|current| alias_of(&current.entry));
        let alias = alias.filter(|alias| !alias.is_empty() && self.lattice.part == Part::Kv);
        let Some(alias) = alias else {
            return Ok(false);
        };
        let is_shared = |contents: &Contents| {
            contents
                .standing(Kind::Claims, None)
                .any(|(key, standing)| *key != *self.mutation.key && alias_of(&standing.entry) == alias)
        };
        self.lattice.look(is_shared)
    }

    /// What the home subject is published on.
    fn home(&self) -> Result<String, ControlError> {
        self.lattice.publish_subject(&self.mutation.key)
    }

    /// What two publishes for one put would be, as a writer without a home subject has to do it.
    #[cfg(feature = "campaign")]
    async fn tombstone_first(&self, due: Publish, subject: &str) -> Publish {
        let key = &self.mutation.key;
        let tombstone = due
            .current
            .as_ref()
            .and_then(|current| self.lattice.part.removal(key, &current.entry));
        let (Desired::Entry(_), Some(Removal::Tombstone(body)), false) =
            (&self.mutation.desired, tombstone, Safeguard::OnePublish.holds())
        else {
            return due;
        };
        let outgoing = Outgoing {
            stream: &self.lattice.stream,
            subject,
            message_id: &format!("{}-tombstone", self.mutation.intent.message_id),
            expected_sequence: due.expected_sequence,
            evidence: &due.evidence,
            marker: None,
            body,
        };
        let (timeout, span) = (self.lattice.ack_timeout, traces::publish(subject));
        match self.lattice.publish(outgoing, timeout, span).await {
            Published::Stored(expected_sequence) => Publish {
                expected_sequence,
                ..due
            },
            Published::Duplicate(_) | Published::Refused(_) | Published::Unknown => due,
        }
    }

    /// Answers an acknowledged write, from the mirror where it is seen there in time.
    async fn stored(&self, outcome: Outcome, sequence: u64, before: &View) -> Written {
        let own = Tag(self.mutation.intent.stamp.id);
        let revision = self.lattice.seen(sequence, before.position, self.deadline).await;
        let winner = self.lattice.look(|contents| {
            let at = contents.position();
            let is_seen = at.epoch == revision.epoch && at.sequence >= sequence;
            is_seen.then(|| contents.winner(&self.mutation.key))
        });
        self.lattice
            .acknowledged(Arc::clone(&self.mutation.key), revision);
        let winner = winner.ok().flatten().flatten();
        let winner = winner.or_else(|| self.as_it_was_put(revision));
        Written {
            key: Arc::clone(&self.mutation.key),
            outcome,
            revision,
            superseded: winner.as_ref().is_some_and(|winner| winner.etag.tag != own),
            winner,
            before: self.replaced.as_ref().map(|standing| standing.etag),
            would_stand: None,
        }
    }

    /// What an acknowledged write has made of the entry, where that is not seen yet.
    fn as_it_was_put(&self, revision: Revision) -> Option<Winner> {
        let state = match &self.mutation.desired {
            Desired::Entry(entry) => State::Stands {
                entry: Arc::clone(entry),
                is_plain: true,
            },
            Desired::Absent { .. } => State::Gone {
                entry: Some(Arc::clone(&self.replaced.as_ref()?.entry)),
            },
        };
        let own = Tag(self.mutation.intent.stamp.id);
        Some(Winner::of_message(revision, own, None, state))
    }

    async fn probe(&mut self, view: &View) -> Result<Option<Written>, ControlError> {
        let subject = self.home()?;
        let probed = publish::probe(
            self.lattice.api.connection(),
            &self.lattice.stream,
            &subject,
            &self.mutation.intent.message_id,
            self.lattice.ack_timeout.min(self.deadline.left()),
        )
        .await;
        match probed {
            Probed::Known(sequence) => Ok(Some(already_applied(sequence, &self.mutation.key, view))),
            Probed::NotKnown => Err(ControlError::OutcomeSuperseded),
            // An id that is in flight is an earlier attempt's that may just be landing.
            Probed::Failed(Published::Refused(refused))
                if self.unknown.is_none() && refused != Refused::InFlight =>
            {
                Err(self.refused(refused, &subject).await)
            }
            Probed::Failed(_) => {
                sleep(RETRY_PAUSE.min(self.deadline.left())).await;
                self.fresh = None;
                match self.deadline.left().is_zero() {
                    true => Err(self.outcome_unknown()),
                    false => Ok(None),
                }
            }
        }
    }

    /// A reason that says *not applied*, unless a publish of the call is unknown, or an earlier attempt forgotten.
    fn not_applied(&self, error: ControlError) -> ControlError {
        match self.unknown.is_some() || self.may_be_forgotten {
            false => error,
            true => self.outcome_unknown(),
        }
    }

    fn outcome_unknown(&self) -> ControlError {
        if !Safeguard::HonestError.holds() {
            return ControlError::unavailable("JetStream does not answer");
        }
        ControlError::OutcomeUnknown {
            request_id: self.mutation.intent.request_id.clone(),
        }
    }

    async fn refused(&self, refused: Refused, subject: &str) -> ControlError {
        self.lattice.refused(refused, subject, self.deadline).await
    }
}

impl Lattice {
    /// What an entry's home subject is published on.
    pub(super) fn publish_subject(&self, key: &EntryKey) -> Result<String, ControlError> {
        let home = self.part.home(key).ok_or_else(|| no_message(key))?;
        let subject = format!("{}{home}", self.subject_prefix);
        Ok(match self.part.is_bucket() {
            true => self.api.bucket_subject(&subject),
            false => subject,
        })
    }

    /// Waits until an acknowledged write is seen in the mirror, and tells where it stands. The mirror may still be of a
    /// stream that is gone: then the leader tells which one took the write.
    pub(super) async fn seen(&self, sequence: u64, before: Revision, deadline: Deadline) -> Revision {
        let revision = Revision {
            epoch: before.epoch,
            sequence,
        };
        let soon = Deadline::within(SEEN_TIMEOUT.min(deadline.left()));
        let is_new = sequence > before.sequence;
        if is_new && soon.bound(self.mirror().reached(revision)).await.is_some() {
            return revision;
        }
        let soon = Deadline::within(LEADER_TIMEOUT.min(deadline.left()));
        match soon.bound(self.api.stream_info(&self.stream)).await {
            Some(Ok(info)) => Revision {
                epoch: info.epoch(&self.stream),
                sequence,
            },
            Some(Err(_)) | None => revision,
        }
    }

    /// Why a publish is known not to be stored.
    pub(super) async fn refused(&self, refused: Refused, subject: &str, deadline: Deadline) -> ControlError {
        match refused {
            Refused::Overtaken | Refused::InFlight => ControlError::Contention,
            Refused::Full => ControlError::BackendFull,
            Refused::NotConnected => ControlError::unavailable("the gateway is not connected"),
            Refused::Unavailable => ControlError::unavailable("the stream has no leader"),
            Refused::NoResponders => self.who_is_missing(deadline).await,
            Refused::Forbidden => ControlError::Forbidden {
                subject: subject.to_owned(),
            },
            Refused::TooLarge(actual) => ControlError::BodyTooLarge {
                max: self.message_bytes_max(),
                actual,
            },
            Refused::OtherStream => ControlError::Drift(Drift {
                field: "subjects",
                want: serde_json::Value::String(self.stream.clone()),
                have: serde_json::Value::String("another stream takes the subject".to_owned()),
                blocks_writes: true,
            }),
            Refused::Other(code, description) => ControlError::Internal {
                detail: format!("JetStream refused the publish: {description} ({code})"),
            },
        }
    }

    /// Nobody took the publish: no stream, no JetStream, or no leader.
    async fn who_is_missing(&self, deadline: Deadline) -> ControlError {
        let info = self.api.stream_info(&self.stream);
        match deadline.bound(info).await {
            Some(Ok(_) | Err(ApiError::Request(RequestFailed::Unknown))) | None => {
                ControlError::unavailable("the stream has no leader")
            }
            Some(Err(error)) => ControlError::of_api(error, self.name.as_str()),
        }
    }
}

/// What else must hold for a mutation, and does not.
pub(super) fn unmet(mutation: &Mutation) -> Result<Option<Refusal>, ControlError> {
    match (&mutation.condition, &*mutation.key, &mutation.desired) {
        (Condition::ConfigsExist(configs), _, Desired::Entry(entry)) => {
            let Entry::InterfaceLink(link) = &**entry else {
                return Ok(None);
            };
            let mut missing = match configs {
                None => link.configs().map(Into::into).collect::<Vec<Box<str>>>(),
                Some(configs) => configs.look(|contents| {
                    let missing = link.configs().filter(|name| lacks_config(contents, name));
                    missing.map(Into::into).collect()
                })?,
            };
            missing.dedup();
            Ok((!missing.is_empty()).then_some(Refusal::ConfigsMissing(missing)))
        }
        (Condition::ConfigUnused(links), EntryKey::Config(name), _) => {
            let link = links.look(|contents| contents.link_with_config(name))?;
            Ok(link.map(|id| Refusal::ConfigUsed(EntryKey::InterfaceLink(id))))
        }
        (Condition::None | Condition::ConfigsExist(_) | Condition::ConfigUnused(_), _, _) => Ok(None),
    }
}

/// Whether hosts find no config of this name that they can use. Of a secret reference they look only whether it is there
/// (wasmCloud 1.9.2).
pub(super) fn lacks_config(configs: &Contents, name: &str) -> bool {
    let view = configs.view(&EntryKey::Config(name.into()), [0; 8]);
    let is_there = name.starts_with("SECRET") && view.squatter.is_some();
    view.standing().is_none() && !is_there
}

/// What became of a mutation, as metrics name it.
fn outcome_of(result: &Outcomes) -> &'static str {
    match result {
        Ok(written) => written.outcome.as_str(),
        Err(ControlError::OutcomeUnknown { .. }) => "OUTCOME_UNKNOWN",
        Err(ControlError::OutcomeSuperseded) => "OUTCOME_SUPERSEDED",
        Err(_) => "REFUSED",
    }
}

/// Records what became of a mutation.
fn note(trail: &Trail, result: &Result<Written, ControlError>) {
    let Ok(written) = result else {
        return;
    };
    trail.note(|record| {
        // Which one it was, where the target of a link was left out.
        record.entry = Some(written.key.to_string());
        record.outcome = Some(written.outcome.as_str().to_owned());
        record.etag_before = written.before.as_ref().map(Etag::encode);
        let after = written.standing().filter(|_| !written.superseded);
        record.etag_after = after.map(|standing| standing.etag.encode());
        record.revision = Some((written.revision.epoch.number(), written.revision.sequence));
    });
}

/// Why nothing was written for a caller that has gone away: for who joins its call at just that moment, and for the records.
pub(super) fn abandoned() -> ControlError {
    ControlError::unavailable("the call was abandoned by who made it")
}

/// A look that took too long, in a mutation that has written nothing.
pub(super) fn nothing_written(error: ControlError) -> ControlError {
    if error == ControlError::ReadTimedOut {
        return ControlError::unavailable("JetStream does not answer");
    }
    error
}

/// Strictly parsed entries can all be written.
pub(super) fn no_message(key: &EntryKey) -> ControlError {
    ControlError::Internal {
        detail: format!("no message for {key}"),
    }
}

/// Answers without a publish.
pub(super) fn answered(answer: &Answer, mutation: &Mutation, view: &View) -> Written {
    let (outcome, would_stand) = match (answer, &mutation.desired) {
        (Answer::AlreadyApplied(applied), _) => {
            let is_winner = view
                .winner
                .as_ref()
                .is_some_and(|winner| winner.revision.sequence == applied.sequence);
            return Written {
                superseded: !is_winner,
                ..already_applied(applied.sequence, &mutation.key, view)
            };
        }
        (Answer::Validated, Desired::Entry(entry)) => (Outcome::Validated, Some(Arc::clone(entry))),
        (Answer::Validated, Desired::Absent { .. }) => (Outcome::Validated, None),
        (Answer::Unchanged, _) => (Outcome::Unchanged, None),
    };
    Written {
        key: Arc::clone(&mutation.key),
        outcome,
        revision: view.position,
        superseded: false,
        before: view.standing().map(|standing| standing.etag),
        winner: view.winner.clone(),
        would_stand,
    }
}

/// Applied before, and something came after: what stands now is somebody else's.
fn already_applied(sequence: u64, key: &Arc<EntryKey>, view: &View) -> Written {
    Written {
        key: Arc::clone(key),
        outcome: Outcome::AlreadyApplied,
        revision: Revision {
            epoch: view.position.epoch,
            sequence,
        },
        superseded: true,
        before: None,
        winner: view.winner.clone(),
        would_stand: None,
    }
}
