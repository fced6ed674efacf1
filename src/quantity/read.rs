//! Reading an amount of usage in any notation, rounded to 12 places.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{LIMIT, PLACES};

/// 10^15 has its first digit at this place.
const WHOLE: i64 = 15;
/// The last place that is kept.
const LAST: i64 = -(PLACES as i64);

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It is no decimal number.
    NotANumber,
    /// It is 10^15 or more, either way.
    TooLarge,
}

/// The number that a text has, rounded half-even to [`PLACES`] decimal places. It may have any number of
/// digits and any exponent. Languages print the double that they computed, with up to 17 digits (`0.1 + 0.2`
/// is `0.30000000000000004`), so more places than 12 are no mistake of the caller's. A number that is too
/// large is refused: there is nothing to round it to.
///
/// # Errors
/// Why it is none.
pub fn read_rounded(text: &str) -> Result<Decimal, NumberError> {
    let (negative, text) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], read_exponent(&text[at + 1..]).ok_or(NumberError::NotANumber)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(NumberError::NotANumber);
    }
    // `kept` counts units of the place `last`, which is that of its last digit other than 0.
    let (mut kept, mut last, mut zeros) = (0_i128, 0_i64, 0_u32);
    let (mut next, mut more) = (0, false);
    let mut place = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent);
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(NumberError::NotANumber);
        }
        let digit = byte - b'0';
        place = place.saturating_sub(1);
        if place < LAST {
            if place == LAST - 1 { next = digit } else { more |= digit != 0 }
        } else if digit == 0 {
            zeros = zeros.saturating_add(1);
        } else if place >= WHOLE {
            return Err(NumberError::TooLarge);
        } else {
            // Leading zeros stand before nothing.
            let shift = if kept == 0 { 0 } else { zeros + 1 };
            kept = kept * 10_i128.pow(shift) + i128::from(digit);
            (last, zeros) = (place, 0);
        }
    }
    let is_odd = last == LAST && kept % 2 == 1;
    if next > 5 || next == 5 && (more || is_odd) {
        let shift = if kept == 0 { 0 } else { u32::try_from(last - LAST).unwrap_or(0) };
        (kept, last) = (kept * 10_i128.pow(shift) + 1, LAST);
    } else if last > 0 {
        (kept, last) = (kept * 10_i128.pow(u32::try_from(last).unwrap_or(0)), 0);
    }
    let signed = if negative { -kept } else { kept };
    let scale = u32::try_from(-last).unwrap_or(0);
    let number = Decimal::try_from_i128_with_scale(signed, scale).map_err(|_| NumberError::TooLarge)?;
    let number = if scale == PLACES { number.normalize() } else { number };
    if number.abs() >= LIMIT { Err(NumberError::TooLarge) } else { Ok(number) }
}

/// An exponent; one beyond 32 bits is cut to the largest.
fn read_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let first = digit(*digits.as_bytes().first()?)?;
    let size = digits.bytes().skip(1).try_fold(first, |sum, byte| {
        Some(sum.saturating_mul(10).saturating_add(digit(byte)?).min(i64::from(i32::MAX)))
    })?;
    Some(if negative { -size } else { size })
}

/// The text of a number in JSON: of a number itself, or of a string that has one.
#[must_use]
pub fn number_text(raw: &RawValue) -> Cow<'_, str> {
    let text = raw.get();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Cow::Borrowed(text),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(_) => serde_json::from_str::<String>(text).map_or(Cow::Borrowed(text), Cow::Owned),
    }
}

/// An amount of usage on the wire, read by [`read_rounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub Decimal);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        read_rounded(&number_text(&raw)).map(Self).map_err(|error| {
            serde::de::Error::custom(match error {
                NumberError::NotANumber => "must be a decimal such as \"12.5\"",
                NumberError::TooLarge => "must be less than 10^15 either way",
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_rounded_half_even_to_twelve_places() {
        for (text, kept) in [
            ("0.30000000000000004", "0.3"),
            ("1.2100000000000002", "1.21"),
            ("12.345678901234567", "12.345678901235"),
            ("-12.345678901234567", "-12.345678901235"),
            ("2.675", "2.675"),
            ("1e-7", "0.0000001"),
            ("1E3", "1000"),
            ("1.5e+2", "150"),
            ("500e-2", "5"),
            ("5.0", "5"),
            ("5.", "5"),
            (".5", "0.5"),
            ("+5", "5"),
            ("-0", "0"),
            ("-0.0e0", "0"),
            ("0e999999999999999999999", "0"),
            ("1e-999999999999999999999", "0"),
            ("100020003000", "100020003000"),
            ("0.000010020003", "0.000010020003"),
            // A half rounds to the even neighbour, anything above it rounds up.
            ("0.0000000000005", "0"),
            ("0.0000000000015", "0.000000000002"),
            ("0.0000000000025", "0.000000000002"),
            ("0.00000000000250000000000000000000001", "0.000000000003"),
            ("7.0000000000005", "7"),
            ("0.9999999999995", "1"),
            ("9.99999999999949", "9.999999999999"),
            ("999999999999999.999999999999", "999999999999999.999999999999"),
            ("999999999999999.9999999999994", "999999999999999.999999999999"),
            ("9007199254740.993", "9007199254740.993"),
            ("00000000000000000000000000000000000000007", "7"),
            ("0.0000000000070000000000000000000000000000000001", "0.000000000007"),
            ("123456789012345678901234567890e-25", "12345.678901234568"),
        ] {
            let number = read_rounded(text);
            assert_eq!(number.map(|number| number.to_string()).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn what_is_too_large_or_no_number_is_refused_by_name() {
        use NumberError::{NotANumber, TooLarge};
        for (text, why) in [
            ("9007199254740993", TooLarge),
            ("1000000000000000", TooLarge),
            ("-1e15", TooLarge),
            ("999999999999999.9999999999996", TooLarge),
            ("1e400000", TooLarge),
            ("1e99999999999999999999999", TooLarge),
            ("123456789012345678901234567890123", TooLarge),
            ("", NotANumber),
            ("-", NotANumber),
            (".", NotANumber),
            ("e5", NotANumber),
            ("1e", NotANumber),
            ("1e+", NotANumber),
            ("1e5x", NotANumber),
            ("1.2.3", NotANumber),
            ("1_000", NotANumber),
            ("1,5", NotANumber),
            (" 5", NotANumber),
            ("--5", NotANumber),
            ("NaN", NotANumber),
            ("Infinity", NotANumber),
            ("0x10", NotANumber),
            ("٥", NotANumber),
        ] {
            assert_eq!(read_rounded(text), Err(why), "{text}");
        }
    }

    #[test]
    fn an_amount_is_a_number_or_a_text_with_one() {
        for (json, kept) in [
            ("0.30000000000000004", Some("0.3")),
            ("\"0.30000000000000004\"", Some("0.3")),
            ("\"\\u0035\"", Some("5")),
            ("999999999999999.999999999999", Some("999999999999999.999999999999")),
            ("true", None),
            ("null", None),
            ("[1]", None),
            ("\"\"", None),
            ("1e15", None),
        ] {
            let amount = serde_json::from_str::<Amount>(json).ok().map(|amount| amount.0.to_string());
            assert_eq!(amount.as_deref(), kept, "{json}");
        }
    }
}
