//! Quotas: their limits, and which orgs and subjects they apply to. `quota/` has their periods, their
//! reservations, what they refuse, and their history.

mod admission;
mod history;
mod periods;
mod reservations;
mod window_race;
mod windows;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::requests::{
    check, exempt, limit, meter, plan, plan_limits, quota, reserve, settle, usage,
};
use crate::support::world::{Setup, time};

/// A platform with the meters `tokens` (sum, by `model`), `calls` (count) and `peak` (max) over the events
/// `llm`, and the org `acme`.
pub(crate) fn platform() -> Setup {
    World::new()
        .org("acme")
        .with(meter("tokens").event_name("llm").value_field("tokens").dimensions(["model"]))
        .with(meter("calls").event_name("llm").aggregation("count"))
        .with(meter("peak").event_name("llm").value_field("peak").aggregation("max"))
}

impl World {
    /// Makes a quota, which must succeed; returns its id.
    pub(crate) async fn makes_quota(&self, quota: crate::support::requests::Request) -> String {
        self.send(quota).await.status(201).id()
    }

    /// Reserves this amount and settles all of it.
    async fn settles_all_of(&self, amount: i64) {
        let id = self.reserved(reserve(amount)).await;
        self.send(settle(&id)).await.status(200);
    }
}

/// `limit used reserved remaining` of a refusal. Its `resets_at` must be in the future.
fn exceeded(refused: Answer) -> String {
    let refused = refused.refused(409, "quota_exceeded");
    assert!(time(&refused.text("resets_at")) > chrono::Utc::now());
    ["limit", "used", "reserved", "remaining"].map(|name| refused.text(name)).join(" ")
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let world = World::new().org("acme").meter("tokens").quota(100).start().await;
    world.used(usage("acme", "tokens").quantity(60)).await;
    world.send(reserve(41)).await.refused(409, "quota_exceeded");
    assert_eq!(world.check(check()).await.at("quotas.0.remaining"), "40");
    world.send(reserve(40)).await.status(201);
    assert_eq!(world.counters(), "60/40");
    world.is_sound();
}

#[tokio::test]
async fn limits_are_told_from_none_and_from_nothing() {
    let world = platform().start().await;
    // There is no limit.
    let verdict = world.check(check().amount(1e14)).await;
    assert_eq!(verdict.pick(["allowed", "quotas"]), json!([true, []]));
    let path = format!("/v1/quotas/{}", world.makes_quota(quota(0)).await);
    assert_eq!(world.check(check()).await["allowed"], false);
    world.send(reserve("0.000000000001")).await.status(409);
    let changed = world.patch(&path, json!({ "limit": null })).await.status(200);
    assert_eq!(changed["limit"], Value::Null);
    let verdict = world.check(check()).await;
    assert_eq!(verdict.pick(["allowed", "quotas.0.remaining"]), json!([true, null]));
    // Fields that the request leaves out stay.
    let changed = world.patch(&path, json!({ "enforcement": "soft" })).await;
    assert_eq!(changed.pick(["limit", "enforcement"]), json!([null, "soft"]));
    world.patch(&path, json!({ "limit": "5" })).await.ok();
    // A soft limit allows more.
    world.send(reserve(6)).await.status(201);
    let verdict = world.check(check()).await;
    assert_eq!(verdict.pick(["allowed", "quotas.0.remaining"]), json!([true, "0"]));
    world.delete(&path).await.status(204);
    world.get(&path).await.status(404);
    let actions =
        "SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log WHERE action LIKE 'quota%'";
    let audited = "quota.create quota.update quota.update quota.update quota.delete";
    assert_eq!(world.value(actions).as_deref(), Some(audited));
}

#[tokio::test]
async fn a_change_of_plan_changes_the_limit_and_not_the_count() {
    use crate::support::objects::{customer, subscription};
    let world = platform().start().await;
    for (id, most) in [("free", json!(10)), ("pro", json!(100)), ("max", Value::Null)] {
        world.send(plan(id).prices([&format!("price_{id}")])).await.status(200);
        world.send(plan_limits(id, [limit(most).period("month")])).await.status(200);
    }
    world.tell([customer("cus_1").org("acme").created_event()]).await;
    let on = async |second: i64, plan: &str| {
        let bought = subscription("sub_1").price(&format!("price_{plan}"));
        let event = bought.happened("customer.subscription.updated").at(second).id(&format!("evt_{plan}"));
        world.tell([event]).await;
    };
    let stands = async || {
        world.settles().await;
        let verdict = world.check(check()).await;
        verdict.pick(["quotas.0.plan", "quotas.0.limit", "quotas.0.used"])
    };
    // Without a plan there is no limit, but usage is counted.
    world.settles_all_of(7).await;
    assert_eq!(stands().await, json!([null, null, null]));
    on(1, "free").await;
    assert_eq!(stands().await, json!(["free", "10", "7"]));
    world.send(reserve(4)).await.status(409);
    on(2, "pro").await;
    assert_eq!(stands().await, json!(["pro", "100", "7"]));
    on(3, "max").await;
    assert_eq!(stands().await, json!(["max", null, "7"]));
    // The org's own quota replaces its plan's, on the same counter.
    let own = world.makes_quota(quota(8).period("month")).await;
    assert_eq!(stands().await, json!([null, "8", "7"]));
    world.delete(&format!("/v1/quotas/{own}")).await.ok();
    assert_eq!(stands().await, json!(["max", null, "7"]));
}

#[tokio::test]
async fn subjects_have_their_own_limit_and_some_have_none() {
    let world = platform().with(quota(10).per_subject()).with(quota(25)).start().await;
    let takes = |amount: i64, subject: &str| world.send(reserve(amount).subject(subject));
    for subject in ["u1", "u2"] {
        takes(10, subject).await.status(201);
        assert_eq!(takes(1, subject).await.status(409)["subject"], subject);
    }
    assert_eq!(exceeded(takes(6, "u3").await), "25 0 20 5", "the org's limit counts too");
    let of_subjects = world.send(exempt("u1").with("per_subject", true)).await.status(201).id();
    world.send(exempt("u1").with("per_subject", true)).await.refused(409, "already_exempt");
    takes(5, "u1").await.status(201);
    // The org's limit still applies.
    takes(1, "u1").await.status(409);
    let of_the_org = world.send(exempt("u1").with("per_subject", false)).await.id();
    let verdict = world.check(check().subject("u1").amount(90)).await;
    assert_eq!(verdict.pick(["allowed", "quotas.0.exempt"]), json!([true, true]));
    takes(90, "u1").await.status(201);
    assert_eq!(world.counters(), "0/105 0/10 0/0 0/115", "the usage is still counted");
    for id in [of_subjects, of_the_org] {
        world.delete(&format!("/v1/quota_exemptions/{id}")).await.status(204);
    }
    takes(1, "u1").await.status(409);
    assert_eq!(world.get("/v1/quota_exemptions").await["data"], json!([]));
}

#[tokio::test]
async fn an_org_asks_for_itself_only() {
    let world = platform().org("other").start().await;
    let id = world.makes_quota(quota(100).with("thresholds", json!([1]))).await;
    let (own, foreign) = (world.key_of("acme"), world.key_of("other"));
    let (own, foreign) = (world.by(&own), world.by(&foreign));
    let mine = reserve(10).without("org").id("mine");
    let acme = world.get("/v1/orgs/acme").await.id();
    assert_eq!(own.send(mine.clone()).await.status(201)["org"], acme);
    // The same id in another org is another reservation.
    foreign.send(settle("mine")).await.status(404);
    foreign.send(mine).await.status(201);
    let release = "/v1/quota/mine/release";
    assert_eq!(world.post(release, json!({})).await["field"], "org");
    world.send(settle("mine").org("acme")).await.status(200);
    assert_eq!(foreign.post(release, json!({})).await["state"], "released");
    foreign.send(check().org(&acme)).await.status(404);
    for (path, rows) in [("/v1/quotas", 1), ("/v1/quota_exemptions", 0), ("/v1/messages", 1)] {
        assert_eq!(foreign.get(path).await.rows().len(), 0, "{path}");
        assert_eq!(own.get(path).await.rows().len(), rows, "{path}");
    }
    for path in [format!("/v1/quotas/{id}"), format!("/v1/quotas/{id}/history")] {
        own.get(&path).await.status(200);
        foreign.get(&path).await.status(404);
    }
    foreign.get(&format!("/v1/quotas?org={acme}")).await.status(404);
}

#[tokio::test]
async fn a_key_needs_the_scope_of_what_it_asks() {
    let world = platform().start().await;
    let own = world.database.key("usage:read,usage:write", Some("acme"));
    world.by(&own).send(quota(1).meter("calls")).await.status(403);
    let writer = world.database.key("usage:write", None);
    world.by(&writer).send(check()).await.status(403);
    world.by(&writer).send(quota(1).meter("calls")).await.status(403);
}

#[tokio::test]
async fn what_is_wrong_names_its_field() {
    let world = platform().start().await;
    let settle = settle("res_1");
    for (request, field) in [
        (quota(5).meter("peak"), "meter"),
        (quota(5).meter("none"), "meter"),
        (quota(5).only("colour", "red"), "filter.colour"),
        (quota(-1), "limit"),
        (quota(5).with("enforcement", "soft").with("refuse_usage", true), "refuse_usage"),
        (quota(5).with("thresholds", json!([0])), "thresholds"),
        (quota("unlimited"), "limit"),
        (quota(5).without("limit"), "limit"),
        (reserve(0), "amount"),
        (reserve(-1), "amount"),
        (reserve(0.5).meter("calls"), "amount"),
        (reserve(5).meter("peak"), "meter"),
        (reserve(5).with("expires_in_s", 0), "expires_in_s"),
        (reserve(5).with("expires_in_s", i64::MAX), "expires_in_s"),
        (reserve(5).with("expires_at", "2020-01-01T00:00:00Z"), "expires_at"),
        (reserve(5).id("a/b"), "id"),
        (reserve(5).subject("a\u{0}"), "subject"),
        (reserve(5).org("a\u{0}"), "org"),
        (settle.clone().org("a\u{0}"), "org"),
        (settle.clone().amount(-1), "amount"),
        (settle.with("event", 5), "event"),
        (check().meter("none"), "items.0.meter"),
    ] {
        world.send(request).await.names(400, field);
    }
    world.post("/v1/quota/check", json!({ "items": [] })).await.names(400, "items");
    world
        .post("/v1/quota/check", json!({ "items": [{ "meter": "tokens" }] }))
        .await
        .names(400, "items.0.org");
    world.send(check().org("nobody")).await.names(404, "items.0.org");
}

#[tokio::test]
async fn a_counter_has_one_quota() {
    let world = platform().with(quota(1)).with(plan("pro")).start().await;
    world.send(quota(5).meter("peak")).await.names(400, "meter");
    world.send(quota(5)).await.refused(409, "quota_exists");
    world.send(plan_limits("pro", [limit(1), limit(2)])).await.names(400, "quotas.1");
    world.send(plan_limits("none", [limit(1), limit(2)])).await.status(404);
}
