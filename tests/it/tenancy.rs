//! Every RPC on a lattice that is not the caller's: refused, by one path, whatever there is.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lattice_gateway::proto::{
    Claims, ErrorReason, ListLatticesRequest, PutClaimsRequest, put_claims_request::Source,
};
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACCOUNT, ACTOR},
    told,
};

const GRANTED: &str = "granted";
/// There, and not the caller's.
const UNGRANTED: &str = "foreign";
/// Not there.
const UNKNOWN: &str = "unknown";

const CONFIG: &str = "[lattices.granted]\ntrusted_issuers = [\"*\"]\n";

/// The verb that each RPC needs; none for those that are about no one lattice.
const VERBS: [(&str, Option<&str>); 16] = [
    ("ClaimsService/PutClaims", Some("claims:write")),
    ("ClaimsService/GetClaims", Some("read")),
    ("ClaimsService/ListClaims", Some("read")),
    ("ClaimsService/DeleteClaims", Some("claims:write")),
    ("LinkDefinitionService/PutLinkDefinition", Some("links:write")),
    ("LinkDefinitionService/GetLinkDefinition", Some("read")),
    ("LinkDefinitionService/ListLinkDefinitions", Some("read")),
    ("LinkDefinitionService/DeleteLinkDefinition", Some("links:write")),
    ("OciReferenceService/SetOciReference", Some("refs:write")),
    ("OciReferenceService/GetOciReference", Some("read")),
    ("OciReferenceService/ListOciReferences", Some("read")),
    ("OciReferenceService/DeleteOciReference", Some("refs:write")),
    ("LatticeService/ListLattices", None),
    ("LatticeService/GetLattice", Some("read")),
    ("LatticeService/ProvisionLattice", Some("provision")),
    ("LatticeService/GetServerInfo", None),
];

#[test]
fn every_rpc_has_a_row() {
    let rows = VERBS.iter().map(|(method, _)| (*method).to_owned());
    let methods = api::methods();
    assert_eq!(rows.collect::<BTreeSet<_>>(), methods.into_iter().collect());
}

async fn refusal(gateway: &TestGateway, method: &str, request: Vec<u8>) -> Told {
    Told::from(gateway.call(method, request).await.unwrap_err())
}

#[tokio::test]
async fn a_lattice_that_is_not_granted_and_one_that_is_not_there_are_refused_alike() {
    let nats = Nats::start().await;
    for lattice in [GRANTED, UNGRANTED] {
        nats.create_stream(lattice, Value::Null).await;
    }
    let body = json!({"call_alias": "", "name": "Secret"});
    nats.publish_raw(&format!("lc.{UNGRANTED}.claims.{ACTOR}"), body.to_string())
        .await;
    let gateway = TestGateway::serving(&nats, CONFIG).await;
    let tap = nats.client().await;
    let mut tapped = tap.subscribe(">").await.unwrap();
    tap.flush().await.unwrap();

    for (method, verb) in VERBS {
        let Some(verb) = verb else { continue };
        let mut texts = BTreeSet::new();
        for lattice in [UNGRANTED, UNKNOWN] {
            let told = refusal(&gateway, method, api::valid_request(method, lattice)).await;
            assert_eq!(
                (told.code, told.reason),
                (Code::PermissionDenied, ErrorReason::LatticeNotGranted),
                "{method}"
            );
            let metadata = [("lattice", lattice), ("verb", verb)];
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(told.metadata, metadata.into(), "{method}");
            assert!(told.fields.is_empty() && told.retry_after.is_none());
            texts.insert(told.message.replace(lattice, "…"));
        }
        assert_eq!(texts.len(), 1, "{method}: {texts:?}");
    }
    let unsigned = |lattice: &str| {
        PutClaimsRequest {
            lattice: lattice.to_owned(),
            source: Some(Source::Claims(Claims {
                public_key: ACTOR.into(),
                issuer: ACCOUNT.into(),
                name: "Unsigned".into(),
                ..Default::default()
            })),
            ..Default::default()
        }
        .encode_to_vec()
    };
    for lattice in [GRANTED, UNGRANTED, UNKNOWN] {
        let told = refusal(&gateway, "ClaimsService/PutClaims", unsigned(lattice)).await;
        assert_eq!(told.reason, ErrorReason::LatticeNotGranted, "{lattice}");
        assert_eq!(told.metadata["verb"], "claims:write-unsigned");
    }

    // Nobody was even asked about those lattices.
    tap.publish("the.end", "".into()).await.unwrap();
    loop {
        let message = tapped.next().await.unwrap();
        let subject = message.subject.as_str();
        if subject == "the.end" {
            break;
        }
        for lattice in [UNGRANTED, UNKNOWN] {
            assert!(!subject.contains(lattice), "{subject}");
            let asked = String::from_utf8_lossy(&message.payload);
            assert!(
                subject.starts_with("_INBOX") || !asked.contains(lattice),
                "{subject}: {asked}"
            );
        }
    }
}

#[tokio::test]
async fn the_callers_own_lattice_is_served_and_alone_is_listed() {
    let nats = Nats::start().await;
    for lattice in [GRANTED, UNGRANTED, "granted-not", "not-granted"] {
        nats.create_stream(lattice, Value::Null).await;
    }
    let gateway = TestGateway::serving(&nats, CONFIG).await;
    for (method, _) in VERBS {
        if let Err(status) = gateway.call(method, api::valid_request(method, GRANTED)).await {
            let told = Told::from(status);
            let expected = if method.contains("/Delete") {
                ErrorReason::LayoutUnsupported
            } else {
                ErrorReason::EntryNotFound
            };
            assert_eq!(told.reason, expected, "{method}");
        }
    }
    let names = async |gateway: &TestGateway| {
        let request = ListLatticesRequest::default();
        let page = told(gateway.lattices().list_lattices(request).await).unwrap();
        page.lattices
            .into_iter()
            .map(|lattice| lattice.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&gateway).await, [GRANTED]);
    // A glob is over whole names.
    let globbing = TestGateway::serving(&nats, "[lattices.'granted*']\ntrusted_issuers = [\"*\"]\n").await;
    assert_eq!(names(&globbing).await, [GRANTED, "granted-not"]);
    let none = TestGateway::serving(&nats, "[lattices.elsewhere]\ntrusted_issuers = [\"*\"]\n").await;
    assert_eq!(names(&none).await, [""; 0]);
}
