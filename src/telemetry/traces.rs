//! Traces for OpenTelemetry: a span for each call, under the caller's own, and one for each publish, whose context the
//! stored message carries as hosts since 0.55 write it (`traceparent`, `tracestate`). Attributes are named by OpenTelemetry's
//! semantic conventions 1.45: those for gRPC, which are stable, and those for messaging, which are not yet.
//!
//! Without `[traces]` nothing of this costs anything: there is no layer, and headers are not looked at.

use std::sync::OnceLock;

use http::HeaderMap;
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Metadata, Span, debug, field::Empty, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// An OTLP receiver over gRPC, `http://host:4317`.
    pub endpoint: String,
    /// Of the traces that begin here, the part that is kept, from 0 to 1. What a caller's `traceparent` says is kept to.
    pub sample: f64,
    /// What this service is called.
    pub service_name: String,
}

/// gRPC codes by which the server has failed, after OpenTelemetry's conventions for gRPC.
const SERVER_ERRORS: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends spans there from now on; needs the runtime. `Err` says what is wrong with the endpoint.
pub fn layer<S>(config: &TracesConfig) -> Result<impl Layer<S> + use<S>, String>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.endpoint)
        .build()
        .map_err(|error| format!("traces.endpoint: {error}"))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(version);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("lattice-gateway");
    let provider = PROVIDER.get_or_init(|| provider);
    debug!(?provider, "traces are sent");
    let is_ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == module_path!();
    Ok(tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(filter_fn(is_ours)))
}

/// Sends what was not sent yet. Blocks for up to 5 seconds.
pub fn end() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        warn!(%error, "the last traces were not sent");
    }
}

fn are_sent() -> bool {
    PROVIDER.get().is_some()
}

/// The span of a call, under its caller's. `path` is that of a method of the API.
pub fn call(path: Option<&'static str>, call_id: &str, caller: &str, headers: &HeaderMap) -> Span {
    let method = path.map_or("_OTHER", |path| path.trim_start_matches('/'));
    let span = tracing::debug_span!(
        "rpc",
        call_id,
        caller,
        otel.kind = "server",
        otel.name = method,
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
    );
    if are_sent() {
        let parent = TraceContextPropagator::new().extract(&OfCall(headers));
        // Only without the layer it would fail.
        span.set_parent(parent).unwrap_or_default();
    }
    span
}

/// Notes how a call ended, by the name of its gRPC code.
pub fn answered(span: &Span, code: &str) {
    if are_sent() {
        span.record("rpc.response.status_code", code);
        if SERVER_ERRORS.contains(&code) {
            span.record("error.type", code);
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// The span of a publish, under its call's.
pub fn publish(subject: &str) -> Span {
    tracing::debug_span!(
        "publish",
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.type = "send",
        messaging.operation.name = "publish",
        messaging.destination.name = subject,
    )
}

/// The span of a publish that calls share: under the first of them that is kept, and linked with the others, both ways.
pub fn shared_publish(subject: &str, calls: &[&Span]) -> Span {
    if !are_sent() {
        return publish(subject);
    }
    let context = |span: &Span| span.context().span().span_context().clone();
    let mut kept = Vec::<&Span>::new();
    for call in calls {
        if context(call).is_sampled() && !kept.contains(call) {
            kept.push(call);
        }
    }
    let parent = kept.first().or_else(|| calls.first());
    let shared = parent.map_or_else(Span::none, |call| call.in_scope(|| publish(subject)));
    for call in kept.iter().skip(1) {
        shared.add_link(context(call));
        call.add_link(context(&shared));
    }
    shared
}

/// Gives a message the context of the span that it is published in.
pub fn inject(headers: &mut async_nats::HeaderMap) {
    if are_sent() {
        let context = Span::current().context();
        TraceContextPropagator::new().inject_context(&context, &mut IntoMessage(headers));
    }
}

struct OfCall<'a>(&'a HeaderMap);

impl Extractor for OfCall<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct IntoMessage<'a>(&'a mut async_nats::HeaderMap);

impl Injector for IntoMessage<'_> {
    fn set(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(name, value.as_str());
        }
    }
}
