//! What breaks during a round, one fault at a time, each mended before the next. How long one lasts is part of it, and
//! drawn from the seed: the sleeps here are those times, and wait for nothing.

use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    harness::wire::Wire,
    history::Outcome,
    workload::foreign_outcome,
    world::{ALLOWED, DENIED, Layout, STOPS_WITHIN, World},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    KillNode,
    KillLeader,
    KillAll,
    StepDown,
    HoldNode,
    Cut,
    Delay,
    HalfOpen,
    BlackHole,
    DropAnswers,
    KillGateway,
    StopGateway,
    DeleteStream,
    PurgeStream,
    Reconfigure,
    FillStorage,
    WithdrawPermission,
    StepClock,
}

impl Fault {
    /// Whether acknowledged writes may be gone after it, as `GetLattice` tells.
    pub fn loses_the_stream(self, world: &World) -> bool {
        match self {
            Self::DeleteStream | Self::PurgeStream => true,
            Self::KillAll => world.topology.is_memory(),
            Self::KillNode | Self::KillLeader => world.topology.is_memory() && world.nodes.len() == 1,
            _ => false,
        }
    }

    /// Whether it makes sense where the stream is kept so.
    pub fn fits(self, world: &World) -> bool {
        match self {
            Self::StepDown => world.nodes.len() > 1,
            Self::FillStorage => world.nodes.len() == 1,
            _ => true,
        }
    }

    /// Breaks something, waits, and mends it.
    pub async fn happen(self, world: &mut World, rng: &mut Rng) {
        let node = rng.usize(..world.nodes.len());
        let gateway = rng.usize(..world.gateways.len());
        match self {
            Self::KillNode => restart(world, &[node], a_moment(rng, 0, 1_500)).await,
            Self::KillLeader => {
                let stream = rng.choice(world.layout.streams()).unwrap();
                let leader = world.leader(stream).await;
                restart(world, &[leader], a_moment(rng, 0, 1_500)).await;
            }
            Self::KillAll => {
                let all = (0..world.nodes.len()).collect::<Vec<_>>();
                restart(world, &all, a_moment(rng, 0, 500)).await;
            }
            Self::StepDown => {
                for stream in world.layout.streams() {
                    let call = format!("STREAM.LEADER.STEPDOWN.{stream}");
                    drop(world.nodes[node].api(&call, Value::Null).await);
                }
            }
            Self::HoldNode => {
                world.nodes[node].hold().await;
                lasts(rng, 200, 3_000).await;
                world.nodes[node].release();
            }
            Self::Cut | Self::Delay | Self::HalfOpen | Self::BlackHole | Self::DropAnswers => {
                self.on_the_wire(&world.gateways[gateway].wires, rng).await;
            }
            Self::KillGateway => {
                world.gateways[gateway].kill().await;
                lasts(rng, 0, 500).await;
                world.gateways[gateway].start().await;
            }
            Self::StopGateway => {
                assert!(
                    world.gateways[gateway].stop(STOPS_WITHIN).await,
                    "the gateway did not end within {STOPS_WITHIN:?} of SIGTERM"
                );
                world.gateways[gateway].start().await;
            }
            Self::DeleteStream => {
                for stream in world.layout.streams() {
                    let call = format!("STREAM.DELETE.{stream}");
                    drop(world.nodes[0].api(&call, Value::Null).await);
                }
                lasts(rng, 0, 300).await;
                world.create_streams().await;
            }
            Self::PurgeStream => {
                for stream in world.layout.streams() {
                    let call = format!("STREAM.PURGE.{stream}");
                    drop(world.nodes[0].api(&call, json!({})).await);
                }
            }
            Self::Reconfigure => reconfigure(world, rng).await,
            Self::FillStorage => fill(world, a_moment(rng, 300, 1_500)).await,
            Self::WithdrawPermission => {
                for node in &mut world.nodes {
                    node.reconfigure(ALLOWED, DENIED);
                }
                lasts(rng, 300, 2_000).await;
                for node in &mut world.nodes {
                    node.reconfigure(DENIED, ALLOWED);
                }
            }
            Self::StepClock => world.gateways[gateway].step_clock(rng.i64(-100_000..100_000)),
        }
    }

    async fn on_the_wire(self, wires: &[Wire], rng: &mut Rng) {
        let all = |change: fn(&Wire, bool), on| wires.iter().for_each(|wire| change(wire, on));
        match self {
            Self::Delay => {
                for _ in 0..rng.usize(3..12) {
                    all(Wire::stall, true);
                    lasts(rng, 5, 150).await;
                    all(Wire::stall, false);
                    lasts(rng, 1, 20).await;
                }
            }
            Self::HalfOpen => {
                let way = if rng.bool() {
                    Wire::stall_publishes
                } else {
                    Wire::stall_answers
                };
                all(way, true);
                lasts(rng, 500, 4_000).await;
                all(way, false);
            }
            Self::BlackHole => {
                all(Wire::stall, true);
                lasts(rng, 2_000, 8_000).await;
                all(Wire::stall, false);
                if rng.bool() {
                    wires.iter().for_each(Wire::cut);
                }
            }
            Self::DropAnswers => {
                all(Wire::drop_answers, true);
                lasts(rng, 20, 300).await;
                all(Wire::drop_answers, false);
                wires.iter().for_each(Wire::cut);
            }
            _ => wires.iter().for_each(Wire::cut),
        }
    }
}

/// For so long a fault lasts: its length is part of what is tried, so that there is no condition to wait for.
async fn lasts(rng: &mut Rng, from: u64, to: u64) {
    sleep(a_moment(rng, from, to)).await;
}

fn a_moment(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..to))
}

/// Kills the processes and starts them again; makes the stream again where it went with them.
async fn restart(world: &mut World, nodes: &[usize], pause: Duration) {
    for node in nodes {
        world.nodes[*node].down("KILL");
    }
    // For so long they are away, which is what is tried.
    sleep(pause).await;
    // All of them before the first is waited for: one of a cluster answers once a majority is there.
    for node in nodes {
        world.nodes[*node].launch().await;
    }
    for node in nodes {
        world.nodes[*node].answers().await;
    }
    if world.nodes.len() == 1 && world.topology.is_memory() {
        world.create_streams().await;
    }
    world.have_leaders().await;
}

/// A configuration in which writes would not be safe, and back. Of a bucket it may also be one with a history, in which
/// they are.
async fn reconfigure(world: &World, rng: &mut Rng) {
    const HOUR: u64 = 3_600_000_000_000;
    // A file stream that is written to loses its newest messages where this is lowered, whoever writes: docs/reliability.md.
    let has_history = world.topology.is_memory() && (world.layout == Layout::CacheStream || rng.bool());
    let (member, there, back) = match has_history {
        true => ("max_msgs_per_subject", 2, 1),
        false => ("max_age", HOUR, 0),
    };
    for value in [there, back] {
        for stream in world.layout.streams() {
            let mut config = world.info(stream).await["config"].clone();
            config[member] = value.into();
            let call = format!("STREAM.UPDATE.{stream}");
            drop(world.nodes[0].api(&call, config).await);
        }
        if value == there {
            lasts(rng, 200, 3_500).await;
        }
    }
}

/// Fills what the server may store with another stream, down to the last few bytes, and takes that away again.
async fn fill(world: &World, pause: Duration) {
    let node = &world.nodes[0];
    let storage = if world.topology.is_memory() {
        "memory"
    } else {
        "file"
    };
    let config = json!({"name": "FILLER", "subjects": ["filler"], "storage": storage});
    drop(node.api("STREAM.CREATE.FILLER", config).await);
    let client = node.client().await;
    for size in [256 * 1024, 16 * 1024, 1024, 64] {
        while let Ok(answer) = client.request("filler", vec![0; size].into()).await
            && matches!(foreign_outcome(&answer.payload), Outcome::Wrote { .. })
        {}
    }
    // For so long the storage is full, which is what is tried.
    sleep(pause).await;
    drop(node.api("STREAM.DELETE.FILLER", Value::Null).await);
}
