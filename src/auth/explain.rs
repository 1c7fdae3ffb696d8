//! Why a caller may or may not do something, in words.

use std::fmt;

use super::{Names, Policy, access::Access, verb::VerbName};
use crate::domain::LatticeName;

/// The verdict on a caller, a lattice and a verb, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// This grant allows it, counted from 1.
    Allowed {
        /// Which.
        grant: usize,
    },
    /// The configuration has no such caller.
    NoSuchCaller,
    /// No table of the configuration serves the lattice.
    NotServed,
    /// No grant of the caller names the lattice.
    LatticeNotGranted,
    /// Grants of the caller name the lattice, with other verbs only.
    VerbNotGranted {
        /// These verbs.
        granted: Vec<VerbName>,
    },
}

impl Policy {
    /// Explains what [`Policy::grant`] says.
    pub fn explain(&self, access: Option<&Access>, lattice: &LatticeName, verb: VerbName) -> Explanation {
        let name = lattice.as_str();
        if access.is_some() && !self.served.contain(name) {
            return Explanation::NotServed;
        }
        explain(access, verb, |lattices| lattices.contain(name))
    }
}

fn explain(access: Option<&Access>, verb: VerbName, are_meant: impl Fn(&Names) -> bool) -> Explanation {
    let Some(access) = access else {
        return Explanation::NoSuchCaller;
    };
    let mut on_lattice = access
        .rules()
        .iter()
        .zip(1..)
        .filter(|(rule, _)| are_meant(&rule.lattices))
        .peekable();
    if on_lattice.peek().is_none() {
        return Explanation::LatticeNotGranted;
    }
    let mut granted = Vec::new();
    for (rule, number) in on_lattice {
        if rule.verbs.contains(verb) {
            return Explanation::Allowed { grant: number };
        }
        granted.extend(rule.verbs.iter());
    }
    granted.sort_unstable();
    granted.dedup();
    Explanation::VerbNotGranted { granted }
}

impl Explanation {
    /// Explains what [`Policy::grant_on_all`] says.
    pub fn on_all(access: Option<&Access>, verb: VerbName) -> Self {
        explain(access, verb, Names::contain_all)
    }

    /// Whether it may be done.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed { grant } => write!(formatter, "allowed, by the caller's grant number {grant}"),
            Self::NoSuchCaller => formatter.write_str("denied: the configuration has no such caller"),
            Self::NotServed => formatter.write_str(
                "denied: the lattice is not served; add a table [lattices.NAME] that names it or a glob that matches it",
            ),
            Self::LatticeNotGranted => formatter.write_str("denied: none of the caller's grants names the lattice"),
            Self::VerbNotGranted { granted } => {
                let granted = granted.iter().map(|verb| verb.as_str()).collect::<Vec<_>>();
                write!(
                    formatter,
                    "denied: on that lattice the caller is granted only {}",
                    granted.join(", ")
                )
            }
        }
    }
}
