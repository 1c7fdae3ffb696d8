//! The gRPC face: generated traits in, operations out. The only module that names tonic and prost.
//!
//! A handler is: who calls ([`Call`]) → parse → grant → one operation → convert. `change` grants and carries out what
//! changes an entry, whether it came by its own method or by [`apply`]. [`convert`] parses requests and writes resources,
//! [`status`] alone makes a `tonic::Status`, [`layers`] wraps every call, [`http`] lets the same calls come as JSON and from
//! browsers, [`server`] accepts connections, [`tls`] secures
//! them and tells who is at the other end.

pub mod answers;
pub mod apply;
pub mod convert;
pub mod http;
pub mod layers;
pub mod server;
pub mod status;
pub mod tls;

mod addresses;
mod change;
mod claims;
mod config;
mod diagnose;
mod interface_link;
mod lattice;
mod link_definition;
mod migration;
mod oci_reference;
mod provisioning;
mod watch;

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::HealthServer;

use self::{
    convert::{finish, three},
    server::Connection,
    status::Failure,
};
use crate::{
    audit::Trail,
    auth::{Caller, Grant, Policy, Read, Verb, authenticate::Authenticated},
    control::{
        Control, ControlError, Deadline,
        gate::Patience,
        operations::{ListQuery, Page},
        page::Filter,
    },
    domain::{EntryKey, LatticeName, Violations},
    proto::{
        self, FILE_DESCRIPTOR_SET, Limits, apply_service_server::ApplyServiceServer,
        claims_service_server::ClaimsServiceServer, config_service_server::ConfigServiceServer,
        interface_link_service_server::InterfaceLinkServiceServer,
        lattice_service_server::LatticeServiceServer,
        link_definition_service_server::LinkDefinitionServiceServer,
        oci_reference_service_server::OciReferenceServiceServer,
    },
    store::mirror::Standing,
};

/// Bytes in a gRPC request, at most; where it is compressed, both before and after.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes in a gRPC answer, at most: what clients accept by default.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How a request may be compressed. Answers are not: they hold values that are secret beside what a caller has chosen, and
/// their length would tell (CRIME, BREACH).
const REQUEST_ENCODING: CompressionEncoding = CompressionEncoding::Gzip;

/// The services that are ours, for health.
pub const SERVICES: [&str; 8] = [
    "lattice.control.v1.ClaimsService",
    "lattice.control.v1.LinkDefinitionService",
    "lattice.control.v1.OciReferenceService",
    "lattice.control.v1.InterfaceLinkService",
    "lattice.control.v1.ConfigService",
    "lattice.control.v1.WatchService",
    "lattice.control.v1.ApplyService",
    "lattice.control.v1.LatticeService",
];

/// What every service works with.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The operations.
    pub control: Control,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// What `GetServerInfo` tells.
    pub info: Arc<ServerInfo>,
    /// Who may come in, and stay.
    pub admission: Arc<layers::Admission>,
}

/// What `GetServerInfo` tells, of what does not change.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The limits that are enforced.
    pub limits: Limits,
    /// The deadline of a call that sends none.
    pub default_deadline: std::time::Duration,
}

/// One call under way: who, and until when. Made by [`layers`] for every request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Names the call in logs and in internal errors.
    pub id: Arc<str>,
    /// Who.
    pub authenticated: Authenticated,
    /// The connection by which it came.
    pub connection: Option<Arc<Connection>>,
    /// Where an attempt to change something is recorded.
    pub trail: Trail,
    /// When it came.
    pub arrived: Instant,
    /// Until when.
    pub deadline: Deadline,
    /// Until when the client waits for a call that goes on, where it says so.
    pub until: Option<Deadline>,
    /// How it waits for its turn at the lattice's stream.
    pub patience: Patience,
    /// How often gRPC itself has tried this call before.
    pub previous_attempts: u32,
}

impl Call {
    /// Who.
    pub fn caller(&self) -> &Caller {
        self.authenticated.access.caller()
    }
}

impl Gateway {
    fn grant<V: Verb>(&self, call: &Call, lattice: &LatticeName) -> Result<Grant<V>, ControlError> {
        self.policy
            .grant(&call.authenticated.access, lattice)
            .map_err(ControlError::Denied)
    }
}

/// The question for one entry, as it came; the key is absent where it was refused.
struct GetQuery {
    lattice: String,
    key: Option<EntryKey>,
    consistency: Option<proto::Consistency>,
}

/// The question for a page, as it came.
struct PageQuery {
    filter: Filter,
    lattice: String,
    consistency: Option<proto::Consistency>,
    page_size: i32,
    page_token: String,
}

impl Gateway {
    async fn get_entry(
        &self,
        call: &Call,
        asked: GetQuery,
        mut violations: Violations,
    ) -> Result<(Grant<Read>, EntryKey, Standing), Failure> {
        let lattice = convert::lattice(&asked.lattice, &mut violations);
        let consistency = convert::consistency(asked.consistency, &mut violations);
        let (lattice, key, consistency) = finish(three(lattice, asked.key, consistency), violations)?;
        let grant = self.grant::<Read>(call, &lattice)?;
        let standing = self.control.get(&grant, &key, consistency, call.deadline).await?;
        Ok((grant, key, standing))
    }

    async fn list_entries(&self, call: &Call, asked: PageQuery) -> Result<(Grant<Read>, Page), Failure> {
        let mut violations = Violations::new();
        let lattice = convert::lattice(&asked.lattice, &mut violations);
        let page_size = convert::page_size(asked.page_size, &mut violations);
        let consistency = convert::consistency(asked.consistency, &mut violations);
        let (lattice, page_size, consistency) = finish(three(lattice, page_size, consistency), violations)?;
        let grant = self.grant::<Read>(call, &lattice)?;
        let query = ListQuery {
            filter: asked.filter,
            page_size,
            page_token: asked.page_token,
            consistency,
        };
        let page = self.control.list(&grant, query, call.deadline).await?;
        Ok((grant, page))
    }
}

/// Assembles the services, health and, where wanted, reflection.
pub fn routes(
    gateway: &Gateway,
    health: tonic_health::server::HealthService,
    with_reflection: bool,
) -> Routes {
    macro_rules! limited {
        ($server:ident) => {
            $server::new(gateway.clone())
                .accept_compressed(REQUEST_ENCODING)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(HealthServer::new(health).accept_compressed(REQUEST_ENCODING))
        .add_service(limited!(ClaimsServiceServer))
        .add_service(limited!(LinkDefinitionServiceServer))
        .add_service(limited!(OciReferenceServiceServer))
        .add_service(limited!(InterfaceLinkServiceServer))
        .add_service(limited!(ConfigServiceServer))
        .add_service(limited!(ApplyServiceServer))
        .add_service(limited!(LatticeServiceServer))
        .add_service(watch::WatchServer::new(gateway.clone()));
    if with_reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Our own descriptors always build; without reflection the services still serve.
        if let (Ok(v1), Ok(v1alpha)) = (builder().build_v1(), builder().build_v1alpha()) {
            routes
                .add_service(v1.accept_compressed(REQUEST_ENCODING))
                .add_service(v1alpha.accept_compressed(REQUEST_ENCODING));
        }
    }
    routes.routes()
}
