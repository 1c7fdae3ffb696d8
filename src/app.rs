//! The composition root: connects, builds the services, serves, and drains. Nothing else constructs anything.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use crate::{
    audit::Audit,
    auth::authenticate::Authenticator,
    config::Config,
    control::{
        Clock, Control, ControlError, Lattices, effects::Effects, lattices::LatticesConfig,
        mutate::BODY_BYTES_MAX,
    },
    domain::{claims_token, identifier, link_definition, nkey::Nkey, oci_reference},
    proto::Limits,
    reload::Reloader,
    rpc::{self, Gateway, ServerInfo, convert, layers, server},
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
    drain: CancellationToken,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    tasks: TaskTracker,
    connections: [Connection; 2],
    health: HealthReporter,
}

/// Between telling load balancers and refusing calls.
const LAME_DUCK: Duration = Duration::from_millis(100);
const TASKS_END_TIMEOUT: Duration = Duration::from_secs(3);
const PROVISION_PAUSE: Duration = Duration::from_secs(1);

/// Starts everything.
pub async fn start(config: Config) -> Result<Running, RunError> {
    let listener = bind(config.listen, "--listen").await?;
    let admin_listener = bind(config.admin_listen, "--admin-listen").await?;
    let (grpc, admin) = (
        local_addr(&listener, &config),
        admin_addr(&admin_listener, &config),
    );
    let requests = Connection::open(&connection_config(&config, "requests")).await?;
    let deliveries = Connection::open(&connection_config(&config, "deliveries")).await?;

    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    let metrics = Metrics::new();
    if let Some(tls) = &config.tls {
        metrics.certificate_ends(tls.not_after_unix_seconds());
    }
    let lattices = lattices_config(&config, &requests, &deliveries, &metrics);
    let lattices = Arc::new(Lattices::new(lattices, tasks.clone(), stop.clone()));
    let gateway = Gateway {
        control: Control::new(Arc::clone(&lattices), Clock),
        policy: Arc::new(config.policy.clone()),
        info: Arc::new(ServerInfo {
            limits: limits(),
            default_deadline: config.calls.default_deadline,
        }),
    };
    let audit = audit(&config, &metrics)?;
    let authenticator = Arc::new(Authenticator::new(
        Arc::clone(&config.callers),
        Arc::clone(&config.jwts),
    ));
    let in_flight = Arc::new(Semaphore::new(config.calls.in_flight_max));
    let admission = layers::Admission {
        authenticator: Arc::clone(&authenticator),
        clock: Clock,
        audit,
        in_flight: Arc::clone(&in_flight),
        default_deadline: config.calls.default_deadline,
        deadline_max: config.calls.deadline_max,
        draining: drain.clone(),
        metrics: metrics.clone(),
    };
    let health = HealthReporter::new();
    let health_service = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let router = rpc::routes(&gateway, health_service, config.reflection)
        .into_axum_router()
        .layer(axum::middleware::from_fn_with_state(admission, layers::call));

    if let Some(file) = config.file.clone() {
        let metrics = metrics.clone();
        let reloader = Reloader {
            file,
            authenticator,
            tls: config.tls.clone(),
            metrics,
        };
        let watch = reloader.watch(config.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(watch));
    }
    let readiness = Readiness {
        connections: [requests.clone(), deliveries.clone()],
        draining: drain.clone(),
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
    let serving = tokio::spawn(server::serve(
        listener,
        router,
        config.connections,
        config.tls.clone(),
        drain.clone(),
        quiet(in_flight, config.calls.in_flight_max, drain.clone()),
    ));
    info!(%grpc, %admin, "serving");
    Ok(Running {
        grpc,
        admin,
        drain,
        stop,
        serving,
        tasks,
        connections: [requests, deliveries],
        health,
    })
}

impl Running {
    /// Resolves once NATS is connected.
    pub async fn connected(&self) {
        for connection in &self.connections {
            connection.connected().await;
        }
    }

    /// Drains and stops: health first says `NOT_SERVING`, calls in flight finish, then everything ends. Within the drain
    /// timeout and 4 seconds.
    pub async fn shut_down(self) {
        info!("draining");
        for service in rpc::SERVICES.into_iter().chain([""]) {
            let status = tonic_health::ServingStatus::NotServing;
            self.health.set_service_status(service, status).await;
        }
        tokio::time::sleep(LAME_DUCK).await;
        self.drain.cancel();
        if let Err(error) = self.serving.await {
            error!(%error, "the server failed");
        }
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(TASKS_END_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            warn!(tasks = self.tasks.len(), "tasks were left behind");
        }
        for connection in &self.connections {
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
    }
}

fn lattices_config(
    config: &Config,
    requests: &Connection,
    deliveries: &Connection,
    metrics: &Metrics,
) -> LatticesConfig {
    LatticesConfig {
        api: JetStream::new(requests.clone(), config.nats.domain.as_deref()),
        deliveries: deliveries.clone(),
        instance: uuid::Uuid::now_v7().simple().to_string().into(),
        settings: config.lattices.clone(),
        create_on_write: config.create_on_write,
        ack_timeout: config.calls.ack_timeout,
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

fn connection_config(config: &Config, purpose: &str) -> ConnectionConfig {
    ConnectionConfig {
        servers: config.nats.servers.clone(),
        credentials_file: config.nats.credentials_file.clone(),
        name: format!("lattice-gateway {purpose}"),
    }
}

/// Resolves once the server drains and no call is in flight.
async fn quiet(in_flight: Arc<Semaphore>, in_flight_max: usize, drain: CancellationToken) {
    drain.cancelled().await;
    let all = u32::try_from(in_flight_max).unwrap_or(u32::MAX);
    // All places are free when no call has one. The semaphore is never closed.
    drop(in_flight.acquire_many(all).await);
}

/// What `/readyz` and gRPC health tell.
#[derive(Clone, Debug)]
struct Readiness {
    connections: [Connection; 2],
    draining: CancellationToken,
    metrics: Metrics,
}

impl Readiness {
    fn is_connected(&self) -> bool {
        self.connections
            .iter()
            .all(|connection| connection.status() == Status::Connected)
    }

    fn why_not(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("draining".to_owned());
        }
        self.connections
            .iter()
            .find_map(|connection| match connection.status() {
                Status::Connected => None,
                Status::Away => Some("not connected to NATS".to_owned()),
                Status::TooOld(version) => Some(format!("nats-server {version} is older than 2.10.20")),
            })
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
    readiness.metrics.connected(readiness.is_connected());
    ([("content-type", OPEN_METRICS)], readiness.metrics.render())
}

/// Keeps gRPC health as readiness is.
async fn tell_health(readiness: Readiness, health: HealthReporter) {
    let mut told = None;
    let [requests, deliveries] = &readiness.connections;
    loop {
        let statuses = [requests.status(), deliveries.status()];
        let is_ready = statuses == [Status::Connected, Status::Connected];
        if told != Some(is_ready) && !readiness.draining.is_cancelled() {
            let status = match is_ready {
                true => tonic_health::ServingStatus::Serving,
                false => tonic_health::ServingStatus::NotServing,
            };
            for service in rpc::SERVICES.into_iter().chain([""]) {
                health.set_service_status(service, status).await;
            }
            told = Some(is_ready);
        }
        tokio::select! {
            () = requests.no_longer(&statuses[0]) => {}
            () = deliveries.no_longer(&statuses[1]) => {}
        }
    }
}

/// Creates what is configured to be there, once NATS is.
async fn provision(
    lattices: Arc<Lattices>,
    wanted: Vec<(crate::domain::LatticeName, crate::control::lattices::Storage)>,
) {
    for (lattice, storage) in wanted {
        loop {
            lattices.api().connection().connected().await;
            match lattices.provision(&lattice, storage, false).await {
                Ok(_created) => break,
                Err(ControlError::BackendUnavailable { .. }) => tokio::time::sleep(PROVISION_PAUSE).await,
                Err(error) => {
                    error!(%lattice, %error, "the lattice was not provisioned");
                    break;
                }
            }
        }
    }
}
