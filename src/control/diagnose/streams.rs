//! Whether the streams are there, where they should be, and as hosts create them.

use serde_json::Value;

use super::{Diagnosis, Finding, FindingKind, Ground, Seen, Severity, command::nats_in};
use crate::{
    control::lattices::Layout,
    store::{
        api::StreamInfo,
        drift::{self, Drift},
        layout::{Part, bucket, hosts::Host},
    },
};

/// Hosts before this keep a private cache where the stream is not exactly as they would create it.
const HOSTS_THAT_TAKE_ANY_STREAM: [u64; 3] = [0, 58, 2];

/// Whether the layout can be told by what there is.
pub(super) fn layout(ground: &Ground<'_>, seen: &[Seen], diagnosis: &mut Diagnosis) {
    let of = |is_bucket: bool| {
        let mut seen = seen.iter();
        seen.find(|seen| seen.part.is_bucket() == is_bucket && seen.part != Part::Configs)
    };
    let (stream, bucket) = (of(false), of(true));
    let (severity, detail) = match (ground.layout, stream, bucket) {
        (None, Some(_), Some(_)) => (
            Severity::Error,
            "The stream of hosts up to 0.59 and the bucket of later ones both exist, so calls are refused.",
        ),
        (Some(_), Some(_), Some(_)) => (
            Severity::Warning,
            "The stream of hosts up to 0.59 and the bucket of later ones both exist; hosts of one era do not see what those of \
             the other write.",
        ),
        (None, Some(_), None) => (
            Severity::Error,
            "There is the stream of hosts up to 0.59 alone, and the gateway is configured for another layout.",
        ),
        (None, None, Some(_)) => (
            Severity::Error,
            "The bucket does not tell of which era's hosts it is, or tells otherwise than the gateway's configuration.",
        ),
        (_, _, _) => return,
    };
    diagnosis.add(severity, FindingKind::LayoutMixed, || {
        let name = |seen: Option<&Seen>| seen.map_or_else(String::new, |seen| seen.name.clone());
        let noted = bucket.and_then(|bucket| bucket.info.config.pointer("/metadata"));
        let noted = noted.and_then(|metadata| metadata.get(bucket::LAYOUT_METADATA)?.as_str());
        let configured = ground.settings.layout.map(Layout::as_str);
        let mut finding = Finding::new(&format!("lattice {}", ground.name), detail);
        for (key, value) in [
            ("stream", name(stream)),
            ("bucket", name(bucket)),
            ("noted_layout", noted.unwrap_or_default().to_owned()),
            ("configured_layout", configured.unwrap_or_default().to_owned()),
        ] {
            if !value.is_empty() {
                finding = finding.evidence(key, &value);
            }
        }
        let setting = format!("lattices.{}.layout", ground.name);
        match (stream, bucket) {
            (Some(_), Some(_)) => finding.remedy(
                format!(
                    "Carry the stream's entries over, and set `{setting}` to what the lattice's hosts keep."
                ),
                ground.commands.latticectl(&["migrate"]),
            ),
            _ => finding.remedy(
                format!("Set `{setting}` in the gateway's configuration to what the lattice's hosts keep."),
                ground
                    .commands
                    .nats(&["stream", "subjects", &name(bucket.or(stream))]),
            ),
        }
    });
}

/// Whether a bucket of the layout is missing.
pub(super) fn missing(ground: &Ground<'_>, part: Part, diagnosis: &mut Diagnosis) {
    let stream = part.stream_name(ground.name);
    diagnosis.add(Severity::Warning, FindingKind::StreamMissing, || {
        Finding::new(
            &format!("stream {stream}"),
            "The bucket of the named configs is not there, so none can be put, and links that name some are refused.",
        )
        .evidence("stream",& &stream)
        .remedy(
            "Provision the lattice again, which creates what is missing; its hosts do so too when they start.",
            ground
                .commands
                .latticectl(&["lattice", "provision", "--layout", part.layout().as_str()]),
        )
    });
}

/// Whether the stream is as hosts create it.
pub(super) fn drift(ground: &Ground<'_>, seen: &Seen, diagnosis: &mut Diagnosis) {
    let want = seen.part.stream_config(ground.name, seen.part.default_storage());
    for drift in drift::compare(seen.part, &want, &seen.info.config) {
        let hides_the_stream = seen.part == Part::CacheStream
            && ground
                .hosts()
                .any(|host| host.is_older_than(HOSTS_THAT_TAKE_ANY_STREAM));
        let (severity, detail) = match (drift.blocks_writes, hides_the_stream) {
            (true, _) => (
                Severity::Error,
                "Writes are refused: what is acknowledged could get lost, or never reach a host.",
            ),
            (false, true) => (
                Severity::Error,
                "Hosts before 0.58.2, of which some are here, keep a private cache because of it.",
            ),
            (false, false) if seen.part == Part::CacheStream => (
                Severity::Info,
                "Harmless beside hosts since 0.58.2; earlier ones would keep a private cache because of it.",
            ),
            (false, false) => (Severity::Info, "Hosts use the bucket as it is."),
        };
        diagnosis.add(severity, FindingKind::StreamDrift, || {
            let (advice, command) = mend_drift(ground, &seen.name, &drift);
            Finding::new(
                &format!("stream {}", seen.name),
                format!("`{}` is not as hosts create it. {detail}", drift.field),
            )
            .evidence("field", &drift.field)
            .evidence("want", &&drift.want)
            .evidence("have", &&drift.have)
            .remedy(advice, command)
        });
    }
}

/// JetStream changes some members of a stream's configuration, and others never.
fn mend_drift(ground: &Ground<'_>, stream: &str, drift: &Drift) -> (&'static str, String) {
    let edit = |options: &[String]| {
        let mut words = vec!["stream", "edit", stream, "--force"];
        words.extend(options.iter().map(String::as_str));
        (
            "Change it back to what hosts create.",
            ground.commands.nats(&words),
        )
    };
    let with = |option: &str| edit(&[format!("--{option}={}", plain(&drift.want))]);
    match drift.field {
        // docs/reliability.md has what was measured.
        "max_msgs_per_subject" => (
            "Change it back to what hosts create, while nothing writes: a file stream may lose its newest messages else.",
            with("max-msgs-per-subject").1,
        ),
        "max_msgs" => with("max-msgs"),
        "max_bytes" => with("max-bytes"),
        "max_msg_size" => with("max-msg-size"),
        "discard" => with("discard"),
        "num_replicas" => with("replicas"),
        // Nanoseconds there, a duration here.
        "duplicate_window" => edit(&["--dupe-window=2m".to_owned()]),
        "max_age" => edit(&["--max-age=0s".to_owned()]),
        "subjects" => {
            let subjects = drift.want.as_array().into_iter().flatten();
            let options = subjects.map(|subject| format!("--subjects={}", plain(subject)));
            edit(&options.collect::<Vec<_>>())
        }
        "allow_rollup_hdrs" => edit(&["--allow-rollup".to_owned()]),
        "republish" => edit(&["--no-republish".to_owned()]),
        _ => (
            "JetStream cannot change it, or not by an option: export the lattice, have the stream created anew, and import it.",
            ground.commands.latticectl(&["export"]),
        ),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether the stream is on as many servers as it is wished.
pub(super) fn replicas(ground: &Ground<'_>, seen: &Seen, diagnosis: &mut Diagnosis) {
    let Some(wanted) = ground.replicas_wanted else {
        return;
    };
    let have = seen.info.config.get("num_replicas").and_then(Value::as_u64);
    let have = have.unwrap_or(1);
    if have >= u64::from(wanted) {
        return;
    }
    diagnosis.add(Severity::Warning, FindingKind::TooFewReplicas, || {
        Finding::new(
            &format!("stream {}", seen.name),
            "The stream has fewer replicas than asked for: the loss of few servers stops its lattice.",
        )
        .evidence("want", &wanted)
        .evidence("have", &have)
        .remedy(
            match seen.part {
                Part::CacheStream => {
                    "Scale the stream; not beside hosts before 0.58.2, which then keep a private cache."
                }
                Part::Kv | Part::Component | Part::Configs => "Scale the stream.",
            },
            ground
                .commands
                .latticectl(&["lattice", "provision", "--replicas", &wanted.to_string()]),
        )
    });
}

/// A stream of the lattice's name in another domain, or none there.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) domain: Option<String>,
    pub(super) stream: String,
    pub(super) info: StreamInfo,
}

/// Whether what is in another domain is another stream than the lattice's.
pub(super) fn elsewhere(
    ground: &Ground<'_>,
    here: &[Seen],
    there: &Elsewhere,
    hosts: &[Host],
    diagnosis: &mut Diagnosis,
) {
    let here = here.iter().find(|seen| seen.name == there.stream);
    if here.is_some_and(|here| here.info.created == there.info.created) {
        return;
    }
    let of_hosts = hosts
        .iter()
        .filter(|host| host.domain.is_some() && host.domain == there.domain)
        .count();
    let (severity, detail) = match (here, of_hosts) {
        (None, _) => (
            Severity::Error,
            "The gateway's domain has no such stream, and another one has: hosts there do not see what the gateway writes.",
        ),
        (Some(_), 0) => (
            Severity::Warning,
            "Two domains have a stream of this name: what is written to one is never seen in the other.",
        ),
        (Some(_), _) => (
            Severity::Error,
            "Hosts work on the stream of this name in another domain: they do not see what the gateway writes.",
        ),
    };
    diagnosis.add(severity, FindingKind::StreamElsewhere, || {
        let named = |domain: Option<&str>| domain.unwrap_or("none").to_owned();
        let mut finding = Finding::new(&format!("stream {}", there.stream), detail)
            .evidence("domain", &named(ground.commands.domain))
            .evidence("other_domain", &named(there.domain.as_deref()))
            .evidence("other_created",& &there.info.created)
            .evidence("other_last_sequence", &there.info.state.last_seq)
            .evidence("hosts_there", &of_hosts);
        if let Some(here) = here {
            finding = finding.evidence("created",& &here.info.created);
        }
        finding.remedy(
            "Point the gateway (`nats.domain`, or the upstream's) and all hosts (`--js-domain`) at one domain, then remove the \
             stream that none of them uses.",
            nats_in(there.domain.as_deref(), &["stream", "info", &there.stream]),
        )
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::diagnose::tests::{host, on_ground, seen};

    fn drifted(part: Part, changes: &Value, hosts: Vec<Host>) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        on_ground(Some(part.layout()), hosts, |ground| {
            drift(ground, &seen(part, changes), &mut diagnosis);
        });
        diagnosis
    }

    #[test]
    fn drift_is_as_bad_as_what_it_does_to_the_hosts_that_are_there() {
        let files = json!({"storage": "file"});
        for (part, changes, hosts, severity) in [
            (
                Part::CacheStream,
                json!({"max_msgs_per_subject": 5}),
                vec![],
                Severity::Error,
            ),
            (
                Part::CacheStream,
                files.clone(),
                vec![host("0.58.2", None)],
                Severity::Info,
            ),
            (
                Part::CacheStream,
                files,
                vec![host("0.58.1", None)],
                Severity::Error,
            ),
            (
                Part::Component,
                json!({"storage": "memory"}),
                vec![],
                Severity::Info,
            ),
        ] {
            let found = drifted(part, &changes, hosts);
            assert_eq!(found.kinds(), [(severity, FindingKind::StreamDrift)], "{found:?}");
        }
        assert_eq!(drifted(Part::Kv, &json!({}), vec![]).kinds(), []);
    }

    #[test]
    fn each_drift_that_can_be_mended_has_its_command() {
        for (changes, command) in [
            (
                json!({"max_msgs_per_subject": 5}),
                "nats stream edit LATTICECACHE_blue --force --max-msgs-per-subject=1",
            ),
            (
                json!({"subjects": ["lc.blue.>", "x"]}),
                "nats stream edit LATTICECACHE_blue --force '--subjects=lc.blue.>'",
            ),
            (
                json!({"duplicate_window": 1}),
                "nats stream edit LATTICECACHE_blue --force --dupe-window=2m",
            ),
            (json!({"storage": "file"}), "latticectl --lattice blue export"),
        ] {
            let found = drifted(Part::CacheStream, &changes, vec![]);
            let (_, found) = found.found.into_iter().next().unwrap();
            assert_eq!(found.listed[0].command, command);
        }
    }

    #[test]
    fn replicas_are_judged_only_where_some_are_wanted() {
        for (wanted, have, count) in [(None, 1, 0), (Some(3), 1, 1), (Some(3), 3, 0), (Some(1), 1, 0)] {
            let mut diagnosis = Diagnosis::default();
            on_ground(Some(Layout::Kv), vec![], |ground| {
                let ground = Ground {
                    replicas_wanted: wanted,
                    ..ground.clone()
                };
                replicas(
                    &ground,
                    &seen(Part::Kv, &json!({"num_replicas": have})),
                    &mut diagnosis,
                );
            });
            assert_eq!(diagnosis.found.len(), count, "{wanted:?} {have}");
        }
    }

    #[test]
    fn a_twin_is_told_by_when_it_was_created() {
        let kinds = |created: &str, here: bool, hosts: &[Host]| {
            let mut diagnosis = Diagnosis::default();
            on_ground(Some(Layout::Component), vec![], |ground| {
                let seen = seen(Part::Component, &json!({}));
                let mut info = seen.info.clone();
                created.clone_into(&mut info.created);
                let there = Elsewhere {
                    domain: Some("leaf".to_owned()),
                    stream: seen.name.clone(),
                    info,
                };
                let here = if here { vec![seen] } else { vec![] };
                elsewhere(ground, &here, &there, hosts, &mut diagnosis);
            });
            diagnosis.kinds()
        };
        let kind = FindingKind::StreamElsewhere;
        let hosts = [host("1.9.2", Some("leaf"))];
        assert_eq!(kinds("now", true, &hosts), []);
        assert_eq!(kinds("then", true, &[]), [(Severity::Warning, kind)]);
        assert_eq!(kinds("then", true, &hosts), [(Severity::Error, kind)]);
        assert_eq!(kinds("then", false, &[]), [(Severity::Error, kind)]);
    }
}
