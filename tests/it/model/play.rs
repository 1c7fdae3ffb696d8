//! Plays a script on one lattice, and judges every answer by what the stream holds before and after it.

use std::collections::{BTreeMap, BTreeSet};

use lattice_gateway::proto::{ErrorReason, Outcome};
use proptest::sample::Index;

use super::{
    script::{Foreign, Step, Terms, Uuids, What, Wish, addressable_keys},
    shown::{Key, Shown, State, by_hosts, told_by},
    stand::{Answer, Asked, Condition, Stand, describe, get, list, send},
};
use crate::{
    harness::{TestGateway, Told},
    host_model::{Cache, Members, Message, Names, Term, load, read},
};

/// A stream, and what hosts make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub messages: Vec<Message>,
    pub cache: Cache,
    pub state: State,
}

impl Picture {
    pub async fn take(stand: &Stand, lattice: &str) -> Self {
        Self::of(stand.messages(lattice).await)
    }

    pub fn of(messages: Vec<Message>) -> Self {
        let cache = load(&messages);
        Self {
            state: by_hosts(&cache),
            cache,
            messages,
        }
    }

    /// The picture after one more message.
    fn with(&self, message: Message) -> Self {
        let mut messages = self.messages.clone();
        messages.retain(|other| other.subject != message.subject);
        messages.push(message);
        Self::of(messages)
    }

    fn last_sequence(&self) -> u64 {
        let sequences = self.messages.iter().map(|message| message.sequence);
        sequences.max().unwrap_or(0)
    }

    /// The sequence of the message that decides about an entry, also where that is a tombstone.
    pub fn last_word(&self, key: &Key) -> Option<u64> {
        let removed = match key {
            Key::Link(triple) => self.cache.removed.get(triple).copied(),
            Key::Claims(_) | Key::Reference(_) => None,
        };
        removed.or_else(|| self.state.get(key).map(|shown| shown.sequence))
    }

    /// The superseded copies of entries that nobody needs: all but the last word, and but what is on the home of the
    /// entry, which holds its record of calls.
    pub fn removable(&self, lattice: &str) -> BTreeSet<u64> {
        let superseded = self.messages.iter().filter(|message| {
            told_by(message).is_some_and(|key| {
                self.last_word(&key) != Some(message.sequence)
                    && message.subject != format!("lc.{lattice}.{}", key.home())
            })
        });
        superseded.map(|message| message.sequence).collect()
    }
}

/// An applied call with an id.
#[derive(Debug)]
struct Done {
    what: What,
    condition: Condition,
    sequence: u64,
}

/// A lattice under way.
pub struct Play<'a> {
    stand: &'a Stand,
    gateways: &'a [TestGateway; 2],
    uuids: Uuids,
    pub lattice: String,
    /// As of the last step, but for what was swept since.
    picture: Picture,
    /// The calls with an id that were sent.
    sent: Vec<Asked>,
    /// Those that were applied, by entry, whether they delete, and id.
    done: BTreeMap<(Key, bool, String), Done>,
    etags: Vec<String>,
    /// The entries that somebody published about without a gateway.
    touched: BTreeSet<Key>,
}

impl<'a> Play<'a> {
    pub async fn begin(stand: &'a Stand, gateways: &'a [TestGateway; 2], uuids: Uuids) -> Self {
        Self {
            stand,
            gateways,
            uuids,
            lattice: stand.lattice().await,
            picture: Picture::of(Vec::new()),
            sent: Vec::new(),
            done: BTreeMap::new(),
            etags: Vec::new(),
            touched: BTreeSet::new(),
        }
    }

    pub async fn play(&mut self, script: &[Step]) {
        for step in script {
            match step {
                Step::Call {
                    gateway,
                    what,
                    terms,
                    is_fresh,
                } => {
                    self.call(*gateway, what, terms, *is_fresh).await;
                }
                Step::Retry {
                    which,
                    gateway,
                    retry_age,
                } => {
                    if let Some(asked) = pick(*which, &self.sent) {
                        let retry = Asked {
                            retry_age: *retry_age,
                            ..asked.clone()
                        };
                        self.send(*gateway, &retry, false).await;
                    }
                }
                Step::Foreign(foreign) => self.publish(foreign).await,
            }
        }
    }

    async fn call(&mut self, gateway: usize, what: &What, terms: &Terms, is_fresh: bool) {
        let condition = match terms.condition {
            Wish::Nothing => Condition::None,
            Wish::MustExist => Condition::MustExist,
            Wish::MustNotExist => Condition::MustNotExist,
            Wish::CurrentEtag => self
                .etag(gateway, &what.key())
                .await
                .map_or(Condition::None, Condition::Etag),
            Wish::OldEtag => {
                let current = self.etag(gateway, &what.key()).await;
                let old = self.etags.iter().find(|etag| Some(*etag) != current.as_ref());
                old.cloned().map_or(Condition::None, Condition::Etag)
            }
        };
        let asked = Asked {
            what: what.clone(),
            request_id: terms
                .request_id
                .map(|id| format!("request-{id:04}"))
                .unwrap_or_default(),
            retry_age: terms.retry_age,
            condition,
            is_dry: terms.is_dry,
        };
        self.send(gateway, &asked, is_fresh).await;
        if !asked.request_id.is_empty() {
            self.sent.push(asked);
        }
    }

    async fn etag(&self, gateway: usize, key: &Key) -> Option<String> {
        let current = get(&self.gateways[gateway], &self.lattice, key).await;
        current.map(|(_, _, etag)| etag)
    }

    async fn send(&mut self, gateway: usize, asked: &Asked, is_fresh: bool) {
        let gateway = &self.gateways[gateway];
        let before = &self.picture;
        // What holds only up to a mirror's lag behind hosts is judged where the mirror does not lag.
        let is_delete = matches!(asked.what, What::DeleteLink { .. });
        let is_fresh = is_fresh || asked.is_dry || is_delete || asked.condition != Condition::None;
        let mut etag = None;
        if is_fresh {
            let current = get(gateway, &self.lattice, &asked.what.key()).await;
            let stands = current.as_ref().map(|(_, shown, _)| shown);
            assert_eq!(
                stands,
                before.state.get(&asked.what.key()),
                "a read before {asked:?}"
            );
            etag = current.map(|(_, _, etag)| etag);
            self.etags.extend(etag.clone());
        }
        let answer = send(gateway, &self.lattice, asked).await;
        let after = Picture::take(self.stand, &self.lattice).await;
        let news = after
            .messages
            .iter()
            .filter(|message| message.sequence > before.last_sequence());
        let news = news.cloned().collect::<Vec<_>>();
        let judge = Judge {
            lattice: &self.lattice,
            asked,
            is_fresh,
            etag,
            done: self.done.get(&intent(asked)),
            is_touched: self.touched.contains(&asked.what.key()),
            before,
            after: &after,
            news: &news,
        };
        match &answer {
            Ok(answer) => judge.answer(answer),
            Err(told) => judge.refusal(told),
        }
        judge.others();
        if let ([message], false) = (&*news, asked.request_id.is_empty()) {
            let done = Done {
                what: asked.what.clone(),
                condition: asked.condition.clone(),
                sequence: message.sequence,
            };
            self.done.insert(intent(asked), done);
        }
        self.picture = after;
    }

    async fn publish(&mut self, foreign: &Foreign) {
        let (tokens, body) = foreign.message(self.uuids);
        let message = Message {
            sequence: self.stand.publish(&self.lattice, &tokens, body.clone()).await,
            subject: format!("lc.{}.{tokens}", self.lattice),
            body: body.into(),
        };
        self.touched.extend(told_by(&message));
        self.picture = self.picture.with(message);
    }

    /// Compares what two gateways tell of the lattice, by every read, with what hosts make of its stream.
    pub async fn compare(&self, gateways: &[TestGateway; 2]) -> Picture {
        let picture = Picture::take(self.stand, &self.lattice).await;
        assert_eq!(picture.state, self.picture.state, "nobody has written meanwhile");
        let mut told = Vec::new();
        for gateway in gateways {
            let listed = list(gateway, &self.lattice).await;
            let keys = listed.iter().map(|(key, ..)| key).collect::<Vec<_>>();
            assert_eq!(
                keys,
                picture.state.keys().collect::<Vec<_>>(),
                "the lists and their order"
            );
            for (key, shown, _) in &listed {
                assert_eq!(shown, &picture.state[key], "{key:?}");
            }
            for key in addressable_keys() {
                let listed = listed.iter().find(|(listed, ..)| *listed == key);
                assert_eq!(get(gateway, &self.lattice, &key).await.as_ref(), listed);
            }
            self.compare_description(gateway, &picture).await;
            told.push(listed);
        }
        assert_eq!(told[0], told[1], "both gateways tell the same etags");
        picture
    }

    async fn compare_description(&self, gateway: &TestGateway, picture: &Picture) {
        let told = describe(gateway, &self.lattice).await;
        let troubles = picture.cache.troubles.iter();
        let expected = troubles
            .map(|(sequence, (subject, _))| (*sequence, &**subject))
            .collect::<Vec<_>>();
        let malformed = told
            .malformed
            .iter()
            .map(|entry| (entry.sequence, &*entry.subject));
        assert_eq!(malformed.collect::<Vec<_>>(), expected, "{:?}", told.malformed);
        assert!(told.malformed.iter().all(|entry| !entry.reason.is_empty()));
        assert_eq!(usize::try_from(told.malformed_count).unwrap(), expected.len());
        let count = |is_kind: fn(&Key) -> bool| {
            let keys = picture.state.keys().filter(|key| is_kind(key));
            u64::try_from(keys.count()).unwrap()
        };
        let expected = [
            count(|key| matches!(key, Key::Claims(_))),
            count(|key| matches!(key, Key::Link(_))),
            count(|key| matches!(key, Key::Reference(_))),
        ];
        let counts = [
            told.claims_count,
            told.link_definition_count,
            told.oci_reference_count,
        ];
        assert_eq!(counts, expected, "claims, links, references");
        assert_eq!(told.stale_copies, 0, "the stream lets them be removed");
    }
}

fn pick(which: Index, sent: &[Asked]) -> Option<&Asked> {
    (!sent.is_empty()).then(|| which.get(sent))
}

/// An id names an intent on one entry, by one method.
fn intent(asked: &Asked) -> (Key, bool, String) {
    let is_delete = matches!(asked.what, What::DeleteLink { .. });
    (asked.what.key(), is_delete, asked.request_id.clone())
}

/// What one mutation is judged by.
struct Judge<'a> {
    lattice: &'a str,
    asked: &'a Asked,
    is_fresh: bool,
    /// The entry's etag before, where it was read.
    etag: Option<String>,
    /// The call that was applied under this id.
    done: Option<&'a Done>,
    is_touched: bool,
    before: &'a Picture,
    after: &'a Picture,
    /// What the stream was given meanwhile.
    news: &'a [Message],
}

impl Judge<'_> {
    fn answer(&self, answer: &Answer) {
        let asked = self.asked;
        let result = &answer.result;
        let context = format!("{asked:?} answered {result:?}");
        let sequence = result
            .revision
            .as_ref()
            .expect("a result has a revision")
            .sequence;
        match (result.outcome(), self.news) {
            (Outcome::Applied | Outcome::Unchanged, [message]) => {
                assert!(self.done.is_none(), "applied twice: {context}");
                assert!(!asked.is_dry && !result.superseded, "{context}");
                assert_eq!(message.sequence, sequence, "{context}");
                self.stored(message, &context);
                self.condition_held(&context);
                let is_unchanged = result.outcome() == Outcome::Unchanged;
                assert!(!is_unchanged || !asked.request_id.is_empty(), "{context}");
                if self.is_fresh {
                    assert_eq!(is_unchanged, self.stood_as_asked(), "{context}");
                }
            }
            (Outcome::Unchanged, []) => {
                let is_record_left = asked.what.desired().is_some() && !asked.request_id.is_empty();
                assert!(
                    !asked.is_dry && !result.superseded && !is_record_left,
                    "{context}"
                );
                assert!(self.stood_as_asked(), "{context}");
                self.condition_held(&context);
            }
            (Outcome::Validated, []) => {
                assert!(asked.is_dry && !result.superseded, "{context}");
                self.condition_held(&context);
            }
            (Outcome::AlreadyApplied, []) => {
                let done = self.done.unwrap_or_else(|| panic!("it was not: {context}"));
                let is_same = self.is_same(done);
                // A record that a foreign message has cost is told by the id alone.
                assert!(is_same || (self.is_touched && result.superseded), "{context}");
                assert_eq!(sequence, done.sequence, "{context}");
                let is_last = self.before.last_word(&asked.what.key()) == Some(done.sequence);
                assert_eq!(result.superseded, !is_last, "{context}");
            }
            (
                Outcome::Unspecified
                | Outcome::Applied
                | Outcome::Unchanged
                | Outcome::AlreadyApplied
                | Outcome::Validated,
                news,
            ) => panic!("{context}, with {} new messages", news.len()),
        }
        if result.outcome() != Outcome::AlreadyApplied {
            self.must_not_be_known(&context);
        }
        self.entry(answer, &context);
    }

    /// A mutation changes its own entry alone.
    fn others(&self) {
        let key = self.asked.what.key();
        let others = |picture: &Picture| {
            let mut state = picture.state.clone();
            state.remove(&key);
            (state, picture.cache.troubles.clone())
        };
        assert_eq!(others(self.after), others(self.before), "beside {:?}", self.asked);
    }

    /// The entry in the answer is the one that stands now or, of a dry run, that would stand.
    fn entry(&self, answer: &Answer, context: &str) {
        let key = self.asked.what.key();
        let stands = self.after.state.get(&key);
        let has_etag = stands.is_some() && !answer.result.superseded;
        assert_eq!(!answer.result.etag.is_empty(), has_etag, "the etag: {context}");
        let Some(desired) = self.asked.what.desired() else {
            return;
        };
        if answer.result.outcome() == Outcome::Validated {
            let would_stand = Shown {
                sequence: 0,
                fields: desired,
            };
            assert_eq!(answer.entry, Some((key, would_stand, String::new())), "{context}");
            return;
        }
        let entry = answer.entry.as_ref();
        assert_eq!(entry.map(|(_, shown, _)| shown), stands, "{context}");
        if let Some((answered, _, etag)) = entry {
            assert_eq!(*answered, key, "{context}");
            assert!(!has_etag || *etag == answer.result.etag, "{context}");
        }
    }

    /// What was stored is whole, in its place, and the last word.
    fn stored(&self, message: &Message, context: &str) {
        let key = self.asked.what.key();
        assert_eq!(
            message.subject,
            format!("lc.{}.{}", self.lattice, key.home()),
            "{context}"
        );
        assert_eq!(self.after.last_word(&key), Some(message.sequence), "{context}");
        let fields = self.after.state.get(&key).map(|shown| &shown.fields);
        assert_eq!(fields, self.asked.what.desired().as_ref(), "{context}");
        let Ok(Term::Map(members)) = read(&message.body, Names::Atoms) else {
            panic!("no object was stored: {context}");
        };
        let (texts, others): (Members, Members) = members
            .into_iter()
            .partition(|(_, value)| matches!(value, Term::Text(_)));
        let names = texts.keys().map(String::as_str).collect::<Vec<_>>();
        match key {
            Key::Claims(key) => {
                let expected = [
                    "call_alias",
                    "caps",
                    "iss",
                    "name",
                    "rev",
                    "sub",
                    "tags",
                    "version",
                ];
                assert_eq!((names, others), (expected.to_vec(), Members::new()), "{context}");
                assert_eq!(texts["sub"], Term::Text(key), "{context}");
            }
            Key::Reference(_) => {
                assert_eq!(
                    (names, others),
                    (vec!["oci_url", "public_key"], Members::new()),
                    "{context}"
                );
            }
            Key::Link(_) => {
                let expected = ["actor_id", "contract_id", "id", "link_name", "provider_id"];
                assert_eq!(names, expected, "{context}");
                let (_, token) = message.subject.rsplit_once('.').unwrap();
                assert_eq!(texts["id"], Term::Text(token.to_owned()), "{context}");
                let is_deleted = fields.is_none();
                assert_eq!(others.len(), 2, "{context}");
                assert_eq!(others["deleted"], Term::Bool(is_deleted), "{context}");
                assert!(matches!(&others["values"], Term::Map(values) if is_deleted == values.is_empty()));
            }
        }
    }

    fn refusal(&self, told: &Told) {
        let asked = self.asked;
        let context = format!("{asked:?} was refused: {told:?}");
        assert_eq!(self.news, [], "{context}");
        let exists = self.before.state.contains_key(&asked.what.key());
        let is_delete_of_nothing = matches!(
            asked.what,
            What::DeleteLink {
                allow_missing: false,
                ..
            }
        );
        let is_etag_other =
            matches!(&asked.condition, Condition::Etag(etag) if Some(etag) != self.etag.as_ref());
        let is_missing = !exists && (is_delete_of_nothing || asked.condition == Condition::MustExist);
        let is_retry = !asked.request_id.is_empty() && asked.retry_age.is_some();
        let is_there = self.before.last_word(&asked.what.key()).is_some();
        let reasons = [
            (
                ErrorReason::RequestIdReused,
                self.done.is_some_and(|done| !self.is_same(done)),
            ),
            (ErrorReason::EntryNotFound, is_missing),
            (
                ErrorReason::EntryExists,
                exists && asked.condition == Condition::MustNotExist,
            ),
            (ErrorReason::EtagMismatch, is_etag_other),
            (
                ErrorReason::OutcomeSuperseded,
                // Every entry here began after the first attempt, so that none has a record that reaches back to it. Where
                // there is nothing of an entry, it is written unless that is refused; whether the refusal is told depends on
                // since when the gateway follows the stream.
                is_retry && self.done.is_none() && (is_there || is_missing || is_etag_other),
            ),
        ];
        let is_true = reasons.contains(&(told.reason, true));
        assert!(is_true, "{context}");
        if told.reason != ErrorReason::RequestIdReused {
            self.must_not_be_known(&context);
        }
    }

    /// A call that was applied is recognised as long as no foreign message has cost the record of it, and as a retry
    /// even then while there is anything of the entry.
    fn must_not_be_known(&self, context: &str) {
        if self.done.is_some() {
            let is_there = self.before.last_word(&self.asked.what.key()).is_some();
            let is_retry = self.asked.retry_age.is_some();
            assert!(
                self.is_touched && !(is_retry && is_there),
                "it was applied before: {context}"
            );
        }
    }

    fn is_same(&self, done: &Done) -> bool {
        (&done.what, &done.condition) == (&self.asked.what, &self.asked.condition)
    }

    fn stood_as_asked(&self) -> bool {
        let stood = self.before.state.get(&self.asked.what.key());
        stood.map(|shown: &Shown| &shown.fields) == self.asked.what.desired().as_ref()
    }

    fn condition_held(&self, context: &str) {
        let exists = self.before.state.contains_key(&self.asked.what.key());
        let held = match &self.asked.condition {
            Condition::None => true,
            Condition::MustExist => exists,
            Condition::MustNotExist => !exists,
            Condition::Etag(etag) => self.etag.as_ref() == Some(etag),
        };
        assert!(held, "the condition did not hold: {context}");
        let is_missing = matches!(
            self.asked.what,
            What::DeleteLink {
                allow_missing: false,
                ..
            }
        ) && !exists;
        assert!(!is_missing, "there was nothing to delete: {context}");
    }
}
