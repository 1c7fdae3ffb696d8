//! Spans that a receiver of OTLP gets, and the context that stored messages carry.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use data_encoding::HEXLOWER;
use lattice_gateway::proto::link_definition_service_client::LinkDefinitionServiceClient;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, Server},
};

use crate::harness::{
    Nats,
    api::{ACTOR, PROVIDER},
    gateway::caller,
    link, put_link, until,
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
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        let lattice = "[lattices.default]\ntrusted_issuers = [\"*\"]\n";
        let caller = caller("tests", TOKEN, &["default"], "read links:write");
        std::fs::write(&file, format!("{text}\n{LOG}{lattice}{caller}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
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
        let channel = Endpoint::from_shared(self.url.clone()).unwrap().connect_lazy();
        let client = LinkDefinitionServiceClient::new(channel);
        // The first one may come before NATS is connected.
        until("the link is put", async || {
            let mut put = Request::new(put_link(link(ACTOR, PROVIDER, traceparent)));
            let metadata = put.metadata_mut();
            metadata.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
            metadata.insert("traceparent", traceparent.parse().unwrap());
            metadata.insert("tracestate", "vendor=1".parse().unwrap());
            client.clone().put_link_definition(put).await.ok()
        })
        .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
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
    assert_eq!(call.name, "PutLinkDefinition");
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
