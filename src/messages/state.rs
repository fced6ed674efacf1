//! The state of sending, for metrics and `coulomb doctor`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};

/// How much waits.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Backlog {
    /// Deliveries that wait, and messages that are not assigned yet.
    #[diesel(sql_type = BigInt)]
    pub waiting: i64,
    /// Age of the oldest of them at an enabled endpoint, in seconds.
    #[diesel(sql_type = BigInt)]
    pub oldest_s: i64,
}

/// Counts what waits for enabled endpoints.
pub fn backlog(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<Backlog> {
    diesel::sql_query(
        "SELECT d.waiting + n.waiting AS waiting,
                coalesce(extract(epoch FROM $1 - least(d.oldest, n.oldest))::bigint, 0) AS oldest_s
         FROM (SELECT count(*) AS waiting, min(d.created_at) AS oldest
               FROM message_deliveries d JOIN message_endpoints e USING (org_id, endpoint_id)
               WHERE d.state = 'waiting' AND e.enabled) d,
              (SELECT count(*) AS waiting, min(created_at) AS oldest
               FROM outbox_messages WHERE position IS NULL) n",
    )
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
}

/// An endpoint that needs somebody.
#[derive(Clone, Debug, QueryableByName)]
pub struct Troubled {
    #[diesel(sql_type = Text)]
    pub endpoint_id: String,
    #[diesel(sql_type = Text)]
    pub url: String,
    /// Why it was disabled; `None`: it fails.
    #[diesel(sql_type = Nullable<Text>)]
    pub disabled_reason: Option<String>,
    /// Since when.
    #[diesel(sql_type = Timestamptz)]
    pub since: DateTime<Utc>,
}

/// Endpoints that were disabled by themselves, or that have failed since before `failing_before`. Those of
/// erased orgs need nobody.
pub fn troubled(conn: &mut PgConnection, failing_before: DateTime<Utc>) -> QueryResult<Vec<Troubled>> {
    diesel::sql_query(
        "SELECT e.endpoint_id, e.url, e.disabled_reason, coalesce(e.disabled_at, l.failing_since) AS since
         FROM message_endpoints e JOIN message_lanes l USING (org_id, endpoint_id)
         WHERE e.disabled_reason IN ('gone', 'failing') OR (e.enabled AND l.failing_since < $1)
         ORDER BY e.endpoint_id",
    )
    .bind::<Timestamptz, _>(failing_before)
    .load(conn)
}
