//! Reads usage events from a body: one event, an array, lines, CloudEvents. It reads in one pass and copies
//! nothing. A bad event is rejected alone; only a body that is no JSON is refused as a whole.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{EventFields, binary};
use super::{Rejection, UsageEvent};
use crate::error::Error;
use crate::json;

/// How a body holds its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One event, an array, or `{"events": […]}`. An event with a `specversion` is a CloudEvent.
    Json,
    /// One event a line.
    Lines,
    /// A CloudEvent in binary mode: its attributes are headers, the body is its `data` (CloudEvents HTTP
    /// binding 1.0, 3.1).
    Binary(Vec<(String, String)>),
}

/// One event of a body, with its id and source as far as they could be read.
#[derive(Debug)]
pub struct ParsedEvent<'a> {
    /// Empty when there is none.
    pub id: Cow<'a, str>,
    /// Empty when there is none.
    pub source: Cow<'a, str>,
    pub event: Result<UsageEvent<'a>, Rejection>,
}

/// The events of a body.
#[derive(Debug)]
pub struct ParsedBody<'a> {
    pub events: Vec<ParsedEvent<'a>>,
    /// One event that was not sent as a batch: its outcome is the outcome of the request.
    pub is_single: bool,
}

/// Reads the events of a body, at most `limit`. With `subject_names_org` the subject of a CloudEvent without
/// an `org` names its org.
///
/// # Errors
/// [`Error::Malformed`] when the body is no JSON; [`Error::Invalid`] when it has too many events.
pub fn parse<'a>(
    body: &'a [u8],
    form: &'a BodyFormat,
    limit: usize,
    subject_names_org: bool,
) -> Result<ParsedBody<'a>, Error> {
    let reader = EventReader { subject_names_org };
    match form {
        BodyFormat::Json => any(text(body)?, reader, limit),
        BodyFormat::Lines => {
            let lines = text(body)?.lines().filter(|line| !line.trim().is_empty());
            let events = lines.map(|line| {
                one(line, reader).unwrap_or_else(|_| {
                    rejected(Rejection::new(
                        "",
                        "malformed",
                        "the line is not valid JSON: send one event a line",
                    ))
                })
            });
            bounded(events.take(limit + 1).collect(), limit).map(batch)
        }
        BodyFormat::Binary(attributes) => {
            let data: &RawValue = serde_json::from_str(text(body)?).map_err(malformed)?;
            Ok(ParsedBody { events: vec![binary(attributes, data, reader)], is_single: true })
        }
    }
}

fn batch(events: Vec<ParsedEvent<'_>>) -> ParsedBody<'_> {
    ParsedBody { events, is_single: false }
}

fn text(body: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(body).map_err(|_| Error::Malformed("the body is not UTF-8".to_owned()))
}

fn malformed(error: serde_json::Error) -> Error {
    json::unreadable(&error)
}

fn bounded(events: Vec<ParsedEvent<'_>>, limit: usize) -> Result<Vec<ParsedEvent<'_>>, Error> {
    if events.len() > limit {
        return Err(Error::TooManyEvents(limit));
    }
    Ok(events)
}

fn any(body: &str, reader: EventReader, limit: usize) -> Result<ParsedBody<'_>, Error> {
    if body.trim_start().starts_with('[') {
        return many(body, reader, limit).map(batch);
    }
    let event = one(body, reader).map_err(malformed)?;
    if matches!(&event.event,
        Err(rejection) if rejection.rule == "unknown_field" && rejection.field == "events")
    {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wrapped<'a> {
            #[serde(borrow)]
            events: &'a RawValue,
        }
        let wrapped: Wrapped<'_> = serde_json::from_str(body).map_err(|error| json::unfit("", &error))?;
        return many(wrapped.events.get(), reader, limit).map(batch);
    }
    Ok(ParsedBody { events: vec![event], is_single: true })
}

fn many(array: &str, reader: EventReader, limit: usize) -> Result<Vec<ParsedEvent<'_>>, Error> {
    let mut json = serde_json::Deserializer::from_str(array);
    let events =
        json.deserialize_seq(ArrayVisitor { reader, limit }).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Error::invalid("events", "must be an array of events"),
            _ => malformed(error),
        })?;
    json.end().map_err(malformed)?;
    bounded(events, limit)
}

fn one(body: &str, reader: EventReader) -> Result<ParsedEvent<'_>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(body);
    let event = reader.deserialize(&mut json)?;
    json.end()?;
    Ok(event)
}

struct ArrayVisitor {
    reader: EventReader,
    limit: usize,
}

impl<'de> Visitor<'de> for ArrayVisitor {
    type Value = Vec<ParsedEvent<'de>>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<Self::Value, A::Error> {
        let mut parsed = Vec::new();
        while let Some(event) = events.next_element_seed(self.reader)? {
            // One too many suffices for the error; more would only take memory.
            if parsed.len() <= self.limit {
                parsed.push(event);
            }
        }
        Ok(parsed)
    }
}

/// Reads one event. Anything but an object becomes a rejected event.
#[derive(Clone, Copy)]
pub(super) struct EventReader {
    pub(super) subject_names_org: bool,
}

impl<'de> DeserializeSeed<'de> for EventReader {
    type Value = ParsedEvent<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<ParsedEvent<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

macro_rules! not_an_object {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<ParsedEvent<'de>, E> {
            Ok(no_object())
        })*
    };
}

impl<'de> Visitor<'de> for EventReader {
    type Value = ParsedEvent<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an event")
    }

    not_an_object! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<ParsedEvent<'de>, E> {
        Ok(no_object())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ParsedEvent<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(no_object())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ParsedEvent<'de>, A::Error> {
        let mut fields = EventFields::default();
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let value: &'de RawValue = map.next_value()?;
            fields.put(name, value);
        }
        Ok(fields.finish(self))
    }
}

/// Serde reads a bare `Cow` as an owned string.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn no_object<'a>() -> ParsedEvent<'a> {
    rejected(Rejection::new("", "not_an_object", "an event is a JSON object"))
}

fn rejected<'a>(rejection: Rejection) -> ParsedEvent<'a> {
    ParsedEvent { id: Cow::Borrowed(""), source: Cow::Borrowed(""), event: Err(rejection) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(body: &str) -> Vec<String> {
        let events = parse(body.as_bytes(), &BodyFormat::Json, 3, true).expect("JSON").events;
        let rule = |one: ParsedEvent<'_>| match one.event {
            Ok(event) => format!("{}/{}/{}", event.id, event.event_name, event.org.unwrap_or_default()),
            Err(rejection) => format!("{} {}", rejection.field, rejection.rule),
        };
        events.into_iter().map(rule).collect()
    }

    #[test]
    fn every_json_form_is_read() {
        for (body, expected) in [
            (r#"{"id":"1","event_name":"x","org":"a"}"#, vec!["1/x/a"]),
            (
                r#" [{"id":"1","type":"x","org":"a","data":{"n":1}},{"id":"2","type":"y","subject":"s"}]"#,
                vec!["1/x/a", "2/y/"],
            ),
            (r#"{"events":[{"id":"1","type":"x"}]}"#, vec!["1/x/"]),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"x","subject":"a","traceparent":"t",
                    "data":{}}"#,
                vec!["1/x/a"],
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"x","subject":"s","org":"a"}"#,
                vec!["1/x/a"],
            ),
            (r#"[]"#, vec![]),
        ] {
            assert_eq!(rules(body), expected, "{body}");
        }
    }

    #[test]
    fn a_bad_event_is_rejected_alone() {
        let long = format!(r#"[{{"id":"{}","type":"x"}}]"#, "x".repeat(201));
        for (body, expected) in [
            (r#"[{"id":"1","type":"x"},7,{"id":"3","type":"x"}]"#, vec!["1/x/", " not_an_object", "3/x/"]),
            (r#"[null,[1],"a"]"#, vec![" not_an_object"; 3]),
            (r#"{"type":"x"}"#, vec!["id missing"]),
            (r#"{"id":"1"}"#, vec!["event_name missing"]),
            (r#"{"id":1,"type":"x"}"#, vec!["id not_text"]),
            (r#"{"id":"","type":"x"}"#, vec!["id empty"]),
            (r#"{"id":"a\u0000b","type":"x"}"#, vec!["id control_character"]),
            (long.as_str(), vec!["id too_long"]),
            (
                r#"{"id":"1","type":"x","occured_at":"2026-01-01T00:00:00Z"}"#,
                vec!["occured_at unknown_field"],
            ),
            (r#"{"id":"1","type":"x","time":"2026-01-01"}"#, vec!["occurred_at not_a_time"]),
            (r#"{"id":"1","type":"x","type":"y"}"#, vec!["event_name field_twice"]),
            (r#"{"id":"1","type":"x","cost":"NaN"}"#, vec!["cost not_a_number"]),
            (r#"{"specversion":"0.3","id":"1","type":"x"}"#, vec!["specversion unknown_version"]),
        ] {
            assert_eq!(rules(body), expected, "{body}");
        }
    }

    #[test]
    fn a_body_that_is_no_json_or_too_much_is_refused_whole() {
        let four = r#"[{"id":"1"},{"id":"2"},{"id":"3"},{"id":"4"}]"#;
        for (body, malformed) in [
            ("", true),
            ("{", true),
            (r#"[{"id":"1"},"#, true),
            (r#"{"id":"1","type":"x"} {}"#, true),
            (four, false),
            (r#"{"events":7}"#, false),
        ] {
            let error = parse(body.as_bytes(), &BodyFormat::Json, 3, true).expect_err("refused");
            assert_eq!(matches!(error, Error::Malformed(_)), malformed, "{body}: {error}");
        }
    }

    #[test]
    fn lines_are_read_one_by_one() {
        let body = b"{\"id\":\"1\",\"type\":\"x\"}\n\nnonsense\r\n{\"id\":\"3\",\"type\":\"x\"}";
        let events = parse(body, &BodyFormat::Lines, 3, true).expect("lines").events;
        let ids: Vec<&str> = events.iter().map(|one| one.id.as_ref()).collect();
        assert_eq!(ids, ["1", "", "3"]);
        assert_eq!(events[1].event.as_ref().expect_err("refused").rule, "malformed");
    }

    #[test]
    fn binary_mode_takes_its_attributes_from_headers() {
        let attributes =
            [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "x"), ("subject", "a")];
        let form =
            BodyFormat::Binary(attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let events = parse(br#"{"n":1}"#, &form, 3, true).expect("JSON").events;
        let event = events[0].event.as_ref().expect("an event");
        assert_eq!((event.org.as_deref(), event.data.expect("data").get()), (Some("a"), r#"{"n":1}"#));
    }
}
