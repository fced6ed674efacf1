//! What `POST` and `DELETE` do: creates, updates, and the steps of an object's life.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::amounts::amount;
use super::form;
use super::kinds::Kind;
use super::reads::unknown_route;
use super::server::{Answer, Call};
use super::state::State;

/// The kinds that `POST /v1/<plural>` creates here, with their required fields.
const CREATED: &[(&str, &[&str])] = &[
    ("customer", &[]),
    ("product", &["name"]),
    ("price", &["currency"]),
    ("coupon", &[]),
    ("tax_rate", &["display_name", "inclusive", "percentage"]),
    ("subscription", &["customer", "items"]),
    ("invoice", &["customer"]),
    ("invoiceitem", &["customer"]),
    ("billing.meter", &["display_name", "event_name", "default_aggregation"]),
    ("test_helpers.test_clock", &["frozen_time"]),
];

/// The kinds that `DELETE` deletes. A subscription is cancelled by it.
const DELETED: &[&str] =
    &["customer", "product", "coupon", "invoice", "invoiceitem", "test_helpers.test_clock"];

fn missing_parameter(name: &str) -> Answer {
    Answer::refusal(&format!("Missing required param: {name}."), Some("parameter_missing"), Some(name))
}

impl State {
    /// `POST` and `DELETE` below the path of a kind.
    pub(super) fn write(&mut self, call: &Call, kind: &'static Kind, rest: &[&str]) -> Answer {
        let result = match (call.method.as_str(), rest) {
            ("POST", []) => self.post_new(call, kind),
            ("POST", [id]) => self.post_changes(call, kind, id),
            ("POST", [id, action]) => self.post_action(call, kind, id, action),
            ("DELETE", [id]) => self.delete_by_call(call, kind, id),
            _ => Err(unknown_route(call)),
        };
        result.unwrap_or_else(|answer| answer)
    }

    fn post_new(&mut self, call: &Call, kind: &'static Kind) -> Result<Answer, Answer> {
        let known = CREATED.iter().find(|(name, _)| *name == kind.object);
        let (_, required) = known.ok_or_else(|| unknown_route(call))?;
        if let Some(name) = required.iter().find(|name| call.params[**name].is_null()) {
            return Err(missing_parameter(name));
        }
        let mut fields = form::typed(call.params.clone());
        fields.as_object_mut().expect("an object").remove("expand");
        self.check_names(call, &fields)?;
        match kind.object {
            "subscription" => {
                let created = self.subscribe(&call.realm, fields, &call.cause);
                return Ok(Answer::ok(&created));
            }
            "invoiceitem" => return self.add_item(call, fields),
            "price" if fields["product"].is_null() => {
                let product = fields.as_object_mut().and_then(|fields| fields.remove("product_data"));
                let product = product.ok_or_else(|| missing_parameter("product"))?;
                let product = self.create(&call.realm, "product", product, &call.cause);
                fields["product"] = product["id"].clone();
            }
            "billing.meter" => {
                let name = fields["event_name"].clone();
                let taken = self.realm(&call.realm).table("billing.meter").is_some_and(|table| {
                    table
                        .living()
                        .any(|entry| entry.value["event_name"] == name && entry.value["status"] == "active")
                });
                if taken {
                    let message = format!("An active meter already exists with event name {name}.");
                    return Err(Answer::refusal(&message, None, Some("event_name")));
                }
            }
            "invoice" => {
                let now = self.now_for(&call.realm, &fields);
                if fields["auto_advance"] == true {
                    fields["automatically_finalizes_at"] = json!(now + 3600);
                }
            }
            _ => {}
        }
        let created = self.create(&call.realm, kind.object, fields, &call.cause);
        if kind.object == "invoice" {
            let id = created["id"].as_str().unwrap_or_default().to_owned();
            if call.params["pending_invoice_items_behavior"] == "include" {
                self.attach_pending(&call.realm, &id, &call.cause);
            }
            let entry = self.realm(&call.realm).find("invoice", &id).expect("it was just made");
            return Ok(Answer::ok(&entry.value));
        }
        Ok(Answer::ok(&created))
    }

    /// The objects that the fields name must exist.
    fn check_names(&self, call: &Call, fields: &Value) -> Result<(), Answer> {
        for kind in ["customer", "product", "price", "invoice", "subscription", "test_clock"] {
            let Some(id) = fields[kind].as_str() else { continue };
            let object = if kind == "test_clock" { "test_helpers.test_clock" } else { kind };
            if self.realm(&call.realm).find(object, id).is_none() {
                let message = format!("No such {kind}: '{id}'");
                return Err(Answer::refusal(&message, Some("resource_missing"), Some(kind)));
            }
        }
        for item in fields["items"].as_array().into_iter().flatten() {
            self.check_names(call, &json!({ "price": item["price"] }))?;
        }
        Ok(())
    }

    fn post_changes(&mut self, call: &Call, kind: &'static Kind, id: &str) -> Result<Answer, Answer> {
        let noun = kind.object.rsplit('.').next().unwrap_or(kind.object);
        let entry = self.realm(&call.realm).find(kind.object, id).cloned();
        entry.ok_or_else(|| Answer::missing(noun, id))?;
        let mut fields = form::typed(call.params.clone());
        let given = fields.as_object_mut().expect("an object");
        given.remove("expand");
        if let Some(Value::Object(metadata)) = given.get_mut("metadata") {
            // An empty text removes the key.
            for value in metadata.values_mut().filter(|value| **value == "") {
                *value = Value::Null;
            }
        }
        self.check_names(call, &fields)?;
        let changed = self.update(&call.realm, kind.object, id, &fields, &call.cause);
        changed.map(|value| Answer::ok(&value)).ok_or_else(|| Answer::missing(noun, id))
    }

    fn post_action(
        &mut self,
        call: &Call,
        kind: &'static Kind,
        id: &str,
        action: &str,
    ) -> Result<Answer, Answer> {
        let noun = kind.object.rsplit('.').next().unwrap_or(kind.object);
        let entry = self.realm(&call.realm).find(kind.object, id).cloned();
        let status = entry.ok_or_else(|| Answer::missing(noun, id))?.value["status"].clone();
        let now = self.now();
        let changes = match (kind.object, action) {
            ("billing.meter", "deactivate") => {
                json!({ "status": "inactive", "status_transitions": { "deactivated_at": now } })
            }
            ("billing.meter", "reactivate") => {
                json!({ "status": "active", "status_transitions": { "deactivated_at": null } })
            }
            ("invoice", "finalize") if status == "draft" => {
                self.finalise(&call.realm, id, &call.cause);
                json!({})
            }
            ("invoice", "pay") if status == "open" || status == "draft" => {
                self.finalise(&call.realm, id, &call.cause);
                self.collect(&call.realm, id, &call.cause);
                json!({})
            }
            ("invoice", "void") if status == "open" || status == "uncollectible" => {
                json!({ "status": "void" })
            }
            ("invoice", "mark_uncollectible") if status == "open" => json!({ "status": "uncollectible" }),
            ("test_helpers.test_clock", "advance") => {
                let frozen = call.params["frozen_time"].as_str().and_then(|text| text.parse().ok());
                let until = frozen.ok_or_else(|| missing_parameter("frozen_time"))?;
                self.advance_test_clock(&call.realm, id, until);
                json!({})
            }
            ("invoice", "finalize" | "pay" | "void" | "mark_uncollectible") => {
                let message = format!("This action is not possible for an invoice of the status {status}.");
                return Err(Answer::refusal(&message, Some("invoice_not_editable"), None));
            }
            _ => return Err(unknown_route(call)),
        };
        let changed = self.update(&call.realm, kind.object, id, &changes, &call.cause);
        changed.map(|value| Answer::ok(&value)).ok_or_else(|| Answer::missing(noun, id))
    }

    fn delete_by_call(&mut self, call: &Call, kind: &'static Kind, id: &str) -> Result<Answer, Answer> {
        let noun = kind.object.rsplit('.').next().unwrap_or(kind.object);
        let entry = self.realm(&call.realm).find(kind.object, id).cloned();
        let value = entry.ok_or_else(|| Answer::missing(noun, id))?.value;
        if kind.object == "subscription" {
            if call.params["invoice_now"] == "true" {
                self.cancel_and_invoice(&call.realm, id, &call.cause);
            } else {
                self.cancel(&call.realm, id, &call.cause);
            }
            let entry = self.realm(&call.realm).find("subscription", id).expect("it stays");
            return Ok(Answer::ok(&entry.value));
        }
        if !DELETED.contains(&kind.object) {
            return Err(unknown_route(call));
        }
        if kind.object == "invoice" && value["status"] != "draft" {
            let message = "You can only delete draft invoices.";
            return Err(Answer::refusal(message, Some("invoice_not_editable"), None));
        }
        self.delete(&call.realm, kind.object, id, &call.cause);
        Ok(Answer::ok(&json!({ "id": id, "object": kind.object, "deleted": true })))
    }

    /// `POST /v1/invoiceitems`: on the draft that `invoice` names, or for the customer's next invoice.
    fn add_item(&mut self, call: &Call, mut fields: Value) -> Result<Answer, Answer> {
        let price = fields["pricing"]["price"].as_str().or(fields["price"].as_str()).map(str::to_owned);
        if let Some(price) = price {
            let message = format!("No such price: '{price}'");
            let found = self.realm(&call.realm).find("price", &price);
            let found = found
                .ok_or_else(|| Answer::refusal(&message, Some("resource_missing"), Some("pricing[price]")))?;
            let quantity = fields["quantity"].as_i64().unwrap_or(1);
            let unit = found.value["unit_amount"].as_i64().unwrap_or_default();
            let details = json!({ "price": price, "product": found.value["product"] });
            let currency = found.value["currency"].clone();
            let given = fields.as_object_mut().expect("an object");
            given.remove("price");
            given.insert("amount".to_owned(), json!(unit * quantity));
            given.insert("currency".to_owned(), currency);
            let pricing = json!({ "type": "price_details", "price_details": details,
                "unit_amount_decimal": unit.to_string() });
            given.insert("pricing".to_owned(), pricing);
        }
        if fields["amount"].as_i64().is_none()
            && let Some(price) = fields["unit_amount_decimal"].as_str().map(str::to_owned)
        {
            // Stripe rounds the product of quantity and price.
            let quantity = Decimal::from(fields["quantity"].as_i64().unwrap_or(1));
            fields["amount"] = json!(amount(&json!({ "unit_amount_decimal": price }), quantity));
            fields["pricing"] = json!({ "type": "price_details", "unit_amount_decimal": price,
                "price_details": null });
        }
        if fields["amount"].as_i64().is_none() {
            return Err(missing_parameter("amount"));
        }
        fields["net_amount"] = fields["amount"].clone();
        let Some(invoice) = fields["invoice"].as_str().map(str::to_owned) else {
            let created = self.create(&call.realm, "invoiceitem", fields, &call.cause);
            return Ok(Answer::ok(&created));
        };
        let found = self.realm(&call.realm).find("invoice", &invoice).expect("it was checked");
        let (status, customer) = (found.value["status"].clone(), found.value["customer"].clone());
        if status != "draft" {
            let message = "You cannot add invoice items to an invoice that is already finalized.";
            return Err(Answer::refusal(message, Some("invoice_not_editable"), Some("invoice")));
        }
        if customer != fields["customer"] {
            let message = "The invoice belongs to another customer.";
            return Err(Answer::refusal(message, None, Some("invoice")));
        }
        let created = self.create(&call.realm, "invoiceitem", fields, &call.cause);
        self.put_on_invoice(&call.realm, &created, &invoice, &call.cause);
        Ok(Answer::ok(&created))
    }

    /// `POST /v1/billing/meter_events` and `…/meter_event_adjustments`.
    pub(super) fn write_meter_event(&mut self, call: &Call, path: &str) -> Answer {
        let taken = if path.ends_with("meter_events") {
            self.take_meter_event(&call.realm, &call.params)
        } else {
            self.cancel_meter_event(&call.realm, &call.params)
        };
        match taken {
            Ok(value) => Answer::ok(&value),
            Err(refusal) => {
                let answer = Answer::refusal(&refusal.0, refusal.1, Some(refusal.2));
                answer.with("Stripe-Should-Retry", "false")
            }
        }
    }
}
