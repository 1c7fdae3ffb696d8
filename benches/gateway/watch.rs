//! How soon watchers are told of what is written, beside a consumer of JetStream's, and what many of them cost.

use std::{collections::HashMap, fmt, sync::Arc};

use lattice_gateway::dev::DevServer;
use serde_json::{Map, Value, json};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Failure, Scale,
    call::Caller,
    drive::Work,
    plot::{Line, Plot},
    process::{Gateway, Lattice, caller},
    progress,
    raw::{Consumer, Raw},
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    stats::{median, quantile, rounded},
    things::links,
    watching::{Seen, Watcher},
};

const FAN_OUT: [Crowd; 4] = [
    Crowd::of(1),
    Crowd::of(100),
    Crowd::beside(100, 1_000),
    Crowd::of(10_000),
];
const QUICK: [Crowd; 4] = [
    Crowd::of(1),
    Crowd::of(100),
    Crowd::beside(100, 100),
    Crowd::of(1_000),
];
const CONNECTIONS_MAX: usize = 100;
const CHANGES_A_SECOND: u32 = 100;
const TURNS: u32 = 3;
/// For what is still to be told after the last acknowledgement.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// A lattice for each turn, so that watchers begin with nothing.
const LATTICES: Lattice = Lattice {
    name: "watched-*",
    layout: "cache-stream",
    provision: None,
    effects: false,
};

/// How many watch.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    /// Those that read what they are told.
    reading: usize,
    /// Those that read nothing once their snapshot is over, on connections of their own.
    stalled: usize,
}

impl Crowd {
    const fn of(reading: usize) -> Self {
        Self::beside(reading, 0)
    }

    const fn beside(reading: usize, stalled: usize) -> Self {
        Self { reading, stalled }
    }
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&figure(self.reading as f64))?;
        match self.stalled {
            0 => Ok(()),
            stalled => write!(f, " beside {} that stall", figure(stalled as f64)),
        }
    }
}

/// What a turn told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// From the acknowledgement to the delivery, microseconds; below zero where the delivery came first.
    p50: f64,
    p99: f64,
    /// The same of a consumer of JetStream's, where there was one.
    raw: Option<[f64; 2]>,
    changes_per_second: f64,
    /// Of all watchers together.
    missed: usize,
    /// From the last acknowledgement to the last delivery to anybody, microseconds.
    done_after: f64,
    /// The most the gateway had, bytes.
    resident: Option<u64>,
    /// By how much that is above what it had when all watches were open, bytes.
    grown: Option<u64>,
    consumers: usize,
}

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let fan_out = if scale.is_quick { QUICK } else { FAN_OUT };
    let nats = DevServer::start(None, None).await?;
    let mut watched = Vec::new();
    for crowd in fan_out {
        watched.push(Watched::start(&nats, crowd).await?);
    }
    let mut told = fan_out.map(|_| Vec::new());
    for round in 0..scale.rounds {
        for (turn, (watched, told)) in watched.iter().zip(&mut told).enumerate() {
            progress(&format!(
                "watch: round {} of {}, watchers: {}",
                round + 1,
                scale.rounds,
                watched.crowd
            ));
            let lattice = format!("watched-{round}-{turn}");
            told.push(watched.measure(&nats, &lattice, scale.turn * TURNS).await?);
        }
    }
    for Watched {
        gateway,
        callers,
        stalling,
        ..
    } in watched
    {
        drop((callers, stalling));
        gateway.stop().await?;
    }
    nats.stop().await;
    Ok(section(fan_out, &told))
}

/// A gateway that has so many watchers at a time, and the connections that they share.
struct Watched {
    crowd: Crowd,
    gateway: Gateway,
    callers: Vec<Caller>,
    stalling: Vec<Caller>,
}

impl Watched {
    async fn start(nats: &DevServer, crowd: Crowd) -> Result<Self, Failure> {
        let gateway = Gateway::start(nats.url(), &[LATTICES], &caller("bench", ""))?;
        let connect = async |watchers: usize| {
            let mut callers = Vec::new();
            for _ in 0..watchers.min(CONNECTIONS_MAX) {
                callers.push(Caller::new(gateway.connect().await?, "bench", LATTICES.name)?);
            }
            Ok::<_, Failure>(callers)
        };
        let (callers, stalling) = (connect(crowd.reading).await?, connect(crowd.stalled).await?);
        Ok(Self {
            crowd,
            gateway,
            callers,
            stalling,
        })
    }

    async fn measure(&self, nats: &DevServer, lattice: &str, time: Duration) -> Result<Told, Failure> {
        let raw = Raw::connect(nats.url(), lattice).await?;
        let stalled = open(&self.stalling, self.crowd.stalled, lattice).await?;
        let watchers = open(&self.callers, self.crowd.reading, lattice).await?;
        let at_first = self.gateway.resident();
        let mut consumer = match self.crowd.reading {
            1 => Some(Consumer::attach(nats.url(), &raw).await?),
            _ => None,
        };
        let changes = usize::try_from(time.as_millis() * u128::from(CHANGES_A_SECOND) / 1_000)?.max(10);
        let mut seeing = JoinSet::new();
        for (number, watcher) in watchers.into_iter().enumerate() {
            seeing.spawn(watcher.see(changes, number < CONNECTIONS_MAX));
        }
        let began = Instant::now();
        let (written, resident) = tokio::join!(write(&raw, changes), self.look(time));
        let written = written?;
        let took = began.elapsed();
        let consumers = raw.consumers_of_gateways().await?;
        let seen = timeout(CATCH_UP_TIMEOUT, seeing.join_all())
            .await
            .map_err(|_elapsed| format!("{} watchers were not told everything in time", self.crowd))?;
        let resident = resident.max(self.gateway.resident());
        drop(stalled);
        let deliveries = seen.iter().flat_map(|seen| seen.deliveries.iter().copied());
        let delays = latencies(&written, deliveries);
        let mut told = Told {
            p50: median(delays.iter().copied()),
            p99: quantile(delays, 0.99),
            raw: None,
            changes_per_second: changes as f64 / took.as_secs_f64(),
            missed: seen.iter().map(|seen| changes.saturating_sub(seen.changes)).sum(),
            done_after: done_after(&written, &seen),
            resident,
            grown: resident
                .zip(at_first)
                .map(|(most, at_first)| most.saturating_sub(at_first)),
            consumers,
        };
        if let Some(consumer) = &mut consumer {
            let mut deliveries = Vec::new();
            consumer.deliveries.recv_many(&mut deliveries, changes).await;
            let raw = latencies(&written, deliveries);
            told.raw = Some([median(raw.iter().copied()), quantile(raw, 0.99)]);
        }
        Ok(told)
    }

    /// The most that the gateway has in memory for so long.
    async fn look(&self, time: Duration) -> Option<u64> {
        let until = Instant::now() + time;
        let mut most = None;
        let mut looks = interval(LOOK);
        while Instant::now() < until {
            looks.tick().await;
            most = most.max(self.gateway.resident());
        }
        most
    }
}

/// Opens watchers, spread over the connections.
async fn open(callers: &[Caller], watchers: usize, lattice: &str) -> Result<Vec<Watcher>, Failure> {
    let mut opening = JoinSet::new();
    for caller in callers.iter().cycle().take(watchers) {
        opening.spawn(Watcher::open(caller.on(lattice)));
    }
    opening.join_all().await.into_iter().collect()
}

/// Publishes links that are new, at a rate, whether or not what was published before is acknowledged; gives the sequence of
/// each and when it was acknowledged.
async fn write(raw: &Arc<Raw>, changes: usize) -> Result<HashMap<u64, Instant>, Failure> {
    let mut ticks = interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writing = JoinSet::new();
    for mut put in raw.puts(links("change", changes)) {
        ticks.tick().await;
        writing.spawn(async move {
            put.once().await?;
            Ok::<_, Failure>((put.sequence, Instant::now()))
        });
    }
    writing.join_all().await.into_iter().collect()
}

/// From the acknowledgement of each to its delivery, microseconds.
fn latencies(
    written: &HashMap<u64, Instant>,
    deliveries: impl IntoIterator<Item = (u64, Instant)>,
) -> Vec<f64> {
    let of = |(sequence, at): (u64, Instant)| {
        let acknowledged = *written.get(&sequence)?;
        let (after, before) = (
            at.checked_duration_since(acknowledged),
            acknowledged.duration_since(at),
        );
        Some(after.map_or(-before.as_secs_f64(), |after| after.as_secs_f64()) * 1e6)
    };
    deliveries.into_iter().filter_map(of).collect()
}

fn done_after(written: &HashMap<u64, Instant>, seen: &[Seen]) -> f64 {
    let acknowledged = written.values().max();
    let told = seen.iter().filter_map(|seen| seen.last).max();
    let after = acknowledged
        .zip(told)
        .map(|(acknowledged, told)| told.duration_since(*acknowledged));
    after.map_or(f64::NAN, |after| after.as_secs_f64() * 1e6)
}

fn section(fan_out: [Crowd; 4], told: &[Vec<Told>; 4]) -> Section {
    let rows = || fan_out.into_iter().zip(told);
    let of = |turns: &[Told], figure: fn(&Told) -> f64| median(turns.iter().map(figure));
    let raw = |which: fn([f64; 2]) -> f64| {
        let turns = told.iter().flatten().filter_map(|told| told.raw);
        median(turns.map(which))
    };
    let mut table = Table::new(&[
        "",
        "changes a second",
        "p50",
        "p99",
        "last told after",
        "missed, all rounds",
        "resident",
        "of it, since all watch",
        "upstream consumers",
    ]);
    let nothing = || "–".to_owned();
    table.row([
        "a consumer of JetStream's".to_owned(),
        nothing(),
        time(raw(|[p50, _]| p50)),
        time(raw(|[_, p99]| p99)),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
    ]);
    let mib = |bytes| or_dash(bytes, |mib| format!("{mib:.0} MiB"));
    for (crowd, turns) in rows() {
        table.row([
            format!("watchers: {crowd}"),
            figure(of(turns, |told| told.changes_per_second)),
            time(of(turns, |told| told.p50)),
            time(of(turns, |told| told.p99)),
            time(of(turns, |told| told.done_after)),
            missed(turns).to_string(),
            mib(most(turns, |told| told.resident)),
            mib(most(turns, |told| told.grown)),
            consumers(turns).to_string(),
        ]);
    }
    Section {
        name: "watch",
        title: "Watchers",
        text: format!(
            "{CHANGES_A_SECOND} new links a second are published as hosts do, each its own entry, so that nothing can be told as one; \
             watchers share at most {CONNECTIONS_MAX} connections. Latencies are from the publisher's acknowledgement to the \
             delivery, below zero where the delivery came first, of at most {CONNECTIONS_MAX} watchers; what was missed is of all \
             of them. Resident is the most that the gateway had in any round; each number of watchers has a gateway of its own. \
             Those that stall read nothing after their snapshot, on connections of their own, and are not among the figures."
        ),
        tables: vec![table],
        plots: vec![plot(fan_out, told)],
        goals: goals(fan_out, told, raw(|[_, p99]| p99)),
        samples: samples(fan_out, told),
    }
}

fn missed(turns: &[Told]) -> usize {
    turns.iter().map(|told| told.missed).sum()
}

fn consumers(turns: &[Told]) -> usize {
    turns.iter().map(|told| told.consumers).max().unwrap_or_default()
}

/// The most of all rounds, MiB.
fn most(turns: &[Told], bytes: fn(&Told) -> Option<u64>) -> Option<f64> {
    let most = turns.iter().filter_map(bytes).max()?;
    Some(most as f64 / 1024.0 / 1024.0)
}

fn plot(fan_out: [Crowd; 4], told: &[Vec<Told>; 4]) -> Plot {
    let line = |name: &str, figure: fn(&Told) -> f64| Line {
        name: name.to_owned(),
        figures: told
            .iter()
            .map(|turns| Some(median(turns.iter().map(figure)).max(1.0) / 1_000.0))
            .collect(),
    };
    Plot {
        file: "watch.svg",
        title: "Delivery after the acknowledgement, 100 changes a second",
        x_label: "watchers",
        places: fan_out.map(|crowd| crowd.to_string()).to_vec(),
        y_label: "milliseconds",
        is_logarithmic: true,
        lines: vec![line("p50", |told| told.p50), line("p99", |told| told.p99)],
    }
}

fn goals(fan_out: [Crowd; 4], told: &[Vec<Told>; 4], raw_p99: f64) -> Vec<Goal> {
    let [one, _, beside, many] = told;
    let [_, _, stalled, watchers] = fan_out.map(|crowd| crowd.to_string());
    let goal = |what, reached, most, unit| Goal {
        what,
        reached,
        bound: Bound::AtMost(most),
        unit,
    };
    let p99 = median(one.iter().map(|told| told.p99));
    vec![
        goal(
            "delivery after the acknowledgement, p99, 1 watcher, over a raw consumer's".to_owned(),
            Some((p99 - raw_p99) / 1_000.0),
            5.0,
            " ms",
        ),
        goal(
            format!("watchers: {stalled}, p99 after the acknowledgement"),
            Some(median(beside.iter().map(|told| told.p99)) / 1_000.0),
            100.0,
            " ms",
        ),
        goal(
            format!("{watchers} watchers, resident"),
            most(many, |told| told.resident),
            300.0,
            " MiB",
        ),
        goal(
            format!("{watchers} watchers, changes missed"),
            Some(missed(many) as f64),
            0.0,
            "",
        ),
        goal(
            format!("{watchers} watchers, upstream consumers"),
            Some(consumers(many) as f64),
            1.0,
            "",
        ),
    ]
}

fn samples(fan_out: [Crowd; 4], told: &[Vec<Told>; 4]) -> Value {
    let turns = |turns: &[Told]| {
        let of = |figure: fn(&Told) -> f64| turns.iter().map(figure).map(rounded).collect::<Vec<_>>();
        json!({
            "p50_us": of(|told| told.p50),
            "p99_us": of(|told| told.p99),
            "raw_p99_us": turns.iter().filter_map(|told| told.raw).map(|[_, p99]| rounded(p99)).collect::<Vec<_>>(),
            "changes_per_second": of(|told| told.changes_per_second),
            "last_told_after_us": of(|told| told.done_after),
            "missed": turns.iter().map(|told| told.missed).collect::<Vec<_>>(),
            "grown_bytes": turns.iter().map(|told| told.grown).collect::<Vec<_>>(),
            "resident_bytes": turns.iter().map(|told| told.resident).collect::<Vec<_>>(),
            "consumers": turns.iter().map(|told| told.consumers).collect::<Vec<_>>(),
        })
    };
    let told = fan_out.into_iter().zip(told);
    told.map(|(crowd, told)| (crowd.to_string(), turns(told)))
        .collect::<Map<_, _>>()
        .into()
}
