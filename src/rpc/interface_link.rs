//! `InterfaceLinkService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Call, Gateway, PageQuery,
    change::{Asked, Change},
    convert::{self, Resource, finish, raw_terms, three},
    status::Failure,
};
use crate::{
    auth::Read,
    control::page::Filter,
    domain::{Kind, Violations},
    proto::{
        DeleteInterfaceLinkRequest, DeleteInterfaceLinkResponse, GetInterfaceLinkRequest,
        GetInterfaceLinkResponse, InterfaceLink, ListInterfaceLinksRequest, ListInterfaceLinksResponse,
        PutInterfaceLinkRequest, PutInterfaceLinkResponse,
        interface_link_service_server::InterfaceLinkService,
    },
};

const LINK: Resource<InterfaceLink> = convert::interface_link;

#[async_trait]
impl InterfaceLinkService for Gateway {
    async fn put_interface_link(
        &self,
        request: Request<PutInterfaceLinkRequest>,
    ) -> Result<Response<PutInterfaceLinkResponse>, Status> {
        let call = Call::of(&request);
        let put = parse_put(&call, &request.into_inner());
        let written = self.changed(&call, put).await?.written;
        Ok(Response::new(PutInterfaceLinkResponse {
            interface_link: convert::written(&written, LINK),
            result: Some(convert::write_result(&written)),
        }))
    }

    async fn get_interface_link(
        &self,
        request: Request<GetInterfaceLinkRequest>,
    ) -> Result<Response<GetInterfaceLinkResponse>, Status> {
        let call = Call::of(&request);
        self.get_interface_link_of(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn list_interface_links(
        &self,
        request: Request<ListInterfaceLinksRequest>,
    ) -> Result<Response<ListInterfaceLinksResponse>, Status> {
        let call = Call::of(&request);
        self.list_interface_links_page(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn delete_interface_link(
        &self,
        request: Request<DeleteInterfaceLinkRequest>,
    ) -> Result<Response<DeleteInterfaceLinkResponse>, Status> {
        let call = Call::of(&request);
        let delete = parse_delete(&call, &request.into_inner());
        let done = self.changed(&call, delete).await?;
        Ok(Response::new(DeleteInterfaceLinkResponse {
            result: Some(convert::write_result(&done.written)),
        }))
    }
}

/// Parses a put.
pub(super) fn parse_put(call: &Call, request: &PutInterfaceLinkRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let link = convert::parse_interface_link(request.interface_link.as_ref(), &mut violations);
    let terms = raw_terms!(request, put_interface_link_request).parse(call, &mut violations);
    let (lattice, (id, link), terms) = finish(three(lattice, link, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::PutInterfaceLink(id, link),
    })
}

/// Parses a delete.
pub(super) fn parse_delete(call: &Call, request: &DeleteInterfaceLinkRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let selector = convert::link_selector!(request).parse(&mut violations);
    let terms = raw_terms!(request, delete_interface_link_request).parse(call, &mut violations);
    let (lattice, selector, terms) = finish(three(lattice, selector, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::DeleteInterfaceLink {
            selector,
            allow_missing: request.allow_missing,
        },
    })
}

impl Gateway {
    async fn get_interface_link_of(
        &self,
        call: &Call,
        request: GetInterfaceLinkRequest,
    ) -> Result<GetInterfaceLinkResponse, Failure> {
        let mut violations = Violations::new();
        let lattice = convert::lattice(&request.lattice, &mut violations);
        let selector = convert::link_selector!(request).parse(&mut violations);
        let consistency = convert::consistency(request.consistency, &mut violations);
        let (lattice, selector, consistency) = finish(three(lattice, selector, consistency), violations)?;
        let grant = self.grant::<Read>(call, &lattice)?;
        let (key, standing) = self
            .control
            .get_interface_link(&grant, &selector, consistency, call.deadline)
            .await?;
        Ok(GetInterfaceLinkResponse {
            interface_link: convert::standing_as(&key, &standing, LINK),
        })
    }

    async fn list_interface_links_page(
        &self,
        call: &Call,
        request: ListInterfaceLinksRequest,
    ) -> Result<ListInterfaceLinksResponse, Failure> {
        let parts = [
            &*request.source_id,
            &request.name,
            &request.wit_namespace,
            &request.wit_package,
            &request.target,
        ];
        let asked = PageQuery {
            filter: Filter::new(Kind::InterfaceLink, &parts),
            lattice: request.lattice,
            consistency: request.consistency,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (_grant, page) = self.list_entries(call, asked).await?;
        Ok(ListInterfaceLinksResponse {
            interface_links: page
                .entries
                .iter()
                .filter_map(|(key, standing)| convert::standing_as(key, standing, LINK))
                .collect(),
            next_page_token: page.next_page_token,
            revision: Some(convert::revision(page.revision)),
        })
    }
}
