//! The envelope of a Stripe event: the few fields that we need, read tolerantly. Everything else stays in the raw bytes.
//!
//! No field is required and no type is trusted: `request` may be a string, `api_version` null, `created` an RFC 3339 text (v2
//! events), ids may lack their prefix. Only a body that is not a JSON object is no event.

use std::borrow::Cow;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Realm;

/// What the inbox keeps beside the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Account and mode.
    pub realm: Realm,
    /// The event's id; for an event without one, `sha256:` and the digest of the body.
    pub event_id: String,
    /// Such as `invoice.paid`; empty when absent.
    pub event_type: String,
    /// The API version that the shapes follow, as claimed.
    pub api_version: Option<String>,
    /// Unix seconds; 0 when absent.
    pub created: i64,
    /// Kind of `data.object`.
    pub object: Option<String>,
    /// Id of `data.object`.
    pub object_id: Option<String>,
    /// A v2 event: it names an object instead of holding it.
    pub thin: bool,
    /// The thin event's `snapshot_event`: the same happening in full.
    pub twin_event_id: Option<String>,
}

/// Fields of an envelope or an object, each left unread: one of an unexpected type must not lose the others.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    account: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    livemode: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    snapshot_event: Option<&'a RawValue>,
    #[serde(borrow)]
    customer: Option<&'a RawValue>,
}

/// Reads the envelope of `body`; `None` when it is not a JSON object.
#[must_use]
pub fn read(body: &[u8]) -> Option<Envelope> {
    let text = std::str::from_utf8(without_bom(body)).ok()?;
    // serde would read an array as a struct, field by field.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    if let Ok(raw) = serde_json::from_str::<Raw<'_>>(text) {
        return Some(envelope(&raw, body));
    }
    // A field twice: JSON allows it, the strict reader does not. The last one counts, as in most readers.
    let value: serde_json::Value = serde_json::from_str(text).ok().filter(serde_json::Value::is_object)?;
    let tidy = value.to_string();
    serde_json::from_str(&tidy).ok().map(|raw| envelope(&raw, body))
}

/// The body without the byte order mark that some tools put before it.
#[must_use]
pub fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn envelope(raw: &Raw<'_>, body: &[u8]) -> Envelope {
    let event_id = text(raw.id).filter(|id| !id.is_empty());
    let event_type = text(raw.r#type).unwrap_or_default().into_owned();
    let object = raw.data.and_then(inner_object).unwrap_or_default();
    let kind = text(object.object).filter(|kind| !kind.is_empty()).or_else(|| kind_of_type(&event_type));
    Envelope {
        realm: Realm {
            account: text(raw.account).or_else(|| text(raw.context)).unwrap_or_default().into_owned(),
            livemode: raw.livemode.is_some_and(|value| value.get() == "true"),
        },
        event_id: event_id
            .map_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(body))), |id| storable(&id)),
        thin: raw.data.is_none_or(|data| inner_object(data).is_none())
            && text(raw.object).as_deref() == Some("v2.core.event"),
        twin_event_id: text(raw.snapshot_event).map(|id| storable(&id)),
        api_version: text(raw.api_version).map(|version| storable(&version)),
        created: raw.created.map_or(0, seconds),
        object_id: object_key(kind.as_deref(), &object),
        object: kind.map(|kind| storable(&kind)),
        event_type: storable(&event_type),
    }
}

/// `data.object`, where it is an object.
fn inner_object(data: &RawValue) -> Option<Raw<'_>> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        object: Option<&'a RawValue>,
    }
    serde_json::from_str::<Data<'_>>(data.get())
        .ok()?
        .object
        .and_then(|object| serde_json::from_str(object.get()).ok())
}

/// An object's id. An entitlement summary has none: there is one per customer.
fn object_key(kind: Option<&str>, object: &Raw<'_>) -> Option<String> {
    let id = text(object.id).or_else(|| match kind {
        Some("entitlements.active_entitlement_summary") => text(object.customer),
        _ => None,
    });
    id.filter(|id| !id.is_empty()).map(|id| storable(&id))
}

/// Old fixtures leave out `object`: the type tells (`invoice.paid` → `invoice`, `customer.subscription.created` → `subscription`).
fn kind_of_type(event_type: &str) -> Option<Cow<'static, str>> {
    let (kind, _) = event_type.rsplit_once('.')?;
    Some(match kind {
        "customer.subscription" => "subscription".into(),
        "customer.discount" => "discount".into(),
        "customer.tax_id" => "tax_id".into(),
        "customer.source" => "source".into(),
        "charge.dispute" => "dispute".into(),
        "charge.refund" => "refund".into(),
        other => other.to_owned().into(),
    })
}

fn text(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw?.get()).ok().map(|text| text.0)
}

/// PostgreSQL text cannot hold NUL.
fn storable(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

/// Unix seconds, from a number or (v2 events) an RFC 3339 text.
fn seconds(raw: &RawValue) -> i64 {
    if let Ok(seconds) = serde_json::from_str::<i64>(raw.get()) {
        return seconds;
    }
    if let Ok(seconds) = serde_json::from_str::<f64>(raw.get()) {
        #[allow(clippy::cast_possible_truncation, reason = "a float's seconds; saturates")]
        return seconds as i64;
    }
    text(Some(raw)).and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map_or(0, |at| at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_json_object_is_required() {
        for body in ["", "null", "[]", "\"x\"", "{", "\u{feff}", "{\"a\":}"] {
            assert_eq!(read(body.as_bytes()), None, "{body}");
        }
        let odd = [
            r#"{}"#,
            r#"{"id":7,"type":null,"created":"soon","livemode":"yes","account":{},"data":[]}"#,
            r#"{"id":"evt_1","data":{"object":null}}"#,
            r#"{"id":"evt_1","data":{"object":"in_1"},"request":"req_1"}"#,
            r#"{"id":"evt_1","id":"evt_2","type":"a.b"}"#,
        ];
        for body in odd {
            assert!(read(body.as_bytes()).is_some(), "{body}");
        }
        assert_eq!(read(odd[4].as_bytes()).expect("an event").event_id, "evt_2");
        assert!(read(odd[0].as_bytes()).expect("an event").event_id.starts_with("sha256:"));
    }

    #[test]
    fn the_usual_envelope() {
        let body = "\u{feff}{\"id\":\"evt_1\",\"type\":\"invoice.paid\",\"created\":12,\"livemode\":true,\"account\":\"acct_1\",
            \"api_version\":\"2020-08-27\",\"data\":{\"object\":{\"id\":\"in_\\u00e9\",\"object\":\"invoice\"}}}";
        let envelope = read(body.as_bytes()).expect("an event");
        assert_eq!(envelope.realm, Realm { account: "acct_1".into(), livemode: true });
        assert_eq!((envelope.created, envelope.thin), (12, false));
        assert_eq!(
            (envelope.object.as_deref(), envelope.object_id.as_deref()),
            (Some("invoice"), Some("in_é"))
        );
    }

    #[test]
    fn a_thin_event_names_its_twin() {
        let body = r#"{"id":"evt_2","object":"v2.core.event","type":"v1.invoice.paid","created":"2026-01-02T03:04:05.678Z",
            "snapshot_event":"evt_1","related_object":{"id":"in_1","type":"invoice"}}"#;
        let envelope = read(body.as_bytes()).expect("an event");
        assert_eq!(
            (envelope.thin, envelope.twin_event_id.as_deref(), envelope.created),
            (true, Some("evt_1"), 1_767_323_045)
        );
    }
}
