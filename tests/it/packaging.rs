//! What a gateway tells those that run it: systemd, containers, Prometheus.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    harness::{
        Nats,
        gateway::{TOKEN, caller},
        nats::PATIENCE,
        port, until,
    },
    metrics::documented,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lattice-gateway");

/// `lattice-gateway serve` as a service manager starts it.
struct Served {
    child: Child,
    admin: SocketAddr,
    notified: UnixDatagram,
    _folder: TempDir,
}

impl Served {
    fn start(nats: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, socket) = (folder.path().join("gateway.toml"), folder.path().join("notify"));
        let caller = caller("tests", TOKEN, &["default"], "read");
        let text =
            format!("[nats]\nservers = {nats:?}\n[lattices.default]\ntrusted_issuers = [\"*\"]\n{caller}");
        std::fs::write(&config, text).unwrap();
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()));
        let child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(config)
            .args(["--admin-listen", &admin.to_string()])
            .env("NOTIFY_SOCKET", socket)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            admin,
            notified,
            _folder: folder,
        }
    }

    /// The next datagram that the service manager is sent.
    fn told(&self) -> String {
        let mut buffer = [0; 256];
        let bytes = loop {
            match self.notified.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                told => break told.expect("the service manager is told"),
            }
        };
        String::from_utf8(buffer[..bytes].to_vec()).unwrap()
    }

    fn signal(&self, name: &str) {
        let args = [format!("-{name}"), self.child.id().to_string()];
        assert!(Command::new("kill").args(args).status().unwrap().success());
    }

    fn health(&self, args: &[&str]) -> Output {
        let at = self.admin.to_string();
        let args = ["healthcheck", "--admin-listen", &at]
            .into_iter()
            .chain(args.iter().copied());
        Command::new(PROGRAM).args(args).output().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn systemd_is_told_of_the_start_a_reload_and_the_end() {
    let nats = Nats::start().await;
    let mut served = Served::start(&nats.url());
    assert_eq!(served.told(), "READY=1\n");
    served.signal("HUP");
    let reloading = served.told();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(served.told(), "READY=1\n");
    served.signal("TERM");
    assert_eq!(served.told(), "STOPPING=1\n");
    let ended = until("it ends", async || served.child.try_wait().unwrap()).await;
    assert!(ended.success());
}

#[tokio::test]
async fn healthcheck_asks_whether_the_gateway_can_serve_or_runs_at_all() {
    let nats = Nats::start().await;
    let served = Served::start(&nats.url());
    assert_eq!(served.told(), "READY=1\n");
    until("the gateway can serve", async || {
        served.health(&[]).status.success().then_some(())
    })
    .await;

    let cut_off = Served::start("nats://127.0.0.1:1");
    assert_eq!(cut_off.told(), "READY=1\n", "NATS is another question");
    let health = until("it is asked", async || {
        let health = cut_off.health(&[]);
        String::from_utf8_lossy(&health.stderr)
            .contains("not connected")
            .then_some(health)
    })
    .await;
    assert_eq!(health.status.code(), Some(1));
    assert!(cut_off.health(&["--live"]).status.success());

    // Nobody listens, or what does says nothing.
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()));
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (at, says) in [
        (nobody, "Connection refused"),
        (silent.local_addr().unwrap(), "within 50ms"),
    ] {
        let health = Command::new(PROGRAM)
            .args(["healthcheck", "--timeout", "50ms"])
            .env("LATTICE_GATEWAY_SERVER_ADMIN_LISTEN", at.to_string())
            .output()
            .unwrap();
        assert_eq!(health.status.code(), Some(1));
        let told = String::from_utf8(health.stderr).unwrap();
        assert!(told.contains(says) && told.contains(&at.to_string()), "{told}");
    }
}

#[test]
fn shells_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Command::new(PROGRAM)
            .args(["completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains("nats-permissions"), "{shell}: {script}");
    }
}

/// The metrics that a text names, with the endings of their samples.
fn named(text: &str) -> BTreeSet<&str> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_of_name(character));
    words
        .filter(|word| word.starts_with("lattice_gateway_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for file in ["prometheus/alerts.yaml", "grafana/lattice-gateway.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let named = named(&text);
        assert!(named.len() > 5, "{file} names {named:?}");
        let unknown = named.into_iter().filter(|name| {
            let endings = ["_bucket", "_sum", "_count"];
            let metric = endings.iter().find_map(|ending| name.strip_suffix(ending));
            !documented().contains(metric.unwrap_or(name))
        });
        assert_eq!(unknown.collect::<Vec<_>>(), [""; 0], "{file}");
    }
}
