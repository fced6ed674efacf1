//! Which values of usage are accepted, how they are stored, and which differences in notation do not matter.
//! The tables were computed by hand.

use reqwest::Method;
use serde_json::json;

use crate::support::World;
use crate::support::daemon::answer;
use crate::support::requests::{Usage, amend, meter, reserve, settle, usage, void};
use crate::support::world::{Caller, Setup};

/// The content types of the routes for usage.
const JSON: &str = "application/json";
const CLOUD: &str = "application/cloudevents+json";

/// An org `acme`, and the meter `tokens`: the sum over the events `e`, by `tier`. Its key may report usage
/// but set no prices.
fn sums() -> Setup {
    World::new().org("acme").with(meter("tokens").event_name("e").dimensions(["tier"]))
}

/// A meter whose units cost 2 and burn 1.
fn priced() -> Setup {
    sums().prices(json!([{ "unit_cost": "2", "battery_units": "1" }]))
}

/// A key that may also set prices.
fn pricing_key(world: &World) -> String {
    world.database.key("usage:write,usage:price", None)
}

fn sum(world: &World) -> Option<String> {
    world.value("SELECT trim_scale(sum(quantity))::text FROM daily_summaries")
}

/// An event whose value is written exactly so.
fn native(id: &str, value: &str) -> String {
    format!(r#"{{"id":"{id}","org":"acme","event_name":"e","data":{{"value":{value}}}}}"#)
}

/// An event of -3 in CloudEvents form.
const CLOUD_EVENT: &str =
    r#"{"specversion":"1.0","id":"c","source":"s","type":"e","subject":"acme","data":{"value":-3}}"#;
/// An event of -3 in the form of Lago's clients.
const LAGO_EVENT: &str =
    r#"{"transaction_id":"l","external_subscription_id":"acme","code":"e","properties":{"value":-3}}"#;

#[tokio::test]
async fn values_below_zero_are_refused_by_name_on_every_door() {
    let world = priced().start().await;
    let (own, pricing) = (world.on(0), pricing_key(&world));
    // A key that may set prices is refused too, if the meter does not allow negative usage.
    let values = [(own, "-5000"), (own, "-0.000000000001"), (own, "\"-1\""), (own, "-1e3")];
    for (caller, value) in values.into_iter().chain([(world.by(&pricing), "-1")]) {
        assert_eq!(caller.uses_text(&native("a", value)).await, "data.value negative_usage", "{value}");
    }
    // A value that rounds to zero is zero, and so is minus zero.
    for (id, value) in [("z1", "-0"), ("z2", "-0.0000000000004"), ("z3", "\"-0.0\"")] {
        assert_eq!(own.uses_text(&native(id, value)).await, "accepted", "{value}");
    }
    let lines = format!("{}\n{}\n", native("n1", "7"), native("n2", "-7"));
    let told = own.post_text("/v1/usage", "application/x-ndjson", &lines).await.status(200);
    assert_eq!(told.pick(["results.0.status", "results.1.rule"]), json!(["accepted", "negative_usage"]));
    own.post_text("/v1/usage", CLOUD, CLOUD_EVENT).await.refused(400, "negative_usage");
    let told = own.post_text("/api/v1/events", CLOUD, CLOUD_EVENT).await.status(400);
    assert!(told.text("detail").contains("(negative_usage)"), "{told}");
    for (path, body) in [
        ("/api/v1/events", format!(r#"{{"event":{LAGO_EVENT}}}"#)),
        ("/api/v1/events/batch", format!(r#"{{"events":[{LAGO_EVENT}]}}"#)),
    ] {
        let told = own.post_text(path, JSON, &body).await.status(422);
        assert!(told["error_details"].to_string().contains("negative_usage"), "{told}");
    }
    world.reserved(reserve(1).id("r")).await;
    let less = json!({ "id": "s", "event_name": "e", "data": { "value": -500 } });
    world.send(settle("r").with("event", less)).await.names(400, "event.data.value");
    let less = usage("acme", "e").quantity(-7);
    world.send(amend("n1", less).without("source")).await.status(400);
    assert_eq!(sum(&world).as_deref(), Some("7"));
    assert_eq!(world.ledger(1), ["usage -7 → -7"]);
}

/// Every route except `/v1/usage` refuses an event of -3.
async fn refuse_less_than_nothing(own: Caller<'_>, pricing: Caller<'_>) {
    let lago = format!(r#"{{"event":{LAGO_EVENT}}}"#);
    let amend = r#"{"org":"acme","id":"a","reason":"x","event":{"event_name":"e","data":{"value":-3}}}"#;
    let settle = r#"{"event":{"id":"s","event_name":"e","data":{"value":-3}}}"#;
    let set_cost = r#"{"event":{"id":"s","event_name":"e","cost":"1","data":{"value":3}}}"#;
    let settled = "/v1/quota/r/settle";
    for (caller, path, kind, body, refused) in [
        (own, "/api/v1/events", CLOUD, CLOUD_EVENT, 400),
        (own, "/api/v1/events", JSON, &lago, 422),
        (own, "/v1/usage/amend", JSON, amend, 400),
        (own, settled, JSON, settle, 400),
        (pricing, settled, JSON, settle, 400),
        (pricing, settled, JSON, set_cost, 400),
    ] {
        caller.post_text(path, kind, body).await.status(refused);
    }
}

#[tokio::test]
async fn a_meter_may_take_values_below_zero_from_who_may_set_prices() {
    let world = priced().start().await;
    world.grant(1, "one", "10");
    let meter = world.patch("/v1/meters/tokens", json!({ "allows_negative": true })).await.status(200);
    assert_eq!(meter.pick(["allows_negative", "version"]), json!([true, 2]));
    let (own, key) = (world.on(0), pricing_key(&world));
    let pricing = world.by(&key);
    assert_eq!(own.uses_text(&native("a", "8")).await, "accepted");
    assert_eq!(own.uses_text(&native("b", "-3")).await, "data.value negative_usage");
    // The other routes refuse it as well; so does a settlement, which cannot set prices.
    world.reserved(reserve(1).id("r")).await;
    refuse_less_than_nothing(own, pricing).await;
    assert_eq!(pricing.uses_text(&native("b", "-3")).await, "accepted");
    // 8 - 3 units at 2 each. The battery burned 8, and negative usage gives nothing back.
    let totals = "SELECT concat(trim_scale(sum(quantity)), ' ', trim_scale(sum(cost))) FROM daily_summaries";
    assert_eq!(world.value(totals).as_deref(), Some("5 10"));
    assert_eq!(world.ledger(1), ["bonus 10 → 10", "usage -8 → 2"]);
    // Voided, it counts as never reported.
    world.send(void("b").without("source")).await.status(200);
    assert_eq!(world.value(totals).as_deref(), Some("8 16"));
    assert_eq!(world.ledger(1), ["bonus 10 → 10", "usage -8 → 2"]);
    for aggregation in ["count", "unique"] {
        let other = crate::support::requests::meter("other").aggregation(aggregation);
        world.send(other.with("allows_negative", true)).await.names(400, "allows_negative");
    }
}

/// The ledger has 12 decimal places, a quantity times its units 24. Parts below the last place are carried
/// until they reach it, so nothing is lost: here 0.4 of it each time.
#[tokio::test]
async fn what_is_too_small_for_the_ledger_is_carried() {
    let rates = json!([{ "unit_cost": "0", "battery_units": "0.000000000001" }]);
    let world = sums().prices(rates).start().await;
    world.grant(1, "one", "10");
    let mut ledger = vec!["bonus 10 → 10"];
    for (id, entry) in [
        ("a", None),
        ("b", None),
        // 1.2, of which 0.2 remain.
        ("c", Some("usage -0.000000000001 → 9.999999999999")),
        ("d", None),
        ("e", Some("usage -0.000000000001 → 9.999999999998")),
    ] {
        world.used(usage("acme", "e").id(id).quantity("0.4")).await;
        ledger.extend(entry);
        assert_eq!(world.ledger(1), ledger, "{id}");
    }
    // 2 are burned, and nothing remains. At 1.6 one is given back and 0.6 remain; at 1.2, 0.2 remain; at 0.8
    // the other one is given back.
    for (id, entry) in [
        ("a", Some("refund 0.000000000001 → 9.999999999999")),
        ("b", None),
        ("c", Some("refund 0.000000000001 → 10")),
    ] {
        world.send(void(id)).await.status(200);
        ledger.extend(entry);
        assert_eq!(world.ledger(1), ledger, "{id} taken back");
    }
    world.run(&["verify"]);
}

#[tokio::test]
async fn values_are_taken_as_languages_print_them() {
    let world = sums().start().await;
    let mut total = rust_decimal::Decimal::ZERO;
    for (sent, kept) in [
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
    ] {
        assert_eq!(world.on(0).uses_text(&native(sent.trim_matches('"'), sent)).await, "accepted", "{sent}");
        let id = sent.trim_matches('"');
        let sql = format!("SELECT trim_scale(quantity)::text FROM usage_records WHERE event_id = '{id}'");
        assert_eq!(world.value(&sql).as_deref(), Some(kept), "{sent}");
        total += kept.parse::<rust_decimal::Decimal>().expect("a decimal");
    }
    assert_eq!(sum(&world), Some(total.normalize().to_string()));
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
        let told = world.on(0).uses_text(&native("w", sent)).await;
        assert_eq!(told, format!("data.value {rule}"), "{sent}");
    }
}

#[tokio::test]
async fn amounts_and_costs_are_taken_as_languages_print_them() {
    let world = sums().start().await;
    let text = async |path: &str, body: &str| world.on(0).post_text(path, JSON, body).await.ok();
    let reserve = r#"{"org":"acme","id":"r","meter":"tokens","amount":0.30000000000000004}"#;
    assert_eq!(text("/v1/quota/reserve", reserve).await.status(201)["amount"], "0.3");
    let settle = r#"{"event":{"id":"s","event_name":"e","data":{"value":12.345678901234567}}}"#;
    assert_eq!(text("/v1/quota/r/settle", settle).await["settled_amount"], "12.345678901235");
    // A cost given by the caller, also in minor units.
    let key = pricing_key(&world);
    let pricing = world.by(&key);
    let event = r#"{"id":"m","org":"acme","event_name":"e","cost":0.30000000000000004,"data":{"value":1}}"#;
    assert_eq!(pricing.uses_text(event).await, "accepted");
    let lago = r#"{"event":{"transaction_id":"m2","external_subscription_id":"acme","code":"e",
        "properties":{"value":1},
        "precise_total_amount_cents":12.300000000000001}}"#;
    pricing.post_text("/api/v1/events", JSON, lago).await.status(200);
    let costs = "SELECT string_agg(trim_scale(cost)::text, ' ' ORDER BY event_id) FROM usage_records
        WHERE event_id LIKE 'm%'";
    assert_eq!(world.value(costs).as_deref(), Some("0.3 0.123"));
}

#[tokio::test]
async fn the_largest_values_of_a_batch_add_up_exactly() {
    let world = sums().counted("month").start().await;
    let event = |n: usize| native(&format!("b{n}"), "999999999999999.999999999999");
    let body = format!("[{}]", (0..1000).map(event).collect::<Vec<_>>().join(","));
    let taken = world.on(0).post_text("/v1/usage?results=problems", JSON, &body).await.status(200);
    assert_eq!(taken["accepted"], 1000);
    let total = "999999999999999999.999999999";
    assert_eq!(sum(&world).as_deref(), Some(total));
    assert_eq!(world.value("SELECT trim_scale(used)::text FROM quota_counters").as_deref(), Some(total));
    let today = chrono::Utc::now().format("%Y-%m-01");
    let path = format!("/v1/usage/daily?org=acme&from={today}&to=2027-12-01&group_by=month");
    assert_eq!(world.get(&path).await.at("data.0.quantity"), total);
    world.balances();
}

/// A name, an event, the texts that repeat it, and the texts that differ from it.
const CONTENTS: [(&str, &str, &[&str], &[&str]); 6] = [
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

#[tokio::test]
async fn the_same_content_is_a_repeat_however_it_is_written() {
    let unique = meter("unique").event_name("u").aggregation("unique");
    let world = sums().with(unique).start().await;
    let key = pricing_key(&world);
    let pricing = world.by(&key);
    let now = chrono::Utc::now().to_rfc3339();
    for old in [false, true] {
        for (n, (name, first, same, other)) in CONTENTS.iter().enumerate() {
            let event = |fields: &str| {
                format!(r#"{{"id":"{old}-{n}","org":"acme",{}}}"#, fields.replace("NOW", &now))
            };
            assert_eq!(pricing.uses_text(&event(first)).await, "accepted", "{name}");
            if old {
                // As an older version stored it: a digest of the text.
                world.execute("UPDATE usage_keys SET content = content + 1");
            }
            let same = same.iter().map(|sent| (sent, "duplicate"));
            for (sent, told) in same.chain(other.iter().map(|sent| (sent, "conflict"))) {
                assert_eq!(pricing.uses_text(&event(sent)).await, told, "{name}, {old}: {sent}");
            }
        }
    }
    assert_eq!(world.number("SELECT count(*) FROM usage_uniques"), 1);
    // In one batch, also with all or nothing: the known event is a duplicate, the new one is new.
    let known = r#"{"data":{"tier":1.0,"value":12e2},"org":"acme","event_name":"e","id":"false-0"}"#;
    let again = r#"{"id":"fresh","org":"acme","event_name":"e","data":{"value":5.0,"more":[]}}"#;
    let body = format!("[{known},{},{again}]", native("fresh", "5"));
    let told = world.on(0).post_text("/v1/usage?all_or_nothing=true", JSON, &body).await.status(200);
    assert_eq!(told.pick(["accepted", "duplicate", "conflict"]), json!([1, 2, 0]), "{told}");
}

/// A meter changes between an event and its repeat.
#[tokio::test]
async fn a_repeat_stays_one_when_meters_change() {
    let world = sums().start().await;
    let own = world.on(0);
    let event =
        r#"{"id":"1","org":"acme","event_name":"e","data":{"value":5,"tier":"a","region":"eu","pages":3}}"#;
    let other = event.replace(r#""tier":"a""#, r#""tier":"b""#);
    assert_eq!(own.uses_text(event).await, "accepted");
    // Another dimension, then another meter over the same events.
    world.patch("/v1/meters/tokens", json!({ "dimensions": ["tier", "region"] })).await.status(200);
    assert_eq!(own.uses_text(event).await, "duplicate");
    world.send(meter("pages").event_name("e").value_field("pages")).await.status(201);
    assert_eq!(own.uses_text(event).await, "duplicate");
    assert_eq!(own.uses_text(&other).await, "conflict");
    assert_eq!(own.uses_text(&event.replace('5', "6")).await, "conflict");
    assert_eq!(sum(&world).as_deref(), Some("5"));
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
    let world = sums().prices(prices).start().await;
    world.slot(1, 1, &json!({ "tier": "1" }), false, "month");
    for (n, (tier, cost)) in (0..).zip([
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
    ]) {
        let event =
            format!(r#"{{"id":"t{n}","org":"acme","event_name":"e","data":{{"value":1,"tier":{tier}}}}}"#);
        assert_eq!(world.on(0).uses_text(&event).await, "accepted", "{tier}");
        let sql = format!("SELECT trim_scale(cost)::text FROM usage_records WHERE event_id = 't{n}'");
        assert_eq!(world.value(&sql).as_deref(), Some(cost), "{tier}");
    }
    assert_eq!(world.number("SELECT used FROM quota_counters"), 4);
    world.balances();
}

#[tokio::test]
async fn a_leap_second_is_read_as_the_next_on_every_door() {
    let world = sums().start().await;
    let key = world.database.key("usage:write,usage:backfill", None);
    let backfill = world.by(&key);
    let at = |id: &str, time: &'static str| -> Usage { usage("acme", "e").id(id).at(time) };
    for (id, time) in
        [("1", "2016-12-31T23:59:60Z"), ("2", "2017-01-01T05:29:60.25+05:30"), ("3", "2017-01-01T00:00:00Z")]
    {
        assert_eq!(backfill.uses(at(id, time)).await, "accepted", "{time}");
    }
    assert_eq!(backfill.uses(at("1", "2017-01-01T00:00:00Z")).await, "duplicate");
    assert_eq!(backfill.uses(at("1", "2016-12-31T23:59:59Z")).await, "conflict");
    let cloud = r#"{"specversion":"1.0","id":"4","source":"s","type":"e","time":"2016-12-31T23:59:60Z",
        "subject":"acme","data":{"value":1}}"#;
    backfill.post_text("/api/v1/events", CLOUD, cloud).await.status(204);
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "5"),
        ("ce-source", "s"),
        ("ce-type", "e"),
        ("ce-time", "2016-12-31T23:59:60Z"),
        ("ce-subject", "acme"),
    ];
    let request = world.daemon().request(Method::POST, "/v1/usage", &key).json(&json!({ "value": 1 }));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    assert_eq!(answer(request).await.0, 200);
    let days = "SELECT string_agg(DISTINCT concat(day, ' ',
        to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')), ', ') FROM usage_records";
    assert_eq!(world.value(days).as_deref(), Some("2017-01-01 2017-01-01 00:00:00"));
    let path = "/v1/usage/records?org=acme&from=2016-12-31T23:59:60Z&to=2017-01-01T00:00:01Z";
    assert_eq!(world.get(path).await.status(200).rows().len(), 5);
}
