//! The machine's clock jumps: no row gets a wrong date, and nothing is deleted because of it.

use serde_json::json;

use crate::support::daemon::answer;
use crate::support::stripe::signature;
use crate::support::{Daemon, Database, TestClock};

#[tokio::test]
async fn nothing_is_written_while_the_clock_is_doubted() {
    let database = Database::new();
    let key = database.key("admin", None);
    let clock = TestClock::at("2026-11-21T12:00:00Z");
    let daemon = Daemon::watching(&database, &clock);
    let org = |name: &str| json!({ "name": name, "external_id": name });
    assert_eq!(daemon.post("/v1/orgs", &key, &org("before")).await.0, 201);

    clock.turn("2026-12-31T12:00:00Z");
    let (status, problem) = daemon.post("/v1/orgs", &key, &org("ahead")).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("clock_jumped")), "{problem}");
    let event = json!({ "id": "a", "source": "s", "org": "before", "event_name": "x", "data": {} });
    assert_eq!(daemon.post("/v1/usage", &key, &event).await.1["code"], "clock_jumped");
    let body = json!({ "id": "evt_1", "object": "event" }).to_string();
    let delivery = daemon
        .http
        .post(format!("{}/webhooks/stripe", daemon.base))
        .header("Stripe-Signature", signature(body.as_bytes()))
        .body(body);
    assert_eq!(answer(delivery).await.1["code"], "clock_jumped");
    assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200, "reads continue");
    let (status, problem) = answer(daemon.http.get(format!("{}/readyz", daemon.base))).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some("clock_jumped")), "{problem}");

    clock.turn("2026-11-21T12:00:12Z");
    assert_eq!(daemon.post("/v1/orgs", &key, &org("after")).await.0, 201);
    let dates = "SELECT count(*) FROM audit_log WHERE at > '2026-12-30'";
    assert_eq!(database.number(dates), 0);
}

#[test]
fn a_start_far_from_the_clock_of_the_database_is_refused() {
    let Some(library) = faketime() else {
        println!("skipped: libfaketime is not installed");
        return;
    };
    let database = Database::new();
    let output = database
        .command(&["serve"])
        .env("COULOMB_LISTEN", "127.0.0.1:0")
        .env("LD_PRELOAD", library)
        .env("FAKETIME", "+400d")
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("ahead of the database's"), "{told}");
}

/// A library that shifts the clock of one process, where it is installed.
fn faketime() -> Option<String> {
    let path = |machine: &str| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1");
    ["x86_64", "aarch64"].map(path).into_iter().find(|path| std::path::Path::new(path).exists())
}
