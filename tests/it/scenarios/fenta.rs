//! A studio's jobs report prompt tokens, output tokens, render seconds and storage. The month's tokens run
//! out in the middle of the month, and the next reservation is refused. When the next month begins (after a
//! change of the clocks) it is accepted. The invoice is paid and exported.

use rust_decimal::Decimal;
use serde_json::json;

use super::product;
use crate::support::objects::{customer, invoice, subscription};
use crate::support::requests::{
    Request, Usage, limit, meter, org, plan, rate_card, release, reserve, settle, usage,
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
    let seconds = json!([{ "when": { "profile": "4k" }, "unit_cost": "0.05" }, { "unit_cost": "0.02" }]);
    let most = limit("100000").meter("llm_tokens").period("month");
    let world = product("2027-03-10T15:00:00Z")
        .with(org("studio").zone("America/New_York"))
        .with(meter("llm_tokens", "llm.tokens", "tokens").dimensions(["model", "kind"]))
        .with(meter("render_seconds", "render.done", "seconds").dimensions(["profile"]))
        .with(meter("storage_bytes", "asset.stored", "bytes"))
        .with(rate_card("llm_tokens", tokens))
        .with(rate_card("render_seconds", seconds))
        .with(plan("studio").prices(["price_studio"]).limits([most]))
        .start()
        .await;
    let bought = subscription("sub_studio").customer("cus_studio").price("price_studio");
    world.tell([customer("cus_studio").org("studio").created_event(), bought.created_event()]).await;
    world.has_plan("studio", Some("studio")).await;
    world
}

fn job(id: &str, event_name: &str) -> Usage {
    usage("studio", event_name).source("jobs").id(id)
}

fn tokens(id: &str, kind: &str, count: i64) -> Usage {
    let data = json!({ "tokens": count, "model": "large", "kind": kind });
    job(id, "llm.tokens").with("member", "ana").data(data)
}

fn reserve_tokens(amount: i64) -> Request {
    reserve(amount).org("studio").meter("llm_tokens")
}

#[tokio::test]
async fn tokens_run_out_and_come_again_with_the_month() {
    let world = studio().await;
    jobs_report(&world).await;
    tokens_run_out_until_the_month_turns(&world).await;
    the_month_adds_up(&world).await;
    the_invoice_is_exported(&world).await;
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
        job("job-1/render", "render.done").data(json!({ "seconds": "90.5", "profile": "4k" })),
        job("job-2/render", "render.done").data(json!({ "seconds": 30, "profile": "hd" })),
        job("job-1/asset", "asset.stored").data(json!({ "bytes": 7_340_032 })),
    ];
    assert_eq!(world.usage(reported.clone()).await, ["accepted"; 6]);
    // A retry of all of it changes nothing.
    assert_eq!(world.usage(reported).await, ["duplicate"; 6]);
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
    for (meter, quantity, cost) in [
        ("llm_tokens", "95000", "0.465"),
        ("render_seconds", "120.5", "5.125"),
        ("storage_bytes", "7340032", "0"),
    ] {
        let row = month.rows().iter().find(|row| row["meter"] == meter).expect("a row");
        let told = ["quantity", "cost"].map(|name| decimal(row[name].as_str().expect("text")));
        assert_eq!(told, [decimal(quantity), decimal(cost)], "{meter}");
    }
    world.balances();
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
