//! Who calls, what they may do on which lattice, and the proof of it.
//!
//! ```text
//! authenticate   credentials of a request -> a caller of the configuration, with its grants     once a request
//! Policy::grant  that caller, a lattice, a verb -> Grant<Verb>; on every lattice -> GrantOnAll   once an operation
//! ```
//!
//! [`Policy::grant`] and [`Policy::grant_on_all`] are the only makers of grants, and every operation of [`control`](crate::control) takes
//! one: forgetting the check does not compile. The lattice that an operation works on is the grant's, never the
//! request's. What is not granted is denied; an unknown lattice and one that is not granted are refused alike, by the
//! same path.

pub mod access;
pub mod authenticate;
pub mod callers;
pub mod explain;
pub mod limits;
pub mod peer;
pub mod verb;

pub mod jwt;

use std::{marker::PhantomData, sync::Arc};

pub use self::{
    access::{Access, Names, Pattern},
    verb::{
        ClaimsWrite, ClaimsWriteUnsigned, ConfigWrite, LinksWrite, Provision, Read, RefsWrite, Verb,
        VerbName, VerbSet, Watch,
    },
};
use crate::domain::LatticeName;

/// A caller, as the configuration names it: the same over its credentials and over gateways.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Who comes without credentials, in `dev`.
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// A caller of the configuration.
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The proof that a caller may do `V` on a lattice.
#[derive(Clone, Debug)]
pub struct Grant<V> {
    caller: Caller,
    lattice: LatticeName,
    reads_values: bool,
    entries_max: Option<u64>,
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

    /// Whether the caller may see the values of links, which may hold secrets.
    pub fn reads_values(&self) -> bool {
        self.reads_values
    }

    /// How many entries a lattice may have for the caller to add one.
    pub fn entries_max(&self) -> Option<u64> {
        self.entries_max
    }
}

/// The proof that a caller may do `V` on every lattice, those that nobody has heard of included.
#[derive(Clone, Debug)]
pub struct GrantOnAll<V> {
    caller: Caller,
    verb: PhantomData<V>,
}

impl<V: Verb> GrantOnAll<V> {
    /// Who.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// How a denial names every lattice: as the configuration grants it.
pub const EVERY_LATTICE: &str = "*";

/// The caller may not do this, or there is no such lattice: the caller cannot tell which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What was asked for, as the caller wrote it.
    pub lattice: String,
    /// The verb that was needed.
    pub verb: VerbName,
}

/// Which lattices the gateway serves at all.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    served: Names,
}

impl Policy {
    /// Serves these lattices, each by its name or by a `*`-glob over whole names.
    pub fn serving<'a, I: IntoIterator<Item = &'a str>>(lattices: I) -> Self {
        Self {
            served: lattices.into_iter().collect(),
        }
    }

    /// Grants `V` on a lattice, or refuses.
    pub fn grant<V: Verb>(&self, access: &Access, lattice: &LatticeName) -> Result<Grant<V>, Denied> {
        self.judge(access, lattice, V::NAME)?;
        Ok(Grant {
            caller: access.caller().clone(),
            lattice: lattice.clone(),
            reads_values: access.allows(lattice.as_str(), VerbName::ValuesRead),
            entries_max: access.limits().entries_per_lattice,
            verb: PhantomData,
        })
    }

    /// Grants `V` on every lattice, where one of the caller's grants says so for every name. What the gateway serves does not
    /// matter: it is about what all lattices of a NATS account share.
    pub fn grant_on_all<V: Verb>(access: &Access) -> Result<GrantOnAll<V>, Denied> {
        match access.allows_on_all(V::NAME) {
            true => Ok(GrantOnAll {
                caller: access.caller().clone(),
                verb: PhantomData,
            }),
            false => Err(Denied {
                lattice: EVERY_LATTICE.to_owned(),
                verb: V::NAME,
            }),
        }
    }

    /// Tells whether a verb would be granted on a lattice: for who has to know before anything is done.
    pub fn judge(&self, access: &Access, lattice: &LatticeName, verb: VerbName) -> Result<(), Denied> {
        let name = lattice.as_str();
        let is_granted = self.served.contain(name) & access.allows(name, verb);
        match is_granted {
            true => Ok(()),
            false => Err(Denied {
                lattice: lattice.to_string(),
                verb,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{access::Rule, limits::Limits, *};

    fn lattice(name: &str) -> LatticeName {
        LatticeName::parse(name).unwrap()
    }

    fn access(lattices: &[&str], verbs: &[VerbName]) -> Access {
        let rule = Rule {
            lattices: lattices.iter().copied().collect(),
            verbs: verbs.iter().copied().collect(),
        };
        Access::new(Caller::named("test"), vec![rule], Limits::default())
    }

    #[test]
    fn what_is_not_granted_is_denied() {
        let policy = Policy::serving(["prod", "team-*"]);
        let access = access(&["team-*", "elsewhere"], &[VerbName::LinksWrite]);
        let grant = policy.grant::<LinksWrite>(&access, &lattice("team-a")).unwrap();
        assert_eq!(
            (grant.caller().as_str(), grant.lattice().as_str()),
            ("test", "team-a")
        );
        assert!(!grant.reads_values());
        for (name, why) in [
            ("prod", "no grant"),
            ("elsewhere", "not served"),
            ("neither", "neither"),
        ] {
            assert_eq!(
                policy.grant::<LinksWrite>(&access, &lattice(name)).unwrap_err(),
                Denied {
                    lattice: name.into(),
                    verb: VerbName::LinksWrite
                },
                "{why}"
            );
        }
        assert!(policy.grant::<Read>(&access, &lattice("team-a")).is_err());
    }

    #[test]
    fn every_lattice_is_granted_by_one_grant_on_all_names_alone() {
        for (lattices, verb, is_granted) in [
            (&["*"][..], VerbName::Provision, true),
            (&["prod", "**"], VerbName::Provision, true),
            (&["*"], VerbName::Read, false),
            (&["prod"], VerbName::Provision, false),
            (&["p*", "*d"], VerbName::Provision, false),
            (&[], VerbName::Provision, false),
        ] {
            let granted = Policy::grant_on_all::<Provision>(&access(lattices, &[verb]));
            let denied = Denied {
                lattice: "*".into(),
                verb: VerbName::Provision,
            };
            assert_eq!(
                granted.as_ref().err(),
                (!is_granted).then_some(&denied),
                "{lattices:?}"
            );
            assert!(granted.is_err() || granted.is_ok_and(|grant| grant.caller().as_str() == "test"));
        }
    }
}
