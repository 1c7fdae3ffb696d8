//! The open loop: calls come at a rate, at random times, whatever became of those before.
//!
//! By HTTP/2 alone, since a whole client takes more of the processor for a call that is refused than the gateway does.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{Failure, process::Gateway, stats::quantile, things::Link};

const METHOD: &str = "lattice.control.v1.LinkDefinitionService/PutLinkDefinition";
const CONNECTIONS: usize = 8;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    Done,
    /// `RESOURCE_EXHAUSTED`.
    Overloaded,
    /// `UNAVAILABLE`.
    Unavailable,
    /// `DEADLINE_EXCEEDED`.
    Unknown,
    Other,
}

/// A call that was offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    pub(crate) became: Became,
    /// Since the first one could have been.
    pub(crate) began: Duration,
    pub(crate) took: Duration,
}

/// Connections of a caller who puts links.
pub(crate) struct Putting {
    connections: Vec<SendRequest<Bytes>>,
    head: Request<()>,
    lattice: &'static str,
    _driven: Vec<AbortOnDropHandle<()>>,
}

impl Putting {
    pub(crate) async fn connect(
        gateway: &Gateway,
        token: &str,
        lattice: &'static str,
    ) -> Result<Self, Failure> {
        let address = gateway.address();
        let head = Request::post(format!("http://{address}/{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"))
            .body(())?;
        let (mut connections, mut driven) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (connection, frames) = h2::client::handshake(stream).await?;
            connections.push(connection);
            driven.push(AbortOnDropHandle::new(tokio::spawn(async move {
                // Where it breaks the calls say so.
                drop(frames.await);
            })));
        }
        Ok(Self {
            connections,
            head,
            lattice,
            _driven: driven,
        })
    }

    /// Puts links at a rate for a time, and waits for what becomes of them.
    pub(crate) async fn offer(&self, links: &[Link], per_second: f64, time: Duration) -> Vec<Offered> {
        let offered = Arc::new(Mutex::new(Vec::new()));
        let calls = TaskTracker::new();
        let start = Instant::now();
        let mut due = Duration::ZERO;
        let puts = self.connections.iter().cycle().zip(links.iter().cycle());
        for (number, (connection, link)) in puts.enumerate() {
            // Between independent calls there are exponential times.
            due += Duration::from_secs_f64(-fastrand::f64().max(f64::MIN_POSITIVE).ln() / per_second);
            if due >= time {
                break;
            }
            if start + due > Instant::now() {
                sleep_until(start + due).await;
            }
            let put = Link {
                writes: number,
                ..link.clone()
            };
            let message = framed(&put.put(self.lattice));
            let call = put_once(connection.clone(), self.head.clone(), message);
            let offered = Arc::clone(&offered);
            let began = Instant::now();
            calls.spawn(async move {
                let status = call.await;
                let call = Offered {
                    became: became(status.as_deref().ok()),
                    began: began - start,
                    took: began.elapsed(),
                };
                offered.lock().push(call);
            });
        }
        calls.close();
        calls.wait().await;
        std::mem::take(&mut *offered.lock())
    }
}

/// As gRPC sends it.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    framed.freeze()
}

/// One call; gives its gRPC code.
async fn put_once(
    connection: SendRequest<Bytes>,
    head: Request<()>,
    message: Bytes,
) -> Result<String, Failure> {
    let (answer, mut sending) = connection.ready().await?.send_request(head, false)?;
    sending.send_data(message, true)?;
    let answer = answer.await?;
    if let Some(code) = code(answer.headers()) {
        return Ok(code);
    }
    let mut body = answer.into_body();
    while let Some(bytes) = body.data().await {
        body.flow_control().release_capacity(bytes?.len())?;
    }
    let trailers = body.trailers().await?;
    Ok(trailers
        .as_ref()
        .and_then(code)
        .ok_or("an answer without a code")?)
}

fn code(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

fn became(code: Option<&str>) -> Became {
    match code {
        Some("0") => Became::Done,
        Some("8") => Became::Overloaded,
        Some("14") => Became::Unavailable,
        Some("4") => Became::Unknown,
        _ => Became::Other,
    }
}

/// How many became this.
pub(crate) fn count(offered: &[Offered], became: Became) -> usize {
    offered.iter().filter(|call| call.became == became).count()
}

/// How long those took that became this, microseconds; not a number where there are none.
pub(crate) fn took(offered: &[Offered], became: Became, share: f64) -> f64 {
    let those = offered.iter().filter(|call| call.became == became);
    quantile(those.map(|call| call.took.as_secs_f64() * 1e6), share)
}
