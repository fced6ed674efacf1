//! Which realms act, what is ignored, how many were bought, and what the books of payments say.

use reqwest::Method;
use serde_json::{Value, json};

use super::build::{DAY, Run, month};
use super::{battery, differences, furnish, unsound};
use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

const TEST_ONLY: &[(&str, &str)] = &[("COULOMB_STRIPE_ACCOUNTS", "")];

fn of_account(mut event: Value, account: &str) -> Value {
    event["account"] = account.into();
    event
}

/// Purchases of test mode where live mode acts, and of a connected account that nobody named, do nothing and
/// are not among what is listed, summed and exported; named, they act, also for what came before.
#[tokio::test]
async fn what_is_not_named_is_mirrored_and_does_nothing() {
    let database = Database::new();
    furnish(&database, &["ours".to_owned(), "theirs".to_owned()]);
    let live = [("COULOMB_STRIPE_MODE", "live"), ("COULOMB_STRIPE_ACCOUNTS", "")];
    let mut daemon = Daemon::with(&database, &live);
    let key = database.key("admin,billing:read,billing:write", None);
    let (ours, theirs) = (Run { tag: "ours".to_owned() }, Run { tag: "theirs".to_owned() });
    let mine = [
        ours.customer(),
        ours.subscription("active", "price_basic"),
        ours.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
        ours.invoice_payment("a", 2000),
    ];
    let credit = json!({ "battery_units": "1000000", "org_id": "theirs" });
    let foreign = [
        of_account(theirs.customer(), "acct_far"),
        of_account(theirs.subscription("active", "price_basic"), "acct_far"),
        of_account(theirs.intent("x", 50, &credit), "acct_far"),
    ];
    for event in mine.iter().chain(&foreign) {
        daemon.deliver(event).await;
    }
    daemon.projected().await;
    for name in ["ours", "theirs"] {
        assert_eq!(battery(&database, name), (String::new(), Vec::new()), "{name}");
        let (_, entitled) = daemon.get(&format!("/v1/orgs/{name}/entitlements"), &key).await;
        assert_eq!(entitled["plan"], Value::Null, "{name}");
    }
    assert_eq!(database.run(&["battery", "waiting"]), "", "nothing waits for what does not act");
    // Left out, unless it is asked for.
    for (path, rows) in [
        ("/v1/invoices", 0),
        ("/v1/invoices?livemode=false", 1),
        ("/v1/invoices?realms=all", 1),
        ("/v1/customers?realms=all", 2),
        ("/v1/customers?livemode=false", 1),
        ("/v1/customers?livemode=false&account=acct_far", 1),
        ("/v1/customers?account=acct_far", 0),
        ("/v1/payments", 0),
    ] {
        let (status, page) = daemon.get(path, &key).await;
        assert_eq!(
            (status.as_u16(), page["data"].as_array().map(Vec::len)),
            (200, Some(rows)),
            "{path}: {page}"
        );
    }
    for (query, rows) in
        [("", 0), ("&realms=all", 2), ("&livemode=false", 1), ("&livemode=false&account=acct_far", 1)]
    {
        let (_, totals) = daemon.get(&format!("/v1/invoices/export/totals?of=payments{query}"), &key).await;
        assert_eq!(totals["rows"], rows, "{query}: {totals}");
    }
    let (status, problem) = daemon.get("/v1/invoices?realms=some", &key).await;
    assert_eq!(status, 400, "{problem}");
    let doctor = database
        .command(&["doctor"])
        .env("COULOMB_STRIPE_MODE", "live")
        .env("COULOMB_STRIPE_ACCOUNTS", "")
        .output();
    let told = String::from_utf8(doctor.expect("runs").stdout).expect("UTF-8");
    let line = told.lines().find(|line| line.contains("realms:")).expect("a line").to_owned();
    assert!(
        line.starts_with("note")
            && line.contains("acct_far in test mode")
            && line.contains("our own account in test mode"),
        "{line}"
    );
    // Test mode acts from now on, and what came before counts.
    assert_eq!(daemon.stop(), Some(0));
    let mut daemon = Daemon::with(&database, TEST_ONLY);
    daemon.projected().await;
    assert_eq!(battery(&database, "ours").0, "1000");
    assert_eq!(battery(&database, "theirs").0, "");
    let (_, entitled) = daemon.get("/v1/orgs/ours/entitlements", &key).await;
    assert_eq!(entitled["plan"]["id"].as_str().or(entitled["plan"].as_str()), Some("basic"), "{entitled}");
    // And the connected account, once it is named.
    assert_eq!(daemon.stop(), Some(0));
    let mut daemon = Daemon::with(&database, &[("COULOMB_STRIPE_ACCOUNTS", "acct_far")]);
    daemon.projected().await;
    assert_eq!(
        (battery(&database, "ours").0.as_str(), battery(&database, "theirs").0.as_str()),
        ("1000", "1000000")
    );
    // What was granted stays where it does not act any more, and money that comes back of it still counts.
    assert_eq!(daemon.stop(), Some(0));
    let daemon = Daemon::with(&database, TEST_ONLY);
    daemon.deliver(&of_account(theirs.refund("1", "x", 25, "succeeded", 0), "acct_far")).await;
    daemon.projected().await;
    assert_eq!(battery(&database, "theirs").0, "500000");
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
    assert!(
        database
            .command(&["verify"])
            .env("COULOMB_STRIPE_ACCOUNTS", "")
            .output()
            .expect("runs")
            .status
            .success()
    );
}

/// Another product of the same account is told once, and nothing of it waits; heeded again, it does.
#[tokio::test]
async fn what_another_product_sells_is_ignored_by_rule() {
    let database = Database::new();
    furnish(&database, &["i".to_owned(), "j".to_owned()]);
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:read,billing:write", None);
    let (i, j) = (Run { tag: "i".to_owned() }, Run { tag: "j".to_owned() });
    let linked = |run: &Run| {
        let mut session = run.session("paid", None, &json!({}), 0);
        session["data"]["object"]["payment_link"] = "plink_shirts".into();
        session
    };
    daemon.deliver_all(&[i.customer(), j.customer()]).await;
    daemon
        .deliver(&i.paid(
            "a",
            "subscription_create",
            0,
            &[month("price_shirts", 900), month("price_basic", 2000)],
        ))
        .await;
    daemon.deliver(&linked(&i)).await;
    daemon.projected().await;
    let waiting = async || {
        let (_, page) = daemon.get("/v1/battery/effects/waiting", &key).await;
        let rows = page["data"].as_array().expect("rows").iter();
        let mut reasons: Vec<_> = rows.map(|row| row["reason"].as_str().expect("one").to_owned()).collect();
        // Deliveries are worked on in any order.
        reasons.sort();
        reasons
    };
    assert_eq!(waiting().await, ["unknown_pack", "unknown_price"]);
    let rule = |method: Method, what: &str| {
        let request = daemon.request(method.clone(), &format!("/v1/battery/effects/ignored/{what}"), &key);
        async move {
            answer(if method == Method::PUT {
                request.json(&json!({ "reason": "the shop" }))
            } else {
                request
            })
            .await
        }
    };
    let (status, problem) = rule(Method::PUT, "colour/x").await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("kind")), "{problem}");
    for what in ["product/prod_price_shirts", "payment_link/plink_shirts", "product/prod_price_basic"] {
        let (status, ruled) = rule(Method::PUT, what).await;
        assert_eq!((status.as_u16(), ruled["reason"].as_str()), (200, Some("the shop")), "{ruled}");
    }
    // What waits already, and what is still to come. What buys something here is never ignored.
    daemon
        .deliver(&j.paid(
            "a",
            "subscription_create",
            0,
            &[month("price_shirts", 900), month("price_basic", 2000)],
        ))
        .await;
    daemon.deliver(&linked(&j)).await;
    daemon.projected().await;
    assert_eq!(waiting().await, Vec::<String>::new());
    assert_eq!((battery(&database, "i").0.as_str(), battery(&database, "j").0.as_str()), ("1000", "1000"));
    let (_, page) = daemon.get("/v1/battery/effects/ignored?limit=2", &key).await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(2), "{page}");
    let audited = database.number("SELECT count(*) FROM audit_log WHERE action = 'battery_effect.ignore'");
    assert_eq!(audited, 3);
    assert_eq!(rule(Method::DELETE, "product/prod_price_shirts").await.0, 200);
    assert_eq!(rule(Method::DELETE, "product/prod_price_shirts").await.0, 404);
    daemon.projected().await;
    assert_eq!(waiting().await, ["unknown_price", "unknown_price"]);
    let other = database.key("billing:read", Some("org_i"));
    let (status, _) = daemon.get("/v1/battery/effects/ignored", &other).await;
    assert_eq!(status, 403);
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

/// Five by payment link: told by the price once that is known; else it waits, and an operator says how many.
#[tokio::test]
async fn as_many_packs_are_granted_as_were_bought() {
    let database = Database::new();
    furnish(&database, &["u".to_owned(), "v".to_owned(), "w".to_owned()]);
    database.execute(
        "INSERT INTO battery_pack_payment_links (payment_link_id, pack_id)
        VALUES ('plink_5', 'pack-500')",
    );
    let daemon = Daemon::start(&database);
    let key = database.key("admin,billing:read,billing:write", None);
    let sold = |tag: &str, subtotal: i64| {
        let run = Run { tag: tag.to_owned() };
        let mut session = run.session("paid", None, &json!({}), 0);
        let object = &mut session["data"]["object"];
        (object["payment_link"], object["amount_subtotal"], object["amount_total"]) =
            ("plink_5".into(), subtotal.into(), subtotal.into());
        [run.customer(), session]
    };
    daemon.deliver_all(&sold("u", 5000)).await;
    daemon.projected().await;
    let waiting = async || daemon.get("/v1/battery/effects/waiting", &key).await.1["data"].clone();
    let rows = waiting().await;
    assert_eq!((rows[0]["reason"].as_str(), rows[1].is_null()), (Some("unknown_quantity"), true), "{rows}");
    let price = json!({ "id": "price_pack", "object": "price", "active": true, "currency": "usd",
        "product": "prod_pack", "type": "one_time", "unit_amount": 1000,
        "unit_amount_decimal": "1000", "billing_scheme": "per_unit", "livemode": false, "metadata": {},
            "created": 1, "recurring": null });
    daemon.deliver(&crate::support::events::event("evt_price", "price.created", 1, price)).await;
    daemon.deliver_all(&sold("v", 3000)).await;
    daemon.deliver_all(&sold("w", 2500)).await;
    daemon.projected().await;
    let rows = waiting().await;
    assert_eq!((rows[0]["customer_id"].as_str(), rows[1].is_null()), (Some("cus_w"), true), "{rows}");
    let path = format!("/v1/battery/effects/waiting/{}/assign", rows[0]["id"]);
    for quantity in [0, -2, 5_000_000] {
        let (status, problem) = daemon.post(&path, &key, &json!({ "quantity": quantity })).await;
        assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("quantity")), "{problem}");
    }
    assert_eq!(daemon.post(&path, &key, &json!({ "quantity": 2 })).await.0, 202);
    daemon.projected().await;
    for (name, balance) in [("u", "2500"), ("v", "1500"), ("w", "1000")] {
        assert_eq!(battery(&database, name).0, balance, "{name}");
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

/// What a payment says of what was given back and disputed, with and without events of its charge.
#[tokio::test]
async fn payments_know_what_came_back_by_refunds_and_disputes() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let charge_alone = |run: &Run| {
        let mut refund = run.refund("1", "x", 300, "succeeded", 0);
        refund["data"]["object"]["payment_intent"] = Value::Null;
        refund
    };
    type Events = fn(&Run) -> Vec<Value>;
    let cases: [(&str, Events, (i64, bool)); 9] = [
        ("a refund alone", |run| vec![run.refund("1", "x", 500, "succeeded", 0)], (500, false)),
        ("one that is under way", |run| vec![run.refund("1", "x", 500, "pending", 0)], (500, false)),
        (
            "one that failed",
            |run| vec![run.refund("1", "x", 500, "pending", 0), run.refund("1", "x", 500, "failed", 3)],
            (0, false),
        ),
        (
            "the charge tells of one that has failed since",
            |run| {
                vec![
                    run.charge("x", 2000),
                    run.refunded("x", 2000, 500),
                    run.refund("1", "x", 500, "failed", 3),
                ]
            },
            (0, false),
        ),
        (
            "the charge tells of two, one of which is known",
            |run| {
                vec![
                    run.charge("x", 2000),
                    run.refunded("x", 2000, 700),
                    run.refund("1", "x", 500, "succeeded", 0),
                ]
            },
            (700, false),
        ),
        ("the charge alone", |run| vec![run.charge("x", 2000), run.refunded("x", 2000, 700)], (700, false)),
        ("a dispute alone", |run| vec![run.dispute("x", "needs_response", &[-2000], 1)], (0, true)),
        ("one that is won", |run| vec![run.dispute("x", "won", &[-2000, 2000], 1)], (0, true)),
        ("an inquiry", |run| vec![run.dispute("x", "warning_needs_response", &[], 1)], (0, false)),
    ];
    for (n, (_, events, _)) in cases.iter().enumerate() {
        let run = Run { tag: format!("y{n}") };
        let mut events = events(&run);
        events.push(run.intent("x", 2000, &json!({})));
        // Of half of them the payment comes first.
        if n % 2 == 0 {
            events.reverse();
        }
        for event in events {
            daemon.deliver(&event).await;
        }
    }
    // A refund that names its charge alone, before and after the charge.
    let (before, after) = (Run { tag: "before".to_owned() }, Run { tag: "after".to_owned() });
    daemon.deliver_all(&[charge_alone(&before)]).await;
    daemon.projected().await;
    daemon.deliver_all(&[before.intent("x", 2000, &json!({})), before.charge("x", 2000)]).await;
    daemon.deliver_all(&[after.intent("x", 2000, &json!({})), after.charge("x", 2000)]).await;
    daemon.projected().await;
    daemon.deliver_all(&[charge_alone(&after)]).await;
    daemon.projected().await;
    let all = cases.iter().enumerate().map(|(n, (name, _, expected))| (format!("y{n}"), *name, *expected));
    let alone = ["before", "after"].map(|tag| (tag.to_owned(), "a refund of a charge", (300, false)));
    let mut sum = 0;
    for (tag, name, expected) in all.chain(alone) {
        let (status, payment) = daemon.get(&format!("/v1/payments/pi_x_{tag}"), &key).await;
        let got = (payment["amount_refunded"].as_i64(), payment["disputed"].as_bool());
        assert_eq!((status.as_u16(), got), (200, (Some(expected.0), Some(expected.1))), "{name}");
        sum += expected.0;
    }
    let (_, totals) = daemon.get("/v1/invoices/export/totals?of=payments", &key).await;
    assert_eq!(totals["currencies"]["usd"]["amount_refunded"], sum, "{totals}");
    let (_, totals) = daemon.get("/v1/invoices/export/totals?of=refunds", &key).await;
    assert_eq!(totals["currencies"]["usd"]["amount"], 500 + 500 + 500 + 300 + 300, "{totals}");
    // A payment that was made outside Stripe, and the invoice that it pays.
    let run = Run { tag: "cash".to_owned() };
    let mut record = run.invoice_payment("a", 2000);
    record["data"]["object"]["payment"] = json!({ "type": "payment_record", "payment_record": "pr_cash" });
    let mut preview = run.paid("b", "upcoming", 0, &[month("price_basic", 2000)]);
    (preview["type"], preview["data"]["object"]["id"]) =
        ("invoice.upcoming".into(), "upcoming_in_cash".into());
    daemon.deliver_all(&[run.paid("a", "manual", 0, &[]), record, preview]).await;
    daemon.projected().await;
    let (_, payment) = daemon.get("/v1/payments/pr_cash", &key).await;
    assert_eq!(
        (payment["outside_stripe"].as_bool(), payment["amount_received"].as_i64()),
        (Some(true), Some(2000)),
        "{payment}"
    );
    let (_, invoice) = daemon.get("/v1/invoices/in_a_cash", &key).await;
    assert_eq!(invoice["paid_out_of_band"], true, "{invoice}");
    let (_, page) = daemon
        .get(
            &format!(
                "/v1/invoices?created_from={}",
                chrono::DateTime::from_timestamp(super::build::start() - DAY, 0)
                    .expect("a time")
                    .format("%Y-%m-%dT%H:%M:%SZ")
            ),
            &key,
        )
        .await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "a preview is no invoice: {page}");
    assert!(database.run(&["verify"]).is_empty());
}
