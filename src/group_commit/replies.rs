//! Replies to many callers at once. A thread that has run a batch wakes all its callers with one message to
//! each thread that serves HTTP. Waking the tasks of another thread one by one costs a lock and a system call
//! each, and the first task begins before the last one is woken.
//!
//! [`ReplySender`] and [`Reply`] are like the ends of a `tokio::sync::oneshot`. The difference is how tasks
//! are woken: the wakers of a batch travel together to a task of the runtime that runs the callers, and that
//! task wakes them there.

use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{self, Handle};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

#[cfg(test)]
mod tests;

/// A sender for whoever does the work, and the reply to wait for.
pub(super) fn reply_channel<T>() -> (ReplySender<T>, Reply<T>) {
    let shared = Arc::new(Shared(Mutex::new(State::Open(None))));
    (ReplySender(Arc::clone(&shared)), Reply(shared))
}

/// Sends one reply. Dropped without one, it ends the wait with [`NoReply`].
#[derive(Debug)]
pub(super) struct ReplySender<T>(Arc<Shared<T>>);

/// The value that the [`ReplySender`] sends. A caller that drops it waits no more, and the value is dropped.
#[derive(Debug)]
#[must_use = "nobody waits for it unless it is awaited"]
pub(super) struct Reply<T>(Arc<Shared<T>>);

/// The sender is gone, so there will be no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoReply;

#[derive(Debug)]
struct Shared<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    /// No reply yet, and who waits for it.
    Open(Option<Waiting>),
    Sent(T),
    NoSender,
    /// The value was taken, or nobody waits any more.
    Over,
}

/// The task that waits, and the way to the thread that runs it.
#[derive(Debug)]
struct Waiting {
    waker: Waker,
    thread: Option<WakeSender>,
}

type WakeSender = UnboundedSender<Vec<Waker>>;

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the wait with `end`, unless it has ended; returns who waits. Nothing is dropped or woken under
    /// the lock: a destructor or a waker may take it again.
    fn end(&self, end: State<T>) -> Option<Waiting> {
        let mut state = self.lock();
        if !matches!(*state, State::Open(_)) {
            drop(state);
            return None;
        }
        let before = mem::replace(&mut *state, end);
        drop(state);
        if let State::Open(waiting) = before { waiting } else { None }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.end(State::NoSender) {
            waiting.waker.wake();
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let before = mem::replace(&mut *state, State::Over);
        drop(state);
        drop(before);
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, NoReply>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &*state {
            State::Open(Some(waiting)) if waiting.waker.will_wake(context.waker()) => return Poll::Pending,
            State::Open(_) => {}
            State::Sent(_) | State::NoSender | State::Over => {
                return Poll::Ready(match mem::replace(&mut *state, State::Over) {
                    State::Sent(value) => Ok(value),
                    _ => Err(NoReply),
                });
            }
        }
        let waiting = Waiting { waker: context.waker().clone(), thread: this_thread() };
        let before = mem::replace(&mut *state, State::Open(Some(waiting)));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

/// Replies whose callers are woken together. A value can be read as soon as it is pushed;
/// [`Replies::send`], or dropping this, wakes who waits.
#[derive(Debug, Default)]
pub(super) struct Replies(Vec<(Option<WakeSender>, Vec<Waker>)>);

impl Replies {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Replies with `value`; drops it when nobody waits any more.
    pub(super) fn push<T>(&mut self, sender: ReplySender<T>, value: T) {
        let Some(Waiting { waker, thread }) = sender.0.end(State::Sent(value)) else { return };
        let is_same = |other: &Option<WakeSender>| match (other, &thread) {
            (Some(other), Some(thread)) => other.same_channel(thread),
            (other, thread) => other.is_none() && thread.is_none(),
        };
        // There are as many as threads that serve HTTP.
        match self.0.iter_mut().find(|(thread, _)| is_same(thread)) {
            Some((_, wakers)) => wakers.push(waker),
            None => self.0.push((thread, vec![waker])),
        }
    }

    /// Wakes all who wait, in the order of their replies, with one message to each thread.
    pub(super) fn send(self) {
        drop(self);
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        for (thread, wakers) in self.0.drain(..) {
            match thread {
                // A single task is woken no sooner by a message.
                Some(thread) if wakers.len() > 1 => {
                    if let Err(closed) = thread.send(wakers) {
                        wake(closed.0);
                    }
                }
                _ => wake(wakers),
            }
        }
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// The way to this thread, in the runtime of the current task. `None` outside a task: nobody may be running
/// the runtime there.
fn this_thread() -> Option<WakeSender> {
    thread_local! {
        static SENDER: RefCell<Option<(runtime::Id, WakeSender)>> = const { RefCell::new(None) };
    }
    tokio::task::try_id()?;
    let runtime = Handle::try_current().ok()?;
    let sender = |kept: &RefCell<Option<(runtime::Id, WakeSender)>>| {
        let mut kept = kept.borrow_mut();
        if let Some((id, sender)) = &*kept
            && *id == runtime.id()
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, receiver) = unbounded_channel();
        runtime.spawn(WakeReceiver(receiver).wake_all());
        *kept = Some((runtime.id(), sender.clone()));
        sender
    };
    SENDER.try_with(sender).ok()
}

/// The task that wakes the others of its thread.
struct WakeReceiver(UnboundedReceiver<Vec<Waker>>);

impl WakeReceiver {
    /// Wakes what comes, until the thread ends.
    async fn wake_all(mut self) {
        while let Some(wakers) = self.0.recv().await {
            wake(wakers);
        }
    }
}

impl Drop for WakeReceiver {
    /// A runtime that ends still wakes what has come: who waits need not end with it.
    fn drop(&mut self) {
        self.0.close();
        loop {
            match self.0.try_recv() {
                Ok(wakers) => wake(wakers),
                // A message is being sent at this moment.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }
}
