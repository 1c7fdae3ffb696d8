//! A NATS that takes only so much, and can be cut off: a proxy that knows where a publish ends.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::Failure;

/// What the proxy makes of publishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// So many are worked on at a time; the others wait.
    pub(crate) at_a_time: usize,
    /// How long each takes.
    pub(crate) time: Duration,
}

/// The proxy, for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Slow {
    port: u16,
    flows: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Slow {
    /// In front of this NATS; without a pace it adds nothing.
    pub(crate) async fn start(nats_url: &str, pace: Option<Pace>) -> Result<Self, Failure> {
        let port = nats_url
            .rsplit(':')
            .next()
            .ok_or("a URL without a port")?
            .parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own_port = listener.local_addr()?.port();
        let flows = watch::Sender::new(true);
        let accepting = accept(listener, port, pace, flows.clone());
        Ok(Self {
            port: own_port,
            flows,
            _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)),
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Lets nothing through any more, in either direction, or everything again.
    pub(crate) fn cut_off(&self, is_cut_off: bool) {
        self.flows.send_replace(!is_cut_off);
    }
}

async fn accept(listener: TcpListener, port: u16, pace: Option<Pace>, flows: watch::Sender<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let flows = flows.subscribe();
        tokio::spawn(async move {
            // A connection that breaks is the client's to make again.
            drop(pass(client, port, pace, flows).await);
        });
    }
}

async fn pass(
    client: TcpStream,
    port: u16,
    pace: Option<Pace>,
    flows: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (frames, due) = mpsc::unbounded_channel();
    tokio::select! {
        ended = read_frames(from_client, pace, frames) => ended,
        ended = write_due(due, to_server, flows.clone()) => ended,
        ended = copy(from_server, to_client, flows) => ended,
    }
}

/// Something to be passed on, and when.
type Due = (Instant, Bytes);

async fn read_frames(
    mut client: OwnedReadHalf,
    pace: Option<Pace>,
    due: mpsc::UnboundedSender<Due>,
) -> Result<(), Failure> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    // When each of those that are worked on is done.
    let mut working = VecDeque::new();
    let mut last = Instant::now();
    while client.read_buf(&mut buffer).await? > 0 {
        while let Some((length, is_publish)) = frame(&buffer)? {
            let frame = buffer.split_to(length).freeze();
            let now = Instant::now();
            let at = match pace {
                Some(pace) if is_publish => {
                    let free = match working.len() < pace.at_a_time {
                        true => now,
                        false => working.pop_front().unwrap_or(now).max(now),
                    };
                    working.push_back(free + pace.time);
                    free + pace.time
                }
                Some(pace) => now + pace.time,
                None => now,
            };
            // What was sent first arrives first.
            last = last.max(at);
            due.send((last, frame))?;
        }
    }
    Ok(())
}

/// The length of the first operation of NATS's protocol, where it is whole, and whether it is a write to a lattice.
fn frame(buffer: &[u8]) -> Result<Option<(usize, bool)>, Failure> {
    let Some(line) = buffer.windows(2).position(|end| end == b"\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(buffer.get(..line).unwrap_or_default());
    let mut words = text.split_ascii_whitespace();
    let operation = words.next().unwrap_or_default();
    if !matches!(operation, "PUB" | "HPUB") {
        return Ok(Some((line + 2, false)));
    }
    let is_publish = words
        .clone()
        .next()
        .is_some_and(|subject| subject.starts_with("lc."));
    let payload = words.last().unwrap_or_default().parse::<usize>()?;
    let length = line + 2 + payload + 2;
    Ok((buffer.remaining() >= length).then_some((length, is_publish)))
}

async fn write_due(
    mut due: mpsc::UnboundedReceiver<Due>,
    mut server: OwnedWriteHalf,
    mut flows: watch::Receiver<bool>,
) -> Result<(), Failure> {
    while let Some((at, frame)) = due.recv().await {
        if at > Instant::now() {
            sleep_until(at).await;
        }
        flows.wait_for(|flows| *flows).await?;
        server.write_all(&frame).await?;
    }
    Ok(())
}

async fn copy(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut flows: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while server.read_buf(&mut buffer).await? > 0 {
        flows.wait_for(|flows| *flows).await?;
        client.write_all_buf(&mut buffer).await?;
    }
    Ok(())
}
