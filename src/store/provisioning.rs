//! What is to be done so that a stream is there as it is wanted: told from what was found of it.
//!
//! Pure: [`crate::control::provision`] reads, asks and carries out. A stream is wanted as those who use it create it, but for
//! what the caller chose. One that exists is changed in what was chosen alone, and not at all where it is wrong.

use serde_json::{Map, Value, json};

use super::{
    api::StreamInfo,
    drift,
    layout::{Part, bucket},
    wadm,
};
use crate::domain::LatticeName;

/// Where JetStream keeps a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, as hosts create it.
    Memory,
    /// On disk.
    File,
}

impl Storage {
    /// As JetStream writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
        }
    }
}

/// What a caller may choose of streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Where they are kept.
    pub storage: Option<Storage>,
    /// On how many servers, 1 to 5.
    pub replicas: Option<u8>,
    /// On which servers.
    pub placement: Option<Placement>,
    /// How many bytes each may hold.
    pub max_bytes: Option<i64>,
}

/// Servers of a NATS cluster; one of both is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The cluster's name.
    pub cluster: Option<Box<str>>,
    /// What each of the servers is tagged with.
    pub tags: Vec<Box<str>>,
}

impl StreamOptions {
    /// The members of a configuration that were chosen.
    fn members(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let placement = self.placement.as_ref().map(|placement| {
            let cluster = placement
                .cluster
                .iter()
                .map(|name| ("cluster".to_owned(), json!(name)));
            let tags = (!placement.tags.is_empty()).then(|| ("tags".to_owned(), json!(placement.tags)));
            Value::Object(cluster.chain(tags).collect())
        });
        [
            (STORAGE, self.storage.map(|storage| json!(storage.as_str()))),
            (REPLICAS, self.replicas.map(Value::from)),
            (PLACEMENT, placement),
            ("max_bytes", self.max_bytes.map(Value::from)),
        ]
        .into_iter()
        .filter_map(|(field, value)| Some((field, value?)))
    }
}

const STORAGE: &str = "storage";
const REPLICAS: &str = "num_replicas";
const PLACEMENT: &str = "placement";

/// Who uses a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Lattice(Part),
    Wadm(wadm::Stream),
}

/// A stream that is to be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    name: String,
    /// As those who use it create it.
    theirs: Value,
    /// What is noted on it where it is created.
    note: Option<Value>,
    chosen: Vec<(&'static str, Value)>,
    used: Use,
}

impl Wanted {
    /// A stream of a lattice. One that is not there is created in this storage, where it says one and the options do not.
    pub fn of_lattice(
        part: Part,
        lattice: &LatticeName,
        storage: Option<Storage>,
        options: &StreamOptions,
    ) -> Self {
        let note = || json!({bucket::LAYOUT_METADATA: part.layout().as_str()});
        let storage = storage.map_or_else(|| part.default_storage(), Storage::as_str);
        Self {
            name: part.stream_name(lattice),
            theirs: part.stream_config(lattice, storage),
            note: part.is_bucket().then(note),
            chosen: options.members().collect(),
            used: Use::Lattice(part),
        }
    }

    /// A stream of wadm.
    pub fn of_wadm(stream: wadm::Stream, tenancy: wadm::Tenancy, options: &StreamOptions) -> Self {
        Self {
            name: stream.name().to_owned(),
            theirs: stream.config(tenancy),
            note: None,
            chosen: options.members().collect(),
            used: Use::Wadm(stream),
        }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration with which it is created.
    fn config(&self) -> Value {
        let note = self.note.iter().map(|note| ("metadata", note));
        let chosen = self.chosen.iter().map(|(field, value)| (*field, value));
        with(&self.theirs, chosen.chain(note))
    }

    /// Plans what is to be done, from what was found under the name. Refuses what was chosen and JetStream cannot change.
    pub fn plan(&self, found: Option<&StreamInfo>) -> Result<Plan, Box<Unprovisionable>> {
        let config = self.config();
        let Some(found) = found else {
            return Ok(Plan {
                stream: self.name.clone(),
                step: Step::Create(config),
                differences: Vec::new(),
            });
        };
        let mut differences = differences(&config, &found.config);
        let is_chosen = |field: &str| self.chosen.iter().any(|(chosen, _)| *chosen == field);
        let moves = differences.iter().any(|it| it.field == PLACEMENT) && is_chosen(PLACEMENT);
        for it in differences.iter().filter(|it| is_chosen(&it.field)) {
            let way_out = match (&*it.field, found.is_clustered()) {
                (STORAGE, _) => CANNOT_CONVERT,
                (REPLICAS, false) if it.want != 1 => NO_CLUSTER,
                (REPLICAS, true) if moves => ONE_AT_A_TIME,
                _ => continue,
            };
            return Err(Box::new(Unprovisionable {
                stream: self.name.clone(),
                field: it.field.clone(),
                want: it.want.clone(),
                have: it.have.clone(),
                way_out: way_out.to_owned(),
            }));
        }
        let harm = self.harm(&found.config, &differences);
        if harm.is_none() {
            for it in &mut differences {
                it.is_changed = is_chosen(&it.field);
            }
        }
        let changed = || differences.iter().filter(|it| it.is_changed);
        let step = match harm {
            Some(harm) => Step::LeaveWrong(harm),
            None if changed().next().is_none() => Step::Leave,
            None => Step::Update(with(&found.config, changed().map(|it| (&*it.field, &it.want)))),
        };
        Ok(Plan {
            stream: self.name.clone(),
            step,
            differences,
        })
    }

    /// What comes of it where the stream stays as it was found; `None` where those who use it can.
    fn harm(&self, found: &Value, differences: &[Difference]) -> Option<String> {
        match self.used {
            Use::Lattice(part) => {
                let drift = drift::compare(part, &self.theirs, found);
                let unsafe_one = drift.into_iter().find(|it| it.blocks_writes)?;
                Some(format!(
                    "the gateway refuses writes while `{}` is as it is",
                    unsafe_one.field
                ))
            }
            Use::Wadm(stream) => stream.harm(found, differences).map(str::to_owned),
        }
    }
}

const CANNOT_CONVERT: &str = "JetStream moves no stream to another storage: ask for the one that it has, or for none; or back it up, \
                           delete it and restore it in the other (`nats stream restore --config`)";
const ONE_AT_A_TIME: &str =
    "JetStream does not scale and move a stream at once: ask for the placement in a call of its own";
const NO_CLUSTER: &str =
    "the NATS server that holds it is not in a cluster: make it one of a cluster, or ask for 1";

/// What is to be done with a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The stream's name.
    pub stream: String,
    /// What.
    pub step: Step,
    /// How it was found to differ from what is wanted.
    pub differences: Vec<Difference>,
}

impl Plan {
    /// Whether something is done.
    pub fn changes(&self) -> bool {
        match self.step {
            Step::Create(_) | Step::Update(_) => true,
            Step::Leave | Step::LeaveWrong(_) => false,
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is created with this configuration.
    Create(Value),
    /// It is given this configuration: its own, but for what was chosen.
    Update(Value),
    /// It stays as it is, and can be used.
    Leave,
    /// It stays as it is, and this comes of it.
    LeaveWrong(String),
}

/// A member of a stream's configuration that is not as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The member, as JetStream names it.
    pub field: String,
    /// What is wanted; null where it is to be left out.
    pub want: Value,
    /// What was found.
    pub have: Value,
    /// Whether the plan changes it.
    pub is_changed: bool,
}

/// Why a stream cannot be as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stream `{stream}` cannot be provisioned as asked: its `{field}` would have to be {want}, and here it is {have}; {way_out}"
)]
pub struct Unprovisionable {
    /// The stream.
    pub stream: String,
    /// The member of its configuration that stands against it.
    pub field: String,
    /// What was asked for.
    pub want: Value,
    /// What stands against it.
    pub have: Value,
    /// What to do.
    pub way_out: String,
}

/// A configuration with some members otherwise.
fn with<'a>(config: &Value, members: impl Iterator<Item = (&'a str, &'a Value)>) -> Value {
    let mut config = config.as_object().cloned().unwrap_or_default();
    config.extend(members.map(|(field, value)| (field.to_owned(), value.clone())));
    Value::Object(config)
}

/// Compares a configuration as a server tells it with one that is wanted, over all members but the name and what is noted.
fn differences(want: &Value, have: &Value) -> Vec<Difference> {
    let fields = [want, have]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(Map::keys);
    let mut fields = fields.collect::<Vec<_>>();
    fields.sort_unstable();
    fields.dedup();
    let differing = fields
        .into_iter()
        .filter(|field| !["name", "metadata"].contains(&field.as_str()));
    differing
        .filter_map(|field| {
            let [wanted, found] = [want, have].map(|config| config.get(field).unwrap_or(&Value::Null));
            let is_derived =
                field == "duplicate_window" && wanted.is_null() && *found == derived_window(have);
            (!is_derived && essence(wanted) != essence(found)).then(|| Difference {
                field: field.clone(),
                want: wanted.clone(),
                have: found.clone(),
                is_changed: false,
            })
        })
        .collect()
}

/// The window that JetStream takes where none is given; up to 2.12 of a stream with sources, too.
fn derived_window(config: &Value) -> Value {
    const DEFAULT: u64 = 120_000_000_000;
    let max_age = config.get("max_age").and_then(Value::as_u64);
    max_age
        .filter(|age| *age > 0)
        .map_or(DEFAULT, |age| age.min(DEFAULT))
        .into()
}

/// A value without what JetStream leaves out or fills in: what is off, empty or unlimited. Nothing in a configuration depends
/// on the order of a list.
fn essence(value: &Value) -> Value {
    let is_unset = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => [Some(0), Some(-1)].contains(&number.as_i64()),
        Value::String(text) => ["", "none", "default"].contains(&text.as_str()),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    };
    let value = match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), essence(value)));
            Value::Object(members.filter(|(_, value)| !value.is_null()).collect())
        }
        Value::Array(items) => {
            let mut items = items.iter().map(essence).collect::<Vec<_>>();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    };
    match is_unset(&value) {
        true => Value::Null,
        false => value,
    }
}

#[cfg(test)]
mod tests;
