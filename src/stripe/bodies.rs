//! Memory for the bodies of deliveries. We can check who sent a body only when all of it has arrived. So
//! strangers can take memory, too. When the memory is full, the body that has been arriving for the longest
//! time is dropped, long bodies before short ones. Stripe's bodies arrive within milliseconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A body up to this many bytes is short: it is dropped only if no longer one is arriving.
const SHORT: usize = 64 << 10;

/// The memory that all bodies share.
pub struct Bodies {
    at_most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// By number, in the order in which they began to arrive.
    arriving: BTreeMap<u64, Arriving>,
    next: u64,
}

struct Arriving {
    bytes: usize,
    ended: Arc<Notify>,
}

impl Bodies {
    /// `at_most`: bytes that all bodies together may take.
    #[must_use]
    pub fn new(at_most: usize) -> Arc<Self> {
        Arc::new(Self { at_most, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a body that begins to arrive. It takes no memory yet.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Memory {
        let ended = Arc::new(Notify::new());
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.arriving.insert(id, Arriving { bytes: 0, ended: Arc::clone(&ended) });
        Memory { all: Arc::clone(self), id, kept: 0, ended }
    }
}

/// The memory of one body. Dropping this frees it.
pub struct Memory {
    all: Arc<Bodies>,
    id: u64,
    /// Bytes that no other body can take away any more.
    kept: usize,
    ended: Arc<Notify>,
}

impl Memory {
    /// Takes memory until this body has `bytes`. If there is not enough, it takes the memory of other bodies.
    /// False: this body must be dropped.
    #[must_use]
    pub fn grow(&self, bytes: usize) -> bool {
        let mut state = self.all.state();
        let Some(before) = state.arriving.get(&self.id).map(|own| own.bytes) else { return false };
        let more = bytes.saturating_sub(before);
        while state.taken + more > self.all.at_most {
            let others = || state.arriving.iter().filter(|(id, other)| **id != self.id && other.bytes > 0);
            let dropped = others().find(|(_, other)| other.bytes > SHORT).or_else(|| others().next());
            let Some(dropped) = dropped.map(|(id, _)| *id) else { return false };
            if let Some(other) = state.arriving.remove(&dropped) {
                state.taken -= other.bytes;
                other.ended.notify_one();
            }
        }
        state.taken += more;
        if let Some(own) = state.arriving.get_mut(&self.id) {
            own.bytes += more;
        }
        true
    }

    /// Returns when another body has taken the memory.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// The sender is known to be Stripe: from now on no other body takes the memory away. False: another body
    /// has taken it already.
    #[must_use]
    pub fn keep(&mut self) -> bool {
        let own = self.all.state().arriving.remove(&self.id);
        self.kept += own.as_ref().map_or(0, |own| own.bytes);
        own.is_some()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut state = self.all.state();
        let arriving = state.arriving.remove(&self.id).map_or(0, |own| own.bytes);
        state.taken -= arriving + self.kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(memory: &Memory) -> bool {
        memory.all.state().arriving.contains_key(&memory.id)
    }

    #[test]
    fn memory_comes_from_the_oldest_long_body_then_from_the_oldest() {
        let bodies = Bodies::new(4 * SHORT);
        let (short, long, longer) = (bodies.begin(), bodies.begin(), bodies.begin());
        assert!(short.grow(10) && long.grow(SHORT + 1) && longer.grow(SHORT + 1));
        let mut new = bodies.begin();
        assert!(new.grow(2 * SHORT));
        assert!(is_there(&short) && !is_there(&long) && is_there(&longer));
        assert!(!long.grow(SHORT + 2), "it has gone");
        assert!(new.grow(4 * SHORT) && !is_there(&longer) && !is_there(&short));
        // A body with a valid signature stays.
        assert!(new.keep());
        let last = bodies.begin();
        assert!(!last.grow(1));
        drop(new);
        assert!(last.grow(1));
        drop((short, long, longer, last));
        assert_eq!(bodies.state().taken, 0);
    }
}
