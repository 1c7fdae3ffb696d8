//! Edits of interface links. All links of a source are one record, which hosts read, change and write back without a look
//! at what happened in between.
//!
//! Edits of a source queue, and those that wait share a publish: each is judged against the record as the ones before it
//! leave it. One that is refused is answered alone, once those before it are stored. A batch is *frozen* (body, ids, expectation) until its outcome is
//! known: it is published again unchanged, or resolved as a whole by its calls' ids on record.
//!
//! Beside hosts an edit is acknowledged only after it has stood for the lattice's `settle` time. What a host undoes before
//! that is applied again inside the same call; what it undoes later is noted ([`Acknowledged`]) and left as it is.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::{
    ControlError, Deadline,
    decide::{self, Answer, Desired, Known, Mode, Mutation, Refusal, Retry, Step},
    effects,
    lattice::Lattice,
    mutate::{BODY_BYTES_MAX, Outcome, Written, answered, no_message, nothing_written, unmet},
};
use crate::{
    domain::{
        ComponentRecord, Entry, EntryKey, Etag, InterfaceLink, InterfaceLinkId, Revision,
        hash::LengthPrefixed, revision::Tag,
    },
    safeguard::Safeguard,
    store::{
        evidence::{Applied, Evidence, Stamp},
        layout::component,
        mirror::{self, Contents, Squatter, State, View, Winner},
        publish::{self, Outgoing, Published, Refused},
    },
};

/// Edits in one publish, at most.
const BATCH_MAX: usize = 64;

/// For how long after NATS was away no record is written where hosts watch: one that has not made its watch anew yet can
/// go deaf for good by a message that comes before (measured on wasmCloud 1.9.2).
const CALM: Duration = Duration::from_secs(3);

const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Acknowledged edits that are remembered, at most, and for how long.
const REMEMBERED_MAX: usize = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
/// Undone edits that are listed, at most.
const UNDONE_MAX: usize = 1_000;

/// The edits that wait, by source. A source is in here while somebody carries its edits out.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    by_source: HashMap<Box<str>, VecDeque<Edit>>,
    numbers: u64,
}

/// One edit that waits.
#[derive(Debug)]
struct Edit {
    number: u64,
    mutation: Arc<Mutation>,
    /// Where it was applied, if it was and then undone.
    undone: Option<u64>,
    deadline: Deadline,
    answer: oneshot::Sender<Result<Edited, ControlError>>,
}

impl Edit {
    fn stamp(&self) -> Stamp {
        self.mutation.intent.stamp
    }

    /// A reason that says *not applied*, unless the edit was.
    fn refuse(self, error: ControlError) {
        let error = match self.undone.is_some() {
            true => outcome_unknown(&self.mutation),
            false => error,
        };
        self.send(Err(error));
    }

    fn send(self, result: Result<Edited, ControlError>) {
        if self.answer.send(result).is_err() {
            // Whoever waited has given up.
        }
    }
}

fn outcome_unknown(mutation: &Mutation) -> ControlError {
    ControlError::OutcomeUnknown {
        request_id: mutation.intent.request_id.clone(),
    }
}

/// What became of an edit.
#[derive(Debug)]
enum Edited {
    /// It is answered.
    Answered(Written),
    /// It is stored, and has to settle yet.
    Stored(Stored),
}

#[derive(Debug)]
struct Stored {
    written: Written,
    replaced: Option<Arc<Entry>>,
}

/// An edit that shares the next publish.
struct Included {
    edit: Edit,
    key: Arc<EntryKey>,
    stamp: Stamp,
    replaced: Option<Arc<Entry>>,
    before: Option<Etag>,
    is_unchanged: bool,
}

/// What is to be done with an edit.
enum Verdict {
    Refresh,
    Refuse(ControlError),
    Answer(Written),
    /// It stands already, by whatever.
    Stored(Stored),
    Include {
        key: Arc<EntryKey>,
        replaced: Option<Arc<Entry>>,
        before: Option<Etag>,
        is_unchanged: bool,
    },
}

/// A record as it is looked at for a batch.
struct Look {
    view: View,
    /// Where the calls were applied, as far as this mirror has seen it.
    witnessed: Vec<Option<Applied>>,
    /// Which of the edits that were undone have been overtaken by now.
    overtaken: Vec<bool>,
}

/// A record as the edits before leave it.
struct Draft {
    record: ComponentRecord,
    bytes: usize,
}

/// What became of a frozen batch.
enum Frozen {
    Stored(u64),
    /// It is not applied and never will be.
    Void,
    /// It may have been applied, and then something came after.
    Superseded,
    Refused(ControlError),
    Unknown,
}

impl Lattice {
    /// Edits a link, and answers once that has stood for the lattice's settle time.
    pub(super) async fn edit_link(
        self: &Arc<Self>,
        mutation: &Mutation,
        deadline: Deadline,
    ) -> Result<Written, ControlError> {
        let mutation = Arc::new(mutation.clone());
        if mutation.mode == Mode::Live {
            self.calm(deadline).await?;
        }
        let mut undone = None;
        loop {
            let edited = self.submit(&mutation, undone, deadline).await?;
            let stored = match edited {
                // An earlier attempt may have been applied just now, and nobody has waited for it to settle.
                Edited::Answered(written)
                    if written.outcome == Outcome::AlreadyApplied && !written.superseded =>
                {
                    match self.settled(&mutation, written, deadline).await {
                        Settled::Stands(written) => {
                            self.announce_edit(&mutation, &written, None, deadline).await;
                            return Ok(written);
                        }
                        // The next answer says so.
                        Settled::Undone => continue,
                        Settled::TooLate => return Err(outcome_unknown(&mutation)),
                    }
                }
                Edited::Answered(written) => {
                    self.announce_edit(&mutation, &written, None, deadline).await;
                    return Ok(written);
                }
                Edited::Stored(stored) => stored,
            };
            let sequence = stored.written.revision.sequence;
            let written = match self.settled(&mutation, stored.written, deadline).await {
                Settled::Stands(written) => written,
                Settled::Undone => {
                    info!(lattice = %self.name, entry = %mutation.key, "a host undid the edit; it is applied again");
                    self.effects.metrics.edit_undone(true);
                    undone = Some(sequence);
                    continue;
                }
                Settled::TooLate => return Err(outcome_unknown(&mutation)),
            };
            if !written.superseded {
                self.edits.lock().remember(&mutation, &written);
            }
            let replaced = stored.replaced.as_deref();
            self.announce_edit(&mutation, &written, replaced, deadline).await;
            return Ok(written);
        }
    }

    /// Waits until hosts have had the time to watch again after NATS was away.
    async fn calm(&self, deadline: Deadline) -> Result<(), ControlError> {
        if self.settings.settle.is_zero() {
            return Ok(());
        }
        let disturbed = [self.feed.disturbed(), self.api.connection().connected_since()];
        let Some(calm_at) = disturbed.into_iter().flatten().max().map(|at| at + CALM) else {
            return Ok(());
        };
        if calm_at >= deadline.at() {
            return Err(ControlError::BackendUnavailable {
                why: "it was away just now, and hosts have to watch the bucket again first",
                retry_after: calm_at.saturating_duration_since(Instant::now()),
            });
        }
        sleep_until(calm_at).await;
        Ok(())
    }

    /// Queues an edit behind the others of its source, and waits for what becomes of it.
    async fn submit(
        self: &Arc<Self>,
        mutation: &Arc<Mutation>,
        undone: Option<u64>,
        deadline: Deadline,
    ) -> Result<Edited, ControlError> {
        let EntryKey::InterfaceLink(id) = &*mutation.key else {
            return Err(no_message(&mutation.key));
        };
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut waiting = self.sources.0.lock();
            waiting.numbers += 1;
            let number = waiting.numbers;
            let edit = Edit {
                number,
                mutation: Arc::clone(mutation),
                undone,
                deadline,
                answer,
            };
            if let Some(queue) = waiting.by_source.get_mut(&id.source_id) {
                queue.push_back(edit);
            } else {
                waiting
                    .by_source
                    .insert(id.source_id.clone(), VecDeque::from([edit]));
                let driver = Driver {
                    lattice: Arc::clone(self),
                    source: id.source_id.clone(),
                    is_done: false,
                };
                self.tasks.spawn(driver.run());
            }
            number
        };
        if let Some(answered) = deadline.bound(answered).await {
            return answered.unwrap_or_else(|_dropped| Err(outcome_unknown(mutation)));
        }
        let mut waiting = self.sources.0.lock();
        let queue = waiting.by_source.get_mut(&id.source_id);
        let was_waiting = queue.is_some_and(|queue| {
            let before = queue.len();
            queue.retain(|edit| edit.number != number);
            queue.len() < before
        });
        match was_waiting && undone.is_none() {
            true => Err(ControlError::Contention),
            false => Err(outcome_unknown(mutation)),
        }
    }

    /// Waits until an edit has stood for long enough.
    async fn settled(&self, mutation: &Mutation, written: Written, deadline: Deadline) -> Settled {
        let settle = self.settings.settle;
        let is_final = written.superseded || settle.is_zero() || !Safeguard::Settle.holds();
        if is_final {
            return Settled::Stands(written);
        }
        if deadline.bound(sleep(settle)).await.is_none() {
            return Settled::TooLate;
        }
        // A mirror that lags would show the edit standing though it was undone long since.
        while self.fresh(deadline).await.is_err() {
            if !self.exists() {
                return Settled::Stands(written);
            }
            if deadline.left() <= RETRY_PAUSE {
                return Settled::TooLate;
            }
            sleep(RETRY_PAUSE).await;
        }
        let EntryKey::InterfaceLink(id) = &*written.key else {
            return Settled::Stands(written);
        };
        let call = mutation.intent.stamp.id;
        let sequence = written.revision.sequence;
        let looked = self.look(|contents| {
            let now = contents.interface_link(id);
            // A host brings back what stood before. Whatever else stands was put by somebody who came after, where that
            // may have gone unseen.
            let is_as_before = now.as_ref().map(|now| now.etag.tag) == written.before.map(|etag| etag.tag);
            let may_be_replaced = !is_as_before && !contents.has_seen_all_since(sequence);
            (
                contents.position(),
                contents.is_overtaken(id, call, sequence),
                may_be_replaced,
                now,
            )
        });
        let Ok((at, is_overtaken, may_be_replaced, now)) = looked else {
            return Settled::TooLate;
        };
        if at.epoch != written.revision.epoch {
            // A stream that began anew has lost it with everything else.
            return Settled::Stands(written);
        }
        if !is_overtaken && is_as_desired(&mutation.desired, now.as_ref().map(|now| &*now.entry)) {
            return Settled::Stands(written);
        }
        if !is_overtaken && !may_be_replaced {
            return Settled::Undone;
        }
        Settled::Stands(Written {
            superseded: true,
            winner: now.map(Winner::from),
            ..written
        })
    }

    /// Tells others of an edit, in the order of the edits of its link.
    async fn announce_edit(
        &self,
        mutation: &Mutation,
        written: &Written,
        replaced: Option<&Entry>,
        deadline: Deadline,
    ) {
        let turn = self.queues.turn(&written.key);
        let Some(_turn) = deadline.bound(turn).await else {
            return;
        };
        let EntryKey::InterfaceLink(id) = &*written.key else {
            return;
        };
        let call = mutation.intent.stamp.id;
        let is_overtaken = self.look(|contents| contents.is_overtaken(id, call, written.revision.sequence));
        if is_overtaken == Ok(false) {
            effects::announce(self, mutation, written, replaced, deadline).await;
        }
    }

    /// Notes what hosts have undone of acknowledged edits.
    pub(super) fn note_undone_edits(&self) {
        let mut edits = self.edits.lock();
        let undone = self
            .mirror()
            .read(|contents| edits.check(contents))
            .unwrap_or_default();
        for edit in undone {
            warn!(
                lattice = %self.name,
                entry = %edit.key,
                applied_at = edit.revision.sequence,
                undone_at = edit.undone_at.sequence,
                "a host undid an acknowledged edit"
            );
            self.effects.metrics.edit_undone(false);
        }
    }

    /// What hosts have undone of acknowledged edits, newest last.
    pub(super) fn undone_edits(&self) -> Vec<UndoneEdit> {
        self.edits.lock().undone.iter().cloned().collect()
    }
}

enum Settled {
    Stands(Written),
    Undone,
    TooLate,
}

fn is_as_desired(desired: &Desired, now: Option<&Entry>) -> bool {
    match desired {
        Desired::Entry(entry) => now == Some(entry),
        Desired::Absent { .. } => now.is_none(),
    }
}

/// Carries the edits of one source out, batch by batch, until none waits.
struct Driver {
    lattice: Arc<Lattice>,
    source: Box<str>,
    /// Whether it came to its end: then the source may be another one's by now.
    is_done: bool,
}

impl Drop for Driver {
    /// Where it did not come to its end, whoever waits is told that nobody knows.
    fn drop(&mut self) {
        if !self.is_done {
            self.lattice.sources.0.lock().by_source.remove(&self.source);
        }
    }
}

impl Driver {
    async fn run(mut self) {
        while let Some(edits) = self.next() {
            self.carry_out(edits).await;
        }
        self.is_done = true;
    }

    fn next(&self) -> Option<Vec<Edit>> {
        let mut waiting = self.lattice.sources.0.lock();
        let queue = waiting.by_source.get_mut(&self.source)?;
        if queue.is_empty() {
            waiting.by_source.remove(&self.source);
            return None;
        }
        let (mut edits, mut later) = (Vec::<Edit>::new(), VecDeque::new());
        for edit in queue.drain(..) {
            // A call that came again is recognised by the record, once that holds the first one.
            let is_again = edits.iter().any(|other| other.stamp().id == edit.stamp().id);
            match is_again || edits.len() == BATCH_MAX {
                true => later.push_back(edit),
                false => edits.push(edit),
            }
        }
        *queue = later;
        Some(edits)
    }

    async fn carry_out(&self, mut open: Vec<Edit>) {
        let record = Arc::new(EntryKey::Component(self.source.clone()));
        let mut fresh = None;
        loop {
            let (left, late): (Vec<_>, Vec<_>) = open
                .into_iter()
                .partition(|edit: &Edit| !edit.deadline.left().is_zero());
            open = left;
            for edit in late {
                edit.refuse(ControlError::Contention);
            }
            let Some(deadline) = open.iter().map(|edit| edit.deadline).max() else {
                return;
            };
            let looked = self.lattice.writable().and_then(|()| self.look(&record, &open));
            let look = match looked {
                Ok(look) => look,
                Err(error) => return refuse_all(open, &error),
            };
            let Judged {
                verdicts,
                draft,
                needs_fresh,
            } = self.judge(&open, &look, fresh);
            if needs_fresh {
                match self.lattice.fresh(deadline).await {
                    Ok(told) => fresh = Some(told.unix_millis),
                    Err(error) => return refuse_all(open, &nothing_written(error)),
                }
                continue;
            }
            let Acted { batch, held } = act(open, verdicts);
            if batch.is_empty() {
                return;
            }
            let frozen = self.publish(&record, &look, &draft, &batch, deadline).await;
            fresh = None;
            open = match frozen {
                Frozen::Void => {
                    let batch = batch.into_iter().map(|included| included.edit);
                    batch.chain(held.into_iter().map(|(edit, _)| edit)).collect()
                }
                ended @ (Frozen::Stored(_) | Frozen::Superseded | Frozen::Refused(_) | Frozen::Unknown) => {
                    let is_stored = matches!(ended, Frozen::Stored(_));
                    self.answer(batch, ended, &look, &draft, deadline).await;
                    if is_stored {
                        for (edit, verdict) in held {
                            tell(edit, verdict);
                        }
                        return;
                    }
                    held.into_iter().map(|(edit, _)| edit).collect()
                }
            };
            open.sort_by_key(|edit| edit.number);
        }
    }

    fn look(&self, record: &EntryKey, edits: &[Edit]) -> Result<Look, ControlError> {
        self.lattice.look(|contents| Look {
            view: contents.view(record, [0; 8]),
            witnessed: edits
                .iter()
                .map(|edit| contents.witnessed(edit.stamp().id))
                .collect(),
            overtaken: edits
                .iter()
                .map(|edit| match (&*edit.mutation.key, edit.undone) {
                    (EntryKey::InterfaceLink(id), Some(sequence)) => {
                        contents.is_overtaken(id, edit.stamp().id, sequence)
                    }
                    (_, _) => false,
                })
                .collect(),
        })
    }

    fn judge(&self, edits: &[Edit], look: &Look, fresh: Option<i64>) -> Judged {
        let mut draft = Draft::of(&look.view);
        let mut verdicts = Vec::with_capacity(edits.len());
        for (place, edit) in edits.iter().enumerate() {
            let verdict = match draft.as_mut() {
                // Whatever is in it would be lost.
                None if fresh.is_none() => Verdict::Refresh,
                None => Verdict::Refuse(ControlError::Internal {
                    detail: format!(
                        "the record of {} cannot be read; GetLattice tells why",
                        self.source
                    ),
                }),
                Some(draft) => self.judge_one(edit, draft, look, place, fresh),
            };
            if matches!(verdict, Verdict::Refresh) {
                return Judged {
                    verdicts,
                    draft: Draft::default(),
                    needs_fresh: true,
                };
            }
            if let (Verdict::Include { key, .. }, Some(draft)) = (&verdict, draft.as_mut()) {
                draft.apply(key, &edit.mutation.desired);
            }
            verdicts.push(verdict);
        }
        Judged {
            verdicts,
            draft: draft.unwrap_or_default(),
            needs_fresh: false,
        }
    }

    fn judge_one(
        &self,
        edit: &Edit,
        draft: &Draft,
        look: &Look,
        place: usize,
        fresh: Option<i64>,
    ) -> Verdict {
        let mutation = &*edit.mutation;
        let witnessed = look.witnessed.get(place).copied().flatten();
        let Some(resolved) = resolve(mutation, &draft.record) else {
            return Verdict::Refuse(no_message(&mutation.key));
        };
        let id = resolved.id;
        let view = link_view(&look.view, &draft.record, &id, edit.stamp(), witnessed);
        let key = Arc::new(EntryKey::InterfaceLink(id.clone()));
        let standing = view.standing();
        let replaced = standing.as_ref().map(|standing| Arc::clone(&standing.entry));
        let before = standing.as_ref().map(|standing| standing.etag);
        if edit.undone.is_some() {
            let written = |superseded| Written {
                key: Arc::clone(&key),
                outcome: Outcome::Applied,
                revision: view.position,
                superseded,
                winner: view.winner.clone(),
                before,
                would_stand: None,
            };
            if look.overtaken.get(place) == Some(&true) {
                return Verdict::Answer(written(true));
            }
            if is_as_desired(&mutation.desired, replaced.as_deref()) {
                let written = written(false);
                return Verdict::Stored(Stored { written, replaced });
            }
            return Verdict::Include {
                key,
                replaced,
                before,
                is_unchanged: false,
            };
        }
        let unmet = match resolved
            .refusal
            .map_or_else(|| unmet(mutation), |refusal| Ok(Some(refusal)))
        {
            Ok(unmet) => unmet.or_else(|| conflict(&mutation.desired, &id, &draft.record)),
            Err(error) => return Verdict::Refuse(error),
        };
        let known = Known {
            fresh,
            first_attempt_age: mutation
                .retry
                .filter(|_| Safeguard::RetryRule.holds())
                .map(Retry::age),
            unknown_publish: None,
            now_unix_seconds: self.lattice.clock.unix_seconds(),
            trusted_issuers: &self.lattice.settings.trusted_issuers,
            unmet: unmet.as_ref(),
        };
        match decide::decide(mutation, &view, known) {
            Step::Refresh => Verdict::Refresh,
            // One id of several in a message cannot be asked for.
            Step::Probe => Verdict::Refuse(ControlError::OutcomeSuperseded),
            Step::Refuse(refusal) => Verdict::Refuse(ControlError::of_refusal(&refusal, &mutation.key)),
            Step::Answer(answer) => {
                let mut written = answered(&answer, mutation, &view);
                written.key = key;
                if let Answer::AlreadyApplied(_) = answer {
                    let is_overtaken = look.view.past.is_overtaken(edit.stamp().id);
                    written.superseded =
                        is_overtaken || !is_as_desired(&mutation.desired, replaced.as_deref());
                }
                Verdict::Answer(written)
            }
            Step::Publish(due) => {
                let refusal = self.refusal(mutation, draft, &key, due.current.is_none());
                match refusal {
                    Some(_) if fresh.is_none() => Verdict::Refresh,
                    Some(error) => Verdict::Refuse(error),
                    None => Verdict::Include {
                        key,
                        replaced,
                        before,
                        is_unchanged: due.is_unchanged,
                    },
                }
            }
        }
    }

    /// Why an edit that may be applied cannot be stored.
    fn refusal(
        &self,
        mutation: &Mutation,
        draft: &Draft,
        key: &EntryKey,
        is_new: bool,
    ) -> Option<ControlError> {
        let Desired::Entry(_) = &mutation.desired else {
            return None;
        };
        let max = BODY_BYTES_MAX;
        let actual = draft.bytes + draft.growth(key, &mutation.body);
        if actual > max {
            return Some(ControlError::BodyTooLarge { max, actual });
        }
        let entries_max = mutation.entries_max.filter(|_| is_new)?;
        match self.lattice.look(|contents| contents.has_standing(entries_max)) {
            Ok(true) => Some(ControlError::TooManyEntries { max: entries_max }),
            Ok(false) => None,
            Err(error) => Some(error),
        }
    }

    /// Publishes a batch, unchanged as often as it takes to know what became of it.
    async fn publish(
        &self,
        record: &EntryKey,
        look: &Look,
        draft: &Draft,
        batch: &[Included],
        deadline: Deadline,
    ) -> Frozen {
        let lattice = &*self.lattice;
        let subject = match lattice.publish_subject(record) {
            Ok(subject) => subject,
            Err(error) => return Frozen::Refused(error),
        };
        let (Some(body), Some(last)) = (component::record_body(&draft.record), batch.last()) else {
            return Frozen::Refused(no_message(record));
        };
        let expected_sequence = look.view.home_sequence;
        let stamps = batch.iter().map(|included| included.stamp);
        let evidence = Evidence {
            own: last.stamp,
            others: stamps.take(batch.len() - 1).collect(),
            past: look.view.past.clone().with_room_for(batch.len()),
            began: look.view.winner.is_none() && expected_sequence == 0,
        };
        let mut refused_ids = 0;
        let mut first_sent = None;
        loop {
            let sent = Instant::now();
            let outgoing = Outgoing {
                stream: &lattice.stream,
                subject: &subject,
                message_id: &batch_id(&evidence, expected_sequence, refused_ids),
                expected_sequence,
                evidence: &evidence,
                marker: None,
                body: body.clone(),
            };
            let timeout = lattice.ack_timeout.min(deadline.left());
            let published = publish::publish(lattice.api.connection(), outgoing, timeout).await;
            match published {
                Published::Stored(sequence) => return Frozen::Stored(sequence),
                Published::Unknown => {
                    first_sent.get_or_insert(sent);
                }
                Published::Duplicate(_) => {}
                Published::Refused(Refused::Overtaken | Refused::InFlight) => {
                    if lattice.api.connection().clusters_keep_refused_ids() {
                        refused_ids += 1;
                    }
                }
                Published::Refused(refused) if first_sent.is_none() => {
                    return Frozen::Refused(lattice.refused(refused, &subject, deadline).await);
                }
                Published::Refused(_) => sleep(RETRY_PAUSE.min(deadline.left())).await,
            }
            // The leader's state tells, or whether it may be published again.
            let stream_now = loop {
                match lattice.fresh(deadline).await {
                    Ok(fresh) => break fresh.unix_millis,
                    Err(_) if deadline.left() <= RETRY_PAUSE && first_sent.is_some() => {
                        return Frozen::Unknown;
                    }
                    Err(error) if deadline.left() <= RETRY_PAUSE => {
                        return Frozen::Refused(nothing_written(error));
                    }
                    Err(_) => sleep(RETRY_PAUSE).await,
                }
            };
            let looked = lattice.look(|contents| {
                let ids = batch.iter().map(|included| included.stamp.id);
                let applied = ids.map(|id| Some(contents.view(record, id).applied?.sequence));
                (contents.view(record, last.stamp.id), applied.collect::<Vec<_>>())
            });
            let (now, applied) = match looked {
                Ok(looked) => looked,
                Err(error) if first_sent.is_none() => return Frozen::Refused(error),
                Err(_) => return Frozen::Unknown,
            };
            // All of them at one place: a single one may be there by another gateway, to which it was sent too. An edit
            // that is applied again is on record from before.
            if let Some(Some(sequence)) = applied.first().copied()
                && sequence > expected_sequence
                && applied.iter().all(|place| *place == Some(sequence))
            {
                return Frozen::Stored(sequence);
            }
            match (published, first_sent) {
                (Published::Duplicate(sequence), _) => return Frozen::Stored(sequence),
                _ if now.home_sequence == expected_sequence => {
                    // In a cluster the write that is in flight may not be visible yet.
                    sleep(RETRY_PAUSE.min(deadline.left())).await;
                }
                (_, None) => return Frozen::Void,
                (_, Some(first)) => {
                    let age = i64::try_from(first.elapsed().as_millis()).unwrap_or(i64::MAX);
                    return match now.is_complete_since(stream_now.saturating_sub(age)) {
                        true => Frozen::Void,
                        false => Frozen::Superseded,
                    };
                }
            }
            if deadline.left().is_zero() {
                return match first_sent {
                    None => Frozen::Refused(ControlError::Contention),
                    Some(_) => Frozen::Unknown,
                };
            }
        }
    }

    /// Answers the edits of a batch that has come to its end.
    async fn answer(
        &self,
        batch: Vec<Included>,
        frozen: Frozen,
        look: &Look,
        draft: &Draft,
        deadline: Deadline,
    ) {
        let sequence = match frozen {
            Frozen::Stored(sequence) => sequence,
            Frozen::Superseded => return refuse_batch(batch, |_| ControlError::OutcomeSuperseded),
            Frozen::Refused(error) => {
                return batch
                    .into_iter()
                    .for_each(|included| included.edit.refuse(error.clone()));
            }
            Frozen::Void | Frozen::Unknown => return refuse_batch(batch, outcome_unknown),
        };
        let revision = self.lattice.seen(sequence, look.view.position, deadline).await;
        let record = EntryKey::Component(self.source.clone());
        let seen = self.lattice.look(|contents| contents.winner(&record));
        let unix_nanos = seen.ok().flatten().and_then(|winner| winner.unix_nanos);
        let keys = batch
            .iter()
            .map(|included| Arc::clone(&included.key))
            .collect::<Vec<_>>();
        for (place, included) in batch.into_iter().enumerate() {
            let is_overtaken = keys.iter().skip(place + 1).any(|later| *later == included.key);
            let state = included.state(draft);
            let stands = state.as_ref().map(|link| mirror::link_etag(revision.epoch, link));
            let winner = Winner {
                revision,
                etag: stands.unwrap_or(Etag {
                    revision,
                    tag: Tag(included.stamp.id),
                }),
                unix_nanos,
                state: match state {
                    Some(link) => State::Stands {
                        entry: Arc::new(Entry::InterfaceLink(link)),
                        is_plain: true,
                    },
                    None => State::Gone {
                        entry: included.replaced.clone(),
                    },
                },
            };
            self.lattice.acknowledged(Arc::clone(&included.key), revision);
            let written = Written {
                key: included.key,
                outcome: match included.is_unchanged {
                    true => Outcome::Unchanged,
                    false => Outcome::Applied,
                },
                revision,
                superseded: is_overtaken,
                winner: Some(winner),
                before: included.before,
                would_stand: None,
            };
            let replaced = included.replaced;
            included
                .edit
                .send(Ok(Edited::Stored(Stored { written, replaced })));
        }
    }
}

impl Included {
    /// The link as the batch leaves it.
    fn state(&self, draft: &Draft) -> Option<InterfaceLink> {
        let EntryKey::InterfaceLink(id) = &*self.key else {
            return None;
        };
        Some(draft.record.find(id)?.link.clone())
    }
}

struct Judged {
    verdicts: Vec<Verdict>,
    draft: Draft,
    needs_fresh: bool,
}

fn refuse_all(edits: Vec<Edit>, error: &ControlError) {
    for edit in edits {
        edit.refuse(error.clone());
    }
}

fn refuse_batch(batch: Vec<Included>, error: impl Fn(&Mutation) -> ControlError) {
    for included in batch {
        let error = error(&included.edit.mutation);
        included.edit.send(Err(error));
    }
}

/// What is left once verdicts were acted on.
struct Acted {
    batch: Vec<Included>,
    /// What is answered without a publish, and was judged behind one that is due: true only once that is stored.
    held: Vec<(Edit, Verdict)>,
}

/// Answers what is answered without a publish, and gives the rest.
fn act(edits: Vec<Edit>, verdicts: Vec<Verdict>) -> Acted {
    let mut batch = Vec::with_capacity(edits.len());
    let mut held = Vec::new();
    for (edit, verdict) in edits.into_iter().zip(verdicts) {
        match verdict {
            Verdict::Include {
                key,
                replaced,
                before,
                is_unchanged,
            } => {
                let entry = match &*key {
                    EntryKey::InterfaceLink(id) => id.short_hash(),
                    EntryKey::Claims(_)
                    | EntryKey::LinkDefinition(_)
                    | EntryKey::OciReference(_)
                    | EntryKey::Config(_)
                    | EntryKey::Component(_) => edit.stamp().entry,
                };
                batch.push(Included {
                    stamp: Stamp {
                        entry,
                        ..edit.stamp()
                    },
                    edit,
                    key,
                    replaced,
                    before,
                    is_unchanged,
                });
            }
            Verdict::Refresh | Verdict::Refuse(_) | Verdict::Answer(_) | Verdict::Stored(_) => {
                match batch.is_empty() {
                    true => tell(edit, verdict),
                    false => held.push((edit, verdict)),
                }
            }
        }
    }
    Acted { batch, held }
}

/// Answers what is answered without a publish.
fn tell(edit: Edit, verdict: Verdict) {
    match verdict {
        Verdict::Refuse(error) => edit.refuse(error),
        Verdict::Answer(written) => edit.send(Ok(Edited::Answered(written))),
        Verdict::Stored(stored) => edit.send(Ok(Edited::Stored(stored))),
        // Not where verdicts are acted on.
        Verdict::Refresh | Verdict::Include { .. } => edit.refuse(ControlError::Contention),
    }
}

/// `lg1-` and a hash of the calls in it and of what it replaces: a batch that is judged again is another one.
fn batch_id(evidence: &Evidence, expected_sequence: u64, refused_ids: u32) -> String {
    let mut hash = LengthPrefixed::default();
    hash.text("batch");
    for stamp in evidence.calls() {
        hash.bytes(&stamp.id);
    }
    hash.bytes(&expected_sequence.to_be_bytes());
    hash.bytes(&refused_ids.to_be_bytes());
    let mut id = format!("lg1-{}", BASE64URL_NOPAD.encode(&hash.finish()));
    id.truncate(26);
    id
}

/// The link that an edit is of.
struct Resolved {
    id: InterfaceLinkId,
    refusal: Option<Refusal>,
}

fn resolve(mutation: &Mutation, record: &ComponentRecord) -> Option<Resolved> {
    let EntryKey::InterfaceLink(id) = &*mutation.key else {
        return None;
    };
    let mut targets = Vec::<&str>::new();
    if mutation.any_target {
        for stored in &record.links {
            let target = &*stored.id.target;
            if stored.id.is_same_but_target(id) && !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    let mut id = id.clone();
    if let [first, ..] = targets.as_slice() {
        id.target = (*first).into();
    }
    let is_ambiguous = targets.len() > 1;
    Some(Resolved {
        id,
        refusal: is_ambiguous.then(|| Refusal::Ambiguous(targets.into_iter().map(Into::into).collect())),
    })
}

fn conflict(desired: &Desired, id: &InterfaceLinkId, record: &ComponentRecord) -> Option<Refusal> {
    let Desired::Entry(entry) = desired else {
        return None;
    };
    let Entry::InterfaceLink(link) = &**entry else {
        return None;
    };
    let other = record.conflict(id, link)?;
    Some(Refusal::Conflict(EntryKey::InterfaceLink(other.id.clone())))
}

/// One link of a record, as the edits before leave it.
fn link_view(
    of_record: &View,
    record: &ComponentRecord,
    id: &InterfaceLinkId,
    stamp: Stamp,
    witnessed: Option<Applied>,
) -> View {
    let winner = record.find(id).map(|stored| {
        let written = of_record.winner.as_ref();
        let revision = written.map_or(of_record.position, |winner| winner.revision);
        Winner {
            revision,
            etag: mirror::link_etag(of_record.position.epoch, &stored.link),
            unix_nanos: written.and_then(|winner| winner.unix_nanos),
            state: State::Stands {
                entry: Arc::new(Entry::InterfaceLink(stored.link.clone())),
                is_plain: !record.is_doubled(id),
            },
        }
    });
    View {
        position: of_record.position,
        winner,
        home_sequence: of_record.home_sequence,
        squatter: None,
        past: of_record.past.horizon_alone(),
        applied: of_record.past.find(stamp.id).or(witnessed),
        witnessed_since: of_record.witnessed_since,
    }
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            record: ComponentRecord::default(),
            bytes: EMPTY_RECORD_BYTES,
        }
    }
}

/// `{"url":"","links":[]}`.
const EMPTY_RECORD_BYTES: usize = 21;

impl Draft {
    /// `None` where what stands cannot be read.
    fn of(view: &View) -> Option<Self> {
        if view.squatter == Some(Squatter::Unusable) {
            return None;
        }
        let standing = view.standing();
        let Some(record) = standing
            .as_ref()
            .and_then(|standing| mirror::as_record(&standing.entry))
        else {
            return Some(Self::default());
        };
        Some(Self {
            bytes: component::record_body(record)?.len(),
            record: record.clone(),
        })
    }

    /// By how many bytes a put grows it, at most.
    fn growth(&self, key: &EntryKey, body: &[u8]) -> usize {
        const COMMA: usize = 1;
        let is_there = match key {
            EntryKey::InterfaceLink(id) => self.record.find(id).map(component::link_bytes),
            EntryKey::Claims(_)
            | EntryKey::LinkDefinition(_)
            | EntryKey::OciReference(_)
            | EntryKey::Config(_)
            | EntryKey::Component(_) => None,
        };
        match is_there {
            Some(former) => body.len().saturating_sub(former),
            None => body.len() + COMMA,
        }
    }

    fn apply(&mut self, key: &EntryKey, desired: &Desired) {
        let EntryKey::InterfaceLink(id) = key else {
            return;
        };
        match desired {
            Desired::Absent { .. } => self.record.delete(id),
            Desired::Entry(entry) => {
                if let Entry::InterfaceLink(link) = &**entry {
                    let body = component::put_body(key, entry).unwrap_or_default();
                    self.bytes += self.growth(key, &body);
                    self.record.put(id, link);
                }
            }
        }
    }
}

/// Edits that were acknowledged lately, by link, to notice which of them a host undoes.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    by_link: HashMap<InterfaceLinkId, Remembered>,
    /// Oldest first.
    order: VecDeque<(Instant, InterfaceLinkId, [u8; 8])>,
    undone: VecDeque<UndoneEdit>,
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
    fn remember(&mut self, mutation: &Mutation, written: &Written) {
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
    fn check(&mut self, contents: &Contents) -> Vec<UndoneEdit> {
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
                && !contents.is_overtaken(id, remembered.call, remembered.revision.sequence);
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
