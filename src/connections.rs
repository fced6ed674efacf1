//! Open connections: how long each keeps the server waiting, what it holds meanwhile, and which go when there
//! are too many.
//!
//! A connection either waits for its client (to send a request, or to take an answer) or is worked on.
//! Waiting has a bound in time. Where the process has as many connections as it may, or its clients leave too
//! much of their answers untaken, those that have waited longest go, strangers first. So a newcomer always
//! gets in, and nobody keeps others out by holding on.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Connections beyond the bound, where all are worked on: probes, metrics and Stripe are answered on them,
/// others told to wait.
pub const SPARE: usize = 64;
/// For how long whoever has shown a key, or has only just come, is taken to have waited less than a stranger,
/// in milliseconds.
const FAVOUR_MS: u64 = 10_000;
/// How long a connection has only just come, in milliseconds.
const NEW_MS: u64 = 1_000;
/// Of so many connections one more goes than must: looking for those that go takes a look at all.
const AT_ONCE: usize = 128;
/// Bytes of a request's head that are not worth counting.
const SHORT_HEAD: usize = 8 << 10;
/// The server's own bounds (a slow first request is answered 408, an idle connection closed in order) come
/// first by this.
const LATER: Duration = Duration::from_secs(2);

/// How long a connection may wait for its client.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a whole head of a request, from its first byte on.
    pub head: Duration,
    /// For the first byte of the next request.
    pub idle: Duration,
    /// For the next part of an answer to be taken.
    pub answer: Duration,
}

/// All open connections of the process.
pub struct Connections {
    at_most: usize,
    /// Bytes that may be held for clients that take no more, or send no more.
    held_at_most: usize,
    patience: Patience,
    began: Instant,
    open: Mutex<HashMap<u64, Arc<Shared>>>,
    next: AtomicU64,
    held: AtomicUsize,
}

/// What others may know of a connection.
struct Shared {
    opened_ms: u64,
    /// Since when it waits for its client; 0: it is worked on.
    waits_since_ms: AtomicU64,
    /// Whether its client has shown a valid key or signature.
    known: AtomicBool,
    /// Bytes that it holds.
    held: AtomicUsize,
    /// Tells it that it has to go.
    ended: Notify,
}

impl Shared {
    /// The lower, the sooner it goes; `None`: it is worked on.
    fn rank(&self, now_ms: u64) -> Option<u64> {
        let since = Some(self.waits_since_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)?;
        let favoured = self.known.load(Ordering::Relaxed) || now_ms.saturating_sub(self.opened_ms) < NEW_MS;
        Some(if favoured { since + FAVOUR_MS } else { since })
    }
}

impl Connections {
    /// A place for `at_most` connections that hold `held_at_most` bytes between them.
    #[must_use]
    pub fn new(at_most: usize, held_at_most: usize, patience: Patience) -> Self {
        Self {
            at_most,
            held_at_most,
            patience,
            began: Instant::now(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        // 0 says that nobody waits.
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that may be open, but for the spare ones.
    #[must_use]
    pub fn at_most(&self) -> usize {
        self.at_most
    }

    /// Connections that are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open().len()
    }

    /// Takes note of a new connection, and ends those that have waited longest where there are too many.
    /// `None`: all are worked on, and even the spare ones are taken.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Rc<Connection>> {
        let now_ms = self.now_ms();
        let mut open = self.open();
        if open.len() >= self.at_most {
            let too_many = open.len() + 1 - self.at_most + self.at_most / AT_ONCE;
            self.end_longest(&mut open, too_many, |_| true);
        }
        let spare = open.len() >= self.at_most;
        if open.len() >= self.at_most + SPARE {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            opened_ms: now_ms,
            waits_since_ms: AtomicU64::new(now_ms),
            known: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        open.insert(id, Arc::clone(&shared));
        drop(open);
        Some(Rc::new(Connection {
            id,
            all: Arc::clone(self),
            shared,
            spare,
            phase: Cell::new(Phase::Head(Instant::now())),
            stalled: Cell::new(None),
            head: Cell::new(0),
        }))
    }

    /// Where clients leave too much untaken or unfinished, those go that have done so longest.
    fn relieve(&self) {
        if self.held.load(Ordering::Relaxed) <= self.held_at_most {
            return;
        }
        let mut open = self.open();
        let mut too_much = self.held.load(Ordering::Relaxed).saturating_sub(self.held_at_most);
        while too_much > 0 {
            let holds = |one: &Shared| one.held.load(Ordering::Relaxed) > 0;
            let freed = self.end_longest(&mut open, 1, holds);
            if freed == 0 {
                break;
            }
            too_much = too_much.saturating_sub(freed);
        }
    }

    /// Ends the connections that have waited longest; gives the bytes that they held, at least 1 if there
    /// were any.
    fn end_longest(
        &self,
        open: &mut HashMap<u64, Arc<Shared>>,
        count: usize,
        of: impl Fn(&Shared) -> bool,
    ) -> usize {
        let now_ms = self.now_ms();
        let ranked = open.iter().filter(|(_, one)| of(one));
        let mut ranked: Vec<(u64, u64)> =
            ranked.filter_map(|(id, one)| Some((one.rank(now_ms)?, *id))).collect();
        if ranked.len() > count {
            ranked.select_nth_unstable(count);
            ranked.truncate(count);
        }
        let mut freed = 0;
        for (_, id) in ranked {
            if let Some(one) = open.remove(&id) {
                one.ended.notify_one();
                // It will be free as soon as its thread hears of it: nobody else has to go for it meanwhile.
                let held = one.held.swap(0, Ordering::Relaxed);
                self.held.fetch_sub(held, Ordering::Relaxed);
                freed += held.max(1);
            }
        }
        freed
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waits for the first byte of a request, since then.
    Idle(Instant),
    /// Waits for the rest of a request's head, since then.
    Head(Instant),
    /// Waits for a request's body, whose reader knows how long; or is worked on.
    Request,
}

/// One connection, on the thread that serves it.
pub struct Connection {
    id: u64,
    all: Arc<Connections>,
    shared: Arc<Shared>,
    spare: bool,
    phase: Cell<Phase>,
    /// Since when its client has taken nothing of an answer that it could take.
    stalled: Cell<Option<Instant>>,
    /// Bytes of an unfinished head.
    head: Cell<usize>,
}

impl Connection {
    /// Whether it is one beyond the bound.
    #[must_use]
    pub fn is_spare(&self) -> bool {
        self.spare
    }

    /// Its client has shown a valid key or signature.
    pub fn known(&self) {
        self.shared.known.store(true, Ordering::Relaxed);
    }

    /// Bytes have come.
    pub fn received(&self, bytes: usize) {
        match self.phase.get() {
            Phase::Request => return,
            Phase::Idle(_) => self.wait(Phase::Head(Instant::now())),
            Phase::Head(_) => {}
        }
        let before = self.head.replace(self.head.get() + bytes);
        if before + bytes > SHORT_HEAD {
            self.hold(if before > SHORT_HEAD { bytes } else { before + bytes });
        }
    }

    /// A request has come, but for its body.
    pub fn begin(&self) {
        self.forget_head();
        self.phase.set(Phase::Request);
        self.works();
    }

    /// Waits for the request's body.
    pub fn awaits_body(&self) {
        self.shared.waits_since_ms.store(self.all.now_ms(), Ordering::Relaxed);
    }

    /// Has what it needs for now.
    pub fn works(&self) {
        if self.stalled.get().is_none() {
            self.shared.waits_since_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The answer is written, or nobody will: what comes next is another request.
    pub fn end(&self) {
        self.wait(Phase::Idle(Instant::now()));
    }

    fn wait(&self, phase: Phase) {
        self.phase.set(phase);
        self.shared.waits_since_ms.store(self.all.now_ms(), Ordering::Relaxed);
    }

    /// The client takes no more for now.
    pub fn stalls(&self) {
        if self.stalled.get().is_none() {
            self.stalled.set(Some(Instant::now()));
            self.shared.waits_since_ms.store(self.all.now_ms(), Ordering::Relaxed);
            self.all.relieve();
        }
    }

    /// The client has taken something.
    pub fn progresses(&self) {
        if self.stalled.get().is_some() {
            self.stalled.set(Some(Instant::now()));
            self.shared.waits_since_ms.store(self.all.now_ms(), Ordering::Relaxed);
        }
    }

    /// The client has taken all that there was.
    pub fn flushed(&self) {
        if self.stalled.take().is_some() && matches!(self.phase.get(), Phase::Request) {
            self.works();
        }
    }

    /// Holds so many bytes more for its client.
    pub fn hold(&self, bytes: usize) {
        self.shared.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.relieve();
    }

    /// Holds so many bytes less.
    pub fn release(&self, bytes: usize) {
        // What was given up for it is no longer counted.
        let less = |held: usize| Some(held.saturating_sub(bytes));
        let before = self.shared.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.all.held.fetch_sub(before.unwrap_or_default().min(bytes), Ordering::Relaxed);
    }

    fn forget_head(&self) {
        let head = self.head.replace(0);
        if head > SHORT_HEAD {
            self.release(head);
        }
    }

    /// When it will have waited for too long, if it waits.
    fn due(&self) -> Option<Instant> {
        let patience = &self.all.patience;
        let phase = match self.phase.get() {
            Phase::Idle(since) => Some(since + patience.idle + LATER),
            Phase::Head(since) => Some(since + patience.head + LATER),
            Phase::Request => None,
        };
        let stalled = self.stalled.get().map(|since| since + patience.answer);
        phase.into_iter().chain(stalled).min()
    }

    /// Returns when it has to be closed: it has waited for too long, or others need the place.
    pub async fn over(&self) {
        let Patience { head, idle: _, answer } = self.all.patience;
        let look = (head.min(answer) / 4).clamp(Duration::from_millis(100), Duration::from_secs(5));
        let overdue = async {
            loop {
                let left = self.due().map_or(look, |due| due.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(look)).await;
            }
        };
        tokio::select! { () = overdue => {}, () = self.shared.ended.notified() => {} }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.forget_head();
        self.all.open().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(at_most: usize, held_at_most: usize) -> Arc<Connections> {
        let long = Duration::from_secs(600);
        Arc::new(Connections::new(at_most, held_at_most, Patience { head: long, idle: long, answer: long }))
    }

    /// As if it had come, and waited, since then.
    fn since(connection: &Connection, ms: u64) {
        connection.shared.waits_since_ms.store(ms, Ordering::Relaxed);
    }

    fn is_ended(connection: &Connection) -> bool {
        !connection.all.open().contains_key(&connection.id)
    }

    #[test]
    fn a_newcomer_takes_the_place_of_whoever_waited_longest() {
        let all = of(3, 1);
        let (first, second, third) = (all.enter(), all.enter(), all.enter());
        let (first, second, third) = (first.expect("in"), second.expect("in"), third.expect("in"));
        first.begin();
        since(&second, 200);
        since(&third, 100);
        let fourth = all.enter().expect("in");
        assert_eq!([&first, &second, &third].map(|one| is_ended(one)), [false, false, true]);
        assert!(!fourth.is_spare());
        // The one that goes is gone for good; its own end changes nothing more.
        drop(third);
        assert_eq!(all.count(), 3);
        drop((first, second, fourth));
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn who_has_shown_a_key_stays_longer_than_a_stranger() {
        let all = of(2, 1);
        let (known, stranger) = (all.enter().expect("in"), all.enter().expect("in"));
        known.known();
        std::thread::sleep(Duration::from_millis(NEW_MS + 50));
        since(&known, 1);
        since(&stranger, FAVOUR_MS - 1);
        let _third = all.enter().expect("in");
        assert!(is_ended(&stranger) && !is_ended(&known));
    }

    #[test]
    fn where_all_are_worked_on_few_more_come_in_and_know_it() {
        let all = of(2, 1);
        let busy = || all.enter().inspect(|one| one.begin());
        let mut open: Vec<_> = (0..2 + SPARE).map(|_| busy().expect("in")).collect();
        assert!(open.iter().map(|one| one.is_spare()).eq((0..2 + SPARE).map(|n| n >= 2)));
        assert!(all.enter().is_none());
        open.pop();
        assert!(all.enter().is_some_and(|one| one.is_spare()));
    }

    #[test]
    fn untaken_answers_go_when_together_they_are_too_much() {
        let all = of(10, 100);
        let open: Vec<_> = (0..4).map(|_| all.enter().expect("in")).inspect(|one| one.begin()).collect();
        for (n, one) in open.iter().enumerate() {
            one.hold(40);
            assert!(!is_ended(one), "they are being written");
            if n < 2 {
                one.stalls();
                since(one, 10 - n as u64);
            }
        }
        // Of 160 bytes 60 are too many: the two that stall go.
        open[2].hold(1);
        assert!(open.iter().map(|one| is_ended(one)).eq([true, true, false, false]));
        open.iter().for_each(|one| one.release(one.shared.held.load(Ordering::Relaxed)));
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn waiting_has_its_bounds_and_work_has_none() {
        let second = Duration::from_secs(1);
        let patience = Patience { head: 10 * second, idle: 30 * second, answer: second / 10 };
        let connection = Arc::new(Connections::new(10, 1, patience)).enter().expect("in");
        let over = |within: Duration| tokio::time::timeout(within, connection.over());
        connection.begin();
        assert!(over(second / 2).await.is_err());
        let soon = |bound: Duration| {
            let left = connection.due().expect("it waits") - Instant::now();
            left <= bound && left > bound - 5 * second
        };
        connection.end();
        assert!(soon(30 * second + LATER));
        connection.received(1);
        assert!(soon(10 * second + LATER));
        connection.begin();
        connection.stalls();
        connection.flushed();
        assert!(connection.due().is_none());
        connection.stalls();
        assert!(over(10 * second).await.is_ok());
    }
}
