//! An acknowledged change counts from its answer on, on the daemon that acknowledged it.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{customer, subscription};
use crate::support::requests::{
    Request, limit, plan, plan_limits, quota, reserve, subscribe, subscription_command,
};
use crate::support::world::Setup;

/// An org `acme`, and two plans: the limit of `small` refuses five tokens, `large` has none.
fn platform() -> Setup {
    let sold = |id: &str, most: Value| plan(id).prices([&format!("price_{id}")]).limits([limit(most)]);
    World::new().org("acme").meter("tokens").with(sold("small", json!(1))).with(sold("large", Value::Null))
}

/// Whether five tokens can be reserved now.
async fn reserves(world: &World, org: &str) -> bool {
    let answer = world.send(reserve(5).org(org)).await;
    assert!(matches!(answer.status, 201 | 409), "{answer}");
    answer.status == 201
}

fn command(command: &str, body: Value) -> Request {
    subscription_command("acme", command, body)
}

/// Answers that still used the state before an acknowledged change.
struct Late(Vec<String>);

impl Late {
    fn expects(&mut self, is_so: bool, what: impl Into<String>) {
        if !is_so {
            self.0.push(what.into());
        }
    }

    fn none(self) {
        assert_eq!(self.0, [""; 0], "these answers used the state before the change");
    }
}

#[tokio::test]
async fn a_change_of_plan_counts_from_its_answer_on() {
    let world = platform().with(subscribe("acme", "small").with("paid", true)).start().await;
    let mut late = Late(Vec::new());
    for n in 0..50 {
        let (plan, fits) = if n % 2 == 0 { ("large", true) } else { ("small", false) };
        world.send(command("change", json!({ "plan": plan }))).await.ok();
        late.expects(reserves(&world, "acme").await == fits, format!("{n}: change to {plan}"));
    }
    world.send(command("change", json!({ "plan": "small" }))).await.ok();
    for n in 0..10 {
        world.send(command("cancel", json!({ "at_period_end": false }))).await.ok();
        // Without a plan there is no limit.
        late.expects(reserves(&world, "acme").await, format!("{n}: cancel"));
        world.send(command("activate", json!({}))).await.ok();
        late.expects(!reserves(&world, "acme").await, format!("{n}: activate"));
    }
    late.none();
}

/// A plan whose second version has no limit, and `acme` on the first.
async fn two_versions() -> World {
    let world = platform().with(subscribe("acme", "small").with("paid", true)).start().await;
    world.send(plan("small").limits([limit(Value::Null)])).await.ok();
    world
}

fn move_all(from: i64, to: i64) -> Request {
    let body = json!({ "from": from, "to": to });
    crate::support::requests::request(reqwest::Method::POST, "/v1/plans/small/move", body)
}

#[tokio::test]
async fn a_move_to_another_version_counts_from_its_answer_on() {
    let world = two_versions().await;
    let own = world.get("/v1/orgs/acme/subscription").await.id();
    let mut late = Late(Vec::new());
    for n in 0..10 {
        world.post(&format!("/v1/subscriptions/{own}/move"), json!({ "version": 2 })).await.ok();
        late.expects(reserves(&world, "acme").await, format!("{n}: one to 2"));
        world.send(move_all(2, 1)).await.ok();
        late.expects(!reserves(&world, "acme").await, format!("{n}: all to 1"));
    }
    late.none();
}

/// Changes of quotas of a plan version and of an org hold the catalogue's lock; they must be as quick.
#[tokio::test]
async fn a_quota_counts_from_its_answer_on() {
    let world = two_versions().await;
    let mut late = Late(Vec::new());
    for n in 0..5 {
        world.send(move_all(1, 2)).await.ok();
        for (most, fits) in [(json!(1), false), (Value::Null, true)] {
            world.send(plan_limits("small", [limit(most)])).await.ok();
            late.expects(reserves(&world, "acme").await == fits, format!("{n}: quotas of the plan"));
        }
        let quota = world.send(quota(0)).await.ok().id();
        late.expects(!reserves(&world, "acme").await, format!("{n}: quota of the org"));
        world.delete(&format!("/v1/quotas/{quota}")).await.ok();
        late.expects(reserves(&world, "acme").await, format!("{n}: no quota of the org"));
        world.send(move_all(2, 1)).await.ok();
    }
    late.none();
}

#[tokio::test]
async fn a_link_and_a_zone_count_from_their_answer_on() {
    let world = platform().org("other").start().await;
    let bought = subscription("sub_1").price("price_small").created_event().at(10);
    world.tell([customer("cus_1").created_event().at(1), bought]).await;
    let mut late = Late(Vec::new());
    for n in 0..10 {
        let (to, from) = if n % 2 == 0 { ("other", "acme") } else { ("acme", "other") };
        world.put(&format!("/v1/orgs/{to}/stripe_customers/cus_1"), json!({})).await.ok();
        let (gets, loses) = (reserves(&world, to).await, reserves(&world, from).await);
        late.expects(!gets && loses, format!("{n}: link"));
    }
    let resets = async || world.get("/v1/orgs/acme/entitlements").await.at("quotas.0.resets_at").clone();
    for n in 0..10 {
        let before = resets().await;
        let zone = if n % 2 == 0 { "Asia/Tokyo" } else { "UTC" };
        world.patch("/v1/orgs/acme", json!({ "time_zone": zone })).await.ok();
        late.expects(resets().await != before, format!("{n}: zone {before}"));
    }
    late.none();
}
