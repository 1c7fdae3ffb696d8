//! A TCP proxy on loopback that breaks what goes through it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A wire to a server. Each direction can be stalled; what is stalled is kept and goes on later.
#[derive(Clone)]
pub struct Wire {
    address: SocketAddr,
    to_server: watch::Sender<bool>,
    to_client: watch::Sender<bool>,
    /// Drops instead of keeping what comes from the server.
    drop_answers: Arc<AtomicBool>,
    cut: watch::Sender<u64>,
    refuse: Arc<AtomicBool>,
}

impl Wire {
    /// Opens a wire to a port on loopback.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            to_server: watch::Sender::new(true),
            to_client: watch::Sender::new(true),
            drop_answers: Arc::new(AtomicBool::new(false)),
            cut: watch::Sender::new(0),
            refuse: Arc::new(AtomicBool::new(false)),
        };
        tokio::spawn(wire.clone().accept(listener, port));
        wire
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Stalls what comes back from the server: acknowledgements are kept, publishes go through.
    pub fn stall_answers(&self, stalled: bool) {
        self.to_client.send_replace(!stalled);
    }

    /// Stalls what goes to the server: publishes are kept, and land later.
    pub fn stall_publishes(&self, stalled: bool) {
        self.to_server.send_replace(!stalled);
    }

    /// Stalls both directions: a black hole.
    pub fn stall(&self, stalled: bool) {
        self.to_server.send_replace(!stalled);
        self.to_client.send_replace(!stalled);
    }

    /// Throws away what comes back from the server until told otherwise. The connection is useless after it: cut it.
    pub fn drop_answers(&self, dropped: bool) {
        self.drop_answers.store(dropped, Ordering::SeqCst);
    }

    /// Cuts every connection; new ones are taken.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Refuses new connections.
    pub fn refuse(&self, refused: bool) {
        self.refuse.store(refused, Ordering::SeqCst);
    }

    async fn accept(self, listener: TcpListener, port: u16) {
        while let Ok((client, _)) = listener.accept().await {
            if self.refuse.load(Ordering::SeqCst) {
                continue;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                continue;
            };
            tokio::spawn(self.clone().join(client, server));
        }
    }

    async fn join(self, client: TcpStream, server: TcpStream) {
        let mut cut = self.cut.subscribe();
        let (mut from_client, mut into_client) = client.into_split();
        let (mut from_server, mut into_server) = server.into_split();
        let up = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = from_client.read(&mut buffer).await.unwrap_or(0);
                self.to_server.subscribe().wait_for(|flows| *flows).await.unwrap();
                if count == 0 || into_server.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        };
        let down = async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = from_server.read(&mut buffer).await.unwrap_or(0);
                self.to_client.subscribe().wait_for(|flows| *flows).await.unwrap();
                if count == 0 {
                    return;
                }
                if !self.drop_answers.load(Ordering::SeqCst)
                    && into_client.write_all(&buffer[..count]).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            _ = cut.changed() => {}
        }
    }
}
