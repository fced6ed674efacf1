//! The transaction that stores a batch: keys claimed, records, summaries and counters written, all or nothing of it. Owns the
//! rows of `usage_keys`.
//!
//! Locks are taken in one order everywhere: the catalogue, keys, tiers, counters of quotas, daily summaries; within each by key.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz, Untyped, Uuid as SqlUuid};
use uuid::Uuid;

use super::{Options, records, totals};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::quota::counters;
use crate::usage::catalog;
use crate::usage::event::Outcome;
use crate::usage::resolve::Usage;

/// What storing came to.
#[derive(Debug)]
pub(super) enum Stored {
    /// One outcome per event, in their order.
    Done(Vec<Outcome>),
    /// The events were resolved by an older catalogue than the one in force; nothing was stored.
    Stale,
}

type Key = (i64, Uuid);

statement!(Claim -> (BigInt, SqlUuid): "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, event_key");
statement!(Contents -> (BigInt, SqlUuid, BigInt): "SELECT k.org_id, k.event_key, k.content FROM unnest(?, ?) AS t (o, e) \
    JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e");
statement!(Unclaim -> Untyped: "DELETE FROM usage_keys k USING unnest(?, ?) AS t (o, e) WHERE k.org_id = t.o AND k.event_key = t.e");

/// Stores events inside the caller's transaction, `version` being the catalogue that resolved them. With
/// `all_or_nothing` a conflict leaves all of them out, with `new_only` a duplicate too.
///
/// # Errors
/// When the database fails.
pub(super) fn store(
    conn: &mut PgConnection,
    version: i64,
    usage: &mut [Usage],
    options: Options,
) -> Result<Stored, Error> {
    if catalog::hold(conn)? != version {
        return Ok(Stored::Stale);
    }
    let (firsts, places) = distinct(usage);
    let claims = claim(conn, usage, &firsts)?;
    let outcomes: Vec<Outcome> = places
        .iter()
        .zip(&*usage)
        .enumerate()
        .map(|(place, (first, one))| match claims.get(*first) {
            // Of equal keys in a batch the first is stored.
            Claimed::Ours if place == firsts[*first] => Outcome::Accepted,
            Claimed::Ours if one.content == usage[firsts[*first]].content => Outcome::Duplicate,
            Claimed::Theirs(content) if one.content == content => Outcome::Duplicate,
            Claimed::Ours | Claimed::Theirs(_) => Outcome::Conflict,
        })
        .collect();
    let unwanted = |outcome: &Outcome| {
        *outcome == Outcome::Conflict || (options.new_only && *outcome == Outcome::Duplicate)
    };
    if options.all_or_nothing && outcomes.iter().any(unwanted) {
        let ours: Vec<Key> = (0..firsts.len())
            .filter(|first| claims.get(*first) == Claimed::Ours)
            .map(|first| key(&usage[firsts[first]]))
            .collect();
        unclaim(conn, ours)?;
        return Ok(Stored::Done(outcomes));
    }
    let mut new: Vec<&mut Usage> = usage
        .iter_mut()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::Accepted)
        .map(|(one, _)| one)
        .collect();
    write(conn, &mut new, 1)?;
    Ok(Stored::Done(outcomes))
}

/// Writes what was claimed (or takes back what was stored, with `sign` -1): prices, counters, records, summaries.
///
/// # Errors
/// When the database fails.
pub(in crate::usage) fn write(
    conn: &mut PgConnection,
    new: &mut [&mut Usage],
    sign: i64,
) -> Result<(), Error> {
    if new.is_empty() {
        return Ok(());
    }
    totals::price_tiers(conn, new)?;
    let new: Vec<&Usage> = new.iter().map(|one| &**one).collect();
    counters::add(conn, &totals::counter_changes(&new))?;
    records::copy(conn, &new)?;
    totals::add_days(conn, &new, sign)
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

fn key(usage: &Usage) -> Key {
    (usage.org_id, usage.event_key)
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

fn claim(conn: &mut PgConnection, usage: &[Usage], firsts: &[usize]) -> Result<Claims, Error> {
    let claimed = Prepared::<Claim>::new()
        .bind::<BigInt, _>(firsts.iter().map(|place| usage[*place].org_id).collect())
        .bind::<SqlUuid, _>(firsts.iter().map(|place| usage[*place].event_key).collect())
        .bind::<Timestamptz, _>(firsts.iter().map(|place| usage[*place].occurred_at).collect())
        .bind::<BigInt, _>(firsts.iter().map(|place| usage[*place].content).collect())
        .load::<Key>(conn)?;
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

fn unclaim(conn: &mut PgConnection, keys: Vec<Key>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    Prepared::<Unclaim>::new()
        .bind::<BigInt, _>(keys.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(keys.iter().map(|key| key.1).collect())
        .execute(conn)?;
    Ok(())
}
