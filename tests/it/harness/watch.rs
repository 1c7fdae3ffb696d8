//! A client of a watch.

use std::time::Duration;

use lattice_gateway::proto::{WatchRequest, WatchResponse, watch_service_client::WatchServiceClient};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{
    Told,
    gateway::{TestGateway, Wire, told},
    nats::PATIENCE,
    view::View,
};

/// A watch, and what its client keeps.
pub struct Watching {
    messages: Streaming<WatchResponse>,
    pub view: View,
}

/// All of the lattice `default`.
pub fn watch_all() -> WatchRequest {
    WatchRequest {
        lattice: "default".into(),
        ..WatchRequest::default()
    }
}

impl TestGateway {
    pub fn watches(&self) -> WatchServiceClient<Wire> {
        WatchServiceClient::new(self.wire())
    }

    /// Begins a watch.
    pub async fn watch(&self, request: WatchRequest) -> Result<Watching, Told> {
        let messages = told(self.watches().watch(request).await)?;
        Ok(Watching {
            messages,
            view: View::default(),
        })
    }

    /// Begins a watch, and takes in what stands.
    pub async fn watch_from_now(&self, request: WatchRequest) -> Watching {
        self.watch(request).await.unwrap().with_snapshot().await
    }

    /// As [`Self::watch_from_now`], over a connection of its own: one that stalls fills its connection's window.
    pub async fn watch_beside(&self, request: WatchRequest) -> Watching {
        let mut client = WatchServiceClient::new(self.wire_beside().await);
        let messages = told(client.watch(request).await).unwrap();
        let view = View::default();
        Watching { messages, view }.with_snapshot().await
    }

    /// Goes on with a watch that has ended, with what its client keeps.
    pub async fn resume(&self, ended: Watching, request: WatchRequest) -> Result<Watching, Told> {
        let Watching { mut view, .. } = ended;
        view.resumed();
        let request = WatchRequest {
            resume_token: view.resume_token.clone(),
            ..request
        };
        let messages = told(self.watches().watch(request).await)?;
        Ok(Watching { messages, view })
    }
}

impl Watching {
    async fn with_snapshot(mut self) -> Self {
        self.until("the snapshot", |view| view.is_consistent).await;
        self
    }

    /// The next message; fails the test where it breaks a promise, or where none comes.
    pub async fn next(&mut self) -> Result<(), Status> {
        let message = timeout(PATIENCE, self.messages.message()).await;
        let message = message.expect("a watch tells something every 10 s")?;
        let message = message.expect("a watch does not end without an error");
        self.view.take(message).unwrap();
        Ok(())
    }

    /// Takes messages in until the view is like this.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&View) -> bool) {
        while !is_so(&self.view) {
            let told = timeout(Duration::from_secs(20), self.next()).await;
            let told = told.unwrap_or_else(|_late| panic!("was never told: {what}; {:?}", self.view));
            told.unwrap_or_else(|status| panic!("the watch ended before {what}: {status:?}"));
        }
    }

    /// Takes messages in until the watch ends, and tells why it did.
    pub async fn end(&mut self) -> Told {
        let ending = async {
            loop {
                if let Err(status) = self.next().await {
                    return status.into();
                }
            }
        };
        let ended = timeout(PATIENCE, ending).await;
        ended.expect("the watch ends")
    }
}
