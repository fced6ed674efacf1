//! What values of usage are taken, how they are kept, and which differences in writing make no difference.
//! Tables of situations, their figures reckoned by hand.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

/// A meter `meter-1` of `sum` over the events `e`, with the dimension `tier`, an org `acme`, and a key that
/// may report usage alone.
struct Place {
    database: Database,
    daemon: Daemon,
    /// Of the platform: `usage:write` and what reading needs.
    key: String,
    /// Of the platform too, with `usage:price`.
    pricing: String,
}

impl Place {
    async fn new(aggregation: &str, prices: Option<Value>) -> Self {
        let database = Database::new();
        database.meter(1, "e", aggregation, "tier", prices.as_ref());
        let daemon = Daemon::start(&database);
        let key = database.key("billing:write,billing:read,usage:read,usage:write", None);
        let pricing = database.key("usage:write,usage:price", None);
        daemon.org(&key, "acme", "UTC").await;
        Self { database, daemon, key, pricing }
    }

    /// Sends text as it is; the status and the answer.
    async fn send(&self, path: &str, key: &str, content_type: &str, body: &str) -> (u16, Value) {
        let request = self.daemon.request(Method::POST, path, key).header("Content-Type", content_type);
        let (status, answer) = answer(request.body(body.to_owned())).await;
        (status.as_u16(), answer)
    }

    /// What became of one event, written as it is: its status, or the field and rule.
    async fn event(&self, key: &str, body: &str) -> String {
        let (status, answer) = self.send("/v1/usage", key, "application/json", body).await;
        let one = &answer["results"][0];
        match one["rule"].as_str() {
            Some(rule) if one["status"] == "rejected" => {
                format!("{} {rule}", one["field"].as_str().expect("a field"))
            }
            _ => one["status"].as_str().unwrap_or_else(|| panic!("{status} {answer}")).to_owned(),
        }
    }

    fn sum(&self) -> Option<String> {
        self.database.value("SELECT trim_scale(sum(quantity))::text FROM daily_summaries")
    }
}

#[tokio::test]
async fn values_below_zero_are_refused_by_name_on_every_door() {
    let prices = json!([{ "unit_cost": "2", "battery_units": "1" }]);
    let place = Place::new("sum", Some(prices)).await;
    let native = |id: &str, value: &str| {
        format!(r#"{{"id":"{id}","org":"acme","event_name":"e","data":{{"value":{value}}}}}"#)
    };
    // Whoever may set prices may not either, where the meter does not say so.
    for (key, value) in [
        (&place.key, "-5000"),
        (&place.key, "-0.000000000001"),
        (&place.key, "\"-1\""),
        (&place.key, "-1e3"),
        (&place.pricing, "-1"),
    ] {
        assert_eq!(place.event(key, &native("a", value)).await, "data.value negative_usage", "{value}");
    }
    // What rounds to nothing is nothing, and so is minus nothing.
    for (id, value) in [("z1", "-0"), ("z2", "-0.0000000000004"), ("z3", "\"-0.0\"")] {
        assert_eq!(place.event(&place.key, &native(id, value)).await, "accepted", "{value}");
    }
    let cloud =
        r#"{"specversion":"1.0","id":"c","source":"s","type":"e","subject":"acme","data":{"value":-3}}"#;
    let lago =
        r#"{"transaction_id":"l","external_subscription_id":"acme","code":"e","properties":{"value":-3}}"#;
    let lines = format!("{}\n{}\n", native("n1", "7"), native("n2", "-7"));
    let (status, answer) = place.send("/v1/usage", &place.key, "application/x-ndjson", &lines).await;
    let rules = [&answer["results"][0]["status"], &answer["results"][1]["rule"]];
    assert_eq!((status, rules), (200, [&json!("accepted"), &json!("negative_usage")]), "{answer}");
    let (status, answer) = place.send("/v1/usage", &place.key, "application/cloudevents+json", cloud).await;
    assert_eq!((status, &answer["code"]), (400, &json!("negative_usage")), "{answer}");
    let (status, answer) =
        place.send("/api/v1/events", &place.key, "application/cloudevents+json", cloud).await;
    assert_eq!(status, 400);
    assert!(answer["detail"].as_str().expect("text").contains("(negative_usage)"), "{answer}");
    for (path, body) in [
        ("/api/v1/events", format!(r#"{{"event":{lago}}}"#)),
        ("/api/v1/events/batch", format!(r#"{{"events":[{lago}]}}"#)),
    ] {
        let (status, answer) = place.send(path, &place.key, "application/json", &body).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["error_details"].to_string().contains("negative_usage"), "{answer}");
    }
    let reserve = json!({ "org": "acme", "id": "r", "meter": "meter-1", "amount": 1 });
    assert_eq!(place.daemon.post("/v1/quota/reserve", &place.key, &reserve).await.0, 201);
    let settle = json!({ "event": { "id": "s", "event_name": "e", "data": { "value": -500 } } });
    let (status, answer) = place.daemon.post("/v1/quota/r/settle", &place.key, &settle).await;
    assert_eq!((status.as_u16(), &answer["field"]), (400, &json!("event.data.value")), "{answer}");
    let amend = json!({ "org": "acme", "id": "n1", "reason": "x",
        "event": { "event_name": "e", "data": { "value": -7 } } });
    let (status, answer) = place.daemon.post("/v1/usage/amend", &place.key, &amend).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(place.sum().as_deref(), Some("7"));
    assert_eq!(place.database.ledger(1), ["usage -7 → -7"]);
}

#[tokio::test]
async fn a_meter_may_take_values_below_zero_from_who_may_set_prices() {
    let place = Place::new("sum", Some(json!([{ "unit_cost": "2", "battery_units": "1" }]))).await;
    place.database.grant(1, "one", "10");
    let patch = json!({ "allows_negative": true });
    let request = place.daemon.request(Method::PATCH, "/v1/meters/meter-1", &place.key).json(&patch);
    let (status, meter) = answer(request).await;
    assert_eq!(
        (status.as_u16(), &meter["allows_negative"], &meter["version"]),
        (200, &json!(true), &json!(2))
    );
    let native = |id: &str, value: &str| {
        format!(r#"{{"id":"{id}","org":"acme","event_name":"e","data":{{"value":{value}}}}}"#)
    };
    assert_eq!(place.event(&place.key, &native("a", "8")).await, "accepted");
    assert_eq!(place.event(&place.key, &native("b", "-3")).await, "data.value negative_usage");
    // On the other doors likewise; and a settlement, which sets no price, never takes it.
    let reserve = json!({ "org": "acme", "id": "r", "meter": "meter-1", "amount": 1 });
    assert_eq!(place.daemon.post("/v1/quota/reserve", &place.key, &reserve).await.0, 201);
    let cloud =
        r#"{"specversion":"1.0","id":"c","source":"s","type":"e","subject":"acme","data":{"value":-3}}"#;
    let lago =
        r#"{"transaction_id":"l","external_subscription_id":"acme","code":"e","properties":{"value":-3}}"#;
    let lago = &format!(r#"{{"event":{lago}}}"#);
    let amend = r#"{"org":"acme","id":"a","reason":"x","event":{"event_name":"e","data":{"value":-3}}}"#;
    let settle = r#"{"event":{"id":"s","event_name":"e","data":{"value":-3}}}"#;
    let set_cost = r#"{"event":{"id":"s","event_name":"e","cost":"1","data":{"value":3}}}"#;
    let settled = "/v1/quota/r/settle";
    for (key, path, kind, body, refused) in [
        (&place.key, "/api/v1/events", "application/cloudevents+json", cloud, 400),
        (&place.key, "/api/v1/events", "application/json", lago, 422),
        (&place.key, "/v1/usage/amend", "application/json", amend, 400),
        (&place.key, settled, "application/json", settle, 400),
        (&place.pricing, settled, "application/json", settle, 400),
        (&place.pricing, settled, "application/json", set_cost, 400),
    ] {
        let (status, answer) = place.send(path, key, kind, body).await;
        assert_eq!(status, refused, "{path} {body}: {answer}");
    }
    assert_eq!(place.event(&place.pricing, &native("b", "-3")).await, "accepted");
    // 8 - 3 units at 2 each; the battery burned 8, and usage gives it nothing back.
    let totals = "SELECT concat(trim_scale(sum(quantity)), ' ', trim_scale(sum(cost))) FROM daily_summaries";
    assert_eq!(place.database.value(totals).as_deref(), Some("5 10"));
    assert_eq!(place.database.ledger(1), ["bonus 10 → 10", "usage -8 → 2"]);
    // Taken back, it is as if it had not been reported.
    let void = json!({ "org": "acme", "id": "b", "reason": "x" });
    assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &void).await.0, 200);
    assert_eq!(place.database.value(totals).as_deref(), Some("8 16"));
    assert_eq!(place.database.ledger(1), ["bonus 10 → 10", "usage -8 → 2"]);
    for aggregation in ["count", "unique"] {
        let field = if aggregation == "count" { Value::Null } else { json!("v") };
        let body = json!({ "key": "other", "event_name": "o", "aggregation": aggregation,
            "value_field": field, "allows_negative": true });
        let (status, answer) = place.daemon.post("/v1/meters", &place.key, &body).await;
        assert_eq!((status.as_u16(), &answer["field"]), (400, &json!("allows_negative")), "{answer}");
    }
}

/// The ledger has 12 places, a quantity times its units 24. What is below the last place is burned when there
/// is enough of it, and nothing is lost: 0.4 of it each time.
#[tokio::test]
async fn what_is_too_small_for_the_ledger_is_carried() {
    let prices = json!([{ "unit_cost": "0", "battery_units": "0.000000000001" }]);
    let place = Place::new("sum", Some(prices)).await;
    place.database.grant(1, "one", "10");
    let mut ledger = vec!["bonus 10 → 10"];
    for (id, entry) in [
        ("a", None),
        ("b", None),
        // 1.2, of which 0.2 are left.
        ("c", Some("usage -0.000000000001 → 9.999999999999")),
        ("d", None),
        ("e", Some("usage -0.000000000001 → 9.999999999998")),
    ] {
        let sent = format!(r#"{{"id":"{id}","org":"acme","event_name":"e","data":{{"value":"0.4"}}}}"#);
        assert_eq!(place.event(&place.key, &sent).await, "accepted");
        ledger.extend(entry);
        assert_eq!(place.database.ledger(1), ledger, "{id}");
    }
    // 2 are burned, and nothing is left. Of 1.6 one is given back and 0.6 are left; of 1.2 0.2; of 0.8 the
    // other is given back.
    for (id, entry) in [
        ("a", Some("refund 0.000000000001 → 9.999999999999")),
        ("b", None),
        ("c", Some("refund 0.000000000001 → 10")),
    ] {
        let void = json!({ "org": "acme", "id": id, "reason": "x" });
        assert_eq!(place.daemon.post("/v1/usage/void", &place.key, &void).await.0, 200);
        ledger.extend(entry);
        assert_eq!(place.database.ledger(1), ledger, "{id} taken back");
    }
    place.database.run(&["verify"]);
}

#[tokio::test]
async fn values_are_taken_as_languages_print_them() {
    let place = Place::new("sum", None).await;
    let mut sum = rust_decimal::Decimal::ZERO;
    for (n, (sent, kept)) in [
        // JavaScript's 0.1 * 3, 1.1 + 2.2, 1e21 / 1e22; Python's 1/3 and 2/3; Java's 4.35 * 100; Go's 1e-7.
        ("0.30000000000000004", "0.3"),
        ("3.3000000000000003", "3.3"),
        ("0.3333333333333333", "0.333333333333"),
        ("0.6666666666666666", "0.666666666667"),
        ("434.99999999999994", "435"),
        ("1e-07", "0.0000001"),
        ("6.02e+3", "6020"),
        ("\"72.95000000000002\"", "72.95"),
        ("0.0000000000005", "0"),
        ("0.0000000000015", "0.000000000002"),
        ("999999999999999.9", "999999999999999.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!(r#"{{"id":"v{n}","org":"acme","event_name":"e","data":{{"value":{sent}}}}}"#);
        assert_eq!(place.event(&place.key, &body).await, "accepted", "{sent}");
        let sql = format!("SELECT trim_scale(quantity)::text FROM usage_records WHERE event_id = 'v{n}'");
        assert_eq!(place.database.value(&sql).as_deref(), Some(kept), "{sent}");
        sum += kept.parse::<rust_decimal::Decimal>().expect("a decimal");
    }
    assert_eq!(place.sum(), Some(sum.normalize().to_string()));
    for (sent, rule) in [
        ("9007199254740993", "too_large"),
        ("-9007199254740993", "too_large"),
        ("1e300", "too_large"),
        ("123456789012345678901234567890", "too_large"),
        ("\"1_000\"", "not_a_number"),
        ("\"1,5\"", "not_a_number"),
        ("\"NaN\"", "not_a_number"),
        ("[5]", "not_a_number"),
    ] {
        let body = format!(r#"{{"id":"w","org":"acme","event_name":"e","data":{{"value":{sent}}}}}"#);
        assert_eq!(place.event(&place.key, &body).await, format!("data.value {rule}"), "{sent}");
    }
    // Set aside and settled likewise.
    let reserve = r#"{"org":"acme","id":"r","meter":"meter-1","amount":0.30000000000000004}"#;
    let (status, made) = place.send("/v1/quota/reserve", &place.key, "application/json", reserve).await;
    assert_eq!((status, &made["amount"]), (201, &json!("0.3")), "{made}");
    let settle = r#"{"event":{"id":"s","event_name":"e","data":{"value":12.345678901234567}}}"#;
    let (status, made) = place.send("/v1/quota/r/settle", &place.key, "application/json", settle).await;
    assert_eq!((status, &made["settled_amount"]), (200, &json!("12.345678901235")), "{made}");
    // A cost that is set, in minor units too.
    let event = r#"{"id":"m","org":"acme","event_name":"e","cost":0.30000000000000004,"data":{"value":1}}"#;
    assert_eq!(place.event(&place.pricing, event).await, "accepted");
    let lago = r#"{"event":{"transaction_id":"m2","external_subscription_id":"acme","code":"e",
        "properties":{"value":1},
        "precise_total_amount_cents":12.300000000000001}}"#;
    assert_eq!(place.send("/api/v1/events", &place.pricing, "application/json", lago).await.0, 200);
    let costs = "SELECT string_agg(trim_scale(cost)::text, ' ' ORDER BY event_id) FROM usage_records
        WHERE event_id LIKE 'm%'";
    assert_eq!(place.database.value(costs).as_deref(), Some("0.3 0.123"));
}

#[tokio::test]
async fn the_largest_values_of_a_batch_add_up_exactly() {
    let place = Place::new("sum", None).await;
    place.database.slot(1, 1, &json!({}), false, "month");
    let largest = "999999999999999.999999999999";
    let event =
        |n: usize| format!(r#"{{"id":"b{n}","org":"acme","event_name":"e","data":{{"value":{largest}}}}}"#);
    let body = format!("[{}]", (0..1000).map(event).collect::<Vec<_>>().join(","));
    let (status, answer) =
        place.send("/v1/usage?results=problems", &place.key, "application/json", &body).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(1000)), "{answer}");
    assert_eq!(place.sum().as_deref(), Some("999999999999999999.999999999"));
    let used = "SELECT trim_scale(used)::text FROM quota_counters";
    assert_eq!(place.database.value(used).as_deref(), Some("999999999999999999.999999999"));
    let today = chrono::Utc::now().format("%Y-%m-01");
    let path = format!("/v1/usage/daily?org=acme&from={today}&to=2027-12-01&group_by=month");
    let (_, daily) = place.daemon.get(&path, &place.key).await;
    assert_eq!(daily["data"][0]["quantity"], "999999999999999999.999999999", "{daily}");
    assert_eq!(place.database.unbalanced(), Vec::<String>::new());
}

/// The first as it is, then others under its key.
#[tokio::test]
async fn the_same_content_is_a_repeat_however_it_is_written() {
    let place = Place::new("sum", None).await;
    place.database.meter(2, "u", "unique", "", None);
    let table: [(&str, &str, &[&str], &[&str]); 6] = [
        (
            "numbers",
            r#""event_name":"e","data":{"value":1200,"tier":1}"#,
            &[
                r#""event_name":"e","data":{"value":1200.0,"tier":1.0}"#,
                r#""event_name":"e","data":{"tier":10e-1,"value":"1.2e3"}"#,
                r#""event_name":"e" , "data" : { "value" : 1.2E+3 , "tier" : "1" }"#,
                r#""event_name":"e","data":{"value":"\u0031200","tier":1}"#,
                r#""event_name":"e","data":{"value":1200.0000000000004,"tier":1}"#,
            ],
            &[
                r#""event_name":"e","data":{"value":1200.000000000001,"tier":1}"#,
                r#""event_name":"e","data":{"value":1200,"tier":1.5}"#,
                r#""event_name":"e","data":{"value":1200,"tier":"1.0"}"#,
                r#""event_name":"e","data":{"value":1200}"#,
            ],
        ),
        (
            "fields that no meter reads",
            r#""event_name":"e","data":{"value":5,"trace":"a","n":{"a":1,"b":[1,2]}}"#,
            &[
                r#""event_name":"e","data":{"n":{"b":[1,2],"a":1},"value":5,"trace":"a"}"#,
                r#""event_name":"e","data":{"value":5,"trace":"b"}"#,
                r#""event_name":"e","data":{"value":5,"tier":null}"#,
            ],
            &[r#""event_name":"e","data":{"value":6,"trace":"a"}"#],
        ),
        (
            "texts",
            r#""event_name":"e","data":{"value":5,"tier":"caf\u00e9/b"}"#,
            &[
                "\"event_name\":\"e\",\"data\":{\"tier\":\"café/b\",\"value\":5}",
                r#""event_name":"\u0065","data":{"\u0076alue":5,"tier":"caf\u00E9\/b"}"#,
            ],
            &[r#""event_name":"e","data":{"value":5,"tier":"cafe/b"}"#],
        ),
        (
            "what stands beside the data",
            r#""event_name":"e","member":"ann","subject":"s","occurred_at":"NOW","data":{"value":5}"#,
            &[r#""subject":"s","type":"e","member":"\u0061nn","time":"NOW","data":{"value":5e0}"#],
            &[
                r#""event_name":"e","member":"bob","subject":"s","occurred_at":"NOW","data":{"value":5}"#,
                r#""event_name":"e","member":"ann","subject":"t","occurred_at":"NOW","data":{"value":5}"#,
                r#""event_name":"e","member":"ann","subject":"s","data":{"value":5}"#,
            ],
        ),
        (
            "unique values",
            r#""event_name":"u","data":{"value":1}"#,
            &[r#""event_name":"u","data":{"value":1.0}"#, r#""event_name":"u","data":{"value":"1"}"#],
            &[r#""event_name":"u","data":{"value":"1.0"}"#, r#""event_name":"u","data":{"value":true}"#],
        ),
        (
            "costs",
            r#""event_name":"e","cost":"2.50","data":{"value":5}"#,
            &[
                r#""event_name":"e","cost":2.5,"data":{"value":5}"#,
                r#""event_name":"e","cost":25e-1,"data":{"value":5}"#,
            ],
            &[r#""event_name":"e","cost":2.51,"data":{"value":5}"#, r#""event_name":"e","data":{"value":5}"#],
        ),
    ];
    let now = chrono::Utc::now().to_rfc3339();
    for old in [false, true] {
        for (n, (name, first, same, other)) in table.iter().enumerate() {
            let event = |fields: &str| {
                let id = format!("{old}-{n}");
                format!(r#"{{"id":"{id}","org":"acme",{}}}"#, fields.replace("NOW", &now))
            };
            assert_eq!(place.event(&place.pricing, &event(first)).await, "accepted", "{name}");
            if old {
                // As an older version has left it: a digest of the text.
                place.database.execute("UPDATE usage_keys SET content = content + 1");
            }
            for (sent, status) in
                same.iter().map(|sent| (sent, "duplicate")).chain(other.iter().map(|sent| (sent, "conflict")))
            {
                assert_eq!(place.event(&place.pricing, &event(sent)).await, status, "{name}, {old}: {sent}");
            }
        }
    }
    let values = "SELECT count(*) FROM usage_uniques";
    assert_eq!(place.database.number(values), 1);
    // In one batch, and where all or nothing is asked for: the known one is known, the new one is new.
    let known = r#"{"data":{"tier":1.0,"value":12e2},"org":"acme","event_name":"e","id":"false-0"}"#;
    let fresh = r#"{"id":"fresh","org":"acme","event_name":"e","data":{"value":5}}"#;
    let again = r#"{"id":"fresh","org":"acme","event_name":"e","data":{"value":5.0,"more":[]}}"#;
    let body = format!("[{known},{fresh},{again}]");
    let (status, answer) =
        place.send("/v1/usage?all_or_nothing=true", &place.key, "application/json", &body).await;
    assert_eq!(status, 200, "{answer}");
    let counts = ["accepted", "duplicate", "conflict"].map(|count| answer[count].as_i64());
    assert_eq!(counts, [Some(1), Some(2), Some(0)], "{answer}");
}

/// A meter changes between an event and its repeat.
#[tokio::test]
async fn a_repeat_stays_one_when_meters_change() {
    let place = Place::new("sum", None).await;
    let event =
        r#"{"id":"1","org":"acme","event_name":"e","data":{"value":5,"tier":"a","region":"eu","pages":3}}"#;
    let other = event.replace(r#""tier":"a""#, r#""tier":"b""#);
    assert_eq!(place.event(&place.key, event).await, "accepted");
    // Another dimension, then another meter of the same events.
    let patch = json!({ "dimensions": ["tier", "region"] });
    let request = place.daemon.request(Method::PATCH, "/v1/meters/meter-1", &place.key).json(&patch);
    assert_eq!(answer(request).await.0, 200);
    assert_eq!(place.event(&place.key, event).await, "duplicate");
    let new = json!({ "key": "pages", "event_name": "e", "aggregation": "sum", "value_field": "pages" });
    assert_eq!(place.daemon.post("/v1/meters", &place.key, &new).await.0, 201);
    assert_eq!(place.event(&place.key, event).await, "duplicate");
    assert_eq!(place.event(&place.key, &other).await, "conflict");
    assert_eq!(place.event(&place.key, &event.replace("5", "6")).await, "conflict");
    assert_eq!(place.sum().as_deref(), Some("5"));
}

#[tokio::test]
async fn a_number_misses_no_rate_and_no_quota() {
    let prices = json!([
        { "when": { "tier": "1" }, "unit_cost": "10" },
        { "when": { "tier": "2.0" }, "unit_cost": "20" },
        { "when": { "tier": "2.5" }, "unit_cost": "25" },
        { "when": { "tier": "-3" }, "unit_cost": "30" },
        { "unit_cost": "1" },
    ]);
    let place = Place::new("sum", Some(prices)).await;
    place.database.slot(1, 1, &json!({ "tier": "1" }), false, "month");
    for (n, (tier, cost)) in [
        ("1", "10"),
        ("1.0", "10"),
        ("1e0", "10"),
        ("\"1\"", "10"),
        ("2", "20"),
        ("2.0", "20"),
        ("0.2e1", "20"),
        ("\"2.0\"", "20"),
        ("2.50", "25"),
        ("-3.0", "30"),
        ("10", "1"),
        ("\"1.00\"", "1"),
        ("\"2.50\"", "1"),
        ("true", "1"),
    ]
    .into_iter()
    .enumerate()
    {
        let event =
            format!(r#"{{"id":"t{n}","org":"acme","event_name":"e","data":{{"value":1,"tier":{tier}}}}}"#);
        assert_eq!(place.event(&place.key, &event).await, "accepted", "{tier}");
        let sql = format!("SELECT trim_scale(cost)::text FROM usage_records WHERE event_id = 't{n}'");
        assert_eq!(place.database.value(&sql).as_deref(), Some(cost), "{tier}");
    }
    assert_eq!(place.database.number("SELECT used FROM quota_counters"), 4);
    assert_eq!(place.database.unbalanced(), Vec::<String>::new());
}

#[tokio::test]
async fn a_leap_second_is_read_as_the_next_on_every_door() {
    let place = Place::new("sum", None).await;
    let backfill = place.database.key("usage:write,usage:backfill", None);
    let native = |id: &str, at: &str| {
        format!(r#"{{"id":"{id}","org":"acme","event_name":"e","occurred_at":"{at}","data":{{"value":1}}}}"#)
    };
    for (id, at) in
        [("1", "2016-12-31T23:59:60Z"), ("2", "2017-01-01T05:29:60.25+05:30"), ("3", "2017-01-01T00:00:00Z")]
    {
        assert_eq!(place.event(&backfill, &native(id, at)).await, "accepted", "{at}");
    }
    assert_eq!(place.event(&backfill, &native("1", "2017-01-01T00:00:00Z")).await, "duplicate");
    assert_eq!(place.event(&backfill, &native("1", "2016-12-31T23:59:59Z")).await, "conflict");
    let cloud = r#"{"specversion":"1.0","id":"4","source":"","type":"e","time":"2016-12-31T23:59:60Z",
        "subject":"acme","data":{"value":1}}"#;
    let cloud = cloud.replace(r#""source":"","#, r#""source":"s","#);
    let sent = place.send("/api/v1/events", &backfill, "application/cloudevents+json", &cloud).await;
    assert_eq!(sent.0, 204, "{}", sent.1);
    let headers = [("ce-specversion", "1.0"), ("ce-id", "5"), ("ce-source", "s"), ("ce-type", "e")];
    let mut request = place.daemon.request(Method::POST, "/v1/usage", &backfill);
    for (name, value) in
        headers.into_iter().chain([("ce-time", "2016-12-31T23:59:60Z"), ("ce-subject", "acme")])
    {
        request = request.header(name, value);
    }
    assert_eq!(answer(request.json(&json!({ "value": 1 }))).await.0, 200);
    let days = "SELECT string_agg(DISTINCT concat(day, ' ',
        to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')), ', ') FROM usage_records";
    assert_eq!(place.database.value(days).as_deref(), Some("2017-01-01 2017-01-01 00:00:00"));
    let path = "/v1/usage/records?org=acme&from=2016-12-31T23:59:60Z&to=2017-01-01T00:00:01Z";
    let (status, page) = place.daemon.get(path, &place.key).await;
    assert_eq!((status.as_u16(), page["data"].as_array().map(Vec::len)), (200, Some(5)), "{page}");
}
