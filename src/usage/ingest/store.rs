//! The transaction that stores a batch: keys claimed, records, summaries and counters written, all or nothing
//! of it.
//!
//! Locks are taken in one order everywhere: the catalogue, keys, tiers, levels, counters of quotas,
//! batteries, daily summaries; within each by key.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::Options;
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::{self, Catalog};
use crate::metering::counters::CounterKey;
use crate::metering::event::{Outcome, Rejection};
use crate::metering::levels::Levels;
use crate::metering::posting::{self, Burn, Key, Tiers, claim_as, key, unclaim, write};
use crate::metering::resolve::Usage;
use crate::panics;
use crate::quantity::Quantity;
use crate::quota::Rulebook;
use crate::quota::enforce::{Course, Demand, Refusal, admit};
use crate::quota::limits::Limits;
use crate::quota::thresholds;

/// What storing came to.
#[derive(Debug)]
pub(super) enum Stored {
    /// One outcome per event, in their order.
    Done(Vec<Outcome>),
    /// The events were resolved by an older catalogue than the one in force; nothing was stored.
    Stale,
    /// Whether they were stored could not be found out.
    Unknown,
}

/// What events are counted and limited by.
pub(super) struct Rules<'a> {
    /// What is held in memory.
    pub(super) parts: &'a Rulebook,
    /// The catalogue that resolved the events.
    pub(super) version: i64,
    /// What leaves all of them out.
    pub(super) options: Options,
    /// Expect that none was stored before: one that was fails the transaction, see
    /// [`posting::is_repeat`].
    pub(super) all_new: bool,
}

/// Stores events inside the caller's transaction.
pub(super) fn store(
    conn: &mut PgConnection,
    rules: &Rules<'_>,
    usage: &mut [Usage],
) -> Result<Stored, Error> {
    let version = catalog::lock_shared(conn)?;
    let Some((catalog, limits)) = rules.parts.at(version).filter(|_| version == rules.version) else {
        return Ok(Stored::Stale);
    };
    let now = rules.parts.clock.now();
    let mut outcomes = claim_as(conn, usage, rules.all_new)?;
    usage.iter().for_each(|one| panics::panic_if_test_asks("usage-writer", || &*one.event_id));
    let claimed = accepted(&outcomes);
    let mut tiers = Tiers::raise(conn, chosen(usage, &claimed))?;
    let mut levels = Levels::lock(conn, chosen(usage, &claimed))?;
    let (mut refused, locked) = refuse(conn, (&catalog, &limits), usage, &outcomes, &mut levels, now)?;
    price(&mut tiers, usage, &outcomes, &mut refused);
    level(&mut levels, usage, &outcomes, &mut refused);
    reject(conn, usage, &mut outcomes, refused)?;
    let fails = |outcome: &Outcome| match outcome {
        Outcome::Accepted => false,
        Outcome::Duplicate => rules.options.new_only,
        Outcome::Conflict | Outcome::Rejected(_) => true,
    };
    if rules.options.all_or_nothing && outcomes.iter().any(fails) {
        unclaim(conn, chosen(usage, &accepted(&outcomes)).map(key).collect())?;
        Tiers::lower(conn, chosen(usage, &claimed))?;
        return Ok(Stored::Done(outcomes));
    }
    let stored = accepted(&outcomes);
    let left_out: Vec<bool> =
        claimed.iter().zip(&stored).map(|(claimed, stored)| claimed & !stored).collect();
    Tiers::lower(conn, chosen(usage, &left_out))?;
    let new: Vec<&Usage> = chosen(usage, &stored).collect();
    let burn = Burn { terms: Some(&limits.battery), locked, depth: Depth::Live, now };
    let moved = write(conn, &new, 1, burn)?;
    levels.write(conn)?;
    let orgs: HashMap<i64, &OrgContext> = new.iter().map(|one| (one.org.org_id, &*one.org)).collect();
    thresholds::thresholds(conn, &catalog, &limits, |org_id| orgs.get(&org_id).copied(), &moved, now)?;
    Ok(Stored::Done(outcomes))
}

/// Which events are accepted so far.
fn accepted(outcomes: &[Outcome]) -> Vec<bool> {
    outcomes.iter().map(|outcome| *outcome == Outcome::Accepted).collect()
}

/// The events that are marked.
fn chosen<'a>(usage: &'a [Usage], marked: &[bool]) -> impl Iterator<Item = &'a Usage> {
    usage.iter().zip(marked).filter_map(|(one, marked)| marked.then_some(one))
}

/// Events that are not stored after all, each with the reason.
type Refused = HashMap<Key, Rejection>;

/// Prices what depends on the month's quantity, and refuses what costs too much.
fn price(tiers: &mut Tiers, usage: &mut [Usage], outcomes: &[Outcome], refused: &mut Refused) {
    for (one, outcome) in usage.iter_mut().zip(outcomes) {
        if *outcome == Outcome::Accepted
            && !refused.contains_key(&key(one))
            && let Err(rejection) = tiers.price(one)
        {
            refused.insert(key(one), rejection);
        }
    }
}

/// Moves the levels by what is not refused, and refuses what makes one too large.
fn level(levels: &mut Levels, usage: &mut [Usage], outcomes: &[Outcome], refused: &mut Refused) {
    if levels.is_empty() {
        return;
    }
    levels.reset();
    for (one, outcome) in usage.iter_mut().zip(outcomes) {
        if *outcome == Outcome::Accepted
            && !refused.contains_key(&key(one))
            && let Err(rejection) = levels.take(one)
        {
            refused.insert(key(one), rejection);
        }
    }
}

/// Levels hang on what was admitted before.
struct Admitting<'a> {
    levels: &'a mut Levels,
    usage: &'a [Usage],
    new: &'a [usize],
}

impl Course for Admitting<'_> {
    fn counters(&self, demand: usize) -> Option<Vec<(CounterKey, Decimal)>> {
        self.levels.counted(&self.usage[self.new[demand]])
    }

    fn admitted(&mut self, demand: usize) {
        if !self.levels.is_empty() {
            // One that makes a level too large is refused afterwards.
            let _ = self.levels.take(&mut self.usage[self.new[demand]].clone());
        }
    }
}

/// Rejects refused events and their repeats in the batch; their keys are given back.
fn reject(
    conn: &mut PgConnection,
    usage: &[Usage],
    outcomes: &mut [Outcome],
    refused: Refused,
) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    for (one, outcome) in usage.iter().zip(outcomes) {
        if let Some(rejection) = refused.get(&key(one)) {
            *outcome = Outcome::Rejected(rejection.clone());
        }
    }
    unclaim(conn, refused.into_keys().collect())
}

/// Has quotas and batteries that refuse usage decide on what is new: what they refuse, and the batteries that
/// are locked then; `None`: nothing may refuse.
fn refuse(
    conn: &mut PgConnection,
    (catalog, limits): (&Catalog, &Limits),
    usage: &[Usage],
    outcomes: &[Outcome],
    levels: &mut Levels,
    now: DateTime<Utc>,
) -> Result<(Refused, Option<Accounts>), Error> {
    let may = |one: &Usage| {
        limits.may_refuse(&one.org) || limits.battery_may_refuse(&one.org) && !posting::units(one).is_zero()
    };
    if !usage.iter().any(may) {
        return Ok((Refused::new(), None));
    }
    let new: Vec<usize> = (0..usage.len()).filter(|place| outcomes[*place] == Outcome::Accepted).collect();
    let counters: Vec<Vec<_>> = new.iter().map(|place| posting::counted(&usage[*place]).collect()).collect();
    let demand = |(place, counters): (&usize, _)| {
        let one = &usage[*place];
        let units = posting::units(one).rounded_up().unwrap_or(Decimal::MAX);
        Demand { org: &one.org, subject: one.subject.as_deref(), counters, units }
    };
    let demands: Vec<Demand<'_>> = new.iter().zip(counters.iter().map(Vec::as_slice)).map(demand).collect();
    let mut course = Admitting { levels, usage, new: &new };
    let (verdicts, accounts) = admit(conn, (catalog, limits), &demands, &mut course, now)?;
    let refused = new
        .iter()
        .zip(verdicts)
        .filter_map(|(place, verdict)| Some((key(&usage[*place]), exceeded(&verdict?))))
        .collect();
    Ok((refused, Some(accounts)))
}

fn exceeded(refusal: &Refusal) -> Rejection {
    let standing = match refusal {
        Refusal::Quota(standing) => standing,
        Refusal::Battery(battery) => {
            return Rejection::new("data", "battery_exhausted", battery.to_string());
        }
    };
    let quantity = |quantity: &Option<Quantity>| {
        quantity.as_ref().map_or_else(|| "none".to_owned(), |q| q.0.to_string())
    };
    let detail = format!(
        "the quota on {} is used up: limit {}, used {}, reserved {}, remaining {}, resets at {}",
        standing.meter,
        quantity(&standing.limit),
        standing.used.0,
        standing.reserved.0,
        quantity(&standing.remaining),
        standing.resets_at.to_rfc3339()
    );
    Rejection::new("data", "quota_exceeded", detail)
}
