//! A chat product sells a plan and packs. Many Stripe events are about one purchase, before the product knows
//! the user: the battery is charged once. The day's allowance burns before the month's units, and those
//! before the packs. A refund takes back its share. After the cancellation the period runs to its end.

use serde_json::{Value, json};

use super::product;
use crate::support::World;
use crate::support::objects::{self, Event, Object, object, refund};
use crate::support::requests::{Usage, meter, org, pack, plan, rate_card, usage};

const BOUGHT: &str = "2027-05-10T08:00:00Z";
const ENDS: &str = "2027-06-10T08:00:00Z";

/// An object of Mia, created when she bought the plan.
fn of_mia(object: Object) -> Object {
    object.customer("cus_mia").created(BOUGHT)
}

fn subscription(status: &str, cancel_at_period_end: bool) -> Object {
    of_mia(objects::subscription("sub_mia"))
        .started(BOUGHT)
        .status(status)
        .price("price_power")
        .period(BOUGHT, ENDS)
        .with("cancel_at_period_end", cancel_at_period_end)
}

fn session(id: &str, mode: &str) -> Object {
    of_mia(object("checkout.session", id))
        .status("complete")
        .with("client_reference_id", "mia")
        .with("mode", mode)
        .with("payment_status", "paid")
        .with("currency", "usd")
}

fn intent(id: &str, cents: i64) -> Object {
    of_mia(objects::payment_intent(id)).amount(cents).paid_by(&format!("ch_{id}"))
}

fn charge(intent: &str, cents: i64, refunded: i64) -> Object {
    of_mia(objects::charge(&format!("ch_{intent}")))
        .amount(cents)
        .with("amount_captured", cents)
        .with("amount_refunded", refunded)
        .with("payment_intent", intent)
}

fn invoice() -> Object {
    use crate::support::requests::Time;
    of_mia(objects::invoice("in_mia"))
        .status("paid")
        .bills("sub_mia")
        .with("billing_reason", "subscription_create")
        .with("status_transitions.paid_at", BOUGHT.second())
        .with("lines.data.0.period", json!({ "start": BOUGHT.second(), "end": ENDS.second() }))
        .with("lines.data.0.pricing.price_details.price", "price_power")
        .with("lines.data.0.parent.subscription_item_details.subscription", "sub_mia")
}

/// The events of one payment.
fn purchase() -> Vec<Event> {
    let session = session("cs_plan", "subscription")
        .with("subscription", "sub_mia")
        .with("invoice", "in_mia")
        .with("amount_total", 2000);
    vec![
        session.happened("checkout.session.completed"),
        subscription("active", false).happened("customer.subscription.created"),
        invoice().happened("invoice.payment_succeeded"),
        invoice().happened("invoice.paid"),
        intent("pi_plan", 2000).happened("payment_intent.succeeded"),
        charge("pi_plan", 2000, 0).happened("charge.succeeded"),
    ]
}

/// Stripe delivers these events at that time, each twice, the last first.
async fn deliver(world: &World, at: &str, events: Vec<Event>) {
    world.turn(at);
    for event in events.into_iter().rev() {
        let id = format!("{}_{at}", event.clone().json()["id"].as_str().expect("an id"));
        let event = event.id(&id).at(at);
        world.deliver(event.clone()).await;
        world.deliver(event).await;
    }
    world.daemon().projected().await;
}

/// An amount of Mia's tokens.
fn tokens(id: &str, count: i64, cached: &str) -> Usage {
    let data = json!({ "tokens": count, "model": "gpt", "cached": cached });
    usage("mia", "api.usage").id(id).source("chat").with("member", "u1").data(data)
}

async fn balance(world: &World) -> String {
    world.get("/v1/battery?org=mia").await.status(200).text("balance")
}

fn ledger(world: &World) -> Vec<String> {
    world.ledger(world.number("SELECT org_id FROM orgs WHERE external_id = 'mia'"))
}

async fn waits(world: &World) -> usize {
    world.get("/v1/battery/effects/waiting").await.status(200).rows().len()
}

#[tokio::test]
async fn a_purchase_charges_the_battery_once_and_usage_burns_it_in_order() {
    let world = product(BOUGHT).start().await;
    is_bought_before_the_user_exists(&world).await;
    the_day_burns_before_the_month(&world).await;
    a_pack_is_bought_and_half_of_it_refunded(&world).await;
    the_ledger_says_so(&world);
    the_period_runs_out(&world).await;
    // What was used on the first day: 80 units in three messages of one model.
    let path = "/v1/usage/daily?org=mia&from=2027-05-10&to=2027-05-11&group_by=day";
    let day = world.get(path).await.status(200);
    assert_eq!(day.pick(["data.0.battery_units", "data.0.count"]), json!(["80", 3]), "{day}");
    world.balances();
}

/// Five and more events are about one payment, and the product has not made the user yet. It grants once.
async fn is_bought_before_the_user_exists(world: &World) {
    deliver(world, BOUGHT, purchase()).await;
    // Nothing is sold, so nothing waits.
    assert_eq!(waits(world).await, 0);
    let meter = meter("tokens").event_name("api.usage").value_field("tokens");
    let rates =
        json!([{ "when": { "cached": "yes" }, "battery_units": "0.002" }, { "battery_units": "0.01" }]);
    let monthly = json!({ "amount": 2000, "currency": "usd", "stripe_price": "price_power" });
    let power = plan("power")
        .with("monthly", monthly)
        .with("battery_units", "1000")
        .with("daily_battery", "50")
        .with("battery_debt_limit", "0")
        .with("features.voice", true);
    for request in [
        meter.with("unit", "tokens").dimensions(["model", "cached"]),
        rate_card("tokens", rates),
        power,
        pack("boost", "500"),
        org("mia").zone("Europe/Berlin"),
    ] {
        world.send(request).await.ok();
    }
    world.daemon().projected().await;
    assert_eq!(waits(world).await, 0);
    world.has_plan("mia", Some("power")).await;
    // Workers may already have written the day's grant.
    let grants = ledger(world).iter().filter(|line| line.starts_with("grant 1000")).count();
    assert_eq!(grants, 1, "{:?}", ledger(world));
    deliver(world, BOUGHT, purchase()).await;
}

async fn the_day_burns_before_the_month(world: &World) {
    // 3,000 × 0.01 = 30 of the day's 50.
    assert_eq!(world.usage([tokens("a", 3_000, "no")]).await, ["accepted"]);
    assert_eq!(balance(world).await, "1020");
    // 40 + 5,000 × 0.002 = 50: the day's last 20, and 30 of the month's.
    let both = [tokens("b", 4_000, "no"), tokens("c", 5_000, "yes")];
    assert_eq!(world.usage(both).await, ["accepted"; 2]);
    assert_eq!(balance(world).await, "970");
    let month = world.get("/v1/battery/grants?org=mia&source=subscription").await.status(200);
    let told = month.pick(["data.0.remaining", "data.0.burned", "data.0.expires_at"]);
    assert_eq!(told, json!(["970", "30", ENDS]));
    // The next day has its own 50; 920 of 1,020 are burned.
    world.turn("2027-05-11T10:00:00Z");
    assert_eq!(world.usage([tokens("d", 92_000, "no")]).await, ["accepted"]);
    assert_eq!(balance(world).await, "100");
    assert_eq!(world.usage([tokens("e", 10_100, "no")]).await, ["data battery_exhausted"]);
}

async fn a_pack_is_bought_and_half_of_it_refunded(world: &World) {
    // A pack with three events, twice each.
    let bought = session("cs_boost", "payment")
        .metadata(json!({ "battery_pack": "boost" }))
        .with("payment_intent", "pi_boost")
        .with("amount_total", 500);
    let pack = vec![
        bought.happened("checkout.session.completed"),
        intent("pi_boost", 500).happened("payment_intent.succeeded"),
        charge("pi_boost", 500, 0).happened("charge.succeeded"),
    ];
    deliver(world, "2027-05-11T11:00:00Z", pack).await;
    assert_eq!(balance(world).await, "600");
    // 60 of the month's 100, and none of the pack.
    assert_eq!(world.usage([tokens("f", 6_000, "no")]).await, ["accepted"]);
    // Half of the money goes back, and half of the units.
    let at = "2027-05-11T12:00:00Z";
    let half = refund("re_boost", "ch_pi_boost", 250).created(at).with("payment_intent", "pi_boost");
    let back = charge("pi_boost", 500, 250).happened("charge.refunded");
    deliver(world, at, vec![half.happened("refund.created"), back]).await;
}

fn the_ledger_says_so(world: &World) {
    let mut ledger = ledger(world);
    // The day's allowance begins when the daemon knows the plan; the payment's grant may come before or after
    // it.
    if ledger[..2] == ["grant 50 → 50", "grant 1000 → 1050"] {
        ledger.splice(..2, ["grant 1000 → 1000", "grant 50 → 1050"].map(str::to_owned));
    }
    assert_eq!(
        ledger,
        [
            "grant 1000 → 1000",
            "grant 50 → 1050",
            "usage -30 → 1020",
            "usage -50 → 970",
            "grant 50 → 1020",
            "usage -920 → 100",
            "grant 500 → 600",
            "usage -60 → 540",
            "clawback -250 → 290",
        ]
    );
}

/// A cancelled plan stays to the end of its period. The month's last 40 and the day's allowance end with it;
/// the pack's 250 stay.
async fn the_period_runs_out(world: &World) {
    let ending = subscription("active", true).happened("customer.subscription.updated");
    deliver(world, "2027-05-11T13:00:00Z", vec![ending]).await;
    world.has_plan("mia", Some("power")).await;
    let ended = subscription("canceled", true).happened("customer.subscription.deleted");
    deliver(world, ENDS, vec![ended]).await;
    world.has_plan("mia", None).await;
    let path = "/v1/battery/entries?org=mia&kind=expiry&source=subscription";
    let lapsed: Value = world.get(path).await.status(200).pick(["data.0.amount", "data.0.at"]);
    assert_eq!(lapsed, json!(["-40", ENDS]));
    world.turn("2027-06-11T08:00:00Z");
    assert_eq!(balance(world).await, "250");
    assert_eq!(world.usage([tokens("g", 25_000, "no")]).await, ["accepted"]);
    assert_eq!(balance(world).await, "0");
}
