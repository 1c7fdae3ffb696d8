//! A message from what HTTP brings: a path, and JSON or a query.
//!
//! Whatever is no field of the message, or is given twice, is refused by its name: to leave it out would do something else
//! than what was asked.

use std::borrow::Cow;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value as Reflected,
    prost::Message,
};
use serde_json::{Map, Value};

use super::routes::{Bound, Route};
use crate::domain::json::{self, Unambiguous};

/// A part of a request that is refused: where it stands (empty for all of it), and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The path of the field, as a client would write it.
    pub field: String,
    /// Completes the sentence "the field …".
    pub why: String,
}

impl Refused {
    pub(super) fn new(field: &str, why: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            why: why.into(),
        }
    }
}

/// Parts that are told, at most.
const REFUSED_MAX: usize = 16;
/// Messages of messages in a query, at most: deeper than any that the API has.
const DEPTH_MAX: usize = 8;

/// The message that a request is, encoded.
pub(super) fn message(
    route: &Route,
    bound: &Bound,
    query: &str,
    body: &[u8],
) -> Result<Vec<u8>, Vec<Refused>> {
    let input = route.input();
    let object = match route.has_body {
        true if !query.is_empty() => {
            return Err(vec![Refused::new("", "takes no query; put it into the body")]);
        }
        true => of_body(body)?,
        false if !body.is_empty() => {
            return Err(vec![Refused::new("", "takes no body; put it into the query")]);
        }
        false => of_query(&input, query)?,
    };
    let mut refused = Vec::new();
    look_through(&object, &input, "", &mut refused);
    if !refused.is_empty() {
        return Err(refused);
    }
    let mut message = of_object(input, object)?;
    for (name, value) in bound {
        let Some(field) = message.descriptor().get_field_by_name(name) else {
            continue;
        };
        let value = Reflected::String(value.clone());
        if message.has_field(&field) && *message.get_field(&field) != value {
            refused.push(Refused::new(
                name,
                "is another one in the path; leave it out here",
            ));
        }
        message.set_field(&field, value);
    }
    match refused.is_empty() {
        true => Ok(message.encode_to_vec()),
        false => Err(refused),
    }
}

fn of_body(body: &[u8]) -> Result<Map<String, Value>, Vec<Refused>> {
    let why = match json::object::<Unambiguous>(body) {
        Ok(Some(object)) => return Ok(object),
        Ok(None) => "is no JSON object".to_owned(),
        Err(error) => format!("is no JSON that can be read: {error}"),
    };
    Err(vec![Refused::new("", why)])
}

/// The object that says the same as a query: `consistency.fullyConsistent=true&pageSize=2`.
fn of_query(input: &MessageDescriptor, query: &str) -> Result<Map<String, Value>, Vec<Refused>> {
    let mut object = Map::new();
    let mut refused = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if refused.len() >= REFUSED_MAX {
            break;
        }
        if let Err(why) = put(&mut object, input, &name, &value) {
            refused.push(Refused::new(&name, why));
        }
    }
    match refused.is_empty() {
        true => Ok(object),
        false => Err(refused),
    }
}

fn put(
    object: &mut Map<String, Value>,
    message: &MessageDescriptor,
    path: &str,
    value: &str,
) -> Result<(), Cow<'static, str>> {
    let mut place = object;
    let mut message = message.clone();
    let mut parts = path.split('.').take(DEPTH_MAX).peekable();
    while let Some(part) = parts.next() {
        let field = field(&message, part).ok_or_else(|| unknown(&message))?;
        let name = field.name().to_owned();
        let kind = field.kind();
        let inner = kind.as_message().filter(|inner| has_own_fields(inner));
        if let Some(inner) = inner {
            if field.is_list() || field.is_map() || parts.peek().is_none() {
                return Err("is a message, which a query cannot hold".into());
            }
            let entry = place.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inside) = entry else {
                return Err("is given twice".into());
            };
            place = inside;
            message = inner.clone();
            continue;
        }
        if parts.peek().is_some() {
            return Err("has no fields of its own".into());
        }
        let value = match (kind, value) {
            (Kind::Bool, "true") => true.into(),
            (Kind::Bool, "false") => false.into(),
            (Kind::Bool, _) => return Err("is true or false".into()),
            _ => value.into(),
        };
        return match (field.is_list(), place.get_mut(&name)) {
            (true, Some(Value::Array(items))) => {
                items.push(value);
                Ok(())
            }
            (true, _) => {
                place.insert(name, Value::Array(vec![value]));
                Ok(())
            }
            (false, Some(_)) => Err("is given twice".into()),
            (false, None) => {
                place.insert(name, value);
                Ok(())
            }
        };
    }
    Err("is no field".into())
}

fn of_object(input: MessageDescriptor, object: Map<String, Value>) -> Result<DynamicMessage, Vec<Refused>> {
    let mut track = serde_path_to_error::Track::new();
    let object = Value::Object(object);
    let tracked = serde_path_to_error::Deserializer::new(object, &mut track);
    DynamicMessage::deserialize(input, tracked).map_err(|error| {
        vec![Refused::new(
            &track.path().to_string(),
            format!("is refused: {error}"),
        )]
    })
}

/// Finds, at any depth, what is no field, and fields that are given by both of their names.
fn look_through(
    object: &Map<String, Value>,
    message: &MessageDescriptor,
    path: &str,
    refused: &mut Vec<Refused>,
) {
    let mut seen = Vec::new();
    for (name, value) in object {
        if refused.len() >= REFUSED_MAX {
            return;
        }
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let Some(field) = field(message, name) else {
            refused.push(Refused::new(&path, unknown(message)));
            continue;
        };
        if seen.contains(&field.number()) {
            refused.push(Refused::new(&path, "is given twice, by both of its names"));
            continue;
        }
        seen.push(field.number());
        let kind = field.kind();
        let Some(inner) = kind.as_message().filter(|inner| has_own_fields(inner)) else {
            continue;
        };
        match value {
            Value::Object(object) if !field.is_map() => look_through(object, inner, &path, refused),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Object(object) = item {
                        look_through(object, inner, &format!("{path}[{index}]"), refused);
                    }
                }
            }
            Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// By either of its names, as `ProtoJSON` has it.
fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    let by_json_name = message.get_field_by_json_name(name);
    by_json_name.or_else(|| message.get_field_by_name(name))
}

/// Messages of `google.protobuf` are texts in JSON.
fn has_own_fields(message: &MessageDescriptor) -> bool {
    message.package_name() != "google.protobuf"
}

fn unknown(message: &MessageDescriptor) -> Cow<'static, str> {
    let fields = message.fields();
    let names = fields.map(|field| field.json_name().to_owned());
    let names = names.collect::<Vec<_>>().join(", ");
    match names.is_empty() {
        true => "is no field here, where there are none".into(),
        false => format!("is no field here, where there are {names}").into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;
    use crate::{
        proto::{
            Consistency, LinkDefinition, ListLinkDefinitionsRequest, PutLinkDefinitionRequest, Revision,
        },
        rpc::http::routes::ROUTES,
    };

    fn route(rpc: &str) -> &'static Route {
        ROUTES.iter().find(|route| route.rpc.name() == rpc).unwrap()
    }

    fn in_default() -> Bound {
        vec![("lattice".to_owned(), "default".to_owned())]
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(query in ".*", body in any::<Vec<u8>>(), json in json()) {
            for route in ROUTES.iter() {
                for body in [&b""[..], &body, json.to_string().as_bytes()] {
                    for query in ["", &query] {
                        if let Err(refused) = message(route, &in_default(), query, body) {
                            prop_assert!(!refused.is_empty() && refused.len() <= REFUSED_MAX);
                        }
                    }
                }
            }
        }

        /// The generated code is another reader and writer of the same JSON.
        #[test]
        fn a_body_is_read_as_generated_code_writes_it(
            [actor_id, contract_id, etag, link_name] in any::<[String; 4]>(),
            values in btree_map(any::<String>(), any::<String>(), 0..4),
            validate_only in any::<bool>(),
        ) {
            use crate::proto::put_link_definition_request::Precondition;
            let written = PutLinkDefinitionRequest {
                lattice: "default".to_owned(),
                link_definition: Some(LinkDefinition { actor_id, contract_id, link_name, values, ..Default::default() }),
                precondition: Some(Precondition::Etag(etag)),
                validate_only,
                ..Default::default()
            };
            let body = serde_json::to_vec(&written).unwrap();
            let read = message(route("PutLinkDefinition"), &in_default(), "", &body).unwrap();
            prop_assert_eq!(PutLinkDefinitionRequest::decode(&read[..]).unwrap(), written);
        }

        #[test]
        fn a_query_is_read_as_it_is_written(
            [actor_id, page_token] in any::<[String; 2]>(), epoch in any::<u64>(), page_size in any::<i32>(),
        ) {
            use crate::proto::consistency::Requirement;
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("actorId", &actor_id)
                .append_pair("page_token", &page_token)
                .append_pair("pageSize", &page_size.to_string())
                .append_pair("consistency.atLeastAsFresh.epoch", &epoch.to_string())
                .finish();
            let read = message(route("ListLinkDefinitions"), &in_default(), &query, b"").unwrap();
            let fresh = Requirement::AtLeastAsFresh(Revision { epoch, sequence: 0 });
            let expected = ListLinkDefinitionsRequest {
                lattice: "default".to_owned(),
                actor_id,
                page_token,
                page_size,
                consistency: Some(Consistency { requirement: Some(fresh) }),
                ..Default::default()
            };
            prop_assert_eq!(ListLinkDefinitionsRequest::decode(&read[..]).unwrap(), expected);
        }
    }

    /// JSON whose members are now and then named as fields are.
    fn json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            "[a-z]{0,3}",
            "lattice|linkDefinition|operations|id|values|retryAge|layout|filters"
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(name.clone(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
