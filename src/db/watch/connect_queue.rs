//! Lets one thread connect at a time, in the order in which they come.
//!
//! One at a time, because [`Socket`](crate::db::socket::Socket) finds a connection's socket as the one that
//! is new. In order, because on a busy machine some threads would otherwise wait for ever.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;
use crate::db::socket::{OpenSockets, Socket};
use crate::error::Error;

/// How long a thread waits for its place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct ConnectQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    connecting: Option<Connecting>,
    /// Numbers of the threads that wait, the next one first.
    waiting: VecDeque<u64>,
    last_number: u64,
}

/// A thread is connecting.
#[derive(Clone)]
struct Connecting {
    began: Instant,
    /// The sockets that were open before it began.
    before: Arc<OpenSockets>,
}

/// The right to connect, until it is dropped.
pub(super) struct ConnectPlace<'a> {
    queue: &'a ConnectQueue,
    before: Arc<OpenSockets>,
}

impl ConnectQueue {
    /// Waits for the right to connect.
    ///
    /// # Errors
    /// [`Error::Busy`] after [`PLACE_TIMEOUT`].
    pub(super) fn enter(&self) -> Result<ConnectPlace<'_>, Error> {
        let mut state = lock(&self.state);
        state.last_number += 1;
        let own = state.last_number;
        state.waiting.push_back(own);
        let not_yet = |state: &mut State| state.connecting.is_some() || state.waiting.front() != Some(&own);
        let waited = self.changed.wait_timeout_while(state, PLACE_TIMEOUT, not_yet);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|other| *other != own);
        if waited.timed_out() {
            drop(state);
            self.changed.notify_all();
            return Err(Error::Busy("the database does not take connections: try again in a second"));
        }
        let before = Arc::new(OpenSockets::now());
        state.connecting = Some(Connecting { began: Instant::now(), before: Arc::clone(&before) });
        Ok(ConnectPlace { queue: self, before })
    }

    /// Shuts the new sockets of a thread that has been connecting for longer than `limit`: libpq then fails.
    pub(super) fn shut_if_longer_than(&self, limit: Duration) {
        let connecting = lock(&self.state).connecting.clone();
        if let Some(connecting) = connecting.filter(|connecting| connecting.began.elapsed() > limit) {
            connecting.before.new_since().iter().for_each(Socket::shut);
        }
    }
}

impl ConnectPlace<'_> {
    /// The socket that was opened since this place was taken; `None` if there is none, or more than one: then
    /// nobody knows which one is right.
    pub(super) fn new_socket(&self) -> Option<Socket> {
        let mut sockets = self.before.new_since();
        sockets.pop().filter(|_| sockets.is_empty())
    }
}

impl Drop for ConnectPlace<'_> {
    fn drop(&mut self) {
        lock(&self.queue.state).connecting = None;
        self.queue.changed.notify_all();
    }
}
