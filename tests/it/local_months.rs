//! Local days and months across changes of the clocks and of an org's zone.

use chrono::TimeDelta;
use serde_json::json;

use crate::support::World;
use crate::support::requests::{Time, meter, org, plan, quota, subscribe, usage};
use crate::support::world::{Setup, time};

/// A platform that accepts old usage of `tokens`.
fn platform(time: &str) -> Setup {
    let scopes = "billing:read,billing:write,usage:read,usage:write,usage:backfill";
    World::new().at(time).scopes(scopes).with(meter("tokens"))
}

/// An org with a quota by this period; returns the quota's id.
async fn limited(world: &World, name: &str, zone: &str, period: &str) -> String {
    world.send(org(name).zone(zone)).await.status(201);
    world.send(quota(1000).org(name).period(period)).await.status(201).id()
}

/// Usage at an instant, which is also its id.
async fn uses(world: &World, org: &str, at: &str, quantity: i64) {
    world.used(usage(org, "tokens").id(at).at(at).quantity(quantity)).await;
}

/// Label, start, end and used amount of each period, newest first.
async fn history(world: &World, quota: &str) -> Vec<[String; 4]> {
    let page = world.get(&format!("/v1/quotas/{quota}/history")).await.status(200);
    let fields = ["period", "start", "end", "used"];
    page.rows().iter().map(|row| fields.map(|field| row[field].as_str().expect("text").to_owned())).collect()
}

async fn moves(world: &World, org: &str, zone: &str) {
    world.patch(&format!("/v1/orgs/{org}"), json!({ "time_zone": zone })).await.status(200);
}

/// A name, a zone, the kind of period, its label, its first and last instant, and the first one after it.
type Case =
    (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// Months and days in which the clocks change.
const CASES: [Case; 8] = [
    // 29 March has 23 hours, 25 October 25.
    (
        "spring",
        "Europe/Berlin",
        "month",
        "2026-03-01",
        "2026-02-28T23:00:00Z",
        "2026-03-31T21:59:59.999999Z",
        "2026-03-31T22:00:00Z",
    ),
    (
        "autumn",
        "Europe/Berlin",
        "month",
        "2026-10-01",
        "2026-09-30T22:00:00Z",
        "2026-10-31T22:59:59.999999Z",
        "2026-10-31T23:00:00Z",
    ),
    (
        "autumn-day",
        "Europe/Berlin",
        "day",
        "2026-10-25",
        "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59.999999Z",
        "2026-10-25T23:00:00Z",
    ),
    // The clocks change on the first day of the month, at two o'clock; the month ends in winter time.
    (
        "new-york",
        "America/New_York",
        "month",
        "2026-11-01",
        "2026-11-01T04:00:00Z",
        "2026-12-01T04:59:59.999999Z",
        "2026-12-01T05:00:00Z",
    ),
    // Midnight comes twice on that day: the month begins with the first one.
    (
        "havana",
        "America/Havana",
        "month",
        "2026-11-01",
        "2026-11-01T04:00:00Z",
        "2026-12-01T04:59:59.999999Z",
        "2026-12-01T05:00:00Z",
    ),
    // 24 April has no midnight: it begins at one o'clock, right after the last instant of 23 April.
    (
        "cairo",
        "Africa/Cairo",
        "day",
        "2026-04-24",
        "2026-04-23T22:00:00Z",
        "2026-04-24T20:59:59.999999Z",
        "2026-04-24T21:00:00Z",
    ),
    // The clocks change by half an hour, on 5 April.
    (
        "lord-howe",
        "Australia/Lord_Howe",
        "month",
        "2026-04-01",
        "2026-03-31T13:00:00Z",
        "2026-04-30T13:29:59.999999Z",
        "2026-04-30T13:30:00Z",
    ),
    // The clocks never change; the offset has a quarter of an hour.
    (
        "kathmandu",
        "Asia/Kathmandu",
        "month",
        "2026-02-01",
        "2026-01-31T18:15:00Z",
        "2026-02-28T18:14:59.999999Z",
        "2026-02-28T18:15:00Z",
    ),
];

/// Used: 1 at the last instant before the period, 2 at its first, 4 at its last, 8 at the first one after it.
#[tokio::test]
async fn months_and_days_begin_and_end_where_the_clocks_say() {
    let world = platform("2026-12-31T12:00:00Z").start().await;
    for (org, zone, period, label, start, last, end) in CASES {
        let quota = limited(&world, org, zone, period).await;
        let before = (time(start) - TimeDelta::microseconds(1)).rfc3339();
        for (at, quantity) in [(before.as_str(), 1), (start, 2), (last, 4), (end, 8)] {
            uses(&world, org, at, quantity).await;
        }
        let history = history(&world, &quota).await;
        let [after, own, earlier] = &*history else { panic!("{org}: {history:?}") };
        assert_eq!(*own, [label, start, end, "6"], "{org}");
        assert_eq!((after[1].as_str(), after[3].as_str()), (end, "8"), "{org}");
        assert_eq!((earlier[2].as_str(), earlier[3].as_str()), (start, "1"), "{org}");
    }
    world.run(&["verify"]);
}

/// Counted usage keeps its period; usage after a change of zone counts by the new zone.
#[tokio::test]
async fn a_new_zone_goes_on_in_the_same_local_month() {
    let world = platform("2026-10-10T12:00:00Z").with(plan("pro")).start().await;
    let quota = limited(&world, "acme", "Europe/Berlin", "month").await;
    let billing = limited(&world, "local", "Europe/Berlin", "billing").await;
    world.send(subscribe("local", "pro").with("paid", true)).await.status(201);
    for org in ["acme", "local"] {
        uses(&world, org, "2026-10-10T12:00:00Z", 5).await;
        moves(&world, org, "America/Los_Angeles").await;
        uses(&world, org, "2026-10-10T12:00:01Z", 3).await;
    }
    // Midnight of 1 October and of 1 November, both in summer time.
    let october = ["2026-10-01", "2026-10-01T07:00:00Z", "2026-11-01T07:00:00Z", "8"];
    assert_eq!(history(&world, &quota).await, [october]);
    // A subscription's period does not depend on zones.
    let paid = ["2026-10-10", "2026-10-10T12:00:00Z", "2026-11-10T12:00:00Z", "8"];
    assert_eq!(history(&world, &billing).await, [paid]);
    // In Los Angeles it is still October; in Berlin November has begun.
    world.turn("2026-11-01T06:00:00Z");
    uses(&world, "acme", "2026-11-01T05:59:00Z", 10).await;
    moves(&world, "acme", "Europe/Berlin").await;
    uses(&world, "acme", "2026-11-01T05:59:01Z", 20).await;
    // Late usage counts by the zone that the org has when it arrives.
    uses(&world, "acme", "2026-10-31T22:59:59Z", 40).await;
    uses(&world, "acme", "2026-10-31T23:00:00Z", 80).await;
    assert_eq!(
        history(&world, &quota).await,
        [
            ["2026-11-01", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "100"],
            ["2026-10-01", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z", "58"],
        ]
    );
    world.run(&["verify"]);
}
