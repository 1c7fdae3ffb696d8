//! What every operation puts on the wire, byte for byte. Hosts read the bodies, other gateways the headers: what
//! changes here breaks one or the other.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use lattice_gateway::{
    proto::{
        Claims, DeleteLinkDefinitionRequest, LinkDefinition, OciReference, Outcome, ProvisionLatticeRequest,
        PutClaimsRequest, SetOciReferenceRequest, WriteResult,
        put_claims_request::{Precondition, Source},
    },
    store::evidence::{Applied, Evidence, NO_ENTRY, Past, Stamp},
};
use pbjson_types::Timestamp;
use serde_json::{Value, json};

use crate::harness::{
    Nats, TestGateway,
    api::{ACCOUNT, ACTOR, PROVIDER},
    nats::StoredMessage,
    put_link, told,
};

/// `examples/lattice/echo.jwt`, signed once and for all.
const TOKEN: &str = concat!(
    "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0.",
    "eyJpYXQiOjE3OTU1OTUwNDMsImlzcyI6IkFEUTdVS1lOSVdNQ1M1MzRMNldLWkY0WVlUTFM1QlFPTVg0SVJGNVU2WFZLMlVY",
    "M1I1V1NLQkYzIiwianRpIjoiMDFhMjExY2UwMWM5NzRlYTgwYWFiY2Y5MWVkYTA2ODIiLCJzdWIiOiJNQU1HRzYyNVE0Q05R",
    "UTJaVUpaSDJGTVJZVDRYUFhXUzY2U0REWFZWQ0NGTllXR1oyVldZS1BUNSIsIndhc2NhcCI6eyJjYWxsX2FsaWFzIjoiZWNo",
    "byIsImNhcHMiOlsid2FzbWNsb3VkOmh0dHBzZXJ2ZXIiLCJ3YXNtY2xvdWQ6YnVpbHRpbjpsb2dnaW5nIl0sImhhc2giOiI5",
    "M0E0NEJCQjk2Qzc1MTIxOEU0QzAwRDQ3OUU0QzE0MzU4MTIyQTM4OUFDQ0ExNjIwNUIxRTREMERDNUY5NDc2IiwibmFtZSI6",
    "IkVjaG8iLCJwcm92IjpmYWxzZSwicmV2Ijo0LCJ0YWdzIjpbImV4YW1wbGUiXSwidmVyIjoiMC4zLjQifX0.269S3yY9Kwnz",
    "SD7kFaK_1EDpbqOKJqxSpIG2ry35IOgTVDBnehGa4udueOyTVVEXuvainxZP3jLuKdzLXEu0AQ",
);
const TOKEN_ACTOR: &str = "MAMGG625Q4CNQQ2ZUJZH2FMRYT4XPXWS66SDDXVVCCFNYWGZ2VWYKPT5";

const LINK_SUBJECT: &str = "lc.default.linkdefs.bnYzgbwgZkc6XVxu6OnFyM";

/// A first write as the stream keeps it.
struct Golden {
    subject: &'static str,
    message_id: &'static str,
    evidence: &'static str,
    body: &'static str,
}

const PUT_LINK: Golden = Golden {
    subject: LINK_SUBJECT,
    message_id: "lg1-oiKhHVNlqeam8vAsiJSDom",
    evidence: "AQKiIqEdU2Wp5t98PFDA0VAoAA",
    body: r#"{"actor_id":"MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5","contract_id":"wasmcloud:httpserver","deleted":false,"id":"bnYzgbwgZkc6XVxu6OnFyM","link_name":"default","provider_id":"VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N","values":{"address":"0.0.0.0:8080","greeting":"grüß \"Gott\"\n"}}"#,
};

const SET_REFERENCE: Golden = Golden {
    subject: "lc.default.refmap.cmVnaXN0cnkuZXhhbXBsZS5jb206NTAwMC9lY2hvOjAuMy40",
    message_id: "lg1-mabp9DoW7u5ZVDPolOyllp",
    evidence: "AQKZpun0Ohbu7hBYn8QTJyQaAA",
    body: r#"{"oci_url":"registry.example.com:5000/echo:0.3.4","public_key":"MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5"}"#,
};

const PUT_SIGNED_CLAIMS: Golden = Golden {
    subject: "lc.default.claims.MAMGG625Q4CNQQ2ZUJZH2FMRYT4XPXWS66SDDXVVCCFNYWGZ2VWYKPT5",
    message_id: "lg1-ryQ_oDpz6MFl6QLsb3oEAp",
    evidence: "AQKvJD-gOnPowdx9dsYRiLWGAA",
    body: r#"{"call_alias":"echo","caps":"wasmcloud:httpserver,wasmcloud:builtin:logging","iss":"ADQ7UKYNIWMCS534L6WKZF4YYTLS5BQOMX4IRF5U6XVK2UX3R5WSKBF3","name":"Echo","rev":"4","sub":"MAMGG625Q4CNQQ2ZUJZH2FMRYT4XPXWS66SDDXVVCCFNYWGZ2VWYKPT5","tags":"example","version":"0.3.4"}"#,
};

const PUT_UNSIGNED_CLAIMS: Golden = Golden {
    subject: "lc.default.claims.VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N",
    message_id: "lg1-5XWN5faleDOiw0jtp336KV",
    evidence: "AQLldY3l9qV4M1EIcMP1MwO2AA",
    body: r#"{"call_alias":"","caps":"","iss":"ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW","name":"HTTP Server","rev":"0","sub":"VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N","tags":"a,b","version":""}"#,
};

const DELETE_LINK_MESSAGE_ID: &str = "lg1-SGo4LswdvUgkLmKjKWUavn";
const DELETE_LINK_BODY: &str = r#"{"actor_id":"MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5","contract_id":"wasmcloud:httpserver","deleted":true,"id":"bnYzgbwgZkc6XVxu6OnFyM","link_name":"default","provider_id":"VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N","values":{}}"#;

/// All headers; none may stand twice.
fn headers(message: &StoredMessage) -> BTreeMap<&str, &str> {
    let block = message.headers.strip_prefix("NATS/1.0\r\n").unwrap();
    let lines = block.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
    let mut headers = BTreeMap::new();
    for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
        assert_eq!(headers.insert(name, value), None, "{name} stands twice");
    }
    headers
}

fn expected_headers<'a>(
    message_id: &'a str,
    expected_sequence: &'a str,
    evidence: &'a str,
) -> BTreeMap<&'a str, &'a str> {
    [
        ("Nats-Msg-Id", message_id),
        ("Nats-Expected-Stream", "LATTICECACHE_default"),
        ("Nats-Expected-Last-Subject-Sequence", expected_sequence),
        ("Lattice-Gateway-Evidence", evidence),
    ]
    .into()
}

async fn assert_stored(nats: &Nats, result: Option<WriteResult>, golden: &Golden) {
    let result = result.unwrap();
    assert_eq!(result.outcome(), Outcome::Applied);
    let stored = nats.last("default", golden.subject).await.unwrap();
    assert_eq!(stored.body, golden.body);
    assert_eq!(
        headers(&stored),
        expected_headers(golden.message_id, "0", golden.evidence)
    );
    assert_eq!(stored.sequence, result.revision.unwrap().sequence);
}

#[tokio::test]
async fn first_writes_are_stored_to_the_byte_as_they_always_were() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;

    let put = gateway.put(golden_link()).await.unwrap();
    assert_stored(&nats, put.result, &PUT_LINK).await;

    let reference = SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url: "registry.example.com:5000/echo:0.3.4".into(),
            public_key: ACTOR.into(),
            ..Default::default()
        }),
        request_id: "golden-set-reference".into(),
        ..Default::default()
    };
    let set = told(gateway.references().set_oci_reference(reference).await).unwrap();
    assert_stored(&nats, set.result, &SET_REFERENCE).await;

    let signed = PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Jwt(TOKEN.into())),
        request_id: "golden-put-signed".into(),
        ..Default::default()
    };
    let put = told(gateway.claims().put_claims(signed).await).unwrap();
    assert_eq!(put.claims.unwrap().public_key, TOKEN_ACTOR);
    assert_stored(&nats, put.result, &PUT_SIGNED_CLAIMS).await;

    let unsigned = PutClaimsRequest {
        lattice: "default".into(),
        source: Some(Source::Claims(Claims {
            public_key: PROVIDER.into(),
            issuer: ACCOUNT.into(),
            name: "HTTP Server".into(),
            tags: vec!["a".into(), "b".into()],
            ..Default::default()
        })),
        request_id: "golden-put-unsigned".into(),
        precondition: Some(Precondition::MustNotExist(true)),
        ..Default::default()
    };
    let put = told(gateway.claims().put_claims(unsigned).await).unwrap();
    assert_stored(&nats, put.result, &PUT_UNSIGNED_CLAIMS).await;
}

fn golden_link() -> lattice_gateway::proto::PutLinkDefinitionRequest {
    let values = [("greeting", "grüß \"Gott\"\n"), ("address", "0.0.0.0:8080")];
    let mut put = put_link(LinkDefinition {
        actor_id: ACTOR.into(),
        provider_id: PROVIDER.into(),
        contract_id: "wasmcloud:httpserver".into(),
        values: values
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..Default::default()
    });
    put.request_id = "golden-put-link".into();
    put
}

/// When the stream stored a message, as evidence writes it: milliseconds, rounded up.
fn unix_millis(time: &Timestamp) -> i64 {
    time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000 + 1
}

#[tokio::test]
async fn a_delete_is_a_full_tombstone_that_carries_the_put_on_record() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    // So that the put's own sequence is not 1.
    nats.create_stream("default", Value::Null).await;
    nats.publish_raw("lc.default.refmap.x", r#"{"oci_url":"x","public_key":"M"}"#)
        .await;
    let put = gateway.put(golden_link()).await.unwrap();
    let stored_at = unix_millis(&put.link_definition.unwrap().update_time.unwrap());

    let delete = DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:httpserver".into()),
        request_id: "golden-delete-link".into(),
        ..Default::default()
    };
    told(gateway.links().delete_link_definition(delete).await).unwrap();
    let stored = nats.last("default", LINK_SUBJECT).await.unwrap();
    assert_eq!(stored.body, DELETE_LINK_BODY);
    let stamp = |id: u64, fingerprint: u64| Stamp {
        id: id.to_be_bytes(),
        fingerprint: fingerprint.to_be_bytes(),
        generated: false,
        entry: NO_ENTRY,
    };
    let evidence = Evidence {
        own: stamp(0x486a_382e_cc1d_bd48, 0x93e5_f55f_0210_917d),
        others: Vec::new(),
        // The put began the entry: what had been there before it was on no record.
        past: Past::default().forgotten_until(stored_at).with(Applied {
            stamp: stamp(0xa222_a11d_5365_a9e6, 0xdf7c_3c50_c0d1_5028),
            sequence: 2,
            unix_millis: stored_at,
        }),
        began: false,
    };
    assert_eq!(
        headers(&stored),
        expected_headers(DELETE_LINK_MESSAGE_ID, "2", &evidence.encode())
    );
    assert_eq!(stored.sequence, 3);
}

#[tokio::test]
async fn a_stream_is_asked_for_as_hosts_ask_for_it() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let client = nats.client().await;
    let mut requests = client.subscribe("$JS.API.STREAM.CREATE.>").await.unwrap();
    client.flush().await.unwrap();
    let request = ProvisionLatticeRequest {
        lattice: "default".into(),
        ..Default::default()
    };
    told(gateway.lattices().provision_lattice(request).await).unwrap();
    let request = requests.next().await.unwrap();
    assert_eq!(
        request.subject.as_str(),
        "$JS.API.STREAM.CREATE.LATTICECACHE_default"
    );
    assert_eq!(request.headers, None);
    let body: Value = serde_json::from_slice(&request.payload).unwrap();
    assert_eq!(
        body,
        json!({
            "name": "LATTICECACHE_default", "subjects": ["lc.default.>"], "retention": "limits", "max_consumers": -1,
            "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msg_size": -1,
            "storage": "memory", "discard": "old", "num_replicas": 1, "duplicate_window": 120_000_000_000_u64,
        })
    );
}
