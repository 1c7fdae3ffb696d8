use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    sync::Arc,
};

use clap::Parser;
use lattice_gateway::proto::{
    ApplyManifestRequest, ApplyManifestResponse, ApplyRequest, ApplyResponse, DeleteLinkDefinitionRequest,
    DeleteLinkDefinitionResponse, GetLinkDefinitionRequest, GetLinkDefinitionResponse, LinkDefinition,
    ListLinkDefinitionsRequest, ListLinkDefinitionsResponse, Outcome, PACKAGE, PutLinkDefinitionRequest,
    PutLinkDefinitionResponse, WriteResult,
    apply_request::Operation,
    apply_response,
    apply_service_server::{ApplyService, ApplyServiceServer},
    link_definition_service_server::{LinkDefinitionService, LinkDefinitionServiceServer},
    put_link_definition_request::Precondition,
    rpc,
};
use parking_lot::Mutex;
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{
    args::{Cli, Command},
    failure::{Exit, Place},
    fake,
};

/// How a gateway answers the next operations, in their order; then it applies all of them.
#[derive(Clone, Debug)]
enum Script {
    Refuse(Code, &'static str),
    /// Applied, and the call breaks before the answer.
    BreakAfter,
}

/// A gateway that keeps links as it is told, and notes what it is sent.
#[derive(Clone, Default)]
struct Fake {
    links: Arc<Mutex<HashMap<String, LinkDefinition>>>,
    /// The request ids that were applied.
    applied: Arc<Mutex<HashSet<String>>>,
    sent: Arc<Mutex<Vec<ApplyRequest>>>,
    script: Arc<Mutex<VecDeque<Script>>>,
    hides_values: bool,
}

impl Fake {
    fn holding(links: impl IntoIterator<Item = LinkDefinition>) -> Self {
        let fake = Self::default();
        let by_actor = links.into_iter().map(|link| (link.actor_id.clone(), link));
        fake.links.lock().extend(by_actor);
        fake
    }

    fn scripted(mut self, script: impl IntoIterator<Item = Script>) -> Self {
        self.script = Arc::new(Mutex::new(script.into_iter().collect()));
        self
    }

    /// Runs `apply` on a manifest.
    async fn run(&self, manifest: &str, options: &str) -> Result<Value, CommandError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, manifest).unwrap();
        let line = format!("apply -o json --timeout 2s -f {} {options}", file.display());
        let services = Routes::new(LinkDefinitionServiceServer::new(self.clone()))
            .add_service(ApplyServiceServer::new(self.clone()));
        let printed = fake::run_on(services, line.trim()).await?;
        Ok(serde_json::from_str(&printed).unwrap())
    }

    /// Answers one operation; none where the call breaks.
    fn answer(&self, request: &ApplyRequest) -> Option<ApplyResponse> {
        self.sent.lock().push(request.clone());
        let next = self.script.lock().pop_front();
        let outcome = match next {
            Some(Script::Refuse(code, reason)) => apply_response::Outcome::Status(status(code, reason)),
            Some(Script::BreakAfter) => {
                self.apply(request);
                return None;
            }
            None => apply_response::Outcome::Result(self.apply(request)),
        };
        Some(ApplyResponse {
            id: request.id.clone(),
            outcome: Some(outcome),
        })
    }

    fn apply(&self, request: &ApplyRequest) -> WriteResult {
        let mut links = self.links.lock();
        let (request_id, validate_only) = if let Some(Operation::PutLinkDefinition(put)) = &request.operation
        {
            let link = put.link_definition.clone().unwrap();
            if !put.validate_only {
                links.insert(link.actor_id.clone(), link);
            }
            (&put.request_id, put.validate_only)
        } else if let Some(Operation::DeleteLinkDefinition(delete)) = &request.operation {
            links.remove(delete.actor_id.as_ref().unwrap());
            (&delete.request_id, delete.validate_only)
        } else {
            panic!("{request:?}")
        };
        let is_new = self.applied.lock().insert(request_id.clone());
        let outcome = match (validate_only, is_new) {
            (true, _) => Outcome::Validated,
            (false, true) => Outcome::Applied,
            (false, false) => Outcome::AlreadyApplied,
        };
        WriteResult {
            outcome: outcome.into(),
            ..WriteResult::default()
        }
    }

    fn puts(&self) -> Vec<PutLinkDefinitionRequest> {
        let sent = self.sent.lock();
        let put = |request: &ApplyRequest| match &request.operation {
            Some(Operation::PutLinkDefinition(put)) => Some(put.clone()),
            Some(_) | None => None,
        };
        sent.iter().filter_map(put).collect()
    }
}

fn status(code: Code, reason: &str) -> rpc::Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, PACKAGE, HashMap::<String, String>::new());
    let status = Status::with_error_details(code, reason, details);
    rpc::Status::decode(status.details()).unwrap()
}

#[tonic::async_trait]
impl ApplyService for Fake {
    type ApplyStream = ReceiverStream<Result<ApplyResponse, Status>>;

    async fn apply(
        &self,
        request: Request<Streaming<ApplyRequest>>,
    ) -> Result<Response<Self::ApplyStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let (fake, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let answer = fake.answer(&request).ok_or_else(|| {
                    Status::with_error_details(Code::Unavailable, "broken", ErrorDetails::new())
                });
                let breaks = answer.is_err();
                if sender.send(answer).await.is_err() || breaks {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn apply_manifest(
        &self,
        _request: Request<ApplyManifestRequest>,
    ) -> Result<Response<ApplyManifestResponse>, Status> {
        panic!("not called");
    }
}

#[tonic::async_trait]
impl LinkDefinitionService for Fake {
    async fn put_link_definition(
        &self,
        _request: Request<PutLinkDefinitionRequest>,
    ) -> Result<Response<PutLinkDefinitionResponse>, Status> {
        panic!("not called");
    }

    async fn get_link_definition(
        &self,
        _request: Request<GetLinkDefinitionRequest>,
    ) -> Result<Response<GetLinkDefinitionResponse>, Status> {
        panic!("not called");
    }

    async fn list_link_definitions(
        &self,
        _request: Request<ListLinkDefinitionsRequest>,
    ) -> Result<Response<ListLinkDefinitionsResponse>, Status> {
        let shown = |link: &LinkDefinition| LinkDefinition {
            values: if self.hides_values {
                [].into()
            } else {
                link.values.clone()
            },
            etag: format!("\"{}\"", link.actor_id),
            ..link.clone()
        };
        Ok(Response::new(ListLinkDefinitionsResponse {
            link_definitions: self.links.lock().values().map(shown).collect(),
            values_omitted: self.hides_values,
            ..ListLinkDefinitionsResponse::default()
        }))
    }

    async fn delete_link_definition(
        &self,
        _request: Request<DeleteLinkDefinitionRequest>,
    ) -> Result<Response<DeleteLinkDefinitionResponse>, Status> {
        panic!("not called");
    }
}

fn link(actor: &str, value: &str) -> LinkDefinition {
    LinkDefinition {
        actor_id: actor.to_owned(),
        provider_id: "V".to_owned(),
        contract_id: "c".to_owned(),
        link_name: "default".to_owned(),
        values: [("k".to_owned(), value.to_owned())].into(),
        ..LinkDefinition::default()
    }
}

fn manifest(links: &[(&str, &str)]) -> String {
    let document = |(actor, value): &(&str, &str)| {
        format!(
            "- {{kind: LinkDefinition, actor_id: {actor}, provider_id: V, contract_id: c, values: {{k: {value}}}}}\n"
        )
    };
    links.iter().map(document).collect()
}

fn summary(created: u32, updated: u32, deleted: u32, unchanged: u32) -> Value {
    json!({ "created": created, "updated": updated, "deleted": deleted, "unchanged": unchanged,
        "failed": 0, "notDone": 0 })
}

#[tokio::test]
async fn only_what_differs_is_written_and_only_as_it_was_compared() {
    let fake = Fake::holding([link("same", "1"), link("other", "0"), link("surplus", "1")]);
    let manifest = manifest(&[("new", "1"), ("same", "1"), ("other", "1")]);
    let report = fake.run(&manifest, "").await.unwrap();
    assert_eq!(report["summary"], summary(1, 1, 0, 1));
    assert_eq!(
        report["changes"][1]["fields"],
        json!([{ "field": "values.k", "before": "0", "after": "1" }])
    );
    let [create, update] = &fake.puts()[..] else {
        panic!("{:?}", fake.puts());
    };
    assert_eq!(create.precondition, Some(Precondition::MustNotExist(true)));
    assert_eq!(
        update.precondition,
        Some(Precondition::Etag("\"other\"".to_owned()))
    );
    assert_eq!(
        create.request_id.split_once('-').unwrap().0,
        update.request_id.split_once('-').unwrap().0
    );

    let report = fake.run(&manifest, "").await.unwrap();
    assert_eq!(report["summary"], summary(0, 0, 0, 3));
    assert_eq!(fake.puts().len(), 2);
}

#[tokio::test]
async fn force_writes_whatever_became_of_an_entry() {
    let fake = Fake::holding([link("other", "0")]);
    fake.run(&manifest(&[("other", "1")]), "--force").await.unwrap();
    assert_eq!(fake.puts()[0].precondition, None);
}

#[tokio::test]
async fn deletes_need_a_yes_where_nobody_can_be_asked() {
    let fake = Fake::holding([link("surplus", "1")]);
    let manifest = manifest(&[("new", "1")]);
    let error = fake.run(&manifest, "--prune").await.unwrap_err();
    assert!(error.message().contains("give --yes"), "{error:?}");
    assert!(fake.sent.lock().is_empty());
    let report = fake.run(&manifest, "--prune --yes").await.unwrap();
    assert_eq!(report["summary"], summary(1, 0, 1, 0));
    assert!(!fake.links.lock().contains_key("surplus"));
}

#[tokio::test]
async fn nothing_is_deleted_where_something_could_not_be_put() {
    let refused = Script::Refuse(Code::InvalidArgument, "INVALID_FIELD");
    let fake = Fake::holding([link("surplus", "1")]).scripted([refused]);
    let error = fake
        .run(&manifest(&[("new", "1")]), "--prune --yes")
        .await
        .unwrap_err();
    assert_eq!(error.message(), "1 of 2 changes failed");
    assert_eq!(error.exit(), Exit::Refused);
    assert!(fake.links.lock().contains_key("surplus"));
}

#[tokio::test]
async fn one_that_fails_fails_alone_and_tells_where_it_stands() {
    let conflict = Script::Refuse(Code::AlreadyExists, "ENTRY_EXISTS");
    let fake = Fake::default().scripted([conflict]);
    let error = fake
        .run(&manifest(&[("a", "1"), ("b", "1")]), "")
        .await
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Conflict);
    let place = Place {
        endpoint: &Cli::parse_from(["latticectl", "info"]).global.gateway(),
        lattice: "default",
    };
    let text = error.render(Format::Table, place);
    let expected = [
        "error: 1 of 2 changes failed",
        "a.yaml:1 (document 1): create  link a c default",
        "    ENTRY_EXISTS",
        "    hint: it changed after it was compared; run the command again to see how, or give --force",
    ];
    for (line, expected) in text.lines().zip(expected) {
        assert!(line.ends_with(expected), "{text}");
    }
    assert!(fake.links.lock().contains_key("b"));
}

#[tokio::test]
async fn what_was_not_applied_for_a_while_is_sent_again_without_an_age() {
    let busy = Script::Refuse(Code::Unavailable, "BACKEND_UNAVAILABLE");
    let fake = Fake::default().scripted([busy.clone(), busy]);
    let report = fake.run(&manifest(&[("a", "1")]), "").await.unwrap();
    assert_eq!(report["summary"], summary(1, 0, 0, 0));
    let puts = fake.puts();
    assert_eq!(puts.len(), 3);
    assert!(
        puts.iter()
            .all(|put| put.retry_age.is_none() && put.request_id == puts[0].request_id)
    );
}

#[tokio::test]
async fn what_a_broken_call_left_unanswered_is_sent_again_with_its_age() {
    let fake = Fake::default().scripted([Script::BreakAfter]);
    let report = fake.run(&manifest(&[("a", "1"), ("b", "1")]), "").await.unwrap();
    assert_eq!(report["summary"], summary(2, 0, 0, 0));
    assert_eq!(
        report["changes"][0]["result"]["outcome"],
        "OUTCOME_ALREADY_APPLIED"
    );
    let puts = fake.puts();
    let [first, .., again] = &puts
        .iter()
        .filter(|put| put.request_id.ends_with("-0"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{puts:?}");
    };
    assert_eq!(first.retry_age, None);
    // The timeout on top of the truth, since it may be a while before it is sent.
    assert!(again.retry_age.as_ref().unwrap().seconds >= 2, "{again:?}");
    assert_eq!(first.precondition, again.precondition);
}

#[tokio::test]
async fn a_run_is_given_up_when_nothing_is_answered_for_good() {
    let busy = Script::Refuse(Code::Unavailable, "BACKEND_UNAVAILABLE");
    let fake = Fake::default().scripted(vec![busy; 100]);
    let error = fake.run(&manifest(&[("a", "1")]), "").await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert_eq!(error.message(), "1 of 1 changes failed");
}

#[tokio::test]
async fn a_dry_run_is_checked_by_the_gateway_and_says_by_its_exit_code_whether_anything_would_change() {
    let fake = Fake::holding([link("other", "0")]);
    let wanted = manifest(&[("other", "1")]);
    let report = fake.run(&wanted, "--dry-run").await.unwrap();
    assert_eq!(report["dryRun"], true);
    assert_eq!(report["summary"], summary(0, 1, 0, 0));
    assert!(fake.puts().iter().all(|put| put.validate_only));
    assert_eq!(fake.links.lock()["other"], link("other", "0"));
    let error = fake.run(&wanted, "--dry-run --exit-code").await.unwrap_err();
    assert_eq!(error.exit(), Exit::Changes);
    let same = manifest(&[("other", "0")]);
    assert!(fake.run(&same, "--dry-run --exit-code").await.is_ok());
}

#[tokio::test]
async fn values_that_may_not_be_read_are_put_again_and_those_that_may_are_not() {
    let shown = Fake::holding([LinkDefinition {
        values: [].into(),
        ..link("a", "")
    }]);
    let without_values = "{kind: LinkDefinition, actor_id: a, provider_id: V, contract_id: c}";
    let report = shown.run(without_values, "").await.unwrap();
    assert_eq!(report["summary"], summary(0, 0, 0, 1));
    let hidden = Fake {
        hides_values: true,
        ..shown
    };
    let report = hidden.run(without_values, "").await.unwrap();
    assert_eq!(report["summary"], summary(0, 1, 0, 0));
}

#[tokio::test]
async fn values_are_hidden_on_request() {
    let fake = Fake::holding([link("a", "secret-before")]);
    let report = fake
        .run(&manifest(&[("a", "secret-after")]), "--hide-values --dry-run")
        .await
        .unwrap();
    assert!(!report.to_string().contains("secret"), "{report}");
    assert_eq!(report["changes"][0]["fields"], json!([{ "field": "values.k" }]));
}

#[test]
fn claims_and_references_are_pruned_only_where_they_are_named() {
    let pruned = |line: &str, wanted: &[Kind]| {
        let line = format!("latticectl apply -f a.yaml {line}");
        let Command::Apply(arguments) = Cli::parse_from(line.trim().split(' ')).command else {
            panic!("{line}");
        };
        let wanted = wanted.iter().copied().collect();
        arguments.pruned(&wanted).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(pruned("", &Kind::ALL), []);
    assert_eq!(
        pruned("--prune", &Kind::ALL),
        [Kind::Link, Kind::Iface, Kind::Config]
    );
    assert_eq!(pruned("--prune", &[Kind::Claims, Kind::Link]), [Kind::Link]);
    assert_eq!(
        pruned("--prune --prune-kind claims", &[Kind::Link]),
        [Kind::Claims]
    );
    assert!(Cli::try_parse_from("latticectl apply -f a --prune-kind link".split(' ')).is_err());
}
