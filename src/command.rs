//! The server's command line.

mod health_check;
mod nats_permissions;

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use health_check::HealthCheck;
use nats_permissions::NatsPermissions;

use crate::{
    app::{self, Running},
    auth::{EVERY_LATTICE, VerbName, explain::Explanation},
    config::{self, Config, LogConfig},
    control::lattices::{Layout, NewLattice, Storage},
    dev::{DevServer, NatsServer},
    domain::LatticeName,
    proto::FILE_DESCRIPTOR_SET,
    rpc, systemd,
    telemetry::{self, LogFormat, traces},
};

/// A gRPC gateway for wasmCloud lattices: claims, link definitions and OCI references, written safely.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serves the lattices of a configuration file.
    Serve(Serve),
    /// Serves every lattice, on this machine only, with a nats-server of its own.
    Dev(Dev),
    /// Checks a configuration file and tells every mistake in it.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Tells whether a caller may do something, and why.
    Explain(Explain),
    /// Makes a static token for a caller: gives it, and the hash that the configuration wants.
    Token,
    /// Prints the permissions of NATS users that let the gateway in and keep everybody but hosts from writing lattices.
    NatsPermissions(NatsPermissions),
    /// Writes the API's descriptors, a binary `FileDescriptorSet`, for clients that neither compile the proto nor use reflection.
    DescriptorSet,
    /// Writes the API over HTTP as an OpenAPI 3.1 document, the one that a gateway serves at `/openapi.json`.
    #[command(name = "openapi")]
    OpenApi,
    /// Prints a completion script.
    Completions {
        /// Of which shell.
        shell: Shell,
    },
    /// Asks a gateway that runs on this machine whether it can serve: exit code 0 if so, else 1.
    #[command(name = "healthcheck")]
    HealthCheck(HealthCheck),
}

#[derive(Debug, clap::Args)]
struct Explain {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The caller, as the configuration names it.
    #[arg(long)]
    caller: String,
    /// On which lattice; `*` for what takes a grant on every lattice.
    #[arg(long)]
    lattice: String,
    /// What: read, values:read, links:write and so on.
    #[arg(long)]
    verb: String,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Where to serve gRPC, instead of what the file says.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Where to serve health and metrics, instead of what the file says.
    #[arg(long)]
    admin_listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
struct Dev {
    /// Where to serve gRPC; a loopback address. Port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Where to serve health and metrics; a loopback address.
    #[arg(long, default_value = "127.0.0.1:7401")]
    admin_listen: SocketAddr,
    /// Use this NATS instead of starting one. Then only `ProvisionLattice` creates streams.
    #[arg(long, conflicts_with_all = ["nats_server", "store_dir"])]
    nats_url: Option<String>,
    /// The nats-server to start; else `$NATS_SERVER`, else the one on the PATH, else .tools/bin/nats-server.
    #[arg(long)]
    nats_server: Option<PathBuf>,
    /// Where the nats-server keeps its data; else a temporary folder.
    #[arg(long)]
    store_dir: Option<PathBuf>,
    /// How lattices that are created on the first write are kept; else as hosts do, in memory for `cache-stream`.
    #[arg(long, value_enum)]
    storage: Option<StorageArg>,
    /// The layout of lattices that are created on the first write.
    #[arg(long, value_enum, default_value = "cache-stream")]
    layout: LayoutArg,
    /// For how long an edit of an interface link must stand before it is acknowledged; `0s` where no host writes.
    #[arg(long, value_parser = humantime::parse_duration)]
    settle: Option<std::time::Duration>,
    /// What to log, such as `info` or `lattice_gateway=debug`.
    #[arg(long, default_value = "warn,lattice_gateway=info")]
    log: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StorageArg {
    Memory,
    File,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutArg {
    /// wasmCloud 0.50 to 0.59.
    CacheStream,
    /// wasmCloud 0.60 to 0.82.
    Kv,
    /// wasmCloud 1.0 to 1.9.
    Component,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::CacheStream => Self::CacheStream,
            LayoutArg::Kv => Self::Kv,
            LayoutArg::Component => Self::Component,
        }
    }
}

const EX_USAGE: u8 = 64;

impl Command {
    /// Runs until it is done or told to stop.
    pub fn run(self) -> ExitCode {
        match self.action {
            Action::CheckConfig { file } => match Config::read(&file) {
                Ok(_) => {
                    say(&format!("{} is fine", file.display()));
                    ExitCode::SUCCESS
                }
                Err(error) => fail(&error.to_string(), EX_USAGE),
            },
            Action::Serve(serve) => serve.run(),
            Action::Dev(dev) => dev.run(),
            Action::Explain(explain) => explain.run(),
            Action::Token => token(),
            Action::NatsPermissions(permissions) => permissions.run(),
            Action::DescriptorSet => descriptor_set(),
            Action::OpenApi => written(rpc::http::document().to_string().as_bytes()),
            Action::Completions { shell } => written(&completions::<Self>(shell)),
            Action::HealthCheck(check) => check.run(),
        }
    }
}

impl Serve {
    fn run(self) -> ExitCode {
        let mut config = match Config::read(&self.config) {
            Ok(config) => config,
            Err(error) => return fail(&error.to_string(), EX_USAGE),
        };
        config.listen = self.listen.unwrap_or(config.listen);
        config.admin_listen = self.admin_listen.unwrap_or(config.admin_listen);
        if config.tls.is_none()
            && let Some(mistake) = config::secured("listen", config.listen)
        {
            return fail(&mistake, EX_USAGE);
        }
        in_runtime(async move {
            let LogConfig { filter, format } = &config.log;
            if let Err(mistake) = telemetry::init(filter, *format, config.traces.as_ref()) {
                return fail(&mistake, EX_USAGE);
            }
            let ended = match app::start(config).await {
                Ok(running) => until_told(running).await,
                Err(error) => fail(&chain(&error), 1),
            };
            drop(tokio::task::spawn_blocking(traces::end).await);
            ended
        })
    }
}

impl Explain {
    /// 0 where it may be done, 1 where not.
    fn run(self) -> ExitCode {
        let config = match Config::read(&self.config) {
            Ok(config) => config,
            Err(error) => return fail(&error.to_string(), EX_USAGE),
        };
        let lattice = match self.lattice.as_str() {
            EVERY_LATTICE => None,
            name => match LatticeName::parse(name) {
                Ok(lattice) => Some(lattice),
                Err(invalid) => return fail(&format!("--lattice: {invalid}"), EX_USAGE),
            },
        };
        let Some(verb) = VerbName::parse(&self.verb) else {
            let known = VerbName::ALL.map(VerbName::as_str).join(", ");
            return fail(
                &format!("--verb: {:?} is no verb; there are {known}", self.verb),
                EX_USAGE,
            );
        };
        let access = config.callers.by_name(&self.caller);
        let access = access.map(AsRef::as_ref);
        let explanation = match lattice {
            None => Explanation::on_all(access, verb),
            Some(lattice) => config.policy.explain(access, &lattice, verb),
        };
        say(&explanation.to_string());
        match explanation.is_allowed() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

/// 256 bits, as base64url behind a prefix by which scanners for secrets can know it.
fn token() -> ExitCode {
    const PREFIX: &str = "lgw_";
    let mut secret = [0; 32];
    if let Err(error) = getrandom::fill(&mut secret) {
        return fail(&format!("no random bytes: {error}"), 1);
    }
    let token = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&secret));
    let sha256 = HEXLOWER.encode(&Sha256::digest(&token));
    say(&format!("token:        {token}\ntoken_sha256: {sha256}"));
    ExitCode::SUCCESS
}

/// With comments, routes over HTTP and the rules of fields.
fn descriptor_set() -> ExitCode {
    if std::io::stdout().is_terminal() {
        let way_out = "writes binary data; give it a file: lattice-gateway descriptor-set > lattice.binpb";
        return fail(way_out, EX_USAGE);
    }
    written(FILE_DESCRIPTOR_SET)
}

/// The completion script of a program. Made in memory, because `generate` panics where a pipe breaks.
pub fn completions<C: CommandFactory>(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = C::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// Writes all of a document, or says that it is not whole.
fn written(document: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(document).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("it cannot be written: {error}"), 1),
    }
}

impl Dev {
    fn run(self) -> ExitCode {
        if let Err(mistake) = telemetry::init(&self.log, LogFormat::Text, None) {
            return fail(&mistake.replacen("log.filter", "--log", 1), EX_USAGE);
        }
        in_runtime(self.serve())
    }

    async fn serve(self) -> ExitCode {
        let new = NewLattice {
            layout: self.layout.into(),
            storage: self.storage.map(|storage| match storage {
                StorageArg::Memory => Storage::Memory,
                StorageArg::File => Storage::File,
            }),
        };
        let nats = match self.nats_url {
            Some(url) => NatsServer::Elsewhere(url),
            None => match DevServer::start(self.nats_server, self.store_dir).await {
                Ok(server) => NatsServer::Own(server),
                Err(error) => return fail(&chain(&error), 1),
            },
        };
        let mut config = match &nats {
            NatsServer::Own(server) => Config::dev(server.url().to_owned(), Some(new)),
            NatsServer::Elsewhere(url) => Config::dev(url.clone(), None),
        };
        (config.listen, config.admin_listen) = (self.listen, self.admin_listen);
        if let Some(settle) = self.settle {
            config.lattices.settle_for(settle);
        }
        if let Some(mistake) = not_loopback(&config) {
            return fail(&mistake, EX_USAGE);
        }
        let url = config.nats.servers.clone();
        let running = match app::start(config).await {
            Ok(running) => running,
            Err(error) => return fail(&chain(&error), 1),
        };
        running.connected().await;
        say(&ready_line(&running, &url));
        let code = until_told(running).await;
        if let NatsServer::Own(server) = nats {
            server.stop().await;
        }
        code
    }
}

fn ready_line(running: &Running, nats: &str) -> String {
    json!({
        "ready": true,
        "grpc": running.grpc.to_string(),
        "admin": running.admin.to_string(),
        "nats": nats,
    })
    .to_string()
}

/// `dev` lets in whoever comes, so it is for this machine alone.
fn not_loopback(config: &Config) -> Option<String> {
    [("--listen", config.listen), ("--admin-listen", config.admin_listen)]
        .into_iter()
        .find(|(_, address)| !address.ip().is_loopback())
        .map(|(option, address)| {
            format!(
                "{option}: {address} is not a loopback address; `dev` lets in whoever comes, so it serves only 127.0.0.1 or \
                 [::1]; beyond the machine use `serve`"
            )
        })
}

fn in_runtime(run: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run),
        Err(error) => fail(&format!("no runtime: {error}"), 1),
    }
}

/// Runs until SIGTERM or SIGINT, then drains.
async fn until_told(running: Running) -> ExitCode {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        return fail("signals cannot be listened to", 1);
    };
    systemd::ready();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    systemd::stopping();
    running.shut_down().await;
    ExitCode::SUCCESS
}

/// An error and its causes, which their `Display` leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Standard output is for scripts: the one line of `dev`, the verdict of `check-config`, the permissions.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever listened has gone: there is nobody left to tell.
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

fn fail(message: &str, code: u8) -> ExitCode {
    drop(writeln!(std::io::stderr(), "lattice-gateway: {message}"));
    ExitCode::from(code)
}
