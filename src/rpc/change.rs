//! A change of an entry: parsed by its service's module, granted and carried out here, whether it comes by a call of its
//! own or with others.

use std::hash::{BuildHasher, RandomState};

use tonic::Status;

use super::{Call, Gateway, status::Failure};
use crate::{
    auth::{ClaimsWrite, ClaimsWriteUnsigned, ConfigWrite, LinksWrite, RefsWrite, Verb, VerbName},
    control::{
        decide::Mode,
        mutate::Written,
        operations::{ClaimsSource, LinkSelector, Terms},
    },
    domain::{
        Claims, EntryKey, InterfaceLink, InterfaceLinkId, LatticeName, LinkDefinition, LinkId, NamedConfig,
        OciReference, claims_token::VerifiedToken, nkey::Nkey,
    },
};

/// A change that a request asks for, parsed and not granted yet.
#[derive(Debug)]
pub(super) struct Change {
    /// On which lattice.
    pub lattice: LatticeName,
    /// On which terms.
    pub terms: Terms,
    /// What.
    pub asked: Asked,
}

/// What a change is.
#[derive(Debug)]
pub(super) enum Asked {
    /// Claims from a verified token, with its text.
    PutSignedClaims(Box<VerifiedToken>, String),
    /// Claims without a signature.
    PutUnsignedClaims(Nkey, Box<Claims>),
    DeleteClaims {
        key: Box<str>,
        allow_missing: bool,
    },
    PutLinkDefinition(LinkId, LinkDefinition),
    DeleteLinkDefinition {
        id: LinkId,
        allow_missing: bool,
    },
    PutInterfaceLink(InterfaceLinkId, InterfaceLink),
    DeleteInterfaceLink {
        selector: LinkSelector,
        allow_missing: bool,
    },
    SetOciReference(Box<str>, OciReference),
    DeleteOciReference(Box<str>),
    PutConfig(Box<str>, NamedConfig),
    DeleteConfig {
        name: Box<str>,
        allow_missing: bool,
        force: bool,
    },
}

/// What became of a change.
#[derive(Debug)]
pub(super) struct Done {
    /// What was written.
    pub written: Written,
    /// Whether the caller may see the values of links and configs.
    pub reads_values: bool,
}

impl Change {
    /// The verb that it needs.
    pub(super) fn verb(&self) -> VerbName {
        match self.asked {
            Asked::PutSignedClaims(..) | Asked::DeleteClaims { .. } => ClaimsWrite::NAME,
            Asked::PutUnsignedClaims(..) => ClaimsWriteUnsigned::NAME,
            Asked::PutLinkDefinition(..)
            | Asked::DeleteLinkDefinition { .. }
            | Asked::PutInterfaceLink(..)
            | Asked::DeleteInterfaceLink { .. } => LinksWrite::NAME,
            Asked::SetOciReference(..) | Asked::DeleteOciReference(_) => RefsWrite::NAME,
            Asked::PutConfig(..) | Asked::DeleteConfig { .. } => ConfigWrite::NAME,
        }
    }

    /// The entry, as far as the request names it.
    fn entry(&self) -> EntryKey {
        match &self.asked {
            Asked::PutSignedClaims(token, _) => EntryKey::Claims(token.subject.as_str().into()),
            Asked::PutUnsignedClaims(key, _) => EntryKey::Claims(key.as_str().into()),
            Asked::DeleteClaims { key, .. } => EntryKey::Claims(key.clone()),
            Asked::PutLinkDefinition(id, _) | Asked::DeleteLinkDefinition { id, .. } => {
                EntryKey::LinkDefinition(id.clone())
            }
            Asked::PutInterfaceLink(id, _) => EntryKey::InterfaceLink(id.clone()),
            Asked::DeleteInterfaceLink { selector, .. } => EntryKey::InterfaceLink(selector.id.clone()),
            Asked::SetOciReference(url, _) | Asked::DeleteOciReference(url) => {
                EntryKey::OciReference(url.clone())
            }
            Asked::PutConfig(name, _) | Asked::DeleteConfig { name, .. } => EntryKey::Config(name.clone()),
        }
    }

    /// A number that all changes share that may concern one entry; others may, by chance, too. The target of an interface
    /// link is no part of it, since a delete may leave it out.
    pub(super) fn line(&self, hasher: &RandomState) -> u64 {
        fn of_link(id: &InterfaceLinkId) -> (u8, [&str; 4]) {
            (3, [&id.source_id, &id.name, &id.wit_namespace, &id.wit_package])
        }
        let entry = match &self.asked {
            Asked::PutSignedClaims(token, _) => (1, [token.subject.as_str(), "", "", ""]),
            Asked::PutUnsignedClaims(key, _) => (1, [key.as_str(), "", "", ""]),
            Asked::DeleteClaims { key, .. } => (1, [&**key, "", "", ""]),
            Asked::PutLinkDefinition(id, _) | Asked::DeleteLinkDefinition { id, .. } => {
                (2, [&*id.actor_id, &id.contract_id, &id.link_name, ""])
            }
            Asked::PutInterfaceLink(id, _) => of_link(id),
            Asked::DeleteInterfaceLink { selector, .. } => of_link(&selector.id),
            Asked::SetOciReference(url, _) | Asked::DeleteOciReference(url) => (4, [&**url, "", "", ""]),
            Asked::PutConfig(name, _) | Asked::DeleteConfig { name, .. } => (5, [&**name, "", "", ""]),
        };
        hasher.hash_one((self.lattice.as_str(), entry))
    }

    /// Notes what is asked for, whether it is granted or not.
    pub(super) fn record(&self, call: &Call) {
        call.trail.note(|record| {
            record.lattice = Some(self.lattice.to_string());
            record.verb = Some(self.verb().as_str());
            record.entry = Some(self.entry().to_string());
            record.request_id = self.terms.request_id.as_ref().map(|id| id.as_str().to_owned());
            record.validate_only = self.terms.mode == Mode::ValidateOnly;
        });
    }
}

impl Gateway {
    /// Carries out what was parsed: all that a handler of one change does.
    pub(super) async fn changed(&self, call: &Call, parsed: Result<Change, Failure>) -> Result<Done, Status> {
        let carried_out = async { self.carry_out(call, parsed?).await };
        carried_out
            .await
            .map_err(|failure: Failure| failure.into_status(call))
    }

    /// Grants a change, or refuses it, and carries it out.
    pub(super) async fn carry_out(&self, call: &Call, change: Change) -> Result<Done, Failure> {
        change.record(call);
        let Change {
            lattice,
            terms,
            asked,
        } = change;
        let (control, deadline) = (&self.control, call.deadline);
        let (written, reads_values) = match asked {
            Asked::PutSignedClaims(token, text) => {
                let grant = self.grant(call, &lattice)?;
                let reads_values = grant.reads_values();
                let source = ClaimsSource::Signed { grant, token, text };
                (control.put_claims(source, terms, deadline).await?, reads_values)
            }
            Asked::PutUnsignedClaims(key, claims) => {
                let grant = self.grant(call, &lattice)?;
                let reads_values = grant.reads_values();
                let claims = *claims;
                let source = ClaimsSource::Unsigned { grant, key, claims };
                (control.put_claims(source, terms, deadline).await?, reads_values)
            }
            Asked::DeleteClaims { key, allow_missing } => {
                let grant = self.grant(call, &lattice)?;
                let deleted = control.delete_claims(&grant, key, allow_missing, terms, deadline);
                (deleted.await?, grant.reads_values())
            }
            Asked::PutLinkDefinition(id, link) => {
                let grant = self.grant(call, &lattice)?;
                let put = control.put_link_definition(&grant, (id, link), terms, deadline);
                (put.await?, grant.reads_values())
            }
            Asked::DeleteLinkDefinition { id, allow_missing } => {
                let grant = self.grant(call, &lattice)?;
                let deleted = control.delete_link_definition(&grant, id, allow_missing, terms, deadline);
                (deleted.await?, grant.reads_values())
            }
            Asked::PutInterfaceLink(id, link) => {
                let grant = self.grant(call, &lattice)?;
                let put = control.put_interface_link(&grant, (id, link), terms, deadline);
                (put.await?, grant.reads_values())
            }
            Asked::DeleteInterfaceLink {
                selector,
                allow_missing,
            } => {
                let grant = self.grant(call, &lattice)?;
                let deleted = control.delete_interface_link(&grant, selector, allow_missing, terms, deadline);
                (deleted.await?, grant.reads_values())
            }
            Asked::SetOciReference(url, reference) => {
                let grant = self.grant(call, &lattice)?;
                let set = control.set_oci_reference(&grant, (url, reference), terms, deadline);
                (set.await?, grant.reads_values())
            }
            Asked::DeleteOciReference(_) => {
                let grant = self.grant(call, &lattice)?;
                let deleted = control.delete_oci_reference(&grant, deadline);
                (deleted.await?, grant.reads_values())
            }
            Asked::PutConfig(name, config) => {
                let grant = self.grant(call, &lattice)?;
                let put = control.put_config(&grant, (name, config), terms, deadline);
                (put.await?, grant.reads_values())
            }
            Asked::DeleteConfig {
                name,
                allow_missing,
                force,
            } => {
                let grant = self.grant(call, &lattice)?;
                let how = (allow_missing, force);
                let deleted = control.delete_config(&grant, name, how, terms, deadline);
                (deleted.await?, grant.reads_values())
            }
        };
        Ok(Done {
            written,
            reads_values,
        })
    }
}
