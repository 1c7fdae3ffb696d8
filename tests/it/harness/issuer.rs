//! Who may name callers by JWTs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::control::Clock;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

/// An issuer of JWTs: its keys in a file, and the secret half.
pub struct Issuer {
    pair: Ed25519KeyPair,
    file: PathBuf,
}

impl Issuer {
    pub fn in_folder(folder: &Path) -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]});
        let file = folder.join("jwks.json");
        fs::write(&file, keys.to_string()).unwrap();
        Self { pair, file }
    }

    /// The section of a configuration that trusts it as `corp`.
    pub fn section(&self) -> String {
        format!(
            "[jwt.corp]\nissuer = \"https://login.example\"\naudiences = [\"lattice-gateway\"]\nalgorithms = [\"EdDSA\"]\njwks_file = {:?}\n",
            self.file
        )
    }

    /// A token for five minutes.
    pub fn token(&self, subject: &str) -> String {
        self.token_for(subject, 300)
    }

    /// A token for so many seconds. It holds the text `canary`.
    pub fn token_for(&self, subject: &str, seconds: i64) -> String {
        let expires = Clock.unix_seconds() + seconds;
        let header = json!({"alg": "EdDSA", "kid": "one", "typ": "JWT"});
        let claims = json!({
            "iss": "https://login.example", "aud": "lattice-gateway", "sub": subject, "note": "canary",
            "exp": expires,
        });
        let [header, claims] =
            [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes()));
        let message = format!("{header}.{claims}");
        let signature = BASE64URL_NOPAD.encode(self.pair.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }
}
