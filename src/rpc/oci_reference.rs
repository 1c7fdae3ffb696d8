//! `OciReferenceService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Call, Gateway, GetQuery, PageQuery,
    change::{Asked, Change},
    convert::{self, finish, raw_terms, three},
    status::Failure,
};
use crate::{
    control::page::Filter,
    domain::{EntryKey, Kind, Violations},
    proto::{
        DeleteOciReferenceRequest, DeleteOciReferenceResponse, GetOciReferenceRequest,
        GetOciReferenceResponse, ListOciReferencesRequest, ListOciReferencesResponse, SetOciReferenceRequest,
        SetOciReferenceResponse, oci_reference_service_server::OciReferenceService,
    },
};

#[async_trait]
impl OciReferenceService for Gateway {
    async fn set_oci_reference(
        &self,
        request: Request<SetOciReferenceRequest>,
    ) -> Result<Response<SetOciReferenceResponse>, Status> {
        let call = Call::of(&request);
        let set = parse_set(&call, &request.into_inner());
        let written = self.changed(&call, set).await?.written;
        Ok(Response::new(SetOciReferenceResponse {
            oci_reference: convert::written(&written, convert::oci_reference),
            result: Some(convert::write_result(&written)),
        }))
    }

    async fn get_oci_reference(
        &self,
        request: Request<GetOciReferenceRequest>,
    ) -> Result<Response<GetOciReferenceResponse>, Status> {
        let call = Call::of(&request);
        self.get_reference(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn list_oci_references(
        &self,
        request: Request<ListOciReferencesRequest>,
    ) -> Result<Response<ListOciReferencesResponse>, Status> {
        let call = Call::of(&request);
        self.list_references(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn delete_oci_reference(
        &self,
        request: Request<DeleteOciReferenceRequest>,
    ) -> Result<Response<DeleteOciReferenceResponse>, Status> {
        let call = Call::of(&request);
        let delete = parse_delete(&call, &request.into_inner());
        let done = self.changed(&call, delete).await?;
        Ok(Response::new(DeleteOciReferenceResponse {
            result: Some(convert::write_result(&done.written)),
        }))
    }
}

/// Parses what is to be set.
pub(super) fn parse_set(call: &Call, request: &SetOciReferenceRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let reference = convert::parse_oci_reference(request.oci_reference.as_ref(), &mut violations);
    let terms = raw_terms!(request, set_oci_reference_request).parse(call, &mut violations);
    let (lattice, (url, reference), terms) = finish(three(lattice, reference, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::SetOciReference(url, reference),
    })
}

/// Parses a delete.
pub(super) fn parse_delete(call: &Call, request: &DeleteOciReferenceRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let url = convert::required("oci_url", request.oci_url.as_deref(), &mut violations);
    let terms = raw_terms!(request, delete_oci_reference_request).parse(call, &mut violations);
    let (lattice, url, terms) = finish(three(lattice, url, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::DeleteOciReference(url.into()),
    })
}

impl Gateway {
    async fn get_reference(
        &self,
        call: &Call,
        request: GetOciReferenceRequest,
    ) -> Result<GetOciReferenceResponse, Failure> {
        let mut violations = Violations::new();
        let url = convert::required("oci_url", request.oci_url.as_deref(), &mut violations);
        let asked = GetQuery {
            lattice: request.lattice,
            key: url.map(|url| EntryKey::OciReference(url.into())),
            consistency: request.consistency,
        };
        let (_grant, key, standing) = self.get_entry(call, asked, violations).await?;
        Ok(GetOciReferenceResponse {
            oci_reference: convert::standing_as(&key, &standing, convert::oci_reference),
        })
    }

    async fn list_references(
        &self,
        call: &Call,
        request: ListOciReferencesRequest,
    ) -> Result<ListOciReferencesResponse, Failure> {
        let asked = PageQuery {
            filter: Filter::new(Kind::OciReference, &[&request.oci_url]),
            lattice: request.lattice,
            consistency: request.consistency,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (_grant, page) = self.list_entries(call, asked).await?;
        Ok(ListOciReferencesResponse {
            oci_references: page
                .entries
                .iter()
                .filter_map(|(key, standing)| convert::standing_as(key, standing, convert::oci_reference))
                .collect(),
            next_page_token: page.next_page_token,
            revision: Some(convert::revision(page.revision)),
        })
    }
}
