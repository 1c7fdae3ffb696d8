//! Link definitions: an actor may call a provider, under a contract and a name, with these values.

use serde::{Serialize, Serializer};

use super::{
    identifier::{self, bounded},
    invalid::{Invalid, Violations},
    nkey::{Nkey, NkeyKind},
};

/// Values of a link, at most.
pub const VALUES_MAX: usize = 256;
/// Characters in the key of a value, at most: the BEAM's limit for an atom, which hosts since 0.57.2 make of it.
pub const VALUE_KEY_CHARACTERS_MAX: usize = 255;
/// The name of a link that is given none.
pub const DEFAULT_LINK_NAME: &str = "default";

/// What identifies a link for every host: actor, contract and name, in this order.
///
/// Loose: holds any three texts, since any stored link must be readable and deletable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    /// The actor that calls.
    pub actor_id: Box<str>,
    /// The contract it calls under.
    pub contract_id: Box<str>,
    /// The link's name.
    pub link_name: Box<str>,
}

impl LinkId {
    /// Of any three texts.
    pub fn new(actor_id: &str, contract_id: &str, link_name: &str) -> Self {
        Self {
            actor_id: actor_id.into(),
            contract_id: contract_id.into(),
            link_name: link_name.into(),
        }
    }
}

/// What a link says, its identity apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkDefinition {
    /// The provider that is called.
    pub provider_id: Box<str>,
    /// What the provider is configured with for this actor, by key.
    pub values: Values,
}

/// String to string, kept sorted by key: smaller than a map, and equal when its content is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(Box<[(Box<str>, Box<str>)]>);

impl Values {
    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// As an object of texts.
impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Values {
    /// Collects pairs of distinct keys.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut pairs: Vec<(Box<str>, Box<str>)> = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        pairs.sort_unstable();
        Self(pairs.into())
    }
}

/// A link as a caller gives it, before anything of it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a, V> {
    /// See [`LinkId`].
    pub actor_id: &'a str,
    /// See [`LinkDefinition`].
    pub provider_id: &'a str,
    /// See [`LinkId`].
    pub contract_id: &'a str,
    /// Empty means `default`.
    pub link_name: &'a str,
    /// See [`LinkDefinition`].
    pub values: V,
}

impl<'a, V> Unchecked<'a, V>
where
    V: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
{
    /// Parses the link strictly, and notes every violation under `field`.
    pub fn check(self, field: &str, violations: &mut Violations) -> Option<(LinkId, LinkDefinition)> {
        let mut at = |part: &str, parsed| violations.check(&format!("{field}.{part}"), parsed);
        let actor = at("actor_id", boxed_nkey(self.actor_id, NkeyKind::Module));
        let provider = at("provider_id", boxed_nkey(self.provider_id, NkeyKind::Provider));
        let contract = at("contract_id", identifier::contract_id(self.contract_id));
        let name = match self.link_name {
            "" => Some(DEFAULT_LINK_NAME.into()),
            given => at("link_name", identifier::link_name(given)),
        };
        let values = check_values(self.values, &format!("{field}.values"), violations);
        Some((
            LinkId {
                actor_id: actor?,
                contract_id: contract?,
                link_name: name?,
            },
            LinkDefinition {
                provider_id: provider?,
                values: values?,
            },
        ))
    }
}

fn boxed_nkey(text: &str, kind: NkeyKind) -> Result<Box<str>, Invalid> {
    Nkey::parse(text, &[kind]).map(|nkey| nkey.as_str().into())
}

/// Checks the values of a link or a config, and notes every violation under `field`.
pub(super) fn check_values<'a>(
    values: impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
    field: &str,
    violations: &mut Violations,
) -> Option<Values> {
    if values.len() > VALUES_MAX {
        violations.add(
            field,
            Invalid::TooLong {
                limit: "values_max",
                max: VALUES_MAX,
                actual: values.len(),
            },
        );
        return None;
    }
    let mut refused = false;
    for (key, _) in values.clone() {
        if let Err(invalid) = value_key(key) {
            refused = true;
            violations.add(format!("{field}[{}]", shortened(key)), invalid);
        }
    }
    (!refused).then(|| values.collect())
}

fn value_key(key: &str) -> Result<(), Invalid> {
    bounded("value_key_characters_max", usize::MAX, key)?;
    match key.chars().count() {
        actual if actual > VALUE_KEY_CHARACTERS_MAX => Err(Invalid::TooLong {
            limit: "value_key_characters_max",
            max: VALUE_KEY_CHARACTERS_MAX,
            actual,
        }),
        _ => Ok(()),
    }
}

/// Enough of a key to find it by.
fn shortened(key: &str) -> String {
    format!("{:?}", key.chars().take(40).collect::<String>())
}
