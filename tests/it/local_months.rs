//! Local days and months through changes of the clocks and of an org's zone.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write,usage:backfill";

/// A daemon on a clock that stands in 2027, and a key.
struct House {
    database: Database,
    daemon: Daemon,
    clock: TestClock,
    key: String,
}

impl House {
    async fn at(time: &str) -> Self {
        let database = Database::new();
        database.meter(1, "tokens", "sum", "", None);
        let clock = TestClock::at(time);
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key(KEYS, None);
        Self { database, daemon, clock, key }
    }

    /// An org with a quota of that period; gives the quota's id.
    async fn org(&self, org: &str, zone: &str, period: &str) -> String {
        self.daemon.org(&self.key, org, zone).await;
        let quota = json!({ "org": org, "meter": "meter-1", "period": period, "limit": 1000 });
        let (status, quota) = self.daemon.post("/v1/quotas", &self.key, &quota).await;
        assert_eq!(status, 201, "{quota}");
        quota["id"].as_str().expect("an id").to_owned()
    }

    /// Usage at an instant.
    async fn uses(&self, org: &str, at: &str, quantity: i64) {
        let used = json!([{ "id": at, "org": org, "event_name": "tokens", "occurred_at": at,
            "data": { "value": quantity } }]);
        assert_eq!(self.daemon.usage(&self.key, &used).await, ["accepted"], "{org} {at}");
    }

    /// Label, start, end and use of each period, newest first.
    async fn history(&self, quota: &str) -> Vec<[String; 4]> {
        let (status, page) = self.daemon.get(&format!("/v1/quotas/{quota}/history"), &self.key).await;
        assert_eq!(status, 200, "{page}");
        let text = |row: &Value, field| row[field].as_str().expect("text").to_owned();
        let rows = page["data"].as_array().expect("rows");
        rows.iter().map(|row| ["period", "start", "end", "used"].map(|field| text(row, field))).collect()
    }

    async fn moves(&self, org: &str, zone: &str) {
        let path = format!("/v1/orgs/{org}");
        let patch = self.daemon.request(Method::PATCH, &path, &self.key).json(&json!({ "time_zone": zone }));
        let (status, answered) = answer(patch).await;
        assert_eq!(status, 200, "{answered}");
    }
}

fn rows(rows: &[[&str; 4]]) -> Vec<[String; 4]> {
    rows.iter().map(|row| row.map(str::to_owned)).collect()
}

/// The first and last instants of months and days in which the clocks are changed, by hand: 1 at the last
/// instant before, 2 at the first one, 4 at the last one, 8 at the first one after.
#[tokio::test]
async fn months_and_days_begin_and_end_where_the_clocks_say() {
    let house = House::at("2026-12-31T12:00:00Z").await;
    for (org, zone, period, label, start, last, end) in [
        // 23 hours short, and 25 long: 29 March and 25 October.
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
        // The first day of the month is that of the change, at two o'clock; the month's end lies in winter.
        (
            "new-york",
            "America/New_York",
            "month",
            "2026-11-01",
            "2026-11-01T04:00:00Z",
            "2026-12-01T04:59:59.999999Z",
            "2026-12-01T05:00:00Z",
        ),
        // There midnight comes twice on that day: the month begins with the first.
        (
            "havana",
            "America/Havana",
            "month",
            "2026-11-01",
            "2026-11-01T04:00:00Z",
            "2026-12-01T04:59:59.999999Z",
            "2026-12-01T05:00:00Z",
        ),
        // 24 April has no midnight: it begins at one o'clock, an hour after 23 April's last.
        (
            "cairo",
            "Africa/Cairo",
            "day",
            "2026-04-24",
            "2026-04-23T22:00:00Z",
            "2026-04-24T20:59:59.999999Z",
            "2026-04-24T21:00:00Z",
        ),
        // Half an hour: 5 April.
        (
            "lord-howe",
            "Australia/Lord_Howe",
            "month",
            "2026-04-01",
            "2026-03-31T13:00:00Z",
            "2026-04-30T13:29:59.999999Z",
            "2026-04-30T13:30:00Z",
        ),
        // Never any change, and a quarter off.
        (
            "kathmandu",
            "Asia/Kathmandu",
            "month",
            "2026-02-01",
            "2026-01-31T18:15:00Z",
            "2026-02-28T18:14:59.999999Z",
            "2026-02-28T18:15:00Z",
        ),
    ] {
        let quota = house.org(org, zone, period).await;
        let before = start.parse::<chrono::DateTime<chrono::Utc>>().expect("a time")
            - chrono::TimeDelta::microseconds(1);
        let before = before.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        for (at, quantity) in [(before.as_str(), 1), (start, 2), (last, 4), (end, 8)] {
            house.uses(org, at, quantity).await;
        }
        let history = house.history(&quota).await;
        let [after, own, earlier] = &*history else { panic!("{org}: {history:?}") };
        assert_eq!(*own, [label, start, end, "6"].map(str::to_owned), "{org}");
        assert_eq!((after[1].as_str(), after[3].as_str()), (end, "8"), "{org}");
        assert_eq!((earlier[2].as_str(), earlier[3].as_str()), (start, "1"), "{org}");
    }
    house.database.run(&["verify"]);
}

/// What was counted stays where it was counted; what comes after a change of zone is counted by the new one.
#[tokio::test]
async fn a_new_zone_goes_on_in_the_same_local_month() {
    let house = House::at("2026-10-10T12:00:00Z").await;
    let quota = house.org("acme", "Europe/Berlin", "month").await;
    let billing = house.org("local", "Europe/Berlin", "billing").await;
    let pro = house.daemon.request(Method::PUT, "/v1/plans/pro", &house.key).json(&json!({ "name": "Pro" }));
    assert_eq!(answer(pro).await.0, 200);
    let begun = json!({ "plan": "pro", "paid": true });
    let begun = house.daemon.post("/v1/orgs/local/subscription", &house.key, &begun);
    assert_eq!(begun.await.0, 201);
    for org in ["acme", "local"] {
        house.uses(org, "2026-10-10T12:00:00Z", 5).await;
        house.moves(org, "America/Los_Angeles").await;
        house.uses(org, "2026-10-10T12:00:01Z", 3).await;
    }
    // Midnight of 1 October and of 1 November, both in summer there.
    let october = ["2026-10-01", "2026-10-01T07:00:00Z", "2026-11-01T07:00:00Z"];
    let [label, start, end] = october;
    assert_eq!(house.history(&quota).await, rows(&[[label, start, end, "8"]]));
    // A subscription's period is no matter of zones.
    let paid = ["2026-10-10", "2026-10-10T12:00:00Z", "2026-11-10T12:00:00Z", "8"];
    assert_eq!(house.history(&billing).await, rows(&[paid]));
    // The last hours of October there: November has begun in Berlin.
    house.clock.turn("2026-11-01T06:00:00Z");
    house.uses("acme", "2026-11-01T05:59:00Z", 10).await;
    house.moves("acme", "Europe/Berlin").await;
    house.uses("acme", "2026-11-01T05:59:01Z", 20).await;
    // Late usage is counted by the zone that the org has when it comes.
    house.uses("acme", "2026-10-31T22:59:59Z", 40).await;
    house.uses("acme", "2026-10-31T23:00:00Z", 80).await;
    assert_eq!(
        house.history(&quota).await,
        rows(&[
            ["2026-11-01", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "100"],
            ["2026-10-01", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z", "58"],
        ])
    );
    house.database.run(&["verify"]);
}
