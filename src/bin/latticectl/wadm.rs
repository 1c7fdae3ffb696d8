//! `latticectl wadm`: what wadm needs in NATS.

use clap::{Subcommand, builder::NonEmptyStringValueParser};
use lattice_gateway::proto::ProvisionWadmRequest;

use crate::{
    Context,
    failure::CommandError,
    gateway::Effect,
    provisioning::{self, StreamOptions},
    retry::Attempt,
};

#[derive(Debug, Subcommand)]
pub(crate) enum WadmCommand {
    /// Creates the streams and buckets of wadm as it would; tells which of those that exist it would delete, or be deaf with
    Provision(Provision),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Provision {
    /// For a wadm that runs with --multitenant
    #[arg(long)]
    multitenant: bool,

    /// On which NATS, by the name of an upstream in the gateway's configuration [default: the first]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    upstream: Option<String>,

    #[command(flatten)]
    streams: StreamOptions,
}

pub(crate) async fn run(context: &Context<'_>, command: &WadmCommand) -> Result<String, CommandError> {
    let WadmCommand::Provision(arguments) = command;
    let client = context.gateway.lattices();
    let call = async |effect: Effect<'_>, validate_only: bool| {
        let send = async |attempt: Attempt| {
            let request = attempt.request(arguments.request(validate_only));
            client.clone().provision_wadm(request).await
        };
        context.gateway.call(effect, send).await
    };
    provisioning::run(context, arguments.streams.dry_run, call).await
}

impl Provision {
    fn request(&self, validate_only: bool) -> ProvisionWadmRequest {
        ProvisionWadmRequest {
            upstream: self.upstream.clone().unwrap_or_default(),
            multitenant: self.multitenant,
            storage: self.streams.storage().into(),
            replicas: self.streams.replicas(),
            placement: self.streams.placement(),
            max_bytes: self.streams.max_bytes(),
            validate_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lattice_gateway::proto::{Placement, Storage};

    use super::*;
    use crate::args::{Cli, Command};

    fn request(options: &str) -> ProvisionWadmRequest {
        let line = format!("latticectl wadm provision {options}");
        let cli = Cli::parse_from(line.split_whitespace());
        let Command::Wadm(WadmCommand::Provision(provision)) = cli.command else {
            panic!("{line}");
        };
        provision.request(provision.streams.dry_run)
    }

    #[test]
    fn wadm_is_provisioned_as_it_would_itself_unless_told_otherwise() {
        assert_eq!(request(""), ProvisionWadmRequest::default());
        let all = "--multitenant --upstream edge --storage memory --replicas 3 --placement-cluster east --placement-tag ssd \
                   --placement-tag eu --max-bytes 1024 --dry-run";
        assert_eq!(
            request(all),
            ProvisionWadmRequest {
                upstream: "edge".to_owned(),
                multitenant: true,
                storage: Storage::Memory.into(),
                replicas: 3,
                placement: Some(Placement {
                    cluster: "east".to_owned(),
                    tags: vec!["ssd".to_owned(), "eu".to_owned()],
                }),
                max_bytes: 1024,
                validate_only: true,
            }
        );
    }

    #[test]
    fn what_would_mean_not_given_is_refused() {
        for option in ["--replicas 0", "--max-bytes 0", "--upstream="] {
            let line = format!("latticectl wadm provision {option}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{option}");
        }
    }
}
