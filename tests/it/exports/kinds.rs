//! What finance reads of Stripe's objects: from the webhook to the cell, with values computed by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{bytes, rows};
use crate::support::World;
use crate::support::objects::{Event, OCTOBER, charge, customer, invoice, object, payment_intent};

/// The only row of an export.
pub(super) async fn only_row(world: &World, query: &str) -> BTreeMap<String, String> {
    let mut rows = rows(&bytes(world.daemon(), &world.key, query).await);
    assert_eq!(rows.len(), 1, "{query}: {rows:?}");
    rows.remove(0)
}

/// Cells of a row, by the names of their columns.
#[track_caller]
pub(super) fn has<const N: usize>(row: &BTreeMap<String, String>, cells: [(&str, &str); N]) {
    for (name, expected) in cells {
        assert_eq!(row.get(name).map(String::as_str), Some(expected), "{name} in {row:?}");
    }
}

/// Cells of the only row of a list of lines with this id.
fn line<'a>(rows: &'a [BTreeMap<String, String>], id: &str) -> &'a BTreeMap<String, String> {
    rows.iter().find(|row| row["id"] == id).expect(id)
}

#[tokio::test]
async fn a_customer_has_its_address_and_all_its_tax_ids() {
    let world = World::new().org("acme").start().await;
    let address = json!({ "line1": "Domplatz 1", "line2": null, "city": "Köln", "postal_code": "50667",
        "state": "NRW", "country": "DE" });
    let tax_id = |id: &str, kind: &str, value: &str, second: i64| {
        object("tax_id", id)
            .customer("cus_1")
            .created(OCTOBER + second)
            .with("type", kind)
            .with("value", value)
            .with("country", "DE")
            .with("verification", json!({ "status": "verified" }))
    };
    world
        .tell([
            customer("cus_1")
                .org("acme")
                .with("name", "Söhne AG")
                .with("email", "rechnung@example.org")
                .with("address", address)
                .with("tax_exempt", "reverse")
                .with("currency", "eur")
                .with("balance", -1_250)
                .created_event(),
            tax_id("txi_2", "gb_vat", "GB987654321", 2).happened("customer.tax_id.created"),
            tax_id("txi_1", "eu_vat", "DE123456789", 1).happened("customer.tax_id.created"),
            tax_id("txi_3", "ch_vat", "CHE-1", 3).happened("customer.tax_id.created"),
            tax_id("txi_3", "ch_vat", "CHE-1", 3).happened("customer.tax_id.deleted"),
        ])
        .await;
    let row = only_row(&world, "of=customers").await;
    has(
        &row,
        [
            ("org_external_id", "acme"),
            ("org_name", "acme"),
            ("id", "cus_1"),
            ("name", "Söhne AG"),
            ("email", "rechnung@example.org"),
            ("address_line1", "Domplatz 1"),
            ("address_line2", ""),
            ("address_city", "Köln"),
            ("address_postal_code", "50667"),
            ("address_state", "NRW"),
            ("country", "DE"),
            ("tax_ids", "eu_vat DE123456789; gb_vat GB987654321"),
            ("tax_exempt", "reverse"),
            ("reverse_charge", "true"),
            ("currency", "eur"),
            ("balance", "-1250"),
            ("balance_major", "-12.50"),
            ("created", "2025-10-09T08:53:20Z"),
            ("deleted", "false"),
        ],
    );
    let details: Value = serde_json::from_str(&row["tax_id_details"]).expect("JSON");
    let first =
        json!({ "type": "eu_vat", "value": "DE123456789", "country": "DE", "verification": "verified" });
    assert_eq!((details.as_array().map(Vec::len), &details[0]), (Some(2), &first));
}

/// An invoice of 100.00 with 19.00 of exclusive tax, and 107.00 that contain 7.00, in newer shapes.
fn taxed_invoice() -> Value {
    let taxes = |amount: i64, base: i64, behavior: &str, rate: &str, reason: &str| {
        json!([{ "amount": amount, "taxable_amount": base, "tax_behavior": behavior,
            "tax_rate_details": { "tax_rate": rate }, "taxability_reason": reason,
            "type": "tax_rate_details" }])
    };
    let other = |id: &str, amount: i64, taxes: Value| {
        json!({ "id": id, "object": "line_item", "amount": amount, "currency": "usd", "quantity": 1,
            "metadata": {}, "period": { "start": OCTOBER, "end": OCTOBER }, "taxes": taxes,
            "parent": { "type": "invoice_item_details", "invoice_item_details": { "proration": false } } })
    };
    let mut invoice = invoice("in_1")
        .status("open")
        .total(10_000)
        .with("total", 22_600)
        .with("total_taxes", json!([{ "amount": 1_900 }, { "amount": 700 }]))
        .with("customer_address", json!({ "country": "AT", "city": "Wien" }))
        .with("customer_tax_exempt", "none")
        .with(
            "customer_tax_ids",
            json!([{ "type": "eu_vat", "value": "ATU1" }, { "type": "eu_oss_vat",
            "value": "EU2" }]),
        )
        .due("2025-11-08T00:00:00Z")
        .with("lines.data.0.taxes", taxes(1_900, 10_000, "exclusive", "txr_19", "standard_rated"))
        .created_event()
        .json();
    let lines = invoice["data"]["object"]["lines"]["data"].as_array_mut().expect("lines");
    lines.push(other("il_incl", 10_700, taxes(700, 10_000, "inclusive", "txr_7", "reduced_rated")));
    lines.push(other("il_reverse", 0, taxes(0, 0, "exclusive", "txr_unknown", "reverse_charge")));
    lines.push(other("il_free", 500, json!([])));
    invoice
}

pub(super) fn tax_rate(id: &str, percentage: f64) -> Event {
    object("tax_rate", id).with("percentage", percentage).with("inclusive", false).created_event()
}

#[tokio::test]
async fn a_line_has_its_taxes_and_the_invoice_whom_they_concern() {
    let world = World::new().start().await;
    world.tell([taxed_invoice(), tax_rate("txr_19", 19.0).json(), tax_rate("txr_7", 7.5).json()]).await;
    has(
        &only_row(&world, "").await,
        [
            ("customer_country", "AT"),
            ("customer_tax_exempt", "none"),
            ("customer_tax_ids", "eu_vat ATU1; eu_oss_vat EU2"),
            ("reverse_charge", "true"),
            ("tax_total", "2600"),
            ("due_at", "2025-11-08T00:00:00Z"),
            ("subscription_id", "sub_1"),
            ("period_end", "2025-10-09T08:53:20Z"),
        ],
    );
    let lines = rows(&bytes(world.daemon(), &world.key, "of=lines").await);
    has(
        line(&lines, "il_in_1"),
        [
            ("amount", "10000"),
            ("tax_amount", "1900"),
            ("tax_percentages", "19"),
            ("taxable_amount", "10000"),
            ("tax_behavior", "exclusive"),
            ("taxability_reason", "standard_rated"),
            ("reverse_charge", "false"),
        ],
    );
    has(
        line(&lines, "il_incl"),
        [("tax_amount", "700"), ("tax_percentages", "7.5"), ("tax_behavior", "inclusive")],
    );
    // Nobody has told the percentage of this rate.
    has(
        line(&lines, "il_reverse"),
        [("tax_percentages", ""), ("taxability_reason", "reverse_charge"), ("reverse_charge", "true")],
    );
    has(
        line(&lines, "il_free"),
        [("taxes", "[]"), ("tax_percentages", ""), ("taxable_amount", ""), ("tax_behavior", "")],
    );
}

#[tokio::test]
async fn taxes_of_older_shapes_and_several_of_a_line() {
    let world = World::new().start().await;
    let tax = |amount: i64, base: i64, rate: &str, inclusive: bool| {
        json!({ "amount": amount, "taxable_amount": base, "inclusive": inclusive, "tax_rate": rate,
            "taxability_reason": "standard_rated" })
    };
    let rate =
        |id: &str, percentage: f64| json!({ "id": id, "object": "tax_rate", "percentage": percentage });
    let old = |id: &str, taxes: Value| {
        let mut invoice = invoice(id).status("open").created_event().json();
        let line = &mut invoice["data"]["object"]["lines"]["data"][0];
        line.as_object_mut().expect("a line").remove("taxes");
        line["tax_amounts"] = taxes;
        line["tax_rates"] = json!([rate("txr_state", 6.25), rate("txr_city", 1.5)]);
        invoice
    };
    world
        .tell([
            old("in_1", json!([tax(125, 2_000, "txr_state", false), tax(30, 2_000, "txr_city", false)])),
            old("in_2", json!([tax(125, 2_000, "txr_state", false), tax(15, 1_000, "txr_city", true)])),
            old("in_3", json!([tax(125, 2_000, "txr_state", false), tax(15, 2_000, "txr_else", false)])),
        ])
        .await;
    let lines = rows(&bytes(world.daemon(), &world.key, "of=lines").await);
    let cells = |id: &str| {
        let line = line(&lines, id);
        ["tax_amount", "tax_percentages", "taxable_amount", "tax_behavior"].map(|name| line[name].clone())
    };
    assert_eq!(cells("il_in_1"), ["155", "6.25; 1.5", "2000", "exclusive"]);
    assert_eq!(cells("il_in_2"), ["140", "6.25; 1.5", "", "mixed"]);
    assert_eq!(cells("il_in_3"), ["140", "", "2000", "exclusive"], "one rate is not known");
}

#[tokio::test]
async fn a_payment_has_its_card_and_the_fee_only_where_stripe_told_it() {
    let world = World::new().org("acme").start().await;
    let card = json!({ "type": "card", "card": { "brand": "visa", "last4": "4242" } });
    let entry = json!({ "id": "txn_1", "object": "balance_transaction", "amount": 1_840, "fee": 83,
        "net": 1_757, "currency": "eur" });
    let paid = |n: i64| {
        let (intent, charge_id) = (format!("pi_{n}"), format!("ch_{n}"));
        let intent = payment_intent(&intent).paid_by(&charge_id).with("invoice", format!("in_{n}"));
        let charge = charge(&charge_id).with("payment_intent", format!("pi_{n}"));
        (intent, charge.with("payment_method_details", card.clone()))
    };
    let ((intent_1, charge_1), (intent_2, charge_2)) = (paid(1), paid(2));
    // The third was paid outside Stripe: only the invoice says by whom.
    let outside = object("invoice_payment", "inpay_3")
        .status("paid")
        .with("invoice", "in_3")
        .with("amount_paid", 2_000)
        .with("amount_requested", 2_000)
        .with("currency", "usd")
        .with("payment", json!({ "type": "payment_record", "payment_record": "prec_3" }));
    world
        .tell([
            customer("cus_1").org("acme").created_event(),
            invoice("in_1").status("paid").created_event(),
            invoice("in_3").status("paid").created_event(),
            intent_1.created_event(),
            charge_1.with("balance_transaction", entry).created_event(),
            intent_2.created_event(),
            charge_2.with("balance_transaction", "txn_2").created_event(),
            outside.happened("invoice_payment.paid"),
        ])
        .await;
    let payments = rows(&bytes(world.daemon(), &world.key, "of=payments").await);
    has(
        line(&payments, "pi_1"),
        [
            ("payment_method_type", "card"),
            ("card_brand", "visa"),
            ("last4", "4242"),
            ("balance_transaction_id", "txn_1"),
            ("fee", "83"),
            ("net", "1757"),
            ("net_currency", "eur"),
            ("invoice_number", "N-in_1"),
            ("amount_received", "2000"),
        ],
    );
    has(
        line(&payments, "pi_2"),
        [
            ("balance_transaction_id", "txn_2"),
            ("fee", ""),
            ("net", ""),
            ("net_currency", ""),
            ("invoice_number", ""),
        ],
    );
    has(
        line(&payments, "prec_3"),
        [
            ("outside_stripe", "true"),
            ("customer_id", "cus_1"),
            ("org_external_id", "acme"),
            ("invoice_number", "N-in_3"),
        ],
    );
    let own = world.key_of("acme");
    assert_eq!(rows(&bytes(world.daemon(), &own, "of=payments").await).len(), 3);
    has(&only_row(&world, "of=payments&number=N-in_3").await, [("id", "prec_3")]);
}

/// What was mirrored before the columns existed gets them: the migration has its events read again.
#[tokio::test]
async fn what_was_mirrored_before_has_its_columns_too() {
    let world = World::new().start().await;
    let paid = charge("ch_1").with(
        "payment_method_details",
        json!({ "type": "card", "card": {
        "brand": "visa", "last4": "4242" } }),
    );
    world.tell([taxed_invoice(), tax_rate("txr_19", 19.0).json(), paid.created_event().json()]).await;
    let known = || async {
        let invoice = only_row(&world, "").await["customer_country"].clone();
        let payment = only_row(&world, "of=payments").await["last4"].clone();
        let lines = rows(&bytes(world.daemon(), &world.key, "of=lines").await);
        [invoice, payment, line(&lines, "il_in_1")["tax_percentages"].clone()]
    };
    let all = ["AT", "4242", "19"];
    assert_eq!(known().await, all);
    world.execute(
        "UPDATE invoices SET customer_address = NULL, customer_tax_exempt = NULL, customer_tax_ids = NULL;
         UPDATE invoice_lines SET taxes = NULL; UPDATE charges SET card_brand = NULL, last4 = NULL",
    );
    assert_eq!(known().await, ["", "", ""]);
    let migration = include_str!("../../../migrations/2026-11-28-000200_finance_columns/up.sql");
    let (_, again) = migration.split_once("INSERT INTO stripe_inbox_queue").expect("its last statement");
    world.execute(&format!("INSERT INTO stripe_inbox_queue{again}"));
    world.daemon().projected().await;
    assert_eq!(known().await, all);
}
