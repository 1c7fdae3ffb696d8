//! Tells what a plan would change and what became of it: to people as text, to programs as JSON.

use std::time::Duration;

use lattice_gateway::proto::{EntryIdentity, ErrorReason, WriteResult};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Answers,
    drive::Answer,
    plan::{Change, Difference, Plan, Said, Step},
};
use crate::{
    Context,
    args::Format,
    entry::{self, Kind},
    failure::{CallError, Cause, CommandError, Doubt, Exit, Place},
    table::printable,
};

/// Creates that are listed one by one to people, and failures that are told in full.
const LISTED_MAX: usize = 50;

/// Writes about one plan.
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    lattice: &'a str,
    format: Format,
    hide_values: bool,
    started: Instant,
}

/// How many entries there are of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    created: usize,
    updated: usize,
    deleted: usize,
    unchanged: usize,
    failed: usize,
    not_done: usize,
}

/// Changes that were not made, and why.
#[derive(Debug)]
pub(crate) struct Unfinished {
    failed: Vec<Failed>,
    changes: usize,
    not_done: usize,
    interrupted: bool,
    kept: bool,
    checked_only: bool,
}

#[derive(Debug)]
struct Failed {
    /// The change, and where its entry stands.
    what: String,
    error: CallError,
}

impl<'a> Report<'a> {
    pub(crate) fn new(context: &Context<'a>, plan: &'a Plan, hide_values: bool) -> Self {
        Self {
            plan,
            lattice: context.lattice,
            format: context.format,
            hide_values,
            started: Instant::now(),
        }
    }

    /// The plan for people: all updates and deletes, and the first creates.
    pub(crate) fn plan(&self) -> String {
        let is_create = |change: &&Change| matches!(change.step, Step::Create(_));
        let changes = || self.plan.changes.iter();
        let mut lines: Vec<_> = changes()
            .filter(is_create)
            .take(LISTED_MAX)
            .map(|change| self.lines(change))
            .collect();
        let more = self.planned().created.saturating_sub(LISTED_MAX);
        if more > 0 {
            lines.push(format!("create  {more} more; -o json lists all\n"));
        }
        let others = changes().filter(|change| !is_create(change));
        lines.extend(others.map(|change| self.lines(change)));
        lines.push(self.heads());
        lines.concat()
    }

    fn lines(&self, change: &Change) -> String {
        let head = format!("{}\n", printable(&what(change)));
        let Step::Update { differences, .. } = &change.step else {
            return head;
        };
        head + &difference_lines(differences, self.hide_values)
    }

    /// How many changes of each sort.
    fn heads(&self) -> String {
        if self.plan.changes.is_empty() {
            return self.nothing();
        }
        let Counts {
            created,
            updated,
            deleted,
            unchanged,
            ..
        } = self.planned();
        format!("{created} to create, {updated} to update, {deleted} to delete, {unchanged} unchanged\n")
    }

    fn nothing(&self) -> String {
        format!("nothing to change: {} unchanged\n", self.plan.unchanged)
    }

    fn planned(&self) -> Counts {
        let mut counts = Counts {
            unchanged: self.plan.unchanged,
            ..Counts::default()
        };
        for change in &self.plan.changes {
            counts.add(&change.step);
        }
        counts
    }

    /// After the gateway has checked everything.
    pub(crate) fn checked(&self, answers: Answers) -> Result<String, CommandError> {
        let answers = self.judged(answers);
        let text = match self.format {
            Format::Table => self.plan() + "dry run: nothing was written\n",
            Format::Json => self.json(true, &self.planned(), &answers.of_changes),
        };
        self.give(text, answers, true)
    }

    /// What the gateway's check refused, if anything.
    pub(crate) fn refused(&self, answers: Answers) -> Option<CommandError> {
        let unfinished = self.unfinished(self.judged(answers), true)?;
        Some(CommandError::Unfinished(Box::new(unfinished)))
    }

    /// What was checked, without failures that are no failures where all changes are made in their order.
    fn judged(&self, mut answers: Answers) -> Answers {
        for answer in &mut answers.of_changes {
            if matches!(answer, Some(Answer::Failed(error)) if self.is_of_the_order(error)) {
                *answer = Some(Answer::Done(WriteResult::default()));
            }
        }
        answers
    }

    /// True for what only the order of the changes makes fail: each is checked as if the others were not there.
    fn is_of_the_order(&self, error: &CallError) -> bool {
        let Cause::Reason(_, reason) = error.failure.cause else {
            return false;
        };
        let any = |is_it: &dyn Fn(&Change) -> bool| self.plan.changes.iter().any(is_it);
        let is_put_config = |change: &Change, name: &str| {
            change.kind() == Kind::Config
                && change.desired().is_some()
                && entry::name(&change.identity) == name
        };
        let is_link = |change: &Change| change.kind() == Kind::Iface;
        if reason == ErrorReason::ConfigNotFound {
            let missing = error.failure.metadata.get("configs");
            return missing.is_some_and(|missing| {
                missing
                    .split(", ")
                    .all(|name| any(&|change| is_put_config(change, name)))
            });
        }
        if reason == ErrorReason::ConfigInUse {
            return any(&|change| is_link(change) && !matches!(change.step, Step::Create(_)));
        }
        reason == ErrorReason::LinkConflict && any(&|change| is_link(change) && change.desired().is_none())
    }

    /// After everything was done that could be.
    pub(crate) fn finish(&self, answers: Answers) -> Result<String, CommandError> {
        let counts = self.counts(&answers.of_changes);
        let text = match self.format {
            Format::Table if self.plan.changes.is_empty() => self.nothing(),
            Format::Table => counts.text(self.started.elapsed()),
            Format::Json => self.json(false, &counts, &answers.of_changes),
        };
        self.give(text, answers, false)
    }

    fn counts(&self, answers: &[Option<Answer>]) -> Counts {
        let mut counts = Counts {
            unchanged: self.plan.unchanged,
            ..Counts::default()
        };
        for (change, answer) in self.plan.changes.iter().zip(answers) {
            match answer {
                Some(Answer::Done(_)) => counts.add(&change.step),
                Some(Answer::Failed(_)) => counts.failed = counts.failed.saturating_add(1),
                None => counts.not_done = counts.not_done.saturating_add(1),
            }
        }
        counts
    }

    /// Gives the text where all went well. Else prints it, and gives the error.
    fn give(&self, text: String, answers: Answers, checked_only: bool) -> Result<String, CommandError> {
        match self.unfinished(answers, checked_only) {
            None => Ok(text),
            Some(unfinished) => {
                crate::print(&text)?;
                Err(CommandError::Unfinished(Box::new(unfinished)))
            }
        }
    }

    /// What was not done; none where all went well.
    fn unfinished(&self, answers: Answers, checked_only: bool) -> Option<Unfinished> {
        let mut failed = Vec::new();
        let mut not_done = 0_usize;
        for (change, answer) in self.plan.changes.iter().zip(answers.of_changes) {
            match answer {
                Some(Answer::Done(_)) => {}
                Some(Answer::Failed(error)) => failed.push(Failed {
                    what: located(change),
                    error,
                }),
                None => not_done = not_done.saturating_add(1),
            }
        }
        (!failed.is_empty() || not_done > 0).then_some(Unfinished {
            failed,
            changes: self.plan.changes.len(),
            not_done,
            interrupted: answers.interrupted,
            kept: answers.kept,
            checked_only,
        })
    }

    fn json(&self, dry_run: bool, counts: &Counts, answers: &[Option<Answer>]) -> String {
        let changes = self.plan.changes.iter().zip(answers);
        let changes: Vec<_> = changes
            .map(|(change, answer)| self.change_json(change, dry_run, answer.as_ref()))
            .collect();
        let report = json!({
            "lattice": self.lattice,
            "dryRun": dry_run,
            "changes": changes,
            "summary": {
                "created": counts.created,
                "updated": counts.updated,
                "deleted": counts.deleted,
                "unchanged": counts.unchanged,
                "failed": counts.failed,
                "notDone": counts.not_done,
            },
        });
        format!("{report:#}\n")
    }

    fn change_json(&self, change: &Change, dry_run: bool, answer: Option<&Answer>) -> Value {
        let identity = EntryIdentity {
            identity: Some(change.identity.clone()),
        };
        let mut json = json!({
            "action": action(&change.step),
            "kind": change.kind().resource(),
            "identity": serde_json::to_value(identity).unwrap_or_default(),
        });
        let mut put = |name: &str, value: Value| {
            if let Some(json) = json.as_object_mut() {
                json.insert(name.to_owned(), value);
            }
        };
        if let Some(desired) = change.desired() {
            let origin = &desired.origin;
            let value = json!({ "file": *origin.file, "line": origin.line, "document": origin.document });
            put("origin", value);
        }
        if let Step::Update { differences, .. } = &change.step {
            let fields = differences.iter().map(|it| difference_json(it, self.hide_values));
            put("fields", fields.collect());
        }
        match answer {
            Some(Answer::Done(_)) if dry_run => {}
            Some(Answer::Done(result)) => {
                put("result", serde_json::to_value(result).unwrap_or_default());
            }
            Some(Answer::Failed(error)) => put("error", error.json()),
            None => put("notDone", Value::Bool(true)),
        }
        json
    }
}

/// Tells of fields that say something else, a line each.
pub(crate) fn difference_lines(differences: &[Difference], hide_values: bool) -> String {
    let width = differences.iter().map(|it| it.field.chars().count()).max();
    let width = width.unwrap_or_default();
    let said = |difference: &Difference, said: &Said| match said {
        Said::Nothing => "(none)".to_owned(),
        Said::Unreadable => "(not readable)".to_owned(),
        Said::Text(_) if hide_values && difference.is_of_values() => "(hidden)".to_owned(),
        Said::Text(text) => printable(text),
    };
    let line = |difference: &Difference| {
        let field = printable(&difference.field);
        let [before, after] = [&difference.before, &difference.after].map(|it| said(difference, it));
        format!("          {field:width$}  {before} -> {after}\n")
    };
    differences.iter().map(line).collect()
}

/// Tells of a field that says something else.
pub(crate) fn difference_json(difference: &Difference, hide_values: bool) -> Value {
    let is_hidden = hide_values && difference.is_of_values();
    let mut json = json!({ "field": difference.field });
    for (name, said) in [("before", &difference.before), ("after", &difference.after)] {
        let value = match said {
            Said::Nothing => Value::Null,
            Said::Text(text) if !is_hidden => Value::String(text.clone()),
            // Left out, as values are of who may not read them.
            Said::Text(_) | Said::Unreadable => continue,
        };
        if let Some(json) = json.as_object_mut() {
            json.insert(name.to_owned(), value);
        }
    }
    json
}

fn action(step: &Step) -> &'static str {
    match step {
        Step::Create(_) => "create",
        Step::Update { .. } => "update",
        Step::Delete { .. } => "delete",
    }
}

/// Names a change.
fn what(change: &Change) -> String {
    let name = entry::name(&change.identity);
    format!("{}  {} {name}", action(&change.step), change.kind().word())
}

/// Names a change and where its entry stands.
fn located(change: &Change) -> String {
    match change.desired() {
        Some(desired) => format!("{}: {}", desired.origin, what(change)),
        None => what(change),
    }
}

impl Counts {
    fn add(&mut self, step: &Step) {
        let count = match step {
            Step::Create(_) => &mut self.created,
            Step::Update { .. } => &mut self.updated,
            Step::Delete { .. } => &mut self.deleted,
        };
        *count = count.saturating_add(1);
    }

    fn text(&self, took: Duration) -> String {
        let Self {
            created,
            updated,
            deleted,
            unchanged,
            failed,
            not_done,
        } = self;
        let mut parts = vec![
            format!("{created} created"),
            format!("{updated} updated"),
            format!("{deleted} deleted"),
            format!("{unchanged} unchanged"),
        ];
        let others = [(failed, "failed"), (not_done, "not done")];
        let others = others.into_iter().filter(|(count, _)| **count > 0);
        parts.extend(others.map(|(count, what)| format!("{count} {what}")));
        format!("{}  ({:.1}s)\n", parts.join(", "), took.as_secs_f64())
    }
}

impl Unfinished {
    /// The worst of all: whatever is in doubt, then what may pass, then what stays, then conflicts.
    pub(crate) fn exit(&self) -> Exit {
        let exits: Vec<_> = self.failed.iter().map(|failed| failed.error.exit()).collect();
        let by_weight = [
            Exit::Unknown,
            Exit::Interrupted,
            Exit::Unavailable,
            Exit::Usage,
            Exit::Refused,
            Exit::Conflict,
            Exit::NotFound,
        ];
        let worst = by_weight.into_iter().find(|exit| exits.contains(exit));
        match worst {
            Some(Exit::Unknown) => Exit::Unknown,
            _ if self.interrupted => Exit::Interrupted,
            worst => worst.unwrap_or(Exit::Refused),
        }
    }

    pub(crate) fn summary(&self) -> String {
        let Self { changes, .. } = self;
        let failed = self.failed.len();
        match (self.interrupted, self.checked_only) {
            (true, _) => format!(
                "interrupted; {} of {changes} changes were not made",
                failed.saturating_add(self.not_done)
            ),
            (false, true) => format!("{failed} of {changes} changes would fail"),
            (false, false) => format!("{failed} of {changes} changes failed"),
        }
    }

    pub(crate) fn text(&self, place: Place<'_>) -> String {
        let mut lines = vec![format!("error: {}", self.summary())];
        for failed in self.failed.iter().take(LISTED_MAX) {
            lines.extend(failed.lines(place));
        }
        let more = self.failed.len().saturating_sub(LISTED_MAX);
        if more > 0 {
            lines.push(format!("  and {more} more; -o json lists all"));
        }
        if self.kept {
            lines.push("What was to be deleted was kept, since not everything could be put.".to_owned());
        }
        let in_doubt = self.failed.iter().any(|failed| failed.error.doubt != Doubt::None);
        if in_doubt {
            lines.extend(Doubt::Repeat.advice());
        } else if self.interrupted && !self.checked_only {
            lines.push("Run the same command again to go on.".to_owned());
        }
        lines.join("\n")
    }
}

impl Failed {
    fn lines(&self, place: Place<'_>) -> Vec<String> {
        let failure = &self.error.failure;
        let mut lines = vec![
            format!("  {}", printable(&self.what)),
            format!("    {}", printable(&failure.message)),
        ];
        let violations = failure.violation_lines();
        lines.extend(violations.into_iter().map(|line| format!("    {line}")));
        let is_unsigned = failure.metadata.get("verb").is_some_and(|verb| verb == UNSIGNED);
        let hint = hint(failure.cause).or_else(|| is_unsigned.then_some(UNSIGNED_HINT));
        let hint = hint.map(|hint| failure.filled(hint, place.lattice));
        let hint = hint.unwrap_or_else(|| failure.hint(place));
        lines.extend(hint.map(|hint| printable(&format!("    hint: {hint}"))));
        lines
    }
}

/// The verb that claims without a token need.
const UNSIGNED: &str = "claims:write-unsigned";
const UNSIGNED_HINT: &str = "claims without a token, as an export has them, need that verb: have it granted, put the \
                             tokens with `latticectl claims put`, or take the claims out of the file";
const CHANGED: &str = "it changed after it was compared; run the command again to see how, or give --force";

/// What to do about errors, where it is something else than for a command that writes one entry.
const HINTS: [(ErrorReason, &str); 6] = [
    (ErrorReason::EntryExists, CHANGED),
    (ErrorReason::EtagMismatch, CHANGED),
    (ErrorReason::EntryNotFound, CHANGED),
    (
        ErrorReason::LinkConflict,
        "delete {entry} first, or give the link another name",
    ),
    (ErrorReason::ConfigNotFound, "add {configs} to the manifest"),
    (ErrorReason::ConfigInUse, "delete the links that name it first"),
];

fn hint(cause: Cause) -> Option<&'static str> {
    let Cause::Reason(_, reason) = cause else {
        return None;
    };
    HINTS
        .into_iter()
        .find(|(it, _)| *it == reason)
        .map(|(_, hint)| hint)
}

#[cfg(test)]
mod tests;
