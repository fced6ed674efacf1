//! Whole Stripe events by position, and the events of a purchase; [`super::objects`] has the builders.

use serde_json::{Value, json};

use super::objects::{self, OCTOBER, payment_intent};

/// An event about `object`, created at unix second `created`.
pub fn event(id: &str, kind: &str, created: i64, object: Value) -> Value {
    objects::object("", "").happened(kind).id(id).at(created).with("data.object", object).json()
}

/// A customer that names its org.
pub fn customer(id: &str, org: Option<&str>) -> Value {
    let customer = objects::customer(id);
    org.into_iter().fold(customer, objects::Object::org).json()
}

/// A subscription to one price.
pub fn subscription(id: &str, customer: &str, status: &str, price: &str) -> Value {
    objects::subscription(id).customer(customer).status(status).price(price).json()
}

/// An invoice of one line over `total`.
pub fn invoice(id: &str, customer: &str, status: &str, total: i64) -> Value {
    objects::invoice(id).customer(customer).status(status).total(total).json()
}

/// The eight events of a purchase within three seconds: subscription, invoice and payment from incomplete to
/// active.
pub fn purchase() -> Vec<Value> {
    let customer = objects::customer("cus_1").org("acme");
    let invoice = |status| objects::invoice("in_1").status(status);
    let subscription = |status| objects::subscription("sub_1").status(status);
    let paid = payment_intent("pi_1").status("succeeded").with("amount_received", 2000);
    let finalized = json!({ "status": "draft", "status_transitions": { "finalized_at": null } });
    let events = [
        (0, "evt_zz", customer.happened("customer.created")),
        (1, "evt_yy", subscription("incomplete").happened("customer.subscription.created")),
        (1, "evt_xx", invoice("draft").happened("invoice.created")),
        (1, "evt_ww", invoice("open").happened("invoice.updated").before(finalized)),
        (1, "evt_vv", payment_intent("pi_1").happened("payment_intent.created")),
        (2, "evt_uu", paid.happened("payment_intent.succeeded")),
        (2, "evt_tt", invoice("paid").happened("invoice.paid")),
        (
            2,
            "evt_ss",
            subscription("active")
                .happened("customer.subscription.updated")
                .before(json!({ "status": "incomplete" })),
        ),
    ];
    events.into_iter().map(|(second, id, event)| event.id(id).at(OCTOBER + second).json()).collect()
}
