//! Stripe's objects around a payment, with times that lie about the present.

use serde_json::{Value, json};

use crate::support::events::{self, event};
use crate::support::stripe;

pub const DAY: i64 = 86_400;

/// When the running period of every subscription began: three weeks ago, at a second that is the same for the
/// whole run.
pub fn start() -> i64 {
    static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *START.get_or_init(|| stripe::now() - 21 * DAY)
}

/// One run of a case: ids and times of its own.
pub struct Run {
    /// What all ids of the run end in.
    pub tag: String,
}

/// A line of an invoice: price, amount, period in days from [`start`].
#[derive(Clone, Copy)]
pub struct Line {
    pub price: &'static str,
    pub amount: i64,
    pub quantity: i64,
    pub days: (i64, i64),
    pub proration: bool,
}

/// A plain line of a month.
pub fn month(price: &'static str, amount: i64) -> Line {
    Line { price, amount, quantity: 1, days: (0, 30), proration: false }
}

/// A part of the running month.
pub fn part(price: &'static str, amount: i64, from: i64) -> Line {
    Line { price, amount, quantity: 1, days: (from, 30), proration: true }
}

impl Run {
    pub fn id(&self, name: &str) -> String {
        format!("{name}_{}", self.tag)
    }

    /// An event; its place in time is the day (from [`start`]) and a second within it.
    pub fn event(&self, name: &str, kind: &str, second: i64, object: Value) -> Value {
        event(&self.id(&format!("evt_{name}")), kind, start() + second, object)
    }

    pub fn customer(&self) -> Value {
        let customer = events::customer(&self.id("cus"), Some(&self.tag));
        self.event("customer", "customer.created", 0, customer)
    }

    /// A paid invoice of the subscription.
    pub fn paid(&self, name: &str, reason: &str, day: i64, lines: &[Line]) -> Value {
        let invoice = self.invoice(name, reason, "paid", day, lines);
        self.event(&format!("{name}_paid"), "invoice.paid", day * DAY + 2, invoice)
    }

    pub fn invoice(&self, name: &str, reason: &str, status: &str, day: i64, lines: &[Line]) -> Value {
        let total: i64 = lines.iter().map(|line| line.amount).sum();
        let id = self.id(&format!("in_{name}"));
        let mut invoice = events::invoice(&id, &self.id("cus"), status, total.max(0));
        let at = start() + day * DAY;
        invoice["created"] = at.into();
        invoice["billing_reason"] = reason.into();
        let paid = if status == "paid" { json!(at + 2) } else { Value::Null };
        invoice["status_transitions"] = json!({ "finalized_at": at, "paid_at": paid });
        invoice["parent"]["subscription_details"]["subscription"] = self.id("sub").into();
        let lines: Vec<Value> = lines.iter().enumerate().map(|(n, line)| self.line(&id, n, line)).collect();
        invoice["lines"]["data"] = lines.into();
        if reason == "manual" {
            invoice["parent"] = Value::Null;
        }
        invoice
    }

    fn line(&self, invoice: &str, n: usize, line: &Line) -> Value {
        let (from, until) = line.days;
        let parent = if line.price.starts_with("price_pack") || line.price == "price_other" {
            json!({ "type": "invoice_item_details",
                "invoice_item_details": { "invoice_item": format!("ii_{n}_{invoice}"), "proration": false } })
        } else {
            json!({ "type": "subscription_item_details", "subscription_item_details": {
                "subscription": self.id("sub"), "subscription_item": "si_1", "proration": line.proration } })
        };
        json!({ "id": format!("il_{n}_{invoice}"), "object": "line_item", "amount": line.amount,
            "currency": "usd", "quantity": line.quantity,
            "description": "A line", "metadata": {},
            "period": { "start": start() + from * DAY, "end": start() + until * DAY },
            "pricing": { "type": "price_details",
                "price_details": { "price": line.price, "product": format!("prod_{}", line.price) } },
                "parent": parent })
    }

    /// The invoice of that name in this shape: `more` replaces fields of a paid one.
    pub fn settled(&self, name: &str, lines: &[Line], second: i64, more: &Value) -> Value {
        let mut invoice = self.invoice(name, "subscription_create", "paid", 0, lines);
        for (field, value) in more.as_object().expect("an object") {
            invoice[field] = value.clone();
        }
        self.event(&format!("{name}_{second}"), "invoice.paid", second, invoice)
    }

    /// A price of the product of that name.
    pub fn price(&self, id: &str, usage_type: &str) -> Value {
        let object = json!({ "id": id, "object": "price", "active": true, "currency": "usd",
            "product": format!("prod_{id}"), "type": "recurring", "unit_amount": 1,
            "billing_scheme": "per_unit", "livemode": false, "metadata": {}, "created": start(),
                "recurring": { "interval": "month", "interval_count": 1, "usage_type": usage_type } });
        self.event(&format!("price_{id}"), "price.created", 0, object)
    }

    /// A credit note of the invoice `of` with these fields.
    pub fn note(&self, of: &str, amount: i64, more: &Value) -> Value {
        let mut event = self.credit_note(of, amount, 0, &[]);
        for (field, value) in more.as_object().expect("an object") {
            event["data"]["object"][field] = value.clone();
        }
        event
    }

    /// What ties the intent to the invoice.
    pub fn invoice_payment(&self, name: &str, amount: i64) -> Value {
        let object = json!({ "id": self.id(&format!("inpay_{name}")), "object": "invoice_payment",
            "invoice": self.id(&format!("in_{name}")), "status": "paid",
            "amount_paid": amount, "amount_requested": amount, "currency": "usd", "is_default": true,
                "created": start(), "livemode": false,
            "payment": { "type": "payment_intent", "payment_intent": self.id(&format!("pi_{name}")) },
                "status_transitions": { "paid_at": start() } });
        self.event(&format!("inpay_{name}"), "invoice_payment.paid", 3, object)
    }

    pub fn intent(&self, name: &str, amount: i64, metadata: &Value) -> Value {
        let object = json!({ "id": self.id(&format!("pi_{name}")), "object": "payment_intent",
            "created": start(), "customer": self.id("cus"), "status": "succeeded",
            "currency": "usd", "amount": amount, "amount_received": amount, "livemode": false,
                "metadata": metadata, "latest_charge": self.id(&format!("ch_{name}")) });
        self.event(&format!("pi_{name}"), "payment_intent.succeeded", 4, object)
    }

    /// The charge of the intent of that name, in the shape of today.
    pub fn charge(&self, name: &str, amount: i64) -> Value {
        let object = json!({ "id": self.id(&format!("ch_{name}")), "object": "charge", "created": start(),
            "customer": self.id("cus"), "status": "succeeded", "captured": true,
            "currency": "usd", "amount": amount, "amount_captured": amount, "amount_refunded": 0,
                "livemode": false, "metadata": {}, "payment_intent": self.id(&format!("pi_{name}")) });
        self.event(&format!("ch_{name}"), "charge.succeeded", 4, object)
    }

    /// The charge of that name, of which so much was refunded; the refunds are not listed, as in the shape of
    /// today.
    pub fn refunded(&self, name: &str, amount: i64, refunded: i64) -> Value {
        let mut object = self.charge(name, amount)["data"]["object"].clone();
        object["amount_refunded"] = refunded.into();
        self.event(&format!("ch_{name}_refunded"), "charge.refunded", 9, object)
    }

    /// A refund of the intent `of`; `second` tells its events apart.
    pub fn refund(&self, name: &str, of: &str, amount: i64, status: &str, second: i64) -> Value {
        let object = json!({ "id": self.id(&format!("re_{name}")), "object": "refund",
            "created": start() + 10, "amount": amount, "currency": "usd", "status": status,
            "charge": self.id(&format!("ch_{of}")), "payment_intent": self.id(&format!("pi_{of}")),
                "metadata": {} });
        self.event(
            &format!("re_{name}_{second}"),
            if second == 0 { "refund.created" } else { "refund.updated" },
            10 + second,
            object,
        )
    }

    /// A dispute of the charge of `of`; `moved` are the movements of funds.
    pub fn dispute(&self, of: &str, status: &str, moved: &[i64], second: i64) -> Value {
        let moved: Vec<Value> = moved
            .iter()
            .map(|amount| json!({ "amount": amount, "currency": "usd", "net": amount }))
            .collect();
        let object = json!({ "id": self.id("du"), "object": "dispute", "created": start() + 20,
            "amount": 2000, "currency": "usd", "status": status, "reason": "fraudulent",
            "charge": self.id(&format!("ch_{of}")), "payment_intent": self.id(&format!("pi_{of}")),
                "balance_transactions": moved, "metadata": {}, "livemode": false });
        let kind = match (status, moved.len()) {
            ("won" | "lost" | "warning_closed", _) => "charge.dispute.closed",
            (_, 0) => "charge.dispute.created",
            _ => "charge.dispute.funds_withdrawn",
        };
        self.event(&format!("du_{second}"), kind, 20 + second, object)
    }

    /// A credit note of the invoice `of`, naming these refunds.
    pub fn credit_note(&self, of: &str, amount: i64, out_of_band: i64, refunds: &[&str]) -> Value {
        let refunds: Vec<Value> = refunds
            .iter()
            .map(|name| json!({ "refund": self.id(&format!("re_{name}")), "amount_refunded": amount }))
            .collect();
        let object = json!({ "id": self.id("cn"), "object": "credit_note", "created": start() + 30,
            "invoice": self.id(&format!("in_{of}")), "customer": self.id("cus"),
            "status": "issued", "type": "post_payment", "currency": "usd", "amount": amount, "total": amount,
                "subtotal": amount, "out_of_band_amount": out_of_band,
            "refunds": refunds, "lines": { "object": "list", "data": [], "has_more": false }, "metadata": {},
                "livemode": false });
        self.event("cn", "credit_note.created", 30, object)
    }

    /// A checkout session for a single payment.
    pub fn session(&self, status: &str, invoice: Option<&str>, metadata: &Value, second: i64) -> Value {
        let object = json!({ "id": self.id("cs"), "object": "checkout.session", "created": start(),
            "mode": "payment", "status": "complete", "payment_status": status,
            "customer": self.id("cus"), "payment_intent": self.id("pi_x"),
                "invoice": invoice.map(|name| self.id(&format!("in_{name}"))), "amount_total": 2000,
            "currency": "usd", "metadata": metadata, "payment_link": null, "livemode": false });
        let kind = if second == 0 {
            "checkout.session.completed"
        } else {
            "checkout.session.async_payment_succeeded"
        };
        self.event(&format!("cs_{second}"), kind, 5 + second, object)
    }

    pub fn subscription(&self, status: &str, price: &str) -> Value {
        let mut object = events::subscription(&self.id("sub"), &self.id("cus"), status, price);
        if status == "trialing" {
            (object["trial_start"], object["trial_end"]) = (start().into(), (start() + 30 * DAY).into());
        }
        self.event("sub", "customer.subscription.created", 1, object)
    }
}
