//! Three gateways before three nats-servers, all processes of their own: restarted one after the other under load, and one
//! of each lost at once.

mod load;

use serde_json::{Value, json};

use self::load::Load;
use crate::harness::{Nats, port, process::Process, until};

const STREAM_INFO: &str = "STREAM.INFO.LATTICECACHE_default";
/// The shortest that nats-server takes; it closes a client a second, so that the few here have gone long before.
const LAME_DUCK: &str = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"";

struct Cluster {
    nodes: [Nats; 3],
    gateways: Vec<Process>,
}

impl Cluster {
    async fn start() -> Self {
        let nodes = Nats::start_cluster_with(LAME_DUCK).await;
        let replicated = json!({"num_replicas": 3, "storage": "file"});
        nodes[0].create_stream("default", replicated).await;
        let urls = nodes.each_ref().map(Nats::url).join(",");
        let gateway = |()| Process::at(&urls, ([127, 0, 0, 1], port::free()).into());
        let gateways = [(); 3].map(gateway).into();
        let cluster = Self { nodes, gateways };
        cluster.is_whole().await;
        cluster
    }

    /// Waits until every replica has all that the stream holds: a restart of another node sooner could take the majority
    /// away. `nats-server`'s `/healthz` tells operators the same.
    async fn is_whole(&self) {
        until("every replica is current", async || {
            let info = self.nodes[0].api(STREAM_INFO, Value::Null).await;
            let replicas = info["cluster"]["replicas"].as_array()?;
            let are_current = replicas
                .iter()
                .all(|replica| replica["current"] == true && replica["offline"] != true);
            (info["cluster"]["leader"].is_string() && replicas.len() == 2 && are_current).then_some(())
        })
        .await;
    }

    async fn leader(&self) -> usize {
        let leader = self.nodes[0].api(STREAM_INFO, Value::Null).await["cluster"]["leader"].clone();
        let place = self.nodes.iter().position(|node| leader == node.name());
        place.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restarts_of_gateways_and_nodes_fail_no_call_of_a_retrying_client() {
    let mut cluster = Cluster::start().await;
    let load = Load::begin(&cluster.gateways).await;

    for place in 0..3 {
        assert!(cluster.gateways[place].down("TERM").success());
        load.goes_on("a gateway is down").await;
        cluster.gateways[place].up();
        load.goes_on("a gateway is back").await;
    }
    let told = load.tell("three gateways restarted");
    assert!(
        !told.was_cut_off(),
        "who starts takes no call before it can answer one: {told:?}"
    );
    for place in 0..3 {
        // As an operator would: one drains its clients, the others are just told to stop.
        match place {
            0 => cluster.nodes[place].lame_duck().await,
            _ => cluster.nodes[place].down("TERM"),
        }
        load.goes_on("a node is down").await;
        cluster.nodes[place].up().await;
        cluster.is_whole().await;
        load.goes_on("a node is back").await;
    }
    load.tell("three nodes restarted");
    load.end(&cluster.gateways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_a_gateway_lost_at_once_take_no_acknowledged_write_along() {
    let mut cluster = Cluster::start().await;
    let load = Load::begin(&cluster.gateways).await;
    // The one that hurts most.
    let leader = cluster.leader().await;
    cluster.nodes[leader].down("KILL");
    cluster.gateways[0].down("KILL");
    load.goes_on("both are down").await;
    load.tell("a node and a gateway killed");
    cluster.nodes[leader].up().await;
    cluster.gateways[0].up();
    cluster.is_whole().await;
    load.goes_on("both are back").await;
    load.end(&cluster.gateways).await;
}
