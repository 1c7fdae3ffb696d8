//! What a lattice holds, as plain values.
//!
//! Pure: no tonic, prost, async-nats, tokio, clock or I/O in here. Whatever comes from a caller is parsed
//! into these types strictly; what a stream already stores is read into the same types as loosely as hosts
//! read it. A value of a type in here that says "strict" cannot hold anything else.

pub mod claims;
pub mod claims_token;
pub mod component;
pub mod entry;
pub mod hash;
pub mod identifier;
pub mod interface_link;
pub mod invalid;
pub(crate) mod json;
pub(crate) mod jws;
pub mod link_definition;
pub mod named_config;
pub mod nkey;
pub mod oci_reference;
pub mod revision;

pub use claims::Claims;
pub use component::ComponentRecord;
pub use entry::{Entry, EntryKey, Kind};
pub use identifier::{LatticeName, RequestId};
pub use interface_link::{InterfaceLink, InterfaceLinkId};
pub use invalid::{Invalid, Violation, Violations};
pub use link_definition::{LinkDefinition, LinkId};
pub use named_config::NamedConfig;
pub use oci_reference::OciReference;
pub use revision::{Epoch, Etag, Revision};
