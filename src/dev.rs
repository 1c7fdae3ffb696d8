//! A nats-server of one's own, for development: started as a child that ends with this process, whatever ends it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const LOG: &str = "nats-server.log";
const LAST_LINES: usize = 3;
const POLL: Duration = Duration::from_millis(10);

/// Which NATS `dev` uses.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub enum NatsServer {
    /// Started here.
    Own(DevServer),
    /// Somebody else's.
    Elsewhere(String),
}

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// None was found.
    #[error(
        "no nats-server was found: give one with --nats-server or $NATS_SERVER, put one on the PATH, or run `make tools`; or \
         use a running NATS with --nats-url"
    )]
    NotFound,
    /// A folder cannot be made.
    #[error("no folder for the nats-server's data")]
    Folder(#[source] std::io::Error),
    /// It does not start.
    #[error("the nats-server {path} does not start")]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It started and told no port.
    #[error("the nats-server {path} did not come up in time; its last words: {log}")]
    NotUp {
        /// The program.
        path: PathBuf,
        /// The end of its log.
        log: String,
    },
}

/// A nats-server that runs as a child.
#[derive(Debug)]
pub struct DevServer {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl DevServer {
    /// Starts one with JetStream on a free loopback port.
    pub async fn start(program: Option<PathBuf>, store_dir: Option<PathBuf>) -> Result<Self, DevError> {
        let path = program.or_else(find).ok_or(DevError::NotFound)?;
        // Keeps the data too, unless there is a place for it.
        let folder = tempfile::tempdir().map_err(DevError::Folder)?;
        let store = store_dir.unwrap_or_else(|| folder.path().join("jetstream"));
        std::fs::create_dir_all(&store).map_err(DevError::Folder)?;
        let mut child = spawn(&path, &store, folder.path()).map_err(|source| DevError::Spawn {
            path: path.clone(),
            source,
        })?;
        match first_url(folder.path(), &mut child).await {
            Some(url) => Ok(Self {
                child,
                url,
                _folder: folder,
            }),
            None => Err(DevError::NotUp {
                path,
                log: last_words(folder.path()),
            }),
        }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it, and waits until it has.
    pub async fn stop(mut self) {
        // Its end of input is the signal to stop.
        drop(self.child.stdin.take());
        drop(timeout(STOP_TIMEOUT, self.child.wait()).await);
    }
}

/// `$NATS_SERVER`, else the PATH, else what `make tools` installs.
fn find() -> Option<PathBuf> {
    let (named, path) = crate::config::nats_server_places();
    if let Some(named) = named {
        return Some(named);
    }
    path.into_iter()
        .map(|folder| folder.join("nats-server"))
        .chain([PathBuf::from(".tools/bin/nats-server")])
        .find(|path| path.is_file())
}

/// Through a shell that outlives nothing: it waits for the end of its input, which comes when this process ends, even by
/// `kill -9`, and then stops the server. Killing the shell would leave the server behind. In a process group of its own, so
/// that Ctrl-C drains the gateway first.
fn spawn(program: &Path, store: &Path, ports: &Path) -> std::io::Result<Child> {
    const KEEPER: &str = r#""$0" "$@" </dev/null & child=$!; read -r _; kill "$child"; wait "$child""#;
    Command::new("/bin/sh")
        .arg("-c")
        .arg(KEEPER)
        .arg(program)
        .args(["--jetstream", "--addr", "127.0.0.1", "--port", "-1"])
        .arg("--store_dir")
        .arg(store)
        .arg("--ports_file_dir")
        .arg(ports)
        .arg("--log")
        .arg(ports.join(LOG))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

/// The server writes its ports into a file once it listens.
async fn first_url(folder: &Path, child: &mut Child) -> Option<String> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        let ports = std::fs::read_dir(folder)
            .ok()?
            .filter_map(Result::ok)
            .find(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "ports")
            })
            .and_then(|entry| std::fs::read(entry.path()).ok())
            .and_then(|text| serde_json::from_slice::<Ports>(&text).ok());
        if let Some(url) = ports.and_then(|ports| ports.nats.into_iter().next()) {
            return Some(url);
        }
        sleep(POLL).await;
    }
    None
}

fn last_words(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let lines = log.lines().rev().take(LAST_LINES).collect::<Vec<_>>();
    if lines.is_empty() {
        return "none".to_owned();
    }
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
