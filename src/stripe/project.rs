//! The projection: stored Stripe events become the state of their objects.
//!
//! One transaction takes a batch of arrivals and files their events in the inbox, takes those events off the queue whose time has come,
//! locks the objects that they are about in key order, lets [`order`] choose each object's winning snapshot, and writes the mirrors
//! and effects of those that changed. Any number of workers on any number of replicas may do so at once: arrivals and queue are
//! claimed with SKIP LOCKED, and an object's lock makes its events meet one after another. Order does not matter, as the choice is a
//! function of the set.
//!
//! An event that fails is tried again later and at last quarantined; its neighbours and other events of its object go on.

mod claim;
mod objects;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::{Connection, QueryResult};

use self::claim::{Claim, Event};
use self::objects::{Given, Held, ObjectKey};
use super::effects::Effects;
use super::inbox::{self, Arrival};
use super::order::{self, Candidate};
use super::shape;
use crate::billing::MirrorBatch;
use crate::error::Error;

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
    /// Events that failed.
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
    match conn.transaction(|conn| attempt(conn, options, &mut taken, now)) {
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
    queued: Vec<Claim>,
}

fn attempt(
    conn: &mut PgConnection,
    options: &Options,
    taken: &mut Taken,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let arrivals = inbox::take(conn, options.batch, now)?;
    taken.arrivals = arrivals.iter().map(|arrival| arrival.arrival_id).collect();
    let filing = file(conn, arrivals)?;
    let mut events: Vec<Event> = filing.new.into_iter().map(Event::from).collect();
    let room = options.batch.saturating_sub(u32::try_from(events.len()).unwrap_or(u32::MAX));
    if room > 0 {
        let queued = claim::next(conn, room, now)?;
        taken.queued = queued.iter().map(|event| event.claim).collect();
        events.extend(queued);
    }
    let step = project(conn, options, &events, now)?;
    Ok(Step { repeated: u64::try_from(filing.repeated).unwrap_or(u64::MAX), ..step })
}

fn file(conn: &mut PgConnection, arrivals: Vec<Arrival>) -> QueryResult<inbox::Filing> {
    inbox::file(conn, arrivals.into_iter().flat_map(|arrival| arrival.deliveries).collect())
}

/// A batch that failed as a whole: its events go alone, so that only the culprit fails. Those that had arrived are filed first, and
/// wait on the queue.
fn one_by_one(
    conn: &mut PgConnection,
    options: &Options,
    taken: &Taken,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let mut all = Step::default();
    let mut claimed = taken.queued.clone();
    for arrival_id in &taken.arrivals {
        let filed = conn.transaction(|conn| {
            let arrival = inbox::take_these(conn, &[*arrival_id])?;
            let filing = file(conn, arrival)?;
            let claims: Vec<Claim> = filing.new.iter().map(|filed| Claim::fresh(filed.inbox_id)).collect();
            claim::queue(conn, &claims)?;
            Ok((claims, filing.repeated))
        });
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

fn attempt_one(
    conn: &mut PgConnection,
    options: &Options,
    inbox_id: i64,
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    conn.transaction(|conn| {
        let events = claim::one(conn, inbox_id)?;
        project(conn, options, &events, now)
    })
}

/// What the events of one object come to.
struct Change<'a> {
    key: &'a ObjectKey,
    event: &'a Event,
    standing: i16,
    deleted: bool,
    ambiguous: bool,
    /// The winner is the one that was held: only the flag may differ.
    same: bool,
}

fn project(
    conn: &mut PgConnection,
    options: &Options,
    events: &[Event],
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let by_object = by_object(events);
    let given: Vec<(&ObjectKey, Given)> = by_object
        .iter()
        .map(|(key, own)| (key, winner(key, own, own, None).map_or_else(Given::default, |own| (&own).into())))
        .collect();
    let locked = objects::lock(conn, &given)?;
    let held = &locked.held;
    let level: Vec<(&ObjectKey, i64)> =
        by_object.iter().filter_map(|(key, own)| level_with(key, own, held.get(key)?)).collect();
    let rivals = claim::rivals(conn, &level, events)?;

    let mut batch = MirrorBatch::default();
    let mut effects = Effects::default();
    let mut changes = Vec::new();
    let mut failures: Vec<Failure> = events
        .iter()
        .filter_map(|event| {
            let error = event.unreadable.as_ref()?;
            Some(Failure::of(
                &event.claim,
                options.attempts,
                now,
                format!("the body cannot be read: {error}"),
            ))
        })
        .collect();
    for (key, own) in &by_object {
        for event in own {
            effects.witness(&key.as_ref(false), &event.snapshot, event.created);
        }
        let earlier = rivals.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut field: Vec<&Event> = own.iter().copied().chain(earlier).collect();
        while let Some(change) = winner(key, own, &field, held.get(key)) {
            if !change.same
                && let Err(error) = mirror(&change, &mut batch, &mut effects)
            {
                // Without it, the object is what its other events make of it.
                let culprit = change.event.claim;
                failures.push(Failure::of(&culprit, options.attempts, now, error.to_string()));
                field.retain(|event| event.claim.inbox_id != culprit.inbox_id);
                continue;
            }
            changes.push(change);
            break;
        }
    }
    // Payments are made of several objects: whoever changes one of those holds the payment too.
    if !held.is_empty() {
        batch.payment_keys.append(&mut batch.stored_payment_keys(conn)?);
    }
    objects::lock_payments(conn, &batch.payment_keys)?;
    batch.write(conn)?;
    effects.write(conn, options.org_per_customer, now)?;
    objects::record(conn, &given, &locked, &changes)?;
    claim::finish(conn, events, &failures)?;
    Ok(count(events, &changes, &failures))
}

/// The events of each object, in key order: the order in which locks are taken.
fn by_object(events: &[Event]) -> BTreeMap<ObjectKey, Vec<&Event>> {
    let mut by_object: BTreeMap<ObjectKey, Vec<&Event>> = BTreeMap::new();
    for event in events {
        if let Some(key) = &event.key {
            by_object.entry(key.clone()).or_default().push(event);
        }
    }
    by_object
}

/// The second of the held snapshot, when one of our events stands level with it: the choice then needs all events of then.
fn level_with<'a>(key: &'a ObjectKey, own: &[&Event], held: &Held) -> Option<(&'a ObjectKey, i64)> {
    held.inbox_id?;
    own.iter().any(|event| event.level(key) == (held.standing, held.created)).then_some((key, held.created))
}

/// Chooses among the events of an object's highest standing and latest second; `None` when what is held beats them all.
fn winner<'a>(
    key: &'a ObjectKey,
    own: &[&Event],
    field: &[&'a Event],
    held: Option<&Held>,
) -> Option<Change<'a>> {
    let held = held.filter(|held| held.inbox_id.is_some());
    let top = field.iter().map(|event| event.level(key)).max()?;
    if held.is_some_and(|held| (held.standing, held.created) > top) {
        return None;
    }
    let field: Vec<&Event> = field.iter().copied().filter(|event| event.level(key) == top).collect();
    let candidates: Vec<Candidate<'_>> = field.iter().map(|event| event.candidate()).collect();
    let verdict = order::choose(&key.object, &candidates);
    let event = field[verdict.winner];
    Some(Change {
        key,
        event,
        standing: top.0,
        deleted: event.rank(key).tombstone,
        ambiguous: verdict.ambiguous,
        same: held.is_some_and(|held| held.inbox_id == Some(event.claim.inbox_id))
            && !own.iter().any(|own| own.claim.inbox_id == event.claim.inbox_id),
    })
}

fn mirror(
    change: &Change<'_>,
    batch: &mut MirrorBatch,
    effects: &mut Effects,
) -> Result<(), shape::ShapeError> {
    let object = change.key.as_ref(change.deleted);
    shape::read(&object, &change.event.snapshot, batch)?;
    effects.consider(&object, &change.event.snapshot);
    Ok(())
}

fn count(events: &[Event], changes: &[Change<'_>], failures: &[Failure]) -> Step {
    let len = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let without_object =
        len(events.iter().filter(|event| event.key.is_none() && event.unreadable.is_none()).count());
    let applied = len(changes.iter().filter(|change| !change.same).count());
    let failed = len(failures.len());
    Step {
        applied,
        failed,
        without_object,
        superseded: len(events.len()).saturating_sub(applied + failed + without_object),
        repeated: 0,
    }
}
