//! Why an operation has no result, in words that say what the caller does next.

use std::time::Duration;

use super::decide::Refusal;
use crate::{
    auth::{Denied, limits::Refused},
    domain::{EntryKey, Violations, claims_token::TokenRefused},
    store::{
        api::{ApiError, code},
        connection::RequestFailed,
        drift::Drift,
        provisioning::Unprovisionable,
    },
};

/// Why an operation has no result. One variant a reason of the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not granted, or no such lattice for the caller.
    #[error("the lattice `{}` is not granted for `{}`", .0.lattice, .0.verb)]
    Denied(Denied),
    /// No credentials.
    #[error(
        "credentials are needed: send a token as `authorization: Bearer …`, or come with a client certificate"
    )]
    CredentialsMissing,
    /// The credentials name no caller.
    #[error("the credentials are not accepted")]
    CredentialsInvalid,
    /// The caller asks too often.
    #[error("the caller asks more often than it may; nothing was done; try again later")]
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// The caller has too many requests in flight.
    #[error("the caller has {max} requests in flight, as many as it may; nothing was done; try again")]
    CallerOverloaded {
        /// How many it may have.
        max: usize,
    },
    /// The lattice has as many entries as the caller may fill it with.
    #[error(
        "the lattice has {max} entries or more, and with so many the caller adds none; nothing was written; delete some, or \
         have the caller's `entries_per_lattice` raised"
    )]
    TooManyEntries {
        /// How many it may have.
        max: u64,
    },
    /// The request id came before with other content.
    #[error("this request_id was used for another request on this entry; use a new one")]
    RequestIdReused,
    /// The claims token is refused.
    #[error("the claims token is refused: {0}")]
    ClaimsInvalid(TokenRefused),
    /// The page token is of another lattice, stream or filter.
    #[error("the page_token is not of this list; start it again without one")]
    PageTokenInvalid,
    /// The resume token is of another watch, or no token.
    #[error("the resume_token is not of a watch of this lattice, kinds and filters; watch without it")]
    ResumeTokenInvalid,
    /// The watch was too slow.
    #[error(
        "the client read too slowly: the gateway no longer remembers what it missed; watch again, with the resume_token, \
         and a snapshot comes first"
    )]
    WatchLagged {
        /// Where the watch was.
        resume_token: String,
    },
    /// The caller has too many watches open.
    #[error(
        "the caller has {max} watches open, as many as it may; end one first, or have its `watches` raised"
    )]
    TooManyWatches {
        /// How many it may have.
        max: usize,
    },
    /// The entry is absent.
    #[error("no such entry: {entry}")]
    NotFound {
        /// The entry.
        entry: String,
    },
    /// The entry exists.
    #[error("the entry exists: {entry}")]
    Exists {
        /// The entry.
        entry: String,
    },
    /// The etag is another, or the entry is absent.
    #[error("the entry is no longer as the etag says; read it again: {entry}")]
    EtagMismatch {
        /// The entry.
        entry: String,
    },
    /// Too many writers on the entry until the deadline.
    #[error("too many writers on this entry; nothing was written; try again")]
    Contention,
    /// The outcome of an earlier attempt can no longer be known.
    #[error(
        "an earlier attempt may have been applied and was then superseded; it can no longer be told; read the entry \
         before you decide"
    )]
    OutcomeSuperseded,
    /// Neither stream nor bucket.
    #[error("the lattice `{lattice}` is not provisioned: it has no stream; provision it, or start a host")]
    NotProvisioned {
        /// The lattice.
        lattice: String,
    },
    /// The stream's configuration is unsafe for writes.
    #[error(
        "writes are refused: the stream's `{}` is {} and must be {}; change the stream back, then try again", .0.field, .0.have, .0.want
    )]
    Drift(Drift),
    /// Hosts of this layout have no such operation.
    #[error("layout {layout} has no such operation: {operation}")]
    LayoutUnsupported {
        /// The layout.
        layout: &'static str,
        /// What was asked.
        operation: &'static str,
    },
    /// The layout cannot be told.
    #[error(
        "the layout of the lattice `{lattice}` cannot be told: both its stream and its bucket exist, or the bucket does not \
         tell its era; set `{setting}`"
    )]
    LayoutAmbiguous {
        /// The lattice.
        lattice: String,
        /// The setting that decides it.
        setting: String,
    },
    /// The lattice cannot be migrated while gateways are told its layout.
    #[error(
        "`{setting}` is configured, so that gateways would go on reading and writing the lattice `{lattice}` while it is \
         migrated; take the setting out of the configuration of every gateway"
    )]
    LayoutConfigured {
        /// The lattice.
        lattice: String,
        /// The setting.
        setting: String,
    },
    /// Another link holds what this one asks for.
    #[error("another link is in the way: {other}; delete it first, or use another link name")]
    LinkConflict {
        /// The other link.
        other: String,
    },
    /// Several links match.
    #[error("several links match; name one of the targets: {targets}")]
    AmbiguousLink {
        /// Their targets.
        targets: String,
    },
    /// Configs that the link names are missing, or no host can read them.
    #[error("the link names configs that are missing or unreadable: {configs}; put them first")]
    ConfigNotFound {
        /// Their names.
        configs: String,
    },
    /// A link names the config.
    #[error("the config is used by {link}; delete the links that name it first, or set `force`")]
    ConfigInUse {
        /// One of the links.
        link: String,
    },
    /// What the lattice's layout does not keep.
    #[error("the lattice's layout does not keep all of it")]
    NotKept(Violations),
    /// JetStream is off.
    #[error("JetStream is off for the gateway's NATS account; turn it on")]
    JetStreamDisabled,
    /// NATS refuses the gateway's user.
    #[error("NATS refuses the gateway's user on `{subject}`; grant it the permission")]
    Forbidden {
        /// The subject.
        subject: String,
    },
    /// The revision is of a stream that is gone.
    #[error(
        "the revision asked for is not of this lattice's stream, or of one that is gone; read without it"
    )]
    RevisionUnavailable,
    /// The stream or the account is full.
    #[error("the stream or the NATS account is full; nothing was written")]
    BackendFull,
    /// There is no room for a stream that is to be provisioned.
    #[error(
        "there is no room for the stream `{stream}` ({description}); make room, raise the limits of the NATS account, or ask for \
         fewer bytes, then try again"
    )]
    StreamFull {
        /// The stream.
        stream: String,
        /// JetStream's words.
        description: String,
    },
    /// A stream cannot be as it is asked for.
    #[error(transparent)]
    Unprovisionable(Box<Unprovisionable>),
    /// All calls that are admitted are in flight, or there is no room for an answer until others are read.
    #[error(
        "the server has all the calls in flight, or all the unread answers, that it admits; nothing was done; try again"
    )]
    Overloaded,
    /// It would have to wait for too long for its turn at the stream.
    #[error("the lattice's stream has as much to do as it takes; nothing was done; try again")]
    Busy,
    /// Known not applied.
    #[error("NATS cannot serve this now: {why}; nothing was written; try again")]
    BackendUnavailable {
        /// Why.
        why: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// Known not applied.
    #[error("the server is shutting down; nothing was written; use another")]
    ShuttingDown,
    /// Known not applied.
    #[error(
        "no more is taken over this connection; of what has no result nothing was written; go on over another"
    )]
    Leaving,
    /// Sent, no answer in time.
    #[error(
        "the write was sent and no answer came in time; call again with this request_id and with retry_age"
    )]
    OutcomeUnknown {
        /// The caller's, or the one made for it.
        request_id: String,
    },
    /// Whether the stream was created is not known. Asking again is harmless.
    #[error("the stream was asked for and no answer came in time; call again, which is harmless")]
    ProvisionUnknown,
    /// A read was not ready in time.
    #[error("the answer was not ready in time; nothing was changed; try again")]
    ReadTimedOut,
    /// The stored body would be too large.
    #[error("the entry would be stored with {actual} bytes, at most {max} are taken; make it smaller")]
    BodyTooLarge {
        /// The most that is stored, bytes.
        max: usize,
        /// What it would be, bytes.
        actual: usize,
    },
    /// A bug, or a record that cannot be read.
    #[error("internal error")]
    Internal {
        /// For the log, never for the caller.
        detail: String,
    },
}

impl ControlError {
    /// Why NATS cannot serve, with the usual advice.
    pub fn unavailable(why: &'static str) -> Self {
        Self::BackendUnavailable {
            why,
            retry_after: Duration::from_millis(500),
        }
    }

    /// Reads a failed API call about a lattice.
    pub fn of_api(error: ApiError, lattice: &str) -> Self {
        match error {
            ApiError::Request(RequestFailed::NotConnected) => {
                Self::unavailable("the gateway is not connected")
            }
            ApiError::Request(RequestFailed::Forbidden) => Self::Forbidden {
                subject: "$JS.API.>".to_owned(),
            },
            ApiError::Request(RequestFailed::Unknown) => Self::unavailable("JetStream does not answer"),
            ApiError::DomainAway => Self::unavailable(
                "no server answers for the lattice's JetStream domain: its leaf node is not connected, or the domain is named \
                 otherwise",
            ),
            ApiError::Refused {
                err_code: code::STREAM_NOT_FOUND,
                ..
            } => Self::NotProvisioned {
                lattice: lattice.to_owned(),
            },
            ApiError::Request(RequestFailed::NoResponders)
            | ApiError::Refused {
                err_code: code::NOT_ENABLED | code::NOT_ENABLED_FOR_ACCOUNT,
                ..
            } => Self::JetStreamDisabled,
            ApiError::Refused {
                err_code: 10005..=10009 | 10118,
                ..
            } => Self::unavailable("the stream has no leader"),
            ApiError::Refused {
                err_code: 10023 | 10028 | 10047,
                ..
            } => Self::BackendFull,
            error @ (ApiError::Request(RequestFailed::TooLarge)
            | ApiError::Refused { .. }
            | ApiError::Unreadable(_)) => Self::Internal {
                detail: error.to_string(),
            },
        }
    }

    /// Why a caller has too much under way.
    pub fn of_load(refused: Refused) -> Self {
        match refused {
            Refused::Rate(retry_after) => Self::RateLimited { retry_after },
            Refused::InFlight(max) => Self::CallerOverloaded { max },
            Refused::Watches(max) => Self::TooManyWatches { max },
        }
    }

    /// Puts a refusal of the write protocol into the words of the entry.
    pub fn of_refusal(refusal: &Refusal, key: &EntryKey) -> Self {
        let entry = key.to_string();
        match refusal {
            Refusal::RequestIdReused => Self::RequestIdReused,
            Refusal::Token(refused) => Self::ClaimsInvalid(*refused),
            Refusal::EtagMismatch => Self::EtagMismatch { entry },
            Refusal::NotFound => Self::NotFound { entry },
            Refusal::Exists => Self::Exists { entry },
            Refusal::Conflict(other) => Self::LinkConflict {
                other: other.to_string(),
            },
            Refusal::Ambiguous(targets) => Self::AmbiguousLink {
                targets: targets.join(", "),
            },
            Refusal::ConfigsMissing(configs) => Self::ConfigNotFound {
                configs: configs.join(", "),
            },
            Refusal::ConfigUsed(link) => Self::ConfigInUse {
                link: link.to_string(),
            },
        }
    }
}

impl From<Denied> for ControlError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
