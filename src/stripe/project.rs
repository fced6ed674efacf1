//! The projection: stored Stripe events become the state of their objects.
//!
//! One transaction takes a batch of waiting events, locks the objects that they are about in key order, lets [`order`] choose
//! each object's winning snapshot, writes the mirrors and effects of those that changed, and takes the events off the queue.
//! Any number of workers on any number of replicas may do so at once: the queue is claimed with SKIP LOCKED, and an object's
//! lock makes its events meet one after another. Order does not matter, as the choice is a function of the set.
//!
//! An event that fails is tried again later and at last quarantined; its neighbours and other events of its object go on.

mod claim;
mod objects;

use std::cell::RefCell;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;

use self::claim::{Claim, Event};
use self::objects::{Held, ObjectKey};
use super::effects::Effects;
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
}

impl Step {
    /// Events taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.applied + self.superseded + self.without_object + self.failed
    }
}

/// Projects the next events; takes none when none waits.
///
/// # Errors
/// Only when the database is away or locks were lost: nothing has changed then, and the next call tries again.
pub fn step(conn: &mut PgConnection, options: &Options, now: DateTime<Utc>) -> Result<Step, Error> {
    match attempt(conn, options, options.batch, now) {
        Err(Attempt { error, .. }) if error.is_transient() => Err(error),
        Err(Attempt { claimed, .. }) => one_by_one(conn, options, &claimed, now),
        Ok(step) => Ok(step),
    }
}

/// A batch that failed as a whole: its events go alone, so that only the culprit fails.
fn one_by_one(
    conn: &mut PgConnection,
    options: &Options,
    claimed: &[Claim],
    now: DateTime<Utc>,
) -> Result<Step, Error> {
    let mut all = Step::default();
    for claim in claimed {
        let step = match attempt_one(conn, options, claim.inbox_id, now) {
            Ok(step) => step,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let failure = Failure::of(claim, options.attempts, now, error.to_string());
                claim::record_failures(conn, &[failure])?;
                Step { failed: 1, ..Step::default() }
            }
        };
        all.applied += step.applied;
        all.superseded += step.superseded;
        all.without_object += step.without_object;
        all.failed += step.failed;
    }
    Ok(all)
}

struct Attempt {
    error: Error,
    claimed: Vec<Claim>,
}

fn attempt(
    conn: &mut PgConnection,
    options: &Options,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Step, Attempt> {
    let claimed = RefCell::new(Vec::new());
    let result = conn.transaction(|conn| {
        let events = claim::next(conn, limit, now)?;
        *claimed.borrow_mut() = events.iter().map(|event| event.claim).collect();
        project(conn, options, &events, now)
    });
    result.map_err(|error| Attempt { error, claimed: claimed.into_inner() })
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
    let held = objects::lock(conn, by_object.keys())?;
    let level: Vec<(&ObjectKey, i64)> =
        by_object.iter().filter_map(|(key, own)| level_with(key, own, held.get(key)?)).collect();
    let rivals = claim::rivals(conn, &level)?;

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
    batch.payment_keys.append(&mut batch.stored_payment_keys(conn)?);
    objects::lock_payments(conn, &batch.payment_keys)?;
    batch.write(conn)?;
    effects.write(conn, options.org_per_customer, now)?;
    objects::record(conn, &changes)?;
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
    }
}
