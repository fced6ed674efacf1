//! The server around the routes: shedding, draining, TLS, request ids, first start.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use serde_json::json;

use crate::support::events::{customer, event};
use crate::support::{Daemon, Database};

/// While every API connection is busy, API requests get 503; webhooks, probes and metrics continue.
#[tokio::test]
async fn an_exhausted_pool_sheds_api_requests_only() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_POOL_SIZE", "1"), ("COULOMB_POOL_WAIT_MS", "200")]);
    let key = database.key("billing:read", None);
    let mut blocker = database.owner();
    blocker.batch_execute("BEGIN; LOCK TABLE plans IN ACCESS EXCLUSIVE MODE").expect("locks");
    let slow = daemon.get("/v1/plans", &key);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let shed = daemon.request(reqwest::Method::GET, "/v1/orgs", &key).send().await.expect("an answer");
        assert_eq!(
            (shed.status().as_u16(), shed.headers()["retry-after"].to_str().expect("text")),
            (503, "1")
        );
        daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_1", None))).await;
        for probe in ["healthz", "readyz", "metrics"] {
            assert_eq!(
                daemon.http.get(format!("{}/{probe}", daemon.base)).send().await.expect("an answer").status(),
                200,
                "{probe}"
            );
        }
        blocker.batch_execute("COMMIT").expect("unlocks");
    };
    let ((status, _), ()) = futures_util::future::join(slow, meanwhile).await;
    assert_eq!(status, 200);
}

/// SIGTERM: the daemon answers the running request, then ends with code 0.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() {
    let database = Database::new();
    let mut daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let mut blocker = database.owner();
    blocker.batch_execute("BEGIN; LOCK TABLE plans IN ACCESS EXCLUSIVE MODE").expect("locks");
    let under_way = tokio::spawn(daemon.request(reqwest::Method::GET, "/v1/plans", &key).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ended = std::thread::spawn(move || daemon.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    blocker.batch_execute("COMMIT").expect("unlocks");
    assert_eq!(under_way.await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(ended.join().expect("no panic"), Some(0));
}

#[tokio::test]
async fn every_answer_carries_the_request_id() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let ask = |id: &str| {
        daemon.http.get(format!("{}/healthz", daemon.base)).header("X-Request-Id", id.to_owned()).send()
    };
    assert_eq!(ask("abc-1").await.expect("an answer").headers()["x-request-id"], "abc-1");
    let odd = ask("a b").await.expect("an answer").headers()["x-request-id"].clone();
    assert_eq!(odd.len(), 32);
    assert_ne!(ask("a b").await.expect("an answer").headers()["x-request-id"], odd);
    let key = database.key("billing:write", None);
    let request = daemon
        .request(reqwest::Method::POST, "/v1/orgs", &key)
        .header("X-Request-Id", "my-request")
        .json(&json!({ "name": "Acme" }));
    assert_eq!(request.send().await.expect("an answer").status(), 201);
    assert_eq!(
        database.value("SELECT request_id FROM audit_log WHERE action = 'org.create'").as_deref(),
        Some("my-request")
    );
}

/// Compressing a short answer would take longer than the work that it reports.
#[tokio::test]
async fn answers_to_short_reports_are_not_packed() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("usage:write,billing:read", None);
    let report = |events: usize| {
        let event = json!({ "id": "1", "org": "acme", "event_name": "work", "data": {} });
        let request = daemon.request(reqwest::Method::POST, "/v1/usage", &key);
        request.header("Accept-Encoding", "gzip").json(&vec![event; events]).send()
    };
    let encoding = |answer: &reqwest::Response| answer.headers().get("content-encoding").cloned();
    assert_eq!(encoding(&report(1).await.expect("an answer")), None);
    assert_eq!(encoding(&report(1000).await.expect("an answer")).expect("packed"), "gzip");
    let list = daemon.request(reqwest::Method::GET, "/v1/orgs", &key).header("Accept-Encoding", "gzip");
    assert_eq!(encoding(&list.send().await.expect("an answer")).expect("packed"), "gzip");
}

/// HTTPS with a given certificate.
#[tokio::test]
async fn tls_when_a_certificate_is_set() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
        ])
        .arg("-addext")
        .arg("subjectAltName=DNS:localhost,IP:127.0.0.1")
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        return println!("skipped: no openssl to make a certificate with");
    }
    let database = Database::new();
    let settings = [
        ("COULOMB_TLS_CERT", cert.to_str().expect("UTF-8")),
        ("COULOMB_TLS_KEY", key.to_str().expect("UTF-8")),
    ];
    let daemon = Daemon::with(&database, &settings);
    let curl = std::process::Command::new("curl")
        .args(["-sS", "--cacert"])
        .arg(&cert)
        .arg(format!("{}/readyz", daemon.base))
        .output();
    match curl {
        Ok(output) if output.status.success() => {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n")
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => println!("skipped: no curl"),
    }
    assert!(daemon.base.starts_with("https://"));
}

/// The daemon keeps answering while its database is away, and catches up afterwards.
#[tokio::test]
async fn a_lost_connection_is_made_again() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    daemon.deliver(&event("evt_1", "customer.created", 1, customer("cus_1", None))).await;
    daemon.projected().await;
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    daemon.deliver(&event("evt_2", "customer.created", 1, customer("cus_2", None))).await;
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM customers"), 2);
    assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200);
}
