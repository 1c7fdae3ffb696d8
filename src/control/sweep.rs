//! Watches over one open lattice: removes superseded copies of entries, and notes what a migration may miss.
//!
//! A host puts a link on a random subject, the gateway on the link's home. The highest sequence wins, so the others
//! harm no running host; but a 0.60 host that migrates the stream skips tombstones and would revive them. They are
//! removed by sequence, which makes no message, cannot change the fold, and fails harmlessly where the message was
//! overwritten meanwhile. A home message that a foreign one has beaten holds the entry's evidence and stays for
//! [`HOME_KEPT_FOR`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Deadline,
    decide::before,
    lattice::Lattice,
    lattices::{Migration, MigrationDifference, Migrations},
};
use crate::{
    domain::{Claims, Entry, EntryKey, Kind},
    store::{
        layout::{Part, kv},
        mirror::{Contents, Stale},
    },
};

/// How long a home message that was beaten is kept.
pub(super) const HOME_KEPT_FOR: Duration = Duration::from_mins(10);

/// Differences of a migration that are listed, at most.
const DIFFERENCES_MAX: usize = 1_000;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the stream is gone or the server stops.
pub(super) async fn watch(lattice: Arc<Lattice>, migrations: Migrations, stop: CancellationToken) {
    let watching = async {
        let mut inspections = lattice.feed.inspections();
        let mut was_migrating = false;
        match lattice.part.is_bucket() {
            true => compare_with_former(&lattice, &migrations).await,
            false => forget_former(&lattice, &migrations),
        }
        loop {
            let inspection = inspections.borrow_and_update().clone();
            let is_migrating = inspection.has_rival || !inspection.exists;
            if is_migrating && !was_migrating {
                warn!(lattice = %lattice.name, "a host is migrating the lattice, or its stream is gone");
                let migration = Migration {
                    at_risk: lattice.at_risk(),
                    ..Migration::default()
                };
                migrations.lock().insert(lattice.name.clone(), migration);
            }
            if was_migrating && !is_migrating {
                migrations.lock().remove(&lattice.name);
            }
            if !inspection.exists && lattice.part == Part::CacheStream {
                let mut migrations = migrations.lock();
                let migration = migrations.entry(lattice.name.clone()).or_default();
                migration.former = lattice.mirror().read(standing);
            }
            was_migrating = is_migrating;
            if !inspection.exists {
                return;
            }
            tokio::select! {
                changed = inspections.changed() => if changed.is_err() { return },
                () = sleep(SWEEP_INTERVAL) => match lattice.part {
                    Part::CacheStream => sweep(&lattice).await,
                    Part::Component => lattice.note_undone_edits(),
                    Part::Kv => leave_to_next_era(&lattice),
                    // Nobody watches over it.
                    Part::Configs => return,
                },
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

fn standing(contents: &Contents) -> BTreeMap<EntryKey, Arc<Entry>> {
    Kind::SHOWN
        .into_iter()
        .flat_map(|kind| contents.standing(kind, None))
        .map(|(key, standing)| (key.clone(), standing.entry))
        .collect()
}

/// Compares what a host has copied into its bucket with what stood in the stream that it then deleted. Mends nothing.
async fn compare_with_former(lattice: &Lattice, migrations: &Migrations) {
    lattice.mirror().ready().await;
    let mut migrations = migrations.lock();
    let Some(migration) = migrations.get_mut(&lattice.name) else {
        return;
    };
    let Some(former) = migration.former.take() else {
        return;
    };
    let differences = lattice.mirror().read(|contents| {
        let differences = former.into_iter().filter_map(|(key, entry)| {
            let now = contents.winner(&key).and_then(|winner| winner.standing());
            let is_same = now.as_ref().is_some_and(|now| says_the_same(&now.entry, &entry));
            (!is_same).then_some(MigrationDifference {
                key,
                is_missing: now.is_none(),
            })
        });
        differences.take(DIFFERENCES_MAX).collect::<Vec<_>>()
    });
    migration.differences = differences.unwrap_or_default();
    if !migration.differences.is_empty() {
        warn!(
            lattice = %lattice.name,
            differences = migration.differences.len(),
            "the host's copy of the lattice differs from what stood before; GetLattice lists how"
        );
    }
}

/// Whether both say the same: no version is null in the stream, and an empty text where a gateway has migrated it.
fn says_the_same(one: &Entry, other: &Entry) -> bool {
    let (Entry::Claims(one), Entry::Claims(other)) = (one, other) else {
        return one == other;
    };
    let plain = |claims: &Claims| Claims {
        version: Some(claims.version.clone().unwrap_or_default()),
        ..claims.clone()
    };
    plain(one) == plain(other)
}

/// The stream was made anew, and nobody migrated it.
fn forget_former(lattice: &Lattice, migrations: &Migrations) {
    if let Some(migration) = migrations.lock().get_mut(&lattice.name) {
        migration.former = None;
    }
}

/// Once a host of 1.x writes the bucket it is of the next era: the next call finds out.
fn leave_to_next_era(lattice: &Lattice) {
    if lattice
        .mirror()
        .read(|contents| contents.has_key_of(kv::COMPONENTS))
        == Some(true)
    {
        warn!(lattice = %lattice.name, "a host of wasmCloud 1.x writes the bucket");
        lattice.feed.end();
    }
}

async fn sweep(lattice: &Lattice) {
    let is_due = lattice.settings.sweep
        && lattice.writable().is_ok()
        && may_delete(lattice)
        && lattice.mirror().read(Contents::is_crowded) == Some(true);
    if !is_due {
        return;
    }
    // Fresh, so that a copy is only removed where its winner really stands.
    let Ok(fresh) = lattice.fresh(Deadline::within(SWEEP_TIMEOUT)).await else {
        return;
    };
    let kept_since = before(fresh.unix_millis, HOME_KEPT_FOR);
    let stale = lattice
        .mirror()
        .read(|contents| contents.stale().collect::<Vec<_>>())
        .unwrap_or_default();
    for copy in stale
        .into_iter()
        .filter(|copy| !copy.is_home || copy.unix_millis < kept_since)
    {
        if !remove(lattice, &copy).await {
            return;
        }
    }
}

/// Whether the stream lets messages be deleted.
pub(super) fn may_delete(lattice: &Lattice) -> bool {
    lattice.feed.with_inspection(|inspection| {
        inspection.config.get("deny_delete") != Some(&serde_json::Value::Bool(true))
    })
}

async fn remove(lattice: &Lattice, copy: &Stale) -> bool {
    match lattice.api.message_delete(&lattice.stream, copy.sequence).await {
        Ok(was_there) => {
            debug!(lattice = %lattice.name, sequence = copy.sequence, was_there, "removed a superseded copy");
            lattice.feed.removed(&copy.tokens, copy.sequence);
            true
        }
        Err(error) => {
            warn!(lattice = %lattice.name, sequence = copy.sequence, %error, "a superseded copy was not removed");
            false
        }
    }
}
