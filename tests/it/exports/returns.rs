//! Money that goes back, from the webhook to the cell: credit notes and disputes.

use serde_json::json;

use super::kinds::{has, only_row, tax_rate};
use super::{bytes, rows};
use crate::support::World;
use crate::support::objects::{OCTOBER, charge, credit_note, customer, invoice, object, payment_intent};

#[tokio::test]
async fn a_credit_note_says_what_it_takes_off_and_what_it_gives_back() {
    let world = World::new().start().await;
    let note = |id: &str, amount: i64| credit_note(id, "in_1", amount).with("number", format!("{id}-CN"));
    let line = json!({ "id": "cnli_1", "object": "credit_note_line_item", "type": "invoice_line_item",
        "invoice_line_item": "il_in_1", "amount": 1_000, "quantity": 1, "description": "Pro", "taxes": [
            { "amount": 190, "taxable_amount": 1_000, "tax_behavior": "exclusive",
              "tax_rate_details": { "tax_rate": "txr_19" }, "taxability_reason": "standard_rated" }] });
    world
        .tell([
            invoice("in_1").status("paid").created_event(),
            note("cn_1", 1_190)
                .with("type", "mixed")
                .with("reason", "order_change")
                .with("subtotal", 1_000)
                .with("total_taxes", json!([{ "amount": 190 }]))
                .with("pre_payment_amount", 190)
                .with("post_payment_amount", 1_000)
                .with("refunds", json!([{ "refund": "re_1", "amount_refunded": 700 }]))
                .with("lines", json!({ "object": "list", "has_more": false, "data": [line] }))
                .with("effective_at", OCTOBER + 86_400)
                .created_event(),
            note("cn_2", 500).status("void").with("voided_at", OCTOBER + 60).created_event(),
            tax_rate("txr_19", 19.0),
        ])
        .await;
    has(
        &only_row(&world, "of=credit_notes&void=exclude").await,
        [
            ("number", "cn_1-CN"),
            ("invoice_id", "in_1"),
            ("invoice_number", "N-in_1"),
            ("reason", "order_change"),
            ("type", "mixed"),
            ("subtotal", "1000"),
            ("tax_total", "190"),
            ("total", "1190"),
            ("total_major", "11.90"),
            ("pre_payment_amount", "190"),
            ("post_payment_amount", "1000"),
            ("refund_amount", "700"),
            ("balance_amount", "300"),
            ("refund_ids", "re_1"),
            ("status", "issued"),
            ("effective_at", "2025-10-10T08:53:20Z"),
            ("voided_at", ""),
        ],
    );
    has(
        &only_row(&world, "of=credit_notes&void=only").await,
        [("id", "cn_2"), ("status", "void"), ("voided_at", "2025-10-09T08:54:20Z")],
    );
    // The date on the document counts for the period.
    has(&only_row(&world, "of=credit_notes&issued_from=2025-10-10").await, [("id", "cn_1")]);
    has(
        &only_row(&world, "of=credit_note_lines").await,
        [
            ("credit_note_id", "cn_1"),
            ("credit_note_number", "cn_1-CN"),
            ("invoice_number", "N-in_1"),
            ("invoice_line_id", "il_in_1"),
            ("amount", "1000"),
            ("tax_amount", "190"),
            ("tax_percentages", "19"),
            ("taxable_amount", "1000"),
            ("tax_behavior", "exclusive"),
        ],
    );
}

#[tokio::test]
async fn a_dispute_has_its_payment_and_what_was_withdrawn() {
    let world = World::new().org("acme").start().await;
    let entry = |amount: i64, fee: i64| {
        json!({ "object": "balance_transaction", "amount": amount, "fee": fee, "net": amount - fee,
            "currency": "eur" })
    };
    world
        .tell([
            customer("cus_1").org("acme").created_event(),
            invoice("in_1").status("paid").created_event(),
            payment_intent("pi_1").paid_by("ch_1").with("invoice", "in_1").created_event(),
            charge("ch_1").with("payment_intent", "pi_1").created_event(),
            // It names the charge alone.
            object("dispute", "du_1")
                .status("won")
                .amount(2_000)
                .with("charge", "ch_1")
                .with("reason", "fraudulent")
                .with("evidence_details", json!({ "due_by": OCTOBER + 86_400 }))
                .with("balance_transactions", json!([entry(-1_800, 1_500), entry(1_700, 0)]))
                .created_event(),
        ])
        .await;
    has(
        &only_row(&world, "of=disputes&org=acme").await,
        [
            ("org_external_id", "acme"),
            ("customer_id", "cus_1"),
            ("payment_id", "pi_1"),
            ("charge_id", "ch_1"),
            ("invoice_number", "N-in_1"),
            ("amount", "2000"),
            ("amount_major", "20.00"),
            ("currency", "usd"),
            ("reason", "fraudulent"),
            ("status", "won"),
            ("evidence_due_by", "2025-10-10T08:53:20Z"),
            ("funds_withdrawn", "100"),
            ("funds_reinstated", "1700"),
            ("fee", "1500"),
            ("funds_net", "-1600"),
            ("funds_currency", "eur"),
            ("created", "2025-10-09T08:53:20Z"),
        ],
    );
    let due = |query: &str| format!("of=disputes&due_before={query}");
    has(&only_row(&world, &due("2025-10-11")).await, [("id", "du_1")]);
    assert!(rows(&bytes(world.daemon(), &world.key, &due("2025-10-10")).await).is_empty());
}
