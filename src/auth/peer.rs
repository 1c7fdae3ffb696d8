//! Who is at the other end of a connection, as far as the connection itself tells.

use std::{net::SocketAddr, sync::Arc};

/// The other end of a connection; an extension, `Arc<Peer>`, of every request that comes by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// What the peer proved to have; none without TLS, and where certificates are ignored or optional.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// A client's certificate: its chain was verified and its key was used when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Its subject alternative names, URIs and DNS names alone, in their order. None where it has a SPIFFE id
    /// beside another URI: such a certificate is not to be accepted (SPIFFE, X.509-SVID, section 2).
    pub names: Vec<CertificateName>,
    /// The SHA-256 of its DER.
    pub sha256: [u8; 32],
    /// When it ends. It may do so while the connection is open.
    pub not_after_unix_seconds: i64,
}

/// A subject alternative name (RFC 5280, 4.2.1.6) that can name a caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificateName {
    /// A URI, such as a SPIFFE id, as it is written.
    Uri(String),
    /// A DNS name in lower case; in a certificate it may begin with `*.`, and then names no caller.
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
