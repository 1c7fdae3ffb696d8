//! What is wrong with a lattice, and how to mend it.
//!
//! First all is read: the streams and their consumers, who answers of the hosts, the entries. Then each family of checks
//! makes findings of what was read: `streams`, `following`, `clock`, `entries`, `links`. What could not be read is
//! told as skipped. Nothing is changed.

mod clock;
mod command;
mod entries;
mod finding;
mod following;
mod links;
mod streams;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;

pub use self::finding::{Diagnosis, Finding, FindingKind, Found, LISTED_MAX, Severity, Skipped};
use self::{clock::Clocks, command::Commands, entries::Held, streams::Elsewhere};
use super::{
    Clock, Control, ControlError, Deadline,
    lattice::{Lattice, not_provisioned},
    lattices::{Found as Place, LatticeSettings, Layout},
};
use crate::{
    auth::{Grant, Read},
    domain::{LatticeName, Revision},
    store::{
        api::{ApiError, JetStream, StreamInfo},
        connection::RequestFailed,
        consumers::Consumer,
        layout::{
            Part,
            hosts::{self, Host},
        },
    },
};

/// How long hosts have to answer.
const HOSTS_WINDOW: Duration = Duration::from_millis(500);
/// Answers of hosts that are read, at most.
const HOSTS_MAX: usize = 10_000;
/// How long another domain has to answer.
const DOMAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// After which time a consumer that had something before it is looked at again.
const LAG_WINDOW: Duration = Duration::from_millis(300);
/// The part of the time that is left for reading the entries: what was found must be answered all the same.
const ENTRIES_SHARE: u32 = 2;

/// What the checks rest on, beside what they look at.
#[derive(Clone, Debug)]
struct Ground<'a> {
    name: &'a LatticeName,
    /// `None` where it cannot be told.
    layout: Option<Layout>,
    settings: Arc<LatticeSettings>,
    commands: Commands<'a>,
    replicas_wanted: Option<u32>,
    server_version: String,
    /// Those that answered; `None` where they could not be asked.
    answered: Option<Vec<Host>>,
}

impl Ground<'_> {
    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.answered.iter().flatten()
    }
}

/// One stream as it was looked at.
#[derive(Debug)]
struct Seen {
    part: Part,
    name: String,
    info: StreamInfo,
    clocks: Option<Clocks>,
    /// None where they may not be listed, which was told then.
    consumers: Vec<Consumer>,
}

impl Control {
    /// Diagnoses a lattice; its streams should have so many replicas, where that is said.
    pub async fn diagnose(
        &self,
        grant: &Grant<Read>,
        replicas_wanted: Option<u32>,
        deadline: Deadline,
    ) -> Result<Diagnosis, ControlError> {
        let name = grant.lattice();
        let lattices = self.lattices();
        let place = deadline
            .bound(lattices.find(name))
            .await
            .ok_or(ControlError::ReadTimedOut)??;
        let (layout, is_there) = match place {
            Place::At(layout, _) => (Some(layout), true),
            Place::Ambiguous => (None, true),
            Place::Nothing => (None, false),
        };
        let api = &lattices.upstream(name).api;
        let mut diagnosis = Diagnosis::default();
        let answered = ask_hosts(api, name, layout, is_there, &mut diagnosis).await;
        let ground = Ground {
            name,
            layout,
            settings: lattices.settings(name).ok_or_else(|| not_provisioned(name))?,
            commands: Commands {
                lattice: name,
                domain: api.domain(),
            },
            replicas_wanted,
            server_version: api.connection().server_version().unwrap_or_default(),
            answered,
        };
        let seen = match is_there {
            true => look(&ground, api, self.clock(), deadline, &mut diagnosis).await?,
            false => Vec::new(),
        };
        judge_elsewhere(&ground, api, &seen, &mut diagnosis).await;
        if !is_there {
            // A stream in another domain is worth an answer.
            let is_elsewhere = !diagnosis.found.is_empty();
            return is_elsewhere
                .then_some(diagnosis)
                .ok_or_else(|| not_provisioned(name));
        }
        streams::layout(&ground, &seen, &mut diagnosis);
        for seen in &seen {
            streams::drift(&ground, seen, &mut diagnosis);
            streams::replicas(&ground, seen, &mut diagnosis);
            following::abandoned(&ground, seen, &mut diagnosis);
        }
        match seen.iter().find_map(|seen| seen.clocks) {
            Some(clocks) => clock::judge(clocks, &mut diagnosis),
            None => diagnosis.skip([FindingKind::ClockSkew], "the NATS server tells no time"),
        }
        judge_lag(&ground, api, &seen, &mut diagnosis).await;
        judge_hosts(&ground, api, &seen, &mut diagnosis).await;
        let soon = Deadline::within(deadline.left() / ENTRIES_SHARE);
        self.judge_entries(&ground, soon, &mut diagnosis).await;
        Ok(diagnosis)
    }

    async fn judge_entries(&self, ground: &Ground<'_>, deadline: Deadline, diagnosis: &mut Diagnosis) {
        let Some(layout) = ground.layout else {
            return diagnosis.skip(
                FindingKind::OF_ENTRIES,
                "the layout of the lattice cannot be told",
            );
        };
        let read = async {
            let main = self.lattices().open(ground.name, deadline).await?;
            let revision = freshly_read(&main, deadline).await?;
            let configs = match layout {
                Layout::CacheStream | Layout::Kv => None,
                Layout::Component => match self.lattices().open_configs(ground.name, deadline).await {
                    Ok(configs) => Some(configs),
                    Err(ControlError::NotProvisioned { .. }) => None,
                    Err(error) => return Err(error),
                },
            };
            if let Some(configs) = &configs {
                freshly_read(configs, deadline).await?;
            }
            Ok((main, configs, revision))
        };
        let (main, configs, revision) = match read.await {
            Ok(read) => read,
            Err(error) => {
                let reason = format!("the entries cannot be read: {error}");
                return diagnosis.skip(FindingKind::OF_ENTRIES, reason);
            }
        };
        let judged = main.look(|contents| {
            let held = Held {
                lattice: &main,
                contents,
            };
            entries::malformed(ground, held, diagnosis);
            entries::copies(ground, held, diagnosis);
            entries::of_other_eras(ground, held, diagnosis);
            entries::partly_readable(ground, held, diagnosis);
            links::ends(ground, held, diagnosis);
            links::issuers(ground, held, diagnosis);
            links::conflicts(ground, held, diagnosis);
            links::size(ground, held, diagnosis);
            let Some(configs) = configs.as_deref() else {
                links::configs(ground, held, None, diagnosis);
                return Ok(());
            };
            configs.look(|contents| {
                links::configs(ground, held, Some(contents), diagnosis);
                let held = Held {
                    lattice: configs,
                    contents,
                };
                entries::malformed(ground, held, diagnosis);
            })
        });
        match judged.flatten() {
            Ok(()) => diagnosis.revision = Some(revision),
            Err(error) => diagnosis.skip(
                FindingKind::OF_ENTRIES,
                format!("the entries cannot be read: {error}"),
            ),
        }
    }
}

/// Looks for streams of the lattice's names in every other domain that is known of: without one, which is the connected
/// server's own, and in those that hosts say they use.
async fn judge_elsewhere(ground: &Ground<'_>, api: &JetStream, here: &[Seen], diagnosis: &mut Diagnosis) {
    let of_hosts = ground.hosts().map(|host| host.domain.clone());
    let mut domains = of_hosts.chain([None]).collect::<BTreeSet<_>>();
    domains.remove(&ground.commands.domain.map(str::to_owned));
    let parts = ground.layout.map_or(&Part::EXISTENCE[..], Layout::parts);
    let questions = domains
        .iter()
        .flat_map(|domain| parts.iter().map(move |part| (domain, part)));
    let answers = questions.map(async |(domain, part)| {
        let there = api.in_domain(domain.as_deref());
        let stream = part.stream_name(ground.name);
        let asked = tokio::time::timeout(DOMAIN_TIMEOUT, there.stream_info(&stream));
        (domain, asked.await, stream)
    });
    for (domain, answer, stream) in join_all(answers).await {
        let call = || format!("STREAM.INFO.{stream}");
        let failure = match answer {
            Ok(Ok(info)) => {
                let there = Elsewhere {
                    domain: domain.clone(),
                    stream,
                    info,
                };
                let hosts = ground.answered.as_deref().unwrap_or_default();
                streams::elsewhere(ground, here, &there, hosts, diagnosis);
                continue;
            }
            // It has none.
            Ok(Err(error))
                if error.is_stream_not_found()
                    || error == ApiError::DomainAway
                    || error == ApiError::Request(RequestFailed::NoResponders) =>
            {
                continue;
            }
            Ok(Err(error)) => why(&error, &call()),
            Err(_elapsed) => "it does not answer".to_owned(),
        };
        let place = domain.as_ref().map_or_else(
            || "without a domain".to_owned(),
            |domain| format!("in the domain {domain}"),
        );
        diagnosis.skip(
            [FindingKind::StreamElsewhere],
            format!("JetStream {place} cannot be asked: {failure}"),
        );
    }
}

/// Has the mirror reach what the stream's leader tells now.
async fn freshly_read(lattice: &Lattice, deadline: Deadline) -> Result<Revision, ControlError> {
    lattice.ready(deadline).await?;
    Ok(lattice.fresh(deadline).await?.last)
}

/// Asks who is there of the hosts; those of any era where the layout is not known.
async fn ask_hosts(
    api: &JetStream,
    name: &LatticeName,
    layout: Option<Layout>,
    is_there: bool,
    diagnosis: &mut Diagnosis,
) -> Option<Vec<Host>> {
    // Hosts of 0.50 to 0.82 answer on one subject.
    let eras = match layout {
        Some(layout) => vec![layout],
        None => vec![Layout::Kv, Layout::Component],
    };
    let subjects = eras.into_iter().map(|era| hosts::ping_subject(era, name));
    let asked = subjects.map(async |subject| {
        let gathered = api.connection().gather(&subject, HOSTS_WINDOW, HOSTS_MAX);
        gathered
            .await
            .map_err(|failed| why(&ApiError::Request(failed), &subject))
    });
    let mut all = Vec::new();
    for answers in join_all(asked).await {
        match answers {
            Ok(answers) => all.extend(answers.iter().filter_map(|it| hosts::read_answer(&it.payload))),
            Err(reason) => {
                diagnosis.skip(
                    [FindingKind::HostDeaf],
                    format!("hosts cannot be asked: {reason}"),
                );
                return None;
            }
        }
    }
    let mut known = BTreeSet::new();
    all.retain(|host| known.insert(host.id.clone()));
    diagnosis.hosts = layout
        .filter(|_| is_there)
        .map(|layout| all.iter().filter(|host| host.is_of(layout)).count());
    Some(all)
}

/// Looks at every stream of the lattice, and at what makes its layout doubtful.
async fn look(
    ground: &Ground<'_>,
    api: &JetStream,
    clock: Clock,
    deadline: Deadline,
    diagnosis: &mut Diagnosis,
) -> Result<Vec<Seen>, ControlError> {
    let mut parts = match ground.layout {
        None => Part::EXISTENCE.to_vec(),
        Some(layout) => layout.parts().to_vec(),
    };
    // The stream of the other layouts, beside which hosts of two eras are at work.
    let rival = match ground.layout {
        Some(Layout::CacheStream) => Some(Part::Kv),
        Some(Layout::Kv | Layout::Component) => Some(Part::CacheStream),
        None => None,
    };
    parts.extend(rival);
    let looks = parts.iter().map(async |part| {
        let with_consumers = rival != Some(*part);
        (
            *part,
            look_at(api, clock, ground.name, *part, with_consumers).await,
        )
    });
    let looks = deadline.bound(join_all(looks)).await;
    let mut seen = Vec::new();
    for (part, looked) in looks.ok_or(ControlError::ReadTimedOut)? {
        let error = match looked {
            Ok((looked, None)) => {
                seen.push(looked);
                continue;
            }
            Ok((looked, Some(reason))) => {
                diagnosis.skip(
                    [
                        FindingKind::ConsumerAbandoned,
                        FindingKind::ConsumerLagging,
                        FindingKind::HostDeaf,
                    ],
                    format!("the consumers of {} cannot be listed: {reason}", looked.name),
                );
                seen.push(looked);
                continue;
            }
            Err(error) => error,
        };
        match error.is_stream_not_found() {
            true if part == Part::Configs => streams::missing(ground, part, diagnosis),
            true => {}
            false => {
                let stream = part.stream_name(ground.name);
                let reason = why(&error, &format!("STREAM.INFO.{stream}"));
                diagnosis.skip(
                    [
                        FindingKind::StreamMissing,
                        FindingKind::StreamDrift,
                        FindingKind::TooFewReplicas,
                    ],
                    format!("the stream {stream} cannot be looked at: {reason}"),
                );
            }
        }
    }
    Ok(seen)
}

/// Looks at one stream, and at its consumers; or tells why these cannot be listed.
async fn look_at(
    api: &JetStream,
    clock: Clock,
    lattice: &LatticeName,
    part: Part,
    with_consumers: bool,
) -> Result<(Seen, Option<String>), ApiError> {
    let name = part.stream_name(lattice);
    let millis = || i64::try_from(clock.now().as_millis()).unwrap_or(i64::MAX);
    let before = millis();
    let info = api.stream_info(&name).await?;
    let after = millis();
    let clocks = info.unix_millis().map(|server| Clocks {
        before,
        server,
        after,
    });
    let listed = match with_consumers {
        true => api.consumers(&name).await,
        false => Ok(Vec::new()),
    };
    let (consumers, reason) = match listed {
        Ok(consumers) => (consumers, None),
        Err(error) => (Vec::new(), Some(why(&error, &format!("CONSUMER.LIST.{name}")))),
    };
    let seen = Seen {
        part,
        name,
        info,
        clocks,
        consumers,
    };
    Ok((seen, reason))
}

/// Looks again at the consumers of streams of which some had messages before them.
async fn judge_lag(ground: &Ground<'_>, api: &JetStream, seen: &[Seen], diagnosis: &mut Diagnosis) {
    let is_due = |consumer: &Consumer| consumer.pending > 0 || consumer.redelivered > 0;
    let due = seen.iter().filter(|seen| seen.consumers.iter().any(is_due));
    let due = due.collect::<Vec<_>>();
    if due.is_empty() {
        return;
    }
    sleep(LAG_WINDOW).await;
    for seen in due {
        match api.consumers(&seen.name).await {
            Ok(later) => following::lagging(ground, seen, &later, diagnosis),
            Err(error) => diagnosis.skip(
                [FindingKind::ConsumerLagging],
                why(&error, &format!("CONSUMER.LIST.{}", seen.name)),
            ),
        }
    }
}

/// Whether the hosts that answered follow the lattice, and could.
async fn judge_hosts(ground: &Ground<'_>, api: &JetStream, seen: &[Seen], diagnosis: &mut Diagnosis) {
    let has_been_skipped = |diagnosis: &Diagnosis| {
        let mut kinds = diagnosis.skipped.iter().flat_map(|skipped| &skipped.kinds);
        kinds.any(|kind| *kind == FindingKind::HostDeaf)
    };
    let main = ground.layout.map(Layout::main);
    let main = main.and_then(|main| seen.iter().find(|seen| seen.part == main));
    match (ground.layout, main) {
        _ if has_been_skipped(diagnosis) => {}
        (Some(layout), Some(main)) => {
            let hosts = ground.hosts().filter(|host| host.is_of(layout));
            following::deaf(ground, main, &hosts.collect::<Vec<_>>(), diagnosis);
        }
        (_, _) => diagnosis.skip(
            [FindingKind::HostDeaf],
            "the layout of the lattice cannot be told",
        ),
    }
    if let Some(stream) = seen.iter().find(|seen| seen.part == Part::CacheStream) {
        match api.is_strict(&stream.name).await {
            Ok(false) => {}
            Ok(true) => following::strict(ground, &stream.name, diagnosis),
            Err(error) => diagnosis.skip(
                [FindingKind::StrictServer],
                why(&error, &format!("STREAM.INFO.{}", stream.name)),
            ),
        }
    }
}

/// Why something could not be asked, in words.
fn why(error: &ApiError, subject: &str) -> String {
    match error {
        ApiError::Request(RequestFailed::Forbidden) => {
            format!("NATS refuses the gateway's user on `{subject}`; grant it the permission")
        }
        ApiError::Request(RequestFailed::NotConnected) => "the gateway is not connected".to_owned(),
        ApiError::Request(RequestFailed::NoResponders) => "nobody answers".to_owned(),
        ApiError::Request(RequestFailed::TooLarge | RequestFailed::Unknown) => "no answer came".to_owned(),
        ApiError::DomainAway | ApiError::Refused { .. } | ApiError::Unreadable(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{domain::claims_token::TrustedIssuers, store::layout::ClaimsForm};

    pub(super) fn host(version: &str, domain: Option<&str>) -> Host {
        Host {
            id: format!("N{version}"),
            version: version.to_owned(),
            domain: domain.map(str::to_owned),
        }
    }

    /// A stream of the lattice `blue` as hosts create it, with some members changed.
    pub(super) fn seen(part: Part, changes: &Value) -> Seen {
        let name = LatticeName::parse("blue").unwrap();
        let mut config = part.stream_config(&name, part.default_storage());
        for (field, value) in changes.as_object().unwrap() {
            config[field] = value.clone();
        }
        let info = json!({"config": config, "created": "now", "state": {"last_seq": 0}});
        Seen {
            part,
            name: part.stream_name(&name),
            info: serde_json::from_value(info).unwrap(),
            clocks: None,
            consumers: Vec::new(),
        }
    }

    pub(super) fn on_ground(layout: Option<Layout>, hosts: Vec<Host>, check: impl FnOnce(&Ground<'_>)) {
        let name = LatticeName::parse("blue").unwrap();
        check(&Ground {
            name: &name,
            layout,
            settings: Arc::new(LatticeSettings {
                trusted_issuers: TrustedIssuers::Any,
                layout: None,
                sweep: true,
                effects: true,
                settle: Duration::ZERO,
                claims_form: ClaimsForm::Short,
                upstream: None,
            }),
            commands: Commands {
                lattice: &name,
                domain: None,
            },
            replicas_wanted: None,
            server_version: "2.15.1".to_owned(),
            answered: Some(hosts),
        });
    }
}
