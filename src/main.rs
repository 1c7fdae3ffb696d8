//! `lattice-gateway`: a gRPC gateway for wasmCloud lattices.

use std::process::ExitCode;

use clap::Parser;
use lattice_gateway::command::Command;

/// The system's allocator makes the two sides of a call wait for each other's arenas.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Command::parse().run()
}
