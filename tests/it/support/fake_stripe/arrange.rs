//! Makes the fields of an object agree with one another: lines, totals, items, periods.

use std::sync::Arc;

use chrono::{DateTime, Datelike, Months, TimeZone, Utc};
use serde_json::{Value, json};

use super::random;
use super::shapes::{self, merge};
use super::state::{RealmName, State};

impl State {
    /// Completes an object after its fields were set.
    pub fn arrange(&mut self, realm: &RealmName, value: &mut Value) {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|_, value| !value.is_null());
        }
        match value["object"].as_str().unwrap_or_default() {
            "invoice" => self.arrange_invoice(realm, value),
            "subscription" => self.arrange_subscription(realm, value),
            "price" => arrange_price(value),
            "charge" => arrange_charge(value),
            "payment_intent" if value["status"] == "succeeded" && value["amount_received"] == 0 => {
                value["amount_received"] = value["amount"].clone();
            }
            "credit_note" => self.fill_list(value, "lines", "cnli"),
            "checkout.session" if !value["line_items"].is_null() => self.fill_list(value, "line_items", "li"),
            _ => {}
        }
    }

    /// An id with this prefix that was not given before.
    pub fn new_id(&mut self, prefix: &str) -> String {
        let number = self.number();
        format!("{prefix}_{}", random::token(self.seed ^ (number << 8) ^ 2, 24))
    }

    /// Makes a list of an array, and gives its parts ids.
    fn fill_list(&mut self, value: &mut Value, field: &str, prefix: &str) {
        let given = value[field].take();
        let (mut list, parts) = match given {
            Value::Array(parts) => (json!({ "object": "list", "has_more": false }), parts),
            Value::Object(mut list) => {
                let parts = list.remove("data").and_then(|data| data.as_array().cloned()).unwrap_or_default();
                (Value::Object(list), parts)
            }
            _ => (json!({ "object": "list", "has_more": false }), Vec::new()),
        };
        let mut whole = Vec::with_capacity(parts.len());
        for mut part in parts {
            if !part["id"].is_string() {
                part["id"] = json!(self.new_id(prefix));
            }
            if part["object"].is_null() {
                let object = match prefix {
                    "cnli" => "credit_note_line_item",
                    "si" => "subscription_item",
                    "il" => "line_item",
                    _ => "item",
                };
                part["object"] = json!(object);
            }
            whole.push(part);
        }
        list["data"] = Value::Array(whole);
        value[field] = list;
    }

    fn arrange_invoice(&mut self, realm: &RealmName, invoice: &mut Value) {
        self.fill_list(invoice, "lines", "il");
        let id = invoice["id"].as_str().unwrap_or_default().to_owned();
        let created = invoice["created"].as_i64().unwrap_or_default();
        let currency = invoice["currency"].clone();
        invoice["lines"]["url"] = json!(format!("/v1/invoices/{id}/lines"));
        let lines = invoice["lines"]["data"].as_array_mut().expect("a list");
        let mut sum = 0;
        for line in &mut *lines {
            if line.get("pretax_credit_amounts").is_none() {
                let line_id = line["id"].as_str().unwrap_or_default();
                let mut whole = shapes::line(line_id, &id, created, realm.livemode);
                whole["currency"] = currency.clone();
                merge(&mut whole, line);
                *line = whole;
            }
            sum += line["amount"].as_i64().unwrap_or_default();
        }
        if !lines.is_empty() {
            let of = |list: &Value| -> i64 {
                let amounts = list.as_array().into_iter().flatten();
                amounts.filter_map(|part| part["amount"].as_i64()).sum()
            };
            let discount = of(&invoice["total_discount_amounts"]);
            let tax = of(&invoice["total_taxes"]);
            invoice["subtotal"] = json!(sum);
            invoice["subtotal_excluding_tax"] = json!(sum);
            invoice["total_excluding_tax"] = json!(sum - discount);
            invoice["total"] = json!(sum - discount + tax);
        }
        if invoice["test_clock"].is_null()
            && let Some(clock) = self.test_clock_of(realm, invoice)
        {
            invoice["test_clock"] = json!(clock);
        }
        let now = self.now_for(realm, invoice);
        settle_invoice(invoice, now.max(created));
    }

    fn arrange_subscription(&mut self, realm: &RealmName, subscription: &mut Value) {
        self.fill_list(subscription, "items", "si");
        let id = subscription["id"].as_str().unwrap_or_default().to_owned();
        let start = subscription["start_date"].as_i64().unwrap_or_default();
        let anchor = subscription["billing_cycle_anchor"].as_i64().unwrap_or(start);
        if subscription["test_clock"].is_null()
            && let Some(clock) = self.test_clock_of(realm, subscription)
        {
            subscription["test_clock"] = json!(clock);
        }
        let trial_end = subscription["trial_end"].as_i64();
        let now = self.now_for(realm, subscription);
        let before = self.realm(realm).find("subscription", &id).map(|entry| Arc::clone(&entry.value));
        let before = before.as_ref().and_then(|value| value["items"]["data"].as_array());
        subscription["items"]["url"] = json!(format!("/v1/subscription_items?subscription={id}"));
        let items = subscription["items"]["data"].as_array_mut().expect("a list");
        let mut currency = None;
        for item in items {
            let price = item["price"].as_str().map(str::to_owned);
            if let Some(price) = price
                && let Some(known) = self.realm(realm).find("price", &price)
            {
                item["price"] = (*known.value).clone();
            }
            currency = item["price"]["currency"].as_str().map(str::to_owned).or(currency);
            let item_id = item["id"].as_str().unwrap_or_default().to_owned();
            let old = before.and_then(|items| items.iter().find(|old| old["id"] == item_id.as_str()));
            if let Some(old) = old
                && old["price"]["id"] != item["price"]["id"]
            {
                self.usage_since.insert(item_id.clone(), now);
            }
            if item.get("current_period_end").is_none() {
                // An item that is added later has the usage from then on.
                let start = if before.is_some() { now } else { start };
                let mut whole = shapes::subscription_item(&item_id, &id, start);
                let end = trial_end.unwrap_or_else(|| period_after(anchor, start, &item["price"]));
                whole["current_period_end"] = json!(end);
                if let Some(old) = old {
                    merge(&mut whole, old);
                }
                merge(&mut whole, item);
                *item = whole;
            }
            if item["price"]["recurring"]["usage_type"] == "metered" {
                item.as_object_mut().expect("an object").remove("quantity");
            }
        }
        if let Some(currency) = currency {
            subscription["currency"] = json!(currency);
        }
    }
}

fn settle_invoice(invoice: &mut Value, now: i64) {
    let status = invoice["status"].as_str().unwrap_or_default().to_owned();
    let due = invoice["total"].as_i64().unwrap_or_default().max(0);
    let due = (due - invoice["pre_payment_credit_notes_amount"].as_i64().unwrap_or_default()).max(0);
    if status == "paid" && invoice["amount_paid"] == 0 {
        invoice["amount_paid"] = json!(due);
    }
    let paid = invoice["amount_paid"].as_i64().unwrap_or_default();
    invoice["amount_due"] = json!(due);
    invoice["amount_remaining"] = json!((due - paid).max(0));
    if status == "draft" {
        return;
    }
    let id = invoice["id"].as_str().unwrap_or_default().to_owned();
    let mut stamp = |place: &str| {
        let field = &mut invoice["status_transitions"][place];
        if field.is_null() {
            *field = json!(now);
        }
    };
    stamp("finalized_at");
    match status.as_str() {
        "paid" => stamp("paid_at"),
        "void" => stamp("voided_at"),
        "uncollectible" => stamp("marked_uncollectible_at"),
        _ => {}
    }
    invoice["automatically_finalizes_at"] = Value::Null;
    if invoice["effective_at"].is_null() {
        invoice["effective_at"] = invoice["status_transitions"]["finalized_at"].clone();
    }
    if invoice["number"].is_null() {
        invoice["number"] =
            json!(format!("{}-0001", id.chars().rev().take(8).collect::<String>().to_uppercase()));
    }
    if invoice["hosted_invoice_url"].is_null() {
        invoice["hosted_invoice_url"] = json!(format!("https://invoice.stripe.com/i/{id}"));
        invoice["invoice_pdf"] = json!(format!("https://pay.stripe.com/invoice/{id}/pdf"));
    }
}

fn arrange_price(price: &mut Value) {
    if price["unit_amount_decimal"].is_null()
        && let Some(amount) = price["unit_amount"].as_i64()
    {
        price["unit_amount_decimal"] = json!(amount.to_string());
    }
    if price["recurring"].is_object() {
        price["type"] = json!("recurring");
        let mut recurring = json!({ "interval": "month", "interval_count": 1, "meter": null,
            "trial_period_days": null, "usage_type": "licensed" });
        merge(&mut recurring, &price["recurring"]);
        price["recurring"] = recurring;
    }
}

fn arrange_charge(charge: &mut Value) {
    let succeeded = charge["status"] == "succeeded";
    charge["paid"] = json!(succeeded);
    if succeeded && charge["captured"] == true && charge["amount_captured"] == 0 {
        charge["amount_captured"] = charge["amount"].clone();
    }
    let refunded = charge["amount_refunded"].as_i64().unwrap_or_default();
    charge["refunded"] = json!(refunded > 0 && Some(refunded) == charge["amount"].as_i64());
}

/// The end of the period that begins at `start`, by the price's interval. Months are counted from `anchor`,
/// so that day 31 comes back after a short month.
pub fn period_after(anchor: i64, start: i64, price: &Value) -> i64 {
    let recurring = &price["recurring"];
    let count = recurring["interval_count"].as_i64().unwrap_or(1).max(1);
    let months = match recurring["interval"].as_str() {
        Some("day") => return start + count * 86_400,
        Some("week") => return start + count * 7 * 86_400,
        Some("year") => 12 * count,
        _ => count,
    };
    let time = |second: i64| -> DateTime<Utc> { Utc.timestamp_opt(second, 0).single().expect("a time") };
    let (from, at) = (time(anchor), time(start));
    let whole = i64::from(at.year() - from.year()) * 12 + i64::from(at.month()) - i64::from(from.month());
    let after = |months: i64| from + Months::new(u32::try_from(months.max(0)).expect("few months"));
    // An anchor's day that a month lacks is its last day, so the month of `start` is the count.
    let mut periods = whole / months;
    while after(periods * months).timestamp() <= start {
        periods += 1;
    }
    after(periods * months).timestamp()
}
