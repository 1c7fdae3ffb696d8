//! Beside hosts that write the same stream in their own way: links on random subjects, no headers, no checks.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use lattice_gateway::proto::{
    Consistency, DeleteLinkDefinitionRequest, ErrorReason, GetLatticeRequest, GetLinkDefinitionRequest,
    Lattice, Outcome, PutLinkDefinitionRequest, WriteResult, consistency::Requirement,
    put_link_definition_request::Precondition,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    harness::{Nats, TestGateway, Told, gateway::told, keys, link, put_link, until},
    host_model::Triple,
    model::shown::Key,
};

const UUID: &str = "linkdefs.fb30deff-bbe7-4a28-a525-e53ebd4e8228";
const OTHER_UUID: &str = "linkdefs.0d3cc1a6-3cbf-4a0f-8a36-1f8f1a9c1a01";
/// A purge or deletion is promised to be noticed within 5 s; the rest is for this machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(6);

/// The lattice `default`, created by a host, with a gateway and one link.
struct Scene {
    nats: Nats,
    gateway: TestGateway,
    actor: String,
    provider: String,
}

impl Scene {
    async fn begin() -> Self {
        Self::on(Nats::start().await, json!({})).await
    }

    /// On a stream that survives its server.
    async fn on_files() -> Self {
        Self::on(Nats::start().await, json!({"storage": "file"})).await
    }

    async fn on(nats: Nats, changes: Value) -> Self {
        nats.create_stream("default", changes).await;
        Self {
            gateway: TestGateway::at(&nats.url()).await,
            nats,
            actor: keys::actor(),
            provider: keys::provider(),
        }
    }

    /// The two tokens of the subject on which the gateway keeps the link.
    fn home(&self) -> String {
        let triple = Triple {
            actor_id: self.actor.clone(),
            contract_id: "wasmcloud:keyvalue".to_owned(),
            link_name: "default".to_owned(),
        };
        Key::Link(triple).home()
    }

    /// The link as hosts write it.
    fn body(&self, value: &str, deleted: bool) -> Value {
        json!({
            "actor_id": self.actor, "contract_id": "wasmcloud:keyvalue", "deleted": deleted,
            "id": "fb30deff-bbe7-4a28-a525-e53ebd4e8228", "link_name": "default", "provider_id": self.provider,
            "values": {"value": value},
        })
    }

    async fn host_puts(&self, tokens: &str, value: &str) -> u64 {
        publish(
            &self.nats,
            "default",
            tokens,
            &self.body(value, false).to_string(),
        )
        .await
    }

    async fn host_deletes(&self, tokens: &str, value: &str) -> u64 {
        publish(&self.nats, "default", tokens, &self.body(value, true).to_string()).await
    }

    fn request(&self, value: &str) -> PutLinkDefinitionRequest {
        put_link(link(&self.actor, &self.provider, value))
    }

    /// A put with an id and, of a retry, the time since its first attempt.
    fn named(&self, value: &str, id: &str, age: Option<Duration>) -> PutLinkDefinitionRequest {
        PutLinkDefinitionRequest {
            request_id: id.to_owned(),
            retry_age: age.map(Into::into),
            ..self.request(value)
        }
    }

    async fn put(&self, request: PutLinkDefinitionRequest) -> Result<WriteResult, Told> {
        put(&self.gateway, request).await
    }

    async fn delete(&self) -> Result<WriteResult, Told> {
        let request = DeleteLinkDefinitionRequest {
            lattice: "default".to_owned(),
            actor_id: Some(self.actor.clone()),
            contract_id: Some("wasmcloud:keyvalue".to_owned()),
            ..DeleteLinkDefinitionRequest::default()
        };
        let answer = told(self.gateway.links().delete_link_definition(request).await)?;
        Ok(answer.result.unwrap())
    }

    /// The link's value, as the stream's leader tells now.
    async fn value(&self) -> Option<String> {
        self.value_by(Requirement::FullyConsistent(true)).await
    }

    /// The link's value, as the gateway has it at hand.
    async fn value_at_hand(&self) -> Option<String> {
        self.value_by(Requirement::MinimizeLatency(true)).await
    }

    async fn value_by(&self, requirement: Requirement) -> Option<String> {
        let request = GetLinkDefinitionRequest {
            lattice: "default".to_owned(),
            actor_id: Some(self.actor.clone()),
            contract_id: Some("wasmcloud:keyvalue".to_owned()),
            consistency: Some(Consistency {
                requirement: Some(requirement),
            }),
            ..GetLinkDefinitionRequest::default()
        };
        match told(self.gateway.links().get_link_definition(request).await) {
            Ok(answer) => answer.link_definition.unwrap().values.remove("value"),
            Err(told) => {
                assert_eq!(told.reason, ErrorReason::EntryNotFound);
                None
            }
        }
    }

    async fn restart(&mut self) {
        self.nats.down("KILL");
        self.nats.up().await;
        self.gateway = TestGateway::at(&self.nats.url()).await;
    }
}

async fn put(gateway: &TestGateway, request: PutLinkDefinitionRequest) -> Result<WriteResult, Told> {
    Ok(gateway.put(request).await?.result.unwrap())
}

fn sequence_of(result: &WriteResult) -> u64 {
    result.revision.unwrap().sequence
}

/// What became of a call: its outcome, whether something came after, and where it was applied.
fn told_of(result: &WriteResult) -> (Outcome, bool, u64) {
    (result.outcome(), result.superseded, sequence_of(result))
}

/// Publishes without headers, as hosts do, and waits until it is stored; gives its sequence.
async fn publish(nats: &Nats, lattice: &str, tokens: &str, body: &str) -> u64 {
    let subject = format!("lc.{lattice}.{tokens}");
    let answer = nats
        .client()
        .await
        .request(subject, body.to_owned().into())
        .await
        .unwrap();
    let acknowledged: Value = serde_json::from_slice(&answer.payload).unwrap();
    acknowledged["seq"]
        .as_u64()
        .unwrap_or_else(|| panic!("{acknowledged}"))
}

/// Overhears the requests to delete messages.
async fn overhear_deletes(nats: &Nats) -> Subscriber {
    let client = nats.client().await;
    let deletes = client.subscribe("$JS.API.STREAM.MSG.DELETE.>").await.unwrap();
    client.flush().await.unwrap();
    deletes
}

/// The next stream and sequence that somebody asked to delete.
async fn next_delete(deletes: &mut Subscriber) -> (String, u64) {
    let message = tokio::time::timeout(Duration::from_secs(5), deletes.next()).await;
    let message = message.expect("a delete is asked for").unwrap();
    let (_, stream) = message.subject.rsplit_once('.').unwrap();
    let asked: Value = serde_json::from_slice(&message.payload).unwrap();
    (stream.to_owned(), asked["seq"].as_u64().unwrap())
}

async fn describe(gateway: &TestGateway, lattice: &str) -> Lattice {
    let request = GetLatticeRequest {
        lattice: lattice.to_owned(),
    };
    let answer = told(gateway.lattices().get_lattice(request).await).unwrap();
    answer.lattice.unwrap()
}

#[tokio::test]
async fn a_put_outbids_a_hosts_link_and_its_copy_is_removed_by_sequence() {
    let scene = Scene::begin().await;
    let mut deletes = overhear_deletes(&scene.nats).await;
    assert_eq!(scene.host_puts(UUID, "host").await, 1);
    assert_eq!(scene.value().await.as_deref(), Some("host"));

    let result = scene.put(scene.request("gateway")).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 2));
    assert_eq!(scene.value().await.as_deref(), Some("gateway"));
    until("one message is left, and none was added", async || {
        (scene.nats.state("default").await == (1, 2)).then_some(())
    })
    .await;
    assert_eq!(
        next_delete(&mut deletes).await,
        ("LATTICECACHE_default".to_owned(), 1)
    );
    let left = scene
        .nats
        .last("default", &format!("lc.default.{}", scene.home()))
        .await
        .unwrap();
    assert_eq!(left.sequence, 2);
    assert_eq!(scene.value().await.as_deref(), Some("gateway"));
}

#[tokio::test]
async fn the_delete_of_a_hosts_link_leaves_a_tombstone_on_the_home_alone() {
    let scene = Scene::begin().await;
    scene.host_puts(UUID, "older").await;
    scene.host_puts(OTHER_UUID, "host").await;
    let result = scene.delete().await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 3));
    assert_eq!(scene.value().await, None);

    until("the tombstone is left alone", async || {
        (scene.nats.state("default").await == (1, 3)).then_some(())
    })
    .await;
    let left = scene
        .nats
        .last("default", &format!("lc.default.{}", scene.home()))
        .await
        .unwrap();
    let body: Value = serde_json::from_str(&left.body).unwrap();
    assert_eq!(
        (&body["deleted"], &body["actor_id"]),
        (&json!(true), &json!(scene.actor))
    );
    assert_eq!(scene.value().await, None);
    assert_eq!(
        scene.delete().await.unwrap_err().reason,
        ErrorReason::EntryNotFound
    );
}

#[tokio::test]
async fn the_write_after_a_host_overwrote_the_home_carries_the_record_on() {
    let mut scene = Scene::on_files().await;
    let old = scene.put(scene.named("old", "request-old", None)).await.unwrap();
    assert_eq!(told_of(&old), (Outcome::Applied, false, 1));
    scene.host_puts(&scene.home(), "host").await;
    assert_eq!(scene.value().await.as_deref(), Some("host"));

    // Only the mirror knows the call now.
    let again = scene.put(scene.named("old", "request-old", None)).await.unwrap();
    assert_eq!(told_of(&again), (Outcome::AlreadyApplied, true, 1));
    let reused = scene
        .put(scene.named("other", "request-old", None))
        .await
        .unwrap_err();
    assert_eq!(reused.reason, ErrorReason::RequestIdReused);

    let new = scene.put(scene.request("new")).await.unwrap();
    assert_eq!(told_of(&new), (Outcome::Applied, false, 3));
    // After a restart JetStream has forgotten the id, and this gateway never saw the call.
    scene.restart().await;
    for age in [None, Some(Duration::from_secs(30))] {
        let again = scene.put(scene.named("old", "request-old", age)).await.unwrap();
        assert_eq!(told_of(&again), (Outcome::AlreadyApplied, true, 1));
    }
    assert_eq!(scene.value().await.as_deref(), Some("new"));
    assert_eq!(scene.nats.state("default").await, (1, 3));
}

#[tokio::test]
async fn a_hosts_tombstone_on_the_home_deletes_the_link() {
    let scene = Scene::begin().await;
    scene
        .put(scene.named("gateway", "request-old", None))
        .await
        .unwrap();
    assert_eq!(scene.host_deletes(&scene.home(), "gateway").await, 2);
    assert_eq!(scene.value().await, None);
    assert_eq!(
        scene.delete().await.unwrap_err().reason,
        ErrorReason::EntryNotFound
    );
    let again = scene
        .put(scene.named("gateway", "request-old", None))
        .await
        .unwrap();
    assert_eq!(told_of(&again), (Outcome::AlreadyApplied, true, 1));
    assert_eq!(scene.value().await, None);

    let mut create = scene.request("created");
    create.precondition = Some(Precondition::MustNotExist(true));
    assert_eq!(
        told_of(&scene.put(create).await.unwrap()),
        (Outcome::Applied, false, 3)
    );
    assert_eq!(scene.value().await.as_deref(), Some("created"));
}

#[tokio::test]
async fn a_home_that_a_host_has_beaten_is_kept_and_put_again_when_the_host_is_outbid() {
    let scene = Scene::begin().await;
    scene
        .put(scene.named("first", "request-first", None))
        .await
        .unwrap();
    scene.host_puts(UUID, "host").await;
    assert_eq!(scene.value().await.as_deref(), Some("host"));
    let result = scene.put(scene.request("second")).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 3));
    until("the host's copy is gone", async || {
        (scene.nats.state("default").await == (1, 3)).then_some(())
    })
    .await;
    let again = scene
        .put(scene.named("first", "request-first", None))
        .await
        .unwrap();
    assert_eq!(told_of(&again), (Outcome::AlreadyApplied, true, 1));
    assert_eq!(scene.value().await.as_deref(), Some("second"));
}

#[tokio::test]
async fn where_the_stream_denies_deletes_stale_copies_are_counted_and_left() {
    let scene = Scene::on(Nats::start().await, json!({"deny_delete": true})).await;
    // Opened later, so that its sweep comes later too.
    scene.nats.create_stream("swept", json!({})).await;
    let mut deletes = overhear_deletes(&scene.nats).await;
    let body = scene.body("host", false).to_string();
    for lattice in ["default", "swept"] {
        publish(&scene.nats, lattice, UUID, &body).await;
        publish(&scene.nats, lattice, OTHER_UUID, &body).await;
        let mut request = scene.request("gateway");
        request.lattice = lattice.to_owned();
        assert_eq!(
            told_of(&scene.put(request).await.unwrap()),
            (Outcome::Applied, false, 3)
        );
    }
    until("the other lattice was swept", async || {
        (scene.nats.state("swept").await == (1, 3)).then_some(())
    })
    .await;
    for _copy in 0..2 {
        assert_eq!(next_delete(&mut deletes).await.0, "LATTICECACHE_swept");
    }
    assert_eq!(scene.nats.state("default").await, (3, 3));
    assert_eq!(describe(&scene.gateway, "default").await.stale_copies, 2);
    assert_eq!(describe(&scene.gateway, "swept").await.stale_copies, 0);
    assert_eq!(scene.value().await.as_deref(), Some("gateway"));
}

#[tokio::test]
async fn what_is_removed_behind_the_gateways_back_is_noticed_in_time() {
    removals_are_noticed(Nats::start().await).await;
}

#[tokio::test]
async fn what_is_removed_behind_the_gateways_back_is_noticed_in_time_without_advisories_too() {
    const NO_ADVISORIES: &str = r#"
        authorization { users: [
            { user: gateway, password: secret, permissions: { subscribe: { deny: ["$JS.EVENT.>"] } } }
        ] }
        no_auth_user: gateway
    "#;
    removals_are_noticed(Nats::start_with(NO_ADVISORIES).await).await;
}

async fn removals_are_noticed(nats: Nats) {
    let scene = Scene::on(nats, json!({})).await;
    let home = format!("lc.default.{}", scene.home());
    scene.put(scene.request("gateway")).await.unwrap();
    let host = scene.host_puts(UUID, "host").await;
    let malformed = publish(&scene.nats, "default", OTHER_UUID, "{").await;
    assert_eq!(scene.value().await.as_deref(), Some("host"));
    assert_eq!(describe(&scene.gateway, "default").await.malformed_count, 1);

    for sequence in [host, malformed] {
        succeed(
            &scene.nats,
            "STREAM.MSG.DELETE.LATTICECACHE_default",
            json!({"seq": sequence}),
        )
        .await;
    }
    noticed("the deletion of a message", async || {
        let is_seen = scene.value_at_hand().await.as_deref() == Some("gateway");
        is_seen && describe(&scene.gateway, "default").await.malformed_count == 0
    })
    .await;

    succeed(
        &scene.nats,
        "STREAM.PURGE.LATTICECACHE_default",
        json!({"filter": home}),
    )
    .await;
    noticed("the purge of a subject", async || {
        scene.value_at_hand().await.is_none()
    })
    .await;

    scene.put(scene.request("again")).await.unwrap();
    assert_eq!(scene.value_at_hand().await.as_deref(), Some("again"));
    succeed(&scene.nats, "STREAM.PURGE.LATTICECACHE_default", json!({})).await;
    noticed("the purge of the stream", async || {
        let lattice = describe(&scene.gateway, "default").await;
        scene.value_at_hand().await.is_none() && lattice.link_definition_count == 0
    })
    .await;
    assert_eq!(
        scene.delete().await.unwrap_err().reason,
        ErrorReason::EntryNotFound
    );
    scene.put(scene.request("once more")).await.unwrap();
    assert_eq!(scene.value_at_hand().await.as_deref(), Some("once more"));
}

#[tokio::test]
async fn a_fully_consistent_read_and_a_write_see_a_removal_at_once() {
    let scene = Scene::begin().await;
    for number in 0..20 {
        let put = scene.put(scene.request("value")).await.unwrap();
        let (call, request) = match number % 2 {
            0 => ("STREAM.PURGE.LATTICECACHE_default", json!({})),
            _ => (
                "STREAM.MSG.DELETE.LATTICECACHE_default",
                json!({"seq": sequence_of(&put)}),
            ),
        };
        succeed(&scene.nats, call, request).await;
        match number % 4 {
            0 | 1 => assert_eq!(scene.value().await, None, "{call}"),
            2 => assert_eq!(
                scene.delete().await.unwrap_err().reason,
                ErrorReason::EntryNotFound
            ),
            _ => {
                let mut create = scene.request("anew");
                create.precondition = Some(Precondition::MustNotExist(true));
                assert_eq!(scene.put(create).await.unwrap().outcome(), Outcome::Applied);
            }
        }
    }
}

async fn succeed(nats: &Nats, call: &str, request: Value) {
    let answer = nats.api(call, request).await;
    assert_eq!(answer["success"], true, "{answer}");
}

async fn noticed(what: &str, is_noticed: impl AsyncFn() -> bool) {
    let began = Instant::now();
    until(what, async || is_noticed().await.then_some(())).await;
    assert!(
        began.elapsed() <= NOTICED_WITHIN,
        "{what} took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn malformed_entries_are_listed_with_subject_sequence_and_reason_and_harm_no_others() {
    let scene = Scene::begin().await;
    let body = scene.body("host", false);
    let without = |member: &str| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove(member);
        body.to_string()
    };
    let long_name = body
        .to_string()
        .replace(r#""value""#, &format!("{:?}", "k".repeat(256)));
    let malformed = [
        ("linkdefs.not-json", "{".to_owned(), "not JSON"),
        ("linkdefs.list", format!("[{body}]"), "object"),
        ("linkdefs.no-actor", without("actor_id"), "actor_id"),
        ("linkdefs.no-provider", without("provider_id"), "provider_id"),
        ("linkdefs.no-values", without("values"), "values"),
        ("linkdefs.long-name", long_name, "255"),
        ("linkdefs.x.y", body.to_string(), "two tokens"),
        ("linkdefs", body.to_string(), "two tokens"),
        (
            "ocimap.ZWNobw",
            r#"{"oci_url":"echo","public_key":"M"}"#.to_owned(),
            "type",
        ),
        ("refmap.ZWNobw", r#"{"oci_url":"echo"}"#.to_owned(), "public_key"),
        ("claims.M", r#"{"name":"no alias"}"#.to_owned(), "call_alias"),
    ];
    let mut expected = Vec::new();
    for (tokens, body, reason) in &malformed {
        let sequence = publish(&scene.nats, "default", tokens, body).await;
        expected.push((format!("lc.default.{tokens}"), sequence, *reason));
    }
    scene.host_puts(UUID, "host").await;
    assert_eq!(scene.value().await.as_deref(), Some("host"));

    let lattice = describe(&scene.gateway, "default").await;
    assert_eq!(usize::try_from(lattice.malformed_count).unwrap(), expected.len());
    assert_eq!(lattice.malformed.len(), expected.len());
    for (entry, (subject, sequence, reason)) in lattice.malformed.iter().zip(&expected) {
        assert_eq!((&entry.subject, entry.sequence), (subject, *sequence));
        assert!(entry.reason.contains(reason), "{subject}: {}", entry.reason);
    }
    assert_eq!(
        (
            lattice.claims_count,
            lattice.link_definition_count,
            lattice.oci_reference_count
        ),
        (0, 1, 0)
    );

    // A message that a host can use takes the place of one that it could not.
    scene.host_puts("linkdefs.not-json", "mended").await;
    assert_eq!(scene.value().await.as_deref(), Some("mended"));
    let lattice = describe(&scene.gateway, "default").await;
    assert_eq!(
        usize::try_from(lattice.malformed_count).unwrap(),
        expected.len() - 1
    );
    assert_eq!(lattice.malformed[0].sequence, 2);
}

#[tokio::test]
async fn a_retry_that_may_have_come_before_a_hosts_write_is_not_applied_over_it() {
    for on_home in [true, false] {
        let scene = Scene::begin().await;
        let place = match on_home {
            true => scene.home(),
            false => UUID.to_owned(),
        };
        scene.host_puts(&place, "host").await;
        let retry = scene.named("late", "request-late", Some(Duration::from_secs(30)));
        let told = scene.put(retry).await.unwrap_err();
        assert_eq!(told.reason, ErrorReason::OutcomeSuperseded, "{place}");
        assert_eq!(scene.value().await.as_deref(), Some("host"));
        assert_eq!(scene.nats.state("default").await, (1, 1));

        // The same call that says it is no retry is a new one.
        let first = scene.named("late", "request-late", None);
        assert_eq!(
            told_of(&scene.put(first).await.unwrap()),
            (Outcome::Applied, false, 2),
            "{place}"
        );
    }
}

#[tokio::test]
async fn a_retry_first_attempted_well_after_a_hosts_write_goes_on() {
    let scene = Scene::begin().await;
    scene.host_puts(&scene.home(), "host").await;
    let began = Instant::now();
    // The clocks of hosts and clients are given 2 s.
    let result = until("the first attempt was clearly later", async || {
        let retry = scene.named("later", "request-later", Some(Duration::ZERO));
        match scene.put(retry).await {
            Ok(result) => Some(result),
            Err(told) => {
                assert_eq!(told.reason, ErrorReason::OutcomeSuperseded);
                None
            }
        }
    })
    .await;
    assert!(
        began.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(told_of(&result), (Outcome::Applied, false, 2));
    assert_eq!(scene.value().await.as_deref(), Some("later"));
}

#[tokio::test]
async fn a_retry_of_an_entry_of_which_there_is_nothing_goes_on() {
    let scene = Scene::begin().await;
    let retry = scene.named("only", "request-only", Some(Duration::from_mins(5)));
    assert_eq!(
        told_of(&scene.put(retry).await.unwrap()),
        (Outcome::Applied, false, 1)
    );
}

#[tokio::test]
async fn a_retry_goes_on_over_a_hosts_link_while_the_home_still_holds_the_whole_record() {
    let scene = Scene::begin().await;
    scene.put(scene.request("gateway")).await.unwrap();
    // Time itself is under test: the record begins with the entry, and the clocks' margin is 2 s.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let first_attempt = Instant::now();
    scene.host_puts(UUID, "host").await;
    let retry = scene.named("late", "request-late", Some(first_attempt.elapsed()));
    assert_eq!(
        told_of(&scene.put(retry).await.unwrap()),
        (Outcome::Applied, false, 3)
    );
    assert_eq!(scene.value().await.as_deref(), Some("late"));
}

#[tokio::test]
async fn a_retry_goes_on_over_a_hosts_write_where_the_gateway_has_seen_all_since_its_first_attempt() {
    let scene = Scene::begin().await;
    scene.put(scene.request("gateway")).await.unwrap();
    // Time itself is under test: the clocks' margin is 2 s.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let first_attempt = Instant::now();
    scene.host_puts(&scene.home(), "host").await;
    let retry = || scene.named("late", "request-late", Some(first_attempt.elapsed()));

    let newcomer = TestGateway::at(&scene.nats.url()).await;
    let told = put(&newcomer, retry()).await.unwrap_err();
    assert_eq!(told.reason, ErrorReason::OutcomeSuperseded);

    let result = scene.put(retry()).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 3));
    assert_eq!(scene.value().await.as_deref(), Some("late"));
}

#[tokio::test]
async fn a_retry_whose_record_a_host_has_cost_is_told_by_jetstream_until_that_forgets() {
    let mut scene = Scene::on_files().await;
    scene.put(scene.named("old", "request-old", None)).await.unwrap();
    scene.host_puts(&scene.home(), "host").await;
    // A gateway that has never seen the record.
    let other = TestGateway::at(&scene.nats.url()).await;
    let retry = scene.named("old", "request-old", Some(Duration::from_secs(30)));
    let again = put(&other, retry.clone()).await.unwrap();
    assert_eq!(told_of(&again), (Outcome::AlreadyApplied, true, 1));

    scene.restart().await;
    assert_eq!(
        scene.put(retry).await.unwrap_err().reason,
        ErrorReason::OutcomeSuperseded
    );
    assert_eq!(scene.value().await.as_deref(), Some("host"));
    assert_eq!(scene.nats.state("default").await, (1, 2));
}

#[tokio::test]
async fn a_put_mends_what_no_host_can_use_on_its_home() {
    let scene = Scene::begin().await;
    publish(&scene.nats, "default", &scene.home(), "{").await;
    assert_eq!(scene.value().await, None);
    let result = scene.put(scene.request("repaired")).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 2));
    assert_eq!(scene.value().await.as_deref(), Some("repaired"));
    assert_eq!(describe(&scene.gateway, "default").await.malformed_count, 0);
}

#[tokio::test]
async fn a_put_takes_its_home_back_from_another_link() {
    let scene = Scene::begin().await;
    scene
        .put(scene.named("gateway", "request-old", None))
        .await
        .unwrap();
    let mut other = scene.body("host", false);
    other["link_name"] = json!("other");
    publish(&scene.nats, "default", &scene.home(), &other.to_string()).await;
    assert_eq!(scene.value().await, None);
    let result = scene.put(scene.request("back")).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 3));
    assert_eq!(scene.value().await.as_deref(), Some("back"));
}

#[tokio::test]
async fn a_tombstone_without_values_deletes_the_link_as_it_does_for_hosts() {
    let scene = Scene::begin().await;
    scene.host_puts(UUID, "host").await;
    let mut tombstone = scene.body("host", true);
    tombstone.as_object_mut().unwrap().remove("values");
    publish(&scene.nats, "default", UUID, &tombstone.to_string()).await;
    scene.host_puts(OTHER_UUID, "host").await;
    publish(&scene.nats, "default", "linkdefs.third", &tombstone.to_string()).await;
    assert_eq!(scene.value().await, None);
}

#[tokio::test]
async fn a_put_mends_a_value_that_is_no_text() {
    let scene = Scene::begin().await;
    let mut body = scene.body("host", false);
    body["values"] = json!({"value": 8080});
    publish(&scene.nats, "default", UUID, &body.to_string()).await;
    assert_eq!(scene.value().await.as_deref(), Some("8080"));
    let result = scene.put(scene.request("8080")).await.unwrap();
    assert_eq!(told_of(&result), (Outcome::Applied, false, 2));
}

#[tokio::test]
async fn a_retry_is_not_applied_over_what_was_put_after_a_purge() {
    let mut scene = Scene::on_files().await;
    scene.put(scene.named("old", "request-old", None)).await.unwrap();
    succeed(&scene.nats, "STREAM.PURGE.LATTICECACHE_default", json!({})).await;
    until("the purge is noticed", async || {
        scene.value_at_hand().await.is_none().then_some(())
    })
    .await;
    scene.put(scene.request("new")).await.unwrap();
    scene.restart().await;
    let retry = scene.named("old", "request-old", Some(Duration::from_secs(30)));
    let answer = scene.put(retry).await;
    assert_eq!(scene.value().await.as_deref(), Some("new"), "{answer:?}");
}

#[tokio::test]
async fn a_hosts_link_without_a_name_can_be_addressed() {
    let scene = Scene::begin().await;
    let mut body = scene.body("host", false);
    body["link_name"] = json!("");
    publish(&scene.nats, "default", UUID, &body.to_string()).await;
    let delete = DeleteLinkDefinitionRequest {
        lattice: "default".to_owned(),
        actor_id: Some(scene.actor.clone()),
        contract_id: Some("wasmcloud:keyvalue".to_owned()),
        link_name: Some(String::new()),
        ..DeleteLinkDefinitionRequest::default()
    };
    let named = DeleteLinkDefinitionRequest {
        link_name: None,
        ..delete.clone()
    };
    let told_by = async |delete| told(scene.gateway.links().delete_link_definition(delete).await);
    assert_eq!(
        told_by(named).await.unwrap_err().reason,
        ErrorReason::EntryNotFound
    );
    assert!(told_by(delete).await.is_ok());
}
