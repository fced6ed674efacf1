//! After a backfill: what no event told is found by a comparison, thin events are read, old money grants
//! nothing, and what was erased is not brought back.

use serde_json::{Value, json};

use super::{
    as_texts, assert_same, daemon, held, now, settings, wait_for_projection, wait_for_run, wait_until,
};
use crate::support::fake_stripe::FakeStripe;
use crate::support::requests::plan;
use crate::support::{Database, World};

/// Runs `coulomb stripe …` with the daemon's settings.
fn run(database: &Database, fake: &FakeStripe, args: &[&str]) -> String {
    let mut command = database.command(args);
    command.envs(as_texts(&settings(fake)));
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The differences of a kind, as object, id and fields.
fn drift(database: &Database, fake: &FakeStripe, kind: &str) -> Vec<(String, String, Vec<String>)> {
    let text = run(database, fake, &["stripe", "drift", "--kind", kind, "--limit", "500"]);
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert!(row["inbox_id"].is_i64(), "an input repaired it: {row}");
        let text = |name: &str| row[name].as_str().expect("a text").to_owned();
        let fields = row["fields"].as_array().expect("fields").iter();
        (
            text("object"),
            text("object_id"),
            fields.map(|one| one.as_str().expect("a text").to_owned()).collect(),
        )
    };
    text.lines().map(row).collect()
}

/// An account with a plan that customers pay by the month.
fn shop(at: i64) -> FakeStripe {
    let fake = FakeStripe::start_at(at);
    let account = fake.account("");
    account.create("product", json!({ "id": "prod_pro", "name": "Pro" }));
    account.create(
        "price",
        json!({ "id": "price_pro", "product": "prod_pro", "unit_amount": 2000,
            "recurring": { "interval": "month" } }),
    );
    fake
}

fn customer(fake: &FakeStripe, name: &str) {
    let account = fake.account("");
    account.create(
        "customer",
        json!({ "id": format!("cus_{name}"), "name": name, "metadata": { "org_id": name },
            "invoice_settings": { "default_payment_method": "pm_1" } }),
    );
    let items = json!([{ "price": "price_pro", "quantity": 1 }]);
    account
        .subscribe(json!({ "id": format!("sub_{name}"), "customer": format!("cus_{name}"), "items": items }));
}

#[test]
fn a_comparison_finds_what_no_event_told() {
    let fake = shop(now() - 3 * 86_400);
    for name in ["acme", "globex", "initech"] {
        customer(&fake, name);
    }
    fake.set_time(now() - 60);
    let database = Database::new();
    let one = daemon(&database, &fake);
    wait_for_run(&database);
    assert_same(&database, &fake);
    assert_eq!(database.number("SELECT count(*) FROM stripe_drift"), 0);

    let account = fake.account("");
    account.change_silently("subscription", "sub_acme", json!({ "cancel_at_period_end": true }));
    account.change_silently("customer", "cus_globex", json!({ "name": "Globex & Co" }));
    // What is read now was read after the backfill.
    fake.set_time(now() - 30);
    run(&database, &fake, &["stripe", "sync", "--compare"]);
    wait_for_projection(&database);
    assert_same(&database, &fake);
    let mut found = drift(&database, &fake, "missed_event");
    found.sort();
    assert_eq!(
        found,
        [
            ("customer".to_owned(), "cus_globex".to_owned(), vec!["name".to_owned()]),
            ("subscription".to_owned(), "sub_acme".to_owned(), vec!["cancel_at_period_end".to_owned()]),
        ]
    );
    let told = database.number("SELECT count(*) FROM outbox_messages WHERE type = 'drift.found'");
    assert!(told >= 1, "operators hear of it");
    // Once more: nothing differs.
    run(&database, &fake, &["stripe", "sync", "--compare"]);
    assert_eq!(drift(&database, &fake, "missed_event").len(), 2);
    drop(one);
    database.run(&["verify"]);
}

#[test]
fn what_was_deleted_while_nobody_looked_is_found() {
    let fake = shop(now() - 40 * 86_400);
    for name in ["acme", "globex"] {
        customer(&fake, name);
    }
    let database = Database::new();
    let one = daemon(&database, &fake);
    wait_for_run(&database);
    drop(one);
    // Stripe lists events of 30 days: nothing tells of this one.
    fake.account("").delete("customer", "cus_acme");
    fake.set_time(now() - 60);
    run(&database, &fake, &["stripe", "sync"]);
    wait_for_projection(&database);
    assert_same(&database, &fake);
    let deleted = drift(&database, &fake, "deleted");
    assert_eq!(
        deleted.iter().map(|(object, id, _)| format!("{object} {id}")).collect::<Vec<_>>(),
        ["customer cus_acme"]
    );
}

#[test]
fn an_event_that_stripe_lists_late_is_pulled() {
    let fake = shop(now() - 3 * 86_400);
    customer(&fake, "acme");
    fake.set_time(now() - 600);
    let database = Database::new();
    let one = daemon(&database, &fake);
    wait_for_run(&database);
    drop(one);
    // The last pull was five minutes after the event, and Stripe did not list it yet.
    fake.account("").update("customer", "cus_acme", json!({ "name": "Acme & Co" }));
    fake.set_time(now() - 300);
    database.execute(&format!("UPDATE stripe_accounts SET pulled_until = {}", now() - 300));
    let _two = daemon(&database, &fake);
    let update =
        "SELECT count(*) FROM stripe_inbox WHERE event_type = 'customer.updated' AND origin <> 'fetch'";
    wait_until("the event is there", || database.number(update) == 1);
    wait_for_projection(&database);
    assert_same(&database, &fake);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thin_event_has_its_object_read() {
    let fake = shop(now() - 3600);
    let database = Database::new();
    let one = daemon(&database, &fake);
    wait_for_run(&database);
    customer(&fake, "acme");
    fake.account("").change_silently("customer", "cus_acme", json!({ "name": "Acme & Co" }));
    // What is read now was read after the event.
    fake.set_time(now() - 600);
    let created = chrono::DateTime::from_timestamp(now(), 0).expect("a time").to_rfc3339();
    let thin = json!({ "id": "evt_thin", "object": "v2.core.event", "type": "v1.customer.updated",
        "created": created, "livemode": false,
        "related_object": { "id": "cus_acme", "type": "customer", "url": "/v1/customers/cus_acme" } });
    one.deliver(&thin).await;
    let acme = ("customer".to_owned(), "cus_acme".to_owned());
    wait_until("the customer is held", || {
        held(&database).get(&acme).is_some_and(|own| own["name"] == "Acme & Co")
    });
    wait_until("nothing is left to fetch", || {
        run(&database, &fake, &["stripe", "inbox", "list", "--state", "needs_fetch"]).is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn old_money_grants_nothing_unless_it_still_runs() {
    for (grant_running, units) in [("false", "0"), ("true", "500")] {
        let fake = shop(now() - 10 * 86_400);
        customer(&fake, "acme");
        fake.set_time(now() - 60);
        let mut setup = World::new().scopes("admin,billing:read,billing:write,usage:read");
        for (name, value) in settings(&fake) {
            setup = setup.setting(name, &value);
        }
        let pro = plan("pro").prices(["price_pro"]).with("battery_units", "500");
        let world =
            setup.setting("COULOMB_STRIPE_GRANT_RUNNING", grant_running).org("acme").with(pro).start().await;
        wait_for_run(&world.database);
        let plan =
            || world.value("SELECT count(*) FROM stripe_customer_links WHERE metadata_ref IS NOT NULL");
        assert_eq!(plan().as_deref(), Some("1"), "the customer is linked");
        assert_eq!(world.get("/v1/orgs/acme").await["plan"], "pro", "the org has its plan at once");
        wait_until("no effect waits", || world.number("SELECT count(*) FROM battery_effects_queue") == 0);
        let granted = world.value("SELECT coalesce(sum(amount), 0)::text FROM battery_grants");
        assert_eq!(granted.as_deref(), Some(units), "grant_running {grant_running}");
        let told = "SELECT count(*) FROM outbox_messages WHERE type <> 'battery.granted'";
        assert_eq!(world.number(told), 0, "nobody hears of the past");
        // A renewal afterwards has its effect.
        fake.advance_to(now() + 22 * 86_400);
        wait_until("the renewal is granted", || {
            let renewed = world.number("SELECT count(*) FROM battery_grants WHERE amount = 500");
            renewed == if units == "0" { 1 } else { 2 }
        });
        world.run(&["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_is_not_brought_back() {
    let fake = shop(now() - 3 * 86_400);
    // An org with a running subscription cannot be erased.
    fake.account("").create(
        "customer",
        json!({ "id": "cus_lovelace", "name": "lovelace", "metadata": { "org_id": "lovelace" } }),
    );
    fake.set_time(now() - 60);
    let mut setup = World::new().scopes("admin,billing:read,billing:write,usage:read");
    for (name, value) in settings(&fake) {
        setup = setup.setting(name, &value);
    }
    let world = setup.org("lovelace").start().await;
    wait_for_run(&world.database);
    // The newest input of each object is now a fetch that confirms an event.
    fake.set_time(now() - 40);
    run(&world.database, &fake, &["stripe", "sync"]);
    wait_for_projection(&world.database);
    let confirms =
        "SELECT count(*) FROM stripe_inbox WHERE object_id = 'cus_lovelace' AND body_of IS NOT NULL";
    assert!(world.number(confirms) > 0);
    let id = world.get("/v1/orgs/lovelace").await.text("id");
    world.post(&format!("/v1/orgs/{id}/erase"), json!({ "confirm": id })).await.status(202);
    wait_until("the org is erased", || {
        world.number("SELECT count(*) FROM org_erasures WHERE finished_at IS NOT NULL") == 1
    });
    wait_for_projection(&world.database);
    let name = "SELECT count(*) FROM customers WHERE name IS NOT NULL";
    assert_eq!(world.number(name), 0, "the mirror is empty, although a fetch confirmed the event");
    run(&world.database, &fake, &["stripe", "sync"]);
    wait_for_projection(&world.database);
    assert_eq!(world.number(name), 0, "a backfill does not bring it back");
    let bodies = "SELECT count(*) FROM stripe_inbox WHERE position('\"name\":\"lovelace\"' IN
        convert_from(body, 'UTF8')) > 0";
    assert_eq!(world.number(bodies), 0);
    world.run(&["verify"]);
}
