//! The test stops one of two daemons in the middle of its work.

use diesel::connection::SimpleConnection;

use super::build::{Run, month};
use super::shop;
use super::skipped::{empty_shop, new_plan};
use crate::support::world::until;
use crate::support::{Daemon, Database};

/// Waits until a statement that contains this text waits for a lock.
async fn until_blocked(database: &Database, sql: &str) {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{sql}%'"
    );
    until(&format!("a statement waits at {sql}"), async || database.number(&count) > 0).await;
}

/// A daemon that skips a payment records that before anybody works on the first mapping, however long it
/// takes.
#[tokio::test]
async fn the_first_mapping_waits_for_those_who_have_not_seen_it() {
    let mut world = empty_shop(&["slow".to_owned()]).start().await;
    let run = Run::of("slow");
    world.tell([run.customer()]).await;
    // The daemon has seen that nothing is sold, and cannot write that yet.
    let mut held = world.platform();
    held.batch_execute("BEGIN; INSERT INTO battery_effects_skipped (kind, since) VALUES ('invoice', now())")
        .expect("writes");
    world.deliver(run.paid("a", "subscription_create", 0, &[month("price_new", 2000)])).await;
    until_blocked(&world, "battery_effects_skipped").await;
    let other = Daemon::start(&world);
    world.daemons.push(other);
    world.on(1).send(new_plan("price_new")).await.status(200);
    until_blocked(&world, "pg_advisory_xact_lock").await;
    held.batch_execute("ROLLBACK").expect("rolls back");
    world.daemons[1].projected().await;
    assert_eq!(world.balance_of("slow"), "1000");
}

/// A daemon reads what it applies while it has the accounts locked, however long it waited for the lock.
#[tokio::test]
async fn whoever_locks_last_sees_all() {
    let world = shop(&["first", "second"]).start().await;
    let runs = ["first", "second"].map(Run::of);
    for run in &runs {
        world.deliver(run.customer()).await;
        world.deliver(run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)])).await;
        world.deliver(run.invoice_payment("a", 2000)).await;
    }
    world.tell([runs[1].refund("1", "a", 1000, "succeeded", 0)]).await;
    assert_eq!(world.balance_of("second"), "500");
    // It looks at both again, and waits for the first.
    let mut held = world.platform();
    held.batch_execute("BEGIN; SELECT FROM battery_accounts ORDER BY org_id LIMIT 1 FOR UPDATE")
        .expect("locks");
    world.execute(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT account, livemode, 'invoice', id FROM invoices",
    );
    until_blocked(&world, "battery_accounts").await;
    let other = Daemon::start(&world);
    other.deliver(&runs[1].refund("1", "a", 1000, "failed", 1)).await;
    until("the other daemon does not wait", async || world.balance_of("second") == "1000").await;
    held.batch_execute("ROLLBACK").expect("rolls back");
    other.projected().await;
    assert_eq!(world.balance_of("second"), "1000");
    world.effects_are_sound();
}
