//! A panic in each kind of thread: other requests are served, the thread continues, only the input that
//! causes the panic is refused or set aside, and nothing acknowledged is lost or counted twice.
//!
//! `TEST_PANIC=<place>:<text>` makes a debug build panic at the place when the input contains the text.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, invoice, purchase};
use crate::support::stripe::signature;
use crate::support::{Daemon, Database};

/// A daemon that panics at this place, with one thread of each kind.
fn panicking(database: &Database, wanted: &str) -> Daemon {
    let one =
        ["COULOMB_USAGE_WRITERS", "COULOMB_INBOX_WRITERS", "COULOMB_QUOTA_WRITERS", "COULOMB_PROJECTORS"];
    let mut settings = vec![("TEST_PANIC", wanted), ("COULOMB_PROJECTION_ATTEMPTS", "1")];
    // On a busy machine many requests at once may wait long for a connection.
    settings.push(("COULOMB_POOL_WAIT_MS", "30000"));
    settings.extend(one.map(|setting| (setting, "1")));
    Daemon::with(database, &settings)
}

async fn panics(daemon: &Daemon, thread: &str) -> i64 {
    let name = format!("coulomb_panics_total{{thread=\"{thread}\"}}");
    daemon.metric(&name).await.unwrap_or_else(|| panic!("{name} is missing"))
}

async fn is_ready(daemon: &Daemon) {
    let ready = daemon.http.get(format!("{}/readyz", daemon.base)).send().await.expect("an answer");
    assert_eq!(ready.status(), 200, "{}", ready.text().await.expect("text"));
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !seen().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn call(id: &str) -> Value {
    json!({ "id": id, "source": "test", "org": "acme", "event_name": "call" })
}

#[tokio::test]
async fn of_a_usage_writer_refuses_the_one_event() {
    let database = Database::new();
    database.meter(1, "call", "count", "", None);
    let key = database.key("admin", None);
    let daemon = panicking(&database, "usage-writer:boom");
    daemon.org(&key, "acme", "UTC").await;
    assert_eq!(panics(&daemon, "usage-writer").await, 0);
    let batch = json!([call("a"), call("b"), call("boom"), call("c")]);
    let refused = "data not_storable";
    assert_eq!(daemon.usage(&key, &batch).await, ["accepted", "accepted", refused, "accepted"]);
    assert_eq!(panics(&daemon, "usage-writer").await, 4, "of the batch, of its half, alone, and once more");
    // Events in the same commit are stored too.
    let (ids, together): (Vec<String>, Vec<Value>) = (0..20)
        .map(|n| if n == 7 { "boom-7".to_owned() } else { format!("n-{n}") })
        .map(|id| {
            let usage = call(&id);
            (id, usage)
        })
        .unzip();
    let statuses = join_all(together.iter().map(|usage| daemon.post("/v1/usage", &key, usage))).await;
    for (id, (_, taken)) in ids.iter().zip(&statuses) {
        let expected = if id.starts_with("boom") { "rejected" } else { "accepted" };
        assert_eq!(taken["results"][0]["status"], expected, "{id}: {taken}");
    }
    // All or nothing: the answer names the bad event, and nothing is stored.
    let whole = json!([call("x"), call("boom"), call("y")]);
    let (status, told) = daemon.post("/v1/usage?all_or_nothing=true&results=problems", &key, &whole).await;
    assert_eq!(
        (status.as_u16(), &told["code"], &told["results"][0]["index"]),
        (422, &json!("not_stored"), &json!(1))
    );
    assert_eq!(told["results"].as_array().map(Vec::len), Some(1), "{told}");
    // Acknowledged events are stored once.
    assert_eq!(
        daemon.usage(&key, &json!([call("a"), call("n-3"), call("x")])).await,
        ["duplicate", "duplicate", "accepted"]
    );
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), 3 + 19 + 1);
    assert_eq!(database.unbalanced(), Vec::<String>::new());
    is_ready(&daemon).await;
}

#[tokio::test]
async fn of_an_inbox_writer_refuses_the_one_delivery() {
    let database = Database::new();
    let mut daemon = panicking(&database, "inbox-writer:cus_boom");
    let deliver = |daemon: &Daemon, id: &str| {
        let body = event(&format!("evt_{id}"), "customer.created", 1, customer(&format!("cus_{id}"), None));
        let body = body.to_string();
        let request = daemon.http.post(format!("{}/webhooks/stripe", daemon.base));
        answer(request.header("Stripe-Signature", signature(body.as_bytes())).body(body))
    };
    let ids: Vec<String> = (0..20).map(|n| if n == 9 { "boom".to_owned() } else { n.to_string() }).collect();
    for (id, (status, _)) in ids.iter().zip(join_all(ids.iter().map(|id| deliver(&daemon, id))).await) {
        assert_eq!(status, if id == "boom" { 503 } else { 200 }, "{id}");
    }
    assert!(panics(&daemon, "inbox-writer").await > 0);
    is_ready(&daemon).await;
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM customers"), 19);
    assert_eq!(daemon.stop(), Some(0));
    // Stripe sends it again, to a version that can handle it.
    let daemon = Daemon::start(&database);
    assert_eq!(deliver(&daemon, "boom").await.0, 200);
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM customers"), 20);
}

#[tokio::test]
async fn of_a_projector_sets_the_one_event_aside() {
    let database = Database::new();
    let daemon = panicking(&database, "projector:cus_boom");
    let events: Vec<Value> = ["cus_1", "cus_boom", "cus_2", "cus_3"]
        .map(|id| event(&format!("evt_{id}"), "customer.created", 1, customer(id, None)))
        .into();
    daemon.deliver_all(&events).await;
    until("quarantined", async || daemon.metric("coulomb_stripe_inbox_quarantined").await == Some(1)).await;
    daemon.projected().await;
    assert_eq!(
        database.value("SELECT string_agg(id, ' ' ORDER BY id) FROM customers").as_deref(),
        Some("cus_1 cus_2 cus_3")
    );
    let listed = database.run(&["stripe", "inbox", "list", "--state", "quarantined"]);
    let listed: Value = serde_json::from_str(&listed).expect("one line");
    let error = listed["last_error"].as_str().expect("an error");
    assert!(error.contains("a fault of ours at src/panics.rs:"), "{error}");
    assert!(panics(&daemon, "projector").await >= 2);
    is_ready(&daemon).await;
}

#[tokio::test]
async fn of_the_filing_sets_the_one_delivery_aside() {
    let database = Database::new();
    let daemon = panicking(&database, "filing:cus_boom");
    let events: Vec<Value> = ["cus_1", "cus_boom", "cus_2"]
        .map(|id| event(&format!("evt_{id}"), "customer.created", 1, customer(id, None)))
        .into();
    daemon.deliver_all(&events).await;
    until("two filed", async || database.number("SELECT count(*) FROM customers") == 2).await;
    let unfiled = "SELECT string_agg(last_error, '') FROM stripe_arrivals WHERE attempts > 0";
    until("set aside", async || {
        database.value(unfiled).is_some_and(|error| error.contains("a fault of ours"))
    })
    .await;
    is_ready(&daemon).await;
}

#[tokio::test]
async fn of_an_effect_puts_the_one_payment_off() {
    let database = Database::new();
    let daemon = panicking(&database, "effects:in_boom");
    daemon.deliver_all(&purchase()).await;
    daemon.deliver(&event("evt_boom", "invoice.paid", 9, invoice("in_boom", "cus_1", "paid", 100))).await;
    let put_off = "SELECT string_agg(object_id, ' ') FROM battery_effects_queue
        WHERE last_error LIKE '%a fault of ours%'";
    until("put off", async || database.value(put_off).as_deref() == Some("in_boom")).await;
    let others = "SELECT count(*) FROM battery_effects_queue WHERE object_id <> 'in_boom'";
    until("the others are done", async || database.number(others) == 0).await;
    is_ready(&daemon).await;
}

#[tokio::test]
async fn of_quota_threads_fails_the_one_request() {
    let database = Database::new();
    let key = database.key("admin", None);
    let reserve = |daemon: &Daemon, member: &str| {
        let body = json!({ "org": "acme", "meter": "calls", "amount": 1, "member": member });
        answer(daemon.request(Method::POST, "/v1/quota/reserve", &key).json(&body))
    };
    {
        let daemon = panicking(&database, "quota-writer:boom");
        daemon.org(&key, "acme", "UTC").await;
        let meter = json!({ "key": "calls", "event_name": "call", "aggregation": "count", "unit": "calls" });
        assert_eq!(daemon.post("/v1/meters", &key, &meter).await.0, 201);
        let quota = json!({ "org": "acme", "meter": "calls", "period": "month", "limit": "100",
            "enforcement": "hard" });
        assert_eq!(daemon.post("/v1/quotas", &key, &quota).await.0, 201);
        let members: Vec<String> =
            (0..16).map(|n| if n == 5 { "boom".to_owned() } else { format!("m{n}") }).collect();
        let answers = join_all(members.iter().map(|member| reserve(&daemon, member))).await;
        for (member, (status, told)) in members.iter().zip(answers) {
            let expected = if member == "boom" { 500 } else { 201 };
            assert_eq!(status, expected, "{member}: {told}");
            assert!(expected == 201 || told["code"] == "internal_error", "{told}");
        }
        assert_eq!(database.number("SELECT count(*) FROM quota_reservations"), 15);
        assert!(panics(&daemon, "quota-writer").await > 0);
        is_ready(&daemon).await;
    }
    for (place, path, body) in [
        (
            "quota-reader",
            "/v1/quota/check",
            json!({ "items": [{ "org": "acme", "meter": "calls", "subject": "boom" }] }),
        ),
        ("quota-overviews", "/v1/orgs/acme/entitlements", Value::Null),
    ] {
        let daemon =
            panicking(&database, &format!("{place}:{}", if body.is_null() { "acme" } else { "boom" }));
        for _ in 0..2 {
            let request = match &body {
                Value::Null => daemon.request(Method::GET, path, &key),
                body => daemon.request(Method::POST, path, &key).json(body),
            };
            let (status, told) = answer(request).await;
            assert_eq!((status.as_u16(), &told["code"]), (500, &json!("internal_error")), "{place}: {told}");
        }
        assert!(panics(&daemon, place).await >= 2, "{place}");
        assert_eq!(reserve(&daemon, "m").await.0, 201, "{place}");
        is_ready(&daemon).await;
    }
}

#[tokio::test]
async fn of_a_worker_ends_its_turn() {
    let database = Database::new();
    let key = database.key("admin", None);
    for worker in ["reservation-sweeper", "org-listener", "usage-refresh"] {
        let daemon = panicking(&database, &format!("{worker}:turn"));
        // The pauses between its turns grow, and it continues.
        until(worker, async || panics(&daemon, worker).await >= 2).await;
        assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200);
        is_ready(&daemon).await;
    }
}

#[tokio::test]
async fn of_a_handler_is_answered() {
    let database = Database::new();
    let key = database.key("admin", None);
    let mut daemon = panicking(&database, "http:/v1/orgs/boom");
    for _ in 0..3 {
        let asked =
            daemon.request(Method::GET, "/v1/orgs/boom", &key).header("X-Request-Id", "mine").send().await;
        let answered = asked.expect("an answer");
        assert_eq!(
            (answered.status().as_u16(), &answered.headers()["x-request-id"]),
            (500, &"mine".parse().expect("a header"))
        );
        assert_eq!(answered.headers()["content-type"], "application/problem+json");
        let told: Value = answered.json().await.expect("JSON");
        assert_eq!(told["code"], "internal_error", "{told}");
        assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200);
    }
    assert_eq!(panics(&daemon, "http").await, 3);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn of_a_database_task_rolls_back() {
    let database = Database::new();
    let key = database.key("admin", None);
    let daemon = panicking(&database, "blocking:boom");
    // More panics than the pool has connections.
    for _ in 0..12 {
        let (status, told) =
            daemon.post("/v1/orgs", &key, &json!({ "name": "boom", "external_id": "boom" })).await;
        assert_eq!((status.as_u16(), &told["code"]), (500, &json!("internal_error")));
    }
    daemon.org(&key, "acme", "UTC").await;
    assert_eq!(database.number("SELECT count(*) FROM orgs"), 1);
    assert!(panics(&daemon, "blocking").await >= 12);
    is_ready(&daemon).await;
}

#[tokio::test]
async fn of_an_export_breaks_it_off_and_gives_its_place_back() {
    let database = Database::new();
    let key = database.key("admin", None);
    let settings = [("TEST_PANIC", "export:invoices"), ("COULOMB_EXPORTS", "1")];
    let daemon = Daemon::with(&database, &settings);
    daemon.deliver(&event("evt_1", "invoice.paid", 9, invoice("in_1", "cus_1", "paid", 100))).await;
    daemon.projected().await;
    for _ in 0..3 {
        let asked = daemon.request(Method::GET, "/v1/invoices/export?format=csv", &key).send().await;
        let whole = match asked {
            Ok(answered) => {
                assert_ne!(answered.status(), 503, "its place is taken");
                answered.status() == 200 && answered.text().await.is_ok()
            }
            Err(_) => false,
        };
        assert!(!whole, "an export that broke off looks complete");
    }
    is_ready(&daemon).await;
}
