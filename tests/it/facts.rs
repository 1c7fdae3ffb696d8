//! What JetStream does, as far as the write protocol rests on it, told by the server that is tested with. `make compat`
//! asks every version of nats-server that the gateway is meant for.

use std::{
    slice,
    sync::{Arc, Weak},
    time::Duration,
};

use async_nats::{HeaderMap, Request, client::RequestErrorKind};
use futures_util::{StreamExt, future::join_all};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::Mutex, time::timeout};

use crate::harness::{Nats, until};
use Answer::{Duplicate, NoResponders, Refused, Stored};

const MESSAGE_NOT_FOUND: u64 = 10037;
const SEQUENCE_NOT_FOUND: u64 = 10043;
const INVALID_CONFIGURATION: u64 = 10052;
const OTHER_CONFIGURATION: u64 = 10058;
const STREAM_NOT_FOUND: u64 = 10059;
const OTHER_STREAM: u64 = 10060;
const WRONG_LAST_SEQUENCE: u64 = 10071;
const INVALID_ROLLUP: u64 = 10111;
const ID_IN_FLIGHT: u64 = 10158;
const SUBJECT_IN_FLIGHT: u64 = 10164;

const GIVES_UP: Duration = Duration::from_millis(100);

/// Makes each a test on a stream with one replica, and on one with three.
macro_rules! with_one_and_three_replicas {
    ($($fact:ident,)*) => {
        mod one_replica {
            $(#[tokio::test]
            async fn $fact() {
                let server = super::Nats::start().await;
                let stream = super::Stream::create(std::slice::from_ref(&server), stringify!($fact)).await;
                super::$fact(stream).await;
            })*
        }

        mod three_replicas {
            $(#[tokio::test]
            async fn $fact() {
                let servers = super::shared_cluster().await;
                let stream = super::Stream::create(&servers[..], stringify!($fact)).await;
                super::$fact(stream).await;
            })*
        }
    };
}

with_one_and_three_replicas! {
    a_deletion_by_sequence_fails_harmlessly_once_that_is_overwritten,
    a_duplicate_is_told_with_the_sequence_of_the_original,
    a_failed_expectation_does_not_burn_the_id,
    a_probe_tells_whether_an_id_is_known_and_changes_nothing,
    a_publish_for_another_stream_is_refused,
    a_publish_that_no_stream_takes_has_no_responders,
    a_publish_that_was_given_up_on_lands_later_but_over_nothing_newer,
    a_retry_of_what_landed_is_told_by_its_id_or_by_its_expectation,
    a_stream_is_accepted_again_as_hosts_create_it_and_not_otherwise,
    a_stream_is_found_by_a_subject_that_one_of_its_own_overlaps,
    an_update_of_no_stream_judges_the_configuration_and_makes_nothing,
    a_stream_made_again_begins_at_one_and_knows_no_id,
    an_id_is_known_to_the_whole_stream_and_to_no_other,
    an_id_made_of_the_content_loses_a_value_that_comes_back,
    consumers_are_told_of_neither_deletions_nor_purges,
    ids_are_compared_byte_by_byte,
    ids_survive_deletions_and_purges_and_expectations_do_not,
    of_copies_at_once_one_lands,
    of_publishes_with_the_same_expectation_one_lands,
    the_time_of_the_leader_is_told,
}

async fn an_id_is_known_to_the_whole_stream_and_to_no_other(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "id").await, Stored(1));
    assert_eq!(stream.put("b", "id").await, Duplicate(1));
    assert_eq!(stream.standing("b").await, None);
    let other = Stream::create(stream.servers, "other").await;
    assert_eq!(other.put("a", "id").await, Stored(1));
    other.api("STREAM.DELETE", Value::Null).await;
}

async fn a_stream_is_found_by_a_subject_that_one_of_its_own_overlaps(stream: Stream<'_>) {
    let on = async |subject: &str| {
        let names = stream.servers[0]
            .api("STREAM.NAMES", json!({"subject": subject}))
            .await;
        names["streams"]
            .as_array()
            .is_some_and(|names| names.contains(&json!(stream.name())))
    };
    let lattice = stream.lattice;
    for (subject, is_found) in [
        (format!("lc.{lattice}.claims.M"), true),
        ("lc.>".to_owned(), true),
        (format!("*.{lattice}.*.>"), true),
        (format!("lc.{lattice}"), false),
        (format!("lc.{lattice}2.>"), false),
        ("wasmbus.evt.*.>".to_owned(), false),
    ] {
        assert_eq!(on(&subject).await, is_found, "{subject}");
    }
}

async fn an_update_of_no_stream_judges_the_configuration_and_makes_nothing(stream: Stream<'_>) {
    let name = format!("rehearsal-of-{}", stream.lattice);
    let rehearse = async |subject: &str| {
        let config = json!({"name": name, "subjects": [subject], "retention": "limits", "storage": "memory"});
        let answer = stream.servers[0]
            .api(&format!("STREAM.UPDATE.{name}"), config)
            .await;
        answer["error"]["err_code"].as_u64()
    };
    assert_eq!(rehearse("rehearsed.>").await, Some(STREAM_NOT_FOUND));
    // Also where another stream takes it, which is told only of a creation.
    let taken = stream.subject("claims.>");
    assert_eq!(rehearse(&taken).await, Some(STREAM_NOT_FOUND));
    let of_many_tenants = match stream.version() {
        (2, ..11) => STREAM_NOT_FOUND,
        _ => INVALID_CONFIGURATION,
    };
    assert_eq!(rehearse("*.wasmbus.evt.*.>").await, Some(of_many_tenants));
    let names = stream.servers[0]
        .api("STREAM.NAMES", json!({"subject": "rehearsed.>"}))
        .await;
    assert_eq!(names["total"], 0);
}

async fn ids_are_compared_byte_by_byte(stream: Stream<'_>) {
    let send = async |headers: &[(&'static str, &str)]| stream.send("a", headers, "").await;
    assert_eq!(send(&[("Nats-Msg-Id", "id")]).await, Stored(1));
    assert_eq!(send(&[("Nats-Msg-Id", "ID")]).await, Stored(2));
    assert_eq!(send(&[("Nats-Msg-Id", "id")]).await, Duplicate(1));
    assert_eq!(send(&[("nats-msg-id", "id")]).await, Stored(3), "another header");
}

async fn a_duplicate_is_told_with_the_sequence_of_the_original(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "old").await, Stored(1));
    assert_eq!(stream.put("a", "new").await, Stored(2));
    assert_eq!(stream.put("a", "old").await, Duplicate(1));
    let overwritten = stream.api("STREAM.MSG.GET", json!({"seq": 1})).await;
    assert_eq!(overwritten["error"]["err_code"], MESSAGE_NOT_FOUND);
    assert_eq!(stream.standing("a").await.as_deref(), Some("new"));
}

async fn an_id_made_of_the_content_loses_a_value_that_comes_back(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "hash of A").await, Stored(1));
    assert_eq!(stream.put("a", "hash of B").await, Stored(2));
    assert_eq!(stream.put("a", "hash of A").await, Duplicate(1));
    assert_eq!(stream.standing("a").await.as_deref(), Some("hash of B"));
}

async fn a_retry_of_what_landed_is_told_by_its_id_or_by_its_expectation(stream: Stream<'_>) {
    assert_eq!(stream.put_over(0, "a", "id").await, Stored(1));
    let by_id = Duplicate(1);
    let by_expectation = Refused(WRONG_LAST_SEQUENCE);
    let (of_the_past, of_the_future) = match (stream.is_replicated(), stream.version()) {
        (false, (2, 12..)) => (by_expectation, by_expectation),
        (true, (2, ..11)) => (by_expectation, by_id),
        _ => (by_id, by_id),
    };
    assert_eq!(stream.put_over(0, "a", "id").await, of_the_past);
    assert_eq!(stream.put_over(999, "a", "id").await, of_the_future);
    assert_eq!(stream.put_over(1, "a", "id").await, by_id);
}

async fn a_failed_expectation_does_not_burn_the_id(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "first").await, Stored(1));
    let refused = Refused(WRONG_LAST_SEQUENCE);
    assert_eq!(stream.put_over(999, "a", "id").await, refused);
    let answer = stream.put_over(1, "a", "id").await;
    assert!(
        answer == Stored(2) || stream.may_have_kept_the_id(&answer),
        "{answer:?}"
    );
}

async fn of_publishes_with_the_same_expectation_one_lands(stream: Stream<'_>) {
    let ids = (0..50).map(|number| number.to_string()).collect::<Vec<_>>();
    let answers = join_all(ids.iter().map(|id| stream.put_over(0, "a", id))).await;
    let (landed, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| *answer == Stored(1));
    assert_eq!(landed.len(), 1);
    for answer in refused {
        let in_flight = stream.is_replicated() && answer == Refused(SUBJECT_IN_FLIGHT);
        assert!(in_flight || answer == Refused(WRONG_LAST_SEQUENCE), "{answer:?}");
    }
    assert_eq!(stream.state().await, (1, 1));
}

async fn of_copies_at_once_one_lands(stream: Stream<'_>) {
    let answers = join_all((0..50).map(|_| stream.put("a", "id"))).await;
    let (landed, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| *answer == Stored(1));
    assert_eq!(landed.len(), 1);
    for answer in others {
        let in_flight = stream.is_replicated() && answer == stream.id_in_flight();
        assert!(in_flight || answer == Duplicate(1), "{answer:?}");
    }
    assert_eq!(stream.state().await, (1, 1));
}

async fn ids_survive_deletions_and_purges_and_expectations_do_not(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "deleted").await, Stored(1));
    stream.api("STREAM.MSG.DELETE", json!({"seq": 1})).await;
    assert_eq!(stream.put("a", "deleted").await, Duplicate(1));

    let refused = Refused(WRONG_LAST_SEQUENCE);
    assert_eq!(stream.put_over(1, "a", "over the deleted").await, refused);
    assert_eq!(stream.put_over(0, "a", "purged").await, Stored(2));
    let subject = json!({"filter": stream.subject("a")});
    stream.api("STREAM.PURGE", subject).await;
    assert_eq!(stream.put("a", "purged").await, Duplicate(2));

    assert_eq!(stream.put_over(0, "a", "purged with all").await, Stored(3));
    stream.api("STREAM.PURGE", Value::Null).await;
    assert_eq!(stream.put("a", "purged with all").await, Duplicate(3));
    assert_eq!(stream.state().await, (0, 3));
    assert_eq!(stream.put_over(0, "a", "last").await, Stored(4));
}

async fn a_stream_made_again_begins_at_one_and_knows_no_id(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "id").await, Stored(1));
    stream.api("STREAM.DELETE", Value::Null).await;
    let again = Stream::create(stream.servers, stream.lattice).await;
    assert_eq!(again.put("a", "id").await, Stored(1));
}

async fn a_probe_tells_whether_an_id_is_known_and_changes_nothing(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "overwritten").await, Stored(1));
    assert_eq!(stream.put("a", "standing").await, Stored(2));
    assert_eq!(stream.probe("a", "overwritten").await, Duplicate(1));
    assert_eq!(stream.probe("a", "standing").await, Duplicate(2));
    assert_eq!(stream.probe("a", "unknown").await, Refused(INVALID_ROLLUP));
    assert_eq!(stream.state().await, (1, 2));
    let answer = stream.put("a", "unknown").await;
    assert!(
        answer == Stored(3) || stream.may_have_kept_the_id(&answer),
        "{answer:?}"
    );

    stream.api("STREAM.PURGE", Value::Null).await;
    assert_eq!(stream.probe("a", "standing").await, Duplicate(2));
}

async fn a_publish_for_another_stream_is_refused(stream: Stream<'_>) {
    let headers = [("Nats-Msg-Id", "id"), ("Nats-Expected-Stream", "OTHER")];
    assert_eq!(stream.send("a", &headers, "").await, Refused(OTHER_STREAM));
    assert_eq!(stream.put("a", "id").await, Stored(1));
}

async fn a_publish_that_no_stream_takes_has_no_responders(stream: Stream<'_>) {
    stream.api("STREAM.DELETE", Value::Null).await;
    until("the stream is gone from all servers", async || {
        (stream.put("a", "id").await == NoResponders).then_some(())
    })
    .await;
    // Unless somebody listens: then nobody tells.
    let mut listener = stream.client.subscribe(stream.subject(">")).await.unwrap();
    until("a publish goes to the listener", async || {
        given_up(stream.put("a", "id")).await.then_some(())
    })
    .await;
    listener.next().await.unwrap();
}

async fn a_publish_that_was_given_up_on_lands_later_but_over_nothing_newer(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "first").await, Stored(1));
    let leader = stream.leader().await;
    let connections = [stream.again().await, stream.again().await];
    leader.hold().await;
    for (id, connection) in ["this", "that"].into_iter().zip(&connections) {
        assert!(given_up(connection.put_over(1, "a", id)).await);
    }
    leader.release();
    until("one lands", async || {
        (stream.state().await == (1, 2)).then_some(())
    })
    .await;
    for (id, connection) in ["behind this", "behind that"].into_iter().zip(&connections) {
        let refused = Refused(WRONG_LAST_SEQUENCE);
        assert_eq!(connection.put_over(1, "a", id).await, refused);
    }
    assert_eq!(stream.state().await, (1, 2), "the other was refused");
    let landed = stream.standing("a").await.unwrap();
    assert_eq!(stream.put("a", &landed).await, Duplicate(2));
}

async fn a_deletion_by_sequence_fails_harmlessly_once_that_is_overwritten(stream: Stream<'_>) {
    assert_eq!(stream.put("a", "old").await, Stored(1));
    assert_eq!(stream.put("a", "new").await, Stored(2));
    let deletion = stream.api("STREAM.MSG.DELETE", json!({"seq": 1})).await;
    assert_eq!(deletion["error"]["err_code"], SEQUENCE_NOT_FOUND);
    assert_eq!(stream.standing("a").await.as_deref(), Some("new"));
    assert_eq!(stream.state().await, (1, 2));
}

async fn the_time_of_the_leader_is_told(stream: Stream<'_>) {
    let before = OffsetDateTime::now_utc();
    let told = stream.info().await["ts"].as_str().unwrap().to_owned();
    let told = OffsetDateTime::parse(&told, &Rfc3339).unwrap();
    assert!(before <= told && told <= OffsetDateTime::now_utc(), "{told}");
}

async fn a_stream_is_accepted_again_as_hosts_create_it_and_not_otherwise(stream: Stream<'_>) {
    let mut config = stream.info().await["config"].clone();
    let replicas = json!({"num_replicas": stream.servers.len()});
    let again = stream.servers[0].create_stream(stream.lattice, replicas).await;
    assert_eq!(again["config"], config);
    config["max_msgs_per_subject"] = json!(2);
    let otherwise = stream.api("STREAM.CREATE", config).await;
    assert_eq!(otherwise["error"]["err_code"], OTHER_CONFIGURATION);
}

async fn consumers_are_told_of_neither_deletions_nor_purges(stream: Stream<'_>) {
    let deliver_to = format!("deliver.{}", stream.lattice);
    let mut delivered = stream.client.subscribe(deliver_to.clone()).await.unwrap();
    let config = json!({"deliver_subject": deliver_to, "deliver_policy": "all", "ack_policy": "none"});
    let consumer = json!({"stream_name": stream.name(), "config": config});
    stream.api("CONSUMER.CREATE", consumer).await;
    for (number, id) in ["deleted", "purged", "standing"].into_iter().enumerate() {
        stream.put("a", id).await;
        assert_eq!(delivered.next().await.unwrap().payload, id);
        match number {
            0 => drop(stream.api("STREAM.MSG.DELETE", json!({"seq": 1})).await),
            _ => drop(stream.api("STREAM.PURGE", Value::Null).await),
        }
    }
}

/// The leader checks it when it proposes the publish, and does not look again when that is applied.
#[tokio::test]
async fn in_a_cluster_an_expectation_may_hold_though_a_purge_comes_first() {
    let servers = shared_cluster().await;
    let stream = Stream::create(&servers[..], "purged").await;
    let mut attempts = 0..;
    until("a publish lands over what was purged before it", async || {
        let attempt = attempts.next()?;
        let Stored(sequence) = stream.put("a", &format!("before {attempt}")).await else {
            return None;
        };
        let purge = stream.api("STREAM.PURGE", Value::Null);
        let publish = async {
            // For long enough that the purge is proposed, and not so long that it is applied.
            for _ in 0..attempt % 8 {
                stream.standing("a").await;
            }
            stream.put_over(sequence, "a", &format!("over {attempt}")).await
        };
        let (purge, publish) = tokio::join!(purge, publish);
        // A purge that came second would have removed it.
        let stands = stream.standing("a").await.is_some();
        (purge["purged"] == 1 && matches!(publish, Stored(_)) && stands).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restart_forgets_the_ids_of_what_was_overwritten() {
    let mut server = Nats::start().await;
    let stream = Stream::create_in(slice::from_ref(&server), "default", "file").await;
    assert_eq!(stream.put("a", "old").await, Stored(1));
    assert_eq!(stream.put("a", "new").await, Stored(2));
    server.down("KILL");
    server.up().await;
    let stream = Stream::at(slice::from_ref(&server), "default").await;
    assert_eq!(stream.put("a", "new").await, Duplicate(2));
    assert_eq!(stream.put("a", "old").await, Stored(3), "an old value came back");
}

#[tokio::test]
async fn a_memory_stream_ends_with_its_only_server_and_sequences_mean_nothing_to_the_next_one() {
    let mut server = Nats::start().await;
    let stream = Stream::create(slice::from_ref(&server), "default").await;
    assert_eq!(stream.put("a", "before").await, Stored(1));
    server.down("TERM");
    server.up().await;
    let stream = Stream::at(slice::from_ref(&server), "default").await;
    assert_eq!(stream.put("a", "id").await, NoResponders);
    assert_eq!(stream.info().await["error"]["err_code"], STREAM_NOT_FOUND);
    let stream = Stream::create(slice::from_ref(&server), "default").await;
    assert_eq!(stream.put_over(0, "a", "another writer's").await, Stored(1));
    assert_eq!(stream.put_over(1, "a", "from before").await, Stored(2));
}

#[tokio::test]
async fn a_leader_knows_ids_of_what_was_overwritten_unless_it_restarted() {
    let mut servers = Nats::start_cluster().await;
    let stream = Stream::create_in(&servers, "default", "file").await;
    assert_eq!(stream.put("a", "old").await, Stored(1));
    assert_eq!(stream.put("a", "new").await, Stored(2));
    stream.change_leader().await;
    assert_eq!(stream.put("a", "old").await, Duplicate(1));

    let leader = stream.leader().await.name().to_owned();
    let followers = servers.iter_mut().filter(|server| server.name() != leader);
    join_all(followers.map(async |server| {
        server.down("KILL");
        server.up().await;
    }))
    .await;
    let stream = Stream::at(&servers, "default").await;
    until("the replicas are current", async || {
        let info = stream.info().await;
        let replicas = info["cluster"]["replicas"].as_array()?;
        replicas
            .iter()
            .all(|replica| replica["current"] == true)
            .then_some(())
    })
    .await;
    stream.change_leader().await;
    assert_eq!(stream.put("a", "new").await, Duplicate(2));
    assert_eq!(stream.put("a", "old").await, Stored(3), "an old value came back");
}

#[tokio::test]
async fn a_memory_stream_whose_servers_all_restarted_is_empty_and_tells_the_same_creation_time() {
    let mut servers = Nats::start_cluster().await;
    let stream = Stream::create(&servers, "default").await;
    assert_eq!(stream.put("a", "before").await, Stored(1));
    assert_eq!(stream.put("a", "before too").await, Stored(2));
    let created = stream.info().await["created"].clone();
    for server in &mut servers {
        server.down("KILL");
    }
    join_all(servers.iter_mut().map(Nats::up)).await;
    let stream = Stream::at(&servers, "default").await;
    stream.leader().await;
    assert_eq!(stream.info().await["created"], created);
    until("the stream takes publishes", async || {
        (stream.put_over(0, "a", "after").await != NoResponders).then_some(())
    })
    .await;
    assert_eq!(stream.state().await, (1, 1));
}

#[tokio::test]
async fn a_stream_without_a_leader_has_no_responders() {
    let mut servers = Nats::start_cluster().await;
    let stream = Stream::create(&servers, "default").await;
    let leader = stream.leader().await.name().to_owned();
    let place = servers.iter().position(|server| server.name() == leader).unwrap();
    servers.rotate_left(place);
    let [leader, follower, left] = &mut servers;
    leader.down("KILL");
    follower.down("KILL");
    let stream = Stream::at(slice::from_ref(left), "default").await;
    until("the loss is noticed", async || {
        let answer = timeout(GIVES_UP, stream.put("a", "id")).await;
        (answer == Ok(NoResponders)).then_some(())
    })
    .await;
}

/// What a publish is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Stored(u64),
    Duplicate(u64),
    Refused(u64),
    NoResponders,
}

/// Whether there is no answer for so long that a client gives up.
async fn given_up(answer: impl Future<Output = Answer>) -> bool {
    timeout(GIVES_UP, answer).await.is_err()
}

/// The stream of a lattice, and a connection to the first of its servers.
struct Stream<'a> {
    servers: &'a [Nats],
    lattice: &'a str,
    client: async_nats::Client,
}

impl<'a> Stream<'a> {
    async fn at(servers: &'a [Nats], lattice: &'a str) -> Self {
        Self {
            servers,
            lattice,
            client: servers[0].client().await,
        }
    }

    /// On another connection.
    async fn again(&self) -> Self {
        Self::at(self.servers, self.lattice).await
    }

    /// As hosts create it, with a replica on each server.
    async fn create(servers: &'a [Nats], lattice: &'a str) -> Self {
        Self::create_in(servers, lattice, "memory").await
    }

    async fn create_in(servers: &'a [Nats], lattice: &'a str, storage: &str) -> Self {
        let stream = Self::at(servers, lattice).await;
        let changes = json!({"num_replicas": servers.len(), "storage": storage});
        servers[0].create_stream(lattice, changes).await;
        stream.takes_publishes().await;
        stream
    }

    /// A server may hear of a leader after the leader has answered.
    async fn takes_publishes(&self) {
        until("the stream takes publishes", async || {
            (self.probe("a", "of nothing").await != NoResponders).then_some(())
        })
        .await;
    }

    fn name(&self) -> String {
        format!("LATTICECACHE_{}", self.lattice)
    }

    fn subject(&self, key: &str) -> String {
        format!("lc.{}.{key}", self.lattice)
    }

    fn version(&self) -> (u32, u32) {
        let version = self.client.server_info().version;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    fn is_replicated(&self) -> bool {
        self.servers.len() > 1
    }

    /// What a publish is answered while another one with its id is under way.
    fn id_in_flight(&self) -> Answer {
        match self.version() {
            (2, ..11) => Duplicate(0),
            _ => Refused(ID_IN_FLIGHT),
        }
    }

    /// Before 2.12 the leader of a cluster takes an id that it has refused for one under way, until the window ends; on
    /// 2.10 nearly always.
    fn may_have_kept_the_id(&self, answer: &Answer) -> bool {
        self.version() < (2, 12) && self.is_replicated() && *answer == self.id_in_flight()
    }

    async fn api(&self, call: &str, request: Value) -> Value {
        self.servers[0]
            .api(&format!("{call}.{}", self.name()), request)
            .await
    }

    async fn info(&self) -> Value {
        self.api("STREAM.INFO", Value::Null).await
    }

    /// How many messages there are, and the last sequence.
    async fn state(&self) -> (u64, u64) {
        self.servers[0].state(self.lattice).await
    }

    /// What stands on a subject.
    async fn standing(&self, key: &str) -> Option<String> {
        let message = self.servers[0].last(self.lattice, &self.subject(key)).await?;
        Some(message.body)
    }

    async fn leader(&self) -> &'a Nats {
        if let [alone] = self.servers {
            return alone;
        }
        let leader = until("the stream has a leader", async || {
            self.info().await["cluster"]["leader"].as_str().map(str::to_owned)
        })
        .await;
        self.servers
            .iter()
            .find(|server| server.name() == leader)
            .unwrap()
    }

    async fn change_leader(&self) {
        let former = self.leader().await.name();
        until("the leader changes", async || {
            self.api("STREAM.LEADER.STEPDOWN", Value::Null).await;
            (self.leader().await.name() != former).then_some(())
        })
        .await;
        self.takes_publishes().await;
    }

    /// Publishes an id, also as the value.
    async fn put(&self, key: &str, id: &str) -> Answer {
        self.send(key, &[("Nats-Msg-Id", id)], id).await
    }

    /// Publishes an id, also as the value, over the message that is expected to be the subject's last.
    async fn put_over(&self, sequence: u64, key: &str, id: &str) -> Answer {
        let sequence = sequence.to_string();
        let headers = [
            ("Nats-Msg-Id", id),
            ("Nats-Expected-Last-Subject-Sequence", sequence.as_str()),
        ];
        self.send(key, &headers, id).await
    }

    /// Asks whether an id is known.
    async fn probe(&self, key: &str, id: &str) -> Answer {
        self.send(key, &[("Nats-Msg-Id", id), ("Nats-Rollup", "probe")], "")
            .await
    }

    async fn send(&self, key: &str, headers: &[(&'static str, &str)], value: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, text) in headers {
            map.append(*name, *text);
        }
        let request = Request::new().headers(map).payload(value.to_owned().into());
        let answer = match self.client.send_request(self.subject(key), request).await {
            Ok(answer) => serde_json::from_slice::<Value>(&answer.payload).unwrap(),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return NoResponders,
            Err(error) => panic!("{error}"),
        };
        let sequence = answer["seq"].as_u64();
        match answer["error"]["err_code"].as_u64() {
            Some(code) => Refused(code),
            None if answer["duplicate"] == true => Duplicate(sequence.unwrap()),
            None => Stored(sequence.unwrap()),
        }
    }
}

/// Three servers that are one cluster, for all the tests that run at the time.
async fn shared_cluster() -> Arc<[Nats; 3]> {
    static SHARED: Mutex<Weak<[Nats; 3]>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Nats::start_cluster().await);
    *shared = Arc::downgrade(&cluster);
    cluster
}
