//! What a diagnosis finds.

use std::collections::BTreeMap;

use crate::{
    domain::{EntryKey, Revision},
    store::mirror::Standing,
};

/// Findings of a kind and severity that are listed, at most.
pub const LISTED_MAX: usize = 100;

/// How bad a finding is; the worst is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Hosts or the gateway work wrongly now.
    Error,
    /// They will, under an event that is to be expected.
    Warning,
    /// Worth knowing.
    Info,
}

/// What a finding is. `diagnosis.proto` says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the contract says it")]
pub enum FindingKind {
    LayoutMixed,
    StreamMissing,
    StreamDrift,
    TooFewReplicas,
    StreamElsewhere,
    MalformedEntry,
    MisfiledLink,
    StaleCopy,
    RevivedByMigration,
    OtherEraEntry,
    PartlyReadable,
    UnknownLinkEnd,
    UntrustedIssuer,
    LinkConflict,
    DoubledLink,
    ConfigMissing,
    ConfigUnused,
    LinksTooLarge,
    ConsumerAbandoned,
    ConsumerLagging,
    HostDeaf,
    StrictServer,
    ClockSkew,
}

impl FindingKind {
    /// Those that are found in the entries.
    pub(super) const OF_ENTRIES: [Self; 13] = [
        Self::MalformedEntry,
        Self::MisfiledLink,
        Self::StaleCopy,
        Self::RevivedByMigration,
        Self::OtherEraEntry,
        Self::PartlyReadable,
        Self::UnknownLinkEnd,
        Self::UntrustedIssuer,
        Self::LinkConflict,
        Self::DoubledLink,
        Self::ConfigMissing,
        Self::ConfigUnused,
        Self::LinksTooLarge,
    ];
}

/// One thing that is wrong, or worth knowing.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The entry, or the stream or other thing that it is about.
    pub about: String,
    /// What is wrong, in one sentence.
    pub detail: String,
    /// What that rests on. No value of a link or of a config.
    pub evidence: Vec<(&'static str, String)>,
    /// What to do, in one sentence.
    pub advice: String,
    /// The command that does it, or shows more; empty for none.
    pub command: String,
    /// The entry that is to be put again as it is shown, where that mends it.
    pub mend: Option<(EntryKey, Standing)>,
}

impl Finding {
    pub(super) fn new(about: &(impl ToString + ?Sized), detail: impl Into<String>) -> Self {
        Self {
            about: about.to_string(),
            detail: detail.into(),
            evidence: Vec::new(),
            advice: String::new(),
            command: String::new(),
            mend: None,
        }
    }

    #[must_use]
    pub(super) fn evidence(mut self, key: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.evidence.push((key, value.to_string()));
        self
    }

    #[must_use]
    pub(super) fn remedy(mut self, advice: impl Into<String>, command: String) -> Self {
        (self.advice, self.command) = (advice.into(), command);
        self
    }

    #[must_use]
    pub(super) fn mended_by(mut self, mend: Option<(EntryKey, Standing)>) -> Self {
        self.mend = mend;
        self
    }
}

/// The findings of a kind and severity.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<Finding>,
}

/// A check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What it would have found.
    pub kinds: Vec<FindingKind>,
    /// Why it could not be made.
    pub reason: String,
}

/// What is wrong with a lattice.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// The worst first.
    pub found: BTreeMap<(Severity, FindingKind), Found>,
    /// What may be wrong besides.
    pub skipped: Vec<Skipped>,
    /// The revision of the entries that was judged.
    pub revision: Option<Revision>,
    /// Hosts of the layout's era that answered; `None` where they could not be asked.
    pub hosts: Option<usize>,
}

impl Diagnosis {
    /// Adds a finding, which is put into words only where it is listed.
    pub(super) fn add(&mut self, severity: Severity, kind: FindingKind, finding: impl FnOnce() -> Finding) {
        let found = self.found.entry((severity, kind)).or_default();
        found.count += 1;
        if found.listed.len() < LISTED_MAX {
            found.listed.push(finding());
        }
    }

    pub(super) fn skip(&mut self, kinds: impl Into<Vec<FindingKind>>, reason: impl Into<String>) {
        self.skipped.push(Skipped {
            kinds: kinds.into(),
            reason: reason.into(),
        });
    }

    #[cfg(test)]
    pub(super) fn kinds(&self) -> Vec<(Severity, FindingKind)> {
        self.found.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_first_and_what_is_not_listed_is_counted() {
        let mut diagnosis = Diagnosis::default();
        for number in 0..=LISTED_MAX {
            diagnosis.add(Severity::Info, FindingKind::StaleCopy, || {
                Finding::new(&number, "")
            });
        }
        diagnosis.add(Severity::Warning, FindingKind::ClockSkew, || {
            Finding::new(&"", "")
        });
        diagnosis.add(Severity::Error, FindingKind::ClockSkew, || Finding::new(&"", ""));
        assert_eq!(
            diagnosis.kinds(),
            [
                (Severity::Error, FindingKind::ClockSkew),
                (Severity::Warning, FindingKind::ClockSkew),
                (Severity::Info, FindingKind::StaleCopy),
            ]
        );
        let stale = &diagnosis.found[&(Severity::Info, FindingKind::StaleCopy)];
        assert_eq!((stale.count, stale.listed.len()), (101, LISTED_MAX));
    }
}
