//! What the figures depend on.

use std::{fmt, process::Command};

use lattice_gateway::{control::Clock, dev::DevServer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Failure;

/// Where and of what a run was.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    model: String,
    memory_gib: f64,
    system: String,
    nats: String,
    etcd: Option<String>,
    rustc: String,
    gateway: String,
    date: String,
}

impl Machine {
    pub(crate) async fn look(etcd: &str) -> Result<Self, Failure> {
        let server = DevServer::start(None, None).await?;
        let nats = async_nats::connect(server.url()).await?.server_info().version;
        server.stop().await;
        let commit = first_line("git", &["describe", "--always", "--dirty", "--exclude=*"]);
        let etcd = first_line(etcd, &["--version"]);
        let now = OffsetDateTime::from_unix_timestamp(Clock.unix_seconds())?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            model: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_gib: field("/proc/meminfo", "MemTotal")
                .and_then(|total| total.strip_suffix(" kB")?.parse::<f64>().ok())
                .map_or(f64::NAN, |kib| kib / 1024.0 / 1024.0),
            system: system(),
            nats,
            etcd: etcd.and_then(|line| Some(line.strip_prefix("etcd Version: ")?.to_owned())),
            rustc: first_line("rustc", &["--version"]).unwrap_or_default(),
            gateway: format!(
                "{} at {}",
                env!("CARGO_PKG_VERSION"),
                commit.as_deref().unwrap_or("an unknown commit")
            ),
            date: now.date().to_string(),
        })
    }

    pub(crate) fn told(&self) -> Value {
        json!({
            "cores": self.cores, "model": self.model, "memory_gib": super::stats::rounded(self.memory_gib),
            "system": self.system, "nats_server": self.nats, "etcd": self.etcd, "rustc": self.rustc,
            "gateway": self.gateway, "date": self.date,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cores,
            model,
            memory_gib,
            system,
            ..
        } = self;
        writeln!(
            f,
            "* machine: {cores} cores ({model}), {memory_gib:.0} GiB, {system}"
        )?;
        writeln!(f, "* lattice-gateway {}, {}", self.gateway, self.rustc)?;
        let etcd = self.etcd.as_deref().unwrap_or("none");
        writeln!(f, "* nats-server {}, etcd {etcd}", self.nats)?;
        writeln!(f, "* date: {}", self.date)
    }
}

/// The kernel's name and its first two numbers.
fn system() -> String {
    let told = first_line("uname", &["-sr"]).unwrap_or_default();
    let numbers = told
        .match_indices('.')
        .nth(1)
        .map_or(told.len(), |(place, _)| place);
    told.chars().take(numbers).collect()
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// What a file of `/proc` says after a name and a colon.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}
