//! When certificates and the JWTs of NATS users end, Unix seconds: for metrics alone, nothing is decided by it here.

use serde::Deserialize;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_cert::{Certificate, der::Decode, time::Validity};

use crate::domain::jws::{self, Segments};

/// What this validity tells.
pub(crate) fn of_validity(validity: &Validity) -> i64 {
    let seconds = validity.not_after.to_unix_duration().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// The end of each certificate in a PEM, in its order. What cannot be read is left out.
pub(crate) fn of_certificates(pem: &[u8]) -> impl Iterator<Item = i64> {
    CertificateDer::pem_slice_iter(pem).filter_map(|certificate| of_certificate(&certificate.ok()?))
}

/// The end of a certificate.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<i64> {
    let read = Certificate::from_der(certificate).ok()?;
    Some(of_validity(&read.tbs_certificate.validity))
}

/// The end of a JWT, whoever signed it; none where it does not end (`exp` is absent, or 0 as NATS writes it).
pub(crate) fn of_jwt(jwt: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default)]
        exp: i64,
    }
    let body = jws::decode(Segments::split(jwt)?.body)?;
    let claims = serde_json::from_slice::<Claims>(&body).ok()?;
    Some(claims.exp).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    #[test]
    fn a_jwt_ends_where_it_says_so() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()));
        assert_eq!(
            of_jwt(&jwt(r#"{"exp":1800000000,"nats":{}}"#)),
            Some(1_800_000_000)
        );
        for endless in [r#"{"exp":0}"#, "{}", r#"{"exp":"soon"}"#, "no JSON"] {
            assert_eq!(of_jwt(&jwt(endless)), None, "{endless}");
        }
        assert_eq!(of_jwt("no JWT"), None);
    }
}
