//! Rows: cells decoded from PostgreSQL's binary form without copies, and their texts.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Timelike};
use diesel::deserialize;
use diesel::pg::Pg;
use diesel::row::{Field, NamedRow, Row};

use super::zone::Zone;
use crate::billing::exports::{Column, Type};
use crate::error::Error;
use crate::money::{MajorUnits, decimal_places};

/// Microseconds from 1970 to 2000, where PostgreSQL's timestamps begin.
const EPOCH_OF_POSTGRES: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000, where PostgreSQL's days begin.
const EPOCH_DAY_OF_POSTGRES: i32 = 10_957;

/// A value in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    /// Text, as it is.
    Text(&'a str),
    /// A whole number or an amount in minor units.
    Integer(i64),
    /// An amount in major units.
    Major(MajorUnits),
    Decimal(&'a str),
    Boolean(bool),
    /// Microseconds since 1970, UTC.
    Time(i64),
    /// Days since 1 January 1970.
    Day(i32),
    /// A JSON object's text.
    Json(&'a str),
}

/// A row as PostgreSQL sent it: for each column the length (-1: null) and the bytes.
pub(super) struct Packed(Vec<u8>);

impl diesel::QueryableByName<Pg> for Packed {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        let mut bytes = Vec::with_capacity(1024);
        for index in 0..row.field_count() {
            let field = Row::get(row, index).ok_or("a column is missing")?;
            match field.value() {
                None => bytes.extend_from_slice(&(-1_i32).to_ne_bytes()),
                Some(value) => {
                    let value = value.as_bytes();
                    bytes.extend_from_slice(&i32::try_from(value.len())?.to_ne_bytes());
                    bytes.extend_from_slice(value);
                }
            }
        }
        Ok(Self(bytes))
    }
}

impl Packed {
    /// Its size in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Its place among rows of several parts, which follows its cells: rows without `created` come last, and
    /// ids are in the order of their bytes. `None`: the row is broken.
    pub(super) fn place(&self, columns: usize) -> Option<(bool, i64, &[u8])> {
        let mut rest = self.0.as_slice();
        for _ in 0..columns {
            take(&mut rest)?;
        }
        let created = match take(&mut rest)? {
            Some(value) => Some(i64::from_be_bytes(value.try_into().ok()?)),
            None => None,
        };
        Some((created.is_none(), created.unwrap_or(0), take(&mut rest)??))
    }

    /// Decodes the cells into `cells`.
    pub(super) fn unpack<'a>(&'a self, columns: &[Column], cells: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        cells.clear();
        let mut rest = self.0.as_slice();
        let mut places = None;
        for column in columns {
            let cell = take(&mut rest)
                .and_then(|value| decode(column.holds, value, places))
                .ok_or_else(|| Error::Internal(format!("the column {} cannot be read", column.name)))?;
            if let (Cell::Text(currency), "currency") = (cell, column.name) {
                places = Some(decimal_places(currency));
            }
            cells.push(cell);
        }
        Ok(())
    }
}

/// The next value; `None`: the row is broken.
fn take<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, after) = rest.split_first_chunk()?;
    let Ok(length) = usize::try_from(i32::from_ne_bytes(*length)) else {
        *rest = after;
        return Some(None);
    };
    let (value, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(Some(value))
}

fn decode(holds: Type, value: Option<&[u8]>, places: Option<u8>) -> Option<Cell<'_>> {
    let Some(value) = value else { return Some(Cell::Null) };
    let text = || std::str::from_utf8(value).ok();
    let number = || value.try_into().ok().map(i64::from_be_bytes);
    match holds {
        Type::Text => text().map(Cell::Text),
        Type::Decimal => text().map(Cell::Decimal),
        Type::Json => text().map(Cell::Json),
        Type::Integer | Type::Amount => number().map(Cell::Integer),
        // Without a currency the unit is unknown.
        Type::Major => number()
            .map(|minor| places.map_or(Cell::Null, |places| Cell::Major(MajorUnits { minor, places }))),
        Type::Boolean => value.first().map(|byte| Cell::Boolean(*byte != 0)),
        Type::Time => number()?.checked_add(EPOCH_OF_POSTGRES).map(Cell::Time),
        Type::Day => {
            let days = i32::from_be_bytes(value.try_into().ok()?);
            days.checked_add(EPOCH_DAY_OF_POSTGRES).map(Cell::Day)
        }
    }
}

/// Appends an instant as RFC 3339, with six places of a second only where it has them, and with the offset of
/// `zone`. RFC 3339 has no offsets with seconds, as zones had before 1900: such a time is in UTC.
pub(super) fn push_time(out: &mut Vec<u8>, micros: i64, zone: Zone) {
    let Some(at) = DateTime::from_timestamp_micros(micros) else { return };
    let ahead_s = zone.ahead_s(at).filter(|ahead_s| ahead_s % 60 == 0);
    let time = at.naive_utc() + TimeDelta::seconds(ahead_s.unwrap_or(0).into());
    push_digits(out, time.year().unsigned_abs(), 4, b"-");
    push_digits(out, time.month(), 2, b"-");
    push_digits(out, time.day(), 2, b"T");
    push_digits(out, time.hour(), 2, b":");
    push_digits(out, time.minute(), 2, b":");
    push_digits(out, time.second(), 2, b"");
    let fraction = at.timestamp_subsec_micros();
    if fraction != 0 {
        out.push(b'.');
        push_digits(out, fraction, 6, b"");
    }
    match ahead_s {
        None => out.push(b'Z'),
        Some(ahead_s) => {
            let minutes = ahead_s.unsigned_abs() / 60;
            out.push(if ahead_s < 0 { b'-' } else { b'+' });
            push_digits(out, minutes / 60, 2, b":");
            push_digits(out, minutes % 60, 2, b"");
        }
    }
}

/// Appends a day, as `2026-01-31`.
pub(super) fn push_day(out: &mut Vec<u8>, days: i32) {
    let Some(day) = NaiveDate::from_epoch_days(days) else { return };
    push_digits(out, day.year().unsigned_abs(), 4, b"-");
    push_digits(out, day.month(), 2, b"-");
    push_digits(out, day.day(), 2, b"");
}

/// Appends the last `digits` digits of a number, then `end`.
fn push_digits(out: &mut Vec<u8>, number: u32, digits: u32, end: &[u8]) {
    for place in (0..digits).rev() {
        out.push(b'0' + u8::try_from(number / 10_u32.pow(place) % 10).unwrap_or(0));
    }
    out.extend_from_slice(end);
}

/// Appends a whole number.
pub(super) fn push_integer(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_000_000, "2023-11-14T22:13:20Z"),
            (1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, micros, Zone::UTC);
            assert_eq!(String::from_utf8(out).expect("ascii"), text);
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, text) in [(0, "1970-01-01"), (20_512, "2026-02-28"), (-719_162, "0001-01-01")] {
            let mut out = Vec::new();
            push_day(&mut out, days);
            assert_eq!(String::from_utf8(out).expect("ascii"), text);
        }
        assert_eq!(decode(Type::Day, Some(&0_i32.to_be_bytes()), None), Some(Cell::Day(10_957)));
    }

    #[test]
    fn times_of_a_zone_have_its_offset_of_that_day() {
        for (zone, micros, text) in [
            ("Europe/Berlin", 1_700_000_000_000_000, "2023-11-14T23:13:20+01:00"),
            ("Europe/Berlin", 1_689_000_000_000_001, "2023-07-10T16:40:00.000001+02:00"),
            ("Asia/Kolkata", 1_700_000_000_000_000, "2023-11-15T03:43:20+05:30"),
            ("America/St_Johns", 1_700_000_000_000_000, "2023-11-14T18:43:20-03:30"),
            ("Etc/UTC", 0, "1970-01-01T00:00:00+00:00"),
            // In 1880 the clocks of Berlin were 53 minutes and 28 seconds ahead.
            ("Europe/Berlin", -2_840_140_800_000_000, "1880-01-01T00:00:00Z"),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, micros, Zone::named(zone).expect("a zone"));
            assert_eq!(String::from_utf8(out).expect("ascii"), text);
        }
    }

    #[test]
    fn a_row_that_is_too_short_is_an_error() {
        let columns = crate::billing::exports::Kind::Refunds.columns();
        let row = Packed(vec![0; 4]);
        assert!(row.unpack(columns, &mut Vec::new()).is_err());
    }
}
