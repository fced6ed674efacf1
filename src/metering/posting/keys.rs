//! The claims of events' keys: what makes an event count once. Owns the rows of `usage_keys`.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz, Untyped, Uuid as SqlUuid};
use uuid::Uuid;

use super::binary;
use super::retold::retold;
use crate::db::prepared::{Prepared, StatementText as Sql, statement};
use crate::error::Error;
use crate::metering::event::Outcome;
use crate::metering::resolve::Usage;
use crate::schema::usage_keys;

/// COPY stores many rows of a page at once and costs a fifth less, but PostgreSQL plans it each time.
const COPIED_FROM: usize = 500;

/// Org and digest of an event.
pub(crate) type Key = (i64, Uuid);

statement!(Claim -> (BigInt, SqlUuid): "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) \
    SELECT * FROM unnest(?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING org_id, event_key");
// Without ON CONFLICT a key is looked up once instead of twice, and costs half.
statement!(InsertNew -> Untyped: "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) SELECT *
    FROM unnest(?, ?, ?, ?)");
statement!(Contents -> (BigInt, SqlUuid, BigInt): "SELECT k.org_id, k.event_key, k.content \
    FROM unnest(?, ?) AS t (o, e) \
    JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e");
statement!(Unclaim -> Untyped: "DELETE FROM usage_keys k USING unnest(?, ?) AS t (o, e)
    WHERE k.org_id = t.o AND k.event_key = t.e");

/// Whether a transaction that expected new events alone met one that was stored before. Nothing was stored.
pub(crate) fn is_repeat(error: &Error) -> bool {
    error.constraint() == Some("usage_keys_pkey")
}

/// Claims the keys of events, and tells which are new (`Accepted`). Of equal keys the first is.
pub(crate) fn claim(conn: &mut PgConnection, usage: &[Usage]) -> Result<Vec<Outcome>, Error> {
    claim_as(conn, usage, false)
}

pub(crate) fn claim_as(
    conn: &mut PgConnection,
    usage: &[Usage],
    all_new: bool,
) -> Result<Vec<Outcome>, Error> {
    let (firsts, places) = distinct(usage);
    let claims = if all_new {
        insert_new(conn, usage, &firsts)?;
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
    let mut outcomes: Vec<Outcome> = places.iter().zip(usage).enumerate().map(outcome).collect();
    let doubted = |place: &usize| {
        outcomes[*place] == Outcome::Conflict && matches!(claims.get(places[*place]), Claimed::Theirs(_))
    };
    let doubted: Vec<usize> = (0..usage.len()).filter(doubted).collect();
    for place in retold(conn, usage, &doubted)? {
        outcomes[place] = Outcome::Duplicate;
    }
    Ok(outcomes)
}

/// The places of the first event of each key, in the order of the keys; and for each event which of those is
/// its own.
fn distinct(usage: &[Usage]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<(Key, usize)> = usage.iter().map(key).zip(0..).collect();
    order.sort_unstable();
    let mut firsts: Vec<usize> = Vec::with_capacity(usage.len());
    let mut places = vec![0; usage.len()];
    let mut last = None;
    for (key, place) in order {
        if last != Some(key) {
            firsts.push(place);
            last = Some(key);
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

/// Stores keys that nobody stored before; fails where somebody did, see [`is_repeat`].
fn insert_new(conn: &mut PgConnection, usage: &[Usage], firsts: &[usize]) -> Result<(), Error> {
    if firsts.len() < COPIED_FROM {
        columns::<InsertNew>(usage, firsts).execute(conn)?;
        return Ok(());
    }
    let row = |out: &mut Vec<u8>, one: &Usage| {
        out.extend_from_slice(&4_i16.to_be_bytes());
        binary::field(out, &one.org.org_id.to_be_bytes());
        binary::field(out, one.event_key.as_bytes());
        binary::field(out, &binary::micros(one.occurred_at).to_be_bytes());
        binary::field(out, &one.content.to_be_bytes());
    };
    let rows = || firsts.iter().map(|place| &usage[*place]);
    binary::copy!(conn, usage_keys::table, usage_keys::table, rows(), row)?;
    Ok(())
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
