//! The protocol's order, one case a rule.

use super::*;
use crate::{
    auth::Caller,
    control::intent::IntentParts,
    domain::{
        Epoch, LatticeName, LinkDefinition, LinkId, RequestId, Revision, link_definition::Values,
        revision::Tag,
    },
    store::{
        evidence::{Past, Stamp},
        mirror::{State, Winner},
    },
};

const NOW: i64 = 1_790_000_000_000;

fn key() -> EntryKey {
    EntryKey::LinkDefinition(LinkId::new("M", "wasmcloud:keyvalue", "default"))
}

fn link(provider: &str) -> Arc<Entry> {
    Arc::new(Entry::LinkDefinition(LinkDefinition {
        provider_id: provider.into(),
        values: Values::default(),
    }))
}

fn mutation(desired: Desired, request_id: Option<&str>) -> Mutation {
    let key = key();
    let request_id = request_id.map(|id| RequestId::parse(id).unwrap());
    let intent = Intent::of(IntentParts {
        caller: &Caller::anonymous(),
        lattice: &LatticeName::parse("default").unwrap(),
        method: "PutLinkDefinition",
        key: &key,
        request_id: request_id.as_ref(),
        fingerprint: [7; 8],
    });
    Mutation {
        key: Arc::new(key),
        desired,
        body: Bytes::new(),
        intent,
        precondition: Precondition::None,
        mode: Mode::Live,
        retry: None,
        validity: None,
        entries_max: None,
        any_target: false,
        condition: Condition::None,
        patience: Patience::Short,
        abandoned: CancellationToken::new(),
    }
}

fn put(provider: &str) -> Mutation {
    mutation(Desired::Entry(link(provider)), Some("request-0001"))
}

fn at(sequence: u64) -> Revision {
    Revision {
        epoch: Epoch::from_number(1),
        sequence,
    }
}

/// An entry on its home at sequence 9, or nothing.
fn view(entry: Option<Arc<Entry>>, past: Past) -> View {
    View {
        position: at(9),
        home_sequence: if entry.is_some() { 9 } else { 0 },
        squatter: None,
        winner: entry.map(|entry| {
            let state = State::Stands {
                entry,
                is_plain: true,
            };
            Winner::of_message(at(9), Tag([9; 8]), Some(0), state)
        }),
        applied: past.find(put("").intent.stamp.id),
        witnessed_since: None,
        past,
    }
}

fn known(trusted_issuers: &TrustedIssuers) -> Known<'_> {
    Known {
        fresh: Some(NOW),
        first_attempt_age: None,
        unknown_publish: None,
        now_unix_seconds: NOW / 1_000,
        trusted_issuers,
        unmet: None,
    }
}

fn step(mutation: &Mutation, view: &View, change: impl FnOnce(&mut Known<'_>)) -> Step {
    let trusted = TrustedIssuers::Any;
    let mut known = known(&trusted);
    change(&mut known);
    decide(mutation, view, known)
}

fn applied(stamp: Stamp) -> Past {
    Past::default().with(Applied {
        stamp,
        sequence: 5,
        unix_millis: NOW - 60_000,
    })
}

#[test]
fn a_first_attempt_publishes_from_a_stale_look_with_its_expectation() {
    let step = step(&put("V"), &view(Some(link("other")), Past::default()), |known| {
        known.fresh = None;
    });
    let Step::Publish(publish) = step else {
        panic!("{step:?}");
    };
    assert_eq!((publish.expected_sequence, publish.is_unchanged), (9, false));
}

#[test]
fn a_known_id_is_already_applied_whatever_else_would_refuse_it() {
    let mut again = put("V");
    again.precondition = Precondition::MustNotExist;
    let view = view(Some(link("other")), applied(again.intent.stamp));
    let decided = step(&again, &view, |known| {
        known.first_attempt_age = Some(Duration::from_secs(1));
    });
    assert!(matches!(decided, Step::Answer(Answer::AlreadyApplied(applied)) if applied.sequence == 5));
    assert!(matches!(
        step(&again, &view, |known| known.fresh = None),
        Step::Refresh
    ));
}

#[test]
fn a_known_id_with_other_content_is_refused() {
    let again = put("V");
    let other = Stamp {
        fingerprint: [8; 8],
        ..again.intent.stamp
    };
    let decided = step(&again, &view(Some(link("V")), applied(other)), |_| {});
    assert!(matches!(decided, Step::Refuse(Refusal::RequestIdReused)));
}

#[test]
fn a_retry_goes_on_only_where_its_absence_from_the_record_is_proof() {
    let age = |known: &mut Known<'_>| known.first_attempt_age = Some(Duration::from_secs(10));
    let complete = Past::default().forgotten_until(NOW - 12_000);
    let incomplete = Past::default().forgotten_until(NOW - 11_999);
    let standing = || Some(link("other"));
    assert!(matches!(
        step(&put("V"), &view(standing(), complete), age),
        Step::Publish(_)
    ));
    assert!(matches!(
        step(&put("V"), &view(standing(), incomplete.clone()), age),
        Step::Probe
    ));
    assert!(matches!(
        step(&put("V"), &view(None, incomplete.clone()), age),
        Step::Publish(_)
    ));
    let stale = |known: &mut Known<'_>| {
        age(known);
        known.fresh = None;
    };
    assert!(matches!(
        step(&put("V"), &view(standing(), incomplete), stale),
        Step::Refresh
    ));
}

#[test]
fn what_went_with_its_record_is_written_again_and_its_refusal_says_nothing_of_it() {
    let age = |known: &mut Known<'_>| known.first_attempt_age = Some(Duration::from_secs(10));
    let void = view(None, Past::default());
    let decided = step(&put("V"), &void, age);
    assert!(
        matches!(&decided, Step::Publish(publish) if publish.may_be_forgotten),
        "{decided:?}"
    );
    let mut conditional = put("V");
    conditional.precondition = Precondition::MustExist;
    assert!(matches!(step(&conditional, &void, age), Step::Probe));
    let unknown = |known: &mut Known<'_>| {
        age(known);
        known.unknown_publish = Some(9);
    };
    assert!(matches!(step(&conditional, &void, unknown), Step::Probe));

    let witnessed = View {
        witnessed_since: Some(NOW - 12_000),
        ..void
    };
    let decided = step(&put("V"), &witnessed, age);
    assert!(
        matches!(&decided, Step::Publish(publish) if !publish.may_be_forgotten),
        "{decided:?}"
    );
    assert!(matches!(
        step(&conditional, &witnessed, age),
        Step::Refuse(Refusal::NotFound)
    ));
}

#[test]
fn an_unknown_publish_goes_out_again_only_while_the_home_has_not_moved() {
    let incomplete = || Past::default().forgotten_until(NOW);
    let unknown = |expected| {
        move |known: &mut Known<'_>| {
            known.first_attempt_age = Some(Duration::from_millis(5));
            known.unknown_publish = Some(expected);
        }
    };
    let view = view(Some(link("other")), incomplete());
    assert!(matches!(step(&put("V"), &view, unknown(9)), Step::Publish(_)));
    assert!(matches!(step(&put("V"), &view, unknown(8)), Step::Probe));
}

#[test]
fn preconditions_are_judged_on_what_stands_and_only_freshly() {
    let etag = |sequence| {
        Precondition::Etag(Etag {
            revision: at(sequence),
            tag: Tag([9; 8]),
        })
    };
    for (precondition, exists, refusal) in [
        (etag(9), true, None),
        (etag(8), true, Some(Refusal::EtagMismatch)),
        (etag(9), false, Some(Refusal::EtagMismatch)),
        (Precondition::MustExist, true, None),
        (Precondition::MustExist, false, Some(Refusal::NotFound)),
        (Precondition::MustNotExist, true, Some(Refusal::Exists)),
        (Precondition::MustNotExist, false, None),
    ] {
        let mut conditional = put("V");
        conditional.precondition = precondition;
        let view = view(exists.then(|| link("other")), Past::default());
        let refused = match step(&conditional, &view, |_| {}) {
            Step::Refuse(refusal) => Some(refusal),
            Step::Publish(_) => None,
            other @ (Step::Refresh | Step::Probe | Step::Answer(_)) => panic!("{other:?}"),
        };
        assert_eq!(refused, refusal, "{conditional:?}");
        if refusal.is_some() {
            assert!(matches!(
                step(&conditional, &view, |known| known.fresh = None),
                Step::Refresh
            ));
        }
    }
}

#[test]
fn what_stands_as_asked_is_published_again_only_for_the_record_of_a_clients_id() {
    let view = view(Some(link("V")), Past::default());
    let unnamed = mutation(Desired::Entry(link("V")), None);
    assert!(matches!(
        step(&unnamed, &view, |_| {}),
        Step::Answer(Answer::Unchanged)
    ));
    assert!(matches!(
        step(&unnamed, &view, |known| known.fresh = None),
        Step::Refresh
    ));
    let Step::Publish(publish) = step(&put("V"), &view, |_| {}) else {
        panic!("a client's id must be put on record");
    };
    assert!(publish.is_unchanged);
}

#[test]
fn a_delete_of_nothing_writes_nothing() {
    let delete = |allow_missing| mutation(Desired::Absent { allow_missing }, Some("request-0001"));
    let nothing = view(None, Past::default());
    assert!(matches!(
        step(&delete(true), &nothing, |_| {}),
        Step::Answer(Answer::Unchanged)
    ));
    assert!(matches!(
        step(&delete(false), &nothing, |_| {}),
        Step::Refuse(Refusal::NotFound)
    ));
    let something = view(Some(link("V")), Past::default());
    assert!(matches!(
        step(&delete(false), &something, |_| {}),
        Step::Publish(_)
    ));
}

#[test]
fn a_rehearsal_makes_every_check_and_publishes_nothing() {
    let mut rehearsal = put("V");
    rehearsal.mode = Mode::ValidateOnly;
    let nothing = view(None, Past::default());
    assert!(matches!(
        step(&rehearsal, &nothing, |_| {}),
        Step::Answer(Answer::Validated)
    ));
    rehearsal.precondition = Precondition::MustExist;
    assert!(matches!(
        step(&rehearsal, &nothing, |_| {}),
        Step::Refuse(Refusal::NotFound)
    ));
}
