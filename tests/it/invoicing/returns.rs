//! Money that goes back, and the invoices that it had paid.

use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{adjustment, credit_note, invoice, on_invoice, payment, refund, reversal};
use crate::support::requests::Request;

/// What happens to a paid invoice of 100.00, and what it and the account come to: `balance/open/unused`.
#[tokio::test]
async fn what_goes_back_reopens_what_it_had_paid_unless_a_credit_note_stands_for_it() {
    type Steps = fn(&str, &str) -> Vec<Request>;
    let cases: [(&str, Steps, &str, &str); 10] = [
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
            "a note, then the debit bounces: the note pays its part",
            |invoice, pay| vec![credit_note(invoice).credits(1, 4000), reversal(pay, 10_000)],
            "open 6000",
            "6000/6000/0",
        ),
        (
            "a note over all, then the debit bounces: nobody owes anything",
            |invoice, pay| vec![credit_note(invoice), reversal(pay, 10_000)],
            "paid 0",
            "0/0/0",
        ),
        (
            "another payment is credit, then the debit bounces: 100 + 100 − 100 − 120 = −20",
            |_, pay| vec![payment("acme", 12_000), reversal(pay, 10_000)],
            "paid 0",
            "-2000/0/2000",
        ),
        (
            "credit by hand, then a part goes back: 30 − 10",
            |_, pay| vec![adjustment("acme", -1000), refund(pay, 3000)],
            "open 2000",
            "2000/2000/0",
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
    let renewal = invoice("acme").with("renewal", true).finalized();
    let id = world.send(renewal).await.status(201).id();
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

/// Credit pays the debts that a bounced debit leaves, the oldest first: 50 of 80, then 30 of 60.
#[tokio::test]
async fn credit_pays_what_a_bounced_debit_reopens_the_oldest_first() {
    let world = World::new().invoiced("acme").start().await;
    let [first, second] = [world.invoiced("acme", "50").await, world.invoiced("acme", "60").await];
    let pay = world.paid("acme", 11_000).await;
    world.paid("acme", 8_000).await;
    world.send(reversal(&pay, 11_000)).await.status(201);
    assert_eq!([world.stands(&first).await, world.stands(&second).await], ["paid 0", "open 3000"]);
    assert_eq!(world.account("acme").await, "3000/3000/0");
    // What was given up and then paid is open again, and the credit of a void invoice pays it.
    let lost = world.invoiced("acme", "20").await;
    world.send(on_invoice(&lost, "write_off")).await.ok();
    let late = world.send(payment("acme", 2000).for_invoices([&lost])).await.status(201).id();
    world.send(on_invoice(&second, "void")).await.ok();
    assert_eq!(world.account("acme").await, "-3000/0/3000");
    world.send(reversal(&late, 2000)).await.status(201);
    assert_eq!(world.stands(&lost).await, "paid 0");
    assert_eq!(world.account("acme").await, "-1000/0/1000");
    world.books_add_up();
}

/// A correction by hand, or a payment that names no invoice, leaves no debt beside credit.
#[tokio::test]
async fn credit_that_a_payment_left_pays_with_the_next_one() {
    let world = World::new().invoiced("acme").start().await;
    let [first, second] = [world.invoiced("acme", "50").await, world.invoiced("acme", "20").await];
    world.send(payment("acme", 4000).for_invoices([&second])).await.status(201);
    assert_eq!(world.account("acme").await, "3000/5000/2000");
    world.paid("acme", 1).await;
    assert_eq!(world.stands(&first).await, "open 2999");
    world.paid("acme", 5000).await;
    assert_eq!(world.account("acme").await, "-2001/0/2001");
    world.send(adjustment("acme", 2000)).await.status(201);
    assert_eq!(world.account("acme").await, "-1/0/1");
    world.books_add_up();
}
