//! Every unary put, get and delete, and puts on each layout, storage, and with effects.

use std::time::Duration;

use lattice_gateway::dev::DevServer;

use super::{
    Failure, Scale,
    call::{Caller, Verb},
    drive::{Figures, Pass, drive},
    process::{Gateway, Lattice, caller, until},
    progress,
    report::{Bound, Goal, Section, Table, figure, or_dash, time},
    stats::Turns,
    things::{Thing, claims, configs, interfaces, interfaces_of_one_source, links, references},
};

const IN_FLIGHT: usize = 256;
/// Of the turns of other parts, since there are many here; but so long that something is done.
const TURN: f64 = 0.3;
const TURN_MIN: Duration = Duration::from_millis(100);
const THINGS_A_TURN: usize = 2_000;
const LINKS_OF_A_SOURCE: usize = 500;
/// In the lattice of the configs: a delete of one looks through all.
const LINKS_BESIDE_CONFIGS: usize = 1_000;
const THINGS_ALONE: usize = 100;

const LATTICES: [Lattice; 10] = [
    lattice("cache-memory", "cache-stream", "memory", false),
    lattice("cache-memory-effects", "cache-stream", "memory", true),
    lattice("cache-file", "cache-stream", "file", false),
    lattice("cache-file-effects", "cache-stream", "file", true),
    lattice("kv-memory", "kv", "memory", false),
    lattice("kv-file", "kv", "file", false),
    lattice("component-memory", "component", "memory", false),
    lattice("component-memory-effects", "component", "memory", true),
    lattice("component-file", "component", "file", false),
    lattice("configs", "component", "memory", false),
];

const fn lattice(name: &'static str, layout: &'static str, storage: &'static str, effects: bool) -> Lattice {
    Lattice {
        name,
        layout,
        provision: Some(storage),
        effects,
    }
}

/// What a turn does, on which lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    lattice: &'static str,
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Method {
    PutLinkDefinition,
    GetLinkDefinition,
    DeleteLinkDefinition,
    /// Each token is put once.
    PutNewClaims,
    PutClaims,
    GetClaims,
    DeleteClaims,
    SetOciReference,
    GetOciReference,
    /// Each on a source of its own.
    PutInterfaceLink,
    PutInterfaceLinkOneSource,
    GetInterfaceLink,
    DeleteInterfaceLink,
    PutConfig,
    GetConfig,
    DeleteConfig,
}

impl Method {
    const CACHE_STREAM: [Self; 8] = [
        Self::PutLinkDefinition,
        Self::GetLinkDefinition,
        Self::DeleteLinkDefinition,
        Self::PutNewClaims,
        Self::PutClaims,
        Self::GetClaims,
        Self::SetOciReference,
        Self::GetOciReference,
    ];
    /// Hosts of `cache-stream` have no way to delete claims; hosts of no layout have one to delete references.
    const KV: [Self; 2] = [Self::PutLinkDefinition, Self::DeleteClaims];
    const CONFIGS: [Self; 3] = [Self::PutConfig, Self::GetConfig, Self::DeleteConfig];
    const COMPONENT: [Self; 4] = [
        Self::PutInterfaceLink,
        Self::PutInterfaceLinkOneSource,
        Self::GetInterfaceLink,
        Self::DeleteInterfaceLink,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::PutLinkDefinition => "`PutLinkDefinition`",
            Self::GetLinkDefinition => "`GetLinkDefinition`",
            Self::DeleteLinkDefinition => "`DeleteLinkDefinition`",
            Self::PutNewClaims => "`PutClaims`, tokens never seen",
            Self::PutClaims => "`PutClaims`, the same tokens again",
            Self::GetClaims => "`GetClaims`",
            Self::DeleteClaims => "`DeleteClaims`",
            Self::SetOciReference => "`SetOciReference`",
            Self::GetOciReference => "`GetOciReference`",
            Self::PutInterfaceLink => "`PutInterfaceLink`, each on a source of its own",
            Self::PutInterfaceLinkOneSource => "`PutInterfaceLink`, all on one source of 500 links",
            Self::GetInterfaceLink => "`GetInterfaceLink`",
            Self::DeleteInterfaceLink => "`DeleteInterfaceLink`",
            Self::PutConfig => "`PutConfig`",
            Self::GetConfig => "`GetConfig`",
            Self::DeleteConfig => "`DeleteConfig`",
        }
    }

    fn verb(self) -> Verb {
        match self {
            Self::PutLinkDefinition
            | Self::PutNewClaims
            | Self::PutClaims
            | Self::SetOciReference
            | Self::PutInterfaceLink
            | Self::PutInterfaceLinkOneSource
            | Self::PutConfig => Verb::Put,
            Self::GetLinkDefinition
            | Self::GetClaims
            | Self::GetOciReference
            | Self::GetInterfaceLink
            | Self::GetConfig => Verb::Get,
            Self::DeleteLinkDefinition
            | Self::DeleteClaims
            | Self::DeleteInterfaceLink
            | Self::DeleteConfig => Verb::Delete,
        }
    }

    /// Whether a second time would be another thing.
    fn is_done_once(self) -> bool {
        self == Self::PutNewClaims || self.verb() == Verb::Delete
    }

    fn things(self, turn: &str, count: usize) -> Vec<Thing> {
        match self {
            Self::PutLinkDefinition | Self::GetLinkDefinition | Self::DeleteLinkDefinition => {
                links(turn, count).into_iter().map(Thing::Link).collect()
            }
            Self::PutNewClaims | Self::PutClaims | Self::GetClaims | Self::DeleteClaims => claims(count),
            Self::SetOciReference | Self::GetOciReference => references(turn, count),
            Self::PutInterfaceLinkOneSource => interfaces_of_one_source(turn, count.min(LINKS_OF_A_SOURCE)),
            Self::PutInterfaceLink | Self::GetInterfaceLink | Self::DeleteInterfaceLink => {
                interfaces(turn, count)
            }
            Self::PutConfig | Self::GetConfig | Self::DeleteConfig => configs(turn, count),
        }
    }
}

/// All turns of a round: every method in memory, then the puts on everything else.
fn turns() -> Vec<Turn> {
    let on = |lattice, methods: &[Method]| {
        methods
            .iter()
            .map(|&method| Turn { lattice, method })
            .collect::<Vec<_>>()
    };
    let puts = LATTICES.map(|lattice| match lattice.name {
        "cache-memory" => on(lattice.name, &Method::CACHE_STREAM),
        "kv-memory" => on(lattice.name, &Method::KV),
        "component-memory" => on(lattice.name, &Method::COMPONENT),
        "configs" => on(lattice.name, &Method::CONFIGS),
        name if lattice.layout == "component" => on(
            name,
            &[Method::PutInterfaceLink, Method::PutInterfaceLinkOneSource],
        ),
        name => on(name, &[Method::PutLinkDefinition]),
    });
    puts.concat()
}

type Methods = Turns<(Turn, usize)>;

pub(crate) async fn measure(scale: &Scale) -> Result<Section, Failure> {
    let nats = DevServer::start(None, None).await?;
    let gateway = Gateway::start(nats.url(), &LATTICES, &caller("bench", ""))?;
    let caller = Caller::new(gateway.connect().await?, "bench", "cache-memory")?;
    are_served(&caller).await?;
    let beside = interfaces("beside", LINKS_BESIDE_CONFIGS);
    caller.on("configs").fill(beside).await?;
    let figures = run(scale, &caller).await?;
    drop(caller);
    gateway.stop().await?;
    nats.stop().await;
    Ok(Section {
        name: "methods",
        title: "Every method",
        text: format!(
            "Closed loops over one connection: alone, and with {IN_FLIGHT} in flight. Deletes and new claims are each done once, \
             {THINGS_ALONE} alone and {THINGS_A_TURN} else. Where effects are off nobody is told of a write. Interface links are \
             acknowledged at once (`settle = \"0s\"`). Configs are in a lattice of {LINKS_BESIDE_CONFIGS} links, which a delete of one looks \
             through."
        ),
        tables: vec![table(&figures)],
        goals: goals(&figures),
        samples: figures.samples(|(turn, in_flight)| {
            format!(
                "{}, {}, {in_flight}",
                turn.method.name().replace('`', ""),
                turn.lattice
            )
        }),
        ..Section::default()
    })
}

/// Waits until every lattice is provisioned.
async fn are_served(caller: &Caller) -> Result<(), Failure> {
    for lattice in LATTICES {
        let method = if lattice.layout == "component" {
            Method::PutConfig
        } else {
            Method::SetOciReference
        };
        let thing = method.things("first", 1).pop().ok_or("nothing to put")?;
        let caller = caller.on(lattice.name);
        until(async || caller.call(Verb::Put, &mut thing.clone()).await).await?;
    }
    Ok(())
}

async fn run(scale: &Scale, caller: &Caller) -> Result<Methods, Failure> {
    let mut figures = Methods::new();
    let mut order = turns();
    let time = scale.turn.mul_f64(TURN).max(TURN_MIN);
    for round in 0..scale.rounds {
        order.rotate_left(usize::from(round > 0) * 5);
        for &turn in &order {
            for in_flight in [1, IN_FLIGHT] {
                progress(&format!(
                    "methods: round {} of {}: {} on {}, {in_flight} in flight",
                    round + 1,
                    scale.rounds,
                    turn.method.name(),
                    turn.lattice
                ));
                let name = format!("{round}-{in_flight}-{}", turn.method.verb() as u8);
                let things = turn
                    .method
                    .things(&name, things_a_turn(in_flight, scale.is_quick));
                let told = one(caller, turn, things, in_flight, time).await?;
                figures.add((turn, in_flight), told);
            }
        }
    }
    Ok(figures)
}

fn things_a_turn(in_flight: usize, is_quick: bool) -> usize {
    match in_flight {
        1 => THINGS_ALONE,
        _ if is_quick => in_flight,
        _ => THINGS_A_TURN,
    }
}

async fn one(
    caller: &Caller,
    turn: Turn,
    things: Vec<Thing>,
    in_flight: usize,
    time: Duration,
) -> Result<Figures, Failure> {
    let caller = caller.on(turn.lattice);
    let verb = turn.method.verb();
    if verb != Verb::Put {
        caller.fill(things.clone()).await?;
    }
    let pass = if turn.method.is_done_once() {
        Pass::Once
    } else {
        Pass::Over(time)
    };
    drive(caller.calls(verb, things), in_flight, pass).await
}

fn table(figures: &Methods) -> Table {
    let mut table = Table::new(&[
        "",
        "layout",
        "storage",
        "effects",
        "p50 alone",
        "a second, 256 in flight",
        "p50",
        "p99",
    ]);
    for lattice in LATTICES {
        for turn in turns().into_iter().filter(|turn| turn.lattice == lattice.name) {
            let of = |in_flight, figure: fn(&Figures) -> f64| figures.median(&(turn, in_flight), figure);
            table.row([
                turn.method.name().to_owned(),
                lattice.layout.to_owned(),
                lattice.provision.unwrap_or_default().to_owned(),
                if lattice.effects { "on" } else { "off" }.to_owned(),
                or_dash(of(1, |figures| figures.p50), time),
                or_dash(of(IN_FLIGHT, |figures| figures.per_second), figure),
                or_dash(of(IN_FLIGHT, |figures| figures.p50), time),
                or_dash(of(IN_FLIGHT, |figures| figures.p99), time),
            ]);
        }
    }
    table
}

fn goals(figures: &Methods) -> Vec<Goal> {
    let rate = |lattice, method| {
        figures.median(&(Turn { lattice, method }, IN_FLIGHT), |figures| {
            figures.per_second
        })
    };
    let component = rate("component-file", Method::PutInterfaceLink);
    let cache_stream = rate("cache-file", Method::PutLinkDefinition);
    vec![Goal {
        what: "`PutInterfaceLink` on files, 256 in flight, to `PutLinkDefinition`".to_owned(),
        reached: component
            .zip(cache_stream)
            .map(|(component, cache)| component / cache),
        bound: Bound::AtLeast(0.7),
        unit: "",
    }]
}
