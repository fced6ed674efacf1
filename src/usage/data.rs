//! The fields of a usage event's `data`, read without making a tree of it.

use std::borrow::Cow;
use std::fmt;

use rust_decimal::Decimal;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::event::Rejection;
use crate::quantity::{LIMIT, PLACES};

/// Fields of `data` at most.
const FIELDS: usize = 100;
/// Characters of a dimension's or a unique value at most.
const TEXT: usize = 200;

/// The fields in the order of their names, each with the text of its value.
///
/// # Errors
/// When a name is there twice: readers would disagree which counts.
pub(super) fn fields(data: Option<&RawValue>) -> Result<Vec<(Cow<'_, str>, &RawValue)>, Rejection> {
    let Some(data) = data else { return Ok(Vec::new()) };
    let mut json = serde_json::Deserializer::from_str(data.get());
    let mut fields = json
        .deserialize_map(Fields)
        .map_err(|_| Rejection::new("data", "not_an_object", "must be a JSON object"))?;
    if fields.len() > FIELDS {
        return Err(Rejection::new("data", "too_many_fields", format!("has more than {FIELDS} fields")));
    }
    fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = fields.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Rejection::new(format!("data.{}", pair[0].0), "field_twice", "is there twice"));
    }
    Ok(fields)
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some(name) = map.next_key::<Name<'de>>()? {
            // One too many tells; the rest need not take memory.
            if fields.len() > FIELDS {
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

/// A quantity: a JSON number, or a string with one. `None` for null.
pub(super) fn decimal(name: &str, raw: &RawValue) -> Result<Option<Decimal>, Rejection> {
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let number = if digits.contains(['e', 'E']) {
        Decimal::from_scientific(digits).ok()
    } else {
        Decimal::from_str_exact(digits).ok()
    };
    let wrong = |rule, detail: &str| Err(Rejection::new(format!("data.{name}"), rule, detail));
    match number.map(|number| number.normalize()) {
        None => wrong("not_a_number", "must be a number, or a string with one, of at most 28 digits"),
        Some(number) if number.abs() >= LIMIT => wrong("too_large", "must be less than 10^15 either way"),
        Some(number) if number.scale() > PLACES => {
            wrong("too_precise", "must have at most 12 decimal places")
        }
        Some(number) => Ok(Some(number)),
    }
}

/// A dimension or a unique value as text: a string, number or boolean. `None` for null.
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
        _ => Cow::Borrowed(json),
    };
    if text.len() > TEXT && text.chars().count() > TEXT {
        return wrong("too_long", "must be at most 200 characters");
    }
    if text.contains('\0') {
        return wrong("not_text", "must not contain the NUL character");
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("json")
    }

    #[test]
    fn quantities_are_exact_or_refused() {
        for (json, expected) in [
            ("1", Ok("1")),
            ("-2.50", Ok("-2.5")),
            ("\"0.000000000001\"", Ok("0.000000000001")),
            ("1e3", Ok("1000")),
            ("1.5E-3", Ok("0.0015")),
            ("999999999999999.9", Ok("999999999999999.9")),
            ("1000000000000000", Err("too_large")),
            ("0.0000000000001", Err("too_precise")),
            ("1e400000", Err("not_a_number")),
            ("\"NaN\"", Err("not_a_number")),
            ("\"Infinity\"", Err("not_a_number")),
            ("\"\"", Err("not_a_number")),
            ("true", Err("not_a_number")),
            ("[1]", Err("not_a_number")),
            ("123456789012345678901234567890123", Err("not_a_number")),
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
            ("4.0", Ok(Some("4.0"))),
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
    fn a_field_twice_is_refused() {
        let raw = raw(r#"{"b":1,"a":2,"b":3}"#);
        assert_eq!(fields(Some(&raw)).expect_err("refused").rule, "field_twice");
    }
}
