//! Runs work side by side, and what belongs into one line one after the other.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    pin::pin,
};

use futures_util::{FutureExt, Stream, StreamExt, stream::FuturesUnordered};

/// Runs the work that arrives until nothing more arrives and all of it is done. Work of one line runs in the order in which
/// it arrived; work without a line, and that of other lines, beside it. How much there is at a time is up to `arriving`.
pub(super) async fn run_in_lines<W: Future>(
    arriving: impl Stream<Item = (Option<u64>, W)>,
    mut done: impl FnMut(W::Output),
) {
    let mut arriving = pin!(arriving.fuse());
    let mut running = FuturesUnordered::new();
    // One for each line of which something runs.
    let mut waiting: HashMap<u64, VecDeque<W>> = HashMap::new();
    // Not an async function, which would hold the work twice.
    let in_line = |line, work: W| work.map(move |output| (line, output));
    loop {
        tokio::select! {
            biased;
            Some((line, output)) = running.next() => {
                done(output);
                if let Some(line) = line
                    && let Entry::Occupied(mut behind) = waiting.entry(line)
                {
                    match behind.get_mut().pop_front() {
                        Some(work) => running.push(in_line(Some(line), work)),
                        None => drop(behind.remove()),
                    }
                }
            }
            Some((line, work)) = arriving.next() => match line.map(|line| waiting.entry(line)) {
                Some(Entry::Occupied(mut before)) => before.get_mut().push_back(work),
                Some(Entry::Vacant(free)) => {
                    free.insert(VecDeque::new());
                    running.push(in_line(line, work));
                }
                None => running.push(in_line(None, work)),
            },
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use futures_util::stream;
    use tokio::{sync::mpsc, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn each_line_is_in_order_and_lines_run_side_by_side() {
        let (running, most) = (Cell::new([0; 3]), Cell::new(0));
        let began = RefCell::new(Vec::new());
        let works = (0..300_u64).map(|number| {
            let line = usize::try_from(number % 3).unwrap();
            let (running, most, began) = (&running, &most, &began);
            let count = move |by: i32| {
                let mut counts = running.get();
                counts[line] += by;
                running.set(counts);
                assert!(counts[line] <= 1, "two of one line at a time");
                most.set(most.get().max(counts.iter().sum()));
            };
            let work = async move {
                count(1);
                began.borrow_mut().push(number);
                // So that later ones could overtake.
                for _ in 0..(number * 7 % 5) {
                    yield_now().await;
                }
                count(-1);
                number
            };
            (Some(number % 3), work)
        });
        let mut done = Vec::new();
        run_in_lines(stream::iter(works), |number| done.push(number)).await;
        for all in [&done, &*began.borrow()] {
            assert_eq!(all.len(), 300);
            for line in 0..3 {
                assert!(
                    all.iter()
                        .filter(|number| **number % 3 == line)
                        .is_sorted_by(|one, next| one < next)
                );
            }
        }
        assert_eq!(most.get(), 3);
    }

    #[tokio::test]
    async fn what_is_in_no_line_waits_for_nothing() {
        let (go, mut gone) = mpsc::channel::<()>(1);
        let first = async move { gone.recv().await.map_or(1, |()| 1) };
        let (first, second) = (
            futures_util::future::Either::Left(first),
            futures_util::future::Either::Right(async { 2 }),
        );
        let mut done = Vec::new();
        let mut go = Some(go);
        run_in_lines(stream::iter([(None, first), (None, second)]), |number| {
            done.push(number);
            drop(go.take());
        })
        .await;
        assert_eq!(done, [2, 1]);
    }
}
