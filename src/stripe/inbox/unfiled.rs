//! Deliveries that Stripe has an answer for, but that are not in the inbox yet, as an operator sees them.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, SmallInt, Text, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::stripe_arrivals;
use crate::stripe::event;

/// A delivery that was acknowledged and is not in the inbox yet: normally for some milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Unfiled {
    /// Number of its arrival, which the deliveries of one commit share.
    pub arrival_id: i64,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// Stripe's id of the event; `sha256:…` where it has none.
    pub event_id: String,
    /// Such as `invoice.paid`; empty when absent.
    pub event_type: String,
    /// Length of its body.
    pub body_bytes: usize,
    /// Failed attempts to file it.
    pub attempts: i16,
    /// When it is tried again; null: as soon as may be.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

#[derive(QueryableByName)]
struct UnfiledRow {
    #[diesel(sql_type = BigInt)]
    arrival_id: i64,
    #[diesel(sql_type = Timestamptz)]
    received_at: DateTime<Utc>,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    next_attempt_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    last_error: Option<String>,
}

/// At most `limit` unfiled deliveries: those that failed first, then the oldest.
pub fn unfiled(conn: &mut PgConnection, limit: i64) -> Result<Vec<Unfiled>, Error> {
    // Every arrival has at least one delivery, so `limit` arrivals are enough.
    let rows: Vec<UnfiledRow> = diesel::sql_query(
        "SELECT a.arrival_id, d.received_at, d.body, a.attempts, a.next_attempt_at, a.last_error
         FROM (SELECT * FROM stripe_arrivals ORDER BY attempts = 0, arrival_id LIMIT $1) a,
             unnest(a.received_at, a.bodies) WITH ORDINALITY AS d (received_at, body, n)
         ORDER BY a.attempts = 0, a.arrival_id, d.n LIMIT $1",
    )
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    let seen = |row: UnfiledRow| {
        let envelope = event::open(&row.body).envelope;
        Unfiled {
            arrival_id: row.arrival_id,
            received_at: row.received_at,
            event_id: envelope.event_id,
            event_type: envelope.event_type,
            body_bytes: row.body.len(),
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            last_error: row.last_error,
        }
    };
    Ok(rows.into_iter().map(seen).collect())
}

/// Number of arrivals with a failed attempt to file them.
pub fn count_failed(conn: &mut PgConnection) -> Result<i64, Error> {
    Ok(stripe_arrivals::table.filter(stripe_arrivals::attempts.gt(0)).count().get_result(conn)?)
}
