use std::{collections::HashMap, sync::Arc};

use lattice_gateway::proto::{
    DeleteOciReferenceRequest, DeleteOciReferenceResponse, GetOciReferenceResponse, Outcome, PACKAGE,
    Revision, SetOciReferenceResponse, WriteResult,
    oci_reference_service_server::{OciReferenceService, OciReferenceServiceServer},
};
use parking_lot::Mutex;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::fake;

/// A gateway that loses the first answer to every write, and gives lists in pages of one.
#[derive(Clone, Default)]
struct Forgetful {
    sets: Arc<Mutex<Vec<SetOciReferenceRequest>>>,
}

fn forgotten() -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info("OUTCOME_UNKNOWN", PACKAGE, HashMap::<String, String>::new());
    Status::with_error_details(Code::DeadlineExceeded, "no answer came in time", details)
}

#[tonic::async_trait]
impl OciReferenceService for Forgetful {
    async fn set_oci_reference(
        &self,
        request: Request<SetOciReferenceRequest>,
    ) -> Result<Response<SetOciReferenceResponse>, Status> {
        assert!(request.metadata().contains_key("grpc-timeout"));
        let mut sets = self.sets.lock();
        sets.push(request.into_inner());
        if sets.len() == 1 {
            return Err(forgotten());
        }
        Ok(Response::new(SetOciReferenceResponse {
            oci_reference: None,
            result: Some(WriteResult {
                outcome: Outcome::AlreadyApplied.into(),
                revision: Some(Revision {
                    epoch: 5,
                    sequence: 7,
                }),
                ..WriteResult::default()
            }),
        }))
    }

    async fn get_oci_reference(
        &self,
        _request: Request<GetOciReferenceRequest>,
    ) -> Result<Response<GetOciReferenceResponse>, Status> {
        Ok(Response::new(GetOciReferenceResponse::default()))
    }

    async fn list_oci_references(
        &self,
        request: Request<ListOciReferencesRequest>,
    ) -> Result<Response<ListOciReferencesResponse>, Status> {
        let token = request.into_inner().page_token;
        let (oci_url, next_page_token) = match token.as_str() {
            "" => ("a", "more"),
            _ => ("b", ""),
        };
        Ok(Response::new(ListOciReferencesResponse {
            oci_references: vec![OciReference {
                oci_url: oci_url.to_owned(),
                public_key: "M".to_owned(),
                ..OciReference::default()
            }],
            next_page_token: next_page_token.to_owned(),
            revision: None,
        }))
    }

    async fn delete_oci_reference(
        &self,
        _request: Request<DeleteOciReferenceRequest>,
    ) -> Result<Response<DeleteOciReferenceResponse>, Status> {
        Ok(Response::new(DeleteOciReferenceResponse::default()))
    }
}

/// Runs a command against a gateway.
async fn run(gateway: &Forgetful, line: &str) -> Result<String, CommandError> {
    fake::run(OciReferenceServiceServer::new(gateway.clone()), line).await
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_sent_again_under_the_same_id_with_its_age() {
    let gateway = Forgetful::default();
    let printed = run(&gateway, "ref set image:1 MKEY --lattice blue")
        .await
        .unwrap();
    assert_eq!(printed, "already applied  ref image:1 -> MKEY  (revision 5:7)\n");
    let sets = gateway.sets.lock();
    let [first, second] = sets.as_slice() else {
        panic!("{sets:?}");
    };
    assert_eq!(first.lattice, "blue");
    assert_eq!(first.retry_age, None);
    assert!(second.retry_age.is_some());
    assert_eq!(
        SetOciReferenceRequest {
            retry_age: None,
            ..second.clone()
        },
        *first
    );
}

#[tokio::test]
async fn a_list_is_printed_whole() {
    let gateway = Forgetful::default();
    let table = run(&gateway, "ref list").await.unwrap();
    assert_eq!(table, "URL  KEY\na    M\nb    M\n");
    let json = run(&gateway, "ref list -o json").await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ociReferences"][1]["ociUrl"], "b");
    assert_eq!(json.get("nextPageToken"), None);
}
