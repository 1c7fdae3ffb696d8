use std::{cell::RefCell, collections::HashMap};

use clap::Parser;
use lattice_gateway::proto::{
    GetServerInfoRequest, GetServerInfoResponse, PACKAGE, SetOciReferenceRequest, SetOciReferenceResponse,
};
use tokio::net::TcpListener;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{args::Cli, failure::Cause};

fn gateway(endpoint: &str, timeout: &str) -> Gateway {
    let line = [
        "latticectl",
        "-ojson",
        "--endpoint",
        endpoint,
        "--timeout",
        timeout,
        "info",
    ];
    Gateway::new(&Cli::try_parse_from(line).unwrap().global).unwrap()
}

fn intent() -> Intent {
    Intent {
        request_id: "my-own-id".to_owned(),
        age: None,
        dry_run: false,
    }
}

fn status(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, PACKAGE, HashMap::<String, String>::new());
    Status::with_error_details(code, reason, details)
}

/// Answers attempts from a script, then with success; gives the retry ages that were sent.
async fn scripted(effect: Effect<'_>, script: Vec<Status>) -> (Result<(), CallError>, Vec<Option<Duration>>) {
    let (script, ages) = (RefCell::new(script.into_iter()), RefCell::new(Vec::new()));
    let send = async |attempt: Attempt| {
        ages.borrow_mut().push(attempt.retry_age);
        script.borrow_mut().next().map_or(Ok(Response::new(())), Err)
    };
    let answer = gateway("127.0.0.1:1", "10s").call(effect, send).await;
    (answer, ages.into_inner())
}

#[tokio::test]
async fn a_write_is_sent_again_with_its_age_once_it_may_have_been_applied() {
    let script = vec![
        status(Code::Unavailable, "BACKEND_UNAVAILABLE"),
        status(Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
    ];
    let (answer, ages) = scripted(Effect::Write(&intent()), script).await;
    assert!(answer.is_ok());
    assert!(
        matches!(ages.as_slice(), [None, None, Some(age)] if *age >= Duration::from_millis(100)),
        "{ages:?}"
    );
}

#[tokio::test]
async fn a_refusal_ends_a_call_at_once() {
    let (answer, ages) = scripted(
        Effect::Write(&intent()),
        vec![status(Code::Aborted, "ETAG_MISMATCH")],
    )
    .await;
    let error = answer.unwrap_err();
    assert_eq!((error.doubt, ages.len()), (Doubt::None, 1));
}

#[tokio::test]
async fn a_refusal_that_does_not_look_at_the_entry_leaves_an_earlier_attempt_in_doubt() {
    let script = || {
        vec![
            status(Code::DeadlineExceeded, "OUTCOME_UNKNOWN"),
            status(Code::PermissionDenied, "LATTICE_NOT_GRANTED"),
        ]
    };
    let (answer, _) = scripted(Effect::Write(&intent()), script()).await;
    assert!(
        matches!(answer.unwrap_err().doubt, Doubt::Resume { request_id, .. } if request_id == "my-own-id")
    );
    let (answer, _) = scripted(Effect::Repeatable, script()).await;
    assert_eq!(answer.unwrap_err().doubt, Doubt::Repeat);
    let (answer, _) = scripted(Effect::Nothing, script()).await;
    assert_eq!(answer.unwrap_err().doubt, Doubt::None);
    let dry_run = Intent {
        dry_run: true,
        ..intent()
    };
    let (answer, _) = scripted(Effect::Write(&dry_run), script()).await;
    assert_eq!(answer.unwrap_err().doubt, Doubt::None);
}

#[tokio::test]
async fn an_attempt_without_an_answer_is_in_doubt() {
    let send = async |_: Attempt| std::future::pending::<Result<Response<()>, Status>>().await;
    let call = gateway("127.0.0.1:1", "100ms");
    let error = call.call(Effect::Write(&intent()), send).await.unwrap_err();
    assert_eq!(error.failure.cause, Cause::NoAnswer);
    assert!(matches!(error.doubt, Doubt::Resume { .. }));
}

async fn set_reference(gateway: &Gateway) -> Result<SetOciReferenceResponse, CallError> {
    let client = gateway.references();
    let send = async |attempt: Attempt| {
        let request = attempt.request(SetOciReferenceRequest::default());
        client.clone().set_oci_reference(request).await
    };
    gateway.call(Effect::Write(&intent()), send).await
}

#[tokio::test]
async fn where_nothing_listens_nothing_was_applied() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    drop(listener);
    let gateway = gateway(&endpoint, "300ms");
    let error = set_reference(&gateway).await.unwrap_err();
    assert_eq!(
        (error.failure.cause, error.doubt),
        (Cause::NotConnected, Doubt::None)
    );
    let client = gateway.lattices();
    let read = async |attempt: Attempt| {
        let request = attempt.request(GetServerInfoRequest {});
        client.clone().get_server_info(request).await
    };
    let answer: Result<GetServerInfoResponse, _> = gateway.call(Effect::Nothing, read).await;
    assert_eq!(answer.unwrap_err().failure.cause, Cause::NotConnected);
}

#[tokio::test]
async fn where_a_connection_breaks_a_write_is_in_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let gateway = gateway(&endpoint, "300ms");
    let error = tokio::select! {
        answer = set_reference(&gateway) => answer.unwrap_err(),
        () = hang_up => unreachable!(),
    };
    assert!(
        matches!(error.failure.cause, Cause::Code(_)),
        "{:?}",
        error.failure
    );
    assert!(matches!(error.doubt, Doubt::Resume { .. }));
}
