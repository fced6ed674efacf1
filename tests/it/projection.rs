//! Projection: only the set of events decides, not their order, their repeats, or the number of daemons.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::events::purchase;
use crate::support::objects::{Event, Object, customer, invoice, product, subscription};
use crate::support::world::until;
use crate::support::{Daemon, Database, World};

/// Pseudo-random numbers for shuffles, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).expect("small")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[tokio::test]
async fn a_purchase_ends_paid_in_its_mirrors() {
    let world = World::new().start().await;
    world.tell_at_once(purchase()).await;
    for (sql, told) in [
        (
            "SELECT concat_ws(' ', status, amount_paid, paid_at IS NOT NULL, subscription_id) FROM invoices",
            "paid 2000 t sub_1",
        ),
        (
            "SELECT concat_ws(' ', amount, price_id, product_id, quantity) FROM invoice_lines",
            "2000 price_pro prod_1 1",
        ),
        ("SELECT status FROM subscriptions", "active"),
        ("SELECT concat_ws(' ', status, amount_received) FROM payments", "succeeded 2000"),
        ("SELECT name FROM customers", "Customer cus_1"),
    ] {
        assert_eq!(world.value(sql).as_deref(), Some(told), "{sql}");
    }
    assert!(world.run(&["verify"]).is_empty());
}

#[tokio::test]
async fn a_line_that_a_later_event_has_no_more_is_gone() {
    let world = World::new().start().await;
    let lines = || world.number("SELECT count(*) FROM invoice_lines");
    let one = invoice("in_1").json()["lines"]["data"][0].clone();
    let mut second = one.clone();
    second["id"] = json!("il_second");
    let both = invoice("in_1").with("lines.data", json!([one, second]));
    world.tell([both.happened("invoice.created").at(100)]).await;
    assert_eq!(lines(), 2);
    world.tell([invoice("in_1").happened("invoice.updated").at(200)]).await;
    assert_eq!(lines(), 1);
}

/// 300 shuffles with repeats, over HTTP, eight at once, to two daemons on one database: all give the same
/// dump.
#[tokio::test]
async fn order_repeats_and_replicas_do_not_matter() {
    let database = Database::new();
    let daemons = [
        Daemon::with(&database, &[("COULOMB_PROJECTION_BATCH", "3")]),
        Daemon::with(&database, &[("COULOMB_PROJECTORS", "2"), ("COULOMB_PROJECTION_BATCH", "2")]),
    ];
    let mut numbers = Numbers(7);
    // Each shuffle is a world of its own: the same objects in another account.
    for world in 0..300 {
        let mut events: Vec<Value> =
            purchase().into_iter().flat_map(|event| [event.clone(), event]).collect();
        events.push(events[numbers.below(16)].clone());
        numbers.shuffle(&mut events);
        for event in &mut events {
            event["account"] = json!(format!("acct_{world}"));
        }
        for chunk in events.chunks(8) {
            let sent = chunk.iter().enumerate().map(|(n, event)| daemons[(n + world) % 2].deliver(event));
            futures_util::future::join_all(sent).await;
        }
    }
    daemons[0].projected().await;
    let dump = database.run(&["dump"]);
    let mut worlds: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for line in dump.lines() {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        let Some(account) = line.as_object_mut().and_then(|line| line.remove("account")) else { continue };
        let world = worlds.entry(account.as_str().expect("text").to_owned()).or_default();
        world.push_str(&line.to_string());
        world.push('\n');
    }
    assert_eq!(worlds.len(), 300);
    let distinct: BTreeSet<&String> = worlds.values().collect();
    assert_eq!(
        distinct.len(),
        1,
        "two worlds differ:\n{}",
        distinct.into_iter().take(2).cloned().collect::<Vec<_>>().join("\n---\n")
    );
    let world = worlds.values().next().expect("a world");
    assert!(world.contains(r#""status":"paid""#) && !world.contains(r#""status":"open""#), "{world}");
    assert_eq!(daemons[0].metric("coulomb_stripe_inbox_quarantined").await, Some(0));
    assert!(database.run(&["verify"]).is_empty());
}

/// Changes of one second that are projected one by one, in the wrong order: each choice considers all events
/// of that second.
#[tokio::test]
async fn a_second_is_weighed_as_a_whole() {
    let with = |email: Option<&str>, phone: Option<&str>, id: &str| {
        let kind = if id == "evt_9" { "customer.created" } else { "customer.updated" };
        customer("cus_1").with("email", email).with("phone", phone).happened(kind).id(id).at(5)
    };
    let events = [
        with(None, None, "evt_9"),
        with(Some("a@x"), None, "evt_1").before(json!({ "email": null })),
        with(Some("b@x"), None, "evt_8").before(json!({ "email": "a@x" })),
        with(Some("b@x"), Some("1"), "evt_2").before(json!({ "phone": null })),
    ];
    for order in [[3, 2, 1, 0], [2, 3, 0, 1], [0, 3, 1, 2]] {
        let world = World::new().start().await;
        for n in order {
            world.tell([events[n].clone()]).await;
        }
        let told = world.value("SELECT email || ' ' || phone FROM customers");
        assert_eq!(told.as_deref(), Some("b@x 1"), "{order:?}");
        assert_eq!(world.number("SELECT count(*) FROM stripe_objects WHERE ambiguous"), 0);
    }
}

#[tokio::test]
async fn a_deleted_customer_stays_deleted_and_a_recreated_product_lives() {
    let world = World::new().start().await;
    let gold = |name: &str| product("gold").with("name", name);
    world
        .tell_at_once([
            customer("cus_1").happened("customer.deleted").at(10),
            customer("cus_1").happened("customer.updated").at(10),
            gold("old").happened("product.deleted").at(10),
            gold("old").happened("product.created").at(5),
            gold("new").happened("product.created").at(12).id("evt_again"),
        ])
        .await;
    assert_eq!(world.value("SELECT deleted FROM customers").as_deref(), Some("true"));
    assert_eq!(world.value("SELECT name || ' ' || deleted FROM products").as_deref(), Some("new false"));
}

/// An event that cannot be projected is tried again, then quarantined with its error, and holds up no other.
#[tokio::test]
async fn poison_blocks_only_itself() {
    let world = World::new().setting("COULOMB_PROJECTION_ATTEMPTS", "2").start().await;
    let daemon = world.daemon();
    let event = |invoice: Object, kind: &str, second: i64| -> Event { invoice.happened(kind).at(second) };
    let poison = event(invoice("in_1").status("paid"), "invoice.paid", 20).id("evt_poison");
    let poison = poison.with("data.object.total", 1e300);
    world.deliver(poison.clone()).await;
    world.deliver(event(invoice("in_1").status("open"), "invoice.finalized", 10)).await;
    world.deliver(event(invoice("in_2").status("paid"), "invoice.paid", 10)).await;
    let quarantined = || daemon.metric("coulomb_stripe_inbox_quarantined");
    until("it is quarantined", async || quarantined().await == Some(1)).await;
    daemon.projected().await;
    let invoices = world.value("SELECT string_agg(id || ' ' || status, ', ' ORDER BY id) FROM invoices");
    assert_eq!(invoices.as_deref(), Some("in_1 open, in_2 paid"));
    let listed = world.run(&["stripe", "inbox", "list", "--state", "quarantined"]);
    let listed: Value = serde_json::from_str(&listed).expect("one line");
    assert_eq!((listed["event_id"].as_str(), listed["attempts"].as_i64()), (Some("evt_poison"), Some(2)));
    assert!(listed["last_error"].as_str().expect("an error").contains("`total`"), "{listed}");
    let doctor = world.command(&["doctor"]).output().expect("runs");
    assert_eq!(doctor.status.code(), Some(3), "{}", String::from_utf8_lossy(&doctor.stdout));
    // A number too large for any reader, in a field that nothing reads.
    let unreadable = r#"{"id":"evt_big","type":"invoice.paid","created":1,
        "data":{"object":{"id":"in_3","object":"invoice","x":1e999}}}"#;
    let header = crate::support::stripe::signature(unreadable.as_bytes());
    assert_eq!(daemon.deliver_raw(unreadable.into(), header.as_bytes()).await.0, 200);
    let set_aside =
        "SELECT count(*) FROM stripe_inbox_queue WHERE last_error LIKE 'the body cannot be read%'";
    until("it must not count as an event without an object", async || world.number(set_aside) == 1).await;
    // A manual retry fails again, and the other events stay as they are.
    assert!(world.run(&["stripe", "inbox", "retry", "--quarantined"]).ends_with("on the queue\n"));
    let body = world.run(&["stripe", "inbox", "show", &listed["inbox_id"].to_string(), "--body"]);
    assert_eq!(serde_json::from_str::<Value>(&body).expect("the body"), poison.json());
}

/// A rebuild restores what the projection derives, and `verify` finds a difference.
#[tokio::test]
async fn verify_finds_what_was_changed_and_rebuild_mends_it() {
    let world = World::new().start().await;
    world.tell_at_once(purchase()).await;
    let before = world.run(&["dump"]);
    world.execute("UPDATE invoices SET total = total + 1; DELETE FROM subscription_items");
    let verify = world.command(&["verify"]).output().expect("runs");
    let told = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert_eq!(verify.status.code(), Some(3), "{told}");
    for difference in [
        "invoices in_1 in test mode: total is 2001, events say 2000",
        "subscription_items sub_1 0 in test mode: is not there, but events make it",
    ] {
        assert!(told.contains(difference), "{told}");
    }
    world.run(&["rebuild", "mirrors", "--yes"]);
    let queued = || world.number("SELECT count(*) FROM stripe_inbox_queue");
    until("everything is projected again", async || queued() == 0).await;
    assert_eq!(world.run(&["dump"]), before);
    assert!(world.run(&["verify"]).is_empty());
}

/// The subscription's own status decides, not the event's type. After a terminal status no other one counts.
#[tokio::test]
async fn status_comes_from_the_object_and_terminal_ones_absorb() {
    let world = World::new().start().await;
    let bill = |status: &str| invoice("in_1").status(status);
    let subscribed = |status: &str| subscription("sub_1").status(status);
    world
        .tell_at_once([
            bill("paid").happened("invoice.finalized").at(10),
            bill("open").happened("invoice.updated").at(30).before(json!({ "metadata": {} })),
            subscribed("canceled").happened("customer.subscription.deleted").at(10),
            subscribed("active").happened("customer.subscription.updated").at(99),
        ])
        .await;
    assert_eq!(world.value("SELECT status FROM invoices").as_deref(), Some("paid"));
    assert_eq!(world.value("SELECT status FROM subscriptions").as_deref(), Some("canceled"));
}
