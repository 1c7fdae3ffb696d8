//! Requests into commands, entries into resources. Every violation of a request is collected before it is refused.

use std::{collections::BTreeMap, time::Duration};

use pbjson_types::Timestamp;

use super::Call;
use crate::{
    control::{
        decide::{Mode, Precondition, Retry},
        mutate::{Outcome, Written},
        operations::{Consistency, LinkSelector, Terms},
    },
    domain::{
        self, Entry, EntryKey, Epoch, Etag, InterfaceLinkId, Invalid, LatticeName, LinkId, RequestId,
        Revision, Violations,
        link_definition::{DEFAULT_LINK_NAME, Values},
    },
    proto::{self, consistency::Requirement},
    store::mirror::Standing,
};

/// Entries on a page that asks for no number.
const PAGE_SIZE_DEFAULT: usize = 50;
/// Entries on a page, at most.
pub const PAGE_SIZE_MAX: usize = 1_000;
/// What a call that gRPC itself has tried before counts as the time since its first attempt.
const TRANSPARENT_RETRY_AGE: Duration = Duration::from_mins(5);
/// A retry older than this is no retry.
const RETRY_AGE_MAX: Duration = Duration::from_hours(365 * 24);

/// Parses the lattice of a request.
pub(super) fn lattice(name: &str, violations: &mut Violations) -> Option<LatticeName> {
    violations.check("lattice", LatticeName::parse(name))
}

/// Ends the parse of a request: all that was parsed, or all that was refused.
pub(super) fn finish<T>(parsed: Option<T>, violations: Violations) -> Result<T, Violations> {
    match parsed {
        Some(parsed) if violations.is_empty() => Ok(parsed),
        _ => Err(violations),
    }
}

/// All three, or none.
pub(super) fn three<A, B, C>(a: Option<A>, b: Option<B>, c: Option<C>) -> Option<(A, B, C)> {
    Some((a?, b?, c?))
}

/// The fields that every mutation request has, as they came.
#[derive(Debug)]
pub(super) struct RawTerms<'a> {
    pub request_id: &'a str,
    pub retry_age: Option<pbjson_types::Duration>,
    pub precondition: RawPrecondition<'a>,
    pub validate_only: bool,
}

/// A precondition as it came.
#[derive(Debug)]
pub(super) enum RawPrecondition<'a> {
    None,
    Etag(&'a str),
    MustExist(bool),
    MustNotExist(bool),
}

/// Reads the shared fields of a mutation request; each has its own generated type for the same oneof.
macro_rules! raw_terms {
    ($request:expr, $module:ident) => {{
        use crate::proto::$module::Precondition;
        let request = &$request;
        crate::rpc::convert::RawTerms {
            request_id: &request.request_id,
            retry_age: request.retry_age.clone(),
            precondition: match &request.precondition {
                None => crate::rpc::convert::RawPrecondition::None,
                Some(Precondition::Etag(etag)) => crate::rpc::convert::RawPrecondition::Etag(etag),
                Some(Precondition::MustExist(must)) => crate::rpc::convert::RawPrecondition::MustExist(*must),
                Some(Precondition::MustNotExist(must)) => {
                    crate::rpc::convert::RawPrecondition::MustNotExist(*must)
                }
            },
            validate_only: request.validate_only,
        }
    }};
}
pub(super) use raw_terms;

impl RawTerms<'_> {
    /// Parses the terms.
    pub(super) fn parse(self, call: &Call, violations: &mut Violations) -> Option<Terms> {
        let request_id = match self.request_id {
            "" => Some(None),
            id => violations.check("request_id", RequestId::parse(id)).map(Some),
        };
        let retry_age = match self.retry_age {
            None => Some((call.previous_attempts > 0).then_some(TRANSPARENT_RETRY_AGE)),
            Some(age) => violations.check("retry_age", retry_age(&age)).map(Some),
        };
        if self.request_id.is_empty() && retry_age.flatten().is_some() && call.previous_attempts == 0 {
            violations.add(
                "retry_age",
                Invalid::Rule("needs the request_id of the first attempt"),
            );
        }
        let precondition = precondition(&self.precondition, violations);
        Some(Terms {
            request_id: request_id?,
            retry: retry_age?.map(|age_at_arrival| Retry {
                age_at_arrival,
                arrived: call.arrived,
            }),
            precondition: precondition?,
            mode: mode(self.validate_only),
            patience: call.patience,
            trail: call.trail.clone(),
        })
    }
}

/// Whether to write at all.
pub(super) fn mode(validate_only: bool) -> Mode {
    match validate_only {
        true => Mode::ValidateOnly,
        false => Mode::Live,
    }
}

fn retry_age(age: &pbjson_types::Duration) -> Result<Duration, Invalid> {
    const REFUSAL: Invalid = Invalid::Rule("must be a time from 0 s to 365 days");
    let seconds = u64::try_from(age.seconds).map_err(|_negative| REFUSAL)?;
    let nanos = u32::try_from(age.nanos).map_err(|_negative| REFUSAL)?;
    if nanos >= 1_000_000_000 {
        return Err(REFUSAL);
    }
    match Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into())) {
        Some(age) if age <= RETRY_AGE_MAX => Ok(age),
        _ => Err(REFUSAL),
    }
}

fn precondition(raw: &RawPrecondition<'_>, violations: &mut Violations) -> Option<Precondition> {
    const MUST_BE_TRUE: Invalid = Invalid::Rule("must be true when set; leave it out to ask for nothing");
    match raw {
        RawPrecondition::None => Some(Precondition::None),
        RawPrecondition::Etag(etag) => violations
            .check("etag", Etag::parse(etag))
            .map(Precondition::Etag),
        RawPrecondition::MustExist(true) => Some(Precondition::MustExist),
        RawPrecondition::MustNotExist(true) => Some(Precondition::MustNotExist),
        RawPrecondition::MustExist(false) => violations.check("must_exist", Err(MUST_BE_TRUE)),
        RawPrecondition::MustNotExist(false) => violations.check("must_not_exist", Err(MUST_BE_TRUE)),
    }
}

/// Parses how fresh a read must be.
pub(super) fn consistency(
    consistency: Option<proto::Consistency>,
    violations: &mut Violations,
) -> Option<Consistency> {
    const MUST_BE_TRUE: Invalid = Invalid::Rule("must be true when set");
    match consistency.and_then(|consistency| consistency.requirement) {
        None | Some(Requirement::MinimizeLatency(true)) => Some(Consistency::MinimizeLatency),
        Some(Requirement::FullyConsistent(true)) => Some(Consistency::FullyConsistent),
        Some(Requirement::AtLeastAsFresh(revision)) => {
            Some(Consistency::AtLeastAsFresh(revision_seen(&revision)))
        }
        Some(Requirement::MinimizeLatency(false)) => {
            violations.check("consistency.minimize_latency", Err(MUST_BE_TRUE))
        }
        Some(Requirement::FullyConsistent(false)) => {
            violations.check("consistency.fully_consistent", Err(MUST_BE_TRUE))
        }
    }
}

/// Parses the size of a page.
pub(super) fn page_size(size: i32, violations: &mut Violations) -> Option<usize> {
    let parsed = match usize::try_from(size) {
        Err(_negative) => Err(Invalid::Rule("must not be negative; 0 means 50")),
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(actual) if actual > PAGE_SIZE_MAX => Err(Invalid::TooLong {
            limit: "page_size_max",
            max: PAGE_SIZE_MAX,
            actual,
        }),
        Ok(size) => Ok(size),
    };
    violations.check("page_size", parsed)
}

/// Refuses an identifying field that is not there. A stored one may be empty.
pub(super) fn required<'a>(
    field: &str,
    text: Option<&'a str>,
    violations: &mut Violations,
) -> Option<&'a str> {
    violations.check(field, text.ok_or(Invalid::Missing))
}

/// A field that cannot be stored empty.
pub(super) fn not_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Addresses a link as it may be stored.
pub(super) fn link_id(
    actor_id: Option<&str>,
    contract_id: Option<&str>,
    link_name: Option<&str>,
    violations: &mut Violations,
) -> Option<LinkId> {
    let actor_id = required("actor_id", actor_id, violations);
    let contract_id = required("contract_id", contract_id, violations);
    let link_name = link_name.unwrap_or(DEFAULT_LINK_NAME);
    Some(LinkId::new(actor_id?, contract_id?, link_name))
}

/// Writes what became of a mutation.
pub(super) fn write_result(written: &Written) -> proto::WriteResult {
    let outcome = match written.outcome {
        Outcome::Applied => proto::Outcome::Applied,
        Outcome::Unchanged => proto::Outcome::Unchanged,
        Outcome::AlreadyApplied => proto::Outcome::AlreadyApplied,
        Outcome::Validated => proto::Outcome::Validated,
    };
    let etag = match (written.standing(), written.superseded) {
        (Some(standing), false) => standing.etag.encode(),
        (Some(_), true) | (None, _) => String::new(),
    };
    proto::WriteResult {
        outcome: outcome.into(),
        revision: Some(revision(written.revision)),
        etag,
        superseded: written.superseded,
    }
}

/// Reads a revision that the caller has seen somewhere.
pub(super) fn revision_seen(revision: &proto::Revision) -> Revision {
    Revision {
        epoch: Epoch::from_number(revision.epoch),
        sequence: revision.sequence,
    }
}

/// Writes a revision.
pub(super) fn revision(revision: Revision) -> proto::Revision {
    proto::Revision {
        epoch: revision.epoch.number(),
        sequence: revision.sequence,
    }
}

/// Writes a time that is given since the Unix epoch.
pub(super) fn timestamp(unix_nanos: i128) -> Timestamp {
    const NANOS: i128 = 1_000_000_000;
    Timestamp {
        seconds: i64::try_from(unix_nanos.div_euclid(NANOS)).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_nanos.rem_euclid(NANOS)).unwrap_or(0),
    }
}

/// Writes the entry that a mutation answers with: as it stands or, where nothing was to be written, as it would.
pub(super) fn written<T>(written: &Written, resource: Resource<T>) -> Option<T> {
    match &written.would_stand {
        Some(entry) => resource(&written.key, entry, OutputOnly::default()),
        None => standing_as(&written.key, &written.standing()?, resource),
    }
}

/// Writes an entry that stands.
pub(super) fn standing_as<T>(key: &EntryKey, standing: &Standing, resource: Resource<T>) -> Option<T> {
    resource(key, &standing.entry, OutputOnly::from(standing))
}

/// Writes an entry as a resource; `None` where it is of another kind.
pub(super) type Resource<T> = fn(&EntryKey, &Entry, OutputOnly) -> Option<T>;

/// What a resource tells about its own state.
#[derive(Debug, Default)]
pub(super) struct OutputOnly {
    etag: String,
    revision: Option<proto::Revision>,
    update_time: Option<Timestamp>,
}

impl From<&Standing> for OutputOnly {
    fn from(standing: &Standing) -> Self {
        Self {
            etag: standing.etag.encode(),
            revision: Some(revision(standing.revision)),
            update_time: standing.unix_nanos.map(|nanos| timestamp(nanos.into())),
        }
    }
}

/// Writes claims; `None` where the entry is of another kind.
pub(super) fn claims(key: &EntryKey, entry: &Entry, output: OutputOnly) -> Option<proto::Claims> {
    let (EntryKey::Claims(public_key), Entry::Claims(claims)) = (key, entry) else {
        return None;
    };
    Some(proto::Claims {
        public_key: public_key.to_string(),
        issuer: claims.issuer.to_string(),
        name: claims.name.to_string(),
        call_alias: claims.call_alias.to_string(),
        capabilities: comma_separated(&claims.capabilities),
        tags: comma_separated(&claims.tags),
        claims_revision: claims.revision.to_string(),
        version: claims.version.as_deref().unwrap_or_default().to_owned(),
        contract_id: claims.contract_id.to_string(),
        config_schema: claims.config_schema.to_string(),
        etag: output.etag,
        revision: output.revision,
        update_time: output.update_time,
    })
}

/// Shows links: the values, which may hold secrets, only to who may read them.
pub(super) fn link_seen(with_values: bool) -> Resource<proto::LinkDefinition> {
    match with_values {
        true => link_definition,
        false => |key, entry, output| {
            Some(proto::LinkDefinition {
                values: BTreeMap::new(),
                ..link_definition(key, entry, output)?
            })
        },
    }
}

/// Writes a link; `None` where the entry is of another kind.
fn link_definition(key: &EntryKey, entry: &Entry, output: OutputOnly) -> Option<proto::LinkDefinition> {
    let (EntryKey::LinkDefinition(id), Entry::LinkDefinition(link)) = (key, entry) else {
        return None;
    };
    Some(proto::LinkDefinition {
        actor_id: id.actor_id.to_string(),
        provider_id: link.provider_id.to_string(),
        contract_id: id.contract_id.to_string(),
        link_name: id.link_name.to_string(),
        values: values(&link.values),
        etag: output.etag,
        revision: output.revision,
        update_time: output.update_time,
    })
}

/// Writes a reference; `None` where the entry is of another kind.
pub(super) fn oci_reference(
    key: &EntryKey,
    entry: &Entry,
    output: OutputOnly,
) -> Option<proto::OciReference> {
    let (EntryKey::OciReference(oci_url), Entry::OciReference(reference)) = (key, entry) else {
        return None;
    };
    Some(proto::OciReference {
        oci_url: oci_url.to_string(),
        public_key: reference.public_key.to_string(),
        etag: output.etag,
        revision: output.revision,
        update_time: output.update_time,
    })
}

/// Writes an interface link; `None` where the entry is of another kind.
pub(super) fn interface_link(
    key: &EntryKey,
    entry: &Entry,
    output: OutputOnly,
) -> Option<proto::InterfaceLink> {
    let (EntryKey::InterfaceLink(id), Entry::InterfaceLink(link)) = (key, entry) else {
        return None;
    };
    let texts = |list: &[Box<str>]| list.iter().map(ToString::to_string).collect();
    Some(proto::InterfaceLink {
        source_id: id.source_id.to_string(),
        target: id.target.to_string(),
        name: id.name.to_string(),
        wit_namespace: id.wit_namespace.to_string(),
        wit_package: id.wit_package.to_string(),
        interfaces: texts(&link.interfaces),
        source_config: texts(&link.source_config),
        target_config: texts(&link.target_config),
        etag: output.etag,
        revision: output.revision,
        update_time: output.update_time,
    })
}

/// Shows configs: the values, which may hold secrets, only to who may read them.
pub(super) fn config_seen(with_values: bool) -> Resource<proto::NamedConfig> {
    match with_values {
        true => named_config,
        false => |key, entry, output| {
            Some(proto::NamedConfig {
                values: BTreeMap::new(),
                ..named_config(key, entry, output)?
            })
        },
    }
}

/// Writes a config; `None` where the entry is of another kind.
fn named_config(key: &EntryKey, entry: &Entry, output: OutputOnly) -> Option<proto::NamedConfig> {
    let (EntryKey::Config(name), Entry::Config(config)) = (key, entry) else {
        return None;
    };
    Some(proto::NamedConfig {
        name: name.to_string(),
        values: values(&config.values),
        etag: output.etag,
        revision: output.revision,
        update_time: output.update_time,
    })
}

fn values(values: &Values) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn comma_separated(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Parses a link that is to be put.
pub(super) fn parse_link_definition(
    link: Option<&proto::LinkDefinition>,
    violations: &mut Violations,
) -> Option<(LinkId, domain::LinkDefinition)> {
    const FIELD: &str = "link_definition";
    let Some(link) = link else {
        return violations.check(FIELD, Err(Invalid::Missing));
    };
    domain::link_definition::Unchecked {
        actor_id: &link.actor_id,
        provider_id: &link.provider_id,
        contract_id: &link.contract_id,
        link_name: &link.link_name,
        values: link
            .values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    }
    .check(FIELD, violations)
}

/// Parses an interface link that is to be put.
pub(super) fn parse_interface_link(
    link: Option<&proto::InterfaceLink>,
    violations: &mut Violations,
) -> Option<(InterfaceLinkId, domain::InterfaceLink)> {
    const FIELD: &str = "interface_link";
    let Some(link) = link else {
        return violations.check(FIELD, Err(Invalid::Missing));
    };
    domain::interface_link::Unchecked {
        source_id: &link.source_id,
        target: &link.target,
        name: &link.name,
        wit_namespace: &link.wit_namespace,
        wit_package: &link.wit_package,
        interfaces: &link.interfaces,
        source_config: &link.source_config,
        target_config: &link.target_config,
    }
    .check(FIELD, violations)
}

/// Parses a config that is to be put.
pub(super) fn parse_named_config(
    config: Option<&proto::NamedConfig>,
    violations: &mut Violations,
) -> Option<(Box<str>, domain::NamedConfig)> {
    const FIELD: &str = "named_config";
    let Some(config) = config else {
        return violations.check(FIELD, Err(Invalid::Missing));
    };
    domain::named_config::Unchecked {
        name: &config.name,
        values: config
            .values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    }
    .check(FIELD, violations)
}

/// The fields by which a request names an interface link, as they came.
#[derive(Debug)]
pub(super) struct RawSelector<'a> {
    pub source_id: Option<&'a str>,
    pub name: Option<&'a str>,
    pub wit_namespace: Option<&'a str>,
    pub wit_package: Option<&'a str>,
    pub target: Option<&'a str>,
}

/// Reads them; each request has its own generated type.
macro_rules! link_selector {
    ($request:expr) => {
        crate::rpc::convert::RawSelector {
            source_id: $request.source_id.as_deref(),
            name: $request.name.as_deref(),
            wit_namespace: $request.wit_namespace.as_deref(),
            wit_package: $request.wit_package.as_deref(),
            target: $request.target.as_deref(),
        }
    };
}
pub(super) use link_selector;

impl RawSelector<'_> {
    /// Parses them: any stored link can be named.
    pub(super) fn parse(self, violations: &mut Violations) -> Option<LinkSelector> {
        let source_id = required("source_id", self.source_id, violations);
        let wit_namespace = required("wit_namespace", self.wit_namespace, violations);
        let wit_package = required("wit_package", self.wit_package, violations);
        Some(LinkSelector {
            id: InterfaceLinkId {
                source_id: source_id?.into(),
                name: self.name.unwrap_or(DEFAULT_LINK_NAME).into(),
                wit_namespace: wit_namespace?.into(),
                wit_package: wit_package?.into(),
                target: self.target.unwrap_or_default().into(),
            },
            any_target: self.target.is_none(),
        })
    }
}

/// Parses a reference that is to be set.
pub(super) fn parse_oci_reference(
    reference: Option<&proto::OciReference>,
    violations: &mut Violations,
) -> Option<(Box<str>, domain::OciReference)> {
    const FIELD: &str = "oci_reference";
    let Some(reference) = reference else {
        return violations.check(FIELD, Err(Invalid::Missing));
    };
    domain::oci_reference::Unchecked {
        oci_url: &reference.oci_url,
        public_key: &reference.public_key,
    }
    .check(FIELD, violations)
}

/// Parses unsigned claims that are to be put.
pub(super) fn parse_claims(
    claims: &proto::Claims,
    violations: &mut Violations,
) -> Option<(domain::nkey::Nkey, domain::Claims)> {
    domain::claims::Unchecked {
        public_key: &claims.public_key,
        issuer: &claims.issuer,
        name: &claims.name,
        call_alias: &claims.call_alias,
        capabilities: &claims.capabilities,
        tags: &claims.tags,
        revision: &claims.claims_revision,
        version: &claims.version,
        contract_id: &claims.contract_id,
        config_schema: &claims.config_schema,
    }
    .check("claims", violations)
}
