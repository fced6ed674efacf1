//! A studio's jobs post prompt tokens, output tokens, render seconds and storage. The month's tokens run out
//! in its midst, the next reservation is refused, the month turns (where the clocks have changed meanwhile)
//! and it is granted. The invoice is paid and exported.

use serde_json::json;

use super::{Platform, text};
use crate::support::Daemon;
use crate::support::events::{event, invoice};

#[tokio::test]
async fn tokens_run_out_and_come_again_with_the_month() {
    let studio = Platform::at("2027-03-10T15:00:00Z");
    // New York: winter time until the 14th.
    let org = studio.daemon.org(&studio.key, "studio", "America/New_York").await;
    for (key, event_name, field, unit, dimensions) in [
        ("llm_tokens", "llm.tokens", "tokens", "tokens", vec!["model", "kind"]),
        ("render_seconds", "render.done", "seconds", "seconds", vec!["profile"]),
        ("storage_bytes", "asset.stored", "bytes", "bytes", vec![]),
    ] {
        let meter = json!({ "key": key, "event_name": event_name, "aggregation": "sum", "value_field": field,
            "unit": unit, "dimensions": dimensions });
        studio.post("/v1/meters", meter, 201).await;
    }
    let card = json!({ "currency": "usd", "rates": [
        { "when": { "model": "large", "kind": "prompt" }, "unit_cost": "0.000003" },
        { "when": { "model": "large", "kind": "output" }, "unit_cost": "0.000015" },
        { "unit_cost": "0.000001" },
    ] });
    studio.post("/v1/meters/llm_tokens/rate_cards", card, 201).await;
    let card = json!({ "currency": "usd",
        "rates": [{ "when": { "profile": "4k" }, "unit_cost": "0.05" }, { "unit_cost": "0.02" }] });
    studio.post("/v1/meters/render_seconds/rate_cards", card, 201).await;
    // The limit comes with the plan that the studio pays for at Stripe.
    let quota = json!({ "meter": "llm_tokens", "period": "month", "limit": "100000", "enforcement": "hard" });
    let plan = json!({ "name": "Studio", "stripe_prices": ["price_studio"], "quotas": [quota] });
    studio.put("/v1/plans/studio", plan).await;
    let at = "2027-03-10T15:00:00Z".parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp();
    let mut customer = crate::support::events::customer("cus_studio", Some(&org));
    customer["name"] = json!("Studio");
    let subscription =
        crate::support::events::subscription("sub_studio", "cus_studio", "active", "price_studio");
    for (id, kind, object) in
        [("evt_1", "customer.created", customer), ("evt_2", "customer.subscription.created", subscription)]
    {
        studio.daemon.deliver_at(&event(id, kind, 1_760_000_000, object), at).await;
    }
    studio.daemon.projected().await;
    studio.plan_of("studio", Some("studio")).await;

    // A job sets 60,000 aside and uses 50,000 prompt and 5,000 output tokens; what it reports settles the
    // reservation.
    let job = studio.reserve("studio", "llm_tokens", 60_000, json!({}), 201).await;
    let tokens = |id: &str, kind: &str, count: i64| {
        json!({ "id": id, "source": "jobs", "org": "studio", "event_name": "llm.tokens", "member": "ana",
                "data": { "tokens": count, "model": "large", "kind": kind } })
    };
    let mut prompt = tokens("job-1/prompt", "prompt", 50_000);
    prompt.as_object_mut().expect("an object").remove("org");
    studio.post(&format!("/v1/quota/{}/settle", text(&job, "id")), json!({ "event": prompt }), 200).await;
    let reported = json!([
        tokens("job-1/output", "output", 5_000),
        tokens("job-2/prompt", "prompt", 30_000),
        tokens("job-2/output", "output", 10_000),
        { "id": "job-1/render", "source": "jobs", "org": "studio", "event_name": "render.done",
            "data": { "seconds": "90.5", "profile": "4k" } },
        { "id": "job-2/render", "source": "jobs", "org": "studio", "event_name": "render.done",
            "data": { "seconds": 30, "profile": "hd" } },
        { "id": "job-1/asset", "source": "jobs", "org": "studio", "event_name": "asset.stored",
            "data": { "bytes": 7_340_032 } },
    ]);
    assert_eq!(studio.daemon.usage(&studio.key, &reported).await, ["accepted"; 6]);
    // A retry of all of it changes nothing.
    assert_eq!(studio.daemon.usage(&studio.key, &reported).await, ["duplicate"; 6]);

    // 50,000 + 5,000 + 30,000 + 10,000 = 95,000 of 100,000.
    studio.clock.turn("2027-03-20T12:00:00Z");
    let refused = studio.reserve("studio", "llm_tokens", 5_001, json!({}), 409).await;
    assert_eq!(
        (
            text(&refused, "code"),
            text(&refused, "limit"),
            text(&refused, "used"),
            text(&refused, "remaining")
        ),
        ("quota_exceeded", "100000", "95000", "5000")
    );
    // Midnight in New York is at four in summer time.
    assert_eq!(text(&refused, "resets_at"), "2027-04-01T04:00:00Z");
    let small = studio.reserve("studio", "llm_tokens", 5_000, json!({}), 201).await;
    studio.post(&format!("/v1/quota/{}/release", text(&small, "id")), json!({}), 200).await;

    studio.clock.turn("2027-04-01T03:59:59Z");
    studio.reserve("studio", "llm_tokens", 5_001, json!({}), 409).await;
    studio.clock.turn("2027-04-01T04:00:00Z");
    studio.reserve("studio", "llm_tokens", 5_001, json!({}), 201).await;

    // 80,000 × 0.000003 + 15,000 × 0.000015 = 0.24 + 0.225; 90.5 × 0.05 + 30 × 0.02 = 4.525 + 0.6.
    let month = studio.get("/v1/usage/daily?org=studio&from=2027-03-01&to=2027-04-01&group_by=month").await;
    let of = |meter: &str| {
        month["data"].as_array().expect("rows").iter().find(|row| row["meter"] == meter).expect("a row")
    };
    for (meter, quantity, cost) in [
        ("llm_tokens", "95000", "0.465"),
        ("render_seconds", "120.5", "5.125"),
        ("storage_bytes", "7340032", "0"),
    ] {
        let decimal = |name: &str| text(of(meter), name).parse::<rust_decimal::Decimal>().expect("a decimal");
        assert_eq!(decimal("quantity"), quantity.parse().expect("a decimal"), "{meter}");
        assert_eq!(decimal("cost"), cost.parse().expect("a decimal"), "{meter}");
    }
    assert_eq!(studio.database.unbalanced(), [] as [String; 0]);

    // Stripe delivers to a daemon on the clock of the world.
    let billing = Daemon::start(&studio.database);
    billing
        .deliver(&event(
            "evt_3",
            "invoice.paid",
            1_760_000_100,
            invoice("in_studio", "cus_studio", "paid", 4_900),
        ))
        .await;
    billing.projected().await;
    let own = studio.database.key("billing:read", Some(&org));
    let csv = billing
        .request(reqwest::Method::GET, "/v1/invoices/export?format=csv", &own)
        .send()
        .await
        .expect("an answer");
    let csv = csv.text().await.expect("text");
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains("in_studio") && csv.contains("paid") && csv.contains("49.00"), "{csv}");
}
