//! The keys that an issuer publishes at a URL, kept and renewed.
//!
//! Whoever needs a key that is held never waits. Fetches begin at least [`FETCH_FLOOR`] apart, one at a time,
//! whatever callers send; each runs as a task of its own, so that a caller who gives up does not end it for
//! the others.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::Instant};
use tracing::{debug, warn};

use super::{
    chain,
    fetch::{self, FETCH_TIMEOUT, KeysUrl, Tls},
    keys::KeySet,
};

/// Between the beginnings of two fetches, at least.
pub(super) const FETCH_FLOOR: Duration = Duration::from_secs(30);
/// From when on keys are renewed at their next use.
pub(super) const AGE_MAX: Duration = Duration::from_mins(10);

/// Keys at a URL.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    issuer: Arc<str>,
    url: KeysUrl,
    tls: Option<Tls>,
    held: ArcSwapOption<Held>,
    latest: Mutex<Option<Attempt>>,
}

#[derive(Debug)]
struct Held {
    keys: Arc<KeySet>,
    /// When their fetch began.
    since: Instant,
}

#[derive(Debug)]
struct Attempt {
    began: Instant,
    task: AbortHandle,
    ended: Shared<BoxFuture<'static, ()>>,
}

impl RemoteKeys {
    /// Keys that were not fetched yet, of the issuer that the configuration calls `issuer`.
    pub(super) fn new(issuer: Arc<str>, url: KeysUrl, tls: Option<Tls>) -> Arc<Self> {
        Arc::new(Self {
            issuer,
            url,
            tls,
            held: ArcSwapOption::empty(),
            latest: Mutex::new(None),
        })
    }

    /// The keys, looked up anew where those that are held do not have what is wanted. None if there never
    /// were any.
    pub(super) async fn with(
        self: &Arc<Self>,
        now: Instant,
        has_wanted: impl Fn(&KeySet) -> bool,
    ) -> Option<Arc<KeySet>> {
        match self.held.load_full() {
            Some(held) if has_wanted(&held.keys) => {
                if now.saturating_duration_since(held.since) > AGE_MAX {
                    // Runs by itself.
                    drop(self.refreshed(now));
                }
                Some(Arc::clone(&held.keys))
            }
            _ => {
                self.refreshed(now).await;
                self.held.load().as_ref().map(|held| Arc::clone(&held.keys))
            }
        }
    }

    /// The end of the latest fetch, which begins now unless it did so recently, or still runs.
    pub(super) fn refreshed(self: &Arc<Self>, now: Instant) -> Shared<BoxFuture<'static, ()>> {
        let mut latest = self.latest.lock();
        if let Some(attempt) = &*latest
            && (!attempt.task.is_finished() || now.saturating_duration_since(attempt.began) < FETCH_FLOOR)
        {
            return attempt.ended.clone();
        }
        let fetching = tokio::spawn(Arc::clone(self).fetch(now));
        let task = fetching.abort_handle();
        let ended = fetching.map(drop).boxed().shared();
        *latest = Some(Attempt {
            began: now,
            task,
            ended: ended.clone(),
        });
        ended
    }

    async fn fetch(self: Arc<Self>, began: Instant) {
        let issuer = &self.issuer;
        match fetch::fetch(&self.url, self.tls.as_ref(), FETCH_TIMEOUT).await {
            Ok(keys) => {
                for key in &keys.left_out {
                    debug!(%issuer, %key, "a key of an issuer is left out");
                }
                if keys.is_empty() {
                    warn!(%issuer, "an issuer publishes no key that can be used: all its tokens are refused");
                } else {
                    debug!(%issuer, keys = keys.len(), "the keys of an issuer were fetched");
                }
                self.held.store(Some(Arc::new(Held {
                    keys: Arc::new(keys),
                    since: began,
                })));
            }
            Err(failed) => {
                let error = chain(&failed);
                warn!(%issuer, %error, "the keys of an issuer were not fetched; those that are held stay");
            }
        }
    }
}
