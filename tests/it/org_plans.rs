//! Which plan an org has, and until when: with unpaid invoices, with several plans of different ranks, with a
//! default plan, and with days of grace.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::objects::{Event, Object, customer, invoice, subscription};
use crate::support::requests::{
    Time, check, limit, meter, org, plan, reserve, subscribe, subscription_command,
};
use crate::support::world::Setup;

const UPDATED: &str = "customer.subscription.updated";
/// The time of most tests, and the month of most subscriptions.
const NOW: &str = "2026-05-20T12:00:00Z";
const MONTH: (&str, &str) = ("2026-05-12T00:00:00Z", "2026-06-12T00:00:00Z");

/// A platform with the meter `tokens`, at noon of 20 May.
fn platform() -> Setup {
    World::new().at(NOW).meter("tokens")
}

async fn entitled(world: &World, org: &str) -> Answer {
    world.get(&format!("/v1/orgs/{org}/entitlements")).await
}

/// An org of this name with its own customer, and Stripe's events about it, a second apart.
async fn told(world: &World, name: &str, events: Vec<Event>) {
    world.send(org(name)).await.ok();
    let made = customer(&format!("cus_{name}")).org(name).created_event();
    let now = world.now();
    for (second, event) in (0..).zip([made].into_iter().chain(events)) {
        world.deliver(event.id(&format!("evt_{name}_{second}")).at(now + second)).await;
    }
    world.daemon().projected().await;
    world.settles().await;
}

/// The subscription of an org for [`MONTH`].
fn bought(org: &str, status: &str, price: &str) -> Object {
    let subscription = subscription(&format!("sub_{org}")).customer(&format!("cus_{org}"));
    subscription.status(status).price(price).period(MONTH.0, MONTH.1)
}

/// An invoice over 20.00 of an org's subscription: its number, its status and when it was issued.
fn billed(org: &str, n: i32, status: &str, issued: &str) -> Object {
    invoice(&format!("in_{org}_{n}"))
        .customer(&format!("cus_{org}"))
        .bills(&format!("sub_{org}"))
        .status(status)
        .issued(issued)
}

/// An org, its invoices, and until when it has the plan.
type Case = (&'static str, Vec<Object>, Option<&'static str>);

/// 14 days from the due time of the unpaid invoice, computed by hand.
fn unpaid() -> Vec<Case> {
    let open = |org, n, issued| billed(org, n, "open", issued);
    let renewed = "2026-05-12T01:00:00Z";
    vec![
        // The renewal of 12 May was issued an hour later.
        ("renewal", vec![open("renewal", 1, renewed)], Some("2026-05-26T01:00:00Z")),
        // It is sent to the customer, and was due on 19 May.
        (
            "sent",
            vec![open("sent", 1, renewed).with("due_date", "2026-05-19T01:00:00Z".second())],
            Some("2026-06-02T01:00:00Z"),
        ),
        // The one before was not paid either: the grace ended on 26 April.
        ("twice", vec![open("twice", 1, "2026-04-12T01:00:00Z"), open("twice", 2, renewed)], None),
        // An older one is open, but a later one was paid.
        (
            "left",
            vec![
                open("left", 1, "2026-03-12T01:00:00Z"),
                billed("left", 2, "paid", "2026-04-12T01:00:00Z"),
                open("left", 3, renewed),
            ],
            Some("2026-05-26T01:00:00Z"),
        ),
        // A seat was added on 19 May and could not be charged; the month itself is paid.
        (
            "seat",
            vec![billed("seat", 1, "paid", renewed), open("seat", 2, "2026-05-19T11:00:00Z")],
            Some("2026-06-02T11:00:00Z"),
        ),
        // Invoices settled by the customer's balance, void or draft are not unpaid: then the period decides.
        (
            "settled",
            vec![
                open("settled", 1, "2026-04-01T00:00:00Z").remaining(0),
                billed("settled", 2, "void", "2026-04-02T00:00:00Z"),
                billed("settled", 3, "draft", "2026-04-03T00:00:00Z"),
            ],
            Some("2026-05-26T00:00:00Z"),
        ),
        // Given up invoices are still unpaid.
        (
            "given-up",
            vec![billed("given-up", 1, "uncollectible", "2026-05-07T12:00:00Z")],
            Some("2026-05-21T12:00:00Z"),
        ),
    ]
}

/// The org has the plan until then, in this period.
async fn has_pro_until(world: &World, org: &str, until: Option<&str>, (start, end): (&str, &str)) {
    let entitled = entitled(world, org).await;
    let told = entitled.pick(["plan_until", "plan.id"]);
    assert_eq!(told, json!([until, until.map(|_| "pro")]), "{org}: {entitled}");
    // The plan's period is that of the item that buys it.
    let period = entitled.pick(["subscription.current_period_start", "subscription.current_period_end"]);
    assert_eq!(period, json!([start, end]), "{org}");
}

#[tokio::test]
async fn grace_runs_from_when_the_unpaid_invoice_was_due() {
    let world = platform().with(plan("pro").prices(["price_pro"])).start().await;
    for (org, invoices, until) in unpaid() {
        let subscribed = bought(org, "past_due", "price_pro").happened(UPDATED);
        let billed = invoices.into_iter().map(|invoice| invoice.happened("invoice.updated"));
        told(&world, org, [subscribed].into_iter().chain(billed).collect()).await;
        has_pro_until(&world, org, until, MONTH).await;
    }
    // No invoice is known. The plan is paid by the year; a monthly add-on was renewed on 18 May.
    let year = ("2025-11-20T00:00:00Z", "2026-11-20T00:00:00Z");
    let addon = bought("addon", "past_due", "price_pro")
        .period(year.0, year.1)
        .item("si_addon", "price_addon", "prod_1")
        .with("items.data.1.current_period_start", "2026-05-18T00:00:00Z".second())
        .with("items.data.1.current_period_end", "2026-06-18T00:00:00Z".second());
    told(&world, "addon", vec![addon.happened(UPDATED)]).await;
    has_pro_until(&world, "addon", Some("2026-06-01T00:00:00Z"), year).await;
    // It ends at this instant.
    world.turn("2026-05-21T11:59:59Z");
    assert_eq!(entitled(&world, "given-up").await.at("plan.id"), "pro");
    world.turn("2026-05-21T12:00:00Z");
    assert_eq!(entitled(&world, "given-up").await["plan"], Value::Null);
}

/// Plans of rank 1, 5 and 5.
fn ranked() -> Setup {
    let sold = |id: &str, rank: i32| plan(id).with("rank", rank).prices([&format!("price_{id}")]);
    platform().with(sold("basic", 1)).with(sold("pro", 5)).with(sold("team", 5))
}

/// `id plan status` of an org's paid subscriptions; local ids are random.
fn paying(entitled: &Answer) -> Vec<String> {
    let listed = entitled.list("paying").iter().map(|one| {
        let [id, plan, status] = ["id", "plan", "status"].map(|field| one[field].as_str().expect("text"));
        let id = if id.starts_with("lsub_") { "lsub" } else { id };
        format!("{id} {plan} {status}")
    });
    listed.collect()
}

fn doctor(world: &World) -> String {
    let doctor = world.command(&["doctor"]).output().expect("it runs");
    String::from_utf8_lossy(&doctor.stdout).into_owned()
}

/// Of several subscriptions the plan with the highest rank counts, and all are listed.
#[tokio::test]
async fn the_highest_rank_counts_and_who_pays_twice_is_listed() {
    let world = ranked().start().await;
    let first = |org: &str, price| bought(org, "active", price).happened(UPDATED);
    let second = |org: &str, status: &str, price| {
        bought(org, status, price).with("id", format!("sub_{org}_2")).happened(UPDATED)
    };
    // The higher plan counts, even if it began later, is past due, or the other one is local.
    for (org, events, local, plan, listed) in [
        ("one", vec![first("one", "price_pro")], None, "pro", vec![]),
        (
            "two",
            vec![first("two", "price_basic"), second("two", "active", "price_pro")],
            None,
            "pro",
            vec!["sub_two_2 pro active", "sub_two basic active"],
        ),
        (
            "late",
            vec![first("late", "price_basic"), second("late", "past_due", "price_team")],
            None,
            "team",
            vec!["sub_late_2 team past_due", "sub_late basic active"],
        ),
        (
            "ended",
            vec![first("ended", "price_basic"), second("ended", "canceled", "price_team")],
            None,
            "basic",
            vec![],
        ),
        (
            "local",
            vec![first("local", "price_basic")],
            Some("pro"),
            "pro",
            vec!["lsub pro active", "sub_local basic active"],
        ),
        // Of equal ranks, the subscription of Stripe counts.
        (
            "equal",
            vec![first("equal", "price_team")],
            Some("pro"),
            "team",
            vec!["sub_equal team active", "lsub pro active"],
        ),
    ] {
        told(&world, org, events).await;
        if let Some(plan) = local {
            world.send(subscribe(org, plan).with("paid", true)).await.status(201);
        }
        let entitled = entitled(&world, org).await;
        assert_eq!(entitled.at("plan.id"), plan, "{org}: {entitled}");
        assert_eq!(paying(&entitled), listed, "{org}");
    }
    let doctor = doctor(&world);
    let found = doctor.lines().find(|line| line.contains(" plans: ")).expect("a line");
    // The command uses the machine's clock (November), when Stripe's grace and the local months are over.
    assert!(found.starts_with("note plans: 1 org(s) have several subscriptions"), "{found}");
    assert!(found.contains("no plan is the default one"), "{found}");
}

#[tokio::test]
async fn a_pause_is_told_and_does_not_end_the_plan() {
    let world = ranked().start().await;
    let active = bought("one", "active", "price_pro");
    told(&world, "one", vec![active.clone().happened(UPDATED)]).await;
    assert_eq!(entitled(&world, "one").await.at("subscription.pause_collection"), &Value::Null);
    let until = "2026-07-01T00:00:00Z";
    let pause = json!({ "behavior": "void", "resumes_at": until.second() });
    let paused = active.with("pause_collection", pause).happened(UPDATED).id("evt_pause");
    world.tell([paused.at(world.now() + 60)]).await;
    world.settles().await;
    let told = entitled(&world, "one").await.pick(["plan.id", "subscription.pause_collection"]);
    assert_eq!(told, json!(["pro", { "behavior": "void", "resumes_at": until }]));
}

/// A file of two plans; `default` names the default one.
fn plans_file(default: &str) -> String {
    format!(
        "[[plans]]\nid = \"free\"\nname = \"Free\"\ndefault = {}\nfeatures = [\"export\", \"sso\"]\n
         quotas = [{{ meter = \"tokens\", period = \"month\", limit = 3 }}]\n
         [[plans]]\nid = \"pro\"\nname = \"Pro\"\ndefault = {}\n
         stripe_prices = [\"price_pro\"]\nfeatures = {{ seats = 5 }}\n",
        default == "free",
        default == "pro",
    )
}

/// Orgs without a plan have the default one: its limits apply.
#[tokio::test]
async fn orgs_without_a_plan_have_the_default_one() {
    let world = platform().start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("plans.toml");
    let apply = |default: &str| {
        std::fs::write(&path, plans_file(default)).expect("written");
        world.run(&["plans", "apply", path.to_str().expect("a path"), "--yes"]);
    };
    apply("free");
    for (org, status) in [("paying", "active"), ("cancelled", "canceled"), ("never", "incomplete_expired")] {
        told(&world, org, vec![bought(org, status, "price_pro").happened(UPDATED)]).await;
    }
    told(&world, "new", vec![]).await;
    told(&world, "expired", vec![]).await;
    world.send(subscribe("expired", "pro").with("trial_days", 1)).await.status(201);
    assert_eq!(entitled(&world, "expired").await.at("plan.id"), "pro");
    world.turn("2026-05-21T12:00:00Z");
    for org in ["new", "cancelled", "never", "expired"] {
        let told = entitled(&world, org).await.pick(["plan", "features"]);
        let free = json!({ "id": "free", "name": "Free", "version": 1, "default": true });
        assert_eq!(told, json!([free, ["export", "sso"]]), "{org}");
        world.send(reserve(4).org(org)).await.status(409);
        world.send(reserve(3).org(org)).await.status(201);
        assert_eq!(world.get(&format!("/v1/orgs/{org}")).await["plan"], "free", "{org}");
    }
    let told = entitled(&world, "paying").await.pick(["plan.default", "features"]);
    assert_eq!(told, json!([false, { "seats": 5 }]));
    // At most one default; within a file it may move from one plan to another.
    world.send(plan("third").with("default", true)).await.refused(409, "default_taken");
    apply("pro");
    world.settles().await;
    assert_eq!(entitled(&world, "new").await.at("plan.id"), "pro");
    let doctor = doctor(&world);
    assert!(doctor.contains("ok   plans: orgs without a plan have `pro`"), "{doctor}");
    // Features are a list of names or an object, not a text or numbers.
    for features in [json!("sso"), json!([1])] {
        world.send(plan("free").with("features", features)).await.names(400, "features");
    }
}

/// Ends an org's local subscription at once.
async fn cancels(world: &World, org: &str) {
    let at_once = json!({ "at_period_end": false });
    world.send(subscription_command(org, "cancel", at_once)).await.status(200);
}

/// The paid time may end before the plan does; a late payment then starts at the end of the paid time.
#[tokio::test]
async fn local_subscriptions_have_days_of_grace_and_one_trial() {
    let pro = plan("pro").with("grace_days", 5).with("trial_days", 10);
    let setup = World::new().at("2026-03-01T10:00:00Z").with(pro);
    let world = setup.org("late").org("leaves").org("trial").start().await;
    let stands = async |org: &str| {
        let entitled = entitled(&world, org).await;
        ["plan.id", "subscription.status", "plan_until"]
            .map(|path| entitled.at(path).as_str().unwrap_or("none"))
            .join(" ")
    };
    let at_the_end = || json!({ "at_period_end": true });
    for org in ["late", "leaves"] {
        world.send(subscribe(org, "pro").with("paid", true)).await.status(201);
    }
    world.send(subscription_command("leaves", "cancel", at_the_end())).await.ok();
    world.send(subscribe("trial", "pro")).await.status(201);
    // The trial ends on 11 March, its grace on the 16th.
    world.turn("2026-03-16T09:59:59Z");
    assert_eq!(stands("trial").await, "pro past_due 2026-03-16T10:00:00Z");
    world.turn("2026-03-16T10:00:00Z");
    assert_eq!(stands("trial").await, "none expired none");
    world.turn("2026-04-01T09:59:59Z");
    assert_eq!(stands("late").await, "pro active 2026-04-06T10:00:00Z");
    assert_eq!(stands("leaves").await, "pro active 2026-04-01T10:00:00Z");
    world.turn("2026-04-01T10:00:00Z");
    assert_eq!(stands("late").await, "pro past_due 2026-04-06T10:00:00Z");
    assert_eq!(stands("leaves").await, "none cancelled none");
    // Paid on the third day of grace: from the end of the paid time, in the period that runs since then.
    world.turn("2026-04-04T00:00:00Z");
    let paid = world.send(subscription_command("late", "activate", json!({}))).await.status(200);
    assert_eq!(paid["valid_until"], "2026-05-01T10:00:00Z");
    assert_eq!(stands("late").await, "pro active 2026-05-06T10:00:00Z");
    let since = entitled(&world, "late").await.text("subscription.current_period_start");
    assert_eq!(since, "2026-04-01T10:00:00Z");
    // Cancelled within the next grace: it ends at once, even if the request says at the end of the period.
    world.turn("2026-05-02T00:00:00Z");
    let left = world.send(subscription_command("late", "cancel", at_the_end())).await.status(200);
    assert_eq!(left["ended_at"], "2026-05-02T00:00:00Z");
    assert_eq!(stands("late").await, "none cancelled none");
    // An ended trial counts as a trial; a paid subscription does not.
    world.send(subscribe("trial", "pro")).await.refused(409, "trial_used");
    world.send(subscribe("late", "pro")).await.status(201);
}

/// One trial for each plan, also if it was changed since; another one needs `force`.
#[tokio::test]
async fn a_trial_is_had_once() {
    let on_trial = |id: &str| plan(id).with("trial_days", 10);
    let world = World::new()
        .at("2026-05-02T00:00:00Z")
        .with(on_trial("pro"))
        .with(on_trial("basic"))
        .with(on_trial("team").prices(["price_team"]))
        .org("trial")
        .org("paid")
        .start()
        .await;
    // Begins a subscription, and ends it at once.
    let start = async |begun: crate::support::requests::Request, org: &str| {
        let begun = world.send(begun).await;
        if begun.status == 201 {
            cancels(&world, org).await;
        }
        begun
    };
    start(subscribe("trial", "pro"), "trial").await.status(201);
    start(subscribe("trial", "pro"), "trial").await.refused(409, "trial_used");
    let three_days = subscribe("trial", "pro").with("trial_days", 3);
    start(three_days.clone(), "trial").await.refused(409, "trial_used");
    start(subscribe("trial", "pro").with("paid", true), "trial").await.status(201);
    start(three_days.with("force", true), "trial").await.status(201);
    // It was paid, but never on trial.
    start(subscribe("paid", "pro").with("paid", true), "paid").await.status(201);
    start(subscribe("paid", "pro"), "paid").await.status(201);
    world.send(subscribe("paid", "basic")).await.status(201);
    let to_pro = json!({ "plan": "pro" });
    world.send(subscription_command("paid", "change", to_pro)).await.status(200);
    cancels(&world, "paid").await;
    start(subscribe("paid", "basic"), "paid").await.refused(409, "trial_used");
    // A trial at Stripe counts as well.
    let (start_of_trial, end) = ("2026-04-01T00:00:00Z", "2026-04-11T00:00:00Z");
    let tried = bought("bought", "canceled", "price_team")
        .period(start_of_trial, end)
        .with("trial_start", start_of_trial.second())
        .with("trial_end", end.second());
    told(&world, "bought", vec![tried.happened("customer.subscription.deleted")]).await;
    start(subscribe("bought", "team"), "bought").await.refused(409, "trial_used");
    start(subscribe("bought", "basic"), "bought").await.status(201);
}

/// Waits until all daemons agree whether five tokens fit; returns how long that took.
async fn until_all_say(world: &World, what: &str, fits: bool) -> Duration {
    let started = Instant::now();
    loop {
        let mut said = Vec::new();
        for number in 0..world.daemons.len() {
            let verdict = world.on(number).check(check().amount(5)).await;
            said.push(verdict["allowed"].as_bool().expect("a verdict"));
        }
        if said.iter().all(|said| *said == fits) {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: {said:?}");
    }
}

/// Two daemons on one database: a change on one counts on the other within a second.
#[tokio::test]
async fn a_change_counts_within_a_second_on_every_daemon() {
    let sold = |id: &str, most: Value| plan(id).prices([&format!("price_{id}")]).limits([limit(most)]);
    let free = sold("free", json!(1)).with("default", true);
    let setup = World::new().daemons(2).with(meter("tokens")).with(free).with(sold("pro", Value::Null));
    let world = setup.org("acme").start().await;
    world.tell([customer("cus_1").org("acme").created_event()]).await;
    let mut slow = Vec::new();
    let mut within = async |what: &str, fits: bool| {
        let took = until_all_say(&world, what, fits).await;
        if took > Duration::from_secs(1) {
            slow.push(format!("{what}: {took:?}"));
        }
    };
    within("nothing yet", false).await;
    let local = async |command: &str, body: Value| {
        world.send(subscription_command("acme", command, body)).await.ok();
    };
    let stripe = async |n: i64, status: &str| {
        let event = subscription("sub_1").status(status).happened(UPDATED);
        world.tell([event.id(&format!("evt_{n}")).at(10 + n)]).await;
    };
    for n in 0..4 {
        world.send(subscribe("acme", "pro").with("paid", true)).await.ok();
        within("begun", true).await;
        local("change", json!({ "plan": "free" })).await;
        within("changed", false).await;
        local("change", json!({ "plan": "pro" })).await;
        within("changed back", true).await;
        cancels(&world, "acme").await;
        within("cancelled", false).await;
        local("activate", json!({})).await;
        within("activated", true).await;
        cancels(&world, "acme").await;
        within("cancelled again", false).await;
        stripe(2 * n, "active").await;
        within("Stripe: active", true).await;
        stripe(2 * n + 1, "unpaid").await;
        within("Stripe: unpaid", false).await;
    }
    // A busy machine may hold up some; without news of changes nearly all would be late.
    assert!(slow.len() <= 8, "these took longer than a second: {slow:?}");
}
