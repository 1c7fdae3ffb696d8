//! Every RPC on a lattice that is not the caller's: refused, by one path, whatever there is.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lattice_gateway::{
    control::lattices::Layout,
    proto::{ErrorReason, ListLatticesRequest},
};
use serde_json::{Value, json};

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACTOR},
    gateway::caller,
    told,
};

const GRANTED: &str = "granted";
/// There, and not the caller's.
const UNGRANTED: &str = "foreign";
/// Not there.
const UNKNOWN: &str = "unknown";

const CONFIG: &str = "[lattices.granted]\ntrusted_issuers = [\"*\"]\n";

/// The verb that each RPC needs; none for those that are about no one lattice.
const VERBS: [(&str, Option<&str>); 30] = [
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
    ("InterfaceLinkService/PutInterfaceLink", Some("links:write")),
    ("InterfaceLinkService/GetInterfaceLink", Some("read")),
    ("InterfaceLinkService/ListInterfaceLinks", Some("read")),
    ("InterfaceLinkService/DeleteInterfaceLink", Some("links:write")),
    ("ConfigService/PutConfig", Some("config:write")),
    ("ConfigService/GetConfig", Some("read")),
    ("ConfigService/ListConfigs", Some("read")),
    ("ConfigService/DeleteConfig", Some("config:write")),
    ("WatchService/Watch", Some("watch")),
    // Those of their one operation.
    ("ApplyService/Apply", Some("links:write")),
    ("ApplyService/ApplyManifest", Some("links:write")),
    ("LatticeService/ListLattices", None),
    ("LatticeService/GetLattice", Some("read")),
    ("LatticeService/ProvisionLattice", Some("provision")),
    ("LatticeService/MigrateLattice", Some("provision")),
    (OF_EVERY_LATTICE, None),
    ("LatticeService/DiagnoseLattice", Some("read")),
    ("LatticeService/GetServerInfo", None),
];

/// Is about what all lattices share, and needs the verb `provision` on each: none of these callers has it.
const OF_EVERY_LATTICE: &str = "LatticeService/ProvisionWadm";

#[test]
fn every_rpc_has_a_row() {
    let rows = VERBS.iter().map(|(method, _)| (*method).to_owned());
    let methods = api::methods();
    assert_eq!(rows.collect::<BTreeSet<_>>(), methods.into_iter().collect());
}

/// A lattice's name in a request, as a mistake or an attack may write it.
const NAMES: [(&str, &str); 12] = [
    ("own", GRANTED),
    ("longer twin", "granted2"),
    ("shorter twin", "grante"),
    ("case twin", "Granted"),
    ("another's", UNGRANTED),
    ("unknown", UNKNOWN),
    ("wildcard", "*"),
    ("glob", "grant*"),
    ("all below", ">"),
    ("empty", ""),
    ("percent-encoded", "grante%64"),
    ("huge", HUGE),
];
const HUGE: &str = "ggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg";

/// Who calls, and the verbs that they have on the lattice `granted`.
const CALLERS: [(&str, Option<&str>); 4] = [
    ("nobody", None),
    ("wrong", Some("")),
    ("reader", Some("read")),
    (
        "right",
        Some(
            "read values:read claims:write claims:write-unsigned links:write refs:write config:write watch \
             provision",
        ),
    ),
];

fn token_of(caller: &str) -> String {
    format!("canary-token-of-{caller}")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What the call must come to: `None` where it is let through.
fn expected(name: &str, caller: &str, verbs: Option<&str>, verb: &str) -> Option<ErrorReason> {
    let is_granted = name == GRANTED && verbs.is_some_and(|verbs| verbs.split(' ').any(|has| has == verb));
    match () {
        () if caller == "nobody" => Some(ErrorReason::CredentialsMissing),
        () if name == HUGE => Some(ErrorReason::LimitExceeded),
        () if !is_name(name) => Some(ErrorReason::InvalidField),
        () if is_granted => None,
        () => Some(ErrorReason::LatticeNotGranted),
    }
}

/// Names of the fields of an RPC's request, as the descriptors have them; those of operations are of RPCs that have rows of
/// their own.
fn fields_of(method: &str) -> Vec<String> {
    let (service, rpc) = method.split_once('/').unwrap();
    let files = api::files();
    let services = files.iter().flat_map(|file| &file.service);
    let mut methods = services
        .filter(|of| of.name() == service)
        .flat_map(|of| &of.method);
    let input = methods.find(|of| of.name() == rpc).unwrap().input_type();
    let message = input.rsplit('.').next().unwrap();
    let mut messages = files.iter().flat_map(|file| &file.message_type);
    let fields = &messages.find(|of| of.name() == message).unwrap().field;
    fields.iter().map(|field| field.name().to_owned()).collect()
}

#[test]
fn an_rpc_is_about_one_lattice_or_about_none() {
    for (method, verb) in VERBS
        .iter()
        .filter(|(method, _)| !method.starts_with("ApplyService/"))
    {
        let fields = fields_of(method);
        let of_tenants = fields.iter().filter(|field| field.contains("lattice"));
        assert_eq!(
            of_tenants.map(String::as_str).collect::<Vec<_>>(),
            verb.map(|_| "lattice").into_iter().collect::<Vec<_>>(),
            "{method}: a field that names a tenant needs its columns in the matrix"
        );
    }
}

/// Creates a lattice as hosts of the layout do, with secrets in it where it is another's.
async fn create(nats: &Nats, layout: Layout, lattice: &str) {
    let claims = json!({"call_alias": "", "contract_id": "", "name": "Canary"}).to_string();
    let config = json!({"password": "canary"}).to_string();
    let record = json!({"url": "canary", "links": []}).to_string();
    let (home, entries) = match layout {
        Layout::CacheStream => {
            nats.create_stream(lattice, Value::Null).await;
            (format!("lc.{lattice}"), vec![(format!("claims.{ACTOR}"), claims)])
        }
        Layout::Kv => {
            nats.create_bucket("LATTICEDATA", lattice, Value::Null).await;
            (
                format!("$KV.LATTICEDATA_{lattice}"),
                vec![(format!("CLAIMS_{ACTOR}"), claims)],
            )
        }
        Layout::Component => {
            nats.create_bucket("LATTICEDATA", lattice, Value::Null).await;
            nats.create_bucket("CONFIGDATA", lattice, Value::Null).await;
            if lattice != GRANTED {
                nats.publish_raw(&format!("$KV.CONFIGDATA_{lattice}.http-cfg"), config)
                    .await;
            }
            (
                format!("$KV.LATTICEDATA_{lattice}"),
                vec![
                    (format!("CLAIMS_{ACTOR}"), claims),
                    ("COMPONENT_http-server".to_owned(), record),
                ],
            )
        }
    };
    for (key, body) in entries.into_iter().filter(|_| lattice != GRANTED) {
        nats.publish_raw(&format!("{home}.{key}"), body).await;
    }
}

#[tokio::test]
async fn the_tenant_matrix() {
    the_tenant_matrix_of(Layout::CacheStream, Over::Grpc).await;
}

#[tokio::test]
async fn the_tenant_matrix_over_http() {
    the_tenant_matrix_of(Layout::CacheStream, Over::Http).await;
}

#[tokio::test]
async fn the_tenant_matrix_of_buckets() {
    the_tenant_matrix_of(Layout::Kv, Over::Grpc).await;
}

#[tokio::test]
async fn the_tenant_matrix_of_buckets_with_configs() {
    the_tenant_matrix_of(Layout::Component, Over::Grpc).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Grpc,
    Http,
}

async fn the_tenant_matrix_of(layout: Layout, over: Over) {
    let nats = Nats::start().await;
    for (_, lattice) in NAMES.iter().filter(|(_, name)| is_name(name) && *name != UNKNOWN) {
        create(&nats, layout, lattice).await;
    }
    let served = NAMES.iter().filter(|(_, name)| is_name(name) && *name != UNKNOWN);
    let settings = format!(
        "trusted_issuers = [\"*\"]\nlayout = {:?}\nsettle = \"0s\"\n",
        layout.as_str()
    );
    let lattices = served.map(|(_, name)| format!("[lattices.{name}]\n{settings}"));
    let callers = CALLERS.iter().filter_map(|(name, verbs)| {
        Some(match (*verbs)? {
            "" => caller(name, &token_of(name), &["elsewhere"], "read links:write"),
            verbs => caller(name, &token_of(name), &[GRANTED], verbs),
        })
    });
    let config = lattices.chain(callers).collect::<Vec<_>>().concat();
    let mut gateway = TestGateway::serving_callers(&nats, &config).await;
    if over == Over::Http {
        gateway = gateway.by_http();
    }
    let tap = nats.client().await;
    let mut tapped = tap.subscribe(">").await.unwrap();
    tap.flush().await.unwrap();

    let mut told = Vec::new();
    for (caller, verbs) in CALLERS {
        if verbs.is_some() {
            gateway = gateway.showing(&token_of(caller));
        }
        for (method, verb) in VERBS {
            for (what, name) in NAMES {
                // A path without it leads elsewhere, or nowhere.
                if over == Over::Http && name.is_empty() {
                    continue;
                }
                let answer = gateway.call(method, api::valid_request(method, name)).await;
                let case = format!("{method}, {what}, {caller}");
                if method == OF_EVERY_LATTICE {
                    let reason = match caller {
                        "nobody" => ErrorReason::CredentialsMissing,
                        _ => ErrorReason::LatticeNotGranted,
                    };
                    assert_refused(answer.unwrap_err().into(), reason, "*", "provision", &case);
                    continue;
                }
                let Some(verb) = verb else {
                    // About no one lattice: who is known is answered, with no name that is not granted.
                    assert_eq!(answer.is_ok(), caller != "nobody", "{case}: {answer:?}");
                    told.push(format!("{answer:?}"));
                    continue;
                };
                match (expected(name, caller, verbs, verb), answer) {
                    (None, Ok(_)) => {}
                    (None, Err(status)) => {
                        let reason = Told::from(status).reason;
                        let expected = match method {
                            // Of layout `cache-stream`, where none is named.
                            "LatticeService/ProvisionLattice" if layout != Layout::CacheStream => {
                                [ErrorReason::LayoutAmbiguous; 2]
                            }
                            // Where a layout is configured, as here.
                            "LatticeService/MigrateLattice" => [ErrorReason::LayoutAmbiguous; 2],
                            _ => [ErrorReason::EntryNotFound, ErrorReason::LayoutUnsupported],
                        };
                        assert!(expected.contains(&reason), "{case}: {reason:?}");
                    }
                    (Some(reason), Err(status)) => {
                        told.push(format!("{status:?}"));
                        assert_refused(status.into(), reason, name, verb, &case);
                    }
                    (Some(reason), Ok(_)) => panic!("{case}: was answered, and not refused with {reason:?}"),
                }
            }
        }
    }
    let metrics = gateway.metrics().await;
    for what in ["Canary", "canary"] {
        assert!(
            !told.iter().any(|told| told.contains(what)),
            "{what} in an answer"
        );
        assert!(!metrics.contains(what), "{what} in a metric");
    }
    for (what, name) in NAMES {
        // Of lattices those are labels that are followed.
        if is_name(name) && what != "own" {
            assert!(
                !metrics.contains(&format!("\"{name}\"")),
                "{what}: a metric's label"
            );
        }
    }

    tap.publish("the.end", "".into()).await.unwrap();
    assert_nobody_was_asked_of_others(&mut tapped).await;
}

/// One text, whatever there is.
fn assert_refused(told: Told, reason: ErrorReason, lattice: &str, verb: &str, case: &str) {
    assert_eq!(told.reason, reason, "{case}");
    if reason == ErrorReason::LatticeNotGranted {
        let metadata = [("lattice", lattice), ("verb", verb)];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(told.metadata, metadata.into(), "{case}");
        assert_eq!(
            told.message,
            format!("the lattice `{lattice}` is not granted for `{verb}`"),
            "{case}"
        );
    }
}

/// Nobody was even asked about lattices that are not granted.
async fn assert_nobody_was_asked_of_others(tapped: &mut async_nats::Subscriber) {
    loop {
        let message = tapped.next().await.unwrap();
        let subject = message.subject.as_str();
        if subject == "the.end" {
            break;
        }
        let touches = |lattice: &str| {
            const PREFIXES: [&str; 6] = [
                "",
                "LATTICECACHE_",
                "LATTICEDATA_",
                "CONFIGDATA_",
                "KV_LATTICEDATA_",
                "KV_CONFIGDATA_",
            ];
            let tokens = PREFIXES.map(|prefix| format!("{prefix}{lattice}"));
            subject
                .split('.')
                .any(|token| tokens.iter().any(|of| of == token))
        };
        for (what, name) in NAMES {
            let is_anothers = is_name(name) && name != GRANTED;
            assert!(!is_anothers || !touches(name), "{what}: {subject}");
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
            let is_of_later_hosts = ["InterfaceLink", "Config"]
                .iter()
                .any(|of| method.starts_with(of));
            let expected = if is_of_later_hosts || method.contains("/Delete") {
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
