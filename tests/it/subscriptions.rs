//! An org's plan: by its Stripe subscription, by the clock, and by local subscriptions.

use std::time::{Duration, Instant};

use coulomb::plans::unit_grants;
use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::objects::{Object, customer, subscription};
use crate::support::requests::{Request, plan, subscribe, subscription_command};
use crate::support::world::{Setup, until};
use crate::support::{Daemon, TestClock, World};

/// A platform on a test clock, and an org `acme`.
fn platform(time: &str) -> Setup {
    World::new().at(time).org("acme")
}

/// The plan of `acme` and the status of its subscription; both routes must agree.
async fn stands(world: &World) -> (Option<String>, Option<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let org = world.get("/v1/orgs/acme").await;
    let read = (text(&org["plan"]), text(org.at("subscription.status")));
    // Memory hears of a change within a moment, and does not use a plan beyond its end by the clock.
    let started = Instant::now();
    loop {
        let entitled = entitled(world).await;
        let held = (text(entitled.at("plan.id")), text(entitled.at("subscription.status")));
        if held == read {
            return read;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "memory has {held:?}, the database {read:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn entitled(world: &World) -> Answer {
    world.get("/v1/orgs/acme/entitlements").await
}

/// The local subscription of `acme`.
async fn current(world: &World) -> Answer {
    world.get("/v1/orgs/acme/subscription").await
}

fn so(plan: Option<&str>, status: &str) -> (Option<String>, Option<String>) {
    (plan.map(str::to_owned), Some(status.to_owned()))
}

fn command(command: &str, body: Value) -> Request {
    subscription_command("acme", command, body)
}

fn cancel(at_period_end: bool) -> Request {
    command("cancel", json!({ "at_period_end": at_period_end }))
}

fn activate() -> Request {
    command("activate", json!({}))
}

/// Stripe's side: a daemon on the real clock that receives events of the customer `cus_1`.
struct Stripe {
    daemon: Daemon,
    told: std::cell::Cell<i64>,
}

impl Stripe {
    async fn of(world: &World) -> Self {
        let stripe = Self { daemon: Daemon::start(world), told: std::cell::Cell::new(0) };
        stripe.daemon.deliver(&customer("cus_1").org("acme").created_event().at(1).json()).await;
        stripe
    }

    /// Sends the subscription, a second later each time.
    async fn tell(&self, object: Object) {
        let n = self.told.get() + 1;
        self.told.set(n);
        let event = object.happened("customer.subscription.updated").id(&format!("evt_{n}"));
        self.daemon.deliver(&event.at(crate::support::objects::OCTOBER + n).json()).await;
        self.daemon.projected().await;
    }

    async fn is(&self, status: &str) {
        self.tell(subscription("sub_1").status(status)).await;
    }
}

/// A platform in October 2025 that sells `pro` by its price and `team` by its product, and Stripe's side.
async fn october() -> (World, Stripe) {
    let team = plan("team").with("stripe_products", json!(["prod_team"]));
    let setup = platform("2025-10-10T00:00:00Z").with(plan("pro").prices(["price_pro"])).with(team);
    let world = setup.start().await;
    let stripe = Stripe::of(&world).await;
    (world, stripe)
}

#[tokio::test]
async fn the_plan_follows_stripe_by_status_items_and_clock() {
    let (world, stripe) = october().await;
    for (status, gives) in [
        ("incomplete", None),
        ("trialing", Some("pro")),
        ("active", Some("pro")),
        ("past_due", Some("pro")),
        ("unpaid", None),
        ("paused", None),
        ("active", Some("pro")),
    ] {
        stripe.is(status).await;
        assert_eq!(stands(&world).await, so(gives, status));
    }
    // Collection is paused, or it will end with the period: the plan continues.
    let paused = json!({ "behavior": "void", "resumes_at": null });
    let ending = subscription("sub_1").with("pause_collection", paused).with("cancel_at_period_end", true);
    stripe.tell(ending).await;
    assert_eq!(stands(&world).await, so(Some("pro"), "active"));
    // The first item that buys a plan counts, by price or by product.
    let several = subscription("sub_1")
        .price("price_seat")
        .with("items.data.0.price.product", "prod_seat")
        .item("si_2", "price_t", "prod_team")
        .item("si_3", "price_pro", "prod_1");
    stripe.tell(several).await;
    assert_eq!(stands(&world).await, so(Some("team"), "active"));
    let by_product = world.get("/v1/subscriptions?plan=team").await;
    assert_eq!(by_product.at("data.0.id"), "sub_1");
    // Past due: exactly 14 days from the start of the period.
    stripe.is("past_due").await;
    assert_eq!(stands(&world).await, so(Some("pro"), "past_due"));
    assert_eq!(entitled(&world).await["plan_until"], "2025-10-23T08:53:20Z");
    world.turn("2025-10-23T08:53:19Z");
    assert_eq!(stands(&world).await, so(Some("pro"), "past_due"));
    world.turn("2025-10-23T08:53:20Z");
    assert_eq!(entitled(&world).await["plan"], Value::Null, "at once");
    assert_eq!(stands(&world).await, so(None, "past_due"));
    stripe.is("active").await;
    assert_eq!(stands(&world).await, so(Some("pro"), "active"));
    // A subscription with a plan counts before one with a better status and no plan.
    stripe.tell(subscription("sub_2").price("price_addon")).await;
    assert_eq!(stands(&world).await, so(Some("pro"), "active"));
    stripe.is("canceled").await;
    assert_eq!(stands(&world).await, so(None, "active"));
    stripe.tell(subscription("sub_2").status("incomplete_expired")).await;
    assert_eq!(stands(&world).await.0, None);
    assert!(world.run(&["verify"]).is_empty());
}

#[tokio::test]
async fn the_grace_is_a_setting() {
    let setup = World::new().setting("COULOMB_PAST_DUE_GRACE_DAYS", "0").org("acme");
    let world = setup.with(plan("pro").prices(["price_pro"])).start().await;
    let late = subscription("sub_1").status("past_due").happened("customer.subscription.updated");
    world.tell([customer("cus_1").org("acme").created_event(), late]).await;
    assert_eq!(world.get("/v1/orgs/acme").await["plan"], Value::Null);
}

/// A platform whose plan `pro` has a trial of 14 days; `max` has none, and `old` is no longer sold.
async fn trials() -> World {
    platform("2026-01-17T10:00:00Z")
        .with(plan("pro").with("trial_days", 14))
        .with(plan("max"))
        .with(plan("old").with("active", false).with("trial_days", 3))
        .start()
        .await
}

#[tokio::test]
async fn what_is_wrong_with_a_local_subscription_is_named() {
    let world = trials().await;
    assert_eq!(stands(&world).await, (None, None));
    current(&world).await.status(404);
    let pro = || subscribe("acme", "pro");
    for (request, status, field) in [
        (subscribe("acme", "none"), 404, ""),
        (subscribe("acme", "max"), 400, "trial_days"),
        (pro().with("trial_days", 731), 400, "trial_days"),
        (pro().with("trial_days", 1).with("paid", true), 400, "trial_days"),
        (pro().with("interval_months", 0), 400, "interval_months"),
        (pro().with("interval", "month").with("interval_months", 1), 400, "interval_months"),
        (pro().with("interval", "week"), 400, "interval"),
        (subscribe("acme", "p\u{0}"), 400, "plan"),
        (subscribe("acme", "old"), 409, ""),
    ] {
        world.send(request).await.names(status, field);
    }
    // No subscription is active, and there has never been one.
    world.send(cancel(false)).await.status(409);
    world.send(command("change", json!({ "plan": "pro" }))).await.status(409);
    world.send(activate()).await.status(404);
}

/// Both routes show the same period.
async fn period(world: &World) -> [String; 2] {
    let (entitled, shown) = (entitled(world).await, current(world).await);
    ["current_period_start", "current_period_end"].map(|name| {
        assert_eq!(shown.text(name), entitled.text(&format!("subscription.{name}")));
        shown.text(name)
    })
}

/// Trial → paid in the trial → extended → changed → expired → reactivated → cancelled.
#[tokio::test]
async fn a_local_subscription_lives_and_comes_back() {
    let world = trials().await;
    let first = begins_and_is_paid(&world).await;
    changes_plan(&world).await;
    lapses(&world).await;
    comes_back(&world, &first).await;
    is_cancelled(&world).await;
    is_moved(&world).await;
}

/// A trial is paid: it continues, then the paid month begins. Then two months more, at the ends of months.
async fn begins_and_is_paid(world: &World) -> String {
    let trial = world.send(subscribe("acme", "pro")).await.status(201);
    assert_eq!(trial.pick(["status", "valid_until"]), json!(["trial", "2026-01-31T10:00:00Z"]));
    assert_eq!(stands(world).await, so(Some("pro"), "trial"));
    // A subscription is active already.
    world.send(subscribe("acme", "pro")).await.status(409);
    world.turn("2026-01-20T00:00:00Z");
    let paid = world.send(activate()).await;
    let told = paid.pick(["id", "status", "valid_until", "current_period_start", "current_period_end"]);
    let (begun, ends) = ("2026-01-17T10:00:00Z", "2026-01-31T10:00:00Z");
    assert_eq!(told, json!([trial["id"], "active", "2026-02-28T10:00:00Z", begun, ends]));
    let paid = world.send(command("activate", json!({ "periods": 2 }))).await;
    assert_eq!(paid["valid_until"], "2026-04-30T10:00:00Z");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(period(world).await, [begun, ends]);
    world.turn("2026-01-31T10:00:00Z");
    assert_eq!(period(world).await, [ends, "2026-02-28T10:00:00Z"], "exactly at its end");
    world.turn("2026-03-15T00:00:00Z");
    assert_eq!(period(world).await, ["2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z"]);
    assert_eq!(stands(world).await, so(Some("pro"), "active"));
    trial.id()
}

/// Another plan: at once, in its newest version, in the same periods.
async fn changes_plan(world: &World) {
    world.send(plan("max").with("features.sso", true)).await.ok();
    let changed = world.send(command("change", json!({ "plan": "max" }))).await.status(200);
    let told = changed.pick(["plan", "version", "valid_until"]);
    assert_eq!(told, json!(["max", 2, "2026-04-30T10:00:00Z"]));
    assert_eq!(stands(world).await, so(Some("max"), "active"));
    let until_its_end = json!({ "until": "2026-04-30T10:00:00Z" });
    assert_eq!(world.send(command("activate", until_its_end)).await["field"], "until");
    for body in [
        json!({ "periods": 0 }),
        json!({ "periods": 121 }),
        json!({ "periods": 1, "until": "2027-01-01T00:00:00Z" }),
    ] {
        world.send(command("activate", body)).await.status(400);
    }
}

/// It ends exactly at this time, whether or not a worker has written it.
async fn lapses(world: &World) {
    world.turn("2026-04-30T10:00:00Z");
    let told = entitled(world).await.pick(["plan", "subscription.status"]);
    assert_eq!(told, json!([null, "expired"]));
    assert_eq!(stands(world).await, so(None, "expired"));
    assert_eq!(world.value("SELECT status FROM local_subscriptions").as_deref(), Some("active"));
    let told = current(world).await.pick(["status", "ended_at", "current_period_start"]);
    assert_eq!(told, json!(["expired", "2026-04-30T10:00:00Z", "2026-03-31T10:00:00Z"]));
    world.send(cancel(true)).await.status(409);
}

/// Paid again later: a new subscription from now, and the old one is history.
async fn comes_back(world: &World, first: &str) {
    world.turn("2026-06-01T00:00:00Z");
    let again = world.send(activate()).await.status(200);
    assert_eq!(again.pick(["plan", "valid_until"]), json!(["max", "2026-07-01T00:00:00Z"]));
    assert_ne!(again["id"], first);
    let path = "/v1/orgs/acme/subscriptions?limit=1";
    let newest = world.get(path).await;
    assert_eq!(newest.at("data.0.id"), &again["id"]);
    let before = world.get(&format!("{path}&cursor={}", newest.text("next"))).await;
    let told = before.pick(["data.0.id", "data.0.status", "next"]);
    assert_eq!(told, json!([first, "expired", null]));
    let told = world.get("/v1/messages?type=subscription.expired").await;
    assert_eq!(told.column("data.subscription"), json!([first]));
}

/// First to be cancelled, then paid after all, then cancelled at once.
async fn is_cancelled(world: &World) {
    assert_eq!(world.send(cancel(true)).await["cancel_at_period_end"], true);
    assert_eq!(stands(world).await, so(Some("max"), "active"));
    let paid = world.send(command("activate", json!({ "until": "2026-08-15T00:00:00Z" }))).await;
    let told = paid.pick(["cancel_at_period_end", "valid_until"]);
    assert_eq!(told, json!([false, "2026-08-15T00:00:00Z"]));
    let told = world.send(cancel(false)).await.pick(["status", "ended_at"]);
    assert_eq!(told, json!(["cancelled", "2026-06-01T00:00:00Z"]));
    assert_eq!(stands(world).await, so(None, "cancelled"));
}

/// Another one, for a year. It is moved to another version with all others, then alone.
async fn is_moved(world: &World) {
    let a_year = subscribe("acme", "max").with("paid", true).with("interval", "year");
    assert_eq!(world.send(a_year).await["valid_until"], "2027-06-01T00:00:00Z");
    let moved = world.post("/v1/plans/max/move", json!({ "from": 2, "to": 1 })).await;
    assert_eq!((&moved["moved"], &current(world).await["version"]), (&json!(1), &json!(1)));
    let path = format!("/v1/subscriptions/{}/move", current(world).await.id());
    world.post(&path, json!({ "version": 2 })).await.status(200);
    assert_eq!(current(world).await["version"], 2);
    world.post(&path, json!({ "version": 9 })).await.status(404);
    world.post(&path, json!({ "plan": "pro", "version": 1 })).await.status(400);
}

/// Each period charges the battery once when it begins; a trial charges the plan's units for trials.
#[tokio::test]
async fn begun_periods_charge_the_battery() {
    let pro =
        plan("pro").with("trial_days", 14).with("battery_units", "100").with("trial_battery_units", "10");
    let world = platform("2026-01-17T10:00:00Z").with(pro).start().await;
    let ledger = || world.ledger(world.number("SELECT min(org_id) FROM orgs"));
    world.send(subscribe("acme", "pro")).await.ok();
    assert_eq!(ledger(), ["grant 10 → 10"]);
    world.send(command("activate", json!({ "periods": 3 }))).await.ok();
    assert_eq!(ledger().len(), 1, "the paid periods have not begun");
    // A worker does it; two workers at once do it once.
    let charge = |now: &str| {
        let now = now.parse().expect("a time");
        for _ in 0..2 {
            unit_grants::grant_begun(&mut world.platform(), None, now).expect("grants");
        }
    };
    charge("2026-01-31T09:59:59Z");
    assert_eq!(ledger().len(), 1);
    charge("2026-01-31T10:00:00Z");
    assert_eq!(ledger(), ["grant 10 → 10", "expiry -10 → 0", "grant 100 → 100"]);
    charge("2026-03-01T00:00:00Z");
    assert_eq!(ledger()[3..], ["expiry -100 → 0", "grant 100 → 100"]);
    let ends = world.value("SELECT max(expires_at) AT TIME ZONE 'UTC' FROM battery_grants");
    assert_eq!(ends.as_deref(), Some("2026-03-31 10:00:00"));
    world.turn("2026-03-05T00:00:00Z");
    world.send(cancel(false)).await.ok();
    charge("2026-04-01T00:00:00Z");
    assert_eq!(ledger().len(), 5, "no period that begins after the cancellation");
    assert_eq!(world.unsound_batteries(), [] as [String; 0]);
}

/// In January: `acme` is on trial, `beta` will be cancelled at the end of its month, `gamma` has paid for a
/// year.
async fn january() -> World {
    let paid = |org: &str| subscribe(org, "pro").with("paid", true);
    platform("2026-01-01T00:00:00Z")
        .org("beta")
        .org("gamma")
        .with(plan("pro").with("trial_days", 5))
        .with(subscribe("acme", "pro"))
        .with(paid("beta"))
        .with(subscription_command("beta", "cancel", json!({ "at_period_end": true })))
        .with(paid("gamma").with("interval", "year"))
        .start()
        .await
}

/// Two daemons start at once; waits until they have written everything that is over by their clock.
async fn catch_up(world: &World, later: &str) -> [Daemon; 2] {
    let later = TestClock::at(later);
    let woken = [Daemon::clocked(world, &later), Daemon::clocked(world, &later)];
    let ended = "SELECT count(*) FROM local_subscriptions WHERE ended_at IS NOT NULL";
    until("a worker has written that they are over", async || world.number(ended) >= 2).await;
    woken
}

#[tokio::test]
async fn an_idle_daemon_catches_up() {
    let world = january().await;
    let _woken = catch_up(&world, "2026-05-01T00:00:00Z").await;
    let rows =
        "SELECT string_agg(status || ' ' || ended_at::date, ', ' ORDER BY ended_at) FROM local_subscriptions";
    assert_eq!(world.value(rows).as_deref(), Some("expired 2026-01-06, cancelled 2026-02-01"));
    let told = world.value(
        "SELECT string_agg(type, ', ' ORDER BY type) FROM outbox_messages
         WHERE dedupe_key LIKE 'subscription:%:ended'",
    );
    assert_eq!(told.as_deref(), Some("subscription.cancelled, subscription.expired"), "each once");
}

/// An org sees only its own subscriptions.
#[tokio::test]
async fn an_org_reads_its_own_subscriptions() {
    use diesel::connection::SimpleConnection;
    use diesel::prelude::*;
    let world = january().await;
    let _woken = catch_up(&world, "2026-05-01T00:00:00Z").await;
    let key = world.database.key("billing:read,billing:write,usage:read", Some("beta"));
    let own = world.by(&key);
    assert_eq!(own.get("/v1/orgs/beta/subscription").await["status"], "cancelled");
    assert_eq!(own.get("/v1/orgs/beta/subscriptions").await.rows().len(), 1);
    for path in ["/v1/orgs/acme/subscription", "/v1/orgs/acme/subscriptions"] {
        own.get(path).await.status(404);
    }
    own.send(subscribe("beta", "pro")).await.status(403);
    let beta = world.number("SELECT org_id FROM orgs WHERE external_id = 'beta'");
    let mut conn = world.owner();
    conn.batch_execute(&format!("SET ROLE coulomb_org; SET coulomb.org_id = '{beta}'"))
        .expect("takes the role on");
    let visible: i64 =
        coulomb::schema::local_subscriptions::table.count().get_result(&mut conn).expect("reads");
    assert_eq!(visible, 1);
}

#[tokio::test]
async fn stripe_counts_before_local() {
    let (world, stripe) = october().await;
    world.send(plan("local")).await.ok();
    world.send(subscribe("acme", "local").with("paid", true).with("interval", "year")).await.ok();
    let counts = async || {
        let plan = stands(&world).await.0.unwrap_or_default();
        let source = world.get("/v1/orgs/acme").await.text("subscription.source");
        [plan, source]
    };
    assert_eq!(counts().await, ["local", "local"]);
    stripe.is("incomplete").await;
    assert_eq!(counts().await, ["local", "local"]);
    stripe.is("active").await;
    assert_eq!(counts().await, ["pro", "stripe"]);
    stripe.is("past_due").await;
    assert_eq!(counts().await, ["pro", "stripe"]);
    world.turn("2025-10-24T00:00:00Z");
    assert_eq!(counts().await, ["local", "local"], "the grace is over");
    world.turn("2026-10-10T00:00:00Z");
    assert_eq!(counts().await, ["", "stripe"], "both have ended");
}
