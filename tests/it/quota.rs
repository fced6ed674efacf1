//! Quotas: what is counted, what is limited, what is set aside.

mod admission;
mod history;
mod reservations;

use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

/// A platform with one meter `tokens` (sum, dimension `model`), one `calls` (count), and the org `acme`.
pub(crate) struct House {
    /// Its database.
    pub(crate) database: Database,
    /// A daemon on it.
    pub(crate) daemon: Daemon,
    /// A key of the platform that may do all of this.
    pub(crate) key: String,
    /// Public id of `acme`.
    pub(crate) org: String,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let database = Database::new();
        database.execute(
            "INSERT INTO meters VALUES (1, 'tokens', 'sum', 'tokens', now()), (2, 'calls', 'count', '',
                 now()), (3, 'peak', 'max', '', now());
             INSERT INTO meter_versions
             VALUES (1, 1, 'Tokens', 'llm', 'tokens', '{model}', now()), (2, 1, 'Calls', 'llm', NULL, '{}',
                 now()),
                (3, 1, 'Peak', 'llm', 'peak', '{}', now());
             UPDATE catalog SET version = version + 1",
        );
        let daemon = Daemon::with(&database, settings);
        let key = database.key("billing:write,billing:read,usage:read,usage:write", None);
        let (status, org) =
            daemon.post("/v1/orgs", &key, &json!({ "name": "Acme", "external_id": "acme" })).await;
        assert_eq!(status, 201, "{org}");
        let org = org["id"].as_str().expect("an id").to_owned();
        Self { database, daemon, key, org }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.daemon.post(path, &self.key, body).await;
        (status.as_u16(), body)
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = answer(self.daemon.request(method, path, &self.key).json(body)).await;
        (status.as_u16(), body)
    }

    /// Makes a quota on `tokens`, with further fields.
    pub(crate) async fn quota(&self, limit: Value, more: Value) -> String {
        let mut body = json!({ "org": "acme", "meter": "tokens", "period": "day", "limit": limit });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let (status, quota) = self.post("/v1/quotas", &body).await;
        assert_eq!(status, 201, "{quota}");
        quota["id"].as_str().expect("an id").to_owned()
    }

    /// One check.
    pub(crate) async fn check(&self, item: Value) -> Value {
        let (status, answer) = self.post("/v1/quota/check", &json!({ "items": [item] })).await;
        assert_eq!(status, 200, "{answer}");
        answer["results"][0].clone()
    }

    pub(crate) async fn reserve(&self, amount: Value, more: Value) -> (u16, Value) {
        let mut body = json!({ "org": "acme", "meter": "tokens", "amount": amount });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        self.post("/v1/quota/reserve", &body).await
    }

    /// A reservation that must be made; its id.
    pub(crate) async fn reserved(&self, amount: Value, more: Value) -> String {
        let (status, made) = self.reserve(amount, more).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().expect("an id").to_owned()
    }

    /// `used/reserved` of every counter, in the order of slot, subject and period.
    pub(crate) fn counters(&self) -> String {
        let sql = "SELECT string_agg(concat(trim_scale(used), '/', trim_scale(reserved)), ' '
            ORDER BY slot_id, subject, period) FROM quota_counters";
        self.database.value(sql).unwrap_or_default()
    }

    /// Usage recorded on a day, as summaries and records have it.
    fn recorded(&self, series: i64, model: &str, subject: &str, day: NaiveDate, quantity: i64) {
        self.database.execute(&format!(
            "SELECT make_usage_partition('{day}');
             INSERT INTO usage_series SELECT org_id, {series}, 1, NULL, '{{\"model\": \"{model}\"}}'
             FROM orgs ON CONFLICT DO NOTHING;
             INSERT INTO usage_records
             SELECT org_id, {series}, '{day}T12:00:00Z', now(), gen_random_uuid(), 1, NULL, '{day}', NULL, 0,
                 {quantity}, 0, 0, 'e', '', nullif('{subject}', '')
                FROM orgs;
             INSERT INTO daily_summaries SELECT org_id, {series}, '{day}', {quantity}, 1, 0, 0, NULL FROM orgs
                ON CONFLICT (org_id, series_id, day)
                DO UPDATE SET quantity = daily_summaries.quantity + excluded.quantity"
        ));
    }
}

fn exceeded(answer: &Value) -> (&str, &str, &str, &str) {
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    assert_eq!(answer["code"], "quota_exceeded", "{answer}");
    assert!(text("resets_at").parse::<DateTime<Utc>>().expect("a time") > Utc::now());
    (text("limit"), text("used"), text("reserved"), text("remaining"))
}

#[tokio::test]
async fn limits_are_told_from_none_and_from_nothing() {
    let house = House::new().await;
    // Nothing limits it.
    let verdict = house.check(json!({ "org": "acme", "meter": "tokens", "amount": 1e14 })).await;
    assert_eq!((&verdict["allowed"], &verdict["quotas"]), (&json!(true), &json!([])));
    let id = house.quota(json!(0), json!({})).await;
    let ask = json!({ "org": "acme", "meter": "tokens" });
    assert_eq!(house.check(ask.clone()).await["allowed"], false);
    assert_eq!(house.reserve(json!("0.000000000001"), json!({})).await.0, 409);
    let path = format!("/v1/quotas/{id}");
    let (status, quota) = house.send(Method::PATCH, &path, &json!({ "limit": null })).await;
    assert_eq!((status, &quota["limit"]), (200, &Value::Null));
    let verdict = house.check(ask.clone()).await;
    assert_eq!((&verdict["allowed"], &verdict["quotas"][0]["remaining"]), (&json!(true), &Value::Null));
    // What is left out stays.
    let (_, quota) = house.send(Method::PATCH, &path, &json!({ "enforcement": "soft" })).await;
    assert_eq!((&quota["limit"], &quota["enforcement"]), (&Value::Null, &json!("soft")));
    house.send(Method::PATCH, &path, &json!({ "limit": "5" })).await;
    assert_eq!(house.reserve(json!(6), json!({})).await.0, 201, "a soft limit allows overage");
    let verdict = house.check(ask).await;
    assert_eq!((&verdict["allowed"], &verdict["quotas"][0]["remaining"]), (&json!(true), &json!("0")));
    assert_eq!(house.send(Method::DELETE, &path, &json!({})).await.0, 204);
    assert_eq!(house.daemon.get(&path, &house.key).await.0, 404);
    let actions =
        "SELECT string_agg(action, ' ' ORDER BY audit_id) FROM audit_log WHERE action LIKE 'quota%'";
    let audited = "quota.create quota.update quota.update quota.update quota.delete";
    assert_eq!(house.database.value(actions).as_deref(), Some(audited));
}

#[tokio::test]
async fn a_new_slot_counts_what_was_used_already() {
    let house = House::new().await;
    let today = Utc::now().date_naive();
    let earlier = today.with_day(if today.day() == 1 { 2 } else { 1 }).expect("a day");
    house.recorded(7, "small", "u1", today, 5);
    house.recorded(8, "large", "", today, 40);
    house.recorded(8, "large", "u2", earlier, 300);
    let last_month = today.with_day(1).expect("a day").pred_opt().expect("a day");
    house.recorded(8, "large", "u2", last_month, 9000);
    house.quota(json!(1000), json!({ "period": "month" })).await;
    house.quota(json!(1000), json!({ "period": "month", "filter": { "model": "large" } })).await;
    house.quota(json!(1000), json!({ "per_subject": true })).await;
    house.quota(json!(1000), json!({ "period": "billing" })).await;
    let used = |ask: Value| {
        let house = &house;
        async move {
            let mut ask = ask;
            ask["org"] = json!("acme");
            ask["meter"] = json!("tokens");
            let quotas = house.check(ask).await["quotas"].clone();
            quotas
                .as_array()
                .expect("some")
                .iter()
                .map(|q| q["used"].as_str().expect("text").to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(
        used(json!({ "dimensions": { "model": "large" }, "subject": "u1" })).await,
        ["345", "340", "5", "345"]
    );
    assert_eq!(used(json!({ "dimensions": { "model": "small" } })).await, ["345", "40", "345"]);
    // A plan's slot is filled in for every org; the org's own of the same kind is the same slot.
    house
        .daemon
        .request(Method::PUT, "/v1/plans/pro", &house.key)
        .json(&json!({ "name": "Pro" }))
        .send()
        .await
        .expect("sent");
    let quotas = json!({ "quotas": [{ "meter": "tokens", "period": "day", "limit": 10,
        "filter": { "model": "small" } }] });
    let (status, put) = house.send(Method::PUT, "/v1/plans/pro/quotas", &quotas).await;
    assert_eq!((status, &put["quotas"][0]["limit"]), (200, &json!("10")), "{put}");
    assert_eq!(house.database.number("SELECT used::bigint FROM quota_counters WHERE slot_id = 5"), 5);
}

#[tokio::test]
async fn a_change_of_plan_changes_the_limit_and_not_the_count() {
    let house = House::new().await;
    for (plan, limit) in [("free", json!(10)), ("pro", json!(100)), ("max", Value::Null)] {
        let body = json!({ "name": plan, "stripe_prices": [format!("price_{plan}")] });
        assert_eq!(house.send(Method::PUT, &format!("/v1/plans/{plan}"), &body).await.0, 200);
        let quotas = json!({ "quotas": [{ "meter": "tokens", "period": "month", "limit": limit }] });
        assert_eq!(house.send(Method::PUT, &format!("/v1/plans/{plan}/quotas"), &quotas).await.0, 200);
    }
    house.database.execute(
        "INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
         VALUES ('', false, 'cus_1', 'acme');",
    );
    let on = |plan: &str| {
        house.database.execute(&format!(
            "DELETE FROM subscriptions; DELETE FROM subscription_items;
             INSERT INTO subscriptions (account, livemode, id, customer_id, status, items_complete, created)
             VALUES ('', false, 'sub_1', 'cus_1', 'active', true, now());
             INSERT INTO subscription_items (account, livemode, subscription_id, item_number, id, price_id)
             VALUES ('', false, 'sub_1', 0, 'si_1', 'price_{plan}');
             NOTIFY coulomb_orgs"
        ));
    };
    let standing = || async {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let quotas = house.check(json!({ "org": "acme", "meter": "tokens" })).await["quotas"].clone();
        (quotas[0]["plan"].clone(), quotas[0]["limit"].clone(), quotas[0]["used"].clone())
    };
    // Without a plan there is no limit, but it is counted.
    let id = house.reserved(json!(7), json!({})).await;
    assert_eq!(house.post(&format!("/v1/quota/{id}/settle"), &json!({})).await.0, 200);
    assert_eq!(standing().await, (Value::Null, Value::Null, Value::Null));
    on("free");
    assert_eq!(standing().await, (json!("free"), json!("10"), json!("7")));
    assert_eq!(house.reserve(json!(4), json!({})).await.0, 409);
    on("pro");
    assert_eq!(standing().await, (json!("pro"), json!("100"), json!("7")));
    on("max");
    assert_eq!(standing().await, (json!("max"), Value::Null, json!("7")));
    // The org's own quota stands in place of its plan's, on the same counter.
    let own = house.quota(json!(8), json!({ "period": "month" })).await;
    assert_eq!(standing().await, (Value::Null, json!("8"), json!("7")));
    house.send(Method::DELETE, &format!("/v1/quotas/{own}"), &json!({})).await;
    assert_eq!(standing().await, (json!("max"), Value::Null, json!("7")));
}

#[tokio::test]
async fn subjects_have_their_own_limit_and_some_have_none() {
    let house = House::new().await;
    house.quota(json!(10), json!({ "per_subject": true })).await;
    house.quota(json!(25), json!({})).await;
    for subject in ["u1", "u2"] {
        assert_eq!(house.reserve(json!(10), json!({ "subject": subject })).await.0, 201);
        let (status, refused) = house.reserve(json!(1), json!({ "subject": subject })).await;
        assert_eq!((status, &refused["subject"]), (409, &json!(subject)));
    }
    let (status, refused) = house.reserve(json!(6), json!({ "subject": "u3" })).await;
    assert_eq!((status, exceeded(&refused)), (409, ("25", "0", "20", "5")), "the org's limit holds too");
    let exempt = |per_subject: bool| {
        json!({ "org": "acme", "meter": "tokens", "period": "day",
        "per_subject": per_subject, "subject": "u1", "reason": "support" })
    };
    let (status, made) = house.post("/v1/quota_exemptions", &exempt(true)).await;
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(house.post("/v1/quota_exemptions", &exempt(true)).await.1["code"], "already_exempt");
    assert_eq!(house.reserve(json!(5), json!({ "subject": "u1" })).await.0, 201);
    assert_eq!(
        house.reserve(json!(1), json!({ "subject": "u1" })).await.0,
        409,
        "the org's limit still holds"
    );
    let (_, org_wide) = house.post("/v1/quota_exemptions", &exempt(false)).await;
    let verdict =
        house.check(json!({ "org": "acme", "meter": "tokens", "subject": "u1", "amount": 90 })).await;
    assert_eq!((&verdict["allowed"], &verdict["quotas"][0]["exempt"]), (&json!(true), &json!(true)));
    assert_eq!(house.reserve(json!(90), json!({ "subject": "u1" })).await.0, 201);
    assert_eq!(house.counters(), "0/105 0/10 0/0 0/115", "it is counted all the same");
    for id in [id, org_wide["id"].as_str().expect("an id")] {
        assert_eq!(
            house.send(Method::DELETE, &format!("/v1/quota_exemptions/{id}"), &json!({})).await.0,
            204
        );
    }
    assert_eq!(house.reserve(json!(1), json!({ "subject": "u1" })).await.0, 409);
    assert_eq!(house.daemon.get("/v1/quota_exemptions", &house.key).await.1["data"], json!([]));
}

#[tokio::test]
async fn thresholds_are_told_once_a_period() {
    let house = House::new().await;
    house.quota(json!(100), json!({ "thresholds": [100, 80, "50"] })).await;
    let uses = |amount: i64| {
        let house = &house;
        async move {
            let id = house.reserved(json!(amount), json!({})).await;
            assert_eq!(house.post(&format!("/v1/quota/{id}/settle"), &json!({})).await.0, 200);
        }
    };
    let told = || async {
        let (_, page) = house.daemon.get("/v1/messages", &house.key).await;
        page["data"]
            .as_array()
            .expect("rows")
            .iter()
            .rev()
            .map(|m| m["data"]["threshold"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    uses(49).await;
    assert!(told().await.is_empty());
    uses(1).await;
    assert_eq!(told().await, ["50"]);
    uses(1).await;
    uses(49).await;
    let mut all = told().await;
    all.sort();
    assert_eq!(all, ["100", "50", "80"]);
    // Another period is told anew.
    house.database.execute(
        "UPDATE quota_counters SET period = period - 1; UPDATE outbox_messages
        SET dedupe_key = replace(dedupe_key, current_date::text, (current_date - 1)::text)",
    );
    uses(50).await;
    assert_eq!(told().await.len(), 4);
    let (_, page) = house.daemon.get("/v1/messages?limit=1", &house.key).await;
    let message = &page["data"][0];
    assert_eq!(
        (&message["type"], &message["data"]["used"], &message["data"]["limit"]),
        (&json!("quota.threshold_reached"), &json!("50"), &json!("100"))
    );
    assert_eq!(message["org"], json!(house.org));
}

#[tokio::test]
async fn a_zone_moves_the_ends_of_a_period_and_not_its_count() {
    let house = House::new().await;
    house.quota(json!(100), json!({ "period": "month" })).await;
    let id = house.reserved(json!(60), json!({})).await;
    house.post(&format!("/v1/quota/{id}/settle"), &json!({})).await;
    let resets = |verdict: &Value| {
        verdict["quotas"][0]["resets_at"].as_str().expect("text").parse::<DateTime<Utc>>().expect("a time")
    };
    let ask = json!({ "org": "acme", "meter": "tokens" });
    let before = house.check(ask.clone()).await;
    house
        .send(Method::PATCH, &format!("/v1/orgs/{}", house.org), &json!({ "time_zone": "Asia/Tokyo" }))
        .await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let after = house.check(ask).await;
    // On the first and last hours of a month the two zones are in different ones.
    if Utc::now().date_naive().month() == (Utc::now() + chrono::TimeDelta::hours(9)).date_naive().month() {
        assert_eq!(after["quotas"][0]["used"], "60");
        assert_eq!(resets(&before) - resets(&after), chrono::TimeDelta::hours(9));
    }
}

/// The period of a reservation is that in which it was made; usage counts to the one in which it happens.
#[tokio::test]
async fn an_org_asks_for_itself_only() {
    let house = House::new().await;
    let (_, other) = house.post("/v1/orgs", &json!({ "name": "Other", "external_id": "other" })).await;
    let quota = house.quota(json!(100), json!({ "thresholds": [1] })).await;
    let own = house.database.key("usage:read,usage:write", Some(&house.org));
    let foreign = house.database.key("usage:read,usage:write", other["id"].as_str());
    let post = |key: &str, path: &str, body: Value| {
        let (key, path) = (key.to_owned(), path.to_owned());
        let daemon = &house.daemon;
        async move {
            let (status, body) = daemon.post(&path, &key, &body).await;
            (status.as_u16(), body)
        }
    };
    let reserve = json!({ "meter": "tokens", "amount": 10, "id": "mine" });
    let (status, made) = post(&own, "/v1/quota/reserve", reserve.clone()).await;
    assert_eq!((status, &made["org"]), (201, &json!(house.org)), "{made}");
    // The same id of another org is another reservation.
    assert_eq!(post(&foreign, "/v1/quota/mine/settle", json!({})).await.0, 404);
    assert_eq!(post(&foreign, "/v1/quota/reserve", reserve).await.0, 201);
    assert_eq!(post(&house.key, "/v1/quota/mine/release", json!({})).await.1["field"], "org");
    assert_eq!(post(&house.key, "/v1/quota/mine/settle", json!({ "org": "acme" })).await.0, 200);
    assert_eq!(post(&foreign, "/v1/quota/mine/release", json!({})).await.1["state"], "released");
    assert_eq!(
        post(&foreign, "/v1/quota/check", json!({ "items": [{ "org": house.org, "meter": "tokens" }] }))
            .await
            .0,
        404
    );
    for path in ["/v1/quotas", "/v1/quota_exemptions", "/v1/messages"] {
        let rows = |page: Value| page["data"].as_array().map(Vec::len);
        assert_eq!(rows(house.daemon.get(path, &foreign).await.1), Some(0), "{path}");
        let mine = if path == "/v1/quota_exemptions" { 0 } else { 1 };
        assert_eq!(rows(house.daemon.get(path, &own).await.1), Some(mine), "{path}");
    }
    for path in [format!("/v1/quotas/{quota}"), format!("/v1/quotas/{quota}/history")] {
        assert_eq!(house.daemon.get(&path, &own).await.0, 200);
        assert_eq!(house.daemon.get(&path, &foreign).await.0, 404);
    }
    assert_eq!(house.daemon.get(&format!("/v1/quotas?org={}", house.org), &foreign).await.0, 404);
    let new = json!({ "org": "acme", "meter": "calls", "period": "day", "limit": 1 });
    assert_eq!(post(&own, "/v1/quotas", new.clone()).await.0, 403);
    let writer = house.database.key("usage:write", None);
    assert_eq!(
        post(&writer, "/v1/quota/check", json!({ "items": [{ "org": "acme", "meter": "tokens" }] })).await.0,
        403
    );
    assert_eq!(post(&writer, "/v1/quotas", new).await.0, 403);
}

#[tokio::test]
async fn what_is_wrong_names_its_field() {
    let house = House::new().await;
    let quota = |more: Value| {
        let mut body = json!({ "org": "acme", "meter": "tokens", "period": "day", "limit": 5 });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        body
    };
    let reserve = |more: Value| {
        let mut body = json!({ "org": "acme", "meter": "tokens", "amount": 5 });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        body
    };
    for (path, body, field) in [
        ("/v1/quotas", quota(json!({ "meter": "peak" })), "meter"),
        ("/v1/quotas", quota(json!({ "meter": "none" })), "meter"),
        ("/v1/quotas", quota(json!({ "filter": { "colour": "red" } })), "filter.colour"),
        ("/v1/quotas", quota(json!({ "limit": -1 })), "limit"),
        ("/v1/quotas", quota(json!({ "enforcement": "soft", "refuse_usage": true })), "refuse_usage"),
        ("/v1/quotas", quota(json!({ "thresholds": [0] })), "thresholds"),
        ("/v1/quotas", quota(json!({ "limit": "unlimited" })), "limit"),
        ("/v1/quotas", json!({ "org": "acme", "meter": "tokens", "period": "day" }), "limit"),
        ("/v1/quota/reserve", reserve(json!({ "amount": 0 })), "amount"),
        ("/v1/quota/reserve", reserve(json!({ "amount": -1 })), "amount"),
        ("/v1/quota/reserve", reserve(json!({ "meter": "calls", "amount": 0.5 })), "amount"),
        ("/v1/quota/reserve", reserve(json!({ "meter": "peak" })), "meter"),
        ("/v1/quota/reserve", reserve(json!({ "expires_in_s": 0 })), "expires_in_s"),
        ("/v1/quota/reserve", reserve(json!({ "expires_in_s": i64::MAX })), "expires_in_s"),
        ("/v1/quota/reserve", reserve(json!({ "expires_at": "2020-01-01T00:00:00Z" })), "expires_at"),
        ("/v1/quota/reserve", reserve(json!({ "id": "a/b" })), "id"),
        ("/v1/quota/reserve", reserve(json!({ "subject": "a\u{0}" })), "subject"),
        ("/v1/quota/reserve", reserve(json!({ "org": "a\u{0}" })), "org"),
        ("/v1/quota/res_1/settle", json!({ "org": "a\u{0}" }), "org"),
        ("/v1/quota/check", json!({ "items": [] }), "items"),
        ("/v1/quota/check", json!({ "items": [{ "meter": "tokens" }] }), "items.0.org"),
        ("/v1/quota/check", json!({ "items": [{ "org": "acme", "meter": "none" }] }), "items.0.meter"),
        ("/v1/quota/x/settle", json!({ "amount": -1 }), "amount"),
        ("/v1/quota/x/settle", json!({ "event": 5 }), "event"),
    ] {
        let (status, problem) = house.post(path, &body).await;
        assert_eq!((status, problem["field"].as_str()), (400, Some(field)), "{path} {body}: {problem}");
    }
    for (path, body, field) in
        [("/v1/quota/check", json!({ "items": [{ "org": "nobody", "meter": "tokens" }] }), "items.0.org")]
    {
        let (status, problem) = house.post(path, &body).await;
        assert_eq!((status, problem["field"].as_str()), (404, Some(field)), "{path} {body}: {problem}");
    }
    house.quota(json!(1), json!({})).await;
    let (status, problem) = house.post("/v1/quotas", &quota(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("quota_exists")));
    let twice = json!({ "quotas": [{ "meter": "tokens", "period": "day", "limit": 1 },
        { "meter": "tokens", "period": "day", "limit": 2 }] });
    house.send(Method::PUT, "/v1/plans/pro", &json!({ "name": "Pro" })).await;
    let (status, problem) = house.send(Method::PUT, "/v1/plans/pro/quotas", &twice).await;
    assert_eq!((status, &problem["field"]), (400, &json!("quotas.1")));
    assert_eq!(house.send(Method::PUT, "/v1/plans/none/quotas", &twice).await.0, 404);
}

/// Counters are kept as long as they are asked for.
#[tokio::test]
async fn old_periods_are_forgotten() {
    let house = House::new().await;
    house.quota(json!(100), json!({})).await;
    house.quota(json!(100), json!({ "per_subject": true })).await;
    house.database.execute(
        "INSERT INTO quota_counters SELECT o.org_id, s.slot_id, 'u' || d, current_date - d, 1, d % 2
         FROM orgs o, quota_slots s, generate_series(0, 500, 5) d",
    );
    let mut conn = house.database.platform();
    let today = Utc::now().date_naive();
    let days = |days: u64| today - chrono::Days::new(days);
    let oldest =
        coulomb::metering::counters::CounterHorizon { org: days(400), subject: days(7), billing: days(1500) };
    while coulomb::metering::counters::delete_old(&mut conn, oldest).expect("works") > 0 {}
    let left = |slot: i32, reserved: i32| {
        house.database.number(&format!(
            "SELECT max(current_date - period)::bigint FROM quota_counters
             WHERE slot_id = {slot} AND reserved = {reserved}"
        ))
    };
    assert_eq!((left(1, 0), left(2, 0)), (400, 0));
    assert_eq!((left(1, 1), left(2, 1)), (495, 495), "what holds a reservation stays");
}

/// Reported usage is refused by the event, in order, where a quota says so.
/// The subscription's period, and a month while there is none.
#[tokio::test]
async fn a_billing_period_follows_the_subscription() {
    let house = House::new().await;
    house.quota(json!(100), json!({ "period": "billing" })).await;
    let ask = json!({ "org": "acme", "meter": "tokens" });
    let resets = |verdict: Value| {
        verdict["quotas"][0]["resets_at"].as_str().expect("text").parse::<DateTime<Utc>>().expect("a time")
    };
    let month_end = resets(house.check(ask.clone()).await);
    assert_eq!((month_end.day(), month_end.time()), (1, chrono::NaiveTime::MIN));
    house.reserved(json!(40), json!({})).await;
    house.database.execute(
        "INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
         VALUES ('', false, 'cus_1', 'acme');
         INSERT INTO subscriptions (account, livemode, id, customer_id, status, items_complete, created,
             current_period_start, current_period_end)
         VALUES ('', false, 'sub_1', 'cus_1', 'active', true, now(),
             date_trunc('hour', now()) - interval '10 days', date_trunc('hour', now()) + interval '4 days');
         INSERT INTO subscription_periods
         SELECT account, livemode, id, '', current_period_start, current_period_end, NULL, 0, created,
             created FROM subscriptions;
         NOTIFY coulomb_orgs",
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let verdict = house.check(ask).await;
    // The new period is another counter.
    assert_eq!(verdict["quotas"][0]["reserved"], "0");
    let ends = resets(verdict);
    assert!(
        ends > Utc::now() + chrono::TimeDelta::days(3) && ends <= Utc::now() + chrono::TimeDelta::days(4),
        "{ends}"
    );
}
