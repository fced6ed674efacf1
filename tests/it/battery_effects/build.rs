//! Stripe's objects around a payment, with times around the present.

use serde_json::{Value, json};

pub use crate::support::objects::DAY;
use crate::support::objects::{self, Object, object};
use crate::support::stripe;

/// Start of the running period of every subscription: three weeks ago. The second is the same for the whole
/// test run.
pub fn start() -> i64 {
    static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *START.get_or_init(|| stripe::now() - 21 * DAY)
}

/// One run of a case, with its own ids and times.
pub struct Run {
    /// The end of all ids of the run.
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

/// A part of the running month, `from` days after its start.
pub fn part(price: &'static str, amount: i64, from: i64) -> Line {
    Line { price, amount, quantity: 1, days: (from, 30), proration: true }
}

impl Run {
    pub fn of(tag: &str) -> Self {
        Self { tag: tag.to_owned() }
    }

    pub fn id(&self, name: &str) -> String {
        format!("{name}_{}", self.tag)
    }

    /// An event that happened `second` seconds after [`start`].
    pub fn event(&self, name: &str, kind: &str, second: i64, object: impl Into<Value>) -> Value {
        let event = objects::object("", "").happened(kind).id(&self.id(&format!("evt_{name}")));
        event.at(start() + second).with("data.object", object).json()
    }

    /// An object of the run's customer, created at [`start`].
    fn own(&self, object: Object) -> Object {
        object.created(start()).customer(&self.id("cus"))
    }

    pub fn customer(&self) -> Value {
        let customer = objects::customer(&self.id("cus")).org(&self.tag);
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
        let at = start() + day * DAY;
        let paid = if status == "paid" { json!(at + 2) } else { Value::Null };
        let lines: Vec<Value> = lines.iter().enumerate().map(|(n, line)| self.line(&id, n, line)).collect();
        let invoice = objects::invoice(&id)
            .customer(&self.id("cus"))
            .status(status)
            .total(total.max(0))
            .created(at)
            .bills(&self.id("sub"))
            .with("billing_reason", reason)
            .with("status_transitions", json!({ "finalized_at": at, "paid_at": paid }))
            .with("lines.data", lines);
        if reason == "manual" { invoice.with("parent", Value::Null).json() } else { invoice.json() }
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
        let price = json!({ "price": line.price, "product": format!("prod_{}", line.price) });
        object("line_item", &format!("il_{n}_{invoice}"))
            .amount(line.amount)
            .with("quantity", line.quantity)
            .with("description", "A line")
            .with("period", json!({ "start": start() + from * DAY, "end": start() + until * DAY }))
            .with("pricing", json!({ "type": "price_details", "price_details": price }))
            .with("parent", parent)
            .json()
    }

    /// The invoice in this shape: `more` replaces fields of a paid one.
    pub fn settled(&self, name: &str, lines: &[Line], second: i64, more: &Value) -> Value {
        let mut invoice = self.invoice(name, "subscription_create", "paid", 0, lines);
        for (field, value) in more.as_object().expect("an object") {
            invoice[field] = value.clone();
        }
        self.event(&format!("{name}_{second}"), "invoice.paid", second, invoice)
    }

    /// A price of this product.
    pub fn price(&self, id: &str, usage_type: &str) -> Value {
        let price = objects::price(id, &format!("prod_{id}"), 1).created(start());
        let price = price.with("recurring.usage_type", usage_type);
        self.event(&format!("price_{id}"), "price.created", 0, price)
    }

    /// A credit note of the invoice `of` with these fields.
    pub fn note(&self, of: &str, amount: i64, more: &Value) -> Value {
        let mut event = self.credit_note(of, amount, 0, &[]);
        for (field, value) in more.as_object().expect("an object") {
            event["data"]["object"][field] = value.clone();
        }
        event
    }

    /// The object that ties the intent to the invoice.
    pub fn invoice_payment(&self, name: &str, amount: i64) -> Value {
        let intent = self.id(&format!("pi_{name}"));
        let payment = object("invoice_payment", &self.id(&format!("inpay_{name}")))
            .created(start())
            .status("paid")
            .with("currency", "usd")
            .with("invoice", self.id(&format!("in_{name}")))
            .with("amount_paid", amount)
            .with("amount_requested", amount)
            .with("is_default", true)
            .with("payment", json!({ "type": "payment_intent", "payment_intent": intent }))
            .with("status_transitions.paid_at", start());
        self.event(&format!("inpay_{name}"), "invoice_payment.paid", 3, payment)
    }

    pub fn intent(&self, name: &str, amount: i64, metadata: &Value) -> Value {
        let intent = self.own(objects::payment_intent(&self.id(&format!("pi_{name}"))));
        let paid = intent.amount(amount).paid_by(&self.id(&format!("ch_{name}"))).metadata(metadata.clone());
        self.event(&format!("pi_{name}"), "payment_intent.succeeded", 4, paid)
    }

    /// The charge of the intent of this name, in today's shape.
    fn charged(&self, name: &str, amount: i64) -> Object {
        let charge = self.own(objects::charge(&self.id(&format!("ch_{name}"))));
        let intent = self.id(&format!("pi_{name}"));
        charge.amount(amount).with("amount_captured", amount).with("payment_intent", intent)
    }

    pub fn charge(&self, name: &str, amount: i64) -> Value {
        self.event(&format!("ch_{name}"), "charge.succeeded", 4, self.charged(name, amount))
    }

    /// The charge after a refund of this amount. As in today's shape, it does not list its refunds.
    pub fn refunded(&self, name: &str, amount: i64, refunded: i64) -> Value {
        let charge = self.charged(name, amount).with("amount_refunded", refunded);
        self.event(&format!("ch_{name}_refunded"), "charge.refunded", 9, charge)
    }

    /// A refund of the intent `of`; `second` makes the ids of its events differ.
    pub fn refund(&self, name: &str, of: &str, amount: i64, status: &str, second: i64) -> Value {
        let charge = self.id(&format!("ch_{of}"));
        let refund = objects::refund(&self.id(&format!("re_{name}")), &charge, amount)
            .created(start() + 10)
            .status(status)
            .with("payment_intent", self.id(&format!("pi_{of}")));
        let kind = if second == 0 { "refund.created" } else { "refund.updated" };
        self.event(&format!("re_{name}_{second}"), kind, 10 + second, refund)
    }

    /// A dispute of the charge of `of`; `moved` has the movements of funds.
    pub fn dispute(&self, of: &str, status: &str, moved: &[i64], second: i64) -> Value {
        let kind = match (status, moved.len()) {
            ("won" | "lost" | "warning_closed", _) => "charge.dispute.closed",
            (_, 0) => "charge.dispute.created",
            _ => "charge.dispute.funds_withdrawn",
        };
        let moved = moved.iter().map(|amount| json!({ "amount": amount, "currency": "usd", "net": amount }));
        let dispute = object("dispute", &self.id("du"))
            .created(start() + 20)
            .amount(2000)
            .status(status)
            .with("reason", "fraudulent")
            .with("charge", self.id(&format!("ch_{of}")))
            .with("payment_intent", self.id(&format!("pi_{of}")))
            .with("balance_transactions", moved.collect::<Value>());
        self.event(&format!("du_{second}"), kind, 20 + second, dispute)
    }

    /// A credit note of the invoice `of` that names these refunds.
    pub fn credit_note(&self, of: &str, amount: i64, out_of_band: i64, refunds: &[&str]) -> Value {
        let refunds = refunds
            .iter()
            .map(|name| json!({ "refund": self.id(&format!("re_{name}")), "amount_refunded": amount }));
        let note = objects::credit_note(&self.id("cn"), &self.id(&format!("in_{of}")), amount)
            .created(start() + 30)
            .customer(&self.id("cus"))
            .with("type", "post_payment")
            .with("subtotal", amount)
            .with("out_of_band_amount", out_of_band)
            .with("refunds", refunds.collect::<Value>());
        self.event("cn", "credit_note.created", 30, note)
    }

    /// A checkout session for a single payment.
    pub fn session(&self, status: &str, invoice: Option<&str>, metadata: &Value, second: i64) -> Value {
        let session = self
            .own(object("checkout.session", &self.id("cs")))
            .status("complete")
            .metadata(metadata.clone())
            .with("mode", "payment")
            .with("payment_status", status)
            .with("payment_intent", self.id("pi_x"))
            .with("invoice", invoice.map(|name| self.id(&format!("in_{name}"))))
            .with("amount_total", 2000)
            .with("currency", "usd")
            .with("payment_link", Value::Null);
        let kind = match second {
            0 => "checkout.session.completed",
            _ => "checkout.session.async_payment_succeeded",
        };
        self.event(&format!("cs_{second}"), kind, 5 + second, session)
    }

    /// The session of a payment link, which names no pack.
    pub fn linked(&self, link: &str) -> Value {
        let mut session = self.session("paid", None, &json!({}), 0);
        session["data"]["object"]["payment_link"] = link.into();
        session
    }

    pub fn subscription(&self, status: &str, price: &str) -> Value {
        let object =
            objects::subscription(&self.id("sub")).customer(&self.id("cus")).status(status).price(price);
        let object = match status {
            "trialing" => object.with("trial_start", start()).with("trial_end", start() + 30 * DAY),
            _ => object,
        };
        self.event("sub", "customer.subscription.created", 1, object)
    }
}
