//! What a put costs in each layout, on file storage, with effects and settling off.

use std::{sync::Arc, time::Duration};

use lattice_gateway::proto::{
    InterfaceLink, PutInterfaceLinkRequest, interface_link_service_client::InterfaceLinkServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::{Request, transport::Channel};

use super::{
    DevServer, Failure, LINKS_A_TURN, Link, START_TIMEOUT, links, progress,
    serving::{POLL, Serving, caller},
    unique,
};

const IN_FLIGHT: usize = 256;
const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_millis(1_500);

/// Puts a second, by round.
#[derive(Debug, Default)]
pub(crate) struct Layouts {
    pub(crate) cache_stream: Vec<f64>,
    pub(crate) kv: Vec<f64>,
    /// Each put on a source of its own.
    pub(crate) component: Vec<f64>,
    /// All puts on one source.
    pub(crate) one_source: Vec<f64>,
}

/// What is put, over and over with another value.
#[derive(Clone)]
enum Put {
    Definition(Box<Link>, &'static str),
    Interface {
        source: String,
        name: String,
        writes: usize,
    },
}

impl Layouts {
    pub(crate) async fn measure() -> Result<Self, Failure> {
        let nats = DevServer::start(None, None).await?;
        let lattices = ["cache-stream", "kv", "component"].map(|layout| {
            format!(
                "[lattices.{layout}]\ntrusted_issuers = [\"*\"]\nlayout = \"{layout}\"\nprovision = \"file\"\neffects = false\nsettle = \"0s\"\n"
            )
        });
        let serving = Serving::start(nats.url(), &lattices.concat(), &caller("bench", ""))?;
        let channel = serving.connect().await?;
        for put in [
            definitions("first", "cache-stream"),
            definitions("first", "kv"),
            interfaces("first", true),
        ] {
            let mut put = put.into_iter().next().ok_or("nothing to put")?;
            let is_served = async {
                while put.send(&channel).await.is_err() {
                    sleep(POLL).await;
                }
            };
            timeout(START_TIMEOUT, is_served).await?;
        }
        let mut figures = Self::default();
        for round in 0..ROUNDS {
            progress(&format!("layouts: round {} of {ROUNDS}", round + 1));
            let turn = format!("turn-{round}");
            let mut turns = [
                (&mut figures.cache_stream, definitions(&turn, "cache-stream")),
                (&mut figures.kv, definitions(&turn, "kv")),
                (&mut figures.component, interfaces(&turn, false)),
                (&mut figures.one_source, interfaces(&turn, true)),
            ];
            let count = turns.len();
            turns.rotate_left(round % count);
            for (told, puts) in turns {
                told.push(per_second(&channel, puts).await?);
            }
        }
        drop(serving);
        nats.stop().await;
        Ok(figures)
    }
}

fn definitions(turn: &str, lattice: &'static str) -> Vec<Put> {
    let links = links(turn).into_iter();
    links
        .map(|link| Put::Definition(Box::new(link), lattice))
        .collect()
}

fn interfaces(turn: &str, on_one_source: bool) -> Vec<Put> {
    const LINKS_OF_A_SOURCE: usize = 500;
    let put = |number: usize| Put::Interface {
        source: match on_one_source {
            true => turn.to_owned(),
            false => format!("{turn}-{number}"),
        },
        name: format!("n{number}"),
        writes: 0,
    };
    let count = if on_one_source {
        LINKS_OF_A_SOURCE
    } else {
        LINKS_A_TURN
    };
    (0..count).map(put).collect()
}

impl Put {
    async fn send(&mut self, channel: &Channel) -> Result<(), Failure> {
        match self {
            Self::Definition(link, lattice) => {
                let mut put = link.request();
                (*lattice).clone_into(&mut put.lattice);
                let mut client = LinkDefinitionServiceClient::new(channel.clone());
                client.put_link_definition(with_token(put)?).await?;
                link.writes += 1;
            }
            Self::Interface { source, name, writes } => {
                let put = PutInterfaceLinkRequest {
                    lattice: "component".to_owned(),
                    interface_link: Some(InterfaceLink {
                        source_id: source.clone(),
                        target: "target".to_owned(),
                        name: name.clone(),
                        wit_namespace: "wasi".to_owned(),
                        wit_package: "keyvalue".to_owned(),
                        interfaces: vec!["store".to_owned(), format!("version-{writes:08}")],
                        ..InterfaceLink::default()
                    }),
                    request_id: format!("bench-{:030}", unique()),
                    ..PutInterfaceLinkRequest::default()
                };
                let mut client = InterfaceLinkServiceClient::new(channel.clone());
                client.put_interface_link(with_token(put)?).await?;
                *writes += 1;
            }
        }
        Ok(())
    }
}

fn with_token<T>(message: T) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", "Bearer bench".parse()?);
    Ok(request)
}

async fn per_second(channel: &Channel, puts: Vec<Put>) -> Result<f64, Failure> {
    let mut shares = (0..IN_FLIGHT).map(|_| Vec::new()).collect::<Vec<_>>();
    let count = shares.len();
    for (place, put) in puts.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(place % count) {
            share.push(put);
        }
    }
    let until = Arc::new(Instant::now() + TURN);
    let mut workers = JoinSet::new();
    for mut share in shares {
        let (channel, until) = (channel.clone(), Arc::clone(&until));
        workers.spawn(async move {
            let mut done = 0_u32;
            let length = share.len();
            for place in (0..length).cycle() {
                let Some(put) = share.get_mut(place).filter(|_| Instant::now() < *until) else {
                    break;
                };
                put.send(&channel).await?;
                done += u32::from(Instant::now() < *until);
            }
            Ok::<_, Failure>(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    Ok(f64::from(done) / TURN.as_secs_f64())
}
