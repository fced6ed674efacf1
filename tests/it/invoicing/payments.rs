//! Which money pays which invoice.

use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{adjustment, invoice, on_invoice, payment, refund, reversal};

async fn world() -> World {
    World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await
}

/// Invoices of 50 and 70, paid by 20 and 100: nothing is left of either (invoiceninja #313).
#[tokio::test]
async fn the_oldest_debt_is_paid_first() {
    let world = world().await;
    let [first, second] = [world.invoiced("acme", "50").await, world.invoiced("acme", "70").await];
    world.send(payment("acme", 2000).for_invoices([&first])).await.status(201);
    assert_eq!([world.stands(&first).await, world.stands(&second).await], ["open 3000", "open 7000"]);
    let paid = world.send(payment("acme", 10_000)).await.status(201);
    let shares = json!([{ "invoice": first, "number": "INV-2026-000001", "amount": 3000 },
        { "invoice": second, "number": "INV-2026-000002", "amount": 7000 }]);
    assert_eq!(paid["invoices"], shares);
    assert_eq!([world.stands(&first).await, world.stands(&second).await], ["paid 0", "paid 0"]);
    assert_eq!(world.account("acme").await, "0/0/0");
    world.books_add_up();
}

/// What was paid too much pays the next invoice, which shows it (Paymenter #1280, invoiceninja #9007).
#[tokio::test]
async fn an_overpayment_pays_the_next_invoice_visibly() {
    let world = world().await;
    let first = world.invoiced("acme", "5").await;
    let over = world.send(payment("acme", 4000).reference("big")).await.status(201);
    assert_eq!(over["amount_unused"], 3500);
    assert_eq!(
        (world.stands(&first).await.as_str(), &*world.account("acme").await),
        ("paid 0", "-3500/0/3500")
    );
    let second = world.invoiced("acme", "20").await;
    assert_eq!(world.stands(&second).await, "paid 0");
    let document = world.get(&format!("/v1/invoices/{second}/document?format=json")).await.status(200);
    assert_eq!(document["credits"], json!([{ "description": "paypal big", "amount": 2000 }]));
    assert_eq!(document.pick(["totals.total", "totals.credited", "totals.due"]), json!([2000, 2000, 0]));
    assert_eq!(world.account("acme").await, "-1500/0/1500");
    world.books_add_up();
}

#[tokio::test]
async fn a_payment_pays_the_invoices_that_it_names() {
    let world = world().await;
    let [first, second] = [world.invoiced("acme", "50").await, world.invoiced("acme", "70").await];
    let named = |amount: i64, part: i64| {
        payment("acme", amount).with("invoices", json!([{ "invoice": second, "amount": part }]))
    };
    world.send(named(8000, 7001)).await.refused(409, "too_much_for_invoice");
    world.send(named(100, 101)).await.refused(409, "too_much_for_invoice");
    world.send(payment("acme", 100).for_invoices(["inv_none"])).await.names(400, "invoices");
    let twice = payment("acme", 100).for_invoices([&first, &first]);
    world.send(twice).await.names(400, "invoices");
    world.send(payment("acme", 100).currency("usd").for_invoices([&first])).await.names(400, "currency");
    world.send(named(8000, 7000)).await.status(201);
    // What a payment does not name it does not pay: the rest is credit.
    assert_eq!([world.stands(&first).await, world.stands(&second).await], ["open 5000", "paid 0"]);
    assert_eq!(world.account("acme").await, "4000/5000/1000");
    world.books_add_up();
}

/// A draft is nothing to pay, and an invoice of another currency neither.
#[tokio::test]
async fn only_what_is_finalised_can_be_paid() {
    let world = world().await;
    let draft = world.send(invoice("acme").item("50")).await.status(201).id();
    world.send(payment("acme", 100).for_invoices([&draft])).await.refused(409, "invoice_is_draft");
    assert_eq!(world.send(payment("acme", 100)).await.status(201)["amount_unused"], 100);
    assert_eq!(world.send(on_invoice(&draft, "finalize")).await.status(200)["amount_remaining"], 4900);
    world.books_add_up();
}

#[tokio::test]
async fn a_void_invoice_asks_for_nothing_and_its_money_is_credit() {
    let world = world().await;
    let id = world.invoiced("acme", "100").await;
    world.paid("acme", 3000).await;
    assert_eq!(world.stands(&id).await, "open 7000");
    let void = world.send(on_invoice(&id, "void")).await.status(200);
    assert_eq!(void.pick(["status", "amount_remaining"]), json!(["void", 0]));
    assert!(void["number"].is_string(), "it keeps its number: {void}");
    assert_eq!(world.account("acme").await, "-3000/0/3000");
    // Again: nothing changes.
    world.send(on_invoice(&id, "void")).await.status(200);
    let paid = world.invoiced("acme", "30").await;
    assert_eq!(world.stands(&paid).await, "paid 0");
    world.send(on_invoice(&paid, "void")).await.refused(409, "invoice_not_open");
    world.books_add_up();
}

/// A void invoice gives its money back, and its own credit note stays what it was.
#[tokio::test]
async fn void_after_a_credit_note_frees_the_money_alone() {
    let world = world().await;
    let id = world.invoiced("acme", "100").await;
    let money = world.paid("acme", 2000).await;
    let note = crate::support::invoicing::credit_note(&id).credits(1, 3000);
    world.send(note).await.status(201);
    assert_eq!(world.stands(&id).await, "open 5000");
    world.send(on_invoice(&id, "void")).await.status(200);
    assert_eq!(world.account("acme").await, "-2000/0/2000");
    let payment = world.get(&format!("/v1/payments/{money}")).await.status(200);
    assert_eq!(payment.pick(["amount_unused", "invoices"]), json!([2000, []]));
    world.books_add_up();
}

#[tokio::test]
async fn what_was_given_up_may_still_be_paid() {
    let world = world().await;
    let id = world.invoiced("acme", "100").await;
    world.paid("acme", 3000).await;
    let lost = world.send(on_invoice(&id, "write_off")).await.status(200);
    assert_eq!(lost.pick(["status", "amount_written_off"]), json!(["uncollectible", 7000]));
    assert_eq!(world.account("acme").await, "0/0/0");
    let part = world.send(payment("acme", 2000).for_invoices([&id])).await.status(201);
    assert_eq!(part["amount_unused"], 0);
    assert_eq!(world.stands(&id).await, "uncollectible 0");
    world.send(payment("acme", 5000).for_invoices([&id])).await.status(201);
    assert_eq!(world.stands(&id).await, "paid 0");
    let shown = world.get(&format!("/v1/invoices/{id}")).await;
    assert_eq!(shown.pick(["amount_paid", "amount_written_off"]), json!([10_000, 0]));
    assert_eq!(world.account("acme").await, "0/0/0");
    world.books_add_up();
}

/// Lago let more go back than was paid (lago-api #4805).
#[tokio::test]
async fn no_more_goes_back_than_came_in() {
    let world = world().await;
    let money = world.paid("acme", 10_000).await;
    world.send(refund(&money, 10_001)).await.refused(409, "too_much_to_give_back");
    world.send(refund(&money, 4000).reference("back-1")).await.status(201);
    let again = world.send(refund(&money, 4000).reference("back-1")).await.status(200);
    assert_eq!(again["amount"], 4000);
    world.send(refund(&money, 4001).reference("back-1")).await.refused(409, "reference_taken");
    world.send(reversal(&money, 6001)).await.refused(409, "too_much_to_give_back");
    world.send(reversal(&money, 6000)).await.status(201);
    world.send(refund(&money, 1)).await.refused(409, "too_much_to_give_back");
    let shown = world.get(&format!("/v1/payments/{money}")).await;
    assert_eq!(
        shown.pick(["amount", "amount_refunded", "amount_reversed", "amount_unused", "disputed"]),
        json!([10_000, 4000, 6000, 0, true])
    );
    assert_eq!(shown.list("refunds").len(), 2, "{shown}");
    assert_eq!(world.account("acme").await, "0/0/0");
    world.books_add_up();
}

/// Corrections by hand are entries like others: credit pays the oldest debt, and debts are paid by payments.
#[tokio::test]
async fn corrections_by_hand_are_entries() {
    let world = world().await;
    let id = world.invoiced("acme", "50").await;
    let credit = world.send(adjustment("acme", -2000)).await.status(201);
    assert_eq!(
        credit["account"],
        json!({ "currency": "eur", "balance": 3000, "open": 3000, "unused_credit": 0 })
    );
    assert_eq!(world.stands(&id).await, "open 3000");
    let owed = world.send(adjustment("acme", 500).with("opening_balance", true)).await.status(201);
    assert!(owed.id().starts_with("opn_"), "{owed}");
    world.paid("acme", 3500).await;
    assert_eq!(world.account("acme").await, "0/0/0");
    for (wrong, field) in [
        (adjustment("acme", 0), "amount"),
        (adjustment("acme", 1).with("reason", " "), "reason"),
        (adjustment("acme", 1).with("currency", "EUR"), "currency"),
        (adjustment("acme", 1).with("at", "2999-01-01T00:00:00Z"), "at"),
    ] {
        world.send(wrong).await.names(400, field);
    }
    world.books_add_up();
}
