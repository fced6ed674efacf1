//! Each column of our own rows, with values computed by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::kinds::has;
use super::{Row, books, bytes, exported};
use crate::support::World;
use crate::support::invoicing::{credit_note, payment, reversal};

#[tokio::test]
async fn an_own_invoice_has_the_columns_of_stripes() {
    let (world, own) = books().await;
    let all = exported(&world, "").await;
    assert_eq!(all.iter().map(|row| &*row["id"]).collect::<Vec<_>>(), ["in_1", &own.invoice]);
    has(&all[0], [("origin", "stripe"), ("total", "2000"), ("amount_remaining", "2000")]);
    let shown = world.get(&format!("/v1/invoices/{}", own.invoice)).await.status(200);
    has(
        &all[1],
        [
            ("org_external_id", "acme"),
            ("account", ""),
            ("livemode", "false"),
            ("number", "INV-2026-000001"),
            ("status", "open"),
            ("customer_id", ""),
            ("customer_name", "'=Acme GmbH"),
            ("customer_email", "books@acme.example"),
            ("billing_reason", "manual"),
            ("collection_method", "send_invoice"),
            ("currency", "eur"),
            ("subtotal", "14999"),
            ("discount_total", "0"),
            ("tax_total", "1900"),
            ("total", "16899"),
            ("total_major", "168.99"),
            ("amount_due", "14519"),
            ("amount_paid", "7000"),
            ("amount_remaining", "7519"),
            ("amount_remaining_major", "75.19"),
            ("pre_payment_credit_notes_amount", "2380"),
            ("post_payment_credit_notes_amount", "0"),
            ("created", "2026-10-10T12:00:00Z"),
            ("finalized_at", "2026-10-10T12:00:00Z"),
            ("due_at", "2026-10-25T00:00:00Z"),
            ("paid_at", ""),
            ("description", "Thank you"),
            ("metadata", "{}"),
            ("customer_country", "DE"),
            ("customer_tax_exempt", "reverse"),
            ("customer_tax_ids", "vat_id DE811234567; tax_number 12/345"),
            ("reverse_charge", "true"),
            ("origin", "own"),
        ],
    );
    // What a look-up says of the same fields.
    for (name, cell) in &all[1] {
        let told = &shown[name.as_str()];
        if told.is_number() {
            assert_eq!(&told.to_string(), cell, "{name}");
        } else if let (Some(told), true) = (told.as_str(), !cell.is_empty()) {
            assert_eq!(told, cell, "{name}");
        }
    }
    let columns: Vec<String> = String::from_utf8(bytes(world.daemon(), &world.key, "").await)
        .expect("UTF-8")
        .lines()
        .next()
        .expect("a header")
        .split(',')
        .map(str::to_owned)
        .collect();
    assert_eq!(columns.last().map(String::as_str), Some("origin"));
}

#[tokio::test]
async fn own_lines_have_their_taxes() {
    let (world, own) = books().await;
    let lines = exported(&world, "of=lines&origin=own").await;
    assert_eq!(lines.len(), 2);
    has(
        &lines[0],
        [
            ("invoice_id", &own.invoice),
            ("line_number", "0"),
            ("invoice_number", "INV-2026-000001"),
            ("invoice_status", "open"),
            ("type", "invoiceitem"),
            ("description", "'=work"),
            ("currency", "eur"),
            ("quantity", "3"),
            ("unit_amount_decimal", "3333"),
            ("amount", "9999"),
            ("discount_amount", "0"),
            ("tax_amount", "1900"),
            ("amount_major", "99.99"),
            ("proration", "false"),
            ("tax_percentages", "19"),
            ("taxable_amount", "9999"),
            ("tax_behavior", "exclusive"),
            ("taxability_reason", "standard_rated"),
            ("reverse_charge", "false"),
            ("invoice_finalized_at", "2026-10-10T12:00:00Z"),
        ],
    );
    let taxes: Value = serde_json::from_str(&lines[0]["taxes"]).expect("JSON");
    let tax = json!([{ "amount": 1900, "taxable_amount": 9999, "inclusive": false,
        "reason": "standard_rated", "rate_id": "vat", "percentage": "19" }]);
    assert_eq!(taxes, tax);
    has(
        &lines[1],
        [
            ("line_number", "1"),
            ("amount", "5000"),
            ("tax_amount", "0"),
            ("tax_percentages", "0"),
            ("taxability_reason", "reverse_charge"),
            ("reverse_charge", "true"),
            ("origin", "own"),
        ],
    );
}

#[tokio::test]
async fn own_money_and_credit_notes_have_the_columns_of_stripes() {
    let (world, own) = books().await;
    let only = async |of: &str| -> Row {
        let mut rows = exported(&world, &format!("of={of}&origin=own")).await;
        assert_eq!(rows.len(), 1, "{of}: {rows:?}");
        has(&rows[0], [("origin", "own"), ("org_external_id", "acme"), ("currency", "eur")]);
        rows.remove(0)
    };
    has(
        &only("payments").await,
        [
            ("id", &own.payment),
            ("status", "succeeded"),
            ("invoice_id", &own.invoice),
            ("invoice_number", "INV-2026-000001"),
            ("amount", "10000"),
            ("amount_received", "10000"),
            ("amount_refunded", "3000"),
            ("amount_refunded_major", "30.00"),
            ("payment_method_type", "card"),
            ("disputed", "false"),
            ("outside_stripe", "true"),
            ("created", "2026-10-11T12:00:00Z"),
            ("paid_at", "2026-10-11T09:00:00Z"),
            ("description", "paypal PAYID-1"),
            ("metadata", r#"{"order": "7"}"#),
            ("card_brand", "visa"),
            ("last4", "4242"),
            ("fee", "250"),
            ("net", "9750"),
            ("net_currency", "eur"),
        ],
    );
    has(
        &only("refunds").await,
        [
            ("id", &own.refund),
            ("status", "succeeded"),
            ("invoice_id", &own.invoice),
            ("invoice_number", "INV-2026-000001"),
            ("amount", "3000"),
            ("amount_requested", "3000"),
            ("reason", "a test"),
            ("created", "2026-10-13T12:00:00Z"),
        ],
    );
    has(
        &only("credit_notes").await,
        [
            ("id", &own.note),
            ("number", "CN-2026-000001"),
            ("status", "issued"),
            ("type", "pre_payment"),
            ("reason", "a test"),
            ("invoice_id", &own.invoice),
            ("invoice_number", "INV-2026-000001"),
            ("subtotal", "2000"),
            ("tax_total", "380"),
            ("total", "2380"),
            ("pre_payment_amount", "2380"),
            ("post_payment_amount", "0"),
            ("balance_amount", "0"),
            ("effective_at", "2026-10-12T00:00:00Z"),
            ("created", "2026-10-12T12:00:00Z"),
        ],
    );
    has(
        &only("credit_note_lines").await,
        [
            ("credit_note_id", &own.note),
            ("line_number", "0"),
            ("credit_note_number", "CN-2026-000001"),
            ("invoice_number", "INV-2026-000001"),
            ("description", "'=work"),
            ("amount", "2000"),
            ("tax_amount", "380"),
            ("taxable_amount", "2000"),
            ("tax_percentages", "19"),
            ("reverse_charge", "false"),
        ],
    );
    has(
        &only("customers").await,
        [
            ("name", "'=Acme GmbH"),
            ("email", "books@acme.example"),
            ("phone", "'+49 30 1"),
            ("address_line1", "Side Street 2"),
            ("address_line2", "Yard"),
            ("address_city", "Munich"),
            ("address_postal_code", "80331"),
            ("address_state", "BY"),
            ("country", "DE"),
            ("tax_ids", "vat_id DE811234567; tax_number 12/345"),
            ("balance", "0"),
            ("deleted", "false"),
        ],
    );
}

/// What a credit note does not take off its invoice is credit, as a part of a payment that pays nothing is.
#[tokio::test]
async fn credit_of_an_account_is_a_customers_balance() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await;
    let [first, second] = [world.invoiced("acme", "100").await, world.invoiced("acme", "20").await];
    world.send(payment("acme", 6000).for_invoices([&first])).await.status(201);
    world.send(credit_note(&first)).await.status(201);
    let notes = exported(&world, "of=credit_notes").await;
    // Of 100.00 the note pays the 40.00 that were open. 60.00 are credit.
    has(&notes[0], [("type", "mixed"), ("pre_payment_amount", "4000"), ("post_payment_amount", "6000")]);
    let customers = exported(&world, "of=customers").await;
    has(&customers[0], [("balance", "-6000"), ("balance_major", "-60.00")]);
    let paid: BTreeMap<String, Row> =
        exported(&world, "").await.into_iter().map(|row| (row["id"].clone(), row)).collect();
    has(&paid[&first], [("status", "paid"), ("post_payment_credit_notes_amount", "6000")]);
    has(&paid[&second], [("status", "open"), ("amount_remaining", "2000")]);
    // Of the next 100.00 the credit pays 60.00. A payment pays 10.00 of them, of which 4.00 are taken back.
    let third = world.invoiced("acme", "100").await;
    let bounced = world.send(payment("acme", 1000).for_invoices([&third])).await.status(201).id();
    world.send(reversal(&bounced, 400)).await.status(201);
    let refunds = exported(&world, "of=refunds").await;
    has(&refunds[0], [("amount", "400"), ("reason", "bounced"), ("invoice_id", &third)]);
    // One payment pays the 20.00 and 30.00 of the 34.00 that are open. It names no single invoice.
    let two = payment("acme", 5000).for_invoices([&second, &third]);
    let two = world.send(two).await.status(201).id();
    let number = |id: &str| paid.get(id).map_or("INV-2026-000003", |row| &row["number"]).to_owned();
    for (invoice, expected) in [(&first, 1), (&second, 1), (&third, 2)] {
        let found = exported(&world, &format!("of=payments&number={}", number(invoice))).await;
        assert_eq!(found.len(), expected, "{}", number(invoice));
    }
    let payments = exported(&world, "of=payments").await;
    let paid_by = |id: &str| payments.iter().find(|row| row["id"] == id).expect("the payment");
    let numbers = format!("{}; {}", number(&second), number(&third));
    has(paid_by(&two), [("invoice_id", ""), ("invoice_number", &numbers), ("disputed", "false")]);
    has(
        paid_by(&bounced),
        [("disputed", "true"), ("payment_method_type", "paypal"), ("fee", ""), ("net", "")],
    );
}
