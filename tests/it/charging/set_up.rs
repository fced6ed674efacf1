//! A meter has one way, which fits the meter and Stripe's meter; a dry run writes nothing.

use serde_json::{Value, json};

use super::Shop;
use crate::support::requests::{Request, meter, request};

fn set(meter: &str, body: Value) -> Request {
    request(reqwest::Method::PUT, format!("/v1/stripe/meters/{meter}"), body)
}

#[tokio::test]
async fn a_way_must_fit_and_is_the_only_one() {
    let shop =
        Shop::open_with(|setup| setup.meter("other").with(meter("peak").with("aggregation", "max"))).await;
    shop.stripe_meter("mtr_hour", Some("hour"));
    shop.stripe_meter("mtr_raw", None);
    let world = &shop.world;
    for (meter, body, field) in [
        ("tokens", json!({ "way": "totals" }), "stripe_meter"),
        ("tokens", json!({ "way": "totals", "stripe_meter": "mtr_raw" }), "stripe_meter"),
        ("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_hour" }), "stripe_meter"),
        ("tokens", json!({ "way": "totals", "stripe_meter": "mtr_none" }), "stripe_meter"),
        ("tokens", json!({ "way": "totals", "stripe_meter": "../x" }), "stripe_meter"),
        ("tokens", json!({ "way": "invoice_items", "stripe_meter": "mtr_raw" }), "stripe_meter"),
        ("tokens", json!({ "way": "invoice_items", "since": "2027-01-01T00:00:00Z" }), "since"),
        ("peak", json!({ "way": "totals", "stripe_meter": "mtr_hour" }), "way"),
        ("peak", json!({ "way": "invoice_items" }), "way"),
    ] {
        world.send(set(meter, body.clone())).await.names(400, field);
    }
    world.send(set("nothing", json!({ "way": "invoice_items" }))).await.status(404);
    let totals = json!({ "way": "totals", "stripe_meter": "mtr_hour" });
    world.turn("2026-11-10T10:30:25.125Z");
    let answer = world.send(set("tokens", totals.clone())).await.status(200);
    assert_eq!(answer.at("stripe_meter.event_time_window"), "hour");
    // Stripe sums whole minutes.
    assert_eq!(answer.at("since"), "2026-11-10T10:30:00Z");
    // The same again changes nothing; another way, or another meter on Stripe's, is refused.
    assert_eq!(world.send(set("tokens", totals.clone())).await.status(200).body, answer.body);
    world.send(set("tokens", json!({ "way": "invoice_items" }))).await.refused(409, "meter_has_a_way");
    world.send(set("other", totals)).await.refused(409, "stripe_meter_taken");
    assert_eq!(world.get("/v1/stripe/meters").await.status(200).at("0.meter"), "tokens");
    assert_eq!(world.number("SELECT count(*) FROM stripe_meters"), 1);
    let actions =
        world.value("SELECT string_agg(DISTINCT action, ' ') FROM audit_log WHERE action LIKE 'stripe%'");
    assert_eq!(actions.as_deref(), Some("stripe_meter.set"));
    // The database itself refuses two ways.
    let index = world.value("SELECT pg_get_indexdef('stripe_meters_running'::regclass)").expect("an index");
    assert!(index.starts_with("CREATE UNIQUE INDEX"), "{index}");
    assert!(index.ends_with("(meter_id) WHERE (until IS NULL)"), "{index}");
    world.delete("/v1/stripe/meters/tokens").await.status(204);
    world.send(set("tokens", json!({ "way": "invoice_items" }))).await.status(200);
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_sent_and_writes_nothing() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", Some("hour"));
    shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 8_000, "2026-11-10T10:10:00Z").await;
    let run = |body: Value| request(reqwest::Method::POST, "/v1/stripe/meters/tokens/dry_run", body);
    let since = "2026-11-01T00:00:00Z";
    let totals = json!({ "way": "totals", "stripe_meter": "mtr_1", "since": since });
    let shown = shop.world.send(run(totals)).await.status(200);
    assert_eq!(shown.at("orgs"), 1);
    assert_eq!(
        (shown.at("charges.0.quantity"), shown.at("charges.0.value")),
        (&json!("8000"), &json!("8000"))
    );
    assert_eq!(shown.at("charges.0.customer"), "cus_acme");
    let items = json!({ "way": "invoice_items", "since": since });
    let shown = shop.world.send(run(items)).await.status(200);
    // 8,000 × 0.00025 dollars.
    assert_eq!((shown.at("charges.0.amount"), shown.at("charges.0.currency")), (&json!(200), &json!("usd")));
    for table in ["stripe_meters", "stripe_charges"] {
        assert_eq!(shop.world.number(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
    assert_eq!(shop.account().meter_events().len(), 0);
}

#[tokio::test]
async fn an_org_sees_its_own_charges() {
    let shop = Shop::open().await;
    shop.stripe_meter("mtr_1", Some("hour"));
    for name in ["acme", "other"] {
        shop.customer(name).await;
        shop.subscribe(name, &["price_pro", "price_mtr_1"]).await;
    }
    shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 8, "2026-11-10T10:10:00Z").await;
    shop.used("other", 9, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    let key = shop.world.key_of("acme");
    let seen = shop.world.by(&key).get("/v1/stripe/charges").await.status(200);
    assert_eq!((seen.list("data").len(), seen.at("data.0.quantity")), (1, &json!("8")));
    shop.world.by(&key).get("/v1/stripe/meters").await.status(403);
    shop.world.by(&key).get("/v1/stripe/preview").await.status(200);
    let rows = shop.world.by(&key).get("/v1/stripe/charges/export/totals").await.status(200);
    assert_eq!(rows.at("meters.tokens.delivered"), "8");
}
