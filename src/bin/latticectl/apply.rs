//! `latticectl apply`: makes a lattice hold what manifests say.
//!
//! What it holds is read and compared; each difference becomes one operation, on the condition that the entry is still
//! as it was compared. So a run that was cut off is gone on with by running it again, and what somebody else wrote
//! meanwhile is not overwritten.

mod document;
mod drive;
mod fields;
mod held;
mod manifest;
mod operation;
mod plan;
mod progress;
mod report;

use std::{
    collections::BTreeSet,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use lattice_gateway::proto::ApplyRequest;
use tokio::sync::oneshot;
use uuid::Uuid;

pub(crate) use self::report::Unfinished;
use self::{
    drive::Drive,
    held::Held,
    operation::Terms,
    plan::{Phase, Plan},
    progress::Progress,
    report::Report,
};
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
    let held = Held::list(context, &listed, &desired).await?;
    let unreadable = held.unreadable.clone();
    let plan = Plan::new(desired, held, &pruned);
    let report = Report::new(context, arguments, &plan);
    warn(context, &unreadable);
    if arguments.dry_run {
        return dry_run(context, arguments, &plan, report).await;
    }
    let must_ask = plan.deletes() > 0 && !arguments.yes;
    if must_ask {
        check_can_ask(context, &plan)?;
    }
    if context.format == Format::Table && !plan.changes.is_empty() {
        crate::print(&report.plan())?;
    }
    if must_ask {
        confirm(&plan).await?;
    }
    let answers = apply(context, arguments, &plan).await;
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
            lattice: context.lattice.to_owned(),
            run: Uuid::now_v7().simple().to_string(),
            dry_run: self.dry_run,
            force: self.force,
        }
    }
}

/// Tells where the comparison could not see everything.
fn warn(context: &Context<'_>, unreadable: &BTreeSet<Kind>) {
    if context.format == Format::Table && !unreadable.is_empty() {
        output::note(
            "note: you may not read values (that needs `values:read`), so entries that have them are put \
             again, whether they change or not",
        );
    }
}

async fn dry_run(
    context: &Context<'_>,
    arguments: &ApplyArguments,
    plan: &Plan,
    report: Report<'_>,
) -> Result<String, CommandError> {
    let progress = Progress::new(context.format, plan.changes.len());
    let mut drive = drive(context, arguments, plan, &progress);
    drive.phase(0..plan.changes.len()).await;
    progress.finish();
    let text = report.checked(drive.is_interrupted(), drive.into_answers())?;
    if arguments.exit_code && !plan.changes.is_empty() {
        crate::print(&text)?;
        return Err(CommandError::Silent(Exit::Changes));
    }
    Ok(text)
}

/// Drives the changes of a plan, each known by its place in it.
fn drive<'a>(
    context: &'a Context<'_>,
    arguments: &ApplyArguments,
    plan: &'a Plan,
    progress: &'a Progress,
) -> Drive<'a, impl Fn(usize, Option<pbjson_types::Duration>) -> Option<ApplyRequest>> {
    let terms = arguments.terms(context);
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
struct Answers {
    /// None of what was not sent.
    of_changes: Vec<Option<drive::Answer>>,
    interrupted: bool,
    /// True where deletes were not made, because something before them failed.
    kept: bool,
}

async fn apply(context: &Context<'_>, arguments: &ApplyArguments, plan: &Plan) -> Answers {
    let progress = Progress::new(context.format, plan.changes.len());
    let mut drive = drive(context, arguments, plan, &progress);
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

/// Deletes are never made where the user should have been asked and cannot be.
fn check_can_ask(context: &Context<'_>, plan: &Plan) -> Result<(), CommandError> {
    let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if context.format == Format::Table && is_terminal {
        return Ok(());
    }
    Err(CommandError::Input(format!(
        "--prune would delete {} entries, and nobody can be asked here; look at them with --dry-run, then give \
         --yes",
        plan.deletes()
    )))
}

/// Has the user agree to deletes.
async fn confirm(plan: &Plan) -> Result<(), CommandError> {
    let question = match plan.deletes() {
        1 => "Delete this entry? [y/N] ".to_owned(),
        deletes => format!("Delete these {deletes} entries? [y/N] "),
    };
    match ask(question).await.as_str() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(interrupted()),
    }
}

/// Asks on the terminal. Empty where there is no answer.
async fn ask(question: String) -> String {
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

fn interrupted() -> CommandError {
    CommandError::from(CallError {
        failure: Failure::interrupted(),
        doubt: Doubt::None,
    })
}

#[cfg(test)]
mod tests;
