//! Starts what tests talk to. [`Nats`] is a real nats-server, [`TestGateway`] a gateway in this process, [`keys`] makes
//! nkeys and signs tokens, [`process`] starts a gateway of its own, [`http`] speaks JSON, [`http2`] writes frames, [`issuer`] makes JWTs, [`certificates`] makes those of TLS, [`wire`] is a TCP proxy that breaks the wire in between,
//! [`api`] knows every RPC from its descriptor.

pub mod api;
pub mod bucket;
pub mod certificates;
pub mod gateway;
pub mod http;
pub mod http2;
pub mod issuer;
pub mod keys;
pub mod nats;
pub mod port;
pub mod process;
mod raw;
pub mod view;
pub mod wait;
pub mod watch;
pub mod wire;

pub use bucket::Bucket;
pub use gateway::{
    TestGateway, Told, interface_link, link, named_config, put_config, put_interface_link, put_link, told,
};
pub use nats::Nats;
pub use wait::until;
