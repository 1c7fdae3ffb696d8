//! `latticectl lattice` and `latticectl info`: which lattices there are, how they are kept, and by what.

use clap::{Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use lattice_gateway::proto::{
    Drift, Durability, GetLatticeRequest, GetServerInfoRequest, GetServerInfoResponse, Lattice, Layout,
    Limits, ListLatticesRequest, ListLatticesResponse, MalformedEntry, ProvisionLatticeRequest,
    ProvisionLatticeResponse, Storage, WriteAtRisk,
};

use crate::{
    Context,
    args::ListOptions,
    failure::CommandError,
    gateway::Effect,
    output::{render, revision, timestamp},
    page::{self, Page},
    retry::Attempt,
    table::{self, printable},
};

#[derive(Debug, Subcommand)]
pub(crate) enum LatticeCommand {
    /// Lists the lattices that exist and that you may see
    List {
        #[command(flatten)]
        list: ListOptions,
    },

    /// Shows how a lattice is kept: layout, durability, drift, malformed entries
    Show {
        /// The lattice [default: the one of --lattice]
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
    },

    /// Creates the stream of a lattice as its hosts would; one that exists stays as it is
    Provision(Provision),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Provision {
    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Where to keep it
    #[arg(long, value_enum, default_value_t = StorageArgument::Memory)]
    storage: StorageArgument,

    /// Make every check and create nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StorageArgument {
    /// In memory, as hosts create it
    Memory,
    /// On disk; hosts before 0.58.2 then keep a private cache, so choose it only without them
    File,
}

impl LatticeCommand {
    /// The lattice it names.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::List { .. } => None,
            Self::Show { name } | Self::Provision(Provision { name, .. }) => name.as_deref(),
        }
    }
}

pub(crate) async fn run(context: &Context<'_>, command: &LatticeCommand) -> Result<String, CommandError> {
    match command {
        LatticeCommand::List { list } => self::list(context, list).await,
        LatticeCommand::Show { .. } => show(context).await,
        LatticeCommand::Provision(arguments) => provision(context, arguments).await,
    }
}

async fn list(context: &Context<'_>, list: &ListOptions) -> Result<String, CommandError> {
    let client = context.gateway.lattices();
    let listed = page::all(list.limit, async |page| {
        let request = ListLatticesRequest {
            page_size: page.size,
            page_token: page.token.clone(),
        };
        let send = async |attempt: Attempt| {
            client
                .clone()
                .list_lattices(attempt.request(request.clone()))
                .await
        };
        let response = context.gateway.call(Effect::Nothing, send).await?;
        Ok(Page {
            items: response.lattices,
            next_page_token: response.next_page_token,
            revision: None,
        })
    });
    let listed = listed.await?;
    let response = ListLatticesResponse {
        lattices: listed.items,
        next_page_token: listed.next_page_token,
    };
    render(context.format, &response, |response| {
        let rows = response.lattices.iter();
        table::columns(
            ["NAME", "LAYOUT"],
            rows.map(|it| [it.name.clone(), layout(it.layout).to_owned()]),
        )
    })
}

async fn show(context: &Context<'_>) -> Result<String, CommandError> {
    let request = GetLatticeRequest {
        lattice: context.lattice.to_owned(),
    };
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| client.clone().get_lattice(attempt.request(request.clone())).await;
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, |response| {
        response.lattice.as_ref().map(shown).unwrap_or_default()
    })
}

async fn provision(context: &Context<'_>, arguments: &Provision) -> Result<String, CommandError> {
    let storage = match arguments.storage {
        StorageArgument::Memory => Storage::Memory,
        StorageArgument::File => Storage::File,
    };
    let request = ProvisionLatticeRequest {
        lattice: context.lattice.to_owned(),
        layout: Layout::Unspecified.into(),
        storage: storage.into(),
        validate_only: arguments.dry_run,
    };
    let effect = if arguments.dry_run {
        Effect::Nothing
    } else {
        Effect::Repeatable
    };
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| {
        let request = attempt.request(request.clone());
        client.clone().provision_lattice(request).await
    };
    let response = context.gateway.call(effect, send).await?;
    render(context.format, &response, |response| {
        provisioned(response, &request)
    })
}

/// Tells what became of provisioning, in one line.
fn provisioned(response: &ProvisionLatticeResponse, request: &ProvisionLatticeRequest) -> String {
    let (word, remark) = match (response.created, request.validate_only) {
        (true, true) => ("valid", "nothing created".to_owned()),
        (true, false) => ("created", stream(response.lattice.as_ref())),
        (false, _) => ("unchanged", stream(response.lattice.as_ref())),
    };
    format!(
        "{word}  lattice {}  ({})\n",
        printable(&request.lattice),
        printable(&remark)
    )
}

fn stream(lattice: Option<&Lattice>) -> String {
    let stream = lattice.map_or("not told", |lattice| lattice.stream.as_str());
    format!("stream {stream}")
}

pub(crate) async fn info(context: &Context<'_>) -> Result<String, CommandError> {
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| {
        let request = attempt.request(GetServerInfoRequest {});
        client.clone().get_server_info(request).await
    };
    let response = context.gateway.call(Effect::Nothing, send).await?;
    render(context.format, &response, described)
}

fn described(info: &GetServerInfoResponse) -> String {
    let layouts: Vec<_> = info.layouts.iter().map(|it| layout(*it)).collect();
    let server = table::fields(&[
        ("version", info.version.clone()),
        ("NATS version", info.nats_version.clone()),
        ("layouts", layouts.join(",")),
        ("default deadline", duration(info.default_deadline.as_ref())),
        ("server time", timestamp(info.server_time.as_ref())),
        ("caller", info.caller.clone()),
    ]);
    let limits = info.limits.as_ref().map(limits).unwrap_or_default();
    format!("{server}\n{limits}")
}

fn limits(limits: &Limits) -> String {
    let rows = [
        ("lattice", limits.lattice_bytes_max, "bytes"),
        ("link name", limits.link_name_bytes_max, "bytes"),
        ("contract", limits.contract_id_bytes_max, "bytes"),
        ("OCI reference", limits.oci_url_bytes_max, "bytes"),
        ("values of a link", limits.values_max, "entries"),
        ("key of a value", limits.value_key_characters_max, "characters"),
        ("stored body", limits.body_bytes_max, "bytes"),
        ("claims token", limits.claims_token_bytes_max, "bytes"),
        ("message", limits.message_bytes_max, "bytes"),
        ("page of a list", limits.page_size_max, "entries"),
    ];
    table::columns(
        ["LIMIT", "MAX", "UNIT"],
        rows.map(|(name, max, unit)| [name.to_owned(), max.to_string(), unit.to_owned()]),
    )
}

fn shown(lattice: &Lattice) -> String {
    let mut text = summary(lattice, &lattice.durability.clone().unwrap_or_default());
    for section in [
        drift(&lattice.drift),
        malformed(&lattice.malformed),
        at_risk(&lattice.writes_at_risk),
    ] {
        text.extend(section.map(|section| format!("\n{section}")));
    }
    text
}

fn summary(lattice: &Lattice, durability: &Durability) -> String {
    table::fields(&[
        ("name", lattice.name.clone()),
        ("layout", layout(lattice.layout).to_owned()),
        ("stream", lattice.stream.clone()),
        ("storage", storage(durability.storage).to_owned()),
        ("replicas", durability.replicas.to_string()),
        ("duplicate window", duration(durability.duplicate_window.as_ref())),
        ("durability", durability.statement.clone()),
        ("claims", lattice.claims_count.to_string()),
        ("link definitions", lattice.link_definition_count.to_string()),
        ("OCI references", lattice.oci_reference_count.to_string()),
        ("malformed entries", lattice.malformed_count.to_string()),
        ("stale copies", lattice.stale_copies.to_string()),
        ("revision", revision(lattice.revision)),
    ])
}

fn drift(drift: &[Drift]) -> Option<String> {
    let row = |it: &Drift| {
        let blocks_writes = if it.blocks_writes { "yes" } else { "no" };
        [&it.field, &it.want, &it.have, blocks_writes].map(str::to_owned)
    };
    let header = ["DRIFT", "HOSTS CREATE", "FOUND", "BLOCKS WRITES"];
    (!drift.is_empty()).then(|| table::columns(header, drift.iter().map(row)))
}

fn malformed(malformed: &[MalformedEntry]) -> Option<String> {
    let row = |it: &MalformedEntry| [it.subject.clone(), it.sequence.to_string(), it.reason.clone()];
    let header = ["MALFORMED", "SEQUENCE", "REASON"];
    (!malformed.is_empty()).then(|| table::columns(header, malformed.iter().map(row)))
}

fn at_risk(writes: &[WriteAtRisk]) -> Option<String> {
    let row = |it: &WriteAtRisk| {
        [
            it.entry.clone(),
            revision(it.revision),
            timestamp(it.acknowledge_time.as_ref()),
        ]
    };
    let header = ["WRITE AT RISK", "REVISION", "ACKNOWLEDGED"];
    (!writes.is_empty()).then(|| table::columns(header, writes.iter().map(row)))
}

/// As the gateway's configuration names it.
fn layout(layout: i32) -> &'static str {
    match Layout::try_from(layout) {
        Ok(Layout::CacheStream) => "cache-stream",
        Ok(Layout::Kv) => "kv",
        Ok(Layout::Component) => "component",
        Ok(Layout::Undecided) => "undecided",
        Ok(Layout::Unspecified) | Err(_) => "unknown",
    }
}

fn storage(storage: i32) -> &'static str {
    match Storage::try_from(storage) {
        Ok(Storage::Memory) => "memory",
        Ok(Storage::File) => "file",
        Ok(Storage::Unspecified) | Err(_) => "unknown",
    }
}

fn duration(duration: Option<&pbjson_types::Duration>) -> String {
    let duration = duration.and_then(|it| std::time::Duration::try_from(*it).ok());
    duration.map_or_else(String::new, |it| humantime::format_duration(it).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provisioning(created: bool, validate_only: bool) -> String {
        let response = ProvisionLatticeResponse {
            lattice: Some(Lattice {
                stream: "LATTICECACHE_blue".to_owned(),
                ..Lattice::default()
            }),
            created,
        };
        let request = ProvisionLatticeRequest {
            lattice: "blue".to_owned(),
            validate_only,
            ..ProvisionLatticeRequest::default()
        };
        provisioned(&response, &request)
    }

    #[test]
    fn provisioning_is_told_in_one_line() {
        assert_eq!(
            provisioning(true, false),
            "created  lattice blue  (stream LATTICECACHE_blue)\n"
        );
        assert_eq!(
            provisioning(false, false),
            "unchanged  lattice blue  (stream LATTICECACHE_blue)\n"
        );
        assert_eq!(
            provisioning(true, true),
            "valid  lattice blue  (nothing created)\n"
        );
    }

    #[test]
    fn a_lattice_is_shown_with_what_is_wrong_with_it_and_nothing_else() {
        let mut lattice = Lattice {
            name: "blue".to_owned(),
            layout: Layout::CacheStream.into(),
            ..Lattice::default()
        };
        let sound = shown(&lattice);
        assert!(
            sound.starts_with("name               blue\nlayout             cache-stream\n"),
            "{sound}"
        );
        assert!(
            !sound.contains("DRIFT") && !sound.contains("MALFORMED"),
            "{sound}"
        );
        lattice.drift.push(Drift {
            field: "max_msgs_per_subject".to_owned(),
            want: "1".to_owned(),
            have: "5".to_owned(),
            blocks_writes: true,
        });
        assert!(shown(&lattice).ends_with(
            "\nDRIFT                 HOSTS CREATE  FOUND  BLOCKS WRITES\n\
             max_msgs_per_subject  1             5      yes\n"
        ));
    }
}
