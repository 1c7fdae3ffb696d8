//! One lattice that is open: its mirror, its writers' queues, and what is known of its stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use super::{
    Clock, ControlError, Deadline,
    decide::before,
    effects::Effects,
    gate::Gate,
    lattices::LatticeSettings,
    links::{Acknowledged, Sources},
    mutate::Joined,
    queue::KeyQueues,
};
use crate::{
    domain::{EntryKey, LatticeName, Revision},
    store::{
        api::JetStream,
        feed::{Feed, Inspection},
        layout::Part,
        mirror::{Contents, Mirror, Told},
        publish::{self, Outgoing, Published},
    },
    telemetry::StreamState,
};

/// For how long before a migration was noticed acknowledged writes are listed as at risk.
pub const AT_RISK_WINDOW: Duration = Duration::from_secs(10);
const AT_RISK_MAX: usize = 1_000;

/// One open stream of a lattice; of most layouts it is the only one.
#[derive(Debug)]
pub struct Lattice {
    pub(super) name: LatticeName,
    pub(super) part: Part,
    pub(super) stream: String,
    pub(super) subject_prefix: String,
    pub(super) api: JetStream,
    pub(super) feed: Feed,
    pub(super) settings: Arc<LatticeSettings>,
    pub(super) queues: KeyQueues,
    /// What is in flight to the stream.
    pub(super) gate: Arc<Gate>,
    pub(super) joined: Joined,
    pub(super) clock: Clock,
    pub(super) ack_timeout: Duration,
    pub(super) effects: Effects,
    pub(super) tasks: TaskTracker,
    /// Edits of interface links, by the source whose record they change.
    pub(super) sources: Sources,
    /// Edits of interface links that were acknowledged lately.
    pub(super) edits: Mutex<Acknowledged>,
    pub(super) acknowledged: Mutex<VecDeque<(Instant, WriteAtRisk)>>,
}

/// A write that was acknowledged shortly before a migration was noticed.
#[derive(Clone, Debug)]
pub struct WriteAtRisk {
    /// The entry.
    pub key: Arc<EntryKey>,
    /// Where it was written.
    pub revision: Revision,
    /// When it was acknowledged, since the Unix epoch.
    pub acknowledged: Duration,
}

/// What a look at the leader told.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// The leader's clock, Unix milliseconds.
    pub unix_millis: i64,
    /// When that was told. The mirror may have needed long to catch up since.
    pub told: Instant,
    /// The stream's last sequence.
    pub last: Revision,
}

impl Fresh {
    /// As of when ages count for a decision: of when the clock was told, whatever has passed since.
    pub fn reckoned_at(fresh: Option<Self>) -> Instant {
        fresh.map_or_else(Instant::now, |fresh| fresh.told)
    }

    /// What the leader's clock showed at a moment before, Unix milliseconds.
    pub fn at(self, moment: Instant) -> i64 {
        before(self.unix_millis, self.told.saturating_duration_since(moment))
    }
}

impl Lattice {
    /// What the stream holds.
    pub fn mirror(&self) -> &Mirror {
        self.feed.mirror()
    }

    /// What the leader last told of the stream.
    pub fn inspection(&self) -> Inspection {
        self.feed.inspection()
    }

    /// As it is scraped.
    pub(super) fn state(&self) -> StreamState {
        let is_writable = self.writable().is_ok();
        let (last_sequence, differences) = self
            .feed
            .with_inspection(|inspection| (inspection.last_sequence, inspection.drift.len()));
        let held = self.mirror().read(|contents| {
            let sequence = contents.position().sequence;
            (sequence, contents.subjects(), contents.malformed().len())
        });
        let (sequence, subjects, malformed) = held.unwrap_or_default();
        StreamState {
            lattice: self.name.as_str().to_owned(),
            stream: self.stream.clone(),
            sequence,
            last_sequence,
            subjects,
            malformed,
            differences,
            is_writable,
        }
    }

    /// Publishes in this span, and counts what became of it.
    pub(super) async fn publish(&self, outgoing: Outgoing<'_>, timeout: Duration, span: Span) -> Published {
        let began = Instant::now();
        let publish = publish::publish(self.api.connection(), outgoing, timeout);
        let published = publish.instrument(span).await;
        let metrics = &self.effects.metrics;
        metrics.published(published.as_str());
        if matches!(published, Published::Stored(_)) {
            metrics.acknowledged_within(began.elapsed());
        }
        published
    }

    /// Whether the stream is still there, as far as is known.
    pub(super) fn exists(&self) -> bool {
        self.feed.with_inspection(|inspection| inspection.exists)
    }

    /// Refuses calls while the layout cannot be told, and those on a stream that is gone.
    pub(super) fn readable(&self) -> Result<(), ControlError> {
        self.feed.with_inspection(|inspection| {
            // First, since the migrating host deletes the stream in the end.
            if inspection.has_rival && self.settings.layout.is_none() {
                return Err(ambiguous(&self.name));
            }
            match inspection.exists {
                true => Ok(()),
                false => Err(not_provisioned(&self.name)),
            }
        })
    }

    /// Refuses writes besides while the stream's configuration is unsafe.
    pub(super) fn writable(&self) -> Result<(), ControlError> {
        self.readable()?;
        self.feed.with_inspection(|inspection| {
            match inspection.drift.iter().find(|drift| drift.blocks_writes) {
                Some(drift) => Err(ControlError::Drift(drift.clone())),
                None => Ok(()),
            }
        })
    }

    /// Bytes in a message, headers included, that both the server and the stream take.
    pub(super) fn message_bytes_max(&self) -> usize {
        let of_stream = self
            .feed
            .with_inspection(|inspection| inspection.config.get("max_msg_size")?.as_u64())
            .and_then(|max| usize::try_from(max).ok());
        let of_server = self.api.connection().max_payload();
        of_stream.map_or(of_server, |max| max.min(of_server))
    }

    /// Waits until the stream was read once.
    pub(super) async fn ready(&self, deadline: Deadline) -> Result<(), ControlError> {
        match deadline.bound(self.mirror().ready()).await {
            Some(()) => Ok(()),
            None => Err(
                match self.feed.with_inspection(|inspection| inspection.trouble.clone()) {
                    Some(trouble) => ControlError::of_api(trouble, self.name.as_str()),
                    None => ControlError::unavailable("the stream is still being read"),
                },
            ),
        }
    }

    /// Looks at the mirror, once it was read.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Contents) -> T) -> Result<T, ControlError> {
        self.mirror()
            .read(look)
            .ok_or_else(|| ControlError::unavailable("the stream is still being read"))
    }

    /// Has the mirror reach the last sequence that the stream's leader tells now.
    pub(super) async fn fresh(&self, deadline: Deadline) -> Result<Fresh, ControlError> {
        let told = self
            .api
            .stream_info_not_behind(&self.stream, || self.mirror().position());
        let told = deadline
            .bound(told)
            .await
            .ok_or(ControlError::ReadTimedOut)?
            .map_err(|error| ControlError::of_api(error, self.name.as_str()))?;
        let told_at = Instant::now();
        let info = told.info;
        let last = Revision {
            epoch: info.epoch(&self.stream),
            sequence: info.state.last_seq,
        };
        let subjects = info.state.num_subjects;
        let caught_up = async {
            if told.is_other_story {
                let exchanges = self.mirror().exchanges();
                self.feed.reread();
                self.mirror().exchanged_since(exchanges).await;
            }
            self.catch_up(last).await;
            self.feed.notice_removals(Told { last, subjects }).await
        };
        deadline
            .bound(caught_up)
            .await
            .ok_or(ControlError::ReadTimedOut)?
            .map_err(|error| ControlError::of_api(error, self.name.as_str()))?;
        Ok(Fresh {
            unix_millis: info.unix_millis().ok_or_else(|| ControlError::Internal {
                detail: "the NATS server tells no time".to_owned(),
            })?,
            told: told_at,
            last,
        })
    }

    /// Waits until the mirror has reached `last`, which the leader told. Where the last messages were removed the
    /// consumer never delivers them: then the leader tells that it holds nothing more. (The consumer cannot: it may run
    /// on a replica that lags.)
    async fn catch_up(&self, last: Revision) {
        const PATIENCE: Duration = Duration::from_millis(20);
        loop {
            tokio::select! {
                () = self.mirror().reached(last) => return,
                () = sleep(PATIENCE) => self.ask_leader(last).await,
            }
        }
    }

    async fn ask_leader(&self, last: Revision) {
        let Some(at) = self.mirror().position().filter(|at| at.epoch == last.epoch) else {
            return;
        };
        let nothing = self
            .api
            .holds_nothing_behind(&self.stream, at.sequence, last.sequence);
        if nothing.await == Ok(true) {
            self.feed.caught_up(last);
        }
    }

    /// Remembers an acknowledged write for as long as it may be at risk.
    pub(super) fn acknowledged(&self, key: Arc<EntryKey>, revision: Revision) {
        let now = Instant::now();
        let mut acknowledged = self.acknowledged.lock();
        while acknowledged.len() >= AT_RISK_MAX
            || acknowledged
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > AT_RISK_WINDOW)
        {
            acknowledged.pop_front();
        }
        let write = WriteAtRisk {
            key,
            revision,
            acknowledged: self.clock.now(),
        };
        acknowledged.push_back((now, write));
    }

    /// The writes that a migration noticed now may have missed.
    pub(super) fn at_risk(&self) -> Vec<WriteAtRisk> {
        let now = Instant::now();
        self.acknowledged
            .lock()
            .iter()
            .filter(|(at, _)| now.duration_since(*at) <= AT_RISK_WINDOW)
            .map(|(_, write)| write.clone())
            .collect()
    }
}

/// The refusal of a lattice that has neither stream nor bucket.
pub(super) fn not_provisioned(lattice: &LatticeName) -> ControlError {
    ControlError::NotProvisioned {
        lattice: lattice.to_string(),
    }
}

/// The refusal of a lattice whose layout cannot be told.
pub(super) fn ambiguous(lattice: &LatticeName) -> ControlError {
    ControlError::LayoutAmbiguous {
        lattice: lattice.to_string(),
        setting: format!("lattices.{lattice}.layout"),
    }
}
