//! A tenant with two providers of AI, one limited and one unlimited: the limited one stops at its limit, the
//! other goes on. One tenant can never read another.

use reqwest::Method;
use serde_json::{Value, json};

use super::Platform;
use crate::support::daemon::answer;

#[tokio::test]
async fn a_limited_provider_stops_and_an_unlimited_one_goes_on() {
    let flow = Platform::at("2027-05-05T10:00:00Z");
    let shop = flow.daemon.org(&flow.key, "shop", "Asia/Jakarta").await;
    let rival = flow.daemon.org(&flow.key, "rival", "Asia/Jakarta").await;
    let meter = json!({ "key": "ai_calls", "event_name": "ai.call", "aggregation": "count",
        "dimensions": ["provider", "model"] });
    flow.post("/v1/meters", meter, 201).await;
    // What the product kept as 0, unlimited, is a limit of null here.
    let quota = |(provider, limit): (&str, Value)| {
        json!({ "meter": "ai_calls", "filter": { "provider": provider }, "period": "month", "limit": limit,
                "enforcement": "hard", "refuse_usage": !limit.is_null() })
    };
    let quotas = [("openai", json!("5")), ("deepseek", json!(null))].map(quota);
    flow.put("/v1/plans/business", json!({ "name": "Business", "quotas": quotas })).await;
    flow.on_plan("shop", "business").await;
    let key = flow.database.key("usage:write,usage:read,billing:read", Some(&shop));
    let call = |n: usize, provider: &str| {
        json!({ "id": format!("{provider}-{n}"), "event_name": "ai.call",
        "data": { "provider": provider, "model": "m" } })
    };
    let calls: Vec<Value> = (0..8).flat_map(|n| [call(n, "openai"), call(n, "deepseek")]).collect();
    let statuses = flow.daemon.usage(&key, &json!(calls)).await;
    let of =
        |provider: usize| statuses.iter().skip(provider).step_by(2).map(String::as_str).collect::<Vec<_>>();
    // Just the excess is refused, in the order in which it came.
    assert_eq!(of(0), [vec!["accepted"; 5], vec!["data quota_exceeded"; 3]].concat());
    assert_eq!(of(1), vec!["accepted"; 8]);
    // What was refused holds no key, and is refused again; what was taken is a repeat.
    assert_eq!(
        flow.daemon.usage(&key, &json!([call(7, "openai"), call(0, "openai")])).await,
        ["data quota_exceeded", "duplicate"]
    );
    let verdict = flow
        .daemon
        .post(
            "/v1/quota/check",
            &key,
            &json!({ "items": [
        { "meter": "ai_calls", "dimensions": { "provider": "openai" } },
            { "meter": "ai_calls", "dimensions": { "provider": "deepseek" } }
    ] }),
        )
        .await
        .1;
    assert_eq!(
        (&verdict["results"][0]["allowed"], &verdict["results"][1]["allowed"]),
        (&json!(false), &json!(true)),
        "{verdict}"
    );
    assert_eq!(verdict["results"][1]["quotas"][0]["limit"], json!(null));

    // The other tenant sees and moves nothing of it.
    let other = flow.database.key("usage:write,usage:read,billing:read", Some(&rival));
    assert_eq!(flow.daemon.get("/v1/orgs/shop/entitlements", &other).await.0, 404);
    for path in [
        "/v1/usage/records",
        "/v1/quotas",
        "/v1/battery/entries",
        "/v1/usage/daily?from=2027-05-01&to=2027-06-01",
    ] {
        let (status, seen) = flow.daemon.get(path, &other).await;
        assert_eq!(
            (status.as_u16(), seen["data"].as_array().map(Vec::len)),
            (200, Some(0)),
            "{path}: {seen}"
        );
    }
    for path in ["/v1/usage/records?org=shop", "/v1/usage/daily?org=shop&from=2027-05-01&to=2027-06-01"] {
        assert_eq!(flow.daemon.get(path, &other).await.0, 404, "{path}");
    }
    let mut foreign = call(9, "deepseek");
    foreign["org"] = json!("shop");
    assert_eq!(flow.daemon.usage(&other, &foreign).await, ["org unknown_org"]);
    let (status, _) = answer(flow.daemon.request(Method::GET, &format!("/v1/orgs/{shop}"), &other)).await;
    assert_eq!(status, 404);
    // The month turns in Jakarta, at 17:00 UTC.
    flow.clock.turn("2027-05-31T16:59:59Z");
    assert_eq!(flow.daemon.usage(&key, &call(20, "openai")).await, ["data quota_exceeded"]);
    flow.clock.turn("2027-05-31T17:00:00Z");
    assert_eq!(flow.daemon.usage(&key, &call(20, "openai")).await, ["accepted"]);
    assert_eq!(flow.database.unbalanced(), [] as [String; 0]);
}
