//! etcd's `Put` of the same key and body, with its data on tmpfs.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use bytes::Bytes;
use prost::Message;
use tempfile::{Builder, TempDir};
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    Failure,
    drive::Work,
    process::{Process, connect, free_port, until},
    progress,
    things::Link,
};

const TMPFS: &str = "/dev/shm";

/// What of `etcdserverpb` is needed to put.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

/// The server, and a connection to it.
pub(crate) struct Etcd {
    process: Process,
    _folder: TempDir,
    channel: Channel,
}

impl Etcd {
    /// None where there is no etcd, or no tmpfs.
    pub(crate) async fn start(program: &str) -> Result<Option<Self>, Failure> {
        let private = Permissions::from_mode(0o700);
        let Ok(folder) = Builder::new().permissions(private).tempdir_in(TMPFS) else {
            progress(&format!("etcd is skipped: there is no {TMPFS} for its data"));
            return Ok(None);
        };
        let (clients, peers) = (free_port()?, free_port()?);
        let (clients_url, peers_url) = (
            format!("http://127.0.0.1:{clients}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let arguments = [
            format!("--data-dir={}", folder.path().display()),
            format!("--listen-client-urls={clients_url}"),
            format!("--advertise-client-urls={clients_url}"),
            format!("--listen-peer-urls={peers_url}"),
            format!("--initial-advertise-peer-urls={peers_url}"),
            format!("--initial-cluster=default={peers_url}"),
            "--enable-grpc-gateway=false".to_owned(),
            "--logger=zap".to_owned(),
            "--log-level=fatal".to_owned(),
        ];
        let process = match Process::start(program, arguments) {
            Ok(process) => process,
            Err(error) => {
                progress(&format!("etcd is skipped: `{program}` does not start: {error}"));
                return Ok(None);
            }
        };
        let channel = connect(clients).await?;
        // It listens before it has elected itself.
        until(async || put(&channel, &Bytes::from_static(b"first"), &Bytes::new()).await).await?;
        Ok(Some(Self {
            process,
            _folder: folder,
            channel,
        }))
    }

    pub(crate) fn puts(&self, links: Vec<Link>) -> Vec<Put> {
        let put = |link: Link| Put {
            channel: self.channel.clone(),
            key: link.home.into(),
            value: link.body,
        };
        links.into_iter().map(put).collect()
    }

    pub(crate) async fn stop(self) -> Result<(), Failure> {
        drop(self.channel);
        self.process.stop().await
    }
}

/// A link that is put again and again.
pub(crate) struct Put {
    channel: Channel,
    key: Bytes,
    value: Bytes,
}

impl Work for Put {
    async fn once(&mut self) -> Result<(), Failure> {
        put(&self.channel, &self.key, &self.value).await
    }
}

async fn put(channel: &Channel, key: &Bytes, value: &Bytes) -> Result<(), Failure> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let request = PutRequest {
        key: key.clone(),
        value: value.clone(),
    };
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    client.unary(Request::new(request), path, codec).await?;
    Ok(())
}
