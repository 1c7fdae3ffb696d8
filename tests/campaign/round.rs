//! One round: a world, a load, faults, and the history that they leave.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::ValueEnum;
use fastrand::Rng;
use futures_util::{StreamExt, future::join_all};
use lattice_gateway::store::evidence::{self, Evidence};
use parking_lot::Mutex;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit,
    bucket_model::{self, Operation},
    check,
    entries::{self, Said, Subjects},
    faults::Fault,
    history::{Call, History, OpId, Stored, hex},
    host_model,
    watchers::{WATCHERS, Watched, Watchers},
    workload::{Size, Workload},
    world::{CACHE_STREAM, LATTICE, Layout, Like, Program, STOPS_WITHIN, TAP, Topology, World},
};

/// Between two operations on an entry of one writer, on average.
const PAUSE_ALONE: Duration = Duration::from_millis(20);

/// What rounds are made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What the gateways run.
    pub program: &'a Program,
    /// Gateways at a time.
    pub gateways: usize,
    /// Seconds of load.
    pub seconds: f64,
    /// Entries that have one writer each, without a pause: much is written to them.
    pub alone: usize,
    /// What a round chooses one of; none means all.
    pub topologies: &'a [Topology],
    /// What a round chooses one of; none means all.
    pub layouts: &'a [Layout],
    /// Whether stand-ins for hosts write the records of layout `component`; else a round in four has them.
    pub has_hosts: Option<bool>,
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
    /// How much was watched.
    pub watched: Watched,
}

impl Plan<'_> {
    /// Plays a round and checks it.
    pub async fn round(&self, seed: u64) -> Played {
        let (history, watched, trouble) = play(self, seed).await;
        let (mut violations, undecided) = check::all(&history);
        violations.extend(trouble);
        eprintln!(
            "seed {seed}, {:8} {:11}{}, {:5} operations, {} violations; {}",
            history.topology,
            format!("{:?}", history.layout),
            if history.has_hosts { " beside hosts" } else { "" },
            history.ops.len(),
            violations.len(),
            history.faults.join(" ")
        );
        Played {
            history,
            violations,
            undecided,
            watched,
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

/// Gives a round's history, how much of it was watched, and what went wrong beside it.
async fn play(plan: &Plan<'_>, seed: u64) -> (History, Watched, Vec<String>) {
    let program = plan.program;
    let mut rng = Rng::with_seed(seed);
    let topology = rng.choice(of_all(plan.topologies)).copied().unwrap();
    let layout = rng.choice(of_all(plan.layouts)).copied().unwrap();
    let draws_hosts = rng.u8(..4) == 0;
    let has_hosts = layout == Layout::Component && plan.has_hosts.unwrap_or(draws_hosts);
    let folder = tempfile::tempdir().unwrap();
    let like = Like {
        topology,
        layout,
        has_hosts,
        gateways: plan.gateways,
    };
    let mut world = World::start(like, program, folder.path()).await;
    let size = Size {
        contended: rng.usize(4..10),
        alone: plan.alone,
    };
    let load = Workload::new(size, &world, seed);
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
    load.begin_all(PAUSE_ALONE, &mut rng, &tasks, &stop);
    if rng.bool() {
        let client = patient_client(&world.urls()).await;
        tasks.spawn(Arc::clone(&load).interfere(client, rng.fork(), stop.clone()));
    }
    if has_hosts {
        for _ in 0..2 {
            let client = patient_client(&world.urls()).await;
            tasks.spawn(Arc::clone(&load).be_a_host(client, rng.fork(), stop.clone()));
        }
    }
    let watchers = Watchers::new(load.gateways(), layout);
    let watching = (0..WATCHERS).map(|_| tokio::spawn(Arc::clone(&watchers).watch(rng.fork(), stop.clone())));
    let watching = watching.collect::<Vec<_>>();
    let happened = break_things(plan, &mut world, &load, &mut rng).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;

    world.have_leaders().await;
    if has_hosts {
        // Nothing tells that no call which was hung up on applies its edit once more.
        sleep(Duration::from_secs(2)).await;
    }
    let mut standing = Vec::new();
    for gateway in 0..world.gateways.len() {
        standing.push(load.standing(gateway).await);
    }
    let converging = watching.into_iter().enumerate().map(async |(number, view)| {
        watchers
            .converge(view.await.unwrap(), number % plan.gateways)
            .await;
    });
    join_all(converging).await;
    let (watched, diverged) = watchers.outcome();
    let held_by_hosts = hosts_hold(&world, &load).await;
    // What callers hung up on is recorded once it has ended: at the latest when its gateway has.
    for gateway in &mut world.gateways {
        assert!(
            gateway.stop(STOPS_WITHIN).await,
            "the gateway did not end within {STOPS_WITHIN:?} of SIGTERM"
        );
    }
    let audited = world
        .gateways
        .iter()
        .map(|gateway| audit::read(&gateway.audit()))
        .collect();
    let panics = panics(program, folder.path(), world.gateways.len());
    let trouble = [panics, diverged].concat();
    let stored = stored.lock().clone();
    let history = History {
        seed,
        topology: format!("{topology:?}"),
        layout,
        has_hosts,
        host_writes: load.host_writes(),
        kinds: load.keys.iter().map(entries::Key::kind).collect(),
        short_hashes: load.keys.iter().map(entries::Key::short_hash).collect(),
        faults: happened,
        ops: load.ops(),
        stored,
        standing,
        folded: held_by_hosts,
        contended: load.contended,
        attempts: load.attempts(),
        audited,
        losses: OnceLock::new(),
    };
    (history, watched, trouble)
}

/// Faults, one after the other with some quiet in between, until the round's time is over.
async fn break_things(plan: &Plan<'_>, world: &mut World, load: &Workload, rng: &mut Rng) -> Vec<String> {
    let mut possible = of_all(plan.faults).to_vec();
    possible.retain(|fault| fault.fits(world));
    let over = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let mut happened = Vec::new();
    while Instant::now() < over {
        // The quiet, whose length is part of what is tried.
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

/// Listens to what the streams take.
pub async fn hear(client: async_nats::Client, load: Arc<Workload>, stored: Arc<Mutex<Vec<Stored>>>) {
    let subjects = Subjects::of(&load.keys);
    let mut tap = client.subscribe(format!("{TAP}.>")).await.unwrap();
    while let Some(message) = tap.next().await {
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        let number = |name: &str| header(name).and_then(|text| text.parse().ok());
        let Some(sequence) = number("Nats-Sequence") else {
            continue;
        };
        let time = header("Nats-Time-Stamp").and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
        let subject = message.subject.trim_start_matches(TAP).trim_start_matches('.');
        let evidence = header(evidence::HEADER).and_then(|text| Evidence::decode(text.as_bytes()));
        let calls = evidence.iter().flat_map(Evidence::calls).map(|stamp| Call {
            id: hex(&stamp.id),
            entry: hex(&stamp.entry),
        });
        let (op, record) = match subjects.said(&load.keys, subject, &message.payload) {
            Said::One(op) => (op, None),
            Said::Record(record) => (None, Some(record)),
        };
        stored.lock().push(Stored {
            subject: subject.to_owned(),
            sequence,
            previous: number("Nats-Last-Sequence").unwrap_or(0),
            unix_nanos: time.map_or(0, OffsetDateTime::unix_timestamp_nanos),
            message_id: header("Nats-Msg-Id"),
            calls: calls.collect(),
            op,
            record,
            heard: load.now(),
        });
    }
}

/// What a host that starts now makes of the streams, by key.
async fn hosts_hold(world: &World, load: &Workload) -> Vec<Option<OpId>> {
    if world.layout == Layout::CacheStream {
        return cache_loaders_hold(world, load).await;
    }
    let mut bodies = BTreeMap::new();
    for stream in world.layout.streams() {
        let call = format!("STREAM.MSG.GET.{stream}");
        let ask = async |request| world.nodes[0].api(&call, request).await;
        let bucket = stream.strip_prefix("KV_").unwrap();
        for entry in bucket_model::entries(bucket, ask).await {
            let subject = format!("$KV.{bucket}.{}", entry.key);
            match entry.operation {
                Operation::Put => drop(bodies.insert(subject, entry.body)),
                Operation::Delete | Operation::Purge => drop(bodies.remove(&subject)),
            }
        }
    }
    let said = |key: &entries::Key| key.said(bodies.get(&key.subject)?);
    load.keys.iter().map(said).collect()
}

async fn cache_loaders_hold(world: &World, load: &Workload) -> Vec<Option<OpId>> {
    let call = format!("STREAM.MSG.GET.{CACHE_STREAM}");
    let ask = async |request| world.nodes[0].api(&call, request).await;
    let messages = host_model::messages(LATTICE, ask).await;
    let cache = host_model::load(&messages);
    let bodies = messages
        .iter()
        .map(|message| (message.sequence, &message.body))
        .collect::<BTreeMap<_, _>>();
    load.keys
        .iter()
        .map(|key| key.said(bodies[&key.loaded(&cache)?]))
        .collect()
}

/// What gateways panicked with, as their logs tell.
fn panics(program: &Program, folder: &Path, gateways: usize) -> Vec<String> {
    let log =
        |number| std::fs::read_to_string(folder.join(format!("gateway-{number}.log"))).unwrap_or_default();
    let logs = (0..gateways).map(log).collect::<Vec<_>>();
    assert!(
        program.safeguard_off.is_none() || logs.iter().any(|log| log.contains("left out")),
        "the gateways are of another build than the campaign's: build them again, with its feature"
    );
    let panics = logs
        .iter()
        .flat_map(|log| log.lines())
        .filter(|line| line.contains("panicked"));
    panics.map(str::to_owned).collect()
}
