//! Billing as time passes: periods end, drafts are finalised and paid, subscriptions end.

use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::sync::Arc;

use super::amounts::{amount, line, packages, quantity_json};
use super::arrange::period_after;
use super::change::whole;
use super::state::{Clock, RealmName, State};
use super::store::Cause;
use super::{Account, Handle};

/// A draft of a period waits so long for further items, in seconds.
const DRAFT: i64 = 3600;
const RETRY: i64 = 3 * 86_400;

impl Handle {
    /// Lets time pass until this unix second: everything that is due until then happens in order. Afterwards
    /// the clock stands there. It never goes back.
    pub fn advance_to(&self, second: i64) {
        self.lock().advance_to(second);
    }
}

impl Account {
    /// Subscribes a customer as `POST /v1/subscriptions` does: with its first invoice, paid if possible.
    pub fn subscribe(&self, fields: Value) -> Value {
        (*self.handle.lock().subscribe(&self.realm, fields, &Cause::default())).clone()
    }

    /// Ends a subscription at once.
    pub fn cancel(&self, subscription: &str) {
        self.handle.lock().cancel(&self.realm, subscription, &Cause::default());
    }

    /// Ends a subscription at once with `invoice_now`.
    pub fn cancel_and_invoice(&self, subscription: &str) {
        self.handle.lock().cancel_and_invoice(&self.realm, subscription, &Cause::default());
    }

    /// Lets time pass on a test clock.
    pub fn advance_test_clock(&self, clock: &str, second: i64) {
        self.handle.lock().advance_test_clock(&self.realm, clock, second);
    }
}

impl State {
    pub(super) fn advance_to(&mut self, until: i64) {
        while let Some((second, realm, id)) = self.next_due("", until) {
            self.clock = Clock::Fixed(second.max(self.now()));
            self.happen(&realm, &id, second);
        }
        self.clock = Clock::Fixed(until.max(self.now()));
    }

    pub(super) fn advance_test_clock(&mut self, realm: &RealmName, clock: &str, until: i64) {
        const KIND: &str = "test_helpers.test_clock";
        let cause = Cause::default();
        self.update(realm, KIND, clock, &json!({ "status": "advancing" }), &cause);
        while let Some((second, of, id)) = self.next_due(clock, until) {
            self.change_silently(realm, KIND, clock, &json!({ "frozen_time": second }));
            self.happen(&of, &id, second);
        }
        let done = json!({ "status": "ready", "frozen_time": until });
        self.update(realm, KIND, clock, &done, &cause);
    }

    /// What is due of this object at this second.
    fn happen(&mut self, realm: &RealmName, id: &str, second: i64) {
        let cause = Cause::default();
        if self.realm(realm).find("invoice", id).is_some() {
            self.finalise(realm, id, &cause);
            self.collect(realm, id, &cause);
            return;
        }
        let Some(entry) = self.realm(realm).find("subscription", id) else { return };
        let subscription = Arc::clone(&entry.value);
        let cancel_at = subscription["cancel_at"].as_i64();
        if subscription["cancel_at_period_end"] == true || cancel_at.is_some_and(|at| at <= second) {
            self.end_at_period_end(realm, &subscription, second);
        } else {
            self.renew(realm, &subscription, second);
        }
    }

    /// Creates a subscription with its first invoice. A trial has none that costs something.
    pub(super) fn subscribe(&mut self, realm: &RealmName, mut fields: Value, cause: &Cause) -> Arc<Value> {
        if let Some(days) = fields["trial_period_days"].as_i64() {
            let now = self.now_for(realm, &fields);
            fields["trial_end"] = json!(now + days * 86_400);
        }
        let given = fields.as_object_mut().expect("the fields of an object");
        given.remove("trial_period_days");
        given.remove("payment_behavior");
        if given.get("trial_end").is_some_and(Value::is_number) {
            given.entry("status").or_insert_with(|| json!("trialing"));
        }
        let paid_at_once = !given.contains_key("status");
        let created = self.create(realm, "subscription", fields, cause);
        let id = created["id"].as_str().unwrap_or_default().to_owned();
        if paid_at_once {
            let start = created["start_date"].as_i64().unwrap_or_default();
            let lines = self.lines_of(realm, &created, start, false);
            let invoice = self.draft(realm, &created, "subscription_create", lines, start, None, cause);
            let latest = json!({ "latest_invoice": invoice });
            self.update(realm, "subscription", &id, &latest, cause);
            self.finalise(realm, &invoice, cause);
            self.collect(realm, &invoice, cause);
        }
        let entry = self.realm(realm).find("subscription", &id).expect("it was just made");
        Arc::clone(&entry.value)
    }

    /// Ends a subscription now. Stripe makes no invoice for what was used since the period began.
    pub(super) fn cancel(&mut self, realm: &RealmName, id: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("subscription", id) else { return };
        let now = self.now_for(realm, &entry.value.clone());
        let ended = json!({ "status": "canceled", "ended_at": now, "canceled_at": now,
            "cancellation_details": { "reason": "cancellation_requested" } });
        self.update(realm, "subscription", id, &ended, cause);
    }

    /// Ends a subscription now, and makes an invoice for what was used since the period began.
    pub(super) fn cancel_and_invoice(&mut self, realm: &RealmName, id: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("subscription", id) else { return };
        let mut ending = (*entry.value).clone();
        let now = self.now_for(realm, &ending);
        for item in ending["items"]["data"].as_array_mut().expect("items") {
            item["current_period_end"] = json!(now);
        }
        let mut lines = self.lines_of(realm, &ending, now, true);
        lines.retain(|line| line["_usage"] == true);
        self.cancel(realm, id, cause);
        let invoice = self.draft(realm, &ending, "manual", lines, now, Some(DRAFT), cause);
        self.update(realm, "subscription", id, &json!({ "latest_invoice": invoice }), cause);
    }

    /// Ends all subscriptions of a customer, as Stripe does when the customer is deleted.
    pub(super) fn cancel_all(&mut self, realm: &RealmName, customer: &str, cause: &Cause) {
        let table = self.realm(realm).table("subscription");
        let found = table.into_iter().flat_map(|table| table.naming("customer", customer));
        let living =
            |value: &Value| !matches!(value["status"].as_str(), Some("canceled" | "incomplete_expired"));
        let ids: Vec<String> = found
            .filter(|entry| living(&entry.value))
            .map(|entry| entry.value["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        for id in ids {
            self.cancel(realm, &id, cause);
        }
    }

    fn end_at_period_end(&mut self, realm: &RealmName, subscription: &Arc<Value>, second: i64) {
        let cause = Cause::default();
        let id = subscription["id"].as_str().unwrap_or_default().to_owned();
        let lines: Vec<Value> = self
            .lines_of(realm, subscription, second, true)
            .into_iter()
            .filter(|line| line["_usage"] == true)
            .collect();
        let customer = subscription["customer"].as_str().unwrap_or_default();
        let invoice = (!lines.is_empty() || self.has_pending(realm, customer)).then(|| {
            self.draft(realm, subscription, "subscription_cycle", lines, second, Some(DRAFT), &cause)
        });
        let mut ended = json!({ "status": "canceled", "ended_at": second });
        if let Some(invoice) = invoice {
            ended["latest_invoice"] = json!(invoice);
        }
        if subscription["canceled_at"].is_null() {
            ended["canceled_at"] = json!(second);
        }
        self.update(realm, "subscription", &id, &ended, &cause);
    }

    fn renew(&mut self, realm: &RealmName, subscription: &Arc<Value>, second: i64) {
        let cause = Cause::default();
        let id = subscription["id"].as_str().unwrap_or_default().to_owned();
        let trial_ends = subscription["status"] == "trialing";
        let anchor =
            if trial_ends { second } else { subscription["billing_cycle_anchor"].as_i64().unwrap_or(second) };
        let mut next = (**subscription).clone();
        for item in next["items"]["data"].as_array_mut().expect("items") {
            if item["current_period_end"].as_i64().is_some_and(|end| end <= second) {
                let end = period_after(anchor, second, &item["price"]);
                item["current_period_start"] = json!(second);
                item["current_period_end"] = json!(end);
            }
        }
        let next = Arc::new(next);
        let mut lines = self.lines_of(realm, subscription, second, true);
        lines.retain(|line| line["_usage"] == true);
        lines.extend(self.lines_of(realm, &next, second, false));
        let invoice =
            self.draft(realm, subscription, "subscription_cycle", lines, second, Some(DRAFT), &cause);
        let mut changes = json!({ "items": { "data": next["items"]["data"] }, "latest_invoice": invoice });
        if trial_ends {
            changes["status"] = json!("active");
            changes["billing_cycle_anchor"] = json!(anchor);
        }
        self.update(realm, "subscription", &id, &changes, &cause);
    }

    /// The lines that an invoice of this second charges. With `ended`, usage of periods that end then; else
    /// what is paid in advance for periods that begin then.
    fn lines_of(&self, realm: &RealmName, subscription: &Value, second: i64, ended: bool) -> Vec<Value> {
        let items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
        let edge = if ended { "current_period_end" } else { "current_period_start" };
        let due = |item: &Value| item[edge].as_i64() == Some(second);
        let is_usage = |item: &Value| item["price"]["recurring"]["usage_type"] == "metered";
        items
            .iter()
            .filter(|item| due(item) && is_usage(item) == ended)
            .map(|item| self.since_its_price(item))
            .map(|item| {
                let item = &item;
                let quantity = if ended {
                    self.usage(realm, subscription, item)
                } else {
                    Decimal::from(item["quantity"].as_i64().unwrap_or(1))
                };
                line(subscription, item, quantity, ended)
            })
            .collect()
    }

    /// The item with the part of its period in which it had its price. Usage of before the price was
    /// exchanged is not billed
    /// (<https://docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup>).
    fn since_its_price(&self, item: &Value) -> Value {
        let mut item = item.clone();
        let since = item["id"].as_str().and_then(|id| self.usage_since.get(id));
        if let Some(since) = since.filter(|since| item["current_period_start"].as_i64() < Some(**since)) {
            item["current_period_start"] = json!(since);
        }
        item
    }

    /// With the billing mode `flexible`, makes an item for the usage of each metered price that a change
    /// takes off a subscription. `after`: its fields as they were given.
    pub(super) fn bill_removed_usage(
        &mut self,
        realm: &RealmName,
        (before, after): (&Value, &Value),
        cause: &Cause,
    ) {
        if after["billing_mode"]["type"] != "flexible" {
            return;
        }
        let now = self.now_for(realm, after);
        let items = |value: &Value| {
            let items = value["items"]["data"].as_array().or(value["items"].as_array());
            items.cloned().unwrap_or_default()
        };
        let stays = |old: &Value| {
            let price = &old["price"]["id"];
            let same = |new: &Value| new["price"] == *price || new["price"]["id"] == *price;
            items(after).iter().any(|new| new["id"] == old["id"] && same(new))
        };
        let is_usage = |item: &Value| item["price"]["recurring"]["usage_type"] == "metered";
        for old in items(before).into_iter().filter(|old| is_usage(old) && !stays(old)) {
            let mut old = self.since_its_price(&old);
            old["current_period_end"] = json!(now);
            let quantity = self.usage(realm, before, &old);
            let line = line(before, &old, quantity, true);
            let given = json!({ "customer": before["customer"], "currency": line["currency"],
                "amount": line["amount"], "net_amount": line["amount"], "quantity": line["quantity"],
                "description": line["description"], "period": line["period"], "pricing": line["pricing"],
                "proration": true });
            self.create(realm, "invoiceitem", given, cause);
        }
    }

    /// The usage of a metered item in its period.
    fn usage(&self, realm: &RealmName, subscription: &Value, item: &Value) -> Decimal {
        let start = item["current_period_start"].as_i64().unwrap_or_default();
        let end = item["current_period_end"].as_i64().unwrap_or_default();
        self.metered(realm, &item["price"], &subscription["customer"], start, end)
    }

    fn metered(&self, realm: &RealmName, price: &Value, customer: &Value, start: i64, end: i64) -> Decimal {
        let stored = self.realm(realm);
        let meter = price["recurring"]["meter"].as_str().and_then(|id| stored.find("billing.meter", id));
        let customer = customer.as_str().unwrap_or_default();
        let total = meter.and_then(|meter| stored.meters.total(&meter.value, customer, start, end));
        packages(price, total.unwrap_or_default())
    }

    /// Creates a draft for a subscription, with what waits for the customer's next invoice. Gives its id.
    #[allow(clippy::too_many_arguments, reason = "all of them are facts of the draft")]
    fn draft(
        &mut self,
        realm: &RealmName,
        subscription: &Value,
        reason: &str,
        mut lines: Vec<Value>,
        second: i64,
        waits: Option<i64>,
        cause: &Cause,
    ) -> String {
        for line in &mut lines {
            line.as_object_mut().expect("an object").remove("_usage");
        }
        let starts = subscription["items"]["data"][0]["current_period_start"].as_i64().unwrap_or(second);
        let details = json!({ "subscription": subscription["id"], "metadata": subscription["metadata"] });
        let given = json!({ "customer": subscription["customer"], "created": second,
            "currency": subscription["currency"], "billing_reason": reason, "lines": lines,
            "collection_method": subscription["collection_method"],
            "parent": { "type": "subscription_details", "quote_details": null,
                "subscription_details": details },
            "period_start": starts.min(second), "period_end": second,
            "automatically_finalizes_at": waits.map(|seconds| second + seconds) });
        let created = self.create(realm, "invoice", given, cause);
        let id = created["id"].as_str().unwrap_or_default().to_owned();
        self.attach_pending(realm, &id, cause);
        id
    }

    fn has_pending(&self, realm: &RealmName, customer: &str) -> bool {
        let table = self.realm(realm).table("invoiceitem");
        table.is_some_and(|table| {
            table.naming("customer", customer).any(|item| item.value["invoice"].is_null())
        })
    }

    /// Puts the customer's items that wait on this draft.
    pub(super) fn attach_pending(&mut self, realm: &RealmName, invoice: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("invoice", invoice) else { return };
        let (customer, currency) = (entry.value["customer"].clone(), entry.value["currency"].clone());
        let table = self.realm(realm).table("invoiceitem");
        let items =
            table.into_iter().flat_map(|table| table.naming("customer", customer.as_str().unwrap_or("")));
        let waits = |item: &Value| item["invoice"].is_null() && item["currency"] == currency;
        let items: Vec<Arc<Value>> =
            items.map(|item| Arc::clone(&item.value)).filter(|item| waits(item)).collect();
        for item in items {
            let id = item["id"].as_str().unwrap_or_default().to_owned();
            self.update(realm, "invoiceitem", &id, &json!({ "invoice": invoice }), cause);
            self.put_on_invoice(realm, &item, invoice, cause);
        }
    }

    /// Adds the line of an item to a draft.
    pub(super) fn put_on_invoice(&mut self, realm: &RealmName, item: &Value, invoice: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("invoice", invoice) else { return };
        let mut lines = entry.lines.to_vec();
        let details = json!({ "invoice_item": item["id"], "proration": item["proration"],
            "proration_details": { "credited_items": null }, "subscription": null });
        lines.push(json!({ "amount": item["amount"], "currency": item["currency"],
            "description": item["description"], "discountable": item["discountable"],
            "metadata": item["metadata"], "period": item["period"], "pricing": item["pricing"],
            "quantity": item["quantity"],
            "parent": { "type": "invoice_item_details", "invoice_item_details": details,
                "subscription_item_details": null } }));
        self.update(realm, "invoice", invoice, &json!({ "lines": { "data": lines } }), cause);
    }

    /// Makes a draft final. Usage that came since is on it.
    pub(super) fn finalise(&mut self, realm: &RealmName, id: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("invoice", id).cloned() else { return };
        if entry.value["status"] != "draft" {
            return;
        }
        let mut invoice = whole(&entry);
        let customer = invoice["customer"].clone();
        for line in invoice["lines"]["data"].as_array_mut().expect("lines") {
            let Some(price) = line["pricing"]["price_details"]["price"].as_str() else { continue };
            let Some(price) = self.realm(realm).find("price", price).map(|price| Arc::clone(&price.value))
            else {
                continue;
            };
            let metered = price["recurring"]["usage_type"] == "metered";
            if metered && line["parent"]["type"] == "subscription_item_details" {
                let second = |edge: &str| line["period"][edge].as_i64().unwrap_or_default();
                let quantity = self.metered(realm, &price, &customer, second("start"), second("end"));
                line["quantity"] = quantity_json(quantity);
                line["amount"] = json!(amount(&price, quantity));
            }
        }
        let number = customer.as_str().map(|customer| self.next_number(realm, customer));
        let mut changes = json!({ "status": "open", "lines": { "data": invoice["lines"]["data"] } });
        if let Some(number) = number.filter(|_| invoice["number"].is_null()) {
            changes["number"] = json!(number);
        }
        if invoice["collection_method"] == "send_invoice" && invoice["due_date"].is_null() {
            changes["due_date"] = json!(self.now_for(realm, &invoice) + 30 * 86_400);
        }
        self.update(realm, "invoice", id, &changes, cause);
    }

    fn next_number(&mut self, realm: &RealmName, customer: &str) -> String {
        let Some(entry) = self.realm(realm).find("customer", customer) else { return "FAKE-0001".to_owned() };
        let prefix = entry.value["invoice_prefix"].as_str().unwrap_or("FAKE").to_owned();
        let sequence = entry.value["next_invoice_sequence"].as_i64().unwrap_or(1);
        let next = json!({ "next_invoice_sequence": sequence + 1 });
        self.change_silently(realm, "customer", customer, &next);
        format!("{prefix}-{sequence:04}")
    }

    /// Takes the money of an open invoice: from the default payment method, or not at all.
    pub(super) fn collect(&mut self, realm: &RealmName, id: &str, cause: &Cause) {
        let Some(entry) = self.realm(realm).find("invoice", id) else { return };
        let invoice = Arc::clone(&entry.value);
        if invoice["status"] != "open" || invoice["collection_method"] != "charge_automatically" {
            return;
        }
        let subscription =
            invoice["parent"]["subscription_details"]["subscription"].as_str().map(str::to_owned);
        let attempts = invoice["attempt_count"].as_i64().unwrap_or_default() + 1;
        if invoice["amount_due"] == 0 {
            self.update(realm, "invoice", id, &json!({ "status": "paid", "attempted": true }), cause);
        } else if let Some(method) = self.payment_method(realm, &invoice, subscription.as_deref()) {
            self.pay(realm, &invoice, &method, cause);
            let paid = json!({ "status": "paid", "attempted": true, "attempt_count": attempts,
                "next_payment_attempt": null });
            self.update(realm, "invoice", id, &paid, cause);
        } else {
            let now = self.now_for(realm, &invoice);
            let failed = json!({ "attempted": true, "attempt_count": attempts,
                "next_payment_attempt": now + RETRY });
            self.update(realm, "invoice", id, &failed, cause);
        }
        let paid = self.realm(realm).find("invoice", id).is_some_and(|entry| entry.value["status"] == "paid");
        let Some(subscription) = subscription else { return };
        let Some(entry) = self.realm(realm).find("subscription", &subscription) else { return };
        let first = invoice["billing_reason"] == "subscription_create";
        let next = match (entry.value["status"].as_str(), paid) {
            (Some("past_due" | "incomplete"), true) => "active",
            (Some("active"), false) if first => "incomplete",
            (Some("active"), false) => "past_due",
            _ => return,
        };
        self.update(realm, "subscription", &subscription, &json!({ "status": next }), cause);
    }

    fn payment_method(
        &self,
        realm: &RealmName,
        invoice: &Value,
        subscription: Option<&str>,
    ) -> Option<String> {
        let stored = self.realm(realm);
        let of_subscription = subscription.and_then(|id| stored.find("subscription", id));
        let customer = stored.find("customer", invoice["customer"].as_str()?)?;
        let method = of_subscription.and_then(|entry| entry.value["default_payment_method"].as_str());
        let method = method.or(customer.value["invoice_settings"]["default_payment_method"].as_str());
        method.map(str::to_owned)
    }
}
