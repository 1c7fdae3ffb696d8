//! Clients of a round: writers whose every retry is a new call on any gateway, readers, and foreign raw writers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use lattice_gateway::{
    domain::Etag,
    proto::{ErrorReason, Outcome as Told, WriteResult},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::{
    entries::{self, Key, Write},
    history::{Action, Condition, How, Kind, Op, OpId, Open, Outcome},
    world::{DATA_STREAM, Gateway, Layout, World},
};

/// Whoever has no answer by then gives up.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// What all clients share.
pub struct Workload {
    pub keys: Vec<Key>,
    layout: Layout,
    gateways: Vec<Channel>,
    began: Instant,
    next: AtomicU64,
    seed: u64,
    ops: Mutex<Vec<Op>>,
    etags: Mutex<Etags>,
    host_writes: AtomicU64,
}

/// The etags that clients have seen, and whose write each names.
#[derive(Default)]
struct Etags {
    /// The last one, by key.
    last: BTreeMap<usize, (String, OpId)>,
    /// The first one of each sequence of a key: after a loss of the stream another write may stand there.
    first: BTreeMap<(usize, u64), (String, OpId)>,
    /// Of links that share a record, the last few: theirs are of the content, which may come back.
    of_content: BTreeMap<usize, VecDeque<(String, OpId)>>,
}

impl Etags {
    fn note(&mut self, key: usize, kind: Kind, etag: &str, value: OpId) {
        const REMEMBERED: usize = 4;
        let seen = (etag.to_owned(), value);
        if kind == Kind::InterfaceLink {
            let of_key = self.of_content.entry(key).or_default();
            of_key.retain(|known| *known != seen);
            of_key.push_back(seen);
            while of_key.len() > REMEMBERED {
                of_key.pop_front();
            }
            return;
        }
        if let Ok(etag) = Etag::parse(etag) {
            self.first
                .entry((key, etag.revision.sequence))
                .or_insert_with(|| seen.clone());
        }
        self.last.insert(key, seen);
    }

    /// One that names what stands or, where there is one, one that named something else at the same sequence, or what
    /// stood before.
    fn some(&self, key: usize, rng: &mut Rng) -> Option<(String, OpId)> {
        if let Some(of_key) = self.of_content.get(&key) {
            let back = if rng.bool() { 0 } else { rng.usize(..of_key.len()) };
            return of_key.iter().rev().nth(back).cloned();
        }
        let last = self.last.get(&key)?;
        let sequence = Etag::parse(&last.0).ok()?.revision.sequence;
        let first = self.first.get(&(key, sequence)).filter(|_| rng.bool());
        Some(first.unwrap_or(last).clone())
    }

    /// What stood before on a key of which the content may come back.
    fn earlier(&self, key: usize, rng: &mut Rng) -> Option<OpId> {
        let of_key = self.of_content.get(&key)?;
        let (_, value) = of_key.get(rng.usize(..of_key.len()))?;
        Some(*value)
    }
}

impl Workload {
    /// The gateways, as clients reach them.
    pub fn gateways(&self) -> Vec<Channel> {
        self.gateways.clone()
    }

    pub fn new(keys: usize, world: &World, seed: u64) -> Arc<Self> {
        let connect = |gateway: &Gateway| {
            let endpoint = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
            endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
        };
        Arc::new(Self {
            keys: (0..keys)
                .map(|number| Key::new(world.layout, number, number + 1 == keys))
                .collect(),
            layout: world.layout,
            gateways: world.gateways.iter().map(connect).collect(),
            began: Instant::now(),
            next: AtomicU64::new(1),
            seed,
            ops: Mutex::default(),
            etags: Mutex::default(),
            host_writes: AtomicU64::new(0),
        })
    }

    /// Since the round began, microseconds.
    pub fn now(&self) -> u64 {
        micros(self.began.elapsed())
    }

    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
    }

    /// Writes of stand-ins for hosts.
    pub fn host_writes(&self) -> u64 {
        self.host_writes.load(Ordering::Relaxed)
    }

    /// Notes that the stream was lost between two moments.
    pub fn lost(&self, began: u64) {
        self.record(self.next_id(), 0, Action::Loss, began, Outcome::Done);
    }

    /// Notes an operation of one attempt and no condition that ends now.
    fn record(&self, id: OpId, key: usize, action: Action, began: u64, outcome: Outcome) {
        self.ops.lock().push(Op {
            id,
            key,
            action,
            value: None,
            condition: Condition::None,
            began,
            ended: self.now(),
            attempts: 1,
            outcome,
            open: None,
        });
    }

    /// Names an operation.
    pub fn next_id(&self) -> OpId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn some_gateway(&self, rng: &mut Rng) -> Channel {
        self.gateways[rng.usize(..self.gateways.len())].clone()
    }

    /// Half of all operations go to two keys, so that their rings overflow. The last key is left alone: lattices have old
    /// entries.
    fn some_key(&self, rng: &mut Rng) -> usize {
        let touched = self.keys.len() - 1;
        match rng.bool() {
            true => rng.usize(..2.min(touched)),
            false => rng.usize(..touched),
        }
    }

    /// Puts every key once, and lets the records grow older than the margin between clocks: of entries that are younger
    /// little can be known, which would be most of what a short round tells.
    pub async fn settle(&self, rng: &mut Rng) {
        const OLD_ENOUGH: Duration = Duration::from_millis(2_100);
        for key in 0..self.keys.len() {
            let put = self.asked(key, Action::Put, Condition::None, None);
            self.carry_out(rng, put).await;
        }
        // It is their age that matters.
        sleep(OLD_ENOUGH).await;
    }

    /// Puts and deletes, with and without conditions, until told to stop.
    pub async fn write(self: Arc<Self>, mut rng: Rng, stop: tokio_util::sync::CancellationToken) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            let action = if rng.u8(..10) < 8 {
                Action::Put
            } else {
                Action::Delete
            };
            let etag = self.etags.lock().some(key, &mut rng);
            let (condition, etag) = match (rng.u8(..10), etag) {
                (0..=2, Some((etag, writer))) => (Condition::Is(writer), Some(etag)),
                (3, _) => (Condition::Exists, None),
                (4, _) if action == Action::Put => (Condition::Absent, None),
                _ => (Condition::None, None),
            };
            let mut write = self.asked(key, action, condition, etag);
            let earlier = self.etags.lock().earlier(key, &mut rng);
            if let (Some(earlier), 0) = (earlier, rng.u8(..6)) {
                write.value = earlier;
            }
            self.carry_out(&mut rng, write).await;
            sleep(Duration::from_millis(rng.u64(..25))).await;
        }
    }

    fn asked(&self, key: usize, action: Action, condition: Condition, etag: Option<String>) -> Write {
        let id = self.next_id();
        Write {
            id,
            key,
            action,
            value: id,
            condition,
            etag,
        }
    }

    /// One write, retried until it is answered or its time is up.
    async fn carry_out(&self, rng: &mut Rng, write: Write) {
        let began = self.now();
        let first = Instant::now();
        let mut attempts = 0;
        let mut may_be_applied = false;
        let mut open = Open::default();
        let outcome = loop {
            attempts += 1;
            open.from = self.now();
            let retry_age = may_be_applied.then(|| first.elapsed());
            let deadline = Duration::from_millis(rng.u64(300..3_000));
            // Some callers hang up on a call that may be under way.
            let patience = match rng.u8(..20) {
                0 => Duration::from_millis(rng.u64(..16)),
                _ => deadline + Duration::from_millis(100),
            };
            let attempt = self.attempt(self.some_gateway(rng), &write, retry_age, deadline);
            match timeout(patience, attempt).await {
                Ok(Ok(result)) => break self.answered(&write, &result),
                Ok(Err(status)) => match verdict(&status) {
                    Verdict::Final(outcome) => break outcome,
                    // Some take that for what it is, and let it be.
                    Verdict::NotApplied if !may_be_applied && rng.u8(..4) == 0 => break Outcome::NotApplied,
                    Verdict::NotApplied => {}
                    Verdict::MayBeApplied => may_be_applied = true,
                },
                Err(_hung_up) => {
                    may_be_applied = true;
                    open.until = open.until.max(self.now() + micros(deadline));
                }
            }
            if first.elapsed() > PATIENCE {
                break if may_be_applied {
                    Outcome::Unknown
                } else {
                    Outcome::NotApplied
                };
            }
            // Some come back only when others have overwritten the entry many times, and servers were restarted; some at
            // once, while the first attempt is still under way.
            let pause = match rng.u8(..6) {
                0 => rng.u64(1_000..6_000),
                1 => rng.u64(..10),
                _ => rng.u64(10..600),
            };
            sleep(Duration::from_millis(pause)).await;
        };
        let tells_nothing =
            matches!(outcome, Outcome::Refused | Outcome::Unchanged) && open.from < open.until;
        let (outcome, open) = match tells_nothing {
            true => (Outcome::Unknown, Some(open)),
            false => (outcome, None),
        };
        self.ops.lock().push(Op {
            id: write.id,
            key: write.key,
            action: write.action,
            value: (write.value != write.id).then_some(write.value),
            condition: write.condition,
            began,
            ended: self.now(),
            attempts,
            outcome,
            open,
        });
    }

    /// One put on one gateway, one attempt.
    pub async fn put_on(
        self: Arc<Self>,
        gateway: usize,
        key: usize,
        id: OpId,
        retry_age: Option<Duration>,
        deadline: Duration,
    ) -> Result<WriteResult, Status> {
        let write = Write {
            id,
            value: id,
            ..self.asked(key, Action::Put, Condition::None, None)
        };
        let channel = self.gateways[gateway].clone();
        self.attempt(channel, &write, retry_age, deadline).await
    }

    fn answered(&self, write: &Write, result: &WriteResult) -> Outcome {
        let sequence = result.revision.map_or(0, |revision| revision.sequence);
        let kind = self.keys[write.key].kind();
        if !result.etag.is_empty() && write.action == Action::Put {
            self.etags.lock().note(write.key, kind, &result.etag, write.value);
        }
        let acknowledged = |how| Outcome::Wrote {
            sequence,
            how,
            is_superseded: result.superseded,
        };
        match result.outcome() {
            Told::Applied => acknowledged(How::Applied),
            Told::AlreadyApplied => acknowledged(How::AlreadyApplied),
            Told::Unchanged if write.action == Action::Delete => Outcome::Unchanged,
            // What stood was put again: published so that the id is on record.
            Told::Unchanged if kind == Kind::InterfaceLink => acknowledged(How::Applied),
            other => Outcome::Absurd(format!("{other:?} for {write:?}")),
        }
    }

    async fn attempt(
        &self,
        channel: Channel,
        write: &Write,
        retry_age: Option<Duration>,
        deadline: Duration,
    ) -> Result<WriteResult, Status> {
        let request_id = format!("campaign-{:016x}-{:08}", self.seed, write.id);
        self.keys[write.key]
            .attempt(channel, write, request_id, retry_age, deadline)
            .await
    }

    /// Fully consistent reads, until told to stop.
    pub async fn read(self: Arc<Self>, mut rng: Rng, stop: tokio_util::sync::CancellationToken) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            let began = self.now();
            let client = self.some_gateway(&mut rng);
            if let Ok(Some(read)) = timeout(Duration::from_secs(3), self.look(client, key)).await {
                self.record(self.next_id(), key, Action::Get, began, Outcome::Read(read));
            }
            sleep(Duration::from_millis(rng.u64(..25))).await;
        }
    }

    /// What stands on a key; `None` where the gateway cannot tell.
    async fn look(&self, channel: Channel, key: usize) -> Option<Option<(OpId, u64)>> {
        match self.keys[key].look(channel).await {
            Ok(shown) => {
                let shown = shown?;
                let kind = self.keys[key].kind();
                self.etags.lock().note(key, kind, &shown.etag, shown.value);
                Some(Some((shown.value, shown.sequence)))
            }
            Err(status) if reason(&status) == Some(ErrorReason::EntryNotFound) => Some(None),
            Err(_) => None,
        }
    }

    /// What stands in the end, as one gateway tells it.
    pub async fn standing(&self, gateway: usize) -> Vec<Option<(OpId, u64)>> {
        let mut standing = Vec::new();
        for key in 0..self.keys.len() {
            let channel = &self.gateways[gateway];
            standing.push(
                crate::harness::until("the gateway tells what stands", async || {
                    self.look(channel.clone(), key).await
                })
                .await,
            );
        }
        standing
    }

    /// Overwrites and deletes on the home subject, as a host does, until told to stop. Not what shares a record.
    pub async fn interfere(
        self: Arc<Self>,
        client: async_nats::Client,
        mut rng: Rng,
        stop: tokio_util::sync::CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            if self.keys[key].kind() == Kind::InterfaceLink {
                // Nothing to do with it here; another one is next.
                tokio::task::yield_now().await;
                continue;
            }
            let action = if rng.u8(..4) == 0 {
                Action::ForeignDelete
            } else {
                Action::ForeignPut
            };
            let id = self.next_id();
            let began = self.now();
            let (headers, body) = self.keys[key].raw(id, action == Action::ForeignDelete);
            let subject = self.keys[key].subject.clone();
            let publish = client.request_with_headers(subject, headers, body.into());
            let outcome = match timeout(Duration::from_secs(2), publish).await {
                Ok(Ok(answer)) => foreign_outcome(&answer.payload),
                Ok(Err(_)) | Err(_) => Outcome::Unknown,
            };
            self.record(id, key, action, began, outcome);
            sleep(Duration::from_millis(rng.u64(100..1_000))).await;
        }
    }

    /// Reads a shared record, changes links of its own in it or nothing at all, and writes it back some milliseconds
    /// later without a look at what happened in between, as hosts do, until told to stop.
    pub async fn be_a_host(
        self: Arc<Self>,
        client: async_nats::Client,
        mut rng: Rng,
        stop: tokio_util::sync::CancellationToken,
    ) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let of_records = self.keys.iter().filter_map(|key| key.source());
        let sources = of_records.collect::<std::collections::BTreeSet<_>>();
        while !stop.is_cancelled() {
            let (source, subject) = *rng.choice(&sources).unwrap();
            let get = json!({"last_by_subj": subject}).to_string();
            let call = format!("$JS.API.STREAM.MSG.GET.{DATA_STREAM}");
            let read = timeout(PATIENCE, client.request(call, get.into())).await;
            let Ok(Ok(answer)) = read else {
                continue;
            };
            // In between a host validates claims and starts providers: this is how long it does not look.
            sleep(Duration::from_micros(rng.u64(1_000..7_000))).await;
            if let Some(body) = changed(source, &answer.payload, &mut rng) {
                let publish = client.request(subject.to_owned(), body.into());
                drop(timeout(PATIENCE, publish).await);
                self.host_writes.fetch_add(1, Ordering::Relaxed);
            }
            sleep(Duration::from_millis(rng.u64(1..60))).await;
        }
    }

    /// How many writers the layout takes: of links that share records so many that edits meet.
    pub fn writers(&self) -> usize {
        match self.layout {
            Layout::CacheStream | Layout::Kv => 6,
            Layout::Component => 12,
        }
    }
}

/// What a host makes of a record that it has read: a link of its own more, changed or less, or just what it was. `None`
/// where it has nothing to write.
fn changed(source: &str, answer: &[u8], rng: &mut Rng) -> Option<String> {
    const OWN: u64 = 3;
    const NO_MESSAGE_FOUND: u64 = 10037;
    let answer = serde_json::from_slice::<Value>(answer).ok()?;
    let mut record = match answer["message"]["data"].as_str() {
        Some(data) => {
            let body = data_encoding::BASE64.decode(data.as_bytes()).ok()?;
            serde_json::from_slice::<Value>(&body).ok()?
        }
        None if answer["error"]["err_code"] == NO_MESSAGE_FOUND => json!({"url": "", "links": []}),
        None => return None,
    };
    let own = entries::host_link(source, rng.u64(..OWN), rng.u64(..1_000));
    let links = record["links"].as_array_mut()?;
    match rng.u8(..4) {
        0 => {}
        1 => links.retain(|link| link["name"] != own["name"]),
        _ => {
            links.retain(|link| link["name"] != own["name"]);
            links.push(own);
        }
    }
    Some(record.to_string())
}

/// What JetStream's answer to a raw publish says.
pub fn foreign_outcome(answer: &[u8]) -> Outcome {
    let answer = serde_json::from_slice::<Value>(answer).unwrap_or_default();
    match answer["seq"].as_u64().filter(|sequence| *sequence > 0) {
        Some(sequence) => Outcome::Wrote {
            sequence,
            how: How::Applied,
            is_superseded: false,
        },
        None => Outcome::NotApplied,
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

enum Verdict {
    Final(Outcome),
    NotApplied,
    MayBeApplied,
}

fn reason(status: &Status) -> Option<ErrorReason> {
    ErrorReason::from_str_name(&status.get_details_error_info()?.reason)
}

/// What the documented meaning of an error is for its caller.
fn verdict(status: &Status) -> Verdict {
    match (status.code(), reason(status)) {
        (_, Some(ErrorReason::OutcomeSuperseded)) => Verdict::Final(Outcome::Superseded),
        (_, Some(ErrorReason::EtagMismatch | ErrorReason::EntryNotFound | ErrorReason::EntryExists)) => {
            Verdict::Final(Outcome::Refused)
        }
        (Code::Unavailable | Code::ResourceExhausted | Code::FailedPrecondition | Code::Aborted, Some(_)) => {
            Verdict::NotApplied
        }
        // Told so, or no answer of the gateway's: the connection broke.
        (_, Some(ErrorReason::OutcomeUnknown))
        | (
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded,
            None,
        ) => Verdict::MayBeApplied,
        (code, reason) => Verdict::Final(Outcome::Absurd(format!(
            "{code:?} {reason:?}: {}",
            status.message()
        ))),
    }
}
