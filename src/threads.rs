//! Threads of our own, and whether each is alive: probes and metrics tell.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::panics;

/// Pause after a panic that no piece of work has caught.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// No turn is going on.
const RESTING: u64 = u64::MAX;

/// The threads of a daemon.
#[derive(Default)]
pub struct Threads(Mutex<Vec<Arc<Pulse>>>);

/// What one thread does at the moment.
pub struct Pulse {
    name: String,
    /// Longest turn that is believed to be work.
    patience: Duration,
    /// Begin of the turn that is going on, in milliseconds since [`now`] began.
    turn: AtomicU64,
    /// End of the last turn, likewise.
    last: AtomicU64,
    ended: AtomicBool,
}

/// How a thread is.
pub struct State {
    pub name: String,
    /// It has not ended, and its turn is within its patience.
    pub alive: bool,
    /// How long its present turn has taken; zero while it rests.
    pub turn: Duration,
    /// How long ago its last turn ended; since its start when there was none.
    pub since: Duration,
}

/// A turn, until this goes.
pub(crate) struct Turn<'a>(&'a Pulse);

/// Milliseconds of this process.
fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(RESTING - 1)
}

impl Threads {
    /// Starts thread `number` of this kind. It is not well once a turn takes longer than `patience`, or when
    /// it ends.
    pub(crate) fn spawn(
        &self,
        kind: &'static str,
        number: usize,
        patience: Duration,
        body: impl FnOnce(&Pulse) + Send + 'static,
    ) -> JoinHandle<()> {
        panics::expect(kind);
        let name = format!("{kind}-{number}");
        let pulse = Arc::new(Pulse {
            name: name.clone(),
            patience,
            turn: AtomicU64::new(RESTING),
            last: AtomicU64::new(now()),
            ended: AtomicBool::new(false),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pulse));
        let run = move || {
            panics::this_thread_is(kind);
            // A panic that gets here was reported; the thread has ended, which is told.
            panics::caught(|| body(&pulse));
            pulse.ended.store(true, Ordering::Relaxed);
        };
        Builder::new().name(name).spawn(run).expect("the system starts a thread")
    }

    /// How each thread is.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|pulse| pulse.state()).collect()
    }

    /// Whether every thread can do its work.
    ///
    /// # Errors
    /// [`Error::Unwell`] names a thread that has ended, or whose turn takes longer than it ever should.
    pub fn check(&self) -> Result<(), Error> {
        let Some(state) = self.states().into_iter().find(|state| !state.alive) else { return Ok(()) };
        Err(Error::Unwell(if state.turn.is_zero() {
            format!("the thread {} has ended: restart the daemon", state.name)
        } else {
            let seconds = state.turn.as_secs();
            format!("the thread {} has been at one turn for {seconds} s: its log says more", state.name)
        }))
    }
}

impl Pulse {
    /// Does `work` until it returns; after a panic again.
    pub(crate) fn go_on(&self, mut work: impl FnMut()) {
        while panics::caught(&mut work).is_none() {
            std::thread::sleep(AFTER_PANIC);
        }
    }

    /// Begins a turn.
    pub(crate) fn turn(&self) -> Turn<'_> {
        self.turn.store(now(), Ordering::Relaxed);
        Turn(self)
    }

    fn state(&self) -> State {
        let now = now();
        let begun = self.turn.load(Ordering::Relaxed);
        let ended = self.ended.load(Ordering::Relaxed);
        let turn = if ended { 0 } else { now.saturating_sub(begun) };
        State {
            name: self.name.clone(),
            alive: !ended && Duration::from_millis(turn) <= self.patience,
            turn: Duration::from_millis(turn),
            since: Duration::from_millis(now.saturating_sub(self.last.load(Ordering::Relaxed))),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn.store(RESTING, Ordering::Relaxed);
        self.0.last.store(now(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_turn_that_hangs_and_a_thread_that_ended_are_named() {
        let threads = Threads::default();
        let (go_on, told) = channel::<()>();
        let (begun, started) = channel();
        let thread = threads.spawn("hanging", 7, Duration::ZERO, move |pulse| {
            let turn = pulse.turn();
            begun.send(()).expect("the test waits");
            let _ = told.recv();
            drop(turn);
            let _ = told.recv();
        });
        started.recv().expect("it begins");
        std::thread::sleep(Duration::from_millis(5));
        let error = threads.check().expect_err("its turn takes too long").to_string();
        assert!(error.contains("hanging-7 has been at one turn"), "{error}");
        go_on.send(()).expect("it waits");
        while threads.check().is_err() {
            std::thread::yield_now();
        }
        drop(go_on);
        thread.join().expect("no panic");
        let error = threads.check().expect_err("it has ended").to_string();
        assert!(error.contains("hanging-7 has ended"), "{error}");
    }

    #[test]
    fn a_panic_does_not_end_a_thread_that_goes_on() {
        let threads = Threads::default();
        let (tell, told) = channel();
        let mut tries = 0;
        let body = move |pulse: &Pulse| {
            pulse.go_on(|| {
                let _turn = pulse.turn();
                tries += 1;
                tell.send(tries).expect("the test waits");
                assert!(tries > 1, "once");
            });
        };
        threads.spawn("stumbling", 0, Duration::from_secs(60), body).join().expect("no panic gets out");
        assert_eq!(told.iter().collect::<Vec<_>>(), [1, 2]);
    }
}
