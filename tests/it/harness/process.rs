//! A gateway in a process of its own, which can be killed and whose memory can be told.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use super::Nats;

pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// As `dev --nats-url` serves.
    pub fn dev(nats: &Nats) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
            .args(["dev", "--nats-url", &nats.url(), "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--log", "off"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready = serde_json::from_str::<Value>(&line).unwrap();
        let address = ready["grpc"].as_str().unwrap().parse().unwrap();
        Self { child, address }
    }

    /// A channel of its own.
    pub fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.unwrap().connect_lazy()
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
