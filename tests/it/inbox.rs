//! The operator's routes for the inbox; the rows of the inbox never change.

use serde_json::json;

use crate::support::events::{customer, event};
use crate::support::{Daemon, Database};

#[tokio::test]
async fn an_operator_lists_shows_and_retries() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    for n in 1..=3 {
        daemon
            .deliver(&event(&format!("evt_{n}"), "customer.created", n, customer(&format!("cus_{n}"), None)))
            .await;
    }
    daemon.projected().await;
    let key = database.key("admin", None);
    let (status, page) = daemon.get("/v1/stripe/inbox?limit=2", &key).await;
    assert_eq!(status, 200, "{page}");
    assert_eq!(page["data"][0]["event_id"], "evt_3");
    let (_, rest) = daemon.get(&format!("/v1/stripe/inbox?limit=2&cursor={}", page["next"]), &key).await;
    assert_eq!((rest["data"].as_array().map(Vec::len), &rest["next"]), (Some(1), &json!(null)));
    let (_, about) = daemon.get("/v1/stripe/inbox?about=cus_2&state=done", &key).await;
    let inbox_id = about["data"][0]["inbox_id"].as_i64().expect("one event");
    let (_, shown) = daemon.get(&format!("/v1/stripe/inbox/{inbox_id}"), &key).await;
    assert!(shown["body"].as_str().expect("a body").contains("cus_2"));
    let (status, _) = daemon.post(&format!("/v1/stripe/inbox/{inbox_id}/retry"), &key, &json!({})).await;
    assert_eq!(status, 202);
    daemon.projected().await;
    assert_eq!(daemon.get("/v1/stripe/inbox/999999", &key).await.0, 404);
    let (_, types) = daemon.get("/v1/stripe/inbox/types", &key).await;
    assert_eq!(types, json!([{ "event_type": "customer.created", "stored": 3, "quarantined": 0 }]));
    let billing = database.key("billing:read", None);
    assert_eq!(daemon.get("/v1/stripe/inbox", &billing).await.0, 403);
}

/// Any daemon files acknowledged deliveries, even if the daemon that received them crashed.
#[tokio::test]
async fn what_arrived_is_filed_by_another_daemon() {
    let database = Database::new();
    let taker = Daemon::with(&database, &[("COULOMB_PROJECTORS", "0")]);
    let one = |n: i64| event(&format!("evt_{n}"), "customer.created", n, customer(&format!("cus_{n}"), None));
    taker.deliver_all(&[one(1), one(2), one(2), one(3)]).await;
    assert_eq!(taker.metric("coulomb_stripe_inbox_pending").await, Some(4));
    drop(taker);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), 0);
    let projector = Daemon::start(&database);
    projector.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM stripe_arrivals"), 0);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), 3);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox_redeliveries"), 1);
    assert_eq!(database.number("SELECT count(*) FROM customers"), 3);
}

/// A delivery that does not fit the inbox waits, and the others continue.
#[tokio::test]
async fn a_delivery_that_cannot_be_filed_blocks_nobody() {
    let database = Database::new();
    database.execute("ALTER TABLE stripe_inbox ADD CONSTRAINT test CHECK (event_type <> 'customer.bad')");
    let taker = Daemon::with(&database, &[("COULOMB_PROJECTORS", "0"), ("COULOMB_INBOX_WRITERS", "1")]);
    let one = |n: i64| {
        let kind = if n == 5 { "customer.bad" } else { "customer.created" };
        event(&format!("evt_{n}"), kind, n, customer(&format!("cus_{n}"), None))
    };
    taker.deliver_all(&(1..=16).map(one).collect::<Vec<_>>()).await;
    drop(taker);
    let daemon = Daemon::start(&database);
    let wait = async |sql: &str, number: i64| {
        let started = std::time::Instant::now();
        while database.number(sql) != number {
            assert!(started.elapsed().as_secs() < 60, "{sql} does not reach {number}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    wait("SELECT count(*) FROM customers", 15).await;
    wait("SELECT count(*) FROM stripe_arrivals WHERE attempts > 0", 1).await;
    // What a projected event leads to is queued, and counted as pending, too.
    wait("SELECT count(*) FROM battery_effects_queue", 0).await;
    assert_eq!(daemon.metric("coulomb_stripe_inbox_pending").await, Some(1));
    // The command lists which delivery, and why.
    let listed = database.run(&["stripe", "inbox", "unfiled"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one line of JSON");
    assert_eq!(
        (listed["event_id"].as_str(), listed["event_type"].as_str()),
        (Some("evt_5"), Some("customer.bad"))
    );
    let why = listed["last_error"].as_str().expect("a reason");
    assert!(why.contains("violates check constraint"), "{why}");
    let key = database.key("admin", None);
    let (status, told) = daemon.get("/v1/stripe/inbox/unfiled", &key).await;
    assert_eq!((status.as_u16(), told[0]["event_id"].as_str()), (200, Some("evt_5")), "{told}");
    let doctor = database.command(&["doctor"]).output().expect("runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("BAD  inbox: 1 acknowledged delivery(ies) cannot be put into the inbox"),
        "{doctor}"
    );
    database.execute("ALTER TABLE stripe_inbox DROP CONSTRAINT test");
    wait("SELECT count(*) FROM customers", 16).await;
    daemon.projected().await;
    assert_eq!(database.run(&["stripe", "inbox", "unfiled"]), "");
}

/// Inbox and audit rows are only inserted: the daemon's own role may not change them.
#[tokio::test]
async fn the_daemon_cannot_change_what_must_not_change() {
    use diesel::connection::SimpleConnection;
    let database = Database::new();
    let mut conn = database.platform();
    for statement in [
        "UPDATE stripe_inbox SET event_type = ''",
        "DELETE FROM stripe_inbox",
        "TRUNCATE stripe_inbox",
        "UPDATE audit_log SET actor = ''",
        "DELETE FROM audit_log",
        "DELETE FROM usage_partitions.audit_log_default",
        "INSERT INTO usage_partitions.audit_log_default DEFAULT VALUES",
        "DELETE FROM stripe_inbox_redeliveries",
        "UPDATE stripe_arrivals SET bodies = '{}'",
        "UPDATE battery_entries SET amount = 1",
        "DELETE FROM battery_entries",
        "DELETE FROM coulomb_migrations",
        "DROP TABLE invoices",
        "ALTER TABLE invoices DISABLE ROW LEVEL SECURITY",
    ] {
        let error = conn.batch_execute(statement).expect_err(statement).to_string();
        assert!(
            error.contains("permission denied") || error.contains("must be owner"),
            "{statement}: {error}"
        );
    }
}
