//! Clients of a round: writers whose every retry is a new call on any gateway, readers, and foreign raw writers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use lattice_gateway::{
    domain::{EntryKey, Etag, LinkId},
    proto::{
        Consistency, DeleteLinkDefinitionRequest, ErrorReason, GetLinkDefinitionRequest, LinkDefinition,
        Outcome as Told, PutLinkDefinitionRequest, WriteResult, consistency::Requirement,
        delete_link_definition_request::Precondition as DeletePrecondition,
        link_definition_service_client::LinkDefinitionServiceClient,
        put_link_definition_request::Precondition as PutPrecondition,
    },
    store::layout::cache_stream,
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
    harness::keys,
    history::{Action, Condition, How, Op, OpId, Outcome},
    world::{Gateway, LATTICE, World},
};

const CONTRACT: &str = "wasmcloud:keyvalue";
/// The value that tells who wrote a link.
const WRITER: &str = "writer";
/// Whoever has no answer by then gives up.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// What all clients share.
pub struct Workload {
    pub keys: Vec<Key>,
    gateways: Vec<Channel>,
    began: Instant,
    next: AtomicU64,
    seed: u64,
    ops: Mutex<Vec<Op>>,
    etags: Mutex<Etags>,
}

/// The etags that clients have seen, and whose write each names.
#[derive(Default)]
struct Etags {
    /// The last one, by key.
    last: BTreeMap<usize, (String, OpId)>,
    /// The first one of each sequence of a key: after a loss of the stream another write may stand there.
    first: BTreeMap<(usize, u64), (String, OpId)>,
}

impl Etags {
    fn note(&mut self, key: usize, etag: &str, writer: OpId) {
        let seen = (etag.to_owned(), writer);
        if let Ok(etag) = Etag::parse(etag) {
            self.first
                .entry((key, etag.revision.sequence))
                .or_insert_with(|| seen.clone());
        }
        self.last.insert(key, seen);
    }

    /// One that names what stands or, where there is one, one that named something else at the same sequence.
    fn some(&self, key: usize, rng: &mut Rng) -> Option<(String, OpId)> {
        let last = self.last.get(&key)?;
        let sequence = Etag::parse(&last.0).ok()?.revision.sequence;
        let first = self.first.get(&(key, sequence)).filter(|_| rng.bool());
        Some(first.unwrap_or(last).clone())
    }
}

pub struct Key {
    actor: String,
    provider: String,
    /// The home subject.
    pub subject: String,
}

impl Workload {
    pub fn new(keys: usize, world: &World, seed: u64) -> Arc<Self> {
        let connect = |gateway: &Gateway| {
            let endpoint = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
            endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
        };
        Arc::new(Self {
            keys: (0..keys).map(|_| Key::new()).collect(),
            gateways: world.gateways.iter().map(connect).collect(),
            began: Instant::now(),
            next: AtomicU64::new(1),
            seed,
            ops: Mutex::default(),
            etags: Mutex::default(),
        })
    }

    /// Since the round began, microseconds.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
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
            condition: Condition::None,
            began,
            ended: self.now(),
            attempts: 1,
            outcome,
        });
    }

    /// Names an operation.
    pub fn next_id(&self) -> OpId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn some_gateway(&self, rng: &mut Rng) -> LinkDefinitionServiceClient<Channel> {
        LinkDefinitionServiceClient::new(self.gateways[rng.usize(..self.gateways.len())].clone())
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
            self.carry_out(rng, key, Action::Put, Condition::None, None).await;
        }
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
            self.carry_out(&mut rng, key, action, condition, etag).await;
            sleep(Duration::from_millis(rng.u64(..25))).await;
        }
    }

    /// One write, retried until it is answered or its time is up.
    async fn carry_out(
        &self,
        rng: &mut Rng,
        key: usize,
        action: Action,
        condition: Condition,
        etag: Option<String>,
    ) {
        let write = Write {
            id: self.next_id(),
            key,
            action,
            condition,
            etag,
        };
        let began = self.now();
        let first = Instant::now();
        let mut attempts = 0;
        let mut may_be_applied = false;
        let outcome = loop {
            attempts += 1;
            let retry_age = may_be_applied.then(|| first.elapsed());
            let deadline = Duration::from_millis(rng.u64(300..3_000));
            // Some callers hang up on a call that may be under way.
            let patience = match rng.u8(..40) {
                0 => Duration::from_millis(rng.u64(..4)),
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
                Err(_hung_up) => may_be_applied = true,
            }
            if first.elapsed() > PATIENCE {
                break if may_be_applied {
                    Outcome::Unknown
                } else {
                    Outcome::NotApplied
                };
            }
            // Some come back only when others have overwritten the entry many times, and servers were restarted.
            let pause = match rng.u8(..6) {
                0 => rng.u64(1_000..6_000),
                _ => rng.u64(10..600),
            };
            sleep(Duration::from_millis(pause)).await;
        };
        self.ops.lock().push(Op {
            id: write.id,
            key,
            action,
            condition,
            began,
            ended: self.now(),
            attempts,
            outcome,
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
        let client = LinkDefinitionServiceClient::new(self.gateways[gateway].clone());
        let write = Write {
            id,
            key,
            action: Action::Put,
            condition: Condition::None,
            etag: None,
        };
        self.attempt(client, &write, retry_age, deadline).await
    }

    fn answered(&self, write: &Write, result: &WriteResult) -> Outcome {
        let sequence = result.revision.map_or(0, |revision| revision.sequence);
        if !result.etag.is_empty() && write.action == Action::Put {
            self.etags.lock().note(write.key, &result.etag, write.id);
        }
        match result.outcome() {
            Told::Applied => Outcome::Wrote {
                sequence,
                how: How::Applied,
            },
            Told::AlreadyApplied => Outcome::Wrote {
                sequence,
                how: How::AlreadyApplied,
            },
            Told::Unchanged if write.action == Action::Delete => Outcome::Unchanged,
            other => Outcome::Absurd(format!("{other:?} for {write:?}")),
        }
    }

    async fn attempt(
        &self,
        mut client: LinkDefinitionServiceClient<Channel>,
        write: &Write,
        retry_age: Option<Duration>,
        deadline: Duration,
    ) -> Result<WriteResult, Status> {
        let key = &self.keys[write.key];
        let request_id = format!("campaign-{:016x}-{:08}", self.seed, write.id);
        let retry_age = retry_age.map(Into::into);
        let result = if write.action == Action::Put {
            let put = PutLinkDefinitionRequest {
                request_id,
                retry_age,
                ..write.put(key)
            };
            let mut put = tonic::Request::new(put);
            put.set_timeout(deadline);
            client.put_link_definition(put).await?.into_inner().result
        } else {
            let delete = DeleteLinkDefinitionRequest {
                request_id,
                retry_age,
                ..write.delete(key)
            };
            let mut delete = tonic::Request::new(delete);
            delete.set_timeout(deadline);
            client.delete_link_definition(delete).await?.into_inner().result
        };
        Ok(result.unwrap_or_default())
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
    async fn look(
        &self,
        mut client: LinkDefinitionServiceClient<Channel>,
        key: usize,
    ) -> Option<Option<(OpId, u64)>> {
        let request = GetLinkDefinitionRequest {
            lattice: LATTICE.to_owned(),
            actor_id: Some(self.keys[key].actor.clone()),
            contract_id: Some(CONTRACT.to_owned()),
            consistency: Some(Consistency {
                requirement: Some(Requirement::FullyConsistent(true)),
            }),
            ..GetLinkDefinitionRequest::default()
        };
        match client.get_link_definition(request).await {
            Ok(answer) => {
                let link = answer.into_inner().link_definition?;
                let writer = link.values.get(WRITER)?.parse().ok()?;
                self.etags.lock().note(key, &link.etag, writer);
                Some(Some((writer, link.revision?.sequence)))
            }
            Err(status) if reason(&status) == Some(ErrorReason::EntryNotFound) => Some(None),
            Err(_) => None,
        }
    }

    /// What stands in the end, as one gateway tells it.
    pub async fn standing(&self, gateway: usize) -> Vec<Option<(OpId, u64)>> {
        let mut standing = Vec::new();
        for key in 0..self.keys.len() {
            let client = || LinkDefinitionServiceClient::new(self.gateways[gateway].clone());
            standing.push(
                crate::harness::until("the gateway tells what stands", async || {
                    self.look(client(), key).await
                })
                .await,
            );
        }
        standing
    }

    /// Overwrites and deletes on the home subject, as a host does, until told to stop.
    pub async fn interfere(
        self: Arc<Self>,
        client: async_nats::Client,
        mut rng: Rng,
        stop: tokio_util::sync::CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            let action = if rng.u8(..4) == 0 {
                Action::ForeignDelete
            } else {
                Action::ForeignPut
            };
            let id = self.next_id();
            let began = self.now();
            let body = self.keys[key].body(id, action == Action::ForeignDelete);
            let publish = client.request(self.keys[key].subject.clone(), body.to_string().into());
            let outcome = match timeout(Duration::from_secs(2), publish).await {
                Ok(Ok(answer)) => foreign_outcome(&answer.payload),
                Ok(Err(_)) | Err(_) => Outcome::Unknown,
            };
            self.record(id, key, action, began, outcome);
            sleep(Duration::from_millis(rng.u64(100..1_000))).await;
        }
    }
}

/// A write, whatever number of attempts it takes.
#[derive(Debug)]
struct Write {
    id: OpId,
    key: usize,
    action: Action,
    condition: Condition,
    /// Of the state that [`Condition::Is`] names.
    etag: Option<String>,
}

impl Write {
    fn put(&self, key: &Key) -> PutLinkDefinitionRequest {
        let precondition = match (self.condition, &self.etag) {
            (Condition::Is(_), Some(etag)) => Some(PutPrecondition::Etag(etag.clone())),
            (Condition::Exists, _) => Some(PutPrecondition::MustExist(true)),
            (Condition::Absent, _) => Some(PutPrecondition::MustNotExist(true)),
            (Condition::None | Condition::Is(_), _) => None,
        };
        PutLinkDefinitionRequest {
            lattice: LATTICE.to_owned(),
            link_definition: Some(LinkDefinition {
                actor_id: key.actor.clone(),
                provider_id: key.provider.clone(),
                contract_id: CONTRACT.to_owned(),
                values: [(WRITER.to_owned(), self.id.to_string())].into(),
                ..LinkDefinition::default()
            }),
            precondition,
            ..PutLinkDefinitionRequest::default()
        }
    }

    fn delete(&self, key: &Key) -> DeleteLinkDefinitionRequest {
        let precondition = match (self.condition, &self.etag) {
            (Condition::Is(_), Some(etag)) => Some(DeletePrecondition::Etag(etag.clone())),
            (Condition::Exists, _) => Some(DeletePrecondition::MustExist(true)),
            (Condition::None | Condition::Is(_) | Condition::Absent, _) => None,
        };
        DeleteLinkDefinitionRequest {
            lattice: LATTICE.to_owned(),
            actor_id: Some(key.actor.clone()),
            contract_id: Some(CONTRACT.to_owned()),
            precondition,
            allow_missing: true,
            ..DeleteLinkDefinitionRequest::default()
        }
    }
}

impl Key {
    fn new() -> Self {
        let actor = keys::actor();
        let home = cache_stream::home(&EntryKey::LinkDefinition(LinkId::new(
            &actor, CONTRACT, "default",
        )));
        Self {
            subject: format!("lc.{LATTICE}.{}", home.unwrap()),
            provider: keys::provider(),
            actor,
        }
    }

    fn body(&self, id: OpId, deleted: bool) -> Value {
        json!({
            "actor_id": self.actor, "contract_id": CONTRACT, "deleted": deleted, "id": "foreign",
            "link_name": "default", "provider_id": self.provider, "values": {WRITER: id.to_string()},
        })
    }

    /// The key of this link in the hosts' cache.
    pub fn triple(&self) -> crate::host_model::Triple {
        crate::host_model::Triple {
            actor_id: self.actor.clone(),
            contract_id: CONTRACT.to_owned(),
            link_name: "default".to_owned(),
        }
    }
}

/// What JetStream's answer to a raw publish says.
pub fn foreign_outcome(answer: &[u8]) -> Outcome {
    let answer = serde_json::from_slice::<Value>(answer).unwrap_or_default();
    match answer["seq"].as_u64().filter(|sequence| *sequence > 0) {
        Some(sequence) => Outcome::Wrote {
            sequence,
            how: How::Applied,
        },
        None => Outcome::NotApplied,
    }
}

/// Who wrote a stored body.
pub fn writer_of(body: &[u8]) -> Option<OpId> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["values"][WRITER].as_str()?.parse().ok()
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
