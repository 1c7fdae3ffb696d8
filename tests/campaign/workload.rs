//! Clients of a round: writers whose every retry goes by another call to any gateway, readers, and foreign raw writers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use lattice_gateway::{
    domain::Etag,
    proto::{ErrorReason, Outcome as Told, WriteResult, apply_request::Operation},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};

use crate::{
    alone::Alone,
    audit::{Attempt, Learned},
    calls::{Answer, Calls, Line, method, reason},
    entries::{self, Key, Write},
    history::{Action, Condition, How, Kind, Op, OpId, Open, Outcome},
    world::{DATA_STREAM, Gate, Gateway, Layout, World},
};

/// Whoever has no answer by then gives up.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// What all clients share.
pub struct Workload {
    pub keys: Vec<Key>,
    /// The keys that many write; each of those behind them has one writer.
    pub contended: usize,
    layout: Layout,
    gateways: Vec<Calls>,
    began: Instant,
    next: AtomicU64,
    seed: u64,
    ops: Mutex<Vec<Op>>,
    attempts: Mutex<Vec<Attempt>>,
    etags: Mutex<Etags>,
    host_writes: AtomicU64,
    /// Where the history is not kept: how much there was, and what was wrong with it.
    passing: Option<Mutex<Passing>>,
}

/// What is kept of a load that goes on for too long to keep everything.
#[derive(Clone, Debug, Default)]
pub struct Passing {
    pub writes: u64,
    pub reads: u64,
    pub attempts: u64,
    pub unknown: u64,
    pub wrong: Vec<String>,
}

/// How many entries a load is on.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Entries that many write; the last of them is left alone.
    pub contended: usize,
    /// Entries of one writer each.
    pub alone: usize,
}

/// A write under way.
struct Carrying {
    write: Write,
    began: u64,
    first: Instant,
    attempts: u32,
    may_be_applied: bool,
    /// When an attempt that nobody waits for any more may be applied beside the last one.
    open: Open,
    /// Where it was sent, if by a call of several and just once.
    line: Option<Line>,
}

impl Carrying {
    fn retry_age(&self) -> Option<Duration> {
        self.may_be_applied.then(|| self.first.elapsed())
    }
}

/// By which call an attempt goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The method of its own service.
    Alone,
    /// The `Apply` call that many share.
    Shared,
    /// A manifest.
    Manifest,
}

impl Way {
    fn some(rng: &mut Rng) -> Self {
        match rng.u8(..10) {
            0..=4 => Self::Alone,
            5..=8 => Self::Shared,
            _ => Self::Manifest,
        }
    }

    /// As tools do that have much to write.
    fn mostly_shared(rng: &mut Rng) -> Self {
        match rng.u8(..10) {
            0 => Self::some(rng),
            _ => Self::Shared,
        }
    }
}

/// How patient a caller is with one attempt: the deadline that it sends, and when it hangs up.
#[derive(Clone, Copy, Debug)]
struct Patience {
    deadline: Duration,
    hangs_up: Duration,
}

impl Patience {
    fn some(rng: &mut Rng) -> Self {
        let deadline = Duration::from_millis(rng.u64(300..3_000));
        // Some callers hang up on a call that may be under way.
        let hangs_up = match rng.u8(..20) {
            0 => Duration::from_millis(rng.u64(..16)),
            _ => deadline + Duration::from_millis(100),
        };
        Self { deadline, hangs_up }
    }

    fn hung_up(self) -> Answer {
        Answer::HungUp {
            deadline: self.deadline,
        }
    }
}

/// The etags that clients have seen, and whose write each names.
#[derive(Default)]
struct Etags {
    /// Whether only so many are remembered, however long the load goes on.
    is_bounded: bool,
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
        if let (false, Ok(etag)) = (self.is_bounded, Etag::parse(etag)) {
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
    pub fn gateways(&self) -> Vec<Gate> {
        self.gateways.iter().map(|calls| calls.gate.clone()).collect()
    }

    pub fn new(size: Size, world: &World, seed: u64) -> Arc<Self> {
        Arc::new(Self::of(size, world, seed))
    }

    /// One of which only counts are kept, and what was wrong.
    pub fn passing(size: Size, world: &World, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            passing: Some(Mutex::default()),
            etags: Mutex::new(Etags {
                is_bounded: true,
                ..Etags::default()
            }),
            ..Self::of(size, world, seed)
        })
    }

    fn of(size: Size, world: &World, seed: u64) -> Self {
        let Size { contended, alone } = size;
        let numbers = Arc::new(AtomicU64::new(1));
        let calls = |gateway: &Gateway| Calls::new(gateway.gate(), Arc::clone(&numbers));
        let keys = (0..contended).map(|number| Key::new(world.layout, number, number + 1 == contended));
        let of_one = (0..alone).map(|number| Key::of_one_writer(world.layout, number));
        Self {
            keys: keys.chain(of_one).collect(),
            contended,
            layout: world.layout,
            gateways: world.gateways.iter().map(calls).collect(),
            began: Instant::now(),
            next: AtomicU64::new(1),
            seed,
            ops: Mutex::default(),
            attempts: Mutex::default(),
            etags: Mutex::default(),
            host_writes: AtomicU64::new(0),
            passing: None,
        }
    }

    /// Since the round began, microseconds.
    pub fn now(&self) -> u64 {
        micros(self.began.elapsed())
    }

    pub fn ops(&self) -> Vec<Op> {
        self.ops.lock().clone()
    }

    /// What callers tried to change.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().clone()
    }

    /// What is kept where the history is not.
    pub fn passed(&self) -> Passing {
        self.passing
            .as_ref()
            .map(|passing| passing.lock().clone())
            .unwrap_or_default()
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
        self.keep(Op {
            id,
            key,
            action,
            value: None,
            condition: Condition::None,
            began,
            ended: self.now(),
            attempts: 1,
            line: None,
            outcome,
            open: None,
        });
    }

    fn keep(&self, op: Op) {
        let Some(passing) = &self.passing else {
            self.ops.lock().push(op);
            return;
        };
        let mut passing = passing.lock();
        match op.action {
            Action::Get => passing.reads += 1,
            _ => passing.writes += 1,
        }
        match op.outcome {
            Outcome::Unknown => passing.unknown += 1,
            Outcome::Absurd(answer) => passing.wrong.push(format!("op {}: {answer}", op.id)),
            _ => {}
        }
    }

    /// Names an operation.
    pub fn next_id(&self) -> OpId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn some_gateway(&self, rng: &mut Rng) -> usize {
        rng.usize(..self.gateways.len())
    }

    /// Half of all operations go to two keys, so that their rings overflow. The last key is left alone: lattices have old
    /// entries.
    fn some_key(&self, rng: &mut Rng) -> usize {
        let touched = self.contended - 1;
        match rng.bool() {
            true => rng.usize(..2.min(touched)),
            false => rng.usize(..touched),
        }
    }

    /// Puts every key once, and lets the records grow older than the margin between clocks: of entries that are younger
    /// little can be known, which would be most of what a short round tells.
    pub async fn settle(&self, rng: &mut Rng) {
        const OLD_ENOUGH: Duration = Duration::from_millis(2_100);
        let puts = (0..self.contended).map(|key| {
            let put = self.asked(key, Action::Put, Condition::None, None);
            self.carry_out(rng.fork(), put, Way::some)
        });
        join_all(puts.collect::<Vec<_>>()).await;
        // It is their age that matters.
        sleep(OLD_ENOUGH).await;
    }

    /// Begins all writers and readers, until told to stop.
    pub fn begin_all(
        self: &Arc<Self>,
        pause_alone: Duration,
        rng: &mut Rng,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let load = || Arc::clone(self);
        for _ in 0..self.writers() {
            tasks.spawn(load().write(rng.fork(), stop.clone()));
        }
        for key in self.contended..self.keys.len() {
            tasks.spawn(load().write_alone(key, pause_alone, rng.fork(), stop.clone()));
        }
        tasks.spawn(load().cut(rng.fork(), stop.clone()));
        for _ in 0..2 {
            tasks.spawn(load().read(rng.fork(), stop.clone()));
        }
    }

    /// Puts and deletes, with and without conditions, now one and now several at once, until told to stop.
    pub async fn write(self: Arc<Self>, mut rng: Rng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if rng.u8(..12) == 0 {
                self.write_several(&mut rng).await;
            } else {
                let key = self.some_key(&mut rng);
                let write = self.some_write(&mut rng, key);
                drop(self.carry_out(rng.fork(), write, Way::some).await);
            }
            sleep(Duration::from_millis(rng.u64(..25))).await;
        }
    }

    /// As [`Self::write`], on a key that nobody else writes, mostly by the calls that many share, until told to stop.
    pub async fn write_alone(
        self: Arc<Self>,
        key: usize,
        pause: Duration,
        mut rng: Rng,
        stop: CancellationToken,
    ) {
        let mut known = Alone::default();
        while !stop.is_cancelled() {
            let write = self.some_write(&mut rng, key);
            let op = self.carry_out(rng.fork(), write, Way::mostly_shared).await;
            if let Some(passing) = &self.passing
                && let Err(wrong) = known.take(&op)
            {
                passing.lock().wrong.push(format!("key {key}: {wrong}"));
            }
            sleep(pause.mul_f64(2.0 * rng.f64())).await;
        }
    }

    /// Cuts the calls that many share, or ends them well, until told to stop.
    pub async fn cut(self: Arc<Self>, mut rng: Rng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // How long calls last is part of what is tried.
            sleep(Duration::from_millis(rng.u64(100..2_000))).await;
            self.gateways[self.some_gateway(&mut rng)].end(rng.bool());
        }
    }

    fn some_write(&self, rng: &mut Rng, key: usize) -> Write {
        let deletes = rng.u8(..10) >= 8 && self.keys[key].can_be_deleted();
        let action = if deletes { Action::Delete } else { Action::Put };
        let etag = self.etags.lock().some(key, rng);
        let (condition, etag) = match (rng.u8(..10), etag) {
            (0..=2, Some((etag, writer))) => (Condition::Is(writer), Some(etag)),
            (3, _) => (Condition::Exists, None),
            (4, _) if action == Action::Put => (Condition::Absent, None),
            _ => (Condition::None, None),
        };
        let mut write = self.asked(key, action, condition, etag);
        let earlier = self.etags.lock().earlier(key, rng);
        if let (Some(earlier), 0) = (earlier, rng.u8(..6)) {
            write.value = earlier;
        }
        write
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

    fn begin(&self, write: Write) -> Carrying {
        Carrying {
            write,
            began: self.now(),
            first: Instant::now(),
            attempts: 0,
            may_be_applied: false,
            open: Open::default(),
            line: None,
        }
    }

    /// One write, retried until it is answered or its time is up.
    async fn carry_out(&self, mut rng: Rng, write: Write, way: fn(&mut Rng) -> Way) -> Op {
        let mut carrying = self.begin(write);
        let gateway = self.some_gateway(&mut rng);
        let answer = match way(&mut rng) {
            Way::Alone => {
                self.attempt_alone(gateway, &mut carrying, Patience::some(&mut rng))
                    .await
            }
            Way::Shared => self.attempt_shared(gateway, &mut carrying).await,
            Way::Manifest => {
                let one = std::slice::from_mut(&mut carrying);
                let answers = self
                    .attempt_together(gateway, one, Patience::some(&mut rng))
                    .await;
                answers.into_iter().next().unwrap_or(Answer::Nothing)
            }
        };
        self.carry_on(rng, carrying, answer, way).await
    }

    /// Several writes at once, some on one key, over one call, each retried by itself.
    async fn write_several(&self, rng: &mut Rng) {
        let writes = (0..rng.usize(2..9)).map(|_| {
            let key = self.some_key(rng);
            self.begin(self.some_write(rng, key))
        });
        let mut carried = writes.collect::<Vec<_>>();
        let gateway = self.some_gateway(rng);
        let answers = if rng.u8(..3) == 0 {
            let patience = Patience::some(rng);
            self.attempt_together(gateway, &mut carried, patience).await
        } else {
            // In their order: each is sent when it is first polled.
            let attempts = carried.iter_mut().map(|one| self.attempt_shared(gateway, one));
            join_all(attempts).await
        };
        let going_on = carried
            .into_iter()
            .zip(answers)
            .map(|(carrying, answer)| self.carry_on(rng.fork(), carrying, answer, Way::some));
        join_all(going_on.collect::<Vec<_>>()).await;
    }

    /// What becomes of a write after its first attempt.
    async fn carry_on(
        &self,
        mut rng: Rng,
        mut carrying: Carrying,
        mut answer: Answer,
        way: fn(&mut Rng) -> Way,
    ) -> Op {
        let outcome = loop {
            if let Some(outcome) = self.outcome(&mut rng, &mut carrying, answer) {
                break outcome;
            }
            // Some come back only when others have overwritten the entry many times, and servers were restarted; some at
            // once, while the first attempt is still under way.
            let pause = match rng.u8(..6) {
                0 => rng.u64(1_000..6_000),
                1 => rng.u64(..10),
                _ => rng.u64(10..600),
            };
            sleep(Duration::from_millis(pause)).await;
            let (gateway, patience) = (self.some_gateway(&mut rng), Patience::some(&mut rng));
            answer = match way(&mut rng) {
                Way::Shared => self.attempt_shared(gateway, &mut carrying).await,
                Way::Alone | Way::Manifest => self.attempt_alone(gateway, &mut carrying, patience).await,
            };
        };
        let Carrying {
            write,
            began,
            attempts,
            open,
            line,
            ..
        } = carrying;
        let tells_nothing =
            matches!(outcome, Outcome::Refused | Outcome::Unchanged) && open.from < open.until;
        let (outcome, open) = match tells_nothing {
            true => (Outcome::Unknown, Some(open)),
            false => (outcome, None),
        };
        let op = Op {
            id: write.id,
            key: write.key,
            action: write.action,
            value: (write.value != write.id).then_some(write.value),
            condition: write.condition,
            began,
            ended: self.now(),
            attempts,
            line: line.filter(|_| attempts == 1),
            outcome,
            open,
        };
        self.keep(op.clone());
        op
    }

    /// What a write has come to with this answer; `None` where it is to be tried again.
    fn outcome(&self, rng: &mut Rng, carrying: &mut Carrying, answer: Answer) -> Option<Outcome> {
        let verdict = match answer {
            Answer::Told(Ok(result)) => return Some(self.answered(&carrying.write, &result)),
            Answer::Told(Err(status)) => verdict(&status),
            Answer::Unread => Verdict::NotApplied,
            Answer::Nothing => Verdict::MayBeApplied,
            Answer::HungUp { deadline } => {
                let until = self.now() + micros(deadline);
                carrying.open.until = carrying.open.until.max(until);
                Verdict::MayBeApplied
            }
        };
        match verdict {
            Verdict::Final(outcome) => return Some(outcome),
            // Some take that for what it is, and let it be.
            Verdict::NotApplied if !carrying.may_be_applied && rng.u8(..4) == 0 => {
                return Some(Outcome::NotApplied);
            }
            Verdict::NotApplied => {}
            Verdict::MayBeApplied => carrying.may_be_applied = true,
        }
        let gives_up = carrying.first.elapsed() > PATIENCE;
        gives_up.then_some(match carrying.may_be_applied {
            true => Outcome::Unknown,
            false => Outcome::NotApplied,
        })
    }

    async fn attempt_alone(&self, gateway: usize, carrying: &mut Carrying, patience: Patience) -> Answer {
        let operation = self.operation(carrying);
        let method = method(&operation);
        let asking = self.gateways[gateway].alone(operation, patience.deadline);
        let answered = timeout(patience.hangs_up, asking).await;
        let answer = answered.unwrap_or_else(|_hung_up| patience.hung_up());
        self.note(gateway, method, &carrying.write, &answer);
        answer
    }

    /// Whoever sent it waits until it is answered, or the call ends for all.
    async fn attempt_shared(&self, gateway: usize, carrying: &mut Carrying) -> Answer {
        let operation = self.operation(carrying);
        let method = method(&operation);
        let (line, answered) = self.gateways[gateway].send(operation);
        carrying.line = Some(line);
        let answer = answered.await;
        self.note(gateway, method, &carrying.write, &answer);
        answer
    }

    async fn attempt_together(
        &self,
        gateway: usize,
        carried: &mut [Carrying],
        patience: Patience,
    ) -> Vec<Answer> {
        let operations = carried
            .iter_mut()
            .map(|one| self.operation(one))
            .collect::<Vec<_>>();
        let methods = operations.iter().map(method).collect::<Vec<_>>();
        let asking = self.gateways[gateway].together(operations, patience.deadline);
        let answers = match timeout(patience.hangs_up, asking).await {
            Ok((number, answers)) => {
                for (place, one) in (0..).zip(carried.iter_mut()) {
                    one.line = Some((number, place));
                }
                answers
            }
            Err(_hung_up) => carried.iter().map(|_| patience.hung_up()).collect(),
        };
        for ((one, method), answer) in carried.iter().zip(methods).zip(&answers) {
            self.note(gateway, method, &one.write, answer);
        }
        answers
    }

    /// The next attempt of a write.
    fn operation(&self, carrying: &mut Carrying) -> Operation {
        carrying.attempts += 1;
        carrying.open.from = self.now();
        let request_id = self.request_id(carrying.write.id);
        self.keys[carrying.write.key].operation(&carrying.write, request_id, carrying.retry_age())
    }

    fn request_id(&self, id: OpId) -> String {
        format!("campaign-{:016x}-{id:08}", self.seed)
    }

    /// Notes an attempt, for the audit to be compared with.
    fn note(&self, gateway: usize, method: &str, write: &Write, answer: &Answer) {
        if let Some(passing) = &self.passing {
            passing.lock().attempts += 1;
            return;
        }
        self.attempts.lock().push(Attempt {
            gateway,
            method: method.to_owned(),
            entry: self.keys[write.key].name(),
            request_id: self.request_id(write.id),
            learned: Learned::of(answer),
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
        let operation = self.keys[key].operation(&write, self.request_id(id), retry_age);
        match self.gateways[gateway].alone(operation, deadline).await {
            Answer::Told(told) => told,
            _ => Err(Status::unknown("no answer")),
        }
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

    /// Fully consistent reads, until told to stop.
    pub async fn read(self: Arc<Self>, mut rng: Rng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            let began = self.now();
            let gateway = self.some_gateway(&mut rng);
            if let Ok(Some(read)) = timeout(Duration::from_secs(3), self.look(gateway, key)).await {
                self.record(self.next_id(), key, Action::Get, began, Outcome::Read(read));
            }
            sleep(Duration::from_millis(rng.u64(..25))).await;
        }
    }

    /// What stands on a key; `None` where the gateway cannot tell.
    async fn look(&self, gateway: usize, key: usize) -> Option<Option<(OpId, u64)>> {
        match self.keys[key].look(self.gateways[gateway].gate.clone()).await {
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
            standing.push(
                crate::harness::until("the gateway tells what stands", async || {
                    self.look(gateway, key).await
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
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let key = self.some_key(&mut rng);
            if self.keys[key].kind() == Kind::InterfaceLink {
                // Nothing to do with it here; another one is next.
                tokio::task::yield_now().await;
                continue;
            }
            let deletes = rng.u8(..4) == 0 && self.keys[key].can_be_deleted();
            let action = if deletes {
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
        stop: CancellationToken,
    ) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let of_records = self.keys[..self.contended].iter().filter_map(|key| key.source());
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
