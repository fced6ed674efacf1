//! Meters and rate cards: versioned, never silently changed, refused with a sentence where they would
//! mislead.

use chrono::{Duration, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

const KEYS: &str = "usage:write,usage:read,billing:write";

fn tokens() -> Value {
    json!({
        "key": "tokens", "name": "Tokens", "event_name": "prompt", "aggregation": "sum",
            "value_field": "tokens", "unit": "tokens",
        "dimensions": ["model", "cached"],
    })
}

fn prompt(id: &str, data: Value) -> Value {
    json!({ "id": id, "source": "t", "org": "acme", "event_name": "prompt", "data": data })
}

async fn patch(daemon: &Daemon, key: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    answer(daemon.request(Method::PATCH, path, key).json(body)).await
}

#[tokio::test]
async fn a_meter_is_versioned_and_what_it_counted_stays() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let [daemon, other] = &daemons;
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    let (status, made) = daemon.post("/v1/meters", &key, &tokens()).await;
    assert_eq!((status.as_u16(), &made["version"]), (201, &json!(1)), "{made}");
    assert_eq!(made["dimensions"], json!(["cached", "model"]));
    let (status, taken) = daemon.post("/v1/meters", &key, &tokens()).await;
    assert_eq!((status.as_u16(), taken["code"].as_str()), (409, Some("meter_key_taken")));
    let data = json!({ "tokens": 5, "all": 9, "model": "a" });
    for (n, daemon) in daemons.iter().enumerate() {
        assert_eq!(daemon.usage(&key, &prompt(&n.to_string(), data.clone())).await, ["accepted"]);
    }
    // The other daemon counts by the new version at once.
    let (status, changed) =
        patch(daemon, &key, "/v1/meters/tokens", &json!({ "value_field": "all", "dimensions": ["model"] }))
            .await;
    assert_eq!((status.as_u16(), &changed["version"]), (200, &json!(2)), "{changed}");
    assert_eq!(other.usage(&key, &prompt("2", data.clone())).await, ["accepted"]);
    assert_eq!(database.number("SELECT sum(quantity) FROM usage_records"), 5 + 5 + 9);
    let (_, same) = patch(daemon, &key, "/v1/meters/tokens", &json!({ "name": "Tokens" })).await;
    assert_eq!(same["version"], 2);
    let (status, shown) = other.get("/v1/meters/tokens", &key).await;
    assert_eq!(status, 200);
    let fields: Vec<_> =
        shown["versions"].as_array().expect("versions").iter().map(|v| &v["value_field"]).collect();
    assert_eq!(fields, ["all", "tokens"]);
    assert_eq!((&shown["version"], &shown["unit"]), (&json!(2), &json!("tokens")));
    for field in ["aggregation", "unit"] {
        let (status, refused) = patch(daemon, &key, "/v1/meters/tokens", &json!({ field: "max" })).await;
        assert_eq!((status.as_u16(), refused["field"].as_str()), (400, Some(field)), "{refused}");
        assert!(
            refused["detail"].as_str().is_some_and(|detail| detail.contains("never changes")),
            "{refused}"
        );
    }
    let actions = "SELECT string_agg(action, ',' ORDER BY at) FROM audit_log WHERE target = 'tokens'";
    assert_eq!(database.value(actions).as_deref(), Some("meter.create,meter.update,meter.update"));
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn an_archived_meter_counts_no_more_but_can_be_corrected() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let [daemon, other] = &daemons;
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    daemon.post("/v1/meters", &key, &tokens()).await;
    let calls = json!({ "key": "calls", "event_name": "call", "aggregation": "count" });
    daemon.post("/v1/meters", &key, &calls).await;
    for id in ["1", "2"] {
        assert_eq!(other.usage(&key, &prompt(id, json!({ "tokens": 5 }))).await, ["accepted"]);
    }
    let archive = || answer(daemon.request(Method::DELETE, "/v1/meters/tokens", &key));
    assert_eq!(archive().await, (StatusCode::NO_CONTENT, Value::Null));
    assert_eq!(archive().await.0, 204);
    assert_eq!(
        other.usage(&key, &prompt("3", json!({ "tokens": 5 }))).await,
        ["event_name unknown_event_name"]
    );
    let void = json!({ "org": "acme", "source": "t", "id": "1", "reason": "sent by mistake" });
    assert_eq!(other.post("/v1/usage/void", &key, &void).await.0, 200);
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 5);
    let conflict =
        |answer: (StatusCode, Value)| (answer.0.as_u16(), answer.1["code"].as_str().map(str::to_owned));
    let archived = (409, Some("meter_archived".to_owned()));
    assert_eq!(conflict(patch(daemon, &key, "/v1/meters/tokens", &json!({ "name": "x" })).await), archived);
    let card = json!({ "currency": "usd", "rates": [{ "unit_cost": "1" }] });
    assert_eq!(conflict(daemon.post("/v1/meters/tokens/rate_cards", &key, &card).await), archived);
    assert_eq!(
        conflict(daemon.post("/v1/meters", &key, &tokens()).await).1.as_deref(),
        Some("meter_key_taken")
    );
    let keys = async |path: &str| {
        let (_, page) = daemon.get(path, &key).await;
        page["data"]
            .as_array()
            .expect("a page")
            .iter()
            .map(|m| m["key"].as_str().expect("a key").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("/v1/meters").await, ["calls", "tokens"]);
    assert_eq!(keys("/v1/meters?archived=false").await, ["calls"]);
    assert_eq!(keys("/v1/meters?archived=true").await, ["tokens"]);
    let (_, page) = daemon.get("/v1/meters?limit=1", &key).await;
    let next = page["next"].as_str().expect("a next page");
    assert_eq!(keys(&format!("/v1/meters?limit=1&cursor={next}")).await, ["tokens"]);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn a_meter_that_would_mislead_is_refused() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    let with = |field: &str, value: Value| {
        let mut meter = tokens();
        meter[field] = value;
        meter
    };
    for (meter, field) in [
        (with("key", json!("")), "key"),
        (with("key", json!("Tokens")), "key"),
        (with("key", json!("-x")), "key"),
        (with("name", json!(" ")), "name"),
        (with("event_name", json!("a\u{0}")), "event_name"),
        (with("value_field", Value::Null), "value_field"),
        (with("aggregation", json!("count")), "value_field"),
        (with("aggregation", json!("mean")), "aggregation"),
        (with("unit", json!("x".repeat(51))), "unit"),
        (with("dimensions", json!(["a", "a"])), "dimensions"),
        (with("dimensions", json!(["meter"])), "dimensions"),
        (with("dimensions", json!(["a,b"])), "dimensions"),
        (with("dimensions", json!((0..11).map(|n| n.to_string()).collect::<Vec<_>>())), "dimensions"),
        (with("colour", json!("red")), "colour"),
    ] {
        let (status, refused) = daemon.post("/v1/meters", &key, &meter).await;
        assert_eq!((status.as_u16(), refused["field"].as_str()), (400, Some(field)), "{meter}: {refused}");
    }
    assert_eq!(daemon.get("/v1/meters/nothing", &key).await.0, 404);
    assert_eq!(daemon.get("/v1/meters/%00", &key).await.0, 404);
    assert_eq!(daemon.get("/v1/meters?colour=red", &key).await.0, 400);
    assert_eq!(patch(&daemon, &key, "/v1/meters/nothing", &json!({})).await.0, 404);
    assert_eq!(database.number("SELECT count(*) FROM meters"), 0);
    // What was refused did not turn the catalogue.
    assert_eq!(database.number("SELECT version FROM catalog"), 1);
}

#[tokio::test]
async fn everyone_reads_the_catalogue_and_the_platform_changes_it() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    let acme = daemon.org(&key, "acme", "UTC").await;
    daemon.post("/v1/meters", &key, &tokens()).await;
    let card = json!({ "currency": "usd", "rates": [{ "unit_cost": "1" }] });
    assert_eq!(daemon.post("/v1/meters/tokens/rate_cards", &key, &card).await.0, 201);
    let own = database.key(KEYS, Some(&acme));
    for path in ["/v1/meters", "/v1/meters/tokens", "/v1/meters/tokens/rate_cards"] {
        assert_eq!(daemon.get(path, &own).await, daemon.get(path, &key).await, "{path}");
        assert_eq!(daemon.get(path, &database.key("billing:read", None)).await.0, 403, "{path}");
    }
    assert_eq!(daemon.post("/v1/meters", &own, &tokens()).await.0, 403);
    assert_eq!(patch(&daemon, &own, "/v1/meters/tokens", &json!({ "name": "Mine" })).await.0, 403);
    assert_eq!(answer(daemon.request(Method::DELETE, "/v1/meters/tokens", &own)).await.0, 403);
    assert_eq!(daemon.post("/v1/meters/tokens/rate_cards", &own, &card).await.0, 403);
}

#[tokio::test]
async fn a_card_prices_what_comes_after_it_by_dimensions_and_time() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    daemon.post("/v1/meters", &key, &tokens()).await;
    let cost = || database.value("SELECT trim_scale(sum(cost)) FROM usage_records").expect("a sum");
    let send = async |id: &str, data: Value, days_ago: i64| {
        let mut event = prompt(id, data);
        event["occurred_at"] = json!(Utc::now() - Duration::days(days_ago));
        assert_eq!(daemon.usage(&key, &event).await, ["accepted"]);
    };
    send("before", json!({ "tokens": 1, "model": "a" }), 5).await;
    let card = |rates: Value, days_ago: i64| {
        json!({ "currency": "usd", "rates": rates,
        "valid_from": Utc::now() - Duration::days(days_ago), "backdate": true })
    };
    // The general rate first: it is stored last.
    let rates = json!([
        { "unit_cost": "0.1" },
        { "when": { "model": "a" }, "unit_cost": 2.5, "battery_units": 3 },
        { "when": { "model": "a", "cached": "true" }, "unit_cost": "0.5" },
    ]);
    let (status, made) = daemon.post("/v1/meters/tokens/rate_cards", &key, &card(rates, 10)).await;
    assert_eq!((status.as_u16(), &made["version"]), (201, &json!(1)), "{made}");
    let costs: Vec<_> =
        made["rates"].as_array().expect("rates").iter().map(|rate| &rate["unit_cost"]).collect();
    assert_eq!(costs, ["0.5", "2.5", "0.1"]);
    // What is stored keeps its price, which was none.
    assert_eq!(cost(), "0");
    send("a", json!({ "tokens": 2, "model": "a" }), 5).await;
    send("cached", json!({ "tokens": 2, "model": "a", "cached": true }), 5).await;
    send("b", json!({ "tokens": 2, "model": "b" }), 5).await;
    send("earlier", json!({ "tokens": 2, "model": "b" }), 11).await;
    assert_eq!(cost(), "6.2");
    assert_eq!(database.number("SELECT sum(battery_units) FROM usage_records"), 6);
    // From two days ago on nothing has a price.
    assert_eq!(daemon.post("/v1/meters/tokens/rate_cards", &key, &card(json!([]), 2)).await.0, 201);
    send("now", json!({ "tokens": 2, "model": "a" }), 1).await;
    send("late", json!({ "tokens": 2, "model": "b" }), 3).await;
    assert_eq!(cost(), "6.4");
    let (_, page) = daemon.get("/v1/meters/tokens/rate_cards?limit=1", &key).await;
    assert_eq!(page["data"][0]["version"], 2);
    let next = page["next"].as_str().expect("a next page");
    let (_, page) = daemon.get(&format!("/v1/meters/tokens/rate_cards?limit=1&cursor={next}"), &key).await;
    assert_eq!((&page["data"][0]["version"], &page["next"]), (&json!(1), &Value::Null));
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn a_card_that_would_mislead_is_refused() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.post("/v1/meters", &key, &tokens()).await;
    let send = async |meter: &str, card: &Value| {
        daemon.post(&format!("/v1/meters/{meter}/rate_cards"), &key, card).await
    };
    let rates = |rates: Value| json!({ "currency": "usd", "rates": rates });
    let tiers = |mode: &str, tiers: Value| rates(json!([{ "tiers": { "mode": mode, "tiers": tiers } }]));
    let from = |days: i64, backdate: bool| {
        json!({ "currency": "usd", "rates": [],
        "valid_from": Utc::now() - Duration::days(days), "backdate": backdate })
    };
    for (card, field) in [
        (json!({ "currency": "USD", "rates": [] }), "currency"),
        (json!({ "currency": "dollar", "rates": [] }), "currency"),
        (from(1, false), "valid_from"),
        (from(400, true), "valid_from"),
        (rates(json!([{ "unit_cost": "-1" }])), "rates.0.unit_cost"),
        (rates(json!([{ "battery_units": "-0.1" }])), "rates.0.battery_units"),
        (rates(json!([{ "unit_cost": "0.0000000000001" }])), "rates.0.unit_cost"),
        (rates(json!([{ "unit_cost": "1000000000000000" }])), "rates.0.unit_cost"),
        (rates(json!([{ "unit_cost": "NaN" }])), "rates.0.unit_cost"),
        (rates(json!([{ "unit_cost": null }])), "rates.0.unit_cost"),
        (rates(json!([{ "price": "1" }])), "rates.0.price"),
        (rates(json!([{ "when": { "colour": "red" } }])), "rates.0.when.colour"),
        (rates(json!([{ "when": { "model": "a\u{0}" } }])), "rates.0.when.model"),
        (rates(json!([{ "when": { "model": "a" } }, { "when": { "model": "a" } }])), "rates.1.when"),
        (tiers("graduated", json!([])), "rates.0.tiers.tiers"),
        (tiers("graduated", json!([{ "up_to": "10" }])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("graduated", json!([{}, {}])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("volume", json!([{ "up_to": "10" }, { "up_to": "10" }, {}])), "rates.0.tiers.tiers.1.up_to"),
        (tiers("volume", json!([{ "up_to": "0" }, {}])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("volume", json!([{ "flat_cost": "-1" }])), "rates.0.tiers.tiers.0.flat_cost"),
        (tiers("volume", json!([{ "package_size": "1" }])), "rates.0.tiers.tiers.0.package_size"),
        (tiers("package", json!([{ "unit_cost": "1" }])), "rates.0.tiers.tiers.0.package_size"),
        (tiers("package", json!([{ "package_size": "0" }])), "rates.0.tiers.tiers.0.package_size"),
        (
            tiers("package", json!([{ "up_to": "1", "package_size": "1" }, { "package_size": "1" }])),
            "rates.0.tiers.tiers",
        ),
        (
            rates(json!([{ "unit_cost": "1", "tiers": { "mode": "volume", "tiers": [{}] } }])),
            "rates.0.unit_cost",
        ),
    ] {
        let (status, refused) = send("tokens", &card).await;
        assert_eq!((status.as_u16(), refused["field"].as_str()), (400, Some(field)), "{card}: {refused}");
    }
    assert_eq!(send("nothing", &rates(json!([]))).await.0, 404);
    assert_eq!(send("tokens", &rates(json!([{ "when": { "model": "a" } }]))).await.0, 201);
    let (status, refused) = send("tokens", &json!({ "currency": "eur", "rates": [] })).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (409, Some("other_currency")));
    for aggregation in ["max", "unique", "latest"] {
        let meter =
            json!({ "key": aggregation, "event_name": "x", "aggregation": aggregation, "value_field": "v" });
        daemon.post("/v1/meters", &key, &meter).await;
        let (status, refused) = send(aggregation, &rates(json!([{ "unit_cost": "1" }]))).await;
        assert_eq!((status.as_u16(), refused["code"].as_str()), (409, Some("meter_not_additive")));
    }
    // A dimension that a price or a quota asks for stays.
    let drop = json!({ "dimensions": ["cached"] });
    let (status, refused) = patch(&daemon, &key, "/v1/meters/tokens", &drop).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (409, Some("dimension_in_use")), "{refused}");
    assert_eq!(send("tokens", &rates(json!([{ "unit_cost": "1" }]))).await.0, 201);
    database.slot(1, 1, &json!({ "model": "a" }), false, "month");
    assert_eq!(patch(&daemon, &key, "/v1/meters/tokens", &drop).await.1["code"], "dimension_in_use");
    database.execute("DELETE FROM quota_slots");
    assert_eq!(patch(&daemon, &key, "/v1/meters/tokens", &drop).await.0, 200);
}

#[tokio::test]
async fn the_command_line_makes_shows_and_prices_meters() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    let create = ["meter", "create", "tokens", "--event-name", "prompt", "--aggregation", "sum"];
    let refused = database.command(&create).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("value_field"));
    let mut create = create.to_vec();
    create.extend(["--value-field", "tokens", "--unit", "tokens", "--dimensions", "model,cached"]);
    database.run(&create);
    database.run(&[
        "meter",
        "rate",
        "tokens",
        "--currency",
        "usd",
        "--unit-cost",
        "0.25",
        "--battery-units",
        "2",
    ]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let card = json!({ "currency": "usd",
        "rates": [{ "when": { "model": "a" }, "unit_cost": "4" }, { "unit_cost": "1" }] });
    std::fs::write(&file, card.to_string()).expect("written");
    database.run(&["meter", "rate", "tokens", "--file", file.path().to_str().expect("UTF-8")]);
    let shown: Value = serde_json::from_str(&database.run(&["meter", "show", "tokens"])).expect("JSON");
    assert_eq!(shown["dimensions"], json!(["cached", "model"]));
    let versions: Vec<_> =
        shown["rate_cards"].as_array().expect("cards").iter().map(|card| &card["version"]).collect();
    assert_eq!(versions, [2, 1]);
    let listed: Value = serde_json::from_str(database.run(&["meter", "list"]).trim()).expect("one line");
    assert_eq!(listed["key"], "tokens");
    // A running daemon counts by it.
    assert_eq!(daemon.usage(&key, &prompt("1", json!({ "tokens": 3, "model": "a" }))).await, ["accepted"]);
    assert_eq!(database.number("SELECT sum(cost) FROM usage_records"), 12);
    let actors = "SELECT count(*) FROM audit_log
        WHERE actor LIKE 'cli:%' AND action IN ('meter.create', 'rate_card.create')";
    assert_eq!(database.number(actors), 3);
}
