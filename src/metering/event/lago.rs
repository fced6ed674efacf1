//! Usage events as Lago's clients send them (Lago's API reference, "Send usage events"). Unknown fields are
//! ignored, as Lago does.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Cost, Rejection, UsageEvent, fields};
use crate::error::Error;
use crate::json;
use crate::metering::data;
use crate::time::Moment;

/// The source of these events in our records.
pub const SOURCE: &str = "lago";

/// One event as it was sent.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct LagoEvent<'a> {
    /// The caller's id.
    #[serde(borrow, default)]
    pub transaction_id: Option<&'a RawValue>,
    /// The org, by public or external id.
    #[serde(borrow, default)]
    pub external_subscription_id: Option<&'a RawValue>,
    /// The org, when there is no subscription.
    #[serde(borrow, default)]
    pub external_customer_id: Option<&'a RawValue>,
    /// The event name.
    #[serde(borrow, default)]
    pub code: Option<&'a RawValue>,
    /// Seconds since 1970, a number or a string with one.
    #[serde(borrow, default)]
    pub timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub properties: Option<&'a RawValue>,
    /// A cost in the minor unit of the meter's currency.
    #[serde(borrow, default)]
    pub precise_total_amount_cents: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct SingleEvent<'a> {
    #[serde(borrow)]
    event: LagoEvent<'a>,
}

#[derive(Deserialize)]
struct EventList<'a> {
    #[serde(borrow)]
    events: Vec<LagoEvent<'a>>,
}

/// Reads `{"event": {…}}`.
///
/// # Errors
/// [`Error::Malformed`] when the body is no JSON, [`Error::Invalid`] when it does not fit.
pub fn one(body: &[u8]) -> Result<LagoEvent<'_>, Error> {
    serde_json::from_slice::<SingleEvent<'_>>(body).map(|one| one.event).map_err(unreadable)
}

/// Reads `{"events": […]}`.
///
/// # Errors
/// As [`one`].
pub fn many(body: &[u8]) -> Result<Vec<LagoEvent<'_>>, Error> {
    serde_json::from_slice::<EventList<'_>>(body).map(|many| many.events).map_err(unreadable)
}

/// Whether the body is an object with an `event`, which no other form of an event has.
#[must_use]
pub fn is_lago(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        event: Option<&'a RawValue>,
    }
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<Envelope<'_>>(body).is_ok_and(|envelope| envelope.event.is_some())
}

fn unreadable(error: serde_json::Error) -> Error {
    json::unfit("", &error)
}

impl<'a> LagoEvent<'a> {
    /// The event in our form; `now` is its time when it has none.
    ///
    /// # Errors
    /// The rule that it breaks; fields have the names of [`UsageEvent`].
    pub fn read(&self, now: DateTime<Utc>) -> Result<UsageEvent<'a>, Rejection> {
        let missing = |name: &'static str| move || Rejection::new(name, "missing", "must be there");
        let org = match text("org", self.external_subscription_id)? {
            Some(org) => Some(org),
            None => text("org", self.external_customer_id)?,
        };
        Ok(UsageEvent {
            id: text("id", self.transaction_id)?.ok_or_else(missing("id"))?,
            source: Cow::Borrowed(SOURCE),
            org,
            event_name: text("event_name", self.code)?.ok_or_else(missing("event_name"))?,
            occurred_at: Some(self.timestamp.map_or(Ok(now), time)?),
            member: None,
            subject: None,
            data: self.properties,
            cost: self.precise_total_amount_cents.map(fields::cost).transpose()?.map(Cost::Minor),
        })
    }
}

/// A text of 1 to 200 characters. Lago also accepts a number, as its digits.
fn text<'a>(name: &'static str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(raw) = raw else { return Ok(None) };
    let text = data::text(name, raw).map_err(|rejection| Rejection { field: name.into(), ..rejection })?;
    if let Some(text) = &text {
        fields::check(name, text)?;
    }
    Ok(text)
}

fn time(raw: &RawValue) -> Result<DateTime<Utc>, Rejection> {
    let text = raw.get().trim_matches('"');
    let seconds = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text)
    } else {
        Decimal::from_str_exact(text)
    };
    let micros = seconds.ok().and_then(|seconds| seconds.checked_mul(Decimal::from(1_000_000)));
    micros
        .and_then(|micros| i64::try_from(micros.trunc()).ok())
        .and_then(DateTime::from_timestamp_micros)
        .and_then(Moment::from_instant)
        .map(|at| at.0)
        .ok_or_else(|| {
            Rejection::new(
                "occurred_at",
                "invalid_format",
                "must be seconds since 1970, such as 1767225600.25",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str) -> Result<(String, String, String, String), (String, &'static str)> {
        let body = format!(r#"{{"event":{event}}}"#);
        let event = one(body.as_bytes()).expect("fits");
        let now = DateTime::from_timestamp(7, 0).expect("a time");
        let event = event.read(now).map_err(|rejection| (rejection.field.into_owned(), rejection.rule))?;
        Ok((
            event.id.into_owned(),
            event.event_name.into_owned(),
            event.org.unwrap_or_default().into_owned(),
            event.occurred_at.expect("a time").to_rfc3339(),
        ))
    }

    #[test]
    fn every_way_to_write_an_event_is_read() {
        let at = |text: &str| Ok(("1".to_owned(), "c".to_owned(), "s".to_owned(), text.to_owned()));
        for (timestamp, expected) in [
            ("1767225600", at("2026-01-01T00:00:00+00:00")),
            ("1767225600.25", at("2026-01-01T00:00:00.250+00:00")),
            ("1767225600.123456789", at("2026-01-01T00:00:00.123456+00:00")),
            (r#""1767225600""#, at("2026-01-01T00:00:00+00:00")),
            (r#""1767225600.5""#, at("2026-01-01T00:00:00.500+00:00")),
            ("1.7672256e9", at("2026-01-01T00:00:00+00:00")),
            ("null", at("1970-01-01T00:00:07+00:00")),
            (r#""2026-01-01T00:00:00Z""#, Err(("occurred_at".to_owned(), "invalid_format"))),
            (r#""""#, Err(("occurred_at".to_owned(), "invalid_format"))),
            ("true", Err(("occurred_at".to_owned(), "invalid_format"))),
            ("1e27", Err(("occurred_at".to_owned(), "invalid_format"))),
        ] {
            let event = format!(
                r#"{{"transaction_id":"1","external_subscription_id":"s","code":"c","timestamp":{timestamp},
                    "more":[]}}"#
            );
            assert_eq!(read(&event), expected, "{timestamp}");
        }
        let customer =
            r#"{"transaction_id":1,"external_subscription_id":null,"external_customer_id":"s","code":"c"}"#;
        assert_eq!(read(customer), at("1970-01-01T00:00:07+00:00"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (event, field, rule) in [
            (r#"{"code":"c"}"#, "id", "missing"),
            (r#"{"transaction_id":"1"}"#, "event_name", "missing"),
            (r#"{"transaction_id":"","code":"c"}"#, "id", "empty"),
            (r#"{"transaction_id":{},"code":"c"}"#, "id", "not_a_scalar"),
            (r#"{"transaction_id":"a\u0007","code":"c"}"#, "id", "control_character"),
            (r#"{"transaction_id":"1","code":"c","precise_total_amount_cents":"x"}"#, "cost", "not_a_number"),
        ] {
            assert_eq!(read(event), Err((field.to_owned(), rule)), "{event}");
        }
        assert!(matches!(one(b"{"), Err(Error::Malformed(_))));
        assert!(matches!(one(b"{}"), Err(Error::Invalid { .. })));
        assert!(matches!(many(br#"{"events":[7]}"#), Err(Error::Invalid { .. })));
    }

    #[test]
    fn the_envelope_shows_the_form() {
        for (body, lago) in [
            (r#" {"event":{"code":"c"}}"#, true),
            (r#"{"event":7}"#, true),
            (r#"[{"event":{}}]"#, false),
            (r#"{"specversion":"1.0","id":"1","data":{"event":1}}"#, false),
            ("{", false),
        ] {
            assert_eq!(is_lago(body.as_bytes()), lago, "{body}");
        }
    }
}
