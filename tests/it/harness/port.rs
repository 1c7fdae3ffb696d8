//! Ports to listen on.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

/// A port on loopback that nobody listens on, below those that outgoing connections are given (from 32768 on Linux): who
/// tries to reach a server that is down could otherwise take the server's own port away, and even talk to itself on it.
pub fn free() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin at different places.
    let here = std::process::id().wrapping_mul(977);
    loop {
        let number = here.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
