//! `lattice-gateway`: a gRPC gateway for wasmCloud lattices.

use std::process::ExitCode;

use clap::Parser;
use lattice_gateway::command::Command;

/// The system's allocator makes the two sides of a call wait for each other's arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    take_memory_by_small_pages();
    Command::parse().run()
}

/// The allocator asks for pages of 2 MiB, and of a heap of 6 MiB, which is all over its arena, ever more becomes resident:
/// four times as much after some minutes.
fn take_memory_by_small_pages() {
    #[cfg(target_os = "linux")]
    if rustix::thread::disable_transparent_huge_pages(true).is_err() {
        // Then it is larger, and nothing else.
    }
}
