//! Single faults, again and again, each measured.

use std::time::Duration;

use clap::ValueEnum;
use lattice_gateway::proto::Outcome as Told;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    harness::until,
    history::{Outcome, Stored},
    round::{hear, patient_client},
    workload::{PATIENCE, Size, Workload, foreign_outcome},
    world::{CACHE_STREAM, LATTICE, Layout, Like, Program, Topology, World},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Drill {
    /// A gateway is killed while a publish is under way, and the call retried on another.
    KillInMidPublish,
    /// The stream's leader is killed: when does JetStream take writes again, and when does the gateway?
    KillLeader,
}

impl Drill {
    /// Tells what was measured; `false` where it is not as promised.
    pub async fn run(self) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::copied_to(folder.path(), None);
        let like = |topology, gateways| Like {
            topology,
            layout: Layout::CacheStream,
            has_hosts: false,
            gateways,
        };
        match self {
            Self::KillInMidPublish => {
                let world = World::start(like(Topology::R1File, 2), &program, folder.path()).await;
                kill_in_mid_publish(world).await
            }
            Self::KillLeader => {
                let world = World::start(like(Topology::R3File, 1), &program, folder.path()).await;
                kill_leader(world).await
            }
        }
    }
}

fn of(contended: usize) -> Size {
    Size { contended, alone: 0 }
}

async fn kill_in_mid_publish(mut world: World) -> bool {
    const TIMES: u64 = 200;
    let load = Workload::new(of(4), &world, 0);
    let stored = std::sync::Arc::default();
    let tap = patient_client(&world.nodes[0].url()).await;
    let hearing = tokio::spawn(hear(tap, load.clone(), std::sync::Arc::clone(&stored)));
    let heard = |id| stored.lock().iter().any(|stored: &Stored| stored.op == Some(id));
    load.settle(&mut fastrand::Rng::with_seed(0)).await;
    let (mut landed, mut ids) = (0, Vec::new());
    for number in 0..TIMES {
        let key = usize::try_from(number).unwrap() % 4;
        // A gateway that was just started has first to read the lattice.
        until("the gateway writes", async || {
            load.clone()
                .put_on(0, key, load.next_id(), None, PATIENCE)
                .await
                .ok()
        })
        .await;
        let (id, first) = (load.next_id(), Instant::now());
        ids.push(id);
        let is_to_land = number % 2 == 0;
        let wire = world.gateways[0].wires[0].clone();
        match is_to_land {
            true => wire.stall_answers(true),
            false => wire.stall_publishes(true),
        }
        let call = tokio::spawn(load.clone().put_on(0, key, id, None, PATIENCE));
        match is_to_land {
            true => until("the publish has landed", async || heard(id).then_some(())).await,
            // Nothing tells that it waits on the wire.
            false => sleep(Duration::from_millis(30)).await,
        }
        world.gateways[0].kill().await;
        drop(call.await);
        let retried = load
            .clone()
            .put_on(1, key, id, Some(first.elapsed()), PATIENCE)
            .await;
        // What was held back lands now, too late.
        wire.stall(false);
        let outcome = retried.map(|result| result.outcome());
        let expected = if is_to_land {
            Told::AlreadyApplied
        } else {
            Told::Applied
        };
        landed += u64::from(outcome.as_ref().is_ok_and(|outcome| *outcome == expected));
        world.gateways[0].start().await;
        if number % 20 == 19 {
            eprintln!("drill: {} of {TIMES}, {landed} as expected", number + 1);
        }
    }
    // Time for what may not come, a second copy: nothing tells that it does not.
    sleep(Duration::from_millis(200)).await;
    hearing.abort();
    let times = |id| {
        stored
            .lock()
            .iter()
            .filter(|stored: &&Stored| stored.op == Some(id))
            .count()
    };
    let once = u64::try_from(ids.into_iter().filter(|id| times(*id) == 1).count()).unwrap();
    println!(
        "gateway killed in mid-publish, retried on another: exactly once {once} of {TIMES}; answered so {landed}"
    );
    once == TIMES && landed == TIMES
}

async fn kill_leader(mut world: World) -> bool {
    const TIMES: u32 = 5;
    const PROMISED: Duration = Duration::from_secs(1);
    const SHORT: Duration = Duration::from_millis(500);
    let load = Workload::new(of(1), &world, 0);
    let mut worst = Duration::ZERO;
    for number in 0..TIMES {
        drop(load.clone().put_on(0, 0, load.next_id(), None, SHORT).await);
        let raw = patient_client(&world.urls()).await;
        let leader = world.leader(CACHE_STREAM).await;
        world.nodes[leader].down("KILL");
        let killed = Instant::now();
        let by_jetstream = async {
            let subject = format!("lc.{LATTICE}.claims.Mraw");
            let body = json!({"call_alias": "", "sub": "Mraw"}).to_string();
            until("JetStream takes writes", async || {
                let publish = raw.request(subject.clone(), body.clone().into());
                let answer = timeout(Duration::from_millis(250), publish).await.ok()?.ok()?;
                let is_stored = matches!(foreign_outcome(&answer.payload), Outcome::Wrote { .. });
                is_stored.then(|| killed.elapsed())
            })
            .await
        };
        let by_gateway = async {
            until("the gateway takes writes", async || {
                let put = load.clone().put_on(0, 0, load.next_id(), None, SHORT);
                timeout(2 * SHORT, put).await.ok()?.ok()?;
                Some(killed.elapsed())
            })
            .await
        };
        let (jetstream, gateway) = tokio::join!(by_jetstream, by_gateway);
        let later = gateway.saturating_sub(jetstream);
        worst = worst.max(later);
        println!(
            "leader killed, {} of {TIMES}: JetStream takes writes after {:.2} s, the gateway {:.2} s later",
            number + 1,
            jetstream.as_secs_f64(),
            later.as_secs_f64()
        );
        world.nodes[leader].up().await;
        world.have_leaders().await;
    }
    println!(
        "at worst {:.2} s later (promised: {} s)",
        worst.as_secs_f64(),
        PROMISED.as_secs()
    );
    worst <= PROMISED
}
