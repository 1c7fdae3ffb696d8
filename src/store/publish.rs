//! One publish to a home subject, and what became of it.
//!
//! Every publish carries an expectation, so that at most one of any number of copies of it can ever land, and
//! `Nats-Expected-Stream`, so that a stream of somebody else that overlaps is not written to.

use std::{str::FromStr, time::Duration};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;

use super::{
    api::ErrorBody,
    connection::{Connection, RequestFailed},
    evidence::{self, Evidence},
    layout::Marker,
};
use crate::{safeguard::Safeguard, telemetry::traces};

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    /// The stream it must land in.
    pub stream: &'a str,
    /// The home subject.
    pub subject: &'a str,
    /// The message id.
    pub message_id: &'a str,
    /// The sequence of the message that it replaces; 0 for none.
    pub expected_sequence: u64,
    /// The calls on record.
    pub evidence: &'a Evidence,
    /// Where it tells that a bucket's key is gone.
    pub marker: Option<Marker>,
    /// The value.
    pub body: Bytes,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is stored there.
    Stored(u64),
    /// The id was known already, stored then there. What stands there now is another question.
    Duplicate(u64),
    /// Known not stored.
    Refused(Refused),
    /// It may or may not be stored, now or later.
    Unknown,
}

impl Published {
    /// As metrics name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stored(_) => "stored",
            Self::Duplicate(_) => "duplicate",
            Self::Refused(Refused::Overtaken | Refused::InFlight) => "overtaken",
            Self::Refused(_) => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a publish is known not to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Something else was written to the subject.
    Overtaken,
    /// A publish with this id, or to this subject, is being worked on; or a cluster before 2.12 has refused one.
    InFlight,
    /// The stream or the account is full.
    Full,
    /// The connection is away.
    NotConnected,
    /// No stream takes the subject, JetStream is off, or the stream has no leader.
    NoResponders,
    /// NATS refuses the gateway's user.
    Forbidden,
    /// Over the server's or the stream's size, with so many bytes.
    TooLarge(usize),
    /// Another stream takes the subject.
    OtherStream,
    /// JetStream is not able to just now.
    Unavailable,
    /// JetStream refused for another reason.
    Other(u16, String),
}

/// What a probe told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// JetStream remembers the id; it was stored there.
    Known(u64),
    /// JetStream does not remember the id.
    NotKnown,
    /// The probe failed.
    Failed(Published),
}

/// Publishes and waits for JetStream's acknowledgement.
pub async fn publish(connection: &Connection, message: Outgoing<'_>, timeout: Duration) -> Published {
    let mut headers = common_headers(message.stream, message.message_id);
    if Safeguard::Expectation.holds() {
        let expected_sequence = message.expected_sequence.to_string();
        insert(
            &mut headers,
            "Nats-Expected-Last-Subject-Sequence",
            &expected_sequence,
        );
    }
    match message.marker {
        None => {}
        Some(Marker::Delete) => insert(&mut headers, "KV-Operation", "DEL"),
        Some(Marker::Purge) => {
            insert(&mut headers, "KV-Operation", "PURGE");
            insert(&mut headers, "Nats-Rollup", "sub");
        }
    }
    insert(&mut headers, evidence::HEADER, &message.evidence.encode());
    traces::inject(&mut headers);
    send(connection, message.subject, headers, message.body, timeout).await
}

/// Asks whether JetStream remembers an id, without changing anything: a publish with an invalid rollup is
/// answered as a duplicate where the id is known, and refused with 10111 where not. It is never stored, nor is the id
/// kept (measured on nats-server 2.10 to 2.15), but by clusters before 2.12, which keep what they refuse.
pub async fn probe(
    connection: &Connection,
    stream: &str,
    subject: &str,
    message_id: &str,
    timeout: Duration,
) -> Probed {
    const INVALID_ROLLUP: u16 = 10111;
    let mut headers = common_headers(stream, message_id);
    insert(&mut headers, "Nats-Rollup", "probe");
    match send(connection, subject, headers, Bytes::new(), timeout).await {
        Published::Duplicate(sequence) => Probed::Known(sequence),
        Published::Refused(Refused::Other(INVALID_ROLLUP, _)) => Probed::NotKnown,
        failed @ (Published::Stored(_) | Published::Refused(_) | Published::Unknown) => {
            Probed::Failed(failed)
        }
    }
}

fn common_headers(stream: &str, message_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    insert(&mut headers, "Nats-Msg-Id", message_id);
    insert(&mut headers, "Nats-Expected-Stream", stream);
    headers
}

/// Names and values are made here of fixed alphabets; `from_str` cannot fail on them, and unlike `from` it
/// would not panic if it did.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ErrorBody>,
}

async fn send(
    connection: &Connection,
    subject: &str,
    headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
) -> Published {
    let bytes = body.len() + bytes_of(&headers);
    let answer = match connection.request(subject, headers, body, timeout).await {
        Ok(answer) => answer,
        Err(RequestFailed::Unknown) => return Published::Unknown,
        Err(RequestFailed::NotConnected) => return Published::Refused(Refused::NotConnected),
        Err(RequestFailed::NoResponders) => return Published::Refused(Refused::NoResponders),
        Err(RequestFailed::Forbidden) => return Published::Refused(Refused::Forbidden),
        Err(RequestFailed::TooLarge) => return Published::Refused(Refused::TooLarge(bytes)),
    };
    match serde_json::from_slice::<Acknowledgement>(&answer.payload) {
        // A refusal without a code of JetStream's own does not say how far the message came: a leader of 2.11 that is
        // just stepping down answers so.
        Ok(Acknowledgement {
            error: Some(ErrorBody { err_code: 0, .. }),
            ..
        }) => Published::Unknown,
        Ok(Acknowledgement {
            error: Some(error), ..
        }) => Published::Refused(classify(error, bytes)),
        Ok(Acknowledgement {
            seq, duplicate: true, ..
        }) if seq > 0 => Published::Duplicate(seq),
        // So says a cluster of 2.10 of an id that is under way, or that it has refused.
        Ok(Acknowledgement { duplicate: true, .. }) => Published::Refused(Refused::InFlight),
        Ok(Acknowledgement { seq, .. }) if seq > 0 => Published::Stored(seq),
        // Whoever answered, it was not JetStream.
        Ok(_) | Err(_) => Published::Unknown,
    }
}

fn bytes_of(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value)))
        .map(|(name, value)| AsRef::<str>::as_ref(name).len() + value.as_str().len())
        .sum()
}

fn classify(error: ErrorBody, bytes: usize) -> Refused {
    match error.err_code {
        // Wrong last sequence; in a cluster also while another write to the subject is in flight (10164).
        10071 | 10164 => Refused::Overtaken,
        10158 => Refused::InFlight,
        // Out of resources, storage or memory; discard new; per-subject bounds.
        10023 | 10028 | 10047 | 10077 | 10167 => Refused::Full,
        10060 => Refused::OtherStream,
        10054 => Refused::TooLarge(bytes),
        // No peers, not assigned, no leader, temporarily unavailable, offline.
        10005..=10009 | 10118 => Refused::Unavailable,
        code => Refused::Other(code, error.description),
    }
}
