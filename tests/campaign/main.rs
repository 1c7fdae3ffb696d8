//! The campaign: breaks real servers and gateways under load, and holds every history against what is promised.
//!
//! Rounds follow each other until the time is over, each with a topology, keys and faults of its own that its seed
//! decides. A round runs writers, readers, watchers and foreign raw writers against two gateways while faults happen one
//! after the other; then everything is mended, what stands is read, the watchers' views are compared with it, and the
//! history is [checked](check). The history of a
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

mod alone;
mod audit;
#[path = "../it/bucket_model.rs"]
mod bucket_model;
mod calls;
mod check;
mod drills;
mod entries;
mod faults;
mod flaws;
mod harness;
mod history;
#[path = "../it/host_model.rs"]
mod host_model;
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "figures for people"
)]
#[path = "../../benches/gateway/plot.rs"]
mod plot;
mod round;
mod safeguards;
mod soak;
mod totals;
mod watchers;
mod workload;
mod world;

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use fastrand::Rng;
use tokio::time::Instant;

use crate::{
    faults::Fault,
    round::{Plan, Played},
    totals::Totals,
    world::{Layout, Program, Topology},
};

/// Why a plot cannot be written.
type Failure = Box<dyn Error + Send + Sync>;

/// Breaks real servers and gateways under load, and checks every history.
#[derive(Debug, Parser)]
struct Options {
    /// How long new rounds are begun, or a soak lasts; 60 and 240 unless told otherwise, and `--release` goes on until its
    /// figures are reached.
    #[arg(long)]
    minutes: Option<f64>,
    /// As much as a release has to stand, 1,000 faults and 1,000,000 operations that change something; fails short of that.
    #[arg(long)]
    release: bool,
    /// The seed of the first round; each next one has the next number.
    #[arg(long)]
    seed: Option<u64>,
    /// Goes on with the campaign that was broken off, whose totals are where histories are kept.
    #[arg(long, conflicts_with = "seed")]
    go_on: bool,
    /// Runs only this many rounds.
    #[arg(long)]
    rounds: Option<u64>,
    /// Seconds of load in a round; 15 unless told otherwise, 30 with `--release`.
    #[arg(long)]
    seconds: Option<f64>,
    /// One long round of an even load in place of many: fails where a gateway's memory, descriptors or threads grow.
    #[arg(long)]
    soak: bool,
    /// Entries that have a writer of their own each, with hardly a pause; 0 unless told otherwise, 192 with `--release`.
    #[arg(long)]
    alone: Option<usize>,
    /// Only these topologies.
    #[arg(long = "topology", value_enum)]
    topologies: Vec<Topology>,
    /// Only these layouts.
    #[arg(long = "layout", value_enum)]
    layouts: Vec<Layout>,
    /// Whether stand-ins for hosts write the records of layout `component`; else some rounds have them.
    #[arg(long)]
    hosts: Option<bool>,
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

/// Entries of one writer each that keep the machine busy.
const ALONE_FOR_A_RELEASE: usize = 192;

impl Options {
    fn alone(&self) -> usize {
        let unless_told = if self.release { ALONE_FOR_A_RELEASE } else { 0 };
        self.alone.unwrap_or(unless_told)
    }

    fn seconds(&self) -> f64 {
        let unless_told = if self.release { 30.0 } else { 15.0 };
        self.seconds.unwrap_or(unless_told)
    }

    fn time(&self) -> Duration {
        const HOUR: f64 = 60.0;
        const DAY: f64 = 24.0 * HOUR;
        let unless_told = match (self.soak, self.release) {
            (true, _) => 4.0 * HOUR,
            (false, true) => DAY,
            (false, false) => HOUR,
        };
        Duration::from_secs_f64(60.0 * self.minutes.unwrap_or(unless_told))
    }

    /// What a round's choices depend on besides its seed.
    fn choices(&self) -> String {
        let named = |option: &str, names: Vec<String>| {
            names
                .into_iter()
                .map(|name| format!("--{option} {name}"))
                .collect::<Vec<_>>()
        };
        let hosts = self.hosts.iter().map(bool::to_string).collect();
        [
            named("topology", names(&self.topologies)),
            named("layout", names(&self.layouts)),
            named("fault", names(&self.faults)),
            named("hosts", hosts),
            named("alone", vec![self.alone().to_string()]),
            named("seconds", vec![self.seconds().to_string()]),
        ]
        .concat()
        .join(" ")
    }
}

/// As they are written in options.
fn names<T: ValueEnum>(values: &[T]) -> Vec<String> {
    values
        .iter()
        .filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()))
        .collect()
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
    if options.soak {
        let is_good = soak::run(&options, first_seed).await;
        return ExitCode::from(u8::from(!is_good));
    }
    if !options.drills.is_empty() {
        let mut are_good = true;
        for drill in &options.drills {
            are_good &= drill.run().await;
        }
        return ExitCode::from(u8::from(!are_good));
    }
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        program: &Program::copied_to(folder.path(), None),
        gateways: options.gateways,
        seconds: options.seconds(),
        alone: options.alone(),
        topologies: &options.topologies,
        layouts: &options.layouts,
        has_hosts: options.hosts,
        faults: &options.faults,
    };
    let mut totals = match options.go_on {
        true => Totals::read(&options.keep),
        false => Totals::from(first_seed),
    };
    let until = Instant::now() + options.time();
    for _ in 0..options.rounds.unwrap_or(u64::MAX) {
        if Instant::now() >= until || (options.release && totals.is_enough_for_a_release()) {
            break;
        }
        let began = Instant::now();
        eprint!("campaign: {:5.1} min, ", totals.minutes());
        let played = plan.round(totals.next_seed()).await;
        totals.add(&played, began.elapsed());
        totals.keep(&options.keep);
        if !played.violations.is_empty() {
            tell(&options, &played);
        }
    }
    totals.report();
    if options.release {
        totals.report_release();
    }
    let falls_short = options.release && !totals.is_enough_for_a_release();
    ExitCode::from(u8::from(falls_short || totals.has_failed()))
}

/// Keeps the history of a failed round, and tells what is wrong and how to see it again.
fn tell(options: &Options, played: &Played) {
    let Played {
        history, violations, ..
    } = played;
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
        "  the seed again:    make campaign ARGS='--seed {} --rounds 1 {}'",
        history.seed,
        options.choices()
    );
}
