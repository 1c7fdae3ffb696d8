//! `latticectl link`: which actor may call which provider, and with which values.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Subcommand;
use lattice_gateway::proto::{
    DeleteLinkDefinitionRequest, GetLinkDefinitionRequest, LinkDefinition, ListLinkDefinitionsRequest,
    ListLinkDefinitionsResponse, PutLinkDefinitionRequest, delete_link_definition_request,
    put_link_definition_request,
};

use crate::{
    Context,
    args::{ListOptions, Precondition, ReadOptions, WriteOptions},
    failure::CommandError,
    gateway::Effect,
    input,
    output::{self, render, revision, timestamp, written},
    page::{self, Page},
    retry::Attempt,
    table,
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

    /// A value for the provider; may be given often, and wins over one of --values-file
    #[arg(long = "value", value_name = "KEY=VALUE", value_parser = key_value)]
    values: Vec<(String, String)>,

    /// A file with a JSON object of values, all text, or `-` for standard input; keeps secrets out of sight
    #[arg(long, value_name = "FILE.json")]
    values_file: Option<PathBuf>,

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
    let client = context.gateway.links();
    let listed = page::all(list.limit, async |page| {
        let request = ListLinkDefinitionsRequest {
            lattice: context.lattice.to_owned(),
            actor_id: filter.actor.clone(),
            contract_id: filter.contract.clone(),
            link_name: filter.name.clone(),
            consistency: read.consistency(),
            page_size: page.size,
            page_token: page.token.clone(),
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_link_definitions(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        Ok(Page {
            items: response.link_definitions,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    let response = ListLinkDefinitionsResponse {
        link_definitions: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
    };
    render(context.format, &response, |response| {
        columns(&response.link_definitions)
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
            values: self.values()?,
            ..LinkDefinition::default()
        })
    }

    fn values(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let mut given = BTreeMap::new();
        for (key, value) in &self.values {
            if given.insert(key.clone(), value.clone()).is_some() {
                return Err(CommandError::Input(format!("--value {key}=… is given twice")));
            }
        }
        let mut values = self.values_of_file()?;
        values.extend(given);
        Ok(values)
    }

    fn values_of_file(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let Some(path) = &self.values_file else {
            return Ok(BTreeMap::new());
        };
        serde_json::from_slice(&input::bytes(path)?).map_err(|error| {
            let name = input::name(path);
            CommandError::Input(format!("{name} is not a JSON object of texts: {error}"))
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE".to_owned()),
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

impl From<Precondition> for put_link_definition_request::Precondition {
    fn from(precondition: Precondition) -> Self {
        match precondition {
            Precondition::Etag(etag) => Self::Etag(etag),
            Precondition::MustExist => Self::MustExist(true),
            Precondition::MustNotExist => Self::MustNotExist(true),
        }
    }
}

impl From<Precondition> for delete_link_definition_request::Precondition {
    fn from(precondition: Precondition) -> Self {
        match precondition {
            Precondition::Etag(etag) => Self::Etag(etag),
            Precondition::MustExist => Self::MustExist(true),
            Precondition::MustNotExist => Self::MustNotExist(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn put(arguments: &[&str]) -> Result<Put, clap::Error> {
        let line = [
            "latticectl",
            "link",
            "put",
            "MACTOR",
            "VPROVIDER",
            "wasmcloud:httpserver",
        ];
        let cli = Cli::try_parse_from(line.iter().chain(arguments))?;
        let Command::Link(LinkCommand::Put(put)) = cli.command else {
            panic!("{arguments:?}");
        };
        Ok(put)
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_or_be_empty_and_a_key_may_not() {
        let put = put(&["--value", "a=b=c", "--value", "d="]).unwrap();
        let link = put.link_definition().unwrap();
        assert_eq!(link.link_name, "default");
        assert_eq!(output::values(&link.values), "a=b=c,d=");
    }

    #[test]
    fn values_without_a_key_or_given_twice_are_refused() {
        assert!(put(&["--value", "=b"]).is_err());
        assert!(put(&["--value", "b"]).is_err());
        assert!(
            put(&["--value", "a=1", "--value", "a=2"])
                .unwrap()
                .values()
                .is_err()
        );
    }

    #[test]
    fn values_on_the_command_line_win_over_those_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.json");
        let arguments = ["--values-file", path.to_str().unwrap(), "--value", "a=3"];
        let put = put(&arguments).unwrap();
        fs::write(&path, r#"{"a": "1", "b": "2"}"#).unwrap();
        assert_eq!(output::values(&put.values().unwrap()), "a=3,b=2");
        for refused in ["[]", r#"{"a": 1}"#, "", "{"] {
            fs::write(&path, refused).unwrap();
            assert!(put.values().is_err(), "{refused}");
        }
    }
}
