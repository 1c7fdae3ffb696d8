//! OCI references: which image has which key.
//!
//! Hosts keep a reference under the exact text they were given and look it up by that text, so it is checked
//! here and never normalised: `echo` and `docker.io/library/echo:latest` are two entries.

use std::num::NonZeroU16;

use oci_spec::distribution::{ParseError, Reference};

use super::{
    identifier::{bounded, within},
    invalid::{Invalid, Violations},
    nkey::{Nkey, NkeyKind},
};

/// Bytes in an OCI reference's URL, at most.
pub const OCI_URL_BYTES_MAX: usize = 512;

/// What an OCI reference says, its URL apart.
///
/// Loose: holds whatever a stream stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciReference {
    /// The key of the image's actor or provider.
    pub public_key: Box<str>,
}

/// A reference as a caller gives it, before anything of it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked<'a> {
    /// An image reference, or `bindle://` and a bindle's id.
    pub oci_url: &'a str,
    /// See [`OciReference`].
    pub public_key: &'a str,
}

impl Unchecked<'_> {
    /// Parses the reference strictly, and notes every violation under `field`. Gives the URL, exactly as it
    /// was given, and what it refers to.
    pub fn check(self, field: &str, violations: &mut Violations) -> Option<(Box<str>, OciReference)> {
        let mut at = |part: &str, parsed| violations.check(&format!("{field}.{part}"), parsed);
        let oci_url = at("oci_url", oci_url(self.oci_url));
        let public_key = at(
            "public_key",
            Nkey::parse(self.public_key, &[NkeyKind::Module, NkeyKind::Provider])
                .map(|key| key.as_str().into()),
        );
        Some((
            oci_url?,
            OciReference {
                public_key: public_key?,
            },
        ))
    }
}

fn oci_url(url: &str) -> Result<Box<str>, Invalid> {
    bounded("oci_url_bytes_max", OCI_URL_BYTES_MAX, url)?;
    within("A-Z a-z 0-9 . _ - + / : @", url, |byte| {
        is_bindle_byte(byte) || matches!(byte, b'/' | b':' | b'@')
    })?;
    match url.split_once("://") {
        None => check_image(url)?,
        Some(("bindle", id)) => check_bindle_id(id)?,
        Some(_) => {
            return Err(Invalid::Rule(
                "must not start with a scheme other than `bindle://`; leave `oci://`, `https://` and the like away",
            ));
        }
    }
    Ok(url.into())
}

/// The grammar of the OCI distribution specification. Its parser (oci-spec 0.10) lets pass, beside what is not
/// ASCII, capitals in a repository that looks like a host, capitals in a digest, and any number as port.
fn check_image(reference: &str) -> Result<(), Invalid> {
    let parsed = Reference::try_from(reference).map_err(|error| malformed(&error))?;
    if has_capital(parsed.repository()) {
        return Err(NOT_AN_IMAGE);
    }
    if parsed.digest().is_some_and(has_capital) {
        return Err(BAD_DIGEST);
    }
    match parsed.registry().split_once(':') {
        Some((_, port)) if port.parse::<NonZeroU16>().is_err() => Err(Invalid::Rule(
            "names a registry whose port is not from 1 to 65535",
        )),
        _ => Ok(()),
    }
}

const NOT_AN_IMAGE: Invalid = Invalid::Rule(
    "must be an image reference such as `registry.example/echo:0.3.4`, its repository in lower case",
);
const BAD_DIGEST: Invalid = Invalid::Rule(
    "has a digest that is not `sha256:`, `sha384:` or `sha512:` and all its hex digits, in lower case",
);

fn malformed(error: &ParseError) -> Invalid {
    match error {
        ParseError::DigestInvalidFormat | ParseError::DigestInvalidLength | ParseError::DigestUnsupported => {
            BAD_DIGEST
        }
        ParseError::NameContainsUppercase
        | ParseError::NameEmpty
        | ParseError::NameTooLong
        | ParseError::ReferenceInvalidFormat
        | ParseError::TagInvalidFormat => NOT_AN_IMAGE,
    }
}

/// Names and a semantic version, joined by `/`.
fn check_bindle_id(id: &str) -> Result<(), Invalid> {
    match id.rsplit_once('/') {
        Some((names, version)) if names.split('/').all(is_bindle_name) && is_version(version) => Ok(()),
        _ => Err(Invalid::Rule(
            "must be `bindle://`, names and a version, such as `bindle://example.com/echo/0.12.0`",
        )),
    }
}

fn is_bindle_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.bytes().all(is_bindle_byte)
}

/// `MAJOR.MINOR.PATCH`, alone or with a pre-release (`-…`) or build (`+…`) after it.
fn is_version(version: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let core = version.split(['-', '+']).next().unwrap_or_default();
    core.split('.').count() == 3 && core.split('.').all(is_number) && version.bytes().all(is_bindle_byte)
}

fn is_bindle_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+')
}

fn has_capital(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // A real key of the wasmCloud echo example.
    const MODULE: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";

    fn refusal(url: &str) -> String {
        match oci_url(url) {
            Err(invalid) => invalid.to_string(),
            Ok(_) => panic!("accepted {url:?}"),
        }
    }

    #[test]
    fn references_are_kept_exactly_as_given() {
        let digest = format!("registry.example/echo@sha256:{}", "0a".repeat(32));
        let both = format!("registry.example/echo:1@sha512:{}", "0a".repeat(64));
        let longest = format!("registry.example/{}:1", "a".repeat(255));
        for url in [
            "echo",
            "echo:0.3.4",
            "wasmcloud.azurecr.io/echo:0.3.4",
            "ghcr.io/wasmcloud/components/http-hello_world:v0.1.0-rc.1",
            "index.docker.io/library/echo:latest",
            "localhost:5000/v2/echo",
            "Registry.Example:65535/echo:UPPER_tag",
            "127.0.0.1:5000/echo:0.3.4",
            &digest,
            &both,
            &longest,
            "bindle://example.com/echo/0.12.0",
            "bindle://echo/1.0.0-rc.1+build.5",
            "bindle://Example_1/a.b/c+d/10.20.30",
        ] {
            assert_eq!(oci_url(url).as_deref(), Ok(url));
        }
    }

    #[test]
    fn what_is_no_image_reference_is_refused() {
        let hex = "a".repeat(64);
        let too_long_name = format!("registry.example/{}:1", "a".repeat(256));
        let too_long_tag = format!("echo:{}", "t".repeat(129));
        let capital_digest = format!("echo@sha256:{}", "A".repeat(64));
        let short_digest = format!("echo@sha256:{}", "a".repeat(63));
        let odd_digest = format!("echo@sha256:{}", "g".repeat(64));
        let other_digest = format!("echo@md5:{}", "a".repeat(32));
        let two_digests = format!("echo@sha256:{hex}@sha256:{hex}");
        for url in [
            "",
            ":1",
            "/echo",
            "echo/",
            "echo:",
            "echo@",
            "echo:1:2",
            "a//b",
            "registry.example/Echo:1",
            "Echo",
            "UPPER/echo:1",
            "registry.example:99999/echo",
            "registry.example:65536/echo",
            "registry.example:0/echo",
            "registry.example:/echo",
            "registry.example:18446744073709551616/echo",
            "[::1]:5000/echo",
            "-registry.example/echo",
            "echo:+1",
            "echo:tägé",
            "echo:\u{661}",
            "echo:1 ",
            "echo:1\n",
            "echo:1\0",
            "echo?x=1",
            "user@registry.example/echo",
            "../echo",
            "*",
            ">",
            &too_long_name,
            &too_long_tag,
            &capital_digest,
            &short_digest,
            &odd_digest,
            &other_digest,
            &two_digests,
        ] {
            refusal(url);
        }
    }

    #[test]
    fn what_is_no_bindle_id_is_refused() {
        for url in [
            "bindle://",
            "bindle://1.0.0",
            "bindle:///1.0.0",
            "bindle://echo/",
            "bindle://echo/1.0",
            "bindle://echo/1.0.0.0",
            "bindle://echo/1..0",
            "bindle://echo/v1.0.0",
            "bindle://echo/latest",
            "bindle://a//b/1.0.0",
            "bindle://a/../1.0.0",
            "bindle://./1.0.0",
            "bindle://example.com:80/echo/1.0.0",
            "bindle://echo/1.0.0@x",
            "bindle://bindle://echo/1.0.0",
            "bindle://echo/1.0.0 ",
        ] {
            refusal(url);
        }
    }

    #[test]
    fn a_scheme_is_answered_with_the_way_out() {
        for url in [
            "http://registry.example/echo:1",
            "https://registry.example/echo:1",
            "oci://registry.example/echo:1",
            "BINDLE://echo/1.0.0",
            "://echo",
        ] {
            assert!(refusal(url).contains("scheme"), "{url}");
        }
    }

    #[test]
    fn a_digest_and_a_port_are_named_as_such() {
        assert!(refusal(&format!("echo@sha256:{}", "A".repeat(64))).contains("lower case"));
        assert!(refusal(&format!("echo@md5:{}", "a".repeat(32))).contains("sha256"));
        assert!(refusal("registry.example:99999/echo").contains("65535"));
    }

    #[test]
    fn the_length_is_bounded_first() {
        let longest = format!("bindle://{}/1.0.0", "é".repeat(OCI_URL_BYTES_MAX));
        assert_eq!(
            oci_url(&longest),
            Err(Invalid::TooLong {
                limit: "oci_url_bytes_max",
                max: OCI_URL_BYTES_MAX,
                actual: longest.len(),
            })
        );
        let most = format!("bindle://{}/1.0.0", "a".repeat(OCI_URL_BYTES_MAX - 15));
        assert_eq!(most.len(), OCI_URL_BYTES_MAX);
        assert!(oci_url(&most).is_ok());
        assert!(oci_url(&format!("{most}1")).is_err());
    }

    #[test]
    fn every_violation_is_noted_with_its_place() {
        let mut violations = Violations::new();
        let unchecked = Unchecked {
            oci_url: "Echo",
            public_key: "M",
        };
        assert_eq!(unchecked.check("oci_reference", &mut violations), None);
        let fields: Vec<_> = violations.iter().map(|violation| &*violation.field).collect();
        assert_eq!(fields, ["oci_reference.oci_url", "oci_reference.public_key"]);
    }

    #[test]
    fn a_reference_is_checked_into_its_url_and_key() {
        let mut violations = Violations::new();
        let unchecked = Unchecked {
            oci_url: "echo",
            public_key: MODULE,
        };
        let (url, reference) = unchecked.check("oci_reference", &mut violations).unwrap();
        assert_eq!((&*url, &*reference.public_key), ("echo", MODULE));
        assert!(violations.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(url in any::<String>()) {
            prop_assert!(oci_url(&url).is_err() || url.is_ascii());
        }

        #[test]
        fn no_near_miss_panics(url in "(bindle://|oci://)?[A-Za-z0-9._+/:@é-]{0,80}(@sha256:[0-9a-fA-F]{62,66})?") {
            if let Ok(kept) = oci_url(&url) {
                prop_assert_eq!(&*kept, &*url);
                prop_assert!(url.is_ascii());
            }
        }
    }
}
