//! Sends operations over one call after the other until each is answered for good.
//!
//! The gateway's flow control says how fast. What a broken call leaves unanswered is sent again under its request id,
//! with its age; so is what was not applied for a reason that may pass. The run is given up when nothing is answered for
//! good for as long as `--timeout` says.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::{StreamExt, TryFutureExt, stream};
use lattice_gateway::proto::{ApplyRequest, ApplyResponse, WriteResult, apply_response::Outcome};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::Response;

use super::progress::Progress;
use crate::{
    failure::{CallError, Cause, Doubt, Failure},
    gateway::{self, Gateway},
    retry::{Attempts, Class, Next, class},
};

/// Keeps the gateway busy, and bounds what a broken call leaves in doubt.
const IN_FLIGHT_MAX: usize = 512;
/// Made before the call takes them.
const QUEUED_MAX: usize = 32;
/// For how long answers are waited for after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

/// What became of an operation.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(WriteResult),
    Failed(CallError),
}

/// Sends operations, which are known by their numbers.
pub(crate) struct Drive<'a, F> {
    gateway: &'a Gateway,
    /// Makes the operation of a number, with its age where it may have been applied before.
    operation: F,
    progress: &'a Progress,
    jobs: Vec<Job>,
    /// To be sent now, and later.
    ready: VecDeque<usize>,
    later: BinaryHeap<Reverse<(Instant, usize)>>,
    in_flight: BTreeSet<usize>,
    started: Instant,
    /// When an operation was last answered for good.
    progressed: Instant,
    /// Breaks of calls since then.
    breaks: Attempts,
    last_failure: Option<Failure>,
    /// Set by Ctrl-C: nothing more is sent, and until when answers are waited for.
    stopping: Option<Instant>,
    interruption: Pin<Box<dyn Future<Output = ()>>>,
}

/// One operation.
struct Job {
    attempts: Attempts,
    answer: Option<Answer>,
}

impl<'a, F> Drive<'a, F>
where
    F: Fn(usize, Option<pbjson_types::Duration>) -> Option<ApplyRequest>,
{
    pub(crate) fn new(gateway: &'a Gateway, count: usize, progress: &'a Progress, operation: F) -> Self {
        let now = Instant::now();
        let job = || Job {
            // Bounded by the run's own patience.
            attempts: Attempts::new(Duration::MAX, None),
            answer: None,
        };
        Self {
            gateway,
            operation,
            progress,
            jobs: std::iter::repeat_with(job).take(count).collect(),
            ready: VecDeque::new(),
            later: BinaryHeap::new(),
            in_flight: BTreeSet::new(),
            started: now,
            progressed: now,
            breaks: Attempts::new(gateway.timeout(), None),
            last_failure: None,
            stopping: None,
            interruption: Box::pin(gateway::interruption()),
        }
    }

    /// Sends these, and returns when each is answered or the run is over. Gives true where all went well.
    pub(crate) async fn phase(&mut self, numbers: impl IntoIterator<Item = usize>) -> bool {
        let numbers: Vec<_> = numbers.into_iter().collect();
        self.ready.extend(&numbers);
        self.progressed = Instant::now();
        while self.is_busy() {
            if let Err(failure) = self.call().await {
                self.broke(failure).await;
            }
        }
        let went_well = |number: &usize| {
            let job = self.jobs.get(*number);
            job.is_some_and(|job| matches!(job.answer, Some(Answer::Done(_))))
        };
        self.stopping.is_none() && numbers.iter().all(went_well)
    }

    /// True once Ctrl-C was pressed.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.stopping.is_some()
    }

    /// What became of each; none of what was not sent.
    pub(crate) fn into_answers(self) -> Vec<Option<Answer>> {
        self.jobs.into_iter().map(|job| job.answer).collect()
    }

    fn is_busy(&self) -> bool {
        !(self.ready.is_empty() && self.later.is_empty() && self.in_flight.is_empty())
    }

    /// Sends and takes answers over one call. Ends when nothing is left to wait for; the error says how it broke.
    async fn call(&mut self) -> Result<(), Failure> {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let requests = stream::unfold(receiver, async |mut receiver| {
            receiver
                .recv()
                .await
                .map(|request: ApplyRequest| (request, receiver))
        });
        let mut client = self.gateway.applies();
        let answers = async move { client.apply(requests).await.map(Response::into_inner) };
        // Until the first answer, so that requests are taken while the call opens.
        let mut answers = pin!(answers.try_flatten_stream());
        let mut is_open = true;
        while self.is_busy() {
            let now = Instant::now();
            let wake = self.wake(now)?;
            let may_send = is_open && !self.ready.is_empty() && self.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = &mut self.interruption, if self.stopping.is_none() => self.stop(),
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => self.answered(answer),
                    Some(Err(status)) => return Err(Failure::from(&status)),
                    None => return Err(Failure::ended()),
                },
                permit = sender.reserve(), if may_send => match permit {
                    Ok(permit) => if let Some(request) = self.next() {
                        permit.send(request);
                    },
                    // The call is over; its answers say why.
                    Err(_closed) => is_open = false,
                },
                () = sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// When there is something to do without an answer. Moves what is due, and gives up where it is time to.
    fn wake(&mut self, now: Instant) -> Result<Instant, Failure> {
        while self.later.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            self.ready
                .extend(self.later.pop().map(|Reverse((_, number))| number));
        }
        let patience = self.progressed + self.gateway.timeout();
        let end = self.stopping.map_or(patience, |end| end.min(patience));
        if now >= end {
            return Err(self.given_up());
        }
        Ok(self.later.peek().map_or(end, |Reverse((due, _))| end.min(*due)))
    }

    fn given_up(&mut self) -> Failure {
        if self.stopping.is_some() {
            return Failure::interrupted();
        }
        // What is in flight was sent, whatever failed before.
        let earlier = self.last_failure.take().filter(|_| self.in_flight.is_empty());
        earlier.unwrap_or_else(Failure::no_answer)
    }

    fn next(&mut self) -> Option<ApplyRequest> {
        let number = self.ready.pop_front()?;
        let job = self.jobs.get_mut(number)?;
        let attempt = job.attempts.begin(self.started.elapsed());
        self.in_flight.insert(number);
        // Longer than true is safe, and shorter is not: it may be a while before it is sent.
        let margin = self.gateway.timeout();
        let age = attempt.retry_age.map(|age| age.saturating_add(margin).into());
        (self.operation)(number, age)
    }

    fn answered(&mut self, answer: ApplyResponse) {
        let Some(number) = answer
            .id
            .parse()
            .ok()
            .filter(|number| self.in_flight.remove(number))
        else {
            return;
        };
        let failure = match answer.outcome {
            Some(Outcome::Result(result)) => return self.settle(number, Answer::Done(result)),
            Some(Outcome::Status(status)) => Failure::from(&status),
            None => Failure::not_understood(),
        };
        let class = class(failure.cause);
        let Some(job) = self.jobs.get_mut(number) else {
            return;
        };
        job.attempts.failed(class);
        let pause = gateway::pause(&failure);
        match job.attempts.next(class, pause, self.started.elapsed()) {
            Next::RetryIn(pause) if self.stopping.is_none() => {
                self.later.push(Reverse((Instant::now() + pause, number)));
                self.last_failure = Some(failure);
            }
            Next::RetryIn(_) | Next::Stop => self.fail(number, failure),
        }
    }

    fn settle(&mut self, number: usize, answer: Answer) {
        self.progressed = Instant::now();
        self.breaks = Attempts::new(self.gateway.timeout(), None);
        self.progress.settled(&answer);
        if let Some(job) = self.jobs.get_mut(number) {
            job.answer = Some(answer);
        }
    }

    fn fail(&mut self, number: usize, failure: Failure) {
        let doubt = match self
            .jobs
            .get(number)
            .and_then(|job| job.attempts.age(Duration::MAX))
        {
            Some(_) => Doubt::Repeat,
            None => Doubt::None,
        };
        self.settle(number, Answer::Failed(CallError { failure, doubt }));
    }

    fn stop(&mut self) {
        self.stopping = Some(Instant::now() + GRACE);
        for number in self.waiting() {
            let job = self.jobs.get(number);
            if job.is_some_and(|job| job.attempts.age(Duration::MAX).is_some()) {
                self.fail(number, Failure::interrupted());
            }
        }
    }

    /// Takes out whatever is to be sent.
    fn waiting(&mut self) -> Vec<usize> {
        let later = self.later.drain().map(|Reverse((_, number))| number);
        self.ready.drain(..).chain(later).collect()
    }

    /// Decides how to go on after a call that broke.
    async fn broke(&mut self, failure: Failure) {
        let nothing_was_sent = matches!(
            failure.cause,
            Cause::NotConnected | Cause::NotSecured(_) | Cause::NoToken
        );
        let of_jobs = if nothing_was_sent {
            Class::NotApplied
        } else {
            Class::Doubtful
        };
        for number in std::mem::take(&mut self.in_flight).into_iter().rev() {
            if let Some(job) = self.jobs.get_mut(number) {
                job.attempts.failed(of_jobs);
            }
            self.ready.push_front(number);
        }
        let class = class(failure.cause);
        self.breaks.failed(class);
        let next = self
            .breaks
            .next(class, gateway::pause(&failure), self.progressed.elapsed());
        match next {
            Next::RetryIn(pause) if self.stopping.is_none() => {
                if self.breaks.failed_once() {
                    self.progress.suspend(|| self.gateway.notice(&failure));
                }
                self.last_failure = Some(failure);
                let pause = sleep_until(Instant::now() + pause);
                tokio::select! {
                    () = pause => {}
                    () = &mut self.interruption => self.stop(),
                }
            }
            Next::RetryIn(_) | Next::Stop => self.give_up(&failure),
        }
    }

    /// Fails whatever is not answered.
    fn give_up(&mut self, failure: &Failure) {
        for number in self.waiting() {
            self.fail(number, failure.clone());
        }
    }
}
