//! TLS of the listener: who is served, by which certificate, and what the request knows of the peer.
//!
//! The accept loop is driven itself, with a service that tells who it saw.

use std::{
    error::Error,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper_util::rt::TokioIo;
use lattice_gateway::{
    app,
    auth::peer::{CertificateName, Peer},
    config::Config,
    rpc::{
        server::{self, Connection, ConnectionLimits},
        tls::{ClientCertificates, Tls, TlsConfig, TlsVersion},
    },
};
use parking_lot::Mutex;
use rcgen::date_time_ymd;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt};

use crate::harness::{
    Nats,
    certificates::{Authority, Issued, San},
    until,
};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const LONG: Duration = Duration::from_mins(1);

/// A listener with a service that notes who asked.
struct Server {
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    seen: Arc<Mutex<Vec<Peer>>>,
    drain: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(tls: Tls) -> Self {
        Self::with(Some(tls), limits()).await
    }

    async fn with(tls: Option<Tls>, limits: ConnectionLimits) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, drain) = (tls.map(Arc::new), CancellationToken::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&seen);
        let router = Router::new().fallback(async move |Extension(by): Extension<Arc<Connection>>| {
            note.lock().push(by.peer.clone());
        });
        let serving = server::serve(
            listener,
            router,
            limits,
            tls.clone(),
            drain.clone(),
            std::future::pending(),
        );
        Self {
            address,
            tls,
            seen,
            drain,
            serving: tokio::spawn(serving),
        }
    }

    fn tls(&self) -> &Tls {
        self.tls.as_ref().unwrap()
    }

    /// Connects and makes one call; gives who it was to the service, or why it was not served.
    async fn ask(&self, client: &Arc<ClientConfig>) -> Result<Peer, String> {
        let stream = self.connect(client).await.map_err(|error| chain(&error))?;
        self.ask_by(&mut channel(stream).await).await
    }

    async fn ask_by(&self, channel: &mut Channel) -> Result<Peer, String> {
        let request = http::Request::new(tonic::body::Body::empty());
        let answered = async { channel.ready().await?.call(request).await };
        answered.await.map_err(|error| chain(&error))?;
        Ok(self.seen.lock().pop().unwrap())
    }

    async fn connect(&self, client: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.silent().await;
        TlsConnector::from(Arc::clone(client)).connect(name, stream).await
    }

    /// A peer that connects and says nothing.
    async fn silent(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn channel(stream: impl hyper_stream::Stream) -> Channel {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
        async move { stream.map_err(io::Error::from) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// What a channel can be made of.
mod hyper_stream {
    use tokio::io::{AsyncRead, AsyncWrite};

    pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
    impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections_max: 64,
        connections_per_address_max: 64,
        streams_max: 16,
        first_call_within: LONG,
        age_max: LONG,
        drain_timeout: LONG,
    }
}

fn config(authority: &Authority, server: &Issued, client_certificates: ClientCertificates) -> TlsConfig {
    TlsConfig {
        certificate_file: server.certificate_file.clone(),
        key_file: server.key_file.clone(),
        client_ca_file: Some(authority.certificate_file()),
        client_certificates,
        minimum_version: TlsVersion::V1_3,
        with_http1: false,
    }
}

fn tls(authority: &Authority, client_certificates: ClientCertificates) -> Tls {
    let server = authority.server(&["localhost"]);
    Tls::load(&config(authority, &server, client_certificates)).unwrap()
}

fn client(authority: &Authority, certificate: Option<&Issued>) -> Arc<ClientConfig> {
    Arc::new(client_of(authority, certificate, BOTH))
}

fn client_of(
    authority: &Authority,
    certificate: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let parsed = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(parsed(&authority.certificate())).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![parsed(&issued.certificate)], key)
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// An error with everything beneath it.
fn chain(error: &dyn Error) -> String {
    let errors = std::iter::successors(Some(error), |&error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// All that a connection gives until it is closed.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
    rest
}

fn uri(name: &str) -> CertificateName {
    CertificateName::Uri(name.to_owned())
}

fn dns(name: &str) -> CertificateName {
    CertificateName::Dns(name.to_owned())
}

fn names(peer: Peer) -> Vec<CertificateName> {
    peer.certificate.unwrap().names.clone()
}

#[tokio::test]
async fn what_a_certificate_says_reaches_the_request() {
    let authority = Authority::new();
    let server = Server::start(tls(&authority, ClientCertificates::Required)).await;
    let sans = [
        San::Dns("Writer.example"),
        San::Uri("spiffe://example.org/writer"),
    ];
    let issued = authority.client_with(&sans, |params| params.not_after = date_time_ymd(2100, 1, 1));
    let peer = server.ask(&client(&authority, Some(&issued))).await.unwrap();
    assert!(peer.address.ip().is_loopback());
    let certificate = peer.certificate.unwrap();
    let expected = [dns("writer.example"), uri("spiffe://example.org/writer")];
    assert_eq!(certificate.names, expected);
    assert_eq!(certificate.sha256, *Sha256::digest(&issued.der));
    assert_eq!(certificate.not_after_unix_seconds, 4_102_444_800);
}

#[tokio::test]
async fn a_spiffe_id_stands_alone_among_uris() {
    let authority = Authority::new();
    let server = Server::start(tls(&authority, ClientCertificates::Required)).await;
    let told = async |sans: &[San<'_>]| {
        let issued = authority.client(sans);
        names(server.ask(&client(&authority, Some(&issued))).await.unwrap())
    };
    let id = San::Uri("spiffe://example.org/a");
    assert_eq!(told(&[id]).await, [uri("spiffe://example.org/a")]);
    for other in ["spiffe://example.org/b", "https://example.org/a"] {
        assert_eq!(told(&[id, San::Dns("a.example"), San::Uri(other)]).await, []);
    }
    assert_eq!(
        told(&[San::Uri("SPIFFE://example.org/a"), San::Uri("urn:a")]).await,
        []
    );
    assert_eq!(
        told(&[San::Uri("urn:a"), San::Uri("urn:b")]).await,
        [uri("urn:a"), uri("urn:b")]
    );
    assert_eq!(told(&[]).await, []);
}

#[tokio::test]
async fn without_tls_the_request_knows_the_address() {
    let server = Server::with(None, limits()).await;
    let stream = server.silent().await;
    let address = stream.local_addr().unwrap();
    let peer = server.ask_by(&mut channel(stream).await).await.unwrap();
    let certificate = None;
    assert_eq!(peer, Peer { address, certificate });
}

#[tokio::test]
async fn a_certificate_is_required_or_optional_or_ignored() {
    let authority = Authority::new();
    let issued = authority.client(&[San::Dns("a.example")]);
    let (with, without) = (client(&authority, Some(&issued)), client(&authority, None));

    let server = Server::start(tls(&authority, ClientCertificates::Required)).await;
    let refused = server.ask(&without).await.unwrap_err();
    assert!(refused.contains("CertificateRequired"), "{refused}");
    assert!(server.ask(&with).await.unwrap().certificate.is_some());

    let server = Server::start(tls(&authority, ClientCertificates::Optional)).await;
    assert_eq!(server.ask(&without).await.unwrap().certificate, None);
    assert!(server.ask(&with).await.unwrap().certificate.is_some());

    let server = Server::start(tls(&authority, ClientCertificates::Ignored)).await;
    assert_eq!(server.ask(&with).await.unwrap().certificate, None);
}

#[tokio::test]
async fn certificates_that_do_not_verify_are_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let of_stranger = stranger.client(&[San::Dns("a.example")]);
    let expired = authority.client_with(&[], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let for_servers = authority.server(&["localhost"]);
    for asked in [ClientCertificates::Required, ClientCertificates::Optional] {
        let server = Server::start(tls(&authority, asked)).await;
        for (issued, alert) in [
            (&of_stranger, "UnknownCA"),
            (&expired, "CertificateExpired"),
            (&for_servers, "received fatal alert"),
        ] {
            let refused = server.ask(&client(&authority, Some(issued))).await.unwrap_err();
            assert!(refused.contains(alert), "{refused}");
        }
        // The other way round: the client does not know who signed the server's certificate.
        let refused = server.ask(&client(&stranger, None)).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
    }
}

#[tokio::test]
async fn versions_below_the_minimum_are_refused() {
    let authority = Authority::new();
    let old = Arc::new(client_of(&authority, None, &[&TLS12]));
    let server = Server::start(tls(&authority, ClientCertificates::Optional)).await;
    let refused = server.ask(&old).await.unwrap_err();
    assert!(refused.contains("ProtocolVersion"), "{refused}");

    let issued = authority.server(&["localhost"]);
    let lower = TlsConfig {
        minimum_version: TlsVersion::V1_2,
        ..config(&authority, &issued, ClientCertificates::Optional)
    };
    let server = Server::start(Tls::load(&lower).unwrap()).await;
    server.ask(&old).await.unwrap();
    server.ask(&client(&authority, None)).await.unwrap();
}

#[tokio::test]
async fn sessions_are_not_resumed() {
    let authority = Authority::new();
    let issued = authority.server(&["localhost"]);
    let lower = TlsConfig {
        minimum_version: TlsVersion::V1_2,
        ..config(&authority, &issued, ClientCertificates::Optional)
    };
    let server = Server::start(Tls::load(&lower).unwrap()).await;
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(client_of(&authority, None, &[version]));
        for _ in 0..2 {
            let stream = server.connect(&client).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            server.ask_by(&mut channel(stream).await).await.unwrap();
        }
    }
}

#[tokio::test]
async fn without_http_only_http2_is_negotiated() {
    let authority = Authority::new();
    let server = Server::start(tls(&authority, ClientCertificates::Ignored)).await;
    let mut config = client_of(&authority, None, BOTH);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refused = server.ask(&Arc::new(config.clone())).await.unwrap_err();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    config.alpn_protocols.clear();
    let mut stream = server.connect(&Arc::new(config)).await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn new_files_are_for_new_connections() {
    let authority = Authority::new();
    let (first, second) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let mut server =
        Server::start(Tls::load(&config(&authority, &first, ClientCertificates::Ignored)).unwrap()).await;
    let client = client(&authority, None);
    let served_by = async |server: &Server| {
        let stream = server.connect(&client).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert_eq!(served_by(&server).await, first.der);
    let mut old = channel(server.connect(&client).await.unwrap()).await;
    server.ask_by(&mut old).await.unwrap();

    // Half of the new pair, as one may find it in the middle of a renewal.
    fs::write(&first.certificate_file, &second.certificate).unwrap();
    let mistakes = server.tls().reload().unwrap_err().join("\n");
    assert!(
        mistakes.contains("is not the key of the certificate"),
        "{mistakes}"
    );
    assert_eq!(served_by(&server).await, first.der);

    fs::write(&first.key_file, &second.key).unwrap();
    server.tls().reload().unwrap();
    assert_eq!(served_by(&server).await, second.der);
    server.ask_by(&mut old).await.unwrap();

    drop(old);
    server.drain.cancel();
    (&mut server.serving).await.unwrap();
}

#[tokio::test]
async fn what_a_broken_file_would_replace_is_kept() {
    let authority = Authority::new();
    let issued = authority.server_with(&["localhost"], |params| {
        params.not_after = date_time_ymd(2100, 1, 1);
    });
    let config = config(&authority, &issued, ClientCertificates::Optional);
    let server = Server::start(Tls::load(&config).unwrap()).await;
    let stranger = authority.client(&[San::Dns("a.example")]);
    for path in [
        &config.certificate_file,
        &config.key_file,
        config.client_ca_file.as_ref().unwrap(),
    ] {
        let whole = fs::read(path).unwrap();
        for broken in [
            &b""[..],
            b"-----BEGIN CERTIFICATE-----\n",
            b"\0\xff",
            &whole[..whole.len() / 2],
        ] {
            fs::write(path, broken).unwrap();
            let mistakes = server.tls().reload().unwrap_err();
            assert!(
                mistakes.iter().any(|it| it.contains(path.to_str().unwrap())),
                "{mistakes:?}"
            );
        }
        fs::remove_file(path).unwrap();
        server.tls().reload().unwrap_err();
        server.ask(&client(&authority, Some(&stranger))).await.unwrap();
        assert_eq!(server.tls().not_after_unix_seconds(), 4_102_444_800);
        fs::write(path, whole).unwrap();
        server.tls().reload().unwrap();
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let authority = Authority::new();
    let absent = PathBuf::from("/nowhere/server.pem");
    let key_file = written(
        &authority,
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    );
    let mistakes = Tls::load(&TlsConfig {
        certificate_file: absent,
        key_file: key_file.clone(),
        client_ca_file: Some(key_file),
        client_certificates: ClientCertificates::Required,
        minimum_version: TlsVersion::V1_3,
        with_http1: false,
    });
    let mistakes = mistakes.unwrap_err();
    let begin = [
        "certificate_file: /nowhere/server.pem cannot be read",
        "key_file: ",
        "client_ca_file: ",
    ];
    assert_eq!(mistakes.len(), begin.len(), "{mistakes:?}");
    for (mistake, begin) in mistakes.iter().zip(begin) {
        assert!(mistake.starts_with(begin), "{mistake}");
    }
    assert!(mistakes[1].contains("openssl pkey"), "{mistakes:?}");
}

#[test]
fn each_mistake_tells_the_way_out() {
    let authority = Authority::new();
    let good = authority.server(&["localhost"]);
    let ended = authority.server_with(&["localhost"], |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let to_come = authority.server_with(&["localhost"], |params| {
        params.not_before = date_time_ymd(3000, 1, 1);
    });
    let other = authority.server(&["localhost"]);
    let no_certificate = written(
        &authority,
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let whole = config(&authority, &good, ClientCertificates::Required);
    let with_files = |certificate_file: &Path, key_file: &Path| TlsConfig {
        certificate_file: certificate_file.to_owned(),
        key_file: key_file.to_owned(),
        ..whole.clone()
    };
    let without_ca = TlsConfig {
        client_ca_file: None,
        ..whole.clone()
    };
    for (config, told) in [
        (
            with_files(&ended.certificate_file, &ended.key_file),
            "ended at 2020-01-01T00:00:00Z; renew it",
        ),
        (
            with_files(&to_come.certificate_file, &to_come.key_file),
            "begins at 3000-01-01T00:00:00Z; is this",
        ),
        (
            with_files(&good.certificate_file, &other.key_file),
            "give the two that were made together",
        ),
        (
            with_files(&good.key_file, &good.key_file),
            "holds no certificate; give the server's",
        ),
        (with_files(&no_certificate, &good.key_file), "cannot be read"),
        (
            with_files(&good.certificate_file, &good.certificate_file),
            "holds no private key; give",
        ),
        (without_ca, "client_certificates: needs `client_ca_file`"),
    ] {
        let mistakes = Tls::load(&config).unwrap_err();
        assert!(
            matches!(&mistakes[..], [one] if one.contains(told)),
            "{told}: {mistakes:?}"
        );
    }
}

fn written(authority: &Authority, name: &str, content: &str) -> PathBuf {
    let path = authority.folder().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn a_peer_that_says_nothing_holds_nobody_up_and_is_dropped() {
    let authority = Authority::new();
    let client = client(&authority, None);
    let patient = tls(&authority, ClientCertificates::Ignored).with_handshake_timeout(LONG);
    let server = Server::start(patient).await;
    let silent = [server.silent().await, server.silent().await];
    server.ask(&client).await.unwrap();
    drop(silent);

    let brief = Duration::from_millis(20);
    let hasty = tls(&authority, ClientCertificates::Ignored).with_handshake_timeout(brief);
    let server = Server::start(hasty).await;
    let mut silent = server.silent().await;
    assert_eq!(rest(&mut silent).await, b"");
}

#[tokio::test]
async fn handshakes_under_way_do_not_hold_up_a_drain() {
    let authority = Authority::new();
    let patient = tls(&authority, ClientCertificates::Ignored).with_handshake_timeout(LONG);
    let mut server = Server::start(patient).await;
    let mut silent = server.silent().await;
    // It was accepted, since this one was, after it.
    server.ask(&client(&authority, None)).await.unwrap();
    let began = Instant::now();
    server.drain.cancel();
    assert_eq!(rest(&mut silent).await, b"");
    (&mut server.serving).await.unwrap();
    assert!(began.elapsed() < LONG / 2);
}

#[tokio::test]
async fn an_address_has_as_many_connections_as_it_may() {
    let authority = Authority::new();
    let client = client(&authority, None);
    let patient = tls(&authority, ClientCertificates::Ignored).with_handshake_timeout(LONG);
    let limits = ConnectionLimits {
        connections_per_address_max: 2,
        ..limits()
    };
    let server = Server::with(Some(patient), limits).await;
    let under_way = server.silent().await;
    let mut open = channel(server.connect(&client).await.unwrap()).await;
    server.ask_by(&mut open).await.unwrap();
    let mut excess = server.silent().await;
    assert_eq!(rest(&mut excess).await, b"");
    server.ask(&client).await.unwrap_err();

    drop(under_way);
    until("there is a place again", async || server.ask(&client).await.ok()).await;
    server.ask_by(&mut open).await.unwrap();
}

#[tokio::test]
async fn the_next_connection_waits_for_a_handshake_under_way() {
    let authority = Authority::new();
    let client = client(&authority, None);
    let patient = tls(&authority, ClientCertificates::Ignored).with_handshake_timeout(LONG);
    let limits = ConnectionLimits {
        connections_max: 1,
        ..limits()
    };
    let server = Server::with(Some(patient), limits).await;
    let under_way = server.silent().await;
    let next = server.ask(&client);
    tokio::pin!(next);
    // Everything that can happen has: the connection is in the kernel's queue and its first message is sent.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(&mut next).is_pending());
    }
    drop(under_way);
    next.await.unwrap();
}

#[tokio::test]
async fn what_is_not_tls_is_answered_with_an_alert_at_most() {
    let authority = Authority::new();
    let server = Server::start(tls(&authority, ClientCertificates::Ignored)).await;
    for said in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 64],
        &[0xff; 16_000],
    ] {
        let mut stream = server.silent().await;
        // The server may close before it has read everything.
        drop(stream.write_all(said).await);
        let answer = rest(&mut stream).await;
        // A record of an alert (RFC 8446, sections 5.1 and 6): type 21, a version, two bytes that follow:
        // fatal, and why.
        assert!(
            answer.is_empty() || matches!(answer[..], [21, 3, _, 0, 2, 2, _]),
            "{answer:?}"
        );
    }
    assert!(server.seen.lock().is_empty());
    server.ask(&client(&authority, None)).await.unwrap();
}

#[tokio::test]
async fn a_certificate_names_the_caller_over_http_1_too() {
    let nats = Nats::start().await;
    let (authority, name) = (Authority::new(), "spiffe://example.org/operators");
    let server = authority.server(&["localhost"]);
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [tls]\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n\
         [lattices.default]\ntrusted_issuers = [\"*\"]\n\
         [callers.operators]\ncertificates = [{name:?}]\n\
         grants = [{{ lattices = [\"default\"], verbs = [\"read\"] }}]\n",
        server.certificate_file,
        server.key_file,
        authority.certificate_file(),
    );
    let mut config = Config::parse(&text, std::iter::empty()).unwrap();
    config.nats.servers = nats.url();
    let running = app::start(config).await.unwrap();
    let issued = authority.client(&[San::Uri(name)]);
    for (certificate, told) in [
        (Some(&issued), "\"caller\":\"operators\""),
        (None, "CREDENTIALS_MISSING"),
    ] {
        let mut client = client_of(&authority, certificate, BOTH);
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(running.grpc).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(client)).connect(name, stream).await;
        let mut stream = connected.unwrap();
        let request = "GET /v1/server-info HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(told), "{answer}");
    }
}
