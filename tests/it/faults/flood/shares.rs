//! One org sends, asks and exports as much as it can: another org's requests continue beside it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Daemon, Database};

/// A database with two orgs, and a key for each.
async fn two_orgs(settings: &[(&str, &str)]) -> (Database, Daemon, [String; 2]) {
    let database = Database::new();
    let daemon = Daemon::with(&database, settings);
    let admin = database.key("admin", None);
    let mut keys = Vec::new();
    for name in ["flood", "other"] {
        let org = daemon.org(&admin, name, "UTC").await;
        keys.push(database.key("usage:write,usage:read,billing:read", Some(&org)));
    }
    database.meter(1, "work", "count", "", None);
    let keys = keys.try_into().expect("two");
    (database, daemon, keys)
}

fn event(id: &str) -> Value {
    json!({ "id": id, "event_name": "work", "data": {} })
}

/// Batches of one org on many connections, while storing is slow: another org's single event has its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_usage_leaves_places_for_others() {
    let settings = [("COULOMB_USAGE_QUEUE", "4000"), ("COULOMB_USAGE_BATCH", "1000")];
    let (database, daemon, [flood, other]) = two_orgs(&settings).await;
    let mut blocker = database.owner();
    blocker.batch_execute("BEGIN; LOCK TABLE usage_keys IN ACCESS EXCLUSIVE MODE").expect("locks");
    let (refused, send) = (AtomicUsize::new(0), |batch: usize| {
        let events: Vec<Value> = (0..1_000).map(|n| event(&format!("{batch}/{n}"))).collect();
        daemon.request(Method::POST, "/v1/usage?results=problems", &flood).json(&events).send()
    });
    let batch = async |n: usize| match send(n).await.expect("an answer").status() {
        StatusCode::OK => 1,
        StatusCode::TOO_MANY_REQUESTS => {
            refused.fetch_add(1, Ordering::Relaxed);
            0
        }
        status => panic!("{status}"),
    };
    let beside = async {
        // Four thousand places have room for only four of the batches.
        while refused.load(Ordering::Relaxed) < 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let unlock = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            blocker.batch_execute("COMMIT").expect("unlocks");
        };
        join(daemon.usage(&other, &event("single")), unlock).await.0
    };
    let (taken, single) = join(join_all((0..14).map(batch)), beside).await;
    assert_eq!(single, ["accepted"]);
    let taken: i64 = taken.iter().sum();
    assert!(taken > 0);
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), taken * 1_000 + 1);
}

/// Requests of one org that wait for the database leave connections for another org.
#[tokio::test]
async fn a_flood_of_reads_leaves_connections_for_others() {
    let settings = [("COULOMB_POOL_SIZE", "4"), ("COULOMB_POOL_WAIT_MS", "20000")];
    let (database, daemon, [flood, other]) = two_orgs(&settings).await;
    let read = |path, key| daemon.get(path, key);
    assert_eq!(read("/v1/customers", &other).await.0, 200);
    let mut blocker = database.owner();
    blocker.batch_execute("BEGIN; LOCK TABLE disputes IN ACCESS EXCLUSIVE MODE").expect("locks");
    let blocked = join_all((0..20).map(|_| read("/v1/disputes", &flood)));
    let beside = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..5 {
            assert_eq!(read("/v1/customers", &other).await.0, 200);
        }
        blocker.batch_execute("COMMIT").expect("unlocks");
    };
    let (blocked, ()) = join(blocked, beside).await;
    assert!(blocked.iter().all(|(status, _)| *status == 200), "they waited and succeeded");
}

/// An export that the client does not read uses a place of its own key, not of another's, and ends by itself.
#[tokio::test]
async fn untaken_exports_leave_places_for_others_and_end() {
    let database = Database::new();
    database.execute(
        "INSERT INTO invoices (account, livemode, id, currency, total, lines_complete, created, deleted,
             description)
         SELECT '', false, 'in_' || n, 'eur', n, true, '2026-01-01'::timestamptz + n * interval '1 second',
             false,
                repeat('text ', 3000)
         FROM generate_series(1, 1000) n",
    );
    let daemon = Daemon::with(&database, &[("COULOMB_EXPORTS", "2"), ("COULOMB_ANSWER_TIMEOUT_S", "3")]);
    let (flood, other) = (database.key("billing:read", None), database.key("billing:read", None));
    let export = |key: &str| daemon.request(Method::GET, "/v1/invoices/export", key).send();
    let untaken = export(&flood).await.expect("an answer");
    assert_eq!(untaken.status(), 200);
    assert_eq!(export(&flood).await.expect("an answer").status(), 503);
    assert_eq!(export(&other).await.expect("an answer").status(), 200);
    // The daemon closes it, and its place is free.
    let started = std::time::Instant::now();
    loop {
        let again = export(&flood).await.expect("an answer").status();
        if again == 200 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{again}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(untaken.bytes().await.is_err(), "the export broke off");
}
