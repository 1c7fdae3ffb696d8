//! Writers of one entry queue here, in the order they came.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::domain::EntryKey;

type Line = Arc<tokio::sync::Mutex<()>>;

/// One line an entry, for as long as somebody stands in it.
#[derive(Debug, Default)]
pub(super) struct KeyQueues(Mutex<HashMap<Arc<EntryKey>, Line>>);

impl KeyQueues {
    /// Queues for an entry; resolves when it is one's turn, which lasts as long as the value.
    pub(super) async fn turn(&self, key: &Arc<EntryKey>) -> Turn<'_> {
        let line = Arc::clone(self.0.lock().entry(Arc::clone(key)).or_default());
        let mut turn = Turn {
            queues: self,
            key: Arc::clone(key),
            line,
            guard: None,
        };
        turn.guard = Some(Arc::clone(&turn.line).lock_owned().await);
        turn
    }
}

/// Somebody's turn, or somebody who waits for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    queues: &'a KeyQueues,
    key: Arc<EntryKey>,
    line: Line,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut lines = self.queues.0.lock();
        // The map's and this one's: nobody else stands in the line, and under the lock nobody can come.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_order_and_leave_nothing_behind() {
        let queues = KeyQueues::default();
        let key = Arc::new(EntryKey::Claims("M".into()));
        let first = queues.turn(&key).await;
        let mut second = Box::pin(queues.turn(&key));
        assert!((&mut second).now_or_never().is_none());
        let mut given_up = Box::pin(queues.turn(&key));
        assert!((&mut given_up).now_or_never().is_none());
        drop(given_up);
        drop(first);
        drop(second.await);
        assert!(queues.0.lock().is_empty());
    }
}
