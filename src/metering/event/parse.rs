//! Reads usage events out of a body: one, an array, lines, CloudEvents. One pass, nothing copied; a bad event
//! is a rejection of its own, only a body that is no JSON is refused as a whole.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Cost, Rejection, UsageEvent};
use crate::error::Error;
use crate::json;
use crate::quantity::{self, NumberError};
use crate::time::Moment;

/// Characters of an id, a source, a name, a member or a subject at most.
const TEXT: usize = 200;

/// How a body holds its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// One event, an array of them, or `{"events": […]}`. What has a `specversion` is a CloudEvent.
    Json,
    /// One event a line.
    Lines,
    /// A CloudEvent in binary mode: its attributes are headers, the body is its `data` (CloudEvents HTTP
    /// binding 1.0, 3.1).
    Binary(Vec<(String, String)>),
}

/// One event out of a body, and as much of its name as could be read.
#[derive(Debug)]
pub struct Parsed<'a> {
    /// Its id; empty when there was none.
    pub id: Cow<'a, str>,
    /// Its source; empty when there was none.
    pub source: Cow<'a, str>,
    /// The event, or what is wrong with it.
    pub event: Result<UsageEvent<'a>, Rejection>,
}

/// The events of a body.
#[derive(Debug)]
pub struct Sent<'a> {
    pub events: Vec<Parsed<'a>>,
    /// True for one event that was sent as such, not as a batch of one: what becomes of it is what becomes of
    /// the request.
    pub alone: bool,
}

/// Reads the events of a body, at most `limit`. With `subject_names_org` the subject of a CloudEvent without
/// an `org` names its org.
///
/// # Errors
/// [`Error::Malformed`] when the body is no JSON; [`Error::Invalid`] when it has too many events.
pub fn parse<'a>(
    body: &'a [u8],
    form: &'a Form,
    limit: usize,
    subject_names_org: bool,
) -> Result<Sent<'a>, Error> {
    let read = Read { subject_names_org };
    match form {
        Form::Json => any(text(body)?, read, limit),
        Form::Lines => {
            let lines = text(body)?.lines().filter(|line| !line.trim().is_empty());
            let events = lines.map(|line| {
                one(line, read).unwrap_or_else(|_| {
                    rejected(Rejection::new(
                        "",
                        "malformed",
                        "the line is not valid JSON: send one event a line",
                    ))
                })
            });
            bounded(events.take(limit + 1).collect(), limit).map(batch)
        }
        Form::Binary(attributes) => {
            let data: &RawValue = serde_json::from_str(text(body)?).map_err(malformed)?;
            Ok(Sent { events: vec![binary(attributes, data, read)], alone: true })
        }
    }
}

fn batch(events: Vec<Parsed<'_>>) -> Sent<'_> {
    Sent { events, alone: false }
}

fn text(body: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(body).map_err(|_| Error::Malformed("the body is not UTF-8".to_owned()))
}

fn malformed(error: serde_json::Error) -> Error {
    json::unreadable(&error)
}

fn bounded(events: Vec<Parsed<'_>>, limit: usize) -> Result<Vec<Parsed<'_>>, Error> {
    if events.len() > limit {
        return Err(Error::TooManyEvents(limit));
    }
    Ok(events)
}

fn any(body: &str, read: Read, limit: usize) -> Result<Sent<'_>, Error> {
    if body.trim_start().starts_with('[') {
        return many(body, read, limit).map(batch);
    }
    let event = one(body, read).map_err(malformed)?;
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
        return many(wrapped.events.get(), read, limit).map(batch);
    }
    Ok(Sent { events: vec![event], alone: true })
}

fn many(array: &str, read: Read, limit: usize) -> Result<Vec<Parsed<'_>>, Error> {
    let mut json = serde_json::Deserializer::from_str(array);
    let events = json.deserialize_seq(Array { read, limit }).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Error::invalid("events", "must be an array of events"),
        _ => malformed(error),
    })?;
    json.end().map_err(malformed)?;
    bounded(events, limit)
}

fn one(body: &str, read: Read) -> Result<Parsed<'_>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(body);
    let event = read.deserialize(&mut json)?;
    json.end()?;
    Ok(event)
}

struct Array {
    read: Read,
    limit: usize,
}

impl<'de> Visitor<'de> for Array {
    type Value = Vec<Parsed<'de>>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(event) = events.next_element_seed(self.read)? {
            // One too many tells the caller; the rest need not take memory.
            if read.len() <= self.limit {
                read.push(event);
            }
        }
        Ok(read)
    }
}

/// Reads one event; what is not an object is a rejected one.
#[derive(Clone, Copy)]
struct Read {
    subject_names_org: bool,
}

impl<'de> DeserializeSeed<'de> for Read {
    type Value = Parsed<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Parsed<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

macro_rules! not_an_object {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Parsed<'de>, E> {
            Ok(no_object())
        })*
    };
}

impl<'de> Visitor<'de> for Read {
    type Value = Parsed<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an event")
    }

    not_an_object! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<Parsed<'de>, E> {
        Ok(no_object())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Parsed<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(no_object())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
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

fn no_object<'a>() -> Parsed<'a> {
    rejected(Rejection::new("", "not_an_object", "an event is a JSON object"))
}

fn rejected<'a>(rejection: Rejection) -> Parsed<'a> {
    Parsed { id: Cow::Borrowed(""), source: Cow::Borrowed(""), event: Err(rejection) }
}

/// The names of the fields, native and of CloudEvents.
const KNOWN: [&str; 10] =
    ["id", "source", "org", "event_name", "occurred_at", "member", "subject", "data", "cost", "specversion"];

/// The fields of one event as they were sent.
#[derive(Default)]
struct EventFields<'a> {
    values: [Option<&'a RawValue>; KNOWN.len()],
    unknown: Option<Cow<'a, str>>,
    twice: Option<&'static str>,
    base64: bool,
}

impl<'a> EventFields<'a> {
    fn put(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        let known = match name.as_ref() {
            "type" => "event_name",
            "time" => "occurred_at",
            "data_base64" => {
                self.base64 = true;
                return;
            }
            other => other,
        };
        match KNOWN.iter().position(|one| *one == known) {
            Some(at) if self.values[at].is_some() => self.twice = Some(KNOWN[at]),
            Some(at) => self.values[at] = Some(value),
            None => drop(self.unknown.get_or_insert(name)),
        }
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let at = KNOWN.iter().position(|one| *one == name)?;
        self.values[at].filter(|value| value.get() != "null")
    }

    /// A text of 1 to 200 characters, without control characters.
    fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Rejection> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let json = raw.get();
        let text = match json.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            None => return Err(Rejection::new(name, "not_text", "must be a string")),
            Some(text) if !text.contains('\\') => Cow::Borrowed(text),
            Some(_) => match serde_json::from_str::<String>(json) {
                Ok(text) => Cow::Owned(text),
                Err(_) => return Err(Rejection::new(name, "not_text", "is not valid Unicode")),
            },
        };
        check(name, &text)?;
        Ok(Some(text))
    }

    fn finish(self, read: Read) -> Parsed<'a> {
        let (id, source) = (self.text("id"), self.text("source"));
        let known = |text: &Result<Option<Cow<'a, str>>, Rejection>| {
            text.as_ref().ok().and_then(Clone::clone).unwrap_or_default()
        };
        Parsed { id: known(&id), source: known(&source), event: self.event(id, source, read) }
    }

    fn event(
        &self,
        id: Result<Option<Cow<'a, str>>, Rejection>,
        source: Result<Option<Cow<'a, str>>, Rejection>,
        read: Read,
    ) -> Result<UsageEvent<'a>, Rejection> {
        let cloud = self.get("specversion").is_some();
        if let Some(name) = self.twice {
            return Err(Rejection::new(name, "field_twice", "is there twice"));
        }
        // An attribute that is not known is an extension in a CloudEvent, and a mistake in our own form.
        if let (Some(name), false) = (&self.unknown, cloud) {
            return Err(Rejection::new(
                name.clone().into_owned(),
                "unknown_field",
                "is not a field of a usage event",
            ));
        }
        if cloud && self.text("specversion")?.as_deref() != Some("1.0") {
            return Err(Rejection::new("specversion", "unknown_version", "must be 1.0"));
        }
        if self.base64 {
            return Err(Rejection::new("data_base64", "not_an_object", "send `data` as a JSON object"));
        }
        let missing = |name: &'static str| move || Rejection::new(name, "missing", "must be there");
        let mut event = UsageEvent {
            id: id?.ok_or_else(missing("id"))?,
            source: source?.unwrap_or_default(),
            org: self.text("org")?,
            event_name: self.text("event_name")?.ok_or_else(missing("event_name"))?,
            occurred_at: self.text("occurred_at")?.map(|text| time(&text)).transpose()?,
            member: self.text("member")?,
            subject: self.text("subject")?,
            data: self.get("data"),
            cost: self.get("cost").map(cost).transpose()?.map(Cost::Major),
        };
        if cloud && event.org.is_none() && read.subject_names_org {
            event.org = event.subject.take();
        }
        Ok(event)
    }
}

pub(super) fn check(name: &'static str, text: &str) -> Result<(), Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(name, "empty", "must not be empty: leave it out"));
    }
    if text.len() > TEXT && text.chars().count() > TEXT {
        return Err(Rejection::new(name, "too_long", "must be at most 200 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(Rejection::new(name, "control_character", "must have no control characters"));
    }
    Ok(())
}

fn time(text: &str) -> Result<DateTime<Utc>, Rejection> {
    text.parse::<Moment>().map(|at| at.0).map_err(|_| {
        Rejection::new("occurred_at", "not_a_time", "must be RFC 3339, such as 2026-01-31T00:00:00Z")
    })
}

pub(super) fn cost(raw: &RawValue) -> Result<Decimal, Rejection> {
    quantity::read_rounded(&quantity::number_text(raw)).map_err(|error| match error {
        NumberError::NotANumber => {
            Rejection::new("cost", "not_a_number", "must be a number, or a string with one")
        }
        NumberError::TooLarge => Rejection::new("cost", "too_large", "must be less than 10^15 either way"),
    })
}

/// An event in binary mode: `ce-id` and so on.
fn binary<'a>(attributes: &'a [(String, String)], data: &'a RawValue, read: Read) -> Parsed<'a> {
    let attribute = |name: &'static str| -> Result<Option<Cow<'a, str>>, Rejection> {
        let value = attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        value.map(|text| check(name, text).map(|()| Cow::Borrowed(text))).transpose()
    };
    let event = || -> Result<UsageEvent<'a>, Rejection> {
        let missing = |name: &'static str| move || Rejection::new(name, "missing", "must be there");
        if attribute("specversion")?.as_deref() != Some("1.0") {
            return Err(Rejection::new("specversion", "unknown_version", "must be 1.0"));
        }
        let mut event = UsageEvent {
            id: attribute("id")?.ok_or_else(missing("id"))?,
            source: attribute("source")?.unwrap_or_default(),
            org: attribute("org")?,
            event_name: attribute("type")?.ok_or_else(missing("type"))?,
            occurred_at: attribute("time")?.map(|text| time(&text)).transpose()?,
            member: attribute("member")?,
            subject: attribute("subject")?,
            data: Some(data).filter(|data| data.get() != "null"),
            cost: None,
        };
        if event.org.is_none() && read.subject_names_org {
            event.org = event.subject.take();
        }
        Ok(event)
    };
    let known = |name| attribute(name).ok().flatten().unwrap_or_default();
    Parsed { id: known("id"), source: known("source"), event: event() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(body: &str) -> Vec<String> {
        let events = parse(body.as_bytes(), &Form::Json, 3, true).expect("JSON").events;
        let rule = |one: Parsed<'_>| match one.event {
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
            let error = parse(body.as_bytes(), &Form::Json, 3, true).expect_err("refused");
            assert_eq!(matches!(error, Error::Malformed(_)), malformed, "{body}: {error}");
        }
    }

    #[test]
    fn lines_are_read_one_by_one() {
        let body = b"{\"id\":\"1\",\"type\":\"x\"}\n\nnonsense\r\n{\"id\":\"3\",\"type\":\"x\"}";
        let events = parse(body, &Form::Lines, 3, true).expect("lines").events;
        let ids: Vec<&str> = events.iter().map(|one| one.id.as_ref()).collect();
        assert_eq!(ids, ["1", "", "3"]);
        assert_eq!(events[1].event.as_ref().expect_err("refused").rule, "malformed");
    }

    #[test]
    fn binary_mode_takes_its_attributes_from_headers() {
        let attributes =
            [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "x"), ("subject", "a")];
        let form = Form::Binary(attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let events = parse(br#"{"n":1}"#, &form, 3, true).expect("JSON").events;
        let event = events[0].event.as_ref().expect("an event");
        assert_eq!((event.org.as_deref(), event.data.expect("data").get()), (Some("a"), r#"{"n":1}"#));
    }
}
