use lattice_gateway::proto::{NamedConfig, PACKAGE, entry::Entry, rpc};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{
    apply::{
        held::Held,
        manifest::{Desired, Origin},
    },
    failure::Failure,
};

fn creating(names: impl IntoIterator<Item = String>) -> Plan {
    let desired = |(line, name)| Desired {
        entry: Entry::NamedConfig(NamedConfig {
            name,
            ..NamedConfig::default()
        }),
        token: None,
        origin: Origin {
            file: "a.yaml".into(),
            line,
            document: 1,
        },
    };
    let desired = names.into_iter().enumerate().map(desired).collect();
    Plan::new(desired, Held::default(), &[].into())
}

fn report(plan: &Plan) -> Report<'_> {
    Report {
        plan,
        lattice: "default",
        format: Format::Table,
        hide_values: false,
        started: Instant::now(),
    }
}

fn failed(code: Code, reason: &str, doubt: Doubt) -> Failed {
    let mut details = ErrorDetails::new();
    details.set_error_info(
        reason,
        PACKAGE,
        std::collections::HashMap::<String, String>::new(),
    );
    let status = Status::with_error_details(code, reason, details);
    let status = rpc::Status::decode(status.details()).unwrap();
    Failed {
        what: "create  config a".to_owned(),
        error: CallError {
            failure: Failure::from(&status),
            doubt,
        },
    }
}

fn unfinished(failed: Vec<Failed>) -> Unfinished {
    Unfinished {
        changes: failed.len(),
        failed,
        not_done: 0,
        interrupted: false,
        kept: false,
        checked_only: false,
    }
}

#[test]
fn of_many_creates_the_first_are_listed_and_the_rest_counted() {
    let plan = creating((0..60).map(|number| format!("c{number}")));
    let text = report(&plan).plan();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), LISTED_MAX + 2);
    assert_eq!(lines[0], "create  config c0");
    assert_eq!(
        lines[LISTED_MAX..],
        [
            "create  10 more; -o json lists all",
            "60 to create, 0 to update, 0 to delete, 0 unchanged"
        ]
    );
}

#[test]
fn names_from_a_lattice_do_not_harm_a_terminal() {
    let plan = creating(["\u{1b}[2J".to_owned()]);
    assert!(report(&plan).plan().starts_with("create  config \\u{1b}[2J\n"));
}

#[test]
fn a_plan_without_changes_says_so() {
    assert_eq!(report(&creating([])).plan(), "nothing to change: 0 unchanged\n");
}

#[test]
fn the_worst_failure_decides_the_exit_code() {
    let conflict = || failed(Code::Aborted, "ETAG_MISMATCH", Doubt::None);
    let refused = || failed(Code::InvalidArgument, "INVALID_FIELD", Doubt::None);
    let away = || failed(Code::Unavailable, "BACKEND_UNAVAILABLE", Doubt::None);
    let unknown = || failed(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", Doubt::Repeat);
    for (failures, exit) in [
        (vec![conflict()], Exit::Conflict),
        (vec![conflict(), refused()], Exit::Refused),
        (vec![away(), refused(), conflict()], Exit::Unavailable),
        (vec![away(), unknown()], Exit::Unknown),
    ] {
        assert_eq!(unfinished(failures).exit(), exit);
    }
    let interrupted = Unfinished {
        interrupted: true,
        not_done: 3,
        ..unfinished(vec![])
    };
    assert_eq!(interrupted.exit(), Exit::Interrupted);
    let in_doubt = Unfinished {
        interrupted: true,
        ..unfinished(vec![unknown()])
    };
    assert_eq!(in_doubt.exit(), Exit::Unknown);
}

#[test]
fn what_fails_for_the_order_alone_is_no_failure_of_a_check() {
    let plan = creating(["a".to_owned(), "b".to_owned()]);
    let missing = |configs: &str| {
        let Failed { mut error, .. } = failed(Code::FailedPrecondition, "CONFIG_NOT_FOUND", Doubt::None);
        let configs = ("configs".to_owned(), configs.to_owned());
        error.failure.metadata.extend([configs]);
        error
    };
    assert!(report(&plan).is_of_the_order(&missing("a, b")));
    assert!(!report(&plan).is_of_the_order(&missing("a, c")));
    let conflict = failed(Code::FailedPrecondition, "LINK_CONFLICT", Doubt::None);
    assert!(!report(&plan).is_of_the_order(&conflict.error));
}
