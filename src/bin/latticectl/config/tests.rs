use std::sync::Arc;

use lattice_gateway::proto::{
    DeleteConfigResponse, GetConfigResponse, Outcome, PutConfigResponse, Revision, WriteResult,
    config_service_server::{ConfigService, ConfigServiceServer},
    put_config_request,
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::*;
use crate::fake;

/// A gateway that notes what it is sent, and answers always the same.
#[derive(Clone, Default)]
struct Noting {
    puts: Arc<Mutex<Vec<PutConfigRequest>>>,
    deletes: Arc<Mutex<Vec<DeleteConfigRequest>>>,
}

fn config() -> NamedConfig {
    NamedConfig {
        name: "port".to_owned(),
        values: [("address".to_owned(), "0.0.0.0:8080".to_owned())].into(),
        ..NamedConfig::default()
    }
}

fn applied() -> WriteResult {
    WriteResult {
        outcome: Outcome::Applied.into(),
        revision: Some(Revision {
            epoch: 5,
            sequence: 7,
        }),
        ..WriteResult::default()
    }
}

#[tonic::async_trait]
impl ConfigService for Noting {
    async fn put_config(
        &self,
        request: Request<PutConfigRequest>,
    ) -> Result<Response<PutConfigResponse>, Status> {
        self.puts.lock().push(request.into_inner());
        Ok(Response::new(PutConfigResponse {
            named_config: Some(config()),
            result: Some(applied()),
        }))
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        assert_eq!(request.into_inner().name, "port");
        Ok(Response::new(GetConfigResponse {
            named_config: Some(config()),
        }))
    }

    async fn list_configs(
        &self,
        _request: Request<ListConfigsRequest>,
    ) -> Result<Response<ListConfigsResponse>, Status> {
        Ok(Response::new(ListConfigsResponse {
            named_configs: vec![config()],
            ..ListConfigsResponse::default()
        }))
    }

    async fn delete_config(
        &self,
        request: Request<DeleteConfigRequest>,
    ) -> Result<Response<DeleteConfigResponse>, Status> {
        self.deletes.lock().push(request.into_inner());
        Ok(Response::new(DeleteConfigResponse {
            result: Some(applied()),
        }))
    }
}

/// Runs a command against a gateway.
async fn run(gateway: &Noting, line: &str) -> String {
    let service = ConfigServiceServer::new(gateway.clone());
    fake::run(service, line).await.unwrap()
}

#[tokio::test]
async fn a_config_is_put_with_its_values() {
    let gateway = Noting::default();
    let line = "config put port --value address=0.0.0.0:8080 --must-exist --request-id my-own-id";
    assert_eq!(
        run(&gateway, line).await,
        "applied  config port  (revision 5:7)\n"
    );
    let expected = PutConfigRequest {
        lattice: "default".to_owned(),
        named_config: Some(config()),
        request_id: "my-own-id".to_owned(),
        precondition: Some(put_config_request::Precondition::MustExist(true)),
        ..PutConfigRequest::default()
    };
    assert_eq!(*gateway.puts.lock(), [expected]);
}

#[tokio::test]
async fn a_config_in_use_is_deleted_by_force() {
    let gateway = Noting::default();
    assert_eq!(
        run(&gateway, "config delete port").await,
        "applied  delete of config port  (revision 5:7)\n"
    );
    let sent = gateway.deletes.lock().pop().unwrap();
    assert_eq!(sent.name, "port");
    assert!(!sent.allow_missing && !sent.force);
    run(&gateway, "config delete port --allow-missing --force").await;
    let sent = gateway.deletes.lock().pop().unwrap();
    assert!(sent.allow_missing && sent.force);
}

#[tokio::test]
async fn configs_are_shown_with_their_values() {
    let gateway = Noting::default();
    assert_eq!(
        run(&gateway, "config get port").await,
        "name    port\nvalues  address=0.0.0.0:8080\n"
    );
    assert_eq!(
        run(&gateway, "config list").await,
        "NAME  VALUES\nport  address=0.0.0.0:8080\n"
    );
}
