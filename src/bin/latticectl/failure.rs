//! Why a command failed, and how to tell: to people with a way out, to programs as JSON, to scripts as exit code.
//!
//! A status is decoded here once; everything after that chooses by [`Cause`], never by a message.

use std::{collections::BTreeMap, error::Error, io, process::ExitCode, time::Duration};

use lattice_gateway::proto::{ErrorReason, PACKAGE, rpc};
use prost::Message;
use serde_json::json;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

use crate::{
    access::TokenError,
    apply::Unfinished,
    args::{Format, GatewayUri},
    table::printable,
    tls::{TlsError, Trouble},
};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// It cannot be carried out as given; nothing was sent.
    Input(String),
    /// What is wrong with manifests, one text a problem; nothing was sent.
    Manifest(Vec<String>),
    /// It cannot be carried out as things are in the lattice; nothing was written.
    Refused(Exit, String),
    /// It would lose these, one text each; nothing was written.
    Lost(Vec<String>),
    /// Some changes of a manifest were not made.
    Unfinished(Box<Unfinished>),
    /// Only the exit code is to say it.
    Silent(Exit),
    /// The call failed.
    Call(Box<CallError>),
    /// The answer could not be written out.
    Output(io::Error),
}

/// A failed call, after its last attempt.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) failure: Failure,
    pub(crate) doubt: Doubt,
}

/// Whether a call may have had an effect all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It had none.
    None,
    /// It may have; running the command again is harmless.
    Repeat,
    /// It may have; the command can be resumed.
    Resume { request_id: String, age: Duration },
}

/// What a status said.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// The reason as it was sent; empty for none.
    pub(crate) reason: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) violations: Vec<Violation>,
    /// The pause that the gateway asked for before another attempt.
    pub(crate) retry_delay: Option<Duration>,
}

/// A field that was refused, and why.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    field: String,
    description: String,
}

/// Who says that an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The gateway, with a reason.
    Reason(Code, ErrorReason),
    /// Something else: the transport, a proxy, or a gateway of a version with other reasons.
    Code(Code),
    /// There is no connection; nothing was sent.
    NotConnected,
    /// There is no secure connection, for a reason that stays; nothing was sent.
    NotSecured(Trouble),
    /// There is no token to send, so nothing was sent.
    NoToken,
    /// Nobody, in the time given.
    NoAnswer,
    /// The user.
    Interrupted,
}

/// The exit codes, as the help text lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Refused,
    Usage,
    NotFound,
    Conflict,
    Unavailable,
    Unknown,
    Changes,
    Findings,
    Interrupted,
}

/// What hints refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) endpoint: &'a GatewayUri,
    pub(crate) lattice: &'a str,
}

impl From<CallError> for CommandError {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::Unavailable => 5,
            Exit::Unknown => 6,
            Exit::Changes => 7,
            Exit::Findings => 8,
            Exit::Interrupted => 130,
        })
    }
}

impl CommandError {
    /// Tells it in the form that was asked for.
    pub(crate) fn render(&self, format: Format, place: Place<'_>) -> String {
        match format {
            _ if matches!(self, Self::Silent(_)) => String::new(),
            Format::Table => self.text(place),
            Format::Json => format!("{:#}", self.json()),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Input(_) | Self::Manifest(_) => Exit::Usage,
            Self::Unfinished(unfinished) => unfinished.exit(),
            Self::Silent(exit) | Self::Refused(exit, _) => *exit,
            Self::Lost(_) | Self::Output(_) => Exit::Refused,
            Self::Call(error) => error.exit(),
        }
    }

    fn text(&self, place: Place<'_>) -> String {
        match self {
            Self::Call(error) => error.text(place),
            Self::Unfinished(unfinished) => unfinished.text(place),
            Self::Manifest(problems) | Self::Lost(problems) => {
                let lines = problems
                    .iter()
                    .map(|problem| format!("error: {}", printable(problem)));
                lines.collect::<Vec<_>>().join("\n")
            }
            Self::Input(_) | Self::Refused(..) | Self::Silent(_) | Self::Output(_) => {
                format!("error: {}", printable(&self.message()))
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let code = match self {
            Self::Call(error) => return error.json(),
            Self::Input(_) | Self::Manifest(_) => Code::InvalidArgument,
            Self::Refused(Exit::Unavailable, _) => Code::Unavailable,
            Self::Refused(..) | Self::Lost(_) => Code::FailedPrecondition,
            Self::Unfinished(_) | Self::Silent(_) => Code::Aborted,
            Self::Output(_) => Code::Unknown,
        };
        json!({ "code": code_name(code), "reason": "", "message": self.message(), "metadata": {},
            "violations": [] })
    }

    /// What is wrong, without a way out.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Input(message) | Self::Refused(_, message) => message.clone(),
            Self::Manifest(problems) | Self::Lost(problems) => problems.join("\n"),
            Self::Unfinished(unfinished) => unfinished.summary(),
            Self::Silent(_) => String::new(),
            Self::Output(error) => format!("cannot write the answer: {error}"),
            Self::Call(error) => error.failure.message.clone(),
        }
    }
}

impl CallError {
    pub(crate) fn exit(&self) -> Exit {
        match self.doubt {
            Doubt::None => self.failure.cause.exit(),
            Doubt::Repeat | Doubt::Resume { .. } => Exit::Unknown,
        }
    }

    fn text(&self, place: Place<'_>) -> String {
        let failure = &self.failure;
        let mut lines = vec![format!("error: {}", printable(&failure.message))];
        lines.extend(failure.violation_lines());
        lines.extend(
            failure
                .hint(place)
                .map(|hint| printable(&format!("hint: {hint}"))),
        );
        lines.extend(self.doubt.advice());
        lines.join("\n")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let failure = &self.failure;
        let violation = |it: &Violation| json!({ "field": it.field, "description": it.description });
        let violations: Vec<_> = failure.violations.iter().map(violation).collect();
        let mut json = json!({
            "code": code_name(failure.cause.code()),
            "reason": failure.reason,
            "message": failure.message,
            "metadata": failure.metadata,
            "violations": violations,
        });
        if let (Doubt::Resume { request_id, age }, Some(json)) = (&self.doubt, json.as_object_mut()) {
            let resume = json!({ "requestId": request_id, "retryAge": age_argument(*age) });
            json.insert("resume".to_owned(), resume);
        }
        json
    }
}

impl Doubt {
    /// Tells how to find out.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Repeat => Some(
                "The outcome is unknown. Run the same command again: what is there already stays as it is."
                    .to_owned(),
            ),
            Self::Resume { request_id, age } => Some(format!(
                "The outcome is unknown: the write may have been applied. To find out, and to apply it if it \
                 was not, run the same command again with\n  --request-id {request_id} --retry-age {}",
                age_argument(*age)
            )),
        }
    }
}

/// In whole seconds, rounded up: a longer age than the true one is safe, a shorter one is not.
fn age_argument(age: Duration) -> String {
    format!("{}s", age.as_secs().saturating_add(1))
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        // tonic's own clock may run out before the caller's.
        if sources(status).any(<dyn Error>::is::<TimeoutExpired>) {
            return Self::no_answer();
        }
        Self::with_details(cause(status), message(status), &status.get_error_details())
    }
}

impl From<&rpc::Status> for Failure {
    /// Of a status that is told within an answer.
    fn from(status: &rpc::Status) -> Self {
        // The same message, generated elsewhere.
        let details = tonic_types::pb::Status::decode(status.encode_to_vec().as_slice())
            .map(|status| status.get_error_details())
            .unwrap_or_default();
        let cause = Cause::Code(Code::from(status.code));
        Self::with_details(cause, status.message.clone(), &details)
    }
}

impl Failure {
    /// The gateway's reason, if there is one, says more than the cause.
    fn with_details(cause: Cause, message: String, details: &ErrorDetails) -> Self {
        let info = details.error_info().filter(|info| info.domain == PACKAGE);
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let known = ErrorReason::from_str_name(&reason).filter(|reason| *reason != ErrorReason::Unspecified);
        Self {
            cause: known.map_or(cause, |known| Cause::Reason(cause.code(), known)),
            message,
            reason,
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            violations: violations(details),
            retry_delay: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

fn cause(status: &Status) -> Cause {
    if sources(status).any(<dyn Error>::is::<TokenError>) {
        return Cause::NoToken;
    }
    if let Some(error) = sources(status).find_map(<dyn Error>::downcast_ref::<TlsError>) {
        return Cause::NotSecured(error.trouble);
    }
    // tonic makes this error only while it has no connection to send a request on.
    if sources(status).any(<dyn Error>::is::<ConnectError>) {
        return Cause::NotConnected;
    }
    Cause::Code(status.code())
}

/// What the status says and, where that is the transport's own, what lies beneath.
fn message(status: &Status) -> String {
    let said = match status.message() {
        "" => status.code().description(),
        said => said,
    };
    match sources(status).last().map(ToString::to_string) {
        Some(root) if !said.contains(&root) => format!("{said}: {root}"),
        Some(_) | None => said.to_owned(),
    }
}

fn violations(details: &ErrorDetails) -> Vec<Violation> {
    let refused = details.bad_request().map(|it| it.field_violations.as_slice());
    let violation = |it: &tonic_types::FieldViolation| Violation {
        field: it.field.clone(),
        description: it.description.clone(),
    };
    refused.unwrap_or_default().iter().map(violation).collect()
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

impl Failure {
    /// Nobody answered in the time given.
    pub(crate) fn no_answer() -> Self {
        Self::local(Cause::NoAnswer, "the gateway did not answer in time".to_owned())
    }

    /// The user broke it off.
    pub(crate) fn interrupted() -> Self {
        Self::local(Cause::Interrupted, "interrupted".to_owned())
    }

    /// The gateway ended a call that was to stay open, and did not say why.
    pub(crate) fn ended() -> Self {
        Self::local(
            Cause::Code(Code::Unavailable),
            "the gateway ended the call".to_owned(),
        )
    }

    /// An answer that this version has no name for.
    pub(crate) fn not_understood() -> Self {
        Self::local(
            Cause::Code(Code::Unknown),
            "the gateway's answer is not understood".to_owned(),
        )
    }

    fn local(cause: Cause, message: String) -> Self {
        Self {
            cause,
            message,
            reason: String::new(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_delay: None,
        }
    }

    /// A line for each field that was refused.
    pub(crate) fn violation_lines(&self) -> Vec<String> {
        let line = |it: &Violation| printable(&format!("  {}: {}", it.field, it.description));
        self.violations.iter().map(line).collect()
    }

    /// The way out, where one is known.
    pub(crate) fn hint(&self, place: Place<'_>) -> Option<String> {
        let endpoint = place.endpoint;
        match self.cause {
            Cause::Reason(_, reason) => hint(reason).and_then(|hint| self.filled(hint, place.lattice)),
            Cause::NotConnected => Some(format!("is the gateway running at {endpoint}?")),
            Cause::NotSecured(trouble) => Some(trouble_hint(trouble, endpoint)),
            Cause::Code(_) if self.reason.is_empty() => Some(match endpoint.is_secure() {
                true => format!("is it a lattice gateway that answers at {endpoint}?"),
                false => format!(
                    "is it a lattice gateway that answers at {endpoint}? if it serves TLS, give an \
                     https:// URL"
                ),
            }),
            Cause::Code(_) | Cause::NoToken | Cause::NoAnswer | Cause::Interrupted => None,
        }
    }

    /// Fills in the lattice and the error's metadata; none where the metadata lack what the hint names.
    pub(crate) fn filled(&self, hint: &str, lattice: &str) -> Option<String> {
        let mut filled = hint.replace("{lattice}", lattice);
        for (key, value) in &self.metadata {
            filled = filled.replace(&format!("{{{key}}}"), value);
        }
        (!filled.contains('{')).then_some(filled)
    }
}

/// Tells what to do where there is no secure connection.
fn trouble_hint(trouble: Trouble, endpoint: &GatewayUri) -> String {
    match trouble {
        Trouble::UnknownAuthority => "give --ca with the authority that signed it".to_owned(),
        Trouble::IsAuthority => "give the gateway a certificate that it signs, or one of its own with \
             `openssl req -x509 … -addext basicConstraints=critical,CA:FALSE`"
            .to_owned(),
        Trouble::OtherHost => "give an --endpoint with a name that it is for".to_owned(),
        Trouble::OutOfDate => "have it renewed; if it is current, set this machine's clock".to_owned(),
        Trouble::NotTls => {
            "if the gateway serves without TLS, give an http:// URL and neither --ca nor --cert".to_owned()
        }
        Trouble::CertificateRequired => "give --cert and --key".to_owned(),
        Trouble::CertificateRefused => {
            "give a --cert that is current and that an authority of the gateway's signed for clients"
                .to_owned()
        }
        Trouble::Other => format!("is it a lattice gateway that answers at {endpoint}?"),
    }
}

/// Tells what to do about an error. Names in braces are the lattice and the error's metadata.
fn hint(reason: ErrorReason) -> Option<&'static str> {
    Some(match reason {
        ErrorReason::LimitExceeded => "`latticectl info` shows the limits",
        ErrorReason::RequestIdReused => "give another --request-id, or none: then a new one is made",
        ErrorReason::PageTokenInvalid => "the lattice was made again meanwhile; run the command again",
        ErrorReason::ResumeTokenInvalid => "watch without --resume-token, or as the watch that gave it",
        ErrorReason::WatchLagged => "go on with --resume-token {resume_token}, and read faster",
        ErrorReason::LatticeNotGranted => "`latticectl lattice list` shows the lattices that you may see",
        ErrorReason::EntryExists => "leave --must-not-exist out to replace it",
        ErrorReason::EtagMismatch => "get the entry again, then decide",
        ErrorReason::Contention => "nothing was applied; run the command again",
        ErrorReason::OutcomeSuperseded => {
            "the write may have stood for a while and does not now; get the entry, then decide"
        }
        ErrorReason::NotProvisioned => "run: latticectl lattice provision {lattice}",
        ErrorReason::LayoutUnsupported => "`latticectl lattice show {lattice}` shows how the lattice is kept",
        ErrorReason::LayoutAmbiguous => "set {setting} in the gateway's configuration",
        ErrorReason::JetstreamDisabled => "enable JetStream for the gateway's NATS account",
        ErrorReason::BackendForbidden => "allow the gateway's NATS user to use {subject}",
        ErrorReason::RevisionUnavailable => {
            "the stream was made again since that revision; leave --at-least out, or give --fresh"
        }
        ErrorReason::BackendFull => "make room in the stream, or raise the limits of the NATS account",
        ErrorReason::Overloaded => "nothing was applied; run the command again, or give a longer --timeout",
        ErrorReason::BackendUnavailable => "does NATS run, and does the gateway reach it?",
        ErrorReason::ShuttingDown => "run the command again, or give the --endpoint of another gateway",
        ErrorReason::CredentialsMissing => "give --token, --token-file, or --cert and --key",
        ErrorReason::CredentialsInvalid => {
            "is the token complete, and is it (or its hash) in the gateway's configuration?"
        }
        ErrorReason::RateLimited => "nothing was applied; wait, or have the caller's limits raised",
        ErrorReason::ReadTimedOut => "give a longer --timeout, or accept an older answer",
        ErrorReason::LinkConflict => "delete {entry} first, or give another --name",
        ErrorReason::AmbiguousLink => "give a --target: {targets}",
        ErrorReason::ConfigNotFound => "run: latticectl config put, for each of {configs}",
        ErrorReason::ConfigInUse => "delete the links that name it first, or give --force",
        ErrorReason::Internal => "look for call_id {call_id} in the gateway's log",
        ErrorReason::InvalidField
        | ErrorReason::ClaimsInvalid
        | ErrorReason::EntryNotFound
        | ErrorReason::OutcomeUnknown
        | ErrorReason::QuotaExceeded
        | ErrorReason::StreamConfigDrift
        | ErrorReason::Unspecified => return None,
    })
}

impl Cause {
    /// The exit code where the call is known to have had no effect.
    fn exit(self) -> Exit {
        match self {
            Self::Reason(_, reason) => exit_of_reason(reason),
            Self::Code(code) => exit_of_code(code),
            Self::NotConnected | Self::NoAnswer => Exit::Unavailable,
            Self::NotSecured(_) => Exit::Refused,
            Self::NoToken => Exit::Usage,
            Self::Interrupted => Exit::Interrupted,
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Reason(code, _) | Self::Code(code) => code,
            Self::NotConnected => Code::Unavailable,
            Self::NotSecured(_) => Code::Unauthenticated,
            Self::NoToken => Code::InvalidArgument,
            Self::NoAnswer => Code::DeadlineExceeded,
            Self::Interrupted => Code::Cancelled,
        }
    }
}

fn exit_of_reason(reason: ErrorReason) -> Exit {
    match reason {
        ErrorReason::EntryNotFound => Exit::NotFound,
        ErrorReason::EtagMismatch
        | ErrorReason::EntryExists
        | ErrorReason::OutcomeSuperseded
        | ErrorReason::Contention
        | ErrorReason::LinkConflict
        | ErrorReason::AmbiguousLink
        | ErrorReason::ConfigNotFound
        | ErrorReason::ConfigInUse => Exit::Conflict,
        ErrorReason::Overloaded
        | ErrorReason::BackendUnavailable
        | ErrorReason::ShuttingDown
        | ErrorReason::RateLimited
        | ErrorReason::WatchLagged
        | ErrorReason::ReadTimedOut => Exit::Unavailable,
        ErrorReason::OutcomeUnknown => Exit::Unknown,
        ErrorReason::InvalidField
        | ErrorReason::LimitExceeded
        | ErrorReason::ClaimsInvalid
        | ErrorReason::RequestIdReused
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
        | ErrorReason::BackendFull
        | ErrorReason::CredentialsMissing
        | ErrorReason::CredentialsInvalid
        | ErrorReason::QuotaExceeded
        | ErrorReason::Internal
        | ErrorReason::Unspecified => Exit::Refused,
    }
}

/// For statuses without a reason that this version knows.
fn exit_of_code(code: Code) -> Exit {
    match code {
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists | Code::Aborted => Exit::Conflict,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Internal
        | Code::Unavailable => Exit::Unavailable,
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Exit::Refused,
    }
}

/// The name that gRPC gives a code: its Rust name in capitals, with underscores between words.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests;
