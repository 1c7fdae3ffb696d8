//! Who may do what on which lattice, and the proof of it.
//!
//! [`Policy::grant`] is the only maker of a [`Grant`], and every operation of [`control`](crate::control) takes
//! one: forgetting the check does not compile. The lattice that an operation works on is the grant's, never the
//! request's. An unknown lattice and one that is not granted are refused alike, by the same path.
//!
//! Callers cannot be authenticated yet, so there is one, `anonymous`, and the server listens on loopback only.

pub mod jwt;

use std::{marker::PhantomData, sync::Arc};

use crate::domain::LatticeName;

/// A caller, as the configuration names it: the same over its credentials and over gateways.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Who comes without credentials.
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a grant is for. One type a verb, so that a grant for one cannot be used for another.
pub trait Verb: private::Sealed {
    /// The verb, as the configuration writes it.
    const NAME: &'static str;
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub enum $name {}
            impl private::Sealed for $name {}
            impl Verb for $name {
                const NAME: &'static str = $text;
            }
        )*
    };
}

verbs! {
    /// Reading entries and the lattice's own description.
    Read = "read";
    /// Putting and deleting claims.
    ClaimsWrite = "claims:write";
    /// Putting claims that nobody signed.
    ClaimsWriteUnsigned = "claims:write-unsigned";
    /// Putting and deleting links.
    LinksWrite = "links:write";
    /// Setting and deleting OCI references.
    RefsWrite = "refs:write";
    /// Creating a lattice's stream.
    Provision = "provision";
}

#[expect(unnameable_types, reason = "that is its purpose: nobody else can make a verb")]
mod private {
    pub trait Sealed {}
}

/// The proof that a caller may do `V` on a lattice.
#[derive(Clone, Debug)]
pub struct Grant<V> {
    caller: Caller,
    lattice: LatticeName,
    verb: PhantomData<V>,
}

impl<V: Verb> Grant<V> {
    /// Who.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// On which lattice.
    pub fn lattice(&self) -> &LatticeName {
        &self.lattice
    }
}

/// The caller may not do this, or there is no such lattice: the caller cannot tell which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What was asked for, as the caller wrote it.
    pub lattice: String,
    /// The verb that was needed.
    pub verb: &'static str,
}

/// Which lattices there are for callers, and what may be done on them.
#[derive(Clone, Debug)]
pub struct Policy {
    lattices: Vec<Pattern>,
    unsigned_claims: bool,
}

impl Policy {
    /// What `dev` allows: everything on every lattice.
    pub fn everything() -> Self {
        Self {
            lattices: vec![Pattern::parse("*")],
            unsigned_claims: true,
        }
    }

    /// What `serve` allows on loopback: everything but unsigned claims, on the lattices that are configured, each
    /// by its name or by a `*`-glob over whole names.
    pub fn configured(lattices: &[&str]) -> Self {
        Self {
            lattices: lattices.iter().copied().map(Pattern::parse).collect(),
            unsigned_claims: false,
        }
    }

    /// Grants `V` on a lattice, or refuses.
    pub fn grant<V: Verb>(&self, caller: &Caller, lattice: &LatticeName) -> Result<Grant<V>, Denied> {
        let is_known = self
            .lattices
            .iter()
            .any(|pattern| pattern.matches(lattice.as_str()));
        let is_allowed = V::NAME != ClaimsWriteUnsigned::NAME || self.unsigned_claims;
        match is_known && is_allowed {
            true => Ok(Grant {
                caller: caller.clone(),
                lattice: lattice.clone(),
                verb: PhantomData,
            }),
            false => Err(Denied {
                lattice: lattice.to_string(),
                verb: V::NAME,
            }),
        }
    }
}

/// A name in which each `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes a name or a glob.
    pub fn parse(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else {
            return false;
        };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            let found = if is_last {
                rest.strip_suffix(part)
            } else {
                rest.split_once(part).map(|(_, behind)| behind)
            };
            match found {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lattice(name: &str) -> LatticeName {
        LatticeName::parse(name).unwrap()
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, matches) in [
            ("*", "anything", true),
            ("prod", "prod", true),
            ("prod", "production", false),
            ("team-*", "team-a", true),
            ("team-*", "my-team-a", false),
            ("*-eu", "prod-eu", true),
            ("*-eu", "prod-eu2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_not_configured_is_denied_and_unsigned_claims_too() {
        let policy = Policy::configured(&["prod", "team-*"]);
        let caller = Caller::anonymous();
        assert!(policy.grant::<LinksWrite>(&caller, &lattice("team-a")).is_ok());
        assert!(policy.grant::<Read>(&caller, &lattice("other")).is_err());
        assert_eq!(
            policy
                .grant::<ClaimsWriteUnsigned>(&caller, &lattice("prod"))
                .unwrap_err(),
            Denied {
                lattice: "prod".into(),
                verb: "claims:write-unsigned"
            }
        );
    }
}
