//! Lanes: what changes with every message of an endpoint, and which daemon sends for it. Owns
//! `message_lanes`.
//!
//! A daemon holds a lane until a time that it moves on, or until its session at the database ends. So
//! after a kill another daemon goes on at once, and after the loss of a machine when the time is over.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Untyped};

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::schema::message_lanes as l;

/// Names a lane: org and endpoint.
pub(super) type LaneKey = (i64, String);

/// The daemon that holds lanes.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// Unique for each connection of a sender.
    pub(super) name: String,
    /// The session at the server: process number and start.
    pub(super) session: Option<(i32, i64)>,
    /// How long a lane is held after the last sign of life.
    pub(super) hold: TimeDelta,
}

pub(super) fn create(conn: &mut PgConnection, (org_id, endpoint): (i64, &str)) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO message_lanes (org_id, endpoint_id, last_sequence, due_at)
         VALUES ($1, $2, 0, 'infinity')",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(endpoint)
    .execute(conn)?;
    Ok(())
}

pub(super) fn delete(conn: &mut PgConnection, (org_id, id): (i64, &str)) -> QueryResult<()> {
    diesel::delete(l::table.find((org_id, id))).execute(conn).map(drop)
}

pub(super) fn forget_failures(conn: &mut PgConnection, (org_id, id): (i64, &str)) -> Result<(), Error> {
    diesel::sql_query(
        "UPDATE message_lanes SET failing_since = NULL, due_at = '-infinity'
         WHERE org_id = $1 AND endpoint_id = $2",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(id)
    .execute(conn)?;
    Ok(())
}

statement!(Number -> (BigInt, Text, BigInt):
    "UPDATE message_lanes l
     SET last_sequence = l.last_sequence + n.count, due_at = least(l.due_at, ?)
     FROM (SELECT n.* FROM unnest(?, ?, ?) AS n (org_id, endpoint_id, count)
           JOIN message_lanes USING (org_id, endpoint_id)
           ORDER BY n.org_id, n.endpoint_id FOR UPDATE OF message_lanes) n
     WHERE (l.org_id, l.endpoint_id) = (n.org_id, n.endpoint_id)
     RETURNING l.org_id, l.endpoint_id, l.last_sequence");

/// Gives lanes their next numbers, so many each. Returns the last number of each.
pub(super) fn number(
    conn: &mut PgConnection,
    wanted: &[(LaneKey, i64)],
    now: DateTime<Utc>,
) -> QueryResult<Vec<(LaneKey, i64)>> {
    let rows: Vec<(i64, String, i64)> = Prepared::<Number>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind::<BigInt, _>(wanted.iter().map(|((org_id, _), _)| *org_id).collect::<Vec<_>>())
        .bind::<Text, _>(wanted.iter().map(|((_, id), _)| id.as_str()).collect::<Vec<_>>())
        .bind::<BigInt, _>(wanted.iter().map(|(_, count)| *count).collect::<Vec<_>>())
        .load(conn)?;
    Ok(rows.into_iter().map(|(org_id, id, last)| ((org_id, id), last)).collect())
}

/// Lets a lane be looked at now.
pub(super) fn wake(conn: &mut PgConnection, (org_id, id): (i64, &str)) -> QueryResult<()> {
    diesel::sql_query("UPDATE message_lanes SET due_at = '-infinity' WHERE org_id = $1 AND endpoint_id = $2")
        .bind::<BigInt, _>(org_id)
        .bind::<Text, _>(id)
        .execute(conn)
        .map(drop)
}

statement!(FreeDead -> Untyped:
    "UPDATE message_lanes
     SET holder = NULL, holder_pid = NULL, holder_started = NULL, held_until = NULL
     WHERE (org_id, endpoint_id) IN (
         SELECT l.org_id, l.endpoint_id FROM message_lanes l
         WHERE l.holder IS NOT NULL
             AND (l.held_until < clock_timestamp()
                  OR NOT EXISTS (SELECT FROM pg_stat_activity s
                      WHERE s.pid = l.holder_pid
                          AND coalesce((extract(epoch FROM s.backend_start) * 1000000)::bigint
                                       = l.holder_started, true)))
         ORDER BY l.org_id, l.endpoint_id FOR UPDATE SKIP LOCKED)");

/// Frees the lanes whose holder is gone.
pub(super) fn free_dead(conn: &mut PgConnection) -> QueryResult<usize> {
    Prepared::<FreeDead>::new().execute(conn)
}

statement!(Take -> (BigInt, Text):
    "UPDATE message_lanes l
     SET holder = ?, holder_pid = ?, holder_started = ?, held_until = clock_timestamp() + ? * interval '1 s'
     WHERE (l.org_id, l.endpoint_id) IN (
         SELECT f.org_id, f.endpoint_id
         FROM message_lanes f JOIN message_endpoints e USING (org_id, endpoint_id)
         WHERE f.holder IS NULL AND f.due_at <= ? AND e.enabled
         ORDER BY f.due_at LIMIT ? FOR UPDATE OF f SKIP LOCKED)
     RETURNING l.org_id, l.endpoint_id");

/// Takes lanes that have something due and no holder.
pub(super) fn take(
    conn: &mut PgConnection,
    holder: &Holder,
    limit: i64,
    now: DateTime<Utc>,
) -> QueryResult<Vec<LaneKey>> {
    let (pid, started) = holder.session.unzip();
    Prepared::<Take>::new()
        .bind_one::<Text, _>(holder.name.as_str())
        .bind_one::<Nullable<Integer>, _>(pid)
        .bind_one::<Nullable<BigInt>, _>(started)
        .bind_one::<BigInt, _>(holder.hold.num_seconds())
        .bind_one::<Timestamptz, _>(now)
        .bind_one::<BigInt, _>(limit)
        .load(conn)
}

#[derive(QueryableByName)]
struct HeldRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    endpoint_id: String,
}

/// Holds the lanes for longer, and returns those that are still held: enabled, and taken by nobody else.
pub(super) fn renew(conn: &mut PgConnection, holder: &Holder) -> QueryResult<Vec<LaneKey>> {
    let rows: Vec<HeldRow> = diesel::sql_query(
        "UPDATE message_lanes l SET held_until = clock_timestamp() + $2 * interval '1 s'
         FROM (SELECT h.org_id, h.endpoint_id FROM message_lanes h
               WHERE h.holder = $1 ORDER BY h.org_id, h.endpoint_id FOR UPDATE) h
               JOIN message_endpoints e USING (org_id, endpoint_id)
         WHERE (l.org_id, l.endpoint_id) = (h.org_id, h.endpoint_id) AND e.enabled
         RETURNING l.org_id, l.endpoint_id",
    )
    .bind::<Text, _>(&holder.name)
    .bind::<BigInt, _>(holder.hold.num_seconds())
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.org_id, row.endpoint_id)).collect())
}

/// Gives lanes back, each with the time of its next delivery. Belongs in a transaction: deliveries that come
/// between its two statements wait for the lock, and then say that they are due.
pub(super) fn release(conn: &mut PgConnection, holder: &Holder, lanes: &[LaneKey]) -> QueryResult<()> {
    let orgs: Vec<i64> = lanes.iter().map(|(org_id, _)| *org_id).collect();
    let ids: Vec<&str> = lanes.iter().map(|(_, id)| id.as_str()).collect();
    let locked: Vec<HeldRow> = diesel::sql_query(
        "SELECT l.org_id, l.endpoint_id
         FROM message_lanes l JOIN unnest($1, $2) AS w (org_id, endpoint_id) USING (org_id, endpoint_id)
         WHERE l.holder = $3 ORDER BY 1, 2 FOR UPDATE OF l",
    )
    .bind::<Array<BigInt>, _>(orgs)
    .bind::<Array<Text>, _>(ids)
    .bind::<Text, _>(&holder.name)
    .load(conn)?;
    let orgs: Vec<i64> = locked.iter().map(|row| row.org_id).collect();
    let ids: Vec<&str> = locked.iter().map(|row| row.endpoint_id.as_str()).collect();
    diesel::sql_query(
        "UPDATE message_lanes l
         SET holder = NULL, holder_pid = NULL, holder_started = NULL, held_until = NULL,
             due_at = coalesce((SELECT min(d.next_attempt_at) FROM message_deliveries d
                 WHERE (d.org_id, d.endpoint_id) = (l.org_id, l.endpoint_id) AND d.state = 'waiting'),
                 'infinity')
         FROM unnest($1, $2) AS w (org_id, endpoint_id)
         WHERE (l.org_id, l.endpoint_id) = (w.org_id, w.endpoint_id)",
    )
    .bind::<Array<BigInt>, _>(orgs)
    .bind::<Array<Text>, _>(ids)
    .execute(conn)
    .map(drop)
}

/// What became of a lane's attempts in a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LaneTally {
    /// When the first of them failed.
    pub(super) failed_at: Option<DateTime<Utc>>,
    /// Whether one succeeded.
    pub(super) succeeded: bool,
}

/// Notes since when a lane fails. Returns that time.
pub(super) fn note(
    conn: &mut PgConnection,
    (org_id, id): (i64, &str),
    tally: LaneTally,
) -> QueryResult<Option<DateTime<Utc>>> {
    let lane = l::table.find((org_id, id));
    let before: Option<Option<DateTime<Utc>>> =
        lane.select(l::failing_since).for_update().first(conn).optional()?;
    let since = if tally.succeeded { None } else { before.flatten().or(tally.failed_at) };
    if before.is_some_and(|before| before != since) {
        diesel::update(lane).set(l::failing_since.eq(since)).execute(conn)?;
    }
    Ok(since)
}
