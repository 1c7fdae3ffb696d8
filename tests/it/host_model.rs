//! What wasmCloud's own hosts make of a lattice's stream, told from their source and without any of the gateway's
//! code, so that the two can disagree.
//!
//! [`load`] is what the cache loader of a host that starts now comes to hold, of the last hosts that have one
//! (wasmCloud OTP v0.57.2–v0.59.0, `jetstream/cache_loader.ex`, `linkdefs/manager.ex`, `claims/manager.ex`,
//! `refmaps/manager.ex`). [`migrate`] is what a 0.60 host makes of the same stream (v0.60.0–v0.63.2,
//! `jetstream/client.ex`, `jetstream/legacy_cache_loader.ex`, `linkdefs/manager.ex`). JSON is read as Jason 1.2.2
//! reads it (`lib/decoder.ex`), which all of them use.
//!
//! A host that raises over a message keeps what it did before; the message is never acknowledged.

use std::collections::BTreeMap;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXUPPER};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub sequence: u64,
    pub subject: String,
    pub body: Vec<u8>,
}

/// Every message that a lattice's stream holds, in order. `ask` makes a call of `STREAM.MSG.GET` on it.
pub async fn messages(lattice: &str, ask: impl AsyncFn(Value) -> Value) -> Vec<Message> {
    const NO_MESSAGE_FOUND: u64 = 10037;
    let mut messages = Vec::new();
    let mut from = 1;
    loop {
        let answer = ask(json!({"seq": from, "next_by_subj": format!("lc.{lattice}.>")})).await;
        let Some(message) = answer.get("message") else {
            assert_eq!(answer["error"]["err_code"], NO_MESSAGE_FOUND, "{answer}");
            return messages;
        };
        let sequence = message["seq"].as_u64().unwrap();
        let body = message.get("data").and_then(Value::as_str).unwrap_or_default();
        messages.push(Message {
            sequence,
            subject: message["subject"].as_str().unwrap().to_owned(),
            body: BASE64.decode(body.as_bytes()).unwrap(),
        });
        from = sequence + 1;
    }
}

/// What identifies a link for every host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Triple {
    pub actor_id: String,
    pub contract_id: String,
    pub link_name: String,
}

impl Triple {
    /// The id that a migration gives the link: the three texts without anything between them, hashed.
    pub fn migrated_id(&self) -> String {
        let text = [&*self.actor_id, &*self.contract_id, &*self.link_name].concat();
        HEXUPPER.encode(&Sha256::digest(text))
    }
}

/// Claims as a host keeps them, with every member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub sequence: u64,
    pub members: Members,
}

/// A link as a host keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub sequence: u64,
    pub provider_id: Term,
    pub values: Term,
}

/// A reference as a host keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub sequence: u64,
    pub public_key: Term,
}

/// Why a host cannot use a message, or why nobody should send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Raises: not exactly two tokens behind the lattice.
    Tokens,
    /// Logged and acknowledged, but a migration crashes over it: another type than the three.
    Type,
    /// Raises.
    NotJson,
    /// Raises: a member's name that becomes an atom is over 255 characters.
    NameTooLong,
    /// Raises.
    NotAnObject,
    /// Raises.
    Missing(&'static str),
    /// Raises: an alias whose length cannot be told.
    AliasNoText,
    /// Kept under a key that no control interface can name, and a migration crashes over it.
    IdentityNoText(&'static str),
}

/// What a host holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    pub claims: BTreeMap<String, Claims>,
    pub links: BTreeMap<Triple, Link>,
    pub references: BTreeMap<String, Reference>,
    /// Whom an alias names: the first that claimed it.
    pub aliases: BTreeMap<String, String>,
    /// Where the links that are gone were removed.
    pub removed: BTreeMap<Triple, u64>,
    /// The messages with something wrong, by sequence, with their subjects.
    pub troubles: BTreeMap<u64, (String, Trouble)>,
}

/// Loads a stream as a host does at its start.
pub fn load(messages: &[Message]) -> Cache {
    let mut cache = Cache::default();
    for message in in_order(messages) {
        if let Err(trouble) = cache.take(message) {
            cache
                .troubles
                .insert(message.sequence, (message.subject.clone(), trouble));
        }
    }
    cache
}

impl Cache {
    fn take(&mut self, message: &Message) -> Result<(), Trouble> {
        let Message { sequence, body, .. } = message;
        match *tokens(&message.subject) {
            ["linkdefs", _id] => self.take_link(*sequence, body),
            ["claims", key] => self.take_claims(*sequence, key, body),
            ["refmap", _encoded] => self.take_reference(*sequence, body),
            [_type, _key] => Err(Trouble::Type),
            [..] => Err(Trouble::Tokens),
        }
    }

    fn take_link(&mut self, sequence: u64, body: &[u8]) -> Result<(), Trouble> {
        let link = object(body, Names::Atoms)?;
        let triple = triple(&link);
        if link.get("deleted") == Some(&Term::Bool(true)) {
            let triple = triple?;
            self.links.remove(&triple);
            self.removed.insert(triple, sequence);
            return Ok(());
        }
        // Read in this order, before anything is done: actor, contract, name, provider, values.
        present(
            &link,
            &["actor_id", "contract_id", "link_name", "provider_id", "values"],
        )?;
        let triple = triple?;
        let link = Link {
            sequence,
            provider_id: member(&link, "provider_id")?,
            values: member(&link, "values")?,
        };
        self.removed.remove(&triple);
        self.links.insert(triple, link);
        Ok(())
    }

    fn take_claims(&mut self, sequence: u64, key: &str, body: &[u8]) -> Result<(), Trouble> {
        let members = atomized(body)?;
        let alias = member(&members, "call_alias");
        self.claims.insert(key.to_owned(), Claims { sequence, members });
        match alias? {
            Term::Null => Ok(()),
            Term::Text(alias) if alias.chars().count() > 1 => {
                self.aliases.entry(alias).or_insert_with(|| key.to_owned());
                Ok(())
            }
            Term::Text(_none) => Ok(()),
            Term::Bool(_) | Term::Number(_) | Term::List(_) | Term::Map(_) => Err(Trouble::AliasNoText),
        }
    }

    fn take_reference(&mut self, sequence: u64, body: &[u8]) -> Result<(), Trouble> {
        let members = atomized(body)?;
        present(&members, &["oci_url", "public_key"])?;
        let reference = Reference {
            sequence,
            public_key: member(&members, "public_key")?,
        };
        self.references.insert(text(&members, "oci_url")?, reference);
        Ok(())
    }
}

/// What a migration makes of a stream: the values by the keys of the bucket, without their prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub claims: BTreeMap<String, Term>,
    pub links: BTreeMap<String, Migrated>,
    pub references: BTreeMap<String, Term>,
    /// The messages over which the migrating host crashes, by sequence. It starts again, and over; what is told
    /// here is what comes of it once somebody has taken them out.
    pub crashes: BTreeMap<u64, Trouble>,
}

/// A link in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub sequence: u64,
    pub triple: Triple,
    pub members: Members,
}

/// Migrates a stream as a 0.60 host does.
pub fn migrate(messages: &[Message]) -> Bucket {
    let mut bucket = Bucket::default();
    for message in in_order(messages) {
        if let Err(trouble) = bucket.take(message) {
            bucket.crashes.insert(message.sequence, trouble);
        }
    }
    bucket
}

impl Bucket {
    fn take(&mut self, message: &Message) -> Result<(), Trouble> {
        let Message { sequence, body, .. } = message;
        match *tokens(&message.subject) {
            ["linkdefs", _id] => self.take_link(*sequence, body),
            ["claims", key] => self.take_claims(key, body),
            ["refmap", _encoded] => self.take_reference(body),
            [_type, _key] => Err(Trouble::Type),
            [..] => Err(Trouble::Tokens),
        }
    }

    /// A tombstone is skipped: it removes nothing that came before it.
    fn take_link(&mut self, sequence: u64, body: &[u8]) -> Result<(), Trouble> {
        let mut members = object(body, Names::Atoms)?;
        if members.get("deleted") == Some(&Term::Bool(true)) {
            return present(&members, &["actor_id", "provider_id"]);
        }
        let triple = triple(&members)?;
        members.insert("id".to_owned(), Term::Text(triple.migrated_id()));
        let has_provider = present(&members, &["provider_id"]);
        let migrated = Migrated {
            sequence,
            triple,
            members,
        };
        self.links.insert(migrated.triple.migrated_id(), migrated);
        has_provider
    }

    /// What is no JSON is logged and left out.
    fn take_claims(&mut self, key: &str, body: &[u8]) -> Result<(), Trouble> {
        match read(body, Names::Atoms) {
            Ok(claims) => {
                self.claims.insert(key.to_owned(), claims);
                Ok(())
            }
            Err(Unreadable::NotJson) => Ok(()),
            Err(Unreadable::NameTooLong) => Err(Trouble::NameTooLong),
        }
    }

    fn take_reference(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let members = match object(body, Names::Atoms) {
            Err(Trouble::NotJson) => return Ok(()),
            members => members?,
        };
        let url = text(&members, "oci_url")?;
        self.references
            .insert(BASE64URL_NOPAD.encode(url.as_bytes()), Term::Map(members));
        Ok(())
    }
}

fn in_order(messages: &[Message]) -> impl Iterator<Item = &Message> {
    let mut ordered = messages.iter().collect::<Vec<_>>();
    ordered.sort_by_key(|message| message.sequence);
    ordered.into_iter()
}

/// The tokens behind `lc` and the lattice, which has no `.` in its name.
fn tokens(subject: &str) -> Box<[&str]> {
    subject.split('.').skip(2).collect()
}

fn triple(link: &Members) -> Result<Triple, Trouble> {
    present(link, &["actor_id", "contract_id", "link_name"])?;
    Ok(Triple {
        actor_id: text(link, "actor_id")?,
        contract_id: text(link, "contract_id")?,
        link_name: text(link, "link_name")?,
    })
}

fn present(members: &Members, names: &[&'static str]) -> Result<(), Trouble> {
    match names.iter().find(|name| !members.contains_key(**name)) {
        Some(name) => Err(Trouble::Missing(name)),
        None => Ok(()),
    }
}

fn member(members: &Members, name: &'static str) -> Result<Term, Trouble> {
    members.get(name).cloned().ok_or(Trouble::Missing(name))
}

fn text(members: &Members, name: &'static str) -> Result<String, Trouble> {
    match member(members, name)? {
        Term::Text(text) => Ok(text),
        Term::Null | Term::Bool(_) | Term::Number(_) | Term::List(_) | Term::Map(_) => {
            Err(Trouble::IdentityNoText(name))
        }
    }
}

fn object(body: &[u8], names: Names) -> Result<Members, Trouble> {
    match read(body, names) {
        Ok(Term::Map(members)) => Ok(members),
        Ok(Term::Null | Term::Bool(_) | Term::Number(_) | Term::Text(_) | Term::List(_)) => {
            Err(Trouble::NotAnObject)
        }
        Err(Unreadable::NotJson) => Err(Trouble::NotJson),
        Err(Unreadable::NameTooLong) => Err(Trouble::NameTooLong),
    }
}

/// Claims and references are read with texts for names, and only the outermost become atoms.
fn atomized(body: &[u8]) -> Result<Members, Trouble> {
    let members = object(body, Names::Texts)?;
    match members.keys().any(|name| is_too_long(name)) {
        true => Err(Trouble::NameTooLong),
        false => Ok(members),
    }
}

/// The BEAM's limit for an atom.
fn is_too_long(name: &str) -> bool {
    name.chars().count() > 255
}

/// A value as Jason gives it to Elixir.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Term>),
    Map(Members),
}

/// The members of an object. Of those with one name, the first.
pub type Members = BTreeMap<String, Term>;

/// What becomes of members' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Texts,
    Atoms,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    NotJson,
    NameTooLong,
}

/// Reads JSON as Jason does.
pub fn read(json: &[u8], names: Names) -> Result<Term, Unreadable> {
    let mut reader = Reader { rest: json, names };
    let term = reader.value()?;
    reader.skip_space();
    match reader.rest {
        [] => Ok(term),
        [..] => Err(Unreadable::NotJson),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    names: Names,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Term, Unreadable> {
        self.skip_space();
        match self.rest {
            [b'"', ..] => self.text().map(Term::Text),
            [b'{', ..] => self.map(),
            [b'[', ..] => self.list(),
            [b'-' | b'0'..=b'9', ..] => self.number(),
            rest => {
                let words = [
                    ("null", Term::Null),
                    ("true", Term::Bool(true)),
                    ("false", Term::Bool(false)),
                ];
                let (word, term) = words
                    .into_iter()
                    .find(|(word, _)| rest.starts_with(word.as_bytes()))
                    .ok_or(Unreadable::NotJson)?;
                self.rest = &rest[word.len()..];
                Ok(term)
            }
        }
    }

    fn map(&mut self) -> Result<Term, Unreadable> {
        let mut members = Members::new();
        self.expect(b'{')?;
        if self.is_next(b'}') {
            return Ok(Term::Map(members));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            self.skip_space();
            self.expect(b':')?;
            let value = self.value()?;
            if self.names == Names::Atoms && is_too_long(&name) {
                return Err(Unreadable::NameTooLong);
            }
            members.entry(name).or_insert(value);
            if self.is_next(b'}') {
                return Ok(Term::Map(members));
            }
            self.expect(b',')?;
        }
    }

    fn list(&mut self) -> Result<Term, Unreadable> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        if self.is_next(b']') {
            return Ok(Term::List(items));
        }
        loop {
            items.push(self.value()?);
            if self.is_next(b']') {
                return Ok(Term::List(items));
            }
            self.expect(b',')?;
        }
    }

    fn text(&mut self) -> Result<String, Unreadable> {
        self.expect(b'"')?;
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'"' => return String::from_utf8(bytes).map_err(|_error| Unreadable::NotJson),
                b'\\' => self.escaped(&mut bytes)?,
                0x00..=0x1f => return Err(Unreadable::NotJson),
                byte => bytes.push(byte),
            }
        }
    }

    fn escaped(&mut self, bytes: &mut Vec<u8>) -> Result<(), Unreadable> {
        let plain = match self.byte()? {
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 0x0c,
            b'r' => b'\r',
            byte @ (b'"' | b'/' | b'\\') => byte,
            b'u' => {
                let character = self.code_unit().and_then(|unit| match unit {
                    0xd800..=0xdbff => {
                        self.expect(b'\\')?;
                        self.expect(b'u')?;
                        let pair = [unit, self.code_unit()?];
                        char::decode_utf16(pair)
                            .next()
                            .and_then(Result::ok)
                            .ok_or(Unreadable::NotJson)
                    }
                    unit => char::from_u32(unit.into()).ok_or(Unreadable::NotJson),
                })?;
                bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
                return Ok(());
            }
            _other => return Err(Unreadable::NotJson),
        };
        bytes.push(plain);
        Ok(())
    }

    fn code_unit(&mut self) -> Result<u16, Unreadable> {
        let (digits, rest) = self.rest.split_first_chunk::<4>().ok_or(Unreadable::NotJson)?;
        self.rest = rest;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_hex);
        text.and_then(|text| u16::from_str_radix(text, 16).ok())
            .ok_or(Unreadable::NotJson)
    }

    fn number(&mut self) -> Result<Term, Unreadable> {
        let start = self.rest;
        self.take_if(b"-");
        match self.byte()? {
            b'0' => {}
            b'1'..=b'9' => drop(self.digits()),
            _other => return Err(Unreadable::NotJson),
        }
        let is_fraction = self.take_if(b".");
        if is_fraction && self.digits() == 0 {
            return Err(Unreadable::NotJson);
        }
        let has_exponent = self.take_if(b"eE");
        if has_exponent {
            self.take_if(b"+-");
            if self.digits() == 0 {
                return Err(Unreadable::NotJson);
            }
        }
        let written = &start[..start.len() - self.rest.len()];
        let written = std::str::from_utf8(written).map_err(|_error| Unreadable::NotJson)?;
        let is_finite = written.parse::<f64>().is_ok_and(f64::is_finite);
        // Whole numbers have no bound, others are floats.
        match is_finite || !(is_fraction || has_exponent) {
            true => Ok(Term::Number(written.to_owned())),
            false => Err(Unreadable::NotJson),
        }
    }

    fn digits(&mut self) -> usize {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
        count
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\n' | b'\r');
        let count = self.rest.iter().take_while(is_space).count();
        self.rest = &self.rest[count..];
    }

    fn is_next(&mut self, wanted: u8) -> bool {
        self.skip_space();
        self.take_if(&[wanted])
    }

    fn take_if(&mut self, wanted: &[u8]) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if wanted.contains(first) => {
                self.rest = rest;
                true
            }
            Some(_) | None => false,
        }
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Unreadable> {
        match self.byte()? == wanted {
            true => Ok(()),
            false => Err(Unreadable::NotJson),
        }
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (first, rest) = self.rest.split_first().ok_or(Unreadable::NotJson)?;
        self.rest = rest;
        Ok(*first)
    }
}

#[test]
fn the_model_reads_json_as_jason_does() {
    let text = |text: &str| Term::Text(text.to_owned());
    let doubled = br#" {"a":{"x":"first","x":"last"},"a":null,"b":[1,-0.5e+3,true]} "#;
    let expected = Term::Map(Members::from([
        (
            "a".to_owned(),
            Term::Map(Members::from([("x".to_owned(), text("first"))])),
        ),
        (
            "b".to_owned(),
            Term::List(vec![
                Term::Number("1".to_owned()),
                Term::Number("-0.5e+3".to_owned()),
                Term::Bool(true),
            ]),
        ),
    ]));
    assert_eq!(read(doubled, Names::Atoms), Ok(expected));
    assert_eq!(
        read(br#""\ud83d\ude00\u00e9\n\/""#, Names::Texts),
        Ok(text("😀é\n/"))
    );
    for refused in [
        &b""[..],
        b"{",
        b"{}x",
        b"[1,]",
        b"{\"a\":1,}",
        b"01",
        b"1.",
        b".5",
        b"1e400",
        b"+1",
        b"nul",
        b"\"\\ud800\"",
        b"\"\\udc00\"",
        b"\"\\u+123\"",
        b"\"\n\"",
        b"\"\xff\"",
        b"\xef\xbb\xbf1",
        b"'a'",
    ] {
        assert_eq!(
            read(refused, Names::Texts),
            Err(Unreadable::NotJson),
            "{refused:?}"
        );
    }
    let longest = |count| format!(r#"{{"a":{{"{}":1}}}}"#, "é".repeat(count));
    assert!(read(longest(255).as_bytes(), Names::Atoms).is_ok());
    assert_eq!(
        read(longest(256).as_bytes(), Names::Atoms),
        Err(Unreadable::NameTooLong)
    );
    assert!(read(longest(256).as_bytes(), Names::Texts).is_ok());
}

#[test]
fn the_model_migrates_as_a_host_does() {
    let link = |sequence, id: &str, contract: &str, name: &str, deleted: bool| Message {
        sequence,
        subject: format!("lc.default.linkdefs.{id}"),
        body: serde_json::json!({
            "actor_id": "M", "contract_id": contract, "link_name": name, "provider_id": "V", "values": {},
            "deleted": deleted,
        })
        .to_string()
        .into(),
    };
    // A link put twice and deleted once is revived; two links whose parts run into each other become one.
    let messages = [
        link(1, "one", "c", "revived", false),
        link(2, "two", "c", "revived", true),
        link(3, "three", "wasmcloud:http", "serverdefault", false),
        link(4, "four", "wasmcloud:httpserver", "default", false),
    ];
    let bucket = migrate(&messages);
    let names = |migrated: &Migrated| (migrated.sequence, migrated.triple.link_name.clone());
    let mut links = bucket.links.values().map(names).collect::<Vec<_>>();
    links.sort();
    assert_eq!(links, [(1, "revived".to_owned()), (4, "default".to_owned())]);
    let loaded = load(&messages);
    assert_eq!(loaded.links.len(), 2);
    assert_eq!(loaded.removed.into_values().collect::<Vec<_>>(), [2]);
    let crash = Message {
        subject: "lc.default.ocimap.x".to_owned(),
        ..link(5, "x", "c", "n", false)
    };
    assert_eq!(migrate(&[crash]).crashes, BTreeMap::from([(5, Trouble::Type)]));
}
