//! What the messages of a lattice are: unusable, superseded, of another era, or not readable to all.

use super::{Diagnosis, Finding, FindingKind, Ground, Severity};
use crate::{
    control::{lattice::Lattice, sweep},
    domain::{Entry, Kind},
    store::{
        layout::{Part, kv},
        mirror::{Contents, Standing},
    },
};

/// An entry with more text is not put again by a mend: an answer holds a hundred of them.
const MEND_BYTES_MAX: usize = 4 * 1024;

/// One stream of the lattice, with what it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) lattice: &'a Lattice,
    pub(super) contents: &'a Contents,
}

impl Held<'_> {
    fn subject(&self, tokens: &str) -> String {
        format!("{}{tokens}", self.lattice.subject_prefix)
    }

    /// The command that removes one message.
    fn remove(&self, ground: &Ground<'_>, tokens: &str, sequence: u64) -> String {
        let (subject, may_delete) = (self.subject(tokens), sweep::may_delete(self.lattice));
        ground
            .commands
            .remove(&self.lattice.stream, &subject, sequence, may_delete)
    }
}

/// Messages that hosts cannot use, and links that they cannot find.
pub(super) fn malformed(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    for malformed in held.contents.malformed() {
        let is_foreign = malformed.reason == kv::FOREIGN_KEY;
        let (severity, advice) = match (is_foreign, held.lattice.part) {
            (true, _) => (
                Severity::Info,
                "Remove it, if who wrote it does not need it there.",
            ),
            (false, Part::Component) => (
                Severity::Error,
                "Read it, and write a good value in its place (`nats kv put`); hosts refuse changes of its links until then.",
            ),
            (false, Part::Configs) => (
                Severity::Error,
                "Put the config again with its values; a link that names it cannot be put until then.",
            ),
            (false, Part::CacheStream | Part::Kv) => (
                Severity::Error,
                "Read it, then remove it, and put the entry again through the gateway.",
            ),
        };
        diagnosis.add(severity, FindingKind::MalformedEntry, || {
            let subject = held.subject(&malformed.tokens);
            let stream = held.lattice.stream.as_str();
            let command = match (is_foreign, held.lattice.part) {
                (false, Part::Component) => {
                    let sequence = malformed.sequence.to_string();
                    ground.commands.nats(&["stream", "get", stream, &sequence])
                }
                (false, Part::Configs) => {
                    let put = ["config", "put", &malformed.tokens, "--value", "KEY=VALUE"];
                    ground.commands.latticectl(&put)
                }
                _ => held.remove(ground, &malformed.tokens, malformed.sequence),
            };
            Finding::new(&subject, format!("Hosts cannot use it: {}.", malformed.reason))
                .evidence("stream", &stream)
                .evidence("subject", &&subject)
                .evidence("sequence", &malformed.sequence)
                .evidence("reason", &malformed.reason)
                .remedy(advice, command)
        });
    }
    for (source, sequence) in held.contents.misfiled_links() {
        diagnosis.add(Severity::Warning, FindingKind::MisfiledLink, || {
            let subject = held.subject(&format!("{}{source}", kv::COMPONENTS));
            Finding::new(
               & &subject,
                format!("Links in the record of {source} are of another source: no host finds or deletes them by it."),
            )
            .evidence("subject",& &subject)
            .evidence("sequence", &sequence)
            .remedy(
                "Put each such link again through the gateway, and write the record without it (`nats kv put`).",
                ground
                    .commands
                    .nats(&["stream", "get", &held.lattice.stream, &sequence.to_string()]),
            )
        });
    }
}

/// Superseded copies, and those that a migration would revive.
pub(super) fn copies(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    for crowd in held.contents.crowds() {
        let Some((winner, beaten)) = crowd.copies.split_first() else {
            continue;
        };
        for copy in beaten {
            let is_revived = held.lattice.part == Part::CacheStream && winner.is_gone && !copy.is_gone;
            let (severity, kind, detail) = match is_revived {
                true => (
                    Severity::Warning,
                    FindingKind::RevivedByMigration,
                    "The entry is deleted, and an older copy stands on another subject: a host since 0.60 that migrates the \
                     lattice skips the deletion and takes over the copy.",
                ),
                false => (
                    Severity::Info,
                    FindingKind::StaleCopy,
                    "An older copy of the entry stands on another subject; hosts take the newest.",
                ),
            };
            diagnosis.add(severity, kind, || {
                Finding::new(&crowd.key, detail)
                    .evidence("subject", &held.subject(&copy.tokens))
                    .evidence("sequence", &copy.sequence)
                    .evidence("newest_subject", &held.subject(&winner.tokens))
                    .evidence("newest_sequence", &winner.sequence)
                    .remedy(
                        match held.lattice.settings.sweep && sweep::may_delete(held.lattice) {
                            true => "The gateway removes it by itself, within 10 minutes; or remove it now.",
                            false => "Remove the older copy.",
                        },
                        held.remove(ground, &copy.tokens, copy.sequence),
                    )
            });
        }
    }
}

/// Keys of hosts of another era.
pub(super) fn of_other_eras(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    // Those of 1.x in a bucket of earlier hosts make it a bucket of 1.x.
    if held.lattice.part != Part::Component {
        return;
    }
    let keys = kv::OWN_KEYS.into_iter();
    for (tokens, sequence) in keys.flat_map(|prefix| held.contents.held_under(prefix)) {
        diagnosis.add(Severity::Info, FindingKind::OtherEraEntry, || {
            let subject = held.subject(tokens);
            Finding::new(
                &&subject,
                "The key is of hosts of another era; those of this one do not look at it.",
            )
            .evidence("subject", &&subject)
            .evidence("sequence", &sequence)
            .remedy(
                "Remove it once nothing of the earlier era is to come back.",
                held.remove(ground, tokens, sequence),
            )
        });
    }
}

/// Entries of a bucket of hosts 0.60 to 0.82 that not every reader reads as they are shown.
pub(super) fn partly_readable(ground: &Ground<'_>, held: Held<'_>, diagnosis: &mut Diagnosis) {
    if held.lattice.part != Part::Kv {
        return;
    }
    let kinds = [Kind::Claims, Kind::LinkDefinition, Kind::OciReference];
    let entries = kinds
        .into_iter()
        .flat_map(|kind| held.contents.standing(kind, None));
    for (key, standing) in entries.filter(|(_, standing)| !standing.is_plain) {
        diagnosis.add(Severity::Warning, FindingKind::PartlyReadable, || {
            let subject = held.lattice.part.home(key).map(|home| held.subject(&home));
            let mend = may_put_again(&standing).then(|| (key.clone(), standing.clone()));
            let [kind, rest @ ..] = &key.parts()[..] else {
                return Finding::new(&key, "");
            };
            let word = match *kind {
                "claims" => "claims",
                "link_definition" => "link",
                _ => "ref",
            };
            let words = match rest {
                [actor, contract, name] => vec![word, "get", actor, contract, "--name", name],
                _ => [&[word, "get"], rest].concat(),
            };
            Finding::new(
                &key,
                "Not all hosts and clients of 0.60 to 0.82 read it, or read what is shown; some clients then fail to list \
                 any.",
            )
            .evidence("subject", &subject.unwrap_or_default())
            .evidence("sequence", &standing.revision.sequence)
            .remedy(
                match mend {
                    Some(_) => "Put it again as it is shown, which writes it as all of them read it.",
                    None => "Put it again with its values, or have its host start it again, which writes it as all of them read it.",
                },
                ground.commands.latticectl(&words),
            )
            .mended_by(mend)
        });
    }
}

/// Whether an answer may hold the entry: without values, which may be secrets, and not large.
fn may_put_again(standing: &Standing) -> bool {
    let has_no_values = match &*standing.entry {
        Entry::LinkDefinition(link) => link.values.iter().next().is_none(),
        Entry::Claims(_) | Entry::OciReference(_) => true,
        Entry::InterfaceLink(_) | Entry::Config(_) | Entry::Component(_) => false,
    };
    has_no_values && standing.entry.text_bytes() <= MEND_BYTES_MAX
}
