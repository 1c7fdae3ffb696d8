//! Tells people how far a run is, on standard error: a bar on a terminal, else a line every few seconds.

use std::{
    cell::Cell,
    fmt,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::Instant;

use super::drive::Answer;
use crate::{args::Format, output};

const LINE_EVERY: Duration = Duration::from_secs(5);
/// A bar that is gone before it can be read only flickers.
const BAR_MIN: usize = 50;
const TEMPLATE: &str = "{bar:32} {pos} of {len}  {rate}  {msg}";

pub(crate) struct Progress {
    bar: ProgressBar,
    lines: bool,
    count: usize,
    settled: Cell<usize>,
    failed: Cell<usize>,
    told: Cell<Instant>,
}

impl Progress {
    pub(crate) fn new(format: Format, count: usize) -> Self {
        let told = format == Format::Table;
        let on_terminal = io::stderr().is_terminal();
        let target = match told && on_terminal && count >= BAR_MIN {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(u64::try_from(count).ok(), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.with_key("rate", rate));
        }
        Self {
            bar,
            lines: told && !on_terminal,
            count,
            settled: Cell::new(0),
            failed: Cell::new(0),
            told: Cell::new(Instant::now()),
        }
    }

    pub(crate) fn settled(&self, answer: &Answer) {
        self.settled.set(self.settled.get().saturating_add(1));
        if matches!(answer, Answer::Failed(_)) {
            self.failed.set(self.failed.get().saturating_add(1));
            self.bar.set_message(format!("{} failed", self.failed.get()));
        }
        self.bar.inc(1);
        if self.lines && self.told.get().elapsed() >= LINE_EVERY {
            self.told.set(Instant::now());
            let (settled, count, failed) = (self.settled.get(), self.count, self.failed.get());
            output::note(&format!("{settled} of {count}, {failed} failed"));
        }
    }

    /// Writes something else to standard error meanwhile.
    pub(crate) fn suspend(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn rate(state: &ProgressState, to: &mut dyn fmt::Write) {
    write!(to, "{:.0}/s", state.per_sec()).ok();
}
