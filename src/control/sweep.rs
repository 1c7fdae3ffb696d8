//! Watches over one open lattice: removes superseded copies of entries, and notes what a migration may miss.
//!
//! A host puts a link on a random subject, the gateway on the link's home. The highest sequence wins, so the others
//! harm no running host; but a 0.60 host that migrates the stream skips tombstones and would revive them. They are
//! removed by sequence, which makes no message, cannot change the fold, and fails harmlessly where the message was
//! overwritten meanwhile. A home message that a foreign one has beaten holds the entry's evidence and stays for
//! [`HOME_KEPT_FOR`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Deadline,
    lattice::{Lattice, WriteAtRisk},
};
use crate::{
    domain::LatticeName,
    store::mirror::{Contents, Stale},
};

/// How long a home message that was beaten is kept.
pub(super) const HOME_KEPT_FOR: Duration = Duration::from_mins(10);

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SWEEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the stream is gone or the server stops.
pub(super) async fn watch(
    lattice: Arc<Lattice>,
    at_risk: Arc<Mutex<HashMap<LatticeName, Vec<WriteAtRisk>>>>,
    stop: CancellationToken,
) {
    let watching = async {
        let mut inspections = lattice.feed.inspections();
        let mut was_migrating = false;
        loop {
            let inspection = inspections.borrow_and_update().clone();
            let is_migrating = inspection.is_migrating || !inspection.exists;
            if is_migrating && !was_migrating {
                warn!(lattice = %lattice.name, "a host is migrating the lattice, or its stream is gone");
                at_risk.lock().insert(lattice.name.clone(), lattice.at_risk());
            }
            if was_migrating && !is_migrating {
                at_risk.lock().remove(&lattice.name);
            }
            was_migrating = is_migrating;
            if !inspection.exists {
                return;
            }
            tokio::select! {
                changed = inspections.changed() => if changed.is_err() { return },
                () = sleep(SWEEP_INTERVAL) => sweep(&lattice).await,
            }
        }
    };
    stop.run_until_cancelled(watching).await;
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
    let kept_since = fresh
        .unix_millis
        .saturating_sub(i64::try_from(HOME_KEPT_FOR.as_millis()).unwrap_or(i64::MAX));
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
