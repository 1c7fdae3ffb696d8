//! Accepts connections, bounds them, secures them where there is TLS, and drains them.
//!
//! Not tonic's own server: that cannot cap connections, its connection age cuts streams, and its graceful shutdown
//! waits for idle peers for ever.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{addresses::Addresses, http::Front, tls::Tls};
use crate::auth::peer::Peer;

/// Bounds on connections, each explicit.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time, handshakes under way included; the next one waits in the kernel's queue.
    pub connections_max: usize,
    /// Connections at a time from one IPv4 address or one /64 of IPv6, handshakes under way included; the next
    /// one is closed at once. Everybody behind a proxy has the proxy's address.
    pub connections_per_address_max: usize,
    /// Streams at a time on one connection.
    pub streams_max: u32,
    /// A connection that has made no call after so long is closed: who opens many and says nothing would have all places.
    /// One of HTTP/1, which has no pings, also if no other call comes for so long.
    pub first_call_within: Duration,
    /// A connection older than this is asked to go, so that load spreads.
    pub age_max: Duration,
    /// How long a drained connection's calls may go on.
    pub drain_timeout: Duration,
}

/// The connection by which a request comes.
#[derive(Debug)]
pub struct Connection {
    /// Who is at its other end.
    pub peer: Peer,
    /// Cancelled once it takes nothing more, by its age or because the server drains: what goes on must end soon.
    pub leaving: CancellationToken,
}

const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Of HTTP/1, for a request's head and for what is read ahead of its body.
const HEAD_BYTES_MAX: usize = 32 * 1024;
const WINDOW_BYTES: u32 = 1024 * 1024;
const PENDING_RESETS_MAX: usize = 20;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last answers to be written.
const LAST_ANSWERS: Duration = Duration::from_millis(250);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `drain` is cancelled; then until every connection has ended, or `quiet` says that no call is in flight
/// (a peer may hold an idle connection or a health watch for ever), or the time to drain is over.
///
/// Every request has an `Arc<Connection>` among its extensions. Without `tls` connections are not secured.
pub async fn serve(
    listener: TcpListener,
    front: impl Into<Front>,
    limits: ConnectionLimits,
    tls: Option<Arc<Tls>>,
    drain: CancellationToken,
    quiet: impl Future<Output = ()>,
) {
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let addresses = Addresses::new(limits.connections_per_address_max);
    let serving = Serving {
        front: front.into(),
        limits,
        tls,
        drain,
    };
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, address)) => {
                    let Some(place_of_address) = addresses.place(address.ip()) else {
                        debug!(%address, "a connection was closed: its address has as many as it may");
                        continue;
                    };
                    let served = serving.clone().connection(stream, address);
                    let served = cut.clone().run_until_cancelled_owned(served);
                    connections.spawn(async move {
                        if served.await.is_none() {
                            debug!("a connection was cut");
                        }
                        drop((place, place_of_address));
                    });
                }
                Err(error) => {
                    // Out of file descriptors, or the peer was gone already.
                    warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    serving.drain.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    let drained = async {
        tokio::select! {
            () = connections.wait() => {}
            () = quiet => drop(timeout(LAST_ANSWERS, connections.wait()).await),
        }
    };
    if timeout(serving.limits.drain_timeout, drained).await.is_err() {
        let open = connections.len();
        warn!(open, "connections are cut: their calls took too long");
    }
    cut.cancel();
    connections.wait().await;
}

/// What every connection is served with.
#[derive(Clone)]
struct Serving {
    front: Front,
    limits: ConnectionLimits,
    tls: Option<Arc<Tls>>,
    drain: CancellationToken,
}

impl Serving {
    async fn connection(self, stream: TcpStream, address: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY");
        }
        let Some(tls) = self.tls.clone() else {
            let certificate = None;
            return self.calls(stream, Peer { address, certificate }).await;
        };
        let handshake = Box::pin(tls.handshake(stream));
        match self.drain.run_until_cancelled(handshake).await {
            Some(Ok((stream, certificate))) => self.calls(stream, Peer { address, certificate }).await,
            Some(Err(error)) => debug!(%address, %error, "a TLS handshake failed"),
            None => debug!(%address, "a TLS handshake was cut"),
        }
    }

    async fn calls(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let leaving = self.drain.child_token();
        let connection = Arc::new(Connection {
            peer,
            leaving: leaving.clone(),
        });
        let with_http1 = self.front.has_http();
        let has_called = Arc::new(AtomicBool::new(false));
        let calls = Arc::clone(&has_called);
        let service = self.front.map_request(move |mut request: Request<Incoming>| {
            calls.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Arc::clone(&connection));
            request
        });
        let builder = builder(&self.limits, with_http1);
        let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut served = Box::pin(served);
        let is_old = sleep(self.limits.age_max);
        let is_silent = async {
            sleep(self.limits.first_call_within).await;
            if has_called.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = served.as_mut() => Some(ended),
            () = is_silent => return debug!("a connection that made no call was closed"),
            () = is_old => None,
            () = self.drain.cancelled() => None,
        };
        let ended = if let Some(ended) = ended {
            Ok(ended)
        } else {
            served.as_mut().graceful_shutdown();
            leaving.cancel();
            timeout(self.limits.drain_timeout, served).await
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(error, "a connection ended"),
            Err(_late) => debug!("a connection was cut"),
        }
    }
}

fn builder(limits: &ConnectionLimits, with_http1: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if !with_http1 {
        builder = builder.http2_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_call_within)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}
