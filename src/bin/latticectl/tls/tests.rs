use std::path::PathBuf;

use axum::{Router, http::HeaderMap};
use clap::Parser;
use lattice_gateway::{
    proto::{GetServerInfoRequest, GetServerInfoResponse},
    rpc::{
        server::{self, ConnectionLimits},
        tls::{ClientCertificates, Tls, TlsConfig, TlsVersion},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    args::{Cli, Format},
    failure::{CallError, Cause, CommandError, Exit, Place},
    gateway::{Effect, Gateway},
    retry::Attempt,
};

/// Files of certificates, signed by one authority.
struct Files {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        Self { folder, authority }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a host, and its key.
    fn pair(&self, host: &str) -> [PathBuf; 2] {
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let files = ["pem", "key"].map(|kind| self.folder.path().join(format!("{host}.{kind}")));
        fs::write(&files[0], certificate.pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// What serves TLS with that certificate.
    fn config(
        &self,
        [certificate_file, key_file]: [PathBuf; 2],
        client_certificates: ClientCertificates,
    ) -> TlsConfig {
        TlsConfig {
            certificate_file,
            key_file,
            client_ca_file: Some(self.ca()),
            client_certificates,
            minimum_version: TlsVersion::V1_3,
            with_http1: false,
        }
    }

    /// Serves TLS for a host; answers with the call's token as the message of an error.
    async fn serve(&self, host: &str, client_certificates: ClientCertificates) -> Served {
        let config = self.config(self.pair(host), client_certificates);
        serve(Some(Tls::load(&config).unwrap())).await
    }
}

struct Served {
    port: u16,
    serving: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(tls: Option<Tls>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = ConnectionLimits {
        connections_max: 16,
        connections_per_address_max: 16,
        streams_max: 16,
        first_call_within: Duration::from_mins(1),
        age_max: Duration::from_mins(1),
        drain_timeout: Duration::from_mins(1),
    };
    let router = Router::new().fallback(async |headers: HeaderMap| {
        let token = headers.get("authorization").cloned();
        let token = token.unwrap_or(http::HeaderValue::from_static("none"));
        let code = http::HeaderValue::from_static("5");
        let kind = http::HeaderValue::from_static("application/grpc");
        [
            ("content-type", kind),
            ("grpc-status", code),
            ("grpc-message", token),
        ]
    });
    let (drain, quiet) = (CancellationToken::new(), std::future::pending());
    let serving = server::serve(listener, router, limits, tls.map(Arc::new), drain, quiet);
    Served {
        port,
        serving: tokio::spawn(serving),
    }
}

/// Makes a call, which fails at the latest with what [`serve`] answers.
async fn call(options: &[&str]) -> (CallError, String) {
    let words = ["latticectl", "info", "-ojson"];
    let cli = Cli::try_parse_from(words.iter().chain(options)).unwrap();
    let gateway = Gateway::new(&cli.global).unwrap();
    let client = gateway.lattices();
    let send = async |attempt: Attempt| {
        let request = attempt.request(GetServerInfoRequest {});
        client.clone().get_server_info(request).await
    };
    let answer: Result<GetServerInfoResponse, _> = gateway.call(Effect::Nothing, send).await;
    let error = answer.unwrap_err();
    let told = CommandError::from(CallError {
        failure: error.failure,
        doubt: error.doubt,
    });
    let place = Place {
        endpoint: &cli.global.gateway(),
        lattice: "default",
    };
    let text = told.render(Format::Table, place);
    let CommandError::Call(error) = told else {
        panic!("{told:?}")
    };
    (*error, text)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn calls_and_their_token_go_by_tls() {
    let files = Files::new("ours");
    let [cert, key] = files.pair("client.example");
    for (client_certificates, identity) in [
        (ClientCertificates::Ignored, &[][..]),
        (
            ClientCertificates::Required,
            &["--cert", text(&cert), "--key", text(&key)],
        ),
    ] {
        for host in ["localhost", "127.0.0.1"] {
            let served = files.serve(host, client_certificates).await;
            let endpoint = format!("{host}:{}", served.port);
            let ca = files.ca();
            let mut options = vec!["--endpoint", &endpoint, "--ca", text(&ca), "--token", "a-token"];
            options.extend(identity);
            let (error, _) = call(&options).await;
            assert_eq!(error.failure.cause, Cause::Code(tonic::Code::NotFound));
            assert_eq!(error.failure.message, "Bearer a-token");
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_with_a_way_out() {
    let (ours, others) = (Files::new("ours"), Files::new("others"));
    let [cert, key] = others.pair("client.example");
    let identity = ["--cert", text(&cert), "--key", text(&key)];
    for (host, signed_by, client_certificates, identity, trouble, hint) in [
        (
            "localhost",
            &others,
            ClientCertificates::Ignored,
            &[][..],
            Trouble::UnknownAuthority,
            "give --ca",
        ),
        (
            "gateway.example",
            &ours,
            ClientCertificates::Ignored,
            &[],
            Trouble::OtherHost,
            "--endpoint with a name",
        ),
        (
            "localhost",
            &ours,
            ClientCertificates::Required,
            &[],
            Trouble::CertificateRequired,
            "give --cert and --key",
        ),
        (
            "localhost",
            &ours,
            ClientCertificates::Required,
            &identity,
            Trouble::CertificateRefused,
            "signed for clients",
        ),
    ] {
        let served = signed_by.serve(host, client_certificates).await;
        let endpoint = format!("https://localhost:{}", served.port);
        let ca = ours.ca();
        let mut options = vec!["--endpoint", &endpoint, "--ca", text(&ca), "--token", "a-token"];
        options.extend(identity);
        let (error, told) = call(&options).await;
        assert_eq!(error.failure.cause, Cause::NotSecured(trouble), "{told}");
        assert!(told.contains("hint: ") && told.contains(hint), "{told}");
        assert!(!told.contains("a-token"), "{told}");
        let exit = CommandError::from(error).exit();
        assert_eq!(exit, Exit::Refused, "nothing that passes by itself");
    }
}

/// As `openssl req -x509` makes one where it is told no more.
#[tokio::test]
async fn a_certificate_of_an_authority_is_told_as_such() {
    let files = Files::new("ours");
    let key = files.folder.path().join("ca.key");
    fs::write(&key, files.authority.key().serialize_pem()).unwrap();
    let config = files.config([files.ca(), key], ClientCertificates::Ignored);
    let served = serve(Some(Tls::load(&config).unwrap())).await;
    let endpoint = format!("https://localhost:{}", served.port);
    let (error, told) = call(&["--endpoint", &endpoint, "--ca", text(&files.ca())]).await;
    assert_eq!(
        error.failure.cause,
        Cause::NotSecured(Trouble::IsAuthority),
        "{told}"
    );
    assert!(told.contains("CA:FALSE"), "{told}");
}

#[tokio::test]
async fn a_gateway_without_tls_and_one_with_are_told_apart() {
    let files = Files::new("ours");
    let ca = files.ca();
    let plain = serve(None).await;
    let endpoint = format!("https://localhost:{}", plain.port);
    let (error, told) = call(&["--endpoint", &endpoint, "--ca", text(&ca)]).await;
    assert_eq!(error.failure.cause, Cause::NotSecured(Trouble::NotTls));
    assert!(
        told.contains("hint: if the gateway serves without TLS, give an http:// URL"),
        "{told}"
    );

    let secure = files.serve("localhost", ClientCertificates::Ignored).await;
    let endpoint = format!("http://localhost:{}", secure.port);
    let (error, told) = call(&["--endpoint", &endpoint, "--timeout", "300ms"]).await;
    assert!(matches!(error.failure.cause, Cause::Code(_)), "{error:?}");
    assert!(told.contains("if it serves TLS, give an https:// URL"), "{told}");
}

#[tokio::test]
async fn a_connection_that_is_cut_may_be_made_again() {
    let files = Files::new("ours");
    let ca = files.ca();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let options = ["--endpoint", &endpoint, "--ca", text(&ca), "--timeout", "300ms"];
    let hang_up = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    let error = tokio::select! {
        (error, _) = call(&options) => error,
        () = hang_up => unreachable!(),
    };
    assert_eq!(error.failure.cause, Cause::NotConnected);
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_not_asked_for_again() {
    let (error, told) = call(&["--token-file", "/nowhere/token"]).await;
    assert_eq!(error.failure.cause, Cause::NoToken);
    assert!(
        told.starts_with("error: cannot read the token in /nowhere/token"),
        "{told}"
    );
    assert_eq!(CommandError::from(error).exit(), Exit::Usage);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = Files::new("ours");
    let [cert, key] = files.pair("a.example");
    let [other, _] = files.pair("b.example");
    for (identity, told) in [
        ((key.as_path(), key.as_path()), "holds no certificate"),
        ((cert.as_path(), cert.as_path()), "holds no private key"),
        ((other.as_path(), key.as_path()), "is not a key that can be used"),
        (
            (Path::new("/nowhere/c.pem"), key.as_path()),
            "cannot read /nowhere/c.pem",
        ),
    ] {
        let ca = files.ca();
        let refused = config(TlsFiles {
            ca: Some(&ca),
            identity: Some(identity),
        });
        let refused = refused.unwrap_err();
        assert!(refused.contains(told), "{refused}");
    }
}
