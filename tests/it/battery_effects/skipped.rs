//! Payments while nothing is sold: they leave nothing, and count once something is.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::build::{Run, month};
use super::{battery, differences, orgs, unsound};
use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

pub(super) async fn put(daemon: &Daemon, key: &str, path: &str, body: &Value) {
    let (status, shown) = answer(daemon.request(Method::PUT, path, key).json(body)).await;
    assert_eq!(status.as_u16(), 200, "{shown}");
}

pub(super) fn plan(price: &str) -> Value {
    json!({ "name": "Plan", "stripe_prices": [price], "battery_units": "1000" })
}

#[tokio::test]
async fn what_is_paid_while_nothing_is_sold_counts_once_something_is() {
    let database = Database::new();
    let tags = ["plan", "pack", "units", "last"].map(str::to_owned);
    orgs(&database, &tags);
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:read,billing:write", None);
    let run = |tag: &str| Run { tag: tag.to_owned() };
    let paid = |tag: &str| {
        run(tag).paid("a", "subscription_create", 0, &[month("price_new", 2000), month("price_other", 5)])
    };
    let mut by_link = run("pack").session("paid", None, &json!({}), 0);
    by_link["data"]["object"]["payment_link"] = "plink_1".into();
    let units = run("units").session("paid", None, &json!({ "battery_units": "25" }), 0);
    let mut events: Vec<Value> = tags.iter().map(|tag| run(tag).customer()).collect();
    events.extend([paid("plan"), paid("last"), run("plan").invoice_payment("a", 2005), by_link, units]);
    events.push(run("plan").refund("1", "a", 401, "succeeded", 0));
    daemon.deliver_all(&events).await;
    daemon.projected().await;
    // Units that are named need no pack.
    assert_eq!(battery(&database, "units").0, "25");
    assert_eq!(database.number("SELECT count(*) FROM battery_effects_waiting"), 0);
    assert_eq!(database.number("SELECT count(*) FROM battery_grants"), 1);
    // More than a page of invoices, some before and some after those that count.
    database.execute(
        "INSERT INTO invoices SELECT (jsonb_populate_record(i, jsonb_build_object('id', p || n))).*
         FROM invoices i, generate_series(1, 1100) n, unnest(ARRAY['in_a', 'in_zz']) p
         WHERE i.id = 'in_a_plan'",
    );
    put(&daemon, &key, "/v1/plans/new", &plan("price_new")).await;
    daemon.projected().await;
    assert_eq!(
        (battery(&database, "plan").0.as_str(), battery(&database, "last").0.as_str()),
        ("800", "1000")
    );
    assert_eq!(database.number("SELECT count(*) FROM battery_effects_skipped"), 0);
    // The rest waits as ever, and the pack comes later.
    let reasons = database
        .value("SELECT string_agg(reason || ' ' || source_id, ', ' ORDER BY 1) FROM battery_effects_waiting");
    assert_eq!(reasons.as_deref(), Some("unknown_pack pi_x_pack"));
    put(
        &daemon,
        &key,
        "/v1/battery/packs/linked",
        &json!({ "name": "L", "units": "40", "payment_links": ["plink_1"] }),
    )
    .await;
    daemon.projected().await;
    assert_eq!(battery(&database, "pack").0, "40");
    assert_eq!(database.number("SELECT count(*) FROM battery_grants"), 4);
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

/// The plan is made, and taken away, and made again while payments come to two daemons.
#[tokio::test]
async fn nothing_is_passed_over_when_something_comes_to_be_sold_meanwhile() {
    let database = Database::new();
    let tags: Vec<String> = (0..240).map(|n| format!("t{n}")).collect();
    orgs(&database, &tags);
    let daemons = [(); 2].map(|()| Daemon::with(&database, &[("COULOMB_PROJECTORS", "2")]));
    let key = database.key("admin,billing:read,billing:write", None);
    let sold = async {
        for price in ["price_new", "", "price_new", "", "price_new"] {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            let mut plan = plan(price);
            if price.is_empty() {
                plan["stripe_prices"] = json!([]);
            }
            put(&daemons[0], &key, "/v1/plans/new", &plan).await;
        }
    };
    let paid = async {
        for chunk in tags.chunks(8) {
            let deliver = |(n, tag): (usize, &String)| {
                let (daemon, run) = (&daemons[n % 2], Run { tag: tag.clone() });
                async move {
                    daemon.deliver(&run.customer()).await;
                    daemon
                        .deliver(&run.paid("a", "subscription_create", 0, &[month("price_new", 2000)]))
                        .await;
                }
            };
            join_all(chunk.iter().enumerate().map(deliver)).await;
        }
    };
    tokio::join!(sold, paid);
    daemons[0].projected().await;
    for tag in &tags {
        assert_eq!(battery(&database, tag).0, "1000", "{tag}");
    }
    assert_eq!(database.number("SELECT count(*) FROM battery_effects_waiting"), 0);
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}
