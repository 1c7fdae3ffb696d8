//! What a lattice holds now, of the kinds that are asked for.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
};

use lattice_gateway::proto::{
    Consistency, ListClaimsRequest, ListConfigsRequest, ListInterfaceLinksRequest,
    ListLinkDefinitionsRequest, ListOciReferencesRequest, Revision, consistency::Requirement, entry::Entry,
    entry_identity::Identity,
};

use crate::{
    Context, claims, config,
    entry::{self, Kind},
    failure::CallError,
    interface_link, link, reference,
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
    pub(crate) async fn list(context: &Context<'_>, kinds: &BTreeSet<Kind>) -> Result<Self, CallError> {
        let mut held = Self::default();
        for kind in kinds {
            let listed = list(context, *kind, None).await?;
            if listed.values_omitted && !listed.entries.is_empty() {
                held.unreadable.insert(*kind);
            }
            let entries = listed.entries.into_iter();
            held.entries.extend(entries.map(|it| (entry::identity(&it), it)));
        }
        Ok(held)
    }
}

/// All entries of a kind.
#[derive(Debug)]
pub(crate) struct Listed {
    /// In the order of their keys.
    pub(crate) entries: Vec<Entry>,
    /// Whether their values are left out, since the caller may not read them.
    pub(crate) values_omitted: bool,
    /// The first page's.
    pub(crate) revision: Option<Revision>,
}

/// Lists the entries of a kind, as the stream holds them now; all of them where no limit is given.
pub(crate) async fn list(
    context: &Context<'_>,
    kind: Kind,
    limit: Option<NonZeroU32>,
) -> Result<Listed, CallError> {
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
            let listed = claims::all(context, limit, request).await?;
            Listed {
                entries: listed.claims.into_iter().map(Entry::Claims).collect(),
                values_omitted: false,
                revision: listed.revision,
            }
        }
        Kind::Link => {
            let request = ListLinkDefinitionsRequest {
                lattice,
                consistency,
                ..ListLinkDefinitionsRequest::default()
            };
            let listed = link::all(context, limit, request).await?;
            Listed {
                entries: listed
                    .link_definitions
                    .into_iter()
                    .map(Entry::LinkDefinition)
                    .collect(),
                values_omitted: listed.values_omitted,
                revision: listed.revision,
            }
        }
        Kind::Iface => {
            let request = ListInterfaceLinksRequest {
                lattice,
                consistency,
                ..ListInterfaceLinksRequest::default()
            };
            let listed = interface_link::all(context, limit, request).await?;
            Listed {
                entries: listed
                    .interface_links
                    .into_iter()
                    .map(Entry::InterfaceLink)
                    .collect(),
                values_omitted: false,
                revision: listed.revision,
            }
        }
        Kind::Ref => {
            let request = ListOciReferencesRequest {
                lattice,
                consistency,
                ..ListOciReferencesRequest::default()
            };
            let listed = reference::all(context, limit, request).await?;
            Listed {
                entries: listed
                    .oci_references
                    .into_iter()
                    .map(Entry::OciReference)
                    .collect(),
                values_omitted: false,
                revision: listed.revision,
            }
        }
        Kind::Config => {
            let request = ListConfigsRequest {
                lattice,
                consistency,
                ..ListConfigsRequest::default()
            };
            let listed = config::all(context, limit, request).await?;
            Listed {
                entries: listed.named_configs.into_iter().map(Entry::NamedConfig).collect(),
                values_omitted: listed.values_omitted,
                revision: listed.revision,
            }
        }
    })
}
