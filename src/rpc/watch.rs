//! `WatchService`.
//!
//! Served by hand, since the generated server encodes and copies each message for each client: here a message that many
//! watches are told is [`Bytes`], written once and sent as it is.

use std::{convert::Infallible, mem, task, time::Duration};

use bytes::{BufMut, Bytes};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::unfold};
use http::header::CONTENT_TYPE;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tonic::{
    Request, Status, Streaming,
    body::Body,
    codec::Codec,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};
use tower::Service;

use super::{
    Call, Gateway, MESSAGE_BYTES_MAX, REQUEST_ENCODING,
    convert::{self, finish},
    status::Failure,
};
use crate::{
    auth::{self, limits},
    codec::SmallCodec,
    control::{
        ControlError,
        page::Filter,
        watch::{Anew, Change, Event, Selection, Watch},
    },
    domain::{EntryKey, Invalid, Kind, LatticeName, Violations},
    proto::{
        self, EntryIdentity, EntryKind, ResyncReason, WatchRequest, WatchResponse,
        entry_identity::Identity,
        watch_response::{self, Bookmark, Changes, Resync, Snapshot, SnapshotComplete, change},
    },
    store::mirror::Standing,
    telemetry,
};

/// Filters of a watch, at most.
const FILTERS_MAX: usize = 64;
/// How often it is looked whether a watch may go on.
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// After so long without a message there is a bookmark, at the next check.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct WatchServer {
    gateway: Gateway,
}

impl WatchServer {
    /// Over this gateway.
    pub(super) fn new(gateway: Gateway) -> Self {
        Self { gateway }
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = "lattice.control.v1.WatchService";
}

impl Service<http::Request<Body>> for WatchServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let gateway = self.gateway.clone();
        async move { Ok(serve(gateway, request).await.unwrap_or_else(Status::into_http)) }.boxed()
    }
}

async fn serve(gateway: Gateway, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    if !request.uri().path().ends_with("/Watch") {
        return Err(Status::unimplemented("no such method"));
    }
    let request = read(request).await?;
    let call = Call::of(&request);
    let session = Session::begin(gateway, call.clone(), request.into_inner())
        .await
        .map_err(|failure| failure.into_status(&call))?;
    let frames = session.messages().map(|told| Ok::<_, Infallible>(frame(told)));
    let mut response = http::Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(response)
}

async fn read(request: http::Request<Body>) -> Result<Request<WatchRequest>, Status> {
    let (parts, body) = request.into_parts();
    let decoder = SmallCodec::<WatchRequest, WatchRequest>::default().decoder();
    let is_compressed = parts
        .headers
        .get("grpc-encoding")
        .is_some_and(|encoding| encoding == "gzip");
    let encoding = is_compressed.then_some(REQUEST_ENCODING);
    let mut messages = Streaming::new_request(decoder, body, encoding, Some(MESSAGE_BYTES_MAX));
    // Without a message it lacks what an empty one lacks.
    let message = messages.message().await?.unwrap_or_default();
    let metadata = MetadataMap::from_headers(parts.headers);
    Ok(Request::from_parts(metadata, parts.extensions, message))
}

/// A message as it was written, or the end.
fn frame(told: Result<Bytes, Status>) -> Frame<Bytes> {
    match told {
        Ok(message) => Frame::data(message),
        Err(status) => {
            let mut trailers = mem::take(status.into_http::<()>().headers_mut());
            trailers.remove(CONTENT_TYPE);
            Frame::trailers(trailers)
        }
    }
}

/// A watch, for as long as its client and its caller's grant last.
#[derive(Debug)]
struct Session {
    gateway: Gateway,
    call: Call,
    lattice: LatticeName,
    watch: Watch,
    /// When it is looked next whether the watch may go on.
    check_due: Instant,
    last_told: Instant,
    /// Whether the client was told where it can go on elsewhere.
    is_last: bool,
    _places: Places,
}

/// The places that a watch takes, of its caller's and of the server's, and its count.
type Places = (limits::UnderWay, OwnedSemaphorePermit, telemetry::UnderWay);

impl Session {
    async fn begin(gateway: Gateway, call: Call, request: WatchRequest) -> Result<Box<Self>, Failure> {
        let mut violations = Violations::new();
        let lattice = convert::lattice(&request.lattice, &mut violations);
        let selection = selection(&request, &mut violations);
        let (lattice, selection) = finish(lattice.zip(selection), violations)?;
        let grant = gateway.grant::<auth::Watch>(&call, &lattice)?;
        let places = gateway.places(&call)?;
        let watch = gateway
            .control
            .watch(&grant, selection, &request.resume_token, write, call.deadline)
            .await?;
        let now = Instant::now();
        Ok(Box::new(Self {
            gateway,
            call,
            lattice,
            watch,
            check_due: now + CHECK_INTERVAL,
            last_told: now,
            is_last: false,
            _places: places,
        }))
    }

    /// All that the client is told; an error is the last.
    fn messages(self: Box<Self>) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        unfold(Some(self), async |session| {
            let mut session = session?;
            match session.next().await {
                Ok(message) => Some((Ok(message), Some(session))),
                Err(error) => {
                    if matches!(error, ControlError::WatchLagged { .. }) {
                        session.gateway.admission.metrics.watch_lagged();
                    }
                    Some((Err(Failure::from(error).into_status(&session.call)), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Bytes, ControlError> {
        loop {
            let now = Instant::now();
            if now >= self.check_due {
                self.check_due = now + CHECK_INTERVAL;
                // Seldom, and large: thousands of watches would each hold room for it.
                Box::pin(self.check()).await?;
                if self.watch.is_following()
                    && now.duration_since(self.last_told) >= QUIET_MAX
                    && let Some(message) = self.watch.sign_of_life()?
                {
                    self.last_told = now;
                    return Ok(message);
                }
            }
            tokio::select! {
                biased;
                () = self.gateway.admission.leaving(&self.call).cancelled() => return self.say_goodbye(),
                message = self.watch.next() => {
                    self.last_told = Instant::now();
                    return message;
                }
                () = sleep_until(self.check_due) => {}
            }
        }
    }

    /// Ends the watch where its caller may no longer have it.
    async fn check(&mut self) -> Result<(), ControlError> {
        let Gateway {
            admission, policy, ..
        } = &self.gateway;
        let access = admission.still(&self.call)?;
        let grant = policy.grant(&access, &self.lattice)?;
        self.watch.renew(&grant).await
    }

    /// Where the client can go on, where that is known, and then the end.
    fn say_goodbye(&mut self) -> Result<Bytes, ControlError> {
        if !self.is_last && self.watch.is_following() {
            self.is_last = true;
            if let Some(message) = self.watch.sign_of_life()? {
                return Ok(message);
            }
        }
        Err(ControlError::Leaving)
    }
}

impl Gateway {
    /// Takes the places of a watch, until what this gives is dropped.
    fn places(&self, call: &Call) -> Result<Places, ControlError> {
        let load = call.authenticated.access.load();
        let of_caller = load.watch().map_err(ControlError::of_load)?;
        let of_server = self.admission.watches.clone().try_acquire_owned();
        let of_server = of_server.map_err(|_full| ControlError::Overloaded)?;
        Ok((of_caller, of_server, self.admission.metrics.watching()))
    }
}

/// Parses what a watch wants.
fn selection(request: &WatchRequest, violations: &mut Violations) -> Option<Selection> {
    let before = violations.iter().count();
    let mut kinds = std::collections::BTreeSet::new();
    for (index, kind) in request.kinds.iter().enumerate() {
        let parsed = EntryKind::try_from(*kind).ok().and_then(of_api);
        kinds.extend(violations.check(
            &format!("kinds[{index}]"),
            parsed.ok_or(Invalid::Rule("must be a kind of entries")),
        ));
    }
    if request.filters.len() > FILTERS_MAX {
        violations.add(
            "filters",
            Invalid::TooLong {
                limit: "watch_filters_max",
                max: FILTERS_MAX,
                actual: request.filters.len(),
            },
        );
    }
    let mut filters = Vec::new();
    for (index, identity) in request.filters.iter().take(FILTERS_MAX).enumerate() {
        let parsed = match filter(identity) {
            None => Err(Invalid::Missing),
            Some(filter) if !kinds.is_empty() && !kinds.contains(&filter.kind()) => {
                Err(Invalid::Rule("is of a kind that is not among the kinds"))
            }
            Some(filter) => Ok(filter),
        };
        filters.extend(violations.check(&format!("filters[{index}]"), parsed));
    }
    (violations.iter().count() == before).then(|| Selection::new(kinds, filters))
}

fn of_api(kind: EntryKind) -> Option<Kind> {
    match kind {
        EntryKind::Unspecified => None,
        EntryKind::Claims => Some(Kind::Claims),
        EntryKind::LinkDefinition => Some(Kind::LinkDefinition),
        EntryKind::InterfaceLink => Some(Kind::InterfaceLink),
        EntryKind::OciReference => Some(Kind::OciReference),
        EntryKind::NamedConfig => Some(Kind::Config),
    }
}

/// Wants what agrees with an identity in every field that is not empty; `None` for no kind.
fn filter(identity: &EntryIdentity) -> Option<Filter> {
    Some(match identity.identity.as_ref()? {
        Identity::Claims(id) => Filter::new(Kind::Claims, &[&id.public_key]),
        Identity::LinkDefinition(id) => Filter::new(
            Kind::LinkDefinition,
            &[&id.actor_id, &id.contract_id, &id.link_name],
        ),
        Identity::InterfaceLink(id) => Filter::new(
            Kind::InterfaceLink,
            &[
                &id.source_id,
                &id.name,
                &id.wit_namespace,
                &id.wit_package,
                &id.target,
            ],
        ),
        Identity::OciReference(id) => Filter::new(Kind::OciReference, &[&id.oci_url]),
        Identity::NamedConfig(id) => Filter::new(Kind::Config, &[&id.name]),
    })
}

/// Writes an event as a `WatchResponse`, behind the prefix that gRPC has before each message.
fn write(event: &Event<'_>, reads_values: bool) -> Bytes {
    use watch_response::Event as Told;
    let told = match event {
        Event::Snapshot(entries) => Told::Snapshot(Snapshot {
            entries: entries
                .iter()
                .filter_map(|(key, standing)| entry(key, standing, reads_values))
                .collect(),
        }),
        Event::SnapshotComplete => Told::SnapshotComplete(SnapshotComplete {}),
        Event::Changes {
            changes,
            revision,
            is_partial,
            resume_token,
        } => Told::Changes(Changes {
            changes: changes
                .iter()
                .filter_map(|change| write_change(change, reads_values))
                .collect(),
            revision: Some(convert::revision(*revision)),
            resume_token: resume_token.clone(),
            is_partial: *is_partial,
        }),
        Event::Bookmark {
            revisions,
            resume_token,
            is_stale,
        } => Told::Bookmark(Bookmark {
            revisions: revisions.iter().copied().map(convert::revision).collect(),
            resume_token: resume_token.clone(),
            is_stale: *is_stale,
        }),
        Event::Anew(why) => Told::Resync(Resync {
            reason: reason(*why).into(),
        }),
    };
    prefixed(&WatchResponse { event: Some(told) })
}

fn prefixed(message: &impl Message) -> Bytes {
    const PREFIX_BYTES: usize = 5;
    const NOT_COMPRESSED: u8 = 0;
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(NOT_COMPRESSED);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.extend(message.encode_to_vec());
    framed.into()
}

fn reason(why: Anew) -> ResyncReason {
    match why {
        Anew::TokenForeign => ResyncReason::TokenForeign,
        Anew::TokenExpired => ResyncReason::TokenExpired,
        Anew::StreamReset => ResyncReason::StreamReset,
        Anew::LayoutChanged => ResyncReason::LayoutChanged,
        Anew::GrantChanged => ResyncReason::GrantChanged,
    }
}

fn write_change((key, standing): &Change, reads_values: bool) -> Option<watch_response::Change> {
    let change = match standing {
        Some(standing) => change::Change::Put(entry(key, standing, reads_values)?),
        None => change::Change::Delete(EntryIdentity {
            identity: Some(identity(key)?),
        }),
    };
    Some(watch_response::Change { change: Some(change) })
}

/// Writes an entry; `None` for a record, which is none of the API's.
fn entry(key: &EntryKey, standing: &Standing, reads_values: bool) -> Option<proto::Entry> {
    use proto::entry::Entry;
    let entry = match key.kind() {
        Kind::Claims => Entry::Claims(convert::standing_as(key, standing, convert::claims)?),
        Kind::LinkDefinition => {
            let link = convert::link_seen(reads_values);
            Entry::LinkDefinition(convert::standing_as(key, standing, link)?)
        }
        Kind::OciReference => {
            Entry::OciReference(convert::standing_as(key, standing, convert::oci_reference)?)
        }
        Kind::InterfaceLink => {
            Entry::InterfaceLink(convert::standing_as(key, standing, convert::interface_link)?)
        }
        Kind::Config => {
            let config = convert::config_seen(reads_values);
            Entry::NamedConfig(convert::standing_as(key, standing, config)?)
        }
        Kind::Component => return None,
    };
    Some(proto::Entry { entry: Some(entry) })
}

/// Writes what identifies an entry; `None` for a record.
fn identity(key: &EntryKey) -> Option<Identity> {
    Some(match key {
        EntryKey::Claims(key) => Identity::Claims(proto::ClaimsIdentity {
            public_key: key.to_string(),
        }),
        EntryKey::LinkDefinition(id) => Identity::LinkDefinition(proto::LinkDefinitionIdentity {
            actor_id: id.actor_id.to_string(),
            contract_id: id.contract_id.to_string(),
            link_name: id.link_name.to_string(),
        }),
        EntryKey::InterfaceLink(id) => Identity::InterfaceLink(proto::InterfaceLinkIdentity {
            source_id: id.source_id.to_string(),
            name: id.name.to_string(),
            wit_namespace: id.wit_namespace.to_string(),
            wit_package: id.wit_package.to_string(),
            target: id.target.to_string(),
        }),
        EntryKey::OciReference(url) => Identity::OciReference(proto::OciReferenceIdentity {
            oci_url: url.to_string(),
        }),
        EntryKey::Config(name) => Identity::NamedConfig(proto::NamedConfigIdentity {
            name: name.to_string(),
        }),
        EntryKey::Component(_) => return None,
    })
}
