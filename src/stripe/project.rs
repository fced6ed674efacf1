//! The projection: stored Stripe events become the state of their objects.
//!
//! One transaction takes a batch of arrivals and files their events in the inbox, takes those events off the
//! queue whose time has come, locks the objects that they are about in key order, lets [`order`] choose each
//! object's winning snapshot, and writes the mirrors and effects of those that changed. Any number of workers
//! on any number of replicas may do so at once: arrivals and queue are claimed with SKIP LOCKED, and an
//! object's lock makes its events meet one after another. Order does not matter, as the choice is a function
//! of the set.
//!
//! An event that fails is tried again later and at last quarantined; its neighbours and other events of its
//! object go on.

mod claim;
mod objects;

use std::iter::zip;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::{Connection, QueryResult};

use self::claim::{ClaimedEvent, Event, StoredEvent};
use self::objects::{Given, ObjectKey, StoredWinner};
use super::effects::Effects;
use super::inbox::{self, Arrival};
use super::order::{self, Candidate};
use super::shape::{self, ShapeError};
use crate::billing::MirrorBatch;
use crate::error::Error;
use crate::panics;

pub use claim::{Failure, requeue_everything};

/// How a projector works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Events a transaction, at most.
    pub batch: u32,
    /// Failures after which an event is quarantined.
    pub attempts: u16,
    /// Create an org for each customer that names none.
    pub org_per_customer: bool,
}

/// What one step did with the events that it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Events whose snapshot won: mirrors changed.
    pub applied: u64,
    /// Events that came after a later or equal one.
    pub superseded: u64,
    /// Events about no object that we can name.
    pub without_object: u64,
    pub failed: u64,
    /// Deliveries of events that were there already.
    pub repeated: u64,
}

impl Step {
    /// What was taken: events, and deliveries of those that were there.
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

/// Projects the next events; takes none when none waits.
///
/// # Errors
/// When the database is away or locks were lost: nothing has changed then, and the next call tries again.
pub fn step(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<Step, Error> {
    let mut taken = Taken::default();
    match conn.transaction(|conn| panics::catch_as_error(|| attempt(conn, options, &mut taken, now))) {
        Err(error) if error.is_transient() => Err(error),
        Err(error) if taken.arrivals.is_empty() && taken.queued.is_empty() => Err(error),
        Err(_) => one_by_one(conn, options, &taken, now),
        Ok(step) => Ok(step),
    }
}

/// What a transaction took, to be taken apart when it fails.
#[derive(Default)]
struct Taken {
    arrivals: Vec<i64>,
    queued: Vec<ClaimedEvent>,
}

fn attempt(
    conn: &mut PgConnection,
    options: &Options,
    taken: &mut Taken,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let arrivals = inbox::take(conn, options.batch, now)?;
    taken.arrivals = arrivals.iter().map(|arrival| arrival.arrival_id).collect();
    let filing = file(conn, &arrivals)?;
    let room = options.batch.saturating_sub(u32::try_from(filing.new.len()).unwrap_or(u32::MAX));
    let queued = if room > 0 { claim::next(conn, room, now)? } else { Vec::new() };
    taken.queued = queued.iter().map(StoredEvent::claim).collect();
    let filed = filing.new.into_iter().map(Event::from);
    let events: Vec<Event<'_>> = filed.chain(queued.iter().map(Event::from)).collect();
    let step = project(conn, options, &events, now)?;
    Ok(Step { repeated: u64::try_from(filing.repeated).unwrap_or(u64::MAX), ..step })
}

fn file<'a>(conn: &mut PgConnection, arrivals: &'a [Arrival]) -> QueryResult<inbox::Filing<'a>> {
    let deliveries = arrivals.iter().flat_map(|arrival| &arrival.deliveries);
    deliveries.clone().for_each(|one| panics::panic_if_test_asks("filing", || &*one.body));
    inbox::file(conn, deliveries)
}

/// A batch that failed as a whole: its events go alone, so that only the culprit fails. Those that had
/// arrived are filed first, and wait on the queue.
fn one_by_one(
    conn: &mut PgConnection,
    options: &Options,
    taken: &Taken,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let mut all = Step::default();
    let mut claimed = taken.queued.clone();
    for arrival_id in &taken.arrivals {
        let filed = conn.transaction(|conn| panics::catch_as_error(|| file_alone(conn, *arrival_id)));
        match filed {
            Ok((claims, repeated)) => {
                claimed.extend(claims);
                all.repeated += u64::try_from(repeated).unwrap_or(u64::MAX);
            }
            Err(error) if Error::is_transient(&error) => return Err(error),
            Err(error) => {
                inbox::set_aside(conn, *arrival_id, &error, now)?;
                all.failed += 1;
            }
        }
    }
    for claim in claimed {
        all.add(match attempt_one(conn, options, claim.inbox_id, now) {
            Ok(step) => step,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let failure = Failure::of(&claim, options.attempts, now, error.to_string());
                claim::record_failures(conn, &[failure])?;
                Step { failed: 1, ..Step::default() }
            }
        });
    }
    Ok(all)
}

/// Puts an arrival's events into the inbox and on the queue. Tells which are new, and how many were there.
fn file_alone(conn: &mut PgConnection, arrival_id: i64) -> Result<(Vec<ClaimedEvent>, usize), Error> {
    let arrival = inbox::take_these(conn, &[arrival_id])?;
    let filing = file(conn, &arrival)?;
    let claims: Vec<ClaimedEvent> =
        filing.new.iter().map(|filed| ClaimedEvent::fresh(filed.inbox_id)).collect();
    claim::queue(conn, &claims)?;
    Ok((claims, filing.repeated))
}

fn attempt_one(
    conn: &mut PgConnection,
    options: &Options,
    inbox_id: i64,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    conn.transaction(|conn| {
        panics::catch_as_error(|| {
            let rows = claim::one(conn, inbox_id)?;
            let events: Vec<Event<'_>> = rows.iter().map(Event::from).collect();
            project(conn, options, &events, now)
        })
    })
}

/// What the events of one object come to.
#[derive(Clone, Copy)]
struct Change<'a> {
    event: &'a Event<'a>,
    ambiguous: bool,
    /// The winner is the one that was held: only the flag may differ.
    same: bool,
}

/// An object with its events of this transaction.
struct Object<'a> {
    key: &'a ObjectKey,
    own: &'a [&'a Event<'a>],
    /// What they come to without others.
    alone: Change<'a>,
}

fn project(
    conn: &mut PgConnection,
    options: &Options,
    events: &[Event<'_>],
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let sorted = in_key_order(events);
    let objects: Vec<Object<'_>> = sorted.chunk_by(|a, b| a.key == b.key).filter_map(Object::of).collect();
    let given: Vec<(&ObjectKey, Given)> =
        objects.iter().map(|object| (object.key, object.alone.into())).collect();
    let held = objects::lock(conn, &given)?;
    let level = zip(&objects, &held).filter_map(|(object, held)| object.level_with(held.as_ref()?));
    let rows = claim::rivals(conn, &level.collect::<Vec<_>>(), events)?;
    let rivals: Vec<Event<'_>> = rows.iter().map(Event::from).collect();
    let rivals = in_key_order(&rivals);

    let mut batch = MirrorBatch::default();
    let mut effects = Effects::default();
    let fail = |claim: &ClaimedEvent, error: String| Failure::of(claim, options.attempts, now, error);
    let mut failures: Vec<Failure> = events
        .iter()
        .filter_map(|event| {
            let error = event.unreadable.as_ref()?;
            Some(fail(&event.claim, format!("the body cannot be read: {error}")))
        })
        .collect();
    let mut changes = Vec::with_capacity(objects.len());
    for (object, held) in zip(&objects, &held) {
        for event in object.own {
            effects.witness(&object.key.as_ref(false), &event.snapshot, event.rank.created);
        }
        let read = |event: &Event<'_>| mirror(object.key, event, &mut batch, &mut effects);
        let (change, failed) = object.decide(held.as_ref(), of(&rivals, object.key), read);
        changes.push(change);
        failures.extend(failed.iter().map(|(claim, error)| fail(claim, error.to_string())));
    }
    // Payments are made of several objects: whoever changes one of those holds the payment too.
    let replaces = held.iter().any(Option::is_some);
    if replaces {
        batch.payment_keys.append(&mut batch.stored_payment_keys(conn)?);
    }
    let mut of_charges = batch.payments_of_charges(conn)?;
    batch.payment_keys.append(&mut of_charges);
    objects::lock_payments(conn, &batch.payment_keys)?;
    batch.write(conn, replaces)?;
    effects.write(conn, options.org_per_customer, now)?;
    let rows = zip(zip(&given, &held), &changes).map(|(((key, given), held), change)| {
        (*key, held.is_none().then_some(*given), change.map(Given::from))
    });
    objects::record(conn, rows)?;
    claim::finish(conn, events, &failures)?;
    Ok(count(events, &changes, &failures))
}

/// The events that are about an object, in the order of its key, in which locks are taken.
fn in_key_order<'a>(events: &'a [Event<'a>]) -> Vec<&'a Event<'a>> {
    let mut sorted: Vec<&Event<'_>> = events.iter().filter(|event| event.key.is_some()).collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    sorted
}

/// Those of one object.
fn of<'a, 'b>(sorted: &'b [&'a Event<'a>], key: &ObjectKey) -> &'b [&'a Event<'a>] {
    let from = sorted.partition_point(|event| event.key.as_ref() < Some(key));
    let upto = sorted.partition_point(|event| event.key.as_ref() <= Some(key));
    &sorted[from..upto]
}

impl<'a> Object<'a> {
    fn of(own: &'a [&'a Event<'a>]) -> Option<Self> {
        Some(Self { key: own.first()?.key.as_ref()?, own, alone: winner(own)? })
    }

    /// The second of the held snapshot, when one of our events stands level with it: the choice then needs
    /// all events of then.
    fn level_with(&self, held: &StoredWinner) -> Option<(&'a ObjectKey, i64)> {
        let level = held.level()?;
        self.own.iter().any(|event| event.level() == level).then_some((self.key, level.1))
    }

    /// Chooses among its events and the `earlier` ones; no change when what is held beats them all. An event
    /// that `mirror` cannot read is passed over: without it, the object is what its other events make of it.
    fn decide(
        &self,
        held: Option<&StoredWinner>,
        earlier: &[&'a Event<'a>],
        mut mirror: impl FnMut(&'a Event<'a>) -> Result<(), ShapeError>,
    ) -> (Option<Change<'a>>, Vec<(ClaimedEvent, ShapeError)>) {
        let mut failed = Vec::new();
        let mut best = if earlier.is_empty() { Some(self.alone) } else { self.best_with(earlier, &failed) };
        let beaten = |level| held.and_then(StoredWinner::level).is_some_and(|held| held > level);
        while let Some(mut change) = best.filter(|best| !beaten(best.event.level())) {
            let id = change.event.claim.inbox_id;
            change.same = held.is_some_and(|held| held.inbox_id == Some(id))
                && !self.own.iter().any(|own| own.claim.inbox_id == id);
            let Err(error) = (if change.same { Ok(()) } else { mirror(change.event) }) else {
                return (Some(change), failed);
            };
            failed.push((change.event.claim, error));
            best = self.best_with(earlier, &failed);
        }
        (None, failed)
    }

    /// What its events and the `earlier` ones come to without those that failed.
    fn best_with(
        &self,
        earlier: &[&'a Event<'a>],
        failed: &[(ClaimedEvent, ShapeError)],
    ) -> Option<Change<'a>> {
        let stands =
            |event: &&Event<'_>| failed.iter().all(|(claim, _)| claim.inbox_id != event.claim.inbox_id);
        winner(&self.own.iter().chain(earlier).copied().filter(stands).collect::<Vec<_>>())
    }
}

/// Chooses among events of one object; there may be none.
fn winner<'a>(field: &[&'a Event<'a>]) -> Option<Change<'a>> {
    let candidates: Vec<Candidate<'_>> = field.iter().map(|event| event.candidate()).collect();
    let verdict = (!candidates.is_empty()).then(|| order::choose(&candidates))?;
    Some(Change { event: field[verdict.winner], ambiguous: verdict.ambiguous, same: false })
}

fn mirror(
    key: &ObjectKey,
    event: &Event<'_>,
    batch: &mut MirrorBatch,
    effects: &mut Effects,
) -> Result<(), ShapeError> {
    let object = key.as_ref(event.rank.tombstone);
    panics::panic_if_test_asks("projector", || event.snapshot.to_string());
    shape::read(&object, &event.snapshot, batch)?;
    effects.consider(&object, &event.snapshot);
    Ok(())
}

fn count(events: &[Event<'_>], changes: &[Option<Change<'_>>], failures: &[Failure]) -> Step {
    let len = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let without_object =
        len(events.iter().filter(|event| event.key.is_none() && event.unreadable.is_none()).count());
    let applied = len(changes.iter().flatten().filter(|change| !change.same).count());
    // A stored event that was weighed against these may fail, too: it is none of them.
    let is_of_batch = |failure: &&Failure| events.iter().any(|event| failure.is_of(&event.claim));
    let failed = len(failures.iter().filter(is_of_batch).count());
    Step {
        applied,
        failed,
        without_object,
        superseded: len(events.len()).saturating_sub(applied + failed + without_object),
        repeated: 0,
    }
}
