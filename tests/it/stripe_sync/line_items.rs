//! Which packs a checkout session sold, and how many: its events do not tell, its line items do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{as_texts, now, settings, wait_for_projection, wait_for_run, wait_until};
use crate::support::fake_stripe::{Account, FakeStripe};
use crate::support::{Daemon, Database, rows};

const DAY: i64 = 86_400;

/// A shop of two packs, and an org.
fn shop() -> Database {
    let database = Database::new();
    rows::pack(&database, "boost", "500", &["price_boost"]);
    rows::pack(&database, "tank", "2000", &["price_tank"]);
    rows::org(&database, "acme", "UTC");
    database
}

fn item(id: &str, price: &str, quantity: i64, amount: i64) -> Value {
    json!({ "id": id, "price": { "id": price, "object": "price", "product": "prod_1" }, "quantity": quantity,
        "amount_subtotal": amount, "amount_discount": 0, "amount_tax": 0, "amount_total": amount,
        "currency": "usd", "description": price })
}

/// Acme pays 3 boosts of 10.00, a tank of 30.00 and a shirt of 25.00: 85.00.
fn buy(account: &Account, n: &str) {
    let (session, intent) = (format!("cs_{n}"), format!("pi_{n}"));
    account.create("customer", json!({ "id": format!("cus_{n}"), "metadata": { "org_id": "acme" } }));
    let items = [
        item("li_boost", "price_boost", 3, 3000),
        item("li_tank", "price_tank", 1, 3000),
        item("li_shirt", "price_shirt", 1, 2500),
    ];
    account.create(
        "checkout.session",
        json!({ "id": session, "customer": format!("cus_{n}"), "line_items": items, "amount_subtotal": 8500,
            "amount_total": 8500 }),
    );
    account.create(
        "payment_intent",
        json!({ "id": intent, "amount": 8500, "currency": "usd", "customer": format!("cus_{n}"),
            "status": "succeeded" }),
    );
    account.update(
        "checkout.session",
        &session,
        json!({ "status": "complete", "payment_status": "paid", "payment_intent": intent }),
    );
}

/// What the source did: line, pack, quantity, units.
fn effects(database: &Database) -> String {
    let rows = "SELECT coalesce(string_agg(concat_ws(' ', source_id, line, pack_id, quantity,
            trim_scale(units)), ', ' ORDER BY line), '') FROM battery_effects";
    database.value(rows).expect("a value")
}

const GRANTED: &str = "pi_1 li_boost boost 3 1500, pi_1 li_tank tank 1 2000";

fn is_settled(database: &Database) -> bool {
    wait_for_projection(database);
    database.number("SELECT count(*) FROM battery_effects_queue") == 0
}

/// The sessions whose line items were asked for.
fn asked(fake: &FakeStripe) -> BTreeSet<String> {
    let of = |path: &str| {
        path.strip_prefix("/v1/checkout/sessions/")?.strip_suffix("/line_items").map(str::to_owned)
    };
    fake.requests().iter().filter_map(|request| of(&request.path)).collect()
}

/// A daemon that reads this fake, and grants what was paid since then.
fn reader(database: &Database, fake: &FakeStripe, since: i64) -> Daemon {
    let mut settings = settings(fake);
    let since = chrono::DateTime::from_timestamp(since, 0).expect("a time").to_rfc3339();
    settings.push(("COULOMB_STRIPE_EFFECTS_SINCE", since));
    Daemon::with(database, &as_texts(&settings))
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_one_session_are_granted_when_its_line_items_come() {
    let fake = FakeStripe::start_at(now());
    let account = fake.account("");
    let database = shop();
    let first = reader(&database, &fake, now() - 60 * DAY);
    wait_for_run(&database);
    // Of 40 days ago, and told only now: nobody asks for its line items.
    fake.set_time(now() - 40 * DAY);
    buy(&account, "old");
    fake.set_time(now());
    buy(&account, "1");
    first.deliver_all(&account.events()).await;
    let waiting = || {
        let rows = "SELECT coalesce(string_agg(source_id || ' ' || reason, ', ' ORDER BY source_id), '')
            FROM battery_effects_waiting";
        database.value(rows).expect("a value")
    };
    wait_until("both wait for what names their packs", || {
        waiting() == "pi_1 unknown_pack, pi_old unknown_pack"
    });
    assert_eq!(effects(&database), "");
    // What is read now was read after the events.
    fake.set_time(now() + 20);
    wait_until("both packs are granted", || effects(&database) == GRANTED);
    wait_until("the effects are done", || is_settled(&database));
    assert_eq!(waiting(), "pi_old unknown_pack");
    let wanted = database.value("SELECT string_agg(object_id || ' ' || reason, ', ') FROM stripe_wanted");
    assert_eq!(wanted.as_deref(), Some("cs_1 line_items"));
    let drift = database.number("SELECT count(*) FROM stripe_drift WHERE object = 'checkout.session'");
    assert_eq!(drift, 0, "no event has line items: that they come later is no difference");

    let entries = || database.value("SELECT jsonb_agg(e ORDER BY sequence)::text FROM battery_entries e");
    let before = (entries(), effects(&database));
    first.deliver_all(&account.events()).await;
    wait_until("the redelivery is done", || is_settled(&database));
    assert_eq!((entries(), effects(&database)), before, "after a redelivery");

    let state = database.run(&["dump"]);
    assert_eq!(state.matches("\"checkout_line_item\"").count(), 3, "{state}");
    drop(first);
    database.run(&["verify"]);
    database.run(&["rebuild", "mirrors", "--yes"]);
    let again = reader(&database, &fake, now() - 60 * DAY);
    wait_until("the rebuild is done", || is_settled(&database));
    assert_eq!(database.run(&["dump"]), state, "after a rebuild");
    assert_eq!((entries(), effects(&database)), before, "after a rebuild");
    drop(again);
    database.run(&["verify"]);
}

#[test]
fn a_backfill_reads_the_line_items_of_sales() {
    let begin = now() - 3600;
    let fake = FakeStripe::start_at(begin);
    let account = fake.account("");
    buy(&account, "1");
    // Neither sold anything once: one is open, one began a subscription, which its invoice tells.
    let items = [item("li_1", "price_boost", 1, 1000)];
    account.create("checkout.session", json!({ "id": "cs_open", "line_items": items }));
    account.create(
        "checkout.session",
        json!({ "id": "cs_sub", "line_items": items, "mode": "subscription", "status": "complete",
            "payment_status": "paid" }),
    );
    fake.set_time(now());
    let database = shop();
    let reader = reader(&database, &fake, begin - 60);
    wait_for_run(&database);
    wait_until("both packs are granted", || effects(&database) == GRANTED);
    // The sale may be asked twice: as wanted, where its event is projected before its fetch.
    assert_eq!(asked(&fake), BTreeSet::from(["cs_1".to_owned()]), "only the sale has its line items read");
    let known = database
        .value("SELECT string_agg(id, ' ' ORDER BY id) FROM checkout_sessions WHERE line_items_complete");
    assert_eq!(known.as_deref(), Some("cs_1"));
    drop(reader);
    database.run(&["verify"]);
}

#[test]
fn a_page_whose_sales_take_long_is_read_to_its_end() {
    let fake = FakeStripe::start_at(now() - 3600);
    let account = fake.account("");
    let items = [item("li_1", "price_boost", 1, 1000)];
    for n in 0..100 {
        account.create(
            "checkout.session",
            json!({ "id": format!("cs_{n}"), "line_items": items, "status": "complete" }),
        );
    }
    fake.set_time(now());
    let database = shop();
    let mut settings = settings(&fake);
    // A hundred sales take 12 s: longer than a turn begins new pages.
    settings.push(("COULOMB_STRIPE_REQUESTS_PER_SECOND", "8".to_owned()));
    let _daemon = Daemon::with(&database, &as_texts(&settings));
    wait_for_run(&database);
    assert_eq!(asked(&fake).len(), 100);
    assert_eq!(database.number("SELECT count(*) FROM checkout_sessions WHERE line_items_complete"), 100);
}
