//! `/v1/message_endpoints`: who may do what, and what is refused.

use serde_json::{Value, json};

use super::{endpoint, on, receiving, world};
use crate::support::World;
use crate::support::receiver::Receiver;
use crate::support::world::until;

#[tokio::test]
async fn an_endpoint_is_made_changed_and_deleted_and_its_secret_is_shown_once() {
    let world = world().start().await;
    let receiver = Receiver::start();
    let body = json!({ "url": receiver.url, "description": "ours", "kinds": ["invoice.", "usage.unpriced"] });
    let made = world.post("/v1/message_endpoints", body).await.status(201);
    assert!(made.text("secret").starts_with("whsec_"), "{made}");
    assert_eq!(
        made.pick(["org", "kinds", "ordered", "with_object", "signature", "enabled", "last_sequence"]),
        json!([null, ["invoice.", "usage.unpriced"], false, false, "v1", true, 0])
    );
    let path = format!("/v1/message_endpoints/{}", made.id());
    let shown = world.get(&path).await.ok();
    assert_eq!(shown["secret"], Value::Null);
    assert_eq!(shown["description"], "ours");
    let patch = json!({ "enabled": false, "kinds": [], "with_object": true, "ordered": true });
    let changed = world.patch(&path, patch).await.ok();
    assert_eq!(
        changed.pick(["enabled", "disabled_reason", "kinds", "with_object", "ordered", "url"]),
        json!([false, "by_hand", [], true, true, receiver.url])
    );
    world.send(on(&made.id(), "test", json!(null))).await.refused(409, "endpoint_disabled");
    world.patch(&path, json!({ "enabled": true })).await.ok();
    assert_eq!(world.get("/v1/message_endpoints").await.rows().len(), 1);
    world.delete(&path).await.status(204);
    world.get(&path).await.status(404);
    let told = world.value(
        "SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log
        WHERE action LIKE 'message%'",
    );
    let expected = "message_endpoint.create message_endpoint.update message_endpoint.update \
        message_endpoint.delete";
    assert_eq!(told.as_deref(), Some(expected));
    let secrets = world.number("SELECT count(*) FROM audit_log WHERE detail::text LIKE '%whsec_%'");
    assert_eq!(secrets, 0);
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_by_name() {
    let world = world().start().await;
    let url = "http://127.0.0.1:9/";
    for (body, field) in [
        (json!({ "url": "http://10.0.0.1/" }), "url"),
        (json!({ "url": "http://169.254.169.254/latest" }), "url"),
        (json!({ "url": "http://[::ffff:10.0.0.1]/" }), "url"),
        (json!({ "url": "http://0x0a.0.0.1/" }), "url"),
        (json!({ "url": "ftp://example.com/" }), "url"),
        (json!({ "url": "https://a:b@example.com/" }), "url"),
        (json!({ "url": "nothing" }), "url"),
        (json!({ "url": null }), "url"),
        (json!({ "url": "https:///x" }), "url"),
        (json!({ "url": "https://example.com\\@127.0.0.1/" }), "url"),
        (json!({ "url": "https://example.com/\r\nX: y" }), "url"),
        (json!({ "url": url, "kinds": ["nothing"] }), "kinds"),
        (json!({ "url": url, "kinds": ["invoice"] }), "kinds"),
        (json!({ "url": url, "kinds": [""] }), "kinds"),
        (json!({ "url": url, "description": "a\nb" }), "description"),
        (json!({ "url": url, "signature": "v2" }), "signature"),
        (json!({ "url": url, "secret": "whsec_abc" }), "secret"),
    ] {
        world.post("/v1/message_endpoints", body).await.names(400, field);
    }
    world.post("/v1/message_endpoints", json!({ "url": url, "org": "nobody" })).await.status(404);
    let (id, _) = endpoint(&world, json!({ "url": url })).await;
    let path = format!("/v1/message_endpoints/{id}");
    let normal = world.patch(&path, json!({ "url": "https://BÜCHER.example" })).await.ok();
    assert_eq!(normal["url"], "https://xn--bcher-kva.example/");
    world.send(on(&id, "roll_secret", json!({ "overlap_hours": 337 }))).await.names(400, "overlap_hours");
    world.patch(&path, json!({ "url": null })).await.names(400, "url");
    world.send(on(&id, "deliveries/7/resend", json!(null))).await.status(404);
    world.get(&format!("/v1/message_endpoints/{id}/deliveries?state=lost")).await.names(400, "state");
    world.get("/v1/messages?after=msg_nothing").await.names(400, "after");
    for _ in 1..50 {
        endpoint(&world, json!({ "url": url })).await;
    }
    let one_more = world.post("/v1/message_endpoints", json!({ "url": url })).await;
    one_more.refused(409, "too_many_endpoints");
}

/// An org's key has its own endpoints and sees no others; the platform's endpoint gets every org's messages.
#[tokio::test]
async fn an_org_has_its_own_endpoints_and_sees_no_others() {
    let world = world().org("other").start().await;
    let (of_platform, platform_id) = receiving(&world).await;
    let (key, other_key) = (world.key_of("acme"), world.key_of("other"));
    let (of_acme, of_other) = (Receiver::start(), Receiver::start());
    let acme = world.by(&key).post("/v1/message_endpoints", of_acme.endpoint()).await.status(201);
    let other = world.by(&other_key).post("/v1/message_endpoints", of_other.endpoint()).await.status(201);
    let foreign = json!({ "url": of_acme.url, "org": "other" });
    world.by(&key).post("/v1/message_endpoints", foreign).await.status(404);
    assert_eq!(world.by(&key).get("/v1/message_endpoints").await.column("id"), json!([acme.id()]));
    assert_eq!(world.get("/v1/message_endpoints").await.rows().len(), 3);
    assert_eq!(world.get("/v1/message_endpoints?org=other").await.column("id"), json!([other.id()]));
    for id in [other.id(), platform_id] {
        let path = format!("/v1/message_endpoints/{id}");
        world.by(&key).get(&path).await.status(404);
        world.by(&key).patch(&path, json!({})).await.status(404);
        world.by(&key).delete(&path).await.status(404);
        world.by(&key).get(&format!("{path}/deliveries")).await.status(404);
        for command in ["test", "roll_secret", "deliveries/1/resend"] {
            world.by(&key).send(on(&id, command, json!(null))).await.status(404);
        }
        let since = json!({ "since": "2026-01-01T00:00:00Z" });
        world.by(&key).send(on(&id, "replay", since)).await.status(404);
    }
    let reader = world.database.key("billing:read", Some("acme"));
    world.by(&reader).get("/v1/message_endpoints").await.ok();
    world.by(&reader).post("/v1/message_endpoints", of_acme.endpoint()).await.status(403);

    let now = chrono::Utc::now();
    super::write(&world, [super::message(super::acme(&world), 1)], now);
    assert_eq!(of_acme.gets(1).await[0].json()["data"], json!({ "n": 1 }));
    let got = of_platform.gets(1).await;
    assert_eq!(got[0].header("webhook-id"), of_acme.received()[0].header("webhook-id"));
    assert_eq!(world.by(&key).get("/v1/messages?after=start").await.rows().len(), 1);
    assert_eq!(world.by(&other_key).get("/v1/messages?after=start").await.rows().len(), 0);
    assert_eq!(of_other.count(), 0);
}

/// `localhost` is refused at once. Another name may be stored, as older versions stored this one: only the
/// sending resolves names. The platform's own endpoint names the address.
#[tokio::test]
async fn an_org_learns_no_address_of_the_inside() {
    let world = World::new().setting("COULOMB_MESSAGE_ALLOW", "10.9.9.9").org("acme").start().await;
    let key = world.key_of("acme");
    for url in ["https://localhost:9/", "https://api.LocalHost.:9/"] {
        let refused = world.post("/v1/message_endpoints", json!({ "url": url })).await.names(400, "url");
        assert!(refused.text("detail").contains("COULOMB_MESSAGE_ALLOW"), "{refused}");
    }
    let body = json!({ "url": "https://example.com:9/" });
    let of_org = world.by(&key).post("/v1/message_endpoints", body.clone()).await.status(201).id();
    let (of_platform, _) = endpoint(&world, body).await;
    let path = format!("/v1/message_endpoints/{of_platform}");
    world.patch(&path, json!({ "url": "https://localhost/" })).await.names(400, "url");
    world.execute("UPDATE message_endpoints SET url = 'https://localhost:9/'");
    world.by(&key).send(on(&of_org, "test", json!(null))).await.status(204);
    world.send(on(&of_platform, "test", json!(null))).await.status(204);
    let path = |id: &str| format!("/v1/message_endpoints/{id}/deliveries/1/attempts");
    until("both are tried", || async {
        world.number("SELECT count(*) FROM message_attempts WHERE error IS NOT NULL") >= 2
    })
    .await;
    let told = world.by(&key).get(&path(&of_org)).await;
    assert_eq!(told.at("data.0.error"), &json!("the host is not allowed"));
    let told = world.get(&path(&of_platform)).await;
    assert!(
        told.at("data.0.error").as_str().is_some_and(|why| why.contains("an address of the inside")),
        "{told}"
    );
}

#[tokio::test]
async fn the_endpoint_of_an_erased_org_is_no_finding_of_doctor() {
    let world = world().scopes("admin,billing:write,billing:read").start().await;
    endpoint(&world, json!({ "url": "http://127.0.0.1:9/", "org": "acme" })).await;
    let org = world.get("/v1/orgs/acme").await.id();
    world.post("/v1/orgs/acme/erase", json!({ "confirm": org })).await.status(202);
    let reason = "SELECT string_agg(disabled_reason, ' ') FROM message_endpoints";
    until("it is erased", || async { world.value(reason).as_deref() == Some("erased") }).await;
    let doctor = || {
        let ran = world.database.command(&["doctor"]).output().expect("runs");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    assert!(doctor().contains("no endpoint of messages fails"), "{}", doctor());
    world.execute("UPDATE message_endpoints SET disabled_reason = 'failing'");
    assert!(doctor().contains("failed for days and is disabled"), "{}", doctor());
}

/// A double click, or a proxy that repeats: each gets a secret of its own, and all of them sign.
#[tokio::test]
async fn secrets_that_are_rolled_at_once_come_one_after_the_other() {
    let world = world().start().await;
    let (_, id) = receiving(&world).await;
    let rolls = (0..10).map(|_| world.send(on(&id, "roll_secret", json!(null))));
    let mut secrets = std::collections::BTreeSet::new();
    for answer in futures_util::future::join_all(rolls).await {
        secrets.insert(answer.ok().text("secret"));
    }
    assert_eq!(secrets.len(), 10);
    let numbers = world.value("SELECT string_agg(number::text, ' ' ORDER BY number) FROM message_secrets");
    assert_eq!(numbers.as_deref(), Some("1 2 3 4 5 6 7 8 9 10 11"));
    assert_eq!(world.number("SELECT count(*) FROM message_secrets WHERE expires_at IS NULL"), 1);
}
