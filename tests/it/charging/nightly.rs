//! The nightly comparison, and reports of Stripe about events that it could not use.

use serde_json::json;

use super::Shop;

async fn shop(way: &str, window: Option<&str>) -> Shop {
    let shop = Shop::with_meter(way, window).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop
}

/// Takes an event away at Stripe, as if it had been lost there.
async fn lose_the_event(shop: &Shop) {
    let identifier = shop.account().meter_events()[0].identifier.clone();
    let form = format!("event_name=mtr_1&type=cancel&cancel[identifier]={identifier}");
    let cancelled = reqwest::Client::new()
        .post(format!("{}/v1/billing/meter_event_adjustments", shop.fake.url()))
        .bearer_auth(crate::support::fake_stripe::TEST_KEY)
        .body(form)
        .send()
        .await;
    assert_eq!(cancelled.expect("an answer").status(), 200);
}

fn drift(shop: &Shop) -> Option<String> {
    shop.world.value(
        "SELECT string_agg(concat_ws(' ', kind, object, ours, theirs), '|') FROM stripe_drift
        WHERE kind = 'usage'",
    )
}

#[tokio::test]
async fn what_stripe_summed_confirms_what_was_sent() {
    let shop = shop("totals", Some("hour")).await;
    shop.turn("2026-11-11T04:00:00Z").await;
    shop.until("the bucket is confirmed", |shop| shop.charges() == ["10 10:00 confirmed 5/5"]).await;
    assert_eq!(drift(&shop), None);
}

#[tokio::test]
async fn a_total_that_stripe_lacks_is_told_and_sent_again() {
    let shop = shop("totals", Some("hour")).await;
    lose_the_event(&shop).await;
    shop.turn("2026-11-11T04:00:00Z").await;
    shop.until("the difference is noted", |shop| drift(shop).is_some()).await;
    assert_eq!(drift(&shop).as_deref(), Some("usage stripe_charge 5 0"));
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5"]);
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "5");
}

#[tokio::test]
async fn a_delta_that_stripe_lacks_is_told_and_waits_for_people() {
    let shop = shop("deltas", None).await;
    lose_the_event(&shop).await;
    shop.turn("2026-11-11T04:00:00Z").await;
    shop.until("the difference is noted", |shop| drift(shop).is_some()).await;
    assert_eq!(shop.charges(), ["10 10:00 failed 5/0 sum_differs"]);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 failed 5/0 sum_differs"]);
    // Somebody looked at it.
    let failed = shop.world.get("/v1/stripe/charges?state=failed").await;
    let id = failed.at("data.0.id").as_str().expect("an id");
    shop.world.post(&format!("/v1/stripe/charges/{id}/retry"), json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5"]);
    shop.world
        .post(&format!("/v1/stripe/charges/{id}/retry"), json!({}))
        .await
        .refused(409, "charge_not_failed");
}

#[tokio::test]
async fn events_that_stripe_could_not_use_are_shown_with_its_reason() {
    let shop = shop("totals", Some("hour")).await;
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "inactive" }));
    shop.turn("2026-11-10T12:30:00Z").await;
    shop.used("acme", 3, "2026-11-10T12:10:00Z").await;
    shop.settled().await;
    shop.until("the report is read", |shop| shop.charges()[1].contains("failed")).await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5", "10 12:00 failed 3/0 no_meter"]);
    let messages = shop.world.get("/v1/messages?type=charge.failed").await;
    assert_eq!(messages.at("data.0.data.reason"), "no_meter", "{messages}");
    // The meter is active again: people try it again.
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "active" }));
    shop.world.post("/v1/stripe/charges/retry", json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5", "10 12:00 sent 3/3"]);
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "8");
}
