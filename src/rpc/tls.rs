//! TLS for the listener: the server's certificate, whose client certificates count, and who is at the other
//! end.
//!
//! Must not know what a peer may do: it tells the names that a verified certificate carries, nothing more.
//!
//! There is one provider of cryptography, ring, and it is always named: the process has no default one.
//! Sessions are never resumed, because a resumed one would bring back a client certificate without verifying
//! it again.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::{CryptoProvider, ring},
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
        sign::{CertifiedKey, SingleCertAndKey},
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};
use tracing::debug;
use x509_cert::{
    Certificate,
    der::{self, Decode},
    ext::pkix::{SubjectAltName, name::GeneralName},
    time::Validity,
};

use crate::{
    auth::peer::{CertificateName, PeerCertificate},
    control::Clock,
    expiry,
    telemetry::Metrics,
};

/// How long a handshake may take, from the connection's being accepted.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that was refused is heard out, and how much of it.
const HEARD_TIMEOUT: Duration = Duration::from_secs(1);
const HEARD_BYTES_MAX: u64 = 64 * 1024;
/// What gRPC speaks (RFC 9113, section 3.2).
const ALPN_H2: &[u8] = b"h2";
/// What browsers and scripts may speak, too (RFC 9112).
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// URIs that begin so are SPIFFE ids; the scheme is case-insensitive (RFC 3986, section 3.1).
const SPIFFE: &str = "spiffe://";

/// Which files and rules TLS is served by. The names are those of the settings.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// PEM: the server's certificate, then those that signed it.
    pub certificate_file: PathBuf,
    /// PEM: the certificate's private key, not encrypted.
    pub key_file: PathBuf,
    /// PEM: who signs the client certificates that count. Read unless these are ignored.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// The oldest version that is spoken.
    pub minimum_version: TlsVersion,
    /// Whether HTTP/1.1 is spoken besides HTTP/2.
    pub with_http1: bool,
}

/// Whether clients are asked for a certificate. All but `Ignored` need a `client_ca_file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not.
    Ignored,
    /// They are, and may have none; one that does not verify is refused.
    Optional,
    /// They are, and are refused without.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), with forward secrecy and authenticated encryption alone.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

/// What connections are secured with; new files replace it while it is in use.
pub struct Tls {
    config: TlsConfig,
    current: ArcSwap<Loaded>,
    handshake_timeout: Duration,
}

/// What the files held.
struct Loaded {
    server: Arc<ServerConfig>,
    not_after_unix_seconds: i64,
    /// Of the first of the clients' authorities to end.
    client_ca_not_after_unix_seconds: Option<i64>,
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("it took too long")]
    Late,
    #[error("{0}")]
    Failed(io::Error),
    #[error("the client asks for no protocol (ALPN h2 or http/1.1)")]
    NoProtocol,
    #[error("the client's certificate cannot be read: {0}")]
    Certificate(der::Error),
}

impl Tls {
    /// Reads the files. The error tells every mistake at once; each begins with the name of its setting,
    /// names the file and tells the way out.
    pub fn load(config: &TlsConfig) -> Result<Self, Vec<String>> {
        Ok(Self {
            config: config.clone(),
            current: ArcSwap::from_pointee(Loaded::read(config)?),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// With another time for handshakes than [`HANDSHAKE_TIMEOUT`].
    #[must_use]
    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> Self {
        Self {
            handshake_timeout,
            ..self
        }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let TlsConfig {
            certificate_file,
            key_file,
            client_ca_file,
            ..
        } = self.config.clone();
        [certificate_file, key_file].into_iter().chain(client_ca_file)
    }

    /// Goes by what another one has read: handshakes that begin from now on go by it, open connections stay as they
    /// are.
    pub fn take_over(&self, other: &Self) {
        self.current.store(other.current.load_full());
    }

    /// Reads the files again: handshakes that begin from now on go by what they hold, open connections stay
    /// as they are. On an error, which is as of [`load`](Self::load), everything stays as it was.
    pub fn reload(&self) -> Result<(), Vec<String>> {
        self.current.store(Arc::new(Loaded::read(&self.config)?));
        Ok(())
    }

    /// Tells when what it goes by ends.
    pub fn tell(&self, metrics: &Metrics) {
        let loaded = self.current.load();
        metrics.certificate_ends(loaded.not_after_unix_seconds);
        metrics.client_ca_ends(loaded.client_ca_not_after_unix_seconds);
    }

    /// When the server's certificate ends.
    pub fn not_after_unix_seconds(&self) -> i64 {
        self.current.load().not_after_unix_seconds
    }

    /// Secures a connection, in the time for handshakes, and tells whose certificate is at the other end.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Option<Arc<PeerCertificate>>), HandshakeError> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.load().server));
        let accepted = timeout(self.handshake_timeout, acceptor.accept(stream).into_fallible());
        let stream = match accepted.await.map_err(|_elapsed| HandshakeError::Late)? {
            Ok(stream) => stream,
            Err((error, stream)) => {
                hear_out(stream).await;
                return Err(HandshakeError::Failed(error));
            }
        };
        let (_, session) = stream.get_ref();
        // A client that offers other protocols was refused already, but one may offer none. A server that
        // speaks with it all the same could be spoken to by way of a browser, in another protocol (the ALPACA
        // attack).
        if session.alpn_protocol().is_none() {
            return Err(HandshakeError::NoProtocol);
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(PeerCertificate::read).transpose();
        let certificate = certificate.map_err(HandshakeError::Certificate)?;
        Ok((stream, certificate.map(Arc::new)))
    }
}

/// Reads what a refused client still says. With TLS 1.3 its first request follows the handshake at once, and
/// a connection that is closed on unread bytes is reset: the client might never see the alert that tells it
/// why.
async fn hear_out(mut stream: TcpStream) {
    let heard = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(HEARD_BYTES_MAX), &mut tokio::io::sink()).await
    };
    match timeout(HEARD_TIMEOUT, heard).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, "a refused client went away"),
        Err(_elapsed) => debug!("a refused client stayed"),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("config", &self.config)
            .field("not_after_unix_seconds", &self.not_after_unix_seconds())
            .finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(config: &TlsConfig) -> Result<Self, Vec<String>> {
        let provider = Arc::new(ring::default_provider());
        let mut mistakes = Vec::new();
        let mut note = |mistake: String| mistakes.push(mistake);
        let certificate = ServerCertificate::read(config).map_err(&mut note).ok();
        let key = key(config).map_err(&mut note).ok();
        let clients = Clients::read(config, &provider).map_err(&mut note).ok();
        if let Some(certificate) = &certificate {
            certificate.is_current(config).map_err(&mut note).ok();
        }
        let not_after = certificate.as_ref().map(|it| expiry::of_validity(&it.validity));
        let pair = certificate.zip(key).and_then(|(certificate, key)| {
            pair(config, certificate.chain, key, &provider)
                .map_err(&mut note)
                .ok()
        });
        match (pair, clients, not_after) {
            (Some(pair), Some(clients), Some(not_after_unix_seconds)) if mistakes.is_empty() => Ok(Self {
                server: Arc::new(server(config, provider, clients.verifier, pair)?),
                not_after_unix_seconds,
                client_ca_not_after_unix_seconds: clients.not_after_unix_seconds,
            }),
            _ => Err(mistakes),
        }
    }
}

fn server(
    config: &TlsConfig,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    pair: CertifiedKey,
) -> Result<ServerConfig, Vec<String>> {
    let versions: &[&SupportedProtocolVersion] = match config.minimum_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| vec![format!("minimum_version: {error}")])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    if config.with_http1 {
        server.alpn_protocols.push(ALPN_HTTP1.to_vec());
    }
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

/// The server's certificate with those that signed it.
struct ServerCertificate {
    chain: Vec<CertificateDer<'static>>,
    validity: Validity,
}

impl ServerCertificate {
    fn read(config: &TlsConfig) -> Result<Self, String> {
        let file = File::read("certificate_file", &config.certificate_file)?;
        let chain = file.certificates()?;
        let first = chain.first().map(|first| Certificate::from_der(first));
        match first.transpose() {
            Ok(Some(first)) => Ok(Self {
                chain,
                validity: first.tbs_certificate.validity,
            }),
            Ok(None) => Err(file.mistake("holds no certificate; give the server's certificate as PEM")),
            Err(error) => Err(file.mistake(&format!(
                "begins with a certificate that cannot be read ({error}); have it issued anew"
            ))),
        }
    }

    fn is_current(&self, config: &TlsConfig) -> Result<(), String> {
        let now = Clock.now();
        let Validity {
            not_before,
            not_after,
        } = &self.validity;
        let file = config.certificate_file.display();
        if now > not_after.to_unix_duration() {
            return Err(format!(
                "certificate_file: {file} holds a certificate that ended at {not_after}; renew it"
            ));
        }
        if now < not_before.to_unix_duration() {
            return Err(format!(
                "certificate_file: {file} holds a certificate that begins at {not_before}; is this machine's \
                 clock right?"
            ));
        }
        Ok(())
    }
}

fn key(config: &TlsConfig) -> Result<PrivateKeyDer<'static>, String> {
    let file = File::read("key_file", &config.key_file)?;
    // The parser's errors are not told: they may quote the file.
    PrivateKeyDer::from_pem_slice(&file.content).map_err(|_error| {
        let is_encrypted = file.content.windows(9).any(|word| word == b"ENCRYPTED");
        file.mistake(match is_encrypted {
            true => "holds an encrypted key; decrypt it with `openssl pkey -in FILE -out FILE`",
            false => "holds no private key; give the certificate's key as PEM (PKCS #8, PKCS #1 or SEC1)",
        })
    })
}

fn pair(
    config: &TlsConfig,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    use tokio_rustls::rustls::Error;

    let (certificate, key_file) = (config.certificate_file.display(), config.key_file.display());
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        if matches!(error, Error::InconsistentKeys(_)) {
            format!(
                "key_file: {key_file} is not the key of the certificate in {certificate}; give the two that \
                 were made together"
            )
        } else {
            format!(
                "key_file: {key_file} cannot be used with {certificate} ({error}); give an ECDSA (P-256 or \
                 P-384), Ed25519 or RSA (2048 bits or more) key"
            )
        }
    })
}

/// Whose certificates count.
struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    /// When the first of those who sign them ends.
    not_after_unix_seconds: Option<i64>,
}

impl Clients {
    fn read(config: &TlsConfig, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let is_optional = match config.client_certificates {
            ClientCertificates::Ignored => {
                return Ok(Self {
                    verifier: WebPkiClientVerifier::no_client_auth(),
                    not_after_unix_seconds: None,
                });
            }
            ClientCertificates::Optional => true,
            ClientCertificates::Required => false,
        };
        let Some(path) = &config.client_ca_file else {
            return Err(
                "client_certificates: needs `client_ca_file`, which tells whose certificates count; name it, or \
                 set `ignored`"
                    .to_owned(),
            );
        };
        let file = File::read("client_ca_file", path)?;
        let authorities = file.certificates()?;
        let not_after_unix_seconds = authorities.iter().filter_map(expiry::of_certificate).min();
        let mut roots = RootCertStore::empty();
        for (index, certificate) in authorities.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| {
                file.mistake(&format!(
                    "has a certificate that cannot be used, number {} ({error}); leave it out",
                    index.saturating_add(1)
                ))
            })?;
        }
        if roots.is_empty() {
            return Err(file
                .mistake("holds no certificate; give the certificates of those who sign clients', as PEM"));
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = match is_optional {
            true => builder.allow_unauthenticated(),
            false => builder,
        };
        let verifier = builder
            .build()
            .map_err(|error| file.mistake(&format!("cannot be used: {error}")))?;
        Ok(Self {
            verifier,
            not_after_unix_seconds,
        })
    }
}

/// A file that a setting names, and what it held.
struct File<'a> {
    setting: &'static str,
    path: &'a Path,
    content: Vec<u8>,
}

impl<'a> File<'a> {
    fn read(setting: &'static str, path: &'a Path) -> Result<Self, String> {
        let mut file = Self {
            setting,
            path,
            content: Vec::new(),
        };
        file.content = fs::read(path).map_err(|error| {
            file.mistake(&format!(
                "cannot be read ({error}); name a file that the gateway's user may read"
            ))
        })?;
        Ok(file)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        let certificates: Result<_, pem::Error> = CertificateDer::pem_slice_iter(&self.content).collect();
        certificates.map_err(|error| {
            self.mistake(&format!(
                "is broken PEM ({error}); copy the certificates there anew"
            ))
        })
    }

    fn mistake(&self, what: &str) -> String {
        format!("{}: {} {what}", self.setting, self.path.display())
    }
}

impl PeerCertificate {
    /// Reads a certificate that was verified.
    fn read(certificate: &CertificateDer<'_>) -> Result<Self, der::Error> {
        let read = Certificate::from_der(certificate)?.tbs_certificate;
        let alternatives = read.get::<SubjectAltName>()?;
        Ok(Self {
            names: alternatives
                .map(|(_is_critical, names)| names_of(names))
                .unwrap_or_default(),
            sha256: Sha256::digest(certificate).into(),
            not_after_unix_seconds: expiry::of_validity(&read.validity),
        })
    }
}

fn names_of(alternatives: SubjectAltName) -> Vec<CertificateName> {
    let names: Vec<_> = alternatives.0.into_iter().filter_map(name_of).collect();
    let uris = names.iter().filter_map(|name| match name {
        CertificateName::Uri(uri) => Some(uri.as_str()),
        CertificateName::Dns(_) => None,
    });
    let is_spiffe = |uri: &str| {
        uri.get(..SPIFFE.len())
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SPIFFE))
    };
    if uris.clone().any(is_spiffe) && uris.count() > 1 {
        return Vec::new();
    }
    names
}

fn name_of(name: GeneralName) -> Option<CertificateName> {
    match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(CertificateName::Uri(uri.as_str().to_owned())),
        GeneralName::DnsName(name) => Some(CertificateName::Dns(name.as_str().to_ascii_lowercase())),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate() -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![
            SanType::URI("spiffe://example.org/a".try_into().unwrap()),
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::Rfc822Name("a@example.org".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
        ];
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn names_of_other_kinds_are_left_out() {
        let names = PeerCertificate::read(&certificate()).unwrap().names;
        let uri = CertificateName::Uri("spiffe://example.org/a".to_owned());
        assert_eq!(names, [uri, CertificateName::Dns("a.example".to_owned())]);
    }

    /// Whichever byte is another, wherever the end is: an error or a certificate, never a panic.
    #[test]
    fn broken_certificates_are_read_or_refused() {
        let whole = certificate();
        for at in 0..whole.len() {
            for flipped in [0x01, 0x02, 0x04, 0x20, 0x80, 0xff] {
                let mut broken = whole.to_vec();
                broken[at] ^= flipped;
                drop(PeerCertificate::read(&CertificateDer::from(broken)));
            }
            PeerCertificate::read(&CertificateDer::from(&whole[..at])).unwrap_err();
        }
    }
}
