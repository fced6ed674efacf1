//! `stripe_inbox_queue`: claims events, takes them off, and records failures.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text, Timestamptz};

use super::event::{Event, QueueEntry, StoredEvent};
use super::object::{ObjectKey, ProjectedObject};
use crate::backoff;
use crate::error::Error;

/// SQL: what the projection reads of the row `i` of the inbox. A fetch that confirms another row has its
/// body. The named schema: `verify` hides rows of the inbox that it has not replayed yet.
macro_rules! stored_event {
    ($attempts:literal) => {
        concat!(
            "SELECT i.inbox_id, ",
            $attempts,
            " AS attempts, i.account, i.livemode, i.event_id, i.event_type, i.created, i.object, i.object_id,
                 i.origin = 'fetch' AS fetched, i.body_of,
                 coalesce((SELECT b.body FROM coulomb.stripe_inbox b WHERE b.inbox_id = i.body_of), i.body)
                     AS body"
        )
    };
}

/// Claims the oldest events that may be tried now: locks them until the transaction ends. It skips events
/// that another transaction has locked.
pub(super) fn claim_next(
    conn: &mut PgConnection,
    limit: u32,
    now: DateTime<Utc>,
) -> QueryResult<Vec<StoredEvent>> {
    diesel::sql_query(concat!(
        "WITH claimed AS MATERIALIZED (
             SELECT inbox_id, attempts
             FROM stripe_inbox_queue
             WHERE quarantined_at IS NULL AND (next_attempt_at IS NULL OR next_attempt_at <= $1)
             ORDER BY inbox_id
             LIMIT $2
             FOR UPDATE SKIP LOCKED) ",
        stored_event!("c.attempts"),
        " FROM claimed c
         JOIN stripe_inbox i USING (inbox_id)
         ORDER BY i.inbox_id",
    ))
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(i64::from(limit))
    .load(conn)
}

/// Claims one event; none if another transaction has locked it.
pub(super) fn claim_one(conn: &mut PgConnection, inbox_id: i64) -> QueryResult<Vec<StoredEvent>> {
    diesel::sql_query(concat!(
        "WITH claimed AS MATERIALIZED (
             SELECT inbox_id, attempts
             FROM stripe_inbox_queue
             WHERE inbox_id = $1
             FOR UPDATE SKIP LOCKED) ",
        stored_event!("c.attempts"),
        " FROM claimed c
         JOIN stripe_inbox i USING (inbox_id)",
    ))
    .bind::<BigInt, _>(inbox_id)
    .load(conn)
}

/// The stored events of contested groups, without `own`, the events of this transaction. It selects by
/// `created` alone; an event of the same second with another standing loses by its rank.
pub(super) fn load_rivals(
    conn: &mut PgConnection,
    objects: &[ProjectedObject<'_>],
    own: &[Event<'_>],
) -> QueryResult<Vec<StoredEvent>> {
    let contested: Vec<(&ObjectKey, i64)> =
        objects.iter().filter_map(|object| Some((object.key, object.contested_group()?.created))).collect();
    if contested.is_empty() {
        return Ok(Vec::new());
    }
    diesel::sql_query(concat!(
        stored_event!("0::smallint"),
        " FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bigint[])
             AS k (account, livemode, object, object_id, created)
         JOIN stripe_inbox i USING (account, livemode, object, object_id, created)
         WHERE i.inbox_id <> ALL ($6)
             AND NOT EXISTS (SELECT FROM stripe_inbox_queue q WHERE q.inbox_id = i.inbox_id)",
    ))
    .bind::<Array<Text>, _>(contested.iter().map(|(key, _)| key.realm.account.as_str()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(contested.iter().map(|(key, _)| key.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(contested.iter().map(|(key, _)| key.object.as_str()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(contested.iter().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(contested.iter().map(|(_, created)| *created).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(own.iter().map(|event| event.entry.inbox_id).collect::<Vec<_>>())
    .load(conn)
}

/// Puts events on the queue that have no row there.
pub(super) fn enqueue(conn: &mut PgConnection, entries: &[QueueEntry]) -> QueryResult<()> {
    diesel::sql_query("INSERT INTO stripe_inbox_queue (inbox_id) SELECT * FROM unnest($1)")
        .bind::<Array<BigInt>, _>(entries.iter().map(|entry| entry.inbox_id).collect::<Vec<_>>())
        .execute(conn)
        .map(drop)
}

/// Takes the events off the queue, except those that failed: they wait for their next attempt.
pub(super) fn finish(conn: &mut PgConnection, events: &[Event<'_>], failures: &[Failure]) -> QueryResult<()> {
    let failed = |event: &&Event<'_>| failures.iter().any(|failure| failure.is_of(&event.entry));
    let done: Vec<i64> = events
        .iter()
        .filter(|event| event.entry.queued && !failed(event))
        .map(|event| event.entry.inbox_id)
        .collect();
    if !done.is_empty() {
        diesel::sql_query("DELETE FROM stripe_inbox_queue WHERE inbox_id = ANY ($1)")
            .bind::<Array<BigInt>, _>(done)
            .execute(conn)?;
    }
    record_failures(conn, failures)
}

/// A failed attempt to project an event.
#[derive(Debug)]
pub(super) struct Failure {
    inbox_id: i64,
    attempts: i16,
    error: String,
    next_attempt_at: DateTime<Utc>,
    quarantined_at: Option<DateTime<Utc>>,
}

impl Failure {
    /// Another failed attempt to project the event. The next attempt waits as long as [`backoff::wait`] says;
    /// after `limit` attempts the event is quarantined.
    pub(super) fn new(entry: &QueueEntry, limit: u16, now: DateTime<Utc>, error: String) -> Self {
        let attempts = entry.attempts.saturating_add(1);
        let given_up = i32::from(attempts) >= i32::from(limit);
        tracing::warn!(
            inbox_id = entry.inbox_id,
            attempts,
            given_up,
            error,
            "a Stripe event could not be projected"
        );
        Self {
            inbox_id: entry.inbox_id,
            attempts,
            error,
            next_attempt_at: now + backoff::wait(entry.attempts),
            quarantined_at: given_up.then_some(now),
        }
    }

    pub(super) fn is_of(&self, entry: &QueueEntry) -> bool {
        self.inbox_id == entry.inbox_id
    }
}

pub(super) fn record_failures(conn: &mut PgConnection, failures: &[Failure]) -> QueryResult<()> {
    for failure in failures {
        diesel::sql_query(
            "INSERT INTO stripe_inbox_queue (inbox_id, attempts, last_error, next_attempt_at, quarantined_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (inbox_id)
             DO UPDATE SET attempts = excluded.attempts, last_error = excluded.last_error,
                 next_attempt_at = excluded.next_attempt_at, quarantined_at = excluded.quarantined_at",
        )
        .bind::<BigInt, _>(failure.inbox_id)
        .bind::<SmallInt, _>(failure.attempts)
        .bind::<Text, _>(crate::text::replace_nul(&failure.error))
        .bind::<Timestamptz, _>(failure.next_attempt_at)
        .bind::<Nullable<Timestamptz>, _>(failure.quarantined_at)
        .execute(conn)?;
    }
    Ok(())
}

/// Puts every event of the inbox on the queue; returns how many were not there yet.
pub fn requeue_everything(conn: &mut PgConnection) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "INSERT INTO stripe_inbox_queue (inbox_id) SELECT inbox_id FROM stripe_inbox ON CONFLICT DO NOTHING",
    )
    .execute(conn)?)
}
