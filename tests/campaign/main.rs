//! The campaign: breaks real servers and gateways under load, and holds every history against what is promised.
//!
//! Rounds follow each other until the time is over, each with a topology, keys and faults of its own that its seed
//! decides. A round runs writers, readers and foreign raw writers against two gateways while faults happen one after
//! the other; then everything is mended, what stands is read, and the history is [checked](check). The history of a
//! round that fails is kept, with the command that runs its seed again and the one that checks it again.
//!
//! `make campaign` runs it; `ARGS='--help'` lists the options.

#![expect(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unnecessary_debug_formatting,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and this one tells its progress"
)]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "the harness serves other tests too"
)]

mod check;
mod drills;
mod faults;
mod flaws;
mod harness;
mod history;
#[path = "../it/host_model.rs"]
mod host_model;
mod safeguards;
mod workload;
mod world;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use fastrand::Rng;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    faults::Fault,
    history::{Action, History, How, Outcome, Stored},
    workload::Workload,
    world::{LATTICE, Program, STREAM, TAP, Topology, World},
};

/// Breaks real servers and gateways under load, and checks every history.
#[derive(Debug, Parser)]
struct Options {
    /// How long new rounds are begun.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The seed of the first round; each next one has the next number.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs only this many rounds.
    #[arg(long)]
    rounds: Option<u64>,
    /// Seconds of load in a round.
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
    /// Only these topologies.
    #[arg(long = "topology", value_enum)]
    topologies: Vec<Topology>,
    /// Only these faults.
    #[arg(long = "fault", value_enum)]
    faults: Vec<Fault>,
    /// Runs single faults again and again, each measured, and nothing else.
    #[arg(long = "drill", value_enum)]
    drills: Vec<drills::Drill>,
    /// Gateways at a time.
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Leaves safeguards out, one after the other (`all`, or names), each until the campaign notices or the minutes are
    /// over: then a violation is what is hoped for.
    #[arg(long = "safeguard-off")]
    safeguards_off: Vec<String>,
    /// Where the histories of failed rounds are kept.
    #[arg(long, default_value = "target/campaign")]
    keep: PathBuf,
    /// Checks a kept history again, and nothing else.
    #[arg(long)]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(flaw) = flaws::are_found() {
        eprintln!("campaign: the checkers are broken: {flaw}");
        return ExitCode::FAILURE;
    }
    if let Some(file) = &options.check {
        let history = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let (violations, undecided) = check::all(&history);
        for violation in &violations {
            println!("{violation}");
        }
        println!("{} violations, {undecided} keys undecided", violations.len());
        return ExitCode::from(u8::from(!violations.is_empty()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.unwrap().block_on(run(options))
}

async fn run(options: Options) -> ExitCode {
    let first_seed = options.seed.unwrap_or_else(|| Rng::new().u64(..1 << 32));
    if !options.safeguards_off.is_empty() {
        let are_all_missed = safeguards::leave_out(&options, &options.safeguards_off, first_seed).await;
        return ExitCode::from(u8::from(!are_all_missed));
    }
    if !options.drills.is_empty() {
        let mut are_good = true;
        for drill in &options.drills {
            are_good &= drill.run().await;
        }
        return ExitCode::from(u8::from(!are_good));
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::copied_to(folder.path(), None);
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.minutes * 60.0);
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    for number in 0..options.rounds.unwrap_or(u64::MAX) {
        if Instant::now() >= until {
            break;
        }
        let seed = first_seed + number;
        eprint!("campaign: {:5.1} min, ", began.elapsed().as_secs_f64() / 60.0);
        let (history, violations, undecided) =
            round(&options, &program, seed, &options.topologies, &options.faults).await;
        totals.add(&history, undecided, violations.len());
        if !violations.is_empty() {
            failed.push(seed);
            tell(&options, &history, &violations);
        }
    }
    totals.report(first_seed, began.elapsed(), &failed);
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// Plays a round and checks it: its history, what is wrong with it, and the keys for which the search was given up.
async fn round(
    options: &Options,
    program: &Program,
    seed: u64,
    topologies: &[Topology],
    faults: &[Fault],
) -> (History, Vec<String>, usize) {
    let (history, trouble) = play(options, program, seed, topologies, faults).await;
    let (mut violations, undecided) = check::all(&history);
    violations.extend(trouble);
    eprintln!(
        "seed {seed}, {:8}, {:5} operations, {} violations; {}",
        history.topology,
        history.ops.len(),
        violations.len(),
        history.faults.join(" ")
    );
    (history, violations, undecided)
}

/// Keeps the history of a failed round, and tells what is wrong and how to see it again.
fn tell(options: &Options, history: &History, violations: &[String]) {
    std::fs::create_dir_all(&options.keep).unwrap();
    let file = options.keep.join(format!("history-{}.json", history.seed));
    std::fs::write(&file, serde_json::to_vec_pretty(history).unwrap()).unwrap();
    for violation in violations.iter().take(20) {
        eprintln!("  {violation}");
    }
    eprintln!("  kept: {}", file.display());
    eprintln!(
        "  the history again: make campaign ARGS='--check {}'",
        file.display()
    );
    eprintln!(
        "  the seed again:    make campaign ARGS='--seed {} --rounds 1'",
        history.seed
    );
}

/// One round. Gives its history, and what went wrong beside it.
async fn play(
    options: &Options,
    program: &Program,
    seed: u64,
    topologies: &[Topology],
    faults: &[Fault],
) -> (History, Vec<String>) {
    let mut rng = Rng::with_seed(seed);
    let topologies = if topologies.is_empty() {
        Topology::value_variants()
    } else {
        topologies
    };
    let topology = topologies[rng.usize(..topologies.len())];
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(topology, options.gateways, program, folder.path()).await;
    let addresses = world
        .gateways
        .iter()
        .map(|gateway| gateway.address)
        .collect::<Vec<_>>();
    let load = Workload::new(rng.usize(3..9), &addresses, seed);
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
        let urls = world
            .nodes
            .iter()
            .map(harness::Nats::url)
            .collect::<Vec<_>>()
            .join(",");
        let client = patient_client(&urls).await;
        tasks.spawn(Arc::clone(&load).interfere(client, rng.fork(), stop.clone()));
    }
    let happened = break_things(faults, options.seconds, &mut world, &load, &mut rng).await;
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
        blind: load.blind.lock().clone(),
        standing,
        folded: held_by_hosts,
    };
    (history, trouble)
}

/// Faults, one after the other with some quiet in between, until the round's time is over.
async fn break_things(
    faults: &[Fault],
    seconds: f64,
    world: &mut World,
    load: &Workload,
    rng: &mut Rng,
) -> Vec<String> {
    let possible = if faults.is_empty() {
        Fault::value_variants()
    } else {
        faults
    };
    let mut possible = possible.to_vec();
    possible.retain(|fault| fault.fits(world));
    let over = Instant::now() + Duration::from_secs_f64(seconds);
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
        if fault == Fault::PurgeStream {
            const NOTICED_WITHIN: u64 = 5_000_000;
            load.blind.lock().push((began, load.now() + NOTICED_WITHIN));
        }
        happened.push(format!("{fault:?}"));
    }
    happened
}

/// A client that comes back by itself, soon.
async fn patient_client(urls: &str) -> async_nats::Client {
    async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .ignore_discovered_servers()
        .max_reconnects(None)
        .connect(urls.split(',').collect::<Vec<_>>())
        .await
        .unwrap()
}

/// Listens to what the stream takes.
async fn hear(client: async_nats::Client, load: Arc<Workload>, stored: Arc<Mutex<Vec<Stored>>>) {
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
async fn hosts_hold(world: &World, load: &Workload) -> Vec<Option<history::OpId>> {
    let mut messages = Vec::new();
    let mut next = 1;
    loop {
        let call = format!("STREAM.MSG.GET.{STREAM}");
        let request = json!({"seq": next, "next_by_subj": format!("lc.{LATTICE}.>")});
        let answer = world.nodes[0].api(&call, request).await;
        let Some(message) = answer.get("message") else {
            break;
        };
        let body = message["data"].as_str().unwrap_or_default();
        let sequence = message["seq"].as_u64().unwrap();
        messages.push(host_model::Message {
            sequence,
            subject: message["subject"].as_str().unwrap().to_owned(),
            body: data_encoding::BASE64.decode(body.as_bytes()).unwrap(),
        });
        next = sequence + 1;
    }
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

#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    by_topology: BTreeMap<String, u64>,
    by_fault: BTreeMap<String, u64>,
    acknowledged: u64,
    already_applied: u64,
    retried: u64,
    reads: u64,
    refused: u64,
    not_applied: u64,
    unknown: u64,
    superseded: u64,
    foreign: u64,
    stored: u64,
    losses: u64,
    undecided: usize,
    violations: usize,
}

impl Totals {
    fn add(&mut self, history: &History, undecided: usize, violations: usize) {
        self.rounds += 1;
        *self.by_topology.entry(history.topology.clone()).or_default() += 1;
        for fault in &history.faults {
            *self.by_fault.entry(fault.clone()).or_default() += 1;
        }
        self.stored += u64::try_from(history.stored.len()).unwrap();
        self.undecided += undecided;
        self.violations += violations;
        for op in &history.ops {
            let count = match (op.action, &op.outcome) {
                (Action::Loss, _) => &mut self.losses,
                (Action::ForeignPut | Action::ForeignDelete, _) => &mut self.foreign,
                (Action::Get, _) => &mut self.reads,
                (_, Outcome::Refused) => &mut self.refused,
                (_, Outcome::NotApplied) => &mut self.not_applied,
                (_, Outcome::Unknown) => &mut self.unknown,
                (_, Outcome::Superseded) => &mut self.superseded,
                _ => &mut self.acknowledged,
            };
            *count += 1;
            self.retried += u64::from(op.attempts > 1);
            let how = matches!(
                op.outcome,
                Outcome::Wrote {
                    how: How::AlreadyApplied,
                    ..
                }
            );
            self.already_applied += u64::from(how);
        }
    }

    fn report(&self, seed: u64, time: Duration, failed: &[u64]) {
        let writes = self.acknowledged + self.refused + self.not_applied + self.unknown + self.superseded;
        let share = |count: u64| format!("{count} ({:.2} %)", 100.0 * per(count, writes));
        println!(
            "\ncampaign of {:.1} minutes from seed {seed}: {} rounds",
            time.as_secs_f64() / 60.0,
            self.rounds
        );
        println!("topologies: {}", list(&self.by_topology));
        println!("faults: {}", list(&self.by_fault));
        println!("losses of the stream, as its durability allows: {}", self.losses);
        println!();
        for (what, count) in [
            ("writes asked for", writes.to_string()),
            ("  acknowledged", self.acknowledged.to_string()),
            (
                "  of these by a later attempt (ALREADY_APPLIED)",
                self.already_applied.to_string(),
            ),
            ("  refused by their condition", self.refused.to_string()),
            ("  given up on, not applied", self.not_applied.to_string()),
            ("  given up on, unknown", share(self.unknown)),
            ("  OUTCOME_SUPERSEDED", share(self.superseded)),
            ("operations with a retry", self.retried.to_string()),
            ("fully consistent reads", self.reads.to_string()),
            ("foreign raw writes", self.foreign.to_string()),
            ("messages heard from the streams", self.stored.to_string()),
            ("keys whose search was given up", self.undecided.to_string()),
            ("violations", self.violations.to_string()),
        ] {
            println!("{what:<50} {count}");
        }
        if !failed.is_empty() {
            println!("failed seeds: {failed:?}");
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a figure for people"
)]
fn per(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}
