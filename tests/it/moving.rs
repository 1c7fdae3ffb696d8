//! `latticectl export`, `import` and `diff`, against real gateways and lattices of every layout.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::{
    harness::{
        Nats, TestGateway,
        api::{ACCOUNT, ACTOR, PROVIDER},
        gateway::caller,
        keys, link, put_link, until,
    },
    latticectl::{Ctl, stderr},
};

/// Claims, links and references, with values that are awkward to write.
fn links_manifest(contract: &str) -> String {
    let values = json!({
        "address": "0.0.0.0:8080", "empty": "", "lines": "a\nb\r\n\tc", "marks": "# 'x' \"y\" \\ : - {} null",
        "wide": "é \u{85}\u{feff}\u{2028} \u{1f980}",
    });
    let provider = json!({
        "kind": "Claims", "public_key": PROVIDER, "issuer": ACCOUNT, "name": "KV", "claims_revision": "2",
        "version": "0.1.0", "contract_id": contract,
    });
    let documents = [
        json!({
            "kind": "Claims", "public_key": ACTOR, "issuer": ACCOUNT, "name": "Echo", "call_alias": "echo",
            "capabilities": ["wasmcloud:httpserver", "wasmcloud:keyvalue"], "tags": ["a", "b"],
            "claims_revision": "4", "version": "0.3.4",
        }),
        provider,
        json!({
            "kind": "LinkDefinition", "actor_id": ACTOR, "provider_id": PROVIDER,
            "contract_id": "wasmcloud:keyvalue", "values": values,
        }),
        json!({
            "kind": "LinkDefinition", "actor_id": ACTOR, "provider_id": PROVIDER,
            "contract_id": "wasmcloud:httpserver", "link_name": "other",
        }),
        json!({ "kind": "OciReference", "oci_url": "registry.example/echo:0.3.4", "public_key": ACTOR }),
        json!({ "kind": "OciReference", "oci_url": "bindle://example/kv/0.1.0", "public_key": PROVIDER }),
    ];
    Value::from(Vec::from(documents)).to_string()
}

fn components_manifest() -> String {
    let link = |target: &str, name: &str, config: &str| {
        json!({
            "kind": "InterfaceLink", "source_id": "web", "target": target, "name": name, "wit_namespace": "wasi",
            "wit_package": "http", "interfaces": ["incoming-handler", "types"], "source_config": [config],
        })
    };
    let documents = [
        json!({
            "kind": "Claims", "public_key": ACTOR, "issuer": ACCOUNT, "name": "Echo", "call_alias": "echo",
            "tags": ["a"], "claims_revision": "4", "version": "0.3.4",
        }),
        link("echo", "default", "port"),
        link("other", "second", "app-paths"),
        json!({ "kind": "NamedConfig", "name": "port", "values": { "port": "8080" } }),
        json!({ "kind": "NamedConfig", "name": "app-paths", "values": { "wide": "é\u{feff}\u{1f980}" } }),
    ];
    Value::from(Vec::from(documents)).to_string()
}

/// A gateway and the program; lattices of any layout.
struct Stand {
    nats: Nats,
    gateway: TestGateway,
    ctl: Ctl,
}

impl Stand {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let gateway = TestGateway::at(&nats.url()).await;
        let ctl = Ctl::new(&gateway);
        Self { nats, gateway, ctl }
    }

    /// Provisions a lattice and applies a manifest to it.
    async fn fill(&self, lattice: &str, layout: &str, manifest: &str) {
        self.provision(lattice, layout).await;
        self.ctl.write("manifest.json", manifest);
        self.ctl
            .text(&format!("--lattice {lattice} apply -f manifest.json"))
            .await;
    }

    async fn provision(&self, lattice: &str, layout: &str) {
        self.ctl
            .text(&format!("lattice provision {lattice} --layout {layout}"))
            .await;
    }

    /// Deletes the streams of a lattice, and waits until the gateway has noticed.
    async fn wipe(&self, lattice: &str, streams: &[&str]) {
        for stream in streams {
            let deleted = self
                .nats
                .api(&format!("STREAM.DELETE.{stream}_{lattice}"), Value::Null)
                .await;
            assert_eq!(deleted["success"], true, "{deleted}");
        }
        until("the lattice is gone", async || {
            let listed = self.ctl.run(&format!("--lattice {lattice} claims list")).await;
            stderr(&listed).contains("is not provisioned").then_some(())
        })
        .await;
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.ctl.folder.path().join(name)).unwrap()
    }
}

async fn comes_back_as_it_was(layout: &str, manifest: String, streams: &[&str]) {
    let stand = Stand::start().await;
    stand.fill("blue", layout, &manifest).await;
    let told = stand.ctl.text("export blue -f before.json").await;
    assert!(told.starts_with("exported  lattice blue  ("), "{told}");
    let mode = fs::metadata(stand.ctl.folder.path().join("before.json")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let before = stand.file("before.json");
    assert_eq!(stand.ctl.text("export blue").await, before);

    stand.wipe("blue", streams).await;
    let nowhere = stand.ctl.run("import before.json blue --yes").await;
    assert_eq!(nowhere.status.code(), Some(1));
    let way = format!("latticectl lattice provision blue --layout {layout}");
    assert!(stderr(&nowhere).contains(&way), "{}", stderr(&nowhere));
    stand.provision("blue", layout).await;
    let unasked = stand.ctl.run("import before.json blue").await;
    assert_eq!(unasked.status.code(), Some(2), "{}", stderr(&unasked));
    stand.ctl.text("import before.json blue --dry-run").await;
    let differs = stand.ctl.run("diff before.json blue").await;
    assert_eq!(differs.status.code(), Some(7), "{}", stderr(&differs));
    stand.ctl.text("import before.json blue --yes").await;
    stand.ctl.text("export blue -f after.json").await;
    assert_eq!(stand.file("after.json"), before);
    let same = stand.ctl.text("diff before.json blue").await;
    assert!(same.starts_with("0 added, 0 removed, 0 changed, "), "{same}");
    let again = stand.ctl.json("import before.json blue --yes").await;
    assert_eq!(again["changes"], json!([]), "{again}");
}

#[tokio::test]
async fn a_lattice_of_a_stream_comes_back_as_it_was() {
    comes_back_as_it_was("cache-stream", links_manifest(""), &["LATTICECACHE"]).await;
}

#[tokio::test]
async fn a_lattice_of_a_bucket_comes_back_as_it_was() {
    let manifest = links_manifest("wasmcloud:keyvalue");
    comes_back_as_it_was("kv", manifest, &["KV_LATTICEDATA"]).await;
}

#[tokio::test]
async fn a_lattice_of_components_comes_back_as_it_was() {
    let streams = ["KV_CONFIGDATA", "KV_LATTICEDATA"];
    comes_back_as_it_was("component", components_manifest(), &streams).await;
}

#[tokio::test]
async fn what_another_layout_does_not_keep_is_told_and_left_out_only_when_asked() {
    let stand = Stand::start().await;
    stand.fill("old", "cache-stream", &links_manifest("")).await;
    stand.provision("new", "kv").await;
    stand.provision("newest", "component").await;
    stand.ctl.text("export old -f old.json").await;

    let refused = stand.ctl.run("import old.json new --yes").await;
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    assert!(
        told.contains(&format!("claims {PROVIDER}: layout kv needs a contract_id")),
        "{told}"
    );
    assert!(told.contains("--skip-unsupported"), "{told}");
    let claims = stand.ctl.json("--lattice new claims list --fresh").await;
    assert_eq!(claims["claims"], Value::Null);
    let imported = stand
        .ctl
        .json("import old.json new --yes --skip-unsupported")
        .await;
    assert_eq!(imported["summary"]["created"], 5, "{imported}");
    let differs = stand.ctl.run("diff old new").await;
    assert_eq!(differs.status.code(), Some(7));
    assert_eq!(
        String::from_utf8_lossy(&differs.stdout),
        format!("removed  claims {PROVIDER}\n0 added, 1 removed, 0 changed, 5 equal\n")
    );

    let refused = stand.ctl.run("import old.json newest --yes").await;
    let told = stderr(&refused);
    assert!(
        told.contains("layout component keeps no LinkDefinition"),
        "{told}"
    );
    assert!(
        told.contains(&format!("capabilities of claims {ACTOR}")),
        "{told}"
    );
    let imported = stand
        .ctl
        .json("import old.json newest --yes --skip-unsupported")
        .await;
    assert_eq!(imported["summary"]["created"], 2, "{imported}");
}

#[tokio::test]
async fn without_the_values_nothing_is_exported_or_compared_and_without_the_verb_no_claims_are_imported() {
    let nats = Nats::start().await;
    let text = format!(
        "[lattices.\"*\"]\ntrusted_issuers = [\"*\"]\n{}{}",
        caller("blind", "token-of-the-blind", &["*"], "read links:write"),
        caller(
            "all",
            "token-of-all",
            &["*"],
            "read values:read links:write refs:write claims:write claims:write-unsigned provision"
        ),
    );
    let text = text
        + &caller(
            "signing",
            "token-of-signing",
            &["*"],
            "read values:read links:write refs:write claims:write",
        );
    let gateway = TestGateway::serving_callers(&nats, &text).await;
    let all = Ctl::new(&gateway).showing("token-of-all");
    all.text("lattice provision blue").await;
    all.text("lattice provision red").await;
    all.write("a.json", links_manifest(""));
    all.text("--lattice blue apply -f a.json").await;
    all.text("export blue -f export.json").await;

    let blind = Ctl::new(&gateway).showing("token-of-the-blind");
    let refused = blind.run("export blue -f export.json").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("values:read"), "{}", stderr(&refused));
    assert!(!blind.folder.path().join("export.json").exists());
    let refused = blind.run("diff blue blue").await;
    assert_eq!(refused.status.code(), Some(1));

    let signing = Ctl::new(&gateway).showing("token-of-signing");
    let export = fs::read(all.folder.path().join("export.json")).unwrap();
    signing.write("export.json", export);
    let refused = signing.run("import export.json red --yes").await;
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    assert!(told.contains("2 of 6 changes would fail"), "{told}");
    assert!(told.contains("hint: claims without a token"), "{told}");
    let links = all.json("--lattice red link list --fresh").await;
    assert_eq!(links["linkDefinitions"], Value::Null, "all was checked before");
}

#[tokio::test]
async fn an_export_of_a_lattice_that_is_written_is_of_one_moment() {
    let stand = Stand::start().await;
    stand.provision("default", "cache-stream").await;
    let (first, second) = (keys::actor(), keys::actor());
    let put = async |actor: &str, round: u32| {
        let link = link(actor, PROVIDER, &round.to_string());
        stand.gateway.put(put_link(link)).await.unwrap();
    };
    let value = |export: &Value, actor: &str| {
        let links = export["linkDefinitions"].as_array().unwrap();
        let link = links.iter().find(|link| link["actorId"] == actor).unwrap();
        link["values"]["value"].as_str().unwrap().parse::<u32>().unwrap()
    };
    put(&first, 0).await;
    put(&second, 0).await;
    let writing = async {
        for round in 1.. {
            put(&first, round).await;
            put(&second, round).await;
        }
    };
    let exported = tokio::select! {
        exported = stand.ctl.run("export --timeout 1s") => exported,
        () = writing => panic!("writes for ever"),
    };
    // Where it found a moment between two writes, it is one.
    match exported.status.code() {
        Some(0) => {
            let export = serde_json::from_slice(&exported.stdout).unwrap();
            let [first, second] = [value(&export, &first), value(&export, &second)];
            assert!(first == second || first == second + 1, "{first} {second}");
        }
        Some(5) => assert!(
            stderr(&exported).contains("was written every time"),
            "{}",
            stderr(&exported)
        ),
        other => panic!("{other:?}: {}", stderr(&exported)),
    }
    let still = stand.ctl.text("export").await;
    let export = serde_json::from_str(&still).unwrap();
    assert!(value(&export, &first) >= value(&export, &second));
}

#[tokio::test]
async fn an_import_that_was_killed_is_gone_on_with() {
    const COUNT: usize = 3000;
    let stand = Stand::start().await;
    stand.provision("old", "cache-stream").await;
    stand.provision("new", "kv").await;
    let actors = std::iter::repeat_with(keys::actor).take(COUNT);
    let links = actors.map(|actor| {
        json!({
            "kind": "LinkDefinition", "actor_id": actor, "provider_id": PROVIDER, "contract_id": "wasmcloud:keyvalue",
        })
    });
    stand
        .ctl
        .write("links.json", links.collect::<Value>().to_string());
    stand.ctl.text("--lattice old apply -f links.json").await;
    stand.ctl.text("export old -f old.json").await;
    let mut importing = stand.ctl.command("import old.json new --yes").spawn().unwrap();
    until("some of it is imported", async || {
        let shown = stand.ctl.json("lattice show new").await;
        shown["lattice"]["linkDefinitionCount"].as_str().map(|_| ())
    })
    .await;
    importing.kill().await.unwrap();
    let rest = stand.ctl.json("import old.json new --yes").await;
    let [created, unchanged] = ["created", "unchanged"].map(|it| rest["summary"][it].as_u64().unwrap());
    assert!(unchanged > 0, "{}", rest["summary"]);
    assert_eq!(created + unchanged, u64::try_from(COUNT).unwrap());
    stand.ctl.text("diff old new").await;
}

#[tokio::test]
async fn differences_are_told_by_field_and_secrets_only_on_request() {
    let stand = Stand::start().await;
    let manifest = |value: &str, version: &str| {
        json!([
            { "kind": "Claims", "public_key": ACTOR, "issuer": ACCOUNT, "name": "Echo", "version": version },
            { "kind": "LinkDefinition", "actor_id": ACTOR, "provider_id": PROVIDER, "contract_id": "wasmcloud:keyvalue",
              "values": { "url": value } },
        ])
        .to_string()
    };
    stand
        .fill("blue", "cache-stream", &manifest("secret-1", "1"))
        .await;
    stand.fill("red", "kv", &manifest("secret-2", "2")).await;
    let differs = stand.ctl.run("diff blue red").await;
    assert_eq!(differs.status.code(), Some(7), "{}", stderr(&differs));
    let told = String::from_utf8_lossy(&differs.stdout).into_owned();
    assert_eq!(
        told,
        format!(
            "changed  claims {ACTOR}\n\
             \x20         version  1 -> 2\n\
             changed  link {ACTOR} wasmcloud:keyvalue default\n\
             \x20         values.url  (hidden) -> (hidden)\n\
             0 added, 0 removed, 2 changed, 0 equal\n"
        )
    );
    let shown = stand.ctl.run("diff blue red --show-values").await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("secret-1 -> secret-2"));
}
