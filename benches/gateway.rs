//! Measures the gateway beside what it is made of, and what it keeps in memory.
//!
//! Three sides write links in a closed loop, each served by processes of its own and all driven from this one:
//!
//! * `raw`: async-nats publishes what the gateway would, body and headers alike, and waits for the acknowledgement;
//! * `echo`: a bare tonic server answers `PutLinkDefinition` at once, over one HTTP/2 connection;
//! * `gateway`: `lattice-gateway dev` carries it out, over one HTTP/2 connection.
//!
//! A gateway cannot be quicker than an echo and a raw publish one after the other, which the goals are set by. On one
//! machine they all share its cores, so that a round has a turn of every side at every load, in rotating order, and
//! what is told is the median over the rounds. Every turn writes links that are new to its side.
//!
//! `cargo bench --bench gateway -- --help` lists the options.

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
#[path = "gateway/flood.rs"]
mod flood;

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::OsStr,
    fmt,
    hint::black_box,
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use access::Access;
use async_nats::jetstream::{self, message::PublishMessage};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use flood::Flood;
use hdrhistogram::Histogram;
use lattice_gateway::{
    dev::DevServer,
    domain::{self, Entry, EntryKey, LatticeName, LinkId, claims_token},
    proto::{
        Consistency, DeleteLinkDefinitionRequest, DeleteLinkDefinitionResponse, GetLinkDefinitionRequest,
        GetLinkDefinitionResponse, LinkDefinition, ListLinkDefinitionsRequest, ListLinkDefinitionsResponse,
        PutLinkDefinitionRequest, PutLinkDefinitionResponse,
        consistency::Requirement,
        link_definition_service_client::LinkDefinitionServiceClient,
        link_definition_service_server::{LinkDefinitionService, LinkDefinitionServiceServer},
    },
    store::{
        evidence::{self, Applied, Evidence, NO_ENTRY, Past, Stamp},
        layout::cache_stream,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::{
    Request, Response, Status, async_trait,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

#[path = "../tests/it/harness/keys.rs"]
#[expect(
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    reason = "written for the tests"
)]
mod keys;

type Failure = Box<dyn Error + Send + Sync>;

const LATTICE: &str = "bench";
const CONTRACT: &str = "wasmcloud:keyvalue";
const GATEWAY: &str = env!("CARGO_BIN_EXE_lattice-gateway");

/// Calls in flight: alone, some, and as many as one connection may have.
const LOADS: [usize; 3] = [1, 64, 256];
/// Links that a turn writes over and over, so that their evidence grows as it does in life.
const LINKS_A_TURN: usize = 2_000;
/// Before the measured part of a turn.
const LEAD: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_secs(1);
/// Links of the lattice whose memory is measured.
const LINKS_KEPT: usize = 20_000;
/// What settles in a process before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

const THROUGHPUT_GOAL: f64 = 0.85;
const LATENCY_GOAL: f64 = 1.5;
const IDLE_GOAL_MIB: f64 = 30.0;
const ENTRY_GOAL_BYTES: f64 = 1024.0;

/// Measures the gateway against raw publishes and a bare gRPC echo.
#[derive(Debug, Parser)]
struct Options {
    /// How long a turn is measured.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// How many rounds there are; medians are told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One round of short turns: whether it works, not how well.
    #[arg(long, conflicts_with_all = ["seconds", "rounds"])]
    quick: bool,
    /// Measures one thing only.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Serves the echo, for the process that measures.
    #[arg(long, hide = true)]
    echo_server: bool,
    /// Cargo's own.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Only {
    /// What it costs to find out who calls, and to check a grant.
    Access,
    /// What a flood from one caller does to another.
    Flood,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut options = Options::parse();
    if options.echo_server {
        return serve_echo().await;
    }
    if options.quick {
        (options.seconds, options.rounds) = (0.3, 1);
    }
    progress("letting in");
    let access = Access::measure();
    match options.only {
        Some(Only::Access) => {
            report_access(access);
            return Ok(());
        }
        Some(Only::Flood) => {
            report_flood(&Flood::measure().await?);
            return Ok(());
        }
        None => {}
    }
    let claims = verification();
    let memory = Memory::measure().await?;
    let bench = Bench::start().await?;
    let turns = bench.run(&options).await?;
    report(&bench.machine, &options, &turns, claims, &memory);
    report_access(access);
    bench.stop().await
}

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Raw,
    Echo,
    Gateway,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw publish",
            Self::Echo => "gRPC echo",
            Self::Gateway => "gateway",
        })
    }
}

/// What a turn told.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// Microseconds of processor time that a call took, in all processes together.
    processor: f64,
}

/// By side and calls in flight, one a round.
type Turns = BTreeMap<(Name, usize), Vec<Figures>>;

/// Everything that runs while it is measured.
struct Bench {
    machine: String,
    sides: [(Name, Side); 3],
    nats: DevServer,
    echo: Process,
    gateway: Process,
}

impl Bench {
    async fn start() -> Result<Self, Failure> {
        let nats = DevServer::start(None, None).await?;
        let raw = Raw::connect(nats.url()).await?;
        let echo = Process::start(std::env::current_exe()?, ["--echo-server"]).await?;
        let gateway = Process::gateway(&[]).await?;
        Ok(Self {
            machine: machine(&raw.server_version),
            sides: [
                (Name::Raw, Side::Raw(Arc::new(raw))),
                (Name::Echo, Side::Grpc(echo.client().await?)),
                (Name::Gateway, Side::Grpc(gateway.client().await?)),
            ],
            nats,
            echo,
            gateway,
        })
    }

    async fn run(&self, options: &Options) -> Result<Turns, Failure> {
        for (name, side) in &self.sides {
            progress(&format!("warming up: {name}"));
            drive(side, links("warm-up"), 256, WARM_UP).await?;
        }
        let mut turns = Turns::new();
        for round in 0..options.rounds {
            for in_flight in LOADS {
                let mut order = self.sides.each_ref();
                order.rotate_left(round % self.sides.len());
                for (name, side) in order {
                    progress(&format!(
                        "round {} of {}: {name}, {in_flight} in flight",
                        round + 1,
                        options.rounds
                    ));
                    let links = links(&format!("{round}-{in_flight}"));
                    let time = Duration::from_secs_f64(options.seconds);
                    let figures = drive(side, links, in_flight, time).await?;
                    turns.entry((*name, in_flight)).or_default().push(figures);
                }
            }
        }
        Ok(turns)
    }

    async fn stop(self) -> Result<(), Failure> {
        drop(self.sides);
        self.gateway.stop().await?;
        self.echo.stop().await?;
        self.nats.stop().await;
        Ok(())
    }
}

/// Keeps so many puts in flight, each worker on links of its own.
async fn drive(side: &Side, links: Vec<Link>, in_flight: usize, time: Duration) -> Result<Figures, Failure> {
    let mut shares = (0..in_flight).map(|_| Vec::new()).collect::<Vec<_>>();
    for (share, link) in (0..in_flight).cycle().zip(links) {
        shares
            .get_mut(share)
            .into_iter()
            .for_each(|share| share.push(link.clone()));
    }
    let start = Instant::now() + LEAD;
    let mut workers = JoinSet::new();
    for share in shares {
        workers.spawn(work(side.clone(), share, start, start + time));
    }
    let mut latencies = histogram()?;
    sleep_until(start).await;
    let before = processor_time();
    sleep_until(start + time).await;
    let processor = processor_time() - before;
    while let Some(worker) = workers.join_next().await {
        latencies.add(worker??)?;
    }
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Figures {
        per_second: latencies.len() as f64 / time.as_secs_f64(),
        p50: micros(0.5),
        p99: micros(0.99),
        processor: processor * 1e6 / latencies.len() as f64,
    })
}

/// Seconds of processor time that this process and all below it have taken; 0 where there is no `/proc`.
fn processor_time() -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = |id: u32| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Behind the name, which is in brackets and may hold anything: state, parent, …
    let numbers = |stat: &str| {
        let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
        let field = |place| {
            behind
                .split(' ')
                .nth(place)
                .and_then(|text| text.parse::<u64>().ok())
        };
        Some((field(1)?, field(11)? + field(12)?))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let processes = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|id| Some((u64::from(id), numbers(&stat(id))?)))
        .collect::<BTreeMap<u64, (u64, u64)>>();
    let me = u64::from(std::process::id());
    let is_mine = |id: &u64| {
        std::iter::successors(Some(*id), |id| processes.get(id).map(|(parent, _)| *parent))
            .any(|ancestor| ancestor == me)
    };
    let ticks = processes
        .iter()
        .filter(|(id, _)| is_mine(id))
        .map(|(_, (_, ticks))| ticks)
        .sum::<u64>();
    ticks as f64 / TICKS_A_SECOND
}

/// One put after the other; tells the latencies of those that ended between start and end.
async fn work(
    side: Side,
    mut links: Vec<Link>,
    start: Instant,
    end: Instant,
) -> Result<Histogram<u32>, Failure> {
    let mut latencies = histogram()?;
    loop {
        for link in &mut links {
            let began = Instant::now();
            side.put(link).await?;
            let ended = Instant::now();
            if ended >= end {
                return Ok(latencies);
            }
            if ended >= start {
                let nanos = ended.duration_since(began).as_nanos();
                latencies.saturating_record(u64::try_from(nanos)?);
            }
        }
    }
}

/// Of nanoseconds, to three digits.
fn histogram() -> Result<Histogram<u32>, Failure> {
    Ok(Histogram::new_with_bounds(100, 20_000_000_000, 3)?)
}

/// What a link is put to.
#[derive(Clone)]
enum Side {
    Raw(Arc<Raw>),
    Grpc(LinkDefinitionServiceClient<Channel>),
}

impl Side {
    async fn put(&self, link: &mut Link) -> Result<(), Failure> {
        match self {
            Self::Raw(raw) => raw.put(link).await?,
            Self::Grpc(client) => {
                client.clone().put_link_definition(link.request()).await?;
            }
        }
        link.writes += 1;
        Ok(())
    }
}

/// Publishes of one's own, to a stream as hosts create it.
struct Raw {
    context: jetstream::Context,
    server_version: String,
    stream: String,
    subject_prefix: String,
    /// By how many writes the entry has seen.
    evidence: Vec<String>,
}

impl Raw {
    async fn connect(url: &str) -> Result<Self, Failure> {
        let client = async_nats::connect(url).await?;
        let server_version = client.server_info().version;
        let context = jetstream::new(client);
        let lattice = LatticeName::parse(LATTICE).map_err(|invalid| invalid.to_string())?;
        let config = cache_stream::stream_config(&lattice, "memory");
        context
            .create_stream(serde_json::from_value::<jetstream::stream::Config>(config)?)
            .await?;
        Ok(Self {
            context,
            server_version,
            stream: cache_stream::stream_name(&lattice),
            subject_prefix: cache_stream::subject_prefix(&lattice),
            evidence: (0..=evidence::RING_MAX).map(evidence_after).collect(),
        })
    }

    async fn put(&self, link: &mut Link) -> Result<(), Failure> {
        let evidence = self.evidence.get(link.writes.min(evidence::RING_MAX));
        let message = PublishMessage::build()
            .message_id(format!("lg1-{:022}", unique()))
            .expected_last_subject_sequence(link.sequence)
            .expected_stream(&self.stream)
            .header(evidence::HEADER, evidence.map(String::as_str).unwrap_or_default())
            .payload(link.body.clone());
        let subject = format!("{}{}", self.subject_prefix, link.home);
        let acknowledged = self.context.send_publish(subject, message).await?.await?;
        link.sequence = acknowledged.sequence;
        Ok(())
    }
}

/// The evidence of a value that so many writes came before, some seconds apart.
fn evidence_after(writes: usize) -> String {
    const MINUTES_SINCE_1970: i64 = 29_000_000;
    let stamp = |name: u64| Stamp {
        id: name.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(),
        fingerprint: name.wrapping_mul(0xC2B2_AE3D_27D4_EB4F).to_be_bytes(),
        generated: false,
        entry: NO_ENTRY,
    };
    let past = (1_u32..).take(writes).fold(Past::default(), |past, write| {
        past.with(Applied {
            stamp: stamp(write.into()),
            sequence: u64::from(write) * 2_000,
            unix_millis: MINUTES_SINCE_1970 * 60_000 + i64::from(write) * 500,
        })
    });
    Evidence {
        own: stamp(99),
        others: Vec::new(),
        past,
        began: false,
    }
    .encode()
}

/// A link that is put again and again, with another value each time.
#[derive(Clone)]
struct Link {
    actor: Arc<str>,
    provider: Arc<str>,
    name: String,
    writes: usize,
    /// What a raw publish needs besides.
    home: String,
    body: Bytes,
    sequence: u64,
}

impl Link {
    fn new(actor: &Arc<str>, provider: &Arc<str>, name: String) -> Option<Self> {
        let key = EntryKey::LinkDefinition(LinkId::new(actor, CONTRACT, &name));
        let entry = Entry::LinkDefinition(domain::LinkDefinition {
            provider_id: (&**provider).into(),
            values: values(0)
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
        });
        Some(Self {
            actor: Arc::clone(actor),
            provider: Arc::clone(provider),
            name,
            writes: 0,
            home: cache_stream::home(&key)?,
            body: cache_stream::put_body(&key, &entry)?,
            sequence: 0,
        })
    }

    fn request(&self) -> PutLinkDefinitionRequest {
        PutLinkDefinitionRequest {
            lattice: LATTICE.to_owned(),
            link_definition: Some(LinkDefinition {
                actor_id: self.actor.to_string(),
                provider_id: self.provider.to_string(),
                contract_id: CONTRACT.to_owned(),
                link_name: self.name.clone(),
                values: values(self.writes),
                ..LinkDefinition::default()
            }),
            request_id: format!("bench-{:030}", unique()),
            ..PutLinkDefinitionRequest::default()
        }
    }
}

fn values(version: usize) -> BTreeMap<String, String> {
    [
        ("URL".to_owned(), "redis://127.0.0.1:6379".to_owned()),
        ("VERSION".to_owned(), format!("{version:08}")),
    ]
    .into()
}

/// Links of a name that no other turn has.
fn links(turn: &str) -> Vec<Link> {
    some_links(turn, LINKS_A_TURN)
}

fn some_links(turn: &str, count: usize) -> Vec<Link> {
    const ACTORS: usize = 200;
    let pairs = (0..ACTORS)
        .map(|_| (Arc::from(keys::actor()), Arc::from(keys::provider())))
        .collect::<Vec<_>>();
    (0..count)
        .zip(pairs.iter().cycle())
        .filter_map(|(number, (actor, provider))| Link::new(actor, provider, format!("{turn}-{number:05}")))
        .collect()
}

/// Names a write; never the same twice in a run.
fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The gateway's service without the gateway.
struct Echo;

#[async_trait]
impl LinkDefinitionService for Echo {
    async fn put_link_definition(
        &self,
        request: Request<PutLinkDefinitionRequest>,
    ) -> Result<Response<PutLinkDefinitionResponse>, Status> {
        Ok(Response::new(PutLinkDefinitionResponse {
            link_definition: request.into_inner().link_definition,
            result: None,
        }))
    }

    async fn get_link_definition(
        &self,
        _request: Request<GetLinkDefinitionRequest>,
    ) -> Result<Response<GetLinkDefinitionResponse>, Status> {
        Ok(Response::new(GetLinkDefinitionResponse::default()))
    }

    async fn list_link_definitions(
        &self,
        _request: Request<ListLinkDefinitionsRequest>,
    ) -> Result<Response<ListLinkDefinitionsResponse>, Status> {
        Ok(Response::new(ListLinkDefinitionsResponse::default()))
    }

    async fn delete_link_definition(
        &self,
        _request: Request<DeleteLinkDefinitionRequest>,
    ) -> Result<Response<DeleteLinkDefinitionResponse>, Status> {
        Ok(Response::new(DeleteLinkDefinitionResponse::default()))
    }
}

async fn serve_echo() -> Result<(), Failure> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
    println!("{}", json!({"grpc": incoming.local_addr()?.to_string()}));
    std::io::stdout().flush()?;
    Server::builder()
        .add_service(LinkDefinitionServiceServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// A server in a process of its own, which tells in one line of JSON where it is once it serves.
struct Process {
    child: Child,
    told: Value,
}

impl Process {
    /// `lattice-gateway dev` as it is, on free ports. It logs warnings only, and makes a span of every call all the
    /// same, as it does by default.
    async fn gateway(arguments: &[&str]) -> Result<Self, Failure> {
        let dev = ["dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let log = "--log=warn,lattice_gateway::rpc=info";
        Self::start(
            GATEWAY,
            dev.into_iter().chain([log]).chain(arguments.iter().copied()),
        )
        .await
    }

    async fn start(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self, Failure> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(START_TIMEOUT, lines.next_line()).await??;
        let told = serde_json::from_str(&line.ok_or("a server did not start; its own words are above")?)?;
        Ok(Self { child, told })
    }

    fn told(&self, what: &str) -> Result<&str, Failure> {
        Ok(self
            .told
            .get(what)
            .and_then(Value::as_str)
            .ok_or("a server did not tell its address")?)
    }

    async fn client(&self) -> Result<LinkDefinitionServiceClient<Channel>, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.told("grpc")?))?;
        Ok(LinkDefinitionServiceClient::new(endpoint.connect().await?))
    }

    /// What the process has in memory, bytes; none where there is no `/proc`.
    fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        Some(kib * 1024)
    }

    /// Tells it to stop, and waits until it has.
    async fn stop(mut self) -> Result<(), Failure> {
        if let Some(id) = self.child.id() {
            Command::new("kill")
                .args(["-TERM", &id.to_string()])
                .status()
                .await?;
        }
        timeout(STOP_TIMEOUT, self.child.wait()).await??;
        Ok(())
    }
}

/// What a gateway has in memory.
struct Memory {
    /// Before any lattice, bytes.
    idle: Option<u64>,
    /// Since it follows the lattice, bytes.
    following: Option<u64>,
    body: usize,
}

impl Memory {
    /// One gateway fills a lattice; another, which only reads it, is looked at.
    async fn measure() -> Result<Self, Failure> {
        progress(&format!("memory: putting {LINKS_KEPT} links"));
        let writer = Process::gateway(&[]).await?;
        let reader = Process::gateway(&["--nats-url", writer.told("nats")?]).await?;
        let links = some_links("kept", LINKS_KEPT);
        let body = links.first().map_or(0, |link| link.body.len());
        fill(&Side::Grpc(writer.client().await?), links).await?;

        let idle = reader.resident();
        let mut client = reader.client().await?;
        let page = client.list_link_definitions(whole_lattice()).await?.into_inner();
        if page
            .revision
            .is_none_or(|revision| revision.sequence < LINKS_KEPT as u64)
        {
            return Err("the reading gateway did not see every link".into());
        }
        // An allocator gives back what it no longer needs while it is used, not by itself.
        let settled = Instant::now() + SETTLE;
        while Instant::now() < settled {
            client.list_link_definitions(whole_lattice()).await?;
        }
        let following = reader.resident();
        drop(client);
        reader.stop().await?;
        writer.stop().await?;
        Ok(Self {
            idle,
            following,
            body,
        })
    }

    /// Bytes of an entry on top of its body.
    fn of_entry(&self) -> Option<f64> {
        let growth = self.following?.saturating_sub(self.idle?);
        Some(growth as f64 / LINKS_KEPT as f64 - self.body as f64)
    }
}

/// Puts every link once.
async fn fill(side: &Side, links: Vec<Link>) -> Result<(), Failure> {
    const IN_FLIGHT: usize = 256;
    let mut puts = JoinSet::new();
    for mut link in links {
        if puts.len() >= IN_FLIGHT
            && let Some(put) = puts.join_next().await
        {
            put??;
        }
        let side = side.clone();
        puts.spawn(async move { side.put(&mut link).await });
    }
    while let Some(put) = puts.join_next().await {
        put??;
    }
    Ok(())
}

fn whole_lattice() -> ListLinkDefinitionsRequest {
    ListLinkDefinitionsRequest {
        lattice: LATTICE.to_owned(),
        page_size: 1,
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        ..ListLinkDefinitionsRequest::default()
    }
}

/// Microseconds that the verification of a claims token takes: its form, both keys, and the signature.
fn verification() -> f64 {
    const BATCHES: usize = 21;
    const TOKENS: u32 = 500;
    progress("claims verification");
    let (token, _actor) = keys::actor_token(&nkeys::KeyPair::new_account(), json!({}));
    let batch = |_| {
        let began = Instant::now();
        for _ in 0..TOKENS {
            assert!(claims_token::verify(black_box(&token)).is_ok());
        }
        began.elapsed().as_secs_f64() * 1e6 / f64::from(TOKENS)
    };
    median((0..BATCHES).map(batch))
}

fn report(machine: &str, options: &Options, turns: &Turns, claims: f64, memory: &Memory) {
    println!("\n{machine}");
    println!(
        "{} rounds of {} s a turn, medians; bodies of {} bytes\n",
        options.rounds, options.seconds, memory.body
    );
    println!(
        "{:<12} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "in flight", "per s", "p50 µs", "p99 µs", "cpu µs"
    );
    for ((name, in_flight), rounds) in turns {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        println!(
            "{name:<12} {in_flight:>9} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
            of(|figures| figures.per_second),
            of(|figures| figures.p50),
            of(|figures| figures.p99),
            of(|figures| figures.processor),
        );
    }
    println!();

    let throughput = by_round(turns, 256, |raw, echo, gateway| {
        gateway.per_second * (1.0 / echo.per_second + 1.0 / raw.per_second)
    });
    let latency = by_round(turns, 1, |raw, echo, gateway| gateway.p50 / (echo.p50 + raw.p50));
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    goal(
        "256 in flight: gateway / (1 / (1/echo + 1/raw))",
        throughput,
        2,
        "",
        |ratio| ratio >= THROUGHPUT_GOAL,
        ">= 0.85",
    );
    goal(
        "alone: p50 of gateway / (echo + raw)",
        latency,
        2,
        "",
        |ratio| ratio <= LATENCY_GOAL,
        "<= 1.5",
    );
    goal(
        "memory, idle",
        memory.idle.map(mib),
        1,
        " MiB",
        |mib| mib <= IDLE_GOAL_MIB,
        "<= 30 MiB",
    );
    goal(
        &format!("memory, an entry on top of its body ({LINKS_KEPT} of them)"),
        memory.of_entry(),
        0,
        " bytes",
        |bytes| bytes <= ENTRY_GOAL_BYTES,
        "<= 1024 bytes",
    );
    println!("{:<54} {claims:.1} µs a token", "claims verification");
}

fn report_access(access: Access) {
    for (what, micros, max, wanted) in [
        (
            "letting in by a token, of 10,000 callers",
            access.token,
            3.0,
            "<= 3 µs",
        ),
        (
            "letting in by a client certificate",
            access.certificate,
            3.0,
            "<= 3 µs",
        ),
        ("of that, the check of a grant", access.grant, 2.0, "<= 2 µs"),
    ] {
        goal(what, Some(micros), 2, " µs", |micros| micros <= max, wanted);
    }
}

fn report_flood(flood: &Flood) {
    let [alone, beside, refused] = [&flood.alone, &flood.beside, &flood.refused_per_second]
        .map(|figures| median(figures.iter().copied()));
    println!("{:<54} {alone:.0} µs", "a quiet caller alone, p99");
    println!(
        "{:<54} {beside:.0} µs",
        "beside 256 in flight of a caller over its rate, p99"
    );
    println!("{:<54} {refused:.0} refusals a second", "of the flood");
    let rounds = flood.alone.iter().zip(&flood.beside);
    goal(
        "a flood from one caller: p99 of another",
        Some(median(rounds.map(|(alone, beside)| beside / alone))),
        2,
        " times",
        |times| times <= 2.0,
        "<= 2",
    );
}

/// One line: what was reached of what was to be.
fn goal(
    what: &str,
    reached: Option<f64>,
    digits: usize,
    unit: &str,
    is_good: impl Fn(f64) -> bool,
    wanted: &str,
) {
    match reached {
        Some(reached) => {
            let verdict = if is_good(reached) { "reached" } else { "MISSED" };
            println!("{what:<54} {reached:.digits$}{unit} (goal {wanted}: {verdict})");
        }
        None => println!("{what:<54} cannot be measured here (goal {wanted})"),
    }
}

/// The median of a ratio over the rounds, each with what that round measured.
fn by_round(
    turns: &Turns,
    in_flight: usize,
    ratio: impl Fn(&Figures, &Figures, &Figures) -> f64,
) -> Option<f64> {
    let [raw, echo, gateway] =
        [Name::Raw, Name::Echo, Name::Gateway].map(|name| turns.get(&(name, in_flight)));
    let rounds = raw?.iter().zip(echo?).zip(gateway?);
    Some(median(
        rounds.map(|((raw, echo), gateway)| ratio(raw, echo, gateway)),
    ))
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures = figures.collect::<Vec<_>>();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What the figures depend on.
fn machine(server_version: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    format!(
        "lattice-gateway {} beside nats-server {server_version} on {cores} shared cores ({model})",
        env!("CARGO_PKG_VERSION")
    )
}

fn progress(what: &str) {
    eprintln!("bench: {what}");
}
