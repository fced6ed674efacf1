//! Answers to many requests at once. A thread that did the work of a batch wakes whoever waits for it with
//! one message to each thread that serves HTTP; waking tasks of another thread one by one costs a lock and a
//! system call for each, and the first that wakes begins before the last is told.
//!
//! A [`Ticket`] and its [`Answer`] are to each other what the ends of a `tokio::sync::oneshot` are. What is
//! its own is the way of the wakers: those of a [`Batch`] travel together into the mailbox of the runtime
//! that the tasks run on, whose task wakes them there.

use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::Error;

#[cfg(test)]
mod tests;

/// How long a caller waits for an answer. Those that call us give up soon after.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// The answer, if it comes soon.
///
/// # Errors
/// [`Error::OutcomeUnknown`] when it does not: the work goes on.
pub async fn soon<T>(answer: Answer<T>) -> Result<Result<T, Lost>, Error> {
    tokio::time::timeout(ANSWERED_WITHIN, answer).await.map_err(|_| Error::OutcomeUnknown)
}

/// A ticket for who does the work, and the answer to wait for.
pub fn ticket<T>() -> (Ticket<T>, Answer<T>) {
    let place = Arc::new(Place(Mutex::new(State::Open(None))));
    (Ticket(Arc::clone(&place)), Answer(place))
}

/// The right to answer once. Dropping it unanswered ends the wait with [`Lost`].
#[derive(Debug)]
pub struct Ticket<T>(Arc<Place<T>>);

/// The value that the holder of the [`Ticket`] answers with. Dropping it gives up: the answer is then
/// dropped, too.
#[derive(Debug)]
#[must_use = "nobody waits for it unless it is awaited"]
pub struct Answer<T>(Arc<Place<T>>);

/// The ticket was dropped, so there will be no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("whoever was to answer is gone")]
pub struct Lost;

#[derive(Debug)]
struct Place<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    /// No answer yet, and who waits for it.
    Open(Option<Waiting>),
    Answered(T),
    Lost,
    /// Taken, or nobody waits any more.
    Over,
}

/// Whom to wake, and the mailbox beside it.
#[derive(Debug)]
struct Waiting {
    waker: Waker,
    mailbox: Option<Mailbox>,
}

type Mailbox = UnboundedSender<Vec<Waker>>;

impl<T> Place<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the wait with `end`, unless it has ended; tells who waits. Nothing is dropped or woken under the
    /// lock: it may come back for it.
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

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.end(State::Lost) {
            waiting.waker.wake();
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let before = mem::replace(&mut *state, State::Over);
        drop(state);
        drop(before);
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Lost>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &*state {
            State::Open(Some(waiting)) if waiting.waker.will_wake(context.waker()) => return Poll::Pending,
            State::Open(_) => {}
            State::Answered(_) | State::Lost | State::Over => {
                return Poll::Ready(match mem::replace(&mut *state, State::Over) {
                    State::Answered(value) => Ok(value),
                    _ => Err(Lost),
                });
            }
        }
        let waiting = Waiting { waker: context.waker().clone(), mailbox: mailbox() };
        let before = mem::replace(&mut *state, State::Open(Some(waiting)));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

/// Answers that go out together. They are given at once; [`Batch::send`], or dropping it, wakes who waits.
#[derive(Debug, Default)]
pub struct Batch(Vec<(Option<Mailbox>, Vec<Waker>)>);

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a ticket. Where nobody waits any more the value is dropped.
    pub fn push<T>(&mut self, ticket: Ticket<T>, value: T) {
        let Some(Waiting { waker, mailbox }) = ticket.0.end(State::Answered(value)) else { return };
        let same = |there: &Option<Mailbox>| match (there, &mailbox) {
            (Some(there), Some(mailbox)) => there.same_channel(mailbox),
            (there, mailbox) => there.is_none() && mailbox.is_none(),
        };
        // There are as many mailboxes as threads that serve HTTP.
        match self.0.iter_mut().find(|(there, _)| same(there)) {
            Some((_, wakers)) => wakers.push(waker),
            None => self.0.push((mailbox, vec![waker])),
        }
    }

    /// Wakes all who wait, in the order of their answers, with one message to each thread.
    pub fn send(self) {
        drop(self);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for (mailbox, wakers) in self.0.drain(..) {
            match mailbox {
                // One task alone is woken no sooner through a mailbox.
                Some(mailbox) if wakers.len() > 1 => {
                    if let Err(closed) = mailbox.send(wakers) {
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

/// This thread's mailbox at the runtime that the present task runs on; `None` outside a task, where nobody
/// may be running it.
fn mailbox() -> Option<Mailbox> {
    thread_local! {
        static HERE: RefCell<Option<(runtime::Id, Mailbox)>> = const { RefCell::new(None) };
    }
    tokio::task::try_id()?;
    let runtime = Handle::try_current().ok()?;
    let ours = |here: &RefCell<Option<(runtime::Id, Mailbox)>>| {
        let mut here = here.borrow_mut();
        if let Some((id, mailbox)) = &*here
            && *id == runtime.id()
            && !mailbox.is_closed()
        {
            return mailbox.clone();
        }
        let (mailbox, letters) = unbounded_channel();
        runtime.spawn(Letters(letters).deliver());
        *here = Some((runtime.id(), mailbox.clone()));
        mailbox
    };
    HERE.try_with(ours).ok()
}

/// What comes into a mailbox.
struct Letters(UnboundedReceiver<Vec<Waker>>);

impl Letters {
    /// Wakes as told, until the thread ends.
    async fn deliver(mut self) {
        while let Some(wakers) = self.0.recv().await {
            wake(wakers);
        }
    }
}

impl Drop for Letters {
    /// A runtime that ends delivers what has come: what waits for it need not end with it.
    fn drop(&mut self) {
        self.0.close();
        loop {
            match self.0.try_recv() {
                Ok(wakers) => wake(wakers),
                // Being put in at this moment.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }
}
