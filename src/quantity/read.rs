//! Reading an amount of usage as anybody writes one, rounded to the places that are kept.

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
pub enum Unread {
    /// It is no decimal number.
    NotANumber,
    /// It is 10^15 or more, either way.
    TooLarge,
}

/// The number that a text writes, half-even to [`PLACES`] decimal places; as many digits and whatever
/// exponent it has. Languages print the double that they computed, with up to 17 digits (`0.1 + 0.2` is
/// `0.30000000000000004`), so more places than are kept are no mistake of the caller's. What is too large is
/// refused instead: there is nothing to round it to.
///
/// # Errors
/// Why it is none.
pub fn rounded(text: &str) -> Result<Decimal, Unread> {
    let (negative, text) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], read_exponent(&text[at + 1..]).ok_or(Unread::NotANumber)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(Unread::NotANumber);
    }
    // `kept` counts units of the place `last`, that of its last digit which is not 0.
    let (mut kept, mut last, mut zeros) = (0_i128, 0_i64, 0_u32);
    let (mut next, mut more) = (0, false);
    let mut place = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent);
    for byte in whole.bytes().chain(fraction.bytes()) {
        if !byte.is_ascii_digit() {
            return Err(Unread::NotANumber);
        }
        let digit = byte - b'0';
        place = place.saturating_sub(1);
        if place < LAST {
            if place == LAST - 1 { next = digit } else { more |= digit != 0 }
        } else if digit == 0 {
            zeros = zeros.saturating_add(1);
        } else if place >= WHOLE {
            return Err(Unread::TooLarge);
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
    let number = Decimal::try_from_i128_with_scale(signed, scale).map_err(|_| Unread::TooLarge)?;
    let number = if scale == PLACES { number.normalize() } else { number };
    if number.abs() >= LIMIT { Err(Unread::TooLarge) } else { Ok(number) }
}

/// An exponent; one that is out of all bounds at the bound.
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

/// What a JSON value writes where a number may stand: the number, or a string with one.
#[must_use]
pub fn written(raw: &RawValue) -> Cow<'_, str> {
    let text = raw.get();
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Cow::Borrowed(text),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(_) => serde_json::from_str::<String>(text).map_or(Cow::Borrowed(text), Cow::Owned),
    }
}

/// An amount of usage on the wire, read by [`rounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub Decimal);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        rounded(&written(&raw)).map(Self).map_err(|unread| {
            serde::de::Error::custom(match unread {
                Unread::NotANumber => "must be a decimal such as \"12.5\"",
                Unread::TooLarge => "must be less than 10^15 either way",
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
            // The half goes to the even neighbour, anything more goes up.
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
            let number = rounded(text);
            assert_eq!(number.map(|number| number.to_string()).as_deref(), Ok(kept), "{text}");
        }
    }

    #[test]
    fn what_is_too_large_or_no_number_is_refused_by_name() {
        use Unread::{NotANumber, TooLarge};
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
            assert_eq!(rounded(text), Err(why), "{text}");
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
