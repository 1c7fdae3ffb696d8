//! `latticectl watch`: follows what a lattice holds.
//!
//! Goes on by itself where a call breaks, behind the last message that had a token. Where nothing had one yet, it begins
//! anew, and says so by a `resync`, as the gateway does.

mod filter;
mod printer;

use std::{pin::pin, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use lattice_gateway::proto::{
    ErrorReason, WatchRequest, WatchResponse,
    watch_response::{Event, Resync},
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status};

use self::{
    filter::FilterOptions,
    printer::{Printed, Printer},
};
use crate::{
    Context,
    args::Format,
    failure::{CallError, Cause, CommandError, Doubt, Exit, Failure},
    gateway, output,
    retry::{Attempts, Class, Next, class},
    table::printable,
};

/// Longer than any message of a living gateway keeps one waiting: bookmarks come every 10 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// How long a call may take to open.
const OPENING_MAX: Duration = Duration::from_secs(10);

const TABLE: &str = "\
With -o table each change is a line: when the entry was written (for a delete: when it was told), SNAPSHOT, PUT or
DELETE, its kind, what identifies it, and what it says. RESYNC says that what was told before may no longer hold, and
that all of it follows anew. With -o json each message is a line of canonical protobuf JSON, bookmarks included.

Ctrl-C ends it, and prints a token to go on with later on standard error.";

#[derive(Debug, clap::Args)]
#[command(after_help = TABLE)]
pub(crate) struct WatchArguments {
    #[command(flatten)]
    filter: FilterOptions,

    /// Go on behind the message that had this token; the other options must be as they were
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    resume_token: Option<String>,

    /// End once everything that stands was told
    #[arg(long, visible_alias = "once")]
    until_synced: bool,

    /// End when the call breaks, instead of going on over another
    #[arg(long)]
    no_reconnect: bool,
}

pub(crate) async fn run(context: &Context<'_>, arguments: &WatchArguments) -> Result<String, CommandError> {
    let mut watch = Watch {
        context,
        arguments,
        request: arguments
            .filter
            .request(context.lattice)
            .map_err(CommandError::Input)?,
        printer: Printer::new(context.format),
        progress: Progress::Fresh,
        heard: Instant::now(),
    };
    watch.request.resume_token = arguments.resume_token.clone().unwrap_or_default();
    let ended = {
        let mut watching = pin!(watch.follow());
        tokio::select! {
            ended = &mut watching => Some(ended),
            () = gateway::interruption() => None,
        }
    };
    watch.tell_token();
    match ended {
        None => Err(CommandError::Silent(Exit::Interrupted)),
        Some(Ok(End::Synced | End::NobodyReads)) => Ok(String::new()),
        Some(Err(error)) => Err(error),
    }
}

/// Why a watch ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Synced,
    NobodyReads,
}

/// How much was told since the view was last empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing that a new call would repeat.
    Fresh,
    /// A part of a snapshot.
    Begun,
    /// All of it, but not yet as of one revision.
    Complete,
}

struct Watch<'a> {
    context: &'a Context<'a>,
    arguments: &'a WatchArguments,
    /// Has the last token.
    request: WatchRequest,
    printer: Printer,
    progress: Progress,
    /// When something was last told.
    heard: Instant,
}

impl Watch<'_> {
    /// Watches over one call after the other.
    async fn follow(&mut self) -> Result<End, CommandError> {
        let timeout = self.context.gateway.timeout();
        let mut attempts = Attempts::new(timeout, None);
        let mut since = Instant::now();
        loop {
            let heard = self.heard;
            let failure = match self.call().await? {
                Ok(end) => return Ok(end),
                Err(failure) => failure,
            };
            if self.heard > heard {
                // Once it was open it is worth going on for ever.
                attempts = Attempts::new(Duration::MAX, None);
                since = Instant::now();
            }
            let class = self.class(&failure);
            attempts.failed(class);
            match attempts.next(class, gateway::pause(&failure), since.elapsed()) {
                Next::RetryIn(pause) => {
                    if attempts.failed_once() {
                        self.notice(&failure);
                    }
                    self.begin_anew()?;
                    sleep(pause).await;
                }
                Next::Stop => {
                    return Err(CallError {
                        failure,
                        doubt: Doubt::None,
                    }
                    .into());
                }
            }
        }
    }

    /// Tells whether a call is worth making again. Reading is harmless, so also where the gateway itself failed.
    fn class(&self, failure: &Failure) -> Class {
        if self.arguments.no_reconnect {
            return Class::Refused;
        }
        match class(failure.cause) {
            Class::Fault => Class::NotApplied,
            class @ (Class::Settled | Class::Refused | Class::NotApplied | Class::Doubtful) => class,
        }
    }

    /// Watches over one call. The outer error is for good.
    async fn call(&mut self) -> Result<Result<End, Failure>, CommandError> {
        let mut client = self.context.gateway.watches();
        let opening = client.watch(Request::new(self.request.clone()));
        let mut messages = match timeout(OPENING_MAX, opening).await {
            Ok(Ok(response)) => Response::into_inner(response),
            Ok(Err(status)) => return Ok(Err(self.failed(&status))),
            Err(_elapsed) => return Ok(Err(Failure::no_answer())),
        };
        loop {
            let message = match timeout(SILENCE_MAX, messages.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ok(Err(Failure::ended())),
                Ok(Err(status)) => return Ok(Err(self.failed(&status))),
                Err(_elapsed) => return Ok(Err(Failure::no_answer())),
            };
            self.heard = Instant::now();
            if let Some(end) = self.take(&message)? {
                return Ok(Ok(end));
            }
        }
    }

    /// Takes a token from an error that has one.
    fn failed(&mut self, status: &Status) -> Failure {
        let failure = Failure::from(status);
        let has_lagged = matches!(failure.cause, Cause::Reason(_, ErrorReason::WatchLagged));
        if let (true, Some(token)) = (has_lagged, failure.metadata.get("resume_token")) {
            self.request.resume_token.clone_from(token);
        }
        failure
    }

    fn take(&mut self, message: &WatchResponse) -> Result<Option<End>, CommandError> {
        if self.printer.print(message)? == Printed::ToNobody {
            return Ok(Some(End::NobodyReads));
        }
        let mut synced = false;
        match &message.event {
            Some(Event::Snapshot(_)) => self.progress = Progress::Begun,
            Some(Event::SnapshotComplete(_)) => self.progress = Progress::Complete,
            Some(Event::Changes(changes)) => {
                self.request.resume_token.clone_from(&changes.resume_token);
                if !changes.is_partial {
                    synced = self.progress == Progress::Complete;
                    self.progress = Progress::Fresh;
                }
            }
            Some(Event::Bookmark(bookmark)) => {
                self.request.resume_token.clone_from(&bookmark.resume_token);
                synced = !bookmark.is_stale;
                self.progress = Progress::Fresh;
            }
            Some(Event::Resync(_)) => {
                // What was told before is void, and so is the way on from there.
                self.request.resume_token.clear();
                self.progress = Progress::Fresh;
            }
            None => {}
        }
        Ok((synced && self.arguments.until_synced).then_some(End::Synced))
    }

    /// Where a snapshot was cut off there is no token yet: says that all of it comes again.
    fn begin_anew(&mut self) -> Result<(), CommandError> {
        if self.progress == Progress::Fresh || !self.request.resume_token.is_empty() {
            return Ok(());
        }
        self.progress = Progress::Fresh;
        let resync = WatchResponse {
            event: Some(Event::Resync(Resync::default())),
        };
        self.printer.print(&resync).map(|_printed| ())
    }

    fn notice(&self, failure: &Failure) {
        if self.context.format == Format::Table {
            output::note(&format!("watching again: {}", printable(&failure.message)));
        }
    }

    fn tell_token(&self) {
        if !self.request.resume_token.is_empty() {
            output::note(&format!(
                "to go on from here: --resume-token {}",
                self.request.resume_token
            ));
        }
    }
}

#[cfg(test)]
mod tests;
