//! Carries the edits of one source out, in publishes that edits share.

use std::{collections::VecDeque, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use tokio::time::{Instant, sleep};

use super::{
    Edit, Edited, Stored,
    judge::{Draft, Judged, Look, Seen, Verdict},
    outcome_unknown,
};
use crate::{
    control::{
        ControlError, Deadline,
        decide::Mutation,
        gate::Patience,
        lattice::Lattice,
        mutate::{Outcome, RETRY_PAUSE, Written, abandoned, no_message, nothing_written},
    },
    domain::{Entry, EntryKey, Etag, InterfaceLink, hash::LengthPrefixed, revision::Tag},
    store::{
        evidence::{Evidence, Stamp},
        layout::component,
        mirror::{self, After, State, View, Winner},
        publish::{Outgoing, Published, Refused},
    },
    telemetry::traces,
};

/// Edits in one publish, at most.
const BATCH_MAX: usize = 64;

/// An edit that shares the next publish.
struct Included {
    edit: Edit,
    key: Arc<EntryKey>,
    stamp: Stamp,
    replaced: Option<Arc<Entry>>,
    before: Option<Etag>,
    is_unchanged: bool,
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

/// Carries the edits of one source out, batch by batch, until none waits.
pub(super) struct Driver {
    pub(super) lattice: Arc<Lattice>,
    pub(super) source: Box<str>,
    /// Whether it came to its end: then the source may be another one's by now.
    pub(super) is_done: bool,
}

impl Drop for Driver {
    /// Where it did not come to its end, whoever waits is told that nobody knows.
    fn drop(&mut self) {
        if !self.is_done {
            self.lattice.sources.0.lock().by_source.remove(&self.source);
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
    for (mut edit, verdict) in edits.into_iter().zip(verdicts) {
        match verdict {
            Verdict::Include {
                key,
                replaced,
                before,
                is_unchanged,
                may_be_forgotten,
            } => {
                edit.may_be_forgotten = may_be_forgotten;
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

/// What the message of a batch carries of its calls, and of those before.
fn evidence_of(look: &Look, batch: &[Included], last: &Included) -> Evidence {
    let stamps = batch.iter().map(|included| included.stamp);
    Evidence {
        own: last.stamp,
        others: stamps.take(batch.len() - 1).collect(),
        past: look.view.past.clone().with_room_for(batch.len()),
        began: look.view.is_void(),
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

impl Driver {
    pub(super) async fn run(mut self) {
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
            let (left, late) = open
                .into_iter()
                .partition(|edit: &Edit| !edit.deadline.left().is_zero());
            open = left;
            refuse_all(late, &ControlError::Contention);
            let (gone, left) = open
                .into_iter()
                .partition(|edit| edit.undone.is_none() && self.lattice.is_abandoned(&edit.mutation));
            open = left;
            refuse_all(gone, &abandoned());
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
                    Ok(told) => fresh = Some(told),
                    Err(error) => return refuse_all(open, &nothing_written(error)),
                }
                continue;
            }
            let Acted { batch, held } = act(open, verdicts);
            if batch.is_empty() {
                return;
            }
            let frozen = self
                .publish_in_turn(&record, &look, &draft, &batch, deadline)
                .await;
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
        self.lattice.look(|contents| {
            let seen = |edit: &Edit| Seen {
                applied: contents.witnessed(edit.stamp().id),
                after: match (&*edit.mutation.key, edit.undone) {
                    (EntryKey::InterfaceLink(id), Some(sequence)) => {
                        contents.after(id, edit.stamp().id, sequence)
                    }
                    (_, _) => After::NoCall,
                },
            };
            Look {
                view: contents.view(record, [0; 8]),
                seen: edits.iter().map(seen).collect(),
            }
        })
    }

    /// The record as it is now, and where a batch that was published is stored: all of its calls at one place, since a
    /// single one may be there by another gateway, to which it was sent too. An edit that is applied again is on record from
    /// before.
    fn look_for(
        &self,
        record: &EntryKey,
        batch: &[Included],
        expected_sequence: u64,
    ) -> Result<(View, Option<u64>), ControlError> {
        self.lattice.look(|contents| {
            let now = contents.view(record, [0; 8]);
            let place = |included: &Included| {
                let id = included.stamp.id;
                Some(now.past.find(id).or_else(|| contents.witnessed(id))?.sequence)
            };
            let first = batch.first().and_then(place);
            let is_whole = batch.iter().all(|included| place(included) == first);
            let stored_at = first.filter(|sequence| is_whole && *sequence > expected_sequence);
            (now, stored_at)
        })
    }

    /// Publishes a batch once it is its turn at the stream.
    async fn publish_in_turn(
        &self,
        record: &EntryKey,
        look: &Look,
        draft: &Draft,
        batch: &[Included],
        deadline: Deadline,
    ) -> Frozen {
        let is_of_many = |included: &Included| included.edit.mutation.patience == Patience::Long;
        let patience = match batch.iter().any(is_of_many) {
            true => Patience::Long,
            false => Patience::Short,
        };
        let place = match self.lattice.gate.enter(patience, deadline).await {
            Ok(place) => place,
            Err(error) => return Frozen::Refused(error),
        };
        let frozen = self.publish(record, look, draft, batch, deadline).await;
        place.ended(&match &frozen {
            Frozen::Refused(error) => Err(error.clone()),
            Frozen::Unknown => Err(ControlError::unavailable("JetStream does not answer")),
            Frozen::Stored(_) | Frozen::Void | Frozen::Superseded => Ok(()),
        });
        frozen
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
        let evidence = evidence_of(look, batch, last);
        let calls = batch
            .iter()
            .map(|included| &included.edit.span)
            .collect::<Vec<_>>();
        let mut refused_ids = 0;
        let mut first_sent = None;
        loop {
            // NATS may have been away since the edits came.
            if let Err(error) = lattice.calm(deadline).await {
                return match first_sent {
                    None => Frozen::Refused(error),
                    Some(_) => Frozen::Unknown,
                };
            }
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
            let span = traces::shared_publish(&subject, &calls);
            let published = lattice.publish(outgoing, timeout, span).await;
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
            let fresh = loop {
                match lattice.fresh(deadline).await {
                    Ok(fresh) => break fresh,
                    Err(_) if deadline.left() <= RETRY_PAUSE && first_sent.is_some() => {
                        return Frozen::Unknown;
                    }
                    Err(error) if deadline.left() <= RETRY_PAUSE => {
                        return Frozen::Refused(nothing_written(error));
                    }
                    Err(_) => sleep(RETRY_PAUSE).await,
                }
            };
            let (now, stored_at) = match self.look_for(record, batch, expected_sequence) {
                Ok(looked) => looked,
                Err(error) if first_sent.is_none() => return Frozen::Refused(error),
                Err(_) => return Frozen::Unknown,
            };
            if let Some(sequence) = stored_at {
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
                    return match now.is_complete_since(fresh.at(first)) {
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

    /// The link as it is now.
    fn standing(&self, key: &EntryKey) -> Option<Winner> {
        let EntryKey::InterfaceLink(id) = key else {
            return None;
        };
        let now = self.lattice.look(|contents| contents.interface_link(id));
        now.ok().flatten().map(Winner::from)
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
        let seen = self.lattice.look(|contents| contents.view(&record, [0; 8])).ok();
        let unix_nanos = seen.as_ref().and_then(|view| view.winner.as_ref()?.unix_nanos);
        // The same call may have been stored by another gateway, in a batch that went on with the link.
        let is_overtaken_on_record =
            |stamp: Stamp| seen.as_ref().is_some_and(|view| view.past.is_overtaken(stamp.id));
        let keys = batch
            .iter()
            .map(|included| Arc::clone(&included.key))
            .collect::<Vec<_>>();
        for (place, included) in batch.into_iter().enumerate() {
            let is_overtaken_here = keys.iter().skip(place + 1).any(|later| *later == included.key);
            let is_overtaken_elsewhere = is_overtaken_on_record(included.stamp);
            let state = included.state(draft);
            let stands = state.as_ref().map(|link| mirror::link_etag(revision.epoch, link));
            let left_by_batch = Winner {
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
            let winner = match is_overtaken_elsewhere {
                true => self.standing(&included.key),
                false => Some(left_by_batch),
            };
            self.lattice.acknowledged(Arc::clone(&included.key), revision);
            let written = Written {
                key: included.key,
                outcome: match included.is_unchanged {
                    true => Outcome::Unchanged,
                    false => Outcome::Applied,
                },
                revision,
                superseded: is_overtaken_here || is_overtaken_elsewhere,
                winner,
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
