//! `LinkDefinitionService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Call, Gateway, GetQuery, PageQuery,
    change::{Asked, Change, Done},
    convert::{self, finish, raw_terms, three},
    status::Failure,
};
use crate::{
    control::page::Filter,
    domain::{EntryKey, Kind, Violations},
    proto::{
        DeleteLinkDefinitionRequest, DeleteLinkDefinitionResponse, GetLinkDefinitionRequest,
        GetLinkDefinitionResponse, ListLinkDefinitionsRequest, ListLinkDefinitionsResponse,
        PutLinkDefinitionRequest, PutLinkDefinitionResponse,
        link_definition_service_server::LinkDefinitionService,
    },
};

#[async_trait]
impl LinkDefinitionService for Gateway {
    async fn put_link_definition(
        &self,
        request: Request<PutLinkDefinitionRequest>,
    ) -> Result<Response<PutLinkDefinitionResponse>, Status> {
        let call = Call::of(&request);
        let put = parse_put(&call, &request.into_inner());
        let Done {
            written,
            reads_values,
        } = self.changed(&call, put).await?;
        Ok(Response::new(PutLinkDefinitionResponse {
            link_definition: convert::written(&written, convert::link_seen(reads_values)),
            result: Some(convert::write_result(&written)),
        }))
    }

    async fn get_link_definition(
        &self,
        request: Request<GetLinkDefinitionRequest>,
    ) -> Result<Response<GetLinkDefinitionResponse>, Status> {
        let call = Call::of(&request);
        self.get_link(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn list_link_definitions(
        &self,
        request: Request<ListLinkDefinitionsRequest>,
    ) -> Result<Response<ListLinkDefinitionsResponse>, Status> {
        let call = Call::of(&request);
        self.list_links(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn delete_link_definition(
        &self,
        request: Request<DeleteLinkDefinitionRequest>,
    ) -> Result<Response<DeleteLinkDefinitionResponse>, Status> {
        let call = Call::of(&request);
        let delete = parse_delete(&call, &request.into_inner());
        let done = self.changed(&call, delete).await?;
        Ok(Response::new(DeleteLinkDefinitionResponse {
            result: Some(convert::write_result(&done.written)),
        }))
    }
}

/// Parses a put.
pub(super) fn parse_put(call: &Call, request: &PutLinkDefinitionRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let link = convert::parse_link_definition(request.link_definition.as_ref(), &mut violations);
    let terms = raw_terms!(request, put_link_definition_request).parse(call, &mut violations);
    let (lattice, (id, link), terms) = finish(three(lattice, link, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::PutLinkDefinition(id, link),
    })
}

/// Parses a delete.
pub(super) fn parse_delete(call: &Call, request: &DeleteLinkDefinitionRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let id = convert::link_id(
        request.actor_id.as_deref(),
        request.contract_id.as_deref(),
        request.link_name.as_deref(),
        &mut violations,
    );
    let terms = raw_terms!(request, delete_link_definition_request).parse(call, &mut violations);
    let (lattice, id, terms) = finish(three(lattice, id, terms), violations)?;
    let allow_missing = request.allow_missing;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::DeleteLinkDefinition { id, allow_missing },
    })
}

impl Gateway {
    async fn get_link(
        &self,
        call: &Call,
        request: GetLinkDefinitionRequest,
    ) -> Result<GetLinkDefinitionResponse, Failure> {
        let mut violations = Violations::new();
        let id = convert::link_id(
            request.actor_id.as_deref(),
            request.contract_id.as_deref(),
            request.link_name.as_deref(),
            &mut violations,
        );
        let asked = GetQuery {
            lattice: request.lattice,
            key: id.map(EntryKey::LinkDefinition),
            consistency: request.consistency,
        };
        let (grant, key, standing) = self.get_entry(call, asked, violations).await?;
        Ok(GetLinkDefinitionResponse {
            link_definition: convert::standing_as(&key, &standing, convert::link_seen(grant.reads_values())),
        })
    }

    async fn list_links(
        &self,
        call: &Call,
        request: ListLinkDefinitionsRequest,
    ) -> Result<ListLinkDefinitionsResponse, Failure> {
        let parts = [&*request.actor_id, &request.contract_id, &request.link_name];
        let asked = PageQuery {
            filter: Filter::new(Kind::LinkDefinition, &parts),
            lattice: request.lattice,
            consistency: request.consistency,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (grant, page) = self.list_entries(call, asked).await?;
        let link = convert::link_seen(grant.reads_values());
        Ok(ListLinkDefinitionsResponse {
            link_definitions: page
                .entries
                .iter()
                .filter_map(|(key, standing)| convert::standing_as(key, standing, link))
                .collect(),
            next_page_token: page.next_page_token,
            revision: Some(convert::revision(page.revision)),
            values_omitted: !grant.reads_values(),
        })
    }
}
