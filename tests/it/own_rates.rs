//! Rate cards of orgs and plans, and tiers by billing period. All values were computed by hand.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{customer, subscription};
use crate::support::requests::{
    Request, amend, close, debt_limit, meter, plan, rate_card, reserve, subscribe, subscription_command,
    usage, void,
};
use crate::support::world::Setup;

const SCOPES: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

/// The meter `tokens` and the plans `free` (the default), `basic` and `pro`, which the prices `price_basic`
/// and `price_pro` buy. It is 1 October.
fn platform() -> Setup {
    let sold = |id: &str| plan(id).prices([&format!("price_{id}")]).with("rank", 1);
    World::new()
        .at("2026-10-01T00:00:00Z")
        .scopes(SCOPES)
        .with(meter("tokens").dimensions(["model"]))
        .with(sold("free").with("default", true).with("rank", 0))
        .with(sold("basic"))
        .with(sold("pro"))
}

/// A card of `tokens` from a day on.
fn card(since: &str, rates: Value) -> Request {
    rate_card("tokens", rates).since(format!("2026-{since}T00:00:00Z"))
}

/// Steps of a case, in order.
enum Step {
    /// Usage: id, org, model, time, quantity, and the expected cost.
    Use(&'static str, &'static str, &'static str, &'static str, &'static str, &'static str),
    /// Voids the event of this org and id.
    Void(&'static str, &'static str),
    /// Amends the event to this quantity.
    Amend(&'static str, &'static str, &'static str),
    /// Closes the month for the org.
    Close(&'static str, &'static str),
    /// The cost of all months of the org so far.
    Costs(&'static str, &'static str),
}
use Step::{Amend, Close, Costs, Use, Void};

/// Stripe sends at `at` that the org's subscription has this price in this period.
async fn told(world: &World, org: &str, at: &str, price: &str, (start, end): (&str, &str)) {
    world.turn(at);
    let (cus, sub) = (format!("cus_{org}"), format!("sub_{org}"));
    let bought =
        subscription(&sub).customer(&cus).price(price).started("2026-10-15T00:00:00Z").period(start, end);
    let bought = bought.happened("customer.subscription.updated").id(&format!("evt_{sub}_{at}"));
    world.tell([customer(&cus).org(org).created_event(), bought.at(at)]).await;
    world.settles().await;
}

async fn costs(world: &World, org: &str) -> String {
    let path = format!("/v1/usage/daily?org={org}&from=2026-10-01&to=2027-02-01&group_by=meter");
    let page = world.get(&path).await.status(200);
    page.at("data.0.cost").as_str().unwrap_or("0").to_owned()
}

fn cost_of(world: &World, org: &str, id: &str) -> String {
    let sql = format!(
        "SELECT trim_scale(sum(r.cost)) FROM usage_records r JOIN orgs o USING (org_id)
         WHERE o.external_id = '{org}' AND r.event_id = '{id}'"
    );
    world.value(&sql).unwrap_or_default()
}

async fn run(world: &World, steps: &[Step]) {
    for step in steps {
        match step {
            Use(id, org, model, at, n, cost) => {
                let time = format!("2026-{at}:00:00Z");
                let used = usage(org, "tokens").id(id).at(&*time).quantity(*n).dimension("model", *model);
                world.used(used).await;
                assert_eq!(cost_of(world, org, id), *cost, "{id}: {n} of {model} by {org} on {at}");
            }
            Void(org, id) => drop(world.send(void(id).org(org)).await.status(200)),
            Amend(org, id, n) => {
                let by = usage(org, "tokens").quantity(*n).dimension("model", "small");
                world.send(amend(id, by).org(org)).await.status(200);
            }
            Close(org, month) => drop(world.send(close(month).org(org)).await.status(200)),
            Costs(org, cost) => assert_eq!(costs(world, org).await, *cost, "{org} in all"),
        }
    }
}

/// A rebuild gives the same counters.
fn is_rebuilt_alike(world: &World) {
    let all = "SELECT string_agg(concat_ws(' ', org_id, rate_card_id, rate, period, began,
        trim_scale(quantity)), '; ' ORDER BY org_id, rate_card_id, rate, period, began)
        FROM rating_counters";
    let before = world.value(all);
    assert!(before.is_some());
    world.execute("UPDATE rating_counters SET quantity = quantity + 1");
    world.run(&["rebuild", "summaries"]);
    assert_eq!(world.value(all), before);
    world.is_sound();
}

/// The first 100 are free, then each costs `price`.
fn allowance(price: &str) -> Value {
    json!([{ "tiers": { "mode": "graduated", "tiers": [
        { "up_to": "100", "unit_cost": "0" }, { "unit_cost": price } ] } }])
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_priced_by_the_orgs_card_then_its_plans_then_the_meters() {
    let large = |price: &str| json!([{ "when": { "model": "large" }, "unit_cost": price }]);
    let world = platform()
        .org("acme")
        .org("own")
        .org("none")
        .org("local")
        .with(card("09-01", json!([{ "unit_cost": "0.01" }])))
        .with(card("09-01", large("0.009")).with("plan", "basic"))
        .with(card("09-01", large("0.008")).with("plan", "pro"))
        .with(card("09-01", large("0.02")).with("plan", "free"))
        .with(card("09-01", large("0.005")).org("own"))
        .with(card("11-10", json!([])).org("own"))
        .start()
        .await;
    // A local subscription: basic from 1 October, pro from 1 November.
    world.turn("2026-10-01T06:00:00Z");
    world.send(subscribe("local", "basic").with("paid", true)).await.status(201);
    world.send(subscription_command("local", "activate", json!({}))).await.status(200);
    world.turn("2026-11-01T06:00:00Z");
    world.send(subscription_command("local", "change", json!({ "plan": "pro" }))).await.status(200);
    // Basic from 15 October; pro from 5 November, within the period.
    let first = ("2026-10-15T00:00:00Z", "2026-11-15T00:00:00Z");
    told(&world, "acme", "2026-10-15T00:00:00Z", "price_basic", first).await;
    told(&world, "acme", "2026-11-05T09:00:00Z", "price_pro", first).await;
    let second = ("2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z");
    told(&world, "acme", "2026-11-15T00:00:00Z", "price_pro", second).await;
    world.turn("2026-11-20T12:00:00Z");
    run(
        &world,
        &[
            // It has no plan of its own yet: the default plan.
            Use("a", "acme", "large", "10-14T12", "100", "2"),
            Use("b", "acme", "large", "10-15T12", "100", "0.9"),
            // The plan's card has no rate for it, so the meter's card prices it.
            Use("c", "acme", "small", "10-15T12", "100", "1"),
            Use("d", "acme", "large", "11-05T08", "100", "0.9"),
            Use("e", "acme", "large", "11-05T09", "100", "0.8"),
            Use("f", "acme", "large", "11-20T11", "100", "0.8"),
            Use("g", "own", "large", "10-20T12", "100", "0.5"),
            Use("h", "own", "small", "10-20T12", "100", "1"),
            // The org's own prices have ended: the default plan's prices.
            Use("i", "own", "large", "11-11T12", "100", "2"),
            Use("j", "none", "large", "11-11T12", "100", "2"),
            Use("k", "none", "small", "11-11T12", "100", "1"),
            Use("l", "local", "large", "10-01T05", "100", "2"),
            Use("m", "local", "large", "11-01T05", "100", "0.9"),
            Use("n", "local", "large", "11-01T06", "100", "0.8"),
            Costs("acme", "6.4"),
            // A void gives back the cost by the card that priced the event.
            Void("acme", "d"),
            Amend("acme", "c", "50"),
            Costs("acme", "5"),
        ],
    )
    .await;
    world.is_sound();
}

#[tokio::test]
async fn an_org_reads_its_own_cards_and_those_that_are_no_orgs() {
    let rates = json!([{ "unit_cost": "0.01" }]);
    let world = platform()
        .org("acme")
        .org("own")
        .with(card("09-01", rates.clone()))
        .with(card("09-01", rates.clone()).with("plan", "basic"))
        .with(card("09-01", rates.clone()).with("plan", "pro"))
        .with(card("09-01", rates.clone()).with("plan", "free"))
        .with(card("11-10", json!([])).org("own"))
        .start()
        .await;
    let made = world.send(card("09-01", rates).org("own")).await.status(201);
    assert_eq!((&made["plan"], made["org"].is_string()), (&Value::Null, true));
    let [all, acme] = [None, Some("acme")].map(|org| world.database.key("usage:read", org));
    let path = "/v1/meters/tokens/rate_cards?limit=100";
    assert_eq!(world.by(&all).get(path).await.status(200).rows().len(), 6);
    assert_eq!(world.by(&acme).get(path).await.status(200).rows().len(), 4);
    for (query, cards) in [("plan=pro", 1), ("org=own", 2), ("org=acme", 0)] {
        let page = world.get(&format!("/v1/meters/tokens/rate_cards?{query}")).await.status(200);
        assert_eq!(page.rows().len(), cards, "{query}");
    }
}

#[tokio::test]
async fn cards_of_nobody_are_refused() {
    let world = platform().org("acme").start().await;
    let card = || rate_card("tokens", json!([{ "unit_cost": "1" }]));
    for (status, card, field) in [
        (400, card().with("plan", "prro"), "plan"),
        (404, card().org("nobody"), "org"),
        (400, card().org("acme").with("plan", "pro"), "plan"),
        (400, card().period("weekly"), "period"),
    ] {
        world.send(card).await.names(status, field);
    }
    for query in ["plan=prro", "org=nobody"] {
        let told = world.get(&format!("/v1/meters/tokens/rate_cards?{query}")).await;
        assert!((400..500).contains(&told.status), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_are_counted_by_the_billing_period_where_the_card_says_so() {
    let by_period = card("09-01", allowance("1")).period("billing");
    let world = platform().org("acme").org("loose").with(by_period).start().await;
    let periods =
        [("2026-10-15T00:00:00Z", "2026-11-15T00:00:00Z"), ("2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z")];
    for period in periods {
        told(&world, "acme", period.0, "price_pro", period).await;
    }
    world.turn("2026-11-20T12:00:00Z");
    run(
        &world,
        &[
            // One period over two months: 60 + 60, of which 100 are free.
            Use("a", "acme", "small", "10-20T12", "60", "0"),
            Use("b", "acme", "small", "11-02T12", "60", "20"),
            // The next period begins at zero, in the same month.
            Use("c", "acme", "small", "11-15T00", "90", "0"),
            Use("d", "acme", "small", "11-16T12", "30", "20"),
            // Late usage counts in its own period: 120 + 5.
            Use("e", "acme", "small", "11-14T23", "5", "5"),
            Costs("acme", "45"),
            // Without a billing period the local month counts: before the period, and for an org without one.
            Use("f", "acme", "small", "10-02T12", "110", "10"),
            Use("g", "loose", "small", "10-20T12", "60", "0"),
            Use("h", "loose", "small", "11-02T12", "60", "0"),
            Use("i", "loose", "small", "11-20T11", "50", "10"),
            Costs("acme", "55"),
        ],
    )
    .await;
    world.is_sound();
    run(
        &world,
        &[
            // October is closed. The period has 125, then 65: its 25 are given back, in November.
            Close("acme", "2026-10"),
            Void("acme", "a"),
            Costs("acme", "30"),
            // 65 + 60 = 125 again: the tiers count the whole period, though October is closed.
            Use("j", "acme", "small", "10-21T12", "60", "25"),
            // Of 125, 60 become 10: 75.
            Amend("acme", "b", "10"),
            Costs("acme", "30"),
        ],
    )
    .await;
    is_rebuilt_alike(&world);
    for id in ["b", "e", "j", "c", "d", "f"] {
        run(&world, &[Void("acme", id)]).await;
    }
    run(&world, &[Costs("acme", "0")]).await;
    is_rebuilt_alike(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_plan_goes_on_in_the_tiers() {
    let world = platform()
        .org("acme")
        .with(card("09-01", allowance("1")).with("plan", "basic"))
        .with(card("09-01", allowance("0.5")).with("plan", "pro"))
        .start()
        .await;
    let period = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    told(&world, "acme", "2026-11-01T00:00:00Z", "price_basic", period).await;
    told(&world, "acme", "2026-11-10T00:00:00Z", "price_pro", period).await;
    told(&world, "acme", "2026-11-20T00:00:00Z", "price_basic", period).await;
    world.turn("2026-11-25T12:00:00Z");
    run(
        &world,
        &[
            Use("a", "acme", "small", "11-02T12", "80", "0"),
            // 20 more are free, whatever the plan.
            Use("b", "acme", "small", "11-12T12", "60", "20"),
            // Basic again: the period is at 140.
            Use("c", "acme", "small", "11-21T12", "10", "10"),
            Use("d", "acme", "small", "11-13T12", "10", "5"),
            // One of pro's events is voided: the event came after basic's first 80, and gives back its cost.
            Void("acme", "d"),
            Costs("acme", "30"),
            // The other one too; basic continues at 90.
            Void("acme", "b"),
            Costs("acme", "10"),
            Use("e", "acme", "small", "11-22T12", "20", "10"),
        ],
    )
    .await;
    world.is_sound();
    is_rebuilt_alike(&world);
    for id in ["a", "c", "e"] {
        run(&world, &[Void("acme", id)]).await;
    }
    run(&world, &[Costs("acme", "0")]).await;
    is_rebuilt_alike(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_and_levels_have_the_orgs_own_prices() {
    let burns = |units: &str| card("09-01", json!([{ "unit_cost": "0", "battery_units": units }]));
    let costs = |cost: &str| rate_card("seats", json!([{ "unit_cost": cost }])).since("2026-09-01T00:00:00Z");
    let world = platform()
        .org("acme")
        .org("other")
        .with(burns("2"))
        .with(burns("1").org("acme"))
        .with(debt_limit("acme", 15))
        .with(debt_limit("other", 15))
        .with(meter("seats").aggregation("level"))
        .with(costs("3").with("price_by", "peak"))
        .with(costs("2").org("acme").with("price_by", "average"))
        .start()
        .await;
    for (org, status) in [("acme", 201), ("other", 409)] {
        world.send(reserve(10).org(org).dimension("model", "small")).await.status(status);
    }
    for (org, cost) in [("acme", "20"), ("other", "30")] {
        world.used(usage(org, "seats").quantity(10).at("2026-09-20T00:00:00Z")).await;
        let path = format!("/v1/usage/levels?org={org}&from=2026-09-20T00:00:00Z&to=2026-09-21T00:00:00Z");
        assert_eq!(world.get(&path).await.at("data.0.cost"), cost, "{org}");
    }
}
