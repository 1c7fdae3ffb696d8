use std::{collections::VecDeque, sync::Arc};

use lattice_gateway::proto::{
    PACKAGE,
    watch_response::{Bookmark, Changes, Snapshot, SnapshotComplete},
    watch_service_server::{WatchService, WatchServiceServer},
};
use parking_lot::Mutex;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{failure::Exit, fake};

/// What one call is answered with: messages, and how it ends.
type Script = (Vec<Event>, Result<(), Status>);

/// A gateway that answers calls as it is told, and notes what they asked.
#[derive(Clone, Default)]
struct Fake {
    calls: Arc<Mutex<VecDeque<Script>>>,
    asked: Arc<Mutex<Vec<WatchRequest>>>,
}

#[tonic::async_trait]
impl WatchService for Fake {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.asked.lock().push(request.into_inner());
        let (events, end) = self.calls.lock().pop_front().unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel(events.len() + 1);
        for event in events {
            let message = WatchResponse { event: Some(event) };
            sender.try_send(Ok(message)).unwrap();
        }
        if let Err(status) = end {
            sender.try_send(Err(status)).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn snapshot() -> Event {
    Event::Snapshot(Snapshot::default())
}

fn complete() -> Event {
    Event::SnapshotComplete(SnapshotComplete {})
}

fn changes(token: &str) -> Event {
    Event::Changes(Changes {
        resume_token: token.to_owned(),
        ..Changes::default()
    })
}

fn bookmark(token: &str) -> Event {
    Event::Bookmark(Bookmark {
        resume_token: token.to_owned(),
        ..Bookmark::default()
    })
}

fn resync() -> Event {
    Event::Resync(Resync::default())
}

fn status(code: Code, reason: &str, token: Option<&str>) -> Status {
    let token = token.map(|token| ("resume_token".to_owned(), token.to_owned()));
    let mut details = ErrorDetails::new();
    details.set_error_info(
        reason,
        PACKAGE,
        token.into_iter().collect::<std::collections::HashMap<_, _>>(),
    );
    Status::with_error_details(code, reason, details)
}

/// Watches through these calls; gives how it ended and the tokens that were asked with.
async fn watched(options: &str, calls: Vec<Script>) -> (Result<String, CommandError>, Vec<String>) {
    let fake = Fake {
        calls: Arc::new(Mutex::new(calls.into())),
        asked: Arc::default(),
    };
    let line = format!("watch -o json {options}");
    let ended = fake::run(WatchServiceServer::new(fake.clone()), line.trim()).await;
    let asked = fake
        .asked
        .lock()
        .iter()
        .map(|it| it.resume_token.clone())
        .collect();
    (ended, asked)
}

#[tokio::test]
async fn a_watch_goes_on_behind_the_last_token_whatever_ends_its_calls() {
    let calls = vec![
        (vec![snapshot(), complete(), changes("one")], Ok(())),
        (
            vec![bookmark("two")],
            Err(status(Code::Unavailable, "SHUTTING_DOWN", None)),
        ),
        (vec![], Err(status(Code::Internal, "INTERNAL", None))),
        (
            vec![],
            Err(status(Code::ResourceExhausted, "WATCH_LAGGED", Some("three"))),
        ),
        (
            vec![],
            Err(status(Code::PermissionDenied, "LATTICE_NOT_GRANTED", None)),
        ),
    ];
    let (ended, asked) = watched("", calls).await;
    assert_eq!(asked, ["", "one", "two", "two", "three"]);
    assert_eq!(ended.unwrap_err().exit(), Exit::Refused);
}

#[tokio::test]
async fn a_watch_until_synced_ends_where_the_view_is_of_one_revision() {
    let partial = Event::Changes(Changes {
        is_partial: true,
        resume_token: "part".to_owned(),
        ..Changes::default()
    });
    let calls = vec![
        // Broken before there was a token: begins anew.
        (vec![snapshot()], Ok(())),
        (
            vec![snapshot(), complete(), partial, changes("whole"), changes("more")],
            Ok(()),
        ),
    ];
    let (ended, asked) = watched("--until-synced", calls).await;
    assert_eq!(ended.unwrap(), "");
    assert_eq!(asked, ["", ""]);
}

#[tokio::test]
async fn a_resumed_watch_is_synced_once_nothing_is_left_to_tell() {
    let calls = vec![(vec![changes("a"), bookmark("b")], Ok(()))];
    let (ended, asked) = watched("--until-synced --resume-token start", calls).await;
    assert!(ended.is_ok());
    assert_eq!(asked, ["start"]);
}

#[tokio::test]
async fn a_resync_ends_the_use_of_tokens_from_before() {
    let calls = vec![
        (vec![resync(), snapshot()], Ok(())),
        (vec![snapshot(), complete(), bookmark("b")], Ok(())),
    ];
    let (ended, asked) = watched("--until-synced --resume-token old", calls).await;
    assert!(ended.is_ok());
    assert_eq!(asked, ["old", ""]);
}

#[tokio::test]
async fn a_watch_that_is_not_to_reconnect_ends_with_its_call() {
    let calls = vec![(
        vec![bookmark("one")],
        Err(status(Code::Unavailable, "SHUTTING_DOWN", None)),
    )];
    let (ended, asked) = watched("--no-reconnect", calls).await;
    assert_eq!(asked.len(), 1);
    assert_eq!(ended.unwrap_err().exit(), Exit::Unavailable);
}

#[tokio::test]
async fn a_token_that_is_none_ends_a_watch() {
    let calls = vec![(
        vec![],
        Err(status(Code::InvalidArgument, "RESUME_TOKEN_INVALID", None)),
    )];
    let (ended, _) = watched("--resume-token x", calls).await;
    assert_eq!(ended.unwrap_err().exit(), Exit::Refused);
}
