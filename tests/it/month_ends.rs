//! The last second of a month belongs to the month, and the first of the next does not: in every zone, also
//! when the clocks change that night.

use serde_json::json;

use crate::support::World;
use crate::support::requests::{meter, org, usage};

/// A zone, an instant, and its local day.
const INSTANTS: [(&str, &str, &str); 25] = [
    ("UTC", "2026-10-31T23:59:59.999999Z", "2026-10-31"),
    ("UTC", "2026-11-01T00:00:00Z", "2026-11-01"),
    // A leap second counts as the next second.
    ("UTC", "2026-10-31T23:59:60Z", "2026-11-01"),
    ("UTC", "2026-10-31T23:59:60.5Z", "2026-11-01"),
    // More precise than what is stored: cut off, so that it does not move into the next month.
    ("UTC", "2026-10-31T23:59:59.9999999Z", "2026-10-31"),
    ("UTC", "2026-11-01T00:59:59+01:00", "2026-10-31"),
    ("Europe/Berlin", "2026-10-31T22:59:59.999999Z", "2026-10-31"),
    ("Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-01"),
    // March ends in summer time.
    ("Europe/Berlin", "2026-03-31T21:59:59.999999Z", "2026-03-31"),
    ("Europe/Berlin", "2026-03-31T22:00:00Z", "2026-04-01"),
    ("America/New_York", "2026-11-01T03:59:59.999999Z", "2026-10-31"),
    ("America/New_York", "2026-11-01T04:00:00Z", "2026-11-01"),
    // The clocks go back that night at two: both one o'clocks belong to November.
    ("America/New_York", "2026-11-01T05:30:00Z", "2026-11-01"),
    ("America/New_York", "2026-11-01T06:30:00Z", "2026-11-01"),
    // Midnight comes twice: the first one begins the day.
    ("America/Havana", "2026-11-01T03:59:59.999999Z", "2026-10-31"),
    ("America/Havana", "2026-11-01T04:00:00Z", "2026-11-01"),
    ("America/Havana", "2026-11-01T05:00:00Z", "2026-11-01"),
    ("Asia/Kathmandu", "2026-10-31T18:14:59.999999Z", "2026-10-31"),
    ("Asia/Kathmandu", "2026-10-31T18:15:00Z", "2026-11-01"),
    ("Pacific/Kiritimati", "2026-10-31T09:59:59.999999Z", "2026-10-31"),
    ("Pacific/Kiritimati", "2026-10-31T10:00:00Z", "2026-11-01"),
    ("Etc/GMT+12", "2026-11-01T11:59:59.999999Z", "2026-10-31"),
    ("Etc/GMT+12", "2026-11-01T12:00:00Z", "2026-11-01"),
    // February has 28 days this year.
    ("Australia/Lord_Howe", "2026-02-28T12:59:59.999999Z", "2026-02-28"),
    ("Australia/Lord_Howe", "2026-02-28T13:00:00Z", "2026-03-01"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_months_last_second_stays_in_it() {
    let tiers = json!([{ "tiers": { "mode": "graduated",
        "tiers": [{ "up_to": "1", "unit_cost": "0" }, { "unit_cost": "1" }] } }]);
    let setup = World::new().at("2026-11-26T12:00:00Z");
    let world = setup
        .scopes("usage:write,usage:read,usage:backfill,billing:write,billing:read")
        .with(meter("work"))
        .prices_since("2026-01-01T00:00:00Z", tiers)
        .counted("month")
        .start()
        .await;
    for (n, (zone, at, day)) in INSTANTS.iter().enumerate() {
        let name = format!("org{n}");
        world.send(org(&name).zone(zone)).await.status(201);
        world.used(usage(&name, "work").at(*at)).await;
        let told = world.value(&format!(
            "SELECT concat_ws(' ', r.day, d.day, q.period, k.period, r.own_day)
             FROM usage_records r JOIN orgs o USING (org_id) JOIN daily_summaries d USING (org_id)
             JOIN quota_counters q USING (org_id) JOIN rating_counters k USING (org_id)
             WHERE external_id = '{name}'"
        ));
        let month = format!("{}-01", &day[..7]);
        assert_eq!(told, Some(format!("{day} {day} {month} {month}")), "{zone} {at}");
    }
    world.is_sound();
}
