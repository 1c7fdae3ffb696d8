//! The operations on lattices, free of gRPC and of NATS words.
//!
//! Every operation takes a [`Grant`](crate::auth::Grant) and works on that grant's lattice. Mutations run the
//! write protocol: [`intent`] names what is asked, [`decide`] says what is next, [`mutate`] does it.

pub mod decide;
pub mod diagnose;
pub mod effects;
pub mod error;
pub mod gate;
pub mod intent;
pub mod lattice;
pub mod lattices;
pub mod links;
pub mod migrate;
pub mod mutate;
pub mod operations;
pub mod page;
pub mod provision;
mod queue;
mod sweep;
mod unstoppable;
pub mod watch;

pub use error::ControlError;
pub use lattices::Lattices;
pub use operations::Control;

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The wall clock, read in this one place. Used for tokens' times and for what people read, never for the order of
/// writes, which is the stream's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Since the Unix epoch.
    pub fn now(self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let now = SystemTime::now();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        #[cfg(feature = "campaign")]
        let now = {
            let step = crate::config::clock_step();
            let size = Duration::from_secs(step.unsigned_abs());
            if step < 0 {
                now.saturating_sub(size)
            } else {
                now.saturating_add(size)
            }
        };
        now
    }

    /// Since the Unix epoch, seconds.
    pub fn unix_seconds(self) -> i64 {
        i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX)
    }
}

/// When a call must have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0 + time)
    }

    /// The moment.
    pub fn at(self) -> Instant {
        self.0
    }

    /// What is left.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits for `work`, at most until then.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.0, work).await.ok()
    }
}
