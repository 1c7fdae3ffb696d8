//! Nkeys and claims tokens, made for each test.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// A fresh actor's key.
pub fn actor() -> String {
    KeyPair::new_module().public_key()
}

/// A fresh provider's key.
pub fn provider() -> String {
    KeyPair::new_service().public_key()
}

/// A token for a fresh actor, signed by an account; gives the token and the actor's key.
pub fn actor_token(account: &KeyPair, changes: Value) -> (String, String) {
    let key = actor();
    let mut body = json!({
        "jti": "test", "iat": 1_631_827_501, "iss": account.public_key(), "sub": key,
        "wascap": {
            "name": "Echo", "hash": "00", "tags": ["a", "b"], "caps": ["wasmcloud:httpserver"],
            "rev": 4, "ver": "0.3.4", "call_alias": "echo", "prov": false,
        },
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let key = body["sub"].as_str().unwrap().to_owned();
    (
        sign(account, &json!({"typ": "jwt", "alg": "Ed25519"}), &body),
        key,
    )
}

/// A token of any header and body.
pub fn sign(account: &KeyPair, header: &Value, body: &Value) -> String {
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(header), encode(body));
    let signature = account.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}
