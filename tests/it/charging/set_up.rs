//! A meter has one way, which fits the meter and Stripe's meter; a dry run writes nothing.

use serde_json::{Value, json};

use super::Shop;
use crate::support::fake_stripe::Fault;
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

#[tokio::test]
async fn a_preview_shows_nothing_where_no_subscription_runs() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", Some("hour"));
    let subscription = shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 8_000, "2026-11-10T10:10:00Z").await;
    let preview = "/v1/stripe/preview?org=acme";
    let shown = shop.world.get(preview).await.status(200);
    assert_eq!((shown.at("problem"), shown.list("lines").len()), (&json!(null), 1));
    // Nobody has paid its first invoice: Stripe charges nothing, and usage waits.
    shop.account().update("subscription", &subscription, json!({ "status": "incomplete" }));
    shop.told().await;
    let shown = shop.world.get(preview).await.status(200);
    assert_eq!(shown.at("problem"), "no_subscription");
    assert_eq!(shown.pick(["lines", "metered", "licensed"]), json!([[], [], []]));
    assert_eq!(shown.pick(["period_start", "period_end"]), json!([null, null]));
}

#[tokio::test]
async fn what_a_typo_names_is_refused() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    let world = &shop.world;
    world.get("/v1/stripe/charges?meter=nosuch").await.status(404);
    world.get("/v1/stripe/charges?meter=tokens").await.status(200);
    world.get("/v1/stripe/preview?org=acme&account=acct_x").await.names(400, "account");
    world.get("/v1/stripe/preview?org=acme&account=").await.status(200);
    let key = world.database.key("admin,billing:read", None);
    let admin = world.by(&key);
    admin.post("/v1/stripe/sync", json!({ "account": "acct_x" })).await.names(400, "account");
    let listed = admin.get("/v1/stripe/drift?kind=bogus").await.names(400, "kind").text("detail");
    let exported = admin.get("/v1/stripe/drift/export?kind=bogus").await.names(400, "kind").text("detail");
    assert_eq!(exported, listed);
    let since = json!({ "way": "totals", "stripe_meter": "m", "since": "x" });
    let refused = world.send(set("tokens", since)).await.names(400, "since").text("detail");
    assert!(refused.starts_with("must be an RFC 3339 time"), "{refused}");
}

#[tokio::test]
async fn a_way_waits_a_short_while_for_stripe() {
    let shop = Shop::open().await;
    shop.stripe_meter("mtr_1", Some("hour"));
    shop.fake.fail_next("/v1/billing/meters", Fault::Hang);
    let began = std::time::Instant::now();
    let totals = json!({ "way": "totals", "stripe_meter": "mtr_1" });
    let refused = shop.world.send(set("tokens", totals)).await.refused(409, "stripe_unanswered");
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    assert_eq!(refused.at("detail"), "Stripe did not answer: no answer within 20 s: try again");
}

#[tokio::test]
async fn doctor_tells_lines_that_have_no_price() {
    let shop = Shop::open().await;
    shop.world.send(crate::support::requests::meter("calls")).await.ok();
    let doctor = || {
        let output = shop.world.database.command(&["doctor"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line[4..].starts_with(" charges: ")).expect("a line").to_owned()
    };
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    assert_eq!(doctor(), "ok   charges: no charge through Stripe waits or failed");
    shop.way("calls", json!({ "way": "invoice_items" })).await;
    let line = doctor();
    assert!(
        line.starts_with("note charges: calls goes to Stripe as invoice items and has no rate"),
        "{line}"
    );
}
