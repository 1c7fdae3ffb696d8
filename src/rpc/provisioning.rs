//! What provisioning asks for and answers, of lattices and of wadm.

use super::{Call, Gateway, convert, convert::finish, status::Failure};
use crate::{
    audit::Trail,
    auth::{EVERY_LATTICE, Policy, Provision, VerbName},
    control::{ControlError, decide::Mode, lattices::Upstream, mutate::Outcome},
    domain::{Invalid, Violations, identifier},
    proto::{self, FieldDifference, ProvisionWadmRequest, ProvisionWadmResponse, StreamAction, StreamPlan},
    store::{
        provisioning::{Placement, Plan, Step, Storage, StreamOptions},
        wadm::Tenancy,
    },
};

/// Copies of a stream, at most (JetStream's own limit).
const REPLICAS_MAX: u32 = 5;
/// Tags of a placement, at most.
const TAGS_MAX: usize = 16;

/// What a request chooses of streams, as it came.
#[derive(Debug)]
pub(super) struct RawOptions<'a> {
    pub storage: i32,
    pub replicas: u32,
    pub placement: Option<&'a proto::Placement>,
    pub max_bytes: u64,
}

impl RawOptions<'_> {
    /// Parses the options.
    pub(super) fn parse(self, violations: &mut Violations) -> Option<StreamOptions> {
        let storage = violations.check("storage", storage(self.storage));
        let replicas = violations.check("replicas", replicas(self.replicas));
        let placement = match self.placement {
            None => Some(None),
            Some(chosen) => placement(chosen, violations).map(Some),
        };
        let max_bytes = violations.check("max_bytes", max_bytes(self.max_bytes));
        Some(StreamOptions {
            storage: storage?,
            replicas: replicas?,
            placement: placement?,
            max_bytes: max_bytes?,
        })
    }
}

fn storage(storage: i32) -> Result<Option<Storage>, Invalid> {
    match proto::Storage::try_from(storage) {
        Ok(proto::Storage::Unspecified) => Ok(None),
        Ok(proto::Storage::Memory) => Ok(Some(Storage::Memory)),
        Ok(proto::Storage::File) => Ok(Some(Storage::File)),
        Err(_unknown) => Err(Invalid::Rule(
            "is not a storage; leave it out for what hosts and wadm take",
        )),
    }
}

fn replicas(replicas: u32) -> Result<Option<u8>, Invalid> {
    const REFUSAL: Invalid = Invalid::Rule("must be 1 to 5; leave it out for one, or as it is");
    match u8::try_from(replicas) {
        Ok(0) => Ok(None),
        Ok(count) if replicas <= REPLICAS_MAX => Ok(Some(count)),
        Ok(_) | Err(_) => Err(REFUSAL),
    }
}

fn placement(chosen: &proto::Placement, violations: &mut Violations) -> Option<Placement> {
    if chosen.cluster.is_empty() && chosen.tags.is_empty() {
        let empty = Invalid::Rule("needs a cluster or tags; leave it out for any server");
        return violations.check("placement", Err(empty));
    }
    let cluster = match chosen.cluster.as_str() {
        "" => Some(None),
        name => violations
            .check("placement.cluster", identifier::server_word(name))
            .map(Some),
    };
    let tags = tags(&chosen.tags, violations);
    Some(Placement {
        cluster: cluster?,
        tags: tags?,
    })
}

fn tags(given: &[String], violations: &mut Violations) -> Option<Vec<Box<str>>> {
    if given.len() > TAGS_MAX {
        return violations.check("placement.tags", Err(Invalid::Rule("has more than 16 tags")));
    }
    let tags = given.iter().enumerate().map(|(index, tag)| {
        violations.check(&format!("placement.tags[{index}]"), identifier::server_word(tag))
    });
    // Each of them is judged.
    let tags = tags.collect::<Vec<_>>();
    tags.into_iter().collect()
}

fn max_bytes(bytes: u64) -> Result<Option<i64>, Invalid> {
    match i64::try_from(bytes) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_too_many) => Err(Invalid::Rule(
            "must be at most 9223372036854775807; leave it out for no bound",
        )),
    }
}

/// Records what became of provisioning.
pub(super) fn note(trail: &Trail, plans: &[Plan], mode: Mode) {
    let outcome = match (plans.iter().any(Plan::changes), mode) {
        (false, _) => Outcome::Unchanged,
        (true, Mode::Live) => Outcome::Applied,
        (true, Mode::ValidateOnly) => Outcome::Validated,
    };
    trail.note(|record| record.outcome = Some(outcome.as_str().to_owned()));
}

/// Writes what is done with a stream.
pub(super) fn stream_plan(plan: Plan) -> StreamPlan {
    let (action, consequence) = match plan.step {
        Step::Create(_) => (StreamAction::Created, String::new()),
        Step::Update(_) => (StreamAction::Updated, String::new()),
        Step::Leave => (StreamAction::Unchanged, String::new()),
        Step::LeaveWrong(consequence) => (StreamAction::Wrong, consequence),
    };
    let differences = plan.differences.into_iter().map(|it| FieldDifference {
        field: it.field,
        want: it.want.to_string(),
        have: it.have.to_string(),
        changed: it.is_changed,
    });
    StreamPlan {
        stream: plan.stream,
        action: action.into(),
        differences: differences.collect(),
        consequence,
    }
}

impl Gateway {
    pub(super) async fn provision_wadm_as_asked(
        &self,
        call: &Call,
        request: &ProvisionWadmRequest,
    ) -> Result<ProvisionWadmResponse, Failure> {
        call.trail.note(|record| {
            record.lattice = Some(EVERY_LATTICE.to_owned());
            record.verb = Some(VerbName::Provision.as_str());
            record.validate_only = request.validate_only;
        });
        let mut violations = Violations::new();
        let options = RawOptions {
            storage: request.storage,
            replicas: request.replicas,
            placement: request.placement.as_ref(),
            max_bytes: request.max_bytes,
        };
        let options = finish(options.parse(&mut violations), violations)?;
        let grant = Policy::grant_on_all::<Provision>(&call.authenticated.access);
        let grant = grant.map_err(ControlError::Denied)?;
        // Only now, since it tells which there are.
        let upstream = self.upstream(&request.upstream)?;
        let tenancy = match request.multitenant {
            false => Tenancy::Single,
            true => Tenancy::Multiple,
        };
        let mode = convert::mode(request.validate_only);
        let plans = self
            .control
            .provision_wadm(&grant, upstream, (tenancy, &options), mode, call.deadline)
            .await?;
        note(&call.trail, &plans, mode);
        Ok(ProvisionWadmResponse {
            streams: plans.into_iter().map(stream_plan).collect(),
        })
    }

    fn upstream(&self, name: &str) -> Result<&Upstream, Violations> {
        const UNKNOWN: Invalid =
            Invalid::Rule("is no upstream of the gateway's configuration; leave it out for that of [nats]");
        let upstreams = self.control.lattices().upstreams();
        let mut violations = Violations::new();
        let upstream = match name {
            "" => Some(&upstreams.first),
            name => violations.check("upstream", upstreams.of_name(name).ok_or(UNKNOWN)),
        };
        finish(upstream, violations)
    }
}
