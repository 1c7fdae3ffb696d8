//! `latticectl apply` and `watch` as users run them: the program itself, against a real gateway.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Output, Stdio},
};

use lattice_gateway::control::lattices::Layout;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    gateway::caller,
    interface_link, keys, link, named_config, put_config, put_interface_link, put_link, until,
    wire::Wire,
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lattice");

/// The program, in a folder for manifests.
pub struct Ctl {
    endpoint: String,
    token: Option<String>,
    pub folder: tempfile::TempDir,
}

impl Ctl {
    pub fn new(gateway: &TestGateway) -> Self {
        Self::at(&gateway.running.grpc.to_string())
    }

    pub fn at(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            token: None,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn showing(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latticectl"));
        command
            .args(["--endpoint", &self.endpoint])
            .args(line.split(' '))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(token) = &self.token {
            command.env("LATTICECTL_TOKEN", token);
        }
        command
    }

    pub async fn run(&self, line: &str) -> Output {
        self.command(line).output().await.unwrap()
    }

    /// Runs a command that succeeds; gives what it printed.
    pub async fn text(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.text(&format!("-o json {line}")).await).unwrap()
    }

    fn watch(&self, options: &str) -> Watching {
        let line = format!("-o json watch {options}");
        let mut child = self
            .command(line.trim())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watching { child, lines }
    }
}

/// What a run told on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running `watch`.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    async fn next(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The next message of this sort; others are passed over.
    async fn next_of(&mut self, event: &str) -> Value {
        loop {
            let mut message = self.next().await;
            if !message[event].is_null() {
                return message[event].take();
            }
        }
    }

    /// Reads until all these actors have a link that was put.
    async fn until_put(&mut self, actors: &mut BTreeSet<String>) {
        while !actors.is_empty() {
            let changes = self.next_of("changes").await;
            for change in changes["changes"].as_array().into_iter().flatten() {
                let actor = &change["put"]["linkDefinition"]["actorId"];
                actors.remove(actor.as_str().unwrap_or_default());
            }
        }
    }
}

fn summary(created: u32, updated: u32, deleted: u32, unchanged: u32) -> Value {
    json!({ "created": created, "updated": updated, "deleted": deleted, "unchanged": unchanged,
        "failed": 0, "notDone": 0 })
}

fn link_manifest(links: &[(&str, &str)]) -> String {
    let document = |(actor, value): &(&str, &str)| {
        format!(
            "kind: LinkDefinition\nactor_id: {actor}\nprovider_id: {PROVIDER}\ncontract_id: wasmcloud:keyvalue\n\
             values:\n  value: {value}\n---\n"
        )
    };
    links.iter().map(document).collect()
}

#[tokio::test]
async fn the_example_lattice_is_applied_once_and_then_stands() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    ctl.text("lattice provision").await;
    let apply = format!("apply -f {EXAMPLE}/lattice.yaml");
    assert_eq!(ctl.json(&apply).await["summary"], summary(11, 0, 0, 0));
    assert_eq!(ctl.json(&apply).await["summary"], summary(0, 0, 0, 11));
    // What lists answer is a manifest too.
    for (kind, file) in [("link", "links.json"), ("ref", "refs.json")] {
        ctl.write(file, ctl.text(&format!("-o json {kind} list")).await);
    }
    let unchanged = ctl.json("apply -f links.json -f refs.json").await;
    assert_eq!(unchanged["summary"], summary(0, 0, 0, 7));
}

#[tokio::test]
async fn provisioning_shows_its_plan_does_it_and_tells_what_is_wrong() {
    let nats = Nats::start().await;
    let gateway = TestGateway::at(&nats.url()).await;
    let ctl = Ctl::new(&gateway);
    let header = "PLAN    STREAM                FIELD  WANT  HAVE  CHANGES\n";
    let plan = format!(
        "{header}create  LATTICECACHE_default  -      -     -     -\n1 to create, 0 to update, 0 unchanged, 0 wrong\n"
    );
    let dry = ctl.text("lattice provision --dry-run").await;
    assert_eq!(dry, format!("{plan}dry run: nothing was changed\n"));
    let done = ctl.text("lattice provision").await;
    assert_eq!(
        done,
        format!("{plan}1 created, 0 updated, 0 unchanged, 0 wrong\n")
    );
    assert!(
        ctl.text("lattice provision")
            .await
            .ends_with("0 to create, 0 to update, 1 unchanged, 0 wrong\n")
    );
    let refused = ctl.run("lattice provision --storage file").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("ask for the one that it has"),
        "{}",
        stderr(&refused)
    );
    let bounded = ctl
        .run("lattice provision other --max-bytes 1024 --replicas 9")
        .await;
    assert_eq!(bounded.status.code(), Some(1));
    assert!(
        stderr(&bounded).contains("replicas must be 1 to 5"),
        "{}",
        stderr(&bounded)
    );

    nats.create(json!({"name": "wadm_events", "subjects": ["wadm.evt.>"]}))
        .await;
    for line in [
        "wadm provision --max-bytes 1048576",
        "wadm provision --max-bytes 1048576",
        "wadm provision --dry-run",
    ] {
        let wrong = ctl.run(line).await;
        assert_eq!(wrong.status.code(), Some(4), "{}", stderr(&wrong));
        assert_eq!(stderr(&wrong), "");
        let told = String::from_utf8(wrong.stdout).unwrap();
        assert!(
            told.contains("\nwrong: wadm_events: wadm 0.21.1 deletes it when it starts"),
            "{told}"
        );
    }
    nats.api("STREAM.DELETE.wadm_events", Value::Null).await;
    let answer = ctl.json("wadm provision").await;
    let of = |action: &str| {
        let streams = answer["streams"].as_array().unwrap().iter();
        streams.filter(|stream| stream["action"] == action).count()
    };
    let counts =
        ["CREATED", "UPDATED", "UNCHANGED", "WRONG"].map(|action| of(&format!("STREAM_ACTION_{action}")));
    assert_eq!(counts, [1, 0, 7, 0]);
}

#[tokio::test]
async fn a_plan_is_shown_and_done_and_done_again_it_is_empty() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    let (other, surplus) = (keys::actor(), keys::actor());
    for (actor, value) in [(ACTOR, "1"), (&other, "0"), (&surplus, "1")] {
        gateway.put(put_link(link(actor, PROVIDER, value))).await.unwrap();
    }
    let new = keys::actor();
    ctl.write(
        "a.yaml",
        link_manifest(&[(ACTOR, "1"), (&other, "1"), (&new, "1")]),
    );
    let plan = format!(
        "create  link {new} wasmcloud:keyvalue default\n\
         update  link {other} wasmcloud:keyvalue default\n\
         \x20         values.value  0 -> 1\n\
         delete  link {surplus} wasmcloud:keyvalue default\n\
         1 to create, 1 to update, 1 to delete, 1 unchanged\n"
    );
    let dry = ctl.run("apply -f a.yaml --prune --dry-run --exit-code").await;
    assert_eq!(dry.status.code(), Some(7), "{}", stderr(&dry));
    assert_eq!(
        String::from_utf8_lossy(&dry.stdout),
        format!("{plan}dry run: nothing was written\n")
    );
    let refused = ctl.run("apply -f a.yaml --prune").await;
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    let applied = ctl.text("apply -f a.yaml --prune --yes").await;
    let done = "1 created, 1 updated, 1 deleted, 1 unchanged  (";
    assert!(applied.starts_with(&format!("{plan}{done}")), "{applied}");
    let again = ctl.run("apply -f a.yaml --prune --dry-run --exit-code").await;
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
}

#[tokio::test]
async fn configs_and_the_links_that_name_them_come_and_go_in_one_run() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let ctl = Ctl::new(&gateway);
    ctl.text("lattice provision --layout component").await;
    let manifest = |target: &str, config: &str| {
        format!(
            "kind: InterfaceLink\nsource_id: web\ntarget: {target}\nwit_namespace: wasi\nwit_package: http\n\
             interfaces: [incoming-handler]\nsource_config: [{config}]\n---\n\
             kind: NamedConfig\nname: {config}\nvalues:\n  port: 8080\n"
        )
    };
    ctl.write("a.yaml", manifest("echo", "first"));
    // What only the order makes fail is no failure.
    let checked = ctl.json("apply -f a.yaml --dry-run").await;
    assert_eq!(checked["summary"], summary(2, 0, 0, 0));
    assert_eq!(ctl.json("apply -f a.yaml").await["summary"], summary(2, 0, 0, 0));
    ctl.write("a.yaml", manifest("other", "second"));
    let checked = ctl.json("apply -f a.yaml --prune --dry-run").await;
    assert_eq!(checked["summary"], summary(2, 0, 2, 0));
    let applied = ctl.json("apply -f a.yaml --prune --yes").await;
    assert_eq!(applied["summary"], summary(2, 0, 2, 0));
    assert_eq!(
        ctl.json("iface list --fresh").await["interfaceLinks"][0]["target"],
        "other"
    );
}

#[tokio::test]
async fn one_that_is_refused_is_told_with_its_place_and_the_others_are_written() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    ctl.text("lattice provision").await;
    ctl.write("a.yaml", link_manifest(&[(ACTOR, "1"), ("nobody", "1")]));
    let output = ctl.run("apply -f a.yaml").await;
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("error: 1 of 2 changes failed"), "{told}");
    assert!(
        told.contains("a.yaml:8 (document 2): create  link nobody"),
        "{told}"
    );
    assert!(told.contains("link_definition.actor_id must be "), "{told}");
    assert_eq!(
        ctl.json("link list --fresh").await["linkDefinitions"][0]["actorId"],
        ACTOR
    );
}

#[tokio::test]
async fn values_that_the_caller_may_not_read_are_put_and_shown_nowhere() {
    let nats = Nats::start().await;
    let text = format!(
        "[lattices.default]\nlayout = \"cache-stream\"\ntrusted_issuers = [\"*\"]\n{}{}",
        caller("blind", "token-of-the-blind", &["default"], "read links:write"),
        caller(
            "all",
            "token-of-all",
            &["default"],
            "read values:read links:write provision"
        ),
    );
    let gateway = TestGateway::serving_callers(&nats, &text).await;
    let all = Ctl::new(&gateway).showing("token-of-all");
    all.text("lattice provision").await;
    all.write("a.yaml", link_manifest(&[(ACTOR, "before")]));
    all.text("apply -f a.yaml").await;
    let blind = Ctl::new(&gateway).showing("token-of-the-blind");
    blind.write("a.yaml", link_manifest(&[(ACTOR, "after")]));
    let output = blind.run("apply -f a.yaml").await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("values:read"), "{}", stderr(&output));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("values  (not readable) -> value=after"), "{told}");
    assert!(!told.contains("before"), "{told}");
    assert_eq!(
        all.json("apply -f a.yaml --dry-run").await["summary"],
        summary(0, 1, 0, 0)
    );
}

#[tokio::test]
async fn thousands_are_applied_though_the_connection_breaks_again_and_again() {
    const COUNT: usize = 3000;
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let proxy = Wire::to(gateway.running.grpc.port()).await;
    let ctl = Ctl::at(&proxy.address().to_string());
    ctl.text("lattice provision").await;
    let actors: Vec<_> = std::iter::repeat_with(keys::actor).take(COUNT).collect();
    let links: Vec<_> = actors.iter().map(|actor| (actor.as_str(), "1")).collect();
    ctl.write("a.yaml", link_manifest(&links));
    let applying = ctl.json("apply -f a.yaml");
    let breaking = async {
        for _ in 0..5 {
            let before = held(&gateway).await;
            until("some more are applied", async || {
                (held(&gateway).await >= (before + 200).min(COUNT)).then_some(())
            })
            .await;
            proxy.cut();
        }
    };
    let (report, ()) = tokio::join!(applying, breaking);
    assert_eq!(report["summary"], summary(3000, 0, 0, 0));
    assert_eq!(held(&gateway).await, COUNT);
    assert_eq!(
        ctl.json("apply -f a.yaml").await["summary"],
        summary(0, 0, 0, 3000)
    );
}

/// How many links the gateway has.
async fn held(gateway: &TestGateway) -> usize {
    let request = lattice_gateway::proto::GetLatticeRequest {
        lattice: "default".to_owned(),
    };
    let answer = gateway.lattices().get_lattice(request).await;
    let lattice = answer.ok().and_then(|answer| answer.into_inner().lattice);
    lattice.map_or(0, |it| usize::try_from(it.link_definition_count).unwrap())
}

#[tokio::test]
async fn a_watch_tells_what_stands_and_every_change_as_lines_of_json() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    gateway.put(put_link(link(ACTOR, PROVIDER, "1"))).await.unwrap();
    let mut watch = ctl.watch("--kind link");
    let snapshot = watch.next_of("snapshot").await;
    assert_eq!(snapshot["entries"][0]["linkDefinition"]["actorId"], ACTOR);
    watch.next_of("snapshotComplete").await;
    let other = keys::actor();
    gateway.put(put_link(link(&other, PROVIDER, "1"))).await.unwrap();
    watch.until_put(&mut [other].into()).await;
    ctl.text(&format!("link delete {ACTOR} wasmcloud:keyvalue")).await;
    let changes = watch.next_of("changes").await;
    assert_eq!(
        changes["changes"][0]["delete"]["linkDefinition"]["actorId"],
        ACTOR
    );
}

#[tokio::test]
async fn a_watch_goes_on_by_itself_and_prints_a_token_when_it_is_interrupted() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let proxy = Wire::to(gateway.running.grpc.port()).await;
    let ctl = Ctl::at(&proxy.address().to_string());
    gateway.put(put_link(link(ACTOR, PROVIDER, "1"))).await.unwrap();
    let mut watch = ctl.watch("");
    watch.next_of("snapshotComplete").await;
    watch.next().await;
    proxy.cut();
    let other = keys::actor();
    gateway.put(put_link(link(&other, PROVIDER, "1"))).await.unwrap();
    watch.until_put(&mut [other].into()).await;

    let pid = watch.child.id().unwrap().to_string();
    let interrupt = Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
    assert!(interrupt.success());
    let output = watch.child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    let told = stderr(&output);
    let token = told
        .split("--resume-token ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();

    let third = keys::actor();
    gateway.put(put_link(link(&third, PROVIDER, "1"))).await.unwrap();
    let mut resumed = ctl.watch(&format!("--resume-token {token}"));
    let changes = resumed.next_of("changes").await;
    assert_eq!(changes["changes"].as_array().unwrap().len(), 1, "{changes}");
    assert_eq!(changes["changes"][0]["put"]["linkDefinition"]["actorId"], *third);
}

#[tokio::test]
async fn a_watch_until_synced_is_what_a_list_shows() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Component).await;
    let ctl = Ctl::new(&gateway);
    gateway
        .put_config(put_config(named_config("port", "1")))
        .await
        .unwrap();
    gateway
        .put_interface_link(put_interface_link(interface_link("echo")))
        .await
        .unwrap();
    let text = ctl.text("watch --until-synced").await;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("Z  SNAPSHOT  config  port  values."), "{text}");
    assert!(text.contains("Z  SNAPSHOT  iface   "), "{text}");
}

#[tokio::test]
async fn a_watch_ends_quietly_when_nobody_reads_it() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    gateway.put(put_link(link(ACTOR, PROVIDER, "1"))).await.unwrap();
    let Watching { child, mut lines } = ctl.watch("");
    lines.next_line().await.unwrap();
    drop(lines);
    gateway.put(put_link(link(ACTOR, PROVIDER, "2"))).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

#[tokio::test]
async fn manifests_are_read_from_standard_input() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let ctl = Ctl::new(&gateway);
    ctl.text("lattice provision").await;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(link_manifest(&[(ACTOR, "1")]).as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = ctl.command("apply -f -").stdin(file).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 created"));
}
