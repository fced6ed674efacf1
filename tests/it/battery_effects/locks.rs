//! One of two daemons is held up in the middle of its work on purpose.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;

use super::build::{Run, month};
use super::skipped::{plan, put};
use super::{battery, differences, furnish, orgs, unsound};
use crate::support::{Daemon, Database};

/// Waits until a statement that contains this waits for a lock.
async fn until_blocked(database: &Database, sql: &str) {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{sql}%'"
    );
    let started = Instant::now();
    while database.number(&count) == 0 {
        assert!(started.elapsed().as_secs() < 20, "nobody waits at {sql}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever passes a payment over tells so before the first mapping is worked on, however long it takes.
#[tokio::test]
async fn the_first_mapping_waits_for_those_who_have_not_seen_it() {
    let database = Database::new();
    orgs(&database, &["slow".to_owned()]);
    let key = database.key("admin,billing:read,billing:write", None);
    let slow = Daemon::start(&database);
    let run = Run { tag: "slow".to_owned() };
    slow.deliver(&run.customer()).await;
    slow.projected().await;
    // It has seen that nothing is sold, and cannot write it down.
    let mut held = database.platform();
    held.batch_execute(
        "BEGIN; INSERT INTO battery_effects_skipped (kind, since)
        VALUES ('invoice', now())",
    )
    .expect("writes");
    slow.deliver(&run.paid("a", "subscription_create", 0, &[month("price_new", 2000)])).await;
    until_blocked(&database, "battery_effects_skipped").await;
    let other = Daemon::start(&database);
    put(&other, &key, "/v1/plans/new", &plan("price_new")).await;
    until_blocked(&database, "pg_advisory_xact_lock").await;
    held.batch_execute("ROLLBACK").expect("rolls back");
    other.projected().await;
    assert_eq!(battery(&database, "slow").0, "1000");
}

/// What a daemon applies it has read with the accounts locked, however long it waited for them.
#[tokio::test]
async fn whoever_locks_last_sees_all() {
    let database = Database::new();
    furnish(&database, &["first".to_owned(), "second".to_owned()]);
    let slow = Daemon::start(&database);
    let [first, second] = ["first", "second"].map(|tag| Run { tag: tag.to_owned() });
    for run in [&first, &second] {
        slow.deliver(&run.customer()).await;
        slow.deliver(&run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)])).await;
        slow.deliver(&run.invoice_payment("a", 2000)).await;
    }
    slow.deliver(&second.refund("1", "a", 1000, "succeeded", 0)).await;
    slow.projected().await;
    assert_eq!(battery(&database, "second").0, "500");
    // It is to look at both again, and waits for the first.
    let mut held = database.platform();
    held.batch_execute("BEGIN; SELECT FROM battery_accounts ORDER BY org_id LIMIT 1 FOR UPDATE")
        .expect("locks");
    database.execute(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT account, livemode, 'invoice', id FROM invoices",
    );
    until_blocked(&database, "battery_accounts").await;
    let other = Daemon::start(&database);
    other.deliver(&second.refund("1", "a", 1000, "failed", 1)).await;
    let started = Instant::now();
    while battery(&database, "second").0 != "1000" {
        assert!(started.elapsed().as_secs() < 20, "the other daemon waits, too");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    held.batch_execute("ROLLBACK").expect("rolls back");
    other.projected().await;
    assert_eq!(battery(&database, "second").0, "1000");
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}
