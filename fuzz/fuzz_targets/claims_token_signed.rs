//! Claims tokens that are signed here, so that the signature and all that is behind it is reached.
//!
//! An input is what is done to the token (a byte: 0 and 1 nothing, 2 another character, 3 the signature of another
//! account; plus 4 where the body is made from parts), the place and the bits of that character (2 bytes, 1 byte), and
//! the body.

#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use lattice_gateway::domain::{
    Claims,
    claims_token::{TOKEN_BYTES_MAX, TokenRefused, VerifiedToken, verify},
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary, Unstructured},
    fuzz_target,
};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

const HEADER: &[u8] = br#"{"typ":"jwt","alg":"Ed25519"}"#;
const FROM_PARTS: u8 = 4;

static ACCOUNT: LazyLock<KeyPair> = LazyLock::new(|| key(KeyPairType::Account, 7));
static OTHER_ACCOUNT: LazyLock<KeyPair> = LazyLock::new(|| key(KeyPairType::Account, 8));
static ACTOR: LazyLock<String> = LazyLock::new(|| key(KeyPairType::Module, 7).public_key());
static PROVIDER: LazyLock<String> = LazyLock::new(|| key(KeyPairType::Service, 7).public_key());

fn key(kind: KeyPairType, byte: u8) -> KeyPair {
    KeyPair::new_from_raw(kind, [byte; 32]).expect("a key")
}

fuzz_target!(|input: &[u8]| {
    let Some(([what, high, low, bits], rest)) = input.split_first_chunk() else {
        return;
    };
    let parts = match what & FROM_PARTS {
        0 => None,
        _ => match Parts::arbitrary_take_rest(Unstructured::new(rest)) {
            Ok(parts) => Some(parts),
            Err(_) => return,
        },
    };
    let body = parts.as_ref().map_or_else(|| rest.to_vec(), Parts::body);
    let token = match what % FROM_PARTS {
        2 => {
            let place = usize::from(u16::from_be_bytes([*high, *low]));
            with_another_character(signed(&body, &ACCOUNT), place, *bits)
        }
        3 => signed(&body, &OTHER_ACCOUNT),
        _ => signed(&body, &ACCOUNT),
    };
    let verdict = verify(&token);
    match (what % FROM_PARTS, verdict) {
        (2, verdict) => assert!(verdict.is_err()),
        (3, Err(_)) => {}
        // What the other account signs as itself.
        (3, Ok(verified)) => assert_eq!(verified.validity.issuer.as_str(), OTHER_ACCOUNT.public_key()),
        (_, verdict) => {
            if let Ok(verified) = &verdict {
                as_any_reader_reads(verified, &serde_json::from_slice(&body).expect("JSON"));
            }
            if let Some(parts) = parts {
                let expected = match token.len() > TOKEN_BYTES_MAX {
                    true => Err(TokenRefused::TooLarge),
                    false => parts.expected(),
                };
                assert_eq!(verdict.map(|verified| verified.claims), expected);
            }
        }
    }
});

fn signed(body: &[u8], signer: &KeyPair) -> String {
    let message = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(HEADER),
        BASE64URL_NOPAD.encode(body)
    );
    let signature = signer.sign(message.as_bytes()).expect("a seed signs");
    format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn with_another_character(token: String, place: usize, bits: u8) -> String {
    let mut bytes = token.into_bytes();
    let place = place % bytes.len();
    // One bit at least, and still ASCII.
    bytes[place] ^= bits % 0x7f + 1;
    String::from_utf8(bytes).expect("ASCII")
}

/// Holds what was verified against a reader that knows nothing of claims.
fn as_any_reader_reads(verified: &VerifiedToken, body: &Value) {
    assert_eq!(body["iss"], verified.validity.issuer.as_str());
    assert_eq!(body["sub"], verified.subject.as_str());
    assert_eq!(body["nbf"].as_i64(), verified.validity.not_before);
    assert_eq!(body["exp"].as_i64(), verified.validity.expires);
    let (wascap, claims) = (&body["wascap"], &verified.claims);
    assert_eq!(wascap["name"].as_str().unwrap_or_default(), &*claims.name);
    assert_eq!(
        wascap["ver"].as_str(),
        claims.version.as_deref().filter(|_| !wascap["ver"].is_null())
    );
    assert!(claims.revision.parse::<i32>().is_ok_and(|number| number >= 0));
    if verified.subject.as_str().starts_with('M') {
        assert_eq!(
            wascap["call_alias"].as_str().unwrap_or_default(),
            &*claims.call_alias
        );
        assert_eq!(joined(&wascap["caps"]), &*claims.capabilities);
        assert_eq!(joined(&wascap["tags"]), &*claims.tags);
    } else {
        assert_eq!(
            (&*claims.call_alias, &*claims.capabilities, &*claims.tags),
            ("", "", "")
        );
    }
}

fn joined(list: &Value) -> String {
    let items: Vec<_> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    items.join(",")
}

#[derive(Arbitrary, Debug)]
struct Parts<'a> {
    is_provider: bool,
    iat: i64,
    nbf: Option<i64>,
    exp: Option<i64>,
    name: Option<&'a str>,
    rev: Option<i32>,
    ver: Option<&'a str>,
    call_alias: Option<&'a str>,
    caps: Option<Vec<&'a str>>,
    tags: Option<Vec<&'a str>>,
    capid: Option<&'a str>,
}

impl Parts<'_> {
    fn body(&self) -> Vec<u8> {
        let subject = if self.is_provider { &PROVIDER } else { &ACTOR };
        let body = json!({
            "iss": ACCOUNT.public_key(),
            "sub": **subject,
            "iat": self.iat,
            "nbf": self.nbf,
            "exp": self.exp,
            "wascap": {
                "name": self.name,
                "rev": self.rev,
                "ver": self.ver,
                "call_alias": self.call_alias,
                "caps": self.caps,
                "tags": self.tags,
                "capid": self.capid,
            },
        });
        body.to_string().into_bytes()
    }

    fn expected(&self) -> Result<Claims, TokenRefused> {
        let list = |items: &Option<Vec<&str>>, refused| {
            let items = items.as_deref().filter(|_| !self.is_provider).unwrap_or_default();
            match items.iter().any(|item| item.is_empty() || item.contains(',')) {
                true => Err(refused),
                false => Ok(items.join(",").into()),
            }
        };
        let of_issue = i32::try_from(self.iat.max(0)).unwrap_or(i32::MAX);
        let revision = self.rev.filter(|rev| *rev > 0).unwrap_or(of_issue);
        Ok(Claims {
            issuer: ACCOUNT.public_key().into(),
            name: self.name.unwrap_or_default().into(),
            call_alias: self
                .call_alias
                .filter(|_| !self.is_provider)
                .unwrap_or_default()
                .into(),
            capabilities: list(&self.caps, TokenRefused::Capability)?,
            tags: list(&self.tags, TokenRefused::Tag)?,
            revision: revision.to_string().into(),
            version: Some(self.ver.unwrap_or_default().into()),
            contract_id: self.capid.filter(|_| self.is_provider).unwrap_or_default().into(),
            config_schema: "".into(),
        })
    }
}
