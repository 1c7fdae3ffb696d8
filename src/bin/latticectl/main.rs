//! `latticectl`: the command line of a lattice gateway.
//!
//! Arguments become one call (or the pages of one list), and its answer becomes a table for people or canonical
//! JSON for programs. Results go to standard output, everything else to standard error. Nothing here decides
//! what is valid in a lattice: that is the gateway's part.

mod access;
mod apply;
mod args;
mod claims;
mod config;
mod diff;
mod doctor;
mod entry;
mod export;
mod failure;
mod gateway;
mod import;
mod input;
mod interface_link;
mod lattice;
mod link;
mod migrate;
mod output;
mod page;
mod picture;
mod provisioning;
mod reference;
mod retry;
mod table;
mod tls;
mod token;
mod values;
mod wadm;
mod watch;

#[cfg(test)]
mod fake;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use clap_complete::Shell;
use lattice_gateway::command;

use crate::{
    args::{Cli, Command, Format},
    failure::{CommandError, Exit, Place},
    gateway::Gateway,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(error),
    };
    let Err(error) = answer(&cli).await.and_then(|text| print(&text)) else {
        return ExitCode::SUCCESS;
    };
    let place = Place {
        endpoint: &cli.global.gateway(),
        lattice: cli.lattice(),
    };
    output::note(&error.render(cli.global.output, place));
    error.exit().into()
}

/// What every command works with.
#[derive(Debug)]
struct Context<'a> {
    gateway: Gateway,
    lattice: &'a str,
    format: Format,
}

impl<'a> Context<'a> {
    fn new(cli: &'a Cli) -> Result<Self, CommandError> {
        Ok(Self {
            gateway: Gateway::new(&cli.global).map_err(CommandError::Input)?,
            lattice: cli.lattice(),
            format: cli.global.output,
        })
    }
}

async fn answer(cli: &Cli) -> Result<String, CommandError> {
    // Needs no gateway, whatever is wrong with the access to one.
    if let Command::Completions { shell } = cli.command {
        return Ok(completions(shell));
    }
    run(&Context::new(cli)?, &cli.command).await
}

async fn run(context: &Context<'_>, command: &Command) -> Result<String, CommandError> {
    match command {
        Command::Claims(command) => claims::run(context, command).await,
        Command::Link(command) => link::run(context, command).await,
        Command::Iface(command) => interface_link::run(context, command).await,
        Command::Ref(command) => reference::run(context, command).await,
        Command::Config(command) => config::run(context, command).await,
        Command::Apply(arguments) => apply::run(context, arguments).await,
        Command::Export(arguments) => export::run(context, arguments).await,
        Command::Import(arguments) => import::run(context, arguments).await,
        Command::Diff(arguments) => diff::run(context, arguments).await,
        Command::Migrate(arguments) => migrate::run(context, arguments).await,
        Command::Watch(arguments) => watch::run(context, arguments).await,
        Command::Lattice(command) => lattice::run(context, command).await,
        Command::Wadm(command) => wadm::run(context, command).await,
        Command::Doctor(arguments) => doctor::run(context, arguments).await,
        Command::Info => lattice::info(context).await,
        Command::Completions { shell } => Ok(completions(*shell)),
    }
}

fn completions(shell: Shell) -> String {
    String::from_utf8_lossy(&command::completions::<Cli>(shell)).into_owned()
}

/// A reader that has seen enough and closed the pipe is no error.
fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints what clap has to say: help and version, or what is wrong with the arguments.
fn usage(mut error: clap::Error) -> ExitCode {
    values::tell_how_they_are_given(&mut error);
    error.print().ok();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}
