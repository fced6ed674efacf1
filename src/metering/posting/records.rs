//! Writes records by COPY, directly into the partition of their month. Owns the rows of `usage_records`.

use std::cell::Cell;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::pg::{CopyTarget, Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::AstPass;
use diesel::sql_types::{BigInt, Bool, Timestamptz, Uuid as SqlUuid};

use super::binary::{self, amount, days, field, json, micros, null, numeric};
use super::keys::Key;
use crate::error::Error;
use crate::metering::usage::{Metered, Usage};
use crate::schema::usage_records;

const COLUMNS: [&str; 23] = [
    "org_id",
    "series_id",
    "occurred_at",
    "received_at",
    "event_key",
    "meter_id",
    "rate_card_id",
    "day",
    "billing_period",
    "correction",
    "quantity",
    "cost",
    "battery_units",
    "event_id",
    "source",
    "subject",
    "value",
    "moved",
    "battery_batch",
    "billing_start",
    "own_day",
    "pricing",
    "labels",
];

/// The first day of the month (UTC) whose partition holds an instant.
#[must_use]
pub(crate) fn month_of(at: DateTime<Utc>) -> NaiveDate {
    at.date_naive().with_day(1).expect("every month has a first day")
}

thread_local! {
    /// diesel asks a type, not a value, for the name of the target of COPY.
    static MONTH: Cell<NaiveDate> = const { Cell::new(NaiveDate::MIN) };
}

/// The partition of the month in [`MONTH`].
struct Partition;

impl CopyTarget for Partition {
    type Table = usage_records::table;
    type SqlType = usage_records::SqlType;

    fn walk_target(mut out: AstPass<'_, '_, Pg>) -> QueryResult<()> {
        out.push_sql(
            &MONTH.with(|month| month.get().format("usage_partitions.usage_records_%Y_%m").to_string()),
        );
        let mut before = " (";
        for column in COLUMNS {
            out.push_sql(before);
            out.push_sql(column);
            before = ", ";
        }
        out.push_sql(")");
        Ok(())
    }
}

/// Copies the records of these usage events. `batch` names the ledger entries that burn their battery units.
/// The partitions exist.
pub(super) fn copy(conn: &mut PgConnection, usage: &[&Usage], batch: i64) -> Result<(), Error> {
    let mut months: Vec<NaiveDate> = usage.iter().map(|usage| month_of(usage.occurred_at)).collect();
    months.sort_unstable();
    months.dedup();
    for month in months {
        let mut rows: Vec<&Usage> =
            usage.iter().copied().filter(|usage| month_of(usage.occurred_at) == month).collect();
        // In the order of the index, so that neighbours in it are written together.
        rows.sort_by_key(|usage| (usage.org.org_id, usage.occurred_at, usage.event_key));
        MONTH.with(|current| current.set(month));
        let records =
            || rows.iter().flat_map(|usage| usage.metered.iter().map(move |metered| (*usage, metered)));
        let write = |out: &mut Vec<u8>, (usage, metered): (&Usage, &Metered)| row(out, usage, metered, batch);
        binary::copy!(conn, usage_records::table, Partition, records(), write)?;
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    exists: bool,
}

/// Whether the record that one request wrote of a usage event exists. Another request's record of the event
/// has another time of arrival.
pub(crate) fn record_exists(
    conn: &mut PgConnection,
    (org_id, event_key): Key,
    (occurred_at, received_at): (DateTime<Utc>, DateTime<Utc>),
) -> Result<bool, Error> {
    let found: Exists = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM usage_records
             WHERE org_id = $1 AND occurred_at = $2 AND event_key = $3 AND received_at = $4) AS exists",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(occurred_at)
    .bind::<SqlUuid, _>(event_key)
    .bind::<Timestamptz, _>(received_at)
    .get_result(conn)?;
    Ok(found.exists)
}

fn row(out: &mut Vec<u8>, usage: &Usage, metered: &Metered, batch: i64) {
    out.extend_from_slice(&23_i16.to_be_bytes());
    field(out, &usage.org.org_id.to_be_bytes());
    field(out, &metered.series.series_id.to_be_bytes());
    field(out, &micros(usage.occurred_at).to_be_bytes());
    field(out, &micros(usage.received_at).to_be_bytes());
    field(out, usage.event_key.as_bytes());
    field(out, &metered.series.meter.meter_id.to_be_bytes());
    match metered.rate_card_id() {
        Some(card) => field(out, &card.to_be_bytes()),
        None => null(out),
    }
    field(out, &days(usage.day).to_be_bytes());
    match usage.billing_period {
        Some(began) => field(out, &days(began.date_naive()).to_be_bytes()),
        None => null(out),
    }
    field(out, &usage.correction.to_be_bytes());
    numeric(out, metered.quantity);
    amount(out, metered.cost);
    amount(out, metered.battery_units);
    field(out, usage.event_id.as_bytes());
    field(out, usage.source.as_bytes());
    for text in [&usage.subject, &metered.value] {
        match text {
            Some(text) => field(out, text.as_bytes()),
            None => null(out),
        }
    }
    let moved = usage.day.signed_duration_since(usage.occurred_at.date_naive()).num_days() > 1;
    field(out, &[u8::from(moved)]);
    if metered.battery_units.is_zero() {
        null(out)
    } else {
        field(out, &batch.to_be_bytes())
    }
    match usage.billing_period {
        Some(began) => field(out, &micros(began).to_be_bytes()),
        None => null(out),
    }
    if usage.own_day == usage.day {
        null(out)
    } else {
        field(out, &days(usage.own_day).to_be_bytes())
    }
    field(out, &(metered.pricing as i16).to_be_bytes());
    match &metered.labels {
        Some(labels) => json(out, labels),
        None => null(out),
    }
}
