//! Following a lattice: first what stands, then every change.
//!
//! A [`Watch`] holds a place in the change log of each of its streams and pulls, so that one that is slow costs nothing
//! and holds up nobody. What it has to be told is written once for all watches that want the same from the same place
//! (`group`). What changes cannot tell it learns by beginning anew, with the reason.

mod group;
mod selection;
mod token;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::select_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

pub use self::selection::Selection;
use self::{
    group::{Batch, Common, Group, Groups},
    token::{At, Whereabouts},
};
use super::{Control, ControlError, Deadline, lattice::Lattice, operations::in_order};
use crate::{
    auth::{self, Grant},
    domain::{EntryKey, Kind, Revision},
    store::{
        changes::{Lost, Place},
        connection::Status,
        layout::{Layout, Part},
        mirror::{Contents, Standing},
    },
};

/// A message ends behind the entry that brings its texts to this many bytes.
const MESSAGE_BYTES: usize = 64 * 1024;
/// Entries that are looked at for one part of a snapshot, at most: for so long is the mirror held.
const SCANNED_MAX: usize = 2_000;
/// For how long a lattice that went away is waited for.
const AWAY_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether it is back.
const AWAY_PAUSE: Duration = Duration::from_millis(250);

/// Why a watch begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anew {
    /// Its token is of another gateway, or of an earlier life of this one.
    TokenForeign,
    /// Its token is older than what is remembered.
    TokenExpired,
    /// A stream was made again, or lost what it held.
    StreamReset,
    /// The lattice is kept in another layout now.
    LayoutChanged,
    /// The caller may see values now, or no longer.
    GrantChanged,
}

/// What a watch is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// Entries that stand: a part of a snapshot.
    Snapshot(&'a [(EntryKey, Standing)]),
    /// No more of the snapshot comes.
    SnapshotComplete,
    /// What changed.
    Changes {
        /// How each entry stands now; nothing where it is absent.
        changes: &'a [Change],
        /// Where the stream is.
        revision: Revision,
        /// Whether more changes up to the same revision follow.
        is_partial: bool,
        /// Resumes behind it.
        resume_token: String,
    },
    /// That nothing changed.
    Bookmark {
        /// Where each stream is.
        revisions: Vec<Revision>,
        /// Resumes behind it.
        resume_token: String,
        /// Whether NATS is away.
        is_stale: bool,
    },
    /// What was told may no longer hold.
    Anew(Anew),
}

/// An entry that changed, and how it stands now.
pub type Change = (Arc<EntryKey>, Option<Standing>);

/// Writes an event down, for callers who may see values or for others.
pub type Write = fn(&Event<'_>, bool) -> Bytes;

/// The watches of a gateway, as far as they share work.
#[derive(Debug, Default)]
pub struct Watches(Groups);

/// One stream that is followed.
#[derive(Debug)]
struct Followed {
    lattice: Arc<Lattice>,
    kinds: Vec<Kind>,
    news: watch::Receiver<Option<Place>>,
}

/// What comes next.
#[derive(Debug)]
enum Phase {
    /// To tell why what was told no longer holds.
    Anew(Anew),
    /// What stands.
    Snapshot(Cursor),
    /// To tell at once what changed meanwhile, of this stream and those behind it.
    CatchUp(usize),
    /// Changes.
    Following,
    /// The lattice is away, since then.
    Away(Instant),
}

/// How far a snapshot has come: the kinds that are still to be told, by their streams, the first of them behind a key.
#[derive(Debug)]
struct Cursor {
    kinds: VecDeque<(usize, Kind)>,
    after: Option<EntryKey>,
}

/// One watch.
#[derive(Debug)]
pub struct Watch {
    control: Control,
    common: Common,
    group: Arc<Group>,
    write: Write,
    layout: Layout,
    streams: Vec<Followed>,
    told: Whereabouts,
    /// The stream that the last message told a part of.
    told_in_part: Option<usize>,
    phase: Phase,
}

impl Control {
    /// Begins to watch a lattice, or goes on where a token says; it is empty to begin.
    pub async fn watch(
        &self,
        grant: &Grant<auth::Watch>,
        selection: Selection,
        resume_token: &str,
        write: Write,
        deadline: Deadline,
    ) -> Result<Watch, ControlError> {
        let common = Common {
            lattice: grant.lattice().clone(),
            selection: Arc::new(selection),
            reads_values: grant.reads_values(),
        };
        let (layout, streams) = self.streams(&common, deadline).await?;
        let mut watch = Watch {
            control: self.clone(),
            group: self.watches().0.of(&common),
            common,
            write,
            layout,
            told: Whereabouts(Vec::new()),
            told_in_part: None,
            phase: Phase::Following,
            streams,
        };
        match resume_token {
            "" => watch.begin_anew(None)?,
            token => watch.resume(token)?,
        }
        Ok(watch)
    }

    /// Opens the streams that hold what is wanted.
    async fn streams(
        &self,
        common: &Common,
        deadline: Deadline,
    ) -> Result<(Layout, Vec<Followed>), ControlError> {
        let main = self.lattices().open(&common.lattice, deadline).await?;
        main.readable()?;
        let layout = main.part.layout();
        let wanted = common.selection.kinds_of(layout)?;
        let mut streams = Vec::new();
        for part in layout.parts() {
            let mut kinds = wanted.clone();
            kinds.retain(|kind| layout.part_of(*kind) == Some(*part));
            if kinds.is_empty() {
                continue;
            }
            let lattice = match part {
                Part::CacheStream | Part::Kv | Part::Component => Arc::clone(&main),
                Part::Configs => match self.lattices().open_configs(&common.lattice, deadline).await {
                    Ok(configs) => configs,
                    Err(ControlError::NotProvisioned { .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            lattice.ready(deadline).await?;
            streams.push(Followed {
                news: lattice.mirror().follow(),
                kinds,
                lattice,
            });
        }
        Ok((layout, streams))
    }
}

impl Watch {
    /// What is told next; waits for it. Can be given up and called again, and nothing is lost.
    pub async fn next(&mut self) -> Result<Bytes, ControlError> {
        loop {
            match &mut self.phase {
                Phase::Anew(anew) => {
                    let event = Event::Anew(*anew);
                    self.phase = self.whole_snapshot();
                    return Ok(self.write(&event));
                }
                Phase::Snapshot(cursor) => {
                    if let Some(entries) = next_part(cursor, &self.streams, &self.common.selection)? {
                        return Ok(self.write(&Event::Snapshot(&entries)));
                    }
                    self.phase = Phase::CatchUp(0);
                    return Ok(self.write(&Event::SnapshotComplete));
                }
                Phase::CatchUp(stream) => {
                    let stream = *stream;
                    if let Some(message) = self.catch_up(stream)? {
                        return Ok(message);
                    }
                }
                Phase::Following => match self.news()? {
                    Some(message) => return Ok(message),
                    None if self.is_following() => self.stirred().await,
                    None => {}
                },
                Phase::Away(since) => {
                    let since = *since;
                    // Seldom, and large: thousands of watches would each hold room for it.
                    Box::pin(self.come_back(since)).await?;
                }
            }
        }
    }

    /// What can be told at once of a watch that follows: changes, or that there are none. Nothing where it cannot go on
    /// like that; then [`Self::next`] tells why.
    pub fn sign_of_life(&mut self) -> Result<Option<Bytes>, ControlError> {
        let news = self.news()?;
        if news.is_some() || !self.is_following() {
            return Ok(news);
        }
        let is_away = |stream: &Followed| stream.lattice.api.connection().status() != Status::Connected;
        Ok(Some(self.write(&Event::Bookmark {
            revisions: self.told.0.iter().map(|at| at.revision).collect(),
            resume_token: self.resume_token(),
            is_stale: self.streams.iter().any(is_away),
        })))
    }

    /// Whether all that stood was told.
    pub fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    /// Takes over what the caller may see now, and looks for configs where there were none.
    pub async fn renew(&mut self, grant: &Grant<auth::Watch>) -> Result<(), ControlError> {
        if grant.reads_values() != self.common.reads_values {
            self.common.reads_values = grant.reads_values();
            self.group = self.control.watches().0.of(&self.common);
            return self.begin_anew(Some(Anew::GrantChanged));
        }
        let wants_configs = self
            .common
            .selection
            .kinds_of(self.layout)?
            .contains(&Kind::Config);
        let has_configs = self
            .streams
            .iter()
            .any(|stream| stream.lattice.part == Part::Configs);
        if wants_configs && !has_configs && self.is_following() {
            let lattices = self.control.lattices();
            let configs = lattices.open_configs(&self.common.lattice, Deadline::within(AWAY_PAUSE));
            if configs.await.is_ok() {
                self.phase = Phase::Away(Instant::now());
            }
        }
        Ok(())
    }

    fn write(&self, event: &Event<'_>) -> Bytes {
        (self.write)(event, self.common.reads_values)
    }

    fn resume_token(&self) -> String {
        self.told.token(&self.common)
    }

    fn begin_anew(&mut self, why: Option<Anew>) -> Result<(), ControlError> {
        let ends = self.streams.iter().map(|stream| stream.lattice.look(At::end_of));
        self.told = Whereabouts(ends.collect::<Result<_, _>>()?);
        self.told_in_part = None;
        self.phase = match why {
            Some(why) => Phase::Anew(why),
            None => self.whole_snapshot(),
        };
        Ok(())
    }

    fn whole_snapshot(&self) -> Phase {
        let streams = self.streams.iter().enumerate();
        let kinds =
            streams.flat_map(|(stream, followed)| followed.kinds.iter().map(move |kind| (stream, *kind)));
        Phase::Snapshot(Cursor {
            kinds: kinds.collect(),
            after: None,
        })
    }

    /// Goes on where an earlier watch was, or begins anew where that cannot be done.
    fn resume(&mut self, token: &str) -> Result<(), ControlError> {
        let told = Whereabouts::parse(token, &self.common).ok_or(ControlError::ResumeTokenInvalid)?;
        if told.0.len() != self.streams.len() {
            return self.begin_anew(Some(Anew::StreamReset));
        }
        for (at, stream) in told.0.iter().zip(&self.streams) {
            let why = stream
                .lattice
                .look(|contents| match contents.changes().since(at.place) {
                    Ok(_) => None,
                    Err(_) if at.revision.epoch != contents.position().epoch => Some(Anew::StreamReset),
                    Err(Lost::OtherLog) => Some(Anew::TokenForeign),
                    Err(Lost::Forgotten) => Some(Anew::TokenExpired),
                })?;
            if why.is_some() {
                return self.begin_anew(why);
            }
        }
        (self.told, self.phase) = (told, Phase::CatchUp(0));
        Ok(())
    }

    /// What changed since before the snapshot, of this stream and then of those behind it, or that nothing did; one that cannot
    /// go on by changes is in another phase behind this. A snapshot of several streams may hold what is told again of each, so
    /// that the view is of no one revision until all are told: what is told before is partial. Read for this watch alone: what
    /// another one was told from the same place may be older than the end of this one's snapshot.
    fn catch_up(&mut self, stream: usize) -> Result<Option<Bytes>, ControlError> {
        let mut later = stream.saturating_add(1)..self.streams.len();
        let behind = later.find(|later| self.has_news(*later));
        if !self.is_there(stream)? {
            return Ok(None);
        }
        let (Some(followed), Some(at)) = (self.streams.get(stream), self.told.0.get(stream)) else {
            return Ok(None);
        };
        let changed = Changed::read(followed, at.place, &self.common.selection).map(|changed| {
            self.phase = match (changed.is_partial, behind) {
                (true, _) => Phase::CatchUp(stream),
                (false, Some(behind)) => Phase::CatchUp(behind),
                (false, None) => Phase::Following,
            };
            Changed {
                is_partial: changed.is_partial || behind.is_some(),
                ..changed
            }
        });
        let batch = changed.map(|changed| self.batch(stream, &changed));
        match self.take(stream, batch)? {
            None if self.is_following() => self.sign_of_life(),
            message => Ok(message),
        }
    }

    /// Whether there is something to tell of a stream; what hinders it is told when it is its turn.
    fn has_news(&self, stream: usize) -> bool {
        let (Some(followed), Some(at)) = (self.streams.get(stream), self.told.0.get(stream)) else {
            return false;
        };
        let changed = Changed::read(followed, at.place, &self.common.selection);
        changed.map_or(true, |changed| !changed.changes.is_empty())
    }

    /// What changed, where something has; one that cannot go on by changes is in another phase behind this. The rest of a
    /// stream that was told in part comes first: a message of another would say that the view is whole.
    fn news(&mut self) -> Result<Option<Bytes>, ControlError> {
        for stream in self.told_in_part.into_iter().chain(0..self.streams.len()) {
            let news = self.news_of(stream)?;
            if news.is_some() || !self.is_following() {
                return Ok(news);
            }
        }
        Ok(None)
    }

    fn news_of(&mut self, stream: usize) -> Result<Option<Bytes>, ControlError> {
        if !self.is_there(stream)? {
            return Ok(None);
        }
        let (Some(followed), Some(at)) = (self.streams.get(stream), self.told.0.get(stream)) else {
            return Ok(None);
        };
        let from = (stream, self.told.places());
        let batch = self.group.batch(from, || {
            let changed = Changed::read(followed, at.place, &self.common.selection);
            changed.map(|changed| self.batch(stream, &changed))
        });
        self.take(stream, batch)
    }

    /// Whether a stream can be read; where it went away it is waited for.
    fn is_there(&mut self, stream: usize) -> Result<bool, ControlError> {
        let readable = self
            .streams
            .get(stream)
            .map(|followed| followed.lattice.readable());
        match readable {
            None | Some(Ok(())) => Ok(true),
            Some(Err(ControlError::NotProvisioned { .. })) => {
                self.phase = Phase::Away(Instant::now());
                Ok(false)
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn take(
        &mut self,
        stream: usize,
        batch: Result<Batch, Unreadable>,
    ) -> Result<Option<Bytes>, ControlError> {
        match batch {
            Ok(Batch {
                to,
                message,
                is_partial,
            }) => {
                self.told.set(stream, to);
                self.told_in_part = is_partial.then_some(stream);
                Ok(message)
            }
            Err(Unreadable::Lost(Lost::OtherLog)) => {
                self.begin_anew(Some(Anew::StreamReset))?;
                Ok(None)
            }
            Err(Unreadable::Lost(Lost::Forgotten)) => Err(ControlError::WatchLagged {
                resume_token: self.resume_token(),
            }),
            Err(Unreadable::Unavailable(error)) => Err(error),
        }
    }

    fn batch(&self, stream: usize, changed: &Changed) -> Batch {
        let to = changed.to;
        let message = (!changed.changes.is_empty()).then(|| {
            let mut told = self.told.clone();
            told.set(stream, to);
            self.write(&Event::Changes {
                changes: &changed.changes,
                revision: to.revision,
                is_partial: changed.is_partial,
                resume_token: told.token(&self.common),
            })
        });
        Batch {
            to,
            message,
            is_partial: changed.is_partial,
        }
    }

    /// Waits until there may be news.
    async fn stirred(&mut self) {
        let stirred = self
            .streams
            .iter_mut()
            .map(|stream| Box::pin(stream.news.changed()));
        // A mirror lives as long as it is followed.
        drop(select_all(stirred).await);
    }

    /// Looks whether a lattice that went away is back.
    async fn come_back(&mut self, since: Instant) -> Result<(), ControlError> {
        match self
            .control
            .streams(&self.common, Deadline::within(AWAY_MAX))
            .await
        {
            Ok((layout, streams)) => {
                let why = match layout == self.layout {
                    true => Anew::StreamReset,
                    false => Anew::LayoutChanged,
                };
                (self.layout, self.streams) = (layout, streams);
                self.begin_anew(Some(why))
            }
            Err(ControlError::NotProvisioned { .. } | ControlError::BackendUnavailable { .. })
                if since.elapsed() < AWAY_MAX =>
            {
                sleep(AWAY_PAUSE).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The next entries of a snapshot; none at its end.
fn next_part(
    cursor: &mut Cursor,
    streams: &[Followed],
    selection: &Selection,
) -> Result<Option<Vec<(EntryKey, Standing)>>, ControlError> {
    while let Some((stream, kind)) = cursor.kinds.front().copied() {
        let Some(stream) = streams.get(stream) else {
            break;
        };
        let after = cursor.after.take();
        let (entries, last) = stream
            .lattice
            .look(|contents| read_part(contents, kind, after, selection))?;
        if last.is_none() {
            cursor.kinds.pop_front();
        }
        cursor.after = last;
        if !entries.is_empty() {
            return Ok(Some(entries));
        }
    }
    Ok(None)
}

/// Wanted entries of a kind behind a key, and the key to go on behind, where there may be more.
fn read_part(
    contents: &Contents,
    kind: Kind,
    after: Option<EntryKey>,
    selection: &Selection,
) -> (Vec<(EntryKey, Standing)>, Option<EntryKey>) {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (scanned, (key, standing)) in in_order(contents, kind, after).enumerate() {
        let is_wanted = selection.wants(&key);
        if is_wanted {
            bytes += key.text_bytes() + standing.entry.text_bytes();
            entries.push((key.clone().into_owned(), standing));
        }
        if bytes >= MESSAGE_BYTES || scanned + 1 >= SCANNED_MAX {
            return (entries, Some(key.into_owned()));
        }
    }
    (entries, None)
}

/// What changed of a stream behind a place, as much of it as one message takes.
#[derive(Debug)]
struct Changed {
    changes: Vec<Change>,
    to: At,
    is_partial: bool,
}

/// Why changes cannot be read.
#[derive(Debug)]
enum Unreadable {
    Lost(Lost),
    Unavailable(ControlError),
}

impl Changed {
    fn read(stream: &Followed, from: Place, selection: &Selection) -> Result<Self, Unreadable> {
        let read = stream.lattice.look(|contents| {
            let mut changed = Self {
                changes: Vec::new(),
                to: At::end_of(contents),
                is_partial: false,
            };
            let mut bytes = 0;
            for (behind, key) in contents.changes().since(from)? {
                if !stream.kinds.contains(&key.kind()) || !selection.wants(key) {
                    continue;
                }
                if bytes >= MESSAGE_BYTES {
                    // What changed last in the rest was left out so far, and comes next.
                    changed.is_partial = true;
                    break;
                }
                let standing = contents.shown(key);
                let text = standing
                    .as_ref()
                    .map_or(0, |standing| standing.entry.text_bytes());
                bytes += key.text_bytes() + text;
                changed.to.place = behind;
                changed.changes.push((Arc::clone(key), standing));
            }
            if !changed.is_partial {
                changed.to.place = contents.changes().end();
            }
            Ok(changed)
        });
        match read {
            Ok(Ok(changed)) => Ok(changed),
            Ok(Err(lost)) => Err(Unreadable::Lost(lost)),
            Err(error) => Err(Unreadable::Unavailable(error)),
        }
    }
}
