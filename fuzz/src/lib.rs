//! The gateway's parsers for the fuzz targets, and what the targets share.
//!
//! The parsers are pure, so they are compiled here from the gateway's own files, under the same paths, without the
//! servers and clients around them: an instrumented build takes seconds instead of minutes. A parser that starts to
//! need more than it may (`domain` needs nothing, `store::layout`, `store::evidence` and `auth::jwt::token` need `domain`)
//! no longer builds.

pub use gateway::{auth, control, domain, store};

#[path = "../../src"]
mod gateway {
    pub mod domain;
    /// See the gateway's `auth`.
    pub mod auth {
        /// See the gateway's `auth::jwt`.
        pub mod jwt {
            pub mod algorithm;
            pub mod refused;
            pub mod token;
        }
    }
    /// See the gateway's `store`.
    pub mod store {
        pub mod evidence;
        pub mod layout;
    }
    /// See the gateway's `control`.
    pub mod control {
        pub mod page;
    }
}

pub mod support;
