//! Named configs of wasmCloud 1.0 to 1.9: what links configure their ends with.

use super::{
    interface_link::config_name,
    invalid::Violations,
    link_definition::{Values, check_values},
};

/// What a config says, its name apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedConfig {
    /// By key.
    pub values: Values,
}

/// A config as a caller gives it, before anything of it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a, V> {
    /// Its name.
    pub name: &'a str,
    /// See [`NamedConfig`].
    pub values: V,
}

impl<'a, V> Unchecked<'a, V>
where
    V: ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
{
    /// Parses the config strictly, and notes every violation under `field`. Gives the name and the config.
    pub fn check(self, field: &str, violations: &mut Violations) -> Option<(Box<str>, NamedConfig)> {
        let name = violations.check(&format!("{field}.name"), config_name(self.name));
        let values = check_values(self.values, &format!("{field}.values"), violations);
        Some((name?, NamedConfig { values: values? }))
    }
}
