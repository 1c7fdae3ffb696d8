//! Edits of interface links. All links of a source are one record, which hosts read, change and write back without a look
//! at what happened in between.
//!
//! Edits of a source queue, and those that wait share a publish: each is judged against the record as the ones before it
//! leave it. One that is refused is answered alone, once those before it are stored. A batch is *frozen* (body, ids,
//! expectation) until its outcome is known: it is published again unchanged, or resolved as a whole by its calls' ids on
//! record.
//!
//! Beside hosts an edit is acknowledged only after it has stood for the lattice's `settle` time. What a host undoes before
//! that is applied again inside the same call; what it undoes later is noted (`acknowledged`) and left as it is.

mod acknowledged;
mod batch;
mod judge;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};
use tracing::{Span, info, warn};

pub(super) use self::acknowledged::Acknowledged;
pub use self::acknowledged::UndoneEdit;
use self::batch::Driver;
use super::{
    ControlError, Deadline,
    decide::{Desired, Mode, Mutation},
    effects,
    lattice::Lattice,
    mutate::{Outcome, RETRY_PAUSE, Written, no_message},
};
use crate::{
    domain::{Entry, EntryKey},
    safeguard::Safeguard,
    store::{
        evidence::Stamp,
        mirror::{After, Winner},
    },
};

/// For how long after NATS was away no record is written where hosts watch: one that has not made its watch anew yet can
/// go deaf for good by a message that comes before (measured on wasmCloud 1.9.2).
const CALM: Duration = Duration::from_secs(3);

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
    /// Whether an earlier attempt may have been applied, and have gone with the record.
    may_be_forgotten: bool,
    deadline: Deadline,
    /// The call's, which the publish is shown with.
    span: Span,
    answer: oneshot::Sender<Result<Edited, ControlError>>,
}

impl Edit {
    fn stamp(&self) -> Stamp {
        self.mutation.intent.stamp
    }

    /// A reason that says *not applied*, unless the edit was, or may have been.
    fn refuse(self, error: ControlError) {
        let error = match self.undone.is_some() || self.may_be_forgotten {
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
                        Settled::Undone | Settled::Superseded => continue,
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
                Settled::Superseded => return Err(ControlError::OutcomeSuperseded),
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
                may_be_forgotten: false,
                deadline,
                span: Span::current(),
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
        let looked = self.look(|contents| {
            (
                contents.position(),
                contents.after(id, call, written.revision.sequence),
                contents.interface_link(id),
            )
        });
        match looked {
            // A stream that began anew has lost it with everything else.
            Ok((at, ..)) if at.epoch != written.revision.epoch => Settled::Stands(written),
            Ok((_, After::Call, now)) => Settled::Stands(Written {
                superseded: true,
                winner: now.map(Winner::from),
                ..written
            }),
            Ok((_, _, now)) if is_as_desired(&mutation.desired, now.as_ref().map(|now| &*now.entry)) => {
                Settled::Stands(written)
            }
            Ok((_, After::NoCall, _)) => Settled::Undone,
            Ok((_, After::Unknown, _)) => Settled::Superseded,
            Err(_) => Settled::TooLate,
        }
    }

    /// Tells others of an edit, in the order of the edits of its link.
    async fn announce_edit(
        &self,
        mutation: &Mutation,
        written: &Written,
        replaced: Option<&Entry>,
        deadline: Deadline,
    ) {
        if !self.settings.effects {
            return;
        }
        let turn = self.queues.turn(&written.key);
        let Some(_turn) = deadline.bound(turn).await else {
            return;
        };
        let EntryKey::InterfaceLink(id) = &*written.key else {
            return;
        };
        let call = mutation.intent.stamp.id;
        let after = self.look(|contents| contents.after(id, call, written.revision.sequence));
        if after.is_ok_and(|after| after != After::Call) {
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
    /// By a host, and by nobody else.
    Undone,
    /// By a host or by another call, and nobody can tell which: it must not be applied over that.
    Superseded,
    TooLate,
}

fn is_as_desired(desired: &Desired, now: Option<&Entry>) -> bool {
    match desired {
        Desired::Entry(entry) => now == Some(entry),
        Desired::Absent { .. } => now.is_none(),
    }
}
