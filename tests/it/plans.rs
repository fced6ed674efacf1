//! Plans: their versions and who keeps which, the plans file, the import from Stripe.

use std::io::Write;
use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write";
/// 9 October 2025, 08:53:20 UTC.
const OCTOBER: i64 = 1_760_000_000;

async fn put(daemon: &Daemon, key: &str, path: &str, body: &Value) -> (u16, Value) {
    let (status, body) = answer(daemon.request(Method::PUT, path, key).json(body)).await;
    (status.as_u16(), body)
}

fn meters(database: &Database) {
    database.meter(1, "tokens", "sum", "model", None);
    database.meter(2, "calls", "count", "", None);
    database.meter(3, "peak", "max", "", None);
}

/// What a command prints on both outputs, and whether it succeeded.
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
    let database = Database::new();
    meters(&database);
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    // What was a plan before there were versions still is one.
    let (status, plan) = put(&daemon, &key, "/v1/plans/pro", &json!({ "name": "Pro" })).await;
    assert_eq!((status, &plan["version"], &plan["battery_units"]), (200, &json!(1), &json!("0")), "{plan}");
    let mut body = json!({
        "name": "Pro", "description": "More", "metadata": { "tier": 2 }, "stripe_prices": ["price_a"],
            "stripe_products": ["prod_a"],
        "monthly": { "amount": 2000, "currency": "usd", "stripe_price": "price_m" },
            "annual": { "amount": 20000, "currency": "usd", "stripe_price": "price_y" },
        "trial_days": 14, "features": { "sso": true, "seats": 5 }, "battery_units": "1000.50",
            "annual_battery_units": 12000, "trial_battery_units": "50",
        "daily_battery": "5", "battery_debt_limit": "0",
        "quotas": [{ "meter": "meter-1", "period": "month", "limit": 10, "thresholds": [80, 100] },
            { "meter": "meter-2", "period": "day", "limit": null }],
    });
    let (status, plan) = put(&daemon, &key, "/v1/plans/pro", &body).await;
    assert_eq!((status, &plan["version"]), (200, &json!(2)), "{plan}");
    assert_eq!(plan["stripe_prices"], json!(["price_a", "price_m", "price_y"]));
    assert_eq!(
        (&plan["monthly_amount"], &plan["currency"], &plan["battery_units"], &plan["annual_battery_units"]),
        (&json!(2000), &json!("usd"), &json!("1000.5"), &json!("12000"))
    );
    assert_eq!(
        (plan["quotas"].as_array().map(Vec::len), &plan["quotas"][0]["limit"]),
        (Some(2), &json!("10"))
    );
    // The same again, told otherwise, is the same.
    body["battery_units"] = json!(1000.5);
    body["quotas"] = json!([body["quotas"][1],
        { "meter": "meter-1", "period": "month", "limit": "10.0", "thresholds": [100, "80"] }]);
    assert_eq!(put(&daemon, &key, "/v1/plans/pro", &body).await.1["version"], 2);
    // What all versions share makes none, nor does leaving the quotas out.
    body["name"] = json!("Professional");
    body.as_object_mut().expect("an object").remove("quotas");
    let (_, plan) = put(&daemon, &key, "/v1/plans/pro", &body).await;
    assert_eq!((&plan["version"], &plan["name"]), (&json!(2), &json!("Professional")));
    // A feature more is a version more, and the quotas come along.
    body["features"]["sla"] = json!("99.9");
    let (_, plan) = put(&daemon, &key, "/v1/plans/pro", &body).await;
    assert_eq!((&plan["version"], plan["quotas"].as_array().map(Vec::len)), (&json!(3), Some(2)), "{plan}");
    // In place: for everybody on the newest version, and for nobody else.
    let quotas = json!({ "quotas": [{ "meter": "meter-1", "period": "month", "limit": 99 }] });
    assert_eq!(put(&daemon, &key, "/v1/plans/pro/quotas", &quotas).await.0, 200);
    let (_, versions) = daemon.get("/v1/plans/pro/versions", &key).await;
    let told: Vec<_> = versions["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| (v["version"].as_i64(), v["trial_days"].as_i64(), v["quotas"].as_array().map(Vec::len)))
        .collect();
    assert_eq!(
        told,
        [(Some(3), Some(14), Some(1)), (Some(2), Some(14), Some(2)), (Some(1), Some(0), Some(0))]
    );
    assert_eq!(versions["versions"][0]["quotas"][0]["limit"], "99");
    // Other quotas are other terms.
    body["quotas"] = json!([]);
    assert_eq!(put(&daemon, &key, "/v1/plans/pro", &body).await.1["version"], 4);
}

#[tokio::test]
async fn what_is_wrong_with_a_plan_is_named() {
    let database = Database::new();
    meters(&database);
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    put(
        &daemon,
        &key,
        "/v1/plans/other",
        &json!({ "name": "Other", "stripe_prices": ["price_1"], "stripe_products": ["prod_1"] }),
    )
    .await;
    let money = |amount: i64, currency: &str| json!({ "amount": amount, "currency": currency });
    for (field, value, status, told) in [
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
        ("quotas", json!([{ "meter": "none", "period": "day", "limit": 1 }]), 400, "quotas.0.meter"),
        ("quotas", json!([{ "meter": "meter-3", "period": "day", "limit": 1 }]), 400, "quotas.0.meter"),
        ("quotas", json!([{ "meter": "meter-1", "period": "day", "limit": -1 }]), 400, "quotas.0.limit"),
        (
            "quotas",
            json!([{ "meter": "meter-1", "period": "day", "limit": 1 },
                { "meter": "meter-1", "period": "day", "limit": 2 }]),
            400,
            "quotas.1",
        ),
        ("stripe_prices", json!(["price_1"]), 409, ""),
        ("stripe_products", json!(["prod_1"]), 409, ""),
    ] {
        let mut body = json!({ "name": "Pro" });
        body[field] = value;
        let (got, problem) = put(&daemon, &key, "/v1/plans/pro", &body).await;
        assert_eq!((got, problem["field"].as_str().unwrap_or_default()), (status, told), "{body} {problem}");
    }
    let mixed = json!({ "name": "Pro", "monthly": money(1, "usd"), "annual": money(1, "eur") });
    assert_eq!(put(&daemon, &key, "/v1/plans/pro", &mixed).await.1["field"], "annual.currency");
    for id in ["Pro", "a%20b"] {
        assert_eq!(
            put(&daemon, &key, &format!("/v1/plans/{id}"), &json!({ "name": "x" })).await.0,
            400,
            "{id}"
        );
    }
    assert_eq!(daemon.get("/v1/plans/pro", &key).await.0, 404, "nothing is left of what failed");
    assert_eq!(daemon.get("/v1/plans/pro/versions", &key).await.0, 404);
    assert_eq!(daemon.post("/v1/plans/pro/move", &key, &json!({ "from": 1, "to": 2 })).await.0, 404);
    // An org's key reads plans and changes nothing.
    let org = daemon.org(&key, "acme", "UTC").await;
    let own = database.key("billing:read,billing:write", Some(&org));
    assert_eq!(daemon.get("/v1/plans/other/versions", &own).await.0, 200);
    for path in ["/v1/plans/other/move", "/v1/plans/import", "/v1/subscriptions/sub_1/move"] {
        assert_eq!(
            daemon.post(path, &own, &json!({ "from": 1, "to": 1, "version": 1 })).await.0,
            403,
            "{path}"
        );
    }
    assert_eq!(put(&daemon, &own, "/v1/plans/other", &json!({ "name": "Mine" })).await.0, 403);
}

/// Two versions, three buyers: what each has, whatever order the events come in, until it is moved.
#[tokio::test]
async fn buyers_keep_the_version_that_they_bought() {
    let database = Database::new();
    meters(&database);
    let stripe = Daemon::start(&database);
    let clock = TestClock::at("2025-10-15T00:00:00Z");
    let daemon = Daemon::clocked(&database, &clock);
    let key = database.key(KEYS, None);
    let body = |limit: i64| {
        json!({ "name": "Pro", "stripe_prices": ["price_pro"], "stripe_products": ["prod_x"],
            "quotas": [{ "meter": "meter-1", "period": "month", "limit": limit }] })
    };
    assert_eq!(put(&daemon, &key, "/v1/plans/pro", &body(10)).await.0, 200);
    clock.turn("2025-11-01T00:00:00Z");
    assert_eq!(put(&daemon, &key, "/v1/plans/pro", &body(20)).await.1["version"], 2);
    let day = 86_400;
    let mut orgs = Vec::new();
    for (name, created) in
        [("before", OCTOBER), ("between", OCTOBER + 10 * day), ("after", OCTOBER + 30 * day)]
    {
        orgs.push(daemon.org(&key, name, "UTC").await);
        let (cus, sub) = (format!("cus_{name}"), format!("sub_{name}"));
        stripe
            .deliver(&event(
                &format!("evt_c_{name}"),
                "customer.created",
                created,
                customer(&cus, Some(name)),
            ))
            .await;
        let object = subscription(&sub, &cus, "active", "price_pro");
        stripe
            .deliver(&event(&format!("evt_s_{name}"), "customer.subscription.created", created, object))
            .await;
    }
    stripe.projected().await;
    let versions = || async {
        let mut versions = Vec::new();
        for org in &orgs {
            let (_, org) = daemon.get(&format!("/v1/orgs/{org}"), &key).await;
            assert_eq!(org["plan"], "pro", "{org}");
            versions.push(org["plan_version"].as_i64().expect("a version"));
        }
        versions
    };
    assert_eq!(versions().await, [1, 1, 2]);
    // An event of before, which comes late and is superseded: it had the price then already.
    let object = subscription("sub_after", "cus_after", "incomplete", "price_pro");
    stripe.deliver(&event("evt_late", "customer.subscription.created", OCTOBER + 20 * day, object)).await;
    stripe.projected().await;
    assert_eq!(versions().await, [1, 1, 1]);
    assert_eq!(database.number("SELECT count(*) FROM subscription_prices"), 3);
    // Limits are those of the version.
    let limit = |org: &'static str| {
        let (daemon, key) = (&daemon, &key);
        async move {
            let ask = json!({ "items": [{ "org": org, "meter": "meter-1" }] });
            daemon.post("/v1/quota/check", key, &ask).await.1["results"][0]["quotas"][0]["limit"].clone()
        }
    };
    assert_eq!(limit("before").await, "10");
    // Moved alone, and back; then all that are left.
    let path = "/v1/subscriptions/sub_before/move";
    let (status, moved) = daemon.post(path, &key, &json!({ "plan": "pro", "version": 2 })).await;
    assert_eq!(status, 200, "{moved}");
    assert_eq!(versions().await, [2, 1, 1]);
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(limit("before").await, "20");
    assert_eq!(daemon.post(path, &key, &json!({ "plan": "pro", "version": 1 })).await.0, 200);
    assert_eq!(daemon.post(path, &key, &json!({ "plan": "pro", "version": 2 })).await.0, 200);
    let canceled = subscription("sub_between", "cus_between", "paused", "price_pro");
    stripe.deliver(&event("evt_p", "customer.subscription.updated", OCTOBER + 40 * day, canceled)).await;
    stripe.projected().await;
    let (status, moved) = daemon.post("/v1/plans/pro/move", &key, &json!({ "from": 1, "to": 2 })).await;
    assert_eq!((status.as_u16(), &moved["moved"]), (200, &json!(2)), "the paused one too: {moved}");
    let resumed = subscription("sub_between", "cus_between", "active", "price_pro");
    stripe.deliver(&event("evt_r", "customer.subscription.updated", OCTOBER + 41 * day, resumed)).await;
    stripe.projected().await;
    assert_eq!(versions().await, [2, 2, 2]);
    for (path, body, status) in [
        (path, json!({ "plan": "pro", "version": 3 }), 404),
        (path, json!({ "version": 1 }), 400),
        ("/v1/subscriptions/sub_none/move", json!({ "plan": "pro", "version": 1 }), 404),
        ("/v1/subscriptions/sub_before/move?livemode=true", json!({ "plan": "pro", "version": 1 }), 404),
        ("/v1/plans/pro/move", json!({ "from": 1, "to": 3 }), 404),
    ] {
        assert_eq!(daemon.post(path, &key, &body).await.0, status, "{path} {body}");
    }
    // What is derived can be derived anew; a wrong time is found.
    assert!(database.run(&["verify"]).is_empty());
    assert_eq!(database.run(&["dump"]).matches(r#""kind":"subscription_price""#).count(), 3);
    database.execute(
        "UPDATE subscription_prices SET since = since + interval '1 day' WHERE subscription_id = 'sub_after'",
    );
    let (ok, told, _) = output(&database, &["verify"], "");
    assert!(
        !ok && told.contains("subscription_prices sub_after price_pro in test mode: since is "),
        "{told}"
    );
    database.run(&["rebuild", "mirrors", "--yes"]);
    stripe.projected().await;
    assert!(database.run(&["verify"]).is_empty());
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
meter = "meter-1"
period = "month"
limit = 100
[[plans.quotas]]
meter = "meter-2"
period = "day"
limit = "unlimited"
"#;

#[test]
fn a_file_says_what_the_plans_are() {
    let database = Database::new();
    meters(&database);
    let apply = |file: &str, how: &str| output(&database, &["plans", "apply", "-", how], file);
    let (ok, told, _) = apply(FILE, "--dry-run");
    assert!(
        ok && told.contains("+ plan free: new") && told.contains("    battery_units: \"1000\""),
        "{told}"
    );
    assert_eq!(database.number("SELECT count(*) FROM plans"), 0, "a dry run changes nothing");
    let (ok, _, error) = output(&database, &["plans", "apply", "-"], FILE);
    assert!(!ok && error.contains("there is no terminal to ask at: say --yes"), "{error}");
    let (ok, told, error) = apply(FILE, "--yes");
    assert!(ok && told.ends_with("applied\n"), "{told}{error}");
    assert_eq!(database.number("SELECT count(*) FROM audit_log WHERE action = 'plans.apply'"), 1);
    assert_eq!(apply(FILE, "--yes").1, "nothing to do\n");
    // Terms make a version, the rest does not; what goes from one plan to another is no contradiction.
    let other = FILE
        .replace("limit = 100", "limit = 200")
        .replace("sso = true", "sso = false")
        .replace("name = \"Free\"", "name = \"Gratis\"\nstripe_products = [\"prod_pro\"]")
        .replacen(
            "battery_units = \"1000\"\nstripe_products = [\"prod_pro\"]",
            "battery_units = \"1000\"",
            1,
        );
    let (_, told, _) = apply(&other, "--dry-run");
    assert_eq!(
        told,
        "~ plan free: changes in all its versions
    name: \"Free\" → \"Gratis\"
    stripe_products: null → [\"prod_pro\"]
~ plan pro: version 2 is made; subscriptions keep the version that they bought
    stripe_products: [\"prod_pro\"] → null
    features.sso: true → false
    quotas.meter-1 per month: {\"enforcement\":\"hard\",\"limit\":\"100\",\"refuse_usage\":false,\
\"thresholds\":[]} → {\"enforcement\":\"hard\",\"limit\":\"200\",\"refuse_usage\":false,\"thresholds\":[]}
"
    );
    assert!(apply(&other, "--yes").0);
    assert_eq!(database.value("SELECT plan_id FROM plan_stripe_products").as_deref(), Some("free"));
    assert_eq!(database.number("SELECT count(*) FROM plan_versions"), 3);
    assert_eq!(database.number("SELECT sum(limit_quantity) FROM plan_quotas WHERE version = 1"), 100);
    // What the file does not name is left alone, and said.
    let (ok, told, _) = apply("[[plans]]\nid = \"new\"\nname = \"New\"\n", "--yes");
    assert!(
        ok && told.starts_with("left alone, for - does not name them: free, pro\n+ plan new: new\n"),
        "{told}"
    );
    // One that is wrong keeps the others from being applied.
    let wrong = "[[plans]]\nid = \"a\"\nname = \"A\"\n[[plans]]\nid = \"b\"\nname = \
        \"B\"\n[[plans.quotas]]\nmeter = \"none\"\nperiod = \"day\"\nlimit = 1\n";
    let (ok, _, error) = apply(wrong, "--yes");
    assert!(!ok && error.contains("plan b: quotas.0.meter: `none` is no meter"), "{error}");
    let (ok, _, error) = apply("[[plans]]\nid = \"a\"\nname = \"A\"\ncolour = 1\n", "--yes");
    assert!(!ok && error.contains("-: plan a: colour: is no field here"), "{error}");
    let taken = "[[plans]]\nid = \"a\"\nname = \"A\"\n[[plans]]\nid = \"b\"\nname = \"B\"\nstripe_prices = \
        [\"price_m\"]\n";
    let (ok, _, error) = apply(taken, "--yes");
    assert!(
        !ok && error.contains("plan b: one of stripe_prices buys another plan"),
        "the price buys pro: {error}"
    );
    assert_eq!(database.number("SELECT count(*) FROM plans"), 3, "all or nothing");
}

fn product(id: &str, created: i64, metadata: Value) -> Value {
    let object = json!({ "id": id, "object": "product", "name": format!("Product \
        {id}"), "active": true, "created": created, "livemode": false,
        "default_price": null, "metadata": metadata });
    event(&format!("evt_{id}_{created}"), "product.updated", created, object)
}

fn price(id: &str, product: &str, amount: i64, interval: &str, created: i64, active: bool) -> Value {
    let object = json!({ "id": id, "object": "price", "product": product, "active": active,
        "type": "recurring", "billing_scheme": "per_unit",
        "currency": "usd", "unit_amount": amount, "unit_amount_decimal": amount.to_string(),
            "created": created, "livemode": false, "metadata": {},
        "recurring": { "interval": interval, "interval_count": 1, "usage_type": "licensed" } });
    event(&format!("evt_{id}"), "price.created", created, object)
}

#[tokio::test]
async fn plans_come_out_of_stripe() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key(KEYS, None);
    let metadata = json!({ "coulomb_plan": "pro", "battery_units": "1000.5", "daily_battery": "5",
        "battery_debt_limit": "10", "trial_days": "7",
        "feature_sso": "true", "feature_seats": "5", "feature_support": "mail", "other": "x" });
    let events = [
        product("prod_1", 1, metadata.clone()),
        product("prod_2", 1, json!({})),
        price("price_old", "prod_1", 1000, "month", 1, true),
        price("price_m", "prod_1", 2000, "month", 2, true),
        price("price_gone", "prod_1", 3000, "month", 3, false),
        price("price_y", "prod_1", 20000, "year", 2, true),
        price("price_w", "prod_1", 500, "week", 2, true),
        price("price_2", "prod_2", 1, "month", 2, true),
    ];
    daemon.deliver_all(&events).await;
    daemon.projected().await;
    let (status, would) = daemon.post("/v1/plans/import", &key, &json!({ "dry_run": true })).await;
    assert_eq!(
        (status.as_u16(), &would["applied"], &would["changes"][0]["plan"]),
        (200, &json!(false), &json!("pro")),
        "{would}"
    );
    assert_eq!(daemon.get("/v1/plans/pro", &key).await.0, 404);
    let (_, done) = daemon.post("/v1/plans/import", &key, &json!({})).await;
    assert_eq!((&done["applied"], &done["changes"]), (&json!(true), &would["changes"]));
    let (_, plan) = daemon.get("/v1/plans/pro", &key).await;
    assert_eq!(
        (
            &plan["name"],
            &plan["monthly_amount"],
            &plan["annual_amount"],
            &plan["currency"],
            &plan["battery_units"],
            &plan["trial_days"]
        ),
        (&json!("Product prod_1"), &json!(2000), &json!(20000), &json!("usd"), &json!("1000.5"), &json!(7))
    );
    assert_eq!(plan["features"], json!({ "sso": true, "seats": 5, "support": "mail" }));
    assert_eq!(
        (&plan["stripe_prices"], &plan["stripe_products"]),
        (&json!(["price_m", "price_y"]), &json!(["prod_1"]))
    );
    assert_eq!(daemon.post("/v1/plans/import", &key, &json!({})).await.1["changes"], json!([]));
    assert_eq!(database.run(&["plans", "import-stripe", "--yes"]), "nothing to do\n");
    assert_eq!(database.run(&["plans", "import-stripe", "--live", "--yes"]), "nothing to do\n");
    // What the product says no longer stays; what it says otherwise is a version.
    let mut other = metadata.clone();
    other["daily_battery"] = json!("6");
    other.as_object_mut().expect("an object").remove("trial_days");
    daemon.deliver(&product("prod_1", 5, other)).await;
    daemon.projected().await;
    let told = database.run(&["plans", "import-stripe", "--yes"]);
    assert!(
        told.contains("version 2 is made") && told.contains("daily_battery: \"5\" → \"6\"\napplied"),
        "{told}"
    );
    assert_eq!(daemon.get("/v1/plans/pro", &key).await.1["trial_days"], 7);
    // What cannot be read names product, key and rule, and nothing is done.
    let wrong = [
        product("prod_1", 6, json!({ "coulomb_plan": "pro", "battery_units": "many", "trial_days": "1.5" })),
        product("prod_3", 6, json!({ "coulomb_plan": "pro" })),
        product("prod_4", 6, json!({ "coulomb_plan": "Pro!" })),
        product("prod_5", 6, json!({ "coulomb_plan": "max" })),
    ];
    daemon.deliver_all(&wrong).await;
    daemon.projected().await;
    let (status, problem) = daemon.post("/v1/plans/import", &key, &json!({})).await;
    assert_eq!(
        (status.as_u16(), &problem["field"]),
        (400, &json!("prod_1.metadata.battery_units")),
        "{problem}"
    );
    let (ok, told, _) = output(&database, &["plans", "import-stripe", "--yes"], "");
    assert!(!ok);
    for line in [
        "product prod_1: metadata battery_units: is `many`, but must be a decimal of 0 or more such as 12.5",
        "product prod_1: metadata trial_days: is `1.5`, but must be a whole number from 0 to 730",
        "product prod_3: metadata coulomb_plan: is `pro`, as that of prod_1: one product sells a plan",
        "product prod_4: metadata coulomb_plan: must be 1 to 64 of",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert_eq!(daemon.get("/v1/plans/max", &key).await.0, 404);
}
