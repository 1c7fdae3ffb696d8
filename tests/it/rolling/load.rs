//! Clients that spread their calls over several gateways and try again as README's *Retrying* says: they put, delete and
//! read their own writes, apply over a stream, and watch. None of their calls may fail.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lattice_gateway::proto::{
    ApplyRequest, Consistency, DeleteLinkDefinitionRequest, ErrorReason, GetLinkDefinitionRequest,
    ListLinkDefinitionsRequest, Outcome, Revision, WatchRequest, WriteResult, apply_request::Operation,
    apply_service_client::ApplyServiceClient, consistency::Requirement, entry,
    link_definition_service_client::LinkDefinitionServiceClient, watch_service_client::WatchServiceClient,
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, ConnectError, Request, Response, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use crate::harness::{
    api::outcome_of, keys, link, nats::PATIENCE, process::Process, put_link, until, view::View,
    watch::watch_all,
};

const CONTRACT: &str = "wasmcloud:keyvalue";
const WRITERS: usize = 3;
const WATCHERS: usize = 2;
/// Entries that are applied over the stream, each one operation at a time.
const APPLIED: usize = 8;
/// The margin between clocks, and some more.
const OLD_ENOUGH: Duration = Duration::from_millis(2_100);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts, and between two writes.
const PAUSE: Duration = Duration::from_millis(20);
/// Links that each writer puts and deletes in turn. So none is written more than 32 times in the margin between clocks, and
/// a gateway that has just begun tells a retry's outcome by the record alone.
const LINKS: usize = 4;

/// What stands of an entry, as its only writer was told.
type Standing = BTreeMap<String, Option<(String, u64)>>;

/// The clients of all kinds, while they run.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Standing>>,
    watchers: Vec<(JoinHandle<()>, Arc<Mutex<View>>)>,
}

struct Shared {
    channel: Channel,
    stop: CancellationToken,
    /// What each client has been told so far.
    told: Vec<AtomicU64>,
    tally: Mutex<Tally>,
}

/// How calls went.
#[derive(Debug, Default)]
pub struct Tally {
    calls: u64,
    /// Attempts that had to be repeated, by what was told.
    repeated: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    /// Whether a gateway said that NATS is away.
    pub fn was_cut_off(&self) -> bool {
        self.repeated.contains_key("BackendUnavailable")
    }
}

/// What an attempt that failed says about the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    NotApplied,
    MayBeApplied,
    Final,
}

fn reason(status: &Status) -> Option<ErrorReason> {
    let info = status.get_details_error_info()?;
    ErrorReason::from_str_name(&info.reason)
}

/// The table of *Retrying*.
fn verdict(status: &Status) -> Verdict {
    match reason(status) {
        None if was_not_sent(status) => Verdict::NotApplied,
        Some(ErrorReason::OutcomeUnknown) | None => Verdict::MayBeApplied,
        Some(ErrorReason::ReadTimedOut) => Verdict::NotApplied,
        Some(_) if status.code() == Code::Unavailable => Verdict::NotApplied,
        Some(_) => Verdict::Final,
    }
}

/// Tonic makes this error only while it has no connection to send a request on.
fn was_not_sent(status: &Status) -> bool {
    let mut sources = std::iter::successors(status.source(), |&error| error.source());
    sources.any(<dyn Error>::is::<ConnectError>)
}

impl Load {
    /// Begins, and waits until every client is served.
    pub async fn begin(gateways: &[Process]) -> Self {
        let shared = Arc::new(Shared {
            channel: Process::channel_over(gateways),
            stop: CancellationToken::new(),
            told: (0..=WRITERS + WATCHERS).map(|_| AtomicU64::new(0)).collect(),
            tally: Mutex::default(),
        });
        let writers = (0..WRITERS).map(|place| tokio::spawn(Arc::clone(&shared).write(place)));
        let applying = tokio::spawn(Arc::clone(&shared).apply(WRITERS));
        let watchers = (0..WATCHERS).map(|number| {
            let view = Arc::<Mutex<View>>::default();
            let watching = Arc::clone(&shared).watch(WRITERS + 1 + number, Arc::clone(&view));
            (tokio::spawn(watching), view)
        });
        let load = Self {
            writers: writers.chain([applying]).collect(),
            watchers: watchers.collect(),
            shared,
        };
        load.goes_on("the load begins").await;
        // Time itself is under test: a record begins with its entry, and a retry that may be older cannot be told.
        sleep(OLD_ENOUGH).await;
        load.tell("begun");
        load
    }

    /// Waits until every client was told some more.
    pub async fn goes_on(&self, when: &str) {
        const MORE: u64 = 12;
        let told = || self.shared.told.iter().map(|told| told.load(Ordering::Relaxed));
        let goals = told().map(|told| told + MORE).collect::<Vec<_>>();
        until(&format!("the load goes on while {when}"), async || {
            self.is_well();
            told().zip(&goals).all(|(told, goal)| told >= *goal).then_some(())
        })
        .await;
    }

    fn is_well(&self) {
        let watchers = self.watchers.iter().map(|(watcher, _)| watcher.is_finished());
        let writers = self.writers.iter().map(JoinHandle::is_finished);
        assert!(
            !writers.chain(watchers).any(|is_over| is_over),
            "a client has failed"
        );
    }

    /// Tells, with `--nocapture`, how it went since it was last told.
    pub fn tell(&self, what: &str) -> Tally {
        let tally = std::mem::take(&mut *self.shared.tally.lock());
        #[expect(clippy::print_stdout, reason = "for people, with --nocapture")]
        {
            println!("{what}: {tally:?}");
        }
        tally
    }

    /// Ends, and checks that what was acknowledged stands, once, on every gateway and for every watcher.
    pub async fn end(self, gateways: &[Process]) {
        self.shared.stop.cancel();
        let mut expected = BTreeMap::new();
        for told in join_all(self.writers).await {
            let standing = told.expect("no call fails").into_iter();
            expected.extend(standing.filter_map(|(actor, stands)| Some((actor, stands?))));
        }
        for gateway in gateways {
            assert_eq!(standing_on(gateway).await, expected);
        }
        for (watcher, view) in self.watchers {
            until("the watcher's view is what stands", async || {
                assert!(!watcher.is_finished(), "a watch has failed");
                (shown(&view.lock()) == expected).then_some(())
            })
            .await;
            watcher.abort();
        }
    }
}

/// What a gateway reads from the stream: every link's value, and where it was written.
async fn standing_on(gateway: &Process) -> BTreeMap<String, (String, u64)> {
    let list = ListLinkDefinitionsRequest {
        lattice: "default".into(),
        consistency: Some(Consistency {
            requirement: Some(Requirement::FullyConsistent(true)),
        }),
        page_size: 1_000,
        ..ListLinkDefinitionsRequest::default()
    };
    let answer = until("the gateway reads", async || {
        let mut client = LinkDefinitionServiceClient::new(gateway.channel());
        client.list_link_definitions(list.clone()).await.ok()
    });
    let links = answer.await.into_inner().link_definitions.into_iter();
    links
        .map(|mut link| {
            let value = link.values.remove("value").unwrap();
            (link.actor_id, (value, link.revision.unwrap().sequence))
        })
        .collect()
}

/// The same, as a watcher sees it; nothing while its view is of no one revision.
fn shown(view: &View) -> BTreeMap<String, (String, u64)> {
    let links = view
        .entries()
        .filter(|_| view.is_consistent)
        .map(|entry| match &entry.entry {
            Some(entry::Entry::LinkDefinition(link)) => {
                let value = link.values["value"].clone();
                (link.actor_id.clone(), (value, link.revision.unwrap().sequence))
            }
            other => panic!("not a link: {other:?}"),
        });
    links.collect()
}

impl Shared {
    fn progress(&self, client: usize) {
        self.told[client].fetch_add(1, Ordering::Relaxed);
    }

    fn repeated(&self, status: &Status) {
        let told = match reason(status) {
            Some(reason) => format!("{reason:?}"),
            None if was_not_sent(status) => "no connection".to_owned(),
            None => format!("{:?}: {status}", status.code()),
        };
        *self.tally.lock().repeated.entry(told).or_default() += 1;
    }

    fn answered(&self, first: Instant) {
        let mut tally = self.tally.lock();
        tally.calls += 1;
        tally.slowest = tally.slowest.max(first.elapsed());
    }

    /// Calls until there is an answer. An error that no retry mends is one; none within [`PATIENCE`] is a failed call.
    async fn call<M: Clone, R, F>(
        &self,
        message: M,
        send: impl Fn(Request<M>, Option<Duration>) -> F,
    ) -> Result<R, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let first = Instant::now();
        let mut doubtful_since = None;
        loop {
            let attempted = Instant::now();
            let mut request = Request::new(message.clone());
            request.set_timeout(ATTEMPT);
            let age = doubtful_since.map(|since: Instant| since.elapsed());
            let status = match send(request, age).await {
                Ok(answer) => {
                    self.answered(first);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            match verdict(&status) {
                Verdict::Final => {
                    self.answered(first);
                    return Err(status);
                }
                Verdict::NotApplied => {}
                Verdict::MayBeApplied => doubtful_since = doubtful_since.or(Some(attempted)),
            }
            self.repeated(&status);
            assert!(first.elapsed() < PATIENCE, "a call failed: {status:?}");
            sleep(PAUSE).await;
        }
    }

    /// Puts each link twice and deletes it, again and again, and reads each write back.
    async fn write(self: Arc<Self>, place: usize) -> Standing {
        let (actors, provider) = ([(); LINKS].map(|()| keys::actor()), keys::provider());
        let mut standing = Standing::new();
        for number in 0_usize.. {
            let actor = &actors[number % LINKS];
            let (value, request_id) = (format!("{place}-{number}"), format!("request-{place}-{number}"));
            let is_delete = number / LINKS % 3 == 2;
            let written = match is_delete {
                true => self.delete(actor, &request_id).await,
                false => self.put(actor, &provider, &value, &request_id).await,
            };
            let at = once(&written.expect("a write fails"));
            let value = (!is_delete).then_some((value, at.sequence));
            assert_eq!(self.read(actor, at).await, value, "its own write");
            standing.insert(actor.clone(), value);
            self.progress(place);
            if self.stop.is_cancelled() {
                break;
            }
            sleep(PAUSE).await;
        }
        standing
    }

    async fn put(
        &self,
        actor: &str,
        provider: &str,
        value: &str,
        request_id: &str,
    ) -> Result<WriteResult, Status> {
        let mut put = put_link(link(actor, provider, value));
        put.request_id = request_id.to_owned();
        let answer = self.call(put, |mut request, age| {
            request.get_mut().retry_age = age.map(Into::into);
            let mut client = LinkDefinitionServiceClient::new(self.channel.clone());
            async move { client.put_link_definition(request).await }
        });
        Ok(answer.await?.result.unwrap())
    }

    async fn delete(&self, actor: &str, request_id: &str) -> Result<WriteResult, Status> {
        let delete = DeleteLinkDefinitionRequest {
            lattice: "default".into(),
            actor_id: Some(actor.to_owned()),
            contract_id: Some(CONTRACT.to_owned()),
            request_id: request_id.to_owned(),
            ..DeleteLinkDefinitionRequest::default()
        };
        let answer = self.call(delete, |mut request, age| {
            request.get_mut().retry_age = age.map(Into::into);
            let mut client = LinkDefinitionServiceClient::new(self.channel.clone());
            async move { client.delete_link_definition(request).await }
        });
        Ok(answer.await?.result.unwrap())
    }

    async fn read(&self, actor: &str, at: Revision) -> Option<(String, u64)> {
        let get = GetLinkDefinitionRequest {
            lattice: "default".into(),
            actor_id: Some(actor.to_owned()),
            contract_id: Some(CONTRACT.to_owned()),
            consistency: Some(Consistency {
                requirement: Some(Requirement::AtLeastAsFresh(at)),
            }),
            ..GetLinkDefinitionRequest::default()
        };
        let answer = self.call(get, |request, _age| {
            let mut client = LinkDefinitionServiceClient::new(self.channel.clone());
            async move { client.get_link_definition(request).await }
        });
        match answer.await {
            Ok(answer) => {
                let link = answer.link_definition.unwrap();
                Some((link.values["value"].clone(), link.revision.unwrap().sequence))
            }
            Err(status) if reason(&status) == Some(ErrorReason::EntryNotFound) => None,
            Err(status) => panic!("a read failed: {status:?}"),
        }
    }

    /// Puts links over one stream after the other.
    async fn apply(self: Arc<Self>, client: usize) -> Standing {
        let mut applying = Applying::new();
        while !applying.is_over() {
            let (operations, sent) = mpsc::channel(APPLIED);
            let mut service = ApplyServiceClient::new(self.channel.clone());
            let ended = match service.apply(ReceiverStream::new(sent)).await {
                Ok(answers) => {
                    self.apply_over(&mut applying, operations, answers.into_inner(), client)
                        .await
                }
                Err(status) => Err(status),
            };
            if let Err(status) = ended {
                assert_ne!(verdict(&status), Verdict::Final, "{status:?}");
                applying.broke(verdict(&status));
                self.repeated(&status);
                sleep(PAUSE).await;
            }
        }
        applying.standing
    }

    async fn apply_over(
        &self,
        applying: &mut Applying,
        operations: mpsc::Sender<ApplyRequest>,
        mut answers: Streaming<lattice_gateway::proto::ApplyResponse>,
        client: usize,
    ) -> Result<(), Status> {
        for place in 0..APPLIED {
            if let Some(request) = applying.request(place) {
                drop(operations.send(request).await);
            }
        }
        while !applying.is_over() {
            let answer = timeout(PATIENCE, answers.message())
                .await
                .expect("an answer comes");
            let Some(answer) = answer? else {
                panic!("the server ended the call well, and the client had not");
            };
            let place = answer.id.parse::<usize>().unwrap();
            match outcome_of(answer) {
                Ok(result) => {
                    self.answered(applying.first_sent(place));
                    applying.applied(place, once(&result), self.stop.is_cancelled());
                    self.progress(client);
                }
                Err(status) => {
                    assert_ne!(verdict(&status), Verdict::Final, "{status:?}");
                    applying.failed(place, verdict(&status));
                    self.repeated(&status);
                }
            }
            sleep(PAUSE).await;
            if let Some(request) = applying.request(place) {
                drop(operations.send(request).await);
            }
        }
        Ok(())
    }

    /// Watches over one call after the other; every promise of the contract is checked on the way.
    async fn watch(self: Arc<Self>, client: usize, view: Arc<Mutex<View>>) {
        loop {
            let request = WatchRequest {
                resume_token: view.lock().resume_token.clone(),
                ..watch_all()
            };
            view.lock().resumed();
            let mut service = WatchServiceClient::new(self.channel.clone());
            let status = match service.watch(request).await {
                Ok(messages) => self.watch_over(messages.into_inner(), &view, client).await,
                Err(status) => status,
            };
            assert_ne!(verdict(&status), Verdict::Final, "{status:?}");
            self.repeated(&status);
            sleep(PAUSE).await;
        }
    }

    async fn watch_over(
        &self,
        mut messages: Streaming<lattice_gateway::proto::WatchResponse>,
        view: &Mutex<View>,
        client: usize,
    ) -> Status {
        loop {
            let message = timeout(PATIENCE, messages.message()).await;
            match message.expect("a watch tells something every 10 s") {
                Ok(message) => {
                    let message = message.expect("a watch does not end without an error");
                    view.lock().take(message).unwrap();
                    self.progress(client);
                }
                Err(status) => return status,
            }
        }
    }
}

/// Where a write stands: applied by this call, by one of its attempts alone, and by nobody since.
fn once(result: &WriteResult) -> Revision {
    assert!(
        matches!(result.outcome(), Outcome::Applied | Outcome::AlreadyApplied),
        "{result:?}"
    );
    assert!(!result.superseded, "{result:?}");
    result.revision.unwrap()
}

/// What is applied over streams.
struct Applying {
    provider: String,
    /// One operation of each entry, until that is answered.
    due: Vec<Option<Due>>,
    actors: Vec<String>,
    standing: Standing,
}

struct Due {
    number: u64,
    first_sent: Option<Instant>,
    sent: Option<Instant>,
    doubtful_since: Option<Instant>,
}

impl Due {
    fn new(number: u64) -> Self {
        Self {
            number,
            first_sent: None,
            sent: None,
            doubtful_since: None,
        }
    }

    fn failed(&mut self, verdict: Verdict) {
        let sent = self.sent.take();
        if verdict == Verdict::MayBeApplied {
            self.doubtful_since = self.doubtful_since.or(sent);
        }
        let waits = self.first_sent.map_or(Duration::ZERO, |first| first.elapsed());
        assert!(waits < PATIENCE, "an operation failed");
    }
}

impl Applying {
    fn new() -> Self {
        Self {
            provider: keys::provider(),
            due: (0..APPLIED).map(|_| Some(Due::new(0))).collect(),
            actors: (0..APPLIED).map(|_| keys::actor()).collect(),
            standing: Standing::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.due.iter().all(Option::is_none)
    }

    fn value(place: usize, number: u64) -> String {
        format!("applied-{place}-{number}")
    }

    /// The operation of an entry, which is sent now.
    fn request(&mut self, place: usize) -> Option<ApplyRequest> {
        let due = self.due[place].as_mut()?;
        let now = Instant::now();
        due.first_sent = due.first_sent.or(Some(now));
        due.sent = Some(now);
        let value = Self::value(place, due.number);
        let mut put = put_link(link(&self.actors[place], &self.provider, &value));
        put.request_id = format!("request-{value}");
        put.retry_age = due.doubtful_since.map(|since| since.elapsed().into());
        Some(ApplyRequest {
            id: place.to_string(),
            operation: Some(Operation::PutLinkDefinition(put)),
        })
    }

    fn first_sent(&self, place: usize) -> Instant {
        self.due[place].as_ref().and_then(|due| due.first_sent).unwrap()
    }

    fn applied(&mut self, place: usize, at: Revision, is_last: bool) {
        let number = self.due[place].take().unwrap().number;
        let value = Self::value(place, number);
        self.standing
            .insert(self.actors[place].clone(), Some((value, at.sequence)));
        self.due[place] = (!is_last).then(|| Due::new(number + 1));
    }

    fn failed(&mut self, place: usize, verdict: Verdict) {
        self.due[place].as_mut().unwrap().failed(verdict);
    }

    /// The call ended: so has whatever was sent over it.
    fn broke(&mut self, verdict: Verdict) {
        for due in self.due.iter_mut().flatten() {
            due.failed(verdict);
        }
    }
}
