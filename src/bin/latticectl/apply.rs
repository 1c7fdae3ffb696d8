//! `latticectl apply`: makes a lattice hold what manifests say.
//!
//! What it holds is read and compared; each difference becomes one operation, on the condition that the entry is still
//! as it was compared. So a run that was cut off is gone on with by running it again, and what somebody else wrote
//! meanwhile is not overwritten.

mod document;
pub(crate) mod drive;
mod fields;
pub(crate) mod held;
pub(crate) mod manifest;
mod operation;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod report;

use std::{
    collections::BTreeSet,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use lattice_gateway::proto::ApplyRequest;
use tokio::sync::oneshot;

use self::{
    drive::Drive,
    held::Held,
    plan::{Phase, Plan},
    progress::Progress,
    report::Report,
};
pub(crate) use self::{operation::Terms, report::Unfinished};
use crate::{
    Context,
    args::Format,
    entry::Kind,
    failure::{CallError, CommandError, Doubt, Exit, Failure},
    gateway, output,
};

const MANIFESTS: &str = "\
A manifest is YAML or JSON, one entry a document:

  kind: LinkDefinition        # or Claims, InterfaceLink, OciReference, NamedConfig
  actor_id: MBCFOPM6…
  provider_id: VAG3QITQ…
  contract_id: wasmcloud:httpserver
  values:
    address: 0.0.0.0:8080
  ---
  kind: Claims
  jwt_file: echo.jwt          # relative to the manifest; or jwt: with the token itself

Fields are those of the API, as in its .proto files or its JSON. Documents may be lists of such entries, or
have lists of them under claims, link_definitions, interface_links, oci_references and named_configs: so the
answers of the list commands with -o json are manifests. Texts are taken as they are written: `no` and `1.10`
stay what they are.

Running it again goes on where a run was cut off: what is there already is left alone. An entry that changes
between the plan and its turn is not overwritten, but told (exit code 4).";

#[derive(Debug, clap::Args)]
#[command(after_help = MANIFESTS)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct ApplyArguments {
    /// A manifest, a folder of them (all .yaml, .yml and .json below), or `-` for standard input; may be given often
    #[arg(short, long = "file", value_name = "FILE|FOLDER", required = true)]
    files: Vec<PathBuf>,

    /// Show what would change, let the gateway check it, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: exit with 7 if anything would change
    #[arg(long, requires = "dry_run")]
    exit_code: bool,

    /// Delete entries that the manifests do not have, after asking
    ///
    /// Of the links, interface links and configs, those kinds of which the manifests have any. Claims and references
    /// are left alone, since hosts put those of all that they start; --prune-kind says otherwise.
    #[arg(long)]
    prune: bool,

    /// Let --prune delete entries of this kind and no other, whether the manifests have any or not; may be given often
    #[arg(long, value_name = "KIND", value_enum, requires = "prune")]
    prune_kind: Vec<Kind>,

    /// Delete without asking
    #[arg(long)]
    yes: bool,

    /// Overwrite and delete entries whatever became of them since they were compared
    #[arg(long)]
    force: bool,

    /// Do not show values, which may be secrets, but only which of them change
    #[arg(long)]
    hide_values: bool,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &ApplyArguments) -> Result<String, CommandError> {
    let desired = manifest::read(&arguments.files)?;
    let wanted: BTreeSet<_> = desired.iter().map(|it| Kind::of(&it.entry)).collect();
    let pruned = arguments.pruned(&wanted);
    let listed = wanted.union(&pruned).copied().collect();
    let held = Held::list(context, &listed).await?;
    let unreadable = held.unreadable.clone();
    let plan = Plan::new(desired, held, &pruned);
    let report = Report::new(context, &plan, arguments.hide_values);
    warn(context, &unreadable);
    let terms = arguments.terms(context);
    if arguments.dry_run {
        let checked = check(context, terms, &plan).await;
        return would_change(arguments, &plan, report.checked(checked)?);
    }
    let must_ask = plan.deletes() > 0 && !arguments.yes;
    if must_ask {
        check_can_ask(context, || {
            format!(
                "--prune would delete {} entries, and nobody can be asked here; look at them with --dry-run, then \
                 give --yes",
                plan.deletes()
            )
        })?;
    }
    if context.format == Format::Table && !plan.changes.is_empty() {
        crate::print(&report.plan())?;
    }
    if must_ask {
        confirm(match plan.deletes() {
            1 => "Delete this entry?".to_owned(),
            deletes => format!("Delete these {deletes} entries?"),
        })
        .await?;
    }
    let answers = apply(context, terms, &plan).await;
    report.finish(answers)
}

impl ApplyArguments {
    /// The kinds of which nothing is to stand but what manifests have.
    fn pruned(&self, wanted: &BTreeSet<Kind>) -> BTreeSet<Kind> {
        if !self.prune {
            return BTreeSet::new();
        }
        if !self.prune_kind.is_empty() {
            return self.prune_kind.iter().copied().collect();
        }
        let by_users_alone = BTreeSet::from([Kind::Link, Kind::Iface, Kind::Config]);
        wanted.intersection(&by_users_alone).copied().collect()
    }

    fn terms(&self, context: &Context<'_>) -> Terms {
        Terms {
            force: self.force,
            ..Terms::of(context.lattice)
        }
    }
}

/// Tells where the comparison could not see everything.
pub(crate) fn warn(context: &Context<'_>, unreadable: &BTreeSet<Kind>) {
    if context.format == Format::Table && !unreadable.is_empty() {
        output::note(
            "note: you may not read values (that needs `values:read`), so entries that have them are put \
             again, whether they change or not",
        );
    }
}

/// After a dry run: says by the exit code whether anything would change, where that is asked for.
fn would_change(arguments: &ApplyArguments, plan: &Plan, text: String) -> Result<String, CommandError> {
    if arguments.exit_code && !plan.changes.is_empty() {
        crate::print(&text)?;
        return Err(CommandError::Silent(Exit::Changes));
    }
    Ok(text)
}

/// Drives the changes of a plan, each known by its place in it.
fn drive<'a>(
    context: &'a Context<'_>,
    terms: Terms,
    plan: &'a Plan,
    progress: &'a Progress,
) -> Drive<'a, impl Fn(usize, Option<pbjson_types::Duration>) -> Option<ApplyRequest>> {
    Drive::new(
        &context.gateway,
        plan.changes.len(),
        progress,
        move |number, age| {
            let change = plan.changes.get(number)?;
            Some(terms.operation(number, change, age))
        },
    )
}

/// What became of each change, and whether the user broke it off.
pub(crate) struct Answers {
    /// None of what was not sent.
    of_changes: Vec<Option<drive::Answer>>,
    interrupted: bool,
    /// True where deletes were not made, because something before them failed.
    kept: bool,
}

/// Has the gateway check each change on its own; nothing is written.
pub(crate) async fn check(context: &Context<'_>, terms: Terms, plan: &Plan) -> Answers {
    let terms = Terms {
        dry_run: true,
        ..terms
    };
    let progress = Progress::new(context.format, plan.changes.len());
    let mut drive = drive(context, terms, plan, &progress);
    drive.phase(0..plan.changes.len()).await;
    progress.finish();
    Answers {
        interrupted: drive.is_interrupted(),
        of_changes: drive.into_answers(),
        kept: false,
    }
}

/// Makes the changes of a plan.
pub(crate) async fn apply(context: &Context<'_>, terms: Terms, plan: &Plan) -> Answers {
    let progress = Progress::new(context.format, plan.changes.len());
    let mut drive = drive(context, terms, plan, &progress);
    let phases = plan.phases();
    let mut went_well = true;
    let mut kept = false;
    for phase in Phase::ALL {
        let of_phase = phases.iter().enumerate().filter(|(_, it)| **it == phase);
        let numbers: Vec<_> = of_phase.map(|(number, _)| number).collect();
        if drive.is_interrupted() || (phase.is_cautious() && !went_well) {
            kept |= !numbers.is_empty() && !drive.is_interrupted();
            continue;
        }
        went_well &= drive.phase(numbers).await;
    }
    progress.finish();
    Answers {
        interrupted: drive.is_interrupted(),
        of_changes: drive.into_answers(),
        kept,
    }
}

/// Nothing is done where the user should have been asked and cannot be.
pub(crate) fn check_can_ask(
    context: &Context<'_>,
    refusal: impl FnOnce() -> String,
) -> Result<(), CommandError> {
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    match context.format == Format::Table && is_terminal {
        true => Ok(()),
        false => Err(CommandError::Input(refusal())),
    }
}

/// Has the user agree.
pub(crate) async fn confirm(question: String) -> Result<(), CommandError> {
    match ask(format!("{question} [y/N] ")).await.as_str() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(interrupted()),
    }
}

/// Asks on the terminal. Empty where there is no answer.
pub(crate) async fn ask(question: String) -> String {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own, which nobody waits for: reading cannot be broken off.
    std::thread::spawn(move || {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question}").and_then(|()| stderr.flush()).ok();
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).ok();
        sender.send(line.trim().to_owned()).ok();
    });
    tokio::select! {
        answer = receiver => answer.unwrap_or_default(),
        () = gateway::interruption() => String::new(),
    }
}

pub(crate) fn interrupted() -> CommandError {
    CommandError::from(CallError {
        failure: Failure::interrupted(),
        doubt: Doubt::None,
    })
}

#[cfg(test)]
mod tests;
