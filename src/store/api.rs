//! The JetStream API calls that the gateway makes, as plain requests.
//!
//! Not through async-nats' JetStream context: configurations must be sent and compared as hosts and servers
//! write them, byte for byte and with every member, and the stream's clock (`ts`) is needed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    connection::{Connection, RequestFailed},
    consumers::Consumer,
};
use crate::domain::{Epoch, Revision};

/// How long one API call may take.
pub const API_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked while a leader is elected is never answered: so it is asked again, beside the first time.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The stream that there never is: what would be refused to it would be refused to any.
pub const REHEARSED: &str = "lattice-gateway-rehearsal";

/// Subjects that a server lists at a time.
const SUBJECTS_PAGE: usize = 100_000;

/// Error codes of JetStream (`err_code`) that are told apart.
pub mod code {
    /// No such stream.
    pub const STREAM_NOT_FOUND: u16 = 10059;
    /// JetStream is off for the account.
    pub const NOT_ENABLED_FOR_ACCOUNT: u16 = 10039;
    /// JetStream is off on the server.
    pub const NOT_ENABLED: u16 = 10076;
    /// No message at the sequence.
    pub const MESSAGE_NOT_FOUND: u16 = 10037;
    /// A delete of a message that is not there.
    pub const SEQUENCE_NOT_FOUND: u16 = 10043;
    /// No servers that fit, or none with room.
    pub const NO_SUITABLE_PEERS: u16 = 10005;
    /// A stream has this name, with another configuration.
    pub const NAME_IN_USE: u16 = 10058;
    /// Another stream takes one of the subjects.
    pub const SUBJECTS_OVERLAP: u16 = 10065;
    /// The configuration is refused, for a reason that only the words tell.
    pub const INVALID_CONFIG: u16 = 10052;
    /// Several replicas, and no cluster.
    pub const NOT_CLUSTERED: u16 = 10074;
    /// The account takes only streams with `max_bytes`.
    pub const MAX_BYTES_REQUIRED: u16 = 10113;
    /// The stream is being scaled or moved; so told before 2.15.
    pub const MOVE_IN_PROGRESS: u16 = 10124;
    /// The same, since 2.15.
    pub const RECONFIGURATION_IN_PROGRESS: u16 = 10226;
    /// The account takes only streams with less `max_bytes`.
    pub const MAX_BYTES_EXCEEDED: u16 = 10122;
    /// A request with a member that the server does not know, where it is strict.
    pub const INVALID_JSON: u16 = 10025;
}

/// Why an API call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No answer. `NoResponders` means that JetStream is off or has no leader.
    #[error("the JetStream API did not answer: {0:?}")]
    Request(RequestFailed),
    /// Nobody answers for the domain: the leaf nodes that it is behind are away, or it has another name.
    #[error("no server answers for the JetStream domain")]
    DomainAway,
    /// JetStream refused.
    #[error("JetStream refused: {description} ({err_code})")]
    Refused {
        /// JetStream's own code.
        err_code: u16,
        /// JetStream's words.
        description: String,
    },
    /// The answer cannot be read.
    #[error("JetStream's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Whether what was asked for may have happened all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Request(RequestFailed::Unknown))
    }

    /// Whether JetStream says that there is no such stream.
    pub fn is_stream_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                err_code: code::STREAM_NOT_FOUND,
                ..
            }
        )
    }
}

/// A stream as its leader describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamInfo {
    /// The configuration, with every member the server sent.
    pub config: Value,
    /// When this incarnation was created, as JetStream writes it.
    pub created: String,
    /// What it holds.
    pub state: StreamState,
    /// Where it is.
    #[serde(default)]
    cluster: ClusterInfo,
    /// The leader's clock at the answer, RFC 3339.
    #[serde(default)]
    pub ts: Option<String>,
}

/// Where a stream is.
#[derive(Clone, Debug, Default, Deserialize)]
struct ClusterInfo {
    /// The cluster; none where there is one server.
    name: Option<String>,
}

/// What a stream holds.
#[derive(Clone, Debug, Deserialize)]
pub struct StreamState {
    /// Subjects with a message; JetStream leaves it out where there are none.
    #[serde(default)]
    pub num_subjects: u64,
    /// The last sequence.
    pub last_seq: u64,
    /// Messages by subject, where asked for.
    #[serde(default)]
    pub subjects: Option<HashMap<String, u64>>,
}

/// What a stream's leader told, beside what was seen of the stream.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The description.
    pub info: StreamInfo,
    /// Whether it is of another incarnation of the stream than what was seen.
    pub is_other_story: bool,
}

/// For how long a leader that tells of less than was seen may have to apply its log yet.
pub const BEHIND_MAX: Duration = Duration::from_secs(1);

impl StreamInfo {
    /// Whether it has several replicas.
    fn is_replicated(&self) -> bool {
        let replicas = self.config.get("num_replicas").and_then(Value::as_u64);
        replicas.is_some_and(|replicas| replicas > 1)
    }

    /// Whether the servers that hold it are a cluster, so that it can have several replicas.
    pub fn is_clustered(&self) -> bool {
        self.cluster.name.is_some()
    }

    /// The incarnation of the stream.
    pub fn epoch(&self, name: &str) -> Epoch {
        Epoch::of_stream(name, &self.created)
    }

    /// The leader's clock at the answer, Unix milliseconds rounded down. Servers send it since 2.10.
    pub fn unix_millis(&self) -> Option<i64> {
        unix_millis(self.ts.as_deref()?)
    }

    /// For how long this incarnation has existed, by the leader's clock.
    pub fn age(&self) -> Option<Duration> {
        let age = self.unix_millis()?.saturating_sub(unix_millis(&self.created)?);
        Some(Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }
}

/// Of RFC 3339, rounded down.
fn unix_millis(text: &str) -> Option<i64> {
    let format = &time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, format).ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// A consumer as the server describes it. It runs on some replica of the stream, which may lag behind the leader.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ConsumerInfo {
    /// Messages that are still to be delivered, as far as that replica knows.
    pub num_pending: u64,
}

/// What the subjects of the API's calls begin with.
pub fn prefix(domain: Option<&str>) -> String {
    match domain {
        None => "$JS.API".to_owned(),
        Some(domain) => format!("$JS.{domain}.API"),
    }
}

/// The JetStream API over one connection.
#[derive(Clone, Debug)]
pub struct JetStream {
    connection: Connection,
    prefix: String,
    domain: Option<Box<str>>,
}

impl JetStream {
    /// The API of the connection's account, in a domain where one is named.
    pub fn new(connection: Connection, domain: Option<&str>) -> Self {
        Self {
            connection,
            prefix: prefix(domain),
            domain: domain.map(Into::into),
        }
    }

    /// The subject of a call.
    pub fn subject(&self, call: &str) -> String {
        format!("{}.{call}", self.prefix)
    }

    /// The API of another domain, over the same connection.
    #[must_use]
    pub fn in_domain(&self, domain: Option<&str>) -> Self {
        Self::new(self.connection.clone(), domain)
    }

    /// The domain, where one is named.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The connection that the calls go over.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Describes a stream.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, ApiError> {
        self.call(&format!("STREAM.INFO.{stream}"), None).await
    }

    /// Whether JetStream refuses requests with members that it does not know, as servers since 2.12 do unless they are
    /// told otherwise (`jetstream { strict: false }`). Found out by a question with such a member, which changes nothing.
    pub async fn is_strict(&self, stream: &str) -> Result<bool, ApiError> {
        let request = json!({"is_this_refused": true});
        let answer = self
            .call::<StreamInfo>(&format!("STREAM.INFO.{stream}"), Some(request))
            .await;
        match answer {
            Ok(_) => Ok(false),
            Err(ApiError::Refused {
                err_code: code::INVALID_JSON,
                ..
            }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Lists the subjects that a stream holds messages on, and the last sequence for which the list holds. `None` where
    /// the stream changed while a list of several pages was read.
    pub async fn stream_subjects(&self, stream: &str) -> Result<Option<(HashSet<String>, u64)>, ApiError> {
        let call = format!("STREAM.INFO.{stream}");
        let mut subjects = HashSet::new();
        let mut first = None;
        loop {
            let request = json!({"subjects_filter": ">", "offset": subjects.len()});
            let page: StreamInfo = self.call(&call, Some(request)).await?;
            let state = (page.state.num_subjects, page.state.last_seq);
            // The server answers 100,000 subjects at a time; between two pages what is removed shifts the rest.
            if *first.get_or_insert(state) != state {
                return Ok(None);
            }
            let listed = page.state.subjects.unwrap_or_default();
            if listed.is_empty() {
                return Ok(Some((subjects, state.1)));
            }
            subjects.extend(listed.into_keys());
            if subjects.len() < SUBJECTS_PAGE {
                return Ok(Some((subjects, state.1)));
            }
        }
    }

    /// Names all streams.
    pub async fn stream_names(&self) -> Result<Vec<String>, ApiError> {
        self.pages("STREAM.NAMES", |offset| json!({"offset": offset}))
            .await
    }

    /// Names the streams that take a subject, or some that a pattern matches.
    pub async fn streams_on(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        let request = |offset| json!({"offset": offset, "subject": subject});
        self.pages("STREAM.NAMES", request).await
    }

    /// Describes the consumers of a stream.
    pub async fn consumers(&self, stream: &str) -> Result<Vec<Consumer>, ApiError> {
        let call = format!("CONSUMER.LIST.{stream}");
        let told = self
            .pages::<Value>(&call, |offset| json!({"offset": offset}))
            .await?;
        Ok(told.iter().map(Consumer::read).collect())
    }

    /// Everything that a call lists, page by page.
    async fn pages<T: DeserializeOwned>(
        &self,
        call: &str,
        request: impl Fn(usize) -> Value,
    ) -> Result<Vec<T>, ApiError> {
        #[derive(Deserialize)]
        struct Page<T> {
            #[serde(alias = "streams", alias = "consumers")]
            listed: Option<Vec<T>>,
            total: usize,
        }
        let mut all = Vec::new();
        loop {
            let page: Page<T> = self.call(call, Some(request(all.len()))).await?;
            let listed = page.listed.unwrap_or_default();
            let is_last = listed.is_empty();
            all.extend(listed);
            if is_last || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// Creates a stream. An equal one that exists is a success, as it is to one who asks twice; JetStream refuses where another
    /// one does.
    pub async fn stream_create(&self, stream: &str, config: &Value) -> Result<(), ApiError> {
        self.call::<Value>(&format!("STREAM.CREATE.{stream}"), Some(config.clone()))
            .await
            .map(drop)
    }

    /// Gives a stream another configuration, which is all of it.
    pub async fn stream_update(&self, stream: &str, config: &Value) -> Result<(), ApiError> {
        self.call::<Value>(&format!("STREAM.UPDATE.{stream}"), Some(config.clone()))
            .await
            .map(drop)
    }

    /// Has JetStream judge a configuration, and nothing done: it does so before it looks for the stream that is to have it,
    /// and there is none of that name. Room, servers and other streams it does not look at.
    pub async fn rehearse(&self, config: &Value) -> Result<(), ApiError> {
        let mut config = config.clone();
        if let Value::Object(members) = &mut config {
            members.insert("name".to_owned(), REHEARSED.into());
        }
        match self.stream_update(REHEARSED, &config).await {
            Err(error) if error.is_stream_not_found() => Ok(()),
            judged => judged,
        }
    }

    /// Deletes a stream and all that it holds. `false` where it was no longer there.
    pub async fn stream_delete(&self, stream: &str) -> Result<bool, ApiError> {
        match self.call::<Value>(&format!("STREAM.DELETE.{stream}"), None).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_stream_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the body of one message; `None` where it is no longer there.
    pub async fn message_body(&self, stream: &str, sequence: u64) -> Result<Option<Bytes>, ApiError> {
        #[derive(Deserialize)]
        struct Answer {
            message: Stored,
        }
        #[derive(Deserialize)]
        struct Stored {
            #[serde(default)]
            data: String,
        }
        let request = json!({"seq": sequence});
        let answer = self
            .call::<Answer>(&format!("STREAM.MSG.GET.{stream}"), Some(request))
            .await;
        match answer {
            Ok(answer) => BASE64
                .decode(answer.message.data.as_bytes())
                .map(|body| Some(body.into()))
                .map_err(|error| ApiError::Unreadable(error.to_string())),
            Err(ApiError::Refused {
                err_code: code::MESSAGE_NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a subject of a bucket is published on, through the domain: `$JS.<domain>.API.$KV…`.
    pub fn bucket_subject(&self, subject: &str) -> String {
        match &self.domain {
            None => subject.to_owned(),
            Some(_) => format!("{}.{subject}", self.prefix),
        }
    }

    /// Removes one message. `false` where it was no longer there.
    pub async fn message_delete(&self, stream: &str, sequence: u64) -> Result<bool, ApiError> {
        let request = json!({"seq": sequence, "no_erase": true});
        match self
            .call::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), Some(request))
            .await
        {
            Ok(_) => Ok(true),
            Err(ApiError::Refused {
                err_code: code::MESSAGE_NOT_FOUND | code::SEQUENCE_NOT_FOUND,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the stream's leader has reached a sequence, and holds no message between another one and it.
    pub async fn holds_nothing_behind(
        &self,
        stream: &str,
        sequence: u64,
        up_to: u64,
    ) -> Result<bool, ApiError> {
        let request = json!({"seq": sequence + 1, "next_by_subj": ">"});
        let found = self
            .call::<Value>(&format!("STREAM.MSG.GET.{stream}"), Some(request))
            .await;
        match found {
            Ok(_) => Ok(false),
            // A leader that was elected just now may have to apply some messages yet.
            Err(ApiError::Refused {
                err_code: code::MESSAGE_NOT_FOUND,
                ..
            }) => Ok(self.stream_info(stream).await?.state.last_seq >= up_to),
            Err(error) => Err(error),
        }
    }

    /// Describes a stream of which something was seen, as its leader has it.
    ///
    /// A leader of a cluster that was elected just now tells of an earlier state until it has applied its log: it is asked
    /// again, for at most [`BEHIND_MAX`]. Who tells less after that tells of a stream that began anew.
    pub async fn stream_info_not_behind(
        &self,
        stream: &str,
        seen: impl Fn() -> Option<Revision>,
    ) -> Result<Looked, ApiError> {
        const PAUSE: Duration = Duration::from_millis(20);
        let began = Instant::now();
        loop {
            let seen = seen();
            let info = self.stream_info(stream).await?;
            let epoch = info.epoch(stream);
            let is_other_epoch = seen.is_some_and(|seen| seen.epoch != epoch);
            let is_behind = seen.is_some_and(|seen| seen.sequence > info.state.last_seq);
            let may_catch_up = is_behind && !is_other_epoch && info.is_replicated();
            if !may_catch_up || began.elapsed() >= BEHIND_MAX {
                return Ok(Looked {
                    info,
                    is_other_story: is_other_epoch || is_behind,
                });
            }
            sleep(PAUSE).await;
        }
    }

    /// Creates a named consumer.
    pub async fn consumer_create(
        &self,
        stream: &str,
        name: &str,
        config: &Value,
    ) -> Result<ConsumerInfo, ApiError> {
        let request = json!({"stream_name": stream, "config": config, "action": "create"});
        self.call(&format!("CONSUMER.CREATE.{stream}.{name}"), Some(request))
            .await
    }

    /// Deletes a consumer.
    pub async fn consumer_delete(&self, stream: &str, name: &str) -> Result<(), ApiError> {
        self.call::<Value>(&format!("CONSUMER.DELETE.{stream}.{name}"), None)
            .await
            .map(drop)
    }

    /// Asks until there is an answer. Every call of this API may be made twice: the second create of the same, and the
    /// second delete, are successes.
    async fn call<T: DeserializeOwned>(&self, call: &str, request: Option<Value>) -> Result<T, ApiError> {
        let payload = match request {
            None => Bytes::new(),
            Some(request) => request.to_string().into(),
        };
        let subject = self.subject(call);
        let ask = || {
            let payload = payload.clone();
            self.connection
                .request(&subject, HeaderMap::new(), payload, API_TIMEOUT)
        };
        let mut asked = FuturesUnordered::from_iter([ask()]);
        loop {
            tokio::select! {
                biased;
                Some(answer) = asked.next() => return read(&answer.map_err(|failed| self.failed(failed))?.payload),
                () = sleep(ASK_AGAIN) => asked.push(ask()),
            }
        }
    }

    fn failed(&self, failed: RequestFailed) -> ApiError {
        match (failed, &self.domain) {
            (RequestFailed::NoResponders, Some(_)) => ApiError::DomainAway,
            (failed, _) => ApiError::Request(failed),
        }
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<ErrorBody>,
    }
    let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
    if let Some(error) = serde_json::from_slice::<Failed>(answer)
        .map_err(unreadable)?
        .error
    {
        return Err(ApiError::Refused {
            err_code: error.err_code,
            description: error.description,
        });
    }
    serde_json::from_slice(answer).map_err(unreadable)
}

/// How JetStream words an error.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ErrorBody {
    /// JetStream's own code.
    #[serde(default)]
    pub err_code: u16,
    /// JetStream's words.
    #[serde(default)]
    pub description: String,
}
