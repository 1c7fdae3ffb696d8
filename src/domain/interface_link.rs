//! Interface links of wasmCloud 1.0 to 1.9: a component may call another, over these interfaces of a WIT package.

use super::{
    hash::{LengthPrefixed, first_8},
    identifier::{self, bounded, within},
    invalid::{Invalid, Violations},
    link_definition::DEFAULT_LINK_NAME,
    revision::Tag,
};

/// Bytes in the id of a component or provider, at most.
pub const COMPONENT_ID_BYTES_MAX: usize = 128;
/// Bytes in a WIT namespace, package or interface, at most.
pub const WIT_NAME_BYTES_MAX: usize = 128;
/// Bytes in a config's name, at most.
pub const CONFIG_NAME_BYTES_MAX: usize = 128;
/// Interfaces of a link, and configs of either of its ends, at most.
pub const LINK_LIST_MAX: usize = 64;

/// What identifies an interface link for every host (wasmCloud 1.9.2, `link.put`), in the order of lists.
///
/// Loose: holds any five texts, since any stored link must be readable and deletable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceLinkId {
    /// The component or provider that calls.
    pub source_id: Box<str>,
    /// The link's name.
    pub name: Box<str>,
    /// The WIT namespace.
    pub wit_namespace: Box<str>,
    /// The WIT package.
    pub wit_package: Box<str>,
    /// The component or provider that is called.
    pub target: Box<str>,
}

impl InterfaceLinkId {
    /// Whether both are links of one source under one name of one package, to whatever targets.
    pub fn is_same_but_target(&self, other: &Self) -> bool {
        self.source_id == other.source_id
            && self.name == other.name
            && self.wit_namespace == other.wit_namespace
            && self.wit_package == other.wit_package
    }

    /// The parts, in the order of lists.
    pub fn parts(&self) -> [&str; 5] {
        [
            &self.source_id,
            &self.name,
            &self.wit_namespace,
            &self.wit_package,
            &self.target,
        ]
    }

    /// How the record of its source names it: the first 8 bytes of SHA-256(parts, each behind its length).
    pub fn short_hash(&self) -> [u8; 8] {
        let mut hash = LengthPrefixed::default();
        for part in self.parts() {
            hash.text(part);
        }
        first_8(&hash.finish())
    }
}

/// What an interface link says, its identity apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceLink {
    /// The interfaces of the package.
    pub interfaces: Box<[Box<str>]>,
    /// Named configs that configure the source.
    pub source_config: Box<[Box<str>]>,
    /// Named configs that configure the target.
    pub target_config: Box<[Box<str>]>,
}

impl InterfaceLink {
    /// Whether it serves an interface that the other one serves too. No interfaces overlap with nothing.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.interfaces
            .iter()
            .any(|interface| other.interfaces.contains(interface))
    }

    /// The named configs of both ends.
    pub fn configs(&self) -> impl Iterator<Item = &str> {
        self.source_config
            .iter()
            .chain(&self.target_config)
            .map(|name| &**name)
    }

    /// Identifies its content.
    pub fn tag(&self) -> Tag {
        let mut hash = LengthPrefixed::default();
        for list in [&self.interfaces, &self.source_config, &self.target_config] {
            hash.bytes(&u64::try_from(list.len()).unwrap_or(u64::MAX).to_be_bytes());
            for item in list {
                hash.text(item);
            }
        }
        Tag(first_8(&hash.finish()))
    }
}

/// A link as a caller gives it, before anything of it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a> {
    /// See [`InterfaceLinkId`].
    pub source_id: &'a str,
    /// See [`InterfaceLinkId`].
    pub target: &'a str,
    /// Empty means `default`.
    pub name: &'a str,
    /// See [`InterfaceLinkId`].
    pub wit_namespace: &'a str,
    /// See [`InterfaceLinkId`].
    pub wit_package: &'a str,
    /// See [`InterfaceLink`].
    pub interfaces: &'a [String],
    /// See [`InterfaceLink`].
    pub source_config: &'a [String],
    /// See [`InterfaceLink`].
    pub target_config: &'a [String],
}

impl Unchecked<'_> {
    /// Parses the link strictly, and notes every violation under `field`. Hosts check next to nothing and put what they
    /// are given into NATS subjects as it is, so that a target of `*` misdirects them (wasmCloud 1.9.2).
    pub fn check(self, field: &str, violations: &mut Violations) -> Option<(InterfaceLinkId, InterfaceLink)> {
        let mut at = |part: &str, parsed| violations.check(&format!("{field}.{part}"), parsed);
        let source_id = at("source_id", component_id(self.source_id));
        let target = at("target", component_id(self.target));
        let name = match self.name {
            "" => Some(DEFAULT_LINK_NAME.into()),
            given => at("name", identifier::link_name(given)),
        };
        let wit_namespace = at("wit_namespace", wit_name(self.wit_namespace));
        let wit_package = at("wit_package", wit_name(self.wit_package));
        let interfaces = interfaces(self.interfaces, &format!("{field}.interfaces"), violations);
        let mut configs =
            |part: &str, names: &[String]| list(&format!("{field}.{part}"), names, config_name, violations);
        let source_config = configs("source_config", self.source_config);
        let target_config = configs("target_config", self.target_config);
        Some((
            InterfaceLinkId {
                source_id: source_id?,
                name: name?,
                wit_namespace: wit_namespace?,
                wit_package: wit_package?,
                target: target?,
            },
            InterfaceLink {
                interfaces: interfaces?,
                source_config: source_config?,
                target_config: target_config?,
            },
        ))
    }
}

/// Checks the id of a component or provider, `[A-Za-z0-9_-]{1,128}`, the alphabet that `wash` documents.
fn component_id(text: &str) -> Result<Box<str>, Invalid> {
    bounded("component_id_bytes_max", COMPONENT_ID_BYTES_MAX, text)?;
    within("A-Z a-z 0-9 _ -", text, |byte| {
        byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
    })?;
    Ok(text.into())
}

/// Checks a namespace, package or interface: kebab-case (the WIT specification, "identifiers").
fn wit_name(text: &str) -> Result<Box<str>, Invalid> {
    bounded("wit_name_bytes_max", WIT_NAME_BYTES_MAX, text)?;
    within("A-Z a-z 0-9 -", text, |byte| {
        byte.is_ascii_alphanumeric() || byte == b'-'
    })?;
    Ok(text.into())
}

/// Checks the name of a config, `[A-Za-z0-9_=/-]{1,128}`: what hosts can store and put into a subject (wasmCloud 1.9.2).
pub fn config_name(text: &str) -> Result<Box<str>, Invalid> {
    bounded("config_name_bytes_max", CONFIG_NAME_BYTES_MAX, text)?;
    within("A-Z a-z 0-9 _ - = /", text, |byte| {
        byte.is_ascii_alphanumeric() || b"_-=/".contains(&byte)
    })?;
    Ok(text.into())
}

fn interfaces(given: &[String], field: &str, violations: &mut Violations) -> Option<Box<[Box<str>]>> {
    if given.is_empty() {
        return violations.check(field, Err(Invalid::Missing));
    }
    let parsed = list(field, given, wit_name, violations)?;
    let twice = given.iter().enumerate().find(|(place, name)| {
        let before = given.iter().take(*place);
        before.into_iter().any(|earlier| earlier == *name)
    });
    match twice {
        None => Some(parsed),
        Some((place, _)) => violations.check(
            &format!("{field}[{place}]"),
            Err(Invalid::Rule("is named twice; name it once")),
        ),
    }
}

fn list(
    field: &str,
    given: &[String],
    parse: impl Fn(&str) -> Result<Box<str>, Invalid>,
    violations: &mut Violations,
) -> Option<Box<[Box<str>]>> {
    if given.len() > LINK_LIST_MAX {
        let invalid = Invalid::TooLong {
            limit: "link_list_max",
            max: LINK_LIST_MAX,
            actual: given.len(),
        };
        return violations.check(field, Err(invalid));
    }
    let parsed = given
        .iter()
        .enumerate()
        .map(|(place, text)| violations.check(&format!("{field}[{place}]"), parse(text)))
        .collect::<Vec<_>>();
    parsed.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static INTERFACES: LazyLock<[String; 1]> = LazyLock::new(|| ["incoming-handler".to_owned()]);

    fn good() -> Unchecked<'static> {
        Unchecked {
            source_id: "http-server",
            target: "hello",
            name: "",
            wit_namespace: "wasi",
            wit_package: "http",
            interfaces: &*INTERFACES,
            source_config: &[],
            target_config: &[],
        }
    }

    fn refused(link: Unchecked<'_>) -> Vec<String> {
        let mut violations = Violations::new();
        let parsed = link.check("link", &mut violations);
        assert_eq!(parsed.is_some(), violations.is_empty());
        violations
            .iter()
            .map(|violation| violation.field.clone())
            .collect()
    }

    #[test]
    fn an_ordinary_link_is_taken_and_named_default() {
        assert_eq!(refused(good()), Vec::<String>::new());
        let (id, _) = good().check("link", &mut Violations::new()).unwrap();
        assert_eq!(&*id.name, "default");
    }

    #[test]
    fn what_would_misdirect_a_host_is_refused_by_its_field() {
        let long = "a".repeat(129);
        for hostile in ["", "*", ">", "a.b", "a b", "a\r\nPUB x 0", "é", &long] {
            let listed = &[hostile.to_owned()][..];
            #[rustfmt::skip]
            let links = [
                ("link.source_id", Unchecked { source_id: hostile, ..good() }),
                ("link.target", Unchecked { target: hostile, ..good() }),
                ("link.wit_namespace", Unchecked { wit_namespace: hostile, ..good() }),
                ("link.wit_package", Unchecked { wit_package: hostile, ..good() }),
                ("link.interfaces[0]", Unchecked { interfaces: listed, ..good() }),
                ("link.source_config[0]", Unchecked { source_config: listed, ..good() }),
                ("link.target_config[0]", Unchecked { target_config: listed, ..good() }),
            ];
            for (field, link) in links {
                assert_eq!(refused(link), [field], "{hostile:?}");
            }
        }
    }

    #[test]
    fn lists_are_bounded_and_name_nothing_twice() {
        let twice = ["a".to_owned(), "a".to_owned()];
        let many = vec!["a".to_owned(); LINK_LIST_MAX + 1];
        #[rustfmt::skip]
        let links = [
            ("link.interfaces[1]", Unchecked { interfaces: &twice, ..good() }),
            ("link.interfaces", Unchecked { interfaces: &[], ..good() }),
            ("link.target_config", Unchecked { target_config: &many, ..good() }),
        ];
        for (field, link) in links {
            assert_eq!(refused(link), [field]);
        }
    }

    #[test]
    fn the_tag_is_of_the_content_alone() {
        let link = |interfaces: &[&str], source: &[&str]| InterfaceLink {
            interfaces: interfaces.iter().map(|text| (*text).into()).collect(),
            source_config: source.iter().map(|text| (*text).into()).collect(),
            target_config: Box::default(),
        };
        assert_eq!(link(&["a"], &[]).tag(), link(&["a"], &[]).tag());
        assert_ne!(link(&["a"], &[]).tag(), link(&[], &["a"]).tag());
        assert_ne!(link(&["a", "b"], &[]).tag(), link(&["ab"], &[]).tag());
    }
}
