//! Values of a link or a config, from the command line and from a file.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{
    Args,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
};

use crate::{failure::CommandError, input};

/// Options that give values.
#[derive(Debug, Args)]
pub(crate) struct ValueOptions {
    /// A value; may be given often, and wins over one of --values-file
    #[arg(long = "value", value_name = "KEY=VALUE", value_parser = key_value)]
    values: Vec<(String, String)>,

    /// A file with a JSON object of values, all text, or `-` for standard input; keeps secrets out of sight
    #[arg(long, value_name = "FILE.json")]
    values_file: Option<PathBuf>,
}

impl ValueOptions {
    /// All values that are given.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let mut given = BTreeMap::new();
        for (key, value) in &self.values {
            if given.insert(key.clone(), value.clone()).is_some() {
                return Err(CommandError::Input(format!("--value {key}=… is given twice")));
            }
        }
        let mut values = self.values_of_file()?;
        values.extend(given);
        Ok(values)
    }

    fn values_of_file(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let Some(path) = &self.values_file else {
            return Ok(BTreeMap::new());
        };
        serde_json::from_slice(&input::bytes(path)?).map_err(|error| {
            let name = input::name(path);
            CommandError::Input(format!("{name} is not a JSON object of texts: {error}"))
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE".to_owned()),
    }
}

/// `wash` takes `KEY=VALUE` without an option, and so whoever comes from there writes it.
pub(crate) fn tell_how_they_are_given(error: &mut clap::Error) {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return;
    };
    if !argument.starts_with('-') && key_value(argument).is_ok() {
        let tip = format!("where a command takes values, it takes them by an option: --value {argument}");
        let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tip);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::{args::Cli, output};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        values: ValueOptions,
    }

    fn values(arguments: &[&str]) -> Result<ValueOptions, clap::Error> {
        let line = Line::try_parse_from([&["latticectl"], arguments].concat());
        line.map(|line| line.values)
    }

    #[test]
    fn a_value_may_hold_an_equals_sign_or_be_empty_and_a_key_may_not() {
        let values = values(&["--value", "a=b=c", "--value", "d="]).unwrap();
        assert_eq!(output::values(&values.read().unwrap()), "a=b=c,d=");
    }

    #[test]
    fn values_without_a_key_or_given_twice_are_refused() {
        assert!(values(&["--value", "=b"]).is_err());
        assert!(values(&["--value", "b"]).is_err());
        assert!(
            values(&["--value", "a=1", "--value", "a=2"])
                .unwrap()
                .read()
                .is_err()
        );
    }

    #[test]
    fn a_value_without_its_option_is_told_of_it() {
        for (argument, is_told) in [("url=redis", true), ("url", false), ("--url=redis", false)] {
            let line = ["latticectl", "link", "put", "M", "V", "a:b", argument];
            let mut error = Cli::try_parse_from(line).unwrap_err();
            tell_how_they_are_given(&mut error);
            let told = error.to_string();
            assert_eq!(told.contains(&format!("--value {argument}")), is_told, "{told}");
        }
    }

    #[test]
    fn values_on_the_command_line_win_over_those_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("values.json");
        let arguments = ["--values-file", path.to_str().unwrap(), "--value", "a=3"];
        let values = values(&arguments).unwrap();
        fs::write(&path, r#"{"a": "1", "b": "2"}"#).unwrap();
        assert_eq!(output::values(&values.read().unwrap()), "a=3,b=2");
        for refused in ["[]", r#"{"a": 1}"#, "", "{"] {
            fs::write(&path, refused).unwrap();
            assert!(values.read().is_err(), "{refused}");
        }
    }
}
