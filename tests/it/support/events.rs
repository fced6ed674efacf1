//! Builders of Stripe events, by hand, in the shapes that Stripe documents.

use serde_json::{Value, json};

/// An event about `object`, created at unix second `created`.
pub fn event(id: &str, kind: &str, created: i64, object: Value) -> Value {
    json!({
        "id": id, "object": "event", "type": kind, "created": created, "livemode": false,
            "api_version": "2025-11-17.clover",
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
            "data": { "object": object }
    })
}

/// The same, with the old values of what changed.
pub fn updated(id: &str, kind: &str, created: i64, object: Value, previous: Value) -> Value {
    let mut event = event(id, kind, created, object);
    event["data"]["previous_attributes"] = previous;
    event
}

/// A customer that names its org.
pub fn customer(id: &str, org: Option<&str>) -> Value {
    let metadata = org.map_or_else(|| json!({}), |org| json!({ "org_id": org }));
    json!({ "id": id, "object": "customer", "created": 1_760_000_000, "name": format!("Customer \
        {id}"), "email": null, "livemode": false, "metadata": metadata })
}

/// A subscription to one price.
pub fn subscription(id: &str, customer: &str, status: &str, price: &str) -> Value {
    json!({
        "id": id, "object": "subscription", "created": 1_760_000_000, "customer": customer, "status": status,
            "currency": "usd", "livemode": false,
        "cancel_at_period_end": false, "collection_method": "charge_automatically",
            "start_date": 1_760_000_000, "metadata": {},
        "items": { "object": "list", "has_more": false, "data": [{
            "id": format!("si_{id}"), "object": "subscription_item", "quantity": 1, "created": 1_760_000_000,
                "metadata": {},
            "current_period_start": 1_760_000_000, "current_period_end": 1_762_592_000,
            "price": { "id": price, "object": "price", "product": "prod_1", "currency": "usd",
                "unit_amount": 2000, "unit_amount_decimal": "2000",
                "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" } }
        }] }
    })
}

/// An invoice of one line over `total`.
pub fn invoice(id: &str, customer: &str, status: &str, total: i64) -> Value {
    let paid = if status == "paid" { total } else { 0 };
    let at = |wanted: bool| if wanted { json!(1_760_000_100) } else { Value::Null };
    json!({
        "id": id, "object": "invoice", "created": 1_760_000_000, "customer": customer, "status": status,
            "currency": "usd", "livemode": false,
        "billing_reason": "subscription_cycle", "collection_method": "charge_automatically",
            "number": format!("N-{id}"),
        "subtotal": total, "total": total, "amount_due": total, "amount_paid": paid,
            "amount_remaining": total - paid,
        "period_start": 1_757_400_000, "period_end": 1_760_000_000, "metadata": {}, "total_taxes": [],
            "total_discount_amounts": [],
        "status_transitions": { "finalized_at": at(status != "draft"), "paid_at": at(status == "paid"),
            "voided_at": at(status == "void"), "marked_uncollectible_at": null },
        "parent": { "type": "subscription_details", "subscription_details": { "subscription": "sub_1" } },
        "lines": { "object": "list", "has_more": false, "data": [{
            "id": format!("il_{id}"), "object": "line_item", "amount": total, "currency": "usd",
                "description": "Pro", "quantity": 1, "livemode": false, "metadata": {},
            "period": { "start": 1_760_000_000, "end": 1_762_592_000 }, "taxes": [], "discount_amounts": [],
            "pricing": { "type": "price_details",
                "price_details": { "price": "price_pro", "product": "prod_1" },
                "unit_amount_decimal": total.to_string() },
            "parent": { "type": "subscription_item_details",
                "subscription_item_details": { "subscription": "sub_1", "subscription_item": "si_1",
                "proration": false } }
        }] }
    })
}

/// The eight events of a purchase: subscription, invoice and payment from incomplete to active, within three
/// seconds.
pub fn purchase() -> Vec<Value> {
    let draft = invoice("in_1", "cus_1", "draft", 2000);
    let open = invoice("in_1", "cus_1", "open", 2000);
    let paid = invoice("in_1", "cus_1", "paid", 2000);
    let incomplete = subscription("sub_1", "cus_1", "incomplete", "price_pro");
    let active = subscription("sub_1", "cus_1", "active", "price_pro");
    let intent = |status: &str, received: i64| {
        json!({ "id": "pi_1", "object": "payment_intent", "created": 1_760_000_000, "customer": "cus_1",
            "status": status, "currency": "usd",
            "amount": 2000, "amount_received": received, "livemode": false, "metadata": {},
                "latest_charge": null })
    };
    vec![
        event("evt_zz", "customer.created", 1_760_000_000, customer("cus_1", Some("acme"))),
        event("evt_yy", "customer.subscription.created", 1_760_000_001, incomplete),
        event("evt_xx", "invoice.created", 1_760_000_001, draft),
        updated(
            "evt_ww",
            "invoice.updated",
            1_760_000_001,
            open,
            json!({ "status": "draft", "status_transitions": { "finalized_at": null } }),
        ),
        event("evt_vv", "payment_intent.created", 1_760_000_001, intent("requires_payment_method", 0)),
        event("evt_uu", "payment_intent.succeeded", 1_760_000_002, intent("succeeded", 2000)),
        event("evt_tt", "invoice.paid", 1_760_000_002, paid),
        updated(
            "evt_ss",
            "customer.subscription.updated",
            1_760_000_002,
            active,
            json!({ "status": "incomplete" }),
        ),
    ]
}
