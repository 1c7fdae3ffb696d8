//! What becomes of more calls than the upstream takes.

use std::time::Duration;

use lattice_gateway::dev::DevServer;
use serde_json::{Value, json};

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    drive::{Pass, drive},
    offer::{Became, Offered, Putting, count, took},
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    slow::{Pace, Slow},
    stats::{quantile, rounded},
    things::{Thing, links},
};

const LATTICE: Lattice = Lattice {
    name: "bench",
    layout: "cache-stream",
    provision: Some("memory"),
    effects: false,
};
const PACE: Pace = Pace {
    at_a_time: 10,
    time: Duration::from_millis(5),
};
/// For whom it counts how soon a write is done; by default more wait, so that fewer are refused.
const SERVER: &str = "queue_time = \"10ms\"";
const LINKS: usize = 4_000;
/// Enough that the upstream always has something to do.
const IN_FLIGHT: usize = 32;
/// What is normal.
const SHARE: f64 = 0.8;
const AFTERWARDS: Duration = Duration::from_secs(4);
const BIN: Duration = Duration::from_millis(100);

/// So many times the peak was offered.
struct Turn {
    times: f64,
    offered: Vec<Offered>,
    /// What was offered right behind it, as much as is normal.
    afterwards: Vec<Offered>,
}

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let turn = match (scale.is_quick, scale.is_long) {
        (true, _) => Duration::from_secs(2),
        (false, true) => Duration::from_mins(1),
        (false, false) => Duration::from_secs(15),
    };
    let nats = DevServer::start(None, None).await?;
    let slow = Slow::start(nats.url(), Some(PACE)).await?;
    let gateway = Gateway::start_with(SERVER, &slow.url(), &[LATTICE], &caller("bench", ""))?;
    let first = Caller::new(gateway.connect().await?, "bench", LATTICE.name)?;
    let putting = Putting::connect(&gateway, "bench", LATTICE.name).await?;
    let links = links("overload", LINKS);
    let link = Thing::Link(links.first().cloned().ok_or("no link")?);
    until(async || first.call(Verb::Put, &mut link.clone()).await).await?;

    progress("overload: the peak");
    let closed = first.calls(Verb::Put, links.iter().cloned().map(Thing::Link).collect());
    let peak = drive(closed, IN_FLIGHT, Pass::Over(turn.min(Duration::from_secs(5))))
        .await?
        .per_second;
    progress("overload: 80 % of it");
    let normal = putting.offer(&links, peak * SHARE, turn).await;
    let mut turns = Vec::new();
    for times in [2.0, 10.0] {
        progress(&format!("overload: {times} times as much"));
        turns.push(Turn {
            times,
            offered: putting.offer(&links, peak * times, turn).await,
            afterwards: putting.offer(&links, peak * SHARE, AFTERWARDS).await,
        });
    }
    drop((first, putting));
    gateway.stop().await?;
    nats.stop().await;
    Ok(section(turn, peak, &normal, &turns))
}

/// Done a second, of what was done while it was offered.
fn goodput(offered: &[Offered], time: Duration) -> f64 {
    let done = offered.iter().filter(|call| call.became == Became::Done);
    let in_time = done.filter(|call| call.began + call.took <= time).count();
    in_time as f64 / time.as_secs_f64()
}

/// When the last tenth of a second ended in which a call was refused, or half of them took longer than nearly all do normally;
/// seconds.
fn normal_after(afterwards: &[Offered], normal_p99: f64) -> f64 {
    let bins = AFTERWARDS.as_millis() / BIN.as_millis();
    let is_abnormal = |bin: u32| {
        let within = |call: &&Offered| (BIN * bin..BIN * (bin + 1)).contains(&call.began);
        let calls = afterwards.iter().filter(within).collect::<Vec<_>>();
        let times = calls.iter().map(|call| call.took.as_secs_f64() * 1e6);
        calls.iter().any(|call| call.became != Became::Done) || quantile(times, 0.5) > normal_p99
    };
    let bins = u32::try_from(bins).unwrap_or(u32::MAX);
    let last = (0..bins).rev().find(|bin| is_abnormal(*bin));
    last.map_or(0.0, |bin| (BIN * (bin + 1)).as_secs_f64())
}

fn section(turn: Duration, peak: f64, normal: &[Offered], turns: &[Turn]) -> Section {
    let normal_p99 = took(normal, Became::Done, 0.99);
    let mut table = Table::new(&[
        "offered",
        "a second",
        "done a second",
        "of the peak",
        "done, p50",
        "done, p99",
        "refused a second",
        "refused, p50",
        "p99",
        "neither",
        "normal again after",
    ]);
    let seconds = turn.as_secs_f64();
    let mut row = |what: String, offered: &[Offered], after: Option<f64>| {
        let refused = count(offered, Became::Overloaded);
        let done = count(offered, Became::Done);
        table.row([
            what,
            figure((offered.len() as f64 / seconds).round()),
            figure(goodput(offered, turn).round()),
            format!("{:.0} %", goodput(offered, turn) / peak * 100.0),
            time(took(offered, Became::Done, 0.5)),
            time(took(offered, Became::Done, 0.99)),
            figure((refused as f64 / seconds).round()),
            or_dash(Some(took(offered, Became::Overloaded, 0.5)), time),
            or_dash(Some(took(offered, Became::Overloaded, 0.99)), time),
            (offered.len() - done - refused).to_string(),
            or_dash(after, |seconds| format!("{seconds:.1} s")),
        ]);
    };
    row("80 % of the peak".to_owned(), normal, None);
    for Turn {
        times,
        offered,
        afterwards,
    } in turns
    {
        let after = normal_after(afterwards, normal_p99);
        row(format!("{times} times the peak"), offered, Some(after));
    }
    Section {
        name: "overload",
        title: "More than the upstream takes",
        text: format!(
            "Puts of links through a proxy that works on {} publishes at a time, each for {} ms: the peak, of a closed loop with \
             {IN_FLIGHT} in flight, is {} a second. The gateway does not know that; it has `queue_time = \"10ms\"`. Open loops, the calls \
             come at random times (exponential), for {seconds} s each, with the onset; once; then {} s at 80 % of the peak.",
            PACE.at_a_time,
            PACE.time.as_millis(),
            figure(peak.round()),
            AFTERWARDS.as_secs(),
        ),
        tables: vec![table],
        goals: turns
            .iter()
            .flat_map(|of| goals(of, turn, peak, normal_p99))
            .collect(),
        samples: samples(turn, peak, normal, turns),
        ..Section::default()
    }
}

fn goals(of: &Turn, turn: Duration, peak: f64, normal_p99: f64) -> [Goal; 4] {
    let least = if of.times > 2.0 { 0.7 } else { 0.9 };
    let goal = |what: &str, reached: f64, bound, unit| Goal {
        what: format!("{} times the peak offered: {what}", of.times),
        reached: Some(reached),
        bound,
        unit,
    };
    [
        goal(
            "done, to the peak",
            goodput(&of.offered, turn) / peak,
            Bound::AtLeast(least),
            "",
        ),
        goal(
            "p99 of what is done, to that at 80 %",
            took(&of.offered, Became::Done, 0.99) / normal_p99,
            Bound::AtMost(3.0),
            "",
        ),
        goal(
            "refusals, p99",
            took(&of.offered, Became::Overloaded, 0.99) / 1e3,
            Bound::AtMost(5.0),
            " ms",
        ),
        goal(
            "normal again after",
            normal_after(&of.afterwards, normal_p99),
            Bound::AtMost(2.0),
            " s",
        ),
    ]
}

fn samples(turn: Duration, peak: f64, normal: &[Offered], turns: &[Turn]) -> Value {
    let of = |offered: &[Offered]| {
        json!({
            "offered": offered.len(),
            "done_per_second": rounded(goodput(offered, turn)),
            "done_p50_us": rounded(took(offered, Became::Done, 0.5)),
            "done_p99_us": rounded(took(offered, Became::Done, 0.99)),
            "refused": count(offered, Became::Overloaded),
            "refused_p99_us": rounded(took(offered, Became::Overloaded, 0.99)),
            "unavailable": count(offered, Became::Unavailable),
            "unknown": count(offered, Became::Unknown),
            "other": count(offered, Became::Other),
        })
    };
    let overloaded = turns
        .iter()
        .map(|turn| (turn.times.to_string(), of(&turn.offered)));
    json!({
        "seconds": turn.as_secs_f64(), "peak_per_second": rounded(peak), "at_80_percent": of(normal),
        "times_the_peak": overloaded.collect::<serde_json::Map<_, _>>(),
    })
}
