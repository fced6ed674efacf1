//! The binary format of COPY (PostgreSQL manual, "COPY", "Binary Format").

use std::io::Write;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::prelude::*;
use diesel::result::Error::SerializationError;
use rust_decimal::Decimal;

use crate::quantity::Sum;

/// Stands before the rows.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Stands after the rows.
const END: [u8; 2] = (-1_i16).to_be_bytes();
/// Rows are sent in pieces of so many bytes, which still are in the processor's cache then.
const PIECE: usize = 64 * 1024;

/// Copies `rows` into a target of COPY; `write` appends a row.
macro_rules! copy {
    ($conn:expr, $table:expr, $target:expr, $rows:expr, $write:expr) => {{
        let write = $write;
        diesel::copy_from($table)
            .from_raw_data($target, |out| $crate::metering::posting::binary::pieces(out, $rows, &write))
            .with_format(diesel::pg::CopyFormat::Binary)
            .execute($conn)
    }};
}
pub(super) use copy;

/// Writes the header, `rows` and the end.
pub(super) fn pieces<T>(
    out: &mut dyn Write,
    rows: impl Iterator<Item = T>,
    write: &impl Fn(&mut Vec<u8>, T),
) -> QueryResult<()> {
    let failed = |error: std::io::Error| SerializationError(Box::new(error));
    let mut piece = Vec::with_capacity(PIECE + PIECE / 8);
    piece.extend_from_slice(HEADER);
    for row in rows {
        write(&mut piece, row);
        if piece.len() >= PIECE {
            out.write_all(&piece).map_err(failed)?;
            piece.clear();
        }
    }
    piece.extend_from_slice(&END);
    out.write_all(&piece).map_err(failed)
}

// Inlined, so that the compiler knows the length of a number.
#[inline]
pub(super) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&i32::try_from(bytes.len()).expect("a field is short").to_be_bytes());
    out.extend_from_slice(bytes);
}

#[inline]
pub(super) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

/// A value of `jsonb`: the version of the format (`jsonb_recv`), then the text.
pub(super) fn json(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&i32::try_from(text.len() + 1).expect("a field is short").to_be_bytes());
    out.push(1);
    out.extend_from_slice(text.as_bytes());
}

/// Microseconds since 2000-01-01, PostgreSQL's epoch.
pub(super) fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros() - 946_684_800_000_000
}

/// Days since 2000-01-01.
pub(super) fn days(day: NaiveDate) -> i32 {
    const EPOCH: i32 = 730_120;
    day.num_days_from_ce() - EPOCH
}

/// A number as PostgreSQL's `numeric_send` writes it: digits in base 10,000, weight of the first, sign,
/// scale.
pub(super) fn numeric(out: &mut Vec<u8>, number: Decimal) {
    let scale = number.scale();
    let places = scale.div_ceil(4);
    let mut rest = number.mantissa().unsigned_abs() * 10_u128.pow(places * 4 - scale);
    let mut digits = [0_u16; 10];
    let mut count = 0;
    while rest > 0 {
        // Division of 128 bits is slow and seldom needed.
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

/// As [`numeric`], for a cost or battery units.
pub(super) fn amount(out: &mut Vec<u8>, number: Sum) {
    let (negative, weight, scale, digits, count) = number.digits();
    let bytes = i32::try_from(8 + 2 * count).expect("few digits");
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(&u16::try_from(count).expect("few digits").to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if negative { 0x4000_u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
    for digit in &digits[..count] {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header values and digits come from `numeric_send` of PostgreSQL 15.
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
            if number != "0.00" && scale <= 24 {
                let (mut out, of) = (Vec::new(), number.parse::<Decimal>().expect("a number"));
                amount(&mut out, Sum::from(of));
                let beyond = of.mantissa() > i128::from(i64::MAX);
                assert!(beyond || out == expected, "{number}, as an amount");
            }
        }
        // The largest cost, with all decimal places: 15 digits before the point and 24 after it.
        let sum = Sum::product(
            "999999999999999.999999999999".parse().expect("a number"),
            "0.999999999999".parse().expect("a number"),
        );
        let mut out = Vec::new();
        amount(&mut out, -sum.expect("bounded"));
        // (10^15 − 10^-12) × (1 − 10^-12) = 10^15 − 1000 − 10^-12 + 10^-24
        let digits: [i16; 10] = [999, 9999, 9999, 8999, 9999, 9999, 9999, 0, 0, 1];
        let mut expected = Vec::new();
        expected.extend_from_slice(&28_i32.to_be_bytes());
        for part in [10, 3, 0x4000, 24].iter().chain(&digits) {
            expected.extend_from_slice(&i16::to_be_bytes(*part));
        }
        assert_eq!(out, expected);
    }

    #[test]
    fn days_count_from_postgresqls_epoch() {
        assert_eq!(days(NaiveDate::from_ymd_opt(2000, 1, 1).expect("a day")), 0);
        assert_eq!(micros("2000-01-01T00:00:01Z".parse().expect("a time")), 1_000_000);
    }
}
