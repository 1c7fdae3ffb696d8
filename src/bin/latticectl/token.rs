//! Finds a claims token: on the command line, in a file, or embedded in a WebAssembly module or component.
//!
//! Only finds it. Whether it is genuine is for the gateway to judge.

use std::path::{Path, PathBuf};

use clap::Args;
use wasmparser::{Parser, Payload};

use crate::{failure::CommandError, input};

const WASM_MAGIC: &[u8] = b"\0asm";
/// The custom section that signing tools put the token into, and the one of those before wascap 0.9.
const SECTIONS: [&str; 2] = ["wasmcloud_jwt", "jwt"];

/// Where the token is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TokenSource {
    /// The token itself, or a file that holds it (`-` for standard input)
    ///
    /// A file that is a WebAssembly module or component holds it where signing tools embed it.
    #[arg(value_name = "TOKEN|FILE")]
    source: Option<String>,

    /// A file that holds the token, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A signed WebAssembly module or component
    #[arg(long, value_name = "FILE.wasm")]
    wasm: Option<PathBuf>,
}

impl TokenSource {
    /// Finds the token.
    pub(crate) fn token(&self) -> Result<String, CommandError> {
        if let Some(path) = &self.wasm {
            let found = embedded(&input::bytes(path)?);
            return found.map_err(|problem| problem.of(path));
        }
        if let Some(path) = &self.file {
            return in_file(path);
        }
        let source = self.source.as_deref().unwrap_or(input::STDIN);
        let path = Path::new(source);
        if source == input::STDIN || path.exists() {
            return in_file(path);
        }
        token_text(source.as_bytes()).ok_or_else(|| {
            CommandError::Input(format!(
                "{source:?} is neither a file nor a claims token (three parts, joined by dots)"
            ))
        })
    }
}

/// Finds the token in a file of either sort.
pub(crate) fn in_file(path: &Path) -> Result<String, CommandError> {
    let bytes = input::bytes(path)?;
    let found = if bytes.starts_with(WASM_MAGIC) {
        embedded(&bytes)
    } else {
        token_text(&bytes).ok_or(Problem::NoText)
    };
    found.map_err(|problem| problem.of(path))
}

/// Takes text for a token if it looks like one, without the white space around it.
fn token_text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let is_part = |part: &str| {
        let base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(base64url)
    };
    let parts: Vec<_> = text.split('.').collect();
    (parts.len() == 3 && parts.into_iter().all(is_part)).then(|| text.to_owned())
}

/// Finds the token among the custom sections of a module or component. Without wasmparser's feature
/// `component-model` what is nested in a component stays unread, and so do tokens that are not its own.
fn embedded(wasm: &[u8]) -> Result<String, Problem> {
    if !wasm.starts_with(WASM_MAGIC) {
        return Err(Problem::NotWasm);
    }
    let mut found = SECTIONS.map(|_section| None);
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CustomSection(section) = payload.map_err(Problem::Malformed)? else {
            continue;
        };
        for (name, found) in SECTIONS.iter().zip(&mut found) {
            if section.name() == *name {
                found.get_or_insert(section.data());
            }
        }
    }
    let section = found.into_iter().flatten().next().ok_or(Problem::NotSigned)?;
    token_text(section).ok_or(Problem::NotAToken)
}

/// Why there is no token in a file.
#[derive(Debug)]
enum Problem {
    NoText,
    NotWasm,
    Malformed(wasmparser::BinaryReaderError),
    NotSigned,
    NotAToken,
}

impl Problem {
    fn of(self, path: &Path) -> CommandError {
        let name = input::name(path);
        CommandError::Input(match self {
            Self::NoText => format!(
                "{name} is neither a claims token (three parts, joined by dots) nor a WebAssembly module"
            ),
            Self::NotWasm => format!("{name} is not a WebAssembly module or component"),
            Self::Malformed(error) => format!("{name} is broken: {error}"),
            Self::NotSigned => format!(
                "{name} has no claims token embedded (custom section wasmcloud_jwt): sign it first with \
                 `wash claims sign`, and give the signed file"
            ),
            Self::NotAToken => format!(
                "{name} has a section for a claims token, and what is in it is none: sign it again with \
                 `wash claims sign`"
            ),
        })
    }
}

#[cfg(test)]
mod tests;
