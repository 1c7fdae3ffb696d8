//! A gateway in this process, its clients, and what its errors tell.

use std::{collections::HashMap, time::Duration};

use ::http::Method;
use data_encoding::HEXLOWER;
use lattice_gateway::{
    app::{self, Running},
    config::Config,
    control::lattices::{Layout, NewLattice, Storage},
    proto::{
        ErrorReason, InterfaceLink, LinkDefinition, NamedConfig, PutConfigRequest, PutConfigResponse,
        PutInterfaceLinkRequest, PutInterfaceLinkResponse, PutLinkDefinitionRequest,
        PutLinkDefinitionResponse, apply_service_client::ApplyServiceClient,
        claims_service_client::ClaimsServiceClient, config_service_client::ConfigServiceClient,
        interface_link_service_client::InterfaceLinkServiceClient,
        lattice_service_client::LatticeServiceClient,
        link_definition_service_client::LinkDefinitionServiceClient,
        oci_reference_service_client::OciReferenceServiceClient,
    },
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{
    Code, IntoRequest, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::{Nats, api, http, raw::AsItIs, until};

/// A gateway with a client's channel to it.
pub struct TestGateway {
    pub running: Running,
    pub channel: Channel,
    bearer: Bearer,
    by_http: bool,
}

/// A channel that shows credentials.
pub type Wire = InterceptedService<Channel, Bearer>;

/// What a client shows with every call.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// A token.
    pub fn token(token: &str) -> Self {
        Self(Some(format!("Bearer {token}").parse().unwrap()))
    }

    /// As a header of HTTP.
    pub fn header(&self) -> Vec<(&str, &str)> {
        let value = self.0.iter();
        value
            .map(|value| ("authorization", value.to_str().unwrap()))
            .collect()
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A lattice as hosts 0.50 to 0.59 keep it.
pub fn new_lattice(storage: Storage) -> NewLattice {
    NewLattice {
        layout: Layout::CacheStream,
        storage: Some(storage),
    }
}

/// The token of the caller `tests`.
pub const TOKEN: &str = "the-token-of-the-tests";

impl TestGateway {
    /// As `dev` serves on its own server: the first write creates a lattice's stream.
    pub async fn dev(nats: &Nats) -> Self {
        Self::with(Config::dev(nats.url(), Some(new_lattice(Storage::Memory)))).await
    }

    /// As `dev` serves on its own server, with streams kept in files.
    pub async fn dev_on_files(nats: &Nats) -> Self {
        Self::with(Config::dev(nats.url(), Some(new_lattice(Storage::File)))).await
    }

    /// As `dev --layout` serves on its own server.
    pub async fn dev_with(nats: &Nats, layout: Layout) -> Self {
        let new = NewLattice {
            layout,
            storage: None,
        };
        Self::with(Config::dev(nats.url(), Some(new))).await
    }

    /// As `dev --nats-url` serves: only `ProvisionLattice` creates streams.
    pub async fn at(url: &str) -> Self {
        Self::with(Config::dev(url.to_owned(), None)).await
    }

    /// As `serve` serves with this text in its configuration, to a caller who may do all but put unsigned claims.
    pub async fn serving(nats: &Nats, text: &str) -> Self {
        Self::serving_at(nats.url(), text).await
    }

    /// As [`Self::serving`], over this URL.
    pub async fn serving_at(url: String, text: &str) -> Self {
        let mut config = with_caller(text);
        config.nats.servers = url;
        Self::with(config).await.showing(TOKEN)
    }

    /// As [`Self::serving`], with the text's own NATS.
    pub async fn serving_as(text: &str) -> Self {
        Self::with(with_caller(text)).await.showing(TOKEN)
    }

    /// As `serve` serves with this text in its configuration, callers included; to nobody yet.
    pub async fn serving_callers(nats: &Nats, text: &str) -> Self {
        let mut config = Config::parse(text, std::iter::empty()).unwrap();
        config.nats.servers = nats.url();
        Self::with(config).await
    }

    /// With a token that every client of it shows from now on.
    #[must_use]
    pub fn showing(mut self, token: &str) -> Self {
        self.bearer = Bearer::token(token);
        self
    }

    /// With [`Self::call`] over HTTP/JSON from now on.
    #[must_use]
    pub fn by_http(mut self) -> Self {
        self.by_http = true;
        self
    }

    /// A request over HTTP, with the credentials.
    pub async fn http(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> http::Answer {
        let headers = [headers, &self.bearer.header()].concat();
        http::send(self.running.grpc, http::request(&method, path, &headers, body)).await
    }

    /// The channel, with the credentials.
    pub fn wire(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// With any configuration, on free ports.
    pub async fn with(mut config: Config) -> Self {
        config.listen.set_port(0);
        config.admin_listen.set_port(0);
        let running = app::start(config).await.unwrap();
        running.connected().await;
        Self {
            channel: connect(running.grpc).await,
            running,
            bearer: Bearer::default(),
            by_http: false,
        }
    }

    /// A connection of its own, with the credentials.
    pub async fn wire_beside(&self) -> Wire {
        InterceptedService::new(connect(self.running.grpc).await, self.bearer.clone())
    }

    pub fn interface_links(&self) -> InterfaceLinkServiceClient<Wire> {
        InterfaceLinkServiceClient::new(self.wire())
    }

    pub fn configs(&self) -> ConfigServiceClient<Wire> {
        ConfigServiceClient::new(self.wire())
    }

    pub fn links(&self) -> LinkDefinitionServiceClient<Wire> {
        LinkDefinitionServiceClient::new(self.wire())
    }

    pub fn claims(&self) -> ClaimsServiceClient<Wire> {
        ClaimsServiceClient::new(self.wire())
    }

    pub fn references(&self) -> OciReferenceServiceClient<Wire> {
        OciReferenceServiceClient::new(self.wire())
    }

    pub fn applying(&self) -> ApplyServiceClient<Wire> {
        ApplyServiceClient::new(self.wire())
    }

    pub fn lattices(&self) -> LatticeServiceClient<Wire> {
        LatticeServiceClient::new(self.wire())
    }

    /// One call by its name, such as `ClaimsService/GetClaims`, with its message as it goes over the wire. Of an answer in a
    /// stream it gives the first message; an error that this tells of an operation is its own.
    pub async fn call(&self, method: &str, message: impl IntoRequest<Vec<u8>>) -> Result<Vec<u8>, Status> {
        // The one RPC that HTTP has not.
        if self.by_http && method != "ApplyService/Apply" {
            let message = message.into_request().into_inner();
            let answer = http::call(self.running.grpc, method, &message, &self.bearer.header()).await?;
            return api::of_its_operations(method, answer);
        }
        let path = format!("/lattice.control.v1.{method}").parse().unwrap();
        let mut client = tonic::client::Grpc::new(self.wire());
        client.ready().await.unwrap();
        let answers = client
            .server_streaming(message.into_request(), path, AsItIs)
            .await?;
        let first = answers.into_inner().message().await?;
        api::of_its_operations(method, first.expect("an answer or an error"))
    }

    /// The metrics, as they are scraped.
    pub async fn metrics(&self) -> String {
        metrics(self.running.admin).await
    }

    /// Waits until so many calls are under way.
    pub async fn are_under_way(&self, calls: usize) {
        let line = format!("\nlattice_gateway_rpc_in_flight {calls}\n");
        until(&format!("{calls} calls are under way"), async || {
            self.metrics().await.contains(&line).then_some(())
        })
        .await;
    }

    /// Puts a link.
    pub async fn put(&self, request: PutLinkDefinitionRequest) -> Result<PutLinkDefinitionResponse, Told> {
        told(self.links().put_link_definition(request).await)
    }

    /// Puts an interface link.
    pub async fn put_interface_link(
        &self,
        request: PutInterfaceLinkRequest,
    ) -> Result<PutInterfaceLinkResponse, Told> {
        told(self.interface_links().put_interface_link(request).await)
    }

    /// Puts a named config.
    pub async fn put_config(&self, request: PutConfigRequest) -> Result<PutConfigResponse, Told> {
        told(self.configs().put_config(request).await)
    }
}

/// A channel of its own.
pub async fn connect(address: std::net::SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// This configuration, with the caller `tests`.
fn with_caller(text: &str) -> Config {
    let verbs = "read values:read watch claims:write links:write refs:write config:write provision";
    let caller = caller("tests", TOKEN, &["*"], verbs);
    Config::parse(&format!("{text}\n{caller}"), std::iter::empty()).unwrap()
}

/// A caller of the configuration: a token, and these verbs on these lattices.
pub fn caller(name: &str, token: &str, lattices: &[&str], verbs: &str) -> String {
    let sha256 = HEXLOWER.encode(&Sha256::digest(token));
    let verbs = verbs.split(' ').collect::<Vec<_>>();
    format!(
        "[callers.{name}]\ntoken_sha256 = [\"{sha256}\"]\ngrants = [{{ lattices = {lattices:?}, verbs = {verbs:?} }}]\n"
    )
}

/// The answer, or what the error tells.
pub fn told<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Told> {
    answer.map(tonic::Response::into_inner).map_err(Told::from)
}

/// The metrics at an address, as they are scraped.
pub async fn metrics(admin: std::net::SocketAddr) -> String {
    get(admin, "/metrics").await
}

/// What is told at an address, head and body.
pub async fn get(admin: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A link from an actor to a provider with one value.
pub fn link(actor: &str, provider: &str, value: &str) -> LinkDefinition {
    LinkDefinition {
        actor_id: actor.to_owned(),
        provider_id: provider.to_owned(),
        contract_id: "wasmcloud:keyvalue".to_owned(),
        values: [("value".to_owned(), value.to_owned())].into(),
        ..LinkDefinition::default()
    }
}

/// The request that puts a link on the lattice `default`.
pub fn put_link(link: LinkDefinition) -> PutLinkDefinitionRequest {
    PutLinkDefinitionRequest {
        lattice: "default".to_owned(),
        link_definition: Some(link),
        ..PutLinkDefinitionRequest::default()
    }
}

/// An interface link from `http-server` to a component.
pub fn interface_link(target: &str) -> InterfaceLink {
    InterfaceLink {
        source_id: "http-server".to_owned(),
        target: target.to_owned(),
        wit_namespace: "wasi".to_owned(),
        wit_package: "http".to_owned(),
        interfaces: vec!["incoming-handler".to_owned()],
        ..InterfaceLink::default()
    }
}

/// The request that puts an interface link on the lattice `default`.
pub fn put_interface_link(link: InterfaceLink) -> PutInterfaceLinkRequest {
    PutInterfaceLinkRequest {
        lattice: "default".to_owned(),
        interface_link: Some(link),
        ..PutInterfaceLinkRequest::default()
    }
}

/// A named config with one value.
pub fn named_config(name: &str, value: &str) -> NamedConfig {
    NamedConfig {
        name: name.to_owned(),
        values: [("value".to_owned(), value.to_owned())].into(),
        ..NamedConfig::default()
    }
}

/// The request that puts a named config on the lattice `default`.
pub fn put_config(config: NamedConfig) -> PutConfigRequest {
    PutConfigRequest {
        lattice: "default".to_owned(),
        named_config: Some(config),
        ..PutConfigRequest::default()
    }
}

/// What an error tells a program.
#[derive(Debug)]
pub struct Told {
    pub code: Code,
    pub reason: ErrorReason,
    pub message: String,
    pub metadata: HashMap<String, String>,
    pub fields: Vec<String>,
    pub retry_after: Option<Duration>,
}

impl From<Status> for Told {
    /// Checks besides that there is exactly one reason, of our domain.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .unwrap_or_else(|| panic!("an error without ErrorInfo: {status:?}"));
        assert_eq!(info.domain, "lattice.control.v1");
        Self {
            code: status.code(),
            reason: ErrorReason::from_str_name(&info.reason).expect("a reason of the contract"),
            message: status.message().to_owned(),
            metadata: info.metadata.clone(),
            fields: details
                .bad_request()
                .into_iter()
                .flat_map(|bad| {
                    bad.field_violations
                        .iter()
                        .map(|violation| violation.field.clone())
                })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}
