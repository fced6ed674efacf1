//! Corrections of one org while others send usage: only requests that must wait for a correction wait, and
//! all books stay the sums of the records.

use std::time::Duration;

use chrono::Utc;
use diesel::connection::SimpleConnection;
use serde_json::{Value, json};

use crate::support::{Daemon, Database};

const KEYS: &str = "usage:write,usage:price,usage:read,billing:write,billing:read";

fn event(org: &str, id: impl std::fmt::Display, value: i64) -> Value {
    json!({ "id": id.to_string(), "source": "t", "org": org, "event_name": "work",
        "data": { "value": value } })
}

fn void(id: impl std::fmt::Display) -> Value {
    json!({ "org": "acme", "source": "t", "id": id.to_string(), "reason": "wrong" })
}

fn amend(id: impl std::fmt::Display, value: i64) -> Value {
    let mut body = void(id);
    body["event"] = json!({ "event_name": "work", "data": { "value": value } });
    body
}

/// Writers of usage lock the catalogue in shared mode, as this open transaction does.
#[tokio::test]
async fn a_correction_waits_for_no_writer_of_other_usage() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    database.meter(1, "work", "max", "", None);
    let events = json!([event("acme", 1, 7), event("acme", 2, 5)]);
    assert_eq!(daemon.usage(&key, &events).await, ["accepted", "accepted"]);
    let mut writer = database.owner();
    writer.batch_execute("BEGIN; SELECT pg_advisory_xact_lock_shared(2685664)").expect("begins");
    let corrected = async {
        let first = daemon.post("/v1/usage/void", &key, &void(1)).await;
        (first, daemon.post("/v1/usage/amend", &key, &amend(2, 3)).await)
    };
    let corrected = tokio::time::timeout(Duration::from_secs(20), corrected).await;
    writer.batch_execute("ROLLBACK").expect("ends");
    let (first, second) = corrected.expect("it does not wait for the writer");
    assert_eq!((first.0.as_u16(), second.0.as_u16()), (200, 200), "{} {}", first.1, second.1);
    assert_eq!(
        database.value("SELECT quantity || '/' || count FROM daily_summaries").as_deref(),
        Some("3/1")
    );
}

/// Fifty thousand events of one instant, and several connections that correct them: a correction looks up
/// only its own event, and every single event of another org is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn corrections_among_many_events_of_an_instant_hold_up_nobody() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    daemon.org(&key, "other", "UTC").await;
    database.meter(1, "work", "sum", "", None);
    let at = json!(Utc::now() - chrono::Duration::hours(1));
    let events: Vec<Value> = (0..50_000)
        .map(|n| {
            let mut event = event("acme", n, 1);
            event["occurred_at"] = at.clone();
            event
        })
        .collect();
    for events in events.chunks(10_000) {
        let outcomes = daemon.usage(&key, &json!(events)).await;
        assert!(outcomes.iter().all(|outcome| outcome == "accepted"));
    }
    let own = database.key("usage:write", Some("acme"));
    let correct = async |from: i64| {
        for n in from..from + 15 {
            loop {
                let (status, answer) = daemon.post("/v1/usage/void", &own, &void(n)).await;
                // An org that sends too much at once may get 503.
                if status != 503 {
                    assert_eq!(status, 200, "{answer}");
                    break;
                }
            }
        }
    };
    let others = async {
        for n in 0..60 {
            assert_eq!(daemon.usage(&key, &event("other", n, 1)).await, ["accepted"]);
        }
    };
    tokio::join!(
        correct(0),
        correct(100),
        correct(200),
        correct(300),
        correct(400),
        correct(500),
        correct(600),
        correct(700),
        others
    );
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 50_000 - 8 * 15 + 60);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    // The correction reads the records of only one of all events of the instant.
    database.execute(
        "ANALYZE usage_records;
         CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE line text; plan text := '';
         BEGIN
             FOR line IN EXECUTE 'EXPLAIN (ANALYZE, TIMING off, COSTS off, SUMMARY off) ' || query
             LOOP plan := plan || line || E'\\n'; END LOOP;
             RETURN plan;
         END $$",
    );
    let plan = database.value(
        "SELECT plan(format('SELECT * FROM usage_records
             WHERE org_id = %s AND occurred_at = %L AND event_key = %L',
             org_id, occurred_at, event_key))
         FROM usage_keys WHERE org_id = 1 LIMIT 1",
    );
    let plan = plan.expect("a plan");
    assert!(plan.contains("Index") && !plan.contains("Removed by"), "{plan}");
}

/// Two daemons handle usage and its corrections at once, on the same series, days, tiers, quotas and battery.
#[tokio::test(flavor = "multi_thread")]
async fn corrections_race_with_usage_and_the_books_are_the_records() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = database.key(KEYS, None);
    daemons[0].org(&key, "acme", "UTC").await;
    let rates = json!([{ "tiers": { "mode": "graduated", "tiers": [
        { "up_to": "50", "unit_cost": "1" }, { "up_to": "300", "unit_cost": "0.3", "flat_cost": "2" },
            { "unit_cost": "0.07" }
    ] }, "battery_units": "1.5" }]);
    database.meter(1, "work", "sum", "", Some(&rates));
    for (id, aggregation) in [(2, "count"), (3, "max"), (4, "unique"), (5, "latest")] {
        database.meter(id, "work", aggregation, "", None);
    }
    database.execute(
        "UPDATE meter_versions SET allows_negative = true; UPDATE catalog SET version = version + 1",
    );
    database.slot(1, 1, &json!({}), false, "month");
    database.slot(2, 1, &json!({}), true, "day");
    database.grant(1, "start", "5000");
    let start = Utc::now() - chrono::Duration::minutes(30);
    // Few values and few instants, so that voided events often are the ones that count.
    let made = |n: i64| {
        let mut event = event("acme", n, n % 7 - 3);
        event["occurred_at"] = json!(start + chrono::Duration::seconds(n % 11));
        event["subject"] = json!(format!("s{}", n % 3));
        event
    };
    let work = async |lane: i64| {
        let daemon = &daemons[usize::try_from(lane % 2).expect("small")];
        for round in 0..5 {
            let from = lane * 1_000 + round * 10;
            let events: Vec<Value> = (from..from + 10).map(made).collect();
            assert_eq!(daemon.usage(&key, &json!(events)).await, vec!["accepted"; 10]);
            for n in from..from + 8 {
                let (status, answer) = if n % 2 == 0 {
                    daemon.post("/v1/usage/void", &key, &void(n)).await
                } else {
                    daemon.post("/v1/usage/amend", &key, &amend(n, n % 5 - 2)).await
                };
                assert_eq!(status, 200, "{answer}");
            }
        }
    };
    tokio::join!(work(0), work(1), work(2), work(3), work(4), work(5));
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    // Meters that do not add up, computed from the remaining events.
    let wrong = database.value(
        "WITH standing AS (
             SELECT series_id, day, aggregation, quantity, value, occurred_at
             FROM usage_records r JOIN meters m USING (meter_id)
             WHERE correction % 2 = 0 AND NOT EXISTS (SELECT FROM usage_records v
                 WHERE (v.event_key, v.meter_id, v.correction) = (r.event_key, r.meter_id,
                     r.correction + 1))),
         told AS (
             SELECT series_id, day, count(*) AS count,
                 CASE min(aggregation) WHEN 'max' THEN max(quantity) WHEN 'unique' THEN count(DISTINCT value)
                 WHEN 'latest' THEN (array_agg(quantity ORDER BY occurred_at DESC, quantity DESC))[1]
                 ELSE sum(quantity) END AS quantity
             FROM standing GROUP BY 1, 2)
         SELECT string_agg(format('%s: %s/%s, by the records %s/%s', m.aggregation, d.quantity, d.count,
             t.quantity, t.count), '; ')
         FROM told t JOIN daily_summaries d USING (series_id, day)
         JOIN usage_series s USING (org_id, series_id) JOIN meters m USING (meter_id)
         WHERE (d.quantity, d.count) IS DISTINCT FROM (t.quantity, t.count)",
    );
    assert_eq!(wrong, None);
    database.run(&["verify"]);
}

/// When all events of a day are voided, the next one counts, also below zero.
#[tokio::test]
async fn a_day_that_was_emptied_begins_anew() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    for (id, aggregation) in [(3, "max"), (4, "unique"), (5, "latest")] {
        database.meter(id, "work", aggregation, "", None);
    }
    database.execute(
        "UPDATE meter_versions SET allows_negative = true; UPDATE catalog SET version = version + 1",
    );
    let day = || {
        let sql = "SELECT string_agg(meter_id || ':' || quantity || '/' || count, ' ' ORDER BY meter_id)
                   FROM daily_summaries JOIN usage_series USING (org_id, series_id)";
        database.value(sql).expect("a day")
    };
    assert_eq!(daemon.usage(&key, &event("acme", 1, 7)).await, ["accepted"]);
    assert_eq!(daemon.post("/v1/usage/amend", &key, &amend(1, -4)).await.0, 200);
    assert_eq!(day(), "3:-4/1 4:1/1 5:-4/1");
    assert_eq!(daemon.post("/v1/usage/void", &key, &void(1)).await.0, 200);
    assert_eq!(day(), "3:0/0 4:0/0 5:0/0");
    assert_eq!(daemon.usage(&key, &event("acme", 2, -5)).await, ["accepted"]);
    assert_eq!(day(), "3:-5/1 4:1/1 5:-5/1");
    database.run(&["verify"]);
}

/// A correction's number has 15 bits.
#[tokio::test]
async fn an_event_is_not_amended_beyond_what_can_be_numbered() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    database.meter(1, "work", "sum", "", None);
    assert_eq!(daemon.usage(&key, &event("acme", 1, 7)).await, ["accepted"]);
    database.execute("UPDATE usage_records SET correction = 32764");
    let (status, answer) = daemon.post("/v1/usage/amend", &key, &amend(1, 8)).await;
    assert_eq!((status.as_u16(), &answer["correction"]), (200, &json!(32_766)), "{answer}");
    let (status, answer) = daemon.post("/v1/usage/amend", &key, &amend(1, 9)).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (409, Some("too_many_corrections")), "{answer}");
    let (status, answer) = daemon.post("/v1/usage/void", &key, &void(1)).await;
    assert_eq!((status.as_u16(), &answer["correction"]), (200, &json!(32_767)), "{answer}");
    let (status, answer) = daemon.post("/v1/usage/void", &key, &void(1)).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (409, Some("already_voided")), "{answer}");
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 0);
}
