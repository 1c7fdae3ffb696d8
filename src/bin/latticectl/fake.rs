//! Runs commands against a gateway that a test made up.

use std::convert::Infallible;

use clap::Parser;
use http::{Request, Response};
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

use crate::{Context, args::Cli, failure::CommandError};

/// Runs a command, its words set apart by one space each, against a service.
pub(crate) async fn run<S>(service: S, line: &str) -> Result<String, CommandError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    run_on(Routes::new(service), line).await
}

/// Runs a command against several services.
pub(crate) async fn run_on(services: Routes, line: &str) -> Result<String, CommandError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let line = ["latticectl", "--endpoint", &endpoint]
        .into_iter()
        .chain(line.split(' '));
    let cli = Cli::try_parse_from(line).unwrap();
    let context = Context::new(&cli).unwrap();
    let server = Server::builder().add_routes(services);
    tokio::select! {
        printed = crate::run(&context, &cli.command) => printed,
        ended = server.serve_with_incoming(TcpIncoming::from(listener)) => panic!("{ended:?}"),
    }
}
