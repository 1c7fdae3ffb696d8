//! How callers reach one gateway: by a call of its own for each attempt, with others in one manifest, or by an `Apply`
//! call that several share, and that now and then is cut.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lattice_gateway::proto::{
    ApplyManifestRequest, ApplyRequest, ApplyResponse, ErrorReason, WriteResult, apply_request::Operation,
    apply_response, apply_service_client::ApplyServiceClient, claims_service_client::ClaimsServiceClient,
    config_service_client::ConfigServiceClient, interface_link_service_client::InterfaceLinkServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
    oci_reference_service_client::OciReferenceServiceClient,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::world::Gate;

/// What a caller learned of one attempt.
#[derive(Debug)]
pub enum Answer {
    /// What the method of its own service would have told.
    Told(Result<WriteResult, Status>),
    /// The call that it was one of several of ended with a reason, before it was read: it was not applied.
    Unread,
    /// Nothing: the connection broke.
    Nothing,
    /// Nothing: the caller hung up on it, and it goes on until the gateway has noticed, or its deadline.
    HungUp { deadline: Duration },
}

/// For how long an operation of an `Apply` call may go on: the gateway's own deadline, from when its turn comes, behind one
/// before it on the same entry.
const OPERATION_DEADLINE: Duration = Duration::from_secs(20);

/// Which operations were sent one behind the other: the number of a call, and a place in it.
pub type Line = (u64, u64);

/// One gateway.
#[derive(Debug)]
pub struct Calls {
    pub gate: Gate,
    /// Of all gateways: numbers of calls.
    numbers: Arc<AtomicU64>,
    shared: Mutex<Option<Arc<Shared>>>,
}

/// An `Apply` call.
#[derive(Debug)]
struct Shared {
    number: u64,
    state: Arc<Mutex<State>>,
    driver: AbortHandle,
}

#[derive(Debug)]
struct State {
    /// Gone once no more is to be sent.
    requests: Option<mpsc::UnboundedSender<ApplyRequest>>,
    sent: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    is_over: bool,
}

impl Calls {
    pub fn new(gate: Gate, numbers: Arc<AtomicU64>) -> Self {
        Self {
            gate,
            numbers,
            shared: Mutex::default(),
        }
    }

    /// An attempt by the method of its own service.
    pub async fn alone(&self, operation: Operation, deadline: Duration) -> Answer {
        let told = call(self.gate.clone(), operation, deadline).await;
        Answer::Told(told)
    }

    /// Sends one over the call that is shared, after those that were sent before it. Its answer may be waited for later.
    pub fn send(&self, operation: Operation) -> (Line, impl Future<Output = Answer> + use<>) {
        let shared = self.shared();
        let (answer, answered) = oneshot::channel();
        let mut state = shared.state.lock();
        let place = state.sent;
        state.sent += 1;
        let request = ApplyRequest {
            id: place.to_string(),
            operation: Some(operation),
        };
        match &state.requests {
            // Where nobody takes it any more the answer's sender is dropped with the others.
            Some(requests) if !state.is_over && requests.send(request).is_ok() => {
                state.waiting.insert(place, answer);
            }
            _ => drop(answer),
        }
        drop(state);
        let answered = async move { answered.await.unwrap_or(Answer::Nothing) };
        ((shared.number, place), answered)
    }

    /// Sends all by one manifest.
    pub async fn together(&self, operations: Vec<Operation>, deadline: Duration) -> (u64, Vec<Answer>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let count = operations.len();
        let operations = operations.into_iter().map(|operation| ApplyRequest {
            id: String::new(),
            operation: Some(operation),
        });
        let mut request = Request::new(ApplyManifestRequest {
            operations: operations.collect(),
            ..ApplyManifestRequest::default()
        });
        request.set_timeout(deadline);
        let answered = ApplyServiceClient::new(self.gate.clone())
            .apply_manifest(request)
            .await;
        let answers = match answered {
            Ok(response) => response.into_inner().results.into_iter().map(told).collect(),
            Err(end) => (0..count).map(|_| unanswered(&end)).collect(),
        };
        (number, answers)
    }

    /// Ends the call that is shared: hangs up, or sends no more and waits for the answers.
    pub fn end(&self, hangs_up: bool) {
        let Some(shared) = self.shared.lock().take() else {
            return;
        };
        let mut state = shared.state.lock();
        state.requests = None;
        if hangs_up {
            shared.driver.abort();
            state.over(|| Answer::HungUp {
                deadline: OPERATION_DEADLINE,
            });
        }
    }

    fn shared(&self) -> Arc<Shared> {
        let mut shared = self.shared.lock();
        let open = shared.take().filter(|shared| !shared.state.lock().is_over);
        let open = open.unwrap_or_else(|| {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            Arc::new(Shared::open(self.gate.clone(), number))
        });
        Arc::clone(shared.insert(open))
    }
}

impl Shared {
    fn open(gate: Gate, number: u64) -> Self {
        let (requests, sent) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State {
            requests: Some(requests),
            sent: 0,
            waiting: BTreeMap::new(),
            is_over: false,
        }));
        let driver = tokio::spawn(drive(gate, sent, Arc::clone(&state))).abort_handle();
        Self {
            number,
            state,
            driver,
        }
    }
}

impl State {
    /// Nothing more is answered.
    fn over(&mut self, answer: impl Fn() -> Answer) {
        self.is_over = true;
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            // Whoever sent it may have hung up.
            drop(waiting.send(answer()));
        }
    }
}

/// Hands out the answers of an `Apply` call until it ends.
async fn drive(gate: Gate, sent: mpsc::UnboundedReceiver<ApplyRequest>, state: Arc<Mutex<State>>) {
    let applying = async {
        let mut client = ApplyServiceClient::new(gate);
        let answers = client.apply(UnboundedReceiverStream::new(sent)).await;
        let mut answers = answers?.into_inner();
        while let Some(response) = answers.message().await? {
            let waiting = response
                .id
                .parse()
                .ok()
                .and_then(|place| state.lock().waiting.remove(&place));
            if let Some(waiting) = waiting {
                drop(waiting.send(told(response)));
            }
        }
        Ok(())
    };
    let ended: Result<(), Status> = applying.await;
    state.lock().over(|| match &ended {
        Ok(()) => Answer::Told(Err(unexplained("Apply ended well without an answer"))),
        Err(end) => unanswered(end),
    });
}

/// What the end of a call of several tells of those that have no answer.
fn unanswered(end: &Status) -> Answer {
    match reason(end) {
        None | Some(ErrorReason::Internal) => Answer::Nothing,
        Some(_) => Answer::Unread,
    }
}

fn told(response: ApplyResponse) -> Answer {
    Answer::Told(match response.outcome {
        Some(apply_response::Outcome::Result(result)) => Ok(result),
        Some(apply_response::Outcome::Status(status)) => Err(of_message(&status)),
        None => Err(unexplained("an answer of nothing")),
    })
}

#[expect(clippy::disallowed_methods, reason = "it is the status that was told")]
fn of_message(status: &lattice_gateway::proto::rpc::Status) -> Status {
    let details = status.encode_to_vec().into();
    Status::with_details(status.code.into(), status.message.clone(), details)
}

/// What no gateway may answer.
#[expect(clippy::disallowed_methods, reason = "it is no status of a gateway")]
fn unexplained(what: &str) -> Status {
    Status::new(Code::Ok, what)
}

/// The reason of an error, where a gateway gave it.
pub fn reason(status: &Status) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&status.get_details_error_info()?.reason)
}

/// The method of an operation's own service.
pub fn method(operation: &Operation) -> &'static str {
    match operation {
        Operation::PutClaims(_) => "PutClaims",
        Operation::DeleteClaims(_) => "DeleteClaims",
        Operation::PutLinkDefinition(_) => "PutLinkDefinition",
        Operation::DeleteLinkDefinition(_) => "DeleteLinkDefinition",
        Operation::PutInterfaceLink(_) => "PutInterfaceLink",
        Operation::DeleteInterfaceLink(_) => "DeleteInterfaceLink",
        Operation::SetOciReference(_) => "SetOciReference",
        Operation::DeleteOciReference(_) => "DeleteOciReference",
        Operation::PutConfig(_) => "PutConfig",
        Operation::DeleteConfig(_) => "DeleteConfig",
    }
}

async fn call(gate: Gate, operation: Operation, deadline: Duration) -> Result<WriteResult, Status> {
    /// One method of one service.
    macro_rules! call {
        ($client:ident, $method:ident, $message:expr) => {{
            let mut request = Request::new($message);
            request.set_timeout(deadline);
            $client::new(gate).$method(request).await?.into_inner().result
        }};
    }
    let result = match operation {
        Operation::PutClaims(put) => call!(ClaimsServiceClient, put_claims, put),
        Operation::DeleteClaims(delete) => call!(ClaimsServiceClient, delete_claims, delete),
        Operation::PutLinkDefinition(put) => call!(LinkDefinitionServiceClient, put_link_definition, put),
        Operation::DeleteLinkDefinition(delete) => {
            call!(LinkDefinitionServiceClient, delete_link_definition, delete)
        }
        Operation::PutInterfaceLink(put) => call!(InterfaceLinkServiceClient, put_interface_link, put),
        Operation::DeleteInterfaceLink(delete) => {
            call!(InterfaceLinkServiceClient, delete_interface_link, delete)
        }
        Operation::PutConfig(put) => call!(ConfigServiceClient, put_config, put),
        Operation::DeleteConfig(delete) => call!(ConfigServiceClient, delete_config, delete),
        Operation::SetOciReference(set) => call!(OciReferenceServiceClient, set_oci_reference, set),
        Operation::DeleteOciReference(delete) => panic!("no host can delete {:?}", delete.oci_url),
    };
    Ok(result.unwrap_or_default())
}
