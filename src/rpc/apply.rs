//! `ApplyService`: changes by the stream and by the manifest, each as if it had come by the method of its own service.
//!
//! ```text
//! read    an operation's own record and parse                        in the order in which they came
//! place   its place among the calls in flight, and the caller's rate  as before; it waits, and so do those behind it
//! run     the caller's access now, its grant, the change, its answer  in line behind those on the same entry
//! ```
//!
//! A task of its own drives a stream, so that operations go on, and let go of the entries that they hold, where the client
//! does not read. An operation is read only once there is room for its answer: a client that does not read its answers
//! stops being read, and what is kept for it is bounded.

mod lines;

use std::{
    hash::RandomState,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
use tokio::{
    select,
    sync::{
        Semaphore, SemaphorePermit,
        mpsc::{self, Permit},
    },
    time::{Instant, interval, sleep_until},
};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};
use tracing::Instrument;

use self::lines::run_in_lines;
use super::{
    Call, Gateway,
    change::{Change, Done},
    claims, config, convert, interface_link,
    layers::{Admission, Place},
    link_definition, oci_reference,
    status::{self, Failure},
};
use crate::{
    auth::Access,
    control::{ControlError, Deadline, decide::Mode, gate::Patience},
    domain::{Invalid, Violations},
    proto::{
        ApplyManifestRequest, ApplyManifestResponse, ApplyRequest, ApplyResponse,
        apply_request::Operation as Asked, apply_response::Outcome, apply_service_server::ApplyService,
    },
};

/// Operations of a manifest, at most.
pub const MANIFEST_OPERATIONS_MAX: usize = 128;
/// Operations of one stream that were read and whose answers the client has not, at most; not counted what HTTP/2 itself
/// keeps on the way.
const UNANSWERED_MAX: usize = 256;
/// Bytes in an operation's id, at most.
const ID_BYTES_MAX: usize = 128;
/// How often it is looked whether the credentials of a stream still hold, beside at every operation.
const CREDENTIALS_INTERVAL: Duration = Duration::from_secs(1);
/// For how long what was found out of a caller is taken to hold.
const ACCESS_HOLDS: Duration = Duration::from_millis(100);

type Answer = Result<ApplyResponse, Status>;

/// The answers of a stream, as they come.
#[derive(Debug)]
pub struct Answers(mpsc::Receiver<Answer>);

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.0.poll_recv(context)
    }
}

#[async_trait]
impl ApplyService for Gateway {
    type ApplyStream = Answers;

    async fn apply(&self, request: Request<Streaming<ApplyRequest>>) -> Result<Response<Answers>, Status> {
        let call = Call::of(&request);
        let (answers, answered) = mpsc::channel(UNANSWERED_MAX);
        let applying = Applying::new(self, call);
        let driven = applying.drive(request.into_inner(), answers);
        // Dropped with the answers: what was begun goes on by itself, nothing more begins.
        self.control.lattices().tasks().spawn(driven.in_current_span());
        Ok(Response::new(Answers(answered)))
    }

    async fn apply_manifest(
        &self,
        request: Request<ApplyManifestRequest>,
    ) -> Result<Response<ApplyManifestResponse>, Status> {
        let call = Call::of(&request);
        let applying = Applying::new(self, call);
        applying.manifest(request.into_inner()).await.map(Response::new)
    }
}

/// A call that applies operations.
struct Applying {
    gateway: Gateway,
    call: Call,
    /// The place of the call itself, which one operation at a time has. It is always there, so that a caller who may have
    /// one request in flight gets on.
    own_place: Semaphore,
    hasher: RandomState,
}

/// An operation that was read.
struct Operation {
    id: String,
    /// The method of its own service.
    method: &'static str,
    call: Call,
    parsed: Result<Change, Failure>,
}

/// Where an operation is in flight.
enum OperationPlace<'a> {
    OfTheCall(#[expect(dead_code, reason = "held until it is dropped")] Option<SemaphorePermit<'a>>),
    Another(#[expect(dead_code, reason = "held until it is dropped")] Option<Place>),
}

/// What a stream still brings.
struct Reading<'a> {
    requests: Streaming<ApplyRequest>,
    /// Resolves when the stream must end, though its client may send more.
    must_end: BoxFuture<'a, ControlError>,
}

impl Applying {
    fn new(gateway: &Gateway, call: Call) -> Self {
        Self {
            gateway: gateway.clone(),
            call,
            own_place: Semaphore::new(1),
            hasher: RandomState::new(),
        }
    }

    /// Applies what comes until nothing more does, or nobody wants the answers.
    async fn drive(self, requests: Streaming<ApplyRequest>, answers: mpsc::Sender<Answer>) {
        let end = OnceLock::new();
        let reading = Box::new(Reading {
            requests,
            must_end: self.must_end().boxed(),
        });
        let arriving = stream::unfold(reading, |reading| self.arrive(reading, &answers, &end));
        let applied = AssertUnwindSafe(run_in_lines(arriving, |()| {})).catch_unwind();
        select! {
            biased;
            () = answers.closed() => return,
            applied = applied => if applied.is_err() {
                end.get_or_init(|| status::panicked(&self.call));
            },
        }
        if let Some(end) = end.into_inner() {
            // Nobody may want it.
            drop(answers.send(Err(end)).await);
        }
    }

    /// Waits for the next operation of a stream, and for its place; `None` where none is taken any more.
    async fn arrive<'a>(
        &'a self,
        mut reading: Box<Reading<'a>>,
        answers: &'a mpsc::Sender<Answer>,
        end: &OnceLock<Status>,
    ) -> Option<((Option<u64>, impl Future<Output = ()>), Box<Reading<'a>>)> {
        if end.get().is_some() {
            return None;
        }
        let Reading { requests, must_end } = &mut *reading;
        let next = async {
            let room = answers.reserve().await.ok()?;
            Some((room, requests.message().await.transpose()?))
        };
        let next = select! {
            biased;
            why = &mut *must_end => Err(status::of(why, &self.call)),
            next = next => match next? {
                (room, Ok(request)) => Ok((room, request)),
                (_, Err(unreadable)) => Err(status::of_stream(unreadable, &self.call)),
            },
        };
        let (room, request) = match next {
            Ok(next) => next,
            Err(status) => {
                end.get_or_init(|| status);
                return None;
            }
        };
        let mut operation = self.read(request, None);
        let placed = select! {
            biased;
            why = &mut *must_end => {
                end.get_or_init(|| status::of(why.clone(), &self.call));
                Err(why)
            }
            place = self.place(&operation.call.authenticated.access) => Ok(place),
        };
        let place = placed.map_err(|why| operation.parsed = Err(why.into())).ok();
        let line = self.line_of(&operation);
        Some(((line, self.apply(operation, place, room)), reading))
    }

    async fn apply(&self, operation: Operation, place: Option<OperationPlace<'_>>, room: Permit<'_, Answer>) {
        let response = self.run(operation, self.call.until).await;
        drop(place);
        room.send(Ok(response));
    }

    /// Resolves when the stream must end, though its client may send more.
    async fn must_end(&self) -> ControlError {
        let admission = &self.gateway.admission;
        let late = async {
            match self.call.until {
                Some(until) => sleep_until(until.at()).await,
                None => std::future::pending().await,
            }
        };
        let shut_out = async {
            let mut looks = interval(CREDENTIALS_INTERVAL);
            loop {
                looks.tick().await;
                if let Err(error) = admission.still(&self.call) {
                    return error;
                }
            }
        };
        select! {
            () = admission.leaving(&self.call).cancelled() => ControlError::Leaving,
            () = late => ControlError::ReadTimedOut,
            error = shut_out => error,
        }
    }

    /// Applies a manifest, unless one of its operations is refused for what can be told before.
    async fn manifest(&self, request: ApplyManifestRequest) -> Result<ApplyManifestResponse, Status> {
        let actual = request.operations.len();
        if actual > MANIFEST_OPERATIONS_MAX {
            let mut violations = Violations::new();
            let invalid = Invalid::TooLong {
                limit: "manifest_operations_max",
                max: MANIFEST_OPERATIONS_MAX,
                actual,
            };
            violations.add("operations", invalid);
            return Err(Failure::Fields(violations).into_status(&self.call));
        }
        let operations = request.operations.into_iter().enumerate();
        let mut operations = operations
            .map(|(number, operation)| self.read(operation, Some(number)))
            .collect::<Vec<_>>();
        if request.validate_only {
            let changes = operations.iter_mut().flat_map(|operation| &mut operation.parsed);
            changes.for_each(|change| change.terms.mode = Mode::ValidateOnly);
        }
        if let Some(refused) = self.refused(&operations) {
            let calls = operations.iter().map(|operation| &operation.call);
            return Err(refused.into_status_of(&self.call, &calls.collect::<Vec<_>>()));
        }
        let arriving = stream::iter(operations.into_iter().enumerate());
        let arriving = arriving.then(async |(number, mut operation)| {
            let access = Arc::clone(&operation.call.authenticated.access);
            let place = self.call.deadline.bound(self.place(&access)).await;
            if place.is_none() {
                operation.parsed = Err(why_without_a_place(&access).into());
            }
            let line = self.line_of(&operation);
            let work = async move {
                let response = self.run(operation, Some(self.call.deadline)).await;
                drop(place);
                (number, response)
            };
            (line, work)
        });
        let mut results = vec![ApplyResponse::default(); actual];
        run_in_lines(arriving, |(number, response)| {
            if let Some(result) = results.get_mut(number) {
                *result = response;
            }
        })
        .await;
        Ok(ApplyManifestResponse { results })
    }

    /// Why a manifest is refused as a whole: fields come first, then tokens, then grants, as for one change.
    fn refused(&self, operations: &[Operation]) -> Option<Failure> {
        let (mut fields, mut tokens, mut denied) = (Violations::new(), Vec::new(), None);
        for (number, operation) in operations.iter().enumerate() {
            match &operation.parsed {
                Ok(change) => {
                    change.record(&operation.call);
                    let access = &operation.call.authenticated.access;
                    let judged = self.gateway.policy.judge(access, &change.lattice, change.verb());
                    denied = denied.or_else(|| judged.err());
                }
                Err(Failure::Fields(refused)) => fields.append(refused.clone()),
                Err(Failure::Control(ControlError::ClaimsInvalid(refused))) => {
                    tokens.push((format!("operations[{number}].put_claims.jwt"), *refused));
                }
                Err(other) => return Some(other.clone()),
            }
        }
        if !fields.is_empty() {
            return Some(Failure::Fields(fields));
        }
        if !tokens.is_empty() {
            return Some(Failure::Tokens(tokens));
        }
        denied.map(|denied| ControlError::Denied(denied).into())
    }

    /// Begins the record of an operation and parses it; `number` is its place in a manifest.
    fn read(&self, request: ApplyRequest, number: Option<usize>) -> Operation {
        let ApplyRequest { id, operation } = request;
        let (method, field) = operation.as_ref().map_or(("Apply", ""), named);
        let mut call = Call {
            arrived: Instant::now(),
            patience: Patience::Long,
            ..self.call.clone()
        };
        let parsed = match self.begin(method, &mut call) {
            Ok(()) => parse(&call, &id, operation, number.map(|number| (number, field))),
            Err(error) => Err(error.into()),
        };
        Operation {
            id,
            method,
            call,
            parsed,
        }
    }

    fn begin(&self, method: &'static str, call: &mut Call) -> Result<(), ControlError> {
        let admission = &self.gateway.admission;
        admission.begin(method, call)?;
        Admission::identify(call);
        call.authenticated.access = admission.still(call)?;
        Ok(())
    }

    /// Waits until the caller's rate allows one more operation, and for its place.
    async fn place(&self, access: &Access) -> OperationPlace<'_> {
        let load = access.load();
        load.counted().await;
        select! {
            biased;
            own = self.own_place.acquire() => OperationPlace::OfTheCall(own.ok()),
            another = self.gateway.admission.another_place(&load) => OperationPlace::Another(another),
        }
    }

    fn line_of(&self, operation: &Operation) -> Option<u64> {
        let change = operation.parsed.as_ref().ok()?;
        Some(change.line(&self.hasher))
    }

    /// Runs an operation whose turn it is.
    async fn run(&self, operation: Operation, until: Option<Deadline>) -> ApplyResponse {
        let Operation {
            id,
            method,
            mut call,
            parsed,
        } = operation;
        let admission = &self.gateway.admission;
        let _under_way = admission.metrics.under_way();
        call.deadline = admission.deadline_of_operation(until);
        let done = AssertUnwindSafe(self.carry_out(&mut call, parsed)).catch_unwind();
        let status = match done.await {
            Ok(Ok(done)) => {
                admission.answered(method, &call, Code::Ok, call.arrived);
                let result = convert::write_result(&done.written);
                return ApplyResponse {
                    id,
                    outcome: Some(Outcome::Result(result)),
                };
            }
            Ok(Err(failure)) => failure.into_status(&call),
            Err(_panic) => status::panicked(&call),
        };
        admission.answered(method, &call, status.code(), call.arrived);
        ApplyResponse {
            id,
            outcome: Some(Outcome::Status(status::into_message(&status))),
        }
    }

    async fn carry_out(&self, call: &mut Call, parsed: Result<Change, Failure>) -> Result<Done, Failure> {
        let change = parsed?;
        if call.arrived.elapsed() > ACCESS_HOLDS {
            call.authenticated.access = self.gateway.admission.still(call)?;
        }
        self.gateway.carry_out(call, change).await
    }
}

/// Why an operation had no place until its deadline.
fn why_without_a_place(access: &Access) -> ControlError {
    let refused = access.load().admit().err();
    refused.map_or(ControlError::Overloaded, ControlError::of_load)
}

/// Parses an operation. In a manifest, where it has a number and the name of its field, paths begin with them.
fn parse(
    call: &Call,
    id: &str,
    operation: Option<Asked>,
    in_manifest: Option<(usize, &str)>,
) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    if id.len() > ID_BYTES_MAX {
        violations.add("id", Invalid::Rule("must have at most 128 bytes"));
    }
    let parsed = operation.map(|operation| parse_asked(call, operation));
    let parsed = match parsed {
        None => {
            violations.add("operation", Invalid::Rule("is required: set one of them"));
            None
        }
        Some(Err(Failure::Fields(refused))) => {
            violations.append(match in_manifest {
                Some((_, field)) => refused.within(field),
                None => refused,
            });
            None
        }
        Some(parsed) => Some(parsed),
    };
    match parsed {
        Some(parsed) if violations.is_empty() => parsed,
        _ => Err(Failure::Fields(match in_manifest {
            Some((number, _)) => violations.within(&format!("operations[{number}]")),
            None => violations,
        })),
    }
}

fn parse_asked(call: &Call, operation: Asked) -> Result<Change, Failure> {
    match operation {
        Asked::PutClaims(request) => claims::parse_put(call, request),
        Asked::DeleteClaims(request) => claims::parse_delete(call, &request),
        Asked::PutLinkDefinition(request) => link_definition::parse_put(call, &request),
        Asked::DeleteLinkDefinition(request) => link_definition::parse_delete(call, &request),
        Asked::PutInterfaceLink(request) => interface_link::parse_put(call, &request),
        Asked::DeleteInterfaceLink(request) => interface_link::parse_delete(call, &request),
        Asked::SetOciReference(request) => oci_reference::parse_set(call, &request),
        Asked::DeleteOciReference(request) => oci_reference::parse_delete(call, &request),
        Asked::PutConfig(request) => config::parse_put(call, &request),
        Asked::DeleteConfig(request) => config::parse_delete(call, request),
    }
}

/// The method of the operation's own service, and the field that holds it.
fn named(operation: &Asked) -> (&'static str, &'static str) {
    match operation {
        Asked::PutClaims(_) => ("PutClaims", "put_claims"),
        Asked::DeleteClaims(_) => ("DeleteClaims", "delete_claims"),
        Asked::PutLinkDefinition(_) => ("PutLinkDefinition", "put_link_definition"),
        Asked::DeleteLinkDefinition(_) => ("DeleteLinkDefinition", "delete_link_definition"),
        Asked::PutInterfaceLink(_) => ("PutInterfaceLink", "put_interface_link"),
        Asked::DeleteInterfaceLink(_) => ("DeleteInterfaceLink", "delete_interface_link"),
        Asked::SetOciReference(_) => ("SetOciReference", "set_oci_reference"),
        Asked::DeleteOciReference(_) => ("DeleteOciReference", "delete_oci_reference"),
        Asked::PutConfig(_) => ("PutConfig", "put_config"),
        Asked::DeleteConfig(_) => ("DeleteConfig", "delete_config"),
    }
}
