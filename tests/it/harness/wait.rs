//! Waiting on conditions, never on time.

use std::time::Duration;

use super::nats::PATIENCE;

/// Asks until there is an answer; fails the test, with what it waited for, when none comes in time.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            // Between two looks at a condition, not in place of one.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_late| panic!("never came true: {what}"))
}
