//! Creates, changes and deletes objects, and tells it in events as Stripe does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::random;
use super::shapes;
use super::state::{RealmName, State};
use super::store::{Cause, Entry, Event, split_lines};

impl State {
    /// Creates an object of `given` fields over neutral ones. Gives the object as Stripe shows it.
    pub fn create(&mut self, realm: &RealmName, kind: &str, given: Value, cause: &Cause) -> Arc<Value> {
        let (value, hidden) = self.complete(realm, kind, given);
        let entry = self.store(realm, value, hidden);
        for event in created_events(&entry.value) {
            self.tell(realm, &event, &entry.value, None, cause);
        }
        entry.value
    }

    /// Puts `changes` over an object. A change of nothing tells nothing. `None`: there is no such object.
    pub fn update(
        &mut self,
        realm: &RealmName,
        kind: &str,
        id: &str,
        changes: &Value,
        cause: &Cause,
    ) -> Option<Arc<Value>> {
        let before = self.realm(realm).find(kind, id)?.clone();
        let mut after = whole(&before);
        shapes::merge(&mut after, changes);
        let prorates = after.as_object_mut().and_then(|after| after.remove("proration_behavior"));
        if kind == "subscription" && prorates != Some(json!("none")) {
            self.bill_removed_usage(realm, (&before.value, &after), cause);
        }
        self.arrange(realm, &mut after);
        if after["object"] == "product" && after.get("updated").is_some() {
            after["updated"] = json!(self.now_for(realm, &after));
        }
        let entry = self.store(realm, after, before.hidden);
        if entry.value == before.value && entry.lines == before.lines {
            return Some(entry.value);
        }
        let previous = previous_attributes(&before.value, &entry.value);
        for (event, with_previous) in updated_events(&before.value, &entry.value) {
            let previous = with_previous.then(|| previous.clone());
            self.tell(realm, &event, &entry.value, previous, cause);
        }
        Some(entry.value)
    }

    /// Deletes an object. False: there is none.
    pub fn delete(&mut self, realm: &RealmName, kind: &str, id: &str, cause: &Cause) -> bool {
        let Some(entry) = self.realm(realm).find(kind, id).cloned() else { return false };
        if kind == "customer" {
            self.cancel_all(realm, id, cause);
            self.delete_tax_ids(realm, id, cause);
        }
        let value = Arc::clone(&entry.value);
        let number = self.number();
        let kind = Kind::named(kind).expect("a kind");
        self.realm_mut(realm).table_mut(kind).put(number, Entry { deleted: true, ..entry });
        self.unschedule(realm, &value);
        self.tell(realm, &format!("{}.deleted", kind.event_prefix()), &value, None, cause);
        true
    }

    /// A deleted customer has no tax ids: nobody can read them any more.
    fn delete_tax_ids(&mut self, realm: &RealmName, customer: &str, cause: &Cause) {
        let table = self.realm(realm).table("tax_id");
        let own = table.into_iter().flat_map(|table| table.naming("customer", customer));
        let ids = own.map(|entry| entry.value["id"].as_str().unwrap_or_default().to_owned());
        for id in ids.collect::<Vec<_>>() {
            self.delete(realm, "tax_id", &id, cause);
        }
    }

    /// Changes an object as [`State::update`] does, and tells nobody: as an event that Stripe never sent.
    pub fn change_silently(&mut self, realm: &RealmName, kind: &str, id: &str, changes: &Value) -> bool {
        let Some(before) = self.realm(realm).find(kind, id).cloned() else { return false };
        let mut after = whole(&before);
        shapes::merge(&mut after, changes);
        self.arrange(realm, &mut after);
        self.store(realm, after, before.hidden);
        true
    }

    fn store(&mut self, realm: &RealmName, value: Value, hidden: bool) -> Entry {
        let kind = Kind::named(value["object"].as_str().unwrap_or_default()).expect("a known kind");
        let (value, lines) = split_lines(value);
        let entry = Entry { value: Arc::new(value), lines: Arc::new(lines), deleted: false, hidden };
        let number = self.number();
        self.realm_mut(realm).table_mut(kind).put(number, entry.clone());
        self.schedule(realm, &entry.value);
        entry
    }

    /// Stores an event, and marks it for delivery.
    pub fn tell(
        &mut self,
        realm: &RealmName,
        kind: &str,
        object: &Arc<Value>,
        previous: Option<Value>,
        cause: &Cause,
    ) {
        let number = self.number();
        let created = self.now();
        let id = format!("evt_{}", random::token(self.seed ^ (number << 8), 24));
        let pending = self.webhooks.wants(realm, &id);
        let object = match &self.last_told {
            Some((told, text)) if Arc::ptr_eq(told, object) => Arc::clone(text),
            _ => {
                let text: Arc<str> = object.to_string().into();
                self.last_told = Some((Arc::clone(object), Arc::clone(&text)));
                text
            }
        };
        let event = Event {
            id: id.clone(),
            kind: kind.to_owned(),
            created,
            object,
            previous: previous.map(|previous| previous.to_string().into()),
            request: cause.clone(),
            pending,
        };
        let stored = self.realm_mut(realm);
        stored.events.insert((created, number), event);
        stored.event_ids.insert(id, (created, number));
    }

    fn complete(&mut self, realm: &RealmName, kind: &str, mut given: Value) -> (Value, bool) {
        let known = Kind::named(kind).unwrap_or_else(|| panic!("no kind of objects is called {kind}"));
        let fields = given.as_object_mut().expect("the fields of an object");
        let hidden = fields.remove("_inline").is_some();
        let length = if matches!(kind, "customer" | "product") { 14 } else { 24 };
        let mode = match (kind, realm.livemode) {
            ("checkout.session", true) => "live_",
            ("checkout.session", false) => "test_",
            _ => "",
        };
        let number = self.number();
        let token = random::token(self.seed ^ (number << 8) ^ 1, length);
        let new_id = format!("{}_{mode}{token}", known.prefix);
        let id = given["id"].as_str().map_or(new_id, str::to_owned);
        let now = given["created"].as_i64().unwrap_or_else(|| self.now_for(realm, &given));
        let mut value = shapes::template(kind, &id, now, realm.livemode);
        shapes::merge(&mut value, &given);
        self.arrange(realm, &mut value);
        (value, hidden)
    }
}

/// The object with all its lines, as it can be stored again.
pub fn whole(entry: &Entry) -> Value {
    let mut value = (*entry.value).clone();
    let field = if value["object"] == "checkout.session" { "line_items" } else { "lines" };
    if field == "line_items" && entry.lines.is_empty() {
        return value;
    }
    if field == "line_items" {
        let id = value["id"].as_str().unwrap_or_default();
        let url = format!("/v1/checkout/sessions/{id}/line_items");
        value[field] = json!({ "object": "list", "has_more": false, "url": url });
    }
    if value[field].is_object() {
        value[field]["data"] = Value::Array(entry.lines.to_vec());
    }
    value
}

/// The old values of the fields that differ. Nested objects show only their changed fields; lists are whole.
pub fn previous_attributes(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return before.clone() };
    let mut previous = serde_json::Map::new();
    for (name, new) in after {
        let old = before.get(name).unwrap_or(&Value::Null);
        if old == new {
            continue;
        }
        let both_objects = old.is_object() && new.is_object() && new["object"] != "list";
        let shown = if both_objects { previous_attributes(old, new) } else { old.clone() };
        previous.insert(name.clone(), shown);
    }
    for (name, old) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        previous.insert(name.clone(), old.clone());
    }
    Value::Object(previous)
}

/// The events that tell of a new object. Stripe tells nothing of a session or a payment before it succeeds.
fn created_events(value: &Value) -> Vec<String> {
    let status = value["status"].as_str().unwrap_or_default();
    let object = value["object"].as_str().unwrap_or_default();
    let one = |event: &str| vec![event.to_owned()];
    match object {
        "charge" => one(&format!("charge.{status}")),
        "checkout.session" if status == "complete" => one("checkout.session.completed"),
        "checkout.session" if status == "expired" => one("checkout.session.expired"),
        "checkout.session" => Vec::new(),
        "invoice_payment" if status == "paid" => one("invoice_payment.paid"),
        "invoice_payment" | "account" => Vec::new(),
        _ => one(&format!("{}.created", Kind::named(object).expect("a known kind").event_prefix())),
    }
}

/// The events that tell of a change, and whether each shows `previous_attributes`.
fn updated_events(before: &Value, after: &Value) -> Vec<(String, bool)> {
    let object = after["object"].as_str().unwrap_or_default();
    let prefix = Kind::named(object).expect("a known kind").event_prefix();
    let status = |value: &Value| value["status"].as_str().unwrap_or_default().to_owned();
    let (old, new) = (status(before), status(after));
    let moved = old != new;
    let updated = (format!("{prefix}.updated"), true);
    let by_status = |name: &str| vec![(format!("{prefix}.{name}"), false)];
    match (object, new.as_str()) {
        ("invoice", _) if moved => {
            let names: &[&str] = match (old.as_str(), new.as_str()) {
                ("draft", "open") => &["finalized"],
                ("draft", "paid") => &["finalized", "paid", "payment_succeeded"],
                (_, "paid") => &["paid", "payment_succeeded"],
                (_, "void") => &["voided"],
                (_, "uncollectible") => &["marked_uncollectible"],
                _ => &[],
            };
            let told = names.iter().map(|name| (format!("invoice.{name}"), false));
            std::iter::once(updated).chain(told).collect()
        }
        ("invoice", "open") if before["attempt_count"] != after["attempt_count"] => {
            vec![updated, ("invoice.payment_failed".to_owned(), false)]
        }
        ("subscription", "canceled" | "incomplete_expired") if moved => by_status("deleted"),
        ("subscription", "paused") if moved => vec![updated, (format!("{prefix}.paused"), false)],
        ("subscription", _) if moved && old == "paused" => {
            vec![updated, (format!("{prefix}.resumed"), false)]
        }
        ("payment_intent", _) if !moved => Vec::new(),
        ("payment_intent", "requires_payment_method") => by_status("payment_failed"),
        ("payment_intent", "requires_capture") => by_status("amount_capturable_updated"),
        ("payment_intent", name) => by_status(name),
        ("charge", name) if moved => by_status(name),
        ("charge", _) if before["amount_refunded"] != after["amount_refunded"] => {
            vec![(format!("{prefix}.refunded"), true)]
        }
        ("refund", "failed") if moved => vec![updated, ("refund.failed".to_owned(), false)],
        ("dispute", "won" | "lost" | "warning_closed") if moved => {
            vec![updated, (format!("{prefix}.closed"), false)]
        }
        ("checkout.session", "complete") if moved => by_status("completed"),
        ("checkout.session", "expired") if moved => by_status("expired"),
        ("checkout.session", "complete") if before["payment_status"] != after["payment_status"] => {
            by_status("async_payment_succeeded")
        }
        ("checkout.session", _) => Vec::new(),
        ("invoice_payment", "paid") if moved => by_status("paid"),
        ("invoice_payment", _) => Vec::new(),
        ("credit_note", "void") if moved => by_status("voided"),
        ("billing.meter", "inactive") if moved => by_status("deactivated"),
        ("billing.meter", "active") if moved => by_status("reactivated"),
        ("test_helpers.test_clock", name) if moved => by_status(name),
        ("test_helpers.test_clock", _) => Vec::new(),
        _ => vec![updated],
    }
}
