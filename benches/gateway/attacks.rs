//! What clients that mean harm do to the gateway's memory, and to another client.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use lattice_gateway::{dev::DevServer, proto::ListLinkDefinitionsRequest};
use prost::Message;
use serde_json::json;
use tokio::time::{Instant, interval, timeout};

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    drive::{Pass, drive},
    http2::{
        CANCEL, CONTINUATION, Connection, DATA, HEADERS, PING, RST_STREAM, SETTINGS, call_with, field, frame,
        message,
    },
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    stats::{median, rounded},
    things::{Thing, links},
};

const LATTICE: Lattice = Lattice {
    name: "bench",
    layout: "cache-stream",
    provision: Some("memory"),
    effects: false,
};
const LINKS: usize = 1_000;
const LIST: &str = "LinkDefinitionService/ListLinkDefinitions";
const TICKS_PER_SECOND: u32 = 200;
/// Connections that an attack keeps.
const KEPT: usize = 1_000;
/// A connection that takes nothing for so long is left.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    RapidReset,
    EndlessHeaders,
    Settings,
    Pings,
    SlowReading,
    SlowWriting,
    Idle,
}

impl Attack {
    const ALL: [Self; 7] = [
        Self::RapidReset,
        Self::EndlessHeaders,
        Self::Settings,
        Self::Pings,
        Self::SlowReading,
        Self::SlowWriting,
        Self::Idle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::RapidReset => "calls that are reset at once",
            Self::EndlessHeaders => "CONTINUATION frames of 11 kB",
            Self::Settings => "SETTINGS frames",
            Self::Pings => "PING frames",
            Self::SlowReading => "lists of 1,000 links that nobody reads",
            Self::SlowWriting => "calls whose message never ends",
            Self::Idle => "connections that say hello and nothing more",
        }
    }

    /// How many a second.
    fn per_second(self) -> u32 {
        match self {
            Self::RapidReset | Self::EndlessHeaders => 2_000,
            Self::Settings | Self::Pings => 20_000,
            Self::SlowReading | Self::SlowWriting | Self::Idle => 400,
        }
    }

    /// How large a window its streams have.
    fn window(self) -> u32 {
        match self {
            Self::SlowReading | Self::Idle => 0,
            Self::RapidReset | Self::EndlessHeaders | Self::Settings | Self::Pings | Self::SlowWriting => {
                65_535
            }
        }
    }

    /// The next frames; the first on a connection has the number 0.
    fn frames(self, number: u32) -> Vec<u8> {
        let stream = number * 2 + 1;
        let head = || call_with(stream, LIST, &[("authorization", "Bearer attacker")]);
        match self {
            Self::RapidReset => [head(), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat(),
            Self::EndlessHeaders if number == 0 => frame(HEADERS, 0, 1, &field(":method", "POST")),
            Self::EndlessHeaders => frame(
                CONTINUATION,
                0,
                1,
                &field("x-padding", &"x".repeat(100)).repeat(100),
            ),
            Self::Settings => frame(SETTINGS, 0, 0, &[]),
            Self::Pings => frame(PING, 0, 0, &[7; 8]),
            Self::SlowReading => {
                let list = ListLinkDefinitionsRequest {
                    lattice: LATTICE.name.to_owned(),
                    page_size: 1_000,
                    ..ListLinkDefinitionsRequest::default()
                };
                [head(), message(stream, &list.encode_to_vec())].concat()
            }
            Self::SlowWriting => [head(), frame(DATA, 0, stream, &[0, 0, 0, 1, 0])].concat(),
            Self::Idle => Vec::new(),
        }
    }

    /// How many of them go over one connection.
    fn of_connection(self) -> u32 {
        match self {
            Self::Idle => 1,
            Self::SlowReading | Self::SlowWriting => 200,
            Self::RapidReset | Self::EndlessHeaders | Self::Settings | Self::Pings => u32::MAX / 4,
        }
    }

    /// Attacks for ever, over another connection as soon as one is closed or full.
    async fn go_on(self, address: SocketAddr, sent: &mut u32) -> std::convert::Infallible {
        let mut kept = VecDeque::new();
        let mut current: Option<(Connection, u32)> = None;
        let mut ticks = interval(Duration::from_secs(1) / TICKS_PER_SECOND);
        loop {
            ticks.tick().await;
            for _ in 0..self.per_second() / TICKS_PER_SECOND {
                let (mut connection, number) = match current.take() {
                    Some(current) => current,
                    None => match Connection::open(address, self.window()).await {
                        Ok(connection) => (connection, 0),
                        Err(_refused) => break,
                    },
                };
                match timeout(PATIENCE, connection.send(&self.frames(number))).await {
                    Ok(Ok(())) => *sent += 1,
                    Ok(Err(_closed)) => continue,
                    Err(_full) => {}
                }
                if number + 1 < self.of_connection() {
                    current = Some((connection, number + 1));
                } else {
                    kept.push_back(connection);
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
                }
            }
        }
    }
}

/// What an attack did.
struct Told {
    attack: Attack,
    alone_p99: f64,
    beside_p99: f64,
    per_second: f64,
    growth: Option<f64>,
}

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let turn = match (scale.is_quick, scale.is_long) {
        (true, _) => Duration::from_millis(500),
        (false, true) => Duration::from_secs(30),
        (false, false) => Duration::from_secs(5),
    };
    let nats = DevServer::start(None, None).await?;
    let mut all = Vec::new();
    for attack in Attack::ALL {
        progress(&format!("attacks: {}", attack.name()));
        all.push(withstand(attack, nats.url(), turn).await?);
    }
    nats.stop().await;
    Ok(section(turn, &all))
}

/// On a gateway of its own, so that memory is told apart.
async fn withstand(attack: Attack, nats_url: &str, turn: Duration) -> Result<Told, Failure> {
    let callers = [caller("bench", ""), caller("attacker", "")].concat();
    let gateway = Gateway::start(nats_url, &[LATTICE], &callers)?;
    let caller = Caller::new(gateway.connect().await?, "bench", LATTICE.name)?;
    let links = links("attacked", LINKS)
        .into_iter()
        .map(Thing::Link)
        .collect::<Vec<_>>();
    let first = links.first().cloned().ok_or("no link")?;
    until(async || caller.call(Verb::Put, &mut first.clone()).await).await?;
    for links in links.chunks(100) {
        let all = links
            .iter()
            .map(async |link| caller.call(Verb::Put, &mut link.clone()).await);
        futures_util::future::try_join_all(all).await?;
    }
    let get = || drive(caller.calls(Verb::Get, links.clone()), 1, Pass::Over(turn));
    get().await?;
    let alone_p99 = get().await?.p99;
    let before = gateway.resident();
    let (mut sent, mut most, began) = (0, before, Instant::now());
    let looking = async {
        let mut ticks = interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            most = most.max(gateway.resident());
        }
    };
    let beside = tokio::select! {
        beside = get() => beside?,
        never = attack.go_on(gateway.address(), &mut sent) => match never {},
        () = looking => unreachable!("it looks for ever"),
    };
    let per_second = f64::from(sent) / began.elapsed().as_secs_f64();
    drop(caller);
    gateway.stop().await?;
    Ok(Told {
        attack,
        alone_p99,
        beside_p99: beside.p99,
        per_second,
        growth: most
            .zip(before)
            .map(|(most, before)| most.saturating_sub(before) as f64 / 1024.0 / 1024.0),
    })
}

fn section(turn: Duration, all: &[Told]) -> Section {
    // One that is alone is alone whatever comes later.
    let alone = median(all.iter().map(|told| told.alone_p99));
    let mut table = Table::new(&[
        "attack",
        "a second",
        "growth at most",
        "another's p99",
        "to that alone",
    ]);
    for told in all {
        table.row([
            told.attack.name().to_owned(),
            figure(told.per_second.round()),
            or_dash(told.growth, |mib| format!("{mib:.1} MiB")),
            time(told.beside_p99),
            figure(told.beside_p99 / alone),
        ]);
    }
    let most = |of: &dyn Fn(&Told) -> Option<f64>| all.iter().filter_map(of).reduce(f64::max);
    Section {
        name: "attacks",
        title: "Beside clients that mean harm",
        text: format!(
            "Each attack for {} s on a gateway of its own with {} links, sent as fast as the table says, over another connection as soon \
             as one is closed or full; up to {} stay open. Another client keeps one get in flight: alone its p99 is {} at the median.",
            turn.as_secs_f64(),
            figure(LINKS as f64),
            figure(KEPT as f64),
            time(alone)
        ),
        tables: vec![table],
        goals: vec![
            Goal {
                what: "growth under an attack, at most".to_owned(),
                reached: most(&|told| told.growth),
                bound: Bound::AtMost(64.0),
                unit: " MiB",
            },
            Goal {
                what: "p99 of another client beside an attack, to that alone, at most".to_owned(),
                reached: most(&|told| Some(told.beside_p99 / alone)),
                bound: Bound::AtMost(5.0),
                unit: "",
            },
        ],
        samples: all
            .iter()
            .map(|told| {
                let told_of = json!({
                    "per_second": rounded(told.per_second), "growth_mib": told.growth.map(rounded),
                    "alone_p99_us": rounded(told.alone_p99), "beside_p99_us": rounded(told.beside_p99),
                });
                (told.attack.name().to_owned(), told_of)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        ..Section::default()
    }
}
