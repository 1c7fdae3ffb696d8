//! The fields of an entry in a manifest.

use std::{collections::BTreeMap, fmt, path::Path, rc::Rc};

use lattice_gateway::{
    control::lattices::Layout,
    domain::{claims_token, link_definition::DEFAULT_LINK_NAME},
    proto::{Claims, InterfaceLink, LinkDefinition, NamedConfig, OciReference, PACKAGE, entry::Entry},
};

use super::{
    document::{Content, Field, Mark, Node, Problem},
    manifest::{EXPORT_FORMAT, Header},
};
use crate::token;

/// The version of the format, for those who like to write one.
const API_VERSION: &str = PACKAGE;
/// How alike a name must be to one that there is to be suggested.
const ALIKE_MIN: f64 = 0.8;

/// The fields of one mapping: each is asked for by name, and what nobody asked for is unknown.
pub(super) struct Fields<'n> {
    /// Stands before their names in messages; may be empty.
    pub(super) path: &'static str,
    pub(super) mark: Mark,
    given: &'n [Field],
    asked: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'n> Fields<'n> {
    pub(super) fn new(path: &'static str, mark: Mark, given: &'n [Field]) -> Self {
        Self {
            path,
            mark,
            given,
            asked: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn claims(&mut self, folder: &Path) -> (Entry, Option<String>) {
        if let Some(field) = self.take("jwt_file") {
            let file = self.text_of("jwt_file", &field.node);
            return match token::in_file(&folder.join(file)) {
                Ok(token) => self.signed(field.mark, token),
                Err(error) => {
                    self.problem(field.mark, format!("jwt_file: {}", error.message()));
                    (Entry::Claims(Claims::default()), None)
                }
            };
        }
        if let Some(field) = self.take("jwt") {
            let token = self.text_of("jwt", &field.node);
            return self.signed(field.mark, token.trim().to_owned());
        }
        let mut claims = Claims {
            public_key: self.required("public_key"),
            issuer: self.text("issuer"),
            name: self.text("name"),
            call_alias: self.text("call_alias"),
            capabilities: self.list("capabilities"),
            tags: self.list("tags"),
            claims_revision: self.text("claims_revision"),
            version: self.text("version"),
            contract_id: self.text("contract_id"),
            config_schema: self.text("config_schema"),
            ..Claims::default()
        };
        // As the gateway fills it in.
        if claims.claims_revision.is_empty() {
            "0".clone_into(&mut claims.claims_revision);
        }
        (Entry::Claims(claims), None)
    }

    /// Claims as the gateway will make them of a token.
    fn signed(&mut self, mark: Mark, token: String) -> (Entry, Option<String>) {
        match claims_token::verify(&token) {
            Ok(verified) => (Entry::Claims(flat(&verified)), Some(token)),
            Err(refused) => {
                self.problem(mark, refused.to_string());
                (Entry::Claims(Claims::default()), None)
            }
        }
    }

    pub(super) fn link_definition(&mut self) -> LinkDefinition {
        LinkDefinition {
            actor_id: self.required("actor_id"),
            provider_id: self.required("provider_id"),
            contract_id: self.required("contract_id"),
            link_name: self.name("link_name"),
            values: self.values("values"),
            ..LinkDefinition::default()
        }
    }

    pub(super) fn interface_link(&mut self) -> InterfaceLink {
        InterfaceLink {
            source_id: self.required("source_id"),
            target: self.required("target"),
            name: self.name("name"),
            wit_namespace: self.required("wit_namespace"),
            wit_package: self.required("wit_package"),
            interfaces: self.list("interfaces"),
            source_config: self.list("source_config"),
            target_config: self.list("target_config"),
            ..InterfaceLink::default()
        }
    }

    pub(super) fn oci_reference(&mut self) -> OciReference {
        OciReference {
            oci_url: self.required("oci_url"),
            public_key: self.required("public_key"),
            ..OciReference::default()
        }
    }

    pub(super) fn named_config(&mut self) -> NamedConfig {
        NamedConfig {
            name: self.required("name"),
            values: self.values("values"),
            ..NamedConfig::default()
        }
    }

    /// Notes a problem of the mapping, or of a field that the message names.
    pub(super) fn problem(&mut self, mark: Mark, message: impl fmt::Display) {
        let separator = if self.path.is_empty() { "" } else { "." };
        self.problems
            .push(mark.problem(format!("{}{separator}{message}", self.path)));
    }

    /// Takes a field by its name in the API or in canonical JSON.
    fn take(&mut self, name: &'static str) -> Option<&'n Field> {
        self.asked.push(name);
        let mut found = self.given.iter().filter(|field| is_named(&field.name, name));
        let first = found.next();
        if let Some(second) = found.next() {
            self.problem(
                second.mark,
                format!("{}: stands there already as {name}", second.name),
            );
        }
        first
    }

    /// True where the field is there.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.given.iter().any(|field| is_named(&field.name, name))
    }

    pub(super) fn ignore(&mut self, name: &'static str) {
        self.take(name);
    }

    /// What an export says of itself.
    pub(super) fn header(&mut self) -> Option<Header> {
        let mark = self.mark;
        let format = self.required("format");
        if format != EXPORT_FORMAT.to_string() {
            self.problem(
                mark,
                format!("format: is {format:?}, and only {EXPORT_FORMAT} is known"),
            );
        }
        let lattice = self.required("lattice");
        let layout = self.required("layout");
        let Some(layout) = Layout::parse(&layout) else {
            let known = Layout::ALL.map(Layout::as_str).join(", ");
            self.problem(mark, format!("layout: is {layout:?}, and there are {known}"));
            return None;
        };
        Some(Header { lattice, layout })
    }

    pub(super) fn api_version(&mut self) {
        let Some(field) = self.take("api_version") else {
            return;
        };
        let version = self.text_of("api_version", &field.node);
        if version != API_VERSION {
            self.problem(
                field.mark,
                format!("{}: is {version:?}, and only {API_VERSION} is known", field.name),
            );
        }
    }

    /// Empty where the field is not there.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        match self.take(name) {
            Some(field) => self.text_of(name, &field.node),
            None => String::new(),
        }
    }

    fn required(&mut self, name: &'static str) -> String {
        if let Some(field) = self.take(name) {
            return self.text_of(name, &field.node);
        }
        self.problem(self.mark, format!("{name}: is missing"));
        String::new()
    }

    /// The name of a link.
    fn name(&mut self, name: &'static str) -> String {
        match self.text(name) {
            given if given.is_empty() => DEFAULT_LINK_NAME.to_owned(),
            given => given,
        }
    }

    pub(super) fn nodes(&mut self, name: &'static str) -> &'n [Rc<Node>] {
        match self.take(name) {
            None => &[],
            Some(field) => match &field.node.content {
                Content::List(list) => list,
                Content::Nothing | Content::Text(_) | Content::Fields(_) => {
                    let sort = field.node.sort();
                    self.problem(field.node.mark, format!("{name}: is {sort}, not a list"));
                    &[]
                }
            },
        }
    }

    fn list(&mut self, name: &'static str) -> Vec<String> {
        let nodes = self.nodes(name);
        nodes.iter().map(|node| self.text_of(name, node)).collect()
    }

    fn values(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(field) = self.take(name) else {
            return BTreeMap::new();
        };
        let Content::Fields(values) = &field.node.content else {
            let sort = field.node.sort();
            self.problem(
                field.node.mark,
                format!("{name}: is {sort}, not a mapping of texts"),
            );
            return BTreeMap::new();
        };
        let value = |value: &Field| {
            let path = format!("{name}.{}", value.name);
            (value.name.clone(), self.text_of(&path, &value.node))
        };
        values.iter().map(value).collect()
    }

    fn text_of(&mut self, path: &str, node: &Node) -> String {
        match &node.content {
            Content::Text(text) => return text.clone(),
            Content::Nothing => self.problem(
                node.mark,
                format!("{path}: has no value; write \"\" for an empty text"),
            ),
            Content::List(_) | Content::Fields(_) => {
                self.problem(node.mark, format!("{path}: is {}, not a text", node.sort()));
            }
        }
        String::new()
    }

    /// Everything that is wrong, unknown fields included.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        for field in self.given {
            if !self.asked.iter().any(|name| is_named(&field.name, name)) {
                let suggestion = did_you_mean(&field.name, &self.asked);
                self.problem(field.mark, format!("{}: unknown field{suggestion}", field.name));
            }
        }
        self.problems
    }
}

/// Claims as they will stand, what a layout does not keep included.
fn flat(verified: &claims_token::VerifiedToken) -> Claims {
    let list = |joined: &str| match joined {
        "" => Vec::new(),
        joined => joined.split(',').map(str::to_owned).collect(),
    };
    let claims = &verified.claims;
    Claims {
        public_key: verified.subject.as_str().to_owned(),
        issuer: claims.issuer.to_string(),
        name: claims.name.to_string(),
        call_alias: claims.call_alias.to_string(),
        capabilities: list(&claims.capabilities),
        tags: list(&claims.tags),
        claims_revision: claims.revision.to_string(),
        version: claims.version.as_deref().unwrap_or_default().to_owned(),
        contract_id: claims.contract_id.to_string(),
        config_schema: claims.config_schema.to_string(),
        ..Claims::default()
    }
}

/// Compares a name with one of the API, or with that as canonical JSON writes it: without underscores, and the letter
/// behind each as a capital.
fn is_named(given: &str, name: &str) -> bool {
    let mut after_underscore = false;
    let camel = name.chars().filter_map(|letter| {
        let capital = std::mem::replace(&mut after_underscore, letter == '_');
        match letter {
            '_' => None,
            letter if capital => Some(letter.to_ascii_uppercase()),
            letter => Some(letter),
        }
    });
    given == name || camel.eq(given.chars())
}

/// Suggests the name that is most like one, if any is.
pub(super) fn did_you_mean(given: &str, names: &[&str]) -> String {
    let alike = |name: &&&str| strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase());
    let best = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match best {
        Some(best) if alike(&best) >= ALIKE_MIN => format!("; did you mean {best}?"),
        Some(_) | None => String::new(),
    }
}
