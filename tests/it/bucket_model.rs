//! A key-value bucket as whoever starts now reads it: the last message of every key, where that is no marker.

use data_encoding::BASE64;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

/// The last message of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub sequence: u64,
    pub key: String,
    pub operation: Operation,
    /// Whether a gateway wrote it: nobody else gives messages an id.
    pub is_by_gateway: bool,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            sequence,
            key,
            operation,
            is_by_gateway,
            body,
        } = self;
        let body = String::from_utf8_lossy(body);
        write!(
            f,
            "{sequence} {key} {operation:?} {body} (by a gateway: {is_by_gateway})"
        )
    }
}

/// What a message does to its key (NATS ADR-8). Whatever else the header says is a put for every reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put,
    Delete,
    Purge,
}

impl Operation {
    fn of(headers: &str) -> Self {
        let said = headers
            .lines()
            .find_map(|line| line.strip_prefix("KV-Operation:"));
        match said.map(str::trim) {
            Some("DEL") => Self::Delete,
            Some("PURGE") => Self::Purge,
            Some(_) | None => Self::Put,
        }
    }
}

/// The last message of every key of a bucket, in order. `ask` makes a call of `STREAM.MSG.GET` on it.
pub async fn entries(bucket: &str, ask: impl AsyncFn(Value) -> Value) -> Vec<Entry> {
    const NO_MESSAGE_FOUND: u64 = 10037;
    let prefix = format!("$KV.{bucket}.");
    let mut entries = Vec::new();
    let mut from = 1;
    loop {
        let answer = ask(json!({"seq": from, "next_by_subj": format!("{prefix}>")})).await;
        let Some(message) = answer.get("message") else {
            assert_eq!(answer["error"]["err_code"], NO_MESSAGE_FOUND, "{answer}");
            return entries;
        };
        let bytes = |name: &str| {
            let text = message.get(name).and_then(Value::as_str).unwrap_or_default();
            BASE64.decode(text.as_bytes()).unwrap()
        };
        let headers = String::from_utf8(bytes("hdrs")).unwrap();
        let sequence = message["seq"].as_u64().unwrap();
        entries.push(Entry {
            sequence,
            key: message["subject"]
                .as_str()
                .unwrap()
                .strip_prefix(&prefix)
                .unwrap()
                .to_owned(),
            operation: Operation::of(&headers),
            is_by_gateway: headers.contains("\nNats-Msg-Id:"),
            body: bytes("data"),
        });
        from = sequence + 1;
    }
}

/// How many messages a bucket holds that it did not.
pub fn news(after: &[Entry], before: &[Entry]) -> usize {
    after.iter().filter(|entry| !before.contains(entry)).count()
}

/// JSON with every member of its objects, also those that stand twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads a body; `None` where it is no JSON, or holds what no program can: a number beyond all, half a character.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Whether a member of some object in it stands twice.
    pub fn has_doubled_member(&self) -> bool {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::has_doubled_member),
            Self::Object(members) => {
                let is_doubled = |(place, (name, value)): (usize, &(String, Self))| {
                    members.iter().take(place).any(|(earlier, _)| earlier == name)
                        || value.has_doubled_member()
                };
                members.iter().enumerate().any(is_doubled)
            }
        }
    }

    /// The first member of this name.
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members
                .iter()
                .find_map(|(other, value)| (other == name).then_some(value)),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(number(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(number(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

fn number(digits: String) -> f64 {
    digits.parse().unwrap()
}

/// Comma-joined, without what is empty: as the API shows a list.
pub fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let mut listed = Vec::new();
    for item in items {
        let parts = item.as_ref().split(',').filter(|part| !part.is_empty());
        listed.extend(parts.map(str::to_owned));
    }
    listed.join(",")
}

/// A list as some writers keep it in one text and others in an array.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub enum Messy {
    Text(String),
    List(Vec<String>),
}

impl Messy {
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => list([text]),
            Self::List(items) => list(items),
        }
    }
}
