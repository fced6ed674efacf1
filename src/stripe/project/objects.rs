//! `stripe_objects`: which event holds each object, and the locks under which that changes.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text, Untyped};

use super::Change;
use crate::billing::payments::PaymentKey;
use crate::db::prepared::{Prepared, StatementText as Sql, statement};
use crate::db::temporary_tables::on_shared_tables;
use crate::error::Error;
use crate::stripe::Realm;
use crate::stripe::shape::ObjectRef;

/// Names one Stripe object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) realm: Realm,
    pub(super) object: String,
    pub(super) id: String,
}

impl ObjectKey {
    fn is(&self, (account, livemode, object, id): &(String, bool, String, String)) -> bool {
        (&self.id, &self.object, &self.realm.account, self.realm.livemode) == (id, object, account, *livemode)
    }

    pub(super) fn as_ref(&self, deleted: bool) -> ObjectRef<'_> {
        ObjectRef { realm: &self.realm, object: &self.object, id: &self.id, deleted }
    }
}

/// What is known of an object before this transaction; by default that nobody holds it yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoredWinner {
    pub(super) inbox_id: Option<i64>,
    pub(super) standing: i16,
    pub(super) created: i64,
}

impl StoredWinner {
    /// Standing and second of the event that holds it.
    pub(super) fn level(&self) -> Option<(i16, i64)> {
        self.inbox_id.map(|_| (self.standing, self.created))
    }
}

/// Whose row an object is to have: that of a winner, or of nobody yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    inbox_id: Option<i64>,
    standing: i16,
    created: i64,
    ambiguous: bool,
    deleted: bool,
}

impl From<Change<'_>> for Given {
    fn from(change: Change<'_>) -> Self {
        Self {
            inbox_id: Some(change.event.claim.inbox_id),
            standing: change.event.rank.standing,
            created: change.event.rank.created,
            ambiguous: change.ambiguous,
            deleted: change.event.rank.tombstone,
        }
    }
}

statement!(Make -> (Text, Bool, Text, Text): "INSERT INTO stripe_objects (account, livemode, object,
    object_id, inbox_id, standing, created, ambiguous, deleted)
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
    RETURNING account, livemode, object, object_id");
statement!(Lock -> (BigInt, Nullable<BigInt>, SmallInt, BigInt): "SELECT k.place, o.inbox_id, o.standing,
    o.created
    FROM unnest(?, ?, ?, ?) WITH ORDINALITY AS k (account, livemode, object, object_id, place)
    JOIN stripe_objects o USING (account, livemode, object, object_id)
    ORDER BY o.account, o.livemode, o.object, o.object_id FOR UPDATE OF o");
statement!(Record -> Untyped: "UPDATE stripe_objects o
    SET inbox_id = k.inbox_id, standing = k.standing, created = k.created, ambiguous = k.ambiguous,
    deleted = k.deleted
    FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) AS k (account, livemode, object, object_id, inbox_id, standing,
        created, ambiguous, deleted)
    WHERE (o.account, o.livemode, o.object, o.object_id) = (k.account, k.livemode, k.object, k.object_id)");

/// Locks the objects, and says of each by whom it was held; `None` for those that were not known. These get a
/// row as `given`, which is right unless an event turns out to be unreadable. Keys come in order, so two
/// transactions never wait for each other in a circle.
pub(super) fn lock(
    conn: &mut PgConnection,
    objects: &[(&ObjectKey, Given)],
) -> QueryResult<Vec<Option<StoredWinner>>> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let made = written::<Make>(objects).load::<(String, bool, String, String)>(conn)?;
    let mut made = made.iter().peekable();
    let mut held: Vec<Option<StoredWinner>> = objects
        .iter()
        .map(|(key, _)| made.next_if(|made| key.is(made)).is_none().then(StoredWinner::default))
        .collect();
    assert!(made.next().is_none(), "rows come back in the order of their keys");
    let known: Vec<usize> = (0..objects.len()).filter(|&at| held[at].is_some()).collect();
    if !known.is_empty() {
        let rows = named::<Lock>(known.iter().map(|&at| objects[at].0))
            .load::<(i64, Option<i64>, i16, i64)>(conn)?;
        for (place, inbox_id, standing, created) in rows {
            let place = usize::try_from(place - 1).expect("places count from 1");
            held[known[place]] = Some(StoredWinner { inbox_id, standing, created });
        }
    }
    Ok(held)
}

/// A statement whose first columns are these keys.
fn named<'a, Q: Sql>(keys: impl Iterator<Item = &'a ObjectKey> + Clone) -> Prepared<'a, Q> {
    Prepared::<Q>::new()
        .bind::<Text, _>(keys.clone().map(|key| &*key.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.clone().map(|key| key.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| &*key.object).collect::<Vec<_>>())
        .bind::<Text, _>(keys.map(|key| &*key.id).collect::<Vec<_>>())
}

/// A statement whose columns are whole rows.
fn written<'a, Q: Sql>(objects: &[(&'a ObjectKey, Given)]) -> Prepared<'a, Q> {
    let given = || objects.iter().map(|(_, given)| given);
    named::<Q>(objects.iter().map(|(key, _)| *key))
        .bind::<Nullable<BigInt>, _>(given().map(|given| given.inbox_id).collect::<Vec<_>>())
        .bind::<SmallInt, _>(given().map(|given| given.standing).collect::<Vec<_>>())
        .bind::<BigInt, _>(given().map(|given| given.created).collect::<Vec<_>>())
        .bind::<Bool, _>(given().map(|given| given.ambiguous).collect::<Vec<_>>())
        .bind::<Bool, _>(given().map(|given| given.deleted).collect::<Vec<_>>())
}

/// Locks the payments until the transaction ends. A payment may have no row yet, so it is its name that is
/// locked.
pub(super) fn lock_payments(conn: &mut PgConnection, keys: &BTreeSet<PaymentKey>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        keys.iter().map(|key| format!("payment {} {} {}", key.account, key.livemode, key.id)).collect();
    // Sorted by what is locked, not by name: equal hashes aside, everybody takes them in the same order.
    diesel::sql_query(concat!(
        "SELECT pg_advisory_xact_lock(lock)
         FROM (SELECT DISTINCT hashtextextended(name, 0) AS lock FROM unnest($1::text[]) AS n (name)
             ORDER BY 1) AS l
         WHERE ",
        on_shared_tables!()
    ))
    .bind::<Array<Text>, _>(names)
    .execute(conn)?;
    Ok(())
}

/// Writes down who holds the objects now: of each its key, what it was given where it was new, and what
/// became of it.
pub(super) fn record<'a>(
    conn: &mut PgConnection,
    objects: impl Iterator<Item = (&'a ObjectKey, Option<Given>, Option<Given>)>,
) -> QueryResult<()> {
    let wanted: Vec<(&ObjectKey, Given)> = objects
        .filter_map(|(key, given, became)| {
            let wanted = match given {
                // Without a change, none of its events can be read.
                Some(given) => Some(became.unwrap_or_default()).filter(|wanted| *wanted != given),
                None => became,
            };
            Some((key, wanted?))
        })
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    written::<Record>(&wanted).execute(conn).map(drop)
}
