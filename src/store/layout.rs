//! Where an era's hosts keep an entry, and in which form.
//!
//! The only place where a subject is formatted or parsed and where a body is written or read. A [`Layout`] is how the
//! hosts of an era keep a lattice; it has one [`Part`] for each stream that it needs. [`effects`] and [`events`] are what
//! their hosts tell others of a write.

pub mod bucket;
pub mod cache_stream;
pub mod component;
pub mod effects;
pub mod events;
mod first_wins;
pub mod hosts;
pub mod kv;
mod members;

use bytes::Bytes;
use serde_json::Value;

use crate::domain::{Claims, Entry, EntryKey, Invalid, Kind, LatticeName, Violations};

/// How hosts of an era keep a lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// wasmCloud 0.50 to 0.59.
    CacheStream,
    /// wasmCloud 0.60 to 0.82.
    Kv,
    /// wasmCloud 1.0 to 1.9.
    Component,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CacheStream, Self::Kv, Self::Component];

    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CacheStream => "cache-stream",
            Self::Kv => "kv",
            Self::Component => "component",
        }
    }

    /// Reads what the configuration writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.as_str() == text)
    }

    /// The stream that makes the lattice exist.
    pub fn main(self) -> Part {
        match self {
            Self::CacheStream => Part::CacheStream,
            Self::Kv => Part::Kv,
            Self::Component => Part::Component,
        }
    }

    /// All its streams.
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::CacheStream => &[Part::CacheStream],
            Self::Kv => &[Part::Kv],
            Self::Component => &[Part::Component, Part::Configs],
        }
    }

    /// The stream that holds entries of a kind; `None` where this era has none.
    pub fn part_of(self, kind: Kind) -> Option<Part> {
        match (self, kind) {
            (_, Kind::Claims) | (Self::CacheStream | Self::Kv, Kind::LinkDefinition | Kind::OciReference) => {
                Some(self.main())
            }
            (Self::Component, Kind::InterfaceLink | Kind::Component) => Some(Part::Component),
            (Self::Component, Kind::Config) => Some(Part::Configs),
            (Self::Component, Kind::LinkDefinition | Kind::OciReference)
            | (Self::CacheStream | Self::Kv, Kind::InterfaceLink | Kind::Config | Kind::Component) => None,
        }
    }

    /// The subjects on which others are told of writes, as patterns. Hosts of layout `kv` tell them all by themselves.
    pub fn told_subjects(self, lattice: &LatticeName) -> Vec<String> {
        match self {
            Self::CacheStream => effects::patterns(lattice).into(),
            Self::Kv => Vec::new(),
            Self::Component => events::patterns(lattice).into(),
        }
    }

    /// Whether this era has a form for the deletion of entries of a kind.
    pub fn deletes(self, kind: Kind) -> bool {
        match kind {
            Kind::OciReference | Kind::Component => false,
            Kind::Claims => self != Self::CacheStream,
            Kind::LinkDefinition | Kind::InterfaceLink | Kind::Config => true,
        }
    }
}

/// One stream of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `LATTICECACHE_<lattice>`.
    CacheStream,
    /// The bucket `LATTICEDATA_<lattice>`, as hosts 0.60 to 0.82 use it.
    Kv,
    /// The bucket `LATTICEDATA_<lattice>`, as hosts 1.0 to 1.9 use it.
    Component,
    /// The bucket `CONFIGDATA_<lattice>`, as hosts 1.0 to 1.9 use it.
    Configs,
}

/// How the deletion of an entry is told in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// `KV-Operation: DEL`.
    Delete,
    /// `KV-Operation: PURGE` and `Nats-Rollup: sub`.
    Purge,
}

/// The body of a message that deletes an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A message like any other, which says itself that the entry is gone.
    Tombstone(Bytes),
    /// A marker with nothing in it.
    Marker(Marker),
    /// A marker with the stored body in it, byte for byte: from it hosts know what to forget.
    MarkerAsStored(Marker),
}

/// What a stored message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An entry as it stands since this message.
    Put {
        /// What identifies it.
        key: EntryKey,
        /// What it says.
        entry: Entry,
        /// Whether the message says just that. Not where hosts hold something else than the texts shown here.
        is_plain: bool,
    },
    /// The entry is absent since this message.
    Deleted {
        /// What identifies it.
        key: EntryKey,
        /// What it said, as far as the message tells.
        entry: Option<Entry>,
    },
    /// What stood under this key is absent since; which entry that was only its put tells.
    DeletedUnnamed,
    /// Nothing: hosts never look there.
    Nothing,
    /// A message that hosts cannot use, and why.
    Malformed(&'static str),
}

impl Part {
    /// Those of which one makes the lattice exist; two layouts share the bucket.
    pub const EXISTENCE: [Self; 2] = [Self::CacheStream, Self::Kv];

    /// The stream's name.
    pub fn stream_name(self, lattice: &LatticeName) -> String {
        match self {
            Self::CacheStream => cache_stream::stream_name(lattice),
            Self::Kv | Self::Component => bucket::stream_name(bucket::DATA, lattice),
            Self::Configs => bucket::stream_name(bucket::CONFIGS, lattice),
        }
    }

    /// What every subject of the stream begins with, before an entry's own tokens.
    pub fn subject_prefix(self, lattice: &LatticeName) -> String {
        match self {
            Self::CacheStream => cache_stream::subject_prefix(lattice),
            Self::Kv | Self::Component => bucket::subject_prefix(bucket::DATA, lattice),
            Self::Configs => bucket::subject_prefix(bucket::CONFIGS, lattice),
        }
    }

    /// The subjects that entries are kept on, as patterns. A bucket's key can be of several tokens: hosts take a source
    /// such as `a.b`.
    pub fn home_patterns(self, lattice: &LatticeName) -> Vec<String> {
        match self {
            Self::CacheStream => cache_stream::home_patterns(lattice).into(),
            Self::Kv | Self::Component | Self::Configs => vec![format!("{}>", self.subject_prefix(lattice))],
        }
    }

    /// Whether it is a bucket, which is published to through the JetStream domain.
    pub fn is_bucket(self) -> bool {
        self != Self::CacheStream
    }

    /// Where hosts have JetStream keep it.
    pub fn default_storage(self) -> &'static str {
        match self.is_bucket() {
            true => "file",
            false => "memory",
        }
    }

    /// The stream's configuration as hosts create it.
    pub fn stream_config(self, lattice: &LatticeName, storage: &str) -> Value {
        match self {
            Self::CacheStream => cache_stream::stream_config(lattice, storage),
            Self::Kv | Self::Component => bucket::stream_config(bucket::DATA, lattice, storage),
            Self::Configs => bucket::stream_config(bucket::CONFIGS, lattice, storage),
        }
    }

    /// The layout that it is of.
    pub fn layout(self) -> Layout {
        match self {
            Self::CacheStream => Layout::CacheStream,
            Self::Kv => Layout::Kv,
            Self::Component | Self::Configs => Layout::Component,
        }
    }

    /// What stands behind the prefix on the entry's home subject; `None` for a key that has none, which no strictly
    /// parsed key is.
    pub fn home(self, key: &EntryKey) -> Option<String> {
        match self {
            Self::CacheStream => cache_stream::home(key),
            Self::Kv => kv::home(key),
            Self::Component => component::home(key),
            Self::Configs => component::config_home(key),
        }
    }

    /// What the hosts of the era keep of an entry that a caller puts. Refuses what they do not keep; of a signed token
    /// they keep what they can.
    pub fn kept(self, key: &EntryKey, entry: Entry, is_signed: bool) -> Result<Entry, Violations> {
        match (entry, key) {
            (Entry::Claims(claims), EntryKey::Claims(public_key)) => self
                .kept_claims(public_key, *claims, is_signed)
                .map(|claims| Entry::Claims(Box::new(claims))),
            (entry, _) => Ok(entry),
        }
    }

    fn kept_claims(
        self,
        public_key: &str,
        mut claims: Claims,
        is_signed: bool,
    ) -> Result<Claims, Violations> {
        const NOT_KEPT: Invalid =
            Invalid::Rule("is not kept by the hosts of this lattice's layout; leave it empty");
        let is_provider = public_key.starts_with('V');
        let mut violations = Violations::new();
        let mut leave_out = |field: &str, text: &mut Box<str>| {
            if !text.is_empty() && !is_signed {
                violations.add(field, NOT_KEPT);
            }
            *text = "".into();
        };
        let (keeps_contract, keeps_schema) = match self {
            Self::CacheStream => (false, false),
            Self::Kv => (is_provider, is_provider),
            Self::Component | Self::Configs => (false, is_provider),
        };
        if !keeps_contract {
            leave_out("claims.contract_id", &mut claims.contract_id);
        }
        if !keeps_schema {
            leave_out("claims.config_schema", &mut claims.config_schema);
        }
        if self == Self::Component {
            leave_out("claims.capabilities", &mut claims.capabilities);
            if is_provider {
                leave_out("claims.call_alias", &mut claims.call_alias);
                leave_out("claims.tags", &mut claims.tags);
            }
        }
        // Hosts 0.78 to 0.80 take claims without a contract for an actor's.
        if keeps_contract && claims.contract_id.is_empty() && !is_signed {
            violations.add("claims.contract_id", Invalid::Missing);
        }
        match violations.is_empty() {
            true => Ok(claims),
            false => Err(violations),
        }
    }

    /// Writes the body of an entry that stands.
    pub fn put_body(self, key: &EntryKey, entry: &Entry, claims_form: ClaimsForm) -> Option<Bytes> {
        match self {
            Self::CacheStream => cache_stream::put_body(key, entry),
            Self::Kv => kv::put_body(key, entry, claims_form),
            Self::Component => component::put_body(key, entry),
            Self::Configs => component::config_body(key, entry),
        }
    }

    /// How an entry that stands is deleted; `None` where hosts have no form for it.
    pub fn removal(self, key: &EntryKey, current: &Entry) -> Option<Removal> {
        match (self, key) {
            (Self::CacheStream, _) => cache_stream::delete_body(key, current).map(Removal::Tombstone),
            (Self::Kv, EntryKey::LinkDefinition(_)) => Some(Removal::Marker(Marker::Delete)),
            (Self::Kv | Self::Component, EntryKey::Claims(_)) => {
                Some(Removal::MarkerAsStored(Marker::Delete))
            }
            (Self::Configs, EntryKey::Config(_)) => Some(Removal::Marker(Marker::Purge)),
            (Self::Kv | Self::Component | Self::Configs, _) => None,
        }
    }

    /// Reads a stored message as hosts do, rejecting only what makes a host fail. `tokens` is the subject behind
    /// [`Part::subject_prefix`].
    pub fn decode(self, tokens: &str, is_marker: bool, body: &[u8]) -> Decoded {
        match self {
            Self::CacheStream => cache_stream::decode(tokens, body),
            Self::Kv => kv::decode(tokens, is_marker, body),
            Self::Component => component::decode(tokens, is_marker, body),
            Self::Configs => component::decode_config(tokens, is_marker, body),
        }
    }
}

/// In which form claims are put into a bucket of hosts 0.60 to 0.82, whose readers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClaimsForm {
    /// Short names, texts only: read by hosts 0.60 to 0.80 and by clients; hosts 0.81 and 0.82 take a provider's for an
    /// actor's.
    #[default]
    Short,
    /// Long names, texts only: read by hosts 0.81 and 0.82 and by clients; hosts 0.60 to 0.80 skip a provider's.
    Long,
}
