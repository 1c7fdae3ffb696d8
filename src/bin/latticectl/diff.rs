//! `latticectl diff`: compares what two lattices or files hold.

use std::path::PathBuf;

use lattice_gateway::proto::{EntryIdentity, entry::Entry};
use serde_json::{Value, json};

use crate::{
    Context,
    apply::{
        held::Held,
        manifest::{self, Desired, Origin},
        plan::{Change, Plan, Step},
        report::{difference_json, difference_lines},
    },
    args::Format,
    entry::{self, Kind},
    failure::{CommandError, Exit},
    input,
    picture::Picture,
    table::printable,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A and B are each the name of a lattice, or a file: an export, or a manifest. What has a dot or a slash in it, or is
`-`, is a file.

Exit code: 0 if they hold the same, 7 if they differ.")]
pub(crate) struct DiffArguments {
    /// What was: a lattice or a file
    #[arg(value_name = "A", value_parser = side)]
    a: Side,

    /// What is: a lattice or a file
    #[arg(value_name = "B", value_parser = side)]
    b: Side,

    /// Show values, which may be secrets, and not only which of them differ
    #[arg(long)]
    show_values: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Lattice(String),
    File(PathBuf),
}

/// No name of a lattice has a dot or a slash in it.
fn side(text: &str) -> Result<Side, String> {
    match text {
        "" => Err("give a lattice or a file".to_owned()),
        text if text == input::STDIN || text.contains(['.', '/']) => Ok(Side::File(text.into())),
        text => Ok(Side::Lattice(text.to_owned())),
    }
}

pub(crate) async fn run(context: &Context<'_>, arguments: &DiffArguments) -> Result<String, CommandError> {
    let [a, b] = [
        entries(context, &arguments.a).await?,
        entries(context, &arguments.b).await?,
    ];
    let plan = compare(a, b);
    let text = match context.format {
        Format::Table => table(&plan, !arguments.show_values),
        Format::Json => format!("{:#}\n", json(&plan, !arguments.show_values)),
    };
    if plan.changes.is_empty() {
        return Ok(text);
    }
    crate::print(&text)?;
    Err(CommandError::Silent(Exit::Changes))
}

/// What has to change for what was to become what is.
fn compare(a: Vec<Desired>, mut b: Vec<Desired>) -> Plan {
    let entries = a.into_iter().map(|it| (entry::identity(&it.entry), it.entry));
    let held = Held {
        entries: entries.collect(),
        ..Held::default()
    };
    b.sort_by_cached_key(|it| (Kind::of(&it.entry), entry::name(&entry::identity(&it.entry))));
    Plan::new(b, held, &Kind::ALL.into())
}

async fn entries(context: &Context<'_>, side: &Side) -> Result<Vec<Desired>, CommandError> {
    match side {
        Side::File(file) => Ok(manifest::read_all(std::slice::from_ref(file))?.entries),
        Side::Lattice(name) => {
            let of_side = Context {
                gateway: context.gateway.clone(),
                lattice: name,
                format: context.format,
            };
            let entries = Picture::take(&of_side).await?.entries.into_iter();
            Ok(entries.map(|entry| of_lattice(name, entry)).collect())
        }
    }
}

fn of_lattice(name: &str, entry: Entry) -> Desired {
    Desired {
        entry,
        token: None,
        origin: Origin {
            file: name.into(),
            line: 0,
            document: 0,
        },
    }
}

fn word(step: &Step) -> &'static str {
    match step {
        Step::Create(_) => "added",
        Step::Update { .. } => "changed",
        Step::Delete { .. } => "removed",
    }
}

fn count(plan: &Plan, word: &str) -> usize {
    let is_one = |change: &&Change| self::word(&change.step) == word;
    plan.changes.iter().filter(is_one).count()
}

fn table(plan: &Plan, hide_values: bool) -> String {
    let lines = plan.changes.iter().map(|change| {
        let (kind, name) = (change.kind().word(), entry::name(&change.identity));
        let head = format!("{:8} {kind} {name}", word(&change.step));
        let head = format!("{}\n", printable(&head));
        match &change.step {
            Step::Update { differences, .. } => head + &difference_lines(differences, hide_values),
            Step::Create(_) | Step::Delete { .. } => head,
        }
    });
    let [added, removed, changed] = ["added", "removed", "changed"].map(|word| count(plan, word));
    let lines = lines.collect::<String>();
    format!(
        "{lines}{added} added, {removed} removed, {changed} changed, {} equal\n",
        plan.unchanged
    )
}

fn json(plan: &Plan, hide_values: bool) -> Value {
    let changes = plan.changes.iter().map(|change| {
        let identity = EntryIdentity {
            identity: Some(change.identity.clone()),
        };
        let mut json = json!({
            "change": word(&change.step),
            "kind": change.kind().resource(),
            "identity": serde_json::to_value(identity).unwrap_or_default(),
        });
        if let (Step::Update { differences, .. }, Some(json)) = (&change.step, json.as_object_mut()) {
            let fields = differences.iter().map(|it| difference_json(it, hide_values));
            json.insert("fields".to_owned(), fields.collect());
        }
        json
    });
    json!({
        "changes": changes.collect::<Vec<_>>(),
        "summary": {
            "added": count(plan, "added"),
            "removed": count(plan, "removed"),
            "changed": count(plan, "changed"),
            "equal": plan.unchanged,
        },
    })
}

#[cfg(test)]
mod tests;
