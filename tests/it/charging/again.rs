//! Charges that are tried again, ways that are set again, customers that are linked again: nothing is charged
//! twice or never.

use serde_json::json;

use super::Shop;
use crate::support::fake_stripe::Fault;
use crate::support::requests::{meter, org, usage};

const NOVEMBER: (&str, &str) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");

async fn shop(way: &str, window: Option<&str>) -> Shop {
    let shop = Shop::with_meter(way, window).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop
}

#[tokio::test]
async fn of_several_deltas_the_one_that_stripe_could_not_use_is_sent_again() {
    let shop = shop("deltas", None).await;
    shop.used("acme", 100, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "inactive" }));
    shop.used("acme", 3, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    shop.until("the report is read", |shop| shop.charges()[0].contains("failed")).await;
    assert_eq!(shop.charges(), ["10 10:00 failed 103/100 no_meter"]);
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "active" }));
    shop.world.post("/v1/stripe/charges/retry", json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 103/103"]);
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "103");
}

#[tokio::test]
async fn the_hour_of_a_way_that_is_set_again_goes_on() {
    for (way, window) in [("totals", Some("hour")), ("deltas", None)] {
        let shop = shop(way, window).await;
        shop.used("acme", 111, "2026-11-10T10:10:00Z").await;
        shop.settled().await;
        assert_eq!(shop.charges(), ["10 10:00 sent 111/111"]);
        let first = shop.world.get("/v1/stripe/meters").await.status(200);
        shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
        shop.turn("2026-11-10T10:40:00Z").await;
        shop.way("tokens", json!({ "way": way, "stripe_meter": "mtr_1" })).await;
        let since = shop.world.get("/v1/stripe/meters").await.status(200);
        assert_eq!(since.at("0.since"), first.at("0.since"), "{since}");
        shop.used("acme", 5, "2026-11-10T10:39:00Z").await;
        shop.settled().await;
        assert_eq!(shop.charges(), ["10 10:00 sent 116/116"], "{way}");
        assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "116", "{way}");
        // Another beginning is another way.
        let other = json!({ "way": way, "stripe_meter": "mtr_1", "since": "2026-11-02T00:00:00Z" });
        shop.world.put("/v1/stripe/meters/tokens", other).await.refused(409, "meter_has_a_way");
    }
}

#[tokio::test]
async fn another_way_begins_where_the_first_one_ended() {
    let shop = shop("totals", Some("hour")).await;
    shop.used("acme", 111, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
    shop.stripe_meter("mtr_2", None);
    shop.way("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_2" })).await;
    let set = shop.world.get("/v1/stripe/meters").await.status(200);
    assert_eq!(set.at("0.since"), "2026-11-10T10:31:00Z", "{set}");
    // The name of its events decides: Stripe lets another meter have that of an inactive one.
    let account = shop.account();
    account.create("billing.meter", json!({ "id": "mtr_3", "event_name": "mtr_2", "display_name": "b" }));
    shop.world.send(meter("calls")).await.ok();
    for taken in ["mtr_2", "mtr_3"] {
        let same = json!({ "way": "deltas", "stripe_meter": taken });
        shop.world.put("/v1/stripe/meters/calls", same).await.refused(409, "stripe_meter_taken");
    }
    shop.world.delete("/v1/stripe/meters/tokens").await.status(204);
    let early = json!({ "way": "invoice_items", "since": "2026-11-10T10:30:00Z" });
    shop.world.put("/v1/stripe/meters/tokens", early).await.refused(409, "charged_another_way");
}

/// Stripe takes 1,000, and cannot use the total of 1,022. The invoice charges 1,000, so the next one charges
/// 22, not 1,022.
#[tokio::test]
async fn a_total_that_stripe_could_not_use_leaves_the_one_before() {
    let shop = shop("totals", Some("hour")).await;
    shop.used("acme", 1000, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "inactive" }));
    shop.used("acme", 22, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    shop.until("the report is read", |shop| shop.charges()[0].contains("failed")).await;
    assert_eq!(shop.charges(), ["10 10:00 failed 1022/1000 no_meter"]);
    let shown = shop.world.get("/v1/stripe/preview?org=acme").await.status(200);
    assert_eq!((shown.at("metered.0.sent"), shown.at("metered.0.not_sent")), (&json!("1000"), &json!("22")));
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "active" }));
    shop.turn("2026-12-01T02:00:00Z").await;
    shop.until("the invoice is final", |shop| {
        shop.invoices("acme").last().is_some_and(|invoice| invoice.starts_with("paid"))
    })
    .await;
    shop.world.post("/v1/stripe/charges/retry", json!({})).await.status(202);
    shop.settled().await;
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "1000");
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.1, "2027-01-01T00:00:00Z"), "22");
}

/// A later total overwrites one that Stripe could not use.
#[tokio::test]
async fn a_total_that_is_overwritten_does_not_fail() {
    let shop = shop("totals", Some("hour")).await;
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "inactive" }));
    shop.used("acme", 10, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.account().change_silently("billing.meter", "mtr_1", json!({ "status": "active" }));
    shop.used("acme", 2, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    let read = "SELECT count(*) FROM stripe_meter_reports WHERE done_at IS NOT NULL AND failed = 1";
    shop.until("the report is read", |shop| shop.world.number(read) == 1).await;
    assert_eq!(shop.charges(), ["10 10:00 sent 12/12"]);
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "12");
}

const COMPARED: &str = "SELECT count(*) FROM stripe_charging WHERE compared_on = '2026-11-11'";
/// The deltas of two orgs, when their sum agreed.
const BOTH_CONFIRMED: [&str; 2] = ["10 10:00 confirmed 11/11", "10 10:00 confirmed 3/3"];

/// Acme used 11; then another org got its customer, and used 3 in the same hour.
async fn shop_of_two_orgs(way: &str, window: Option<&str>) -> Shop {
    let shop = shop(way, window).await;
    shop.used("acme", 11, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.world.send(org("other")).await.ok();
    shop.world.put("/v1/orgs/other/stripe_customers/cus_acme", json!({})).await.ok();
    shop.used("other", 3, "2026-11-10T10:25:00Z").await;
    shop
}

#[tokio::test]
async fn a_customer_that_another_org_gets_keeps_the_hours_total() {
    let shop = shop_of_two_orgs("totals", Some("hour")).await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 11/11", "10 10:00 waiting 3/0 next_bucket"]);
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "11");
    shop.turn("2026-11-10T11:05:00Z").await;
    shop.settled().await;
    assert_eq!(
        shop.charges(),
        ["10 10:00 sent 11/11", "10 10:00 confirmed 3/0 -3 nothing_to_send", "10 11:00 sent 0/3 +3"]
    );
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "14");
}

#[tokio::test]
async fn deltas_of_two_orgs_of_a_customer_agree_with_its_sum() {
    let shop = shop_of_two_orgs("deltas", None).await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 11/11", "10 10:00 sent 3/3"]);
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "14");
    shop.turn("2026-11-11T04:00:00Z").await;
    shop.until("both are confirmed", |shop| shop.charges() == BOTH_CONFIRMED).await;
    assert_eq!(shop.world.number("SELECT count(*) FROM stripe_drift WHERE kind = 'usage'"), 0);
}

#[tokio::test]
async fn an_unknown_delta_beside_another_orgs_is_found_out_by_their_sum() {
    let shop = shop_of_two_orgs("deltas", None).await;
    // Stripe takes it, and the daemon does not hear of it for two days.
    for _ in 0..20 {
        shop.fake.fail_next("meter_events", Fault::After(500));
    }
    shop.turn("2026-11-10T10:31:00Z").await;
    let postponed = "SELECT count(*) FROM stripe_charges WHERE detail IS NOT NULL";
    shop.until("it is postponed", |shop| shop.world.number(postponed) == 1).await;
    // Stripe's sum has it, and our books do not: that is no difference yet.
    shop.turn("2026-11-11T04:00:00Z").await;
    shop.until("the night's comparison is done", |shop| shop.world.number(COMPARED) == 1).await;
    assert_eq!(shop.charges(), ["10 10:00 sent 11/11", "10 10:00 planned 3/0"]);
    assert_eq!(shop.world.number("SELECT count(*) FROM stripe_drift WHERE kind = 'usage'"), 0);
    shop.turn("2026-11-12T10:30:00Z").await;
    shop.until("it is known", |shop| shop.charges()[1].starts_with("10 10:00 sent 3/3")).await;
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "14");
    shop.turn("2026-11-13T04:00:00Z").await;
    shop.until("both are confirmed", |shop| shop.charges() == BOTH_CONFIRMED).await;
}

#[tokio::test]
async fn unknown_deltas_of_two_orgs_of_a_customer_are_found_out() {
    let shop = shop_of_two_orgs("deltas", None).await;
    shop.settled().await;
    // Stripe takes one more of each, and does not answer.
    for _ in 0..20 {
        shop.fake.fail_next("meter_events", Fault::After(500));
    }
    shop.used("acme", 7, "2026-11-10T10:26:00Z").await;
    shop.used("other", 5, "2026-11-10T10:27:00Z").await;
    shop.turn("2026-11-10T10:32:00Z").await;
    let postponed = "SELECT count(*) FROM stripe_charges WHERE detail IS NOT NULL";
    shop.until("both are postponed", |shop| shop.world.number(postponed) == 2).await;
    shop.turn("2026-11-12T10:30:00Z").await;
    let known = ["10 10:00 sent 18/18", "10 10:00 sent 8/8"];
    shop.until("both are known", |shop| shop.charges() == known).await;
    assert_eq!(shop.total("mtr_1", "acme", NOVEMBER.0, NOVEMBER.1), "26");
}

#[tokio::test]
async fn usage_that_is_committed_after_a_later_scan_is_sent() {
    let shop = shop("totals", Some("hour")).await;
    shop.settled().await;
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    // It was received before the last scan, which did not see it.
    shop.world.execute("UPDATE usage_records SET received_at = received_at - interval '5 minutes'");
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5"]);
}

#[tokio::test]
async fn usage_waits_for_a_price_that_charges_it() {
    let shop = Shop::without_price().await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 waiting 5/0 no_price"]);
    shop.subscribe("acme", &["price_mtr_1"]).await;
    shop.turn("2026-11-10T10:45:00Z").await;
    shop.used("acme", 2, "2026-11-10T10:40:00Z").await;
    shop.settled().await;
    let charges = shop.charges();
    assert!(charges[1].ends_with("sent 2/2"), "{charges:?}");
}

/// Stripe would take it, and put it on no invoice.
#[tokio::test]
async fn usage_waits_where_only_another_meter_has_a_price() {
    let shop = Shop::with_meter("totals", Some("hour")).await;
    shop.stripe_meter("mtr_2", None);
    shop.world.send(meter("calls")).await.ok();
    shop.way("calls", json!({ "way": "deltas", "stripe_meter": "mtr_2" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.world.used(usage("acme", "calls").quantity(7).at("2026-11-10T10:10:00Z")).await;
    shop.used("acme", 5, "2026-11-10T10:20:00Z").await;
    shop.settled().await;
    let mut charges = shop.charges();
    charges.sort();
    assert_eq!(charges, ["10 10:00 sent 5/5", "10 10:00 waiting 7/0 no_price"]);
    shop.subscribe("acme", &["price_mtr_2"]).await;
    shop.turn("2026-11-10T10:45:00Z").await;
    shop.world.used(usage("acme", "calls").quantity(2).at("2026-11-10T10:40:00Z")).await;
    shop.settled().await;
    assert_eq!(shop.total("mtr_2", "acme", NOVEMBER.0, NOVEMBER.1), "2");
}

/// Items of one subscription may have periods of their own: the yearly one is not over when the first month
/// of usage is invoiced.
#[tokio::test]
async fn usage_by_the_month_goes_on_beside_a_plan_by_the_year() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", Some("hour"));
    shop.account().create(
        "price",
        json!({ "id": "price_year", "product": "prod_1", "unit_amount": 20_000,
            "recurring": { "interval": "year" } }),
    );
    shop.subscribe("acme", &["price_year", "price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-12-01T02:00:00Z").await;
    shop.turn("2026-12-10T10:30:00Z").await;
    shop.used("acme", 5000, "2026-12-10T10:10:00Z").await;
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 5000/5000"]);
    shop.turn("2027-01-01T02:00:00Z").await;
    assert_eq!(shop.invoices("acme").last().expect("an invoice"), "paid 5: 5");
}
