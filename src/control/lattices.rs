//! Which lattices there are, and the open ones.
//!
//! A lattice is opened by the first call to it and stays open until its stream is gone or the server stops. A
//! stream is created by `ProvisionLattice`, at start where configured, and by the first write in `dev` on its own
//! server ([`super::provision`]); never silently in mid-run, since hosts of 0.60 delete the stream after they have migrated it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    Clock, ControlError, Deadline,
    effects::Effects,
    gate::Gate,
    lattice::{Lattice, WriteAtRisk, ambiguous, not_provisioned},
    links::Sources,
    mutate::Joined,
    queue::KeyQueues,
    sweep,
};
use crate::{
    auth::{Names, Pattern},
    domain::{Entry, EntryKey, LatticeName, claims_token::TrustedIssuers},
    store::{
        api::{ApiError, JetStream, StreamInfo},
        connection::Connection,
        feed::{Feed, FeedConfig},
        layout::{ClaimsForm, Part, bucket, cache_stream, kv},
    },
    telemetry::StreamState,
};

pub use crate::store::{layout::Layout, provisioning::Storage};

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
    /// For how long a change of an interface link stands before it is acknowledged: hosts that change the same record undo
    /// it within that time, if they do. Zero where no host writes the bucket.
    pub settle: Duration,
    /// In which form claims are put into a bucket of hosts 0.60 to 0.82.
    pub claims_form: ClaimsForm,
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

    /// Has every lattice wait so long before an edit of an interface link is acknowledged.
    pub fn settle_for(&mut self, settle: Duration) {
        for (_, settings) in &mut self.0 {
            Arc::make_mut(settings).settle = settle;
        }
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

    /// The one of this name.
    pub fn of_name(&self, name: &str) -> Option<&Upstream> {
        self.iter().find(|upstream| &*upstream.name == name)
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
    /// What the first write to a lattice that has neither stream nor bucket creates, if anything.
    pub create_on_write: Option<NewLattice>,
    /// How long one publish waits for its acknowledgement.
    pub ack_timeout: Duration,
    /// How long a call may have to wait for its turn at a stream that always has as much as it takes.
    pub queue_time: Duration,
    /// The wall clock.
    pub clock: Clock,
    /// What it takes to tell others of writes.
    pub effects: Effects,
}

/// How a lattice is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLattice {
    /// For hosts of which era.
    pub layout: Layout,
    /// Where it is kept; as the era's hosts do, where it is not said.
    pub storage: Option<Storage>,
}

/// What there is under a lattice's name.
#[derive(Clone, Debug)]
pub enum Found {
    /// Neither stream nor bucket.
    Nothing,
    /// The stream or bucket of a layout.
    At(Layout, Box<StreamInfo>),
    /// Both, a bucket that does not tell, or one that tells otherwise than the configuration.
    Ambiguous,
}

/// What carries a lattice's name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// A stream of layout `cache-stream`.
    pub stream: bool,
    /// A bucket of a later layout.
    pub bucket: bool,
    /// The layout of the bucket, where it is configured or this gateway has found it out.
    pub bucket_layout: Option<Layout>,
}

type Slot = Arc<OnceCell<Arc<Lattice>>>;

/// Which stream of a lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    /// The one that makes it exist.
    Main,
    /// That of its named configs.
    Configs,
}

type Name = (LatticeName, Which);

/// What is known of the migration of a lattice by a host.
#[derive(Debug, Default)]
pub(super) struct Migration {
    /// The writes that it may have missed.
    pub(super) at_risk: Vec<WriteAtRisk>,
    /// What stood before, until it was compared with the copy.
    pub(super) former: Option<BTreeMap<EntryKey, Arc<Entry>>>,
    /// What the copy lacks or has otherwise.
    pub(super) differences: Vec<MigrationDifference>,
}

/// An entry that a migrating host did not copy as it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationDifference {
    /// The entry.
    pub key: EntryKey,
    /// Whether it is missing; else it says something else.
    pub is_missing: bool,
}

pub(super) type Migrations = Arc<Mutex<HashMap<LatticeName, Migration>>>;

/// The lattices.
#[derive(Debug)]
pub struct Lattices {
    config: LatticesConfig,
    open: Mutex<HashMap<Name, Slot>>,
    migrations: Migrations,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lattices {
    /// None open yet. The tasks of open lattices run in `tasks` and end with `stop`.
    pub fn new(config: LatticesConfig, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            config,
            open: Mutex::default(),
            migrations: Arc::default(),
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

    /// Ends when the server stops.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
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
        let Some(new) = self.config.create_on_write else {
            return Err(not_provisioned(name));
        };
        self.provision_new(name, new, deadline).await?;
        self.open(name, deadline).await
    }

    /// The streams that are followed, as they are scraped.
    pub fn streams(&self) -> Vec<StreamState> {
        let open = self.open.lock();
        let open = open.values().filter_map(|slot| slot.get());
        let there = open.filter(|lattice| lattice.exists());
        there.map(|lattice| lattice.state()).collect()
    }

    /// What the first write to a lattice creates.
    pub fn created_on_write(&self) -> Option<NewLattice> {
        self.config.create_on_write
    }

    /// Opens a lattice, or gives the open one.
    pub async fn open(&self, name: &LatticeName, deadline: Deadline) -> Result<Arc<Lattice>, ControlError> {
        self.open_stream((name.clone(), Which::Main), deadline).await
    }

    /// Opens the stream of a lattice's named configs.
    pub async fn open_configs(
        &self,
        name: &LatticeName,
        deadline: Deadline,
    ) -> Result<Arc<Lattice>, ControlError> {
        self.open_stream((name.clone(), Which::Configs), deadline).await
    }

    async fn open_stream(&self, name: Name, deadline: Deadline) -> Result<Arc<Lattice>, ControlError> {
        let slot = Arc::clone(self.open.lock().entry(name.clone()).or_default());
        if let Some(lattice) = slot.get() {
            if lattice.exists() {
                return Ok(Arc::clone(lattice));
            }
            self.forget(&name, &slot);
            return Box::pin(self.open_stream(name, deadline)).await;
        }
        // Boxed, since nearly every call finds it open, and carries what this takes all the same.
        let starting = Box::pin(slot.get_or_try_init(|| self.start(&name)));
        let opened = deadline
            .bound(starting)
            .await
            .unwrap_or_else(|| Err(ControlError::unavailable("JetStream does not answer")))
            .cloned();
        if opened.is_err() {
            self.forget(&name, &slot);
        }
        opened
    }

    /// Describes the stream and the bucket that carry the name, where they exist.
    pub(super) async fn stream_and_bucket(
        &self,
        name: &LatticeName,
    ) -> Result<[Option<StreamInfo>; 2], ControlError> {
        let of_api = |error| ControlError::of_api(error, name.as_str());
        let api = &self.upstream(name).api;
        let [stream, bucket] = Part::EXISTENCE.map(|part| part.stream_name(name));
        Ok([
            existing(api.stream_info(&stream).await).map_err(of_api)?,
            existing(api.stream_info(&bucket).await).map_err(of_api)?,
        ])
    }

    /// Looks what there is under the name.
    pub async fn find(&self, name: &LatticeName) -> Result<Found, ControlError> {
        let of_api = |error| ControlError::of_api(error, name.as_str());
        let [stream, bucket] = self.stream_and_bucket(name).await?;
        let configured = self.settings(name).and_then(|settings| settings.layout);
        Ok(match (stream, bucket, configured) {
            (None, None, _) => Found::Nothing,
            (Some(stream), _, Some(Layout::CacheStream)) | (Some(stream), None, None) => {
                Found::At(Layout::CacheStream, Box::new(stream))
            }
            (Some(_), None, Some(_)) | (Some(_), Some(_), None) => Found::Ambiguous,
            (_, Some(bucket), configured) => {
                let layout = self.bucket_layout(name, &bucket, configured).await;
                match layout.map_err(of_api)? {
                    Some(layout) => Found::At(layout, Box::new(bucket)),
                    None => Found::Ambiguous,
                }
            }
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
                let of_bucket = stream.strip_prefix(bucket::DATA_STREAM_PREFIX);
                if let Some(Ok(name)) = of_stream.or(of_bucket).map(LatticeName::parse)
                    && self.upstream(&name).name == upstream.name
                {
                    let bucket_layout = of_bucket.and_then(|_| self.known_layout(&name));
                    let named = lattices.entry(name).or_default();
                    named.stream |= of_stream.is_some();
                    named.bucket |= of_bucket.is_some();
                    named.bucket_layout = named.bucket_layout.or(bucket_layout);
                }
            }
        }
        Ok(lattices)
    }

    /// The layout of a lattice, where it is configured or open.
    fn known_layout(&self, name: &LatticeName) -> Option<Layout> {
        let open = || {
            let open = self.open.lock();
            let lattice = open.get(&(name.clone(), Which::Main))?.get()?;
            lattice.exists().then(|| lattice.part.layout())
        };
        self.settings(name)
            .and_then(|settings| settings.layout)
            .or_else(open)
    }

    /// The writes that a migration of the lattice may have missed, and what its copy lacks or has otherwise.
    pub fn migration(&self, name: &LatticeName) -> (Vec<WriteAtRisk>, Vec<MigrationDifference>) {
        let migrations = self.migrations.lock();
        let migration = migrations.get(name);
        migration
            .map(|migration| (migration.at_risk.clone(), migration.differences.clone()))
            .unwrap_or_default()
    }

    async fn start(&self, (name, which): &Name) -> Result<Arc<Lattice>, ControlError> {
        let settings = self.settings(name).ok_or_else(|| not_provisioned(name))?;
        let (layout, info) = match self.find(name).await? {
            Found::At(layout, info) => (layout, info),
            Found::Nothing => return Err(not_provisioned(name)),
            Found::Ambiguous => return Err(ambiguous(name)),
        };
        match which {
            Which::Main => Ok(self.follow(name, settings, layout.main(), &info)),
            Which::Configs => {
                let part = Part::Configs;
                let info = self.upstream(name).api.stream_info(&part.stream_name(name)).await;
                let info = info.map_err(|error| ControlError::of_api(error, name.as_str()))?;
                Ok(self.follow(name, settings, part, &info))
            }
        }
    }

    fn follow(
        &self,
        name: &LatticeName,
        settings: Arc<LatticeSettings>,
        part: Part,
        info: &StreamInfo,
    ) -> Arc<Lattice> {
        let instance = Arc::clone(&self.config.instance);
        let lattice = self.feeding(name, settings, (part, info), instance, &self.stop);
        info!(lattice = %name, stream = %lattice.stream, layout = part.layout().as_str(), "opened the lattice");
        if part != Part::Configs {
            self.tasks.spawn(sweep::watch(
                Arc::clone(&lattice),
                Arc::clone(&self.migrations),
                self.stop.clone(),
            ));
        }
        lattice
    }

    /// Opens a stream of a lattice for one piece of work alone, until `stop`: no other call is carried out on it.
    pub(super) fn open_aside(
        &self,
        name: &LatticeName,
        settings: Arc<LatticeSettings>,
        stream: (Part, &StreamInfo),
        stop: &CancellationToken,
    ) -> Arc<Lattice> {
        // Consumers of its own, since the stream may be open besides.
        let instance = format!("{}-{}", self.config.instance, uuid::Uuid::now_v7().simple());
        self.feeding(name, settings, stream, instance.into(), stop)
    }

    fn feeding(
        &self,
        name: &LatticeName,
        settings: Arc<LatticeSettings>,
        (part, info): (Part, &StreamInfo),
        instance: Arc<str>,
        stop: &CancellationToken,
    ) -> Arc<Lattice> {
        let upstream = self.upstream(name);
        let feed_config = FeedConfig {
            lattice: name.clone(),
            part,
            api: upstream.api.clone(),
            deliveries: upstream.deliveries.clone(),
            instance,
        };
        let (feed, feeding, inspecting, telling) = Feed::start(feed_config, info, stop);
        self.tasks.spawn(feeding);
        self.tasks.spawn(inspecting);
        self.tasks.spawn(telling);
        let stream = part.stream_name(name);
        let metrics = self.config.effects.metrics.clone();
        Arc::new(Lattice {
            name: name.clone(),
            part,
            gate: Gate::new(&stream, self.config.queue_time, metrics),
            stream,
            subject_prefix: part.subject_prefix(name),
            api: upstream.api.clone(),
            feed,
            settings,
            queues: KeyQueues::default(),
            joined: Joined::default(),
            clock: self.config.clock,
            ack_timeout: self.config.ack_timeout,
            effects: self.config.effects.clone(),
            tasks: self.tasks.clone(),
            sources: Sources::default(),
            edits: Mutex::default(),
            acknowledged: Mutex::default(),
        })
    }

    /// Lets the next call begin anew, unless somebody else is opening the lattice through the same slot.
    fn forget(&self, name: &Name, slot: &Slot) {
        const MAP_AND_CALLER: usize = 2;
        let mut open = self.open.lock();
        let is_held = open.get(name).is_some_and(|held| Arc::ptr_eq(held, slot));
        let is_gone = slot.get().is_some_and(|lattice| !lattice.exists());
        let is_unused = slot.get().is_none() && Arc::strong_count(slot) <= MAP_AND_CALLER;
        if is_held && (is_gone || is_unused) {
            open.remove(name);
        }
    }

    /// A bucket tells its era by what is configured or what `ProvisionLattice` noted on it, else by its keys; `None` where it
    /// does not tell, or tells two things. Keys of 1.x hosts are written by those alone; keys of earlier ones may be left
    /// over.
    pub(super) async fn bucket_layout(
        &self,
        name: &LatticeName,
        info: &StreamInfo,
        configured: Option<Layout>,
    ) -> Result<Option<Layout>, ApiError> {
        let noted = info
            .config
            .get("metadata")
            .and_then(|metadata| metadata.get(bucket::LAYOUT_METADATA)?.as_str())
            .and_then(Layout::parse);
        let wanted = configured.or(noted);
        match (wanted, noted) {
            (Some(Layout::CacheStream), _)
            | (Some(Layout::Kv), Some(Layout::Component))
            | (Some(Layout::Component), Some(Layout::Kv)) => return Ok(None),
            (Some(Layout::Component), _) => return Ok(wanted),
            (Some(Layout::Kv) | None, _) => {}
        }
        let listed = self
            .upstream(name)
            .api
            .stream_subjects(&Part::Kv.stream_name(name))
            .await?;
        let (subjects, _) = listed.unwrap_or_default();
        let has = |key: &str| {
            let prefix = format!("{}{key}", Part::Kv.subject_prefix(name));
            subjects.iter().any(|subject| subject.starts_with(&prefix))
        };
        let is_next_era = has(kv::COMPONENTS);
        Ok(match wanted {
            Some(kv) => (!is_next_era).then_some(kv),
            None if is_next_era => Some(Layout::Component),
            None => kv::OWN_KEYS.into_iter().any(has).then_some(Layout::Kv),
        })
    }
}

fn existing(info: Result<StreamInfo, ApiError>) -> Result<Option<StreamInfo>, ApiError> {
    match info {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.is_stream_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
