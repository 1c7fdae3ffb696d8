//! `latticectl doctor`: what is wrong with a lattice, and with `--fix` what of it is mended.

use clap::builder::NonEmptyStringValueParser;
use lattice_gateway::proto::{
    ApplyRequest, DiagnoseLatticeRequest, DiagnoseLatticeResponse, Finding, FindingKind, Severity,
    SkippedCheck, apply_request::Operation,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Context,
    apply::{
        self, check_can_ask,
        drive::{Answer, Drive},
        interrupted,
        progress::Progress,
    },
    args::Format,
    failure::{CommandError, Exit},
    gateway::Effect,
    output,
    retry::Attempt,
    table::printable,
};

#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArguments {
    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,

    /// On how many NATS servers its streams should be
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5))]
    replicas: Option<u32>,

    /// Make the changes that mend something and take nothing away, after asking; then look again
    #[arg(long)]
    fix: bool,

    /// Make them without asking
    #[arg(long, requires = "fix")]
    yes: bool,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &DoctorArguments) -> Result<String, CommandError> {
    let found = diagnose(context, arguments).await?;
    let mends = mends(&found);
    if !arguments.fix || mends.is_empty() {
        let remark = match (arguments.fix, context.format) {
            (true, Format::Table) => "\nThere is nothing that --fix mends.\n",
            _ => "",
        };
        let text = output::render(context.format, &found, |found| {
            shown(context.lattice, found) + remark
        });
        return told(text?, &found);
    }
    if context.format == Format::Table {
        crate::print(&format!("{}\n{}", shown(context.lattice, &found), plan(&mends)))?;
    }
    if !arguments.yes {
        confirm(context, mends.len()).await?;
    }
    let answers = mend(context, &mends).await?;
    let left = diagnose(context, arguments).await?;
    let text = match context.format {
        Format::Table => format!("{}\n{}", mended(&mends, &answers), shown(context.lattice, &left)),
        Format::Json => {
            let answers = mends.iter().zip(&answers);
            let mends = answers.map(|(finding, answer)| as_json(finding, answer.as_ref()));
            let whole = json!({ "mends": mends.collect::<Vec<_>>(), "diagnosis": left });
            format!("{whole:#}\n")
        }
    };
    told(text, &left)
}

async fn diagnose(
    context: &Context<'_>,
    arguments: &DoctorArguments,
) -> Result<DiagnoseLatticeResponse, CommandError> {
    let request = DiagnoseLatticeRequest {
        lattice: context.lattice.to_owned(),
        replicas_wanted: arguments.replicas.unwrap_or_default(),
    };
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().diagnose_lattice(request).await
    };
    Ok(context.gateway.call(Effect::Nothing, send).await?)
}

/// Says by the exit code whether something has to be done.
fn told(text: String, found: &DiagnoseLatticeResponse) -> Result<String, CommandError> {
    let matters = |severity| matches!(severity, Severity::Error | Severity::Warning);
    if !found.counts.iter().any(|count| matters(count.severity())) {
        return Ok(text);
    }
    crate::print(&text)?;
    Err(CommandError::Silent(Exit::Findings))
}

/// The findings that a change mends.
fn mends(found: &DiagnoseLatticeResponse) -> Vec<&Finding> {
    let findings = found.findings.iter();
    findings.filter(|finding| finding.mend.is_some()).collect()
}

async fn confirm(context: &Context<'_>, count: usize) -> Result<(), CommandError> {
    check_can_ask(context, || {
        format!(
            "--fix would make {count} changes, and nobody can be asked here; look at them without it, then give --yes"
        )
    })?;
    apply::confirm(match count {
        1 => "Make this change?".to_owned(),
        count => format!("Make these {count} changes?"),
    })
    .await
}

/// Makes the changes, each once; gives what became of each, of none that was not sent.
async fn mend(context: &Context<'_>, mends: &[&Finding]) -> Result<Vec<Option<Answer>>, CommandError> {
    let run = Uuid::now_v7().simple().to_string();
    let progress = Progress::new(context.format, mends.len());
    let operation = |number: usize, age| {
        let mend = mends.get(number)?.mend.clone()?;
        Some(ApplyRequest {
            id: number.to_string(),
            operation: Some(named(mend.operation?, format!("{run}-{number}"), age)),
        })
    };
    let mut drive = Drive::new(&context.gateway, mends.len(), &progress, operation);
    drive.phase(0..mends.len()).await;
    progress.finish();
    match drive.is_interrupted() {
        true => Err(interrupted()),
        false => Ok(drive.into_answers()),
    }
}

/// Names an attempt, so that it is applied once.
fn named(operation: Operation, request_id: String, retry_age: Option<pbjson_types::Duration>) -> Operation {
    macro_rules! named {
        ($($operation:ident),+) => {
            match operation {
                $(Operation::$operation(mut request) => {
                    request.request_id = request_id;
                    request.retry_age = retry_age;
                    Operation::$operation(request)
                })+
            }
        };
    }
    named!(
        PutClaims,
        DeleteClaims,
        PutLinkDefinition,
        DeleteLinkDefinition,
        PutInterfaceLink,
        DeleteInterfaceLink,
        SetOciReference,
        DeleteOciReference,
        PutConfig,
        DeleteConfig
    )
}

fn plan(mends: &[&Finding]) -> String {
    let lines = mends
        .iter()
        .map(|finding| format!("put again  {}\n", printable(&finding.about)));
    lines.collect()
}

fn mended(mends: &[&Finding], answers: &[Option<Answer>]) -> String {
    let lines = mends.iter().zip(answers).map(|(finding, answer)| match answer {
        Some(Answer::Done(result)) => output::written(Some(result), &finding.about),
        Some(Answer::Failed(error)) => format!(
            "failed  {}  ({})\n",
            printable(&finding.about),
            printable(&error.failure.message)
        ),
        None => format!("not done  {}\n", printable(&finding.about)),
    });
    lines.collect()
}

fn as_json(finding: &Finding, answer: Option<&Answer>) -> serde_json::Value {
    let (result, error) = match answer {
        Some(Answer::Done(result)) => (Some(result), None),
        Some(Answer::Failed(error)) => (None, Some(error.json())),
        None => (None, None),
    };
    json!({ "about": finding.about, "result": result.cloned(), "error": error })
}

/// The findings as people read them, the worst first.
fn shown(lattice: &str, found: &DiagnoseLatticeResponse) -> String {
    let sections = [
        (Severity::Error, "ERRORS: hosts or the gateway work wrongly now"),
        (
            Severity::Warning,
            "WARNINGS: they will, under events that are to be expected",
        ),
        (Severity::Info, "NOTES"),
    ];
    let sections = sections.map(|(severity, title)| {
        let findings = found.findings.iter().filter(|it| it.severity() == severity);
        let findings = findings.map(of_finding).collect::<String>();
        section(title, &(findings + &unlisted(found, severity)))
    });
    let skipped = found.skipped.iter().map(of_skipped).collect::<String>();
    [
        summary(lattice, found),
        sections.concat(),
        section("NOT CHECKED", &skipped),
    ]
    .concat()
}

fn section(title: &str, text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("\n{title}\n{text}"),
    }
}

fn summary(lattice: &str, found: &DiagnoseLatticeResponse) -> String {
    let count = |severity| {
        let counts = found.counts.iter().filter(|count| count.severity() == severity);
        counts.map(|count| count.count).sum::<u64>()
    };
    let counted = [
        (count(Severity::Error), "error"),
        (count(Severity::Warning), "warning"),
        (count(Severity::Info), "note"),
    ];
    let counted = counted.into_iter().filter(|(count, _)| *count > 0);
    let counted = counted
        .map(|(count, what)| plural(count, what))
        .collect::<Vec<_>>();
    let counted = match counted.as_slice() {
        [] if found.skipped.is_empty() => "all is well".to_owned(),
        [] => "nothing was found".to_owned(),
        some => some.join(", "),
    };
    let hosts = found.hosts.map(|hosts| plural(hosts.into(), "host"));
    let hosts = hosts.map_or_else(String::new, |hosts| format!("; {hosts} answered"));
    format!("lattice {}: {counted}{hosts}\n", printable(lattice))
}

fn plural(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

fn of_finding(finding: &Finding) -> String {
    let evidence = finding.evidence.iter();
    let evidence = evidence.map(|it| format!("{}={}", it.key, printable(&it.value)));
    let remedy = finding.remedy.clone().unwrap_or_default();
    let command = match remedy.command.as_str() {
        "" => String::new(),
        command => format!("$ {}", printable(command)),
    };
    let mend = match finding.mend {
        None => "",
        Some(_) => "--fix does it.",
    };
    let lines = [
        printable(&finding.detail),
        evidence.collect::<Vec<_>>().join("  "),
        printable(&remedy.advice),
        command,
        mend.to_owned(),
    ];
    let title = format!("\n  {}  ({})\n", printable(&finding.about), word(finding.kind()));
    let lines = lines.iter().filter(|line| !line.is_empty());
    lines.fold(title, |text, line| text + "    " + line + "\n")
}

/// Tells how many of a severity there are besides.
fn unlisted(found: &DiagnoseLatticeResponse, severity: Severity) -> String {
    let counts = found.counts.iter().filter(|count| count.severity() == severity);
    let more = counts.filter_map(|count| {
        let listed = found
            .findings
            .iter()
            .filter(|it| it.severity() == severity && it.kind() == count.kind());
        let listed = u64::try_from(listed.count()).unwrap_or(u64::MAX);
        let more = count.count.saturating_sub(listed);
        (more > 0).then(|| format!("\n  and {more} more of {}\n", word(count.kind())))
    });
    more.collect()
}

fn of_skipped(skipped: &SkippedCheck) -> String {
    let kinds = skipped.kinds().map(word).collect::<Vec<_>>();
    format!("  {}\n    {}\n", kinds.join(", "), printable(&skipped.reason))
}

/// As people name a kind.
fn word(kind: FindingKind) -> String {
    let name = kind.as_str_name();
    let name = name.strip_prefix("FINDING_KIND_").unwrap_or(name);
    name.to_lowercase().replace('_', " ")
}

#[cfg(test)]
mod tests;
