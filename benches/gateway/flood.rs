//! What a flood from one caller does to another.

use lattice_gateway::dev::DevServer;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    drive::{Pass, drive},
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, time},
    stats::median,
    things::{Thing, links},
};

const LATTICE: Lattice = Lattice {
    name: "bench",
    layout: "cache-stream",
    provision: Some("memory"),
    effects: true,
};
const FLOODING: usize = 256;
const RATE: u32 = 100;
const TURNS: u32 = 2;
const LINKS_A_TURN: usize = 2_000;

/// A caller with one put in flight, and another that keeps 256 in flight and may have 100 a second.
pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let nats = DevServer::start(None, None).await?;
    let limits = format!("limits = {{ requests_per_second = {RATE} }}");
    let callers = [caller("quiet", ""), caller("flood", &limits)];
    let gateway = Gateway::start(nats.url(), &[LATTICE], &callers.concat())?;
    let quiet = Caller::new(gateway.connect().await?, "quiet", LATTICE.name)?;
    let flood = Caller::new(gateway.connect().await?, "flood", LATTICE.name)?;
    let first = link("first")?;
    until(async || quiet.call(Verb::Put, &mut first.clone()).await).await?;

    let (mut alone, mut beside, mut refused_per_second) = (Vec::new(), Vec::new(), Vec::new());
    let turn = scale.turn * TURNS;
    for round in 0..scale.rounds {
        progress(&format!("flood: round {} of {}", round + 1, scale.rounds));
        alone.push(p99(&quiet, &format!("alone-{round}"), turn).await?);
        let mut flooding = JoinSet::new();
        let (began, until) = (Instant::now(), Instant::now() + turn);
        for _ in 0..FLOODING {
            flooding.spawn(keep_asking(flood.clone(), link("flood")?, until));
        }
        beside.push(p99(&quiet, &format!("beside-{round}"), turn).await?);
        let refused = flooding.join_all().await.into_iter().sum::<u32>();
        refused_per_second.push(f64::from(refused) / began.elapsed().as_secs_f64());
    }
    drop((quiet, flood));
    gateway.stop().await?;
    nats.stop().await;
    Ok(section(&alone, &beside, &refused_per_second))
}

fn section(alone: &[f64], beside: &[f64], refused_per_second: &[f64]) -> Section {
    let [alone_p99, beside_p99, refused] =
        [alone, beside, refused_per_second].map(|rounds| median(rounds.iter().copied()));
    let mut table = Table::new(&["", ""]);
    table.row(["a quiet caller alone, p99".to_owned(), time(alone_p99)]);
    table.row(["beside a flood, p99".to_owned(), time(beside_p99)]);
    table.row(["refusals a second of the flood".to_owned(), figure(refused)]);
    Section {
        name: "flood",
        title: "Beside a flood",
        text: format!(
            "One caller with one put in flight; another keeps {FLOODING} in flight, asks again at once when it is refused, and may \
             have {RATE} a second."
        ),
        tables: vec![table],
        goals: vec![Goal {
            what: "p99 of a caller beside a flood of another, to that alone".to_owned(),
            reached: Some(beside_p99 / alone_p99),
            bound: Bound::AtMost(2.0),
            unit: "",
        }],
        samples: json!({
            "alone_p99_us": alone, "beside_p99_us": beside, "refused_per_second": refused_per_second,
        }),
        ..Section::default()
    }
}

fn link(name: &str) -> Result<Thing, Failure> {
    Ok(Thing::Link(links(name, 1).pop().ok_or("no link")?))
}

/// Of one put after the other.
async fn p99(caller: &Caller, turn: &str, time: Duration) -> Result<f64, Failure> {
    let links = links(turn, LINKS_A_TURN).into_iter().map(Thing::Link).collect();
    let figures = drive(caller.calls(Verb::Put, links), 1, Pass::Over(time)).await?;
    Ok(figures.p99)
}

/// Asks at once again whatever the answer is; gives how often it was refused.
async fn keep_asking(caller: Caller, mut link: Thing, until: Instant) -> u32 {
    let mut refused = 0;
    while Instant::now() < until {
        refused += u32::from(caller.call(Verb::Put, &mut link).await.is_err());
    }
    refused
}
