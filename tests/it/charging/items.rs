//! Priced lines as invoice items.

use serde_json::json;

use super::Shop;
use crate::support::requests::void;

async fn shop() -> (Shop, String) {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    let subscription = shop.subscribe("acme", &["price_pro"]).await;
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    (shop, subscription)
}

#[tokio::test]
async fn a_periods_usage_is_on_its_draft_and_late_usage_on_the_next_one() {
    let (shop, _) = shop().await;
    shop.turn("2026-11-20T00:00:00Z").await;
    // 40,000 × 0.00025 dollars = 10 dollars; 1 × 0.00025 is no whole cent.
    let first = shop.used("acme", 40_000, "2026-11-19T10:00:00Z").await;
    shop.used("acme", 1, "2026-11-19T11:00:00Z").await;
    let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
    assert_eq!(shown.at("licensed.0.amount"), 2000);
    assert_eq!((shown.at("lines.0.quantity"), shown.at("lines.0.amount")), (&json!("40001"), &json!(1000)));
    shop.turn("2026-12-01T00:00:05Z").await;
    shop.until("the item is on the draft", |shop| shop.account().ids("invoiceitem").len() == 1).await;
    shop.turn("2026-12-01T01:30:00Z").await;
    assert_eq!(shop.invoices("acme"), ["paid 2000: 2000", "paid 3000: 2000 1000"]);
    shop.until("the line is confirmed", |shop| shop.charges() == ["01 00:00 confirmed 40001/40001 1000"])
        .await;
    // A void and late usage after the invoice: −10 dollars, and 2 dollars and a bit.
    shop.world.send(void(&first).org("acme")).await.ok();
    shop.used("acme", 8_000, "2026-11-30T23:59:59Z").await;
    shop.turn("2027-01-01T00:00:05Z").await;
    shop.until("late usage is on the next draft", |shop| shop.account().ids("invoiceitem").len() == 2).await;
    shop.turn("2027-01-01T01:30:00Z").await;
    // 8,001 in all cost 2.00025; 10.00025 were charged as 10: −8.
    assert_eq!(shop.invoices("acme")[2], "paid 1200: 2000 -800");
    assert_eq!(
        shop.world.value("SELECT string_agg(trim_scale(cost)::text, ' ' ORDER BY part) FROM stripe_charges"),
        Some("10.00025 -8".to_owned())
    );
}

#[tokio::test]
async fn a_whole_quantity_shows_its_price() {
    let (shop, _) = shop().await;
    shop.turn("2026-11-20T00:00:00Z").await;
    shop.used("acme", 40_000, "2026-11-19T10:00:00Z").await;
    shop.turn("2026-12-01T00:00:05Z").await;
    shop.until("the item is there", |shop| shop.account().ids("invoiceitem").len() == 1).await;
    let item = shop.account().all("invoiceitem").remove(0);
    assert_eq!((&item["quantity"], &item["unit_amount_decimal"]), (&json!(40_000), &json!("0.025")));
    assert_eq!(item["amount"], 1000);
    assert_eq!(item["period"]["start"], 1_793_491_200);
}

#[tokio::test]
async fn what_comes_too_late_for_its_invoice_is_on_the_next_one_and_told() {
    let (shop, _) = shop().await;
    shop.turn("2026-11-20T00:00:00Z").await;
    shop.used("acme", 40_000, "2026-11-19T10:00:00Z").await;
    // Stripe is away while the invoice is made: the daemon hears of it when it is final.
    shop.fake.advance_to(1_796_083_200 + 2 * 3600);
    shop.turn("2026-12-01T02:00:00Z").await;
    shop.until("the item waits", |shop| shop.account().ids("invoiceitem").len() == 1).await;
    assert_eq!(shop.account().all("invoiceitem")[0]["invoice"], json!(null));
    assert_eq!(
        shop.world.value(
            "SELECT concat_ws(' ', kind, object, ours, theirs) FROM stripe_drift WHERE kind = 'usage'"
        ),
        Some("usage invoice 1000 0".to_owned())
    );
    shop.turn("2027-01-01T01:30:00Z").await;
    assert_eq!(shop.invoices("acme"), ["paid 2000: 2000", "paid 2000: 2000", "paid 3000: 2000 1000"]);
}

#[tokio::test]
async fn the_last_usage_of_a_subscription_gets_an_invoice_of_its_own() {
    let (shop, subscription) = shop().await;
    shop.turn("2026-11-20T00:00:00Z").await;
    shop.used("acme", 40_000, "2026-11-19T10:00:00Z").await;
    shop.account().cancel(&subscription);
    shop.told().await;
    // After the end: no subscription covers it.
    shop.turn("2026-11-20T00:10:00Z").await;
    shop.used("acme", 4_000, "2026-11-20T00:05:00Z").await;
    shop.until("an invoice is made", |shop| shop.account().ids("invoiceitem").len() == 1).await;
    shop.turn("2026-11-20T03:00:00Z").await;
    assert_eq!(shop.invoices("acme"), ["paid 2000: 2000", "paid 1000: 1000"]);
    shop.until("the line is confirmed", |shop| shop.charges()[0].contains("confirmed")).await;
}

#[tokio::test]
async fn who_has_no_card_gets_the_last_invoice_to_pay_by_hand() {
    let (shop, subscription) = shop().await;
    let none = json!({ "invoice_settings": { "default_payment_method": null } });
    shop.account().update("customer", "cus_acme", none);
    shop.turn("2026-11-20T00:00:00Z").await;
    shop.used("acme", 40_000, "2026-11-19T10:00:00Z").await;
    shop.account().cancel(&subscription);
    shop.turn("2026-11-20T00:00:10Z").await;
    shop.until("an invoice is made", |shop| shop.account().ids("invoiceitem").len() == 1).await;
    shop.turn("2026-11-20T03:00:00Z").await;
    assert_eq!(shop.invoices("acme")[1], "open 1000: 1000");
    assert_eq!(shop.account().all("invoice")[1]["collection_method"], "send_invoice");
}
