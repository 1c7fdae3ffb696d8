//! One connection to NATS: what it is doing, and a request that says honestly what became of it.
//!
//! A request has three ends that must never be confused: an answer, *known not sent*, and *unknown*. async-nats
//! queues what is published while it reconnects and sends it later, so the connection is looked at first and
//! nothing is handed over while it is away. What was handed over and not answered is unknown.

use std::{
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Auth, AuthError, Client, ConnectOptions, Event, HeaderMap, Message, ServerAddr, ServerError, StatusCode,
    Subscriber,
};
use bytes::Bytes;
use futures_util::StreamExt;
use nkeys::KeyPair;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use super::requests::{Moment, Requests};
use crate::{expiry, jitter, safeguard::Safeguard};

/// The oldest NATS server that is supported: before it, JetStream expectations have known holes.
pub const SERVER_FLOOR: [u64; 3] = [2, 10, 20];

/// What the subjects that answers and deliveries come on begin with. Not everybody's `_INBOX`: so nobody else's permission
/// to read there, or to answer there, covers the gateway's.
pub const INBOX_PREFIX: &str = "_INBOX_lattice_gateway";

/// A connection on which three of these bring nothing is given up: until then nobody knows that it is a black hole.
const PING_INTERVAL: Duration = Duration::from_millis(750);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
const COMMAND_QUEUE: usize = 256;
const VIOLATION_MEMORY: Duration = Duration::from_secs(30);

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// `nats://host:port`, several comma-separated.
    pub servers: String,
    /// What the gateway shows at every connect.
    pub credentials: Option<Credentials>,
    /// PEM: who signs the servers' certificates, besides whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM: the client's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the server shows for the connection.
    pub name: String,
}

/// What the gateway shows to NATS, read anew at every connect, so that it can be renewed in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A credentials file: a user's JWT and seed.
    File(PathBuf),
    /// A file that holds the seed of an nkey.
    NkeySeed(PathBuf),
}

impl Credentials {
    /// Reads the file, and signs what the server asks to have signed. The error names the file and nothing that it holds.
    pub fn answer(&self, nonce: &[u8]) -> Result<Auth, String> {
        let (path, is_jwt) = match self {
            Self::File(path) => (path, true),
            Self::NkeySeed(path) => (path, false),
        };
        let told = |what: &str| format!("{}: {what}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(&error.to_string()))?;
        let mut auth = Auth::new();
        let seed = if is_jwt {
            let jwt = block(&text, "NATS USER JWT").ok_or_else(|| told("holds no NATS USER JWT"))?;
            auth.jwt = Some(jwt.to_owned());
            block(&text, "USER NKEY SEED").ok_or_else(|| told("holds no USER NKEY SEED"))?
        } else {
            text.trim()
        };
        // The library's errors are not told: they may quote the seed.
        let key = KeyPair::from_seed(seed).map_err(|_error| told("holds no seed of an nkey"))?;
        auth.nkey = (!is_jwt).then(|| key.public_key());
        auth.signature = Some(
            key.sign(nonce)
                .map_err(|_error| told("holds no seed that signs"))?,
        );
        Ok(auth)
    }

    /// When the user's JWT ends.
    fn jwt_ends(&self) -> Option<i64> {
        let Self::File(path) = self else {
            return None;
        };
        let text = std::fs::read_to_string(path).ok()?;
        expiry::of_jwt(block(&text, "NATS USER JWT")?)
    }
}

/// What stands between `-----BEGIN NAME-----` and the next line of dashes.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(&format!("-----BEGIN {name}-----"))?;
    let (block, _) = behind.split_once("---")?;
    Some(block.trim()).filter(|block| !block.is_empty())
}

/// Why NATS could not be connected to at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials cannot be read.
    #[error("the NATS credentials cannot be used: {0}")]
    Credentials(String),
    /// The address list does not parse, or the like.
    #[error("cannot connect to NATS at {servers}: {reason}")]
    Options {
        /// The addresses.
        servers: String,
        /// Why.
        reason: String,
    },
}

/// What the connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not connected; the client tries again by itself.
    Away,
    /// Connected to a server that is new enough.
    Connected,
    /// Connected to a server below [`SERVER_FLOOR`]: not used.
    TooOld(String),
}

#[derive(Clone, Debug)]
struct State {
    status: Status,
    /// Counts connects, each of which may be to another server.
    connects: u64,
    /// When it last connected.
    connected_at: Option<Instant>,
    /// Counts losses of the connection, so that a short one is not missed.
    losses: u64,
    /// Counts refusals of the gateway's user.
    violations: u64,
}

impl State {
    fn moment(&self) -> Moment {
        Moment {
            losses: self.losses,
            violations: self.violations,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFailed {
    /// Known not sent.
    NotConnected,
    /// Known not processed: nobody listens on the subject.
    NoResponders,
    /// Known not processed: NATS refuses the gateway's user on the subject.
    Forbidden,
    /// Known not sent: over the server's `max_payload`.
    TooLarge,
    /// It may or may not have been processed.
    Unknown,
}

/// One connection to NATS.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Client,
    state: watch::Receiver<State>,
    /// The connect whose server was found new enough.
    judged: Arc<AtomicU64>,
    requests: Arc<Requests>,
    violations: Arc<Mutex<Violations>>,
    credentials: Option<Credentials>,
    certificate_file: Option<PathBuf>,
    _giving_up: Arc<AbortOnDropHandle<()>>,
}

impl Connection {
    /// Starts to connect, and goes on trying for ever. Fails only for what no trying mends.
    pub async fn open(config: &ConnectionConfig) -> Result<Self, ConnectError> {
        let (sender, state) = watch::channel(State {
            status: Status::Away,
            connects: 0,
            connected_at: None,
            losses: 0,
            violations: 0,
        });
        let violations = Arc::<Mutex<Violations>>::default();
        let events = EventSink {
            servers: without_passwords(&config.servers).into(),
            state: Arc::new(sender),
            violations: Arc::clone(&violations),
        };
        let client = options(config, events)?
            .connect(&config.servers.split(',').map(str::trim).collect::<Vec<_>>()[..])
            .await
            .map_err(|source| failed(config, &source))?;
        let requests = Requests::open(client.clone()).await;
        let requests = Arc::new(requests.map_err(|source| failed(config, &source))?);
        let giving_up = give_up_for_ever(Arc::clone(&requests), state.clone(), Arc::clone(&violations));
        Ok(Self {
            client,
            state,
            judged: Arc::default(),
            requests,
            violations,
            credentials: config.credentials.clone(),
            certificate_file: config.certificate.as_ref().map(|(file, _key)| file.clone()),
            _giving_up: Arc::new(AbortOnDropHandle::new(tokio::spawn(giving_up))),
        })
    }

    /// What the connection is doing. Judges the server's version once a connect.
    pub fn status(&self) -> Status {
        let connects = {
            let state = self.state.borrow();
            match &state.status {
                Status::Connected => state.connects,
                other @ (Status::Away | Status::TooOld(_)) => return other.clone(),
            }
        };
        if self.judged.load(Ordering::Relaxed) == connects {
            return Status::Connected;
        }
        match self.client.try_server_info() {
            Some(info) if is_older(&info.version, &SERVER_FLOOR) => Status::TooOld(info.version),
            Some(_) => {
                self.judged.store(connects, Ordering::Relaxed);
                Status::Connected
            }
            // Not told yet: asked again by the next call.
            None => Status::Connected,
        }
    }

    /// Whether clusters of the connected server's version keep the id of a publish that they refused, as if it were still
    /// under way, for as long as the window lasts: those before 2.12 do (`tests/it/facts.rs`).
    pub fn clusters_keep_refused_ids(&self) -> bool {
        let info = self.client.try_server_info();
        info.is_some_and(|info| is_older(&info.version, &[2, 12]))
    }

    /// The version of the connected server.
    pub fn server_version(&self) -> Option<String> {
        matches!(self.status(), Status::Connected)
            .then(|| self.client.try_server_info().map(|info| info.version))
            .flatten()
    }

    /// Resolves once connected to a usable server.
    pub async fn connected(&self) {
        let mut state = self.state.clone();
        while self.status() != Status::Connected {
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Resolves once the status is another than this.
    pub async fn no_longer(&self, status: &Status) {
        let mut state = self.state.clone();
        while self.status() == *status {
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// When each kind of what the gateway shows ends, as its files say now, Unix seconds; `None` where it shows none, or one
    /// that does not end or cannot be read.
    pub fn credentials_end(&self) -> [(&'static str, Option<i64>); 2] {
        let jwt = self.credentials.as_ref().and_then(Credentials::jwt_ends);
        let certificate = self.certificate_file.as_ref().and_then(|file| {
            let pem = std::fs::read(file).ok()?;
            expiry::of_certificates(&pem).next()
        });
        [("user_jwt", jwt), ("certificate", certificate)]
    }

    /// When it last connected.
    pub fn connected_since(&self) -> Option<Instant> {
        self.state.borrow().connected_at
    }

    /// How often the connection has been lost.
    pub fn losses(&self) -> u64 {
        self.state.borrow().losses
    }

    /// Resolves once the connection has been lost more often than `losses`.
    pub async fn lost_since(&self, losses: u64) {
        let mut state = self.state.clone();
        // An error means that the client is gone for good, which is a loss too.
        if state.wait_for(|state| state.losses > losses).await.is_err() {
            warn!("the NATS client has stopped");
        }
    }

    /// Sends a request and waits for its answer, at most for `timeout`.
    pub async fn request(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, RequestFailed> {
        if self.status() != Status::Connected {
            if !Safeguard::ConnectionGate.holds() {
                let queued = self
                    .client
                    .publish_with_headers(subject.to_owned(), headers, payload);
                drop(tokio::time::timeout(timeout, queued).await);
            }
            return Err(RequestFailed::NotConnected);
        }
        let now = || self.state.borrow().moment();
        self.requests
            .request((subject, headers, payload), now(), now, timeout)
            .await
    }

    /// Asks whoever listens, and gathers what they answer within `window`, at most `max` answers. At once nothing where
    /// nobody listens.
    pub async fn gather(
        &self,
        subject: &str,
        window: Duration,
        max: usize,
    ) -> Result<Vec<Message>, RequestFailed> {
        if self.status() != Status::Connected {
            return Err(RequestFailed::NotConnected);
        }
        let since = self.state.borrow().moment();
        let inbox = self.client.new_inbox();
        let mut answers = self.subscribe(inbox.clone()).await?;
        let asked = self
            .client
            .publish_with_reply(subject.to_owned(), inbox, Bytes::new());
        asked.await.map_err(|_closed| RequestFailed::NotConnected)?;
        let mut state = self.state.clone();
        let mut gathered = Vec::new();
        let end = sleep(window);
        let mut end = pin!(end);
        while gathered.len() < max {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => break,
                    Some(answer) => gathered.push(answer),
                    None => return Err(RequestFailed::Unknown),
                },
                // An error means that the client is gone for good.
                changed = state.changed() => {
                    let now = state.borrow_and_update().moment();
                    if changed.is_err() || now.losses > since.losses {
                        return Err(RequestFailed::Unknown);
                    }
                    if self.violations.lock().refuse(subject, since.violations) {
                        return Err(RequestFailed::Forbidden);
                    }
                }
                () = &mut end => break,
            }
        }
        Ok(gathered)
    }

    /// Publishes without an answer; for what may get lost.
    pub async fn notify(&self, subject: String, payload: Bytes) {
        if let Err(error) = self.client.publish(subject, payload).await {
            warn!(%error, "a publish was not handed over");
        }
    }

    /// Subscribes.
    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, RequestFailed> {
        self.client
            .subscribe(subject)
            .await
            .map_err(|_closed| RequestFailed::NotConnected)
    }

    /// A subject that only this connection listens to.
    pub fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// The server's bound for headers and payload together, bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Sends what is buffered, and closes.
    pub async fn close(&self) {
        if let Err(error) = self.client.drain().await {
            warn!(%error, "the NATS connection did not drain");
        }
    }
}

fn failed(config: &ConnectionConfig, source: &dyn std::error::Error) -> ConnectError {
    ConnectError::Options {
        servers: without_passwords(&config.servers),
        reason: source.to_string(),
    }
}

/// Ends requests that have lost their hope for an answer, for as long as the client lives.
async fn give_up_for_ever(
    requests: Arc<Requests>,
    mut state: watch::Receiver<State>,
    violations: Arc<Mutex<Violations>>,
) {
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().moment();
        requests.give_up(now, |subject, since| violations.lock().refuse(subject, since));
    }
}

/// What NATS refused the gateway's user lately.
#[derive(Debug, Default)]
struct Violations {
    /// Of all times.
    count: u64,
    /// The last ones, with what the count was behind each.
    lately: Vec<(u64, Instant, String)>,
}

impl Violations {
    /// Notes one more; gives their count.
    fn note(&mut self, text: String) -> u64 {
        let now = Instant::now();
        self.count += 1;
        self.lately
            .retain(|(_, at, _)| now.duration_since(*at) < VIOLATION_MEMORY);
        self.lately.push((self.count, now, text));
        self.count
    }

    /// Whether NATS refused the subject since there were so many of them.
    fn refuse(&self, subject: &str, since: u64) -> bool {
        let quoted = format!("\"{subject}\"");
        let mut later = self.lately.iter().rev().take_while(|(count, ..)| *count > since);
        later.any(|(.., text)| text.contains(&quoted))
    }
}

#[derive(Clone)]
struct EventSink {
    servers: Arc<str>,
    state: Arc<watch::Sender<State>>,
    violations: Arc<Mutex<Violations>>,
}

impl EventSink {
    fn take(&self, event: Event) {
        let servers = &*self.servers;
        match event {
            Event::Connected => {
                info!(servers, "connected to NATS");
                self.state.send_modify(|state| {
                    state.status = Status::Connected;
                    state.connects += 1;
                    state.connected_at = Some(Instant::now());
                });
            }
            Event::Disconnected => {
                warn!(servers, "the connection to NATS is lost");
                self.away();
            }
            Event::Closed | Event::Draining => {
                debug!(servers, %event, "the connection to NATS ends");
                self.away();
            }
            Event::ServerError(ServerError::Other(text)) if text.contains("ermissions Violation") => {
                error!(servers, %text, "NATS refuses the gateway's user");
                let count = self.violations.lock().note(text);
                self.state.send_modify(|state| state.violations = count);
            }
            Event::ServerError(_) | Event::ClientError(_) | Event::SlowConsumer(_) | Event::LameDuckMode => {
                warn!(servers, %event, "NATS");
            }
        }
    }

    fn away(&self) {
        self.state.send_modify(|state| {
            state.status = Status::Away;
            state.losses += 1;
        });
    }
}

fn options(config: &ConnectionConfig, events: EventSink) -> Result<ConnectOptions, ConnectError> {
    let mut options = match config.credentials.clone() {
        None => ConnectOptions::new(),
        Some(credentials) => {
            // At start a mistake ends the gateway; later it is tried again until the file is mended.
            credentials.answer(&[]).map_err(ConnectError::Credentials)?;
            ConnectOptions::with_auth_callback(move |nonce| {
                let answer = credentials.answer(&nonce).map_err(AuthError::new);
                std::future::ready(answer)
            })
        }
    };
    if let Some((user, password)) = user_of(&config.servers)? {
        options = options.user_and_password(user, password);
    }
    if let Some(ca_file) = config.ca_file.clone() {
        options = options.add_root_certificates(ca_file);
    }
    if let Some((certificate_file, key_file)) = config.certificate.clone() {
        options = options.add_client_certificate(certificate_file, key_file);
    }
    let is_secured = config.ca_file.is_some() || config.certificate.is_some();
    options = options
        .name(&config.name)
        .custom_inbox_prefix(INBOX_PREFIX)
        .require_tls(is_secured)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .client_capacity(COMMAND_QUEUE)
        .reconnect_delay_callback(|attempts| {
            let shift = u32::try_from(attempts.min(6)).unwrap_or(6);
            RECONNECT_DELAY_MAX
                .min(Duration::from_millis(50) * (1 << shift))
                .mul_f64(jitter::factor())
        })
        .event_callback(move |event| {
            events.take(event);
            std::future::ready(())
        });
    Ok(options)
}

/// The user and password that the first address names; async-nats itself would leave them out.
fn user_of(servers: &str) -> Result<Option<(String, String)>, ConnectError> {
    let first = servers.split(',').next().unwrap_or_default().trim();
    let address: ServerAddr = first
        .parse()
        .map_err(|error: std::io::Error| ConnectError::Options {
            servers: without_passwords(servers),
            reason: error.to_string(),
        })?;
    Ok(match (address.username(), address.password()) {
        (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
        _ => None,
    })
}

/// As errors and logs may show it.
fn without_passwords(servers: &str) -> String {
    servers
        .split(',')
        .map(|server| server.rsplit_once('@').map_or(server, |(_, place)| place))
        .collect::<Vec<_>>()
        .join(",")
}

fn is_older(version: &str, than: &[u64]) -> bool {
    let numbers = version
        .split(['.', '-'])
        .take(3)
        .map(|part| part.parse().unwrap_or(0))
        .collect::<Vec<u64>>();
    numbers.as_slice() < than
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_2_10_20() {
        let is_below_floor = |version| is_older(version, &SERVER_FLOOR);
        assert!(is_below_floor("2.9.25"));
        assert!(is_below_floor("2.10.19"));
        assert!(!is_below_floor("2.10.20"));
        assert!(!is_below_floor("2.10.25-RC.1"));
        assert!(!is_below_floor("2.15.1"));
    }

    #[test]
    fn a_refusal_says_nothing_of_what_was_sent_after_it() {
        let mut violations = Violations::default();
        let refused = violations.note("Permissions Violation for Publish to \"lc.default.a\"".to_owned());
        assert!(violations.refuse("lc.default.a", refused - 1));
        assert!(
            !violations.refuse("lc.default.a", refused),
            "it was refused before"
        );
        let other = violations.note("Permissions Violation for Publish to \"lc.default.b\"".to_owned());
        assert!(!violations.refuse("lc.default.a", refused));
        assert!(violations.refuse("lc.default.b", refused) && !violations.refuse("lc.default.b", other));
    }
}
