//! One nats-server, gateways on it, and what is asked of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lattice_gateway::{
    config::Config,
    control::lattices::{LatticeSettings, Settings},
    domain::claims_token::TrustedIssuers,
    proto::{
        Claims, Consistency, DeleteLinkDefinitionRequest, ErrorReason, GetClaimsRequest, GetLatticeRequest,
        GetLinkDefinitionRequest, GetOciReferenceRequest, Lattice, LinkDefinition, ListClaimsRequest,
        ListLinkDefinitionsRequest, ListOciReferencesRequest, OciReference, PutClaimsRequest,
        PutLinkDefinitionRequest, SetOciReferenceRequest, WriteResult, consistency::Requirement,
        put_claims_request::Source,
    },
    store::layout::ClaimsForm,
};
use serde_json::{Value, json};

use super::{
    script::{What, name_of, token, triple, url, world},
    shown::{Answered, Key, of_claims, of_link, of_reference},
};
use crate::{
    harness::{Nats, TestGateway, Told, gateway::told},
    host_model::{self, Message},
};

pub struct Stand {
    pub nats: Nats,
    client: async_nats::Client,
    /// They remove nothing.
    pub idle: [TestGateway; 2],
    pub sweeping: [TestGateway; 2],
}

/// A mutation as it is sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub what: What,
    /// Empty for none.
    pub request_id: String,
    pub retry_age: Option<std::time::Duration>,
    pub condition: Condition,
    pub is_dry: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    Etag(String),
    MustExist,
    MustNotExist,
}

/// What a mutation answered.
pub struct Answer {
    pub result: WriteResult,
    /// A delete tells none.
    pub entry: Option<Answered>,
}

impl Stand {
    pub async fn start() -> Self {
        let nats = Nats::start().await;
        let gateway = async |sweep| {
            let settings = LatticeSettings {
                trusted_issuers: TrustedIssuers::Any,
                layout: None,
                sweep,
                effects: true,
                settle: std::time::Duration::ZERO,
                claims_form: ClaimsForm::Short,
                upstream: None,
            };
            let mut config = Config::dev(nats.url(), None);
            config.lattices = Settings(vec![("*".to_owned(), Arc::new(settings))]);
            TestGateway::with(config).await
        };
        Self {
            idle: [gateway(false).await, gateway(false).await],
            sweeping: [gateway(true).await, gateway(true).await],
            client: nats.client().await,
            nats,
        }
    }

    /// Creates a lattice as a host does, and names it.
    pub async fn lattice(&self) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("model-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.nats.create_stream(&name, json!({})).await;
        name
    }

    /// Removes a lattice, so that no gateway follows it any longer.
    pub async fn remove(&self, lattice: &str) {
        let answer = self
            .request(&format!("$JS.API.STREAM.DELETE.LATTICECACHE_{lattice}"), "")
            .await;
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// Publishes without headers, as hosts do, and waits until it is stored; gives its sequence.
    pub async fn publish(&self, lattice: &str, tokens: &str, body: String) -> u64 {
        let acknowledged = self.request(&format!("lc.{lattice}.{tokens}"), body).await;
        acknowledged["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("{acknowledged}"))
    }

    /// The messages that the stream holds.
    pub async fn messages(&self, lattice: &str) -> Vec<Message> {
        let call = format!("$JS.API.STREAM.MSG.GET.LATTICECACHE_{lattice}");
        host_model::messages(lattice, async |request| {
            self.request(&call, request.to_string()).await
        })
        .await
    }

    /// How many messages the stream holds.
    pub async fn count(&self, lattice: &str) -> usize {
        let call = format!("$JS.API.STREAM.INFO.LATTICECACHE_{lattice}");
        let info = self.request(&call, "").await;
        usize::try_from(info["state"]["messages"].as_u64().unwrap()).unwrap()
    }

    async fn request(&self, subject: &str, body: impl Into<String>) -> Value {
        let answer = self
            .client
            .request(subject.to_owned(), body.into().into())
            .await
            .unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }
}

/// Reads a mutation's condition into the type that its request has for it.
macro_rules! precondition {
    ($condition:expr, $module:ident) => {
        match &$condition {
            Condition::None => None,
            Condition::Etag(etag) => Some(lattice_gateway::proto::$module::Precondition::Etag(etag.clone())),
            Condition::MustExist => Some(lattice_gateway::proto::$module::Precondition::MustExist(true)),
            Condition::MustNotExist => {
                Some(lattice_gateway::proto::$module::Precondition::MustNotExist(true))
            }
        }
    };
}

/// Sends a mutation.
pub async fn send(gateway: &TestGateway, lattice: &str, asked: &Asked) -> Result<Answer, Told> {
    let lattice = lattice.to_owned();
    let (request_id, validate_only) = (asked.request_id.clone(), asked.is_dry);
    let retry_age = asked.retry_age.map(Into::into);
    match &asked.what {
        What::PutLink {
            triple: number,
            provider,
            value,
        } => {
            let triple = triple(*number);
            let link = LinkDefinition {
                actor_id: triple.actor_id,
                contract_id: triple.contract_id,
                link_name: triple.link_name,
                provider_id: world().providers[*provider].clone(),
                values: [("value".to_owned(), (*value).to_owned())].into(),
                ..LinkDefinition::default()
            };
            let request = PutLinkDefinitionRequest {
                lattice,
                link_definition: Some(link),
                request_id,
                retry_age,
                precondition: precondition!(asked.condition, put_link_definition_request),
                validate_only,
            };
            let answer = told(gateway.links().put_link_definition(request).await)?;
            Ok(answered(answer.result, answer.link_definition.map(of_link)))
        }
        What::DeleteLink {
            triple: number,
            allow_missing,
        } => {
            let triple = triple(*number);
            let request = DeleteLinkDefinitionRequest {
                lattice,
                actor_id: Some(triple.actor_id),
                contract_id: Some(triple.contract_id),
                link_name: Some(triple.link_name),
                request_id,
                retry_age,
                precondition: precondition!(asked.condition, delete_link_definition_request),
                validate_only,
                allow_missing: *allow_missing,
            };
            let answer = told(gateway.links().delete_link_definition(request).await)?;
            Ok(answered(answer.result, None))
        }
        What::PutClaims {
            actor,
            revision,
            is_signed,
        } => {
            let source = match is_signed {
                true => Source::Jwt(token(*actor, *revision)),
                false => Source::Claims(unsigned_claims(*actor, *revision)),
            };
            let request = PutClaimsRequest {
                lattice,
                source: Some(source),
                request_id,
                retry_age,
                precondition: precondition!(asked.condition, put_claims_request),
                validate_only,
            };
            let answer = told(gateway.claims().put_claims(request).await)?;
            Ok(answered(answer.result, answer.claims.map(of_claims)))
        }
        What::SetReference { url: number, actor } => {
            let reference = OciReference {
                oci_url: url(*number),
                public_key: world().actors[*actor].clone(),
                ..OciReference::default()
            };
            let request = SetOciReferenceRequest {
                lattice,
                oci_reference: Some(reference),
                request_id,
                retry_age,
                precondition: precondition!(asked.condition, set_oci_reference_request),
                validate_only,
            };
            let answer = told(gateway.references().set_oci_reference(request).await)?;
            Ok(answered(answer.result, answer.oci_reference.map(of_reference)))
        }
    }
}

fn answered(result: Option<WriteResult>, entry: Option<Answered>) -> Answer {
    Answer {
        result: result.expect("a mutation has a result"),
        entry,
    }
}

fn unsigned_claims(actor: usize, revision: u8) -> Claims {
    let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    Claims {
        public_key: world().actors[actor].clone(),
        issuer: world().account.public_key(),
        name: name_of(false).to_owned(),
        call_alias: "echo".to_owned(),
        capabilities: list(&["wasmcloud:httpserver"]),
        tags: list(&["a", "b"]),
        claims_revision: revision.to_string(),
        version: "0.3.4".to_owned(),
        ..Claims::default()
    }
}

fn fully_consistent() -> Consistency {
    Consistency {
        requirement: Some(Requirement::FullyConsistent(true)),
    }
}

/// Gets one entry, fully consistent.
pub async fn get(gateway: &TestGateway, lattice: &str, key: &Key) -> Option<Answered> {
    let (lattice, consistency) = (lattice.to_owned(), Some(fully_consistent()));
    let answer = match key.clone() {
        Key::Claims(public_key) => {
            let request = GetClaimsRequest {
                lattice,
                public_key,
                consistency,
            };
            told(gateway.claims().get_claims(request).await).map(|answer| answer.claims.map(of_claims))
        }
        Key::Link(triple) => {
            let request = GetLinkDefinitionRequest {
                lattice,
                actor_id: Some(triple.actor_id),
                contract_id: Some(triple.contract_id),
                link_name: Some(triple.link_name),
                consistency,
            };
            told(gateway.links().get_link_definition(request).await)
                .map(|answer| answer.link_definition.map(of_link))
        }
        Key::Reference(oci_url) => {
            let request = GetOciReferenceRequest {
                lattice,
                oci_url: Some(oci_url),
                consistency,
            };
            told(gateway.references().get_oci_reference(request).await)
                .map(|answer| answer.oci_reference.map(of_reference))
        }
    };
    match answer {
        Ok(entry) => Some(entry.expect("an answer has its entry")),
        Err(told) => {
            assert_eq!(told.reason, ErrorReason::EntryNotFound, "{told:?}");
            None
        }
    }
}

/// Lists all entries, fully consistent, in pages of two.
pub async fn list(gateway: &TestGateway, lattice: &str) -> Vec<Answered> {
    const PAGE_SIZE: i32 = 2;
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListClaimsRequest {
            lattice: lattice.to_owned(),
            consistency: Some(fully_consistent()),
            page_size: PAGE_SIZE,
            page_token,
            ..ListClaimsRequest::default()
        };
        let page = told(gateway.claims().list_claims(request).await).unwrap();
        entries.extend(page.claims.into_iter().map(of_claims));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let request = ListLinkDefinitionsRequest {
            lattice: lattice.to_owned(),
            consistency: Some(fully_consistent()),
            page_size: PAGE_SIZE,
            page_token,
            ..ListLinkDefinitionsRequest::default()
        };
        let page = told(gateway.links().list_link_definitions(request).await).unwrap();
        entries.extend(page.link_definitions.into_iter().map(of_link));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let request = ListOciReferencesRequest {
            lattice: lattice.to_owned(),
            consistency: Some(fully_consistent()),
            page_size: PAGE_SIZE,
            page_token,
            ..ListOciReferencesRequest::default()
        };
        let page = told(gateway.references().list_oci_references(request).await).unwrap();
        entries.extend(page.oci_references.into_iter().map(of_reference));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return entries;
        }
    }
}

/// Describes a lattice.
pub async fn describe(gateway: &TestGateway, lattice: &str) -> Lattice {
    let request = GetLatticeRequest {
        lattice: lattice.to_owned(),
    };
    let answer = told(gateway.lattices().get_lattice(request).await).unwrap();
    answer.lattice.expect("an answer has its lattice")
}
