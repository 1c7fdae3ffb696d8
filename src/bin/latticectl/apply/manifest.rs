//! Reads manifests: what a lattice shall hold.
//!
//! Only their form is judged here, and what the comparison with the lattice needs: that no field is unknown, that no
//! entry stands twice, and what the claims tokens say. The rest is for the gateway.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use lattice_gateway::{
    control::lattices::Layout,
    proto::{entry::Entry, entry_identity::Identity},
};

use super::{
    document::{self, Content, Field, Mark, Node, Problem},
    fields::{Fields, did_you_mean},
};
use crate::{
    entry::{self, Kind},
    failure::CommandError,
    input,
};

/// The `kind` of a document that is an export of a lattice.
pub(crate) const EXPORT_KIND: &str = "Lattice";
/// The version of the form of exports.
pub(crate) const EXPORT_FORMAT: u32 = 1;
/// Endings of the files that a folder gives.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Problems that are told at once.
const PROBLEMS_TOLD_MAX: usize = 20;

/// An entry as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    pub(crate) entry: Entry,
    /// The token that claims come from.
    pub(crate) token: Option<String>,
    pub(crate) origin: Origin,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) file: Rc<str>,
    pub(crate) line: usize,
    pub(crate) document: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (document {})", self.file, self.line, self.document)
    }
}

/// What files hold.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// In their order.
    pub(crate) entries: Vec<Desired>,
    /// What exports among them say of themselves.
    pub(crate) headers: Vec<Header>,
}

impl Manifests {
    fn not_nothing(self) -> Result<Vec<Desired>, CommandError> {
        match self.entries.is_empty() {
            false => Ok(self.entries),
            true => Err(CommandError::Input(
                "there are no entries in what -f names".to_owned(),
            )),
        }
    }
}

/// What an export says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The lattice that it is of.
    pub(crate) lattice: String,
    /// How that was kept.
    pub(crate) layout: Layout,
}

/// Reads all entries of files, folders and standard input, in their order. There is at least one.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Desired>, CommandError> {
    read_all(paths)?.not_nothing()
}

/// Reads all that files, folders and standard input hold.
pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Manifests, CommandError> {
    let mut reader = Reader::default();
    for path in paths {
        for file in files(path)? {
            let bytes = input::bytes(&file)?;
            reader.file(&file, bytes);
        }
    }
    reader.finish()
}

/// The files that a path stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>, CommandError> {
    if path == Path::new(input::STDIN) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    files_below(path, &mut files)
        .map_err(|error| CommandError::Input(format!("cannot list {}: {error}", path.display())))?;
    if files.is_empty() {
        return Err(CommandError::Input(format!(
            "{} has no .yaml, .yml or .json file",
            path.display()
        )));
    }
    files.sort();
    Ok(files)
}

/// Leaves out what is hidden: editors' copies, and the folders behind a mounted `ConfigMap`.
fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // Not what a link leads to: that could be the folder itself.
        if entry.file_type()?.is_dir() {
            files_below(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|ending| ENDINGS.iter().any(|it| ending == *it))
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Gathers entries and everything that is wrong with them.
#[derive(Default)]
struct Reader {
    read: Manifests,
    /// Which entry has an identity.
    known: HashMap<Identity, usize>,
    problems: Vec<String>,
}

/// A document that is being read.
struct Document<'a> {
    file: &'a Rc<str>,
    /// Files that it names are relative to this.
    folder: &'a Path,
    number: usize,
}

impl Reader {
    fn file(&mut self, path: &Path, bytes: Vec<u8>) {
        let file: Rc<str> = input::name(path).into();
        let Ok(text) = String::from_utf8(bytes) else {
            self.problems.push(format!("{file}: is not UTF-8"));
            return;
        };
        let folder = match path == Path::new(input::STDIN) {
            true => Path::new(""),
            false => path.parent().unwrap_or_else(|| Path::new("")),
        };
        let parsed = document::parse(&text, |number, root| {
            let document = Document {
                file: &file,
                folder,
                number,
            };
            self.document(&document, root);
            Ok(())
        });
        if let Err(Problem { mark, message }) = parsed {
            self.problems.push(format!("{file}:{mark}: {message}"));
        }
    }

    fn finish(self) -> Result<Manifests, CommandError> {
        let count = self.problems.len();
        if count == 0 {
            return Ok(self.read);
        }
        let mut told = self.problems;
        told.truncate(PROBLEMS_TOLD_MAX);
        if count > told.len() {
            told.push(format!("and {} problems more", count.saturating_sub(told.len())));
        }
        Err(CommandError::Manifest(told))
    }

    fn problem(&mut self, document: &Document<'_>, Problem { mark, message }: Problem) {
        let Document { file, number, .. } = document;
        self.problems
            .push(format!("{file}:{mark}: document {number}: {message}"));
    }

    /// Reads an entry, lists of entries by kind, or a list of any of them.
    fn document(&mut self, document: &Document<'_>, node: &Node) {
        match &node.content {
            Content::List(list) => {
                for node in list {
                    self.document(document, node);
                }
            }
            Content::Fields(fields) if fields.iter().any(|field| field.name == "kind") => {
                self.by_kind(document, node.mark, fields);
            }
            Content::Fields(fields) => self.groups(document, node.mark, fields),
            Content::Nothing | Content::Text(_) => {
                let sort = node.sort();
                let problem = node
                    .mark
                    .problem(format!("is {sort}, not an entry or a list of entries"));
                self.problem(document, problem);
            }
        }
    }

    /// Reads what says its `kind`.
    fn by_kind(&mut self, document: &Document<'_>, mark: Mark, given: &[Field]) {
        let mut fields = Fields::new("", mark, given);
        let kind = fields.text("kind");
        fields.api_version();
        if kind == "List" {
            let items = fields.nodes("items");
            self.problems_of(document, fields.finish());
            for node in items {
                self.document(document, node);
            }
            return;
        }
        if kind == EXPORT_KIND {
            self.read.headers.extend(fields.header());
            return self.lists(document, fields);
        }
        if let Some(kind) = Kind::ALL.into_iter().find(|it| it.resource() == kind) {
            return self.entry(document, kind, fields);
        }
        let known: Vec<_> = Kind::ALL.map(Kind::resource).into();
        let problem = mark.problem(format!(
            "`kind` is {kind:?}, and there are {}, List and {EXPORT_KIND}{}",
            known.join(", "),
            did_you_mean(&kind, &known)
        ));
        self.problem(document, problem);
    }

    /// Reads lists of entries, each under the name that the API has for the list: so answers of lists are manifests.
    fn groups(&mut self, document: &Document<'_>, mark: Mark, given: &[Field]) {
        let mut fields = Fields::new("", mark, given);
        fields.api_version();
        let has_any = Kind::ALL.into_iter().any(|kind| fields.has(group(kind)));
        if !has_any && !fields.has("api_version") {
            let problem = mark.problem(
                "says no `kind`: give one, such as LinkDefinition, or lists of entries as claims, \
                 link_definitions, interface_links, oci_references, named_configs",
            );
            return self.problem(document, problem);
        }
        // What answers of lists have besides.
        fields.ignore("revision");
        if fields.text("values_omitted") == "true" {
            fields.problem(
                mark,
                "has no values, since who listed it may not read them (that needs `values:read`)",
            );
        }
        if !fields.text("next_page_token").is_empty() {
            fields.problem(
                mark,
                "is a part of a list, since it has a next_page_token; list all of it",
            );
        }
        self.lists(document, fields);
    }

    /// Reads the lists of entries that a mapping has.
    fn lists(&mut self, document: &Document<'_>, mut fields: Fields<'_>) {
        let groups = Kind::ALL.map(|kind| (kind, fields.nodes(group(kind))));
        self.problems_of(document, fields.finish());
        for (kind, nodes) in groups {
            for node in nodes {
                match &node.content {
                    Content::Fields(given) => {
                        self.entry(document, kind, Fields::new(kind.resource(), node.mark, given));
                    }
                    Content::Nothing | Content::Text(_) | Content::List(_) => {
                        let problem = format!("{}: is {}, not a mapping", group(kind), node.sort());
                        self.problem(document, node.mark.problem(problem));
                    }
                }
            }
        }
    }

    fn entry(&mut self, document: &Document<'_>, kind: Kind, mut fields: Fields<'_>) {
        fields.path = field_of(kind);
        for output_only in ["etag", "revision", "update_time"] {
            fields.ignore(output_only);
        }
        let mark = fields.mark;
        let (entry, token) = match kind {
            Kind::Claims => fields.claims(document.folder),
            Kind::Link => (Entry::LinkDefinition(fields.link_definition()), None),
            Kind::Iface => (Entry::InterfaceLink(fields.interface_link()), None),
            Kind::Ref => (Entry::OciReference(fields.oci_reference()), None),
            Kind::Config => (Entry::NamedConfig(fields.named_config()), None),
        };
        let problems = fields.finish();
        if !problems.is_empty() {
            return self.problems_of(document, problems);
        }
        let origin = Origin {
            file: Rc::clone(document.file),
            line: mark.line,
            document: document.number,
        };
        let identity = entry::identity(&entry);
        if let Some(first) = self
            .known
            .get(&identity)
            .and_then(|index| self.read.entries.get(*index))
        {
            let name = entry::name(&identity);
            let message = format!("{} {name} stands at {} already", kind.word(), first.origin);
            return self.problem(document, mark.problem(message));
        }
        self.known.insert(identity, self.read.entries.len());
        self.read.entries.push(Desired { entry, token, origin });
    }

    fn problems_of(&mut self, document: &Document<'_>, problems: Vec<Problem>) {
        for problem in problems {
            self.problem(document, problem);
        }
    }
}

/// The name of a list of these in the API.
fn group(kind: Kind) -> &'static str {
    match kind {
        Kind::Claims => "claims",
        Kind::Link => "link_definitions",
        Kind::Iface => "interface_links",
        Kind::Ref => "oci_references",
        Kind::Config => "named_configs",
    }
}

/// The name of the field that holds one in the API.
fn field_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Claims => "claims",
        Kind::Link => "link_definition",
        Kind::Iface => "interface_link",
        Kind::Ref => "oci_reference",
        Kind::Config => "named_config",
    }
}

#[cfg(test)]
mod tests;
