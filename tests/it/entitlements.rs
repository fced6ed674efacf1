//! All entitlements of an org in one answer.

use expect_test::expect;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::daemon::answer;
use crate::support::requests::{Request, limit, meter, org, plan, quota, reserve, subscribe, usage};

const PATH: &str = "/v1/orgs/acme/entitlements";

/// Status, entity tag and body.
async fn ask(world: &World, tag: Option<&str>) -> (StatusCode, String, String) {
    let request = world.daemon().request(Method::GET, PATH, &world.key);
    let request = tag.into_iter().fold(request, |request, tag| request.header("If-None-Match", tag));
    let response = request.send().await.expect("an answer");
    let tag = response.headers().get("ETag").map_or("", |tag| tag.to_str().expect("text")).to_owned();
    (response.status(), tag, response.text().await.expect("a body"))
}

/// A plan with a trial, and limits of every kind.
fn pro() -> Request {
    plan("pro")
        .name("Pro")
        .with("trial_days", 14)
        .with("features", json!({ "sso": true, "seats": 5 }))
        .limits([
            limit(100).meter("work").period("month").with("enforcement", "soft"),
            limit(Value::Null).meter("work").period("billing"),
            limit(3).meter("sent").per_subject(),
        ])
}

/// An org in Berlin on trial, with its own quota and some usage: of `work`, 30 are used and 5 reserved.
async fn on_trial() -> World {
    let noon = "2026-03-10T12:00:00Z";
    let world = World::new()
        .at(noon)
        .with(org("acme").zone("Europe/Berlin"))
        .with(meter("work").dimensions(["model"]))
        .with(meter("sent").aggregation("count"))
        .with(pro())
        .with(quota("50").meter("work").only("model", "a"))
        .with(subscribe("acme", "pro"))
        .start()
        .await;
    // The daemon's memory hears of the org's new billing period within a moment.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let work = usage("acme", "work").quantity(30).dimension("model", "a").at(noon);
    let sent = usage("acme", "sent").subject("s1").at(noon);
    assert_eq!(world.usage([work, sent]).await, ["accepted", "accepted"]);
    world.send(reserve(5).meter("work").dimension("model", "a")).await.ok();
    world
}

#[tokio::test]
async fn an_org_without_a_plan_is_entitled_to_nothing() {
    let world = World::new().org("acme").start().await;
    world.get(PATH).await.status(200).shows(expect![[r#"
        {
          "battery": {
            "available": "0", "balance": "0", "daily_allowance": "0", "debt_limit": null,
            "reserved": "0"
          },
          "features": {}, "org": "org_…", "paying": [], "plan": null, "plan_until": null,
          "quotas": [], "subscription": null
        }"#]]);
}

#[tokio::test]
async fn one_answer_says_all_and_only_news_are_sent() {
    let world = on_trial().await;
    world.get(PATH).await.status(200).shows(expect![[r#"
        {
          "battery": {
            "available": "0", "balance": "0", "daily_allowance": "0", "debt_limit": null,
            "reserved": "0"
          },
          "features": { "seats": 5, "sso": true }, "org": "org_…", "paying": [],
          "plan": { "default": false, "id": "pro", "name": "Pro", "version": 1 },
          "plan_until": "2026-03-24T12:00:00Z",
          "quotas": [
            {
              "enforcement": "hard", "filter": {}, "limit": "3", "meter": "sent",
              "per_subject": true, "period": "day", "quota": null, "remaining": null,
              "reserved": null, "resets_at": "2026-03-10T23:00:00Z", "used": null
            },
            {
              "enforcement": "soft", "filter": {}, "limit": "100", "meter": "work",
              "per_subject": false, "period": "month", "quota": null, "remaining": "65",
              "reserved": "5", "resets_at": "2026-03-31T22:00:00Z", "used": "30"
            },
            {
              "enforcement": "hard", "filter": {}, "limit": null, "meter": "work",
              "per_subject": false, "period": "billing", "quota": null, "remaining": null,
              "reserved": "5", "resets_at": "2026-03-24T12:00:00Z", "used": "30"
            },
            {
              "enforcement": "hard", "filter": { "model": "a" }, "limit": "50", "meter": "work",
              "per_subject": false, "period": "day", "quota": "quo_…", "remaining": "15",
              "reserved": "5", "resets_at": "2026-03-10T23:00:00Z", "used": "30"
            }
          ],
          "subscription": {
            "cancel_at": null, "cancel_at_period_end": false,
            "current_period_end": "2026-03-24T12:00:00Z",
            "current_period_start": "2026-03-10T12:00:00Z", "id": "lsub_…",
            "pause_collection": null, "source": "local", "status": "trial",
            "trial_end": "2026-03-24T12:00:00Z"
          }
        }"#]]);
    let own = world.get("/v1/quotas?org=acme").await;
    assert_eq!(world.get(PATH).await.at("quotas.3.quota"), own.at("data.0.id"));
    // An unchanged answer is not sent twice; a changed one is.
    let (_, tag, _) = ask(&world, None).await;
    let (status, same, text) = ask(&world, Some(&format!("\"old\", {tag}"))).await;
    assert_eq!((status.as_u16(), same.as_str(), text.as_str()), (304, tag.as_str(), ""));
    assert_eq!(ask(&world, Some("\"old\"")).await.0, 200);
    // An expired reservation no longer counts.
    world.turn("2026-03-10T12:06:00Z");
    let (status, later, text) = ask(&world, Some(&tag)).await;
    assert!(status == 200 && later != tag && text.contains(r#""reserved":"0""#), "{text}");
    // The answer includes the last acknowledged event.
    world.used(usage("acme", "work").dimension("model", "b").at("2026-03-10T12:00:00Z")).await;
    let (status, _, text) = ask(&world, Some(&later)).await;
    assert!(status == 200 && text.contains(r#""used":"31""#), "{text}");
}

#[tokio::test]
async fn terms_stay_as_bought_until_the_trial_is_over() {
    let world = on_trial().await;
    // A new version changes nothing for an org on the first; the plan's new name does.
    let other = pro().name("Pro 2").with("features", json!({})).limits([]);
    world.send(other).await.status(200);
    let all = world.get(PATH).await;
    let renamed = json!({ "id": "pro", "name": "Pro 2", "version": 1, "default": false });
    assert_eq!(all.pick(["plan", "features.sso"]), json!([renamed, true]));
    assert_eq!(all.list("quotas").len(), 4);
    // The trial is over: the plan's limits end at once, the org's own limit stays.
    world.turn("2026-03-24T12:00:00Z");
    let all = world.get(PATH).await;
    assert_eq!(all.pick(["plan", "subscription.status"]), json!([null, "expired"]));
    assert_eq!(all.list("quotas").len(), 1, "{all}");
}

#[tokio::test]
async fn an_org_asks_for_itself() {
    let world = World::new().org("acme").org("beta").start().await;
    let [acme, beta] = [world.get("/v1/orgs/acme").await.id(), world.get("/v1/orgs/beta").await.id()];
    let [own, billing] = [("usage:read", Some("acme")), ("billing:read", None)]
        .map(|(scope, org)| world.database.key(scope, org));
    let of = |name: &str| format!("/v1/orgs/{name}/entitlements");
    for name in [acme.as_str(), "acme"] {
        assert_eq!(world.by(&own).get(&of(name)).await.status(200)["org"], acme);
    }
    for name in [beta.as_str(), "beta", "nobody", "%00"] {
        world.by(&own).get(&of(name)).await.status(404);
    }
    for name in ["nobody", "%00"] {
        world.get(&of(name)).await.status(404);
    }
    world.by(&billing).get(PATH).await.status(403);
    let daemon = world.daemon();
    assert_eq!(answer(daemon.http.get(format!("{}{PATH}", daemon.base))).await.0, 401);
}
