//! What several targets assert or need.

use crate::{
    domain::{EntryKey, Violations},
    store::layout::cache_stream,
};

/// Real keys of the wasmCloud echo example.
pub const ACTOR: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";

/// Asserts that an entry whose key was parsed strictly has a home, and that it is two plain subject tokens.
pub fn assert_home(key: &EntryKey) -> String {
    let home = cache_stream::home(key).expect("a strictly parsed key has a home");
    assert_subject(&home, 2);
    home
}

/// Asserts that a text is so many subject tokens, and can be no wildcard and no other line of the protocol.
pub fn assert_subject(subject: &str, tokens: usize) {
    assert_eq!(subject.split('.').count(), tokens, "{subject:?}");
    assert!(subject.split('.').all(|token| !token.is_empty()), "{subject:?}");
    assert!(
        subject
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'),
        "{subject:?}"
    );
}

/// Asserts that a text can be the key of a bucket, and nothing else.
pub fn assert_bucket_key(key: &str) {
    assert!(!key.starts_with('.') && !key.ends_with('.'), "{key:?}");
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_=.".contains(&byte);
    assert!(!key.is_empty() && key.bytes().all(is_key), "{key:?}");
}

/// Asserts that a check refused exactly where it noted why, and that every reason can be told in a short line.
pub fn assert_told<T>(checked: Option<&T>, violations: &Violations) {
    assert_eq!(checked.is_some(), violations.is_empty());
    for violation in violations.iter() {
        assert!(!violation.invalid.to_string().is_empty());
    }
}

/// The fields of an input, which a target's seeds separate with U+001F. Those that are missing are empty.
pub fn fields<const COUNT: usize>(input: &str) -> [&str; COUNT] {
    let mut rest = input.splitn(COUNT, '\u{1f}');
    [(); COUNT].map(|()| rest.next().unwrap_or_default())
}
