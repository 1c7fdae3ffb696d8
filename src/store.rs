//! How lattices stand in NATS: subjects, bodies, headers, streams, and a mirror of each stream.
//!
//! The only module that knows NATS. [`layout`] alone formats and parses subjects and bodies; [`evidence`]
//! alone reads and writes the gateway's header; [`mirror`] alone folds messages into entries.

pub mod api;
pub mod changes;
pub mod connection;
pub mod consumers;
pub mod drift;
pub mod evidence;
pub mod feed;
pub mod layout;
pub mod mirror;
pub mod permissions;
pub mod provisioning;
pub mod publish;
mod requests;
pub mod wadm;
pub mod witness;
