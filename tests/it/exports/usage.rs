//! Usage of all orgs as a file: what each row says, who may see it, and what FinOps tools read.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::formats::{as_excel, from_jsonl, from_parquet, from_xlsx, plain};
use crate::support::rows::org;
use crate::support::{Database, World, requests};
use crate::usage_reads::books;

/// Two orgs with usage in two months; the platform's key may export.
async fn library() -> World {
    let database = Database::new();
    books(&database);
    World::over(database).scopes("usage:read").start().await
}

async fn bytes(world: &World, key: &str, query: &str) -> Vec<u8> {
    let path = format!("/v1/usage/export?{query}");
    let response = world.daemon().request(Method::GET, &path, key).send().await.expect("an answer");
    assert_eq!(response.status(), 200, "{query}: {}", response.text().await.unwrap_or_default());
    response.bytes().await.expect("a whole body").to_vec()
}

/// Cells of these columns: one line for each row.
async fn figures(world: &World, query: &str, columns: &str) -> Vec<String> {
    let rows = super::rows(&bytes(world, &world.key, query).await);
    let line = |row: &std::collections::BTreeMap<String, String>| {
        columns.split(' ').map(|name| row[name].clone()).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(line).collect()
}

const COLUMNS: &str = "day org_external_id meter member dimensions quantity count cost currency";

#[tokio::test]
async fn a_row_is_a_day_of_a_series_of_any_org() {
    let world = library().await;
    assert_eq!(
        figures(&world, "", COLUMNS).await,
        [
            r#"2026-09-30 acme tokens ann {"model": "x"} 1 1 0.25 eur"#,
            "2026-10-01 acme level  {} 50 1 0 ",
            "2026-10-01 acme seats  {} 7 2 0 ",
            // What was taken back leaves no row: bob's tokens, and the seats of the second.
            r#"2026-10-01 acme tokens ann {"model": "x"} 2.5 1 0.25 eur"#,
            "2026-10-01 acme users  {} 2 2 0 ",
            "2026-10-02 acme level  {} 20 2 0 ",
            "2026-10-02 acme tokens  {} 8 1 0.25 eur",
            r#"2026-10-02 acme tokens  {"model": "x"} 16 1 0.25 eur"#,
            "2026-10-02 acme users  {} 1 1 0 ",
            "2026-10-01 other tokens  {} 1000 1 0 eur",
        ]
    );
    assert_eq!(
        figures(&world, "org=other", "org_id org_name unit aggregation battery_units").await,
        ["org_other other units sum 0"]
    );
}

#[tokio::test]
async fn a_month_is_summed_up_as_its_meter_counts() {
    let world = library().await;
    let months = figures(&world, "group_by=month&org=acme", "day meter member quantity count cost").await;
    let expected = [
        "2026-09-01 tokens ann 1 1 0.25",
        "2026-10-01 level  20 3 0",
        "2026-10-01 seats  7 2 0",
        "2026-10-01 tokens  8 1 0.25",
        "2026-10-01 tokens  16 1 0.25",
        "2026-10-01 tokens ann 2.5 1 0.25",
        "2026-10-01 users  2 3 0",
    ];
    assert_eq!(months, expected);
    // The days that are asked for bound the month, of different values, too.
    let second = figures(&world, "group_by=month&org=acme&from=2026-10-02", "meter quantity").await;
    assert_eq!(second, ["level 20", "tokens 8", "tokens 16", "users 1"]);
}

#[tokio::test]
async fn filters_keep_what_they_name() {
    let world = library().await;
    for (query, expected) in [
        ("from=2026-10-02&meter=tokens", &["8", "16"][..]),
        ("before=2026-10-01", &["1"]),
        ("from=2026-10-01&before=2026-10-02&meter=users,seats", &["7", "2"]),
        ("dimension.model=x", &["1", "2.5", "16"]),
        ("dimension.model=x&member=ann", &["1", "2.5"]),
        ("dimension.model=z", &[]),
        ("org=org_other", &["1000"]),
    ] {
        assert_eq!(figures(&world, query, "quantity").await, expected, "{query}");
    }
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=2026-10-02&before=2026-10-02", "before"),
        ("group_by=week", "group_by"),
        ("meter=words", "meter"),
        ("dimension.colour=red", "dimension.colour"),
        ("columns=aws", "columns"),
        ("provider=Acme", "provider"),
        ("columns=focus&service_category=AI", "service_category"),
        ("time_zone=UTC", "time_zone"),
        ("format=xlsx&header=false", "header"),
    ] {
        world.get(&format!("/v1/usage/export?{query}")).await.names(400, field);
        world.get(&format!("/v1/usage/export/totals?{query}")).await.names(400, field);
    }
    world.get("/v1/usage/export?org=nobody").await.status(404);
}

#[tokio::test]
async fn an_org_exports_its_own_usage_alone() {
    let world = library().await;
    let own = world.database.key("billing:read", Some("org_other"));
    let rows = super::rows(&bytes(&world, &own, "").await);
    assert_eq!(rows.iter().map(|row| &*row["org_id"]).collect::<Vec<_>>(), ["org_other"]);
    assert_eq!(super::rows(&bytes(&world, &own, "group_by=month").await).len(), 1);
    world.by(&own).get("/v1/usage/export?org=acme").await.status(404);
    let other = world.database.key("usage:write", None);
    world.by(&other).get("/v1/usage/export").await.status(403);
}

#[tokio::test]
async fn costs_are_totalled_by_currency_and_quantities_by_meter() {
    let world = library().await;
    let totals = world.get("/v1/usage/export/totals").await.ok();
    assert_eq!(
        totals.body,
        json!({ "of": "usage", "rows": 10,
            "currencies": { "": { "rows": 5, "cost": "0" }, "eur": { "rows": 5, "cost": "1" } },
            "meters": {
                "level": { "rows": 2, "quantity": "70", "count": 3, "battery_units": "0" },
                "seats": { "rows": 1, "quantity": "7", "count": 2, "battery_units": "0" },
                "tokens": { "rows": 5, "quantity": "1027.5", "count": 5, "battery_units": "0" },
                "users": { "rows": 2, "quantity": "3", "count": 3, "battery_units": "0" } } })
    );
    let path = "/v1/usage/export?meter=seats";
    let response = world.daemon().request(Method::GET, path, &world.key).send().await.expect("an answer");
    let header: Value =
        serde_json::from_slice(response.headers()["coulomb-control-totals"].as_bytes()).expect("JSON");
    assert_eq!((&header["rows"], &header["meters"]["seats"]["quantity"]), (&json!(1), &json!("7")));
    assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"usage.csv\"");
}

#[tokio::test]
async fn all_formats_say_the_same() {
    let world = library().await;
    for (query, sheet) in [("", "usage"), ("group_by=month", "usage"), ("columns=focus", "focus")] {
        let csv = bytes(&world, &world.key, query).await;
        let expected: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&*csv)
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("CSV");
        assert!(expected.len() > 3, "{query}");
        let get = async |format: &str| bytes(&world, &world.key, &format!("{query}&format={format}")).await;
        assert_eq!(from_jsonl(&get("jsonl").await, &expected[0]), plain(&expected), "{query} jsonl");
        assert_eq!(from_parquet(get("parquet").await), plain(&expected), "{query} parquet");
        assert_eq!(from_xlsx(get("xlsx").await, sheet), as_excel(&expected), "{query} xlsx");
    }
}

/// The columns of the feature level `Mandatory` in FOCUS 1.2, dataset Cost and Usage.
const MANDATORY: [&str; 21] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
];

#[tokio::test]
async fn finops_tools_read_what_usage_costs() {
    let world = library().await;
    let query = "columns=focus&provider=Volt%20GmbH&service_category=AI%20and%20Machine%20Learning";
    let csv = bytes(&world, &world.key, query).await;
    let header = String::from_utf8_lossy(&csv).lines().next().expect("a header").to_owned();
    let columns: BTreeSet<&str> = header.split(',').collect();
    let missing: Vec<_> = MANDATORY.iter().filter(|name| !columns.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let rows = super::rows(&csv);
    assert_eq!(rows.len(), 5, "usage without a price has no currency, and no row");
    for row in &rows {
        for (name, cell) in row {
            let may_be_empty = ["ChargeClass", "ResourceId"].contains(&name.as_str());
            assert!(!cell.is_empty() || may_be_empty, "{name} is empty in {row:?}");
        }
    }
    let first = &rows[0];
    for (name, expected) in [
        ("BilledCost", "0.25"),
        ("EffectiveCost", "0.25"),
        ("ListCost", "0.25"),
        ("ContractedCost", "0.25"),
        ("BillingCurrency", "EUR"),
        // 30 September in Berlin, which is two hours ahead.
        ("ChargePeriodStart", "2026-09-29T22:00:00Z"),
        ("ChargePeriodEnd", "2026-09-30T22:00:00Z"),
        ("BillingPeriodStart", "2026-08-31T22:00:00Z"),
        ("BillingPeriodEnd", "2026-09-30T22:00:00Z"),
        ("ChargeCategory", "Usage"),
        ("ChargeFrequency", "Usage-Based"),
        ("ChargeDescription", "tokens: 1 units"),
        ("ConsumedQuantity", "1"),
        ("PricingQuantity", "1"),
        ("ConsumedUnit", "units"),
        ("ProviderName", "Volt GmbH"),
        ("InvoiceIssuerName", "Volt GmbH"),
        ("ServiceCategory", "AI and Machine Learning"),
        ("ServiceName", "tokens"),
        ("SkuId", "tokens"),
        ("SubAccountId", "org_acme"),
        ("SubAccountName", "acme"),
        ("ResourceId", "ann"),
        ("Tags", r#"{"model": "x"}"#),
        ("x_OrgExternalId", "acme"),
    ] {
        assert_eq!(first[name], expected, "{name}");
    }
    let months = super::rows(&bytes(&world, &world.key, &format!("{query}&group_by=month&org=acme")).await);
    let period = |row: &std::collections::BTreeMap<String, String>| {
        ["ChargePeriodStart", "ChargePeriodEnd"].map(|name| row[name].clone())
    };
    assert_eq!(period(&months[1]), ["2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"], "summer time ends");
}

/// The file costs what the list of usage costs.
#[tokio::test]
async fn the_costs_are_those_of_the_list() {
    let world = library().await;
    let listed =
        world.get("/v1/usage/daily?org=acme&from=2026-09-01&to=2026-11-01&group_by=meter").await.ok();
    let tokens = listed.rows().iter().find(|row| row["meter"] == "tokens").expect("tokens").clone();
    for group_by in ["day", "month"] {
        for columns in ["plain", "focus"] {
            let query = format!("org=acme&meter=tokens&group_by={group_by}&columns={columns}");
            let totals = world.get(&format!("/v1/usage/export/totals?{query}")).await.ok();
            let (currency, cost) = if columns == "focus" { ("EUR", "BilledCost") } else { ("eur", "cost") };
            assert_eq!(totals["currencies"][currency][cost], tokens["cost"], "{query}");
        }
    }
    assert_eq!(tokens["cost"], "1");
}

/// Priced with as many places as there are; the totals are exact.
#[tokio::test]
async fn costs_below_a_cent_are_exact() {
    let database = Database::new();
    org(&database, "tiny", "UTC");
    let world = World::over(database)
        .with(requests::meter("calls"))
        .prices(json!([{ "unit_cost": "0.000000000001" }]))
        .start()
        .await;
    world.used(requests::usage("tiny", "calls").quantity("0.000000000003")).await;
    world.used(requests::usage("tiny", "calls").quantity("2")).await;
    let cost = "0.000000000002000000000003";
    assert_eq!(figures(&world, "", "quantity cost").await, [format!("2.000000000003 {cost}")]);
    let totals = world.get("/v1/usage/export/totals").await.ok();
    assert_eq!(totals["currencies"]["usd"]["cost"], cost);
}

#[tokio::test]
async fn the_command_writes_the_same_file_and_leaves_an_entry() {
    let world = library().await;
    let printed = world.run(&["export", "usage", "--group-by", "month", "--dimension", "model=x"]);
    let download = bytes(&world, &world.key, "group_by=month&dimension.model=x").await;
    assert_eq!(printed.into_bytes(), download);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("focus.csv");
    world.run(&["export", "usage", "--columns", "focus", "--out", path.to_str().expect("UTF-8")]);
    assert_eq!(std::fs::read(&path).expect("the file"), bytes(&world, &world.key, "columns=focus").await);
    let sql = "SELECT detail -> 'parameters' FROM audit_log WHERE action = 'export.write'
        AND target = 'usage' AND actor LIKE 'cli:%'";
    let parameters: Value = serde_json::from_str(&world.value(sql).expect("an entry")).expect("JSON");
    assert_eq!(parameters, json!({ "group_by": "month", "dimension.model": "x" }));
    let wrong = world.command(&["export", "usage", "--dimension", "model"]).output().expect("runs");
    assert_eq!(wrong.status.code(), Some(2));
}
