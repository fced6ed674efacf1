//! Periods of quotas: when they begin and end, and what was used in them before the limit existed.

use chrono::{DateTime, Datelike, Utc};
use serde_json::json;

use super::platform;
use crate::support::objects::{DAY, customer, subscription};
use crate::support::requests::{Request, check, limit, plan, plan_limits, quota, reserve, usage};
use crate::support::world::time;
use crate::support::{World, stripe};

/// When the period of the first quota of `acme` ends.
async fn resets(world: &World) -> DateTime<Utc> {
    time(&world.check(check()).await.text("quotas.0.resets_at"))
}

#[tokio::test]
async fn a_new_slot_counts_what_was_used_already() {
    let world = platform().at("2026-11-20T12:00:00Z").start().await;
    let used = |model: &str, quantity: i64, at: &'static str| {
        usage("acme", "llm").data(json!({ "tokens": quantity, "model": model })).at(at)
    };
    let events = [
        used("small", 5, "2026-11-20T12:00:00Z").subject("u1"),
        used("large", 40, "2026-11-20T12:00:00Z"),
        used("large", 300, "2026-11-01T12:00:00Z").subject("u2"),
        used("large", 9000, "2026-10-31T12:00:00Z").subject("u2"),
    ];
    assert_eq!(world.usage(events).await, ["accepted"; 4]);
    world.makes_quota(quota(1000).period("month")).await;
    world.makes_quota(quota(1000).period("month").only("model", "large")).await;
    world.makes_quota(quota(1000).per_subject()).await;
    world.makes_quota(quota(1000).period("billing")).await;
    let used = async |check: Request| {
        let verdict = world.check(check).await;
        verdict.list("quotas").iter().map(|quota| quota["used"].clone()).collect::<Vec<_>>()
    };
    let large = check().dimension("model", "large").subject("u1");
    assert_eq!(used(large).await, ["345", "340", "5", "345"]);
    assert_eq!(used(check().dimension("model", "small")).await, ["345", "40", "345"]);
    // A plan's slot is counted for every org; the org's own quota of the same kind uses the same slot.
    world.send(plan("pro")).await.ok();
    let put = world.send(plan_limits("pro", [limit(10).only("model", "small")])).await.status(200);
    assert_eq!(put.at("quotas.0.limit"), "10");
    assert_eq!(world.number("SELECT used::bigint FROM quota_counters WHERE slot_id = 5"), 5);
}

#[tokio::test]
async fn thresholds_are_told_once_a_period() {
    let world = platform().with(quota(100).with("thresholds", json!([100, 80, "50"]))).start().await;
    let told = async || {
        let mut all: Vec<_> =
            world.get("/v1/messages").await.column("data.threshold").as_array().unwrap().clone();
        all.sort_by_key(|threshold| threshold.as_str().expect("text").to_owned());
        all
    };
    world.settles_all_of(49).await;
    assert!(told().await.is_empty());
    world.settles_all_of(1).await;
    assert_eq!(told().await, ["50"]);
    world.settles_all_of(1).await;
    world.settles_all_of(49).await;
    assert_eq!(told().await, ["100", "50", "80"]);
    // Another period has messages of its own.
    world.execute(
        "UPDATE quota_counters SET period = period - 1; UPDATE outbox_messages
        SET dedupe_key = replace(dedupe_key, current_date::text, (current_date - 1)::text)",
    );
    world.settles_all_of(50).await;
    assert_eq!(told().await.len(), 4);
    let newest = world.get("/v1/messages?limit=1").await;
    let told = newest.pick(["data.0.type", "data.0.data.used", "data.0.data.limit", "data.0.org"]);
    let org = world.get("/v1/orgs/acme").await.id();
    assert_eq!(told, json!(["quota.threshold_reached", "50", "100", org]));
}

#[tokio::test]
async fn a_zone_moves_the_ends_of_a_period_and_not_its_count() {
    let world = platform().with(quota(100).period("month")).start().await;
    world.settles_all_of(60).await;
    let before = resets(&world).await;
    world.patch("/v1/orgs/acme", json!({ "time_zone": "Asia/Tokyo" })).await.ok();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let after = resets(&world).await;
    // During the first and last hours of a month the two zones are in different months.
    if Utc::now().date_naive().month() == (Utc::now() + chrono::TimeDelta::hours(9)).date_naive().month() {
        assert_eq!(world.check(check()).await.at("quotas.0.used"), "60");
        assert_eq!(before - after, chrono::TimeDelta::hours(9));
    }
}

/// Counters are kept as long as a request may ask for them.
#[tokio::test]
async fn old_periods_are_forgotten() {
    use coulomb::metering::counters::{CounterHorizon, delete_old};
    let world = platform().with(quota(100)).with(quota(100).per_subject()).start().await;
    world.execute(
        "INSERT INTO quota_counters (org_id, slot_id, subject, period, used, reserved)
         SELECT o.org_id, s.slot_id, 'u' || d, current_date - d, 1, d % 2
         FROM orgs o, quota_slots s, generate_series(0, 500, 5) d",
    );
    let mut conn = world.platform();
    let ago = |days: u64| Utc::now().date_naive() - chrono::Days::new(days);
    let oldest = CounterHorizon { org: ago(400), subject: ago(7), billing: ago(1500) };
    while delete_old(&mut conn, oldest).expect("works") > 0 {}
    let left = |slot: i32, reserved: i32| {
        world.number(&format!(
            "SELECT max(current_date - period)::bigint FROM quota_counters
             WHERE slot_id = {slot} AND reserved = {reserved}"
        ))
    };
    assert_eq!((left(1, 0), left(2, 0)), (400, 0));
    assert_eq!((left(1, 1), left(2, 1)), (495, 495), "reservations stay");
}

/// The subscription's period, and a month while there is no subscription.
#[tokio::test]
async fn a_billing_period_follows_the_subscription() {
    let world = platform().with(quota(100).period("billing")).start().await;
    let month_end = resets(&world).await;
    assert_eq!((month_end.day(), month_end.time()), (1, chrono::NaiveTime::MIN));
    world.reserved(reserve(40)).await;
    let now = stripe::now();
    let bought = subscription("sub_1").created(now).period(now - 10 * DAY, now + 4 * DAY);
    world.tell([customer("cus_1").org("acme").created_event().at(now), bought.created_event().at(now)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    // The new period has another counter.
    assert_eq!(world.check(check()).await.at("quotas.0.reserved"), "0");
    let ends = resets(&world).await;
    assert!(ends > Utc::now() + chrono::TimeDelta::days(3), "{ends}");
    assert!(ends <= Utc::now() + chrono::TimeDelta::days(4), "{ends}");
}

/// Hours are by UTC, weeks begin on Monday in the org's zone. 20 November 2026 is a Friday.
#[tokio::test]
async fn hours_and_weeks_are_periods_with_counters_of_their_own() {
    let world = platform().at("2026-11-20T12:10:00Z").start().await;
    world.patch("/v1/orgs/acme", json!({ "time_zone": "America/New_York" })).await.ok();
    let used = |quantity: i64, at: &'static str| {
        usage("acme", "llm").data(json!({ "tokens": quantity, "model": "small" })).at(at)
    };
    // Sunday 23:30 in New York, and half an hour into Monday there.
    for event in [
        used(1000, "2026-11-16T04:30:00Z"),
        used(200, "2026-11-16T05:30:00Z"),
        used(30, "2026-11-20T11:59:59.999999Z"),
        used(4, "2026-11-20T12:00:00Z"),
    ] {
        world.used(event).await;
    }
    world.makes_quota(quota(10).period("hour")).await;
    world.makes_quota(quota(1000).period("week")).await;
    let shown = async || {
        let verdict = world.check(check()).await;
        let quota = |n: usize| {
            let text = |name: &str| verdict.text(&format!("quotas.{n}.{name}"));
            format!("{} until {}", text("used"), text("resets_at"))
        };
        [quota(0), quota(1)]
    };
    assert_eq!(shown().await, ["4 until 2026-11-20T13:00:00Z", "234 until 2026-11-23T05:00:00Z"]);
    // Late usage counts in its own hour; that of now is refused when the hour is full.
    world.used(used(50, "2026-11-20T10:15:00Z")).await;
    world.send(reserve(7)).await.refused(409, "quota_exceeded");
    let reserved = world.reserved(reserve(6)).await;
    world.turn("2026-11-20T13:00:00Z");
    assert_eq!(shown().await, ["0 until 2026-11-20T14:00:00Z", "284 until 2026-11-23T05:00:00Z"]);
    world.send(crate::support::requests::settle(&reserved)).await.ok();
    world.turn("2026-11-23T05:00:00Z");
    let [hour, week] = shown().await;
    assert_eq!(
        [hour.as_str(), week.as_str()],
        ["0 until 2026-11-23T06:00:00Z", "0 until 2026-11-30T05:00:00Z"]
    );
    // Rebuilt from the records, every counter is the same.
    world.is_sound();
    let counters = world.counters();
    world.run(&["rebuild", "summaries"]);
    assert_eq!(world.counters(), counters);
}
