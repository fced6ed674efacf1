//! Commands: each key runs once, with an audit entry, completely or not at all.

use reqwest::Method;
use serde_json::json;

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

#[tokio::test]
async fn a_key_makes_a_command_safe_to_repeat() {
    let database = Database::new();
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = database.key("billing:write", None);
    let body = json!({ "name": "Acme" });
    let send = |n: usize, body: serde_json::Value| {
        answer(
            daemons[n % 2]
                .request(Method::POST, "/v1/orgs", &key)
                .header("Idempotency-Key", "k1")
                .json(&body),
        )
    };
    let answers = futures_util::future::join_all((0..16).map(|n| send(n, body.clone()))).await;
    for (status, answer) in &answers {
        assert_eq!((status.as_u16(), &answer["id"]), (201, &answers[0].1["id"]), "{answer}");
    }
    assert_eq!(database.number("SELECT count(*) FROM orgs"), 1);
    assert_eq!(database.number("SELECT count(*) FROM audit_log WHERE action = 'org.create'"), 1);
    let (status, refused) = send(0, json!({ "name": "Other" })).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (409, Some("idempotency_key_reused")));
}

#[tokio::test]
async fn a_failed_command_leaves_nothing_and_may_be_tried_again() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:write", None);
    let send = |body: serde_json::Value| {
        answer(daemon.request(Method::POST, "/v1/orgs", &key).header("Idempotency-Key", "k1").json(&body))
    };
    let (status, _) = send(json!({ "name": "Acme", "time_zone": "Mars/Olympus" })).await;
    assert_eq!(status, 400);
    assert_eq!(database.number("SELECT count(*) FROM idempotency_keys"), 0);
    assert_eq!(send(json!({ "name": "Acme", "time_zone": "Europe/Berlin" })).await.0, 201);
}

/// A wrong request's answer names the field and the rule.
#[tokio::test]
async fn errors_name_the_field() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:write,billing:read", None);
    daemon.post("/v1/orgs", &key, &json!({ "name": "Acme", "external_id": "acme" })).await;
    for (body, status, code, field) in [
        (json!({ "name": "" }), 400, "invalid_request", Some("name")),
        (json!({ "name": "x", "zone": "UTC" }), 400, "invalid_request", Some("zone")),
        (json!({ "name": "x", "time_zone": "Nowhere" }), 400, "invalid_request", Some("time_zone")),
        (json!({ "name": "x", "metadata": { "a": "\u{0}" } }), 400, "invalid_request", Some("metadata.a")),
        (json!({ "name": "x", "external_id": "acme" }), 409, "external_id_taken", None),
    ] {
        let (got, problem) = daemon.post("/v1/orgs", &key, &body).await;
        assert_eq!(
            (got.as_u16(), problem["code"].as_str(), problem["field"].as_str()),
            (status, Some(code), field),
            "{body}: {problem}"
        );
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
    }
    for path in ["/v1/orgs?limit=0", "/v1/orgs?cursor=%00", "/v1/orgs?limit=many", "/v1/orgs?external_id=%00"]
    {
        assert_eq!(daemon.get(path, &key).await.0, 400, "{path}");
    }
}
