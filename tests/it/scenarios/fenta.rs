//! A studio's jobs report prompt tokens, output tokens, render seconds and storage. Rendering burns credits;
//! storage is limited. The month's tokens run out in the middle of the month, the application is told, and
//! the next reservation is refused. When the next month begins (after a change of the clocks) it is accepted.
//! What each job cost is read. The invoice is paid and exported, and the audit log says who did what.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::product;
use crate::support::objects::{customer, invoice, subscription};
use crate::support::receiver::Receiver;
use crate::support::requests::{
    Request, Usage, grant, limit, meter, org, plan, rate_card, release, reserve, settle, usage,
};
use crate::support::{Daemon, World};

/// A studio in New York, where winter time ends on the 14th. Its limit of 100,000 tokens a month comes from
/// the plan that it pays for at Stripe.
async fn studio() -> World {
    let meter =
        |key: &str, event_name: &str, field: &str| meter(key).event_name(event_name).value_field(field);
    let tokens = json!([
        { "when": { "model": "large", "kind": "prompt" }, "unit_cost": "0.000003" },
        { "when": { "model": "large", "kind": "output" }, "unit_cost": "0.000015" },
        { "unit_cost": "0.000001" },
    ]);
    let seconds = json!([
        { "when": { "profile": "4k" }, "unit_cost": "0.05", "battery_units": "2" },
        { "unit_cost": "0.02", "battery_units": "1" },
    ]);
    let most = limit("100000").meter("llm_tokens").period("month").with("thresholds", json!([80]));
    let stored = limit("10000000").meter("storage_bytes").period("always").with("refuse_usage", true);
    let world = product("2027-03-10T15:00:00Z")
        .setting("COULOMB_MESSAGE_ALLOW_HTTP", "true")
        .setting("COULOMB_MESSAGE_ALLOW", "127.0.0.0/8")
        .with(org("studio").zone("America/New_York"))
        .with(
            meter("llm_tokens", "llm.tokens", "tokens")
                .dimensions(["model", "kind"])
                .with("labels", json!(["job"])),
        )
        .with(
            meter("render_seconds", "render.done", "seconds")
                .dimensions(["profile"])
                .with("labels", json!(["job"])),
        )
        .with(
            meter("storage_bytes", "asset.stored", "bytes")
                .aggregation("level")
                .with("change_field", "change"),
        )
        .with(rate_card("llm_tokens", tokens))
        .with(rate_card("render_seconds", seconds))
        .with(plan("studio").prices(["price_studio"]).limits([most, stored]))
        .start()
        .await;
    let bought = subscription("sub_studio").customer("cus_studio").price("price_studio");
    world.tell([customer("cus_studio").org("studio").created_event(), bought.created_event()]).await;
    world.has_plan("studio", Some("studio")).await;
    world.send(grant("studio", 1_000)).await.status(201);
    world
}

fn job(id: &str, event_name: &str) -> Usage {
    usage("studio", event_name).source("jobs").id(id)
}

fn tokens(id: &str, kind: &str, count: i64) -> Usage {
    let (job_id, _) = id.split_once('/').expect("a job");
    let data = json!({ "tokens": count, "model": "large", "kind": kind, "job": job_id });
    job(id, "llm.tokens").with("member", "ana").data(data)
}

fn reserve_tokens(amount: i64) -> Request {
    reserve(amount).org("studio").meter("llm_tokens")
}

#[tokio::test]
async fn tokens_run_out_and_come_again_with_the_month() {
    let world = studio().await;
    let application = Receiver::start();
    let endpoint = json!({ "url": application.url, "org": "studio", "kinds": ["quota.", "battery.low"] });
    world.post("/v1/message_endpoints", endpoint).await.status(201);
    jobs_report(&world).await;
    the_application_is_told(&application).await;
    tokens_run_out_until_the_month_turns(&world).await;
    the_month_adds_up(&world).await;
    each_job_has_its_cost(&world).await;
    the_invoice_is_exported(&world).await;
    the_audit_log_says_who_did_it(&world).await;
}

/// A job reserves 60,000 and uses 50,000 prompt and 5,000 output tokens; its report settles the reservation.
async fn jobs_report(world: &World) {
    let reservation = world.reserved(reserve_tokens(60_000)).await;
    let prompt = tokens("job-1/prompt", "prompt", 50_000).without("org");
    world.send(settle(&reservation).with("event", prompt)).await.status(200);
    let reported = [
        tokens("job-1/output", "output", 5_000),
        tokens("job-2/prompt", "prompt", 30_000),
        tokens("job-2/output", "output", 10_000),
        job("job-1/render", "render.done")
            .data(json!({ "seconds": "90.5", "profile": "4k", "job": "job-1" })),
        job("job-2/render", "render.done").data(json!({ "seconds": 30, "profile": "hd", "job": "job-2" })),
        job("job-1/asset", "asset.stored").data(json!({ "change": 7_340_032 })),
    ];
    assert_eq!(world.usage(reported.clone()).await, ["accepted"; 6]);
    // A retry of all of it changes nothing.
    assert_eq!(world.usage(reported).await, ["duplicate"; 6]);
    // 90.5 x 2 + 30 = 211 of 1,000 credits.
    assert_eq!(world.get("/v1/battery?org=studio").await.text("balance"), "789");
    // 2,659,968 bytes are left.
    let asset = |id: &str, change: i64| job(id, "asset.stored").data(json!({ "change": change }));
    assert!(world.uses(asset("job-2/asset", 2_659_969)).await.contains("quota_exceeded"));
    world.used(asset("job-2/asset-small", 2_659_968)).await;
    world.used(asset("job-1/asset-gone", -7_340_032)).await;
}

/// 80,000 of the 100,000 tokens were passed by the second job.
async fn the_application_is_told(application: &Receiver) {
    let told = application.gets(1).await.remove(0).json();
    assert_eq!(told["type"], "quota.threshold_reached");
    let facts = ["meter", "threshold", "limit"].map(|name| told["data"][name].clone());
    assert_eq!(json!(facts), json!(["llm_tokens", "80", "100000"]));
}

async fn tokens_run_out_until_the_month_turns(world: &World) {
    // 50,000 + 5,000 + 30,000 + 10,000 = 95,000 of 100,000.
    world.turn("2027-03-20T12:00:00Z");
    let refused = world.send(reserve_tokens(5_001)).await.refused(409, "quota_exceeded");
    // In summer time, midnight in New York is at four o'clock UTC.
    let told = ["limit", "used", "remaining", "resets_at"].map(|field| refused.text(field));
    assert_eq!(told, ["100000", "95000", "5000", "2027-04-01T04:00:00Z"]);
    let small = world.reserved(reserve_tokens(5_000)).await;
    world.send(release(&small)).await.status(200);
    world.turn("2027-04-01T03:59:59Z");
    world.send(reserve_tokens(5_001)).await.status(409);
    world.turn("2027-04-01T04:00:00Z");
    world.send(reserve_tokens(5_001)).await.status(201);
}

/// 80,000 × 0.000003 + 15,000 × 0.000015 = 0.24 + 0.225; 90.5 × 0.05 + 30 × 0.02 = 4.525 + 0.6.
async fn the_month_adds_up(world: &World) {
    let path = "/v1/usage/daily?org=studio&from=2027-03-01&to=2027-04-01&group_by=month";
    let month = world.get(path).await.status(200);
    let decimal = |text: &str| text.parse::<Decimal>().expect("a decimal");
    for (meter, quantity, cost) in [("llm_tokens", "95000", "0.465"), ("render_seconds", "120.5", "5.125")] {
        let row = month.rows().iter().find(|row| row["meter"] == meter).expect("a row");
        let told = ["quantity", "cost"].map(|name| decimal(row[name].as_str().expect("text")));
        assert_eq!(told, [decimal(quantity), decimal(cost)], "{meter}");
    }
    let march = "/v1/usage/levels?org=studio&from=2027-03-01T05:00:00Z&to=2027-04-01T04:00:00Z";
    let levels = world.get(march).await.ok();
    assert_eq!(levels.text("data.0.level"), "2659968");
    world.balances();
}

/// job-1: 50,000 × 0.000003 + 5,000 × 0.000015 = 0.225 and 4.525; job-2: 0.09 + 0.15 = 0.24 and 0.6.
async fn each_job_has_its_cost(world: &World) {
    let path = "/v1/usage/breakdown?from=2027-03-01T00:00:00Z&to=2027-04-01T00:00:00Z&group_by=org,job";
    let jobs = world.get(path).await.ok();
    let text = |row: &Value| {
        let [meter, quantity, cost] =
            ["meter", "quantity", "cost"].map(|name| row[name].as_str().expect("text"));
        let job = row["dimensions"]["job"].as_str().expect("a job");
        format!("{} {meter} {job} {quantity} {cost}", row["org_external_id"].as_str().expect("an id"))
    };
    assert_eq!(
        jobs.rows().iter().map(text).collect::<Vec<_>>(),
        [
            "studio llm_tokens job-1 55000 0.225",
            "studio llm_tokens job-2 40000 0.24",
            "studio render_seconds job-1 90.5 4.525",
            "studio render_seconds job-2 30 0.6",
        ]
    );
}

/// Stripe delivers to a daemon on the real clock.
async fn the_invoice_is_exported(world: &World) {
    let billing = Daemon::start(world);
    let paid = invoice("in_studio").customer("cus_studio").status("paid").total(4_900);
    billing.deliver(&paid.happened("invoice.paid").json()).await;
    billing.projected().await;
    let own = world.database.key("billing:read", Some("studio"));
    let export = billing.request(reqwest::Method::GET, "/v1/invoices/export?format=csv", &own).send().await;
    let csv = export.expect("an answer").text().await.expect("text");
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains("in_studio") && csv.contains("paid") && csv.contains("49.00"), "{csv}");
}

async fn the_audit_log_says_who_did_it(world: &World) {
    for (action, count) in [("battery.grant", 1), ("message_endpoint.create", 1)] {
        let rows = world.get(&format!("/v1/audit?org=studio&action={action}")).await.ok();
        assert_eq!(rows.rows().len(), count, "{action}: {}", rows.body);
        assert!(rows.text("data.0.actor").starts_with("key:"), "{}", rows.body);
    }
}
