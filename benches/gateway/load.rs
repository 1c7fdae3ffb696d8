//! Puts and gets of links beside what they are made of, over concurrency.

use std::sync::Arc;

use lattice_gateway::dev::DevServer;

use super::{
    Failure, Scale,
    apply::Applying,
    call::{Caller, Verb},
    drive::{Figures, Pass, drive},
    echo::Echo,
    etcd::Etcd,
    plot::{Line, Plot},
    process::{Gateway, Lattice, caller, until},
    progress,
    raw::{Consumer, Raw},
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    stats::Turns,
    things::{Link, Thing, links},
};

const LATTICE: &str = "bench";
const LOADS: [usize; 5] = [1, 4, 16, 64, 256];
/// Links that a turn writes over and over, so that their evidence grows as it does in life.
const LINKS_A_TURN: usize = 2_000;
const WARM_UP: std::time::Duration = std::time::Duration::from_secs(1);

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Raw,
    Echo,
    Put,
    Apply,
    Etcd,
    EchoGet,
    Get,
}

impl Side {
    const ALL: [Self; 7] = [
        Self::Raw,
        Self::Echo,
        Self::Put,
        Self::Apply,
        Self::Etcd,
        Self::EchoGet,
        Self::Get,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw publish",
            Self::Echo => "gRPC echo of a put",
            Self::Put => "`PutLinkDefinition`",
            Self::Apply => "`Apply` of links",
            Self::Etcd => "etcd's `Put`",
            Self::EchoGet => "gRPC echo of a get",
            Self::Get => "`GetLinkDefinition`",
        }
    }
}

/// Every round's figures, by side and calls in flight.
type Loads = Turns<(Side, usize)>;

pub(crate) async fn measure(scale: &Scale, etcd: &str) -> Result<Section, Failure> {
    let sides = Sides::start(etcd).await?;
    let turns = sides.run(scale).await?;
    sides.stop().await?;
    Ok(Section {
        name: "load",
        title: "Over concurrency",
        text: "Closed loops on memory streams with effects off, so many calls in flight. *Raw publish* is async-nats: the body \
               and headers that the gateway would publish, acknowledged by JetStream, one push consumer attached. *gRPC echo* \
               is a bare tonic server that answers as much as the gateway does; like the client it uses the system's \
               allocator. Each has one connection, `Apply` one call. Processor time is that of all processes together."
            .to_owned(),
        tables: vec![table(&turns)],
        plots: plots(&turns),
        goals: goals(&turns),
        samples: turns.samples(|(side, in_flight)| format!("{}, {in_flight}", side.name().replace('`', ""))),
    })
}

/// Everything that runs while it is measured.
struct Sides {
    nats: DevServer,
    raw: Arc<Raw>,
    echo: Echo,
    gateway: Gateway,
    etcd: Option<Etcd>,
    caller: Caller,
    echoed: Caller,
    /// What is got.
    kept: Vec<Link>,
}

impl Sides {
    async fn start(etcd: &str) -> Result<Self, Failure> {
        progress("load: starting");
        let nats = DevServer::start(None, None).await?;
        let lattice = Lattice {
            name: LATTICE,
            layout: "cache-stream",
            provision: Some("memory"),
            effects: false,
        };
        let gateway = Gateway::start(nats.url(), &[lattice], &caller("bench", ""))?;
        let caller = Caller::new(gateway.connect().await?, "bench", LATTICE)?;
        let kept = links("kept", LINKS_A_TURN);
        let first = kept.first().cloned().ok_or("no link")?;
        until(async || caller.call(Verb::Put, &mut Thing::Link(first.clone())).await).await?;
        caller.fill(things(kept.clone())).await?;
        let echo = Echo::start().await?;
        Ok(Self {
            raw: Raw::connect(nats.url(), "raw").await?,
            etcd: Etcd::start(etcd).await?,
            echoed: Caller::new(echo.channel.clone(), "bench", LATTICE)?,
            nats,
            echo,
            gateway,
            caller,
            kept,
        })
    }

    async fn run(&self, scale: &Scale) -> Result<Loads, Failure> {
        let reading = Consumer::attach(self.nats.url(), &self.raw).await?.only_read();
        for side in Side::ALL {
            progress(&format!("load: warming up: {}", side.name()));
            self.turn(side, links("warm-up", LINKS_A_TURN), 256, Pass::Over(WARM_UP))
                .await?;
        }
        let mut turns = Loads::new();
        for round in 0..scale.rounds {
            for in_flight in LOADS {
                progress(&format!(
                    "load: round {} of {}, {in_flight} in flight",
                    round + 1,
                    scale.rounds
                ));
                let mut order = Side::ALL;
                order.rotate_left(round % Side::ALL.len());
                for side in order {
                    let links = links(&format!("{round}-{in_flight}"), LINKS_A_TURN);
                    let figures = self.turn(side, links, in_flight, Pass::Over(scale.turn)).await?;
                    if let Some(figures) = figures {
                        turns.add((side, in_flight), figures);
                    }
                }
            }
        }
        drop(reading);
        Ok(turns)
    }

    /// None where the side is absent.
    async fn turn(
        &self,
        side: Side,
        links: Vec<Link>,
        in_flight: usize,
        pass: Pass,
    ) -> Result<Option<Figures>, Failure> {
        let figures = match side {
            Side::Raw => drive(self.raw.puts(links), in_flight, pass).await?,
            Side::Echo => drive(self.echoed.calls(Verb::Put, things(links)), in_flight, pass).await?,
            Side::Put => drive(self.caller.calls(Verb::Put, things(links)), in_flight, pass).await?,
            Side::Apply => {
                Applying::open(&self.caller)
                    .await?
                    .drive(links, in_flight, pass)
                    .await?
            }
            Side::Etcd => match &self.etcd {
                Some(etcd) => drive(etcd.puts(links), in_flight, pass).await?,
                None => return Ok(None),
            },
            Side::EchoGet => drive(self.echoed.calls(Verb::Get, self.kept()), in_flight, pass).await?,
            Side::Get => drive(self.caller.calls(Verb::Get, self.kept()), in_flight, pass).await?,
        };
        Ok(Some(figures))
    }

    fn kept(&self) -> Vec<Thing> {
        things(self.kept.clone())
    }

    async fn stop(self) -> Result<(), Failure> {
        drop((self.caller, self.echoed, self.raw));
        self.gateway.stop().await?;
        self.echo.stop().await?;
        if let Some(etcd) = self.etcd {
            etcd.stop().await?;
        }
        self.nats.stop().await;
        Ok(())
    }
}

fn things(links: Vec<Link>) -> Vec<Thing> {
    links.into_iter().map(Thing::Link).collect()
}

fn table(turns: &Loads) -> Table {
    let mut table = Table::new(&[
        "",
        "in flight",
        "per second",
        "p50",
        "p99",
        "p99.9",
        "processor time",
    ]);
    for side in Side::ALL {
        for in_flight in LOADS {
            let of = |figure: fn(&Figures) -> f64| turns.median(&(side, in_flight), figure);
            let Some(per_second) = of(|figures| figures.per_second) else {
                continue;
            };
            table.row([
                side.name().to_owned(),
                in_flight.to_string(),
                figure(per_second),
                or_dash(of(|figures| figures.p50), time),
                or_dash(of(|figures| figures.p99), time),
                or_dash(of(|figures| figures.p999), time),
                or_dash(of(|figures| figures.processor), time),
            ]);
        }
    }
    table
}

fn plots(turns: &Loads) -> Vec<Plot> {
    let lines = |sides: &[Side], figures: &dyn Fn(Side) -> Vec<Option<f64>>| {
        sides
            .iter()
            .map(|side| Line {
                name: side.name().replace('`', ""),
                figures: figures(*side),
            })
            .filter(|line| line.figures.iter().any(Option::is_some))
            .collect::<Vec<_>>()
    };
    let rates = |side| {
        LOADS
            .map(|in_flight| turns.median(&(side, in_flight), |figures| figures.per_second))
            .to_vec()
    };
    let percentiles = |side, in_flight| {
        let figures: [fn(&Figures) -> f64; 4] = [
            |figures| figures.p50,
            |figures| figures.p90,
            |figures| figures.p99,
            |figures| figures.p999,
        ];
        figures
            .map(|figure| {
                turns
                    .median(&(side, in_flight), figure)
                    .map(|micros| micros / 1_000.0)
            })
            .to_vec()
    };
    let latency = |file, title, in_flight| Plot {
        file,
        title,
        x_label: "percentile",
        places: ["50", "90", "99", "99.9"].map(str::to_owned).to_vec(),
        y_label: "milliseconds",
        is_logarithmic: true,
        lines: lines(&Side::ALL, &|side| percentiles(side, in_flight)),
    };
    vec![
        Plot {
            file: "throughput.svg",
            title: "Throughput over concurrency",
            x_label: "in flight",
            places: LOADS.map(|in_flight| in_flight.to_string()).to_vec(),
            y_label: "a second",
            is_logarithmic: false,
            lines: lines(&Side::ALL, &rates),
        },
        latency("latency-1.svg", "Latency, one in flight", 1),
        latency("latency-256.svg", "Latency, 256 in flight", 256),
    ]
}

fn goals(turns: &Loads) -> Vec<Goal> {
    let rate = |side, in_flight| turns.median(&(side, in_flight), |figures| figures.per_second);
    let p50 = |side| turns.median(&(side, 1), |figures| figures.p50);
    let ratio = |of: Option<f64>, to: Option<f64>| Some(of? / to?);
    let parts =
        |in_flight| Some(1.0 / (1.0 / rate(Side::Echo, in_flight)? + 1.0 / rate(Side::Raw, in_flight)?));
    let sum = || Some(p50(Side::Echo)? + p50(Side::Raw)?);
    let goal = |what: &str, reached, bound| Goal {
        what: what.to_owned(),
        reached,
        bound,
        unit: "",
    };
    vec![
        goal(
            "`PutLinkDefinition`, 256 in flight, to 1/(1/echo + 1/raw)",
            ratio(rate(Side::Put, 256), parts(256)),
            Bound::AtLeast(1.0),
        ),
        goal(
            "`PutLinkDefinition` alone, p50, to echo + raw",
            ratio(p50(Side::Put), sum()),
            Bound::AtMost(1.3),
        ),
        goal(
            "`Apply` of links, 256 in flight, to raw",
            ratio(rate(Side::Apply, 256), rate(Side::Raw, 256)),
            Bound::AtLeast(0.8),
        ),
        goal(
            "`PutLinkDefinition`, 64 in flight, to etcd's `Put`",
            ratio(rate(Side::Put, 64), rate(Side::Etcd, 64)),
            Bound::AtLeast(1.0),
        ),
        goal(
            "`PutLinkDefinition`, 256 in flight, to etcd's `Put`",
            ratio(rate(Side::Put, 256), rate(Side::Etcd, 256)),
            Bound::AtLeast(1.0),
        ),
        goal(
            "`GetLinkDefinition`, 256 in flight, to the echo",
            ratio(rate(Side::Get, 256), rate(Side::EchoGet, 256)),
            Bound::AtLeast(0.9),
        ),
    ]
}
