//! Answers as JSON: messages, and errors with all that gRPC tells of them.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{super::status, routes::POOL};

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A status of HTTP beside that of gRPC, where it says more.
#[derive(Clone, Debug)]
pub(super) struct Instead {
    pub status: StatusCode,
    /// The methods that there are.
    pub allow: Option<HeaderValue>,
}

/// A media type without its parameters.
pub(super) fn essence(content_type: &str) -> String {
    let (essence, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    essence.trim().to_ascii_lowercase()
}

/// An encoded message as canonical `ProtoJSON`. Its members are sorted, so that one message is one text.
pub(super) fn json_of(message: &MessageDescriptor, encoded: &[u8]) -> Option<Value> {
    let message = DynamicMessage::decode(message.clone(), encoded).ok()?;
    serde_json::to_value(message).ok()
}

/// An answer that is JSON, and nobody's to keep.
pub(super) fn of(content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer as HTTP has it: what has a status of gRPC is told in JSON.
pub(super) fn with_error_in_json(response: Response) -> Response {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let instead = response.extensions().get::<Instead>().cloned();
    let code = instead
        .as_ref()
        .map_or_else(|| http_of(status.code()), |instead| instead.status);
    let body = error(code, &status).to_string();
    let mut response = (code, of(JSON, body.into())).into_response();
    let headers = response.headers_mut();
    headers.extend(
        instead
            .and_then(|instead| instead.allow)
            .map(|allow| (ALLOW, allow)),
    );
    headers.extend(retry_after(&status).map(|seconds| (RETRY_AFTER, seconds)));
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The error that trailers tell, if they tell one.
pub(super) fn error_of_trailers(trailers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok)
}

/// As `google.rpc.Status` is written in JSON, its code being HTTP's.
pub(super) fn error(code: StatusCode, status: &Status) -> Value {
    let whole = POOL.get_message_by_name("google.rpc.Status");
    let whole = whole.and_then(|message| json_of(&message, status.details()));
    let details = whole.and_then(|mut whole| Some(whole.get_mut("details")?.take()));
    json!({"error": {
        "code": code.as_u16(),
        "status": status::name(status.code()),
        "message": status.message(),
        "details": details.unwrap_or_else(|| Value::Array(Vec::new())),
    }})
}

/// Whole seconds (RFC 9110, 10.2.3), not fewer than are asked for.
fn retry_after(status: &Status) -> Option<HeaderValue> {
    let delay = status.get_details_retry_info()?.retry_delay?;
    let begun = u64::from(delay.subsec_nanos() > 0);
    Some(HeaderValue::from(delay.as_secs().saturating_add(begun)))
}

/// As `google.rpc.Code` maps them.
pub(super) fn http_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A gRPC message without its prefix, and what follows it.
pub(super) fn split(framed: &Bytes) -> Option<(Bytes, Bytes)> {
    const PREFIX_BYTES: usize = 5;
    let (prefix, _) = framed.split_first_chunk::<PREFIX_BYTES>()?;
    let [_compressed, length @ ..] = *prefix;
    let end = PREFIX_BYTES.checked_add(usize::try_from(u32::from_be_bytes(length)).ok()?)?;
    (end <= framed.len()).then(|| (framed.slice(PREFIX_BYTES..end), framed.slice(end..)))
}
