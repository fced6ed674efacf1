//! The transaction that stores a batch: keys claimed, records, summaries and counters written, all or nothing of it. Owns the
//! rows of `usage_keys`.
//!
//! Locks are taken in one order everywhere: the catalogue, keys, tiers, counters of quotas, batteries, daily summaries; within each
//! by key.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz, Untyped, Uuid as SqlUuid};
use uuid::Uuid;

use super::burn::{self, Burn};
use super::{Options, records, totals};
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::db::prepared::{Prepared, Text as Sql, statement};
use crate::error::Error;
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
}

/// Org and digest of an event.
pub(crate) type Key = (i64, Uuid);

statement!(Claim -> (BigInt, SqlUuid): "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, event_key");
// Without ON CONFLICT a key is looked up once instead of twice, and costs half.
statement!(ClaimNew -> Untyped: "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) SELECT * FROM unnest(?, ?, ?, ?)");
statement!(Contents -> (BigInt, SqlUuid, BigInt): "SELECT k.org_id, k.event_key, k.content FROM unnest(?, ?) AS t (o, e) \
    JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e");
statement!(Unclaim -> Untyped: "DELETE FROM usage_keys k USING unnest(?, ?) AS t (o, e) WHERE k.org_id = t.o AND k.event_key = t.e");

/// What events are counted and limited by.
pub(super) struct Rules<'a> {
    /// What is held in memory.
    pub(super) parts: &'a Parts,
    /// The catalogue that resolved the events.
    pub(super) version: i64,
    /// What leaves all of them out.
    pub(super) options: Options,
    /// Expect that none was stored before: one that was fails the transaction, see [`is_repeat`].
    pub(super) all_new: bool,
}

/// Whether a transaction that expected new events alone met one that was stored before. Nothing was stored.
pub(super) fn is_repeat(error: &Error) -> bool {
    error.constraint() == Some("usage_keys_pkey")
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

/// Claims the keys of events, and tells which are new (`Accepted`). Of equal keys the first is.
///
/// # Errors
/// When the database fails.
pub(crate) fn claim(conn: &mut PgConnection, usage: &[Usage]) -> Result<Vec<Outcome>, Error> {
    claim_as(conn, usage, false)
}

fn claim_as(conn: &mut PgConnection, usage: &[Usage], all_new: bool) -> Result<Vec<Outcome>, Error> {
    let (firsts, places) = distinct(usage);
    let claims = if all_new {
        columns::<ClaimNew>(usage, &firsts).execute(conn)?;
        Claims(Vec::new())
    } else {
        claim_keys(conn, usage, &firsts)?
    };
    let outcome = |(place, (first, one)): (usize, (&usize, &Usage))| match claims.get(*first) {
        Claimed::Ours if place == firsts[*first] => Outcome::Accepted,
        Claimed::Ours if one.content == usage[firsts[*first]].content => Outcome::Duplicate,
        Claimed::Theirs(content) if one.content == content => Outcome::Duplicate,
        Claimed::Ours | Claimed::Theirs(_) => Outcome::Conflict,
    };
    Ok(places.iter().zip(usage).enumerate().map(outcome).collect())
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

/// The places of the first event of each key, in the order of the keys; and for each event which of those is its own.
fn distinct(usage: &[Usage]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..usage.len()).collect();
    order.sort_by_key(|place| (key(&usage[*place]), *place));
    let mut firsts: Vec<usize> = Vec::with_capacity(usage.len());
    let mut places = vec![0; usage.len()];
    for place in order {
        if firsts.last().is_none_or(|first| key(&usage[*first]) != key(&usage[place])) {
            firsts.push(place);
        }
        places[place] = firsts.len() - 1;
    }
    (firsts, places)
}

/// The key of an event.
pub(crate) fn key(usage: &Usage) -> Key {
    (usage.org.org_id, usage.event_key)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed {
    /// The key is ours.
    Ours,
    /// It was stored before, with this content.
    Theirs(i64),
}

/// Which keys could be claimed; empty when all were.
struct Claims(Vec<Claimed>);

impl Claims {
    fn get(&self, first: usize) -> Claimed {
        self.0.get(first).copied().unwrap_or(Claimed::Ours)
    }
}

/// The columns of the keys to be claimed.
fn columns<'a, Q: Sql>(usage: &[Usage], firsts: &[usize]) -> Prepared<'a, Q> {
    Prepared::<Q>::new()
        .bind::<BigInt, _>(firsts.iter().map(|place| usage[*place].org.org_id).collect())
        .bind::<SqlUuid, _>(firsts.iter().map(|place| usage[*place].event_key).collect())
        .bind::<Timestamptz, _>(firsts.iter().map(|place| usage[*place].occurred_at).collect())
        .bind::<BigInt, _>(firsts.iter().map(|place| usage[*place].content).collect())
}

fn claim_keys(conn: &mut PgConnection, usage: &[Usage], firsts: &[usize]) -> Result<Claims, Error> {
    let claimed = columns::<Claim>(usage, firsts).load::<Key>(conn)?;
    if claimed.len() == firsts.len() {
        return Ok(Claims(Vec::new()));
    }
    // What was claimed comes back in the order in which it was sent.
    let mut ours = claimed.into_iter().peekable();
    let taken: Vec<Key> =
        firsts.iter().map(|place| key(&usage[*place])).filter(|key| ours.next_if_eq(key).is_none()).collect();
    assert!(ours.next().is_none(), "claims come back in the order of their keys");
    let stored: HashMap<Key, i64> = Prepared::<Contents>::new()
        .bind::<BigInt, _>(taken.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(taken.iter().map(|key| key.1).collect())
        .load::<(i64, Uuid, i64)>(conn)?
        .into_iter()
        .map(|(org_id, event_key, content)| ((org_id, event_key), content))
        .collect();
    if stored.len() != taken.len() {
        return Err(Error::Internal("a claimed usage key vanished".to_owned()));
    }
    let state = |place: &usize| {
        stored.get(&key(&usage[*place])).map_or(Claimed::Ours, |content| Claimed::Theirs(*content))
    };
    Ok(Claims(firsts.iter().map(state).collect()))
}

/// Gives keys back.
///
/// # Errors
/// When the database fails.
pub(crate) fn unclaim(conn: &mut PgConnection, keys: Vec<Key>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    Prepared::<Unclaim>::new()
        .bind::<BigInt, _>(keys.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(keys.iter().map(|key| key.1).collect())
        .execute(conn)?;
    Ok(())
}
