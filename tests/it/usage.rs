//! Usage: stored once, and priced, summed and counted when the answer comes.

use chrono::{Duration, Utc};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::daemon::answer;
use crate::support::requests::{Usage, amend, close, limit, meter, plan, usage, void};
use crate::support::world::Setup;

/// An org `acme` with a priced meter that sums `work`, counted by the month for every org.
fn acme() -> Setup {
    World::new()
        .org("acme")
        .with(meter("work").dimensions(["model"]))
        .prices(json!([{ "unit_cost": "0.25", "battery_units": "2" }]))
        .counted("month")
}

/// Usage of `acme`, of the model `a`.
fn event(id: &str, quantity: i64) -> Usage {
    usage("acme", "work").id(id).quantity(quantity).dimension("model", "a")
}

#[tokio::test]
async fn an_event_counts_once_whatever_its_time() {
    let world = acme().daemons(2).start().await;
    let (here, there) = (world.on(0), world.on(1));
    let late = event("1", 5).at(Utc::now() - Duration::days(1));
    assert_eq!(here.uses(late.clone()).await, "accepted");
    assert_eq!(there.uses(late.clone()).await, "duplicate");
    // The same key with another time is a conflict, and the first stays.
    assert_eq!(there.uses(late.clone().at(Utc::now())).await, "conflict");
    // The same within a request: the first of equal keys is stored.
    let both = [event("2", 1), event("2", 1), event("2", 7), late.quantity(6), event("3", 1)];
    assert_eq!(here.usage(both).await, ["accepted", "duplicate", "conflict", "conflict", "accepted"]);
    // Another source is another key.
    assert_eq!(here.uses(event("1", 5).source("u")).await, "accepted");
    let sums = "SELECT concat_ws(' ', sum(quantity), sum(cost)::numeric(9, 2), sum(battery_units))
        FROM daily_summaries";
    assert_eq!(world.value(sums).as_deref(), Some("12 3.00 24"));
    world.balances();
}

/// Many new events are stored in a quick way. A batch with a repeat uses another way.
#[tokio::test]
async fn a_large_request_with_a_repeat_in_it_stores_the_rest() {
    let world = acme().start().await;
    let request = |from: i64, to: i64| (from..to).map(|n| event(&n.to_string(), 1)).collect::<Vec<_>>();
    let all = |outcomes: &[String], wanted: &str| outcomes.iter().filter(|one| *one == wanted).count();
    assert_eq!(all(&world.on(0).usage(request(0, 600)).await, "accepted"), 600);
    // One transaction: if the database had refused the batch, the daemon would have split it.
    assert_eq!(world.number("SELECT count(DISTINCT xmin::text) FROM usage_keys"), 1);
    let mut second = request(590, 1200);
    second.push(event("7", 2));
    let outcomes = world.on(0).usage(second).await;
    assert_eq!(outcomes.last().map(String::as_str), Some("conflict"));
    assert_eq!((all(&outcomes, "duplicate"), all(&outcomes, "accepted")), (10, 600));
    assert_eq!(world.number("SELECT sum(quantity) FROM daily_summaries"), 1200);
    world.balances();
}

#[tokio::test]
async fn a_bad_event_does_not_lose_the_others() {
    let world = acme().start().await;
    let with = |id: &str, field: &str, value: Value| (event(id, 1).with(field, value)).json();
    let events = [
        (event("good", 1).json(), "accepted"),
        (with("a", "org", json!("nobody")), "org unknown_org"),
        (with("b", "event_name", json!("unheard")), "event_name unknown_event_name"),
        (with("c", "data", json!({ "model": "a" })), "data.value no_value"),
        (with("d", "data", json!({ "value": "1e400000" })), "data.value too_large"),
        (with("e", "data", json!({ "value": 1, "model": { "x": 1 } })), "data.model not_a_scalar"),
        (with("f", "occurred_at", json!(Utc::now() - Duration::days(36))), "occurred_at too_old"),
        (with("g", "occurred_at", json!(Utc::now() + Duration::minutes(6))), "occurred_at in_the_future"),
        (with("h", "cost", json!("1")), "cost missing_scope"),
        (with("i", "data", json!({ "value": 1, "model": "a\u{0}" })), "data.model not_text"),
        (with("j", "occured_at", json!(Utc::now())), "occured_at unknown_field"),
        (with("s", "source", json!("coulomb:reservation")), "source reserved_source"),
        (json!(7), " not_an_object"),
        (event("k", 1).without("org").json(), "org no_org"),
        (event("better", 2).json(), "accepted"),
    ];
    let (sent, told): (Vec<Value>, Vec<&str>) = events.into_iter().unzip();
    assert_eq!(world.daemon().usage(&world.key, &json!(sent)).await, told);
    assert_eq!(world.number("SELECT sum(quantity) FROM daily_summaries"), 3);
    // A rejected event has no key: corrected, it is accepted.
    world.used(event("c", 4)).await;
    world.balances();
}

#[tokio::test]
async fn all_or_nothing_stores_nothing_where_one_event_is_bad() {
    let world = acme().start().await;
    world.used(event("c", 4)).await;
    let all = |events: Value| world.post("/v1/usage?all_or_nothing=true", events);
    for events in [json!([event("x", 1).json(), 7]), json!([event("y", 1).json(), event("c", 5).json()])] {
        assert_eq!(all(events).await.refused(422, "not_stored")["accepted"], 0);
    }
    let done = all(json!([event("x", 1).json(), event("c", 4).json()])).await.status(200);
    assert_eq!(done.pick(["accepted", "duplicate"]), json!([1, 1]));
    world.balances();
}

#[tokio::test]
async fn old_usage_and_prices_need_their_scopes() {
    let world = acme().start().await;
    let key = world.database.key("usage:write,usage:backfill,usage:price", None);
    let old = event("1", 1).at("2021-02-03T04:05:06Z").with("cost", "12.5");
    assert_eq!(world.by(&key).uses(old).await, "accepted");
    let days = "SELECT day || ' ' || cost::numeric(9, 2) FROM daily_summaries";
    assert_eq!(world.value(days).as_deref(), Some("2021-02-03 12.50"));
    world.balances();
}

fn gzip(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text.as_bytes()).expect("packs");
    packer.finish().expect("packs")
}

#[tokio::test]
async fn every_form_and_packing_is_read() {
    let world = acme().start().await;
    let post = |content: &'static str, body: Vec<u8>| {
        let request = world.daemon().request(Method::POST, "/v1/usage", &world.key);
        request.header("Content-Type", content).body(body)
    };
    let text = |id: &str| event(id, 1).json().to_string();
    let cloud = |id: &str| {
        json!({ "specversion": "1.0", "id": id, "source": "t", "type": "work", "subject": "acme",
            "data": { "value": 1 } })
    };
    // `{"id":"z","org":"acme","event_name":"work","data":{"value":1}}` as zstd packs it.
    let zstd = hex::decode(concat!(
        "28b52ffd0458f101007b226964223a227a222c226f7267223a2261636d65222c226576656e745f6e",
        "616d65223a22776f726b222c2264617461223a7b2276616c7565223a317d7dfd63c546",
    ))
    .expect("hex");
    let lines = format!("{}\n{}\n", text("l1"), text("l2"));
    let listed = json!({ "events": [event("2", 1).json(), event("3", 1).json()] });
    let clouds = json!([cloud("c2"), cloud("c3")]);
    let in_headers =
        [("specversion", "1.0"), ("id", "b1"), ("source", "t"), ("type", "work"), ("subject", "acme")]
            .iter()
            .fold(post("application/json", br#"{"value":1}"#.to_vec()), |request, (name, value)| {
                request.header(format!("ce-{name}"), *value)
            });
    let requests = [
        (post("application/json", text("1").into()), 1),
        (post("application/json", listed.to_string().into()), 2),
        (post("application/x-ndjson", lines.into()), 2),
        (post("application/cloudevents+json", cloud("c1").to_string().into()), 1),
        (post("application/cloudevents-batch+json", clouds.to_string().into()), 2),
        (in_headers, 1),
        (post("application/json", gzip(&text("g"))).header("Content-Encoding", "gzip"), 1),
        (post("application/json", zstd).header("Content-Encoding", "zstd"), 1),
    ];
    let mut total = 0;
    for (request, events) in requests {
        let (status, answer) = answer(request).await;
        assert_eq!((status.as_u16(), &answer["accepted"]), (200, &json!(events)), "{answer}");
        total += events;
    }
    assert_eq!(world.number("SELECT sum(quantity) FROM daily_summaries"), total);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_takes_memory() {
    let world = acme().start().await;
    let packed = |encoding: &'static str, body: Vec<u8>| {
        let request = world.daemon().request(Method::POST, "/v1/usage", &world.key).body(body);
        answer(request.header("Content-Type", "application/json").header("Content-Encoding", encoding))
    };
    // A compression bomb is refused at the limit for unpacked bodies.
    let bomb = gzip(&" ".repeat(20 << 20));
    assert!(bomb.len() < 100_000);
    let (status, refused) = packed("gzip", bomb).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (413, Some("body_too_large")));
    // It does not even take memory: a gigabyte of blocks that repeat one byte (RFC 8878, 3.1.1.2).
    let mut bomb = hex::decode("28b52ffd0038").expect("hex");
    (0..8000).for_each(|_| bomb.extend([0x02, 0x00, 0x10, b' ']));
    let before = world.daemon().peak_mib();
    assert_eq!(packed("zstd", bomb).await.0, 413);
    if let (Some(before), Some(after)) = (before, world.daemon().peak_mib()) {
        assert!(after < before + 100, "from {before} to {after} MiB");
    }
    let many = (0..10_001).map(|n| event(&n.to_string(), 1).json()).collect();
    world.post("/v1/usage", many).await.refused(413, "too_many_events");
}

#[tokio::test]
async fn days_are_the_orgs_own() {
    use crate::support::requests::org;
    let (tokyo, lima) = (org("tokyo").zone("Asia/Tokyo"), org("lima").zone("America/Lima"));
    let world = acme().with(tokyo).with(lima).start().await;
    let yesterday = (Utc::now() - Duration::days(1)).date_naive();
    let at = yesterday.and_hms_opt(16, 0, 0).expect("a time").and_utc();
    for (org, at, day) in [
        ("acme", at, yesterday),
        ("tokyo", at, yesterday + Duration::days(1)),
        ("lima", at - Duration::hours(12), yesterday - Duration::days(1)),
    ] {
        world.used(event("1", 1).org(org).at(at)).await;
        let days =
            format!("SELECT day FROM daily_summaries JOIN orgs USING (org_id) WHERE external_id = '{org}'");
        assert_eq!(world.value(&days), Some(day.to_string()), "{org}");
    }
}

/// Every aggregation: in any order, in pieces, and after voids and amendments.
#[tokio::test]
async fn aggregations_are_of_the_set_and_follow_corrections() {
    let kinds = ["sum", "count", "max", "unique", "latest"];
    let by_subject = limit(Value::Null).meter("sum").per_subject();
    let setup = kinds.into_iter().fold(World::new().org("acme").daemons(2), |setup, kind| {
        setup.with(meter(kind).event_name("work").aggregation(kind))
    });
    let world = setup.with(plan("counts").limits([by_subject])).start().await;
    let (here, there) = (world.on(0), world.on(1));
    let start = (Utc::now() - Duration::days(2)).date_naive().and_hms_opt(1, 0, 0).expect("a time").and_utc();
    for (n, value) in [(3, 9), (0, 4), (5, 1), (1, 9), (4, 5), (2, 2)] {
        let at = start + Duration::minutes(n);
        let event = event(&n.to_string(), value).at(at).subject(&format!("s{}", n % 2));
        let caller = if n % 2 == 0 { here } else { there };
        assert_eq!(caller.uses(event).await, "accepted");
    }
    let day = |kind: &str| {
        world.value(&format!(
            "SELECT quantity || '/' || count FROM daily_summaries
                 JOIN usage_series USING (org_id, series_id) JOIN meters USING (meter_id)
             WHERE key = '{kind}'"
        ))
    };
    let all = || kinds.map(|kind| day(kind).expect("a day")).join(" ");
    assert_eq!(all(), "30/6 6/6 9/6 5/6 1/6");
    for id in ["1", "5"] {
        assert_eq!(here.send(void(id)).await.status(200)["correction"], 1);
    }
    assert_eq!(all(), "20/4 4/4 9/4 4/4 5/4");
    there.send(void("1")).await.refused(409, "already_voided");
    there.send(void("nothing")).await.status(404);
    // The other nine is amended to three: maximum and distinct values follow.
    let three = usage("acme", "work").subject("s1").quantity(3);
    assert_eq!(there.send(amend("3", three)).await.status(200)["correction"], 2);
    assert_eq!(all(), "14/4 4/4 5/4 4/4 5/4");
    // A voided event stays voided: sent again, it is a duplicate.
    here.send(void("3")).await.status(200);
    assert_eq!(all(), "11/3 3/3 5/3 3/3 5/3");
    assert_eq!(world.number("SELECT count(*) FROM usage_corrections"), 5);
    assert_eq!(world.number("SELECT count(*) FROM usage_records WHERE event_id = '3'"), 20);
    world.balances();
}

/// A month's tiers cost the same for any division of the usage into events. Voided usage costs nothing.
#[tokio::test]
async fn tiers_cost_the_same_in_any_pieces() {
    let tiers = |mode: &str, tiers: Value| json!([{ "tiers": { "mode": mode, "tiers": tiers } }]);
    let steps = json!([{ "up_to": "10", "unit_cost": "1" },
        { "up_to": "20", "unit_cost": "0.5", "flat_cost": "3" }, { "unit_cost": "0.1" }]);
    let meters = [
        // 10 × 1 + 10 × 0.5 + 3 + 5 × 0.1
        ("graduated", tiers("graduated", steps.clone()), "18.50"),
        // 25 × 0.1
        ("volume", tiers("volume", steps), "2.50"),
        // 3 started packages of 10
        ("package", tiers("package", json!([{ "unit_cost": "7", "package_size": "10" }])), "21.00"),
    ];
    let setup = meters.iter().fold(World::new().daemons(2), |setup, (key, rates, _)| {
        setup.with(meter(key).event_name("work")).prices(rates.clone())
    });
    let world = setup.org("acme").org("beta").org("gamma").start().await;
    for (org, pieces) in [("acme", vec![25]), ("beta", vec![1; 25]), ("gamma", vec![9, 4, 12])] {
        let events: Vec<Usage> =
            (0..).zip(&pieces).map(|(n, piece)| event(&format!("{n}"), *piece).org(org)).collect();
        let (left, right) = events.split_at(events.len() / 2);
        let sent = [(world.on(0), left.to_vec()), (world.on(1), right.to_vec())];
        let some = sent.into_iter().filter(|(_, part)| !part.is_empty());
        join_all(some.map(|(caller, part)| async move { caller.usage(part).await })).await;
        let cost = |key: &str| {
            world.value(&format!(
                "SELECT sum(cost)::numeric(12, 2) FROM daily_summaries
                     JOIN usage_series USING (org_id, series_id) JOIN orgs USING (org_id)
                     JOIN meters USING (meter_id)
                 WHERE meters.key = '{key}' AND external_id = '{org}'"
            ))
        };
        for (key, _, expected) in &meters {
            assert_eq!(cost(key).as_deref(), Some(*expected), "{key} of {org}");
        }
        for n in 0..pieces.len() {
            world.on(n % 2).send(void(&n.to_string()).org(org)).await.status(200);
        }
        for (key, ..) in &meters {
            assert_eq!(cost(key).as_deref(), Some("0.00"), "{key} of {org}, voided");
        }
    }
    assert_eq!(world.number("SELECT sum(quantity) FROM rating_counters"), 0);
    world.balances();
}

#[tokio::test]
async fn a_closed_month_is_left_as_it_is() {
    let world = acme().start().await;
    let backfill = world.database.key("usage:write,usage:backfill", None);
    let january = async |id: &str, quantity: i64, at: &str| {
        assert_eq!(world.by(&backfill).uses(event(id, quantity).at(at)).await, "accepted");
    };
    january("old", 10, "2026-01-15T12:00:00Z").await;
    let today = Utc::now().date_naive();
    let running = today.format("%Y-%m").to_string();
    for month in [running.as_str(), "2026-01-02", "2026-1", "+262142-01", "-200000-01"] {
        world.send(close(month)).await.names(400, "month");
    }
    world.send(close("2026-01-01")).await.status(200);
    assert_eq!(world.get("/v1/usage/closings").await.at("data.0.month"), "2026-01");
    world.send(void("old")).await.status(200);
    january("late", 4, "2026-01-20T12:00:00Z").await;
    let day = |day: &str| {
        world.number(&format!("SELECT coalesce(sum(quantity), 0) FROM daily_summaries WHERE day = '{day}'"))
    };
    assert_eq!((day("2026-01-15"), day("2026-01-20"), day(&today.to_string())), (10, 0, 4 - 10));
    world.balances();
}

#[tokio::test]
async fn an_org_posts_for_itself_alone() {
    let world = acme().org("beta").start().await;
    let key = world.key_of("beta");
    let beta = world.by(&key);
    let own = |id: &str| event(id, 1).without("org");
    assert_eq!(beta.uses(own("1")).await, "accepted");
    assert_eq!(beta.uses(event("2", 1)).await, "org unknown_org");
    assert_eq!(beta.uses(own("3").org("beta")).await, "accepted");
    beta.send(void("1")).await.status(404);
    let reader = world.database.key("usage:read", None);
    world.by(&reader).post("/v1/usage", own("1").json()).await.status(403);
    assert_eq!(world.number("SELECT count(DISTINCT org_id) FROM usage_records"), 1);
    // Row-level security hides rows even if a query forgets to filter.
    let seen = "SET ROLE coulomb_org; SET coulomb.org_id = '0'";
    let mut conn = world.owner();
    diesel::connection::SimpleConnection::batch_execute(&mut conn, seen).expect("acts for nobody");
    for table in ["usage_records", "daily_summaries", "usage_series", "quota_counters", "usage_corrections"] {
        use diesel::RunQueryDsl;
        let rows = diesel::sql_query(format!("SELECT * FROM {table}")).execute(&mut conn).expect("may ask");
        assert_eq!(rows, 0, "{table}");
    }
}

/// All daemons use the newest catalogue at once: none counts with an older one than the committed one.
#[tokio::test]
async fn a_change_of_meters_is_known_everywhere_at_once() {
    let world = acme().daemons(2).start().await;
    let each_counts_one = async |round: &str| {
        for n in [0, 1] {
            assert_eq!(world.on(n).uses(event(&format!("{n} {round}"), 1)).await, "accepted");
        }
    };
    each_counts_one("before").await;
    // By SQL: the API would tell its own daemon first.
    world.card(1, 2, "yesterday", &json!([{ "unit_cost": "100" }]));
    world.slot(7, 1, &json!({ "model": "a" }), true, "day");
    each_counts_one("after").await;
    let cost = "SELECT sum(cost)::numeric(9, 2) FROM usage_records";
    assert_eq!(world.value(cost).as_deref(), Some("200.50"));
    assert_eq!(world.number("SELECT used FROM quota_counters WHERE slot_id = 7"), 2);
}

#[tokio::test]
async fn too_much_at_once_is_told_to_wait() {
    let setup = acme().setting("COULOMB_USAGE_QUEUE", "50").setting("COULOMB_USAGE_MEMORY_MIB", "1");
    let world = setup.start().await;
    let many = |prefix: usize| (0..50).map(|n| event(&format!("{prefix}/{n}"), 1).json()).collect();
    let bodies: Vec<Value> = (0..40).map(many).collect();
    let post = |body| world.daemon().request(Method::POST, "/v1/usage", &world.key).json(body).send();
    let mut stored = 0;
    for answer in join_all(bodies.iter().map(post)).await {
        let answer = answer.expect("an answer");
        match answer.status().as_u16() {
            200 => stored += 50,
            429 => assert_eq!(answer.headers()["Retry-After"], "1"),
            other => panic!("{other}"),
        }
    }
    assert!(stored < 2000, "no request was told to wait");
    assert_eq!(world.number("SELECT count(*) FROM usage_records"), stored);
    let large = usage("acme", "work").id(&"x".repeat(2 << 20)).json();
    world.post("/v1/usage", large).await.status(429);
}
