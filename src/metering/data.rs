//! Reads the fields of a usage event's `data` without building a JSON tree.

use std::borrow::Cow;
use std::fmt;

use rust_decimal::Decimal;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::event::Rejection;
use crate::quantity::{self, NumberError};

/// Fields of `data` at most.
const MAX_FIELDS: usize = 100;
/// Characters of a dimension or a unique value at most.
const MAX_TEXT: usize = 200;

/// The fields in the order of their names, each with the JSON text of its value.
///
/// # Errors
/// When a name is there twice: which value counts would be unclear.
pub(super) fn fields(data: Option<&RawValue>) -> Result<Vec<(Cow<'_, str>, &RawValue)>, Rejection> {
    let Some(data) = data else { return Ok(Vec::new()) };
    let mut json = serde_json::Deserializer::from_str(data.get());
    let mut fields = json
        .deserialize_map(DataVisitor)
        .map_err(|_| Rejection::new("data", "not_an_object", "must be a JSON object"))?;
    if fields.len() > MAX_FIELDS {
        return Err(Rejection::new("data", "too_many_fields", format!("has more than {MAX_FIELDS} fields")));
    }
    fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = fields.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Rejection::new(format!("data.{}", pair[0].0), "field_twice", "is there twice"));
    }
    Ok(fields)
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            // One too many suffices for the error; more would only take memory.
            if fields.len() > MAX_FIELDS {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else {
                fields.push((name.0, map.next_value()?));
            }
        }
        Ok(fields)
    }
}

/// Serde reads a bare `Cow` as an owned string.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a quantity: a JSON number, or a string with one, rounded to the decimal places that we keep. `None`
/// for null.
pub(super) fn decimal(name: &str, raw: &RawValue) -> Result<Option<Decimal>, Rejection> {
    if raw.get() == "null" {
        return Ok(None);
    }
    let wrong = |rule, detail: &str| Err(Rejection::new(format!("data.{name}"), rule, detail));
    match quantity::read_rounded(&quantity::number_text(raw)) {
        Ok(number) => Ok(Some(number)),
        Err(NumberError::NotANumber) => wrong("not_a_number", "must be a number, or a string with one"),
        Err(NumberError::TooLarge) => wrong("too_large", "must be less than 10^15 either way"),
    }
}

/// Reads a dimension or a unique value as text: a string, number or boolean. `None` for null. Numbers of one
/// value are one text: `1`, `1.0` and `1e0`. Strings stay as they are: the versions `"1.1"` and `"1.10"` are
/// two.
pub(super) fn text<'a>(name: &str, raw: &'a RawValue) -> Result<Option<Cow<'a, str>>, Rejection> {
    let wrong = |rule, detail: &str| Err(Rejection::new(format!("data.{name}"), rule, detail));
    let json = raw.get();
    let text = match json.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'{' | b'[') => return wrong("not_a_scalar", "must be a string, number or boolean"),
        Some(b'"') if !json.contains('\\') => Cow::Borrowed(&json[1..json.len() - 1]),
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) => Cow::Owned(text),
            Err(_) => return wrong("not_text", "is not valid Unicode"),
        },
        Some(b't' | b'f') => Cow::Borrowed(json),
        _ => canonical_number(json),
    };
    if text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT {
        return wrong("too_long", "must be at most 200 characters");
    }
    if crate::text::has_nul(&text) {
        return wrong("not_text", crate::text::NO_NUL);
    }
    Ok(Some(text))
}

/// A number that needs more digits is written with an exponent.
const MAX_DIGITS: usize = 40;

/// The canonical text of a JSON number: without redundant zeros, and without exponent up to [`MAX_DIGITS`]
/// digits. Numbers of one value have one text, and no digit is lost: ids may be numbers too.
pub(crate) fn canonical_number(json: &str) -> Cow<'_, str> {
    if json.len() <= MAX_DIGITS && json.bytes().all(|byte| byte.is_ascii_digit()) {
        return Cow::Borrowed(json);
    }
    let (sign, number) = json.strip_prefix('-').map_or(("", json), |number| ("-", number));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return Cow::Borrowed("0");
    }
    // An exponent beyond 64 bits: the text stays as it is.
    let Ok(exponent) = exponent.parse::<i64>() else { return Cow::Borrowed(json) };
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
    let Some(exponent) = exponent.checked_add(length(digits) - length(kept) - length(fraction)) else {
        return Cow::Borrowed(json);
    };
    // Places after the point, or zeros before it.
    let places = usize::try_from(-exponent.min(0)).unwrap_or(usize::MAX);
    let zeros = usize::try_from(exponent.max(0)).unwrap_or(usize::MAX);
    if kept.len().max(places).saturating_add(zeros) > MAX_DIGITS {
        return Cow::Owned(format!("{sign}{kept}e{exponent}"));
    }
    Cow::Owned(match kept.len().checked_sub(places) {
        _ if places == 0 => format!("{sign}{kept}{}", "0".repeat(zeros)),
        Some(point) if point > 0 => format!("{sign}{}.{}", &kept[..point], &kept[point..]),
        _ => format!("{sign}0.{}{kept}", "0".repeat(places - kept.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("json")
    }

    #[test]
    fn quantities_are_rounded_or_refused() {
        for (json, expected) in [
            ("1", Ok("1")),
            ("-2.50", Ok("-2.5")),
            ("\"0.000000000001\"", Ok("0.000000000001")),
            ("1e3", Ok("1000")),
            ("1.5E-3", Ok("0.0015")),
            ("999999999999999.9", Ok("999999999999999.9")),
            ("1000000000000000", Err("too_large")),
            ("0.0000000000001", Ok("0")),
            ("0.30000000000000004", Ok("0.3")),
            ("\"12.345678901234567\"", Ok("12.345678901235")),
            ("\"\\u0035\"", Ok("5")),
            ("1e400000", Err("too_large")),
            ("\"NaN\"", Err("not_a_number")),
            ("\"Infinity\"", Err("not_a_number")),
            ("\"\"", Err("not_a_number")),
            ("true", Err("not_a_number")),
            ("[1]", Err("not_a_number")),
            ("9007199254740993", Err("too_large")),
            ("123456789012345678901234567890123", Err("too_large")),
        ] {
            let raw = raw(json);
            let read = decimal("v", &raw).map(|number| number.expect("not null").to_string());
            assert_eq!(read.as_deref().map_err(|rejection| rejection.rule), expected, "{json}");
        }
    }

    #[test]
    fn texts_are_scalars_of_bounded_length() {
        let long = format!("\"{}\"", "x".repeat(201));
        for (json, expected) in [
            ("\"gpt\"", Ok(Some("gpt"))),
            ("\"a\\u0041\"", Ok(Some("aA"))),
            ("true", Ok(Some("true"))),
            ("4.0", Ok(Some("4"))),
            ("\"4.0\"", Ok(Some("4.0"))),
            ("null", Ok(None)),
            ("{}", Err("not_a_scalar")),
            ("\"a\\u0000\"", Err("not_text")),
            (long.as_str(), Err("too_long")),
        ] {
            let raw = raw(json);
            let read = text("d", &raw).map_err(|rejection| rejection.rule);
            assert_eq!(read.as_ref().map(|text| text.as_deref()).map_err(|rule| *rule), expected, "{json}");
        }
    }

    #[test]
    fn a_number_has_one_text() {
        let ten_pow_41 = format!("1{}", "0".repeat(41));
        for (same, text) in [
            (&["1", "1.0", "1e0", "10e-1", "0.1E+1", "1.00"][..], "1"),
            (&["0", "-0", "0.0", "0e5", "-0.00e-7"], "0"),
            (&["-2.5", "-2.50", "-25e-1"], "-2.5"),
            (&["1200", "1.2e3", "12e2", "1200.0"], "1200"),
            (&["0.001", "1e-3", "0.0010"], "0.001"),
            (&["0.30000000000000004", "30000000000000004e-17"], "0.30000000000000004"),
            (&["12345678901234567890", "12345678901234567890.0"], "12345678901234567890"),
            (&["1e41", ten_pow_41.as_str(), "10e40"], "1e41"),
            (&["1e-41", "0.1e-40"], "1e-41"),
            (&["1e400", "10E399"], "1e400"),
        ] {
            for json in same {
                assert_eq!(canonical_number(json), text, "{json}");
            }
        }
        let beyond = "1e99999999999999999999";
        assert_eq!(canonical_number(beyond), beyond);
    }

    #[test]
    fn a_field_twice_is_refused() {
        let raw = raw(r#"{"b":1,"a":2,"b":3}"#);
        assert_eq!(fields(Some(&raw)).expect_err("refused").rule, "field_twice");
    }
}
