//! What wraps every call: who calls, until when, one span, one count, and bounds on how many there are.
//!
//! The one place before every service where a request gets its caller. Only health is answered without.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span};

use super::{Call, status};
use crate::{
    audit::{Audit, Trail},
    auth::{
        Access, Caller,
        authenticate::{Authenticated, Authenticator, Credential, Unauthenticated},
        limits::InFlight,
        peer::Peer,
    },
    control::{Clock, ControlError, Deadline},
    jitter,
    telemetry::Metrics,
};

const HEALTH_PREFIX: &str = "/grpc.health.";
/// For how long the refusal of a caller that asks too much is held back, at most, and half of it at least.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// What the layer decides by.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who calls.
    pub authenticator: Arc<Authenticator>,
    /// The wall clock, by which credentials end.
    pub clock: Clock,
    /// How many calls may be in flight.
    pub in_flight: Arc<Semaphore>,
    /// How many watches may be open.
    pub watches: Arc<Semaphore>,
    /// The deadline of a call that sends none.
    pub default_deadline: Duration,
    /// The longest deadline; a longer one is cut.
    pub deadline_max: Duration,
    /// Cancelled once the server drains: calls that still come are refused.
    pub draining: CancellationToken,
    /// Where attempts to change something are recorded.
    pub audit: Option<Arc<Audit>>,
    /// The counts.
    pub metrics: Metrics,
}

/// Wraps one call.
pub async fn call(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known_method(request.uri().path());
    let is_health = request.uri().path().starts_with(HEALTH_PREFIX);
    let mut call = admission.call_of(request.headers());
    let peer = request.extensions().get::<Arc<Peer>>().cloned();
    let response = if is_health {
        next.run(request).await
    } else {
        let admitted = admission.admit(method, &mut call, request.headers(), peer.as_deref());
        match admitted.await {
            Ok(_places) => {
                request.extensions_mut().insert(call.clone());
                admission.handle(method, &call, next.run(request)).await
            }
            Err(error) => {
                admission.slow_down(&error, &call).await;
                status::of(error, &call).into_http()
            }
        }
    };
    let response = with_reason(response, &call);
    let (code, time) = (code_of(&response), began.elapsed());
    debug!(
        rpc = method,
        call_id = call.id,
        caller = call.caller().as_str(),
        code,
        duration_us = time.as_micros(),
        "answered"
    );
    admission.metrics.answered(method, code, time);
    response
}

/// An answer has its code in the trailers, where it is OK; an error has it in the headers.
fn code_of(response: &Response) -> &str {
    let code = response.headers().get("grpc-status");
    code.and_then(|code| code.to_str().ok()).unwrap_or("0")
}

/// Our errors have details. One without is tonic's own.
fn with_reason(response: Response, call: &Call) -> Response {
    let headers = response.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let message = headers
        .get("grpc-message")
        .and_then(|message| message.to_str().ok());
    match status::of_transport(
        code_of(&response),
        &message.unwrap_or_default().replace("%20", " "),
        call,
    ) {
        Some(status) => status.into_http(),
        None => response,
    }
}

impl Admission {
    /// Begins to record an attempt to change something, where that is configured and can be done.
    fn begin(&self, method: &'static str, call: &mut Call, peer: Option<&Peer>) -> Result<(), ControlError> {
        let Some(audit) = self.audit.as_ref().filter(|_| is_change(method)) else {
            return Ok(());
        };
        if !audit.permits() {
            return Err(ControlError::unavailable("the audit log cannot be written"));
        }
        call.trail = Trail::begin(audit, method, &call.id, self.clock.now());
        call.trail
            .note(|record| record.address = peer.map(|peer| peer.address));
        Ok(())
    }

    /// Finds out who calls, and takes a place for the call; given back when what this gives is dropped.
    async fn admit(
        &self,
        method: &'static str,
        call: &mut Call,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<(SemaphorePermit<'_>, InFlight), ControlError> {
        self.begin(method, call, peer)?;
        if self.draining.is_cancelled() {
            return Err(ControlError::ShuttingDown);
        }
        let place = self
            .in_flight
            .try_acquire()
            .map_err(|_full| ControlError::Overloaded)?;
        let now = self.clock.unix_seconds();
        let authenticated = self.authenticator.authenticate(headers, peer, now);
        call.authenticated = authenticated.await.map_err(|unauthenticated| {
            let address = peer.map(|peer| peer.address);
            debug!(call_id = call.id, ?address, ?unauthenticated, "no caller");
            self.refused(unauthenticated)
        })?;
        let Authenticated { access, credential } = &call.authenticated;
        call.trail.note(|record| {
            record.caller = Some(access.caller().as_str().to_owned());
            record.credential = Some(credential.shown());
        });
        let own_place = access.load().admit();
        Ok((place, own_place.map_err(ControlError::of_load)?))
    }

    fn refused(&self, unauthenticated: Unauthenticated) -> ControlError {
        self.metrics.unauthenticated(unauthenticated);
        match unauthenticated {
            Unauthenticated::Missing => ControlError::CredentialsMissing,
            Unauthenticated::Invalid(_) => ControlError::CredentialsInvalid,
            Unauthenticated::Unavailable => {
                ControlError::unavailable("the keys of the token's issuer cannot be had")
            }
        }
    }

    /// Who makes a call that stays open, as of now; refused where its credentials have ended, or are no caller's any more.
    pub(super) fn still(&self, call: &Call) -> Result<Arc<Access>, ControlError> {
        let credential = call.authenticated.credential.clone();
        let now = self.clock.unix_seconds();
        match self.authenticator.by_credential(credential, now) {
            Ok(authenticated) => Ok(authenticated.access),
            Err(unauthenticated) => {
                debug!(call_id = call.id, ?unauthenticated, "no longer a caller");
                Err(self.refused(unauthenticated))
            }
        }
    }

    /// Holds a refusal back from a caller that asks too much. A client that asks again at once is slowed down by it; its
    /// streams are bounded, so that it cannot take the processors from the other callers by being refused. Not all for
    /// equally long, or those that were refused together would come back together.
    async fn slow_down(&self, error: &ControlError, call: &Call) {
        let asks_too_much = matches!(
            error,
            ControlError::RateLimited { .. } | ControlError::CallerOverloaded { .. }
        );
        if asks_too_much {
            let pause = REFUSAL_PAUSE.mul_f64(jitter::factor());
            let until = call.deadline.at().min(Instant::now() + pause);
            self.draining.run_until_cancelled(sleep_until(until)).await;
        }
    }

    /// Handles a call that was admitted.
    async fn handle(
        &self,
        method: &'static str,
        call: &Call,
        handled: impl Future<Output = Response>,
    ) -> Response {
        let span = info_span!(
            "rpc",
            rpc = method,
            call_id = call.id,
            caller = call.caller().as_str()
        );
        self.metrics.started();
        let handled = AssertUnwindSafe(handled).catch_unwind();
        // Operations end by themselves in time; a request whose message does not arrive is ended here.
        let latest = call.deadline.at() + margin(self.deadline_max);
        let response = match tokio::time::timeout_at(latest, handled.instrument(span)).await {
            Ok(Ok(response)) => response,
            Ok(Err(_panic)) => status::panicked(call).into_http(),
            Err(_late) => status::of(ControlError::ReadTimedOut, call).into_http(),
        };
        self.metrics.ended();
        response
    }

    fn call_of(&self, headers: &HeaderMap) -> Call {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let asked = text("grpc-timeout").and_then(parse_timeout);
        let time = asked.unwrap_or(self.default_deadline).min(self.deadline_max);
        Call {
            id: uuid::Uuid::now_v7().to_string(),
            authenticated: nobody(),
            trail: Trail::default(),
            arrived: Instant::now(),
            deadline: Deadline::within(time.saturating_sub(margin(time))),
            previous_attempts: text("grpc-previous-rpc-attempts")
                .and_then(|attempts| attempts.parse().ok())
                .unwrap_or(0),
        }
    }
}

impl Call {
    /// The call that the layer made of a request.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_else(Self::unknown)
    }

    /// A call of which nothing is known yet.
    pub(super) fn unknown() -> Self {
        Self {
            id: String::new(),
            authenticated: nobody(),
            trail: Trail::default(),
            arrived: Instant::now(),
            deadline: Deadline::within(Duration::ZERO),
            previous_attempts: 0,
        }
    }
}

/// Who calls, before that is known: may do nothing.
fn nobody() -> Authenticated {
    static NOBODY: LazyLock<Arc<Access>> =
        LazyLock::new(|| Arc::new(Access::to_nothing(Caller::anonymous())));
    Authenticated {
        access: Arc::clone(&NOBODY),
        credential: Credential::None,
    }
}

/// So much earlier than the client gives up is it answered, so that it hears the reason.
fn margin(time: Duration) -> Duration {
    (time / 10).clamp(Duration::from_millis(8), Duration::from_millis(100))
}

/// Parses gRPC's `1S`, `100m` and so on: at most 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(number)),
        "M" => Some(Duration::from_mins(number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The method as metrics and logs name it; one text for all that are not ours, since callers choose paths.
fn known_method(path: &str) -> &'static str {
    const METHODS: [&str; 25] = [
        "/lattice.control.v1.ClaimsService/PutClaims",
        "/lattice.control.v1.ClaimsService/GetClaims",
        "/lattice.control.v1.ClaimsService/ListClaims",
        "/lattice.control.v1.ClaimsService/DeleteClaims",
        "/lattice.control.v1.LinkDefinitionService/PutLinkDefinition",
        "/lattice.control.v1.LinkDefinitionService/GetLinkDefinition",
        "/lattice.control.v1.LinkDefinitionService/ListLinkDefinitions",
        "/lattice.control.v1.LinkDefinitionService/DeleteLinkDefinition",
        "/lattice.control.v1.OciReferenceService/SetOciReference",
        "/lattice.control.v1.OciReferenceService/GetOciReference",
        "/lattice.control.v1.OciReferenceService/ListOciReferences",
        "/lattice.control.v1.OciReferenceService/DeleteOciReference",
        "/lattice.control.v1.InterfaceLinkService/PutInterfaceLink",
        "/lattice.control.v1.InterfaceLinkService/GetInterfaceLink",
        "/lattice.control.v1.InterfaceLinkService/ListInterfaceLinks",
        "/lattice.control.v1.InterfaceLinkService/DeleteInterfaceLink",
        "/lattice.control.v1.ConfigService/PutConfig",
        "/lattice.control.v1.ConfigService/GetConfig",
        "/lattice.control.v1.ConfigService/ListConfigs",
        "/lattice.control.v1.ConfigService/DeleteConfig",
        "/lattice.control.v1.WatchService/Watch",
        "/lattice.control.v1.LatticeService/ListLattices",
        "/lattice.control.v1.LatticeService/GetLattice",
        "/lattice.control.v1.LatticeService/ProvisionLattice",
        "/lattice.control.v1.LatticeService/GetServerInfo",
    ];
    let known = METHODS.into_iter().find(|method| *method == path);
    known
        .and_then(|path| path.rsplit_once('/'))
        .map_or("other", |(_, method)| method)
}

/// Whether the method, as [`known_method`] names it, changes something.
fn is_change(method: &str) -> bool {
    ["Put", "Set", "Delete", "Provision"]
        .into_iter()
        .any(|verb| method.starts_with(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for hostile in ["", "S", "-1S", "1", "1é", "123456789S", "1.5S"] {
            assert_eq!(parse_timeout(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn a_client_hears_the_reason_before_it_gives_up() {
        assert_eq!(margin(Duration::from_secs(10)), Duration::from_millis(100));
        assert_eq!(margin(Duration::from_millis(10)), Duration::from_millis(8));
    }
}
