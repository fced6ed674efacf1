//! Subscriptions that end at once, and meters that stop going to Stripe.

use serde_json::json;

use super::Shop;

const NOVEMBER: (&str, &str) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");

/// Acme used 5 tokens, which Stripe has.
async fn shop(way: &str, window: Option<&str>) -> (Shop, String) {
    let shop = Shop::with_meter(way, window).await;
    let subscription = shop.account().all("subscription")[0]["id"].as_str().expect("an id").to_owned();
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5000, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    let start = if window == Some("day") { "00:00" } else { "10:00" };
    assert_eq!(shop.charges(), [format!("10 {start} sent 5000/5000")]);
    (shop, subscription)
}

fn drift(shop: &Shop, subscription: &str) -> Option<String> {
    shop.world.value(&format!(
        "SELECT string_agg(concat_ws(' ', kind, object, ours, theirs), '|') FROM stripe_drift
         WHERE kind = 'usage' AND object_id = '{subscription}'"
    ))
}

async fn usage_of_a_subscription_without_last_invoice_is_told_and_moves(way: &str, window: Option<&str>) {
    let (shop, subscription) = shop(way, window).await;
    shop.turn("2026-11-10T10:45:00Z").await;
    shop.account().cancel(&subscription);
    // The invoice may still come.
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000"]);
    shop.turn("2026-11-10T11:50:00Z").await;
    shop.until("it is told", |shop| shop.charges() == ["10 10:00 failed 5000/5000 not_invoiced"]).await;
    assert_eq!(drift(&shop, &subscription).as_deref(), Some("usage subscription 5000 0"));
    let shown = shop.world.get("/v1/stripe/charges?state=failed").await.status(200);
    assert_eq!(shown.at("data.0.reason"), "not_invoiced");
    assert_eq!(shown.at("data.0.discarded"), "0");
    // It is told once.
    shop.turn("2026-11-10T12:00:00Z").await;
    shop.settled().await;
    assert_eq!(drift(&shop, &subscription).as_deref(), Some("usage subscription 5000 0"));
    // Somebody tries it again: there is nothing that would charge it.
    shop.world.post("/v1/stripe/charges/retry", json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 waiting 5000/5000 no_subscription"]);
    // The org subscribes again: the running hour has it, and the next invoice charges it once.
    shop.turn("2026-11-20T09:00:00Z").await;
    shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
    shop.turn("2026-11-20T09:30:00Z").await;
    shop.used("acme", 2000, "2026-11-20T09:20:00Z").await;
    shop.settled().await;
    let charges = shop.charges();
    assert!(charges[0].ends_with(" 5000/5000 -5000"), "{charges:?}");
    assert!(charges[1].ends_with("sent 2000/7000 +5000"), "{charges:?}");
    // The nights agree with it.
    shop.turn("2026-11-21T04:00:00Z").await;
    shop.until("both are confirmed", |shop| {
        shop.charges().iter().filter(|charge| charge.contains("confirmed")).count() == 2
    })
    .await;
    shop.turn("2026-12-20T11:00:00Z").await;
    let invoices = shop.invoices("acme");
    // 7,000 at a cent for a thousand, and the next month of the plan.
    assert_eq!(invoices.last().expect("an invoice"), "paid 2007: 7 2000");
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "12000", "Stripe has it twice");
}

#[tokio::test]
async fn a_total_that_no_last_invoice_has_is_told_and_moves() {
    usage_of_a_subscription_without_last_invoice_is_told_and_moves("totals", Some("hour")).await;
}

#[tokio::test]
async fn a_delta_that_no_last_invoice_has_is_told_and_moves() {
    usage_of_a_subscription_without_last_invoice_is_told_and_moves("deltas", None).await;
}

#[tokio::test]
async fn a_last_invoice_has_the_usage_of_its_subscription() {
    let (shop, subscription) = shop("deltas", None).await;
    shop.account().cancel_and_invoice(&subscription);
    shop.turn("2026-11-10T13:00:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000"]);
    assert_eq!(drift(&shop, &subscription), None);
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 5: 5");
}

#[tokio::test]
async fn another_subscription_of_the_customer_has_the_usage() {
    let (shop, subscription) = shop("deltas", None).await;
    // The second one begins before the first one ends, and runs on.
    shop.turn("2026-11-11T00:00:00Z").await;
    shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
    shop.turn("2026-11-11T10:30:00Z").await;
    shop.used("acme", 1000, "2026-11-11T10:10:00Z").await;
    shop.settled().await;
    shop.account().cancel(&subscription);
    shop.turn("2026-11-11T13:00:00Z").await;
    shop.until("it is told", |shop| shop.charges()[0].ends_with("failed 5000/5000 not_invoiced")).await;
    assert_eq!(shop.charges()[1], "11 10:00 sent 1000/1000", "the second one charges it");
}

#[tokio::test]
async fn buckets_of_a_discarded_way_wait_for_it() {
    let (shop, _) = shop("deltas", None).await;
    shop.world.send(crate::support::requests::org("late")).await.ok();
    shop.used("late", 3, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000", "10 10:00 waiting 3/0 no_customer"]);
    shop.world.delete("/v1/stripe/meters/tokens?discard=true").await.status(204);
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000", "10 10:00 waiting 3/0 way_removed"]);
    // The same way again goes on where it was.
    let since = "2026-11-01T00:00:00Z";
    shop.way("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_1", "since": since })).await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000", "10 10:00 waiting 3/0 no_customer"]);
}

/// Usage that came last, or comes late, goes the way that was removed; what comes after it goes the new one.
#[tokio::test]
async fn a_change_of_way_loses_nothing() {
    for (way, window) in [("totals", Some("hour")), ("totals", Some("day")), ("deltas", None)] {
        let (shop, _) = shop(way, window).await;
        let set = json!({ "way": "invoice_items" });
        shop.used("acme", 20, "2026-11-10T10:20:00Z").await;
        shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
        shop.way("tokens", set).await;
        let ways = shop.world.get("/v1/stripe/meters").await.status(200);
        assert_eq!(ways.at("0.since"), "2026-11-10T10:31:00Z", "{way}");
        shop.turn("2026-11-10T10:50:00Z").await;
        shop.used("acme", 3, "2026-11-10T10:30:59Z").await;
        shop.used("acme", 8000, "2026-11-10T10:31:00Z").await;
        shop.settled().await;
        assert!(shop.charges()[0].ends_with("sent 5023/5023"), "{way} {:?}", shop.charges());
        assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "5023", "{way}");
        let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
        let sums = (shown.at("metered.0.used"), shown.at("metered.0.sent"));
        assert_eq!(sums, (&json!("5023"), &json!("5023")), "{way}");
        assert_eq!(shown.at("metered.0.period_end"), "2026-11-10T10:31:00Z");
        assert_eq!((shown.at("lines.0.quantity"), shown.at("lines.0.amount")), (&json!("8000"), &json!(200)));
        // Stripe charges 5,023 at a cent a thousand, and the line 8,000 at 0.00025 dollars.
        shop.turn("2026-12-01T02:00:00Z").await;
        shop.until("the lines are on the invoice", |shop| {
            shop.invoices("acme").last().is_some_and(|invoice| invoice.contains(" 200"))
        })
        .await;
        let invoice = shop.invoices("acme").pop().expect("an invoice");
        assert!(invoice.contains(" 5 "), "{way}: {invoice}");
    }
}

/// The first way must not go on over the time of the second one.
#[tokio::test]
async fn a_change_of_way_and_back_charges_nothing_twice() {
    for (way, window) in [("totals", Some("hour")), ("deltas", None)] {
        let (shop, _) = shop(way, window).await;
        let first = json!({ "way": way, "stripe_meter": "mtr_1" });
        shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
        shop.way("tokens", json!({ "way": "invoice_items" })).await;
        shop.turn("2026-11-10T10:40:30Z").await;
        shop.used("acme", 30, "2026-11-10T10:39:00Z").await;
        shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
        if way == "totals" {
            let back = shop.world.put("/v1/stripe/meters/tokens", first.clone()).await;
            back.refused(409, "window_is_cut");
            // The hour is over.
            shop.way("tokens", json!({ "way": "invoice_items" })).await;
            shop.turn("2026-11-10T11:00:30Z").await;
            shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
        }
        shop.way("tokens", first).await;
        let at = if way == "totals" { "2026-11-10T11:05:00Z" } else { "2026-11-10T10:45:00Z" };
        shop.turn(at).await;
        shop.used("acme", 17, at).await;
        shop.settled().await;
        assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "5017", "{way}");
        let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
        assert_eq!(shown.at("lines.0.quantity"), "30", "{way}: {shown}");
    }
}

/// What Stripe has of a discarded way stays; the next way begins with the next minute.
#[tokio::test]
async fn a_discarded_way_takes_no_time_of_the_next_one() {
    let (shop, _) = shop("totals", Some("day")).await;
    shop.world.delete("/v1/stripe/meters/tokens?discard=true").await.status(204);
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    let set = shop.world.get("/v1/stripe/meters").await.status(200);
    assert_eq!(set.at("0.since"), "2026-11-10T10:31:00Z");
    shop.turn("2026-11-10T10:40:00Z").await;
    shop.used("acme", 8000, "2026-11-10T10:35:00Z").await;
    shop.used("acme", 3, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 00:00 sent 5000/5000"], "usage of a discarded way is not sent");
    let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
    assert_eq!((shown.at("metered.0.sent"), shown.at("lines.0.quantity")), (&json!("5000"), &json!("8000")));
}

#[tokio::test]
async fn a_price_that_is_gone_gets_no_more_usage() {
    let (shop, subscription) = shop("totals", Some("hour")).await;
    let item = json!({ "items": [{ "price": "price_pro" }] });
    shop.account().update("subscription", &subscription, item);
    shop.told().await;
    shop.turn("2026-11-10T10:40:00Z").await;
    shop.used("acme", 5, "2026-11-10T10:35:00Z").await;
    shop.until("it waits", |shop| shop.charges() == ["10 10:00 waiting 5005/5000 no_price"]).await;
    let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
    assert_eq!(shown.at("metered.0.problem"), "no_price");
}

/// An org cannot be charged by what nobody sends: late usage of a removed way waits where people see it.
#[tokio::test]
async fn usage_that_is_too_late_for_a_removed_way_waits() {
    let (shop, _) = shop("totals", Some("hour")).await;
    shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
    shop.turn("2026-12-01T02:00:00Z").await;
    shop.used("acme", 7, "2026-11-10T10:15:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 waiting 5007/5000 way_removed"]);
}

#[tokio::test]
async fn usage_outside_any_subscription_is_listed_where_lines_charge_it() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 4000, "2026-11-10T10:10:00Z").await;
    shop.turn("2026-11-10T11:00:00Z").await;
    shop.subscribe("acme", &["price_pro"]).await;
    shop.turn("2026-11-10T12:00:00Z").await;
    shop.used("acme", 1000, "2026-11-10T11:30:00Z").await;
    // An org without a customer at Stripe is not charged there.
    shop.world.send(crate::support::requests::org("free")).await.ok();
    shop.used("free", 9000, "2026-11-10T11:30:00Z").await;
    shop.settled().await;
    let listed = shop.world.get("/v1/usage/uncharged").await.status(200);
    assert_eq!(listed.list("data").len(), 1, "{listed}");
    // 4,000 × 0.00025 dollars.
    assert_eq!((listed.at("data.0.cost"), listed.at("data.0.events")), (&json!("1"), &json!(1)));
    // The org's own key reads the same.
    let own = shop.world.by(&shop.world.key_of("acme")).get("/v1/usage/uncharged").await.status(200);
    assert_eq!(own["data"], listed["data"]);
}
