//! The consumers of a stream, as far as they tell who follows it and how well.

use serde_json::Value;

use super::{
    feed,
    layout::{Part, Part::CacheStream},
};

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// What who made it says of it.
    pub description: String,
    /// Whether it delivers by itself, and so needs somebody to listen.
    pub is_push: bool,
    /// Whether somebody does.
    pub is_bound: bool,
    /// Whether JetStream keeps it for ever, whether it is used or not.
    pub is_kept: bool,
    /// What it delivers, as patterns; all where there are none.
    pub filters: Vec<String>,
    /// The sequence up to which it has delivered.
    pub delivered: u64,
    /// Messages that it has not delivered yet.
    pub pending: u64,
    /// Messages that it had to deliver again, since nobody acknowledged them.
    pub redelivered: u64,
}

/// How hosts of wasmCloud 1.x, and Rust hosts before them, describe the consumer by which they follow a bucket.
pub const HOST_WATCH: &str = "kv watch consumer";
/// What hosts up to 0.59 begin their description with.
const CACHE_LOADER: &str = "cache loader";
/// How the same hosts as [`HOST_WATCH`] describe one that only reads what stands.
const HOST_HISTORY: &str = "kv history consumer";

impl Consumer {
    /// Reads what JetStream tells of a consumer.
    pub fn read(told: &Value) -> Self {
        let text = |path: &str| {
            let text = told.pointer(path).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let number = |path: &str| told.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let several = told.pointer("/config/filter_subjects").and_then(Value::as_array);
        let several = several.into_iter().flatten().filter_map(Value::as_str);
        let one = Some(text("/config/filter_subject")).filter(|filter| !filter.is_empty());
        Self {
            name: text("/name"),
            description: text("/config/description"),
            is_push: !text("/config/deliver_subject").is_empty(),
            is_bound: told.get("push_bound").and_then(Value::as_bool) == Some(true),
            is_kept: !text("/config/durable_name").is_empty() && number("/config/inactive_threshold") == 0,
            filters: several.map(str::to_owned).chain(one).collect(),
            delivered: number("/delivered/stream_seq"),
            pending: number("/num_pending"),
            redelivered: number("/num_redelivered"),
        }
    }

    /// Whether it is that by which a gateway follows the stream.
    pub fn is_gateways(&self) -> bool {
        self.description == feed::DESCRIPTION
    }

    /// Whether a host follows the stream by it, as far as can be told: those of 0.60 to 0.82 do not all say what theirs
    /// are for.
    pub fn is_hosts(&self, part: Part, subject_prefix: &str) -> bool {
        let takes_all = || {
            let all = format!("{subject_prefix}>");
            let is_all = |filter: &String| filter == ">" || *filter == all;
            self.filters.is_empty() || self.filters.iter().any(is_all)
        };
        let is_watch = match part {
            CacheStream => self.description.starts_with(CACHE_LOADER),
            Part::Component => self.description == HOST_WATCH,
            Part::Kv => !self.is_gateways() && self.description != HOST_HISTORY && takes_all(),
            // Hosts follow only the configs that they use.
            Part::Configs => false,
        };
        is_watch && self.is_push
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_are_told_from_others_by_what_they_follow() {
        let consumer = |description: &str, filter: &str| {
            Consumer::read(&json!({
                "name": "c", "push_bound": true, "num_pending": 3,
                "config": {"description": description, "deliver_subject": "_INBOX.x", "filter_subject": filter},
            }))
        };
        let prefix = "$KV.LATTICEDATA_x.";
        let is = |part, description, filter| consumer(description, filter).is_hosts(part, prefix);
        assert!(is(CacheStream, "cache loader for x", ">"));
        assert!(!is(CacheStream, feed::DESCRIPTION, ">"));
        assert!(is(Part::Component, HOST_WATCH, "$KV.LATTICEDATA_x.>"));
        assert!(!is(Part::Component, "", "$KV.LATTICEDATA_x.>"));
        assert!(is(Part::Kv, "", ">"));
        assert!(is(Part::Kv, HOST_WATCH, "$KV.LATTICEDATA_x.>"));
        assert!(!is(Part::Kv, HOST_HISTORY, "$KV.LATTICEDATA_x.>"));
        assert!(!is(Part::Kv, "", "$KV.LATTICEDATA_x.CLAIMS_M"));
        let pull = Consumer::read(&json!({"name": "p", "config": {"description": HOST_WATCH}}));
        assert!(!pull.is_hosts(Part::Component, prefix) && !pull.is_push && pull.filters.is_empty());
    }
}
