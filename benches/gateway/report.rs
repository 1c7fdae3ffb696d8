//! What a run tells: Markdown, plots and every round's figures.

use std::{
    fmt::{self, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{Failure, machine::Machine, plot::Plot};

/// What one part of the run measured.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its name in the raw figures.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// How it was measured.
    pub(crate) text: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) samples: Value,
}

/// Rows of cells; the first column is of words, the others of figures.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(|&cell| cell.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let figures = self.head.iter().skip(1).map(|_| "--:|").collect::<String>();
        writeln!(f, "{}\n|---|{figures}", line(&self.head))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

/// What is to be reached.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    /// None where it cannot be measured here.
    pub(crate) reached: Option<f64>,
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn cells(&self) -> Vec<String> {
        let unit = self.unit;
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => ("≥", bound),
            Bound::AtMost(bound) => ("≤", bound),
        };
        let reached = self
            .reached
            .map_or_else(dash, |reached| format!("{}{unit}", figure(reached)));
        let verdict = match (self.reached, self.bound) {
            (None, _) => "not measured",
            (Some(reached), Bound::AtLeast(bound)) if reached >= bound => "yes",
            (Some(reached), Bound::AtMost(bound)) if reached <= bound => "yes",
            (Some(_), Bound::AtLeast(_) | Bound::AtMost(_)) => "**no**",
        };
        vec![
            self.what.clone(),
            format!("{sign} {bound}{unit}"),
            reached,
            verdict.to_owned(),
        ]
    }
}

/// The whole of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) sections: Vec<Section>,
}

impl Report {
    /// Writes `RESULTS.md`, `results.json` and the plots.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("RESULTS.md"), self.markdown()?)?;
        std::fs::write(folder.join("results.json"), format!("{}\n", self.samples()))?;
        let plots = self.sections.iter().flat_map(|section| &section.plots);
        plots.into_iter().try_for_each(|plot| plot.write(folder))
    }

    pub(crate) fn markdown(&self) -> Result<String, Failure> {
        let mut text = String::from("# How fast\n\nWritten by the run itself: do not edit.\n\n");
        writeln!(text, "{}* command: `{}`", self.machine, self.command)?;
        writeln!(
            text,
            "\nClient, gateway, nats-server and whatever is beside them share these cores, so that figures of different \
             runs do not compare, only their ratios. What is compared takes turns within a round, in rotating order; what is \
             told is the median over {} rounds. [results.json](results.json) has every round's figures.\n",
            self.rounds,
        )?;
        let mut goals = Table::new(&["what", "goal", "measured", "reached"]);
        self.sections
            .iter()
            .flat_map(|section| &section.goals)
            .for_each(|goal| goals.row(goal.cells()));
        writeln!(text, "## Goals\n\n{goals}")?;
        for section in &self.sections {
            writeln!(text, "## {}\n\n{}\n", section.title, section.text)?;
            for table in &section.tables {
                writeln!(text, "{table}")?;
            }
            for plot in &section.plots {
                writeln!(text, "![{}]({})\n", plot.title, plot.file)?;
            }
        }
        Ok(format!("{}\n", text.trim_end()))
    }

    fn samples(&self) -> Value {
        let sections = self.sections.iter();
        let parts = sections
            .map(|section| (section.name.to_owned(), section.samples.clone()))
            .collect::<Map<_, _>>();
        json!({ "machine": self.machine.told(), "command": self.command, "parts": parts })
    }
}

/// With as many digits as tell something.
pub(crate) fn figure(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || size.fract() == 0.0 => thousands(figure),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// A latency of so many microseconds.
pub(crate) fn time(micros: f64) -> String {
    match micros.abs() {
        size if size >= 1_000_000.0 => format!("{:.2} s", micros / 1e6),
        size if size >= 100_000.0 => format!("{:.0} ms", micros / 1e3),
        size if size >= 1_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{micros:.0} µs"),
    }
}

pub(crate) fn or_dash(figure: Option<f64>, text: impl Fn(f64) -> String) -> String {
    figure.filter(|figure| figure.is_finite()).map_or_else(dash, text)
}

fn dash() -> String {
    "–".to_owned()
}

/// With commas between the thousands.
fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups
        .map(|group| String::from_utf8_lossy(group))
        .collect::<Vec<_>>();
    format!("{}{}", if figure < 0.0 { "-" } else { "" }, groups.join(","))
}
