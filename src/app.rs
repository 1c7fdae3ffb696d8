//! The composition root: connects, builds the services, serves, and drains. Nothing else constructs anything.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use futures_util::{FutureExt, future::select_all};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use crate::{
    audit::Audit,
    auth::{Names, authenticate::Authenticator},
    config::{CallLimits, Config, NatsConfig},
    control::{
        Clock, Control, ControlError, Deadline, Lattices,
        effects::Effects,
        lattices::{LatticesConfig, Upstream, Upstreams},
        mutate::BODY_BYTES_MAX,
    },
    domain::{claims_token, identifier, interface_link, link_definition, nkey::Nkey, oci_reference},
    proto::Limits,
    reload::Reloader,
    rpc::{self, Gateway, ServerInfo, answers::Answers, apply, convert, http::Front, layers, server},
    store::{
        api::JetStream,
        connection::{ConnectError, Connection, ConnectionConfig, Status},
    },
    telemetry::Metrics,
};

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}; is another gateway running there? choose another with `{flag}`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Attempts to change something cannot be recorded.
    #[error("{0}")]
    Audit(String),
    /// NATS cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    lame_duck: Duration,
    leaving: CancellationToken,
    drain: CancellationToken,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    tasks: TaskTracker,
    upstreams: Upstreams,
    health: HealthReporter,
}

/// The upstream of `[nats]`, as metrics name it.
const DEFAULT_UPSTREAM: &str = "default";
/// How long no connection is accepted at start while a NATS is not connected: calls would be refused that can be answered
/// a moment later, and clients that spread their calls would prefer whoever refuses fastest.
const FIRST_CONNECT: Duration = Duration::from_secs(2);
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(3);
const PROVISION_PAUSE: Duration = Duration::from_secs(1);
/// How long one attempt to provision at start may take.
const PROVISION_PATIENCE: Duration = Duration::from_secs(30);

/// Starts everything.
pub async fn start(config: Config) -> Result<Running, RunError> {
    let listener = bind(config.listen, "--listen").await?;
    let admin_listener = bind(config.admin_listen, "--admin-listen").await?;
    let (grpc, admin) = (
        local_addr(&listener, &config),
        admin_addr(&admin_listener, &config),
    );
    let upstreams = upstreams(&config).await?;

    let leaving = CancellationToken::new();
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let metrics = Metrics::new();
    if let Some(tls) = &config.tls {
        tls.tell(&metrics);
    }
    let lattices = lattices_config(&config, upstreams.clone(), &metrics);
    let lattices = Arc::new(Lattices::new(lattices, tasks.clone(), stop.clone()));
    let audit = audit(&config, &metrics)?;
    let authenticator = Arc::new(Authenticator::new(
        Arc::clone(&config.callers),
        Arc::clone(&config.jwts),
    ));
    let admission = Arc::new(layers::Admission {
        authenticator: Arc::clone(&authenticator),
        clock: Clock,
        audit,
        in_flight: Arc::new(Semaphore::new(config.calls.in_flight_max)),
        watches: Arc::new(Semaphore::new(config.calls.watches_max)),
        of_streams: layers::places_of_streams(config.calls.in_flight_max),
        of_changes: layers::places_of_changes(config.calls.in_flight_max),
        answers: Answers::default(),
        default_deadline: config.calls.default_deadline,
        deadline_max: config.calls.deadline_max,
        draining: drain.clone(),
        metrics: metrics.clone(),
    });
    let gateway = Gateway {
        control: Control::new(Arc::clone(&lattices), Clock),
        policy: Arc::new(config.policy.clone()),
        info: Arc::new(ServerInfo {
            limits: limits(),
            default_deadline: config.calls.default_deadline,
        }),
        admission: Arc::clone(&admission),
    };
    let health = HealthReporter::new();
    let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let routes = rpc::routes(&gateway, health_service, config.reflection);
    let front = Front::new(routes, Arc::clone(&admission), config.http.as_ref());

    if let Some(reload) = reload(&config, authenticator, &metrics) {
        tasks.spawn(stop.clone().run_until_cancelled_owned(reload));
    }
    let readiness = Readiness {
        upstreams: upstreams.clone(),
        lattices: Arc::clone(&lattices),
        leaving: leaving.clone(),
        metrics,
    };
    spawn_admin(&tasks, admin_listener, readiness.clone(), stop.clone());
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(tell_health(readiness, health.clone())),
    );
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(provision(lattices, config.provision_at_start)),
    );
    let serve = server::serve(
        listener,
        front,
        config.connections,
        config.tls.clone(),
        drain.clone(),
        quiet(admission, config.calls.clone(), drain.clone()),
    );
    let first_connected = first_connected(upstreams.clone(), drain.clone());
    let serving = tokio::spawn(first_connected.then(|()| serve));
    info!(%grpc, %admin, "serving");
    Ok(Running {
        grpc,
        admin,
        lame_duck: config.lame_duck,
        leaving,
        drain,
        stop,
        serving,
        tasks,
        upstreams,
        health,
    })
}

impl Running {
    /// Resolves once every NATS is connected.
    pub async fn connected(&self) {
        connected(self.upstreams.clone()).await;
    }

    /// Drains and stops: health first says `NOT_SERVING`, calls are taken until that was heard, those in flight finish, then
    /// everything ends. Within `lame_duck`, the drain timeout and 4 seconds.
    pub async fn shut_down(self) {
        info!("draining");
        self.leaving.cancel();
        for service in rpc::SERVICES.into_iter().chain([""]) {
            let status = tonic_health::ServingStatus::NotServing;
            self.health.set_service_status(service, status).await;
        }
        sleep(self.lame_duck).await;
        self.drain.cancel();
        if let Err(error) = self.serving.await {
            error!(%error, "the server failed");
        }
        self.stop.cancel();
        self.tasks.close();
        if timeout(TASKS_END_TIMEOUT, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "tasks were left behind");
        }
        for connection in self.upstreams.iter().flat_map(Upstream::connections) {
            connection.close().await;
        }
        info!("stopped");
    }
}

/// The limits that are enforced, as `GetServerInfo` tells them.
fn limits() -> Limits {
    let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    Limits {
        lattice_bytes_max: number(identifier::LATTICE_BYTES_MAX),
        link_name_bytes_max: number(identifier::LINK_NAME_BYTES_MAX),
        contract_id_bytes_max: number(identifier::CONTRACT_ID_BYTES_MAX),
        oci_url_bytes_max: number(oci_reference::OCI_URL_BYTES_MAX),
        values_max: number(link_definition::VALUES_MAX),
        value_key_characters_max: number(link_definition::VALUE_KEY_CHARACTERS_MAX),
        body_bytes_max: number(BODY_BYTES_MAX),
        claims_token_bytes_max: number(claims_token::TOKEN_BYTES_MAX),
        message_bytes_max: number(rpc::MESSAGE_BYTES_MAX),
        page_size_max: number(convert::PAGE_SIZE_MAX),
        component_id_bytes_max: number(interface_link::COMPONENT_ID_BYTES_MAX),
        wit_name_bytes_max: number(interface_link::WIT_NAME_BYTES_MAX),
        config_name_bytes_max: number(interface_link::CONFIG_NAME_BYTES_MAX),
        link_list_max: number(interface_link::LINK_LIST_MAX),
        manifest_operations_max: number(apply::MANIFEST_OPERATIONS_MAX),
    }
}

/// Begins to connect to every NATS of the configuration.
async fn upstreams(config: &Config) -> Result<Upstreams, ConnectError> {
    let first = upstream(DEFAULT_UPSTREAM, &config.nats, config.lattices.on(None)).await?;
    let mut others = Vec::new();
    for (name, nats) in &config.upstreams {
        others.push(upstream(name, nats, config.lattices.on(Some(name))).await?);
    }
    Ok(Upstreams { first, others })
}

/// Takes over what changes in the files of the configuration, where it has any.
fn reload(
    config: &Config,
    authenticator: Arc<Authenticator>,
    metrics: &Metrics,
) -> Option<impl Future<Output = ()> + use<>> {
    let reloader = Reloader {
        file: config.file.clone()?,
        authenticator,
        tls: config.tls.clone(),
        metrics: metrics.clone(),
    };
    Some(reloader.watch(config.clone()))
}

/// Resolves once every NATS is connected, [`FIRST_CONNECT`] is over, or the server drains.
async fn first_connected(upstreams: Upstreams, drain: CancellationToken) {
    tokio::select! {
        () = connected(upstreams) => {}
        () = sleep(FIRST_CONNECT) => {}
        () = drain.cancelled() => {}
    }
}

async fn connected(upstreams: Upstreams) {
    for connection in upstreams.iter().flat_map(Upstream::connections) {
        connection.connected().await;
    }
}

async fn upstream(name: &str, nats: &NatsConfig, serves: Names) -> Result<Upstream, ConnectError> {
    let connection_config = |purpose: &str| ConnectionConfig {
        servers: nats.servers.clone(),
        credentials: nats.credentials.clone(),
        ca_file: nats.ca_file.clone(),
        certificate: nats.certificate.clone(),
        name: format!("lattice-gateway {purpose}"),
    };
    let requests = Connection::open(&connection_config("requests")).await?;
    Ok(Upstream {
        name: name.into(),
        api: JetStream::new(requests, nats.domain.as_deref()),
        deliveries: Connection::open(&connection_config("deliveries")).await?,
        serves,
    })
}

fn lattices_config(config: &Config, upstreams: Upstreams, metrics: &Metrics) -> LatticesConfig {
    LatticesConfig {
        upstreams,
        instance: uuid::Uuid::now_v7().simple().to_string().into(),
        settings: config.lattices.clone(),
        create_on_write: config.create_on_write,
        ack_timeout: config.calls.ack_timeout,
        queue_time: config.calls.queue_time,
        clock: Clock,
        effects: Effects {
            source: Arc::new(config.host_key.clone().unwrap_or_else(Nkey::new_host)),
            metrics: metrics.clone(),
        },
    }
}

fn audit(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Audit>>, RunError> {
    let opened = config
        .audit
        .clone()
        .map(|audit| Audit::open(audit, metrics.clone()));
    Ok(opened.transpose().map_err(RunError::Audit)?.map(Arc::new))
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Bind {
        address,
        flag,
        source,
    })
}

fn local_addr(listener: &TcpListener, config: &Config) -> SocketAddr {
    listener.local_addr().unwrap_or(config.listen)
}

fn admin_addr(listener: &TcpListener, config: &Config) -> SocketAddr {
    listener.local_addr().unwrap_or(config.admin_listen)
}

/// Resolves once the server drains, no call is in flight and no watch is open.
async fn quiet(admission: Arc<layers::Admission>, limits: CallLimits, drain: CancellationToken) {
    drain.cancelled().await;
    let places = [
        (&admission.in_flight, limits.in_flight_max),
        (&admission.watches, limits.watches_max),
    ];
    for (places, max) in places {
        let all = u32::try_from(max).unwrap_or(u32::MAX);
        // All places are free when nobody has one. The semaphores are never closed.
        drop(places.acquire_many(all).await);
    }
}

/// What `/readyz` and gRPC health tell.
#[derive(Clone, Debug)]
struct Readiness {
    upstreams: Upstreams,
    lattices: Arc<Lattices>,
    /// Cancelled once the gateway goes, though it still takes calls.
    leaving: CancellationToken,
    metrics: Metrics,
}

impl Readiness {
    /// What each upstream is doing, in their order.
    fn statuses(&self) -> Vec<(&str, Status)> {
        let status = |upstream: &Upstream| {
            let [requests, deliveries] = upstream.connections().map(Connection::status);
            if requests == Status::Connected {
                deliveries
            } else {
                requests
            }
        };
        let upstreams = self.upstreams.iter();
        upstreams
            .map(|upstream| (&*upstream.name, status(upstream)))
            .collect()
    }

    /// With one upstream connected the gateway has something to serve.
    fn why_not(&self) -> Option<String> {
        if self.leaving.is_cancelled() {
            return Some("draining".to_owned());
        }
        let statuses = self.statuses();
        if statuses.iter().any(|(_, status)| *status == Status::Connected) {
            return None;
        }
        let told = statuses.into_iter().map(|(name, status)| match status {
            Status::TooOld(version) => format!("{name}: nats-server {version} is older than 2.10.20"),
            Status::Connected | Status::Away => format!("{name}: not connected to NATS"),
        });
        Some(told.collect::<Vec<_>>().join("; "))
    }
}

fn spawn_admin(tasks: &TaskTracker, listener: TcpListener, readiness: Readiness, stop: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness);
    tasks.spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await;
        if let Err(error) = served {
            error!(%error, "health and metrics are not served");
        }
    });
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.why_not() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(readiness): State<Readiness>) -> ([(&'static str, &'static str); 1], String) {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (upstream, status) in readiness.statuses() {
        readiness.metrics.connected(upstream, status == Status::Connected);
    }
    for upstream in readiness.upstreams.iter() {
        for (credential, ends) in upstream.api.connection().credentials_end() {
            readiness
                .metrics
                .nats_credential_ends(&upstream.name, credential, ends);
        }
    }
    (
        [("content-type", OPEN_METRICS)],
        readiness.metrics.render(readiness.lattices.streams()),
    )
}

/// Keeps gRPC health as readiness is.
async fn tell_health(readiness: Readiness, health: HealthReporter) {
    let mut told = None;
    let connections = readiness.upstreams.iter().flat_map(Upstream::connections);
    let connections = connections.collect::<Vec<_>>();
    loop {
        let statuses = connections
            .iter()
            .map(|connection| connection.status())
            .collect::<Vec<_>>();
        let is_ready = readiness.why_not().is_none();
        if told != Some(is_ready) && !readiness.leaving.is_cancelled() {
            let status = match is_ready {
                true => tonic_health::ServingStatus::Serving,
                false => tonic_health::ServingStatus::NotServing,
            };
            for service in rpc::SERVICES.into_iter().chain([""]) {
                health.set_service_status(service, status).await;
            }
            told = Some(is_ready);
        }
        let changes = connections.iter().zip(&statuses);
        let changes = changes.map(|(connection, status)| Box::pin(connection.no_longer(status)));
        select_all(changes).await;
    }
}

/// Creates what is configured to be there, once NATS is.
async fn provision(
    lattices: Arc<Lattices>,
    wanted: Vec<(crate::domain::LatticeName, crate::control::lattices::NewLattice)>,
) {
    for (lattice, new) in wanted {
        loop {
            let upstream = lattices.upstream(&lattice);
            upstream.api.connection().connected().await;
            let deadline = Deadline::within(PROVISION_PATIENCE);
            match lattices.provision_new(&lattice, new, deadline).await {
                Ok(_plans) => break,
                Err(ControlError::BackendUnavailable { .. } | ControlError::ProvisionUnknown) => {
                    sleep(PROVISION_PAUSE).await;
                }
                Err(error) => {
                    error!(%lattice, %error, "the lattice was not provisioned");
                    break;
                }
            }
        }
    }
}
