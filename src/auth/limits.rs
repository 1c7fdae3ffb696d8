//! How much one caller may ask for.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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
    in_flight_max: usize,
    /// None where nothing bounds them.
    places: Option<Arc<Semaphore>>,
    watches_max: usize,
    watches: AtomicUsize,
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
            in_flight_max: limits.in_flight.unwrap_or(usize::MAX),
            places: limits
                .in_flight
                .map(|max| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
            watches_max: limits.watches.unwrap_or(usize::MAX),
            watches: AtomicUsize::new(0),
        }
    }

    /// Takes a watch on, until what this gives is dropped.
    pub fn watch(self: &Arc<Self>) -> Result<OpenWatch, Refused> {
        let place = OpenWatch(Arc::clone(self));
        match self.watches.fetch_add(1, Ordering::Relaxed) >= self.watches_max {
            true => Err(Refused::Watches(self.watches_max)),
            false => Ok(place),
        }
    }

    /// Takes a request on, until what this gives is dropped.
    pub fn admit(&self) -> Result<InFlight, Refused> {
        let place = match &self.places {
            None => None,
            Some(places) => match Arc::clone(places).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_full) => return Err(Refused::InFlight(self.in_flight_max)),
            },
        };
        match self.count() {
            Ok(()) => Ok(InFlight { _place: place }),
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
    pub async fn place(&self) -> InFlight {
        let place = match &self.places {
            None => None,
            // It is never closed.
            Some(places) => Arc::clone(places).acquire_owned().await.ok(),
        };
        InFlight { _place: place }
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

/// A request under way; its place, where there are only so many.
#[derive(Debug)]
pub struct InFlight {
    _place: Option<OwnedSemaphorePermit>,
}

/// A watch that is open.
#[derive(Debug)]
pub struct OpenWatch(Arc<Load>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
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
        let load = Arc::new(Load::new(&limits));
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
