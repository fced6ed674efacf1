//! Effects that wait, and happen once when the missing part appears.

use serde_json::{Value, json};

use super::build::{Line, Run, month, part, start};
use super::{battery, shop};
use crate::support::World;
use crate::support::requests::{Request, org, pack, plan, request};
use crate::support::world::until;

/// One grant that is still unused.
fn one(source: &str, amount: &str) -> Vec<(String, String, String)> {
    vec![(source.to_owned(), amount.to_owned(), amount.to_owned())]
}

/// Why payments wait, in the order in which they came.
async fn reasons(world: &World) -> Vec<String> {
    world.waiting().await.iter().map(|row| row["reason"].as_str().expect("a reason").to_owned()).collect()
}

/// The paid session of this run, with this metadata.
fn paid_session(tag: &str, metadata: Value) -> Value {
    Run::of(tag).session("paid", None, &metadata, 0)
}

/// Links a Stripe customer to an org.
fn link(org: &str, customer: &str) -> Request {
    let path = format!("/v1/orgs/{org}/stripe_customers/{customer}");
    request(reqwest::Method::PUT, path, Value::Null)
}

#[tokio::test]
async fn what_has_no_org_happens_once_it_has() {
    let world = shop(&["there"]).start().await;
    let paid = |tag: &str| {
        let run = Run::of(tag);
        [
            run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
            run.invoice_payment("a", 2000),
            run.refund("1", "a", 1000, "succeeded", 0),
        ]
    };
    // The first customer names an org that does not exist yet; for the second no event came.
    world.daemon().deliver_all(&paid("later")).await;
    world.deliver(Run::of("later").customer()).await;
    world.daemon().deliver_all(&paid("silent")).await;
    // There is no customer, but the session names an org.
    let mut session = paid_session("guest", json!({ "battery_pack": "pack-500" }));
    session["data"]["object"]["customer"] = Value::Null;
    session["data"]["object"]["client_reference_id"] = "guest".into();
    world.tell([session]).await;
    assert_eq!(reasons(&world).await, ["no_org"; 3]);
    assert_eq!(world.daemon().metric("coulomb_battery_effects_waiting").await, Some(3));
    assert!(world.run(&["doctor"]).contains("note payments: 3 effect(s)"));
    assert_eq!(world.number("SELECT count(*) FROM battery_grants"), 0);
    for name in ["later", "guest"] {
        world.send(org(name)).await.status(201);
    }
    world.send(link("there", "cus_silent")).await.status(200);
    world.daemon().projected().await;
    assert_eq!(world.balance_of("later"), "500");
    assert_eq!(world.balance_of("there"), "500");
    assert_eq!(battery(&world, "guest"), ("500".to_owned(), one("purchase", "500")));
    assert!(world.waiting().await.is_empty());
    // Moving the customer to another org does not move what was granted.
    world.send(link("guest", "cus_silent")).await;
    world.tell([Run::of("silent").refund("2", "a", 500, "succeeded", 0)]).await;
    assert_eq!([world.balance_of("there"), world.balance_of("guest")], ["250", "500"]);
    world.effects_are_sound();
}

/// `p` bought a plan that does not exist. The others bought packs that are not sold: by a link, with a wrong
/// number of units, and by name.
async fn sales_of_nothing() -> World {
    // One projector, so that the list has the payments in the order in which they came.
    let world = shop(&["p", "q", "r", "s"]).setting("COULOMB_PROJECTORS", "1").start().await;
    for tag in ["p", "q", "r", "s"] {
        world.deliver(Run::of(tag).customer()).await;
    }
    let both: [Line; 2] = [month("price_new", 2000), month("price_free", 0)];
    world.deliver(Run::of("p").paid("a", "subscription_create", 0, &both)).await;
    world.deliver(Run::of("q").linked("plink_1")).await;
    world.deliver(paid_session("r", json!({ "battery_units": "-4" }))).await;
    world.deliver(paid_session("s", json!({ "battery_pack": "gone" }))).await;
    // Nothing was paid, so nothing waits.
    let pack = json!({ "battery_pack": "pack-500" });
    world.tell([Run::of("t").session("unpaid", None, &pack, 0)]).await;
    let waits = ["unknown_price", "unknown_pack", "unknown_pack", "unknown_pack"];
    assert_eq!(reasons(&world).await, waits);
    world
}

/// A pack of 40 units that the payment link sells.
fn linked_pack() -> Request {
    pack("linked", "40").with("expires_after_days", 30).with("payment_links", json!(["plink_1"]))
}

#[tokio::test]
async fn what_nobody_sells_happens_once_it_is_named() {
    let world = sales_of_nothing().await;
    assert!(world.waiting().await[3]["detail"].as_str().expect("a sentence").contains("gone"));
    let lines = world.run(&["battery", "waiting", "--reason", "unknown_pack"]);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    // The plan and the pack appear.
    world.send(plan("new").prices(["price_new"])).await.status(200);
    let shown = world.send(linked_pack()).await.status(200);
    assert_eq!(shown.pick(["units", "payment_links"]), json!(["40", ["plink_1"]]));
    world.daemon().projected().await;
    assert_eq!(battery(&world, "q"), ("40".to_owned(), one("purchase", "40")));
    // The new plan has no units: its payment grants nothing, finally.
    assert_eq!(battery(&world, "p"), ("0".to_owned(), Vec::new()));
    world.execute("UPDATE plan_versions SET battery_units = 9 WHERE plan_id = 'new'");
    world.tell([Run::of("p").credit_note("a", 1, 0, &[])]).await;
    assert_eq!(world.balance_of("p"), "0");
    // One pack is assigned; the other is dismissed and stays so.
    let rows = world.waiting().await;
    let path = |place: usize, verb: &str| format!("/v1/battery/effects/waiting/{}/{verb}", rows[place]["id"]);
    world.post(&path(0, "assign"), json!({ "pack": "nope" })).await.names(400, "pack");
    world.post(&path(0, "assign"), json!({ "pack": "linked" })).await.status(202);
    world.post(&path(1, "dismiss"), json!({ "reason": "a shirt" })).await.status(200);
    world.send(pack("gone", "5")).await.status(200);
    world.daemon().projected().await;
    assert_eq!(battery(&world, "r"), ("40".to_owned(), one("purchase", "40")));
    assert_eq!(battery(&world, "s"), ("0".to_owned(), Vec::new()));
    assert!(world.waiting().await.is_empty());
    let audited = world.value(
        "SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log WHERE action LIKE 'battery%'",
    );
    let expected = "battery_pack.put battery_effect.assign battery_effect.dismiss battery_pack.put";
    assert_eq!(audited.as_deref(), Some(expected));
    world.post(&path(1, "dismiss"), json!({ "reason": "again" })).await.status(404);
    world.effects_are_sound();
}

#[tokio::test]
async fn packs_are_put_by_the_platform_alone() {
    let world = shop(&["acme"]).start().await;
    let key = world.database.key("billing:read", Some("acme"));
    let own = world.by(&key);
    for (pack, field) in [
        (pack("p", "0"), "units"),
        (pack("p", "0.0000000001"), "units"),
        (pack("p", "1").name(" "), "name"),
        (pack("p", "1").with("expires_after_days", 0), "expires_after_days"),
        (pack("p", "1").prices(["a\u{0}"]), "stripe_prices.0"),
        (pack("p", "1").with("colour", "red"), "colour"),
    ] {
        world.send(pack).await.names(400, field);
    }
    for price in ["price_basic", "price_pack"] {
        world.send(pack("p", "1").prices([price])).await.refused(409, "price_taken");
    }
    own.send(pack("p", "1")).await.status(403);
    let page = own.get("/v1/battery/packs?active=true").await.status(200);
    assert_eq!(page.column("id"), json!(["pack-500"]));
    own.get("/v1/battery/packs/nope").await.status(404);
    own.get("/v1/battery/effects/waiting").await.status(403);
}

/// An effect that fails is parked with its error; the others continue.
#[tokio::test]
async fn what_fails_blocks_only_itself() {
    let world = shop(&["good", "bad"]).start().await;
    // More units than a decimal can hold.
    crate::support::rows::pack(&world, "huge", "70000000000000000000000000000", &[]);
    for tag in ["good", "bad"] {
        world.deliver(Run::of(tag).customer()).await;
    }
    world.execute("UPDATE battery_effects_queue SET attempts = 4");
    let bad = paid_session("bad", json!({ "battery_pack": "huge", "quantity": "9" }));
    let good = paid_session("good", json!({ "battery_pack": "pack-500" }));
    world.daemon().deliver_all(&[bad, good]).await;
    until("the other org has its units", async || world.balance_of("good") == "500").await;
    world.execute("UPDATE battery_effects_queue SET attempts = 4, next_attempt_at = NULL");
    world.daemon().projected().await;
    assert_eq!(reasons(&world).await, ["failed"]);
    let row = world.waiting().await.remove(0);
    assert!(row["detail"].as_str().expect("a sentence").contains("too large"), "{row}");
    world.execute("UPDATE battery_packs SET units = 2 WHERE pack_id = 'huge'");
    world.post(&format!("/v1/battery/effects/waiting/{}/assign", row["id"]), json!({})).await.ok();
    world.daemon().projected().await;
    assert_eq!(world.balance_of("bad"), "18");
    assert!(world.waiting().await.is_empty());
}

/// The two other settings for a change of plan.
#[tokio::test]
async fn a_change_of_plan_goes_by_the_setting() {
    for (setting, balance) in [("difference", "3000"), ("none", "1000")] {
        let world = shop(&["x"]).setting("COULOMB_BATTERY_PRORATION", setting).start().await;
        let run = Run::of("x");
        // Up: 3000 − 1000 more at once. Down again: nothing.
        let up = [part("price_basic", -1333, 10), part("price_pro", 3333, 10)];
        let down = [part("price_pro", -1666, 20), part("price_basic", 666, 20)];
        for event in [
            run.customer(),
            run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
            run.paid("b", "subscription_update", 10, &up),
            run.paid("c", "subscription_update", 20, &down),
        ] {
            world.tell([event]).await;
        }
        assert_eq!(world.balance_of("x"), balance, "{setting}");
        world.effects_are_sound();
    }
}

/// Parts of a period that is over when they are paid change nothing. Parts of an unknown period wait a day,
/// then count by days.
#[tokio::test]
async fn parts_of_periods() {
    let world = shop(&["x", "y"]).start().await;
    let (x, y) = (Run::of("x"), Run::of("y"));
    let over = |line: Line| Line { days: (-10, 0), ..line };
    world.daemon().deliver_all(&[x.customer(), y.customer()]).await;
    let lines =
        [over(part("price_basic", -600, 0)), over(part("price_pro", 1600, 0)), month("price_pro", 6000)];
    world.deliver(x.paid("a", "subscription_cycle", 0, &lines)).await;
    let fifteen = Line { days: (15, 30), ..part("price_basic", 1000, 0) };
    world.tell([y.paid("b", "subscription_update", 15, &[fifteen])]).await;
    assert_eq!(battery(&world, "x"), ("3000".to_owned(), one("subscription", "3000")));
    assert_eq!(reasons(&world).await, ["unknown_period"]);
    world.execute(
        "UPDATE battery_effects_waiting
        SET since = since - interval '2 days', next_try = next_try - interval '2 days'",
    );
    until("it no longer waits", async || !battery(&world, "y").1.is_empty()).await;
    // 15 days of the month that ends then.
    let end = chrono::DateTime::from_timestamp(start() + 30 * super::build::DAY, 0).expect("a time");
    let days = (end - end.checked_sub_months(chrono::Months::new(1)).expect("a time")).num_days();
    let units = rust_decimal::Decimal::from(15_000) / rust_decimal::Decimal::from(days);
    assert_eq!(world.balance_of("y"), units.round_dp(9).normalize().to_string());
    assert!(world.waiting().await.is_empty());
}

/// The invoice of the month was voided and never paid, but it shows the period: 500 × 20/30.
#[tokio::test]
async fn a_voided_invoice_tells_of_the_period() {
    let world = shop(&["one"]).start().await;
    let run = Run::of("one");
    let voided = run.invoice("a", "subscription_cycle", "void", 0, &[month("price_basic", 2000)]);
    for event in [
        run.customer(),
        run.event("a_void", "invoice.voided", 9, voided),
        run.paid("b", "subscription_update", 10, &[part("price_addon", 667, 10)]),
    ] {
        world.tell([event]).await;
    }
    assert_eq!(world.balance_of("one"), "333.333333333");
    assert_eq!(world.run(&["battery", "waiting"]), "");
}

#[tokio::test]
async fn a_plan_that_is_paid_for_by_hand_waits() {
    let world = shop(&["hand"]).start().await;
    let run = Run::of("hand");
    let mut paid = run.paid("h", "manual", 0, &[month("price_basic", 2000)]);
    paid["data"]["object"]["lines"]["data"][0]["parent"] = json!({ "type": "invoice_item_details",
        "invoice_item_details": { "invoice_item": "ii_1", "proration": false, "subscription": null } });
    world.tell_at_once([run.customer(), paid, run.invoice_payment("h", 2000)]).await;
    assert_eq!(reasons(&world).await, ["no_subscription"]);
    assert_eq!(world.balance_of("hand"), "0");
    let path = format!("/v1/battery/effects/waiting/{}/dismiss", world.waiting().await[0]["id"]);
    world.post(&path, json!({ "reason": "granted by hand" })).await.status(200);
    assert!(world.waiting().await.is_empty());
    world.run(&["verify"]);
}
