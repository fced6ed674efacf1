//! When the guard must stop: its parent has ended, or a signal has arrived.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::{EmbeddedError, Result};

/// A request to stop. Any thread may make it, and it ends every wait of the guard.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    requested: bool,
    /// Counts changes of child processes, so that a wait ends when one has exited.
    children: u64,
}

impl Stop {
    /// From now on the end of standard input, SIGTERM, SIGINT or SIGHUP requests the stop.
    pub(super) fn listen() -> Result<Stop> {
        let stop = Stop::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| EmbeddedError::new(format!("cannot listen for signals: {error}")))?;
        let signals = {
            // Install the handlers before the first child starts: its exit is one of the signals.
            let _inside = runtime.enter();
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::child()]
                .map(signal)
        };
        let [terminate, interrupt, hangup, child] = signals;
        let listen = |error: io::Error| EmbeddedError::new(format!("cannot listen for signals: {error}"));
        let (mut terminate, mut interrupt) = (terminate.map_err(listen)?, interrupt.map_err(listen)?);
        let (mut hangup, mut child) = (hangup.map_err(listen)?, child.map_err(listen)?);
        let on_signal = stop.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => on_signal.request(),
                        _ = interrupt.recv() => on_signal.request(),
                        _ = hangup.recv() => on_signal.request(),
                        _ = child.recv() => on_signal.change(|state| state.children += 1),
                    }
                }
            })
        });
        let on_end = stop.clone();
        thread::spawn(move || {
            let mut ignored = [0; 64];
            let mut input = io::stdin().lock();
            loop {
                match input.read(&mut ignored) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return on_end.request(),
                }
            }
        });
        Ok(stop)
    }

    pub(super) fn request(&self) {
        self.change(|state| state.requested = true);
    }

    pub(super) fn requested(&self) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).requested
    }

    /// Sleeps, but no longer than until the stop is requested or a child process has exited.
    pub(super) fn sleep(&self, at_most: Duration) {
        self.wait(at_most, false);
    }

    /// Sleeps, but no longer than until the stop is requested.
    pub(super) fn pause(&self, at_most: Duration) {
        self.wait(at_most, true);
    }

    fn wait(&self, at_most: Duration, through_children: bool) {
        let until = Instant::now() + at_most;
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let children = state.children;
        while !state.requested && (through_children || state.children == children) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }
}
