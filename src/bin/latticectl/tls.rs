//! Secures connections to the gateway, and tells why one cannot be.
//!
//! Must not know what is sent. The one place that knows rustls and what its errors mean.

use std::{
    fmt, fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, AlertDescription, CertificateError, ClientConfig, InvalidMessage, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tonic::transport::Uri;
use tower::Service;

use crate::args::GatewayUri;

/// What gRPC speaks.
const ALPN_H2: &[u8] = b"h2";

/// The files that options name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsFiles<'a> {
    /// Whom to trust; the system's authorities where there is none.
    pub(crate) ca: Option<&'a Path>,
    /// The client's certificate and its key.
    pub(crate) identity: Option<(&'a Path, &'a Path)>,
}

/// Why there is no secure connection; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct TlsError {
    pub(crate) trouble: Trouble,
    message: String,
}

/// What stands between this client and a secure connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody trusted signed the gateway's certificate.
    UnknownAuthority,
    /// The gateway's certificate is that of an authority.
    IsAuthority,
    /// The gateway's certificate is for other hosts.
    OtherHost,
    /// The gateway's certificate has ended, or has not begun.
    OutOfDate,
    /// The other end speaks no TLS.
    NotTls,
    /// The gateway serves nobody without a certificate.
    CertificateRequired,
    /// The gateway does not accept the client's certificate.
    CertificateRefused,
    /// Anything else.
    Other,
}

/// Connects to one gateway.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    host: String,
    port: u16,
    name: ServerName<'static>,
    timeout: Duration,
    failure: Noted,
}

/// Why the latest connection is not secure.
type Noted = Arc<Mutex<Option<TlsError>>>;

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// `timeout` is for all of a connection, the handshake included. The error says which file is wrong.
    pub(crate) fn new(gateway: &GatewayUri, files: TlsFiles<'_>, timeout: Duration) -> Result<Self, String> {
        let host = gateway.host().to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_error| {
            format!("no certificate can be for the host of {gateway}; give another name")
        })?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config(files)?)),
            port: gateway.port(),
            host,
            name,
            timeout,
            failure: Noted::default(),
        })
    }

    /// Why the latest connection is not secure, where that is why it failed; told once.
    pub(crate) fn failure(&self) -> Option<TlsError> {
        self.failure.lock().take()
    }

    async fn connect(self) -> io::Result<Noting> {
        *self.failure.lock() = None;
        let connected = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let secured = self.tls.connect(self.name, stream).await;
            let stream = secured.inspect_err(|error| note(&self.failure, error))?;
            if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
                let message = "the other end speaks TLS, and no gRPC: it did not agree on HTTP/2".to_owned();
                let trouble = Trouble::Other;
                *self.failure.lock() = Some(TlsError { trouble, message });
                return Err(io::ErrorKind::Unsupported.into());
            }
            Ok(Noting {
                stream,
                was_answered: false,
                failure: self.failure,
            })
        };
        timeout(self.timeout, connected)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Noting>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async { connector.connect().await.map(TokioIo::new) })
    }
}

fn config(files: TlsFiles<'_>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(files.ca)?);
    let mut config = match files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| {
                let (certificate, key) = (certificate.display(), key.display());
                format!("{key} is not a key that can be used with the certificate in {certificate}: {error}")
            })?,
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| {
                format!(
                    "{} has a certificate that cannot be used: {error}",
                    path.display()
                )
            })?;
        }
        return Ok(roots);
    }
    // A machine may have a few that nobody can read; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            "this machine trusts no authority; give --ca, the one that signs the gateway's certificate"
                .to_owned(),
        );
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{} holds no certificate as PEM", path.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{} is broken PEM: {error}", path.display())),
    }
}

/// Errors say nothing of what the file holds.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_error| {
        format!(
            "{} holds no private key as PEM, or an encrypted one",
            path.display()
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// A secured stream that notes why the other end did not accept it.
///
/// With TLS 1.3 a client learns only after the handshake that its certificate was refused, when it first
/// reads. HTTP/2 passes on the text of such an error alone, so what it was is noted here.
#[derive(Debug)]
pub(crate) struct Noting {
    stream: TlsStream<TcpStream>,
    /// The other end has said something, so it accepted the handshake: errors from here on are not about
    /// that.
    was_answered: bool,
    failure: Noted,
}

impl AsyncRead for Noting {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, into));
        this.was_answered |= into.filled().len() > before;
        if let (false, Err(error)) = (this.was_answered, &read) {
            note(&this.failure, error);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Notes what TLS said, where it is TLS that failed and not the network.
fn note(failure: &Noted, error: &io::Error) {
    let error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(error) = error {
        *failure.lock() = Some(TlsError::from(error));
    }
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        let trouble = trouble(error);
        let message = match trouble {
            Trouble::UnknownAuthority => {
                format!("nobody who is trusted signed the gateway's certificate: {error}")
            }
            Trouble::IsAuthority => {
                "the gateway's certificate is that of an authority, which no server can show".to_owned()
            }
            Trouble::OtherHost => format!("the gateway's certificate is for another host: {error}"),
            Trouble::OutOfDate => format!("the gateway's certificate is out of date: {error}"),
            Trouble::NotTls => "the other end speaks no TLS".to_owned(),
            Trouble::CertificateRequired => "the gateway requires a client certificate".to_owned(),
            Trouble::CertificateRefused => format!("the gateway refuses the client certificate: {error}"),
            Trouble::Other => format!("there is no secure connection: {error}"),
        };
        Self { trouble, message }
    }
}

fn trouble(error: &rustls::Error) -> Trouble {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage as Invalid};

    if let InvalidCertificate(error) = error {
        return trouble_with_certificate(error);
    }
    if let AlertReceived(alert) = error {
        return trouble_told(*alert);
    }
    if matches!(
        error,
        Invalid(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
    ) {
        return Trouble::NotTls;
    }
    Trouble::Other
}

/// What webpki calls it, which rustls hands on as a text alone.
const IS_AUTHORITY: &str = "CaUsedAsEndEntity";

fn trouble_with_certificate(error: &CertificateError) -> Trouble {
    use CertificateError as E;

    if matches!(error, E::UnknownIssuer | E::BadSignature) {
        Trouble::UnknownAuthority
    } else if error.to_string().contains(IS_AUTHORITY) {
        Trouble::IsAuthority
    } else if matches!(error, E::NotValidForName | E::NotValidForNameContext { .. }) {
        Trouble::OtherHost
    } else if matches!(
        error,
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }
    ) {
        Trouble::OutOfDate
    } else {
        Trouble::Other
    }
}

/// What the other end told, before it answered anything, is about the handshake (RFC 8446, section 6.2).
fn trouble_told(alert: AlertDescription) -> Trouble {
    use AlertDescription as A;

    if alert == A::CertificateRequired {
        return Trouble::CertificateRequired;
    }
    let is_about_certificate = [
        A::BadCertificate,
        A::UnsupportedCertificate,
        A::CertificateRevoked,
        A::CertificateExpired,
        A::CertificateUnknown,
        A::UnknownCA,
        A::AccessDenied,
        A::DecryptError,
    ];
    match is_about_certificate.contains(&alert) {
        true => Trouble::CertificateRefused,
        false => Trouble::Other,
    }
}

#[cfg(test)]
mod tests;
