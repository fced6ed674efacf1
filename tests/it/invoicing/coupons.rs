//! Which invoices have a discount, and how often a coupon is used.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, coupon, give, invoice, on_invoice};
use crate::support::requests::{Request, plan, subscribe};

/// An org with a coupon of 10 % and the fields that `with` sets.
async fn world(coupon: Request) -> World {
    let code = coupon.path.trim_start_matches("/v1/coupons/").to_owned();
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").with(coupon);
    world.with(give("acme", &code)).start().await
}

/// The discount of an invoice of 100.00 that is finalised now.
async fn discount(world: &World) -> i64 {
    let made = world.send(invoice("acme").item("100").finalized()).await.status(201);
    made["discount_total"].as_i64().expect("a number")
}

async fn uses(world: &World, code: &str) -> i64 {
    world.get(&format!("/v1/coupons/{code}")).await["uses"].as_i64().expect("a number")
}

/// Two orgs finalise at the same time, and the coupon may be used once: one of them has the discount.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_given_once() {
    let world = World::new()
        .daemons(2)
        .invoiced("acme")
        .org("beta")
        .with(billing("beta"))
        .with(coupon("ONCE", "10").with("max_uses", 1))
        .with(give("acme", "ONCE"))
        .with(give("beta", "ONCE"))
        .start()
        .await;
    for round in 1..=5 {
        let mut drafts = Vec::new();
        for org in ["acme", "beta"] {
            drafts.push(world.send(invoice(org).item("100")).await.status(201).id());
        }
        let daemons = [world.on(0), world.on(1)];
        let (left, right) = tokio::join!(
            daemons[0].send(on_invoice(&drafts[0], "finalize")),
            daemons[1].send(on_invoice(&drafts[1], "finalize")),
        );
        let mut discounts = [left, right].map(|made| made.status(200)["discount_total"].clone());
        discounts.sort_by_key(Value::as_i64);
        assert_eq!(discounts, [json!(0), json!(1000)], "round {round}");
        assert_eq!(uses(&world, "ONCE").await, 1);
        // The use is given back, and the next round has it again.
        for draft in &drafts {
            world.send(on_invoice(draft, "void")).await.status(200);
        }
        assert_eq!(uses(&world, "ONCE").await, 0);
    }
    world.books_add_up();
}

/// Only invoices that are finalised use a coupon.
#[tokio::test]
async fn drafts_and_previews_use_nothing() {
    let world = world(coupon("ONE", "10").with("max_uses", 1)).await;
    let draft = world.send(invoice("acme").item("100")).await.status(201);
    assert_eq!(draft["discount_total"], 1000);
    let preview = world.get("/v1/orgs/acme/invoices/preview").await.status(200);
    assert_eq!(preview["totals"]["total"], 0);
    assert_eq!(uses(&world, "ONE").await, 0);
    assert_eq!(discount(&world).await, 1000);
    assert_eq!(uses(&world, "ONE").await, 1);
    // The draft is computed again when it is finalised: the coupon is used up.
    let late = world.send(on_invoice(&draft.id(), "finalize")).await.status(200);
    assert_eq!(late["discount_total"], 0);
    world.books_add_up();
}

#[tokio::test]
async fn a_coupon_is_for_the_first_invoices_of_an_org() {
    let world = world(coupon("TWO", "10").with("first_invoices", 2)).await;
    let mut discounts = Vec::new();
    for _ in 0..3 {
        discounts.push(discount(&world).await);
    }
    assert_eq!(discounts, [1000, 1000, 0]);
    world.books_add_up();
}

/// What a coupon asks for: `true` where an invoice of 100.00 euro has the discount.
#[tokio::test]
async fn a_coupon_fits_what_it_says() {
    for (what, fields, fits) in [
        ("from now on", json!({ "valid_from": "2026-10-10T12:00:00Z" }), true),
        ("from tomorrow on", json!({ "valid_from": "2026-10-11T00:00:00Z" }), false),
        ("until tomorrow", json!({ "valid_until": "2026-10-11T00:00:00Z" }), true),
        ("a minimum that is reached", json!({ "minimum_amount": 10_000, "currency": "eur" }), true),
        ("a minimum that is not", json!({ "minimum_amount": 10_001, "currency": "eur" }), false),
        ("another currency", json!({ "currency": "usd" }), false),
        ("a plan", json!({ "plans": ["pro"] }), false),
    ] {
        let mut request = coupon("C", "10");
        for (field, value) in fields.as_object().expect("fields") {
            request = request.with(field, value.clone());
        }
        let world = world(request).await;
        assert_eq!(discount(&world).await, if fits { 1000 } else { 0 }, "{what}");
        assert_eq!(uses(&world, "C").await, i64::from(fits), "{what}");
    }
}

/// A coupon of a plan takes off the fee alone; a fixed one no more than there is.
#[tokio::test]
async fn a_discount_is_of_the_lines_that_it_is_for() {
    let pro = plan("pro").with("monthly.amount", 3000).with("monthly.currency", "eur");
    let world = World::new()
        .at("2026-10-10T12:00:00Z")
        .invoiced("acme")
        .with(pro)
        .with(subscribe("acme", "pro").with("paid", true))
        .with(coupon("HALF", "50").with("plans", json!(["pro"])))
        .with(give("acme", "HALF"))
        .with(coupon("FIXED", "1").without("percent").with("amount", 9900).currency("eur"))
        .start()
        .await;
    let renewal = invoice("acme").item("70").with("renewal", true).finalized();
    let made = world.send(renewal).await.status(201);
    assert_eq!(made.pick(["subtotal", "discount_total", "total"]), json!([10_000, 1500, 8500]));
    let by_line: Vec<Value> =
        made.list("lines").iter().map(|line| json!([line["kind"], line["discount"]])).collect();
    assert_eq!(by_line, [json!(["fee", 1500]), json!(["item", 0])]);
    // Two coupons: the fixed one comes after, on what is left, and takes no more than that.
    world.send(give("acme", "FIXED")).await.status(200);
    let capped = world.send(invoice("acme").item("80").finalized()).await.status(201);
    assert_eq!(
        capped.pick(["subtotal", "discount_total", "total", "status"]),
        json!([8000, 8000, 0, "paid"])
    );
    world.books_add_up();
}

#[tokio::test]
async fn a_coupon_that_cannot_be_used_is_not_given() {
    let world = world(coupon("ONE", "10").with("max_uses", 1)).await;
    discount(&world).await;
    world.send(give("acme", "ONE")).await.refused(409, "coupon_unusable");
    world.send(coupon("OLD", "10").with("valid_until", "2026-10-10T12:00:00Z")).await.status(200);
    world.send(give("acme", "OLD")).await.refused(409, "coupon_unusable");
    world.send(give("acme", "NONE")).await.status(404);
    world.send(coupon("ONE", "10").with("max_uses", 1).with("active", false)).await.status(200);
    assert_eq!(world.get("/v1/orgs/acme/coupons").await.list("coupons").len(), 1);
    world.delete("/v1/orgs/acme/coupons/ONE").await.status(204);
    world.delete("/v1/orgs/acme/coupons/ONE").await.status(404);
    let told = world.get("/v1/orgs/acme/coupons").await;
    assert_eq!(told.pick(["coupons.0.code", "coupons.0.uses"]), json!(["ONE", 1]));
    assert!(told.at("coupons.0.ended_at").is_string(), "{told}");
}
