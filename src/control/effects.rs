//! What others are told of a write, as the host that is asked for it would tell them: running providers of a link,
//! dashboards and wadm of events.
//!
//! Told after the acknowledgement, while the entry's queue is still held, and only of what still wins: in the order of
//! the writes. Lost ones are not repaired by themselves; the same put again tells again.

use std::sync::Arc;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::warn;

use super::{
    Deadline,
    decide::Mutation,
    lattice::Lattice,
    mutate::{Outcome, Written},
};
use crate::{
    domain::{Entry, EntryKey, Kind, LinkDefinition, hash::LengthPrefixed, nkey::Nkey},
    store::{
        connection::Status,
        layout::{
            Part,
            effects::{Envelope, LinkChange, Message, link_event, link_notice, reference_event},
            events,
        },
        mirror::Winner,
    },
    telemetry::{Effect, Metrics},
};

/// What it takes to tell others.
#[derive(Clone, Debug)]
pub struct Effects {
    /// Who the events say they are from.
    pub source: Arc<Nkey>,
    /// Counts what was told.
    pub metrics: Metrics,
}

/// Tells others of a write, unless the lattice's settings say otherwise or something newer stands by now. Not of claims:
/// hosts tell of those when they start what the claims are of, which the gateway never does.
pub(super) async fn announce(
    lattice: &Lattice,
    mutation: &Mutation,
    written: &Written,
    replaced: Option<&Entry>,
    deadline: Deadline,
) {
    let Some(winner) = &written.winner else {
        return;
    };
    let is_silent = !lattice.settings.effects || mutation.key.kind() == Kind::Claims;
    if is_silent || written.superseded || written.outcome == Outcome::Validated {
        return;
    }
    let Effects { source, metrics } = &lattice.effects;
    let Some(time) = winner.unix_nanos.and_then(rfc_3339) else {
        warn!(lattice = %lattice.name, entry = %mutation.key, "not told, since the write was not seen to stand: put it again");
        metrics.effect(Effect::Unseen);
        return;
    };
    let id = event_id(&mutation.intent.message_id);
    let envelope = Envelope {
        id: &id,
        source: source.as_str(),
        time: &time,
    };
    for message in messages(lattice, &mutation.key, winner, replaced, envelope) {
        metrics.effect(match message {
            None => Effect::NoSubject,
            Some(message) => send(lattice, message, deadline).await,
        });
    }
}

/// Not queued for later while NATS is away: it may be untrue by then.
async fn send(lattice: &Lattice, message: Message, deadline: Deadline) -> Effect {
    let connection = lattice.api.connection();
    if connection.status() != Status::Connected {
        return Effect::NotConnected;
    }
    let handed_over = deadline.bound(connection.notify(message.subject, message.body));
    match handed_over.await {
        Some(()) => Effect::Sent,
        None => Effect::NotConnected,
    }
}

/// What there is to tell, in order; `None` for what has no subject.
fn messages(
    lattice: &Lattice,
    key: &EntryKey,
    winner: &Winner,
    replaced: Option<&Entry>,
    envelope: Envelope<'_>,
) -> Vec<Option<Message>> {
    let is_gone = winner.state.is_gone();
    let Some(told) = winner.state.entry().map(|entry| &**entry).or(replaced) else {
        return Vec::new();
    };
    let (part, lattice) = (lattice.part, &lattice.name);
    match (key, told) {
        (EntryKey::InterfaceLink(id), Entry::InterfaceLink(link)) if is_gone => {
            let mut messages = events::deleted_notices(lattice, id, link);
            messages.push(events::link_deleted(lattice, envelope, id, link));
            messages
        }
        (EntryKey::InterfaceLink(id), Entry::InterfaceLink(link)) => {
            vec![events::link_set(lattice, envelope, id, link)]
        }
        (EntryKey::Config(name), _) => vec![events::config_event(lattice, envelope, is_gone, name)],
        // Every host of this era tells its providers and others itself of what it sees in the bucket.
        (_, _) if part == Part::Kv => Vec::new(),
        (EntryKey::LinkDefinition(id), Entry::LinkDefinition(told)) => {
            let replaced = replaced.and_then(as_link);
            let (change, link) = match is_gone {
                false => (LinkChange::Put, told),
                // A tombstone holds no values.
                true => (LinkChange::Deleted, replaced.unwrap_or(told)),
            };
            let former = replaced.filter(|former| former.provider_id != link.provider_id);
            former
                .map(|former| link_notice(LinkChange::Deleted, lattice, id, former))
                .into_iter()
                .chain([
                    link_notice(change, lattice, id, link),
                    link_event(change, lattice, envelope, id, link),
                ])
                .collect()
        }
        (EntryKey::OciReference(url), Entry::OciReference(reference)) => {
            vec![reference_event(lattice, envelope, url, reference)]
        }
        (_, _) => Vec::new(),
    }
}

fn as_link(entry: &Entry) -> Option<&LinkDefinition> {
    match entry {
        Entry::LinkDefinition(link) => Some(link),
        Entry::Claims(_)
        | Entry::OciReference(_)
        | Entry::InterfaceLink(_)
        | Entry::Config(_)
        | Entry::Component(_) => None,
    }
}

/// A UUID, as hosts' events have, that is the same for the same write.
fn event_id(message_id: &str) -> String {
    let mut hash = LengthPrefixed::default();
    hash.text(message_id);
    let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = hash.finish();
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn rfc_3339(unix_nanos: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(unix_nanos.into()).ok()?;
    time.format(&Rfc3339).ok()
}
