//! Deletes what is older than the retention.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};

/// Rows that one call deletes, at most.
const BATCH: i64 = 5000;

/// Deletes deliveries that were assigned before `oldest`, with their attempts, and empties messages that were
/// written before. Of a message its key stays: its cause may be processed again, and must not write it a
/// second time. Returns how many rows changed; call it until that is 0.
pub fn forget_old(conn: &mut PgConnection, oldest: DateTime<Utc>) -> QueryResult<usize> {
    let deliveries = diesel::sql_query(
        "WITH old AS (
             DELETE FROM message_deliveries WHERE (org_id, endpoint_id, sequence) IN (
                 SELECT org_id, endpoint_id, sequence FROM message_deliveries
                 WHERE created_at < $1 ORDER BY created_at LIMIT $2)
             RETURNING org_id, endpoint_id, sequence),
         attempts AS (
             DELETE FROM message_attempts a USING old
             WHERE (a.org_id, a.endpoint_id, a.sequence) = (old.org_id, old.endpoint_id, old.sequence))
         SELECT FROM old",
    )
    .bind::<Timestamptz, _>(oldest)
    .bind::<BigInt, _>(BATCH)
    .execute(conn)?;
    let messages = diesel::sql_query(
        "UPDATE outbox_messages SET payload = NULL, object = NULL
         WHERE (org_id, message_id) IN (
             SELECT org_id, message_id FROM outbox_messages
             WHERE created_at < $1 AND payload IS NOT NULL AND position IS NOT NULL
             ORDER BY created_at LIMIT $2)",
    )
    .bind::<Timestamptz, _>(oldest)
    .bind::<BigInt, _>(BATCH)
    .execute(conn)?;
    Ok(deliveries + messages)
}
