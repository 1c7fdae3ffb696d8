//! What many entries cost: a put among them, memory, a list of them all, and a start.

use std::collections::BTreeMap;

use lattice_gateway::{
    dev::DevServer,
    proto::{
        Consistency, ListLinkDefinitionsRequest, consistency::Requirement,
        link_definition_service_client::LinkDefinitionServiceClient,
    },
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    drive::{Figures, Pass, drive},
    plot::{Line, Plot},
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    stats::{Turns, median, rounded},
    things::{Link, Thing, links},
};

const IN_FLIGHT: usize = 256;
/// As many as the smallest lattice has.
const LINKS_A_TURN: usize = 1_000;
/// What settles in a process before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);
const PAGE: i32 = 1_000;

/// A lattice of so many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    entries: usize,
    lattice: &'static str,
}

const SIZES: [Size; 3] = [
    Size {
        entries: 1_000,
        lattice: "thousand",
    },
    Size {
        entries: 10_000,
        lattice: "ten-thousand",
    },
    Size {
        entries: 100_000,
        lattice: "hundred-thousand",
    },
];
const QUICK: [Size; 2] = [SIZES[0], SIZES[1]];

/// What was measured, by size, one a round.
#[derive(Default)]
struct Told {
    /// From its start to the first answer from the lattice, seconds.
    ready: BTreeMap<Size, Vec<f64>>,
    /// All entries, in pages of 1,000, seconds.
    list: BTreeMap<Size, Vec<f64>>,
    /// What the process has, bytes.
    resident: BTreeMap<Size, Vec<f64>>,
    /// On top of an idle gateway and the bodies, bytes an entry.
    memory: BTreeMap<Size, Vec<f64>>,
    /// An idle gateway's, bytes.
    idle: Vec<f64>,
}

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let sizes = if scale.is_quick { &QUICK[..] } else { &SIZES[..] };
    let nats = DevServer::start(None, None).await?;
    let filled = fill(&nats, sizes).await?;
    let mut told = Told::default();
    for round in 0..scale.rounds {
        for (size, links) in &filled {
            progress(&format!(
                "growth: start-up {} of {}, {} entries",
                round + 1,
                scale.rounds,
                size.entries
            ));
            start_up(&nats, *size, links, &mut told).await?;
        }
    }
    let puts = put_cost(&nats, scale, &filled).await?;
    nats.stop().await;
    Ok(section(sizes, &puts, &told))
}

fn lattice(size: Size, provision: Option<&'static str>) -> Lattice {
    Lattice {
        name: size.lattice,
        layout: "cache-stream",
        provision,
        effects: false,
    }
}

/// By a gateway of its own.
async fn fill(nats: &DevServer, sizes: &[Size]) -> Result<Vec<(Size, Vec<Link>)>, Failure> {
    let mut filled = Vec::new();
    for &size in sizes {
        progress(&format!("growth: putting {} links", size.entries));
        let gateway = Gateway::start(nats.url(), &[lattice(size, Some("memory"))], &caller("bench", ""))?;
        let caller = Caller::new(gateway.connect().await?, "bench", size.lattice)?;
        let links = links("kept", size.entries);
        let first = links.first().cloned().ok_or("no link")?;
        until(async || caller.call(Verb::Put, &mut Thing::Link(first.clone())).await).await?;
        caller
            .fill(links.iter().cloned().map(Thing::Link).collect())
            .await?;
        gateway.stop().await?;
        filled.push((size, links));
    }
    Ok(filled)
}

/// Starts a gateway on a lattice that is there, and looks at it.
async fn start_up(nats: &DevServer, size: Size, links: &[Link], told: &mut Told) -> Result<(), Failure> {
    let last = links.last().cloned().ok_or("no link")?;
    let body = last.body.len() as f64;
    let began = Instant::now();
    let gateway = Gateway::start(nats.url(), &[lattice(size, None)], &caller("bench", ""))?;
    let caller = Caller::new(gateway.connect().await?, "bench", size.lattice)?;
    let idle = gateway.resident();
    until(async || caller.call(Verb::Get, &mut Thing::Link(last.clone())).await).await?;
    told.ready
        .entry(size)
        .or_default()
        .push(began.elapsed().as_secs_f64());

    let began = Instant::now();
    list(&caller, size).await?;
    told.list
        .entry(size)
        .or_default()
        .push(began.elapsed().as_secs_f64());

    // An allocator gives back what it no longer needs while it is used, not by itself.
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled {
        caller.call(Verb::Get, &mut Thing::Link(last.clone())).await?;
    }
    if let (Some(idle), Some(following)) = (idle, gateway.resident()) {
        told.idle.push(idle as f64);
        told.resident.entry(size).or_default().push(following as f64);
        let entry = following.saturating_sub(idle) as f64 / size.entries as f64 - body;
        told.memory.entry(size).or_default().push(entry);
    }
    drop(caller);
    gateway.stop().await
}

/// All pages; a page that lacks something fails.
async fn list(caller: &Caller, size: Size) -> Result<(), Failure> {
    let mut client = LinkDefinitionServiceClient::new(caller.channel());
    let (mut listed, mut page_token) = (0, String::new());
    loop {
        let request = ListLinkDefinitionsRequest {
            lattice: caller.lattice(),
            page_size: PAGE,
            page_token,
            consistency: Some(Consistency {
                requirement: Some(Requirement::MinimizeLatency(true)),
            }),
            ..ListLinkDefinitionsRequest::default()
        };
        let page = client
            .list_link_definitions(caller.request(request))
            .await?
            .into_inner();
        listed += page.link_definitions.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if listed == size.entries {
        Ok(())
    } else {
        Err(format!("{listed} links are listed of {}", size.entries).into())
    }
}

/// Puts of links that are there, on lattices of each size in turn.
async fn put_cost(
    nats: &DevServer,
    scale: &Scale,
    filled: &[(Size, Vec<Link>)],
) -> Result<Turns<(Size, usize)>, Failure> {
    let mut turns = Turns::new();
    let mut gateways = Vec::new();
    for (size, links) in filled {
        let gateway = Gateway::start(nats.url(), &[lattice(*size, None)], &caller("bench", ""))?;
        let caller = Caller::new(gateway.connect().await?, "bench", size.lattice)?;
        let links = links.iter().take(LINKS_A_TURN).cloned();
        let links = links.map(Thing::Link).collect::<Vec<_>>();
        let first = links.first().cloned().ok_or("no link")?;
        until(async || caller.call(Verb::Get, &mut first.clone()).await).await?;
        gateways.push((*size, gateway, caller, links));
    }
    for round in 0..scale.rounds {
        progress(&format!("growth: puts, round {} of {}", round + 1, scale.rounds));
        for in_flight in [1, IN_FLIGHT] {
            gateways.rotate_left(1);
            for (size, _, caller, links) in &gateways {
                let calls = caller.calls(Verb::Put, links.clone());
                let figures = drive(calls, in_flight, Pass::Over(scale.turn)).await?;
                turns.add((*size, in_flight), figures);
            }
        }
    }
    for (_, gateway, caller, _) in gateways {
        drop(caller);
        gateway.stop().await?;
    }
    Ok(turns)
}

fn section(sizes: &[Size], puts: &Turns<(Size, usize)>, told: &Told) -> Section {
    let of = |rounds: &BTreeMap<Size, Vec<f64>>, size: &Size| {
        rounds.get(size).map(|rounds| median(rounds.iter().copied()))
    };
    let put = |size: &Size, in_flight, figure: fn(&Figures) -> f64| puts.median(&(*size, in_flight), figure);
    let mut table = Table::new(&[
        "entries",
        "put alone, p50",
        "puts a second, 256 in flight",
        "resident",
        "of that an entry, over its body",
        "list of all",
        "ready after start",
    ]);
    for size in sizes {
        table.row([
            figure(size.entries as f64),
            or_dash(put(size, 1, |figures| figures.p50), time),
            or_dash(put(size, IN_FLIGHT, |figures| figures.per_second), figure),
            or_dash(of(&told.resident, size), |bytes| format!("{:.1} MiB", mib(bytes))),
            or_dash(of(&told.memory, size), |bytes| format!("{} B", figure(bytes))),
            or_dash(of(&told.list, size), |seconds| time(seconds * 1e6)),
            or_dash(of(&told.ready, size), |seconds| time(seconds * 1e6)),
        ]);
    }
    let idle = (!told.idle.is_empty()).then(|| mib(median(told.idle.iter().copied())));
    let places = sizes
        .iter()
        .map(|size| figure(size.entries as f64))
        .collect::<Vec<_>>();
    let line = |name: &str, figures: &dyn Fn(&Size) -> Option<f64>| Line {
        name: name.to_owned(),
        figures: sizes.iter().map(figures).collect(),
    };
    Section {
        name: "growth",
        title: "With many entries",
        text: format!(
            "Lattices of links in memory, effects off. A put is of one of {LINKS_A_TURN} links that are there. *Ready* is the time \
             from the start of the process to its first answer from the lattice. *List* is of all, in pages of {PAGE}. Of an entry is \
             what the process has resident beyond the bodies and what it had before its first call{}: what any use takes \
             weighs on a few entries.",
            or_dash(idle, |mib| format!(" ({mib:.1} MiB)"))
        ),
        tables: vec![table],
        plots: vec![
            Plot {
                file: "growth-put.svg",
                title: "Cost of a put over the number of entries",
                x_label: "entries",
                places: places.clone(),
                y_label: "microseconds",
                is_logarithmic: false,
                lines: vec![
                    line("alone, p50", &|size| put(size, 1, |figures| figures.p50)),
                    line("256 in flight, the time for one", &|size| {
                        put(size, IN_FLIGHT, |figures| figures.per_second).map(|rate| 1e6 / rate)
                    }),
                ],
            },
            Plot {
                file: "growth-memory.svg",
                title: "Memory over the number of entries",
                x_label: "entries",
                places,
                y_label: "MiB",
                is_logarithmic: false,
                lines: vec![line("resident", &|size| of(&told.resident, size).map(mib))],
            },
        ],
        goals: goals(sizes, puts, told, idle),
        samples: samples(puts, told),
    }
}

fn mib(bytes: f64) -> f64 {
    bytes / 1024.0 / 1024.0
}

fn goals(sizes: &[Size], puts: &Turns<(Size, usize)>, told: &Told, idle: Option<f64>) -> Vec<Goal> {
    let (Some(smallest), Some(largest)) = (sizes.first(), sizes.last()) else {
        return Vec::new();
    };
    let entries = figure(largest.entries as f64);
    let of =
        |rounds: &BTreeMap<Size, Vec<f64>>| rounds.get(largest).map(|rounds| median(rounds.iter().copied()));
    let cost = |in_flight, cost: fn(&Figures) -> f64| {
        let [small, large] = [smallest, largest].map(|size| puts.median(&(*size, in_flight), cost));
        Some(large? / small?)
    };
    let goal = |what: String, reached, most, unit| Goal {
        what,
        reached,
        bound: Bound::AtMost(most),
        unit,
    };
    vec![
        goal(
            format!("ready after start, {entries} entries"),
            of(&told.ready),
            3.0,
            " s",
        ),
        goal(
            format!("memory an entry over its body, {entries} entries"),
            of(&told.memory),
            1024.0,
            " B",
        ),
        goal(
            format!("put cost with {entries} entries to that with 1,000, 256 in flight"),
            cost(IN_FLIGHT, |figures| 1.0 / figures.per_second),
            1.2,
            "",
        ),
        goal(
            format!("put cost with {entries} entries to that with 1,000, alone, p50"),
            cost(1, |figures| figures.p50),
            1.2,
            "",
        ),
        goal("memory, idle".to_owned(), idle, 30.0, " MiB"),
    ]
}

fn samples(puts: &Turns<(Size, usize)>, told: &Told) -> Value {
    let by_entries = |rounds: &BTreeMap<Size, Vec<f64>>| {
        let sizes = rounds
            .iter()
            .map(|(size, rounds)| (size.entries.to_string(), json!(rounds)));
        sizes.collect::<serde_json::Map<_, _>>()
    };
    json!({
        "puts": puts.samples(|(size, in_flight)| format!("{} entries, {in_flight}", size.entries)),
        "ready_s": by_entries(&told.ready),
        "list_s": by_entries(&told.list),
        "resident_bytes": by_entries(&told.resident),
        "memory_of_entry": by_entries(&told.memory),
        "idle_mib": told.idle.iter().map(|bytes| rounded(mib(*bytes))).collect::<Vec<_>>(),
    })
}
