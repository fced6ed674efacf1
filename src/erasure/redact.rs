//! Takes the personal fields out of a Stripe event. What makes up the books stays: ids, amounts, times,
//! statuses, numbers, and everything about products, prices and taxes.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::stripe::event::without_bom;

/// Fields that may name or describe a person, in any object of a customer.
const PERSONAL: &[&str] = &[
    "address",
    "billing_details",
    "client_reference_id",
    "client_secret",
    "collected_information",
    "custom_fields",
    "customer_address",
    "customer_details",
    "customer_email",
    "customer_name",
    "customer_phone",
    "customer_shipping",
    "customer_tax_ids",
    "description",
    "dynamic_last4",
    "email",
    "evidence",
    "exp_month",
    "exp_year",
    "fingerprint",
    "footer",
    "hosted_invoice_url",
    "iin",
    "individual_name",
    "invoice_pdf",
    "ip_address",
    "last4",
    "memo",
    "metadata",
    "name",
    "next_action",
    "pdf",
    "phone",
    "preferred_locales",
    "receipt_email",
    "receipt_number",
    "receipt_url",
    "shipping",
    "shipping_details",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "url",
    "value",
];
/// Kinds of objects that are the seller's, not the customer's.
const OF_SELLER: &[&str] = &["coupon", "plan", "price", "product", "promotion_code", "tax_rate"];
/// Fields of lines that say what was sold.
const OF_LINES: &[&str] = &["description"];

/// The body without personal fields. Twice is as once.
///
/// # Errors
/// The body is not JSON.
pub fn redact(body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut event: Value = serde_json::from_slice(without_bom(body))
        .map_err(|error| Error::Internal(format!("a stored event is not JSON: {error}")))?;
    if let Some(data) = event.get_mut("data") {
        walk(data);
    }
    serde_json::to_vec(&event).map_err(|error| Error::Internal(error.to_string()))
}

fn walk(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(walk),
        Value::Object(fields) => walk_fields(fields),
        _ => {}
    }
}

fn walk_fields(fields: &mut Map<String, Value>) {
    let kind = fields.get("object").and_then(Value::as_str).unwrap_or_default().to_owned();
    if OF_SELLER.contains(&kind.as_str()) {
        return;
    }
    let is_line = matches!(kind.as_str(), "line_item" | "item" | "credit_note_line_item" | "list");
    for (name, value) in fields.iter_mut() {
        // The `url` of a list is its path in Stripe's API.
        let stays = is_line && (OF_LINES.contains(&name.as_str()) || name == "url");
        if PERSONAL.contains(&name.as_str()) && !stays {
            // Metadata is always an object.
            *value = if name == "metadata" { Value::Object(Map::new()) } else { Value::Null };
        } else {
            walk(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_go_and_the_books_stay() {
        let event = json!({
            "id": "evt_1", "type": "invoice.paid", "created": 5, "data": { "object": {
                "object": "invoice", "id": "in_1", "customer": "cus_1", "number": "A-1", "total": 1200,
                "customer_name": "Ada Lovelace", "customer_email": "ada@example.com",
                "description": "for Ada",
                "customer_address": { "line1": "Main Street 1" }, "metadata": { "who": "Ada" },
                "hosted_invoice_url": "https://invoice.stripe.com/i/x",
                "lines": { "object": "list", "url": "/v1/invoices/in_1/lines", "data": [{
                    "object": "line_item", "description": "1 × Pro", "amount": 1200, "metadata": { "a": "b" },
                    "price": { "object": "price", "id": "price_1", "metadata": { "plan": "pro" } } }] },
            }, "previous_attributes": { "customer_name": "Ada King", "status": "open" } }
        });
        let redacted = redact(event.to_string().as_bytes()).expect("JSON");
        let text = String::from_utf8(redacted.clone()).expect("UTF-8");
        for gone in ["Ada", "ada@", "Main Street", "invoice.stripe.com"] {
            assert!(!text.contains(gone), "{gone} is in {text}");
        }
        let left: Value = serde_json::from_slice(&redacted).expect("JSON");
        let invoice = &left["data"]["object"];
        assert_eq!((&invoice["number"], &invoice["total"]), (&json!("A-1"), &json!(1200)));
        assert_eq!(invoice["lines"]["data"][0]["description"], "1 × Pro");
        assert_eq!(invoice["lines"]["data"][0]["price"]["metadata"]["plan"], "pro");
        assert_eq!(left["data"]["previous_attributes"], json!({ "customer_name": null, "status": "open" }));
        assert_eq!(redact(&redacted).expect("JSON"), redacted);
    }
}
