//! Objects of customers, for tests of reads.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{self, Event, Object, customer, invoice, object, subscription};
use crate::support::world::Caller;

pub(super) fn charge(id: &str, customer: &str, intent: Option<&str>) -> Object {
    objects::charge(id)
        .customer(customer)
        .amount(500)
        .with("amount_captured", 500)
        .with("payment_intent", intent)
}

pub(super) fn intent(id: &str, customer: &str, charge: &str, invoice: Option<&str>) -> Object {
    objects::payment_intent(id).customer(customer).amount(500).paid_by(charge).with("invoice", invoice)
}

pub(super) fn refund(id: &str, charge: &str, intent: Option<&str>) -> Object {
    objects::refund(id, charge, 100).with("payment_intent", intent)
}

/// All objects of one customer. Its money comes by an intent, by a bare charge, and outside Stripe.
pub(super) fn books(customer_id: &str, org: Option<&str>) -> [Event; 12] {
    let id = |prefix: &str| format!("{prefix}_{customer_id}");
    let line = json!({ "id": id("cnli"), "object": "credit_note_line_item", "type": "custom_line_item",
        "amount": 100, "unit_amount_decimal": "99.5" });
    let outside = object("invoice_payment", &id("inpay"))
        .status("paid")
        .with("currency", "usd")
        .with("invoice", id("in"))
        .with("amount_paid", 500)
        .with("amount_requested", 500)
        .with("payment", json!({ "type": "payment_record", "payment_record": id("pr") }));
    let dispute = object("dispute", &id("dp")).status("needs_response").amount(500).with("charge", id("ch"));
    [
        org.into_iter().fold(customer(customer_id), Object::org),
        subscription(&id("sub")).customer(customer_id),
        invoice(&id("in")).customer(customer_id).status("paid").total(500),
        intent(&id("pi"), customer_id, &id("ch"), Some(&id("in"))),
        charge(&id("ch"), customer_id, Some(&id("pi"))),
        charge(&id("bare"), customer_id, None),
        outside,
        refund(&id("re_intent"), &id("ch"), Some(&id("pi"))),
        refund(&id("re_charge"), &id("ch"), None),
        refund(&id("re_bare"), &id("bare"), None),
        dispute.with("payment_intent", Value::Null),
        objects::credit_note(&id("cn"), &id("in"), 100)
            .customer(customer_id)
            .with("number", id("CN"))
            .with("lines.data", json!([line])),
    ]
    .map(|object| object.created_event().at(objects::OCTOBER))
}

/// The ids that [`books`] makes, by route.
pub(super) const BOOKS: [(&str, &[&str]); 7] = [
    ("customers", &[""]),
    ("subscriptions", &["sub_"]),
    ("invoices", &["in_"]),
    ("payments", &["pr_", "pi_", "bare_"]),
    ("refunds", &["re_intent_", "re_charge_", "re_bare_"]),
    ("disputes", &["dp_"]),
    ("credit_notes", &["cn_"]),
];

/// The ids of a list of one page, sorted.
pub(super) async fn list(caller: Caller<'_>, path: &str) -> Vec<String> {
    let page = caller.get(&format!("/v1/{path}")).await.status(200);
    assert_eq!(page["next"], Value::Null, "{path} has one page");
    let mut ids: Vec<String> =
        page.rows().iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

/// A platform and a key that may do everything.
pub(super) async fn platform() -> World {
    World::new().scopes("admin").start().await
}

/// Two orgs and a customer without one, each with the same objects.
pub(super) async fn three_books() -> World {
    let world = World::new().scopes("admin").org("acme").org("bolt").start().await;
    for (customer, org) in [("cus_a", Some("acme")), ("cus_b", Some("bolt")), ("cus_c", None)] {
        world.tell(books(customer, org)).await;
    }
    world
}

/// A key of `acme`.
pub(super) fn key_of_acme(world: &World) -> String {
    world.database.key("billing:read", Some("acme"))
}
