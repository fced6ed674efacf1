//! Objects in full: what a caller gives, over the fields that Stripe's objects of the basil generation have.

use serde_json::{Value, json};

/// Puts `given` over `base`, field by field. Lists and other values are replaced.
pub fn merge(base: &mut Value, given: &Value) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (name, value) in given {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, given) => *base = given.clone(),
    }
}

/// The fields of this kind of object, with neutral values. `now` is the unix second of its creation.
pub fn template(kind: &str, id: &str, now: i64, livemode: bool) -> Value {
    let mut object =
        json!({ "id": id, "object": kind, "created": now, "livemode": livemode, "metadata": {} });
    merge(
        &mut object,
        &match kind {
            "subscription" => subscription(now),
            "invoice" => invoice(id, now),
            "charge" => charge(),
            "payment_intent" => payment_intent(),
            "customer" => customer(id),
            "checkout.session" => session(now),
            "dispute" => dispute(now),
            "credit_note" => credit_note(id, now),
            _ => small(kind, now),
        },
    );
    let without_metadata = ["billing.meter", "test_helpers.test_clock", "invoice_payment", "tax_id"];
    if without_metadata.contains(&kind) {
        object.as_object_mut().expect("an object").remove("metadata");
    }
    object
}

fn small(kind: &str, now: i64) -> Value {
    match kind {
        "product" => json!({ "active": true, "attributes": [], "default_price": null, "description": null,
            "images": [], "marketing_features": [], "name": "", "package_dimensions": null,
            "shippable": null, "statement_descriptor": null, "tax_code": null, "type": "service",
            "unit_label": null, "updated": now, "url": null }),
        "price" => json!({ "active": true, "billing_scheme": "per_unit", "currency": "usd",
            "custom_unit_amount": null, "lookup_key": null, "nickname": null, "product": null,
            "recurring": null, "tax_behavior": "unspecified", "tiers_mode": null,
            "transform_quantity": null, "type": "one_time", "unit_amount": null,
            "unit_amount_decimal": null }),
        "coupon" => json!({ "amount_off": null, "currency": null, "duration": "once",
            "duration_in_months": null, "max_redemptions": null, "name": null, "percent_off": null,
            "redeem_by": null, "times_redeemed": 0, "valid": true }),
        "promotion_code" => json!({ "active": true, "code": "", "customer": null, "expires_at": null,
            "max_redemptions": null, "times_redeemed": 0,
            "restrictions": { "first_time_transaction": false, "minimum_amount": null,
                "minimum_amount_currency": null } }),
        "tax_rate" => json!({ "active": true, "country": null, "description": null, "display_name": "VAT",
            "effective_percentage": null, "flat_amount": null, "inclusive": false, "jurisdiction": null,
            "jurisdiction_level": null, "percentage": 19.0, "rate_type": "percentage", "state": null,
            "tax_type": "vat" }),
        "tax_id" => json!({ "country": "DE", "customer": null, "owner": { "type": "customer" },
            "type": "eu_vat", "value": "DE123456789",
            "verification": { "status": "verified", "verified_address": null, "verified_name": null } }),
        "invoice_payment" => json!({ "amount_paid": null, "amount_requested": 0, "currency": "usd",
            "invoice": null, "is_default": true, "payment": { "type": "payment_intent" }, "status": "open",
            "status_transitions": { "canceled_at": null, "paid_at": null } }),
        "invoiceitem" => json!({ "amount": 0, "currency": "usd", "customer": null, "date": now,
            "description": null, "discountable": true, "discounts": [], "invoice": null, "net_amount": 0,
            "parent": null, "period": { "start": now, "end": now }, "pricing": null, "proration": false,
            "quantity": 1, "tax_rates": [], "test_clock": null }),
        "refund" => json!({ "amount": 0, "balance_transaction": null, "charge": null, "currency": "usd",
            "destination_details": { "card": { "type": "refund" }, "type": "card" },
            "payment_intent": null, "reason": null, "receipt_number": null,
            "source_transfer_reversal": null, "status": "succeeded", "transfer_reversal": null }),
        "billing.meter" => json!({ "customer_mapping": { "event_payload_key": "stripe_customer_id",
            "type": "by_id" }, "default_aggregation": { "formula": "sum" }, "display_name": "",
            "event_name": "", "event_time_window": null, "status": "active",
            "status_transitions": { "deactivated_at": null }, "updated": now,
            "value_settings": { "event_payload_key": "value" } }),
        "test_helpers.test_clock" => json!({ "deletes_after": now + 30 * 86_400, "frozen_time": now,
            "name": null, "status": "ready", "status_details": {} }),
        "account" => json!({ "business_profile": { "name": null }, "charges_enabled": true,
            "country": "US", "default_currency": "usd", "details_submitted": true, "email": null,
            "payouts_enabled": true, "type": "standard" }),
        _ => json!({}),
    }
}

fn customer(id: &str) -> Value {
    let prefix: String = id.chars().rev().take(8).collect();
    json!({ "address": null, "balance": 0, "currency": null, "default_source": null, "delinquent": false,
        "description": null, "discount": null, "email": null, "invoice_prefix": prefix.to_uppercase(),
        "invoice_settings": { "custom_fields": null, "default_payment_method": null, "footer": null,
            "rendering_options": null },
        "name": null, "next_invoice_sequence": 1, "phone": null, "preferred_locales": [], "shipping": null,
        "tax_exempt": "none", "test_clock": null })
}

fn subscription(now: i64) -> Value {
    json!({ "application": null, "application_fee_percent": null,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor": now, "billing_cycle_anchor_config": null,
        "billing_mode": { "type": "classic" }, "billing_thresholds": null, "cancel_at": null,
        "cancel_at_period_end": false, "canceled_at": null,
        "cancellation_details": { "comment": null, "feedback": null, "reason": null },
        "collection_method": "charge_automatically", "currency": "usd", "customer": null,
        "days_until_due": null, "default_payment_method": null, "default_source": null,
        "default_tax_rates": [], "description": null, "discounts": [], "ended_at": null,
        "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
        "items": { "object": "list", "data": [], "has_more": false }, "latest_invoice": null,
        "next_pending_invoice_item_invoice": null, "on_behalf_of": null, "pause_collection": null,
        "payment_settings": { "payment_method_options": null, "payment_method_types": null,
            "save_default_payment_method": "off" },
        "pending_invoice_item_interval": null, "pending_setup_intent": null, "pending_update": null,
        "schedule": null, "start_date": now, "status": "active", "test_clock": null, "transfer_data": null,
        "trial_end": null,
        "trial_settings": { "end_behavior": { "missing_payment_method": "create_invoice" } },
        "trial_start": null })
}

fn invoice(id: &str, now: i64) -> Value {
    let mut invoice = json!({ "account_country": "US", "account_name": "Fake", "account_tax_ids": null,
        "amount_due": 0,
        "amount_overpaid": 0, "amount_paid": 0, "amount_remaining": 0, "amount_shipping": 0,
        "application": null, "attempt_count": 0, "attempted": false, "auto_advance": true,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "status": null },
        "automatically_finalizes_at": null, "billing_reason": "manual",
        "collection_method": "charge_automatically", "currency": "usd", "custom_fields": null,
        "customer": null, "customer_address": null, "customer_email": null, "customer_name": null,
        "customer_phone": null, "customer_shipping": null, "customer_tax_exempt": "none",
        "customer_tax_ids": [], "default_payment_method": null, "default_source": null,
        "default_tax_rates": [], "description": null, "discounts": [], "due_date": null,
        "effective_at": null, "ending_balance": null, "footer": null, "from_invoice": null });
    // In two parts: the macro's depth is limited.
    let rest = json!({
        "hosted_invoice_url": null, "invoice_pdf": null, "issuer": { "type": "self" },
        "last_finalization_error": null, "latest_revision": null,
        "lines": { "object": "list", "data": [], "has_more": false, "total_count": 0,
            "url": format!("/v1/invoices/{id}/lines") },
        "next_payment_attempt": null, "number": null, "on_behalf_of": null, "parent": null,
        "payment_settings": { "default_mandate": null, "payment_method_options": null,
            "payment_method_types": null },
        "period_end": now, "period_start": now, "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0, "receipt_number": null, "rendering": null,
        "shipping_cost": null, "shipping_details": null, "starting_balance": 0,
        "statement_descriptor": null, "status": "draft",
        "status_transitions": { "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null,
            "voided_at": null },
        "subtotal": 0, "subtotal_excluding_tax": 0, "test_clock": null, "total": 0,
        "total_discount_amounts": [], "total_excluding_tax": 0, "total_pretax_credit_amounts": [],
        "total_taxes": [], "webhooks_delivered_at": null });
    merge(&mut invoice, &rest);
    invoice
}

/// A line of an invoice.
pub fn line(id: &str, invoice: &str, now: i64, livemode: bool) -> Value {
    json!({ "id": id, "object": "line_item", "amount": 0, "currency": "usd", "description": null,
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice,
        "livemode": livemode, "metadata": {}, "parent": null, "period": { "start": now, "end": now },
        "pretax_credit_amounts": [], "pricing": null, "quantity": 1, "taxes": [] })
}

/// An item of a subscription.
pub fn subscription_item(id: &str, subscription: &str, created: i64) -> Value {
    json!({ "id": id, "object": "subscription_item", "billing_thresholds": null, "created": created,
        "current_period_start": created, "current_period_end": created + 30 * 86_400, "discounts": [],
        "metadata": {}, "price": null, "quantity": 1, "subscription": subscription, "tax_rates": [] })
}

fn charge() -> Value {
    json!({ "amount": 0, "amount_captured": 0, "amount_refunded": 0, "application": null,
        "application_fee": null, "application_fee_amount": null, "balance_transaction": null,
        "billing_details": { "address": null, "email": null, "name": null, "phone": null },
        "captured": true, "currency": "usd", "customer": null, "description": null, "disputed": false,
        "failure_balance_transaction": null, "failure_code": null, "failure_message": null,
        "fraud_details": {}, "on_behalf_of": null, "outcome": { "network_status": "approved_by_network",
            "risk_level": "normal", "seller_message": "Payment complete.", "type": "authorized" },
        "paid": true, "payment_intent": null, "payment_method": null,
        "payment_method_details": { "card": { "brand": "visa", "last4": "4242" }, "type": "card" },
        "receipt_email": null, "receipt_number": null, "receipt_url": null, "refunded": false,
        "review": null, "shipping": null, "source": null, "source_transfer": null,
        "statement_descriptor": null, "status": "succeeded", "transfer_data": null,
        "transfer_group": null })
}

fn payment_intent() -> Value {
    json!({ "amount": 0, "amount_capturable": 0, "amount_details": { "tip": {} }, "amount_received": 0,
        "application": null, "automatic_payment_methods": null, "canceled_at": null,
        "cancellation_reason": null, "capture_method": "automatic", "client_secret": null,
        "confirmation_method": "automatic", "currency": "usd", "customer": null, "description": null,
        "last_payment_error": null, "latest_charge": null, "next_action": null, "on_behalf_of": null,
        "payment_method": null, "payment_method_types": ["card"], "processing": null,
        "receipt_email": null, "review": null, "setup_future_usage": null, "shipping": null,
        "source": null, "statement_descriptor": null, "status": "requires_payment_method",
        "transfer_data": null, "transfer_group": null })
}

fn session(now: i64) -> Value {
    json!({ "amount_subtotal": 0, "amount_total": 0, "cancel_url": null, "client_reference_id": null,
        "currency": "usd", "customer": null, "customer_details": null, "customer_email": null,
        "discounts": [], "expires_at": now + 86_400, "invoice": null, "mode": "payment",
        "payment_intent": null, "payment_link": null, "payment_method_types": ["card"],
        "payment_status": "unpaid", "setup_intent": null, "status": "open", "subscription": null,
        "success_url": null, "total_details": { "amount_discount": 0, "amount_shipping": 0,
            "amount_tax": 0 }, "url": null })
}

fn dispute(now: i64) -> Value {
    json!({ "amount": 0, "balance_transactions": [], "charge": null, "currency": "usd", "evidence": {},
        "evidence_details": { "due_by": now + 7 * 86_400, "has_evidence": false, "past_due": false,
            "submission_count": 0 },
        "is_charge_refundable": false, "payment_intent": null, "reason": "fraudulent",
        "status": "needs_response" })
}

fn credit_note(id: &str, now: i64) -> Value {
    json!({ "amount": 0, "amount_shipping": 0, "currency": "usd", "customer": null,
        "customer_balance_transaction": null, "discount_amount": 0, "discount_amounts": [],
        "effective_at": now, "invoice": null,
        "lines": { "object": "list", "data": [], "has_more": false,
            "url": format!("/v1/credit_notes/{id}/lines") },
        "memo": null, "number": null, "out_of_band_amount": null, "pdf": null,
        "post_payment_amount": 0, "pre_payment_amount": 0, "pretax_credit_amounts": [], "reason": null,
        "refunds": [], "shipping_cost": null, "status": "issued", "subtotal": 0,
        "subtotal_excluding_tax": 0, "total": 0, "total_excluding_tax": 0, "total_taxes": [],
        "type": "pre_payment", "voided_at": null })
}
