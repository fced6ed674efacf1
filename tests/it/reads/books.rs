//! Books of customers, to be read.

use serde_json::{Value, json};

use crate::support::events::{customer, event, invoice, subscription};
use crate::support::{Daemon, Database};

pub(super) const T0: i64 = 1_760_000_000;

pub(super) fn object(kind: &str, id: &str, mut fields: Value) -> Value {
    for (name, value) in
        [("id", json!(id)), ("object", json!(kind)), ("livemode", json!(false)), ("metadata", json!({}))]
    {
        fields[name] = value;
    }
    if fields["created"].is_null() {
        fields["created"] = json!(T0);
    }
    fields
}

/// An event about a new object.
pub(super) fn new(object: Value) -> Value {
    let (kind, id) = (object["object"].as_str().expect("a kind"), object["id"].as_str().expect("an id"));
    let of_type = match kind {
        "subscription" => "customer.subscription.created".to_owned(),
        "dispute" => "charge.dispute.created".to_owned(),
        "charge" => "charge.succeeded".to_owned(),
        kind => format!("{kind}.created"),
    };
    event(&format!("evt_{kind}_{id}"), &of_type, T0, object)
}

pub(super) fn in_realm(mut event: Value, account: &str, livemode: bool) -> Value {
    event["id"] = json!(format!("{}{account}{livemode}", event["id"].as_str().expect("an id")));
    event["account"] = json!(account);
    event["livemode"] = json!(livemode);
    event
}

pub(super) fn charge(id: &str, customer: &str, intent: Option<&str>) -> Value {
    let fields = json!({ "customer": customer, "payment_intent": intent, "status": "succeeded",
        "captured": true, "amount": 500,
        "amount_captured": 500, "amount_refunded": 0, "currency": "usd", "refunded": false });
    object("charge", id, fields)
}

pub(super) fn intent(id: &str, customer: &str, charge: &str, invoice: Option<&str>) -> Value {
    let fields = json!({ "customer": customer, "status": "succeeded", "amount": 500, "amount_received": 500,
        "currency": "usd",
        "latest_charge": charge, "invoice": invoice });
    object("payment_intent", id, fields)
}

pub(super) fn refund(id: &str, charge: &str, intent: Option<&str>) -> Value {
    object(
        "refund",
        id,
        json!({ "charge": charge, "payment_intent": intent, "amount": 100, "currency": "usd",
            "status": "succeeded" }),
    )
}

/// Everything of one customer. Its money comes in by an intent, by a bare charge, and outside Stripe.
pub(super) fn books(customer_id: &str, org: Option<&str>) -> Vec<Value> {
    let id = |prefix: &str| format!("{prefix}_{customer_id}");
    let mut made = vec![
        customer(customer_id, org),
        subscription(&id("sub"), customer_id, "active", "price_pro"),
        invoice(&id("in"), customer_id, "paid", 500),
        intent(&id("pi"), customer_id, &id("ch"), Some(&id("in"))),
        charge(&id("ch"), customer_id, Some(&id("pi"))),
        charge(&id("bare"), customer_id, None),
        object(
            "invoice_payment",
            &id("inpay"),
            json!({ "invoice": id("in"), "status": "paid", "amount_paid": 500, "amount_requested": 500,
            "currency": "usd", "payment": { "type": "payment_record", "payment_record": id("pr") } }),
        ),
        refund(&id("re_intent"), &id("ch"), Some(&id("pi"))),
        refund(&id("re_charge"), &id("ch"), None),
        refund(&id("re_bare"), &id("bare"), None),
        object(
            "dispute",
            &id("dp"),
            json!({ "charge": id("ch"), "payment_intent": null, "amount": 500, "currency": "usd",
                "status": "needs_response" }),
        ),
        object(
            "credit_note",
            &id("cn"),
            json!({ "invoice": id("in"), "customer": customer_id, "number": id("CN"), "status": "issued",
            "currency": "usd", "amount": 100, "total": 100,
                "lines": { "object": "list", "has_more": false, "data": [
                { "id": id("cnli"), "object": "credit_note_line_item", "type": "custom_line_item",
                    "amount": 100, "unit_amount_decimal": "99.5" } ] } }),
        ),
    ];
    made.iter_mut().for_each(|made| *made = new(made.take()));
    made
}

/// What [`books`] makes, by route.
pub(super) const BOOKS: [(&str, &[&str]); 7] = [
    ("customers", &[""]),
    ("subscriptions", &["sub_"]),
    ("invoices", &["in_"]),
    ("payments", &["pr_", "pi_", "bare_"]),
    ("refunds", &["re_intent_", "re_charge_", "re_bare_"]),
    ("disputes", &["dp_"]),
    ("credit_notes", &["cn_"]),
];

pub(super) fn ids(page: &Value) -> Vec<&str> {
    page["data"]
        .as_array()
        .unwrap_or_else(|| panic!("no page: {page}"))
        .iter()
        .map(|row| row["id"].as_str().expect("an id"))
        .collect()
}

pub(super) async fn list(daemon: &Daemon, key: &str, path: &str) -> Vec<String> {
    let (status, page) = daemon.get(&format!("/v1/{path}"), key).await;
    assert_eq!(status, 200, "{path}: {page}");
    assert_eq!(page["next"], Value::Null, "{path} has one page");
    let mut ids: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
    ids.sort();
    ids
}

/// A daemon, its admin key, and two orgs with a key each.
pub(super) type Books = (Daemon, String, [(String, String); 2]);

/// Two orgs and a customer without one, with the same books each.
pub(super) async fn three_books(database: &Database) -> Books {
    let daemon = Daemon::start(database);
    let admin = database.key("admin", None);
    let mut orgs = Vec::new();
    for name in ["acme", "bolt"] {
        let (_, org) = daemon.post("/v1/orgs", &admin, &json!({ "name": name, "external_id": name })).await;
        let org = org["id"].as_str().expect("an id").to_owned();
        let key = database.key("billing:read", Some(&org));
        orgs.push((org, key));
    }
    for (customer, org) in [("cus_a", Some("acme")), ("cus_b", Some("bolt")), ("cus_c", None)] {
        daemon.deliver_all(&books(customer, org)).await;
    }
    daemon.projected().await;
    (daemon, admin, orgs.try_into().expect("two"))
}
