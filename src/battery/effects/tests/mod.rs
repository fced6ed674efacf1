use proptest::prelude::*;
use serde_json::json;

use super::decide::{line_keys, outcome};
use super::facts::Facts;
use super::model::{Outcome, Reason, org_of, settled};
use super::returns::{CauseKind, Counted, Returned};
use super::*;

mod repeats;
mod settled;
mod single;
mod sold;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn units(text: &str) -> rust_decimal::Decimal {
    text.parse().expect("a decimal")
}

fn facts(value: serde_json::Value) -> Facts {
    serde_json::from_value(value).expect("facts")
}

fn judged(facts: &Facts, kind: Kind) -> Outcome {
    let realm = Realm { account: String::new(), livemode: true };
    let source = SaleSource { realm, kind, id: "x".to_owned() };
    outcome(&source, facts, Proration::Prorate, at("2026-03-11T00:00:00Z")).expect("reckons")
}

/// A paid invoice of March with one line.
fn invoice(line: &serde_json::Value) -> Facts {
    let mut whole = json!({ "id": "il_1", "kind": "subscription", "amount": 2000, "quantity": 1,
        "start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z",
        "price": "price_1", "subscription": "sub_1", "proration": false, "plan": { "id": "pro", "versions": [
            { "version": 1, "created_at": "2026-01-01T00:00:00Z", "units": "100", "annual": "1300",
                "trial": "7" },
            { "version": 2, "created_at": "2026-02-15T00:00:00Z", "units": "200", "annual": null,
                "trial": null }] } });
    let fields = line.as_object().expect("an object").clone();
    for (name, value) in fields {
        if name == "plan" && value.is_object() {
            for (name, value) in value.as_object().expect("an object") {
                whole["plan"][name] = value.clone();
            }
        } else {
            whole[name] = value;
        }
    }
    facts(json!({ "org_id": 1, "lines": [whole],
            "invoice": { "status": "paid", "billing_reason": "subscription_cycle", "currency": "usd",
            "amount_paid": 2000,
        "created": "2026-03-01T00:00:00Z", "paid_at": "2026-03-01T00:00:00Z", "lines_complete": true } }))
}

#[test]
fn a_line_is_worth_what_its_version_says() {
    let mirrored = json!({ "trial_start": null, "trial_end": null });
    let trial = json!({ "trial_start": "2026-03-01T00:00:00Z", "trial_end": "2026-04-01T00:00:00Z" });
    for (line, expected) in [
        // Nothing of the subscription is known, and it may have been bought before version 2.
        (json!({}), None),
        (json!({ "mirrored": mirrored }), Some(("subscription", "200"))),
        (json!({ "plan": { "since": "2026-02-01T00:00:00Z" } }), Some(("subscription", "100"))),
        (json!({ "plan": { "since": "2025-02-01T00:00:00Z" } }), Some(("subscription", "100"))),
        (json!({ "plan": { "since": "2026-03-05T00:00:00Z" } }), Some(("subscription", "200"))),
        (json!({ "plan": { "since": "2026-02-01T00:00:00Z", "moved": 2 } }), Some(("subscription", "200"))),
        (json!({ "plan": { "moved": 1 }, "quantity": 3 }), Some(("subscription", "300"))),
        (json!({ "plan": { "moved": 1 }, "end": "2027-03-01T00:00:00Z" }), Some(("subscription", "1300"))),
        (json!({ "plan": { "moved": 2 }, "end": "2027-03-01T00:00:00Z" }), Some(("subscription", "200"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0, "mirrored": trial }), Some(("trial", "7"))),
        (json!({ "plan": { "moved": 2 }, "amount": 0, "mirrored": trial }), Some(("trial", "200"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0, "mirrored": mirrored }), Some(("subscription", "100"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0 }), None),
        (json!({ "pack": { "id": "p", "units": "50" }, "quantity": 2 }), Some(("pack", "100"))),
    ] {
        let outcome = judged(&invoice(&line), Kind::Invoice);
        let got = outcome.grants.first().map(|grant| (grant.what, grant.units));
        assert_eq!(got, expected.map(|(what, text)| (what, units(text))), "{line}");
        assert_eq!(outcome.waits.len(), usize::from(expected.is_none()), "{line}");
    }
}

#[test]
fn what_is_missing_is_waited_for() {
    for (line, reason) in [
        (json!({ "plan": null }), Reason::UnknownPrice),
        (json!({}), Reason::UnknownSubscription),
        (
            json!({ "plan": { "moved": 1 }, "proration": true, "start": "2026-03-11T00:00:00Z" }),
            Reason::UnknownPeriod,
        ),
        (
            json!({ "plan": { "moved": 1 }, "proration": true, "amount": -9, "start": "2026-03-11T00:00:00Z",
                "full": { "start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z" } }),
            Reason::NoGrant,
        ),
    ] {
        let mut facts = invoice(&line);
        let outcome = judged(&facts, Kind::Invoice);
        assert_eq!(outcome.waits.iter().map(|wait| wait.reason).collect::<Vec<_>>(), [reason], "{line}");
        assert!(outcome.grants.is_empty() && outcome.takes.is_empty());
        // After a day it is done without, where that is possible.
        facts.waiting = serde_json::from_value(
            json!([{ "line": "il_1", "since": "2026-03-10T00:00:00Z", "dismissed": false }]),
        )
        .expect("rows");
        assert_eq!(judged(&facts, Kind::Invoice).waits.is_empty(), reason.passes(), "{line}");
        facts.waiting[0].dismissed = true;
        assert!(judged(&facts, Kind::Invoice).waits.is_empty(), "{line}");
    }
    let mut nobody = invoice(&json!({ "plan": { "moved": 1 } }));
    nobody.org_id = None;
    let outcome = judged(&nobody, Kind::Invoice);
    assert_eq!((outcome.grants.len(), outcome.waits[0].reason), (0, Reason::NoOrg));
    nobody.waiting = serde_json::from_value(
        json!([{ "line": "il_1", "since": "2026-03-10T00:00:00Z", "dismissed": false, "org": 5 }]),
    )
    .expect("rows");
    assert_eq!((org_of(&nobody), judged(&nobody, Kind::Invoice).grants.len()), (Some(5), 1));
}

#[test]
fn a_part_of_a_period_is_reckoned_by_time() {
    let full = json!({ "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" });
    let part = |amount: i64| {
        json!({ "plan": { "moved": 1 }, "proration": true, "amount": amount, "start": "2026-03-11T00:00:00Z",
            "end": "2026-03-31T00:00:00Z", "full": full,
        "holders": [{ "number": 4, "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" }] })
    };
    let outcome = judged(&invoice(&part(5)), Kind::Invoice);
    assert_eq!((outcome.grants[0].units, outcome.takes.len()), (units("66.666666667"), 0));
    let outcome = judged(&invoice(&part(-5)), Kind::Invoice);
    assert_eq!(
        (outcome.takes[0].units, outcome.takes[0].holder, outcome.grants.len()),
        (units("66.666666667"), Some(4), 0)
    );
    // Paid when the period is over.
    let mut late = invoice(&part(5));
    late.invoice.as_mut().expect("one").paid_at = Some(at("2026-03-31T00:00:00Z"));
    let outcome = judged(&late, Kind::Invoice);
    assert!(outcome.grants.is_empty() && outcome.waits.is_empty());
}

#[test]
fn a_session_names_its_pack() {
    let pack = json!({ "id": "p", "units": "50", "days": 9 });
    let session = |metadata: serde_json::Value, found: &str| {
        let mut named = json!({ "metadata": metadata });
        named[found] = pack.clone();
        facts(json!({ "org_id": 1,
                "session": { "mode": "payment", "payment_status": "paid", "amount_total": 700,
                "currency": "usd", "named": named } }))
    };
    for (metadata, found, expected) in [
        (json!({ "battery_pack": "p" }), "pack", Some("50")),
        (json!({ "battery_pack": "p" }), "linked", None),
        (json!({ "battery_units": "7.5", "quantity": "2" }), "linked", Some("15")),
        (json!({ "battery_units": 3 }), "linked", Some("3")),
        (json!({ "battery_units": "1e3" }), "linked", None),
        (json!({ "battery_units": "0.0000000001" }), "linked", None),
        (json!({ "quantity": "0" }), "linked", None),
        (json!({ "price": "price_1", "quantity": 3 }), "priced", Some("150")),
        (json!({}), "linked", Some("50")),
        (json!({}), "nothing", None),
    ] {
        let facts = session(metadata.clone(), found);
        let outcome = judged(&facts, Kind::PaymentIntent);
        let got = outcome.grants.first().map(|grant| grant.units);
        assert_eq!(
            (got, outcome.waits.len()),
            (expected.map(units), usize::from(expected.is_none())),
            "{metadata} {found}"
        );
        assert_eq!(settled(&facts), (700, Some("usd".to_owned())));
    }
    let mut elsewhere = session(json!({ "battery_pack": "p" }), "pack");
    elsewhere.owned_elsewhere = true;
    assert!(judged(&elsewhere, Kind::PaymentIntent).grants.is_empty());
}

#[test]
fn returned_money_counts_once() {
    for (object, minor) in [
        (json!({ "cause": "refund", "amount": 5, "status": "succeeded" }), 5),
        (json!({ "cause": "refund", "amount": 5, "status": "pending" }), 5),
        (json!({ "cause": "refund", "amount": 5 }), 5),
        (json!({ "cause": "refund", "amount": 5, "status": "failed" }), 0),
        (json!({ "cause": "refund", "amount": 5, "status": "canceled" }), 0),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "warning_needs_response",
                "funds_withdrawn": 5 }),
            0,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "needs_response" }), 0),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "needs_response", "currency": "usd",
                "funds_currency": "usd", "funds_withdrawn": 4 }),
            4,
        ),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "under_review", "currency": "usd",
                "funds_currency": "eur", "funds_withdrawn": 9 }),
            5,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "needs_response", "funds_withdrawn": 0 }), 0),
        // As much as was disputed, as 3 of another currency cannot be compared with 5.
        (
            json!({ "cause": "dispute", "amount": 5, "status": "under_review", "currency": "usd",
                "funds_currency": "eur", "funds_withdrawn": 3 }),
            5,
        ),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "prevented", "currency": "usd",
                "funds_currency": "usd", "funds_withdrawn": 5 }),
            0,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "won", "funds_withdrawn": 5 }), 0),
        (json!({ "cause": "dispute", "amount": 5, "status": "lost", "funds_withdrawn": 0 }), 5),
        (json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "post_payment" }), 5),
        (
            json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "post_payment",
                "refunds": 1, "out_of_band": 2 }),
            2,
        ),
        (json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "pre_payment" }), 0),
        (json!({ "cause": "credit_note", "amount": 5, "status": "void", "type": "post_payment" }), 0),
    ] {
        let returned: Returned = serde_json::from_value(object.clone()).expect("an object");
        assert_eq!(returned.cause().minor, minor, "{object}");
    }
}

#[test]
fn lines_without_an_id_of_their_own_are_told_apart() {
    let line = |id: Option<&str>| facts::Line { id: id.map(str::to_owned), ..facts::Line::default() };
    let lines = [line(Some("a")), line(Some("a")), line(None), line(None), line(Some("b"))];
    assert_eq!(line_keys(&lines), ["a", "a#2", "line#1", "line#2", "b"]);
}

proptest! {
    /// Whatever the order, the pieces taken sum to the same, and never to more than the grant.
    #[test]
    fn clawbacks_do_not_depend_on_order(
        paid in 0_i64..5000,
        amount in 1_i64..1_000_000,
        mut steps in prop::collection::vec((0_usize..4, 0_i64..3000, 0_i64..500_000), 1..12),
        rotate in 0_usize..12,
    ) {
        let kinds = [CauseKind::Refund, CauseKind::Dispute, CauseKind::CreditNote, CauseKind::Proration];
        let run = |steps: &[(usize, i64, i64)]| {
            let mut counted = Counted { amount: amount.into(), paid, ..Counted::default() };
            let mut sum = rust_decimal::Decimal::ZERO;
            for (n, (kind, minor, units)) in steps.iter().enumerate() {
                let kind = kinds[*kind];
                let (minor,
                    units) = if kind == CauseKind::Proration { (0, (*units).into()) } else { (*minor,
                    rust_decimal::Decimal::ZERO) };
                // The same object again and again: only its last state counts.
                sum += counted.count(kind, &format!("id_{}", n % 2), minor,
                    units).expect("small").unwrap_or_default();
                assert!(counted.taken().expect("small") <= amount.into());
            }
            assert_eq!(sum, counted.taken().expect("small"));
            counted
        };
        let first = run(&steps);
        // The last states alone, in another order.
        let rest = steps.len();
        steps.rotate_left(rotate % rest);
        let mut other = run(&steps);
        for ((kind, id), (minor, units)) in first.causes.iter().rev() {
            other.count(*kind, id, *minor, *units).expect("small");
        }
        let is_gone = |key: &&_| !first.causes.contains_key(*key);
        let gone: Vec<_> = other.causes.keys().filter(is_gone).cloned().collect();
        for (kind, id) in gone {
            other.count(kind, &id, 0, rust_decimal::Decimal::ZERO).expect("small");
        }
        prop_assert_eq!(first.taken().expect("small"), other.taken().expect("small"));
    }
}
