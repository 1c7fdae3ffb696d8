//! `latticectl config`: the named configs that interface links configure their two ends with.

use std::{cell::Cell, num::NonZeroU32};

use clap::Subcommand;
use lattice_gateway::proto::{
    DeleteConfigRequest, GetConfigRequest, ListConfigsRequest, ListConfigsResponse, NamedConfig,
    PutConfigRequest,
};

use crate::{
    Context,
    args::{ListOptions, ReadOptions, WriteOptions},
    failure::{CallError, CommandError},
    gateway::Effect,
    output::{self, render, revision, timestamp, written},
    page::{self, Page},
    retry::Attempt,
    table,
    values::ValueOptions,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Puts a config, replacing all values of the one of the same name
    Put(Put),

    /// Shows a config
    Get {
        /// The config's name
        name: String,

        #[command(flatten)]
        read: ReadOptions,
    },

    /// Lists all configs
    List {
        #[command(flatten)]
        read: ReadOptions,

        #[command(flatten)]
        list: ListOptions,
    },

    /// Deletes a config
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// The config's name
    name: String,

    #[command(flatten)]
    values: ValueOptions,

    #[command(flatten)]
    write: WriteOptions,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The config's name
    name: String,

    /// Accept that there is no such config
    #[arg(long)]
    allow_missing: bool,

    /// Delete it though interface links name it; they then get no values
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    write: WriteOptions,
}

pub(crate) async fn run(context: &Context<'_>, command: &ConfigCommand) -> Result<String, CommandError> {
    match command {
        ConfigCommand::Put(arguments) => put(context, arguments).await,
        ConfigCommand::Get { name, read } => get(context, name, read).await,
        ConfigCommand::List { read, list } => self::list(context, read, list).await,
        ConfigCommand::Delete(arguments) => delete(context, arguments).await,
    }
}

async fn put(context: &Context<'_>, arguments: &Put) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = PutConfigRequest {
        lattice: context.lattice.to_owned(),
        named_config: Some(NamedConfig {
            name: arguments.name.clone(),
            values: arguments.values.read()?,
            ..NamedConfig::default()
        }),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        ..PutConfigRequest::default()
    };
    let client = context.gateway.configs();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = PutConfigRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().put_config(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let what = format!("config {}", arguments.name);
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

async fn get(context: &Context<'_>, name: &str, read: &ReadOptions) -> Result<String, CommandError> {
    let request = GetConfigRequest {
        lattice: context.lattice.to_owned(),
        name: name.to_owned(),
        consistency: read.consistency(),
    };
    let client = context.gateway.configs();
    let send = async |attempt: Attempt| client.clone().get_config(attempt.request(request.clone())).await;
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.named_config.as_ref().map(fields).unwrap_or_default()
    })
}

async fn list(context: &Context<'_>, read: &ReadOptions, list: &ListOptions) -> Result<String, CommandError> {
    let request = ListConfigsRequest {
        lattice: context.lattice.to_owned(),
        consistency: read.consistency(),
        ..ListConfigsRequest::default()
    };
    let response = all(context, list.limit, request).await?;
    render(context.format, &response, |response| {
        columns(&response.named_configs)
    })
}

/// Everything that a request is about, its pages put together.
pub(crate) async fn all(
    context: &Context<'_>,
    limit: Option<NonZeroU32>,
    request: ListConfigsRequest,
) -> Result<ListConfigsResponse, CallError> {
    let client = context.gateway.configs();
    let values_omitted = Cell::new(false);
    let listed = page::all(limit, async |page| {
        let request = ListConfigsRequest {
            page_size: page.size,
            page_token: page.token.clone(),
            ..request.clone()
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_configs(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        values_omitted.set(response.values_omitted);
        Ok(Page {
            items: response.named_configs,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    Ok(ListConfigsResponse {
        named_configs: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
        values_omitted: values_omitted.get(),
    })
}

async fn delete(context: &Context<'_>, arguments: &Delete) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = DeleteConfigRequest {
        lattice: context.lattice.to_owned(),
        name: arguments.name.clone(),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        allow_missing: arguments.allow_missing,
        force: arguments.force,
        ..DeleteConfigRequest::default()
    };
    let client = context.gateway.configs();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = DeleteConfigRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().delete_config(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let what = format!("delete of config {}", arguments.name);
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

fn fields(config: &NamedConfig) -> String {
    table::fields(&[
        ("name", config.name.clone()),
        ("values", output::values(&config.values)),
        ("etag", config.etag.clone()),
        ("revision", revision(config.revision)),
        ("updated", timestamp(config.update_time.as_ref())),
    ])
}

fn columns(configs: &[NamedConfig]) -> String {
    let row = |config: &NamedConfig| [config.name.clone(), output::values(&config.values)];
    table::columns(["NAME", "VALUES"], configs.iter().map(row))
}

#[cfg(test)]
mod tests;
