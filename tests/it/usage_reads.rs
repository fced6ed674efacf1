//! What was used, as it is asked for.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Daemon, Database};
use crate::usage_rows::{Row, meter, org, put, row};

/// Two orgs with some usage in two months, counted by `coulomb rebuild summaries`.
fn books(database: &Database) {
    org(database, "acme", "Europe/Berlin");
    org(database, "other", "UTC");
    meter(database, "tokens", "sum", "model");
    meter(database, "seats", "max", "");
    meter(database, "users", "unique", "");
    meter(database, "level", "latest", "");
    let tokens = |id: &str, at: &str, quantity: &str, member, dimensions| Row {
        member,
        dimensions,
        cost: "0.25",
        ..row("acme", "tokens", id, at, quantity)
    };
    for record in [
        // 23:30 in UTC is the next day in Berlin.
        tokens("a", "2026-09-30T21:30:00Z", "1", Some("ann"), r#"{"model":"x"}"#),
        tokens("b", "2026-09-30T22:30:00Z", "2.50", Some("ann"), r#"{"model":"x"}"#),
        tokens("c", "2026-10-01T10:00:00Z", "4", Some("bob"), r#"{"model":"y"}"#),
        tokens("d", "2026-10-02T10:00:00Z", "8", None, "{}"),
        tokens("e", "2026-10-02T11:00:00Z", "16", Some(""), r#"{"model":"x"}"#),
        Row {
            correction: 1,
            cost: "-0.25",
            ..tokens("c", "2026-10-01T10:00:00Z", "-4", Some("bob"), r#"{"model":"y"}"#)
        },
        row("acme", "seats", "s1", "2026-10-01T10:00:00Z", "7"),
        row("acme", "seats", "s2", "2026-10-01T11:00:00Z", "3"),
        row("acme", "seats", "s3", "2026-10-02T11:00:00Z", "9"),
        Row { correction: 1, ..row("acme", "seats", "s3", "2026-10-02T11:00:00Z", "-9") },
        Row { value: Some("u1"), ..row("acme", "users", "u1", "2026-10-01T10:00:00Z", "1") },
        Row { value: Some("u2"), ..row("acme", "users", "u2", "2026-10-01T11:00:00Z", "1") },
        Row { value: Some("u1"), ..row("acme", "users", "u3", "2026-10-02T10:00:00Z", "1") },
        row("acme", "level", "l1", "2026-10-01T10:00:00Z", "50"),
        row("acme", "level", "l2", "2026-10-02T10:00:00Z", "20"),
        row("acme", "level", "l3", "2026-10-02T09:00:00Z", "30"),
        row("other", "tokens", "a", "2026-10-01T10:00:00Z", "1000"),
    ] {
        put(database, &record);
    }
    database.execute(
        "INSERT INTO rate_cards VALUES (1, 1, 1, '2020-01-01', 'eur', '[]', now());
        INSERT INTO usage_corrections SELECT org_id, event_key, 1, now(), 'key:test', 'a test'
        FROM usage_records WHERE event_id = 'c' AND correction = 1",
    );
    database.run(&["rebuild", "summaries"]);
}

fn figures(page: &Value, names: &[&str]) -> Vec<Vec<Value>> {
    let rows = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
    rows.iter()
        .map(|row| names.iter().map(|name| row.pointer(name).cloned().unwrap_or_default()).collect())
        .collect()
}

#[tokio::test]
async fn days_are_grouped_filtered_and_rolled_up() {
    let database = Database::new();
    books(&database);
    let daemon = Daemon::start(&database);
    let key = database.key("usage:read", None);
    let get = async |query: &str| {
        let (status, page) = daemon
            .get(&format!("/v1/usage/daily?org=acme&from=2026-09-01&to=2026-11-01&{query}"), &key)
            .await;
        assert_eq!(status, 200, "{query}: {page}");
        page
    };
    let page = get("meter=tokens").await;
    assert_eq!(
        figures(&page, &["/day", "/quantity", "/count", "/cost", "/currency"]),
        [
            [json!("2026-09-30"), json!("1"), json!(1), json!("0.25"), json!("eur")],
            [json!("2026-10-01"), json!("2.5"), json!(1), json!("0.25"), json!("eur")],
            [json!("2026-10-02"), json!("24"), json!(2), json!("0.5"), json!("eur")],
        ]
    );
    let page = get("group_by=month,meter").await;
    assert_eq!(
        figures(&page, &["/month", "/meter", "/quantity", "/count"]),
        [
            [json!("2026-09"), json!("tokens"), json!("1"), json!(1)],
            // Measured last, by time, not by arrival; the largest that was not taken back; how many different
            // ones.
            [json!("2026-10"), json!("level"), json!("20"), json!(3)],
            [json!("2026-10"), json!("seats"), json!("7"), json!(2)],
            [json!("2026-10"), json!("tokens"), json!("26.5"), json!(3)],
            [json!("2026-10"), json!("users"), json!("2"), json!(3)],
        ]
    );
    let page = get("meter=tokens&group_by=member,model").await;
    let by = figures(&page, &["/member", "/dimensions/model", "/quantity"]);
    assert_eq!(
        by,
        [
            [json!(null), json!(null), json!("8")],
            [json!(""), json!("x"), json!("16")],
            [json!("ann"), json!("x"), json!("3.5")],
        ]
    );
    // The same, row by row.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&format!("meter=tokens&group_by=member,model&limit=1{cursor}")).await;
        paged.extend(figures(&page, &["/member", "/dimensions/model", "/quantity"]));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, by);
    for grouping in ["day", "month", "meter", "day,member,model"] {
        let whole = get(&format!("group_by={grouping}")).await["data"].clone();
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(&format!("group_by={grouping}&limit=2{cursor}")).await;
            paged.extend(page["data"].as_array().expect("rows").clone());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(Value::from(paged), whole, "{grouping}");
    }
    for (query, told) in [
        ("meter=tokens&dimension.model=x&group_by=meter", json!(["19.5"])),
        ("meter=tokens&member=ann&group_by=meter", json!(["3.5"])),
        ("meter=tokens&member=ann&dimension.model=y&group_by=meter", json!([])),
        // What was taken back leaves no row.
        ("meter=seats&group_by=day", json!(["7"])),
        ("meter=users&group_by=day", json!(["2", "1"])),
    ] {
        let page = get(query).await;
        let quantities: Vec<Value> = figures(&page, &["/quantity"]).into_iter().flatten().collect();
        assert_eq!(Value::from(quantities), told, "{query}");
    }
}

#[tokio::test]
async fn csv_has_every_row() {
    let database = Database::new();
    books(&database);
    // More rows than are fetched at a time, and a member that a spreadsheet would calculate.
    database.execute(
        "INSERT INTO usage_series SELECT 1, n, 1, '=' || n, '{}' FROM generate_series(1, 2500) AS n;
         INSERT INTO daily_summaries SELECT 1, n, DATE '2026-10-03', n, 1, 0, 0, NULL
         FROM generate_series(1, 2500) AS n;
         INSERT INTO usage_records
         SELECT 1, n, '2026-10-03T12:00:00Z', now(), gen_random_uuid(), 1, NULL, DATE '2026-10-03', NULL, 0,
             n, 0, 0, n, '', NULL, NULL
         FROM generate_series(1, 2500) AS n",
    );
    let daemon = Daemon::start(&database);
    let key = database.key("usage:read", Some("org_acme"));
    let path = "/v1/usage/daily?from=2026-10-02&to=2026-11-01&meter=tokens&group_by=day,member,model";
    let ask = |path: &str| daemon.request(Method::GET, path, &key).header("Accept", "text/csv").send();
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
    let database = Database::new();
    books(&database);
    let daemon = Daemon::start(&database);
    let (own, blind, platform) = (
        database.key("usage:read", Some("org_acme")),
        database.key("billing:read", Some("org_acme")),
        database.key("usage:read", None),
    );
    let days = "from=2026-09-01&to=2026-11-01";
    // The daemon holds the other org in memory now.
    assert_eq!(daemon.get("/v1/usage/current?org=other", &platform).await.0, 200);
    for (path, key, status, field) in [
        (format!("/v1/usage/daily?{days}&org=other"), &own, 404, Some("org")),
        ("/v1/usage/records?org=org_other".to_owned(), &own, 404, Some("org")),
        ("/v1/usage/current?org=other".to_owned(), &own, 404, Some("org")),
        (format!("/v1/usage/daily?{days}&org=nobody"), &platform, 404, Some("org")),
        (format!("/v1/usage/daily?{days}"), &platform, 400, Some("org")),
        ("/v1/usage/records".to_owned(), &platform, 400, Some("org")),
        ("/v1/usage/current".to_owned(), &blind, 403, None),
        ("/v1/usage/daily?from=2026-10-01&to=2026-10-01".to_owned(), &own, 400, Some("to")),
        ("/v1/usage/daily?from=0001-01-01".to_owned(), &own, 400, Some("to")),
        ("/v1/usage/daily?from=monday".to_owned(), &own, 400, Some("from")),
        ("/v1/usage/daily?group_by=colour".to_owned(), &own, 400, Some("group_by")),
        ("/v1/usage/daily?group_by=day,month".to_owned(), &own, 400, Some("group_by")),
        ("/v1/usage/daily?dimension.colour=red".to_owned(), &own, 400, Some("dimension.colour")),
        ("/v1/usage/daily?meter=none".to_owned(), &own, 400, Some("meter")),
        ("/v1/usage/daily?cursor=abc".to_owned(), &own, 400, Some("cursor")),
        ("/v1/usage/daily?colour=red".to_owned(), &own, 400, Some("colour")),
        ("/v1/usage/records?source=x".to_owned(), &own, 400, Some("id")),
        (
            "/v1/usage/records?cursor=WyIyMDI2LTEwLTAxVDAwOjAwOjAwWiIsIngiLDEsMF0".to_owned(),
            &own,
            400,
            Some("cursor"),
        ),
    ] {
        let (got, problem) = daemon.get(&path, key).await;
        assert_eq!((got.as_u16(), problem["field"].as_str()), (status, field), "{path}: {problem}");
    }
    // By its own ids, and without one.
    for org in ["", "&org=acme", "&org=org_acme"] {
        let (_, page) =
            daemon.get(&format!("/v1/usage/daily?{days}&meter=tokens&group_by=meter{org}"), &own).await;
        assert_eq!(figures(&page, &["/quantity"]), [[json!("27.5")]], "{org}: {page}");
        let (_, page) = daemon.get(&format!("/v1/usage/records?limit=500{org}"), &own).await;
        assert_eq!(page["data"].as_array().map(Vec::len), Some(16), "{page}");
    }
    // Row-level security holds even where a query forgets the org.
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
    let database = Database::new();
    books(&database);
    database.execute("UPDATE usage_records SET battery_batch = 9007199254740993 WHERE event_id = 'd'");
    let daemon = Daemon::start(&database);
    let key = database.key("usage:read", Some("org_acme"));
    let get = async |query: &str| {
        let (status, page) = daemon.get(&format!("/v1/usage/records?{query}"), &key).await;
        assert_eq!(status, 200, "{query}: {page}");
        page
    };
    let page = get("battery_batch=9007199254740993").await;
    // A double could not hold it.
    assert_eq!(page["data"][0]["battery_batch"], "9007199254740993");
    let page = get("id=c&source=test").await;
    assert_eq!(
        figures(
            &page,
            &["/correction", "/quantity", "/reason", "/member", "/dimensions/model", "/day", "/cost"]
        ),
        [
            [
                json!(1),
                json!("-4"),
                json!("a test"),
                json!("bob"),
                json!("y"),
                json!("2026-10-01"),
                json!("-0.25")
            ],
            [json!(0), json!("4"), json!(null), json!("bob"), json!("y"), json!("2026-10-01"), json!("0.25")],
        ]
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
        ("meter=level,users&to=2026-10-01T10:30:00Z", json!(["u1", "l1"])),
    ] {
        let page = get(query).await;
        let mut told: Vec<Value> = figures(&page, &["/id"]).into_iter().flatten().collect();
        let mut ids = ids.as_array().expect("a list").clone();
        if query.contains("level") {
            // Of one instant: in the order of a digest.
            told.sort_by_key(Value::to_string);
            ids.sort_by_key(Value::to_string);
        }
        assert_eq!(told, ids, "{query}");
    }
    let whole = get("limit=500").await["data"].clone();
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&format!("limit=3{cursor}")).await;
        paged.extend(page["data"].as_array().expect("rows").clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(Value::from(paged), whole);
    let times: Vec<&str> =
        whole.as_array().expect("rows").iter().filter_map(|row| row["occurred_at"].as_str()).collect();
    assert!(times.len() == 16 && times.is_sorted_by(|a, b| a >= b), "{times:?}");
}

/// What a page of records needs of the partitions: only those of the time that it asks for.
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
    let tokyo = now.with_timezone(&chrono_tz::Asia::Tokyo);
    let (today, month) = (tokyo.format("%Y-%m-%d").to_string(), tokyo.format("%Y-%m-01").to_string());
    put(&database, &row("acme", "tokens", "a", &now.to_rfc3339(), "2"));
    database.run(&["rebuild", "summaries"]);
    let daemon = Daemon::start(&database);
    let key = database.key("usage:read", Some("org_acme"));
    let (status, current) = daemon.get("/v1/usage/current", &key).await;
    assert_eq!(status, 200, "{current}");
    assert_eq!(
        (&current["day"]["first_day"], &current["month"]["first_day"]),
        (&json!(today), &json!(month))
    );
    assert!(current["day"]["start"].as_str().is_some_and(|start| start.ends_with("T15:00:00Z")), "{current}");
    for period in ["day", "month"] {
        assert_eq!(current[period]["usage"][0]["quantity"], "2", "{current}");
    }
    assert_eq!(current["billing"], Value::Null);
    // A subscription whose period began yesterday, in the middle of a day: that day is counted to it as a
    // whole.
    database.execute(
        "INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
         VALUES ('', false, 'cus_1', 'acme');
         INSERT INTO subscriptions (account, livemode, id, customer_id, status, current_period_start,
             current_period_end, items_complete)
         VALUES ('', false, 'sub_1', 'cus_1', 'active', now() - interval '1 day', now() + interval '29 days',
             true);
         INSERT INTO subscription_periods
         SELECT '', false, id, '', current_period_start, current_period_end, NULL, 0, now(), now()
         FROM subscriptions;
         NOTIFY coulomb_orgs",
    );
    put(&database, &row("acme", "tokens", "b", &(now - chrono::TimeDelta::days(1)).to_rfc3339(), "3"));
    put(&database, &row("acme", "tokens", "c", &(now - chrono::TimeDelta::days(2)).to_rfc3339(), "100"));
    database.run(&["rebuild", "summaries"]);
    tokio::time::sleep(coulomb::billing::directory::HEARD_WITHIN * 2).await;
    let (_, current) = daemon.get("/v1/usage/current", &key).await;
    let yesterday = (tokyo - chrono::TimeDelta::days(1)).format("%Y-%m-%d").to_string();
    assert_eq!(current["billing"]["first_day"], json!(yesterday), "{current}");
    assert_eq!(current["billing"]["usage"][0]["quantity"], "5", "{current}");
    assert_eq!(current["day"]["usage"][0]["quantity"], "2", "{current}");
}
