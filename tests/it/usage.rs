//! Usage: taken once, priced, summed up and counted at the moment of the answer.

use chrono::{Duration, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

const KEYS: &str = "usage:write,usage:read,billing:write,billing:read";

fn event(id: &str, value: i64) -> Value {
    json!({ "id": id, "source": "t", "org": "acme", "event_name": "work",
        "data": { "value": value, "model": "a" } })
}

/// An org `acme` with a meter that sums `work`, and a slot of a month.
async fn acme(database: &Database, daemon: &Daemon) -> String {
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    database.meter(1, "work", "sum", "model", Some(&json!([{ "unit_cost": "0.25", "battery_units": "2" }])));
    database.slot(1, 1, &json!({}), false, "month");
    key
}

#[tokio::test]
async fn an_event_counts_once_whatever_its_time() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = acme(&database, &daemons[0]).await;
    let mut late = event("1", 5);
    late["occurred_at"] = json!(Utc::now() - Duration::days(1));
    assert_eq!(daemons[0].usage(&key, &late).await, ["accepted"]);
    assert_eq!(daemons[1].usage(&key, &late).await, ["duplicate"]);
    // The same key at another time is another event, and the books keep the first.
    let mut moved = late.clone();
    moved["occurred_at"] = json!(Utc::now());
    assert_eq!(daemons[1].usage(&key, &moved).await, ["conflict"]);
    let mut other = late.clone();
    other["data"]["value"] = json!(6);
    // Within a request too: the first of equal keys is stored.
    let both = json!([event("2", 1), event("2", 1), event("2", 7), other, event("3", 1)]);
    assert_eq!(
        daemons[0].usage(&key, &both).await,
        ["accepted", "duplicate", "conflict", "conflict", "accepted"]
    );
    // Another source is another key.
    let mut elsewhere = event("1", 5);
    elsewhere["source"] = json!("u");
    assert_eq!(daemons[0].usage(&key, &elsewhere).await, ["accepted"]);
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 12);
    assert_eq!(
        database.value("SELECT sum(cost)::numeric(9, 2) FROM daily_summaries").as_deref(),
        Some("3.00")
    );
    assert_eq!(database.number("SELECT sum(battery_units) FROM daily_summaries"), 24);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

/// Many events that are expected to be new are stored in another way than those of which one turns out to be
/// a repeat.
#[tokio::test]
async fn a_large_request_with_a_repeat_in_it_stores_the_rest() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let request = |from: i64, to: i64| (from..to).map(|n| event(&n.to_string(), 1)).collect::<Vec<_>>();
    let all = |outcomes: Vec<String>, wanted: &str| outcomes.iter().filter(|one| *one == wanted).count();
    assert_eq!(all(daemon.usage(&key, &json!(request(0, 600))).await, "accepted"), 600);
    // One transaction: had the database refused the whole, it would have been taken apart.
    assert_eq!(database.number("SELECT count(DISTINCT xmin::text) FROM usage_keys"), 1);
    let mut second = request(590, 1200);
    second.push(event("7", 2));
    let outcomes = daemon.usage(&key, &json!(second)).await;
    assert_eq!(outcomes.last().map(String::as_str), Some("conflict"));
    assert_eq!((all(outcomes.clone(), "duplicate"), all(outcomes, "accepted")), (10, 600));
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 1200);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn a_bad_event_does_not_lose_the_others() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let with = |id: &str, field: &str, value: Value| {
        let mut event = event(id, 1);
        event[field] = value;
        event
    };
    let events = json!([
        event("good", 1),
        with("a", "org", json!("nobody")),
        with("b", "event_name", json!("unheard")),
        with("c", "data", json!({ "model": "a" })),
        with("d", "data", json!({ "value": "1e400000" })),
        with("e", "data", json!({ "value": 1, "model": { "x": 1 } })),
        with("f", "occurred_at", json!(Utc::now() - Duration::days(36))),
        with("g", "occurred_at", json!(Utc::now() + Duration::minutes(6))),
        with("h", "cost", json!("1")),
        with("i", "data", json!({ "value": 1, "model": "a\u{0}" })),
        with("j", "occured_at", json!(Utc::now())),
        with("s", "source", json!("coulomb:reservation")),
        7,
        { "id": "k", "event_name": "work", "data": { "value": 1 } },
        event("better", 2),
    ]);
    assert_eq!(
        daemon.usage(&key, &events).await,
        [
            "accepted",
            "org unknown_org",
            "event_name unknown_event_name",
            "data.value no_value",
            "data.value too_large",
            "data.model not_a_scalar",
            "occurred_at too_old",
            "occurred_at in_the_future",
            "cost missing_scope",
            "data.model not_text",
            "occured_at unknown_field",
            "source reserved_source",
            " not_an_object",
            "org no_org",
            "accepted",
        ]
    );
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 3);
    // What was rejected holds no key: corrected, it is taken.
    assert_eq!(daemon.usage(&key, &event("c", 4)).await, ["accepted"]);

    let all = "/v1/usage?all_or_nothing=true";
    for events in [json!([event("x", 1), 7]), json!([event("y", 1), event("c", 5)])] {
        let (status, answer) = daemon.post(all, &key, &events).await;
        assert_eq!(
            (status.as_u16(), &answer["accepted"], &answer["code"]),
            (422, &json!(0), &json!("not_stored")),
            "{answer}"
        );
    }
    let (status, answer) = daemon.post(all, &key, &json!([event("x", 1), event("c", 4)])).await;
    assert_eq!((status.as_u16(), &answer["accepted"], &answer["duplicate"]), (200, &json!(1), &json!(1)));
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn old_usage_and_prices_need_their_scopes() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    acme(&database, &daemon).await;
    let key = database.key("usage:write,usage:backfill,usage:price", None);
    let mut old = event("1", 1);
    old["occurred_at"] = json!("2021-02-03T04:05:06Z");
    old["cost"] = json!("12.5");
    assert_eq!(daemon.usage(&key, &old).await, ["accepted"]);
    assert_eq!(
        database.value("SELECT day || ' ' || cost::numeric(9, 2) FROM daily_summaries").as_deref(),
        Some("2021-02-03 12.50")
    );
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn every_form_and_packing_is_read() {
    use std::io::Write;
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let post = |content: &'static str, body: Vec<u8>| {
        daemon.request(Method::POST, "/v1/usage", &key).header("Content-Type", content).body(body)
    };
    let cloud = |id: &str| {
        json!({ "specversion": "1.0", "id": id, "source": "t", "type": "work",
        "subject": "acme", "data": { "value": 1 } })
    };
    let gzip = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(text.as_bytes()).expect("packs");
        packer.finish().expect("packs")
    };
    // `{"id":"z","org":"acme","event_name":"work","data":{"value":1}}` as zstd packs it.
    let zstd = hex::decode(concat!(
        "28b52ffd0458f101007b226964223a227a222c226f7267223a2261636d65222c226576656e745f6e",
        "616d65223a22776f726b222c2264617461223a7b2276616c7565223a317d7dfd63c546",
    ))
    .expect("hex");
    let lines = format!("{}\n{}\n", event("l1", 1), event("l2", 1));
    let requests = [
        (post("application/json", event("1", 1).to_string().into()), 1),
        (post("application/json", json!({ "events": [event("2", 1), event("3", 1)] }).to_string().into()), 2),
        (post("application/x-ndjson", lines.into()), 2),
        (post("application/cloudevents+json", cloud("c1").to_string().into()), 1),
        (post("application/cloudevents-batch+json", json!([cloud("c2"), cloud("c3")]).to_string().into()), 2),
        (
            post("application/json", br#"{"value":1}"#.to_vec())
                .header("ce-specversion", "1.0")
                .header("ce-id", "b1")
                .header("ce-source", "t")
                .header("ce-type", "work")
                .header("ce-subject", "acme"),
            1,
        ),
        (post("application/json", gzip(&event("g", 1).to_string())).header("Content-Encoding", "gzip"), 1),
        (post("application/json", zstd).header("Content-Encoding", "zstd"), 1),
    ];
    let mut total = 0;
    for (request, events) in requests {
        let (status, answer) = answer(request).await;
        assert_eq!((status.as_u16(), &answer["accepted"]), (200, &json!(events)), "{answer}");
        total += events;
    }
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), total);
    // A bomb is refused at the limit, unpacked.
    let bomb = gzip(&" ".repeat(20 << 20));
    assert!(bomb.len() < 100_000);
    let (status, refused) = answer(post("application/json", bomb).header("Content-Encoding", "gzip")).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (413, Some("body_too_large")));
    // And does not even take the memory: a gigabyte of blocks that repeat one byte (RFC 8878, 3.1.1.2).
    let mut bomb = hex::decode("28b52ffd0038").expect("hex");
    (0..8000).for_each(|_| bomb.extend([0x02, 0x00, 0x10, b' ']));
    let before = daemon.peak_mib();
    let (status, _) = answer(post("application/json", bomb).header("Content-Encoding", "zstd")).await;
    assert_eq!(status.as_u16(), 413);
    if let (Some(before), Some(after)) = (before, daemon.peak_mib()) {
        assert!(after < before + 100, "from {before} to {after} MiB");
    }
    let many: Vec<Value> = (0..10_001).map(|n| event(&n.to_string(), 1)).collect();
    let (status, problem) = daemon.post("/v1/usage", &key, &json!(many)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (413, &json!("too_many_events")));
}

#[tokio::test]
async fn days_are_the_orgs_own() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    daemon.org(&key, "tokyo", "Asia/Tokyo").await;
    daemon.org(&key, "lima", "America/Lima").await;
    let yesterday = (Utc::now() - Duration::days(1)).date_naive();
    let at = yesterday.and_hms_opt(16, 0, 0).expect("a time").and_utc();
    for (org, at) in [("acme", at), ("tokyo", at), ("lima", at - Duration::hours(12))] {
        let mut event = event("1", 1);
        event["org"] = json!(org);
        event["occurred_at"] = json!(at);
        assert_eq!(daemon.usage(&key, &event).await, ["accepted"]);
    }
    let day = |org: &str| {
        database.value(&format!(
            "SELECT day FROM daily_summaries JOIN orgs USING (org_id) WHERE external_id = '{org}'"
        ))
    };
    assert_eq!(day("acme"), Some(yesterday.to_string()));
    assert_eq!(day("tokyo"), Some((yesterday + Duration::days(1)).to_string()));
    assert_eq!(day("lima"), Some((yesterday - Duration::days(1)).to_string()));
}

/// Every aggregation, in any order and in pieces, and what is left when usage is taken back.
#[tokio::test]
async fn aggregations_are_of_the_set_and_follow_corrections() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = database.key(KEYS, None);
    daemons[0].org(&key, "acme", "UTC").await;
    for (id, aggregation) in [(1, "sum"), (2, "count"), (3, "max"), (4, "unique"), (5, "latest")] {
        database.meter(id, "work", aggregation, "", None);
    }
    database.slot(1, 1, &json!({}), true, "day");
    let start = (Utc::now() - Duration::days(2)).date_naive().and_hms_opt(1, 0, 0).expect("a time").and_utc();
    let values = [4, 9, 2, 9, 5, 1];
    let order = [3, 0, 5, 1, 4, 2];
    for n in order {
        let mut event = event(&n.to_string(), values[n]);
        event["occurred_at"] = json!(start + Duration::minutes(i64::try_from(n).expect("small")));
        event["subject"] = json!(format!("s{}", n % 2));
        assert_eq!(daemons[n % 2].usage(&key, &event).await, ["accepted"]);
    }
    let day = |meter: i32| {
        let sql = format!(
            "SELECT quantity || '/' || count FROM daily_summaries JOIN usage_series USING (org_id, series_id)
             WHERE meter_id = {meter}"
        );
        database.value(&sql).expect("a day")
    };
    let all = || (1..=5).map(day).collect::<Vec<_>>();
    assert_eq!(all(), ["30/6", "6/6", "9/6", "5/6", "1/6"]);
    let void = |id: &str| json!({ "org": "acme", "source": "t", "id": id, "reason": "sent by mistake" });
    for id in ["1", "5"] {
        let (status, done) = daemons[0].post("/v1/usage/void", &key, &void(id)).await;
        assert_eq!((status.as_u16(), &done["correction"]), (200, &json!(1)), "{done}");
    }
    assert_eq!(all(), ["20/4", "4/4", "9/4", "4/4", "5/4"]);
    let (status, again) = daemons[1].post("/v1/usage/void", &key, &void("1")).await;
    assert_eq!((status.as_u16(), again["code"].as_str()), (409, Some("already_voided")));
    assert_eq!(daemons[1].post("/v1/usage/void", &key, &void("nothing")).await.0, 404);
    // The other nine is amended to three: maximum and distinct values follow.
    let mut amend = void("3");
    amend["event"] = json!({ "event_name": "work", "subject": "s1", "data": { "value": 3 } });
    let (status, done) = daemons[1].post("/v1/usage/amend", &key, &amend).await;
    assert_eq!((status.as_u16(), &done["correction"]), (200, &json!(2)), "{done}");
    assert_eq!(all(), ["14/4", "4/4", "5/4", "4/4", "5/4"]);
    // And taken back for good: what was sent first is still a duplicate.
    assert_eq!(daemons[0].post("/v1/usage/void", &key, &void("3")).await.0, 200);
    assert_eq!(all(), ["11/3", "3/3", "5/3", "3/3", "5/3"]);
    assert_eq!(database.number("SELECT count(*) FROM usage_corrections"), 5);
    assert_eq!(database.number("SELECT count(*) FROM usage_records WHERE event_id = '3'"), 20);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

/// A month's tiers cost the same however the usage is cut, and what is taken back costs nothing.
#[tokio::test]
async fn tiers_cost_the_same_in_any_pieces() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = database.key(KEYS, None);
    let tiers = |mode: &str, tiers: Value| json!([{ "tiers": { "mode": mode, "tiers": tiers } }]);
    let steps = json!([{ "up_to": "10", "unit_cost": "1" },
        { "up_to": "20", "unit_cost": "0.5", "flat_cost": "3" }, { "unit_cost": "0.1" }]);
    let meters = [
        // 10 × 1 + 10 × 0.5 + 3 + 5 × 0.1
        (1, tiers("graduated", steps.clone()), "18.50"),
        // 25 × 0.1
        (2, tiers("volume", steps), "2.50"),
        // 3 begun packages of 10
        (3, tiers("package", json!([{ "unit_cost": "7", "package_size": "10" }])), "21.00"),
    ];
    for (id, rates, _) in &meters {
        database.meter(*id, "work", "sum", "", Some(rates));
    }
    for (org, pieces) in [("acme", vec![25]), ("beta", vec![1; 25]), ("gamma", vec![9, 4, 12])] {
        daemons[0].org(&key, org, "UTC").await;
        let events: Vec<Value> = pieces
            .iter()
            .enumerate()
            .map(|(n, value)| {
                let mut event = event(&n.to_string(), *value);
                event["org"] = json!(org);
                event
            })
            .collect();
        let (left, right) = events.split_at(events.len() / 2);
        let sent = [(&daemons[0], left), (&daemons[1], right)];
        futures_util::future::join_all(
            sent.into_iter()
                .filter(|(_, part)| !part.is_empty())
                .map(|(daemon, part)| daemon.usage(&key, part_of(part))),
        )
        .await;
        let cost = |id: i32| {
            database.value(&format!(
                "SELECT sum(cost)::numeric(12, 2) FROM daily_summaries JOIN usage_series
                     USING (org_id, series_id) JOIN orgs USING (org_id)
                 WHERE meter_id = {id} AND external_id = '{org}'"
            ))
        };
        for (id, _, expected) in &meters {
            assert_eq!(cost(*id).as_deref(), Some(*expected), "meter {id} of {org}");
        }
        for n in 0..pieces.len() {
            let void = json!({ "org": org, "source": "t", "id": n.to_string(), "reason": "all of it" });
            assert_eq!(daemons[n % 2].post("/v1/usage/void", &key, &void).await.0, 200);
        }
        for (id, ..) in &meters {
            assert_eq!(cost(*id).as_deref(), Some("0.00"), "meter {id} of {org}, taken back");
        }
    }
    assert_eq!(database.number("SELECT sum(quantity) FROM rating_counters"), 0);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

fn part_of(events: &[Value]) -> &'static Value {
    Box::leak(Box::new(Value::Array(events.to_vec())))
}

#[tokio::test]
async fn a_closed_month_is_left_as_it_is() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let backfill = database.key("usage:write,usage:backfill", None);
    let mut old = event("old", 10);
    old["occurred_at"] = json!("2026-01-15T12:00:00Z");
    assert_eq!(daemon.usage(&backfill, &old).await, ["accepted"]);
    let today = Utc::now().date_naive();
    let running = today.format("%Y-%m").to_string();
    for month in [running.as_str(), "2026-01-02", "2026-1", "+262142-01", "-200000-01"] {
        let (status, problem) = daemon.post("/v1/usage/closings", &key, &json!({ "month": month })).await;
        assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("month")), "{month}: {problem}");
    }
    assert_eq!(daemon.post("/v1/usage/closings", &key, &json!({ "month": "2026-01-01" })).await.0, 200);
    assert_eq!(daemon.get("/v1/usage/closings", &key).await.1["data"][0]["month"], "2026-01");
    let void = json!({ "org": "acme", "source": "t", "id": "old", "reason": "never happened" });
    assert_eq!(daemon.post("/v1/usage/void", &key, &void).await.0, 200);
    let mut late = event("late", 4);
    late["occurred_at"] = json!("2026-01-20T12:00:00Z");
    assert_eq!(daemon.usage(&backfill, &late).await, ["accepted"]);
    let day = |day: &str| {
        database
            .number(&format!("SELECT coalesce(sum(quantity), 0) FROM daily_summaries WHERE day = '{day}'"))
    };
    assert_eq!((day("2026-01-15"), day("2026-01-20"), day(&today.to_string())), (10, 0, 4 - 10));
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn an_org_posts_for_itself_alone() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let platform = acme(&database, &daemon).await;
    let beta = daemon.org(&platform, "beta", "UTC").await;
    let key = database.key("usage:write,usage:read", Some(&beta));
    let own = json!({ "id": "1", "event_name": "work", "data": { "value": 1 } });
    assert_eq!(daemon.usage(&key, &own).await, ["accepted"]);
    assert_eq!(daemon.usage(&key, &event("2", 1)).await, ["org unknown_org"]);
    let mut named = own.clone();
    (named["id"], named["org"]) = (json!("3"), json!("beta"));
    assert_eq!(daemon.usage(&key, &named).await, ["accepted"]);
    let void = json!({ "org": "acme", "id": "1", "reason": "not mine" });
    assert_eq!(daemon.post("/v1/usage/void", &key, &void).await.0, 404);
    assert_eq!(daemon.post("/v1/usage", &database.key("usage:read", None), &own).await.0, 403);
    assert_eq!(database.number("SELECT count(DISTINCT org_id) FROM usage_records"), 1);
    // Row-level security hides what a query forgets to filter.
    let seen = "SET ROLE coulomb_org; SET coulomb.org_id = '0'";
    let mut conn = database.owner();
    diesel::connection::SimpleConnection::batch_execute(&mut conn, seen).expect("acts for nobody");
    for table in ["usage_records", "daily_summaries", "usage_series", "quota_counters", "usage_corrections"] {
        use diesel::RunQueryDsl;
        let rows = diesel::sql_query(format!("SELECT * FROM {table}")).execute(&mut conn).expect("may ask");
        assert_eq!(rows, 0, "{table}");
    }
}

/// What one daemon learns another counts by: no usage is counted by an older catalogue than the one
/// committed.
#[tokio::test]
async fn a_change_of_meters_is_known_everywhere_at_once() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = acme(&database, &daemons[0]).await;
    for daemon in &daemons {
        assert_eq!(daemon.usage(&key, &event(&daemon.base, 1)).await, ["accepted"]);
    }
    database.execute(
        "INSERT INTO rate_cards (rate_card_id, meter_id, version, valid_from, currency, rates, created_at)
         VALUES (2, 1, 2, '2021-01-01', 'usd', '[{\"unit_cost\": \"100\"}]', now())",
    );
    database.slot(2, 1, &json!({ "model": "a" }), true, "day");
    for daemon in &daemons {
        assert_eq!(daemon.usage(&key, &event(&format!("{}/2", daemon.base), 1)).await, ["accepted"]);
    }
    assert_eq!(
        database.value("SELECT sum(cost)::numeric(9, 2) FROM usage_records").as_deref(),
        Some("200.50")
    );
    assert_eq!(database.number("SELECT used FROM quota_counters WHERE slot_id = 2"), 2);
}

#[tokio::test]
async fn too_much_at_once_is_told_to_wait() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_USAGE_QUEUE", "50"), ("COULOMB_USAGE_MEMORY_MIB", "1")]);
    let key = acme(&database, &daemon).await;
    let many = |prefix: usize| json!((0..50).map(|n| event(&format!("{prefix}/{n}"), 1)).collect::<Vec<_>>());
    let bodies: Vec<Value> = (0..40).map(many).collect();
    let answers = futures_util::future::join_all(
        bodies.iter().map(|body| daemon.request(Method::POST, "/v1/usage", &key).json(body).send()),
    )
    .await;
    let mut stored = 0;
    for answer in answers {
        let answer = answer.expect("an answer");
        match answer.status().as_u16() {
            200 => stored += 50,
            429 => assert_eq!(answer.headers()["Retry-After"], "1"),
            other => panic!("{other}"),
        }
    }
    assert!(stored < 2000, "nobody was told to wait");
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), stored);
    let large = json!({ "id": "x".repeat(2 << 20), "event_name": "work" });
    assert_eq!(daemon.post("/v1/usage", &key, &large).await.0, 429);
}
