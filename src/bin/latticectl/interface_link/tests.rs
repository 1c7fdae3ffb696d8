use std::sync::Arc;

use lattice_gateway::proto::{
    DeleteInterfaceLinkResponse, GetInterfaceLinkResponse, Outcome, PutInterfaceLinkResponse, Revision,
    WriteResult, delete_interface_link_request,
    interface_link_service_server::{InterfaceLinkService, InterfaceLinkServiceServer},
    put_interface_link_request,
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::*;
use crate::fake;

/// A gateway that notes what it is sent, and answers always the same.
#[derive(Clone, Default)]
struct Noting {
    puts: Arc<Mutex<Vec<PutInterfaceLinkRequest>>>,
    gets: Arc<Mutex<Vec<GetInterfaceLinkRequest>>>,
    lists: Arc<Mutex<Vec<ListInterfaceLinksRequest>>>,
    deletes: Arc<Mutex<Vec<DeleteInterfaceLinkRequest>>>,
}

fn link() -> InterfaceLink {
    InterfaceLink {
        source_id: "web".to_owned(),
        target: "echo".to_owned(),
        name: "default".to_owned(),
        wit_namespace: "wasi".to_owned(),
        wit_package: "http".to_owned(),
        interfaces: vec!["incoming-handler".to_owned(), "types".to_owned()],
        source_config: vec!["port".to_owned()],
        ..InterfaceLink::default()
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
impl InterfaceLinkService for Noting {
    async fn put_interface_link(
        &self,
        request: Request<PutInterfaceLinkRequest>,
    ) -> Result<Response<PutInterfaceLinkResponse>, Status> {
        self.puts.lock().push(request.into_inner());
        Ok(Response::new(PutInterfaceLinkResponse {
            interface_link: Some(link()),
            result: Some(applied()),
        }))
    }

    async fn get_interface_link(
        &self,
        request: Request<GetInterfaceLinkRequest>,
    ) -> Result<Response<GetInterfaceLinkResponse>, Status> {
        self.gets.lock().push(request.into_inner());
        Ok(Response::new(GetInterfaceLinkResponse {
            interface_link: Some(link()),
        }))
    }

    async fn list_interface_links(
        &self,
        request: Request<ListInterfaceLinksRequest>,
    ) -> Result<Response<ListInterfaceLinksResponse>, Status> {
        self.lists.lock().push(request.into_inner());
        Ok(Response::new(ListInterfaceLinksResponse {
            interface_links: vec![link()],
            ..ListInterfaceLinksResponse::default()
        }))
    }

    async fn delete_interface_link(
        &self,
        request: Request<DeleteInterfaceLinkRequest>,
    ) -> Result<Response<DeleteInterfaceLinkResponse>, Status> {
        self.deletes.lock().push(request.into_inner());
        Ok(Response::new(DeleteInterfaceLinkResponse {
            result: Some(applied()),
        }))
    }
}

/// Runs a command against a gateway.
async fn run(gateway: &Noting, line: &str) -> String {
    let service = InterfaceLinkServiceServer::new(gateway.clone());
    fake::run(service, line).await.unwrap()
}

#[tokio::test]
async fn a_link_is_put_with_its_interfaces_and_configs() {
    let gateway = Noting::default();
    let line = "iface put web echo wasi http --interface incoming-handler --interface types \
                --source-config port --must-not-exist --request-id my-own-id";
    assert_eq!(
        run(&gateway, line).await,
        "applied  iface web -> echo wasi:http default  (revision 5:7)\n"
    );
    let expected = PutInterfaceLinkRequest {
        lattice: "default".to_owned(),
        interface_link: Some(link()),
        request_id: "my-own-id".to_owned(),
        precondition: Some(put_interface_link_request::Precondition::MustNotExist(true)),
        ..PutInterfaceLinkRequest::default()
    };
    assert_eq!(*gateway.puts.lock(), [expected]);
}

#[tokio::test]
async fn a_link_may_be_named_without_its_target() {
    let gateway = Noting::default();
    for (line, target) in [
        ("iface get web wasi http", None),
        ("iface get web wasi http --target echo", Some("echo")),
    ] {
        let shown = run(&gateway, line).await;
        assert!(
            shown.starts_with("source          web\ntarget          echo\n"),
            "{shown}"
        );
        let sent = gateway.gets.lock().pop().unwrap();
        let named = [
            &sent.source_id,
            &sent.wit_namespace,
            &sent.wit_package,
            &sent.name,
        ];
        assert_eq!(
            named.map(|it| it.as_deref().unwrap()),
            ["web", "wasi", "http", "default"]
        );
        assert_eq!(sent.target.as_deref(), target);
    }
}

#[tokio::test]
async fn a_delete_says_which_link_it_means() {
    let gateway = Noting::default();
    let line = "iface delete web wasi http --name blue --if-match abc --request-id my-own-id";
    assert_eq!(
        run(&gateway, line).await,
        "applied  delete of iface web wasi:http blue  (revision 5:7)\n"
    );
    let expected = DeleteInterfaceLinkRequest {
        lattice: "default".to_owned(),
        source_id: Some("web".to_owned()),
        name: Some("blue".to_owned()),
        wit_namespace: Some("wasi".to_owned()),
        wit_package: Some("http".to_owned()),
        request_id: "my-own-id".to_owned(),
        precondition: Some(delete_interface_link_request::Precondition::Etag(
            "\"abc\"".to_owned(),
        )),
        ..DeleteInterfaceLinkRequest::default()
    };
    assert_eq!(gateway.deletes.lock().pop(), Some(expected));
    assert_eq!(
        run(
            &gateway,
            "iface delete web wasi http --target echo --allow-missing --dry-run"
        )
        .await,
        "applied  delete of iface web -> echo wasi:http default  (revision 5:7)\n"
    );
    let sent = gateway.deletes.lock().pop().unwrap();
    assert_eq!(sent.target.as_deref(), Some("echo"));
    assert!(sent.allow_missing && sent.validate_only);
}

#[tokio::test]
async fn a_list_is_of_what_the_filters_choose() {
    let gateway = Noting::default();
    let line = "iface list --source web --target echo --namespace wasi --package http --name default";
    assert_eq!(
        run(&gateway, line).await,
        "SOURCE  TARGET  NAMESPACE  PACKAGE  NAME     INTERFACES              SOURCE CONFIGS  TARGET CONFIGS\n\
         web     echo    wasi       http     default  incoming-handler,types  port            -\n"
    );
    let sent = gateway.lists.lock().pop().unwrap();
    assert_eq!(
        [
            sent.source_id,
            sent.target,
            sent.wit_namespace,
            sent.wit_package,
            sent.name
        ],
        ["web", "echo", "wasi", "http", "default"]
    );
}
