//! One nats-server with two gateways on it, and what is written past them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_nats::HeaderMap;
use lattice_gateway::{
    config::Config,
    control::lattices::{LatticeSettings, Layout, Settings},
    domain::claims_token::TrustedIssuers,
    proto::{Consistency, GetLatticeRequest, Lattice, consistency::Requirement},
    store::layout::ClaimsForm,
};
use proptest::{
    strategy::Strategy,
    test_runner::{self, TestRunner},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    bucket_model::{self, Entry},
    harness::{Nats, TestGateway, gateway::told},
};

pub const DATA: &str = "LATTICEDATA_";
pub const CONFIGS: &str = "CONFIGDATA_";

/// Lattices whose names begin so get claims in long names.
pub const LONG: &str = "long-";

pub struct Stand {
    client: async_nats::Client,
    pub gateways: [TestGateway; 2],
    _nats: Nats,
}

/// What somebody writes without a gateway.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    pub operation: Marking,
    pub body: String,
}

/// What its headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    None,
    Delete,
    /// As OTP hosts purge.
    Purge,
    /// As everybody else does.
    PurgeWithRollup,
    /// An operation that nobody knows, and takes for a put.
    Unknown,
}

/// Plays what a strategy makes up, all on one stand.
pub fn check<S: Strategy>(layout: Layout, cases: u32, strategy: &S, play: impl AsyncFn(&Stand, S::Value)) {
    let runtime = Runtime::new().unwrap();
    let stand = runtime.block_on(Stand::start(layout));
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..test_runner::Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        runtime.block_on(play(&stand, value));
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

impl Stand {
    async fn start(layout: Layout) -> Self {
        let nats = Nats::start().await;
        let gateway = async || {
            let settings = |claims_form| {
                Arc::new(LatticeSettings {
                    trusted_issuers: TrustedIssuers::Any,
                    layout: Some(layout),
                    sweep: false,
                    effects: true,
                    settle: std::time::Duration::ZERO,
                    claims_form,
                    upstream: None,
                })
            };
            let mut config = Config::dev(nats.url(), None);
            config.lattices = Settings(vec![
                (format!("{LONG}*"), settings(ClaimsForm::Long)),
                ("*".to_owned(), settings(ClaimsForm::Short)),
            ]);
            TestGateway::with(config).await
        };
        Self {
            gateways: [gateway().await, gateway().await],
            client: nats.client().await,
            _nats: nats,
        }
    }

    /// Creates the buckets of a lattice as hosts do, and names it.
    pub async fn lattice(&self, prefix: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("{prefix}{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        for bucket in [DATA, CONFIGS] {
            let bucket = format!("{bucket}{name}");
            let config = json!({
                "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "retention": "limits",
                "max_consumers": -1, "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
                "max_msg_size": -1, "storage": "memory", "discard": "new", "num_replicas": 1,
                "duplicate_window": 120_000_000_000_u64, "allow_direct": true, "allow_rollup_hdrs": true,
                "deny_delete": true, "deny_purge": false,
            });
            let call = format!("$JS.API.STREAM.CREATE.KV_{bucket}");
            let answer = self.request(&call, config.to_string()).await;
            assert_eq!(answer["error"], Value::Null, "{answer}");
        }
        name
    }

    /// Removes a lattice, so that no gateway follows it any longer.
    pub async fn remove(&self, lattice: &str) {
        for bucket in [DATA, CONFIGS] {
            let call = format!("$JS.API.STREAM.DELETE.KV_{bucket}{lattice}");
            let answer = self.request(&call, String::new()).await;
            assert_eq!(answer["success"], true, "{answer}");
        }
    }

    /// Publishes as hosts and clients do, and waits until it is stored.
    pub async fn write(&self, bucket: &str, write: &Write) {
        let mut headers = HeaderMap::new();
        match write.operation {
            Marking::None => {}
            Marking::Delete => headers.insert("KV-Operation", "DEL"),
            Marking::Purge => headers.insert("KV-Operation", "PURGE"),
            Marking::PurgeWithRollup => {
                headers.insert("KV-Operation", "PURGE");
                headers.insert("Nats-Rollup", "sub");
            }
            Marking::Unknown => headers.insert("KV-Operation", "OTHER"),
        }
        let subject = format!("$KV.{bucket}.{}", write.key);
        let body = write.body.clone().into();
        let answer = self.client.request_with_headers(subject, headers, body);
        let acknowledged = serde_json::from_slice::<Value>(&answer.await.unwrap().payload).unwrap();
        assert!(acknowledged["seq"].is_u64(), "{write:?}: {acknowledged}");
    }

    /// The last message of every key.
    pub async fn entries(&self, bucket: &str) -> Vec<Entry> {
        let call = format!("$JS.API.STREAM.MSG.GET.KV_{bucket}");
        bucket_model::entries(bucket, async |request| {
            self.request(&call, request.to_string()).await
        })
        .await
    }

    async fn request(&self, subject: &str, body: String) -> Value {
        let answer = self.client.request(subject.to_owned(), body.into()).await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    }
}

pub fn fully_consistent() -> Consistency {
    Consistency {
        requirement: Some(Requirement::FullyConsistent(true)),
    }
}

/// Lists all entries of a kind, fully consistent, in pages of two.
macro_rules! list_all {
    ($client:expr, $call:ident, $request:ident, $entries:ident, $lattice:expr, $of:expr) => {{
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = lattice_gateway::proto::$request {
                lattice: $lattice.to_owned(),
                consistency: Some(crate::buckets::stand::fully_consistent()),
                page_size: 2,
                page_token,
                ..lattice_gateway::proto::$request::default()
            };
            let page = crate::harness::gateway::told($client.$call(request).await).unwrap();
            entries.extend(page.$entries.into_iter().map($of));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break entries;
            }
        }
    }};
}
pub(super) use list_all;

/// Describes a lattice.
pub async fn describe(gateway: &TestGateway, lattice: &str) -> Lattice {
    let request = GetLatticeRequest {
        lattice: lattice.to_owned(),
    };
    let answer = told(gateway.lattices().get_lattice(request).await).unwrap();
    answer.lattice.expect("an answer has its lattice")
}

/// The malformed messages that a gateway tells of, by subject and sequence.
pub fn malformed(told: &Lattice) -> Vec<(String, u64)> {
    let listed = told.malformed.iter().map(|entry| {
        assert_ne!(entry.reason, "");
        (entry.subject.clone(), entry.sequence)
    });
    let mut listed = listed.collect::<Vec<_>>();
    listed.sort();
    assert_eq!(usize::try_from(told.malformed_count).unwrap(), listed.len());
    listed
}
