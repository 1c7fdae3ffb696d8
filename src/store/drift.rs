//! How a stream's configuration differs from what hosts create, and which differences make writes unsafe.

use serde_json::Value;

use super::layout::Part;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The configuration's member, as JetStream names it.
    pub field: &'static str,
    /// What hosts create.
    pub want: Value,
    /// What was found.
    pub have: Value,
    /// Whether acknowledged writes could get lost, or never reach a host, because of it.
    pub blocks_writes: bool,
}

/// Members in which any difference makes writes unsafe: values would be kept twice or not at all, expire, be
/// evicted by others, or land elsewhere.
const UNSAFE: [&str; 7] = [
    "subjects",
    "retention",
    "max_msgs_per_subject",
    "max_msgs",
    "max_bytes",
    "max_age",
    "discard",
];

/// Members that hosts leave out, with the value that is harmless.
const MUST_BE_ABSENT: [(&str, Value); 7] = [
    ("allow_msg_counter", Value::Bool(false)),
    ("no_ack", Value::Bool(false)),
    ("sealed", Value::Bool(false)),
    ("mirror", Value::Null),
    ("sources", Value::Null),
    ("subject_transform", Value::Null),
    ("discard_new_per_subject", Value::Bool(false)),
];

/// Members in which a difference is told and harmless.
const TOLD: [&str; 8] = [
    "persist_mode",
    "storage",
    "num_replicas",
    "duplicate_window",
    "max_consumers",
    "max_msg_size",
    "allow_msg_ttl",
    "republish",
];

/// Members in which a difference makes writes to a bucket unsafe too: hosts delete configs by a rollup.
const UNSAFE_IN_BUCKETS: [&str; 1] = ["allow_rollup_hdrs"];

/// Compares a stream's configuration with what hosts create.
pub fn compare(part: Part, want: &Value, have: &Value) -> Vec<Drift> {
    let of_buckets = UNSAFE_IN_BUCKETS.iter().filter(|_| part.is_bucket());
    let by_want = UNSAFE.iter().chain(of_buckets);
    let by_want = by_want.map(|field| (*field, want.get(field), true));
    let absent = MUST_BE_ABSENT
        .iter()
        .map(|(field, harmless)| (*field, Some(harmless), true));
    let told = TOLD.iter().map(|field| (*field, want.get(field), false));
    by_want
        .chain(absent)
        .chain(told)
        .filter_map(|(field, want, blocks_writes)| {
            let want = want.unwrap_or(&Value::Null);
            let value = have.get(field).unwrap_or(&Value::Null);
            (!means_the_same(want, value)).then(|| Drift {
                field,
                want: want.clone(),
                have: value.clone(),
                blocks_writes: blocks_writes && !(part.is_bucket() && is_bucket_still(field, have)),
            })
        })
        .collect()
}

/// Whether a bucket with this difference keeps what is acknowledged, and hosts use it as it is (measured on wasmCloud
/// 1.9.2): with a history, or with bounds that refuse what is new instead of evicting what is old.
fn is_bucket_still(field: &str, have: &Value) -> bool {
    let number = |field: &str| have.get(field).and_then(Value::as_i64);
    match field {
        "max_msgs_per_subject" => number(field).is_some_and(|history| history > 0),
        "discard" => number("max_msgs") == Some(-1) && number("max_bytes") == Some(-1),
        "max_msgs" | "max_bytes" => have.get("discard").and_then(Value::as_str) == Some("new"),
        _ => false,
    }
}

/// JetStream leaves out what is false, and hosts what they do not know.
fn means_the_same(one: &Value, other: &Value) -> bool {
    let is_unset = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    one == other || (is_unset(one) && is_unset(other))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::LatticeName;

    fn host_config(part: Part) -> Value {
        part.stream_config(&LatticeName::parse("default").unwrap(), "memory")
    }

    fn drift_with(field: &str, value: Value) -> Vec<Drift> {
        drift_of(Part::CacheStream, &[(field, value)])
    }

    fn drift_of(part: Part, changes: &[(&str, Value)]) -> Vec<Drift> {
        let mut have = host_config(part);
        for (field, value) in changes {
            have[field] = value.clone();
        }
        compare(part, &host_config(part), &have)
    }

    #[test]
    fn a_bucket_with_a_history_or_a_bound_that_refuses_is_used() {
        for changes in [
            vec![("max_msgs_per_subject", json!(64))],
            vec![("discard", json!("old"))],
            vec![("max_bytes", json!(1024))],
        ] {
            let drift = drift_of(Part::Component, &changes);
            assert!(
                !drift.is_empty() && drift.iter().all(|drift| !drift.blocks_writes),
                "{drift:?}"
            );
        }
        for changes in [
            vec![("max_msgs_per_subject", json!(-1))],
            vec![("discard", json!("old")), ("max_bytes", json!(1024))],
            vec![("max_age", json!(1_000_000_000))],
            vec![("allow_rollup_hdrs", json!(false))],
        ] {
            let drift = drift_of(Part::Component, &changes);
            assert!(drift.iter().any(|drift| drift.blocks_writes), "{changes:?}");
        }
    }

    #[test]
    fn what_hosts_create_has_no_drift() {
        for part in [Part::CacheStream, Part::Kv, Part::Component, Part::Configs] {
            assert_eq!(compare(part, &host_config(part), &host_config(part)), []);
        }
        assert_eq!(drift_with("sealed", json!(false)), []);
        assert_eq!(drift_with("allow_direct", json!(true)), []);
    }

    #[test]
    fn storage_replicas_and_window_are_told_and_harmless() {
        for (field, value) in [
            ("storage", json!("file")),
            ("num_replicas", json!(3)),
            ("duplicate_window", json!(60_000_000_000_u64)),
        ] {
            let drift = drift_with(field, value);
            assert_eq!(drift.len(), 1, "{field}");
            assert!(!drift[0].blocks_writes, "{field}");
        }
    }

    #[test]
    fn what_breaks_correctness_blocks_writes() {
        for (field, value) in [
            ("max_msgs_per_subject", json!(2)),
            ("max_msgs_per_subject", json!(-1)),
            ("subjects", json!(["lc.>"])),
            ("retention", json!("interest")),
            ("discard", json!("new")),
            ("max_age", json!(1_000_000_000)),
            ("max_msgs", json!(10)),
            ("max_bytes", json!(1024)),
            ("no_ack", json!(true)),
            ("sealed", json!(true)),
            ("allow_msg_counter", json!(true)),
            ("mirror", json!({"name": "other"})),
            ("sources", json!([{"name": "other"}])),
            ("subject_transform", json!({"src": "a", "dest": "b"})),
        ] {
            let drift = drift_with(field, value);
            assert!(
                drift
                    .iter()
                    .any(|drift| drift.field == field && drift.blocks_writes),
                "{field}"
            );
        }
    }
}
