//! `latticectl iface`: which component may call which, over which interfaces.

use std::num::NonZeroU32;

use clap::Subcommand;
use lattice_gateway::proto::{
    DeleteInterfaceLinkRequest, GetInterfaceLinkRequest, InterfaceLink, ListInterfaceLinksRequest,
    ListInterfaceLinksResponse, PutInterfaceLinkRequest,
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
pub(crate) enum InterfaceLinkCommand {
    /// Puts an interface link, replacing the one of the same source, target, namespace, package and name
    Put(Put),

    /// Shows an interface link
    Get {
        #[command(flatten)]
        id: InterfaceLinkId,

        #[command(flatten)]
        read: ReadOptions,
    },

    /// Lists interface links
    List {
        #[command(flatten)]
        filter: Filter,

        #[command(flatten)]
        read: ReadOptions,

        #[command(flatten)]
        list: ListOptions,
    },

    /// Deletes an interface link
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// The component or provider that calls
    source: String,

    /// The component or provider that is called
    target: String,

    /// The WIT namespace, such as wasi
    namespace: String,

    /// The WIT package, such as http
    package: String,

    /// The link's name
    #[arg(long, default_value = "default")]
    name: String,

    /// An interface of the package, such as incoming-handler; may be given often
    #[arg(long = "interface", value_name = "INTERFACE", required = true)]
    interfaces: Vec<String>,

    /// A named config for the source; may be given often, and later ones win
    #[arg(long = "source-config", value_name = "CONFIG")]
    source_configs: Vec<String>,

    /// A named config for the target; may be given often, and later ones win
    #[arg(long = "target-config", value_name = "CONFIG")]
    target_configs: Vec<String>,

    #[command(flatten)]
    write: WriteOptions,
}

/// What identifies an interface link, or does so where only one has the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct InterfaceLinkId {
    /// The component or provider that calls
    source: String,

    /// The WIT namespace, such as wasi
    namespace: String,

    /// The WIT package, such as http
    package: String,

    /// The link's name
    #[arg(long, default_value = "default")]
    name: String,

    /// The component or provider that is called; needed only where several links have the rest
    #[arg(long)]
    target: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only links of this source
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,

    /// Only links to this target
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,

    /// Only links of this WIT namespace
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,

    /// Only links of this WIT package
    #[arg(long, default_value = "", hide_default_value = true)]
    package: String,

    /// Only links of this name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    id: InterfaceLinkId,

    /// Accept that there is no such link
    #[arg(long)]
    allow_missing: bool,

    #[command(flatten)]
    write: WriteOptions,
}

pub(crate) async fn run(
    context: &Context<'_>,
    command: &InterfaceLinkCommand,
) -> Result<String, CommandError> {
    match command {
        InterfaceLinkCommand::Put(arguments) => put(context, arguments).await,
        InterfaceLinkCommand::Get { id, read } => get(context, id, read).await,
        InterfaceLinkCommand::List { filter, read, list } => self::list(context, filter, (read, list)).await,
        InterfaceLinkCommand::Delete(arguments) => delete(context, arguments).await,
    }
}

async fn put(context: &Context<'_>, arguments: &Put) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let request = PutInterfaceLinkRequest {
        lattice: context.lattice.to_owned(),
        interface_link: Some(arguments.interface_link()),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        ..PutInterfaceLinkRequest::default()
    };
    let client = context.gateway.interface_links();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = PutInterfaceLinkRequest {
            retry_age,
            ..request.clone()
        };
        client.clone().put_interface_link(attempt.request(request)).await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let Put {
        source,
        target,
        namespace,
        package,
        name,
        ..
    } = arguments;
    let what = format!("iface {source} -> {target} {namespace}:{package} {name}");
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

async fn get(
    context: &Context<'_>,
    id: &InterfaceLinkId,
    read: &ReadOptions,
) -> Result<String, CommandError> {
    let request = GetInterfaceLinkRequest {
        lattice: context.lattice.to_owned(),
        source_id: Some(id.source.clone()),
        name: Some(id.name.clone()),
        wit_namespace: Some(id.namespace.clone()),
        wit_package: Some(id.package.clone()),
        target: id.target.clone(),
        consistency: read.consistency(),
    };
    let client = context.gateway.interface_links();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().get_interface_link(request).await
    };
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.interface_link.as_ref().map(fields).unwrap_or_default()
    })
}

async fn list(
    context: &Context<'_>,
    filter: &Filter,
    (read, list): (&ReadOptions, &ListOptions),
) -> Result<String, CommandError> {
    let request = ListInterfaceLinksRequest {
        lattice: context.lattice.to_owned(),
        source_id: filter.source.clone(),
        name: filter.name.clone(),
        wit_namespace: filter.namespace.clone(),
        wit_package: filter.package.clone(),
        target: filter.target.clone(),
        consistency: read.consistency(),
        ..ListInterfaceLinksRequest::default()
    };
    let response = all(context, list.limit, request).await?;
    render(context.format, &response, |response| {
        columns(&response.interface_links)
    })
}

/// Everything that a request is about, its pages put together.
pub(crate) async fn all(
    context: &Context<'_>,
    limit: Option<NonZeroU32>,
    request: ListInterfaceLinksRequest,
) -> Result<ListInterfaceLinksResponse, CallError> {
    let client = context.gateway.interface_links();
    let listed = page::all(limit, async |page| {
        let request = ListInterfaceLinksRequest {
            page_size: page.size,
            page_token: page.token.clone(),
            ..request.clone()
        };
        let send = async |attempt: Attempt| {
            let request = attempt.request(request.clone());
            client.clone().list_interface_links(request).await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        Ok(Page {
            items: response.interface_links,
            next_page_token: response.next_page_token,
            revision: response.revision,
        })
    });
    let listed = listed.await?;
    Ok(ListInterfaceLinksResponse {
        interface_links: listed.items,
        next_page_token: listed.next_page_token,
        revision: listed.revision,
    })
}

async fn delete(context: &Context<'_>, arguments: &Delete) -> Result<String, CommandError> {
    let intent = arguments.write.intent();
    let InterfaceLinkId {
        source,
        namespace,
        package,
        name,
        target,
    } = &arguments.id;
    let request = DeleteInterfaceLinkRequest {
        lattice: context.lattice.to_owned(),
        source_id: Some(source.clone()),
        name: Some(name.clone()),
        wit_namespace: Some(namespace.clone()),
        wit_package: Some(package.clone()),
        target: target.clone(),
        request_id: intent.request_id.clone(),
        precondition: arguments.write.precondition().map(Into::into),
        validate_only: intent.dry_run,
        allow_missing: arguments.allow_missing,
        ..DeleteInterfaceLinkRequest::default()
    };
    let client = context.gateway.interface_links();
    let send = async |attempt: Attempt| {
        let retry_age = attempt.retry_age();
        let request = DeleteInterfaceLinkRequest {
            retry_age,
            ..request.clone()
        };
        client
            .clone()
            .delete_interface_link(attempt.request(request))
            .await
    };
    let response = context.gateway.call(Effect::Write(&intent), send).await?;
    let to = target.as_ref().map(|it| format!(" -> {it}")).unwrap_or_default();
    let what = format!("delete of iface {source}{to} {namespace}:{package} {name}");
    render(context.format, &response, |response| {
        written(response.result.as_ref(), &what)
    })
}

impl Put {
    fn interface_link(&self) -> InterfaceLink {
        InterfaceLink {
            source_id: self.source.clone(),
            target: self.target.clone(),
            name: self.name.clone(),
            wit_namespace: self.namespace.clone(),
            wit_package: self.package.clone(),
            interfaces: self.interfaces.clone(),
            source_config: self.source_configs.clone(),
            target_config: self.target_configs.clone(),
            ..InterfaceLink::default()
        }
    }
}

fn fields(link: &InterfaceLink) -> String {
    table::fields(&[
        ("source", link.source_id.clone()),
        ("target", link.target.clone()),
        ("namespace", link.wit_namespace.clone()),
        ("package", link.wit_package.clone()),
        ("name", link.name.clone()),
        ("interfaces", link.interfaces.join(",")),
        ("source configs", link.source_config.join(",")),
        ("target configs", link.target_config.join(",")),
        ("etag", link.etag.clone()),
        ("revision", revision(link.revision)),
        ("updated", timestamp(link.update_time.as_ref())),
    ])
}

fn columns(links: &[InterfaceLink]) -> String {
    let row = |link: &InterfaceLink| {
        [
            link.source_id.clone(),
            link.target.clone(),
            link.wit_namespace.clone(),
            link.wit_package.clone(),
            link.name.clone(),
            link.interfaces.join(","),
            link.source_config.join(","),
            link.target_config.join(","),
        ]
    };
    let header = [
        "SOURCE",
        "TARGET",
        "NAMESPACE",
        "PACKAGE",
        "NAME",
        "INTERFACES",
        "SOURCE CONFIGS",
        "TARGET CONFIGS",
    ];
    table::columns(header, links.iter().map(row))
}

#[cfg(test)]
mod tests;
