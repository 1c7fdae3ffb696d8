//! Reads YAML, and JSON as a part of it, into trees whose nodes know where they stand.
//!
//! A scalar is the text that is written: `no`, `1.10` and `0x1f` are not what a schema would make of them.
//! Whatever two readers could understand differently is refused: keys that stand twice, merge keys, tags.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    rc::Rc,
};

use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag, options};

/// Deeper than any manifest; bounds what the parser keeps.
const DEPTH_MAX: usize = 16;
/// Nodes in a file, those that aliases repeat counted as often as they stand.
const NODES_MAX: usize = 10_000_000;

/// Where something stands, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) mark: Mark,
    pub(crate) message: String,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) content: Content,
    /// Nodes beneath, this one included.
    weight: usize,
}

#[derive(Debug)]
pub(crate) enum Content {
    Nothing,
    Text(String),
    List(Vec<Rc<Node>>),
    Fields(Vec<Field>),
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) mark: Mark,
    pub(crate) node: Rc<Node>,
}

/// Parses text and gives its documents one after the other, each with its number from 1. Empty ones are counted
/// and left out.
pub(crate) fn parse(
    text: &str,
    mut document: impl FnMut(usize, &Node) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let options = options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        // As libyaml, which readers of Kubernetes manifests are made from.
        block_scalar_eof_without_line_feed: true,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| Problem {
            mark: Mark::from(error.marker()),
            message: format!("is neither YAML nor JSON: {}", error.info()),
        })?;
        if let Some(root) = builder.take(event, Mark::from(&span.start))? {
            match root.content {
                Content::Nothing => {}
                Content::Text(_) | Content::List(_) | Content::Fields(_) => {
                    document(builder.documents, &root)?;
                }
            }
        }
    }
    Ok(())
}

impl From<&Marker> for Mark {
    fn from(marker: &Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col().saturating_add(1),
        }
    }
}

impl Mark {
    pub(crate) fn problem(self, message: impl Into<String>) -> Problem {
        Problem {
            mark: self,
            message: message.into(),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl Node {
    /// What it is, for messages.
    pub(crate) fn sort(&self) -> &'static str {
        match self.content {
            Content::Nothing => "nothing",
            Content::Text(_) => "a text",
            Content::List(_) => "a list",
            Content::Fields(_) => "a mapping",
        }
    }
}

/// Makes nodes of events.
#[derive(Default)]
struct Builder {
    documents: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    root: Option<Rc<Node>>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    mark: Mark,
    anchor: usize,
    weight: usize,
    content: Content,
    /// The name of the field whose value comes next.
    name: Option<(String, Mark)>,
}

impl Builder {
    /// Takes an event; gives the document that it ends.
    fn take(&mut self, event: Event<'_>, mark: Mark) -> Result<Option<Rc<Node>>, Problem> {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::Anchor(..) | Event::UnresolvedAlias(_) => {}
            Event::DocumentStart(..) => {
                self.documents = self.documents.saturating_add(1);
                self.anchors.clear();
            }
            Event::DocumentEnd => return Ok(self.root.take()),
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = check_tag(tag.as_deref(), "str", mark)?;
                let plain = style == ScalarStyle::Plain && !is_text;
                if self.expects_name() {
                    return self.name(text.into_owned(), plain, mark).map(|()| None);
                }
                let content = match text.as_ref() {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Content::Nothing,
                    text => Content::Text(text.to_owned()),
                };
                self.complete(mark, anchor, 1, content)?;
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(mark.problem("is an alias of what contains it"));
                };
                if self.expects_name() {
                    return Err(mark.problem("is an alias; write the field's name out"));
                }
                self.place(node, mark)?;
            }
            Event::SequenceStart(_style, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", mark)?;
                self.begin(mark, anchor, Content::List(Vec::new()))?;
            }
            Event::MappingStart(_style, anchor, tag) => {
                check_tag(tag.as_deref(), "map", mark)?;
                self.begin(mark, anchor, Content::Fields(Vec::new()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    if let Content::Fields(fields) = &open.content {
                        check_names(fields)?;
                    }
                    self.complete(open.mark, open.anchor, open.weight, open.content)?;
                }
            }
            event => return Err(mark.problem(format!("is not understood here: {event:?}"))),
        }
        Ok(None)
    }

    fn expects_name(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| matches!(open.content, Content::Fields(_)) && open.name.is_none())
    }

    fn name(&mut self, name: String, plain: bool, mark: Mark) -> Result<(), Problem> {
        if plain && name == "<<" {
            return Err(mark.problem("is a merge key, and they are not taken; write the fields out"));
        }
        if let Some(open) = self.open.last_mut() {
            open.name = Some((name, mark));
        }
        Ok(())
    }

    fn begin(&mut self, mark: Mark, anchor: usize, content: Content) -> Result<(), Problem> {
        if self.expects_name() {
            return Err(mark.problem("must be a text: it is the name of a field"));
        }
        self.open.push(Open {
            mark,
            anchor,
            weight: 1,
            content,
            name: None,
        });
        Ok(())
    }

    fn complete(
        &mut self,
        mark: Mark,
        anchor: usize,
        weight: usize,
        content: Content,
    ) -> Result<(), Problem> {
        let node = Rc::new(Node {
            mark,
            content,
            weight,
        });
        // Zero stands for none.
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place(node, mark)
    }

    /// Puts a node where the next one belongs.
    fn place(&mut self, node: Rc<Node>, mark: Mark) -> Result<(), Problem> {
        let Some(open) = self.open.last_mut() else {
            self.nodes = self.nodes.saturating_add(node.weight);
            self.root = Some(node);
            return Ok(());
        };
        open.weight = open.weight.saturating_add(node.weight);
        if self.nodes.saturating_add(open.weight) > NODES_MAX {
            return Err(mark.problem(format!(
                "makes the file larger than {NODES_MAX} values, what aliases repeat included"
            )));
        }
        match (&mut open.content, open.name.take()) {
            (Content::List(list), _) => list.push(node),
            (Content::Fields(fields), Some((name, mark))) => fields.push(Field { name, mark, node }),
            (Content::Fields(_) | Content::Nothing | Content::Text(_), _) => {}
        }
        Ok(())
    }
}

/// Tells whether a tag says that the node is what it has to be; refuses any other tag.
fn check_tag(tag: Option<&Tag>, expected: &str, mark: Mark) -> Result<bool, Problem> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema_tag(expected) => Ok(true),
        Some(tag) => Err(mark.problem(format!(
            "has the tag `{tag}`, and tags are not taken; leave it out"
        ))),
    }
}

fn check_names(fields: &[Field]) -> Result<(), Problem> {
    let mut seen = HashSet::with_capacity(fields.len());
    match fields.iter().find(|field| !seen.insert(field.name.as_str())) {
        None => Ok(()),
        Some(twice) => Err(twice
            .mark
            .problem(format!("`{}` stands twice in one mapping", twice.name))),
    }
}

#[cfg(test)]
mod tests;
