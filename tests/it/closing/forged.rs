//! `coulomb verify` finds what somebody changed in the database, or lost: the documents as issued, their
//! digests and the account entries are the proof.

use diesel::connection::SimpleConnection;
use serde_json::{Value, json};

use super::books::{differences, march, orgs, post, put};
use crate::support::requests::{plan, subscribe};
use crate::support::world::World;

/// March with everything: also a fee, and an invoice of another system.
async fn books() -> World {
    let world = orgs()
        .with(plan("basic").with("monthly.amount", 1_000).with("monthly.currency", "usd"))
        .with(subscribe("usa", "basic").with("paid", true))
        .start()
        .await;
    march(&world).await;
    let fee = json!({ "org": "usa", "renewal": true, "finalize": true });
    world.send(post("/v1/invoices", fee)).await.status(201);
    let past = json!({ "org": "acme", "number": "R-77", "issue_date": "2026-03-02", "total": 11_900,
        "lines": [{ "description": "work", "unit_price": "100" }] });
    world.send(post("/v1/invoices/import", past)).await.status(201);
    world
}

/// Changes rows as nobody may.
fn forge(world: &World, sql: &str) {
    let sql = format!("SET session_replication_role = replica; {sql}");
    world.owner().batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// What is changed, how it is undone, and what the check says.
const FORGED: [(&str, &str, &str); 16] = [
    (
        "UPDATE own_invoices SET net_total = net_total + 10, tax_total = tax_total - 10",
        "UPDATE own_invoices SET net_total = net_total - 10, tax_total = tax_total + 10",
        "own_invoices: inv_",
    ),
    (
        "UPDATE own_invoices SET due_date = due_date + 30 WHERE number = 'INV-2026-000001'",
        "UPDATE own_invoices SET due_date = due_date - 30 WHERE number = 'INV-2026-000001'",
        "due_date is \"2026-04-18\" instead of \"2026-03-19\"",
    ),
    (
        "UPDATE own_invoices SET issue_date = issue_date - 1 WHERE number = 'R-77'",
        "UPDATE own_invoices SET issue_date = issue_date + 1 WHERE number = 'R-77'",
        "issue_date is \"2026-03-01\" instead of \"2026-03-02\"",
    ),
    (
        "UPDATE own_invoices SET currency = 'gbp' WHERE number = 'R-77'",
        "UPDATE own_invoices SET currency = 'eur' WHERE number = 'R-77'",
        "currency is \"gbp\" instead of \"eur\"",
    ),
    (
        "UPDATE own_invoice_lines SET amount = amount + 1 WHERE amount = 10000",
        "UPDATE own_invoice_lines SET amount = amount - 1 WHERE amount = 10001",
        "amount is 10001 instead of 10000",
    ),
    (
        "UPDATE own_invoice_lines SET net = net + 10, tax = tax - 10 WHERE amount = 10000",
        "UPDATE own_invoice_lines SET net = net - 10, tax = tax + 10 WHERE amount = 10000",
        "net is 10010 instead of 10000, tax is 1890 instead of 1900",
    ),
    (
        "UPDATE own_invoice_lines SET tax_percent = 10 WHERE tax_percent = 7",
        "UPDATE own_invoice_lines SET tax_percent = 7 WHERE tax_percent = 10",
        "tax_percent is 10 instead of 7",
    ),
    (
        "UPDATE own_invoice_lines SET description = 'forged' WHERE amount = 4999",
        "UPDATE own_invoice_lines SET description = 'work' WHERE amount = 4999",
        "description is \"forged\" instead of \"work\"",
    ),
    (
        "UPDATE own_credit_notes SET net_total = net_total + 1, tax_total = tax_total - 1",
        "UPDATE own_credit_notes SET net_total = net_total - 1, tax_total = tax_total + 1",
        "own_credit_notes: cn_",
    ),
    (
        "UPDATE own_payments SET paid_at = paid_at - interval '1 day' WHERE reference = 'PAY-1'",
        "UPDATE own_payments SET paid_at = paid_at + interval '1 day' WHERE reference = 'PAY-1'",
        "at is \"2026-03-04T12:00:00+00:00\" instead of \"2026-03-05T12:00:00+00:00\"",
    ),
    (
        "UPDATE own_payments SET reference = 'PAY-9' WHERE reference = 'PAY-1'",
        "UPDATE own_payments SET reference = 'PAY-1' WHERE reference = 'PAY-9'",
        "reference is [\"paypal\", \"PAY-9\"] instead of [\"paypal\", \"PAY-1\"]",
    ),
    (
        "UPDATE own_refunds SET amount = amount - 1 WHERE kind = 'reversal'",
        "UPDATE own_refunds SET amount = amount + 1 WHERE kind = 'reversal'",
        "amount is 499 instead of 500",
    ),
    (
        "UPDATE account_entries SET day = day + 1 WHERE kind = 'payment' AND currency = 'jpy'",
        "UPDATE account_entries SET day = day - 1 WHERE kind = 'payment' AND currency = 'jpy'",
        "its day is 2026-03-06, but it occurred on 2026-03-05",
    ),
    (
        "UPDATE account_entries SET amount = amount + 1, balance_after = balance_after + 1
             WHERE currency = 'usd' AND sequence = 2;
         UPDATE accounts SET balance = balance + 1 WHERE currency = 'usd'",
        "UPDATE account_entries SET amount = amount - 1, balance_after = balance_after - 1
             WHERE currency = 'usd' AND sequence = 2;
         UPDATE accounts SET balance = balance - 1 WHERE currency = 'usd'",
        "account_entries: inv_",
    ),
    (
        "UPDATE own_documents SET content = replace(content, 'work', 'wirk') WHERE number = 'R-77'",
        "UPDATE own_documents SET content = replace(content, 'wirk', 'work') WHERE number = 'R-77'",
        "(R-77): its digest is not that of its content",
    ),
    (
        "UPDATE own_documents SET number = 'R-78' WHERE number = 'R-77'",
        "UPDATE own_documents SET number = 'R-77' WHERE number = 'R-78'",
        "issued_numbers: R-77 of blazz: nothing was issued or booked that says so",
    ),
];

/// Tables of which every row is lost in turn, and what the check says.
const LOST: [(&str, &str); 6] = [
    ("own_credit_note_lines", "own_credit_note_lines: cn_"),
    ("own_credit_notes", "own_credit_notes: cn_"),
    ("own_invoice_lines", "own_invoice_lines: inv_"),
    ("issued_numbers", "issued_numbers: R-77 of blazz: it is lost"),
    ("invoiced_periods", "is charged, but not marked as invoiced"),
    ("own_payments", "own_payments, own_refunds: pay_"),
];

#[tokio::test]
async fn what_is_forged_or_lost_is_named() {
    let world = books().await;
    assert_eq!(differences(&world, &[]), [""; 0]);
    let named = |what: &str, says: &str| {
        let found = differences(&world, &[]);
        assert!(found.iter().any(|line| line.contains(says)), "{what}: {found:#?}");
    };
    for (forged, undone, says) in FORGED {
        forge(&world, forged);
        named(forged, says);
        forge(&world, undone);
    }
    for (table, says) in LOST {
        forge(&world, &format!("CREATE TABLE kept AS SELECT * FROM {table}; DELETE FROM {table}"));
        named(table, says);
        forge(&world, &format!("INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept"));
    }
    assert_eq!(differences(&world, &[]), [""; 0]);

    // A closed month, and what comes later of it, is no difference.
    world.turn("2026-04-02T12:00:00Z");
    world.post("/v1/closings", json!({ "month": "2026-03" })).await.ok();
    let late = json!({ "org": "acme", "amount": 100, "currency": "eur", "processor": "cash",
        "reference": "late", "paid_at": "2026-03-31T10:00:00Z" });
    let late = world.send(post("/v1/payments", late)).await.status(201).id();
    let back = json!({ "amount": 100, "reason": "wrong" });
    world.send(post(format!("/v1/payments/{late}/refund"), back)).await.status(201);
    assert_eq!(differences(&world, &[]), [""; 0]);
    // The seller moves to another zone. Entries that were made before keep their days.
    world.turn("2026-04-02T12:00:01Z");
    let seller = world.get("/v1/sellers/blazz").await.ok().body;
    let moved: Value = json!({ "party": seller["party"], "settings": seller["settings"], "default": true });
    let moved = put("/v1/sellers/blazz", moved).with("settings.time_zone", "Pacific/Kiritimati");
    world.send(moved).await.ok();
    assert_eq!(differences(&world, &[]), [""; 0]);
}
