//! The gateway's service without the gateway: a bare tonic server that answers links as long as the gateway's.

use lattice_gateway::proto::{
    DeleteLinkDefinitionRequest, DeleteLinkDefinitionResponse, GetLinkDefinitionRequest,
    GetLinkDefinitionResponse, LinkDefinition, ListLinkDefinitionsRequest, ListLinkDefinitionsResponse,
    Outcome, PutLinkDefinitionRequest, PutLinkDefinitionResponse, Revision, WriteResult,
    link_definition_service_server::{LinkDefinitionService, LinkDefinitionServiceServer},
};
use pbjson_types::Timestamp;
use tonic::{
    Request, Response, Status, async_trait,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::{
    Failure,
    process::{Process, connect, free_port},
    things::{CONTRACT, values},
};

const ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";
const REVISION: Revision = Revision {
    epoch: 5_565_915_333_644_390_046,
    sequence: 1_000_000,
};

/// The process that echoes, and a connection to it.
pub(crate) struct Echo {
    process: Process,
    pub(crate) channel: Channel,
}

impl Echo {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let port = free_port()?;
        let arguments = [format!("--echo-server={port}")];
        let process = Process::start(std::env::current_exe()?, arguments)?;
        let channel = connect(port).await?;
        Ok(Self { process, channel })
    }

    pub(crate) async fn stop(self) -> Result<(), Failure> {
        drop(self.channel);
        self.process.stop().await
    }
}

/// Serves, in the process that echoes.
pub(crate) async fn serve(port: u16) -> Result<(), Failure> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], port).into())?.with_nodelay(Some(true));
    Server::builder()
        .add_service(LinkDefinitionServiceServer::new(Service))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Service;

/// With what the gateway adds to a link.
fn stored(link: LinkDefinition) -> LinkDefinition {
    LinkDefinition {
        etag: ETAG.to_owned(),
        revision: Some(REVISION),
        update_time: Some(Timestamp {
            seconds: 1_800_000_000,
            nanos: 999_999_999,
        }),
        ..link
    }
}

#[async_trait]
impl LinkDefinitionService for Service {
    async fn put_link_definition(
        &self,
        request: Request<PutLinkDefinitionRequest>,
    ) -> Result<Response<PutLinkDefinitionResponse>, Status> {
        Ok(Response::new(PutLinkDefinitionResponse {
            link_definition: request.into_inner().link_definition.map(stored),
            result: Some(WriteResult {
                outcome: Outcome::Applied.into(),
                revision: Some(REVISION),
                etag: ETAG.to_owned(),
                superseded: false,
            }),
        }))
    }

    async fn get_link_definition(
        &self,
        request: Request<GetLinkDefinitionRequest>,
    ) -> Result<Response<GetLinkDefinitionResponse>, Status> {
        let asked = request.into_inner();
        let actor_id = asked.actor_id.unwrap_or_default();
        Ok(Response::new(GetLinkDefinitionResponse {
            link_definition: Some(stored(LinkDefinition {
                provider_id: actor_id.clone(),
                actor_id,
                contract_id: CONTRACT.to_owned(),
                link_name: asked.link_name.unwrap_or_default(),
                values: values(0),
                ..LinkDefinition::default()
            })),
        }))
    }

    async fn list_link_definitions(
        &self,
        _request: Request<ListLinkDefinitionsRequest>,
    ) -> Result<Response<ListLinkDefinitionsResponse>, Status> {
        Ok(Response::new(ListLinkDefinitionsResponse::default()))
    }

    async fn delete_link_definition(
        &self,
        _request: Request<DeleteLinkDefinitionRequest>,
    ) -> Result<Response<DeleteLinkDefinitionResponse>, Status> {
        Ok(Response::new(DeleteLinkDefinitionResponse::default()))
    }
}
