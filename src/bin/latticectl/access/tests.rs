use std::io::Write;

use clap::{CommandFactory, Parser};
use tempfile::NamedTempFile;

use super::*;
use crate::args::Cli;

const SECRET: &str = "cGFzc3dvcmQ";

fn line(options: &str) -> Result<Line, String> {
    let words = ["latticectl"].into_iter().chain(options.split_whitespace());
    Line::new(&Cli::try_parse_from(words).unwrap().global)
}

fn header(line: &Line) -> Result<Option<String>, TokenError> {
    let header = line.token.header()?;
    Ok(header.map(|header| header.to_str().unwrap().to_owned()))
}

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

#[tokio::test]
async fn options_that_do_not_fit_each_other_are_refused() {
    for (options, told) in [
        (
            "--token a info --token-file b",
            "there are two tokens; give --token (or LATTICECTL_TOKEN) or --token-file, not both",
        ),
        ("info --cert c.pem", "--cert needs --key"),
        ("info --key k.pem", "--key needs --cert"),
        (
            "info --ca ca.pem --endpoint http://a:1",
            "for TLS, and http://a:1 is without",
        ),
        ("info --ca /nowhere/ca.pem", "cannot read /nowhere/ca.pem"),
        ("info --ca Cargo.toml", "Cargo.toml holds no certificate"),
        (
            "info --token a --endpoint a.example:1",
            "a token is not sent to http://a.example:1",
        ),
        (
            "info --token-file t --endpoint 10.0.0.1:1",
            "a token is not sent to http://10.0.0.1:1",
        ),
    ] {
        let refused = line(options).unwrap_err();
        assert!(refused.contains(told), "{options}: {refused}");
    }
    for options in [
        "info",
        "info --endpoint http://a.example:1",
        "info --token a",
        "info --token a --endpoint localhost:1",
        "info --token-file /nowhere/token --endpoint [::1]:1",
    ] {
        line(options).unwrap();
    }
}

#[tokio::test]
async fn a_token_is_one_word_of_ascii() {
    let given = line(&format!("info --token {SECRET}")).unwrap();
    assert_eq!(header(&given).unwrap().unwrap(), format!("Bearer {SECRET}"));
    assert!(given.token.header().unwrap().unwrap().is_sensitive());
    assert_eq!(header(&line("info").unwrap()).unwrap(), None);
    for hostile in ["", "two words", "tökén", "a\r\nx: y", "a\tb", "\n"] {
        let cli = Cli::try_parse_from(["latticectl", "info", "--token", hostile]).unwrap();
        let refused = Line::new(&cli.global).unwrap_err();
        assert!(refused.contains("--token (or LATTICECTL_TOKEN)"), "{refused}");
        assert!(hostile.len() < 3 || !refused.contains(hostile), "{refused}");
    }
}

#[tokio::test]
async fn a_token_file_is_read_when_it_is_used() {
    let file = file(b"first\r\n");
    let path = file.path().to_str().unwrap().to_owned();
    let from_file = line(&format!("info --token-file {path}")).unwrap();
    assert_eq!(header(&from_file).unwrap().unwrap(), "Bearer first");
    for (content, expected) in [
        (&b"second"[..], Ok("Bearer second")),
        (b"third\n\n", Ok("Bearer third")),
        (b"\n", Err("is empty")),
        (b"{\"token\": \"cGFzc3dvcmQ\"}", Err("is no token")),
        (b"\xff\xfe", Err("is no token")),
    ] {
        fs::write(&path, content).unwrap();
        match (header(&from_file), expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read.unwrap(), expected),
            (Err(error), Err(told)) => {
                let error = error.to_string();
                assert!(error.contains(told) && error.contains(&path), "{error}");
                assert!(!error.contains(SECRET), "{error}");
            }
            (read, expected) => panic!("{read:?} for {expected:?}"),
        }
    }
    drop(file);
    let error = header(&from_file).unwrap_err().to_string();
    assert!(error.contains("cannot read the token in"), "{error}");
}

#[tokio::test]
async fn a_token_is_shown_nowhere() {
    let cli = Cli::try_parse_from(["latticectl", "info", "--token", SECRET]).unwrap();
    let line = Line::new(&cli.global).unwrap();
    for shown in [
        format!("{cli:?}"),
        format!("{line:?}"),
        format!("{:?}", line.token.header()),
    ] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let misspelt = ["latticectl", "--token", SECRET, "inof", "--token-file"];
    let error = Cli::try_parse_from(misspelt).unwrap_err().to_string();
    assert!(!error.contains(SECRET), "{error}");
}

#[test]
fn help_does_not_show_what_the_environment_holds() {
    let command = Cli::command();
    let token = command
        .get_arguments()
        .find(|argument| argument.get_long() == Some("token"))
        .unwrap();
    assert_eq!(token.get_env(), Some("LATTICECTL_TOKEN".as_ref()));
    assert!(token.is_hide_env_values_set());
}
