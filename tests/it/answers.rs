//! Requests that the daemon does not accept: the answer is a problem in our own words.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database, TestClock};

/// Status, code and field of a problem.
fn told((status, problem): &(StatusCode, Value)) -> (u16, &str, &str) {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    (status.as_u16(), text("code"), text("field"))
}

#[tokio::test]
async fn a_path_says_which_methods_it_has() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    for (method, path, allowed) in [
        (Method::DELETE, "/v1/orgs", "GET, HEAD, POST"),
        (Method::GET, "/v1/usage", "POST"),
        (Method::POST, "/v1/quotas/quo_1", "GET, HEAD, PATCH, DELETE"),
        (Method::TRACE, "/healthz", "GET, HEAD"),
        (Method::OPTIONS, "/docs", "GET, HEAD"),
        (Method::HEAD, "/webhooks/stripe", "POST"),
    ] {
        let response = daemon.request(method.clone(), path, &key).send().await.expect("an answer");
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(response.status(), 405, "{method} {path}");
        assert_eq!(
            [header("allow"), header("content-type")],
            [allowed, "application/problem+json"],
            "{path}"
        );
        let body = response.text().await.expect("a body");
        assert_eq!(method == Method::HEAD, body.is_empty());
        assert!(body.is_empty() || body.contains(r#""code":"method_not_allowed""#), "{body}");
    }
    let lost = daemon.get("/v2/orgs", &key).await;
    assert_eq!(told(&lost), (404, "no_route", ""));
    let docs = daemon.http.get(format!("{}/", daemon.base)).send().await.expect("an answer");
    assert_eq!((docs.status().as_u16(), docs.url().path()), (200, "/docs"));
}

#[tokio::test]
async fn head_tells_what_get_would() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    for path in ["/healthz", "/readyz", "/docs", "/v1/orgs", "/v1/orgs/org_1", "/v1/plans?limit=0"] {
        let ask = async |method: Method| {
            let response = daemon.request(method, path, &key).send().await.expect("an answer");
            let status = response.status();
            let kind = response.headers()["content-type"].clone();
            (status, kind, response.text().await.expect("a body"))
        };
        let (get, head) = (ask(Method::GET).await, ask(Method::HEAD).await);
        assert_eq!((get.0, &get.1), (head.0, &head.1), "{path}");
        assert!(!get.2.is_empty() && head.2.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn a_body_that_is_missing_or_wrong_is_said_to_be() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    let send = async |path: &str, body: &'static [u8]| {
        answer(daemon.request(Method::POST, path, &key).body(body)).await
    };
    for (body, expected) in [
        (b"".as_slice(), (400, "malformed_body", "")),
        (b"{", (400, "malformed_body", "")),
        (b"name=acme", (400, "malformed_body", "")),
        (b"{\"name\":\"\xff\"}", (400, "malformed_body", "")),
        (b"{\"name\":\"\\ud800\"}", (400, "malformed_body", "")),
        (b"[\"acme\"]", (400, "invalid_request", "body")),
        (b"{}", (400, "invalid_request", "name")),
        (b"{\"name\":\"a\",\"zone\":1}", (400, "invalid_request", "zone")),
        (b"{\"name\":\"a\\u0000\"}", (400, "invalid_request", "name")),
        (b"{\"name\":\"a\",\"time_zone\":\"\\u0000\"}", (400, "invalid_request", "time_zone")),
    ] {
        let refused = send("/v1/orgs", body).await;
        assert_eq!(told(&refused), expected, "{refused:?}");
    }
    // A body whose fields are all optional may be missing.
    assert_eq!(send("/v1/plans/import", b"").await.0, 200);
}

/// The daemon checks a cursor like any input: it refuses one of another list or grouping.
#[tokio::test]
async fn a_cursor_belongs_to_its_list() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    for org in ["acme", "beta"] {
        daemon.org(&key, org, "UTC").await;
    }
    for meter in ["a", "b"] {
        let body =
            json!({ "key": meter, "event_name": "e", "aggregation": "count", "dimensions": ["model"] });
        assert_eq!(daemon.post("/v1/meters", &key, &body).await.0, 201);
    }
    let event =
        json!([{ "id": "1", "org": "acme", "event_name": "e", "member": "m", "data": { "model": "x" } }]);
    daemon.usage(&key, &event).await;
    let cursor = async |path: &str| {
        let (status, page) = daemon.get(path, &key).await;
        assert_eq!(status, 200, "{page}");
        page["next"].as_str().expect("two rows").to_owned()
    };
    let meters = cursor("/v1/meters?limit=1").await;
    let days = cursor("/v1/usage/daily?org=acme&limit=1").await;
    let members = cursor("/v1/usage/daily?org=acme&limit=1&group_by=day,member").await;
    for (path, cursor, status) in [
        ("/v1/meters?limit=1", &meters, 200),
        ("/v1/plans?limit=1", &meters, 400),
        ("/v1/usage/daily?org=acme", &days, 200),
        ("/v1/usage/daily?org=acme&group_by=day,member", &members, 200),
        ("/v1/usage/daily?org=acme&group_by=day,model", &members, 400),
        ("/v1/usage/daily?org=acme&group_by=member", &days, 400),
        ("/v1/usage/daily?org=acme", &members, 400),
        ("/v1/usage/records?org=acme", &days, 400),
    ] {
        let sign = if path.contains('?') { '&' } else { '?' };
        let (got, page) = daemon.get(&format!("{path}{sign}cursor={cursor}"), &key).await;
        assert_eq!(got, status, "{path}: {page}");
        assert!(status == 200 || page["field"] == "cursor", "{path}: {page}");
    }
}

/// A request with one event has the status of its outcome. A batch lists an outcome for each event.
#[tokio::test]
async fn an_event_alone_that_is_not_taken_is_a_problem() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    let acme = daemon.org(&key, "acme", "UTC").await;
    let own = database.key("usage:write", Some(&acme));
    let meter = json!({ "key": "tokens", "event_name": "llm", "aggregation": "sum", "value_field": "n" });
    assert_eq!(daemon.post("/v1/meters", &key, &meter).await.0, 201);
    let card = json!({ "currency": "usd", "rates": [{ "unit_cost": "1", "battery_units": "1" }] });
    let event =
        |id: &str, n: i64| json!({ "id": id, "org": "acme", "event_name": "llm", "data": { "n": n } });
    let with = |name: &str, value: Value| {
        let mut event = event("2", 1);
        event[name] = value;
        event
    };
    assert_eq!(daemon.post("/v1/usage", &key, &event("1", 5)).await.0, 200);
    // A duplicate is not a problem.
    let (status, again) = daemon.post("/v1/usage", &key, &event("1", 5)).await;
    assert_eq!((status.as_u16(), &again["duplicate"]), (200, &json!(1)));
    let limit =
        json!({ "org": "acme", "meter": "tokens", "period": "month", "limit": "10", "refuse_usage": true });
    assert_eq!(daemon.post("/v1/quotas", &key, &limit).await.0, 201);
    for (key, body, expected) in [
        (&key, event("1", 6), (409, "key_reused", "id")),
        (&key, event("2", 6), (409, "quota_exceeded", "data")),
        (&key, with("org", json!("nobody")), (404, "unknown_org", "org")),
        (&key, with("event_name", json!("mlm")), (400, "unknown_event_name", "event_name")),
        (&key, with("data", json!({})), (400, "no_value", "data.n")),
        (&key, with("data", json!({ "n": "many" })), (400, "not_a_number", "data.n")),
        (&key, with("ocurred_at", json!("2026")), (400, "unknown_field", "ocurred_at")),
        (&key, with("occurred_at", json!("+262142-01-01T00:00:00Z")), (400, "not_a_time", "occurred_at")),
        (&key, json!(7), (400, "not_an_object", "")),
        (&own, with("cost", json!("1")), (403, "missing_scope", "cost")),
    ] {
        let refused = daemon.post("/v1/usage", key, &body).await;
        assert_eq!(told(&refused), expected, "{body}: {refused:?}");
        assert_eq!(refused.1["status"], refused.0.as_u16());
        assert_eq!(refused.1["results"][0]["rule"], expected.1, "{refused:?}");
        assert_eq!((&refused.1["accepted"], &refused.1["results"][1]), (&json!(0), &Value::Null));
        for batch in [json!([body]), json!({ "events": [body] })] {
            let (status, answer) = daemon.post("/v1/usage", key, &batch).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(answer["results"][0]["rule"], expected.1, "{answer}");
        }
    }
    assert_eq!(daemon.post("/v1/meters/tokens/rate_cards", &key, &card).await.0, 201);
    let none = json!({ "debt_limit": "0" });
    let settings = daemon.request(Method::PUT, "/v1/battery/settings/acme", &key).json(&none);
    assert_eq!(answer(settings).await.0, 200);
    let exhausted = daemon.post("/v1/usage", &key, &event("3", 1)).await;
    assert_eq!(told(&exhausted), (409, "battery_exhausted", "data"), "{exhausted:?}");
    // Single CloudEvents and those in binary mode are requests with one event too.
    let cloud = json!({ "specversion": "1.0", "id": "4", "source": "s", "type": "mlm", "subject": "acme" });
    let single = daemon.request(Method::POST, "/v1/usage", &key).body(cloud.to_string());
    let single = answer(single.header("Content-Type", "application/cloudevents+json")).await;
    assert_eq!(told(&single), (400, "unknown_event_name", "event_name"));
    let mut binary = daemon.request(Method::POST, "/v1/usage", &key).body(r#"{"n":1}"#);
    for (name, value) in
        [("specversion", "1.0"), ("id", "5"), ("source", "s"), ("type", "llm"), ("subject", "nobody")]
    {
        binary = binary.header(format!("ce-{name}"), value);
    }
    assert_eq!(told(&answer(binary).await), (404, "unknown_org", "org"));
}

/// All answers show the same balance, whether or not a worker has written what is due.
#[tokio::test]
async fn a_battery_has_one_balance() {
    let database = Database::new();
    let clock = TestClock::at("2026-10-01T10:00:00Z");
    let daemon = Daemon::clocked(&database, &clock);
    let key = database.key("admin", None);
    daemon.org(&key, "acme", "UTC").await;
    let plan = json!({ "name": "Pro", "daily_battery": "7" });
    assert_eq!(answer(daemon.request(Method::PUT, "/v1/plans/pro", &key).json(&plan)).await.0, 200);
    let grant = async |amount: &str, more: Value| {
        let mut body = json!({ "org": "acme", "amount": amount, "reason": "r" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, granted) = daemon.post("/v1/battery/grants", &key, &body).await;
        assert_eq!(status, 201, "{granted}");
    };
    grant("100", json!({})).await;
    grant("30", json!({ "expires_at": "2026-10-01T11:00:00Z" })).await;
    grant("500", json!({ "effective_at": "2026-10-01T12:00:00Z" })).await;
    let begun =
        daemon.post("/v1/orgs/acme/subscription", &key, &json!({ "plan": "pro", "paid": true })).await;
    assert_eq!(begun.0, 201, "{begun:?}");
    let one_figure = async |expected: &str| {
        let battery = daemon.get("/v1/battery?org=acme", &key).await.1;
        let entitled = daemon.get("/v1/orgs/acme/entitlements", &key).await.1["battery"].clone();
        for name in ["balance", "reserved", "available", "debt_limit"] {
            assert_eq!(battery[name], entitled[name], "{name}: {battery} {entitled}");
        }
        assert_eq!(battery["balance"], expected, "{battery}");
    };
    // The balance includes the allowance of a plan that began today, though it is not written yet.
    clock.turn("2026-10-01T10:00:05Z");
    one_figure("137").await;
    clock.turn("2026-10-01T11:30:00Z");
    one_figure("107").await;
    clock.turn("2026-10-01T12:30:00Z");
    one_figure("607").await;
    clock.turn("2026-10-02T00:00:01Z");
    one_figure("607").await;
}

/// A mistyped name must not give an empty list, or make a command act on all orgs.
#[tokio::test]
async fn names_of_nothing_are_refused() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write,usage:read,usage:write", None);
    daemon.org(&key, "acme", "UTC").await;
    for (path, field) in [
        ("/v1/orgs?plan=none", "plan"),
        ("/v1/quotas?meter=none", "meter"),
        ("/v1/usage/unpriced?meter=none", "meter"),
        ("/v1/usage/records?org=acme&meter=none", "meter"),
    ] {
        let answered = daemon.get(path, &key).await;
        assert_eq!(told(&answered), (400, "invalid_request", field), "{path}: {}", answered.1);
    }
    let closing = json!({ "org": null, "month": "2026-01" });
    let answered = daemon.post("/v1/usage/closings", &key, &closing).await;
    assert_eq!(told(&answered), (400, "invalid_request", "org"), "{}", answered.1);
    assert_eq!(database.number("SELECT count(*) FROM usage_closings"), 0);
}

/// A Stripe price buys one thing, has one interval, and its id has Stripe's form.
#[tokio::test]
async fn a_price_buys_one_thing() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:write", None);
    let put =
        async |path: &str, body: Value| answer(daemon.request(Method::PUT, path, &key).json(&body)).await;
    let pack = json!({ "name": "Pack", "units": "5", "stripe_prices": ["price_1"] });
    assert_eq!(put("/v1/battery/packs/pack", pack).await.0, 200);
    let plan = |price: &str| json!({ "name": "Plan", "stripe_prices": [price] });
    let taken = put("/v1/plans/pro", plan("price_1")).await;
    assert_eq!(told(&taken), (409, "price_taken", ""), "{}", taken.1);
    assert_eq!(database.number("SELECT count(*) FROM plans"), 0, "nothing is half-done");
    let placeholder = put("/v1/plans/pro", plan("price_…")).await;
    assert_eq!(told(&placeholder), (400, "invalid_request", "stripe_prices"), "{}", placeholder.1);
    let amount = json!({ "amount": 5, "currency": "usd", "stripe_price": "price_2" });
    let both = put("/v1/plans/pro", json!({ "name": "Plan", "monthly": amount, "annual": amount })).await;
    assert_eq!(told(&both), (400, "invalid_request", "annual.stripe_price"), "{}", both.1);
    assert_eq!(put("/v1/plans/pro", plan("price_2")).await.0, 200);
}

/// A body that cannot be unpacked is answered with a problem.
#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says_is_told() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("usage:write", None);
    let sent =
        daemon.request(Method::POST, "/v1/usage", &key).header("Content-Encoding", "gzip").body("plain");
    let (status, problem) = answer(sent).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (400, Some("malformed_body")), "{problem}");
    let detail = problem["detail"].as_str().expect("text");
    assert_eq!(detail, "the body is not whole or not `gzip`, as Content-Encoding says");
}
