//! How the gateway shows itself to NATS: by an nkey over TLS, by a credentials file; both renewed in their place.

use std::{fs, path::Path};

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::{
    config::Config,
    proto::{ErrorReason, GetLinkDefinitionRequest, ProvisionLatticeRequest, PutLinkDefinitionRequest},
};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    certificates::{Authority, San},
    link, put_link, told, until,
};

/// A gateway on the lattice `default`, which it creates, with these settings of its NATS.
async fn gateway_of(nats: &str) -> TestGateway {
    let text = format!("{nats}\n[lattices.default]\ntrusted_issuers = [\"*\"]\nprovision = \"file\"\n");
    TestGateway::serving_as(&text).await
}

async fn is_served(gateway: &TestGateway) {
    until("the gateway writes", async || {
        gateway.put(put_link(link(ACTOR, PROVIDER, "value"))).await.ok()
    })
    .await;
}

#[tokio::test]
async fn an_nkey_is_shown_over_tls_and_renewed_in_its_file() {
    let authority = Authority::new();
    let (server, client) = (
        authority.server(&["localhost", "127.0.0.1"]),
        authority.client(&[San::Dns("gateway")]),
    );
    let of = |key: &KeyPair| {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}
            authorization {{ users: [ {{ nkey: {} }} ] }}",
            server.certificate_file,
            server.key_file,
            authority.certificate_file(),
            key.public_key()
        )
    };
    let (first, second) = (KeyPair::new_user(), KeyPair::new_user());
    let seed = authority.folder().join("gateway.nk");
    fs::write(&seed, first.seed().unwrap() + "\n").unwrap();
    let mut nats = Nats::launch_with(&of(&first)).await;
    let gateway = gateway_of(&format!(
        "[nats]\nservers = \"tls://127.0.0.1:{}\"\nnkey_seed_file = {seed:?}\nca_file = {:?}\ncertificate_file = {:?}\nkey_file = {:?}\n",
        nats.port(),
        authority.certificate_file(),
        client.certificate_file,
        client.key_file,
    ))
    .await;
    is_served(&gateway).await;

    nats.down("TERM");
    nats.set_extra(&of(&second));
    fs::write(&seed, second.seed().unwrap()).unwrap();
    nats.launch().await;
    is_served(&gateway).await;
}

/// A NATS JWT (version 2), signed by an nkey.
fn jwt(signer: &KeyPair, subject: &KeyPair, kind: &str, more: Value) -> String {
    let mut nats = json!({"type": kind, "version": 2});
    nats.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": kind, "iat": 1, "iss": signer.public_key(), "sub": subject.public_key(), "name": kind, "nats": nats,
    });
    let [header, claims] = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
    let message = format!("{header}.{claims}");
    let signature = BASE64URL_NOPAD.encode(&signer.sign(message.as_bytes()).unwrap());
    format!("{message}.{signature}")
}

fn write_credentials(file: &Path, account: &KeyPair, user: &KeyPair) {
    let jwt = jwt(
        account,
        user,
        "user",
        json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}),
    );
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(file, text).unwrap();
}

#[tokio::test]
async fn a_credentials_file_is_shown_and_renewed_in_its_place() {
    let operator = KeyPair::new_operator();
    let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
    let unlimited = [
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    ];
    let mut limits = unlimited
        .iter()
        .map(|name| ((*name).to_owned(), json!(-1)))
        .collect::<serde_json::Map<_, _>>();
    limits.insert("wildcards".to_owned(), json!(true));
    let account_jwt = jwt(&operator, &account, "account", json!({"limits": limits}));
    let extra = format!(
        "operator: \"{}\"\nsystem_account: {2}\nresolver: MEMORY\nresolver_preload: {{ {1}: \"{account_jwt}\", {2}: \"{3}\" }}",
        jwt(&operator, &operator, "operator", json!({})),
        account.public_key(),
        system.public_key(),
        jwt(&operator, &system, "account", json!({})),
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.creds");
    write_credentials(&file, &account, &KeyPair::new_user());
    let mut nats = Nats::launch_with(&extra).await;
    let gateway = gateway_of(&format!(
        "[nats]\nservers = \"nats://127.0.0.1:{}\"\ncredentials_file = {file:?}\n",
        nats.port()
    ))
    .await;
    is_served(&gateway).await;

    // What is broken for a while is tried again.
    nats.down("TERM");
    fs::write(&file, "half written").unwrap();
    nats.launch().await;
    write_credentials(&file, &account, &KeyPair::new_user());
    is_served(&gateway).await;
}

#[test]
fn credentials_that_cannot_be_used_are_a_mistake_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret-seed");
    fs::write(
        &file,
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VX",
    )
    .unwrap();
    for (setting, says) in [
        ("nkey_seed_file", "holds no seed of an nkey"),
        ("credentials_file", "holds no NATS USER JWT"),
    ] {
        let text = format!("[nats]\n{setting} = {file:?}\n[lattices.default]\ntrusted_issuers = [\"*\"]\n");
        let mistakes = Config::parse(&text, std::iter::empty()).unwrap_err().to_string();
        assert!(
            mistakes.contains("nats: ") && mistakes.contains(says),
            "{mistakes}"
        );
        assert!(!mistakes.contains("SUACSSL"), "{mistakes}");
    }
}

#[tokio::test]
async fn a_lattice_behind_a_leaf_node_is_away_with_it_and_back_with_it() {
    let [hub, mut leaf] = Nats::start_hub_and_leaf_with_its_own().await;
    let url = hub.url();
    let at_hub = format!(
        "[nats]\nservers = {url:?}\ndomain = \"hub\"
        [upstreams.edge]\nservers = {url:?}\ndomain = \"leaf\"
        [lattices.shop]\nupstream = \"edge\"\ntrusted_issuers = [\"*\"]\nprovision = \"file\"
        [lattices.default]\ntrusted_issuers = [\"*\"]\nprovision = \"file\""
    );
    let gateway = TestGateway::serving_as(&at_hub).await;
    let put = |lattice: &str, value: &str| PutLinkDefinitionRequest {
        lattice: lattice.to_owned(),
        ..put_link(link(ACTOR, PROVIDER, value))
    };
    for lattice in ["shop", "default"] {
        until("the gateway writes", async || {
            gateway.put(put(lattice, "first")).await.ok()
        })
        .await;
    }
    let streams = leaf.api("STREAM.NAMES", Value::Null).await["streams"].clone();
    assert_eq!(streams, json!(["LATTICECACHE_shop"]), "at the leaf alone");

    leaf.down("TERM");
    let refused = gateway.put(put("shop", "second")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::BackendUnavailable, "{refused:?}");
    // What needs no look at the lattice is refused for the same.
    let provision = ProvisionLatticeRequest {
        lattice: "shop".into(),
        ..ProvisionLatticeRequest::default()
    };
    let refused = told(gateway.lattices().provision_lattice(provision).await).unwrap_err();
    assert_eq!(refused.reason, ErrorReason::BackendUnavailable, "{refused:?}");
    gateway.put(put("default", "second")).await.unwrap();
    // What was seen is still told to who asks for nothing fresh.
    let get = GetLinkDefinitionRequest {
        lattice: "shop".into(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..GetLinkDefinitionRequest::default()
    };
    let read = gateway
        .links()
        .get_link_definition(get)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(read.link_definition.unwrap().values["value"], "first");

    leaf.up().await;
    until("the gateway writes at the leaf", async || {
        gateway.put(put("shop", "third")).await.ok()
    })
    .await;
}
