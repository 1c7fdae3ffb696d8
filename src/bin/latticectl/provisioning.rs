//! What `lattice provision` and `wadm provision` share: the options of streams, and how a plan is shown and done.

use clap::{ValueEnum, value_parser};
use lattice_gateway::proto::{
    Placement, ProvisionLatticeResponse, ProvisionWadmResponse, Storage, StreamAction, StreamPlan,
};
use serde::Serialize;

use crate::{
    Context,
    args::Format,
    failure::{CallError, CommandError, Exit},
    gateway::Effect,
    output::render,
    table::{self, printable},
};

/// What may be chosen of streams.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Stream options")]
pub(crate) struct StreamOptions {
    /// Where to keep the streams [default: as hosts and wadm do]; the storage of one that exists cannot be changed
    #[arg(long, value_enum)]
    storage: Option<StorageArgument>,

    /// On how many NATS servers, 1 to 5 [default: 1, and as it is for one that exists]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    replicas: Option<u32>,

    /// In which NATS cluster
    #[arg(long, value_name = "NAME")]
    placement_cluster: Option<String>,

    /// On servers with this tag; may be given several times
    #[arg(long = "placement-tag", value_name = "TAG")]
    placement_tags: Vec<String>,

    /// How many bytes each stream may hold [default: any number, and as it is for one that exists]
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u64).range(1..))]
    max_bytes: Option<u64>,

    /// Show the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StorageArgument {
    /// In memory
    Memory,
    /// On disk; for layout cache-stream only without hosts before 0.58.2, which then keep a private cache
    File,
}

impl StreamOptions {
    pub(crate) fn storage(&self) -> Storage {
        match self.storage {
            None => Storage::Unspecified,
            Some(StorageArgument::Memory) => Storage::Memory,
            Some(StorageArgument::File) => Storage::File,
        }
    }

    pub(crate) fn replicas(&self) -> u32 {
        self.replicas.unwrap_or_default()
    }

    pub(crate) fn placement(&self) -> Option<Placement> {
        let is_given = self.placement_cluster.is_some() || !self.placement_tags.is_empty();
        is_given.then(|| Placement {
            cluster: self.placement_cluster.clone().unwrap_or_default(),
            tags: self.placement_tags.clone(),
        })
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes.unwrap_or_default()
    }
}

/// An answer that tells what was found of streams, and done with them.
pub(crate) trait Provisioned: Serialize {
    fn streams(&self) -> &[StreamPlan];
}

impl Provisioned for ProvisionLatticeResponse {
    fn streams(&self) -> &[StreamPlan] {
        &self.streams
    }
}

impl Provisioned for ProvisionWadmResponse {
    fn streams(&self) -> &[StreamPlan] {
        &self.streams
    }
}

/// Shows what is planned, then has it done, unless it is a dry run. Ends as a conflict where a stream is wrong.
pub(crate) async fn run<R: Provisioned>(
    context: &Context<'_>,
    dry_run: bool,
    call: impl AsyncFn(Effect<'_>, bool) -> Result<R, CallError>,
) -> Result<String, CommandError> {
    let (answer, text) = match (context.format, dry_run) {
        (Format::Json, false) => {
            let answer = call(Effect::Repeatable, false).await?;
            let text = render(context.format, &answer, |_| String::new())?;
            (answer, text)
        }
        (Format::Json, true) | (Format::Table, _) => {
            let planned = call(Effect::Nothing, true).await?;
            let text = render(context.format, &planned, |planned| {
                plan(planned.streams(), dry_run)
            })?;
            if dry_run || !changes(planned.streams()) {
                (planned, text)
            } else {
                crate::print(&text)?;
                let done = call(Effect::Repeatable, false).await?;
                let text = summary(done.streams(), ["created", "updated"]);
                (done, text)
            }
        }
    };
    let is_wrong = |plan: &StreamPlan| plan.action() == StreamAction::Wrong;
    if answer.streams().iter().any(is_wrong) {
        crate::print(&text)?;
        return Err(CommandError::Silent(Exit::Conflict));
    }
    Ok(text)
}

fn changes(streams: &[StreamPlan]) -> bool {
    let actions = [StreamAction::Created, StreamAction::Updated];
    streams.iter().any(|plan| actions.contains(&plan.action()))
}

/// The plan as a table, what comes of what is wrong, and how much there is to do.
fn plan(streams: &[StreamPlan], dry_run: bool) -> String {
    let rows = streams.iter().flat_map(|plan| {
        let head = [word(plan.action()), &plan.stream].map(str::to_owned);
        let none = plan.differences.is_empty().then(<[String; 4]>::default);
        let differences = plan.differences.iter().map(|it| {
            let changes = if it.changed { "yes" } else { "no" };
            [&it.field, &it.want, &it.have, changes].map(str::to_owned)
        });
        let rows = differences.chain(none);
        rows.map(move |[field, want, have, changes]| {
            let [action, stream] = head.clone();
            [action, stream, field, want, have, changes]
        })
    });
    let table = table::columns(["PLAN", "STREAM", "FIELD", "WANT", "HAVE", "CHANGES"], rows);
    let wrong = streams.iter().filter(|plan| !plan.consequence.is_empty());
    let wrong = wrong.map(|plan| {
        let (stream, consequence) = (printable(&plan.stream), printable(&plan.consequence));
        format!("wrong: {stream}: {consequence}\n")
    });
    let end = if dry_run {
        "dry run: nothing was changed\n"
    } else {
        ""
    };
    let summary = summary(streams, ["to create", "to update"]);
    format!("{table}{}{summary}{end}", wrong.collect::<String>())
}

fn word(action: StreamAction) -> &'static str {
    match action {
        StreamAction::Created => "create",
        StreamAction::Updated => "update",
        StreamAction::Unchanged => "unchanged",
        StreamAction::Wrong => "wrong",
        StreamAction::Unspecified => "unknown",
    }
}

fn summary(streams: &[StreamPlan], [created, updated]: [&str; 2]) -> String {
    let count = |action| streams.iter().filter(|plan| plan.action() == action).count();
    format!(
        "{} {created}, {} {updated}, {} unchanged, {} wrong\n",
        count(StreamAction::Created),
        count(StreamAction::Updated),
        count(StreamAction::Unchanged),
        count(StreamAction::Wrong),
    )
}

#[cfg(test)]
mod tests {
    use lattice_gateway::proto::FieldDifference;

    use super::*;

    fn difference(field: &str, want: &str, have: &str, changed: bool) -> FieldDifference {
        FieldDifference {
            field: field.to_owned(),
            want: want.to_owned(),
            have: have.to_owned(),
            changed,
        }
    }

    fn stream(name: &str, action: StreamAction, differences: Vec<FieldDifference>) -> StreamPlan {
        StreamPlan {
            stream: name.to_owned(),
            action: action.into(),
            differences,
            consequence: match action == StreamAction::Wrong {
                true => "it is\nlost".to_owned(),
                false => String::new(),
            },
        }
    }

    #[test]
    fn a_plan_is_a_row_for_each_difference() {
        let streams = [
            stream("A", StreamAction::Created, vec![]),
            stream(
                "B",
                StreamAction::Updated,
                vec![
                    difference("num_replicas", "3", "1", true),
                    difference("storage", "\"file\"", "\"memory\"", false),
                ],
            ),
            stream(
                "C",
                StreamAction::Wrong,
                vec![difference("subjects", "[]", "[\"x\"]", false)],
            ),
        ];
        assert_eq!(
            plan(&streams, true),
            "PLAN    STREAM  FIELD         WANT    HAVE      CHANGES\n\
             create  A       -             -       -         -\n\
             update  B       num_replicas  3       1         yes\n\
             update  B       storage       \"file\"  \"memory\"  no\n\
             wrong   C       subjects      []      [\"x\"]     no\n\
             wrong: C: it is\\nlost\n\
             1 to create, 1 to update, 0 unchanged, 1 wrong\n\
             dry run: nothing was changed\n"
        );
        assert_eq!(
            summary(&streams, ["created", "updated"]),
            "1 created, 1 updated, 0 unchanged, 1 wrong\n"
        );
    }
}
