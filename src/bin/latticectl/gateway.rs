//! Calls a gateway: one call may take several attempts, as [`retry`](crate::retry) decides.
//!
//! The only place that waits, and that looks at the clock.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use lattice_gateway::proto::{
    apply_service_client::ApplyServiceClient, claims_service_client::ClaimsServiceClient,
    config_service_client::ConfigServiceClient, interface_link_service_client::InterfaceLinkServiceClient,
    lattice_service_client::LatticeServiceClient,
    link_definition_service_client::LinkDefinitionServiceClient,
    oci_reference_service_client::OciReferenceServiceClient, watch_service_client::WatchServiceClient,
};
use tokio::{
    signal,
    time::{Instant, sleep, timeout},
};
use tonic::{Request, Response, Status};

use crate::{
    access::Line,
    args::{Format, Global},
    failure::{CallError, Doubt, Failure},
    output,
    retry::{Attempt, Attempts, Next, Pause, class},
    table::printable,
};

/// A page of long link values is larger than the 4 MiB that tonic would take.
const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The gateway that a command talks to.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    line: Line,
    timeout: Duration,
    name: String,
    notices: Format,
}

/// What a call may leave behind when its answer is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    /// Nothing: it reads, or only checks.
    Nothing,
    /// Something that does not change when it is asked for again.
    Repeatable,
    /// An entry, written under a request id.
    Write(&'a Intent),
}

/// What a user wants written, under one name however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) request_id: String,
    /// How long ago an earlier run of the command sent it, where there was one.
    pub(crate) age: Option<Duration>,
    /// Checked only.
    pub(crate) dry_run: bool,
}

impl Gateway {
    /// Connects when it is first called. The error says which options are wrong.
    pub(crate) fn new(global: &Global) -> Result<Self, String> {
        Ok(Self {
            line: Line::new(global)?,
            timeout: global.timeout,
            name: global.gateway().to_string(),
            notices: global.output,
        })
    }

    pub(crate) fn claims(&self) -> ClaimsServiceClient<Line> {
        ClaimsServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn links(&self) -> LinkDefinitionServiceClient<Line> {
        LinkDefinitionServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn interface_links(&self) -> InterfaceLinkServiceClient<Line> {
        InterfaceLinkServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn references(&self) -> OciReferenceServiceClient<Line> {
        OciReferenceServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn configs(&self) -> ConfigServiceClient<Line> {
        ConfigServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn lattices(&self) -> LatticeServiceClient<Line> {
        LatticeServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn applies(&self) -> ApplyServiceClient<Line> {
        ApplyServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn watches(&self) -> WatchServiceClient<Line> {
        WatchServiceClient::new(self.line.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    /// How long to try.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes a call, in as many attempts as it takes and the timeout allows.
    pub(crate) async fn call<R>(
        &self,
        effect: Effect<'_>,
        send: impl AsyncFn(Attempt) -> Result<Response<R>, Status>,
    ) -> Result<R, CallError> {
        let started = Instant::now();
        let mut attempts = Attempts::new(self.timeout, effect.age());
        let answer = tokio::select! {
            answer = self.answer(&mut attempts, started, send) => answer,
            () = interruption() => {
                let failure = Failure::interrupted();
                attempts.failed(class(failure.cause));
                Err(failure)
            }
        };
        answer.map_err(|failure| CallError {
            failure,
            doubt: effect.doubt(attempts.age(started.elapsed())),
        })
    }

    async fn answer<R>(
        &self,
        attempts: &mut Attempts,
        started: Instant,
        send: impl AsyncFn(Attempt) -> Result<Response<R>, Status>,
    ) -> Result<R, Failure> {
        loop {
            let attempt = attempts.begin(started.elapsed());
            let failure = match timeout(attempt.time, send(attempt)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Failure::from(&status),
                Err(_elapsed) => Failure::no_answer(),
            };
            let class = class(failure.cause);
            attempts.failed(class);
            match attempts.next(class, pause(&failure), started.elapsed()) {
                Next::Stop => return Err(failure),
                Next::RetryIn(pause) => {
                    if attempts.failed_once() {
                        self.notice(&failure);
                    }
                    sleep(pause).await;
                }
            }
        }
    }

    /// Tells people why they wait.
    pub(crate) fn notice(&self, failure: &Failure) {
        match self.notices {
            Format::Table => {
                let timeout = humantime::format_duration(self.timeout);
                output::note(&format!(
                    "trying {} again, for up to {timeout}: {}",
                    self.name,
                    printable(&failure.message)
                ));
            }
            Format::Json => {}
        }
    }
}

impl Effect<'_> {
    fn age(self) -> Option<Duration> {
        match self {
            Self::Nothing | Self::Repeatable => None,
            Self::Write(intent) => intent.age,
        }
    }

    /// `age` is that of the first attempt that may have been applied.
    fn doubt(self, age: Option<Duration>) -> Doubt {
        match (self, age) {
            (Self::Nothing, _) | (_, None) => Doubt::None,
            (Self::Repeatable, Some(_)) => Doubt::Repeat,
            (Self::Write(intent), Some(_)) if intent.dry_run => Doubt::None,
            (Self::Write(intent), Some(age)) => Doubt::Resume {
                request_id: intent.request_id.clone(),
                age,
            },
        }
    }
}

impl Attempt {
    /// Gives a message the attempt's deadline.
    pub(crate) fn request<M>(self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.time);
        request
    }

    /// As messages carry it.
    pub(crate) fn retry_age(self) -> Option<pbjson_types::Duration> {
        self.retry_age.map(Into::into)
    }
}

/// A pause with fresh dice, and as long as the failure asks for.
pub(crate) fn pause(failure: &Failure) -> Pause {
    Pause {
        // A new hasher has new random keys.
        dice: RandomState::new().hash_one(()),
        asked_for: failure.retry_delay,
    }
}

/// Waits for Ctrl-C; forever where that cannot be waited for.
pub(crate) async fn interruption() {
    if signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
