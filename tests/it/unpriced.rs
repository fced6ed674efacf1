//! Usage without a price: seen, refused where the meter says so, priced later. Values were worked out by
//! hand.

use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

struct Place {
    database: Database,
    daemon: Daemon,
    key: String,
}

impl Place {
    async fn new() -> Self {
        let database = Database::new();
        let daemon = Daemon::clocked(&database, &TestClock::at("2026-11-26T12:00:00Z"));
        let key = database.key(KEYS, None);
        daemon.org(&key, "acme", "UTC").await;
        Self { database, daemon, key }
    }

    async fn post(&self, path: &str, body: Value, expected: u16) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
        answer
    }

    async fn meter(&self, key: &str, more: Value) {
        let mut body = json!({ "key": key, "event_name": key, "aggregation": "sum", "value_field": "n",
            "dimensions": ["model"] });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.post("/v1/meters", body, 201).await;
    }

    /// A card from the beginning of the year on.
    async fn card(&self, key: &str, rates: Value) {
        let body = json!({ "currency": "usd", "rates": rates, "valid_from": "2026-01-01T00:00:00Z",
            "backdate": true });
        self.post(&format!("/v1/meters/{key}/rate_cards"), body, 201).await;
    }

    fn event(id: &str, name: &str, model: &str, n: &str, day: &str) -> Value {
        json!({ "id": id, "source": "t", "org": "acme", "event_name": name,
            "occurred_at": format!("{day}T10:00:00Z"),
            "data": { "n": n, "model": model } })
    }

    async fn send(&self, id: &str, name: &str, model: &str, n: &str, day: &str) -> Vec<String> {
        self.daemon.usage(&self.key, &Self::event(id, name, model, n, day)).await
    }

    async fn rate(&self, key: &str) -> Value {
        self.post(
            &format!("/v1/meters/{key}/rate_usage"),
            json!({ "org": "acme", "reason": "a new model" }),
            200,
        )
        .await
    }

    async fn unpriced(&self, key: &str) -> Vec<Value> {
        let (status, page) = self.daemon.get("/v1/usage/unpriced", key).await;
        assert_eq!(status, 200, "{page}");
        page["data"].as_array().expect("rows").clone()
    }

    async fn cost(&self, key: &str, month: &str, next: &str) -> (String, String, i64) {
        let path =
            format!("/v1/usage/daily?org=acme&meter={key}&from={month}-01&to={next}-01&group_by=month");
        let (_, page) = self.daemon.get(&path, &self.key).await;
        let row = &page["data"][0];
        let text = |field: &str| row[field].as_str().unwrap_or("none").to_owned();
        (text("cost"), text("quantity"), row["count"].as_i64().unwrap_or(0))
    }

    fn is_sound(&self) {
        assert_eq!(self.database.unbalanced(), [] as [String; 0]);
        self.database.run(&["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_no_rate_fits_is_seen() {
    let place = Place::new().await;
    place.meter("tokens", json!({})).await;
    place.meter("free", json!({})).await;
    place.meter("plain", json!({})).await;
    place.card("tokens", json!([{ "when": { "model": "large" }, "unit_cost": "0.01" }])).await;
    place.card("free", json!([])).await;
    // What costs nothing on purpose, or has never had a price, is no news.
    for (n, (name, model)) in [("tokens", "large"), ("free", "x"), ("plain", "x")].into_iter().enumerate() {
        assert_eq!(place.send(&n.to_string(), name, model, "1000", "2026-11-20").await, ["accepted"]);
    }
    assert_eq!(place.unpriced(&place.key).await, [] as [Value; 0]);
    assert_eq!(place.daemon.metric("coulomb_usage_unpriced_events").await, Some(0));
    for (id, model, n, day) in
        [("a", "v2", "5", "2026-11-20"), ("b", "v2", "2.5", "2026-11-18"), ("c", "v3", "1", "2026-11-21")]
    {
        let mut event = Place::event(id, "tokens", model, n, day);
        event["member"] = json!(id);
        assert_eq!(place.daemon.usage(&place.key, &event).await, ["accepted"]);
    }
    let shown = |row: &Value| {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {} {} {} {} {}",
            text("meter"),
            row["dimensions"]["model"],
            row["events"],
            text("quantity"),
            text("first_seen"),
            text("last_seen")
        )
    };
    let rows: Vec<String> = place.unpriced(&place.key).await.iter().map(shown).collect();
    assert_eq!(
        rows,
        [
            "tokens \"v2\" 2 7.5 2026-11-18T10:00:00Z 2026-11-20T10:00:00Z",
            "tokens \"v3\" 1 1 2026-11-21T10:00:00Z 2026-11-21T10:00:00Z"
        ]
    );
    assert_eq!(place.daemon.metric("coulomb_usage_unpriced_events").await, Some(3));
    // One message for each kind, however many members and events there are.
    let (_, page) = place.daemon.get("/v1/messages", &place.key).await;
    let told: Vec<&Value> = page["data"]
        .as_array()
        .expect("messages")
        .iter()
        .filter(|one| one["type"] == "usage.unpriced")
        .collect();
    let mut models: Vec<&str> =
        told.iter().map(|one| one["data"]["dimensions"]["model"].as_str().expect("a model")).collect();
    models.sort_unstable();
    assert_eq!(models, ["v2", "v3"], "{page}");
    let (_, records) = place.daemon.get("/v1/usage/records?org=acme&meter=tokens", &place.key).await;
    let marked: Vec<(&Value, &Value)> = records["data"]
        .as_array()
        .expect("records")
        .iter()
        .map(|one| (&one["id"], &one["unpriced"]))
        .collect();
    assert_eq!(marked.iter().filter(|one| *one.1 == json!(true)).count(), 3, "{marked:?}");
    // Another org sees none of it.
    place.daemon.org(&place.key, "beta", "UTC").await;
    let beta = place.database.key("usage:read", Some("beta"));
    assert_eq!(place.unpriced(&beta).await, [] as [Value; 0]);
    let doctor = place.database.command(&["doctor"]).output().expect("runs");
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("BAD  prices: 3 usage event(s) of tokens"), "{told}");
    // What is taken back is not counted.
    place
        .post("/v1/usage/void", json!({ "org": "acme", "source": "t", "id": "c", "reason": "x" }), 200)
        .await;
    assert_eq!(place.unpriced(&place.key).await.len(), 1);
    place.is_sound();
    place.database.execute("UPDATE unpriced_usage SET events = events + 1");
    let verified = place.database.command(&["verify"]).output().expect("runs");
    assert!(!verified.status.success(), "verify does not see it");
    place.database.run(&["rebuild", "summaries"]);
    place.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_may_refuse_what_no_rate_fits() {
    let place = Place::new().await;
    place.meter("tokens", json!({ "unpriced": "refuse" })).await;
    // There is nothing to be fitted yet.
    assert_eq!(place.send("0", "tokens", "v2", "1", "2026-11-20").await, ["accepted"]);
    place.card("tokens", json!([{ "when": { "model": "large" }, "unit_cost": "0.01" }])).await;
    assert_eq!(place.send("1", "tokens", "large", "1", "2026-11-20").await, ["accepted"]);
    assert_eq!(place.send("2", "tokens", "v2", "1", "2026-11-20").await, ["data unpriced"]);
    // Its cost is said by the caller.
    let mut said = Place::event("3", "tokens", "v2", "1", "2026-11-20");
    said["cost"] = json!("7");
    assert_eq!(place.daemon.usage(&place.key, &said).await, ["accepted"]);
    // An amendment takes no price away; what had none may be amended as it is.
    for (id, model, n, status) in [("1", "v2", 1, 400), ("1", "large", 2, 200), ("0", "v2", 3, 200)] {
        let event = json!({ "event_name": "tokens", "data": { "n": n, "model": model } });
        let amend = json!({ "org": "acme", "source": "t", "id": id, "reason": "x", "event": event });
        let answer = place.post("/v1/usage/amend", amend, status).await;
        assert!(status == 200 || answer["field"] == "event.data", "{answer}");
    }
    // 2 at 0.01, what the caller said, and 3 for nothing.
    assert_eq!(place.cost("tokens", "2026-11", "2026-12").await, ("7.02".into(), "6".into(), 3));
    let ask = json!({ "org": "acme", "meter": "tokens", "amount": "5", "dimensions": { "model": "v2" } });
    let problem = place.post("/v1/quota/reserve", ask, 400).await;
    assert_eq!(problem["field"], "dimensions", "{problem}");
    let (status, meter) = crate::support::daemon::answer(
        place
            .daemon
            .request(reqwest::Method::PATCH, "/v1/meters/tokens", &place.key)
            .json(&json!({ "unpriced": "record" })),
    )
    .await;
    assert_eq!((status.as_u16(), &meter["unpriced"]), (200, &json!("record")));
    assert_eq!(place.send("2", "tokens", "v2", "1", "2026-11-20").await, ["accepted"]);
    assert_eq!(place.unpriced(&place.key).await.len(), 1);
    place.is_sound();
}

/// What was priced later costs what it would have cost at once, in the tiers of its month, and once.
#[tokio::test(flavor = "multi_thread")]
async fn usage_is_priced_later() {
    let place = Place::new().await;
    place.meter("tokens", json!({})).await;
    place
        .meter("calls", json!({ "event_name": "tokens", "aggregation": "count", "value_field": null }))
        .await;
    place.card("tokens", json!([{ "when": { "model": "large" }, "unit_cost": "0.01" }])).await;
    place.post("/v1/battery/grants", json!({ "org": "acme", "amount": "1000", "reason": "x" }), 201).await;
    for (id, model, n, day) in [
        ("1", "large", "10", "2026-10-05"),
        ("2", "v2", "80", "2026-10-06"),
        ("3", "v2", "50", "2026-10-07"),
        ("4", "v3", "5", "2026-10-08"),
        ("5", "v2", "30", "2026-11-10"),
    ] {
        assert_eq!(place.send(id, "tokens", model, n, day).await, ["accepted"]);
    }
    place.post("/v1/usage/closings", json!({ "org": "acme", "month": "2026-10" }), 200).await;
    assert_eq!(place.cost("tokens", "2026-10", "2026-11").await, ("0.1".into(), "145".into(), 4));
    // 1 each for the first 100 of a month, then 0.5; half a unit of the battery each.
    let v2 = json!({ "when": { "model": "v2" }, "battery_units": "0.5",
        "tiers": { "mode": "graduated", "tiers": [
        { "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.5" } ] } });
    place.card("tokens", json!([{ "when": { "model": "large" }, "unit_cost": "5" }, v2])).await;
    let rated = place.rate("tokens").await;
    // October: 100 + 30 × 0.5 = 115, posted to November; November's own 30. Of v3 there is no price yet. 160
    // × 0.5 units.
    assert_eq!(
        [&rated["events"], &rated["cost"], &rated["battery_units"], &rated["more"]],
        [&json!(3), &json!("145"), &json!("80"), &json!(false)],
        "{rated}"
    );
    assert_eq!(place.cost("tokens", "2026-10", "2026-11").await, ("0.1".into(), "145".into(), 4));
    assert_eq!(place.cost("tokens", "2026-11", "2026-12").await, ("145".into(), "30".into(), 1));
    let (_, battery) = place.daemon.get("/v1/battery?org=acme", &place.key).await;
    assert_eq!(battery["balance"], "920");
    assert_eq!(place.unpriced(&place.key).await.len(), 1);
    assert_eq!(place.rate("tokens").await["events"], 0);
    // What it was priced at is given back, and the other meter's record with it.
    for id in ["3", "2"] {
        place
            .post("/v1/usage/void", json!({ "org": "acme", "source": "t", "id": id, "reason": "x" }), 200)
            .await;
    }
    let again = place
        .daemon
        .post(
            "/v1/usage/void",
            &place.key,
            &json!({ "org": "acme", "source": "t", "id": "2", "reason": "x" }),
        )
        .await;
    assert_eq!(again.0, 409, "{}", again.1);
    assert_eq!(place.cost("tokens", "2026-11", "2026-12").await, ("30".into(), "-100".into(), -1));
    assert_eq!(place.cost("calls", "2026-11", "2026-12").await.1, "-1");
    let amend = json!({ "org": "acme", "source": "t", "id": "5", "reason": "x",
        "event": { "event_name": "tokens", "data": { "n": 110, "model": "v2" } } });
    place.post("/v1/usage/amend", amend, 200).await;
    assert_eq!(place.cost("tokens", "2026-11", "2026-12").await, ("105".into(), "-20".into(), -1));
    place.is_sound();
    // By the command line, all orgs: v3 has a price now.
    place.card("tokens", json!([{ "unit_cost": "2" }])).await;
    place.database.run(&["meter", "rate-usage", "tokens", "--reason", "v3 has a price"]);
    assert_eq!(place.cost("tokens", "2026-11", "2026-12").await.0, "115");
    place.is_sound();
}

/// A meter's first card may be backdated, and what came before it be priced.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_first_card_is_priced_later() {
    let place = Place::new().await;
    place.meter("tokens", json!({})).await;
    let mut events: Vec<Value> =
        (0..1_100).map(|n| Place::event(&n.to_string(), "tokens", "a", "3", "2026-11-02")).collect();
    events[7]["cost"] = json!("9");
    let outcomes = place.daemon.usage(&place.key, &json!(events)).await;
    assert!(outcomes.iter().all(|outcome| outcome == "accepted"));
    assert_eq!(place.rate("tokens").await["events"], 0);
    place.card("tokens", json!([{ "unit_cost": "0.0000000004" }])).await;
    let (first, second) = (place.rate("tokens").await, place.rate("tokens").await);
    assert_eq!([&first["events"], &first["more"]], [&json!(1000), &json!(true)], "{first}");
    assert_eq!([&second["events"], &second["more"]], [&json!(99), &json!(false)], "{second}");
    // 9, and 1,099 × 3 × 4 × 10^-10
    assert_eq!(
        place.cost("tokens", "2026-11", "2026-12").await,
        ("9.0000013188".into(), "3300".into(), 1_100)
    );
    place.is_sound();
}
