//! A watch over HTTP: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) where the client
//! asks for them, else JSON, a line each.
//!
//! One event is one message, made when the connection can take it: what bounds a watch of gRPC bounds this one.

use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header::ACCEPT};
use http_body_util::BodyExt;
use hyper::body::Frame;
use prost_reflect::MessageDescriptor;
use serde_json::Value;
use tonic::Status;
use tonic_types::StatusExt;

use super::answer;

/// How a stream of answers is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Events,
    Lines,
}

impl Form {
    /// The form that a client asks for.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(ACCEPT).iter();
        let is_events = accepted.any(|value| {
            let value = value.to_str().unwrap_or_default();
            value
                .split(',')
                .any(|one| answer::essence(one) == "text/event-stream")
        });
        if is_events { Self::Events } else { Self::Lines }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }

    fn message(self, message: &Value) -> Bytes {
        match self {
            Self::Lines => format!("{message}\n").into(),
            Self::Events => {
                let (name, inner) = message
                    .as_object()
                    .and_then(|object| object.iter().next())
                    .unzip();
                let token = inner.and_then(|inner| inner.get("resumeToken")?.as_str());
                let id = token.map(|token| format!("id: {token}\n")).unwrap_or_default();
                let name = name.map_or("message", String::as_str);
                format!("{id}event: {name}\ndata: {message}\n\n").into()
            }
        }
    }

    /// The end, which is an error. A browser comes again by itself, after the time that it is told.
    fn end(self, status: &Status) -> Bytes {
        let error = answer::error(answer::http_of(status.code()), status);
        match self {
            Self::Lines => format!("{error}\n").into(),
            Self::Events => {
                let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let retry = delay.map(|delay| format!("retry: {}\n", delay.as_millis()));
                format!("{}event: end\ndata: {error}\n\n", retry.unwrap_or_default()).into()
            }
        }
    }
}

/// The answer to a watch. `watched` is gRPC's, each of whose frames has whole messages.
pub(super) fn of(watched: Response, message: MessageDescriptor, form: Form) -> Response {
    let written = watched
        .into_body()
        .map_frame(move |frame| match frame.into_data() {
            Ok(data) => Frame::data(messages(data, &message, form)),
            Err(frame) => {
                let end = frame.into_trailers().ok();
                let end = end.and_then(|trailers| answer::error_of_trailers(&trailers));
                Frame::data(end.map(|status| form.end(&status)).unwrap_or_default())
            }
        });
    let mut response = answer::of(form.content_type(), Body::new(written));
    // Proxies that gather answers would keep events back.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn messages(mut framed: Bytes, message: &MessageDescriptor, form: Form) -> Bytes {
    let mut written = BytesMut::new();
    while let Some((encoded, rest)) = answer::split(&framed) {
        if let Some(value) = answer::json_of(message, &encoded) {
            written.put(form.message(&value));
        }
        framed = rest;
    }
    written.freeze()
}
