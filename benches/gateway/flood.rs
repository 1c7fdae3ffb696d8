//! What a flood from one caller does to another.

use std::time::Duration;

use lattice_gateway::proto::link_definition_service_client::LinkDefinitionServiceClient;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Request;

use super::{
    DevServer, Failure, LATTICE, START_TIMEOUT, histogram, links, progress,
    serving::{POLL, Serving, caller},
};

const FLOODING: usize = 256;
const RATE: u32 = 100;
const TURN: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;

/// The p99 of a quiet caller's puts, microseconds, by round: alone, and beside a flood; and what of the flood was
/// answered a second.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    pub(crate) alone: Vec<f64>,
    pub(crate) beside: Vec<f64>,
    pub(crate) refused_per_second: Vec<f64>,
}

impl Flood {
    /// A caller with one put in flight, and another that keeps 256 in flight and may have 100 a second.
    pub(crate) async fn measure() -> Result<Self, Failure> {
        let nats = DevServer::start(None, None).await?;
        let lattices = format!("[lattices.{LATTICE}]\ntrusted_issuers = [\"*\"]\nprovision = \"memory\"");
        let limits = format!("limits = {{ requests_per_second = {RATE} }}");
        let callers = [caller("quiet", ""), caller("flood", &limits)];
        let serving = Serving::start(nats.url(), &lattices, &callers.concat())?;
        let quiet = Caller::connect(&serving, "quiet").await?;
        let flood = Caller::connect(&serving, "flood").await?;
        quiet.is_served().await?;
        let mut figures = Self::default();
        for round in 0..ROUNDS {
            progress(&format!("flood: round {} of {ROUNDS}", round + 1));
            figures.alone.push(quiet.p99(&format!("alone-{round}")).await?);
            let mut flooding = JoinSet::new();
            for _ in 0..FLOODING {
                flooding.spawn(flood.clone().keep_asking());
            }
            figures.beside.push(quiet.p99(&format!("beside-{round}")).await?);
            let mut refused = 0;
            while let Some(asked) = flooding.join_next().await {
                refused += asked?;
            }
            figures
                .refused_per_second
                .push(f64::from(refused) / TURN.as_secs_f64());
        }
        nats.stop().await;
        Ok(figures)
    }
}

#[derive(Clone)]
struct Caller {
    client: LinkDefinitionServiceClient<tonic::transport::Channel>,
    bearer: String,
}

impl Caller {
    async fn connect(serving: &Serving, token: &str) -> Result<Self, Failure> {
        Ok(Self {
            client: LinkDefinitionServiceClient::new(serving.connect().await?),
            bearer: format!("Bearer {token}"),
        })
    }

    /// One put; whether it was done.
    async fn put(&self, link: &mut super::Link) -> Result<bool, Failure> {
        let mut request = Request::new(link.request());
        request
            .metadata_mut()
            .insert("authorization", self.bearer.parse()?);
        Ok(self.client.clone().put_link_definition(request).await.is_ok())
    }

    async fn is_served(&self) -> Result<(), Failure> {
        let mut link = links("first").into_iter().next().ok_or("no link")?;
        let is_done = async {
            while !self.put(&mut link).await? {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(START_TIMEOUT, is_done).await?
    }

    /// Of one put after the other, each done.
    async fn p99(&self, turn: &str) -> Result<f64, Failure> {
        let mut latencies = histogram()?;
        let until = Instant::now() + TURN;
        let mut links = links(turn);
        let count = links.len();
        for place in (0..count).cycle() {
            let Some(link) = links.get_mut(place).filter(|_| Instant::now() < until) else {
                break;
            };
            let began = Instant::now();
            if !self.put(link).await? {
                return Err("a put of the quiet caller failed".into());
            }
            latencies.saturating_record(u64::try_from(began.elapsed().as_nanos())?);
        }
        Ok(latencies.value_at_quantile(0.99) as f64 / 1_000.0)
    }

    /// Asks at once again whatever the answer is, for the time of a turn; gives how often it was refused.
    async fn keep_asking(self) -> u32 {
        let until = Instant::now() + TURN;
        let Some(mut link) = links("flood").into_iter().next() else {
            return 0;
        };
        let mut refused = 0;
        while Instant::now() < until {
            if matches!(self.put(&mut link).await, Ok(false)) {
                refused += 1;
            }
        }
        refused
    }
}
