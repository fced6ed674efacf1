//! Which plan an org has, and until when: by unpaid invoices, by the rank of several plans, by default, and
//! by days of grace.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, invoice, subscription};
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write";

fn second(text: &str) -> i64 {
    text.parse::<DateTime<Utc>>().expect("a time").timestamp()
}

/// A daemon on a clock, and a key.
struct House {
    database: Database,
    daemon: Daemon,
    clock: TestClock,
    key: String,
}

impl House {
    async fn at(time: &str) -> Self {
        let database = Database::new();
        database.meter(1, "tokens", "sum", "", None);
        let clock = TestClock::at(time);
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key(KEYS, None);
        Self { database, daemon, clock, key }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, answered) = answer(self.daemon.request(method, path, &self.key).json(&body)).await;
        (status.as_u16(), answered)
    }

    async fn plan(&self, id: &str, body: Value) {
        let (status, plan) = self.ask(Method::PUT, &format!("/v1/plans/{id}"), body).await;
        assert_eq!(status, 200, "{plan}");
    }

    async fn local(&self, org: &str, what: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, &format!("/v1/orgs/{org}/subscription{what}"), body).await
    }

    async fn entitled(&self, org: &str) -> Value {
        self.daemon.get(&format!("/v1/orgs/{org}/entitlements"), &self.key).await.1
    }

    /// An org of that name with a customer of its own, and what Stripe tells of that.
    async fn told(&self, org: &str, now: &str, events: Vec<(&str, Value)>) {
        self.daemon.org(&self.key, org, "UTC").await;
        let made = ("customer.created", customer(&format!("cus_{org}"), Some(org)));
        for (n, (kind, object)) in [made].into_iter().chain(events).enumerate() {
            let told = event(&format!("evt_{org}_{n}"), kind, second(now) + n as i64, object);
            self.daemon.deliver_at(&told, second(now)).await;
        }
        self.daemon.projected().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

/// A subscription of `org` with items of these prices and periods.
fn items(org: &str, status: &str, items: &[(&str, &str, &str)]) -> Value {
    let mut told = subscription(&format!("sub_{org}"), &format!("cus_{org}"), status, "price_pro");
    let one = told["items"]["data"][0].clone();
    let items = items.iter().enumerate().map(|(n, (price, start, end))| {
        let mut item = one.clone();
        (item["id"], item["price"]["id"]) = (json!(format!("si_{org}_{n}")), json!(price));
        (item["current_period_start"], item["current_period_end"]) =
            (second(start).into(), second(end).into());
        item
    });
    told["items"]["data"] = items.collect();
    told
}

/// An invoice of that subscription: number, status, when it was issued, when it is due, what remains of
/// 20.00.
fn billed(
    org: &str,
    n: i32,
    status: &str,
    issued: &str,
    due: Option<&str>,
    remaining: i64,
) -> (&'static str, Value) {
    let mut told = invoice(&format!("in_{org}_{n}"), &format!("cus_{org}"), status, 2000);
    told["created"] = second(issued).into();
    told["status_transitions"]["finalized_at"] = second(issued).into();
    told["due_date"] = due.map(second).into();
    (told["amount_remaining"], told["amount_paid"]) = (remaining.into(), (2000 - remaining).into());
    told["parent"]["subscription_details"]["subscription"] = json!(format!("sub_{org}"));
    ("invoice.updated", told)
}

/// An org, its items (price and period), its invoices, and until when it has the plan.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str, &'a str)], Vec<(&'a str, Value)>, Option<&'a str>);

/// 14 days from when the unpaid invoice was due, reckoned by hand. Now is noon of 20 May.
#[tokio::test]
async fn grace_runs_from_when_the_unpaid_invoice_was_due() {
    let now = "2026-05-20T12:00:00Z";
    let house = House::at(now).await;
    house.plan("pro", json!({ "name": "Pro", "stripe_prices": ["price_pro"] })).await;
    let month = [("price_pro", "2026-05-12T00:00:00Z", "2026-06-12T00:00:00Z")];
    let open = |org, n, issued| billed(org, n, "open", issued, None, 2000);
    let cases: [Case<'_>; 8] = [
        // The renewal of 12 May was issued an hour later.
        ("renewal", &month, vec![open("renewal", 1, "2026-05-12T01:00:00Z")], Some("2026-05-26T01:00:00Z")),
        // It is sent, and was due on 19 May.
        (
            "sent",
            &month,
            vec![billed("sent", 1, "open", "2026-05-12T01:00:00Z", Some("2026-05-19T01:00:00Z"), 2000)],
            Some("2026-06-02T01:00:00Z"),
        ),
        // The one before was not paid either: over since 26 April.
        (
            "twice",
            &month,
            vec![open("twice", 1, "2026-04-12T01:00:00Z"), open("twice", 2, "2026-05-12T01:00:00Z")],
            None,
        ),
        // An older one was left open, but what came after it was paid.
        (
            "left",
            &month,
            vec![
                open("left", 1, "2026-03-12T01:00:00Z"),
                billed("left", 2, "paid", "2026-04-12T01:00:00Z", None, 0),
                open("left", 3, "2026-05-12T01:00:00Z"),
            ],
            Some("2026-05-26T01:00:00Z"),
        ),
        // A seat that was added on 19 May could not be charged; the month itself is paid.
        (
            "seat",
            &month,
            vec![
                billed("seat", 1, "paid", "2026-05-12T01:00:00Z", None, 0),
                open("seat", 2, "2026-05-19T11:00:00Z"),
            ],
            Some("2026-06-02T11:00:00Z"),
        ),
        // What is settled by the customer's balance, void or a draft is not unpaid: by the period then.
        (
            "settled",
            &month,
            vec![
                billed("settled", 1, "open", "2026-04-01T00:00:00Z", None, 0),
                billed("settled", 2, "void", "2026-04-02T00:00:00Z", None, 2000),
                billed("settled", 3, "draft", "2026-04-03T00:00:00Z", None, 2000),
            ],
            Some("2026-05-26T00:00:00Z"),
        ),
        // No invoice is known. The plan is paid by the year, an add-on by the month was renewed on 18 May.
        (
            "addon",
            &[
                ("price_pro", "2025-11-20T00:00:00Z", "2026-11-20T00:00:00Z"),
                ("price_addon", "2026-05-18T00:00:00Z", "2026-06-18T00:00:00Z"),
            ],
            vec![],
            Some("2026-06-01T00:00:00Z"),
        ),
        // It was given up, and is no less unpaid.
        (
            "given-up",
            &month,
            vec![billed("given-up", 1, "uncollectible", "2026-05-07T12:00:00Z", None, 2000)],
            Some("2026-05-21T12:00:00Z"),
        ),
    ];
    for (org, prices, invoices, until) in cases {
        let subscribed = ("customer.subscription.updated", items(org, "past_due", prices));
        house.told(org, now, [subscribed].into_iter().chain(invoices).collect()).await;
        let entitled = house.entitled(org).await;
        assert_eq!(entitled["plan_until"].as_str(), until, "{org}: {entitled}");
        assert_eq!(entitled["plan"]["id"].as_str(), until.map(|_| "pro"), "{org}");
        // The plan's period is that of its item.
        let subscription = &entitled["subscription"];
        assert_eq!(subscription["current_period_start"], prices[0].1, "{org}");
        assert_eq!(subscription["current_period_end"], prices[0].2, "{org}");
    }
    // It ends on the instant, and a payment ends it at once.
    house.clock.turn("2026-05-21T11:59:59Z");
    assert_eq!(house.entitled("given-up").await["plan"]["id"], "pro");
    house.clock.turn("2026-05-21T12:00:00Z");
    assert_eq!(house.entitled("given-up").await["plan"], Value::Null);
}

/// Of several subscriptions the plan of the highest rank counts, and all are listed; a pause is told.
#[tokio::test]
async fn the_highest_rank_counts_and_who_pays_twice_is_listed() {
    let now = "2026-05-20T12:00:00Z";
    let house = House::at(now).await;
    for (plan, rank) in [("basic", 1), ("pro", 5), ("team", 5)] {
        let body = json!({ "name": plan, "rank": rank, "stripe_prices": [format!("price_{plan}")] });
        house.plan(plan, body).await;
    }
    let month = |price| (price, "2026-05-12T00:00:00Z", "2026-06-12T00:00:00Z");
    let second_one = |org: &str, status: &str, price| {
        let mut told = items(org, status, &[month(price)]);
        told["id"] = json!(format!("sub_{org}_2"));
        ("customer.subscription.updated", told)
    };
    let first = |org: &str, price| ("customer.subscription.updated", items(org, "active", &[month(price)]));
    // The better plan counts, also where it began later, is past due, or the other one is local.
    for (org, events, local, plan, paying) in [
        ("one", vec![first("one", "price_pro")], None, "pro", vec![]),
        (
            "two",
            vec![first("two", "price_basic"), second_one("two", "active", "price_pro")],
            None,
            "pro",
            vec!["sub_two_2 pro active", "sub_two basic active"],
        ),
        (
            "late",
            vec![first("late", "price_basic"), second_one("late", "past_due", "price_team")],
            None,
            "team",
            vec!["sub_late_2 team past_due", "sub_late basic active"],
        ),
        (
            "ended",
            vec![first("ended", "price_basic"), second_one("ended", "canceled", "price_team")],
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
        // Of the same rank Stripe's counts.
        (
            "equal",
            vec![first("equal", "price_team")],
            Some("pro"),
            "team",
            vec!["sub_equal team active", "lsub pro active"],
        ),
    ] {
        house.told(org, now, events).await;
        if let Some(plan) = local {
            assert_eq!(house.local(org, "", json!({ "plan": plan, "paid": true })).await.0, 201);
        }
        let entitled = house.entitled(org).await;
        assert_eq!(entitled["plan"]["id"], plan, "{org}: {entitled}");
        let text = |one: &Value, field| one[field].as_str().expect("text").to_owned();
        let listed = entitled["paying"].as_array().expect("a list").iter().map(|one| {
            let id = text(one, "id");
            let id = if id.starts_with("lsub_") { "lsub".to_owned() } else { id };
            format!("{id} {} {}", text(one, "plan"), text(one, "status"))
        });
        assert_eq!(listed.collect::<Vec<_>>(), paying, "{org}");
    }
    let doctor = house.database.command(&["doctor"]).output().expect("it runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let found = doctor.lines().find(|line| line.contains(" plans: ")).expect("a line");
    // By the machine's clock, in November, Stripe's grace and the local months are over.
    assert!(found.starts_with("note plans: 1 org(s) have several subscriptions"), "{found}");
    assert!(found.contains("no plan is the default one"), "{found}");

    let mut paused = items("one", "active", &[month("price_pro")]);
    paused["pause_collection"] = json!({ "behavior": "void", "resumes_at": second("2026-07-01T00:00:00Z") });
    let told = event("evt_pause", "customer.subscription.updated", second(now) + 60, paused);
    assert_eq!(house.entitled("one").await["subscription"]["pause_collection"], Value::Null);
    house.daemon.deliver_at(&told, second(now)).await;
    house.daemon.projected().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let entitled = house.entitled("one").await;
    assert_eq!(entitled["plan"]["id"], "pro", "a pause does not end it");
    let pause = json!({ "behavior": "void", "resumes_at": "2026-07-01T00:00:00Z" });
    assert_eq!(entitled["subscription"]["pause_collection"], pause);
}

/// Orgs without a plan have the default one: its limits hold.
#[tokio::test]
async fn orgs_without_a_plan_have_the_default_one() {
    let now = "2026-05-20T12:00:00Z";
    let house = House::at(now).await;
    let file = |default: &str| {
        format!(
            "[[plans]]\nid = \"free\"\nname = \"Free\"\ndefault = {}\nfeatures = [\"export\", \"sso\"]\n
             quotas = [{{ meter = \"meter-1\", period = \"month\", limit = 3 }}]\n
             [[plans]]\nid = \"pro\"\nname = \"Pro\"\ndefault = {}\n
             stripe_prices = [\"price_pro\"]\nfeatures = {{ seats = 5 }}\n",
            default == "free",
            default == "pro",
        )
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("plans.toml");
    let apply = |default: &str| {
        std::fs::write(&path, file(default)).expect("written");
        house.database.run(&["plans", "apply", path.to_str().expect("a path"), "--yes"]);
    };
    apply("free");
    let month = [("price_pro", "2026-05-12T00:00:00Z", "2026-06-12T00:00:00Z")];
    let told = |org, status| vec![("customer.subscription.updated", items(org, status, &month))];
    house.told("new", now, vec![]).await;
    house.told("paying", now, told("paying", "active")).await;
    house.told("cancelled", now, told("cancelled", "canceled")).await;
    house.told("never", now, told("never", "incomplete_expired")).await;
    house.told("expired", now, vec![]).await;
    house.local("expired", "", json!({ "plan": "pro", "trial_days": 1 })).await;
    assert_eq!(house.entitled("expired").await["plan"]["id"], "pro");
    house.clock.turn("2026-05-21T12:00:00Z");
    for org in ["new", "cancelled", "never", "expired"] {
        let entitled = house.entitled(org).await;
        assert_eq!(
            entitled["plan"],
            json!({ "id": "free", "name": "Free", "version": 1, "default": true }),
            "{org}"
        );
        assert_eq!(entitled["features"], json!(["export", "sso"]), "{org}");
        let reserve = |amount| json!({ "org": org, "meter": "meter-1", "amount": amount });
        assert_eq!(house.ask(Method::POST, "/v1/quota/reserve", reserve(4)).await.0, 409, "{org}");
        assert_eq!(house.ask(Method::POST, "/v1/quota/reserve", reserve(3)).await.0, 201, "{org}");
        let (_, listed) = house.daemon.get(&format!("/v1/orgs/{org}"), &house.key).await;
        assert_eq!(listed["plan"], "free", "{org}");
    }
    let paying = house.entitled("paying").await;
    assert_eq!((&paying["plan"]["default"], &paying["features"]), (&json!(false), &json!({ "seats": 5 })));
    // One at most; within a file it may go from one to another.
    let (status, refused) =
        house.ask(Method::PUT, "/v1/plans/third", json!({ "name": "Third", "default": true })).await;
    assert_eq!((status, &refused["code"]), (409, &json!("default_taken")), "{refused}");
    apply("pro");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(house.entitled("new").await["plan"]["id"], "pro");
    let doctor = house.database.command(&["doctor"]).output().expect("it runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("ok   plans: orgs without a plan have `pro`"), "{doctor}");
    for (features, why) in [(json!("sso"), "a text"), (json!([1]), "numbers")] {
        let body = json!({ "name": "Free", "features": features });
        let (status, refused) = house.ask(Method::PUT, "/v1/plans/free", body).await;
        assert_eq!((status, &refused["field"]), (400, &json!("features")), "{why}: {refused}");
    }
}

/// What was paid for may end before the plan does; who pays late pays for that. A trial is had once.
#[tokio::test]
async fn local_subscriptions_have_days_of_grace_and_one_trial() {
    let house = House::at("2026-03-01T10:00:00Z").await;
    house.plan("pro", json!({ "name": "Pro", "grace_days": 5, "trial_days": 10 })).await;
    house.plan("basic", json!({ "name": "Basic", "trial_days": 10 })).await;
    for org in ["late", "leaves", "trial"] {
        house.daemon.org(&house.key, org, "UTC").await;
    }
    let stands = async |org: &str| {
        let entitled = house.entitled(org).await;
        let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
        [&entitled["plan"]["id"], &entitled["subscription"]["status"], &entitled["plan_until"]]
            .map(text)
            .join(" ")
    };
    for org in ["late", "leaves"] {
        assert_eq!(house.local(org, "", json!({ "plan": "pro", "paid": true })).await.0, 201);
    }
    house.local("leaves", "/cancel", json!({ "at_period_end": true })).await;
    assert_eq!(house.local("trial", "", json!({ "plan": "pro" })).await.0, 201);
    // The trial ends on 11 March, its grace on the 16th.
    house.clock.turn("2026-03-16T09:59:59Z");
    assert_eq!(stands("trial").await, "pro past_due 2026-03-16T10:00:00Z");
    house.clock.turn("2026-03-16T10:00:00Z");
    assert_eq!(stands("trial").await, "none expired none");
    house.clock.turn("2026-04-01T09:59:59Z");
    assert_eq!(stands("late").await, "pro active 2026-04-06T10:00:00Z");
    assert_eq!(stands("leaves").await, "pro active 2026-04-01T10:00:00Z");
    house.clock.turn("2026-04-01T10:00:00Z");
    assert_eq!(stands("late").await, "pro past_due 2026-04-06T10:00:00Z");
    assert_eq!(stands("leaves").await, "none cancelled none");
    // Paid on the third day of grace: from the end of what was paid for, in the period that runs since then.
    house.clock.turn("2026-04-04T00:00:00Z");
    let (status, paid) = house.local("late", "/activate", json!({})).await;
    assert_eq!((status, &paid["valid_until"]), (200, &json!("2026-05-01T10:00:00Z")), "{paid}");
    assert_eq!(stands("late").await, "pro active 2026-05-06T10:00:00Z");
    let entitled = house.entitled("late").await;
    assert_eq!(entitled["subscription"]["current_period_start"], "2026-04-01T10:00:00Z");
    // Cancelled within the next grace: at once, whatever is asked.
    house.clock.turn("2026-05-02T00:00:00Z");
    let (status, left) = house.local("late", "/cancel", json!({ "at_period_end": true })).await;
    assert_eq!((status, &left["ended_at"]), (200, &json!("2026-05-02T00:00:00Z")), "{left}");
    assert_eq!(stands("late").await, "none cancelled none");

    // One trial of each plan, also where it was changed since; another one must be forced.
    let start = async |org: &str, body: Value| {
        let (status, answered) = house.local(org, "", body).await;
        if status == 201 {
            assert_eq!(house.local(org, "/cancel", json!({ "at_period_end": false })).await.0, 200);
        }
        (status, answered["code"].as_str().unwrap_or_default().to_owned())
    };
    let used = (409, "trial_used".to_owned());
    let begun = (201, String::new());
    assert_eq!(start("trial", json!({ "plan": "pro" })).await, used);
    assert_eq!(start("trial", json!({ "plan": "pro", "trial_days": 3 })).await, used);
    assert_eq!(start("trial", json!({ "plan": "pro", "paid": true })).await, begun);
    assert_eq!(start("trial", json!({ "plan": "pro", "trial_days": 3, "force": true })).await, begun);
    assert_eq!(start("late", json!({ "plan": "pro" })).await, begun, "it was paid for, but never on trial");
    assert_eq!(house.local("late", "", json!({ "plan": "basic" })).await.0, 201);
    assert_eq!(house.local("late", "/change", json!({ "plan": "pro" })).await.0, 200);
    assert_eq!(house.local("late", "/cancel", json!({ "at_period_end": false })).await.0, 200);
    assert_eq!(start("late", json!({ "plan": "basic" })).await, used);
    // One at Stripe counts as well.
    house.plan("team", json!({ "name": "Team", "trial_days": 10, "stripe_prices": ["price_team"] })).await;
    let mut tried =
        items("bought", "canceled", &[("price_team", "2026-04-01T00:00:00Z", "2026-04-11T00:00:00Z")]);
    tried["trial_start"] = second("2026-04-01T00:00:00Z").into();
    tried["trial_end"] = second("2026-04-11T00:00:00Z").into();
    house.told("bought", "2026-05-02T00:00:00Z", vec![("customer.subscription.deleted", tried)]).await;
    assert_eq!(start("bought", json!({ "plan": "team" })).await, used);
    assert_eq!(start("bought", json!({ "plan": "basic" })).await, begun);
}

/// Two daemons on one database: what one of them is told holds on the other within a second.
#[tokio::test]
async fn a_change_counts_within_a_second_on_every_daemon() {
    let database = Database::new();
    database.meter(1, "tokens", "sum", "", None);
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let key = database.key(KEYS, None);
    for (id, limit, default) in [("free", json!(1), true), ("pro", json!(null), false)] {
        let quotas = json!([{ "meter": "meter-1", "period": "day", "limit": limit }]);
        let body = json!({ "name": id, "quotas": quotas, "default": default,
            "stripe_prices": [format!("price_{id}")] });
        let put = daemons[0].request(Method::PUT, &format!("/v1/plans/{id}"), &key).json(&body);
        assert_eq!(answer(put).await.0, 200);
    }
    daemons[0].org(&key, "acme", "UTC").await;
    daemons[0].deliver(&event("evt_c", "customer.created", 1, customer("cus_1", Some("acme")))).await;
    daemons[0].projected().await;
    // Whether five tokens fit, as this daemon says.
    let fits = async |daemon: &Daemon| {
        let ask = json!({ "items": [{ "org": "acme", "meter": "meter-1", "amount": 5 }] });
        let (status, answered) = daemon.post("/v1/quota/check", &key, &ask).await;
        assert_eq!(status, 200, "{answered}");
        answered["results"][0]["allowed"].as_bool().expect("a verdict")
    };
    let mut slow = Vec::new();
    let mut within = async |what: &str, expected: bool| {
        let started = Instant::now();
        loop {
            let (here, there) = (fits(&daemons[0]).await, fits(&daemons[1]).await);
            if here == expected && there == expected {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{what}: here {here}, there {there}");
        }
        if started.elapsed() > Duration::from_secs(1) {
            slow.push(format!("{what}: {:?}", started.elapsed()));
        }
    };
    within("nothing yet", false).await;
    let local = async |what: &str, body: Value| {
        let (status, told) = daemons[0].post(&format!("/v1/orgs/acme/subscription{what}"), &key, &body).await;
        assert!(status.is_success(), "{told}");
    };
    let stripe = async |n: i64, status: &str| {
        let told = subscription("sub_1", "cus_1", status, "price_pro");
        daemons[0].deliver(&event(&format!("evt_{n}"), "customer.subscription.updated", 10 + n, told)).await;
        daemons[0].projected().await;
    };
    for n in 0..4 {
        local("", json!({ "plan": "pro", "paid": true })).await;
        within("begun", true).await;
        local("/change", json!({ "plan": "free" })).await;
        within("changed", false).await;
        local("/change", json!({ "plan": "pro" })).await;
        within("changed back", true).await;
        local("/cancel", json!({ "at_period_end": false })).await;
        within("cancelled", false).await;
        local("/activate", json!({})).await;
        within("activated", true).await;
        local("/cancel", json!({ "at_period_end": false })).await;
        within("cancelled again", false).await;
        stripe(2 * n, "active").await;
        within("Stripe: active", true).await;
        stripe(2 * n + 1, "unpaid").await;
        within("Stripe: unpaid", false).await;
    }
    assert_eq!(slow, [""; 0], "these took longer than a second");
}
