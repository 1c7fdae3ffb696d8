//! Each cause of a refusal, and that nothing else is accepted. The keys are in files here; [`url`] fetches
//! them.
//!
//! *ring* makes no RSA keys, so there is one in `testdata`, with nothing but tests behind it:
//! `openssl genpkey -algorithm RSA -outform DER`.

use std::fs;

use data_encoding::BASE64URL_NOPAD;
use futures_util::FutureExt;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::json;
use tempfile::TempDir;

use super::*;

mod url;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "gateway";
const RSA: &[u8] = include_bytes!("testdata/rsa_2048.pk8");

/// A key of an issuer, both halves.
enum Signer {
    /// With the curve.
    Ecdsa(Algorithm, &'static str, EcdsaKeyPair),
    Rsa(Algorithm, &'static dyn RsaEncoding, RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let ecdsa = |curve, with| {
            let pair = EcdsaKeyPair::generate_pkcs8(with, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(with, pair.as_ref(), &random).unwrap();
            Self::Ecdsa(algorithm, curve, pair)
        };
        let rsa = |encoding| Self::Rsa(algorithm, encoding, RsaKeyPair::from_pkcs8(RSA).unwrap());
        match algorithm {
            Algorithm::Es256 => ecdsa("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ecdsa("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::Rs256 => rsa(&RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&RSA_PSS_SHA512),
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Self::Ed25519(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
            }
        }
    }

    fn es256() -> Self {
        Self::new(Algorithm::Es256)
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ecdsa(algorithm, ..) | Self::Rsa(algorithm, ..) => *algorithm,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// The published half.
    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ecdsa(_, curve, pair) => {
                let coordinates = &pair.public_key().as_ref()[1..];
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                json!({"kty": "EC", "crv": curve, "kid": kid, "x": base64(x), "y": base64(y)})
            }
            Self::Rsa(_, _, pair) => {
                let key: RsaPublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "kid": kid, "n": base64(&key.n), "e": base64(&key.e)})
            }
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64(pair.public_key().as_ref())})
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(_, _, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(_, encoding, pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// Signs any two texts, whatever they are.
    fn texts(&self, header: &str, body: &str) -> String {
        let message = format!("{}.{}", base64(header.as_bytes()), base64(body.as_bytes()));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64(&signature))
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.texts(&header.to_string(), &claims.to_string())
    }

    /// A good token but for some members of its header.
    fn with_header(&self, members: &Value) -> String {
        let header = json!({"alg": self.algorithm().as_str(), "kid": "a"});
        self.token(&merged(header, members), &good_claims())
    }

    /// A good token but for some claims.
    fn with_claims(&self, members: &Value) -> String {
        let header = json!({"alg": self.algorithm().as_str(), "kid": "a"});
        self.token(&header, &merged(good_claims(), members))
    }

    fn good(&self) -> String {
        self.with_claims(&json!({}))
    }
}

fn base64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

fn good_claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 600})
}

/// Sets members, and removes those that are the text `absent`.
fn merged(mut object: Value, members: &Value) -> Value {
    let whole = object.as_object_mut().unwrap();
    for (name, value) in members.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => drop(whole.remove(name)),
            _ => drop(whole.insert(name.clone(), value.clone())),
        }
    }
    object
}

fn issuer(keys: KeySource) -> JwtIssuer {
    JwtIssuer {
        name: "example".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: vec![AUDIENCE.to_owned(), "other-name-of-it".to_owned()],
        algorithms: Algorithm::ALL.to_vec(),
        keys,
        leeway: LEEWAY_DEFAULT,
    }
}

fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn key_file(folder: &TempDir, text: &str) -> KeySource {
    let file = folder.path().join("keys.json");
    fs::write(&file, text).unwrap();
    KeySource::File(file)
}

fn try_verifier(keys: &str) -> Result<JwtVerifier, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    JwtVerifier::new(vec![issuer(key_file(&folder, keys))])
}

fn verifier(keys: &[Value]) -> JwtVerifier {
    try_verifier(&key_set(keys)).unwrap()
}

/// With a file there is nothing to wait for.
fn verify(verifier: &JwtVerifier, token: &str) -> Result<VerifiedJwt, JwtRefused> {
    verifier.verify(token, NOW).now_or_never().unwrap()
}

#[track_caller]
fn assert_refused(verifier: &JwtVerifier, token: &str, expected: JwtRefused) {
    assert_eq!(verify(verifier, token), Err(expected));
}

#[test]
fn a_good_token_of_every_algorithm_is_accepted_and_no_other_algorithm_with_its_key() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let bound = merged(signer.jwk("a"), &json!({"alg": algorithm.as_str(), "use": "sig"}));
        let (free, bound) = (verifier(&[signer.jwk("a")]), verifier(&[bound]));
        let verified = verify(&bound, &signer.good()).unwrap();
        assert_eq!(verified, verify(&free, &signer.good()).unwrap());
        assert_eq!(&*verified.issuer, "example");
        assert_eq!(verified.ends_unix_seconds, NOW + 600 + 30);
        assert_eq!(Value::Object(verified.claims), good_claims());

        for other in Algorithm::ALL {
            if other == algorithm {
                continue;
            }
            let mislabelled = signer.with_header(&json!({"alg": other.as_str()}));
            assert_refused(&bound, &mislabelled, JwtRefused::KeyMismatch);
            let refused = verify(&free, &mislabelled).unwrap_err();
            assert!([JwtRefused::KeyMismatch, JwtRefused::Signature].contains(&refused));
        }
    }
}

#[test]
fn the_examples_of_the_rfcs_verify() {
    let rsa = json!({"kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt",
        "0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSX",
        "ndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5",
        "IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    )});
    let p256 = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let ed25519 = json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let set = KeySet::parse(key_set(&[rsa, p256, ed25519]).as_bytes()).unwrap();
    for (algorithm, token) in [
        // RFC 7515, appendix A.2
        (
            Algorithm::Rs256,
            concat!(
                "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGx",
                "lLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5R",
                "Zmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrn",
                "byTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHW",
                "EsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig",
                "cN_IoypGlUPQGe77Rw",
            ),
        ),
        // RFC 7515, appendix A.3
        (
            Algorithm::Es256,
            concat!(
                "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGx",
                "lLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8I",
                "SlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
        ),
        // RFC 8037, appendix A.4
        (
            Algorithm::EdDsa,
            concat!(
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09P",
                "GcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ),
    ] {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        let check = set
            .select(None, algorithm)
            .unwrap_or_else(|refused| panic!("{refused}"));
        assert!(check.holds(signed.as_bytes(), &signature), "{algorithm}");
        assert!(!check.holds(&signed.as_bytes()[1..], &signature), "{algorithm}");
    }
}

#[test]
fn none_and_shared_secrets_are_no_algorithms() {
    let signer = Signer::new(Algorithm::Rs256);
    let jwk = signer.jwk("a");
    let verifier = verifier(std::slice::from_ref(&jwk));
    for name in [
        "none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "rs256", "RS1", "ES512", "",
    ] {
        let token = signer.with_header(&json!({ "alg": name }));
        assert_refused(&verifier, &token, JwtRefused::AlgorithmUnknown);
    }
    assert_refused(
        &verifier,
        &signer.with_header(&json!({"alg": "absent"})),
        JwtRefused::Header,
    );
    assert_refused(
        &verifier,
        &signer.with_header(&json!({"alg": ["RS256"]})),
        JwtRefused::Header,
    );

    let unsigned = signer.with_header(&json!({"alg": "none"}));
    let (unsigned, _) = unsigned.rsplit_once('.').unwrap();
    assert_refused(&verifier, &format!("{unsigned}."), JwtRefused::Segments);
    assert_refused(&verifier, unsigned, JwtRefused::Segments);

    let modulus = BASE64URL_NOPAD
        .decode(jwk["n"].as_str().unwrap().as_bytes())
        .unwrap();
    for secret in [modulus, jwk.to_string().into_bytes()] {
        let header = json!({"alg": "HS256", "kid": "a"}).to_string();
        let message = format!(
            "{}.{}",
            base64(header.as_bytes()),
            base64(good_claims().to_string().as_bytes())
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        assert_refused(
            &verifier,
            &format!("{message}.{}", base64(tag.as_ref())),
            JwtRefused::AlgorithmUnknown,
        );
    }
}

#[test]
fn an_algorithm_has_to_be_on_the_issuers_list() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new(Algorithm::Rs256);
    let keys = key_file(&folder, &key_set(&[signer.jwk("a")]));
    let strict = JwtVerifier::new(vec![JwtIssuer {
        algorithms: vec![Algorithm::Ps256, Algorithm::Es256],
        ..issuer(keys)
    }])
    .unwrap();
    assert_refused(&strict, &signer.good(), JwtRefused::AlgorithmNotAllowed);
    assert!(verify(&strict, &Signer::new(Algorithm::Ps256).good()).is_ok());
}

#[test]
fn a_key_id_only_chooses_among_the_issuers_keys() {
    let (a, b, other) = (Signer::es256(), Signer::es256(), Signer::es256());
    let ed25519 = Signer::new(Algorithm::EdDsa);
    let set = verifier(&[a.jwk("a"), b.jwk("b"), ed25519.jwk("c")]);
    assert!(verify(&set, &a.good()).is_ok());
    assert!(verify(&set, &b.with_header(&json!({"kid": "b"}))).is_ok());
    for kid in [
        "A",
        "",
        "a\0",
        " a",
        "a'--",
        "../../../etc/passwd",
        "/dev/null",
        "https://evil.example/keys",
    ] {
        let token = a.with_header(&json!({ "kid": kid }));
        assert_refused(&set, &token, JwtRefused::UnknownKey);
    }
    for kid in [json!(1), json!(null), json!(["a"])] {
        assert_refused(&set, &a.with_header(&json!({ "kid": kid })), JwtRefused::Header);
    }
    assert_refused(&set, &a.with_header(&json!({"kid": "b"})), JwtRefused::Signature);
    assert_refused(
        &set,
        &a.with_header(&json!({"kid": "c"})),
        JwtRefused::KeyMismatch,
    );
    assert_refused(&set, &other.good(), JwtRefused::Signature);

    let without = json!({"kid": "absent"});
    assert_refused(&set, &a.with_header(&without), JwtRefused::AmbiguousKey);
    assert!(verify(&set, &ed25519.with_header(&without)).is_ok());
    let rsa = Signer::new(Algorithm::Rs256);
    assert_refused(&set, &rsa.with_header(&without), JwtRefused::UnknownKey);
    let twice = verifier(&[a.jwk("a"), b.jwk("a")]);
    assert_refused(&twice, &a.good(), JwtRefused::AmbiguousKey);
    let nameless = verifier(&[merged(a.jwk("a"), &json!({"kid": "absent"}))]);
    assert!(verify(&nameless, &a.with_header(&without)).is_ok());
    assert_refused(&nameless, &a.good(), JwtRefused::UnknownKey);
}

#[test]
fn keys_that_a_token_brings_along_are_not_read() {
    let (signer, attacker) = (Signer::es256(), Signer::es256());
    let set = verifier(&[signer.jwk("a")]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let brought = json!({
        "jwk": attacker.jwk("a"), "jku": url, "x5u": url, "x5c": ["MIIB"], "x5t": "AAAA", "kid": "absent",
    });
    assert_refused(&set, &attacker.with_header(&brought), JwtRefused::Signature);
    let with_kid = merged(brought.clone(), &json!({"kid": "mine"}));
    assert_refused(&set, &attacker.with_header(&with_kid), JwtRefused::UnknownKey);
    assert!(verify(&set, &signer.with_header(&brought)).is_ok());
    assert!(listener.accept().is_err(), "a URL was followed");
}

#[test]
fn extensions_and_other_kinds_of_tokens_are_refused() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    for critical in [json!(["b64"]), json!(["exp"]), json!([]), json!(null)] {
        let token = signer.with_header(&json!({"crit": critical, "b64": false}));
        assert_refused(&set, &token, JwtRefused::Critical);
    }
    for kind in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(
            verify(&set, &signer.with_header(&json!({ "typ": kind }))).is_ok(),
            "{kind}"
        );
    }
    for kind in [
        "",
        "JOSE",
        "dpop+jwt",
        "logout+jwt",
        "application/",
        "application/application/jwt",
        "jwt ",
    ] {
        assert_refused(
            &set,
            &signer.with_header(&json!({ "typ": kind })),
            JwtRefused::Type,
        );
    }
    assert_refused(&set, &signer.with_header(&json!({"typ": 1})), JwtRefused::Header);
}

#[test]
fn the_issuer_is_one_that_is_trusted_and_its_keys_are_its_own() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = (Signer::es256(), Signer::es256());
    let both = JwtVerifier::new(vec![
        issuer(key_file(&folders[0], &key_set(&[one.jwk("a")]))),
        JwtIssuer {
            name: "second".to_owned(),
            issuer: "https://second.example".to_owned(),
            ..issuer(key_file(&folders[1], &key_set(&[two.jwk("a")])))
        },
    ])
    .unwrap();
    let as_second = json!({"iss": "https://second.example"});
    assert_eq!(&*verify(&both, &one.good()).unwrap().issuer, "example");
    assert_eq!(
        &*verify(&both, &two.with_claims(&as_second)).unwrap().issuer,
        "second"
    );
    assert_refused(&both, &two.good(), JwtRefused::Signature);
    assert_refused(&both, &one.with_claims(&as_second), JwtRefused::Signature);
    for iss in [
        json!("absent"),
        json!("https://issuer.example/"),
        json!("HTTPS://ISSUER.EXAMPLE"),
        json!("example"),
        json!(""),
        json!([ISSUER]),
        json!({ ISSUER: ISSUER }),
        json!(null),
    ] {
        let token = one.with_claims(&json!({ "iss": iss }));
        assert_refused(&both, &token, JwtRefused::IssuerNotTrusted);
    }
}

#[test]
fn the_audience_is_this_gateway() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    for aud in [json!(AUDIENCE), json!("other-name-of-it"), json!(["x", AUDIENCE])] {
        assert!(
            verify(&set, &signer.with_claims(&json!({ "aud": aud }))).is_ok(),
            "{aud}"
        );
    }
    for aud in [
        json!("absent"),
        json!(null),
        json!(""),
        json!("gateway2"),
        json!("GATEWAY"),
        json!("gateway,x"),
        json!([]),
        json!([[AUDIENCE]]),
        json!([AUDIENCE, 1]),
        json!({ AUDIENCE: true }),
        json!(1),
    ] {
        let token = signer.with_claims(&json!({ "aud": aud }));
        assert_refused(&set, &token, JwtRefused::Audience);
    }
}

#[test]
fn times_are_kept_give_or_take_the_leeway() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    for good in [
        json!({"exp": NOW - 29}),
        json!({"exp": 1_800_000_600.75}),
        json!({"exp": 1.8e9}),
        json!({"exp": token::UNIX_SECONDS_MAX}),
        json!({"nbf": NOW + 30, "iat": NOW + 30}),
        json!({"nbf": 1_799_999_999.5, "iat": 0}),
    ] {
        assert!(verify(&set, &signer.with_claims(&good)).is_ok(), "{good}");
    }
    let fraction = verify(&set, &signer.with_claims(&json!({"exp": 1_800_000_600.75})));
    assert_eq!(fraction.unwrap().ends_unix_seconds, NOW + 600 + 30);
    for (bad, refused) in [
        (json!({"exp": NOW - 30}), JwtRefused::Expired),
        (json!({"exp": 1_799_999_970.9}), JwtRefused::Expired),
        (json!({"exp": 0}), JwtRefused::Expired),
        (json!({"nbf": NOW + 31}), JwtRefused::NotYetValid),
        (json!({"nbf": 1_800_000_030.1}), JwtRefused::NotYetValid),
        (json!({"iat": NOW + 31}), JwtRefused::IssuedInFuture),
        (json!({"iat": 1_800_000_030.1}), JwtRefused::IssuedInFuture),
        (json!({"exp": "absent"}), JwtRefused::ExpiryMissing),
    ] {
        assert_eq!(verify(&set, &signer.with_claims(&bad)), Err(refused), "{bad}");
    }
    for name in ["exp", "nbf", "iat"] {
        for no_time in [
            json!(null),
            json!("1800000600"),
            json!([NOW]),
            json!(true),
            json!(-1),
            json!(-0.5),
            json!(token::UNIX_SECONDS_MAX + 1),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(1e300),
            json!(-1e300),
        ] {
            let token = signer.with_claims(&json!({ name: no_time }));
            assert_eq!(verify(&set, &token), Err(JwtRefused::Time), "{name} {no_time}");
        }
        for no_json in ["NaN", "Infinity", "1e999", "0x7fffffff", "01800000600"] {
            let body = good_claims().to_string().replace("\"exp\"", "\"rest\"");
            let body = body.replacen('{', &format!("{{\"{name}\":{no_json},"), 1);
            let token = signer.texts(r#"{"alg":"ES256","kid":"a"}"#, &body);
            assert_eq!(verify(&set, &token), Err(JwtRefused::Claims), "{name} {no_json}");
        }
    }
}

#[test]
fn the_leeway_is_the_issuers() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::es256();
    let keys = key_file(&folder, &key_set(&[signer.jwk("a")]));
    let exact = JwtVerifier::new(vec![JwtIssuer {
        leeway: Duration::ZERO,
        ..issuer(keys)
    }])
    .unwrap();
    assert!(verify(&exact, &signer.with_claims(&json!({"exp": NOW + 1, "nbf": NOW}))).is_ok());
    assert_refused(
        &exact,
        &signer.with_claims(&json!({"exp": NOW})),
        JwtRefused::Expired,
    );
    let early = signer.with_claims(&json!({"nbf": NOW + 1}));
    assert_refused(&exact, &early, JwtRefused::NotYetValid);
    for extreme in [i64::MIN, i64::MAX] {
        let token = signer.with_claims(&json!({"nbf": NOW}));
        let verdict = exact.verify(&token, extreme);
        assert!(verdict.now_or_never().unwrap().is_err());
    }
}

#[test]
fn what_readers_could_understand_differently_is_refused() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    let (header, claims) = (r#"{"alg":"ES256","kid":"a"}"#, good_claims().to_string());
    assert!(verify(&set, &signer.texts(header, &claims)).is_ok());
    for no_header in [
        r#"{"alg":"ES256","kid":"a","alg":"none"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"a"}"#,
        r#"{"alg":"ES256","kid":"b","kid":"a"}"#,
        r#"{"alg":"ES256","kid":"a","x":{"y":1,"y":2}}"#,
        r#"{"alg":"ES256","kid":"a","\u0061lg":"none"}"#,
        r#"{"alg":"ES256","kid":"a"} {}"#,
        r#"["alg","ES256"]"#,
        r#""ES256""#,
        "null",
        "ES256",
        "{",
    ] {
        let token = signer.texts(no_header, &claims);
        assert_eq!(verify(&set, &token), Err(JwtRefused::Header), "{no_header}");
    }
    let members = claims.trim_start_matches('{').trim_end_matches('}');
    for no_claims in [
        format!(r#"{{{members},"iss":"{ISSUER}"}}"#),
        format!(r#"{{{members},"\u0065xp":9999999999}}"#),
        format!(r#"{{"aud":"{AUDIENCE}",{members}}}"#),
        format!(r#"{{{members},"roles":[{{"a":1,"a":2}}]}}"#),
        format!("{claims}x"),
        format!("[{claims}]"),
        format!("{{{members},}}"),
        format!(
            "{{{members},\"deep\":{}{}}}",
            "[".repeat(2_500),
            "]".repeat(2_500)
        ),
        "null".to_owned(),
        "alice".to_owned(),
    ] {
        let token = signer.texts(header, &no_claims);
        assert_eq!(verify(&set, &token), Err(JwtRefused::Claims), "{no_claims}");
    }
    let message = format!("{}.{}", base64(header.as_bytes()), base64(b"{\"iss\":\"\xff\"}"));
    let not_utf8 = format!("{message}.{}", base64(&signer.sign(message.as_bytes())));
    assert_refused(&set, &not_utf8, JwtRefused::Claims);
}

#[test]
fn a_token_is_three_segments_in_their_only_encoding() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    let good = signer.good();
    let [header, body, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}");
    };
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        format!("{header}.{body}"),
        format!(".{body}.{signature}"),
        format!("{header}..{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{good}.{body}.{signature}"),
    ] {
        assert_eq!(verify(&set, &token), Err(JwtRefused::Segments), "{token}");
    }
    let (first, behind) = signature.split_at(1);
    // 64 bytes leave 4 bits of the last character unused.
    let (before, last) = signature.split_at(signature.len() - 1);
    let stray = base64_alphabet()
        .skip_while(|character| !last.contains(*character))
        .nth(1)
        .unwrap();
    for token in [
        format!("{header}.{body}.{signature}=="),
        format!("{header}=.{body}.{signature}"),
        format!("{header}.{body}.{before}{stray}"),
        format!("{header}.{body}.{signature}AAA"),
        format!("{header}.{body}.+{behind}"),
        format!("{header}.{body}./{behind}"),
        format!("{header}.{body}.{signature}\n"),
        format!(" {good}"),
        format!("{header}.{body}.{first}é{behind}"),
        format!("{header}.{body}.\0"),
    ] {
        assert_eq!(verify(&set, &token), Err(JwtRefused::Encoding), "{token:?}");
    }
}

fn base64_alphabet() -> impl Iterator<Item = char> {
    ('A'..='Z').chain('a'..='z').chain('0'..='9').chain("-_".chars())
}

#[test]
fn size_comes_first() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    let mut lengths = Vec::new();
    for filler in 5_850..6_050 {
        let token = signer.with_claims(&json!({"filler": "x".repeat(filler)}));
        let expected = match token.len() > token::TOKEN_BYTES_MAX {
            true => Err(JwtRefused::TooLarge),
            false => Ok(()),
        };
        assert_eq!(verify(&set, &token).map(drop), expected, "{} bytes", token.len());
        lengths.push(token.len());
    }
    assert!(lengths.contains(&token::TOKEN_BYTES_MAX), "{lengths:?}");
    assert_refused(&set, &"x".repeat(10_000_000), JwtRefused::TooLarge);
}

#[test]
fn one_other_character_anywhere_is_too_much() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    let good = signer.good();
    for at in 0..good.len() {
        for with in ["A", "_", ".", "="] {
            let mut altered = good.clone();
            altered.replace_range(at..=at, with);
            assert!(altered == good || verify(&set, &altered).is_err(), "{at} {with}");
        }
        assert!(verify(&set, good.split_at(at).0).is_err(), "{at}");
    }
}

#[test]
fn a_signature_proves_something() {
    let signer = Signer::es256();
    let set = verifier(&[
        signer.jwk("a"),
        Signer::new(Algorithm::EdDsa).jwk("ed"),
        Signer::new(Algorithm::Rs256).jwk("rsa"),
    ]);
    let message = |alg: &str, kid: &str| {
        let header = json!({"alg": alg, "kid": kid}).to_string();
        let claims = good_claims().to_string();
        format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()))
    };
    for (alg, kid) in [
        ("ES256", "a"),
        ("EdDSA", "ed"),
        ("RS256", "rsa"),
        ("PS256", "rsa"),
    ] {
        for length in [1, 63, 64, 65, 96, 128, 255, 256, 257] {
            for byte in [0, 1, 0xff] {
                let token = format!("{}.{}", message(alg, kid), base64(&vec![byte; length]));
                assert_refused(&set, &token, JwtRefused::Signature);
            }
        }
    }
    // The form that X.509 has.
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let asn1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pair.as_ref(), &random).unwrap();
    let fixed = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random).unwrap();
    let set = verifier(&[Signer::Ecdsa(Algorithm::Es256, "P-256", fixed).jwk("a")]);
    let message = message("ES256", "a");
    let signature = asn1.sign(&random, message.as_bytes()).unwrap();
    assert_refused(
        &set,
        &format!("{message}.{}", base64(signature.as_ref())),
        JwtRefused::Signature,
    );
}

#[test]
fn keys_that_are_for_something_else_are_left_out() {
    let (signer, other) = (Signer::es256(), Signer::es256());
    let rsa = Signer::new(Algorithm::Rs256);
    let jwk = signer.jwk("a");
    for (members, why) in [
        (json!({"use": "enc"}), "(`use`)"),
        (json!({"use": 1}), "not the text"),
        (json!({"key_ops": ["sign"]}), "(`key_ops`)"),
        (json!({"key_ops": []}), "(`key_ops`)"),
        (json!({"key_ops": "verify"}), "(`key_ops`)"),
        (json!({"alg": "ECDH-ES"}), "(`alg`)"),
        (json!({"alg": "HS256"}), "(`alg`)"),
        (json!({"alg": "none"}), "(`alg`)"),
        (json!({"d": "AAAA"}), "private key"),
        (json!({"kid": 7}), "not the text"),
        (json!({"kty": "absent"}), "another kind"),
        (json!({"kty": "oct", "k": "AAAA"}), "another kind"),
        (json!({"kty": "OKP"}), "another kind"),
        (json!({"crv": "P-521"}), "another kind"),
        (json!({"crv": "secp256k1"}), "another kind"),
        (json!({"crv": "p-256"}), "another kind"),
        (json!({"crv": "absent"}), "another kind"),
        (json!({"crv": "P-384"}), "another length"),
        (json!({"x": "AAAA"}), "another length"),
        (json!({"y": "absent"}), "lacks a member"),
        (
            json!({"x": format!("{}=", jwk["x"].as_str().unwrap())}),
            "not base64url",
        ),
    ] {
        let unusable = merged(jwk.clone(), &members);
        let alone = try_verifier(&key_set(std::slice::from_ref(&unusable))).unwrap_err();
        assert!(
            alone[0].contains("key 1") && alone[0].contains(why),
            "{members} {alone:?}"
        );
        let set = verifier(&[unusable, other.jwk("b")]);
        assert_refused(&set, &signer.good(), JwtRefused::UnknownKey);
    }
    let verifying = merged(
        jwk,
        &json!({"key_ops": ["sign", "verify"], "use": "sig", "x5c": ["AAAA"]}),
    );
    assert!(verify(&verifier(&[verifying]), &signer.good()).is_ok());
    for (members, why) in [
        (json!({"e": "AQ"}), "exponent"),
        (json!({"e": "AQAA"}), "exponent"),
        (json!({"e": "AAEAAQ"}), "exponent"),
        (json!({"e": ""}), "exponent"),
        (
            json!({"n": base64(&[&[0][..], &[0xff; 256]].concat())}),
            "modulus",
        ),
        (
            json!({"n": base64(&[&[0x7f][..], &[0xff; 255]].concat())}),
            "under 2048",
        ),
        (json!({"n": base64(&[0xff; 1025])}), "over 8192"),
    ] {
        let unusable = merged(rsa.jwk("a"), &members);
        let alone = try_verifier(&key_set(&[unusable])).unwrap_err();
        assert!(alone[0].contains(why), "{members} {alone:?}");
    }
}

#[test]
fn a_weak_key_proves_nothing() {
    let weak = json!({"kty": "RSA", "kid": "weak", "e": "AQAB", "n": concat!(
        "x_raj6OyhCkKeWDrs8YYj0QzST9xS7yaD9LaVlqOGmIPZC-MkiBLD_ttGHtQOrhv9tjF9JJPUcx2m4jTedDLlE34",
        "GA_Je5Otc-oTWZjTnM5jQrnfgNLzMXwgvVijwhRrKJAjmUoziY4-_sfoyKck-3Z-TThVSf5KhTSbo1ayks0",
    )});
    // Signed with that key of 1024 bits.
    let token = concat!(
        "eyJhbGciOiJSUzI1NiIsImtpZCI6IndlYWsifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkI",
        "joiZ2F0ZXdheSIsImV4cCI6MTgwMDAwMDYwMH0.AgSoD-kAPqETSLuvKsr0naV3vS2UzzXlkNTlhRvuKJkG0NuWR",
        "OHYIfoXAUk2lJfIXXDDmJID75ihXSnF7X8rF-mPesDkvUBrK_KePbVcBbKSxVosXhdwLaFigA8cfM8ycMKZca0zc",
        "5zrM1EaPzoSDFohozwzKFXfJ3nli-_eB-0",
    );
    let set = verifier(&[weak, Signer::es256().jwk("a")]);
    assert_refused(&set, token, JwtRefused::UnknownKey);
    let off_the_curve = merged(Signer::es256().jwk("a"), &json!({"y": base64(&[1; 32])}));
    assert_refused(
        &verifier(&[off_the_curve]),
        &Signer::es256().good(),
        JwtRefused::Signature,
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let good = issuer(key_file(&folder, &key_set(&[Signer::es256().jwk("a")])));
    let mistakes = JwtVerifier::new(vec![
        good.clone(),
        JwtIssuer {
            name: "twin".to_owned(),
            ..good.clone()
        },
        JwtIssuer {
            name: "bare".to_owned(),
            issuer: String::new(),
            audiences: Vec::new(),
            algorithms: Vec::new(),
            keys: KeySource::File(folder.path().join("missing.json")),
            leeway: LEEWAY_MAX + Duration::from_secs(1),
        },
        JwtIssuer {
            name: "plain".to_owned(),
            issuer: "plain".to_owned(),
            audiences: vec![String::new()],
            keys: KeySource::Url("http://issuer.example/keys".to_owned()),
            ..good
        },
    ])
    .unwrap_err();
    let begins = [
        "twin.issuer: ",
        "bare.issuer: ",
        "bare.audiences: ",
        "bare.algorithms: ",
        "bare.leeway: ",
        "bare.keys: ",
        "plain.audiences: ",
        "plain.keys: ",
    ];
    assert_eq!(mistakes.len(), begins.len(), "{mistakes:?}");
    for (mistake, begin) in mistakes.iter().zip(begins) {
        assert!(mistake.starts_with(begin), "{mistake}");
    }
    assert!(JwtVerifier::new(Vec::new()).is_ok());
    for no_set in [
        "",
        "[]",
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":[]}"#,
        r#"{"keys":[1]}"#,
        r#"{"keys":[],"keys":[]}"#,
        &format!(
            "{}{}",
            " ".repeat(keys::KEY_SET_BYTES_MAX),
            key_set(&[Signer::es256().jwk("a")])
        ),
    ] {
        assert_eq!(try_verifier(no_set).unwrap_err().len(), 1, "{no_set}");
    }
}

#[test]
fn files_are_read_again_and_the_last_good_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::es256(), Signer::es256());
    let source = key_file(&folder, &key_set(&[old.jwk("a")]));
    let set = JwtVerifier::new(vec![issuer(source)]).unwrap();
    assert!(verify(&set, &old.good()).is_ok());

    key_file(&folder, "half a fi");
    let mistakes = set.reload_files().unwrap_err();
    assert!(
        mistakes.len() == 1 && mistakes[0].starts_with("example.keys: "),
        "{mistakes:?}"
    );
    assert!(verify(&set, &old.good()).is_ok());

    key_file(&folder, &key_set(&[new.jwk("b")]));
    set.reload_files().unwrap();
    assert_refused(&set, &old.good(), JwtRefused::UnknownKey);
    assert!(verify(&set, &new.with_header(&json!({"kid": "b"}))).is_ok());
}

#[test]
fn claims_are_not_shown_by_accident() {
    let signer = Signer::es256();
    let set = verifier(&[signer.jwk("a")]);
    let (token, verified) = (signer.good(), verify(&set, &signer.good()).unwrap());
    let shown = format!("{verified:?} {:?}", Unverified::parse(&token).unwrap());
    assert!(!shown.contains("alice") && shown.contains("example"), "{shown}");
}
