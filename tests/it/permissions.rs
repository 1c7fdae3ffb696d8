//! `lattice-gateway nats-permissions`: with what it prints the gateway does everything, needs each line, and nobody but
//! hosts writes a lattice besides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use lattice_gateway::proto::{
    Consistency, DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest,
    DeleteLinkDefinitionRequest, DiagnoseLatticeRequest, ErrorReason, GetClaimsRequest, GetLatticeRequest,
    GetLinkDefinitionRequest, InterfaceLink, Layout, ListClaimsRequest, ListConfigsRequest,
    ListInterfaceLinksRequest, ListLatticesRequest, ListLinkDefinitionsRequest, ListOciReferencesRequest,
    OciReference, Placement, ProvisionLatticeRequest, ProvisionWadmRequest, PutClaimsRequest,
    SetOciReferenceRequest, consistency::Requirement, put_claims_request::Source,
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{IntoRequest, Request};

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    interface_link, keys, link, named_config,
    nats::{self, PASSWORD},
    put_config, put_interface_link, put_link, told, until,
};

const GATEWAY: &str = "lattice-gateway";
const HOSTS: &str = "hosts";
const OTHERS: &str = "everybody-else";

/// How long one step may take before it counts as failed.
const SOON: Duration = Duration::from_secs(6);

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
        .arg("nats-permissions")
        .args(arguments)
        .output()
        .unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The server's configuration: what was printed, and the passwords that it names, which a variable of the configuration
/// gives as well as one of the environment.
fn with_passwords(printed: &str) -> String {
    let words = printed.split(|character: char| character.is_whitespace() || ",}".contains(character));
    let variables = words.filter_map(|word| word.strip_prefix('$'));
    let passwords = variables.map(|variable| format!("{variable}: \"{PASSWORD}\"\n"));
    passwords.collect::<BTreeSet<_>>().into_iter().collect::<String>() + printed
}

async fn serving(nats: &Nats, settings: &str) -> TestGateway {
    let text = format!("{settings}\n[lattices.\"*\"]\ntrusted_issuers = [\"*\"]\nsettle = \"0s\"\n");
    TestGateway::serving_at(nats.url_for(GATEWAY), &text).await
}

/// What the server has refused to a user: `publish` or `subscribe`, and the subject.
fn violations(nats: &Nats, user: &str) -> BTreeSet<(&'static str, String)> {
    // As servers since 2.11 name the user, and as those before.
    let names = [format!("user:{user}\""), format!("User \"{user}\"")];
    let log = nats.log();
    log.lines()
        .filter(|line| names.iter().any(|name| line.contains(name)))
        .filter_map(|line| {
            let kind = match line {
                line if line.contains("Publish Violation") => "publish",
                line if line.contains("Subscription Violation") => "subscribe",
                _ => return None,
            };
            let (_, subject) = line.split_once("Subject \"")?;
            Some((kind, subject.split_once('"')?.0.to_owned()))
        })
        .collect()
}

fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(expected), Some(token)) if expected == "*" || expected == token => {}
            _ => return false,
        }
    }
}

/// A call that is not waited for longer than a step may take.
fn bounded<T>(message: T) -> Request<T> {
    let mut request = message.into_request();
    request.set_timeout(Duration::from_secs(4));
    request
}

fn fully_consistent() -> Consistency {
    Consistency {
        requirement: Some(Requirement::FullyConsistent(true)),
    }
}

fn default_lattice() -> String {
    "default".to_owned()
}

/// Everything that the gateway does on the lattice `default`, beside hosts on `hosts`. Ends at the step that fails.
async fn everything(hosts: &Nats, leaf: &Nats, settings: &str) -> Result<(), &'static str> {
    let gateway = serving(leaf, settings).await;
    let done = on_one_gateway(hosts, &gateway).await;
    gateway.running.shut_down().await;
    done?;
    let newcomer = serving(leaf, settings).await;
    let done = on_a_newcomer(hosts, &newcomer).await;
    newcomer.running.shut_down().await;
    done
}

async fn on_one_gateway(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    let list = gateway
        .lattices()
        .list_lattices(bounded(ListLatticesRequest::default()))
        .await;
    list.map_err(|_refused| "list")?;
    let provision = ProvisionLatticeRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let provisioned = gateway.lattices().provision_lattice(bounded(provision)).await;
    provisioned.map_err(|_refused| "provision")?;
    scale(gateway).await?;

    let client = hosts.client().await;
    let mut heard = client.subscribe("wasmbus.>").await.unwrap();
    client.flush().await.unwrap();
    write_and_read(gateway).await?;
    let mut missing = BTreeSet::from(["put", "del", "default"]);
    let hearing = async {
        while !missing.is_empty() {
            let subject = heard.next().await.unwrap().subject;
            missing.remove(subject.rsplit('.').next().unwrap());
        }
    };
    // What comes through a leaf may come late.
    drop(timeout(Duration::from_secs(2), hearing).await);
    for (last_token, step) in [
        ("put", "tell put"),
        ("del", "tell del"),
        ("default", "tell event"),
    ] {
        if missing.contains(last_token) {
            return Err(step);
        }
    }
    diagnose(gateway).await?;
    sweep(hosts, gateway).await?;
    follow_again(hosts, gateway).await?;
    notice_changes(hosts, gateway).await
}

/// Asks for something that JetStream takes of a stream on one server, too.
async fn scale(gateway: &TestGateway) -> Result<(), &'static str> {
    let placement = Placement {
        tags: vec!["any".into()],
        ..Default::default()
    };
    let provision = ProvisionLatticeRequest {
        lattice: default_lattice(),
        placement: Some(placement),
        ..Default::default()
    };
    let scaled = gateway.lattices().provision_lattice(bounded(provision)).await;
    scaled.map_err(|_refused| "scale").map(drop)
}

async fn write_and_read(gateway: &TestGateway) -> Result<(), &'static str> {
    let (token, module) = keys::actor_token(&KeyPair::new_account(), json!({}));
    let put_claims = PutClaimsRequest {
        lattice: default_lattice(),
        source: Some(Source::Jwt(token)),
        ..Default::default()
    };
    let written = gateway.claims().put_claims(bounded(put_claims)).await;
    written.map_err(|_refused| "put claims")?;
    put(gateway, "a").await.map_err(|_refused| "put link")?;
    let set = SetOciReferenceRequest {
        lattice: default_lattice(),
        oci_reference: Some(OciReference {
            oci_url: "registry.example/echo:0.3.4".into(),
            public_key: ACTOR.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let set = gateway.references().set_oci_reference(bounded(set)).await;
    set.map_err(|_refused| "set reference")?;

    let get = GetClaimsRequest {
        lattice: default_lattice(),
        public_key: module,
        consistency: Some(fully_consistent()),
    };
    let get = gateway.claims().get_claims(bounded(get)).await;
    get.map_err(|_refused| "get claims")?;
    let list = ListClaimsRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let list = gateway.claims().list_claims(bounded(list)).await;
    list.map_err(|_refused| "list claims")?;
    let list = ListLinkDefinitionsRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let list = gateway.links().list_link_definitions(bounded(list)).await;
    list.map_err(|_refused| "list links")?;
    let list = ListOciReferencesRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let list = gateway.references().list_oci_references(bounded(list)).await;
    list.map_err(|_refused| "list references")?;
    let delete = DeleteLinkDefinitionRequest {
        lattice: default_lattice(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    };
    let delete = gateway.links().delete_link_definition(bounded(delete)).await;
    delete.map_err(|_refused| "delete link").map(drop)
}

/// Every check is made.
async fn diagnose(gateway: &TestGateway) -> Result<(), &'static str> {
    let diagnose = DiagnoseLatticeRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let answer = gateway.lattices().diagnose_lattice(bounded(diagnose)).await;
    let skipped = answer.map_err(|_refused| "diagnose")?.into_inner().skipped;
    skipped.is_empty().then_some(()).ok_or("diagnose")
}

/// A host's link, which the gateway outbids and removes.
async fn sweep(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    let (before, _) = hosts.state("default").await;
    hosts
        .publish_raw("lc.default.linkdefs.a-hosts", body(ACTOR, "host"))
        .await;
    soon(async || (hosts.state("default").await.0 == before + 1).then_some(()))
        .await
        .ok_or("host's link")?;
    put(gateway, "b").await.map_err(|_refused| "outbid")?;
    soon(async || (hosts.state("default").await.0 == before).then_some(()))
        .await
        .ok_or("sweep")
}

/// Somebody deletes the gateway's consumer: it makes another.
async fn follow_again(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    let consumers = async || hosts.consumers("LATTICECACHE_default").await;
    let consumer = consumers().await.pop().ok_or("follow")?;
    hosts.delete_consumer("LATTICECACHE_default", &consumer).await;
    soon(async || {
        let consumers = consumers().await;
        (!consumers.is_empty() && !consumers.contains(&consumer)).then_some(())
    })
    .await
    .ok_or("follow again")?;
    read(gateway).await.map_err(|_refused| "read after that")
}

/// A host that migrates, and one that purges.
async fn notice_changes(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    let bucket = json!({
        "name": "KV_LATTICEDATA_default", "subjects": ["$KV.LATTICEDATA_default.>"], "storage": "memory",
        "max_msgs_per_subject": 1,
    });
    hosts.api("STREAM.CREATE.KV_LATTICEDATA_default", bucket).await;
    soon(async || {
        let refused = read(gateway).await.err()?;
        (refused == ErrorReason::LayoutAmbiguous).then_some(())
    })
    .await
    .ok_or("migration")?;
    hosts
        .api("STREAM.DELETE.KV_LATTICEDATA_default", Value::Null)
        .await;
    soon(async || read(gateway).await.ok())
        .await
        .ok_or("migration undone")?;

    hosts.api("STREAM.PURGE.LATTICECACHE_default", json!({})).await;
    soon(async || {
        let reason = read(gateway).await.err()?;
        (reason == ErrorReason::EntryNotFound).then_some(())
    })
    .await
    .ok_or("removal")
}

/// As many links as flow control is for, the last of them removed: only the leader knows that there is no more.
async fn on_a_newcomer(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    const LINKS: u64 = 1_000;
    let client = hosts.client().await;
    for number in 0..=LINKS {
        let subject = format!("lc.default.linkdefs.bulk-{number}");
        let body = body(&format!("M{number}"), &"x".repeat(5_000));
        client.publish(subject, body.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let last = format!("lc.default.linkdefs.bulk-{LINKS}");
    let last = soon(async || hosts.last("default", &last).await).await.unwrap();
    let delete = json!({"seq": last.sequence});
    hosts.api("STREAM.MSG.DELETE.LATTICECACHE_default", delete).await;
    soon(async || {
        let get = GetLatticeRequest {
            lattice: default_lattice(),
        };
        let answer = gateway.lattices().get_lattice(bounded(get)).await.ok()?;
        let lattice = answer.into_inner().lattice.unwrap();
        (lattice.link_definition_count == LINKS).then_some(())
    })
    .await
    .ok_or("read it all")
}

async fn put(gateway: &TestGateway, value: &str) -> Result<(), tonic::Status> {
    let request = bounded(put_link(link(ACTOR, PROVIDER, value)));
    gateway.links().put_link_definition(request).await.map(drop)
}

/// Reads the link as the leader tells it.
async fn read(gateway: &TestGateway) -> Result<(), ErrorReason> {
    let get = GetLinkDefinitionRequest {
        lattice: default_lattice(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        consistency: Some(fully_consistent()),
        ..Default::default()
    };
    let answer = gateway.links().get_link_definition(bounded(get)).await;
    told(answer).map(drop).map_err(|told| told.reason)
}

/// A link as hosts write it.
fn body(actor: &str, value: &str) -> String {
    json!({
        "actor_id": actor, "contract_id": "wasmcloud:keyvalue", "deleted": false, "id": "x", "link_name": "default",
        "provider_id": PROVIDER, "values": {"value": value},
    })
    .to_string()
}

/// Asks until there is an answer, as long as one step may take.
async fn soon<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, asking).await.ok()
}

#[tokio::test]
async fn the_gateway_does_everything_and_is_refused_nothing() {
    let printed = printed(&["--lattice", "default", "--lattice", "other", "--provision"]);
    let nats = Nats::start_for(HOSTS, "", &with_passwords(&printed)).await;
    assert_eq!(everything(&nats, &nats, "").await, Ok(()));
    assert_eq!(violations(&nats, GATEWAY), BTreeSet::new());
}

/// Lines of a text without those that have this in them.
fn without(text: &str, part: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(part));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is needed at a leaf: the calls with the domain, and the question whether the leaf has such a stream of its own.
fn beside(printed: &str) -> String {
    let is_needed = |line: &&str| !line.contains("\"$JS.API") || line.contains("STREAM.INFO");
    let lines = printed.lines().filter(is_needed);
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn so_it_does_in_a_domain_and_through_a_leaf_of_it() {
    let printed = printed(&["--lattice", "default", "--provision", "--domain", "hub"]);
    let domain = "[nats]\ndomain = \"hub\"";
    // A server in the domain looks at the calls as if they named none, a leaf at what they name.
    let within = with_passwords(&without(&printed, "\"$JS.hub.API"));
    let nats = Nats::start_for(HOSTS, "domain: hub", &within).await;
    assert_eq!(everything(&nats, &nats, domain).await, Ok(()));
    assert_eq!(violations(&nats, GATEWAY), BTreeSet::new());

    let beside = with_passwords(&beside(&printed));
    let [hub, leaf] = Nats::start_hub_and_leaf("hub", HOSTS, &beside).await;
    let client = leaf.client().await;
    until("the leaf reaches the hub", async || {
        client.request("$JS.hub.API.INFO", "".into()).await.ok()
    })
    .await;
    assert_eq!(everything(&hub, &leaf, domain).await, Ok(()));
    assert_eq!(violations(&leaf, GATEWAY), BTreeSet::new());
}

/// Everything that the gateway does in the buckets of the lattice `default`. Ends at the step that fails.
async fn everything_in_buckets(
    hosts: &Nats,
    leaf: &Nats,
    settings: &str,
    layout: Layout,
) -> Result<(), &'static str> {
    let gateway = serving(leaf, settings).await;
    let list = gateway
        .lattices()
        .list_lattices(bounded(ListLatticesRequest::default()))
        .await;
    list.map_err(|_refused| "list")?;
    let provision = ProvisionLatticeRequest {
        lattice: default_lattice(),
        layout: layout.into(),
        ..Default::default()
    };
    let provisioned = gateway.lattices().provision_lattice(bounded(provision)).await;
    provisioned.map_err(|_refused| "provision")?;

    let client = hosts.client().await;
    let mut heard = client.subscribe("wasmbus.>").await.unwrap();
    client.flush().await.unwrap();
    put_and_delete_claims(&gateway).await?;
    let told = if layout == Layout::Component {
        put_and_delete_configured_link(&gateway).await?;
        delete_link_of_a_dotted_source(hosts, &gateway).await?;
        &[
            "linkdef_set",
            "linkdef_deleted",
            "config_set",
            "config_deleted",
            "del",
        ][..]
    } else {
        // Hosts tell of these themselves.
        put_and_delete_link(&gateway).await?;
        &[]
    };
    let mut missing = told.iter().copied().collect::<BTreeSet<_>>();
    let hearing = async {
        while !missing.is_empty() {
            let subject = heard.next().await.unwrap().subject;
            missing.remove(subject.rsplit('.').next().unwrap());
        }
    };
    // What comes through a leaf may come late.
    drop(timeout(Duration::from_secs(2), hearing).await);
    if !missing.is_empty() {
        return Err("tell");
    }
    let get = GetLatticeRequest {
        lattice: default_lattice(),
    };
    let lattice = gateway.lattices().get_lattice(bounded(get)).await;
    let lattice = lattice
        .map_err(|_refused| "describe")?
        .into_inner()
        .lattice
        .unwrap();
    assert_eq!((lattice.layout(), lattice.claims_count), (layout, 0));
    diagnose(&gateway).await?;

    notice_migration(hosts, &gateway).await
}

async fn put_and_delete_claims(gateway: &TestGateway) -> Result<(), &'static str> {
    let (token, public_key) = keys::actor_token(&KeyPair::new_account(), json!({}));
    let put = PutClaimsRequest {
        lattice: default_lattice(),
        source: Some(Source::Jwt(token)),
        ..Default::default()
    };
    let put = gateway.claims().put_claims(bounded(put)).await;
    put.map_err(|_refused| "put claims")?;
    let get = GetClaimsRequest {
        lattice: default_lattice(),
        public_key: public_key.clone(),
        consistency: Some(fully_consistent()),
    };
    let get = gateway.claims().get_claims(bounded(get)).await;
    get.map_err(|_refused| "get claims")?;
    let delete = DeleteClaimsRequest {
        lattice: default_lattice(),
        public_key,
        ..Default::default()
    };
    let deleted = gateway.claims().delete_claims(bounded(delete)).await;
    deleted.map_err(|_refused| "delete claims").map(drop)
}

async fn put_and_delete_link(gateway: &TestGateway) -> Result<(), &'static str> {
    put(gateway, "a").await.map_err(|_refused| "put link")?;
    let delete = DeleteLinkDefinitionRequest {
        lattice: default_lattice(),
        actor_id: Some(ACTOR.into()),
        contract_id: Some("wasmcloud:keyvalue".into()),
        ..Default::default()
    };
    let deleted = gateway.links().delete_link_definition(bounded(delete)).await;
    deleted.map_err(|_refused| "delete link")?;
    let set = SetOciReferenceRequest {
        lattice: default_lattice(),
        oci_reference: Some(OciReference {
            oci_url: "registry.example/echo:0.3.4".into(),
            public_key: ACTOR.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let set = gateway.references().set_oci_reference(bounded(set)).await;
    set.map_err(|_refused| "set reference").map(drop)
}

async fn put_and_delete_configured_link(gateway: &TestGateway) -> Result<(), &'static str> {
    let config = put_config(named_config("http-cfg", "value"));
    let put = gateway.configs().put_config(bounded(config)).await;
    put.map_err(|_refused| "put config")?;
    let link = InterfaceLink {
        source_config: vec!["http-cfg".into()],
        ..interface_link("hello")
    };
    let link = bounded(put_interface_link(link));
    let put = gateway.interface_links().put_interface_link(link).await;
    put.map_err(|_refused| "put link")?;
    let list = ListInterfaceLinksRequest {
        lattice: default_lattice(),
        consistency: Some(fully_consistent()),
        ..Default::default()
    };
    let listed = gateway
        .interface_links()
        .list_interface_links(bounded(list))
        .await;
    let listed = listed.map_err(|_refused| "list links")?.into_inner();
    assert_eq!(listed.interface_links.len(), 1);
    let list = ListConfigsRequest {
        lattice: default_lattice(),
        consistency: Some(fully_consistent()),
        ..Default::default()
    };
    let listed = gateway.configs().list_configs(bounded(list)).await;
    let listed = listed.map_err(|_refused| "list configs")?.into_inner();
    assert_eq!(listed.named_configs.len(), 1);
    let delete = delete_link("http-server", "wasi", "http");
    let deleted = gateway.interface_links().delete_interface_link(delete).await;
    deleted.map_err(|_refused| "delete link")?;
    let delete = DeleteConfigRequest {
        lattice: default_lattice(),
        name: "http-cfg".into(),
        ..Default::default()
    };
    let deleted = gateway.configs().delete_config(bounded(delete)).await;
    deleted.map_err(|_refused| "delete config").map(drop)
}

fn delete_link(source: &str, namespace: &str, package: &str) -> Request<DeleteInterfaceLinkRequest> {
    bounded(DeleteInterfaceLinkRequest {
        lattice: default_lattice(),
        source_id: Some(source.into()),
        wit_namespace: Some(namespace.into()),
        wit_package: Some(package.into()),
        ..Default::default()
    })
}

/// Hosts take such a source, which has a key of several tokens, and so may somebody delete its links.
async fn delete_link_of_a_dotted_source(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    let link = json!({
        "source_id": "a.b", "target": "hello", "wit_namespace": "wasi", "wit_package": "http", "interfaces": ["x"],
    });
    let record = json!({"url": "", "links": [link]}).to_string();
    hosts
        .publish_raw("$KV.LATTICEDATA_default.COMPONENT_a.b", record)
        .await;
    soon(async || {
        let delete = delete_link("a.b", "wasi", "http");
        gateway.interface_links().delete_interface_link(delete).await.ok()
    })
    .await
    .ok_or("delete a host's link")
    .map(drop)
}

/// A host of an earlier era makes its stream.
async fn notice_migration(hosts: &Nats, gateway: &TestGateway) -> Result<(), &'static str> {
    hosts.create_stream("default", Value::Null).await;
    soon(async || {
        let list = ListClaimsRequest {
            lattice: default_lattice(),
            ..Default::default()
        };
        let refused = told(gateway.claims().list_claims(bounded(list)).await).err()?;
        (refused.reason == ErrorReason::LayoutAmbiguous).then_some(())
    })
    .await
    .ok_or("notice the other stream")
}

async fn buckets_need_just_what_is_printed(layout: Layout, name: &str) {
    let arguments = ["--lattice", "default", "--layout", name, "--provision"];
    let printed_without = printed(&arguments);
    let nats = Nats::start_for(HOSTS, "", &with_passwords(&printed_without)).await;
    assert_eq!(everything_in_buckets(&nats, &nats, "", layout).await, Ok(()));
    assert_eq!(violations(&nats, GATEWAY), BTreeSet::new());

    let printed = printed(&[&arguments[..], &["--domain", "hub"]].concat());
    let domain = "[nats]\ndomain = \"hub\"";
    // A server in the domain looks at the calls as if they named none, a leaf at what they name.
    let within = with_passwords(&without(&printed, "\"$JS.hub.API"));
    let nats = Nats::start_for(HOSTS, "domain: hub", &within).await;
    assert_eq!(everything_in_buckets(&nats, &nats, domain, layout).await, Ok(()));
    assert_eq!(violations(&nats, GATEWAY), BTreeSet::new());

    let beside = without(&beside(&printed), "\"$KV.");
    let [hub, leaf] = Nats::start_hub_and_leaf("hub", HOSTS, &with_passwords(&beside)).await;
    let client = leaf.client().await;
    until("the leaf reaches the hub", async || {
        client.request("$JS.hub.API.INFO", "".into()).await.ok()
    })
    .await;
    assert_eq!(everything_in_buckets(&hub, &leaf, domain, layout).await, Ok(()));
    assert_eq!(violations(&leaf, GATEWAY), BTreeSet::new());
}

#[tokio::test]
async fn so_it_does_in_buckets_of_hosts_0_60_to_0_82() {
    Box::pin(buckets_need_just_what_is_printed(Layout::Kv, "kv")).await;
}

#[tokio::test]
async fn so_it_does_in_buckets_of_hosts_1_0_to_1_9() {
    Box::pin(buckets_need_just_what_is_printed(Layout::Component, "component")).await;
}

/// Every line of the gateway's permissions, and the step that fails without it; `None` where all goes on, by another way
/// or without what only tidies up.
const NEEDED: [(&str, &str, Option<&str>); 23] = [
    ("publish", "$JS.API.STREAM.NAMES", Some("list")),
    ("publish", "lc.default.claims.*", Some("put claims")),
    ("publish", "lc.default.linkdefs.*", Some("put link")),
    ("publish", "lc.default.refmap.*", Some("set reference")),
    (
        "publish",
        "wasmbus.rpc.default.*.*.linkdefs.put",
        Some("tell put"),
    ),
    (
        "publish",
        "wasmbus.rpc.default.*.*.linkdefs.del",
        Some("tell del"),
    ),
    ("publish", "wasmbus.evt.default", Some("tell event")),
    ("publish", "wasmbus.ctl.default.ping.hosts", Some("diagnose")),
    (
        "publish",
        "$JS.API.CONSUMER.LIST.LATTICECACHE_default",
        Some("diagnose"),
    ),
    (
        "publish",
        "$JS.API.STREAM.INFO.LATTICECACHE_default",
        Some("provision"),
    ),
    (
        "publish",
        "$JS.API.STREAM.INFO.KV_LATTICEDATA_default",
        Some("provision"),
    ),
    (
        "publish",
        "$JS.API.STREAM.CREATE.LATTICECACHE_default",
        Some("provision"),
    ),
    (
        "publish",
        "$JS.API.STREAM.UPDATE.LATTICECACHE_default",
        Some("scale"),
    ),
    (
        "publish",
        "$JS.API.STREAM.UPDATE.lattice-gateway-rehearsal",
        Some("provision"),
    ),
    (
        "publish",
        "$JS.API.STREAM.MSG.GET.LATTICECACHE_default",
        Some("read it all"),
    ),
    (
        "publish",
        "$JS.API.STREAM.MSG.DELETE.LATTICECACHE_default",
        Some("sweep"),
    ),
    (
        "publish",
        "$JS.API.CONSUMER.CREATE.LATTICECACHE_default.*",
        Some("provision"),
    ),
    // What is not deleted is forgotten by the server after 30 s.
    ("publish", "$JS.API.CONSUMER.DELETE.LATTICECACHE_default.*", None),
    ("publish", "$JS.FC.LATTICECACHE_default.>", Some("read it all")),
    (
        "publish",
        "$JS.FC.*.*.LATTICECACHE_default.>",
        Some("read it all"),
    ),
    ("subscribe", "_INBOX_lattice_gateway.>", Some("list")),
    // Then changes are noticed by asking.
    (
        "subscribe",
        "$JS.EVENT.ADVISORY.STREAM.*.LATTICECACHE_default",
        None,
    ),
    (
        "subscribe",
        "$JS.EVENT.ADVISORY.STREAM.CREATED.KV_LATTICEDATA_default",
        None,
    ),
];

/// The lines of the gateway's user, as they are printed.
fn lines_of_gateway(printed: &str) -> BTreeMap<String, usize> {
    let end = printed.lines().position(|line| line.contains("# Hosts")).unwrap();
    let lines = printed.lines().enumerate().take(end);
    lines
        .filter_map(|(number, line)| {
            let rest = line.trim_start().strip_prefix('"')?;
            Some((rest.split_once('"')?.0.to_owned(), number))
        })
        .collect()
}

#[tokio::test]
async fn each_permission_is_needed() {
    let printed = printed(&["--lattice", "default", "--provision"]);
    let lines = lines_of_gateway(&printed);
    let listed = NEEDED.map(|(_, subject, _)| subject.to_owned());
    assert_eq!(lines.keys().cloned().collect::<BTreeSet<_>>(), listed.into());
    let told = Command::new(nats::program()).arg("--version").output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let has_features = !["v2.10.", "v2.11.", "v2.12."]
        .iter()
        .any(|old| told.contains(old));

    let rows = NEEDED
        .iter()
        .filter(|(_, subject, _)| has_features || !subject.starts_with("$JS.FC.*"));
    let checks = stream::iter(rows).map(async |(kind, subject, fails)| {
        let rest = printed.lines().enumerate();
        let rest = rest.filter(|(number, _)| *number != lines[*subject]);
        let rest = rest.map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        let feature = match subject.starts_with("$JS.FC.*") {
            true => "\nfeature_flags { js_ack_fc_v2: true }\n",
            false => "",
        };
        let nats = Nats::start_for(HOSTS, "", &(with_passwords(&rest) + feature)).await;
        let done = everything(&nats, &nats, "").await;
        assert_eq!(
            done.err(),
            *fails,
            "without {subject}: {:?}",
            violations(&nats, GATEWAY)
        );
        let refused = violations(&nats, GATEWAY);
        assert!(!refused.is_empty(), "without {subject}");
        for (refused_kind, refused) in &refused {
            assert_eq!(refused_kind, kind, "{refused}");
            assert!(matches(subject, refused), "without {subject}: {refused}");
        }
    });
    // As many at a time as leave each the time that its steps may take.
    checks.buffer_unordered(3).collect::<Vec<()>>().await;
}

/// A user for each line for wadm, who lacks just that, and one who lacks none.
#[tokio::test]
async fn each_permission_for_wadm_is_needed() {
    let without = lines_of_gateway(&printed(&["--lattice", "default"]));
    let with = lines_of_gateway(&printed(&["--lattice", "default", "--wadm"]));
    let of_wadm = with
        .keys()
        .filter(|line| !without.contains_key(*line))
        .collect::<Vec<_>>();
    assert_eq!(of_wadm.len(), 1 + 3 * 8);
    let user = |name: &str, lacks: &str| {
        let allowed = with.keys().filter(|line| *line != lacks).collect::<Vec<_>>();
        format!(
            "{{ user: {name}, password: {PASSWORD}, permissions: {{ publish: {{ allow: {allowed:?} }}, subscribe: \
             {{ allow: [\"_INBOX_lattice_gateway.>\"] }} }} }}\n"
        )
    };
    let lacking = of_wadm.iter().enumerate();
    let mut users = lacking.map(|(number, lacks)| user(&format!("lacks-{number}"), lacks));
    let hosts = format!("{{ user: {HOSTS}, password: {PASSWORD} }}\n");
    let users = users
        .by_ref()
        .chain([user(GATEWAY, ""), hosts])
        .collect::<String>();
    let nats = Nats::start_for(HOSTS, "", &format!("authorization {{ users: [\n{users}] }}\n")).await;

    let provision = async |user: &str| {
        for stream in streams_of_wadm(&nats).await {
            nats.api(&format!("STREAM.DELETE.{stream}"), Value::Null).await;
        }
        let gateway = TestGateway::at(&nats.url_for(user)).await;
        let mut subject = None;
        for max_bytes in [0, 1 << 20] {
            let request = ProvisionWadmRequest {
                max_bytes,
                ..Default::default()
            };
            if let Err(told) = told(gateway.lattices().provision_wadm(request).await) {
                assert_eq!(told.reason, ErrorReason::BackendForbidden, "{told:?}");
                subject = Some(told.metadata["subject"].clone());
                break;
            }
        }
        gateway.running.shut_down().await;
        subject
    };
    assert_eq!(provision(GATEWAY).await, None);
    assert_eq!(violations(&nats, GATEWAY), BTreeSet::new());
    for (number, lacks) in of_wadm.iter().enumerate() {
        let refused = provision(&format!("lacks-{number}")).await;
        assert_eq!(refused.as_ref(), Some(*lacks));
    }
}

async fn streams_of_wadm(nats: &Nats) -> Vec<String> {
    let names = nats.api("STREAM.NAMES", Value::Null).await;
    serde_json::from_value(names["streams"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn nobody_but_hosts_writes_a_lattice_besides() {
    let printed = printed(&["--lattice", "default"]);
    let nats = Nats::start_for(HOSTS, "domain: hub", &with_passwords(&printed)).await;
    nats.create_stream("default", json!({})).await;
    let bucket = json!({"name": "KV_LATTICEDATA_default", "subjects": ["$KV.LATTICEDATA_default.>"]});
    let created = nats.api("STREAM.CREATE.KV_LATTICEDATA_default", bucket).await;
    assert_eq!(created["error"], Value::Null);
    nats.publish_raw("lc.default.linkdefs.x", body(ACTOR, "host"))
        .await;
    until("what hosts publish is stored", async || {
        (nats.state("default").await == (1, 1)).then_some(())
    })
    .await;

    let others = nats.client_for(OTHERS).await;
    let streams = [
        "LATTICECACHE_default",
        "KV_LATTICEDATA_default",
        "KV_CONFIGDATA_default",
    ];
    let calls = streams.iter().flat_map(|stream| {
        [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "MSG.DELETE",
            "RESTORE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        ]
        .map(|call| format!("$JS.API.STREAM.{call}.{stream}"))
    });
    let mut refused = calls.collect::<Vec<_>>();
    refused.extend(
        [
            "lc.default.linkdefs.x",
            "lc.default.claims.M",
            "lc.default.anything.at.all",
            "$KV.LATTICEDATA_default.LINKDEF_x",
            "hub.$KV.LATTICEDATA_default.LINKDEF_x",
            "$KV.CONFIGDATA_default.x",
            "_INBOX_lattice_gateway.x.y",
        ]
        .map(str::to_owned),
    );
    for subject in &refused {
        others
            .publish(subject.clone(), r#"{"seq":1}"#.into())
            .await
            .unwrap();
    }
    // A server in the domain takes the domain off before it looks.
    for call in ["STREAM.PURGE.LATTICECACHE_default", "$KV.LATTICEDATA_default.x"] {
        others
            .publish(format!("$JS.hub.API.{call}"), "".into())
            .await
            .unwrap();
    }
    others.subscribe("_INBOX_lattice_gateway.>").await.unwrap();
    others.flush().await.unwrap();
    until("all of it is refused", async || {
        let violations = violations(&nats, OTHERS);
        let publishes = refused
            .iter()
            .all(|subject| violations.contains(&("publish", subject.clone())));
        let inbox = ("subscribe", "_INBOX_lattice_gateway.>".to_owned());
        (publishes && violations.contains(&inbox)).then_some(())
    })
    .await;
    assert_eq!(nats.state("default").await, (1, 1));
    let info = nats.api("STREAM.INFO.KV_LATTICEDATA_default", Value::Null).await;
    assert_eq!(info["state"]["last_seq"], 0);

    // Who hears everything does not hear what the gateway is answered.
    let mut heard = others.subscribe(">").await.unwrap();
    others.flush().await.unwrap();
    nats.publish_raw("_INBOX_lattice_gateway.x", "answer").await;
    nats.publish_raw("the.end", "").await;
    assert_eq!(heard.next().await.unwrap().subject, "the.end".into());

    others_do_what_is_theirs(&nats, &others).await;
}

async fn others_do_what_is_theirs(nats: &Nats, others: &async_nats::Client) {
    let before = violations(nats, OTHERS);
    let api = async |call: &str, request: Value| {
        let request = if request.is_null() {
            String::new()
        } else {
            request.to_string()
        };
        let asked = others.request(format!("$JS.API.{call}"), request.into());
        let answer: Value = serde_json::from_slice(&asked.await.unwrap().payload).unwrap();
        assert_eq!(answer["error"], Value::Null, "{call}: {answer}");
        answer
    };
    let mut replies = others.subscribe("theirs.>").await.unwrap();
    others.publish("theirs.a", "hello".into()).await.unwrap();
    assert_eq!(replies.next().await.unwrap().payload, "hello");
    api(
        "STREAM.CREATE.mine",
        json!({"name": "mine", "subjects": ["mine.>"]}),
    )
    .await;
    others.request("mine.a", "kept".into()).await.unwrap();
    api("STREAM.PURGE.mine", json!({})).await;
    api("STREAM.DELETE.mine", Value::Null).await;
    // Who may read a lattice is another question.
    api("STREAM.INFO.LATTICECACHE_default", Value::Null).await;
    let consumer = json!({
        "stream_name": "LATTICECACHE_default",
        "config": {"name": "reader", "deliver_policy": "last_per_subject", "filter_subject": "lc.default.>"},
    });
    api("CONSUMER.CREATE.LATTICECACHE_default.reader", consumer).await;
    assert_eq!(violations(nats, OTHERS), before);
    assert_eq!(violations(nats, HOSTS), BTreeSet::new());
}

/// NATS does not ask for permissions where the server publishes for a user. What is printed says so.
#[tokio::test]
async fn a_determined_user_of_the_same_account_still_gets_through() {
    let printed = printed(&["--lattice", "default"]);
    let nats = Nats::start_for(HOSTS, "", &with_passwords(&printed)).await;
    nats.create_stream("default", json!({})).await;
    let others = nats.client_for(OTHERS).await;
    let smuggle = async |from: &str, through: &str| {
        let reply = format!("lc.default.linkdefs.{through}");
        others
            .publish_with_reply(from.to_owned(), reply.clone(), "".into())
            .await
            .unwrap();
        until(through, async || nats.last("default", &reply).await).await
    };
    smuggle("$JS.API.INFO", "reply").await;
    let republish = json!({
        "name": "mine", "subjects": ["mine.>"], "republish": {"src": "mine.>", "dest": "lc.default.linkdefs.>"},
    });
    let created = others.request("$JS.API.STREAM.CREATE.mine", republish.to_string().into());
    created.await.unwrap();
    others.publish("mine.republished", "mine".into()).await.unwrap();
    until("republished", async || {
        nats.last("default", "lc.default.linkdefs.republished").await
    })
    .await;
    assert_eq!(violations(&nats, OTHERS), BTreeSet::new());
}

#[tokio::test]
async fn the_gateway_writes_no_lattice_that_is_not_named() {
    let printed = printed(&["--lattice", "default"]);
    let nats = Nats::start_for(HOSTS, "", &with_passwords(&printed)).await;
    nats.create_stream("other", json!({})).await;
    let gateway = serving(&nats, "").await;
    let mut put = put_link(link(ACTOR, PROVIDER, "a"));
    put.lattice = "other".to_owned();
    assert_eq!(
        gateway.put(put).await.unwrap_err().reason,
        ErrorReason::BackendForbidden
    );
    let provision = ProvisionLatticeRequest {
        lattice: default_lattice(),
        ..Default::default()
    };
    let provisioned = gateway.lattices().provision_lattice(provision).await;
    assert_eq!(
        told(provisioned).unwrap_err().reason,
        ErrorReason::BackendForbidden
    );

    let client = nats.client_for(GATEWAY).await;
    let subjects = [
        "lc.other.linkdefs.x",
        "lc.default.other.x",
        "lc.default.linkdefs.x.y",
        "$JS.API.STREAM.DELETE.LATTICECACHE_default",
        "$JS.API.STREAM.PURGE.LATTICECACHE_default",
        "$JS.API.STREAM.UPDATE.LATTICECACHE_default",
        "wasmbus.ctl.default.linkdefs.put",
    ];
    for subject in subjects {
        client.publish(subject, "".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    until("all of it is refused", async || {
        let violations = violations(&nats, GATEWAY);
        let is_refused = |subject: &&str| violations.contains(&("publish", (*subject).to_owned()));
        subjects.iter().all(is_refused).then_some(())
    })
    .await;
    assert_eq!(nats.state("other").await, (0, 0));
}

#[test]
fn nsc_is_told_the_same() {
    let arguments = [
        "--lattice",
        "default",
        "--lattice",
        "other",
        "--provision",
        "--user",
        "gate",
    ];
    let server = printed(&arguments);
    let script = printed(&[&arguments[..], &["--format", "nsc"]].concat());
    // A shell reads it; `nsc` prints what it is given.
    let nsc = "set -eu; ACCOUNT=A HOSTS=hosts; nsc() { printf '%s\\n' \"$*\"; }; ";
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{nsc}{script}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let [gateway, hosts, account, push] = told.lines().collect::<Vec<_>>()[..] else {
        panic!("{told}");
    };
    let subjects = |line: &str, option: &str| {
        let words = line.split(' ').collect::<Vec<_>>();
        let pairs = words.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].to_owned()).collect::<BTreeSet<_>>()
    };
    assert!(
        gateway.starts_with("add user --account A --name gate --allow-pub "),
        "{gateway}"
    );
    let allowed = &subjects(gateway, "--allow-pub") | &subjects(gateway, "--allow-sub");
    assert_eq!(allowed, lines_of_gateway(&server).into_keys().collect());
    assert_eq!(hosts, "edit user --account A --name hosts --allow-pubsub >");
    assert!(
        account.starts_with("edit account --name A --deny-pub "),
        "{account}"
    );
    assert_eq!(push, "push --account A");
    let (_, of_others) = server.split_once("default_permissions").unwrap();
    let denied = subjects(account, "--deny-pub");
    assert!(denied.contains("lc.other.>"), "{denied:?}");
    for subject in denied.iter().chain(&subjects(account, "--deny-sub")) {
        assert!(of_others.contains(&format!("\"{subject}\"")), "{subject}");
    }
    let lines = of_others
        .lines()
        .filter(|line| line.trim_start().starts_with('"'));
    assert_eq!(lines.count(), denied.len() + 1);
}

#[test]
fn what_is_no_name_is_refused_with_its_option() {
    let output = run(&[
        "--lattice",
        "bad.name",
        "--lattice",
        "*",
        "--user",
        "a b",
        "--domain",
        "hub.>",
    ]);
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    for named in [
        "--lattice \"bad.name\"",
        "--lattice \"*\"",
        "--user \"a b\"",
        "--domain \"hub.>\"",
    ] {
        assert!(said.contains(named), "{said}");
    }
    assert_eq!(
        run(&["--lattice", "default", "--user", HOSTS]).status.code(),
        Some(64)
    );
}

#[test]
fn a_server_without_the_passwords_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("nats.conf");
    fs::write(&config, printed(&["--lattice", "default"])).unwrap();
    let check = || {
        let mut check = Command::new(nats::program());
        check.arg("-t").arg("-c").arg(&config).env_clear();
        check
    };
    let refused = check().output().unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("NATS_"),
        "{refused:?}"
    );
    let variables = ["GATEWAY", "HOSTS", "EVERYBODY_ELSE"].map(|user| format!("NATS_{user}_PASSWORD"));
    let passwords = variables.map(|name| (name, "\"12345 $ecret#\""));
    let accepted = check().envs(passwords).output().unwrap();
    assert!(accepted.status.success(), "{accepted:?}");
}

/// `packaging/nats` as it is shipped, but for where the server is, passwords and tokens.
#[tokio::test]
async fn one_gateway_serves_teams_that_are_in_accounts_of_their_own() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/nats");
    let shipped = |file: &str| fs::read_to_string(packaging.join(file)).unwrap();
    let server = shipped("nats.conf");
    // The harness says where the server keeps its streams.
    let (_, accounts) = server.split_once("\naccounts ").unwrap();
    let mut accounts = format!("accounts {accounts}");
    for team in TEAMS {
        let options = [
            "--account",
            team,
            "--lattice",
            team,
            "--layout",
            "component",
            "--provision",
        ];
        accounts = accounts.replace(&format!("include \"{team}.conf\""), &printed(&options));
    }
    let nats = Nats::launch_with(&with_passwords(&accounts)).await;
    let config = shipped("gateway.toml")
        .replace(
            "…@127.0.0.1:4222",
            &format!("{PASSWORD}@127.0.0.1:{}", nats.port()),
        )
        .replacen("\"…\"", &format!("\"{}\"", "a".repeat(64)), 1)
        .replacen("\"…\"", &format!("\"{}\"", "b".repeat(64)), 1);
    let gateway = TestGateway::serving_as(&config).await;
    for team in TEAMS {
        let mut put = put_interface_link(interface_link("component"));
        put.lattice = team.to_owned();
        until("the gateway writes", async || {
            gateway
                .interface_links()
                .put_interface_link(put.clone())
                .await
                .ok()
        })
        .await;
    }
    for (team, other) in [("team-a", "team-b"), ("team-b", "team-a")] {
        let hosts = async_nats::jetstream::new(nats.client_for(&format!("{team}-hosts")).await);
        let own = hosts.get_stream(format!("KV_LATTICEDATA_{team}")).await.unwrap();
        let subject = format!("$KV.LATTICEDATA_{team}.COMPONENT_http-server");
        own.get_last_raw_message_by_subject(&subject).await.unwrap();
        let elses = hosts.get_stream(format!("KV_LATTICEDATA_{other}")).await;
        assert!(elses.is_err(), "{elses:?}");

        let others = format!("{team}-everybody-else");
        let client = nats.client_for(&others).await;
        client.publish(subject.clone(), "{}".into()).await.unwrap();
        client.flush().await.unwrap();
        until("it is refused", async || {
            violations(&nats, &others)
                .contains(&("publish", subject.clone()))
                .then_some(())
        })
        .await;
        assert_eq!(violations(&nats, &format!("{team}-{GATEWAY}")), BTreeSet::new());
    }
}

const TEAMS: [&str; 2] = ["team-a", "team-b"];

#[test]
fn an_account_is_printed_for_a_server_alone() {
    let refused = run(&["--lattice", "default", "--account", "a", "--format", "nsc"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("--account"), "{told}");
    let refused = run(&["--lattice", "default", "--account", "a b"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("--account \"a b\""), "{told}");
}
