//! What is to be done with each edit of a batch, as the ones before it leave the record. No I/O.

use std::sync::Arc;

use super::{Edit, Stored, batch::Driver, is_as_desired, outcome_unknown};
use crate::{
    control::{
        ControlError,
        decide::{self, Answer, Desired, Known, Mutation, Refusal, Step},
        lattice::Fresh,
        mutate::{BODY_BYTES_MAX, Outcome, Written, answered, no_message, unmet},
    },
    domain::{ComponentRecord, Entry, EntryKey, Etag, InterfaceLink, InterfaceLinkId, component::StoredLink},
    safeguard::Safeguard,
    store::{
        evidence::{Applied, Stamp},
        layout::component,
        mirror::{self, After, Squatter, State, View, Winner},
    },
};

/// What is to be done with an edit.
pub(super) enum Verdict {
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
        may_be_forgotten: bool,
    },
}

/// A record as it is looked at for a batch.
pub(super) struct Look {
    pub(super) view: View,
    /// What this mirror has seen of each edit.
    pub(super) seen: Vec<Seen>,
}

/// What a mirror has seen of an edit.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Where its call was applied.
    pub(super) applied: Option<Applied>,
    /// Of one that was undone: what came after.
    pub(super) after: After,
}

/// A record as the edits before leave it.
pub(super) struct Draft {
    pub(super) record: ComponentRecord,
    bytes: usize,
}

pub(super) struct Judged {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) draft: Draft,
    pub(super) needs_fresh: bool,
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
    fn growth(&self, id: &InterfaceLinkId, link: &InterfaceLink) -> usize {
        const COMMA: usize = 1;
        let former = self.record.find(id);
        let rest = former.map(|former| former.rest.clone()).unwrap_or_default();
        let bytes = component::link_bytes(&StoredLink {
            id: id.clone(),
            link: link.clone(),
            rest,
        });
        match former {
            Some(former) => bytes.saturating_sub(component::link_bytes(former)),
            None => bytes + COMMA,
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
                    self.bytes += self.growth(id, link);
                    self.record.put(id, link);
                }
            }
        }
    }
}

impl Driver {
    pub(super) fn judge(&self, edits: &[Edit], look: &Look, fresh: Option<Fresh>) -> Judged {
        let mut draft = Draft::of(&look.view);
        let mut verdicts = Vec::with_capacity(edits.len());
        for (edit, seen) in edits.iter().zip(&look.seen) {
            let verdict = match draft.as_mut() {
                // Whatever is in it would be lost.
                None if fresh.is_none() => Verdict::Refresh,
                None => Verdict::Refuse(ControlError::Internal {
                    detail: format!(
                        "the record of {} cannot be read; GetLattice tells why",
                        self.source
                    ),
                }),
                Some(draft) => self.judge_one(edit, draft, look, *seen, fresh),
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
        seen: Seen,
        fresh: Option<Fresh>,
    ) -> Verdict {
        let mutation = &*edit.mutation;
        let Some(resolved) = resolve(mutation, &draft.record) else {
            return Verdict::Refuse(no_message(&mutation.key));
        };
        let id = resolved.id;
        let view = link_view(&look.view, &draft.record, &id, edit.stamp(), seen.applied);
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
            if seen.after == After::Call {
                return Verdict::Answer(written(true));
            }
            if is_as_desired(&mutation.desired, replaced.as_deref()) {
                let written = written(false);
                return Verdict::Stored(Stored { written, replaced });
            }
            if seen.after == After::Unknown {
                return Verdict::Refuse(ControlError::OutcomeSuperseded);
            }
            return Verdict::Include {
                key,
                replaced,
                before,
                is_unchanged: false,
                may_be_forgotten: false,
            };
        }
        let unmet = match resolved
            .refusal
            .map_or_else(|| unmet(mutation), |refusal| Ok(Some(refusal)))
        {
            Ok(unmet) => unmet.or_else(|| conflict(&mutation.desired, &id, &draft.record)),
            Err(error) => return Verdict::Refuse(error),
        };
        let told = Fresh::reckoned_at(fresh);
        let retry = mutation.retry.filter(|_| Safeguard::RetryRule.holds());
        let known = Known {
            fresh: fresh.map(|fresh| fresh.unix_millis),
            first_attempt_age: retry.map(|retry| retry.age(told)),
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
                    Some(_) if due.may_be_forgotten => Verdict::Refuse(outcome_unknown(mutation)),
                    Some(error) => Verdict::Refuse(error),
                    None => Verdict::Include {
                        key,
                        replaced,
                        before,
                        is_unchanged: due.is_unchanged,
                        may_be_forgotten: due.may_be_forgotten,
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
        let (EntryKey::InterfaceLink(id), Desired::Entry(entry)) = (key, &mutation.desired) else {
            return None;
        };
        let Entry::InterfaceLink(link) = &**entry else {
            return None;
        };
        let max = BODY_BYTES_MAX;
        let actual = draft.bytes + draft.growth(id, link);
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
}
