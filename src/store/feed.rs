//! Keeps the mirror of one stream fed and true.
//!
//! Three tasks a stream. The *feed* owns one named push consumer and applies what it delivers, in order; any gap,
//! silence or loss of the connection makes it read the whole stream anew, beside what is known, and exchange it.
//! The *inspector* asks the leader every [`INSPECTION_INTERVAL`], and on JetStream's advisories, for what a
//! consumer cannot see: purges and deletions, resets, changes of the configuration, a stream of another layout. The
//! *teller* passes on to watches that something changed.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderValue, Message, Subscriber};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    api::{ApiError, JetStream, StreamInfo},
    connection::Connection,
    drift::{self, Drift},
    evidence,
    layout::{Layout, Part, bucket},
    mirror::{Contents, Delivery, Mirror, Told},
};
use crate::domain::{LatticeName, Revision};

/// How often the leader is asked for what a consumer cannot see. Drift, purges and deletions are noticed within
/// this and one round trip.
pub const INSPECTION_INTERVAL: Duration = Duration::from_millis(2_500);

/// How gateways describe the consumer by which they follow a stream.
pub const DESCRIPTION: &str = "mirror of a lattice gateway";

const HEARTBEAT: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
const CONSUMER_KEPT_FOR: Duration = Duration::from_secs(30);
const BACKOFF: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(1);
const BATCH_MAX: usize = 256;
/// Listing a stream's subjects takes at most one part in so many of the inspector's time.
const LISTING_SHARE: u32 = 10;

/// What the leader last told of the stream.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// False once the stream is gone: this feed has ended.
    pub exists: bool,
    /// The configuration, as JetStream shows it.
    pub config: serde_json::Value,
    /// How it differs from what hosts create.
    pub drift: Vec<Drift>,
    /// Whether the stream of another layout exists too: a host is migrating, or the wrong era's is at work.
    pub has_rival: bool,
    /// Why the stream cannot be read at the moment.
    pub trouble: Option<ApiError>,
    /// The stream's last sequence.
    pub last_sequence: u64,
}

/// What a feed works with.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// The lattice.
    pub lattice: LatticeName,
    /// Which of its streams.
    pub part: Part,
    /// The API, over the connection that requests use.
    pub api: JetStream,
    /// The connection that deliveries come over, apart from the requests'.
    pub deliveries: Connection,
    /// Distinguishes this gateway's consumers from those of others.
    pub instance: Arc<str>,
}

/// A handle on the tasks; they end when `stop` is cancelled or the stream is gone.
#[derive(Debug)]
pub struct Feed {
    worker: Worker,
    inspection: watch::Receiver<Inspection>,
}

impl Feed {
    /// Prepares the feed of a stream that was just described by `info`. The three futures do the work.
    pub fn start(
        config: FeedConfig,
        info: &StreamInfo,
        stop: &CancellationToken,
    ) -> (
        Self,
        impl Future<Output = ()> + Send + use<>,
        impl Future<Output = ()> + Send + use<>,
        impl Future<Output = ()> + Send + use<>,
    ) {
        let want = config
            .part
            .stream_config(&config.lattice, config.part.default_storage());
        let (sender, inspection) = watch::channel(Inspection {
            exists: true,
            drift: drift::compare(config.part, &want, &info.config),
            config: info.config.clone(),
            has_rival: false,
            trouble: None,
            last_sequence: info.state.last_seq,
        });
        let ended = stop.child_token();
        let worker = Worker {
            stream: config.part.stream_name(&config.lattice),
            subject_prefix: config.part.subject_prefix(&config.lattice),
            want,
            config,
            mirror: Arc::new(Mirror::new()),
            wake: Arc::default(),
            listing: Arc::default(),
            disturbed: Arc::default(),
            inspection: Arc::new(sender),
            ended,
        };
        let feed = worker.clone().feed();
        let inspector = worker.clone().inspect_for_ever();
        let teller = worker.clone().tell();
        (Self { worker, inspection }, feed, inspector, teller)
    }

    /// What the stream holds.
    pub fn mirror(&self) -> &Mirror {
        &self.worker.mirror
    }

    /// What the leader last told.
    pub fn inspection(&self) -> Inspection {
        self.inspection.borrow().clone()
    }

    /// Looks at what the leader last told, without a copy.
    pub fn with_inspection<T>(&self, look: impl FnOnce(&Inspection) -> T) -> T {
        look(&self.inspection.borrow())
    }

    /// What the leader tells, for who waits for a change.
    pub fn inspections(&self) -> watch::Receiver<Inspection> {
        self.inspection.clone()
    }

    /// Has the stream read anew, since the leader told something that the mirror cannot have seen.
    pub fn reread(&self) {
        self.worker.wake.notify_one();
    }

    /// Takes out of the mirror what somebody has removed, where more is held than the leader told that there is.
    pub async fn notice_removals(&self, told: Told) -> Result<(), ApiError> {
        let holds_too_much = || self.mirror().read(|contents| contents.holds_more_than(told)) == Some(true);
        if holds_too_much() {
            let _listing = self.worker.listing.lock().await;
            while holds_too_much() {
                self.worker.take_out_what_is_gone().await?;
            }
        }
        Ok(())
    }

    /// Ends as if the stream were gone, so that the next call finds out anew what there is.
    pub fn end(&self) {
        self.worker.end();
    }

    /// When the stream last had a leader elected, as far as was noticed.
    pub fn disturbed(&self) -> Option<Instant> {
        *self.worker.disturbed.lock()
    }

    /// Takes out of the mirror what this gateway removed from the stream.
    pub fn removed(&self, tokens: &str, sequence: u64) {
        self.worker
            .mirror
            .change(|contents| contents.remove(tokens, sequence));
    }

    /// Notes that the stream holds nothing that is not in the mirror, up to this revision.
    pub fn caught_up(&self, revision: Revision) {
        self.worker.mirror.change(|contents| contents.reached(revision));
    }
}

#[derive(Clone, Debug)]
struct Worker {
    config: FeedConfig,
    stream: String,
    subject_prefix: String,
    want: serde_json::Value,
    mirror: Arc<Mirror>,
    wake: Arc<Notify>,
    /// Held while the stream's subjects are listed for a call: the others that noticed the same wait.
    listing: Arc<tokio::sync::Mutex<()>>,
    /// When the stream last had a leader elected, as far as is known.
    disturbed: Arc<Mutex<Option<Instant>>>,
    inspection: Arc<watch::Sender<Inspection>>,
    ended: CancellationToken,
}

/// Why one consumer's life ended.
enum Ended {
    Gone,
    Reread(&'static str),
    Failed(ApiError),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        match error.is_stream_not_found() {
            true => Self::Gone,
            false => Self::Failed(error),
        }
    }
}

impl Worker {
    async fn feed(self) {
        let ended = self.ended.clone();
        ended.run_until_cancelled(self.feed_for_ever()).await;
    }

    async fn feed_for_ever(self) {
        let mut backoff = BACKOFF.start;
        for generation in 0_u64.. {
            self.config.api.connection().connected().await;
            self.config.deliveries.connected().await;
            let name = format!("lattice-gateway-{}-{generation}", self.config.instance);
            let began = Instant::now();
            let Err(end) = self.follow(&name).await;
            match end {
                Ended::Gone => return self.end_gone(),
                Ended::Reread(reason) => info!(stream = %self.stream, reason, "reading the stream anew"),
                Ended::Failed(error) => {
                    warn!(stream = %self.stream, %error, "the stream cannot be read");
                    self.inspection
                        .send_modify(|inspection| inspection.trouble = Some(error));
                }
            }
            self.delete_consumer(name);
            if began.elapsed() > BACKOFF.end {
                backoff = BACKOFF.start;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.end);
        }
    }

    /// Follows the stream by one consumer, for as long as that is whole.
    async fn follow(&self, name: &str) -> Result<std::convert::Infallible, Ended> {
        let losses = self.config.deliveries.losses();
        let inbox = self.config.deliveries.new_inbox();
        let mut deliveries = self
            .config
            .deliveries
            .subscribe(inbox.clone())
            .await
            .map_err(|failed| Ended::Failed(ApiError::Request(failed)))?;
        let api = &self.config.api;
        let config = self.consumer_config(name, &inbox);
        let created = api.consumer_create(&self.stream, name, &config).await?;
        // After the consumer was made: a stream made again in between would have taken the consumer with it.
        let told = api.stream_info_not_behind(&self.stream, || self.mirror.position());
        let info = told.await?.info;
        let contents = Contents::new(self.config.part, info.epoch(&self.stream));

        let mut follower = Follower {
            worker: self,
            last_heard: Instant::now(),
            next_delivery: 1,
            whole_at: info.state.last_seq,
            reading: Some(contents),
        };
        if created.num_pending == 0 {
            follower.exchange_once_whole().await?;
        }
        tokio::select! {
            end = follower.run(&mut deliveries) => end,
            () = self.wake.notified() => Err(Ended::Reread("the leader tells another story")),
            () = self.config.deliveries.lost_since(losses) => Err(Ended::Reread("the connection was lost")),
        }
    }

    fn consumer_config(&self, name: &str, inbox: &str) -> serde_json::Value {
        json!({
            "name": name,
            "description": DESCRIPTION,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": format!("{}>", self.subject_prefix),
            "flow_control": true,
            "idle_heartbeat": nanos(HEARTBEAT),
            "inactive_threshold": nanos(CONSUMER_KEPT_FOR),
            "mem_storage": true,
            "num_replicas": 1,
        })
    }

    /// Not waited for: the server forgets it by itself too.
    fn delete_consumer(&self, name: String) {
        let (api, stream) = (self.config.api.clone(), self.stream.clone());
        drop(tokio::spawn(async move {
            if let Err(error) = api.consumer_delete(&stream, &name).await {
                debug!(%stream, %name, %error, "the consumer was not deleted");
            }
        }));
    }

    fn end_gone(&self) {
        warn!(stream = %self.stream, "the stream is gone");
        self.end();
    }

    fn end(&self) {
        self.inspection
            .send_modify(|inspection| inspection.exists = false);
        self.ended.cancel();
    }

    async fn inspect_for_ever(self) {
        let ended = self.ended.clone();
        ended
            .run_until_cancelled(async {
                let mut advisories = self.advisories().await;
                let mut listing_due = Instant::now();
                loop {
                    self.inspect(&mut listing_due).await;
                    tokio::select! {
                        () = sleep(INSPECTION_INTERVAL) => {}
                        advisory = any_of(&mut advisories) => self.notice(&advisory),
                    }
                }
            })
            .await;
    }

    async fn tell(self) {
        self.ended.run_until_cancelled(self.mirror.tell_for_ever()).await;
        self.mirror.tell_end();
    }

    async fn advisories(&self) -> Vec<Subscriber> {
        let mut subscribers = Vec::new();
        for subject in advisories(&self.config.lattice, self.config.part) {
            match self.config.deliveries.subscribe(subject).await {
                Ok(subscriber) => subscribers.push(subscriber),
                Err(failed) => warn!(?failed, "no advisories: changes are noticed by asking"),
            }
        }
        subscribers
    }

    async fn inspect(&self, listing_due: &mut Instant) {
        let api = &self.config.api;
        let found = async {
            let told = api.stream_info_not_behind(&self.stream, || self.mirror.position());
            let told = told.await?;
            let Some(rival) = rival(&self.config.lattice, self.config.part) else {
                return Ok((told, false));
            };
            match api.stream_info(&rival).await {
                Ok(_) => Ok((told, true)),
                Err(error) if error.is_stream_not_found() => Ok((told, false)),
                Err(error) => Err(error),
            }
        };
        let (told, has_rival) = match found.await {
            Ok(found) => found,
            Err(error) if error.is_stream_not_found() => return self.end_gone(),
            Err(error) => {
                debug!(stream = %self.stream, %error, "the leader does not answer");
                self.inspection
                    .send_modify(|inspection| inspection.trouble = Some(error));
                return;
            }
        };
        self.note(&told.info, has_rival);
        let held = self.mirror.read(Contents::subjects);
        if told.is_other_story {
            self.wake.notify_one();
        } else if held.is_some_and(|held| held != told.info.state.num_subjects)
            && Instant::now() >= *listing_due
        {
            // Under load the numbers differ without anything being gone, and a long list takes its time.
            let began = Instant::now();
            if let Err(error) = self.take_out_what_is_gone().await {
                debug!(stream = %self.stream, %error, "the stream's subjects cannot be listed");
            }
            *listing_due = began + (Instant::now() - began) * LISTING_SHARE;
        }
    }

    /// A host whose watch is not back yet after an election can go deaf by a write.
    fn notice(&self, advisory: &Message) {
        if advisory.subject.starts_with(LEADER_ELECTED) {
            *self.disturbed.lock() = Some(Instant::now());
        }
    }

    fn note(&self, info: &StreamInfo, has_rival: bool) {
        let drift = drift::compare(self.config.part, &self.want, &info.config);
        let is_news = self.inspection.send_if_modified(|inspection| {
            let is_news = inspection.drift != drift
                || inspection.has_rival != has_rival
                || inspection.trouble.is_some();
            if inspection.drift != drift {
                warn!(stream = %self.stream, ?drift, "the stream's configuration has changed");
            }
            inspection.drift = drift;
            inspection.config = info.config.clone();
            inspection.has_rival = has_rival;
            inspection.trouble = None;
            inspection.last_sequence = info.state.last_seq;
            is_news
        });
        if is_news {
            self.mirror.stir();
        }
    }

    /// Consumers are not told of purges and deletions; the list of subjects tells.
    async fn take_out_what_is_gone(&self) -> Result<(), ApiError> {
        let Some((subjects, last_sequence)) = self.config.api.stream_subjects(&self.stream).await? else {
            return Ok(());
        };
        let is_held = |tokens: &str| subjects.contains(&format!("{}{tokens}", self.subject_prefix));
        let gone = self
            .mirror
            .read(|contents| contents.missing(last_sequence, is_held))
            .unwrap_or_default();
        if gone.is_empty() {
            return Ok(());
        }
        info!(stream = %self.stream, messages = gone.len(), "messages were removed from the stream");
        self.mirror.change(|contents| {
            for (tokens, sequence) in &gone {
                contents.remove(tokens, *sequence);
            }
        });
        Ok(())
    }
}

struct Follower<'a> {
    worker: &'a Worker,
    last_heard: Instant,
    next_delivery: u64,
    /// The sequence up to which what is read has to reach.
    whole_at: u64,
    /// What is read beside the known contents, until it is whole.
    reading: Option<Contents>,
}

impl Follower<'_> {
    async fn run(&mut self, deliveries: &mut Subscriber) -> Result<std::convert::Infallible, Ended> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            let deadline = self.last_heard + SILENCE_MAX;
            match timeout(
                deadline.saturating_duration_since(Instant::now()),
                deliveries.next(),
            )
            .await
            {
                Err(_silence) => return Err(Ended::Reread("the consumer is silent")),
                Ok(None) => return Err(Ended::Reread("the subscription ended")),
                Ok(Some(message)) => batch.push(message),
            }
            while batch.len() < BATCH_MAX
                && let Some(Some(message)) = deliveries.next().now_or_never()
            {
                batch.push(message);
            }
            self.last_heard = Instant::now();
            self.take(&batch).await?;
            batch.clear();
        }
    }

    async fn take(&mut self, batch: &[Message]) -> Result<(), Ended> {
        let mut parsed = Vec::with_capacity(batch.len());
        for message in batch {
            if message.status.is_some() {
                self.answer_control(message).await?;
                continue;
            }
            let place = message
                .reply
                .as_deref()
                .and_then(Place::parse)
                .ok_or(Ended::Reread("a delivery without its place"))?;
            if place.delivery != self.next_delivery {
                return Err(Ended::Reread("a delivery is missing"));
            }
            self.next_delivery += 1;
            if let Some(tokens) = message.subject.strip_prefix(&self.worker.subject_prefix) {
                parsed.push((place, tokens, message));
            }
        }
        let Some((last, ..)) = parsed.last() else {
            // A heartbeat: nothing more comes for now.
            return self.exchange_once_whole().await;
        };
        match &mut self.reading {
            Some(contents) => put_all(contents, &parsed),
            None => self.worker.mirror.change(|contents| put_all(contents, &parsed)),
        }
        if last.pending == 0 || last.sequence >= self.whole_at {
            self.exchange_once_whole().await?;
        }
        Ok(())
    }

    /// Puts what is read in the place of what was known, once it is whole. The consumer may run on a replica that lags:
    /// where it has nothing more, only the leader knows whether there is no more.
    async fn exchange_once_whole(&mut self) -> Result<(), Ended> {
        let Some(contents) = &mut self.reading else {
            return Ok(());
        };
        let position = contents.position();
        if position.sequence < self.whole_at {
            let nothing = self.worker.config.api.holds_nothing_behind(
                &self.worker.stream,
                position.sequence,
                self.whole_at,
            );
            if !nothing.await? {
                return Ok(());
            }
            contents.reached(Revision {
                sequence: self.whole_at,
                ..position
            });
        }
        if let Some(contents) = self.reading.take() {
            debug!(stream = %self.worker.stream, messages = contents.subjects(), "the stream was read");
            self.worker.mirror.exchange(contents);
        }
        Ok(())
    }

    /// Heartbeats tell how many deliveries there were; flow control wants an answer.
    async fn answer_control(&self, message: &Message) -> Result<(), Ended> {
        let header = |name: &'static str| {
            let headers = message.headers.as_ref()?;
            Some(headers.get(name)?.as_str())
        };
        if let Some(reply) = &message.reply {
            self.reply(reply.to_string()).await;
        }
        if let Some(stalled) = header("Nats-Consumer-Stalled") {
            self.reply(stalled.to_owned()).await;
        }
        let told = header("Nats-Last-Consumer").and_then(|text| text.parse::<u64>().ok());
        match told {
            Some(told) if told >= self.next_delivery => Err(Ended::Reread("deliveries were missed")),
            _ => Ok(()),
        }
    }

    async fn reply(&self, subject: String) {
        self.worker
            .config
            .deliveries
            .notify(subject, bytes::Bytes::new())
            .await;
    }
}

fn put_all(contents: &mut Contents, batch: &[(Place, &str, &Message)]) {
    for (place, tokens, message) in batch {
        let evidence = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(evidence::HEADER))
            .map(|value| value.as_str().as_bytes());
        contents.put(&Delivery {
            tokens,
            sequence: place.sequence,
            unix_nanos: place.unix_nanos,
            is_marker: is_marker(message),
            body: &message.payload,
            evidence,
        });
    }
}

/// Whether a bucket's message tells that its key is gone: deleted or purged by somebody, or aged.
fn is_marker(message: &Message) -> bool {
    let Some(headers) = &message.headers else {
        return false;
    };
    let operation = headers.get("KV-Operation").map(HeaderValue::as_str);
    matches!(operation, Some("DEL" | "PURGE")) || headers.get("Nats-Marker-Reason").is_some()
}

/// Where a delivery stands, from its reply subject (NATS ADR-15):
/// `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<delivery>.<nanos>.<pending>[.<token>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    sequence: u64,
    delivery: u64,
    unix_nanos: i64,
    pending: u64,
}

impl Place {
    fn parse(reply: &str) -> Option<Self> {
        let tokens = reply.strip_prefix("$JS.ACK.")?.split('.').collect::<Vec<_>>();
        let numbers = match tokens.as_slice() {
            [_stream, _consumer, rest @ ..] if rest.len() == 5 => rest,
            [_domain, _account, _stream, _consumer, rest @ ..] => rest,
            _ => return None,
        };
        let [_delivered, sequence, delivery, unix_nanos, pending, ..] = numbers else {
            return None;
        };
        Some(Self {
            sequence: sequence.parse().ok()?,
            delivery: delivery.parse().ok()?,
            unix_nanos: unix_nanos.parse().ok()?,
            pending: pending.parse().ok()?,
        })
    }
}

const LEADER_ELECTED: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.";

/// The subjects on which JetStream tells at once what the inspector would find: of the stream whatever happens to it, of
/// another layout's that it is there.
pub fn advisories(lattice: &LatticeName, part: Part) -> Vec<String> {
    let mut subjects = vec![format!(
        "$JS.EVENT.ADVISORY.STREAM.*.{}",
        part.stream_name(lattice)
    )];
    subjects.extend(rival(lattice, part).map(|rival| format!("$JS.EVENT.ADVISORY.STREAM.CREATED.{rival}")));
    subjects
}

/// The stream of another layout, beside which the lattice's layout cannot be told. The bucket's two layouts share it.
pub fn rival(lattice: &LatticeName, part: Part) -> Option<String> {
    match part {
        Part::CacheStream => Some(bucket::stream_name(bucket::DATA, lattice)),
        Part::Kv | Part::Component => Some(Layout::CacheStream.main().stream_name(lattice)),
        Part::Configs => None,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Resolves when any of them receives something.
async fn any_of(subscribers: &mut [Subscriber]) -> Message {
    let mut next = subscribers
        .iter_mut()
        .map(StreamExt::next)
        .collect::<futures_util::stream::FuturesUnordered<_>>();
    match next.next().await {
        Some(Some(message)) => message,
        Some(None) | None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_place_are_read() {
        let expected = Some(Place {
            sequence: 7,
            delivery: 3,
            unix_nanos: 1_790_000_000_000_000_000,
            pending: 2,
        });
        assert_eq!(Place::parse("$JS.ACK.S.c.1.7.3.1790000000000000000.2"), expected);
        assert_eq!(
            Place::parse("$JS.ACK._.AHASH.S.c.1.7.3.1790000000000000000.2.token"),
            expected
        );
        assert_eq!(Place::parse("_INBOX.x"), None);
        assert_eq!(Place::parse("$JS.ACK.S.c.1.7"), None);
    }
}
