//! What NATS is to permit around lattices: to the gateway's user exactly what the gateway does, to everybody but hosts
//! nothing that writes a lattice.
//!
//! NATS permits subjects, and asks only whether *this* user may publish or subscribe. Where the server publishes for a
//! user (the answer on the reply subject of a request, a stream's republish) it does not ask; so this holds against
//! whoever publishes or calls, and not against a determined user of the same account (`tests/it/permissions.rs`).

use super::{
    api,
    connection::INBOX_PREFIX,
    feed,
    layout::{Layout, Part, cache_stream, hosts},
    wadm,
};
use crate::domain::LatticeName;

/// Subjects of one user, permitted or denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// To publish on.
    pub publish: Vec<Permission>,
    /// To subscribe to.
    pub subscribe: Vec<Permission>,
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The subject, perhaps with wildcards.
    pub subject: String,
    /// What happens on it.
    pub purpose: &'static str,
}

impl Permission {
    fn new(subject: String, purpose: &'static str) -> Self {
        Self { subject, purpose }
    }
}

/// What the gateway may create, and scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisions {
    /// The streams of its lattices.
    pub lattices: bool,
    /// Those of wadm.
    pub wadm: bool,
}

/// What the gateway's user needs, and nothing else.
pub fn of_gateway(
    lattices: &[LatticeName],
    layout: Layout,
    domain: Option<&str>,
    provisions: Provisions,
) -> Permissions {
    // A server in the domain takes the domain off before it looks at permissions; one at a leaf leaves it there.
    let mut prefixes = vec![api::prefix(None)];
    prefixes.extend(domain.map(|domain| api::prefix(Some(domain))));
    let calls = |call: &str, purpose: &'static str| {
        let subjects = prefixes.iter().map(|prefix| format!("{prefix}.{call}"));
        subjects
            .map(|subject| Permission::new(subject, purpose))
            .collect::<Vec<_>>()
    };

    let mut publish = calls("STREAM.NAMES", "lists lattices");
    if provisions.lattices || provisions.wadm {
        let call = format!("STREAM.UPDATE.{}", api::REHEARSED);
        publish.extend(calls(&call, "asks whether a stream could be as it is wanted"));
    }
    if provisions.wadm {
        for stream in wadm::Stream::ALL.map(wadm::Stream::name) {
            for (call, purpose) in [
                ("STREAM.INFO", "looks at what wadm has"),
                ("STREAM.CREATE", "provisions wadm"),
                ("STREAM.UPDATE", "scales what it finds"),
            ] {
                publish.extend(calls(&format!("{call}.{stream}"), purpose));
            }
        }
    }
    for lattice in lattices {
        for part in layout.parts() {
            publish.extend(homes(*part, lattice, domain));
        }
        let told = layout.told_subjects(lattice);
        publish.extend(
            told.into_iter()
                .map(|subject| Permission::new(subject, "tells of writes")),
        );
        publish.push(Permission::new(
            hosts::ping_subject(layout, lattice),
            "asks which hosts are there",
        ));
        for part in Part::EXISTENCE {
            let stream = part.stream_name(lattice);
            publish.extend(calls(
                &format!("STREAM.INFO.{stream}"),
                "looks which layout there is",
            ));
        }
        for part in layout.parts() {
            let stream = part.stream_name(lattice);
            if *part == Part::Configs {
                publish.extend(calls(&format!("STREAM.INFO.{stream}"), "looks at the stream"));
            }
            if provisions.lattices {
                publish.extend(calls(&format!("STREAM.CREATE.{stream}"), "provisions"));
                publish.extend(calls(&format!("STREAM.UPDATE.{stream}"), "scales what it finds"));
            }
            publish.extend(calls(
                &format!("STREAM.MSG.GET.{stream}"),
                "asks whether there is more, and for what is to be deleted",
            ));
            if *part == Part::CacheStream {
                publish.extend(calls(
                    &format!("STREAM.MSG.DELETE.{stream}"),
                    "removes superseded copies of links",
                ));
            }
            publish.extend(calls(
                &format!("CONSUMER.LIST.{stream}"),
                "looks for hosts gone deaf",
            ));
            publish.extend(calls(
                &format!("CONSUMER.CREATE.{stream}.*"),
                "follows the stream",
            ));
            publish.extend(calls(
                &format!("CONSUMER.DELETE.{stream}.*"),
                "ends what it followed by",
            ));
            publish.extend(
                flow_control(&stream).map(|subject| Permission::new(subject, "asks for the next deliveries")),
            );
        }
    }

    let mut subscribe = vec![Permission::new(inboxes(), "answers and deliveries")];
    for lattice in lattices {
        for part in layout.parts() {
            subscribe.extend(
                feed::advisories(lattice, *part)
                    .into_iter()
                    .map(|subject| Permission::new(subject, "notices changes at once")),
            );
        }
    }
    Permissions { publish, subscribe }
}

/// What entries are published on. Into a bucket through the domain too: a server in it takes it off.
fn homes(part: Part, lattice: &LatticeName, domain: Option<&str>) -> Vec<Permission> {
    let patterns = part.home_patterns(lattice);
    let through = domain
        .filter(|_| part.is_bucket())
        .map(|domain| api::prefix(Some(domain)));
    let within = through
        .iter()
        .flat_map(|prefix| patterns.iter().map(move |pattern| format!("{prefix}.{pattern}")))
        .collect::<Vec<_>>();
    let all = patterns.into_iter().chain(within);
    all.map(|subject| Permission::new(subject, "writes entries"))
        .collect()
}

/// What is to be denied to everybody but the gateway and hosts.
pub fn kept_from_others(lattices: &[LatticeName]) -> Permissions {
    let mut publish = vec![Permission::new(
        inboxes(),
        "answers the gateway in JetStream's place",
    )];
    for lattice in lattices {
        let all = format!("{}>", cache_stream::subject_prefix(lattice));
        publish.push(Permission::new(all, "writes entries"));
        for bucket in LATER_BUCKETS {
            for prefix in BUCKET_PREFIXES {
                publish.push(Permission::new(
                    format!("{prefix}.{bucket}_{lattice}.>"),
                    "writes entries of later hosts",
                ));
            }
        }
        let buckets = LATER_BUCKETS.map(|bucket| format!("KV_{bucket}_{lattice}"));
        for stream in [cache_stream::stream_name(lattice)].into_iter().chain(buckets) {
            for (call, purpose) in WRITING_CALLS {
                // Of every domain: a server at a leaf leaves the domain there.
                for prefix in [api::prefix(None), api::prefix(Some("*"))] {
                    publish.push(Permission::new(format!("{prefix}.{call}.{stream}"), purpose));
                }
            }
        }
    }
    let subscribe = vec![Permission::new(inboxes(), "overhears the gateway's answers")];
    Permissions { publish, subscribe }
}

/// Where hosts since 0.60 keep a lattice.
const LATER_BUCKETS: [&str; 2] = ["LATTICEDATA", "CONFIGDATA"];

/// What a bucket's subjects begin with: without a domain, as hosts write in a domain, and as others write to one.
const BUCKET_PREFIXES: [&str; 3] = ["$KV", "*.$KV", "$JS.*.API.$KV"];

/// The calls of the JetStream API by which a stream comes to hold something else, or to be away.
const WRITING_CALLS: [(&str, &str); 8] = [
    ("STREAM.CREATE", "makes the stream"),
    ("STREAM.UPDATE", "changes the stream"),
    ("STREAM.DELETE", "removes the stream"),
    ("STREAM.PURGE", "empties the stream"),
    ("STREAM.MSG.DELETE", "removes an entry"),
    ("STREAM.RESTORE", "makes the stream of a backup"),
    ("STREAM.PEER.*", "takes a replica away"),
    ("STREAM.LEADER.STEPDOWN", "interrupts the stream"),
];

fn inboxes() -> String {
    format!("{INBOX_PREFIX}.>")
}

/// `$JS.FC.<stream>.<consumer>.<token>`; with the server's feature `js_ack_fc_v2` the domain and the account's hash come
/// before the stream.
fn flow_control(stream: &str) -> [String; 2] {
    [format!("$JS.FC.{stream}.>"), format!("$JS.FC.*.*.{stream}.>")]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATTICES: Provisions = Provisions {
        lattices: true,
        wadm: false,
    };

    fn lattices(names: &[&str]) -> Vec<LatticeName> {
        let names = names.iter().map(|name| LatticeName::parse(name));
        names.collect::<Result<_, _>>().unwrap()
    }

    fn subjects(permissions: &[Permission]) -> Vec<&str> {
        let subjects = permissions.iter().map(|permission| permission.subject.as_str());
        subjects.collect()
    }

    #[test]
    fn the_gateway_may_do_what_it_does() {
        let permissions = of_gateway(
            &lattices(&["prod"]),
            Layout::CacheStream,
            None,
            Provisions::default(),
        );
        assert_eq!(
            subjects(&permissions.publish),
            [
                "$JS.API.STREAM.NAMES",
                "lc.prod.claims.*",
                "lc.prod.linkdefs.*",
                "lc.prod.refmap.*",
                "wasmbus.rpc.prod.*.*.linkdefs.put",
                "wasmbus.rpc.prod.*.*.linkdefs.del",
                "wasmbus.evt.prod",
                "wasmbus.ctl.prod.ping.hosts",
                "$JS.API.STREAM.INFO.LATTICECACHE_prod",
                "$JS.API.STREAM.INFO.KV_LATTICEDATA_prod",
                "$JS.API.STREAM.MSG.GET.LATTICECACHE_prod",
                "$JS.API.STREAM.MSG.DELETE.LATTICECACHE_prod",
                "$JS.API.CONSUMER.LIST.LATTICECACHE_prod",
                "$JS.API.CONSUMER.CREATE.LATTICECACHE_prod.*",
                "$JS.API.CONSUMER.DELETE.LATTICECACHE_prod.*",
                "$JS.FC.LATTICECACHE_prod.>",
                "$JS.FC.*.*.LATTICECACHE_prod.>",
            ]
        );
        assert_eq!(
            subjects(&permissions.subscribe),
            [
                "_INBOX_lattice_gateway.>",
                "$JS.EVENT.ADVISORY.STREAM.*.LATTICECACHE_prod",
                "$JS.EVENT.ADVISORY.STREAM.CREATED.KV_LATTICEDATA_prod",
            ]
        );
    }

    #[test]
    fn creating_streams_is_permitted_where_asked_for_alone() {
        let create = "$JS.API.STREAM.CREATE.LATTICECACHE_prod";
        for may_provision in [false, true] {
            let provisions = Provisions {
                lattices: may_provision,
                wadm: !may_provision,
            };
            let permissions = of_gateway(&lattices(&["prod"]), Layout::CacheStream, None, provisions);
            assert_eq!(subjects(&permissions.publish).contains(&create), may_provision);
            let of_wadm = "$JS.API.STREAM.CREATE.wadm_events";
            assert_eq!(subjects(&permissions.publish).contains(&of_wadm), !may_provision);
        }
    }

    #[test]
    fn in_a_domain_each_call_is_permitted_with_and_without_it() {
        let without = of_gateway(&lattices(&["a", "b"]), Layout::CacheStream, None, LATTICES);
        let within = of_gateway(&lattices(&["a", "b"]), Layout::CacheStream, Some("hub"), LATTICES);
        let expected = without.publish.iter().flat_map(|permission| {
            let subject = permission.subject.clone();
            let of_domain = subject
                .strip_prefix("$JS.API.")
                .map(|call| format!("$JS.hub.API.{call}"));
            [Some(subject), of_domain].into_iter().flatten()
        });
        assert_eq!(subjects(&within.publish), expected.collect::<Vec<_>>());
        assert_eq!(within.subscribe, without.subscribe);
    }

    #[test]
    fn nothing_is_permitted_or_denied_beyond_the_lattices_named() {
        let lattices = lattices(&["a", "b"]);
        let (gateway, others) = (
            of_gateway(&lattices, Layout::CacheStream, None, LATTICES),
            kept_from_others(&lattices),
        );
        for permission in gateway.publish.iter().chain(&others.publish) {
            let subject = permission.subject.as_str();
            let names_one = subject
                .split(['.', '_'])
                .any(|token| token == "a" || token == "b");
            let is_common = [
                "$JS.API.STREAM.NAMES",
                "$JS.API.STREAM.UPDATE.lattice-gateway-rehearsal",
                "_INBOX_lattice_gateway.>",
            ]
            .contains(&subject);
            assert!(names_one || is_common, "{subject}");
        }
    }
}
