//! When a failed call is sent again, and whether the write that it carried may stand meanwhile.
//!
//! A write is sent again under its request id, and once an attempt may have been applied every further one must
//! say how long ago the first such attempt was sent. Everything here is pure: the clock, the dice and the
//! network are the caller's. Times are counted from the start of the call.

use std::time::Duration;

use lattice_gateway::proto::ErrorReason;
use tonic::Code;

use crate::failure::Cause;

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An attempt with less time than this is not made.
const ATTEMPT_MIN: Duration = Duration::from_millis(50);
/// An attempt gets half of what is left, so that there is time to ask again; but not less than this.
const ATTEMPT_SHARE_MIN: Duration = Duration::from_secs(1);

/// What a failed attempt says about the write it carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The gateway judged the request against the entry: it is known that no attempt stands as asked.
    Settled,
    /// Refused before the entry was looked at, for a reason that stays. Says nothing about earlier attempts.
    Refused,
    /// Not applied this time, for a reason that may pass.
    NotApplied,
    /// May have been applied; asking again may tell.
    Doubtful,
    /// May have been applied, and asking again at once will not tell: the gateway itself failed.
    Fault,
}

/// Tells the class of a failure. When in doubt, it is doubtful.
pub(crate) fn class(cause: Cause) -> Class {
    match cause {
        Cause::Reason(_, reason) => class_of_reason(reason),
        Cause::Code(code) => class_of_code(code),
        Cause::NotConnected => Class::NotApplied,
        Cause::NotSecured(_) | Cause::NoToken => Class::Refused,
        Cause::NoAnswer | Cause::Interrupted => Class::Doubtful,
    }
}

fn class_of_reason(reason: ErrorReason) -> Class {
    match reason {
        ErrorReason::RequestIdReused
        | ErrorReason::EntryNotFound
        | ErrorReason::EntryExists
        | ErrorReason::EtagMismatch
        | ErrorReason::LinkConflict
        | ErrorReason::AmbiguousLink
        | ErrorReason::ConfigNotFound
        | ErrorReason::ConfigInUse
        | ErrorReason::OutcomeSuperseded => Class::Settled,
        ErrorReason::InvalidField
        | ErrorReason::LimitExceeded
        | ErrorReason::ClaimsInvalid
        | ErrorReason::PageTokenInvalid
        | ErrorReason::ResumeTokenInvalid
        | ErrorReason::LatticeNotGranted
        | ErrorReason::NotProvisioned
        | ErrorReason::StreamConfigDrift
        | ErrorReason::LayoutUnsupported
        | ErrorReason::LayoutAmbiguous
        | ErrorReason::JetstreamDisabled
        | ErrorReason::BackendForbidden
        | ErrorReason::RevisionUnavailable
        | ErrorReason::CredentialsMissing
        | ErrorReason::CredentialsInvalid
        | ErrorReason::QuotaExceeded
        | ErrorReason::BackendFull => Class::Refused,
        ErrorReason::Internal => Class::Fault,
        ErrorReason::Contention
        | ErrorReason::Overloaded
        | ErrorReason::BackendUnavailable
        | ErrorReason::ShuttingDown
        | ErrorReason::RateLimited
        | ErrorReason::WatchLagged
        | ErrorReason::ReadTimedOut => Class::NotApplied,
        ErrorReason::OutcomeUnknown | ErrorReason::Unspecified => Class::Doubtful,
    }
}

/// For statuses that do not carry a reason of the gateway: of the transport, of a proxy, of a later version.
fn class_of_code(code: Code) -> Class {
    match code {
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Internal
        | Code::Unavailable => Class::Doubtful,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Class::Refused,
    }
}

/// The attempts of one call so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    timeout: Duration,
    /// The first attempt that may have been applied.
    doubtful: Option<Doubtful>,
    in_flight_since: Option<Duration>,
    failed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Doubtful {
    sent_at: Duration,
    /// Its age when it was sent: not zero where an earlier run of the command sent it.
    age: Duration,
}

/// What an attempt has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// How long it may take.
    pub(crate) time: Duration,
    /// How long ago the first attempt was sent that may have been applied.
    pub(crate) retry_age: Option<Duration>,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Stop,
    RetryIn(Duration),
}

/// What lengthens a pause: the dice, and what the gateway asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// Any number; it shortens the pause by up to a half.
    pub(crate) dice: u64,
    pub(crate) asked_for: Option<Duration>,
}

impl Attempts {
    /// `age` is that of an earlier run of the command, which may have been applied.
    pub(crate) fn new(timeout: Duration, age: Option<Duration>) -> Self {
        let earlier = |age| Doubtful {
            sent_at: Duration::ZERO,
            age,
        };
        Self {
            timeout,
            doubtful: age.map(earlier),
            in_flight_since: None,
            failed: 0,
        }
    }

    /// Begins an attempt that is sent now.
    pub(crate) fn begin(&mut self, now: Duration) -> Attempt {
        self.in_flight_since = Some(now);
        let left = self.left(now);
        Attempt {
            time: (left / 2).max(left.min(ATTEMPT_SHARE_MIN)),
            retry_age: self.age(now),
        }
    }

    /// Notes how the attempt in flight ended, if there is one.
    pub(crate) fn failed(&mut self, class: Class) {
        self.failed = self.failed.saturating_add(1);
        let sent_at = self.in_flight_since.take();
        match class {
            Class::Settled => self.doubtful = None,
            Class::Refused | Class::NotApplied => {}
            Class::Doubtful | Class::Fault => {
                let first = |sent_at| Doubtful {
                    sent_at,
                    age: Duration::ZERO,
                };
                self.doubtful = self.doubtful.or_else(|| sent_at.map(first));
            }
        }
    }

    /// Decides whether to try again.
    pub(crate) fn next(&self, class: Class, pause: Pause, now: Duration) -> Next {
        match class {
            Class::Settled | Class::Refused | Class::Fault => return Next::Stop,
            Class::NotApplied | Class::Doubtful => {}
        }
        let left = self.left(now);
        // One's own pause does not use up the time for another attempt; one that was asked for may.
        let own = self.backoff(pause.dice).min(left / 2);
        let pause = own.max(pause.asked_for.unwrap_or_default());
        if pause.saturating_add(ATTEMPT_MIN) > left {
            return Next::Stop;
        }
        Next::RetryIn(pause)
    }

    /// How long ago the first attempt was sent that may have been applied; none while nothing is in doubt.
    pub(crate) fn age(&self, now: Duration) -> Option<Duration> {
        self.doubtful
            .map(|first| first.age.saturating_add(now.saturating_sub(first.sent_at)))
    }

    /// True where nothing failed before the last failure.
    pub(crate) fn failed_once(&self) -> bool {
        self.failed == 1
    }

    fn left(&self, now: Duration) -> Duration {
        self.timeout.saturating_sub(now)
    }

    /// Doubles with every failure, up to a maximum, less up to a half of it.
    fn backoff(&self, dice: u64) -> Duration {
        let doublings = self.failed.saturating_sub(1).min(8);
        let full = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let permille = u32::try_from(dice % 501).unwrap_or(0);
        full.saturating_sub(full * permille / 1000)
    }
}

#[cfg(test)]
mod tests;
