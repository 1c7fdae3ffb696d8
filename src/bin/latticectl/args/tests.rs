use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["latticectl"].into_iter().chain(line.split_whitespace()))
}

fn write_options(line: &str) -> WriteOptions {
    let line = format!("ref set image:1 MKEY {line}");
    let Command::Ref(ReferenceCommand::Set(set)) = parse(&line).unwrap().command else {
        panic!("{line}");
    };
    set.write
}

#[test]
fn the_command_line_is_consistent_and_every_argument_has_a_help_text() {
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    let mut open = vec![command];
    while let Some(command) = open.pop() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} {}",
                command.get_name(),
                argument.get_id()
            );
        }
        open.extend(command.get_subcommands().cloned());
    }
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in [
        "--lattice blue -o json --timeout 2s --endpoint 127.0.0.1:1 link list",
        "link list --lattice blue -o json --timeout 2s --endpoint 127.0.0.1:1",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(cli.lattice(), "blue");
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.timeout, Duration::from_secs(2));
        assert_eq!(cli.global.gateway().to_string(), "http://127.0.0.1:1");
    }
}

#[test]
fn a_lattice_command_is_about_the_lattice_it_names() {
    assert_eq!(
        parse("lattice show green --lattice blue").unwrap().lattice(),
        "green"
    );
    assert_eq!(
        parse("lattice provision --lattice blue").unwrap().lattice(),
        "blue"
    );
}

fn gateway(line: &str) -> Result<GatewayUri, clap::Error> {
    parse(line).map(|cli| cli.global.gateway())
}

#[test]
fn an_endpoint_is_a_host_and_port_and_nothing_else() {
    for (given, kept) in [
        ("127.0.0.1:7400", "http://127.0.0.1:7400"),
        ("localhost:7400", "http://localhost:7400"),
        ("http://[::1]:7400/", "http://[::1]:7400"),
        ("https://gateway.example", "https://gateway.example"),
    ] {
        let gateway = gateway(&format!("info --endpoint {given}")).unwrap();
        assert_eq!(gateway.to_string(), kept);
        assert_eq!(gateway.uri().to_string(), format!("{kept}/"));
    }
    for refused in [
        "nats://a:1",
        "http://",
        "http://a:1/b",
        "http://a:1//",
        "http://a:1?b",
        "a/b",
        "a:1#b",
        "me:secret@a:1",
    ] {
        assert!(
            gateway(&format!("info --endpoint {refused}")).is_err(),
            "{refused}"
        );
    }
    assert!(Cli::try_parse_from(["latticectl", "info", "--endpoint", ""]).is_err());
}

#[test]
fn certificates_imply_tls_where_no_scheme_is_given() {
    for (line, expected) in [
        ("info", "http://127.0.0.1:7400"),
        ("info --ca ca.pem", "https://127.0.0.1:7400"),
        ("--cert c.pem info --key k.pem", "https://127.0.0.1:7400"),
        ("--ca ca.pem info --endpoint a:1", "https://a:1"),
        ("info --endpoint http://a:1 --ca ca.pem", "http://a:1"),
    ] {
        assert_eq!(gateway(line).unwrap().to_string(), expected, "{line}");
    }
}

#[test]
fn hosts_and_ports_are_told_apart() {
    for (endpoint, host, port, is_loopback) in [
        ("http://[::1]:7400", "::1", 7400, true),
        ("http://127.8.8.8", "127.8.8.8", 80, true),
        ("http://[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1", 1, true),
        ("https://LocalHost", "LocalHost", 443, true),
        ("localhost.example:1", "localhost.example", 1, false),
        ("127.0.0.1.example:1", "127.0.0.1.example", 1, false),
        ("0.0.0.0:1", "0.0.0.0", 1, false),
    ] {
        let gateway = gateway(&format!("info --endpoint {endpoint}")).unwrap();
        let told = (gateway.host(), gateway.port(), gateway.is_loopback());
        assert_eq!(told, (host, port, is_loopback), "{endpoint}");
    }
}

#[test]
fn preconditions_exclude_each_other() {
    for (line, expected) in [
        ("", None),
        ("--if-match abc", Some(Precondition::Etag("\"abc\"".to_owned()))),
        (
            "--if-match \"abc\"",
            Some(Precondition::Etag("\"abc\"".to_owned())),
        ),
        ("--must-exist", Some(Precondition::MustExist)),
        ("--must-not-exist", Some(Precondition::MustNotExist)),
    ] {
        assert_eq!(write_options(line).precondition(), expected);
    }
    assert!(parse("ref set image:1 MKEY --must-exist --must-not-exist").is_err());
    assert!(parse("ref set image:1 MKEY --must-exist --if-match abc").is_err());
}

#[test]
fn a_write_is_named_by_the_user_or_by_a_new_uuid() {
    let named = write_options("--request-id my-own-id").intent();
    assert_eq!((named.request_id.as_str(), named.age), ("my-own-id", None));
    let fresh = write_options("").intent();
    assert_eq!(Uuid::parse_str(&fresh.request_id).unwrap().get_version_num(), 7);
    assert_eq!(fresh.age, None);
}

#[test]
fn a_resumed_write_is_at_least_as_old_as_its_id() {
    assert!(
        parse("ref set image:1 MKEY --retry-age 5s").is_err(),
        "needs the id"
    );
    let own = write_options("--request-id my-own-id --retry-age 5s").intent();
    assert_eq!(own.age, Some(Duration::from_secs(5)));
    let of_2024 = "018cc251-f400-7000-8000-000000000000";
    let late = write_options(&format!("--request-id {of_2024} --retry-age 5s")).intent();
    assert!(late.age > Some(Duration::from_hours(24 * 365)), "{late:?}");
}

#[test]
fn reads_say_how_fresh_they_must_be() {
    let read = |line: &str| {
        let command = parse(&format!("ref get image:1 {line}")).unwrap().command;
        let Command::Ref(ReferenceCommand::Get { read, .. }) = command else {
            panic!("{line}");
        };
        read.consistency().and_then(|it| it.requirement)
    };
    assert_eq!(read(""), None);
    assert_eq!(read("--fresh"), Some(Requirement::FullyConsistent(true)));
    let revision = Revision {
        epoch: 18_446_744_073_709_551_615,
        sequence: 7,
    };
    assert_eq!(
        read("--at-least 18446744073709551615:7"),
        Some(Requirement::AtLeastAsFresh(revision))
    );
    for refused in ["7", "a:7", "7:", "1:2:3", "-1:2"] {
        assert!(
            parse(&format!("ref get image:1 --at-least={refused}")).is_err(),
            "{refused}"
        );
    }
    assert!(parse("ref get image:1 --fresh --at-least 1:2").is_err());
}

#[test]
fn durations_are_for_people_and_a_timeout_is_not_zero() {
    assert!(parse("info --timeout 1m30s").is_ok());
    assert!(parse("info --timeout 0s").is_err());
    assert!(parse("info --timeout soon").is_err());
}
