//! Errors as gRPC shows them: one code and one reason each, everything that varies in the metadata.
//!
//! The only place that makes a `tonic::Status`. `UNAVAILABLE` promises that nothing was written; what may have been
//! written is `DEADLINE_EXCEEDED` with `OUTCOME_UNKNOWN`.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};
use tracing::{debug, error};

use super::{Call, MESSAGE_BYTES_MAX, http::Refused};
use crate::{
    control::ControlError,
    domain::{Invalid, Violations, claims_token::TokenRefused},
    proto::{self, ErrorReason, PACKAGE},
};

/// Why a call fails: its fields, or what came of its operation.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Fields were refused.
    Fields(Violations),
    /// Claims tokens were refused, each where its field is.
    Tokens(Vec<(String, TokenRefused)>),
    /// The operation has no result.
    Control(ControlError),
    /// JSON or a query is no message.
    Json(Vec<Refused>),
    /// A body in JSON is longer than a message may be.
    BodyTooLong,
}

impl From<Violations> for Failure {
    fn from(violations: Violations) -> Self {
        Self::Fields(violations)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl Failure {
    /// Logs the failure, once and here, and makes its status.
    pub fn into_status(self, call: &Call) -> Status {
        self.into_status_of(call, &[call])
    }

    /// As [`Self::into_status`], where the one failure is that of several changes.
    pub(super) fn into_status_of(self, call: &Call, changes: &[&Call]) -> Status {
        let told = match self {
            Self::Fields(violations) => of_violations(&violations),
            Self::Tokens(refused) => of_tokens(&refused),
            Self::Control(error) => of_control(error, call),
            Self::Json(refused) => of_json(&refused),
            Self::BodyTooLong => of_length(MESSAGE_BYTES_MAX + 1),
        };
        for change in changes {
            note(&told, change);
        }
        debug!(reason = told.reason.as_str_name(), code = ?told.code, "the call failed: {}", told.message);
        told.into_status()
    }
}

/// A failure outside of a handler.
pub(super) fn of(error: ControlError, call: &Call) -> Status {
    let told = of_control(error, call);
    note(&told, call);
    told.into_status()
}

/// Records why an attempt to change something failed.
fn note(told: &Told, call: &Call) {
    let reason = told.reason.as_str_name();
    call.trail.note(|record| record.outcome = Some(reason.to_owned()));
}

/// What tonic itself refuses before a handler sees the request: given the reason that it lacks. `None` leaves its answer
/// as it is.
pub(super) fn of_transport(code: Code, message: &str, call: &Call) -> Option<Status> {
    let told = if code == Code::OutOfRange {
        let actual = message
            .split_once("found ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        of_length(actual.unwrap_or(MESSAGE_BYTES_MAX + 1))
    } else if code == Code::ResourceExhausted {
        // By how much a compressed one is longer is not known: the rest was not read.
        of_length(MESSAGE_BYTES_MAX + 1)
    } else if code == Code::Internal {
        let text =
            "the request is no message of lattice.control.v1; is the client made from its proto files?";
        Told::new(Code::InvalidArgument, ErrorReason::InvalidField, text.to_owned())
    } else {
        return None;
    };
    note(&told, call);
    Some(told.into_status())
}

/// Of what is no call of the API, and so has no reason of it.
#[expect(clippy::disallowed_methods, reason = "the one place that makes statuses")]
pub(super) fn of_no_call(code: Code, message: String) -> Status {
    Status::new(code, message)
}

/// A code's name, as `google.rpc.Code` has it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A status as a message, where it is the answer to one change among others.
pub(super) fn into_message(status: &Status) -> proto::rpc::Status {
    // Its details are the whole status, encoded, where it has some.
    match proto::rpc::Status::decode(status.details()) {
        Ok(whole) if !whole.details.is_empty() => whole,
        _ => proto::rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        },
    }
}

/// What tonic tells where a stream brings no readable message.
pub(super) fn of_stream(unreadable: Status, call: &Call) -> Status {
    of_transport(unreadable.code(), unreadable.message(), call).unwrap_or(unreadable)
}

/// A failure by a bug.
pub(super) fn panicked(call: &Call) -> Status {
    let detail = "a handler panicked".to_owned();
    of(ControlError::Internal { detail }, call)
}

/// What a client is told.
struct Told {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    violations: Vec<FieldViolation>,
    precondition: Option<PreconditionViolation>,
    quota: Option<QuotaViolation>,
}

impl Told {
    fn new(code: Code, reason: ErrorReason, message: String) -> Self {
        Self {
            code,
            reason,
            message,
            metadata: HashMap::new(),
            retry_after: None,
            violations: Vec::new(),
            precondition: None,
            quota: None,
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(name.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason.as_str_name(), PACKAGE, self.metadata);
        if !self.violations.is_empty() {
            details.set_bad_request(self.violations);
        }
        if let Some(violation) = self.precondition {
            details.set_precondition_failure(vec![violation]);
        }
        if let Some(violation) = self.quota {
            details.set_quota_failure(vec![violation]);
        }
        if let Some(time) = self.retry_after {
            details.set_retry_info(Some(time));
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

/// Fields that an error names, at most.
const DESCRIBED_MAX: usize = 16;

/// Only limits exceeded: `LIMIT_EXCEEDED` with the first of them; else `INVALID_FIELD`. Each field is named, as far as
/// the headers have room, in which gRPC sends errors.
fn of_violations(violations: &Violations) -> Told {
    let described = violations
        .iter()
        .take(DESCRIBED_MAX)
        .map(|violation| FieldViolation::new(&violation.field, violation.invalid.to_string()))
        .collect::<Vec<_>>();
    let first = described
        .first()
        .map(|first| format!("{} {}", first.field, first.description))
        .unwrap_or_default();
    let message = match violations.iter().count() {
        1 => first,
        count => format!("{count} fields are refused: {first}; …"),
    };
    let limits = violations
        .iter()
        .map(|violation| match &violation.invalid {
            Invalid::TooLong { limit, max, actual } => Some((*limit, *max, *actual)),
            Invalid::Missing | Invalid::Character { .. } | Invalid::Rule(_) => None,
        })
        .collect::<Option<Vec<_>>>();
    let mut told = match limits.as_deref() {
        Some([(limit, max, actual), ..]) => limit_exceeded(limit, *max, *actual, message),
        _ => invalid(ErrorReason::InvalidField, message),
    };
    told.violations = described;
    told
}

/// Each part that is refused.
fn of_json(refused: &[Refused]) -> Told {
    let named = |refused: &Refused| match refused.field.as_str() {
        "" => "request".to_owned(),
        field => field.to_owned(),
    };
    let first = refused.first();
    let first = first.map(|first| format!("{} {}", named(first), first.why));
    let mut told = invalid(ErrorReason::InvalidField, first.unwrap_or_default());
    let described = refused.iter().take(DESCRIBED_MAX);
    told.violations = described
        .map(|refused| FieldViolation::new(named(refused), &refused.why))
        .collect();
    told
}

fn of_length(actual: usize) -> Told {
    let text = format!("the request is {actual} bytes long, at most {MESSAGE_BYTES_MAX} are taken");
    limit_exceeded("message_bytes_max", MESSAGE_BYTES_MAX, actual, text)
}

/// With the cause of the first.
fn of_tokens(refused: &[(String, TokenRefused)]) -> Told {
    let described = refused
        .iter()
        .take(DESCRIBED_MAX)
        .map(|(field, refused)| FieldViolation::new(field, refused.to_string()));
    let described = described.collect();
    let first = refused.first().map(|(_, first)| *first);
    let message = first.map(|first| ControlError::ClaimsInvalid(first).to_string());
    let cause = first.map(|first| first.cause());
    let mut told = Told::new(
        Code::InvalidArgument,
        ErrorReason::ClaimsInvalid,
        message.unwrap_or_default(),
    )
    .with("cause", cause.unwrap_or_default());
    told.violations = described;
    told
}

fn limit_exceeded(limit: &str, max: usize, actual: usize, message: String) -> Told {
    invalid(ErrorReason::LimitExceeded, message)
        .with("limit", limit)
        .with("max", max.to_string())
        .with("actual", actual.to_string())
}

fn of_control(failure: ControlError, call: &Call) -> Told {
    use ErrorReason as Reason;
    let message = failure.to_string();
    match failure {
        ControlError::Denied(denied) => Told::new(Code::PermissionDenied, Reason::LatticeNotGranted, message)
            .with("lattice", denied.lattice)
            .with("verb", denied.verb.as_str()),
        ControlError::CredentialsMissing => unauthenticated(Reason::CredentialsMissing, message),
        ControlError::CredentialsInvalid => unauthenticated(Reason::CredentialsInvalid, message),
        ControlError::RateLimited { retry_after } => {
            quota(Reason::RateLimited, "requests a second", message).retry_after(retry_after)
        }
        ControlError::CallerOverloaded { .. } => {
            quota(Reason::RateLimited, "requests in flight", message).retry_after(OVERLOAD_PAUSE)
        }
        ControlError::TooManyEntries { .. } => {
            quota(Reason::QuotaExceeded, "entries in a lattice", message).retry_after(QUOTA_PAUSE)
        }
        ControlError::RequestIdReused => invalid(Reason::RequestIdReused, message),
        ControlError::ClaimsInvalid(refused) => of_tokens(&[("jwt".to_owned(), refused)]),
        ControlError::PageTokenInvalid => invalid(Reason::PageTokenInvalid, message),
        ControlError::ResumeTokenInvalid => invalid(Reason::ResumeTokenInvalid, message),
        ControlError::WatchLagged { resume_token } => quota(Reason::WatchLagged, "changes behind", message)
            .with("resume_token", resume_token)
            .retry_after(OVERLOAD_PAUSE),
        ControlError::TooManyWatches { .. } => {
            quota(Reason::RateLimited, "watches", message).retry_after(OVERLOAD_PAUSE)
        }
        ControlError::NotFound { entry } => {
            Told::new(Code::NotFound, Reason::EntryNotFound, message).with("entry", entry)
        }
        ControlError::Exists { entry } => {
            Told::new(Code::AlreadyExists, Reason::EntryExists, message).with("entry", entry)
        }
        ControlError::EtagMismatch { entry } => {
            Told::new(Code::Aborted, Reason::EtagMismatch, message).with("entry", entry)
        }
        ControlError::Contention => Told::new(Code::Aborted, Reason::Contention, message),
        ControlError::OutcomeSuperseded => Told::new(Code::Aborted, Reason::OutcomeSuperseded, message),
        ControlError::NotProvisioned { lattice } => {
            precondition(Reason::NotProvisioned, &lattice, message).with("lattice", lattice)
        }
        ControlError::Drift(drift) => precondition(Reason::StreamConfigDrift, drift.field, message)
            .with("field", drift.field)
            .with("want", drift.want.to_string())
            .with("have", drift.have.to_string()),
        ControlError::Unprovisionable(why) => precondition(Reason::StreamConfigDrift, &why.stream, message)
            .with("field", &why.field)
            .with("want", why.want.to_string())
            .with("have", why.have.to_string()),
        ControlError::LayoutUnsupported { layout, operation } => {
            precondition(Reason::LayoutUnsupported, operation, message).with("layout", layout)
        }
        ControlError::LayoutAmbiguous { lattice, setting }
        | ControlError::LayoutConfigured { lattice, setting } => {
            precondition(Reason::LayoutAmbiguous, &lattice, message)
                .with("lattice", lattice)
                .with("setting", setting)
        }
        ControlError::LinkConflict { other } => {
            precondition(Reason::LinkConflict, &other, message).with("entry", other)
        }
        ControlError::AmbiguousLink { targets } => {
            precondition(Reason::AmbiguousLink, "target", message).with("targets", targets)
        }
        ControlError::ConfigNotFound { configs } => {
            precondition(Reason::ConfigNotFound, &configs, message).with("configs", configs)
        }
        ControlError::ConfigInUse { link } => {
            precondition(Reason::ConfigInUse, &link, message).with("link", link)
        }
        ControlError::NotKept(violations) => of_violations(&violations),
        ControlError::JetStreamDisabled => precondition(Reason::JetstreamDisabled, "jetstream", message),
        ControlError::Forbidden { subject } => {
            precondition(Reason::BackendForbidden, &subject, message).with("subject", subject)
        }
        ControlError::RevisionUnavailable => precondition(Reason::RevisionUnavailable, "revision", message),
        ControlError::BackendFull | ControlError::StreamFull { .. } => {
            Told::new(Code::ResourceExhausted, Reason::BackendFull, message)
        }
        ControlError::Overloaded | ControlError::Busy => {
            quota(Reason::Overloaded, "calls in flight", message).retry_after(OVERLOAD_PAUSE)
        }
        ControlError::BackendUnavailable { retry_after, .. } => {
            Told::new(Code::Unavailable, Reason::BackendUnavailable, message).retry_after(retry_after)
        }
        ControlError::ShuttingDown | ControlError::Leaving => {
            Told::new(Code::Unavailable, Reason::ShuttingDown, message)
                .retry_after(Duration::from_millis(100))
        }
        ControlError::ProvisionUnknown => Told::new(Code::DeadlineExceeded, Reason::OutcomeUnknown, message),
        ControlError::OutcomeUnknown { request_id } => {
            Told::new(Code::DeadlineExceeded, Reason::OutcomeUnknown, message).with("request_id", request_id)
        }
        ControlError::ReadTimedOut => Told::new(Code::DeadlineExceeded, Reason::ReadTimedOut, message),
        ControlError::BodyTooLarge { max, actual } => limit_exceeded("body_bytes_max", max, actual, message),
        ControlError::Internal { detail } => {
            error!(call_id = &*call.id, detail, "internal error");
            Told::new(Code::Internal, Reason::Internal, message).with("call_id", &*call.id)
        }
    }
}

/// When to try again where other calls have to end first.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(200);
/// When to try again where entries have to be deleted first.
const QUOTA_PAUSE: Duration = Duration::from_mins(1);

fn invalid(reason: ErrorReason, message: String) -> Told {
    Told::new(Code::InvalidArgument, reason, message)
}

fn unauthenticated(reason: ErrorReason, message: String) -> Told {
    Told::new(Code::Unauthenticated, reason, message)
}

fn quota(reason: ErrorReason, subject: &str, message: String) -> Told {
    let mut told = Told::new(Code::ResourceExhausted, reason, message.clone());
    told.quota = Some(QuotaViolation::new(subject, message));
    told
}

fn precondition(reason: ErrorReason, subject: &str, message: String) -> Told {
    let violation = PreconditionViolation::new(reason.as_str_name(), subject, &message);
    let mut told = Told::new(Code::FailedPrecondition, reason, message);
    told.precondition = Some(violation);
    told
}
