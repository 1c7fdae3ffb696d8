//! The same calls over HTTP/JSON and gRPC-Web, on the port of gRPC.
//!
//! A request in JSON becomes the gRPC request that says the same, is admitted by [`layers`] and answered by the
//! same handler, and its answer becomes JSON again: nothing is decided here but how a message is written. What it is asked
//! for is told from its head alone (`routes`); its body is read only once the call is admitted.
//!
//! Requests whose `content-type` is gRPC's own pass by all of this.

mod answer;
mod cors;
mod events;
mod openapi;
mod request;
mod routes;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    task::{self, Poll},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{future::RouteFuture, get},
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING,
    },
    uri::Authority,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tonic::{Code, service::Routes};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

use self::{
    answer::Instead,
    events::Form,
    routes::{Bound, Found, Route},
};
pub use self::{cors::Origins, openapi::document, request::Refused};
use super::{
    Call, MESSAGE_BYTES_MAX,
    layers::{self, Admission},
    status::{self, Failure},
};
use crate::{control::ControlError, proto::WatchRequest};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How HTTP/JSON and gRPC-Web are served.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// Whose pages may call.
    pub origins: Origins,
    /// Whether it is spoken to by a name of this machine alone. Where anybody may call, a page could have its own name
    /// resolved to this machine, and call as if it came from there (DNS rebinding).
    pub only_as_this_machine: bool,
}

/// Everything that one listener serves.
#[derive(Clone, Debug)]
pub struct Front {
    grpc: Router,
    http: Option<Router>,
}

impl Front {
    /// gRPC, and what else is wanted beside it.
    pub fn new(routes: Routes, admission: Arc<Admission>, http: Option<&HttpSettings>) -> Self {
        let routes = routes.into_axum_router();
        let admitted = from_fn_with_state(admission, layers::call);
        let grpc = routes.clone().layer(admitted.clone());
        let json = routes.layer(from_fn(translated)).layer(admitted);
        let http = http.map(|settings| {
            let web = GrpcWebLayer::new().layer(grpc.clone());
            let others = Router::new()
                .route("/openapi.json", get(openapi::serve))
                .fallback(asked)
                .with_state(json)
                .layer(from_fn(move |request: Request, next: Next| {
                    let web = web.clone();
                    async move {
                        match starts_with(request.headers(), "application/grpc-web") {
                            true => web.oneshot(request).await.into_response(),
                            false => next.run(request).await,
                        }
                    }
                }));
            let others = match settings.only_as_this_machine {
                true => others.layer(from_fn(as_this_machine)),
                false => others,
            };
            settings.origins.let_in(others)
        });
        Self { grpc, http }
    }

    /// Whether more than gRPC is served.
    pub(super) fn has_http(&self) -> bool {
        self.http.is_some()
    }
}

/// Of one service alone, whatever the content's type.
impl From<Router> for Front {
    fn from(grpc: Router) -> Self {
        Self { grpc, http: None }
    }
}

impl<B> Service<http::Request<B>> for Front
where
    Router:
        Service<http::Request<B>, Response = Response, Error = Infallible, Future = RouteFuture<Infallible>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match &mut self.http {
            Some(http) if !is_grpc(request.headers()) => http.call(request),
            Some(_) | None => self.grpc.call(request),
        }
    }
}

/// `application/grpc`, alone or with a subtype; gRPC-Web's is another one.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn starts_with(headers: &HeaderMap, content_type: &str) -> bool {
    let given = headers.get(CONTENT_TYPE);
    given.is_some_and(|given| given.as_bytes().starts_with(content_type.as_bytes()))
}

/// What a request asks for, as far as its head tells.
#[derive(Clone, Debug)]
enum Asked {
    Call {
        route: &'static Route,
        bound: Bound,
        query: String,
    },
    OtherMethods(Vec<Method>),
    OtherContent,
    Nothing(String),
}

/// Finds out what is asked for, and hands it to where calls are admitted.
async fn asked(State(json): State<Router>, mut request: Request) -> Response {
    let asked = Asked::by(request.method(), request.uri(), request.headers());
    *request.uri_mut() = match &asked {
        Asked::Call { route, .. } => Uri::from(route.path.clone()),
        Asked::OtherMethods(_) | Asked::OtherContent | Asked::Nothing(_) => Uri::default(),
    };
    request.extensions_mut().insert(asked);
    let response = json.oneshot(request).await.into_response();
    answer::with_error_in_json(response)
}

impl Asked {
    fn by(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        match routes::find(method, uri.path()) {
            Found::Nothing => Self::Nothing(uri.path().to_owned()),
            Found::OtherMethods(methods) => Self::OtherMethods(methods),
            // A form of another site's page cannot send this type, so that none can change something with the
            // certificate of a user's browser. The others are not of the types that a page may send unasked.
            Found::Route(route, _) if route.has_body && !is_json(headers) => Self::OtherContent,
            Found::Route(route, bound) => Self::Call {
                route,
                bound,
                query: uri.query().unwrap_or_default().to_owned(),
            },
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| answer::essence(value) == "application/json")
        && !headers.contains_key(CONTENT_ENCODING)
}

/// Answers a call that was admitted.
async fn translated(mut request: Request, next: Next) -> Response {
    let asked = request.extensions_mut().remove::<Asked>();
    let call = request
        .extensions()
        .get::<Call>()
        .cloned()
        .unwrap_or_else(Call::unknown);
    let answered = match asked {
        Some(Asked::Call { route, bound, query }) => {
            let form = Form::asked(request.headers());
            match grpc_request(route, &bound, &query, request).await {
                Ok(request) => of_grpc(route, form, next.run(request).await).await,
                Err(failure) => Err(failure),
            }
        }
        Some(Asked::OtherMethods(methods)) => return other_methods(&methods),
        Some(Asked::OtherContent) => return other_content(),
        Some(Asked::Nothing(path)) => return nothing(&path),
        None => return nothing(request.uri().path()),
    };
    answered.unwrap_or_else(|failure| failure.into_status(&call).into_http())
}

/// The gRPC request that says the same as one in JSON.
async fn grpc_request(
    route: &Route,
    bound: &Bound,
    query: &str,
    request: Request,
) -> Result<Request, Failure> {
    let (mut head, body) = request.into_parts();
    let body = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Failure::BodyTooLong,
        None => Failure::Json(vec![Refused::new("", "did not arrive in full")]),
    })?;
    let mut message = request::message(route, bound, query, &body.to_bytes()).map_err(Failure::Json)?;
    if route.rpc.is_server_streaming()
        && let Some(token) = head
            .headers
            .get(LAST_EVENT_ID)
            .and_then(|token| token.to_str().ok())
    {
        // Where a message has a field twice, the last one counts.
        let resumed = WatchRequest {
            resume_token: token.to_owned(),
            ..WatchRequest::default()
        };
        message.extend(prost::Message::encode_to_vec(&resumed));
    }
    head.method = Method::POST;
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, ACCEPT, ACCEPT_ENCODING] {
        head.headers.remove(name);
    }
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(Request::from_parts(head, Body::from(framed(&message))))
}

fn framed(message: &[u8]) -> Bytes {
    const NOT_COMPRESSED: u8 = 0;
    let mut framed = BytesMut::with_capacity(message.len().saturating_add(5));
    framed.put_u8(NOT_COMPRESSED);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The answer in JSON that says the same as one of gRPC; an error stays as it is.
async fn of_grpc(route: &Route, form: Form, response: Response) -> Result<Response, Failure> {
    if response.headers().contains_key(layers::CODE) {
        return Ok(response);
    }
    let message = route.rpc.output();
    if route.rpc.is_server_streaming() {
        return Ok(events::of(response, message, form));
    }
    let unreadable = || {
        let detail = "an answer cannot be written as JSON".to_owned();
        Failure::from(ControlError::Internal { detail })
    };
    let collected = response
        .into_body()
        .collect()
        .await
        .map_err(|_broken| unreadable())?;
    let error = collected.trailers().and_then(answer::error_of_trailers);
    if let Some(error) = error {
        return Ok(error.into_http());
    }
    let (encoded, _) = answer::split(&collected.to_bytes()).ok_or_else(unreadable)?;
    let value = answer::json_of(&message, &encoded).ok_or_else(unreadable)?;
    Ok(answer::of(answer::JSON, value.to_string().into()))
}

fn nothing(path: &str) -> Response {
    let message = format!("there is no {path}; /openapi.json tells what there is");
    refused(StatusCode::NOT_FOUND, Code::Unimplemented, message)
}

fn other_methods(methods: &[Method]) -> Response {
    let methods = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let message = format!("takes {methods} alone");
    let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message);
    if let Some(instead) = response.extensions_mut().get_mut::<Instead>() {
        instead.allow = HeaderValue::from_str(&methods).ok();
    }
    response
}

fn other_content() -> Response {
    let message = "takes `content-type: application/json` alone, without a content-encoding".to_owned();
    refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message)
}

/// Of what is no call, and so has no reason.
fn refused(status: StatusCode, code: Code, message: String) -> Response {
    let mut response = status::of_no_call(code, message).into_http();
    let allow = None;
    response.extensions_mut().insert(Instead { status, allow });
    response
}

/// Refuses who speaks to this machine by another name than its own.
async fn as_this_machine(request: Request, next: Next) -> Response {
    if host(&request).is_some_and(|host| is_this_machine(&host)) {
        return next.run(request).await;
    }
    let message = "this gateway lets in whoever comes, and is spoken to as `localhost` alone; `serve` takes other names";
    let refused = refused(StatusCode::FORBIDDEN, Code::PermissionDenied, message.to_owned());
    answer::with_error_in_json(refused)
}

fn host(request: &Request) -> Option<String> {
    if let Some(host) = request.uri().host() {
        return Some(host.to_owned());
    }
    let host = request.headers().get(HOST)?.to_str().ok()?;
    Some(host.parse::<Authority>().ok()?.host().to_owned())
}

fn is_this_machine(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
