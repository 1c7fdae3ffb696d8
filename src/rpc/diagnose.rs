//! `DiagnoseLattice`, of `LatticeService`.

use super::{
    Call, Gateway, claims,
    convert::{self, finish},
    interface_link, link_definition, oci_reference,
    status::Failure,
};
use crate::{
    control::diagnose::{Diagnosis, Finding, FindingKind, Severity, Skipped},
    domain::{EntryKey, Invalid, Violations},
    proto::{
        self, ApplyRequest, DiagnoseLatticeRequest, DiagnoseLatticeResponse, Evidence, FindingCount,
        PutClaimsRequest, PutInterfaceLinkRequest, PutLinkDefinitionRequest, Remedy, SetOciReferenceRequest,
        SkippedCheck, apply_request::Operation, put_claims_request, put_interface_link_request,
        put_link_definition_request, set_oci_reference_request,
    },
    store::mirror::Standing,
};

/// Replicas of a stream, at most (NATS).
const REPLICAS_MAX: u32 = 5;

impl Gateway {
    pub(super) async fn diagnose_lattice_of(
        &self,
        call: &Call,
        request: &DiagnoseLatticeRequest,
    ) -> Result<DiagnoseLatticeResponse, Failure> {
        let mut violations = Violations::new();
        let name = convert::lattice(&request.lattice, &mut violations);
        let wanted = violations.check("replicas_wanted", replicas_wanted(request.replicas_wanted));
        let (name, wanted) = finish(name.zip(wanted), violations)?;
        let grant = self.grant(call, &name)?;
        let diagnosis = self.control.diagnose(&grant, wanted, call.deadline).await?;
        Ok(response(call, name.as_str(), diagnosis))
    }
}

fn replicas_wanted(wanted: u32) -> Result<Option<u32>, Invalid> {
    match wanted {
        0 => Ok(None),
        1..=REPLICAS_MAX => Ok(Some(wanted)),
        _ => Err(Invalid::Rule("must be at most 5; leave it out to take any")),
    }
}

fn response(call: &Call, lattice: &str, diagnosis: Diagnosis) -> DiagnoseLatticeResponse {
    let count = |(severity, kind): (Severity, FindingKind), count| FindingCount {
        kind: proto_kind(kind).into(),
        severity: proto_severity(severity).into(),
        count,
    };
    let counts = diagnosis.found.iter();
    let counts = counts.map(|(of, found)| count(*of, found.count)).collect();
    let found = diagnosis.found.into_iter().flat_map(|((severity, kind), found)| {
        let findings = found.listed.into_iter();
        findings.map(move |finding| (severity, kind, finding))
    });
    DiagnoseLatticeResponse {
        findings: found
            .map(|(severity, kind, it)| finding(call, lattice, (severity, kind), it))
            .collect(),
        counts,
        skipped: diagnosis.skipped.into_iter().map(skipped).collect(),
        revision: diagnosis.revision.map(convert::revision),
        hosts: diagnosis
            .hosts
            .map(|hosts| u32::try_from(hosts).unwrap_or(u32::MAX)),
    }
}

fn finding(
    call: &Call,
    lattice: &str,
    (severity, kind): (Severity, FindingKind),
    finding: Finding,
) -> proto::Finding {
    let evidence = finding.evidence.into_iter().map(|(key, value)| Evidence {
        key: key.to_owned(),
        value,
    });
    proto::Finding {
        kind: proto_kind(kind).into(),
        severity: proto_severity(severity).into(),
        about: finding.about,
        detail: finding.detail,
        evidence: evidence.collect(),
        remedy: Some(Remedy {
            advice: finding.advice,
            command: finding.command,
        }),
        mend: finding
            .mend
            .and_then(|(key, standing)| put_again(call, lattice, &key, &standing)),
    }
}

/// Puts an entry as it is shown, while it stands as it does. `None` where the API takes no such entry.
fn put_again(call: &Call, lattice: &str, key: &EntryKey, standing: &Standing) -> Option<ApplyRequest> {
    let lattice = lattice.to_owned();
    let etag = standing.etag.encode();
    let (operation, is_taken) = match key {
        EntryKey::Claims(_) => {
            let put = PutClaimsRequest {
                lattice,
                source: convert::standing_as(key, standing, convert::claims)
                    .map(put_claims_request::Source::Claims),
                precondition: Some(put_claims_request::Precondition::Etag(etag)),
                ..PutClaimsRequest::default()
            };
            let is_taken = claims::parse_put(call, put.clone()).is_ok();
            (Operation::PutClaims(put), is_taken)
        }
        EntryKey::LinkDefinition(_) => {
            // The control never has one put again that has values.
            let put = PutLinkDefinitionRequest {
                lattice,
                link_definition: convert::standing_as(key, standing, convert::link_seen(false)),
                precondition: Some(put_link_definition_request::Precondition::Etag(etag)),
                ..PutLinkDefinitionRequest::default()
            };
            let is_taken = link_definition::parse_put(call, &put).is_ok();
            (Operation::PutLinkDefinition(put), is_taken)
        }
        EntryKey::InterfaceLink(_) => {
            let put = PutInterfaceLinkRequest {
                lattice,
                interface_link: convert::standing_as(key, standing, convert::interface_link),
                precondition: Some(put_interface_link_request::Precondition::Etag(etag)),
                ..PutInterfaceLinkRequest::default()
            };
            let is_taken = interface_link::parse_put(call, &put).is_ok();
            (Operation::PutInterfaceLink(put), is_taken)
        }
        EntryKey::OciReference(_) => {
            let put = SetOciReferenceRequest {
                lattice,
                oci_reference: convert::standing_as(key, standing, convert::oci_reference),
                precondition: Some(set_oci_reference_request::Precondition::Etag(etag)),
                ..SetOciReferenceRequest::default()
            };
            let is_taken = oci_reference::parse_set(call, &put).is_ok();
            (Operation::SetOciReference(put), is_taken)
        }
        EntryKey::Config(_) | EntryKey::Component(_) => return None,
    };
    is_taken.then(|| ApplyRequest {
        id: String::new(),
        operation: Some(operation),
    })
}

fn skipped(skipped: Skipped) -> SkippedCheck {
    let kinds = skipped.kinds.into_iter();
    SkippedCheck {
        kinds: kinds.map(|kind| proto_kind(kind).into()).collect(),
        reason: skipped.reason,
    }
}

fn proto_severity(severity: Severity) -> proto::Severity {
    match severity {
        Severity::Error => proto::Severity::Error,
        Severity::Warning => proto::Severity::Warning,
        Severity::Info => proto::Severity::Info,
    }
}

fn proto_kind(kind: FindingKind) -> proto::FindingKind {
    match kind {
        FindingKind::LayoutMixed => proto::FindingKind::LayoutMixed,
        FindingKind::StreamMissing => proto::FindingKind::StreamMissing,
        FindingKind::StreamDrift => proto::FindingKind::StreamDrift,
        FindingKind::TooFewReplicas => proto::FindingKind::TooFewReplicas,
        FindingKind::StreamElsewhere => proto::FindingKind::StreamElsewhere,
        FindingKind::MalformedEntry => proto::FindingKind::MalformedEntry,
        FindingKind::MisfiledLink => proto::FindingKind::MisfiledLink,
        FindingKind::StaleCopy => proto::FindingKind::StaleCopy,
        FindingKind::RevivedByMigration => proto::FindingKind::RevivedByMigration,
        FindingKind::OtherEraEntry => proto::FindingKind::OtherEraEntry,
        FindingKind::PartlyReadable => proto::FindingKind::PartlyReadable,
        FindingKind::UnknownLinkEnd => proto::FindingKind::UnknownLinkEnd,
        FindingKind::UntrustedIssuer => proto::FindingKind::UntrustedIssuer,
        FindingKind::LinkConflict => proto::FindingKind::LinkConflict,
        FindingKind::DoubledLink => proto::FindingKind::DoubledLink,
        FindingKind::ConfigMissing => proto::FindingKind::ConfigMissing,
        FindingKind::ConfigUnused => proto::FindingKind::ConfigUnused,
        FindingKind::LinksTooLarge => proto::FindingKind::LinksTooLarge,
        FindingKind::ConsumerAbandoned => proto::FindingKind::ConsumerAbandoned,
        FindingKind::ConsumerLagging => proto::FindingKind::ConsumerLagging,
        FindingKind::HostDeaf => proto::FindingKind::HostDeaf,
        FindingKind::StrictServer => proto::FindingKind::StrictServer,
        FindingKind::ClockSkew => proto::FindingKind::ClockSkew,
    }
}
