//! `LatticeService`.

use data_encoding::BASE64URL_NOPAD;
use pbjson_types::Duration;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Call, Gateway,
    convert::{self, finish, three},
    provisioning::{self, RawOptions},
    status::Failure,
};
use crate::{
    auth::{Names, VerbName},
    control::{
        ControlError,
        lattice::WriteAtRisk,
        lattices::{Layout, Named},
        links::UndoneEdit,
        operations::Description,
    },
    domain::{Invalid, Kind, LatticeName, Violations},
    proto::{
        self, DiagnoseLatticeRequest, DiagnoseLatticeResponse, Durability, GetLatticeRequest,
        GetLatticeResponse, GetServerInfoRequest, GetServerInfoResponse, LatticeSummary, ListLatticesRequest,
        ListLatticesResponse, MalformedEntry, MigrateLatticeRequest, MigrateLatticeResponse,
        ProvisionLatticeRequest, ProvisionLatticeResponse, ProvisionWadmRequest, ProvisionWadmResponse,
        lattice_service_server::LatticeService,
    },
    store::{drift::Drift, provisioning::Step},
};

#[async_trait]
impl LatticeService for Gateway {
    async fn list_lattices(
        &self,
        request: Request<ListLatticesRequest>,
    ) -> Result<Response<ListLatticesResponse>, Status> {
        let call = Call::of(&request);
        self.list_lattices_page(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn get_lattice(
        &self,
        request: Request<GetLatticeRequest>,
    ) -> Result<Response<GetLatticeResponse>, Status> {
        let call = Call::of(&request);
        self.get_lattice_of(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn provision_lattice(
        &self,
        request: Request<ProvisionLatticeRequest>,
    ) -> Result<Response<ProvisionLatticeResponse>, Status> {
        let call = Call::of(&request);
        self.provision(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn migrate_lattice(
        &self,
        request: Request<MigrateLatticeRequest>,
    ) -> Result<Response<MigrateLatticeResponse>, Status> {
        let call = Call::of(&request);
        self.migrate(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn provision_wadm(
        &self,
        request: Request<ProvisionWadmRequest>,
    ) -> Result<Response<ProvisionWadmResponse>, Status> {
        let call = Call::of(&request);
        self.provision_wadm_as_asked(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn diagnose_lattice(
        &self,
        request: Request<DiagnoseLatticeRequest>,
    ) -> Result<Response<DiagnoseLatticeResponse>, Status> {
        let call = Call::of(&request);
        self.diagnose_lattice_of(&call, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(|failure| failure.into_status(&call))
    }

    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let call = Call::of(&request);
        let now = self.control.clock().now().as_nanos();
        Ok(Response::new(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Some(self.info.limits),
            layouts: Layout::ALL.map(|layout| proto_layout(layout).into()).into(),
            default_deadline: Some(self.info.default_deadline.into()),
            nats_version: self
                .control
                .lattices()
                .upstreams()
                .first
                .api
                .connection()
                .server_version()
                .unwrap_or_default(),
            server_time: Some(convert::timestamp(i128::try_from(now).unwrap_or(i128::MAX))),
            caller: call.caller().as_str().to_owned(),
        }))
    }
}

impl Gateway {
    async fn list_lattices_page(
        &self,
        call: &Call,
        request: &ListLatticesRequest,
    ) -> Result<ListLatticesResponse, Failure> {
        let mut violations = Violations::new();
        let page_size = convert::page_size(request.page_size, &mut violations);
        let page_size = finish(page_size, violations)?;
        let after = match request.page_token.as_str() {
            "" => String::new(),
            token => name_of_token(token).ok_or(ControlError::PageTokenInvalid)?,
        };
        let visible = |name: &LatticeName| self.grant(call, name).ok();
        let may_see = |lattices: &Names| call.authenticated.access.may_see_some_of(lattices);
        let lattices = self
            .control
            .list_lattices(visible, may_see, call.deadline)
            .await?;
        let mut behind = lattices
            .iter()
            .skip_while(|(grant, _)| grant.lattice().as_str() <= after.as_str());
        let page = behind
            .by_ref()
            .take(page_size)
            .map(|(grant, named)| LatticeSummary {
                name: grant.lattice().to_string(),
                layout: layout_of_names(*named).into(),
            })
            .collect::<Vec<_>>();
        let next_page_token = match (behind.next(), page.last()) {
            (Some(_), Some(last)) => BASE64URL_NOPAD.encode(last.name.as_bytes()),
            _ => String::new(),
        };
        Ok(ListLatticesResponse {
            lattices: page,
            next_page_token,
        })
    }

    async fn get_lattice_of(
        &self,
        call: &Call,
        request: &GetLatticeRequest,
    ) -> Result<GetLatticeResponse, Failure> {
        let mut violations = Violations::new();
        let name = convert::lattice(&request.lattice, &mut violations);
        let name = finish(name, violations)?;
        let grant = self.grant::<crate::auth::Read>(call, &name)?;
        let description = self.control.describe(&grant, call.deadline).await?;
        Ok(GetLatticeResponse {
            lattice: Some(lattice(&name, description)),
        })
    }

    async fn provision(
        &self,
        call: &Call,
        request: &ProvisionLatticeRequest,
    ) -> Result<ProvisionLatticeResponse, Failure> {
        let mut violations = Violations::new();
        let name = convert::lattice(&request.lattice, &mut violations);
        let layout = violations.check("layout", provisioned_layout(request.layout));
        let options = RawOptions {
            storage: request.storage,
            replicas: request.replicas,
            placement: request.placement.as_ref(),
            max_bytes: request.max_bytes,
        };
        let options = options.parse(&mut violations);
        let (name, layout, options) = finish(three(name, layout, options), violations)?;
        call.trail.note(|record| {
            record.lattice = Some(name.to_string());
            record.verb = Some(VerbName::Provision.as_str());
            record.validate_only = request.validate_only;
        });
        let grant = self.grant(call, &name)?;
        let configured = || self.control.lattices().settings(&name)?.layout;
        let layout = layout.or_else(configured).unwrap_or(Layout::CacheStream);
        // A full stream of that layout drops what is old: entries would vanish.
        if layout == Layout::CacheStream && options.max_bytes.is_some() {
            let mut violations = Violations::new();
            violations.add("max_bytes", NOT_FOR_CACHE_STREAM);
            return Err(violations.into());
        }
        let mode = convert::mode(request.validate_only);
        let plans = self
            .control
            .provision(&grant, layout, &options, mode, call.deadline)
            .await?;
        provisioning::note(&call.trail, &plans, mode);
        let created = plans.iter().any(|plan| matches!(plan.step, Step::Create(_)));
        let lattice = match self.control.describe(&grant, call.deadline).await {
            Ok(description) => Some(lattice(&name, description)),
            Err(ControlError::NotProvisioned { .. }) if request.validate_only => None,
            Err(error) => return Err(error.into()),
        };
        Ok(ProvisionLatticeResponse {
            lattice,
            created,
            streams: plans.into_iter().map(provisioning::stream_plan).collect(),
        })
    }
}

const NOT_FOR_CACHE_STREAM: Invalid = Invalid::Rule(
    "cannot be set for layout cache-stream, where a full stream would lose entries; leave it out",
);

fn name_of_token(token: &str) -> Option<String> {
    let name = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let name = LatticeName::parse(std::str::from_utf8(&name).ok()?).ok()?;
    Some(name.to_string())
}

fn provisioned_layout(layout: i32) -> Result<Option<Layout>, Invalid> {
    match proto::Layout::try_from(layout) {
        Ok(proto::Layout::Unspecified) => Ok(None),
        Ok(proto::Layout::CacheStream) => Ok(Some(Layout::CacheStream)),
        Ok(proto::Layout::Kv) => Ok(Some(Layout::Kv)),
        Ok(proto::Layout::Component) => Ok(Some(Layout::Component)),
        Ok(proto::Layout::Undecided) | Err(_) => {
            Err(Invalid::Rule("is not a layout that can be provisioned"))
        }
    }
}

fn layout_of_names(named: Named) -> proto::Layout {
    match (named.stream, named.bucket) {
        (true, false) => proto::Layout::CacheStream,
        (true, true) => proto::Layout::Undecided,
        (false, _) => named
            .bucket_layout
            .map_or(proto::Layout::Unspecified, proto_layout),
    }
}

fn lattice(name: &LatticeName, description: Description) -> proto::Lattice {
    let count = |kind| {
        let count = description.counts.get(&kind).copied().unwrap_or(0);
        u64::try_from(count).unwrap_or(u64::MAX)
    };
    let layout = description.layout.map_or(proto::Layout::Undecided, proto_layout);
    proto::Lattice {
        name: name.to_string(),
        layout: layout.into(),
        durability: durability(&description.config),
        drift: description.drift.iter().map(drift).collect(),
        malformed_count: u64::try_from(description.malformed_count).unwrap_or(u64::MAX),
        malformed: description
            .malformed
            .iter()
            .map(|(subject, malformed)| MalformedEntry {
                subject: subject.clone(),
                sequence: malformed.sequence,
                reason: malformed.reason.to_owned(),
            })
            .collect(),
        claims_count: count(Kind::Claims),
        link_definition_count: count(Kind::LinkDefinition),
        oci_reference_count: count(Kind::OciReference),
        revision: description.revision.map(convert::revision),
        writes_at_risk: description.at_risk.iter().map(write_at_risk).collect(),
        stale_copies: u64::try_from(description.stale_copies).unwrap_or(u64::MAX),
        interface_link_count: count(Kind::InterfaceLink),
        named_config_count: count(Kind::Config),
        migration_differences: description
            .migration_differences
            .iter()
            .map(|difference| proto::MigrationDifference {
                entry: difference.key.to_string(),
                missing: difference.is_missing,
            })
            .collect(),
        undone_edits: description.undone_edits.iter().map(undone_edit).collect(),
        deaf_watches: description
            .deaf_watches
            .into_iter()
            .map(|watch| proto::DeafWatch {
                consumer: watch.consumer,
                pending: watch.pending,
            })
            .collect(),
        settle: description.settle.map(Into::into),
        stream: description.stream,
    }
}

fn proto_layout(layout: Layout) -> proto::Layout {
    match layout {
        Layout::CacheStream => proto::Layout::CacheStream,
        Layout::Kv => proto::Layout::Kv,
        Layout::Component => proto::Layout::Component,
    }
}

fn undone_edit(edit: &UndoneEdit) -> proto::UndoneEdit {
    proto::UndoneEdit {
        entry: edit.key.to_string(),
        revision: Some(convert::revision(edit.revision)),
        undone_at: Some(convert::revision(edit.undone_at)),
    }
}

fn drift(drift: &Drift) -> proto::Drift {
    proto::Drift {
        field: drift.field.to_owned(),
        want: drift.want.to_string(),
        have: drift.have.to_string(),
        blocks_writes: drift.blocks_writes,
    }
}

fn write_at_risk(write: &WriteAtRisk) -> proto::WriteAtRisk {
    let acknowledged = i128::try_from(write.acknowledged.as_nanos()).unwrap_or(i128::MAX);
    proto::WriteAtRisk {
        entry: write.key.to_string(),
        revision: Some(convert::revision(write.revision)),
        acknowledge_time: Some(convert::timestamp(acknowledged)),
    }
}

/// What the stream's own configuration says, and what NATS promises of it.
fn durability(config: &serde_json::Value) -> Option<Durability> {
    let number = |field| config.get(field).and_then(serde_json::Value::as_u64);
    let replicas = u32::try_from(number("num_replicas")?).ok()?;
    let (storage, statement) = match (config.get("storage")?.as_str()?, replicas) {
        ("memory", 1) => (
            proto::Storage::Memory,
            "An acknowledged write stands until the one NATS server that holds the stream stops; then the whole stream is gone.",
        ),
        ("memory", _) => (
            proto::Storage::Memory,
            "An acknowledged write is on a majority of the replicas and survives the loss of a minority of them; when all stop at \
             once the stream is empty.",
        ),
        (_, 1) => (
            proto::Storage::File,
            "An acknowledged write survives a stop or crash of the NATS server's process; a crash of its machine can lose what \
             was written since the last sync to disk (`sync_interval`, 2 minutes by default).",
        ),
        (_, _) => (
            proto::Storage::File,
            "An acknowledged write is on a majority of the replicas and survives the loss of a minority of them and a stop of all; \
             a crash of a majority of the machines at once can lose what was written since their last sync to disk \
             (`sync_interval`, 2 minutes by default).",
        ),
    };
    Some(Durability {
        storage: storage.into(),
        replicas,
        duplicate_window: number("duplicate_window").map(|nanos| Duration {
            seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
        }),
        statement: statement.to_owned(),
    })
}
