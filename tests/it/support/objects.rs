//! Stripe's objects and the events about them, by named fields:
//! `invoice("in_1").customer("cus_1").status("paid").happened("invoice.paid")`.

use serde_json::{Value, json};

use super::json::place;
use super::requests::Time;

/// The time at which objects are created by default: 9 October 2025, 08:53:20 UTC.
pub const OCTOBER: i64 = 1_760_000_000;
/// A day in seconds.
pub const DAY: i64 = 86_400;

/// A Stripe object.
#[derive(Clone, Debug)]
pub struct Object(Value);

/// An object of this kind in test mode, with only the fields that all objects have.
pub fn object(kind: &str, id: &str) -> Object {
    let body = json!({ "id": id, "object": kind, "created": OCTOBER, "livemode": false, "metadata": {} });
    Object(body)
}

/// A customer without an org.
pub fn customer(id: &str) -> Object {
    object("customer", id).with("name", format!("Customer {id}")).with("email", Value::Null)
}

/// An active subscription of `cus_1` to `price_pro`, for 30 days from [`OCTOBER`].
pub fn subscription(id: &str) -> Object {
    let price = json!({ "id": "price_pro", "object": "price", "product": "prod_1", "currency": "usd",
        "unit_amount": 2000, "unit_amount_decimal": "2000",
        "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" } });
    let item = json!({ "id": format!("si_{id}"), "object": "subscription_item", "quantity": 1,
        "created": OCTOBER, "metadata": {}, "current_period_start": OCTOBER,
        "current_period_end": OCTOBER + 30 * DAY, "price": price });
    object("subscription", id)
        .customer("cus_1")
        .status("active")
        .with("currency", "usd")
        .with("cancel_at_period_end", false)
        .with("collection_method", "charge_automatically")
        .with("start_date", OCTOBER)
        .with("items", json!({ "object": "list", "has_more": false, "data": [item] }))
}

/// A draft invoice of `cus_1` over 20.00 for `sub_1`: one line, with `price_pro`.
pub fn invoice(id: &str) -> Object {
    let of_item = json!({ "subscription": "sub_1", "subscription_item": "si_1", "proration": false });
    let line = json!({ "id": format!("il_{id}"), "object": "line_item", "currency": "usd",
        "description": "Pro", "quantity": 1, "livemode": false, "metadata": {},
        "period": { "start": OCTOBER, "end": OCTOBER + 30 * DAY }, "taxes": [], "discount_amounts": [],
        "pricing": { "type": "price_details",
            "price_details": { "price": "price_pro", "product": "prod_1" } },
        "parent": { "type": "subscription_item_details", "subscription_item_details": of_item } });
    object("invoice", id)
        .customer("cus_1")
        .with("currency", "usd")
        .with("billing_reason", "subscription_cycle")
        .with("collection_method", "charge_automatically")
        .with("number", format!("N-{id}"))
        .with("period_start", OCTOBER - 2_600_000)
        .with("period_end", OCTOBER)
        .with("total_taxes", json!([]))
        .with("total_discount_amounts", json!([]))
        .with("parent.type", "subscription_details")
        .with("parent.subscription_details.subscription", "sub_1")
        .with("lines", json!({ "object": "list", "has_more": false, "data": [line] }))
        .status("draft")
        .total(2000)
}

/// An intent over 20.00 of `cus_1`, still without a charge.
pub fn payment_intent(id: &str) -> Object {
    object("payment_intent", id)
        .customer("cus_1")
        .status("requires_payment_method")
        .amount(2000)
        .with("amount_received", 0)
        .with("latest_charge", Value::Null)
}

/// A paid charge of 20.00 of `cus_1`.
pub fn charge(id: &str) -> Object {
    object("charge", id)
        .customer("cus_1")
        .status("succeeded")
        .amount(2000)
        .with("captured", true)
        .with("amount_captured", 2000)
        .with("amount_refunded", 0)
}

/// A refund of this amount of a charge.
pub fn refund(id: &str, charge: &str, amount: i64) -> Object {
    object("refund", id).status("succeeded").amount(amount).with("charge", charge)
}

/// A credit note over this amount of an invoice of `cus_1`.
pub fn credit_note(id: &str, invoice: &str, amount: i64) -> Object {
    object("credit_note", id)
        .customer("cus_1")
        .status("issued")
        .amount(amount)
        .with("total", amount)
        .with("invoice", invoice)
        .with("lines", json!({ "object": "list", "has_more": false, "data": [] }))
}

/// An active product.
pub fn product(id: &str) -> Object {
    object("product", id)
        .with("name", format!("Product {id}"))
        .with("active", true)
        .with("default_price", Value::Null)
}

/// A price of a product: this amount each month.
pub fn price(id: &str, product: &str, amount: i64) -> Object {
    object("price", id)
        .with("product", product)
        .with("active", true)
        .with("type", "recurring")
        .with("billing_scheme", "per_unit")
        .with("currency", "usd")
        .with("unit_amount", amount)
        .with("unit_amount_decimal", amount.to_string())
        .every("month")
}

impl Object {
    /// Sets a field; a path such as `items.data.0.quantity` names a nested one.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.0, path) = value.into();
        self
    }

    /// Removes a field.
    pub fn without(mut self, field: &str) -> Self {
        self.0.as_object_mut().expect("an object").remove(field);
        self
    }

    pub fn customer(self, id: &str) -> Self {
        self.with("customer", id)
    }

    pub fn created(self, time: impl Time) -> Self {
        self.with("created", time.second())
    }

    pub fn metadata(self, metadata: Value) -> Self {
        self.with("metadata", metadata)
    }

    /// In US dollars.
    pub fn amount(self, cents: i64) -> Self {
        self.with("amount", cents).with("currency", "usd")
    }

    /// Of a customer: the org that its metadata names.
    pub fn org(self, org: &str) -> Self {
        self.with("metadata.org_id", org)
    }

    /// The status, and the other fields of an invoice that depend on it.
    pub fn status(self, status: &str) -> Self {
        let object = self.with("status", status);
        if object.0["object"] != "invoice" {
            return object;
        }
        let at = |wanted: bool| if wanted { json!(OCTOBER + 100) } else { Value::Null };
        let transitions = json!({ "finalized_at": at(status != "draft"), "paid_at": at(status == "paid"),
            "voided_at": at(status == "void"), "marked_uncollectible_at": null });
        object.with("status_transitions", transitions).pays()
    }

    /// Of an invoice: its total, on its one line.
    pub fn total(self, cents: i64) -> Self {
        self.with("total", cents)
            .with("subtotal", cents)
            .with("amount_due", cents)
            .with("lines.data.0.amount", cents)
            .with("lines.data.0.pricing.unit_amount_decimal", cents.to_string())
            .pays()
    }

    /// Of an invoice: pays everything or nothing, by its status.
    fn pays(self) -> Self {
        let total = self.0["total"].as_i64().unwrap_or_default();
        let paid = if self.0["status"] == "paid" { total } else { 0 };
        self.with("amount_paid", paid).with("amount_remaining", total - paid)
    }

    /// Of an open invoice: this amount remains to be paid.
    pub fn remaining(self, cents: i64) -> Self {
        let total = self.0["total"].as_i64().expect("a total");
        self.with("amount_remaining", cents).with("amount_paid", total - cents)
    }

    /// Of an invoice: the subscription that it bills.
    pub fn bills(self, subscription: &str) -> Self {
        self.with("parent.subscription_details.subscription", subscription)
    }

    /// Of an invoice: when it was issued.
    pub fn issued(self, time: impl Time) -> Self {
        let second = time.second();
        self.with("created", second).with("status_transitions.finalized_at", second)
    }

    /// Of an invoice: when it is due.
    pub fn due(self, time: impl Time) -> Self {
        self.with("due_date", time.second())
    }

    /// Of an intent: the charge that paid it.
    pub fn paid_by(self, charge: &str) -> Self {
        let amount = self.0["amount"].clone();
        self.status("succeeded").with("amount_received", amount).with("latest_charge", charge)
    }

    /// Of a subscription: the price of its first item.
    pub fn price(self, id: &str) -> Self {
        self.with("items.data.0.price.id", id)
    }

    /// Of a subscription: when it began.
    pub fn started(self, time: impl Time) -> Self {
        let second = time.second();
        self.with("created", second).with("start_date", second)
    }

    /// Of a subscription: the running period of its first item.
    pub fn period(self, start: impl Time, end: impl Time) -> Self {
        self.with("items.data.0.current_period_start", start.second())
            .with("items.data.0.current_period_end", end.second())
    }

    /// Of a subscription: adds an item like the first one, with this price and product.
    pub fn item(mut self, id: &str, price: &str, product: &str) -> Self {
        let items = place(&mut self.0, "items.data").as_array_mut().expect("items");
        let mut item = items[0].clone();
        item["id"] = id.into();
        (item["price"]["id"], item["price"]["product"]) = (price.into(), product.into());
        items.push(item);
        self
    }

    /// Of a price: how often it is paid.
    pub fn every(self, interval: &str) -> Self {
        let recurring = json!({ "interval": interval, "interval_count": 1, "usage_type": "licensed" });
        self.with("recurring", recurring)
    }

    /// An event of this kind about the object, one second after [`OCTOBER`].
    pub fn happened(self, kind: &str) -> Event {
        let id = format!("evt_{}_{kind}", self.0["id"].as_str().expect("an id"));
        let request = json!({ "id": null, "idempotency_key": null });
        Event(json!({ "id": id, "object": "event", "type": kind, "created": OCTOBER + 1, "livemode": false,
            "api_version": "2025-11-17.clover", "pending_webhooks": 1, "request": request,
            "data": { "object": self.0 } }))
    }

    /// The event that the object was created.
    pub fn created_event(self) -> Event {
        let kind = match self.0["object"].as_str().expect("a kind") {
            "subscription" => "customer.subscription.created".to_owned(),
            "dispute" => "charge.dispute.created".to_owned(),
            "charge" => "charge.succeeded".to_owned(),
            kind => format!("{kind}.created"),
        };
        self.happened(&kind)
    }

    pub fn json(self) -> Value {
        self.0
    }
}

/// An event as Stripe delivers it.
#[derive(Clone, Debug)]
pub struct Event(Value);

impl Event {
    /// Sets a field; a path such as `data.object.total` names a nested one.
    pub fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.0, path) = value.into();
        self
    }

    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    /// When it happened.
    pub fn at(self, time: impl Time) -> Self {
        self.with("created", time.second())
    }

    /// The old values of what changed.
    pub fn before(self, previous: Value) -> Self {
        self.with("data.previous_attributes", previous)
    }

    /// The event comes from another account or mode, with an id of that realm.
    pub fn realm(self, account: &str, livemode: bool) -> Self {
        let id = format!("{}{account}{livemode}", self.0["id"].as_str().expect("an id"));
        self.with("id", id).with("account", account).with("livemode", livemode)
    }

    pub fn json(self) -> Value {
        self.0
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.0
    }
}

impl From<Event> for Value {
    fn from(event: Event) -> Self {
        event.0
    }
}
