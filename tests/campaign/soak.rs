//! The soak: one world for hours, under an even load and faults that leave the gateways alive, to see what grows in them.
//!
//! Nothing is kept of the history but counts: what each writer that is alone on its entry is answered is judged at once, and
//! so is what watchers are told.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use clap::ValueEnum;
use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Options,
    faults::Fault,
    plot::{Line, Plot},
    watchers::{WATCHERS, Watched, Watchers},
    workload::{Passing, Size, Workload},
    world::{Gateway, Layout, Like, Program, Topology, World},
};

/// What may grow in an hour.
const MEMORY_BYTES_AN_HOUR: f64 = 1024.0 * 1024.0;
const DESCRIPTORS_AN_HOUR: f64 = 1.0;
const THREADS_AN_HOUR: f64 = 1.0;

/// How often it is looked at the processes.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// How often what gateways recorded is taken away, as operators do.
const ROTATION_INTERVAL: Duration = Duration::from_mins(1);
/// What is judged is the median of each so long a part: samples that follow each other are not independent.
const PARTS: usize = 24;
/// Two-sided 95 % of Student's t with as many degrees of freedom as that leaves.
const STUDENT: f64 = 2.074;

const CONTENDED: usize = 6;
const ALONE: usize = 48;
const PAUSE_ALONE: Duration = Duration::from_millis(100);

/// A gateway's process at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the load began.
    seconds: f64,
    resident: f64,
    descriptors: f64,
    threads: f64,
}

/// What is looked at in a process.
struct Figure {
    name: &'static str,
    file: &'static str,
    unit: &'static str,
    /// One of the unit.
    one: f64,
    of: fn(&Sample) -> f64,
    an_hour: f64,
}

const FIGURES: [Figure; 3] = [
    Figure {
        name: "resident memory",
        file: "memory.svg",
        unit: "MiB",
        one: 1024.0 * 1024.0,
        of: |sample| sample.resident,
        an_hour: MEMORY_BYTES_AN_HOUR,
    },
    Figure {
        name: "descriptors",
        file: "descriptors.svg",
        unit: "open",
        one: 1.0,
        of: |sample| sample.descriptors,
        an_hour: DESCRIPTORS_AN_HOUR,
    },
    Figure {
        name: "threads",
        file: "threads.svg",
        unit: "running",
        one: 1.0,
        of: |sample| sample.threads,
        an_hour: THREADS_AN_HOUR,
    },
];

impl Fault {
    /// Whether the same gateways and all that was written are there after it.
    fn leaves_all(self, world: &World) -> bool {
        let ends_a_gateway = matches!(self, Self::KillGateway | Self::StopGateway);
        self.fits(world) && !ends_a_gateway && !self.loses_the_stream(world)
    }
}

/// Runs it, and tells whether nothing grew, and nothing was wrong.
pub async fn run(options: &Options, seed: u64) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::copied_to(folder.path(), None);
    let mut rng = Rng::with_seed(seed);
    let topology = options.topologies.first().copied().unwrap_or(Topology::R3File);
    let layout = options.layouts.first().copied().unwrap_or(Layout::Component);
    let like = Like {
        topology,
        layout,
        has_hosts: false,
        gateways: options.gateways,
    };
    let mut world = World::start(like, &program, folder.path()).await;
    let size = Size {
        contended: CONTENDED,
        alone: options.alone.unwrap_or(ALONE),
    };
    let load = Workload::passing(size, &world, seed);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    load.settle(&mut rng.fork()).await;
    load.begin_all(PAUSE_ALONE, &mut rng, &tasks, &stop);
    let watchers = Watchers::new(load.gateways(), layout);
    let watching = (0..WATCHERS)
        .map(|_| tokio::spawn(Arc::clone(&watchers).watch(rng.fork(), stop.clone())))
        .collect::<Vec<_>>();

    let processes = world.gateways.iter().map(Process::of).collect();
    let sampling = tokio::spawn(sample(processes, stop.clone()));
    let began = Instant::now();
    let faults = break_things(&mut world, began + options.time(), &mut rng).await;
    let time = began.elapsed();
    stop.cancel();
    let sampled = sampling.await.unwrap();
    tasks.close();
    tasks.wait().await;
    world.have_leaders().await;
    let converging = watching.into_iter().enumerate().map(async |(number, view)| {
        watchers
            .converge(view.await.unwrap(), number % options.gateways)
            .await;
    });
    join_all(converging).await;
    let (watched, diverged) = watchers.outcome();
    let Passing { wrong, .. } = load.passed();
    let wrong = [wrong, diverged, sampled.wrong].concat();

    let heading = format!(
        "soak of {:.1} minutes from seed {seed}: {topology:?}, {layout:?}, {} gateways, {} entries",
        time.as_secs_f64() / 60.0,
        options.gateways,
        load.keys.len()
    );
    let told = Told {
        heading,
        time,
        faults,
        passed: load.passed(),
        watched,
        wrong,
        series: sampled.series,
    };
    let folder = options.keep.join("soak");
    std::fs::create_dir_all(&folder).unwrap();
    told.write(&folder)
}

/// Faults, one after the other with some quiet in between, until the time is over; tells how many.
async fn break_things(world: &mut World, until: Instant, rng: &mut Rng) -> u64 {
    let possible = Fault::value_variants()
        .iter()
        .filter(|fault| fault.leaves_all(world));
    let possible = possible.copied().collect::<Vec<_>>();
    let mut happened = 0;
    while Instant::now() < until {
        // The quiet, in which what a fault left behind would go away.
        let quiet = Duration::from_millis(rng.u64(1_000..10_000));
        sleep(quiet.min(until.saturating_duration_since(Instant::now()))).await;
        if Instant::now() < until {
            rng.choice(&possible).unwrap().happen(world, rng).await;
            happened += 1;
            eprint!(
                "\rsoak: {:.1} min left, {happened} faults ",
                (until - Instant::now()).as_secs_f64() / 60.0
            );
        }
    }
    eprintln!();
    happened
}

/// A gateway's process, by what it is looked at.
struct Process {
    id: u32,
    audit: std::path::PathBuf,
}

impl Process {
    fn of(gateway: &Gateway) -> Self {
        Self {
            id: gateway.process().unwrap(),
            audit: gateway.audit(),
        }
    }

    /// `None` where it is no more.
    fn sample(&self, seconds: f64) -> Option<Sample> {
        let folder = Path::new("/proc").join(self.id.to_string());
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        Some(Sample {
            seconds,
            resident: of("VmRSS:")? * 1024.0,
            descriptors: float(std::fs::read_dir(folder.join("fd")).ok()?.count()),
            threads: of("Threads:")?,
        })
    }
}

/// What was seen of the processes.
struct Sampled {
    series: Vec<Vec<Sample>>,
    wrong: Vec<String>,
}

async fn sample(processes: Vec<Process>, stop: CancellationToken) -> Sampled {
    let began = Instant::now();
    let mut rotated = began;
    let mut series = processes.iter().map(|_| Vec::new()).collect::<Vec<_>>();
    let mut wrong = Vec::new();
    let mut looks = interval(SAMPLE_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        for (number, (process, samples)) in processes.iter().zip(&mut series).enumerate() {
            match process.sample(began.elapsed().as_secs_f64()) {
                Some(sample) => samples.push(sample),
                None if wrong.is_empty() => wrong.push(format!("gateway {number} ended by itself")),
                None => {}
            }
        }
        if rotated.elapsed() > ROTATION_INTERVAL {
            rotated = Instant::now();
            for process in &processes {
                // It is made again at the next record; there may have been none.
                drop(std::fs::remove_file(&process.audit));
            }
        }
    }
    Sampled { series, wrong }
}

/// A straight line through what was seen, and how sure that is.
#[derive(Clone, Copy, Debug)]
struct Slope {
    /// At the beginning of what is judged, and at its end, as the line tells.
    ends: (f64, f64),
    an_hour: f64,
    /// The slope is so near to the true one in 95 of 100 cases.
    within: f64,
}

impl Slope {
    /// Least squares over the medians of parts; `None` of too little.
    fn of(samples: &[Sample], figure: fn(&Sample) -> f64) -> Option<Self> {
        let points = medians(samples, figure);
        if points.len() < PARTS {
            return None;
        }
        let count = float(points.len());
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
        let spread = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum::<f64>();
        let slope = points
            .iter()
            .map(|(x, y)| (x - x_mean) * (y - y_mean))
            .sum::<f64>()
            / spread;
        let at = |x: f64| y_mean + slope * (x - x_mean);
        let rest = points.iter().map(|(x, y)| (y - at(*x)).powi(2)).sum::<f64>();
        let error = (rest / (count - 2.0) / spread).sqrt();
        let (first, last) = (points.first()?.0, points.last()?.0);
        Some(Self {
            ends: (at(first), at(last)),
            an_hour: slope * 3600.0,
            within: STUDENT * error * 3600.0,
        })
    }

    /// Whether it surely rises by more than so much.
    fn exceeds(self, an_hour: f64) -> bool {
        self.an_hour - self.within > an_hour
    }
}

/// The median time and figure of each part; none of too little.
fn medians(samples: &[Sample], figure: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let middle = |part: &[Sample], of: fn(&Sample) -> f64| {
        let mut values = part.iter().map(of).collect::<Vec<_>>();
        values.sort_by(f64::total_cmp);
        Some(*values.get(values.len() / 2)?)
    };
    let bound = |number: usize| number * samples.len() / PARTS;
    let parts = (0..PARTS).map(|number| &samples[bound(number)..bound(number + 1)]);
    let points = parts.map(|part| Some((middle(part, |sample| sample.seconds)?, middle(part, figure)?)));
    points.collect::<Option<_>>().unwrap_or_default()
}

/// What a soak came to.
struct Told {
    heading: String,
    time: Duration,
    faults: u64,
    passed: Passing,
    watched: Watched,
    wrong: Vec<String>,
    series: Vec<Vec<Sample>>,
}

impl Told {
    /// Until then caches and logs of what changed fill up.
    fn warm_up(&self) -> Duration {
        const AT_MOST: Duration = Duration::from_mins(30);
        (self.time / 3).min(AT_MOST)
    }

    fn warm(&self, series: &[Sample]) -> Vec<Sample> {
        let from = self.warm_up().as_secs_f64();
        series
            .iter()
            .filter(|sample| sample.seconds >= from)
            .copied()
            .collect()
    }

    /// Writes and prints the report, writes plots and samples; tells whether all is as it should be.
    fn write(&self, folder: &Path) -> bool {
        let mut is_good = self.wrong.is_empty();
        let mut report = format!("{}\n\n", self.heading);
        let Passing {
            writes,
            reads,
            attempts,
            unknown,
            ..
        } = &self.passed;
        for (what, count) in [
            ("faults", self.faults),
            ("writes asked for", *writes),
            ("  attempts of them", *attempts),
            ("  unknown in the end", *unknown),
            ("fully consistent reads", *reads),
            ("messages of watches", self.watched.messages),
            ("  reconnects of watchers", self.watched.reconnects),
            ("  watches that began anew", self.watched.resyncs),
        ] {
            writeln!(report, "{what:<50} {count}").unwrap();
        }
        writeln!(
            report,
            "\nafter a warm-up of {:.1} minutes:\n",
            self.warm_up().as_secs_f64() / 60.0
        )
        .unwrap();
        writeln!(report, "| gateway | what | from | to | an hour | at most | |").unwrap();
        writeln!(report, "|---|---|--:|--:|--:|--:|---|").unwrap();
        for (number, series) in self.series.iter().enumerate() {
            let warm = self.warm(series);
            for figure in &FIGURES {
                let Figure {
                    name,
                    unit,
                    one,
                    an_hour,
                    ..
                } = figure;
                let Some(slope) = Slope::of(&warm, figure.of) else {
                    is_good = false;
                    writeln!(report, "| {number} | {name} | | | | | too short to tell |").unwrap();
                    continue;
                };
                let exceeds = slope.exceeds(*an_hour);
                is_good &= !exceeds;
                writeln!(
                    report,
                    "| {number} | {name}, {unit} | {:.1} | {:.1} | {:+.2} ± {:.2} | {:.0} | {} |",
                    slope.ends.0 / one,
                    slope.ends.1 / one,
                    slope.an_hour / one,
                    slope.within / one,
                    an_hour / one,
                    if exceeds { "**exceeded**" } else { "" }
                )
                .unwrap();
            }
        }
        for wrong in &self.wrong {
            writeln!(report, "wrong: {wrong}").unwrap();
        }
        println!("{report}");
        std::fs::write(folder.join("report.md"), report).unwrap();
        std::fs::write(folder.join("samples.csv"), self.samples()).unwrap();
        for figure in &FIGURES {
            self.plot(figure).write(folder).unwrap();
        }
        println!("kept: {}", folder.display());
        is_good
    }

    fn samples(&self) -> String {
        let mut lines = "gateway,seconds,resident_bytes,descriptors,threads\n".to_owned();
        for (number, series) in self.series.iter().enumerate() {
            for sample in series {
                let Sample {
                    seconds,
                    resident,
                    descriptors,
                    threads,
                } = sample;
                writeln!(lines, "{number},{seconds:.1},{resident},{descriptors},{threads}").unwrap();
            }
        }
        lines
    }

    fn plot(&self, figure: &Figure) -> Plot {
        let medians = self
            .series
            .iter()
            .map(|series| medians(series, figure.of))
            .collect::<Vec<_>>();
        let places = medians.first().into_iter().flatten();
        let lines = medians.iter().enumerate().map(|(number, medians)| Line {
            name: format!("gateway {number}"),
            figures: medians
                .iter()
                .map(|(_, value)| Some(value / figure.one))
                .collect(),
        });
        Plot {
            file: figure.file,
            title: figure.name,
            x_label: "minutes",
            places: places
                .map(|(seconds, _)| format!("{:.0}", seconds / 60.0))
                .collect(),
            y_label: figure.unit,
            is_logarithmic: false,
            lines: lines.collect(),
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "figures for people"
)]
fn float(count: usize) -> f64 {
    count as f64
}
