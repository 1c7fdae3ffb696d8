//! `latticectl migrate`: moves a lattice of hosts up to 0.59 to the layout of hosts 0.60 to 0.82.
//!
//! The gateway compares and writes, as much in each call as its deadline allows; here it is planned, asked for, called until
//! nothing is left, and told. Running it again goes on, whatever became of the run before.

use std::time::Duration;

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use lattice_gateway::proto::{
    ErrorReason, MigrateLatticeRequest, MigrateLatticeResponse, MigrationAction, MigrationItem, Revision,
};
use tokio::time::{Instant, sleep};

use crate::{
    Context, apply,
    args::Format,
    failure::{CommandError, Exit},
    gateway::{self, Effect},
    output::{self, render},
    retry::Attempt,
    table::printable,
};

/// Items that are listed one by one to people.
const LISTED_MAX: usize = 50;
/// Between two calls that could not do anything.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What stands in the stream is put into the bucket that hosts 0.60 and later use: links under their new keys, claims and
references as they are. Links that were deleted stay deleted, which a host that migrates by itself does not ensure.

Stop all hosts first. From its beginning until the stream is deleted (--delete-source) or the gateway's configuration
names a layout, gateways refuse to read or write the lattice, so that nothing is lost. The stream is not changed: to
go back, delete the bucket. Do not start hosts 0.60 or later before the stream is deleted: they migrate it again.

Run it again where it was cut off.")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct MigrateArguments {
    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) lattice: Option<String>,

    /// The layout that it is to have
    #[arg(long, value_enum)]
    to: Target,

    /// Show what would be moved, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Migrate without asking
    #[arg(long)]
    yes: bool,

    /// Delete the stream once the bucket holds all of it, after asking; hosts up to 0.59 lose their cache
    #[arg(long, conflicts_with = "dry_run")]
    delete_source: bool,

    /// Delete the stream without asking
    #[arg(long, requires = "delete_source")]
    yes_delete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// wasmCloud 0.60 to 0.82
    Kv,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &MigrateArguments) -> Result<String, CommandError> {
    let Target::Kv = arguments.to;
    let planned = call(context, Ask::Rehearse).await?;
    if planned.source_revision.is_none() {
        return render(context.format, &planned, |_| {
            format!(
                "nothing to migrate: {} is of layout kv already\n",
                context.lattice
            )
        });
    }
    if arguments.dry_run {
        return render(context.format, &planned, |planned| {
            plan(planned) + "dry run: nothing was written\n"
        });
    }
    let must_ask = !planned.verified && !arguments.yes;
    if must_ask || (arguments.delete_source && !arguments.yes_delete) {
        apply::check_can_ask(context, || {
            "nobody can be asked here; look at the plan with --dry-run, then give --yes, and --yes-delete to delete \
             the stream"
                .to_owned()
        })?;
    }
    if context.format == Format::Table {
        crate::print(&plan(&planned))?;
    }
    if must_ask {
        apply::confirm(format!(
            "Gateways will refuse to read or write {name} until its stream is deleted or a layout is configured.\n\
             Migrate {name}?",
            name = context.lattice
        ))
        .await?;
    }
    let moved = move_all(context).await?;
    check_verified(context, &moved)?;
    if !arguments.delete_source {
        return render(context.format, &moved, |_| {
            verified(context) + &next_steps(context)
        });
    }
    if context.format == Format::Table {
        crate::print(&verified(context))?;
    }
    if !arguments.yes_delete {
        apply::confirm(format!(
            "Delete the stream {} for good? Hosts up to 0.59 lose their cache.",
            stream(context)
        ))
        .await?;
    }
    let deleted = delete_source(context, moved).await?;
    render(context.format, &deleted, |_| {
        format!(
            "deleted  stream {}: lattice {} is of layout kv\n",
            stream(context),
            context.lattice
        )
    })
}

/// What a call is to do.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Rehearse,
    Move,
    DeleteSource(Option<Revision>),
}

async fn call(context: &Context<'_>, ask: Ask) -> Result<MigrateLatticeResponse, CommandError> {
    let (validate_only, delete_source_at) = match ask {
        Ask::Rehearse => (true, None),
        Ask::Move => (false, None),
        Ask::DeleteSource(at) => (false, at),
    };
    let request = MigrateLatticeRequest {
        lattice: context.lattice.to_owned(),
        delete_source_at,
        validate_only,
    };
    let effect = match validate_only {
        true => Effect::Nothing,
        false => Effect::Repeatable,
    };
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().migrate_lattice(request).await
    };
    let called = context.gateway.call(effect, send).await;
    called.map_err(|error| {
        // The usual way out, to configure a layout, is none here; the message tells which one is.
        match error.failure.reason == ErrorReason::LayoutAmbiguous.as_str_name() {
            true => CommandError::Refused(Exit::Refused, error.failure.message),
            false => error.into(),
        }
    })
}

/// Calls until nothing is left to be moved.
async fn move_all(context: &Context<'_>) -> Result<MigrateLatticeResponse, CommandError> {
    let mut progressed = Instant::now();
    let mut moved = 0_u64;
    loop {
        let answer = call(context, Ask::Move).await?;
        if answer.remaining_count == 0 {
            return Ok(answer);
        }
        if answer.moved_count > 0 {
            progressed = Instant::now();
            moved = moved.saturating_add(answer.moved_count);
            if context.format == Format::Table {
                output::note(&format!("{moved} moved, {} to go", answer.remaining_count));
            }
        } else if progressed.elapsed() >= context.gateway.timeout() {
            return Err(CommandError::Refused(
                Exit::Unavailable,
                format!(
                    "{} entries are still to be moved, and none can be at the moment; run the same command again, \
                     perhaps with a longer --timeout",
                    answer.remaining_count
                ),
            ));
        } else {
            sleep(PAUSE).await;
        }
    }
}

fn check_verified(context: &Context<'_>, moved: &MigrateLatticeResponse) -> Result<(), CommandError> {
    if moved.verified {
        return Ok(());
    }
    let kept = moved
        .items
        .iter()
        .filter(|item| item.action() == MigrationAction::Keep);
    let mut problems: Vec<_> = kept
        .take(LISTED_MAX)
        .map(|item| format!("{} {}", item.entry, item.reason))
        .collect();
    problems.push(format!(
        "{} of {} differ and were left as they are, so the stream is kept; run the same command again once they agree",
        output::entries(usize::try_from(moved.kept_count).unwrap_or(usize::MAX)),
        context.lattice,
    ));
    Err(CommandError::Lost(problems))
}

/// Deletes the stream as soon as it may be.
async fn delete_source(
    context: &Context<'_>,
    mut moved: MigrateLatticeResponse,
) -> Result<MigrateLatticeResponse, CommandError> {
    let seen = moved.source_revision;
    while !moved.source_deleted {
        if !moved.verified || moved.source_revision != seen {
            return Err(CommandError::Refused(
                Exit::Conflict,
                format!(
                    "{} was written after it was verified, so it was not deleted; stop the hosts that write it, then run \
                     the same command again",
                    stream(context)
                ),
            ));
        }
        wait(context, &moved).await?;
        moved = call(context, Ask::DeleteSource(seen)).await?;
        // Where an answer was lost, it is gone already.
        if moved.source_revision.is_none() {
            moved.source_deleted = true;
        }
    }
    Ok(moved)
}

/// Waits until every gateway has noticed the bucket.
async fn wait(context: &Context<'_>, moved: &MigrateLatticeResponse) -> Result<(), CommandError> {
    let wait = moved.deletable_in.and_then(|it| Duration::try_from(it).ok());
    let wait = wait.unwrap_or_default();
    if wait.is_zero() {
        return Ok(());
    }
    if context.format == Format::Table {
        output::note(&format!(
            "waiting {:.0}s, until every gateway has noticed the migration",
            wait.as_secs_f64().ceil()
        ));
    }
    tokio::select! {
        () = sleep(wait) => Ok(()),
        () = gateway::interruption() => Err(apply::interrupted()),
    }
}

fn stream(context: &Context<'_>) -> String {
    format!("LATTICECACHE_{}", context.lattice)
}

fn plan(planned: &MigrateLatticeResponse) -> String {
    let listed: String = planned.items.iter().take(LISTED_MAX).map(line).collect();
    let more = match planned.items.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!("and {more} more; -o json --dry-run lists up to 1000 of each sort\n"),
    };
    let MigrateLatticeResponse {
        remaining_count,
        unchanged_count,
        kept_count,
        left_count,
        stale_copies,
        ..
    } = planned;
    format!(
        "{listed}{more}{remaining_count} to move, {unchanged_count} moved already, {kept_count} kept, {left_count} malformed left \
         behind, {stale_copies} superseded copies left behind\n"
    )
}

fn line(item: &MigrationItem) -> String {
    let word = match item.action() {
        MigrationAction::Create => "create",
        MigrationAction::Replace => "replace",
        MigrationAction::Delete => "delete",
        MigrationAction::Keep => "keep",
        MigrationAction::Leave => "leave",
        MigrationAction::Unspecified => "?",
    };
    let reason = match item.reason.as_str() {
        "" => String::new(),
        reason => format!("  ({reason})"),
    };
    format!("{}\n", printable(&format!("{word:7}  {}{reason}", item.entry)))
}

fn verified(context: &Context<'_>) -> String {
    format!(
        "verified  stream {} and bucket LATTICEDATA_{} hold the same\n",
        stream(context),
        context.lattice
    )
}

fn next_steps(context: &Context<'_>) -> String {
    format!(
        "Gateways refuse to read or write {lattice} until its stream is deleted: run the command again with \
         --delete-source,\nor set lattices.{lattice}.layout = \"kv\" in their configuration. Hosts 0.60 and later \
         must not be started while it exists.\n",
        lattice = context.lattice
    )
}

#[cfg(test)]
mod tests;
