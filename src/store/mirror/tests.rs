use super::*;
use crate::{
    domain::{LinkDefinition, LinkId},
    store::{
        evidence::{Evidence, NO_ENTRY, RING_MAX},
        layout::ClaimsForm,
    },
};

/// What the stream holds from before: two looks that have nothing in common may be of two lives.
const BESIDE: u64 = 1;

/// One link of a stream, written again and again: all of its messages, of which the stream holds the last.
struct Written {
    key: EntryKey,
    sequence: u64,
    past: Past,
    messages: Vec<Message>,
}

struct Message {
    sequence: u64,
    /// `None` of a host's.
    evidence: Option<String>,
}

/// A second each, so that no margin between clocks matters.
fn unix_millis(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap() * 1_000
}

impl Written {
    /// Whose first message comes behind that sequence.
    fn behind(sequence: u64, contract: &str) -> Self {
        Self {
            key: EntryKey::LinkDefinition(LinkId::new("M", contract, "default")),
            sequence,
            past: Past::default(),
            messages: Vec::new(),
        }
    }

    /// By so many calls of gateways, each named by its sequence.
    fn by_gateways(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.sequence += 1;
            let evidence = Evidence {
                own: Stamp {
                    id: self.sequence.to_be_bytes(),
                    fingerprint: [0; 8],
                    generated: false,
                    entry: NO_ENTRY,
                },
                others: Vec::new(),
                past: self.past.clone(),
                began: self.messages.is_empty(),
            };
            self.messages.push(Message {
                sequence: self.sequence,
                evidence: Some(evidence.encode()),
            });
            self.past = evidence.into_past(self.sequence, unix_millis(self.sequence));
        }
        self
    }

    fn by_a_host(mut self) -> Self {
        self.sequence += 1;
        self.past = self.past.forgotten_until(unix_millis(self.sequence));
        self.messages.push(Message {
            sequence: self.sequence,
            evidence: None,
        });
        self
    }

    /// Something else was written once, and removed.
    fn beside_what_is_gone(mut self) -> Self {
        self.sequence += 1;
        self
    }

    fn deliver(&self, contents: &mut Contents, message: &Message) {
        let link = LinkDefinition {
            provider_id: "V".into(),
            values: [("value", "1")].into_iter().collect(),
        };
        let part = Part::CacheStream;
        contents.put(&Delivery {
            tokens: &part.home(&self.key).unwrap(),
            sequence: message.sequence,
            unix_nanos: unix_millis(message.sequence) * 1_000_000,
            is_marker: false,
            body: &part
                .put_body(&self.key, &Entry::LinkDefinition(link), ClaimsForm::Short)
                .unwrap(),
            evidence: message.evidence.as_deref().map(str::as_bytes),
        });
    }
}

/// What a mirror shows that had followed the link up to so many of its messages, and then read the stream anew.
fn read_anew(written: &Written, followed: usize) -> Contents {
    let look = |messages: &[Message]| {
        let mut contents = Contents::new(Part::CacheStream, Epoch::from_number(1));
        let beside = Written::behind(BESIDE - 1, "beside").by_gateways(1);
        beside.deliver(&mut contents, &beside.messages[0]);
        for message in messages {
            written.deliver(&mut contents, message);
        }
        contents
    };
    let mirror = Mirror::new();
    mirror.exchange(look(&written.messages[..followed]));
    mirror.exchange(look(&written.messages[written.messages.len() - 1..]));
    mirror.inner.into_inner().contents.unwrap()
}

fn link() -> Written {
    Written::behind(BESIDE, "wasmcloud:keyvalue")
}

/// Since which sequence a mirror that has followed so many messages, and read anew, says that it has seen every call.
fn witnessed_since(written: &Written, followed: usize) -> Option<u64> {
    let contents = read_anew(written, followed);
    let view = contents.view(&written.key, [0xff; 8]);
    view.witnessed_since
        .map(|millis| u64::try_from(millis).unwrap() / 1_000)
}

#[test]
fn what_was_overwritten_while_the_stream_was_read_anew_is_told_by_its_successor() {
    let all_followed = link().by_gateways(50);
    assert_eq!(witnessed_since(&all_followed, 50), Some(BESIDE));
    let missed = link().by_gateways(50 + RING_MAX + 1);
    assert_eq!(witnessed_since(&missed, 50), Some(BESIDE));
    let call = 60_u64.to_be_bytes();
    let applied = read_anew(&missed, 50).view(&missed.key, call).applied;
    assert_eq!(applied.unwrap().sequence, 60);
}

#[test]
fn what_nothing_tells_of_begins_the_run_anew() {
    let more_than_is_on_record = link().by_gateways(50 + RING_MAX + 2);
    assert_eq!(
        witnessed_since(&more_than_is_on_record, 50),
        Some(BESIDE + 52),
        "behind the first that was missed"
    );
    let of_a_host = link().by_gateways(50).by_a_host().by_gateways(4);
    assert_eq!(witnessed_since(&of_a_host, 50), Some(BESIDE + 52));
    assert_eq!(witnessed_since(&of_a_host, 51), Some(BESIDE), "it was seen");
    let gone = link().by_gateways(50).beside_what_is_gone().by_gateways(4);
    assert_eq!(witnessed_since(&gone, 50), Some(BESIDE + 52));
    let applied = read_anew(&gone, 50).view(&gone.key, 7_u64.to_be_bytes()).applied;
    assert_eq!(applied.unwrap().sequence, 7, "what was seen before stays known");
}
