//! What operators do to batteries, and what time does.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::battery_reads::{Platform, text};
use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

impl Platform {
    /// Waits until what a query gives is this.
    async fn until(&self, sql: &str, wanted: &str) {
        for _ in 0..300 {
            if self.database.value(sql).as_deref() == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.database.value(sql).as_deref(), Some(wanted), "{sql}");
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = answer(self.daemon.request(method, path, &self.key).json(body)).await;
        (status.as_u16(), body)
    }
}

/// Puts orgs on the plan `day`, whose daily allowance is 20 units.
fn daily(database: &Database, orgs: &[&str]) {
    database.execute(
        "INSERT INTO plans (plan_id, name, active, metadata, created_at)
         VALUES ('day', 'Day', true, '{}', '2026-01-01');
         INSERT INTO plan_versions (plan_id, version, created_at, trial_days, features, battery_units,
             daily_battery, battery_debt_limit)
             VALUES ('day', 1, '2026-01-01', 0, '{}', 0, 20, 100);
         INSERT INTO plan_stripe_prices (price_id, plan_id) VALUES ('price_day', 'day')",
    );
    for org in orgs {
        database.execute(&format!(
            "INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
             VALUES ('', false, 'cus_{org}', '{org}');
             INSERT INTO subscriptions (account, livemode, id, customer_id, status, items_complete, created)
                 VALUES ('', false, 'sub_{org}', 'cus_{org}', 'active', true, '2026-01-01');
             INSERT INTO subscription_items (account, livemode, subscription_id, item_number, price_id)
                 VALUES ('', false, 'sub_{org}', 0, 'price_day')"
        ));
    }
    database.execute("UPDATE catalog SET version = version + 1; NOTIFY coulomb_orgs");
}

/// Ledgers whose numbers have gaps, whose balances do not chain, or that differ from account or grants.
fn unsound(database: &Database) -> i64 {
    database.number(
        "SELECT (SELECT count(*)
             FROM (SELECT *, row_number() OVER w AS n, sum(amount) OVER w AS total, lag(at) OVER w AS before
                     FROM battery_entries WINDOW w AS (PARTITION BY org_id ORDER BY sequence)) e
                 WHERE sequence <> n OR balance_after <> total OR before > at)
              + (SELECT count(*) FROM battery_accounts a
                  WHERE balance <> (SELECT coalesce(sum(amount), 0) FROM battery_entries e
                  WHERE e.org_id = a.org_id)
                     OR greatest(balance, 0) <> (SELECT coalesce(sum(remaining), 0) FROM battery_grants g
                         WHERE g.org_id = a.org_id AND state = 'open'))",
    )
}

#[tokio::test]
async fn a_grant_is_what_was_asked_for_once() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    let body = json!({
        "org": "acme", "amount": "12.500000001", "source": "purchase", "priority": 7,
            "effective_at": "2026-03-02T00:00:00Z",
        "expires_at": "2026-04-01T00:00:00+02:00", "reason": "ticket 5", "key": "ticket-5",
    });
    let grant = platform.post("/v1/battery/grants", body.clone(), 201).await;
    assert!(text(&grant["id"]).starts_with("grt_"));
    for (field, value) in [
        ("org", json!("org_acme")),
        ("source", json!("purchase")),
        ("key", json!("manual:ticket-5")),
        ("state", json!("scheduled")),
        ("priority", json!(7)),
        ("effective_at", json!("2026-03-02T00:00:00Z")),
        ("expires_at", json!("2026-03-31T22:00:00Z")),
        ("amount", json!("12.500000001")),
        ("remaining", json!("12.500000001")),
        ("reason", json!("ticket 5")),
    ] {
        assert_eq!(grant[field], value, "{field}");
    }
    assert_eq!(platform.balance("acme").await, "0");
    let again = platform.post("/v1/battery/grants", body, 409).await;
    assert_eq!(again["code"], "already_granted");
    // Another org may have the same key; a repeat of the request is answered alike.
    let other = json!({ "org": "bolt", "amount": 3, "reason": "ticket 5", "key": "ticket-5" });
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request = platform.daemon.request(Method::POST, "/v1/battery/grants", &platform.key);
        answers.push(answer(request.header("Idempotency-Key", "one").json(&other)).await);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!((answers[0].0.as_u16(), &answers[0].1["priority"]), (201, &json!(30)));
    assert_eq!(platform.balance("bolt").await, "3");
    let logged = platform.database.value(
        "SELECT string_agg(action || ' ' || (target = detail ->> 'id') || ' ' || (detail ->> 'reason'), ', '
             ORDER BY at, audit_id) FROM audit_log WHERE action LIKE 'battery.%'",
    );
    assert_eq!(logged.as_deref(), Some("battery.grant true ticket 5, battery.grant true ticket 5"));
    platform.clock.turn("2026-03-02T00:00:00Z");
    assert_eq!(platform.balance("acme").await, "12.500000001");
    assert_eq!(unsound(&platform.database), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_command_names_its_field() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    let whole = json!({ "org": "acme", "amount": "1", "reason": "a test" });
    for (more, field) in [
        (json!({ "amount": "0" }), "amount"),
        (json!({ "amount": "-1" }), "amount"),
        (json!({ "amount": "0.0000000001" }), "amount"),
        (json!({ "amount": "1000000000000000" }), "amount"),
        (json!({ "amount": "many" }), "amount"),
        (json!({ "source": "subscription" }), "source"),
        (json!({ "source": "daily_allowance" }), "source"),
        (json!({ "source": "gift" }), "source"),
        (json!({ "priority": 1001 }), "priority"),
        (json!({ "priority": -1 }), "priority"),
        (json!({ "expires_at": "2026-03-01T00:00:00Z" }), "expires_at"),
        (
            json!({ "expires_at": "2026-03-02T00:00:00Z", "effective_at": "2026-03-02T00:00:00Z" }),
            "expires_at",
        ),
        (json!({ "expires_at": "tomorrow" }), "expires_at"),
        (json!({ "reason": " " }), "reason"),
        (json!({ "reason": "a\u{0}b" }), "reason"),
        (json!({ "key": "" }), "key"),
        (json!({ "colour": "red" }), "colour"),
    ] {
        let mut body = whole.clone();
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let problem = platform.post("/v1/battery/grants", body, 400).await;
        assert_eq!(problem["field"], field, "{more}: {problem}");
    }
    for (body, field) in [
        (json!({ "org": "acme", "amount": "0", "reason": "x" }), "amount"),
        (json!({ "org": "acme", "amount": "0.0000000001", "reason": "x" }), "amount"),
        (json!({ "org": "acme", "amount": "1", "reason": "" }), "reason"),
        (json!({ "org": "acme", "amount": "1" }), "reason"),
    ] {
        let problem = platform.post("/v1/battery/adjustments", body, 400).await;
        assert_eq!(problem["field"], field, "{problem}");
    }
    for body in [json!({ "debt_limit": "-1" }), json!({ "debt_limit": "0.0000000001" })] {
        let (status, problem) = platform.send(Method::PUT, "/v1/battery/settings/acme", &body).await;
        assert_eq!((status, problem["field"].as_str()), (400, Some("debt_limit")), "{problem}");
    }
    // A limit forgotten is not "no limit".
    let (status, problem) = platform.send(Method::PUT, "/v1/battery/settings/acme", &json!({})).await;
    assert_eq!((status, problem["field"].as_str()), (400, Some("debt_limit")));
    platform.post("/v1/battery/grants", json!({ "org": "x", "amount": "1", "reason": "x" }), 404).await;
    platform.post("/v1/battery/grants/grt_x/void", json!({ "reason": "x" }), 404).await;
    let own = platform.database.key("billing:write", Some("org_acme"));
    let reader = platform.database.key("billing:read", None);
    for (method, path) in [
        (Method::POST, "/v1/battery/grants"),
        (Method::POST, "/v1/battery/adjustments"),
        (Method::POST, "/v1/battery/grants/grt_x/void"),
        (Method::PUT, "/v1/battery/settings/acme"),
        (Method::DELETE, "/v1/battery/settings/acme"),
    ] {
        for key in [&own, &reader] {
            let (status, _) = answer(platform.daemon.request(method.clone(), path, key).json(&whole)).await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    assert_eq!(platform.database.number("SELECT count(*) FROM battery_accounts"), 0);
}

#[tokio::test]
async fn adjustments_may_bring_debt_and_voids_take_what_remains() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    let first = platform.grant("acme", "10", json!({ "expires_at": "2026-03-05T00:00:00Z" })).await;
    let second = platform.grant("acme", "5", json!({ "priority": 1 })).await;
    let scheduled = platform.grant("acme", "8", json!({ "effective_at": "2026-03-03T00:00:00Z" })).await;
    // Priority 1 burns before 30.
    assert_eq!(platform.adjust("acme", "-7").await, "8");
    let void = |id: String, expected: u16| {
        let platform = &platform;
        async move {
            platform
                .post(&format!("/v1/battery/grants/{id}/void"), json!({ "reason": "mistake" }), expected)
                .await
        }
    };
    let voided = void(first.clone(), 200).await;
    assert_eq!(
        [&voided["state"], &voided["remaining"], &voided["burned"], &voided["taken_back"]],
        ["closed", "0", "2", "8"]
    );
    assert_eq!(platform.balance("acme").await, "0");
    for id in [first, second] {
        assert_eq!(void(id, 409).await["code"], "nothing_remains");
    }
    // One that is not effective yet is in no balance: nothing is entered.
    let entries = platform.get("/v1/battery/entries?org=acme").await["data"].clone();
    assert_eq!(void(scheduled, 200).await["taken_back"], "8");
    assert_eq!(platform.get("/v1/battery/entries?org=acme").await["data"], entries);
    let last = &entries[0];
    assert_eq!(
        [&last["kind"], &last["amount"], &last["reason"], &last["source"]],
        ["adjustment", "-8", "mistake", "manual"]
    );
    platform.clock.turn("2026-03-06T00:00:00Z");
    assert_eq!(platform.balance("acme").await, "0");
    let body = json!({ "org": "acme", "amount": "-2.5", "reason": "forgotten usage" });
    let done = platform.post("/v1/battery/adjustments", body, 201).await;
    assert_eq!(
        [&done["entry"]["balance_after"], &done["entry"]["draws"], &done["grant"]],
        [&json!("-2.5"), &json!([]), &Value::Null]
    );
    let body = json!({ "org": "acme", "amount": "4", "reason": "made good" });
    let done = platform.post("/v1/battery/adjustments", body, 201).await;
    assert_eq!(
        [&done["entry"]["balance_after"], &done["grant"]["remaining"], &done["grant"]["burned"]],
        ["1.5", "1.5", "2.5"]
    );
    assert_eq!(unsound(&platform.database), 0);
    let shown: Value =
        serde_json::from_str(&platform.database.run(&["battery", "show", "--org", "acme", "--entries", "2"]))
            .expect("JSON");
    assert_eq!(
        (
            &shown["balance"]["balance"],
            shown["entries"].as_array().map(Vec::len),
            &shown["grants"][0]["remaining"]
        ),
        (&json!("1.5"), Some(2), &json!("1.5"))
    );
    let made = platform.database.run(&[
        "battery",
        "grant",
        "--org",
        "org_bolt",
        "--amount",
        "2.5",
        "--reason",
        "by hand",
        "--expires-at",
        "2999-01-01T00:00:00Z",
    ]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!([&made["amount"], &made["source"], &made["org"]], ["2.5", "bonus", "org_bolt"]);
    for wrong in ["0", "-1", "x", "0.0000000001", "1000000000000000"] {
        let args = ["battery", "grant", "--org", "bolt", "--reason", "x", &format!("--amount={wrong}")];
        assert_eq!(
            platform.database.command(&args).output().expect("runs").status.code(),
            Some(2),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn an_orgs_own_debt_limit_comes_before_its_plans() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    daily(&platform.database, &["acme"]);
    let limit = || async { platform.get("/v1/battery?org=acme").await["debt_limit"].clone() };
    assert_eq!(limit().await, "100");
    let version = || platform.database.number("SELECT version FROM catalog");
    let before = version();
    let put = |limit: Value| {
        let platform = &platform;
        async move {
            platform.send(Method::PUT, "/v1/battery/settings/acme", &json!({ "debt_limit": limit })).await
        }
    };
    for own in [json!("0"), json!("7.5"), Value::Null] {
        let (status, told) = put(own.clone()).await;
        assert_eq!((status, &told["debt_limit"], &told["org"]), (200, &own, &json!("org_acme")));
        assert_eq!(limit().await, own);
    }
    // Every replica's terms are of an older version now.
    assert_eq!(version(), before + 3);
    let (status, _) = platform.send(Method::DELETE, "/v1/battery/settings/acme", &json!({})).await;
    assert_eq!((status, limit().await), (204, json!("100")));
    let (status, _) = platform.send(Method::DELETE, "/v1/battery/settings/acme", &json!({})).await;
    assert_eq!(status, 404);
    assert_eq!(version(), before + 4);
}

#[tokio::test]
async fn what_is_due_is_written_though_nobody_comes() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    // Two daemons, and more orgs than one batch.
    let _other = Daemon::clocked(&platform.database, &platform.clock);
    platform.database.execute(
        "INSERT INTO orgs (public_id, name, time_zone, created_at, metadata)
         SELECT 'org_' || n, 'x', 'UTC', now(), '{}' FROM generate_series(1, 450) n;
         INSERT INTO org_refs SELECT public_id, org_id FROM orgs ON CONFLICT DO NOTHING;
         INSERT INTO battery_accounts SELECT org_id, 0, 0, 0, 1, NULL, NULL FROM orgs;
         INSERT INTO battery_grants
         SELECT org_id, 1, 'grt_' || org_id, 'bonus', 'k', 'scheduled',
             30, '2026-03-01', '2026-03-02', '2026-03-03', 10, 10, 0, 0, 0 FROM orgs",
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(platform.database.number("SELECT count(*) FROM battery_entries"), 0);
    platform.clock.turn("2026-03-02T00:00:00Z");
    platform.until("SELECT count(*) FROM battery_accounts WHERE balance = 10", "452").await;
    platform.clock.turn("2026-03-03T00:00:00Z");
    platform.until("SELECT count(*) FROM battery_accounts WHERE balance = 0 AND entries = 2", "452").await;
    assert_eq!(platform.database.number("SELECT count(*) FROM battery_entries"), 904);
    assert_eq!(unsound(&platform.database), 0);
    let lapsed =
        "SELECT count(*) FROM battery_entries WHERE (kind, amount, at) = ('expiry', -10, '2026-03-03')";
    assert_eq!(platform.database.number(lapsed), 452);
}

#[tokio::test]
async fn a_local_day_has_its_allowance_once() {
    // 08:00 in New York, on the day before the clocks go back.
    let platform = Platform::at("2026-10-31T12:00:00Z");
    let _other = Daemon::clocked(&platform.database, &platform.clock);
    daily(&platform.database, &["bolt"]);
    let days = |wanted: &'static str| {
        let platform = &platform;
        async move {
            let granted = "SELECT string_agg(source_key || ' ' || to_char(expires_at, 'DD HH24:MI'), ', '
                ORDER BY grant_number)
                           FROM battery_grants WHERE source = 'daily_allowance'";
            platform.until(granted, wanted).await;
        }
    };
    days("daily:2026-10-31 01 04:00").await;
    assert_eq!(platform.adjust("bolt", "-5").await, "15");
    let shown = platform.get("/v1/battery?org=bolt").await;
    assert_eq!(
        shown["daily_allowance"],
        json!({ "day": "2026-10-31", "units": "20", "granted": true, "lapses_at": "2026-11-01T04:00:00Z" })
    );
    platform.clock.turn("2026-11-01T03:59:59.999999Z");
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(platform.balance("bolt").await, "15");
    platform.clock.turn("2026-11-01T04:00:00Z");
    // The day of 25 hours.
    days("daily:2026-10-31 01 04:00, daily:2026-11-01 02 05:00").await;
    assert_eq!(platform.balance("bolt").await, "20");
    platform.clock.turn("2026-11-02T04:30:00Z");
    tokio::time::sleep(Duration::from_millis(1300)).await;
    days("daily:2026-10-31 01 04:00, daily:2026-11-01 02 05:00").await;
    platform.clock.turn("2026-11-02T05:00:00Z");
    days("daily:2026-10-31 01 04:00, daily:2026-11-01 02 05:00, daily:2026-11-02 03 05:00").await;
    // Nobody was there for three days: only the running one is granted.
    platform.clock.turn("2026-11-05T12:00:00Z");
    days(
        "daily:2026-10-31 01 04:00, daily:2026-11-01 02 05:00, daily:2026-11-02 03 05:00, daily:2026-11-05 \
        06 05:00",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let entries = platform.all("/v1/battery/entries?org=bolt", "data", 3).await;
    let told: Vec<String> = entries
        .iter()
        .rev()
        .map(|e| format!("{} {} {}", text(&e["at"]), text(&e["kind"]), text(&e["amount"])))
        .collect();
    assert_eq!(
        told[1..5],
        [
            "2026-10-31T12:00:00Z adjustment -5",
            "2026-11-01T04:00:00Z expiry -15",
            "2026-11-01T04:00:00Z grant 20",
            "2026-11-02T05:00:00Z expiry -20",
        ]
    );
    assert_eq!(told.len(), 8);
    assert_eq!(unsound(&platform.database), 0);
    // Who has no such plan has no battery from it.
    assert_eq!(platform.database.number("SELECT count(*) FROM battery_accounts"), 1);
    let acme = platform.get("/v1/battery?org=acme").await;
    assert_eq!([&acme["balance"], &acme["daily_allowance"]], [&json!("0"), &Value::Null]);
}

#[test]
fn eight_at_once_grant_each_org_its_day_once() {
    use coulomb::battery::terms::AllTerms;
    use coulomb::battery::upkeep::{self, Allowances};
    use coulomb::billing::directory::Directory;
    let database = Database::new();
    let names: Vec<String> = (0..230).map(|n| format!("o{n}")).collect();
    for name in &names {
        crate::usage_rows::org(&database, name, "Asia/Tokyo");
    }
    let entitled: Vec<&str> = names.iter().skip(3).map(String::as_str).collect();
    daily(&database, &entitled);
    // A day later in Tokyo: the 2nd of March.
    for now in ["2026-02-28T18:00:00Z", "2026-03-01T15:00:00Z"] {
        let now = now.parse().expect("a time");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (mut conn, allowances) = (database.platform(), Allowances::default());
                    let terms = AllTerms::load(&mut conn).expect("terms");
                    while let Some(step) = allowances.next(&mut conn, now).expect("a step") {
                        let reached = coulomb::db::run_with_retries(&mut conn, |conn| {
                            upkeep::grant(conn, &Directory::default(), &terms, step, now)
                        });
                        allowances.done(step, reached.expect("grants"));
                    }
                });
            }
        });
    }
    let granted = "SELECT string_agg(source_key || ' ' || count, ', ' ORDER BY source_key)
        FROM (SELECT source_key, count(*) FROM battery_grants GROUP BY 1) k";
    assert_eq!(database.value(granted).as_deref(), Some("daily:2026-03-01 227, daily:2026-03-02 227"));
    assert_eq!(
        database.number("SELECT count(*) FROM battery_accounts WHERE balance = 20 AND entries = 3"),
        227
    );
    assert_eq!(unsound(&database), 0);
}
