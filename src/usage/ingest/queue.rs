//! What waits to be stored, and how much of it a writer takes when.
//!
//! Those who wait take turns: a batch has a job of each before it has a second one of anybody, so who sends
//! much waits behind itself. Jobs of one holder stay in their order.
//!
//! Whatever came while a writer stored its last batch goes into the next. The more events there are the less
//! each costs, so while others are storing a large batch a writer waits until as much has come as they have
//! in hand, or they are done, but no longer than storing what it has may take.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::shares::Holder;

/// With fewer events in others' hands the waiting costs more than it saves.
const LARGE: usize = 500;
/// About what a transaction takes.
const TRANSACTION: Duration = Duration::from_millis(2);
/// About what an event adds to it.
const EVENT: Duration = Duration::from_micros(10);

/// Jobs that wait for writers. How many may is the caller's to bound.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Tells the writer that gathers.
    told: Condvar,
    /// Held by the writer that gathers: the others wait for their turn.
    turn: Mutex<()>,
    /// Events that may share a batch; of one job there may be more.
    at_most: usize,
}

struct State<T> {
    /// The first job of each holder, in the order of their turns.
    jobs: VecDeque<Waiting<T>>,
    /// For each holder of a first job, its further ones.
    further: HashMap<Holder, VecDeque<Waiting<T>>>,
    /// Events of `jobs`.
    waiting: usize,
    /// Events that writers have in hand.
    storing: usize,
    /// Writers that have not ended.
    writers: usize,
    /// Whether the writer that gathers wants to be told.
    asleep: bool,
    closed: bool,
}

struct Waiting<T> {
    job: T,
    holder: Holder,
    events: usize,
    alone: bool,
}

impl<T> State<T> {
    fn put(&mut self, waiting: Waiting<T>) {
        match self.further.entry(waiting.holder) {
            Entry::Occupied(further) => further.into_mut().push_back(waiting),
            Entry::Vacant(none) => {
                none.insert(VecDeque::new());
                self.jobs.push_back(waiting);
            }
        }
    }

    /// Takes the job whose turn it is; the next of its holder waits for another turn.
    fn take(&mut self) -> Option<Waiting<T>> {
        let first = self.jobs.pop_front()?;
        match self.further.get_mut(&first.holder).and_then(VecDeque::pop_front) {
            Some(next) => self.jobs.push_back(next),
            None => drop(self.further.remove(&first.holder)),
        }
        Some(first)
    }

    fn is_ready(&self, at_most: usize) -> bool {
        let enough = self.storing < LARGE || self.waiting >= self.storing.min(at_most);
        self.closed || self.jobs.front().is_some_and(|first| first.alone || enough)
    }
}

impl<T> Queue<T> {
    /// An empty queue; `at_most` events share a batch.
    pub(super) fn new(at_most: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            further: HashMap::new(),
            waiting: 0,
            storing: 0,
            writers: 0,
            asleep: false,
            closed: false,
        };
        Self { state: Mutex::new(state), told: Condvar::new(), turn: Mutex::default(), at_most }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job of so many events behind the others of its holder; `alone`: no other shares its batch.
    /// Gives it back when the queue is closed.
    pub(super) fn push(&self, job: T, holder: Holder, events: usize, alone: bool) -> Result<(), T> {
        let mut state = self.state();
        if state.closed {
            return Err(job);
        }
        let first = state.jobs.is_empty();
        state.put(Waiting { job, holder, events, alone });
        state.waiting += events;
        if state.asleep && (first || state.is_ready(self.at_most)) {
            state.asleep = false;
            self.told.notify_one();
        }
        Ok(())
    }

    /// The next batch, at least one job, and what says that its events are being stored while it is kept.
    /// `None`: the queue is closed and empty.
    pub(super) fn take(&self) -> Option<(Vec<T>, Storing<'_, T>)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let mut since = None;
        while !state.is_ready(self.at_most) {
            state.asleep = true;
            if state.jobs.is_empty() {
                state = self.told.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let events = u32::try_from(state.waiting).unwrap_or(u32::MAX);
            let until = *since.get_or_insert_with(Instant::now) + TRANSACTION + EVENT.saturating_mul(events);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.asleep = false;
        let (mut batch, mut events, mut alone) = (Vec::new(), 0, false);
        while let Some(next) = state.jobs.front() {
            if !batch.is_empty() && (alone || next.alone || events + next.events > self.at_most) {
                break;
            }
            let Some(next) = state.take() else { break };
            alone = next.alone;
            events += next.events;
            batch.push(next.job);
        }
        state.waiting -= events;
        state.storing += events;
        drop(state);
        (!batch.is_empty()).then(|| (batch, Storing { queue: self, events }))
    }

    /// Counts a writer until what it gives goes: when the last one has ended, be it by a panic, nobody waits
    /// for it any more.
    pub(super) fn writer(&self) -> Registered<'_, T> {
        self.state().writers += 1;
        Registered(self)
    }

    /// Takes no more jobs; those that wait can still be taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.told.notify_one();
    }
}

/// A writer is there, until this goes.
pub(super) struct Registered<'a, T>(&'a Queue<T>);

impl<T> Drop for Registered<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.writers -= 1;
        if state.writers == 0 {
            state.closed = true;
            let left = (std::mem::take(&mut state.jobs), std::mem::take(&mut state.further));
            state.waiting = 0;
            drop(state);
            // Their callers are told so.
            drop(left);
        }
    }
}

/// A batch is being stored, until this goes.
pub(super) struct Storing<'a, T> {
    queue: &'a Queue<T>,
    events: usize,
}

impl<T> Drop for Storing<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.storing -= self.events;
        if state.asleep && state.is_ready(self.queue.at_most) {
            state.asleep = false;
            self.queue.told.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Holder::Org(1);

    fn with(at_most: usize, jobs: &[(usize, bool)]) -> Queue<usize> {
        let queue = Queue::new(at_most);
        for (name, (events, alone)) in jobs.iter().enumerate() {
            queue.push(name, A, *events, *alone).expect("it is open");
        }
        queue
    }

    #[test]
    fn what_waits_is_taken_together_up_to_the_bound() {
        let queue =
            with(10, &[(4, false), (6, false), (1, false), (30, false), (2, true), (3, false), (3, false)]);
        queue.close();
        let mut batches = Vec::new();
        while let Some((batch, _storing)) = queue.take() {
            batches.push(batch);
        }
        assert_eq!(batches, [vec![0, 1], vec![2], vec![3], vec![4], vec![5, 6]]);
        assert_eq!(queue.push(7, A, 1, false), Err(7));
    }

    #[test]
    fn holders_take_turns_and_keep_their_own_order() {
        let queue = with(10, &[(5, false), (5, false), (5, false)]);
        for (job, org) in [(10, 2), (11, 2), (20, 3)] {
            queue.push(job, Holder::Org(org), 1, false).expect("it is open");
        }
        queue.close();
        let mut batches = Vec::new();
        while let Some((batch, _storing)) = queue.take() {
            batches.push(batch);
        }
        assert_eq!(batches, [vec![0, 10, 20], vec![1, 11], vec![2]]);
        assert!(queue.state().further.is_empty());
    }

    #[test]
    fn nobody_waits_for_writers_that_are_gone() {
        let queue = with(10, &[]);
        let (first, second) = (queue.writer(), queue.writer());
        queue.push(1, A, 1, false).expect("it is open");
        drop(first);
        queue.push(2, A, 1, false).expect("one is left");
        drop(second);
        assert_eq!(queue.push(3, A, 1, false), Err(3));
        assert!(queue.take().is_none());
    }

    /// Seconds may pass on a busy machine; what is shorter than it should be shows at once.
    #[test]
    fn while_others_store_a_smaller_batch_waits_for_more() {
        let queue = with(1_000_000, &[(400_000, false)]);
        let first = queue.take().expect("a batch");
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let take = || queue.take().map(|(batch, _storing)| batch);
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
        let queue = with(1_000_000, &[(1_000_000, false), (400_000, false), (1, false)]);
        let first = queue.take().expect("a batch");
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| queue.take().map(|(batch, _storing)| batch));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            assert_eq!(next.join().expect("no panic"), Some(vec![1, 2]));
        });
        // By its own time it would have been four seconds.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

        queue.push(3, A, 1_000_000, false).expect("it is open");
        let _kept = queue.take().expect("a batch");
        queue.push(4, A, 10, false).expect("it is open");
        let begun = Instant::now();
        assert_eq!(queue.take().expect("a batch").0, [4]);
        assert!(begun.elapsed() >= TRANSACTION, "{:?}", begun.elapsed());
        // What goes alone waits for nobody, and nobody for few.
        queue.push(5, A, 10, true).expect("it is open");
        assert_eq!(queue.take().expect("a batch").0, [5]);
        let queue = with(1_000_000, &[(LARGE - 1, true), (1, false), (1, false)]);
        let _kept = queue.take().expect("a batch");
        assert!(queue.state().is_ready(1_000_000));
    }
}
