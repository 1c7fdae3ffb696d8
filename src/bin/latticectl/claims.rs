//! `latticectl claims`: who an actor or provider is.

use std::num::NonZeroU32;

use clap::Subcommand;
use lattice_gateway::proto::{
    Claims, DeleteClaimsRequest, GetClaimsRequest, ListClaimsRequest, ListClaimsResponse, PutClaimsRequest,
    put_claims_request::Source,
};

use crate::{
    Context,
    args::{ListOptions, ReadOptions, WriteOptions},
    failure::{CallError, CommandError},
    gateway::Effect,
    output::{render, revision, timestamp, written},
    page::{self, Page},
    retry::Attempt,
    table,
    token::TokenSource,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClaimsCommand {
    /// Puts the claims of an actor or provider, from the token that its author signed
    Put(Put),

    /// Shows the claims of a key
    Get {
        /// The public key of the actor (M…) or provider (V…)
        key: String,

        #[command(flatten)]
        read: ReadOptions,
    },

    /// Lists all claims
    List {
        #[command(flatten)]
        read: ReadOptions,

        #[command(flatten)]
        list: ListOptions,
    },

    /// Deletes the claims of a key, where the lattice's hosts have a form for it (since wasmCloud 0.60)
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The public key of the actor (M…) or provider (V…)
    key: String,

    /// Accept that there are no such claims
    #[arg(long)]
    allow_missing: bool,

    #[command(flatten)]
    write: WriteOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    #[command(flatten)]
    token: TokenSource,

    #[command(flatten)]
    write: WriteOptions,
}

pub(crate) async fn run(context: &Context<'_>, command: &ClaimsCommand) -> Result<String, CommandError> {
    match command {
        ClaimsCommand::Put(arguments) => put(context, arguments).await,
        ClaimsCommand::Get { key, read } => get(context, key, read).await,
        ClaimsCommand::List { read, list } => self::list(context, read, list).await,
        ClaimsCommand::Delete(arguments) => delete(context, arguments).await,
    }
}

async fn put(context: &Context<'_>, arguments: &Put) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = PutClaimsRequest {
        lattice: context.lattice.to_owned(),
        source: Some(Source::Jwt(arguments.token.token()?)),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        ..PutClaimsRequest::default()
    };
    let client = context.gateway.claims();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = PutClaimsRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().put_claims(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &subject(response.claims.as_ref()))
    })
}

async fn delete(context: &Context<'_>, arguments: &Delete) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = DeleteClaimsRequest {
        lattice: context.lattice.to_owned(),
        public_key: arguments.key.clone(),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        allow_missing: arguments.allow_missing,
        ..DeleteClaimsRequest::default()
    };
    let client = context.gateway.claims();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = DeleteClaimsRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().delete_claims(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let what = format!("delete of claims {}", arguments.key);
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

/// Names the claims in the line that tells of a write. They are unset when something deleted them since.
fn subject(claims: Option<&Claims>) -> String {
    claims.map_or_else(
        || "claims".to_owned(),
        |claims| format!("claims {} {}", claims.public_key, claims.name),
    )
}

async fn get(context: &Context<'_>, key: &str, read: &ReadOptions) -> Result<String, CommandError> {
    let request = GetClaimsRequest {
        lattice: context.lattice.to_owned(),
        public_key: key.to_owned(),
        consistency: read.consistency(),
    };
    let client = context.gateway.claims();
    let send = async |attempt: Attempt| client.clone().get_claims(attempt.request(request.clone())).await;
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.claims.as_ref().map(fields).unwrap_or_default()
    })
}

async fn list(context: &Context<'_>, read: &ReadOptions, list: &ListOptions) -> Result<String, CommandError> {
    let request = ListClaimsRequest {
        lattice: context.lattice.to_owned(),
        consistency: read.consistency(),
        ..ListClaimsRequest::default()
    };
    let response = all(context, list.limit, request).await?;
    render(context.format, &response, |response| columns(&response.claims))
}

/// Everything that a request is about, its pages put together.
pub(crate) async fn all(
    context: &Context<'_>,
    limit: Option<NonZeroU32>,
    request: ListClaimsRequest,
) -> Result<ListClaimsResponse, CallError> {
    let client = context.gateway.claims();
    let listed = page::all(limit, async |page| {
        let request = ListClaimsRequest {
            page_size: page.size,
            page_token: page.token.clone(),
            ..request.clone()
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_claims(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        Ok(Page {
            items: response.claims,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    Ok(ListClaimsResponse {
        claims: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
    })
}

fn fields(claims: &Claims) -> String {
    table::fields(&[
        ("key", claims.public_key.clone()),
        ("issuer", claims.issuer.clone()),
        ("name", claims.name.clone()),
        ("call alias", claims.call_alias.clone()),
        ("capabilities", claims.capabilities.join(",")),
        ("tags", claims.tags.join(",")),
        ("claims revision", claims.claims_revision.clone()),
        ("version", claims.version.clone()),
        ("contract", claims.contract_id.clone()),
        ("config schema", claims.config_schema.clone()),
        ("etag", claims.etag.clone()),
        ("revision", revision(claims.revision)),
        ("updated", timestamp(claims.update_time.as_ref())),
    ])
}

fn columns(claims: &[Claims]) -> String {
    let row = |claims: &Claims| {
        [
            claims.public_key.clone(),
            claims.name.clone(),
            claims.call_alias.clone(),
            claims.version.clone(),
            claims.capabilities.join(","),
        ]
    };
    let header = ["KEY", "NAME", "ALIAS", "VERSION", "CAPABILITIES"];
    table::columns(header, claims.iter().map(row))
}
