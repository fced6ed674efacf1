//! The projection: it turns stored Stripe events into the state of their objects.
//!
//! One transaction claims a batch of events and takes their objects through these steps, one function each:
//! lock, choose, shape, write, record. Any number of workers on any number of replicas may do this at once:
//! they claim with SKIP LOCKED, and the lock on an object lets only one worker at a time project it. The
//! order of events does not matter, because the choice depends only on the set of events.
//!
//! If a batch fails, each of its events is projected alone ([`one_by_one`]), so only the faulty one fails. A
//! failed event is tried again later, and quarantined after too many attempts. The other events of the batch
//! and of its object are projected meanwhile.

mod event;
mod object;
mod one_by_one;
mod queue;
mod winners;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::{Connection, QueryResult};

use self::event::{Event, QueueEntry, StoredEvent};
use self::object::ProjectedObject;
use self::queue::Failure;
use super::effects::Effects;
use super::inbox::{self, Arrival};
use super::shape;
use crate::billing::{self, MirrorBatch};
use crate::error::Error;
use crate::panics;

pub use queue::requeue_everything;

/// How a projector works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most events in a transaction.
    pub batch: u32,
    /// After so many failed attempts an event is quarantined.
    pub attempts: u16,
    /// Create an org for each customer that names none.
    pub org_per_customer: bool,
}

/// How many events a step took, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Their snapshot won, and the mirrors changed.
    pub applied: u64,
    /// Another event of the object won.
    pub superseded: u64,
    /// They name no object.
    pub without_object: u64,
    pub failed: u64,
    /// Deliveries of events that were in the inbox already.
    pub repeated: u64,
}

impl StepCounts {
    /// All events, and all repeated deliveries.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.applied + self.superseded + self.without_object + self.failed + self.repeated
    }

    fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.superseded += other.superseded;
        self.without_object += other.without_object;
        self.failed += other.failed;
        self.repeated += other.repeated;
    }
}

/// The tables that are computed from the events alone, in alphabetical order. `rebuild` empties them.
#[must_use]
pub fn tables() -> Vec<&'static str> {
    let mut tables: Vec<&str> = billing::mirror_tables().collect();
    tables.extend(["payments", "stripe_objects", "subscription_periods", "subscription_prices"]);
    tables.sort_unstable();
    tables
}

/// Projects the next events. The counts are 0 when no event waits.
///
/// # Errors
/// When the database cannot be reached, or another transaction made this one fail. Then nothing has changed,
/// and the next call tries again.
pub fn step(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<StepCounts, Error> {
    let mut taken = Taken::default();
    match conn.transaction(|conn| panics::catch_as_error(|| project_next(conn, options, &mut taken, now))) {
        Ok(counts) => Ok(counts),
        Err(error) if error.is_transient() || taken.is_empty() => Err(error),
        Err(_) => one_by_one::project(conn, options, &taken, now),
    }
}

/// What a transaction took. If it fails, these are projected [`one_by_one`].
#[derive(Default)]
struct Taken {
    /// Numbers of arrivals.
    arrivals: Vec<i64>,
    queued: Vec<QueueEntry>,
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.arrivals.is_empty() && self.queued.is_empty()
    }
}

fn project_next(
    conn: &mut PgConnection,
    options: &Options,
    taken: &mut Taken,
    now: DateTime<Utc>,
) -> Result<StepCounts, Error> {
    let arrivals = inbox::take(conn, options.batch, now)?;
    taken.arrivals = arrivals.iter().map(|arrival| arrival.arrival_id).collect();
    let filing = file(conn, &arrivals)?;
    let room = options.batch.saturating_sub(u32::try_from(filing.new.len()).unwrap_or(u32::MAX));
    let queued = if room > 0 { queue::claim_next(conn, room, now)? } else { Vec::new() };
    taken.queued = queued.iter().map(StoredEvent::entry).collect();
    let filed = filing.new.into_iter().map(Event::from);
    let events: Vec<Event<'_>> = filed.chain(queued.iter().map(Event::from)).collect();
    let counts = project(conn, options, &events, now)?;
    Ok(StepCounts { repeated: u64::try_from(filing.repeated).unwrap_or(u64::MAX), ..counts })
}

/// Files arrivals into the inbox.
fn file<'a>(conn: &mut PgConnection, arrivals: &'a [Arrival]) -> QueryResult<inbox::Filing<'a>> {
    let deliveries = arrivals.iter().flat_map(|arrival| &arrival.deliveries);
    deliveries.clone().for_each(|one| panics::panic_if_test_asks("filing", || &*one.body));
    inbox::file(conn, deliveries)
}

/// Projects these events, inside the caller's transaction.
fn project(
    conn: &mut PgConnection,
    options: &Options,
    events: &[Event<'_>],
    now: DateTime<Utc>,
) -> Result<StepCounts, Error> {
    let by_object = object::sort_by_object(events);
    let mut objects = object::group_by_object(&by_object);
    winners::lock(conn, &mut objects)?;
    let rivals = queue::load_rivals(conn, &objects, events)?;
    let rivals: Vec<Event<'_>> = rivals.iter().map(Event::from).collect();
    let rivals = object::sort_by_object(&rivals);
    choose(&mut objects, &rivals);
    let (mut batch, effects) = shape(&mut objects);
    write(conn, &objects, &mut batch)?;
    effects.write(conn, options.org_per_customer, now)?;
    let failures = failures(options, events, &objects, now);
    winners::record(conn, &objects)?;
    queue::finish(conn, events, &failures)?;
    Ok(count(events, &objects, &failures))
}

/// Gives each object its rivals, and chooses the winner among all of its events.
fn choose<'a>(objects: &mut [ProjectedObject<'a>], rivals: &'a [&'a Event<'a>]) {
    for object in objects {
        object.rivals = object::events_of(rivals, object.key);
        object.choose();
    }
}

/// Reads the winners into rows. An event that cannot be read is rejected: the object's other events decide.
fn shape(objects: &mut [ProjectedObject<'_>]) -> (MirrorBatch, Effects) {
    let (mut batch, mut effects) = (MirrorBatch::default(), Effects::default());
    for object in objects {
        for event in object.events {
            let shown = object.key.shown_by(event);
            effects.add_seen(&shown, &event.snapshot, event.rank.created, event.fetched);
        }
        while let Some(event) = object.new_winner() {
            panics::panic_if_test_asks("projector", || event.snapshot.to_string());
            let named = object.key.shown_by(event);
            match shape::read(&named, &event.snapshot, &mut batch) {
                Ok(()) => {
                    effects.add_winner(&named, &event.snapshot);
                    break;
                }
                Err(error) => object.reject(event, &error),
            }
        }
    }
    (batch, effects)
}

/// Writes the mirrors. A payment is computed from several objects, so it locks the payments of all of them.
fn write(
    conn: &mut PgConnection,
    objects: &[ProjectedObject<'_>],
    batch: &mut MirrorBatch,
) -> Result<(), Error> {
    let replaces = objects.iter().any(|object| !object.is_new());
    if replaces {
        batch.payment_keys.append(&mut batch.stored_payment_keys(conn)?);
    }
    let mut of_charges = batch.payments_of_charges(conn)?;
    batch.payment_keys.append(&mut of_charges);
    winners::lock_payments(conn, &batch.payment_keys)?;
    Ok(batch.write(conn, replaces)?)
}

/// The events whose body cannot be read, and those that [`shape`] rejected.
fn failures(
    options: &Options,
    events: &[Event<'_>],
    objects: &[ProjectedObject<'_>],
    now: DateTime<Utc>,
) -> Vec<Failure> {
    let unreadable = events.iter().filter_map(|event| {
        let error = event.unreadable.as_ref()?;
        Some((event.entry, format!("the body cannot be read: {error}")))
    });
    let rejected = objects.iter().flat_map(|object| object.rejected.iter().cloned());
    let failure = |(entry, error)| Failure::new(&entry, options.attempts, now, error);
    unreadable.chain(rejected).map(failure).collect()
}

fn count(events: &[Event<'_>], objects: &[ProjectedObject<'_>], failures: &[Failure]) -> StepCounts {
    let len = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let without_object =
        len(events.iter().filter(|event| event.key.is_none() && event.unreadable.is_none()).count());
    let applied = len(objects.iter().filter(|object| object.new_winner().is_some()).count());
    // A rival may fail, too, but it is not an event of this batch.
    let is_of_batch = |failure: &&Failure| events.iter().any(|event| failure.is_of(&event.entry));
    let failed = len(failures.iter().filter(is_of_batch).count());
    StepCounts {
        applied,
        failed,
        without_object,
        superseded: len(events.len()).saturating_sub(applied + failed + without_object),
        repeated: 0,
    }
}
