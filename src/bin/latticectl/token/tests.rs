use std::fs;

use super::*;

const TOKEN: &str = "eyJ0.eyJp-_.c2ln";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Makes a section. Lengths stay below 128, where one byte holds them.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 128);
    [&[id, length], content].concat()
}

fn custom(name: &str, content: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    section(0, &[&[length], name.as_bytes(), content.as_bytes()].concat())
}

fn source(given: &Path) -> TokenSource {
    TokenSource {
        source: Some(given.display().to_string()),
        file: None,
        wasm: None,
    }
}

fn refusal(error: CommandError) -> String {
    let CommandError::Input(message) = error else {
        panic!("{error:?}");
    };
    message
}

#[test]
fn a_token_is_found_in_modules_and_components() {
    for header in [MODULE, COMPONENT] {
        for name in SECTIONS {
            let wasm = [header, &custom("producers", "x"), &custom(name, TOKEN)].concat();
            assert_eq!(embedded(&wasm).unwrap(), TOKEN);
        }
    }
}

#[test]
fn the_newer_section_wins_wherever_it_stands() {
    let wasm = [MODULE, &custom("jwt", "a.b.c"), &custom("wasmcloud_jwt", TOKEN)].concat();
    assert_eq!(embedded(&wasm).unwrap(), TOKEN);
}

#[test]
fn the_token_of_a_nested_module_is_not_the_component_s_own() {
    let nested = section(1, &[MODULE, &custom("wasmcloud_jwt", TOKEN)].concat());
    let wasm = [COMPONENT, &nested].concat();
    assert!(matches!(embedded(&wasm), Err(Problem::NotSigned)));
    let wasm = [COMPONENT, &nested, &custom("wasmcloud_jwt", "a.b.c")].concat();
    assert_eq!(embedded(&wasm).unwrap(), "a.b.c");
}

#[test]
fn what_is_wrong_with_a_module_is_told() {
    for (wasm, expected) in [
        (MODULE.to_vec(), "has no claims token embedded"),
        (
            [MODULE, &custom("jwt", "\u{1}")].concat(),
            "what is in it is none",
        ),
        (TOKEN.into(), "is not a WebAssembly module"),
        ([MODULE, &[0, 100]].concat(), "is broken"),
        (WASM_MAGIC.to_vec(), "is broken"),
    ] {
        let told = refusal(embedded(&wasm).unwrap_err().of(Path::new("a.wasm")));
        assert!(told.starts_with("a.wasm ") && told.contains(expected), "{told}");
    }
}

#[test]
fn a_positional_is_a_file_if_there_is_one_and_else_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("token"), format!("\n{TOKEN} \n")).unwrap();
    fs::write(path("module"), [MODULE, &custom("jwt", TOKEN)].concat()).unwrap();
    fs::write(path("other"), "not a token").unwrap();
    assert_eq!(source(&path("token")).token().unwrap(), TOKEN);
    assert_eq!(source(&path("module")).token().unwrap(), TOKEN);
    assert_eq!(source(Path::new(TOKEN)).token().unwrap(), TOKEN);
    assert!(refusal(source(&path("other")).token().unwrap_err()).contains("neither a claims token"));
    assert!(refusal(source(&path("absent")).token().unwrap_err()).contains("neither a file nor"));
}

#[test]
fn a_named_file_must_be_readable_and_a_named_module_must_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let wasm = || TokenSource {
        source: None,
        file: None,
        wasm: Some(path.clone()),
    };
    assert!(refusal(wasm().token().unwrap_err()).starts_with("cannot read"));
    fs::write(&path, TOKEN).unwrap();
    assert!(refusal(wasm().token().unwrap_err()).contains("is not a WebAssembly module"));
    let file = TokenSource {
        source: None,
        file: Some(path.clone()),
        wasm: None,
    };
    assert_eq!(file.token().unwrap(), TOKEN);
}
