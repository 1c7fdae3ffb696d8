use std::{collections::HashMap, sync::Arc};

use clap::Parser;

use super::*;
use crate::args::Cli;

fn status(code: Code, reason: &str, details: ErrorDetails) -> Status {
    let metadata = HashMap::from([("call_id".to_owned(), "c1".to_owned())]);
    let mut details = details;
    details.set_error_info(reason, PACKAGE, metadata);
    Status::with_error_details(code, "no such thing", details)
}

fn error(code: Code, reason: &str) -> CommandError {
    call_error(&status(code, reason, ErrorDetails::new()), Doubt::None)
}

fn call_error(status: &Status, doubt: Doubt) -> CommandError {
    CommandError::from(CallError {
        failure: Failure::from(status),
        doubt,
    })
}

fn gateway() -> GatewayUri {
    let cli = Cli::try_parse_from(["latticectl", "info", "--endpoint", "127.0.0.1:1"]);
    cli.unwrap().global.gateway()
}

fn text(error: &CommandError) -> String {
    error.render(
        Format::Table,
        Place {
            endpoint: &gateway(),
            lattice: "blue",
        },
    )
}

fn json(error: &CommandError) -> serde_json::Value {
    error.json()
}

#[test]
fn an_error_is_told_with_its_violations_and_a_way_out() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("link_definition.actor_id", "is required");
    details.add_bad_request_violation("lattice", "is\nrequired");
    let refused = call_error(
        &status(Code::InvalidArgument, "INVALID_FIELD", details),
        Doubt::None,
    );
    assert_eq!(
        text(&refused),
        "error: no such thing\n  link_definition.actor_id: is required\n  lattice: is\\nrequired"
    );
    assert_eq!(
        text(&error(Code::FailedPrecondition, "NOT_PROVISIONED")),
        "error: no such thing\nhint: run: latticectl lattice provision blue"
    );
    assert_eq!(
        text(&error(Code::Internal, "INTERNAL")),
        "error: no such thing\nhint: look for call_id c1 in the gateway's log"
    );
    assert_eq!(
        text(&error(Code::FailedPrecondition, "LAYOUT_AMBIGUOUS")),
        "error: no such thing",
        "without the setting in the metadata there is nothing to say"
    );
}

#[test]
fn an_error_is_json_for_programs() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("lattice", "is required");
    let refused = call_error(
        &status(Code::InvalidArgument, "INVALID_FIELD", details),
        Doubt::None,
    );
    assert_eq!(
        json(&refused),
        json!({
            "code": "INVALID_ARGUMENT",
            "reason": "INVALID_FIELD",
            "message": "no such thing",
            "metadata": { "call_id": "c1" },
            "violations": [{ "field": "lattice", "description": "is required" }],
        })
    );
    let input = CommandError::Input("cannot read x".to_owned());
    assert_eq!(json(&input)["message"], "cannot read x");
}

#[test]
fn an_unknown_outcome_tells_how_to_resume() {
    let doubt = Doubt::Resume {
        request_id: "my-own-id".to_owned(),
        age: Duration::from_millis(9_800),
    };
    let unknown = call_error(&Status::cancelled("gone"), doubt);
    assert!(text(&unknown).ends_with("\n  --request-id my-own-id --retry-age 10s"));
    assert_eq!(
        json(&unknown)["resume"],
        json!({ "requestId": "my-own-id", "retryAge": "10s" })
    );
    assert_eq!(unknown.exit(), Exit::Unknown);
}

#[test]
fn scripts_can_tell_errors_apart() {
    for (code, reason, exit) in [
        (Code::InvalidArgument, "INVALID_FIELD", Exit::Refused),
        (Code::FailedPrecondition, "NOT_PROVISIONED", Exit::Refused),
        (Code::NotFound, "ENTRY_NOT_FOUND", Exit::NotFound),
        (Code::AlreadyExists, "ENTRY_EXISTS", Exit::Conflict),
        (Code::Aborted, "ETAG_MISMATCH", Exit::Conflict),
        (Code::Aborted, "CONTENTION", Exit::Conflict),
        (Code::Aborted, "OUTCOME_SUPERSEDED", Exit::Conflict),
        (Code::Unavailable, "BACKEND_UNAVAILABLE", Exit::Unavailable),
        (Code::ResourceExhausted, "OVERLOADED", Exit::Unavailable),
        (Code::DeadlineExceeded, "OUTCOME_UNKNOWN", Exit::Unknown),
        (Code::PermissionDenied, "OF_A_LATER_VERSION", Exit::Refused),
        (Code::NotFound, "OF_A_LATER_VERSION", Exit::NotFound),
    ] {
        assert_eq!(error(code, reason).exit(), exit, "{reason}");
    }
    assert_eq!(CommandError::Input(String::new()).exit(), Exit::Usage);
}

#[test]
fn the_reasons_of_other_services_do_not_count() {
    let mut details = ErrorDetails::new();
    details.set_error_info(
        "ENTRY_NOT_FOUND",
        "googleapis.com",
        HashMap::<String, String>::new(),
    );
    let foreign = Failure::from(&Status::with_error_details(Code::Unavailable, "", details));
    assert_eq!(foreign.cause, Cause::Code(Code::Unavailable));
    assert_eq!(foreign.message, "The service is currently unavailable");
}

#[test]
fn only_a_connect_error_says_that_nothing_was_sent() {
    let mut refused = Status::with_error_details(Code::Unavailable, "tcp connect error", ErrorDetails::new());
    refused.set_source(Arc::new(ConnectError(Box::from("connection refused"))));
    let failure = Failure::from(&refused);
    assert_eq!(failure.cause, Cause::NotConnected);
    assert_eq!(failure.message, "tcp connect error: connection refused");
    let error = call_error(&refused, Doubt::None);
    assert!(text(&error).ends_with("\nhint: is the gateway running at http://127.0.0.1:1?"));
    assert_eq!(error.exit(), Exit::Unavailable);
}

#[test]
fn the_gateway_s_pause_is_understood() {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(Duration::from_secs(3)));
    let failure = Failure::from(&status(Code::Unavailable, "BACKEND_UNAVAILABLE", details));
    assert_eq!(failure.retry_delay, Some(Duration::from_secs(3)));
    assert_eq!(
        failure.cause,
        Cause::Reason(Code::Unavailable, ErrorReason::BackendUnavailable)
    );
}

#[test]
fn codes_are_named_as_grpc_names_them() {
    assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
    assert_eq!(code_name(Code::Ok), "OK");
    assert_eq!(code_name(Code::ResourceExhausted), "RESOURCE_EXHAUSTED");
}
