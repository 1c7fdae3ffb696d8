//! Makes the example lattice: `cargo run --example sign_claims [FOLDER]`.
//!
//! Makes fresh keys, signs a claims token for each actor and provider as wasmCloud's signing tools do, and writes
//! the tokens and the manifest `lattice.yaml` into `FOLDER` (`examples/lattice` if none is given). The keys' seeds are kept
//! nowhere: to change the example, make it anew.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use data_encoding::{BASE64URL_NOPAD, HEXUPPER};
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Exactly what hosts accept.
const HEADER: &str = r#"{"typ":"jwt","alg":"Ed25519"}"#;
/// A WebAssembly module with nothing in it, whose hash stands for those of real ones.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

const ACTOR_VERSION: &str = "0.3.4";
const PROVIDER_VERSION: &str = "0.17.0";
const HTTP_SERVER: &str = "wasmcloud:httpserver";
const KEY_VALUE: &str = "wasmcloud:keyvalue";
const LOGGING: &str = "wasmcloud:builtin:logging";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("examples/lattice"), PathBuf::from);
    fs::create_dir_all(&folder)?;

    let account = KeyPair::new_account();
    let [echo, kvcounter] = [KeyPair::new_module(), KeyPair::new_module()];
    let [httpserver, redis] = [KeyPair::new_service(), KeyPair::new_service()];
    let tokens = [
        ("echo.jwt", &echo, actor("Echo", "echo", &[HTTP_SERVER, LOGGING])),
        (
            "kvcounter.jwt",
            &kvcounter,
            actor("KV Counter", "kvcounter", &[HTTP_SERVER, KEY_VALUE]),
        ),
        (
            "httpserver.jwt",
            &httpserver,
            provider("HTTP Server", HTTP_SERVER),
        ),
        ("redis.jwt", &redis, provider("Redis KV", KEY_VALUE)),
    ];
    for (file, subject, wascap) in &tokens {
        write(&folder.join(file), &sign(&account, subject, wascap)?)?;
    }

    let claims = tokens.map(|(file, ..)| format!("  - jwt_file: {file}\n"));
    let links = [
        link(&echo, &httpserver, HTTP_SERVER, "address: 127.0.0.1:8080"),
        link(&kvcounter, &httpserver, HTTP_SERVER, "address: 127.0.0.1:8081"),
        link(&kvcounter, &redis, KEY_VALUE, "URL: redis://127.0.0.1:6379"),
    ];
    let references = [
        reference("echo", ACTOR_VERSION, &echo),
        reference("kvcounter", ACTOR_VERSION, &kvcounter),
        reference("httpserver", PROVIDER_VERSION, &httpserver),
        reference("redis", PROVIDER_VERSION, &redis),
    ];
    let manifest = format!(
        "# The example lattice, as `latticectl apply` takes it.\n\
         claims:\n{}\n\
         link_definitions:\n{}\n\
         oci_references:\n{}",
        claims.concat(),
        links.concat(),
        references.concat(),
    );
    write(&folder.join("lattice.yaml"), &manifest)
}

fn link(actor: &KeyPair, provider: &KeyPair, contract: &str, value: &str) -> String {
    let (actor, provider) = (actor.public_key(), provider.public_key());
    format!(
        "  - actor_id: {actor}\n    provider_id: {provider}\n    contract_id: {contract}\n    values:\n      \
         {value}\n"
    )
}

fn reference(name: &str, version: &str, key: &KeyPair) -> String {
    let key = key.public_key();
    format!("  - oci_url: registry.example.com/{name}:{version}\n    public_key: {key}\n")
}

fn actor(name: &str, call_alias: &str, capabilities: &[&str]) -> Value {
    json!({
        "name": name,
        "hash": hash(),
        "tags": ["example"],
        "caps": capabilities,
        "rev": 4,
        "ver": ACTOR_VERSION,
        "call_alias": call_alias,
        "prov": false,
    })
}

fn provider(name: &str, contract: &str) -> Value {
    json!({
        "name": name,
        "capid": contract,
        "vendor": "Example",
        "rev": 2,
        "ver": PROVIDER_VERSION,
        "target_hashes": { "x86_64-linux": hash() },
    })
}

fn hash() -> String {
    HEXUPPER.encode(&Sha256::digest(EMPTY_MODULE))
}

/// A claims token: `header.body.signature`, each base64url without padding. It never expires.
fn sign(account: &KeyPair, subject: &KeyPair, wascap: &Value) -> Result<String, Box<dyn Error>> {
    let body = json!({
        "jti": uuid::Uuid::now_v7().simple().to_string(),
        "iat": seconds_since_epoch()?,
        "iss": account.public_key(),
        "sub": subject.public_key(),
        "wascap": wascap,
    });
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let signed = format!("{}.{}", encode(HEADER), encode(&body.to_string()));
    let signature = account.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

#[expect(clippy::disallowed_methods, reason = "a token is dated by the wall clock")]
fn seconds_since_epoch() -> Result<u64, Box<dyn Error>> {
    Ok(SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs())
}

/// Writes a file and says so.
fn write(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    fs::write(path, text)?;
    writeln!(io::stdout(), "wrote {}", path.display())?;
    Ok(())
}
