//! What the integration tests start nats-servers and wires with.

#[path = "../it/harness/keys.rs"]
pub mod keys;
#[path = "../it/harness/nats.rs"]
pub mod nats;
#[path = "../it/harness/port.rs"]
pub mod port;
#[path = "../it/harness/view.rs"]
pub mod view;
#[path = "../it/harness/wait.rs"]
pub mod wait;
#[path = "../it/harness/wire.rs"]
pub mod wire;

pub use nats::Nats;
pub use wait::until;
