//! API keys of products: rotation, verification, keys of other programs, when they were used, and who may
//! make which.

use coulomb::auth::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::daemon::answer;
use crate::support::requests::usage;
use crate::support::world::until;
use crate::support::{Database, World};

fn id_of(key: &str) -> String {
    key.split('_').nth(2).expect("an id").to_owned()
}

/// A new key can do no more than its maker: each scope by each other one, of the platform and of an org.
#[tokio::test]
async fn no_key_makes_one_that_may_do_more() {
    let world = World::new().org("acme").start().await;
    let org = world.get("/v1/orgs/acme").await.text("id");
    let mut allowed = Vec::new();
    for maker_org in [None, Some(org.as_str())] {
        for has in Scope::ALL {
            if maker_org.is_some() && has == Scope::Admin {
                continue;
            }
            let scopes = if has == Scope::KeysWrite { String::new() } else { format!(",{}", has.name()) };
            let maker = world.key(&format!("keys:write{scopes}"), maker_org);
            for asked in Scope::ALL {
                let body = json!({ "name": "k", "scopes": [asked.name()] });
                let made = world.by(&maker).post("/v1/keys", body).await;
                let may = has == Scope::Admin || asked == has || asked == Scope::KeysWrite;
                if may {
                    let made = made.status(201);
                    allowed.push((has, asked));
                    // And what was made is of the maker's org.
                    let sql = format!("SELECT org_id FROM api_keys WHERE key_id = '{}'", made.text("id"));
                    assert_eq!(world.number(&sql) == 0, maker_org.is_none(), "{has:?} {asked:?}");
                } else {
                    made.refused(403, "missing_scope");
                }
            }
            if has != Scope::KeysWrite && has != Scope::Admin {
                let without = world.key(has.name(), maker_org);
                let body = json!({ "name": "k", "scopes": [has.name()] });
                world.by(&without).post("/v1/keys", body).await.refused(403, "missing_scope");
            }
        }
    }
    // Of 9 scopes of the platform: admin makes 9, keys:write 1, each of the other 7 itself and keys:write.
    // Of an org the same without admin.
    assert_eq!(allowed.len(), (9 + 1 + 7 * 2) + (1 + 7 * 2));
}

/// Rotation, import and the list hold the same bounds.
#[tokio::test]
async fn an_org_manages_its_own_keys_alone() {
    let world = World::new().scopes("admin").org("acme").org("globex").start().await;
    let manager = world.key("keys:write,usage:read", Some("acme"));
    let strong = id_of(&world.key("billing:write", Some("acme")));
    let other = id_of(&world.key("usage:read", Some("globex")));
    let of_platform = id_of(&world.key("usage:read", None));
    let own = id_of(&world.key("usage:read", Some("acme")));
    let by = world.by(&manager);
    for id in [&other, &of_platform] {
        by.post(&format!("/v1/keys/{id}/rotate"), json!({})).await.refused(404, "not_found");
        by.delete(&format!("/v1/keys/{id}")).await.refused(404, "not_found");
    }
    by.post(&format!("/v1/keys/{strong}/rotate"), json!({})).await.refused(403, "missing_scope");
    by.patch(&format!("/v1/keys/{own}"), json!({ "requests_per_minute": 9 })).await.status(403);
    by.post(&format!("/v1/keys/{own}/rotate"), json!({})).await.status(201);
    let listed = by.get("/v1/keys").await.ok();
    let acme = world.get("/v1/orgs/acme").await.text("id");
    assert!(listed.rows().iter().all(|key| key["org"] == json!(acme)), "{:?}", listed.rows());
    assert_eq!(listed.rows().len(), 4);
    let key =
        |scope: &str| json!({ "sha256": "ab".repeat(32), "hint": "sk", "name": "k", "scopes": [scope] });
    let import = |scope: &str| by.post("/v1/keys/import", json!({ "keys": [key(scope)] }));
    import("billing:read").await.refused(403, "missing_scope");
    import("usage:read").await.status(201);
    by.post("/v1/keys", json!({ "name": "k", "scopes": ["usage:read"], "org": "globex" }))
        .await
        .names(404, "org");
}

#[tokio::test]
async fn two_keys_work_while_one_takes_the_place_of_the_other() {
    let world = World::new().scopes("admin").at("2026-11-20T12:00:00Z").daemons(2).org("acme").start().await;
    let made = world
        .post(
            "/v1/keys",
            json!({ "name": "k", "org": "acme", "scopes": ["billing:read"],
            "requests_per_minute": 500 }),
        )
        .await
        .status(201);
    let (old, id) = (made.text("key"), made.text("id"));
    let rotated =
        world.post(&format!("/v1/keys/{id}/rotate"), json!({ "overlap_s": 3600 })).await.status(201);
    assert_eq!(rotated.at("old_expires_at"), "2026-11-20T13:00:00Z");
    let new = rotated.text("key");
    for key in [&old, &new] {
        world.by(key).get("/v1/orgs/acme").await.ok();
    }
    let keys = world.get("/v1/keys").await.ok();
    let of = |id: &str| keys.rows().iter().find(|key| key["id"] == json!(id)).expect("listed").clone();
    assert_eq!(of(&id)["expires_at"], "2026-11-20T13:00:00Z");
    let follower = of(&rotated.text("id"));
    let expected = json!(["k", ["billing:read"], id, null, 500]);
    let shown = ["name", "scopes", "replaces", "expires_at", "requests_per_minute"]
        .map(|field| follower[field].clone());
    assert_eq!(json!(shown), expected);
    world.post(&format!("/v1/keys/{id}/rotate"), json!({})).await.refused(409, "key_rotated");
    world.turn("2026-11-20T13:00:00Z");
    world.by(&old).get("/v1/orgs/acme").await.refused(401, "unauthorized");
    world.by(&new).get("/v1/orgs/acme").await.ok();
    world.post(&format!("/v1/keys/{id}/rotate"), json!({})).await.refused(409, "key_ended");
    world.post("/v1/keys/nobody/rotate", json!({})).await.refused(404, "not_found");
    let second = rotated.text("id");
    world
        .post(&format!("/v1/keys/{second}/rotate"), json!({ "overlap_s": 7_776_001 }))
        .await
        .names(400, "overlap_s");
    let now = world.post(&format!("/v1/keys/{second}/rotate"), json!({ "overlap_s": 0 })).await.status(201);
    world.by(&new).get("/v1/orgs/acme").await.refused(401, "unauthorized");
    world.by(&now.text("key")).get("/v1/orgs/acme").await.ok();
    let audit = world.get(&format!("/v1/audit?action=api_key.rotate&target={id}")).await.ok();
    assert_eq!(audit.at("data.0.before"), &json!({ "expires_at": null }));
    assert!(!audit.at("data.0").to_string().contains("clb_live"), "no secret in the log");
}

/// Of two rotations at the same time one is done.
#[tokio::test]
async fn a_race_rotates_once() {
    let world = World::new().scopes("admin").daemons(2).start().await;
    let id = id_of(&world.key("usage:read", None));
    let path = format!("/v1/keys/{id}/rotate");
    let sent = (0..8).map(|n| {
        let daemon = &world.daemons[n % 2];
        answer(daemon.request(Method::POST, &path, &world.key).json(&json!({})))
    });
    let answers = futures_util::future::join_all(sent).await;
    let mut told: Vec<u16> = answers.iter().map(|(status, _)| status.as_u16()).collect();
    told.sort_unstable();
    assert_eq!(told, [201, 409, 409, 409, 409, 409, 409, 409]);
}

#[tokio::test]
async fn a_product_asks_whether_a_customers_key_is_valid() {
    let world =
        World::new().scopes("admin").at("2026-11-20T12:00:00Z").org("acme").org("globex").start().await;
    let product = world.key("keys:verify", None);
    let customers = world.key("usage:write,usage:read", Some("acme"));
    let ask = |by: &str, key: &str| {
        answer(world.daemon().request(Method::POST, "/v1/keys/verify", by).json(&json!({ "key": key })))
    };
    let (status, told) = ask(&product, &customers).await;
    let acme = world.get("/v1/orgs/acme").await.text("id");
    let expected = json!({ "valid": true, "reason": null, "id": id_of(&customers), "org": acme,
        "external_id": "acme", "scopes": ["usage:write", "usage:read"], "expires_at": null });
    assert_eq!((status.as_u16(), &told), (200, &expected));
    let secret = customers.split('_').nth(3).expect("a secret");
    assert!(!told.to_string().contains(secret));
    let invalid = |reason: &str| {
        json!({ "valid": false, "reason": reason, "id": null, "org": null,
        "external_id": null, "scopes": [], "expires_at": null })
    };
    for garbage in
        ["", "x", "clb_live_", &customers[..customers.len() - 1], "sk_live_0123456789abcdef", "\u{e9}"]
    {
        assert_eq!(ask(&product, garbage).await.1, invalid("unknown"), "{garbage}");
    }
    let own = world.key("keys:verify", Some("acme"));
    let others = world.key("usage:read", Some("globex"));
    assert_eq!(ask(&own, &customers).await.1["valid"], true);
    assert_eq!(ask(&own, &others).await.1, invalid("unknown"), "an org learns of its own keys only");
    world.delete(&format!("/v1/keys/{}", id_of(&customers))).await.status(204);
    assert_eq!(ask(&product, &customers).await.1, invalid("revoked"));
    world.delete(&format!("/v1/keys/{}", id_of(&others))).await.status(204);
    assert_eq!(ask(&own, &others).await.1, invalid("unknown"));
    let weak = world.key("usage:read,billing:read", None);
    assert_eq!(ask(&weak, &customers).await.0, 403);
    world.turn("2026-11-20T12:01:00Z");
    let failures = "SELECT (detail ->> 'count')::int FROM audit_log
        WHERE action = 'api_key.verify_fail' AND org_id = 0";
    until("the entry", async || world.value(failures).as_deref() == Some("7")).await;
}

#[tokio::test]
async fn whoever_guesses_keys_waits() {
    let world = World::new().setting("COULOMB_KEY_VERIFY_FAILURES", "3").start().await;
    let product = world.key("keys:verify", None);
    let good = world.key("usage:read", None);
    // All within one minute of the clock.
    let second = chrono::Utc::now().timestamp() % 60;
    if second > 50 {
        tokio::time::sleep(std::time::Duration::from_secs(61 - second.unsigned_abs())).await;
    }
    for _ in 0..3 {
        world.by(&product).post("/v1/keys/verify", json!({ "key": "nonsense" })).await.ok();
    }
    let request = world.daemon().request(Method::POST, "/v1/keys/verify", &product);
    let refused = request.json(&json!({ "key": good })).send().await.expect("an answer");
    assert_eq!(refused.status(), 429, "a valid key is not told of either");
    let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
    assert!((1..=60).contains(&wait), "{wait}");
    let another = world.key("keys:verify", None);
    let told = world.by(&another).post("/v1/keys/verify", json!({ "key": good })).await.ok();
    assert_eq!(told.at("valid"), true, "others go on");
}

/// A key of another program works as it is, and only it.
#[tokio::test]
async fn keys_of_other_programs_work_as_they_are() {
    let world = World::new().scopes("admin,billing:read").org("acme").meter("tokens").start().await;
    let text = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
    let sha256 = hex::encode(Sha256::digest(text));
    let key = json!({ "sha256": sha256, "hint": "sk_live_", "org": "acme", "name": "old",
        "scopes": ["usage:write", "usage:read"] });
    world.by(text).get("/v1/quotas").await.refused(401, "unauthorized");
    let made = world.post("/v1/keys/import", json!({ "keys": [key] })).await.status(201);
    let id = made.text("ids.0");
    assert_eq!(world.by(text).uses(usage("acme", "tokens").quantity(5)).await, "accepted");
    world.by(text).get("/v1/orgs").await.refused(403, "missing_scope");
    for wrong in [&text[..text.len() - 1], "sk_live_4eC39HqLyjWDarjtT1zdp7dC", &sha256] {
        world.by(wrong).get("/v1/quotas").await.refused(401, "unauthorized");
    }
    let listed = world.get("/v1/keys").await.ok();
    let row = listed.rows().iter().find(|key| key["id"] == json!(id)).expect("listed");
    assert_eq!((&row["hint"], &row["name"]), (&json!("sk_live_"), &json!("old")));
    assert!(!listed.rows().iter().any(|key| key.to_string().contains(&sha256)), "no digest is shown");
    let product = world.key("keys:verify", None);
    let told = world.by(&product).post("/v1/keys/verify", json!({ "key": text })).await.ok();
    assert_eq!((told.at("valid"), told.at("id")), (&json!(true), &json!(id)));
    // All or none, each key once, and the error says which.
    let other = json!({ "sha256": "00".repeat(32), "hint": "x", "name": "n", "scopes": ["usage:read"] });
    world.post("/v1/keys/import", json!({ "keys": [other, key] })).await.refused(409, "key_exists");
    let short = json!({ "sha256": "00", "hint": "x", "name": "n", "scopes": ["usage:read"] });
    world.post("/v1/keys/import", json!({ "keys": [other, short] })).await.names(400, "keys.1.sha256");
    let long =
        json!({ "sha256": "11".repeat(32), "hint": "x".repeat(17), "name": "n", "scopes": ["usage:read"] });
    world.post("/v1/keys/import", json!({ "keys": [other, long] })).await.names(400, "keys.1.hint");
    let lost = json!({ "sha256": "22".repeat(32), "hint": "x", "name": "n", "scopes": ["usage:read"],
        "org": "nobody" });
    world.post("/v1/keys/import", json!({ "keys": [lost] })).await.names(404, "keys.0.org");
    assert_eq!(world.number("SELECT count(*) FROM imported_keys"), 1);
    let rotated = world.post(&format!("/v1/keys/{id}/rotate"), json!({ "overlap_s": 0 })).await.status(201);
    assert!(rotated.text("key").starts_with("clb_live_"));
    world.by(text).get("/v1/quotas").await.refused(401, "unauthorized");
    let by_hand = hex::encode(Sha256::digest("another-key-0123456789"));
    world.run(&["key", "import", "--sha256", &by_hand, "--hint", "anot", "--scopes", "billing:read"]);
    world.by("another-key-0123456789").get("/v1/orgs").await.ok();
    let revoke = world.number("SELECT count(*) FROM audit_log WHERE action = 'api_key.import'");
    assert_eq!(revoke, 2);
}

fn last_used(database: &Database, key: &str) -> Option<String> {
    database.value(&format!(
        "SELECT to_char(last_used_at AT TIME ZONE 'UTC', 'HH24:MI:SS') FROM api_keys WHERE key_id = '{}'",
        id_of(key)
    ))
}

/// A thousand requests write the row once, and the last use is not lost.
#[tokio::test]
async fn a_use_is_known_to_the_minute_without_a_write_a_request() {
    let world = World::new().at("2026-11-20T12:00:00Z").daemons(2).start().await;
    let key = world.key("billing:read", None);
    assert_eq!(last_used(&world, &key), None);
    for n in 0..200 {
        let (status, _) = world.daemons[n % 2].get("/v1/orgs", &key).await;
        assert_eq!(status, 200);
    }
    until("the use", async || last_used(&world, &key).as_deref() == Some("12:00:00")).await;
    let version = format!("SELECT xmin::text FROM api_keys WHERE key_id = '{}'", id_of(&key));
    let first = world.value(&version);
    world.turn("2026-11-20T12:00:40Z");
    world.daemons[1].get("/v1/orgs", &key).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(world.value(&version), first, "within a minute it is not written again");
    world.turn("2026-11-20T12:01:10Z");
    until("the use", async || last_used(&world, &key).as_deref() == Some("12:00:40")).await;
    let listed = world.run(&["key", "list"]);
    assert!(listed.contains("\"last_used_at\":\"2026-11-20T12:00:40Z\""), "{listed}");
}

#[tokio::test]
async fn a_stop_writes_the_last_use() {
    let mut world = World::new().start().await;
    let key = world.key("billing:read", None);
    world.by(&key).get("/v1/orgs").await.ok();
    assert_eq!(world.daemons[0].stop(), Some(0));
    assert!(last_used(&world, &key).is_some());
}

#[tokio::test]
async fn the_command_rotates_a_key() {
    let world = World::new().start().await;
    let old = world.key("billing:read", None);
    let new = world.run(&["key", "rotate", &id_of(&old), "--overlap-s", "0"]).trim().to_owned();
    world.by(&new).get("/v1/orgs").await.ok();
    world.by(&old).get("/v1/orgs").await.refused(401, "unauthorized");
    let refused: Value = world.by(&new).get("/v1/keys").await.status(403).part("code").at("").clone();
    assert_eq!(refused, "missing_scope");
}

/// What a key makes ends no later than itself, and may send no more. It ends no key that may do more.
#[tokio::test]
async fn a_key_is_bounded_by_its_maker_in_time_and_number() {
    let world = World::new().at("2026-11-28T12:00:00Z").scopes("admin").start().await;
    let bounded = json!({ "name": "maker", "scopes": ["keys:write", "usage:read"],
        "expires_at": "2026-12-01T00:00:00Z", "requests_per_minute": 100 });
    let maker = world.post("/v1/keys", bounded).await.status(201).text("key");
    let key = |more: Value| {
        let mut body = json!({ "name": "k", "scopes": ["usage:read"] });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let by = world.by(&maker);
    let too_long = key(json!({ "expires_at": "2026-12-01T00:00:01Z" }));
    by.post("/v1/keys", too_long).await.names(400, "expires_at");
    let too_many = key(json!({ "requests_per_minute": 101 }));
    by.post("/v1/keys", too_many).await.names(400, "requests_per_minute");
    let imported = json!({ "keys": [{ "sha256": "a".repeat(64), "hint": "x", "name": "k",
        "scopes": ["usage:read"], "requests_per_minute": 101 }] });
    by.post("/v1/keys/import", imported).await.names(400, "keys.0.requests_per_minute");
    let made = by.post("/v1/keys", key(json!({}))).await.status(201).id();
    let less = key(json!({ "expires_at": "2026-11-30T00:00:00Z", "requests_per_minute": 5 }));
    by.post("/v1/keys", less).await.status(201);
    let stored = format!(
        "SELECT (expires_at AT TIME ZONE 'UTC')::text || ' ' || requests_per_minute FROM api_keys
         WHERE key_id = '{made}'"
    );
    assert_eq!(world.value(&stored).as_deref(), Some("2026-12-01 00:00:00 100"));

    let admin = id_of(&world.key);
    by.delete(&format!("/v1/keys/{admin}")).await.refused(403, "missing_scope");
    by.delete(&format!("/v1/keys/{made}")).await.status(204);
    // Its own end it may bring about.
    by.delete(&format!("/v1/keys/{}", id_of(&maker))).await.status(204);
    world.get("/v1/keys").await.ok();
}
