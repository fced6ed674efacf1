//! Computes a day of a meter that does not add up (max, latest, unique) again after an event was taken back:
//! from the day's records, and only when the event made the day's value.
//!
//! The row of the day is locked, so nobody else changes it. Each statement sees what was committed when it
//! began: everything from those who had the lock before.

use chrono::NaiveDate;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Numeric, Text, Timestamptz, Uuid as SqlUuid};

use crate::error::Error;
use crate::metering::digest::value_digest;
use crate::metering::meters::Aggregation;
use crate::metering::usage::{Metered, Usage};

/// How long the day's records may be searched. Usage of this series and day waits meanwhile.
const TIME_LIMIT: &str = "SET LOCAL statement_timeout = '1s'";

/// The valid records of the series and day. A record that occurred outside these three days is marked as
/// moved.
const VALID_RECORDS: &str = "
    SELECT r.quantity, r.occurred_at, r.value
    FROM usage_records r
    WHERE r.org_id = $1 AND r.series_id = $2 AND r.day = $3 AND r.correction % 2 = 0
      AND (r.occurred_at >= ($3 - 1)::timestamp AT TIME ZONE 'UTC'
           AND r.occurred_at < ($3 + 2)::timestamp AT TIME ZONE 'UTC' OR r.moved)
      AND NOT EXISTS (
          SELECT FROM usage_records v
          WHERE v.org_id = $1 AND v.occurred_at = r.occurred_at AND v.event_key = r.event_key
            AND v.meter_id = r.meter_id AND v.correction = r.correction + 1 AND v.day = $3)";

/// Computes the day of a reversal again, after the reversal is written.
///
/// # Errors
/// [`Error::Busy`] when the day has too many records to be searched in time.
pub(super) fn recount_day(conn: &mut PgConnection, reversal: &Usage) -> Result<(), Error> {
    for metered in reversal.metered.iter().filter(|metered| metered.series.meter.aggregation.is_recounted()) {
        conn.batch_execute(TIME_LIMIT)?;
        let result = match metered.series.meter.aggregation {
            Aggregation::Unique => unique(conn, reversal.day, metered),
            Aggregation::Max => max(conn, reversal.day, metered),
            _ => latest(conn, reversal, metered),
        };
        result.map_err(|error| match error {
            Error::Database(error) if error.to_string().contains("statement timeout") => Error::Busy(
                "the day has so many records that it cannot be corrected now: try again when fewer come",
            ),
            error => error,
        })?;
    }
    Ok(())
}

fn unique(conn: &mut PgConnection, day: NaiveDate, metered: &Metered) -> Result<(), Error> {
    let value = metered.value.as_deref().unwrap_or_default();
    diesel::sql_query(format!(
        "WITH deleted AS (
             DELETE FROM usage_uniques
             WHERE org_id = $1 AND series_id = $2 AND day = $3 AND value_digest = $4
               AND NOT EXISTS (SELECT FROM ({VALID_RECORDS}) s WHERE s.value = $5)
             RETURNING 1)
         UPDATE daily_summaries SET quantity = quantity - (SELECT count(*) FROM deleted)
         WHERE org_id = $1 AND series_id = $2 AND day = $3"
    ))
    .bind::<BigInt, _>(metered.series.org_id)
    .bind::<BigInt, _>(metered.series.series_id)
    .bind::<Date, _>(day)
    .bind::<SqlUuid, _>(value_digest(value))
    .bind::<Text, _>(value)
    .execute(conn)?;
    Ok(())
}

fn max(conn: &mut PgConnection, day: NaiveDate, metered: &Metered) -> Result<(), Error> {
    diesel::sql_query(format!(
        "UPDATE daily_summaries
         SET quantity = coalesce((SELECT max(s.quantity) FROM ({VALID_RECORDS}) s), 0)
         WHERE org_id = $1 AND series_id = $2 AND day = $3 AND quantity = $4"
    ))
    .bind::<BigInt, _>(metered.series.org_id)
    .bind::<BigInt, _>(metered.series.series_id)
    .bind::<Date, _>(day)
    .bind::<Numeric, _>(-metered.quantity)
    .execute(conn)?;
    Ok(())
}

fn latest(conn: &mut PgConnection, reversal: &Usage, metered: &Metered) -> Result<(), Error> {
    diesel::sql_query(format!(
        "WITH last AS (
             SELECT s.quantity, s.occurred_at FROM ({VALID_RECORDS}) s
             ORDER BY s.occurred_at DESC, s.quantity DESC LIMIT 1)
         UPDATE daily_summaries
         SET quantity = coalesce((SELECT quantity FROM last), 0), latest_at = (SELECT occurred_at FROM last)
         WHERE org_id = $1 AND series_id = $2 AND day = $3 AND quantity = $4 AND latest_at = $5"
    ))
    .bind::<BigInt, _>(metered.series.org_id)
    .bind::<BigInt, _>(metered.series.series_id)
    .bind::<Date, _>(reversal.day)
    .bind::<Numeric, _>(-metered.quantity)
    .bind::<Timestamptz, _>(reversal.occurred_at)
    .execute(conn)?;
    Ok(())
}
