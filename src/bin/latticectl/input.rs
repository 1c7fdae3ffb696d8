//! Reads what a command takes from files and from standard input.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use crate::failure::CommandError;

/// Stands for standard input.
pub(crate) const STDIN: &str = "-";

/// Reads a file, or standard input for [`STDIN`].
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, CommandError> {
    let read = if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_length| bytes)
    } else {
        fs::read(path)
    };
    read.map_err(|error| CommandError::Input(format!("cannot read {}: {error}", name(path))))
}

/// Names what was read, for messages.
pub(crate) fn name(path: &Path) -> String {
    if path == Path::new(STDIN) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}
