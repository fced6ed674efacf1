//! Months of the audit log: each is a partition, made ahead and dropped by the retention.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Date, Nullable};

use crate::error::Error;

/// Partitions are made for so many months after the present one.
const MONTHS_AHEAD: u32 = 3;
/// Attaching and dropping wait for readers, and later commands wait behind them: no longer than this.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";

fn month_of(day: NaiveDate) -> NaiveDate {
    day.with_day(1).unwrap_or(day)
}

/// Makes the partitions of this month and the next ones; returns how many were missing.
///
/// # Errors
/// Transient when readers delay it for some seconds. Until it succeeds, entries go to the default partition;
/// they are moved when it does.
pub fn create_ahead(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    let mut made = 0;
    for ahead in 0..=MONTHS_AHEAD {
        let this = month_of(now.date_naive());
        let month = this.checked_add_months(Months::new(ahead)).unwrap_or(this);
        let was_missing = crate::db::run_with_retries(conn, |conn| {
            conn.batch_execute(LOCK_TIMEOUT)?;
            let call = diesel::dsl::sql::<Bool>("make_audit_partition(").bind::<Date, _>(month).sql(")");
            Ok(diesel::select(call).get_result::<bool>(conn)?)
        })?;
        made += usize::from(was_missing);
    }
    Ok(made)
}

/// Drops the oldest month whose entries are older than `months` months, and returns it. 0: none ever is.
///
/// # Errors
/// Transient when readers delay it for some seconds.
pub fn drop_oldest(
    conn: &mut PgConnection,
    months: u16,
    now: DateTime<Utc>,
) -> Result<Option<NaiveDate>, Error> {
    #[derive(QueryableByName)]
    struct Oldest {
        #[diesel(sql_type = Nullable<Date>)]
        month: Option<NaiveDate>,
    }
    let this = month_of(now.date_naive());
    let Some(kept) = this.checked_sub_months(Months::new(u32::from(months))).filter(|_| months > 0) else {
        return Ok(None);
    };
    let oldest: Oldest = diesel::sql_query(
        "SELECT min(to_date(substring(c.relname FROM '^audit_log_(\\d{4}_\\d{2})$'), 'YYYY_MM')) AS month
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'audit_log'::regclass AND c.relname ~ '^audit_log_\\d{4}_\\d{2}$'",
    )
    .get_result(conn)?;
    // The database drops no month that ended less than four weeks ago.
    let is_over = |month: &NaiveDate| {
        let four_weeks_later =
            month.checked_add_months(Months::new(1)).and_then(|end| end.checked_add_days(Days::new(29)));
        four_weeks_later.is_some_and(|day| day <= now.date_naive())
    };
    let Some(month) = oldest.month.filter(|month| *month < kept && is_over(month)) else { return Ok(None) };
    crate::db::run_with_retries(conn, |conn| {
        conn.batch_execute(LOCK_TIMEOUT)?;
        diesel::sql_query("SELECT drop_audit_partition($1)").bind::<Date, _>(month).execute(conn)?;
        Ok(())
    })?;
    tracing::info!(
        month = month.format("%Y-%m").to_string(),
        "dropped audit entries older than the retention"
    );
    Ok(Some(month))
}
