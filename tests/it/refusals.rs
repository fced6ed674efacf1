//! Refusals name the field at fault, also where what is stored is in the way.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{adjust, grant, meter, request, reserve, usage};

#[tokio::test]
async fn refusals_name_the_field() {
    let world = World::new()
        .scopes("admin,billing:write,billing:read,usage:write,usage:read,keys:write")
        .org("acme")
        .org("gone")
        .with(meter("tokens"))
        .start()
        .await;
    let post = async |path: &str, body: Value| world.send(request(Method::POST, path, body)).await;
    let endpoint =
        post("/v1/message_endpoints", json!({ "url": "https://example.com/" })).await.status(201).id();
    world.patch(&format!("/v1/message_endpoints/{endpoint}"), json!({ "enabled": false })).await.ok();
    let on = |command: &str| format!("/v1/message_endpoints/{endpoint}/{command}");
    let ended = world.database.key("usage:read", None);
    let ended = ended.split('_').nth(2).expect("an id").to_owned();
    post("/v1/orgs/gone/archive", json!({})).await.ok();
    world.delete(&format!("/v1/keys/{ended}")).await.status(204);
    let less = world.database.key("keys:write,usage:read", None);
    let imported = json!({ "keys": [{ "sha256": "ab".repeat(32), "hint": "old_", "name": "n",
        "scopes": ["usage:read"] }] });
    post("/v1/keys/import", imported.clone()).await.status(201);
    for (path, body, status, field) in [
        ("/v1/message_endpoints", json!({ "url": "https://localhost/" }), 400, "url"),
        (
            "/v1/message_endpoints",
            json!({ "url": "https://example.com/", "kinds": ["nothing"] }),
            400,
            "kinds",
        ),
        (
            "/v1/message_endpoints",
            json!({ "url": "https://example.com/", "signature": "rot13" }),
            400,
            "signature",
        ),
        ("/v1/message_endpoints", json!({ "url": "https://example.com/", "org": "nobody" }), 404, "org"),
        (&on("test"), Value::Null, 409, "id"),
        (&on("replay"), json!({ "since": "2026-01-01T00:00:00Z" }), 409, "id"),
        (&on("replay"), json!({ "since": "yesterday" }), 400, "since"),
        ("/v1/keys", json!({ "name": "", "scopes": ["usage:read"] }), 400, "name"),
        ("/v1/keys", json!({ "name": "n", "scopes": ["all"] }), 400, "scopes"),
        ("/v1/keys", json!({ "name": "n", "scopes": [] }), 400, "scopes"),
        ("/v1/keys", json!({ "name": "n", "scopes": ["usage:read"], "org": "nobody" }), 404, "org"),
        ("/v1/keys/import", imported, 409, "keys.0.sha256"),
        (&format!("/v1/keys/{ended}/rotate"), json!({}), 409, "id"),
        (&format!("/v1/keys/{ended}/rotate"), json!({ "overlap_s": 7_776_001 }), 400, "overlap_s"),
        ("/v1/orgs/acme/suspend", json!({ "reason": " " }), 400, "reason"),
        ("/v1/orgs/acme/suspend", json!({ "reason": "x", "usage": "keep" }), 400, "usage"),
        ("/v1/orgs/acme/suspend", json!({}), 400, "reason"),
        ("/v1/orgs/gone/suspend", json!({ "reason": "x" }), 409, "org"),
    ] {
        post(path, body.clone()).await.names(status, field);
    }
    let beyond = json!({ "name": "n", "scopes": ["usage:write"] });
    let refused = world.by(&less).post("/v1/keys", beyond).await.names(403, "scopes");
    assert_eq!(refused.at("code"), "missing_scope");
    world.send(reserve(1).org("gone")).await.names(409, "org");
}

/// Its battery may still be corrected downwards, and takes units again when the org is restored.
#[tokio::test]
async fn an_archived_org_takes_no_suspension_and_no_units() {
    let world = World::new().org("acme").meter("tokens").start().await;
    world.send(grant("acme", 5)).await.ok();
    world.post("/v1/orgs/acme/archive", json!({})).await.ok();
    world.post("/v1/orgs/acme/suspend", json!({ "reason": "x" })).await.refused(409, "org_archived");
    assert_eq!(world.get("/v1/orgs/acme").await.at("standing.status"), "archived");
    world.send(grant("acme", 7)).await.refused(409, "org_archived");
    world.send(adjust("acme", 7)).await.refused(409, "org_archived");
    world.send(adjust("acme", -2)).await.ok();
    assert_eq!(world.number("SELECT balance::bigint FROM battery_accounts"), 3);
    let told = "SELECT count(*) FROM outbox_messages WHERE type = 'org.suspended'";
    assert_eq!(world.number(told), 0, "nobody hears of a suspension");
    world.post("/v1/orgs/acme/restore", json!({})).await.ok();
    world.send(grant("acme", 7)).await.ok();
    world.post("/v1/orgs/acme/suspend", json!({ "reason": "x" })).await.ok();
    assert!(world.uses(usage("acme", "tokens")).await.contains("org_suspended"));
}
