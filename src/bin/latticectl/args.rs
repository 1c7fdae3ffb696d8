//! What can be asked on the command line, as far as commands share it.
//!
//! Doc comments are the help texts. Only the shape of arguments is checked here; whether a key, a name, an etag
//! or an id is acceptable is the gateway's decision alone.

use std::{fmt, net::IpAddr, num::NonZeroU32, str::FromStr, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use clap_complete::Shell;
use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use lattice_gateway::proto::{self, Consistency, Revision, consistency::Requirement};
use uuid::Uuid;

use crate::{
    access::AccessOptions, apply::ApplyArguments, claims::ClaimsCommand, config::ConfigCommand,
    diff::DiffArguments, doctor::DoctorArguments, export::ExportArguments, gateway::Intent,
    import::ImportArguments, interface_link::InterfaceLinkCommand, lattice::LatticeCommand,
    link::LinkCommand, migrate::MigrateArguments, reference::ReferenceCommand, wadm::WadmCommand,
    watch::WatchArguments,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused by the gateway, no secure connection to it, or the answer could not be written
  2    wrong usage, or a file that cannot be used
  3    not found
  4    conflict: the entry or stream is not as required, or something else was written meanwhile
  5    unavailable; nothing was applied
  6    the outcome is unknown; the message tells how to resume
  7    `diff`: the two differ; `apply --dry-run --exit-code`: there would be changes
  8    `doctor`: errors or warnings were found
  130  interrupted; nothing was applied but what `apply` told";

/// Reads and writes wasmCloud lattices through a lattice gateway: claims, links, OCI references, configs.
#[derive(Debug, Parser)]
#[command(name = "latticectl", version, after_help = EXIT_CODES)]
#[command(disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The lattice that the command is about.
    pub(crate) fn lattice(&self) -> &str {
        let named = match &self.command {
            Command::Lattice(command) => command.name(),
            Command::Export(arguments) => arguments.lattice.as_deref(),
            Command::Import(arguments) => arguments.lattice.as_deref(),
            Command::Migrate(arguments) => arguments.lattice.as_deref(),
            Command::Doctor(arguments) => arguments.name.as_deref(),
            Command::Claims(_)
            | Command::Link(_)
            | Command::Iface(_)
            | Command::Ref(_)
            | Command::Config(_)
            | Command::Apply(_)
            | Command::Diff(_)
            | Command::Watch(_)
            | Command::Wadm(_)
            | Command::Info
            | Command::Completions { .. } => None,
        };
        named.unwrap_or(&self.global.lattice)
    }
}

/// Options of every command; they may also stand after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The gateway: https://HOST:PORT, http://HOST:PORT, or HOST:PORT: by TLS with --ca or --cert
    #[arg(long, global = true, env = "LATTICECTL_ENDPOINT", value_name = "URL")]
    #[arg(default_value = "127.0.0.1:7400")]
    endpoint: GivenEndpoint,

    /// The lattice that the command is about
    #[arg(long, global = true, env = "LATTICECTL_LATTICE", value_name = "NAME")]
    #[arg(default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) lattice: String,

    /// How to print results and errors
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,

    /// How long to try, retries included; every page of a list has this long
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) access: AccessOptions,
}

impl Global {
    /// The gateway, with the scheme that other options imply where none is given.
    pub(crate) fn gateway(&self) -> GatewayUri {
        let implied = match self.access.ask_for_tls() {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        };
        GatewayUri {
            scheme: self.endpoint.scheme.clone().unwrap_or(implied),
            authority: self.endpoint.authority.clone(),
        }
    }

    /// How long a connection may take. It must fail before its attempt does: then it is known that nothing
    /// was sent.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.timeout / 4
    }
}

/// For whom to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned text for people
    Table,
    /// The response message as canonical protobuf JSON; a list as one message
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Claims: who an actor or provider is
    #[command(subcommand)]
    Claims(ClaimsCommand),

    /// Link definitions: which actor may call which provider, with which values
    #[command(subcommand)]
    Link(LinkCommand),

    /// Interface links: which component may call which, over which interfaces
    #[command(subcommand)]
    Iface(InterfaceLinkCommand),

    /// OCI references: which image has which key
    #[command(subcommand)]
    Ref(ReferenceCommand),

    /// Named configs: what interface links configure their two ends with
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Makes a lattice hold what manifests say, and nothing more than that has to change
    Apply(ApplyArguments),

    /// Writes all that a lattice holds into one file
    Export(ExportArguments),

    /// Puts what an export holds into a lattice, of any layout
    Import(ImportArguments),

    /// Compares two lattices, or what files hold
    Diff(DiffArguments),

    /// Moves a lattice to the layout of later hosts
    Migrate(MigrateArguments),

    /// Follows what a lattice holds: first all of it, then every change
    Watch(WatchArguments),

    /// Lattices: which there are and how they are kept
    #[command(subcommand)]
    Lattice(LatticeCommand),

    /// wadm: the streams that it needs in NATS
    #[command(subcommand)]
    Wadm(WadmCommand),

    /// Looks what is wrong with a lattice, now or soon, and tells how to mend it
    Doctor(DoctorArguments),

    /// Shows what the gateway is: version, limits, layouts
    Info,

    /// Prints a completion script
    Completions {
        /// The shell that is to read it
        shell: Shell,
    },
}

/// Options of every write of an entry.
#[derive(Debug, Args)]
#[command(next_help_heading = "Write options")]
#[command(group = ArgGroup::new("precondition").args(["if_match", "must_exist", "must_not_exist"]))]
pub(crate) struct WriteOptions {
    /// Write only if the entry still has this etag
    #[arg(long, value_name = "ETAG", value_parser = etag)]
    if_match: Option<String>,

    /// Write only if the entry exists
    #[arg(long)]
    must_exist: bool,

    /// Write only if the entry does not exist
    #[arg(long)]
    must_not_exist: bool,

    /// Name the write yourself, so that running the command again cannot apply it twice [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    request_id: Option<String>,

    /// Resume a command that was cut off: the time since it was first run, with its --request-id
    ///
    /// Longer than true is safe, shorter is not. Where the id is a UUID that latticectl made, the time that
    /// passed since then is known, and the longer of both counts.
    #[arg(long, value_name = "DURATION", requires = "request_id", value_parser = humantime::parse_duration)]
    retry_age: Option<Duration>,

    /// Make every check and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    Etag(String),
    MustExist,
    MustNotExist,
}

/// Puts a precondition into these requests: the API has a type of its own for that of each.
macro_rules! precondition_of {
    ($($request:ident),+ $(,)?) => {
        $(impl From<Precondition> for proto::$request::Precondition {
            fn from(precondition: Precondition) -> Self {
                match precondition {
                    Precondition::Etag(etag) => Self::Etag(etag),
                    Precondition::MustExist => Self::MustExist(true),
                    Precondition::MustNotExist => Self::MustNotExist(true),
                }
            }
        })+
    };
}

precondition_of!(
    put_claims_request,
    delete_claims_request,
    put_link_definition_request,
    delete_link_definition_request,
    put_interface_link_request,
    delete_interface_link_request,
    set_oci_reference_request,
    delete_oci_reference_request,
    put_config_request,
    delete_config_request,
);

impl WriteOptions {
    pub(crate) fn precondition(&self) -> Option<Precondition> {
        let etag = self.if_match.clone().map(Precondition::Etag);
        let exists = self.must_exist.then_some(Precondition::MustExist);
        let absent = self.must_not_exist.then_some(Precondition::MustNotExist);
        etag.or(exists).or(absent)
    }

    /// Names the write, once for all attempts.
    pub(crate) fn intent(&self) -> Intent {
        let request_id = self
            .request_id
            .clone()
            .unwrap_or_else(|| Uuid::now_v7().to_string());
        Intent {
            age: self.retry_age.map(|given| given.max(age_told_by(&request_id))),
            request_id,
            dry_run: self.dry_run,
        }
    }
}

/// Tells how long ago an id was made, if it tells the time; else zero.
fn age_told_by(request_id: &str) -> Duration {
    let unix_time = |id: Uuid| {
        let (seconds, nanos) = id.get_timestamp()?.to_unix();
        Some(Duration::new(seconds, nanos))
    };
    let made = Uuid::parse_str(request_id).ok().and_then(unix_time);
    let now = unix_time(Uuid::now_v7());
    made.zip(now)
        .map_or(Duration::ZERO, |(made, now)| now.saturating_sub(made))
}

/// Options of every read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Read options")]
pub(crate) struct ReadOptions {
    /// Read what the stream holds now, not what the gateway has seen of it
    #[arg(long, conflicts_with = "at_least")]
    fresh: bool,

    /// Read nothing older than this revision, EPOCH:SEQUENCE as a write printed it
    #[arg(long, value_name = "REV", value_parser = revision)]
    at_least: Option<Revision>,
}

impl ReadOptions {
    pub(crate) fn consistency(&self) -> Option<Consistency> {
        let fresh = self.fresh.then_some(Requirement::FullyConsistent(true));
        let at_least = self.at_least.map(Requirement::AtLeastAsFresh);
        fresh.or(at_least).map(|requirement| Consistency {
            requirement: Some(requirement),
        })
    }
}

/// Options of every list.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Stop after this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroU32>,
}

/// Where a gateway listens, as it is given: perhaps without a scheme.
#[derive(Clone, Debug)]
struct GivenEndpoint {
    scheme: Option<Scheme>,
    authority: Authority,
}

/// Where a gateway listens: scheme and authority, nothing else.
#[derive(Clone, Debug)]
pub(crate) struct GatewayUri {
    scheme: Scheme,
    authority: Authority,
}

impl GatewayUri {
    pub(crate) fn uri(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        // With all three there is nothing that could be wrong.
        Uri::from_parts(parts).unwrap_or_default()
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// A name or an address, without the brackets of IPv6.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    pub(crate) fn port(&self) -> u16 {
        let default = if self.is_secure() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// True where what is sent stays on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host().parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_name) => self.host().eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for GatewayUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl FromStr for GivenEndpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "give https://HOST:PORT, http://HOST:PORT or HOST:PORT, and nothing after it";
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::HTTP), rest),
            Some(("https", rest)) => (Some(Scheme::HTTPS), rest),
            Some(_) => return Err(FORM),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority = rest.parse().map_err(|_invalid| FORM)?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(FORM);
        }
        Ok(Self { scheme, authority })
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than zero".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

/// Etags are quoted, and shells eat quotes: both forms are taken.
fn etag(text: &str) -> Result<String, String> {
    match text.trim_matches('"') {
        "" => Err("must not be empty".to_owned()),
        inner => Ok(format!("\"{inner}\"")),
    }
}

fn revision(text: &str) -> Result<Revision, String> {
    let parse = || {
        let (epoch, sequence) = text.split_once(':')?;
        Some(Revision {
            epoch: epoch.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    };
    parse().ok_or_else(|| "give EPOCH:SEQUENCE, two decimal numbers".to_owned())
}

#[cfg(test)]
mod tests;
