//! `serve` as operators run it, over TLS, with `latticectl` as its client: every way to show who one is, several NATS
//! accounts, certificates that are replaced, and nothing secret left anywhere.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Nats,
    api::{ACTOR, PROVIDER},
    certificates::{Authority, Issued, San},
    gateway::{caller, metrics},
    issuer::Issuer,
    nats::PASSWORD,
    port, until,
};

const SPIFFE: &str = "spiffe://example.org/ci";
/// Stands in everything that is secret here.
const CANARY: &str = "canary";

/// `lattice-gateway serve` as a process, killed in the end.
struct Served {
    child: Child,
    port: u16,
    admin: u16,
    folder: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Served {
    /// With this text in its configuration, once it is ready.
    async fn start(text: &str) -> Self {
        let (port, admin) = (port::free(), port::free());
        let folder = tempfile::tempdir().unwrap();
        let server = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{admin}\"\nreflection = true\n[log]\nfilter = \"info,lattice_gateway=trace\"\n"
        );
        let config = folder.path().join("gateway.toml");
        fs::write(&config, format!("{text}\n{server}")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let gateway = Self {
            child,
            port,
            admin,
            folder,
        };
        until("it listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", admin)).await.ok()
        })
        .await;
        gateway
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    async fn metrics(&self) -> String {
        metrics(([127, 0, 0, 1], self.admin).into()).await
    }

    /// Runs `latticectl` on a lattice.
    fn ctl(&self, lattice: &str, access: &[&str], command: &[&str]) -> Output {
        let endpoint = format!("https://localhost:{}", self.port);
        let common = [
            "--endpoint",
            &endpoint,
            "--lattice",
            lattice,
            "--timeout",
            "3s",
            "-o",
            "json",
        ];
        Command::new(env!("CARGO_BIN_EXE_latticectl"))
            .args(common)
            .args(access)
            .args(command)
            .output()
            .unwrap()
    }
}

fn text_of(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

fn tls_section(server: &Issued, authority: &Authority) -> String {
    format!(
        "[tls]\ncertificate_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n",
        server.certificate_file,
        server.key_file,
        authority.certificate_file()
    )
}

fn lattice(name: &str, more: &str) -> String {
    format!("[lattices.{name}]\ntrusted_issuers = [\"*\"]\n{more}\n")
}

const GRANT: &str = "grants = [{ lattices = [\"default\"], verbs = [\"read\", \"values:read\", \"links:write\", \"provision\"] }]\n";

fn put_link() -> [&'static str; 7] {
    [
        "link",
        "put",
        ACTOR,
        PROVIDER,
        "wasmcloud:keyvalue",
        "--value",
        "password=canary-value",
    ]
}

/// The files of a certificate and its key.
fn files_of(issued: &Issued) -> [String; 2] {
    [&issued.certificate_file, &issued.key_file].map(|file| file.to_str().unwrap().to_owned())
}

/// A configuration that knows one caller by each kind of credential.
fn let_in_by_everything(nats: &Nats, tls: &str, issuer: &Issuer) -> String {
    [
        format!("[nats]\nservers = {:?}\n", nats.url()),
        lattice("default", "provision = \"memory\""),
        tls.to_owned(),
        caller(
            "by-token",
            "canary-token",
            &["default"],
            "read links:write values:read",
        ),
        format!("[callers.by-certificate]\ncertificates = [\"{SPIFFE}\"]\n{GRANT}"),
        issuer.section(),
        format!("[callers.by-jwt]\njwt = [{{ issuer = \"corp\", claims = {{ sub = \"ci\" }} }}]\n{GRANT}"),
    ]
    .concat()
}

#[tokio::test]
async fn whoever_shows_a_token_a_certificate_or_a_jwt_is_let_in_and_nobody_else() {
    let nats = Nats::start().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server(&["localhost"]);
    let issuer = Issuer::in_folder(authority.folder());
    let text = let_in_by_everything(&nats, &tls_section(&server, &authority), &issuer);
    let gateway = Served::start(&text).await;
    let ca = authority.certificate_file();
    let ca = ca.to_str().unwrap();
    let client = authority.client(&[San::Uri(SPIFFE)]);
    let unnamed = authority.client(&[San::Uri("spiffe://example.org/other"), San::Dns("ci.example")]);
    let foreign = stranger.client(&[San::Uri(SPIFFE)]);
    let (client, unnamed, foreign) = (files_of(&client), files_of(&unnamed), files_of(&foreign));
    let (jwt, others_jwt) = (issuer.token("ci"), issuer.token("somebody"));
    let shown = |extra: &[&str]| -> Vec<String> {
        ["--ca", ca]
            .iter()
            .chain(extra)
            .map(|text| (*text).to_owned())
            .collect()
    };
    let let_in = [
        ("by-token", shown(&["--token", "canary-token"])),
        (
            "by-certificate",
            shown(&["--cert", &client[0], "--key", &client[1]]),
        ),
        ("by-jwt", shown(&["--token", &jwt])),
        // Who shows a token is judged by it.
        (
            "by-token",
            shown(&[
                "--token",
                "canary-token",
                "--cert",
                &client[0],
                "--key",
                &client[1],
            ]),
        ),
    ];
    let info = until("NATS is connected", async || {
        let access = let_in[0].1.iter().map(String::as_str).collect::<Vec<_>>();
        let output = gateway.ctl("default", &access, &["lattice", "show", "default"]);
        output.status.success().then_some(output)
    })
    .await;
    let mut told = vec![text_of(&info)];
    for (name, access) in &let_in {
        let access = access.iter().map(String::as_str).collect::<Vec<_>>();
        let info = gateway.ctl("default", &access, &["info"]);
        let told: Value =
            serde_json::from_slice(&info.stdout).unwrap_or_else(|_| panic!("{}", text_of(&info)));
        assert_eq!(told["caller"], *name);
        let put = gateway.ctl("default", &access, &put_link());
        assert!(put.status.success(), "{name}: {}", text_of(&put));
    }
    for (what, access, says) in [
        ("nothing", shown(&[]), "CREDENTIALS_MISSING"),
        (
            "a wrong token",
            shown(&["--token", "canary-tokem"]),
            "CREDENTIALS_INVALID",
        ),
        (
            "another's JWT",
            shown(&["--token", &others_jwt]),
            "CREDENTIALS_INVALID",
        ),
        (
            "a changed JWT",
            shown(&["--token", &jwt.replacen('.', "x.", 2)]),
            "CREDENTIALS_INVALID",
        ),
        (
            "another's certificate",
            shown(&["--cert", &unnamed[0], "--key", &unnamed[1]]),
            "CREDENTIALS_INVALID",
        ),
        (
            "a foreign certificate",
            shown(&["--cert", &foreign[0], "--key", &foreign[1]]),
            "certificate",
        ),
    ] {
        let access = access.iter().map(String::as_str).collect::<Vec<_>>();
        let output = gateway.ctl("default", &access, &["info"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text_of(&output));
        assert!(text_of(&output).contains(says), "{what}: {}", text_of(&output));
        told.push(text_of(&output));
    }
    told.push(gateway.log());
    told.push(gateway.metrics().await);
    assert!(
        gateway.log().contains("by-certificate"),
        "the log tells who called"
    );
    shows_none_of(&told, &[CANARY, &jwt, &others_jwt]);
}

#[tokio::test]
async fn a_certificate_is_replaced_while_the_gateway_runs() {
    let nats = Nats::start().await;
    let (authority, successor) = (Authority::new(), Authority::new());
    let server = authority.server(&["localhost"]);
    let text = [
        format!("[nats]\nservers = {:?}\n", nats.url()),
        lattice("default", ""),
        tls_section(&server, &authority),
        caller("ci", "canary-token", &["default"], "read"),
    ];
    let gateway = Served::start(&text.concat()).await;
    let info = |authority: &Authority| {
        let ca = authority.certificate_file();
        let access = ["--ca", ca.to_str().unwrap(), "--token", "canary-token"];
        gateway.ctl("default", &access, &["info"]).status.success()
    };
    assert!(info(&authority) && !info(&successor));
    let before = gateway.metrics().await;
    for metric in [
        "tls_certificate_not_after_seconds",
        "tls_client_ca_not_after_seconds",
    ] {
        let end = before
            .lines()
            .find_map(|line| line.strip_prefix(&format!("lattice_gateway_{metric} ")));
        assert!(end.is_some_and(|end| end != "0"), "{metric}: {before}");
    }

    let renewed = successor.server(&["localhost"]);
    fs::write(&server.certificate_file, "no certificate").unwrap();
    until("the mistake is told", async || {
        let metrics = gateway.metrics().await;
        metrics
            .contains("lattice_gateway_config_is_current 0")
            .then_some(())
    })
    .await;
    assert!(info(&authority), "the last good one is kept");
    fs::copy(&renewed.key_file, &server.key_file).unwrap();
    fs::copy(&renewed.certificate_file, &server.certificate_file).unwrap();
    until("the new certificate is gateway", async || {
        info(&successor).then_some(())
    })
    .await;
    assert!(!info(&authority));
}

#[test]
fn beyond_the_machine_only_tls_is_served_and_only_to_callers() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    let text = format!("[server]\nlisten = \"0.0.0.0:0\"\n{}", lattice("default", ""));
    fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
        .arg("check-config")
        .arg(&config)
        .output()
        .unwrap();
    let told = text_of(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(
        told.contains("server.listen: 0.0.0.0:0 is not a loopback address"),
        "{told}"
    );
    assert!(told.contains("callers: none is configured"), "{told}");
}

fn shows_none_of(told: &[String], secrets: &[&str]) {
    for (place, text) in told.iter().enumerate() {
        let is_shown = secrets.iter().any(|secret| text.contains(secret));
        assert!(!is_shown, "number {place} shows a secret: {text}");
    }
}

/// The names that `latticectl lattice list` printed.
fn names_of(output: &Output) -> Vec<String> {
    let told: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text_of(output)));
    let listed = told.as_array().or_else(|| told["lattices"].as_array());
    let names = listed.unwrap().iter().map(|lattice| lattice["name"].as_str());
    names.map(|name| name.unwrap().to_owned()).collect()
}

#[tokio::test]
async fn each_lattice_is_in_its_own_account_and_one_that_is_down_touches_no_other() {
    let account = |user: &str| {
        format!("{user} {{ jetstream: enabled, users: [{{ user: {user}, password: {PASSWORD} }}] }}\n")
    };
    let accounts = format!("accounts {{\n{}{}}}\n", account("a"), account("b"));
    let shared = Nats::start_for("a", "", &accounts).await;
    let mut third = Nats::start().await;
    let authority = Authority::new();
    let server = authority.server(&["localhost"]);
    let text = [
        format!("[nats]\nservers = {:?}\n", shared.url_for("a")),
        format!("[upstreams.second]\nservers = {:?}\n", shared.url_for("b")),
        format!("[upstreams.third]\nservers = {:?}\n", third.url()),
        lattice("alpha", ""),
        lattice("'beta*'", "upstream = \"second\""),
        lattice("gamma", "upstream = \"third\""),
        tls_section(&server, &authority),
        caller(
            "all",
            "canary-all",
            &["*"],
            "read values:read links:write provision",
        ),
        caller(
            "some",
            "canary-some",
            &["alpha", "beta-1"],
            "read values:read links:write",
        ),
    ];
    let gateway = Served::start(&text.concat()).await;
    let ca = authority.certificate_file();
    let ca = ca.to_str().unwrap();
    let all = ["--ca", ca, "--token", "canary-all"];
    let some = ["--ca", ca, "--token", "canary-some"];
    for lattice in ["alpha", "beta-1", "gamma"] {
        until("the lattice is provisioned", async || {
            let output = gateway.ctl(lattice, &all, &["lattice", "provision", lattice]);
            output.status.success().then_some(())
        })
        .await;
        assert!(gateway.ctl(lattice, &all, &put_link()).status.success());
    }
    let names = |access: &[&str]| names_of(&gateway.ctl("alpha", access, &["lattice", "list"]));
    assert_eq!(names(&all), ["alpha", "beta-1", "gamma"]);
    // What the accounts really hold.
    for (user, stream) in [("a", "LATTICECACHE_alpha"), ("b", "LATTICECACHE_beta-1")] {
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), PASSWORD.into());
        let client = options.connect(shared.url()).await.unwrap();
        let answer = client.request("$JS.API.STREAM.NAMES", "".into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["streams"], json!([stream]));
    }

    third.down("KILL");
    until("the loss is noticed", async || {
        let metrics = gateway.metrics().await;
        metrics
            .contains("lattice_gateway_nats_connected{upstream=\"third\"} 0")
            .then_some(())
    })
    .await;
    assert_eq!(
        names(&some),
        ["alpha", "beta-1"],
        "who has nothing there does not notice"
    );
    for lattice in ["alpha", "beta-1"] {
        assert!(gateway.ctl(lattice, &some, &put_link()).status.success());
    }
    let refused = gateway.ctl("gamma", &all, &put_link());
    assert!(
        text_of(&refused).contains("BACKEND_UNAVAILABLE"),
        "{}",
        text_of(&refused)
    );
    let log = gateway.log();
    assert!(!log.contains(CANARY) && !log.contains(PASSWORD), "{log}");
    tokio::time::timeout(Duration::from_secs(10), third.up())
        .await
        .unwrap();
    until("it is gateway again", async || {
        gateway
            .ctl("gamma", &all, &["lattice", "list"])
            .status
            .success()
            .then_some(())
    })
    .await;
}
