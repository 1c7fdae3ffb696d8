//! The generated API: messages, clients, servers, canonical JSON and the descriptor set.
//!
//! The only place that includes generated code. Its documentation is the `.proto` files' own.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]

pub use self::{google::rpc, lattice::control::v1::*};

// As the packages lie, since the generated code finds one from the other by their paths.
pub mod lattice {
    pub mod control {
        pub mod v1 {
            tonic::include_proto!("lattice.control.v1");
            include!(concat!(env!("OUT_DIR"), "/lattice.control.v1.serde.rs"));
        }
    }
}
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
        include!(concat!(env!("OUT_DIR"), "/google.rpc.serde.rs"));
    }
}

/// The descriptors of the whole API with their comments, as an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

/// The protobuf package, which is also the `domain` of every error's `ErrorInfo`.
pub const PACKAGE: &str = "lattice.control.v1";
