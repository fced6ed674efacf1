//! The objects and events of one account in one mode, in the order of their creation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;

/// Lines beyond this number are only at `/lines`.
pub const LINES_SHOWN: usize = 10;

/// Where an object stands in the order of creation: second, then a number that only grows.
pub type Position = (i64, u64);

/// An object as it is now.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As Stripe shows it: with its first lines only. Events share it.
    pub value: Arc<Value>,
    /// All lines of an invoice or credit note, or all items of a session.
    pub lines: Arc<Vec<Value>>,
    pub deleted: bool,
    /// An inline price: retrievable, never listed.
    pub hidden: bool,
}

/// All objects of one kind.
#[derive(Debug, Default)]
pub struct Table {
    pub order: BTreeMap<Position, Entry>,
    pub ids: HashMap<String, Position>,
    /// The objects that name another one: (field, id) → positions.
    pub references: HashMap<(&'static str, String), BTreeSet<Position>>,
}

/// The fields by which lists are found without reading all objects.
const INDEXED: &[&str] =
    &["customer", "subscription", "invoice", "charge", "payment_intent", "payment", "test_clock", "product"];

impl Table {
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.order.get(self.ids.get(id)?)
    }

    /// Puts the object there. One that is there keeps its position.
    pub fn put(&mut self, number: u64, entry: Entry) {
        let id = entry.value["id"].as_str().unwrap_or_default().to_owned();
        let created = entry.value["created"].as_i64().unwrap_or_default();
        let position = *self.ids.entry(id).or_insert((created, number));
        if let Some(before) = self.order.get(&position) {
            for reference in references(&before.value) {
                if let Some(positions) = self.references.get_mut(&reference) {
                    positions.remove(&position);
                }
            }
        }
        for reference in references(&entry.value) {
            self.references.entry(reference).or_default().insert(position);
        }
        self.order.insert(position, entry);
    }

    /// The objects that are not deleted, oldest first.
    pub fn living(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.order.values().filter(|entry| !entry.deleted)
    }

    /// The objects that name `id` in `field`, oldest first.
    pub fn naming(&self, field: &'static str, id: &str) -> impl Iterator<Item = &Entry> {
        let positions = self.references.get(&(field, id.to_owned()));
        positions.into_iter().flatten().map(|position| &self.order[position]).filter(|entry| !entry.deleted)
    }
}

fn references(value: &Value) -> Vec<(&'static str, String)> {
    let named = |field: &'static str| Some((field, text_at(value, field)?));
    INDEXED.iter().filter_map(|field| named(field)).collect()
}

/// Whether lists by this field are found without reading all objects.
pub fn indexed(field: &str) -> Option<&'static str> {
    INDEXED.iter().find(|known| **known == field).copied()
}

/// The value of a filter in an object, as text.
pub fn text_at(value: &Value, field: &str) -> Option<String> {
    let found = match (field, value["object"].as_str()?) {
        ("subscription", "invoice") => &value["parent"]["subscription_details"]["subscription"],
        ("payment", "invoice_payment") => &value["payment"]["payment_intent"],
        ("coupon", "promotion_code") if value["promotion"].is_object() => &value["promotion"]["coupon"],
        ("pending", _) => return Some(value["invoice"].is_null().to_string()),
        ("price", "subscription") => &value["items"]["data"][0]["price"]["id"],
        ("lookup_keys", _) => &value["lookup_key"],
        ("ids", _) => &value["id"],
        _ => &value[field],
    };
    match found {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(expanded) => Some(expanded.get("id")?.as_str()?.to_owned()),
        other => Some(other.to_string()),
    }
}

/// An event. It shows the object as it was then.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub created: i64,
    /// As text: a tree would take ten times as much memory. Events of one change share it.
    pub object: Arc<str>,
    pub previous: Option<Box<str>>,
    pub request: Cause,
    /// It waits for its delivery.
    pub pending: bool,
}

/// The request that caused a change. Empty for what happens by itself.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    pub id: Option<String>,
    pub idempotency_key: Option<String>,
}

impl Event {
    /// The event as `GET /v1/events/{id}` shows it. Its object comes last, as it is long.
    pub fn text(&self, api_version: &str, livemode: bool) -> String {
        let head = json!({ "id": self.id, "object": "event", "api_version": api_version,
            "created": self.created, "livemode": livemode, "pending_webhooks": i32::from(self.pending),
            "request": { "id": self.request.id, "idempotency_key": self.request.idempotency_key },
            "type": self.kind })
        .to_string();
        let head = head.strip_suffix('}').expect("an object");
        let previous = self
            .previous
            .as_ref()
            .map_or(String::new(), |previous| format!(",\"previous_attributes\":{previous}"));
        format!("{head},\"data\":{{\"object\":{}{previous}}}}}", self.object)
    }

    pub fn json(&self, api_version: &str, livemode: bool) -> Value {
        serde_json::from_str(&self.text(api_version, livemode)).expect("JSON")
    }
}

/// An account in one mode.
#[derive(Debug, Default)]
pub struct Realm {
    tables: HashMap<&'static str, Table>,
    pub events: BTreeMap<Position, Event>,
    pub event_ids: HashMap<String, Position>,
    /// Thin events, as fetched.
    pub thin_events: BTreeMap<String, Value>,
    pub meters: super::meters::MeterEvents,
}

impl Realm {
    pub fn table(&self, kind: &str) -> Option<&Table> {
        self.tables.get(kind)
    }

    pub fn table_mut(&mut self, kind: &'static Kind) -> &mut Table {
        self.tables.entry(kind.object).or_default()
    }

    /// The object, if there is one that is not deleted.
    pub fn find(&self, kind: &str, id: &str) -> Option<&Entry> {
        self.table(kind)?.get(id).filter(|entry| !entry.deleted)
    }

    /// How many objects there are, deleted ones included.
    pub fn len(&self) -> usize {
        self.tables.values().map(|table| table.order.len()).sum()
    }

    /// Every object that is not deleted, with all its lines: kind, object.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.tables.iter().flat_map(|(kind, table)| table.living().map(move |entry| (*kind, entry)))
    }
}

/// Splits an object into what Stripe shows and all its lines.
pub fn split_lines(mut value: Value) -> (Value, Vec<Value>) {
    let field = if value["object"] == "checkout.session" { "line_items" } else { "lines" };
    let Some(list) = value.get_mut(field) else { return (value, Vec::new()) };
    let Some(data) = list.get_mut("data").and_then(Value::as_array_mut) else { return (value, Vec::new()) };
    let lines = data.clone();
    data.truncate(LINES_SHOWN);
    list["has_more"] = json!(lines.len() > LINES_SHOWN);
    list["total_count"] = json!(lines.len());
    if field == "line_items" {
        value.as_object_mut().expect("an object").remove(field);
    }
    (value, lines)
}
