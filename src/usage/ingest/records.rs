//! Records travel by COPY, straight into the partition of their month. Owns the rows of `usage_records`.

use std::cell::Cell;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::pg::{CopyFormat, CopyTarget, Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::AstPass;
use rust_decimal::Decimal;

use crate::error::Error;
use crate::schema::usage_records;
use crate::usage::resolve::{Metered, Usage};

const COLUMNS: [&str; 19] = [
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
];

/// The first day of the month (UTC) whose partition holds an instant.
#[must_use]
pub(super) fn month_of(at: DateTime<Utc>) -> NaiveDate {
    at.date_naive().with_day(1).expect("every month has a first day")
}

thread_local! {
    /// diesel asks a type, not a value, for the name of what it copies into.
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

/// Copies the records of these usage events; `batch` names the ledger entries that burn their battery units. The partitions are
/// there.
///
/// # Errors
/// When the database fails.
pub(super) fn copy(conn: &mut PgConnection, usage: &[&Usage], batch: i64) -> Result<(), Error> {
    let mut months: Vec<NaiveDate> = usage.iter().map(|one| month_of(one.occurred_at)).collect();
    months.sort_unstable();
    months.dedup();
    for month in months {
        let mut rows: Vec<&Usage> =
            usage.iter().copied().filter(|one| month_of(one.occurred_at) == month).collect();
        // As the index has them: neighbours in it are then neighbours in time.
        rows.sort_by_key(|one| (one.org.org_id, one.occurred_at));
        let bytes = encode(rows.into_iter(), batch);
        MONTH.with(|held| held.set(month));
        diesel::copy_from(usage_records::table)
            .from_raw_data(Partition, |out| out.write_all(&bytes).map_err(sent))
            .with_format(CopyFormat::Binary)
            .execute(conn)?;
    }
    Ok(())
}

fn sent(error: std::io::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(Box::new(error))
}

/// The binary format of COPY (PostgreSQL manual, "COPY", "Binary Format").
fn encode<'a>(usage: impl Iterator<Item = &'a Usage>, batch: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * 1024);
    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for one in usage {
        for metered in &one.metered {
            row(&mut out, one, metered, batch);
        }
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

fn row(out: &mut Vec<u8>, usage: &Usage, metered: &Metered, batch: i64) {
    out.extend_from_slice(&19_i16.to_be_bytes());
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
        Some(day) => field(out, &days(day).to_be_bytes()),
        None => null(out),
    }
    field(out, &usage.correction.to_be_bytes());
    numeric(out, metered.quantity);
    numeric(out, metered.cost);
    numeric(out, metered.battery_units);
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
    if metered.battery_units.is_zero() { null(out) } else { field(out, &batch.to_be_bytes()) }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&i32::try_from(bytes.len()).expect("a field is short").to_be_bytes());
    out.extend_from_slice(bytes);
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

/// Microseconds since 2000-01-01, PostgreSQL's epoch.
fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros() - 946_684_800_000_000
}

/// Days since 2000-01-01.
fn days(day: NaiveDate) -> i32 {
    const EPOCH: i32 = 730_120;
    day.num_days_from_ce() - EPOCH
}

/// A numeric as `numeric_send` writes it: digits to the base of 10,000, the weight of the first, sign and scale.
fn numeric(out: &mut Vec<u8>, number: Decimal) {
    let scale = number.scale();
    let places = scale.div_ceil(4);
    let mut rest = number.mantissa().unsigned_abs() * 10_u128.pow(places * 4 - scale);
    let mut digits = [0_u16; 10];
    let mut count = 0;
    while rest > 0 {
        // Division of 128 bits is slow, and seldom needed.
        let digit = match u64::try_from(rest) {
            Ok(small) => {
                rest = u128::from(small / 10_000);
                small % 10_000
            }
            Err(_) => {
                let digit = rest % 10_000;
                rest /= 10_000;
                u64::try_from(digit).expect("below 10,000")
            }
        };
        digits[count] = u16::try_from(digit).expect("below 10,000");
        count += 1;
    }
    let skipped = digits[..count].iter().take_while(|digit| **digit == 0).count();
    let kept = &digits[skipped..count];
    let weight = i16::try_from(count).expect("few digits") - i16::try_from(places).expect("few digits") - 1;
    let weight = if kept.is_empty() { 0 } else { weight };
    let sign: u16 = if number.is_sign_negative() && !kept.is_empty() { 0x4000 } else { 0 };
    out.extend_from_slice(&i32::try_from(8 + 2 * kept.len()).expect("few digits").to_be_bytes());
    out.extend_from_slice(&u16::try_from(kept.len()).expect("few digits").to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::try_from(scale).expect("at most 28").to_be_bytes());
    for digit in kept.iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header values and digits as PostgreSQL 15's `numeric_send` gives them for these numbers.
    #[test]
    fn numerics_are_as_postgresql_sends_them() {
        for (number, ndigits, weight, sign, scale, digits) in [
            ("0", 0, 0, 0, 0, &[][..]),
            ("0.00", 0, 0, 0, 2, &[]),
            ("1", 1, 0, 0, 0, &[1]),
            ("-1", 1, 0, 0x4000, 0, &[1]),
            ("10000", 1, 1, 0, 0, &[1]),
            ("123456.789", 3, 1, 0, 3, &[12, 3456, 7890]),
            ("0.0001", 1, -1, 0, 4, &[1]),
            ("0.00001", 1, -2, 0, 5, &[1000]),
            ("79228162514264337593543950335", 8, 7, 0, 0, &[7, 9228, 1625, 1426, 4337, 5935, 4395, 335]),
            ("0.0000000000000000000000000001", 1, -7, 0, 28, &[1]),
        ] {
            let mut out = Vec::new();
            numeric(&mut out, number.parse().expect("a number"));
            let mut expected = Vec::new();
            expected.extend_from_slice(&(8 + 2 * i32::from(ndigits)).to_be_bytes());
            for part in [ndigits, weight, sign, scale] {
                expected.extend_from_slice(&i16::to_be_bytes(part));
            }
            for digit in digits {
                expected.extend_from_slice(&i16::to_be_bytes(*digit));
            }
            assert_eq!(out, expected, "{number}");
        }
    }

    #[test]
    fn days_count_from_postgresqls_epoch() {
        assert_eq!(days(NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day")), 0);
        assert_eq!(micros("2000-01-01T00:00:01Z".parse().expect("a time")), 1_000_000);
    }
}
