//! Who follows the streams: consumers that nobody uses or that lag, hosts that hear nothing, servers that refuse hosts.

use super::{Diagnosis, Finding, FindingKind, Ground, Seen, Severity};
use crate::{
    control::lattices::Layout,
    store::{consumers::Consumer, layout::hosts::Host},
};

/// Hosts before this follow the stream by a request that a strict server refuses.
const HOSTS_THAT_FOLLOW_BUCKETS: [u64; 3] = [0, 60, 0];

/// Push consumers that nobody listens to.
pub(super) fn abandoned(ground: &Ground<'_>, seen: &Seen, diagnosis: &mut Diagnosis) {
    for consumer in seen.consumers.iter().filter(|it| it.is_push && !it.is_bound) {
        let (severity, detail) = match consumer.is_kept {
            true => (
                Severity::Warning,
                "Nobody listens to this consumer, and JetStream keeps it for ever.",
            ),
            false => (
                Severity::Info,
                "Nobody listens to this consumer; JetStream removes it by itself, unless who made it comes back.",
            ),
        };
        diagnosis.add(severity, FindingKind::ConsumerAbandoned, || {
            told(seen, consumer, detail).remedy(
                "Remove it, once you know whose it was.",
                ground
                    .commands
                    .nats(&["consumer", "rm", &seen.name, &consumer.name, "--force"]),
            )
        });
    }
}

/// How much a consumer has before it, at least, that is said to lag since it grows: under load there is always something.
const LAG_MIN: u64 = 1_000;

/// Consumers that stand still with something before them, that fall behind, or whose messages nobody acknowledges.
pub(super) fn lagging(ground: &Ground<'_>, seen: &Seen, later: &[Consumer], diagnosis: &mut Diagnosis) {
    let falls_behind = |now: &Consumer| {
        let earlier = seen.consumers.iter().find(|it| it.name == now.name);
        earlier.is_some_and(|earlier| {
            let stands = earlier.pending > 0 && now.pending >= earlier.pending;
            let grows = now.pending > earlier.pending && now.pending >= LAG_MIN;
            grows || (stands && now.delivered == earlier.delivered)
        })
    };
    for consumer in later.iter().filter(|it| it.is_bound || !it.is_push) {
        let detail = match consumer {
            it if it.redelivered > 0 => {
                "Messages come to this consumer again and again: who listens fails on them, as hosts up to 0.59 do on what is \
                 malformed."
            }
            // What pulls may do so whenever it likes.
            it if it.is_push && falls_behind(it) => "Who listens to this consumer does not keep up.",
            _ => continue,
        };
        diagnosis.add(Severity::Warning, FindingKind::ConsumerLagging, || {
            told(seen, consumer, detail).remedy(
                "Mend malformed entries first; then look at who listens, and restart it.",
                ground
                    .commands
                    .nats(&["consumer", "info", &seen.name, &consumer.name]),
            )
        });
    }
}

fn told(seen: &Seen, consumer: &Consumer, detail: &str) -> Finding {
    Finding::new(
        &format!("consumer {} of stream {}", consumer.name, seen.name),
        detail,
    )
    .evidence("stream", &&seen.name)
    .evidence("consumer", &&consumer.name)
    .evidence("description", &&consumer.description)
    .evidence("pending", &consumer.pending)
    .evidence("redelivered", &consumer.redelivered)
}

/// Whether every host that answers follows the lattice's main stream.
pub(super) fn deaf(ground: &Ground<'_>, seen: &Seen, hosts: &[&Host], diagnosis: &mut Diagnosis) {
    const NAMED_MAX: usize = 20;
    let prefix = seen.part.subject_prefix(ground.name);
    let is_watch = |consumer: &&Consumer| consumer.is_bound && consumer.is_hosts(seen.part, &prefix);
    let watches = seen.consumers.iter().filter(is_watch).count();
    if watches >= hosts.len() {
        return;
    }
    diagnosis.add(Severity::Error, FindingKind::HostDeaf, || {
        let ids = hosts.iter().map(|host| host.id.as_str()).take(NAMED_MAX);
        let how = match ground.layout {
            Some(Layout::CacheStream) => {
                "Hosts up to 0.59 follow the stream once, and no more after NATS was away for 5 seconds."
            }
            Some(Layout::Kv | Layout::Component) | None => {
                "A host can lose its watch for good when the bucket is written right after NATS was away."
            }
        };
        Finding::new(
            &format!("stream {}", seen.name),
            format!("More hosts answer than follow the stream: some no longer learn of changes. {how}"),
        )
        .evidence("hosts", &hosts.len())
        .evidence("watches", &watches)
        .evidence("host_ids", &ids.collect::<Vec<_>>().join(","))
        .remedy(
            "Restart the hosts, one after the other, until as many consumers are bound as there are hosts.",
            ground.commands.nats(&["consumer", "report", &seen.name]),
        )
    });
}

/// Whether the server takes the requests of hosts that follow the stream `LATTICECACHE_<lattice>`.
pub(super) fn strict(ground: &Ground<'_>, stream: &str, diagnosis: &mut Diagnosis) {
    let refused = ground
        .hosts()
        .filter(|host| host.is_older_than(HOSTS_THAT_FOLLOW_BUCKETS));
    let refused = refused.count();
    let severity = match refused {
        0 => Severity::Warning,
        _ => Severity::Error,
    };
    diagnosis.add(severity, FindingKind::StrictServer, || {
        Finding::new(
            &format!("stream {stream}"),
            "The NATS server refuses JetStream requests with members that it does not know: hosts up to 0.59 that start cannot \
             load their cache, and later ones cannot migrate it.",
        )
        .evidence("server_version",& &ground.server_version)
        .evidence("hosts", &refused)
        .remedy(
            "Set `jetstream { strict: false }` in the configuration of every NATS server, reload it, and restart the hosts.",
            "nats-server --signal reload".to_owned(),
        )
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        control::diagnose::tests::{host, on_ground, seen},
        store::layout::Part,
    };

    fn consumer(name: &str, is_bound: bool, pending: u64) -> Consumer {
        Consumer::read(&json!({
            "name": name, "push_bound": is_bound, "num_pending": pending,
            "config": {"description": "kv watch consumer", "deliver_subject": "_INBOX.x"},
        }))
    }

    fn found(consumers: Vec<Consumer>, check: impl Fn(&Ground<'_>, &Seen, &mut Diagnosis)) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        let seen = Seen {
            consumers,
            ..seen(Part::Component, &json!({}))
        };
        on_ground(Some(Layout::Component), vec![], |ground| {
            check(ground, &seen, &mut diagnosis);
        });
        diagnosis
    }

    #[test]
    fn what_nobody_listens_to_matters_where_it_stays() {
        let kept = Consumer {
            is_kept: true,
            ..consumer("kept", false, 0)
        };
        let pull = Consumer {
            is_push: false,
            ..consumer("pull", false, 0)
        };
        let given = vec![consumer("bound", true, 0), consumer("gone", false, 0), kept, pull];
        let kind = FindingKind::ConsumerAbandoned;
        assert_eq!(
            found(given, abandoned).kinds(),
            [(Severity::Warning, kind), (Severity::Info, kind)]
        );
    }

    #[test]
    fn a_consumer_lags_that_stands_still_or_falls_behind() {
        let lags = |before: u64, after: u64, delivered: u64| {
            let later = [Consumer {
                delivered,
                ..consumer("c", true, after)
            }];
            let found = found(vec![consumer("c", true, before)], |ground, seen, diagnosis| {
                lagging(ground, seen, &later, diagnosis);
            });
            !found.found.is_empty()
        };
        assert!(lags(3, 3, 0) && lags(3, 4, 0) && lags(0, 1_000, 7));
        assert!(!lags(3, 2, 1) && !lags(3, 4, 7) && !lags(0, 4, 0) && !lags(2_000, 1_500, 7));
    }

    #[test]
    fn hosts_are_deaf_where_fewer_watches_are_bound() {
        let hosts = [host("1.9.2", None), host("1.9.2", None)];
        let deaf_with = |consumers| {
            let found = found(consumers, |ground, seen, diagnosis| {
                deaf(ground, seen, &hosts.iter().collect::<Vec<_>>(), diagnosis);
            });
            !found.found.is_empty()
        };
        assert!(deaf_with(vec![consumer("a", true, 0), consumer("b", false, 0)]));
        assert!(!deaf_with(vec![consumer("a", true, 0), consumer("b", true, 0)]));
    }
}
