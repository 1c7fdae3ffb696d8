//! The integration tests: one binary, since each one would link everything again.
//!
//! Every test starts real nats-server processes and a real gateway on free ports, and talks to it by gRPC.

#![expect(
    unreachable_pub,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::panic,
    clippy::unnecessary_debug_formatting,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod harness;

mod apply;
mod attacks;
mod audit;
mod bucket_model;
mod buckets;
mod callers;
mod claims;
mod cluster;
mod component;
mod component_model;
mod compression;
mod dedup;
mod doctor;
mod effects;
mod errors;
mod facts;
mod foreign;
mod golden;
mod host_model;
mod hostile;
mod http;
mod kv;
mod kv_model;
mod lattice;
mod latticectl;
mod link_definition;
mod metrics;
mod migrate;
mod model;
mod moving;
mod oci_reference;
mod outage;
mod overload;
mod packaging;
mod permissions;
mod proto_style;
mod provisioning;
mod rolling;
mod secured;
mod shutdown;
mod tenancy;
mod tls;
mod traces;
mod upstreams;
mod watch;
