//! What is refused, and the sentence that says why.

use reqwest::Method;
use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{adjustment, billing, credit_note, invoice, item, payment, refund, reversal};
use crate::support::requests::{plan, rate_card, request};

const SCOPES: &str = "usage:write,usage:read,usage:price,billing:write,billing:read,admin";

/// What is refused says what is wrong with it.
#[tokio::test]
async fn errors_say_what_is_wrong() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await;
    let id = world.invoiced("acme", "90").await;
    let pay =
        world.send(payment("acme", 9000).with("paid_at", "2026-10-05T00:00:00Z")).await.status(201).id();
    let most = 1_000_000_000_000_000_i64;
    let old = "1999-12-31T23:59:59Z";
    let gift = item("acme", "1").with("kind", "gift");
    for (request, field, says) in [
        (payment("acme", most + 1), "amount", "from 1 to 1000000000000000"),
        (payment("acme", 0), "amount", "from 1 to"),
        (payment("acme", 100).with("fee", 101), "fee", "from 0 to the amount"),
        (payment("acme", 100).with("paid_at", old), "paid_at", "2000-01-01"),
        (payment("acme", 100).with("paid_at", "0001-01-01T00:00:00Z"), "paid_at", "2000-01-01"),
        (adjustment("acme", most + 1), "amount", "to 1000000000000000, and not 0"),
        (adjustment("acme", i64::MIN), "amount", "from -1000000000000000"),
        (adjustment("acme", 1).with("at", old), "at", "2000-01-01"),
        (refund(&pay, 0), "amount", "above 0"),
        (reversal(&pay, -5), "amount", "above 0"),
        (refund(&pay, 1).with("at", old), "at", "2000-01-01"),
        (refund(&pay, 1).with("at", "2026-10-04T23:59:59Z"), "at", "which is of 2026-10-05T00:00:00Z"),
        (refund(&pay, 1).with("at", "2026-10-12T00:00:00Z"), "at", "in the future"),
        (credit_note(&id).credits(1, -1), "amount", "of line 1 must be from 0 to 9000"),
        (credit_note(&id).credits(1, 9001), "amount", "of line 1 must be from 0 to 9000"),
        (gift.clone(), "kind", "must be one of item, proration"),
        (gift.with("kind", "usage"), "kind", "must be one of item, proration"),
    ] {
        let refused = world.send(request).await.names(400, field);
        assert!(refused.text("detail").contains(says), "{says}: {refused}");
    }
    world.send(payment("acme", 100).with("fee", 100)).await.status(201);
    world.send(payment("acme", 100).with("paid_at", "2000-01-01T00:00:00Z")).await.status(201);
    let first = world.send(refund(&pay, 1).with("at", "2026-10-05T00:00:00Z")).await.status(201);
    assert_eq!(first["at"], "2026-10-05T00:00:00Z");
    let none = world.get("/v1/orgs/acme/subscription").await.status(404);
    assert!(none.text("detail").contains("never had a local subscription"), "{none}");
    world.books_add_up();
}

/// A mistyped currency is no account of its own. What is refused was taken once: nothing checked the code.
#[tokio::test]
async fn only_active_currencies_are_taken() {
    let world = World::new().scopes(SCOPES).invoiced("acme").meter("tokens").start().await;
    let plan = |currency: &str| plan("p").with("monthly.amount", 1000).with("monthly.currency", currency);
    for code in ["xyz", "btc", "eru", "xxx", "xau", "xts"] {
        let org = request(Method::POST, "/v1/orgs", json!({ "name": "x", "currency": code }));
        let rates = json!([{ "unit_cost": "1" }]);
        for (request, field) in [
            (payment("acme", 1).currency(code), "currency"),
            (adjustment("acme", 1).currency(code), "currency"),
            (invoice("acme").item("1").currency(code), "currency"),
            (item("acme", "1").currency(code), "currency"),
            (billing("acme").currency(code), "currency"),
            (rate_card("tokens", rates).currency(code), "currency"),
            (plan(code), "monthly.currency"),
            (org, "currency"),
        ] {
            let refused = world.send(request).await;
            let named = refused["field"].as_str().unwrap_or_default();
            assert!(
                refused.status == 400 && field.contains(named) && !named.is_empty(),
                "{field}: {refused}"
            );
        }
    }
    world.paid("acme", 1).await;
    world.send(payment("acme", 1).currency("kwd")).await.status(201);
}
