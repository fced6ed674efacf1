//! The daemon's own threads. Probes and metrics show whether each is alive.
//!
//! A thread works in *turns*: one batch, one round. Between turns it rests or waits for work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::panics;

/// Pause after a panic that reached the thread itself.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);
/// Stands for "no turn runs".
const RESTING: u64 = u64::MAX;

/// All threads that [`Threads::spawn`] started.
#[derive(Default)]
pub struct Threads(Mutex<Vec<Arc<Heartbeat>>>);

/// Records when a thread's turns begin and end. Times are milliseconds of [`now_ms`].
pub struct Heartbeat {
    name: String,
    /// A longer turn counts as hanging.
    longest_turn: Duration,
    /// When the current turn began, or [`RESTING`].
    turn_began_ms: AtomicU64,
    /// When the last turn ended; before the first turn: when the thread started.
    last_turn_ended_ms: AtomicU64,
    has_ended: AtomicBool,
}

/// The state of one thread.
pub struct ThreadState {
    pub name: String,
    /// The thread has not ended, and its current turn does not hang.
    pub alive: bool,
    /// How long the current turn has taken; zero while the thread rests.
    pub current_turn: Duration,
    /// Time since the last turn ended; before the first turn: since the thread started.
    pub since_last_turn: Duration,
}

/// A running turn; dropping it ends the turn.
pub(crate) struct Turn<'a>(&'a Heartbeat);

/// Milliseconds since this function was first called.
fn now_ms() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(RESTING - 1)
}

impl Threads {
    /// Starts thread `number` of this kind. The thread counts as not alive when it has ended, or when a turn
    /// takes longer than `longest_turn`.
    pub(crate) fn spawn(
        &self,
        kind: &'static str,
        number: usize,
        longest_turn: Duration,
        body: impl FnOnce(&Heartbeat) + Send + 'static,
    ) -> JoinHandle<()> {
        panics::register_thread_kind(kind);
        let name = format!("{kind}-{number}");
        let heartbeat = Arc::new(Heartbeat {
            name: name.clone(),
            longest_turn,
            turn_began_ms: AtomicU64::new(RESTING),
            last_turn_ended_ms: AtomicU64::new(now_ms()),
            has_ended: AtomicBool::new(false),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&heartbeat));
        let run = move || {
            panics::set_thread_kind(kind);
            // The panic hook has logged a panic that gets here. The thread then ends, which `check` reports.
            panics::catch_as_none(|| body(&heartbeat));
            heartbeat.has_ended.store(true, Ordering::Relaxed);
        };
        Builder::new().name(name).spawn(run).expect("the system starts a thread")
    }

    #[must_use]
    pub fn states(&self) -> Vec<ThreadState> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|heartbeat| heartbeat.state())
            .collect()
    }

    /// Checks that every thread is alive.
    ///
    /// # Errors
    /// [`Error::Unwell`] names a thread that has ended, or whose turn hangs.
    pub fn check(&self) -> Result<(), Error> {
        let Some(state) = self.states().into_iter().find(|state| !state.alive) else { return Ok(()) };
        Err(Error::Unwell(if state.current_turn.is_zero() {
            format!("the thread {} has ended: restart the daemon", state.name)
        } else {
            let seconds = state.current_turn.as_secs();
            format!("the thread {} has been at one turn for {seconds} s: its log says more", state.name)
        }))
    }
}

impl Heartbeat {
    /// Runs `work`; runs it again after each panic, until it returns.
    pub(crate) fn run_again_after_panic(&self, mut work: impl FnMut()) {
        while panics::catch_as_none(&mut work).is_none() {
            std::thread::sleep(PAUSE_AFTER_PANIC);
        }
    }

    pub(crate) fn begin_turn(&self) -> Turn<'_> {
        self.turn_began_ms.store(now_ms(), Ordering::Relaxed);
        Turn(self)
    }

    fn state(&self) -> ThreadState {
        let now = now_ms();
        let began = self.turn_began_ms.load(Ordering::Relaxed);
        let has_ended = self.has_ended.load(Ordering::Relaxed);
        // While the thread rests, `began` is far in the future, and the difference is 0.
        let turn_ms = if has_ended { 0 } else { now.saturating_sub(began) };
        let since_last_ms = now.saturating_sub(self.last_turn_ended_ms.load(Ordering::Relaxed));
        ThreadState {
            name: self.name.clone(),
            alive: !has_ended && Duration::from_millis(turn_ms) <= self.longest_turn,
            current_turn: Duration::from_millis(turn_ms),
            since_last_turn: Duration::from_millis(since_last_ms),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn_began_ms.store(RESTING, Ordering::Relaxed);
        self.0.last_turn_ended_ms.store(now_ms(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_turn_that_hangs_and_a_thread_that_ended_are_named() {
        let threads = Threads::default();
        let (continue_thread, continued) = channel::<()>();
        let (began, has_begun) = channel();
        let thread = threads.spawn("hanging", 7, Duration::ZERO, move |heartbeat| {
            let turn = heartbeat.begin_turn();
            began.send(()).expect("the test waits");
            let _ = continued.recv();
            drop(turn);
            let _ = continued.recv();
        });
        has_begun.recv().expect("it begins");
        std::thread::sleep(Duration::from_millis(5));
        let error = threads.check().expect_err("its turn takes too long").to_string();
        assert!(error.contains("hanging-7 has been at one turn"), "{error}");
        continue_thread.send(()).expect("it waits");
        while threads.check().is_err() {
            std::thread::yield_now();
        }
        drop(continue_thread);
        thread.join().expect("no panic");
        let error = threads.check().expect_err("it has ended").to_string();
        assert!(error.contains("hanging-7 has ended"), "{error}");
    }

    #[test]
    fn a_panic_does_not_end_the_thread() {
        let threads = Threads::default();
        let (try_sender, try_receiver) = channel();
        let mut tries = 0;
        let body = move |heartbeat: &Heartbeat| {
            heartbeat.run_again_after_panic(|| {
                let _turn = heartbeat.begin_turn();
                tries += 1;
                try_sender.send(tries).expect("the test waits");
                assert!(tries > 1, "once");
            });
        };
        threads.spawn("stumbling", 0, Duration::from_secs(60), body).join().expect("no panic gets out");
        assert_eq!(try_receiver.iter().collect::<Vec<_>>(), [1, 2]);
    }
}
