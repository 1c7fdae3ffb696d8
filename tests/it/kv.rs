//! Lattices of wasmCloud 0.60 to 0.82: claims, link definitions and references in one bucket.

use std::time::Duration;

use lattice_gateway::{
    control::lattices::Layout,
    proto::{
        Claims, Consistency, DeleteClaimsRequest, DeleteLinkDefinitionRequest, ErrorReason,
        GetLatticeRequest, LinkDefinition, ListLinkDefinitionsRequest, OciReference, Outcome,
        PutClaimsRequest, PutLinkDefinitionRequest, SetOciReferenceRequest, WriteResult,
        consistency::Requirement, put_claims_request::Source,
    },
};
use serde_json::{Value, json};

use crate::harness::{
    Bucket, Nats, TestGateway, Told,
    api::{ACCOUNT, ACTOR, PROVIDER},
    link, put_link, told, until,
};

struct Stand {
    nats: Nats,
    gateway: TestGateway,
    data: Bucket,
}

impl Stand {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let gateway = TestGateway::dev_with(&nats, Layout::Kv).await;
        let data = Bucket::data(&nats, "default").await;
        Self { nats, gateway, data }
    }

    async fn put_claims(&self, claims: Claims) -> Result<WriteResult, Told> {
        let put = PutClaimsRequest {
            lattice: "default".into(),
            source: Some(Source::Claims(claims)),
            ..PutClaimsRequest::default()
        };
        told(self.gateway.claims().put_claims(put).await).map(|put| put.result.unwrap())
    }

    async fn delete_claims(&self, key: &str) -> Result<WriteResult, Told> {
        let delete = DeleteClaimsRequest {
            lattice: "default".into(),
            public_key: key.into(),
            ..DeleteClaimsRequest::default()
        };
        told(self.gateway.claims().delete_claims(delete).await).map(|gone| gone.result.unwrap())
    }

    async fn links(&self) -> Vec<LinkDefinition> {
        let list = ListLinkDefinitionsRequest {
            lattice: "default".into(),
            consistency: Some(Consistency {
                requirement: Some(Requirement::FullyConsistent(true)),
            }),
            ..ListLinkDefinitionsRequest::default()
        };
        told(self.gateway.links().list_link_definitions(list).await)
            .unwrap()
            .link_definitions
    }
}

fn claims(public_key: &str, contract_id: &str) -> Claims {
    Claims {
        public_key: public_key.into(),
        issuer: ACCOUNT.into(),
        name: "Echo".into(),
        claims_revision: "4".into(),
        version: "0.3.4".into(),
        contract_id: contract_id.into(),
        ..Claims::default()
    }
}

fn delete(link: &LinkDefinition, request_id: &str) -> DeleteLinkDefinitionRequest {
    DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(link.actor_id.clone()),
        contract_id: Some(link.contract_id.clone()),
        request_id: request_id.into(),
        ..DeleteLinkDefinitionRequest::default()
    }
}

/// The hash is one that a real host of 0.60 made (wasmCloud OTP, pull request 536).
#[tokio::test]
async fn entries_are_written_as_hosts_write_them() {
    let stand = Stand::start().await;
    let actor = "MC7KRLM6QAMNTJY2S7YEMINQ27CADS2UT27EYT4CBQHLZAMGYBRYAIYD";
    let messaging = LinkDefinition {
        contract_id: "wasmcloud:messaging".into(),
        ..link(actor, PROVIDER, "v")
    };
    stand.gateway.put(put_link(messaging.clone())).await.unwrap();
    let hash = "13599B7EBAA569030B1B9580585B05B2980682D5717F7C9E1910F27339D47F3D";
    let key = format!("LINKDEF_{hash}");
    assert_eq!(
        stand.data.last(&key).await.unwrap().body,
        format!(
            r#"{{"actor_id":"{actor}","contract_id":"wasmcloud:messaging","id":"{hash}","link_name":"default","provider_id":"{PROVIDER}","values":{{"value":"v"}}}}"#
        )
    );
    stand
        .put_claims(claims(PROVIDER, "wasmcloud:messaging"))
        .await
        .unwrap();
    assert_eq!(
        stand.data.last(&format!("CLAIMS_{PROVIDER}")).await.unwrap().body,
        format!(
            r#"{{"call_alias":"","caps":"","contract_id":"wasmcloud:messaging","iss":"{ACCOUNT}","name":"Echo","rev":"4","sub":"{PROVIDER}","tags":"","version":"0.3.4"}}"#
        )
    );
    let set = SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url: "wasmcloud.azurecr.io/echo:0.3.4".into(),
            public_key: ACTOR.into(),
            ..OciReference::default()
        }),
        ..SetOciReferenceRequest::default()
    };
    told(stand.gateway.references().set_oci_reference(set).await).unwrap();
    let reference = stand
        .data
        .value("REFMAP_d2FzbWNsb3VkLmF6dXJlY3IuaW8vZWNobzowLjMuNA")
        .await;
    assert_eq!(reference["public_key"], ACTOR);

    let gone = told(
        stand
            .gateway
            .links()
            .delete_link_definition(delete(&messaging, ""))
            .await,
    );
    assert_eq!(gone.unwrap().result.unwrap().outcome(), Outcome::Applied);
    let marker = stand.data.last(&key).await.unwrap();
    assert_eq!(marker.body, "");
    assert!(marker.headers.contains("KV-Operation: DEL"), "{}", marker.headers);
    assert!(!marker.headers.contains("Rollup"), "{}", marker.headers);
    assert_eq!(stand.links().await, []);
}

#[tokio::test]
async fn claims_of_a_provider_need_its_contract_and_those_of_an_actor_have_none() {
    let stand = Stand::start().await;
    for (key, contract) in [(PROVIDER, ""), (ACTOR, "wasmcloud:messaging")] {
        let refused = stand.put_claims(claims(key, contract)).await.unwrap_err();
        assert_eq!(refused.reason, ErrorReason::InvalidField);
        assert_eq!(refused.fields, ["claims.contract_id"]);
    }
}

#[tokio::test]
async fn deleted_claims_carry_what_was_stored_and_never_take_anothers_alias_along() {
    let stand = Stand::start().await;
    let aliased = |key: &str| Claims {
        call_alias: "echo".into(),
        ..claims(key, "")
    };
    stand.put_claims(aliased(ACTOR)).await.unwrap();
    let key = format!("CLAIMS_{ACTOR}");
    let body = stand.data.last(&key).await.unwrap().body;
    stand.delete_claims(ACTOR).await.unwrap();
    let marker = stand.data.last(&key).await.unwrap();
    assert_eq!(marker.body, body);
    assert!(marker.headers.contains("KV-Operation: DEL"), "{}", marker.headers);
    assert_eq!(
        stand.delete_claims(ACTOR).await.unwrap_err().reason,
        ErrorReason::EntryNotFound
    );

    let other = crate::harness::keys::actor();
    stand.put_claims(aliased(&other)).await.unwrap();
    stand.put_claims(aliased(ACTOR)).await.unwrap();
    stand.delete_claims(ACTOR).await.unwrap();
    let marker = stand.data.value(&key).await;
    assert_eq!(
        (&marker["call_alias"], &marker["sub"]),
        (&json!(""), &json!(ACTOR))
    );
}

#[tokio::test]
async fn a_retry_on_what_no_message_can_hold_is_refused_as_any_call() {
    let stand = Stand::start().await;
    stand.put_claims(claims(ACTOR, "")).await.unwrap();
    let key = ACTOR.get(1..).unwrap();
    let retry = DeleteClaimsRequest {
        lattice: "default".into(),
        public_key: format!("{key}#"),
        request_id: "request-0001".into(),
        retry_age: Some(Duration::from_mins(10).into()),
        ..DeleteClaimsRequest::default()
    };
    let told = told(stand.gateway.claims().delete_claims(retry).await).unwrap_err();
    assert_eq!(told.reason, ErrorReason::EntryNotFound);
}

#[tokio::test]
async fn a_key_that_holds_another_link_is_a_conflict() {
    let stand = Stand::start().await;
    let named = |contract: &str, name: &str| LinkDefinition {
        contract_id: contract.into(),
        link_name: name.into(),
        ..link(ACTOR, PROVIDER, "v")
    };
    // Nothing stands between the parts that are hashed.
    let (first, second) = (
        named("wasmcloud:http", "serverdefault"),
        named("wasmcloud:httpserver", "default"),
    );
    stand.gateway.put(put_link(first.clone())).await.unwrap();
    let conflict = stand.gateway.put(put_link(second.clone())).await.unwrap_err();
    assert_eq!(conflict.reason, ErrorReason::LinkConflict);
    assert!(
        conflict.metadata["entry"].contains("serverdefault"),
        "{conflict:?}"
    );
    let gone = DeleteLinkDefinitionRequest {
        link_name: Some("serverdefault".into()),
        ..delete(&first, "")
    };
    told(stand.gateway.links().delete_link_definition(gone).await).unwrap();
    stand.gateway.put(put_link(second)).await.unwrap();
    assert_eq!(stand.links().await.len(), 1);
}

#[tokio::test]
async fn a_deleted_link_remembers_its_calls_though_its_marker_does_not_name_it() {
    let stand = Stand::start().await;
    let put = PutLinkDefinitionRequest {
        request_id: "put-number-1".into(),
        ..put_link(link(ACTOR, PROVIDER, "v"))
    };
    stand.gateway.put(put.clone()).await.unwrap();
    let gone = delete(&link(ACTOR, PROVIDER, "v"), "delete-number-1");
    told(stand.gateway.links().delete_link_definition(gone.clone()).await).unwrap();
    // This one has never seen the link.
    let other = TestGateway::at(&stand.nats.url()).await;
    let retry_age = Some(Duration::from_secs(5).into());
    let again = PutLinkDefinitionRequest { retry_age, ..put };
    let result = other.put(again).await.unwrap().result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, true)
    );
    let again = DeleteLinkDefinitionRequest {
        retry_age: Some(Duration::from_secs(5).into()),
        ..gone
    };
    let result = told(other.links().delete_link_definition(again).await).unwrap();
    let result = result.result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, false)
    );
    assert_eq!(stand.links().await, []);
}

#[tokio::test]
async fn hosts_tell_providers_themselves() {
    let stand = Stand::start().await;
    let client = stand.nats.client().await;
    let mut all = client.subscribe("wasmbus.>").await.unwrap();
    client.flush().await.unwrap();
    stand
        .gateway
        .put(put_link(link(ACTOR, PROVIDER, "v")))
        .await
        .unwrap();
    stand.nats.publish_raw("wasmbus.end", "").await;
    let first = futures_util::StreamExt::next(&mut all).await.unwrap();
    assert_eq!(first.subject.as_str(), "wasmbus.end");
}

/// What a host of 0.60 does: copies the stream into the bucket and deletes it.
#[tokio::test]
async fn a_migration_is_followed_and_what_it_changed_is_listed() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let others = [crate::harness::keys::actor(), crate::harness::keys::actor()];
    for actor in [ACTOR, &others[0], &others[1]] {
        gateway.put(put_link(link(actor, PROVIDER, "v"))).await.unwrap();
    }
    let data = Bucket::data(&nats, "default").await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    for (actor, value) in [(ACTOR, "v"), (&*others[0], "other")] {
        let hash = hash_of(actor);
        let body = json!({
            "actor_id": actor, "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": hash,
            "link_name": "default", "provider_id": PROVIDER, "values": {"value": value},
        });
        data.put(&format!("LINKDEF_{hash}"), body.to_string()).await;
    }
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    let lattice = until("the gateway follows and compares", async || {
        let get = GetLatticeRequest {
            lattice: "default".into(),
        };
        let lattice = told(gateway.lattices().get_lattice(get).await).ok()?.lattice?;
        let is_kv = lattice.layout() == lattice_gateway::proto::Layout::Kv;
        (is_kv && !lattice.migration_differences.is_empty()).then_some(lattice)
    })
    .await;
    let mut differences = lattice
        .migration_differences
        .iter()
        .map(|difference| (&*difference.entry, difference.missing))
        .collect::<Vec<_>>();
    differences.sort_by_key(|(_, missing)| *missing);
    let entry = |actor: &str| format!("link_definition {actor} wasmcloud:keyvalue default");
    assert_eq!(
        differences,
        [(&*entry(&others[0]), false), (&*entry(&others[1]), true)]
    );
    let client = gateway
        .put(put_link(link(ACTOR, PROVIDER, "now in the bucket")))
        .await;
    client.unwrap();
    let stored = data.value(&format!("LINKDEF_{}", hash_of(ACTOR))).await;
    assert_eq!(stored["values"]["value"], "now in the bucket");
}

fn hash_of(actor: &str) -> String {
    use sha2::Digest;
    let triple = format!("{actor}wasmcloud:keyvaluedefault");
    data_encoding::HEXUPPER.encode(&sha2::Sha256::digest(triple))
}
