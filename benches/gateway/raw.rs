//! Publishes of one's own: what the gateway would publish, body and headers alike, acknowledged by JetStream.

use std::sync::Arc;

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, push},
    message::PublishMessage,
    stream::Stream,
};
use futures_util::{StreamExt, TryStreamExt};
use lattice_gateway::{
    domain::LatticeName,
    store::{
        evidence::{self, Applied, Evidence, NO_ENTRY, Past, Stamp},
        layout::cache_stream,
    },
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    Failure,
    drive::Work,
    things::{Link, unique},
};

/// A publisher to one lattice's stream, which it makes as hosts do.
#[derive(Debug)]
pub(crate) struct Raw {
    context: jetstream::Context,
    stream: Stream,
    stream_name: String,
    subject_prefix: String,
    /// By how many writes the entry has seen.
    evidence: Vec<String>,
}

impl Raw {
    pub(crate) async fn connect(url: &str, lattice: &str) -> Result<Arc<Self>, Failure> {
        let context = jetstream::new(async_nats::connect(url).await?);
        let lattice = LatticeName::parse(lattice).map_err(|invalid| invalid.to_string())?;
        let config = cache_stream::stream_config(&lattice, "memory");
        let stream = context
            .get_or_create_stream(serde_json::from_value::<jetstream::stream::Config>(config)?)
            .await?;
        Ok(Arc::new(Self {
            context,
            stream,
            stream_name: cache_stream::stream_name(&lattice),
            subject_prefix: cache_stream::subject_prefix(&lattice),
            evidence: (0..=evidence::RING_MAX).map(evidence_after).collect(),
        }))
    }

    /// How many consumers gateways have on the stream.
    pub(crate) async fn consumers_of_gateways(&self) -> Result<usize, Failure> {
        let names = self.stream.consumer_names().try_collect::<Vec<_>>().await?;
        Ok(names
            .iter()
            .filter(|name| name.starts_with("lattice-gateway"))
            .count())
    }

    pub(crate) fn puts(self: &Arc<Self>, links: Vec<Link>) -> Vec<Put> {
        let put = |link| Put {
            raw: Arc::clone(self),
            link,
            sequence: 0,
        };
        links.into_iter().map(put).collect()
    }
}

/// A link that is published again and again.
#[derive(Debug)]
pub(crate) struct Put {
    raw: Arc<Raw>,
    link: Link,
    /// Where it was published last.
    pub(crate) sequence: u64,
}

impl Work for Put {
    async fn once(&mut self) -> Result<(), Failure> {
        let raw = &self.raw;
        let evidence = raw.evidence.get(self.link.writes.min(evidence::RING_MAX));
        let message = PublishMessage::build()
            .message_id(format!("lg1-{:022}", unique()))
            .expected_last_subject_sequence(self.sequence)
            .expected_stream(&raw.stream_name)
            .header(evidence::HEADER, evidence.map(String::as_str).unwrap_or_default())
            .payload(self.link.body.clone());
        let subject = format!("{}{}", raw.subject_prefix, self.link.home);
        let acknowledged = raw.context.send_publish(subject, message).await?.await?;
        self.sequence = acknowledged.sequence;
        self.link.writes += 1;
        Ok(())
    }
}

/// A push consumer over a connection of its own, as a gateway's mirror has one: it reads what is stored, and tells
/// the sequence of each message and when it came.
pub(crate) struct Consumer {
    pub(crate) deliveries: mpsc::UnboundedReceiver<(u64, Instant)>,
    /// Ends with this value.
    _reading: JoinSet<()>,
}

impl Consumer {
    pub(crate) async fn attach(url: &str, raw: &Raw) -> Result<Self, Failure> {
        let client = async_nats::connect(url).await?;
        let inbox = client.new_inbox();
        let context = jetstream::new(client);
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::New,
            ack_policy: jetstream::consumer::AckPolicy::None,
            filter_subject: format!("{}>", raw.subject_prefix),
            flow_control: true,
            idle_heartbeat: std::time::Duration::from_millis(500),
            memory_storage: true,
            ..push::Config::default()
        };
        let consumer = context
            .create_consumer_on_stream(config, &raw.stream_name)
            .await?;
        let mut messages = consumer.messages().await?;
        let (sender, deliveries) = mpsc::unbounded_channel();
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let Ok(info) = message.info() else { continue };
                if sender.send((info.stream_sequence, Instant::now())).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            deliveries,
            _reading: reading,
        })
    }

    /// Reads on and forgets what came.
    pub(crate) fn only_read(mut self) -> JoinSet<()> {
        let mut forgetting = JoinSet::new();
        forgetting.spawn(async move { while self.deliveries.recv().await.is_some() {} });
        forgetting
    }
}

/// The evidence of a value that so many writes came before, some seconds apart.
fn evidence_after(writes: usize) -> String {
    const MINUTES_SINCE_1970: i64 = 29_000_000;
    let stamp = |name: u64| Stamp {
        id: name.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(),
        fingerprint: name.wrapping_mul(0xC2B2_AE3D_27D4_EB4F).to_be_bytes(),
        generated: false,
        entry: NO_ENTRY,
    };
    let past = (1_u32..).take(writes).fold(Past::default(), |past, write| {
        past.with(Applied {
            stamp: stamp(write.into()),
            sequence: u64::from(write) * 2_000,
            unix_millis: MINUTES_SINCE_1970 * 60_000 + i64::from(write) * 500,
        })
    });
    Evidence {
        own: stamp(99),
        others: Vec::new(),
        past,
        began: false,
    }
    .encode()
}
