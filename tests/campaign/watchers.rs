//! Watchers of a round: each keeps a view, has every promise of a watch checked message by message, hangs up and comes
//! back again and again, and in the end must hold what the lattice holds.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use lattice_gateway::proto::{
    Consistency, Entry, ListClaimsRequest, ListConfigsRequest, ListInterfaceLinksRequest,
    ListLinkDefinitionsRequest, ListOciReferencesRequest, WatchRequest, WatchResponse,
    claims_service_client::ClaimsServiceClient, config_service_client::ConfigServiceClient,
    consistency::Requirement, entry, interface_link_service_client::InterfaceLinkServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
    oci_reference_service_client::OciReferenceServiceClient, watch_service_client::WatchServiceClient,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    harness::{until, view::View},
    world::{Gate, LATTICE, Layout},
};

/// Watchers of a round.
pub const WATCHERS: usize = 6;
/// Longer than any gateway may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// By when a view is that of the lattice, once nothing is broken and nobody writes.
const CONVERGED_WITHIN: Duration = Duration::from_secs(15);
/// Most watches come back to where they were: there they can go on.
const STAYS: f64 = 0.8;

/// What the watchers of a round share.
#[derive(Debug)]
pub struct Watchers {
    gateways: Vec<Gate>,
    layout: Layout,
    reconnects: AtomicU64,
    resyncs: AtomicU64,
    messages: AtomicU64,
    /// Promises that were broken.
    broken: Mutex<Vec<String>>,
}

/// How much was watched.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Watched {
    pub reconnects: u64,
    pub resyncs: u64,
    pub messages: u64,
}

impl Watchers {
    pub fn new(gateways: Vec<Gate>, layout: Layout) -> Arc<Self> {
        Arc::new(Self {
            gateways,
            layout,
            reconnects: AtomicU64::default(),
            resyncs: AtomicU64::default(),
            messages: AtomicU64::default(),
            broken: Mutex::default(),
        })
    }

    /// Watches until `stop`; gives where the view was then, and the view.
    pub async fn watch(self: Arc<Self>, mut rng: Rng, stop: CancellationToken) -> View {
        let mut view = View::default();
        let mut gateway = rng.usize(..self.gateways.len());
        while !stop.is_cancelled() {
            if rng.f64() > STAYS {
                gateway = rng.usize(..self.gateways.len());
            }
            let patience = Duration::from_millis(rng.u64(20..1_500));
            let watching = self.follow(gateway, &mut view, |_| false);
            let _ended = stop.run_until_cancelled(timeout(patience, watching)).await;
            self.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        view
    }

    /// Goes on with a view once all is mended, until it holds what the lattice holds.
    pub async fn converge(&self, mut view: View, gateway: usize) {
        let listed = until("the gateway lists the lattice", async || {
            self.listed(gateway).await.ok()
        });
        let expected = listed.await;
        let deadline = Instant::now() + CONVERGED_WITHIN;
        while Instant::now() < deadline {
            let holds_it = |view: &View| view.is_consistent && by_identity(view.entries()) == expected;
            let following = self.follow(gateway, &mut view, holds_it);
            if timeout(deadline - Instant::now(), following).await == Ok(true) {
                return;
            }
        }
        let told = by_identity(view.entries());
        self.broken.lock().push(format!(
            "a watch did not converge: it told {told:?}, and the lattice holds {expected:?}"
        ));
    }

    /// Follows one gateway with a view until it is as wanted (`true`) or the watch ends.
    async fn follow(&self, gateway: usize, view: &mut View, is_enough: impl Fn(&View) -> bool) -> bool {
        let mut client = WatchServiceClient::new(self.gateways[gateway].clone());
        let request = WatchRequest {
            lattice: LATTICE.to_owned(),
            resume_token: view.resume_token.clone(),
            ..WatchRequest::default()
        };
        let Ok(answer) = client.watch(request).await else {
            // Between two tries of a gateway that is down, or whose NATS is.
            sleep(Duration::from_millis(50)).await;
            return false;
        };
        let mut messages = answer.into_inner();
        view.resumed();
        loop {
            match self.message(&mut messages).await {
                Some(message) => {
                    let resyncs = view.resyncs.len();
                    if let Err(broken) = view.take(message) {
                        self.broken
                            .lock()
                            .push(format!("a watch broke a promise: {broken}"));
                        return false;
                    }
                    let anew = u64::try_from(view.resyncs.len() - resyncs).unwrap_or(0);
                    self.resyncs.fetch_add(anew, Ordering::Relaxed);
                    if is_enough(view) {
                        return true;
                    }
                }
                None => return false,
            }
        }
    }

    async fn message(&self, messages: &mut Streaming<WatchResponse>) -> Option<WatchResponse> {
        match timeout(SILENCE_MAX, messages.message()).await {
            Ok(Ok(message)) => {
                self.messages.fetch_add(1, Ordering::Relaxed);
                message
            }
            Ok(Err(_ended)) => None,
            Err(_silence) => {
                let broken = format!("a watch said nothing for {SILENCE_MAX:?}");
                self.broken.lock().push(broken);
                None
            }
        }
    }

    /// What the lattice holds, by identity.
    async fn listed(&self, gateway: usize) -> Result<BTreeMap<String, String>, Status> {
        let gate = || self.gateways[gateway].clone();
        let consistency = Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        });
        let (lattice, page_size) = (LATTICE.to_owned(), 1_000);
        let request = ListClaimsRequest {
            lattice: lattice.clone(),
            page_size,
            consistency,
            ..ListClaimsRequest::default()
        };
        let claims = ClaimsServiceClient::new(gate()).list_claims(request).await?;
        let claims = wrapped(claims.into_inner().claims, entry::Entry::Claims);
        let entries = match self.layout {
            Layout::CacheStream | Layout::Kv => {
                let request = ListLinkDefinitionsRequest {
                    lattice,
                    page_size,
                    consistency,
                    ..ListLinkDefinitionsRequest::default()
                };
                let mut client = LinkDefinitionServiceClient::new(gate());
                let page = client.list_link_definitions(request).await?.into_inner();
                let links = wrapped(page.link_definitions, entry::Entry::LinkDefinition);
                let request = ListOciReferencesRequest {
                    lattice: LATTICE.to_owned(),
                    page_size,
                    consistency,
                    ..ListOciReferencesRequest::default()
                };
                let mut client = OciReferenceServiceClient::new(gate());
                let page = client.list_oci_references(request).await?.into_inner();
                let references = wrapped(page.oci_references, entry::Entry::OciReference);
                [claims, links, references].concat()
            }
            Layout::Component => {
                let request = ListInterfaceLinksRequest {
                    lattice: lattice.clone(),
                    page_size,
                    consistency,
                    ..ListInterfaceLinksRequest::default()
                };
                let mut client = InterfaceLinkServiceClient::new(gate());
                let links = client.list_interface_links(request).await?.into_inner();
                let request = ListConfigsRequest {
                    lattice,
                    page_size,
                    consistency,
                    ..ListConfigsRequest::default()
                };
                let mut client = ConfigServiceClient::new(gate());
                let configs = client.list_configs(request).await?.into_inner();
                let links = wrapped(links.interface_links, entry::Entry::InterfaceLink);
                let configs = wrapped(configs.named_configs, entry::Entry::NamedConfig);
                [claims, links, configs].concat()
            }
        };
        Ok(by_identity(entries.into_iter()))
    }

    /// How much was watched, and what was wrong.
    pub fn outcome(&self) -> (Watched, Vec<String>) {
        let watched = Watched {
            reconnects: self.reconnects.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
        };
        (watched, self.broken.lock().clone())
    }
}

fn wrapped<T>(resources: Vec<T>, wrap: fn(T) -> entry::Entry) -> Vec<Entry> {
    let wrapped = resources.into_iter().map(|resource| Entry {
        entry: Some(wrap(resource)),
    });
    wrapped.collect()
}

/// Entries by identity. An interface link is told where it says something else, and not where its record was written.
fn by_identity(entries: impl Iterator<Item = impl Borrow<Entry>>) -> BTreeMap<String, String> {
    let told = entries.filter_map(|entry| {
        Some(match entry.borrow().entry.clone()? {
            entry::Entry::InterfaceLink(mut link) => {
                (link.revision, link.update_time) = (None, None);
                let id = (
                    &link.source_id,
                    &link.name,
                    &link.wit_namespace,
                    &link.wit_package,
                    &link.target,
                );
                (format!("{id:?}"), format!("{link:?}"))
            }
            entry::Entry::LinkDefinition(link) => (format!("link {}", link.actor_id), format!("{link:?}")),
            entry::Entry::NamedConfig(config) => (format!("config {}", config.name), format!("{config:?}")),
            entry::Entry::Claims(claims) => (format!("claims {}", claims.public_key), format!("{claims:?}")),
            entry::Entry::OciReference(reference) => (
                format!("reference {}", reference.oci_url),
                format!("{reference:?}"),
            ),
        })
    });
    told.collect()
}
