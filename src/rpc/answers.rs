//! Large answers of reads, for as long as their clients take to read them.
//!
//! HTTP/2 lets a client ask for much and take nothing: each of its streams would keep a page of up to 1 MiB in memory until
//! the connection ends. Here such answers share a room, and leave it when the call's deadline is over.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::control::ControlError;

/// All answers together, bytes.
const ROOM_BYTES: usize = 16 * 1024 * 1024;
/// The texts of a page of a list, and what the API says besides.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Smaller answers take no room: a stream that is open costs as much.
const SMALL_BYTES: usize = 4 * 1024;
/// HTTP/2 is handed so much at a time, and keeps it until the client takes it.
const PIECE_BYTES: usize = 16 * 1024;

/// The room.
#[derive(Clone, Debug)]
pub struct Answers(Arc<Semaphore>);

impl Default for Answers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES)))
    }
}

impl Answers {
    /// Whether the largest page would have room. Where it would not, a list is not worth making.
    pub(super) fn has_room(&self) -> bool {
        self.0.available_permits() >= PAGE_BYTES_MAX
    }

    /// Gives an answer of one message room until it is read, and until `deadline` at most: then its stream is reset.
    ///
    /// Refused with [`ControlError::Overloaded`] where there is none, so it is for calls that changed nothing.
    pub(super) async fn keep(&self, response: Response, deadline: Instant) -> Result<Response, ControlError> {
        let (head, mut body) = response.into_parts();
        let mut next = async || body.frame().await.and_then(Result::ok);
        let message = next().await.and_then(|frame| frame.into_data().ok());
        let message = message.unwrap_or_default();
        let trailers = next().await.and_then(|frame| frame.into_trailers().ok());
        let message = if message.len() <= SMALL_BYTES {
            Message::Small(message)
        } else {
            let room = u32::try_from(message.len()).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.0).try_acquire_many_owned(room);
            let room = room.map_err(|_full| ControlError::Overloaded)?;
            Message::kept(&message, room, deadline)
        };
        Ok(Response::from_parts(
            head,
            Body::new(Answer { message, trailers }),
        ))
    }
}

/// A message and what comes after it.
struct Answer {
    message: Message,
    trailers: Option<HeaderMap>,
}

enum Message {
    Small(Bytes),
    Large {
        kept: Arc<Mutex<Option<Kept>>>,
        /// Takes it away when its time is over.
        _ending: AbortOnDropHandle<()>,
    },
}

struct Kept {
    pieces: VecDeque<Bytes>,
    _room: OwnedSemaphorePermit,
}

impl Message {
    fn kept(message: &[u8], room: OwnedSemaphorePermit, deadline: Instant) -> Self {
        // Each piece on its own, so that what was read is free.
        let pieces = message.chunks(PIECE_BYTES).map(Bytes::copy_from_slice);
        let kept = Arc::new(Mutex::new(Some(Kept {
            pieces: pieces.collect(),
            _room: room,
        })));
        let watched = Arc::clone(&kept);
        let ending = tokio::spawn(async move {
            sleep_until(deadline).await;
            watched.lock().take();
        });
        Self::Large {
            kept,
            _ending: AbortOnDropHandle::new(ending),
        }
    }

    /// The next piece, empty behind the last one.
    fn next(&mut self) -> Result<Bytes, TooLate> {
        match self {
            Self::Small(bytes) => Ok(std::mem::take(bytes)),
            Self::Large { kept, .. } => {
                let mut kept = kept.lock();
                let Kept { pieces, .. } = kept.as_mut().ok_or(TooLate)?;
                Ok(pieces.pop_front().unwrap_or_default())
            }
        }
    }
}

/// The client did not read its answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the answer was not read before the call's deadline")]
struct TooLate;

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = TooLate;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TooLate>>> {
        Poll::Ready(match self.message.next() {
            Ok(piece) if piece.is_empty() => self.trailers.take().map(Frame::trailers).map(Ok),
            Ok(piece) => Some(Ok(Frame::data(piece))),
            Err(late) => Some(Err(late)),
        })
    }
}
