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
    in_flight: AtomicUsize,
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
            in_flight: AtomicUsize::new(0),
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
    pub fn admit(self: &Arc<Self>) -> Result<InFlight, Refused> {
        // Counted before it is judged, so that no two share the last place.
        let place = InFlight(Arc::clone(self));
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= self.in_flight_max {
            return Err(Refused::InFlight(self.in_flight_max));
        }
        if let Some(rate) = &self.rate
            && let Err(not_until) = rate.check()
        {
            return Err(Refused::Rate(not_until.wait_time_from(rate.clock().now())));
        }
        Ok(place)
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
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
    use super::*;

    #[test]
    fn places_are_given_back() {
        let limits = Limits {
            in_flight: Some(2),
            ..Limits::default()
        };
        let load = Arc::new(Load::new(&limits));
        let (first, _second) = (load.admit().unwrap(), load.admit().unwrap());
        assert_eq!(load.admit().unwrap_err(), Refused::InFlight(2));
        assert_eq!(load.admit().unwrap_err(), Refused::InFlight(2));
        drop(first);
        load.admit().unwrap();
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
        let load = Arc::new(Load::new(&limits));
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
