//! The way into the inbox: deliveries that arrive during a commit share the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::pg::PgConnection;

use super::{Delivery, arrivals, filing};
use crate::db::{self, CommitSession, Db};
use crate::error::Error;
use crate::group_commit::{BatchBounds, Batcher, NotDone, Retry, Session, Settings, Work};
use crate::shares::Holder;
use crate::threads::Threads;
use crate::wake::Wake;

/// Bounds the memory of a burst; the weight of a delivery is its bytes.
const BATCH: BatchBounds = BatchBounds { inputs: 256, weight: 8 << 20 };
/// From so many deliveries without a reply on, replying goes before projecting what is stored.
const MANY: usize = 32;

/// The way into the inbox. Dropping it lets the threads finish what waits.
pub struct InboxWriter {
    batcher: Batcher<Arrivals>,
    /// Deliveries without a reply.
    unanswered: AtomicUsize,
}

/// Counts a delivery in [`InboxWriter::unanswered`] until it is dropped.
struct Unanswered<'a>(&'a AtomicUsize);

impl<'a> Unanswered<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a delivery was not stored. Stripe must send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many deliveries wait.
    Full,
    /// The database is away, or it fails on this delivery.
    Unavailable,
    /// It is not known whether it was stored.
    Unknown,
}

impl InboxWriter {
    /// Starts so many threads over a queue of `capacity` deliveries. Each commit wakes the projectors.
    #[must_use]
    pub fn start(db: &Db, threads: &Threads, writers: usize, capacity: usize, wake: &Arc<Wake>) -> Self {
        let settings = Settings {
            name: "inbox-writer",
            threads: writers,
            capacity,
            // All deliveries are Stripe's.
            places: None,
            batch: BATCH,
            gathering: None,
            retry: Retry::Store,
        };
        let batcher = Batcher::start(db, threads, settings, || Arrivals { wake: Arc::clone(wake) });
        Self { batcher, unanswered: AtomicUsize::new(0) }
    }

    /// Whether so many deliveries wait for their reply that other work should let them go first.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= MANY
    }

    /// Stores a delivery; returns when it is durable.
    ///
    /// # Errors
    /// [`Refused`]: it may or may not have been stored, and must be sent again.
    pub async fn store(&self, delivery: Delivery) -> Result<(), Refused> {
        let _unanswered = Unanswered::new(&self.unanswered);
        self.batcher.submit(Holder::Platform, delivery).await.map_err(|not_done| match not_done {
            NotDone::Full => Refused::Full,
            NotDone::Stopping | NotDone::Away => Refused::Unavailable,
            NotDone::Unknown => Refused::Unknown,
            NotDone::Failed(error) => {
                tracing::error!(%error, "a delivery was not stored, Stripe will send it again");
                Refused::Unavailable
            }
        })
    }

    /// Takes no more deliveries, writes those that wait, ends the threads.
    pub fn stop(&self) {
        self.batcher.stop();
    }
}

/// Stores the deliveries of one commit as one arrival.
struct Arrivals {
    wake: Arc<Wake>,
}

impl Work for Arrivals {
    type Input = Delivery;
    type Output = ();

    fn run(&mut self, session: &mut Session, deliveries: &mut [Delivery]) -> Result<Vec<()>, Error> {
        store(session, deliveries).map(|()| vec![(); deliveries.len()])
    }

    fn weight(delivery: &Delivery) -> usize {
        delivery.body.len()
    }

    fn after_replies(&mut self) {
        self.wake.all();
    }
}

fn store(session: &mut Session, deliveries: &[Delivery]) -> Result<(), Error> {
    let conn = session.connection()?;
    // The INSERT is a transaction of its own.
    let lost = CommitSession::of_connection(conn);
    let Err(error) = arrivals::land(conn, deliveries) else { return Ok(()) };
    let error = db::as_connection_error(conn, error.into());
    let Some(first) = deliveries.first().filter(|_| error.is_disconnected()) else { return Err(error) };
    session.close();
    if session.db().was_committed(lost, &|conn| is_there(conn, first))? { Ok(()) } else { Err(error) }
}

/// Whether this very delivery is there: it arrived, or was filed meanwhile.
fn is_there(conn: &mut PgConnection, delivery: &Delivery) -> Result<bool, Error> {
    Ok(arrivals::is_there(conn, delivery)? || filing::is_there(conn, delivery)?)
}
