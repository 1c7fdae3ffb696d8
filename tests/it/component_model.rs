//! What a host of wasmCloud 1.9.2 makes of a lattice's two buckets when it starts, told from its source and from what was
//! measured, without any of the gateway's code (`crates/host/src/wasmbus/jetstream.rs` and `claims.rs`,
//! `crates/control-interface/src/types/link.rs`).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::{
    bucket_model::{Json, Messy},
    model::shown::{Fields, fields},
};

/// What a key of the data is, for hosts split at its first `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Component(&'a str),
    Claims(&'a str),
    /// Of the era before; passed over in silence.
    Old,
    /// A warning with every write, and at every start.
    Unknown,
}

pub fn key(key: &str) -> Key<'_> {
    match key.split_once('_') {
        Some(("COMPONENT", id)) => Key::Component(id),
        Some(("CLAIMS", subject)) => Key::Claims(subject),
        Some(("LINKDEF" | "REFMAP", _)) => Key::Old,
        Some(_) | None => Key::Unknown,
    }
}

/// Whether a host that starts can read a key back at all: its client refuses to ask for another.
pub fn is_readable(key: &str) -> bool {
    let is_usable = |character: char| character.is_ascii_alphanumeric() || "-/_=.".contains(character);
    !key.is_empty() && !key.starts_with('.') && !key.ends_with('.') && key.chars().all(is_usable)
}

/// The record of a component or provider.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Record {
    pub url: String,
    #[serde(default)]
    pub links: Vec<Link>,
}

/// A link in a record.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Link {
    pub source_id: String,
    pub target: String,
    #[serde(default = "default_name")]
    pub name: String,
    pub wit_namespace: String,
    pub wit_package: String,
    pub interfaces: Vec<String>,
    #[serde(default)]
    pub source_config: Vec<String>,
    #[serde(default)]
    pub target_config: Vec<String>,
}

fn default_name() -> String {
    "default".to_owned()
}

/// Source, name, namespace, package, target: what identifies a link for hosts, in the order of the API's lists.
pub type LinkId = [String; 5];

impl Link {
    pub fn id(&self) -> LinkId {
        [
            &self.source_id,
            &self.name,
            &self.wit_namespace,
            &self.wit_package,
            &self.target,
        ]
        .map(Clone::clone)
    }

    pub fn fields(&self) -> Fields {
        let list = |items: &[String]| serde_json::to_string(items).unwrap();
        fields([
            ("interfaces", list(&self.interfaces)),
            ("source_config", list(&self.source_config)),
            ("target_config", list(&self.target_config)),
        ])
    }
}

/// Reads a record; `None` where a host fails over it.
pub fn record(body: &[u8]) -> Option<Record> {
    serde_json::from_slice(body).ok()
}

/// The shape of claims decides, whatever the key.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum StoredClaims {
    Component {
        call_alias: String,
        #[serde(alias = "iss")]
        issuer: String,
        name: String,
        #[serde(alias = "rev")]
        revision: String,
        #[serde(alias = "sub")]
        subject: String,
        tags: Messy,
        version: String,
    },
    Provider {
        #[serde(alias = "iss")]
        issuer: String,
        name: String,
        #[serde(alias = "rev")]
        revision: String,
        #[serde(alias = "sub")]
        subject: String,
        version: String,
        config_schema: Option<String>,
    },
}

/// Reads claims as `claims.get` shows them; `None` where a host fails over them.
pub fn claims(key: &str, body: &[u8]) -> Option<Fields> {
    let (subject, shown) = match serde_json::from_slice(body).ok()? {
        StoredClaims::Component {
            call_alias,
            issuer,
            name,
            revision,
            subject,
            tags,
            version,
        } => (
            subject,
            [
                ("call_alias", call_alias),
                ("issuer", issuer),
                ("name", name),
                ("revision", number(&revision)),
                ("tags", tags.shown()),
                ("version", version),
                ("config_schema", String::new()),
            ],
        ),
        StoredClaims::Provider {
            issuer,
            name,
            revision,
            subject,
            version,
            config_schema,
        } => (
            subject,
            [
                ("call_alias", String::new()),
                ("issuer", issuer),
                ("name", name),
                ("revision", number(&revision)),
                ("tags", String::new()),
                ("version", version),
                (
                    "config_schema",
                    schema(config_schema.as_deref().unwrap_or_default()),
                ),
            ],
        ),
    };
    let mut shown = fields(shown);
    shown.extend(fields([
        ("capabilities", String::new()),
        ("contract_id", String::new()),
    ]));
    (subject == key).then_some(shown)
}

/// A number that a host keeps as one, or none.
fn number(revision: &str) -> String {
    revision.parse::<i32>().unwrap_or(0).to_string()
}

/// A schema as a host shows it: read and written anew; what is no JSON is none.
pub fn schema(text: &str) -> String {
    let read = serde_json::from_str::<serde_json::Value>(text);
    read.map(|schema| schema.to_string()).unwrap_or_default()
}

/// Reads a config; `None` where hosts say that it should be a map of strings.
pub fn config(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let values = serde_json::from_slice::<HashMap<String, String>>(body).ok()?;
    Some(values.into_iter().collect())
}

/// Whether a record or claims, though hosts read them, are malformed for the gateway, which keeps what hosts do not know:
///
/// * an array in the place of an object, which nobody writes;
/// * a member that stands twice, of which it could keep but one (hosts refuse it too, but for names that they do not
///   know), or that no program can hold.
pub fn is_unkeepable(body: &[u8]) -> bool {
    let Some(read) = Json::read(body) else {
        return true;
    };
    let has_array = match read.member("links") {
        Some(Json::List(links)) => links.iter().any(Json::is_list),
        Some(_) | None => false,
    };
    read.is_list() || has_array || read.has_doubled_member()
}

#[test]
fn the_model_reads_as_was_measured() {
    let link =
        r#"{"source_id":"s","target":"t","wit_namespace":"wasi","wit_package":"http","interfaces":["i"]}"#;
    let with = |links: &str| format!(r#"{{"url":"","links":{links}}}"#);
    let one = record(with(&format!("[{link}]")).as_bytes()).unwrap();
    assert_eq!(one.links[0].name, "default");
    assert_eq!(one.links[0].target_config, [""; 0]);
    assert_eq!(record(br#" {"url":"u","other":[1]} "#).unwrap().links, []);
    assert!(record(br#"["u",[]]"#).is_some() && is_unkeepable(br#"["u",[]]"#));
    for refused in [
        String::new(),
        "{}".to_owned(),
        r#"{"url":null}"#.to_owned(),
        with("null"),
        with(&format!("[{link},{{}}]")),
        with(&format!("[{}]", link.replace(r#""t""#, "null"))),
        with(&format!(
            "[{}]",
            link.replace(r#"{"source_id""#, r#"{"target":"t","source_id""#)
        )),
        format!("\u{feff}{}", with("[]")),
        format!("{}x", with("[]")),
        r#"{"url":"","url":""}"#.to_owned(),
    ] {
        assert_eq!(record(refused.as_bytes()), None, "{refused}");
    }

    let shown = |body: &str| claims("M", body.as_bytes());
    let new = r#"{"call_alias":"","issuer":"A","name":"Echo","revision":"4","subject":"M","tags":["a,b","c"],"version":"1"}"#;
    assert_eq!(shown(new).unwrap()["tags"], "a,b,c");
    let otp = r#"{"call_alias":"x","caps":"c","iss":"A","name":"Echo","rev":"abc","sub":"M","tags":"","version":"1"}"#;
    assert_eq!(shown(otp).unwrap()["call_alias"], "x");
    assert_eq!(shown(otp).unwrap()["revision"], "0");
    let provider = otp.replace(r#""tags":"""#, r#""tags":null,"config_schema":"no JSON""#);
    assert_eq!(shown(&provider).unwrap()["call_alias"], "");
    assert_eq!(shown(&provider).unwrap()["config_schema"], "");
    for (from, to) in [
        (r#""version":"1""#, r#""version":null"#),
        (r#""name":"Echo","#, ""),
        (r#""rev":"abc""#, r#""rev":4"#),
        (r#""iss":"A""#, r#""iss":"A","issuer":"A""#),
        (r#""sub":"M""#, r#""sub":"V""#),
    ] {
        let refused = otp.replace(from, to);
        assert_ne!(refused, otp);
        assert_eq!(shown(&refused), None, "{refused}");
    }

    assert_eq!(config(br#" {"a":"1","a":"2"} "#).unwrap()["a"], "2");
    for refused in [
        &b""[..],
        b"[]",
        b"null",
        br#"{"a":1}"#,
        br#"{"a":null}"#,
        b"{} {}",
    ] {
        assert_eq!(config(refused), None);
    }
    assert_eq!(key("COMPONENT_a_b"), Key::Component("a_b"));
    assert_eq!(key("COMPONENT"), Key::Unknown);
    assert_eq!(key("component_g"), Key::Unknown);
    assert!(is_readable("COMPONENT_a.b/c=") && !is_readable("COMPONENT_a:b") && !is_readable("COMPONENT_a."));
}
