//! The envelope of a Stripe event: the few fields that we need. The inbox keeps the raw bytes for all others.
//!
//! No field is required, and a field may have any type: `request` may be a string, `api_version` null,
//! `created` an RFC 3339 text (v2 events), an id without its prefix. Only a body that is not a JSON object is
//! not an event.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Realm;
use super::json::{self, Json, Tree};

mod lenient;

use lenient::{LenientObject, Scalar};

/// What the inbox stores of an event beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub realm: Realm,
    /// The event's id. An event without an id gets `sha256:` and the digest of its body. An id that is longer
    /// than Stripe's is replaced by `sha256:` and its digest.
    pub event_id: String,
    /// Such as `invoice.paid`; empty when absent.
    pub event_type: String,
    /// The API version of its shapes, as the event says.
    pub api_version: Option<String>,
    /// Unix seconds; 0 when absent.
    pub created: i64,
    /// Kind of `data.object`.
    pub object: Option<String>,
    /// Id of `data.object`.
    pub object_id: Option<String>,
    /// A v2 event: it names an object, but does not have its snapshot.
    pub thin: bool,
    /// `snapshot_event` of a thin event: the id of the full event of the same change.
    pub twin_event_id: Option<String>,
}

/// The fields of an envelope. A field of an unexpected type counts as absent; the others are still read.
#[derive(Deserialize, Default)]
#[serde(default)]
#[serde(bound(deserialize = "D: Deserialize<'de> + Default"))]
struct RawEnvelope<'a, D> {
    #[serde(borrow)]
    id: Scalar<'a>,
    #[serde(borrow)]
    object: Scalar<'a>,
    #[serde(borrow)]
    r#type: Scalar<'a>,
    #[serde(borrow)]
    api_version: Scalar<'a>,
    #[serde(borrow)]
    created: Scalar<'a>,
    #[serde(borrow)]
    account: Scalar<'a>,
    #[serde(borrow)]
    context: Scalar<'a>,
    #[serde(borrow)]
    livemode: Scalar<'a>,
    #[serde(borrow)]
    snapshot_event: Scalar<'a>,
    data: LenientObject<D>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Data<'a> {
    #[serde(borrow)]
    object: LenientObject<Object<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object<'a> {
    #[serde(borrow)]
    id: Scalar<'a>,
    #[serde(borrow)]
    object: Scalar<'a>,
    #[serde(borrow)]
    customer: Scalar<'a>,
}

/// Reads only the envelope, for a body that cannot be read as a whole: it skips a number that no reader can
/// represent. `None` when the body is not a JSON object.
fn read(body: &[u8]) -> Option<Envelope> {
    let text = std::str::from_utf8(without_bom(body)).ok()?;
    // serde would read an array as a struct, field by field.
    if !text.trim_start().starts_with('{') {
        return None;
    }
    if let Ok(raw) = serde_json::from_str::<RawEnvelope<'_, Data<'_>>>(text) {
        return Some(light(raw, body));
    }
    // JSON allows a field twice, the derived reader does not. The last one counts, as in most readers.
    let value: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
    let tidy = value.to_string();
    serde_json::from_str(&tidy).ok().map(|raw| light(raw, body))
}

fn light(mut raw: RawEnvelope<'_, Data<'_>>, body: &[u8]) -> Envelope {
    let object = raw.data.0.take().and_then(|data| data.object.0);
    envelope(&raw, object, body)
}

/// An event, read.
#[derive(Debug)]
pub struct Opened<'a> {
    pub envelope: Envelope,
    pub contents: Contents<'a>,
}

/// What an event says of its object.
#[derive(Debug, Default)]
pub struct Contents<'a> {
    /// `data.object`; null when there is none.
    pub snapshot: Json<'a>,
    /// `data.more`: of a fetch, the further entries of the object's lists; null when there are none. Stripe's
    /// events have no such field.
    pub more: Json<'a>,
    /// `data.previous_attributes`.
    pub previous: Option<Json<'a>>,
    /// Why the body cannot be read. Without this, an unreadable body would look like an event without an
    /// object.
    pub unreadable: Option<String>,
}

impl<'a> Contents<'a> {
    fn new(snapshot: Json<'a>, more: Option<Tree<'a>>, previous: Option<Tree<'a>>) -> Self {
        let tree = |tree: Option<Tree<'a>>| tree.map(|Tree(tree)| tree);
        let (more, previous) = (tree(more).unwrap_or_default(), tree(previous));
        Self { snapshot, more, previous, unreadable: None }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Snapshots<'a> {
    #[serde(borrow)]
    object: Tree<'a>,
    #[serde(borrow)]
    more: Option<Tree<'a>>,
    #[serde(borrow)]
    previous_attributes: Option<Tree<'a>>,
}

/// Reads a whole body, usually in one pass. A body that is not an event still gets an envelope: with an id,
/// and nothing else.
#[must_use]
pub fn open(body: &[u8]) -> Opened<'_> {
    // serde would read an array as a struct, field by field.
    let raw = looks_like_one(body).then(|| json::read::<RawEnvelope<'_, Snapshots<'_>>>(without_bom(body)));
    let Some(Ok(mut raw)) = raw else {
        let envelope = read(body).unwrap_or_else(|| light(RawEnvelope::default(), body));
        let contents = contents(body, envelope.object_id.is_some());
        return Opened { envelope, contents };
    };
    let Snapshots { object: Tree(snapshot), more, previous_attributes } =
        raw.data.0.take().unwrap_or_default();
    let text = |name: &str| json::field(&snapshot, name).as_str();
    let scalar = |name: &str| text(name).map_or(Scalar::Other, |text| Scalar::Text(text.into()));
    let named = snapshot.is_object().then(|| Object {
        id: scalar("id"),
        object: scalar("object"),
        customer: scalar("customer"),
    });
    let envelope = envelope(&raw, named, body);
    Opened { envelope, contents: Contents::new(snapshot, more, previous_attributes) }
}

/// The contents of a stored body. `named`: its envelope names an object. Then a body without `data.object`
/// counts as unreadable, too.
#[must_use]
pub fn contents(body: &[u8], named: bool) -> Contents<'_> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        object: Tree<'a>,
        #[serde(borrow)]
        more: Option<Tree<'a>>,
        #[serde(borrow)]
        previous_attributes: Option<Tree<'a>>,
    }
    match json::read::<Body<'_>>(without_bom(body)) {
        Ok(Body { data }) => Contents::new(data.object.0, data.more, data.previous_attributes),
        Err(error) => {
            // An error of data: it is JSON, but has no object. Without a named object that is fine.
            let is_unreadable = named || !error.is_data();
            Contents { unreadable: is_unreadable.then(|| error.to_string()), ..Contents::default() }
        }
    }
}

/// A cheap check: the body starts with `{` and ends with `}`. It is parsed after Stripe has its answer.
#[must_use]
pub fn looks_like_one(body: &[u8]) -> bool {
    let text = without_bom(body).trim_ascii();
    text.starts_with(b"{") && text.ends_with(b"}")
}

/// The body without the byte order mark that some tools put before it.
#[must_use]
pub fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn envelope<D>(raw: &RawEnvelope<'_, D>, object: Option<Object<'_>>, body: &[u8]) -> Envelope {
    let event_id = raw.id.text().filter(|id| !id.is_empty()).map(name);
    let event_type = raw.r#type.text().unwrap_or_default();
    let thin = object.is_none() && raw.object.text() == Some("v2.core.event");
    let object = object.unwrap_or_default();
    let kind = object.object.text().filter(|kind| !kind.is_empty()).map(Cow::Borrowed);
    let kind = kind.or_else(|| kind_of_type(event_type));
    Envelope {
        realm: Realm {
            account: raw.account.text().or_else(|| raw.context.text()).map(name).unwrap_or_default(),
            livemode: matches!(raw.livemode, Scalar::Flag(true)),
        },
        event_id: event_id.unwrap_or_else(|| digest(body)),
        thin,
        twin_event_id: raw.snapshot_event.text().map(name),
        api_version: raw.api_version.text().map(storable),
        created: raw.created.seconds(),
        object_id: object_key(kind.as_deref(), &object),
        object: kind.map(|kind| name(&kind)),
        event_type: storable(event_type),
    }
}

/// An object's id. An entitlement summary has no id; its customer's id serves, because each customer has only
/// one.
fn object_key(kind: Option<&str>, object: &Object<'_>) -> Option<String> {
    let id = object.id.text().or_else(|| match kind {
        Some("entitlements.active_entitlement_summary") => object.customer.text(),
        _ => None,
    });
    id.filter(|id| !id.is_empty()).map(name)
}

/// The kind of object that an event type names (`invoice.paid` → `invoice`, `customer.subscription.created` →
/// `subscription`), for old events without `object`.
fn kind_of_type(event_type: &str) -> Option<Cow<'_, str>> {
    let (kind, _) = event_type.rsplit_once('.')?;
    Some(match kind {
        "customer.subscription" => "subscription".into(),
        "customer.discount" => "discount".into(),
        "customer.tax_id" => "tax_id".into(),
        "customer.source" => "source".into(),
        "charge.dispute" => "dispute".into(),
        "charge.refund" => "refund".into(),
        other => other.into(),
    })
}

/// An id as we store it. Stripe's ids have at most 255 characters. A longer one might not fit into an index,
/// so its digest replaces it.
fn name(text: &str) -> String {
    if text.chars().count() > 255 { digest(text.as_bytes()) } else { storable(text) }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Replaces NUL, which PostgreSQL cannot store in a text.
fn storable(text: &str) -> String {
    crate::text::replace_nul(text)
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
            let alone = read(body.as_bytes());
            assert!(alone.is_some(), "{body}");
            assert_eq!(Some(open(body.as_bytes()).envelope), alone, "both readers see the same in {body}");
        }
        assert_eq!(read(odd[4].as_bytes()).expect("an event").event_id, "evt_2");
        assert!(read(odd[0].as_bytes()).expect("an event").event_id.starts_with("sha256:"));
    }

    #[test]
    fn the_usual_envelope() {
        let body = "\u{feff}{\"id\":\"evt_1\",\"type\":\"invoice.paid\",\"created\":12,\"livemode\":true,
            \"account\":\"acct_1\",\"api_version\":\"2020-08-27\",
            \"data\":{\"object\":{\"id\":\"in_\\u00e9\",\"object\":\"invoice\"}}}";
        let envelope = open(body.as_bytes()).envelope;
        assert_eq!(read(body.as_bytes()).as_ref(), Some(&envelope));
        assert_eq!(envelope.realm, Realm { account: "acct_1".into(), livemode: true });
        assert_eq!((envelope.created, envelope.thin), (12, false));
        assert_eq!(
            (envelope.object.as_deref(), envelope.object_id.as_deref()),
            (Some("invoice"), Some("in_é"))
        );
    }

    #[test]
    fn of_an_object_s_field_given_twice_the_last_one_counts() {
        let body = br#"{"id":"evt_1","data":{"object":{"id":"in_1","object":"invoice","id":"in_2",
            "lines":{"data":[],"data":[{"a":1,"a":2}]}},
            "previous_attributes":{"status":"draft","status":"open"}}}"#;
        let opened = open(body);
        assert_eq!(read(body).as_ref(), Some(&opened.envelope));
        assert_eq!(opened.envelope.object_id.as_deref(), Some("in_2"));
        let whole: Value = serde_json::from_slice(body).unwrap();
        for Contents { snapshot, previous, unreadable, .. } in [opened.contents, contents(body, true)] {
            assert_eq!(json::field(&snapshot, "id").as_str(), Some("in_2"));
            assert_eq!(Value::from(&snapshot), whole["data"]["object"]);
            assert_eq!(previous.map(Value::from), Some(whole["data"]["previous_attributes"].clone()));
            assert_eq!(unreadable, None);
        }
    }

    #[test]
    fn what_cannot_be_read_whole_keeps_its_name() {
        let named = br#"{"id":"evt_1","data":{"object":{"id":"in_1","object":"invoice","x":1e999}}}"#;
        let opened = open(named);
        assert_eq!(
            (&*opened.envelope.event_id, opened.envelope.object_id.as_deref()),
            ("evt_1", Some("in_1"))
        );
        let contents = &opened.contents;
        assert!(contents.unreadable.is_some() && contents.snapshot.is_null());
        let broken = open(b"{\"id\":}");
        assert!(broken.contents.unreadable.is_some() && broken.envelope.event_id.starts_with("sha256:"));
        // An event without an object is not unreadable.
        assert_eq!(open(br#"{"id":"evt_1"}"#).contents.unreadable, None);
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(256));
        assert!(open(long.as_bytes()).envelope.event_id.starts_with("sha256:"));
    }

    #[test]
    fn a_thin_event_names_its_twin() {
        let body = r#"{"id":"evt_2","object":"v2.core.event","type":"v1.invoice.paid",
            "created":"2026-01-02T03:04:05.678Z",
            "snapshot_event":"evt_1","related_object":{"id":"in_1","type":"invoice"}}"#;
        let envelope = open(body.as_bytes()).envelope;
        assert_eq!(read(body.as_bytes()).as_ref(), Some(&envelope));
        assert_eq!(
            (envelope.thin, envelope.twin_event_id.as_deref(), envelope.created),
            (true, Some("evt_1"), 1_767_323_045)
        );
    }
}
