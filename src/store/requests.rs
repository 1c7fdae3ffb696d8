//! Requests over one connection: one subscription for all answers, and what is ready together handed over together.
//!
//! Not async-nats' own requests. Those never forget a request that is not answered; and each wakes the connection's task,
//! which then writes it alone, at about what a whole publish costs besides. Here a request that is not alone waits until
//! every task that is ready has run, so that one write takes them all.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, PublishErrorKind, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::connection::RequestFailed;

type Answer = Result<Message, RequestFailed>;

/// NATS tells of a refusal by the subject alone, and by then.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// What the connection had gone through when a request began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// How often it had been lost.
    pub(super) losses: u64,
    /// How often the gateway's user had been refused something.
    pub(super) violations: u64,
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    client: Client,
    /// What the subjects of answers begin with.
    inbox: Box<str>,
    shared: Arc<Shared>,
    _receiving: AbortOnDropHandle<()>,
    _sending: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Names the next request; a name never comes again, so that a late answer is nobody else's.
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// When requests were sent and then given up without an answer, by their subjects.
    unanswered: Mutex<HashMap<String, Instant>>,
    outbox: Mutex<Vec<Outgoing>>,
    is_due: Notify,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Answer>,
    subject: Subject,
    since: Moment,
    /// Whether the client has it.
    is_handed_over: bool,
}

#[derive(Debug)]
struct Outgoing {
    name: u64,
    subject: Subject,
    headers: HeaderMap,
    payload: Bytes,
}

impl Requests {
    /// Begins to receive answers, once the client is connected.
    pub(super) async fn open(client: Client) -> Result<Self, async_nats::SubscribeError> {
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await?;
        let shared = Arc::<Shared>::default();
        let receiving = tokio::spawn(Arc::clone(&shared).receive(answers, inbox.len()));
        let sending = tokio::spawn(Arc::clone(&shared).send(client.clone(), inbox.as_str().into()));
        Ok(Self {
            client,
            inbox: inbox.into(),
            shared,
            _receiving: AbortOnDropHandle::new(receiving),
            _sending: AbortOnDropHandle::new(sending),
        })
    }

    /// Sends a request and waits for its answer. `now` tells what the connection has gone through by the time that the
    /// request is noted: what comes later [`Self::give_up`] tells.
    pub(super) async fn request(
        &self,
        message: (&str, HeaderMap, Bytes),
        since: Moment,
        now: impl FnOnce() -> Moment,
        patience: Duration,
    ) -> Answer {
        let (subject, headers, payload) = message;
        let subject = Subject::from(subject);
        let name = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting {
            answer: sender,
            subject: subject.clone(),
            since,
            is_handed_over: false,
        };
        let is_alone = {
            let mut all = self.shared.waiting.lock();
            all.insert(name, waiting);
            all.len() == 1
        };
        let _forgotten_at_last = Forget(&self.shared, name);
        if now() != since {
            return Err(RequestFailed::NotConnected);
        }
        let outgoing = Outgoing {
            name,
            subject,
            headers,
            payload,
        };
        let answered = async {
            if is_alone {
                self.shared.hand_over(&self.client, &self.inbox, outgoing).await;
            } else {
                self.shared.outbox.lock().push(outgoing);
                self.shared.is_due.notify_one();
            }
            receiver.await.unwrap_or(Err(RequestFailed::Unknown))
        };
        // Over the handing over as well: the client's queue may be full.
        timeout(patience, answered)
            .await
            .unwrap_or(Err(RequestFailed::Unknown))
    }

    /// Ends requests that have lost their hope for an answer, now that the connection has gone through this. `is_forbidden`
    /// tells whether NATS refused a subject since there were so many violations.
    pub(super) fn give_up(&self, now: Moment, is_forbidden: impl Fn(&str, u64) -> bool) {
        let unanswered = self.shared.unanswered.lock();
        let failure = |waiting: &Waiting| {
            let since = waiting.since.violations;
            // Else the refusal may be of an earlier one, and this one be stored.
            let is_of_this = || !unanswered.contains_key(waiting.subject.as_str());
            if now.violations > since && is_of_this() && is_forbidden(&waiting.subject, since) {
                return Some(RequestFailed::Forbidden);
            }
            (now.losses > waiting.since.losses).then_some(match waiting.is_handed_over {
                true => RequestFailed::Unknown,
                false => RequestFailed::NotConnected,
            })
        };
        let mut all = self.shared.waiting.lock();
        for (_, waiting) in all.extract_if(|_, waiting| failure(waiting).is_some()) {
            let failure = failure(&waiting).unwrap_or(RequestFailed::Unknown);
            answer(waiting, Err(failure));
        }
    }
}

impl Shared {
    /// Passes answers on, for as long as the client lives.
    async fn receive(self: Arc<Self>, mut answers: Subscriber, prefix: usize) {
        while let Some(message) = answers.next().await {
            let name = message.subject.get(prefix..).and_then(|name| name.parse().ok());
            let told = match message.status {
                Some(StatusCode::NO_RESPONDERS) => Err(RequestFailed::NoResponders),
                _ => Ok(message),
            };
            if let Some(name) = name {
                self.answered(name, told);
            }
        }
    }

    /// Hands over what is in the outbox, for ever.
    async fn send(self: Arc<Self>, client: Client, inbox: Box<str>) {
        loop {
            self.is_due.notified().await;
            yield_now().await;
            let due = std::mem::take(&mut *self.outbox.lock());
            for outgoing in due {
                self.hand_over(&client, &inbox, outgoing).await;
            }
        }
    }

    /// Hands over a request that somebody waits for still.
    async fn hand_over(&self, client: &Client, inbox: &str, outgoing: Outgoing) {
        let Outgoing {
            name,
            subject,
            headers,
            payload,
        } = outgoing;
        match self.waiting.lock().get_mut(&name) {
            Some(waiting) => waiting.is_handed_over = true,
            None => return,
        }
        let reply = format!("{inbox}{name}");
        let handed_over = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        if let Err(error) = handed_over.await {
            let failed = match error.kind() {
                PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
                    RequestFailed::TooLarge
                }
                PublishErrorKind::Send => RequestFailed::NotConnected,
            };
            self.answered(name, Err(failed));
        }
    }

    fn answered(&self, name: u64, told: Answer) {
        let waiting = self.waiting.lock().remove(&name);
        if let Some(waiting) = waiting {
            answer(waiting, told);
        }
    }
}

fn answer(waiting: Waiting, told: Answer) {
    if waiting.answer.send(told).is_err() {
        // Whoever waited has given up.
    }
}

/// Forgets a request when nobody waits for it any more.
struct Forget<'a>(&'a Shared, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let waiting = self.0.waiting.lock().remove(&self.1);
        if let Some(sent) = waiting.filter(|waiting| waiting.is_handed_over) {
            let now = Instant::now();
            let mut unanswered = self.0.unanswered.lock();
            unanswered.retain(|_, since| now.duration_since(*since) < REFUSED_WITHIN);
            unanswered.insert(sent.subject.to_string(), now);
        }
    }
}

#[cfg(test)]
mod tests;
