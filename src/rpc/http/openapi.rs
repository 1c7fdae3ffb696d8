//! The routes as an OpenAPI 3.1 document, from the descriptors, their comments and the rules of fields.

mod rules;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use self::rules::Members;
use super::{
    answer,
    routes::{POOL, ROUTES, Route},
};

/// Messages within messages in a query, at most.
const DEPTH_MAX: usize = 2;
const ERROR: &str = "#/components/schemas/Error";

/// The document.
pub fn document() -> Value {
    let comments = Comments::of_api();
    let mut writer = Writer {
        comments: &comments,
        answered: answered(),
        wanted: BTreeSet::new(),
    };
    let mut paths = Map::new();
    for route in ROUTES.iter() {
        let path = paths.entry(route.template.clone()).or_insert_with(|| json!({}));
        let method = route.method.as_str().to_ascii_lowercase();
        if let Some(path) = path.as_object_mut() {
            path.insert(method, writer.operation(route));
        }
    }
    let mut schemas = writer.schemas();
    schemas.insert("Error".to_owned(), error());
    let tags = POOL
        .services()
        .filter(|service| ROUTES.iter().any(|route| route.rpc.parent_service() == service));
    let tags = tags.map(|service| {
        let about = comments.about(&service.parent_file(), service.path());
        json!({"name": service.name(), "description": about})
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lattice-gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Claims, links, OCI references and configs of wasmCloud lattices: the same calls as of gRPC \
                            `lattice.control.v1`, in ProtoJSON. 64-bit numbers are texts, and what has its default is \
                            left out. `Grpc-Timeout: 5S` sets a deadline.",
        },
        "tags": tags.collect::<Vec<_>>(),
        "security": [{"token": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    })
}

/// Serves the document. It is the same for all, and tells nothing of what is there.
pub(super) async fn serve() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    answer::of(answer::JSON, Body::from(DOCUMENT.clone()))
}

/// As errors are told, whatever the call.
fn error() -> Value {
    json!({
        "type": "object",
        "description": "`google.rpc.Status`. The `reason` of `google.rpc.ErrorInfo` among the details is for programs.",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["code", "status", "message"],
            "properties": {
                "code": {"type": "integer", "description": "The status of HTTP."},
                "status": {"type": "string", "description": "The name of `google.rpc.Code`."},
                "message": {"type": "string", "description": "For people."},
                "details": {"type": "array", "items": any()},
            },
        }},
    })
}

fn any() -> Value {
    json!({
        "type": "object",
        "required": ["@type"],
        "properties": {"@type": {"type": "string"}},
        "additionalProperties": true,
    })
}

/// Whether a message is sent, and so bound by the rules of its fields, or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Sent,
    Answered,
}

/// The messages that answers are made of.
fn answered() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = ROUTES.iter().map(|route| route.rpc.output()).collect::<Vec<_>>();
    while let Some(message) = open.pop() {
        if found.insert(message.full_name().to_owned()) {
            open.extend(
                message
                    .fields()
                    .filter_map(|field| field.kind().as_message().cloned()),
            );
        }
    }
    found
}

struct Writer<'a> {
    comments: &'a Comments,
    answered: BTreeSet<String>,
    /// What schemas refer to.
    wanted: BTreeSet<(String, Side)>,
}

impl Writer<'_> {
    fn operation(&mut self, route: &Route) -> Value {
        let rpc = &route.rpc;
        let about = self.comments.about(&rpc.parent_file(), rpc.path());
        let in_path = route.fields_in_path().map(str::to_owned).collect::<Vec<_>>();
        let mut parameters = Vec::new();
        for field in route.input().fields() {
            let is_in_path = in_path.iter().any(|name| name == field.name());
            if is_in_path {
                parameters.push(json!({
                    "name": field.name(), "in": "path", "required": true,
                    "description": self.comments.about(&field.parent_message().parent_file(), field.path()),
                    "schema": self.field(&field, Side::Sent),
                }));
            } else if !route.has_body {
                self.query(&field, "", 0, &mut parameters);
            }
        }
        if rpc.is_server_streaming() {
            parameters.push(json!({
                "name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
                "description": "As `resumeToken`, and before it; browsers send it by themselves.",
            }));
        }
        let answer = self.reference(&rpc.output(), Side::Answered);
        let content = if rpc.is_server_streaming() {
            json!({"text/event-stream": {"schema": {"type": "string"}}, "application/x-ndjson": {"schema": answer}})
        } else {
            json!({"application/json": {"schema": answer}})
        };
        let mut operation = json!({
            "operationId": operation_id(route),
            "tags": [rpc.parent_service().name()],
            "summary": about.split("\n\n").next().unwrap_or_default().replace('\n', " "),
            "description": about,
            "parameters": parameters,
            "responses": {
                "200": {"description": "OK", "content": content},
                "default": {
                    "description": "An error",
                    "content": {"application/json": {"schema": {"$ref": ERROR}}},
                },
            },
        });
        if route.has_body
            && let Some(operation) = operation.as_object_mut()
        {
            let schema = self.reference(&route.input(), Side::Sent);
            let body = json!({"required": true, "content": {"application/json": {"schema": schema}}});
            operation.insert("requestBody".to_owned(), body);
        }
        operation
    }

    /// Writes what a query can hold of a field.
    fn query(&mut self, field: &FieldDescriptor, within: &str, depth: usize, parameters: &mut Vec<Value>) {
        let name = format!("{within}{}", field.json_name());
        if let Kind::Message(inner) = field.kind()
            && inner.package_name() != "google.protobuf"
        {
            if !field.is_list() && !field.is_map() && depth < DEPTH_MAX {
                for field in inner.fields() {
                    self.query(&field, &format!("{name}."), depth.saturating_add(1), parameters);
                }
            }
            return;
        }
        parameters.push(json!({
            "name": name, "in": "query", "required": depth == 0 && rules::requires(field),
            "description": self.comments.about(&field.parent_message().parent_file(), field.path()),
            "schema": self.field(field, Side::Sent),
        }));
    }

    fn reference(&mut self, message: &MessageDescriptor, side: Side) -> Value {
        let name = message.full_name();
        self.wanted.insert((name.to_owned(), side));
        json!({"$ref": format!("#/components/schemas/{}", self.schema_name(name, side))})
    }

    /// What is sent and answered has two schemas.
    fn schema_name(&self, message: &str, side: Side) -> String {
        match side == Side::Sent && self.answered.contains(message) {
            true => format!("{message}-Input"),
            false => message.to_owned(),
        }
    }

    /// What was referred to, and what that refers to.
    fn schemas(&mut self) -> Map<String, Value> {
        let mut written = Map::new();
        while let Some((name, side)) = self.wanted.pop_first() {
            let schema_name = self.schema_name(&name, side);
            if written.contains_key(&schema_name) {
                continue;
            }
            let schema = match (POOL.get_message_by_name(&name), POOL.get_enum_by_name(&name)) {
                (Some(message), _) => self.message(&message, side),
                (None, Some(of)) => self.names(&of),
                (None, None) => continue,
            };
            written.insert(schema_name, schema);
        }
        written
    }

    fn message(&mut self, message: &MessageDescriptor, side: Side) -> Value {
        let mut properties = BTreeMap::new();
        for field in message.fields() {
            let mut schema = self.field(&field, side);
            let about = self.comments.about(&message.parent_file(), field.path());
            if let Some(schema) = schema.as_object_mut()
                && !about.is_empty()
            {
                schema.insert("description".to_owned(), about.into());
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object",
            "description": self.comments.about(&message.parent_file(), message.path()),
            "properties": properties,
            "additionalProperties": false,
        });
        if side == Side::Sent {
            let required = required(message);
            merge(
                &mut schema,
                required
                    .map(|names| ("required".to_owned(), names))
                    .into_iter()
                    .collect(),
            );
        }
        schema
    }

    fn names(&self, of: &EnumDescriptor) -> Value {
        let names = of
            .values()
            .map(|value| value.name().to_owned())
            .collect::<Vec<_>>();
        let about = self.comments.about(&of.parent_file(), of.path());
        json!({"type": "string", "enum": names, "description": about})
    }

    fn field(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        let mut schema = if let Kind::Message(entry) = field.kind()
            && field.is_map()
        {
            let values = self.value(&entry.map_entry_value_field(), side);
            json!({"type": "object", "additionalProperties": values})
        } else if field.is_list() {
            json!({"type": "array", "items": self.value(field, side)})
        } else {
            self.value(field, side)
        };
        if side == Side::Sent {
            merge(&mut schema, rules::of(field));
        }
        schema
    }

    fn value(&mut self, field: &FieldDescriptor, side: Side) -> Value {
        match field.kind() {
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Double | Kind::Float => json!({"type": "number"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "pattern": "^-?[0-9]+$"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "pattern": "^[0-9]+$"}),
            Kind::Enum(of) => {
                self.wanted.insert((of.full_name().to_owned(), side));
                json!({"$ref": format!("#/components/schemas/{}", of.full_name())})
            }
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Duration" => {
                    json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"})
                }
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                "google.protobuf.Any" => any(),
                _ => self.reference(&message, side),
            },
        }
    }
}

/// The fields that have to be given of a message, but for those that may stand in the path instead; none where there are none.
fn required(message: &MessageDescriptor) -> Option<Value> {
    let in_path = ROUTES.iter().filter(|route| route.input() == *message);
    let in_path = in_path.flat_map(Route::fields_in_path).collect::<BTreeSet<_>>();
    let fields = message.fields();
    let fields = fields.filter(|field| rules::requires(field) && !in_path.contains(field.name()));
    let names = fields
        .map(|field| field.json_name().to_owned())
        .collect::<Vec<_>>();
    (!names.is_empty()).then(|| names.into())
}

/// Puts members into an object and what is in it.
fn merge(schema: &mut Value, members: Members) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    for (name, value) in members {
        match (schema.get_mut(&name), value) {
            (Some(inner @ Value::Object(_)), Value::Object(members)) => merge(inner, members),
            (_, value) => {
                schema.insert(name, value);
            }
        }
    }
}

/// The call's name; with the method of HTTP where there are several ways to make it.
fn operation_id(route: &Route) -> String {
    let is_first = ROUTES.iter().find(|other| other.rpc == route.rpc);
    match is_first.is_some_and(|first| first.method == route.method) {
        true => route.rpc.name().to_owned(),
        false => format!("{}By{}", route.rpc.name(), route.method),
    }
}

/// The comments of `proto/`, by file and place.
struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    fn of_api() -> Self {
        let mut comments = HashMap::new();
        for file in POOL.files() {
            let locations = file.file_descriptor_proto().source_code_info.as_ref();
            for location in locations.iter().flat_map(|info| &info.location) {
                let text = location
                    .leading_comments()
                    .lines()
                    .map(|line| line.strip_prefix(' ').unwrap_or(line));
                let text = text.collect::<Vec<_>>().join("\n").trim().to_owned();
                if !text.is_empty() {
                    comments.insert((file.name().to_owned(), location.path.clone()), text);
                }
            }
        }
        Self(comments)
    }

    fn about(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        let found = self.0.get(&(file.name().to_owned(), path.to_vec()));
        found.map_or("", String::as_str)
    }
}
