//! `stripe_objects`: which event holds each object, and the locks under which that changes.

use std::collections::{BTreeMap, BTreeSet};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text};

use super::Change;
use crate::billing::payments::PaymentKey;
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
    pub(super) fn as_ref(&self, deleted: bool) -> ObjectRef<'_> {
        ObjectRef { realm: &self.realm, object: &self.object, id: &self.id, deleted }
    }
}

/// What is known of an object before this transaction.
pub(super) struct Held {
    pub(super) inbox_id: Option<i64>,
    pub(super) standing: i16,
    pub(super) created: i64,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    inbox_id: Option<i64>,
    #[diesel(sql_type = SmallInt)]
    standing: i16,
    #[diesel(sql_type = BigInt)]
    created: i64,
}

/// A set of keys as arrays, one a column.
#[derive(Default)]
struct Columns<'a> {
    account: Vec<&'a str>,
    livemode: Vec<bool>,
    object: Vec<&'a str>,
    object_id: Vec<&'a str>,
}

impl<'a> FromIterator<&'a ObjectKey> for Columns<'a> {
    fn from_iter<I: IntoIterator<Item = &'a ObjectKey>>(keys: I) -> Self {
        let mut columns = Self::default();
        for key in keys {
            columns.account.push(&key.realm.account);
            columns.livemode.push(key.realm.livemode);
            columns.object.push(&key.object);
            columns.object_id.push(&key.id);
        }
        columns
    }
}

/// Locks the objects, making rows for new ones. `keys` come in order, so two transactions never wait for each other.
pub(super) fn lock<'a>(
    conn: &mut PgConnection,
    keys: impl Iterator<Item = &'a ObjectKey>,
) -> QueryResult<BTreeMap<ObjectKey, Held>> {
    let Columns { account, livemode, object, object_id } = keys.collect();
    diesel::sql_query(
        "INSERT INTO stripe_objects (account, livemode, object, object_id, standing, created, ambiguous, deleted)
         SELECT account, livemode, object, object_id, 0, 0, false, false
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[]) AS k (account, livemode, object, object_id)
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Text>, _>(&account)
    .bind::<Array<Bool>, _>(&livemode)
    .bind::<Array<Text>, _>(&object)
    .bind::<Array<Text>, _>(&object_id)
    .execute(conn)?;
    let rows: Vec<Row> = diesel::sql_query(
        "SELECT o.account, o.livemode, o.object, o.object_id, o.inbox_id, o.standing, o.created
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[]) AS k (account, livemode, object, object_id)
         JOIN stripe_objects o USING (account, livemode, object, object_id)
         ORDER BY o.account, o.livemode, o.object, o.object_id FOR UPDATE OF o",
    )
    .bind::<Array<Text>, _>(&account)
    .bind::<Array<Bool>, _>(&livemode)
    .bind::<Array<Text>, _>(&object)
    .bind::<Array<Text>, _>(&object_id)
    .load(conn)?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let realm = Realm { account: row.account, livemode: row.livemode };
            let key = ObjectKey { realm, object: row.object, id: row.object_id };
            (key, Held { inbox_id: row.inbox_id, standing: row.standing, created: row.created })
        })
        .collect())
}

/// Locks the payments until the transaction ends. A payment may have no row yet, so it is its name that is locked.
pub(super) fn lock_payments(conn: &mut PgConnection, keys: &BTreeSet<PaymentKey>) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        keys.iter().map(|key| format!("payment {} {} {}", key.account, key.livemode, key.id)).collect();
    // Sorted by what is locked, not by name: equal hashes aside, everybody takes them in the same order.
    diesel::sql_query(
        "SELECT pg_advisory_xact_lock(lock) FROM (SELECT DISTINCT hashtextextended(name, 0) AS lock FROM unnest($1::text[]) AS n (name) ORDER BY 1) AS l",
    )
    .bind::<Array<Text>, _>(names)
    .execute(conn)?;
    Ok(())
}

/// Writes down who holds the objects now.
pub(super) fn record(conn: &mut PgConnection, changes: &[Change<'_>]) -> QueryResult<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let Columns { account, livemode, object, object_id } = changes.iter().map(|change| change.key).collect();
    diesel::sql_query(
        "UPDATE stripe_objects o SET inbox_id = k.inbox_id, standing = k.standing, created = k.created, ambiguous = k.ambiguous, deleted = k.deleted
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bigint[], $6::smallint[], $7::bigint[], $8::boolean[], $9::boolean[])
              AS k (account, livemode, object, object_id, inbox_id, standing, created, ambiguous, deleted)
         WHERE (o.account, o.livemode, o.object, o.object_id) = (k.account, k.livemode, k.object, k.object_id)",
    )
    .bind::<Array<Text>, _>(account)
    .bind::<Array<Bool>, _>(livemode)
    .bind::<Array<Text>, _>(object)
    .bind::<Array<Text>, _>(object_id)
    .bind::<Array<BigInt>, _>(changes.iter().map(|change| change.event.claim.inbox_id).collect::<Vec<_>>())
    .bind::<Array<SmallInt>, _>(changes.iter().map(|change| change.standing).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(changes.iter().map(|change| change.event.created).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(changes.iter().map(|change| change.ambiguous).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(changes.iter().map(|change| change.deleted).collect::<Vec<_>>())
    .execute(conn)
    .map(drop)
}
