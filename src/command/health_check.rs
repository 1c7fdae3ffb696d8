//! `healthcheck`: asks a gateway that runs on this machine how it is, where there is neither a shell nor curl.

use std::{convert::Infallible, future, net::SocketAddr, process::ExitCode, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{chain, fail, in_runtime, say};

const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct HealthCheck {
    /// Where it serves health and metrics, as `server.admin_listen` says; of `0.0.0.0` and `[::]` this machine is asked.
    #[arg(
        long,
        env = "LATTICE_GATEWAY_SERVER_ADMIN_LISTEN",
        default_value = "127.0.0.1:7401"
    )]
    admin_listen: SocketAddr,
    /// Ask whether it runs at all (`/livez`), not whether it can serve (`/readyz`).
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl HealthCheck {
    /// 0 where it is well, 1 where it says what is wrong, or nothing.
    pub(super) fn run(self) -> ExitCode {
        in_runtime(async move {
            let address = reachable(self.admin_listen);
            let path = if self.live { "/livez" } else { "/readyz" };
            match timeout(self.timeout, ask(address, path)).await {
                Ok(Ok((StatusCode::OK, said))) => {
                    say(said.trim_end());
                    ExitCode::SUCCESS
                }
                Ok(Ok((_, said))) => fail(said.trim_end(), 1),
                Ok(Err(error)) => fail(&format!("no answer from {address}: {}", chain(&*error)), 1),
                Err(_elapsed) => {
                    let time = humantime::format_duration(self.timeout);
                    fail(&format!("no answer from {address} within {time}"), 1)
                }
            }
        })
    }
}

/// Where to reach who listens there.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        let here = if listen.is_ipv4() { "127.0.0.1" } else { "::1" };
        if let Ok(here) = here.parse() {
            listen.set_ip(here);
        }
    }
    listen
}

async fn ask(
    address: SocketAddr,
    path: &str,
) -> Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let said = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await?;
        Ok((status, String::from_utf8_lossy(&said.to_bytes()).into_owned()))
    };
    // The connection only carries the exchange; how it ends is told to that.
    let carried = async {
        drop(connection.await);
        future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answered => answer,
        never = carried => match never {},
    }
}
