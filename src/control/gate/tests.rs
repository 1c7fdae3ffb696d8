use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use super::*;

const WAIT: Duration = Duration::from_millis(10);

fn gate() -> Arc<Gate> {
    Gate::new("stream", WAIT, Metrics::new())
}

fn soon() -> Deadline {
    Deadline::within(Duration::from_secs(10))
}

fn does_not_answer() -> ControlError {
    ControlError::unavailable("the stream does not answer")
}

async fn enter(gate: &Arc<Gate>) -> Place {
    gate.enter(Patience::Short, soon()).await.unwrap()
}

fn answered(place: Place) {
    place.ended(&Ok(()));
}

/// A stream that takes ten at a time, 5 ms each.
#[derive(Clone)]
struct Stream(Arc<Semaphore>);

impl Stream {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(10)))
    }

    async fn call(&self, gate: &Arc<Gate>, patience: Patience) -> Result<(), ControlError> {
        let place = gate.enter(patience, soon()).await?;
        let _at_it = self.0.acquire().await;
        sleep(Duration::from_millis(5)).await;
        answered(place);
        Ok(())
    }
}

#[tokio::test]
async fn ten_times_of_what_a_stream_takes_is_refused_at_once_and_the_rest_done_soon() {
    let (gate, stream) = (gate(), Stream::new());
    let mut calls = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(5));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        ticks.tick().await;
        for _ in 0..100 {
            let (gate, stream) = (Arc::clone(&gate), stream.clone());
            calls.spawn(async move { stream.call(&gate, Patience::Short).await });
        }
    }
    let limit = gate.state.lock().limit;
    let done = calls.join_all().await;
    let refused = done.iter().filter(|done| **done == Err(ControlError::Busy));
    assert!(refused.count() > done.len() / 2);
    assert!(done.iter().any(Result::is_ok));
    // Ten would do; a timer's grain and what else the machine does make it more.
    assert!((LEAST..FIRST).contains(&limit), "{limit} at a time");
    let state = gate.state.lock();
    assert_eq!((state.in_flight, state.waiting), (0, 0));
    assert_eq!(gate.places.available_permits(), state.limit);
}

#[tokio::test]
async fn a_burst_waits_longer_than_what_goes_on() {
    let gate = gate();
    let now = Instant::now();
    let mut state = gate.state.lock();
    state.pace = Duration::from_millis(1);
    state.waiting = 50;
    let wait = state.wait(now);
    assert_eq!(wait, Duration::from_millis(51));
    state.crowded_since = Some(now);
    assert!(wait < state.bearable(now, WAIT));
    assert!(wait > state.bearable(now + STANDING * 2, WAIT));
}

#[tokio::test]
async fn while_nothing_is_in_flight_no_pace_is_told() {
    let gate = gate();
    answered(enter(&gate).await);
    {
        let mut state = gate.state.lock();
        let earlier = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        state.round.began = earlier;
        state.idle_since = Some(earlier);
    }
    let _place = enter(&gate).await;
    assert!(gate.state.lock().round.began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn one_round_that_something_else_held_up_makes_no_pace() {
    let gate = gate();
    let mut state = gate.state.lock();
    state.note_pace(Duration::from_millis(1));
    state.note_pace(Duration::from_millis(400));
    assert_eq!(state.pace, Duration::from_millis(2));
    state.note_pace(Duration::from_micros(1));
    assert_eq!(state.pace, Duration::from_millis(1));
}

#[tokio::test]
async fn what_cannot_be_done_by_its_deadline_is_refused() {
    let gate = gate();
    let places = (0..FIRST).map(|_| enter(&gate));
    let _all = futures_util::future::join_all(places).await;
    gate.state.lock().usual = Duration::from_millis(200);
    let refused = gate.enter(Patience::Long, Deadline::within(Duration::from_millis(100)));
    assert_eq!(refused.await.unwrap_err(), ControlError::Busy);
}

#[tokio::test]
async fn one_of_the_patient_stands_in_line_and_others_beside_it() {
    let gate = gate();
    let places = (0..FIRST).map(|_| enter(&gate));
    let all = futures_util::future::join_all(places).await;
    let mut patient = JoinSet::new();
    for _ in 0..10 {
        let gate = Arc::clone(&gate);
        patient.spawn(async move { answered(gate.enter(Patience::Long, soon()).await.unwrap()) });
    }
    while gate.state.lock().waiting == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.state.lock().waiting, 1);
    all.into_iter().for_each(answered);
    patient.join_all().await;
}

#[tokio::test]
async fn a_silent_stream_is_probed_by_one_at_a_time_until_it_answers() {
    let gate = gate();
    let first = enter(&gate).await;
    let long_since = Instant::now() - SILENCE_MAX * 2;
    {
        let mut state = gate.state.lock();
        state.silent_since = Some(long_since);
        state.last_entered = long_since;
    }
    let probe = enter(&gate).await;
    let refused = gate.enter(Patience::Short, soon()).await.unwrap_err();
    assert_eq!(refused, does_not_answer());
    // One that ends without an answer tells nothing.
    probe.ended(&Err::<(), _>(does_not_answer()));
    assert_eq!(
        gate.enter(Patience::Short, soon()).await.unwrap_err(),
        does_not_answer()
    );
    answered(first);
    answered(enter(&gate).await);
}

#[tokio::test]
async fn a_stream_that_is_rested_shows_that_it_has_become_slower() {
    let gate = gate();
    let mut now = Instant::now();
    let mut state = gate.state.lock();
    state.shortest = Some(Duration::from_millis(1));
    let mut limits = Vec::new();
    // It takes 30 ms by now, however few there are.
    for _ in 0..200 {
        now += Duration::from_millis(100);
        let limit = state.limit;
        state.round = Round {
            began: now - Duration::from_millis(100),
            ended: u32::try_from(limit).unwrap() * 2,
            total: Duration::from_millis(30) * u32::try_from(limit).unwrap() * 2,
            least: Duration::from_millis(30),
            waited: u32::try_from(limit).unwrap() * 2,
            most: limit,
        };
        if let Some(limit) = state.learn(now, WAIT) {
            gate.set_limit(&mut state, limit);
        }
        limits.push(state.limit);
    }
    assert_eq!(limits.iter().min(), Some(&LEAST), "taken for crowded at first");
    assert!(limits.last() > Some(&LEAST), "{limits:?}");
}

#[tokio::test]
async fn nobody_lines_up_for_long_where_nothing_ends() {
    let gate = gate();
    let places = (0..FIRST).map(|_| enter(&gate));
    let _all = futures_util::future::join_all(places).await;
    let now = Instant::now();
    let mut state = gate.state.lock();
    state.pace = Duration::from_micros(100);
    assert_eq!(state.judge(now, Some(WAIT), soon()), Ok(()));
    let later = now + WAIT * BURST * 2;
    assert_eq!(state.judge(later, Some(WAIT), soon()), Err(ControlError::Busy));
}

#[tokio::test]
async fn a_refusal_tells_nothing_of_how_long_the_stream_takes() {
    let gate = gate();
    for _ in 0..FIRST * 2 {
        let place = enter(&gate).await;
        place.ended(&Err::<(), _>(ControlError::Contention));
    }
    let state = gate.state.lock();
    assert_eq!((state.round.ended, state.shortest), (0, None));
    assert_eq!(state.silent_since, None, "it answers");
}
