//! Which entries a watch is about.

use lattice_gateway::proto::{
    ClaimsIdentity, EntryIdentity, EntryKind, InterfaceLinkIdentity, LinkDefinitionIdentity,
    NamedConfigIdentity, OciReferenceIdentity, WatchRequest, entry_identity::Identity,
};

use crate::entry::Kind;

/// Options that choose entries, as those of the list commands.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterOptions {
    /// Only entries of this kind; may be given often [default: those of the other filters, or all]
    #[arg(long = "kind", value_name = "KIND", value_enum)]
    kinds: Vec<Kind>,

    /// Only the claims of this key
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    public_key: String,

    /// Only links of this actor
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    actor: String,

    /// Only links of this contract
    #[arg(long, default_value = "", hide_default_value = true)]
    contract: String,

    /// Only interface links of this source
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,

    /// Only interface links to this target
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,

    /// Only interface links of this WIT namespace
    #[arg(long, default_value = "", hide_default_value = true)]
    namespace: String,

    /// Only interface links of this WIT package
    #[arg(long, default_value = "", hide_default_value = true)]
    package: String,

    /// Only links or interface links of this name, whichever of them are watched
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,

    /// Only this OCI reference
    #[arg(long, default_value = "", hide_default_value = true)]
    url: String,

    /// Only the config of this name
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    config: String,
}

impl FilterOptions {
    /// Asks for what the options choose, from its beginning.
    pub(crate) fn request(&self, lattice: &str) -> Result<WatchRequest, String> {
        let filters = self.filters()?;
        let kinds = self.kinds.iter().map(|kind| EntryKind::from(*kind).into());
        let filters = filters.into_iter().map(|identity| EntryIdentity {
            identity: Some(identity),
        });
        Ok(WatchRequest {
            lattice: lattice.to_owned(),
            kinds: kinds.collect(),
            filters: filters.collect(),
            resume_token: String::new(),
        })
    }

    fn filters(&self) -> Result<Vec<Identity>, String> {
        let given = |filters: &[&String]| filters.iter().any(|it| !it.is_empty());
        let named = |kind| !self.name.is_empty() && self.kinds.contains(&kind);
        let mut filters = Vec::new();
        if given(&[&self.public_key]) {
            filters.push(Identity::Claims(ClaimsIdentity {
                public_key: self.public_key.clone(),
            }));
        }
        let links = given(&[&self.actor, &self.contract]) || named(Kind::Link);
        if links {
            filters.push(Identity::LinkDefinition(LinkDefinitionIdentity {
                actor_id: self.actor.clone(),
                contract_id: self.contract.clone(),
                link_name: self.name.clone(),
            }));
        }
        let interface_links =
            given(&[&self.source, &self.target, &self.namespace, &self.package]) || named(Kind::Iface);
        if interface_links {
            filters.push(Identity::InterfaceLink(InterfaceLinkIdentity {
                source_id: self.source.clone(),
                name: self.name.clone(),
                wit_namespace: self.namespace.clone(),
                wit_package: self.package.clone(),
                target: self.target.clone(),
            }));
        }
        if given(&[&self.url]) {
            filters.push(Identity::OciReference(OciReferenceIdentity {
                oci_url: self.url.clone(),
            }));
        }
        if given(&[&self.config]) {
            filters.push(Identity::NamedConfig(NamedConfigIdentity {
                name: self.config.clone(),
            }));
        }
        if !self.name.is_empty() && !links && !interface_links {
            return Err(
                "--name is the name of a link; say of which kind: --kind link or --kind iface".to_owned(),
            );
        }
        self.check_kinds(&filters)?;
        Ok(filters)
    }

    /// A filter of a kind that is not asked for would be without effect.
    fn check_kinds(&self, filters: &[Identity]) -> Result<(), String> {
        let kinds = filters.iter().map(Kind::of_identity);
        let mut unasked = kinds.filter(|kind| !self.kinds.is_empty() && !self.kinds.contains(kind));
        match unasked.next() {
            None => Ok(()),
            Some(kind) => Err(format!(
                "there is a filter for {kind}, and --kind leaves it out; add --kind {kind}",
                kind = kind.word()
            )),
        }
    }
}

#[cfg(test)]
mod tests;
