//! `latticectl ref`: which image has which key.

use std::num::NonZeroU32;

use clap::Subcommand;
use lattice_gateway::proto::{
    GetOciReferenceRequest, ListOciReferencesRequest, ListOciReferencesResponse, OciReference,
    SetOciReferenceRequest,
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
};

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Sets the key of an image reference
    Set(Set),

    /// Shows the key of an image reference
    Get {
        /// The reference, exactly as it was set
        url: String,

        #[command(flatten)]
        read: ReadOptions,
    },

    /// Lists all references
    List {
        #[command(flatten)]
        read: ReadOptions,

        #[command(flatten)]
        list: ListOptions,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// The image reference, such as registry.example/echo:0.3.4
    url: String,

    /// The public key of the image's actor (M…) or provider (V…)
    key: String,

    #[command(flatten)]
    pub(crate) write: WriteOptions,
}

pub(crate) async fn run(context: &Context<'_>, command: &ReferenceCommand) -> Result<String, CommandError> {
    match command {
        ReferenceCommand::Set(arguments) => set(context, arguments).await,
        ReferenceCommand::Get { url, read } => get(context, url, read).await,
        ReferenceCommand::List { read, list } => self::list(context, read, list).await,
    }
}

async fn set(context: &Context<'_>, arguments: &Set) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = SetOciReferenceRequest {
        lattice: context.lattice.to_owned(),
        oci_reference: Some(OciReference {
            oci_url: arguments.url.clone(),
            public_key: arguments.key.clone(),
            ..OciReference::default()
        }),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        ..SetOciReferenceRequest::default()
    };
    let client = context.gateway.references();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = SetOciReferenceRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().set_oci_reference(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let what = format!("ref {} -> {}", arguments.url, arguments.key);
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

async fn get(context: &Context<'_>, url: &str, read: &ReadOptions) -> Result<String, CommandError> {
    let request = GetOciReferenceRequest {
        lattice: context.lattice.to_owned(),
        oci_url: Some(url.to_owned()),
        consistency: read.consistency(),
    };
    let client = context.gateway.references();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().get_oci_reference(request).await
    };
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.oci_reference.as_ref().map(fields).unwrap_or_default()
    })
}

async fn list(context: &Context<'_>, read: &ReadOptions, list: &ListOptions) -> Result<String, CommandError> {
    let request = ListOciReferencesRequest {
        lattice: context.lattice.to_owned(),
        consistency: read.consistency(),
        ..ListOciReferencesRequest::default()
    };
    let response = all(context, list.limit, request).await?;
    render(context.format, &response, |response| {
        columns(&response.oci_references)
    })
}

/// Everything that a request is about, its pages put together.
pub(crate) async fn all(
    context: &Context<'_>,
    limit: Option<NonZeroU32>,
    request: ListOciReferencesRequest,
) -> Result<ListOciReferencesResponse, CallError> {
    let client = context.gateway.references();
    let listed = page::all(limit, async |page| {
        let request = ListOciReferencesRequest {
            page_size: page.size,
            page_token: page.token.clone(),
            ..request.clone()
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_oci_references(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        Ok(Page {
            items: response.oci_references,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    Ok(ListOciReferencesResponse {
        oci_references: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
    })
}

fn fields(reference: &OciReference) -> String {
    table::fields(&[
        ("url", reference.oci_url.clone()),
        ("key", reference.public_key.clone()),
        ("etag", reference.etag.clone()),
        ("revision", revision(reference.revision)),
        ("updated", timestamp(reference.update_time.as_ref())),
    ])
}

fn columns(references: &[OciReference]) -> String {
    let row = |reference: &OciReference| [reference.oci_url.clone(), reference.public_key.clone()];
    table::columns(["URL", "KEY"], references.iter().map(row))
}

#[cfg(test)]
mod tests;
