//! Projection: the set of events decides, not their order, nor how many daemons there are, nor how often they
//! come.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::events::{customer, event, invoice, purchase, subscription, updated};
use crate::support::{Daemon, Database};

/// Deterministic numbers for shuffles.
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
    let database = Database::new();
    let daemon = Daemon::start(&database);
    daemon.deliver_all(&purchase()).await;
    daemon.projected().await;
    let invoice = database.value(
        "SELECT status || ' ' || amount_paid || ' ' || (paid_at IS NOT NULL) || ' '
        || subscription_id FROM invoices",
    );
    assert_eq!(invoice.as_deref(), Some("paid 2000 true sub_1"));
    let line = database
        .value("SELECT amount || ' ' || price_id || ' ' || product_id || ' ' || quantity FROM invoice_lines");
    assert_eq!(line.as_deref(), Some("2000 price_pro prod_1 1"));
    assert_eq!(database.value("SELECT status FROM subscriptions").as_deref(), Some("active"));
    assert_eq!(
        database.value("SELECT status || ' ' || amount_received FROM payments").as_deref(),
        Some("succeeded 2000")
    );
    assert_eq!(database.value("SELECT name FROM customers").as_deref(), Some("Customer cus_1"));
    assert!(database.run(&["verify"]).is_empty());
}

#[tokio::test]
async fn a_line_that_a_later_event_has_no_more_is_gone() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let after = invoice("in_1", "cus_1", "draft", 2000);
    let mut before = after.clone();
    let mut second = before["lines"]["data"][0].clone();
    second["id"] = json!("il_second");
    before["lines"]["data"].as_array_mut().expect("lines").push(second);
    daemon.deliver(&event("evt_1", "invoice.created", 100, before)).await;
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM invoice_lines"), 2);
    daemon.deliver(&event("evt_2", "invoice.updated", 200, after)).await;
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM invoice_lines"), 1);
}

/// 300 shuffles with repeats, over HTTP, eight at once, to two daemons on one database: one canonical dump.
#[tokio::test]
async fn order_repeats_and_replicas_do_not_matter() {
    let database = Database::new();
    let daemons = [
        Daemon::with(&database, &[("COULOMB_PROJECTION_BATCH", "3")]),
        Daemon::with(&database, &[("COULOMB_PROJECTORS", "2"), ("COULOMB_PROJECTION_BATCH", "2")]),
    ];
    let mut numbers = Numbers(7);
    // Each shuffle is a world of its own: the same objects in an account of their own.
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

/// Changes of one second that are projected one after another, in the wrong order: each choice weighs all
/// events of that second.
#[tokio::test]
async fn a_second_is_weighed_as_a_whole() {
    let with = |email: Option<&str>, phone: Option<&str>| {
        let mut customer = customer("cus_1", None);
        customer["email"] = json!(email);
        customer["phone"] = json!(phone);
        customer
    };
    let events = [
        event("evt_9", "customer.created", 5, with(None, None)),
        updated("evt_1", "customer.updated", 5, with(Some("a@x"), None), json!({ "email": null })),
        updated("evt_8", "customer.updated", 5, with(Some("b@x"), None), json!({ "email": "a@x" })),
        updated("evt_2", "customer.updated", 5, with(Some("b@x"), Some("1")), json!({ "phone": null })),
    ];
    for order in [[3, 2, 1, 0], [2, 3, 0, 1], [0, 3, 1, 2]] {
        let database = Database::new();
        let daemon = Daemon::start(&database);
        for n in order {
            daemon.deliver(&events[n]).await;
            daemon.projected().await;
        }
        assert_eq!(
            database.value("SELECT email || ' ' || phone FROM customers").as_deref(),
            Some("b@x 1"),
            "{order:?}"
        );
        assert_eq!(database.number("SELECT count(*) FROM stripe_objects WHERE ambiguous"), 0);
    }
}

#[tokio::test]
async fn a_deleted_customer_stays_deleted_and_a_recreated_product_lives() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let product = |name: &str| {
        json!({ "id": "gold", "object": "product", "created": 1, "name": name,
        "active": true, "metadata": {}, "livemode": false })
    };
    let events = [
        event("evt_1", "customer.deleted", 10, customer("cus_1", None)),
        event("evt_2", "customer.updated", 10, customer("cus_1", None)),
        event("evt_3", "product.deleted", 10, product("old")),
        event("evt_4", "product.created", 5, product("old")),
        event("evt_5", "product.created", 12, product("new")),
    ];
    daemon.deliver_all(&events).await;
    daemon.projected().await;
    assert_eq!(database.value("SELECT deleted FROM customers").as_deref(), Some("true"));
    assert_eq!(database.value("SELECT name || ' ' || deleted FROM products").as_deref(), Some("new false"));
}

/// An event that cannot be projected is tried again, then quarantined with its error, and blocks nobody.
#[tokio::test]
async fn poison_blocks_only_itself() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_PROJECTION_ATTEMPTS", "2")]);
    let mut poison = event("evt_poison", "invoice.paid", 20, invoice("in_1", "cus_1", "paid", 100));
    poison["data"]["object"]["total"] = json!(1e300);
    daemon.deliver(&poison).await;
    daemon.deliver(&event("evt_same", "invoice.finalized", 10, invoice("in_1", "cus_1", "open", 100))).await;
    daemon.deliver(&event("evt_other", "invoice.paid", 10, invoice("in_2", "cus_1", "paid", 100))).await;
    let started = std::time::Instant::now();
    while daemon.metric("coulomb_stripe_inbox_quarantined").await != Some(1) {
        assert!(started.elapsed().as_secs() < 30, "not quarantined");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    daemon.projected().await;
    assert_eq!(
        database.value("SELECT string_agg(id || ' ' || status, ', ' ORDER BY id) FROM invoices").as_deref(),
        Some("in_1 open, in_2 paid")
    );
    let listed = database.run(&["stripe", "inbox", "list", "--state", "quarantined"]);
    let listed: Value = serde_json::from_str(&listed).expect("one line");
    assert_eq!((listed["event_id"].as_str(), listed["attempts"].as_i64()), (Some("evt_poison"), Some(2)));
    assert!(listed["last_error"].as_str().expect("an error").contains("`total`"), "{listed}");
    let doctor = database.command(&["doctor"]).output().expect("runs");
    assert_eq!(doctor.status.code(), Some(3), "{}", String::from_utf8_lossy(&doctor.stdout));
    // A number that no reader can hold, in a field that nobody reads.
    let unreadable = r#"{"id":"evt_big","type":"invoice.paid","created":1,
        "data":{"object":{"id":"in_3","object":"invoice","x":1e999}}}"#;
    let header = crate::support::stripe::signature(unreadable.as_bytes());
    assert_eq!(daemon.deliver_raw(unreadable.into(), header.as_bytes()).await.0, 200);
    let started = std::time::Instant::now();
    while database
        .number("SELECT count(*) FROM stripe_inbox_queue WHERE last_error LIKE 'the body cannot be read%'")
        != 1
    {
        assert!(started.elapsed().as_secs() < 30, "it must not pass for an event without an object");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Another try, by hand: it fails again, and its neighbours stay as they are.
    assert!(database.run(&["stripe", "inbox", "retry", "--quarantined"]).ends_with("on the queue\n"));
    let body = database.run(&["stripe", "inbox", "show", &listed["inbox_id"].to_string(), "--body"]);
    assert_eq!(serde_json::from_str::<Value>(&body).expect("the body"), poison);
}

/// What the projection derives can be rebuilt, and a difference is found.
#[tokio::test]
async fn verify_finds_what_was_changed_and_rebuild_mends_it() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    daemon.deliver_all(&purchase()).await;
    daemon.projected().await;
    let before = database.run(&["dump"]);
    database.execute("UPDATE invoices SET total = total + 1; DELETE FROM subscription_items");
    let verify = database.command(&["verify"]).output().expect("runs");
    let told = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert_eq!(verify.status.code(), Some(3), "{told}");
    assert!(
        told.contains("invoices in_1 in test mode: total is 2001, events say 2000")
            && told.contains("subscription_items sub_1 0 in test mode: is not there, but events make it"),
        "{told}"
    );
    database.run(&["rebuild", "mirrors", "--yes"]);
    let started = std::time::Instant::now();
    while database.number("SELECT count(*) FROM stripe_inbox_queue") > 0 {
        assert!(started.elapsed().as_secs() < 30, "not projected again");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(database.run(&["dump"]), before);
    assert!(database.run(&["verify"]).is_empty());
}

/// The subscription's own status decides, not the type of the event, and a terminal one absorbs what comes
/// later.
#[tokio::test]
async fn status_comes_from_the_object_and_terminal_ones_absorb() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let events = [
        event("evt_1", "invoice.finalized", 10, invoice("in_1", "cus_1", "paid", 100)),
        updated(
            "evt_2",
            "invoice.updated",
            30,
            invoice("in_1", "cus_1", "open", 100),
            json!({ "metadata": {} }),
        ),
        event(
            "evt_3",
            "customer.subscription.deleted",
            10,
            subscription("sub_1", "cus_1", "canceled", "price_pro"),
        ),
        event(
            "evt_4",
            "customer.subscription.updated",
            99,
            subscription("sub_1", "cus_1", "active", "price_pro"),
        ),
    ];
    daemon.deliver_all(&events).await;
    daemon.projected().await;
    assert_eq!(database.value("SELECT status FROM invoices").as_deref(), Some("paid"));
    assert_eq!(database.value("SELECT status FROM subscriptions").as_deref(), Some("canceled"));
}
