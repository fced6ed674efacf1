//! The fields of one usage event: from JSON, or from the headers of a CloudEvent in binary mode.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::parse::{EventReader, ParsedEvent};
use super::{Cost, Rejection, UsageEvent};
use crate::quantity::{self, NumberError};
use crate::time::Moment;

/// Characters of an id, a source, a name, a member or a subject at most.
const MAX_TEXT: usize = 200;

/// Our names of the fields; `specversion` is there in CloudEvents only.
const FIELDS: [&str; 10] =
    ["id", "source", "org", "event_name", "occurred_at", "member", "subject", "data", "cost", "specversion"];

/// The fields of one event as they were sent.
#[derive(Default)]
pub(super) struct EventFields<'a> {
    values: [Option<&'a RawValue>; FIELDS.len()],
    unknown: Option<Cow<'a, str>>,
    repeated: Option<&'static str>,
    has_base64: bool,
}

impl<'a> EventFields<'a> {
    pub(super) fn put(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        let field = match name.as_ref() {
            "type" => "event_name",
            "time" => "occurred_at",
            "data_base64" => {
                self.has_base64 = true;
                return;
            }
            other => other,
        };
        match FIELDS.iter().position(|one| *one == field) {
            Some(at) if self.values[at].is_some() => self.repeated = Some(FIELDS[at]),
            Some(at) => self.values[at] = Some(value),
            None => drop(self.unknown.get_or_insert(name)),
        }
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let at = FIELDS.iter().position(|one| *one == name)?;
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

    pub(super) fn finish(self, reader: EventReader) -> ParsedEvent<'a> {
        let (id, source) = (self.text("id"), self.text("source"));
        let known = |text: &Result<Option<Cow<'a, str>>, Rejection>| {
            text.as_ref().ok().and_then(Clone::clone).unwrap_or_default()
        };
        ParsedEvent { id: known(&id), source: known(&source), event: self.event(id, source, reader) }
    }

    fn event(
        &self,
        id: Result<Option<Cow<'a, str>>, Rejection>,
        source: Result<Option<Cow<'a, str>>, Rejection>,
        reader: EventReader,
    ) -> Result<UsageEvent<'a>, Rejection> {
        let is_cloud_event = self.get("specversion").is_some();
        if let Some(name) = self.repeated {
            return Err(Rejection::new(name, "field_twice", "is there twice"));
        }
        // In a CloudEvent an unknown attribute is an extension; in our own form it is a mistake.
        if let (Some(name), false) = (&self.unknown, is_cloud_event) {
            return Err(Rejection::new(
                name.clone().into_owned(),
                "unknown_field",
                "is not a field of a usage event",
            ));
        }
        if is_cloud_event && self.text("specversion")?.as_deref() != Some("1.0") {
            return Err(Rejection::new("specversion", "unknown_version", "must be 1.0"));
        }
        if self.has_base64 {
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
        if is_cloud_event && event.org.is_none() && reader.subject_names_org {
            event.org = event.subject.take();
        }
        Ok(event)
    }
}

/// Checks a text: 1 to 200 characters, no control characters.
pub(super) fn check(name: &'static str, text: &str) -> Result<(), Rejection> {
    if text.is_empty() {
        return Err(Rejection::new(name, "empty", "must not be empty: leave it out"));
    }
    if text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT {
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

/// An event in binary mode: its attributes are the headers `ce-id` and so on.
pub(super) fn binary<'a>(
    attributes: &'a [(String, String)],
    data: &'a RawValue,
    reader: EventReader,
) -> ParsedEvent<'a> {
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
        if event.org.is_none() && reader.subject_names_org {
            event.org = event.subject.take();
        }
        Ok(event)
    };
    let known = |name| attribute(name).ok().flatten().unwrap_or_default();
    ParsedEvent { id: known("id"), source: known("source"), event: event() }
}
