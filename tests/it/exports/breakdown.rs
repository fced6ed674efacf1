//! The breakdown of usage as a file: the rows of the list, in every format. All values were computed by hand.

use reqwest::Method;
use serde_json::{Value, json};

use super::formats::{as_excel, from_jsonl, from_parquet, from_xlsx, plain};
use crate::support::World;
use crate::usage_breakdown::used;

const TIME: &str = "from=2026-10-04&to=2026-10-06";

async fn bytes(world: &World, query: &str) -> Vec<u8> {
    let path = format!("/v1/usage/breakdown/export?{TIME}&{query}");
    let response = world.daemon().request(Method::GET, &path, &world.key).send().await.expect("an answer");
    assert_eq!(response.status(), 200, "{query}: {}", response.text().await.unwrap_or_default());
    response.bytes().await.expect("a whole body").to_vec()
}

/// Cells of these columns: one line for each row.
async fn figures(world: &World, query: &str, columns: &str) -> Vec<String> {
    let rows = super::rows(&bytes(world, query).await);
    let line = |row: &std::collections::BTreeMap<String, String>| {
        columns.split(' ').map(|name| row[name].clone()).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(line).collect()
}

#[tokio::test]
async fn a_file_has_the_rows_of_the_list() {
    let world = used().await;
    assert_eq!(
        figures(
            &world,
            "group_by=day,org",
            "day hour month meter member subject quantity count cost currency"
        )
        .await,
        [
            "2026-10-04   seats   9 2 0 ",
            "2026-10-04   tokens   60 3 30 usd",
            "2026-10-05   tokens   5 1 2.5 usd"
        ]
    );
    // Days of Berlin, the zone of the org; times stay in UTC.
    assert_eq!(
        figures(&world, "org=acme&group_by=day&meter=tokens", "day org_id quantity last_used_at").await,
        ["2026-10-04  10 2026-10-04T21:30:00Z", "2026-10-05  50 2026-10-04T22:45:00Z"]
    );
    // With a zone the dates of the filter, the grouping and the times are in it.
    assert_eq!(
        figures(&world, "group_by=hour&meter=tokens&time_zone=Asia/Kathmandu", "hour quantity").await,
        ["2026-10-05T03:00:00+05:45 10", "2026-10-05T04:00:00+05:45 50", "2026-10-05T13:00:00+05:45 5"]
    );
    assert_eq!(figures(&world, "group_by=month&meter=tokens", "month quantity").await, ["2026-10 65"]);
    assert_eq!(
        figures(
            &world,
            "group_by=model,job,run&org=acme&meter=tokens",
            "dimensions quantity unit aggregation"
        )
        .await,
        [
            r#"{"job": "j1", "run": null, "model": "m"} 40  sum"#,
            r#"{"job": "j2", "run": null, "model": "m"} 20  sum"#
        ]
    );
    assert_eq!(
        figures(&world, "group_by=member,subject&org=acme&meter=tokens", "member subject quantity").await,
        ["ann  10", " phone 20", "  30"]
    );
    assert_eq!(
        figures(&world, "dimension.job=j1&dimension.model=m", "meter dimensions quantity").await,
        ["tokens {} 45"]
    );
    assert_eq!(figures(&world, "subject=phone", "quantity").await, ["20"]);
    for (query, field) in [
        ("from=2026-01-01", "to"),
        ("group_by=colour", "group_by"),
        ("group_by=hour,day", "group_by"),
        ("dimension.colour=red", "dimension.colour"),
        ("meter=disk", "meter"),
        ("time_zone=CEST2", "time_zone"),
        ("format=xlsx&header=false", "header"),
        ("limit=5", "limit"),
    ] {
        world.get(&format!("/v1/usage/breakdown/export?{query}")).await.names(400, field);
        world.get(&format!("/v1/usage/breakdown/export/totals?{query}")).await.names(400, field);
    }
}

#[tokio::test]
async fn all_formats_say_the_same_and_add_up() {
    let world = used().await;
    for query in
        ["group_by=hour,org,member,subject,job,model", "group_by=day", "group_by=month,org", "meter=tokens"]
    {
        let csv = bytes(&world, query).await;
        let expected: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&*csv)
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("CSV");
        assert!(expected.len() > 1, "{query}");
        let get = async |format: &str| bytes(&world, &format!("{query}&format={format}")).await;
        assert_eq!(from_jsonl(&get("jsonl").await, &expected[0]), plain(&expected), "{query} jsonl");
        assert_eq!(from_parquet(get("parquet").await), plain(&expected), "{query} parquet");
        assert_eq!(from_xlsx(get("xlsx").await, "breakdown"), as_excel(&expected), "{query} xlsx");
    }
    let totals = world.get(&format!("/v1/usage/breakdown/export/totals?{TIME}&group_by=org,job")).await.ok();
    let expected = json!({ "of": "breakdown", "rows": 4,
        "currencies": { "": { "rows": 1, "cost": "0" }, "usd": { "rows": 3, "cost": "32.5" } },
        "meters": {
            "seats": { "rows": 1, "quantity": "9", "count": 2, "battery_units": "0" },
            "tokens": { "rows": 3, "quantity": "65", "count": 4, "battery_units": "0" } } });
    assert_eq!(totals.body, expected);
    let path = format!("/v1/usage/breakdown/export?{TIME}&group_by=org,job");
    let response = world.daemon().request(Method::GET, &path, &world.key).send().await.expect("an answer");
    let headers = response.headers();
    let told: Value = serde_json::from_slice(headers["coulomb-control-totals"].as_bytes()).expect("JSON");
    assert_eq!(told, expected);
    assert_eq!(headers["content-disposition"], "attachment; filename=\"breakdown.csv\"");
}

#[tokio::test]
async fn each_file_leaves_an_entry_and_an_org_gets_its_own_rows() {
    let world = used().await;
    let printed = world.run(&[
        "export",
        "breakdown",
        "--from",
        "2026-10-04",
        "--to",
        "2026-10-06",
        "--group-by",
        "org,job",
        "--dimension",
        "job=j1",
    ]);
    assert_eq!(printed.into_bytes(), bytes(&world, "group_by=org,job&dimension.job=j1").await);
    let sql = "SELECT string_agg(concat_ws(' ', split_part(actor, ':', 1), target, detail -> 'rows',
            detail -> 'parameters' ->> 'dimension.job',
            detail -> 'totals' -> 'currencies' -> 'usd' ->> 'cost'),
            '; ' ORDER BY actor) FROM audit_log WHERE action = 'export.write'";
    // 10 and 30 of acme, and 5 of bolt, at half a dollar.
    assert_eq!(world.value(sql).as_deref(), Some("cli breakdown 2 j1 22.5; key breakdown 2 j1 22.5"));
    let key = world.key_of("bolt");
    let path = format!("/v1/usage/breakdown/export?{TIME}&group_by=org");
    let own = world.daemon().request(Method::GET, &path, &key).send().await.expect("an answer");
    let rows = super::rows(&own.bytes().await.expect("a body"));
    assert_eq!(rows.iter().map(|row| row["quantity"].as_str()).collect::<Vec<_>>(), ["5"]);
    world.by(&key).get(&format!("{path}&org=acme")).await.status(404);
    let other = world.database.key("billing:read", None);
    world.by(&other).get(&path).await.status(403);
}
