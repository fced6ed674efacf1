//! What an org is entitled to, in one answer.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write";

/// Status, entity tag and body.
async fn ask(daemon: &Daemon, path: &str, key: &str, tag: Option<&str>) -> (StatusCode, String, String) {
    let mut request = daemon.request(Method::GET, path, key);
    if let Some(tag) = tag {
        request = request.header("If-None-Match", tag);
    }
    let response = request.send().await.expect("an answer");
    let tag =
        response.headers().get("ETag").map(|tag| tag.to_str().expect("text").to_owned()).unwrap_or_default();
    (response.status(), tag, response.text().await.expect("a body"))
}

#[tokio::test]
async fn one_answer_says_all_and_only_news_are_sent() {
    let database = Database::new();
    let clock = TestClock::at("2026-03-10T12:00:00Z");
    let daemon = Daemon::clocked(&database, &clock);
    let key = database.key(KEYS, None);
    database.meter(1, "work", "sum", "model", None);
    database.meter(2, "sent", "count", "", None);
    let org = daemon.org(&key, "acme", "Europe/Berlin").await;
    let path = "/v1/orgs/acme/entitlements";
    let (status, bare) = daemon.get(path, &key).await;
    assert_eq!(status, 200, "{bare}");
    assert_eq!(
        bare,
        json!({ "org": org, "plan": null, "plan_until": null, "features": {}, "subscription": null,
            "paying": [], "quotas": [],
                "battery": { "balance": "0", "reserved": "0", "available": "0", "debt_limit": null,
                    "daily_allowance": "0" } })
    );
    let body = json!({
        "name": "Pro", "trial_days": 14, "features": { "sso": true, "seats": 5 },
        "quotas": [{ "meter": "meter-1", "period": "month", "limit": 100, "enforcement": "soft" },
            { "meter": "meter-1", "period": "billing", "limit": null },
            { "meter": "meter-2", "period": "day", "limit": 3, "per_subject": true }],
    });
    assert_eq!(answer(daemon.request(Method::PUT, "/v1/plans/pro", &key).json(&body)).await.0, 200);
    let quota = json!({ "org": "acme", "meter": "meter-1", "filter": { "model": "a" }, "period": "day",
        "limit": "50" });
    let (_, quota) = daemon.post("/v1/quotas", &key, &quota).await;
    assert_eq!(daemon.post("/v1/orgs/acme/subscription", &key, &json!({ "plan": "pro" })).await.0, 201);
    // What is held of the org hears of it within a moment: its billing period begins now.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let used = json!([{ "id": "1", "org": "acme", "event_name": "work", "occurred_at": "2026-03-10T12:00:00Z",
        "data": { "value": 30, "model": "a" } },
        { "id": "2", "org": "acme", "event_name": "sent", "subject": "s1",
            "occurred_at": "2026-03-10T12:00:00Z", "data": {} }]);
    assert_eq!(daemon.usage(&key, &used).await, ["accepted", "accepted"]);
    let reserve = json!({ "org": "acme", "meter": "meter-1", "amount": 5, "dimensions": { "model": "a" } });
    let (status, reservation) = daemon.post("/v1/quota/reserve", &key, &reserve).await;
    assert!(status.is_success(), "{reservation}");

    let (status, tag, text) = ask(&daemon, path, &key, None).await;
    assert_eq!(status, 200, "{text}");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let line = |n: usize, fields: &[&str]| {
        fields.iter().map(|field| all["quotas"][n][*field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(all["plan"], json!({ "id": "pro", "name": "Pro", "version": 1, "default": false }));
    assert_eq!(
        (&all["features"], &all["plan_until"]),
        (&json!({ "sso": true, "seats": 5 }), &json!("2026-03-24T12:00:00Z"))
    );
    let sub = &all["subscription"];
    assert_eq!(
        (
            &sub["source"],
            &sub["status"],
            &sub["trial_end"],
            &sub["current_period_end"],
            &sub["cancel_at_period_end"]
        ),
        (
            &json!("local"),
            &json!("trial"),
            &json!("2026-03-24T12:00:00Z"),
            &json!("2026-03-24T12:00:00Z"),
            &json!(false)
        )
    );
    assert_eq!(all["quotas"].as_array().map(Vec::len), Some(4), "{all}");
    let figures = ["meter", "period", "enforcement", "limit", "used", "reserved", "remaining", "resets_at"];
    assert_eq!(
        line(0, &figures),
        [
            json!("meter-1"),
            json!("month"),
            json!("soft"),
            json!("100"),
            json!("30"),
            json!("5"),
            json!("65"),
            json!("2026-03-31T22:00:00Z")
        ]
    );
    assert_eq!(
        line(1, &figures),
        [
            json!("meter-1"),
            json!("billing"),
            json!("hard"),
            Value::Null,
            json!("30"),
            json!("5"),
            Value::Null,
            json!("2026-03-24T12:00:00Z")
        ]
    );
    // Of subjects only the terms; the org's own quota names itself.
    assert_eq!(
        line(2, &["meter", "filter", "limit", "used", "quota"]),
        [json!("meter-1"), json!({ "model": "a" }), json!("50"), json!("30"), quota["id"].clone()]
    );
    assert_eq!(
        line(3, &["meter", "per_subject", "limit", "used", "remaining", "resets_at"]),
        [json!("meter-2"), json!(true), json!("3"), Value::Null, Value::Null, json!("2026-03-10T23:00:00Z")]
    );

    // The same is not sent twice; news are.
    let (status, same, text) = ask(&daemon, path, &key, Some(&format!("\"old\", {tag}"))).await;
    assert_eq!((status.as_u16(), same.as_str(), text.as_str()), (304, tag.as_str(), ""));
    assert_eq!(ask(&daemon, path, &key, Some("\"old\"")).await.0, 200);
    // What expires by itself counts no longer.
    clock.turn("2026-03-10T12:06:00Z");
    let (status, later, text) = ask(&daemon, path, &key, Some(&tag)).await;
    assert!(status == 200 && later != tag && text.contains(r#""reserved":"0""#), "{text}");
    let more = json!([{ "id": "3", "org": "acme", "event_name": "work", "occurred_at": "2026-03-10T12:00:00Z",
        "data": { "value": 1, "model": "b" } }]);
    assert_eq!(daemon.usage(&key, &more).await, ["accepted"]);
    let (status, _, text) = ask(&daemon, path, &key, Some(&later)).await;
    assert!(status == 200 && text.contains(r#""used":"31""#), "as of the last acknowledged event: {text}");
    // A new version changes nothing for who has the first; its name does.
    let mut other = body.clone();
    other["name"] = json!("Pro 2");
    other["features"] = json!({});
    other["quotas"] = json!([]);
    assert_eq!(answer(daemon.request(Method::PUT, "/v1/plans/pro", &key).json(&other)).await.0, 200);
    let (_, all) = daemon.get(path, &key).await;
    assert_eq!(
        (&all["plan"], &all["features"]["sso"]),
        (&json!({ "id": "pro", "name": "Pro 2", "version": 1, "default": false }), &json!(true))
    );
    assert_eq!(all["quotas"].as_array().map(Vec::len), Some(4));
    // The trial is over: the plan's limits are gone at once, the org's own stays.
    clock.turn("2026-03-24T12:00:00Z");
    let (_, all) = daemon.get(path, &key).await;
    assert_eq!(
        (&all["plan"], &all["subscription"]["status"], all["quotas"].as_array().map(Vec::len)),
        (&Value::Null, &json!("expired"), Some(1)),
        "{all}"
    );
}

#[tokio::test]
async fn an_org_asks_for_itself() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    let (acme, beta) = (daemon.org(&key, "acme", "UTC").await, daemon.org(&key, "beta", "UTC").await);
    let own = database.key("usage:read", Some(&acme));
    for name in [acme.as_str(), "acme"] {
        let (status, all) = daemon.get(&format!("/v1/orgs/{name}/entitlements"), &own).await;
        assert_eq!((status.as_u16(), &all["org"]), (200, &json!(acme)));
    }
    for name in [beta.as_str(), "beta", "nobody", "%00"] {
        assert_eq!(daemon.get(&format!("/v1/orgs/{name}/entitlements"), &own).await.0, 404, "{name}");
    }
    for name in ["nobody", "%00"] {
        assert_eq!(daemon.get(&format!("/v1/orgs/{name}/entitlements"), &key).await.0, 404, "{name}");
    }
    let billing = database.key("billing:read", None);
    assert_eq!(daemon.get("/v1/orgs/acme/entitlements", &billing).await.0, 403);
    assert_eq!(answer(daemon.http.get(format!("{}/v1/orgs/acme/entitlements", daemon.base))).await.0, 401);
}
