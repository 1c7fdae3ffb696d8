//! Work that goes on when whoever waits for it goes away.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Work that is driven by whoever waits for it and, once that is dropped, by a task of its own.
pub(super) struct Unstoppable<T: Send + 'static> {
    /// `None` once it is done.
    work: Option<BoxFuture<'static, T>>,
    abandoned: CancellationToken,
    tasks: TaskTracker,
}

impl<T: Send + 'static> Unstoppable<T> {
    /// Begins when it is first polled. What is left when it is dropped goes on in `tasks`, and learns that it is `abandoned`.
    pub(super) fn new(
        work: impl Future<Output = T> + Send + 'static,
        abandoned: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            work: Some(Box::pin(work)),
            abandoned,
            tasks: tasks.clone(),
        }
    }
}

impl<T: Send + 'static> Future for Unstoppable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: work that panics is not gone on with.
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Unstoppable<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.abandoned.cancel();
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_done_all_the_same() {
        let tasks = TaskTracker::new();
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let abandoned = CancellationToken::new();
        let knows = abandoned.clone();
        let mut work = Unstoppable::new(
            async move {
                gone.await.unwrap();
                done.send(knows.is_cancelled()).unwrap();
            },
            abandoned,
            &tasks,
        );
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go.send(()).unwrap();
        assert!(is_done.await.unwrap(), "it is told");
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_is_done_leaves_no_task() {
        let tasks = TaskTracker::new();
        let abandoned = CancellationToken::new();
        assert_eq!(Unstoppable::new(async { 7 }, abandoned.clone(), &tasks).await, 7);
        assert!(!abandoned.is_cancelled());
        assert!(tasks.is_empty());
    }
}
