//! Settings: from a file and the environment into a checked [`Config`], with every mistake told at once.
//!
//! The only module that reads the environment. `LATTICE_GATEWAY_<SECTION>_<KEY>` overrides the file's `[section] key`
//! for the sections `server`, `tls`, `nats`, `log` and `audit`.

mod callers;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;

use self::callers::{RawCaller, RawCallers};
use crate::{
    audit::{AuditConfig, Destination, OnFailure},
    auth::{
        Pattern, Policy,
        callers::Callers,
        jwt::{Algorithm, JwtIssuer, JwtVerifier, KeySource, LEEWAY_DEFAULT},
    },
    control::lattices::{LatticeSettings, NewLattice, Settings, Storage},
    domain::{
        LatticeName,
        claims_token::TrustedIssuers,
        nkey::{Nkey, NkeyKind},
    },
    rpc::{
        http::{HttpSettings, Origins},
        server::ConnectionLimits,
        tls::{ClientCertificates, Tls, TlsConfig, TlsVersion},
    },
    store::{
        connection::Credentials,
        layout::{ClaimsForm, Layout},
    },
    telemetry::{LogFormat, traces::TracesConfig},
};

/// What environment variables begin with.
pub const ENV_PREFIX: &str = "LATTICE_GATEWAY_";

/// Everything that the server needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC is served; a loopback address unless there is TLS.
    pub listen: SocketAddr,
    /// Where health and metrics are served, to whoever asks; they name no caller and no lattice.
    pub admin_listen: SocketAddr,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// How HTTP/JSON and gRPC-Web are served, where they are.
    pub http: Option<HttpSettings>,
    /// Bounds on calls.
    pub calls: CallLimits,
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// How long calls are still taken, and answered, once health has said that the gateway goes: until load balancers have
    /// heard it.
    pub lame_duck: Duration,
    /// Where NATS is, for lattices that name no upstream.
    pub nats: NatsConfig,
    /// Where it is for the others, by name.
    pub upstreams: BTreeMap<String, NatsConfig>,
    /// Which lattices are served.
    pub policy: Policy,
    /// Who may do what.
    pub callers: Arc<Callers>,
    /// Who may name callers by JWTs.
    pub jwt_issuers: Vec<JwtIssuer>,
    /// Verifies their JWTs.
    pub jwts: Arc<JwtVerifier>,
    /// Where it was read from; none of `dev`.
    pub file: Option<PathBuf>,
    /// The file that holds the callers, where they have one of their own.
    pub callers_file: Option<PathBuf>,
    /// What is configured for lattices.
    pub lattices: Settings,
    /// Lattices that are provisioned at start.
    pub provision_at_start: Vec<(LatticeName, NewLattice)>,
    /// Whether the first write to a lattice creates its stream; `dev` on its own server.
    pub create_on_write: Option<NewLattice>,
    /// Who the lattice's events say they are from; without one, a key is made at every start.
    pub host_key: Option<Nkey>,
    /// What connections are secured with; nothing of `dev`.
    pub tls: Option<Arc<Tls>>,
    /// Where attempts to change something are recorded; nowhere where that is not configured.
    pub audit: Option<AuditConfig>,
    /// How logs are written.
    pub log: LogConfig,
    /// Where traces go; nowhere where that is not configured.
    pub traces: Option<TracesConfig>,
}

/// Bounds on calls.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// Calls in flight; the next one is refused with `OVERLOADED`.
    pub in_flight_max: usize,
    /// Watches that are open; the next one is refused with `OVERLOADED`.
    pub watches_max: usize,
    /// The deadline of a call that sends none.
    pub default_deadline: Duration,
    /// The longest deadline.
    pub deadline_max: Duration,
    /// How long one publish waits for JetStream's acknowledgement before the outcome is looked up.
    pub ack_timeout: Duration,
    /// How long a call may have to wait for its turn at a stream that always has as much as it takes; where it would be longer, it
    /// is refused with `OVERLOADED`.
    pub queue_time: Duration,
}

/// Where NATS is.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// `nats://host:port`, several comma-separated.
    pub servers: String,
    /// What the gateway shows.
    pub credentials: Option<Credentials>,
    /// Who signs the servers' certificates.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The JetStream domain, where the lattices are in one.
    pub domain: Option<String>,
}

/// How logs are written.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// What is logged, such as `info` or `lattice_gateway=debug,warn`.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

/// Why there is no configuration: every mistake, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    server: RawServer,
    nats: RawNats,
    upstreams: BTreeMap<String, RawNats>,
    log: RawLog,
    traces: Option<RawTraces>,
    tls: Option<RawTls>,
    audit: Option<RawAudit>,
    lattices: BTreeMap<String, RawLattice>,
    jwt: BTreeMap<String, RawJwtIssuer>,
    callers_file: Option<PathBuf>,
    callers: BTreeMap<String, RawCaller>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawServer {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    reflection: bool,
    http: bool,
    cors_origins: String,
    in_flight_max: usize,
    watches_max: usize,
    default_deadline: String,
    deadline_max: String,
    ack_timeout: String,
    queue_time: String,
    connections_max: usize,
    connections_per_address_max: usize,
    streams_max: u32,
    first_call_within: String,
    connection_age_max: String,
    lame_duck: String,
    drain_timeout: String,
    host_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawNats {
    servers: String,
    credentials_file: Option<PathBuf>,
    nkey_seed_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    domain: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    filter: String,
    format: LogFormat,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwtIssuer {
    issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    leeway: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: Option<PathBuf>,
    client_certificates: Option<ClientCertificates>,
    #[serde(default)]
    minimum_version: TlsVersion,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    to: PathBuf,
    #[serde(default)]
    on_failure: RawOnFailure,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawOnFailure {
    #[default]
    Refuse,
    Continue,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTraces {
    endpoint: String,
    #[serde(default = "a_hundredth")]
    sample: f64,
    #[serde(default = "own_name")]
    service_name: String,
}

fn a_hundredth() -> f64 {
    0.01
}

fn own_name() -> String {
    env!("CARGO_PKG_NAME").to_owned()
}

impl RawTraces {
    fn read(&self, mistakes: &mut Vec<String>) -> TracesConfig {
        let has_scheme = ["http://", "https://"].map(|scheme| self.endpoint.starts_with(scheme));
        if !has_scheme.contains(&true) || self.endpoint.parse::<http::Uri>().is_err() {
            mistakes.push(format!(
                "traces.endpoint: {:?} is no URL; write it as `http://127.0.0.1:4317`",
                self.endpoint
            ));
        }
        if !(0.0..=1.0).contains(&self.sample) {
            mistakes.push("traces.sample: must be from 0 to 1".to_owned());
        }
        TracesConfig {
            endpoint: self.endpoint.clone(),
            sample: self.sample,
            service_name: self.service_name.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawLayout {
    CacheStream,
    Kv,
    Component,
}

impl From<RawLayout> for Layout {
    fn from(layout: RawLayout) -> Self {
        match layout {
            RawLayout::CacheStream => Self::CacheStream,
            RawLayout::Kv => Self::Kv,
            RawLayout::Component => Self::Component,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawStorage {
    Memory,
    File,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLattice {
    trusted_issuers: Vec<String>,
    layout: Option<RawLayout>,
    provision: Option<RawStorage>,
    #[serde(default = "yes")]
    sweep: bool,
    #[serde(default = "yes")]
    effects: bool,
    settle: Option<String>,
    #[serde(default)]
    claims_form: RawClaimsForm,
    upstream: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawClaimsForm {
    #[default]
    Short,
    Long,
}

/// Hosts' overwrites came within 7 ms of what they undid (measured on wasmCloud 1.9.2).
const SETTLE_DEFAULT: Duration = Duration::from_millis(20);
const SETTLE_MAX: Duration = Duration::from_secs(5);

fn yes() -> bool {
    true
}

impl Default for RawServer {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            reflection: false,
            http: true,
            cors_origins: String::new(),
            in_flight_max: 4_096,
            watches_max: 20_000,
            default_deadline: "10s".to_owned(),
            deadline_max: "60s".to_owned(),
            ack_timeout: "2s".to_owned(),
            queue_time: "250ms".to_owned(),
            connections_max: 1_024,
            connections_per_address_max: 256,
            streams_max: 256,
            first_call_within: "30s".to_owned(),
            connection_age_max: "30m".to_owned(),
            lame_duck: "100ms".to_owned(),
            drain_timeout: "25s".to_owned(),
            host_key: None,
        }
    }
}

impl Default for RawNats {
    fn default() -> Self {
        Self {
            servers: "nats://127.0.0.1:4222".to_owned(),
            credentials_file: None,
            nkey_seed_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            domain: None,
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            // What its client says of a connection is told with the servers' addresses already.
            filter: "info,async_nats=warn".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Config {
    /// What `serve` runs with: this file, overridden by the process's environment.
    pub fn read(file: &std::path::Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError(vec![format!("cannot read {}: {error}", file.display())]))?;
        Ok(Self {
            file: Some(file.to_owned()),
            ..Self::parse(&text, environment())?
        })
    }

    /// What `serve` runs with: the text of `gateway.toml`, overridden by `environment`.
    pub fn parse(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let one = |error: String| ConfigError(vec![error]);
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| one(error.to_string()))?;
        overlay(&mut table, environment)?;
        let mut raw = RawConfig::deserialize(table).map_err(|error| one(error.to_string()))?;
        let mut mistakes = Vec::new();
        let callers = callers_of(&mut raw, &mut mistakes);
        let (jwt_issuers, jwts) = jwts_of(&raw.jwt, &mut mistakes);
        let lattices = lattice_settings(&raw.lattices, &mut mistakes);
        for (name, lattice) in &raw.lattices {
            if let Some(upstream) = lattice
                .upstream
                .as_ref()
                .filter(|name| !raw.upstreams.contains_key(*name))
            {
                mistakes.push(format!(
                    "lattices.{name}.upstream: there is no table [upstreams.{upstream}]"
                ));
            }
        }
        if raw.lattices.is_empty() {
            mistakes.push("lattices: none is configured; add a table such as [lattices.default]".to_owned());
        }
        let config = Self {
            callers: Arc::new(callers),
            jwt_issuers,
            jwts: Arc::new(jwts),
            ..Self::assemble(&raw, lattices, &mut mistakes)
        };
        match mistakes.is_empty() {
            true => Ok(config),
            false => Err(ConfigError(mistakes)),
        }
    }

    /// What `dev` runs with: every lattice, every verb, every issuer.
    pub fn dev(nats_servers: String, create_on_write: Option<NewLattice>) -> Self {
        let mut raw = RawConfig::default();
        raw.nats.servers = nats_servers;
        raw.server.reflection = true;
        // Who tries it out is rather kept waiting than refused.
        "10s".clone_into(&mut raw.server.queue_time);
        let everything = LatticeSettings {
            trusted_issuers: TrustedIssuers::Any,
            layout: None,
            sweep: true,
            effects: true,
            settle: SETTLE_DEFAULT,
            claims_form: ClaimsForm::default(),
            upstream: None,
        };
        let lattices = Settings(vec![("*".to_owned(), Arc::new(everything))]);
        let http = HttpSettings {
            only_as_this_machine: true,
            ..HttpSettings::default()
        };
        Self {
            policy: Policy::serving(["*"]),
            http: Some(http),
            create_on_write,
            ..Self::assemble(&raw, lattices, &mut Vec::new())
        }
    }

    fn assemble(raw: &RawConfig, lattices: Settings, mistakes: &mut Vec<String>) -> Self {
        let server = &raw.server;
        let mut time = |name: &str, text: &str| {
            humantime::parse_duration(text).unwrap_or_else(|error| {
                mistakes.push(format!("server.{name}: {error}; write it as `10s` or `30m`"));
                Duration::ZERO
            })
        };
        let calls = CallLimits {
            in_flight_max: server.in_flight_max,
            watches_max: server.watches_max,
            default_deadline: time("default_deadline", &server.default_deadline),
            deadline_max: time("deadline_max", &server.deadline_max),
            ack_timeout: time("ack_timeout", &server.ack_timeout),
            queue_time: time("queue_time", &server.queue_time),
        };
        let connections = ConnectionLimits {
            connections_max: server.connections_max,
            connections_per_address_max: server.connections_per_address_max,
            streams_max: server.streams_max,
            first_call_within: time("first_call_within", &server.first_call_within),
            age_max: time("connection_age_max", &server.connection_age_max),
            drain_timeout: time("drain_timeout", &server.drain_timeout),
        };
        let lame_duck = time("lame_duck", &server.lame_duck);
        for (name, count) in [
            ("in_flight_max", server.in_flight_max),
            ("watches_max", server.watches_max),
            ("connections_max", server.connections_max),
            ("connections_per_address_max", server.connections_per_address_max),
        ] {
            if count == 0 || count > MAX_COUNT {
                mistakes.push(format!("server.{name}: must be from 1 to {MAX_COUNT}"));
            }
        }
        if calls.default_deadline > calls.deadline_max {
            mistakes.push("server.default_deadline: is over server.deadline_max".to_owned());
        }
        let tls = raw.tls.as_ref().and_then(|tls| tls.load(server.http, mistakes));
        if raw.tls.is_none() {
            mistakes.extend(secured("listen", server.listen));
        }
        Self {
            listen: server.listen,
            admin_listen: server.admin_listen,
            reflection: server.reflection,
            http: server.http(mistakes),
            calls,
            connections,
            lame_duck,
            nats: raw.nats.read("nats", mistakes),
            upstreams: raw
                .upstreams
                .iter()
                .map(|(name, upstream)| {
                    let read = upstream.read(&format!("upstreams.{name}"), mistakes);
                    (name.clone(), read)
                })
                .collect(),
            policy: Policy::serving(raw.lattices.keys().map(String::as_str)),
            callers: Arc::new(Callers::anybody()),
            jwt_issuers: Vec::new(),
            jwts: Arc::default(),
            file: None,
            callers_file: raw.callers_file.clone(),
            provision_at_start: provisioned(&raw.lattices, mistakes),
            lattices,
            create_on_write: None,
            host_key: server.host_key.as_deref().and_then(|text| {
                Nkey::parse(text, &[NkeyKind::Host])
                    .map_err(|invalid| mistakes.push(format!("server.host_key: {invalid}")))
                    .ok()
            }),
            tls: tls.map(Arc::new),
            audit: raw.audit.as_ref().map(|audit| AuditConfig {
                destination: match audit.to.to_str() {
                    Some("stdout") => Destination::Stdout,
                    _ => Destination::File(audit.to.clone()),
                },
                on_failure: match audit.on_failure {
                    RawOnFailure::Refuse => OnFailure::Refuse,
                    RawOnFailure::Continue => OnFailure::Continue,
                },
            }),
            log: LogConfig {
                filter: raw.log.filter.clone(),
                format: raw.log.format,
            },
            traces: raw.traces.as_ref().map(|traces| traces.read(mistakes)),
        }
    }
}

const MAX_COUNT: usize = 1_000_000;

/// Credentials and what is answered are not sent in the clear beyond the machine.
pub fn secured(name: &str, address: SocketAddr) -> Option<String> {
    (!address.ip().is_loopback()).then(|| {
        format!(
            "server.{name}: {address} is not a loopback address, and beyond the machine only TLS is served; add a table \
             [tls] with certificate_file and key_file"
        )
    })
}

impl RawServer {
    fn http(&self, mistakes: &mut Vec<String>) -> Option<HttpSettings> {
        let origins = Origins::parse(&self.cors_origins)
            .map_err(|mistake| mistakes.push(format!("server.cors_origins: {mistake}")))
            .unwrap_or_default();
        if !self.http && !self.cors_origins.is_empty() {
            mistakes.push("server.cors_origins: needs server.http".to_owned());
        }
        self.http.then(|| HttpSettings {
            origins,
            only_as_this_machine: false,
        })
    }
}

impl RawNats {
    fn read(&self, section: &str, mistakes: &mut Vec<String>) -> NatsConfig {
        let credentials = match (&self.credentials_file, &self.nkey_seed_file) {
            (None, None) => None,
            (Some(file), None) => Some(Credentials::File(file.clone())),
            (None, Some(file)) => Some(Credentials::NkeySeed(file.clone())),
            (Some(_), Some(_)) => {
                mistakes.push(format!(
                    "{section}: give one of credentials_file and nkey_seed_file"
                ));
                None
            }
        };
        if let Some(Err(mistake)) = credentials.as_ref().map(|credentials| credentials.answer(&[])) {
            mistakes.push(format!("{section}: {mistake}"));
        }
        let certificate = self.certificate_file.clone().zip(self.key_file.clone());
        if self.certificate_file.is_some() != self.key_file.is_some() {
            mistakes.push(format!(
                "{section}: certificate_file and key_file need each other"
            ));
        }
        NatsConfig {
            servers: self.servers.clone(),
            credentials,
            ca_file: self.ca_file.clone(),
            certificate,
            domain: self.domain.clone(),
        }
    }
}

impl RawTls {
    fn load(&self, with_http1: bool, mistakes: &mut Vec<String>) -> Option<Tls> {
        let by_ca = match self.client_ca_file {
            Some(_) => ClientCertificates::Optional,
            None => ClientCertificates::Ignored,
        };
        let loaded = Tls::load(&TlsConfig {
            certificate_file: self.certificate_file.clone(),
            key_file: self.key_file.clone(),
            client_ca_file: self.client_ca_file.clone(),
            client_certificates: self.client_certificates.unwrap_or(by_ca),
            minimum_version: self.minimum_version,
            with_http1,
        });
        loaded
            .map_err(|own| mistakes.extend(own.into_iter().map(|mistake| format!("tls.{mistake}"))))
            .ok()
    }
}

/// Reads the process's environment.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Which safeguard the campaign leaves out.
#[cfg(feature = "campaign")]
pub(crate) fn safeguard_off() -> Option<String> {
    std::env::var_os("CAMPAIGN_SAFEGUARD_OFF")?.into_string().ok()
}

/// By how many seconds the campaign has stepped the wall clock.
#[cfg(feature = "campaign")]
pub(crate) fn clock_step() -> i64 {
    let file = std::env::var_os("CAMPAIGN_CLOCK_FILE");
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Where a nats-server may be: `$NATS_SERVER`, and the folders of `$PATH`.
pub fn nats_server_places() -> (Option<PathBuf>, Vec<PathBuf>) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).collect();
    let named = std::env::var_os("NATS_SERVER").filter(|named| !named.is_empty());
    (named.map(PathBuf::from), folders)
}

fn overlay(
    table: &mut toml::Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let mut mistakes = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let rest = rest.to_ascii_lowercase();
        let Some((section, key)) = rest
            .split_once('_')
            .filter(|(section, _)| ["server", "tls", "nats", "log", "audit"].contains(section))
        else {
            mistakes.push(format!(
                "{name}: is no setting; sections are SERVER, TLS, NATS, LOG and AUDIT"
            ));
            continue;
        };
        let section = table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(section) = section.as_table_mut() {
            section.insert(key.to_owned(), scalar(value));
        }
    }
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(ConfigError(mistakes)),
    }
}

/// The environment knows texts only; the file's types are wanted.
fn scalar(text: String) -> toml::Value {
    match (text.parse::<bool>(), text.parse::<i64>()) {
        (Ok(boolean), _) => boolean.into(),
        (_, Ok(number)) => number.into(),
        _ => text.into(),
    }
}

/// Takes the callers out, from the file that holds them.
fn callers_of(raw: &mut RawConfig, mistakes: &mut Vec<String>) -> Callers {
    let mut callers = std::mem::take(&mut raw.callers);
    if let Some(file) = &raw.callers_file {
        let read = std::fs::read_to_string(file)
            .map_err(|error| error.to_string())
            .and_then(|text| toml::from_str::<RawCallers>(&text).map_err(|error| error.to_string()));
        match read {
            Ok(read) if callers.is_empty() => callers = read.into_callers(),
            Ok(_) => mistakes.push("callers: are both here and in callers_file; keep one of them".to_owned()),
            Err(error) => mistakes.push(format!("callers_file: {}: {error}", file.display())),
        }
    }
    let issuers = raw.jwt.keys().map(String::as_str).collect::<Vec<_>>();
    callers::callers(callers, &issuers, mistakes)
}

fn jwts_of(
    raw: &BTreeMap<String, RawJwtIssuer>,
    mistakes: &mut Vec<String>,
) -> (Vec<JwtIssuer>, JwtVerifier) {
    let issuers = raw
        .iter()
        .filter_map(|(name, issuer)| issuer.read(name, mistakes))
        .collect::<Vec<_>>();
    let verifier = JwtVerifier::new(issuers.clone()).unwrap_or_else(|own| {
        mistakes.extend(own.into_iter().map(|mistake| format!("jwt.{mistake}")));
        JwtVerifier::default()
    });
    (issuers, verifier)
}

impl RawJwtIssuer {
    fn read(&self, name: &str, mistakes: &mut Vec<String>) -> Option<JwtIssuer> {
        let algorithms = callers::each(&self.algorithms, Algorithm::parse, mistakes, |text| {
            let known = Algorithm::ALL.map(Algorithm::as_str).join(", ");
            format!("jwt.{name}.algorithms: {text:?} is none; there are {known}")
        });
        let keys = match (&self.jwks_file, &self.jwks_url) {
            (Some(file), None) => Some(KeySource::File(file.clone())),
            (None, Some(url)) => Some(KeySource::Url(url.clone())),
            (None, None) | (Some(_), Some(_)) => {
                mistakes.push(format!("jwt.{name}: give one of jwks_file and jwks_url"));
                None
            }
        };
        let leeway = match self.leeway.as_deref().map(humantime::parse_duration) {
            None => LEEWAY_DEFAULT,
            Some(Ok(leeway)) => leeway,
            Some(Err(error)) => {
                mistakes.push(format!("jwt.{name}.leeway: {error}; write it as `30s`"));
                LEEWAY_DEFAULT
            }
        };
        Some(JwtIssuer {
            name: name.to_owned(),
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            algorithms,
            keys: keys?,
            leeway,
        })
    }
}

fn lattice_settings(raw: &BTreeMap<String, RawLattice>, mistakes: &mut Vec<String>) -> Settings {
    let mut settings = Vec::new();
    for (name, lattice) in raw {
        if !Pattern::is_of_lattices(name) {
            mistakes.push(format!(
                "lattices.{name:?}: is neither a lattice's name ([A-Za-z0-9_-], at most 63) nor a glob of one"
            ));
        }
        let settle = match lattice.settle.as_deref().map(humantime::parse_duration) {
            None => SETTLE_DEFAULT,
            Some(Ok(settle)) if settle <= SETTLE_MAX => settle,
            Some(Ok(_)) => {
                mistakes.push(format!("lattices.{name}.settle: must be at most 5s"));
                SETTLE_DEFAULT
            }
            Some(Err(error)) => {
                mistakes.push(format!("lattices.{name}.settle: {error}; write it as `20ms`"));
                SETTLE_DEFAULT
            }
        };
        match TrustedIssuers::parse(&lattice.trusted_issuers) {
            Ok(trusted_issuers) => settings.push((
                name.clone(),
                Arc::new(LatticeSettings {
                    trusted_issuers,
                    layout: lattice.layout.map(Layout::from),
                    sweep: lattice.sweep,
                    effects: lattice.effects,
                    settle,
                    claims_form: match lattice.claims_form {
                        RawClaimsForm::Short => ClaimsForm::Short,
                        RawClaimsForm::Long => ClaimsForm::Long,
                    },
                    upstream: lattice.upstream.as_deref().map(Into::into),
                }),
            )),
            Err(invalid) => mistakes.push(format!("lattices.{name}.trusted_issuers: {invalid}")),
        }
    }
    Settings(settings)
}

fn provisioned(
    raw: &BTreeMap<String, RawLattice>,
    mistakes: &mut Vec<String>,
) -> Vec<(LatticeName, NewLattice)> {
    let mut provisioned = Vec::new();
    for (name, lattice) in raw {
        let Some(storage) = lattice.provision else {
            continue;
        };
        let storage = match storage {
            RawStorage::Memory => Storage::Memory,
            RawStorage::File => Storage::File,
        };
        match LatticeName::parse(name) {
            Ok(name) => {
                let layout = lattice.layout.map_or(Layout::CacheStream, Layout::from);
                let storage = Some(storage);
                provisioned.push((name, NewLattice { layout, storage }));
            }
            Err(_glob) => mistakes.push(format!(
                "lattices.{name}.provision: needs an exact name, not a glob"
            )),
        }
    }
    provisioned
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [lattices.default]
        trusted_issuers = ["*"]
        [callers.ci]
        token_sha256 = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
        grants = [{ lattices = ["default"], verbs = ["read"] }]
    "#;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, environment)
    }

    #[test]
    fn the_minimal_file_is_enough() {
        let config = parse(MINIMAL, &[]).unwrap();
        assert_eq!(config.listen.port(), 7400);
        assert_eq!(config.calls.default_deadline, Duration::from_secs(10));
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = parse(
            &format!("{MINIMAL}[server]\nlisten = \"127.0.0.1:1\"\n"),
            &[
                ("LATTICE_GATEWAY_SERVER_LISTEN", "127.0.0.1:2"),
                ("LATTICE_GATEWAY_SERVER_IN_FLIGHT_MAX", "7"),
                ("LATTICE_GATEWAY_NATS_SERVERS", "nats://elsewhere:4222"),
                ("UNRELATED", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.calls.in_flight_max, 7);
        assert_eq!(config.nats.servers, "nats://elsewhere:4222");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = r#"
            [server]
            listen = "0.0.0.0:7400"
            default_deadline = "soon"
            host_key = "Nobody"
            in_flight_max = 0
            [lattices."bad.name"]
            trusted_issuers = ["not a key"]
            [lattices."team-*"]
            trusted_issuers = []
            provision = "memory"
            settle = "1h"
        "#;
        let mistakes = parse(text, &[]).unwrap_err().0;
        for named in [
            "server.listen",
            "server.default_deadline",
            "server.in_flight_max",
            "server.host_key",
            "lattices.\"bad.name\"",
            "lattices.bad.name.trusted_issuers",
            "lattices.team-*.provision",
            "lattices.team-*.settle",
        ] {
            assert!(
                mistakes.iter().any(|mistake| mistake.starts_with(named)),
                "{named}: {mistakes:?}"
            );
        }
    }

    /// The example is the reference of every setting: what it shows commented out is one, too.
    #[test]
    fn every_setting_of_the_example_exists() {
        let example = include_str!("../gateway.example.toml");
        parse(example, &[]).unwrap();
        let is_setting = |line: &str| {
            let name = line.split_once([' ', ']']).map_or("", |(name, _)| name);
            name.starts_with('[')
                || line
                    .split_once(" = ")
                    .is_some_and(|(name, _)| !name.contains(' '))
        };
        let all = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if is_setting(setting) => setting,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        assert!(all.contains("\nleeway =") && all.contains("\n[jwt.login]"));
        let mistakes = parse(&all, &[]).unwrap_err().0;
        for mistake in &mistakes {
            // What it names is not there; and it shows ways that exclude each other.
            let is_of_the_place = ["No such file", "give one of", "callers: are both"];
            assert!(
                is_of_the_place.iter().any(|place| mistake.contains(place))
                    || mistake.starts_with("server.host_key"),
                "{mistake}"
            );
        }
    }

    #[test]
    fn unknown_settings_and_missing_trust_are_refused() {
        assert!(parse(&format!("{MINIMAL}[server]\nlisten_on = 1\n"), &[]).is_err());
        assert!(parse("[lattices.default]\n", &[]).is_err());
        assert!(parse("", &[]).is_err());
        assert!(parse(MINIMAL, &[("LATTICE_GATEWAY_SERVR_LISTEN", "x")]).is_err());
    }
}
