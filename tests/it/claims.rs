//! `ClaimsService`: what each call answers, and what it refuses.

use lattice_gateway::{
    config::Config,
    proto::{
        Claims, DeleteClaimsRequest, ErrorReason, GetClaimsRequest, ListClaimsRequest, Outcome,
        PutClaimsRequest, PutClaimsResponse,
        put_claims_request::{Precondition, Source},
    },
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Nats, TestGateway, Told, keys, told, until};

fn put(source: Source) -> PutClaimsRequest {
    PutClaimsRequest {
        lattice: "default".into(),
        source: Some(source),
        ..Default::default()
    }
}

fn put_token(token: &str) -> PutClaimsRequest {
    put(Source::Jwt(token.to_owned()))
}

fn unsigned(public_key: &str) -> Claims {
    Claims {
        public_key: public_key.into(),
        issuer: KeyPair::new_account().public_key(),
        name: "Unsigned".into(),
        ..Default::default()
    }
}

async fn was_put(gateway: &TestGateway, request: PutClaimsRequest) -> Result<PutClaimsResponse, Told> {
    told(gateway.claims().put_claims(request).await)
}

async fn outcome(gateway: &TestGateway, request: PutClaimsRequest) -> Outcome {
    was_put(gateway, request).await.unwrap().result.unwrap().outcome()
}

async fn got(gateway: &TestGateway, public_key: &str) -> Result<Claims, Told> {
    let request = GetClaimsRequest {
        lattice: "default".into(),
        public_key: public_key.into(),
        ..Default::default()
    };
    Ok(told(gateway.claims().get_claims(request).await)?.claims.unwrap())
}

async fn all(gateway: &TestGateway, public_key: &str, page_size: i32) -> Vec<String> {
    let mut request = ListClaimsRequest {
        lattice: "default".into(),
        public_key: public_key.into(),
        page_size,
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = told(gateway.claims().list_claims(request.clone()).await).unwrap();
        listed.extend(page.claims.into_iter().map(|claims| claims.public_key));
        if page.next_page_token.is_empty() {
            return listed;
        }
        request.page_token = page.next_page_token;
    }
}

/// What of claims a caller gives.
fn said(claims: &Claims) -> Claims {
    Claims {
        etag: String::new(),
        revision: None,
        update_time: None,
        ..claims.clone()
    }
}

#[tokio::test]
async fn a_token_is_flattened_and_stored_as_hosts_do() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let account = KeyPair::new_account();
    let issuer = account.public_key();

    let (token, actor) = keys::actor_token(&account, json!({}));
    let answer = was_put(&gateway, put_token(&token)).await.unwrap();
    let (stands, result) = (answer.claims.unwrap(), answer.result.unwrap());
    assert_eq!(result.outcome(), Outcome::Applied);
    assert_eq!((&stands.etag, &stands.revision), (&result.etag, &result.revision));
    assert!(stands.update_time.is_some() && !stands.etag.is_empty());
    let expected = Claims {
        public_key: actor.clone(),
        issuer: issuer.clone(),
        name: "Echo".into(),
        call_alias: "echo".into(),
        capabilities: vec!["wasmcloud:httpserver".into()],
        tags: vec!["a".into(), "b".into()],
        claims_revision: "4".into(),
        version: "0.3.4".into(),
        ..Default::default()
    };
    assert_eq!(said(&stands), expected);
    assert_eq!(got(&gateway, &actor).await.unwrap(), stands);
    let stored = nats
        .last("default", &format!("lc.default.claims.{actor}"))
        .await
        .unwrap();
    assert_eq!(
        stored.body,
        format!(
            r#"{{"call_alias":"echo","caps":"wasmcloud:httpserver","iss":"{issuer}","name":"Echo","rev":"4","sub":"{actor}","tags":"a,b","version":"0.3.4"}}"#
        )
    );

    // Of a provider hosts keep neither alias nor contract ids nor tags; the time of issue stands in for its revision.
    let provider = keys::provider();
    let wascap = json!({
        "name": "HTTP Server", "capid": "wasmcloud:httpserver", "vendor": "wasmCloud", "ver": "0.14.0",
        "target_hashes": {"x86_64-linux": "AB"},
    });
    let (token, _) = keys::actor_token(&account, json!({"sub": provider, "wascap": wascap}));
    let stands = was_put(&gateway, put_token(&token))
        .await
        .unwrap()
        .claims
        .unwrap();
    assert_eq!(
        (stands.public_key.as_str(), stands.claims_revision.as_str()),
        (provider.as_str(), "1631827501")
    );
    let stored = nats
        .last("default", &format!("lc.default.claims.{provider}"))
        .await
        .unwrap();
    assert_eq!(
        stored.body,
        format!(
            r#"{{"call_alias":"","caps":"","iss":"{issuer}","name":"HTTP Server","rev":"1631827501","sub":"{provider}","tags":"","version":"0.14.0"}}"#
        )
    );

    let mut both = [actor.clone(), provider];
    both.sort_unstable();
    for page_size in [1, 2, 0] {
        assert_eq!(all(&gateway, "", page_size).await, both);
    }
    assert_eq!(all(&gateway, &actor, 0).await, [actor]);
    let absent = got(&gateway, &keys::actor()).await.unwrap_err();
    assert_eq!(
        (absent.code, absent.reason),
        (Code::NotFound, ErrorReason::EntryNotFound)
    );
}

#[tokio::test]
async fn putting_follows_the_rules_of_every_mutation() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let account = KeyPair::new_account();
    let (token, actor) = keys::actor_token(&account, json!({}));
    // The same claims under another signature.
    let (other_token, _) = keys::actor_token(&account, json!({"sub": actor, "jti": "other"}));
    let (changed, _) = keys::actor_token(&account, json!({"sub": actor, "wascap": {"name": "Changed"}}));
    assert_ne!(token, other_token);

    let mut dry = put_token(&token);
    dry.validate_only = true;
    assert_eq!(outcome(&gateway, dry).await, Outcome::Validated);
    assert_eq!(
        got(&gateway, &actor).await.unwrap_err().reason,
        ErrorReason::NotProvisioned,
        "a rehearsal does not even create the stream"
    );

    let mut create = put_token(&token);
    create.request_id = "request-create".into();
    create.precondition = Some(Precondition::MustNotExist(true));
    let created = was_put(&gateway, create.clone()).await.unwrap();
    let retried = was_put(&gateway, create.clone()).await.unwrap();
    assert_eq!(retried.claims, created.claims);
    let (created, retried) = (created.result.unwrap(), retried.result.unwrap());
    assert_eq!(
        (created.outcome(), retried.outcome()),
        (Outcome::Applied, Outcome::AlreadyApplied)
    );
    create.source = Some(Source::Jwt(other_token.clone()));
    let reused = was_put(&gateway, create).await.unwrap_err();
    assert_eq!(reused.reason, ErrorReason::RequestIdReused);

    assert_eq!(
        outcome(&gateway, put_token(&other_token)).await,
        Outcome::Unchanged
    );
    let stands = got(&gateway, &actor).await.unwrap();
    assert_eq!(
        outcome(&gateway, put(Source::Claims(stands.clone()))).await,
        Outcome::Unchanged,
        "what was read can be put back"
    );
    assert_eq!(nats.state("default").await, (1, 1));

    let mut stale = put_token(&changed);
    stale.precondition = Some(Precondition::MustNotExist(true));
    let told = was_put(&gateway, stale.clone()).await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::AlreadyExists, ErrorReason::EntryExists)
    );
    stale.precondition = Some(Precondition::Etag(created.etag));
    assert_eq!(outcome(&gateway, stale.clone()).await, Outcome::Applied);
    let told = was_put(&gateway, stale).await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::Aborted, ErrorReason::EtagMismatch)
    );
    let mut other = put(Source::Claims(unsigned(&keys::actor())));
    other.precondition = Some(Precondition::MustExist(true));
    let told = was_put(&gateway, other).await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::NotFound, ErrorReason::EntryNotFound)
    );

    let delete = DeleteClaimsRequest {
        lattice: "default".into(),
        public_key: actor,
        ..Default::default()
    };
    let told = crate::harness::told(gateway.claims().delete_claims(delete).await).unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::FailedPrecondition, ErrorReason::LayoutUnsupported)
    );
    assert_eq!(told.metadata["layout"], "cache-stream");
    assert_eq!(nats.state("default").await, (1, 2));
}

#[tokio::test]
async fn a_token_out_of_its_time_is_refused() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let account = KeyPair::new_account();
    let far = 4_000_000_000_u64;
    for (times, cause) in [
        (json!({"exp": 1_631_827_502}), "expired"),
        (json!({"exp": 0}), "expired"),
        (json!({"nbf": far}), "not_yet_valid"),
        (json!({"nbf": far, "exp": 1_631_827_502}), "not_yet_valid"),
    ] {
        let (token, _) = keys::actor_token(&account, times);
        for validate_only in [true, false] {
            let request = PutClaimsRequest {
                validate_only,
                ..put_token(&token)
            };
            let told = was_put(&gateway, request).await.unwrap_err();
            assert_eq!(
                (told.code, told.reason),
                (Code::InvalidArgument, ErrorReason::ClaimsInvalid)
            );
            assert_eq!(told.metadata["cause"], cause);
            assert_eq!(told.fields, ["jwt"]);
            assert!(!told.message.contains(&token));
        }
    }
    let (token, _) = keys::actor_token(&account, json!({"exp": far, "nbf": 1_631_827_501}));
    assert_eq!(outcome(&gateway, put_token(&token)).await, Outcome::Applied);
    assert_eq!(nats.state("default").await, (1, 1));
}

#[tokio::test]
async fn the_retry_of_an_applied_put_is_answered_even_where_its_issuer_is_not_trusted() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let (account, stranger) = (KeyPair::new_account(), KeyPair::new_account());
    let trusting = async |issuers: Value| {
        let text = format!("[lattices.default]\ntrusted_issuers = {issuers}\n");
        TestGateway::serving(&nats, &text).await
    };
    let first = trusting(json!([account.public_key()])).await;
    let second = trusting(json!([stranger.public_key()])).await;
    let third = trusting(json!([])).await;

    let (token, actor) = keys::actor_token(&account, json!({}));
    let mut request = put_token(&token);
    request.request_id = "request-0001".into();
    let applied = was_put(&first, request.clone()).await.unwrap().result.unwrap();
    assert_eq!(applied.outcome(), Outcome::Applied);
    for gateway in [&second, &third] {
        let again = was_put(gateway, request.clone()).await.unwrap().result.unwrap();
        assert_eq!(again.outcome(), Outcome::AlreadyApplied);
        assert_eq!((again.revision, &again.etag), (applied.revision, &applied.etag));

        let mut anew = request.clone();
        anew.request_id = "request-0002".into();
        let told = was_put(gateway, anew).await.unwrap_err();
        assert_eq!(
            (told.code, told.reason),
            (Code::InvalidArgument, ErrorReason::ClaimsInvalid)
        );
        assert_eq!(told.metadata["cause"], "issuer_not_trusted");
    }
    let (token, _) = keys::actor_token(&stranger, json!({"sub": actor}));
    let told = was_put(&first, put_token(&token)).await.unwrap_err();
    assert_eq!(told.metadata["cause"], "issuer_not_trusted");
    assert_eq!(outcome(&second, put_token(&token)).await, Outcome::Applied);
    assert_eq!(nats.state("default").await, (1, 2));
}

#[tokio::test]
async fn serving_needs_trusted_issuers_and_refuses_unsigned_claims() {
    for (text, mistake) in [
        ("[lattices.default]\n", "trusted_issuers"),
        (
            "[lattices.default]\ntrusted_issuers = [\"M\"]\n",
            "trusted_issuers",
        ),
        (
            "[lattices.default]\ntrusted_issuers = [\"*\", \"ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW\"]\n",
            "trusted_issuers",
        ),
        ("", "lattices"),
    ] {
        let mistakes = Config::parse(text, std::iter::empty()).unwrap_err().to_string();
        assert!(mistakes.contains(mistake), "{mistakes}");
    }
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let gateway = TestGateway::serving(&nats, "[lattices.default]\ntrusted_issuers = [\"*\"]\n").await;
    let request = put(Source::Claims(unsigned(&keys::actor())));
    let told = was_put(&gateway, request).await.unwrap_err();
    assert_eq!(
        (told.code, told.reason),
        (Code::PermissionDenied, ErrorReason::LatticeNotGranted)
    );
    assert_eq!(told.metadata["verb"], "claims:write-unsigned");
    let (token, _) = keys::actor_token(&KeyPair::new_account(), json!({}));
    assert_eq!(outcome(&gateway, put_token(&token)).await, Outcome::Applied);
    assert_eq!(nats.state("default").await, (1, 1));
}

#[tokio::test]
async fn unsigned_claims_are_stored_as_they_are_given() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    for key in [keys::actor(), keys::provider()] {
        let claims = Claims {
            call_alias: "some/alias_1".into(),
            capabilities: vec!["wasmcloud:httpserver".into(), "wasmcloud:keyvalue".into()],
            tags: vec!["größe".into(), "with space".into()],
            claims_revision: "2147483647".into(),
            version: "1.0.0 \"beta\"".into(),
            ..unsigned(&key)
        };
        let stands = was_put(&gateway, put(Source::Claims(claims.clone())))
            .await
            .unwrap();
        assert_eq!(said(&stands.claims.unwrap()), claims);
        let least = unsigned(&key);
        let stands = was_put(&gateway, put(Source::Claims(least.clone())))
            .await
            .unwrap();
        let expected = Claims {
            claims_revision: "0".into(),
            ..least
        };
        assert_eq!(said(&stands.claims.unwrap()), expected);
    }
}

#[tokio::test]
async fn claims_of_hosts_are_read_whatever_they_hold() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    nats.create_stream("default", Value::Null).await;
    let written = [
        // As hosts write where a module has no version, and as the JavaScript host leaves members out.
        (
            keys::actor(),
            json!({"call_alias": "", "caps": "a,b", "iss": "A", "name": "N", "rev": "1", "tags": "", "version": null}),
        ),
        (
            "odd-key".to_owned(),
            json!({"call_alias": "x", "name": 7, "rev": 7}),
        ),
        ("ünïcode".to_owned(), json!({"call_alias": null})),
    ];
    for (key, body) in &written {
        nats.publish_raw(&format!("lc.default.claims.{key}"), body.to_string())
            .await;
    }
    until("all are seen", async || {
        (all(&gateway, "", 0).await.len() == written.len()).then_some(())
    })
    .await;
    let shown = [
        Claims {
            public_key: written[0].0.clone(),
            issuer: "A".into(),
            name: "N".into(),
            capabilities: vec!["a".into(), "b".into()],
            claims_revision: "1".into(),
            ..Default::default()
        },
        Claims {
            public_key: "odd-key".into(),
            call_alias: "x".into(),
            name: "7".into(),
            claims_revision: "7".into(),
            ..Default::default()
        },
        Claims {
            public_key: "ünïcode".into(),
            ..Default::default()
        },
    ];
    for expected in shown {
        let claims = got(&gateway, &expected.public_key).await.unwrap();
        assert!(claims.update_time.is_some() && !claims.etag.is_empty());
        assert_eq!(said(&claims), expected);
    }
}
