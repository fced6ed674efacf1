//! Plans: their versions and which orgs keep which, the plans file, the import from Stripe.

use std::io::Write;
use std::process::Stdio;

use expect_test::expect;
use serde_json::{Value, json};

use crate::support::objects::{DAY, Event, OCTOBER, Object, customer, price, product, subscription};
use crate::support::requests::{check, limit, meter, plan, plan_limits, request};
use crate::support::world::Setup;
use crate::support::{Daemon, Database, World};

/// A platform with the meters `tokens` (sum), `calls` (count) and `peak` (max).
fn platform() -> Setup {
    World::new()
        .with(meter("tokens").dimensions(["model"]))
        .with(meter("calls").aggregation("count"))
        .with(meter("peak").aggregation("max"))
}

/// Whether a command succeeded, and what it prints on both outputs.
fn output(database: &Database, args: &[&str], input: &str) -> (bool, String, String) {
    let mut child = database
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the coulomb binary runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let done = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (done.status.success(), text(done.stdout), text(done.stderr))
}

#[tokio::test]
async fn other_terms_make_a_new_version() {
    let world = platform().start().await;
    // A plan from before there were versions is still a plan.
    let put = world.send(plan("pro").name("Pro")).await.status(200);
    assert_eq!(put.pick(["version", "battery_units"]), json!([1, "0"]));
    let month = limit(10).period("month").with("thresholds", json!([80, 100]));
    let day = limit(Value::Null).meter("calls");
    let pro = plan("pro")
        .name("Pro")
        .with("description", "More")
        .with("metadata.tier", 2)
        .prices(["price_a"])
        .with("stripe_products", json!(["prod_a"]))
        .with("monthly", json!({ "amount": 2000, "currency": "usd", "stripe_price": "price_m" }))
        .with("annual", json!({ "amount": 20000, "currency": "usd", "stripe_price": "price_y" }))
        .with("trial_days", 14)
        .with("features", json!({ "sso": true, "seats": 5 }))
        .with("battery_units", "1000.50")
        .with("annual_battery_units", 12000)
        .with("trial_battery_units", "50")
        .with("daily_battery", "5")
        .with("battery_debt_limit", "0");
    let put = world.send(pro.clone().limits([month.clone(), day.clone()])).await.status(200);
    put.shows_without(
        &["created_at"],
        expect![[r#"
        {
          "active": true, "annual_amount": 20000, "annual_battery_units": "12000",
          "battery_debt_limit": "0", "battery_units": "1000.5", "currency": "usd",
          "daily_battery": "5", "default": false, "description": "More",
          "features": { "seats": 5, "sso": true }, "grace_days": 0, "id": "pro",
          "metadata": { "tier": 2 }, "monthly_amount": 2000, "name": "Pro",
          "quotas": [
            {
              "enforcement": "hard", "filter": {}, "limit": "10", "meter": "tokens",
              "per_subject": false, "period": "month", "refuse_usage": false,
              "thresholds": ["80", "100"]
            },
            {
              "enforcement": "hard", "filter": {}, "limit": null, "meter": "calls",
              "per_subject": false, "period": "day", "refuse_usage": false, "thresholds": []
            }
          ],
          "rank": 0, "stripe_prices": ["price_a", "price_m", "price_y"],
          "stripe_products": ["prod_a"], "trial_battery_units": "50", "trial_days": 14,
          "version": 2
        }"#]],
    );
    // The same terms, written in another way, make no new version.
    let otherwise = month.with("limit", "10.0").with("thresholds", json!([100, "80"]));
    let again = pro.clone().with("battery_units", 1000.5).limits([day, otherwise]);
    assert_eq!(world.send(again).await["version"], 2);
    // A field that all versions share makes no new version, and neither does leaving out the quotas.
    let renamed = pro.name("Professional");
    let put = world.send(renamed.clone()).await;
    assert_eq!(put.pick(["version", "name"]), json!([2, "Professional"]));
    // One more feature makes a new version, which keeps the quotas.
    let more = renamed.with("features.sla", "99.9");
    let put = world.send(more.clone()).await;
    assert_eq!((&put["version"], put.list("quotas").len()), (&json!(3), 2), "{put}");
    // In place: for every org on the newest version, and for no other.
    world.send(plan_limits("pro", [limit(99).period("month")])).await.status(200);
    let versions = world.get("/v1/plans/pro/versions").await;
    let told = versions.list("versions").iter().map(|version| {
        let quotas = version["quotas"].as_array().map(Vec::len);
        json!([version["version"], version["trial_days"], quotas])
    });
    assert_eq!(told.collect::<Value>(), json!([[3, 14, 1], [2, 14, 2], [1, 0, 0]]));
    assert_eq!(versions.at("versions.0.quotas.0.limit"), "99");
    // Other quotas make a new version.
    assert_eq!(world.send(more.limits([])).await["version"], 4);
}

#[tokio::test]
async fn what_is_wrong_with_a_plan_is_named() {
    let taken = plan("other").prices(["price_1"]).with("stripe_products", json!(["prod_1"]));
    let world = platform().with(taken).start().await;
    let money = |amount: i64, currency: &str| json!({ "amount": amount, "currency": currency });
    let quotas = |limits: &[crate::support::requests::Request]| {
        limits.iter().map(|limit| limit.body.clone()).collect::<Value>()
    };
    for (field, value, status, named) in [
        ("trial_days", json!(731), 400, "trial_days"),
        ("monthly", money(-1, "usd"), 400, "monthly.amount"),
        ("monthly", money(1, "USD"), 400, "currency"),
        ("battery_units", json!("-1"), 400, "battery_units"),
        ("battery_units", json!("1e400"), 400, "battery_units"),
        ("daily_battery", json!("NaN"), 400, "daily_battery"),
        ("features", json!("sso"), 400, "features"),
        ("features", json!(["sso", 1]), 400, "features"),
        ("features", json!(["sso", "\u{0}"]), 400, "features.1"),
        ("grace_days", json!(-1), 400, "grace_days"),
        ("grace_days", json!(366), 400, "grace_days"),
        ("rank", json!(1.5), 400, "rank"),
        ("colour", json!("red"), 400, "colour"),
        ("name", json!(" "), 400, "name"),
        ("features", json!({ "a": "\u{0}" }), 400, "features.a"),
        ("quotas", quotas(&[limit(1).meter("none")]), 400, "quotas.0.meter"),
        ("quotas", quotas(&[limit(1).meter("peak")]), 400, "quotas.0.meter"),
        ("quotas", quotas(&[limit(-1)]), 400, "quotas.0.limit"),
        ("quotas", quotas(&[limit(1), limit(2)]), 400, "quotas.1"),
        ("stripe_prices", json!(["price_1"]), 409, ""),
        ("stripe_products", json!(["prod_1"]), 409, ""),
    ] {
        world.send(plan("pro").with(field, value)).await.names(status, named);
    }
    let mixed = plan("pro").with("monthly", money(1, "usd")).with("annual", money(1, "eur"));
    assert_eq!(world.send(mixed).await["field"], "annual.currency");
    for id in ["Pro", "a%20b"] {
        world.send(plan(id)).await.status(400);
    }
    // A failed command leaves nothing behind.
    world.get("/v1/plans/pro").await.status(404);
    world.get("/v1/plans/pro/versions").await.status(404);
    world.post("/v1/plans/pro/move", json!({ "from": 1, "to": 2 })).await.status(404);
}

#[tokio::test]
async fn an_orgs_key_reads_plans_and_changes_nothing() {
    let world = platform().org("acme").with(plan("other")).start().await;
    let key = world.database.key("billing:read,billing:write", Some("acme"));
    let own = world.by(&key);
    own.get("/v1/plans/other/versions").await.status(200);
    for path in ["/v1/plans/other/move", "/v1/plans/import", "/v1/subscriptions/sub_1/move"] {
        own.post(path, json!({ "from": 1, "to": 1, "version": 1 })).await.status(403);
    }
    own.send(plan("other").name("Mine")).await.status(403);
}

/// The versions of `pro` that these orgs have.
async fn versions(world: &World, orgs: [&str; 3]) -> [i64; 3] {
    let mut versions = [0; 3];
    for (version, org) in versions.iter_mut().zip(orgs) {
        let org = world.get(&format!("/v1/orgs/{org}")).await;
        assert_eq!(org["plan"], "pro", "{org}");
        *version = org["plan_version"].as_i64().expect("a version");
    }
    versions
}

/// The subscription of this org, as Stripe sends it.
fn bought(org: &str, status: &str) -> Object {
    subscription(&format!("sub_{org}")).customer(&format!("cus_{org}")).status(status)
}

/// Two versions, the second from November, and three buyers; the last one bought after that.
async fn two_versions() -> (World, Daemon) {
    let terms = |most: i64| {
        let quota = limit(most).period("month");
        plan("pro").prices(["price_pro"]).with("stripe_products", json!(["prod_x"])).limits([quota])
    };
    let setup = platform().at("2025-10-15T00:00:00Z").org("before").org("between").org("after");
    let world = setup.with(terms(10)).start().await;
    world.turn("2025-11-01T00:00:00Z");
    assert_eq!(world.send(terms(20)).await["version"], 2);
    // This daemon uses the real clock.
    let stripe = Daemon::start(&world);
    for (org, second) in [("before", OCTOBER), ("between", OCTOBER + 10 * DAY), ("after", OCTOBER + 30 * DAY)]
    {
        stripe.deliver(&customer(&format!("cus_{org}")).org(org).created_event().at(second).json()).await;
        stripe.deliver(&bought(org, "active").created_event().at(second).json()).await;
    }
    stripe.projected().await;
    (world, stripe)
}

/// Each buyer keeps its version in any order of the events, until it is moved.
#[tokio::test]
async fn buyers_keep_the_version_that_they_bought() {
    let (world, stripe) = two_versions().await;
    let orgs = ["before", "between", "after"];
    let tell = async |event: Event| {
        stripe.deliver(&event.json()).await;
        stripe.projected().await;
    };
    assert_eq!(versions(&world, orgs).await, [1, 1, 2]);
    // An earlier event that comes late and loses: it shows that the price is older.
    let late = bought("after", "incomplete").created_event().id("evt_late");
    tell(late.at(OCTOBER + 20 * DAY)).await;
    assert_eq!(versions(&world, orgs).await, [1, 1, 1]);
    assert_eq!(world.number("SELECT count(*) FROM subscription_prices"), 3);
    // The limits are those of the version.
    let most = async |org: &str| world.check(check().org(org)).await.at("quotas.0.limit").clone();
    assert_eq!(most("before").await, "10");
    // First one is moved, and back; then all the others.
    let to = |version: i64| {
        let body = json!({ "plan": "pro", "version": version });
        world.post("/v1/subscriptions/sub_before/move", body)
    };
    to(2).await.status(200);
    assert_eq!(versions(&world, orgs).await, [2, 1, 1]);
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(most("before").await, "20");
    to(1).await.status(200);
    to(2).await.status(200);
    let updated = "customer.subscription.updated";
    tell(bought("between", "paused").happened(updated).id("evt_p").at(OCTOBER + 40 * DAY)).await;
    let moved = world.post("/v1/plans/pro/move", json!({ "from": 1, "to": 2 })).await.status(200);
    assert_eq!(moved["moved"], 2, "the paused subscription moves too");
    tell(bought("between", "active").happened(updated).id("evt_r").at(OCTOBER + 41 * DAY)).await;
    assert_eq!(versions(&world, orgs).await, [2, 2, 2]);
    assert!(world.run(&["verify"]).is_empty());
}

#[tokio::test]
async fn what_cannot_be_moved_is_named() {
    let (world, _stripe) = two_versions().await;
    let path = "/v1/subscriptions/sub_before/move";
    let pro = json!({ "plan": "pro", "version": 1 });
    for (path, body, status) in [
        (path, json!({ "plan": "pro", "version": 3 }), 404),
        (path, json!({ "version": 1 }), 400),
        ("/v1/subscriptions/sub_none/move", pro.clone(), 404),
        ("/v1/subscriptions/sub_before/move?livemode=true", pro, 404),
        ("/v1/plans/pro/move", json!({ "from": 1, "to": 3 }), 404),
    ] {
        world.post(path, body).await.status(status);
    }
}

/// Derived times can be rebuilt, and `verify` finds a wrong one.
#[tokio::test]
async fn the_times_of_purchases_are_verified_and_rebuilt() {
    let (world, stripe) = two_versions().await;
    assert!(world.run(&["verify"]).is_empty());
    assert_eq!(world.run(&["dump"]).matches(r#""kind":"subscription_price""#).count(), 3);
    world.execute(
        "UPDATE subscription_prices SET since = since + interval '1 day' WHERE subscription_id = 'sub_after'",
    );
    let (ok, told, _) = output(&world, &["verify"], "");
    let difference = "subscription_prices sub_after price_pro in test mode: since is ";
    assert!(!ok && told.contains(difference), "{told}");
    world.run(&["rebuild", "mirrors", "--yes"]);
    stripe.projected().await;
    assert!(world.run(&["verify"]).is_empty());
}

const FILE: &str = r#"
[[plans]]
id = "free"
name = "Free"
daily_battery = 5
battery_debt_limit = 0

[[plans]]
id = "pro"
name = "Pro"
trial_days = 14
battery_units = "1000"
stripe_products = ["prod_pro"]
monthly = { amount = 2000, currency = "usd", stripe_price = "price_m" }
annual = { amount = 20000, currency = "usd", stripe_price = "price_y" }
[plans.features]
sso = true
[[plans.quotas]]
meter = "tokens"
period = "month"
limit = 100
[[plans.quotas]]
meter = "calls"
period = "day"
limit = "unlimited"
"#;

#[tokio::test]
async fn a_file_says_what_the_plans_are() {
    let world = platform().start().await;
    let apply = |file: &str, how: &str| output(&world, &["plans", "apply", "-", how], file);
    let (ok, told, _) = apply(FILE, "--dry-run");
    assert!(ok && told.contains("+ plan free: new"), "{told}");
    assert!(told.contains("    battery_units: \"1000\""), "{told}");
    assert_eq!(world.number("SELECT count(*) FROM plans"), 0, "a dry run changes nothing");
    let (ok, _, error) = output(&world, &["plans", "apply", "-"], FILE);
    assert!(!ok && error.contains("there is no terminal to ask at: say --yes"), "{error}");
    let (ok, told, error) = apply(FILE, "--yes");
    assert!(ok && told.ends_with("applied\n"), "{told}{error}");
    assert_eq!(world.number("SELECT count(*) FROM audit_log WHERE action = 'plans.apply'"), 1);
    assert_eq!(apply(FILE, "--yes").1, "nothing to do\n");
    // Changed terms make a version, other changes do not. A product may move from one plan to another in a
    // file.
    let sold = "battery_units = \"1000\"\nstripe_products = [\"prod_pro\"]";
    let other = FILE
        .replace("limit = 100", "limit = 200")
        .replace("sso = true", "sso = false")
        .replace("name = \"Free\"", "name = \"Gratis\"\nstripe_products = [\"prod_pro\"]")
        .replacen(sold, "battery_units = \"1000\"", 1);
    assert_eq!(
        apply(&other, "--dry-run").1,
        "~ plan free: changes in all its versions
    name: \"Free\" → \"Gratis\"
    stripe_products: null → [\"prod_pro\"]
~ plan pro: version 2 is made; subscriptions keep the version that they bought
    stripe_products: [\"prod_pro\"] → null
    features.sso: true → false
    quotas.tokens per month: {\"enforcement\":\"hard\",\"limit\":\"100\",\"refuse_usage\":false,\
\"thresholds\":[]} → {\"enforcement\":\"hard\",\"limit\":\"200\",\"refuse_usage\":false,\"thresholds\":[]}
"
    );
    assert!(apply(&other, "--yes").0);
    assert_eq!(world.value("SELECT plan_id FROM plan_stripe_products").as_deref(), Some("free"));
    assert_eq!(world.number("SELECT count(*) FROM plan_versions"), 3);
    assert_eq!(world.number("SELECT sum(limit_quantity) FROM plan_quotas WHERE version = 1"), 100);
    // A plan that the file does not name stays unchanged, and the output says so.
    let (ok, told, _) = apply("[[plans]]\nid = \"new\"\nname = \"New\"\n", "--yes");
    let left = "left alone, for - does not name them: free, pro\n+ plan new: new\n";
    assert!(ok && told.starts_with(left), "{told}");
}

/// If one plan is wrong, no plan of the file is applied.
#[tokio::test]
async fn a_file_is_applied_as_a_whole_or_not_at_all() {
    let world = platform().with(plan("pro").prices(["price_m"])).start().await;
    let b = "[[plans]]\nid = \"a\"\nname = \"A\"\n[[plans]]\nid = \"b\"\nname = \"B\"\n";
    let quota = "[[plans.quotas]]\nmeter = \"none\"\nperiod = \"day\"\nlimit = 1\n";
    for (file, wrong) in [
        (format!("{b}{quota}"), "plan b: quotas.0.meter: `none` is no meter"),
        (
            "[[plans]]\nid = \"a\"\nname = \"A\"\ncolour = 1\n".to_owned(),
            "-: plan a: colour: is no field here",
        ),
        (format!("{b}stripe_prices = [\"price_m\"]\n"), "plan b: one of stripe_prices buys another plan"),
    ] {
        let (ok, _, error) = output(&world, &["plans", "apply", "-", "--yes"], &file);
        assert!(!ok && error.contains(wrong), "{wrong}: {error}");
    }
    assert_eq!(world.number("SELECT count(*) FROM plans"), 1, "all or nothing");
}

/// The product `prod_1` at this second, with this metadata about a plan.
fn told(id: &str, second: i64, metadata: Value) -> Event {
    let event = product(id).metadata(metadata).happened("product.updated").at(second);
    event.id(&format!("evt_{id}_{second}"))
}

fn made(price: Object, second: i64) -> Event {
    price.created(second).created_event().at(second)
}

/// The metadata of `prod_1`.
fn terms() -> Value {
    json!({ "coulomb_plan": "pro", "battery_units": "1000.5", "daily_battery": "5",
        "battery_debt_limit": "10", "trial_days": "7",
        "feature_sso": "true", "feature_seats": "5", "feature_support": "mail", "other": "x" })
}

/// Stripe sells `prod_1` as the plan `pro`, and another product. Some of its prices do not count.
async fn shop() -> World {
    let world = World::new().start().await;
    let events = [
        told("prod_1", 1, terms()),
        told("prod_2", 1, json!({})),
        made(price("price_old", "prod_1", 1000), 1),
        made(price("price_m", "prod_1", 2000), 2),
        made(price("price_gone", "prod_1", 3000).with("active", false), 3),
        made(price("price_y", "prod_1", 20000).every("year"), 2),
        made(price("price_w", "prod_1", 500).every("week"), 2),
        made(price("price_2", "prod_2", 1), 2),
    ];
    world.tell(events).await;
    world
}

async fn import(world: &World, body: Value) -> crate::support::answer::Answer {
    world.send(request(reqwest::Method::POST, "/v1/plans/import", body)).await
}

#[tokio::test]
async fn plans_come_out_of_stripe() {
    let world = shop().await;
    let would = import(&world, json!({ "dry_run": true })).await.status(200);
    assert_eq!(would.pick(["applied", "changes.0.plan"]), json!([false, "pro"]), "{would}");
    world.get("/v1/plans/pro").await.status(404);
    let done = import(&world, json!({})).await;
    assert_eq!(done.pick(["applied", "changes"]), json!([true, would["changes"]]));
    world.get("/v1/plans/pro").await.shows_without(
        &["created_at"],
        expect![[r#"
        {
          "active": true, "annual_amount": 20000, "annual_battery_units": null,
          "battery_debt_limit": "10", "battery_units": "1000.5", "currency": "usd",
          "daily_battery": "5", "default": false, "description": null,
          "features": { "seats": 5, "sso": true, "support": "mail" }, "grace_days": 0,
          "id": "pro", "metadata": {}, "monthly_amount": 2000, "name": "Product prod_1",
          "quotas": [], "rank": 0, "stripe_prices": ["price_m", "price_y"],
          "stripe_products": ["prod_1"], "trial_battery_units": null, "trial_days": 7,
          "version": 1
        }"#]],
    );
    assert_eq!(import(&world, json!({})).await["changes"], json!([]));
    assert_eq!(world.run(&["plans", "import-stripe", "--yes"]), "nothing to do\n");
    assert_eq!(world.run(&["plans", "import-stripe", "--live", "--yes"]), "nothing to do\n");
    // Terms that the product no longer names stay; changed ones make a version.
    let mut other = terms();
    other["daily_battery"] = json!("6");
    other.as_object_mut().expect("an object").remove("trial_days");
    world.tell([told("prod_1", 5, other)]).await;
    let told = world.run(&["plans", "import-stripe", "--yes"]);
    assert!(told.contains("version 2 is made"), "{told}");
    assert!(told.contains("daily_battery: \"5\" → \"6\"\napplied"), "{told}");
    assert_eq!(world.get("/v1/plans/pro").await["trial_days"], 7);
}

/// If the metadata cannot be read, the answer names product, key and rule, and nothing is done.
#[tokio::test]
async fn a_plan_of_stripe_that_cannot_be_read_is_named() {
    let world = shop().await;
    world
        .tell([
            told("prod_1", 6, json!({ "coulomb_plan": "pro", "battery_units": "many", "trial_days": "1.5" })),
            told("prod_3", 6, json!({ "coulomb_plan": "pro" })),
            told("prod_4", 6, json!({ "coulomb_plan": "Pro!" })),
            told("prod_5", 6, json!({ "coulomb_plan": "max" })),
        ])
        .await;
    import(&world, json!({})).await.names(400, "prod_1.metadata.battery_units");
    let (ok, told, _) = output(&world, &["plans", "import-stripe", "--yes"], "");
    assert!(!ok);
    for line in [
        "product prod_1: metadata battery_units: is `many`, but must be a decimal of 0 or more such as 12.5",
        "product prod_1: metadata trial_days: is `1.5`, but must be a whole number from 0 to 730",
        "product prod_3: metadata coulomb_plan: is `pro`, as that of prod_1: one product sells a plan",
        "product prod_4: metadata coulomb_plan: must be 1 to 64 of",
    ] {
        assert!(told.contains(line), "{told}");
    }
    world.get("/v1/plans/max").await.status(404);
}
