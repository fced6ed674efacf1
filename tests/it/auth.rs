//! API keys: what each may do, and that it may do nothing else.

use reqwest::Method;
use serde_json::json;

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

#[tokio::test]
async fn keys_are_made_used_and_revoked() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let (status, made) =
        daemon.post("/v1/keys", &admin, &json!({ "name": "reader", "scopes": ["billing:read"] })).await;
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().expect("shown once").to_owned();
    assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200);
    assert_eq!(daemon.post("/v1/orgs", &key, &json!({ "name": "x" })).await.0, 403);
    assert_eq!(daemon.get("/v1/keys", &key).await.0, 403);
    assert!(database.run(&["key", "list"]).contains("\"reader\""));
    assert!(!database.run(&["key", "list"]).contains(&key));
    let path = format!("/v1/keys/{}", made["id"].as_str().expect("an id"));
    assert_eq!(answer(daemon.request(Method::DELETE, &path, &admin)).await.0, 204);
    assert_eq!(daemon.get("/v1/orgs", &key).await.0, 401);
    assert_eq!(
        database
            .value("SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log WHERE actor LIKE 'key:%'")
            .as_deref(),
        Some("api_key.create api_key.revoke")
    );
    assert_eq!(
        database.number("SELECT count(*) FROM api_keys WHERE encode(secret_sha256, 'escape') LIKE '%clb%'"),
        0
    );
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let good = database.key("admin", None);
    let expired = database.key("admin", None);
    let id = expired.split('_').nth(2).expect("an id");
    database.execute(&format!("UPDATE api_keys SET expires_at = '2020-01-01' WHERE key_id = '{id}'"));
    let mut mistyped = good.clone();
    mistyped.replace_range(20..21, if &good[20..21] == "x" { "y" } else { "x" });
    for key in ["", "clb_live_", "x", &mistyped, &good[..good.len() - 1], &expired] {
        let (status, problem) = daemon.get("/v1/orgs", key).await;
        assert_eq!((status.as_u16(), problem["code"].as_str()), (401, Some("unauthorized")), "{key}");
    }
    let bare = daemon.http.get(format!("{}/v1/orgs", daemon.base)).send().await.expect("an answer");
    assert_eq!(
        (bare.status().as_u16(), bare.headers()["www-authenticate"].to_str().expect("text")),
        (401, "Bearer")
    );
    assert_eq!(daemon.get("/nowhere", &good).await.1["code"], "no_route");
}

/// One org never sees another: the code answers 404, and the database shows no row even if the code forgets
/// to filter.
#[tokio::test]
async fn an_org_sees_only_itself() {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let mut orgs = Vec::new();
    for name in ["one", "two"] {
        let (_, org) = daemon.post("/v1/orgs", &admin, &json!({ "name": name, "external_id": name })).await;
        let id = org["id"].as_str().expect("an id").to_owned();
        orgs.push((id.clone(), database.key("billing:read", Some(&id))));
    }
    let (other, key) = (&orgs[1].0, &orgs[0].1);
    assert_eq!(daemon.get(&format!("/v1/orgs/{}", orgs[0].0), key).await.0, 200);
    assert_eq!(daemon.get(&format!("/v1/orgs/{other}"), key).await.0, 404);
    let (_, list) = daemon.get("/v1/orgs", key).await;
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(daemon.get("/v1/keys", key).await.0, 403);

    let mut conn = database.platform();
    conn.batch_execute("BEGIN; SET LOCAL ROLE coulomb_org; SET LOCAL coulomb.org_id = '1'")
        .expect("takes on an org");
    let seen: i64 = coulomb::schema::orgs::table.count().get_result(&mut conn).expect("counts");
    let keys: i64 = coulomb::schema::api_keys::table.count().get_result(&mut conn).expect("counts");
    assert_eq!((seen, keys), (1, 1));
    assert!(conn.batch_execute("SELECT * FROM stripe_inbox").is_err(), "an org may not read the inbox");
}

/// A key of an org cannot have the platform's rights.
#[tokio::test]
async fn an_org_key_is_never_admin() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let (_, org) = daemon.post("/v1/orgs", &admin, &json!({ "name": "one" })).await;
    let (status, problem) =
        daemon.post("/v1/keys", &admin, &json!({ "name": "k", "org": org["id"], "scopes": ["admin"] })).await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("scopes")));
}
