//! Invoices of our own: what orgs are charged, what they paid, what they owe.

mod coupons;
mod documents;
mod file;
mod forms;
mod kills;
mod lists;
mod moving_in;
mod notes;
mod numbers;
mod payments;
mod plan_changes;
mod refusals;
mod returns;
mod rights;
mod settings;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, coupon, give, invoice, payment, seller, tax_rate};
use crate::support::requests::{plan, subscribe};

/// The org `acme`, which buys the plan `pro` for 499,000.00 rupiah a month, with 11 % tax on top and a coupon
/// of 20 %. Its first month is paid.
async fn blazz() -> World {
    let pro = plan("pro").with("monthly.amount", 49_900_000).with("monthly.currency", "idr");
    let world = World::new()
        .at("2026-10-10T12:00:00Z")
        .with(tax_rate("ppn", "11").with("name", "PPN"))
        .with(seller("blazz").with("settings.tax_rate", "ppn"))
        .with(coupon("MATA20", "20"))
        .with(pro)
        .org("acme")
        .with(billing("acme").currency("idr"))
        .with(subscribe("acme", "pro").with("paid", true))
        .with(give("acme", "MATA20"))
        .start()
        .await;
    world.turn("2026-11-09T12:00:00Z");
    world
}

/// When the paid time of `acme` ends.
async fn paid_until(world: &World) -> String {
    world.get("/v1/orgs/acme/subscription").await.text("valid_until")
}

/// The figures of an invoice that a customer of Blazz got: 499,000.00 − 20 % + 11 % = 443,112.00.
#[tokio::test]
async fn a_month_is_invoiced_paid_by_paypal_and_goes_on_once() {
    let world = blazz().await;
    let made = world.send(invoice("acme").with("renewal", true).finalized()).await.status(201);
    let totals = ["subtotal", "discount_total", "net_total", "tax_total", "total", "amount_remaining"];
    assert_eq!(
        made.pick(totals),
        json!([49_900_000, 9_980_000, 39_920_000, 4_391_200, 44_311_200, 44_311_200])
    );
    assert_eq!(
        made.pick(["status", "number", "issue_date", "due_date", "currency"]),
        json!(["open", "INV-2026-000001", "2026-11-09", "2026-11-23", "idr"])
    );
    assert_eq!(
        made.pick(["lines.0.kind", "lines.0.period_start", "lines.0.period_end", "lines.0.unit_price"]),
        json!(["fee", "2026-11-10T12:00:00Z", "2026-12-10T12:00:00Z", "499000"])
    );
    assert_eq!(paid_until(&world).await, "2026-11-10T12:00:00Z");

    let pays = payment("acme", 44_311_200).currency("idr").reference("PAYID-BLAZZ");
    let paid = world.send(pays.clone()).await.status(201);
    assert_eq!(paid.pick(["amount_unused", "invoices.0.number"]), json!([0, "INV-2026-000001"]));
    assert_eq!(world.stands(&made.id()).await, "paid 0");
    assert_eq!(paid_until(&world).await, "2026-12-10T12:00:00Z");

    // PayPal tells of the payment again: nothing changes. With another amount it is another payment.
    let again = world.send(pays.clone()).await.status(200);
    assert_eq!(again.body, paid.body);
    world.send(pays.clone().with("amount", 44_311_201)).await.refused(409, "reference_taken");
    assert_eq!(paid_until(&world).await, "2026-12-10T12:00:00Z");
    assert_eq!(world.number("SELECT count(*) FROM account_entries"), 2);

    let path = "/v1/orgs/acme/account/statement?currency=idr&from=2026-11-01&before=2026-12-01";
    let statement = world.get(path).await.status(200);
    assert_eq!(statement.pick(["opening_balance", "closing_balance", "next"]), json!([0, 0, null]));
    let told: Vec<Value> = statement.list("entries").to_vec();
    let told: Vec<Value> = told
        .iter()
        .map(|entry| json!([entry["kind"], entry["number"], entry["amount"], entry["balance_after"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["invoice", "INV-2026-000001", 44_311_200, 44_311_200]),
            json!(["payment", null, -44_311_200, 0]),
        ]
    );
    world.books_add_up();
}

/// A reference of a processor is of one payment, whatever org it is said to be of.
#[tokio::test]
async fn a_reference_is_recorded_once_for_each_processor() {
    let world = World::new().invoiced("acme").org("beta").with(billing("beta")).start().await;
    let pays = payment("acme", 500).reference("one");
    let id = world.send(pays.clone()).await.status(201).id();
    for (what, request, status) in [
        ("the same", pays.clone(), 200),
        ("of another org", pays.clone().org("beta"), 409),
        ("of another currency", pays.clone().currency("usd"), 409),
        ("of another processor", pays.clone().with("processor", "razorpay"), 201),
    ] {
        let answer = world.send(request).await;
        assert_eq!(answer.status, status, "{what}: {answer}");
        assert_eq!(status == 200, answer["id"] == json!(id), "{what}: {answer}");
    }
    world.books_add_up();
}

/// The next period is invoiced once; what was void may be invoiced again.
#[tokio::test]
async fn a_period_is_sold_once() {
    let world = blazz().await;
    let renewal = invoice("acme").with("renewal", true);
    let draft = world.send(renewal.clone()).await.status(201).id();
    world.send(renewal.clone()).await.refused(409, "period_invoiced");
    world.delete(&format!("/v1/invoices/{draft}")).await.status(204);
    let made = world.send(renewal.clone().finalized()).await.status(201);
    assert_eq!(made["number"], "INV-2026-000001");
    world.send(renewal.clone()).await.refused(409, "period_invoiced");
    world.post(&format!("/v1/invoices/{}/void", made.id()), Value::Null).await.status(200);
    let again = world.send(renewal.finalized()).await.status(201);
    assert_eq!(again["number"], "INV-2026-000002");
    world.send(payment("acme", 44_311_200).currency("idr")).await.status(201);
    assert_eq!(paid_until(&world).await, "2026-12-10T12:00:00Z");
    world.books_add_up();
}

/// A credit note over all of an unpaid invoice takes the sale back: the subscription does not go on.
#[tokio::test]
async fn what_was_taken_back_extends_no_subscription() {
    let world = blazz().await;
    let made = world.send(invoice("acme").with("renewal", true).finalized()).await.status(201).id();
    let note = crate::support::invoicing::credit_note(&made);
    assert_eq!(world.send(note).await.status(201)["total"], 44_311_200);
    assert_eq!(world.stands(&made).await, "paid 0");
    assert_eq!(paid_until(&world).await, "2026-11-10T12:00:00Z");

    // So it is corrected: another invoice sells the period. A part was paid before all of it went back.
    let again = world.send(invoice("acme").with("renewal", true).finalized()).await.status(201).id();
    world.send(payment("acme", 11_200).currency("idr")).await.status(201);
    let part = crate::support::invoicing::credit_note(&again).credits(1, 100);
    world.send(part).await.status(201);
    world.send(invoice("acme").with("renewal", true)).await.refused(409, "period_invoiced");
    world.send(crate::support::invoicing::credit_note(&again)).await.status(201);
    assert_eq!(
        (&*world.stands(&again).await, &*paid_until(&world).await),
        ("paid 0", "2026-11-10T12:00:00Z")
    );
    let third = world.send(invoice("acme").with("renewal", true).finalized()).await.status(201).id();
    assert_eq!(world.stands(&third).await, format!("open {}", 44_311_200 - 11_200));
    world.send(payment("acme", 44_300_000).currency("idr")).await.status(201);
    assert_eq!(paid_until(&world).await, "2026-12-10T12:00:00Z");
    // What was paid and then taken back has sold its period: the next one follows it.
    world.send(crate::support::invoicing::credit_note(&third)).await.status(201);
    let next = world.send(invoice("acme").with("renewal", true)).await.status(201);
    assert_eq!(next["lines"][0]["period_start"], "2026-12-10T12:00:00Z");
    world.books_add_up();
}
