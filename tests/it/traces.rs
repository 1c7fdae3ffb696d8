//! Spans that a receiver of OTLP gets, and the context that stored messages carry.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use data_encoding::HEXLOWER;
use futures_util::future::join_all;
use lattice_gateway::proto::{
    InterfaceLink, interface_link_service_client::InterfaceLinkServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

use crate::harness::{
    Nats,
    api::{ACTOR, PROVIDER},
    gateway::caller,
    interface_link, link, put_interface_link, put_link, until,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLERS_SPAN: &str = "b7ad6b7169203331";
const LOG: &str = "[log]\nformat = \"json\"\n";
const TOKEN: &str = "canary-token";

/// A receiver of OTLP that keeps what it gets.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let of_resources = request.into_inner().resource_spans;
        let of_scopes = of_resources.into_iter().flat_map(|spans| spans.scope_spans);
        self.0.lock().extend(of_scopes.flat_map(|spans| spans.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(receiver.clone());
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        (receiver, url)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().clone()
    }
}

/// `serve`, with a caller that may read and write links.
struct Gateway {
    child: Child,
    url: String,
}

impl Gateway {
    fn serving(text: &str) -> Self {
        Self::with_lattice(text, "")
    }

    fn with_lattice(text: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        let lattice = format!("[lattices.default]\ntrusted_issuers = [\"*\"]\n{settings}\n");
        let caller = caller("tests", TOKEN, &["default"], "read links:write");
        std::fs::write(&file, format!("{text}\n{LOG}{lattice}{caller}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            // Milliseconds until spans are sent.
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = log.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let serving = lines.find(|line| line["fields"]["message"] == "serving").unwrap();
        let url = format!("http://{}", serving["fields"]["grpc"].as_str().unwrap());
        Self { child, url }
    }

    async fn put(&self, traceparent: &str) {
        let client = LinkDefinitionServiceClient::new(self.channel());
        // The first one may come before NATS is connected.
        until("the link is put", async || {
            let put = in_trace(put_link(link(ACTOR, PROVIDER, traceparent)), traceparent);
            client.clone().put_link_definition(put).await.ok()
        })
        .await;
    }

    /// A link of the only source, another than before, in a trace that is kept. Whether it is put is no question here.
    async fn put_interface_link(&self, name: usize, trace: String) {
        let traceparent = format!("00-{trace}-{CALLERS_SPAN}-01");
        let link = InterfaceLink {
            name: format!("link-{name}"),
            interfaces: vec![format!("call{trace}")],
            ..interface_link("target")
        };
        let put = in_trace(put_interface_link(link), &traceparent);
        let mut client = InterfaceLinkServiceClient::new(self.channel());
        drop(client.put_interface_link(put).await);
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url.clone()).unwrap().connect_lazy()
    }
}

fn in_trace<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    metadata.insert("traceparent", traceparent.parse().unwrap());
    metadata.insert("tracestate", "vendor=1".parse().unwrap());
    request
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The text that a span has under a name.
fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    let any_value::Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? else {
        panic!("{found:?} is no text");
    };
    Some(text)
}

#[tokio::test]
async fn a_call_is_a_span_of_its_callers_trace_and_so_is_its_publish() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let (receiver, url) = Receiver::start().await;
    let gateway = Gateway::serving(&format!(
        "[nats]\nservers = \"{}\"\n[traces]\nendpoint = \"{url}\"\nsample = 0.0",
        nats.url()
    ));
    gateway.put(&format!("00-{TRACE}-{CALLERS_SPAN}-00")).await;
    gateway.put("no traceparent at all").await;
    gateway.put(&format!("00-{TRACE}-{CALLERS_SPAN}-01")).await;

    let spans = until("both spans are sent", async || {
        let spans = receiver.spans();
        (spans.len() >= 2).then_some(spans)
    })
    .await;
    assert_eq!(spans.len(), 2, "nothing else is sampled: {spans:?}");
    let spans = spans.into_iter().map(|span| (span.kind(), span));
    let spans = spans.collect::<BTreeMap<_, _>>();
    let (call, publish) = (&spans[&SpanKind::Server], &spans[&SpanKind::Producer]);
    let hex = |id: &[u8]| HEXLOWER.encode(id);
    assert_eq!(
        call.name,
        "lattice.control.v1.LinkDefinitionService/PutLinkDefinition"
    );
    assert_eq!(attribute(call, "rpc.system.name"), Some("grpc"));
    assert_eq!(attribute(call, "rpc.method"), Some(&*call.name));
    assert_eq!(attribute(call, "rpc.response.status_code"), Some("OK"));
    assert_eq!(attribute(call, "error.type"), None);
    assert_eq!(attribute(publish, "messaging.system"), Some("nats"));
    assert_eq!(attribute(publish, "messaging.operation.type"), Some("send"));
    assert_eq!(attribute(publish, "messaging.operation.name"), Some("publish"));
    let subject = attribute(publish, "messaging.destination.name").unwrap();
    assert!(subject.starts_with("lc.default.linkdefs."), "{subject}");
    assert_eq!(
        (hex(&call.trace_id), hex(&call.parent_span_id)),
        (TRACE.into(), CALLERS_SPAN.into())
    );
    assert_eq!(
        (&publish.trace_id, &publish.parent_span_id),
        (&call.trace_id, &call.span_id)
    );
    assert!(
        call.status
            .as_ref()
            .is_none_or(|status| status.code() == StatusCode::Unset)
    );
    assert!(!format!("{spans:?}").contains("canary"), "{spans:?}");

    let stored = nats
        .last("default", "lc.default.linkdefs.*")
        .await
        .unwrap()
        .headers;
    let publishs = hex(&publish.span_id);
    assert!(
        stored.contains(&format!("traceparent: 00-{TRACE}-{publishs}-01\r\n")),
        "{stored}"
    );
    assert!(stored.contains("tracestate: vendor=1\r\n"), "{stored}");
}

/// Edits of one source that come while another one is carried out share the next publish.
#[tokio::test]
async fn a_publish_that_calls_share_is_of_the_first_and_linked_with_the_others() {
    const AT_ONCE: usize = 8;

    let nats = Nats::start().await;
    let noted = json!({"metadata": {"lattice-gateway.layout": "component"}});
    for bucket in ["LATTICEDATA", "CONFIGDATA"] {
        nats.create_bucket(bucket, "default", noted.clone()).await;
    }
    let (receiver, url) = Receiver::start().await;
    let gateway = Gateway::with_lattice(
        &format!(
            "[nats]\nservers = \"{}\"\n[traces]\nendpoint = \"{url}\"\nsample = 0.0",
            nats.url()
        ),
        "settle = \"0s\"",
    );
    let mut traces = 0;
    let shared = until("calls share a publish", async || {
        let calls = (0..AT_ONCE).map(|name| {
            traces += 1;
            gateway.put_interface_link(name, format!("{traces:032x}"))
        });
        join_all(calls.collect::<Vec<_>>()).await;
        let is_shared = |span: &Span| span.kind() == SpanKind::Producer && !span.links.is_empty();
        receiver.spans().into_iter().find(is_shared)
    })
    .await;
    let calls = until("its calls' spans are sent", async || {
        let spans = receiver.spans();
        let of = |trace: &[u8], span: &[u8]| {
            spans
                .iter()
                .find(|call| call.trace_id == trace && call.span_id == span)
                .cloned()
        };
        let first = of(&shared.trace_id, &shared.parent_span_id)?;
        let others = shared.links.iter().map(|link| of(&link.trace_id, &link.span_id));
        Some((first, others.collect::<Option<Vec<_>>>()?))
    })
    .await;
    let (first, others) = calls;
    assert!(first.links.is_empty(), "{first:?}");
    for call in others {
        assert_eq!(
            (call.kind(), &*call.name),
            (
                SpanKind::Server,
                "lattice.control.v1.InterfaceLinkService/PutInterfaceLink"
            )
        );
        assert_ne!(call.trace_id, first.trace_id);
        let mut linked = call.links.iter().map(|link| (&link.trace_id, &link.span_id));
        assert!(
            linked.any(|publish| publish == (&shared.trace_id, &shared.span_id)),
            "{call:?}"
        );
    }
}

#[tokio::test]
async fn without_a_receiver_configured_messages_carry_no_context() {
    let nats = Nats::start().await;
    nats.create_stream("default", json!({})).await;
    let gateway = Gateway::serving(&format!("[nats]\nservers = \"{}\"", nats.url()));
    gateway.put(&format!("00-{TRACE}-{CALLERS_SPAN}-01")).await;
    let stored = nats
        .last("default", "lc.default.linkdefs.*")
        .await
        .unwrap()
        .headers;
    assert!(!stored.contains("trace"), "{stored}");
}
