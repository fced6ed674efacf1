//! Partitions of `usage_records`, one for each month (UTC). They are created ahead and on demand, and removed
//! by the retention settings. Owns `usage_months_gone`.
//!
//! Daily summaries, unique values and counters stay longer than their records. Usage from before [`horizon`]
//! is not accepted, so no event of a dropped month can come again, and the keys of the month go with its
//! records. The keys of a detached month stay, as its records do.

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

/// Partitions are created for so many months after the present one.
pub const MONTHS_AHEAD: u32 = 3;
/// Attaching and detaching wait for readers, and later queries wait behind them: no longer than this.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '3s'";
/// Bytes of a record, about.
const RECORD_BYTES: u32 = 200;
/// Keys that one statement deletes at most.
const MAX_DELETED_KEYS: i64 = 50_000;

/// The first day of a day's month.
#[must_use]
pub fn month_of(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}

/// The partitions that exist, as far as this process knows.
#[derive(Default)]
pub struct KnownPartitions(Mutex<BTreeSet<NaiveDate>>);

impl KnownPartitions {
    /// Creates the partitions of these months that do not exist; connects only when one is not known yet.
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

    /// Forgets all of them: one is gone.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Creates the partitions of these months that do not exist, each in a transaction of its own, and warns in
/// the log: a worker should have created them before. `conn` must not be inside a transaction: others wait
/// for the locks.
///
/// # Errors
/// Transient when readers delay the attaching of a partition for some seconds.
pub fn ensure(conn: &mut PgConnection, months: &[NaiveDate]) -> Result<(), Error> {
    for month in missing(conn, months)? {
        if crate::db::run_with_retries(conn, |conn| create(conn, month))? {
            let month = month.format("%Y-%m").to_string();
            tracing::warn!(
                month,
                "the partition of usage_records for this month was missing: created on demand"
            );
        }
    }
    Ok(())
}

/// Creates the partitions from the oldest month that usage may have to [`MONTHS_AHEAD`] months ahead; returns
/// how many were missing.
pub fn create_ahead(conn: &mut PgConnection, now: DateTime<Utc>, back_days: u16) -> Result<usize, Error> {
    let mut created = 0;
    for month in missing(conn, &expected_months(now, back_days))? {
        if crate::db::run_with_retries(conn, |conn| create(conn, month))? {
            created += 1;
            tracing::info!(month = month.format("%Y-%m").to_string(), "created a partition of usage_records");
        }
    }
    Ok(created)
}

/// The months that should have a partition.
fn expected_months(now: DateTime<Utc>, back_days: u16) -> Vec<NaiveDate> {
    let today = now.date_naive();
    let first = today.checked_sub_days(Days::new(u64::from(back_days))).map_or(today, month_of);
    let last = month_of(today).checked_add_months(Months::new(MONTHS_AHEAD)).unwrap_or(today);
    std::iter::successors(Some(first), |month| month.checked_add_months(Months::new(1)))
        .take_while(|month| *month <= last)
        .collect()
}

#[derive(QueryableByName)]
struct MonthRow {
    #[diesel(sql_type = Date)]
    month: NaiveDate,
}

/// The months without a partition.
fn missing(conn: &mut PgConnection, months: &[NaiveDate]) -> Result<Vec<NaiveDate>, Error> {
    let months: BTreeSet<NaiveDate> = months.iter().map(|month| month_of(*month)).collect();
    let rows: Vec<MonthRow> = diesel::sql_query(
        "SELECT month FROM unnest($1) AS m (month)
         WHERE NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'usage_partitions'::regnamespace
             AND relname = 'usage_records_' || to_char(month, 'YYYY_MM'))
         ORDER BY month",
    )
    .bind::<Array<Date>, _>(months.into_iter().collect::<Vec<_>>())
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.month).collect())
}

fn create(conn: &mut PgConnection, month: NaiveDate) -> Result<bool, Error> {
    conn.batch_execute(LOCK_TIMEOUT)?;
    let was_missing =
        diesel::select(diesel::dsl::sql::<Bool>("make_usage_partition(").bind::<Date, _>(month).sql(")"));
    Ok(was_missing.get_result(conn)?)
}

/// Nobody may report usage from before this instant: its records would be older than the retention. `None`:
/// records are kept for ever.
#[must_use]
pub fn horizon(retention_months: u16, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    first_kept_month(retention_months, now).map(|month| month.and_time(NaiveTime::MIN).and_utc())
}

fn first_kept_month(retention_months: u16, now: DateTime<Utc>) -> Option<NaiveDate> {
    let months = u32::from(retention_months);
    (months > 0).then(|| month_of(now.date_naive()).checked_sub_months(Months::new(months))).flatten()
}

/// Detaches or drops the oldest month that is older than the retention, and returns it. Drops only a closed
/// month: a daemon with a wrong clock must not delete open ones.
///
/// # Errors
/// Transient when readers of the month do not end within some seconds.
pub fn remove_oldest(
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
        delete_keys(conn, month)?;
    }
    let records = crate::db::run_with_retries(conn, |conn| remove(conn, month, mode, now))?;
    let (month_name, mode) = (month.format("%Y-%m").to_string(), mode_name(mode));
    tracing::info!(
        month = month_name,
        mode,
        records,
        "removed usage records that are older than the retention"
    );
    Ok(Some(month))
}

/// The oldest month that is older than the retention.
fn overdue(conn: &mut PgConnection, config: &Config, now: DateTime<Utc>) -> Result<Option<NaiveDate>, Error> {
    // A day later, so that no daemon whose clock is late still accepts usage of that month.
    let Some(first_kept) = now
        .checked_sub_days(Days::new(1))
        .and_then(|then| first_kept_month(config.usage_retention_months, then))
    else {
        return Ok(None);
    };
    Ok(oldest(conn)?.filter(|month| *month < first_kept))
}

/// The oldest month that is due to be dropped and that not every org has closed.
pub fn month_waiting_for_closing(
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
    let rows: Vec<MonthRow> = diesel::sql_query(
        "SELECT to_date(substring(c.relname FROM '^usage_records_(\\d{4}_\\d{2})$'), 'YYYY_MM') AS month
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'usage_records'::regclass AND c.relname ~ '^usage_records_\\d{4}_\\d{2}$'
         ORDER BY 1",
    )
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.month).collect())
}

/// The approximate number of records of each month that has any.
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
             (pg_relation_size(c.oid) + {RECORD_BYTES} - 1) / {RECORD_BYTES} AS records
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

/// Deletes the keys of a month, org by org, a bounded number at a time. Keys go before records: when this is
/// interrupted, the partition still exists, and the next turn goes on.
fn delete_keys(conn: &mut PgConnection, month: NaiveDate) -> Result<(), Error> {
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
            let deleted = diesel::sql_query(
                "DELETE FROM usage_keys WHERE org_id = $1 AND event_key = ANY (ARRAY(
                     SELECT event_key FROM usage_keys
                     WHERE org_id = $1 AND occurred_at >= $2 AND occurred_at < $3 LIMIT $4))",
            )
            .bind::<BigInt, _>(org_id)
            .bind::<Timestamptz, _>(from)
            .bind::<Timestamptz, _>(before)
            .bind::<BigInt, _>(MAX_DELETED_KEYS)
            .execute(conn)?;
            if deleted == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// The instants of a month's partition, `[from, before)`.
fn bounds(month: NaiveDate) -> (DateTime<Utc>, DateTime<Utc>) {
    let start = |month: NaiveDate| month.and_time(NaiveTime::MIN).and_utc();
    (start(month), start(month.checked_add_months(Months::new(1)).unwrap_or(month)))
}

fn partition(month: NaiveDate) -> String {
    month.format("usage_partitions.usage_records_%Y_%m").to_string()
}

/// Writes the month to `usage_months_gone`, then detaches or drops its partition.
fn remove(
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
    let summary: MonthSummary = diesel::sql_query(format!(
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
    .bind::<BigInt, _>(summary.records)
    .bind::<Nullable<Date>, _>(summary.last_day)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    conn.batch_execute(LOCK_TIMEOUT)?;
    diesel::sql_query("SELECT drop_usage_partition($1, $2)")
        .bind::<Date, _>(month)
        .bind::<Bool, _>(mode == RetentionMode::Detach)
        .execute(conn)?;
    Ok(summary.records)
}

/// The first local day whose records are all still there; `None`: those of every day are.
pub fn first_whole_day(conn: &mut PgConnection) -> Result<Option<NaiveDate>, Error> {
    use crate::schema::usage_months_gone::dsl::{last_day, usage_months_gone};
    let last: Option<NaiveDate> = usage_months_gone.select(diesel::dsl::max(last_day)).first(conn)?;
    Ok(last.and_then(|day| day.checked_add_days(Days::new(1))))
}

/// How many months lack a partition, and whether the default partition has any record.
pub fn state(conn: &mut PgConnection, now: DateTime<Utc>, back_days: u16) -> Result<(usize, bool), Error> {
    let missing = missing(conn, &expected_months(now, back_days))?.len();
    let has_strays = diesel::select(diesel::dsl::sql::<Bool>(
        "EXISTS (SELECT FROM usage_partitions.usage_records_default)",
    ))
    .get_result(conn)?;
    Ok((missing, has_strays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_and_three_months_ahead_have_partitions() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let names = |now: &str, back| -> Vec<String> {
            expected_months(at(now), back).iter().map(|month| month.format("%Y-%m").to_string()).collect()
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
        let found = horizon(2, now).map(|at| at.to_rfc3339());
        assert_eq!(found.as_deref(), Some("2026-01-01T00:00:00+00:00"));
    }
}
