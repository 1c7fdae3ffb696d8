//! `Apply`: operations sent and answered over one call, so many of them in flight.

use lattice_gateway::proto::{
    ApplyRequest, ApplyResponse, apply_request::Operation, apply_response::Outcome,
    apply_service_client::ApplyServiceClient,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Failure,
    call::Caller,
    drive::{Figures, Pass, Recorder, measure},
    things::Link,
};

/// One call.
pub(crate) struct Applying {
    lattice: String,
    requests: mpsc::Sender<ApplyRequest>,
    answers: Streaming<ApplyResponse>,
}

impl Applying {
    pub(crate) async fn open(caller: &Caller) -> Result<Self, Failure> {
        const SENT_AHEAD: usize = 256;
        let (requests, sent) = mpsc::channel(SENT_AHEAD);
        let mut client = ApplyServiceClient::new(caller.channel());
        let answers = client.apply(caller.request(ReceiverStream::new(sent))).await?;
        Ok(Self {
            lattice: caller.lattice(),
            requests,
            answers: answers.into_inner(),
        })
    }

    /// Puts the links over and over, or once; then the call is over.
    pub(crate) async fn drive(
        self,
        links: Vec<Link>,
        in_flight: usize,
        pass: Pass,
    ) -> Result<Figures, Failure> {
        measure(pass, |span| {
            std::iter::once(self.put(links, in_flight, pass, Recorder::new(span)))
        })
        .await
    }

    /// Sends the next put for every answer.
    async fn put(
        mut self,
        mut links: Vec<Link>,
        in_flight: usize,
        pass: Pass,
        mut recorder: Recorder,
    ) -> Result<Recorder, Failure> {
        let mut left = match pass {
            Pass::Over(_) => usize::MAX,
            Pass::Once => links.len(),
        };
        let mut began = vec![Instant::now(); in_flight];
        let mut free = (0..in_flight).collect::<Vec<_>>();
        let mut next = (0..links.len()).cycle();
        loop {
            while left > 0
                && let Some(slot) = free.pop()
            {
                let link = next
                    .next()
                    .and_then(|place| links.get_mut(place))
                    .ok_or("no links")?;
                let operation = Operation::PutLinkDefinition(link.put(&self.lattice));
                link.writes += 1;
                left -= 1;
                if let Some(began) = began.get_mut(slot) {
                    *began = Instant::now();
                }
                let request = ApplyRequest {
                    id: slot.to_string(),
                    operation: Some(operation),
                };
                self.requests.send(request).await?;
            }
            if free.len() == in_flight {
                return Ok(recorder);
            }
            let answer = self.answers.message().await?.ok_or("the call ended early")?;
            if let Some(Outcome::Status(status)) = answer.outcome {
                return Err(status.message.into());
            }
            let slot = answer.id.parse::<usize>()?;
            let began = began.get(slot).ok_or("an answer to nothing")?;
            if recorder.ended(*began).is_break() {
                return Ok(recorder);
            }
            free.push(slot);
        }
    }
}
