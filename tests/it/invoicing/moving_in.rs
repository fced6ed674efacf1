//! A product moves in with its past: invoices, payments, what is owed, and subscriptions with their history.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{adjustment, payment, tax_rate};
use crate::support::requests::{Request, request};

/// An invoice of another system: two hours at 50.00 and 19 % of tax: 119.00.
pub(super) fn past_invoice(number: &str, day: &str) -> Request {
    let body = json!({
        "org": "acme", "number": number, "issue_date": day, "total": 11_900,
        "lines": [{ "description": "work", "quantity": "2", "unit_price": "50", "tax_rate": "vat19" }]
    });
    request(Method::POST, "/v1/invoices/import", body)
}

fn subscription(body: Value) -> Request {
    request(Method::POST, "/v1/orgs/acme/subscription/import", body)
}

#[tokio::test]
async fn past_invoices_keep_their_numbers_and_dates() {
    let world = World::new().at("2026-11-20T12:00:00Z").invoiced("acme").with(tax_rate("vat19", "19"));
    let world = world.start().await;
    let paid = world.send(past_invoice("R-77", "2026-08-15")).await.status(201);
    assert_eq!(
        paid.pick(["number", "status", "issue_date", "due_date", "total", "reason"]),
        json!(["R-77", "open", "2026-08-15", "2026-08-29", 11_900, "import"])
    );
    let again = world.send(past_invoice("R-77", "2026-08-15")).await.status(200);
    assert_eq!(again["id"], paid["id"]);
    world.send(past_invoice("R-77", "2026-08-16")).await.refused(409, "number_taken");
    world.send(past_invoice("R-78", "2026-09-15").with("total", 11_901)).await.names(400, "total");
    world.send(past_invoice("R-78", "2026-11-21")).await.names(400, "issue_date");
    world.send(past_invoice("R-78", "1999-12-31")).await.names(400, "issue_date");
    let due_before = past_invoice("R-78", "2026-09-15").with("due_date", "2026-09-14");
    world.send(due_before).await.names(400, "due_date");
    world.send(past_invoice("R-78", "2026-09-15")).await.status(201);
    let pays = payment("acme", 11_900).with("paid_at", "2026-08-20T10:00:00Z").for_invoices([&paid.id()]);
    world.send(pays).await.status(201);
    world.send(adjustment("acme", -2_000).with("opening_balance", true)).await.status(201);

    // 119.00 − 119.00 + 119.00 − 20.00 = 99.00, each on its day; the opening credit pays a part of R-78.
    let statement = world.get("/v1/orgs/acme/account/statement?currency=eur").await.ok();
    assert_eq!(statement["closing_balance"], 9_900);
    let days: Vec<&str> =
        statement.list("entries").iter().filter_map(|entry| entry["day"].as_str()).collect();
    assert_eq!(days, ["2026-08-15", "2026-08-20", "2026-09-15", "2026-11-20"]);
    let invoices = world.get("/v1/invoices?org=acme&origin=own&status=open").await.ok();
    assert_eq!(
        [&invoices.rows()[0]["number"], &invoices.rows()[0]["amount_remaining"]],
        [&json!("R-78"), &json!(9_900)]
    );
    world.books_add_up();
}

#[tokio::test]
async fn a_subscription_comes_with_its_history() {
    let world = World::new().at("2026-11-20T12:00:00Z").invoiced("acme").start().await;
    let plan = json!({ "name": "Pro", "trial_days": 14, "grace_days": 3,
        "monthly": { "amount": 1000, "currency": "eur" } });
    world.put("/v1/plans/pro", plan).await.ok();
    let past = json!({ "plan": "pro", "started_at": "2026-01-10T08:00:00Z",
        "trial_end": "2026-01-24T08:00:00Z",
        "paid_until": "2026-03-24T08:00:00Z" });
    let past = world.send(subscription(past)).await.status(201);
    // It was over with the days of grace.
    assert_eq!(past.pick(["status", "ended_at"]), json!(["expired", "2026-03-27T08:00:00Z"]));
    let present = json!({ "plan": "pro", "started_at": "2026-10-01T00:00:00Z",
        "paid_until": "2026-12-01T00:00:00Z" });
    let running = world.send(subscription(present.clone())).await.status(201);
    assert_eq!(
        running.pick(["status", "current_period_start", "valid_until"]),
        json!(["active", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"])
    );
    assert_eq!(world.send(subscription(present)).await.status(200)["id"], running["id"]);
    // The trial of the plan is used up.
    world.turn("2026-12-05T00:00:00Z");
    let trial = json!({ "plan": "pro", "trial_days": 14 });
    world.post("/v1/orgs/acme/subscription", trial).await.refused(409, "trial_used");
    let neither = json!({ "plan": "pro", "started_at": "2026-10-01T00:00:00Z" });
    world.send(subscription(neither)).await.names(400, "paid_until");
}
