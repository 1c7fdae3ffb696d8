//! `LinkDefinitionService`: what each call answers, and what it refuses.

use std::collections::BTreeSet;

use lattice_gateway::{
    control::lattices::Layout,
    proto::{
        Consistency, DeleteLinkDefinitionRequest, ErrorReason, GetLinkDefinitionRequest, LinkDefinition,
        ListLinkDefinitionsRequest, ListLinkDefinitionsResponse, Outcome, Revision, consistency::Requirement,
        delete_link_definition_request::Precondition as DeleteIf,
        put_link_definition_request::Precondition as PutIf,
    },
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{Nats, TestGateway, Told, keys, link, put_link, told, until};

const CONTRACT: &str = "wasmcloud:keyvalue";

fn get(actor: &str) -> GetLinkDefinitionRequest {
    GetLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some(CONTRACT.into()),
        ..Default::default()
    }
}

fn delete(actor: &str) -> DeleteLinkDefinitionRequest {
    DeleteLinkDefinitionRequest {
        lattice: "default".into(),
        actor_id: Some(actor.into()),
        contract_id: Some(CONTRACT.into()),
        ..Default::default()
    }
}

fn list() -> ListLinkDefinitionsRequest {
    ListLinkDefinitionsRequest {
        lattice: "default".into(),
        ..Default::default()
    }
}

fn asking(requirement: Requirement) -> Consistency {
    Consistency {
        requirement: Some(requirement),
    }
}

async fn got(gateway: &TestGateway, request: GetLinkDefinitionRequest) -> Result<LinkDefinition, Told> {
    let answer = told(gateway.links().get_link_definition(request).await)?;
    Ok(answer.link_definition.unwrap())
}

async fn listed(
    gateway: &TestGateway,
    request: ListLinkDefinitionsRequest,
) -> Result<ListLinkDefinitionsResponse, Told> {
    told(gateway.links().list_link_definitions(request).await)
}

fn values(link: &LinkDefinition) -> Value {
    json!(link.values)
}

#[tokio::test]
async fn a_put_is_answered_whole_and_reads_back_the_same() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let mut asked = link(&actor, &provider, "one");
    // Output-only fields are ignored.
    asked.etag = "nonsense".into();
    asked.revision = Some(Revision {
        epoch: 1,
        sequence: 99,
    });
    let answer = gateway.put(put_link(asked)).await.unwrap();
    let (stands, result) = (answer.link_definition.unwrap(), answer.result.unwrap());
    assert_eq!(result.outcome(), Outcome::Applied);
    assert!(!result.superseded);
    assert_eq!(stands.link_name, "default");
    assert_eq!(values(&stands), json!({"value": "one"}));
    assert_eq!(stands.revision, result.revision);
    assert_eq!(stands.revision.unwrap().sequence, 1);
    assert!(stands.etag.starts_with('"') && stands.etag.ends_with('"'));
    assert_eq!(stands.etag, result.etag);
    let now = told(
        gateway
            .lattices()
            .get_server_info(lattice_gateway::proto::GetServerInfoRequest {})
            .await,
    );
    let age = now.unwrap().server_time.unwrap().seconds - stands.update_time.unwrap().seconds;
    assert!((0..60).contains(&age), "stored {age} s ago");

    assert_eq!(got(&gateway, get(&actor)).await.unwrap(), stands);
    let named = GetLinkDefinitionRequest {
        link_name: Some("default".into()),
        ..get(&actor)
    };
    assert_eq!(got(&gateway, named).await.unwrap(), stands);
    let page = listed(&gateway, list()).await.unwrap();
    assert_eq!(page.link_definitions, std::slice::from_ref(&stands));
    assert_eq!(page.revision, stands.revision);
    assert!(page.next_page_token.is_empty());

    // The same three with another provider replace the link; another name is another link.
    let replacing = link(&actor, &keys::provider(), "two");
    let replaced = gateway.put(put_link(replacing.clone())).await.unwrap();
    assert_eq!(
        replaced.link_definition.unwrap().provider_id,
        replacing.provider_id
    );
    let mut other = link(&actor, &provider, "three");
    other.link_name = "other".into();
    gateway.put(put_link(other)).await.unwrap();
    assert_eq!(listed(&gateway, list()).await.unwrap().link_definitions.len(), 2);

    let told_absent = got(&gateway, get(&keys::actor())).await.unwrap_err();
    assert_eq!(
        (told_absent.code, told_absent.reason),
        (Code::NotFound, ErrorReason::EntryNotFound)
    );
}

#[tokio::test]
async fn what_stands_already_is_published_again_only_to_record_an_id() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let plain = put_link(link(&actor, &provider, "one"));
    let first = gateway.put(plain.clone()).await.unwrap();
    assert_eq!(nats.state("default").await, (1, 1));

    let again = gateway.put(plain.clone()).await.unwrap();
    assert_eq!(again.result.as_ref().unwrap().outcome(), Outcome::Unchanged);
    assert_eq!(again.link_definition, first.link_definition);
    assert_eq!(
        again.result.as_ref().unwrap().revision,
        first.result.as_ref().unwrap().revision
    );
    assert_eq!(nats.state("default").await, (1, 1), "nothing was published");

    let mut named = plain.clone();
    named.request_id = "request-0001".into();
    let recorded = gateway.put(named.clone()).await.unwrap().result.unwrap();
    assert_eq!(recorded.outcome(), Outcome::Unchanged);
    assert_eq!(recorded.revision.unwrap().sequence, 2);
    assert_ne!(recorded.etag, first.result.unwrap().etag);
    assert_eq!(
        nats.state("default").await,
        (1, 2),
        "the value was published again"
    );

    let known = gateway.put(named.clone()).await.unwrap().result.unwrap();
    assert_eq!(known.outcome(), Outcome::AlreadyApplied);
    assert_eq!(
        (known.revision, known.etag),
        (recorded.revision, recorded.etag.clone())
    );

    let mut changed = put_link(link(&actor, &provider, "two"));
    changed.validate_only = true;
    let validated = gateway.put(changed).await.unwrap().result.unwrap();
    assert_eq!(
        (validated.outcome(), validated.etag, validated.revision),
        (Outcome::Validated, recorded.etag, recorded.revision)
    );
    named.validate_only = true;
    assert_eq!(
        gateway.put(named).await.unwrap().result.unwrap().outcome(),
        Outcome::AlreadyApplied
    );
    assert_eq!(nats.state("default").await, (1, 2));
}

/// How the entry stands before a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Absent,
    Deleted,
    Present,
}

/// What a call demands.
#[derive(Clone, Copy, Debug)]
enum Demand {
    Nothing,
    CurrentEtag,
    OldEtag,
    MustExist,
    MustNotExist,
}

type Expected = Result<Outcome, (Code, ErrorReason)>;

const APPLIED: Expected = Ok(Outcome::Applied);
const UNCHANGED: Expected = Ok(Outcome::Unchanged);
const MISMATCH: Expected = Err((Code::Aborted, ErrorReason::EtagMismatch));
const NOT_FOUND: Expected = Err((Code::NotFound, ErrorReason::EntryNotFound));
const EXISTS: Expected = Err((Code::AlreadyExists, ErrorReason::EntryExists));

/// The last three: what becomes of a put, of a delete, and of a delete that allows the entry to be absent.
const PRECONDITIONS: [(Before, Demand, [Expected; 3]); 13] = [
    (Before::Absent, Demand::Nothing, [APPLIED, NOT_FOUND, UNCHANGED]),
    (Before::Absent, Demand::OldEtag, [MISMATCH, MISMATCH, MISMATCH]),
    (
        Before::Absent,
        Demand::MustExist,
        [NOT_FOUND, NOT_FOUND, NOT_FOUND],
    ),
    (
        Before::Absent,
        Demand::MustNotExist,
        [APPLIED, NOT_FOUND, UNCHANGED],
    ),
    (Before::Deleted, Demand::Nothing, [APPLIED, NOT_FOUND, UNCHANGED]),
    (Before::Deleted, Demand::OldEtag, [MISMATCH, MISMATCH, MISMATCH]),
    (
        Before::Deleted,
        Demand::MustExist,
        [NOT_FOUND, NOT_FOUND, NOT_FOUND],
    ),
    (
        Before::Deleted,
        Demand::MustNotExist,
        [APPLIED, NOT_FOUND, UNCHANGED],
    ),
    (Before::Present, Demand::Nothing, [APPLIED, APPLIED, APPLIED]),
    (Before::Present, Demand::CurrentEtag, [APPLIED, APPLIED, APPLIED]),
    (Before::Present, Demand::OldEtag, [MISMATCH, MISMATCH, MISMATCH]),
    (Before::Present, Demand::MustExist, [APPLIED, APPLIED, APPLIED]),
    (Before::Present, Demand::MustNotExist, [EXISTS, EXISTS, EXISTS]),
];

/// Makes an entry stand as a case wants it. Gives its key, an etag of before and its etag.
async fn prepared(gateway: &TestGateway, before: Before, provider: &str) -> (String, String, String) {
    let actor = keys::actor();
    let put = async |value: &str, actor: &str| {
        let answer = gateway.put(put_link(link(actor, provider, value))).await;
        answer.unwrap().result.unwrap().etag
    };
    let old = match before {
        Before::Absent => put("elsewhere", &keys::actor()).await,
        Before::Deleted | Before::Present => put("old", &actor).await,
    };
    let current = match before {
        Before::Absent => old.clone(),
        Before::Present => put("current", &actor).await,
        Before::Deleted => {
            told(gateway.links().delete_link_definition(delete(&actor)).await).unwrap();
            old.clone()
        }
    };
    (actor, old, current)
}

fn summary(answer: Result<lattice_gateway::proto::WriteResult, Told>) -> Expected {
    answer
        .map(|result| result.outcome())
        .map_err(|told| (told.code, told.reason))
}

#[tokio::test]
async fn preconditions_hold_for_puts_and_deletes_and_dry_runs_alike() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let provider = keys::provider();
    for (before, demand, expected) in PRECONDITIONS {
        for (operation, expected) in expected.into_iter().enumerate() {
            let (actor, old, current) = prepared(&gateway, before, &provider).await;
            let call = async |validate_only: bool| {
                if operation == 0 {
                    let mut put = put_link(link(&actor, &provider, "new"));
                    put.validate_only = validate_only;
                    put.precondition = match demand {
                        Demand::Nothing => None,
                        Demand::CurrentEtag => Some(PutIf::Etag(current.clone())),
                        Demand::OldEtag => Some(PutIf::Etag(old.clone())),
                        Demand::MustExist => Some(PutIf::MustExist(true)),
                        Demand::MustNotExist => Some(PutIf::MustNotExist(true)),
                    };
                    return gateway.put(put).await.map(|answer| answer.result.unwrap());
                }
                let mut delete = delete(&actor);
                delete.allow_missing = operation == 2;
                delete.validate_only = validate_only;
                delete.precondition = match demand {
                    Demand::Nothing => None,
                    Demand::CurrentEtag => Some(DeleteIf::Etag(current.clone())),
                    Demand::OldEtag => Some(DeleteIf::Etag(old.clone())),
                    Demand::MustExist => Some(DeleteIf::MustExist(true)),
                    Demand::MustNotExist => Some(DeleteIf::MustNotExist(true)),
                };
                let answer = told(gateway.links().delete_link_definition(delete).await);
                answer.map(|answer| answer.result.unwrap())
            };
            let case = format!("{before:?}, {demand:?}, operation {operation}");
            let (_, at) = nats.state("default").await;
            let validated = summary(call(true).await);
            assert_eq!(validated, expected.map(|_| Outcome::Validated), "{case}, dry run");
            assert_eq!(nats.state("default").await.1, at, "{case}: a dry run wrote");

            let answer = call(false).await;
            if let Ok(result) = &answer {
                let is_absent = operation > 0;
                assert_eq!(result.etag.is_empty(), is_absent, "{case}");
                assert!(!result.superseded, "{case}");
            }
            assert_eq!(summary(answer), expected, "{case}");
            let is_written = expected == APPLIED;
            assert_eq!(
                nats.state("default").await.1,
                at + u64::from(is_written),
                "{case}"
            );
        }
    }
}

#[tokio::test]
async fn a_retry_is_recognised_before_its_precondition_is_judged() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let mut create = put_link(link(&actor, &provider, "created"));
    create.request_id = "request-create".into();
    create.precondition = Some(PutIf::MustNotExist(true));
    let created = gateway.put(create.clone()).await.unwrap();
    let retried = gateway.put(create.clone()).await.unwrap();
    let (first, again) = (created.result.unwrap(), retried.result.unwrap());
    assert_eq!(again.outcome(), Outcome::AlreadyApplied);
    assert_eq!((&again.revision, &again.etag), (&first.revision, &first.etag));
    assert_eq!(retried.link_definition, created.link_definition);

    let mut update = put_link(link(&actor, &provider, "updated"));
    update.request_id = "request-update".into();
    update.precondition = Some(PutIf::Etag(first.etag.clone()));
    let updated = gateway.put(update.clone()).await.unwrap().result.unwrap();
    assert_eq!(updated.outcome(), Outcome::Applied);
    let again = gateway.put(update).await.unwrap().result.unwrap();
    assert_eq!(
        (again.outcome(), again.superseded),
        (Outcome::AlreadyApplied, false)
    );

    // The create is on record too, and no longer how the entry stands.
    let again = gateway.put(create.clone()).await.unwrap();
    let result = again.result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, true)
    );
    assert_eq!((result.revision, result.etag.as_str()), (first.revision, ""));
    assert_eq!(
        values(&again.link_definition.unwrap()),
        json!({"value": "updated"})
    );

    let mut remove = delete(&actor);
    remove.request_id = "request-remove".into();
    remove.precondition = Some(DeleteIf::Etag(updated.etag));
    let removed = told(gateway.links().delete_link_definition(remove.clone()).await).unwrap();
    let again = told(gateway.links().delete_link_definition(remove).await).unwrap();
    let (removed, again) = (removed.result.unwrap(), again.result.unwrap());
    assert_eq!(removed.outcome(), Outcome::Applied);
    assert_eq!(
        (again.outcome(), again.superseded),
        (Outcome::AlreadyApplied, false)
    );
    assert_eq!((again.revision, again.etag.as_str()), (removed.revision, ""));

    // Put, delete and put again with the first id: the entry is absent, and the answer says so.
    let again = gateway.put(create).await.unwrap();
    let result = again.result.unwrap();
    assert_eq!(
        (result.outcome(), result.superseded),
        (Outcome::AlreadyApplied, true)
    );
    assert_eq!((result.revision, result.etag.as_str()), (first.revision, ""));
    assert_eq!(again.link_definition, None);
    assert_eq!(nats.state("default").await, (1, 3));
}

/// Identities that no put would take and that hosts store all the same.
fn odd_ids() -> Vec<[String; 3]> {
    let odd = [
        ["Mbob", "wasmcloud:testing", "default"],
        ["a.b", "c.*", ">"],
        ["with space", "tab\tand\nline", "quote\"back\\slash"],
        ["größe", "契約", "🔗"],
        ["\u{0}", "\u{1b}[31m", "\u{202e}"],
        ["'; --", "{{}}", "%00"],
        ["default", "default", "default"],
    ];
    let odd = odd.into_iter().map(|id| id.map(str::to_owned));
    odd.chain([[500, 700, 800].map(|length| "x".repeat(length))])
        .collect()
}

#[tokio::test]
async fn any_stored_link_can_be_got_listed_and_deleted() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    nats.create_stream("default", Value::Null).await;
    let ids = odd_ids();
    for (number, [actor_id, contract_id, link_name]) in ids.iter().enumerate() {
        let body = json!({
            "actor_id": actor_id, "contract_id": contract_id, "link_name": link_name, "provider_id": "Vodd",
            "values": {"number": number, "": "empty", "text": "t", "null": null}, "deleted": false,
        });
        nats.publish_raw(&format!("lc.default.linkdefs.foreign-{number}"), body.to_string())
            .await;
    }
    until("all are seen", async || {
        let page = listed(&gateway, list()).await.ok()?;
        (page.link_definitions.len() == ids.len()).then_some(())
    })
    .await;
    for (number, [actor_id, contract_id, link_name]) in ids.iter().enumerate() {
        let request = GetLinkDefinitionRequest {
            lattice: "default".into(),
            actor_id: Some(actor_id.clone()),
            contract_id: Some(contract_id.clone()),
            link_name: Some(link_name.clone()),
            consistency: None,
        };
        let stands = got(&gateway, request.clone()).await.unwrap();
        assert_eq!(stands.provider_id, "Vodd");
        let shown = json!({"number": number.to_string(), "": "empty", "text": "t", "null": ""});
        assert_eq!(values(&stands), shown);
        let one = ListLinkDefinitionsRequest {
            actor_id: actor_id.clone(),
            contract_id: contract_id.clone(),
            link_name: link_name.clone(),
            ..list()
        };
        let page = listed(&gateway, one.clone()).await.unwrap();
        assert_eq!(
            page.link_definitions,
            std::slice::from_ref(&stands),
            "{actor_id:?}"
        );

        let delete = DeleteLinkDefinitionRequest {
            lattice: "default".into(),
            actor_id: Some(actor_id.clone()),
            contract_id: Some(contract_id.clone()),
            link_name: Some(link_name.clone()),
            request_id: "request-0001".into(),
            precondition: Some(DeleteIf::Etag(stands.etag)),
            ..Default::default()
        };
        let deleted = told(gateway.links().delete_link_definition(delete.clone()).await).unwrap();
        assert_eq!(
            deleted.result.unwrap().outcome(),
            Outcome::Applied,
            "{actor_id:?}"
        );
        let told_absent = got(&gateway, request).await.unwrap_err();
        assert_eq!(told_absent.reason, ErrorReason::EntryNotFound, "{actor_id:?}");
        assert!(listed(&gateway, one).await.unwrap().link_definitions.is_empty());
        let again = told(gateway.links().delete_link_definition(delete).await).unwrap();
        assert_eq!(again.result.unwrap().outcome(), Outcome::AlreadyApplied);
    }
}

#[tokio::test]
async fn the_youngest_of_a_links_messages_counts_whatever_subject_it_is_on() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let body = |value: &str, deleted: Value| {
        let mut body = json!({
            "actor_id": actor, "contract_id": CONTRACT, "link_name": "default", "provider_id": provider,
            "values": {"value": value},
        });
        if deleted != Value::Null {
            body["deleted"] = deleted;
        }
        body.to_string()
    };
    let seen = async |wanted: Option<&str>| {
        until("the foreign message is seen", async || {
            let seen = got(&gateway, get(&actor)).await.ok();
            (seen.map(|link| values(&link)) == wanted.map(|value| json!({"value": value}))).then_some(())
        })
        .await;
    };
    gateway
        .put(put_link(link(&actor, &provider, "own")))
        .await
        .unwrap();
    nats.publish_raw("lc.default.linkdefs.host-1", body("host 1", json!(false)))
        .await;
    seen(Some("host 1")).await;
    // Hosts since 0.57.2 need no member `deleted`.
    nats.publish_raw("lc.default.linkdefs.host-2", body("host 2", Value::Null))
        .await;
    seen(Some("host 2")).await;
    nats.publish_raw("lc.default.linkdefs.host-1", body("host 2", json!(true)))
        .await;
    seen(None).await;
    let mut create = put_link(link(&actor, &provider, "own again"));
    create.precondition = Some(PutIf::MustNotExist(true));
    assert_eq!(
        gateway.put(create).await.unwrap().result.unwrap().outcome(),
        Outcome::Applied
    );
    seen(Some("own again")).await;
    told(gateway.links().delete_link_definition(delete(&actor)).await).unwrap();
    seen(None).await;
}

#[tokio::test]
async fn a_write_is_read_on_another_gateway_as_freshly_as_asked() {
    let nats = Nats::start().await;
    let (writer, reader) = (TestGateway::dev(&nats).await, TestGateway::dev(&nats).await);
    let (actor, provider) = (keys::actor(), keys::provider());
    for number in 0..20 {
        let value = number.to_string();
        let put = writer
            .put(put_link(link(&actor, &provider, &value)))
            .await
            .unwrap();
        let revision = put.result.unwrap().revision.unwrap();
        let consistency = match number % 2 {
            0 => asking(Requirement::AtLeastAsFresh(revision)),
            _ => asking(Requirement::FullyConsistent(true)),
        };
        let read = GetLinkDefinitionRequest {
            consistency: Some(consistency),
            ..get(&actor)
        };
        assert_eq!(
            values(&got(&reader, read).await.unwrap()),
            json!({"value": value})
        );
        let page = ListLinkDefinitionsRequest {
            consistency: Some(consistency),
            ..list()
        };
        let page = listed(&reader, page).await.unwrap();
        assert_eq!(values(&page.link_definitions[0]), json!({"value": value}));
        assert!(page.revision.unwrap().sequence >= revision.sequence);
    }
    let deleted = told(writer.links().delete_link_definition(delete(&actor)).await).unwrap();
    let revision = deleted.result.unwrap().revision.unwrap();
    let at = |requirement| GetLinkDefinitionRequest {
        consistency: Some(asking(requirement)),
        ..get(&actor)
    };
    let read = got(&reader, at(Requirement::AtLeastAsFresh(revision))).await;
    assert_eq!(read.unwrap_err().reason, ErrorReason::EntryNotFound);

    let other = Revision {
        epoch: revision.epoch ^ 1,
        sequence: 1,
    };
    let read = got(&reader, at(Requirement::AtLeastAsFresh(other)))
        .await
        .unwrap_err();
    assert_eq!(
        (read.code, read.reason),
        (Code::FailedPrecondition, ErrorReason::RevisionUnavailable)
    );

    // A stream that was deleted and made again is another one.
    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    nats.create_stream("default", Value::Null).await;
    for gateway in [&writer, &reader] {
        until("the old revision is refused", async || {
            let read = got(gateway, at(Requirement::AtLeastAsFresh(revision))).await;
            (read.unwrap_err().reason == ErrorReason::RevisionUnavailable).then_some(())
        })
        .await;
    }
    let put = writer
        .put(put_link(link(&actor, &provider, "anew")))
        .await
        .unwrap();
    let anew = put.result.unwrap().revision.unwrap();
    assert_ne!(anew.epoch, revision.epoch);
    let read = got(&reader, at(Requirement::AtLeastAsFresh(anew))).await.unwrap();
    assert_eq!(values(&read), json!({"value": "anew"}));
}

#[tokio::test]
async fn pages_hold_every_untouched_link_exactly_once_while_others_come_and_go() {
    const LINKS: usize = 25;
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let provider = keys::provider();
    let mut kept = BTreeSet::new();
    for number in 0..LINKS {
        let actor = keys::actor();
        let mut put = link(&actor, &provider, "kept");
        put.link_name = format!("link-{}", number % 3);
        kept.insert((actor, put.link_name.clone()));
        gateway.put(put_link(put)).await.unwrap();
    }
    for page_size in [1_i32, 7, 24, 25, 26, 1_000, 0] {
        let mut request = ListLinkDefinitionsRequest { page_size, ..list() };
        let (mut seen, mut passing) = (Vec::new(), None);
        loop {
            let page = listed(&gateway, request.clone()).await.unwrap();
            let most = if page_size == 0 {
                50
            } else {
                usize::try_from(page_size).unwrap()
            };
            assert!(page.link_definitions.len() <= most);
            let at = page.revision.unwrap().sequence;
            for link in page.link_definitions {
                assert!(link.revision.unwrap().sequence <= at, "the page is of {at}");
                seen.push((link.actor_id, link.link_name));
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
            if let Some(actor) = passing.replace(keys::actor()) {
                told(gateway.links().delete_link_definition(delete(&actor)).await).unwrap();
            }
            let passing = passing.as_ref().unwrap();
            gateway
                .put(put_link(link(passing, &provider, "passing")))
                .await
                .unwrap();
        }
        assert!(seen.is_sorted(), "page size {page_size}");
        seen.retain(|link| kept.contains(link));
        assert_eq!(seen.len(), LINKS, "page size {page_size}");
        assert_eq!(
            seen.into_iter().collect::<BTreeSet<_>>(),
            kept,
            "page size {page_size}"
        );
        if let Some(actor) = passing {
            told(gateway.links().delete_link_definition(delete(&actor)).await).unwrap();
        }
    }
    // Filters, alone and together.
    let (actor, name) = kept.first().unwrap();
    for (actor_id, contract_id, link_name, expected) in [
        (actor.as_str(), "", "", 1),
        ("", CONTRACT, "", LINKS),
        ("", "wasmcloud:other", "", 0),
        ("", "", "link-0", 9),
        (actor, CONTRACT, name, 1),
        (actor, CONTRACT, "link-9", 0),
        (actor.get(..55).unwrap(), "", "", 0),
    ] {
        let filtered = ListLinkDefinitionsRequest {
            actor_id: actor_id.to_owned(),
            contract_id: contract_id.to_owned(),
            link_name: link_name.to_owned(),
            page_size: 4,
            ..list()
        };
        let mut count = 0;
        let mut request = filtered.clone();
        loop {
            let page = listed(&gateway, request.clone()).await.unwrap();
            count += page.link_definitions.len();
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(count, expected, "{filtered:?}");
    }
}

#[tokio::test]
async fn a_page_token_is_refused_by_every_other_list() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    let provider = keys::provider();
    for lattice in ["default", "other"] {
        for _ in 0..3 {
            let mut put = put_link(link(&keys::actor(), &provider, "value"));
            put.lattice = lattice.into();
            gateway.put(put).await.unwrap();
        }
    }
    let by_one = ListLinkDefinitionsRequest {
        page_size: 1,
        ..list()
    };
    let token = listed(&gateway, by_one.clone()).await.unwrap().next_page_token;
    let with = |token: &str| ListLinkDefinitionsRequest {
        page_token: token.to_owned(),
        ..by_one.clone()
    };
    // Tokens carry no authority and do not wear out.
    for _ in 0..2 {
        assert_eq!(
            listed(&gateway, with(&token))
                .await
                .unwrap()
                .link_definitions
                .len(),
            1
        );
    }
    let other_lattice = ListLinkDefinitionsRequest {
        lattice: "other".into(),
        ..with(&token)
    };
    let other_filter = ListLinkDefinitionsRequest {
        contract_id: CONTRACT.into(),
        ..with(&token)
    };
    let longer = format!("{token}AA");
    let refused = [
        other_lattice,
        other_filter,
        with("garbage"),
        with("*"),
        with("AAAA"),
        with(&longer),
        with(token.get(..token.len() - 4).unwrap()),
        with(&token.to_lowercase()),
        with(&"A".repeat(100_000)),
    ];
    for request in refused {
        let told = listed(&gateway, request.clone()).await.unwrap_err();
        assert_eq!(
            (told.code, told.reason),
            (Code::InvalidArgument, ErrorReason::PageTokenInvalid),
            "{request:?}"
        );
    }
    let claims = lattice_gateway::proto::ListClaimsRequest {
        lattice: "default".into(),
        page_token: token.clone(),
        ..Default::default()
    };
    let told_other = told(gateway.claims().list_claims(claims).await).unwrap_err();
    assert_eq!(told_other.reason, ErrorReason::PageTokenInvalid);

    nats.api("STREAM.DELETE.LATTICECACHE_default", Value::Null).await;
    nats.create_stream("default", Value::Null).await;
    until("the token is of a stream that is gone", async || {
        let told = listed(&gateway, with(&token)).await.err()?;
        (told.reason == ErrorReason::PageTokenInvalid).then_some(())
    })
    .await;
}

/// The key is a hash of three texts with nothing in between: two links can have one, and hosts keep one of them.
#[tokio::test]
async fn in_a_bucket_a_link_whose_key_another_holds_is_refused_and_touches_nothing() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev_with(&nats, Layout::Kv).await;
    let (actor, provider) = (keys::actor(), keys::provider());
    let first = link(&actor, &provider, "first");
    let written = gateway.put(put_link(first.clone())).await.unwrap();
    let twin = LinkDefinition {
        contract_id: format!("{CONTRACT}d"),
        link_name: "efault".into(),
        ..first
    };
    for validate_only in [true, false] {
        let mut put = put_link(twin.clone());
        put.validate_only = validate_only;
        let refused = gateway.put(put).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.reason),
            (Code::FailedPrecondition, ErrorReason::LinkConflict)
        );
        let other = format!("link_definition {actor} {CONTRACT} default");
        assert_eq!(refused.metadata["entry"], other);
    }
    let get_twin = GetLinkDefinitionRequest {
        contract_id: Some(twin.contract_id.clone()),
        link_name: Some(twin.link_name.clone()),
        ..get(&actor)
    };
    let absent = got(&gateway, get_twin).await.unwrap_err();
    assert_eq!(absent.reason, ErrorReason::EntryNotFound);
    let delete_twin = DeleteLinkDefinitionRequest {
        contract_id: Some(twin.contract_id.clone()),
        link_name: Some(twin.link_name.clone()),
        allow_missing: true,
        ..delete(&actor)
    };
    let deleted = told(gateway.links().delete_link_definition(delete_twin).await).unwrap();
    assert_eq!(deleted.result.unwrap().outcome(), Outcome::Unchanged);
    let stands = got(&gateway, get(&actor)).await.unwrap();
    assert_eq!(stands.etag, written.result.unwrap().etag, "as it was");

    told(gateway.links().delete_link_definition(delete(&actor)).await).unwrap();
    gateway.put(put_link(twin)).await.unwrap();
}
