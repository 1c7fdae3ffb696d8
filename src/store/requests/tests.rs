use futures_util::future::join_all;

use super::*;
use crate::dev::DevServer;

const PATIENCE: Duration = Duration::from_secs(10);
const BEGINNING: Moment = Moment {
    losses: 0,
    violations: 0,
};

struct Stand {
    requests: Requests,
    /// Of whoever answers.
    other: Client,
    _nats: DevServer,
}

impl Stand {
    async fn start() -> Self {
        let nats = DevServer::start(None, None).await.unwrap();
        let connect = async || async_nats::connect(nats.url()).await.unwrap();
        let (client, other) = (connect().await, connect().await);
        Self {
            requests: Requests::open(client).await.unwrap(),
            other,
            _nats: nats,
        }
    }

    /// Listens, so that the server has somebody to pass requests to.
    async fn listen(&self, subject: &'static str) -> Subscriber {
        let mut listener = self.other.subscribe(subject).await.unwrap();
        // Once this is back the server knows.
        self.other.publish(subject, Bytes::new()).await.unwrap();
        listener.next().await.unwrap();
        listener
    }

    async fn answer(&self, request: &Message, payload: &Bytes) {
        let reply = request.reply.clone().unwrap();
        self.other.publish(reply, payload.clone()).await.unwrap();
    }

    async fn ask(&self, payload: &'static str, patience: Duration) -> Result<Bytes, RequestFailed> {
        let message = ("asked", HeaderMap::new(), Bytes::from(payload));
        let answer = self.requests.request(message, BEGINNING, || BEGINNING, patience);
        answer.await.map(|answer| answer.payload)
    }

    fn waiting(&self) -> usize {
        self.requests.shared.waiting.lock().len()
    }
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let stand = Stand::start().await;
    let mut asked = stand.listen("asked").await;
    let answering = async {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(asked.next().await.unwrap());
        }
        for request in all.iter().rev() {
            stand.answer(request, &request.payload).await;
        }
    };
    let questions = ["one", "two", "three"];
    let asking = join_all(questions.map(|question| stand.ask(question, PATIENCE)));
    let ((), answers) = tokio::join!(answering, asking);
    let answers = answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(answers, questions);
    assert_eq!(stand.waiting(), 0);
}

#[tokio::test]
async fn what_is_not_answered_is_forgotten_and_a_late_answer_is_nobody_elses() {
    let stand = Stand::start().await;
    let mut asked = stand.listen("asked").await;
    for _ in 0..100 {
        let answer = stand.ask("first", Duration::ZERO).await;
        assert_eq!(answer, Err(RequestFailed::Unknown));
    }
    let answer = stand.ask("first", Duration::from_millis(20)).await;
    assert_eq!(answer, Err(RequestFailed::Unknown));
    assert_eq!(stand.waiting(), 0);
    let answering = async {
        let mut late = Vec::new();
        loop {
            let request = asked.next().await.unwrap();
            if request.payload == "second" {
                for late in &late {
                    stand.answer(late, &"of the first".into()).await;
                }
                return stand.answer(&request, &"of the second".into()).await;
            }
            late.push(request);
        }
    };
    let ((), answer) = tokio::join!(answering, stand.ask("second", PATIENCE));
    assert_eq!(answer.unwrap(), "of the second");
}

#[tokio::test]
async fn a_request_whose_caller_has_gone_is_forgotten() {
    let stand = Stand::start().await;
    let _asked = stand.listen("asked").await;
    let gone = timeout(Duration::from_millis(20), stand.ask("first", PATIENCE)).await;
    assert!(gone.is_err());
    assert_eq!(stand.waiting(), 0);
}

#[tokio::test]
async fn a_request_that_nobody_takes_is_told_at_once() {
    let stand = Stand::start().await;
    let answer = stand.ask("first", PATIENCE).await;
    assert_eq!(answer, Err(RequestFailed::NoResponders));
}

#[tokio::test]
async fn what_a_lost_connection_does_to_a_request_depends_on_whether_it_was_sent() {
    let stand = Stand::start().await;
    let mut asked = stand.listen("asked").await;
    let lost = Moment {
        losses: 1,
        ..BEGINNING
    };
    let message = || ("asked", HeaderMap::new(), Bytes::from("first"));
    let unsent = stand.requests.request(message(), BEGINNING, || lost, PATIENCE);
    assert_eq!(unsent.await.err(), Some(RequestFailed::NotConnected));
    let losing = async {
        asked.next().await.unwrap();
        stand.requests.give_up(lost, |_, _| false);
    };
    let ((), sent) = tokio::join!(losing, stand.ask("first", PATIENCE));
    assert_eq!(sent, Err(RequestFailed::Unknown));
}

#[tokio::test]
async fn a_refusal_ends_the_requests_to_its_subject_alone() {
    let stand = Stand::start().await;
    let mut asked = stand.listen("asked").await;
    let refused = Moment {
        violations: 1,
        ..BEGINNING
    };
    let refusing = async {
        let request = asked.next().await.unwrap();
        stand.requests.give_up(refused, |subject, _| subject == "another");
        stand.answer(&request, &request.payload).await;
        asked.next().await.unwrap();
        stand.requests.give_up(refused, |subject, _| subject == "asked");
    };
    let asking = async {
        let answered = stand.ask("first", PATIENCE).await;
        (answered, stand.ask("second", PATIENCE).await)
    };
    let ((), (first, second)) = tokio::join!(refusing, asking);
    assert_eq!(first.unwrap(), "first");
    assert_eq!(second, Err(RequestFailed::Forbidden));
}

#[tokio::test]
async fn a_refusal_that_may_be_of_one_that_was_given_up_ends_no_later_one() {
    let stand = Stand::start().await;
    let mut asked = stand.listen("asked").await;
    let given_up = stand.ask("first", Duration::from_millis(20)).await;
    assert_eq!(given_up, Err(RequestFailed::Unknown));
    let refused = Moment {
        violations: 1,
        ..BEGINNING
    };
    let refusing = async {
        asked.next().await.unwrap();
        let request = asked.next().await.unwrap();
        stand.requests.give_up(refused, |_, _| true);
        stand.answer(&request, &request.payload).await;
    };
    let ((), answer) = tokio::join!(refusing, stand.ask("second", PATIENCE));
    assert_eq!(answer.unwrap(), "second");
}
