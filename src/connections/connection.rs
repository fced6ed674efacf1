//! One HTTP connection: what it waits for, and since when.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Connections, SharedState, WaitLimits};

/// Bytes of a request's head that are too few to count.
const SHORT_HEAD: usize = 8 << 10;
/// The HTTP server has the same limits and ends a wait properly: it answers 408, or closes an idle connection
/// in order. So the limits here come this much later.
const AFTER_SERVER: Duration = Duration::from_secs(2);

/// What a connection does.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waits for the first byte of a request, since this instant.
    Idle(Instant),
    /// Waits for the rest of a request's head, since this instant.
    Head(Instant),
    /// Has a request: the daemon reads its body, with a limit of its own, or works on it.
    Request,
}

/// One connection, on the thread that serves it. The server calls `on_…` when something happens.
pub struct Connection {
    pub(super) id: u64,
    pub(super) all: Arc<Connections>,
    pub(super) shared: Arc<SharedState>,
    is_spare: bool,
    phase: Cell<Phase>,
    /// Since when its client has received nothing of a waiting answer.
    stalled_since: Cell<Option<Instant>>,
    /// Bytes of an unfinished head.
    head_bytes: Cell<usize>,
}

impl Connection {
    pub(super) fn new(id: u64, all: Arc<Connections>, shared: Arc<SharedState>, is_spare: bool) -> Self {
        Self {
            id,
            all,
            shared,
            is_spare,
            phase: Cell::new(Phase::Head(Instant::now())),
            stalled_since: Cell::new(None),
            head_bytes: Cell::new(0),
        }
    }

    /// Whether it is one of the spare connections, beyond the limit.
    #[must_use]
    pub fn is_spare(&self) -> bool {
        self.is_spare
    }

    /// The client has shown a valid key or signature.
    pub fn mark_known(&self) {
        self.shared.is_known.store(true, Ordering::Relaxed);
    }

    /// Bytes have arrived.
    pub fn on_received(&self, bytes: usize) {
        match self.phase.get() {
            Phase::Request => return,
            Phase::Idle(_) => self.wait_in(Phase::Head(Instant::now())),
            Phase::Head(_) => {}
        }
        let before = self.head_bytes.replace(self.head_bytes.get() + bytes);
        if before + bytes > SHORT_HEAD {
            self.add_held(if before > SHORT_HEAD { bytes } else { before + bytes });
        }
    }

    /// The head of a request is complete.
    pub fn on_request(&self) {
        self.release_head();
        self.phase.set(Phase::Request);
        self.on_work();
    }

    /// The daemon waits for the request's body.
    pub fn on_body_wait(&self) {
        self.wait_begins();
    }

    /// The daemon has what it needs for now, and works.
    pub fn on_work(&self) {
        if self.stalled_since.get().is_none() {
            self.shared.waits_since_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The answer is written, or given up. The next bytes are another request.
    pub fn on_answered(&self) {
        self.wait_in(Phase::Idle(Instant::now()));
    }

    fn wait_in(&self, phase: Phase) {
        self.phase.set(phase);
        self.wait_begins();
    }

    fn wait_begins(&self) {
        self.shared.waits_since_ms.store(self.all.now_ms(), Ordering::Relaxed);
    }

    /// The client does not receive more for now.
    pub fn on_stalled(&self) {
        if self.stalled_since.get().is_none() {
            self.stalled_since.set(Some(Instant::now()));
            self.wait_begins();
            self.all.free_memory();
        }
    }

    /// The client has received something.
    pub fn on_progress(&self) {
        if self.stalled_since.get().is_some() {
            self.stalled_since.set(Some(Instant::now()));
            self.wait_begins();
        }
    }

    /// The client has received everything that was waiting.
    pub fn on_flushed(&self) {
        if self.stalled_since.take().is_some() && matches!(self.phase.get(), Phase::Request) {
            self.on_work();
        }
    }

    /// The connection holds this many bytes more for its client.
    pub fn add_held(&self, bytes: usize) {
        self.shared.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.free_memory();
    }

    /// The connection holds this many bytes less.
    pub fn release_held(&self, bytes: usize) {
        // If the connection was closed for its memory, its bytes no longer count.
        let less = |held: usize| Some(held.saturating_sub(bytes));
        let before = self.shared.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.all.held.fetch_sub(before.unwrap_or_default().min(bytes), Ordering::Relaxed);
    }

    fn release_head(&self) {
        let head_bytes = self.head_bytes.replace(0);
        if head_bytes > SHORT_HEAD {
            self.release_held(head_bytes);
        }
    }

    /// When it will have waited too long, if it waits.
    fn deadline(&self) -> Option<Instant> {
        let limits = &self.all.limits;
        let phase = match self.phase.get() {
            Phase::Idle(since) => Some(since + limits.idle + AFTER_SERVER),
            Phase::Head(since) => Some(since + limits.head + AFTER_SERVER),
            Phase::Request => None,
        };
        let stalled = self.stalled_since.get().map(|since| since + limits.answer);
        phase.into_iter().chain(stalled).min()
    }

    /// Returns when the connection must be closed: it has waited too long, or another one needs its place.
    pub async fn until_closed(&self) {
        let WaitLimits { head, idle: _, answer } = self.all.limits;
        let pause = (head.min(answer) / 4).clamp(Duration::from_millis(100), Duration::from_secs(5));
        let overdue = async {
            loop {
                let left = self.deadline().map_or(pause, |at| at.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(pause)).await;
            }
        };
        tokio::select! { () = overdue => {}, () = self.shared.must_close.notified() => {} }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.release_head();
        self.all.lock_open().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_has_its_limits_and_work_has_none() {
        let second = Duration::from_secs(1);
        let limits = WaitLimits { head: 10 * second, idle: 30 * second, answer: second / 10 };
        let connection = Arc::new(Connections::new(10, 1, limits)).open().expect("in");
        let closed = |within: Duration| tokio::time::timeout(within, connection.until_closed());
        connection.on_request();
        assert!(closed(second / 2).await.is_err());
        let is_about = |limit: Duration| {
            let left = connection.deadline().expect("it waits") - Instant::now();
            left <= limit && left > limit - 5 * second
        };
        connection.on_answered();
        assert!(is_about(30 * second + AFTER_SERVER));
        connection.on_received(1);
        assert!(is_about(10 * second + AFTER_SERVER));
        connection.on_request();
        connection.on_stalled();
        connection.on_flushed();
        assert!(connection.deadline().is_none());
        connection.on_stalled();
        assert!(closed(10 * second).await.is_ok());
    }
}
