//! One GET of a set of keys: over TLS, or in plain text from this machine.

use std::{convert::Infallible, fmt, future, io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider, pki_types::ServerName},
};

use super::keys::{KEY_SET_BYTES_MAX, KeySet, KeySetInvalid};

/// From the first packet to the last byte.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a set of keys is: `https://…`, or `http://…` on a loopback address.
#[derive(Clone, Debug)]
pub(super) struct KeysUrl {
    host: Box<str>,
    port: u16,
    /// The name that the server proves to have; none in plain text.
    tls_name: Option<ServerName<'static>>,
    /// Host and port as they were written.
    authority: Box<str>,
    path: Box<str>,
}

impl KeysUrl {
    /// Takes a URL, or says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text
            .parse()
            .map_err(|_malformed| "is not a URL; write it as `https://issuer.example/keys`")?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("is not a whole URL; write it as `https://issuer.example/keys`");
        };
        if authority.as_str().contains('@') {
            return Err("has a user name; keys are public, so leave it out");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let (port, tls_name) = match scheme {
            "https" => {
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_malformed| "has a host that is neither a DNS name nor an IP address")?;
                (443, Some(name))
            }
            "http" if is_loopback(host) => (80, None),
            "http" => return Err("is not encrypted; use `https`, or a loopback address"),
            _ => return Err("is neither `https` nor `http`"),
        };
        Ok(Self {
            host: host.into(),
            port: authority.port_u16().unwrap_or(port),
            tls_name,
            authority: authority.as_str().into(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).into(),
        })
    }

    /// Whether certificates are needed to get there.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls_name.is_some()
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Makes TLS connections to servers that one of some authorities vouches for.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts these authorities.
    pub(super) fn new(authorities: RootCertStore) -> Result<Self, String> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?
            .with_root_certificates(authorities)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Trusts the authorities that this machine does.
    pub(super) fn of_this_machine() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut authorities = RootCertStore::empty();
        let (added, _unreadable) = authorities.add_parsable_certificates(found.certs);
        match added {
            0 => Err(
                "no certificate authorities were found on this machine, so `https` cannot be used: \
                 install them, or name a file with them in SSL_CERT_FILE"
                    .to_owned(),
            ),
            _ => Self::new(authorities),
        }
    }
}

/// Why there are no keys from a URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchFailed {
    /// Not within the time.
    #[error("there was no whole answer within {0:?}")]
    Timeout(Duration),
    /// No connection.
    #[error("the server cannot be reached")]
    Connect(#[source] io::Error),
    /// A server that proves to be another one, or no TLS.
    #[error("the connection is not secure")]
    Tls(#[source] io::Error),
    /// Not HTTP, or cut.
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
    /// A request that cannot be written.
    #[error("the request is malformed")]
    Request(#[source] http::Error),
    /// Anything but 200: redirects are not followed, since they would name a place that nobody configured.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// A body that was cut, or is over [`KEY_SET_BYTES_MAX`].
    #[error("the body was not read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A body that is no set of keys.
    #[error("the body is of no use")]
    KeySet(#[from] KeySetInvalid),
}

/// Gets a set of keys within a time.
pub(super) async fn fetch(url: &KeysUrl, tls: Option<&Tls>, within: Duration) -> Result<KeySet, FetchFailed> {
    let body = timeout(within, get(url, tls))
        .await
        .map_err(|_elapsed| FetchFailed::Timeout(within))??;
    Ok(KeySet::parse(&body)?)
}

async fn get(url: &KeysUrl, tls: Option<&Tls>) -> Result<Bytes, FetchFailed> {
    let plain = TcpStream::connect((&*url.host, url.port))
        .await
        .map_err(FetchFailed::Connect)?;
    match (&url.tls_name, tls) {
        (None, _) => exchange(url, plain).await,
        (Some(name), Some(Tls(tls))) => {
            let encrypted = tls.connect(name.clone(), plain).await.map_err(FetchFailed::Tls)?;
            exchange(url, encrypted).await
        }
        (Some(_), None) => Err(FetchFailed::Tls(io::ErrorKind::Unsupported.into())),
    }
}

async fn exchange<S>(url: &KeysUrl, stream: S) -> Result<Bytes, FetchFailed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(&*url.path)
        .header(HOST, &*url.authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("lattice-gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(FetchFailed::Request)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchFailed::Http)?;
    let answered = async move {
        let response = sender.send_request(request).await.map_err(FetchFailed::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchFailed::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX);
        let body = body.collect().await.map_err(FetchFailed::Body)?;
        Ok(body.to_bytes())
    };
    // The connection only carries the exchange; how it ends is told to that.
    let carried = async {
        drop(connection.await);
        future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answered => answer,
        never = carried => match never {},
    }
}
