//! The threads that run what waits, batch by batch, and reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::queue::{Queue, Refused};
use super::replies::{Replies, Reply, ReplySender, reply_channel};
use super::retry::{Attempts, Next, PAUSE, Retry};
use super::{NotDone, Session, Settings, Work};
use crate::db::Db;
use crate::error::Error;
use crate::shares::{Holder, Share, Shares};
use crate::threads::{Heartbeat, Threads};

/// A turn of a thread that takes longer is taken for a fault.
const LONGEST_TURN: Duration = Duration::from_secs(120);
/// How long a caller waits for its reply. Those that call us give up soon after.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

type Output<W> = Result<<W as Work>::Output, NotDone>;

/// A queue of inputs, and threads that do the work. Dropping it lets them finish what waits.
pub struct Batcher<W: Work> {
    queue: Arc<Queue<Waiting<W>>>,
    places: Option<Arc<Shares>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Waiting<W: Work> {
    input: W::Input,
    reply: ReplySender<Output<W>>,
    /// Given back just before the reply.
    place: Option<Share>,
}

impl<W: Work> Batcher<W> {
    /// Starts the threads; `work` makes the work of each.
    #[must_use]
    pub fn start(db: &Db, threads: &Threads, settings: Settings, work: impl Fn() -> W) -> Self {
        let Settings { name, capacity, batch, gathering, retry, .. } = settings;
        let queue = Arc::new(Queue::new(capacity, batch, gathering));
        let start = |n| {
            let queue = Arc::clone(&queue);
            let session = Session::new(db.clone());
            let mut worker = Worker { name, work: work(), session, retry, is_away: false };
            threads.spawn(name, n, LONGEST_TURN, move |heartbeat| {
                let _worker = queue.register_worker();
                heartbeat.run_again_after_panic(|| worker.serve(&queue, heartbeat));
            })
        };
        let threads = Mutex::new((0..settings.threads).map(start).collect());
        Self { queue, places: settings.places, threads }
    }

    /// Submits an input and waits for its output. The output comes after the commit.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub async fn submit(&self, holder: Holder, input: W::Input) -> Result<W::Output, NotDone> {
        let reply = self.enqueue(holder, input)?;
        match tokio::time::timeout(REPLY_WITHIN, reply).await {
            Ok(Ok(output)) => output,
            // The thread panicked with this input in hand, or was stopped.
            Ok(Err(_)) => Err(NotDone::Away),
            Err(_) => Err(NotDone::Unknown),
        }
    }

    fn enqueue(&self, holder: Holder, input: W::Input) -> Result<Reply<Output<W>>, NotDone> {
        let (weight, goes_alone) = (W::weight(&input), W::goes_alone(&input));
        let place = match &self.places {
            Some(places) => {
                // What is heavier than all places together needs all of them.
                let place = places.take(holder, weight.min(places.total()));
                Some(place.ok_or(NotDone::Full)?)
            }
            None => None,
        };
        let (sender, reply) = reply_channel();
        let waiting = Waiting { input, reply: sender, place };
        match self.queue.push(waiting, holder, weight, goes_alone) {
            Ok(()) => Ok(reply),
            Err(Refused::Full) => Err(NotDone::Full),
            Err(Refused::Closed) => Err(NotDone::Stopping),
        }
    }

    /// Takes no more inputs, runs those that wait, ends the threads.
    pub fn stop(&self) {
        self.queue.close();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic was reported when it happened, and its callers have their reply.
            let _ = thread.join();
        }
    }
}

impl<W: Work> Drop for Batcher<W> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What one thread has.
struct Worker<W> {
    name: &'static str,
    work: W,
    session: Session,
    retry: Retry,
    /// The last batch gave up because the database was away.
    is_away: bool,
}

impl<W: Work> Worker<W> {
    /// Runs batches until the queue is closed and empty.
    fn serve(&mut self, queue: &Queue<Waiting<W>>, heartbeat: &Heartbeat) {
        // After a panic the connection may be inside a transaction.
        self.session.close();
        self.is_away = false;
        while let Some((batch, in_work)) = queue.take() {
            let _turn = heartbeat.begin_turn();
            let (mut inputs, mut senders) =
                (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
            let mut places = Vec::new();
            for Waiting { input, reply, place } in batch {
                inputs.push(input);
                senders.push(reply);
                places.extend(place);
            }
            let outputs = self.run(&mut inputs);
            drop(in_work);
            // Whoever sends the next input on a reply finds its place free.
            drop(places);
            let is_done = outputs.iter().any(Result::is_ok);
            let mut replies = Replies::new();
            senders.into_iter().zip(outputs).for_each(|(sender, output)| replies.push(sender, output));
            replies.send();
            if is_done {
                self.work.after_replies();
            }
        }
    }

    /// Runs inputs together. Where that fails by no fault of the database each runs alone: one input that
    /// fails, or panics, must not fail its neighbours.
    fn run(&mut self, inputs: &mut [W::Input]) -> Vec<Output<W>> {
        match self.run_until_done(inputs) {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(NotDone::Failed(error)) if inputs.len() > 1 => {
                tracing::warn!(%error, thread = self.name, inputs = inputs.len(),
                    "a batch failed, its inputs run one by one");
                inputs.iter_mut().flat_map(|input| self.run(std::slice::from_mut(input))).collect()
            }
            Err(NotDone::Failed(error)) => vec![Err(NotDone::Failed(error))],
            Err(NotDone::Unknown) => inputs.iter().map(|_| Err(NotDone::Unknown)).collect(),
            Err(_) => inputs.iter().map(|_| Err(NotDone::Away)).collect(),
        }
    }

    /// Runs inputs, and again after errors where [`Retry`] says so.
    fn run_until_done(&mut self, inputs: &mut [W::Input]) -> Result<Vec<W::Output>, NotDone> {
        let mut attempts = Attempts::new(self.retry, self.is_away);
        loop {
            let error = match self.session.guarded(|session| self.work.run(session, inputs)) {
                Ok(outputs) => {
                    self.is_away = false;
                    return Ok(outputs);
                }
                Err(error) => error,
            };
            let next = attempts.next(&error, self.session.is_open());
            if error.is_disconnected() {
                self.session.close();
            }
            match next {
                Next::RunAtOnce => {}
                Next::RunAfterPause => std::thread::sleep(PAUSE),
                Next::GiveUp => return Err(self.give_up(error, &attempts, inputs.len())),
            }
        }
    }

    fn give_up(&mut self, error: Error, attempts: &Attempts, inputs: usize) -> NotDone {
        self.is_away = error.is_transient();
        if attempts.is_unknown() {
            tracing::error!(%error, thread = self.name, inputs, "the outcome of a batch is not known");
            NotDone::Unknown
        } else if error.is_transient() {
            tracing::error!(%error, thread = self.name, inputs,
                "a batch was not done, its callers must send it again");
            NotDone::Away
        } else {
            NotDone::Failed(error)
        }
    }
}
