//! Claims the keys of events, so that an event counts once. Owns the rows of `usage_keys`.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz, Untyped, Uuid as SqlUuid};
use uuid::Uuid;

use super::binary;
use super::repeats::find_repeats;
use crate::db::prepared::{Prepared, StatementText as Sql, statement};
use crate::error::Error;
use crate::metering::event::Outcome;
use crate::metering::usage::Usage;
use crate::schema::usage_keys;

/// From so many keys on COPY is used. It costs a fifth less for many rows, but PostgreSQL plans it each time.
const COPY_FROM: usize = 500;

/// An org's row id and an event's key.
pub(crate) type Key = (i64, Uuid);

statement!(ClaimKeys -> (BigInt, SqlUuid): "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, event_key");
// Without ON CONFLICT a key is looked up once instead of twice, and costs half as much.
statement!(InsertNewKeys -> Untyped: "INSERT INTO usage_keys (org_id, event_key, occurred_at, content)
    SELECT * FROM unnest(?, ?, ?, ?)");
statement!(ReadContents -> (BigInt, SqlUuid, BigInt): "SELECT k.org_id, k.event_key, k.content \
    FROM unnest(?, ?) AS t (o, e) \
    JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e");
statement!(DeleteKeys -> Untyped: "DELETE FROM usage_keys k USING unnest(?, ?) AS t (o, e)
    WHERE k.org_id = t.o AND k.event_key = t.e");

/// Whether [`claim_new`] failed because one of the events was stored before. Nothing was stored.
pub(crate) fn is_repeat(error: &Error) -> bool {
    error.constraint() == Some("usage_keys_pkey")
}

/// Claims the keys of events. New events are `Accepted`; of equal keys the first one is.
pub(crate) fn claim(conn: &mut PgConnection, usage: &[&Usage]) -> Result<Vec<Outcome>, Error> {
    let (firsts, first_of) = distinct(usage);
    let claims = claim_keys(conn, usage, &firsts)?;
    outcomes(conn, usage, &firsts, &first_of, &claims)
}

/// As [`claim`], for events that are expected to be new. Fails when one was stored before: [`is_repeat`].
pub(crate) fn claim_new(conn: &mut PgConnection, usage: &[&Usage]) -> Result<Vec<Outcome>, Error> {
    let (firsts, first_of) = distinct(usage);
    insert_new(conn, usage, &firsts)?;
    outcomes(conn, usage, &firsts, &first_of, &Claims(Vec::new()))
}

fn outcomes(
    conn: &mut PgConnection,
    usage: &[&Usage],
    firsts: &[usize],
    first_of: &[usize],
    claims: &Claims,
) -> Result<Vec<Outcome>, Error> {
    let outcome = |(index, (first, event)): (usize, (&usize, &&Usage))| match claims.get(*first) {
        Claimed::Ours if index == firsts[*first] => Outcome::Accepted,
        Claimed::Ours if event.content == usage[firsts[*first]].content => Outcome::Duplicate,
        Claimed::Theirs(content) if event.content == content => Outcome::Duplicate,
        Claimed::Ours | Claimed::Theirs(_) => Outcome::Conflict,
    };
    let mut outcomes: Vec<Outcome> = first_of.iter().zip(usage).enumerate().map(outcome).collect();
    let is_in_doubt = |index: &usize| {
        outcomes[*index] == Outcome::Conflict && matches!(claims.get(first_of[*index]), Claimed::Theirs(_))
    };
    let in_doubt: Vec<usize> = (0..usage.len()).filter(is_in_doubt).collect();
    for index in find_repeats(conn, usage, &in_doubt)? {
        outcomes[index] = Outcome::Duplicate;
    }
    Ok(outcomes)
}

/// The indexes of the first event of each key, in the order of the keys; and for each event the index in that
/// list of its key.
fn distinct(usage: &[&Usage]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<(Key, usize)> = usage.iter().map(|usage| key(usage)).zip(0..).collect();
    order.sort_unstable();
    let mut firsts: Vec<usize> = Vec::with_capacity(usage.len());
    let mut first_of = vec![0; usage.len()];
    let mut last = None;
    for (key, index) in order {
        if last != Some(key) {
            firsts.push(index);
            last = Some(key);
        }
        first_of[index] = firsts.len() - 1;
    }
    (firsts, first_of)
}

/// The key of an event.
pub(crate) fn key(usage: &Usage) -> Key {
    (usage.org.org_id, usage.event_key)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed {
    /// This transaction has claimed the key.
    Ours,
    /// An event was stored before, with this content.
    Theirs(i64),
}

/// By the index in `firsts`; empty: all keys are ours.
struct Claims(Vec<Claimed>);

impl Claims {
    fn get(&self, first: usize) -> Claimed {
        self.0.get(first).copied().unwrap_or(Claimed::Ours)
    }
}

/// Binds the columns of new keys.
fn bind_rows<'a, Q: Sql>(usage: &[&Usage], firsts: &[usize]) -> Prepared<'a, Q> {
    Prepared::<Q>::new()
        .bind::<BigInt, _>(firsts.iter().map(|index| usage[*index].org.org_id).collect())
        .bind::<SqlUuid, _>(firsts.iter().map(|index| usage[*index].event_key).collect())
        .bind::<Timestamptz, _>(firsts.iter().map(|index| usage[*index].occurred_at).collect())
        .bind::<BigInt, _>(firsts.iter().map(|index| usage[*index].content).collect())
}

/// Inserts keys; fails when one is there already.
fn insert_new(conn: &mut PgConnection, usage: &[&Usage], firsts: &[usize]) -> Result<(), Error> {
    if firsts.len() < COPY_FROM {
        bind_rows::<InsertNewKeys>(usage, firsts).execute(conn)?;
        return Ok(());
    }
    let row = |out: &mut Vec<u8>, usage: &Usage| {
        out.extend_from_slice(&4_i16.to_be_bytes());
        binary::field(out, &usage.org.org_id.to_be_bytes());
        binary::field(out, usage.event_key.as_bytes());
        binary::field(out, &binary::micros(usage.occurred_at).to_be_bytes());
        binary::field(out, &usage.content.to_be_bytes());
    };
    let rows = || firsts.iter().map(|index| usage[*index]);
    binary::copy!(conn, usage_keys::table, usage_keys::table, rows(), row)?;
    Ok(())
}

fn claim_keys(conn: &mut PgConnection, usage: &[&Usage], firsts: &[usize]) -> Result<Claims, Error> {
    let claimed = bind_rows::<ClaimKeys>(usage, firsts).load::<Key>(conn)?;
    if claimed.len() == firsts.len() {
        return Ok(Claims(Vec::new()));
    }
    // Claimed keys come back in the order in which they were sent.
    let mut ours = claimed.into_iter().peekable();
    let taken: Vec<Key> =
        firsts.iter().map(|index| key(usage[*index])).filter(|key| ours.next_if_eq(key).is_none()).collect();
    assert!(ours.next().is_none(), "claims come back in the order of their keys");
    let stored: HashMap<Key, i64> = Prepared::<ReadContents>::new()
        .bind::<BigInt, _>(taken.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(taken.iter().map(|key| key.1).collect())
        .load::<(i64, Uuid, i64)>(conn)?
        .into_iter()
        .map(|(org_id, event_key, content)| ((org_id, event_key), content))
        .collect();
    if stored.len() != taken.len() {
        return Err(Error::Internal("a claimed usage key vanished".to_owned()));
    }
    let state = |index: &usize| {
        stored.get(&key(usage[*index])).map_or(Claimed::Ours, |content| Claimed::Theirs(*content))
    };
    Ok(Claims(firsts.iter().map(state).collect()))
}

/// Gives claimed keys back.
pub(crate) fn unclaim(conn: &mut PgConnection, keys: Vec<Key>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    Prepared::<DeleteKeys>::new()
        .bind::<BigInt, _>(keys.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(keys.iter().map(|key| key.1).collect())
        .execute(conn)?;
    Ok(())
}
