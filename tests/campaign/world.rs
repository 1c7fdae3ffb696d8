//! The processes of a round: nats-servers, gateways, and the wires between them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use data_encoding::HEXLOWER;
use lattice_gateway::{
    domain::LatticeName,
    store::layout::{self, bucket},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::harness::{Nats, port, until, wire::Wire};

pub const LATTICE: &str = "campaign";
pub const CACHE_STREAM: &str = "LATTICECACHE_campaign";
pub const DATA_STREAM: &str = "KV_LATTICEDATA_campaign";
pub const CONFIG_STREAM: &str = "KV_CONFIGDATA_campaign";
/// What the stream takes is told again under this subject.
pub const TAP: &str = "tap";

/// The gateways' user, as it is and without its permission.
pub const ALLOWED: &str = "permissions: { publish: \">\" }";
pub const DENIED: &str = "permissions: { publish: { deny: [\"lc.>\", \"$KV.>\"] } }";

/// How hosts keep the lattice.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Layout {
    #[default]
    CacheStream,
    Kv,
    Component,
}

impl Layout {
    fn of_gateway(self) -> layout::Layout {
        match self {
            Self::CacheStream => layout::Layout::CacheStream,
            Self::Kv => layout::Layout::Kv,
            Self::Component => layout::Layout::Component,
        }
    }

    /// The streams behind it; the first makes the lattice exist.
    pub fn streams(self) -> &'static [&'static str] {
        match self {
            Self::CacheStream => &[CACHE_STREAM],
            Self::Kv => &[DATA_STREAM],
            Self::Component => &[DATA_STREAM, CONFIG_STREAM],
        }
    }
}

/// How a lattice's stream is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Topology {
    R1File,
    R1Memory,
    R3File,
    R3Memory,
}

impl Topology {
    pub fn replicas(self) -> usize {
        match self {
            Self::R1File | Self::R1Memory => 1,
            Self::R3File | Self::R3Memory => 3,
        }
    }

    fn storage(self) -> &'static str {
        match self {
            Self::R1File | Self::R3File => "file",
            Self::R1Memory | Self::R3Memory => "memory",
        }
    }

    /// Whether the stream is gone once all its servers were.
    pub fn is_memory(self) -> bool {
        self.storage() == "memory"
    }
}

/// What a world is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Like {
    pub topology: Topology,
    pub layout: Layout,
    /// Whether hosts write the records of layout `component`, so that edits have to settle.
    pub has_hosts: bool,
    pub gateways: usize,
}

/// A gateway, as a caller of its configuration reaches it.
pub type Gate = InterceptedService<Channel, Token>;

/// Shows the token of the one caller.
#[derive(Clone, Copy, Debug)]
pub struct Token;

impl Token {
    const TEXT: &str = "campaign";
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let shown = format!("Bearer {}", Self::TEXT).parse().unwrap();
        request.metadata_mut().insert("authorization", shown);
        Ok(request)
    }
}

/// A gateway that is told to stop ends within.
pub const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// For how long an edit has to stand beside hosts.
pub const SETTLE: Duration = Duration::from_millis(20);

/// Everything that runs during a round.
pub struct World {
    pub topology: Topology,
    pub layout: Layout,
    pub nodes: Vec<Nats>,
    pub gateways: Vec<Gateway>,
}

impl World {
    pub async fn start(like: Like, program: &Program, folder: &Path) -> Self {
        let Like {
            topology,
            layout,
            has_hosts,
            gateways,
        } = like;
        let users = format!(
            "no_auth_user: everybody\nauthorization {{ users: [{{user: everybody, password: x}}, \
             {{user: gateway, password: x, {ALLOWED}}}] }}"
        );
        let nodes = match topology.replicas() {
            1 => vec![Nats::start_bounded_with("max_memory_store: 8MB\nmax_file_store: 8MB", &users).await],
            _ => Nats::start_cluster_with(&users).await.into(),
        };
        let world = Self {
            topology,
            layout,
            nodes,
            gateways: Vec::new(),
        };
        world.create_streams().await;
        let settle = if has_hosts { SETTLE } else { Duration::ZERO };
        let mut started = Vec::new();
        for number in 0..gateways {
            let mut wires = Vec::new();
            for node in &world.nodes {
                wires.push(Wire::to(node.port()).await);
            }
            // Each prefers another node.
            let nodes = wires.len();
            wires.rotate_left(number % nodes);
            let log = folder.join(format!("gateway-{number}.log"));
            let mut gateway = Gateway::new(wires, log, program.clone(), settle);
            gateway.start().await;
            started.push(gateway);
        }
        Self {
            gateways: started,
            ..world
        }
    }

    /// Where the nats-servers are, comma-separated.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// Creates the streams as hosts do but for their storage, their replicas, the tap, and what `ProvisionLattice` notes of
    /// the layout.
    pub async fn create_streams(&self) {
        let storage = self.topology.storage();
        let changes = json!({
            "storage": storage,
            "num_replicas": self.topology.replicas(),
            "republish": {"src": ">", "dest": format!("{TAP}.>")},
        });
        let node = &self.nodes[0];
        let layout = self.layout.of_gateway();
        // What makes the lattice exist comes last, as where the gateway creates them.
        for part in layout.parts().iter().rev() {
            if self.layout == Layout::CacheStream {
                node.create_stream(LATTICE, changes.clone()).await;
                continue;
            }
            let mut config = part.stream_config(&LatticeName::parse(LATTICE).unwrap(), storage);
            for (name, value) in changes.as_object().unwrap() {
                config[name] = value.clone();
            }
            config["metadata"] = json!({bucket::LAYOUT_METADATA: layout.as_str()});
            node.create(config).await;
        }
        self.have_leaders().await;
    }

    /// Waits until the streams take writes again.
    pub async fn have_leaders(&self) {
        for stream in self.layout.streams() {
            until("the stream has a leader", async || {
                let info = self.info(stream).await;
                let leads = self.topology.replicas() == 1 || info["cluster"]["leader"].is_string();
                (info["state"].is_object() && leads).then_some(())
            })
            .await;
        }
    }

    /// Describes a stream.
    pub async fn info(&self, stream: &str) -> Value {
        self.nodes[0]
            .api(&format!("STREAM.INFO.{stream}"), Value::Null)
            .await
    }

    /// The node that leads a stream.
    pub async fn leader(&self, stream: &str) -> usize {
        if self.nodes.len() == 1 {
            return 0;
        }
        let info = self.info(stream).await;
        let name = info["cluster"]["leader"].as_str().unwrap_or_default();
        self.nodes
            .iter()
            .position(|node| node.name() == name)
            .unwrap_or(0)
    }
}

/// What the gateways run.
#[derive(Clone, Debug)]
pub struct Program {
    /// A copy of its own, so that a build meanwhile changes nothing.
    pub path: PathBuf,
    pub safeguard_off: Option<String>,
}

impl Program {
    pub fn copied_to(folder: &Path, safeguard_off: Option<String>) -> Self {
        let path = folder.join("lattice-gateway");
        std::fs::copy(env!("CARGO_BIN_EXE_lattice-gateway"), &path).unwrap();
        Self { path, safeguard_off }
    }
}

/// One gateway process, always at the same address.
pub struct Gateway {
    pub address: SocketAddr,
    admin: SocketAddr,
    pub wires: Vec<Wire>,
    log: PathBuf,
    program: Program,
    settle: Duration,
    child: Option<Child>,
}

impl Gateway {
    fn new(wires: Vec<Wire>, log: PathBuf, program: Program, settle: Duration) -> Self {
        Self {
            address: free_address(),
            admin: free_address(),
            wires,
            log,
            program,
            settle,
            child: None,
        }
    }

    /// Starts the process and waits until it takes calls.
    pub async fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let config = self.log.with_extension("toml");
        std::fs::write(&config, self.config()).unwrap();
        let mut command = Command::new(&self.program.path);
        command
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        command.env("CAMPAIGN_CLOCK_FILE", self.clock());
        if let Some(safeguard) = &self.program.safeguard_off {
            command.env("CAMPAIGN_SAFEGUARD_OFF", safeguard);
        }
        self.child = Some(command.spawn().unwrap());
        until("the gateway takes connections", async || {
            tokio::net::TcpStream::connect(self.address).await.ok()
        })
        .await;
    }

    fn config(&self) -> String {
        let url = |wire: &Wire| wire.url().replace("nats://", "nats://gateway:x@");
        let urls = self.wires.iter().map(url).collect::<Vec<_>>().join(",");
        let (address, admin, audit) = (self.address, self.admin, self.audit());
        let settle = self.settle.as_millis();
        let token = HEXLOWER.encode(&Sha256::digest(Token::TEXT));
        format!(
            "[server]\nlisten = \"{address}\"\nadmin_listen = \"{admin}\"\n[nats]\nservers = \"{urls}\"\n\
             [log]\nfilter = \"warn\"\n[audit]\nto = {audit:?}\n\
             [lattices.{LATTICE}]\ntrusted_issuers = [\"*\"]\nsettle = \"{settle}ms\"\n\
             [callers.campaign]\ntoken_sha256 = [\"{token}\"]\n\
             grants = [{{ lattices = [\"{LATTICE}\"], verbs = [\"read\", \"values:read\", \"watch\", \"links:write\", \
             \"claims:write\", \"refs:write\", \"claims:write-unsigned\", \"config:write\"] }}]\n"
        )
    }

    /// Where it records what callers try to change.
    pub fn audit(&self) -> PathBuf {
        self.log.with_extension("audit")
    }

    /// As a caller reaches it.
    pub fn gate(&self) -> Gate {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy();
        InterceptedService::new(channel, Token)
    }

    /// The process, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    fn clock(&self) -> PathBuf {
        self.log.with_extension("clock")
    }

    /// Steps the process's wall clock to so many seconds from the true time.
    pub fn step_clock(&self, seconds: i64) {
        std::fs::write(self.clock(), seconds.to_string()).unwrap();
    }

    /// Stops the process by SIGTERM; `false` where it does not end in time.
    pub async fn stop(&mut self, within: Duration) -> bool {
        let Some(mut child) = self.child.take() else {
            return true;
        };
        if let Some(id) = child.id() {
            drop(Command::new("kill").arg(id.to_string()).status().await);
        }
        timeout(within, child.wait()).await.is_ok()
    }

    /// Kills the process, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port::free()))
}
