//! The processes of a round: nats-servers, gateways, and the wires between them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::harness::{Nats, port, until, wire::Wire};

pub const LATTICE: &str = "campaign";
pub const STREAM: &str = "LATTICECACHE_campaign";
/// What the stream takes is told again under this subject.
pub const TAP: &str = "tap";

/// The gateways' user, as it is and without its permission.
pub const ALLOWED: &str = "permissions: { publish: \">\" }";
pub const DENIED: &str = "permissions: { publish: { deny: \"lc.>\" } }";

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

/// Everything that runs during a round.
pub struct World {
    pub topology: Topology,
    pub nodes: Vec<Nats>,
    pub gateways: Vec<Gateway>,
}

impl World {
    pub async fn start(topology: Topology, gateways: usize, program: &Program, folder: &Path) -> Self {
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
            nodes,
            gateways: Vec::new(),
        };
        world.create_stream().await;
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
            let mut gateway = Gateway::new(wires, log, program.clone());
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

    /// Creates the stream as hosts do but for its storage, its replicas and the tap.
    pub async fn create_stream(&self) {
        let changes = json!({
            "storage": self.topology.storage(),
            "num_replicas": self.topology.replicas(),
            "republish": {"src": ">", "dest": format!("{TAP}.>")},
        });
        let nodes = &self.nodes;
        nodes[0].create_stream(LATTICE, changes).await;
        self.has_leader().await;
    }

    /// Waits until the stream takes writes again.
    pub async fn has_leader(&self) {
        until("the stream has a leader", async || {
            let info = self.nodes[0]
                .api(&format!("STREAM.INFO.{STREAM}"), Value::Null)
                .await;
            let leads = self.topology.replicas() == 1 || info["cluster"]["leader"].is_string();
            (info["state"].is_object() && leads).then_some(())
        })
        .await;
    }

    /// The node that leads the stream.
    pub async fn leader(&self) -> usize {
        if self.nodes.len() == 1 {
            return 0;
        }
        let info = self.nodes[0]
            .api(&format!("STREAM.INFO.{STREAM}"), Value::Null)
            .await;
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
    child: Option<Child>,
}

impl Gateway {
    fn new(wires: Vec<Wire>, log: PathBuf, program: Program) -> Self {
        Self {
            address: free_address(),
            admin: free_address(),
            wires,
            log,
            program,
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
        let url = |wire: &Wire| wire.url().replace("nats://", "nats://gateway:x@");
        let urls = self.wires.iter().map(url).collect::<Vec<_>>().join(",");
        let mut command = Command::new(&self.program.path);
        command
            .args(["dev", "--log=warn", "--nats-url", &urls])
            .args(["--listen", &self.address.to_string()])
            .args(["--admin-listen", &self.admin.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        command.env("LATTICE_GATEWAY_CLOCK_FILE", self.clock());
        if let Some(safeguard) = &self.program.safeguard_off {
            command.env("LATTICE_GATEWAY_SAFEGUARD_OFF", safeguard);
        }
        self.child = Some(command.spawn().unwrap());
        until("the gateway takes connections", async || {
            tokio::net::TcpStream::connect(self.address).await.ok()
        })
        .await;
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
