use lattice_gateway::proto::{Evidence, FindingCount, InterfaceLink, PutInterfaceLinkRequest, Remedy};

use super::*;

fn finding(kind: FindingKind, severity: Severity, about: &str) -> Finding {
    Finding {
        kind: kind.into(),
        severity: severity.into(),
        about: about.to_owned(),
        detail: "It is wrong.".to_owned(),
        evidence: vec![Evidence {
            key: "sequence".to_owned(),
            value: "7".to_owned(),
        }],
        remedy: Some(Remedy {
            advice: "Mend it.".to_owned(),
            command: "nats stream info S".to_owned(),
        }),
        mend: None,
    }
}

fn response(findings: Vec<Finding>) -> DiagnoseLatticeResponse {
    let counts = findings.iter().map(|finding| FindingCount {
        kind: finding.kind,
        severity: finding.severity,
        count: 1,
    });
    DiagnoseLatticeResponse {
        counts: counts.collect(),
        findings,
        ..DiagnoseLatticeResponse::default()
    }
}

#[test]
fn findings_are_shown_by_severity_with_their_way_out() {
    let found = DiagnoseLatticeResponse {
        hosts: Some(2),
        skipped: vec![SkippedCheck {
            kinds: vec![FindingKind::ClockSkew.into()],
            reason: "the server tells no time".to_owned(),
        }],
        ..response(vec![
            finding(FindingKind::StreamDrift, Severity::Error, "stream S"),
            finding(FindingKind::ConfigUnused, Severity::Info, "config a\nb"),
        ])
    };
    assert_eq!(
        shown("blue", &found),
        "lattice blue: 1 error, 1 note; 2 hosts answered\n\
         \nERRORS: hosts or the gateway work wrongly now\n\
         \n  stream S  (stream drift)\n    It is wrong.\n    sequence=7\n    Mend it.\n    $ nats stream info S\n\
         \nNOTES\n\
         \n  config a\\nb  (config unused)\n    It is wrong.\n    sequence=7\n    Mend it.\n    $ nats stream info S\n\
         \nNOT CHECKED\n  clock skew\n    the server tells no time\n"
    );
}

#[test]
fn what_is_not_listed_is_counted() {
    let mut found = response(vec![finding(
        FindingKind::MalformedEntry,
        Severity::Error,
        "lc.x.claims.M",
    )]);
    found.counts[0].count = 150;
    let shown = shown("blue", &found);
    assert!(shown.starts_with("lattice blue: 150 errors\n"), "{shown}");
    assert!(
        shown.ends_with("\n  and 149 more of malformed entry\n"),
        "{shown}"
    );
}

#[test]
fn only_errors_and_warnings_change_the_exit_code() {
    let exit = |severity| {
        let found = response(vec![finding(FindingKind::StaleCopy, severity, "")]);
        told(String::new(), &found).err().map(|error| error.exit())
    };
    assert_eq!(exit(Severity::Info), None);
    assert_eq!(exit(Severity::Warning), Some(Exit::Findings));
    assert_eq!(exit(Severity::Error), Some(Exit::Findings));
    let clean = DiagnoseLatticeResponse::default();
    assert!(told(String::new(), &clean).is_ok());
    assert_eq!(shown("blue", &clean), "lattice blue: all is well\n");
}

#[test]
fn a_mend_is_sent_under_a_name_of_its_own_and_else_as_it_is() {
    let put = PutInterfaceLinkRequest {
        lattice: "blue".to_owned(),
        interface_link: Some(InterfaceLink::default()),
        ..PutInterfaceLinkRequest::default()
    };
    let age = Some(std::time::Duration::from_secs(3).into());
    let sent = named(Operation::PutInterfaceLink(put.clone()), "id".to_owned(), age);
    let expected = PutInterfaceLinkRequest {
        request_id: "id".to_owned(),
        retry_age: age,
        ..put
    };
    assert_eq!(sent, Operation::PutInterfaceLink(expected));
}
