//! The key-value buckets of hosts since 0.60: streams `KV_<bucket>` with one message a key.

use serde_json::{Value, json};

use crate::domain::LatticeName;

/// What the name of a lattice's bucket begins with.
pub const DATA: &str = "LATTICEDATA_";
/// What the name of a lattice's bucket of configs begins with.
pub const CONFIGS: &str = "CONFIGDATA_";
/// What the names of the streams behind buckets of lattices begin with.
pub const DATA_STREAM_PREFIX: &str = "KV_LATTICEDATA_";
/// Where a bucket's metadata says the layout.
pub const LAYOUT_METADATA: &str = "lattice-gateway.layout";

/// The stream behind a lattice's bucket.
pub fn stream_name(bucket: &str, lattice: &LatticeName) -> String {
    format!("KV_{bucket}{lattice}")
}

/// What the subjects of its keys begin with.
pub fn subject_prefix(bucket: &str, lattice: &LatticeName) -> String {
    format!("$KV.{bucket}{lattice}.")
}

/// The stream's configuration as hosts create it (wasmCloud OTP 0.60 to 0.63, `client.ex`; the same by async-nats in hosts
/// 0.78 to 1.9).
pub fn stream_config(bucket: &str, lattice: &LatticeName, storage: &str) -> Value {
    config_of(&format!("{bucket}{lattice}"), storage)
}

/// The configuration of the stream behind a bucket with a history of one, as async-nats creates it too.
pub fn config_of(bucket: &str, storage: &str) -> Value {
    json!({
        "name": format!("KV_{bucket}"),
        "subjects": [format!("$KV.{bucket}.>")],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "storage": storage,
        "discard": "new",
        "num_replicas": 1,
        "duplicate_window": 120_000_000_000_u64,
        "allow_direct": true,
        "mirror_direct": false,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "deny_purge": false,
        "sealed": false,
    })
}

/// Whether a text can be a key: `[-/_=.a-zA-Z0-9]+`, no dot at either end (NATS ADR-8).
pub fn is_key(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && !text.ends_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte))
}
