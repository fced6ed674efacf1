//! Failures of Stripe, each alone: nothing is charged twice or never.

use serde_json::json;

use super::{OPENING, Shop};
use crate::support::fake_stripe::{Chances, Fault};

const ALL: [Fault; 6] = [
    Fault::Before(500),
    Fault::After(500),
    Fault::After(502),
    Fault::Conflict,
    Fault::CutHeaders,
    Fault::CutBody,
];

#[tokio::test]
async fn a_delta_is_taken_once_whatever_fails() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", None);
    shop.subscribe("acme", &["price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_1" })).await;
    let mut books = 0;
    for (n, fault) in ALL.into_iter().enumerate() {
        let hour = format!("2026-11-10T{:02}:", 2 * n + 2);
        shop.turn(&format!("{hour}30:00Z")).await;
        shop.fake.fail_next("meter_events", fault);
        shop.used("acme", 5, &format!("{hour}10:00Z")).await;
        books += 5;
        // Stripe's own failure is repeated under one key: the next attempt is due in a second.
        let sent = |shop: &Shop| shop.charges().len() == n + 1 && shop.charges()[n].ends_with("sent 5/5");
        for _ in 0..20 {
            shop.settled().await;
            if sent(&shop) {
                break;
            }
        }
        assert!(sent(&shop), "{fault:?}: {:?}", shop.charges());
        let total = shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        assert_eq!(total, books.to_string(), "{fault:?}");
    }
}

#[tokio::test]
async fn an_item_is_made_once_whatever_fails() {
    let shop = Shop::open().await;
    shop.way("tokens", json!({ "way": "invoice_items" })).await;
    let name = |n: usize| format!("org{n}");
    for n in 0..ALL.len() {
        shop.customer(&name(n)).await;
        shop.subscribe(&name(n), &["price_pro"]).await;
    }
    shop.turn("2026-11-20T00:00:00Z").await;
    for n in 0..ALL.len() {
        shop.used(&name(n), 40_000, "2026-11-19T10:00:00Z").await;
    }
    for fault in ALL {
        shop.fake.fail_next("invoiceitems", fault);
    }
    shop.turn("2026-12-01T00:00:05Z").await;
    for n in 0..60 {
        let second = 6 + n * 5;
        shop.turn(&format!("2026-12-01T00:{:02}:{:02}Z", second / 60, second % 60)).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let charges = shop.charges();
        if charges.len() == ALL.len() && charges.iter().all(|charge| charge.contains("sent")) {
            break;
        }
    }
    shop.turn("2026-12-01T01:30:00Z").await;
    for (n, fault) in ALL.into_iter().enumerate() {
        assert_eq!(shop.invoices(&name(n))[1], "paid 3000: 2000 1000", "{n} {fault:?} {:?}", shop.charges());
    }
}

#[tokio::test]
async fn an_outcome_that_is_long_unknown_is_found_out_by_asking() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", None);
    shop.subscribe("acme", &["price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "deltas", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    // Stripe takes it, and the daemon does not hear of it for two days.
    for _ in 0..6 {
        shop.fake.fail_next("meter_events", Fault::After(500));
    }
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.turn("2026-11-10T10:30:01Z").await;
    shop.until("it was tried", |shop| !shop.account().meter_events().is_empty()).await;
    shop.until("it is postponed", |shop| {
        shop.world.number("SELECT count(*) FROM stripe_charges WHERE detail IS NOT NULL") == 1
    })
    .await;
    shop.turn("2026-11-12T10:30:00Z").await;
    shop.until("it is known", |shop| shop.charges() == ["10 10:00 sent 5/5"]).await;
    // The identifier is forgotten by now: sending it again would have charged it twice.
    assert_eq!(shop.account().meter_events().len(), 1);
    assert!(shop.fake.requests().iter().any(|request| request.path.contains("event_summaries")));
}

#[tokio::test]
async fn usage_that_comes_while_stripe_is_away_is_sent_after_it() {
    for (way, window) in [("deltas", None), ("totals", Some("hour"))] {
        let shop = Shop::with_meter(way, window).await;
        shop.turn("2026-11-10T10:30:00Z").await;
        shop.fake.set_faults(1, Chances { before: 1.0, ..Chances::default() });
        shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
        shop.turn("2026-11-10T10:30:01Z").await;
        let tried = "SELECT count(*) FROM stripe_charges WHERE detail IS NOT NULL";
        shop.until("it was tried", |shop| shop.world.number(tried) == 1).await;
        shop.used("acme", 3, "2026-11-10T10:20:00Z").await;
        // Longer than a plan looks back at usage.
        for minute in [32, 34, 43, 44, 45] {
            shop.turn(&format!("2026-11-10T10:{minute}:00Z")).await;
            shop.until("it was planned", |shop| shop.charges()[0].contains(" 8/")).await;
        }
        assert_eq!(shop.charges(), ["10 10:00 planned 8/0"], "{way}");
        shop.fake.set_faults(1, Chances::default());
        for minute in 46..52 {
            shop.turn(&format!("2026-11-10T10:{minute}:00Z")).await;
            shop.settled().await;
        }
        assert_eq!(shop.charges(), ["10 10:00 sent 8/8"], "{way}");
        let total = shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        assert_eq!(total, "8", "{way}");
    }
}

#[tokio::test]
async fn what_was_planned_before_its_invoice_and_not_sent_is_charged_by_the_next_one() {
    for (way, window) in [("deltas", None), ("totals", Some("hour"))] {
        let shop = Shop::with_meter(way, window).await;
        shop.turn("2026-11-30T22:30:00Z").await;
        // The daemon does not come to send what it planned.
        shop.world.execute(
            "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN NEW.next_attempt_at = '2026-12-01T03:30:00Z'; RETURN NEW; END$$;
             CREATE TRIGGER later BEFORE INSERT ON stripe_charges FOR EACH ROW EXECUTE FUNCTION later()",
        );
        shop.used("acme", 2000, "2026-11-30T22:10:00Z").await;
        shop.settled().await;
        assert_eq!(shop.charges(), ["30 22:00 planned 2000/0"], "{way}");
        shop.world.execute("DROP TRIGGER later ON stripe_charges");
        shop.turn("2026-12-01T03:30:00Z").await;
        shop.settled().await;
        shop.settled().await;
        let moved = "30 22:00 confirmed 2000/0 -2000 nothing_to_send";
        assert_eq!(shop.charges(), [moved, "01 03:00 sent 0/2000 +2000"], "{way}");
        assert_eq!(shop.total("mtr_1", "acme", OPENING, "2026-12-01T00:00:00Z"), "0", "{way}");
        // 20 dollars a month for the plan, and 2,000 × 0.001 cents for the usage.
        shop.turn("2027-01-01T02:00:00Z").await;
        assert_eq!(shop.invoices("acme").len(), 3, "{way}: {:?}", shop.invoices("acme"));
        assert!(shop.invoices("acme")[1].contains("2000: "), "{way}: {:?}", shop.invoices("acme"));
        assert!(shop.invoices("acme")[2].contains("2002: "), "{way}: {:?}", shop.invoices("acme"));
    }
}

#[tokio::test]
async fn a_key_without_the_right_charges_nothing_and_loses_nothing() {
    let shop = Shop::open().await;
    shop.customer("acme").await;
    shop.stripe_meter("mtr_1", Some("hour"));
    shop.subscribe("acme", &["price_mtr_1"]).await;
    shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    for _ in 0..2 {
        shop.fake.fail_next("meter_events", Fault::Before(403));
    }
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.turn("2026-11-10T10:30:01Z").await;
    shop.until("the failure is noted", |shop| {
        shop.world.number("SELECT count(*) FROM stripe_charging WHERE failing_since IS NOT NULL") == 1
    })
    .await;
    assert_eq!(shop.charges(), ["10 10:00 planned 5/0"]);
    for minute in 31..40 {
        shop.turn(&format!("2026-11-10T10:{minute}:00Z")).await;
        shop.settled().await;
    }
    assert_eq!(shop.charges(), ["10 10:00 sent 5/5"]);
    assert_eq!(shop.world.number("SELECT count(*) FROM stripe_charging WHERE failing_since IS NOT NULL"), 0);
}

/// A repetition would hold up what waits behind the call, so the bucket waits and the others go on.
#[tokio::test]
async fn a_meter_event_that_fails_is_not_repeated_within_its_call() {
    let shop = Shop::with_meter("totals", Some("hour")).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.fake.fail_next("meter_events", Fault::Before(503));
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.turn("2026-11-10T10:30:01Z").await;
    let postponed = "SELECT count(*) FROM stripe_charges WHERE detail IS NOT NULL";
    shop.until("it is postponed", |shop| shop.world.number(postponed) == 1).await;
    let calls = || {
        shop.fake.requests().iter().filter(|request| request.path.ends_with("/billing/meter_events")).count()
    };
    assert_eq!(calls(), 1);
    shop.turn("2026-11-10T10:35:00Z").await;
    shop.settled().await;
    assert_eq!((shop.charges(), calls()), (vec!["10 10:00 sent 5/5".to_owned()], 2));
}

/// Another account would take the usage, and its reports would never be read.
#[tokio::test]
async fn usage_goes_to_no_other_account() {
    let mut shop = Shop::with_meter("totals", Some("hour")).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.used("acme", 5, "2026-11-10T10:10:00Z").await;
    shop.settled().await;
    shop.restart_after("UPDATE stripe_accounts SET stripe_id = 'acct_other' WHERE account = ''");
    shop.used("acme", 3, "2026-11-10T10:20:00Z").await;
    shop.turn("2026-11-10T10:35:00Z").await;
    let failing = "SELECT count(*) FROM stripe_charging WHERE last_error LIKE '%objects of acct_other%'";
    shop.until("the charger says why", |shop| shop.world.number(failing) == 1).await;
    shop.until("it is planned", |shop| shop.charges() == ["10 10:00 planned 8/5"]).await;
    assert_eq!(shop.total("mtr_1", "acme", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"), "5");
    shop.restart_after("UPDATE stripe_accounts SET stripe_id = NULL WHERE account = ''");
    shop.settled().await;
    assert_eq!(shop.charges(), ["10 10:00 sent 8/8"]);
    assert_eq!(shop.world.number("SELECT count(*) FROM stripe_charging WHERE failing_since IS NOT NULL"), 0);
}

#[tokio::test]
async fn doctor_tells_charges_that_stay_planned() {
    let shop = Shop::with_meter("totals", Some("hour")).await;
    shop.turn("2026-11-10T10:30:00Z").await;
    shop.fake.fail_next("meter_events", Fault::Before(403));
    shop.used("acme", 8, "2026-11-10T10:10:00Z").await;
    shop.until("Stripe refused it", |shop| {
        shop.world.number("SELECT count(*) FROM stripe_charges WHERE state = 'planned' AND detail <> ''") == 1
    })
    .await;
    let database = &shop.world.database;
    let told = |minutes: u32| {
        let planned_at = format!("UPDATE stripe_charges SET planned_at = now() - interval '{minutes} min'");
        database.execute(&planned_at);
        let output = database.command(&["doctor"]).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line[4..].starts_with(" charges: ")).expect("a line").to_owned()
    };
    assert_eq!(told(9), "ok   charges: no charge through Stripe waits or failed");
    let line = told(11);
    assert!(line.starts_with("BAD  charges: 1 charge(s) through Stripe are planned since "), "{line}");
    assert!(line.contains("not sent; of the oldest: Stripe answered 403"), "{line}");
    assert!(line.contains("give the key the right"), "{line}");
}
