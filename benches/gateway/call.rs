//! Unary calls.

use std::sync::Arc;

use lattice_gateway::proto::{
    DeleteClaimsRequest, DeleteConfigRequest, DeleteInterfaceLinkRequest, DeleteLinkDefinitionRequest,
    GetClaimsRequest, GetConfigRequest, GetInterfaceLinkRequest, GetLinkDefinitionRequest,
    GetOciReferenceRequest, NamedConfig, OciReference, PutClaimsRequest, PutConfigRequest,
    PutInterfaceLinkRequest, SetOciReferenceRequest, claims_service_client::ClaimsServiceClient,
    config_service_client::ConfigServiceClient, interface_link_service_client::InterfaceLinkServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
    oci_reference_service_client::OciReferenceServiceClient, put_claims_request::Source,
};
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::{
    Failure,
    drive::{Pass, Work, drive},
    things::{CONTRACT, Link, TARGET, Thing, interface_link, request_id, values},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    Delete,
}

/// Somebody who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    channel: Channel,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    lattice: Arc<str>,
}

impl Caller {
    pub(crate) fn new(channel: Channel, token: &str, lattice: &str) -> Result<Self, Failure> {
        Ok(Self {
            channel,
            bearer: format!("Bearer {token}").parse()?,
            lattice: lattice.into(),
        })
    }

    /// The same on another lattice.
    pub(crate) fn on(&self, lattice: &str) -> Self {
        Self {
            lattice: lattice.into(),
            ..self.clone()
        }
    }

    pub(crate) fn lattice(&self) -> String {
        self.lattice.to_string()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.bearer.clone());
        request
    }

    /// Puts everything once.
    pub(crate) async fn fill(&self, things: Vec<Thing>) -> Result<(), Failure> {
        const IN_FLIGHT: usize = 256;
        drive(self.calls(Verb::Put, things), IN_FLIGHT, Pass::Once).await?;
        Ok(())
    }

    pub(crate) fn calls(&self, verb: Verb, things: Vec<Thing>) -> Vec<Call> {
        let call = |thing| Call {
            caller: self.clone(),
            verb,
            thing,
        };
        things.into_iter().map(call).collect()
    }

    pub(crate) async fn call(&self, verb: Verb, thing: &mut Thing) -> Result<(), Failure> {
        match thing {
            Thing::Link(link) => self.link(verb, link).await,
            Thing::Claims { token, key } => self.claims(verb, token, key).await,
            Thing::Reference { url, key } => self.reference(verb, url, key).await,
            Thing::Interface { source, name, writes } => self.interface(verb, source, name, writes).await,
            Thing::Config { name, writes } => self.config(verb, name, writes).await,
        }
    }

    async fn link(&self, verb: Verb, link: &mut Link) -> Result<(), Failure> {
        let mut client = LinkDefinitionServiceClient::new(self.channel());
        let actor_id = || Some(link.actor.to_string());
        let contract_id = Some(CONTRACT.to_owned());
        let link_name = Some(link.name.clone());
        match verb {
            Verb::Put => {
                let put = link.put(&self.lattice);
                client.put_link_definition(self.request(put)).await?;
                link.writes += 1;
            }
            Verb::Get => {
                let get = GetLinkDefinitionRequest {
                    lattice: self.lattice(),
                    actor_id: actor_id(),
                    contract_id,
                    link_name,
                    consistency: None,
                };
                client.get_link_definition(self.request(get)).await?;
            }
            Verb::Delete => {
                let delete = DeleteLinkDefinitionRequest {
                    lattice: self.lattice(),
                    actor_id: actor_id(),
                    contract_id,
                    link_name,
                    request_id: request_id(),
                    ..DeleteLinkDefinitionRequest::default()
                };
                client.delete_link_definition(self.request(delete)).await?;
            }
        }
        Ok(())
    }

    async fn claims(&self, verb: Verb, token: &str, key: &str) -> Result<(), Failure> {
        let mut client = ClaimsServiceClient::new(self.channel());
        match verb {
            Verb::Put => {
                let put = PutClaimsRequest {
                    lattice: self.lattice(),
                    source: Some(Source::Jwt(token.to_owned())),
                    request_id: request_id(),
                    ..PutClaimsRequest::default()
                };
                client.put_claims(self.request(put)).await?;
            }
            Verb::Get => {
                let get = GetClaimsRequest {
                    lattice: self.lattice(),
                    public_key: key.to_owned(),
                    consistency: None,
                };
                client.get_claims(self.request(get)).await?;
            }
            Verb::Delete => {
                let delete = DeleteClaimsRequest {
                    lattice: self.lattice(),
                    public_key: key.to_owned(),
                    request_id: request_id(),
                    ..DeleteClaimsRequest::default()
                };
                client.delete_claims(self.request(delete)).await?;
            }
        }
        Ok(())
    }

    async fn reference(&self, verb: Verb, url: &str, key: &str) -> Result<(), Failure> {
        let mut client = OciReferenceServiceClient::new(self.channel());
        match verb {
            Verb::Put => {
                let set = SetOciReferenceRequest {
                    lattice: self.lattice(),
                    oci_reference: Some(OciReference {
                        oci_url: url.to_owned(),
                        public_key: key.to_owned(),
                        ..OciReference::default()
                    }),
                    request_id: request_id(),
                    ..SetOciReferenceRequest::default()
                };
                client.set_oci_reference(self.request(set)).await?;
            }
            Verb::Get => {
                let get = GetOciReferenceRequest {
                    lattice: self.lattice(),
                    oci_url: Some(url.to_owned()),
                    consistency: None,
                };
                client.get_oci_reference(self.request(get)).await?;
            }
            Verb::Delete => return Err("hosts of no layout delete references".into()),
        }
        Ok(())
    }

    async fn interface(
        &self,
        verb: Verb,
        source: &str,
        name: &str,
        writes: &mut usize,
    ) -> Result<(), Failure> {
        let mut client = InterfaceLinkServiceClient::new(self.channel());
        let link = interface_link(source, name, *writes);
        match verb {
            Verb::Put => {
                let put = PutInterfaceLinkRequest {
                    lattice: self.lattice(),
                    interface_link: Some(link),
                    request_id: request_id(),
                    ..PutInterfaceLinkRequest::default()
                };
                client.put_interface_link(self.request(put)).await?;
                *writes += 1;
            }
            Verb::Get => {
                let get = GetInterfaceLinkRequest {
                    lattice: self.lattice(),
                    source_id: Some(link.source_id),
                    name: Some(link.name),
                    wit_namespace: Some(link.wit_namespace),
                    wit_package: Some(link.wit_package),
                    target: Some(TARGET.to_owned()),
                    consistency: None,
                };
                client.get_interface_link(self.request(get)).await?;
            }
            Verb::Delete => {
                let delete = DeleteInterfaceLinkRequest {
                    lattice: self.lattice(),
                    source_id: Some(link.source_id),
                    name: Some(link.name),
                    wit_namespace: Some(link.wit_namespace),
                    wit_package: Some(link.wit_package),
                    target: Some(TARGET.to_owned()),
                    request_id: request_id(),
                    ..DeleteInterfaceLinkRequest::default()
                };
                client.delete_interface_link(self.request(delete)).await?;
            }
        }
        Ok(())
    }

    async fn config(&self, verb: Verb, name: &str, writes: &mut usize) -> Result<(), Failure> {
        let mut client = ConfigServiceClient::new(self.channel());
        match verb {
            Verb::Put => {
                let put = PutConfigRequest {
                    lattice: self.lattice(),
                    named_config: Some(NamedConfig {
                        name: name.to_owned(),
                        values: values(*writes),
                        ..NamedConfig::default()
                    }),
                    request_id: request_id(),
                    ..PutConfigRequest::default()
                };
                client.put_config(self.request(put)).await?;
                *writes += 1;
            }
            Verb::Get => {
                let get = GetConfigRequest {
                    lattice: self.lattice(),
                    name: name.to_owned(),
                    consistency: None,
                };
                client.get_config(self.request(get)).await?;
            }
            Verb::Delete => {
                let delete = DeleteConfigRequest {
                    lattice: self.lattice(),
                    name: name.to_owned(),
                    request_id: request_id(),
                    ..DeleteConfigRequest::default()
                };
                client.delete_config(self.request(delete)).await?;
            }
        }
        Ok(())
    }
}

/// One call, made again and again.
#[derive(Debug)]
pub(crate) struct Call {
    caller: Caller,
    verb: Verb,
    thing: Thing,
}

impl Work for Call {
    async fn once(&mut self) -> Result<(), Failure> {
        self.caller.call(self.verb, &mut self.thing).await
    }
}
