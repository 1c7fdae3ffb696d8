//! Prints the messages of a watch as they come.

use std::io::{self, Write};

use lattice_gateway::proto::{
    ResyncReason, WatchResponse,
    entry::Entry,
    entry_identity::Identity,
    watch_response::{Bookmark, Event, change},
};
use pbjson_types::Timestamp;
use time::OffsetDateTime;

use crate::{
    args::Format,
    entry::{self, Content, Kind},
    failure::CommandError,
    output,
    table::printable,
};

/// Characters of what an entry says, at most.
const SAID_MAX: usize = 120;

/// Whether somebody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    ToSomebody,
    ToNobody,
}

#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    entries: usize,
    was_stale: bool,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            entries: 0,
            was_stale: false,
        }
    }

    /// Prints a message at once.
    pub(crate) fn print(&mut self, message: &WatchResponse) -> Result<Printed, CommandError> {
        let text = match self.format {
            Format::Json => {
                serde_json::to_string(message).map_err(|error| CommandError::Output(error.into()))? + "\n"
            }
            Format::Table => {
                self.note(message);
                lines(message)
            }
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(Printed::ToSomebody),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::ToNobody),
            Err(error) => Err(CommandError::Output(error)),
        }
    }

    /// Tells people what is no entry and no change.
    fn note(&mut self, message: &WatchResponse) {
        match &message.event {
            Some(Event::Snapshot(snapshot)) => {
                self.entries = self.entries.saturating_add(snapshot.entries.len());
            }
            Some(Event::SnapshotComplete(_)) => {
                output::note(&format!(
                    "{} so far; changes follow",
                    output::entries(self.entries)
                ));
                self.entries = 0;
            }
            Some(Event::Bookmark(Bookmark { is_stale, .. })) => {
                match (self.was_stale, is_stale) {
                    (false, true) => {
                        output::note("the gateway is cut off from NATS; changes come once it is not");
                    }
                    (true, false) => output::note("the gateway reaches NATS again"),
                    (false, false) | (true, true) => {}
                }
                self.was_stale = *is_stale;
            }
            Some(Event::Resync(_)) => self.entries = 0,
            Some(Event::Changes(_)) | None => {}
        }
    }
}

fn lines(message: &WatchResponse) -> String {
    match &message.event {
        Some(Event::Snapshot(snapshot)) => {
            let entries = snapshot.entries.iter().filter_map(|it| it.entry.as_ref());
            entries.map(|entry| stands("SNAPSHOT", entry)).collect()
        }
        Some(Event::Changes(changes)) => {
            let changes = changes.changes.iter().filter_map(|it| it.change.as_ref());
            changes.filter_map(changed).collect()
        }
        Some(Event::Resync(resync)) => {
            format!("{:24}  {:8}  {}\n", now(), "RESYNC", reason(resync.reason))
        }
        Some(Event::SnapshotComplete(_) | Event::Bookmark(_)) | None => String::new(),
    }
}

fn changed(change: &change::Change) -> Option<String> {
    match change {
        change::Change::Put(entry) => entry.entry.as_ref().map(|entry| stands("PUT", entry)),
        change::Change::Delete(identity) => {
            let identity = identity.identity.as_ref();
            identity.map(|identity| line(&now(), "DELETE", identity, ""))
        }
    }
}

fn stands(what: &str, entry: &Entry) -> String {
    let time = output::timestamp(entry::update_time(entry));
    line(&time, what, &entry::identity(entry), &said(entry))
}

fn line(time: &str, what: &str, identity: &Identity, said: &str) -> String {
    let kind = Kind::of_identity(identity).word();
    let name = printable(&entry::name(identity));
    let line = format!("{time:24}  {what:8}  {kind:6}  {name}  {}", printable(said));
    format!("{}\n", line.trim_end())
}

/// What an entry says, cut to what a line can hold.
fn said(entry: &Entry) -> String {
    let mut said = Vec::new();
    for (field, content) in entry::contents(entry) {
        match content {
            Content::Text("") | Content::List([]) => {}
            Content::Text(text) => said.push(format!("{field}={text}")),
            Content::List(list) => said.push(format!("{field}={}", list.join(","))),
            Content::Values(values) => {
                said.extend(values.iter().map(|(key, value)| format!("{field}.{key}={value}")));
            }
        }
    }
    let said = said.join(" ");
    match said.char_indices().nth(SAID_MAX) {
        None => said,
        Some((end, _)) => format!("{}…", said.get(..end).unwrap_or_default()),
    }
}

fn reason(reason: i32) -> &'static str {
    match ResyncReason::try_from(reason) {
        Ok(ResyncReason::TokenForeign) => "the token is of another gateway, or of before its last start",
        Ok(ResyncReason::TokenExpired) => "the token is older than what the gateway remembers",
        Ok(ResyncReason::StreamReset) => "the stream was made again, or lost what it held",
        Ok(ResyncReason::LayoutChanged) => "the lattice is kept in another layout now",
        Ok(ResyncReason::GrantChanged) => "you may see values now, or no longer",
        Ok(ResyncReason::Unspecified) => "the call broke before everything was told",
        Err(_) => "for a reason that this version does not know",
    }
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    let timestamp = Timestamp {
        seconds: now.unix_timestamp(),
        nanos: i32::try_from(now.nanosecond()).unwrap_or_default(),
    };
    output::timestamp(Some(&timestamp))
}

#[cfg(test)]
mod tests;
