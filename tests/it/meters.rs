//! Meters and rate cards: they have versions, change only by commands, and a misleading one is refused with a
//! reason.

use chrono::{Duration, Utc};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{Request, Usage, meter, rate_card, usage, void};
use crate::support::world::Setup;

const SCOPES: &str = "usage:write,usage:read,billing:write";

/// A platform with the org `acme`.
fn platform() -> Setup {
    World::new().scopes(SCOPES).org("acme")
}

/// A meter of `tokens` by model and by whether they were cached.
fn tokens() -> Request {
    meter("tokens")
        .name("Tokens")
        .event_name("prompt")
        .value_field("tokens")
        .with("unit", "tokens")
        .dimensions(["model", "cached"])
}

fn prompt(id: &str, data: Value) -> Usage {
    usage("acme", "prompt").id(id).data(data)
}

fn costs(unit_cost: &str) -> Request {
    rate_card("tokens", json!([{ "unit_cost": unit_cost }]))
}

fn tiers(mode: &str, tiers: Value) -> Request {
    rate_card("tokens", json!([{ "tiers": { "mode": mode, "tiers": tiers } }]))
}

fn days_ago(days: i64) -> Value {
    json!(Utc::now() - Duration::days(days))
}

#[tokio::test]
async fn a_meter_is_versioned_and_what_it_counted_stays() {
    let world = platform().daemons(2).start().await;
    let made = world.send(tokens()).await.status(201);
    assert_eq!(made.pick(["version", "dimensions"]), json!([1, ["cached", "model"]]));
    world.send(tokens()).await.refused(409, "meter_key_taken");
    let five = |id: &str| prompt(id, json!({ "tokens": 5, "all": 9, "model": "a" }));
    assert_eq!(world.on(0).uses(five("0")).await, "accepted");
    assert_eq!(world.on(1).uses(five("1")).await, "accepted");
    // The other daemon counts with the new version at once.
    let path = "/v1/meters/tokens";
    let all = json!({ "value_field": "all", "dimensions": ["model"] });
    assert_eq!(world.patch(path, all).await.status(200)["version"], 2);
    assert_eq!(world.on(1).uses(five("2")).await, "accepted");
    assert_eq!(world.number("SELECT sum(quantity) FROM usage_records"), 5 + 5 + 9);
    assert_eq!(world.patch(path, json!({ "name": "Tokens" })).await["version"], 2);
    let shown = world.on(1).get(path).await.status(200);
    let fields = ["version", "unit", "versions.0.value_field", "versions.1.value_field", "versions.2"];
    assert_eq!(shown.pick(fields), json!([2, "tokens", "all", "tokens", null]));
    for field in ["aggregation", "unit"] {
        let refused = world.patch(path, json!({ field: "max" })).await.names(400, field);
        assert!(refused.text("detail").contains("never changes"), "{refused}");
    }
    let actions = "SELECT string_agg(action, ',' ORDER BY at) FROM audit_log WHERE target = 'tokens'";
    assert_eq!(world.value(actions).as_deref(), Some("meter.create,meter.update,meter.update"));
    world.balances();
}

#[tokio::test]
async fn an_archived_meter_counts_no_more_but_can_be_corrected() {
    let calls = meter("calls").event_name("call").aggregation("count");
    let world = platform().daemons(2).with(tokens()).with(calls).start().await;
    let other = world.on(1);
    let five = |id: &str| prompt(id, json!({ "tokens": 5 }));
    for id in ["1", "2"] {
        assert_eq!(other.uses(five(id)).await, "accepted");
    }
    let archived = world.delete("/v1/meters/tokens").await.status(204);
    assert_eq!(archived.body, Value::Null);
    world.delete("/v1/meters/tokens").await.status(204);
    assert_eq!(other.uses(five("3")).await, "event_name unknown_event_name");
    other.send(void("1")).await.status(200);
    assert_eq!(world.number("SELECT sum(quantity) FROM daily_summaries"), 5);
    world.patch("/v1/meters/tokens", json!({ "name": "x" })).await.refused(409, "meter_archived");
    world.send(costs("1")).await.refused(409, "meter_archived");
    world.send(tokens()).await.refused(409, "meter_key_taken");
    for (query, keys) in [
        ("", json!(["calls", "tokens"])),
        ("?archived=false", json!(["calls"])),
        ("?archived=true", json!(["tokens"])),
    ] {
        assert_eq!(world.get(&format!("/v1/meters{query}")).await.column("key"), keys, "{query}");
    }
    let next = world.get("/v1/meters?limit=1").await.text("next");
    let page = world.get(&format!("/v1/meters?limit=1&cursor={next}")).await;
    assert_eq!(page.column("key"), json!(["tokens"]));
    world.balances();
}

#[tokio::test]
async fn a_meter_that_would_mislead_is_refused() {
    let world = World::new().scopes(SCOPES).start().await;
    let many: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    for (field, value, named) in [
        ("key", json!(""), "key"),
        ("key", json!("Tokens"), "key"),
        ("key", json!("-x"), "key"),
        ("name", json!(" "), "name"),
        ("event_name", json!("a\u{0}"), "event_name"),
        ("value_field", Value::Null, "value_field"),
        ("aggregation", json!("count"), "value_field"),
        ("aggregation", json!("mean"), "aggregation"),
        ("unit", json!("x".repeat(51)), "unit"),
        ("dimensions", json!(["a", "a"]), "dimensions"),
        ("dimensions", json!(["meter"]), "dimensions"),
        ("dimensions", json!(["a,b"]), "dimensions"),
        ("dimensions", json!(many), "dimensions"),
        ("colour", json!("red"), "colour"),
    ] {
        world.send(tokens().with(field, value)).await.names(400, named);
    }
    world.get("/v1/meters/nothing").await.status(404);
    world.get("/v1/meters/%00").await.status(404);
    world.get("/v1/meters?colour=red").await.status(400);
    world.patch("/v1/meters/nothing", json!({})).await.status(404);
    assert_eq!(world.number("SELECT count(*) FROM meters"), 0);
    // A refused command did not change the catalogue's version.
    assert_eq!(world.number("SELECT version FROM catalog"), 1);
}

#[tokio::test]
async fn everyone_reads_the_catalogue_and_the_platform_changes_it() {
    let world = platform().with(tokens()).with(costs("1")).start().await;
    let own = world.database.key(SCOPES, Some("acme"));
    let blind = world.database.key("billing:read", None);
    let (own, blind) = (world.by(&own), world.by(&blind));
    for path in ["/v1/meters", "/v1/meters/tokens", "/v1/meters/tokens/rate_cards"] {
        assert_eq!(own.get(path).await, world.get(path).await.status(200), "{path}");
        blind.get(path).await.status(403);
    }
    own.send(tokens()).await.status(403);
    own.patch("/v1/meters/tokens", json!({ "name": "Mine" })).await.status(403);
    own.delete("/v1/meters/tokens").await.status(403);
    own.send(costs("1")).await.status(403);
}

#[tokio::test]
async fn a_card_prices_what_comes_after_it_by_dimensions_and_time() {
    let world = platform().with(tokens()).start().await;
    let cost = || world.value("SELECT trim_scale(sum(cost)) FROM usage_records").expect("a sum");
    let send = async |id: &str, data: Value, days: i64| {
        world.used(prompt(id, data).with("occurred_at", days_ago(days))).await;
    };
    send("before", json!({ "tokens": 1, "model": "a" }), 5).await;
    // The request has the general rate first; it is stored last.
    let rates = json!([
        { "unit_cost": "0.1" },
        { "when": { "model": "a" }, "unit_cost": 2.5, "battery_units": 3 },
        { "when": { "model": "a", "cached": "true" }, "unit_cost": "0.5" },
    ]);
    let made = world.send(rate_card("tokens", rates).since(days_ago(10))).await.status(201);
    let told = ["version", "rates.0.unit_cost", "rates.1.unit_cost", "rates.2.unit_cost", "rates.3"];
    assert_eq!(made.pick(told), json!([1, "0.5", "2.5", "0.1", null]));
    // Stored usage keeps its price, which was none.
    assert_eq!(cost(), "0");
    send("a", json!({ "tokens": 2, "model": "a" }), 5).await;
    send("cached", json!({ "tokens": 2, "model": "a", "cached": true }), 5).await;
    send("b", json!({ "tokens": 2, "model": "b" }), 5).await;
    send("earlier", json!({ "tokens": 2, "model": "b" }), 11).await;
    assert_eq!(cost(), "6.2");
    assert_eq!(world.number("SELECT sum(battery_units) FROM usage_records"), 6);
    // From two days ago, nothing has a price.
    world.send(rate_card("tokens", json!([])).since(days_ago(2))).await.status(201);
    send("now", json!({ "tokens": 2, "model": "a" }), 1).await;
    send("late", json!({ "tokens": 2, "model": "b" }), 3).await;
    assert_eq!(cost(), "6.4");
    let path = "/v1/meters/tokens/rate_cards?limit=1";
    let newest = world.get(path).await;
    assert_eq!(newest.column("version"), json!([2]));
    let page = world.get(&format!("{path}&cursor={}", newest.text("next"))).await;
    assert_eq!(page.pick(["data.0.version", "next"]), json!([1, null]));
    world.balances();
}

#[tokio::test]
async fn a_card_that_would_mislead_is_refused() {
    let world = platform().with(tokens()).start().await;
    let rates = |rates: Value| rate_card("tokens", rates);
    let rate = |field: &str, value: Value| rates(json!([{ field: value }]));
    let of_a = json!({ "when": { "model": "a" } });
    let one_package = json!([{ "up_to": "1", "package_size": "1" }, { "package_size": "1" }]);
    let both = json!([{ "unit_cost": "1", "tiers": { "mode": "volume", "tiers": [{}] } }]);
    for (card, field) in [
        (rates(json!([])).with("currency", "USD"), "currency"),
        (rates(json!([])).with("currency", "dollar"), "currency"),
        (rates(json!([])).since(days_ago(1)).with("backdate", false), "valid_from"),
        (rates(json!([])).since(days_ago(400)), "valid_from"),
        (rate("unit_cost", json!("-1")), "rates.0.unit_cost"),
        (rate("battery_units", json!("-0.1")), "rates.0.battery_units"),
        (rate("unit_cost", json!("0.0000000000001")), "rates.0.unit_cost"),
        (rate("unit_cost", json!("1000000000000000")), "rates.0.unit_cost"),
        (rate("unit_cost", json!("NaN")), "rates.0.unit_cost"),
        (rate("unit_cost", Value::Null), "rates.0.unit_cost"),
        (rate("price", json!("1")), "rates.0.price"),
        (rate("when", json!({ "colour": "red" })), "rates.0.when.colour"),
        (rate("when", json!({ "model": "a\u{0}" })), "rates.0.when.model"),
        (rates(json!([of_a, of_a])), "rates.1.when"),
        (tiers("graduated", json!([])), "rates.0.tiers.tiers"),
        (tiers("graduated", json!([{ "up_to": "10" }])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("graduated", json!([{}, {}])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("volume", json!([{ "up_to": "10" }, { "up_to": "10" }, {}])), "rates.0.tiers.tiers.1.up_to"),
        (tiers("volume", json!([{ "up_to": "0" }, {}])), "rates.0.tiers.tiers.0.up_to"),
        (tiers("volume", json!([{ "flat_cost": "-1" }])), "rates.0.tiers.tiers.0.flat_cost"),
        (tiers("volume", json!([{ "package_size": "1" }])), "rates.0.tiers.tiers.0.package_size"),
        (tiers("package", json!([{ "unit_cost": "1" }])), "rates.0.tiers.tiers.0.package_size"),
        (tiers("package", json!([{ "package_size": "0" }])), "rates.0.tiers.tiers.0.package_size"),
        (tiers("package", one_package), "rates.0.tiers.tiers"),
        (rates(both), "rates.0.unit_cost"),
    ] {
        world.send(card).await.names(400, field);
    }
    world.send(rate_card("nothing", json!([]))).await.status(404);
}

#[tokio::test]
async fn a_card_fits_the_meter_and_the_cards_before_it() {
    let world = platform().with(tokens()).start().await;
    world.send(rate_card("tokens", json!([{ "when": { "model": "a" } }]))).await.status(201);
    let euro = world.send(rate_card("tokens", json!([])).with("currency", "eur")).await.status(201);
    assert_eq!(euro.body["currency"], "eur");
    assert_eq!(world.get("/v1/meters/tokens").await.ok().body["currency"], "usd");
    for aggregation in ["max", "unique", "latest"] {
        world.send(meter(aggregation).aggregation(aggregation)).await.status(201);
        let card = rate_card(aggregation, json!([{ "unit_cost": "1" }]));
        world.send(card).await.refused(409, "meter_not_additive");
    }
    // A dimension that a price or a quota uses cannot be removed.
    let drop = || world.patch("/v1/meters/tokens", json!({ "dimensions": ["cached"] }));
    drop().await.refused(409, "dimension_in_use");
    world.send(costs("1")).await.status(201);
    world.slot(1, 1, &json!({ "model": "a" }), false, "month");
    drop().await.refused(409, "dimension_in_use");
    world.execute("DELETE FROM quota_slots");
    drop().await.status(200);
}

#[tokio::test]
async fn the_command_line_makes_shows_and_prices_meters() {
    let world = platform().start().await;
    let create = ["meter", "create", "tokens", "--event-name", "prompt", "--aggregation", "sum"];
    let refused = world.command(&create).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("value_field"));
    let more = ["--value-field", "tokens", "--unit", "tokens", "--dimensions", "model,cached"];
    world.run(&[&create[..], &more].concat());
    let rate = ["meter", "rate", "tokens"];
    let flat = ["--currency", "usd", "--unit-cost", "0.25", "--battery-units", "2"];
    world.run(&[&rate[..], &flat].concat());
    let file = tempfile::NamedTempFile::new().expect("a file");
    let card = json!({ "currency": "usd",
        "rates": [{ "when": { "model": "a" }, "unit_cost": "4" }, { "unit_cost": "1" }] });
    std::fs::write(&file, card.to_string()).expect("written");
    world.run(&[&rate[..], &["--file", file.path().to_str().expect("UTF-8")]].concat());
    let shown: Value = serde_json::from_str(&world.run(&["meter", "show", "tokens"])).expect("JSON");
    assert_eq!(shown["dimensions"], json!(["cached", "model"]));
    let cards = shown["rate_cards"].as_array().expect("cards");
    assert_eq!(cards.iter().map(|card| &card["version"]).collect::<Vec<_>>(), [2, 1]);
    let listed: Value = serde_json::from_str(world.run(&["meter", "list"]).trim()).expect("one line");
    assert_eq!(listed["key"], "tokens");
    // A running daemon counts with it.
    world.used(prompt("1", json!({ "tokens": 3, "model": "a" }))).await;
    assert_eq!(world.number("SELECT sum(cost) FROM usage_records"), 12);
    let actors = "SELECT count(*) FROM audit_log
        WHERE actor LIKE 'cli:%' AND action IN ('meter.create', 'rate_card.create')";
    assert_eq!(world.number(actors), 3);
}
