//! Moving a lattice from the stream of hosts up to 0.59 into the bucket of hosts 0.60 to 0.82.

use lattice_gateway::proto::{
    ErrorReason, MigrateLatticeRequest, MigrateLatticeResponse, MigrationAction, Revision,
};
use serde_json::{Value, json};

use crate::{
    harness::{
        Bucket, Nats, TestGateway, Told,
        api::{ACCOUNT, ACTOR, PROVIDER},
        keys, link, put_link, told, until,
    },
    latticectl::{Ctl, stderr},
};

struct Stand {
    nats: Nats,
    gateway: TestGateway,
    ctl: Ctl,
}

impl Stand {
    /// A lattice `default` in a stream, as hosts create it.
    async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// One in a stream with some members changed.
    async fn start_with(changes: Value) -> Self {
        let nats = Nats::start().await;
        nats.create_stream("default", changes).await;
        let gateway = TestGateway::at(&nats.url()).await;
        let ctl = Ctl::new(&gateway);
        Self { nats, gateway, ctl }
    }

    async fn put(&self, actor: &str, value: &str) {
        let put = put_link(link(actor, PROVIDER, value));
        self.gateway.put(put).await.unwrap();
    }

    /// Puts a link as hosts do, on a subject of its own.
    async fn put_raw(&self, id: &str, actor: &str, value: &str, is_deleted: bool) {
        let body = json!({
            "actor_id": actor, "contract_id": "wasmcloud:keyvalue", "deleted": is_deleted, "id": id,
            "link_name": "default", "provider_id": PROVIDER, "values": { "value": value },
        });
        self.raw(&format!("linkdefs.{id}"), body.to_string()).await;
    }

    /// Publishes as hosts do, and waits until it is stored.
    async fn raw(&self, subject: &str, body: String) {
        let subject = format!("lc.default.{subject}");
        self.nats.publish_raw(&subject, body.clone()).await;
        until("it is stored", async || {
            let last = self.nats.last("default", &subject).await;
            last.filter(|last| last.body == body)
        })
        .await;
    }

    async fn migrate(&self, request: MigrateLatticeRequest) -> Result<MigrateLatticeResponse, Told> {
        migrate(&self.gateway, request).await
    }

    /// The values of all links of the bucket, by actor, as they are stored.
    async fn links_in_bucket(&self) -> Vec<(String, String)> {
        let info = self
            .nats
            .api(
                "STREAM.INFO.KV_LATTICEDATA_default",
                json!({"subjects_filter": ">"}),
            )
            .await;
        let data = Bucket::data(&self.nats, "default").await;
        let mut links = Vec::new();
        for subject in info["state"]["subjects"].as_object().into_iter().flatten() {
            let key = subject.0.rsplit('.').next().unwrap();
            let value = data.value(key).await;
            if key.starts_with("LINKDEF_") && value.is_object() {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                links.push((text(&value["actor_id"]), text(&value["values"]["value"])));
            }
        }
        links.sort();
        links
    }
}

async fn migrate(
    gateway: &TestGateway,
    request: MigrateLatticeRequest,
) -> Result<MigrateLatticeResponse, Told> {
    told(gateway.lattices().migrate_lattice(request).await)
}

fn live() -> MigrateLatticeRequest {
    MigrateLatticeRequest {
        lattice: "default".to_owned(),
        ..MigrateLatticeRequest::default()
    }
}

fn rehearsal() -> MigrateLatticeRequest {
    MigrateLatticeRequest {
        validate_only: true,
        ..live()
    }
}

fn deleting(at: Option<Revision>) -> MigrateLatticeRequest {
    MigrateLatticeRequest {
        delete_source_at: at,
        ..live()
    }
}

fn items(answer: &MigrateLatticeResponse, action: MigrationAction) -> Vec<&str> {
    let items = answer.items.iter().filter(|item| item.action() == action);
    items.map(|item| item.entry.as_str()).collect()
}

#[tokio::test]
async fn what_stands_is_moved_and_nothing_that_was_deleted_comes_back() {
    // So that the gateway cannot remove what is superseded.
    let stand = Stand::start_with(json!({ "deny_delete": true })).await;
    let [twice, half, gone, moved] = [(); 4].map(|()| keys::actor());
    stand.put(&moved, "by the gateway").await;
    // Put twice by hosts: the later one stands.
    stand.put_raw("uuid-1", &twice, "old", false).await;
    stand.put_raw("uuid-2", &twice, "new", false).await;
    // Put twice, and only the newer subject tombstoned: a host that migrates revives the older one.
    stand.put_raw("uuid-3", &half, "revived", false).await;
    stand.put_raw("uuid-4", &half, "revived", false).await;
    stand.put_raw("uuid-4", &half, "revived", true).await;
    stand.put_raw("uuid-5", &gone, "gone", false).await;
    stand.put_raw("uuid-5", &gone, "gone", true).await;
    // What makes a host's migration crash.
    stand.raw("linkdefs.uuid-6", "{".to_owned()).await;
    stand.raw("ocimap.x", "{}".to_owned()).await;
    stand.raw("claims.a.b", "{}".to_owned()).await;
    let claims = json!({
        "call_alias": "echo", "caps": "a,b", "iss": ACCOUNT, "name": "Echo", "rev": "4", "sub": ACTOR, "tags": "",
        "version": null,
    });
    stand.raw(&format!("claims.{ACTOR}"), claims.to_string()).await;
    let provider = json!({
        "call_alias": "", "caps": "", "iss": ACCOUNT, "name": "KV", "rev": "1", "sub": PROVIDER, "tags": "",
        "version": "0.1.0",
    });
    stand
        .raw(&format!("claims.{PROVIDER}"), provider.to_string())
        .await;
    let reference = json!({ "oci_url": "r.example/echo:1", "public_key": ACTOR });
    stand
        .raw("refmap.ci5leGFtcGxlL2VjaG86MQ", reference.to_string())
        .await;
    let stood = stand.ctl.text("export").await;

    let planned = stand.migrate(rehearsal()).await.unwrap();
    assert_eq!((planned.remaining_count, planned.verified), (5, false));
    assert_eq!(planned.stale_copies, 2);
    assert_eq!(items(&planned, MigrationAction::Create).len(), 5);
    assert_eq!(items(&planned, MigrationAction::Leave).len(), 3);
    let none = stand
        .nats
        .api("STREAM.INFO.KV_LATTICEDATA_default", Value::Null)
        .await;
    assert_eq!(none["error"]["err_code"], 10059, "a rehearsal creates nothing");

    let migrated = stand.migrate(live()).await.unwrap();
    assert_eq!(
        (migrated.moved_count, migrated.remaining_count, migrated.verified),
        (5, 0, true)
    );
    let mut expected = [(moved, "by the gateway".to_owned()), (twice, "new".to_owned())];
    expected.sort();
    assert_eq!(stand.links_in_bucket().await, expected);
    let again = stand.migrate(live()).await.unwrap();
    assert_eq!(
        (again.moved_count, again.unchanged_count, again.verified),
        (0, 5, true)
    );

    // While both are there nobody reads or writes.
    until("the gateway has noticed", async || {
        let put = stand.gateway.put(put_link(link(ACTOR, PROVIDER, "1"))).await;
        put.err()
            .filter(|told| told.reason == ErrorReason::LayoutAmbiguous)
    })
    .await;
    assert_eq!(
        stand.nats.state("default").await.1,
        again.source_revision.unwrap().sequence
    );

    // The stream is deleted no sooner than every gateway has noticed, and only where it is still where it was seen.
    let early = stand.migrate(deleting(again.source_revision)).await.unwrap();
    assert!(!early.source_deleted && early.deletable_in.is_some());
    let elsewhere = Some(Revision {
        sequence: again.source_revision.unwrap().sequence - 1,
        ..again.source_revision.unwrap()
    });
    let done = stand
        .ctl
        .text("migrate --to kv --yes --delete-source --yes-delete")
        .await;
    assert!(done.ends_with("lattice default is of layout kv\n"), "{done}");
    let now = stand.ctl.text("export").await;
    assert_eq!(now, stood.replace("cache-stream", "kv"));
    let nothing = stand.migrate(deleting(elsewhere)).await.unwrap();
    assert_eq!(nothing, MigrateLatticeResponse::default());
    let nothing = stand.ctl.text("migrate --to kv").await;
    assert_eq!(nothing, "nothing to migrate: default is of layout kv already\n");
}

#[tokio::test]
async fn what_is_written_to_the_stream_meanwhile_is_moved_by_the_next_pass() {
    let stand = Stand::start().await;
    let [stays, changes, goes, comes] = [(); 4].map(|()| keys::actor());
    for actor in [&stays, &changes, &goes] {
        stand.put_raw(actor, actor, "1", false).await;
    }
    let first = stand.migrate(live()).await.unwrap();
    assert!(first.verified);
    // Hosts are not kept from writing.
    stand.put_raw(&changes, &changes, "2", false).await;
    stand.put_raw(&goes, &goes, "1", true).await;
    stand.put_raw(&comes, &comes, "1", false).await;
    let planned = stand.migrate(rehearsal()).await.unwrap();
    assert_eq!(items(&planned, MigrationAction::Replace).len(), 1);
    assert_eq!(items(&planned, MigrationAction::Delete).len(), 1);
    assert_eq!(items(&planned, MigrationAction::Create).len(), 1);
    // It is not deleted where it was verified before that.
    let second = stand.migrate(deleting(first.source_revision)).await.unwrap();
    assert_eq!(
        (second.moved_count, second.verified, second.source_deleted),
        (3, true, false)
    );
    let mut expected =
        [(changes, "2"), (comes, "1"), (stays, "1")].map(|(actor, value)| (actor, value.to_owned()));
    expected.sort();
    assert_eq!(stand.links_in_bucket().await, expected);
}

#[tokio::test]
async fn writes_of_gateways_during_a_migration_are_moved_or_refused() {
    let stand = Stand::start().await;
    let other = TestGateway::at(&stand.nats.url()).await;
    let actors: Vec<_> = std::iter::repeat_with(keys::actor).take(40).collect();
    for actor in &actors {
        stand.put(actor, "0").await;
    }
    let writing = async {
        let mut acknowledged = std::collections::BTreeMap::new();
        for round in 1.. {
            for actor in &actors {
                let put = other
                    .put(put_link(link(actor, PROVIDER, &round.to_string())))
                    .await;
                match put {
                    Ok(_) => drop(acknowledged.insert(actor.clone(), round.to_string())),
                    Err(told) => {
                        assert_eq!(told.reason, ErrorReason::LayoutAmbiguous, "{told:?}");
                        return acknowledged;
                    }
                }
            }
        }
        acknowledged
    };
    let migrating = async {
        // As a host's would, this one comes while others write.
        stand.migrate(live()).await.unwrap()
    };
    let (acknowledged, _) = tokio::join!(writing, migrating);
    let last = stand.migrate(live()).await.unwrap();
    assert!(last.verified, "{last:?}");
    let mut expected: Vec<_> = actors
        .iter()
        .map(|actor| {
            let value = acknowledged.get(actor).cloned();
            (actor.clone(), value.unwrap_or_else(|| "0".to_owned()))
        })
        .collect();
    expected.sort();
    assert_eq!(stand.links_in_bucket().await, expected);
}

#[tokio::test]
async fn what_is_younger_in_the_bucket_is_kept_and_then_nothing_is_verified_or_deleted() {
    let stand = Stand::start().await;
    stand.put(ACTOR, "of the stream").await;
    stand.migrate(live()).await.unwrap();
    let data = Bucket::data(&stand.nats, "default").await;
    let foreign = json!({
        "call_alias": "", "caps": "", "contract_id": "", "iss": ACCOUNT, "name": "Other", "rev": "1", "sub": ACTOR,
        "tags": "", "version": "1",
    });
    data.put(&format!("CLAIMS_{ACTOR}"), foreign.to_string()).await;
    let told = stand.migrate(live()).await.unwrap();
    assert!(!told.verified && told.remaining_count == 0, "{told:?}");
    assert_eq!(items(&told, MigrationAction::Keep), [format!("claims {ACTOR}")]);
    let refused = stand
        .ctl
        .run("migrate --to kv --yes --delete-source --yes-delete")
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("is in the bucket alone"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(data.value(&format!("CLAIMS_{ACTOR}")).await, foreign);
    assert_eq!(stand.nats.state("default").await.0, 1);
}

#[tokio::test]
async fn a_migration_that_is_broken_off_is_gone_on_with() {
    const COUNT: usize = 4000;
    let mut stand = Stand::start().await;
    let links = std::iter::repeat_with(keys::actor).take(COUNT).map(|actor| {
        json!({
            "kind": "LinkDefinition", "actor_id": actor, "provider_id": PROVIDER, "contract_id": "wasmcloud:keyvalue",
        })
    });
    stand
        .ctl
        .write("links.json", links.collect::<Value>().to_string());
    stand.ctl.text("apply -f links.json").await;
    let moved = async || {
        let info = stand
            .nats
            .api("STREAM.INFO.KV_LATTICEDATA_default", Value::Null)
            .await;
        info["state"]["messages"].as_u64().unwrap_or(0)
    };
    let mut migrating = stand.ctl.command("migrate --to kv --yes").spawn().unwrap();
    until("some of it is moved", async || (moved().await > 0).then_some(())).await;
    migrating.kill().await.unwrap();
    // The gateway goes away, too, with whatever it had under way.
    let url = stand.nats.url();
    drop(stand.gateway);
    stand.gateway = TestGateway::at(&url).await;
    stand.ctl = Ctl::new(&stand.gateway);
    let told = stand.ctl.json("migrate --to kv --yes --timeout 60s").await;
    assert_eq!(told["verified"], true, "{told}");
    assert_eq!(told["unchangedCount"], COUNT.to_string());
    assert_eq!(stand.links_count().await, COUNT);
}

impl Stand {
    async fn links_count(&self) -> usize {
        let info = self
            .nats
            .api(
                "STREAM.INFO.KV_LATTICEDATA_default",
                json!({"subjects_filter": "$KV.LATTICEDATA_default.LINKDEF_>"}),
            )
            .await;
        let messages = info["state"]["messages"].as_u64().unwrap();
        usize::try_from(messages).unwrap()
    }
}

#[tokio::test]
async fn only_a_stream_whose_layout_is_not_configured_is_migrated() {
    let nats = Nats::start().await;
    let text = "[lattices.set]\nlayout = \"cache-stream\"\ntrusted_issuers = [\"*\"]\n\
                [lattices.\"*\"]\ntrusted_issuers = [\"*\"]\n";
    let gateway = TestGateway::serving(&nats, text).await;
    let of = |lattice: &str| MigrateLatticeRequest {
        lattice: lattice.to_owned(),
        ..live()
    };
    nats.create_stream("set", json!({})).await;
    let refused = migrate(&gateway, of("set")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LayoutAmbiguous);
    assert_eq!(refused.metadata["setting"], "lattices.set.layout");
    assert!(
        refused.message.contains("take the setting out"),
        "{}",
        refused.message
    );
    let ctl = Ctl::new(&gateway).showing(crate::harness::gateway::TOKEN);
    let told = ctl.run("migrate set --to kv --yes").await;
    assert!(!stderr(&told).contains("hint"), "{}", stderr(&told));

    let refused = migrate(&gateway, of("nowhere")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::NotProvisioned);
    for (lattice, layout) in [("later", "component"), ("done", "kv")] {
        ctl.text(&format!("lattice provision {lattice} --layout {layout}"))
            .await;
    }
    let refused = migrate(&gateway, of("later")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LayoutUnsupported);
    let done = migrate(&gateway, of("done")).await.unwrap();
    assert_eq!(done, MigrateLatticeResponse::default());
    // A bucket of 1.x beside the stream of hosts up to 0.59.
    nats.create_stream("later", json!({})).await;
    let refused = migrate(&gateway, of("later")).await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::LayoutAmbiguous);
    let both = MigrateLatticeRequest {
        delete_source_at: Some(Revision::default()),
        validate_only: true,
        ..of("done")
    };
    let refused = migrate(&gateway, both).await.unwrap_err();
    assert_eq!(refused.fields, ["delete_source_at"]);
}
