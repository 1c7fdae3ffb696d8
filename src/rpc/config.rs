//! `ConfigService`.

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
        DeleteConfigRequest, DeleteConfigResponse, GetConfigRequest, GetConfigResponse, ListConfigsRequest,
        ListConfigsResponse, PutConfigRequest, PutConfigResponse, config_service_server::ConfigService,
    },
};

#[async_trait]
impl ConfigService for Gateway {
    async fn put_config(
        &self,
        request: Request<PutConfigRequest>,
    ) -> Result<Response<PutConfigResponse>, Status> {
        let call = Call::of(&request);
        let put = parse_put(&call, &request.into_inner());
        let Done {
            written,
            reads_values,
        } = self.changed(&call, put).await?;
        Ok(Response::new(PutConfigResponse {
            named_config: convert::written(&written, convert::config_seen(reads_values)),
            result: Some(convert::write_result(&written)),
        }))
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigResponse>, Status> {
        let call = Call::of(&request);
        self.get_config_of(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn list_configs(
        &self,
        request: Request<ListConfigsRequest>,
    ) -> Result<Response<ListConfigsResponse>, Status> {
        let call = Call::of(&request);
        self.list_configs_page(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn delete_config(
        &self,
        request: Request<DeleteConfigRequest>,
    ) -> Result<Response<DeleteConfigResponse>, Status> {
        let call = Call::of(&request);
        let delete = parse_delete(&call, request.into_inner());
        let done = self.changed(&call, delete).await?;
        Ok(Response::new(DeleteConfigResponse {
            result: Some(convert::write_result(&done.written)),
        }))
    }
}

/// Parses a put.
pub(super) fn parse_put(call: &Call, request: &PutConfigRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let config = convert::parse_named_config(request.named_config.as_ref(), &mut violations);
    let terms = raw_terms!(request, put_config_request).parse(call, &mut violations);
    let (lattice, (name, config), terms) = finish(three(lattice, config, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::PutConfig(name, config),
    })
}

/// Parses a delete.
#[expect(clippy::needless_pass_by_value, reason = "as of every other change")]
pub(super) fn parse_delete(call: &Call, request: DeleteConfigRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let name = convert::required("name", convert::not_empty(&request.name), &mut violations);
    let terms = raw_terms!(request, delete_config_request).parse(call, &mut violations);
    let (lattice, name, terms) = finish(three(lattice, name, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::DeleteConfig {
            name: name.into(),
            allow_missing: request.allow_missing,
            force: request.force,
        },
    })
}

impl Gateway {
    async fn get_config_of(
        &self,
        call: &Call,
        request: GetConfigRequest,
    ) -> Result<GetConfigResponse, Failure> {
        let mut violations = Violations::new();
        let name = convert::required("name", convert::not_empty(&request.name), &mut violations);
        let asked = GetQuery {
            lattice: request.lattice,
            key: name.map(|name| EntryKey::Config(name.into())),
            consistency: request.consistency,
        };
        let (grant, key, standing) = self.get_entry(call, asked, violations).await?;
        Ok(GetConfigResponse {
            named_config: convert::standing_as(&key, &standing, convert::config_seen(grant.reads_values())),
        })
    }

    async fn list_configs_page(
        &self,
        call: &Call,
        request: ListConfigsRequest,
    ) -> Result<ListConfigsResponse, Failure> {
        let asked = PageQuery {
            filter: Filter::new(Kind::Config, &[&request.name]),
            lattice: request.lattice,
            consistency: request.consistency,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (grant, page) = self.list_entries(call, asked).await?;
        let config = convert::config_seen(grant.reads_values());
        Ok(ListConfigsResponse {
            named_configs: page
                .entries
                .iter()
                .filter_map(|(key, standing)| convert::standing_as(key, standing, config))
                .collect(),
            next_page_token: page.next_page_token,
            revision: Some(convert::revision(page.revision)),
            values_omitted: !grant.reads_values(),
        })
    }
}
