//! Claims tokens, raw: what verifies is one text, and says what it is about.

#![no_main]

use lattice_gateway::domain::claims_token::{TOKEN_BYTES_MAX, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|token: &str| {
    match verify(token) {
        Err(refused) => assert!(!refused.cause().is_empty()),
        Ok(verified) => {
            assert!(token.len() <= TOKEN_BYTES_MAX);
            assert!(
                token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
            );
            assert!(verified.subject.as_str().starts_with(['M', 'V']));
            assert!(verified.validity.issuer.as_str().starts_with('A'));
            assert_eq!(verified.validity.issuer.as_str(), &*verified.claims.issuer);
        }
    }
});
