//! `DiagnoseLattice` and `latticectl doctor`: of a lattice of each layout with a defect of each kind every one is found,
//! with what it rests on and how to mend it; of a clean one nothing is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use data_encoding::HEXUPPER;
use futures_util::StreamExt;
use lattice_gateway::{
    config::Config,
    control::lattices::{LatticeSettings, Settings},
    domain::claims_token::TrustedIssuers,
    proto::{
        Claims, DiagnoseLatticeRequest, DiagnoseLatticeResponse, ErrorReason, Finding, FindingKind,
        InterfaceLink, Layout, OciReference, ProvisionLatticeRequest, PutClaimsRequest,
        SetOciReferenceRequest, Severity, apply_request::Operation, put_claims_request::Source,
    },
    store::layout::ClaimsForm,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{
    harness::{
        Bucket, Nats, TestGateway, Told,
        api::{ACCOUNT, ACTOR, PROVIDER},
        interface_link, keys, link, named_config, nats, put_config, put_interface_link, put_link, told,
        until,
    },
    latticectl::Ctl,
};
use FindingKind as Kind;
use Severity::{Error, Info, Warning};

const CONTRACT: &str = "wasmcloud:keyvalue";

/// A gateway that removes nothing by itself, waits for no host, and trusts one account.
async fn gateway(nats: &Nats) -> TestGateway {
    gateway_in(nats, None).await
}

async fn gateway_in(nats: &Nats, domain: Option<&str>) -> TestGateway {
    let mut config = Config::dev(nats.url(), None);
    config.nats.domain = domain.map(str::to_owned);
    let settings = LatticeSettings {
        trusted_issuers: TrustedIssuers::parse(&[ACCOUNT.to_owned()]).unwrap(),
        layout: None,
        sweep: false,
        effects: false,
        settle: Duration::ZERO,
        claims_form: ClaimsForm::Short,
        upstream: None,
    };
    config.lattices = Settings(vec![("*".to_owned(), Arc::new(settings))]);
    TestGateway::with(config).await
}

async fn try_to_diagnose(
    gateway: &TestGateway,
    replicas_wanted: u32,
) -> Result<DiagnoseLatticeResponse, Told> {
    let request = DiagnoseLatticeRequest {
        lattice: "default".to_owned(),
        replicas_wanted,
    };
    told(gateway.lattices().diagnose_lattice(request).await)
}

async fn diagnose(gateway: &TestGateway) -> DiagnoseLatticeResponse {
    let diagnosis = try_to_diagnose(gateway, 0).await.unwrap();
    for finding in &diagnosis.findings {
        assert_ne!(finding.about, "", "{finding:?}");
        assert!(finding.detail.ends_with('.'), "{finding:?}");
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        assert!(!finding.remedy.as_ref().unwrap().advice.is_empty(), "{finding:?}");
    }
    let told = format!("{diagnosis:?}");
    assert!(!told.contains("canary"), "{told}");
    diagnosis
}

/// What is found: severity and kind, the worst first.
fn kinds(diagnosis: &DiagnoseLatticeResponse) -> Vec<(Severity, Kind)> {
    let counts = diagnosis.counts.iter();
    counts.map(|count| (count.severity(), count.kind())).collect()
}

/// The one finding of a kind.
fn the(diagnosis: &DiagnoseLatticeResponse, kind: Kind) -> Finding {
    let mut findings = diagnosis.findings.iter().filter(|it| it.kind() == kind);
    let (found, more) = (findings.next(), findings.next());
    assert!(more.is_none(), "{kind:?}: {more:?}");
    found
        .unwrap_or_else(|| panic!("no {kind:?}: {diagnosis:?}"))
        .clone()
}

fn evidence(finding: &Finding) -> BTreeMap<&str, &str> {
    let pairs = finding.evidence.iter();
    pairs.map(|it| (it.key.as_str(), it.value.as_str())).collect()
}

fn command(finding: &Finding) -> &str {
    &finding.remedy.as_ref().unwrap().command
}

fn claims(public_key: &str, contract_id: &str) -> PutClaimsRequest {
    PutClaimsRequest {
        lattice: "default".to_owned(),
        source: Some(Source::Claims(Claims {
            public_key: public_key.to_owned(),
            issuer: ACCOUNT.to_owned(),
            name: "Echo".to_owned(),
            claims_revision: "4".to_owned(),
            version: "0.3.4".to_owned(),
            contract_id: contract_id.to_owned(),
            ..Claims::default()
        })),
        ..PutClaimsRequest::default()
    }
}

fn stored_claims(issuer: &str) -> String {
    json!({
        "call_alias": "", "caps": "", "contract_id": "", "iss": issuer, "name": "Echo", "rev": "4", "sub": ACTOR, "tags": "",
        "version": "0.3.4",
    })
    .to_string()
}

/// A link as hosts write it.
fn stored_link(actor: &str, deleted: bool) -> String {
    json!({
        "actor_id": actor, "contract_id": CONTRACT, "deleted": deleted, "id": "x", "link_name": "default",
        "provider_id": PROVIDER, "values": {"password": "canary"},
    })
    .to_string()
}

/// An interface link as hosts write it.
fn stored_interface_link(source: &str, target: &str, interface: &str, config: &[&str]) -> Value {
    json!({
        "source_id": source, "target": target, "name": "default", "wit_namespace": "wasi", "wit_package": "http",
        "interfaces": [interface], "source_config": config, "target_config": [],
    })
}

async fn provision(gateway: &TestGateway, layout: Layout) {
    let request = ProvisionLatticeRequest {
        lattice: "default".to_owned(),
        layout: layout.into(),
        ..ProvisionLatticeRequest::default()
    };
    told(gateway.lattices().provision_lattice(request).await).unwrap();
}

#[tokio::test]
async fn in_a_clean_lattice_of_hosts_0_50_to_0_59_nothing_is_found() {
    nothing_is_found(Layout::CacheStream).await;
}

#[tokio::test]
async fn in_a_clean_lattice_of_hosts_0_60_to_0_82_nothing_is_found() {
    nothing_is_found(Layout::Kv).await;
}

#[tokio::test]
async fn in_a_clean_lattice_of_hosts_1_0_to_1_9_nothing_is_found() {
    nothing_is_found(Layout::Component).await;
}

/// Provisioned and written through a gateway.
async fn nothing_is_found(layout: Layout) {
    let nats = Nats::start().await;
    let gateway = gateway(&nats).await;
    assert_eq!(
        try_to_diagnose(&gateway, 0).await.unwrap_err().reason,
        ErrorReason::NotProvisioned
    );
    provision(&gateway, layout).await;
    let contract = if layout == Layout::Kv { CONTRACT } else { "" };
    for (key, contract) in [(ACTOR, ""), (PROVIDER, contract)] {
        told(gateway.claims().put_claims(claims(key, contract)).await).unwrap();
    }
    if layout == Layout::Component {
        write_configured_links(&gateway).await;
    } else {
        write_link_and_reference(&gateway).await;
    }
    let diagnosis = diagnose(&gateway).await;
    assert_eq!((&diagnosis.findings, &diagnosis.skipped), (&vec![], &vec![]));
    assert_eq!(diagnosis.hosts, Some(0));
    assert!(diagnosis.revision.is_some());
    let ctl = Ctl::new(&gateway);
    assert_eq!(
        ctl.text("doctor").await,
        "lattice default: all is well; 0 hosts answered\n"
    );

    let wished = try_to_diagnose(&gateway, 3).await.unwrap();
    let parts = if layout == Layout::Component { 2 } else { 1 };
    assert_eq!(kinds(&wished), [(Warning, Kind::TooFewReplicas)]);
    assert_eq!(wished.findings.len(), parts);
    let finding = &wished.findings[0];
    assert_eq!(evidence(finding), [("want", "3"), ("have", "1")].into());
    assert_eq!(
        command(finding),
        "latticectl --lattice default lattice provision --replicas 3"
    );
    assert_eq!(ctl.run("doctor --replicas 3").await.status.code(), Some(8));
    let refused = try_to_diagnose(&gateway, 6).await.unwrap_err();
    assert_eq!(refused.fields, ["replicas_wanted"]);
}

/// Links both ways, so that each end has a record, with a config that they use.
async fn write_configured_links(gateway: &TestGateway) {
    let config = put_config(named_config("http-cfg", "canary"));
    gateway.put_config(config).await.unwrap();
    for (source, target) in [("http-server", "hello"), ("hello", "http-server")] {
        let link = InterfaceLink {
            source_id: source.to_owned(),
            source_config: vec!["http-cfg".to_owned()],
            ..interface_link(target)
        };
        let put = put_interface_link(link);
        gateway.put_interface_link(put).await.unwrap();
    }
}

async fn write_link_and_reference(gateway: &TestGateway) {
    let put = put_link(link(ACTOR, PROVIDER, "canary"));
    gateway.put(put).await.unwrap();
    let set = SetOciReferenceRequest {
        lattice: "default".to_owned(),
        oci_reference: Some(OciReference {
            oci_url: "registry.example/echo:0.3.4".to_owned(),
            public_key: ACTOR.to_owned(),
            ..OciReference::default()
        }),
        ..SetOciReferenceRequest::default()
    };
    told(gateway.references().set_oci_reference(set).await).unwrap();
}

#[tokio::test]
async fn every_defect_is_found_in_a_lattice_of_hosts_0_50_to_0_59() {
    let nats = Nats::start().await;
    let changes = json!({"max_msgs_per_subject": 5, "storage": "file", "deny_delete": true});
    nats.create_stream("default", changes).await;
    let other = keys::actor();
    for (tokens, body) in [
        (format!("claims.{ACTOR}"), stored_claims("AOTHER")),
        ("claims.MX".to_owned(), r#"{"name":"no alias"}"#.to_owned()),
        ("linkdefs.a".to_owned(), stored_link(ACTOR, false)),
        ("linkdefs.b".to_owned(), stored_link(ACTOR, false)),
        ("linkdefs.*".to_owned(), stored_link(&other, false)),
        ("linkdefs.d".to_owned(), stored_link(&other, true)),
    ] {
        nats.publish_raw(&format!("lc.default.{tokens}"), body).await;
    }
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [
            (Error, Kind::StreamDrift),
            (Error, Kind::MalformedEntry),
            (Warning, Kind::RevivedByMigration),
            (Warning, Kind::UntrustedIssuer),
            (Info, Kind::StreamDrift),
            (Info, Kind::StaleCopy),
            (Info, Kind::UnknownLinkEnd),
        ]
    );
    assert_eq!(diagnosis.skipped, []);
    assert_eq!(nats.state("default").await, (6, 6), "a diagnosis changes nothing");

    let drift = diagnosis.findings.first().unwrap();
    assert_eq!(
        evidence(drift),
        [("field", "max_msgs_per_subject"), ("want", "1"), ("have", "5")].into()
    );
    assert_eq!(
        command(drift),
        "nats stream edit LATTICECACHE_default --force --max-msgs-per-subject=1"
    );
    let malformed = the(&diagnosis, Kind::MalformedEntry);
    assert_eq!(
        evidence(&malformed),
        [
            ("stream", "LATTICECACHE_default"),
            ("subject", "lc.default.claims.MX"),
            ("sequence", "2"),
            ("reason", "claims lack call_alias"),
        ]
        .into()
    );
    assert_eq!(
        command(&malformed),
        "nats stream purge LATTICECACHE_default --subject lc.default.claims.MX --force"
    );
    let revived = the(&diagnosis, Kind::RevivedByMigration);
    assert_eq!(
        revived.about,
        format!("link_definition {other} {CONTRACT} default")
    );
    assert_eq!(
        evidence(&revived),
        [
            ("subject", "lc.default.linkdefs.*"),
            ("sequence", "5"),
            ("newest_subject", "lc.default.linkdefs.d"),
            ("newest_sequence", "6"),
        ]
        .into()
    );
    assert_eq!(
        command(&revived),
        "",
        "a purge of that subject would take all links"
    );
    let issuer = the(&diagnosis, Kind::UntrustedIssuer);
    assert_eq!(evidence(&issuer)["issuer"], "AOTHER");
    let stale = the(&diagnosis, Kind::StaleCopy);
    assert_eq!(evidence(&stale)["subject"], "lc.default.linkdefs.a");
    assert_eq!(
        command(&stale),
        "nats stream purge LATTICECACHE_default --subject lc.default.linkdefs.a --force"
    );
    let end = the(&diagnosis, Kind::UnknownLinkEnd);
    assert_eq!(evidence(&end), [("role", "provider"), ("id", PROVIDER)].into());
}

#[tokio::test]
async fn every_defect_is_found_in_a_lattice_of_hosts_0_60_to_0_82_and_what_is_safe_is_mended() {
    let nats = Nats::start().await;
    nats.create_bucket("LATTICEDATA", "default", json!({"max_msgs_per_subject": 64}))
        .await;
    let data = Bucket::data(&nats, "default").await;
    let hash = HEXUPPER.encode(&Sha256::digest(format!("{ACTOR}{CONTRACT}default")));
    let migrated = json!({
        "call_alias": "", "caps": "", "iss": ACCOUNT, "name": "Echo", "rev": "4", "sub": ACTOR, "tags": "",
        "version": null,
    });
    let early = json!({
        "actor_id": ACTOR, "contract_id": CONTRACT, "link_name": "default", "provider_id": PROVIDER, "values": null,
    });
    let reference = r#"{"oci_url":"u","public_key":"M"}"#;
    data.put(&format!("CLAIMS_{ACTOR}"), migrated.to_string()).await;
    data.put(&format!("LINKDEF_{hash}"), early.to_string()).await;
    data.put("LINKDEF_0", early.to_string()).await;
    data.put("FOO", "canary").await;
    data.put("REFMAP_other", reference).await;
    data.put("REFMAP_dQ", reference).await;
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [
            (Error, Kind::MalformedEntry),
            (Warning, Kind::PartlyReadable),
            (Info, Kind::StreamDrift),
            (Info, Kind::MalformedEntry),
            (Info, Kind::StaleCopy),
            (Info, Kind::UnknownLinkEnd),
        ]
    );
    let malformed = diagnosis.findings.first().unwrap();
    assert_eq!(
        evidence(malformed)["reason"],
        "the key is not the hash of the link in it"
    );
    assert_eq!(
        command(malformed),
        "nats stream purge KV_LATTICEDATA_default --subject '$KV.LATTICEDATA_default.LINKDEF_0' --force"
    );
    let mends = diagnosis.findings.iter().filter_map(|it| it.mend.clone());
    let mends = mends.map(|mend| mend.operation.unwrap()).collect::<Vec<_>>();
    assert!(
        matches!(
            &mends[..],
            [Operation::PutClaims(_), Operation::PutLinkDefinition(_)]
        ),
        "{mends:?}"
    );

    let ctl = Ctl::new(&gateway);
    let refused = ctl.run("doctor --fix").await;
    assert_eq!(refused.status.code(), Some(2), "nobody can be asked");
    assert_eq!(data.value(&format!("CLAIMS_{ACTOR}")).await, migrated);
    let fixed = ctl.run("doctor --fix --yes").await;
    assert_eq!(fixed.status.code(), Some(8), "the malformed entry stays");
    let told = String::from_utf8(fixed.stdout).unwrap();
    assert!(told.contains(&format!("\napplied  claims {ACTOR}  (")), "{told}");
    assert!(
        told.contains(&format!(
            "\napplied  link_definition {ACTOR} {CONTRACT} default  ("
        )),
        "{told}"
    );
    let now = data.value(&format!("CLAIMS_{ACTOR}")).await;
    assert_eq!(
        (&now["version"], &now["contract_id"]),
        (&json!(""), &json!("")),
        "{now}"
    );
    assert_eq!(data.value(&format!("LINKDEF_{hash}")).await["values"], json!({}));
    let left = diagnose_kinds(&gateway).await;
    assert!(!left.contains(&(Warning, Kind::PartlyReadable)), "{left:?}");
}

async fn diagnose_kinds(gateway: &TestGateway) -> Vec<(Severity, Kind)> {
    kinds(&diagnose(gateway).await)
}

#[tokio::test]
async fn every_defect_is_found_in_a_lattice_of_hosts_1_0_to_1_9_and_what_is_safe_is_mended() {
    let nats = Nats::start().await;
    let (data, configs) = component_lattice(&nats, "default").await;
    let links = [
        stored_interface_link("web", "api", "a", &[]),
        stored_interface_link("web", "other", "a", &[]),
        stored_interface_link("elsewhere", "web", "a", &[]),
    ];
    let doubled = stored_interface_link("api", "web", "a", &["there", "bad"]);
    data.put(
        "COMPONENT_web",
        json!({"url": "canary", "links": links}).to_string(),
    )
    .await;
    data.put(
        "COMPONENT_api",
        json!({"url": "", "links": [&doubled, &doubled]}).to_string(),
    )
    .await;
    data.put("COMPONENT_broken", r#"{"links":[]}"#).await;
    data.put("LINKDEF_0", "canary").await;
    data.put(
        &format!("CLAIMS_{ACTOR}"),
        json!({"call_alias": "", "issuer": "AOTHER", "name": "Echo", "revision": "4", "subject": ACTOR, "tags": [],
            "version": "1"})
        .to_string(),
    )
    .await;
    for (name, value) in [
        ("there", r#"{"password":"canary"}"#),
        ("unused", "{}"),
        ("bad", "[]"),
    ] {
        configs.put(name, value).await;
    }
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [
            (Error, Kind::MalformedEntry),
            (Error, Kind::LinkConflict),
            (Error, Kind::ConfigMissing),
            (Warning, Kind::MisfiledLink),
            (Warning, Kind::UntrustedIssuer),
            (Warning, Kind::DoubledLink),
            (Info, Kind::OtherEraEntry),
            (Info, Kind::UnknownLinkEnd),
            (Info, Kind::ConfigUnused),
        ]
    );
    let conflict = the(&diagnosis, Kind::LinkConflict);
    assert_eq!(
        evidence(&conflict),
        [
            ("interface", "a"),
            ("target", "other"),
            ("other_target", "api"),
            ("sequence", "1")
        ]
        .into()
    );
    assert_eq!(
        command(&conflict),
        "latticectl --lattice default iface delete web wasi http --name default --target other"
    );
    let missing = the(&diagnosis, Kind::ConfigMissing);
    assert_eq!(evidence(&missing)["config"], "bad");
    assert_eq!(
        command(&missing),
        "latticectl --lattice default config put bad --value KEY=VALUE"
    );
    let unused = the(&diagnosis, Kind::ConfigUnused);
    assert_eq!(unused.about, "config unused");
    assert_eq!(
        command(&unused),
        "latticectl --lattice default config delete unused"
    );
    let end = the(&diagnosis, Kind::UnknownLinkEnd);
    assert_eq!(evidence(&end), [("role", "target"), ("id", "other")].into());
    let claims = the(&diagnosis, Kind::UntrustedIssuer);
    assert_eq!(
        command(&claims),
        format!("latticectl --lattice default claims delete {ACTOR}")
    );
    let malformed = diagnosis
        .findings
        .iter()
        .filter(|it| it.kind() == Kind::MalformedEntry);
    let malformed = malformed.map(|it| it.about.as_str()).collect::<Vec<_>>();
    assert_eq!(
        malformed,
        [
            "$KV.LATTICEDATA_default.COMPONENT_broken",
            "$KV.CONFIGDATA_default.bad"
        ]
    );

    mend_a_doubled_link(&gateway, &data, &configs, &doubled).await;
}

/// It names a config that is unreadable: first that has to be mended, and `--fix` says so.
async fn mend_a_doubled_link(gateway: &TestGateway, data: &Bucket, configs: &Bucket, doubled: &Value) {
    let ctl = Ctl::new(gateway);
    let fixed = ctl.run("-o json doctor --fix --yes").await;
    assert_eq!(fixed.status.code(), Some(8));
    let told: Value = serde_json::from_slice(&fixed.stdout).unwrap();
    assert_eq!(told["mends"][0]["error"]["reason"], "CONFIG_NOT_FOUND", "{told}");
    configs.put("bad", "{}").await;
    let fixed = ctl.run("-o json doctor --fix --yes").await;
    let told: Value = serde_json::from_slice(&fixed.stdout).unwrap();
    assert_eq!(told["mends"][0]["result"]["outcome"], "OUTCOME_APPLIED", "{told}");
    let left = diagnose_kinds(gateway).await;
    assert!(!left.contains(&(Warning, Kind::DoubledLink)), "{left:?}");
    assert_eq!(data.value("COMPONENT_api").await["links"], json!([doubled]));
}

/// The buckets of a lattice as hosts of 1.x create them.
async fn component_lattice(nats: &Nats, lattice: &str) -> (Bucket, Bucket) {
    let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
    for bucket in ["LATTICEDATA", "CONFIGDATA"] {
        nats.create_bucket(bucket, lattice, noted.clone()).await;
    }
    (
        Bucket::data(nats, lattice).await,
        Bucket::configs(nats, lattice).await,
    )
}

#[tokio::test]
async fn a_lattice_of_ambiguous_layout_is_diagnosed_as_far_as_it_can_be() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({"max_msgs": 10})).await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [(Error, Kind::LayoutMixed), (Error, Kind::StreamDrift)]
    );
    let mixed = the(&diagnosis, Kind::LayoutMixed);
    assert_eq!(
        evidence(&mixed),
        [
            ("stream", "LATTICECACHE_default"),
            ("bucket", "KV_LATTICEDATA_default")
        ]
        .into()
    );
    assert_eq!(command(&mixed), "latticectl --lattice default migrate");
    let skipped = diagnosis.skipped.iter().flat_map(|skipped| skipped.kinds());
    let skipped = skipped.collect::<Vec<_>>();
    assert!(skipped.contains(&Kind::HostDeaf) && skipped.contains(&Kind::MalformedEntry));
    assert_eq!((diagnosis.revision, diagnosis.hosts), (None, None));

    // Of a bucket that does not tell its era.
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(kinds(&diagnosis), [(Error, Kind::LayoutMixed)]);
}

#[tokio::test]
async fn a_lattice_that_lacks_the_bucket_of_its_configs_is_told_how_to_get_it() {
    let nats = Nats::start().await;
    let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
    nats.create_bucket("LATTICEDATA", "default", noted).await;
    let gateway = gateway(&nats).await;
    let missing = the(&diagnose(&gateway).await, Kind::StreamMissing);
    assert_eq!(evidence(&missing)["stream"], "KV_CONFIGDATA_default");
    assert_eq!(
        command(&missing),
        "latticectl --lattice default lattice provision --layout component"
    );
    provision(&gateway, Layout::Component).await;
    assert_eq!(diagnose_kinds(&gateway).await, []);
}

#[tokio::test]
async fn a_hundred_of_a_kind_are_listed_and_all_are_counted() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let client = nats.client().await;
    for number in 0..150 {
        client
            .publish(format!("lc.default.claims.M{number}"), "".into())
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(diagnosis.findings.len(), 100);
    assert_eq!(diagnosis.counts.len(), 1);
    assert_eq!(diagnosis.counts[0].count, 150);
}

#[tokio::test]
async fn links_that_no_host_can_answer_are_told_before_a_host_is_asked() {
    let nats = Nats::start_with("max_payload: 8192").await;
    nats.create_stream("default", Value::Null).await;
    let gateway = gateway(&nats).await;
    let put = async |from: u32, to: u32| {
        for number in from..to {
            let body = stored_link(&format!("M{number}"), false);
            nats.publish_raw(&format!("lc.default.linkdefs.x{number}"), body)
                .await;
        }
    };
    // Each takes about 180 bytes in an answer.
    put(0, 40).await;
    let near = the(&diagnose(&gateway).await, Kind::LinksTooLarge);
    assert_eq!(near.severity(), Warning, "{near:?}");
    put(40, 60).await;
    let over = the(&diagnose(&gateway).await, Kind::LinksTooLarge);
    assert_eq!(over.severity(), Error);
    let evidence = evidence(&over);
    assert_eq!((evidence["links"], evidence["max_payload"]), ("60", "8192"));
}

/// Answers as hosts do, for as long as it is held.
async fn hosts(nats: &Nats, subject: &str, answers: Vec<Value>) -> tokio_util::task::AbortOnDropHandle<()> {
    let client = nats.client().await;
    let mut asked = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let answering = async move {
        while let Some(question) = asked.next().await {
            for answer in &answers {
                let reply = question.reply.clone().unwrap();
                client.publish(reply, answer.to_string().into()).await.unwrap();
            }
        }
    };
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(answering))
}

/// A host of wasmCloud 1.x, as it answers.
fn host(id: &str, domain: Option<&str>) -> Value {
    let response = json!({"id": id, "version": "1.9.2", "js_domain": domain, "labels": {}});
    json!({"success": true, "message": "", "response": response})
}

/// A consumer by which a host of wasmCloud 1.x follows the bucket.
async fn watch(nats: &Nats, name: &str, changes: Value) -> async_nats::Subscriber {
    let client = nats.client().await;
    let inbox = format!("watches.{name}");
    let subscriber = client.subscribe(inbox.clone()).await.unwrap();
    client.flush().await.unwrap();
    let mut config = json!({
        "name": name, "description": "kv watch consumer", "ack_policy": "none", "deliver_policy": "new",
        "filter_subject": "$KV.LATTICEDATA_default.>", "deliver_subject": inbox,
        "inactive_threshold": 30_000_000_000_u64, "mem_storage": true,
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    let call = format!("CONSUMER.CREATE.KV_LATTICEDATA_default.{name}");
    let request = json!({"stream_name": "KV_LATTICEDATA_default", "config": config});
    let created = nats.api(&call, request).await;
    assert_eq!(created["error"], Value::Null, "{created}");
    subscriber
}

#[tokio::test]
async fn hosts_that_hear_nothing_are_counted() {
    let nats = Nats::start().await;
    component_lattice(&nats, "default").await;
    let gateway = gateway(&nats).await;
    let _hosts = hosts(
        &nats,
        "wasmbus.ctl.v1.default.host.ping",
        vec![host("N1", None), host("N2", None), host("N1", None)],
    )
    .await;
    let _heard = watch(&nats, "first", Value::Null).await;
    let second = watch(&nats, "second", Value::Null).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!((diagnosis.hosts, kinds(&diagnosis)), (Some(2), vec![]));

    drop(second);
    let deaf = until("the second watch is bound to nobody", async || {
        let diagnosis = diagnose(&gateway).await;
        kinds(&diagnosis)
            .contains(&(Error, Kind::HostDeaf))
            .then_some(diagnosis)
    })
    .await;
    let finding = the(&deaf, Kind::HostDeaf);
    assert_eq!(
        evidence(&finding),
        [("hosts", "2"), ("watches", "1"), ("host_ids", "N1,N2")].into()
    );
    assert_eq!(command(&finding), "nats consumer report KV_LATTICEDATA_default");
    let abandoned = the(&deaf, Kind::ConsumerAbandoned);
    assert_eq!(abandoned.severity(), Info, "JetStream removes it by itself");
    assert_eq!(evidence(&abandoned)["consumer"], "second");
}

#[tokio::test]
async fn hosts_of_the_early_eras_are_counted_by_their_own_version() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({"storage": "file"})).await;
    let gateway = gateway(&nats).await;
    let early = |version: &str| json!({"id": format!("N{version}"), "version": version});
    let _hosts = hosts(
        &nats,
        "wasmbus.ctl.default.ping.hosts",
        vec![early("0.58.1"), early("0.63.2")],
    )
    .await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [(Error, Kind::StreamDrift), (Error, Kind::HostDeaf)]
    );
    assert_eq!(diagnosis.hosts, Some(1));
}

#[tokio::test]
async fn consumers_that_nobody_uses_or_that_lag_are_told() {
    let nats = Nats::start().await;
    let (data, _configs) = component_lattice(&nats, "default").await;
    drop(
        watch(
            &nats,
            "kept",
            json!({"durable_name": "kept", "inactive_threshold": 0}),
        )
        .await,
    );
    let lags = json!({"ack_policy": "explicit", "max_ack_pending": 1, "deliver_policy": "all"});
    let _heard = watch(&nats, "lags", lags).await;
    for source in ["a", "b", "c"] {
        data.put(&format!("COMPONENT_{source}"), r#"{"url":"","links":[]}"#)
            .await;
    }
    let gateway = gateway(&nats).await;
    let diagnosis = until("nobody listens any longer", async || {
        let diagnosis = diagnose(&gateway).await;
        (diagnosis.findings.len() == 2).then_some(diagnosis)
    })
    .await;
    let abandoned = the(&diagnosis, Kind::ConsumerAbandoned);
    assert_eq!(abandoned.severity(), Warning);
    assert_eq!(
        command(&abandoned),
        "nats consumer rm KV_LATTICEDATA_default kept --force"
    );
    let lagging = the(&diagnosis, Kind::ConsumerLagging);
    assert_eq!(
        (
            lagging.severity(),
            evidence(&lagging)["consumer"],
            evidence(&lagging)["pending"]
        ),
        (Warning, "lags", "2")
    );
}

#[tokio::test]
async fn a_server_that_refuses_hosts_of_0_59_is_told() {
    let told = Command::new(nats::program())
        .arg("--version")
        .output()
        .await
        .unwrap();
    if String::from_utf8_lossy(&told.stdout).contains("v2.10.") {
        return;
    }
    let nats = Nats::start_bounded("strict: true").await;
    nats.create_stream("default", Value::Null).await;
    // It really refuses what they ask.
    let config =
        json!({"ack_policy": "explicit", "deliver_policy": "last_per_subject", "deliver_subject": "x"});
    let of_hosts = json!({"stream_name": "LATTICECACHE_default", "name": "hashid", "config": config});
    let refused = nats.api("CONSUMER.CREATE.LATTICECACHE_default", of_hosts).await;
    assert_eq!(refused["error"]["err_code"], 10025, "{refused}");
    let gateway = gateway(&nats).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(kinds(&diagnosis), [(Warning, Kind::StrictServer)]);
    let early = vec![json!({"id": "N1", "version": "0.59.0"})];
    let _hosts = hosts(&nats, "wasmbus.ctl.default.ping.hosts", early).await;
    let diagnosis = diagnose(&gateway).await;
    assert_eq!(
        kinds(&diagnosis),
        [(Error, Kind::HostDeaf), (Error, Kind::StrictServer)]
    );
    let strict = the(&diagnosis, Kind::StrictServer);
    assert_eq!(evidence(&strict)["hosts"], "1");
}

#[tokio::test]
async fn the_silent_twin_at_a_leaf_node_is_found() {
    let [hub, leaf] = Nats::start_hub_and_leaf_with_its_own().await;
    let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
    hub.create_bucket("LATTICEDATA", "default", noted.clone()).await;
    hub.create_bucket("CONFIGDATA", "default", noted.clone()).await;
    let there = hub.api("STREAM.INFO.KV_LATTICEDATA_default", Value::Null).await;

    // At the leaf and in no domain the gateway sees none, and a host says where it is.
    let of_leaf = gateway(&leaf).await;
    let refused = try_to_diagnose(&of_leaf, 0).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::NotProvisioned);
    let answers = vec![host("N1", Some("hub"))];
    let _hosts = hosts(&hub, "wasmbus.ctl.v1.default.host.ping", answers).await;
    let elsewhere = until("a host answers through the leaf", async || {
        let diagnosis = try_to_diagnose(&of_leaf, 0).await.ok()?;
        Some(the(&diagnosis, Kind::StreamElsewhere))
    })
    .await;
    assert_eq!(elsewhere.severity(), Error);
    assert_eq!(evidence(&elsewhere)["other_domain"], "hub");
    assert_eq!(
        evidence(&elsewhere)["other_created"],
        there["created"].as_str().unwrap()
    );
    assert_eq!(
        command(&elsewhere),
        "nats --js-domain hub stream info KV_LATTICEDATA_default"
    );

    // In the hub's domain it sees the stream alone, from the leaf and from the hub.
    let _heard = watch(&hub, "of-the-host", Value::Null).await;
    let of_hub = gateway_in(&leaf, Some("hub")).await;
    assert_eq!(diagnose_kinds(&of_hub).await, []);
    assert_eq!(diagnose_kinds(&gateway_in(&hub, Some("hub")).await).await, []);

    // Once somebody at the leaf names no domain, there are two.
    leaf.create_bucket("LATTICEDATA", "default", noted).await;
    let twin = the(&diagnose(&of_hub).await, Kind::StreamElsewhere);
    assert_eq!(twin.severity(), Warning);
    assert_eq!(
        (evidence(&twin)["domain"], evidence(&twin)["other_domain"]),
        ("hub", "none")
    );
    let twins = diagnose(&of_leaf).await.findings;
    let twins = twins.iter().filter(|it| it.kind() == Kind::StreamElsewhere);
    let twins = twins.map(|it| (it.severity(), it.about.as_str()));
    assert_eq!(
        twins.collect::<Vec<_>>(),
        [
            (Error, "stream KV_LATTICEDATA_default"),
            (Error, "stream KV_CONFIGDATA_default")
        ],
        "the host works in the other"
    );
}

#[tokio::test]
async fn a_caller_without_read_learns_nothing() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let caller =
        crate::harness::gateway::caller("writer", "a-token-of-a-writer", &["default"], "links:write");
    let text = format!("[lattices.default]\ntrusted_issuers = [\"*\"]\n{caller}");
    let gateway = TestGateway::serving_callers(&nats, &text)
        .await
        .showing("a-token-of-a-writer");
    let refused = try_to_diagnose(&gateway, 0).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LatticeNotGranted);
    assert_eq!(refused.metadata["verb"], "read");
}
