//! Watchers that read much and decode little, so that ten thousand of them leave the cores to the gateway.

use bytes::{Buf, Bytes};
use lattice_gateway::proto::{WatchRequest, WatchResponse};
use tokio::time::Instant;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::{Failure, call::Caller};

/// Fields of `WatchResponse`, and what leads from there to the revision of a link that was put.
const SNAPSHOT_COMPLETE: u64 = 2;
const CHANGES: u64 = 3;
const RESYNC: u64 = 5;
const CHANGE: u64 = 1;
const PUT_LINK_DEFINITION_REVISION: [u64; 3] = [1, 2, 14];
const SEQUENCE: u64 = 2;

/// A watch whose snapshot is over.
pub(crate) struct Watcher(Streaming<Bytes>);

/// What a watcher was told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) changes: usize,
    /// The sequence of each change and when it came, where that is kept.
    pub(crate) deliveries: Vec<(u64, Instant)>,
    /// When the last change came.
    pub(crate) last: Option<Instant>,
}

impl Watcher {
    /// Watches the caller's lattice.
    pub(crate) async fn open(caller: Caller) -> Result<Self, Failure> {
        let request = WatchRequest {
            lattice: caller.lattice(),
            ..WatchRequest::default()
        };
        let mut client = Grpc::new(caller.channel());
        client.ready().await?;
        let path = PathAndQuery::from_static("/lattice.control.v1.WatchService/Watch");
        let answer = client
            .server_streaming(caller.request(request), path, Undecoded)
            .await?;
        let mut messages = answer.into_inner();
        loop {
            let message = messages.message().await?.ok_or("a watch ended early")?;
            if Fields(&message).any(|(field, _)| field == SNAPSHOT_COMPLETE) {
                return Ok(Self(messages));
            }
        }
    }

    /// Reads on until that many changes were told, or the watch ends.
    pub(crate) async fn see(mut self, changes: usize, keeps_deliveries: bool) -> Seen {
        let mut seen = Seen::default();
        while seen.changes < changes {
            let Ok(Some(message)) = self.0.message().await else {
                break;
            };
            if seen.note(&message, keeps_deliveries).is_err() {
                break;
            }
        }
        seen
    }
}

/// The watch began anew: it was not to.
struct Resynced;

impl Seen {
    fn note(&mut self, message: &Bytes, keeps_deliveries: bool) -> Result<(), Resynced> {
        for (field, value) in Fields(message) {
            if field == RESYNC {
                return Err(Resynced);
            }
            if field != CHANGES {
                continue;
            }
            let now = Instant::now();
            for (_, change) in Fields(value.bytes()).filter(|(field, _)| *field == CHANGE) {
                self.changes += 1;
                if keeps_deliveries && let Some(sequence) = sequence(change.bytes()) {
                    self.deliveries.push((sequence, now));
                }
            }
            self.last = Some(now);
        }
        Ok(())
    }
}

/// Of the link that a change puts.
fn sequence(change: &[u8]) -> Option<u64> {
    let field = |message, wanted| Fields(message).find(|(field, _)| *field == wanted);
    let revision = PUT_LINK_DEFINITION_REVISION
        .into_iter()
        .try_fold(change, |message, wanted| Some(field(message, wanted)?.1.bytes()));
    match field(revision?, SEQUENCE)?.1 {
        Value::Number(sequence) => Some(sequence),
        Value::Bytes(_) => None,
    }
}

/// The fields of an encoded message, up to one that is not of those that the API has.
struct Fields<'a>(&'a [u8]);

#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Number(_) => &[],
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl Fields<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

/// Sends requests as they are, and gives answers as they come.
#[derive(Clone, Copy)]
struct Undecoded;

impl Codec for Undecoded {
    type Encode = WatchRequest;
    type Decode = Bytes;
    type Encoder = ProstEncoder<WatchRequest>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<WatchRequest, WatchResponse>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Self
    }
}

impl Decoder for Undecoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}
