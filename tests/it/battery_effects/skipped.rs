//! Payments while nothing is sold: they leave nothing behind, and count once something is sold.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::build::{Run, month};
use super::orgs;
use crate::support::requests::{Request, pack, plan};
use crate::support::world::Setup;
use crate::support::{Database, World};

/// A plan of 1000 units that this price buys.
pub(super) fn new_plan(price: &str) -> Request {
    plan("new").prices([price]).with("battery_units", "1000")
}

/// A platform that sells nothing, with orgs of these names.
pub(super) fn empty_shop(names: &[String]) -> Setup {
    let database = Database::new();
    orgs(&database, names);
    World::over(database).scopes("admin,billing:read,billing:write")
}

#[tokio::test]
async fn what_is_paid_while_nothing_is_sold_counts_once_something_is() {
    let tags = ["plan", "pack", "units", "last"];
    let world = empty_shop(&tags.map(str::to_owned)).start().await;
    let lines = [month("price_new", 2000), month("price_other", 5)];
    let paid = |tag: &str| Run::of(tag).paid("a", "subscription_create", 0, &lines);
    let run = Run::of("plan");
    let units = Run::of("units").session("paid", None, &json!({ "battery_units": "25" }), 0);
    let events = [
        paid("plan"),
        paid("last"),
        run.invoice_payment("a", 2005),
        Run::of("pack").linked("plink_1"),
        units,
        run.refund("1", "a", 401, "succeeded", 0),
    ];
    let customers = tags.map(|tag| Run::of(tag).customer());
    world.tell_at_once(customers.into_iter().chain(events)).await;
    // A payment that names its units needs no pack.
    assert_eq!(world.balance_of("units"), "25");
    assert_eq!(world.number("SELECT count(*) FROM battery_effects_waiting"), 0);
    assert_eq!(world.number("SELECT count(*) FROM battery_grants"), 1);
    // More invoices than one page, some before and some after those that count.
    world.execute(
        "INSERT INTO invoices SELECT (jsonb_populate_record(i, jsonb_build_object('id', p || n))).*
         FROM invoices i, generate_series(1, 1100) n, unnest(ARRAY['in_a', 'in_zz']) p
         WHERE i.id = 'in_a_plan'",
    );
    world.send(new_plan("price_new")).await.status(200);
    world.daemon().projected().await;
    assert_eq!([world.balance_of("plan"), world.balance_of("last")], ["800", "1000"]);
    assert_eq!(world.number("SELECT count(*) FROM battery_effects_skipped"), 0);
    // The rest waits as usual, and the pack comes later.
    let reasons = world
        .value("SELECT string_agg(reason || ' ' || source_id, ', ' ORDER BY 1) FROM battery_effects_waiting");
    assert_eq!(reasons.as_deref(), Some("unknown_pack pi_x_pack"));
    world.send(pack("linked", "40").with("payment_links", json!(["plink_1"]))).await.status(200);
    world.daemon().projected().await;
    assert_eq!(world.balance_of("pack"), "40");
    assert_eq!(world.number("SELECT count(*) FROM battery_grants"), 4);
    world.effects_are_sound();
}

/// While payments come to two daemons, the plan is made, removed and made again.
#[tokio::test]
async fn nothing_is_passed_over_when_something_comes_to_be_sold_meanwhile() {
    let tags: Vec<String> = (0..240).map(|n| format!("t{n}")).collect();
    let setup = empty_shop(&tags).daemons(2).setting("COULOMB_PROJECTORS", "2");
    let world = setup.start().await;
    let sold = async {
        for price in ["price_new", "", "price_new", "", "price_new"] {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            let plan = new_plan(price);
            let plan = if price.is_empty() { plan.prices([]) } else { plan };
            world.send(plan).await.status(200);
        }
    };
    let paid = async {
        for chunk in tags.chunks(8) {
            let deliver = |(n, tag): (usize, &String)| {
                let (daemon, run) = (&world.daemons[n % 2], Run::of(tag));
                async move {
                    let paid: Value = run.paid("a", "subscription_create", 0, &[month("price_new", 2000)]);
                    daemon.deliver(&run.customer()).await;
                    daemon.deliver(&paid).await;
                }
            };
            join_all(chunk.iter().enumerate().map(deliver)).await;
        }
    };
    tokio::join!(sold, paid);
    world.daemon().projected().await;
    for tag in &tags {
        assert_eq!(world.balance_of(tag), "1000", "{tag}");
    }
    assert_eq!(world.number("SELECT count(*) FROM battery_effects_waiting"), 0);
    world.effects_are_sound();
}
