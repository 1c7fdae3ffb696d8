//! `OciReferenceService`: what each call answers, and what it refuses.

use lattice_gateway::proto::{
    DeleteOciReferenceRequest, ErrorReason, GetOciReferenceRequest, ListOciReferencesRequest, OciReference,
    Outcome, SetOciReferenceRequest, SetOciReferenceResponse, WriteResult,
    set_oci_reference_request::Precondition,
};
use serde_json::json;
use tonic::Code;

use crate::harness::{Nats, TestGateway, Told, keys, told, until};

fn set(oci_url: &str, public_key: &str) -> SetOciReferenceRequest {
    SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url: oci_url.into(),
            public_key: public_key.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn was_set(
    gateway: &TestGateway,
    request: SetOciReferenceRequest,
) -> Result<SetOciReferenceResponse, Told> {
    told(gateway.references().set_oci_reference(request).await)
}

async fn result(gateway: &TestGateway, request: SetOciReferenceRequest) -> Result<WriteResult, ErrorReason> {
    let answer = was_set(gateway, request).await.map_err(|told| told.reason)?;
    Ok(answer.result.unwrap())
}

async fn got(gateway: &TestGateway, oci_url: &str) -> Result<OciReference, Told> {
    let request = GetOciReferenceRequest {
        lattice: "default".into(),
        oci_url: Some(oci_url.into()),
        ..Default::default()
    };
    let answer = told(gateway.references().get_oci_reference(request).await)?;
    Ok(answer.oci_reference.unwrap())
}

async fn all(gateway: &TestGateway, oci_url: &str, page_size: i32) -> Vec<String> {
    let mut request = ListOciReferencesRequest {
        lattice: "default".into(),
        oci_url: oci_url.into(),
        page_size,
        ..Default::default()
    };
    let mut urls = Vec::new();
    loop {
        let page = told(gateway.references().list_oci_references(request.clone()).await).unwrap();
        assert!(page.revision.is_some());
        urls.extend(page.oci_references.into_iter().map(|reference| reference.oci_url));
        if page.next_page_token.is_empty() {
            return urls;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_reference_is_kept_exactly_as_it_was_given() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let mut urls = [
        "echo",
        "docker.io/library/echo:latest",
        "echo:latest",
        "Registry.Example:5000/echo:UPPER_tag",
        "bindle://example.com/echo/0.12.0",
        "registry.example/echo@sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",
    ];
    for (number, url) in urls.into_iter().enumerate() {
        let key = if number % 2 == 0 { &actor } else { &provider };
        let answer = was_set(&gateway, set(url, key)).await.unwrap();
        let (stands, result) = (answer.oci_reference.unwrap(), answer.result.unwrap());
        assert_eq!((stands.oci_url.as_str(), &stands.public_key), (url, key));
        assert_eq!(result.outcome(), Outcome::Applied);
        assert_eq!((&stands.etag, &stands.revision), (&result.etag, &result.revision));
        assert!(stands.update_time.is_some());
        assert_eq!(got(&gateway, url).await.unwrap(), stands);
    }
    urls.sort_unstable();
    for page_size in [1, 2, 6, 7, 0] {
        assert_eq!(all(&gateway, "", page_size).await, urls, "page size {page_size}");
    }
    assert_eq!(all(&gateway, "echo", 0).await, ["echo"]);
    assert!(all(&gateway, "ech", 0).await.is_empty());
    let absent = got(&gateway, "docker.io/library/echo").await.unwrap_err();
    assert_eq!(
        (absent.code, absent.reason),
        (Code::NotFound, ErrorReason::EntryNotFound)
    );
}

#[tokio::test]
async fn setting_follows_the_rules_of_every_mutation() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (one, two) = (keys::actor(), keys::actor());
    let demanding = |key: &str, precondition| SetOciReferenceRequest {
        precondition: Some(precondition),
        ..set("echo", key)
    };
    let reason = async |request| result(&gateway, request).await.unwrap_err();
    assert_eq!(
        reason(demanding(&one, Precondition::MustExist(true))).await,
        ErrorReason::EntryNotFound
    );
    let mut create = demanding(&one, Precondition::MustNotExist(true));
    create.request_id = "request-create".into();
    let created = result(&gateway, create.clone()).await.unwrap();
    assert_eq!(created.outcome(), Outcome::Applied);
    let again = result(&gateway, create).await.unwrap();
    assert_eq!(
        (again.outcome(), &again.revision, &again.etag),
        (Outcome::AlreadyApplied, &created.revision, &created.etag)
    );
    assert_eq!(
        reason(demanding(&two, Precondition::MustNotExist(true))).await,
        ErrorReason::EntryExists
    );

    let unchanged = result(&gateway, set("echo", &one)).await.unwrap();
    assert_eq!(
        (unchanged.outcome(), unchanged.etag),
        (Outcome::Unchanged, created.etag.clone())
    );
    assert_eq!(nats.state("default").await, (1, 1));
    let mut recorded = set("echo", &one);
    recorded.request_id = "request-same".into();
    let recorded = result(&gateway, recorded).await.unwrap();
    assert_eq!(
        (recorded.outcome(), recorded.revision.unwrap().sequence),
        (Outcome::Unchanged, 2)
    );
    assert_eq!(
        reason(demanding(&two, Precondition::Etag(created.etag))).await,
        ErrorReason::EtagMismatch
    );
    let mut dry = demanding(&two, Precondition::Etag(recorded.etag.clone()));
    dry.validate_only = true;
    assert_eq!(
        result(&gateway, dry.clone()).await.unwrap().outcome(),
        Outcome::Validated
    );
    assert_eq!(got(&gateway, "echo").await.unwrap().public_key, one);
    dry.validate_only = false;
    assert_eq!(result(&gateway, dry).await.unwrap().outcome(), Outcome::Applied);
    assert_eq!(got(&gateway, "echo").await.unwrap().public_key, two);
    assert_eq!(nats.state("default").await, (1, 3));
}

#[tokio::test]
async fn hosts_have_no_form_in_which_a_reference_is_deleted() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    result(&gateway, set("echo", &keys::actor())).await.unwrap();
    for (oci_url, allow_missing) in [("echo", false), ("echo", true), ("absent", true)] {
        let delete = DeleteOciReferenceRequest {
            lattice: "default".into(),
            oci_url: Some(oci_url.into()),
            allow_missing,
            ..Default::default()
        };
        let told = told(gateway.references().delete_oci_reference(delete).await).unwrap_err();
        assert_eq!(
            (told.code, told.reason),
            (Code::FailedPrecondition, ErrorReason::LayoutUnsupported)
        );
        assert_eq!(told.metadata["layout"], "cache-stream");
    }
    assert_eq!(nats.state("default").await, (1, 1));
}

#[tokio::test]
async fn a_foreign_reference_is_found_by_the_url_in_its_body() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    nats.create_stream("default", serde_json::Value::Null).await;
    let body = |url: &str| json!({"oci_url": url, "public_key": "Modd"}).to_string();
    nats.publish_raw("lc.default.refmap.not-base64", body("HTTP://Odd Url\n"))
        .await;
    nats.publish_raw("lc.default.refmap.other", body("echo")).await;
    let found = until("the reference is seen", async || got(&gateway, "echo").await.ok()).await;
    assert_eq!(found.public_key, "Modd");
    assert_eq!(
        got(&gateway, "HTTP://Odd Url\n").await.unwrap().public_key,
        "Modd"
    );

    let actor = keys::actor();
    let replaced = result(&gateway, set("echo", &actor)).await.unwrap();
    assert_eq!(replaced.outcome(), Outcome::Applied);
    assert_eq!(got(&gateway, "echo").await.unwrap().public_key, actor);
    assert_eq!(all(&gateway, "", 0).await, ["HTTP://Odd Url\n", "echo"]);
}
