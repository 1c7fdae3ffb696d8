//! Who is let in, what they see, how much they may ask for, and what changes while the gateway runs.

use std::{path::Path, process::Command, time::Duration};

use lattice_gateway::{
    config::Config,
    proto::{
        Claims, ErrorReason, GetConfigRequest, GetLinkDefinitionRequest, GetServerInfoRequest,
        ListConfigsRequest, ListLinkDefinitionsRequest, PutClaimsRequest, PutConfigRequest,
        put_claims_request::Source, put_config_request::Precondition,
    },
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, metadata::MetadataValue};

use crate::harness::{
    Nats, TestGateway, Told,
    api::{ACCOUNT, ACTOR, PROVIDER},
    gateway::caller,
    keys, link, named_config, put_config, put_link, told, until,
};

const LATTICE: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\n";
const WRITER: &str = "read values:read claims:write links:write refs:write";

async fn who_am_i(gateway: &TestGateway) -> Result<String, Told> {
    let info = gateway.lattices().get_server_info(GetServerInfoRequest {}).await;
    Ok(told(info)?.caller)
}

/// A gateway on the lattice `default`, which exists, with these callers.
async fn gateway_for(nats: &Nats, callers: &str) -> TestGateway {
    nats.create_stream("default", Value::Null).await;
    TestGateway::serving_callers(nats, &format!("{LATTICE}{callers}")).await
}

#[tokio::test]
async fn a_token_names_its_caller_and_nothing_else_does() {
    let nats = Nats::start().await;
    let callers = [
        caller("one", "first-token", &["default"], "read"),
        caller("two", "second-token", &["default"], "read"),
    ];
    let mut gateway = gateway_for(&nats, &callers.concat()).await;
    let missing = who_am_i(&gateway).await.unwrap_err();
    assert_eq!(
        (missing.code, missing.reason),
        (Code::Unauthenticated, ErrorReason::CredentialsMissing)
    );
    for (token, name) in [("first-token", "one"), ("second-token", "two")] {
        gateway = gateway.showing(token);
        assert_eq!(who_am_i(&gateway).await.unwrap(), name);
    }

    let hash = format!("{:x}", Sha256::digest("first-token"));
    let mut texts = std::collections::BTreeSet::new();
    for values in [
        &["Bearer unknown"][..],
        &["Bearer first-toke"],
        &["Bearer first-tokenn"],
        &["Bearer FIRST-TOKEN"],
        &[&format!("Bearer {hash}")],
        &["Bearer first-token,second-token"],
        &["Bearer  first-token"],
        &["Bearer"],
        &["Basic first-token"],
        &["first-token"],
        &["Bearer first-token", "Bearer second-token"],
        &["Bearer first-token", "Bearer first-token"],
        &[&format!("Bearer {}", "x".repeat(8_000))],
    ] {
        let mut request = Request::new(GetServerInfoRequest {});
        for value in values {
            let value = MetadataValue::try_from(*value).unwrap();
            request.metadata_mut().append("authorization", value);
        }
        let mut bare = lattice_gateway::proto::lattice_service_client::LatticeServiceClient::new(
            gateway.channel.clone(),
        );
        let refused = told(bare.get_server_info(request).await).unwrap_err();
        assert_eq!(refused.reason, ErrorReason::CredentialsInvalid, "{values:?}");
        texts.insert(refused.message);
    }
    assert_eq!(texts.len(), 1, "what was wrong is not told: {texts:?}");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("lattice_gateway_unauthenticated_total{why=\"invalid\"} 13"));
    assert!(metrics.contains("lattice_gateway_unauthenticated_total{why=\"missing\"} 1"));
}

#[tokio::test]
async fn values_are_shown_to_who_may_read_them_alone() {
    let nats = Nats::start().await;
    let callers = [
        caller("writer", "writes", &["default"], "links:write"),
        caller("reader", "reads", &["default"], "read"),
        caller("auditor", "audits", &["default"], "read values:read"),
    ];
    let mut gateway = gateway_for(&nats, &callers.concat()).await.showing("writes");
    let put = gateway
        .put(put_link(link(ACTOR, PROVIDER, "a-password")))
        .await
        .unwrap();
    let answered = put.link_definition.unwrap();
    assert_eq!(
        (answered.provider_id.as_str(), answered.values.len()),
        (PROVIDER, 0)
    );
    assert!(!answered.etag.is_empty());

    for (token, values) in [("reads", 0), ("audits", 1)] {
        gateway = gateway.showing(token);
        let get = GetLinkDefinitionRequest {
            lattice: "default".into(),
            actor_id: Some(ACTOR.into()),
            contract_id: Some("wasmcloud:keyvalue".into()),
            ..Default::default()
        };
        let got = told(gateway.links().get_link_definition(get).await).unwrap();
        assert_eq!(got.link_definition.unwrap().values.len(), values, "{token}");
        let list = ListLinkDefinitionsRequest {
            lattice: "default".into(),
            ..Default::default()
        };
        let listed = told(gateway.links().list_link_definitions(list).await).unwrap();
        assert_eq!(listed.link_definitions[0].values.len(), values, "{token}");
    }
}

#[tokio::test]
async fn values_of_configs_are_shown_to_who_may_read_them_alone() {
    let nats = Nats::start().await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    let callers = [
        caller("writer", "writes", &["default"], "config:write"),
        caller("tool", "sees", &["default"], "config:write values:read"),
        caller("reader", "reads", &["default"], "read"),
        caller("auditor", "audits", &["default"], "read values:read"),
    ];
    let config = format!(
        "{LATTICE}layout = \"component\"\nsettle = \"0s\"\n{}",
        callers.concat()
    );
    let mut gateway = TestGateway::serving_callers(&nats, &config).await;
    let put = |change: &dyn Fn(&mut PutConfigRequest)| {
        let mut put = put_config(named_config("http-cfg", "a-password"));
        put.request_id = "request-0001".into();
        change(&mut put);
        put
    };
    let rehearsed = put(&|put| put.validate_only = true);
    let retried = put(&|put| put.retry_age = Some(Duration::from_secs(1).into()));
    let unchanged = put(&|put| put.request_id.clear());
    for (token, values) in [("writes", 0), ("sees", 1)] {
        gateway = gateway.showing(token);
        for request in [&rehearsed, &put(&|_| {}), &retried, &unchanged] {
            let answered = gateway.put_config(request.clone()).await.unwrap();
            let config = answered.named_config.unwrap();
            assert_eq!(
                (config.name.as_str(), config.values.len()),
                ("http-cfg", values),
                "{token}"
            );
            assert_eq!(config.etag.is_empty(), request.validate_only);
        }
    }
    for (token, values) in [("reads", 0), ("audits", 1)] {
        gateway = gateway.showing(token);
        let get = GetConfigRequest {
            lattice: "default".into(),
            name: "http-cfg".into(),
            ..Default::default()
        };
        let got = told(gateway.configs().get_config(get).await).unwrap();
        assert_eq!(got.named_config.unwrap().values.len(), values, "{token}");
        let list = ListConfigsRequest {
            lattice: "default".into(),
            ..Default::default()
        };
        let listed = told(gateway.configs().list_configs(list).await).unwrap();
        assert_eq!(listed.named_configs[0].values.len(), values, "{token}");
    }
    // Not in what is refused either, nor in a metric.
    let gateway = gateway.showing("writes");
    let refused = gateway
        .put_config(put(&|put| {
            put.precondition = Some(Precondition::MustNotExist(true));
            put.request_id.clear();
        }))
        .await
        .unwrap_err();
    assert_eq!(refused.reason, ErrorReason::EntryExists);
    assert!(!format!("{refused:?}").contains("a-password"));
    assert!(!gateway.metrics().await.contains("a-password"));
}

#[tokio::test]
async fn unsigned_claims_need_a_verb_of_their_own() {
    let nats = Nats::start().await;
    let callers = [
        caller("writer", "writes", &["default"], WRITER),
        caller(
            "tool",
            "unsigned",
            &["default"],
            "claims:write claims:write-unsigned",
        ),
    ];
    let gateway = gateway_for(&nats, &callers.concat()).await.showing("writes");
    let unsigned = || PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Claims(Claims {
            public_key: ACTOR.into(),
            issuer: ACCOUNT.into(),
            name: "Unsigned".into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let refused = told(gateway.claims().put_claims(unsigned()).await).unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LatticeNotGranted);
    assert_eq!(refused.metadata["verb"], "claims:write-unsigned");
    let gateway = gateway.showing("unsigned");
    told(gateway.claims().put_claims(unsigned()).await).unwrap();
}

#[tokio::test]
async fn a_callers_limits_hold_for_it_alone() {
    let nats = Nats::start().await;
    let limited = format!(
        "{}limits = {{ requests_per_second = 1, burst = 3, entries_per_lattice = 2 }}\n",
        caller("limited", "limited", &["default"], WRITER)
    );
    let free = caller("free", "free", &["default"], WRITER);
    let mut gateway = gateway_for(&nats, &format!("{limited}{free}"))
        .await
        .showing("limited");
    let put = || put_link(link(&keys::actor(), PROVIDER, "value"));
    gateway.put(put()).await.unwrap();
    let mut second = put();
    gateway.put(second.clone()).await.unwrap();
    let full = gateway.put(put()).await.unwrap_err();
    assert_eq!(
        (full.code, full.reason),
        (Code::ResourceExhausted, ErrorReason::QuotaExceeded)
    );
    let often = gateway.put(put()).await.unwrap_err();
    assert_eq!(
        (often.code, often.reason),
        (Code::ResourceExhausted, ErrorReason::RateLimited)
    );
    let wait = often.retry_after.unwrap();
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(1),
        "{wait:?}"
    );
    // What is there may be changed, once the rate allows it.
    second.link_definition.as_mut().unwrap().values.clear();
    until("the rate allows another", async || {
        match gateway.put(second.clone()).await {
            Ok(answer) => Some(answer),
            Err(told) => {
                assert_eq!(told.reason, ErrorReason::RateLimited);
                None
            }
        }
    })
    .await;

    gateway = gateway.showing("free");
    for _ in 0..10 {
        gateway.put(put()).await.unwrap();
    }
}

/// A gateway that watches its configuration's file.
async fn gateway_of(file: &Path) -> TestGateway {
    TestGateway::with(Config::read(file).unwrap()).await
}

#[tokio::test]
async fn callers_change_while_the_gateway_runs_and_mistakes_change_nothing() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let own_file = folder.path().join("callers.toml");
    let text = format!(
        "callers_file = {own_file:?}\n{LATTICE}[nats]\nservers = {:?}\n[server]\nlisten = \"127.0.0.1:0\"\n",
        nats.url()
    );
    std::fs::write(&file, &text).unwrap();
    let one = caller("one", "first-token", &["default"], "read");
    let two = caller("two", "second-token", &["default"], "read");
    std::fs::write(&own_file, &one).unwrap();
    let gateway = gateway_of(&file).await.showing("second-token");
    assert_eq!(
        who_am_i(&gateway).await.unwrap_err().reason,
        ErrorReason::CredentialsInvalid
    );

    std::fs::write(&own_file, format!("{one}{two}")).unwrap();
    until("the new caller is let in", async || who_am_i(&gateway).await.ok()).await;

    std::fs::write(&own_file, "callers = 7").unwrap();
    until("the mistake is told", async || {
        let metrics = gateway.metrics().await;
        metrics
            .contains("lattice_gateway_config_is_current 0")
            .then_some(())
    })
    .await;
    assert_eq!(
        who_am_i(&gateway).await.unwrap(),
        "two",
        "the last good one is kept"
    );

    // As a mounted volume does it: another file takes the name.
    let other = folder.path().join("other.toml");
    std::fs::write(&other, &one).unwrap();
    std::fs::rename(&other, &own_file).unwrap();
    until("the removed caller is shut out", async || {
        who_am_i(&gateway).await.err()
    })
    .await;
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("lattice_gateway_config_is_current 1"));
    assert!(metrics.contains("lattice_gateway_config_reloads_total{result=\"taken-over\"} 2"));
}

fn lattice_gateway(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn explain_says_what_allows_or_denies() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let callers = caller("ci", "token", &["default", "team-*"], "read links:write");
    let operators = caller("ops", "other", &["*"], "provision");
    std::fs::write(&file, format!("{LATTICE}{callers}{operators}")).unwrap();
    let file = file.to_str().unwrap();
    for (who, lattice, verb, code, says) in [
        (
            "ci",
            "default",
            "read",
            0,
            "allowed, by the caller's grant number 1",
        ),
        (
            "ci",
            "default",
            "refs:write",
            1,
            "denied: on that lattice the caller is granted only read, links:write",
        ),
        ("ci", "team-a", "read", 1, "denied: the lattice is not served"),
        (
            "cd",
            "default",
            "read",
            1,
            "denied: the configuration has no such caller",
        ),
        (
            "ci",
            "default",
            "fly",
            64,
            "--verb: \"fly\" is no verb; there are read",
        ),
        ("ci", "a.b", "read", 64, "--lattice: "),
        (
            "ops",
            "*",
            "provision",
            0,
            "allowed, by the caller's grant number 1",
        ),
        (
            "ci",
            "*",
            "provision",
            1,
            "denied: none of the caller's grants names the lattice",
        ),
    ] {
        let asked = ["explain", "--config", file, "--caller", who];
        let asked = [&asked[..], &["--lattice", lattice, "--verb", verb]].concat();
        let (exit, text) = lattice_gateway(&asked);
        assert_eq!(exit, Some(code), "{who} {lattice} {verb}: {text}");
        assert!(text.contains(says), "{who} {lattice} {verb}: {text}");
    }
}

#[test]
fn a_made_token_is_new_each_time_and_comes_with_its_hash() {
    let make = || {
        let (exit, text) = lattice_gateway(&["token"]);
        assert_eq!(exit, Some(0));
        let of = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(": ").unwrap().1.trim().to_owned()
        };
        (of("token:"), of("token_sha256:"))
    };
    let (token, sha256) = make();
    assert_eq!(format!("{:x}", Sha256::digest(&token)), sha256);
    assert!(token.starts_with("lgw_") && token.len() == 47, "{token}");
    assert_ne!(make().0, token);
}
