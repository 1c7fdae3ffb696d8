//! Claims: who a component or provider is, flattened from its module token as hosts keep it.

use super::{
    identifier::{self, bounded, within},
    invalid::{Invalid, Violations},
    nkey::{Nkey, NkeyKind},
};

/// Bytes in a descriptive text of unsigned claims, at most.
pub const TEXT_BYTES_MAX: usize = 256;
/// Items in a list of unsigned claims, at most.
pub const LIST_MAX: usize = 256;

/// What claims say, their key apart. Lists are comma-joined, as hosts before 0.81 keep them. Not every layout keeps all of
/// it.
///
/// Loose: holds whatever a stream stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The account that signed.
    pub issuer: Box<str>,
    /// The display name.
    pub name: Box<str>,
    /// The alias by which actors call this one; empty for none.
    pub call_alias: Box<str>,
    /// Contract ids, comma-joined.
    pub capabilities: Box<str>,
    /// Tags, comma-joined.
    pub tags: Box<str>,
    /// A decimal number.
    pub revision: Box<str>,
    /// For people. Hosts write JSON `null` where a module has none; the gateway never does.
    pub version: Option<Box<str>>,
    /// The contract that a provider serves.
    pub contract_id: Box<str>,
    /// A provider's configuration schema, as JSON.
    pub config_schema: Box<str>,
}

/// Unsigned claims as a caller gives them, before anything of them is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a> {
    /// The key of the actor or provider.
    pub public_key: &'a str,
    /// See [`Claims`].
    pub issuer: &'a str,
    /// See [`Claims`].
    pub name: &'a str,
    /// See [`Claims`].
    pub call_alias: &'a str,
    /// One item a contract id.
    pub capabilities: &'a [String],
    /// One item a tag.
    pub tags: &'a [String],
    /// See [`Claims`].
    pub revision: &'a str,
    /// See [`Claims`].
    pub version: &'a str,
    /// See [`Claims`]; not every layout keeps it.
    pub contract_id: &'a str,
    /// See [`Claims`]; not every layout keeps it.
    pub config_schema: &'a str,
}

impl Unchecked<'_> {
    /// Parses the claims strictly, and notes every violation under `field`. Gives the key and the claims.
    pub fn check(self, field: &str, violations: &mut Violations) -> Option<(Nkey, Claims)> {
        let mut at = |part: &str, parsed| violations.check(&format!("{field}.{part}"), parsed);
        let kinds = [NkeyKind::Module, NkeyKind::Provider];
        let issuer = at(
            "issuer",
            Nkey::parse(self.issuer, &[NkeyKind::Account]).map(|key| key.as_str().into()),
        );
        let name = at("name", required_text(self.name));
        let call_alias = at("call_alias", call_alias(self.call_alias));
        let capabilities = at("capabilities", comma_joined(self.capabilities));
        let tags = at("tags", comma_joined(self.tags));
        let revision = at("claims_revision", revision(self.revision));
        let version = at("version", text(self.version));
        let contract_id = match self.contract_id {
            "" => Some("".into()),
            given => at("contract_id", identifier::contract_id(given)),
        };
        let config_schema = at("config_schema", json_text(self.config_schema));
        let key = violations.check(
            &format!("{field}.public_key"),
            Nkey::parse(self.public_key, &kinds),
        );
        Some((
            key?,
            Claims {
                issuer: issuer?,
                name: name?,
                call_alias: call_alias?,
                capabilities: capabilities?,
                tags: tags?,
                revision: revision?,
                version: Some(version?),
                contract_id: contract_id?,
                config_schema: config_schema?,
            },
        ))
    }
}

fn text(text: &str) -> Result<Box<str>, Invalid> {
    if !text.is_empty() {
        bounded("claims_text_bytes_max", TEXT_BYTES_MAX, text)?;
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::Rule("must not hold control characters"));
    }
    Ok(text.into())
}

fn required_text(given: &str) -> Result<Box<str>, Invalid> {
    match given {
        "" => Err(Invalid::Missing),
        given => text(given),
    }
}

/// Accepts what signing tools leave of an alias: they lower it, trim it, drop what is not ASCII, and turn
/// space, `-` and `.` into `_` (wascap 0.6–0.16).
fn call_alias(alias: &str) -> Result<Box<str>, Invalid> {
    within(
        "printable ASCII but capitals, space, `-`, `.` (write `_`)",
        alias,
        |byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase() && !matches!(byte, b'-' | b'.'),
    )?;
    text(alias)
}

fn comma_joined(items: &[String]) -> Result<Box<str>, Invalid> {
    if items.len() > LIST_MAX {
        return Err(Invalid::TooLong {
            limit: "claims_list_max",
            max: LIST_MAX,
            actual: items.len(),
        });
    }
    for item in items {
        required_text(item)?;
        if item.contains(',') {
            return Err(Invalid::Rule(
                "has an item with a comma; hosts keep the list comma-joined",
            ));
        }
    }
    Ok(items.join(",").into())
}

/// A module's revision is an i32 in its token; hosts write it in decimal.
fn revision(text: &str) -> Result<Box<str>, Invalid> {
    match text {
        "" => Ok("0".into()),
        text => match text.parse::<i32>() {
            Ok(number) if number >= 0 && number.to_string() == text => Ok(text.into()),
            _ => Err(Invalid::Rule("must be a decimal number from 0 to 2147483647")),
        },
    }
}

/// Hosts of wasmCloud 1.9.2 show a schema that is no JSON as an empty one.
fn json_text(text: &str) -> Result<Box<str>, Invalid> {
    if text.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Ok(text.into());
    }
    Err(Invalid::Rule("must be JSON, or empty"))
}
