//! Servers in processes of their own. Each ends with its value.

use std::{
    ffi::OsStr,
    fmt,
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::Failure;

const GATEWAY: &str = env!("CARGO_BIN_EXE_lattice-gateway");
const POLL: Duration = Duration::from_millis(5);
const START_TIMEOUT: Duration = Duration::from_mins(1);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A child.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> std::io::Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self(child))
    }

    /// What it has in memory, bytes; none where there is no `/proc`.
    pub(crate) fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        Some(kib * 1024)
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(id) = self.0.id() {
            Command::new("kill")
                .args(["-TERM", &id.to_string()])
                .status()
                .await?;
        }
        timeout(STOP_TIMEOUT, self.0.wait()).await??;
        Ok(())
    }
}

/// A port of this machine that was free just now.
pub(crate) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Connects, once somebody listens there.
pub(crate) async fn connect(port: u16) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    until(async || endpoint.connect().await).await
}

/// Tries until it succeeds.
pub(crate) async fn until<T, E: fmt::Display>(attempt: impl AsyncFn() -> Result<T, E>) -> Result<T, Failure> {
    let mut last = None;
    let done = timeout(START_TIMEOUT, async {
        loop {
            match attempt().await {
                Ok(done) => return done,
                Err(error) => last = Some(error.to_string()),
            }
            sleep(POLL).await;
        }
    });
    let done = done.await;
    done.map_err(|_elapsed| format!("not in time; last: {}", last.unwrap_or_default()).into())
}

/// A lattice of a gateway's configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lattice {
    pub(crate) name: &'static str,
    pub(crate) layout: &'static str,
    /// How it is kept, where the gateway is to create it.
    pub(crate) provision: Option<&'static str>,
    /// Whether providers and events are told.
    pub(crate) effects: bool,
}

impl fmt::Display for Lattice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            layout,
            effects,
            ..
        } = self;
        writeln!(
            f,
            "[lattices.{name:?}]\ntrusted_issuers = [\"*\"]\nlayout = {layout:?}"
        )?;
        writeln!(f, "effects = {effects}\nsettle = \"0s\"")?;
        match self.provision {
            Some(storage) => writeln!(f, "provision = {storage:?}"),
            None => Ok(()),
        }
    }
}

/// `lattice-gateway serve`. It logs warnings only, and makes a span of every call all the same, as it does by default.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Process,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Gateway {
    /// One that refuses nothing for what it costs: what is measured is how long it takes.
    pub(crate) fn start(nats_url: &str, lattices: &[Lattice], callers: &str) -> Result<Self, Failure> {
        let server = "in_flight_max = 16384\nqueue_time = \"10s\"";
        Self::start_with(server, nats_url, lattices, callers)
    }

    /// With these settings of its server.
    pub(crate) fn start_with(
        server: &str,
        nats_url: &str,
        lattices: &[Lattice],
        callers: &str,
    ) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let file = folder.path().join("gateway.toml");
        let lattices = lattices.iter().map(Lattice::to_string).collect::<String>();
        std::fs::write(
            &file,
            format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:0\"\n{server}\n\
                 [log]\nfilter = \"warn,lattice_gateway::rpc=info\"\n[nats]\nservers = {nats_url:?}\n{lattices}\n{callers}",
            ),
        )?;
        let arguments = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()];
        Ok(Self {
            process: Process::start(GATEWAY, arguments)?,
            _folder: folder,
            port,
        })
    }

    /// Connects, once it serves.
    pub(crate) async fn connect(&self) -> Result<Channel, Failure> {
        let channel = connect(self.port).await?;
        until(async || {
            let request = HealthCheckRequest {
                service: "lattice.control.v1.LinkDefinitionService".to_owned(),
            };
            let health = HealthClient::new(channel.clone()).check(request).await;
            match health.map(|health| health.into_inner().status()) {
                Ok(ServingStatus::Serving) => Ok(channel.clone()),
                other => Err(format!("the gateway does not serve: {other:?}")),
            }
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn resident(&self) -> Option<u64> {
        self.process.resident()
    }

    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.process.stop().await
    }
}

/// A caller whose token is its name, and who may do everything on every lattice.
pub(crate) fn caller(name: &str, limits: &str) -> String {
    let sha256 = HEXLOWER.encode(&Sha256::digest(name));
    format!(
        "[callers.{name}]\ntoken_sha256 = [\"{sha256}\"]\n{limits}\n\
         grants = [{{ lattices = [\"*\"], verbs = [\"read\", \"values:read\", \"watch\", \"claims:write\", \"links:write\", \
         \"refs:write\", \"config:write\"] }}]\n"
    )
}
