//! One round: a world, a load, faults, and the history that they leave.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use clap::ValueEnum;
use fastrand::Rng;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    check,
    faults::Fault,
    history::{History, OpId, Stored},
    host_model,
    workload::{self, Workload},
    world::{LATTICE, Program, STREAM, TAP, Topology, World},
};

/// What rounds are made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What the gateways run.
    pub program: &'a Program,
    /// Gateways at a time.
    pub gateways: usize,
    /// Seconds of load.
    pub seconds: f64,
    /// What a round chooses one of; none means all.
    pub topologies: &'a [Topology],
    /// What a round chooses from; none means all.
    pub faults: &'a [Fault],
}

/// A round that was played and checked.
#[derive(Debug)]
pub struct Played {
    pub history: History,
    /// What is wrong with it.
    pub violations: Vec<String>,
    /// Keys for which the search was given up.
    pub undecided: usize,
}

impl Plan<'_> {
    /// Plays a round and checks it.
    pub async fn round(&self, seed: u64) -> Played {
        let (history, trouble) = play(self, seed).await;
        let (mut violations, undecided) = check::all(&history);
        violations.extend(trouble);
        eprintln!(
            "seed {seed}, {:8}, {:5} operations, {} violations; {}",
            history.topology,
            history.ops.len(),
            violations.len(),
            history.faults.join(" ")
        );
        Played {
            history,
            violations,
            undecided,
        }
    }
}

/// The chosen ones, or all.
fn of_all<T: ValueEnum>(chosen: &[T]) -> &[T] {
    if chosen.is_empty() {
        T::value_variants()
    } else {
        chosen
    }
}

/// Gives a round's history, and what went wrong beside it.
async fn play(plan: &Plan<'_>, seed: u64) -> (History, Vec<String>) {
    let Plan {
        program, gateways, ..
    } = plan;
    let mut rng = Rng::with_seed(seed);
    let topology = rng.choice(of_all(plan.topologies)).copied().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(topology, *gateways, program, folder.path()).await;
    let load = Workload::new(rng.usize(4..10), &world, seed);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let stored = Arc::new(Mutex::new(Vec::new()));
    for node in &world.nodes {
        let client = patient_client(&node.url()).await;
        tasks.spawn(stop.clone().run_until_cancelled_owned(hear(
            client,
            Arc::clone(&load),
            Arc::clone(&stored),
        )));
    }
    load.settle(&mut rng.fork()).await;
    for _ in 0..6 {
        tasks.spawn(Arc::clone(&load).write(rng.fork(), stop.clone()));
    }
    for _ in 0..2 {
        tasks.spawn(Arc::clone(&load).read(rng.fork(), stop.clone()));
    }
    if rng.bool() {
        let client = patient_client(&world.urls()).await;
        tasks.spawn(Arc::clone(&load).interfere(client, rng.fork(), stop.clone()));
    }
    let happened = break_things(plan, &mut world, &load, &mut rng).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;

    world.has_leader().await;
    let mut standing = Vec::new();
    for gateway in 0..world.gateways.len() {
        standing.push(load.standing(gateway).await);
    }
    let held_by_hosts = hosts_hold(&world, &load).await;
    let logs = logs(folder.path(), world.gateways.len());
    assert!(
        program.safeguard_off.is_none() || logs.iter().any(|log| log.contains("left out")),
        "the gateways are of another build than the campaign's: build them again, with its feature"
    );
    let trouble = logs
        .iter()
        .flat_map(|log| log.lines())
        .filter(|line| line.contains("panicked"))
        .map(str::to_owned)
        .collect();
    let stored = stored.lock().clone();
    let history = History {
        seed,
        topology: format!("{topology:?}"),
        faults: happened,
        ops: load.ops(),
        stored,
        standing,
        folded: held_by_hosts,
    };
    (history, trouble)
}

/// Faults, one after the other with some quiet in between, until the round's time is over.
async fn break_things(plan: &Plan<'_>, world: &mut World, load: &Workload, rng: &mut Rng) -> Vec<String> {
    let mut possible = of_all(plan.faults).to_vec();
    possible.retain(|fault| fault.fits(world));
    let over = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let mut happened = Vec::new();
    while Instant::now() < over {
        sleep(Duration::from_millis(rng.u64(200..2_000))).await;
        let Some(fault) = rng.choice(&possible).copied() else {
            continue;
        };
        let began = load.now();
        fault.happen(world, rng).await;
        if fault.loses_the_stream(world) {
            load.lost(began);
        }
        happened.push(format!("{fault:?}"));
    }
    happened
}

/// A client that comes back by itself, soon.
pub async fn patient_client(urls: &str) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .ignore_discovered_servers()
        .max_reconnects(None)
        .connect(urls.split(',').collect::<Vec<_>>())
        .await
        .unwrap()
}

/// Listens to what the stream takes.
pub async fn hear(client: async_nats::Client, load: Arc<Workload>, stored: Arc<Mutex<Vec<Stored>>>) {
    let mut tap = client.subscribe(format!("{TAP}.>")).await.unwrap();
    while let Some(message) = tap.next().await {
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        let Some(sequence) = header("Nats-Sequence").and_then(|text| text.parse().ok()) else {
            continue;
        };
        stored.lock().push(Stored {
            sequence,
            message_id: header("Nats-Msg-Id"),
            op: workload::writer_of(&message.payload),
            heard: load.now(),
        });
    }
}

/// What a host that starts now makes of the stream, by key.
async fn hosts_hold(world: &World, load: &Workload) -> Vec<Option<OpId>> {
    let call = format!("STREAM.MSG.GET.{STREAM}");
    let ask = async |request| world.nodes[0].api(&call, request).await;
    let messages = host_model::messages(LATTICE, ask).await;
    let cache = host_model::load(&messages);
    let bodies = messages
        .iter()
        .map(|message| (message.sequence, &message.body))
        .collect::<BTreeMap<_, _>>();
    load.keys
        .iter()
        .map(|key| {
            let link = cache.links.get(&key.triple())?;
            workload::writer_of(bodies[&link.sequence])
        })
        .collect()
}

fn logs(folder: &Path, gateways: usize) -> Vec<String> {
    let log =
        |number| std::fs::read_to_string(folder.join(format!("gateway-{number}.log"))).unwrap_or_default();
    (0..gateways).map(log).collect()
}
