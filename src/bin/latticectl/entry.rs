//! Entries of any kind, as far as commands treat them alike.

use std::collections::BTreeMap;

use clap::ValueEnum;
use lattice_gateway::{
    domain,
    proto::{
        Claims, ClaimsIdentity, EntryKind, InterfaceLink, InterfaceLinkIdentity, LinkDefinition,
        LinkDefinitionIdentity, NamedConfig, NamedConfigIdentity, OciReference, OciReferenceIdentity,
        entry::Entry, entry_identity::Identity,
    },
};

/// A kind of entries, by the name of the command that writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// Claims
    Claims,
    /// Link definitions
    Link,
    /// Interface links
    Iface,
    /// OCI references
    Ref,
    /// Named configs
    Config,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Claims, Self::Link, Self::Iface, Self::Ref, Self::Config];

    pub(crate) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Claims(_) => Self::Claims,
            Entry::LinkDefinition(_) => Self::Link,
            Entry::InterfaceLink(_) => Self::Iface,
            Entry::OciReference(_) => Self::Ref,
            Entry::NamedConfig(_) => Self::Config,
        }
    }

    pub(crate) fn of_identity(identity: &Identity) -> Self {
        match identity {
            Identity::Claims(_) => Self::Claims,
            Identity::LinkDefinition(_) => Self::Link,
            Identity::InterfaceLink(_) => Self::Iface,
            Identity::OciReference(_) => Self::Ref,
            Identity::NamedConfig(_) => Self::Config,
        }
    }

    /// As the command line names it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Link => "link",
            Self::Iface => "iface",
            Self::Ref => "ref",
            Self::Config => "config",
        }
    }

    /// As the API names the resource.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Claims => "Claims",
            Self::Link => "LinkDefinition",
            Self::Iface => "InterfaceLink",
            Self::Ref => "OciReference",
            Self::Config => "NamedConfig",
        }
    }
}

impl From<Kind> for domain::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Claims => Self::Claims,
            Kind::Link => Self::LinkDefinition,
            Kind::Iface => Self::InterfaceLink,
            Kind::Ref => Self::OciReference,
            Kind::Config => Self::Config,
        }
    }
}

impl From<Kind> for EntryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Claims => Self::Claims,
            Kind::Link => Self::LinkDefinition,
            Kind::Iface => Self::InterfaceLink,
            Kind::Ref => Self::OciReference,
            Kind::Config => Self::NamedConfig,
        }
    }
}

/// Tells what identifies an entry.
pub(crate) fn identity(entry: &Entry) -> Identity {
    match entry {
        Entry::Claims(claims) => Identity::Claims(ClaimsIdentity {
            public_key: claims.public_key.clone(),
        }),
        Entry::LinkDefinition(link) => Identity::LinkDefinition(LinkDefinitionIdentity {
            actor_id: link.actor_id.clone(),
            contract_id: link.contract_id.clone(),
            link_name: link.link_name.clone(),
        }),
        Entry::InterfaceLink(link) => Identity::InterfaceLink(InterfaceLinkIdentity {
            source_id: link.source_id.clone(),
            name: link.name.clone(),
            wit_namespace: link.wit_namespace.clone(),
            wit_package: link.wit_package.clone(),
            target: link.target.clone(),
        }),
        Entry::OciReference(reference) => Identity::OciReference(OciReferenceIdentity {
            oci_url: reference.oci_url.clone(),
        }),
        Entry::NamedConfig(config) => Identity::NamedConfig(NamedConfigIdentity {
            name: config.name.clone(),
        }),
    }
}

/// Names an entry to people, its kind apart.
pub(crate) fn name(identity: &Identity) -> String {
    match identity {
        Identity::Claims(ClaimsIdentity { public_key }) => public_key.clone(),
        Identity::LinkDefinition(id) => format!("{} {} {}", id.actor_id, id.contract_id, id.link_name),
        Identity::InterfaceLink(id) => format!(
            "{} -> {} {}:{} {}",
            id.source_id, id.target, id.wit_namespace, id.wit_package, id.name
        ),
        Identity::OciReference(OciReferenceIdentity { oci_url }) => oci_url.clone(),
        Identity::NamedConfig(NamedConfigIdentity { name }) => name.clone(),
    }
}

pub(crate) fn etag(entry: &Entry) -> &str {
    match entry {
        Entry::Claims(claims) => &claims.etag,
        Entry::LinkDefinition(link) => &link.etag,
        Entry::InterfaceLink(link) => &link.etag,
        Entry::OciReference(reference) => &reference.etag,
        Entry::NamedConfig(config) => &config.etag,
    }
}

pub(crate) fn update_time(entry: &Entry) -> Option<&pbjson_types::Timestamp> {
    match entry {
        Entry::Claims(claims) => claims.update_time.as_ref(),
        Entry::LinkDefinition(link) => link.update_time.as_ref(),
        Entry::InterfaceLink(link) => link.update_time.as_ref(),
        Entry::OciReference(reference) => reference.update_time.as_ref(),
        Entry::NamedConfig(config) => config.update_time.as_ref(),
    }
}

/// What one field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Text(&'a str),
    List(&'a [String]),
    Values(&'a BTreeMap<String, String>),
}

/// The fields of an entry by their names in the API: those that neither identify it nor are output only.
pub(crate) fn contents(entry: &Entry) -> Vec<(&'static str, Content<'_>)> {
    match entry {
        Entry::Claims(claims) => vec![
            ("issuer", Content::Text(&claims.issuer)),
            ("name", Content::Text(&claims.name)),
            ("call_alias", Content::Text(&claims.call_alias)),
            ("capabilities", Content::List(&claims.capabilities)),
            ("tags", Content::List(&claims.tags)),
            ("claims_revision", Content::Text(&claims.claims_revision)),
            ("version", Content::Text(&claims.version)),
            ("contract_id", Content::Text(&claims.contract_id)),
            ("config_schema", Content::Text(&claims.config_schema)),
        ],
        Entry::LinkDefinition(link) => vec![
            ("provider_id", Content::Text(&link.provider_id)),
            ("values", Content::Values(&link.values)),
        ],
        Entry::InterfaceLink(link) => vec![
            ("interfaces", Content::List(&link.interfaces)),
            ("source_config", Content::List(&link.source_config)),
            ("target_config", Content::List(&link.target_config)),
        ],
        Entry::OciReference(reference) => vec![("public_key", Content::Text(&reference.public_key))],
        Entry::NamedConfig(config) => vec![("values", Content::Values(&config.values))],
    }
}

/// The entry without what only answers say: its etag, revision and time.
pub(crate) fn without_output(entry: Entry) -> Entry {
    let etag = String::new();
    match entry {
        Entry::Claims(claims) => Entry::Claims(Claims {
            etag,
            revision: None,
            update_time: None,
            ..claims
        }),
        Entry::LinkDefinition(link) => Entry::LinkDefinition(LinkDefinition {
            etag,
            revision: None,
            update_time: None,
            ..link
        }),
        Entry::InterfaceLink(link) => Entry::InterfaceLink(InterfaceLink {
            etag,
            revision: None,
            update_time: None,
            ..link
        }),
        Entry::OciReference(reference) => Entry::OciReference(OciReference {
            etag,
            revision: None,
            update_time: None,
            ..reference
        }),
        Entry::NamedConfig(config) => Entry::NamedConfig(NamedConfig {
            etag,
            revision: None,
            update_time: None,
            ..config
        }),
    }
}
