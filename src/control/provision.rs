//! Provisioning: the streams of lattices, and those of wadm, found or made as they are wanted.
//!
//! All is read, planned and checked before anything is touched. Then the plan is carried out stream by stream: what is done
//! stays done whatever comes next, and the same call again completes it. Nothing is ever deleted.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{
    Control, ControlError, Deadline,
    decide::Mode,
    lattice::ambiguous,
    lattices::{Found, Lattices, Layout, NewLattice, Upstream},
};
use crate::{
    auth::{Grant, GrantOnAll, Provision},
    domain::LatticeName,
    store::{
        api::{self, ApiError, JetStream, code},
        connection::RequestFailed,
        layout::Part,
        provisioning::{Plan, Step, StreamOptions, Unprovisionable, Wanted},
        wadm,
    },
};

impl Control {
    /// Creates a lattice's stream or buckets unless they are there, and changes what was chosen of those that are. Tells what
    /// is done, or would be.
    pub async fn provision(
        &self,
        grant: &Grant<Provision>,
        layout: Layout,
        options: &StreamOptions,
        mode: Mode,
        deadline: Deadline,
    ) -> Result<Vec<Plan>, ControlError> {
        let new = NewLattice {
            layout,
            storage: None,
        };
        self.lattices()
            .provision(grant.lattice(), new, options, mode, deadline)
            .await
    }

    /// The same of what wadm needs, which concerns every lattice of the upstream's account.
    pub async fn provision_wadm(
        &self,
        _grant: &GrantOnAll<Provision>,
        upstream: &Upstream,
        (tenancy, options): (wadm::Tenancy, &StreamOptions),
        mode: Mode,
        deadline: Deadline,
    ) -> Result<Vec<Plan>, ControlError> {
        let wanted = wadm::Stream::ALL.map(|stream| Wanted::of_wadm(stream, tenancy, options));
        provision(&upstream.api, &wanted, mode, deadline).await
    }
}

impl Lattices {
    /// Creates a lattice's stream or buckets unless they are there, as the configuration says it.
    pub async fn provision_new(
        &self,
        name: &LatticeName,
        new: NewLattice,
        deadline: Deadline,
    ) -> Result<Vec<Plan>, ControlError> {
        let options = StreamOptions::default();
        self.provision(name, new, &options, Mode::Live, deadline).await
    }

    /// Creates the bucket that a lattice's stream is moved into.
    pub(super) async fn provision_bucket(
        &self,
        name: &LatticeName,
        deadline: Deadline,
    ) -> Result<Vec<Plan>, ControlError> {
        let wanted = Wanted::of_lattice(Part::Kv, name, None, &StreamOptions::default());
        provision(&self.upstream(name).api, &[wanted], Mode::Live, deadline).await
    }

    async fn provision(
        &self,
        name: &LatticeName,
        new: NewLattice,
        options: &StreamOptions,
        mode: Mode,
        deadline: Deadline,
    ) -> Result<Vec<Plan>, ControlError> {
        let configured = self.settings(name).and_then(|settings| settings.layout);
        if configured.is_some_and(|configured| configured != new.layout) {
            return Err(ambiguous(name));
        }
        match deadline.bound(self.find(name)).await.unwrap_or_else(silent)? {
            Found::Nothing => {}
            Found::At(layout, _) if layout == new.layout => {}
            Found::At(..) | Found::Ambiguous => return Err(ambiguous(name)),
        }
        // What makes the lattice exist comes last, so that it never exists without the rest.
        let parts = new.layout.parts().iter().rev();
        let wanted = parts.map(|part| Wanted::of_lattice(*part, name, new.storage, options));
        let wanted = wanted.collect::<Vec<_>>();
        provision(&self.upstream(name).api, &wanted, mode, deadline).await
    }
}

/// Nothing was done yet.
fn silent<T>() -> Result<T, ControlError> {
    Err(ControlError::unavailable("JetStream does not answer"))
}

async fn provision(
    api: &JetStream,
    wanted: &[Wanted],
    mode: Mode,
    deadline: Deadline,
) -> Result<Vec<Plan>, ControlError> {
    let planned = async {
        let plans = try_join_all(wanted.iter().map(|wanted| plan(api, wanted))).await?;
        try_join_all(plans.iter().map(|plan| check(api, plan))).await?;
        Ok(plans)
    };
    let plans = deadline.bound(planned).await.unwrap_or_else(silent)?;
    match mode {
        Mode::ValidateOnly => Ok(plans),
        Mode::Live => {
            let done = deadline.bound(carry_out(api, wanted, plans)).await;
            done.ok_or(ControlError::ProvisionUnknown)?
        }
    }
}

async fn carry_out(api: &JetStream, wanted: &[Wanted], plans: Vec<Plan>) -> Result<Vec<Plan>, ControlError> {
    let mut done = Vec::new();
    for (wanted, plan) in wanted.iter().zip(plans) {
        match carry_out_one(api, wanted, plan).await {
            Ok(plan) => done.push(plan),
            // That nothing was done no longer holds.
            Err(ControlError::BackendUnavailable { .. }) if done.iter().any(Plan::changes) => {
                return Err(ControlError::ProvisionUnknown);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads what there is of a stream.
async fn plan(api: &JetStream, wanted: &Wanted) -> Result<Plan, ControlError> {
    let stream = wanted.name();
    let found = match api.stream_info(stream).await {
        Ok(info) => Some(info),
        Err(error) if error.is_stream_not_found() => None,
        Err(error) => return Err(failed(error, api, &format!("STREAM.INFO.{stream}"))),
    };
    wanted.plan(found.as_ref()).map_err(ControlError::Unprovisionable)
}

/// Finds out what would hinder a creation, as far as it can be told.
async fn check(api: &JetStream, plan: &Plan) -> Result<(), ControlError> {
    let Step::Create(config) = &plan.step else {
        return Ok(());
    };
    let subjects = config.get("subjects").and_then(Value::as_array);
    for subject in subjects.into_iter().flatten().filter_map(Value::as_str) {
        let streams = api.streams_on(subject).await;
        let streams = streams.map_err(|error| failed(error, api, "STREAM.NAMES"))?;
        // One of this name was created just now.
        if let Some(other) = streams.iter().find(|stream| **stream != plan.stream) {
            let have = format!("taken by the stream {other}");
            return Err(cannot_have(plan, config, "subjects", &have, SUBJECTS_TAKEN));
        }
    }
    let judged = api.rehearse(config).await;
    let call = format!("STREAM.UPDATE.{}", api::REHEARSED);
    judged.map_err(|error| match error {
        ApiError::Refused { .. } => not_carried_out(error, api, &call, plan, config),
        ApiError::Request(_) | ApiError::DomainAway | ApiError::Unreadable(_) => failed(error, api, &call),
    })
}

/// Does what is planned. Where somebody else was quicker it plans anew, from what is there by now.
async fn carry_out_one(api: &JetStream, wanted: &Wanted, mut plan: Plan) -> Result<Plan, ControlError> {
    let began = Instant::now();
    loop {
        let stream = &plan.stream;
        match &plan.step {
            Step::Leave | Step::LeaveWrong(_) => return Ok(plan),
            Step::Create(config) => match api.stream_create(stream, config).await {
                Ok(()) => {
                    info!(stream, %config, "created a stream");
                    return Ok(plan);
                }
                Err(ApiError::Refused {
                    err_code: code::NAME_IN_USE,
                    ..
                }) => {}
                // In a cluster under load a server may be taken for offline for a moment.
                Err(ApiError::Refused { description, .. })
                    if description.ends_with(ALL_OFFLINE) && began.elapsed() < OFFLINE_PATIENCE =>
                {
                    sleep(OFFLINE_PAUSE).await;
                }
                Err(error) => {
                    let call = format!("STREAM.CREATE.{stream}");
                    return Err(not_carried_out(error, api, &call, &plan, config));
                }
            },
            Step::Update(config) => match api.stream_update(stream, config).await {
                Ok(()) => {
                    info!(stream, %config, "changed a stream");
                    return Ok(plan);
                }
                Err(error) if error.is_stream_not_found() => {}
                Err(error) => {
                    let call = format!("STREAM.UPDATE.{stream}");
                    return Err(not_carried_out(error, api, &call, &plan, config));
                }
            },
        }
        plan = self::plan(api, wanted).await?;
    }
}

/// How JetStream ends its refusal where nothing else is in the way of a placement.
const ALL_OFFLINE: &str = "no suitable peers for placement, peer offline";
/// For how long that is waited for.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(2);
const OFFLINE_PAUSE: Duration = Duration::from_millis(100);

const SUBJECTS_TAKEN: &str = "take them from that stream, or delete it, then try again";
const SUBJECTS_REFUSED: &str = "for a wadm that runs with --multitenant use nats-server 2.10, or run it without: later ones take \
                                no stream on `*.wasmbus.evt.*.>`, and wadm then deletes the `wasmbus_events` that there is before it \
                                fails";
const NO_SERVERS: &str = "start more servers, name others, or ask for fewer replicas";
const NOT_CLUSTERED: &str = "make the NATS server one of a cluster, or ask for 1";
const BOUND_REQUIRED: &str = "the NATS account takes only streams with a bound: give `max_bytes`";
const BOUND_TOO_HIGH: &str = "ask for fewer, or have the NATS account's limit raised";

/// Why a stream was neither created nor changed.
fn not_carried_out(
    error: ApiError,
    api: &JetStream,
    call: &str,
    plan: &Plan,
    config: &Value,
) -> ControlError {
    let (err_code, description) = match error {
        ApiError::Request(RequestFailed::Unknown) => return ControlError::ProvisionUnknown,
        ApiError::Refused {
            err_code,
            description,
        } => (err_code, description),
        ApiError::Request(_) | ApiError::DomainAway | ApiError::Unreadable(_) => {
            return failed(error, api, call);
        }
    };
    let cannot_have = |field, way_out| {
        let have = format!("refused: {description}");
        cannot_have(plan, config, field, &have, way_out)
    };
    match err_code {
        code::SUBJECTS_OVERLAP => cannot_have("subjects", SUBJECTS_TAKEN),
        code::INVALID_CONFIG if description.contains("subjects") => cannot_have("subjects", SUBJECTS_REFUSED),
        code::NOT_CLUSTERED => cannot_have("num_replicas", NOT_CLUSTERED),
        code::MAX_BYTES_REQUIRED => cannot_have("max_bytes", BOUND_REQUIRED),
        code::MAX_BYTES_EXCEEDED => cannot_have("max_bytes", BOUND_TOO_HIGH),
        code::NO_SUITABLE_PEERS if description.contains("insufficient storage") => full(plan, description),
        code::NO_SUITABLE_PEERS if description.ends_with(ALL_OFFLINE) => {
            ControlError::unavailable("a server of the cluster that would take the stream is offline")
        }
        code::NO_SUITABLE_PEERS if config.get("placement").is_some() => cannot_have("placement", NO_SERVERS),
        // One server is always there, or will be.
        code::NO_SUITABLE_PEERS if config.get("num_replicas").is_some_and(|count| *count != 1) => {
            cannot_have("num_replicas", NO_SERVERS)
        }
        code::MOVE_IN_PROGRESS | code::RECONFIGURATION_IN_PROGRESS => {
            ControlError::unavailable("the stream is being scaled or moved")
        }
        10023 | 10027 | 10028 | 10047 => full(plan, description),
        _ => failed(
            ApiError::Refused {
                err_code,
                description,
            },
            api,
            call,
        ),
    }
}

fn full(plan: &Plan, description: String) -> ControlError {
    ControlError::StreamFull {
        stream: plan.stream.clone(),
        description,
    }
}

fn cannot_have(plan: &Plan, config: &Value, field: &str, have: &str, way_out: &str) -> ControlError {
    ControlError::Unprovisionable(Box::new(Unprovisionable {
        stream: plan.stream.clone(),
        field: field.to_owned(),
        want: config.get(field).cloned().unwrap_or_default(),
        have: json!(have),
        way_out: way_out.to_owned(),
    }))
}

/// Why a call of the API failed; names the call where NATS refuses it.
fn failed(error: ApiError, api: &JetStream, call: &str) -> ControlError {
    match error {
        ApiError::Request(RequestFailed::Forbidden) => ControlError::Forbidden {
            subject: api.subject(call),
        },
        ApiError::Request(_) | ApiError::DomainAway | ApiError::Refused { .. } | ApiError::Unreadable(_) => {
            ControlError::of_api(error, "")
        }
    }
}
