//! A client over HTTP/JSON, and the gRPC call that its answers say the same as.

use std::{collections::BTreeMap, net::SocketAddr, sync::LazyLock};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lattice_gateway::proto::{FILE_DESCRIPTOR_SET, PACKAGE};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::{Map, Value, json};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, Status};

use super::nats::PATIENCE;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An answer that goes on.
pub struct Reading {
    body: Incoming,
    read: String,
}

impl Reading {
    pub fn of(body: Incoming) -> Self {
        let read = String::new();
        Self { body, read }
    }

    /// What comes up to this text; `None` where the answer ends before.
    pub async fn to(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((before, behind)) = self.read.split_once(end) {
                let (before, behind) = (before.to_owned(), behind.to_owned());
                self.read = behind;
                return Some(before);
            }
            let frame = timeout(PATIENCE, self.body.frame())
                .await
                .expect("more comes, or the end");
            let data = frame?.unwrap().into_data().unwrap();
            self.read.push_str(str::from_utf8(&data).unwrap());
        }
    }

    /// The next server-sent event: its name, its id, and its data.
    pub async fn event(&mut self) -> Option<(String, Option<String>, Value)> {
        let event = self.to("\n\n").await?;
        let field = |name: &str| {
            let mut lines = event.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let data = serde_json::from_str(field("data").unwrap()).unwrap();
        Some((
            field("event").unwrap().to_owned(),
            field("id").map(str::to_owned),
            data,
        ))
    }
}

/// Sends a request over a connection of its own.
pub async fn open(address: SocketAddr, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = timeout(PATIENCE, sender.send_request(request)).await;
    answer.expect("it is answered").unwrap()
}

/// As [`open`], with the whole answer.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let (head, body) = open(address, request).await.into_parts();
    let body = timeout(PATIENCE, body.collect()).await;
    Answer {
        status: head.status,
        headers: head.headers,
        body: body.expect("it is answered in full").unwrap().to_bytes(),
    }
}

/// A request, with what most have.
pub fn request(
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap());

/// An RPC by its name, such as `ClaimsService/GetClaims`.
pub fn rpc(method: &str) -> MethodDescriptor {
    let (service, name) = method.split_once('/').unwrap();
    let service = POOL.get_service_by_name(&format!("{PACKAGE}.{service}")).unwrap();
    let found = service.methods().find(|rpc| rpc.name() == name);
    found.unwrap()
}

/// What `google.api.http` says of an RPC first: the method, the path, and whether the message is the body.
pub fn annotated(rpc: &MethodDescriptor) -> (Method, String, bool) {
    let http = POOL.get_extension_by_name("google.api.http").unwrap();
    let options = rpc.options();
    let rule = options.get_extension(&http);
    let rule = rule.as_message().unwrap();
    let method = ["get", "put", "post", "delete"]
        .into_iter()
        .find(|name| rule.has_field_by_name(name))
        .unwrap();
    let path = rule
        .get_field_by_name(method)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    let method = method.to_uppercase().parse().unwrap();
    (method, path, rule.has_field_by_name("body"))
}

/// A message as JSON.
pub fn json_of(message: &str, encoded: &[u8]) -> Value {
    let descriptor = POOL.get_message_by_name(message).unwrap();
    serde_json::to_value(DynamicMessage::decode(descriptor, encoded).unwrap()).unwrap()
}

fn encoded(message: &str, value: Value) -> Vec<u8> {
    let descriptor = POOL.get_message_by_name(message).unwrap();
    DynamicMessage::deserialize(descriptor, value)
        .unwrap()
        .encode_to_vec()
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The request over HTTP that says the same as a message of gRPC: method, path and body.
pub fn translated(method: &str, message: &[u8]) -> (Method, String, Option<Value>) {
    let rpc = rpc(method);
    let (verb, template, has_body) = annotated(&rpc);
    let Value::Object(mut fields) = json_of(rpc.input().full_name(), message) else {
        panic!("{method}: no object");
    };
    let mut path = template;
    for field in rpc.input().fields() {
        let place = format!("{{{}}}", field.name());
        if path.contains(&place) {
            let value = fields.remove(field.json_name());
            let value = value.as_ref().and_then(Value::as_str).unwrap_or_default();
            path = path.replace(&place, &percent(value));
        }
    }
    if has_body {
        return (verb, path, Some(Value::Object(fields)));
    }
    let mut pairs = BTreeMap::new();
    flatten("", fields, &mut pairs);
    let query = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", percent(value)));
    let query = query.collect::<Vec<_>>().join("&");
    let path = if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    };
    (verb, path, None)
}

fn flatten(within: &str, fields: Map<String, Value>, into: &mut BTreeMap<String, String>) {
    for (name, value) in fields {
        let name = format!("{within}{name}");
        match value {
            Value::Object(fields) => flatten(&format!("{name}."), fields, into),
            Value::String(text) => drop(into.insert(name, text)),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
                drop(into.insert(name, other.to_string()));
            }
        }
    }
}

/// One call over HTTP/JSON, told as one of gRPC: its message, or its status. Of a watch, the first message.
pub async fn call(
    address: SocketAddr,
    method: &str,
    message: &[u8],
    headers: &[(&str, &str)],
) -> Result<Vec<u8>, Status> {
    let (verb, path, body) = translated(method, message);
    let mut headers = headers.to_vec();
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let rpc = rpc(method);
    let answer = open(address, request(&verb, &path, &headers, body)).await;
    let (head, body) = answer.into_parts();
    let value = if rpc.is_server_streaming() && head.status == StatusCode::OK {
        let line = Reading::of(body).to("\n").await;
        serde_json::from_str::<Value>(&line.unwrap()).unwrap()
    } else {
        let whole = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&whole.to_bytes()).unwrap()
    };
    match head.status {
        StatusCode::OK => Ok(encoded(rpc.output().full_name(), value)),
        status => Err(status_of(status, value)),
    }
}

/// The status that an error in JSON tells, which must have the form of one.
#[expect(clippy::disallowed_methods, reason = "it is the status that was told")]
pub fn status_of(http: StatusCode, mut error: Value) -> Status {
    let error = error["error"].take();
    assert_eq!(error["code"], http.as_u16(), "{error}");
    let code = code_of(error["status"].as_str().unwrap());
    let message = error["message"].as_str().unwrap();
    let whole = json!({"code": i32::from(code), "message": message, "details": error["details"]});
    Status::with_details(code, message, encoded("google.rpc.Status", whole).into())
}

fn code_of(name: &str) -> Code {
    let codes = (0..=16).map(Code::from_i32);
    let mut codes = codes.filter(|code| format!("{code:?}").to_uppercase() == name.replace('_', ""));
    codes.next().unwrap_or_else(|| panic!("{name} is no code"))
}

/// An object without some of its members.
pub fn without(mut value: Value, names: &[&str]) -> Value {
    if let Value::Object(object) = &mut value {
        object.retain(|name, _| !names.contains(&name.as_str()));
    }
    value
}
