//! Threads that store the waiting deliveries: whatever came during the last commit goes into the next.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::pg::PgConnection;
use tokio::sync::mpsc;

use super::{Delivery, arrivals, filing};
use crate::answers::{self, Ticket};
use crate::db::{self, CommitSession, Db};
use crate::error::Error;
use crate::panics;
use crate::threads::{Heartbeat, Threads};
use crate::wake::Wake;

/// Deliveries that share one commit at most, and their bytes: bounds the memory of a burst.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
/// How long a batch is tried again while the database is away; Stripe itself retries for days.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest turn of a writer that is believed to be work.
const LONGEST: Duration = Duration::from_secs(120);
/// Deliveries under way from which on answering them goes before projecting what was answered.
const MANY: usize = 32;

type Job = (Delivery, Ticket<()>);

/// The way into the inbox. Dropping it lets the writers finish what waits.
pub struct InboxWriter {
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Deliveries that have not been answered yet.
    under_way: AtomicUsize,
}

/// One of [`InboxWriter::under_way`].
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a delivery was not stored: Stripe is told to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many deliveries wait.
    Full,
    /// The database is away.
    Unavailable,
    /// It is not known yet whether it was stored.
    Slow,
}

impl InboxWriter {
    /// Starts `writers` threads over a queue of `capacity` deliveries; `wake` is told after each commit.
    #[must_use]
    pub fn start(db: &Db, threads: &Threads, writers: usize, capacity: usize, wake: &Arc<Wake>) -> Self {
        let (queue, jobs) = mpsc::channel(capacity);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..writers).map(|n| {
            let (db, jobs, wake) = (db.clone(), Arc::clone(&jobs), Arc::clone(wake));
            threads.spawn("inbox-writer", n, LONGEST, move |heartbeat| {
                let mut writer = Writer { db, conn: None };
                heartbeat.run_again_after_panic(|| writer.drain(&jobs, &wake, heartbeat));
            })
        });
        let threads = Mutex::new(threads.collect());
        Self { queue: Mutex::new(Some(queue)), threads, under_way: AtomicUsize::new(0) }
    }

    /// Whether so many deliveries wait for their answer that other work should let them go first.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= MANY
    }

    /// Stores a delivery; returns when it is durable.
    ///
    /// # Errors
    /// [`Refused`]: it may or may not have been stored, and must be sent again.
    pub async fn store(&self, delivery: Delivery) -> Result<(), Refused> {
        let _under_way = UnderWay::begin(&self.under_way);
        let queue =
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(Refused::Unavailable)?;
        let (ticket, stored) = answers::ticket();
        queue.try_send((delivery, ticket)).map_err(|_| Refused::Full)?;
        drop(queue);
        answers::soon(stored).await.map_err(|_| Refused::Slow)?.map_err(|_| Refused::Unavailable)
    }

    /// Takes no more deliveries, writes those that wait, ends the threads.
    pub fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in a writer was reported when it happened; its senders have been told `Unavailable`.
            let _ = thread.join();
        }
    }
}

struct Writer {
    db: Db,
    conn: Option<PgConnection>,
}

impl Writer {
    fn drain(&mut self, jobs: &Mutex<mpsc::Receiver<Job>>, wake: &Wake, heartbeat: &Heartbeat) {
        // After a panic it may be within a transaction.
        self.conn = None;
        let away = AtomicBool::new(false);
        while let Some(batch) = next_batch(jobs) {
            let _turn = heartbeat.begin_turn();
            let (deliveries, tickets): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            match self.store(&deliveries, &away) {
                Err(error) if error.is_panic() && deliveries.len() > 1 => {
                    for (delivery, ticket) in deliveries.into_iter().zip(tickets) {
                        let stored = self.store(std::slice::from_ref(&delivery), &away);
                        answer(stored, vec![ticket], wake);
                    }
                }
                stored => answer(stored, tickets, wake),
            }
        }
    }

    /// Stores a batch, over again on a fresh connection when the old one broke and nothing had been stored.
    fn store(&mut self, deliveries: &[Delivery], away: &AtomicBool) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            match self.try_store(deliveries) {
                Err(error) if error.is_transient() => {
                    if error.is_disconnected() {
                        self.conn = None;
                    }
                    // While the database is known to be away, later batches fail at once instead of queueing
                    // up.
                    if away.load(Ordering::Relaxed) || started.elapsed() > PATIENCE {
                        away.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => {
                    away.store(false, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    fn try_store(&mut self, deliveries: &[Delivery]) -> Result<(), Error> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => none.insert(self.db.connect_serving_thread()?),
        };
        // One statement is a transaction of its own.
        let lost = CommitSession::of_connection(conn);
        let landed = panics::catch_as_error(|| Ok(arrivals::land(conn, deliveries)?));
        let Err(error) = landed else { return Ok(()) };
        if error.is_panic() {
            self.conn = None;
            return Err(error);
        }
        let error = db::as_connection_error(conn, error);
        let Some(first) = deliveries.first().filter(|_| error.is_disconnected()) else { return Err(error) };
        self.conn = None;
        let found = self.db.was_committed(lost, &|conn| is_there(conn, first));
        if found? { Ok(()) } else { Err(error) }
    }
}

fn answer(stored: Result<(), Error>, tickets: Vec<Ticket<()>>, wake: &Wake) {
    match stored {
        Ok(()) => {
            let mut answers = answers::Batch::new();
            tickets.into_iter().for_each(|ticket| answers.push(ticket, ()));
            answers.send();
            wake.all();
        }
        // Dropping the tickets tells the handlers.
        Err(error) => {
            let deliveries = tickets.len();
            tracing::error!(%error, deliveries, "deliveries not stored, Stripe will send them again");
        }
    }
}

/// Whether this very delivery is there: it arrived, or was filed meanwhile.
fn is_there(conn: &mut PgConnection, delivery: &Delivery) -> Result<bool, Error> {
    Ok(arrivals::is_there(conn, delivery)? || filing::is_there(conn, delivery)?)
}

/// Waits for a delivery and takes those that came with it; `None` when there will be no more.
fn next_batch(jobs: &Mutex<mpsc::Receiver<Job>>) -> Option<Vec<Job>> {
    let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    let first = jobs.blocking_recv()?;
    let mut bytes = first.0.body.len();
    let mut batch = vec![first];
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.0.body.len();
        batch.push(job);
    }
    Some(batch)
}
