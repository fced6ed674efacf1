//! What facts beside the lines decide: the realm, the invoice's reason, earlier claims, the text of a line
//! over zero, the setting for plan changes.

use serde_json::{Value, json};

use super::sold::{MARCH, effects_of, line, of};
use super::*;

const FEBRUARY: (&str, &str) = ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z");
const REST: (&str, &str) = ("2026-03-11T00:00:00Z", "2026-03-31T00:00:00Z");

fn none() -> Vec<String> {
    Vec::new()
}

fn plain() -> Value {
    line("a", "flat", 2000, 1, MARCH, json!({}))
}

/// A part of a month of 30 days, for which grant 1 exists.
fn part(id: &str, amount: i64, quantity: i64, more: Value) -> Value {
    let month = json!({ "start": MARCH.0, "end": REST.1 });
    let holders = json!([{ "number": 1, "start": MARCH.0, "end": REST.1 }]);
    let mut all = json!({ "proration": true, "full_period": month, "overlapping_grants": holders });
    super::sold::merge(&mut all, more);
    line(id, "flat", amount, quantity, REST, all)
}

#[test]
fn what_asked_for_it_decides_whether_a_period_is_sold() {
    for (reason, sells) in [
        (json!(null), true),
        (json!("subscription"), true),
        (json!("subscription_create"), true),
        (json!("subscription_cycle"), true),
        (json!("subscription_update"), true),
        (json!("subscription_threshold"), false),
        (json!("manual"), false),
        (json!("quote_accept"), false),
    ] {
        let mut facts = of(&[plain()]);
        facts.invoice.as_mut().expect("one").billing_reason = reason.as_str().map(str::to_owned);
        assert_eq!(effects_of(&facts), if sells { vec!["a 100".to_owned()] } else { none() }, "{reason}");
    }
    // Money of before the account was first read grants nothing; if so told, what still ran then.
    for (paid, since, grant_running, sells) in [
        ("2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", false, true),
        ("2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z", false, false),
        ("2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z", true, true),
        // Its period ends when the account is first read.
        ("2026-03-01T00:00:00Z", MARCH.1, true, false),
    ] {
        let mut facts = of(&[plain()]);
        facts.invoice.as_mut().expect("one").paid_at = Some(paid.parse().expect("a time"));
        facts.old_money =
            serde_json::from_value(json!({ "since": since, "grant_running": grant_running })).ok();
        let expected = if sells { vec!["a 100".to_owned()] } else { none() };
        assert_eq!(effects_of(&facts), expected, "{paid} {since} {grant_running}");
    }
    // In a realm that does not act, nothing is sold and nothing waits.
    let mut facts = of(&[plain(), line("b", "shoes", 900, 1, MARCH, json!({ "plan": null }))]);
    facts.is_inactive_realm = true;
    assert_eq!(effects_of(&facts), none());
}

/// On an invoice made by hand, a plan's price has no period.
#[test]
fn a_plan_that_is_paid_for_without_a_subscription_waits() {
    let by_hand = |more: Value| {
        let mut all = json!({ "kind": "invoiceitem", "subscription": null, "item": null, "mirrored": null });
        super::sold::merge(&mut all, more);
        all
    };
    let by_product = json!({ "plan": { "by_price": false } });
    for (name, amount, more, waits) in [
        ("by the price", 2000, json!({}), true),
        ("by the product", 2000, by_product, true),
        ("nothing was asked for", 0, json!({}), false),
        ("money back", -2000, json!({}), false),
        ("metered: it is usage", 2000, json!({ "usage_type": "metered" }), false),
        ("another thing", 2000, json!({ "plan": null }), false),
        ("a plan that grants nothing", 2000, json!({ "plan": { "versions": [] } }), false),
    ] {
        let mut facts = of(&[line("a", "flat", amount, 1, MARCH, by_hand(more))]);
        facts.invoice.as_mut().expect("one").billing_reason = Some("manual".to_owned());
        let expected = if waits { vec!["a no_subscription".to_owned()] } else { none() };
        assert_eq!(effects_of(&facts), expected, "{name}");
    }
}

#[test]
fn periods_subscriptions_and_claims_tell_sales_apart() {
    let by_product = json!({ "price_usage": "metered", "plan": { "by_price": false } });
    let other = json!({ "subscription": "sub_2" });
    let licensed = json!({ "usage_type": "licensed" });
    for (name, lines, claimed, expected) in [
        (
            "two periods of one item, as after a pause",
            vec![
                line("f", "flat", 2000, 1, FEBRUARY, licensed.clone()),
                line("a", "flat", 2000, 1, MARCH, licensed),
            ],
            None,
            vec!["f 100", "a 100"],
        ),
        (
            "the same item's name in two subscriptions",
            vec![plain(), line("b", "flat", 2000, 1, MARCH, other)],
            None,
            vec!["a 100", "b 100"],
        ),
        (
            "a metered price of the plan's product alone",
            vec![line("o", "over", 900, 9, FEBRUARY, by_product.clone())],
            None,
            vec![],
        ),
        ("a change of a metered price of the product", vec![part("o", 900, 9, by_product)], None, vec![]),
        (
            "tiers that were claimed at the second line, as an older event had that one first",
            vec![plain(), line("b", "flat", 500, 2, MARCH, json!({}))],
            Some("b"),
            vec![],
        ),
    ] {
        let mut facts = of(&lines);
        facts.effects = claimed
            .map(|line| json!({ "line": line, "org_id": 1, "grant": 1, "units": "100", "what": "x" }))
            .map(|claim| serde_json::from_value(claim).expect("a claim"))
            .into_iter()
            .collect();
        assert_eq!(effects_of(&facts), expected, "{name}");
    }
}

#[test]
fn of_a_part_over_nothing_the_words_tell() {
    for (words, expected) in [
        (json!("Unused time on Pro after 11 Mar 2026"), vec!["a -66.666666667 @1"]),
        (json!("Remaining time on Pro after 11 Mar 2026"), vec!["a 66.666666667"]),
        (json!("Pro"), vec![]),
        (json!(null), vec![]),
    ] {
        let facts = of(&[part("a", 0, 1, json!({ "description": words }))]);
        assert_eq!(effects_of(&facts), expected, "{words}");
    }
}

/// A period of less than a day: an hour and a half of twelve hours is an eighth.
#[test]
fn a_part_of_a_short_period_is_told_to_the_second() {
    let half_day = json!({ "start": "2026-03-01T00:00:00Z", "end": "2026-03-01T12:00:00Z" });
    let rest = ("2026-03-01T10:30:00Z", "2026-03-01T12:00:00Z");
    let part = json!({ "proration": true, "full_period": half_day });
    assert_eq!(effects_of(&of(&[line("a", "flat", 5, 1, rest, part)])), ["a 12.5"]);
}

#[test]
fn a_change_grants_what_the_setting_says() {
    let versions = json!([{ "version": 1, "created_at": MARCH.0, "units": "250" }]);
    let higher = json!({ "plan": { "id": "higher", "versions": versions } });
    let pack = json!({ "plan": null, "pack": { "id": "p", "units": "500" } });
    for (name, lines, difference) in [
        ("1 to 3 seats", vec![part("u", -1333, 1, json!({})), part("n", 4000, 3, json!({}))], vec!["n 200"]),
        ("3 to 1", vec![part("u", -4000, 3, json!({})), part("n", 1333, 1, json!({}))], vec!["n 0"]),
        ("to a higher plan", vec![part("u", -1333, 1, json!({})), part("n", 4000, 1, higher)], vec!["n 150"]),
        (
            "1 to 3 packs: the plan beside them does not count",
            vec![
                part("u", -667, 1, pack.clone()),
                part("n", 2000, 3, pack),
                part("v", -100, 9, json!({ "item": "other" })),
            ],
            vec!["n 1000"],
        ),
    ] {
        let facts = of(&lines);
        let realm = Realm { account: String::new(), livemode: true };
        let source = SaleSource { realm, kind: SourceKind::Invoice, id: "x".to_owned() };
        let granted = |setting| {
            let decision = decide_source(&source, &facts, setting, at("2026-03-11T00:00:00Z")).expect("fits");
            assert!(decision.clawbacks.is_empty() && decision.waits.is_empty(), "{name}");
            let grants = decision.grants.iter();
            grants.map(|grant| format!("{} {}", grant.line, grant.units.normalize())).collect::<Vec<_>>()
        };
        assert_eq!(granted(Proration::Difference), difference, "{name}");
        assert_eq!(granted(Proration::None), none(), "{name}");
    }
}

#[test]
fn one_purchase_grants_once_however_it_is_told() {
    let pack = json!({ "id": "p", "units": "50" });
    let session = json!({ "mode": "payment", "payment_status": "paid", "amount_total": 700, "currency": "usd",
        "named": { "metadata": { "battery_pack": "p" }, "by_id": pack } });
    let once = json!({ "kind": "invoiceitem", "subscription": null, "plan": null, "pack": pack });
    let mut facts = of(&[line("a", "pack", 700, 1, MARCH, once)]);
    facts.session = serde_json::from_value(session).expect("a session");
    // Both the invoice's line and the session name the pack.
    assert_eq!(effects_of(&facts), ["a 50"]);
    // The intent or the session granted it before we knew its invoice.
    facts.owned_elsewhere = true;
    assert_eq!(effects_of(&facts), none());
    facts.owned_elsewhere = false;
    facts.effects = serde_json::from_value(
        json!([{ "line": "", "org_id": 1, "grant": 1, "units": "50", "what": "pack" }]),
    )
    .expect("a claim");
    assert_eq!(effects_of(&facts), none());
}

#[test]
fn payments_of_another_product_neither_grant_nor_wait() {
    let named = |fields: Value| {
        let mut named = json!({ "metadata": {} });
        super::sold::merge(&mut named, fields);
        named
    };
    let pack = json!({ "id": "p", "units": "50" });
    for (name, facts, expected) in [
        (
            "a session of a link that is ignored",
            json!({ "session": { "mode": "payment", "payment_status": "paid", "ignored": true,
                "named": named(json!({})) } }),
            (0, 0),
        ),
        (
            "a session of a link that nobody knows",
            json!({ "session": { "mode": "payment", "payment_status": "paid", "named": named(json!({})) } }),
            (0, 1),
        ),
        (
            "an intent without opt-in, also where its price is that of a pack",
            json!({ "intent": { "status": "succeeded", "amount_received": 700,
                "named": named(json!({ "by_price": pack })) } }),
            (0, 0),
        ),
        (
            "an intent that names a pack",
            json!({ "intent": { "status": "succeeded", "amount_received": 700,
                "named": named(json!({ "metadata": { "battery_pack": "p" }, "by_id": pack })) } }),
            (1, 0),
        ),
    ] {
        let mut facts = super::facts(facts);
        facts.org_id = Some(1);
        let decision = decided(&facts, SourceKind::PaymentIntent);
        assert_eq!((decision.grants.len(), decision.waits.len()), expected, "{name}");
    }
}
