//! Usage broken down by org, time, member, subject, dimensions and labels. All values were computed by hand.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{amend, close, meter, rate_card, usage, void};

const SCOPES: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

/// Two orgs whose jobs used tokens and seats on 4 and 5 October. Berlin is two hours ahead of UTC then.
pub(crate) async fn used() -> World {
    let world = World::new()
        .at("2026-10-01T00:00:00Z")
        .scopes(SCOPES)
        .with(meter("tokens").dimensions(["model"]).with("labels", json!(["job", "run"])))
        .with(meter("seats").aggregation("max"))
        .with(meter("disk").aggregation("level").value_field("set"))
        .with(rate_card("tokens", json!([{ "unit_cost": "0.5" }])))
        .org("acme")
        .org("bolt")
        .start()
        .await;
    world.patch("/v1/orgs/acme", json!({ "time_zone": "Europe/Berlin" })).await.ok();
    world.turn("2026-10-06T00:00:00Z");
    let job = |org: &str, id: &str, quantity: i64, job: &str, at: &str| {
        usage(org, "tokens").id(id).quantity(quantity).dimension("model", "m").dimension("job", job).at(at)
    };
    for event in [
        job("acme", "a1", 10, "j1", "2026-10-04T21:30:00Z").with("member", "ann"),
        job("acme", "a2", 20, "j2", "2026-10-04T22:30:00Z").with("subject", "phone"),
        job("acme", "a3", 30, "j1", "2026-10-04T22:45:00Z"),
        job("bolt", "b1", 5, "j1", "2026-10-05T08:00:00Z"),
        usage("acme", "seats").id("s1").quantity(7).at("2026-10-04T09:00:00Z"),
        usage("acme", "seats").id("s2").quantity(9).at("2026-10-04T10:00:00Z"),
        usage("bolt", "disk").data(json!({ "set": 5 })).at("2026-10-04T10:00:00Z"),
    ] {
        world.used(event).await;
    }
    world
}

impl World {
    /// A line for each row of a breakdown: these columns.
    async fn broken_down(&self, query: &str, columns: &str) -> Vec<String> {
        let path = format!("/v1/usage/breakdown?from=2026-10-04T00:00:00Z&to=2026-10-06T00:00:00Z&{query}");
        let answer = self.get(&path).await.ok();
        let cell = |row: &Value, name: &str| match &row[name] {
            Value::String(text) => text.clone(),
            Value::Null => row["dimensions"][name].as_str().unwrap_or("-").to_owned(),
            other => other.to_string(),
        };
        let line = |row| columns.split(' ').map(|name| cell(row, name)).collect::<Vec<_>>().join(" ");
        answer.rows().iter().map(line).collect()
    }
}

#[tokio::test]
async fn usage_is_broken_down_over_all_orgs_or_of_one() {
    let world = used().await;
    assert_eq!(
        world.broken_down("group_by=org,day", "day org_external_id meter quantity count cost currency").await,
        [
            "2026-10-04 acme seats 9 2 0 -",
            "2026-10-04 acme tokens 60 3 30 usd",
            "2026-10-05 bolt tokens 5 1 2.5 usd",
        ]
    );
    // By days of Berlin, the zone of the org: the second and the third event were after midnight there.
    assert_eq!(
        world.broken_down("org=acme&group_by=day&meter=tokens", "day quantity last_used_at").await,
        ["2026-10-04 10 2026-10-04T21:30:00Z", "2026-10-05 50 2026-10-04T22:45:00Z"]
    );
    assert_eq!(
        world.broken_down("group_by=hour&meter=tokens", "hour quantity").await,
        ["2026-10-04T21:00:00Z 10", "2026-10-04T22:00:00Z 50", "2026-10-05T08:00:00Z 5"]
    );
    // Kathmandu's hours begin at a quarter to.
    assert_eq!(
        world
            .broken_down("group_by=hour&meter=tokens&org=acme&time_zone=Asia/Kathmandu", "hour quantity")
            .await,
        ["2026-10-04T21:15:00Z 10", "2026-10-04T22:15:00Z 50"]
    );
    assert_eq!(world.broken_down("group_by=month&meter=tokens", "month quantity").await, ["2026-10 65"]);
    assert_eq!(world.broken_down("group_by=job&meter=tokens", "job quantity").await, ["j1 45", "j2 20"]);
    assert_eq!(
        world.broken_down("group_by=model,job,run&org=acme&meter=tokens", "model job run quantity").await,
        ["m j1 - 40", "m j2 - 20"]
    );
    assert_eq!(
        world.broken_down("group_by=member,subject&org=acme&meter=tokens", "member subject quantity").await,
        ["ann - 10", "- phone 20", "- - 30"]
    );
    assert_eq!(
        world.broken_down("dimension.job=j1&dimension.model=m", "meter quantity").await,
        ["tokens 45"]
    );
    assert_eq!(world.broken_down("subject=phone", "quantity").await, ["20"]);
    // Page by page it is the same.
    let path = "/v1/usage/breakdown?from=2026-10-04T00:00:00Z&group_by=org,member,job";
    let (all, paged) = (world.all(path, 500).await, world.all(path, 1).await);
    assert_eq!((all.len(), &all), (5, &paged));
    // A label makes no series.
    assert_eq!(world.number("SELECT count(*) FROM usage_series WHERE meter_id = 1"), 3);
    world.is_sound();
}

#[tokio::test]
async fn corrections_keep_labels_and_what_was_taken_back_is_in_no_row() {
    let world = used().await;
    world.send(void("s2").org("acme")).await.ok();
    world.send(void("a2").org("acme")).await.ok();
    let amended = usage("acme", "tokens").quantity(31).dimension("model", "m").dimension("job", "j3");
    world.send(amend("a3", amended).org("acme")).await.ok();
    assert_eq!(
        world.broken_down("group_by=job&org=acme", "meter job quantity count cost").await,
        ["seats - 7 1 0", "tokens j1 10 1 5", "tokens j3 31 1 15.5"]
    );
    // The same event again is a duplicate, and with another label it says something else.
    let again = |job: &str| {
        usage("acme", "tokens")
            .id("a1")
            .quantity(10)
            .dimension("model", "m")
            .dimension("job", job)
            .with("member", "ann")
            .at("2026-10-04T21:30:00Z")
    };
    assert_eq!(world.uses(again("j1")).await, "duplicate");
    assert_eq!(world.uses(again("j9")).await, "conflict");

    let records = world.get("/v1/usage/records?org=acme&dimension.job=j3").await.ok();
    assert_eq!(records.rows().len(), 1);
    assert_eq!(records.rows()[0]["labels"], json!({ "job": "j3" }));
    let taken_back = world.get("/v1/usage/records?org=acme&dimension.job=j2").await.ok();
    assert_eq!(taken_back.column("quantity"), json!(["-20", "20"]));

    // Usage of a closed month is counted where it occurred.
    world.turn("2026-11-02T00:00:00Z");
    world.send(close("2026-10")).await.status(200);
    let late = usage("bolt", "tokens").quantity(100).dimension("job", "j1").at("2026-10-05T09:00:00Z");
    world.used(late).await;
    assert_eq!(world.broken_down("org=bolt", "quantity").await, ["105"]);
    world.is_sound();
}

#[tokio::test]
async fn a_breakdown_is_a_csv_and_names_what_is_wrong_with_it() {
    let world = used().await;
    let path = "/v1/usage/breakdown?from=2026-10-04T00:00:00Z&group_by=org,job&meter=tokens&format=csv";
    let csv = world.daemon().request(Method::GET, path, &world.key).send().await.expect("an answer");
    let csv = csv.text().await.expect("a whole body");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "org,org_external_id,meter,unit,dimension.job,quantity,count,cost,currency,battery_units,last_used_at"
    );
    let without_id = |line: &str| line.split_once(',').expect("cells").1.to_owned();
    let mut rows: Vec<String> = lines[1..].iter().map(|line| without_id(line)).collect();
    rows.sort();
    assert_eq!(
        rows,
        [
            "acme,tokens,,j1,40,2,20,usd,0,2026-10-04T22:45:00.000000Z",
            "acme,tokens,,j2,20,1,10,usd,0,2026-10-04T22:30:00.000000Z",
            "bolt,tokens,,j1,5,1,2.5,usd,0,2026-10-05T08:00:00.000000Z",
        ]
    );
    // An org sees its own alone.
    let key = world.key_of("bolt");
    let own = world.by(&key).get("/v1/usage/breakdown?from=2026-10-04T00:00:00Z").await.ok();
    assert_eq!(own.column("quantity"), json!(["5"]));
    world.by(&key).get("/v1/usage/breakdown?org=acme").await.status(404);
    for (query, field) in [
        ("from=2026-01-01T00:00:00Z", "to"),
        ("from=2026-10-05T00:00:00Z&to=2026-10-04T00:00:00Z", "to"),
        ("group_by=colour", "group_by"),
        ("group_by=hour,day", "group_by"),
        ("group_by=org,org", "group_by"),
        ("dimension.colour=red", "dimension.colour"),
        ("meter=disk", "meter"),
        ("meter=nothing", "meter"),
        ("time_zone=CEST2", "time_zone"),
    ] {
        world.get(&format!("/v1/usage/breakdown?{query}")).await.names(400, field);
    }
    let both = meter("other").dimensions(["model"]).with("labels", json!(["model"]));
    world.send(both).await.names(400, "labels");
    world.send(meter("other").with("labels", json!(["a b"]))).await.names(400, "labels");
    let changed = world.patch("/v1/meters/tokens", json!({ "labels": ["job"] })).await.ok();
    assert_eq!(changed.pick(["version", "labels"]), json!([2, ["job"]]));
}
