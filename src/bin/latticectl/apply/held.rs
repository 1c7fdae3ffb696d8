//! What a lattice holds now, of the kinds that are asked for.

use std::collections::{BTreeSet, HashMap};

use lattice_gateway::proto::{
    Consistency, LinkDefinition, ListClaimsRequest, ListConfigsRequest, ListInterfaceLinksRequest,
    ListLinkDefinitionsRequest, ListOciReferencesRequest, NamedConfig, PutConfigRequest,
    PutLinkDefinitionRequest, consistency::Requirement, entry::Entry, entry_identity::Identity,
};

use super::manifest::Desired;
use crate::{
    Context, claims, config,
    entry::{self, Kind},
    failure::CallError,
    gateway::Effect,
    interface_link, link, reference,
    retry::Attempt,
};

/// The entries of a lattice.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) entries: HashMap<Identity, Entry>,
    /// The kinds whose values the caller is not shown.
    pub(crate) unreadable: BTreeSet<Kind>,
}

impl Held {
    /// Lists all entries of these kinds, as the stream holds them now.
    pub(crate) async fn list(
        context: &Context<'_>,
        kinds: &BTreeSet<Kind>,
        desired: &[Desired],
    ) -> Result<Self, CallError> {
        let mut held = Self::default();
        for kind in kinds {
            let listed = list(context, *kind).await?;
            if !shows_values(&listed) && hides_values(context, *kind, &listed, desired).await {
                held.unreadable.insert(*kind);
            }
            held.entries
                .extend(listed.into_iter().map(|it| (entry::identity(&it), it)));
        }
        Ok(held)
    }
}

async fn list(context: &Context<'_>, kind: Kind) -> Result<Vec<Entry>, CallError> {
    let lattice = context.lattice.to_owned();
    let consistency = Some(Consistency {
        requirement: Some(Requirement::FullyConsistent(true)),
    });
    Ok(match kind {
        Kind::Claims => {
            let request = ListClaimsRequest {
                lattice,
                consistency,
                ..ListClaimsRequest::default()
            };
            let listed = claims::all(context, None, request).await?.claims;
            listed.into_iter().map(Entry::Claims).collect()
        }
        Kind::Link => {
            let request = ListLinkDefinitionsRequest {
                lattice,
                consistency,
                ..ListLinkDefinitionsRequest::default()
            };
            let listed = link::all(context, None, request).await?.link_definitions;
            listed.into_iter().map(Entry::LinkDefinition).collect()
        }
        Kind::Iface => {
            let request = ListInterfaceLinksRequest {
                lattice,
                consistency,
                ..ListInterfaceLinksRequest::default()
            };
            let listed = interface_link::all(context, None, request).await?.interface_links;
            listed.into_iter().map(Entry::InterfaceLink).collect()
        }
        Kind::Ref => {
            let request = ListOciReferencesRequest {
                lattice,
                consistency,
                ..ListOciReferencesRequest::default()
            };
            let listed = reference::all(context, None, request).await?.oci_references;
            listed.into_iter().map(Entry::OciReference).collect()
        }
        Kind::Config => {
            let request = ListConfigsRequest {
                lattice,
                consistency,
                ..ListConfigsRequest::default()
            };
            let listed = config::all(context, None, request).await?.named_configs;
            listed.into_iter().map(Entry::NamedConfig).collect()
        }
    })
}

fn shows_values(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| match entry {
        Entry::LinkDefinition(link) => !link.values.is_empty(),
        Entry::NamedConfig(config) => !config.values.is_empty(),
        Entry::Claims(_) | Entry::InterfaceLink(_) | Entry::OciReference(_) => false,
    })
}

/// Tells whether values are kept from the caller, where none of the entries shows any.
///
/// Answers do not say so. But a put that is only checked is answered with the entry as it would stand: without its
/// values to callers who may not read them.
async fn hides_values(context: &Context<'_>, kind: Kind, held: &[Entry], desired: &[Desired]) -> bool {
    let of_kind = |desired: &&Desired| Kind::of(&desired.entry) == kind;
    let Some(sample) = desired.iter().find(of_kind) else {
        return false;
    };
    if held.is_empty() {
        return false;
    }
    let values = || [("probe".to_owned(), "probe".to_owned())].into();
    let shown = match &sample.entry {
        Entry::LinkDefinition(link) => {
            let request = PutLinkDefinitionRequest {
                lattice: context.lattice.to_owned(),
                link_definition: Some(LinkDefinition {
                    values: values(),
                    ..link.clone()
                }),
                validate_only: true,
                ..PutLinkDefinitionRequest::default()
            };
            let client = context.gateway.links();
            let send = async |attempt: Attempt| {
                let request = attempt.request(request.clone());
                client.clone().put_link_definition(request).await
            };
            let answer = context.gateway.call(Effect::Nothing, send).await;
            answer.ok().and_then(|it| it.link_definition).map(|it| it.values)
        }
        Entry::NamedConfig(config) => {
            let request = PutConfigRequest {
                lattice: context.lattice.to_owned(),
                named_config: Some(NamedConfig {
                    values: values(),
                    ..config.clone()
                }),
                validate_only: true,
                ..PutConfigRequest::default()
            };
            let client = context.gateway.configs();
            let send = async |attempt: Attempt| {
                let request = attempt.request(request.clone());
                client.clone().put_config(request).await
            };
            let answer = context.gateway.call(Effect::Nothing, send).await;
            answer.ok().and_then(|it| it.named_config).map(|it| it.values)
        }
        Entry::Claims(_) | Entry::InterfaceLink(_) | Entry::OciReference(_) => return false,
    };
    // Where the check itself fails, the puts will tell why.
    shown.is_none_or(|values| values.is_empty())
}
