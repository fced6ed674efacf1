use coulomb::billing::MirrorBatch;
use coulomb::billing::catalog::{Coupon, Price, Product, PromotionCode, TaxRate};
use coulomb::billing::checkout_sessions::{CheckoutLineItem, CheckoutSession};
use coulomb::billing::credit_notes::{CreditNote, CreditNoteLine};
use coulomb::billing::customers::{Customer, CustomerTaxId, Discount};
use coulomb::billing::disputes::Dispute;
use coulomb::billing::invoices::{Invoice, InvoiceLine};
use coulomb::billing::payments::{Charge, InvoicePayment, PaymentIntent};
use coulomb::billing::refunds::Refund;
use coulomb::billing::subscriptions::{Subscription, SubscriptionItem};
use coulomb::schema;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use serde_json::{Value, json};

use super::{add, batch, database, write};

/// All rows of a table, in the order of its primary key.
macro_rules! stored {
    ($conn:expr, $row:ty, $table:ident) => {
        schema::$table::table
            .order(schema::$table::table.primary_key())
            .select(<$row>::as_select())
            .load($conn)
            .unwrap()
    };
}

fn fixtures() -> Vec<Value> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/stripe");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
}

/// Every column of every table reads back unchanged, also after a second write.
#[test]
fn rows_come_back_as_they_were_read() {
    let (_database, conn) = &mut database();
    let mut snapshots = fixtures();
    snapshots.push(json!({"object": "checkout.session", "id": "cs_items", "line_items": {"has_more": false,
        "data": [{"id": "li_1", "price": {"id": "price_1", "product": "prod_1"}, "quantity": 2,
            "amount_subtotal": 9, "amount_discount": 1, "amount_tax": 2, "amount_total": 10,
            "currency": "usd", "description": "Pack"}, {"id": "li_2"}]}}));
    let mut given = batch(&snapshots);
    given.invoices[0].invoice.total = Some(i64::MAX);
    given.invoices[0].invoice.starting_balance = Some(i64::MIN);
    for _ in 0..2 {
        write(conn, given.clone());
        compare(conn, &given);
    }
}

fn compare(conn: &mut PgConnection, given: &MirrorBatch) {
    let invoices: Vec<Invoice> = given.invoices.iter().map(|read| read.invoice.clone()).collect();
    let lines: Vec<InvoiceLine> = given.invoices.iter().flat_map(|read| read.lines.clone()).collect();
    let subscriptions: Vec<_> = given.subscriptions.iter().map(|read| read.subscription.clone()).collect();
    let items: Vec<_> = given.subscriptions.iter().flat_map(|read| read.items.clone()).collect();
    let notes: Vec<_> = given.credit_notes.iter().map(|read| read.credit_note.clone()).collect();
    let note_lines: Vec<_> = given.credit_notes.iter().flat_map(|read| read.lines.clone()).collect();
    let sessions: Vec<_> = given.checkout_sessions.iter().map(|read| read.session.clone()).collect();
    let sold: Vec<_> = given.checkout_sessions.iter().flat_map(|read| read.items.clone()).collect();
    assert!(lines.len() > 4 && items.len() > 4 && note_lines.len() > 1);
    macro_rules! same {
        ($row:ty, $table:ident, $given:expr) => {{
            let mut given = $given.clone();
            given.sort_by_key(|row| format!("{row:?}"));
            assert!(!given.is_empty());
            let mut found = stored!(conn, $row, $table);
            found.sort_by_key(|row| format!("{row:?}"));
            assert_eq!(found, given);
        }};
    }
    same!(Customer, customers, given.customers);
    same!(CustomerTaxId, customer_tax_ids, given.customer_tax_ids);
    same!(Discount, discounts, given.discounts);
    same!(Subscription, subscriptions, subscriptions);
    same!(SubscriptionItem, subscription_items, items);
    same!(Invoice, invoices, invoices);
    same!(InvoiceLine, invoice_lines, lines);
    same!(PaymentIntent, payment_intents, given.payment_intents);
    same!(Charge, charges, given.charges);
    same!(InvoicePayment, invoice_payments, given.invoice_payments);
    same!(Refund, refunds, given.refunds);
    same!(Dispute, disputes, given.disputes);
    same!(CreditNote, credit_notes, notes);
    same!(CreditNoteLine, credit_note_lines, note_lines);
    same!(CheckoutSession, checkout_sessions, sessions);
    same!(CheckoutLineItem, checkout_line_items, sold);
    same!(Product, products, given.products);
    same!(Price, prices, given.prices);
    same!(Coupon, coupons, given.coupons);
    same!(PromotionCode, promotion_codes, given.promotion_codes);
    same!(TaxRate, tax_rates, given.tax_rates);
}

fn invoice(id: &str, total: i64, lines: &[i64]) -> Value {
    let lines: Vec<Value> =
        lines.iter().map(|amount| json!({"id": format!("il_{amount}"), "amount": amount})).collect();
    json!({"object": "invoice", "id": id, "total": total, "lines": {"data": lines, "has_more": false}})
}

#[test]
fn an_invoice_replaces_its_lines_and_no_others() {
    let (_database, conn) = &mut database();
    write(conn, batch(&[invoice("in_1", 6, &[1, 2, 3]), invoice("in_2", 9, &[4, 5])]));
    write(conn, batch(&[invoice("in_1", 7, &[7])]));
    let mut other_realm = MirrorBatch::default();
    add(&mut other_realm, "acct_1", &invoice("in_2", 0, &[]));
    write(conn, other_realm);
    let lines = stored!(conn, InvoiceLine, invoice_lines);
    let found: Vec<_> =
        lines.iter().map(|line| (&*line.invoice_id, line.line_number, line.amount.unwrap())).collect();
    assert_eq!(found, [("in_1", 0, 7), ("in_2", 0, 4), ("in_2", 1, 5)]);
    let totals: Vec<_> = stored!(conn, Invoice, invoices).into_iter().map(|row| row.total.unwrap()).collect();
    assert_eq!(totals, [7, 9, 0], "the same id in two accounts is two invoices");
}

#[test]
fn of_equal_keys_the_last_counts() {
    let (_database, conn) = &mut database();
    write(conn, batch(&[invoice("in_1", 1, &[1, 2]), invoice("in_0", 5, &[]), invoice("in_1", 2, &[2])]));
    let totals: Vec<_> = stored!(conn, Invoice, invoices).into_iter().map(|row| row.total.unwrap()).collect();
    assert_eq!(totals, [5, 2]);
    assert_eq!(stored!(conn, InvoiceLine, invoice_lines).len(), 1);
}

fn charge_with_refunds(ids: &[&str]) -> Value {
    let refunds: Vec<Value> =
        ids.iter().map(|id| json!({"id": id, "amount": 1, "status": "pending"})).collect();
    json!({"object": "charge", "id": "ch_1", "amount": 9, "refunds": {"data": refunds}})
}

fn refund(id: &str) -> Value {
    json!({"object": "refund", "id": id, "charge": "ch_1", "amount": 1, "status": "succeeded"})
}

#[test]
fn a_refund_object_beats_the_list_of_a_charge_in_any_order() {
    let charge = charge_with_refunds(&["re_1", "re_2"]);
    let orders = [
        vec![vec![charge.clone()], vec![refund("re_1")]],
        vec![vec![refund("re_1")], vec![charge.clone()]],
        vec![vec![refund("re_1"), charge.clone()]],
        vec![vec![charge.clone(), refund("re_1")], vec![charge.clone()]],
        // Earlier snapshots of the charge listed a refund that the latest does not.
        vec![vec![charge_with_refunds(&["re_1", "re_3"])], vec![refund("re_1")], vec![charge]],
    ];
    for order in orders {
        let (_database, conn) = &mut database();
        for snapshots in &order {
            write(conn, batch(snapshots));
        }
        let refunds = stored!(conn, Refund, refunds);
        let found: Vec<_> =
            refunds.iter().map(|row| (&*row.id, &*row.source, row.status.as_deref().unwrap())).collect();
        assert_eq!(found, [("re_1", "refund", "succeeded"), ("re_2", "charge", "pending")], "{order:?}");
    }
}

#[test]
fn decimals_are_never_nan_or_infinite() {
    let (_database, conn) = &mut database();
    let places = [
        ("prices (id, deleted", "'x', false", "unit_amount_decimal"),
        ("coupons (id, deleted", "'x', false", "percent_off"),
        ("tax_rates (id", "'x'", "percentage"),
        ("invoice_lines (invoice_id, line_number", "'x', 0", "unit_amount_decimal"),
        ("credit_note_lines (credit_note_id, line_number", "'x', 0", "unit_amount_decimal"),
    ];
    for (columns, values, decimal) in places {
        let mut insert = |value: &str| {
            conn.batch_execute(&format!(
                "INSERT INTO {columns}, account, livemode, {decimal}) VALUES ({values}, '', true, '{value}')"
            ))
        };
        for value in ["NaN", "Infinity", "-Infinity"] {
            let error = insert(value).expect_err(columns).to_string();
            assert!(error.contains("check constraint"), "{columns} {value}: {error}");
        }
        insert("0.5").expect(columns);
    }
}
