//! Why a value is refused, and where in the request it stood.
//!
//! A parser says *why* ([`Invalid`]); the caller of the parser knows *where* and makes a [`Violation`] of it.

use std::fmt;

/// Why a value is refused. Its text completes the sentence "the field …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A required value is absent or empty.
    Missing,
    /// A named limit is exceeded.
    TooLong {
        /// The limit's name, as `GetServerInfo` calls it.
        limit: &'static str,
        /// The most that is allowed.
        max: usize,
        /// What was given.
        actual: usize,
    },
    /// A character outside the alphabet.
    Character {
        /// Its byte offset.
        at: usize,
        /// The character.
        found: char,
        /// The alphabet, for people.
        allowed: &'static str,
    },
    /// Anything else, as a fixed sentence that also says the way out.
    Rule(&'static str),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is required"),
            Self::TooLong { limit, max, actual } => {
                write!(f, "is over the limit {limit}: {actual}, at most {max}")
            }
            Self::Character { at, found, allowed } => write!(
                f,
                "has the character {found:?} at byte {at}; allowed are {allowed}"
            ),
            Self::Rule(sentence) => f.write_str(sentence),
        }
    }
}

/// A refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path in the request, such as `link_definition.actor_id`.
    pub field: String,
    /// Why.
    pub invalid: Invalid,
}

/// Collects every violation of a request, so that the caller sees all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Starts with none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a violation.
    pub fn add(&mut self, field: impl Into<String>, invalid: Invalid) {
        self.0.push(Violation {
            field: field.into(),
            invalid,
        });
    }

    /// Keeps the value of a successful parse, or notes why it failed.
    pub fn check<T>(&mut self, field: &str, parsed: Result<T, Invalid>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(invalid) => {
                self.add(field, invalid);
                None
            }
        }
    }

    /// The same, of fields that are within another.
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        for violation in &mut self.0 {
            violation.field = format!("{field}.{}", violation.field);
        }
        self
    }

    /// Notes those of another part of the request, too.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// True while there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order they were noted.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }
}

impl From<Violation> for Violations {
    fn from(violation: Violation) -> Self {
        Self(vec![violation])
    }
}
