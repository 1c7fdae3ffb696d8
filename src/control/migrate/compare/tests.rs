use super::*;
use crate::{
    domain::{Epoch, LinkId},
    store::mirror::Delivery,
};

const FORM: ClaimsForm = ClaimsForm::Short;

/// What one of both holds, each message younger than the one before.
struct Messages {
    part: Part,
    contents: Contents,
    sequence: u64,
}

impl Messages {
    fn of(part: Part) -> Self {
        Self {
            part,
            contents: Contents::new(part, Epoch::from_number(1)),
            sequence: 0,
        }
    }

    fn put(&mut self, at: i64, tokens: &str, body: &str) {
        self.deliver(at, tokens, false, body);
    }

    fn deliver(&mut self, at: i64, tokens: &str, is_marker: bool, body: &str) {
        self.sequence += 1;
        self.contents.put(&Delivery {
            tokens,
            sequence: self.sequence,
            unix_nanos: at,
            is_marker,
            body: body.as_bytes(),
            evidence: None,
        });
    }

    fn link(&mut self, at: i64, id: &LinkId, value: &str) {
        let key = EntryKey::LinkDefinition(id.clone());
        let link = crate::domain::LinkDefinition {
            provider_id: "V".into(),
            values: [("value", value)].into_iter().collect(),
        };
        let body = self
            .part
            .put_body(&key, &Entry::LinkDefinition(link), FORM)
            .unwrap();
        let home = self.part.home(&key).unwrap();
        self.put(at, &home, std::str::from_utf8(&body).unwrap());
    }
}

fn stream() -> Messages {
    Messages::of(Part::CacheStream)
}

fn bucket() -> Messages {
    Messages::of(Part::Kv)
}

fn id(contract: &str, name: &str) -> LinkId {
    LinkId::new("M", contract, name)
}

fn key(contract: &str, name: &str) -> EntryKey {
    EntryKey::LinkDefinition(id(contract, name))
}

/// What is to become of what differs, and how much is the same.
fn check(
    (source, target): (&Messages, &Messages),
    changes: &[(EntryKey, Action)],
    kept: &[(EntryKey, Kept)],
    unchanged: usize,
) {
    let compared = compare(&source.contents, Some(&target.contents), FORM);
    assert_eq!(compared.actions(), changes);
    assert_eq!((&compared.kept[..], compared.unchanged), (kept, unchanged));
}

#[test]
fn what_the_bucket_lacks_is_created_and_what_it_has_is_left() {
    let (mut source, mut target) = (stream(), bucket());
    source.link(1, &id("c", "a"), "1");
    source.link(2, &id("c", "b"), "1");
    target.link(3, &id("c", "a"), "1");
    check((&source, &target), &[(key("c", "b"), Action::Create)], &[], 1);
    let all = compare(&source.contents, None, FORM);
    assert_eq!(all.changes.len(), 2);
    assert_eq!(all.changes[0].precondition, Precondition::MustNotExist);
}

#[test]
fn the_younger_of_both_stands() {
    let (mut source, mut target) = (stream(), bucket());
    for name in ["a", "b"] {
        target.link(5, &id("c", name), "bucket");
    }
    source.link(4, &id("c", "a"), "stream");
    source.link(6, &id("c", "b"), "stream");
    check(
        (&source, &target),
        &[(key("c", "b"), Action::Replace)],
        &[(key("c", "a"), Kept::Younger)],
        0,
    );
}

#[test]
fn what_was_deleted_from_the_stream_since_is_deleted_and_nothing_else() {
    let tombstone = |name: &str| {
        format!(
            r#"{{"actor_id":"M","contract_id":"c","deleted":true,"id":"x","link_name":"{name}","provider_id":"V","values":{{}}}}"#
        )
    };
    let (mut source, mut target) = (stream(), bucket());
    for name in ["before", "after", "never"] {
        target.link(5, &id("c", name), "1");
    }
    source.put(4, "linkdefs.x", &tombstone("before"));
    source.put(6, "linkdefs.y", &tombstone("after"));
    check(
        (&source, &target),
        &[(key("c", "after"), Action::Delete)],
        &[
            (key("c", "before"), Kept::BucketAlone),
            (key("c", "never"), Kept::BucketAlone),
        ],
        0,
    );
}

#[test]
fn what_was_deleted_from_the_bucket_stays_deleted_unless_it_was_put_into_the_stream_since() {
    let (mut source, mut target) = (stream(), bucket());
    for (name, at) in [("a", 4), ("b", 6)] {
        source.link(at, &id("c", name), "1");
        let home = Part::Kv.home(&key("c", name)).unwrap();
        target.link(3, &id("c", name), "1");
        target.deliver(5, &home, true, "");
    }
    check(
        (&source, &target),
        &[(key("c", "b"), Action::Create)],
        &[(key("c", "a"), Kept::Younger)],
        0,
    );
}

#[test]
fn of_two_links_with_one_key_the_second_is_not_moved() {
    let mut source = stream();
    source.link(1, &id("wasmcloud:http", "serverdefault"), "1");
    source.link(2, &id("wasmcloud:httpserver", "default"), "1");
    let first = (key("wasmcloud:http", "serverdefault"), Action::Create);
    let second = (key("wasmcloud:httpserver", "default"), Kept::SameKey);
    check((&source, &bucket()), &[first], std::slice::from_ref(&second), 0);
    let mut target = bucket();
    target.link(3, &id("wasmcloud:http", "serverdefault"), "1");
    check((&source, &target), &[], &[second], 1);
}

#[test]
fn claims_without_a_version_are_the_same_in_the_bucket() {
    let mut source = stream();
    source.put(1, "claims.M", r#"{"call_alias":"","version":null,"rev":"4"}"#);
    let change = compare(&source.contents, None, FORM).changes.remove(0);
    let mut target = bucket();
    target.put(2, "CLAIMS_M", std::str::from_utf8(&change.body).unwrap());
    check((&source, &target), &[], &[], 1);
}

#[test]
fn what_hosts_cannot_use_in_the_bucket_is_not_overwritten() {
    let (mut source, mut target) = (stream(), bucket());
    source.link(9, &id("c", "a"), "1");
    target.put(1, &Part::Kv.home(&key("c", "a")).unwrap(), "{");
    check((&source, &target), &[], &[(key("c", "a"), Kept::Unusable)], 0);
}

#[test]
fn what_a_bucket_has_no_key_for_stays() {
    let mut source = stream();
    source.put(1, "claims.é", r#"{"call_alias":""}"#);
    let kept = (EntryKey::Claims("é".into()), Kept::NoKey);
    check((&source, &bucket()), &[], &[kept], 0);
}
