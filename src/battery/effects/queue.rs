//! Step 0, the queue: takes a batch of markers, has it worked on in one transaction, and retries what fails.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, SmallInt, Text, Timestamptz};

use super::waiting;
use crate::backoff;
use crate::billing::markers::Marker;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::panics;
use crate::realm::Realm;

/// Failed attempts after which a marker is parked among the waiting effects.
const ATTEMPTS: i16 = 5;

/// Works on a batch of markers.
pub(super) type Work<'a> = dyn Fn(&mut PgConnection, &BTreeSet<Marker>) -> Result<(), Error> + 'a;

/// Markers that are worked on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkerGroup {
    /// Links, orgs, mappings and subscriptions: what payments may wait for.
    Prerequisites,
    /// Everything that is paid or returned.
    Payments,
}

/// A marker that was taken off the queue.
#[derive(QueryableByName)]
struct QueuedMarker {
    #[diesel(sql_type = BigInt)]
    effect_id: i64,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    object_id: String,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

impl QueuedMarker {
    fn to_marker(&self) -> Marker {
        let realm = Realm { account: self.account.clone(), livemode: self.livemode };
        Marker { realm, kind: self.kind.clone(), id: self.object_id.clone() }
    }
}

/// Takes up to `limit` markers of a group and has `work` work on them; returns how many it took. If the batch
/// fails, each of its markers is tried alone.
///
/// # Errors
/// Only when the database is away or locks were lost. Then nothing has changed, and the next call tries
/// again.
pub(super) fn run_batch(
    conn: &mut PgConnection,
    group: MarkerGroup,
    limit: u32,
    now: DateTime<Utc>,
    work: &Work<'_>,
) -> Result<usize, Error> {
    let mut ids = Vec::new();
    let done = conn.transaction(|conn| {
        use_indexes(conn)?;
        let mut taken = take(conn, group, limit, now)?;
        if taken.is_empty() && group == MarkerGroup::Payments && waiting::requeue_overdue(conn, now)? > 0 {
            taken = take(conn, group, limit, now)?;
        }
        ids = taken.iter().map(|marker| marker.effect_id).collect();
        work_on(conn, &taken, work)
    });
    match done {
        Ok(()) => Ok(ids.len()),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => {
            for effect_id in &ids {
                run_alone(conn, *effect_id, now, work)?;
            }
            Ok(ids.len())
        }
    }
}

/// Works on one marker of a batch that failed.
fn run_alone(
    conn: &mut PgConnection,
    effect_id: i64,
    now: DateTime<Utc>,
    work: &Work<'_>,
) -> Result<(), Error> {
    let done = conn.transaction(|conn| {
        use_indexes(conn)?;
        let taken = take_one(conn, effect_id)?;
        work_on(conn, &taken, work)
    });
    match done {
        Err(error) if error.is_transient() => Err(error),
        Err(error) => retry_later(conn, effect_id, &error, now),
        Ok(()) => Ok(()),
    }
}

fn work_on(conn: &mut PgConnection, taken: &[QueuedMarker], work: &Work<'_>) -> Result<(), Error> {
    if taken.is_empty() {
        return Ok(());
    }
    let markers: BTreeSet<Marker> = taken.iter().map(QueuedMarker::to_marker).collect();
    panics::catch_as_error(|| work(conn, &markers))
}

/// Every look-up here has its index. Statements are planned once and used for long: a table that was empty at
/// that moment would else be scanned as a whole for each row.
fn use_indexes(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("SET LOCAL enable_seqscan = off")
}

type MarkerTypes = (BigInt, Text, Bool, Text, Text, SmallInt);
type MarkerRow = (i64, String, bool, String, String, i16);

/// SQL: takes the next markers whose kind is `$in` (`IN` or `NOT IN`) the list. The condition on the kinds is
/// that of the index `battery_effects_queue_wakers`.
macro_rules! take_markers {
    ($in:literal) => {
        concat!(
            "DELETE FROM battery_effects_queue
             WHERE effect_id = ANY (ARRAY (
                 SELECT effect_id
                 FROM battery_effects_queue
                 WHERE kind ",
            $in,
            " ('customer', 'mapping', 'org', 'subscription')
                     AND (next_attempt_at IS NULL OR next_attempt_at <= ?)
                 ORDER BY effect_id
                 LIMIT ?
                 FOR UPDATE SKIP LOCKED))
             RETURNING effect_id, account, livemode, kind, object_id, attempts"
        )
    };
}

statement!(TakePrerequisites -> MarkerTypes: take_markers!("IN"));
statement!(TakePayments -> MarkerTypes: take_markers!("NOT IN"));

fn take(
    conn: &mut PgConnection,
    group: MarkerGroup,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Vec<QueuedMarker>, Error> {
    let limit = i64::from(limit);
    let rows: Vec<MarkerRow> = match group {
        MarkerGroup::Prerequisites => Prepared::<TakePrerequisites>::new()
            .bind_one::<Timestamptz, _>(now)
            .bind_one::<BigInt, _>(limit)
            .load(conn)?,
        MarkerGroup::Payments => Prepared::<TakePayments>::new()
            .bind_one::<Timestamptz, _>(now)
            .bind_one::<BigInt, _>(limit)
            .load(conn)?,
    };
    let marker = |(effect_id, account, livemode, kind, object_id, attempts)| QueuedMarker {
        effect_id,
        account,
        livemode,
        kind,
        object_id,
        attempts,
    };
    Ok(rows.into_iter().map(marker).collect())
}

/// Takes this marker, unless it is gone or another transaction has it.
fn take_one(conn: &mut PgConnection, effect_id: i64) -> Result<Vec<QueuedMarker>, Error> {
    Ok(diesel::sql_query(
        "DELETE FROM battery_effects_queue
         WHERE effect_id = ANY (ARRAY (
             SELECT effect_id
             FROM battery_effects_queue
             WHERE effect_id = $1
             FOR UPDATE SKIP LOCKED))
         RETURNING effect_id, account, livemode, kind, object_id, attempts",
    )
    .bind::<BigInt, _>(effect_id)
    .load(conn)?)
}

/// Puts a marker that failed back on the queue, for 1, 4, 16, … seconds later. After the last attempt it is
/// parked.
fn retry_later(
    conn: &mut PgConnection,
    effect_id: i64,
    error: &Error,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let message = crate::text::replace_nul(&error.to_string());
    tracing::warn!(effect_id, error = message, "an effect on a battery failed");
    conn.transaction(|conn| {
        let Some(taken) = take_one(conn, effect_id)?.pop() else { return Ok(()) };
        let attempts = taken.attempts.saturating_add(1);
        if attempts >= ATTEMPTS {
            return waiting::park(conn, &taken.to_marker(), &message, now);
        }
        diesel::sql_query(
            "INSERT INTO battery_effects_queue
                 (account, livemode, kind, object_id, attempts, next_attempt_at, last_error)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind::<Text, _>(&taken.account)
        .bind::<Bool, _>(taken.livemode)
        .bind::<Text, _>(&taken.kind)
        .bind::<Text, _>(&taken.object_id)
        .bind::<SmallInt, _>(attempts)
        .bind::<Timestamptz, _>(now + backoff::wait(taken.attempts))
        .bind::<Text, _>(&message)
        .execute(conn)?;
        Ok(())
    })
}
