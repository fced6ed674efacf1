//! Reads of usage.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::objects::{DAY, customer, subscription};
use crate::support::rows::{RecordRow, meter, org, put, record};
use crate::support::{Database, World, json as fields, stripe};

/// Two orgs with some usage in two months, counted by `coulomb rebuild summaries`.
pub(crate) fn books(database: &Database) {
    org(database, "acme", "Europe/Berlin");
    org(database, "other", "UTC");
    meter(database, "tokens", "sum", "model");
    meter(database, "seats", "max", "");
    meter(database, "users", "unique", "");
    meter(database, "level", "latest", "");
    let tokens = |id: &str, at: &str, quantity: &str, member, dimensions| RecordRow {
        member,
        dimensions,
        cost: "0.25",
        ..record("acme", "tokens", id, at, quantity)
    };
    for record in [
        // Berlin is two hours ahead: `a` is at 23:30 on 30 September, `b` on 1 October.
        tokens("a", "2026-09-30T21:30:00Z", "1", Some("ann"), r#"{"model":"x"}"#),
        tokens("b", "2026-09-30T22:30:00Z", "2.50", Some("ann"), r#"{"model":"x"}"#),
        tokens("c", "2026-10-01T10:00:00Z", "4", Some("bob"), r#"{"model":"y"}"#),
        tokens("d", "2026-10-02T10:00:00Z", "8", None, "{}"),
        tokens("e", "2026-10-02T11:00:00Z", "16", Some(""), r#"{"model":"x"}"#),
        RecordRow {
            correction: 1,
            cost: "-0.25",
            ..tokens("c", "2026-10-01T10:00:00Z", "-4", Some("bob"), r#"{"model":"y"}"#)
        },
        record("acme", "seats", "s1", "2026-10-01T10:00:00Z", "7"),
        record("acme", "seats", "s2", "2026-10-01T11:00:00Z", "3"),
        record("acme", "seats", "s3", "2026-10-02T11:00:00Z", "9"),
        RecordRow { correction: 1, ..record("acme", "seats", "s3", "2026-10-02T11:00:00Z", "-9") },
        RecordRow { value: Some("u1"), ..record("acme", "users", "u1", "2026-10-01T10:00:00Z", "1") },
        RecordRow { value: Some("u2"), ..record("acme", "users", "u2", "2026-10-01T11:00:00Z", "1") },
        RecordRow { value: Some("u1"), ..record("acme", "users", "u3", "2026-10-02T10:00:00Z", "1") },
        record("acme", "level", "l1", "2026-10-01T10:00:00Z", "50"),
        record("acme", "level", "l2", "2026-10-02T10:00:00Z", "20"),
        record("acme", "level", "l3", "2026-10-02T09:00:00Z", "30"),
        record("other", "tokens", "a", "2026-10-01T10:00:00Z", "1000"),
    ] {
        put(database, &record);
    }
    database.execute(
        "INSERT INTO rate_cards (rate_card_id, meter_id, version, valid_from, currency, rates, created_at)
         VALUES (1, 1, 1, '2020-01-01', 'eur', '[]', now());
        UPDATE meters SET currency = 'eur' WHERE meter_id = 1;
        INSERT INTO usage_corrections (org_id, event_key, correction, at, actor, reason)
        SELECT org_id, event_key, 1, now(), 'key:test', 'a test'
        FROM usage_records WHERE event_id = 'c' AND correction = 1",
    );
    database.run(&["rebuild", "summaries"]);
}

/// A platform that reads this usage with the platform's key.
async fn library() -> World {
    let database = Database::new();
    books(&database);
    World::over(database).scopes("usage:read").start().await
}

/// Fields of all rows: one line for each row.
fn figures(page: &Answer, paths: &str) -> Vec<String> {
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}"));
    let line = |row| paths.split(' ').map(|path| show(fields::at(row, path))).collect::<Vec<_>>().join(" ");
    page.rows().iter().map(line).collect()
}

/// The days of `acme` in September and October.
async fn days(world: &World, query: &str) -> Answer {
    world.get(&days_of_acme(query)).await.status(200)
}

fn days_of_acme(query: &str) -> String {
    format!("/v1/usage/daily?org=acme&from=2026-09-01&to=2026-11-01&{query}")
}

#[tokio::test]
async fn days_are_grouped_filtered_and_rolled_up() {
    let world = library().await;
    let page = days(&world, "meter=tokens").await;
    assert_eq!(
        figures(&page, "day quantity count cost currency"),
        [
            r#""2026-09-30" "1" 1 "0.25" "eur""#,
            r#""2026-10-01" "2.5" 1 "0.25" "eur""#,
            r#""2026-10-02" "24" 2 "0.5" "eur""#,
        ]
    );
    let page = days(&world, "group_by=month,meter").await;
    assert_eq!(
        figures(&page, "month meter quantity count"),
        [
            r#""2026-09" "tokens" "1" 1"#,
            // The last measurement by its own time, not by arrival; the largest that was not voided; the
            // number of different values.
            r#""2026-10" "level" "20" 3"#,
            r#""2026-10" "seats" "7" 2"#,
            r#""2026-10" "tokens" "26.5" 3"#,
            r#""2026-10" "users" "2" 3"#,
        ]
    );
    let page = days(&world, "meter=tokens&group_by=member,model").await;
    let by_member = figures(&page, "member dimensions.model quantity");
    assert_eq!(by_member, [r#"null null "8""#, r#""" "x" "16""#, r#""ann" "x" "3.5""#]);
    for (query, told) in [
        ("meter=tokens&dimension.model=x&group_by=meter", json!(["19.5"])),
        ("meter=tokens&member=ann&group_by=meter", json!(["3.5"])),
        ("meter=tokens&member=ann&dimension.model=y&group_by=meter", json!([])),
        // A voided event leaves no row.
        ("meter=seats&group_by=day", json!(["7"])),
        ("meter=users&group_by=day", json!(["2", "1"])),
    ] {
        assert_eq!(days(&world, query).await.column("quantity"), told, "{query}");
    }
}

#[tokio::test]
async fn pages_of_days_have_every_row_once() {
    let world = library().await;
    let groupings = ["day", "month", "meter", "day,member,model"].map(|by| (format!("group_by={by}"), 2));
    let rows = ("meter=tokens&group_by=member,model".to_owned(), 1);
    for (query, limit) in groupings.into_iter().chain([rows]) {
        let whole = days(&world, &query).await;
        assert_eq!(world.all(&days_of_acme(&query), limit).await, whole.rows(), "{query}");
    }
}

#[tokio::test]
async fn csv_has_every_row() {
    let database = Database::new();
    books(&database);
    // More rows than one fetch reads, and a member that a spreadsheet would take for a formula.
    database.execute(
        "INSERT INTO usage_series (org_id, series_id, meter_id, member, dimensions)
         SELECT 1, n, 1, '=' || n, '{}' FROM generate_series(1, 2500) AS n;
         INSERT INTO daily_summaries
             (org_id, series_id, day, quantity, count, cost, battery_units, latest_at)
         SELECT 1, n, DATE '2026-10-03', n, 1, 0, 0, NULL
         FROM generate_series(1, 2500) AS n;
         INSERT INTO usage_records
             (org_id, series_id, occurred_at, received_at, event_key, meter_id, rate_card_id, day,
              billing_period, correction, quantity, cost, battery_units, event_id, source, subject, value)
         SELECT 1, n, '2026-10-03T12:00:00Z', now(), gen_random_uuid(), 1, NULL, DATE '2026-10-03', NULL, 0,
             n, 0, 0, n, '', NULL, NULL
         FROM generate_series(1, 2500) AS n",
    );
    let world = World::over(database).start().await;
    let key = world.database.key("usage:read", Some("org_acme"));
    let path = "/v1/usage/daily?from=2026-10-02&to=2026-11-01&meter=tokens&group_by=day,member,model";
    let ask = |path: &str| {
        let request = world.daemon().request(Method::GET, path, &key);
        request.header("Accept", "text/csv").send()
    };
    let answer = ask(path).await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8");
    let text = answer.text().await.expect("a body");
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1 + 2 + 2500);
    assert_eq!(
        lines[..4],
        [
            "day,meter,unit,member,dimension.model,quantity,count,cost,currency,battery_units",
            "2026-10-02,tokens,units,,,8,1,0.25,eur,0",
            "2026-10-02,tokens,units,,x,16,1,0.25,eur,0",
            "2026-10-03,tokens,units,'=1,,1,1,0,eur,0",
        ]
    );
    let wrong = ask("/v1/usage/daily?format=csv&meter=none").await.expect("an answer");
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn an_org_sees_its_own_usage_alone() {
    let world = library().await;
    let own = world.database.key("usage:read", Some("org_acme"));
    let blind = world.database.key("billing:read", Some("org_acme"));
    let (own, blind, platform) = (world.by(&own), world.by(&blind), world.on(0));
    // The daemon has the other org in memory now.
    platform.get("/v1/usage/current?org=other").await.status(200);
    for (path, caller, status, field) in [
        ("daily?from=2026-09-01&to=2026-11-01&org=other", own, 404, "org"),
        ("records?org=org_other", own, 404, "org"),
        ("current?org=other", own, 404, "org"),
        ("daily?from=2026-09-01&to=2026-11-01&org=nobody", platform, 404, "org"),
        ("daily?from=2026-09-01&to=2026-11-01", platform, 400, "org"),
        ("records", platform, 400, "org"),
        ("current", blind, 403, ""),
        ("daily?from=2026-10-01&to=2026-10-01", own, 400, "to"),
        ("daily?from=0001-01-01", own, 400, "to"),
        ("daily?from=monday", own, 400, "from"),
        ("daily?group_by=colour", own, 400, "group_by"),
        ("daily?group_by=day,month", own, 400, "group_by"),
        ("daily?dimension.colour=red", own, 400, "dimension.colour"),
        ("daily?meter=none", own, 400, "meter"),
        ("daily?cursor=abc", own, 400, "cursor"),
        ("daily?colour=red", own, 400, "colour"),
        ("records?source=x", own, 400, "id"),
        ("records?cursor=WyIyMDI2LTEwLTAxVDAwOjAwOjAwWiIsIngiLDEsMF0", own, 400, "cursor"),
    ] {
        caller.get(&format!("/v1/usage/{path}")).await.names(status, field);
    }
    // By the org's own ids, and without one.
    for org in ["", "&org=acme", "&org=org_acme"] {
        let path = "/v1/usage/daily?from=2026-09-01&to=2026-11-01&meter=tokens&group_by=meter";
        assert_eq!(own.get(&format!("{path}{org}")).await.column("quantity"), json!(["27.5"]), "{org}");
        assert_eq!(own.get(&format!("/v1/usage/records?limit=500{org}")).await.rows().len(), 16, "{org}");
    }
}

/// Row-level security works even if a query forgets the org.
#[test]
fn the_database_shows_an_org_its_own_usage_alone() {
    let database = Database::new();
    books(&database);
    let mut conn = database.platform();
    let tables = ["usage_records", "daily_summaries", "usage_series", "usage_key_times", "usage_uniques"];
    let seen = coulomb::db::run_in_scope(&mut conn, coulomb::db::Scope::Org(2), true, &|conn| {
        use diesel::prelude::*;
        tables
            .iter()
            .map(|table| {
                let count = format!("(SELECT count(*) FROM {table} WHERE org_id <> 2)");
                Ok(diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(&count))
                    .get_result::<i64>(conn)?)
            })
            .collect::<Result<Vec<_>, _>>()
    });
    assert_eq!(seen.expect("readable"), [0; 5]);
    let keys = coulomb::db::run_in_scope(&mut conn, coulomb::db::Scope::Org(2), true, &|conn| {
        use diesel::connection::SimpleConnection;
        Ok(conn.batch_execute("SELECT FROM usage_keys LIMIT 1")?)
    });
    assert!(keys.expect_err("no org's role sees it").to_string().contains("permission denied"));
}

#[tokio::test]
async fn records_come_newest_first_and_an_event_with_its_history() {
    let world = library().await;
    world.execute("UPDATE usage_records SET battery_batch = 9007199254740993 WHERE event_id = 'd'");
    let key = world.database.key("usage:read", Some("org_acme"));
    let own = world.by(&key);
    let records = async |query: &str| own.get(&format!("/v1/usage/records?{query}")).await.status(200);
    // A double cannot store this number.
    let page = records("battery_batch=9007199254740993").await;
    assert_eq!(page.at("data.0.battery_batch"), "9007199254740993");
    let page = records("id=c&source=test").await;
    assert_eq!(
        figures(&page, "correction quantity reason member dimensions.model day cost"),
        [r#"1 "-4" "a test" "bob" "y" "2026-10-01" "-0.25""#, r#"0 "4" null "bob" "y" "2026-10-01" "0.25""#]
    );
    for (query, ids) in [
        ("id=c", json!([])),
        ("id=c&source=test&to=2026-10-01T10:00:00Z", json!([])),
        ("from=2026-10-02T10:00:00Z&meter=tokens", json!(["e", "d"])),
        ("to=2026-09-30T22:30:00Z", json!(["a"])),
        ("member=bob", json!(["c", "c"])),
        ("subject=nobody", json!([])),
        ("battery_batch=9007199254740993", json!(["d"])),
        ("battery_batch=9007199254740994", json!([])),
    ] {
        assert_eq!(records(query).await.column("id"), ids, "{query}");
    }
    // Records of one instant come in the order of a digest.
    let page = records("meter=level,users&to=2026-10-01T10:30:00Z").await;
    let mut told = figures(&page, "id");
    told.sort();
    assert_eq!(told, [r#""l1""#, r#""u1""#]);
    let whole = records("limit=500").await;
    assert_eq!(own.all("/v1/usage/records?org=acme", 3).await, whole.rows());
    let times = figures(&whole, "occurred_at");
    assert!(times.len() == 16 && times.is_sorted_by(|a, b| a >= b), "{times:?}");
}

/// A page of records reads only the partitions of the time that it asks for.
#[test]
fn partitions_that_are_not_asked_for_are_left_out() {
    use diesel::prelude::*;
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = diesel::sql_types::Text, column_name = "QUERY PLAN")]
        line: String,
    }
    let database = Database::new();
    books(&database);
    let mut conn = database.platform();
    let plan = coulomb::db::run_in_scope(&mut conn, coulomb::db::Scope::Org(1), true, &|conn| {
        let sql = "EXPLAIN SELECT * FROM usage_records r
            WHERE r.org_id = 1 AND r.occurred_at >= '2026-10-01' AND r.occurred_at < '2026-11-01'
            ORDER BY r.org_id DESC, r.occurred_at DESC, r.event_key DESC, r.meter_id DESC, r.correction DESC
            LIMIT 10";
        Ok(diesel::sql_query(sql).load::<Line>(conn)?)
    });
    let plan = plan.expect("a plan").into_iter().map(|line| line.line).collect::<Vec<_>>().join("\n");
    assert!(plan.contains("usage_records_2026_10") && !plan.contains("usage_records_2026_09"), "{plan}");
    assert!(!plan.contains("usage_records_default"), "{plan}");
}

#[tokio::test]
async fn running_periods_say_when_they_begin_and_end() {
    let database = Database::new();
    org(&database, "acme", "Asia/Tokyo");
    meter(&database, "tokens", "sum", "");
    let now = chrono::Utc::now();
    let days_ago = |days| now - chrono::TimeDelta::days(days);
    let used = |database: &Database, id: &str, days: i64, quantity: &str| {
        put(database, &record("acme", "tokens", id, &days_ago(days).to_rfc3339(), quantity));
    };
    used(&database, "a", 0, "2");
    database.run(&["rebuild", "summaries"]);
    let world = World::over(database).start().await;
    let key = world.database.key("usage:read", Some("org_acme"));
    let current = async || world.by(&key).get("/v1/usage/current").await.status(200);
    let in_tokyo = |days| days_ago(days).with_timezone(&chrono_tz::Asia::Tokyo);
    let (today, month) = (in_tokyo(0).format("%Y-%m-%d"), in_tokyo(0).format("%Y-%m-01"));
    let running = current().await;
    let first_days = running.pick(["day.first_day", "month.first_day", "billing"]);
    assert_eq!(first_days, json!([today.to_string(), month.to_string(), null]));
    assert!(running.text("day.start").ends_with("T15:00:00Z"), "{running}");
    assert_eq!(running.pick(["day.usage.0.quantity", "month.usage.0.quantity"]), json!(["2", "2"]));
    // A subscription whose period began yesterday, in the middle of a day: the whole day counts to it.
    let second = stripe::now();
    let bought = subscription("sub_1").created(second).period(second - DAY, second + 29 * DAY);
    world
        .tell([customer("cus_1").org("acme").created_event().at(second), bought.created_event().at(second)])
        .await;
    used(&world, "b", 1, "3");
    used(&world, "c", 2, "100");
    world.run(&["rebuild", "summaries"]);
    tokio::time::sleep(coulomb::billing::directory::HEARD_WITHIN * 2).await;
    let running = current().await;
    let told = running.pick(["billing.first_day", "billing.usage.0.quantity", "day.usage.0.quantity"]);
    let yesterday = in_tokyo(1).format("%Y-%m-%d").to_string();
    assert_eq!(told, json!([yesterday, "5", "2"]), "{running}");
}
