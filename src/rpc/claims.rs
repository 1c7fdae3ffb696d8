//! `ClaimsService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Call, Gateway, GetQuery, PageQuery,
    change::{Asked, Change},
    convert::{self, finish, raw_terms, three},
    status::Failure,
};
use crate::{
    control::{ControlError, page::Filter},
    domain::{
        EntryKey, Invalid, Kind, Violations,
        claims_token::{self, TOKEN_BYTES_MAX},
    },
    proto::{
        DeleteClaimsRequest, DeleteClaimsResponse, GetClaimsRequest, GetClaimsResponse, ListClaimsRequest,
        ListClaimsResponse, PutClaimsRequest, PutClaimsResponse, claims_service_server::ClaimsService,
        put_claims_request::Source,
    },
};

#[async_trait]
impl ClaimsService for Gateway {
    async fn put_claims(
        &self,
        request: Request<PutClaimsRequest>,
    ) -> Result<Response<PutClaimsResponse>, Status> {
        let call = Call::of(&request);
        let put = parse_put(&call, request.into_inner());
        let written = self.changed(&call, put).await?.written;
        Ok(Response::new(PutClaimsResponse {
            claims: convert::written(&written, convert::claims),
            result: Some(convert::write_result(&written)),
        }))
    }

    async fn get_claims(
        &self,
        request: Request<GetClaimsRequest>,
    ) -> Result<Response<GetClaimsResponse>, Status> {
        let call = Call::of(&request);
        self.get_claims_of(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn list_claims(
        &self,
        request: Request<ListClaimsRequest>,
    ) -> Result<Response<ListClaimsResponse>, Status> {
        let call = Call::of(&request);
        self.list_claims_page(&call, request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn delete_claims(
        &self,
        request: Request<DeleteClaimsRequest>,
    ) -> Result<Response<DeleteClaimsResponse>, Status> {
        let call = Call::of(&request);
        let delete = parse_delete(&call, &request.into_inner());
        let done = self.changed(&call, delete).await?;
        Ok(Response::new(DeleteClaimsResponse {
            result: Some(convert::write_result(&done.written)),
        }))
    }
}

/// Parses a put, and verifies its token.
pub(super) fn parse_put(call: &Call, mut request: PutClaimsRequest) -> Result<Change, Failure> {
    let source = request.source.take();
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let asked = match source {
        None => violations.check("source", Err(Invalid::Rule("is required: give jwt or claims"))),
        Some(Source::Claims(claims)) => convert::parse_claims(&claims, &mut violations)
            .map(|(key, claims)| Ok(Asked::PutUnsignedClaims(key, Box::new(claims)))),
        Some(Source::Jwt(text)) if text.len() > TOKEN_BYTES_MAX => {
            let invalid = Invalid::TooLong {
                limit: "claims_token_bytes_max",
                max: TOKEN_BYTES_MAX,
                actual: text.len(),
            };
            violations.check("jwt", Err(invalid))
        }
        Some(Source::Jwt(text)) => Some(
            claims_token::verify(&text)
                .map(|token| Asked::PutSignedClaims(Box::new(token), text))
                .map_err(ControlError::ClaimsInvalid),
        ),
    };
    let terms = raw_terms!(request, put_claims_request).parse(call, &mut violations);
    let (lattice, asked, terms) = finish(three(lattice, asked, terms), violations)?;
    // A token's own refusal comes after those of the fields, which name theirs.
    let asked = asked?;
    Ok(Change {
        lattice,
        terms,
        asked,
    })
}

/// Parses a delete.
pub(super) fn parse_delete(call: &Call, request: &DeleteClaimsRequest) -> Result<Change, Failure> {
    let mut violations = Violations::new();
    let lattice = convert::lattice(&request.lattice, &mut violations);
    let key = convert::required(
        "public_key",
        convert::not_empty(&request.public_key),
        &mut violations,
    );
    let terms = raw_terms!(request, delete_claims_request).parse(call, &mut violations);
    let (lattice, key, terms) = finish(three(lattice, key, terms), violations)?;
    Ok(Change {
        lattice,
        terms,
        asked: Asked::DeleteClaims {
            key: key.into(),
            allow_missing: request.allow_missing,
        },
    })
}

impl Gateway {
    async fn get_claims_of(
        &self,
        call: &Call,
        request: GetClaimsRequest,
    ) -> Result<GetClaimsResponse, Failure> {
        let mut violations = Violations::new();
        let key = convert::required(
            "public_key",
            convert::not_empty(&request.public_key),
            &mut violations,
        );
        let asked = GetQuery {
            lattice: request.lattice,
            key: key.map(|key| EntryKey::Claims(key.into())),
            consistency: request.consistency,
        };
        let (_grant, key, standing) = self.get_entry(call, asked, violations).await?;
        Ok(GetClaimsResponse {
            claims: convert::standing_as(&key, &standing, convert::claims),
        })
    }

    async fn list_claims_page(
        &self,
        call: &Call,
        request: ListClaimsRequest,
    ) -> Result<ListClaimsResponse, Failure> {
        let asked = PageQuery {
            filter: Filter::new(Kind::Claims, &[&request.public_key]),
            lattice: request.lattice,
            consistency: request.consistency,
            page_size: request.page_size,
            page_token: request.page_token,
        };
        let (_grant, page) = self.list_entries(call, asked).await?;
        Ok(ListClaimsResponse {
            claims: page
                .entries
                .iter()
                .filter_map(|(key, standing)| convert::standing_as(key, standing, convert::claims))
                .collect(),
            next_page_token: page.next_page_token,
            revision: Some(convert::revision(page.revision)),
        })
    }
}
