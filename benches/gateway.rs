//! The project's yardstick: measures the gateway beside what it is made of, and what it costs to keep much.
//!
//! Every part starts the servers it needs, each in a process of its own, drives them from this one, and gives a section
//! of the report. What is compared takes turns within a round, in rotating order, since everything shares one machine's
//! cores; what is told is the median over the rounds. Every turn writes entries that are new to its side.
//!
//! A whole run writes `bench/RESULTS.md`, the plots beside it and every round's figures. `cargo bench --bench gateway --
//! --help` lists the options.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to standard output and the progress to standard error"
)]
#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "figures for people"
)]

#[path = "gateway/access.rs"]
mod access;
#[path = "gateway/apply.rs"]
mod apply;
#[path = "gateway/attacks.rs"]
mod attacks;
#[path = "gateway/call.rs"]
mod call;
#[path = "gateway/checks.rs"]
mod checks;
#[path = "gateway/drive.rs"]
mod drive;
#[path = "gateway/echo.rs"]
mod echo;
#[path = "gateway/etcd.rs"]
mod etcd;
#[path = "gateway/flood.rs"]
mod flood;
#[path = "gateway/growth.rs"]
mod growth;
#[path = "gateway/load.rs"]
mod load;
#[path = "gateway/machine.rs"]
mod machine;
#[path = "gateway/methods.rs"]
mod methods;
#[path = "gateway/offer.rs"]
mod offer;
#[path = "gateway/overload.rs"]
mod overload;
#[path = "gateway/partition.rs"]
mod partition;
#[path = "gateway/plot.rs"]
mod plot;
#[path = "gateway/process.rs"]
mod process;
#[path = "gateway/raw.rs"]
mod raw;
#[path = "gateway/report.rs"]
mod report;
#[path = "gateway/slow.rs"]
mod slow;
#[path = "gateway/stats.rs"]
mod stats;
#[path = "gateway/things.rs"]
mod things;
#[path = "gateway/watch.rs"]
mod watch;
#[path = "gateway/watching.rs"]
mod watching;

use std::{error::Error, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use machine::Machine;
use report::{Report, Section};

#[path = "../tests/it/harness/keys.rs"]
#[expect(
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    reason = "written for the tests"
)]
mod keys;

#[path = "../tests/it/harness/http2.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "written for the tests"
)]
mod http2;

type Failure = Box<dyn Error + Send + Sync>;

/// Where a whole run leaves what it measured.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench");

/// Measures the gateway beside raw publishes, a bare gRPC echo and etcd.
#[derive(Debug, Parser)]
struct Options {
    /// How long a turn is measured.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many rounds there are; medians are told.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One round of short turns on less: whether it works, not how well.
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Overload, partition and attacks for as long as their goals are stated for: minutes.
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Measures these parts only, and does not touch the results of the last whole run.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// The folder for the report, the plots and every round's figures [default: bench/, for whole runs alone].
    #[arg(long)]
    out: Option<PathBuf>,
    /// The etcd to measure beside; skipped where there is none.
    #[arg(long, env = "ETCD", default_value = "etcd")]
    etcd: String,
    /// Serves the echo there, for the process that measures.
    #[arg(long, hide = true)]
    echo_server: Option<u16>,
    /// Cargo's own.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Puts and gets of links over concurrency, beside what they are made of.
    Load,
    /// Every unary put, get and delete, on each layout and storage, and with effects.
    Methods,
    /// What many entries cost.
    Growth,
    /// How soon watchers are told, and what many of them cost.
    Watch,
    /// What it costs to find out who calls, and to check a grant and claims.
    Checks,
    /// What a flood from one caller does to another.
    Flood,
    /// What becomes of more calls than the upstream takes.
    Overload,
    /// What becomes of calls while NATS cannot be reached.
    Partition,
    /// What clients that mean harm do.
    Attacks,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: usize,
    turn: Duration,
    is_quick: bool,
    is_long: bool,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut options = Options::parse();
    if let Some(port) = options.echo_server {
        return echo::serve(port).await;
    }
    if options.quick {
        (options.seconds, options.rounds) = (0.1, 1);
    }
    let machine = Machine::look(&options.etcd).await?;
    let is_wanted = |part: &&Part| options.only.is_empty() || options.only.contains(part);
    let (mut sections, mut outcome) = (Vec::new(), Ok(()));
    for part in Part::value_variants().iter().filter(is_wanted) {
        match part.measure(&options).await {
            Ok(section) => sections.push(section),
            Err(failure) => {
                outcome = Err(failure);
                break;
            }
        }
    }
    let report = Report {
        machine,
        command: options.command(),
        rounds: options.rounds,
        sections,
    };
    println!("{}", report.markdown()?);
    // What was measured until then is told, and takes the place of nothing.
    outcome?;
    if let Some(folder) = options.folder() {
        report.write(&folder)?;
        progress(&format!("written to {}", folder.display()));
    }
    Ok(())
}

impl Part {
    async fn measure(self, options: &Options) -> Result<Section, Failure> {
        let scale = Scale {
            rounds: options.rounds,
            turn: Duration::from_secs_f64(options.seconds),
            is_quick: options.quick,
            is_long: options.long,
        };
        match self {
            Self::Load => load::measure(&scale, &options.etcd).await,
            Self::Methods => methods::measure(&scale).await,
            Self::Growth => growth::measure(&scale).await,
            Self::Watch => watch::measure(&scale).await,
            Self::Checks => Ok(checks::measure()),
            Self::Flood => flood::measure(&scale).await,
            Self::Overload => overload::measure(&scale).await,
            Self::Partition => partition::measure(&scale).await,
            Self::Attacks => attacks::measure(&scale).await,
        }
    }
}

impl Options {
    /// Where the report goes, if anywhere but to standard output.
    fn folder(&self) -> Option<PathBuf> {
        let is_whole = !self.quick && self.only.is_empty();
        self.out
            .clone()
            .or_else(|| is_whole.then(|| PathBuf::from(RESULTS)))
    }

    /// What to enter for the same again.
    fn command(&self) -> String {
        let Self { seconds, rounds, .. } = self;
        let arguments = match (self.quick, *seconds, *rounds) {
            (true, ..) => vec!["--quick".to_owned()],
            (false, 1.0, 9) => Vec::new(),
            (false, ..) => vec![format!("--seconds {seconds} --rounds {rounds}")],
        };
        let long = self.long.then(|| "--long".to_owned());
        let only = self.only.iter().filter_map(ValueEnum::to_possible_value);
        let only = only.map(|part| format!("--only {}", part.get_name()));
        let arguments = arguments.into_iter().chain(long).chain(only).collect::<Vec<_>>();
        if arguments.is_empty() {
            "make bench".to_owned()
        } else {
            format!("make bench ARGS='{}'", arguments.join(" "))
        }
    }
}

fn progress(what: &str) {
    eprintln!("bench: {what}");
}
