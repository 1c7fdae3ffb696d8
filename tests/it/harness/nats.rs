//! A real nats-server on a free loopback port, which can be stopped, killed and started again where it was.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{port, until};

/// One nats-server. It ends with this value, and with the test process whatever ends that.
pub struct Nats {
    folder: TempDir,
    /// The members of the configuration's `jetstream` block; none turns JetStream off.
    jetstream: Option<String>,
    extra: String,
    /// Who clients are here, where the configuration names users.
    user: Option<String>,
    port: u16,
    child: Option<Child>,
}

impl Nats {
    /// Starts one with JetStream.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one with more lines in its configuration.
    pub async fn start_with(extra: &str) -> Self {
        Self::start_as(Some(""), extra).await
    }

    /// Starts one with bounds on JetStream, such as `max_memory_store: 1MB`.
    pub async fn start_bounded(bounds: &str) -> Self {
        Self::start_as(Some(bounds), "").await
    }

    /// Starts one with bounds on JetStream and more lines in its configuration.
    #[cfg(feature = "campaign")]
    pub async fn start_bounded_with(bounds: &str, extra: &str) -> Self {
        Self::start_as(Some(bounds), extra).await
    }

    /// Starts one whose configuration names users, all with [`PASSWORD`]; this one is who clients are here.
    pub async fn start_for(user: &str, bounds: &str, extra: &str) -> Self {
        let mut nats = Self::new(Some(bounds), extra);
        nats.user = Some(user.to_owned());
        nats.up().await;
        nats
    }

    /// Starts one with JetStream in a domain, and a leaf of it without, whose configuration names users.
    pub async fn start_hub_and_leaf(domain: &str, user: &str, extra: &str) -> [Self; 2] {
        let port = port::free();
        let bounds = format!("domain: {domain}");
        let listen = format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}");
        let remotes = format!("leafnodes {{ remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}] }}");
        let mut hub = Self::new(Some(&bounds), &listen);
        let mut leaf = Self::new(None, &format!("{extra}\n{remotes}"));
        leaf.user = Some(user.to_owned());
        hub.up().await;
        leaf.up().await;
        [hub, leaf]
    }

    /// Starts one with JetStream in the domain `hub`, and a leaf of it with its own in the domain `leaf`; they reach each other.
    pub async fn start_hub_and_leaf_with_its_own() -> [Self; 2] {
        let port = port::free();
        let listen = format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}");
        let remotes = format!("leafnodes {{ remotes: [{{ url: \"nats://127.0.0.1:{port}\" }}] }}");
        let mut hub = Self::new(Some("domain: hub"), &listen);
        let mut leaf = Self::new(Some("domain: leaf"), &remotes);
        hub.up().await;
        leaf.up().await;
        let client = leaf.client().await;
        until("the leaf reaches the hub", async || {
            client.request("$JS.hub.API.INFO", "".into()).await.ok()
        })
        .await;
        [hub, leaf]
    }

    /// Starts one without JetStream.
    pub async fn start_without_jetstream() -> Self {
        Self::start_as(None, "").await
    }

    /// Starts three that are one cluster.
    pub async fn start_cluster() -> [Self; 3] {
        Self::start_cluster_with("").await
    }

    /// Starts three that are one cluster, each with more lines in its configuration. They tell clients of no other
    /// address than the one they came by.
    pub async fn start_cluster_with(extra: &str) -> [Self; 3] {
        // Each has to know the others' ports before they are up.
        let ports = [(); 3].map(|()| port::free());
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let mut nodes = ports.map(|port| {
            let cluster =
                format!("cluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{routes}], no_advertise: true }}");
            Self::new(Some(""), &format!("server_name: node-{port}\n{cluster}\n{extra}"))
        });
        // At once: a server that finds no peer to elect with waits for seconds before it looks again.
        join_all(nodes.iter_mut().map(Self::up)).await;
        nodes
    }

    /// Starts one that may let in nobody but the gateway under test; it listens, and is asked nothing.
    pub async fn launch_with(extra: &str) -> Self {
        let mut nats = Self::new(Some(""), extra);
        nats.launch().await;
        nats
    }

    /// Changes the lines in its configuration, for the next start.
    pub fn set_extra(&mut self, extra: &str) {
        extra.clone_into(&mut self.extra);
    }

    async fn start_as(jetstream: Option<&str>, extra: &str) -> Self {
        let mut nats = Self::new(jetstream, extra);
        nats.up().await;
        nats
    }

    fn new(jetstream: Option<&str>, extra: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            jetstream: jetstream.map(str::to_owned),
            extra: extra.to_owned(),
            user: None,
            port: port::free(),
            child: None,
        }
    }

    pub fn url(&self) -> String {
        match &self.user {
            None => format!("nats://127.0.0.1:{}", self.port),
            Some(user) => self.url_for(user),
        }
    }

    /// Its address for another user.
    pub fn url_for(&self, user: &str) -> String {
        format!("nats://{user}:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its name in its cluster.
    pub fn name(&self) -> &str {
        let name = self
            .extra
            .lines()
            .find_map(|line| line.strip_prefix("server_name: "));
        name.expect("one of a cluster")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server again, on its port and with its data.
    pub async fn up(&mut self) {
        self.launch().await;
        self.answers().await;
    }

    /// Starts the process, and waits until it listens.
    pub async fn launch(&mut self) {
        self.child = Some(keeper(&self.configure()));
        until("the nats-server is up", async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
    }

    fn configure(&self) -> PathBuf {
        let folder = self.folder.path();
        let (config, store) = (folder.join("nats.conf"), folder.join("jetstream"));
        let jetstream = match &self.jetstream {
            Some(bounds) => format!("jetstream {{ store_dir: {store:?}\n{}\n{bounds} }}", leniency()),
            None => String::new(),
        };
        let text = format!(
            "listen: \"127.0.0.1:{}\"\nlog_file: {:?}\n{jetstream}\n{}\n",
            self.port,
            folder.join("log"),
            self.extra,
        );
        std::fs::write(&config, text).unwrap();
        config
    }

    /// Has the running server read its configuration again, with one text in it replaced by another.
    #[cfg(feature = "campaign")]
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        assert!(self.extra.contains(from), "{}", self.extra);
        self.extra = self.extra.replace(from, to);
        self.configure();
        self.signal("HUP");
    }

    /// Waits until JetStream answers.
    pub async fn answers(&self) {
        until("the nats-server takes connections", async || {
            let client = self.connect(self.user.as_deref()).await.ok()?;
            // A cluster without a leader does not answer what it was asked before it had one.
            let info = async_nats::Request::new().timeout(Some(Duration::from_millis(200)));
            let answer = client.send_request("$JS.API.INFO", info).await;
            let is_ready = answer.is_ok() || self.jetstream.is_none() || self.extra.contains("authorization");
            is_ready.then_some(())
        })
        .await;
    }

    /// Stops the server by a signal (`TERM`, `KILL`) and waits until it is gone.
    pub fn down(&mut self, signal: &str) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Has the server hand over what it leads and send its clients away, and waits until it has ended by itself.
    pub async fn lame_duck(&mut self) {
        self.signal("USR2");
        let status = format!("/proc/{}/status", self.pid());
        until("the nats-server has ended", async || {
            let status = std::fs::read_to_string(&status);
            // Its keeper takes note of that only later.
            let has_ended = status.map_or(true, |status| status.contains("State:\tZ"));
            has_ended.then_some(())
        })
        .await;
        let mut child = self.child.take().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// Holds the server's process, and waits until it is held.
    pub async fn hold(&self) {
        self.signal("STOP");
        let status = format!("/proc/{}/status", self.pid());
        until("the nats-server is held", async || {
            let status = std::fs::read_to_string(&status).unwrap();
            status.contains("State:\tT").then_some(())
        })
        .await;
    }

    /// Lets the server's process go on.
    pub fn release(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).unwrap();
        pid.trim().to_owned()
    }

    /// A raw client, as internal tools and hosts use one.
    pub async fn client(&self) -> async_nats::Client {
        self.connected(self.user.as_deref()).await
    }

    /// A raw client of another user.
    pub async fn client_for(&self, user: &str) -> async_nats::Client {
        self.connected(Some(user)).await
    }

    /// A server that has hardly any time of a busy machine gives a client up before it has said who it is.
    async fn connected(&self, user: Option<&str>) -> async_nats::Client {
        until("a raw client is connected", async || {
            self.connect(user).await.ok()
        })
        .await
    }

    async fn connect(&self, user: Option<&str>) -> Result<async_nats::Client, async_nats::ConnectError> {
        let address = format!("127.0.0.1:{}", self.port);
        match user {
            None => async_nats::connect(address).await,
            Some(user) => {
                let options =
                    async_nats::ConnectOptions::with_user_and_password(user.into(), PASSWORD.into());
                options.connect(address).await
            }
        }
    }

    /// Calls the JetStream API, until it answers: a cluster without a leader does not.
    pub async fn api(&self, call: &str, request: Value) -> Value {
        let client = self.client().await;
        let request = if request.is_null() {
            String::new()
        } else {
            request.to_string()
        };
        until(call, async || {
            let request = async_nats::Request::new()
                .payload(request.clone().into())
                .timeout(Some(Duration::from_secs(2)));
            let answer = client.send_request(format!("$JS.API.{call}"), request).await;
            serde_json::from_slice(&answer.ok()?.payload).ok()
        })
        .await
    }

    /// Creates the stream of a lattice as hosts do, with some members changed.
    pub async fn create_stream(&self, lattice: &str, changes: Value) -> Value {
        let mut config = json!({
            "name": format!("LATTICECACHE_{lattice}"), "subjects": [format!("lc.{lattice}.>")],
            "retention": "limits", "max_consumers": -1, "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1,
            "max_age": 0, "max_msg_size": -1, "storage": "memory", "discard": "old", "num_replicas": 1,
            "duplicate_window": 120_000_000_000_u64,
        });
        for (name, value) in changes.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        self.create(config).await
    }

    /// Creates a stream of this configuration, once the cluster knows enough of its servers: not just after its start.
    pub async fn create(&self, config: Value) -> Value {
        let call = format!("STREAM.CREATE.{}", config["name"].as_str().unwrap());
        let answer = until("the cluster knows enough of its servers", async || {
            const NO_SUITABLE_PEERS: u64 = 10005;
            const TEMPORARILY_UNAVAILABLE: u64 = 10008;
            let answer = self.api(&call, config.clone()).await;
            let code = &answer["error"]["err_code"];
            if *code != NO_SUITABLE_PEERS && *code != TEMPORARILY_UNAVAILABLE {
                return Some(answer);
            }
            // Between two looks, and long enough for the servers to have told each other more.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        })
        .await;
        assert_eq!(answer["error"], Value::Null, "{answer}");
        answer
    }

    /// The consumers of a stream.
    pub async fn consumers(&self, stream: &str) -> Vec<String> {
        let names = self.api(&format!("CONSUMER.NAMES.{stream}"), Value::Null).await;
        serde_json::from_value(names["consumers"].clone()).unwrap_or_default()
    }

    pub async fn delete_consumer(&self, stream: &str, consumer: &str) {
        let subject = format!("CONSUMER.DELETE.{stream}.{consumer}");
        let answer = self.api(&subject, Value::Null).await;
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// Creates a bucket of a lattice as hosts since 0.60 do, with some members changed. `LATTICEDATA` and `CONFIGDATA` are
    /// equal but for their names.
    pub async fn create_bucket(&self, bucket: &str, lattice: &str, changes: Value) -> Value {
        let name = format!("{bucket}_{lattice}");
        let mut config = json!({
            "name": format!("KV_{name}"), "subjects": [format!("$KV.{name}.>")], "retention": "limits",
            "max_consumers": -1, "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1, "allow_direct": true,
            "mirror_direct": false, "deny_delete": true, "sealed": false, "deny_purge": false,
            "allow_rollup_hdrs": true, "max_age": 0, "max_msg_size": -1, "storage": "file", "discard": "new",
            "num_replicas": 1, "duplicate_window": 120_000_000_000_u64,
        });
        for (name, value) in changes.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        self.create(config).await
    }

    /// The last message on a subject of a lattice's stream: sequence, headers and body. `None` where there is none.
    pub async fn last(&self, lattice: &str, subject: &str) -> Option<StoredMessage> {
        let call = format!("STREAM.MSG.GET.LATTICECACHE_{lattice}");
        let answer = self.api(&call, json!({"last_by_subj": subject})).await;
        StoredMessage::read(&answer)
    }

    /// How many messages the lattice's stream holds, and its last sequence.
    pub async fn state(&self, lattice: &str) -> (u64, u64) {
        let info = self
            .api(&format!("STREAM.INFO.LATTICECACHE_{lattice}"), Value::Null)
            .await;
        (
            info["state"]["messages"].as_u64().unwrap(),
            info["state"]["last_seq"].as_u64().unwrap(),
        )
    }

    /// Publishes as a host does: core NATS, no headers.
    pub async fn publish_raw(&self, subject: &str, body: impl Into<String>) {
        let client = self.client().await;
        client
            .publish(subject.to_owned(), body.into().into())
            .await
            .unwrap();
        client.flush().await.unwrap();
    }
}

/// A message as the stream stores it.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredMessage {
    pub sequence: u64,
    pub headers: String,
    pub body: String,
}

impl StoredMessage {
    /// Reads the answer to `STREAM.MSG.GET`.
    pub fn read(answer: &Value) -> Option<Self> {
        let message = answer.get("message")?;
        let decode = |name: &str| {
            let text = message.get(name).and_then(Value::as_str).unwrap_or_default();
            data_encoding::BASE64.decode(text.as_bytes()).unwrap()
        };
        Some(Self {
            sequence: message["seq"].as_u64().unwrap(),
            headers: String::from_utf8(decode("hdrs")).unwrap(),
            body: String::from_utf8(decode("data")).unwrap(),
        })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.down("KILL");
        }
    }
}

/// A shell that stops the server once its input ends, which it does when this process ends.
fn keeper(config: &std::path::Path) -> Child {
    const SCRIPT: &str = r#""$0" -c "$1" </dev/null & child=$!; echo $child > "${1%/*}/pid"; read -r _; kill "$child" 2>/dev/null; wait "$child""#;
    Command::new("/bin/sh")
        .arg("-c")
        .arg(SCRIPT)
        .arg(program())
        .arg(config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// `$NATS_SERVER`, else what `make tools` installs, else the PATH's.
pub fn program() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let named = std::env::var("NATS_SERVER")
        .ok()
        .filter(|named| !named.is_empty());
    let installed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/bin/nats-server"));
    match named {
        Some(named) => named.into(),
        None if installed.is_file() => installed,
        None => "nats-server".into(),
    }
}

/// What has a server take requests with unknown members, as hosts send them. 2.10 always does, and does not know it.
fn leniency() -> &'static str {
    static KNOWN: LazyLock<bool> = LazyLock::new(|| {
        let told = Command::new(program()).arg("--version").output().unwrap();
        !String::from_utf8_lossy(&told.stdout).contains("v2.10.")
    });
    if *KNOWN { "strict: false" } else { "" }
}

/// The password of every user that a server's configuration names.
pub const PASSWORD: &str = "canary-of-nats";

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
