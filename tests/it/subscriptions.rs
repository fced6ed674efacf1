//! An org's plan: as its Stripe subscription goes, by the clock, and by local subscriptions.

use std::time::{Duration, Instant};

use coulomb::plans::unit_grants;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write";
/// 9 October 2025, 08:53:20 UTC: when the period of every subscription here begins.
const OCTOBER: i64 = 1_760_000_000;

async fn plan(daemon: &Daemon, key: &str, id: &str, body: Value) {
    let (status, plan) =
        answer(daemon.request(Method::PUT, &format!("/v1/plans/{id}"), key).json(&body)).await;
    assert_eq!(status, 200, "{plan}");
}

/// A daemon that takes Stripe's events, one on a clock, a key, and an org `acme` with the customer `cus_1`.
struct House {
    database: Database,
    /// Takes Stripe's events, and goes by the real clock.
    stripe: Option<Daemon>,
    daemon: Daemon,
    clock: TestClock,
    key: String,
    org: String,
    events: std::cell::Cell<i64>,
}

impl House {
    async fn at(time: &str) -> Self {
        let database = Database::new();
        let stripe = Daemon::start(&database);
        let clock = TestClock::at(time);
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key(KEYS, None);
        let org = daemon.org(&key, "acme", "UTC").await;
        stripe.deliver(&event("evt_c", "customer.created", 1, customer("cus_1", Some("acme")))).await;
        let events = std::cell::Cell::new(0);
        Self { database, stripe: Some(stripe), daemon, clock, key, org, events }
    }

    /// Stripe tells of a subscription, each time a second later.
    async fn tell(&self, object: Value) {
        let n = self.events.get() + 1;
        self.events.set(n);
        let stripe = self.stripe.as_ref().expect("it is there");
        stripe
            .deliver(&event(&format!("evt_{n}"), "customer.subscription.updated", OCTOBER + n, object))
            .await;
        stripe.projected().await;
    }

    /// The org's plan and the status of its subscription, the same by both ways of asking.
    async fn plan(&self) -> (Option<String>, Option<String>) {
        let (_, org) = self.daemon.get(&format!("/v1/orgs/{}", self.org), &self.key).await;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let read = (text(&org["plan"]), text(&org["subscription"]["status"]));
        // What is held in memory hears of a change within a moment; what ends by the clock is not believed
        // past it.
        let started = Instant::now();
        loop {
            let (_, held) = self.daemon.get("/v1/orgs/acme/entitlements", &self.key).await;
            let held = (text(&held["plan"]["id"]), text(&held["subscription"]["status"]));
            if held == read {
                return read;
            }
            assert!(started.elapsed() < Duration::from_secs(3), "{held:?} is held, {read:?} is so");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn command(&self, what: &str, body: Value) -> (u16, Value) {
        let (status, body) =
            self.daemon.post(&format!("/v1/orgs/acme/subscription{what}"), &self.key, &body).await;
        (status.as_u16(), body)
    }

    async fn current(&self) -> Value {
        self.daemon.get("/v1/orgs/acme/subscription", &self.key).await.1
    }
}

fn so(plan: Option<&str>, status: &str) -> (Option<String>, Option<String>) {
    (plan.map(str::to_owned), Some(status.to_owned()))
}

#[tokio::test]
async fn the_plan_follows_stripe_by_status_items_and_clock() {
    let house = House::at("2025-10-10T00:00:00Z").await;
    plan(&house.daemon, &house.key, "pro", json!({ "name": "Pro", "stripe_prices": ["price_pro"] })).await;
    plan(&house.daemon, &house.key, "team", json!({ "name": "Team", "stripe_products": ["prod_team"] }))
        .await;
    let sub = |status: &str| subscription("sub_1", "cus_1", status, "price_pro");
    for (status, gives) in [
        ("incomplete", None),
        ("trialing", Some("pro")),
        ("active", Some("pro")),
        ("past_due", Some("pro")),
        ("unpaid", None),
        ("paused", None),
        ("active", Some("pro")),
    ] {
        house.tell(sub(status)).await;
        assert_eq!(house.plan().await, so(gives, status));
    }
    // Collection is paused, or it is to end with the period: it goes on.
    let mut paused = sub("active");
    paused["pause_collection"] = json!({ "behavior": "void", "resumes_at": null });
    paused["cancel_at_period_end"] = json!(true);
    house.tell(paused).await;
    assert_eq!(house.plan().await, so(Some("pro"), "active"));
    // The first item that maps counts, by price or by product.
    let item = |id: &str, price: &str, product: &str| {
        json!({ "id": id, "object": "subscription_item", "quantity": 3, "created": OCTOBER, "metadata": {},
            "current_period_start": OCTOBER,
            "current_period_end": OCTOBER + 2_592_000,
                "price": { "id": price, "object": "price", "product": product, "currency": "usd" } })
    };
    let mut several = sub("active");
    several["items"]["data"] = json!([
        item("si_1", "price_seat", "prod_seat"),
        item("si_2", "price_t", "prod_team"),
        item("si_3", "price_pro", "prod_1")
    ]);
    house.tell(several).await;
    assert_eq!(house.plan().await, so(Some("team"), "active"));
    let (_, list) = house.daemon.get("/v1/subscriptions?plan=team", &house.key).await;
    assert_eq!(list["data"][0]["id"], "sub_1", "by product: {list}");
    // Past due: for 14 days from the start of the period, on the instant.
    house.tell(sub("past_due")).await;
    assert_eq!(house.plan().await, so(Some("pro"), "past_due"));
    let (_, entitled) = house.daemon.get("/v1/orgs/acme/entitlements", &house.key).await;
    assert_eq!(entitled["plan_until"], "2025-10-23T08:53:20Z");
    house.clock.turn("2025-10-23T08:53:19Z");
    assert_eq!(house.plan().await, so(Some("pro"), "past_due"));
    house.clock.turn("2025-10-23T08:53:20Z");
    let (_, entitled) = house.daemon.get("/v1/orgs/acme/entitlements", &house.key).await;
    assert_eq!(entitled["plan"], Value::Null, "at once: {entitled}");
    assert_eq!(house.plan().await, so(None, "past_due"));
    house.tell(sub("active")).await;
    assert_eq!(house.plan().await, so(Some("pro"), "active"));
    // One that gives a plan counts before one that stands better and gives none.
    house.tell(subscription("sub_2", "cus_1", "active", "price_addon")).await;
    assert_eq!(house.plan().await, so(Some("pro"), "active"));
    house.tell(sub("canceled")).await;
    assert_eq!(house.plan().await, so(None, "active"));
    house.tell(subscription("sub_2", "cus_1", "incomplete_expired", "price_pro")).await;
    assert_eq!(house.plan().await.0, None);
    assert!(house.database.run(&["verify"]).is_empty());
}

#[tokio::test]
async fn the_grace_is_a_setting() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_PAST_DUE_GRACE_DAYS", "0")]);
    let key = database.key(KEYS, None);
    let org = daemon.org(&key, "acme", "UTC").await;
    plan(&daemon, &key, "pro", json!({ "name": "Pro", "stripe_prices": ["price_pro"] })).await;
    daemon.deliver(&event("evt_c", "customer.created", 1, customer("cus_1", Some("acme")))).await;
    daemon
        .deliver(&event(
            "evt_1",
            "customer.subscription.updated",
            2,
            subscription("sub_1", "cus_1", "past_due", "price_pro"),
        ))
        .await;
    daemon.projected().await;
    assert_eq!(daemon.get(&format!("/v1/orgs/{org}"), &key).await.1["plan"], Value::Null);
}

/// Trial → paid in the trial → extended → changed → lapses → reactivated → cancelled.
#[tokio::test]
async fn a_local_subscription_lives_and_comes_back() {
    let house = House::at("2026-01-17T10:00:00Z").await;
    plan(&house.daemon, &house.key, "pro", json!({ "name": "Pro", "trial_days": 14 })).await;
    plan(&house.daemon, &house.key, "max", json!({ "name": "Max" })).await;
    plan(&house.daemon, &house.key, "old", json!({ "name": "Old", "active": false, "trial_days": 3 })).await;
    assert_eq!(house.plan().await, (None, None));
    assert_eq!(house.daemon.get("/v1/orgs/acme/subscription", &house.key).await.0, 404);
    for (body, status, told) in [
        (json!({ "plan": "none" }), 404, ""),
        (json!({ "plan": "max" }), 400, "trial_days"),
        (json!({ "plan": "pro", "trial_days": 731 }), 400, "trial_days"),
        (json!({ "plan": "pro", "trial_days": 1, "paid": true }), 400, "trial_days"),
        (json!({ "plan": "pro", "interval_months": 0 }), 400, "interval_months"),
        (json!({ "plan": "pro", "interval": "month", "interval_months": 1 }), 400, "interval_months"),
        (json!({ "plan": "pro", "interval": "week" }), 400, "interval"),
        (json!({ "plan": "p\u{0}" }), 400, "plan"),
        (json!({ "plan": "old" }), 409, ""),
    ] {
        let (got, problem) = house.command("", body.clone()).await;
        assert_eq!((got, problem["field"].as_str().unwrap_or_default()), (status, told), "{body} {problem}");
    }
    for (what, body) in
        [("/cancel", json!({ "at_period_end": false })), ("/change", json!({ "plan": "pro" }))]
    {
        assert_eq!(house.command(what, body).await.0, 409, "{what}: none is under way");
    }
    assert_eq!(house.command("/activate", json!({})).await.0, 404, "there was never one");

    let (status, trial) = house.command("", json!({ "plan": "pro" })).await;
    assert_eq!(
        (status, &trial["status"], &trial["valid_until"]),
        (201, &json!("trial"), &json!("2026-01-31T10:00:00Z")),
        "{trial}"
    );
    assert_eq!(house.plan().await, so(Some("pro"), "trial"));
    assert_eq!(house.command("", json!({ "plan": "pro" })).await.0, 409, "one is under way");
    let first = trial["id"].as_str().expect("an id").to_owned();
    // Paid while on trial: the trial runs on, then the paid month. Then two months more, with the ends of the
    // months.
    house.clock.turn("2026-01-20T00:00:00Z");
    let (_, paid) = house.command("/activate", json!({})).await;
    assert_eq!(
        (&paid["id"], &paid["status"], &paid["valid_until"]),
        (&json!(first), &json!("active"), &json!("2026-02-28T10:00:00Z")),
        "{paid}"
    );
    assert_eq!(
        (&paid["current_period_start"], &paid["current_period_end"]),
        (&json!("2026-01-17T10:00:00Z"), &json!("2026-01-31T10:00:00Z"))
    );
    let (_, paid) = house.command("/activate", json!({ "periods": 2 })).await;
    assert_eq!(paid["valid_until"], "2026-04-30T10:00:00Z");
    let period = || async {
        let (_, held) = house.daemon.get("/v1/orgs/acme/entitlements", &house.key).await;
        let of = |name: &str| held["subscription"][name].as_str().expect("a time").to_owned();
        let shown = house.current().await;
        assert_eq!(shown["current_period_start"], of("current_period_start"));
        assert_eq!(shown["current_period_end"], of("current_period_end"));
        (of("current_period_start"), of("current_period_end"))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(period().await, pair("2026-01-17T10:00:00Z", "2026-01-31T10:00:00Z"));
    house.clock.turn("2026-01-31T10:00:00Z");
    assert_eq!(period().await, pair("2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"), "on the instant");
    house.clock.turn("2026-03-15T00:00:00Z");
    assert_eq!(period().await, pair("2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z"));
    assert_eq!(house.plan().await, so(Some("pro"), "active"));
    // Another plan: at once, in the version of now, in the same periods.
    plan(&house.daemon, &house.key, "max", json!({ "name": "Max", "features": { "sso": true } })).await;
    let (status, changed) = house.command("/change", json!({ "plan": "max" })).await;
    assert_eq!(
        (status, &changed["plan"], &changed["version"], &changed["valid_until"]),
        (200, &json!("max"), &json!(2), &json!("2026-04-30T10:00:00Z"))
    );
    assert_eq!(house.plan().await, so(Some("max"), "active"));
    assert_eq!(
        house.command("/activate", json!({ "until": "2026-04-30T10:00:00Z" })).await.1["field"],
        "until"
    );
    for body in [
        json!({ "periods": 0 }),
        json!({ "periods": 121 }),
        json!({ "periods": 1, "until": "2027-01-01T00:00:00Z" }),
    ] {
        assert_eq!(house.command("/activate", body).await.0, 400);
    }
    // Over on the instant, whether or not anybody has written so.
    house.clock.turn("2026-04-30T10:00:00Z");
    let (_, entitled) = house.daemon.get("/v1/orgs/acme/entitlements", &house.key).await;
    assert_eq!((&entitled["plan"], &entitled["subscription"]["status"]), (&Value::Null, &json!("expired")));
    assert_eq!(house.plan().await, so(None, "expired"));
    assert_eq!(house.database.value("SELECT status FROM local_subscriptions").as_deref(), Some("active"));
    let shown = house.current().await;
    assert_eq!(
        (&shown["status"], &shown["ended_at"], &shown["current_period_start"]),
        (&json!("expired"), &json!("2026-04-30T10:00:00Z"), &json!("2026-03-31T10:00:00Z"))
    );
    assert_eq!(house.command("/cancel", json!({ "at_period_end": true })).await.0, 409);
    // Paid again later: another one, from now, and the old one is history.
    house.clock.turn("2026-06-01T00:00:00Z");
    let (status, again) = house.command("/activate", json!({})).await;
    assert_eq!(
        (status, &again["plan"], &again["valid_until"]),
        (200, &json!("max"), &json!("2026-07-01T00:00:00Z")),
        "{again}"
    );
    assert_ne!(again["id"], first);
    let (_, history) = house.daemon.get("/v1/orgs/acme/subscriptions?limit=1", &house.key).await;
    assert_eq!(history["data"][0]["id"], again["id"]);
    let next = history["next"].as_str().expect("another page");
    let (_, history) =
        house.daemon.get(&format!("/v1/orgs/acme/subscriptions?limit=1&cursor={next}"), &house.key).await;
    assert_eq!(
        (&history["data"][0]["id"], &history["data"][0]["status"], &history["next"]),
        (&json!(first), &json!("expired"), &Value::Null)
    );
    let (_, messages) = house.daemon.get("/v1/messages", &house.key).await;
    assert_eq!(
        (&messages["data"][0]["type"], &messages["data"][0]["data"]["subscription"]),
        (&json!("subscription.expired"), &json!(first))
    );
    // To be cancelled, paid on after all, cancelled now.
    assert_eq!(
        house.command("/cancel", json!({ "at_period_end": true })).await.1["cancel_at_period_end"],
        true
    );
    assert_eq!(house.plan().await, so(Some("max"), "active"));
    let (_, paid) = house.command("/activate", json!({ "until": "2026-08-15T00:00:00Z" })).await;
    assert_eq!(
        (&paid["cancel_at_period_end"], &paid["valid_until"]),
        (&json!(false), &json!("2026-08-15T00:00:00Z"))
    );
    let (_, cancelled) = house.command("/cancel", json!({ "at_period_end": false })).await;
    assert_eq!(
        (&cancelled["status"], &cancelled["ended_at"]),
        (&json!("cancelled"), &json!("2026-06-01T00:00:00Z"))
    );
    assert_eq!(house.plan().await, so(None, "cancelled"));
    assert_eq!(
        house.command("", json!({ "plan": "max", "paid": true, "interval": "year" })).await.1["valid_until"],
        "2027-06-01T00:00:00Z"
    );
    let (_, moved) =
        house.daemon.post("/v1/plans/max/move", &house.key, &json!({ "from": 2, "to": 1 })).await;
    assert_eq!((&moved["moved"], &house.current().await["version"]), (&json!(1), &json!(1)));
    let id = house.current().await["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/subscriptions/{id}/move");
    assert_eq!(house.daemon.post(&path, &house.key, &json!({ "version": 2 })).await.0, 200);
    assert_eq!(house.current().await["version"], 2);
    assert_eq!(house.daemon.post(&path, &house.key, &json!({ "version": 9 })).await.0, 404);
    assert_eq!(house.daemon.post(&path, &house.key, &json!({ "plan": "pro", "version": 1 })).await.0, 400);
}

/// Each period charges the battery once when it begins, the trial with what the plan says of trials.
#[tokio::test]
async fn begun_periods_charge_the_battery() {
    let mut house = House::at("2026-01-17T10:00:00Z").await;
    // By its clock all of these periods are over, and it would let what they granted lapse.
    house.stripe = None;
    let terms =
        json!({ "name": "Pro", "trial_days": 14, "battery_units": "100", "trial_battery_units": "10" });
    plan(&house.daemon, &house.key, "pro", terms).await;
    let org_id = house.database.number("SELECT min(org_id) FROM orgs");
    let ledger = || house.database.ledger(org_id);
    house.command("", json!({ "plan": "pro" })).await;
    assert_eq!(ledger(), ["grant 10 → 10"]);
    house.command("/activate", json!({ "periods": 3 })).await;
    assert_eq!(ledger().len(), 1, "the paid periods have not begun");
    // A worker sees to it; two of them at once change nothing.
    let charge = |now: &str| {
        let now = now.parse().expect("a time");
        for _ in 0..2 {
            unit_grants::grant_begun(&mut house.database.platform(), None, now).expect("grants");
        }
    };
    charge("2026-01-31T09:59:59Z");
    assert_eq!(ledger().len(), 1);
    charge("2026-01-31T10:00:00Z");
    assert_eq!(ledger(), ["grant 10 → 10", "expiry -10 → 0", "grant 100 → 100"]);
    charge("2026-03-01T00:00:00Z");
    assert_eq!(ledger()[3..], ["expiry -100 → 0", "grant 100 → 100"]);
    let ends = house.database.value("SELECT max(expires_at) AT TIME ZONE 'UTC' FROM battery_grants");
    assert_eq!(ends.as_deref(), Some("2026-03-31 10:00:00"));
    house.clock.turn("2026-03-05T00:00:00Z");
    house.command("/cancel", json!({ "at_period_end": false })).await;
    charge("2026-04-01T00:00:00Z");
    assert_eq!(ledger().len(), 5, "none that would have begun after it was cancelled");
    assert_eq!(house.database.unsound_batteries(), [] as [String; 0]);
}

#[tokio::test]
async fn an_idle_daemon_catches_up() {
    let house = House::at("2026-01-01T00:00:00Z").await;
    plan(&house.daemon, &house.key, "pro", json!({ "name": "Pro", "trial_days": 5 })).await;
    house.command("", json!({ "plan": "pro" })).await;
    let beta = house.daemon.org(&house.key, "beta", "UTC").await;
    house
        .daemon
        .post("/v1/orgs/beta/subscription", &house.key, &json!({ "plan": "pro", "paid": true }))
        .await;
    house
        .daemon
        .post("/v1/orgs/beta/subscription/cancel", &house.key, &json!({ "at_period_end": true }))
        .await;
    house.daemon.org(&house.key, "gamma", "UTC").await;
    house
        .daemon
        .post(
            "/v1/orgs/gamma/subscription",
            &house.key,
            &json!({ "plan": "pro", "paid": true, "interval": "year" }),
        )
        .await;
    // Months later two daemons begin to work at once.
    let later = TestClock::at("2026-05-01T00:00:00Z");
    let _woken = [Daemon::clocked(&house.database, &later), Daemon::clocked(&house.database, &later)];
    let started = Instant::now();
    while house.database.number("SELECT count(*) FROM local_subscriptions WHERE ended_at IS NOT NULL") < 2 {
        assert!(started.elapsed() < Duration::from_secs(20), "nobody wrote that they are over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows =
        "SELECT string_agg(status || ' ' || ended_at::date, ', ' ORDER BY ended_at) FROM local_subscriptions";
    assert_eq!(house.database.value(rows).as_deref(), Some("expired 2026-01-06, cancelled 2026-02-01"));
    let told = "SELECT string_agg(type, ', ' ORDER BY type) FROM outbox_messages";
    assert_eq!(
        house.database.value(told).as_deref(),
        Some("subscription.cancelled, subscription.expired"),
        "each once"
    );
    // An org sees its own, and nothing else.
    let own = house.database.key("billing:read,billing:write,usage:read", Some(&beta));
    assert_eq!(house.daemon.get("/v1/orgs/beta/subscription", &own).await.1["status"], "cancelled");
    assert_eq!(
        house.daemon.get("/v1/orgs/beta/subscriptions", &own).await.1["data"].as_array().map(Vec::len),
        Some(1)
    );
    for path in ["/v1/orgs/acme/subscription", "/v1/orgs/acme/subscriptions"] {
        assert_eq!(house.daemon.get(path, &own).await.0, 404, "{path}");
    }
    assert_eq!(house.daemon.post("/v1/orgs/beta/subscription", &own, &json!({ "plan": "pro" })).await.0, 403);
    let seen = format!(
        "SET ROLE coulomb_org; SET coulomb.org_id = '{}'; SELECT 1",
        house.database.number("SELECT org_id FROM orgs WHERE external_id = 'beta'")
    );
    let mut conn = house.database.owner();
    diesel::connection::SimpleConnection::batch_execute(&mut conn, &seen).expect("takes the role on");
    use diesel::prelude::*;
    let visible: i64 =
        coulomb::schema::local_subscriptions::table.count().get_result(&mut conn).expect("reads");
    assert_eq!(visible, 1);
}

#[tokio::test]
async fn stripe_counts_before_local() {
    let house = House::at("2025-10-10T00:00:00Z").await;
    plan(&house.daemon, &house.key, "pro", json!({ "name": "Pro", "stripe_prices": ["price_pro"] })).await;
    plan(&house.daemon, &house.key, "local", json!({ "name": "Local" })).await;
    house.command("", json!({ "plan": "local", "paid": true, "interval": "year" })).await;
    let seen = || async {
        let plan = house.plan().await;
        let (_, org) = house.daemon.get(&format!("/v1/orgs/{}", house.org), &house.key).await;
        (plan.0.unwrap_or_default(), org["subscription"]["source"].as_str().expect("a source").to_owned())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(seen().await, pair("local", "local"));
    let sub = |status: &str| subscription("sub_1", "cus_1", status, "price_pro");
    house.tell(sub("incomplete")).await;
    assert_eq!(seen().await, pair("local", "local"));
    house.tell(sub("active")).await;
    assert_eq!(seen().await, pair("pro", "stripe"));
    house.tell(sub("past_due")).await;
    assert_eq!(seen().await, pair("pro", "stripe"));
    house.clock.turn("2025-10-24T00:00:00Z");
    assert_eq!(seen().await, pair("local", "local"), "the grace is over");
    house.clock.turn("2026-10-10T00:00:00Z");
    assert_eq!(seen().await, pair("", "stripe"), "both are over");
}
