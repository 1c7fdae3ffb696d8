//! The safeguards that the campaign leaves out one at a time, to see that it notices each.
//!
//! In every build but the campaign's all of them hold, and what asks is compiled away. The campaign's build (the feature
//! `campaign`) leaves out what `CAMPAIGN_SAFEGUARD_OFF` names.

/// What stands between a fault and a lost, doubled or returning value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safeguard {
    /// Every publish expects the sequence that it replaces.
    Expectation,
    /// The calls on record, and how far back the record reaches.
    RingAndHorizon,
    /// A retry whose record does not reach back to its first attempt is not applied.
    RetryRule,
    /// What a mirror has seen tells nothing beyond a gap.
    GaplessWitness,
    /// Where the record does not reach, JetStream is asked for the id.
    ProbeRule,
    /// What publishes nothing is answered only from a look at the leader.
    FreshMirror,
    /// An etag names the write, besides its place.
    EtagTag,
    /// Nothing is handed to a connection that is away.
    ConnectionGate,
    /// No reason that says *not applied* while a publish is unknown.
    HonestError,
    /// One mutation is one publish.
    OnePublish,
    /// Beside hosts an edit of an interface link is acknowledged once it has stood for a while.
    Settle,
}

impl Safeguard {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 11] = [
        ("expectation", Self::Expectation),
        ("ring-and-horizon", Self::RingAndHorizon),
        ("retry-rule", Self::RetryRule),
        ("gapless-witness", Self::GaplessWitness),
        ("probe-rule", Self::ProbeRule),
        ("fresh-mirror", Self::FreshMirror),
        ("etag-tag", Self::EtagTag),
        ("connection-gate", Self::ConnectionGate),
        ("honest-error", Self::HonestError),
        ("one-publish", Self::OnePublish),
        ("settle", Self::Settle),
    ];

    /// Whether it holds.
    pub(crate) fn holds(self) -> bool {
        left_out() != Some(self)
    }
}

#[cfg(not(feature = "campaign"))]
const fn left_out() -> Option<Safeguard> {
    None
}

#[cfg(feature = "campaign")]
fn left_out() -> Option<Safeguard> {
    static LEFT_OUT: std::sync::LazyLock<Option<Safeguard>> = std::sync::LazyLock::new(|| {
        let named = crate::config::safeguard_off()?;
        tracing::warn!(safeguard = named, "left out");
        let (_, safeguard) = Safeguard::ALL.into_iter().find(|(name, _)| *name == named)?;
        Some(safeguard)
    });
    *LEFT_OUT
}
