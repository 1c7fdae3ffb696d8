//! The streams of wadm, which deploys applications onto lattices of wasmCloud 1.x.
//!
//! What they are like, and what wadm does where one is otherwise, was measured on wadm 0.21.1: it deletes and makes anew
//! `wadm_events`, `wadm_commands` and `wasmbus_events` where their subjects are others, and `wadm_event_consumer` where its
//! retention is; everything else it takes as it is, whether it works or not.

use serde_json::{Value, json};

use super::{layout::bucket, provisioning::Difference};

/// One stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The bucket `wadm_state`: what hosts run.
    State,
    /// The bucket `wadm_manifests`: the applications.
    Manifests,
    /// `wadm_events`: what wadm tells itself.
    Events,
    /// `wadm_commands`: what is to be done, by one worker each.
    Commands,
    /// `wadm_status`: how applications are.
    Status,
    /// `wasmbus_events`: what hosts tell.
    HostEvents,
    /// `wadm_notify`: what scalers are told.
    Notify,
    /// `wadm_event_consumer`: `wasmbus_events` and `wadm_events` together, as wadm reads them.
    EventConsumer,
}

/// Whether one wadm serves several accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// It serves its own.
    Single,
    /// It runs with `--multitenant`: hosts' events come with the account before them.
    Multiple,
}

/// 70 s, in nanoseconds: how long events and commands are kept.
const MAX_AGE: u64 = 70_000_000_000;
const BUCKET_STATE: &str = "wadm_state";
const BUCKET_MANIFESTS: &str = "wadm_manifests";
const EVENTS: &str = "wadm_events";
const HOST_EVENTS: &str = "wasmbus_events";
const EVENT_SUBJECTS: &str = "wadm.evt.*.>";

impl Tenancy {
    fn host_event_subjects(self) -> &'static str {
        match self {
            Self::Single => "wasmbus.evt.*.>",
            Self::Multiple => "*.wasmbus.evt.*.>",
        }
    }

    /// Which token of those subjects is the lattice.
    fn lattice_token(self) -> u8 {
        match self {
            Self::Single => 1,
            Self::Multiple => 2,
        }
    }
}

impl Stream {
    /// All of them, in the order in which wadm creates them.
    pub const ALL: [Self; 8] = [
        Self::State,
        Self::Manifests,
        Self::Events,
        Self::Commands,
        Self::Status,
        Self::HostEvents,
        Self::Notify,
        Self::EventConsumer,
    ];

    /// The stream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "KV_wadm_state",
            Self::Manifests => "KV_wadm_manifests",
            Self::Events => EVENTS,
            Self::Commands => "wadm_commands",
            Self::Status => "wadm_status",
            Self::HostEvents => HOST_EVENTS,
            Self::Notify => "wadm_notify",
            Self::EventConsumer => "wadm_event_consumer",
        }
    }

    /// The stream's configuration as wadm creates it.
    pub fn config(self, tenancy: Tenancy) -> Value {
        match self {
            Self::State => bucket::config_of(BUCKET_STATE, "file"),
            Self::Manifests => bucket::config_of(BUCKET_MANIFESTS, "file"),
            Self::Events => self.stream(
                "A stream that stores all events coming in on the wadm.evt subject in a cluster",
                json!({"subjects": [EVENT_SUBJECTS]}),
            ),
            Self::Commands => self.stream(
                "A stream that stores all commands for wadm",
                json!({"subjects": ["wadm.cmd.*"], "retention": "workqueue"}),
            ),
            Self::Status => self.stream(
                "A stream that stores all status updates for wadm applications",
                json!({
                    "subjects": ["wadm.status.*.*"], "max_msgs_per_subject": 10, "max_age": 0, "allow_direct": true,
                    "duplicate_window": 120_000_000_000_u64,
                }),
            ),
            Self::HostEvents => self.stream(
                "A stream that stores all events coming in on the wasmbus.evt subject in a cluster",
                json!({"subjects": [tenancy.host_event_subjects()]}),
            ),
            Self::Notify => self.stream(
                "A stream for capturing all notification events for wadm",
                json!({"subjects": ["wadm.notify.*"], "retention": "interest"}),
            ),
            Self::EventConsumer => {
                let source = |stream: &str, subjects: &str, lattice_token: u8| {
                    let dest = format!("wadm_event_consumer.evt.{{{{wildcard({lattice_token})}}}}.>");
                    json!({"name": stream, "subject_transforms": [{"src": subjects, "dest": dest}]})
                };
                let sources = [
                    source(HOST_EVENTS, tenancy.host_event_subjects(), tenancy.lattice_token()),
                    source(EVENTS, EVENT_SUBJECTS, 1),
                ];
                self.stream(
                    "A stream that sources from wadm_events and wasmbus_events for wadm event consumer's use",
                    json!({"sources": sources, "retention": "workqueue", "duplicate_window": null}),
                )
            }
        }
    }

    /// What its streams have in common, with the members that this one has otherwise; null leaves one out.
    fn stream(self, description: &str, own: Value) -> Value {
        let mut config = json!({
            "name": self.name(),
            "description": description,
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs_per_subject": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": MAX_AGE,
            "max_msg_size": -1,
            "storage": "file",
            "discard": "old",
            "num_replicas": 1,
            "duplicate_window": MAX_AGE,
            "allow_direct": false,
            "mirror_direct": false,
            "allow_rollup_hdrs": false,
            "deny_delete": false,
            "deny_purge": false,
            "sealed": false,
        });
        if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
            config.extend(own);
            config.retain(|_, value| !value.is_null());
        }
        config
    }

    /// What wadm does with a stream that is otherwise; `None` where it takes it as it is and works.
    pub fn harm(self, found: &Value, differences: &[Difference]) -> Option<&'static str> {
        let differs = |field: &str| differences.iter().find(|it| it.field == field);
        match self {
            Self::Events | Self::Commands | Self::HostEvents => differs("subjects").map(|_| MADE_ANEW),
            Self::EventConsumer if differs("retention").is_some() => Some(MADE_ANEW),
            Self::EventConsumer => {
                let sources = differs("sources")?.have.as_array().map_or(&[][..], Vec::as_slice);
                let is_heard = |source: &Value| {
                    let transforms = source.get("subject_transforms").and_then(Value::as_array);
                    transforms.is_some_and(|transforms| !transforms.is_empty())
                };
                Some(match sources.iter().any(is_heard) {
                    true => HEARS_OTHERS,
                    false => DEAF,
                })
            }
            Self::Status | Self::Notify => {
                let want = &differs("subjects")?.want;
                let have = found.get("subjects").and_then(Value::as_array);
                let is_kept = |subject| have.is_some_and(|have| have.contains(subject));
                let are_kept = want.as_array().is_some_and(|want| want.iter().all(is_kept));
                (!are_kept).then_some(NOT_KEPT)
            }
            Self::State | Self::Manifests => {
                let keys = differs("max_msgs_per_subject").and_then(|it| it.have.as_i64());
                let is_bucket = differs("subjects").is_none() && keys.is_none_or(|history| history > 0);
                (!is_bucket).then_some(NO_BUCKET)
            }
        }
    }
}

const MADE_ANEW: &str = "wadm 0.21.1 deletes it when it starts and makes it anew: what it holds is lost";
const DEAF: &str = "wadm 0.21.1 takes it as it is, silently, and hears of no event";
const HEARS_OTHERS: &str =
    "wadm 0.21.1 takes it as it is, silently, and hears of the events of these sources alone";
const NOT_KEPT: &str = "wadm 0.21.1 takes it as it is, and what it publishes there is kept nowhere";
const NO_BUCKET: &str = "it is no key-value bucket, and wadm needs one";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_consumer_finds_the_lattice_in_the_subjects_of_either_tenancy() {
        let destination = |tenancy| {
            let config = Stream::EventConsumer.config(tenancy);
            let transform = &config["sources"][0]["subject_transforms"][0];
            (transform["src"].clone(), transform["dest"].clone())
        };
        assert_eq!(
            destination(Tenancy::Single),
            (
                "wasmbus.evt.*.>".into(),
                "wadm_event_consumer.evt.{{wildcard(1)}}.>".into()
            )
        );
        assert_eq!(
            destination(Tenancy::Multiple),
            (
                "*.wasmbus.evt.*.>".into(),
                "wadm_event_consumer.evt.{{wildcard(2)}}.>".into()
            )
        );
    }
}
