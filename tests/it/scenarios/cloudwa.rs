//! A tenant with two AI providers, one limited and one unlimited: the limited one stops at its limit, the
//! other continues. One tenant can never read another.

use serde_json::{Value, json};

use super::product;
use crate::support::World;
use crate::support::requests::{Request, Usage, check, limit, meter, org, plan, usage};

/// AI calls are counted by provider and model. The tenants `shop` and `rival` are in Jakarta; `shop` has 5
/// calls a month to `openai`, and any number to `deepseek`.
async fn cloud() -> World {
    let of = |provider: &str, most: Value| {
        let limit = limit(most.clone()).meter("ai_calls").period("month").only("provider", provider);
        limit.with("refuse_usage", !most.is_null())
    };
    let calls = meter("ai_calls").event_name("ai.call").aggregation("count");
    // The product stored "unlimited" as 0; here it is a limit of null.
    let business = plan("business").limits([of("openai", json!("5")), of("deepseek", Value::Null)]);
    let world = product("2027-05-05T10:00:00Z")
        .with(org("shop").zone("Asia/Jakarta"))
        .with(org("rival").zone("Asia/Jakarta"))
        .with(calls.dimensions(["provider", "model"]))
        .with(business)
        .start()
        .await;
    world.puts_on_plan("shop", "business").await;
    world
}

/// A call. The key that reports it names the org.
fn call(n: usize, provider: &str) -> Usage {
    let call = usage("", "ai.call").id(&format!("{provider}-{n}")).without("org").without("source");
    call.data(json!({ "provider": provider, "model": "m" }))
}

fn check_calls(provider: &str) -> Request {
    check().meter("ai_calls").dimension("provider", provider)
}

fn key_of(world: &World, org: &str) -> String {
    world.database.key("usage:write,usage:read,billing:read", Some(org))
}

#[tokio::test]
async fn a_limited_provider_stops_and_an_unlimited_one_goes_on() {
    let world = cloud().await;
    let key = key_of(&world, "shop");
    let shop = world.by(&key);
    let calls: Vec<Usage> = (0..8).flat_map(|n| [call(n, "openai"), call(n, "deepseek")]).collect();
    let told = shop.usage(calls).await;
    let of = |provider: usize| told.iter().skip(provider).step_by(2).map(String::as_str).collect::<Vec<_>>();
    // Only the excess is refused, in the order of arrival.
    assert_eq!(of(0), [vec!["accepted"; 5], vec!["data quota_exceeded"; 3]].concat());
    assert_eq!(of(1), vec!["accepted"; 8]);
    // A refused call has no key and is refused again; an accepted one is a duplicate.
    let again = [call(7, "openai"), call(0, "openai")];
    assert_eq!(shop.usage(again).await, ["data quota_exceeded", "duplicate"]);
    let [limited, unlimited] =
        [check_calls("openai"), check_calls("deepseek")].map(|check| shop.check(check.org("shop")));
    assert_eq!(limited.await["allowed"], false);
    assert_eq!(unlimited.await.pick(["allowed", "quotas.0.limit"]), json!([true, null]));
    // The month ends in Jakarta, at 17:00 UTC.
    world.turn("2027-05-31T16:59:59Z");
    assert_eq!(shop.uses(call(20, "openai")).await, "data quota_exceeded");
    world.turn("2027-05-31T17:00:00Z");
    assert_eq!(shop.uses(call(20, "openai")).await, "accepted");
    world.balances();
}

#[tokio::test]
async fn a_tenant_sees_and_moves_nothing_of_another() {
    let world = cloud().await;
    let [key, other] = ["shop", "rival"].map(|org| key_of(&world, org));
    assert_eq!(world.by(&key).uses(call(0, "deepseek")).await, "accepted");
    let rival = world.by(&other);
    rival.get("/v1/orgs/shop/entitlements").await.status(404);
    for path in [
        "/v1/usage/records",
        "/v1/quotas",
        "/v1/battery/entries",
        "/v1/usage/daily?from=2027-05-01&to=2027-06-01",
    ] {
        assert_eq!(rival.get(path).await.status(200).rows().len(), 0, "{path}");
    }
    for path in ["/v1/usage/records?org=shop", "/v1/usage/daily?org=shop&from=2027-05-01&to=2027-06-01"] {
        rival.get(path).await.status(404);
    }
    assert_eq!(rival.uses(call(9, "deepseek").org("shop")).await, "org unknown_org");
    let shop = world.get("/v1/orgs/shop").await.id();
    rival.get(&format!("/v1/orgs/{shop}")).await.status(404);
    world.balances();
}
