//! Whether what entries name is there, and what they say can be so.

use std::collections::{BTreeMap, BTreeSet};

use super::{Diagnosis, Finding, FindingKind, Ground, Severity, entries::Held};
use crate::{
    control::{lattices::Layout, mutate::lacks_config, operations::in_order},
    domain::{ComponentRecord, Entry, EntryKey, InterfaceLinkId, Kind, component::StoredLink},
    store::{
        layout::hosts::{LINKS_ANSWER_BYTES, answered_link_bytes},
        mirror::{Contents, as_record},
    },
};

/// Ends of links that nothing was started as.
pub(super) fn ends(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    let contents = held.contents;
    let has_claims = |key: &str| stands(contents, &EntryKey::Claims(key.into()));
    let has_record = |id: &str| stands(contents, &EntryKey::Component(id.into()));
    for (key, standing) in contents.standing(Kind::LinkDefinition, None) {
        let (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) = (key, &*standing.entry) else {
            continue;
        };
        for (role, end) in [("actor", &id.actor_id), ("provider", &link.provider_id)] {
            if !has_claims(end) {
                diagnosis.add(Severity::Info, FindingKind::UnknownLinkEnd, || {
                    let delete = [
                        "link",
                        "delete",
                        &id.actor_id,
                        &id.contract_id,
                        "--name",
                        &id.link_name,
                    ];
                    unknown_end(ground, key, role, end, &delete)
                });
            }
        }
    }
    for (id, _) in contents.interface_links(None) {
        if !has_record(&id.target) {
            diagnosis.add(Severity::Info, FindingKind::UnknownLinkEnd, || {
                let key = EntryKey::InterfaceLink(id.clone());
                unknown_end(ground, &key, "target", &id.target, &delete_words(&id))
            });
        }
    }
}

fn stands(contents: &Contents, key: &EntryKey) -> bool {
    let winner = contents.winner(key);
    winner.is_some_and(|winner| !winner.state.is_gone())
}

fn unknown_end(
    ground: &Ground<'_>,
    key: &EntryKey,
    role: &'static str,
    end: &str,
    delete: &[&str],
) -> Finding {
    Finding::new(
        &key,
        format!("Nothing of the id of its {role} was ever started here."),
    )
    .evidence("role", &role)
    .evidence("id", &end)
    .remedy(
        "Start it; or delete the link, where its id is a mistake.",
        ground.commands.latticectl(delete),
    )
}

/// The words of `latticectl` that delete a link.
fn delete_words(id: &InterfaceLinkId) -> [&str; 9] {
    let [source, name, namespace, package, target] = id.parts();
    [
        "iface", "delete", source, namespace, package, "--name", name, "--target", target,
    ]
}

/// Claims of accounts that are not trusted.
pub(super) fn issuers(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    let trusted = &ground.settings.trusted_issuers;
    for (key, standing) in held.contents.standing(Kind::Claims, None) {
        let (EntryKey::Claims(public_key), Entry::Claims(claims)) = (key, &*standing.entry) else {
            continue;
        };
        if trusted.trust(&claims.issuer) {
            continue;
        }
        diagnosis.add(Severity::Warning, FindingKind::UntrustedIssuer, || {
            let remove = match held.lattice.part.layout() {
                // Hosts of it have no form for a delete.
                Layout::CacheStream => ground.commands.nats(&[
                    "stream",
                    "rmm",
                    &held.lattice.stream,
                    &standing.revision.sequence.to_string(),
                    "--force",
                ]),
                Layout::Kv | Layout::Component => {
                    ground.commands.latticectl(&["claims", "delete", public_key])
                }
            };
            Finding::new(
                &key,
                "The account that issued the claims is none of the lattice's `trusted_issuers`; hosts do not check that.",
            )
            .evidence("issuer",& &claims.issuer)
            .evidence("name",& &claims.name)
            .evidence("sequence", &standing.revision.sequence)
            .remedy(
                format!(
                    "Find out who started it: add the account to `lattices.{}.trusted_issuers`, or stop it and remove its claims.",
                    ground.name
                ),
                remove,
            )
        });
    }
}

/// Links that are in each other's way, and those that stand twice.
pub(super) fn conflicts(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    for (_, standing) in held.contents.standing(Kind::Component, None) {
        let Some(record) = as_record(&standing.entry) else {
            continue;
        };
        let sequence = standing.revision.sequence;
        for Conflict {
            link,
            other,
            interface,
        } in in_each_others_way(record)
        {
            diagnosis.add(Severity::Error, FindingKind::LinkConflict, || {
                Finding::new(
                    &EntryKey::InterfaceLink(link.id.clone()),
                    format!(
                        "Another target serves `{interface}` under the same name: which is called is left to chance, and hosts \
                         since 1.3.0 refuse to put either."
                    ),
                )
                .evidence("interface", &interface)
                .evidence("target",& &link.id.target)
                .evidence("other_target",& &other.id.target)
                .evidence("sequence", &sequence)
                .remedy(
                    "Delete the link to the target that is not meant, or give it a name of its own.",
                    ground.commands.latticectl(&delete_words(&link.id)),
                )
            });
        }
        for id in doubled(record) {
            diagnosis.add(Severity::Warning, FindingKind::DoubledLink, || {
                let first = record.find(id);
                // One that is in another's way is refused.
                let may_put = first.is_some_and(|first| record.conflict(id, &first.link).is_none());
                let mend = held.contents.interface_link(id).filter(|_| may_put);
                let key = EntryKey::InterfaceLink(id.clone());
                let [source, name, namespace, package, target] = id.parts();
                let get = [
                    "iface", "get", source, namespace, package, "--name", name, "--target", target,
                ];
                Finding::new(
                   & &key,
                    "The link stands more than once in its record: hosts use the first, and a delete takes out one.",
                )
                .evidence("sequence", &sequence)
                .remedy(
                    "Put the first again as it is shown, which takes out the others.",
                    ground.commands.latticectl(&get),
                )
                .mended_by(mend.map(|standing| (key, standing)))
            });
        }
    }
}

/// Two links of one source and name that serve one interface by two targets.
#[derive(Debug)]
struct Conflict<'a> {
    link: &'a StoredLink,
    other: &'a StoredLink,
    interface: &'a str,
}

/// Each link at most once, with the first one that it is in the way of.
fn in_each_others_way(record: &ComponentRecord) -> Vec<Conflict<'_>> {
    let mut served = BTreeMap::<_, &StoredLink>::new();
    let mut conflicts = Vec::new();
    for link in &record.links {
        let [source, name, namespace, package, _] = link.id.parts();
        let mut found = None;
        for interface in &link.link.interfaces {
            let first = served
                .entry((source, name, namespace, package, &**interface))
                .or_insert(link);
            if first.id.target != link.id.target {
                found.get_or_insert(Conflict {
                    link,
                    other: first,
                    interface,
                });
            }
        }
        conflicts.extend(found);
    }
    conflicts
}

fn doubled(record: &ComponentRecord) -> BTreeSet<&InterfaceLinkId> {
    let mut seen = BTreeSet::new();
    let links = record.links.iter().map(|stored| &stored.id);
    links.filter(|id| !seen.insert(*id)).collect()
}

/// Configs that links name and hosts cannot use, and configs that no link names. `None` where their bucket is missing.
pub(super) fn configs(
    ground: &Ground<'_>,
    links: Held<'_>,
    configs: Option<&Contents>,
    diagnosis: &mut Diagnosis,
) {
    let mut used = BTreeSet::<Box<str>>::new();
    for (id, standing) in links.contents.interface_links(None) {
        let Entry::InterfaceLink(link) = &*standing.entry else {
            continue;
        };
        let named = link.configs().collect::<BTreeSet<_>>();
        for name in &named {
            if configs.is_none_or(|configs| lacks_config(configs, name)) {
                diagnosis.add(Severity::Error, FindingKind::ConfigMissing, || {
                    Finding::new(
                        &EntryKey::InterfaceLink(id.clone()),
                        format!(
                            "The link names the config {name}, which is missing or unreadable: hosts do not give it to providers, \
                             and refuse to put the link again."
                        ),
                    )
                    .evidence("config", &name)
                    .evidence("sequence", &standing.revision.sequence)
                    .remedy(
                        "Put the config, or the link without it.",
                        ground
                            .commands
                            .latticectl(&["config", "put", name, "--value", "KEY=VALUE"]),
                    )
                });
            }
        }
        used.extend(named.into_iter().map(Into::into));
    }
    let standing = configs.map(|configs| configs.standing(Kind::Config, None));
    for (key, standing) in standing.into_iter().flatten() {
        let EntryKey::Config(name) = key else {
            continue;
        };
        if used.contains(name) {
            continue;
        }
        diagnosis.add(Severity::Info, FindingKind::ConfigUnused, || {
            Finding::new(&key, "No interface link names the config.")
                .evidence("sequence", &standing.revision.sequence)
                .remedy(
                    "Delete it, if no link is to come that names it.",
                    ground.commands.latticectl(&["config", "delete", name]),
                )
        });
    }
}

/// Whether a host can answer who asks it for all links.
pub(super) fn size(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    let part = held.lattice.part;
    let kinds = [Kind::LinkDefinition, Kind::InterfaceLink];
    let links = kinds
        .into_iter()
        .flat_map(|kind| in_order(held.contents, kind, None));
    let (mut count, mut bytes) = (0_u64, LINKS_ANSWER_BYTES);
    for (key, standing) in links {
        count += 1;
        bytes += answered_link_bytes(part, &key, &standing.entry);
    }
    let max = held.lattice.api.connection().max_payload();
    let Some((severity, detail)) = of_size(bytes, max) else {
        return;
    };
    diagnosis.add(severity, FindingKind::LinksTooLarge, || {
        Finding::new(&format!("stream {}", held.lattice.stream), detail)
            .evidence("links", &count)
            .evidence("bytes", &bytes)
            .evidence("max_payload", &max)
            .remedy(
                "Delete links that are not needed, spread them over lattices, or raise `max_payload` of every NATS server; read \
                 links through the gateway, which has no such bound.",
                ground.commands.latticectl(&[
                    match part.layout() {
                        Layout::Component => "iface",
                        Layout::CacheStream | Layout::Kv => "link",
                    },
                    "list",
                ]),
            )
    });
}

fn of_size(bytes: usize, max: usize) -> Option<(Severity, &'static str)> {
    match bytes {
        over if over > max => Some((
            Severity::Error,
            "All links together are more than a NATS message holds: a host that is asked for them does not answer, and loses its \
             connection.",
        )),
        near if near > max / 5 * 4 => Some((
            Severity::Warning,
            "All links together are nearly more than a NATS message holds: soon a host that is asked for them does not answer, and \
             loses its connection.",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::InterfaceLink;

    fn link(name: &str, target: &str, interfaces: &[&str]) -> StoredLink {
        StoredLink {
            id: InterfaceLinkId {
                source_id: "s".into(),
                name: name.into(),
                wit_namespace: "wasi".into(),
                wit_package: "http".into(),
                target: target.into(),
            },
            link: InterfaceLink {
                interfaces: interfaces.iter().map(|text| (*text).into()).collect(),
                ..InterfaceLink::default()
            },
            rest: serde_json::Map::new(),
        }
    }

    fn record(links: Vec<StoredLink>) -> ComponentRecord {
        ComponentRecord {
            links,
            ..ComponentRecord::default()
        }
    }

    #[test]
    fn links_conflict_as_hosts_judge() {
        let conflicts = |links| {
            let record = record(links);
            let found = in_each_others_way(&record).into_iter();
            let told = found.map(|it| {
                let (link, other) = (&it.link.id.target, &it.other.id.target);
                assert!(record.conflict(&it.link.id, &it.link.link).is_some());
                format!("{link} {other} {}", it.interface)
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(
            conflicts(vec![
                link("n", "b", &["i1", "i2"]),
                link("n", "c", &["i3", "i2"]),
                link("n", "d", &["i1", "i2"]),
            ]),
            ["c b i2", "d b i1"]
        );
        let apart = vec![
            link("n", "b", &["i1"]),
            link("m", "c", &["i1"]),
            link("n", "d", &["i2"]),
            link("n", "e", &[]),
            link("n", "b", &["i1"]),
        ];
        assert_eq!(conflicts(apart), [""; 0]);
    }

    #[test]
    fn a_link_is_doubled_by_its_identity() {
        let record = record(vec![
            link("n", "b", &["i1"]),
            link("n", "b", &["i2"]),
            link("n", "b", &["i3"]),
            link("n", "c", &["i4"]),
        ]);
        let doubled = doubled(&record);
        assert_eq!(doubled.len(), 1);
        assert!(doubled.iter().all(|id| record.is_doubled(id)));
    }

    #[test]
    fn what_a_host_can_answer_is_bounded_by_the_server() {
        let severity = |bytes| of_size(bytes, 1_000).map(|(severity, _)| severity);
        assert_eq!(severity(800), None);
        assert_eq!(severity(801), Some(Severity::Warning));
        assert_eq!(severity(1_000), Some(Severity::Warning));
        assert_eq!(severity(1_001), Some(Severity::Error));
    }
}
