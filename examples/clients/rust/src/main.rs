//! A link's life over the gateway: followed, put, put again as if the answer had been lost, refused, read, deleted.
//!
//! ```sh
//! ENDPOINT=http://127.0.0.1:7400 TOKEN=… LATTICE=default cargo run
//! ```

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use lattice_gateway::proto::{
    Consistency, DeleteLinkDefinitionRequest, EntryKind, GetLinkDefinitionRequest, LinkDefinition,
    ListLinkDefinitionsRequest, Outcome, PutLinkDefinitionRequest, PutLinkDefinitionResponse, WatchRequest,
    WatchResponse,
    consistency::Requirement,
    link_definition_service_client::LinkDefinitionServiceClient,
    watch_response::{Event, change::Change},
    watch_service_client::WatchServiceClient,
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use uuid::Uuid;

const ACTOR: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
const PROVIDER: &str = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N";
const CONTRACT: &str = "wasmcloud:keyvalue";

const NOT_APPLIED: [&str; 3] = ["BACKEND_UNAVAILABLE", "OVERLOADED", "SHUTTING_DOWN"];
/// No reason: the gateway did not answer. Then it may have been applied, whatever the code is.
const MAY_BE_APPLIED: [&str; 2] = ["OUTCOME_UNKNOWN", ""];
const ATTEMPT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error>;
type Links = LinkDefinitionServiceClient<InterceptedService<Channel, Bearer>>;

/// Shows the token in every call.
#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let endpoint = env::var("ENDPOINT").unwrap_or_else(|_| "http://127.0.0.1:7400".to_owned());
    let token = env::var("TOKEN").unwrap_or_default();
    let lattice = env::var("LATTICE").unwrap_or_else(|_| "default".to_owned());
    // For `https://`, tonic's feature `tls-ring` and a `tls_config` with whom to trust.
    let channel = Endpoint::from_shared(endpoint)?.connect().await?;
    let bearer = Bearer(format!("Bearer {token}").parse()?);
    let mut links = LinkDefinitionServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let mut watcher = WatchServiceClient::with_interceptor(channel, bearer);

    let request = WatchRequest {
        lattice: lattice.clone(),
        kinds: vec![EntryKind::LinkDefinition.into()],
        ..WatchRequest::default()
    };
    let mut watch = watcher.watch(request).await?.into_inner();
    read_until(&mut watch, |event| matches!(event, Event::SnapshotComplete(_))).await?;
    println!("watching: what stood before is told");

    let link = LinkDefinition {
        actor_id: ACTOR.to_owned(),
        provider_id: PROVIDER.to_owned(),
        contract_id: CONTRACT.to_owned(),
        values: [("url".to_owned(), "redis://127.0.0.1".to_owned())].into(),
        ..LinkDefinition::default()
    };
    let mut put = PutLinkDefinitionRequest {
        lattice: lattice.clone(),
        link_definition: Some(link.clone()),
        request_id: Uuid::new_v4().to_string(),
        ..PutLinkDefinitionRequest::default()
    };
    let first = Instant::now();
    let written = patiently(&mut links, &mut put).await?.result.unwrap_or_default();
    expect(written.outcome(), Outcome::Applied)?;
    let revision = written.revision.ok_or("a write without a revision")?;
    println!(
        "put: {} at {}",
        written.outcome().as_str_name(),
        revision.sequence
    );

    // As if the answer had not come: the same id, and for how long it has been under way.
    put.retry_age = Some(first.elapsed().try_into()?);
    let again = links
        .put_link_definition(put)
        .await?
        .into_inner()
        .result
        .unwrap_or_default();
    expect(again.outcome(), Outcome::AlreadyApplied)?;
    println!(
        "put again: {}, nothing is written twice",
        again.outcome().as_str_name()
    );

    let wrong = PutLinkDefinitionRequest {
        lattice: lattice.clone(),
        link_definition: Some(LinkDefinition {
            provider_id: ACTOR.to_owned(),
            ..link
        }),
        ..PutLinkDefinitionRequest::default()
    };
    let refused = links
        .put_link_definition(wrong)
        .await
        .err()
        .ok_or("an actor was taken for a provider")?;
    expect(reason(&refused).as_str(), "INVALID_FIELD")?;
    let Some(bad) = refused.get_details_bad_request() else {
        return Err("a refusal without the fields".into());
    };
    let [violation] = &bad.field_violations[..] else {
        return Err(format!("the gateway told {bad:?}, not one violation").into());
    };
    expect(violation.field.as_str(), "link_definition.provider_id")?;
    println!(
        "refused: {}: {}: {}",
        reason(&refused),
        violation.field,
        violation.description
    );

    // Reads the own write, on any gateway.
    let consistency = Some(Consistency {
        requirement: Some(Requirement::AtLeastAsFresh(revision)),
    });
    let get = GetLinkDefinitionRequest {
        lattice: lattice.clone(),
        actor_id: Some(ACTOR.to_owned()),
        contract_id: Some(CONTRACT.to_owned()),
        consistency: consistency.clone(),
        ..GetLinkDefinitionRequest::default()
    };
    let got = links.get_link_definition(get).await?.into_inner();
    expect(
        got.link_definition.unwrap_or_default().provider_id.as_str(),
        PROVIDER,
    )?;
    let list = ListLinkDefinitionsRequest {
        lattice: lattice.clone(),
        consistency,
        ..ListLinkDefinitionsRequest::default()
    };
    let listed = links
        .list_link_definitions(list)
        .await?
        .into_inner()
        .link_definitions;
    expect(listed.len(), 1)?;
    println!("listed: {} link", listed.len());

    read_until(&mut watch, |event| {
        has_change(event, |change| matches!(change, Change::Put(_)))
    })
    .await?;
    println!("watched: the put");
    let delete = DeleteLinkDefinitionRequest {
        lattice,
        actor_id: Some(ACTOR.to_owned()),
        contract_id: Some(CONTRACT.to_owned()),
        request_id: Uuid::new_v4().to_string(),
        ..DeleteLinkDefinitionRequest::default()
    };
    let deleted = links.delete_link_definition(delete).await?.into_inner();
    expect(deleted.result.unwrap_or_default().outcome(), Outcome::Applied)?;
    read_until(&mut watch, |event| {
        has_change(event, |change| matches!(change, Change::Delete(_)))
    })
    .await?;
    println!("watched: the delete");
    Ok(())
}

/// Calls until there is an answer. A request that may have been applied goes on with its `retry_age`.
async fn patiently(
    links: &mut Links,
    put: &mut PutLinkDefinitionRequest,
) -> Result<PutLinkDefinitionResponse, Failure> {
    let first = Instant::now();
    let mut doubtful_since = None;
    loop {
        let sent = Instant::now();
        if let Some(since) = doubtful_since {
            put.retry_age = Some(sent.duration_since(since).try_into()?);
        }
        let mut attempt = Request::new(put.clone());
        attempt.set_timeout(ATTEMPT);
        let refused = match links.put_link_definition(attempt).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(refused) => refused,
        };
        let why = reason(&refused);
        if MAY_BE_APPLIED.contains(&why.as_str()) {
            doubtful_since.get_or_insert(sent);
        } else if !NOT_APPLIED.contains(&why.as_str()) {
            return Err(refused.into());
        }
        if first.elapsed() > PATIENCE {
            return Err(refused.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The reason for programs; none where it was not the gateway that answered.
fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

/// Reads on until an event is as wanted.
async fn read_until(
    watch: &mut Streaming<WatchResponse>,
    is_wanted: impl Fn(&Event) -> bool,
) -> Result<(), Failure> {
    while let Some(message) = watch.message().await? {
        if message.event.as_ref().is_some_and(&is_wanted) {
            return Ok(());
        }
    }
    Err("the watch ended".into())
}

fn has_change(event: &Event, is_wanted: impl Fn(&Change) -> bool) -> bool {
    let Event::Changes(changes) = event else {
        return false;
    };
    changes
        .changes
        .iter()
        .filter_map(|change| change.change.as_ref())
        .any(is_wanted)
}

fn expect<T: PartialEq + std::fmt::Debug>(told: T, wanted: T) -> Result<(), Failure> {
    match told == wanted {
        true => Ok(()),
        false => Err(format!("the gateway told {told:?}, not {wanted:?}").into()),
    }
}
