//! The buckets of hosts since 0.60, as they and others read and write them.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use super::{Nats, nats::StoredMessage};

/// One bucket of a lattice, looked at and written past the gateway.
pub struct Bucket {
    name: String,
    client: async_nats::Client,
}

impl Bucket {
    /// `LATTICEDATA_<lattice>`.
    pub async fn data(nats: &Nats, lattice: &str) -> Self {
        Self::named(nats, format!("LATTICEDATA_{lattice}")).await
    }

    /// `CONFIGDATA_<lattice>`.
    pub async fn configs(nats: &Nats, lattice: &str) -> Self {
        Self::named(nats, format!("CONFIGDATA_{lattice}")).await
    }

    async fn named(nats: &Nats, name: String) -> Self {
        let client = nats.client().await;
        Self { name, client }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// Writes a key as hosts do: without a look at what is there. Gives the sequence.
    pub async fn put(&self, key: &str, body: impl Into<String>) -> u64 {
        self.write(key, HeaderMap::new(), body.into()).await
    }

    async fn write(&self, key: &str, headers: HeaderMap, body: String) -> u64 {
        let subject = self.subject(key);
        let written = self.client.request_with_headers(subject, headers, body.into());
        let answer = serde_json::from_slice::<Value>(&written.await.unwrap().payload).unwrap();
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    }

    /// The last message of a key, a marker too.
    pub async fn last(&self, key: &str) -> Option<StoredMessage> {
        let request = json!({"last_by_subj": self.subject(key)}).to_string();
        let call = format!("$JS.API.STREAM.MSG.GET.KV_{}", self.name);
        let answer = self.client.request(call, request.into()).await.unwrap();
        StoredMessage::read(&serde_json::from_slice(&answer.payload).unwrap())
    }

    /// The value of a key, as JSON.
    pub async fn value(&self, key: &str) -> Value {
        let last = self.last(key).await;
        last.map_or(Value::Null, |last| {
            serde_json::from_str(&last.body).unwrap_or(Value::Null)
        })
    }
}
