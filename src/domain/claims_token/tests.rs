//! Each cause of a refusal, and what an accepted token becomes.

use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const HEADER: &str = r#"{"typ":"jwt","alg":"Ed25519"}"#;
const ISSUED_AT: i64 = 1_644_843_743;

fn key(kind: KeyPairType) -> KeyPair {
    KeyPair::new_from_raw(kind, [7; 32]).unwrap()
}

fn account() -> KeyPair {
    key(KeyPairType::Account)
}

fn encoded(json: &str) -> String {
    BASE64URL_NOPAD.encode(json.as_bytes())
}

/// Signs any two texts, whatever they are.
fn signed_as(header: &str, body: &str, signer: &KeyPair) -> String {
    let message = format!("{}.{}", encoded(header), encoded(body));
    let signature = signer.sign(message.as_bytes()).unwrap();
    format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn signed(body: &str) -> String {
    signed_as(HEADER, body, &account())
}

fn body_of(subject: KeyPairType, wascap: &Value) -> Value {
    json!({
        "jti": "SjB5fm974Sju9WMgTUchsb",
        "iat": ISSUED_AT,
        "iss": account().public_key(),
        "sub": key(subject).public_key(),
        "wascap": wascap,
    })
}

fn actor_body() -> Value {
    body_of(
        KeyPairType::Module,
        &json!({
            "name": "Echo",
            "hash": "4CEC673A",
            "tags": ["demo", "http"],
            "caps": ["wasmcloud:httpserver", "wasmcloud:builtin:logging"],
            "rev": 4,
            "ver": "0.3.4",
            "call_alias": "examples/echo",
            "prov": false,
        }),
    )
}

/// The actor's body with one member set, `/`-separated path first.
fn actor_with(path: &str, value: Value) -> String {
    let mut body = actor_body();
    let (parent, name) = path.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value;
    signed(&body.to_string())
}

fn actor_token() -> String {
    signed(&actor_body().to_string())
}

fn claims(token: &str) -> Claims {
    verify(token).unwrap().claims
}

fn refusal(token: &str) -> &'static str {
    match verify(token) {
        Err(refused) => refused.cause(),
        Ok(_) => panic!("accepted {token}"),
    }
}

fn split(token: &str) -> (&str, &str, &str) {
    let segments = Segments::split(token).unwrap();
    (segments.header, segments.body, segments.signature)
}

/// Puts `with` in place of `length` characters at `at`.
fn replaced(text: &str, at: usize, length: usize, with: &str) -> String {
    let after = text.chars().skip(at + length);
    text.chars().take(at).chain(with.chars()).chain(after).collect()
}

#[test]
fn an_actor_is_flattened_as_hosts_do() {
    let token = verify(&actor_token()).unwrap();
    assert_eq!(token.subject.as_str(), key(KeyPairType::Module).public_key());
    assert_eq!(
        token.claims,
        Claims {
            issuer: account().public_key().into(),
            name: "Echo".into(),
            call_alias: "examples/echo".into(),
            capabilities: "wasmcloud:httpserver,wasmcloud:builtin:logging".into(),
            tags: "demo,http".into(),
            revision: "4".into(),
            version: Some("0.3.4".into()),
            ..Claims::default()
        }
    );
    assert_eq!(token.validity.issuer.as_str(), account().public_key());
    assert_eq!((token.validity.not_before, token.validity.expires), (None, None));
}

#[test]
fn a_provider_has_neither_alias_nor_capabilities_nor_tags() {
    let body = body_of(
        KeyPairType::Service,
        &json!({
            "name": "HTTP Server",
            "capid": "wasmcloud:httpserver",
            "vendor": "wasmCloud",
            "rev": 1,
            "ver": "0.14.0",
            "target_hashes": {"x86_64-linux": "AB"},
            "call_alias": "hidden",
            "caps": ["hidden"],
            "tags": {"of": "another shape"},
        }),
    );
    assert_eq!(
        claims(&signed(&body.to_string())),
        Claims {
            issuer: account().public_key().into(),
            name: "HTTP Server".into(),
            call_alias: "".into(),
            capabilities: "".into(),
            tags: "".into(),
            revision: "1".into(),
            version: Some("0.14.0".into()),
            contract_id: "wasmcloud:httpserver".into(),
            ..Claims::default()
        }
    );
}

#[test]
fn what_a_token_leaves_out_is_empty() {
    for wascap in [
        json!({}),
        json!({"name": null, "call_alias": null, "caps": null, "tags": null, "rev": null, "ver": null}),
        json!({"caps": [], "tags": [], "rev": 0}),
        json!({"from": {"a": ["newer", {"signer": 1.5}]}}),
    ] {
        let body = body_of(KeyPairType::Module, &wascap);
        assert_eq!(
            claims(&signed(&body.to_string())),
            Claims {
                issuer: account().public_key().into(),
                name: "".into(),
                call_alias: "".into(),
                capabilities: "".into(),
                tags: "".into(),
                revision: ISSUED_AT.to_string().into(),
                version: Some("".into()),
                ..Claims::default()
            }
        );
    }
}

#[test]
fn a_revision_that_is_not_positive_becomes_the_time_of_issue() {
    for (rev, issued_at, expected) in [
        (Some(i32::MAX), 5, "2147483647"),
        (Some(1), 5, "1"),
        (Some(0), 5, "5"),
        (Some(-1), 5, "5"),
        (None, i64::from(i32::MAX), "2147483647"),
        (None, i64::from(i32::MAX) + 1, "2147483647"),
        (None, i64::MAX, "2147483647"),
        (None, 0, "0"),
        (None, i64::MIN, "0"),
    ] {
        assert_eq!(&*revision(rev, issued_at), expected);
    }
}

#[test]
fn the_times_are_given_back_and_not_judged() {
    let mut body = actor_body();
    body["nbf"] = json!(i64::MAX);
    body["exp"] = json!(i64::MIN);
    let validity = verify(&signed(&body.to_string())).unwrap().validity;
    assert_eq!(
        (validity.not_before, validity.expires),
        (Some(i64::MAX), Some(i64::MIN))
    );
    body["nbf"] = Value::Null;
    body["exp"] = Value::Null;
    let validity = verify(&signed(&body.to_string())).unwrap().validity;
    assert_eq!((validity.not_before, validity.expires), (None, None));
}

#[test]
fn the_size_is_bounded_first() {
    let name = |length| actor_with("/wascap/name", "n".repeat(length).into());
    assert!(name(11_500).len() < TOKEN_BYTES_MAX && verify(&name(11_500)).is_ok());
    assert_eq!(refusal(&name(12_500)), "too_large");
    assert_eq!(refusal(&".".repeat(TOKEN_BYTES_MAX + 1)), "too_large");
}

#[test]
fn a_token_has_three_segments() {
    let token = actor_token();
    let (header, body, signature) = split(&token);
    for malformed in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!(".{body}.{signature}"),
        format!("{header}..{signature}"),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.{signature}"),
        format!("{header}.{header}.{body}.{signature}"),
    ] {
        assert_eq!(refusal(&malformed), "segments", "{malformed}");
    }
}

#[test]
fn only_one_encoding_of_a_token_is_accepted() {
    let token = actor_token();
    let (header, body, signature) = split(&token);
    let (body_start, body_end) = body.split_at(4);
    for malformed in [
        format!("{header}=.{body}.{signature}"),
        format!("{header}.{body}.{signature}=="),
        format!("{header}.{body_start}\n{body_end}.{signature}"),
        format!("{header}.{body}.{signature} "),
        format!(" {token}"),
        format!("Bearer {token}"),
        format!("{header}.+/{body}.{signature}"),
        format!("{header}.é{body}.{signature}"),
        format!("{header}.{body}.{signature}AAA"),
        format!("{header}.\0{body}.{signature}"),
    ] {
        assert_eq!(refusal(&malformed), "encoding", "{malformed}");
    }
}

#[test]
fn stray_bits_after_the_signature_are_refused() {
    let token = actor_token();
    let (rest, last) = token.split_at(token.len() - 1);
    // 64 bytes leave 4 unused bits in the last of their characters.
    let neighbour = match last {
        "A" => "B",
        "Q" => "R",
        "g" => "h",
        "w" => "x",
        other => panic!("not canonical: {other}"),
    };
    assert_eq!(refusal(&format!("{rest}{neighbour}")), "encoding");
}

#[test]
fn the_header_is_exactly_that_of_claims() {
    let accepted = r#" { "alg" : "Ed25519", "typ" : "jwt" } "#;
    assert!(verify(&signed_as(accepted, &actor_body().to_string(), &account())).is_ok());
    for header in [
        "{}",
        "[]",
        "null",
        "nonsense",
        r#"["jwt","Ed25519"]"#,
        r#"{"typ":"jwt"}"#,
        r#"{"alg":"Ed25519"}"#,
        r#"{"typ":"jwt","alg":"none"}"#,
        r#"{"typ":"jwt","alg":null}"#,
        r#"{"typ":"jwt","alg":["Ed25519"]}"#,
        r#"{"typ":"JWT","alg":"ed25519-nkey"}"#,
        r#"{"typ":"JWT","alg":"Ed25519"}"#,
        r#"{"typ":"jwt","alg":"ed25519"}"#,
        r#"{"typ":"jwt","alg":"EdDSA"}"#,
        r#"{"typ":"jwt","alg":"HS256"}"#,
        r#"{"typ":"jwt","Alg":"Ed25519"}"#,
        r#"{"typ":"jwt","alg":"Ed25519","kid":"1"}"#,
        r#"{"typ":"jwt","alg":"Ed25519","alg":"Ed25519"}"#,
        r#"{"typ":"jwt","alg":"none","alg":"Ed25519"}"#,
        r#"{"typ":"jwt","alg":"Ed25519"}{}"#,
        "\u{feff}{\"typ\":\"jwt\",\"alg\":\"Ed25519\"}",
    ] {
        let token = signed_as(header, &actor_body().to_string(), &account());
        assert_eq!(refusal(&token), "header", "{header}");
    }
}

#[test]
fn a_body_that_is_not_that_of_claims_is_refused() {
    for body in [
        "{}",
        "[]",
        "null",
        "1",
        " ",
        "{",
        "\"\"",
        "{}{}",
        r#"{"iss":"\ud800"}"#,
    ] {
        assert_eq!(refusal(&signed(body)), "body", "{body}");
    }
    for missing in ["iss", "sub", "iat", "wascap"] {
        let mut body = actor_body();
        body.as_object_mut().unwrap().remove(missing);
        assert_eq!(refusal(&signed(&body.to_string())), "body", "{missing}");
    }
    let members = actor_body();
    let as_array = json!([members["iss"], members["sub"], 1, null, null, members["wascap"]]);
    assert_eq!(refusal(&signed(&as_array.to_string())), "body");
}

#[test]
fn members_of_other_types_are_refused() {
    for (path, value) in [
        ("/iss", json!(null)),
        ("/sub", json!(1)),
        ("/iat", json!(null)),
        ("/iat", json!(1.0)),
        ("/iat", json!("1")),
        ("/iat", json!(u64::MAX)),
        ("/nbf", json!("1")),
        ("/nbf", json!(0.5)),
        ("/exp", json!(1e300)),
        ("/exp", json!(4_000_000_000.0)),
        ("/exp", json!(true)),
        ("/exp", json!([])),
        ("/wascap", json!(null)),
        ("/wascap", json!([])),
        ("/wascap", json!(["Echo", 4, "0.3.4"])),
        ("/wascap", json!("")),
        ("/wascap/name", json!(1)),
        ("/wascap/ver", json!(0.3)),
        ("/wascap/call_alias", json!([])),
        ("/wascap/rev", json!("4")),
        ("/wascap/rev", json!(4.0)),
        ("/wascap/rev", json!(2_147_483_648_u32)),
        ("/wascap/caps", json!("wasmcloud:httpserver")),
        ("/wascap/caps", json!([null])),
        ("/wascap/tags", json!({})),
        ("/wascap/tags", json!([1])),
    ] {
        assert_eq!(
            refusal(&actor_with(path, value.clone())),
            "body",
            "{path} {value}"
        );
    }
    // Written out, since no JSON library would.
    let body = actor_body().to_string();
    let issued_at = format!(r#""iat":{ISSUED_AT}"#);
    for number in ["-0", "1e3", "1e999", "01", "+1", "9223372036854775808", "NaN"] {
        let body = body.replace(&issued_at, &format!(r#""iat":{number}"#));
        assert_eq!(refusal(&signed(&body)), "body", "{number}");
    }
}

#[test]
fn a_member_that_stands_twice_is_refused_at_any_depth() {
    let body = actor_body().to_string();
    let subject = format!(r#""sub":"{}""#, key(KeyPairType::Module).public_key());
    let other = format!(r#""sub":"{}""#, key(KeyPairType::Service).public_key());
    for (member, twice) in [
        (&*subject, format!("{subject},{subject}")),
        (&*subject, format!("{subject},{other}")),
        (&*subject, format!(r#"{subject},"\u0073ub":"""#)),
        (r#""name":"Echo""#, r#""name":"Echo","name":"Echo""#.into()),
        (r#""rev":4"#, r#""rev":4,"rev":5"#.into()),
        (r#""prov":false"#, r#""prov":false,"prov":true"#.into()),
        (r#""prov":false"#, r#""new":[{"a":1,"a":1}]"#.into()),
    ] {
        let doubled = body.replace(member, &twice);
        assert_ne!(doubled, body);
        assert_eq!(refusal(&signed(&doubled)), "body", "{twice}");
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let nested = |depth| {
            let deep = format!(r#""deep":{}1{}"#, open.repeat(depth), close.repeat(depth));
            signed(&actor_body().to_string().replace(r#""rev":4"#, &deep))
        };
        assert!(verify(&nested(100)).is_ok());
        assert_eq!(refusal(&nested(1_500)), "body");
    }
}

#[test]
fn the_issuer_is_a_usable_account() {
    let damaged = account().public_key().replace('A', "B");
    let seed = account().seed().unwrap();
    for issuer in [
        key(KeyPairType::Operator).public_key(),
        key(KeyPairType::User).public_key(),
        key(KeyPairType::Module).public_key(),
        key(KeyPairType::Server).public_key(),
        account().public_key().to_lowercase(),
        // A point of small order, on which anyone can sign.
        "A".repeat(56),
        damaged,
        seed,
        String::new(),
        "*".into(),
    ] {
        let token = actor_with("/iss", issuer.clone().into());
        assert_eq!(refusal(&token), "issuer_kind", "{issuer}");
    }
}

#[test]
fn the_subject_is_a_usable_actor_or_provider() {
    let damaged = key(KeyPairType::Module).public_key().replace('M', "V");
    for subject in [
        account().public_key(),
        key(KeyPairType::Operator).public_key(),
        key(KeyPairType::User).public_key(),
        key(KeyPairType::Cluster).public_key(),
        key(KeyPairType::Server).public_key(),
        damaged,
        String::new(),
        "M.*.>".into(),
    ] {
        let token = actor_with("/sub", subject.clone().into());
        assert_eq!(refusal(&token), "subject_kind", "{subject}");
    }
}

#[test]
fn only_the_issuer_can_have_signed() {
    let other = KeyPair::new_from_raw(KeyPairType::Account, [8; 32]).unwrap();
    let swapped = signed_as(HEADER, &actor_body().to_string(), &other);
    assert_eq!(refusal(&swapped), "signature");
    let token = actor_token();
    let (header, body, signature) = split(&token);
    let tampered = encoded(&actor_body().to_string().replace("Echo", "Evil"));
    let respaced = encoded(&format!("{HEADER} "));
    let zeros = BASE64URL_NOPAD.encode(&[0; 64]);
    for forged in [
        format!("{header}.{tampered}.{signature}"),
        format!("{respaced}.{body}.{signature}"),
        format!("{header}.{body}.{zeros}"),
        format!("{header}.{body}.AAAA"),
        format!("{header}.{body}.AA{signature}AA"),
    ] {
        assert_eq!(refusal(&forged), "signature", "{forged}");
    }
}

#[test]
fn the_second_scalar_of_a_signature_is_refused() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let token = actor_token();
    let (header, body, signature) = split(&token);
    let mut malleated = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    let mut carry = 0;
    for (byte, addend) in malleated[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(addend) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    let malleated = BASE64URL_NOPAD.encode(&malleated);
    assert_eq!(refusal(&format!("{header}.{body}.{malleated}")), "signature");
}

#[test]
fn what_comma_joining_would_blur_is_refused() {
    for blurred in [json!([""]), json!(["a,b"]), json!(["a", ","]), json!(["a", ""])] {
        assert_eq!(refusal(&actor_with("/wascap/tags", blurred.clone())), "tag");
        assert_eq!(refusal(&actor_with("/wascap/caps", blurred)), "capability");
    }
}

fn validity(not_before: Option<i64>, expires: Option<i64>) -> Validity {
    Validity {
        issuer: Nkey::parse(&account().public_key(), &[NkeyKind::Account]).unwrap(),
        not_before,
        expires,
    }
}

#[test]
fn the_times_hold_give_or_take_the_leeway() {
    const NOW: i64 = 1_700_000_000;
    for (not_before, expires, expected) in [
        (None, None, None),
        (Some(NOW), Some(NOW + 1), None),
        (Some(NOW + LEEWAY_SECONDS), None, None),
        (Some(NOW + LEEWAY_SECONDS + 1), None, Some("not_yet_valid")),
        (None, Some(NOW - LEEWAY_SECONDS + 1), None),
        (None, Some(NOW - LEEWAY_SECONDS), Some("expired")),
        (Some(i64::MAX), None, Some("not_yet_valid")),
        (Some(i64::MIN), Some(i64::MAX), None),
        (None, Some(i64::MIN), Some("expired")),
    ] {
        let refused = validity(not_before, expires)
            .check(NOW, &TrustedIssuers::Any)
            .err();
        assert_eq!(refused.map(|refused| refused.cause()), expected);
    }
}

#[test]
fn no_time_is_too_far_away_to_judge() {
    for now in [i64::MIN, -1, 0, 1, i64::MAX] {
        let always = validity(Some(i64::MIN), Some(i64::MAX));
        assert_eq!(always.check(now, &TrustedIssuers::Any), Ok(()));
        let never = validity(Some(i64::MAX), Some(i64::MIN));
        assert!(never.check(now, &TrustedIssuers::Any).is_err());
    }
}

#[test]
fn an_issuer_must_be_trusted() {
    let listed =
        |list: &[&str]| TrustedIssuers::parse(&list.iter().map(|item| (*item).into()).collect::<Vec<_>>());
    let check = |trusted: &TrustedIssuers| validity(None, None).check(0, trusted);
    let this = account().public_key();
    let other = KeyPair::new_from_raw(KeyPairType::Account, [8; 32])
        .unwrap()
        .public_key();
    assert_eq!(listed(&["*"]), Ok(TrustedIssuers::Any));
    assert_eq!(check(&listed(&["*"]).unwrap()), Ok(()));
    assert_eq!(check(&listed(&[&this, &other, &this]).unwrap()), Ok(()));
    assert_eq!(
        check(&listed(&[&other]).unwrap()),
        Err(TokenRefused::IssuerNotTrusted)
    );
    assert_eq!(check(&listed(&[]).unwrap()), Err(TokenRefused::IssuerNotTrusted));
    let module = key(KeyPairType::Module).public_key();
    for malformed in [&["*", "*"][..], &[&*this, "*"], &[""], &["A*"], &[&*module]] {
        assert!(listed(malformed).is_err(), "{malformed:?}");
    }
}

#[test]
fn an_untrusted_issuer_is_told_before_the_times() {
    let refused = validity(None, Some(0)).check(1_000, &TrustedIssuers::Listed(BTreeSet::new()));
    assert_eq!(refused, Err(TokenRefused::IssuerNotTrusted));
}

proptest! {
    #[test]
    fn no_text_panics_or_verifies(text in any::<String>()) {
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn nothing_shaped_like_a_token_panics_or_verifies(
        text in "[A-Za-z0-9_=-]{0,60}(\\.[A-Za-z0-9_=-]{0,90}){1,3}"
    ) {
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn a_token_that_was_changed_never_verifies(
        at in any::<prop::sample::Index>(),
        length in 0_usize..9,
        to in "[A-Za-z0-9_.=-]{0,8}|\\PC{0,2}",
    ) {
        let token = actor_token();
        let changed = replaced(&token, at.index(token.len()), length, &to);
        prop_assert!(changed == token || verify(&changed).is_err());
    }

    #[test]
    fn no_signed_body_panics(
        at in any::<prop::sample::Index>(),
        length in 0_usize..9,
        to in r#"[{}\[\],:"0-9eE.+-]{0,8}|.{0,4}"#,
    ) {
        let body = actor_body().to_string();
        let changed = replaced(&body, at.index(body.len()), length, &to);
        if let Ok(token) = verify(&signed(&changed)) {
            prop_assert_eq!(token.validity.issuer.as_str(), account().public_key());
        }
    }
}
