//! What identifies an entry of a lattice, and what it says.

use std::fmt;

use super::{
    claims::Claims,
    component::ComponentRecord,
    interface_link::{InterfaceLink, InterfaceLinkId},
    link_definition::{LinkDefinition, LinkId, Values},
    named_config::NamedConfig,
    oci_reference::OciReference,
};

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who a component or provider is.
    Claims,
    /// Who may call whom.
    LinkDefinition,
    /// Which image has which key.
    OciReference,
    /// Which component may call which, over which interfaces.
    InterfaceLink,
    /// What links configure their ends with.
    Config,
    /// The record in which the interface links of one source are kept: no entry of its own.
    Component,
}

impl Kind {
    /// The kinds of entries that the API shows.
    pub const SHOWN: [Self; 5] = [
        Self::Claims,
        Self::LinkDefinition,
        Self::OciReference,
        Self::InterfaceLink,
        Self::Config,
    ];
}

/// What identifies an entry. Ordered by kind, then as lists show them.
///
/// Loose: any stored entry can be addressed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// The key under which claims are stored.
    Claims(Box<str>),
    /// The triple of a link.
    LinkDefinition(LinkId),
    /// The reference, as it was set.
    OciReference(Box<str>),
    /// Source, name, namespace, package and target of an interface link.
    InterfaceLink(InterfaceLinkId),
    /// The config's name.
    Config(Box<str>),
    /// The component's id.
    Component(Box<str>),
}

impl EntryKey {
    /// The kind of the entry.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Claims(_) => Kind::Claims,
            Self::LinkDefinition(_) => Kind::LinkDefinition,
            Self::OciReference(_) => Kind::OciReference,
            Self::InterfaceLink(_) => Kind::InterfaceLink,
            Self::Config(_) => Kind::Config,
            Self::Component(_) => Kind::Component,
        }
    }

    /// What every key of a kind is ordered behind.
    pub fn first_of(kind: Kind) -> Self {
        match kind {
            Kind::Claims => Self::Claims("".into()),
            Kind::LinkDefinition => Self::LinkDefinition(LinkId {
                actor_id: "".into(),
                contract_id: "".into(),
                link_name: "".into(),
            }),
            Kind::OciReference => Self::OciReference("".into()),
            Kind::InterfaceLink => Self::InterfaceLink(InterfaceLinkId {
                source_id: "".into(),
                name: "".into(),
                wit_namespace: "".into(),
                wit_package: "".into(),
                target: "".into(),
            }),
            Kind::Config => Self::Config("".into()),
            Kind::Component => Self::Component("".into()),
        }
    }

    /// How much text it is, bytes.
    pub fn text_bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// The parts that identify the entry, kind first; unambiguous when each is written with its length.
    pub fn parts(&self) -> Vec<&str> {
        match self {
            Self::Claims(key) => vec!["claims", key],
            Self::LinkDefinition(id) => vec!["link_definition", &id.actor_id, &id.contract_id, &id.link_name],
            Self::OciReference(url) => vec!["oci_reference", url],
            Self::InterfaceLink(id) => [&["interface_link"][..], &id.parts()].concat(),
            Self::Config(name) => vec!["config", name],
            Self::Component(id) => vec!["component", id],
        }
    }
}

/// Enough of each part to know the entry by: keys of stored entries can be of any length, and errors must not.
impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PART_CHARACTERS_MAX: usize = 100;
        for (place, part) in self.parts().into_iter().enumerate() {
            let separator = if place > 0 { " " } else { "" };
            match part.char_indices().nth(PART_CHARACTERS_MAX) {
                None => write!(f, "{separator}{part}")?,
                Some((end, _)) => write!(f, "{separator}{}…", part.get(..end).unwrap_or_default())?,
            }
        }
        Ok(())
    }
}

/// What an entry says, its identity apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Who a component or provider is. Boxed, since there are far more links and they are small.
    Claims(Box<Claims>),
    /// Who may call whom.
    LinkDefinition(LinkDefinition),
    /// Which image has which key.
    OciReference(OciReference),
    /// Which component may call which.
    InterfaceLink(InterfaceLink),
    /// What links configure their ends with.
    Config(NamedConfig),
    /// All links of one source.
    Component(Box<ComponentRecord>),
}

impl Entry {
    /// How much text it is, bytes.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Claims(claims) => [
                &claims.issuer,
                &claims.name,
                &claims.call_alias,
                &claims.capabilities,
                &claims.tags,
                &claims.revision,
                &claims.contract_id,
                &claims.config_schema,
            ]
            .into_iter()
            .chain(&claims.version)
            .map(|text| text.len())
            .sum(),
            Self::LinkDefinition(link) => link.provider_id.len() + values_bytes(&link.values),
            Self::OciReference(reference) => reference.public_key.len(),
            Self::InterfaceLink(link) => {
                let interfaces = link.interfaces.iter().map(|text| text.len());
                interfaces.sum::<usize>() + link.configs().map(str::len).sum::<usize>()
            }
            Self::Config(config) => values_bytes(&config.values),
            // Never shown as one.
            Self::Component(_) => 0,
        }
    }

    /// How many entries of the API it holds.
    pub fn count(&self) -> usize {
        match self {
            Self::Component(record) => record.links.len(),
            Self::Claims(_)
            | Self::LinkDefinition(_)
            | Self::OciReference(_)
            | Self::InterfaceLink(_)
            | Self::Config(_) => 1,
        }
    }
}

fn values_bytes(values: &Values) -> usize {
    values.iter().map(|(key, value)| key.len() + value.len()).sum()
}
