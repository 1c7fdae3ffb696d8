//! Clients that mean harm, frame by frame: each attack is stopped or bounded, while another client is served.

use std::{io, time::Duration};

use futures_util::future::join_all;
use lattice_gateway::proto::{
    GetLinkDefinitionRequest, ListLinkDefinitionsRequest,
    link_definition_service_client::LinkDefinitionServiceClient,
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    http2::{
        CANCEL, CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PING,
        RST_STREAM, SETTINGS, WINDOW_UPDATE, call, call_with, field, frame, get, message,
    },
    link,
    process::Process,
    put_link,
};

const LASTS: Duration = Duration::from_secs(2);
/// What an attack may add to the gateway's memory. Of answers that nobody reads 16 MiB are kept; the rest is what the
/// allocator holds of making them. Without a bound they would be 1 GiB.
const GROWTH_MAX: u64 = 96 * 1024 * 1024;
const LIST: &str = "LinkDefinitionService/ListLinkDefinitions";
/// Longer than any bound that ends a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway with a link, and a client that means well.
struct Attacked {
    gateway: Process,
    client: LinkDefinitionServiceClient<tonic::transport::Channel>,
    wanted: GetLinkDefinitionRequest,
    _nats: Nats,
}

impl Attacked {
    async fn start() -> Self {
        let nats = Nats::start().await;
        nats.create_stream("default", serde_json::Value::Null).await;
        let gateway = Process::dev(&nats);
        let mut client = LinkDefinitionServiceClient::new(gateway.channel());
        let link = link(ACTOR, PROVIDER, "value");
        let wanted = GetLinkDefinitionRequest {
            lattice: "default".to_owned(),
            actor_id: Some(link.actor_id.clone()),
            contract_id: Some(link.contract_id.clone()),
            ..GetLinkDefinitionRequest::default()
        };
        client.put_link_definition(put_link(link)).await.unwrap();
        Self {
            gateway,
            client,
            wanted,
            _nats: nats,
        }
    }

    async fn get(&mut self) {
        let answer = timeout(PATIENCE, self.client.get_link_definition(self.wanted.clone())).await;
        answer.expect("the other client is served").unwrap();
    }

    /// The other client is served while the attack goes on, and memory stays bounded; what the attack tells.
    async fn withstands<T>(&mut self, attack: impl Future<Output = T>) -> T {
        let before = self.gateway.resident();
        tokio::pin!(attack);
        let mut most = before;
        let told = loop {
            tokio::select! {
                biased;
                told = &mut attack => break told,
                () = self.get() => most = most.max(self.gateway.resident()),
            }
        };
        most = most.max(self.gateway.resident());
        let growth = most - before;
        assert!(growth <= GROWTH_MAX, "grew by {} MiB", growth / 1024 / 1024);
        self.get().await;
        told
    }
}

/// Sends again and again, for a while or until the server has closed; how often, and the error of its farewell.
async fn flood(connection: &mut Connection, mut next: impl FnMut(u32) -> Vec<u8>) -> (u32, Option<u32>) {
    let until = Instant::now() + LASTS;
    let mut sent = 0;
    let sending = async {
        while Instant::now() < until {
            connection.send(&next(sent)).await?;
            sent += 1;
        }
        Ok::<_, io::Error>(())
    };
    // One that is not read from any more takes nothing.
    let ended = timeout(LASTS, sending).await;
    match ended {
        Ok(Err(_closed)) => (sent, connection.farewell().await),
        Ok(Ok(())) | Err(_) => (sent, None),
    }
}

fn stream(number: u32) -> u32 {
    number * 2 + 1
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let mut attacked = Attacked::start().await;
    let address = attacked.gateway.address;
    let told = attacked.withstands(async {
        let mut connection = Connection::open(address, 65_535).await.unwrap();
        flood(&mut connection, |sent| {
            let mut both = call(stream(sent), LIST);
            both.extend(frame(RST_STREAM, 0, stream(sent), &CANCEL.to_be_bytes()));
            both
        })
        .await
    });
    let (sent, farewell) = told.await;
    assert_eq!(farewell, Some(ENHANCE_YOUR_CALM), "after {sent}");
}

#[tokio::test]
async fn headers_that_never_end_end_the_connection() {
    let mut attacked = Attacked::start().await;
    let address = attacked.gateway.address;
    let told = attacked.withstands(async {
        let mut connection = Connection::open(address, 65_535).await.unwrap();
        let block = (0..100).flat_map(|_| field("x-padding", &"x".repeat(100)));
        let more = frame(CONTINUATION, 0, 1, &block.collect::<Vec<_>>());
        connection
            .send(&frame(HEADERS, 0, 1, &field(":method", "POST")))
            .await
            .unwrap();
        flood(&mut connection, |_| more.clone()).await
    });
    let (sent, farewell) = told.await;
    assert!(farewell.is_some(), "after {sent}");
}

#[tokio::test]
async fn settings_and_pings_that_nobody_reads_the_answers_of_cost_nothing() {
    let mut attacked = Attacked::start().await;
    let address = attacked.gateway.address;
    for flooded in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])] {
        let many = flooded.repeat(1_000);
        attacked
            .withstands(async {
                let mut connections = Vec::new();
                for _ in 0..8 {
                    connections.push(Connection::open(address, 65_535).await.unwrap());
                }
                join_all(
                    connections
                        .iter_mut()
                        .map(|connection| flood(connection, |_| many.clone())),
                )
                .await
            })
            .await;
    }
}

/// A list of a thousand links of a kibibyte each, as a request.
async fn large_list(attacked: &Attacked) -> Vec<u8> {
    let puts = (0..1_000).map(|number| {
        let mut link = link(ACTOR, PROVIDER, &"x".repeat(1_000));
        link.link_name = format!("link-{number}");
        let mut client = attacked.client.clone();
        async move { client.put_link_definition(put_link(link)).await.unwrap() }
    });
    join_all(puts).await;
    let request = ListLinkDefinitionsRequest {
        lattice: "default".to_owned(),
        page_size: 1_000,
        ..ListLinkDefinitionsRequest::default()
    };
    request.encode_to_vec()
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let mut attacked = Attacked::start().await;
    let list = large_list(&attacked).await;
    let ask = |stream| [call(stream, LIST), message(stream, &list)].concat();
    ask_and_read_no_answer(&mut attacked, ask).await;
}

#[tokio::test]
async fn answers_in_json_that_nobody_reads_are_bounded() {
    let mut attacked = Attacked::start().await;
    large_list(&attacked).await;
    let path = "/v1/lattices/default/link-definitions?pageSize=1000";
    ask_and_read_no_answer(&mut attacked, |stream| get(stream, path)).await;
}

async fn ask_and_read_no_answer(attacked: &mut Attacked, ask: impl Fn(u32) -> Vec<u8>) {
    let address = attacked.gateway.address;
    let asked = attacked.withstands(async {
        let mut connections = Vec::new();
        for _ in 0..4 {
            let mut connection = Connection::open(address, 0).await.unwrap();
            for number in 0..200 {
                connection.send(&ask(stream(number))).await.unwrap();
            }
            connections.push(connection);
        }
        // Each is answered: by its headers, or by an error without a message.
        join_all(connections.iter_mut().map(async |connection| {
            let mut answered = 0;
            while answered < 200 {
                let (kind, _) = connection.read().await.unwrap();
                answered += u32::from(kind == HEADERS);
            }
        }))
        .await;
        connections
    });
    let connections = asked.await;
    drop(connections);
}

#[tokio::test]
async fn an_answer_that_is_not_read_by_its_deadline_is_given_up() {
    let mut attacked = Attacked::start().await;
    let list = large_list(&attacked).await;
    let mut connection = Connection::open(attacked.gateway.address, 20_000).await.unwrap();
    let head = call_with(1, LIST, &[("grpc-timeout", "400m")]);
    connection.send(&head).await.unwrap();
    connection.send(&message(1, &list)).await.unwrap();
    let one_more = frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    let given_up = async {
        loop {
            let (kind, _) = connection.read().await.unwrap();
            match kind {
                RST_STREAM => break,
                DATA => connection.send(&one_more).await.unwrap(),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, given_up).await.expect("its stream is reset");
    attacked.get().await;
}

const SILENCE_IS_SHORT: &str = r#"
[lattices.default]
trusted_issuers = ["*"]
[server]
first_call_within = "200ms"
"#;

#[tokio::test]
async fn connections_that_say_nothing_are_closed() {
    let nats = Nats::start().await;
    let gateway = TestGateway::serving(&nats, SILENCE_IS_SHORT).await;
    for hello in [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n"] {
        let mut stream = TcpStream::connect(gateway.running.grpc).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{hello:?}");
    }
    let mut greeted = Connection::open(gateway.running.grpc, 0).await.unwrap();
    timeout(PATIENCE, greeted.farewell()).await.expect("it is closed");
}

/// What `connections_per_address_max` is where nothing is configured.
const OF_ADDRESS: u32 = 256;

#[tokio::test]
async fn more_connections_than_an_address_may_have_are_closed() {
    let mut attacked = Attacked::start().await;
    let address = attacked.gateway.address;
    attacked
        .withstands(async {
            let connections = join_all((0..2_000).map(|_| Connection::open(address, 0))).await;
            // None is given up before all are counted: another would have its place.
            let mut connections = connections.into_iter().flatten().collect::<Vec<_>>();
            let mut open = 0;
            for connection in &mut connections {
                let first = timeout(PATIENCE, connection.read()).await.unwrap();
                open += u32::from(first.is_ok());
            }
            assert_eq!(open, OF_ADDRESS - 1, "beside that of the other client");
        })
        .await;
}

#[tokio::test]
async fn calls_that_never_end_are_ended() {
    let mut attacked = Attacked::start().await;
    let mut connection = Connection::open(attacked.gateway.address, 65_535).await.unwrap();
    for number in 0..100 {
        let head = call_with(stream(number), LIST, &[("grpc-timeout", "300m")]);
        connection.send(&head).await.unwrap();
        connection
            .send(&frame(DATA, 0, stream(number), &[0, 0, 0, 1, 0]))
            .await
            .unwrap();
    }
    attacked
        .withstands(async {
            let mut answered = 0;
            while answered < 100 {
                let (kind, _) = timeout(PATIENCE, connection.read()).await.unwrap().unwrap();
                answered += u32::from(kind == HEADERS);
            }
        })
        .await;
}

/// What is no HTTP/2, or no gRPC, ends the connection or the call, and nothing else.
#[tokio::test]
async fn malformed_frames_and_messages_touch_nobody_else() {
    let mut attacked = Attacked::start().await;
    let address = attacked.gateway.address;
    let head = call(1, LIST);
    let with = |bytes: &[u8]| [head.as_slice(), bytes].concat();
    let is_compressed = frame(DATA, END_STREAM, 1, &[1, 0, 0, 0, 4, 0x1f, 0x8b, 8, 0]);
    let is_longer_than_it_says = frame(DATA, END_STREAM, 1, &[0, 0, 0, 0, 1, 1, 2, 3]);
    let says_four_gibibytes = frame(DATA, END_STREAM, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1]);
    for (what, bytes) in [
        ("a frame of a stream of the server's", frame(DATA, 0, 2, &[])),
        ("data of no stream", frame(DATA, 0, 7, &[0; 10])),
        (
            "a frame longer than it may be",
            frame(DATA, 0, 1, &vec![0; 20_000]),
        ),
        (
            "a window beyond all bounds",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        ),
        ("a ping of a wrong length", frame(PING, 0, 0, &[0; 3])),
        ("a setting cut short", frame(SETTINGS, 0, 0, &[0; 5])),
        (
            "a header table that is none",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 200]),
        ),
        (
            "a header block of kilobytes",
            frame(HEADERS, END_HEADERS, 1, &field("x", &"y".repeat(100)).repeat(150)),
        ),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
        ("a frame of no known kind", frame(0xee, 0xff, 1, &[1; 100])),
        ("a message compressed without a word", with(&is_compressed)),
        (
            "a message that is cut short in its compression",
            [
                call_with(1, LIST, &[("grpc-encoding", "gzip")]).as_slice(),
                &is_compressed,
            ]
            .concat(),
        ),
        ("a message longer than it says", with(&is_longer_than_it_says)),
        ("a message of four gibibytes", with(&says_four_gibibytes)),
        ("a message that is no protobuf", with(&message(1, &[0xff; 64]))),
    ] {
        let mut connection = Connection::open(address, 65_535).await.unwrap();
        // The server may close before it has read everything.
        connection.send(&bytes).await.ok();
        attacked
            .withstands(async {
                let ping = connection.send(&frame(PING, 0, 0, &[9; 8])).await;
                let answered = async {
                    while let Ok((kind, payload)) = connection.read().await {
                        if kind == PING && payload == [9; 8] {
                            break;
                        }
                    }
                };
                let answered = timeout(PATIENCE, answered).await;
                assert!(
                    ping.is_err() || answered.is_ok(),
                    "{what}: neither answered nor closed"
                );
            })
            .await;
    }
}
