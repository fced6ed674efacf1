//! The queue of the projection: taking events, finishing them, putting failures off.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, SmallInt, Text, Timestamptz};
use serde::Deserialize;
use serde_json::Value;

use super::objects::ObjectKey;
use crate::error::Error;
use crate::stripe::order::{self, Candidate, Rank};
use crate::stripe::{Realm, event};

/// A claimed queue row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) inbox_id: i64,
    pub(super) attempts: i16,
}

/// A stored event, read for projection.
pub(super) struct Event {
    pub(super) claim: Claim,
    /// The object that it is about; `None` when there is none that we can name.
    pub(super) key: Option<ObjectKey>,
    /// Why its body cannot be read.
    pub(super) unreadable: Option<String>,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) created: i64,
    pub(super) snapshot: Value,
    pub(super) previous: Option<Value>,
}

impl Event {
    pub(super) fn rank(&self, key: &ObjectKey) -> Rank {
        order::rank(&key.object, &self.event_type, self.created, &self.snapshot)
    }

    /// Standing and second: what is compared before anything else.
    pub(super) fn level(&self, key: &ObjectKey) -> (i16, i64) {
        self.rank(key).group()
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            event_id: &self.event_id,
            event_type: &self.event_type,
            created: self.created,
            snapshot: &self.snapshot,
            previous: self.previous.as_ref(),
        }
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = BigInt)]
    created: i64,
    #[diesel(sql_type = Nullable<Text>)]
    object: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    object_id: Option<String>,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Body {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Value,
    previous_attributes: Option<Value>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        let read = serde_json::from_slice::<Body>(event::without_bom(&row.body));
        // An object was seen when the event came in: that it cannot be read whole now must not pass for its absence.
        let unreadable = read.as_ref().err().filter(|_| row.object_id.is_some()).map(ToString::to_string);
        let data = read.ok().map(|body| body.data);
        let (snapshot, previous) =
            data.map_or((Value::Null, None), |data| (data.object, data.previous_attributes));
        let realm = Realm { account: row.account, livemode: row.livemode };
        let key = match (row.object, row.object_id) {
            (Some(object), Some(id)) if snapshot.is_object() => Some(ObjectKey { realm, object, id }),
            _ => None,
        };
        Self {
            claim: Claim { inbox_id: row.inbox_id, attempts: row.attempts },
            key,
            unreadable,
            event_id: row.event_id,
            event_type: row.event_type,
            created: row.created,
            snapshot,
            previous: previous.filter(Value::is_object),
        }
    }
}

/// The oldest waiting events, locked until the transaction ends; those that others hold are passed over.
pub(super) fn next(conn: &mut PgConnection, limit: u32, now: DateTime<Utc>) -> QueryResult<Vec<Event>> {
    let rows: Vec<Row> = diesel::sql_query(
        "WITH claimed AS MATERIALIZED (
             SELECT inbox_id, attempts FROM stripe_inbox_queue
             WHERE quarantined_at IS NULL AND (next_attempt_at IS NULL OR next_attempt_at <= $1)
             ORDER BY inbox_id LIMIT $2 FOR UPDATE SKIP LOCKED)
         SELECT inbox_id, attempts, account, livemode, event_id, event_type, created, object, object_id, body
         FROM claimed JOIN stripe_inbox USING (inbox_id) ORDER BY inbox_id",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(i64::from(limit))
    .load(conn)?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// One event by its number, if nobody else has it.
pub(super) fn one(conn: &mut PgConnection, inbox_id: i64) -> QueryResult<Vec<Event>> {
    let rows: Vec<Row> = diesel::sql_query(
        "WITH claimed AS MATERIALIZED (SELECT inbox_id, attempts FROM stripe_inbox_queue WHERE inbox_id = $1 FOR UPDATE SKIP LOCKED)
         SELECT inbox_id, attempts, account, livemode, event_id, event_type, created, object, object_id, body
         FROM claimed JOIN stripe_inbox USING (inbox_id)",
    )
    .bind::<BigInt, _>(inbox_id)
    .load(conn)?;
    Ok(rows.into_iter().map(Event::from).collect())
}

/// The events of these objects in these seconds that were projected before.
pub(super) fn rivals(
    conn: &mut PgConnection,
    level: &[(&ObjectKey, i64)],
) -> QueryResult<BTreeMap<ObjectKey, Vec<Event>>> {
    if level.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<Row> = diesel::sql_query(
        "SELECT inbox_id, 0::smallint AS attempts, account, livemode, event_id, event_type, created, object, object_id, body
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bigint[]) AS k (account, livemode, object, object_id, created)
         JOIN stripe_inbox i USING (account, livemode, object, object_id, created)
         WHERE NOT EXISTS (SELECT FROM stripe_inbox_queue q WHERE q.inbox_id = i.inbox_id)",
    )
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.realm.account.as_str()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(level.iter().map(|(key, _)| key.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.object.as_str()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(level.iter().map(|(_, created)| *created).collect::<Vec<_>>())
    .load(conn)?;
    let mut rivals: BTreeMap<ObjectKey, Vec<Event>> = BTreeMap::new();
    for event in rows.into_iter().map(Event::from) {
        if let Some(key) = &event.key {
            rivals.entry(key.clone()).or_default().push(event);
        }
    }
    Ok(rivals)
}

/// Takes the events off the queue, but for the failures, which are put off.
pub(super) fn finish(conn: &mut PgConnection, events: &[Event], failures: &[Failure]) -> QueryResult<()> {
    let failed = |event: &&Event| failures.iter().any(|failure| failure.inbox_id == event.claim.inbox_id);
    let done: Vec<i64> =
        events.iter().filter(|event| !failed(event)).map(|event| event.claim.inbox_id).collect();
    diesel::sql_query("DELETE FROM stripe_inbox_queue WHERE inbox_id = ANY ($1)")
        .bind::<Array<BigInt>, _>(done)
        .execute(conn)?;
    record_failures(conn, failures)
}

/// A failed attempt.
#[derive(Debug)]
pub struct Failure {
    inbox_id: i64,
    attempts: i16,
    error: String,
    next_attempt_at: DateTime<Utc>,
    quarantined_at: Option<DateTime<Utc>>,
}

impl Failure {
    /// The next attempt comes after 1, 4, 16, … seconds, at most an hour; after `limit` attempts there is none.
    pub(super) fn of(claim: &Claim, limit: u16, now: DateTime<Utc>, error: String) -> Self {
        let attempts = claim.attempts.saturating_add(1);
        let wait = 4_i64.saturating_pow(u32::from(claim.attempts.unsigned_abs())).min(3600);
        let given_up = i32::from(attempts) >= i32::from(limit);
        tracing::warn!(
            inbox_id = claim.inbox_id,
            attempts,
            given_up,
            error,
            "a Stripe event could not be projected"
        );
        Self {
            inbox_id: claim.inbox_id,
            attempts,
            error,
            next_attempt_at: now + TimeDelta::seconds(wait),
            quarantined_at: given_up.then_some(now),
        }
    }
}

/// Writes down what failed.
pub(super) fn record_failures(conn: &mut PgConnection, failures: &[Failure]) -> QueryResult<()> {
    for failure in failures {
        diesel::sql_query(
            "UPDATE stripe_inbox_queue SET attempts = $2, last_error = $3, next_attempt_at = $4, quarantined_at = $5 WHERE inbox_id = $1",
        )
        .bind::<BigInt, _>(failure.inbox_id)
        .bind::<SmallInt, _>(failure.attempts)
        .bind::<Text, _>(failure.error.replace('\0', "\u{fffd}"))
        .bind::<Timestamptz, _>(failure.next_attempt_at)
        .bind::<Nullable<Timestamptz>, _>(failure.quarantined_at)
        .execute(conn)?;
    }
    Ok(())
}

/// Puts every stored event back on the queue; returns how many.
///
/// # Errors
/// When the database fails.
pub fn requeue_everything(conn: &mut PgConnection) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "INSERT INTO stripe_inbox_queue (inbox_id) SELECT inbox_id FROM stripe_inbox ON CONFLICT DO NOTHING",
    )
    .execute(conn)?)
}
