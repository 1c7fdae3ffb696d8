//! Hostile requests: each refused for the right reason at the right field, and nothing of them on the wire.

use data_encoding::BASE32_NOPAD;
use futures_util::StreamExt;
use lattice_gateway::{
    control::lattices::Layout,
    proto::{
        Claims, Consistency, DeleteConfigRequest, DeleteInterfaceLinkRequest, DeleteLinkDefinitionRequest,
        ErrorReason, GetClaimsRequest, GetConfigRequest, GetInterfaceLinkRequest, GetLinkDefinitionRequest,
        InterfaceLink, LinkDefinition, ListClaimsRequest, NamedConfig, OciReference, Outcome, Placement,
        ProvisionLatticeRequest, PutClaimsRequest, PutConfigRequest, PutInterfaceLinkRequest,
        PutLinkDefinitionRequest, Revision, SetOciReferenceRequest,
        consistency::Requirement,
        put_claims_request::{self, Source},
        put_config_request, put_interface_link_request,
        put_link_definition_request::Precondition,
    },
};
use nkeys::KeyPair;
use pbjson_types::Duration;
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    Nats, TestGateway, Told,
    api::{self, ACCOUNT, ACTOR, PROVIDER},
    interface_link, keys, link, named_config, put_config, put_interface_link, put_link, told, until,
};

const PUT_LINK: &str = "LinkDefinitionService/PutLinkDefinition";
const PUT_CLAIMS: &str = "ClaimsService/PutClaims";
const SET_REFERENCE: &str = "OciReferenceService/SetOciReference";
const PUT_INTERFACE_LINK: &str = "InterfaceLinkService/PutInterfaceLink";
const PUT_CONFIG: &str = "ConfigService/PutConfig";

/// A request, and how it must be refused.
struct Case {
    what: String,
    method: &'static str,
    request: Vec<u8>,
    reason: ErrorReason,
    fields: Vec<String>,
    cause: Option<&'static str>,
}

impl Case {
    fn refused(
        what: impl Into<String>,
        method: &'static str,
        request: &impl Message,
        fields: &[&str],
    ) -> Self {
        Self {
            what: what.into(),
            method,
            request: request.encode_to_vec(),
            reason: ErrorReason::InvalidField,
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
            cause: None,
        }
    }

    fn for_reason(mut self, reason: ErrorReason) -> Self {
        self.reason = reason;
        self
    }
}

/// What is no name of anything.
const NO_NAMES: [&str; 16] = [
    ".",
    "a.b",
    "*",
    ">",
    "a b",
    " ",
    "a\r\nPUB lc.x 0\r\n\r\n",
    "\0",
    "a\0",
    "é",
    "ａ",
    "$SYS",
    "a/b",
    "a%2e",
    "\u{202e}a",
    "a\\b",
];

fn of_lattice_names() -> Vec<Case> {
    let of_none = ["/ListLattices", "/GetServerInfo", "/ProvisionWadm"];
    let methods = api::methods();
    let with_lattice = methods
        .iter()
        .filter(|method| !of_none.iter().any(|name| method.ends_with(name)));
    let mut cases = Vec::new();
    for method in with_lattice {
        let long = "l".repeat(64);
        for name in NO_NAMES.into_iter().chain(["", ":", &long]) {
            cases.push(Case {
                what: format!("{method} of the lattice {name:?}"),
                method: Box::leak(method.clone().into_boxed_str()),
                request: api::valid_request(method, name),
                reason: match name.len() {
                    64 => ErrorReason::LimitExceeded,
                    _ => ErrorReason::InvalidField,
                },
                fields: vec![match method.as_str() {
                    "ApplyService/ApplyManifest" => "operations[0].put_link_definition.lattice".into(),
                    _ => "lattice".into(),
                }],
                cause: None,
            });
        }
    }
    cases
}

/// A key that decodes and on which signatures prove nothing: a point of small order.
fn weak(kind: u8) -> String {
    let mut bytes = vec![kind];
    bytes.extend([0; 32]);
    let mut crc = 0_u16;
    for byte in &bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
        }
    }
    bytes.extend(crc.to_le_bytes());
    BASE32_NOPAD.encode(&bytes)
}

/// What is no public key of an actor.
fn no_actors() -> Vec<(&'static str, String)> {
    let short = ACTOR.get(..55).unwrap();
    vec![
        ("empty", String::new()),
        ("a provider's", PROVIDER.into()),
        ("an account's", ACCOUNT.into()),
        ("a host's", KeyPair::new_server().public_key()),
        ("a user's", KeyPair::new_user().public_key()),
        (
            "a curve's",
            KeyPair::new_module().public_key().replacen('M', "X", 1),
        ),
        ("lower case", ACTOR.to_lowercase()),
        ("of a wrong checksum", ACTOR.replace("JW2", "JW3")),
        ("all A", "A".repeat(56)),
        ("all M", "M".repeat(56)),
        ("weak", weak(12 << 3)),
        ("a seed", KeyPair::new_module().seed().unwrap()),
        ("too short", short.into()),
        ("too long", format!("{ACTOR}A")),
        ("with a line end", format!("{ACTOR}\n")),
        ("with a line end in place", format!("{short}\n")),
        ("a wildcard", ">".into()),
        ("not ASCII", "É".repeat(28)),
    ]
}

fn of_links() -> Vec<Case> {
    let put = |change: &dyn Fn(&mut LinkDefinition)| {
        let mut link = link(ACTOR, PROVIDER, "value");
        change(&mut link);
        put_link(link)
    };
    let mut cases = Vec::new();
    for (what, key) in no_actors() {
        let request = put(&|link| link.actor_id.clone_from(&key));
        cases.push(Case::refused(
            what,
            PUT_LINK,
            &request,
            &["link_definition.actor_id"],
        ));
        let key = if key == PROVIDER { ACTOR.to_owned() } else { key };
        let request = put(&|link| link.provider_id.clone_from(&key));
        cases.push(Case::refused(
            what,
            PUT_LINK,
            &request,
            &["link_definition.provider_id"],
        ));
    }
    for name in NO_NAMES.into_iter().chain([":"]) {
        let request = put(&|link| link.link_name = name.into());
        cases.push(Case::refused(
            name,
            PUT_LINK,
            &request,
            &["link_definition.link_name"],
        ));
    }
    for contract in NO_NAMES.into_iter().chain([""]) {
        let request = put(&|link| link.contract_id = contract.into());
        cases.push(Case::refused(
            contract,
            PUT_LINK,
            &request,
            &["link_definition.contract_id"],
        ));
    }
    let request = put(&|link| drop(link.values.insert(String::new(), "v".into())));
    cases.push(Case::refused(
        "an empty key",
        PUT_LINK,
        &request,
        &["link_definition.values[\"\"]"],
    ));

    let over_a_limit = [
        (
            put(&|link| link.link_name = "n".repeat(129)),
            "link_definition.link_name".to_owned(),
        ),
        (
            put(&|link| link.contract_id = "c".repeat(257)),
            "link_definition.contract_id".to_owned(),
        ),
        (
            put(&|link| link.values = (0..257).map(|key| (key.to_string(), String::new())).collect()),
            "link_definition.values".to_owned(),
        ),
        (
            put(&|link| link.values = [("é".repeat(256), String::new())].into()),
            format!("link_definition.values[\"{}\"]", "é".repeat(40)),
        ),
    ];
    for (request, field) in over_a_limit {
        let case = Case::refused("over a limit", PUT_LINK, &request, &[&field]);
        cases.push(case.for_reason(ErrorReason::LimitExceeded));
    }
    let absent = PutLinkDefinitionRequest {
        link_definition: None,
        ..put(&|_| {})
    };
    cases.push(Case::refused("no link", PUT_LINK, &absent, &["link_definition"]));
    let nameless = GetLinkDefinitionRequest {
        lattice: "default".into(),
        ..Default::default()
    };
    let get = "LinkDefinitionService/GetLinkDefinition";
    cases.push(Case::refused(
        "no key",
        get,
        &nameless,
        &["actor_id", "contract_id"],
    ));
    let nameless = DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        allow_missing: true,
        ..Default::default()
    };
    let delete = "LinkDefinitionService/DeleteLinkDefinition";
    cases.push(Case::refused(
        "no key",
        delete,
        &nameless,
        &["actor_id", "contract_id"],
    ));
    cases
}

fn of_references() -> Vec<Case> {
    let set = |oci_url: &str, public_key: &str| SetOciReferenceRequest {
        lattice: "default".into(),
        oci_reference: Some(OciReference {
            oci_url: oci_url.into(),
            public_key: public_key.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut cases = Vec::new();
    let capital_digest = format!("echo@sha256:{}", "A".repeat(64));
    for url in [
        "",
        ">",
        "*",
        "lc.default.>",
        "Echo",
        "echo:",
        "echo:1:2",
        "a//b",
        "../echo",
        "echo\r\nPUB x 0\r\n\r\n",
        "echo\0",
        "echo ",
        "échö",
        "https://registry.example/echo:1",
        "oci://registry.example/echo:1",
        "file:///etc/passwd",
        "user@registry.example/echo",
        "registry.example:99999/echo",
        "[::1]:5000/echo",
        "bindle://",
        "bindle://echo",
        "bindle://a/../1.0.0",
        "bindle://bindle://echo/1.0.0",
        "echo?x=1",
        "echo#x",
        "echo@md5:00000000000000000000000000000000",
        &capital_digest,
    ] {
        let case = Case::refused(url, SET_REFERENCE, &set(url, ACTOR), &["oci_reference.oci_url"]);
        cases.push(case);
    }
    let long = format!("bindle://{}/1.0.0", "a".repeat(498));
    let case = Case::refused(
        "too long",
        SET_REFERENCE,
        &set(&long, ACTOR),
        &["oci_reference.oci_url"],
    );
    cases.push(case.for_reason(ErrorReason::LimitExceeded));
    for (what, key) in no_actors().into_iter().filter(|(_, key)| key != PROVIDER) {
        cases.push(Case::refused(
            what,
            SET_REFERENCE,
            &set("echo", &key),
            &["oci_reference.public_key"],
        ));
    }
    let absent = SetOciReferenceRequest {
        oci_reference: None,
        ..set("echo", ACTOR)
    };
    cases.push(Case::refused(
        "no reference",
        SET_REFERENCE,
        &absent,
        &["oci_reference"],
    ));
    for method in [
        "OciReferenceService/GetOciReference",
        "OciReferenceService/DeleteOciReference",
    ] {
        // Both have the lattice as their first field, and nothing else is set.
        let nameless = GetClaimsRequest {
            lattice: "default".into(),
            ..Default::default()
        };
        cases.push(Case::refused("no key", method, &nameless, &["oci_url"]));
    }
    cases
}

/// A change of a link by one text, and the field that it is refused at.
type LinkField = (&'static str, fn(&mut InterfaceLink, &str));

/// What hosts put into subjects as it is, and may be neither empty nor long.
const IDS: [LinkField; 2] = [
    ("source_id", |link, text| link.source_id = text.into()),
    ("target", |link, text| link.target = text.into()),
];

/// Names of the WIT.
const WIT_NAMES: [LinkField; 3] = [
    ("wit_namespace", |link, text| link.wit_namespace = text.into()),
    ("wit_package", |link, text| link.wit_package = text.into()),
    ("interfaces[0]", |link, text| link.interfaces = vec![text.into()]),
];

/// Names of configs.
const LINK_CONFIGS: [LinkField; 2] = [
    ("source_config[0]", |link, text| {
        link.source_config = vec![text.into()];
    }),
    ("target_config[0]", |link, text| {
        link.target_config = vec![text.into()];
    }),
];

fn no_config_names() -> impl Iterator<Item = &'static str> {
    let but_for_slashes = NO_NAMES.into_iter().filter(|name| *name != "a/b");
    but_for_slashes.chain([":", "http.cfg", ".http", "http."])
}

fn of_interface_links() -> Vec<Case> {
    let put = |change: &dyn Fn(&mut InterfaceLink)| {
        let mut link = interface_link("hello");
        change(&mut link);
        put_interface_link(link)
    };
    let mut cases = Vec::new();
    let mut refused = |what: &str, (field, set): LinkField| {
        let field = format!("interface_link.{field}");
        let request = put(&|link| set(link, what));
        cases.push(Case::refused(what, PUT_INTERFACE_LINK, &request, &[&field]));
    };
    for field in IDS {
        NO_NAMES
            .into_iter()
            .chain(["", ":"])
            .for_each(|name| refused(name, field));
    }
    let name: LinkField = ("name", |link, text| link.name = text.into());
    NO_NAMES
        .into_iter()
        .chain([":"])
        .for_each(|text| refused(text, name));
    for field in WIT_NAMES {
        NO_NAMES
            .into_iter()
            .chain(["", ":", "a_b", "wasi:http"])
            .for_each(|name| refused(name, field));
    }
    for field in LINK_CONFIGS {
        no_config_names()
            .chain([""])
            .for_each(|name| refused(name, field));
    }
    for (field, set) in [&IDS[..], &WIT_NAMES, &LINK_CONFIGS, &[name]].concat() {
        let request = put(&|link| set(link, &"n".repeat(129)));
        let field = format!("interface_link.{field}");
        let case = Case::refused("over a limit", PUT_INTERFACE_LINK, &request, &[&field]);
        cases.push(case.for_reason(ErrorReason::LimitExceeded));
    }
    let names = |count: usize| (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>();
    let lists = [
        ("interfaces", put(&|link| link.interfaces = names(65))),
        ("source_config", put(&|link| link.source_config = names(65))),
        ("target_config", put(&|link| link.target_config = names(65))),
    ];
    for (field, request) in lists {
        let field = format!("interface_link.{field}");
        let case = Case::refused("a long list", PUT_INTERFACE_LINK, &request, &[&field]);
        cases.push(case.for_reason(ErrorReason::LimitExceeded));
    }
    let twice = put(&|link| link.interfaces = vec!["a".into(), "b".into(), "a".into()]);
    let absent = PutInterfaceLinkRequest {
        interface_link: None,
        ..put(&|_| {})
    };
    let none = put(&|link| link.interfaces.clear());
    for (what, request, field) in [
        ("one twice", twice, "interface_link.interfaces[2]"),
        ("no interface", none, "interface_link.interfaces"),
        ("no link", absent, "interface_link"),
    ] {
        cases.push(Case::refused(what, PUT_INTERFACE_LINK, &request, &[field]));
    }
    for method in [
        "InterfaceLinkService/GetInterfaceLink",
        "InterfaceLinkService/DeleteInterfaceLink",
    ] {
        // Both have the lattice as their first field, and nothing else is set.
        let nameless = GetClaimsRequest {
            lattice: "default".into(),
            ..Default::default()
        };
        let fields = ["source_id", "wit_namespace", "wit_package"];
        cases.push(Case::refused("no key", method, &nameless, &fields));
    }
    cases
}

fn of_configs() -> Vec<Case> {
    let put = |change: &dyn Fn(&mut NamedConfig)| {
        let mut config = named_config("http-cfg", "value");
        change(&mut config);
        put_config(config)
    };
    let mut cases = Vec::new();
    for name in no_config_names().chain([""]) {
        let request = put(&|config| config.name = name.into());
        cases.push(Case::refused(name, PUT_CONFIG, &request, &["named_config.name"]));
    }
    let absent = PutConfigRequest {
        named_config: None,
        ..put(&|_| {})
    };
    cases.push(Case::refused("no config", PUT_CONFIG, &absent, &["named_config"]));
    let request = put(&|config| drop(config.values.insert(String::new(), "v".into())));
    let field = "named_config.values[\"\"]";
    cases.push(Case::refused("an empty key", PUT_CONFIG, &request, &[field]));
    let over_a_limit = [
        (
            put(&|config| config.name = "n".repeat(129)),
            "named_config.name".to_owned(),
        ),
        (
            put(&|config| config.values = (0..257).map(|key| (key.to_string(), String::new())).collect()),
            "named_config.values".to_owned(),
        ),
        (
            put(&|config| config.values = [("é".repeat(256), String::new())].into()),
            format!("named_config.values[\"{}\"]", "é".repeat(40)),
        ),
    ];
    for (request, field) in over_a_limit {
        let case = Case::refused("over a limit", PUT_CONFIG, &request, &[&field]);
        cases.push(case.for_reason(ErrorReason::LimitExceeded));
    }
    for method in ["ConfigService/GetConfig", "ConfigService/DeleteConfig"] {
        // Both have the lattice as their first field, and nothing else is set.
        let nameless = GetClaimsRequest {
            lattice: "default".into(),
            ..Default::default()
        };
        cases.push(Case::refused("no key", method, &nameless, &["name"]));
    }
    cases
}

fn of_unsigned_claims() -> Vec<Case> {
    let put = |change: &dyn Fn(&mut Claims)| {
        let mut claims = Claims {
            public_key: ACTOR.into(),
            issuer: ACCOUNT.into(),
            name: "Echo".into(),
            ..Default::default()
        };
        change(&mut claims);
        put_claims(Source::Claims(claims))
    };
    let mut cases = Vec::new();
    let mut refused = |what: &str, field: &str, change: &dyn Fn(&mut Claims)| {
        let field = format!("claims.{field}");
        cases.push(Case::refused(what, PUT_CLAIMS, &put(change), &[&field]));
    };
    for (what, key) in no_actors().into_iter().filter(|(_, key)| key != PROVIDER) {
        refused(what, "public_key", &|claims| claims.public_key.clone_from(&key));
        let issuer = if key == ACCOUNT { ACTOR.to_owned() } else { key };
        refused(what, "issuer", &|claims| claims.issuer.clone_from(&issuer));
    }
    refused("weak", "issuer", &|claims| claims.issuer = weak(0));
    refused("no name", "name", &|claims| claims.name.clear());
    for text in ["a\0b", "a\nb", "\u{7f}", "\u{85}"] {
        refused(text, "name", &|claims| claims.name = text.into());
        refused(text, "version", &|claims| claims.version = text.into());
    }
    for alias in ["Echo", "a b", "a-b", "a.b", "é", "a\n"] {
        refused(alias, "call_alias", &|claims| claims.call_alias = alias.into());
    }
    for item in ["", "a,b", ",", "a\nb"] {
        refused(item, "capabilities", &|claims| {
            claims.capabilities = vec!["a".into(), item.into()];
        });
        refused(item, "tags", &|claims| claims.tags = vec![item.into()]);
    }
    for revision in ["-1", "+1", "01", "1.0", "x", " 1", "2147483648", "٣"] {
        refused(revision, "claims_revision", &|claims| {
            claims.claims_revision = revision.into();
        });
    }
    for contract in NO_NAMES {
        refused(contract, "contract_id", &|claims| {
            claims.contract_id = contract.into();
        });
    }
    for schema in ["{", "'", "{} {}", "\0"] {
        refused(schema, "config_schema", &|claims| {
            claims.config_schema = schema.into();
        });
    }
    let no_source = PutClaimsRequest {
        source: None,
        ..put(&|_| {})
    };
    cases.push(Case::refused("no source", PUT_CLAIMS, &no_source, &["source"]));
    for (field, request) in [
        ("claims.name", put(&|claims| claims.name = "n".repeat(257))),
        (
            "claims.call_alias",
            put(&|claims| claims.call_alias = "n".repeat(257)),
        ),
        ("claims.tags", put(&|claims| claims.tags = vec!["n".repeat(257)])),
        ("claims.tags", put(&|claims| claims.tags = vec!["n".into(); 257])),
    ] {
        let case = Case::refused("over a limit", PUT_CLAIMS, &request, &[field]);
        cases.push(case.for_reason(ErrorReason::LimitExceeded));
    }
    cases
}

fn put_claims(source: Source) -> PutClaimsRequest {
    PutClaimsRequest {
        lattice: "default".into(),
        source: Some(source),
        ..Default::default()
    }
}

/// Tokens that no clock and no trust has a say about.
fn of_tokens() -> Vec<Case> {
    let account = KeyPair::new_account();
    let header = json!({"typ": "jwt", "alg": "Ed25519"});
    let body = |changes: Value| {
        let mut body = json!({
            "jti": "test", "iat": 1_631_827_501, "iss": account.public_key(), "sub": ACTOR, "wascap": {"name": "Echo"},
        });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let with = |changes: Value| keys::sign(&account, &header, &body(changes));
    let under = |header: Value| keys::sign(&account, &header, &body(json!({})));
    let good = with(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other_body = with(json!({"jti": "other"}));
    let (_, other_signature) = other_body.rsplit_once('.').unwrap();
    let module = KeyPair::new_module();
    let by_module = keys::sign(&module, &header, &body(json!({"iss": module.public_key()})));
    let by_other = keys::sign(&KeyPair::new_account(), &header, &body(json!({})));
    let weak_issuer = with(json!({"iss": weak(0)}));
    let refused = vec![
        ("", "segments"),
        ("garbage", "segments"),
        ("a.b.c", "encoding"),
        ("..", "segments"),
    ]
    .into_iter()
    .map(|(token, cause)| (token.to_owned(), cause))
    .chain([
        (message.to_owned(), "segments"),
        (format!("{message}."), "segments"),
        (format!("{good}.x"), "segments"),
        (format!("{good}="), "encoding"),
        (format!(" {good}"), "encoding"),
        (format!("{good}\n"), "encoding"),
        (good.replacen('.', "\0.", 1), "encoding"),
        (under(json!({"typ": "jwt", "alg": "none"})), "header"),
        (under(json!({"typ": "JWT", "alg": "ed25519-nkey"})), "header"),
        (under(json!({"typ": "jwt", "alg": "HS256"})), "header"),
        (
            under(json!({"typ": "jwt", "alg": "Ed25519", "kid": "x"})),
            "header",
        ),
        (under(json!([])), "header"),
        (keys::sign(&account, &header, &json!("text")), "body"),
        (with(json!({"wascap": null})), "body"),
        (with(json!({"iat": "1631827501"})), "body"),
        (with(json!({"exp": 1.5})), "body"),
        (with(json!({"wascap": {"rev": 2_147_483_648_i64}})), "body"),
        (with(json!({"wascap": {"tags": "a"}})), "body"),
        (weak_issuer, "issuer_kind"),
        (by_module, "issuer_kind"),
        (by_other, "signature"),
        (format!("{message}.{other_signature}"), "signature"),
        (format!("{message}.{}", "A".repeat(86)), "signature"),
        (format!("{message}.{}", signature.get(..84).unwrap()), "signature"),
        (with(json!({"sub": ACCOUNT})), "subject_kind"),
        (with(json!({"sub": ">"})), "subject_kind"),
        (with(json!({"sub": weak(12 << 3)})), "subject_kind"),
        (with(json!({"wascap": {"caps": ["a,b"]}})), "capability"),
        (with(json!({"wascap": {"caps": [""]}})), "capability"),
        (with(json!({"wascap": {"tags": ["a,b"]}})), "tag"),
    ]);
    let long = with(json!({"padding": "x".repeat(16 * 1024)}));
    let long = Case::refused("too large", PUT_CLAIMS, &put_claims(Source::Jwt(long)), &["jwt"]);
    refused
        .map(|(token, cause)| {
            let request = put_claims(Source::Jwt(token));
            let mut case = Case::refused(cause, PUT_CLAIMS, &request, &["jwt"]);
            case.reason = ErrorReason::ClaimsInvalid;
            case.cause = Some(cause);
            case
        })
        .chain([long.for_reason(ErrorReason::LimitExceeded)])
        .collect()
}

fn of_terms() -> Vec<Case> {
    let put = |change: &dyn Fn(&mut PutLinkDefinitionRequest)| {
        let mut put = put_link(link(ACTOR, PROVIDER, "value"));
        change(&mut put);
        put
    };
    let mut cases = Vec::new();
    let mut refused = |what: &str, field: &str, change: &dyn Fn(&mut PutLinkDefinitionRequest)| {
        cases.push(Case::refused(what, PUT_LINK, &put(change), &[field]));
    };
    let long = "r".repeat(65);
    for id in [
        "1234567",
        &long,
        "request.0001",
        "request 0001",
        "request-0001\n",
        "réquest-0001",
        "request-\0\0\0\0",
    ] {
        refused(id, "request_id", &|put| put.request_id = id.into());
    }
    let age = |seconds, nanos| Some(Duration { seconds, nanos });
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (365 * 24 * 3_600, 1),
        (365 * 24 * 3_600 + 1, 0),
        (i64::MAX, i32::MAX),
        (i64::MIN, i32::MIN),
    ] {
        refused("an age", "retry_age", &|put| {
            put.request_id = "request-0001".into();
            put.retry_age = age(seconds, nanos);
        });
    }
    refused("an age of no id", "retry_age", &|put| put.retry_age = age(1, 0));
    let long = format!("\"{}\"", "A".repeat(100_000));
    for etag in [
        "",
        "\"",
        "\"\"",
        "*",
        "W/\"AQAA\"",
        "AQAAAAAAAAAHAAAAAAAAACoBAgMEBQYHCA",
        "\"AgAAAAAAAAAHAAAAAAAAACoBAgMEBQYHCA\"",
        &long,
    ] {
        refused(etag, "etag", &|put| {
            put.precondition = Some(Precondition::Etag(etag.into()));
        });
    }
    refused("false", "must_exist", &|put| {
        put.precondition = Some(Precondition::MustExist(false));
    });
    refused("false", "must_not_exist", &|put| {
        put.precondition = Some(Precondition::MustNotExist(false));
    });
    cases
}

fn of_reads() -> Vec<Case> {
    let mut cases = Vec::new();
    let list = "ClaimsService/ListClaims";
    for (requirement, field) in [
        (
            Requirement::MinimizeLatency(false),
            "consistency.minimize_latency",
        ),
        (
            Requirement::FullyConsistent(false),
            "consistency.fully_consistent",
        ),
    ] {
        let consistency = Some(Consistency {
            requirement: Some(requirement),
        });
        let request = ListClaimsRequest {
            lattice: "default".into(),
            consistency,
            ..Default::default()
        };
        cases.push(Case::refused("false", list, &request, &[field]));
        let request = GetClaimsRequest {
            lattice: "default".into(),
            consistency,
            public_key: String::new(),
        };
        cases.push(Case::refused(
            "false",
            "ClaimsService/GetClaims",
            &request,
            &["public_key", field],
        ));
    }
    for (page_size, reason) in [
        (-1, ErrorReason::InvalidField),
        (i32::MIN, ErrorReason::InvalidField),
        (1_001, ErrorReason::LimitExceeded),
        (i32::MAX, ErrorReason::LimitExceeded),
    ] {
        let request = ListClaimsRequest {
            lattice: "default".into(),
            page_size,
            ..Default::default()
        };
        cases.push(Case::refused("a page size", list, &request, &["page_size"]).for_reason(reason));
    }
    let provision = ProvisionLatticeRequest {
        lattice: "a.b".into(),
        layout: -1,
        storage: i32::MAX,
        replicas: u32::MAX,
        placement: Some(Placement {
            cluster: "a\n".into(),
            tags: vec!["é".into()],
        }),
        max_bytes: u64::MAX,
        validate_only: false,
    };
    let fields = [
        "lattice",
        "layout",
        "storage",
        "replicas",
        "placement.cluster",
        "placement.tags[0]",
        "max_bytes",
    ];
    cases.push(Case::refused(
        "all at once",
        "LatticeService/ProvisionLattice",
        &provision,
        &fields,
    ));
    cases
}

/// Requests in which everything is wrong: everything is told, in the order of the fields.
fn of_everything() -> Vec<Case> {
    let put = PutLinkDefinitionRequest {
        lattice: "a.b".into(),
        link_definition: Some(LinkDefinition {
            actor_id: PROVIDER.into(),
            provider_id: "V".into(),
            contract_id: "*".into(),
            link_name: ">".into(),
            values: [(String::new(), String::new()), ("k".repeat(300), String::new())].into(),
            // Output only: ignored, however odd.
            etag: "*".into(),
            revision: Some(Revision {
                epoch: 0,
                sequence: 0,
            }),
            update_time: None,
        }),
        request_id: "short".into(),
        retry_age: Some(Duration {
            seconds: -1,
            nanos: 0,
        }),
        precondition: Some(Precondition::Etag("*".into())),
        validate_only: true,
    };
    let long_key = format!("link_definition.values[\"{}\"]", "k".repeat(40));
    let link_fields = [
        "lattice",
        "link_definition.actor_id",
        "link_definition.provider_id",
        "link_definition.contract_id",
        "link_definition.link_name",
        "link_definition.values[\"\"]",
        &long_key,
        "request_id",
        "retry_age",
        "etag",
    ];
    let claims = PutClaimsRequest {
        lattice: String::new(),
        source: Some(Source::Claims(Claims {
            call_alias: "A".into(),
            capabilities: vec![",".into()],
            tags: vec![String::new()],
            claims_revision: "x".into(),
            version: "\0".into(),
            contract_id: "*".into(),
            config_schema: "s".into(),
            ..Default::default()
        })),
        request_id: "*".into(),
        precondition: Some(put_claims_request::Precondition::MustExist(false)),
        ..Default::default()
    };
    let claims_fields = [
        "lattice",
        "claims.issuer",
        "claims.name",
        "claims.call_alias",
        "claims.capabilities",
        "claims.tags",
        "claims.claims_revision",
        "claims.version",
        "claims.contract_id",
        "claims.config_schema",
        "claims.public_key",
        "request_id",
        "must_exist",
    ];
    // A bad token is told once the fields, which are named, are in order.
    let token = PutClaimsRequest {
        lattice: ">".into(),
        request_id: "*".into(),
        ..put_claims(Source::Jwt("garbage".into()))
    };
    let two_limits = PutLinkDefinitionRequest {
        lattice: "l".repeat(64),
        ..put_link(LinkDefinition {
            link_name: "n".repeat(200),
            ..link(ACTOR, PROVIDER, "value")
        })
    };
    let limits = ["lattice", "link_definition.link_name"];
    vec![
        Case::refused("every field", PUT_LINK, &put, &link_fields),
        Case::refused("every field", PUT_CLAIMS, &claims, &claims_fields),
        Case::refused("a bad token too", PUT_CLAIMS, &token, &["lattice", "request_id"]),
        Case::refused("two limits", PUT_LINK, &two_limits, &limits).for_reason(ErrorReason::LimitExceeded),
    ]
}

/// As [`of_everything`], of what hosts since 1.0 keep.
fn of_everything_of_later_hosts() -> Vec<Case> {
    let interface_link = PutInterfaceLinkRequest {
        lattice: ">".into(),
        interface_link: Some(InterfaceLink {
            source_id: "*".into(),
            target: ">".into(),
            name: ".".into(),
            wit_namespace: "a.b".into(),
            wit_package: "\0".into(),
            interfaces: vec!["ok".into(), "*".into()],
            source_config: vec!["a.b".into(), "ok".into()],
            target_config: vec!["\n".into()],
            // Output only: ignored, however odd.
            etag: "*".into(),
            revision: None,
            update_time: None,
        }),
        request_id: "short".into(),
        precondition: Some(put_interface_link_request::Precondition::MustExist(false)),
        ..Default::default()
    };
    let interface_link_fields = [
        "lattice",
        "interface_link.source_id",
        "interface_link.target",
        "interface_link.name",
        "interface_link.wit_namespace",
        "interface_link.wit_package",
        "interface_link.interfaces[1]",
        "interface_link.source_config[0]",
        "interface_link.target_config[0]",
        "request_id",
        "must_exist",
    ];
    let config = PutConfigRequest {
        lattice: String::new(),
        named_config: Some(NamedConfig {
            name: "*".into(),
            values: [(String::new(), String::new())].into(),
            ..Default::default()
        }),
        request_id: "*".into(),
        precondition: Some(put_config_request::Precondition::MustNotExist(false)),
        ..Default::default()
    };
    let config_fields = [
        "lattice",
        "named_config.name",
        "named_config.values[\"\"]",
        "request_id",
        "must_not_exist",
    ];
    vec![
        Case::refused(
            "every field",
            PUT_INTERFACE_LINK,
            &interface_link,
            &interface_link_fields,
        ),
        Case::refused("every field", PUT_CONFIG, &config, &config_fields),
    ]
}

#[tokio::test]
async fn hostile_requests_are_refused_and_nothing_of_them_reaches_nats() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let tap = nats.client().await;
    let mut tapped = tap.subscribe(">").await.unwrap();
    tap.flush().await.unwrap();

    let cases = [
        of_lattice_names(),
        of_links(),
        of_references(),
        of_interface_links(),
        of_configs(),
        of_unsigned_claims(),
        of_tokens(),
        of_terms(),
        of_reads(),
        of_everything(),
        of_everything_of_later_hosts(),
    ];
    for case in cases.into_iter().flatten() {
        let what = format!("{}: {:?}", case.method, case.what);
        let Err(status) = gateway.call(case.method, case.request).await else {
            panic!("{what} was accepted");
        };
        let told = Told::from(status);
        assert_eq!(
            (told.code, told.reason),
            (Code::InvalidArgument, case.reason),
            "{what}"
        );
        assert_eq!(told.fields, case.fields, "{what}");
        assert_eq!(
            told.metadata.get("cause").map(String::as_str),
            case.cause,
            "{what}"
        );
        let is_limit = case.reason == ErrorReason::LimitExceeded;
        for key in ["limit", "max", "actual"] {
            assert_eq!(told.metadata.contains_key(key), is_limit, "{what}");
        }
        assert_eq!(told.retry_after, None, "{what}");
    }

    tap.publish("the.end", "".into()).await.unwrap();
    let first = tapped.next().await.unwrap();
    assert_eq!(first.subject.as_str(), "the.end", "on the wire");
    assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);
}

/// What hosts of a layout do not keep of claims is not taken and dropped: the caller would believe that it stands.
#[tokio::test]
async fn claims_that_the_layout_does_not_keep_are_refused_by_their_fields() {
    const CONTRACT: &str = "claims.contract_id";
    const SCHEMA: &str = "claims.config_schema";
    const ALL: fn(&mut Claims) = |claims| {
        claims.call_alias = "echo".into();
        claims.capabilities = vec!["wasmcloud:httpserver".into()];
        claims.tags = vec!["a".into()];
        claims.contract_id = "wasmcloud:httpserver".into();
        claims.config_schema = "{}".into();
    };
    const NOTHING: fn(&mut Claims) = |_| {};
    let nats = Nats::start().await;
    for (layout, key, change, fields) in [
        (Layout::CacheStream, ACTOR, ALL, &[CONTRACT, SCHEMA][..]),
        (Layout::CacheStream, PROVIDER, ALL, &[CONTRACT, SCHEMA]),
        (Layout::Kv, ACTOR, ALL, &[CONTRACT, SCHEMA]),
        // Some hosts take claims of a provider without one for an actor's.
        (Layout::Kv, PROVIDER, NOTHING, &[CONTRACT]),
        (
            Layout::Component,
            ACTOR,
            ALL,
            &[CONTRACT, SCHEMA, "claims.capabilities"],
        ),
        (
            Layout::Component,
            PROVIDER,
            ALL,
            &[
                CONTRACT,
                "claims.capabilities",
                "claims.call_alias",
                "claims.tags",
            ],
        ),
    ] {
        let gateway = TestGateway::dev_with(&nats, layout).await;
        let mut claims = Claims {
            public_key: key.into(),
            issuer: ACCOUNT.into(),
            name: "Echo".into(),
            ..Default::default()
        };
        change(&mut claims);
        let put = put_claims(Source::Claims(claims)).encode_to_vec();
        let told = Told::from(gateway.call(PUT_CLAIMS, put).await.unwrap_err());
        let what = format!("{layout:?} {key}");
        assert_eq!(told.reason, ErrorReason::InvalidField, "{what}");
        assert_eq!(told.fields, fields, "{what}");
    }
    assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);
}

/// Whatever is stored can be read and deleted, so that any text names something; what is not there is asked of nobody.
#[tokio::test]
async fn hostile_keys_of_reads_and_deletes_name_nothing() {
    let nats = Nats::start().await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    let lattice = "[lattices.default]\ntrusted_issuers = [\"*\"]\nlayout = \"component\"\nsettle = \"0s\"\n";
    let gateway = TestGateway::serving(&nats, lattice).await;
    let tap = nats.client().await;
    let mut tapped = tap.subscribe(">").await.unwrap();
    tap.flush().await.unwrap();

    let long = "canary".repeat(1_000);
    for name in NO_NAMES.into_iter().chain(["canary", &long]) {
        for target in [None, Some(name.to_owned())] {
            let get = GetInterfaceLinkRequest {
                lattice: "default".into(),
                source_id: Some(name.into()),
                name: Some(name.into()),
                wit_namespace: Some(name.into()),
                wit_package: Some(name.into()),
                target: target.clone(),
                ..Default::default()
            };
            let absent = told(gateway.interface_links().get_interface_link(get.clone()).await);
            assert_eq!(absent.unwrap_err().reason, ErrorReason::EntryNotFound, "{name:?}");
            let delete = DeleteInterfaceLinkRequest {
                lattice: get.lattice,
                source_id: get.source_id,
                name: get.name,
                wit_namespace: get.wit_namespace,
                wit_package: get.wit_package,
                target,
                allow_missing: true,
                ..Default::default()
            };
            let deleted = told(gateway.interface_links().delete_interface_link(delete).await);
            let result = deleted.unwrap().result.unwrap();
            assert_eq!(result.outcome(), Outcome::Unchanged, "{name:?}");
        }
        let get = GetConfigRequest {
            lattice: "default".into(),
            name: name.into(),
            ..Default::default()
        };
        let absent = told(gateway.configs().get_config(get).await);
        assert_eq!(absent.unwrap_err().reason, ErrorReason::EntryNotFound, "{name:?}");
        let delete = DeleteConfigRequest {
            lattice: "default".into(),
            name: name.into(),
            allow_missing: true,
            ..Default::default()
        };
        let deleted = told(gateway.configs().delete_config(delete).await);
        let result = deleted.unwrap().result.unwrap();
        assert_eq!(result.outcome(), Outcome::Unchanged, "{name:?}");
    }

    tap.publish("the.end", "".into()).await.unwrap();
    loop {
        let message = tapped.next().await.unwrap();
        let subject = message.subject.as_str();
        if subject == "the.end" {
            break;
        }
        let is_of_jetstream = subject.starts_with("$JS.") || subject.starts_with("_INBOX");
        assert!(is_of_jetstream && !subject.contains("canary"), "{subject}");
    }
    for bucket in ["LATTICEDATA", "CONFIGDATA"] {
        let info = nats
            .api(&format!("STREAM.INFO.KV_{bucket}_default"), Value::Null)
            .await;
        assert_eq!(info["state"]["last_seq"], 0);
    }
}

/// What a host or anybody else has stored is shown, deletable, and misdirects nobody when it is deleted.
#[tokio::test]
async fn stored_links_that_would_misdirect_are_deleted_and_told_to_no_subject_of_theirs() {
    let nats = Nats::start().await;
    nats.create_bucket("LATTICEDATA", "default", Value::Null).await;
    nats.create_bucket("CONFIGDATA", "default", Value::Null).await;
    let lattice = "[lattices.default]\ntrusted_issuers = [\"*\"]\nlayout = \"component\"\nsettle = \"0s\"\n";
    let gateway = TestGateway::serving(&nats, lattice).await;
    let targets = ["*", ">", "a.b", "a b", "", "x\r\nPUB y 0\r\n\r\n"];
    let links = targets.map(|target| {
        json!({
            "source_id": "a.b", "target": target, "name": "*", "wit_namespace": ">", "wit_package": "",
            "interfaces": [], "source_config": [], "target_config": [],
        })
    });
    let record = json!({"url": "", "links": links}).to_string();
    nats.publish_raw("$KV.LATTICEDATA_default.COMPONENT_a.b", record)
        .await;
    let tap = nats.client().await;
    let mut tapped = tap.subscribe("wasmbus.>").await.unwrap();
    tap.flush().await.unwrap();

    for target in targets {
        let delete = DeleteInterfaceLinkRequest {
            lattice: "default".into(),
            source_id: Some("a.b".into()),
            name: Some("*".into()),
            wit_namespace: Some(">".into()),
            wit_package: Some(String::new()),
            target: Some(target.into()),
            ..Default::default()
        };
        let deleted = until("the host's record is seen", async || {
            told(
                gateway
                    .interface_links()
                    .delete_interface_link(delete.clone())
                    .await,
            )
            .ok()
        })
        .await;
        assert_eq!(deleted.result.unwrap().outcome(), Outcome::Applied, "{target:?}");
    }
    tap.publish("wasmbus.end", "".into()).await.unwrap();
    loop {
        let message = tapped.next().await.unwrap();
        match message.subject.as_str() {
            "wasmbus.end" => break,
            subject => assert_eq!(subject, "wasmbus.evt.default.linkdef_deleted"),
        }
    }
}

#[tokio::test]
async fn what_is_no_call_of_the_api_is_refused() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    for method in [
        "WatchService/Follow",
        "LatticeService/TreatLattice",
        "LinkDefinitionService/",
        "linkdefinitionservice/putlinkdefinition",
        "X/Y",
    ] {
        let status = gateway
            .call(method, api::valid_request(PUT_LINK, "default"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
    // Neither too long nor unreadable messages reach an operation.
    let mut long = put_link(link(ACTOR, PROVIDER, ""));
    let value = "x".repeat(1024 * 1024);
    long.link_definition.as_mut().unwrap().values = [("value".to_owned(), value)].into();
    for message in [
        long.encode_to_vec(),
        vec![0xff; 100],
        b"\x0a\x02\xff\xfe".to_vec(),
    ] {
        assert!(gateway.call(PUT_LINK, message).await.is_err());
    }
    assert_eq!(nats.api("STREAM.NAMES", Value::Null).await["total"], 0);
    let put = gateway.put(put_link(link(ACTOR, PROVIDER, "value"))).await;
    assert!(put.is_ok(), "the connection still serves: {put:?}");
}
