//! Limits of requests by key and by address; who sends too much hinders nobody else.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::events::{customer, event};
use crate::support::requests::usage;
use crate::support::world::until;

async fn ask(world: &World, key: &str) -> Response {
    world.daemon().request(Method::GET, "/v1/orgs", key).send().await.expect("an answer")
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_key_sends_as_many_requests_as_it_may() {
    let world = World::new().scopes("admin").at("2026-11-20T12:00:00Z").org("acme").start().await;
    let made = world
        .post(
            "/v1/keys",
            json!({ "name": "k", "org": "acme", "scopes": ["billing:read"],
            "requests_per_minute": 6 }),
        )
        .await
        .status(201);
    let (key, id) = (made.text("key"), made.text("id"));
    for left in (0..6).rev() {
        let answer = ask(&world, &key).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "ratelimit-policy"), "\"key\";q=6;w=60");
        let (limit, reset) = (header(&answer, "ratelimit"), (6 - left) * 10);
        assert_eq!(limit, format!("\"key\";r={left};t={reset}"));
    }
    let refused = ask(&world, &key).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(header(&refused, "retry-after"), "10", "one request in 10 s");
    assert_eq!(header(&refused, "ratelimit"), "\"key\";r=0;t=60");
    assert_eq!(header(&refused, "ratelimit-policy"), "\"key\";q=6;w=60");
    let problem: Value = refused.json().await.expect("a problem");
    assert_eq!(problem["code"], "rate_limited");
    let free = ask(&world, &world.key).await;
    assert_eq!(
        (free.status().as_u16(), header(&free, "ratelimit")),
        (200, String::new()),
        "no limit, no header"
    );
    for _ in 0..20 {
        assert_eq!(ask(&world, &key).await.status(), 429);
    }
    // One entry for all of them, in the org's log.
    world.turn("2026-11-20T12:01:00Z");
    until("the entry", async || {
        world.number("SELECT count(*) FROM audit_log WHERE action = 'rate_limit.exceed'") == 1
    })
    .await;
    let own = world.key("billing:read", Some("acme"));
    let seen = world.by(&own).get("/v1/audit?action=rate_limit.exceed").await.ok();
    assert_eq!(
        seen.pick(["data.0.actor", "data.0.target", "data.0.detail.count", "data.0.detail.limit"]),
        json!([format!("key:{id}"), "key", 21, 6])
    );
    assert_eq!(seen.at("data.0.detail.endpoint"), "/v1/orgs");
    // Another limit counts at once; without one the key is free.
    world.patch(&format!("/v1/keys/{id}"), json!({ "requests_per_minute": 100 })).await.status(204);
    assert_eq!(header(&ask(&world, &key).await, "ratelimit"), "\"key\";r=99;t=1");
    world.patch(&format!("/v1/keys/{id}"), json!({ "requests_per_minute": null })).await.status(204);
    assert_eq!(header(&ask(&world, &key).await, "ratelimit"), "");
    world.patch(&format!("/v1/keys/{id}"), json!({})).await.names(400, "requests_per_minute");
    world
        .patch(&format!("/v1/keys/{id}"), json!({ "requests_per_minute": 0 }))
        .await
        .names(400, "requests_per_minute");
    world.patch("/v1/keys/nobody", json!({ "requests_per_minute": 5 })).await.refused(404, "not_found");
}

/// A command asks for its key twice, by two extractors, and counts once.
#[tokio::test]
async fn a_request_counts_once() {
    let world = World::new().setting("COULOMB_KEY_REQUESTS_PER_MINUTE", "60").start().await;
    let key = world.key("billing:write", None);
    for left in [59, 58] {
        let request = world.daemon().request(Method::POST, "/v1/orgs", &key).json(&json!({ "name": "x" }));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 201);
        assert!(header(&answer, "ratelimit").starts_with(&format!("\"key\";r={left};")), "{answer:?}");
    }
}

#[tokio::test]
async fn an_address_sends_as_many_requests_as_it_may() {
    let mut world = World::new()
        .setting("COULOMB_ADDRESS_REQUESTS_PER_MINUTE", "4")
        .setting("COULOMB_TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let from = async |address: &str, key: &str| {
        let request = world.daemon().request(Method::GET, "/v1/orgs", key).header("X-Forwarded-For", address);
        request.send().await.expect("an answer")
    };
    for left in (0..4).rev() {
        // Keys do not matter, nor does it help to have none.
        let answer = from("203.0.113.7", if left % 2 == 0 { &world.key } else { "nonsense" }).await;
        assert_eq!(answer.status().as_u16(), if left % 2 == 0 { 200 } else { 401 });
        assert!(header(&answer, "ratelimit").contains(&format!("\"address\";r={left};")), "{answer:?}");
    }
    let refused = from("203.0.113.7", &world.key).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, "15".to_owned()));
    assert_eq!(from("203.0.113.8", &world.key).await.status(), 200, "others go on");
    // Stripe and probes are never limited.
    for n in 0..10 {
        world.deliver(event(&format!("evt_{n}"), "customer.created", n, customer("cus_1", None))).await;
        let health = world.daemon().http.get(format!("{}/healthz", world.daemon().base)).send().await;
        assert_eq!(health.expect("an answer").status(), 200);
    }
    assert_eq!(world.daemons[0].stop(), Some(0));
    let entries = "SELECT address || ' ' || target || ' ' || (detail ->> 'count') FROM audit_log
        WHERE action = 'rate_limit.exceed'";
    assert_eq!(world.value(entries).as_deref(), Some("203.0.113.7 address 1"));
}

/// While one org floods the daemon with usage, another org's requests and Stripe's webhooks are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_waits_behind_itself() {
    let world = World::new()
        .setting("COULOMB_USAGE_WRITERS", "1")
        .setting("COULOMB_USAGE_QUEUE", "20000")
        .setting("COULOMB_USAGE_BATCH", "500")
        .org("flood")
        .org("calm")
        .meter("tokens")
        .start()
        .await;
    let (flood, calm) = (world.key_of("flood"), world.key_of("calm"));
    let batch: Vec<Value> =
        (0..500).map(|n| usage("flood", "tokens").id(&format!("{n}")).quantity(1).json()).collect();
    let flooding = tokio::task::JoinSet::from_iter((0..12).map(|sender| {
        let (http, base, flood) = (world.daemon().http.clone(), world.daemon().base.clone(), flood.clone());
        let mut batch = batch.clone();
        async move {
            let (mut stored, mut refused) = (0, 0);
            for round in 0..40 {
                for (n, event) in batch.iter_mut().enumerate() {
                    event["id"] = json!(format!("{sender}-{round}-{n}"));
                }
                let sent =
                    http.post(format!("{base}/v1/usage")).bearer_auth(&flood).json(&batch).send().await;
                match sent.expect("an answer").status().as_u16() {
                    200 => stored += 1,
                    429 => refused += 1,
                    other => panic!("{other}"),
                }
            }
            (stored, refused)
        }
    }));
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let event = usage("calm", "tokens").id(&format!("calm-{answered}")).quantity(1);
        assert_eq!(world.by(&calm).uses(event).await, "accepted");
        world.deliver(event_of(answered)).await;
        slowest = slowest.max(asked.elapsed());
        answered += 1;
    }
    let sent = flooding.join_all().await;
    let stored: i32 = sent.iter().map(|(stored, _)| stored).sum();
    assert!(stored > 0 && answered >= 5, "{stored} batches stored, {answered} answered to the other");
    // Behind the flood it would wait for all of it.
    assert!(slowest < Duration::from_secs(10), "the slowest answer to the other took {slowest:?}");
}

fn event_of(n: i32) -> Value {
    event(&format!("evt_{n}"), "customer.created", n.into(), customer("cus_1", None))
}
