//! Open HTTP connections: how long each may wait for its client, how much memory it uses meanwhile, and which
//! are closed when there are too many.
//!
//! A connection either waits for its client (to send a request, or to receive an answer), or the daemon works
//! on it. Every wait has a limit. If the process has too many connections, or clients leave too much of their
//! answers unread, the connections that have waited longest are closed, those of unknown clients first. So a
//! new client always gets in, and nobody keeps others out by holding connections open.

mod connection;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub use self::connection::Connection;

/// Connections beyond the limit, for the case that the daemon works on all others. Probes, metrics and Stripe
/// are answered on them; other requests are told to try again.
pub const SPARE: usize = 64;
/// A client that has shown a key, or has just connected, is ranked as if it had waited this much less.
const BONUS_MS: u64 = 10_000;
/// How long a client counts as just connected.
const NEW_MS: u64 = 1_000;
/// When connections are closed for new ones, this share of all (one in 128) is closed in addition: the search
/// looks at all connections, so it must not happen for each new one.
const EXTRA_SHARE: usize = 128;

/// How long a connection may wait for its client.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// For the whole head of a request, from its first byte on.
    pub head: Duration,
    /// For the first byte of the next request.
    pub idle: Duration,
    /// For the client to receive the next part of an answer.
    pub answer: Duration,
}

/// All open connections of the process.
pub struct Connections {
    at_most: usize,
    /// Bytes that all connections may hold for clients that do not receive, or do not finish sending.
    held_at_most: usize,
    limits: WaitLimits,
    began: Instant,
    open: Mutex<HashMap<u64, Arc<SharedState>>>,
    next_id: AtomicU64,
    held: AtomicUsize,
}

/// The part of a connection's state that other threads see.
struct SharedState {
    opened_ms: u64,
    /// Since when it waits for its client; 0: the daemon works on it.
    waits_since_ms: AtomicU64,
    /// Whether its client has shown a valid key or signature.
    is_known: AtomicBool,
    /// Bytes that it holds.
    held: AtomicUsize,
    /// Notified when the connection must close.
    must_close: Notify,
}

impl SharedState {
    /// The connection with the lowest rank is closed first; `None`: the daemon works on it.
    fn rank(&self, now_ms: u64) -> Option<u64> {
        let since = Some(self.waits_since_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)?;
        let is_new = now_ms.saturating_sub(self.opened_ms) < NEW_MS;
        Some(if is_new || self.is_known.load(Ordering::Relaxed) { since + BONUS_MS } else { since })
    }
}

impl Connections {
    #[must_use]
    pub fn new(at_most: usize, held_at_most: usize, limits: WaitLimits) -> Self {
        Self {
            at_most,
            held_at_most,
            limits,
            began: Instant::now(),
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        // At least 1, because 0 means "does not wait".
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn lock_open(&self) -> MutexGuard<'_, HashMap<u64, Arc<SharedState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest number of connections, without the spare ones.
    #[must_use]
    pub fn at_most(&self) -> usize {
        self.at_most
    }

    /// The number of open connections.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock_open().len()
    }

    /// Registers a new connection. If there are too many, closes those that have waited longest. `None`: the
    /// daemon works on all of them, and even the spare ones are in use.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Option<Rc<Connection>> {
        let now_ms = self.now_ms();
        let mut open = self.lock_open();
        if open.len() >= self.at_most {
            let too_many = open.len() + 1 - self.at_most + self.at_most / EXTRA_SHARE;
            self.close_longest(&mut open, too_many, |_| true);
        }
        let is_spare = open.len() >= self.at_most;
        if open.len() >= self.at_most + SPARE {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(SharedState {
            opened_ms: now_ms,
            waits_since_ms: AtomicU64::new(now_ms),
            is_known: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            must_close: Notify::new(),
        });
        open.insert(id, Arc::clone(&shared));
        drop(open);
        Some(Rc::new(Connection::new(id, Arc::clone(self), shared, is_spare)))
    }

    /// Closes connections until all others hold no more bytes than allowed, the longest waiting first.
    fn free_memory(&self) {
        if self.held.load(Ordering::Relaxed) <= self.held_at_most {
            return;
        }
        let mut open = self.lock_open();
        let mut too_much = self.held.load(Ordering::Relaxed).saturating_sub(self.held_at_most);
        while too_much > 0 {
            let holds_bytes = |one: &SharedState| one.held.load(Ordering::Relaxed) > 0;
            let freed = self.close_longest(&mut open, 1, holds_bytes);
            if freed == 0 {
                break;
            }
            too_much = too_much.saturating_sub(freed);
        }
    }

    /// Closes the `count` connections that have waited longest, of those that are `eligible`. Returns the
    /// bytes that they held, counting each as at least 1; 0 if there were none.
    fn close_longest(
        &self,
        open: &mut HashMap<u64, Arc<SharedState>>,
        count: usize,
        eligible: impl Fn(&SharedState) -> bool,
    ) -> usize {
        let now_ms = self.now_ms();
        let waiting = open.iter().filter(|(_, one)| eligible(one));
        let mut ranked: Vec<(u64, u64)> =
            waiting.filter_map(|(id, one)| Some((one.rank(now_ms)?, *id))).collect();
        if ranked.len() > count {
            ranked.select_nth_unstable(count);
            ranked.truncate(count);
        }
        let mut freed = 0;
        for (_, id) in ranked {
            if let Some(one) = open.remove(&id) {
                one.must_close.notify_one();
                // Its thread frees the bytes soon. Count them as free now, so that no other connection is
                // closed for them.
                let held = one.held.swap(0, Ordering::Relaxed);
                self.held.fetch_sub(held, Ordering::Relaxed);
                freed += held.max(1);
            }
        }
        freed
    }
}

#[cfg(test)]
mod tests;
