//! The transaction that stores a batch: keys claimed, records, summaries and counters written, all or nothing of it.
//!
//! Locks are taken in one order everywhere: the catalogue, keys, tiers, counters of quotas, batteries, daily summaries; within each
//! by key.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use super::burn::{self, Burn};
use super::keys::{Key, claim_as, key, unclaim};
use super::{Options, records, totals};
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::panics;
use crate::quota::Parts;
use crate::quota::admit::{Demand, Refusal, admit};
use crate::quota::counters::{self, Moved};
use crate::quota::limits::Limits;
use crate::quota::messages;
use crate::quota::quantity::Quantity;
use crate::usage::catalog::{self, Catalog};
use crate::usage::event::{Outcome, Rejection};
use crate::usage::resolve::Usage;

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
    pub(super) parts: &'a Parts,
    /// The catalogue that resolved the events.
    pub(super) version: i64,
    /// What leaves all of them out.
    pub(super) options: Options,
    /// Expect that none was stored before: one that was fails the transaction, see [`super::keys::is_repeat`].
    pub(super) all_new: bool,
}

/// Stores events inside the caller's transaction.
///
/// # Errors
/// When the database fails.
pub(super) fn store(
    conn: &mut PgConnection,
    rules: &Rules<'_>,
    usage: &mut [Usage],
) -> Result<Stored, Error> {
    let version = catalog::hold(conn)?;
    let Some((catalog, limits)) = rules.parts.at(version).filter(|_| version == rules.version) else {
        return Ok(Stored::Stale);
    };
    let now = rules.parts.clock.now();
    let mut outcomes = claim_as(conn, usage, rules.all_new)?;
    usage.iter().for_each(|one| panics::provoke("usage-writer", || &*one.event_id));
    let locked = refuse(conn, &catalog, &limits, usage, &mut outcomes, now)?;
    let fails = |outcome: &Outcome| match outcome {
        Outcome::Accepted => false,
        Outcome::Duplicate => rules.options.new_only,
        Outcome::Conflict | Outcome::Rejected(_) => true,
    };
    if rules.options.all_or_nothing && outcomes.iter().any(fails) {
        let ours = outcomes.iter().zip(&*usage).filter(|(outcome, _)| **outcome == Outcome::Accepted);
        unclaim(conn, ours.map(|(_, one)| key(one)).collect())?;
        return Ok(Stored::Done(outcomes));
    }
    let accepted = outcomes.iter().map(|outcome| *outcome == Outcome::Accepted);
    let mut new: Vec<&mut Usage> =
        usage.iter_mut().zip(accepted).filter_map(|(one, accepted)| accepted.then_some(one)).collect();
    let burn = Burn { terms: Some(&limits.battery), locked, depth: Depth::Live, now };
    let moved = write(conn, &mut new, 1, burn)?;
    let orgs: HashMap<i64, &OrgContext> = new.iter().map(|one| (one.org.org_id, &*one.org)).collect();
    messages::thresholds(conn, &catalog, &limits, |org_id| orgs.get(&org_id).copied(), &moved, now)?;
    Ok(Stored::Done(outcomes))
}

/// Has quotas and batteries that refuse usage decide on what is new; what they refuse gives its key back, and so do its repeats.
/// Gives the batteries that are locked then; `None`: nothing may refuse.
fn refuse(
    conn: &mut PgConnection,
    catalog: &Catalog,
    limits: &Limits,
    usage: &[Usage],
    outcomes: &mut [Outcome],
    now: DateTime<Utc>,
) -> Result<Option<Accounts>, Error> {
    let may = |one: &Usage| {
        limits.may_refuse(&one.org) || limits.battery_may_refuse(&one.org) && !burn::units(one).is_zero()
    };
    if !usage.iter().any(may) {
        return Ok(None);
    }
    let new: Vec<usize> = (0..usage.len()).filter(|place| outcomes[*place] == Outcome::Accepted).collect();
    let counters: Vec<Vec<_>> = new.iter().map(|place| totals::counted(&usage[*place]).collect()).collect();
    let demand = |(place, counters): (&usize, _)| {
        let one = &usage[*place];
        Demand { org: &one.org, subject: one.subject.as_deref(), counters, units: burn::units(one) }
    };
    let demands: Vec<Demand<'_>> = new.iter().zip(counters.iter().map(Vec::as_slice)).map(demand).collect();
    let (verdicts, accounts) = admit(conn, catalog, limits, &demands, now)?;
    let refused: HashMap<Key, Rejection> = new
        .iter()
        .zip(verdicts)
        .filter_map(|(place, verdict)| Some((key(&usage[*place]), exceeded(&verdict?))))
        .collect();
    for (one, outcome) in usage.iter().zip(outcomes) {
        if let Some(rejection) = refused.get(&key(one)) {
            *outcome = Outcome::Rejected(rejection.clone());
        }
    }
    unclaim(conn, refused.into_keys().collect())?;
    Ok(Some(accounts))
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

/// Writes what was claimed (or takes back what was stored, with `sign` -1): prices, counters, records, summaries. Tells which
/// counters moved.
///
/// # Errors
/// When the database fails.
pub(in crate::usage) fn write(
    conn: &mut PgConnection,
    new: &mut [&mut Usage],
    sign: i64,
    burn: Burn<'_>,
) -> Result<Vec<Moved>, Error> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let batch = burn::batch(burn.now);
    totals::price_tiers(conn, new)?;
    let new: Vec<&Usage> = new.iter().map(|one| &**one).collect();
    // Records first: nobody waits for them, while counters and days stay locked until the commit.
    records::copy(conn, &new, batch)?;
    let moved = counters::add(conn, &totals::counter_changes(&new))?;
    burn.post(conn, &new, batch)?;
    totals::add_days(conn, &new, sign)?;
    Ok(moved)
}

/// Writes records and summaries alone, for a caller who sees to prices, counters and batteries.
///
/// # Errors
/// When the database fails.
pub(crate) fn write_rows(
    conn: &mut PgConnection,
    new: &[&Usage],
    sign: i64,
    batch: i64,
) -> Result<(), Error> {
    if new.is_empty() {
        return Ok(());
    }
    records::copy(conn, new, batch)?;
    totals::add_days(conn, new, sign)
}
