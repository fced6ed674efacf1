//! Effects that wait, and happen once when what was missing appears.

use reqwest::Method;
use serde_json::{Value, json};

use super::build::{Line, Run, month, part, start};
use super::{battery, differences, furnish, unsound};
use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

fn one(source: &str, amount: &str) -> Vec<(String, String, String)> {
    vec![(source.to_owned(), amount.to_owned(), amount.to_owned())]
}

async fn waiting(daemon: &Daemon, key: &str) -> Vec<Value> {
    let (status, page) = daemon.get("/v1/battery/effects/waiting", key).await;
    assert_eq!(status, 200, "{page}");
    page["data"].as_array().expect("rows").clone()
}

fn reasons(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["reason"].as_str().expect("a reason")).collect()
}

#[tokio::test]
async fn what_has_no_org_happens_once_it_has() {
    let database = Database::new();
    furnish(&database, &["there".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:read,billing:write", None);
    let paid = |tag: &str| {
        let run = Run { tag: tag.to_owned() };
        [
            run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
            run.invoice_payment("a", 2000),
            run.refund("1", "a", 1000, "succeeded", 0),
        ]
    };
    // The customer of the first names an org that is not made yet; of the second there is no word.
    daemon.deliver_all(&paid("later")).await;
    daemon.deliver(&Run { tag: "later".to_owned() }.customer()).await;
    daemon.deliver_all(&paid("silent")).await;
    // No customer at all, but the session names an org.
    let run = Run { tag: "guest".to_owned() };
    let mut session = run.session("paid", None, &json!({ "battery_pack": "pack-500" }), 0);
    session["data"]["object"]["customer"] = Value::Null;
    session["data"]["object"]["client_reference_id"] = "guest".into();
    daemon.deliver(&session).await;
    daemon.projected().await;
    let rows = waiting(&daemon, &key).await;
    assert_eq!(reasons(&rows), ["no_org"; 3], "{rows:?}");
    assert_eq!(daemon.metric("coulomb_battery_effects_waiting").await, Some(3));
    assert!(database.run(&["doctor"]).contains("note payments: 3 effect(s)"));
    assert_eq!(database.number("SELECT count(*) FROM battery_grants"), 0);
    for name in ["later", "guest"] {
        daemon.org(&key, name, "UTC").await;
    }
    let there = database.value("SELECT public_id FROM orgs WHERE external_id = 'there'").expect("an org");
    let path = format!("/v1/orgs/{there}/stripe_customers/cus_silent");
    let (status, body) = answer(daemon.request(Method::PUT, &path, &key)).await;
    assert_eq!(status, 200, "{body}");
    daemon.projected().await;
    assert_eq!(battery(&database, "later").0, "500");
    assert_eq!(battery(&database, "there").0, "500");
    assert_eq!(battery(&database, "guest"), ("500".to_owned(), one("purchase", "500")));
    assert!(waiting(&daemon, &key).await.is_empty());
    // Another org of the customer changes nothing of what was granted, and takes no part in it.
    let other = database.value("SELECT public_id FROM orgs WHERE external_id = 'guest'").expect("an org");
    let path = format!("/v1/orgs/{other}/stripe_customers/cus_silent");
    answer(daemon.request(Method::PUT, &path, &key)).await;
    daemon.deliver(&Run { tag: "silent".to_owned() }.refund("2", "a", 500, "succeeded", 0)).await;
    daemon.projected().await;
    assert_eq!(
        (battery(&database, "there").0.as_str(), battery(&database, "guest").0.as_str()),
        ("250", "500")
    );
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

#[tokio::test]
async fn what_nobody_sells_happens_once_it_is_named() {
    let database = Database::new();
    furnish(&database, &["p".to_owned(), "q".to_owned(), "r".to_owned(), "s".to_owned()]);
    // One projector, so that what waits is listed in the order of its coming.
    let daemon = Daemon::with(&database, &[("COULOMB_PROJECTORS", "1")]);
    let key = database.key("admin,billing:read,billing:write", None);
    let run = |tag: &str| Run { tag: tag.to_owned() };
    for tag in ["p", "q", "r", "s"] {
        daemon.deliver(&run(tag).customer()).await;
    }
    daemon
        .deliver(&run("p").paid(
            "a",
            "subscription_create",
            0,
            &[month("price_new", 2000), month("price_free", 0)],
        ))
        .await;
    let mut by_link = run("q").session("paid", None, &json!({}), 0);
    by_link["data"]["object"]["payment_link"] = "plink_1".into();
    daemon.deliver(&by_link).await;
    daemon.deliver(&run("r").session("paid", None, &json!({ "battery_units": "-4" }), 0)).await;
    daemon.deliver(&run("s").session("paid", None, &json!({ "battery_pack": "gone" }), 0)).await;
    // Nothing was paid, so nothing waits.
    daemon.deliver(&run("t").session("unpaid", None, &json!({ "battery_pack": "pack-500" }), 0)).await;
    daemon.projected().await;
    let rows = waiting(&daemon, &key).await;
    assert_eq!(reasons(&rows), ["unknown_price", "unknown_pack", "unknown_pack", "unknown_pack"], "{rows:?}");
    assert!(rows[3]["detail"].as_str().expect("a sentence").contains("gone"));
    let lines = database.run(&["battery", "waiting", "--reason", "unknown_pack"]);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    // The plan and the pack appear.
    let plan = json!({ "name": "New", "stripe_prices": ["price_new"] });
    answer(daemon.request(Method::PUT, "/v1/plans/new", &key).json(&plan)).await;
    let pack =
        json!({ "name": "Linked", "units": "40", "expires_after_days": 30, "payment_links": ["plink_1"] });
    let (status, shown) =
        answer(daemon.request(Method::PUT, "/v1/battery/packs/linked", &key).json(&pack)).await;
    assert_eq!(
        (status.as_u16(), shown["units"].as_str(), &shown["payment_links"]),
        (200, Some("40"), &json!(["plink_1"])),
        "{shown}"
    );
    daemon.projected().await;
    assert_eq!(battery(&database, "q"), ("40".to_owned(), one("purchase", "40")));
    // The new plan has no units: its payment came to nothing, for good.
    assert_eq!(battery(&database, "p"), ("0".to_owned(), Vec::new()));
    database.execute("UPDATE plan_versions SET battery_units = 9 WHERE plan_id = 'new'");
    daemon.deliver(&run("p").credit_note("a", 1, 0, &[])).await;
    daemon.projected().await;
    assert_eq!(battery(&database, "p").0, "0");
    // A pack is assigned; the other is dismissed, and stays so.
    let rows = waiting(&daemon, &key).await;
    let id = |place: usize| rows[place]["id"].as_i64().expect("a number");
    let path = |id: i64, verb: &str| format!("/v1/battery/effects/waiting/{id}/{verb}");
    let (status, problem) = daemon.post(&path(id(0), "assign"), &key, &json!({ "pack": "nope" })).await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("pack")), "{problem}");
    let (status, _) = daemon.post(&path(id(0), "assign"), &key, &json!({ "pack": "linked" })).await;
    assert_eq!(status, 202);
    let (status, _) = daemon.post(&path(id(1), "dismiss"), &key, &json!({ "reason": "a shirt" })).await;
    assert_eq!(status, 200);
    answer(daemon.request(Method::PUT, "/v1/battery/packs/gone", &key).json(&pack_of("5"))).await;
    daemon.projected().await;
    assert_eq!(battery(&database, "r"), ("40".to_owned(), one("purchase", "40")));
    assert_eq!(battery(&database, "s"), ("0".to_owned(), Vec::new()));
    assert!(waiting(&daemon, &key).await.is_empty());
    let audited = database
        .value("SELECT json_agg(action ORDER BY audit_id) FROM audit_log WHERE action LIKE 'battery%'")
        .expect("rows");
    assert_eq!(
        audited,
        r#"["battery_pack.put", "battery_effect.assign", "battery_effect.dismiss", "battery_pack.put"]"#
    );
    let (status, _) = daemon.post(&path(id(1), "dismiss"), &key, &json!({ "reason": "again" })).await;
    assert_eq!(status, 404);
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

fn pack_of(units: &str) -> Value {
    json!({ "name": "Pack", "units": units })
}

#[tokio::test]
async fn packs_are_put_by_the_platform_alone() {
    let database = Database::new();
    furnish(&database, &["acme".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read,billing:write", None);
    let org = database.value("SELECT public_id FROM orgs").expect("an org");
    let own = database.key("billing:read", Some(&org));
    for (field, body) in [
        ("units", json!({ "name": "P", "units": "0" })),
        ("units", json!({ "name": "P", "units": "0.0000000001" })),
        ("name", json!({ "name": " ", "units": "1" })),
        ("expires_after_days", json!({ "name": "P", "units": "1", "expires_after_days": 0 })),
        ("stripe_prices.0", json!({ "name": "P", "units": "1", "stripe_prices": ["a\u{0}"] })),
        ("colour", json!({ "name": "P", "units": "1", "colour": "red" })),
    ] {
        let (status, problem) =
            answer(daemon.request(Method::PUT, "/v1/battery/packs/p", &key).json(&body)).await;
        assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some(field)), "{problem}");
    }
    for price in ["price_basic", "price_pack"] {
        let body = json!({ "name": "P", "units": "1", "stripe_prices": [price] });
        let (status, problem) =
            answer(daemon.request(Method::PUT, "/v1/battery/packs/p", &key).json(&body)).await;
        assert_eq!((status.as_u16(), problem["code"].as_str()), (409, Some("price_taken")), "{problem}");
    }
    let (status, _) =
        answer(daemon.request(Method::PUT, "/v1/battery/packs/p", &own).json(&pack_of("1"))).await;
    assert_eq!(status, 403);
    let (status, page) = daemon.get("/v1/battery/packs?active=true", &own).await;
    assert_eq!(
        (status.as_u16(), page["data"][0]["id"].as_str(), page["data"].as_array().map(Vec::len)),
        (200, Some("pack-500"), Some(1))
    );
    let (status, _) = daemon.get("/v1/battery/packs/nope", &own).await;
    assert_eq!(status, 404);
    let (status, _) = daemon.get("/v1/battery/effects/waiting", &own).await;
    assert_eq!(status, 403);
}

/// One that fails is parked with its error; its neighbours go on.
#[tokio::test]
async fn what_fails_blocks_only_itself() {
    let database = Database::new();
    furnish(&database, &["good".to_owned(), "bad".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    // Units that have no place in a decimal.
    database.execute(
        "INSERT INTO battery_packs (pack_id, name, units, expires_after_days, priority, active, created_at)
         VALUES ('huge', 'Huge', 70000000000000000000000000000, NULL, NULL, true, now())",
    );
    for tag in ["good", "bad"] {
        daemon.deliver(&Run { tag: tag.to_owned() }.customer()).await;
    }
    database.execute("UPDATE battery_effects_queue SET attempts = 4");
    let bad = Run { tag: "bad".to_owned() }.session(
        "paid",
        None,
        &json!({ "battery_pack": "huge", "quantity": "9" }),
        0,
    );
    let good =
        Run { tag: "good".to_owned() }.session("paid", None, &json!({ "battery_pack": "pack-500" }), 0);
    daemon.deliver_all(&[bad, good]).await;
    let started = std::time::Instant::now();
    while battery(&database, "good").0 != "500" {
        assert!(started.elapsed().as_secs() < 20, "the neighbour waits");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    database.execute("UPDATE battery_effects_queue SET attempts = 4, next_attempt_at = NULL");
    daemon.projected().await;
    let rows = waiting(&daemon, &key).await;
    assert_eq!(reasons(&rows), ["failed"], "{rows:?}");
    assert!(rows[0]["detail"].as_str().expect("a sentence").contains("too large"), "{rows:?}");
    database.execute("UPDATE battery_packs SET units = 2 WHERE pack_id = 'huge'");
    let path = format!("/v1/battery/effects/waiting/{}/assign", rows[0]["id"]);
    daemon.post(&path, &key, &json!({})).await;
    daemon.projected().await;
    assert_eq!(battery(&database, "bad").0, "18");
    assert!(waiting(&daemon, &key).await.is_empty());
}

/// The two other rules for a change of plan.
#[tokio::test]
async fn a_change_of_plan_goes_by_the_setting() {
    for (setting, balance) in [("difference", "3000"), ("none", "1000")] {
        let database = Database::new();
        furnish(&database, &["x".to_owned()]);
        let daemon = Daemon::with(&database, &[("COULOMB_BATTERY_PRORATION", setting)]);
        let run = Run { tag: "x".to_owned() };
        for event in [
            run.customer(),
            run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
            // Up: 3000 − 1000 more at once. Down again: nothing.
            run.paid(
                "b",
                "subscription_update",
                10,
                &[part("price_basic", -1333, 10), part("price_pro", 3333, 10)],
            ),
            run.paid(
                "c",
                "subscription_update",
                20,
                &[part("price_pro", -1666, 20), part("price_basic", 666, 20)],
            ),
        ] {
            daemon.deliver(&event).await;
            daemon.projected().await;
        }
        assert_eq!(battery(&database, "x").0, balance, "{setting}");
        assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
    }
}

/// Parts of a period that is over when they are paid move nothing; those of a period that nobody tells of are
/// reckoned after a day.
#[tokio::test]
async fn parts_of_periods() {
    let database = Database::new();
    furnish(&database, &["x".to_owned(), "y".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    let (x, y) = (Run { tag: "x".to_owned() }, Run { tag: "y".to_owned() });
    let over = |line: Line| Line { days: (-10, 0), ..line };
    daemon.deliver_all(&[x.customer(), y.customer()]).await;
    daemon
        .deliver(&x.paid(
            "a",
            "subscription_cycle",
            0,
            &[over(part("price_basic", -600, 0)), over(part("price_pro", 1600, 0)), month("price_pro", 6000)],
        ))
        .await;
    let fifteen = Line { days: (15, 30), ..part("price_basic", 1000, 0) };
    daemon.deliver(&y.paid("b", "subscription_update", 15, &[fifteen])).await;
    daemon.projected().await;
    assert_eq!(battery(&database, "x"), ("3000".to_owned(), one("subscription", "3000")));
    assert_eq!(reasons(&waiting(&daemon, &key).await), ["unknown_period"]);
    database.execute(
        "UPDATE battery_effects_waiting
        SET since = since - interval '2 days', next_try = next_try - interval '2 days'",
    );
    let started = std::time::Instant::now();
    while battery(&database, "y").1.is_empty() {
        assert!(started.elapsed().as_secs() < 20, "it waits for ever");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // 15 days of the month that ends then.
    let end = chrono::DateTime::from_timestamp(start() + 30 * super::build::DAY, 0).expect("a time");
    let days = (end - end.checked_sub_months(chrono::Months::new(1)).expect("a time")).num_days();
    let units = rust_decimal::Decimal::from(15_000) / rust_decimal::Decimal::from(days);
    assert_eq!(battery(&database, "y").0, units.round_dp(9).normalize().to_string());
    assert!(waiting(&daemon, &key).await.is_empty());
}

/// Of a month whose invoice was voided and never paid, the period is known all the same: 500 × 20/30.
#[tokio::test]
async fn a_voided_invoice_tells_of_the_period() {
    let database = Database::new();
    furnish(&database, &["one".to_owned()]);
    let daemon = Daemon::start(&database);
    let run = Run { tag: "one".to_owned() };
    let object = run.invoice("a", "subscription_cycle", "void", 0, &[month("price_basic", 2000)]);
    for event in [
        run.customer(),
        run.event("a_void", "invoice.voided", 9, object),
        run.paid("b", "subscription_update", 10, &[part("price_addon", 667, 10)]),
    ] {
        daemon.deliver(&event).await;
        daemon.projected().await;
    }
    assert_eq!(battery(&database, "one").0, "333.333333333");
    assert_eq!(database.run(&["battery", "waiting"]), "");
}

#[tokio::test]
async fn a_plan_that_is_paid_for_by_hand_waits() {
    let database = Database::new();
    furnish(&database, &["hand".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:read,billing:write", None);
    let run = Run { tag: "hand".to_owned() };
    let mut paid = run.paid("h", "manual", 0, &[month("price_basic", 2000)]);
    let invoice = &mut paid["data"]["object"];
    invoice["parent"] = Value::Null;
    invoice["lines"]["data"][0]["parent"] = json!({ "type": "invoice_item_details",
        "invoice_item_details": { "invoice_item": "ii_1", "proration": false, "subscription": null } });
    daemon.deliver_all(&[run.customer(), paid, run.invoice_payment("h", 2000)]).await;
    daemon.projected().await;
    let rows = waiting(&daemon, &key).await;
    assert_eq!(reasons(&rows), ["no_subscription"], "{rows:?}");
    assert_eq!(battery(&database, "hand").0, "0");
    let path = format!("/v1/battery/effects/waiting/{}/dismiss", rows[0]["id"]);
    let (status, told) = daemon.post(&path, &key, &json!({ "reason": "granted by hand" })).await;
    assert_eq!(status, 200, "{told}");
    assert!(waiting(&daemon, &key).await.is_empty());
    database.run(&["verify"]);
}
