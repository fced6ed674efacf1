//! Extreme prices and quantities: the daemon refuses only what it cannot store exactly, and everything else
//! continues.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Daemon, Database};

const KEYS: &str = "usage:write,usage:read,usage:price,billing:write,billing:read";
const LARGEST: &str = "999999999999999.999999999999";

fn event(org: &str, id: impl std::fmt::Display, name: &str, value: &str) -> Value {
    json!({ "id": id.to_string(), "source": "t", "org": org, "event_name": name, "data": { "value": value } })
}

/// The orgs `acme` and `other`, and a meter without a price.
async fn ready(database: &Database, daemon: &Daemon) -> String {
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    daemon.org(&key, "other", "UTC").await;
    database.meter(1, "plain", "sum", "", None);
    key
}

/// How often each outcome occurs.
fn counts(outcomes: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    outcomes.iter().for_each(|outcome| *counts.entry(outcome.as_str()).or_default() += 1);
    counts
}

/// Each price with each quantity, many in a request: the sums go far beyond a decimal.
#[tokio::test]
async fn no_price_and_no_quantity_stops_the_writers() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = ready(&database, &daemon).await;
    let tiers = |mode: &str, tier: Value| json!([{ "tiers": { "mode": mode, "tiers": [tier] } }]);
    let cards = [
        json!([{ "unit_cost": "999999999999999", "battery_units": "0" }]),
        json!([{ "unit_cost": "9000000000" }]),
        json!([{ "battery_units": LARGEST }]),
        json!([{ "unit_cost": "1", "battery_units": "1" }]),
        tiers("graduated", json!({ "unit_cost": LARGEST, "flat_cost": LARGEST })),
        tiers("volume", json!({ "unit_cost": "1", "flat_cost": LARGEST })),
        tiers("package", json!({ "unit_cost": LARGEST, "package_size": "0.000000000001" })),
        tiers("package", json!({ "unit_cost": "0.5", "package_size": LARGEST })),
    ];
    for (id, rates) in (2..).zip(&cards) {
        database.meter(id, &format!("work{id}"), "sum", "", Some(rates));
        database.slot(id, id, &json!({}), false, "month");
    }
    database.execute(
        "UPDATE meter_versions SET allows_negative = true; UPDATE catalog SET version = version + 1",
    );
    let quantities = [LARGEST, "70000000000000", "99999", "1", "0.000000000001", "-999999999999999"];
    let mut events = Vec::new();
    for id in 2..2 + cards.len() {
        for (n, quantity) in quantities.iter().enumerate() {
            let name = format!("work{id}");
            events.extend((0..30).map(|m| event("acme", format!("{id}-{m}-{n}"), &name, quantity)));
        }
    }
    for times in 0..2 {
        let mut both = events.clone();
        both.push(event("other", times, "plain", "1"));
        let outcomes = daemon.usage(&key, &json!(both)).await;
        assert_eq!(outcomes.last().map(String::as_str), Some("accepted"));
        for outcome in &outcomes {
            let known = ["accepted", "duplicate", "data too_large", "data amount_too_large"];
            assert!(known.contains(&outcome.as_str()), "{outcome}");
        }
        assert!(counts(&outcomes)["data too_large"] >= 30, "{:?}", counts(&outcomes));
        let alone = event("other", format!("{times}b"), "plain", "1");
        assert_eq!(daemon.usage(&key, &alone).await, ["accepted"]);
    }
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    // Stored events can be voided or amended, or a clear answer says why not.
    let stored = database.value(
        "SELECT jsonb_agg(jsonb_build_object('id', event_id, 'name', event_name))
         FROM usage_records JOIN meter_versions USING (meter_id)
         WHERE meter_id > 1 AND split_part(event_id, '-', 2)::integer < 2",
    );
    let stored: Value = serde_json::from_str(&stored.expect("events")).expect("json");
    for (n, one) in stored.as_array().expect("events").iter().enumerate() {
        let mut body = json!({ "org": "acme", "source": "t", "id": one["id"], "reason": "wrong" });
        let path = if n % 2 == 0 {
            "/v1/usage/void"
        } else {
            body["event"] = json!({ "event_name": one["name"], "data": { "value": LARGEST } });
            "/v1/usage/amend"
        };
        let (status, answer) = daemon.post(path, &key, &body).await;
        let clear = matches!(
            (status.as_u16(), answer["code"].as_str()),
            (200, None) | (409, Some("amount_too_large")) | (400, Some("invalid_request"))
        );
        assert!(clear, "{path} {one}: {status} {answer}");
    }
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    assert_eq!(daemon.usage(&key, &event("other", "last", "plain", "1")).await, ["accepted"]);
}

/// Rust's decimals have 28 digits, and these sums have 31: every sum must equal PostgreSQL's.
#[tokio::test]
async fn sums_of_the_largest_are_exact_to_the_last_digit() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = ready(&database, &daemon).await;
    let rates = json!([{ "unit_cost": "0.999999999999" }]);
    let tiers = json!([{ "tiers": { "mode": "volume", "tiers": [{ "unit_cost": "0.333333333333" }] } }]);
    database.meter(2, "work", "sum", "", Some(&rates));
    database.meter(3, "steps", "sum", "", Some(&tiers));
    database.slot(2, 2, &json!({}), false, "month");
    let mut events: Vec<Value> = (0..9_000).map(|n| event("acme", n, "work", LARGEST)).collect();
    events.push(event("acme", "small", "work", "0.000000000001"));
    events.extend((0..200).map(|n| event("acme", format!("t{n}"), "steps", LARGEST)));
    let outcomes = daemon.usage(&key, &json!(events)).await;
    // A month's quantity is priced exactly, with any number of digits: 200 of the largest have 30.
    assert_eq!(counts(&outcomes), [("accepted", 9_201)].into());
    let of_work = "SELECT sum(quantity) FROM usage_records WHERE meter_id = 2";
    let sum = "8999999999999999999.999999991001";
    assert_eq!(database.value(&format!("SELECT trim_scale(({of_work}))")).as_deref(), Some(sum));
    let counter = "SELECT trim_scale(used) FROM quota_counters WHERE slot_id = 2";
    assert_eq!(database.value(counter).as_deref(), Some(sum));
    assert_eq!(
        database.value("SELECT trim_scale(quantity) FROM rating_counters").as_deref(),
        Some("199999999999999999.9999999998")
    );
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    database.run(&["verify"]);
}

/// A battery's balance, debt and reservations stay below 10^16. The daemon refuses all events that would
/// exceed it at once, and stores the rest of the batch in one more transaction.
#[tokio::test]
async fn a_full_battery_refuses_what_burns_it_and_nothing_else() {
    const MUCH: &str = "999999999999999";
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = ready(&database, &daemon).await;
    database.meter(2, "work", "sum", "", Some(&json!([{ "battery_units": "1" }])));
    let mut events: Vec<Value> = (0..500).map(|n| event("acme", n, "work", MUCH)).collect();
    events.extend((0..20).map(|n| event("acme", format!("p{n}"), "plain", "1")));
    events.extend((0..20).map(|n| event("other", n, "work", "2")));
    let outcomes = daemon.usage(&key, &json!(events)).await;
    assert_eq!(counts(&outcomes), [("accepted", 40), ("data amount_too_large", 500)].into());
    assert_eq!(database.number("SELECT count(DISTINCT xmin::text) FROM usage_keys"), 1);
    // What fits is stored; the keys of refused events are free again.
    for n in 0..10 {
        assert_eq!(daemon.usage(&key, &event("acme", n, "work", MUCH)).await, ["accepted"], "{n}");
    }
    assert_eq!(daemon.usage(&key, &event("acme", 10, "work", MUCH)).await, ["data amount_too_large"]);
    let all = json!([event("acme", 10, "work", MUCH), event("acme", "x", "plain", "1")]);
    let (status, answer) = daemon.post("/v1/usage?all_or_nothing=true", &key, &all).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (422, Some("not_stored")), "{answer}");
    let void = json!({ "org": "acme", "source": "t", "id": "3", "reason": "wrong" });
    assert_eq!(daemon.post("/v1/usage/void", &key, &void).await.0, 200);
    // Larger reservations and grants are refused too, and nothing stops.
    for (path, org, body) in [
        ("/v1/quota/reserve", "other", json!({ "meter": "meter-2", "amount": MUCH })),
        ("/v1/battery/grants", "acme", json!({ "amount": MUCH, "source": "bonus", "reason": "much" })),
    ] {
        let mut refused = 0;
        for n in 0..25 {
            let mut body = body.clone();
            body["org"] = json!(org);
            body[if org == "other" { "id" } else { "key" }] = json!(n.to_string());
            let (status, answer) = daemon.post(path, &key, &body).await;
            match (status.as_u16(), answer["code"].as_str()) {
                (200 | 201, None) => assert_eq!(refused, 0, "{path} {n}"),
                (409, Some("amount_too_large")) => refused += 1,
                _ => panic!("{path} {n}: {status} {answer}"),
            }
        }
        assert!((1..25).contains(&refused), "{path}: {refused}");
    }
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    assert_eq!(daemon.usage(&key, &event("other", "last", "work", "1")).await, ["accepted"]);
    database.run(&["verify"]);
}
