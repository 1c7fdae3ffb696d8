//! How much one caller may ask for.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// The bounds of one caller; none where nothing is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second, in the long run.
    pub requests_per_second: Option<NonZeroU32>,
    /// Requests at once, after a pause; as many as a second's where none is configured.
    pub burst: Option<NonZeroU32>,
    /// Requests in flight.
    pub in_flight: Option<usize>,
    /// Watches that are open.
    pub watches: Option<usize>,
    /// With so many entries in a lattice the caller adds none. A bound for each caller: others may have added them.
    pub entries_per_lattice: Option<u64>,
}

/// What one caller has under way; kept over a change of its configuration.
#[derive(Debug)]
pub struct Load {
    rate: Option<DefaultDirectRateLimiter>,
    in_flight: Places,
    watches: Places,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many a second; so long until the next one is taken.
    Rate(Duration),
    /// Too many in flight, of at most so many.
    InFlight(usize),
    /// Too many watches, of at most so many.
    Watches(usize),
}

impl Load {
    /// Nothing under way.
    pub fn new(limits: &Limits) -> Self {
        let rate = limits.requests_per_second.map(|rate| {
            let quota = Quota::per_second(rate).allow_burst(limits.burst.unwrap_or(rate));
            RateLimiter::direct(quota)
        });
        Self {
            rate,
            in_flight: Places::new(limits.in_flight),
            watches: Places::new(limits.watches),
        }
    }

    /// Takes a watch on, until what this gives is dropped.
    pub fn watch(&self) -> Result<UnderWay, Refused> {
        self.watches.try_take().map_err(Refused::Watches)
    }

    /// Takes a request on, until what this gives is dropped.
    pub fn admit(&self) -> Result<UnderWay, Refused> {
        let place = self.in_flight.try_take().map_err(Refused::InFlight)?;
        match self.count() {
            Ok(()) => Ok(place),
            Err(wait) => Err(Refused::Rate(wait)),
        }
    }

    /// Waits until the rate allows one more request, and counts it.
    pub async fn counted(&self) {
        while let Err(wait) = self.count() {
            sleep(wait).await;
        }
    }

    /// Waits for a place for a request that was counted.
    pub async fn place(&self) -> UnderWay {
        self.in_flight.take().await
    }

    /// Counts one more request, or tells how long the rate wants it to wait.
    fn count(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        rate.check()
            .map_err(|not_until| not_until.wait_time_from(rate.clock().now()))
    }
}

/// Places, of which there may be only so many.
#[derive(Debug)]
struct Places {
    max: usize,
    /// None where nothing bounds them.
    free: Option<Arc<Semaphore>>,
}

impl Places {
    fn new(max: Option<usize>) -> Self {
        Self {
            max: max.unwrap_or(usize::MAX),
            free: max.map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
        }
    }

    /// Takes a place, or tells how many there are, all of them taken.
    fn try_take(&self) -> Result<UnderWay, usize> {
        let free = self.free.clone().map(Semaphore::try_acquire_owned).transpose();
        free.map(|place| UnderWay { _place: place })
            .map_err(|_full| self.max)
    }

    /// Waits for a place.
    async fn take(&self) -> UnderWay {
        let place = match &self.free {
            None => None,
            // It is never closed.
            Some(free) => Arc::clone(free).acquire_owned().await.ok(),
        };
        UnderWay { _place: place }
    }
}

/// A request or a watch under way; its place, where there are only so many.
#[derive(Debug)]
pub struct UnderWay {
    _place: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn places_are_given_back() {
        let limits = Limits {
            in_flight: Some(2),
            ..Limits::default()
        };
        let load = Load::new(&limits);
        let (first, _second) = (load.admit().unwrap(), load.admit().unwrap());
        assert_eq!(load.admit().unwrap_err(), Refused::InFlight(2));
        assert_eq!(load.admit().unwrap_err(), Refused::InFlight(2));
        drop(first);
        load.admit().unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_a_place_gets_it_before_who_does_not() {
        let limits = Limits {
            in_flight: Some(1),
            ..Limits::default()
        };
        let load = Load::new(&limits);
        let first = load.admit().unwrap();
        let mut waiting = Box::pin(load.place());
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert_eq!(load.admit().unwrap_err(), Refused::InFlight(1));
        drop(waiting.await);
        load.admit().unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_the_rate_is_counted_in_time() {
        let limits = Limits {
            requests_per_second: NonZeroU32::new(100),
            burst: NonZeroU32::new(1),
            ..Limits::default()
        };
        let load = Load::new(&limits);
        let began = tokio::time::Instant::now();
        for _ in 0..4 {
            load.counted().await;
        }
        // Three of the four wait, 10 ms each.
        assert!(
            began.elapsed() >= Duration::from_millis(29),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn watches_are_counted_on_their_own() {
        let limits = Limits {
            in_flight: Some(1),
            watches: Some(1),
            ..Limits::default()
        };
        let load = Load::new(&limits);
        let (_call, watch) = (load.admit().unwrap(), load.watch().unwrap());
        assert_eq!(load.watch().unwrap_err(), Refused::Watches(1));
        drop(watch);
        load.watch().unwrap();
    }

    #[test]
    fn a_burst_is_taken_and_then_the_rate_holds() {
        let limits = Limits {
            requests_per_second: NonZeroU32::new(1),
            burst: NonZeroU32::new(3),
            ..Limits::default()
        };
        let load = Load::new(&limits);
        for _ in 0..3 {
            load.admit().unwrap();
        }
        let Err(Refused::Rate(wait)) = load.admit() else {
            panic!("a fourth request was taken");
        };
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(1),
            "{wait:?}"
        );
    }
}
