//! A gateway that serves callers of a configuration.

use std::{net::TcpListener, process::Stdio, time::Duration};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

use super::{Failure, GATEWAY, START_TIMEOUT};

pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The process; it ends with this value.
pub(crate) struct Serving {
    _gateway: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Serving {
    /// Starts it, with these lattices and callers.
    pub(crate) fn start(nats_url: &str, lattices: &str, callers: &str) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let file = folder.path().join("gateway.toml");
        std::fs::write(
            &file,
            format!(
                "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:0\"\n[log]\nfilter = \"warn,lattice_gateway::rpc=info\"\n[nats]\nservers = {nats_url:?}\n{lattices}\n{callers}",
            ),
        )?;
        let gateway = Command::new(GATEWAY)
            .args(["serve", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            _gateway: gateway,
            _folder: folder,
            port,
        })
    }

    /// Connects, once it listens.
    pub(crate) async fn connect(&self) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port))?;
        let connected = async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => return channel,
                    Err(_not_yet) => sleep(POLL).await,
                }
            }
        };
        Ok(timeout(START_TIMEOUT, connected).await?)
    }
}

/// A caller whose token is its name, and who may write links on every lattice.
pub(crate) fn caller(name: &str, limits: &str) -> String {
    let sha256 = HEXLOWER.encode(&Sha256::digest(name));
    format!(
        "[callers.{name}]\ntoken_sha256 = [\"{sha256}\"]\ngrants = [{{ lattices = [\"*\"], verbs = [\"links:write\"] }}]\n{limits}\n"
    )
}
