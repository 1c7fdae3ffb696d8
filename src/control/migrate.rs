//! Moves a lattice of hosts 0.50 to 0.59 into the bucket of hosts 0.60 to 0.82, as such a host does when it starts, but
//! without what that gets wrong: what stands is moved, and nothing else.
//!
//! Each call compares stream and bucket, and writes what differs through the write protocol, each write on the condition
//! that the bucket is as it was compared. So a call may end anywhere, and the next one goes on. That the comparison finds
//! nothing more is the verification.
//!
//! From the moment that the bucket exists no gateway reads or writes the lattice, since its layout cannot be told: that is
//! what seals it, and why a layout must not be configured. Other gateways notice that within [`SEALED_AFTER`]. The stream is
//! deleted only later than that, on request, where it is still where the caller saw it verified, after another comparison
//! and another look. Hosts that still write to the stream are stopped by nobody.

mod compare;

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::compare::{Action, Kept};
use self::compare::{Change, Compared};
use super::{
    Control, ControlError, Deadline,
    decide::{Condition, Mode, Mutation},
    gate::Patience,
    intent::{Intent, IntentParts},
    lattice::{Lattice, ambiguous, not_provisioned},
    lattices::{LatticeSettings, Layout},
};
use crate::{
    audit::Trail,
    auth::{Caller, Grant, Provision},
    domain::{
        EntryKey, LatticeName, Revision,
        hash::{LengthPrefixed, first_8},
    },
    store::{api::StreamInfo, layout::Part, mirror::Malformed},
};

/// How old a bucket is before the stream beside it may be deleted: by then every gateway has noticed the bucket, but one
/// that is cut off from NATS, and then it has had no write acknowledged.
pub const SEALED_AFTER: Duration = Duration::from_secs(10);

/// Writes under way at a time.
const IN_FLIGHT_MAX: usize = 64;

/// Writes that are still made where one of them fails.
const CHUNK: usize = 512;

/// What is left of a call's time when it begins no further writes, at least.
const RESERVE: Duration = Duration::from_millis(1_500);

/// Looks that may be taken in what is left: one at both, and the answer of as many entries.
const RESERVE_LOOKS: u32 = 3;

/// What is asked of a migration.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Whether to write at all.
    pub mode: Mode,
    /// Deletes the stream, where all of it is in the bucket and it is still at this revision.
    pub delete_source_at: Option<Revision>,
}

/// How far a migration is.
#[derive(Clone, Debug, Default)]
pub struct Migrated {
    /// Entries that this call wrote or deleted in the bucket.
    pub moved: usize,
    /// What is still to be moved.
    pub remaining: Vec<(EntryKey, Action)>,
    /// How many entries stand in the bucket as they do in the stream.
    pub unchanged: usize,
    /// What differs and is not touched.
    pub kept: Vec<(EntryKey, Kept)>,
    /// Messages that hosts cannot use, by their subjects: they stay behind.
    pub malformed: Vec<Malformed>,
    /// What the subjects of the stream begin with.
    pub subject_prefix: String,
    /// Superseded copies of links in the stream, which a host that migrates takes for links.
    pub stale_copies: usize,
    /// Where the stream was when it was last compared; `None` where there is none, or none any longer.
    pub source: Option<Revision>,
    /// Whether stream and bucket were compared and hold the same.
    pub is_verified: bool,
    /// When the stream may be deleted at the earliest; `None` where there is no bucket yet.
    pub deletable_in: Option<Duration>,
    /// Whether this call deleted the stream.
    pub did_delete_source: bool,
}

impl Control {
    /// Moves what the stream holds and the bucket does not, as far as the deadline reaches; creates the bucket where there is
    /// none. Calling again goes on.
    pub async fn migrate(
        &self,
        grant: &Grant<Provision>,
        asked: Asked,
        deadline: Deadline,
    ) -> Result<Migrated, ControlError> {
        let name = grant.lattice();
        let lattices = self.lattices();
        let settings = lattices.settings(name).ok_or_else(|| not_provisioned(name))?;
        if settings.layout.is_some() {
            return Err(ControlError::LayoutConfigured {
                lattice: name.to_string(),
                setting: format!("lattices.{name}.layout"),
            });
        }
        let found = deadline.bound(lattices.stream_and_bucket(name)).await;
        let [stream, bucket] = found.ok_or(ControlError::ReadTimedOut)??;
        let Some(stream) = stream else {
            let told = deadline.bound(self.without_a_stream_to_migrate(name, bucket));
            return told.await.ok_or(ControlError::ReadTimedOut)?;
        };
        let bucket = deadline.bound(self.bucket_of_migration(name, bucket, asked.mode, deadline));
        let bucket = bucket.await.ok_or(ControlError::ProvisionUnknown)??;
        let stop = lattices.stop().child_token();
        let _ends = stop.clone().drop_guard();
        let aside = |part: Part, info: &StreamInfo| {
            let settings = LatticeSettings {
                layout: Some(part.layout()),
                ..LatticeSettings::clone(&settings)
            };
            lattices.open_aside(name, Arc::new(settings), (part, info), &stop)
        };
        let mut moving = Moving {
            control: self,
            caller: grant.caller(),
            source: aside(Part::CacheStream, &stream),
            target: bucket.as_ref().map(|info| aside(Part::Kv, info)),
            deadline,
            reserve: RESERVE,
            refused: BTreeMap::new(),
            done: Migrated::default(),
        };
        moving.open().await?;
        moving.run(asked.mode).await?;
        moving.done.deletable_in =
            bucket.map(|info| SEALED_AFTER.saturating_sub(info.age().unwrap_or_default()));
        if asked.mode == Mode::Live {
            moving.delete_source(asked.delete_source_at).await?;
        }
        Ok(moving.done)
    }

    /// What there is to answer where no stream is.
    async fn without_a_stream_to_migrate(
        &self,
        name: &LatticeName,
        bucket: Option<StreamInfo>,
    ) -> Result<Migrated, ControlError> {
        let Some(bucket) = bucket else {
            return Err(not_provisioned(name));
        };
        let layout = self.lattices().bucket_layout(name, &bucket, None).await;
        match layout.map_err(|error| ControlError::of_api(error, name.as_str()))? {
            Some(Layout::Kv) => Ok(Migrated::default()),
            Some(layout @ (Layout::Component | Layout::CacheStream)) => {
                Err(ControlError::LayoutUnsupported {
                    layout: layout.as_str(),
                    operation: "a migration to an earlier layout",
                })
            }
            None => Err(ambiguous(name)),
        }
    }

    /// The bucket that is moved into, created where there is none.
    async fn bucket_of_migration(
        &self,
        name: &LatticeName,
        bucket: Option<StreamInfo>,
        mode: Mode,
        deadline: Deadline,
    ) -> Result<Option<StreamInfo>, ControlError> {
        let of_api = |error| ControlError::of_api(error, name.as_str());
        let lattices = self.lattices();
        let bucket = match (bucket, mode) {
            (Some(bucket), _) => bucket,
            (None, Mode::ValidateOnly) => return Ok(None),
            (None, Mode::Live) => {
                lattices.provision_bucket(name, deadline).await?;
                let [_, bucket] = lattices.stream_and_bucket(name).await?;
                bucket.ok_or_else(|| not_provisioned(name))?
            }
        };
        let layout = lattices.bucket_layout(name, &bucket, Some(Layout::Kv)).await;
        match layout.map_err(of_api)? {
            Some(Layout::Kv) => Ok(Some(bucket)),
            Some(Layout::CacheStream | Layout::Component) | None => Err(ambiguous(name)),
        }
    }
}

/// What became of some changes.
#[derive(Default)]
struct Written {
    moved: usize,
    refused: Vec<(EntryKey, Kept)>,
    /// Why one of them was not made.
    failed: Option<ControlError>,
}

impl Written {
    fn refuse(&mut self, key: &EntryKey, kept: Kept) {
        self.refused.push((key.clone(), kept));
    }
}

/// A migration under way.
struct Moving<'a> {
    control: &'a Control,
    caller: &'a Caller,
    source: Arc<Lattice>,
    /// None where a rehearsal finds no bucket.
    target: Option<Arc<Lattice>>,
    deadline: Deadline,
    reserve: Duration,
    /// What the bucket does not take.
    refused: BTreeMap<EntryKey, Kept>,
    done: Migrated,
}

impl Moving<'_> {
    async fn open(&self) -> Result<(), ControlError> {
        for lattice in std::iter::once(&self.source).chain(&self.target) {
            lattice.ready(self.deadline).await?;
        }
        Ok(())
    }

    /// Compares and writes until both hold the same, or time is up.
    async fn run(&mut self, mode: Mode) -> Result<(), ControlError> {
        loop {
            let began = Instant::now();
            let compared = self.look().await?;
            self.reserve = self.reserve.max(began.elapsed() * RESERVE_LOOKS);
            let changes = compared.changes;
            if mode == Mode::ValidateOnly || changes.is_empty() || !self.has_time() {
                return Ok(());
            }
            if self.carry_out(changes).await?.is_break() {
                return self.look().await.map(drop);
            }
        }
    }

    fn has_time(&self) -> bool {
        self.deadline.left() >= self.reserve
    }

    /// Compares both as their leaders have them now, and notes how far it is.
    async fn look(&mut self) -> Result<Compared, ControlError> {
        let looked = self.compared().await;
        let (compared, at) = match looked {
            Ok(looked) => looked,
            // What was written stays, and the next call finds it.
            Err(_) if self.done.moved > 0 => {
                self.done.is_verified = false;
                return Ok(Compared::default());
            }
            Err(error) => return Err(error),
        };
        self.done.remaining = compared.actions();
        self.done.kept.clone_from(&compared.kept);
        self.done.unchanged = compared.unchanged;
        self.done.source = Some(at);
        self.done.is_verified =
            self.target.is_some() && compared.changes.is_empty() && compared.kept.is_empty();
        Ok(compared)
    }

    async fn compared(&mut self) -> Result<(Compared, Revision), ControlError> {
        self.source.fresh(self.deadline).await?;
        if let Some(target) = &self.target {
            target.fresh(self.deadline).await?;
        }
        let form = self.source.settings.claims_form;
        let (mut compared, at, malformed, stale_copies) = self.source.look(|source| {
            let compared = match &self.target {
                None => Ok(compare::compare(source, None, form)),
                Some(target) => target.look(|target| compare::compare(source, Some(target), form)),
            };
            let malformed = source.malformed().cloned().collect::<Vec<_>>();
            compared.map(|compared| (compared, source.position(), malformed, source.stale().count()))
        })??;
        compared.keep(&self.refused);
        self.done.malformed = malformed;
        self.done.malformed.sort_by_key(|malformed| malformed.sequence);
        self.done.subject_prefix.clone_from(&self.source.subject_prefix);
        self.done.stale_copies = stale_copies;
        Ok((compared, at))
    }

    /// Makes changes until one fails, which breaks it off, or time is up.
    async fn carry_out(&mut self, changes: Vec<Change>) -> Result<ControlFlow<()>, ControlError> {
        let Some(target) = self.target.clone() else {
            return Ok(ControlFlow::Break(()));
        };
        let mut changes = changes.into_iter();
        while self.has_time() {
            let chunk = changes.by_ref().take(CHUNK).collect::<Vec<_>>();
            if chunk.is_empty() {
                break;
            }
            let written = self.write(&target, chunk).await;
            self.done.moved += written.moved;
            self.refused.extend(written.refused);
            match written.failed {
                // Else what was written stays, and the next call finds what is left.
                Some(error) if self.done.moved == 0 => return Err(error),
                Some(_) => return Ok(ControlFlow::Break(())),
                None => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn write(&self, target: &Arc<Lattice>, changes: Vec<Change>) -> Written {
        let (tasks, deadline) = (self.control.lattices().tasks(), self.deadline);
        // A stream may take so little that a chunk would outlast the call.
        let changes = changes.into_iter().take_while(|_| self.has_time());
        let writes = changes.map(|change| {
            let (mutation, target) = (self.mutation(change), Arc::clone(target));
            let key = Arc::clone(&mutation.key);
            // The call is one record.
            let trail = Trail::default();
            async move { (key, target.mutate(mutation, trail, tasks, deadline).await) }
        });
        let mut writes = stream::iter(writes).buffer_unordered(IN_FLIGHT_MAX);
        let mut all = Written::default();
        while let Some((key, written)) = writes.next().await {
            match written {
                Ok(_) => all.moved += 1,
                Err(ControlError::BodyTooLarge { .. }) => all.refuse(&key, Kept::TooLarge),
                Err(ControlError::LinkConflict { .. }) => all.refuse(&key, Kept::SameKey),
                // Somebody else wrote it, or nobody knows: it is compared again.
                Err(
                    ControlError::EtagMismatch { .. }
                    | ControlError::Exists { .. }
                    | ControlError::NotFound { .. }
                    | ControlError::OutcomeUnknown { .. },
                ) => {}
                Err(error) => all.failed = Some(error),
            }
        }
        all
    }

    fn mutation(&self, change: Change) -> Mutation {
        let mut hash = LengthPrefixed::default();
        hash.text(change.action.as_str());
        hash.bytes(&change.body);
        Mutation {
            intent: Intent::of(IntentParts {
                caller: self.caller,
                lattice: &self.source.name,
                method: "MigrateLattice",
                key: &change.key,
                request_id: None,
                fingerprint: first_8(&hash.finish()),
            }),
            key: Arc::new(change.key),
            desired: change.desired,
            body: change.body,
            precondition: change.precondition,
            mode: Mode::Live,
            retry: None,
            validity: None,
            entries_max: None,
            any_target: false,
            condition: Condition::None,
            patience: Patience::Long,
            abandoned: CancellationToken::new(),
        }
    }

    /// Deletes the stream, where it is verified and has not moved since the caller saw that.
    async fn delete_source(&mut self, at: Option<Revision>) -> Result<(), ControlError> {
        let is_sealed = self.done.deletable_in == Some(Duration::ZERO);
        if at.is_none() || self.done.source != at || !self.done.is_verified || !is_sealed {
            return Ok(());
        }
        let Lattice {
            api, stream, name, ..
        } = &*self.source;
        let of_api = |error| ControlError::of_api(error, name.as_str());
        let look = self.deadline.bound(api.stream_info(stream)).await;
        let info = look.ok_or(ControlError::ReadTimedOut)?.map_err(of_api)?;
        let now = Revision {
            epoch: info.epoch(stream),
            sequence: info.state.last_seq,
        };
        if Some(now) != at {
            self.done.source = Some(now);
            self.done.is_verified = false;
            return Ok(());
        }
        match self.deadline.bound(api.stream_delete(stream)).await {
            Some(Ok(_)) => {
                tracing::info!(lattice = %name, stream, "deleted the stream of a lattice that was migrated");
                self.done.did_delete_source = true;
                self.done.source = None;
                Ok(())
            }
            Some(Err(error)) if !error.is_unknown() => Err(of_api(error)),
            Some(Err(_)) | None => Err(ControlError::ProvisionUnknown),
        }
    }
}
