//! Usage that the database refuses: an event is at fault only where others could be stored.

use serde_json::{Value, json};

use crate::support::{Daemon, Database};

/// An org with a meter, and `number` events of it.
async fn ready(database: &Database, daemon: &Daemon, number: usize) -> (String, Value) {
    let key = database.key("usage:write,usage:read,billing:write,billing:read", None);
    daemon.org(&key, "acme", "UTC").await;
    database.meter(1, "work", "sum", "model", None);
    let event = |n| {
        json!({ "id": format!("{n}"), "source": "t", "org": "acme", "event_name": "work",
        "data": { "value": 1 } })
    };
    (key, (0..number).map(event).collect())
}

#[tokio::test]
async fn an_event_that_the_database_cannot_hold_is_refused_alone() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    // As many as are expected to be new, and stored in the quick way.
    let (key, events) = ready(&database, &daemon, 40).await;
    // One against a check, one out of range.
    database.execute(
        "ALTER TABLE usage_records ADD CONSTRAINT test CHECK (event_id <> '17');
         CREATE INDEX test ON
             usage_records (((CASE event_id WHEN '23' THEN 3000000000 ELSE 1 END)::integer))",
    );
    let at_fault = |n: usize| n == 17 || n == 23;
    // All or nothing: told which are at fault, and nothing is stored.
    let (status, answer) = daemon.post("/v1/usage?all_or_nothing=true", &key, &events).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (422, Some("not_stored")), "{answer}");
    for (n, told) in answer["results"].as_array().expect("results").iter().enumerate() {
        assert_eq!(told["status"], if at_fault(n) { "rejected" } else { "not_stored" }, "event {n}: {told}");
    }
    assert_eq!(
        database.number("SELECT (SELECT count(*) FROM usage_keys) + (SELECT count(*) FROM usage_records)"),
        0
    );

    for (n, told) in daemon.usage(&key, &events).await.iter().enumerate() {
        assert_eq!(told, if at_fault(n) { "data not_storable" } else { "accepted" }, "event {n}");
    }
    assert_eq!(database.number("SELECT sum(quantity) FROM daily_summaries"), 38);
    // Their keys were given back.
    database.execute("ALTER TABLE usage_records DROP CONSTRAINT test; DROP INDEX test");
    for (n, told) in daemon.usage(&key, &events).await.iter().enumerate() {
        assert_eq!(told, if at_fault(n) { "accepted" } else { "duplicate" }, "event {n}");
    }
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

/// Told that an event is rejected, its sender drops it: where the fault is the database's, it must hear that
/// it may try again.
#[tokio::test]
async fn a_fault_of_the_database_rejects_no_event() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let (key, events) = ready(&database, &daemon, 3).await;
    let refused = async || {
        let (status, answer) = daemon.post("/v1/usage", &key, &events).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("overloaded")), "{answer}");
        assert_eq!(database.number("SELECT count(*) FROM usage_keys"), 0);
    };
    database.execute("REVOKE INSERT ON usage_keys FROM coulomb_platform");
    refused().await;
    database.execute("GRANT INSERT ON usage_keys TO coulomb_platform");

    // A server that has become a standby takes no writes; another connection may reach the one that took
    // over.
    let name = database.value("SELECT current_database()").expect("a name");
    database.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    ));
    refused().await;
    database.execute(&format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    ));
    assert_eq!(daemon.usage(&key, &events).await, ["accepted"; 3]);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}
