//! What is sent to whom, and that a slow receiver holds nobody up.

use std::time::Duration;

use chrono::Utc;
use serde_json::json;

use super::{acme, endpoint, message, on, receiving, world, write};
use crate::support::receiver::{Received, Receiver, Reply};
use crate::support::world::until;
use crate::support::{Daemon, Database, World};

#[tokio::test]
async fn endpoints_get_what_they_ask_for_thin_or_with_the_object() {
    let world = world().start().await;
    let (all, full, none) = (Receiver::start(), Receiver::start(), Receiver::start());
    endpoint(&world, all.endpoint()).await;
    endpoint(&world, json!({ "url": full.url, "with_object": true, "kinds": ["invoice."] })).await;
    endpoint(&world, json!({ "url": none.url, "kinds": ["usage."] })).await;
    write(&world, [message(acme(&world), 1)], Utc::now());
    let thin = all.gets(1).await.remove(0).json();
    let org = world.get("/v1/orgs/acme").await.id();
    assert_eq!(
        (&thin["type"], &thin["org"], &thin["data"]),
        (&json!("invoice.reminder"), &json!(org), &json!({ "n": 1 }))
    );
    assert!(thin["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{thin}");
    let full = full.gets(1).await.remove(0).json();
    assert_eq!(full["data"], json!({ "n": 1, "object": { "big": "thing" } }));
    // The one that asked for another kind has nothing when the next one has come to all.
    write(&world, [message(acme(&world), 2)], Utc::now());
    all.gets(2).await;
    assert_eq!(none.count(), 0);
    // A test goes to its endpoint alone.
    let (tested, id) = receiving(&world).await;
    world.send(on(&id, "test", json!(null))).await.status(204);
    assert_eq!(tested.gets(1).await[0].kind(), "endpoint.test");
    write(&world, [message(acme(&world), 3)], Utc::now());
    tested.gets(2).await;
    assert_eq!(all.gets(3).await.iter().filter(|got| got.kind() == "endpoint.test").count(), 0);
}

/// Commits have another order than ids: a message whose transaction ends late is assigned then, and numbers
/// have no gap.
#[tokio::test]
async fn a_late_commit_is_not_missed_and_numbers_have_no_gap() {
    use coulomb::messages;
    use diesel::Connection;
    use diesel::connection::SimpleConnection;
    let world = world().daemons(2).start().await;
    let (receiver, id) = receiving(&world).await;
    let mut late = world.platform();
    late.batch_execute("BEGIN").expect("begins");
    messages::write(&mut late, vec![message(acme(&world), 0)], Utc::now()).expect("written");
    write(&world, (1..=300).map(|n| message(acme(&world), n)), Utc::now());
    receiver.gets(300).await;
    let listed = world.get("/v1/messages?after=start&limit=500").await;
    let last = listed.rows().last().expect("rows")["id"].as_str().expect("an id").to_owned();
    late.batch_execute("COMMIT").expect("commits");
    let got = receiver.gets(301).await;
    let mut sequences: Vec<i64> = got.iter().map(Received::sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences, (1..=301).collect::<Vec<_>>());
    // To catch up: the late one comes after what was listed before, though its id is the smallest.
    let after = world.get(&format!("/v1/messages?after={last}")).await;
    assert_eq!(after.column("data.n"), json!([0]));
    let path = format!("/v1/message_endpoints/{id}/deliveries?after=300");
    until("the last delivery is noted", || async {
        world.get(&path).await.column("state") == json!(["delivered"])
    })
    .await;
    let rolled_back = late.transaction(|conn| {
        messages::write(conn, vec![message(acme(&world), 999)], Utc::now())?;
        Err::<(), _>(coulomb::error::Error::NotFound("nothing"))
    });
    assert!(rolled_back.is_err());
    write(&world, [message(acme(&world), 1000)], Utc::now());
    assert_eq!(receiver.gets(302).await[301].sequence(), 302);
}

#[tokio::test]
async fn a_slow_endpoint_holds_nobody_up() {
    let world = world().start().await;
    let slow = Receiver::start();
    slow.answers(|_| Reply { after: Duration::from_secs(8), ..Reply::status(200) });
    endpoint(&world, slow.endpoint()).await;
    let fast: Vec<Receiver> = (0..4).map(|_| Receiver::start()).collect();
    for receiver in &fast {
        endpoint(&world, receiver.endpoint()).await;
    }
    write(&world, (0..500).map(|n| message(acme(&world), n)), Utc::now());
    for receiver in &fast {
        receiver.gets(500).await;
    }
    assert!(slow.count() < 200, "{}", slow.count());
    assert!(slow.most_open() <= 16, "{}", slow.most_open());
    // An answer is counted when it is noted.
    let daemon = world.daemon();
    let delivered = "coulomb_message_attempts_total{outcome=\"delivered\"}";
    until("the answers are counted", || async { daemon.metric(delivered).await >= Some(2000) }).await;
    assert!(daemon.metric("coulomb_message_deliveries_waiting").await >= Some(300));
}

/// On a stop the daemon waits for what is on its way, and notes it.
#[tokio::test]
async fn a_stop_ends_what_is_on_its_way() {
    let mut world = world().start().await;
    let (receiver, _) = receiving(&world).await;
    receiver.answers(|_| Reply { after: Duration::from_secs(1), ..Reply::status(200) });
    write(&world, [message(acme(&world), 1)], Utc::now());
    receiver.gets(1).await;
    assert_eq!(world.daemons[0].stop(), Some(0));
    let states = world.value("SELECT string_agg(state, ' ') FROM message_deliveries");
    assert_eq!(states.as_deref(), Some("delivered"));
    assert_eq!(world.number("SELECT count(*) FROM message_lanes WHERE holder IS NOT NULL"), 0);
    assert_eq!(receiver.count(), 1);
}

/// A certificate for 127.0.0.1 that signs itself, and its key; `None` without `openssl`.
fn certificate(dir: &std::path::Path) -> Option<[String; 2]> {
    let [config, cert, key] = ["openssl.cnf", "cert.pem", "key.pem"].map(|name| dir.join(name));
    let text = "[req]\ndistinguished_name = name\nprompt = no\nx509_extensions = ext\n[name]\nCN = hook\n\
        [ext]\nbasicConstraints = CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";
    std::fs::write(&config, text).expect("written");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-config"])
        .arg(&config)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    made.is_ok_and(|made| made.status.success())
        .then(|| [cert, key].map(|path| path.to_str().expect("UTF-8").to_owned()))
}

/// The receiver is a daemon that speaks HTTPS; it knows no such path. Without its certificate among the roots
/// nothing is sent to it, and neither if it has another name.
#[tokio::test]
async fn https_is_verified_against_the_machines_roots() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some([cert, key]) = certificate(dir.path()) else {
        return println!("skipped: no openssl to make a certificate with");
    };
    let database = Database::new();
    let secure = Daemon::with(&database, &[("COULOMB_TLS_CERT", &cert), ("COULOMB_TLS_KEY", &key)]);
    let port = secure.base.rsplit(':').next().expect("a port").to_owned();
    for (roots, host, expected) in [
        (Some(&*cert), "127.0.0.1", "404"),
        (Some(&*cert), "localhost", "invalid peer certificate"),
        (None, "127.0.0.1", "invalid peer certificate"),
    ] {
        let mut setup = World::new().setting("COULOMB_MESSAGE_ALLOW", "127.0.0.0/8, localhost").org("acme");
        if let Some(roots) = roots {
            setup = setup.setting("SSL_CERT_FILE", roots);
        }
        let world = setup.start().await;
        let (id, _) = endpoint(&world, json!({ "url": format!("https://{host}:{port}/hook") })).await;
        world.send(on(&id, "test", json!(null))).await.status(204);
        let path = format!("/v1/message_endpoints/{id}/deliveries/1/attempts");
        until("it is tried", || async { !world.get(&path).await.rows().is_empty() }).await;
        let attempt = world.get(&path).await.pick(["data.0.status", "data.0.error"]).to_string();
        assert!(attempt.contains(expected), "{roots:?} {host}: {attempt}");
    }
    let unsafe_url = World::new().org("acme").start().await;
    let refused = unsafe_url.post("/v1/message_endpoints", json!({ "url": "http://example.com/" })).await;
    refused.names(400, "url");
}
