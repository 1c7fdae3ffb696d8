//! Logs, metrics and traces.
//!
//! Log fields are the same everywhere: `rpc`, `call_id`, `caller`, `lattice`, `stream`, `sequence`. Never tokens, link
//! values or bodies. Labels of metrics are bounded: methods and codes that are known, streams that there are, nothing else
//! that callers choose.

mod process;
pub mod traces;

use std::{
    io::IsTerminal,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use self::{process::Process, traces::TracesConfig};
use crate::{auth::authenticate::Unauthenticated, control::Clock};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log to standard error, as `filter` says (`info`, `lattice_gateway=debug`, …), and to send traces; these need the
/// runtime. `Err` says what is wrong with which setting.
pub fn init(filter: &str, format: LogFormat, traces: Option<&TracesConfig>) -> Result<(), String> {
    let filter = filter.parse::<EnvFilter>().map_err(|error| {
        format!("log.filter: does not parse ({error}); write it as `info` or `lattice_gateway=debug`")
    })?;
    let traces = traces.map(traces::layer).transpose()?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    let subscriber = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .with(traces);
    subscriber
        .try_init()
        .map_err(|error| format!("logging has begun before: {error}"))?;
    FILTER.get_or_init(|| handle);
    Ok(())
}

/// Logs what `filter` says from now on. `false` where it does not parse or nothing is logged.
pub fn set_filter(filter: &str) -> bool {
    let parsed = filter.parse::<EnvFilter>();
    parsed.is_ok_and(|filter| FILTER.get().is_some_and(|handle| handle.reload(filter).is_ok()))
}

static FILTER: OnceLock<tracing_subscriber::reload::Handle<EnvFilter, Subscribed>> = OnceLock::new();

type Subscribed = tracing_subscriber::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodCode {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    lattice: String,
    stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CredentialLabel {
    upstream: String,
    credential: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedAwayLabel {
    why: &'static str,
}

/// Why a call that needs a lattice's stream was refused before anything was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// It would have waited for too long.
    Overloaded,
    /// The stream does not answer.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Undone {
    acknowledgement: &'static str,
}

/// A stream that is followed, as it is scraped.
#[derive(Clone, Debug)]
pub struct StreamState {
    /// The lattice.
    pub lattice: String,
    /// The stream.
    pub stream: String,
    /// Where the gateway's copy of it is.
    pub sequence: u64,
    /// Where the stream is, as its leader told within the last 2.5 seconds.
    pub last_sequence: u64,
    /// Subjects that hold a message.
    pub subjects: u64,
    /// Messages among them that no host can read.
    pub malformed: usize,
    /// Members of its configuration that are not as hosts create them.
    pub differences: usize,
    /// Whether writes are taken.
    pub is_writable: bool,
}

/// The streams that are told of, at most: the others are those of the last names.
const STREAMS_MAX: usize = 1_000;

#[derive(Clone, Debug, Default)]
struct StreamGauges {
    sequence: Family<StreamLabel, Gauge>,
    last_sequence: Family<StreamLabel, Gauge>,
    subjects: Family<StreamLabel, Gauge>,
    malformed: Family<StreamLabel, Gauge>,
    differences: Family<StreamLabel, Gauge>,
    is_writable: Family<StreamLabel, Gauge>,
}

impl StreamGauges {
    /// Each with its name and what it tells.
    fn all(&self) -> [(&'static str, &'static str, &Family<StreamLabel, Gauge>); 6] {
        [
            (
                "stream_sequence",
                "Where the gateway's copy of a stream is",
                &self.sequence,
            ),
            (
                "stream_last_sequence",
                "Where a stream is, as its leader told within the last 2.5 seconds",
                &self.last_sequence,
            ),
            (
                "stream_subjects",
                "Subjects of a stream that hold a message",
                &self.subjects,
            ),
            (
                "stream_malformed_messages",
                "Messages of a stream that no host can read",
                &self.malformed,
            ),
            (
                "stream_config_differences",
                "Members of a stream's configuration that are not as hosts create them",
                &self.differences,
            ),
            (
                "stream_is_writable",
                "1 while writes to a stream are taken, 0 while its configuration or its layout forbids them",
                &self.is_writable,
            ),
        ]
    }

    fn set(&self, mut streams: Vec<StreamState>) {
        streams.sort_by(|one, other| one.stream.cmp(&other.stream));
        for (_, _, gauges) in self.all() {
            gauges.clear();
        }
        for stream in streams.into_iter().take(STREAMS_MAX) {
            let label = StreamLabel {
                lattice: stream.lattice,
                stream: stream.stream,
            };
            let set = |gauges: &Family<StreamLabel, Gauge>, value: u64| {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauges.get_or_create(&label).set(value);
            };
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            set(&self.sequence, stream.sequence);
            set(&self.last_sequence, stream.last_sequence);
            set(&self.subjects, stream.subjects);
            set(&self.malformed, count(stream.malformed));
            set(&self.differences, count(stream.differences));
            set(&self.is_writable, u64::from(stream.is_writable));
        }
    }
}

/// What became of telling others of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It was handed to NATS.
    Sent,
    /// NATS was away.
    NotConnected,
    /// The write was not seen to stand in time.
    Unseen,
    /// The provider's id or the link's name cannot be part of a subject.
    NoSubject,
}

/// Bounds of the buckets of times.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// The process's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    answered: Family<MethodCode, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    watches: Gauge,
    watches_lagged: Counter,
    connected: Family<UpstreamLabel, Gauge>,
    turned_away: Family<TurnedAwayLabel, Counter>,
    silent: Gauge,
    effects: Family<ResultLabel, Counter>,
    undone: Family<Undone, Counter>,
    unauthenticated: Family<Why, Counter>,
    reloads: Family<ResultLabel, Counter>,
    reload_ok: Gauge,
    audited: Family<ResultLabel, Counter>,
    certificate_ends: Gauge,
    client_ca_ends: Gauge,
    nats_credentials_end: Family<CredentialLabel, Gauge>,
    written: Family<OutcomeLabel, Counter>,
    published: Family<ResultLabel, Counter>,
    publish_seconds: Histogram,
    /// Locked for one scrape at a time.
    streams: Arc<Mutex<StreamGauges>>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            answered: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
            watches: Gauge::default(),
            watches_lagged: Counter::default(),
            connected: Family::default(),
            turned_away: Family::default(),
            silent: Gauge::default(),
            effects: Family::default(),
            undone: Family::default(),
            unauthenticated: Family::default(),
            reloads: Family::default(),
            reload_ok: Gauge::default(),
            audited: Family::default(),
            certificate_ends: Gauge::default(),
            client_ca_ends: Gauge::default(),
            nats_credentials_end: Family::default(),
            written: Family::default(),
            published: Family::default(),
            publish_seconds: Histogram::new(SECONDS),
            streams: Arc::default(),
        };
        metrics.reload_ok.set(1);
        let mut registry = Registry::default();
        let started = Clock.unix_seconds();
        registry.register_collector(Box::new(Process { started }));
        let own = registry.sub_registry_with_prefix("lattice_gateway");
        metrics.register_calls(own);
        metrics.register_lattices(own);
        metrics.register_process(own);
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register_calls(&self, registry: &mut Registry) {
        registry.register(
            "rpc",
            "Calls answered, by method and the name of the gRPC code",
            self.answered.clone(),
        );
        registry.register(
            "rpc_duration_seconds",
            "Time until the answer",
            self.seconds.clone(),
        );
        registry.register("rpc_in_flight", "Calls in flight", self.in_flight.clone());
        registry.register("watches", "Watches that are open", self.watches.clone());
        registry.register(
            "watches_lagged",
            "Watches that were ended since their clients read too slowly",
            self.watches_lagged.clone(),
        );
        registry.register(
            "unauthenticated",
            "Requests without a caller, by what was wrong with their credentials",
            self.unauthenticated.clone(),
        );
    }

    fn register_lattices(&self, registry: &mut Registry) {
        registry.register(
            "nats_connected",
            "1 while connected to NATS, by upstream",
            self.connected.clone(),
        );
        registry.register(
            "turned_away",
            "Calls that were refused before anything was sent to NATS: too many wait, or the lattice's stream does not answer",
            self.turned_away.clone(),
        );
        registry.register(
            "streams_silent",
            "Streams of lattices that do not answer, whether NATS is connected or not",
            self.silent.clone(),
        );
        registry.register(
            "effects",
            "Notices to providers and events, by what became of them",
            self.effects.clone(),
        );
        registry.register(
            "link_edits_undone",
            "Edits of interface links that a host undid, by whether they were acknowledged by then; those before are applied again",
            self.undone.clone(),
        );
        registry.register(
            "writes",
            "Mutations carried out, by outcome; REFUSED are those known not to be applied",
            self.written.clone(),
        );
        registry.register(
            "publishes",
            "Publishes, by what became of them",
            self.published.clone(),
        );
        registry.register(
            "publish_duration_seconds",
            "Time until JetStream acknowledged a publish that is stored",
            self.publish_seconds.clone(),
        );
        for (name, help, gauges) in self.streams.lock().all() {
            registry.register(name, help, gauges.clone());
        }
    }

    fn register_process(&self, registry: &mut Registry) {
        registry.register(
            "build",
            "1, with the gateway's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "config_reloads",
            "Changes of the configuration, by whether they were taken over",
            self.reloads.clone(),
        );
        registry.register(
            "config_is_current",
            "1 while the gateway runs with what its configuration files say, 0 once they do not parse",
            self.reload_ok.clone(),
        );
        registry.register(
            "audit_records",
            "Records of attempts to change something, by whether they were written; one that waits is counted at each try",
            self.audited.clone(),
        );
        registry.register(
            "tls_certificate_not_after_seconds",
            "When the listener's certificate ends, Unix seconds; 0 without TLS",
            self.certificate_ends.clone(),
        );
        registry.register(
            "tls_client_ca_not_after_seconds",
            "When the first of those who sign clients' certificates ends, Unix seconds; 0 without any",
            self.client_ca_ends.clone(),
        );
        registry.register(
            "nats_credential_not_after_seconds",
            "When what the gateway shows to NATS ends, Unix seconds; left out where it does not",
            self.nats_credentials_end.clone(),
        );
    }

    /// A mutation has come to its end.
    pub fn written(&self, outcome: &'static str) {
        self.written.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A publish has come to its end.
    pub fn published(&self, result: &'static str) {
        self.published.get_or_create(&ResultLabel { result }).inc();
    }

    /// A publish was acknowledged.
    pub fn acknowledged_within(&self, time: Duration) {
        self.publish_seconds.observe(time.as_secs_f64());
    }

    /// Notes when the listener's certificate ends, Unix seconds.
    pub fn certificate_ends(&self, unix_seconds: i64) {
        self.certificate_ends.set(unix_seconds);
    }

    /// Notes when the first of the clients' authorities ends, Unix seconds.
    pub fn client_ca_ends(&self, unix_seconds: Option<i64>) {
        self.client_ca_ends.set(unix_seconds.unwrap_or(0));
    }

    /// Notes when what the gateway shows to an upstream of the configuration ends, Unix seconds; `None` where it does not.
    pub fn nats_credential_ends(&self, upstream: &str, credential: &'static str, unix_seconds: Option<i64>) {
        let label = CredentialLabel {
            upstream: upstream.to_owned(),
            credential,
        };
        match unix_seconds {
            Some(unix_seconds) => {
                self.nats_credentials_end.get_or_create(&label).set(unix_seconds);
            }
            None => {
                self.nats_credentials_end.remove(&label);
            }
        }
    }

    /// Counts a record of an attempt to change something.
    pub fn audited(&self, is_written: bool) {
        let result = if is_written { "written" } else { "failed" };
        self.audited.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a change of the configuration.
    pub fn reloaded(&self, is_taken_over: bool) {
        let result = if is_taken_over { "taken-over" } else { "refused" };
        self.reloads.get_or_create(&ResultLabel { result }).inc();
        self.reload_ok.set(i64::from(is_taken_over));
    }

    /// Counts a request that has no caller.
    pub fn unauthenticated(&self, unauthenticated: Unauthenticated) {
        let why = match unauthenticated {
            Unauthenticated::Missing => "missing",
            Unauthenticated::Invalid(_) => "invalid",
            Unauthenticated::Unavailable => "unavailable",
        };
        self.unauthenticated.get_or_create(&Why { why }).inc();
    }

    /// A call has begun; it has ended when what this gives is dropped.
    pub fn under_way(&self) -> UnderWay {
        self.in_flight.inc();
        UnderWay(self.in_flight.clone())
    }

    /// A watch has begun; it has ended when what this gives is dropped.
    pub fn watching(&self) -> UnderWay {
        self.watches.inc();
        UnderWay(self.watches.clone())
    }

    /// A watch is ended for being too slow.
    pub fn watch_lagged(&self) {
        self.watches_lagged.inc();
    }

    /// A call was answered.
    pub fn answered(&self, method: &'static str, code: &'static str, time: Duration) {
        self.answered.get_or_create(&MethodCode { method, code }).inc();
        self.seconds
            .get_or_create(&Method { method })
            .observe(time.as_secs_f64());
    }

    /// A call was refused before anything was sent.
    pub fn turned_away(&self, why: TurnedAway) {
        let why = match why {
            TurnedAway::Overloaded => "overloaded",
            TurnedAway::Silent => "silent",
        };
        self.turned_away.get_or_create(&TurnedAwayLabel { why }).inc();
    }

    /// A lattice's stream does not answer, or does so again.
    pub fn silent(&self, is_silent: bool) {
        match is_silent {
            true => self.silent.inc(),
            false => self.silent.dec(),
        };
    }

    /// Others were told of a write, or were not.
    pub fn effect(&self, effect: Effect) {
        let result = match effect {
            Effect::Sent => "sent",
            Effect::NotConnected => "not_connected",
            Effect::Unseen => "unseen",
            Effect::NoSubject => "no_subject",
        };
        self.effects.get_or_create(&ResultLabel { result }).inc();
    }

    /// A host undid an edit of an interface link; where that is noticed in time it is applied again.
    pub fn edit_undone(&self, is_in_time: bool) {
        let when = if is_in_time { "before" } else { "after" };
        let label = Undone {
            acknowledgement: when,
        };
        self.undone.get_or_create(&label).inc();
    }

    /// Whether an upstream of the configuration is connected.
    pub fn connected(&self, upstream: &str, is_connected: bool) {
        let upstream = upstream.to_owned();
        let connected = self.connected.get_or_create(&UpstreamLabel { upstream });
        connected.set(i64::from(is_connected));
    }

    /// In the `OpenMetrics` text form, with these streams.
    pub fn render(&self, streams: Vec<StreamState>) -> String {
        let gauges = self.streams.lock();
        gauges.set(streams);
        let mut text = String::new();
        // Writing to a string cannot fail.
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

/// A call or a watch that has begun and not ended.
#[derive(Debug)]
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
