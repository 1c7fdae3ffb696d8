//! What becomes of a gateway that is cut off from NATS while calls go on coming.

use std::time::Duration;

use lattice_gateway::dev::DevServer;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    offer::{Became, Offered, Putting, count, took},
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    slow::Slow,
    stats::rounded,
    things::{Thing, links},
};

const LATTICE: Lattice = Lattice {
    name: "bench",
    layout: "cache-stream",
    provision: Some("memory"),
    effects: false,
};
const PER_SECOND: f64 = 2_000.0;
const LINKS: usize = 4_000;
const LOOK: Duration = Duration::from_millis(100);
/// By then the loss is noticed.
const NOTICED: Duration = Duration::from_secs(4);

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let (before, partition) = match (scale.is_quick, scale.is_long) {
        (true, _) => (Duration::from_secs(2), Duration::from_secs(6)),
        (false, true) => (Duration::from_secs(20), Duration::from_mins(10)),
        (false, false) => (Duration::from_secs(10), Duration::from_secs(30)),
    };
    let nats = DevServer::start(None, None).await?;
    let wire = Slow::start(nats.url(), None).await?;
    let gateway = Gateway::start_with("", &wire.url(), &[LATTICE], &caller("bench", ""))?;
    let first = Caller::new(gateway.connect().await?, "bench", LATTICE.name)?;
    let putting = Putting::connect(&gateway, "bench", LATTICE.name).await?;
    let links = links("partition", LINKS);
    let thing = Thing::Link(links.first().cloned().ok_or("no link")?);
    let put = async || first.call(Verb::Put, &mut thing.clone()).await;
    until(put).await?;

    progress("partition: before");
    let (_, resident_before) = most_resident(&gateway, putting.offer(&links, PER_SECOND, before)).await;
    progress("partition: cut off");
    wire.cut_off(true);
    let offering = putting.offer(&links, PER_SECOND, partition);
    let (offered, resident) = most_resident(&gateway, offering).await;
    wire.cut_off(false);
    let healed = Instant::now();
    until(put).await?;
    let back = healed.elapsed();
    let growth = resident
        .zip(resident_before)
        .map(|(most, before)| most.saturating_sub(before));
    drop((first, putting));
    gateway.stop().await?;
    nats.stop().await;
    Ok(section(partition, &offered, growth, back))
}

/// Does something, and tells how much the gateway had in memory at most meanwhile.
async fn most_resident<T>(gateway: &Gateway, work: impl Future<Output = T>) -> (T, Option<u64>) {
    let mut most = None;
    let looking = async {
        loop {
            most = most.max(gateway.resident());
            sleep(LOOK).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = looking => unreachable!("it looks for ever"),
    };
    (done, most.max(gateway.resident()))
}

fn section(partition: Duration, offered: &[Offered], growth: Option<u64>, back: Duration) -> Section {
    let growth = growth.map(|bytes| bytes as f64 / 1024.0 / 1024.0);
    let noticed = offered.iter().filter(|call| call.began >= NOTICED).copied();
    let noticed = noticed.collect::<Vec<_>>();
    let seconds = partition.as_secs_f64();
    let mut table = Table::new(&["", ""]);
    table.row(["calls in the partition".to_owned(), figure(offered.len() as f64)]);
    for (what, became) in [
        ("of these not applied, `UNAVAILABLE`", Became::Unavailable),
        ("of these not applied, `OVERLOADED`", Became::Overloaded),
        ("of these unknown", Became::Unknown),
        ("of these acknowledged, or other", Became::Done),
    ] {
        let mut calls = count(offered, became);
        if became == Became::Done {
            calls += count(offered, Became::Other);
        }
        table.row([what.to_owned(), figure(calls as f64)]);
    }
    table.row([
        format!("`UNAVAILABLE` after {} s, p99", NOTICED.as_secs()),
        time(took(&noticed, Became::Unavailable, 0.99)),
    ]);
    table.row([
        "memory, growth at most".to_owned(),
        or_dash(growth, |mib| format!("{mib:.1} MiB")),
    ]);
    table.row(["a put succeeds after".to_owned(), time(back.as_secs_f64() * 1e6)]);
    Section {
        name: "partition",
        title: "Cut off from NATS",
        text: format!(
            "A proxy lets nothing through for {seconds} s, connections stay open; {} puts of links a second go on coming, at random \
             times. Growth is over the most that the process had while it served as many.",
            figure(PER_SECOND)
        ),
        tables: vec![table],
        goals: vec![Goal {
            what: format!("growth in a partition of {seconds} s"),
            reached: growth,
            bound: Bound::AtMost(16.0),
            unit: " MiB",
        }],
        samples: json!({
            "seconds": seconds, "offered": offered.len(), "unavailable": count(offered, Became::Unavailable),
            "overloaded": count(offered, Became::Overloaded), "unknown": count(offered, Became::Unknown),
            "done": count(offered, Became::Done), "other": count(offered, Became::Other),
            "growth_mib": growth.map(rounded), "back_after_s": back.as_secs_f64(),
        }),
        ..Section::default()
    }
}
