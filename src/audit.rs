//! One JSON record for every attempt to change something, allowed or denied, refused or applied.
//!
//! A [`Trail`] goes with a call through the layers, and each notes what it learns. The record is written when the last
//! of them lets go of it: before the answer goes out, and where a caller goes away earlier, when its mutation has ended.
//! It is one line, appended by one write, so that several processes can share a file; a file that was moved away is made
//! again within a second, so that it can be rotated at any time.
//!
//! Records name callers, credentials by their hash, entries and etags. Never tokens, link values or bodies.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use tracing::{error, info};

use crate::telemetry::Metrics;

/// Where records go, and what becomes of calls while they cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where.
    pub destination: Destination,
    /// What then.
    pub on_failure: OnFailure,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// What becomes of calls while records cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Calls that would change something are refused (fail closed).
    Refuse,
    /// They go on, and the records that cannot be written are counted and lost (fail open).
    Continue,
}

/// How often it is looked whether the file is still in its place.
const PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// What a record tells. Members that are not known, or do not apply, are null.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    /// When the call came, RFC 3339, UTC.
    pub time: String,
    /// Names the call in logs.
    pub call_id: String,
    /// The RPC.
    pub method: &'static str,
    /// Who, by the configuration's name.
    pub caller: Option<String>,
    /// By what: the kind of credential and the beginning of its hash.
    pub credential: Option<String>,
    /// From where.
    pub address: Option<SocketAddr>,
    /// On which lattice.
    pub lattice: Option<String>,
    /// The verb that it takes.
    pub verb: Option<&'static str>,
    /// The entry.
    pub entry: Option<String>,
    /// The caller's id for the request, or the one made for it.
    pub request_id: Option<String>,
    /// The beginning of the hash of what was asked, 16 hexadecimal digits.
    pub fingerprint: Option<String>,
    /// Whether nothing was to be written.
    pub validate_only: bool,
    /// What became of it: an outcome of the API or the reason of an error; `CANCELLED` where the caller went away before
    /// anything was begun.
    pub outcome: Option<String>,
    /// The entry's etag before.
    pub etag_before: Option<String>,
    /// The entry's etag after; absent after a delete, and where something came after.
    pub etag_after: Option<String>,
    /// The stream's epoch and the sequence where it was applied, or at which it was judged.
    pub revision: Option<(u64, u64)>,
}

/// Writes records.
#[derive(Debug)]
pub struct Audit {
    config: AuditConfig,
    metrics: Metrics,
    sink: Mutex<Sink>,
}

#[derive(Debug, Default)]
struct Sink {
    file: Option<File>,
    looked: Option<Instant>,
    /// Lines that could not be written yet, in their order: of calls that were in flight when writing began to fail, since
    /// no more are taken then.
    waiting: VecDeque<Vec<u8>>,
}

impl Audit {
    /// Begins to write; tells what hinders it.
    pub fn open(config: AuditConfig, metrics: Metrics) -> Result<Self, String> {
        let audit = Self {
            config,
            metrics,
            sink: Mutex::default(),
        };
        let opened = audit.in_place(&mut audit.sink.lock()).map(drop);
        opened.map_err(|error| format!("audit.to: {}: {error}", audit.place()))?;
        Ok(audit)
    }

    fn place(&self) -> String {
        match &self.config.destination {
            Destination::Stdout => "stdout".to_owned(),
            Destination::File(path) => path.display().to_string(),
        }
    }

    /// Whether calls that would change something may go on: what was to be written has been, or need not be.
    pub fn permits(&self) -> bool {
        if self.config.on_failure == OnFailure::Continue {
            return true;
        }
        let mut sink = self.sink.lock();
        if !sink.waiting.is_empty() {
            self.flush(&mut sink);
        }
        sink.waiting.is_empty()
    }

    fn write(&self, record: &Record) {
        let Ok(mut line) = serde_json::to_vec(record) else {
            return;
        };
        line.push(b'\n');
        let mut sink = self.sink.lock();
        sink.waiting.push_back(line);
        self.flush(&mut sink);
        if self.config.on_failure == OnFailure::Continue {
            sink.waiting.clear();
        }
    }

    /// Writes what waits, as far as it can be written.
    fn flush(&self, sink: &mut Sink) {
        let was_broken = sink.waiting.len() > 1;
        while let Some(line) = sink.waiting.pop_front() {
            let written = self.in_place(sink).and_then(|file| file.write_all(&line));
            self.metrics.audited(written.is_ok());
            if let Err(error) = written {
                error!(place = self.place(), %error, "an audit record cannot be written");
                sink.file = None;
                sink.waiting.push_front(line);
                return;
            }
        }
        if was_broken {
            info!(place = self.place(), "audit records are written again");
        }
    }

    /// The file, opened anew where another has taken its place or it is gone.
    fn in_place<'a>(&self, sink: &'a mut Sink) -> std::io::Result<&'a mut File> {
        let is_due = sink
            .looked
            .is_none_or(|looked| looked.elapsed() >= PLACE_INTERVAL);
        if let (true, Destination::File(path), Some(file)) = (is_due, &self.config.destination, &sink.file) {
            let is_there = std::fs::metadata(path).is_ok_and(|there| {
                file.metadata()
                    .is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
            });
            if !is_there {
                sink.file = None;
            }
            sink.looked = Some(Instant::now());
        }
        let file = match sink.file.take() {
            Some(file) => file,
            None => match &self.config.destination {
                Destination::File(path) => OpenOptions::new().append(true).create(true).open(path)?,
                Destination::Stdout => OpenOptions::new().append(true).open("/dev/stdout")?,
            },
        };
        Ok(sink.file.insert(file))
    }
}

/// What is known of one attempt to change something; nothing where attempts are not recorded.
#[derive(Clone, Debug, Default)]
pub struct Trail(Option<Arc<Attempt>>);

#[derive(Debug)]
struct Attempt {
    audit: Arc<Audit>,
    record: Mutex<Record>,
}

impl Trail {
    /// Of a call that comes `now`, since the Unix epoch.
    pub fn begin(audit: &Arc<Audit>, method: &'static str, call_id: &str, now: Duration) -> Self {
        let nanos = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        let now = OffsetDateTime::from_unix_timestamp_nanos(nanos);
        let record = Record {
            time: now
                .ok()
                .and_then(|now| now.format(&Rfc3339).ok())
                .unwrap_or_default(),
            call_id: call_id.to_owned(),
            method,
            ..Record::default()
        };
        Self(Some(Arc::new(Attempt {
            audit: Arc::clone(audit),
            record: Mutex::new(record),
        })))
    }

    /// Notes something.
    pub fn note(&self, note: impl FnOnce(&mut Record)) {
        if let Some(attempt) = &self.0 {
            note(&mut attempt.record.lock());
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let record = self.record.get_mut();
        record.outcome.get_or_insert_with(|| "CANCELLED".to_owned());
        self.audit.write(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(path: &std::path::Path, on_failure: OnFailure) -> Result<Arc<Audit>, String> {
        let config = AuditConfig {
            destination: Destination::File(path.to_owned()),
            on_failure,
        };
        Audit::open(config, Metrics::new()).map(Arc::new)
    }

    fn begin(audit: &Arc<Audit>) -> Trail {
        Trail::begin(audit, "PutClaims", "call", Duration::from_secs(1))
    }

    fn lines(path: &std::path::Path) -> usize {
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_record_is_written_when_the_last_one_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = audit(&path, OnFailure::Refuse).unwrap();
        let trail = begin(&audit);
        let other = trail.clone();
        trail.note(|record| record.lattice = Some("a\"b\n".to_owned()));
        drop(trail);
        assert_eq!(lines(&path), 0);
        drop(other);
        assert_eq!(lines(&path), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&record["lattice"], &record["outcome"]),
            (&"a\"b\n".into(), &"CANCELLED".into())
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused_or_lost_as_configured_and_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("logs");
        for (on_failure, kept) in [(OnFailure::Refuse, 3), (OnFailure::Continue, 1)] {
            std::fs::create_dir(&place).unwrap();
            let path = place.join("audit");
            let audit = audit(&path, on_failure).unwrap();
            std::fs::remove_dir_all(&place).unwrap();
            audit.sink.lock().file = None;
            for _ in 0..2 {
                drop(begin(&audit));
            }
            assert_eq!(audit.permits(), on_failure == OnFailure::Continue);
            std::fs::create_dir(&place).unwrap();
            assert!(audit.permits());
            drop(begin(&audit));
            assert_eq!(lines(&path), kept);
            std::fs::remove_dir_all(&place).unwrap();
        }
        assert!(audit(&place.join("nowhere"), OnFailure::Refuse).is_err());
    }

    #[test]
    fn a_file_that_was_rotated_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let audit = audit(&path, OnFailure::Refuse).unwrap();
        drop(begin(&audit));
        std::fs::rename(&path, &rotated).unwrap();
        audit.sink.lock().looked = None;
        drop(begin(&audit));
        assert_eq!((lines(&path), lines(&rotated)), (1, 1));
    }
}
