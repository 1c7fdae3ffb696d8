//! `latticectl import`: puts what an export holds into a lattice, of the same layout or of another.
//!
//! It is `apply` of one file, but that nothing is written before the gateway has checked all of it, and that it is told
//! beforehand what the lattice's layout does not keep.

mod carry;

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use lattice_gateway::{control::lattices::Layout, proto::entry::Entry};

use self::carry::carry;
use crate::{
    Context,
    apply::{
        self, Terms,
        held::Held,
        manifest::{self, Desired, Header, Manifests},
        plan::Plan,
        report::Report,
    },
    args::Format,
    entry::Kind,
    failure::{CallError, CommandError},
    lattice, output, picture,
    table::printable,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is in the lattice already is left alone, and what only the lattice has stays. Run it again where it was cut
off. To delete links and configs that the file does not have, use `latticectl apply -f FILE --prune`.

Claims are put unsigned, which needs the verb `claims:write-unsigned`: lattices keep claims without their tokens,
so an export has none.")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct ImportArguments {
    /// What `latticectl export` has written, or `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) lattice: Option<String>,

    /// Show what would change, let the gateway check it, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Leave out what the lattice's layout does not keep, instead of refusing all of it
    #[arg(long)]
    skip_unsupported: bool,

    /// Import without asking
    #[arg(long)]
    yes: bool,

    /// Show values, which may be secrets, where they change
    #[arg(long)]
    show_values: bool,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &ImportArguments) -> Result<String, CommandError> {
    let (header, desired) = read(&arguments.file)?;
    let layout = layout(context, &header).await?;
    let (desired, lost) = carry(desired, layout);
    check_lost(&lost, layout, arguments.skip_unsupported)?;
    let kinds = desired.iter().map(|it| Kind::of(&it.entry)).collect();
    let held = Held::list(context, &kinds).await?;
    apply::warn(context, &held.unreadable);
    let plan = Plan::new(desired, held, &[].into());
    note_unsigned(context, &plan);
    let report = Report::new(context, &plan, !arguments.show_values);
    let terms = Terms::of(context.lattice);
    let checked = apply::check(context, terms.clone(), &plan).await;
    if arguments.dry_run {
        return report.checked(checked);
    }
    if let Some(refused) = report.refused(checked) {
        return Err(refused);
    }
    let must_ask = !plan.changes.is_empty() && !arguments.yes;
    if must_ask {
        apply::check_can_ask(context, || {
            format!(
                "{} entries would be written, and nobody can be asked here; look at them with --dry-run, then give \
                 --yes",
                plan.changes.len()
            )
        })?;
    }
    if context.format == Format::Table && !plan.changes.is_empty() {
        crate::print(&report.plan())?;
    }
    if must_ask {
        apply::confirm(format!("Write these into {}?", context.lattice)).await?;
    }
    report.finish(apply::apply(context, terms, &plan).await)
}

fn read(file: &PathBuf) -> Result<(Header, Vec<Desired>), CommandError> {
    let Manifests { entries, mut headers } = manifest::read_all(std::slice::from_ref(file))?;
    match (headers.pop(), headers.is_empty()) {
        (Some(header), true) => Ok((header, entries)),
        (Some(_), false) => Err(CommandError::Input(
            "several exports are in the file; import them one by one".to_owned(),
        )),
        (None, _) => Err(CommandError::Input(format!(
            "{} is no export of a lattice; manifests are for `latticectl apply -f`",
            file.display()
        ))),
    }
}

/// How the lattice is kept that is imported into.
async fn layout(context: &Context<'_>, header: &Header) -> Result<Layout, CommandError> {
    let described = lattice::get(context).await;
    if let Err(error) = &described
        && is_not_provisioned(error)
    {
        output::note(&format!(
            "note: the export is of layout {layout}, which is provisioned by `latticectl lattice provision {} --layout \
             {layout}`",
            context.lattice,
            layout = header.layout.as_str(),
        ));
    }
    picture::layout(context, described?.lattice.unwrap_or_default().layout)
}

fn is_not_provisioned(error: &CallError) -> bool {
    error.failure.reason == lattice_gateway::proto::ErrorReason::NotProvisioned.as_str_name()
}

/// Tells what the layout does not keep, and refuses to lose it unasked.
fn check_lost(lost: &[String], layout: Layout, skip: bool) -> Result<(), CommandError> {
    if lost.is_empty() {
        return Ok(());
    }
    if skip {
        for lost in lost {
            output::note(&printable(&format!("note: left out: {lost}")));
        }
        return Ok(());
    }
    let mut problems = lost.to_vec();
    problems.push(format!(
        "what layout {} does not keep cannot be imported; give --skip-unsupported to leave it out",
        layout.as_str()
    ));
    Err(CommandError::Lost(problems))
}

/// Tells of claims that are put without a token.
fn note_unsigned(context: &Context<'_>, plan: &Plan) {
    let is_unsigned =
        |desired: &&Desired| matches!(desired.entry, Entry::Claims(_)) && desired.token.is_none();
    let desired = plan.changes.iter().filter_map(|change| change.desired());
    let count = desired.filter(is_unsigned).count();
    if count > 0 && context.format == Format::Table {
        output::note(&format!(
            "note: {count} claims are put unsigned, since an export has no tokens; that needs the verb \
             `claims:write-unsigned`"
        ));
    }
}
