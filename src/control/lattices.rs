//! Which lattices there are, and the open ones.
//!
//! A lattice is opened by the first call to it and stays open until its stream is gone or the server stops. A
//! stream is created by `ProvisionLattice`, at start where configured, and by the first write in `dev` on its own
//! server; never silently in mid-run, since hosts of 0.60 delete the stream after they have migrated it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    Clock, ControlError, Deadline,
    effects::Effects,
    lattice::{Lattice, WriteAtRisk, ambiguous, not_provisioned},
    sweep,
};
use crate::{
    auth::{Names, Pattern},
    domain::{LatticeName, claims_token::TrustedIssuers},
    store::{
        api::{ApiError, JetStream, StreamInfo},
        connection::{Connection, RequestFailed},
        feed::{self, Feed, FeedConfig},
        layout::cache_stream,
    },
};

/// How hosts of an era keep a lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// wasmCloud 0.50 to 0.59.
    CacheStream,
    /// wasmCloud 0.60 to 0.82.
    Kv,
    /// wasmCloud 1.0 to 1.9.
    Component,
}

impl Layout {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CacheStream => "cache-stream",
            Self::Kv => "kv",
            Self::Component => "component",
        }
    }
}

/// Where JetStream keeps a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, as hosts create it.
    Memory,
    /// On disk.
    File,
}

impl Storage {
    /// As JetStream writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
        }
    }
}

/// What is configured for a lattice.
#[derive(Clone, Debug)]
pub struct LatticeSettings {
    /// Whose claims tokens are trusted.
    pub trusted_issuers: TrustedIssuers,
    /// The layout, where it is not to be found out.
    pub layout: Option<Layout>,
    /// Whether superseded copies of entries are removed.
    pub sweep: bool,
    /// Whether running providers and whoever reads the lattice's events are told of writes.
    pub effects: bool,
    /// On which NATS it is, by the name of the upstream; none is the first.
    pub upstream: Option<Box<str>>,
}

/// What is configured, by exact name or glob; exact names win, then the first glob.
#[derive(Clone, Debug, Default)]
pub struct Settings(pub Vec<(String, Arc<LatticeSettings>)>);

impl Settings {
    /// What is configured to be on the upstream of this name.
    pub fn on(&self, upstream: Option<&str>) -> Names {
        self.0
            .iter()
            .filter(|(_, settings)| settings.upstream.as_deref() == upstream)
            .map(|(pattern, _)| pattern.as_str())
            .collect()
    }

    fn of(&self, lattice: &LatticeName) -> Option<Arc<LatticeSettings>> {
        let exact = self.0.iter().find(|(pattern, _)| pattern == lattice.as_str());
        let glob = || {
            self.0
                .iter()
                .find(|(pattern, _)| Pattern::parse(pattern).matches(lattice.as_str()))
        };
        exact.or_else(glob).map(|(_, settings)| Arc::clone(settings))
    }
}

/// One NATS, with the account and the domain that the gateway has there.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The configuration's name for it.
    pub name: Box<str>,
    /// The API, over the connection of requests.
    pub api: JetStream,
    /// The connection of deliveries.
    pub deliveries: Connection,
    /// The lattices that are configured to be there.
    pub serves: Names,
}

impl Upstream {
    /// Its connections.
    pub fn connections(&self) -> [&Connection; 2] {
        [self.api.connection(), &self.deliveries]
    }
}

/// Every NATS: the first is where lattices are that name no other.
#[derive(Clone, Debug)]
pub struct Upstreams {
    /// The first.
    pub first: Upstream,
    /// The others.
    pub others: Vec<Upstream>,
}

impl Upstreams {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Upstream> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn named(&self, name: Option<&str>) -> &Upstream {
        let named = self.others.iter().find(|upstream| Some(&*upstream.name) == name);
        named.unwrap_or(&self.first)
    }
}

/// What the lattices need.
#[derive(Debug)]
pub struct LatticesConfig {
    /// Where lattices are.
    pub upstreams: Upstreams,
    /// Distinguishes this gateway's consumers.
    pub instance: Arc<str>,
    /// What is configured.
    pub settings: Settings,
    /// Whether the first write to a lattice that has neither stream nor bucket creates its stream.
    pub create_on_write: Option<Storage>,
    /// How long one publish waits for its acknowledgement.
    pub ack_timeout: Duration,
    /// The wall clock.
    pub clock: Clock,
    /// What it takes to tell others of writes.
    pub effects: Effects,
}

/// What there is under a lattice's name.
#[derive(Clone, Debug)]
pub enum Found {
    /// Neither stream nor bucket.
    Nothing,
    /// A stream, and no bucket that counts.
    Stream(Box<StreamInfo>),
    /// A bucket that tells its era.
    Bucket(Layout),
    /// Both, or a bucket that does not tell.
    Ambiguous,
}

/// What carries a lattice's name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// A stream of layout `cache-stream`.
    pub stream: bool,
    /// A bucket of a later layout.
    pub bucket: bool,
}

type Slot = Arc<OnceCell<Arc<Lattice>>>;

/// The lattices.
#[derive(Debug)]
pub struct Lattices {
    config: LatticesConfig,
    open: Mutex<HashMap<LatticeName, Slot>>,
    at_risk: Arc<Mutex<HashMap<LatticeName, Vec<WriteAtRisk>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lattices {
    /// None open yet. The tasks of open lattices run in `tasks` and end with `stop`.
    pub fn new(config: LatticesConfig, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            config,
            open: Mutex::default(),
            at_risk: Arc::default(),
            tasks,
            stop,
        }
    }

    /// Every NATS.
    pub fn upstreams(&self) -> &Upstreams {
        &self.config.upstreams
    }

    /// Where a lattice is.
    pub fn upstream(&self, name: &LatticeName) -> &Upstream {
        let settings = self.settings(name);
        let upstream = settings
            .as_ref()
            .and_then(|settings| settings.upstream.as_deref());
        self.config.upstreams.named(upstream)
    }

    /// The tasks, for work that must outlive its call.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// What is configured for a lattice.
    pub fn settings(&self, name: &LatticeName) -> Option<Arc<LatticeSettings>> {
        self.config.settings.of(name)
    }

    /// Opens a lattice that does not exist, for its first write, where that is allowed to create it.
    pub async fn create(&self, name: &LatticeName, deadline: Deadline) -> Result<Arc<Lattice>, ControlError> {
        let Some(storage) = self.config.create_on_write else {
            return Err(not_provisioned(name));
        };
        deadline
            .bound(self.provision(name, storage, false))
            .await
            .unwrap_or_else(|| Err(ControlError::unavailable("JetStream does not answer")))?;
        self.open(name, deadline).await
    }

    /// Whether the first write to a lattice creates it.
    pub fn creates_on_write(&self) -> bool {
        self.config.create_on_write.is_some()
    }

    /// Opens a lattice, or gives the open one.
    pub async fn open(&self, name: &LatticeName, deadline: Deadline) -> Result<Arc<Lattice>, ControlError> {
        let slot = Arc::clone(self.open.lock().entry(name.clone()).or_default());
        if let Some(lattice) = slot.get() {
            if lattice.exists() {
                return Ok(Arc::clone(lattice));
            }
            self.forget(name, &slot);
            return Box::pin(self.open(name, deadline)).await;
        }
        let opened = deadline
            .bound(slot.get_or_try_init(|| self.start(name)))
            .await
            .unwrap_or_else(|| Err(ControlError::unavailable("JetStream does not answer")))
            .cloned();
        if opened.is_err() {
            self.forget(name, &slot);
        }
        opened
    }

    /// Looks what there is under the name.
    pub async fn find(&self, name: &LatticeName) -> Result<Found, ControlError> {
        let of_api = |error| ControlError::of_api(error, name.as_str());
        let api = &self.upstream(name).api;
        let stream = existing(api.stream_info(&cache_stream::stream_name(name)).await).map_err(of_api)?;
        let bucket = existing(api.stream_info(&feed::bucket_stream(name)).await).map_err(of_api)?;
        let configured = self.settings(name).and_then(|settings| settings.layout);
        Ok(match (stream, bucket, configured) {
            (None, None, _) => Found::Nothing,
            (Some(stream), _, Some(Layout::CacheStream)) | (Some(stream), None, _) => {
                Found::Stream(Box::new(stream))
            }
            (_, Some(_), Some(layout @ (Layout::Kv | Layout::Component))) => Found::Bucket(layout),
            (Some(_), Some(_), _) => Found::Ambiguous,
            (None, Some(bucket), _) => match self.bucket_layout(name, &bucket).await.map_err(of_api)? {
                Some(layout) => Found::Bucket(layout),
                None => Found::Ambiguous,
            },
        })
    }

    /// Names every lattice that has a stream or a bucket, by name, where `may_matter` says so of what is configured to be
    /// on an upstream: the others are not asked, so that one that is down does not touch who has nothing there.
    pub async fn names(
        &self,
        may_matter: impl Fn(&Names) -> bool,
    ) -> Result<BTreeMap<LatticeName, Named>, ControlError> {
        let asked = self.config.upstreams.iter();
        let asked = asked.filter(|upstream| may_matter(&upstream.serves));
        let answers = join_all(asked.map(async |upstream| (upstream, upstream.api.stream_names().await)));
        let mut lattices = BTreeMap::<_, Named>::new();
        for (upstream, streams) in answers.await {
            for stream in streams.map_err(|error| ControlError::of_api(error, "*"))? {
                let of_stream = stream.strip_prefix(cache_stream::STREAM_PREFIX);
                let of_bucket = stream.strip_prefix(BUCKET_PREFIX);
                if let Some(Ok(name)) = of_stream.or(of_bucket).map(LatticeName::parse)
                    && self.upstream(&name).name == upstream.name
                {
                    let named = lattices.entry(name).or_default();
                    named.stream |= of_stream.is_some();
                    named.bucket |= of_bucket.is_some();
                }
            }
        }
        Ok(lattices)
    }

    /// Creates the lattice's stream, unless it is there. Tells whether this call did.
    pub async fn provision(
        &self,
        name: &LatticeName,
        storage: Storage,
        is_dry_run: bool,
    ) -> Result<bool, ControlError> {
        match self.find(name).await? {
            Found::Stream(_) => return Ok(false),
            Found::Bucket(_) | Found::Ambiguous => return Err(ambiguous(name)),
            Found::Nothing if is_dry_run => return Ok(true),
            Found::Nothing => {}
        }
        let stream = cache_stream::stream_name(name);
        let config = cache_stream::stream_config(name, storage.as_str());
        match self.upstream(name).api.stream_create(&stream, &config).await {
            Ok(created) if !created.did_create => Ok(false),
            Ok(_) => {
                info!(lattice = %name, storage = storage.as_str(), "created the lattice's stream");
                Ok(true)
            }
            // Somebody was quicker, with another configuration.
            Err(ApiError::Refused { err_code: 10058, .. }) => Ok(false),
            Err(ApiError::Refused {
                err_code: 10065,
                description,
            }) => {
                info!(lattice = %name, description, "another stream takes the lattice's subjects");
                Err(ControlError::Drift(crate::store::drift::Drift {
                    field: "subjects",
                    want: config.get("subjects").cloned().unwrap_or_default(),
                    have: Value::String("taken by another stream".to_owned()),
                    blocks_writes: true,
                }))
            }
            Err(ApiError::Request(RequestFailed::Unknown)) => Err(ControlError::ProvisionUnknown),
            Err(error) => Err(ControlError::of_api(error, name.as_str())),
        }
    }

    /// The writes that a migration of the lattice may have missed.
    pub fn at_risk(&self, name: &LatticeName) -> Vec<WriteAtRisk> {
        self.at_risk.lock().get(name).cloned().unwrap_or_default()
    }

    async fn start(&self, name: &LatticeName) -> Result<Arc<Lattice>, ControlError> {
        let settings = self.settings(name).ok_or_else(|| not_provisioned(name))?;
        match self.find(name).await? {
            Found::Stream(info) => Ok(self.follow(name, settings, &info)),
            Found::Nothing => Err(not_provisioned(name)),
            Found::Ambiguous => Err(ambiguous(name)),
            Found::Bucket(layout) => Err(ControlError::LayoutUnsupported {
                layout: layout.as_str(),
                operation: "this version of the gateway serves layout `cache-stream` only",
            }),
        }
    }

    fn follow(&self, name: &LatticeName, settings: Arc<LatticeSettings>, info: &StreamInfo) -> Arc<Lattice> {
        let upstream = self.upstream(name);
        let feed_config = FeedConfig {
            lattice: name.clone(),
            api: upstream.api.clone(),
            deliveries: upstream.deliveries.clone(),
            instance: Arc::clone(&self.config.instance),
        };
        let (feed, feeding, inspecting) = Feed::start(feed_config, info, &self.stop);
        let lattice = Arc::new(Lattice::new(
            name.clone(),
            cache_stream::stream_name(name),
            cache_stream::subject_prefix(name),
            upstream.api.clone(),
            feed,
            settings,
            self.config.clock,
            self.config.ack_timeout,
            self.config.effects.clone(),
        ));
        info!(lattice = %name, stream = %lattice.stream, "opened the lattice");
        self.tasks.spawn(feeding);
        self.tasks.spawn(inspecting);
        self.tasks.spawn(sweep::watch(
            Arc::clone(&lattice),
            Arc::clone(&self.at_risk),
            self.stop.clone(),
        ));
        lattice
    }

    /// Lets the next call begin anew, unless somebody else is opening the lattice through the same slot.
    fn forget(&self, name: &LatticeName, slot: &Slot) {
        const MAP_AND_CALLER: usize = 2;
        let mut open = self.open.lock();
        let is_held = open.get(name).is_some_and(|held| Arc::ptr_eq(held, slot));
        let is_gone = slot.get().is_some_and(|lattice| !lattice.exists());
        let is_unused = slot.get().is_none() && Arc::strong_count(slot) <= MAP_AND_CALLER;
        if is_held && (is_gone || is_unused) {
            open.remove(name);
        }
    }

    /// A bucket tells its era by what `ProvisionLattice` noted on it, else by its keys.
    async fn bucket_layout(
        &self,
        name: &LatticeName,
        bucket: &StreamInfo,
    ) -> Result<Option<Layout>, ApiError> {
        let noted = bucket
            .config
            .pointer("/metadata/lattice-gateway.layout")
            .and_then(Value::as_str);
        match noted {
            Some("kv") => return Ok(Some(Layout::Kv)),
            Some("component") => return Ok(Some(Layout::Component)),
            Some(_) | None => {}
        }
        let listed = self
            .upstream(name)
            .api
            .stream_subjects(&feed::bucket_stream(name))
            .await?;
        let (subjects, _) = listed.unwrap_or_default();
        let has = |prefix: &str| {
            let prefix = format!("$KV.LATTICEDATA_{name}.{prefix}");
            subjects.iter().any(|subject| subject.starts_with(&prefix))
        };
        Ok(if has("COMPONENT_") {
            Some(Layout::Component)
        } else if has("LINKDEF_") || has("REFMAP_") {
            Some(Layout::Kv)
        } else {
            None
        })
    }
}

const BUCKET_PREFIX: &str = "KV_LATTICEDATA_";

fn existing(info: Result<StreamInfo, ApiError>) -> Result<Option<StreamInfo>, ApiError> {
    match info {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.is_stream_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
