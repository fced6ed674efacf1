//! Stores deliveries as they arrive. Deliveries that arrive during a commit share the next commit.

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

/// Most deliveries of one commit, and most bytes of their bodies: this bounds the memory that a burst takes.
const BATCH: BatchBounds = BatchBounds { inputs: 256, weight: 8 << 20 };
/// With so many deliveries that wait for a reply, replies go before the projection of stored events.
const MANY: usize = 32;

/// Stores deliveries. When it is dropped, its threads still store those that wait.
pub struct InboxWriter {
    batcher: Batcher<Arrivals>,
    /// Number of deliveries without a reply.
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

/// Why [`InboxWriter::store`] cannot say that a delivery is stored. Stripe must send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many deliveries wait.
    Full,
    /// The database cannot be reached, or refuses this delivery.
    Unavailable,
    /// The delivery may or may not be stored.
    Unknown,
}

impl InboxWriter {
    /// Starts `writers` threads. At most `capacity` deliveries wait for them. Each commit wakes projectors.
    #[must_use]
    pub fn start(db: &Db, threads: &Threads, writers: usize, capacity: usize, wake: &Arc<Wake>) -> Self {
        let settings = Settings {
            name: "inbox-writer",
            threads: writers,
            capacity,
            // All deliveries are Stripe's, so there is nobody to share the queue with.
            places: None,
            batch: BATCH,
            gathering: None,
            retry: Retry::Store,
        };
        let batcher = Batcher::start(db, threads, settings, || Arrivals { wake: Arc::clone(wake) });
        Self { batcher, unanswered: AtomicUsize::new(0) }
    }

    /// Whether so many deliveries wait for a reply that other work should wait for them.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= MANY
    }

    /// Stores a delivery and returns when it is durable.
    ///
    /// # Errors
    /// [`Refused`]: it may or may not be stored, and Stripe must send it again.
    pub async fn store(&self, delivery: Delivery) -> Result<(), Refused> {
        let _unanswered = Unanswered::new(&self.unanswered);
        self.batcher.submit(Holder::Platform, delivery).await.map_err(|not_done| match not_done {
            NotDone::Full => Refused::Full,
            NotDone::Stopping | NotDone::Away => Refused::Unavailable,
            NotDone::Unknown => Refused::Unknown,
            NotDone::Failed(error) => {
                tracing::error!(%error, "a delivery of Stripe was not stored: Stripe will send it again");
                Refused::Unavailable
            }
        })
    }

    /// Accepts no more deliveries, stores those that wait, and ends the threads.
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

/// Whether exactly this delivery is stored: it has arrived, or is filed by now.
fn is_there(conn: &mut PgConnection, delivery: &Delivery) -> Result<bool, Error> {
    Ok(arrivals::is_there(conn, delivery)? || filing::is_there(conn, delivery)?)
}
