//! The routes as an OpenAPI 3.1 document, from the descriptors and their comments.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

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

struct Writer<'a> {
    comments: &'a Comments,
    /// What schemas refer to.
    wanted: BTreeSet<String>,
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
                    "schema": {"type": "string"},
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
        let answer = self.reference(&rpc.output());
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
            let schema = self.reference(&route.input());
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
            "name": name, "in": "query",
            "description": self.comments.about(&field.parent_message().parent_file(), field.path()),
            "schema": self.field(field),
        }));
    }

    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        self.wanted.insert(message.full_name().to_owned());
        json!({"$ref": format!("#/components/schemas/{}", message.full_name())})
    }

    /// What was referred to, and what that refers to.
    fn schemas(&mut self) -> Map<String, Value> {
        let mut written = Map::new();
        while let Some(name) = self.wanted.pop_first() {
            if written.contains_key(&name) {
                continue;
            }
            let schema = match (POOL.get_message_by_name(&name), POOL.get_enum_by_name(&name)) {
                (Some(message), _) => self.message(&message),
                (None, Some(of)) => self.names(&of),
                (None, None) => continue,
            };
            written.insert(name, schema);
        }
        written
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = BTreeMap::new();
        for field in message.fields() {
            let mut schema = self.field(&field);
            let about = self.comments.about(&message.parent_file(), field.path());
            if let Some(schema) = schema.as_object_mut()
                && !about.is_empty()
            {
                schema.insert("description".to_owned(), about.into());
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        json!({
            "type": "object",
            "description": self.comments.about(&message.parent_file(), message.path()),
            "properties": properties,
            "additionalProperties": false,
        })
    }

    fn names(&self, of: &EnumDescriptor) -> Value {
        let names = of
            .values()
            .map(|value| value.name().to_owned())
            .collect::<Vec<_>>();
        let about = self.comments.about(&of.parent_file(), of.path());
        json!({"type": "string", "enum": names, "description": about})
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if let Kind::Message(entry) = field.kind()
            && field.is_map()
        {
            let values = self.value(&entry.map_entry_value_field());
            return json!({"type": "object", "additionalProperties": values});
        }
        let one = self.value(field);
        match field.is_list() {
            true => json!({"type": "array", "items": one}),
            false => one,
        }
    }

    fn value(&mut self, field: &FieldDescriptor) -> Value {
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
                self.wanted.insert(of.full_name().to_owned());
                json!({"$ref": format!("#/components/schemas/{}", of.full_name())})
            }
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Duration" => {
                    json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"})
                }
                "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
                "google.protobuf.Any" => any(),
                _ => self.reference(&message),
            },
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
