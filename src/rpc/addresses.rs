//! Counts connections by the address they come from, so that one peer cannot take every place.
//!
//! Must not know what a connection is for. A place is given back when it is dropped, however the connection
//! ends.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// The connections that are open, by address.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
}

/// One connection's place among those of its address.
#[derive(Debug)]
pub(super) struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of: IpAddr,
}

impl Addresses {
    /// At most `max` connections at a time from one address.
    pub(super) fn new(max: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
        }
    }

    /// A place for one more connection; none where its address has as many as it may.
    pub(super) fn place(&self, address: IpAddr) -> Option<Place> {
        let of = counted_as(address);
        let mut open = self.open.lock();
        let count = open.get(&of).copied().unwrap_or(0);
        if count >= self.max {
            return None;
        }
        open.insert(of, count.saturating_add(1));
        Some(Place {
            open: Arc::clone(&self.open),
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        match open.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            // The map holds open connections alone, whatever has come by.
            Some(_) | None => drop(open.remove(&self.of)),
        }
    }
}

/// An IPv4 address is itself, also where it comes as an IPv6 one. Of an IPv6 address the /64 counts: that is
/// what one host or one site is given (RFC 4291, section 2.5.4), and it may use all of it.
fn counted_as(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_as_many_places_as_it_may_and_gets_them_back() {
        let addresses = Addresses::new(2);
        let first = addresses.place(address("192.0.2.1")).unwrap();
        let second = addresses.place(address("::ffff:192.0.2.1")).unwrap();
        assert!(addresses.place(address("192.0.2.1")).is_none());
        assert!(addresses.place(address("192.0.2.2")).is_some());
        drop(first);
        let third = addresses.place(address("192.0.2.1")).unwrap();
        assert!(addresses.place(address("192.0.2.1")).is_none());
        drop((second, third));
        assert!(addresses.open.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let addresses = Addresses::new(1);
        let _place = addresses.place(address("2001:db8:0:1::1")).unwrap();
        assert!(addresses.place(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(addresses.place(address("2001:db8:0:2::1")).is_some());
    }
}
