//! Quotas by a rolling window and for ever. Segments of `rolling_24h` are hours by UTC, those of `rolling_1h`
//! are 150 seconds.

use serde_json::{Value, json};

use super::platform;
use crate::support::World;
use crate::support::requests::{
    Request, Usage, amend, check, close, exempt, limit, meter, plan, plan_limits, quota, release, reserve,
    settle, usage, void,
};
use crate::support::world::Setup;

const BACKFILL: &str = "billing:read,billing:write,usage:read,usage:write,usage:backfill";

fn tokens(quantity: i64, at: &str) -> Usage {
    usage("acme", "llm").data(json!({ "tokens": quantity, "model": "small" })).at(at)
}

fn rolling(limit: i64, period: &str) -> Request {
    quota(limit).period(period).with("refuse_usage", true)
}

/// `used, reserved, remaining until resets_at` of the first limit.
async fn standing(world: &World) -> String {
    told(world, check()).await
}

async fn told(world: &World, check: Request) -> String {
    let verdict = world.check(check).await;
    let text = |name: &str| verdict.text(&format!("quotas.0.{name}"));
    let until = verdict.at("quotas.0.resets_at").as_str().unwrap_or("-").to_owned();
    format!("{}, {}, {} until {until}", text("used"), text("reserved"), text("remaining"))
}

/// Everything agrees, and a rebuild from the records gives the same counters. It runs at the world's time: by
/// the time of a command these segments may be too old to be compared.
fn rebuilds(world: &World) {
    use coulomb::billing::org_plan::AsOf;
    use coulomb::integrity::derived_tables::CountingSettings;
    use coulomb::metering::periods::CountedDays;
    assert_eq!(world.run(&["verify"]), "");
    let used = |world: &World| {
        let sql = "SELECT string_agg(concat_ws(' ', slot_id, subject, began, trim_scale(used)), '; '
            ORDER BY slot_id, org_id, subject, period, began) FROM quota_counters WHERE used <> 0";
        world.value(sql)
    };
    let before = used(world);
    let as_of = AsOf { now: world.clock().now(), grace_days: 14 };
    let settings = CountingSettings { as_of, kept: CountedDays { org: 400, subject: 7 } };
    let mended = || {
        let done = coulomb::integrity::usage::rebuild(&mut world.platform(), settings, &mut |_, _, _| {});
        done.expect("rebuilds").repaired_rows
    };
    assert_eq!(mended(), 0, "the counters are what the records say");
    world.execute("UPDATE quota_counters SET used = used + 7 WHERE used <> 0");
    assert!(before.is_none() || mended() > 0);
    assert_eq!(used(world), before);
    world.execute("DELETE FROM quota_counters WHERE used <> 0");
    mended();
    assert_eq!(used(world), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_leaves_the_window_to_the_second() {
    let world = platform().at("2026-11-20T10:17:00Z").with(rolling(100, "rolling_24h")).start().await;
    assert_eq!(standing(&world).await, "0, 0, 100 until -");
    world.used(tokens(60, "2026-11-20T10:17:00Z")).await;
    world.turn("2026-11-20T22:59:59Z");
    world.used(tokens(30, "2026-11-20T22:59:59Z")).await;
    // The hour from 10:00 leaves when its last second is 24 hours old.
    assert_eq!(standing(&world).await, "90, 0, 10 until 2026-11-21T11:00:00Z");
    let refused = world.send(reserve(11)).await.refused(409, "quota_exceeded");
    assert_eq!(
        refused.text("detail"),
        "the limit on tokens leaves 10 until 2026-11-21T11:00:00Z; nothing was changed"
    );
    assert_eq!(world.uses(tokens(11, "2026-11-20T22:59:59Z")).await, "data quota_exceeded");
    let ten = world.reserved(reserve(10)).await;
    world.send(release(&ten)).await.ok();
    world.turn("2026-11-21T10:59:59Z");
    assert_eq!(standing(&world).await, "90, 0, 10 until 2026-11-21T11:00:00Z");
    assert_eq!(world.uses(tokens(11, "2026-11-21T10:59:59Z")).await, "data quota_exceeded");
    world.turn("2026-11-21T11:00:00Z");
    assert_eq!(standing(&world).await, "30, 0, 70 until 2026-11-21T23:00:00Z");
    world.used(tokens(70, "2026-11-21T11:00:00Z")).await;
    world.turn("2026-11-21T22:59:59Z");
    assert_eq!(standing(&world).await, "100, 0, 0 until 2026-11-21T23:00:00Z");
    world.turn("2026-11-21T23:00:00Z");
    assert_eq!(standing(&world).await, "70, 0, 30 until 2026-11-22T12:00:00Z");
    world.turn("2026-11-22T12:00:00Z");
    assert_eq!(standing(&world).await, "0, 0, 100 until -");
    let entitled = world.get("/v1/orgs/acme/entitlements").await.ok();
    let shown = ["period", "used", "remaining", "resets_at"].map(|name| format!("quotas.0.{name}"));
    assert_eq!(entitled.pick(shown.each_ref().map(String::as_str)), json!(["rolling_24h", "0", "100", null]));
    rebuilds(&world);
}

/// Usage that comes late must fit in every window that contains it, whether it ended or runs.
#[tokio::test(flavor = "multi_thread")]
async fn late_usage_counts_at_its_own_time() {
    let world = platform().at("2026-11-20T12:00:00Z").with(rolling(100, "rolling_24h")).start().await;
    world.used(tokens(60, "2026-11-20T12:00:00Z").id("now")).await;
    // At noon the window reaches back to the hour from 12:00 of the 19th.
    world.used(tokens(30, "2026-11-19T13:30:00Z").id("within")).await;
    world.used(tokens(20, "2026-11-19T11:59:59.999999Z").id("older")).await;
    assert_eq!(standing(&world).await, "90, 0, 10 until 2026-11-20T14:00:00Z");
    // From 09:00 on there are 20 and 30 within a day: 50 more fit, and no 51.
    assert_eq!(world.uses(tokens(51, "2026-11-19T09:00:00Z")).await, "data quota_exceeded");
    world.used(tokens(50, "2026-11-19T09:00:00Z")).await;
    // A day before them there is room for 50 beside the 50, and for 100 a segment earlier.
    assert_eq!(world.uses(tokens(51, "2026-11-18T09:00:00Z")).await, "data quota_exceeded");
    world.used(tokens(100, "2026-11-18T08:59:59Z")).await;
    assert_eq!(world.uses(tokens(1, "2026-11-18T09:00:00Z")).await, "data quota_exceeded");
    // Corrections of usage within the window make room in it, others do not.
    world.send(void("older").org("acme")).await.ok();
    assert_eq!(standing(&world).await, "90, 0, 10 until 2026-11-20T14:00:00Z");
    world
        .send(amend("within", tokens(5, "2026-11-19T13:30:00Z").without("occurred_at")).org("acme"))
        .await
        .ok();
    assert_eq!(standing(&world).await, "65, 0, 35 until 2026-11-20T14:00:00Z");
    world.send(void("within").org("acme")).await.ok();
    assert_eq!(standing(&world).await, "60, 0, 40 until 2026-11-21T13:00:00Z");
    world.used(tokens(40, "2026-11-20T12:04:00Z").id("ahead")).await;
    assert_eq!(world.uses(tokens(1, "2026-11-20T11:59:00Z")).await, "data quota_exceeded");
    rebuilds(&world);
}

/// An amount set aside may be used at any time until its deadline, so it counts in every window.
#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_stays_while_windows_pass() {
    let world = platform().at("2026-11-20T10:00:00Z").with(rolling(100, "rolling_1h")).start().await;
    let held = world.reserved(reserve(80).with("expires_in_s", 7200)).await;
    let lapsing = world.reserved(reserve(15).with("expires_in_s", 1800)).await;
    assert_eq!(standing(&world).await, "0, 95, 5 until -");
    world.turn("2026-11-20T10:30:01Z");
    assert_eq!(standing(&world).await, "0, 80, 20 until -", "{lapsing} is over");
    world.turn("2026-11-20T11:30:00Z");
    world.send(reserve(21)).await.refused(409, "quota_exceeded");
    assert_eq!(world.uses(tokens(21, "2026-11-20T11:30:00Z")).await, "data quota_exceeded");
    world.send(settle(&held).with("amount", 90)).await.ok();
    // The segment from 11:30:00 to 11:32:30 leaves an hour later.
    assert_eq!(standing(&world).await, "90, 0, 10 until 2026-11-20T12:32:30Z");
    let over = world.reserved(reserve(10)).await;
    let settled = world.send(settle(&over).with("amount", 25)).await.ok();
    assert_eq!(settled.at("overage"), "15");
    world.turn("2026-11-20T12:32:29Z");
    assert_eq!(standing(&world).await, "115, 0, 0 until 2026-11-20T12:32:30Z");
    world.turn("2026-11-20T12:32:30Z");
    assert_eq!(standing(&world).await, "0, 0, 100 until -");
    rebuilds(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_window_has_what_was_used_in_it() {
    let world = platform().at("2026-11-20T12:00:00Z").start().await;
    for (id, subject, at, quantity) in [
        ("a", "u1", "2026-11-20T11:00:00Z", 1),
        ("b", "u2", "2026-11-13T12:00:00Z", 20),
        ("y", "u2", "2026-11-19T13:00:00Z", 50_000),
        ("c", "u1", "2026-11-13T02:00:00Z", 300),
        ("d", "u1", "2026-11-01T12:00:00Z", 4000),
    ] {
        world.used(tokens(quantity, at).id(id).subject(subject)).await;
    }
    // Segments of a week are seven hours; that of noon begins at 11:00 and sees back to 11:00 of the 13th.
    let own = world.makes_quota(quota(1000).period("rolling_7d")).await;
    assert_eq!(standing(&world).await, "50021, 0, 0 until 2026-11-20T18:00:00Z");
    world.delete(&format!("/v1/quotas/{own}")).await.status(204);
    world.makes_quota(quota(10_000).period("rolling_31d").per_subject().only("model", "small")).await;
    assert!(
        told(&world, check().subject("u1").dimension("model", "small")).await.starts_with("4301, 0, 5699 ")
    );
    // A plan's window counts for every org, from the first instant with the whole window.
    world.send(plan("pro")).await.ok();
    world.send(plan_limits("pro", [limit(10).period("rolling_24h"), limit(10).period("always")])).await.ok();
    let counters = |slot: i32| {
        world.number(&format!("SELECT sum(used)::bigint FROM quota_counters WHERE slot_id = {slot}"))
    };
    assert_eq!((counters(3), counters(4)), (50_001, 54_321));
    rebuilds(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_have_one_name_and_bounds() {
    let world = platform()
        .with(meter("seats").aggregation("level").without("value_field").with("change_field", "n"))
        .start()
        .await;
    let made = world.send(quota(5).period("rolling_1d")).await.status(201);
    assert_eq!(made.at("period"), "rolling_24h");
    world.send(quota(5).period("rolling_24h")).await.refused(409, "quota_exists");
    world.send(exempt("staff").period("rolling_1d")).await.status(201);
    let checked = world.check(check().amount(9)).await;
    assert_eq!(checked.at("allowed"), false);
    let put = plan_limits("pro", [limit(1).period("rolling_48h"), limit(2).period("rolling_2d")]);
    world.send(plan("pro")).await.ok();
    world.send(put).await.names(400, "quotas.1");
    for period in ["rolling_0h", "rolling_745h", "rolling_32d", "rolling_h", "rolling", "24h", "forever", ""]
    {
        let refused = world.send(quota(5).period(period)).await.names(400, "period");
        assert!(refused.text("detail").contains("rolling_24h"), "{refused}");
    }
    // A level is how much there is now; that needs no window, and has no other period.
    for period in ["rolling_24h", "month"] {
        world.send(quota(5).meter("seats").period(period)).await.names(400, "period");
    }
    world.makes_quota(quota(5).meter("seats").period("always")).await;
    // Without a sum there is no total.
    for period in ["rolling_24h", "always"] {
        world.send(quota(5).meter("peak").period(period)).await.names(400, "meter");
    }
}

fn for_ever() -> Setup {
    platform().at("2026-11-20T12:00:00Z").scopes(BACKFILL)
}

/// A total for ever counts all that was ever recorded, also before the quota, and never resets.
#[tokio::test(flavor = "multi_thread")]
async fn a_total_for_ever_never_resets() {
    let world = for_ever().start().await;
    world.used(tokens(40, "2024-02-29T12:00:00Z").id("old").subject("u1")).await;
    let forever = rolling(100, "always").with("thresholds", json!([50]));
    let id = world.makes_quota(forever).await;
    assert_eq!(standing(&world).await, "40, 0, 60 until -");
    world.used(tokens(30, "2026-11-20T12:00:00Z").subject("u1")).await;
    let refused = world.send(reserve(31)).await.refused(409, "quota_exceeded");
    assert_eq!(refused.text("detail"), "the limit on tokens leaves 30 for ever; nothing was changed");
    assert_eq!(refused.at("resets_at"), &Value::Null);
    // Late usage and corrections count, also those of a closed month.
    world.send(close("2024-03").org("acme")).await.ok();
    world.used(tokens(20, "2024-02-01T00:00:00Z").id("late")).await;
    assert_eq!(standing(&world).await, "90, 0, 10 until -");
    assert_eq!(world.uses(tokens(11, "2024-01-01T00:00:00Z")).await, "data quota_exceeded");
    world.send(void("old").org("acme")).await.ok();
    assert_eq!(standing(&world).await, "50, 0, 50 until -");
    let held = world.reserved(reserve(50)).await;
    world.turn("2028-01-01T00:00:00Z");
    world.send(reserve(51)).await.refused(409, "quota_exceeded");
    assert_eq!(standing(&world).await, "50, 0, 50 until -", "{held} has lapsed");
    // Told once, and with no end.
    let messages = world.get("/v1/messages").await.column("data.period_end");
    assert_eq!(messages, json!([null]));
    let page = world.get(&format!("/v1/quotas/{id}/history")).await.ok();
    assert_eq!(page.pick(["data.0.period", "data.0.used", "data.0.end"]), json!(["2000-01-01", "50", null]));
    assert_eq!(page.list("data").len(), 1);
    // It is kept, whatever was cleaned up.
    use coulomb::metering::counters::{CounterHorizon, delete_old};
    let far = "2027-12-01".parse().expect("a day");
    let horizon = CounterHorizon { org: far, subject: far, billing: far };
    while delete_old(&mut world.platform(), horizon).expect("works") > 0 {}
    assert_eq!(standing(&world).await, "50, 0, 50 until -");
    rebuilds(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_have_totals_for_ever() {
    let world = for_ever().with(rolling(10, "always").per_subject()).start().await;
    world.used(tokens(9, "2025-01-01T00:00:00Z").subject("u1")).await;
    world.used(tokens(10, "2026-11-20T12:00:00Z").subject("u2")).await;
    assert_eq!(world.uses(tokens(2, "2026-11-20T12:00:00Z").subject("u1")).await, "data quota_exceeded");
    assert_eq!(told(&world, check().subject("u1")).await, "9, 0, 1 until -");
    assert_eq!(told(&world, check().subject("u2")).await, "10, 0, 0 until -");
    // One counter for each, however much time is between.
    assert_eq!(world.number("SELECT count(*) FROM quota_counters WHERE slot_id = 1"), 2);
    rebuilds(&world);
}

/// Once for each time that usage comes up to the threshold from below it.
#[tokio::test(flavor = "multi_thread")]
async fn thresholds_of_a_window_are_told_once_a_crossing() {
    let window = quota(100).period("rolling_24h").with("thresholds", json!([50, 80]));
    let world = platform().at("2026-11-20T10:17:00Z").with(window).start().await;
    let told = async || {
        let page = world.get("/v1/messages").await;
        let mut told: Vec<String> = page
            .list("data")
            .iter()
            .map(|message| format!("{} at {}", message["data"]["threshold"], message["data"]["used"]))
            .collect();
        told.sort();
        told.join(", ").replace('"', "")
    };
    world.used(tokens(49, "2026-11-20T10:17:00Z")).await;
    assert_eq!(told().await, "");
    world.used(tokens(1, "2026-11-20T10:17:00Z")).await;
    assert_eq!(told().await, "50 at 50");
    // It stays over it; what is older than the window tells nothing.
    world.turn("2026-11-20T20:00:00Z");
    world.used(tokens(5, "2026-11-20T20:00:00Z")).await;
    world.used(tokens(900, "2026-11-19T19:59:59Z")).await;
    assert_eq!(told().await, "50 at 50");
    // 5 are left of it, and 80 cross both.
    world.turn("2026-11-21T11:00:00Z");
    world.settles_all_of(80).await;
    assert_eq!(told().await, "50 at 50, 50 at 85, 80 at 85");
    let newest = world.get("/v1/messages?limit=1").await;
    let bounds = newest.pick(["data.0.data.period", "data.0.data.period_start", "data.0.data.period_end"]);
    assert_eq!(bounds, json!(["rolling_24h", "2026-11-20T11:00:00Z", "2026-11-21T12:00:00Z"]));
}

/// Segments stay while a window sees them, and a week longer; the anchor goes with the last one.
#[tokio::test(flavor = "multi_thread")]
async fn segments_are_kept_as_long_as_they_count() {
    use coulomb::metering::counters::{CounterHorizon, delete_old};
    let world = platform().at("2026-11-20T12:00:00Z").with(quota(100).period("rolling_7d")).start().await;
    world.used(tokens(1, "2026-11-20T12:00:00Z")).await;
    world.used(tokens(2, "2026-11-12T12:00:00Z")).await;
    let held = world.reserved(reserve(3)).await;
    let clean = |day: &str| {
        let day = day.parse().expect("a day");
        let horizon = CounterHorizon { org: day, subject: day, billing: day };
        while delete_old(&mut world.platform(), horizon).expect("works") > 0 {}
        world.counters()
    };
    // The anchor, and the segments; a week is eight days with its oldest segment.
    assert_eq!(clean("2026-11-20"), "0/3 2/0 1/0");
    assert_eq!(clean("2026-11-21"), "0/3 1/0");
    assert_eq!(clean("2026-11-29"), "0/3");
    world.send(release(&held)).await.ok();
    assert_eq!(clean("2026-11-29"), "");
}
