//! What `/metrics` tells, and that `docs/metrics.md` has all of it.

use std::{collections::BTreeSet, fs, path::Path};

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::proto::{Outcome, put_link_definition_request::Precondition};
use nkeys::KeyPair;
use serde_json::json;
use time::OffsetDateTime;

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    certificates::{Authority, San},
    link, put_link, until,
};

/// Waits until a scrape has a line.
async fn is_told(gateway: &TestGateway, line: &str) {
    let line = format!("\nlattice_gateway_{line}\n");
    until(&line, async || {
        gateway.metrics().await.contains(&line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn writes_publishes_and_streams_are_told() {
    let nats = Nats::start().await;
    let created = nats.create_stream("default", json!({})).await;
    let gateway = TestGateway::at(&nats.url()).await;
    let mut put = put_link(link(ACTOR, PROVIDER, "value"));
    put.request_id = "request-0001".to_owned();
    gateway.put(put.clone()).await.unwrap();
    let again = gateway.put(put.clone()).await.unwrap();
    assert_eq!(again.result.unwrap().outcome(), Outcome::AlreadyApplied);
    put.request_id = "request-0002".to_owned();
    put.precondition = Some(Precondition::MustNotExist(true));
    gateway.put(put).await.unwrap_err();
    nats.publish_raw("lc.default.linkdefs.by-hand", "not JSON").await;

    for line in [
        r#"writes_total{outcome="OUTCOME_APPLIED"} 1"#,
        r#"writes_total{outcome="OUTCOME_ALREADY_APPLIED"} 1"#,
        r#"writes_total{outcome="REFUSED"} 1"#,
        r#"publishes_total{result="stored"} 1"#,
        "publish_duration_seconds_count 1",
        r#"stream_sequence{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_last_sequence{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_subjects{lattice="default",stream="LATTICECACHE_default"} 2"#,
        r#"stream_malformed_messages{lattice="default",stream="LATTICECACHE_default"} 1"#,
        r#"stream_config_differences{lattice="default",stream="LATTICECACHE_default"} 0"#,
        r#"stream_is_writable{lattice="default",stream="LATTICECACHE_default"} 1"#,
        concat!(r#"build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
    ] {
        is_told(&gateway, line).await;
    }
    let told = told(&gateway.metrics().await);
    let undocumented = told.iter().filter(|name| !documented().contains(name.as_str()));
    assert_eq!(undocumented.count(), 0, "of {told:?}");

    let mut config = created["config"].clone();
    config["max_msgs_per_subject"] = json!(5);
    nats.api("STREAM.UPDATE.LATTICECACHE_default", config).await;
    is_told(
        &gateway,
        r#"stream_is_writable{lattice="default",stream="LATTICECACHE_default"} 0"#,
    )
    .await;
    nats.api("STREAM.DELETE.LATTICECACHE_default", json!(null)).await;
    until("the stream is no longer told of", async || {
        (!gateway.metrics().await.contains("LATTICECACHE_default")).then_some(())
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_process_takes_is_told_as_the_kernel_has_it() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let scraped = gateway.metrics().await;
    let told = |name: &str| {
        let line = scraped
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}"))
            .parse::<f64>()
            .unwrap()
    };
    // The gateway is of this process.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let resident = resident
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<f64>()
        .unwrap()
        * 1024.0;
    let ratio = told("process_resident_memory_bytes") / resident;
    assert!((0.5..2.0).contains(&ratio), "{ratio}");
    assert!(told("process_cpu_seconds_total") > 0.0);
    let (open, most) = (told("process_open_fds"), told("process_max_fds"));
    assert!(3.0 < open && open < most, "{open} of {most}");
    assert!(told("process_start_time_seconds") > 1_700_000_000.0);
}

/// Writes a credentials file whose JWT ends then. No server asks for it.
fn write_credentials(file: &Path, unix_seconds: Option<i64>) {
    let claims = unix_seconds.map_or_else(|| json!({}), |exp| json!({"exp": exp}));
    let [header, claims] =
        [json!({}), claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let seed = KeyPair::new_user().seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{header}.{claims}.c2ln\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(file, text).unwrap();
}

#[tokio::test]
async fn the_ends_of_what_is_shown_to_nats_are_told_as_the_files_say_now() {
    let authority = Authority::new();
    let server = authority.server(&["127.0.0.1"]);
    let ends = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    let client = authority.client_with(&[San::Dns("gateway")], |certificate| certificate.not_after = ends);
    let nats = Nats::launch_with(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        server.certificate_file,
        server.key_file,
        authority.certificate_file(),
    ))
    .await;
    let file = authority.folder().join("gateway.creds");
    write_credentials(&file, Some(1_800_000_000));
    let gateway = TestGateway::serving_as(&format!(
        "[nats]\nservers = \"tls://127.0.0.1:{}\"\ncredentials_file = {file:?}\nca_file = {:?}\n\
         certificate_file = {:?}\nkey_file = {:?}\n\
         [lattices.default]\ntrusted_issuers = [\"*\"]\n",
        nats.port(),
        authority.certificate_file(),
        client.certificate_file,
        client.key_file,
    ))
    .await;
    let name = "nats_credential_not_after_seconds";
    for line in [
        r#"{upstream="default",credential="user_jwt"} 1800000000"#,
        r#"{upstream="default",credential="certificate"} 1900000000"#,
    ] {
        is_told(&gateway, &format!("{name}{line}")).await;
    }
    write_credentials(&file, Some(1_850_000_000));
    is_told(
        &gateway,
        &format!(
            "{name}{}",
            r#"{upstream="default",credential="user_jwt"} 1850000000"#
        ),
    )
    .await;
    write_credentials(&file, None);
    until("a JWT without an end is not told of", async || {
        (!gateway.metrics().await.contains("user_jwt")).then_some(())
    })
    .await;
}

/// A metric of which nothing was counted yet is not scraped.
#[test]
fn what_is_documented_is_there() {
    let sources = [
        include_str!("../../src/telemetry.rs"),
        include_str!("../../src/telemetry/process.rs"),
    ];
    for name in documented() {
        let name = name.strip_prefix("lattice_gateway_").unwrap_or(name);
        let name = ["_total", "_info"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending))
            .unwrap_or(name);
        let quoted = format!("\"{name}\"");
        assert!(sources.iter().any(|source| source.contains(&quoted)), "{name}");
    }
}

/// The metrics that `docs/metrics.md` has.
pub(crate) fn documented() -> BTreeSet<&'static str> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').unwrap().0).collect()
}

/// What a scrape tells, by the names that its samples have.
fn told(scraped: &str) -> BTreeSet<String> {
    let types = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.map(|of| match of.split_once(' ').unwrap() {
        (name, "counter") => format!("{name}_total"),
        (name, "info") => format!("{name}_info"),
        (name, _) => name.to_owned(),
    });
    names.collect()
}
