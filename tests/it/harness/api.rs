//! The API as its descriptors tell it, and a valid request of every RPC.

use lattice_gateway::proto::{
    ApplyManifestRequest, ApplyManifestResponse, ApplyRequest, ApplyResponse, DeleteClaimsRequest,
    DeleteConfigRequest, DeleteInterfaceLinkRequest, DeleteLinkDefinitionRequest, DeleteOciReferenceRequest,
    DiagnoseLatticeRequest, FILE_DESCRIPTOR_SET, GetClaimsRequest, GetConfigRequest, GetInterfaceLinkRequest,
    GetLatticeRequest, GetLinkDefinitionRequest, GetOciReferenceRequest, GetServerInfoRequest,
    ListClaimsRequest, ListConfigsRequest, ListInterfaceLinksRequest, ListLatticesRequest,
    ListLinkDefinitionsRequest, ListOciReferencesRequest, MigrateLatticeRequest, OciReference, PACKAGE,
    ProvisionLatticeRequest, ProvisionWadmRequest, PutClaimsRequest, SetOciReferenceRequest, WatchRequest,
    WriteResult, apply_request::Operation, apply_response::Outcome, put_claims_request::Source,
};
use nkeys::KeyPair;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use serde_json::json;
use tonic::Status;

use super::{interface_link, keys, link, named_config, put_config, put_interface_link, put_link};

/// A real actor's key.
pub const ACTOR: &str = "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5";
/// A real provider's key.
pub const PROVIDER: &str = "VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N";
/// A real account's key.
pub const ACCOUNT: &str = "ACOJJN6WUP4ODD75XEBKKTCCUJJCY5ZKQ56XVKYK4BEJWGVAOOQHZMCW";

/// The files of the package.
pub fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    set.file
        .into_iter()
        .filter(|file| file.package() == PACKAGE)
        .collect()
}

/// Every RPC, such as `ClaimsService/GetClaims`.
pub fn methods() -> Vec<String> {
    let files = files();
    let services = files.iter().flat_map(|file| &file.service);
    services
        .flat_map(|service| {
            let methods = service.method.iter();
            methods.map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect()
}

/// The ten methods that `Apply` takes.
pub const CHANGES: [&str; 10] = [
    "ClaimsService/PutClaims",
    "ClaimsService/DeleteClaims",
    "LinkDefinitionService/PutLinkDefinition",
    "LinkDefinitionService/DeleteLinkDefinition",
    "InterfaceLinkService/PutInterfaceLink",
    "InterfaceLinkService/DeleteInterfaceLink",
    "OciReferenceService/SetOciReference",
    "OciReferenceService/DeleteOciReference",
    "ConfigService/PutConfig",
    "ConfigService/DeleteConfig",
];

/// The valid request of one of [`CHANGES`], as an operation.
pub fn valid_operation(method: &str, lattice: &str) -> Operation {
    let message = &valid_request(method, lattice)[..];
    match method {
        "ClaimsService/PutClaims" => Operation::PutClaims(Message::decode(message).unwrap()),
        "ClaimsService/DeleteClaims" => Operation::DeleteClaims(Message::decode(message).unwrap()),
        "LinkDefinitionService/PutLinkDefinition" => {
            Operation::PutLinkDefinition(Message::decode(message).unwrap())
        }
        "LinkDefinitionService/DeleteLinkDefinition" => {
            Operation::DeleteLinkDefinition(Message::decode(message).unwrap())
        }
        "InterfaceLinkService/PutInterfaceLink" => {
            Operation::PutInterfaceLink(Message::decode(message).unwrap())
        }
        "InterfaceLinkService/DeleteInterfaceLink" => {
            Operation::DeleteInterfaceLink(Message::decode(message).unwrap())
        }
        "OciReferenceService/SetOciReference" => {
            Operation::SetOciReference(Message::decode(message).unwrap())
        }
        "OciReferenceService/DeleteOciReference" => {
            Operation::DeleteOciReference(Message::decode(message).unwrap())
        }
        "ConfigService/PutConfig" => Operation::PutConfig(Message::decode(message).unwrap()),
        "ConfigService/DeleteConfig" => Operation::DeleteConfig(Message::decode(message).unwrap()),
        other => panic!("{other} is no change"),
    }
}

/// The answer to a call, or the error that it tells of an operation.
pub fn of_its_operations(method: &str, answer: Vec<u8>) -> Result<Vec<u8>, Status> {
    let responses = match method {
        "ApplyService/Apply" => vec![ApplyResponse::decode(&answer[..]).unwrap()],
        "ApplyService/ApplyManifest" => ApplyManifestResponse::decode(&answer[..]).unwrap().results,
        _ => Vec::new(),
    };
    let mut outcomes = responses.into_iter().map(outcome_of);
    outcomes.try_for_each(|outcome| outcome.map(drop))?;
    Ok(answer)
}

/// What became of an operation.
#[expect(clippy::disallowed_methods, reason = "it is the status that was told")]
pub fn outcome_of(response: ApplyResponse) -> Result<WriteResult, Status> {
    match response.outcome.expect("an operation without an outcome") {
        Outcome::Result(result) => Ok(result),
        Outcome::Status(status) => {
            let details = status.encode_to_vec().into();
            Err(Status::with_details(status.code.into(), status.message, details))
        }
    }
}

/// A request of the RPC that is refused for nothing in it, encoded. A new RPC needs one here.
pub fn valid_request(method: &str, lattice: &str) -> Vec<u8> {
    let lattice = lattice.to_owned();
    let oci_url = "registry.example/echo:0.3.4".to_owned();
    let (public_key, actor_id) = (ACTOR.to_owned(), ACTOR.to_owned());
    let contract_id = "wasmcloud:keyvalue".to_owned();
    match method {
        "ClaimsService/PutClaims" => PutClaimsRequest {
            lattice,
            source: Some(Source::Jwt(
                keys::actor_token(&KeyPair::new_account(), json!({})).0,
            )),
            ..PutClaimsRequest::default()
        }
        .encode_to_vec(),
        "ClaimsService/GetClaims" => GetClaimsRequest {
            lattice,
            public_key,
            ..GetClaimsRequest::default()
        }
        .encode_to_vec(),
        "ClaimsService/ListClaims" => ListClaimsRequest {
            lattice,
            ..ListClaimsRequest::default()
        }
        .encode_to_vec(),
        "ClaimsService/DeleteClaims" => DeleteClaimsRequest {
            lattice,
            public_key,
            ..DeleteClaimsRequest::default()
        }
        .encode_to_vec(),
        "LinkDefinitionService/PutLinkDefinition" => {
            let mut put = put_link(link(ACTOR, PROVIDER, "value"));
            put.lattice = lattice;
            put.encode_to_vec()
        }
        "LinkDefinitionService/GetLinkDefinition" => GetLinkDefinitionRequest {
            lattice,
            actor_id: Some(actor_id),
            contract_id: Some(contract_id),
            ..GetLinkDefinitionRequest::default()
        }
        .encode_to_vec(),
        "LinkDefinitionService/ListLinkDefinitions" => ListLinkDefinitionsRequest {
            lattice,
            ..ListLinkDefinitionsRequest::default()
        }
        .encode_to_vec(),
        "LinkDefinitionService/DeleteLinkDefinition" => DeleteLinkDefinitionRequest {
            lattice,
            actor_id: Some(actor_id),
            contract_id: Some(contract_id),
            allow_missing: true,
            ..DeleteLinkDefinitionRequest::default()
        }
        .encode_to_vec(),
        "OciReferenceService/SetOciReference" => SetOciReferenceRequest {
            lattice,
            oci_reference: Some(OciReference {
                oci_url,
                public_key,
                ..OciReference::default()
            }),
            ..SetOciReferenceRequest::default()
        }
        .encode_to_vec(),
        "OciReferenceService/GetOciReference" => GetOciReferenceRequest {
            lattice,
            oci_url: Some(oci_url),
            ..GetOciReferenceRequest::default()
        }
        .encode_to_vec(),
        "OciReferenceService/ListOciReferences" => ListOciReferencesRequest {
            lattice,
            ..ListOciReferencesRequest::default()
        }
        .encode_to_vec(),
        "OciReferenceService/DeleteOciReference" => DeleteOciReferenceRequest {
            lattice,
            oci_url: Some(oci_url),
            ..DeleteOciReferenceRequest::default()
        }
        .encode_to_vec(),
        of_links if of_links.starts_with("InterfaceLinkService/") => {
            interface_link_request(of_links, lattice)
        }
        of_configs if of_configs.starts_with("ConfigService/") => config_request(of_configs, lattice),
        of_lattices if of_lattices.starts_with("LatticeService/") => lattice_request(of_lattices, lattice),
        "WatchService/Watch" => WatchRequest {
            lattice,
            ..WatchRequest::default()
        }
        .encode_to_vec(),
        "ApplyService/Apply" => of_apply(&lattice).encode_to_vec(),
        "ApplyService/ApplyManifest" => ApplyManifestRequest {
            operations: vec![of_apply(&lattice)],
            ..ApplyManifestRequest::default()
        }
        .encode_to_vec(),
        other => panic!("{other} has no request here"),
    }
}

fn lattice_request(method: &str, lattice: String) -> Vec<u8> {
    match method {
        "LatticeService/ListLattices" => ListLatticesRequest::default().encode_to_vec(),
        "LatticeService/GetLattice" => GetLatticeRequest { lattice }.encode_to_vec(),
        "LatticeService/ProvisionLattice" => ProvisionLatticeRequest {
            lattice,
            ..ProvisionLatticeRequest::default()
        }
        .encode_to_vec(),
        "LatticeService/MigrateLattice" => MigrateLatticeRequest {
            lattice,
            validate_only: true,
            ..MigrateLatticeRequest::default()
        }
        .encode_to_vec(),
        "LatticeService/ProvisionWadm" => ProvisionWadmRequest::default().encode_to_vec(),
        "LatticeService/DiagnoseLattice" => DiagnoseLatticeRequest {
            lattice,
            ..DiagnoseLatticeRequest::default()
        }
        .encode_to_vec(),
        "LatticeService/GetServerInfo" => GetServerInfoRequest {}.encode_to_vec(),
        other => panic!("{other} has no request here"),
    }
}

fn of_apply(lattice: &str) -> ApplyRequest {
    ApplyRequest {
        id: "one".to_owned(),
        operation: Some(valid_operation(
            "LinkDefinitionService/PutLinkDefinition",
            lattice,
        )),
    }
}

fn interface_link_request(method: &str, lattice: String) -> Vec<u8> {
    match method {
        "InterfaceLinkService/PutInterfaceLink" => {
            let mut put = put_interface_link(interface_link("hello"));
            put.lattice = lattice;
            put.encode_to_vec()
        }
        "InterfaceLinkService/GetInterfaceLink" => GetInterfaceLinkRequest {
            lattice,
            source_id: Some("http-server".to_owned()),
            wit_namespace: Some("wasi".to_owned()),
            wit_package: Some("http".to_owned()),
            ..GetInterfaceLinkRequest::default()
        }
        .encode_to_vec(),
        "InterfaceLinkService/ListInterfaceLinks" => ListInterfaceLinksRequest {
            lattice,
            ..ListInterfaceLinksRequest::default()
        }
        .encode_to_vec(),
        "InterfaceLinkService/DeleteInterfaceLink" => DeleteInterfaceLinkRequest {
            lattice,
            source_id: Some("http-server".to_owned()),
            wit_namespace: Some("wasi".to_owned()),
            wit_package: Some("http".to_owned()),
            allow_missing: true,
            ..DeleteInterfaceLinkRequest::default()
        }
        .encode_to_vec(),
        other => panic!("{other} has no request here"),
    }
}

fn config_request(method: &str, lattice: String) -> Vec<u8> {
    match method {
        "ConfigService/PutConfig" => {
            let mut put = put_config(named_config("http-cfg", "value"));
            put.lattice = lattice;
            put.encode_to_vec()
        }
        "ConfigService/GetConfig" => GetConfigRequest {
            lattice,
            name: "http-cfg".to_owned(),
            ..GetConfigRequest::default()
        }
        .encode_to_vec(),
        "ConfigService/ListConfigs" => ListConfigsRequest {
            lattice,
            ..ListConfigsRequest::default()
        }
        .encode_to_vec(),
        "ConfigService/DeleteConfig" => DeleteConfigRequest {
            lattice,
            name: "http-cfg".to_owned(),
            allow_missing: true,
            ..DeleteConfigRequest::default()
        }
        .encode_to_vec(),
        other => panic!("{other} has no request here"),
    }
}
