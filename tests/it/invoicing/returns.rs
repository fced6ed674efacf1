//! Money that goes back, and the invoices that it had paid.

use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{credit_note, on_invoice, payment, refund, reversal};
use crate::support::requests::Request;

/// What happens to a paid invoice of 100.00, and what it and the account come to: `balance/open/unused`.
#[tokio::test]
async fn what_goes_back_reopens_what_it_had_paid_unless_a_credit_note_stands_for_it() {
    type Steps = fn(&str, &str) -> Vec<Request>;
    let cases: [(&str, Steps, &str, &str); 7] = [
        ("a refund without a note", |_, pay| vec![refund(pay, 10_000)], "open 10000", "10000/10000/0"),
        ("a part of it", |_, pay| vec![refund(pay, 2500)], "open 2500", "2500/2500/0"),
        ("a bounced debit", |_, pay| vec![reversal(pay, 10_000)], "open 10000", "10000/10000/0"),
        (
            "a note, then its refund",
            |invoice, pay| vec![credit_note(invoice), refund(pay, 10_000)],
            "paid 0",
            "0/0/0",
        ),
        (
            "a part note, then more than it is refunded",
            |invoice, pay| vec![credit_note(invoice).credits(1, 4000), refund(pay, 5000)],
            "open 1000",
            "1000/1000/0",
        ),
        (
            "a note, then the debit bounces: the note stays credit",
            |invoice, pay| vec![credit_note(invoice).credits(1, 4000), reversal(pay, 10_000)],
            "open 10000",
            "6000/10000/4000",
        ),
        (
            "a refund, then another payment",
            |_, pay| vec![refund(pay, 10_000), payment("acme", 10_000)],
            "paid 0",
            "0/0/0",
        ),
    ];
    for (what, steps, stands, account) in cases {
        let world = World::new().invoiced("acme").start().await;
        let invoice = world.invoiced("acme", "100").await;
        let pay = world.paid("acme", 10_000).await;
        for step in steps(&invoice, &pay) {
            world.send(step).await.status(201);
        }
        assert_eq!(world.stands(&invoice).await, stands, "{what}");
        assert_eq!(world.account("acme").await, account, "{what}");
        world.books_add_up();
    }
}

/// Unused money goes back first: the invoice stays paid.
#[tokio::test]
async fn what_a_payment_does_not_need_goes_back_first() {
    let world = World::new().invoiced("acme").start().await;
    let invoice = world.invoiced("acme", "60").await;
    let pay = world.paid("acme", 10_000).await;
    world.send(refund(&pay, 4000)).await.status(201);
    assert_eq!(world.stands(&invoice).await, "paid 0");
    world.send(refund(&pay, 1)).await.status(201);
    assert_eq!(world.stands(&invoice).await, "open 1");
    world.books_add_up();
}

/// An invoice that is paid, reopened and paid again extends its subscription once.
#[tokio::test]
async fn a_reopened_invoice_sells_its_period_once() {
    let world = super::blazz().await;
    let invoice = crate::support::invoicing::invoice("acme").with("renewal", true).finalized();
    let id = world.send(invoice).await.status(201).id();
    let pay = || payment("acme", 44_311_200).currency("idr");
    let first = world.send(pay()).await.status(201).id();
    assert_eq!(super::paid_until(&world).await, "2026-12-10T12:00:00Z");
    world.send(reversal(&first, 44_311_200)).await.status(201);
    assert_eq!(world.stands(&id).await, "open 44311200");
    world.send(pay()).await.status(201);
    assert_eq!(world.stands(&id).await, "paid 0");
    assert_eq!(super::paid_until(&world).await, "2026-12-10T12:00:00Z");
    world.books_add_up();
}

/// A void or given up invoice has nothing that a credit note could take back.
#[tokio::test]
async fn only_what_is_asked_for_or_paid_can_be_taken_back() {
    let world = World::new().invoiced("acme").start().await;
    for command in ["void", "write_off"] {
        let id = world.invoiced("acme", "10").await;
        world.send(on_invoice(&id, command)).await.status(200);
        world.send(credit_note(&id)).await.refused(409, "invoice_not_creditable");
    }
    let id = world.invoiced("acme", "10").await;
    world.send(credit_note(&id)).await.status(201);
    let nothing_left = world.send(credit_note(&id)).await;
    assert_eq!((nothing_left.status, nothing_left["field"].as_str()), (400, Some("lines")), "{nothing_left}");
    assert_eq!(nothing_left["code"], json!("invalid_request"));
    world.books_add_up();
}
