//! What goes to a stream at a time, and who waits for its turn.
//!
//! A stream takes no more for being asked more: what is too much only waits there, where nobody can tell any more whether it
//! was applied. So only as much is in flight as was done lately within about twice the stream's own shortest time, which every
//! round of calls finds out anew, and a part of what a call may have to wait. The others wait here, where they are known not to be
//! applied; who would wait for longer than is bearable is refused at once. Once for `STANDING` somebody always waited, that is the
//! configured time; before that it is `BURST` times as long, since what comes all at once is soon done.
//!
//! A stream that is silent for `SILENCE_MAX` while calls are in flight is taken not to answer: who needs it is refused, but for one
//! each `PROBE_INTERVAL`, until a call is answered.

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{ControlError, Deadline};
use crate::telemetry::{Metrics, TurnedAway};

/// What a call may take at the stream: so many times its shortest, since calls differ and so do moments, ...
const SPREAD: u32 = 2;
/// ... and so much of what a call may have to wait longer: what is in flight together is sent and acknowledged together, which
/// costs less. A fixed 3 ms kept 30 in flight at a stream that took 9,000 a second, a quarter less than it took without a gate.
const SLACK: f64 = 0.1;
/// In flight, before anything is known of the stream.
const FIRST: usize = 64;
const LEAST: usize = 4;
const MOST: usize = 1_024;
/// A round that was shorter tells nothing.
const ROUND_TIME_MIN: Duration = Duration::from_millis(10);
/// How often a stream that always has as much as it takes is given less for a moment, since its shortest time shows only then.
const REST_INTERVAL: Duration = Duration::from_secs(10);

/// For so long somebody always waits before that is taken to go on.
const STANDING: Duration = Duration::from_millis(100);
/// How many times as long one may wait before that.
const BURST: u32 = 12;

/// For how long a stream may let nothing be heard while calls are in flight.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often one call is let through to a stream that does not answer.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// How a call waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is a call of its own: refused where it would take too long.
    Short,
    /// It is one of many that one call brings, whose reading waits meanwhile: until the deadline. Of these only one at a
    /// time stands in line, so that others have theirs.
    Long,
}

/// What is in flight to one stream, and who waits.
#[derive(Debug)]
pub(super) struct Gate {
    stream: Box<str>,
    /// For how long a call may have to wait while there is always somebody who waits.
    wait_max: Duration,
    places: Arc<Semaphore>,
    /// Held by the one of the patient that stands in line.
    patient: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    /// How many may be in flight.
    limit: usize,
    /// Places that are taken away once they are given back.
    surplus: usize,
    in_flight: usize,
    waiting: usize,
    /// Since when there is always somebody who waits, but for less than [`STANDING`].
    crowded_since: Option<Instant>,
    /// When somebody last waited.
    crowded_until: Instant,
    round: Round,
    /// The shortest that a call takes where nothing else is in its way.
    shortest: Option<Duration>,
    /// What a call took in the last round.
    usual: Duration,
    /// How long after one the next one was done, while there was always one to do.
    pace: Duration,
    rest: Rest,
    /// Since when nothing is in flight, which is no time of a round.
    idle_since: Option<Instant>,
    /// Since when there are calls in flight and no answer.
    silent_since: Option<Instant>,
    last_entered: Instant,
    is_told_silent: bool,
}

/// As many calls as may be in flight.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    ended: u32,
    total: Duration,
    least: Duration,
    /// How many had to wait for their turn.
    waited: u32,
    /// How many were in flight at once.
    most: usize,
}

/// Whether the stream is just given less than it takes.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Not since then.
    None(Instant),
    /// What was in flight before is still under way; afterwards so many may be again.
    Draining(usize),
    /// What began since shows the shortest time.
    Measuring(usize),
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            ended: 0,
            total: Duration::ZERO,
            least: Duration::MAX,
            waited: 0,
            most: 0,
        }
    }
}

impl Gate {
    pub(super) fn new(stream: &str, wait_max: Duration, metrics: Metrics) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            stream: stream.into(),
            wait_max,
            places: Arc::new(Semaphore::new(FIRST)),
            patient: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                limit: FIRST,
                surplus: 0,
                in_flight: 0,
                waiting: 0,
                crowded_since: None,
                crowded_until: now,
                round: Round::new(now),
                shortest: None,
                usual: Duration::ZERO,
                pace: Duration::ZERO,
                rest: Rest::None(now),
                idle_since: Some(now),
                silent_since: None,
                last_entered: now,
                is_told_silent: false,
            }),
            metrics,
        })
    }

    /// Waits for one's turn, or tells why there is none; nothing was sent by then.
    pub(super) async fn enter(
        self: &Arc<Self>,
        patience: Patience,
        deadline: Deadline,
    ) -> Result<Place, ControlError> {
        let entered = match patience {
            Patience::Short => self.line_up(Some(self.wait_max), deadline).await,
            Patience::Long => match deadline.bound(self.patient.lock()).await {
                Some(_in_line) => self.line_up(None, deadline).await,
                None => Err(ControlError::Busy),
            },
        };
        entered.inspect_err(|error| self.count(error))
    }

    /// Refuses at once who would be refused now, before it waits for anything else.
    pub(super) fn look(&self, patience: Patience, deadline: Deadline) -> Result<(), ControlError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_full = self.places.available_permits() == 0;
        let judged = if state.is_shut(now) || is_full && state.is_silent(now) {
            Err(self.silence(&mut state))
        } else if is_full && patience == Patience::Short {
            state.judge(now, Some(self.wait_max), deadline)
        } else {
            Ok(())
        };
        drop(state);
        judged.inspect_err(|error| self.count(error))
    }

    /// Lines up, unless that takes too long: at most `wait_max` for long, or until the deadline.
    async fn line_up(
        self: &Arc<Self>,
        wait_max: Option<Duration>,
        deadline: Deadline,
    ) -> Result<Place, ControlError> {
        let _waiting = {
            let mut state = self.state.lock();
            let now = Instant::now();
            if state.is_shut(now) {
                return Err(self.silence(&mut state));
            }
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return Ok(self.begin(&mut state, now, permit));
            }
            if state.is_silent(now) {
                return Err(self.silence(&mut state));
            }
            state.judge(now, wait_max, deadline)?;
            state.waiting += 1;
            state.round.waited += 1;
            Waiting(self)
        };
        let mut turn = pin!(Arc::clone(&self.places).acquire_owned());
        loop {
            let turned = timeout(SILENCE_MAX.min(deadline.left()), turn.as_mut()).await;
            let mut state = self.state.lock();
            let now = Instant::now();
            match turned {
                Ok(Ok(permit)) => return Ok(self.begin(&mut state, now, permit)),
                // A line that does not move any more is left.
                Ok(Err(_)) | Err(_) if state.is_silent(now) => return Err(self.silence(&mut state)),
                Err(_) if !deadline.left().is_zero() => {}
                Ok(Err(_)) | Err(_) => return Err(ControlError::Busy),
            }
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, now: Instant, permit: OwnedSemaphorePermit) -> Place {
        if let Some(since) = state.idle_since.take() {
            state.round.began += now.duration_since(since);
        }
        state.in_flight += 1;
        state.round.most = state.round.most.max(state.in_flight);
        state.silent_since.get_or_insert(now);
        state.last_entered = now;
        Place {
            gate: Arc::clone(self),
            began: now,
            permit: Some(permit),
            told: Told::Nothing,
        }
    }

    /// The refusal by a stream that does not answer, which is logged once.
    fn silence(&self, state: &mut State) -> ControlError {
        if !state.is_told_silent {
            state.is_told_silent = true;
            warn!(stream = %self.stream, "the stream does not answer: what needs it is refused until it does");
            self.metrics.silent(true);
        }
        ControlError::unavailable("the stream does not answer")
    }

    fn count(&self, error: &ControlError) {
        self.metrics.turned_away(match *error == ControlError::Busy {
            true => TurnedAway::Overloaded,
            false => TurnedAway::Silent,
        });
    }

    fn set_limit(&self, state: &mut State, limit: usize) {
        let limit = limit.clamp(LEAST, MOST);
        if let Some(more) = limit.checked_sub(state.limit) {
            let kept = state.surplus.min(more);
            state.surplus -= kept;
            self.places.add_permits(more - kept);
        } else {
            let fewer = state.limit - limit;
            state.surplus += fewer - self.places.forget_permits(fewer);
        }
        state.limit = limit;
    }

    /// Notes that a call has ended, and what that tells.
    fn end(&self, place: &Place) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let now = Instant::now();
        state.in_flight -= 1;
        state.idle_since = (state.in_flight == 0).then_some(now);
        if place.told != Told::Nothing {
            state.silent_since = (state.in_flight > 0).then_some(now);
            if std::mem::take(&mut state.is_told_silent) {
                info!(stream = %self.stream, "the stream answers again");
                self.metrics.silent(false);
            }
        } else if state.in_flight == 0 && !state.is_silent(now) {
            state.silent_since = None;
        }
        if place.told != Told::Done {
            return;
        }
        let time = now.duration_since(place.began);
        state.round.ended += 1;
        state.round.total += time;
        state.round.least = state.round.least.min(time);
        if let Some(limit) = state.learn(now, self.wait_max) {
            self.set_limit(state, limit);
        }
    }
}

impl State {
    fn is_silent(&self, now: Instant) -> bool {
        self.silent_since
            .is_some_and(|since| now.duration_since(since) > SILENCE_MAX)
    }

    /// Whether nobody is let in, since the stream does not answer and was probed just now.
    fn is_shut(&self, now: Instant) -> bool {
        self.is_silent(now) && now.duration_since(self.last_entered) < PROBE_INTERVAL
    }

    /// Refuses who would wait for longer than is bearable, or until there is no time left for the call itself.
    fn judge(
        &mut self,
        now: Instant,
        wait_max: Option<Duration>,
        deadline: Deadline,
    ) -> Result<(), ControlError> {
        let wait = self.wait(now);
        let is_too_long = wait_max.is_some_and(|max| wait > self.bearable(now, max));
        match is_too_long || wait + self.usual > deadline.left() {
            true => Err(ControlError::Busy),
            false => Ok(()),
        }
    }

    /// How long who comes now waits: by what calls took lately, but as long as nothing has ended at least.
    fn wait(&mut self, now: Instant) -> Duration {
        if self.waiting == 0 && now.duration_since(self.crowded_until) > STANDING {
            self.crowded_since = Some(now);
        }
        self.crowded_until = now;
        let stalled = self.silent_since.map(|since| now.duration_since(since));
        let ahead = u32::try_from(self.waiting + 1).unwrap_or(u32::MAX);
        self.pace.saturating_mul(ahead).max(stalled.unwrap_or_default())
    }

    /// How long who comes now may have to wait.
    fn bearable(&self, now: Instant, wait_max: Duration) -> Duration {
        let is_standing = self
            .crowded_since
            .is_some_and(|since| now.duration_since(since) > STANDING);
        match is_standing {
            true => wait_max,
            false => wait_max * BURST,
        }
    }

    /// Never more than twofold in a round: a short one tells more of what else the machine was doing.
    fn note_pace(&mut self, told: Duration) {
        self.pace = match self.pace.is_zero() {
            true => told,
            false => told.clamp(self.pace / 2, self.pace * 2),
        };
    }

    /// At the end of a round, how many may be in flight from now on.
    fn learn(&mut self, now: Instant, wait_max: Duration) -> Option<usize> {
        let round = self.round;
        let size = match self.rest {
            Rest::Draining(limit) => limit,
            Rest::None(_) | Rest::Measuring(_) => self.limit,
        };
        let is_over = usize::try_from(round.ended).is_ok_and(|ended| ended >= size);
        if !is_over || now.duration_since(round.began) < ROUND_TIME_MIN {
            return None;
        }
        self.round = Round::new(now);
        match self.rest {
            Rest::Draining(limit) => {
                self.rest = Rest::Measuring(limit);
                return None;
            }
            Rest::Measuring(limit) => {
                self.rest = Rest::None(now);
                self.shortest = Some(round.least);
                return Some(limit);
            }
            Rest::None(_) => {}
        }
        self.usual = round.total / round.ended;
        let was_crowded = self.waiting > 0 || round.waited >= round.ended / 2;
        self.note_pace(match was_crowded {
            true => now.duration_since(round.began) / round.ended,
            false => self.usual.mul_f64(1.0 / as_f64(self.limit)),
        });
        // Where few were in flight, none was in another's way.
        if round.most <= self.limit / 2 {
            self.shortest = Some(round.least);
            self.rest = Rest::None(now);
            return (self.limit > FIRST).then(|| FIRST.max(self.limit / 2));
        }
        let shortest = *self
            .shortest
            .insert(self.shortest.map_or(round.least, |known| known.min(round.least)));
        if round.waited < round.ended / 2 {
            return None;
        }
        // The gradient of the time over what is in flight.
        let bearable = shortest * SPREAD + wait_max.mul_f64(SLACK);
        let gradient = bearable.as_secs_f64() / self.usual.as_secs_f64().max(1e-6);
        let limit = scaled(self.limit, gradient.clamp(0.5, 2.0));
        if let Rest::None(since) = self.rest
            && now.duration_since(since) > REST_INTERVAL
        {
            self.rest = Rest::Draining(limit);
            let without_a_queue = shortest.as_secs_f64() / self.usual.as_secs_f64().max(1e-6);
            return Some(scaled(self.limit, without_a_queue.min(1.0) / 2.0));
        }
        Some(limit)
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "counts of calls are small"
)]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of calls are small"
)]
fn scaled(count: usize, by: f64) -> usize {
    // One more at least where there may be more: a few would never become more otherwise.
    (count as f64 * by).ceil() as usize
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.state.get_mut().is_told_silent {
            self.metrics.silent(false);
        }
    }
}

/// Somebody who stands in line.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.waiting -= 1;
        state.crowded_until = Instant::now();
    }
}

/// A call's place among those in flight to a stream, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    began: Instant,
    permit: Option<OwnedSemaphorePermit>,
    told: Told,
}

/// What the end of a call tells of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing was heard of it.
    Nothing,
    /// It answers; how long it takes is not to be learned from a refusal, which may have been given without it.
    Answers,
    /// It did what was asked.
    Done,
}

impl Place {
    /// Ends the call, which came to this.
    pub(super) fn ended<T>(mut self, result: &Result<T, ControlError>) {
        self.told = match result {
            Ok(_) => Told::Done,
            Err(
                ControlError::OutcomeUnknown { .. }
                | ControlError::BackendUnavailable { .. }
                | ControlError::ReadTimedOut,
            ) => Told::Nothing,
            Err(_) => Told::Answers,
        };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.end(self);
        let mut state = self.gate.state.lock();
        if let Some(permit) = self.permit.take()
            && state.surplus > 0
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests;
