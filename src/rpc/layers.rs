//! What wraps every call: who calls, until when, one span, one count, and bounds on how many there are.
//!
//! The one place before every service where a request gets its caller. Only health is answered without.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{Instrument, Span, debug};

use super::{Call, answers::Answers, server::Connection, status};
use crate::{
    audit::{Audit, Trail},
    auth::{
        Access, Caller,
        authenticate::{Authenticated, Authenticator, Credential, Unauthenticated},
        limits::{self, Load},
    },
    control::{Clock, ControlError, Deadline, gate::Patience},
    jitter,
    telemetry::{Metrics, UnderWay, traces},
};

/// Where gRPC tells how a call ended.
pub(super) const CODE: &str = "grpc-status";
const HEALTH_PREFIX: &str = "/grpc.health.";
/// For how long the refusal of a caller that asks too much is held back, at most, and half of it at least.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// A longer timeout of a stream is cut: clocks cannot count all that gRPC can write.
const STREAM_TIMEOUT_MAX: Duration = Duration::from_hours(24 * 365);
/// For how long a stream waits for its place where others have all of them.
const STREAM_PATIENCE: Duration = Duration::from_millis(500);

/// What the layer decides by.
#[derive(Debug)]
pub struct Admission {
    /// Who calls.
    pub authenticator: Arc<Authenticator>,
    /// The wall clock, by which credentials end.
    pub clock: Clock,
    /// How many calls may be in flight.
    pub in_flight: Arc<Semaphore>,
    /// How many watches may be open.
    pub watches: Arc<Semaphore>,
    /// How many of these places streams and their operations may have. They wait for one where other calls are refused, and
    /// would leave those none.
    pub of_streams: Arc<Semaphore>,
    /// How many of these places calls and operations may have that change something: reads have the others, whatever keeps
    /// writers waiting.
    pub of_changes: Arc<Semaphore>,
    /// Where large answers are until they are read.
    pub answers: Answers,
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

/// Half of all places, for [`Admission::of_streams`].
pub fn places_of_streams(in_flight_max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((in_flight_max / 2).max(1)))
}

/// Three quarters of all places, for [`Admission::of_changes`].
pub fn places_of_changes(in_flight_max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((in_flight_max - in_flight_max / 4).max(1)))
}

/// Wraps one call.
pub async fn call(State(admission): State<Arc<Admission>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = known_path(request.uri().path());
    let method = method_of(path);
    let is_health = request.uri().path().starts_with(HEALTH_PREFIX);
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let mut call = admission.call_of(request.headers(), connection);
    let mut place = None;
    let response = if is_health {
        next.run(request).await
    } else {
        match admission.admit(method, &mut call, request.headers()).await {
            Ok(admitted) => {
                place = Some((admitted, admission.metrics.under_way()));
                request.extensions_mut().insert(call.clone());
                let (id, caller) = (&*call.id, call.caller().as_str());
                let span = traces::call(path, id, caller, request.headers());
                let response = admission.handle(span, &call, next.run(request)).await;
                admission.hand_over(method, &call, response).await
            }
            Err(error) => {
                admission.slow_down(&error, &call).await;
                status::of(error, &call).into_http()
            }
        }
    };
    let response = with_reason(response, &call);
    if !goes_on(method) || response.headers().contains_key(CODE) {
        admission.answered(method, &call, code_of(response.headers()), began);
        return response;
    }
    let mut goes_on = Some(GoesOn {
        admission,
        method,
        call,
        began,
        _place: place,
    });
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(trailers) = frame.trailers_ref()
                && let Some(goes_on) = goes_on.take()
            {
                goes_on.ended(code_of(trailers));
            }
            frame
        }))
    })
}

/// A call whose answer goes on: it has its place until all of it was handed over, or nobody wants the rest.
struct GoesOn {
    admission: Arc<Admission>,
    method: &'static str,
    call: Call,
    began: Instant,
    _place: Option<(Place, UnderWay)>,
}

impl GoesOn {
    fn ended(self, code: Code) {
        let Self {
            admission,
            method,
            call,
            began,
            ..
        } = &self;
        admission.answered(method, call, code, *began);
    }
}

/// The place of a call among those in flight, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place(
    #[expect(dead_code, reason = "of all calls; held until it is dropped")] OwnedSemaphorePermit,
    #[expect(dead_code, reason = "of streams; held until it is dropped")] Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "of changes; held until it is dropped")] Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "of the caller; held until it is dropped")] limits::UnderWay,
);

/// An answer has its code in the trailers, where it is OK; an error has it in the headers.
fn code_of(headers: &HeaderMap) -> Code {
    let code = headers.get(CODE);
    code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
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
        code_of(headers),
        &message.unwrap_or_default().replace("%20", " "),
        call,
    ) {
        Some(status) => status.into_http(),
        None => response,
    }
}

impl Admission {
    /// Begins to record an attempt to change something, where that is configured and can be done.
    pub(super) fn begin(&self, method: &'static str, call: &mut Call) -> Result<(), ControlError> {
        let Some(audit) = self.audit.as_ref().filter(|_| is_change(method)) else {
            return Ok(());
        };
        if !audit.permits() {
            return Err(ControlError::unavailable("the audit log cannot be written"));
        }
        call.trail = Trail::begin(audit, method, &call.id, self.clock.now());
        call.trail
            .note(|record| record.address = call.connection.as_ref().map(|by| by.peer.address));
        Ok(())
    }

    /// Notes who calls.
    pub(super) fn identify(call: &Call) {
        let Authenticated { access, credential } = &call.authenticated;
        call.trail.note(|record| {
            record.caller = Some(access.caller().as_str().to_owned());
            record.credential = Some(credential.shown());
        });
    }

    /// Finds out who calls, and takes a place for the call; given back when what this gives is dropped.
    async fn admit(
        &self,
        method: &'static str,
        call: &mut Call,
        headers: &HeaderMap,
    ) -> Result<Place, ControlError> {
        self.begin(method, call)?;
        if self.draining.is_cancelled() {
            return Err(ControlError::ShuttingDown);
        }
        if is_list(method) && !self.answers.has_room() {
            return Err(ControlError::Overloaded);
        }
        let one_of = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned();
        let of_changes = is_change(method).then(|| one_of(&self.of_changes)).transpose();
        let of_changes = of_changes.map_err(|_full| ControlError::Overloaded)?;
        let of_all = one_of(&self.in_flight).map_err(|_full| ControlError::Overloaded)?;
        let peer = call.connection.as_ref().map(|by| &by.peer);
        let now = self.clock.unix_seconds();
        let authenticated = self.authenticator.authenticate(headers, peer, now);
        call.authenticated = authenticated.await.map_err(|unauthenticated| {
            let address = peer.map(|peer| peer.address);
            debug!(call_id = &*call.id, ?address, ?unauthenticated, "no caller");
            self.refused(unauthenticated)
        })?;
        Self::identify(call);
        let of_caller = call.authenticated.access.load().admit();
        let of_caller = of_caller.map_err(ControlError::of_load)?;
        let of_streams = if goes_on(method) {
            let place = Arc::clone(&self.of_streams).acquire_owned();
            let place = timeout(STREAM_PATIENCE, place).await.ok().and_then(Result::ok);
            Some(place.ok_or(ControlError::Overloaded)?)
        } else {
            None
        };
        Ok(Place(of_all, of_streams, of_changes, of_caller))
    }

    /// Waits for a place for one operation of a call, beside the call's own. The caller's comes first, so that who has used
    /// up its own holds none of everybody's meanwhile. `None` never comes: the places are never closed.
    pub(super) async fn another_place(&self, load: &Load) -> Option<Place> {
        let of_caller = load.place().await;
        let of_streams = Arc::clone(&self.of_streams).acquire_owned().await.ok();
        let of_changes = Arc::clone(&self.of_changes).acquire_owned().await.ok();
        let of_all = Arc::clone(&self.in_flight).acquire_owned().await.ok()?;
        Some(Place(of_all, of_streams, of_changes, of_caller))
    }

    /// The deadline of one operation of a call that goes on.
    pub(super) fn deadline_of_operation(&self, until: Option<Deadline>) -> Deadline {
        let own = Deadline::within(self.default_deadline);
        until.map_or(own, |until| own.min(until))
    }

    /// Cancelled once what goes on must end.
    pub(super) fn leaving<'a>(&'a self, call: &'a Call) -> &'a CancellationToken {
        call.connection.as_ref().map_or(&self.draining, |by| &by.leaving)
    }

    /// Logs and counts an answer.
    pub(super) fn answered(&self, method: &'static str, call: &Call, code: Code, began: Instant) {
        let code = status::name(code);
        let time = began.elapsed();
        debug!(
            rpc = method,
            call_id = &*call.id,
            caller = call.caller().as_str(),
            code,
            duration_us = time.as_micros(),
            "answered"
        );
        self.metrics.answered(method, code, time);
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
                debug!(call_id = &*call.id, ?unauthenticated, "no longer a caller");
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
    async fn handle(&self, span: Span, call: &Call, handled: impl Future<Output = Response>) -> Response {
        let handled = AssertUnwindSafe(handled).catch_unwind();
        // Operations end by themselves in time; a request whose message does not arrive is ended here.
        let latest = call.deadline.at() + margin(self.deadline_max);
        let handled = tokio::time::timeout_at(latest, handled.instrument(span.clone()));
        let response = match handled.await {
            Ok(Ok(response)) => response,
            Ok(Err(_panic)) => status::panicked(call).into_http(),
            Err(_late) => status::of(ControlError::ReadTimedOut, call).into_http(),
        };
        traces::answered(&span, status::name(code_of(response.headers())));
        response
    }

    /// Lets an answer be read, where there is room for it.
    async fn hand_over(&self, method: &'static str, call: &Call, response: Response) -> Response {
        if !is_read(method) || response.headers().contains_key(CODE) {
            return response;
        }
        let kept = self.answers.keep(response, call.deadline.at()).await;
        kept.unwrap_or_else(|error| status::of(error, call).into_http())
    }

    fn call_of(&self, headers: &HeaderMap, connection: Option<Arc<Connection>>) -> Call {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let asked = text("grpc-timeout").and_then(parse_timeout);
        let time = asked.unwrap_or(self.default_deadline).min(self.deadline_max);
        Call {
            id: call_id(self.clock.now()).to_string().into(),
            authenticated: nobody(),
            connection,
            trail: Trail::default(),
            arrived: Instant::now(),
            deadline: answered_within(time),
            until: asked.map(|time| answered_within(time.min(STREAM_TIMEOUT_MAX))),
            patience: Patience::Short,
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
            id: Arc::from(""),
            authenticated: nobody(),
            connection: None,
            trail: Trail::default(),
            arrived: Instant::now(),
            deadline: Deadline::within(Duration::ZERO),
            until: None,
            patience: Patience::Short,
            previous_attempts: 0,
        }
    }
}

/// Names a call by its time, a count, and what is random of the process: random bits of its own would take a system call.
fn call_id(now: Duration) -> uuid::Uuid {
    static PROCESS: LazyLock<uuid::Uuid> = LazyLock::new(uuid::Uuid::now_v7);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    const OF_PROCESS: usize = 6;
    let count = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let of_process = PROCESS.as_bytes().iter().rev().take(OF_PROCESS);
    let mut random = [0; 10];
    for (place, byte) in random.iter_mut().zip(of_process.chain(&count)) {
        *place = *byte;
    }
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
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

fn answered_within(time: Duration) -> Deadline {
    Deadline::within(time.saturating_sub(margin(time)))
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
fn method_of(path: Option<&'static str>) -> &'static str {
    let method = path.and_then(|path| path.rsplit_once('/'));
    method.map_or("other", |(_, method)| method)
}

/// The path of a method that is ours.
fn known_path(path: &str) -> Option<&'static str> {
    const METHODS: [&str; 30] = [
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
        "/lattice.control.v1.ApplyService/Apply",
        "/lattice.control.v1.ApplyService/ApplyManifest",
        "/lattice.control.v1.LatticeService/ListLattices",
        "/lattice.control.v1.LatticeService/GetLattice",
        "/lattice.control.v1.LatticeService/ProvisionLattice",
        "/lattice.control.v1.LatticeService/MigrateLattice",
        "/lattice.control.v1.LatticeService/ProvisionWadm",
        "/lattice.control.v1.LatticeService/DiagnoseLattice",
        "/lattice.control.v1.LatticeService/GetServerInfo",
    ];
    METHODS.into_iter().find(|method| *method == path)
}

/// Whether the method's answer is a stream, which goes on behind its headers.
fn goes_on(method: &str) -> bool {
    method == "Apply"
}

/// Whether the method, as [`method_of`] names it, changes something itself. `Apply` and `ApplyManifest` do not: their
/// operations do, each by the method of its own service.
fn is_change(method: &str) -> bool {
    ["Put", "Set", "Delete", "Provision", "Migrate"]
        .into_iter()
        .any(|verb| method.starts_with(verb))
}

/// Whether the method, as [`method_of`] names it, only reads, and is answered once.
fn is_read(method: &str) -> bool {
    is_list(method)
        || ["Get", "Diagnose"]
            .into_iter()
            .any(|verb| method.starts_with(verb))
}

fn is_list(method: &str) -> bool {
    method.starts_with("List")
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
    fn no_two_calls_of_a_moment_have_one_name() {
        let [one, other] = [call_id(Duration::from_secs(1)), call_id(Duration::from_secs(1))];
        assert_ne!(one, other);
        assert_eq!(one.get_version_num(), 7);
    }

    #[test]
    fn a_client_hears_the_reason_before_it_gives_up() {
        assert_eq!(margin(Duration::from_secs(10)), Duration::from_millis(100));
        assert_eq!(margin(Duration::from_millis(10)), Duration::from_millis(8));
    }
}
