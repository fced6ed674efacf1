//! Prices that are added, exchanged and taken off within a period
//! (<https://docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup>).

use serde_json::{Value, json};

use super::Shop;

const NOVEMBER: (&str, &str) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");

/// Acme used 5,000 tokens on 10 November, which Stripe has.
async fn shop(way: &str, window: Option<&str>) -> (Shop, Value) {
    let shop = Shop::with_meter(way, window).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5000, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000"]);
    let subscription = shop.account().all("subscription").remove(0);
    (shop, subscription)
}

/// Adds a price of two cents a thousand units of the same meter.
fn add_dearer_price(shop: &Shop) {
    shop.account().create(
        "price",
        json!({ "id": "price_dear", "product": "prod_1", "unit_amount_decimal": "0.002",
            "unit_amount": null,
            "recurring": { "interval": "month", "usage_type": "metered", "meter": "mtr_1" } }),
    );
}

/// Gives the subscription these items.
async fn change(shop: &Shop, subscription: &Value, items: Value) {
    let id = subscription["id"].as_str().expect("an id");
    shop.account().update("subscription", id, json!({ "items": items }));
    shop.told().await;
}

fn drift(shop: &Shop) -> Option<String> {
    shop.world.value(
        "SELECT string_agg(concat_ws(' ', kind, object, ours, theirs), '|' ORDER BY drift_id)
         FROM stripe_drift WHERE kind = 'usage'",
    )
}

/// Goes past the final invoice of November, and looks twice: a difference is told once.
async fn december(shop: &Shop) {
    shop.turn("2026-12-01T01:30:00Z").await;
    shop.settled().await;
    shop.turn("2026-12-01T02:30:00Z").await;
    shop.settled().await;
    shop.turn("2026-12-01T03:40:00Z").await;
    shop.settled().await;
}

async fn usage_of_a_price_that_was_taken_off_is_told_and_moves(way: &str, window: Option<&str>) {
    let (shop, subscription) = shop(way, window).await;
    change(&shop, &subscription, json!([subscription["items"]["data"][0]])).await;
    december(&shop).await;
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2000: 2000");
    assert_eq!(shop.charges(), ["10 10:00 failed 5000/5000 not_invoiced"], "{way}");
    assert_eq!(drift(&shop).as_deref(), Some("usage invoice 5000 0"));
    // Tried again, it waits until the subscription has a price.
    shop.world.post("/v1/stripe/charges/retry", json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 waiting 5000/5000 no_price"]);
    shop.turn("2026-12-05T09:00:00Z").await;
    let items = json!([subscription["items"]["data"][0]["id"], "price_mtr_1"]);
    let items = json!([{ "id": items[0], "price": "price_pro" }, { "price": items[1] }]);
    change(&shop, &subscription, items).await;
    shop.turn("2026-12-05T09:30:00Z").await;
    shop.used("acme", 2000, "2026-12-05T09:20:00Z").await;
    shop.settled().await;
    let charges = shop.charges();
    assert!(charges[0].ends_with(" 5000/5000 -5000"), "{charges:?}");
    assert!(charges[1].ends_with("sent 2000/7000 +5000"), "{charges:?}");
    shop.turn("2027-01-01T02:30:00Z").await;
    shop.settled().await;
    // 7,000 at a cent for a thousand, and the next month of the plan.
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2007: 7 2000");
    assert_eq!(drift(&shop).as_deref(), Some("usage invoice 5000 0"), "nothing more differs");
}

#[tokio::test]
async fn a_total_of_a_price_that_was_taken_off_is_told_and_moves() {
    usage_of_a_price_that_was_taken_off_is_told_and_moves("totals", Some("hour")).await;
}

#[tokio::test]
async fn a_delta_of_a_price_that_was_taken_off_is_told_and_moves() {
    usage_of_a_price_that_was_taken_off_is_told_and_moves("deltas", None).await;
}

/// 5,000 tokens are used before the price is exchanged for the dearer one, and 3,000 after it. Goes past the
/// final invoice of November.
async fn exchanged(billing_mode: &str) -> Shop {
    let (shop, subscription) = shop("deltas", None).await;
    add_dearer_price(&shop);
    shop.turn("2026-11-15T00:00:00Z").await;
    let mode = json!({ "billing_mode": { "type": billing_mode } });
    shop.account().update("subscription", subscription["id"].as_str().expect("an id"), mode);
    let [plan, metered] = [0, 1].map(|n| subscription["items"]["data"][n]["id"].clone());
    let items = json!([{ "id": plan, "price": "price_pro" }, { "id": metered, "price": "price_dear" }]);
    change(&shop, &subscription, items).await;
    shop.turn("2026-11-20T10:30:00Z").await;
    shop.used("acme", 3000, "2026-11-20T10:10:00Z").await;
    shop.settled().await;
    december(&shop).await;
    shop
}

/// Stripe bills the new price for what came after the exchange, and nothing for what came before.
#[tokio::test]
async fn usage_before_a_price_was_exchanged_is_told() {
    let shop = exchanged("classic").await;
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2006: 6 2000");
    assert_eq!(drift(&shop).as_deref(), Some("usage invoice 8000 3000"));
    assert!(shop.charges().iter().all(|charge| !charge.contains("failed")), "{:?}", shop.charges());
}

/// `flexible` bills what was used before.
#[tokio::test]
async fn usage_before_a_price_was_exchanged_may_be_billed() {
    let shop = exchanged("flexible").await;
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2011: 6 2000 5");
    assert_eq!(drift(&shop), None);
}

/// Stripe charges usage since the price was added: what came before waits where people see it.
#[tokio::test]
async fn usage_before_a_price_was_added_is_not_sent() {
    let shop = Shop::without_price().await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5000, "2026-11-10T10:10:00Z").await;
    let subscription = shop.account().all("subscription").remove(0);
    let plan = subscription["items"]["data"][0].clone();
    change(&shop, &subscription, json!([plan, { "price": "price_mtr_1" }])).await;
    shop.turn("2026-11-10T10:45:00Z").await;
    shop.used("acme", 2000, "2026-11-10T10:40:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 waiting 5000/0 no_price", "10 10:30 sent 2000/2000"]);
    december(&shop).await;
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2002: 2 2000");
    assert_eq!(drift(&shop), None);
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "2000");
}

/// A line of a price with packages has their number.
#[tokio::test]
async fn packages_are_compared_by_their_size() {
    let (shop, _) = shop("deltas", None).await;
    shop.account().update(
        "price",
        "price_mtr_1",
        json!({ "transform_quantity": { "divide_by": 60, "round": "up" } }),
    );
    shop.told().await;
    december(&shop).await;
    // 5,000 are 83 packages and a part, so 84, at 0.001 cents each.
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 2000: 0 2000");
    assert_eq!(drift(&shop), None);
}

/// The invoice of the other one has the usage.
#[tokio::test]
async fn usage_that_another_subscription_charges_is_not_told() {
    let (shop, subscription) = shop("deltas", None).await;
    shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
    change(&shop, &subscription, json!([subscription["items"]["data"][0]])).await;
    december(&shop).await;
    // The nights may have confirmed it; a failed one ends with its reason.
    let charges = shop.charges();
    assert!(charges.len() == 1 && charges[0].ends_with(" 5000/5000"), "{charges:?}");
    assert_eq!(drift(&shop), None);
}

/// A trial is free: nothing of it is lacking.
#[tokio::test]
async fn usage_of_a_trial_is_not_told() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", None);
    let end = crate::support::world::time("2026-12-01T00:00:00Z").timestamp();
    let items = json!([{ "price": "price_pro" }, { "price": "price_mtr_1" }]);
    let subscription = shop.account().subscribe(json!({ "customer": "cus_acme", "items": items,
        "status": "trialing", "trial_start": end - 30 * 86_400, "trial_end": end }));
    shop.told().await;
    shop.way("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5000, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000"]);
    change(&shop, &subscription, json!([subscription["items"]["data"][0]])).await;
    december(&shop).await;
    // The nights may have confirmed it; a failed one ends with its reason.
    let charges = shop.charges();
    assert!(charges.len() == 1 && charges[0].ends_with(" 5000/5000"), "{charges:?}");
    assert_eq!(drift(&shop), None);
}
