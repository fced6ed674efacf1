//! Totals and deltas into meters at Stripe.

use serde_json::json;

use super::Shop;
use crate::support::requests::{org, void};

#[tokio::test]
async fn an_hours_total_follows_late_usage_and_voids() {
    let shop = Shop::with_meter("totals", Some("hour")).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    // Now nothing is planned until the clock moves.
    shop.settled().await;
    let first = shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.used("acme", 2, "2026-11-10T10:20:00Z").await;
    shop.used("acme", 4, "2026-11-10T09:59:59Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 09:00 sent 4/4", "10 10:00 sent 7/7"]);
    // A void and late usage, after a day: the hour's total is sent again.
    shop.turn("2026-11-11T12:00:00Z").await;
    shop.world.send(void(&first).org("acme")).await.ok();
    shop.used("acme", 30, "2026-11-10T10:40:00Z").await;
    shop.settled().await;
    // The nightly comparison comes after what is sent.
    shop.until("the first hour is confirmed", |shop| {
        shop.charges() == ["10 09:00 confirmed 4/4", "10 10:00 sent 32/32"]
    })
    .await;
    let events: Vec<String> = shop
        .account()
        .meter_events()
        .iter()
        .map(|event| format!("{} {}", event.timestamp % 3600, event.value))
        .collect();
    assert_eq!(events, ["1 4", "1 7", "2 32"], "the later total has the later time");
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "36");
    // Everything is taken back: Stripe gets 0.
    for id in
        shop.world.value("SELECT string_agg(event_id, ' ') FROM usage_records WHERE correction = 0").iter()
    {
        for id in id.split(' ').filter(|id| *id != first) {
            shop.world.send(void(id).org("acme")).await.ok();
        }
    }
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 09:00 sent 0/0", "10 10:00 sent 0/0"]);
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "0");
}

#[tokio::test]
async fn deltas_take_a_void_off_what_is_used_later() {
    let shop = Shop::with_meter("deltas", None).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    let first = shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.used("acme", 2, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 7/7"]);
    shop.world.send(void(&first).org("acme")).await.ok();
    shop.settled().await;
    // Stripe has 7, the books say 2: 5 are owed to the customer, visibly.
    assert_eq!(shop.charges(), ["10 10:00 waiting 2/7 below_zero"]);
    shop.turn("2026-11-10T12:30:00Z").await;
    shop.used("acme", 3, "2026-11-10T12:10:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 2/7 --5", "10 12:00 waiting 3/0 +-5 below_zero"]);
    shop.used("acme", 6, "2026-11-10T12:20:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 2/7 --5", "10 12:00 sent 9/4 +-5"]);
    // 2 + 9, as the books say.
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "11");
    let values: Vec<String> =
        shop.account().meter_events().iter().map(|event| event.value.to_string()).collect();
    assert_eq!(values, ["5", "2", "4"]);
}

#[tokio::test]
async fn an_hour_is_cut_where_a_period_begins_and_late_usage_is_charged_later() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", Some("hour"));
    shop.turn("2026-11-01T10:20:00Z").await;
    shop.subscribe("acme", &["price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
    // The period ends on 1 December at 10:20.
    shop.turn("2026-12-01T10:30:00Z").await;
    shop.used("acme", 40_000, "2026-12-01T10:10:00Z").await;
    shop.used("acme", 7_000, "2026-12-01T10:25:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["01 10:00 sent 40000/40000", "01 10:20 sent 7000/7000"]);
    // The draft takes usage for an hour.
    shop.used("acme", 2_000, "2026-12-01T10:15:00Z").await;
    shop.settled().await;
    shop.turn("2026-12-01T11:30:00Z").await;
    // 42,000 at a cent for a thousand.
    assert_eq!(shop.invoices("acme"), ["paid 0: ", "paid 42: 42"]);
    // What comes now is on the next invoice: the running hour carries it.
    shop.used("acme", 5_000, "2026-12-01T10:19:59Z").await;
    shop.settled().await;
    assert_eq!(
        shop.charges(),
        ["01 10:00 sent 47000/42000 -5000", "01 10:20 sent 7000/7000", "01 11:00 sent 0/5000 +5000"]
    );
    shop.turn("2027-01-01T11:30:00Z").await;
    assert_eq!(shop.invoices("acme")[2], "paid 12: 12");
}

#[tokio::test]
async fn usage_waits_visibly_for_a_customer_and_a_subscription() {
    let shop = Shop::open().await;
    shop.world.send(org("late")).await.ok();
    shop.stripe_meter("mtr_1", Some("day"));
    shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-11-02T10:00:00Z").await;
    shop.used("late", 5, "2026-11-02T09:00:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["02 00:00 waiting 5/0 no_customer"]);
    let shown = shop.world.get("/v1/stripe/charges?state=waiting&org=late").await.status(200);
    assert_eq!(shown.at("data.0.reason"), "no_customer");
    shop.account().create(
        "customer",
        json!({ "id": "cus_late", "metadata": { "org_id": "late" },
            "invoice_settings": { "default_payment_method": "pm_1" } }),
    );
    shop.settled().await;
    assert_eq!(shop.charges(), ["02 00:00 waiting 5/0 no_subscription"]);
    // Stripe charges no usage of before the subscription.
    shop.turn("2026-11-02T12:00:00Z").await;
    shop.subscribe("late", &["price_mtr_1"]).await;
    shop.turn("2026-11-02T13:00:00Z").await;
    shop.used("late", 3, "2026-11-02T12:30:00Z").await;
    shop.settled().await;
    let begins = shop.account().all("subscription")[0]["start_date"].as_i64().expect("a time");
    let from = chrono::DateTime::from_timestamp(begins, 0).expect("a time").format("%d %H:%M");
    assert_eq!(
        shop.charges(),
        ["02 00:00 waiting 5/0 no_subscription".to_owned(), format!("{from} sent 3/3")]
    );
    assert!(shop.world.daemon().get_text("/metrics").await.1.contains("stripe_charges{state=\"waiting\"} 1"));
}
