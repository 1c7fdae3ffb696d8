//! Who is at the other end of a connection, as far as the connection itself tells.

use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate, where it has shown one that the listener's authority signed.
    pub certificate: Option<PeerCertificate>,
}

/// A client certificate that was verified.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The alternative names, in their order.
    pub names: Vec<CertificateName>,
    /// SHA-256 of the certificate (DER).
    pub sha256: [u8; 32],
    /// When it ends, Unix seconds.
    pub not_after_unix_seconds: i64,
}

/// A subject alternative name (RFC 5280, 4.2.1.6) that can name a caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateName {
    /// A URI, such as a SPIFFE id; compared as it is.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
}

impl CertificateName {
    /// Reads what the configuration writes: `spiffe://…` or another URI, or `dns:name`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("dns:") {
            let is_name = !name.is_empty() && !name.contains(['*', ' ', ':', '/']) && name.is_ascii();
            return is_name.then(|| Self::Dns(name.to_ascii_lowercase()));
        }
        let (scheme, rest) = text.split_once("://")?;
        let is_uri =
            !scheme.is_empty() && !rest.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_uri.then(|| Self::Uri(text.to_owned()))
    }
}
