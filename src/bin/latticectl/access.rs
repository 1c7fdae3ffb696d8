//! How the gateway is reached: where, by TLS or not, and with which token.
//!
//! What is wrong with the options is told before anything is sent. A token is shown nowhere: it is in no
//! error, no log and no debug output.

use std::{
    fmt, fs,
    path::PathBuf,
    task::{Context, Poll},
    time::Duration,
};

use clap::Args;
use futures_util::future::BoxFuture;
use http::{Request, Response, header::AUTHORIZATION};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::Service;

use crate::{
    args::{GatewayUri, Global},
    tls::{Connector, TlsFiles},
};

const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_MAX: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Options that say how the gateway is reached.
///
/// Whether they fit each other is not for clap to check: it does not see an option that stands before the
/// command together with one after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access options")]
pub(crate) struct AccessOptions {
    /// The token to call with; others on this machine may see it in the list of processes
    #[arg(
        long = "token",
        global = true,
        env = "LATTICECTL_TOKEN",
        hide_env_values = true
    )]
    #[arg(value_name = "TOKEN")]
    bearer_token: Option<Token>,

    /// A file that holds the token to call with, instead of --token; it is read again for every call
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Trust the authorities in this PEM file to sign the gateway's certificate [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show the gateway this certificate, a PEM file, with those that signed it; needs --key
    #[arg(long = "cert", global = true, value_name = "FILE")]
    client_certificate: Option<PathBuf>,

    /// The private key of --cert, a PEM file
    #[arg(long = "key", global = true, value_name = "FILE")]
    client_key: Option<PathBuf>,
}

/// Shows itself to nobody.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl From<String> for Token {
    /// Takes anything: an error of clap's would quote the token.
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl AccessOptions {
    /// True where only TLS makes sense.
    pub(crate) fn ask_for_tls(&self) -> bool {
        self.ca.is_some() || self.client_certificate.is_some()
    }

    fn token_source(&self) -> Result<TokenSource, String> {
        let source = match (&self.bearer_token, &self.token_file) {
            (Some(_), Some(_)) => {
                return Err(
                    "there are two tokens; give --token (or LATTICECTL_TOKEN) or --token-file, not both"
                        .to_owned(),
                );
            }
            (Some(token), None) => TokenSource::Given(token.clone()),
            (None, Some(file)) => return Ok(TokenSource::File(file.clone())),
            (None, None) => TokenSource::None,
        };
        source.header().map_err(|error| error.to_string())?;
        Ok(source)
    }

    fn tls_files(&self) -> Result<TlsFiles<'_>, String> {
        let identity = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
            (Some(_), None) => return Err("--cert needs --key, the certificate's private key".to_owned()),
            (None, Some(_)) => {
                return Err("--key needs --cert, the certificate that it belongs to".to_owned());
            }
            (None, None) => None,
        };
        let ca = self.ca.as_deref();
        Ok(TlsFiles { ca, identity })
    }
}

/// Where calls go, and what they carry.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    channel: Channel,
    /// Tells why there is no secure connection; none without TLS.
    connector: Option<Connector>,
    token: TokenSource,
}

impl Line {
    /// Connects when it is first called. The error says which options are wrong.
    pub(crate) fn new(global: &Global) -> Result<Self, String> {
        let (gateway, access) = (global.gateway(), &global.access);
        let (token, files) = (access.token_source()?, access.tls_files()?);
        if gateway.is_secure() {
            let connector = Connector::new(&gateway, files, global.connect_timeout())?;
            let endpoint = endpoint(&gateway);
            return Ok(Self {
                channel: endpoint.connect_with_connector_lazy(connector.clone()),
                connector: Some(connector),
                token,
            });
        }
        if access.ask_for_tls() {
            return Err(format!(
                "--ca and --cert are for TLS, and {gateway} is without; give an https:// URL, or leave \
                 them out"
            ));
        }
        if !matches!(token, TokenSource::None) && !gateway.is_loopback() {
            return Err(format!(
                "a token is not sent to {gateway}: without TLS, everybody on the way could take it; give an \
                 https:// URL, or reach the gateway through a tunnel that ends on this machine"
            ));
        }
        let endpoint = endpoint(&gateway).connect_timeout(global.connect_timeout());
        Ok(Self {
            channel: endpoint.connect_lazy(),
            connector: None,
            token,
        })
    }
}

/// Pings, so that a long call notices a gateway that is gone without a word.
fn endpoint(gateway: &GatewayUri) -> Endpoint {
    Endpoint::from(gateway.uri())
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX)
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(context).map_err(BoxError::from)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let header = match self.token.header() {
            Ok(header) => header,
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        };
        if let Some(header) = header {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        let (answer, connector) = (self.channel.call(request), self.connector.clone());
        Box::pin(async move {
            answer
                .await
                .map_err(|error| match connector.and_then(|it| it.failure()) {
                    Some(failure) => failure.into(),
                    None => error.into(),
                })
        })
    }
}

/// Where the token comes from.
#[derive(Clone, Debug)]
enum TokenSource {
    None,
    Given(Token),
    File(PathBuf),
}

/// Why there is no token to send; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TokenError(String);

impl TokenSource {
    /// The header that carries the token (RFC 6750, section 2.1).
    fn header(&self) -> Result<Option<http::HeaderValue>, TokenError> {
        let (token, place) = match self {
            Self::None => return Ok(None),
            Self::Given(token) => (token.0.clone(), "--token (or LATTICECTL_TOKEN)".to_owned()),
            Self::File(path) => {
                let place = path.display().to_string();
                let read = fs::read(path)
                    .map_err(|error| TokenError(format!("cannot read the token in {place}: {error}")))?;
                (String::from_utf8_lossy(&read).into_owned(), place)
            }
        };
        let token = token.trim_end_matches(['\r', '\n']);
        if token.is_empty() {
            let message = format!("the token in {place} is empty; leave it out to call without one");
            return Err(TokenError(message));
        }
        // Visible ASCII alone: what else a header might take is in no token.
        let is_token = token.bytes().all(|byte| byte.is_ascii_graphic());
        let header = is_token.then(|| http::HeaderValue::try_from(format!("Bearer {token}")).ok());
        let Some(mut header) = header.flatten() else {
            let message = format!("what is in {place} is no token: one is a single word of ASCII characters");
            return Err(TokenError(message));
        };
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests;
