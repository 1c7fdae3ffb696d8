//! `latticectl link`: which actor may call which provider, and with which values.

use std::{cell::Cell, num::NonZeroU32};

use clap::Subcommand;
use lattice_gateway::proto::{
    DeleteLinkDefinitionRequest, GetLinkDefinitionRequest, LinkDefinition, ListLinkDefinitionsRequest,
    ListLinkDefinitionsResponse, PutLinkDefinitionRequest,
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
pub(crate) enum LinkCommand {
    /// Puts a link definition, replacing the one of the same actor, contract and name
    Put(Put),

    /// Shows a link definition
    Get {
        #[command(flatten)]
        id: LinkId,

        #[command(flatten)]
        read: ReadOptions,
    },

    /// Lists link definitions
    List {
        #[command(flatten)]
        filter: Filter,

        #[command(flatten)]
        read: ReadOptions,

        #[command(flatten)]
        list: ListOptions,
    },

    /// Deletes a link definition
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// The public key of the actor (M…)
    actor: String,

    /// The public key of the provider (V…)
    provider: String,

    /// The contract, such as wasmcloud:httpserver
    contract: String,

    /// The link's name
    #[arg(long, default_value = "default")]
    name: String,

    #[command(flatten)]
    values: ValueOptions,

    #[command(flatten)]
    write: WriteOptions,
}

/// What identifies a link.
#[derive(Debug, clap::Args)]
pub(crate) struct LinkId {
    /// The public key of the actor (M…)
    actor: String,

    /// The contract, such as wasmcloud:httpserver
    contract: String,

    /// The link's name
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only links of this actor
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    actor: String,

    /// Only links of this contract
    #[arg(long, default_value = "", hide_default_value = true)]
    contract: String,

    /// Only links of this name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    id: LinkId,

    /// Accept that there is no such link
    #[arg(long)]
    allow_missing: bool,

    #[command(flatten)]
    write: WriteOptions,
}

pub(crate) async fn run(context: &Context<'_>, command: &LinkCommand) -> Result<String, CommandError> {
    match command {
        LinkCommand::Put(arguments) => put(context, arguments).await,
        LinkCommand::Get { id, read } => get(context, id, read).await,
        LinkCommand::List { filter, read, list } => self::list(context, filter, (read, list)).await,
        LinkCommand::Delete(arguments) => delete(context, arguments).await,
    }
}

async fn put(context: &Context<'_>, arguments: &Put) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = PutLinkDefinitionRequest {
        lattice: context.lattice.to_owned(),
        link_definition: Some(arguments.link_definition()?),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        ..PutLinkDefinitionRequest::default()
    };
    let client = context.gateway.links();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = PutLinkDefinitionRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().put_link_definition(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let Put {
        actor,
        provider,
        contract,
        name,
        ..
    } = arguments;
    let what = format!("link {actor} -> {provider} {contract} {name}");
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

async fn get(context: &Context<'_>, id: &LinkId, read: &ReadOptions) -> Result<String, CommandError> {
    let request = GetLinkDefinitionRequest {
        lattice: context.lattice.to_owned(),
        actor_id: Some(id.actor.clone()),
        contract_id: Some(id.contract.clone()),
        link_name: Some(id.name.clone()),
        consistency: read.consistency(),
    };
    let client = context.gateway.links();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().get_link_definition(request).await
    };
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.link_definition.as_ref().map(fields).unwrap_or_default()
    })
}

async fn list(
    context: &Context<'_>,
    filter: &Filter,
    (read, list): (&ReadOptions, &ListOptions),
) -> Result<String, CommandError> {
    let request = ListLinkDefinitionsRequest {
        lattice: context.lattice.to_owned(),
        actor_id: filter.actor.clone(),
        contract_id: filter.contract.clone(),
        link_name: filter.name.clone(),
        consistency: read.consistency(),
        ..ListLinkDefinitionsRequest::default()
    };
    let response = all(context, list.limit, request).await?;
    render(context.format, &response, |response| {
        columns(&response.link_definitions)
    })
}

/// Everything that a request is about, its pages put together.
pub(crate) async fn all(
    context: &Context<'_>,
    limit: Option<NonZeroU32>,
    request: ListLinkDefinitionsRequest,
) -> Result<ListLinkDefinitionsResponse, CallError> {
    let client = context.gateway.links();
    let values_omitted = Cell::new(false);
    let listed = page::all(limit, async |page| {
        let request = ListLinkDefinitionsRequest {
            page_size: page.size,
            page_token: page.token.clone(),
            ..request.clone()
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_link_definitions(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        values_omitted.set(response.values_omitted);
        Ok(Page {
            items: response.link_definitions,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    Ok(ListLinkDefinitionsResponse {
        link_definitions: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
        values_omitted: values_omitted.get(),
    })
}

async fn delete(context: &Context<'_>, arguments: &Delete) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let LinkId {
        actor,
        contract,
        name,
    } = &arguments.id;
    let request = DeleteLinkDefinitionRequest {
        lattice: context.lattice.to_owned(),
        actor_id: Some(actor.clone()),
        contract_id: Some(contract.clone()),
        link_name: Some(name.clone()),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        allow_missing: arguments.allow_missing,
        ..DeleteLinkDefinitionRequest::default()
    };
    let client = context.gateway.links();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = DeleteLinkDefinitionRequest {
            retry_age,
            ..request.clone()
        };
        client
            .clone()
            .delete_link_definition(attempt.request(request))
            .await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let what = format!("delete of link {actor} {contract} {name}");
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

impl Put {
    fn link_definition(&self) -> Result<LinkDefinition, CommandError> {
        Ok(LinkDefinition {
            actor_id: self.actor.clone(),
            provider_id: self.provider.clone(),
            contract_id: self.contract.clone(),
            link_name: self.name.clone(),
            values: self.values.read()?,
            ..LinkDefinition::default()
        })
    }
}

fn fields(link: &LinkDefinition) -> String {
    table::fields(&[
        ("actor", link.actor_id.clone()),
        ("provider", link.provider_id.clone()),
        ("contract", link.contract_id.clone()),
        ("name", link.link_name.clone()),
        ("values", output::values(&link.values)),
        ("etag", link.etag.clone()),
        ("revision", revision(link.revision)),
        ("updated", timestamp(link.update_time.as_ref())),
    ])
}

fn columns(links: &[LinkDefinition]) -> String {
    let row = |link: &LinkDefinition| {
        [
            link.actor_id.clone(),
            link.provider_id.clone(),
            link.contract_id.clone(),
            link.link_name.clone(),
            output::values(&link.values),
        ]
    };
    let header = ["ACTOR", "PROVIDER", "CONTRACT", "NAME", "VALUES"];
    table::columns(header, links.iter().map(row))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_link_is_put_as_it_is_given_under_the_name_default_where_none_is() {
        let line = "latticectl link put MACTOR VPROVIDER wasmcloud:httpserver --value a=b";
        let Command::Link(LinkCommand::Put(put)) = Cli::parse_from(line.split(' ')).command else {
            panic!("{line}");
        };
        let expected = LinkDefinition {
            actor_id: "MACTOR".to_owned(),
            provider_id: "VPROVIDER".to_owned(),
            contract_id: "wasmcloud:httpserver".to_owned(),
            link_name: "default".to_owned(),
            values: [("a".to_owned(), "b".to_owned())].into(),
            ..LinkDefinition::default()
        };
        assert_eq!(put.link_definition().unwrap(), expected);
    }
}
