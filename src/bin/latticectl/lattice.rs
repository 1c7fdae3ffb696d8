//! `latticectl lattice` and `latticectl info`: which lattices there are, how they are kept, and by what.

use clap::{Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use lattice_gateway::proto::{
    DeafWatch, Drift, Durability, GetLatticeRequest, GetLatticeResponse, GetServerInfoRequest,
    GetServerInfoResponse, Lattice, Layout, Limits, ListLatticesRequest, ListLatticesResponse,
    MalformedEntry, MigrationDifference, ProvisionLatticeRequest, Storage, UndoneEdit, WriteAtRisk,
};

use crate::{
    Context,
    args::ListOptions,
    failure::{CallError, CommandError},
    gateway::Effect,
    output::{render, revision, timestamp},
    page::{self, Page},
    provisioning::{self, StreamOptions},
    retry::Attempt,
    table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum LatticeCommand {
    /// Lists the lattices that exist and that you may see
    List {
        #[command(flatten)]
        list: ListOptions,
    },

    /// Shows how a lattice is kept: layout, durability, drift, malformed entries, what hosts undid
    Show {
        /// The lattice [default: the one of --lattice]
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
    },

    /// Creates the stream or buckets of a lattice as its hosts would; of those that exist only what is asked for is changed
    Provision(Provision),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Provision {
    /// The lattice [default: the one of --lattice]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Which hosts it is for
    #[arg(long, value_enum, default_value_t = LayoutArgument::CacheStream)]
    layout: LayoutArgument,

    #[command(flatten)]
    streams: StreamOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LayoutArgument {
    /// wasmCloud 0.50 to 0.59
    CacheStream,
    /// wasmCloud 0.60 to 0.82
    Kv,
    /// wasmCloud 1.0 to 1.9
    Component,
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

/// Asks how the lattice is kept.
pub(crate) async fn get(context: &Context<'_>) -> Result<GetLatticeResponse, CallError> {
    let request = GetLatticeRequest {
        lattice: context.lattice.to_owned(),
    };
    let client = context.gateway.lattices();
    let send = async |attempt: Attempt| client.clone().get_lattice(attempt.request(request.clone())).await;
    context.gateway.call(Effect::Nothing, send).await
}

async fn show(context: &Context<'_>) -> Result<String, CommandError> {
    let response = get(context).await?;
    render(context.format, &response, |response| {
        response.lattice.as_ref().map(shown).unwrap_or_default()
    })
}

async fn provision(context: &Context<'_>, arguments: &Provision) -> Result<String, CommandError> {
    let client = context.gateway.lattices();
    let call = async |effect: Effect<'_>, validate_only: bool| {
        let send = async |attempt: Attempt| {
            let request = attempt.request(arguments.request(context.lattice, validate_only));
            client.clone().provision_lattice(request).await
        };
        context.gateway.call(effect, send).await
    };
    provisioning::run(context, arguments.streams.dry_run, call).await
}

impl Provision {
    fn request(&self, lattice: &str, validate_only: bool) -> ProvisionLatticeRequest {
        let layout = match self.layout {
            LayoutArgument::CacheStream => Layout::CacheStream,
            LayoutArgument::Kv => Layout::Kv,
            LayoutArgument::Component => Layout::Component,
        };
        ProvisionLatticeRequest {
            lattice: lattice.to_owned(),
            layout: layout.into(),
            storage: self.streams.storage().into(),
            replicas: self.streams.replicas(),
            placement: self.streams.placement(),
            max_bytes: self.streams.max_bytes(),
            validate_only,
        }
    }
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
        ("component id", limits.component_id_bytes_max, "bytes"),
        ("WIT name", limits.wit_name_bytes_max, "bytes"),
        ("config name", limits.config_name_bytes_max, "bytes"),
        ("interfaces, or configs of one end", limits.link_list_max, "items"),
        ("manifest", limits.manifest_operations_max, "operations"),
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
        differences(&lattice.migration_differences),
        undone(&lattice.undone_edits),
        deaf(&lattice.deaf_watches),
    ] {
        text.extend(section.map(|section| format!("\n{section}")));
    }
    text
}

fn summary(lattice: &Lattice, durability: &Durability) -> String {
    // The layout decides which of both there are.
    let has_interface_links = lattice.layout == i32::from(Layout::Component);
    let count = |is_kept: bool, count: u64| match is_kept {
        true => count.to_string(),
        false => String::new(),
    };
    table::fields(&[
        ("name", lattice.name.clone()),
        ("layout", layout(lattice.layout).to_owned()),
        ("stream", lattice.stream.clone()),
        ("storage", storage(durability.storage).to_owned()),
        ("replicas", durability.replicas.to_string()),
        ("duplicate window", duration(durability.duplicate_window.as_ref())),
        ("durability", durability.statement.clone()),
        ("claims", lattice.claims_count.to_string()),
        (
            "link definitions",
            count(!has_interface_links, lattice.link_definition_count),
        ),
        (
            "OCI references",
            count(!has_interface_links, lattice.oci_reference_count),
        ),
        (
            "interface links",
            count(has_interface_links, lattice.interface_link_count),
        ),
        (
            "named configs",
            count(has_interface_links, lattice.named_config_count),
        ),
        ("malformed entries", lattice.malformed_count.to_string()),
        ("stale copies", lattice.stale_copies.to_string()),
        ("settle time", duration(lattice.settle.as_ref())),
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

fn differences(differences: &[MigrationDifference]) -> Option<String> {
    let row = |it: &MigrationDifference| {
        let is_now = if it.missing { "missing" } else { "different" };
        [it.entry.clone(), is_now.to_owned()]
    };
    let header = ["NOT MIGRATED AS IT WAS", "IS NOW"];
    (!differences.is_empty()).then(|| table::columns(header, differences.iter().map(row)))
}

fn undone(edits: &[UndoneEdit]) -> Option<String> {
    let row = |it: &UndoneEdit| [it.entry.clone(), revision(it.revision), revision(it.undone_at)];
    let header = ["UNDONE BY A HOST", "REVISION", "UNDONE AT"];
    (!edits.is_empty()).then(|| table::columns(header, edits.iter().map(row)))
}

fn deaf(watches: &[DeafWatch]) -> Option<String> {
    let row = |it: &DeafWatch| [it.consumer.clone(), it.pending.to_string()];
    let header = ["DEAF WATCH OF A HOST", "NOT DELIVERED"];
    (!watches.is_empty()).then(|| table::columns(header, watches.iter().map(row)))
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
    use clap::Parser;
    use lattice_gateway::proto::Revision;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_lattice_is_provisioned_as_hosts_would_unless_told_otherwise() {
        for (line, layout, storage) in [
            ("", Layout::CacheStream, Storage::Unspecified),
            (" --layout kv", Layout::Kv, Storage::Unspecified),
            (
                " --layout component --storage memory",
                Layout::Component,
                Storage::Memory,
            ),
            (" --storage file", Layout::CacheStream, Storage::File),
        ] {
            let line = format!("latticectl lattice provision blue{line}");
            let command = Cli::parse_from(line.split(' ')).command;
            let Command::Lattice(LatticeCommand::Provision(provision)) = command else {
                panic!("{line}");
            };
            let request = provision.request("blue", false);
            assert_eq!((request.layout(), request.storage()), (layout, storage), "{line}");
        }
    }

    #[test]
    fn a_lattice_counts_what_its_layout_keeps() {
        let counts = |layout: Layout| {
            let lattice = Lattice {
                layout: layout.into(),
                link_definition_count: 1,
                oci_reference_count: 2,
                interface_link_count: 3,
                named_config_count: 4,
                ..Lattice::default()
            };
            let counted = [
                "link definitions",
                "OCI references",
                "interface links",
                "named configs",
            ];
            let shown = shown(&lattice);
            counted.map(|name| shown.contains(name))
        };
        assert_eq!(counts(Layout::CacheStream), [true, true, false, false]);
        assert_eq!(counts(Layout::Kv), [true, true, false, false]);
        assert_eq!(counts(Layout::Component), [false, false, true, true]);
    }

    #[test]
    fn what_hosts_undid_or_no_longer_learn_is_shown() {
        let revision = |sequence| Some(Revision { epoch: 5, sequence });
        let lattice = Lattice {
            layout: Layout::Component.into(),
            settle: Some(std::time::Duration::from_millis(20).into()),
            migration_differences: vec![MigrationDifference {
                entry: "claims M".to_owned(),
                missing: true,
            }],
            undone_edits: vec![UndoneEdit {
                entry: "interface link web".to_owned(),
                revision: revision(7),
                undone_at: revision(9),
            }],
            deaf_watches: vec![DeafWatch {
                consumer: "abc".to_owned(),
                pending: 3,
            }],
            ..Lattice::default()
        };
        let shown = shown(&lattice);
        assert!(shown.contains("\nsettle time        20ms\n"), "{shown}");
        assert!(
            shown.ends_with(
                "\nNOT MIGRATED AS IT WAS  IS NOW\n\
                 claims M                missing\n\
                 \nUNDONE BY A HOST    REVISION  UNDONE AT\n\
                 interface link web  5:7       5:9\n\
                 \nDEAF WATCH OF A HOST  NOT DELIVERED\n\
                 abc                   3\n"
            ),
            "{shown}"
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
