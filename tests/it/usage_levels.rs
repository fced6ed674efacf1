//! Levels: sets and changes in any order, limits on them, and their values over a time. Computed by hand.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::requests::{
    self, Request, Usage, amend, close, meter, rate_card, reserve, settle, usage, void,
};
use crate::support::world::Setup;

/// An org `acme` and the level meter `seats`: `seats` sets the level, `by` changes it, `team` is a dimension.
fn office() -> Setup {
    let seats = meter("seats")
        .event_name("seat")
        .aggregation("level")
        .value_field("seats")
        .with("change_field", "by")
        .dimensions(["team"]);
    let scopes = "billing:write,billing:read,usage:read,usage:write,usage:backfill";
    World::new().scopes(scopes).org("acme").with(seats)
}

/// A quota on the present seats, whenever they were added.
fn quota(limit: i64) -> Request {
    requests::quota(limit).meter("seats").period("always")
}

fn set(id: &str, at: &str, seats: i64) -> Usage {
    usage("acme", "seat").id(id).at(at).data(json!({ "seats": seats }))
}

fn change(id: &str, at: &str, by: i64) -> Usage {
    usage("acme", "seat").id(id).at(at).data(json!({ "by": by }))
}

async fn levels(world: &World, query: &str) -> Answer {
    world.get(&format!("/v1/usage/levels?org=acme{query}")).await.status(200)
}

/// The org's only level in the API: now, start, end, average, peak.
async fn course(world: &World, from: &str, to: &str) -> String {
    let levels = levels(world, &format!("&from={from}&to={to}")).await;
    assert_eq!(levels.rows().len(), 1, "{levels}");
    ["level", "start", "end", "average", "peak"].map(|name| levels.text(&format!("data.0.{name}"))).join(" ")
}

/// `coulomb verify` must find differences in these tables.
fn is_unsound(world: &World, tables: &[&str]) {
    let output = world.command(&["verify"]).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && tables.iter().all(|table| told.contains(table)), "{told}");
}

/// Events and the resulting level.
fn histories() -> [(&'static str, Vec<Usage>, &'static str); 6] {
    let (first, second, third) = ("2026-10-01T00:00:00Z", "2026-10-02T00:00:00Z", "2026-10-03T00:00:00Z");
    [
        ("changes", vec![change("a", first, 5), change("b", second, -2)], "3"),
        (
            "a set between",
            vec![
                change("a", first, 50),
                set("b", second, 10),
                change("c", third, 4),
                change("d", "2026-11-03T00:00:00Z", -1),
            ],
            "13",
        ),
        (
            "the last set counts, and the largest of an instant",
            vec![set("a", second, 10), set("b", second, 12), set("c", first, 99)],
            "12",
        ),
        ("at one instant a change is on top", vec![set("a", second, 10), change("b", second, 3)], "13"),
        ("less than nothing is nothing", vec![change("a", second, -3)], "0"),
        ("until what was missing comes", vec![change("a", second, -3), change("b", first, 8)], "5"),
    ]
}

/// Each history in the order of its lines, then backwards, one event in each request, then all in one: the
/// same level.
#[tokio::test]
async fn levels_follow_from_the_set_of_events() {
    let world = office().start().await;
    let mut wanted = Vec::new();
    for (n, (name, events, level)) in histories().into_iter().enumerate() {
        for way in ["in-order", "backwards", "together"] {
            let org = format!("{way}-{n}");
            world.send(requests::org(&org)).await.status(201);
            world.send(quota(1000).org(&org)).await.status(201);
            let mut events: Vec<_> = events.iter().map(|event| event.clone().org(&org)).collect();
            if way == "backwards" {
                events.reverse();
            }
            let all = events.len();
            let parts = if way == "together" {
                vec![events.clone()]
            } else {
                events.chunks(1).map(<[_]>::to_vec).collect()
            };
            for part in parts {
                let taken = vec!["accepted"; part.len()];
                assert_eq!(world.on(0).usage(part).await, taken, "{name}, {way}");
            }
            let page = world.get(&format!("/v1/usage/levels?org={org}")).await;
            assert_eq!(page.at("data.0.level"), level, "{name}, {way}");
            // Each counts once.
            assert_eq!(world.on(0).usage(events).await, vec!["duplicate"; all], "{name}, {way}");
            wanted.push((org, format!("{level}/0")));
        }
    }
    let once = wanted.iter().map(|(_, counter)| counter.as_str()).collect::<Vec<_>>().join(" ");
    assert_eq!(world.counters(), once);
    world.run(&["verify"]);
    // A new quota begins with the present level.
    for (org, _) in &wanted {
        world.send(quota(7).org(org).per_subject()).await.status(201);
    }
    let twice = format!("{once} {once}");
    assert_eq!(world.counters(), twice);
    world.run(&["verify"]);
    // The books can be rebuilt.
    world.execute(
        "UPDATE usage_levels SET changes = changes + 1, set_at = NULL; UPDATE quota_counters SET used = 77",
    );
    is_unsound(&world, &["usage_levels", "quota_counters"]);
    world.run(&["rebuild", "summaries"]);
    assert_eq!(world.counters(), twice);
    world.run(&["verify"]);
}

#[tokio::test]
async fn an_event_says_one_thing_of_a_level() {
    let world = office().start().await;
    for (data, told) in [
        (json!({ "seats": 5, "by": 1 }), "data.by set_and_change"),
        (json!({ "seats": -5 }), "data.seats negative_usage"),
        (json!({ "seats": null }), "data.seats no_value"),
        (json!({ "by": "x" }), "data.by not_a_number"),
        (json!({ "seats": "1e15" }), "data.seats too_large"),
    ] {
        assert_eq!(world.usage([usage("acme", "seat").data(data.clone())]).await, [told], "{data}");
    }
    let by = |by: Value| usage("acme", "seat").data(json!({ "by": by }));
    let both = [by(json!("999999999999999")), by(json!(1))];
    assert_eq!(world.usage(both).await, ["accepted", "data too_large"]);
    let level = meter("x").aggregation("level").value_field("v");
    for (meter, field) in [
        (level.clone().without("value_field"), "value_field"),
        (meter("x").value_field("v").with("change_field", "c"), "change_field"),
        (level.clone().with("change_field", "v"), "change_field"),
        (level.with("allows_negative", true), "allows_negative"),
    ] {
        world.send(meter).await.names(400, field);
    }
    for period in ["day", "month", "billing"] {
        world.send(quota(1).period(period)).await.names(400, "period");
    }
}

/// An office whose 10 seats are taken. Its limit has refused some usage.
async fn full_office() -> World {
    let world = office().with(quota(10).with("refuse_usage", true)).start().await;
    let (october, november) = ("2026-10-05T00:00:00Z", "2026-11-05T00:00:00Z");
    assert_eq!(world.usage([set("a", october, 8)]).await, ["accepted"]);
    // In one batch each event depends on those before it: 8 + 3 is refused, a removal makes room, 5 + 4 fits.
    // A set to 11 is 2 too many; a set to 4 leaves room for 6, so 7 are too many.
    let batch = [
        (change("b", november, 3), "data quota_exceeded"),
        (change("c", november, -3), "accepted"),
        (change("d", november, 4), "accepted"),
        (set("e", "2026-11-06T00:00:00Z", 11), "data quota_exceeded"),
        (set("f", "2026-11-07T00:00:00Z", 4), "accepted"),
        (change("g", "2026-11-08T00:00:00Z", 7), "data quota_exceeded"),
        (change("h", "2026-11-08T00:00:00Z", 6), "accepted"),
    ];
    let told = batch.each_ref().map(|(_, told)| *told);
    assert_eq!(world.usage(batch.map(|(event, _)| event)).await, told);
    assert_eq!(world.counters(), "10/0");
    // A late event before the last set does not change the level, so it exceeds nothing.
    let late = [change("late", october, 900), set("late2", november, 900)];
    assert_eq!(world.usage(late).await, ["accepted"; 2]);
    assert_eq!(world.counters(), "10/0");
    world.run(&["verify"]);
    world
}

#[tokio::test]
async fn a_limit_on_a_level_refuses_what_does_not_fit_and_never_resets() {
    let world = full_office().await;
    assert_eq!(world.usage([change("i", "2026-11-09T00:00:00Z", -6)]).await, ["accepted"]);
    // Reserved, settled, and above the limit.
    let seats = |amount: i64, id: &str| reserve(amount).meter("seats").id(id);
    let made = world.send(seats(5, "r1")).await.status(201);
    assert_eq!(made.at("quotas.0.remaining"), "1");
    let over = world.send(seats(2, "r2")).await.refused(409, "quota_exceeded");
    assert_eq!(over["resets_at"], Value::Null);
    let more = change("j", "2026-11-10T00:00:00Z", 2);
    assert_eq!(world.usage([more]).await, ["data quota_exceeded"]);
    assert_eq!(world.send(settle("r1").amount(8)).await.status(200)["overage"], "2");
    assert_eq!(world.counters(), "12/0");
    assert_eq!(world.usage([change("l", "2026-11-10T00:00:00Z", -4)]).await, ["accepted"]);
    world.send(seats(2, "r3")).await.status(201);
    let event = json!({ "id": "k", "event_name": "seat", "data": { "seats": 3 } });
    let settled = world.send(settle("r3").with("event", event)).await.status(200);
    assert_eq!(settled["settled_amount"], "3");
    assert_eq!(world.counters(), "3/0");
    world.run(&["verify"]);
}

#[tokio::test]
async fn levels_are_told_apart_and_limited_by_team_and_subject() {
    let of_team = quota(5).only("team", "a").with("refuse_usage", true);
    let world = office().with(quota(100)).with(of_team).with(quota(4).per_subject()).start().await;
    let at = "2026-11-05T00:00:00Z";
    let of = |event: Usage, team: &str, subject: &str| event.dimension("team", team).subject(subject);
    let events = [
        of(set("1", at, 4), "a", "x"),
        of(set("2", at, 3), "b", "x"),
        of(change("3", at, 1), "a", "y"),
        of(change("4", at, 1), "a", "y"),
        of(set("5", "2026-11-06T00:00:00Z", 1), "b", "x"),
    ];
    let told = ["accepted", "accepted", "accepted", "data quota_exceeded", "accepted"];
    assert_eq!(world.usage(events).await, told);
    // 4 + 1 + 1; of team a 4 + 1; of x 4 + 1, of y 1.
    assert_eq!(world.counters(), "6/0 5/0 5/0 1/0");
    assert_eq!(levels(&world, "&meter=seats").await.rows().len(), 3);
    assert_eq!(levels(&world, "&meter=other").await.rows().len(), 0);
    world.run(&["verify"]);
}

#[tokio::test]
async fn corrections_leave_the_level_of_what_stands() {
    let world = office().with(quota(1000)).start().await;
    let day = |day: u32| format!("2026-10-{day:02}T00:00:00Z");
    let events = [
        change("a", &day(1), 50),
        set("b", &day(2), 10),
        change("c", &day(3), 4),
        set("d", &day(4), 20),
        change("e", &day(5), 1),
    ];
    assert_eq!(world.usage(events).await, ["accepted"; 5]);
    assert_eq!(world.counters(), "21/0");
    let replaced = |id: &str, data: Value| amend(id, usage("acme", "seat").data(data));
    for (correction, level) in [
        // Before the last set: nothing changes.
        (void("a"), "21"),
        // The change after it.
        (void("e"), "20"),
        // The last set: 10 + 4 from before.
        (void("d"), "14"),
        (replaced("b", json!({ "seats": 30 })), "34"),
        (replaced("c", json!({ "by": -5 })), "25"),
        // The event that set the level now changes it: -5 and 7.
        (replaced("b", json!({ "by": 7 })), "2"),
        (replaced("b", json!({ "seats": 1 })), "0"),
        (void("c"), "1"),
    ] {
        let done = world.send(correction).await.status(200);
        assert_eq!(world.counters(), format!("{level}/0"), "{done}");
        world.run(&["verify"]);
    }
}

#[tokio::test]
async fn a_level_is_told_and_priced_over_a_time() {
    let prices = |rate: Value| rate_card("seats", json!([rate])).since("2026-01-01T00:00:00Z");
    let world = office().with(prices(json!({ "unit_cost": "2" }))).start().await;
    let burning = json!([{ "unit_cost": "2", "battery_units": "1" }]);
    world.send(rate_card("seats", burning)).await.names(400, "rates.0.battery_units");
    // September has 30 days: 10 for ten days, 40 for five, 25 for fifteen: (100 + 200 + 375) / 30 = 22.5.
    // October: 25 throughout.
    let events = [
        set("a", "2026-08-20T00:00:00Z", 10),
        change("b", "2026-09-11T00:00:00Z", 30),
        set("c", "2026-09-16T00:00:00Z", 25),
    ];
    assert_eq!(world.usage(events).await, ["accepted"; 3]);
    let september = || course(&world, "2026-09-01T00:00:00Z", "2026-10-01T00:00:00Z");
    assert_eq!(september().await, "25 10 25 22.5 40");
    assert_eq!(course(&world, "2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z").await, "25 25 25 25 25");
    assert_eq!(course(&world, "2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z").await, "25 0 0 0 0");
    for (by, cost) in [("", "45"), ("&price_by=peak", "80")] {
        let query = format!("&from=2026-09-01T00:00:00Z&to=2026-10-01T00:00:00Z{by}");
        let priced = levels(&world, &query).await;
        assert_eq!(priced.pick(["data.0.cost", "data.0.currency"]), json!([cost, "usd"]));
    }
    // Late events: 30 more from 6 to 11 September, then the set at 11 replaces the level: 10 × 5 + 40 × 5 +
    // 35 × 5 + 375 = 800 / 30.
    let late = [change("late", "2026-09-06T00:00:00Z", 30), set("late2", "2026-09-11T00:00:00Z", 5)];
    assert_eq!(world.usage(late).await, ["accepted"; 2]);
    assert_eq!(september().await, "25 10 25 26.666666666667 40");
    world.send(void("late2")).await.status(200);
    // 10 × 5 + 40 × 5 + 70 × 5 + 375 = 975 / 30.
    assert_eq!(september().await, "25 10 25 32.5 70");
    world.run(&["verify"]);
}

#[tokio::test]
async fn an_org_reads_its_own_levels() {
    let world = office().org("other").start().await;
    assert_eq!(world.usage([set("a", "2026-08-20T00:00:00Z", 10)]).await, ["accepted"]);
    let foreign = world.key_of("other");
    assert_eq!(world.by(&foreign).get("/v1/usage/levels").await["data"], json!([]));
    world.by(&foreign).get("/v1/usage/levels?org=acme").await.status(404);
    world.get("/v1/usage/levels?org=acme&from=2999-01-01T00:00:00Z").await.names(400, "to");
    world.get("/v1/usage/levels?org=acme&price_by=moon").await.status(400);
}

/// October has two events, and is closed. Later events, voids and amendments for October change the level at
/// once. October's summary still counts its two events; November counts the amendment and the late event.
#[tokio::test]
async fn a_closed_month_stays_and_its_levels_are_corrected() {
    let world = office().with(quota(1000)).start().await;
    let day = |day: u32| format!("2026-10-{day:02}T00:00:00Z");
    assert_eq!(world.usage([set("a", &day(2), 10), change("b", &day(3), 4)]).await, ["accepted"; 2]);
    world.send(close("2026-10").org("acme")).await.status(200);
    // The level, and how many events October and November count.
    let stands = |expected: &str| {
        let sql = "SELECT concat(sum(count) FILTER (WHERE day < '2026-11-01'), '/',
            sum(count) FILTER (WHERE day >= '2026-11-01')) FROM daily_summaries";
        let counts = world.value(sql).unwrap_or_default();
        assert_eq!(format!("{} {counts}", world.counters()), expected);
        world.run(&["verify"]);
    };
    world.send(void("b")).await.status(200);
    stands("10/0 2/");
    world.send(amend("a", usage("acme", "seat").data(json!({ "seats": 30 })))).await.status(200);
    stands("30/0 2/1");
    assert_eq!(world.usage([change("late", &day(5), 2)]).await, ["accepted"]);
    stands("32/0 2/2");
    // By the time of the events, whatever month they were posted to: 30 for three days from the 2nd, then 32
    // for three days.
    assert_eq!(course(&world, &day(2), &day(8)).await, "32 30 32 31 32");
    world.execute("DELETE FROM usage_levels; DELETE FROM quota_counters; DELETE FROM daily_summaries");
    world.run(&["rebuild", "summaries"]);
    stands("32/0 2/2");
}

/// A level is priced over a time, not when it is reported or reserved.
#[tokio::test]
async fn a_level_is_not_refused_for_want_of_a_rate() {
    let of_a = json!([{ "when": { "team": "a" }, "unit_cost": "2" }]);
    let card = rate_card("seats", of_a).since("2026-01-01T00:00:00Z");
    let world = office().with(quota(100)).with(card).start().await;
    let changed = world.patch("/v1/meters/seats", json!({ "unpriced": "refuse" })).await.status(200);
    assert_eq!(changed["unpriced"], "refuse");
    let of_b = set("a", "2026-10-02T00:00:00Z", 10).dimension("team", "b");
    assert_eq!(world.usage([of_b]).await, ["accepted"]);
    world.send(reserve(5).meter("seats").dimension("team", "b")).await.status(201);
    assert_eq!(world.counters(), "10/5");
    assert_eq!(world.get("/v1/usage/unpriced?org=acme").await["data"], json!([]));
    assert_eq!(levels(&world, "").await.at("data.0.cost"), &Value::Null);
    world.run(&["verify"]);
}

/// If the time of the last change were lost, a late set would ignore the changes after it.
#[tokio::test]
async fn a_rebuilt_level_takes_a_late_set() {
    let (october, november) = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
    for spoil in ["DELETE FROM usage_levels", "UPDATE usage_levels SET changed_at = NULL"] {
        let world = office().with(quota(1000)).start().await;
        assert_eq!(world.usage([change("a", october, 5), change("b", november, 3)]).await, ["accepted"; 2]);
        world.execute(spoil);
        is_unsound(&world, &["usage_levels"]);
        world.run(&["rebuild", "summaries"]);
        world.run(&["verify"]);
        // 10, and the 3 after it.
        assert_eq!(world.usage([set("c", "2026-10-05T00:00:00Z", 10)]).await, ["accepted"]);
        assert_eq!(world.counters(), "13/0", "{spoil}");
        world.run(&["verify"]);
    }
}
