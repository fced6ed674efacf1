//! Reads JSON from outside. Every error names the field and the rule, in our own words.
//!
//! Our own types say what is wrong with a value in a sentence that begins with `must`. Other messages come
//! from serde or a library, and are translated here.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use crate::error::Error;
use crate::text::{NO_NUL, has_nul, strip_nul};
use crate::time::NO_MOMENT;

/// The rule where we know nothing better.
const NO_FIT: &str = "does not have the form that it must have: /docs shows it";
/// The rule where one of some words is expected, and the value is not a word.
const WORDS: &str = "must be one of the words that /docs lists";

/// What chrono says of a text that is no time. Its errors have no kind that can be matched.
const NO_TIME: [&str; 7] = [
    "input is out of range",
    "no possible date and time matching input",
    "input is not enough for unique date and time",
    "input contains invalid characters",
    "premature end of input",
    "trailing input",
    "bad or unsupported format string",
];

/// Reads a body.
///
/// # Errors
/// [`Error::Malformed`] when it is not JSON; [`Error::Invalid`] names the field that does not fit.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    match body.trim_ascii_start().first() {
        None => return Err(Error::Malformed("the body is empty: send a JSON object".to_owned())),
        // serde would read a list into a struct.
        Some(b'[') => return Err(Error::invalid("body", "must be a JSON object, not a list")),
        Some(_) => {}
    }
    if body.windows(6).any(|part| part == br"\u0000") {
        let tree: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
        without_nul(&tree)?;
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (dotted(error.path()), error.into_inner());
        // Where a word is expected, serde calls a number invalid JSON.
        let no_value = error.to_string().starts_with("expected value");
        if no_value && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
            return Error::invalid(path, WORDS);
        }
        unfit(&path, &error)
    })?;
    json.end().map_err(|error| unreadable(&error))?;
    Ok(read)
}

/// Our own value as a JSON tree.
///
/// # Errors
/// [`Error::Internal`] when it cannot be JSON, which is a fault of ours.
pub fn to_tree(value: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::Internal(error.to_string()))
}

/// Reads a tree that was parsed from another format, such as TOML.
///
/// # Errors
/// [`Error::Invalid`] names the field that does not fit.
pub fn read_tree<T: DeserializeOwned>(tree: Value) -> Result<T, Error> {
    without_nul(&tree)?;
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let path = dotted(error.path());
        unfit(&path, &error.into_inner())
    })
}

/// The error for a body that is not JSON.
#[must_use]
pub fn unreadable(error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let place = format!("(line {}, column {})", error.line(), error.column());
    let text = match error.classify() {
        Category::Eof if error.column() == 0 => "the body is empty: send JSON".to_owned(),
        Category::Eof => "the body is not valid JSON: it ends in the middle".to_owned(),
        _ if message.contains("recursion limit") => {
            format!("the body is nested more than 127 deep {place}")
        }
        _ if message.contains("number out of range") => {
            format!("the body has a number that is too large {place}")
        }
        _ if message.contains("unicode")
            || message.contains("surrogate")
            || message.contains("hex escape") =>
        {
            format!("the body has a text that is not valid Unicode {place}")
        }
        _ => format!("the body is not valid JSON {place}"),
    };
    Error::Malformed(text)
}

/// The error for JSON that does not fit at `path` (empty: the whole body).
#[must_use]
pub fn unfit(path: &str, error: &serde_json::Error) -> Error {
    if error.classify() != Category::Data {
        return unreadable(error);
    }
    let message = error.to_string();
    let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]);
    let (field, rule) = rule(message);
    let place = match (path.is_empty(), field) {
        (true, None) => "body".to_owned(),
        (true, Some(field)) => field.to_owned(),
        (false, None) => path.to_owned(),
        // The name of an unknown field is part of the path already.
        (false, Some(field))
            if !message.starts_with("missing field") && path.rsplit('.').next() == Some(field) =>
        {
            path.to_owned()
        }
        (false, Some(field)) => format!("{path}.{field}"),
    };
    Error::invalid(place, rule)
}

/// Reads a field that may be left out but must not be null: a caller whose value got lost does not mean
/// "all".
///
/// # Errors
/// When it is null, or not a `T`.
pub fn not_null<'de, D: serde::Deserializer<'de>, T: serde::Deserialize<'de>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// Translates a message of serde: the rule, and the field where the message names another than the place of
/// the error.
fn rule(message: &str) -> (Option<&str>, String) {
    let quoted = |text: &'static str| message.strip_prefix(text)?.strip_prefix('`');
    if let Some(field) = quoted("missing field ").and_then(|rest| rest.strip_suffix('`')) {
        return (Some(field), "is missing: it must be given".to_owned());
    }
    if let Some(field) = quoted("duplicate field ").and_then(|rest| rest.strip_suffix('`')) {
        return (Some(field), "is there twice: give it once".to_owned());
    }
    if let Some(rest) = quoted("unknown field ") {
        let (field, known) = sent_and_known(rest);
        let rule = if known.is_empty() {
            "is no field here: leave it out".to_owned()
        } else {
            format!("is no field here; those are {known}")
        };
        return (Some(field), rule);
    }
    if let Some(rest) = quoted("unknown variant ") {
        return (None, format!("must be one of {}", sent_and_known(rest).1));
    }
    if message.starts_with("invalid type: ") || message.starts_with("invalid value: ") {
        let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
        return (None, wanted(expected));
    }
    let rule = match message {
        own if own.starts_with("must ") => own,
        of_chrono if NO_TIME.contains(&of_chrono) => NO_MOMENT,
        _ => NO_FIT,
    };
    (None, rule.to_owned())
}

/// Parses the rest of serde's "`sent`, expected one of `a`, `b`": what was sent, and the known names. What
/// was sent may contain anything and our names contain no backtick, so the last list counts.
fn sent_and_known(rest: &str) -> (&str, String) {
    match rest.rsplit_once("`, expected ") {
        Some((sent, list)) => {
            let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
            (sent, names.join(", "))
        }
        None => (rest.rsplit_once('`').map_or(rest, |(sent, _)| sent), String::new()),
    }
}

/// The rule for what serde expected, such as `i64` or `a string`.
pub(crate) fn wanted(expected: &str) -> String {
    let (least, most) = match expected {
        "i8" => (i64::from(i8::MIN), i8::MAX as u64),
        "i16" => (i64::from(i16::MIN), i16::MAX as u64),
        "i32" => (i64::from(i32::MIN), i32::MAX as u64),
        "i64" => (i64::MIN, i64::MAX as u64),
        "u8" => (0, u64::from(u8::MAX)),
        "u16" => (0, u64::from(u16::MAX)),
        "u32" => (0, u64::from(u32::MAX)),
        "u64" | "usize" => (0, u64::MAX),
        "an RFC 3339 formatted date and time string" => return NO_MOMENT.to_owned(),
        "a string" | "string" => return "must be a text".to_owned(),
        "a boolean" => return "must be true or false".to_owned(),
        "a sequence" => return "must be a list".to_owned(),
        "f32" | "f64" => return "must be a number".to_owned(),
        other if other == "a map" || other.starts_with("struct ") => {
            return "must be a JSON object".to_owned();
        }
        other if other.starts_with("string or map") || other.contains("variant identifier") => {
            return WORDS.to_owned();
        }
        _ => return NO_FIT.to_owned(),
    };
    format!("must be a whole number from {least} to {most}")
}

fn dotted(path: &Path) -> String {
    let parts = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    parts.collect::<Vec<_>>().join(".")
}

/// Refuses a tree with the NUL character in a text or a name.
fn without_nul(tree: &Value) -> Result<(), Error> {
    fn find(tree: &Value, path: &mut Vec<String>) -> bool {
        match tree {
            Value::String(text) => has_nul(text),
            Value::Array(items) => items.iter().enumerate().any(|(index, item)| {
                path.push(index.to_string());
                let found = find(item, path);
                if !found {
                    path.pop();
                }
                found
            }),
            Value::Object(fields) => fields.iter().any(|(name, value)| {
                path.push(strip_nul(name));
                let found = has_nul(name) || find(value, path);
                if !found {
                    path.pop();
                }
                found
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    let mut path = Vec::new();
    if !find(tree, &mut path) {
        return Ok(());
    }
    Err(Error::invalid(if path.is_empty() { "body".to_owned() } else { path.join(".") }, NO_NUL))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::quantity::Quantity;
    use crate::time::{Day, Moment, Month};

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        First,
        Second,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Inner {
        number: i16,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Body {
        name: String,
        #[serde(default)]
        count: Option<u32>,
        #[serde(default)]
        yes: bool,
        #[serde(default)]
        word: Option<Word>,
        #[serde(default)]
        at: Option<Moment>,
        #[serde(default)]
        instant: Option<chrono::DateTime<chrono::Utc>>,
        #[serde(default)]
        day: Option<Day>,
        #[serde(default)]
        month: Option<Month>,
        #[serde(default)]
        units: Option<Quantity>,
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        map: BTreeMap<String, String>,
        #[serde(default)]
        raw: Option<Box<serde_json::value::RawValue>>,
    }

    #[test]
    fn an_error_names_the_field_and_the_rule() {
        let number = "must be a whole number from 0 to 4294967295";
        for (body, field, rule) in [
            (r#"{}"#, "name", "is missing: it must be given"),
            (r#"{"name":7}"#, "name", "must be a text"),
            (r#"{"name":null}"#, "name", "must be a text"),
            (r#"{"name":"a","name":"b"}"#, "name", "is there twice: give it once"),
            (r#"{"name":"a","count":"5"}"#, "count", number),
            (r#"{"name":"a","count":-1}"#, "count", number),
            (r#"{"name":"a","count":99999999999}"#, "count", number),
            (r#"{"name":"a","count":1.5}"#, "count", number),
            (r#"{"name":"a","yes":"true"}"#, "yes", "must be true or false"),
            (r#"{"name":"a","word":"third"}"#, "word", "must be one of first, second"),
            (r#"{"name":"a","word":"a`, expected `b`, `c"}"#, "word", "must be one of first, second"),
            (r#"{"name":"a","word":[]}"#, "word", WORDS),
            (r#"{"name":"a","word":7}"#, "word", WORDS),
            (
                r#"{"name":"a","word":null,"inner":[{"number":{}}]}"#,
                "inner.0.number",
                "must be a whole number",
            ),
            (r#"{"name":"a","inner":{}}"#, "inner", "must be a list"),
            (
                r#"{"name":"a","inner":[{"number":1},{"number":99999}]}"#,
                "inner.1.number",
                "must be a whole number from -32768 to 32767",
            ),
            (r#"{"name":"a","inner":[7]}"#, "inner.0", "must be a JSON object"),
            (
                r#"{"name":"a","inner":[{"nummer":1}]}"#,
                "inner.0.nummer",
                "is no field here; those are number",
            ),
            (r#"{"name":"a","inner":[{}]}"#, "inner.0.number", "is missing: it must be given"),
            (r#"{"name":"a","map":[]}"#, "map", "must be a JSON object"),
            (r#"{"name":"a","map":{"k":7}}"#, "map.k", "must be a text"),
            (r#"{"name":"a\u0000b"}"#, "name", NO_NUL),
            (r#"{"name":"a","map":{"k\u0000":"v"}}"#, "map.k", NO_NUL),
            (r#"{"name":"a","raw":{"deep":["\u0000"]}}"#, "raw.deep.0", NO_NUL),
            (r#"[]"#, "body", "must be a JSON object, not a list"),
            (r#"7"#, "body", "must be a JSON object"),
            (r#"{"name":"a","at":"yesterday"}"#, "at", "must be an RFC 3339 time"),
            (r#"{"name":"a","at":"+262142-01-01T00:00:00Z"}"#, "at", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":"x"}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":""}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":"2026-10-01"}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":"2026-13-01T00:00:00Z"}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":"2026-02-30T00:00:00Z"}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":"2026-10-01T00:00:00Zz"}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","instant":7}"#, "instant", "must be an RFC 3339 time"),
            (r#"{"name":"a","day":"2026-10"}"#, "day", "must be a day"),
            (r#"{"name":"a","month":"2026-10-02"}"#, "month", "must be a month"),
            (r#"{"name":"a","units":"many"}"#, "units", "must be a decimal"),
            (r#"{"name":"a","units":{}}"#, "units", "must be a decimal"),
        ] {
            match read::<Body>(body.as_bytes()).expect_err(body) {
                Error::Invalid { field: named, rule: why } => {
                    assert_eq!(named, field, "{body}");
                    assert!(why.starts_with(rule), "{body}: {why}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        let unknown = read::<Body>(br#"{"name":"a","nam":1}"#).expect_err("unknown");
        assert!(
            unknown.to_string().starts_with("nam: is no field here; those are name, count, yes,"),
            "{unknown}"
        );
    }

    #[test]
    fn a_body_that_is_not_json_is_malformed() {
        let deep = "[".repeat(1000);
        let deep = format!(r#"{{"name":"\u0000","raw":{deep}"#);
        for (body, expected) in [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("{", "it ends in the middle"),
            (r#"{"name":"a"} x"#, "is not valid JSON (line 1, column 14)"),
            ("name=acme", "is not valid JSON (line 1, column 2)"),
            (r#"{"name":"\ud800"}"#, "is not valid Unicode"),
            (r#"{"name":"a","count":1e999}"#, "a number that is too large"),
            (deep.as_str(), "nested more than 127 deep"),
        ] {
            let error = read::<Body>(body.as_bytes()).expect_err(body);
            assert!(matches!(&error, Error::Malformed(text) if text.contains(expected)), "{body}: {error}");
        }
        let error = read::<Body>(b"{\"name\":\"\xff\"}").expect_err("no UTF-8");
        assert!(error.to_string().contains("not valid Unicode"), "{error}");
    }

    #[test]
    fn a_backslash_before_u0000_is_no_nul() {
        let body: Body = read(br#"{"name":"a\\u0000b","raw":{"n":0.12345678901234567890}}"#).expect("fits");
        assert_eq!(body.name, r"a\u0000b");
        assert_eq!(body.raw.expect("given").get(), r#"{"n":0.12345678901234567890}"#);
    }
}
