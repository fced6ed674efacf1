//! `stripe_objects`: the winner of each object, and the locks under which it changes.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text, Untyped};

use super::object::{Choice, ObjectKey, ProjectedObject, StoredWinner};
use crate::billing::payments::PaymentKey;
use crate::db::prepared::{Prepared, StatementText as Sql, statement};
use crate::db::temporary_tables::on_shared_tables;
use crate::error::Error;
use crate::stripe::order::GroupKey;

/// The row to store for an object; by default, for an object without a winner. Its `inbox_id` names the row
/// that has the winner's body, and the other columns are the winner's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WinnerRow {
    inbox_id: Option<i64>,
    standing: i16,
    created: i64,
    ambiguous: bool,
    deleted: bool,
}

impl From<Choice<'_>> for WinnerRow {
    fn from(choice: Choice<'_>) -> Self {
        let rank = choice.event.rank;
        Self {
            inbox_id: Some(choice.event.content_id),
            standing: rank.standing,
            created: rank.created,
            ambiguous: choice.ambiguous,
            deleted: rank.deleted,
        }
    }
}

statement!(Insert -> (Text, Bool, Text, Text): "INSERT INTO stripe_objects (account, livemode, object,
        object_id, inbox_id, standing, created, ambiguous, deleted)
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
    RETURNING account, livemode, object, object_id");
statement!(Lock -> (BigInt, Nullable<BigInt>, SmallInt, BigInt): "
    SELECT k.place, o.inbox_id, o.standing, o.created
    FROM unnest(?, ?, ?, ?) WITH ORDINALITY AS k (account, livemode, object, object_id, place)
    JOIN stripe_objects o USING (account, livemode, object, object_id)
    ORDER BY o.account, o.livemode, o.object, o.object_id
    FOR UPDATE OF o");
statement!(Record -> Untyped: "UPDATE stripe_objects o
    SET inbox_id = k.inbox_id, standing = k.standing, created = k.created, ambiguous = k.ambiguous,
        deleted = k.deleted
    FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?)
        AS k (account, livemode, object, object_id, inbox_id, standing, created, ambiguous, deleted)
    WHERE (o.account, o.livemode, o.object, o.object_id) = (k.account, k.livemode, k.object, k.object_id)");

/// Locks the objects and reads the stored winner of each. An object without a row gets one with its first
/// choice, which is right unless that event cannot be read.
///
/// The objects must be in the order of their keys, so that two transactions never deadlock.
pub(super) fn lock(conn: &mut PgConnection, objects: &mut [ProjectedObject<'_>]) -> QueryResult<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = objects.iter().map(|object| (object.key, object.first_choice.into())).collect();
    let inserted = with_rows::<Insert>(&rows).load::<(String, bool, String, String)>(conn)?;
    let mut inserted = inserted.iter().peekable();
    let mut known: Vec<&mut ProjectedObject<'_>> = objects
        .iter_mut()
        .filter(|object| inserted.next_if(|row| names(row, object.key)).is_none())
        .collect();
    assert!(inserted.next().is_none(), "INSERT returns rows in the order of their keys");
    if known.is_empty() {
        return Ok(());
    }
    let keys = known.iter().map(|object| object.key);
    let locked = with_keys::<Lock>(keys).load::<(i64, Option<i64>, i16, i64)>(conn)?;
    for (place, inbox_id, standing, created) in locked {
        let place = usize::try_from(place - 1).expect("WITH ORDINALITY counts from 1");
        let group = GroupKey { standing, created };
        known[place].stored =
            inbox_id.map_or(StoredWinner::Nobody, |content_id| StoredWinner::Event { content_id, group });
    }
    Ok(())
}

fn names((account, livemode, object, id): &(String, bool, String, String), key: &ObjectKey) -> bool {
    (id, object, account, *livemode) == (&key.id, &key.object, &key.realm.account, key.realm.livemode)
}

/// A statement whose first columns are these keys.
fn with_keys<'a, Q: Sql>(keys: impl Iterator<Item = &'a ObjectKey> + Clone) -> Prepared<'a, Q> {
    Prepared::<Q>::new()
        .bind::<Text, _>(keys.clone().map(|key| &*key.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.clone().map(|key| key.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| &*key.object).collect::<Vec<_>>())
        .bind::<Text, _>(keys.map(|key| &*key.id).collect::<Vec<_>>())
}

/// A statement whose columns are whole rows.
fn with_rows<'a, Q: Sql>(rows: &[(&'a ObjectKey, WinnerRow)]) -> Prepared<'a, Q> {
    let values = || rows.iter().map(|(_, row)| row);
    with_keys::<Q>(rows.iter().map(|(key, _)| *key))
        .bind::<Nullable<BigInt>, _>(values().map(|row| row.inbox_id).collect::<Vec<_>>())
        .bind::<SmallInt, _>(values().map(|row| row.standing).collect::<Vec<_>>())
        .bind::<BigInt, _>(values().map(|row| row.created).collect::<Vec<_>>())
        .bind::<Bool, _>(values().map(|row| row.ambiguous).collect::<Vec<_>>())
        .bind::<Bool, _>(values().map(|row| row.deleted).collect::<Vec<_>>())
}

/// Locks the payments until the transaction ends. It locks their names, because a payment may have no row
/// yet.
pub(super) fn lock_payments(conn: &mut PgConnection, keys: &BTreeSet<PaymentKey>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        keys.iter().map(|key| format!("payment {} {} {}", key.account, key.livemode, key.id)).collect();
    // Sorted by the hash that is locked, so that all transactions take the locks in the same order.
    diesel::sql_query(concat!(
        "SELECT pg_advisory_xact_lock(lock)
         FROM (SELECT DISTINCT hashtextextended(name, 0) AS lock
             FROM unnest($1::text[]) AS n (name)
             ORDER BY 1) AS l
         WHERE ",
        on_shared_tables!()
    ))
    .bind::<Array<Text>, _>(names)
    .execute(conn)?;
    Ok(())
}

/// Records the outcomes. The row of a new object has its first choice already.
pub(super) fn record(conn: &mut PgConnection, objects: &[ProjectedObject<'_>]) -> QueryResult<()> {
    let changed: Vec<(&ObjectKey, WinnerRow)> = objects
        .iter()
        .filter_map(|object| {
            let outcome = object.outcome.map(WinnerRow::from);
            let row = if object.is_new() {
                // Without an outcome, none of its events can be read: no event has won.
                Some(outcome.unwrap_or_default()).filter(|row| *row != object.first_choice.into())
            } else {
                outcome
            };
            Some((object.key, row?))
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    with_rows::<Record>(&changed).execute(conn).map(drop)
}
