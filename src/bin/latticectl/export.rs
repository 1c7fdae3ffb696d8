//! `latticectl export`: writes all that a lattice holds into one file.
//!
//! The file is a manifest as `latticectl apply` reads it: one document of kind `Lattice`, canonical JSON of the API's
//! messages, entries by kind and key, without etags, revisions and times. So two exports of lattices that hold the same
//! are equal byte for byte.

use std::{fmt::Write as _, io::Write as _, path::Path};

use clap::builder::NonEmptyStringValueParser;
use lattice_gateway::proto::{
    Claims, InterfaceLink, LinkDefinition, NamedConfig, OciReference, PACKAGE, entry::Entry,
};
use serde::Serialize;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::{
    Context,
    apply::manifest::{EXPORT_FORMAT, EXPORT_KIND},
    args::Format,
    entry::{self, Kind},
    failure::CommandError,
    output,
    picture::Picture,
    table::printable,
};

/// Stands for standard output.
const STDOUT: &str = "-";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is a manifest: `latticectl import` and `latticectl apply -f` read it. It holds the values of links and
configs, which may be secrets, so only you may read it (mode 0600).

It shows the lattice as it was at one moment. Where something is written in every attempt to read it, the command
gives up after --timeout (exit code 5).")]
pub(crate) struct ExportArguments {
    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) lattice: Option<String>,

    /// Where to; what is there already is replaced once the new file is whole. `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = STDOUT)]
    file: String,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &ExportArguments) -> Result<String, CommandError> {
    let picture = Picture::take(context).await?;
    let (entries, left_out) = picture.entries.into_iter().partition::<Vec<_>, _>(is_writable);
    note_left_out(&left_out, picture.malformed);
    let count = entries.len();
    let document = document(context.lattice, picture.layout.as_str(), entries)?;
    if arguments.file == STDOUT {
        return Ok(document);
    }
    write(Path::new(&arguments.file), document.as_bytes())?;
    Ok(match context.format {
        Format::Table => format!(
            "exported  lattice {}  ({}, layout {}, to {})\n",
            context.lattice,
            output::entries(count),
            picture.layout.as_str(),
            printable(&arguments.file)
        ),
        Format::Json => {
            let done = json!({
                "lattice": context.lattice, "layout": picture.layout.as_str(), "entries": count,
                "file": arguments.file,
            });
            format!("{done:#}\n")
        }
    })
}

/// Whether the API takes such an entry: not where a host has stored one without what identifies it.
fn is_writable(entry: &Entry) -> bool {
    let parts = match entry {
        Entry::Claims(claims) => vec![&claims.public_key],
        Entry::LinkDefinition(link) => vec![
            &link.actor_id,
            &link.provider_id,
            &link.contract_id,
            &link.link_name,
        ],
        Entry::InterfaceLink(link) => vec![
            &link.source_id,
            &link.target,
            &link.name,
            &link.wit_namespace,
            &link.wit_package,
        ],
        Entry::OciReference(reference) => vec![&reference.oci_url, &reference.public_key],
        Entry::NamedConfig(config) => vec![&config.name],
    };
    parts.into_iter().all(|part| !part.is_empty())
}

/// Tells what the file does not hold, since nobody but a host can store it.
fn note_left_out(left_out: &[Entry], malformed: u64) {
    for entry in left_out {
        let (kind, name) = (Kind::of(entry).word(), entry::name(&entry::identity(entry)));
        output::note(&printable(&format!(
            "note: left out, since only a host can store it: {kind} {name}"
        )));
    }
    if malformed > 0 {
        output::note(&format!(
            "note: left out, since hosts cannot use them: {malformed} malformed messages; `latticectl lattice show` \
             lists them"
        ));
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'a str,
    api_version: &'a str,
    format: u32,
    lattice: &'a str,
    layout: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    claims: Vec<Claims>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link_definitions: Vec<LinkDefinition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interface_links: Vec<InterfaceLink>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    oci_references: Vec<OciReference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    named_configs: Vec<NamedConfig>,
}

/// Writes the document.
pub(crate) fn document(lattice: &str, layout: &str, entries: Vec<Entry>) -> Result<String, CommandError> {
    let mut document = Document {
        kind: EXPORT_KIND,
        api_version: PACKAGE,
        format: EXPORT_FORMAT,
        lattice,
        layout,
        ..Document::default()
    };
    for entry in entries {
        match entry::without_output(entry) {
            Entry::Claims(claims) => document.claims.push(claims),
            Entry::LinkDefinition(link) => document.link_definitions.push(link),
            Entry::InterfaceLink(link) => document.interface_links.push(link),
            Entry::OciReference(reference) => document.oci_references.push(reference),
            Entry::NamedConfig(config) => document.named_configs.push(config),
        }
    }
    let text = serde_json::to_string_pretty(&document).map_err(|error| CommandError::Output(error.into()))?;
    Ok(escaped(&text) + "\n")
}

/// Escapes what JSON may hold as it is and YAML may not. It occurs in texts alone.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                // Into memory, which does not fail.
                write!(escaped, "\\u{:04x}", u32::from(character)).ok();
            }
            character => escaped.push(character),
        }
    }
    escaped
}

/// Puts a file in place once it is whole. Only its owner may read it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let written = NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    });
    written.map_err(|error| CommandError::Input(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
