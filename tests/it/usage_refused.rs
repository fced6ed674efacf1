//! The database refuses usage: an event is at fault only if other events can be stored.

use serde_json::json;

use crate::support::World;
use crate::support::requests::{Usage, usage};

/// An org with a meter.
async fn acme() -> World {
    World::new().org("acme").meter("work").start().await
}

fn events(number: usize) -> Vec<Usage> {
    (0..number).map(|n| usage("acme", "work").id(&n.to_string())).collect()
}

#[tokio::test]
async fn an_event_that_the_database_cannot_hold_is_refused_alone() {
    let world = acme().await;
    // Events that are expected to be new, so they are stored in the quick way.
    let events = events(40);
    // One violates a check, one is out of range.
    world.execute(
        "ALTER TABLE usage_records ADD CONSTRAINT test CHECK (event_id <> '17');
         CREATE INDEX test ON
             usage_records (((CASE event_id WHEN '23' THEN 3000000000 ELSE 1 END)::integer))",
    );
    let at_fault = |n: usize| n == 17 || n == 23;
    // All or nothing: the answer names the bad events, and nothing is stored.
    let all = events.iter().cloned().map(Usage::json).collect();
    let answer = world.post("/v1/usage?all_or_nothing=true", all).await.refused(422, "not_stored");
    for (n, told) in answer.list("results").iter().enumerate() {
        assert_eq!(told["status"], if at_fault(n) { "rejected" } else { "not_stored" }, "event {n}: {told}");
    }
    assert_eq!(
        world.number("SELECT (SELECT count(*) FROM usage_keys) + (SELECT count(*) FROM usage_records)"),
        0
    );

    for (n, told) in world.on(0).usage(events.clone()).await.iter().enumerate() {
        assert_eq!(told, if at_fault(n) { "data not_storable" } else { "accepted" }, "event {n}");
    }
    assert_eq!(world.number("SELECT sum(quantity) FROM daily_summaries"), 38);
    // Their keys are free again.
    world.execute("ALTER TABLE usage_records DROP CONSTRAINT test; DROP INDEX test");
    for (n, told) in world.on(0).usage(events.clone()).await.iter().enumerate() {
        assert_eq!(told, if at_fault(n) { "accepted" } else { "duplicate" }, "event {n}");
    }
    world.balances();
}

/// A client drops a rejected event. If the database is at fault, the answer must let the client try again.
#[tokio::test]
async fn a_fault_of_the_database_rejects_no_event() {
    let world = acme().await;
    let refused = async || {
        let events = json!(events(3).into_iter().map(Usage::json).collect::<Vec<_>>());
        world.post("/v1/usage", events).await.refused(503, "overloaded");
        assert_eq!(world.number("SELECT count(*) FROM usage_keys"), 0);
    };
    world.execute("REVOKE INSERT ON usage_keys FROM coulomb_platform");
    refused().await;
    world.execute("GRANT INSERT ON usage_keys TO coulomb_platform");

    // A server that has become a standby accepts no writes; another connection may reach the new primary.
    let name = world.value("SELECT current_database()").expect("a name");
    world.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    ));
    refused().await;
    world.execute(&format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    ));
    assert_eq!(world.on(0).usage(events(3)).await, ["accepted"; 3]);
    world.balances();
}
