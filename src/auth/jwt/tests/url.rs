//! Keys at a URL, from a small server on this machine. Time is what the tests say, so none of them waits for
//! it.
//!
//! The certificates in `testdata` are of an authority whose key nobody has any more, until 2120.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

use super::{
    super::{
        fetch::{FetchFailed, fetch},
        remote::{AGE_MAX, FETCH_FLOOR},
    },
    *,
};

const AUTHORITY: &[u8] = include_bytes!("../testdata/tls_authority.der");
const CERTIFICATE: &[u8] = include_bytes!("../testdata/tls_server.der");
const CERTIFICATE_KEY: &[u8] = include_bytes!("../testdata/tls_server.pk8");

/// Answers every request alike, or not until there is an answer.
struct KeyServer {
    port: u16,
    answer: watch::Sender<Option<Vec<u8>>>,
    seen: Arc<Seen>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    latest: Mutex<String>,
}

impl KeyServer {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, answers) = watch::channel(None);
        let seen = Arc::new(Seen::default());
        let serving = tokio::spawn(serve(listener, tls, answers, Arc::clone(&seen)));
        Self {
            port,
            answer,
            seen,
            serving: serving.abort_handle(),
        }
    }

    async fn with_keys(keys: &[Value]) -> Self {
        let server = Self::start(None).await;
        server.answer_keys(keys);
        server
    }

    fn answer_keys(&self, keys: &[Value]) {
        self.answer_raw(ok(&key_set(keys)));
    }

    fn answer_raw(&self, response: impl Into<Vec<u8>>) {
        self.answer.send_replace(Some(response.into()));
    }

    fn stall(&self) {
        self.answer.send_replace(None);
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/keys?of=all", self.port)
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(vec![issuer(KeySource::Url(self.url()))]).unwrap()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answers: watch::Receiver<Option<Vec<u8>>>,
    seen: Arc<Seen>,
) {
    loop {
        let (plain, _) = listener.accept().await.unwrap();
        let (tls, answers, seen) = (tls.clone(), answers.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            match tls {
                None => answer(plain, answers, &seen).await,
                Some(tls) => match tls.accept(plain).await {
                    Ok(encrypted) => answer(encrypted, answers, &seen).await,
                    Err(_refused) => {}
                },
            }
        });
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut answers: watch::Receiver<Option<Vec<u8>>>,
    seen: &Seen,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    *seen.latest.lock() = String::from_utf8(request).unwrap();
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let Ok(answer) = answers
        .wait_for(Option::is_some)
        .await
        .map(|answer| answer.clone())
    else {
        return;
    };
    // The gateway hangs up on some answers.
    drop(stream.write_all(&answer.unwrap()).await);
    drop(stream.shutdown().await);
}

/// The end of the latest fetch.
async fn settled(verifier: &JwtVerifier, now: Instant) {
    let Keys::Url(remote) = &verifier.issuers[ISSUER].keys else {
        panic!("the keys are not at a URL");
    };
    remote.refreshed(now).await;
}

fn named(kid: &str) -> Value {
    json!({ "kid": kid })
}

#[tokio::test]
async fn keys_are_fetched_when_a_token_first_needs_them_and_then_held() {
    let signer = Signer::es256();
    let server = KeyServer::with_keys(&[signer.jwk("a")]).await;
    let verifier = server.verifier();
    assert!(verifier.verify("no.to.ken", NOW).await.is_err());
    let stranger = signer.with_claims(&json!({"iss": "stranger"}));
    assert!(verifier.verify(&stranger, NOW).await.is_err());
    assert_eq!(server.requests(), 0);

    let start = Instant::now();
    assert!(verifier.verify_at(&signer.good(), NOW, start).await.is_ok());
    assert!(
        verifier
            .verify(&signer.good(), NOW)
            .now_or_never()
            .unwrap()
            .is_ok()
    );
    let late = start + AGE_MAX;
    let held = verifier.verify_at(&signer.good(), NOW, late).now_or_never();
    assert!(held.unwrap().is_ok());
    assert_eq!(server.requests(), 1);
    let request = server.seen.latest.lock().to_ascii_lowercase();
    assert!(request.starts_with("get /keys?of=all http/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", server.port)),
        "{request}"
    );
}

#[tokio::test]
async fn an_unknown_key_is_looked_up_but_not_more_often_than_the_floor() {
    let signer = Signer::es256();
    let server = KeyServer::with_keys(&[signer.jwk("a")]).await;
    let verifier = server.verifier();
    let start = Instant::now();
    let unknown = signer.with_header(&named("b"));
    let second = Duration::from_secs(1);
    for (at, requests) in [
        (Duration::ZERO, 1),
        (second, 1),
        (FETCH_FLOOR.saturating_sub(second), 1),
        (FETCH_FLOOR, 2),
        (FETCH_FLOOR + second, 2),
        (FETCH_FLOOR * 2, 3),
    ] {
        let verdict = verifier.verify_at(&unknown, NOW, start + at).await;
        assert_eq!(verdict, Err(JwtRefused::UnknownKey));
        assert_eq!(server.requests(), requests, "{at:?}");
    }
    // Known, though not for this algorithm: nothing to look up.
    let mismatch = Signer::new(Algorithm::EdDsa).good();
    let verdict = verifier.verify_at(&mismatch, NOW, start + FETCH_FLOOR * 3);
    assert_eq!(verdict.now_or_never(), Some(Err(JwtRefused::KeyMismatch)));
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn keys_may_rotate() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let server = KeyServer::with_keys(&[old.jwk("a")]).await;
    let verifier = server.verifier();
    let start = Instant::now();
    assert!(verifier.verify_at(&old.good(), NOW, start).await.is_ok());

    server.answer_keys(&[old.jwk("a"), new.jwk("b")]);
    let rotated = start + FETCH_FLOOR;
    let token = new.with_header(&named("b"));
    assert!(verifier.verify_at(&token, NOW, rotated).await.is_ok());
    assert!(verifier.verify_at(&old.good(), NOW, rotated).await.is_ok());

    server.answer_keys(&[new.jwk("b")]);
    let old_gone = rotated + AGE_MAX + FETCH_FLOOR;
    assert!(verifier.verify_at(&token, NOW, old_gone).await.is_ok());
    settled(&verifier, old_gone).await;
    let verdict = verifier.verify_at(&old.good(), NOW, old_gone).await;
    assert_eq!(verdict, Err(JwtRefused::UnknownKey));

    server.answer_keys(&[]);
    let withdrawn = old_gone + AGE_MAX + FETCH_FLOOR;
    assert!(verifier.verify_at(&token, NOW, withdrawn).await.is_ok());
    settled(&verifier, withdrawn).await;
    let verdict = verifier.verify_at(&token, NOW, withdrawn).await;
    assert_eq!(verdict, Err(JwtRefused::KeysUnavailable));
}

#[tokio::test]
async fn while_a_server_fails_the_keys_that_are_held_stay() {
    let signer = Signer::es256();
    let server = KeyServer::with_keys(&[signer.jwk("a")]).await;
    let verifier = server.verifier();
    let mut now = Instant::now();
    assert!(verifier.verify_at(&signer.good(), NOW, now).await.is_ok());
    let huge = key_set(&[json!({"filler": "x".repeat(keys::KEY_SET_BYTES_MAX)})]);
    for (number, failure) in [
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"keys\":".to_owned(),
        String::new(),
        "220 mail.example ESMTP\r\n".to_owned(),
        ok("<html>"),
        ok("{\"keys\":[],\"keys\":[]}"),
        ok(&huge),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{huge}"),
    ]
    .into_iter()
    .enumerate()
    {
        server.answer_raw(failure);
        now += AGE_MAX + FETCH_FLOOR;
        let unknown = signer.with_header(&named("b"));
        let verdict = verifier.verify_at(&unknown, NOW, now).await;
        assert_eq!(verdict, Err(JwtRefused::UnknownKey));
        assert!(verifier.verify_at(&signer.good(), NOW, now).await.is_ok());
        assert_eq!(server.requests(), number + 2);
    }
}

#[tokio::test]
async fn without_any_keys_nothing_can_be_said() {
    let signer = Signer::es256();
    let server = KeyServer::start(None).await;
    server.answer_raw("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let verifier = server.verifier();
    let start = Instant::now();
    for _ in 0..2 {
        let verdict = verifier.verify_at(&signer.good(), NOW, start).await;
        assert_eq!(verdict, Err(JwtRefused::KeysUnavailable));
    }
    assert_eq!(server.requests(), 1);
    server.answer_keys(&[signer.jwk("a")]);
    let later = start + FETCH_FLOOR;
    assert!(verifier.verify_at(&signer.good(), NOW, later).await.is_ok());
}

#[tokio::test]
async fn old_keys_are_renewed_behind_the_back_of_callers() {
    let signer = Signer::es256();
    let server = KeyServer::with_keys(&[signer.jwk("a")]).await;
    let verifier = server.verifier();
    let start = Instant::now();
    assert!(verifier.verify_at(&signer.good(), NOW, start).await.is_ok());

    server.stall();
    let old = start + AGE_MAX + Duration::from_secs(1);
    for at in [old, old + FETCH_FLOOR, old + AGE_MAX] {
        let verdict = verifier.verify_at(&signer.good(), NOW, at).now_or_never();
        assert!(verdict.unwrap().is_ok());
    }
    // One that needs a new key waits for the fetch that runs.
    let unknown = signer.with_header(&named("b"));
    let mut waiting = pin!(verifier.verify_at(&unknown, NOW, old + AGE_MAX));
    assert!((&mut waiting).now_or_never().is_none());
    server.answer_keys(&[signer.jwk("b")]);
    assert!(waiting.await.is_ok());
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn callers_share_a_fetch_and_one_who_gives_up_does_not_end_it() {
    let signer = Signer::es256();
    let server = KeyServer::start(None).await;
    let verifier = server.verifier();
    let (start, token) = (Instant::now(), signer.good());
    let given_up = verifier.verify_at(&token, NOW, start).now_or_never();
    assert!(given_up.is_none());
    let mut waiting = pin!(join_all((0..10).map(|_| verifier.verify_at(&token, NOW, start))));
    assert!((&mut waiting).now_or_never().is_none());
    server.answer_keys(&[signer.jwk("a")]);
    assert!(waiting.await.iter().all(Result::is_ok));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let signer = Signer::es256();
    let elsewhere = KeyServer::with_keys(&[signer.jwk("a")]).await;
    let server = KeyServer::start(None).await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        server.answer_raw(format!(
            "HTTP/1.1 {status}\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
            elsewhere.url()
        ));
        let verdict = server.verifier().verify(&signer.good(), NOW).await;
        assert_eq!(verdict, Err(JwtRefused::KeysUnavailable));
    }
    assert_eq!((server.requests(), elsewhere.requests()), (4, 0));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read() {
    let server = KeyServer::start(None).await;
    let url = KeysUrl::parse(&server.url()).unwrap();
    let fitting = format!("{{\"keys\":[{}]}}", " ".repeat(keys::KEY_SET_BYTES_MAX - 11));
    server.answer_raw(ok(&fitting));
    assert!(fetch(&url, None, fetch::FETCH_TIMEOUT).await.is_ok());
    server.answer_raw(ok(&format!("{fitting} ")));
    let failed = fetch(&url, None, fetch::FETCH_TIMEOUT).await.unwrap_err();
    assert!(matches!(failed, FetchFailed::Body(_)), "{failed:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_on() {
    let server = KeyServer::start(None).await;
    let url = KeysUrl::parse(&server.url()).unwrap();
    let failed = fetch(&url, None, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(failed, FetchFailed::Timeout(_)), "{failed:?}");
    drop(server);
}

#[tokio::test]
async fn over_tls_the_server_proves_its_name() {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(CERTIFICATE)],
            PrivateKeyDer::try_from(CERTIFICATE_KEY).unwrap(),
        )
        .unwrap();
    let signer = Signer::es256();
    let server = KeyServer::start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    server.answer_keys(&[signer.jwk("a")]);
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from(AUTHORITY)).unwrap();
    let trusting = Tls::new(authorities).unwrap();

    let at = |host: &str| format!("https://{host}:{}/keys", server.port);
    let source = KeySource::Url(at("localhost"));
    let verifier = JwtVerifier::with_tls(vec![issuer(source)], || Ok(trusting.clone())).unwrap();
    assert!(verifier.verify(&signer.good(), NOW).await.is_ok());
    assert_eq!(server.requests(), 1);

    let trusting_none = Tls::new(RootCertStore::empty()).unwrap();
    for (host, tls) in [("localhost", &trusting_none), ("127.0.0.1", &trusting)] {
        let url = KeysUrl::parse(&at(host)).unwrap();
        let failed = fetch(&url, Some(tls), fetch::FETCH_TIMEOUT).await.unwrap_err();
        assert!(matches!(failed, FetchFailed::Tls(_)), "{failed:?}");
    }
    assert_eq!(server.requests(), 1);
}

#[test]
fn urls_are_encrypted_or_of_this_machine() {
    for good in [
        "https://issuer.example",
        "https://issuer.example:8443/a/b?c=d",
        "https://[2001:db8::1]/keys",
        "http://localhost/keys",
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
    ] {
        assert!(KeysUrl::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "keys.json",
        "/etc/keys.json",
        "issuer.example",
        "https:///keys",
        "https://user:secret@issuer.example/",
        "https://issuer example/",
        "http://issuer.example/",
        "http://localhost.issuer.example/",
        "http://127.0.0.1.issuer.example/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "ftp://localhost/keys",
        "file:///etc/keys.json",
    ] {
        assert!(KeysUrl::parse(bad).is_err(), "{bad}");
    }
}
