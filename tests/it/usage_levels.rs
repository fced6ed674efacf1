//! Levels: sets and changes in any order, limits on them, what they were over a time. Figures are reckoned by
//! hand.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

/// A level meter `seats` (set by `seats`, changed by `by`, told apart by `team`), and an org `acme`.
struct Place {
    database: Database,
    daemon: Daemon,
    key: String,
}

impl Place {
    async fn new() -> Self {
        let database = Database::new();
        let daemon = Daemon::start(&database);
        let key = database.key("billing:write,billing:read,usage:read,usage:write,usage:backfill", None);
        daemon.org(&key, "acme", "UTC").await;
        let meter = json!({ "key": "seats", "event_name": "seat", "aggregation": "level",
            "value_field": "seats",
            "change_field": "by", "dimensions": ["team"] });
        let (status, made) = daemon.post("/v1/meters", &key, &meter).await;
        assert_eq!(status, 201, "{made}");
        Self { database, daemon, key }
    }

    async fn send(&self, events: &[Value]) -> Vec<String> {
        self.daemon.usage(&self.key, &json!(events)).await
    }

    async fn quota(&self, limit: i64, more: Value) -> String {
        let mut body = json!({ "org": "acme", "meter": "seats", "period": "always", "limit": limit });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let (status, quota) = self.daemon.post("/v1/quotas", &self.key, &body).await;
        assert_eq!(status, 201, "{quota}");
        quota["id"].as_str().expect("an id").to_owned()
    }

    /// `used/reserved` of every counter, in the order of slot and subject.
    fn counters(&self) -> String {
        let sql = "SELECT string_agg(concat(trim_scale(used), '/', trim_scale(reserved)), ' '
            ORDER BY slot_id, org_id, subject) FROM quota_counters";
        self.database.value(sql).unwrap_or_default()
    }

    async fn levels(&self, query: &str) -> Vec<Value> {
        let (status, page) = self.daemon.get(&format!("/v1/usage/levels?org=acme{query}"), &self.key).await;
        assert_eq!(status, 200, "{page}");
        page["data"].as_array().expect("a page").clone()
    }

    /// What is told of the one level there is: now, start, end, average, peak.
    async fn course(&self, from: &str, to: &str) -> [String; 5] {
        let levels = self.levels(&format!("&from={from}&to={to}")).await;
        assert_eq!(levels.len(), 1, "{levels:?}");
        ["level", "start", "end", "average", "peak"]
            .map(|name| levels[0][name].as_str().expect("text").to_owned())
    }

    /// Whether the books are what the records say.
    fn verified(&self) {
        let output = self.database.command(&["verify"]).output().expect("runs");
        let told = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success(), "{told:?}");
    }
}

fn set(id: &str, at: &str, seats: i64) -> Value {
    json!({ "id": id, "org": "acme", "event_name": "seat", "occurred_at": at, "data": { "seats": seats } })
}

fn change(id: &str, at: &str, by: i64) -> Value {
    json!({ "id": id, "org": "acme", "event_name": "seat", "occurred_at": at, "data": { "by": by } })
}

/// Each in the order of its lines, then backwards, one request an event, then all in one: the same level.
#[tokio::test]
async fn levels_follow_from_the_set_of_events() {
    let table: [(&str, Vec<Value>, &str); 6] = [
        (
            "changes",
            vec![change("a", "2026-10-01T00:00:00Z", 5), change("b", "2026-10-02T00:00:00Z", -2)],
            "3",
        ),
        (
            "a set between",
            vec![
                change("a", "2026-10-01T00:00:00Z", 50),
                set("b", "2026-10-02T00:00:00Z", 10),
                change("c", "2026-10-03T00:00:00Z", 4),
                change("d", "2026-11-03T00:00:00Z", -1),
            ],
            "13",
        ),
        (
            "the last set counts, and the largest of an instant",
            vec![
                set("a", "2026-10-02T00:00:00Z", 10),
                set("b", "2026-10-02T00:00:00Z", 12),
                set("c", "2026-10-01T00:00:00Z", 99),
            ],
            "12",
        ),
        (
            "at one instant a change is on top",
            vec![set("a", "2026-10-02T00:00:00Z", 10), change("b", "2026-10-02T00:00:00Z", 3)],
            "13",
        ),
        ("less than nothing is nothing", vec![change("a", "2026-10-02T00:00:00Z", -3)], "0"),
        (
            "until what was missing comes",
            vec![change("a", "2026-10-02T00:00:00Z", -3), change("b", "2026-10-01T00:00:00Z", 8)],
            "5",
        ),
    ];
    let place = Place::new().await;
    let mut wanted = Vec::new();
    for (n, (name, events, level)) in table.into_iter().enumerate() {
        for way in ["in-order", "backwards", "together"] {
            let org = format!("{way}-{n}");
            place.daemon.org(&place.key, &org, "UTC").await;
            place.quota(1000, json!({ "org": org })).await;
            let mut events = events.clone();
            events.iter_mut().for_each(|event| event["org"] = json!(org));
            if way == "backwards" {
                events.reverse();
            }
            let all = events.len();
            if way == "together" {
                assert_eq!(place.send(&events).await, vec!["accepted"; all], "{name}");
            } else {
                for event in &events {
                    assert_eq!(place.send(std::slice::from_ref(event)).await, ["accepted"], "{name}, {way}");
                }
            }
            let path = format!("/v1/usage/levels?org={org}");
            let (_, page) = place.daemon.get(&path, &place.key).await;
            assert_eq!(page["data"][0]["level"], level, "{name}, {way}");
            // Each counts once.
            assert_eq!(place.send(&events).await, vec!["duplicate"; all], "{name}, {way}");
            wanted.push((org, format!("{level}/0")));
        }
    }
    let counters = || place.counters().split(' ').map(str::to_owned).collect::<Vec<_>>();
    let once: Vec<String> = wanted.iter().map(|(_, counter)| counter.clone()).collect();
    assert_eq!(counters(), once);
    place.verified();
    // A quota that is made now begins with what is there.
    for (org, _) in &wanted {
        place.quota(7, json!({ "org": org, "per_subject": true })).await;
    }
    let twice = [once.clone(), once].concat();
    assert_eq!(counters(), twice);
    place.verified();
    // The books can be made anew.
    let spoil =
        "UPDATE usage_levels SET changes = changes + 1, set_at = NULL; UPDATE quota_counters SET used = 77";
    place.database.execute(spoil);
    let output = place.database.command(&["verify"]).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !output.status.success() && told.contains("usage_levels") && told.contains("quota_counters"),
        "{told}"
    );
    place.database.run(&["rebuild", "summaries"]);
    assert_eq!(counters(), twice);
    place.verified();
}

#[tokio::test]
async fn an_event_says_one_thing_of_a_level() {
    let place = Place::new().await;
    let with = |data: Value| json!([{ "id": "a", "org": "acme", "event_name": "seat", "data": data }]);
    for (data, told) in [
        (json!({ "seats": 5, "by": 1 }), "data.by set_and_change"),
        (json!({ "seats": -5 }), "data.seats negative_usage"),
        (json!({ "seats": null }), "data.seats no_value"),
        (json!({ "by": "x" }), "data.by not_a_number"),
        (json!({ "seats": "1e15" }), "data.seats too_large"),
    ] {
        assert_eq!(place.daemon.usage(&place.key, &with(data.clone())).await, [told], "{data}");
    }
    let most = json!({ "id": "m", "org": "acme", "event_name": "seat", "data": { "by": "999999999999999" } });
    let more = json!({ "id": "n", "org": "acme", "event_name": "seat", "data": { "by": 1 } });
    assert_eq!(place.send(&[most, more]).await, ["accepted", "data too_large"]);
    for (body, field) in [
        (json!({ "key": "x", "event_name": "x", "aggregation": "level" }), "value_field"),
        (
            json!({ "key": "x", "event_name": "x", "aggregation": "sum", "value_field": "v",
                "change_field": "c" }),
            "change_field",
        ),
        (
            json!({ "key": "x", "event_name": "x", "aggregation": "level", "value_field": "v",
                "change_field": "v" }),
            "change_field",
        ),
        (
            json!({ "key": "x", "event_name": "x", "aggregation": "level", "value_field": "v",
                "allows_negative": true }),
            "allows_negative",
        ),
    ] {
        let (status, answer) = place.daemon.post("/v1/meters", &place.key, &body).await;
        assert_eq!((status.as_u16(), &answer["field"]), (400, &json!(field)), "{body}");
    }
    for period in ["day", "month", "billing"] {
        let body = json!({ "org": "acme", "meter": "seats", "period": period, "limit": 1 });
        let (status, answer) = place.daemon.post("/v1/quotas", &place.key, &body).await;
        assert_eq!((status.as_u16(), &answer["field"]), (400, &json!("period")), "{answer}");
    }
}

#[tokio::test]
async fn a_limit_on_a_level_refuses_what_does_not_fit_and_never_resets() {
    let place = Place::new().await;
    place.quota(10, json!({ "refuse_usage": true })).await;
    let october = "2026-10-05T00:00:00Z";
    assert_eq!(place.send(&[set("a", october, 8)]).await, ["accepted"]);
    // In one batch each hangs on those before it: 8 + 3 is refused, a removal makes room, 5 + 4 fits; a set
    // to 11 is 2 too many; one to 4 leaves room for 6, of which 7 are too many.
    let november = "2026-11-05T00:00:00Z";
    let batch = [
        change("b", november, 3),
        change("c", november, -3),
        change("d", november, 4),
        set("e", "2026-11-06T00:00:00Z", 11),
        set("f", "2026-11-07T00:00:00Z", 4),
        change("g", "2026-11-08T00:00:00Z", 7),
        change("h", "2026-11-08T00:00:00Z", 6),
    ];
    let refused = "data quota_exceeded";
    let told = ["accepted", "accepted", refused, "accepted", refused, "accepted"];
    assert_eq!(place.send(&batch).await, [&[refused], &told[..]].concat());
    assert_eq!(place.counters(), "10/0");
    // What comes late behind the last set moves nothing, so nothing is over.
    assert_eq!(
        place.send(&[change("late", october, 900), set("late2", november, 900)]).await,
        ["accepted"; 2]
    );
    assert_eq!(place.counters(), "10/0");
    place.verified();
    // Set aside, settled, and over.
    assert_eq!(place.send(&[change("i", "2026-11-09T00:00:00Z", -6)]).await, ["accepted"]);
    let reserve =
        |id: &str, amount: i64| json!({ "org": "acme", "meter": "seats", "id": id, "amount": amount });
    let (status, made) = place.daemon.post("/v1/quota/reserve", &place.key, &reserve("r1", 5)).await;
    assert_eq!((status.as_u16(), &made["quotas"][0]["remaining"]), (201, &json!("1")), "{made}");
    let (status, over) = place.daemon.post("/v1/quota/reserve", &place.key, &reserve("r2", 2)).await;
    assert_eq!((status.as_u16(), &over["code"]), (409, &json!("quota_exceeded")));
    assert_eq!(over["resets_at"], "9999-12-31T23:59:59Z");
    assert_eq!(place.send(&[change("j", "2026-11-10T00:00:00Z", 2)]).await, [refused]);
    let (status, settled) =
        place.daemon.post("/v1/quota/r1/settle", &place.key, &json!({ "amount": 8 })).await;
    assert_eq!((status.as_u16(), &settled["overage"]), (200, &json!("2")), "{settled}");
    assert_eq!(place.counters(), "12/0");
    let event = json!({ "event": { "id": "k", "event_name": "seat", "data": { "seats": 3 } } });
    assert_eq!(place.send(&[change("l", "2026-11-10T00:00:00Z", -4)]).await, ["accepted"]);
    assert_eq!(place.daemon.post("/v1/quota/reserve", &place.key, &reserve("r3", 2)).await.0, 201);
    let (status, settled) = place.daemon.post("/v1/quota/r3/settle", &place.key, &event).await;
    assert_eq!((status.as_u16(), &settled["settled_amount"]), (200, &json!("3")), "{settled}");
    assert_eq!(place.counters(), "3/0");
    place.verified();
}

#[tokio::test]
async fn levels_are_told_apart_and_limited_by_team_and_subject() {
    let place = Place::new().await;
    place.quota(100, json!({})).await;
    place.quota(5, json!({ "filter": { "team": "a" }, "refuse_usage": true })).await;
    place.quota(4, json!({ "per_subject": true })).await;
    let at = "2026-11-05T00:00:00Z";
    let of = |mut event: Value, team: &str, subject: &str| {
        event["data"]["team"] = json!(team);
        event["subject"] = json!(subject);
        event
    };
    let events = [
        of(set("1", at, 4), "a", "x"),
        of(set("2", at, 3), "b", "x"),
        of(change("3", at, 1), "a", "y"),
        of(change("4", at, 1), "a", "y"),
        of(set("5", "2026-11-06T00:00:00Z", 1), "b", "x"),
    ];
    assert_eq!(
        place.send(&events).await,
        ["accepted", "accepted", "accepted", "data quota_exceeded", "accepted"]
    );
    // 4 + 1 + 1; of team a 4 + 1; of x 4 + 1, of y 1.
    assert_eq!(place.counters(), "6/0 5/0 5/0 1/0");
    assert_eq!(place.levels("&meter=seats").await.len(), 3);
    assert_eq!(place.levels("&meter=other").await.len(), 0);
    place.verified();
}

#[tokio::test]
async fn corrections_leave_the_level_of_what_stands() {
    let place = Place::new().await;
    place.quota(1000, json!({})).await;
    let day = |day: u32| format!("2026-10-{day:02}T00:00:00Z");
    let events = [
        change("a", &day(1), 50),
        set("b", &day(2), 10),
        change("c", &day(3), 4),
        set("d", &day(4), 20),
        change("e", &day(5), 1),
    ];
    assert_eq!(place.send(&events).await, ["accepted"; 5]);
    assert_eq!(place.counters(), "21/0");
    for (id, level) in [
        // Behind the last set: nothing. The change on top of it. The last set: 10 + 4 of before. That set
        // too: 50 + 4.
        ("a", "21"),
        ("e", "20"),
        ("d", "14"),
    ] {
        let body = json!({ "org": "acme", "id": id, "reason": "wrong" });
        assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &body).await.0, 200, "{id}");
        assert_eq!(place.counters(), format!("{level}/0"), "without {id}");
        place.verified();
    }
    for (id, data, level) in [
        ("b", json!({ "seats": 30 }), "34"),
        ("c", json!({ "by": -5 }), "25"),
        // What set it changes it now: -5 and 7.
        ("b", json!({ "by": 7 }), "2"),
        ("b", json!({ "seats": 1 }), "0"),
    ] {
        let body = json!({ "org": "acme", "id": id, "reason": "wrong",
            "event": { "event_name": "seat", "data": data } });
        let (status, answer) = place.daemon.post("/v1/usage/amend", &place.key, &body).await;
        assert_eq!(status, 200, "{id}: {answer}");
        assert_eq!(place.counters(), format!("{level}/0"), "{id}: {data}");
        place.verified();
    }
    let void = json!({ "org": "acme", "id": "c", "reason": "wrong" });
    assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &void).await.0, 200);
    assert_eq!(place.counters(), "1/0");
    place.verified();
}

#[tokio::test]
async fn a_level_is_told_and_priced_over_a_time() {
    let place = Place::new().await;
    let card = json!({ "currency": "usd", "valid_from": "2026-01-01T00:00:00Z", "backdate": true,
        "rates": [{ "unit_cost": "2" }] });
    let (status, made) = place.daemon.post("/v1/meters/seats/rate_cards", &place.key, &card).await;
    assert_eq!(status, 201, "{made}");
    let burning = json!({ "currency": "usd", "rates": [{ "unit_cost": "2", "battery_units": "1" }] });
    let (status, refused) = place.daemon.post("/v1/meters/seats/rate_cards", &place.key, &burning).await;
    assert_eq!((status.as_u16(), &refused["field"]), (400, &json!("rates.0.battery_units")));
    // September has 30 days: 10 for ten days, 40 for five, 25 for fifteen: (100 + 200 + 375) / 30 = 22.5.
    // October: 25 throughout.
    let events = [
        set("a", "2026-08-20T00:00:00Z", 10),
        change("b", "2026-09-11T00:00:00Z", 30),
        set("c", "2026-09-16T00:00:00Z", 25),
    ];
    assert_eq!(place.send(&events).await, ["accepted"; 3]);
    let september = ("2026-09-01T00:00:00Z", "2026-10-01T00:00:00Z");
    let october = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
    assert_eq!(place.course(september.0, september.1).await, ["25", "10", "25", "22.5", "40"]);
    assert_eq!(place.course(october.0, october.1).await, ["25", "25", "25", "25", "25"]);
    assert_eq!(
        place.course("2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z").await,
        ["25", "0", "0", "0", "0"]
    );
    let query = |by: &str| format!("&from={}&to={}{by}", september.0, september.1);
    let costs = |levels: &[Value]| [levels[0]["cost"].clone(), levels[0]["currency"].clone()];
    assert_eq!(costs(&place.levels(&query("")).await), [json!("45"), json!("usd")]);
    assert_eq!(costs(&place.levels(&query("&price_by=peak")).await), [json!("80"), json!("usd")]);
    // A late one: 30 more from 6 to 11 September, and the set at 11 takes its place: 10 × 5 + 40 × 5 + 35 × 5
    // + 375 = 800 / 30.
    let late = [change("late", "2026-09-06T00:00:00Z", 30), set("late2", "2026-09-11T00:00:00Z", 5)];
    assert_eq!(place.send(&late).await, ["accepted"; 2]);
    assert_eq!(place.course(september.0, september.1).await, ["25", "10", "25", "26.666666666667", "40"]);
    let void = json!({ "org": "acme", "id": "late2", "reason": "wrong" });
    assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &void).await.0, 200);
    // 10 × 5 + 40 × 5 + 70 × 5 + 375 = 975 / 30.
    assert_eq!(place.course(september.0, september.1).await, ["25", "10", "25", "32.5", "70"]);
    // One page after the other, and another org's key sees nothing.
    let other = place.daemon.org(&place.key, "other", "UTC").await;
    let foreign = place.database.key("usage:read", Some(&other));
    let (_, page) = place.daemon.get("/v1/usage/levels", &foreign).await;
    assert_eq!(page["data"], json!([]));
    assert_eq!(place.daemon.get("/v1/usage/levels?org=acme", &foreign).await.0, 404);
    let (status, wrong) =
        place.daemon.get("/v1/usage/levels?org=acme&from=2999-01-01T00:00:00Z", &place.key).await;
    assert_eq!((status.as_u16(), &wrong["field"]), (400, &json!("to")));
    let request = place.daemon.request(Method::GET, "/v1/usage/levels?org=acme&price_by=moon", &place.key);
    assert_eq!(answer(request).await.0, 400);
    place.verified();
}

/// October has two events, and is closed. What comes for it afterwards, and what takes back or replaces,
/// moves the level at once; October's summary goes on counting its two events, November has the amendment
/// and the late one.
#[tokio::test]
async fn a_closed_month_stays_and_its_levels_are_corrected() {
    let place = Place::new().await;
    place.quota(1000, json!({})).await;
    let day = |day: u32| format!("2026-10-{day:02}T00:00:00Z");
    assert_eq!(place.send(&[set("a", &day(2), 10), change("b", &day(3), 4)]).await, ["accepted"; 2]);
    let closing = json!({ "org": "acme", "month": "2026-10" });
    let (status, closed) = place.daemon.post("/v1/usage/closings", &place.key, &closing).await;
    assert_eq!(status, 200, "{closed}");
    let counts = || {
        let sql = "SELECT concat(sum(count) FILTER (WHERE day < '2026-11-01'), '/',
            sum(count) FILTER (WHERE day >= '2026-11-01')) FROM daily_summaries";
        place.database.value(sql).unwrap_or_default()
    };
    let void = json!({ "org": "acme", "id": "b", "reason": "wrong" });
    assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &void).await.0, 200);
    assert_eq!((place.counters(), counts()), ("10/0".to_owned(), "2/".to_owned()));
    place.verified();
    let event = json!({ "event_name": "seat", "data": { "seats": 30 } });
    let amend = json!({ "org": "acme", "id": "a", "reason": "wrong", "event": event });
    let (status, amended) = place.daemon.post("/v1/usage/amend", &place.key, &amend).await;
    assert_eq!(status, 200, "{amended}");
    assert_eq!((place.counters(), counts()), ("30/0".to_owned(), "2/1".to_owned()));
    place.verified();
    assert_eq!(place.send(&[change("late", &day(5), 2)]).await, ["accepted"]);
    assert_eq!((place.counters(), counts()), ("32/0".to_owned(), "2/2".to_owned()));
    place.verified();
    // By the time of the events, whatever month they were posted to: 30 for three days from the 2nd on, then
    // 32 for three.
    assert_eq!(place.course(&day(2), &day(8)).await, ["32", "30", "32", "31", "32"]);
    place
        .database
        .execute("DELETE FROM usage_levels; DELETE FROM quota_counters; DELETE FROM daily_summaries");
    place.database.run(&["rebuild", "summaries"]);
    assert_eq!((place.counters(), counts()), ("32/0".to_owned(), "2/2".to_owned()));
    place.verified();
}

/// A level has its price over a time, not when it is reported or set aside.
#[tokio::test]
async fn a_level_is_not_refused_for_want_of_a_rate() {
    let place = Place::new().await;
    place.quota(100, json!({})).await;
    let rates = json!([{ "when": { "team": "a" }, "unit_cost": "2" }]);
    let card =
        json!({ "currency": "usd", "valid_from": "2026-01-01T00:00:00Z", "backdate": true, "rates": rates });
    let (status, made) = place.daemon.post("/v1/meters/seats/rate_cards", &place.key, &card).await;
    assert_eq!(status, 201, "{made}");
    let refuse = place.daemon.request(Method::PATCH, "/v1/meters/seats", &place.key);
    let (status, changed) = answer(refuse.json(&json!({ "unpriced": "refuse" }))).await;
    assert_eq!((status.as_u16(), &changed["unpriced"]), (200, &json!("refuse")), "{changed}");
    let mut event = set("a", "2026-10-02T00:00:00Z", 10);
    event["data"]["team"] = json!("b");
    assert_eq!(place.send(&[event]).await, ["accepted"]);
    let reserve =
        json!({ "org": "acme", "meter": "seats", "id": "r", "amount": 5, "dimensions": { "team": "b" } });
    let (status, made) = place.daemon.post("/v1/quota/reserve", &place.key, &reserve).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(place.counters(), "10/5");
    let (_, page) = place.daemon.get("/v1/usage/unpriced?org=acme", &place.key).await;
    assert_eq!(page["data"], json!([]), "{page}");
    assert_eq!(place.levels("").await[0]["cost"], Value::Null);
    place.verified();
}

/// Where the time of the last change is lost, a set that comes late would forget the changes after it.
#[tokio::test]
async fn a_rebuilt_level_takes_a_late_set() {
    let (october, november) = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
    for spoil in ["DELETE FROM usage_levels", "UPDATE usage_levels SET changed_at = NULL"] {
        let place = Place::new().await;
        place.quota(1000, json!({})).await;
        assert_eq!(place.send(&[change("a", october, 5), change("b", november, 3)]).await, ["accepted"; 2]);
        place.database.execute(spoil);
        let output = place.database.command(&["verify"]).output().expect("runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && told.contains("usage_levels"), "{spoil}: {told}");
        place.database.run(&["rebuild", "summaries"]);
        place.verified();
        // 10, and the 3 of after it.
        assert_eq!(place.send(&[set("c", "2026-10-05T00:00:00Z", 10)]).await, ["accepted"]);
        assert_eq!(place.counters(), "13/0", "{spoil}");
        place.verified();
    }
}
