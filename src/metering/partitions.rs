//! Partitions of `usage_records`: a month (UTC) each, made ahead and on demand, taken away by the retention
//! settings. Owns `usage_months_gone`.
//!
//! Daily summaries, unique values and counters outlive the records that they were counted from: they are the
//! books. What is older than [`horizon`] is not taken any more, so the keys of dropped months can go with
//! their records: no event of that time can come again. The keys of detached months stay, as their records
//! do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Date, Nullable, Text, Timestamptz};

use super::closings;
use crate::config::{Config, RetentionMode};
use crate::error::Error;

/// Months made ahead of the running one.
pub const AHEAD: u32 = 3;
/// Attaching and detaching wait for readers, and whoever comes later waits behind them: not longer than this.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'";
/// Bytes of a record, about.
const BYTES: u32 = 200;
/// Keys deleted in one statement: those of one org, at most so many.
const KEYS: i64 = 50_000;

/// The first day of a day's month.
#[must_use]
pub fn month_of(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}

/// Partitions that this process knows to be there.
#[derive(Default)]
pub struct Known(Mutex<BTreeSet<NaiveDate>>);

impl Known {
    /// Makes sure that the partitions of these months are there; asks for a connection only when one of them
    /// is not known yet.
    ///
    /// # Errors
    /// As [`ensure`].
    pub fn ensure(
        &self,
        months: &[NaiveDate],
        connect: impl FnOnce() -> Result<PgConnection, Error>,
    ) -> Result<(), Error> {
        let unknown: Vec<NaiveDate> = {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            months.iter().map(|month| month_of(*month)).filter(|month| !known.contains(month)).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        ensure(&mut connect()?, &unknown)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(unknown);
        Ok(())
    }

    /// Forgets them all: one that was thought to be there is gone.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Makes the partitions of these months that are not there, each in a transaction of its own, and says so in
/// the log: a worker should have made them long before. `conn` must not be inside a transaction: others wait
/// for what this one locks.
///
/// # Errors
/// When the database fails, or readers keep a partition from being attached for longer than a few seconds
/// (transient).
pub fn ensure(conn: &mut PgConnection, months: &[NaiveDate]) -> Result<(), Error> {
    for month in missing(conn, months)? {
        if crate::db::run_with_retries(conn, |conn| make(conn, month))? {
            let month = month.format("%Y-%m").to_string();
            tracing::warn!(
                month,
                "the partition of usage_records for this month was missing: made on demand"
            );
        }
    }
    Ok(())
}

/// Makes the partitions from the oldest month of the window to [`AHEAD`] months ahead; returns how many were
/// not there.
///
/// # Errors
/// As [`ensure`].
pub fn keep_ahead(conn: &mut PgConnection, now: DateTime<Utc>, back_days: u16) -> Result<usize, Error> {
    let mut made = 0;
    for month in missing(conn, &wanted(now, back_days))? {
        if crate::db::run_with_retries(conn, |conn| make(conn, month))? {
            made += 1;
            tracing::info!(month = month.format("%Y-%m").to_string(), "made a partition of usage_records");
        }
    }
    Ok(made)
}

/// The months that should have a partition.
fn wanted(now: DateTime<Utc>, back_days: u16) -> Vec<NaiveDate> {
    let today = now.date_naive();
    let first = today.checked_sub_days(Days::new(u64::from(back_days))).map_or(today, month_of);
    let last = month_of(today).checked_add_months(Months::new(AHEAD)).unwrap_or(today);
    std::iter::successors(Some(first), |month| month.checked_add_months(Months::new(1)))
        .take_while(|month| *month <= last)
        .collect()
}

#[derive(QueryableByName)]
struct Month {
    #[diesel(sql_type = Date)]
    month: NaiveDate,
}

/// Those of `months` that have no partition.
fn missing(conn: &mut PgConnection, months: &[NaiveDate]) -> Result<Vec<NaiveDate>, Error> {
    let months: BTreeSet<NaiveDate> = months.iter().map(|month| month_of(*month)).collect();
    let rows: Vec<Month> = diesel::sql_query(
        "SELECT month FROM unnest($1) AS m (month)
         WHERE NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'usage_partitions'::regnamespace
             AND relname = 'usage_records_' || to_char(month, 'YYYY_MM'))
         ORDER BY month",
    )
    .bind::<Array<Date>, _>(months.into_iter().collect::<Vec<_>>())
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.month).collect())
}

fn make(conn: &mut PgConnection, month: NaiveDate) -> Result<bool, Error> {
    conn.batch_execute(LOCK_TIMEOUT)?;
    let made =
        diesel::select(diesel::dsl::sql::<Bool>("make_usage_partition(").bind::<Date, _>(month).sql(")"));
    Ok(made.get_result(conn)?)
}

/// The instant before which usage is not taken, whatever the key: its records would be older than the
/// retention. `None`: no end.
#[must_use]
pub fn horizon(retention_months: u16, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    first_kept(retention_months, now).map(|month| month.and_time(NaiveTime::MIN).and_utc())
}

fn first_kept(retention_months: u16, now: DateTime<Utc>) -> Option<NaiveDate> {
    let months = u32::from(retention_months);
    (months > 0).then(|| month_of(now.date_naive()).checked_sub_months(Months::new(months))).flatten()
}

/// Takes away the oldest month that is older than the retention, if there is one; returns which. Records are
/// dropped only from a month that is closed: a daemon with a wrong clock must not delete what is still open.
///
/// # Errors
/// When the database fails, or readers of the month do not end within a few seconds (transient).
pub fn retire(
    conn: &mut PgConnection,
    config: &Config,
    now: DateTime<Utc>,
) -> Result<Option<NaiveDate>, Error> {
    let Some(month) = overdue(conn, config, now)? else { return Ok(None) };
    let mode = config.usage_retention_mode;
    if mode == RetentionMode::Drop {
        if !closings::is_closed_by_all(conn, month)? {
            return Ok(None);
        }
        forget_keys(conn, month)?;
    }
    let records = crate::db::run_with_retries(conn, |conn| take_away(conn, month, mode, now))?;
    let (month_name, mode) = (month.format("%Y-%m").to_string(), mode_name(mode));
    tracing::info!(month = month_name, mode, records, "took away usage records older than the retention");
    Ok(Some(month))
}

/// The oldest month that is older than the retention.
fn overdue(conn: &mut PgConnection, config: &Config, now: DateTime<Utc>) -> Result<Option<NaiveDate>, Error> {
    // A day late, so that no daemon whose clock is behind still takes usage of that month.
    let Some(first_kept) =
        now.checked_sub_days(Days::new(1)).and_then(|then| first_kept(config.usage_retention_months, then))
    else {
        return Ok(None);
    };
    Ok(oldest(conn)?.filter(|month| *month < first_kept))
}

/// The oldest month whose records would be dropped if every org had closed it.
pub fn waits_for_closing(
    conn: &mut PgConnection,
    config: &Config,
    now: DateTime<Utc>,
) -> Result<Option<NaiveDate>, Error> {
    if config.usage_retention_mode != RetentionMode::Drop {
        return Ok(None);
    }
    let Some(month) = overdue(conn, config, now)? else { return Ok(None) };
    Ok(if closings::is_closed_by_all(conn, month)? { None } else { Some(month) })
}

fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Detach => "detach",
        RetentionMode::Drop => "drop",
    }
}

fn oldest(conn: &mut PgConnection) -> Result<Option<NaiveDate>, Error> {
    Ok(all(conn)?.into_iter().next())
}

/// The months that have a partition, in order.
pub fn all(conn: &mut PgConnection) -> Result<Vec<NaiveDate>, Error> {
    let rows: Vec<Month> = diesel::sql_query(
        "SELECT to_date(substring(c.relname FROM '^usage_records_(\\d{4}_\\d{2})$'), 'YYYY_MM') AS month
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'usage_records'::regclass AND c.relname ~ '^usage_records_\\d{4}_\\d{2}$'
         ORDER BY 1",
    )
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.month).collect())
}

/// About how many records each month has, months without any left out.
pub fn sizes(conn: &mut PgConnection) -> Result<BTreeMap<NaiveDate, u64>, Error> {
    #[derive(QueryableByName)]
    struct Size {
        #[diesel(sql_type = Date)]
        month: NaiveDate,
        #[diesel(sql_type = BigInt)]
        records: i64,
    }
    let rows: Vec<Size> = diesel::sql_query(format!(
        "SELECT to_date(substring(c.relname FROM '^usage_records_(\\d{{4}}_\\d{{2}})$'), 'YYYY_MM') AS month,
             (pg_relation_size(c.oid) + {BYTES} - 1) / {BYTES} AS records
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'usage_records'::regclass AND c.relname ~ '^usage_records_\\d{{4}}_\\d{{2}}$'
         UNION ALL
         SELECT date_trunc('month', occurred_at AT TIME ZONE 'UTC')::date, count(*)
         FROM usage_partitions.usage_records_default GROUP BY 1"
    ))
    .load(conn)?;
    let mut sizes = BTreeMap::new();
    for row in rows.into_iter().filter(|row| row.records > 0) {
        *sizes.entry(row.month).or_default() += row.records.unsigned_abs();
    }
    Ok(sizes)
}

/// Deletes the keys of a month, org by org, a bounded number at a time. They go before the records do: if it
/// ends in between, the next turn goes on, since the partition is still there.
fn forget_keys(conn: &mut PgConnection, month: NaiveDate) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct Org {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
    }
    let (from, before) = bounds(month);
    let orgs: Vec<Org> =
        diesel::sql_query(format!("SELECT DISTINCT org_id FROM {}", partition(month))).load(conn)?;
    for Org { org_id } in orgs {
        loop {
            let gone = diesel::sql_query(
                "DELETE FROM usage_keys WHERE org_id = $1 AND event_key = ANY (ARRAY(
                     SELECT event_key FROM usage_keys
                     WHERE org_id = $1 AND occurred_at >= $2 AND occurred_at < $3 LIMIT $4))",
            )
            .bind::<BigInt, _>(org_id)
            .bind::<Timestamptz, _>(from)
            .bind::<Timestamptz, _>(before)
            .bind::<BigInt, _>(KEYS)
            .execute(conn)?;
            if gone == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// The instants that a month's partition holds, `[from, before)`.
fn bounds(month: NaiveDate) -> (DateTime<Utc>, DateTime<Utc>) {
    let start = |month: NaiveDate| month.and_time(NaiveTime::MIN).and_utc();
    (start(month), start(month.checked_add_months(Months::new(1)).unwrap_or(month)))
}

fn partition(month: NaiveDate) -> String {
    month.format("usage_partitions.usage_records_%Y_%m").to_string()
}

/// Writes down what goes, and lets it go.
fn take_away(
    conn: &mut PgConnection,
    month: NaiveDate,
    mode: RetentionMode,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    #[derive(QueryableByName)]
    struct MonthSummary {
        #[diesel(sql_type = BigInt)]
        records: i64,
        #[diesel(sql_type = Nullable<Date>)]
        last_day: Option<NaiveDate>,
    }
    let held: MonthSummary = diesel::sql_query(format!(
        "SELECT count(*) AS records, max(day) AS last_day FROM {}",
        partition(month)
    ))
    .get_result(conn)?;
    diesel::sql_query(
        "INSERT INTO usage_months_gone AS g VALUES ($1, $2, $3, $4, $5) ON CONFLICT (month) DO UPDATE
         SET mode = excluded.mode, records = g.records + excluded.records,
             last_day = greatest(g.last_day, excluded.last_day)",
    )
    .bind::<Date, _>(month)
    .bind::<Text, _>(mode_name(mode))
    .bind::<BigInt, _>(held.records)
    .bind::<Nullable<Date>, _>(held.last_day)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    conn.batch_execute(LOCK_TIMEOUT)?;
    diesel::sql_query("SELECT drop_usage_partition($1, $2)")
        .bind::<Date, _>(month)
        .bind::<Bool, _>(mode == RetentionMode::Detach)
        .execute(conn)?;
    Ok(held.records)
}

/// The first local day of which every record is still there; `None`: all are.
pub fn first_whole_day(conn: &mut PgConnection) -> Result<Option<NaiveDate>, Error> {
    use crate::schema::usage_months_gone::dsl::{last_day, usage_months_gone};
    let last: Option<NaiveDate> = usage_months_gone.select(diesel::dsl::max(last_day)).first(conn)?;
    Ok(last.and_then(|day| day.checked_add_days(Days::new(1))))
}

/// How many of the months that should have a partition have none, and whether anything lies in the default
/// partition.
pub fn state(conn: &mut PgConnection, now: DateTime<Utc>, back_days: u16) -> Result<(usize, bool), Error> {
    let lacking = missing(conn, &wanted(now, back_days))?.len();
    let strays = diesel::select(diesel::dsl::sql::<Bool>(
        "EXISTS (SELECT FROM usage_partitions.usage_records_default)",
    ))
    .get_result(conn)?;
    Ok((lacking, strays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_and_three_months_ahead_have_partitions() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let names = |now: &str, back| -> Vec<String> {
            wanted(at(now), back).iter().map(|month| month.format("%Y-%m").to_string()).collect()
        };
        assert_eq!(
            names("2026-11-21T00:00:00Z", 35),
            ["2026-10", "2026-11", "2026-12", "2027-01", "2027-02"]
        );
        assert_eq!(names("2026-03-01T00:00:00Z", 35).first().map(String::as_str), Some("2026-01"));
        assert_eq!(names("2026-03-31T00:00:00Z", 0).len(), 4);
    }

    #[test]
    fn the_horizon_is_the_start_of_a_month() {
        let now = "2026-03-31T12:00:00Z".parse().expect("a time");
        assert_eq!(horizon(0, now), None);
        let told = horizon(2, now).map(|at| at.to_rfc3339());
        assert_eq!(told.as_deref(), Some("2026-01-01T00:00:00+00:00"));
    }
}
