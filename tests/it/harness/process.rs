//! A gateway in a process of its own, which can be ended, killed and started again, and whose memory can be told.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
};

use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use super::Nats;

pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
    nats: String,
}

impl Process {
    /// As `dev --nats-url` serves.
    pub fn dev(nats: &Nats) -> Self {
        Self::at(&nats.url(), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`Self::dev`], over these URLs and at this address.
    pub fn at(nats: &str, listen: SocketAddr) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
            .args(["dev", "--nats-url", nats, "--listen", &listen.to_string()])
            .args(["--admin-listen", "127.0.0.1:0", "--log", "off"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready = serde_json::from_str::<Value>(&line).unwrap();
        let address = ready["grpc"].as_str().unwrap().parse().unwrap();
        let nats = nats.to_owned();
        Self { child, address, nats }
    }

    /// Ends the process by a signal (`TERM`, `KILL`) and waits until it is gone.
    pub fn down(&mut self, signal: &str) -> ExitStatus {
        let told = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        self.child.wait().unwrap()
    }

    /// Starts it again where it was, and waits until it serves.
    pub fn up(&mut self) {
        *self = Self::at(&self.nats, self.address);
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    /// A channel of its own.
    pub fn channel(&self) -> Channel {
        self.endpoint().connect_lazy()
    }

    /// A channel that spreads its calls over several.
    pub fn channel_over(several: &[Self]) -> Channel {
        Channel::balance_list(several.iter().map(Self::endpoint))
    }

    /// What it has in memory, bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
