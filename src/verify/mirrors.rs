//! The mirrors of Stripe's objects against the inbox. It is projected again into a shadow of the mirrors, by
//! the very code that projects it live, and both are compared row by row.
//!
//! The shadow is made of temporary tables of the same names: they come first in the search path of this one
//! connection, which works apart ([`apart`]). Events go on being projected meanwhile; what has been is
//! replayed too, and both sides are compared in one state of the database.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use serde_json::Value;

use super::Watch;
use crate::db::{apart, pass};
use crate::error::Error;
use crate::stripe::project;

/// Differences told per table, at most.
const TOLD: i64 = 20;
/// Times that is replayed what came meanwhile, before the rest is in the comparison's own transaction.
const ROUNDS: u32 = 10;

/// What the comparison found.
#[derive(Debug, Default)]
pub struct Report {
    pub events: u64,
    /// Stripe events that wait or are quarantined: nothing is derived of them.
    pub waiting: u64,
    pub rows: u64,
    /// One line each: table, row, field, what is stored and what the events say.
    pub differences: Vec<String>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Replays and compares; nothing is changed, nobody is told and nobody waits. `batch`: events of a
/// transaction.
///
/// # Errors
/// When the database fails, or the replay itself does.
pub fn verify(
    conn: &mut PgConnection,
    batch: u32,
    now: DateTime<Utc>,
    watch: Watch<'_>,
) -> Result<Report, Error> {
    apart::begin(conn)?;
    let report = replay(conn, batch, now, watch);
    // The shadow must not be taken for the mirrors by what comes next.
    let cleaned = conn.batch_execute("DISCARD TEMP").and_then(|()| apart::end(conn));
    let report = report?;
    cleaned?;
    Ok(report)
}

fn replay(
    conn: &mut PgConnection,
    batch: u32,
    now: DateTime<Utc>,
    watch: Watch<'_>,
) -> Result<Report, Error> {
    shadow(conn)?;
    let options = project::Options {
        batch,
        attempts: 1,
        // Orgs made for customers are there already; making them again would change what is compared.
        org_per_customer: false,
    };
    let mut report = Report::default();
    for _ in 0..ROUNDS {
        let new = conn.transaction(enqueue)?;
        project_all(conn, &options, now, &mut |done| {
            watch("stripe_inbox", report.events + done, report.events + new)
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
        watch("mirrors", report.events, report.events);
        pass::begin(conn)?;
        report.waiting = count(conn, "coulomb.stripe_inbox_queue")?;
        report.differences = failed(conn)?;
        for table in project::tables() {
            let meant = match table {
                // An object that is held by no event was only locked for one that failed.
                "stripe_objects" => "inbox_id IS NOT NULL",
                _ => "true",
            };
            compare(conn, table, "*", meant, &mut report)?;
        }
        // What the API linked is an input, the rest of a link is derived.
        let derived = "account, livemode, customer_id, metadata_ref, session_ref, session_key, trusted";
        let meant = "coalesce(metadata_ref, session_ref, session_key) IS NOT NULL";
        compare(conn, "stripe_customer_links", derived, meant, &mut report)
    })?;
    Ok(report)
}

fn shadow(conn: &mut PgConnection) -> Result<(), Error> {
    let beside = ["stripe_arrivals", "stripe_inbox_queue", "stripe_customer_links", "battery_effects_queue"];
    for table in project::tables().into_iter().chain(beside) {
        conn.batch_execute(&format!("CREATE TEMPORARY TABLE {table} (LIKE coulomb.{table} INCLUDING ALL)"))?;
    }
    // Events that are not replayed must not be seen either.
    conn.batch_execute(
        "CREATE TEMPORARY TABLE verify_events (inbox_id bigint PRIMARY KEY);
         CREATE TEMPORARY VIEW stripe_inbox AS
             SELECT i.* FROM coulomb.stripe_inbox i
             WHERE EXISTS (SELECT FROM pg_temp.verify_events e WHERE e.inbox_id = i.inbox_id)",
    )?;
    Ok(())
}

/// Puts on the shadow's queue what has been projected and is not replayed yet; returns how many events.
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

/// An event that could not be projected may have been one whose object another has taken since: then it can
/// be, as it was live.
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

/// Events that were projected once, and cannot be now.
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
    .bind::<BigInt, _>(TOLD)
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

/// Compares these `columns` of the rows that are `meant`.
fn compare(
    conn: &mut PgConnection,
    table: &str,
    columns: &str,
    meant: &str,
    report: &mut Report,
) -> Result<(), Error> {
    report.rows += count(conn, &format!("coulomb.{table} WHERE {meant}"))?;
    let keys = primary_key(conn, table)?;
    let pairs: Vec<String> = keys.iter().map(|key| format!("'{key}', {key}")).collect();
    let rows: Vec<DifferenceRow> = diesel::sql_query(format!(
        "SELECT jsonb_build_object({pairs})::text AS key, to_jsonb(s)::text AS stored,
             to_jsonb(r)::text AS rebuilt
         FROM (SELECT {columns} FROM coulomb.{table} WHERE {meant}) s
             FULL JOIN (SELECT {columns} FROM pg_temp.{table} WHERE {meant}) r USING ({keys})
         WHERE s IS DISTINCT FROM r ORDER BY {keys} LIMIT {TOLD}",
        pairs = pairs.join(", "),
        keys = keys.join(", "),
    ))
    .load(conn)?;
    report.differences.extend(rows.iter().map(|row| format!("{table} {}", row.told(&keys))));
    Ok(())
}

impl DifferenceRow {
    /// The row and its fields: what is stored, and what the events say.
    fn told(&self, keys: &[String]) -> String {
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

/// Stripe events in the inbox.
pub fn stored_events(conn: &mut PgConnection) -> Result<u64, Error> {
    count(conn, "stripe_inbox")
}

/// Empties the mirrors and puts every stored event back on the queue, in one transaction; returns how many.
///
/// # Errors
/// When the database fails; nothing has changed then.
pub fn rebuild(conn: &mut PgConnection) -> Result<usize, Error> {
    conn.transaction(|conn| {
        for table in project::tables() {
            conn.batch_execute(&format!("DELETE FROM {table}"))?;
        }
        project::requeue_everything(conn)
    })
}
