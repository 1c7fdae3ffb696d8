//! The closed loop: keeps so much work in flight, and tells how much was done and how long it took.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::Failure;

/// Before the measured part of a turn.
const LEAD: Duration = Duration::from_millis(200);

/// Something that can be done again and again, by one at a time.
pub(crate) trait Work: Send + 'static {
    /// Once.
    fn once(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// How long a turn is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    /// All work over and over, for this long.
    Over(Duration),
    /// All work once.
    Once,
}

/// What a turn told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    /// Latencies, microseconds.
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Microseconds of processor time that a call took, in all processes together.
    pub(crate) processor: f64,
}

/// Does work with so much in flight, each worker on a share of its own.
pub(crate) async fn drive<W: Work>(work: Vec<W>, in_flight: usize, pass: Pass) -> Result<Figures, Failure> {
    let mut shares = (0..in_flight).map(|_| Vec::new()).collect::<Vec<_>>();
    for (place, work) in work.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(place % in_flight) {
            share.push(work);
        }
    }
    measure(pass, |span| {
        shares
            .into_iter()
            .map(move |share| work_through(share, pass, Recorder::new(span)))
    })
    .await
}

/// Runs workers that record what they do within the span, and puts together what they tell.
pub(crate) async fn measure<W, F>(pass: Pass, workers: impl FnOnce(Span) -> W) -> Result<Figures, Failure>
where
    W: IntoIterator<Item = F>,
    F: Future<Output = Result<Recorder, Failure>> + Send + 'static,
{
    let span = Span::of(pass);
    let mut running = workers(span).into_iter().collect::<JoinSet<_>>();
    sleep_until(span.start).await;
    let processor_before = processor_time();
    if let Some(end) = span.end {
        sleep_until(end).await;
    }
    let mut processor = processor_time() - processor_before;
    let mut all = Recorder::new(span);
    while let Some(worker) = running.join_next().await {
        all.add(worker??)?;
    }
    if span.end.is_none() {
        processor = processor_time() - processor_before;
    }
    Ok(all.figures(processor))
}

/// What is measured of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    start: Instant,
    /// None where the end of the work is the end.
    end: Option<Instant>,
}

impl Span {
    fn of(pass: Pass) -> Self {
        match pass {
            Pass::Over(time) => {
                let start = Instant::now() + LEAD;
                let end = Some(start + time);
                Self { start, end }
            }
            Pass::Once => Self {
                start: Instant::now(),
                end: None,
            },
        }
    }
}

/// The latencies of what ended within the span.
pub(crate) struct Recorder {
    span: Span,
    latencies: Histogram<u32>,
    last: Instant,
}

impl Recorder {
    pub(crate) fn new(span: Span) -> Self {
        Self {
            span,
            latencies: histogram(),
            last: span.start,
        }
    }

    /// Notes what began then and ends now; breaks once the span is over.
    pub(crate) fn ended(&mut self, began: Instant) -> ControlFlow<()> {
        let now = Instant::now();
        if self.span.end.is_some_and(|end| now >= end) {
            return ControlFlow::Break(());
        }
        if now >= self.span.start {
            let nanos = now.duration_since(began).as_nanos();
            self.latencies
                .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.last = now;
        }
        ControlFlow::Continue(())
    }

    fn add(&mut self, other: Self) -> Result<(), Failure> {
        self.latencies.add(other.latencies)?;
        self.last = self.last.max(other.last);
        Ok(())
    }

    fn figures(&self, processor: f64) -> Figures {
        let time = self.span.end.unwrap_or(self.last) - self.span.start;
        let count = self.latencies.len() as f64;
        let micros = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Figures {
            per_second: count / time.as_secs_f64(),
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            processor: processor * 1e6 / count,
        }
    }
}

/// Of nanoseconds, to three digits.
pub(crate) fn histogram() -> Histogram<u32> {
    let Ok(histogram) = Histogram::new_with_bounds(100, 20_000_000_000, 3) else {
        unreachable!("these bounds are fine");
    };
    histogram
}

/// One after the other.
async fn work_through<W: Work>(
    mut share: Vec<W>,
    pass: Pass,
    mut recorder: Recorder,
) -> Result<Recorder, Failure> {
    loop {
        for work in &mut share {
            let began = Instant::now();
            work.once().await?;
            if recorder.ended(began).is_break() {
                return Ok(recorder);
            }
        }
        if matches!(pass, Pass::Once) || share.is_empty() {
            return Ok(recorder);
        }
    }
}

/// Seconds of processor time that this process and all below it have taken; 0 where there is no `/proc`.
fn processor_time() -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = |id: u32| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // Behind the name, which is in brackets and may hold anything: state, parent, …
    let numbers = |stat: &str| {
        let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
        let field = |place| {
            behind
                .split(' ')
                .nth(place)
                .and_then(|text| text.parse::<u64>().ok())
        };
        Some((field(1)?, field(11)? + field(12)?))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let processes = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|id| Some((u64::from(id), numbers(&stat(id))?)))
        .collect::<BTreeMap<u64, (u64, u64)>>();
    let me = u64::from(std::process::id());
    let is_mine = |id: &u64| {
        std::iter::successors(Some(*id), |id| processes.get(id).map(|(parent, _)| *parent))
            .any(|ancestor| ancestor == me)
    };
    let ticks = processes
        .iter()
        .filter(|(id, _)| is_mine(id))
        .map(|(_, (_, ticks))| ticks)
        .sum::<u64>();
    ticks as f64 / TICKS_A_SECOND
}
