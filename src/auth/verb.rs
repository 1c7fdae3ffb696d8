//! What can be granted.

use std::fmt;

/// A verb, as the configuration writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerbName {
    /// Reading entries, without the values of links, and the lattice's own description.
    Read,
    /// Seeing the values of links, which may hold secrets, in reads and in the answers to writes.
    ValuesRead,
    /// Following changes.
    Watch,
    /// Putting and deleting signed claims.
    ClaimsWrite,
    /// Putting claims that nobody signed.
    ClaimsWriteUnsigned,
    /// Putting and deleting links.
    LinksWrite,
    /// Setting and deleting OCI references.
    RefsWrite,
    /// Putting and deleting named configs.
    ConfigWrite,
    /// Creating and scaling a lattice's streams; on every lattice, those of wadm too.
    Provision,
    /// Mending a lattice.
    Admin,
}

impl VerbName {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::ValuesRead,
        Self::Watch,
        Self::ClaimsWrite,
        Self::ClaimsWriteUnsigned,
        Self::LinksWrite,
        Self::RefsWrite,
        Self::ConfigWrite,
        Self::Provision,
        Self::Admin,
    ];

    /// As the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ValuesRead => "values:read",
            Self::Watch => "watch",
            Self::ClaimsWrite => "claims:write",
            Self::ClaimsWriteUnsigned => "claims:write-unsigned",
            Self::LinksWrite => "links:write",
            Self::RefsWrite => "refs:write",
            Self::ConfigWrite => "config:write",
            Self::Provision => "provision",
            Self::Admin => "admin",
        }
    }

    /// Reads what the configuration writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for VerbName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerbSet(u16);

impl VerbSet {
    const fn bit(verb: VerbName) -> u16 {
        match verb {
            VerbName::Read => 1,
            VerbName::ValuesRead => 1 << 1,
            VerbName::Watch => 1 << 2,
            VerbName::ClaimsWrite => 1 << 3,
            VerbName::ClaimsWriteUnsigned => 1 << 4,
            VerbName::LinksWrite => 1 << 5,
            VerbName::RefsWrite => 1 << 6,
            VerbName::ConfigWrite => 1 << 7,
            VerbName::Provision => 1 << 8,
            VerbName::Admin => 1 << 9,
        }
    }

    /// Whether the verb is in it.
    pub fn contains(self, verb: VerbName) -> bool {
        self.0 & Self::bit(verb) != 0
    }

    /// Its verbs.
    pub fn iter(self) -> impl Iterator<Item = VerbName> {
        VerbName::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

impl FromIterator<VerbName> for VerbSet {
    fn from_iter<I: IntoIterator<Item = VerbName>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |bits, verb| bits | Self::bit(verb)))
    }
}

/// What a grant is for. One type a verb, so that a grant for one cannot be used for another.
pub trait Verb: private::Sealed {
    /// The verb.
    const NAME: VerbName;
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl private::Sealed for $name {}
            impl Verb for $name {
                const NAME: VerbName = VerbName::$name;
            }
        )*
    };
}

verbs! {
    /// Reading entries and the lattice's own description.
    Read;
    /// Following changes.
    Watch;
    /// Putting and deleting claims.
    ClaimsWrite;
    /// Putting claims that nobody signed.
    ClaimsWriteUnsigned;
    /// Putting and deleting links.
    LinksWrite;
    /// Setting and deleting OCI references.
    RefsWrite;
    /// Putting and deleting named configs.
    ConfigWrite;
    /// Creating and scaling a lattice's streams; on every lattice, those of wadm too.
    Provision;
}

#[expect(unnameable_types, reason = "that is its purpose: nobody else can make a verb")]
mod private {
    pub trait Sealed {}
}
