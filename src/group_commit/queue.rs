//! What waits, and how much of it a thread takes when.
//!
//! Holders take turns: a batch has one input of each holder before it has a second one of any. So whoever
//! sends much waits behind itself. Inputs of one holder keep their order.
//!
//! With a [`Gathering`] a thread also waits for more, because the larger a batch is the less each input
//! costs: while other threads run large batches, it waits until as much waits as they have in work, or they
//! are done, but no longer than running what it has may take.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::BatchBounds;
use crate::shares::Holder;

/// When a thread waits for a larger batch, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Gathering {
    /// While other threads have less weight in work than this, waiting costs more than it saves.
    pub from: usize,
    /// About what a transaction takes.
    pub per_batch: Duration,
    /// About what one of weight adds to it.
    pub per_weight: Duration,
}

/// Inputs that wait for a thread.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Wakes the thread that gathers a batch.
    changed: Condvar,
    /// One thread gathers at a time; the others wait for this lock.
    turn: Mutex<()>,
    /// Inputs that may wait.
    capacity: usize,
    bounds: BatchBounds,
    gathering: Option<Gathering>,
}

struct State<T> {
    /// The first input of each holder, in the order of their turns.
    first: VecDeque<Entered<T>>,
    /// The further inputs of each holder that has a first one.
    further: HashMap<Holder, VecDeque<Entered<T>>>,
    /// Inputs that wait.
    inputs: usize,
    /// Their weight.
    weight: usize,
    /// Weight of the batches that threads run.
    in_work: usize,
    /// Threads that have not ended.
    workers: usize,
    /// Whether the thread that gathers waits for [`Queue::changed`].
    is_asleep: bool,
    is_closed: bool,
}

struct Entered<T> {
    input: T,
    holder: Holder,
    weight: usize,
    goes_alone: bool,
}

/// Why an input did not get into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

impl<T> State<T> {
    fn put(&mut self, entered: Entered<T>) {
        self.inputs += 1;
        self.weight += entered.weight;
        match self.further.entry(entered.holder) {
            Entry::Occupied(further) => further.into_mut().push_back(entered),
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
                self.first.push_back(entered);
            }
        }
    }

    /// Takes the input whose turn it is; the next one of its holder waits for another turn.
    fn take(&mut self) -> Option<Entered<T>> {
        let first = self.first.pop_front()?;
        self.inputs -= 1;
        self.weight -= first.weight;
        match self.further.get_mut(&first.holder).and_then(VecDeque::pop_front) {
            Some(next) => self.first.push_back(next),
            None => drop(self.further.remove(&first.holder)),
        }
        Some(first)
    }
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize, bounds: BatchBounds, gathering: Option<Gathering>) -> Self {
        let state = State {
            first: VecDeque::new(),
            further: HashMap::new(),
            inputs: 0,
            weight: 0,
            in_work: 0,
            workers: 0,
            is_asleep: false,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            turn: Mutex::default(),
            capacity,
            bounds,
            gathering,
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self, state: &State<T>) -> bool {
        let enough = self.gathering.is_none_or(|gathering| {
            state.in_work < gathering.from || state.weight >= state.in_work.min(self.bounds.weight)
        });
        state.is_closed || state.first.front().is_some_and(|first| first.goes_alone || enough)
    }

    /// Wakes the thread that gathers, if it is asleep.
    fn wake(&self, state: &mut State<T>) {
        if state.is_asleep {
            state.is_asleep = false;
            self.changed.notify_one();
        }
    }

    /// Puts an input behind the others of its holder.
    pub(super) fn push(
        &self,
        input: T,
        holder: Holder,
        weight: usize,
        goes_alone: bool,
    ) -> Result<(), Refused> {
        let mut state = self.state();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        if state.inputs >= self.capacity {
            return Err(Refused::Full);
        }
        let was_empty = state.first.is_empty();
        state.put(Entered { input, holder, weight, goes_alone });
        if was_empty || self.is_ready(&state) {
            self.wake(&mut state);
        }
        Ok(())
    }

    /// The next batch, at least one input, and a guard to keep while the batch runs. `None`: the queue is
    /// closed and empty.
    pub(super) fn take(&self) -> Option<(Vec<T>, InWork<'_, T>)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.wait_until_ready();
        state.is_asleep = false;
        let (mut batch, mut weight, mut is_alone) = (Vec::new(), 0, false);
        while let Some(next) = state.first.front() {
            let is_full = batch.len() >= self.bounds.inputs || weight + next.weight > self.bounds.weight;
            if !batch.is_empty() && (is_alone || next.goes_alone || is_full) {
                break;
            }
            let Some(next) = state.take() else { break };
            is_alone = next.goes_alone;
            weight += next.weight;
            batch.push(next.input);
        }
        state.in_work += weight;
        drop(state);
        (!batch.is_empty()).then(|| (batch, InWork { queue: self, weight }))
    }

    fn wait_until_ready(&self) -> MutexGuard<'_, State<T>> {
        let mut state = self.state();
        let mut since = None;
        while !self.is_ready(&state) {
            state.is_asleep = true;
            let Some(gathering) = self.gathering.filter(|_| !state.first.is_empty()) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let weight = u32::try_from(state.weight).unwrap_or(u32::MAX);
            let wait = gathering.per_batch + gathering.per_weight.saturating_mul(weight);
            let until = *since.get_or_insert_with(Instant::now) + wait;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Counts a thread until the guard is dropped. When the last one has ended, even by a panic, the queue
    /// closes: nobody waits for a thread that is gone.
    pub(super) fn register_worker(&self) -> Registered<'_, T> {
        self.state().workers += 1;
        Registered(self)
    }

    /// Takes no more inputs; those that wait can still be taken.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }
}

/// Dropped when a thread ends.
pub(super) struct Registered<'a, T>(&'a Queue<T>);

impl<T> Drop for Registered<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.workers -= 1;
        if state.workers == 0 {
            state.is_closed = true;
            let left = (std::mem::take(&mut state.first), std::mem::take(&mut state.further));
            (state.inputs, state.weight) = (0, 0);
            drop(state);
            // Their callers learn it from the senders that go with them.
            drop(left);
        }
    }
}

/// Dropped when a batch is done.
pub(super) struct InWork<'a, T> {
    queue: &'a Queue<T>,
    weight: usize,
}

impl<T> Drop for InWork<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.in_work -= self.weight;
        if self.queue.is_ready(&state) {
            self.queue.wake(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Holder::Org(1);

    const PER_BATCH: Duration = Duration::from_millis(2);
    const LARGE: usize = 500;

    /// A queue with inputs of these weights, each named by its position.
    fn queue_of(max_weight: usize, inputs: &[(usize, bool)]) -> Queue<usize> {
        let gathering =
            Gathering { from: LARGE, per_batch: PER_BATCH, per_weight: Duration::from_micros(10) };
        let bounds = BatchBounds { inputs: 4, weight: max_weight };
        let queue = Queue::new(8, bounds, Some(gathering));
        for (name, (weight, goes_alone)) in inputs.iter().enumerate() {
            queue.push(name, A, *weight, *goes_alone).expect("it is open");
        }
        queue
    }

    #[test]
    fn what_waits_is_taken_together_up_to_the_bound() {
        let queue = queue_of(
            10,
            &[(4, false), (6, false), (1, false), (30, false), (2, true), (3, false), (3, false)],
        );
        queue.close();
        let mut batches = Vec::new();
        while let Some((batch, _in_work)) = queue.take() {
            batches.push(batch);
        }
        assert_eq!(batches, [vec![0, 1], vec![2], vec![3], vec![4], vec![5, 6]]);
        assert_eq!(queue.push(7, A, 1, false), Err(Refused::Closed));
    }

    #[test]
    fn a_batch_and_the_queue_have_room_for_so_many() {
        let queue = queue_of(10, &[(1, false); 8]);
        assert_eq!(queue.push(8, A, 1, false), Err(Refused::Full));
        assert_eq!(queue.take().expect("a batch").0, [0, 1, 2, 3]);
        queue.push(8, A, 1, false).expect("there is room again");
    }

    #[test]
    fn holders_take_turns_and_keep_their_own_order() {
        let queue = queue_of(10, &[(5, false), (5, false), (5, false)]);
        for (job, org) in [(10, 2), (11, 2), (20, 3)] {
            queue.push(job, Holder::Org(org), 1, false).expect("it is open");
        }
        queue.close();
        let mut batches = Vec::new();
        while let Some((batch, _in_work)) = queue.take() {
            batches.push(batch);
        }
        assert_eq!(batches, [vec![0, 10, 20], vec![1, 11], vec![2]]);
        assert!(queue.state().further.is_empty());
    }

    #[test]
    fn nobody_waits_for_writers_that_are_gone() {
        let queue = queue_of(10, &[]);
        let (first, second) = (queue.register_worker(), queue.register_worker());
        queue.push(1, A, 1, false).expect("it is open");
        drop(first);
        queue.push(2, A, 1, false).expect("one is left");
        drop(second);
        assert_eq!(queue.push(3, A, 1, false), Err(Refused::Closed));
        assert!(queue.take().is_none());
    }

    /// On a busy machine seconds may pass, so only a wait that is too short counts as a failure.
    #[test]
    fn while_others_store_a_smaller_batch_waits_for_more() {
        let queue = queue_of(1_000_000, &[(400_000, false)]);
        let first = queue.take().expect("a batch");
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let take = || queue.take().map(|(batch, _in_work)| batch);
            let next = scope.spawn(move || (take(), begun.elapsed()));
            for name in 1..=4 {
                queue.push(name, A, 100_000, false).expect("it is open");
                std::thread::sleep(Duration::from_millis(20));
            }
            let (batch, after) = next.join().expect("no panic");
            assert_eq!(batch, Some(vec![1, 2, 3, 4]), "as much as the other has in hand");
            assert!(after >= Duration::from_millis(60), "{after:?}");
        });
        drop(first);
    }

    #[test]
    fn a_waiting_batch_goes_when_the_others_are_done_or_after_its_own_time() {
        let queue = queue_of(1_000_000, &[(1_000_000, false), (400_000, false), (1, false)]);
        let first = queue.take().expect("a batch");
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| queue.take().map(|(batch, _in_work)| batch));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            assert_eq!(next.join().expect("no panic"), Some(vec![1, 2]));
        });
        // Its own time limit would be four seconds.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        queue.push(3, A, 1_000_000, false).expect("it is open");
        let _kept = queue.take().expect("a batch");
        queue.push(4, A, 10, false).expect("it is open");
        let begun = Instant::now();
        assert_eq!(queue.take().expect("a batch").0, [4]);
        assert!(begun.elapsed() >= PER_BATCH, "{:?}", begun.elapsed());
        // An input that goes alone does not wait for more, and small batches do not wait for it.
        queue.push(5, A, 10, true).expect("it is open");
        assert_eq!(queue.take().expect("a batch").0, [5]);
        let queue = queue_of(1_000_000, &[(LARGE - 1, true), (1, false), (1, false)]);
        let _kept = queue.take().expect("a batch");
        assert!(queue.is_ready(&queue.state()));
    }
}
