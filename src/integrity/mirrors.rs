//! The mirrors of Stripe's objects, compared with the inbox. The code that projects events live projects the
//! inbox again into shadow tables, and both are compared row by row.
//!
//! The shadows are temporary tables with the names of the mirrors. They come first in the search path of this
//! one connection, whose notifications nobody hears ([`temporary_tables`]). The daemon may project more
//! events meanwhile: they are replayed too, and the comparison reads both sides in one snapshot.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use serde_json::Value;

use super::Progress;
use crate::db::{full_scan, temporary_tables};
use crate::error::Error;
use crate::stripe::project;

/// Differences reported for each table, at most.
const REPORTED: i64 = 20;
/// How often new events are replayed before the comparison. Its transaction replays what still came.
const ROUNDS: u32 = 10;

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Report {
    pub events: u64,
    /// Stripe events that wait or are quarantined: no mirror has them.
    pub waiting: u64,
    pub rows: u64,
    /// A sentence each: table, row, field, the stored value and the value by the events.
    pub differences: Vec<String>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Replays and compares. It changes nothing, notifies nobody and blocks nobody. `batch`: events of a
/// transaction.
///
/// # Errors
/// When the database fails, or the replay itself does.
pub fn verify(
    conn: &mut PgConnection,
    batch: u32,
    now: DateTime<Utc>,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    temporary_tables::begin(conn)?;
    let report = replay(conn, batch, now, progress);
    // Later statements of this connection must not read the shadows as mirrors.
    let cleaned = conn.batch_execute("DISCARD TEMP").and_then(|()| temporary_tables::end(conn));
    let report = report?;
    cleaned?;
    Ok(report)
}

fn replay(
    conn: &mut PgConnection,
    batch: u32,
    now: DateTime<Utc>,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    shadow(conn)?;
    let options = project::Options {
        batch,
        attempts: 1,
        // Live projection has made the orgs of customers; making them again would change what is compared.
        org_per_customer: false,
    };
    let mut report = Report::default();
    for _ in 0..ROUNDS {
        let new = conn.transaction(enqueue)?;
        project_all(conn, &options, now, &mut |done| {
            progress("stripe_inbox", report.events + done, report.events + new)
        })?;
        report.events += new;
        if new <= u64::from(batch) {
            break;
        }
    }
    conn.build_transaction().repeatable_read().run(|conn| {
        let new = enqueue(conn)?;
        report.events += new;
        project_all(conn, &options, now, &mut |_| {})?;
        project_failed(conn, &options, now)?;
        progress("mirrors", report.events, report.events);
        full_scan::configure(conn)?;
        report.waiting = count(conn, "coulomb.stripe_inbox_queue")?;
        report.differences = failed(conn)?;
        for table in project::tables() {
            let condition = match table {
                // Without a winning event, the row was only a lock for an event that failed.
                "stripe_objects" => "inbox_id IS NOT NULL",
                _ => "true",
            };
            compare(conn, table, "*", condition, &mut report)?;
        }
        // Links made by the API are inputs; the other columns are derived.
        let derived = "account, livemode, customer_id, metadata_ref, session_ref, session_key, trusted";
        let condition = "coalesce(metadata_ref, session_ref, session_key) IS NOT NULL";
        compare(conn, "stripe_customer_links", derived, condition, &mut report)
    })?;
    Ok(report)
}

fn shadow(conn: &mut PgConnection) -> Result<(), Error> {
    let beside = ["stripe_arrivals", "stripe_inbox_queue", "stripe_customer_links", "battery_effects_queue"];
    for table in project::tables().into_iter().chain(beside) {
        conn.batch_execute(&format!("CREATE TEMPORARY TABLE {table} (LIKE coulomb.{table} INCLUDING ALL)"))?;
    }
    // The replay must not see events that it does not replay.
    conn.batch_execute(
        "CREATE TEMPORARY TABLE verify_events (inbox_id bigint PRIMARY KEY);
         CREATE TEMPORARY VIEW stripe_inbox AS
             SELECT i.* FROM coulomb.stripe_inbox i
             WHERE EXISTS (SELECT FROM pg_temp.verify_events e WHERE e.inbox_id = i.inbox_id)",
    )?;
    Ok(())
}

/// Puts projected events that were not replayed yet on the shadow's queue; returns how many.
fn enqueue(conn: &mut PgConnection) -> Result<u64, Error> {
    let new = diesel::sql_query(
        "WITH new AS (
             INSERT INTO pg_temp.verify_events
             SELECT inbox_id FROM coulomb.stripe_inbox i
             WHERE NOT EXISTS (SELECT FROM coulomb.stripe_inbox_queue q WHERE q.inbox_id = i.inbox_id)
                 AND NOT EXISTS (SELECT FROM pg_temp.verify_events e WHERE e.inbox_id = i.inbox_id)
             RETURNING inbox_id)
         INSERT INTO pg_temp.stripe_inbox_queue (inbox_id) SELECT inbox_id FROM new",
    )
    .execute(conn)?;
    if new > 0 {
        conn.batch_execute("ANALYZE pg_temp.verify_events; ANALYZE pg_temp.stripe_inbox_queue")?;
    }
    Ok(u64::try_from(new).unwrap_or(u64::MAX))
}

fn project_all(
    conn: &mut PgConnection,
    options: &project::Options,
    now: DateTime<Utc>,
    done: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut taken = 0;
    loop {
        let step = project::step(conn, options, now)?;
        if step.taken() == 0 {
            return Ok(());
        }
        taken += step.taken();
        done(taken);
    }
}

/// Tries failed events again while fewer fail each time. An event may fail only because its object is not
/// there yet, and work once another event has made it, as it did live.
fn project_failed(
    conn: &mut PgConnection,
    options: &project::Options,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut before = u64::MAX;
    loop {
        let failed = count(conn, "pg_temp.stripe_inbox_queue")?;
        if failed == 0 || failed >= before {
            return Ok(());
        }
        before = failed;
        conn.batch_execute(
            "UPDATE pg_temp.stripe_inbox_queue
             SET attempts = 0, next_attempt_at = NULL, quarantined_at = NULL",
        )?;
        project_all(conn, options, now, &mut |_| {})?;
    }
}

/// Events that were projected live and cannot be projected now.
fn failed(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    #[derive(QueryableByName)]
    struct Failed {
        #[diesel(sql_type = Text)]
        event_id: String,
        #[diesel(sql_type = Nullable<Text>)]
        last_error: Option<String>,
    }
    let rows: Vec<Failed> = diesel::sql_query(
        "SELECT event_id, last_error FROM pg_temp.stripe_inbox_queue JOIN coulomb.stripe_inbox
             USING (inbox_id)
         ORDER BY inbox_id LIMIT $1",
    )
    .bind::<BigInt, _>(REPORTED)
    .load(conn)?;
    let line = |row: Failed| {
        let error = row.last_error.unwrap_or_default();
        format!("stripe_inbox {}: it was projected, but cannot be now: {error}", row.event_id)
    };
    Ok(rows.into_iter().map(line).collect())
}

#[derive(QueryableByName)]
struct DifferenceRow {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Nullable<Text>)]
    stored: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    rebuilt: Option<String>,
}

/// Compares these `columns` of the rows that fit `condition`.
fn compare(
    conn: &mut PgConnection,
    table: &str,
    columns: &str,
    condition: &str,
    report: &mut Report,
) -> Result<(), Error> {
    report.rows += count(conn, &format!("coulomb.{table} WHERE {condition}"))?;
    let keys = primary_key(conn, table)?;
    let pairs: Vec<String> = keys.iter().map(|key| format!("'{key}', {key}")).collect();
    let rows: Vec<DifferenceRow> = diesel::sql_query(format!(
        "SELECT jsonb_build_object({pairs})::text AS key, to_jsonb(s)::text AS stored,
             to_jsonb(r)::text AS rebuilt
         FROM (SELECT {columns} FROM coulomb.{table} WHERE {condition}) s
             FULL JOIN (SELECT {columns} FROM pg_temp.{table} WHERE {condition}) r USING ({keys})
         WHERE s IS DISTINCT FROM r ORDER BY {keys} LIMIT {REPORTED}",
        pairs = pairs.join(", "),
        keys = keys.join(", "),
    ))
    .load(conn)?;
    report.differences.extend(rows.iter().map(|row| format!("{table} {}", row.sentence(&keys))));
    Ok(())
}

impl DifferenceRow {
    /// A sentence: the row, and each field with both values.
    fn sentence(&self, keys: &[String]) -> String {
        let read = |json: &str| -> BTreeMap<String, Value> { serde_json::from_str(json).unwrap_or_default() };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let key = read(&self.key);
        let mut name: Vec<String> = keys
            .iter()
            .filter(|key| !matches!(key.as_str(), "account" | "livemode"))
            .filter_map(|column| key.get(column).map(text))
            .collect();
        if let Some(account) = key.get("account").map(text).filter(|account| !account.is_empty()) {
            name.push(format!("of {account}"));
        }
        if key.get("livemode") == Some(&Value::Bool(false)) {
            name.push("in test mode".to_owned());
        }
        let name = name.join(" ");
        let (Some(stored), Some(rebuilt)) = (&self.stored, &self.rebuilt) else {
            let side = if self.stored.is_none() {
                "is not there, but events make it"
            } else {
                "is there, but no event makes it"
            };
            return format!("{name}: {side}");
        };
        let (stored, rebuilt) = (read(stored), read(rebuilt));
        let differ = stored.iter().filter_map(|(field, value)| {
            let says = rebuilt.get(field).filter(|says| *says != value)?;
            Some(format!("{field} is {value}, events say {says}"))
        });
        format!("{name}: {}", differ.collect::<Vec<_>>().join("; "))
    }
}

fn primary_key(conn: &mut PgConnection, table: &str) -> Result<Vec<String>, Error> {
    #[derive(QueryableByName)]
    struct Column {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let columns: Vec<Column> = diesel::sql_query(
        "SELECT a.attname::text AS name
         FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
         WHERE i.indrelid = ('coulomb.' || $1)::regclass AND i.indisprimary ORDER BY k.place",
    )
    .bind::<Text, _>(table)
    .load(conn)?;
    Ok(columns.into_iter().map(|column| column.name).collect())
}

fn count(conn: &mut PgConnection, of: &str) -> Result<u64, Error> {
    let count: Count = diesel::sql_query(format!("SELECT count(*) AS count FROM {of}")).get_result(conn)?;
    Ok(count.count.unsigned_abs())
}

/// How many Stripe events the inbox has.
pub fn stored_events(conn: &mut PgConnection) -> Result<u64, Error> {
    count(conn, "stripe_inbox")
}

/// Empties the mirrors and puts every stored event on the queue again, in one transaction; returns how many.
///
/// # Errors
/// When the database fails; then nothing has changed.
pub fn rebuild(conn: &mut PgConnection) -> Result<usize, Error> {
    conn.transaction(|conn| {
        for table in project::tables() {
            conn.batch_execute(&format!("DELETE FROM {table}"))?;
        }
        project::requeue_everything(conn)
    })
}
