//! Waking who rests: background workers, when something has come, or when the daemon stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wakes resting workers: something was put into the inbox, or the daemon stops.
#[derive(Default)]
pub struct Wake {
    generation: Mutex<u64>,
    /// Told of everything, for those who rest until woken.
    changed: Condvar,
    /// Told of the end alone: a commit wakes nobody whom it does not concern.
    ended: Condvar,
    stopped: AtomicBool,
}

impl Wake {
    /// Wakes every worker that rests until woken.
    pub fn all(&self) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// Ends every rest, for good.
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

    /// Counts up with each [`Wake::all`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests for `time`, or until stopped, or (when `woken`) until the generation is no longer `seen`.
    pub fn rest(&self, seen: u64, time: Duration, woken: bool) {
        let until = Instant::now() + time;
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        while !(self.is_stopped() || woken && *generation != seen) {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return;
            };
            let told = if woken { &self.changed } else { &self.ended };
            generation = told.wait_timeout(generation, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
