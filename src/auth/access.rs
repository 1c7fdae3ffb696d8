//! What one caller may do.

use std::{collections::HashSet, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    Caller,
    limits::{Limits, Load},
    verb::{VerbName, VerbSet},
};
use crate::domain::LatticeName;

/// Lattices, each by its name or by a glob.
#[derive(Clone, Debug, Default)]
pub struct Names {
    exact: HashSet<Box<str>>,
    globs: Vec<Pattern>,
}

impl Names {
    /// Whether the name is among them.
    pub fn contain(&self, name: &str) -> bool {
        self.exact.contains(name) || self.globs.iter().any(|glob| glob.matches(name))
    }

    /// Whether every name is among them, by one glob.
    pub(super) fn contain_all(&self) -> bool {
        self.globs.iter().any(Pattern::matches_all)
    }

    /// Whether there may be a lattice that is among both. Two globs are taken to overlap.
    pub fn may_meet(&self, other: &Self) -> bool {
        (!self.globs.is_empty() && !other.globs.is_empty())
            || self.exact.iter().any(|name| other.contain(name))
            || other.exact.iter().any(|name| self.contain(name))
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut all = Self::default();
        for name in names {
            if name.contains('*') {
                all.globs.push(Pattern::parse(name));
            } else {
                all.exact.insert(name.into());
            }
        }
        all
    }
}

/// One grant of the configuration: these verbs on these lattices.
#[derive(Clone, Debug)]
pub struct Rule {
    /// On which lattices.
    pub lattices: Names,
    /// What.
    pub verbs: VerbSet,
}

/// What one caller may do, and how much of it.
#[derive(Debug)]
pub struct Access {
    caller: Caller,
    rules: Vec<Rule>,
    limits: Limits,
    load: ArcSwap<Load>,
}

impl Access {
    /// Of a caller, with nothing under way.
    pub fn new(caller: Caller, rules: Vec<Rule>, limits: Limits) -> Self {
        Self {
            caller,
            rules,
            load: ArcSwap::from_pointee(Load::new(&limits)),
            limits,
        }
    }

    /// Every verb on every lattice: what `dev` gives everybody.
    pub fn to_everything(caller: Caller) -> Self {
        let rule = Rule {
            lattices: std::iter::once("*").collect(),
            verbs: VerbName::ALL.into_iter().collect(),
        };
        Self::new(caller, vec![rule], Limits::default())
    }

    /// Nothing at all.
    pub fn to_nothing(caller: Caller) -> Self {
        Self::new(caller, Vec::new(), Limits::default())
    }

    /// Goes on with the counts of an earlier configuration of the same caller, unless its limits are others now.
    pub fn go_on_from(&self, earlier: &Self) {
        if self.limits == earlier.limits {
            self.load.store(earlier.load());
        }
    }

    /// Who.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// How much.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is under way.
    pub fn load(&self) -> Arc<Load> {
        self.load.load_full()
    }

    /// What is granted.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether some rule grants the verb on the lattice.
    pub fn allows(&self, lattice: &str, verb: VerbName) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.verbs.contains(verb) && rule.lattices.contain(lattice))
    }

    /// Whether some rule grants the verb on every lattice.
    pub fn allows_on_all(&self, verb: VerbName) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.verbs.contains(verb) && rule.lattices.contain_all())
    }

    /// Whether the caller may see one of these lattices, where it exists.
    pub fn may_see_some_of(&self, lattices: &Names) -> bool {
        let mut reading = self
            .rules
            .iter()
            .filter(|rule| rule.verbs.contains(VerbName::Read));
        reading.any(|rule| rule.lattices.may_meet(lattices))
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

    /// Whether a text is a lattice's name, or a glob of one.
    pub fn is_of_lattices(text: &str) -> bool {
        LatticeName::parse(&text.replace('*', "x")).is_ok()
    }

    /// Whether every name matches.
    fn matches_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
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
    fn names_meet_where_some_lattice_may_be_among_both() {
        let names = |names: &[&str]| names.iter().copied().collect::<Names>();
        for (one, other, meet) in [
            (&["a"][..], &["a", "b"][..], true),
            (&["a"], &["b"], false),
            (&["a*"], &["ab"], true),
            (&["ab"], &["a*"], true),
            (&["a*"], &["b"], false),
            (&["a*"], &["*b"], true),
            (&[], &["*"], false),
        ] {
            assert_eq!(names(one).may_meet(&names(other)), meet, "{one:?} {other:?}");
        }
    }
}
