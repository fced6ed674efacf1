//! Waking background workers that rest: when there is something to do, or when the daemon stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The signal that workers rest on.
#[derive(Default)]
pub struct Wake {
    generation: Mutex<u64>,
    /// For workers that wait for something to do, and for the end.
    changed: Condvar,
    /// For workers that wait for the end alone: a commit does not wake them.
    ended: Condvar,
    stopped: AtomicBool,
}

impl Wake {
    /// Wakes the workers that wait for something to do.
    pub fn all(&self) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Wakes every worker. From then on nobody rests.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.all();
        self.ended.notify_all();
    }

    /// Whether [`Wake::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The number of calls of [`Wake::all`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests for `time` at most. Ends at once when stopped, and with `until_woken` when the generation is no
    /// longer `seen`.
    pub fn rest(&self, seen: u64, time: Duration, until_woken: bool) {
        let until = Instant::now() + time;
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        while !(self.is_stopped() || until_woken && *generation != seen) {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return;
            };
            let signal = if until_woken { &self.changed } else { &self.ended };
            generation = signal.wait_timeout(generation, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
