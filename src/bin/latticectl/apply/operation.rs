//! Writes a change as an operation of the API.

use lattice_gateway::proto::{
    ApplyRequest, DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest,
    DeleteLinkDefinitionRequest, DeleteOciReferenceRequest, PutClaimsRequest, PutConfigRequest,
    PutInterfaceLinkRequest, PutLinkDefinitionRequest, SetOciReferenceRequest, apply_request::Operation,
    entry::Entry, entry_identity::Identity, put_claims_request::Source,
};
use uuid::Uuid;

use super::{
    manifest::Desired,
    plan::{Change, Step},
};
use crate::args::Precondition;

/// What all operations of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) lattice: String,
    /// Begins every request id of the run.
    pub(crate) run: String,
    /// Checked only.
    pub(crate) dry_run: bool,
    /// Whatever became of an entry since it was compared.
    pub(crate) force: bool,
}

impl Terms {
    /// Those of a new run on a lattice.
    pub(crate) fn of(lattice: &str) -> Self {
        Self {
            lattice: lattice.to_owned(),
            run: Uuid::now_v7().simple().to_string(),
            dry_run: false,
            force: false,
        }
    }

    /// The same for every attempt; short enough for any number of operations.
    fn request_id(&self, number: usize) -> String {
        format!("{}-{number}", self.run)
    }

    /// The `number`th operation of the run.
    pub(crate) fn operation(
        &self,
        number: usize,
        change: &Change,
        retry_age: Option<pbjson_types::Duration>,
    ) -> ApplyRequest {
        let precondition = match &change.step {
            _ if self.force => None,
            Step::Create(_) => Some(Precondition::MustNotExist),
            Step::Update { etag, .. } | Step::Delete { etag } => Some(Precondition::Etag(etag.clone())),
        };
        let common = Common {
            request_id: self.request_id(number),
            retry_age,
            precondition,
        };
        let operation = match &change.step {
            Step::Create(desired) | Step::Update { desired, .. } => self.put(desired, common),
            Step::Delete { .. } => self.delete(&change.identity, common),
        };
        ApplyRequest {
            id: number.to_string(),
            operation: Some(operation),
        }
    }

    fn put(&self, desired: &Desired, common: Common) -> Operation {
        let (lattice, validate_only) = (self.lattice.clone(), self.dry_run);
        let Common {
            request_id,
            retry_age,
            precondition,
        } = common;
        match desired.entry.clone() {
            Entry::Claims(claims) => Operation::PutClaims(PutClaimsRequest {
                lattice,
                source: Some(match &desired.token {
                    Some(token) => Source::Jwt(token.clone()),
                    None => Source::Claims(claims),
                }),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
            }),
            Entry::LinkDefinition(link) => Operation::PutLinkDefinition(PutLinkDefinitionRequest {
                lattice,
                link_definition: Some(link),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
            }),
            Entry::InterfaceLink(link) => Operation::PutInterfaceLink(PutInterfaceLinkRequest {
                lattice,
                interface_link: Some(link),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
            }),
            Entry::OciReference(reference) => Operation::SetOciReference(SetOciReferenceRequest {
                lattice,
                oci_reference: Some(reference),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
            }),
            Entry::NamedConfig(config) => Operation::PutConfig(PutConfigRequest {
                lattice,
                named_config: Some(config),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
            }),
        }
    }

    fn delete(&self, identity: &Identity, common: Common) -> Operation {
        let (lattice, validate_only) = (self.lattice.clone(), self.dry_run);
        // Without a precondition that the entry is as it was, it may as well be gone.
        let allow_missing = self.force;
        let Common {
            request_id,
            retry_age,
            precondition,
        } = common;
        match identity.clone() {
            Identity::Claims(id) => Operation::DeleteClaims(DeleteClaimsRequest {
                lattice,
                public_key: id.public_key,
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
                allow_missing,
            }),
            Identity::LinkDefinition(id) => Operation::DeleteLinkDefinition(DeleteLinkDefinitionRequest {
                lattice,
                actor_id: Some(id.actor_id),
                contract_id: Some(id.contract_id),
                link_name: Some(id.link_name),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
                allow_missing,
            }),
            Identity::InterfaceLink(id) => Operation::DeleteInterfaceLink(DeleteInterfaceLinkRequest {
                lattice,
                source_id: Some(id.source_id),
                name: Some(id.name),
                wit_namespace: Some(id.wit_namespace),
                wit_package: Some(id.wit_package),
                target: Some(id.target),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
                allow_missing,
            }),
            Identity::OciReference(id) => Operation::DeleteOciReference(DeleteOciReferenceRequest {
                lattice,
                oci_url: Some(id.oci_url),
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
                allow_missing,
            }),
            Identity::NamedConfig(id) => Operation::DeleteConfig(DeleteConfigRequest {
                lattice,
                name: id.name,
                request_id,
                retry_age,
                precondition: precondition.map(Into::into),
                validate_only,
                allow_missing,
                force: false,
            }),
        }
    }
}

/// What every request has.
struct Common {
    request_id: String,
    retry_age: Option<pbjson_types::Duration>,
    precondition: Option<Precondition>,
}
