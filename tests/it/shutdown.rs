//! How the server ends: told, drained, and with nothing left behind.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use lattice_gateway::{
    config::Config,
    control::lattices::Storage,
    proto::{ErrorReason, link_definition_service_client::LinkDefinitionServiceClient},
};
use serde_json::Value;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use crate::harness::{
    Nats, TestGateway,
    gateway::{connect, get, new_lattice},
    keys, link, nats, put_link, until,
};

/// `lattice-gateway dev` as a process of its own, and its ready line.
fn dev(args: &[&str]) -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
        .args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(args)
        .env("NATS_SERVER", nats::program())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn health_says_not_serving_and_an_open_watch_holds_nothing_up() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let mut health = HealthClient::new(gateway.channel.clone());
    let check = HealthCheckRequest {
        service: "lattice.control.v1.LinkDefinitionService".into(),
    };
    until("it serves", async || {
        let answer = health.check(check.clone()).await.ok()?;
        (answer.into_inner().status() == ServingStatus::Serving).then_some(())
    })
    .await;
    let mut watch = health.watch(check).await.unwrap().into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let ((), told) = tokio::join!(gateway.running.shut_down(), async {
        watch.message().await.unwrap().unwrap().status()
    });
    assert_eq!(told, ServingStatus::NotServing);
}

#[tokio::test]
async fn calls_are_taken_until_load_balancers_have_heard_that_the_gateway_goes() {
    let nats = Nats::start().await;
    let mut config = Config::dev(nats.url(), Some(new_lattice(Storage::Memory)));
    config.lame_duck = Duration::from_hours(1);
    let TestGateway { running, channel, .. } = TestGateway::with(config).await;
    let (grpc, admin) = (running.grpc, running.admin);
    let leaving = tokio::spawn(running.shut_down());
    until("readiness says that it goes", async || {
        let answer = get(admin, "/readyz").await;
        (answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n")).then_some(())
    })
    .await;
    let new_connection = connect(grpc).await;
    for channel in [channel, new_connection] {
        let mut client = LinkDefinitionServiceClient::new(channel);
        let put = put_link(link(&keys::actor(), &keys::provider(), "value"));
        client.put_link_definition(put).await.unwrap();
    }
    leaving.abort();
}

#[tokio::test]
async fn sigterm_under_load_fails_no_call_of_a_retrying_client() {
    let nats = Nats::start().await;
    let (mut first, told) = dev(&["--nats-url", &nats.url()]);
    let (mut second, other_told) = dev(&["--nats-url", &nats.url()]);
    nats.create_stream("default", Value::Null).await;
    let addresses = [&told, &other_told].map(|told| told["grpc"].as_str().unwrap().to_owned());

    let writers = (0..8)
        .map(|writer| tokio::spawn(write_for_ever(addresses.clone(), writer)))
        .collect::<Vec<_>>();
    until("the load is on", async || {
        (nats.state("default").await.1 > 200).then_some(())
    })
    .await;
    let began = Instant::now();
    signal(&first, "TERM");
    let status = until("it ends", async || first.try_wait().unwrap()).await;
    assert!(status.success());
    assert!(began.elapsed() < Duration::from_secs(30));
    let reached = nats.state("default").await.1;
    until("the load goes on", async || {
        (nats.state("default").await.1 > reached + 200).then_some(())
    })
    .await;
    for writer in writers {
        writer.abort();
        if let Err(failed) = writer.await {
            assert!(failed.is_cancelled(), "a call failed: {failed}");
        }
    }
    signal(&second, "TERM");
    until("it ends", async || second.try_wait().unwrap()).await;
}

/// Puts links for ever; goes to the other gateway where one says *not applied* or cannot be reached, and panics at
/// any other failure.
async fn write_for_ever(addresses: [String; 2], writer: usize) {
    let (actor, provider) = (keys::actor(), keys::provider());
    let channels: [Channel; 2] = addresses.map(|address| {
        Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy()
    });
    let mut side = writer % 2;
    for number in 0_u64.. {
        let put = put_link(link(&actor, &provider, &number.to_string()));
        loop {
            let mut client = LinkDefinitionServiceClient::new(channels[side].clone());
            match client.put_link_definition(put.clone()).await {
                Ok(_) => break,
                Err(status) => {
                    let info = status.get_details_error_info();
                    let reason = info.and_then(|info| ErrorReason::from_str_name(&info.reason));
                    let is_retryable = match reason {
                        Some(reason) => reason == ErrorReason::ShuttingDown,
                        // Not from the gateway: its socket is gone.
                        None => status.code() == tonic::Code::Unavailable,
                    };
                    assert!(is_retryable, "{status:?}");
                    side = 1 - side;
                }
            }
        }
    }
}

#[tokio::test]
async fn the_nats_server_of_dev_ends_with_it_however_it_ends() {
    for name in ["TERM", "KILL"] {
        let (mut child, told) = dev(&[]);
        let url = told["nats"].as_str().unwrap().to_owned();
        assert!(async_nats::connect(&url).await.is_ok());
        signal(&child, name);
        child.wait().unwrap();
        until("its nats-server is gone", async || {
            async_nats::connect(&url).await.is_err().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_address_beyond_loopback_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"))
        .args(["dev", "--listen", "0.0.0.0:0", "--nats-url", "nats://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("--listen") && told.contains("loopback"), "{told}");
}
